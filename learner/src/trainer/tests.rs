//! Whole steps on a small model. Agreement with PyTorch is tested in `tests/it/replay_parity.rs`.

use kernels::Packed;
use proptest::prelude::*;

use super::*;
use crate::config::{
    AdvantageConfig, Combine, DynamicSampling, GradientsConfig, ImportanceKind, LayerInputsPlace,
    LearnerConfig, MismatchConfig, MptPositive, MptScope, StreambpConfig, Surrogates,
};
use crate::report::{SkippedReport, Spread};
use crate::testing::{
    Member, VOCABULARY, cpu, decoder, group, groups, learner_config, optimizer_config, relative_error,
    weights_of,
};

fn streambp(config: &mut LearnerConfig) -> &mut StreambpConfig {
    config.gradients.streambp_mut().unwrap()
}

fn learner(config: LearnerConfig) -> Trainer {
    Trainer::new(cpu(), decoder(1), config, optimizer_config("sgd"), 0.85, 10, None).unwrap()
}

/// Every method on, with thresholds that part the small model's distributions.
fn full_config() -> LearnerConfig {
    let mut config = learner_config();
    config.advantage =
        AdvantageConfig::GrpoLambda { lambda: 0.3, alpha: 0.2, surrogates: Surrogates::Ignore };
    config.importance.kind = ImportanceKind::Sais;
    config.mpt =
        serde_json::from_value(serde_json::json!({"enabled": true, "tau": 0.1, "sigma": 2.5})).unwrap();
    config.kl = serde_json::from_value(
        serde_json::json!({"enabled": true, "coefficient": 0.01, "reference": "checked by the root"}),
    )
    .unwrap();
    config
}

/// Every method on that goes with truncated importance sampling.
fn weighted_config() -> LearnerConfig {
    let mut config = full_config();
    config.importance.kind = ImportanceKind::Pois;
    config.mismatch = Some(MismatchConfig::Tis { cap: 1.25 });
    config
}

fn full_learner(config: LearnerConfig) -> Trainer {
    Trainer::new(cpu(), decoder(1), config, optimizer_config("sgd"), 0.85, 10, Some(decoder(2))).unwrap()
}

#[test]
fn the_on_policy_loss_is_the_token_mean_of_the_advantages() {
    let report = learner(learner_config()).step(&groups()).unwrap();
    // Group 0 has rewards 1.5, 0 and 0.1 on 7, 2 and 9 tokens; the advantages of the others are 0.
    let rewards = [1.5, 0.0, 0.1];
    let (mean, std) = crate::advantage::mean_std(&rewards);
    let advantages = rewards.map(|reward| (reward - mean) / (std + 1e-6));
    let tokens = (7 + 2 + 9 + 5 + 8 + 3 + 6 + 10 + 1) as f64;
    let expected = -(7.0 * advantages[0] + 2.0 * advantages[1] + 9.0 * advantages[2]) / tokens;
    let update = report.update.unwrap();
    assert!((update.loss - expected).abs() < 1e-12, "{} is not {expected}", update.loss);
    assert_eq!(update.completion_tokens, 51);
    // Those without an advantage go through no pass.
    assert_eq!(update.skipped, SkippedReport { completions: 6, tokens: 33 });
    assert_eq!(update.packed_tokens, 18 + 3 * 3);
    let tokens = update.tokens.unwrap();
    assert_eq!((tokens.clip.region, tokens.mpt, tokens.kl), (0.0, None, None));
}

#[test]
fn layer_inputs_without_a_place_stop_the_step_before_the_weights_change() {
    let mut config = learner_config();
    let chunks = streambp(&mut config);
    chunks.layer_inputs = LayerInputsPlace::File;
    chunks.layer_inputs_dir = Some("/no/such/folder".into());
    let mut learner = learner(config);
    let before = weights_of(learner.decoder());
    let message = learner.step(&groups()).unwrap_err().to_string();
    let expected = "step 0: learner.gradients.layer_inputs_dir: /no/such/folder: ";
    assert!(message.starts_with(expected), "{message}");
    assert_eq!((weights_of(learner.decoder()), learner.version()), (before, 0));
}

#[test]
fn layer_inputs_in_a_file_make_the_same_step() {
    let folder = tempfile::tempdir().unwrap();
    let step = |place, dir: Option<&std::path::Path>| {
        let mut config = full_config();
        let chunks = streambp(&mut config);
        (chunks.layer_inputs, chunks.layer_inputs_dir) = (place, dir.map(Into::into));
        let mut learner = full_learner(config);
        learner.step(&groups()).unwrap();
        weights_of(learner.decoder())
    };
    let memory = step(LayerInputsPlace::Memory, None);
    assert_eq!(step(LayerInputsPlace::File, Some(folder.path())), memory);
}

// Invariant 6: loss and gradient do not depend on micro-batch, packing or chunk size.
#[test]
fn no_cut_changes_the_update() {
    let whole = {
        let mut config = full_config();
        config.gradients = GradientsConfig::Whole {};
        let mut learner = full_learner(config);
        let update = learner.step(&groups()).unwrap().update.unwrap();
        let tokens = update.tokens.unwrap();
        assert!(tokens.mpt.unwrap().masked_fraction > 0.0, "the mask must be in play: {update:?}");
        assert!(tokens.clip.low > 0.0 && tokens.clip.high > 0.0, "the limits must be in play: {update:?}");
        (update, weights_of(learner.decoder()))
    };
    for (tokens, layer_chunk, head_chunk) in [(1, 1, 1), (20, 7, 3), (40, 500, 500), (1000, 16, 1000)] {
        let mut config = full_config();
        config.batch_tokens_max = tokens;
        streambp(&mut config).layer_chunk_tokens = layer_chunk;
        streambp(&mut config).head_chunk_tokens = head_chunk;
        let mut learner = full_learner(config);
        let update = learner.step(&groups()).unwrap().update.unwrap();
        let error = relative_error(&weights_of(learner.decoder()), &whole.1);
        assert!(error < 1e-5, "budget {tokens}, chunks {layer_chunk} and {head_chunk}: {error}");
        assert!((update.loss - whole.0.loss).abs() < 1e-6, "{} and {}", update.loss, whole.0.loss);
        // The two models are far apart, so the divergence is large and its error relative.
        let (kl, whole_kl) = (update.tokens.unwrap().kl.unwrap(), whole.0.tokens.unwrap().kl.unwrap());
        assert!((kl - whole_kl).abs() < 1e-5 * whole_kl, "{kl} and {whole_kl}");
    }
}

// Invariant 6 where tokens are weighted by the learner's own log-probabilities.
#[test]
fn no_cut_changes_a_weighted_update() {
    let step = |(tokens, layer_chunk, head_chunk)| {
        let mut config = weighted_config();
        config.batch_tokens_max = tokens;
        streambp(&mut config).layer_chunk_tokens = layer_chunk;
        streambp(&mut config).head_chunk_tokens = head_chunk;
        let mut learner = full_learner(config);
        let update = learner.step(&groups()).unwrap().update.unwrap();
        (update, weights_of(learner.decoder()))
    };
    let whole = step((1000, 1000, 1000));
    let tokens = whole.0.tokens.unwrap();
    let tis = tokens.tis.unwrap();
    assert!(tokens.mpt.unwrap().masked_fraction > 0.0 && tis.capped_fraction > 0.0, "{:?}", whole.0);
    assert!(tis.weight.max == 1.25 && tis.weight.min < 1.0, "{tis:?}");
    for cut in [(1, 1, 1), (20, 7, 3), (40, 500, 500)] {
        let (update, weights) = step(cut);
        let error = relative_error(&weights, &whole.1);
        assert!(error < 1e-5, "{cut:?}: {error}");
        assert!((update.loss - whole.0.loss).abs() < 1e-6, "{} and {}", update.loss, whole.0.loss);
        let tis_error = (update.tokens.unwrap().tis.unwrap().weight.mean - tis.weight.mean).abs();
        assert!(tis_error < 1e-6, "{cut:?}: {tis_error}");
    }
}

/// The loss by hand from the training forward's log-probabilities, for every kind of advantage.
#[test]
fn the_weighted_loss_is_that_of_the_tokens() {
    let kinds = [
        AdvantageConfig::Grpo { combine: Combine::Reward },
        AdvantageConfig::DrGrpo { combine: Combine::Reward },
        AdvantageConfig::GrpoLambda { lambda: 0.3, alpha: 0.2, surrogates: Surrogates::Add },
    ];
    for advantage in kinds {
        let mut config = learner_config();
        config.advantage = advantage;
        let mut plain = learner(config.clone());
        let advantages = plain.step(&groups()).unwrap().values.advantages;
        config.mismatch = Some(MismatchConfig::Tis { cap: 1.25 });
        let mut weighted = learner(config);
        let (mut loss, mut weights, mut capped, mut tokens) = (0.0, 0.0, 0.0, 0.0);
        let groups = groups();
        let completions = groups.iter().flat_map(|group| &group.completions);
        for (scored, advantage) in completions.zip(advantages) {
            let prompt = &scored.completion.prompt.tokens;
            let ids = [&prompt[..], &scored.completion.token_ids()].concat();
            let stats = weighted.passes.statistics(weighted.decoder(), &Packed::new([&ids[..]]));
            for (place, token) in scored.completion.tokens().enumerate() {
                let learner_logprob = f64::from(stats.logprobs[prompt.len() - 1 + place]);
                let ratio = (learner_logprob - f64::from(token.logprob)).exp();
                loss -= ratio.min(1.25) * advantage / 51.0;
                // What has no advantage is not looked at.
                let seen = f64::from(u8::from(advantage != 0.0));
                tokens += seen;
                weights += seen * ratio.min(1.25);
                capped += seen * f64::from(u8::from(ratio > 1.25));
            }
        }
        let (weights, capped) = (weights / tokens, capped / tokens);
        let update = weighted.step(&groups).unwrap().update.unwrap();
        assert!((update.loss - loss).abs() < 1e-5, "{} is not {loss}", update.loss);
        let report = update.tokens.unwrap();
        let tis = report.tis.unwrap();
        assert!((tis.weight.mean - weights).abs() < 1e-5, "{tis:?} is not {weights}");
        assert!((tis.capped_fraction - capped).abs() < 1e-9, "{tis:?} is not {capped}");
        // The denominator stays the number of tokens, and the divergence is measured all the same.
        assert_eq!((update.completion_tokens, 51 - update.skipped.tokens), (51, tokens as usize));
        assert!(report.mismatch_kl > 0.0);
    }
}

/// Where the learner thinks every token 1.5 times as likely as the actor did, the whole gradient is 1.5 times as
/// long, and with a cap of 1.2 it is 1.2 times as long.
#[test]
fn equal_weights_scale_the_update() {
    let one = {
        let mut one = group(5, 2, &[(true, 0.0, 4), (false, 0.0, 3)]);
        let learner = learner(learner_config());
        let prompt = one.prompt.tokens.clone();
        for scored in &mut one.completions {
            let ids = [&prompt[..], &scored.completion.token_ids()].concat();
            let stats = learner.passes.statistics(learner.decoder(), &Packed::new([&ids[..]]));
            let tokens = scored.completion.segments_mut().flat_map(|segment| &mut segment.tokens);
            for (place, token) in tokens.enumerate() {
                token.logprob = stats.logprobs[prompt.len() - 1 + place] - 1.5_f32.ln();
            }
        }
        one
    };
    let change = |mismatch| {
        let mut learner = learner(LearnerConfig { mismatch, ..learner_config() });
        let before = weights_of(learner.decoder());
        learner.step(std::slice::from_ref(&one)).unwrap();
        let changes = weights_of(learner.decoder()).into_iter().zip(before).map(|(now, then)| now - then);
        changes.collect::<Vec<f32>>()
    };
    let plain = change(None);
    assert_eq!(change(Some(MismatchConfig::None {})), plain);
    for (cap, factor) in [(2.0, 1.5_f32), (1.2, 1.2)] {
        let expected: Vec<f32> = plain.iter().map(|change| change * factor).collect();
        let error = relative_error(&change(Some(MismatchConfig::Tis { cap })), &expected);
        assert!(error < 1e-3, "cap {cap}: {error}");
    }
}

#[test]
fn a_mask_over_the_step_goes_by_the_entropy_of_the_step() {
    let entropies_below = |sigma: f64| {
        let mut config = full_config();
        config.mpt.scope = MptScope::Batch;
        config.mpt.sigma = sigma;
        config.batch_tokens_max = 20;
        let report = full_learner(config).step(&groups()).unwrap();
        (report.update.unwrap().tokens.unwrap(), report.seconds.statistics)
    };
    let (open, seconds) = entropies_below(10.0);
    assert_eq!(open.mpt.unwrap().open_fraction, 1.0);
    assert!(seconds > 0.0);
    let (just_open, _) = entropies_below(open.entropy + 1e-4);
    assert_eq!(just_open.mpt.unwrap().open_fraction, 1.0);
    let (shut, _) = entropies_below(open.entropy - 1e-4);
    assert_eq!((shut.mpt.unwrap().open_fraction, shut.mpt.unwrap().masked_fraction), (0.0, 0.0));
}

#[test]
fn dropped_groups_are_in_no_denominator() {
    let mut config = learner_config();
    config.dynamic_sampling = DynamicSampling::Drop;
    let mut dropping = learner(config);
    let report = dropping.step(&groups()).unwrap();
    assert_eq!((report.dead.all_correct, report.dead.all_wrong, report.dead.all_equal), (1, 1, 0));
    assert_eq!(report.dropped_groups, 2);
    assert_eq!(report.update.unwrap().completion_tokens, 7 + 2 + 9);
    let mut alone = learner(learner_config());
    let alone_report = alone.step(&groups()[..1]).unwrap();
    assert_eq!(report.update, alone_report.update);
    assert_eq!(weights_of(dropping.decoder()), weights_of(alone.decoder()));
}

#[test]
fn a_step_without_a_live_group_leaves_the_weights_and_raises_the_version() {
    let mut config = learner_config();
    config.dynamic_sampling = DynamicSampling::Drop;
    let mut learner = learner(config);
    let before = weights_of(learner.decoder());
    let report = learner.step(&groups()[1..]).unwrap();
    assert_eq!(report.update, None);
    assert_eq!((report.version, learner.version(), report.dropped_groups), (1, 1, 2));
    assert_eq!(weights_of(learner.decoder()), before);
}

// Invariant 7: same groups, same weights, bit for bit.
#[test]
fn equal_learners_make_equal_steps() {
    let run = || {
        let mut learner = full_learner(full_config());
        let first = learner.step(&groups()).unwrap();
        let second = learner.step(&[group(8, 2, &[(true, 0.0, 12), (false, 0.3, 4)])]).unwrap();
        (first.update, second.update, weights_of(learner.decoder()))
    };
    assert_eq!(run(), run());
}

// Invariant 8: what is not finite stops the step, with step and prompt named, before weights change.
#[test]
fn what_is_not_finite_stops_the_step_before_the_weights_change() {
    let mut bad_reward = groups();
    bad_reward[1].completions[2].reward.total = f64::NAN;
    let mut bad_logprob = groups();
    bad_logprob[2].completions[1].completion.segments_mut().next().unwrap().tokens[0].logprob =
        f32::NEG_INFINITY;
    for (spoiled, place) in [
        (bad_reward, "step 0, group 1 (prompt prompt-1), completion 2: the reward is NaN"),
        (bad_logprob, "step 0, group 2 (prompt prompt-2), completion 1: an actor's log-probability is -inf"),
    ] {
        let mut learner = learner(learner_config());
        let before = weights_of(learner.decoder());
        assert_eq!(learner.step(&spoiled).unwrap_err().to_string(), place);
        assert_eq!((learner.version(), weights_of(learner.decoder())), (0, before));
    }
}

#[test]
fn a_reward_without_a_finite_spread_stops_the_step() {
    for (reward, part) in [(1e308, 0.0), (-2e140, 0.0), (1.0, 1e308)] {
        let mut spoiled = groups();
        spoiled[1].completions[2].reward.total = reward;
        *spoiled[1].completions[2].reward.parts.get_mut("length").unwrap() = part;
        let message = learner(learner_config()).step(&spoiled).unwrap_err().to_string();
        let place = "step 0, group 1 (prompt prompt-1): completion 2 has a reward of ";
        assert!(message.starts_with(place) && message.contains("1e140"), "{message}");
    }
    let mut large = groups();
    large[0].completions[0].reward.total = 1e140;
    let report = learner(learner_config()).step(&large).unwrap();
    assert!(report.rewards.mean.is_finite() && report.rewards.std.is_finite());
    assert!(report.update.unwrap().loss.is_finite());
}

#[test]
fn weights_that_are_not_finite_stop_the_step() {
    let mut broken = decoder(1);
    let norm = &mut broken.weights.tensors_mut().final_norm;
    *norm = norm.clone().mul_scalar(f32::NAN);
    let mut learner =
        Trainer::new(cpu(), broken, learner_config(), optimizer_config("adamw"), 1.0, 10, None).unwrap();
    let message = learner.step(&groups()).unwrap_err().to_string();
    assert!(
        message.contains("group 1 (prompt prompt-1)") || message.contains("(prompt prompt-"),
        "{message}"
    );
    assert!(message.ends_with("a log-probability is NaN"), "{message}");
    assert_eq!((learner.version(), learner.state.optimizer.updates), (0, 0));
}

#[test]
fn groups_that_do_not_fit_are_named() {
    let mut unlabelled = groups();
    unlabelled[1].completions[0].reward.correctness = None;
    let message = full_learner(full_config()).step(&unlabelled).unwrap_err().to_string();
    assert!(message.contains("group 1 (prompt prompt-1)") && message.contains("completion 0"), "{message}");
    let mut by_correctness = full_config();
    by_correctness.advantage = AdvantageConfig::Grpo { combine: Combine::Reward };
    let message = full_learner(by_correctness.clone()).step(&unlabelled).unwrap_err().to_string();
    assert!(message.contains("learner.mpt.positive"), "{message}");
    by_correctness.mpt.positive = MptPositive::Advantage;
    full_learner(by_correctness).step(&unlabelled).unwrap();

    let mut foreign = groups();
    foreign[0].completions[1].completion.segments_mut().next().unwrap().tokens[0].id = VOCABULARY;
    let message = learner(learner_config()).step(&foreign).unwrap_err().to_string();
    assert!(message.contains("completion 1 has token 24, the vocabulary 24 entries"), "{message}");
}

#[test]
fn the_report_tells_what_came_in() {
    let mut config = full_config();
    config.dynamic_sampling = DynamicSampling::Drop;
    let mut learner = full_learner(config);
    learner.state.version = 3;
    let report = learner.step(&groups()).unwrap();
    assert_eq!((report.version, report.groups), (4, 3));
    assert!((report.rewards.mean - (1.5 + 0.1 + 3.0 * 1.25) / 9.0).abs() < 1e-12);
    assert!((report.rewards.frac_zero_std - 2.0 / 3.0).abs() < 1e-12);
    assert!((report.rewards.accuracy.unwrap() - 4.0 / 9.0).abs() < 1e-12);
    assert!((report.rewards.parts["length"].mean - (0.6 + 0.75) / 9.0).abs() < 1e-12);
    assert_eq!(report.lengths.all, Spread { mean: 51.0 / 9.0, min: 1.0, max: 10.0 });
    assert!((report.lengths.clipped_ratio - 2.0 / 9.0).abs() < 1e-12);
    assert_eq!(report.lengths.correct, Some((7.0 + 5.0 + 8.0 + 3.0) / 4.0));
    assert_eq!(report.lengths.incorrect, Some((2.0 + 9.0 + 6.0 + 10.0 + 1.0) / 5.0));
    // Completions of three or more tokens are of versions 0 and 1; two are shorter.
    assert_eq!(report.off_policy.staleness_worst, Spread { mean: 3.0, min: 3.0, max: 3.0 });
    assert_eq!(
        report.off_policy.staleness,
        Spread { mean: (7.0 * 2.0 + 2.0 * 3.0) / 9.0, min: 2.0, max: 3.0 }
    );
    assert_eq!(report.off_policy.spans, Spread { mean: 16.0 / 9.0, min: 1.0, max: 2.0 });
    assert!((report.off_policy.multi_segment_fraction - 7.0 / 9.0).abs() < 1e-12);
    // round(0.3 * 3) = 1: the group that is all right, alive under GRPO-lambda.
    let made = report.grpo_lambda.unwrap();
    assert_eq!((made.efficiency_groups, made.accuracy_groups), (1, 2));
    assert_eq!(made.correct_length_efficiency, Some(16.0 / 3.0));
    assert_eq!(made.correct_length_accuracy, Some(7.0));
    assert_eq!((report.dead.all_wrong, report.dead.all_correct, report.dropped_groups), (1, 0, 1));
    assert_eq!(report.values.lengths, [7.0, 2.0, 9.0, 5.0, 8.0, 3.0, 6.0, 10.0, 1.0]);
    assert_eq!(report.values.ratios.len(), 34);
    let update = report.update.unwrap();
    let tokens = update.tokens.unwrap();
    assert!(tokens.ratio.min < 1.0 && tokens.ratio.max > 1.0 && tokens.mismatch_kl > 0.0);
    assert_eq!(update.cuts.micro_batches, 1);
    let rows = update.packed_tokens - update.prompt_tokens_shared;
    assert!(update.prompt_tokens_shared > 0);
    assert_eq!(update.cuts.head_chunks, rows.div_ceil(4));
}

#[test]
fn entropy_and_mismatch_are_those_of_the_training_forward() {
    let one = vec![group(5, 2, &[(true, 0.0, 4), (false, 0.0, 3)])];
    let mut learner = learner(learner_config());
    let (mut entropy, mut mismatch) = (0.0, 0.0);
    for scored in &one[0].completions {
        let ids = [&one[0].prompt.tokens[..], &scored.completion.token_ids()].concat();
        let stats = learner.passes.statistics(learner.decoder(), &Packed::new([&ids[..]]));
        for (place, token) in scored.completion.tokens().enumerate() {
            let d = f64::from(stats.logprobs[1 + place]) - f64::from(token.logprob);
            mismatch += (d.exp() - d - 1.0) / 7.0;
            entropy += f64::from(stats.entropies[1 + place]) / 7.0;
        }
    }
    let update = learner.step(&one).unwrap().update.unwrap().tokens.unwrap();
    assert!((update.entropy - entropy).abs() < 1e-5, "{} is not {entropy}", update.entropy);
    assert!(
        (update.mismatch_kl - mismatch).abs() < 1e-5 * mismatch,
        "{} is not {mismatch}",
        update.mismatch_kl
    );
}

#[test]
fn a_reference_must_be_there_and_fit() {
    let new = |reference| {
        Trainer::new(cpu(), decoder(1), full_config(), optimizer_config("sgd"), 1.0, 1, reference)
    };
    assert!(new(None).unwrap_err().to_string().starts_with("learner.kl.reference"));
    assert!(new(Some(decoder(2))).is_ok());
    let bad = Trainer::new(cpu(), decoder(1), learner_config(), optimizer_config("sgd"), -1.0, 1, None);
    assert!(bad.unwrap_err().to_string().starts_with("rollout.temperature"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Invariant 6 for any groups and any budget.
    #[test]
    fn the_loss_does_not_depend_on_the_micro_batch(
        members in prop::collection::vec(prop::collection::vec((any::<bool>(), 0.0_f64..0.5, 1_usize..12), 2..5), 1..4),
        batch_tokens_max in 1_usize..60,
    ) {
        let members: Vec<Vec<Member>> = members;
        let groups: Vec<_> =
            members.iter().enumerate().map(|(id, members)| group(id as u64, 1 + id, members)).collect();
        let run = |batch_tokens_max| {
            let mut learner = full_learner(LearnerConfig { batch_tokens_max, ..full_config() });
            let update = learner.step(&groups).unwrap().update.unwrap();
            (update.loss, weights_of(learner.decoder()))
        };
        let (whole, cut) = (run(100_000), run(batch_tokens_max));
        prop_assert!((whole.0 - cut.0).abs() < 1e-5 * (1.0 + whole.0.abs()), "{} and {}", whole.0, cut.0);
        prop_assert!(relative_error(&cut.1, &whole.1) < 1e-4);
    }
}
