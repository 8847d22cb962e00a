//! Several ranks make the step of one: the same update within the rounding of sums, the same replicas to the bit, and no
//! step at all where one of them finds something wrong.

use collective::Threads;
use trajectory::Group;

use super::*;
use crate::config::{AdvantageConfig, DynamicSampling, ImportanceKind, LearnerConfig, MptScope, Surrogates};
use crate::loss::CrossEntropy;
use crate::report::StepReport;
use crate::testing::{
    adapted, cpu, decoder, group, groups, learner_config, lora_section, optimizer_config, relative_error,
    trained_of,
};

/// Largest difference of the weights after the steps, relative to the largest weight.
const RELATIVE_ERROR_MAX: f64 = 1e-6;

/// Every method that looks at more than one group or token: ranking, both scopes of the mask, limits and penalty.
fn configs() -> Vec<LearnerConfig> {
    let mut plain = learner_config();
    plain.dynamic_sampling = DynamicSampling::Drop;
    let mut full = learner_config();
    full.advantage = AdvantageConfig::GrpoLambda { lambda: 0.4, alpha: 0.2, surrogates: Surrogates::Ignore };
    full.importance.kind = ImportanceKind::Sais;
    full.mpt =
        serde_json::from_value(serde_json::json!({"enabled": true, "tau": 0.1, "sigma": 2.5})).unwrap();
    let kl = serde_json::json!({"enabled": true, "coefficient": 0.01, "reference": "checked by the root"});
    full.kl = serde_json::from_value(kl).unwrap();
    let mut over_step = full.clone();
    over_step.mpt.scope = MptScope::Batch;
    let mut adapters = full.clone();
    adapters.lora = Some(lora_section(&["q_proj", "o_proj", "down_proj"]));
    vec![plain, full, over_step, adapters]
}

fn trainer(config: &LearnerConfig) -> Trainer {
    let reference = config.kl.enabled.then(|| decoder(2));
    let decoder = match &config.lora {
        Some(_) => adapted(decoder(1), &["q_proj", "o_proj", "down_proj"]),
        None => decoder(1),
    };
    Trainer::new(cpu(), decoder, config.clone(), optimizer_config("sgd"), 0.85, 10, reference).unwrap()
}

/// Five groups, of which the second, all right, and the third, all wrong, teach nothing to plain GRPO.
fn five_groups() -> Vec<Group> {
    let mut five = groups();
    five.push(group(7, 2, &[(true, 0.0, 12), (false, 0.3, 4), (true, 0.1, 2)]));
    five.push(group(9, 4, &[(false, 0.0, 6), (true, 0.0, 11)]));
    five
}

/// The parts of the groups that each rank of so many has.
fn parts(dealt: &[&[usize]]) -> Vec<Vec<Group>> {
    let all = five_groups();
    dealt.iter().map(|numbers| numbers.iter().map(|number| all[*number].clone()).collect()).collect()
}

/// Steps of every rank on its part, each on a thread of its own.
fn on_ranks(
    config: &LearnerConfig,
    parts: &[Vec<Group>],
    steps: usize,
) -> Vec<(Trainer, Vec<Result<StepReport, LearnerError>>)> {
    std::thread::scope(|scope| {
        let rank = |rank: Threads, groups: &Vec<Group>| {
            let mut trainer = trainer(config).with_collective(Arc::new(rank));
            let reports = (0..steps).map(|_| trainer.step(groups)).collect();
            (trainer, reports)
        };
        let threads: Vec<_> = Threads::new(parts.len())
            .into_iter()
            .zip(parts)
            .map(|(own, groups)| scope.spawn(move || rank(own, groups)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn several_ranks_make_the_update_of_one() {
    for config in configs() {
        let mut one = trainer(&config);
        let all = five_groups();
        let expected = one.step(&all).unwrap().update.unwrap();
        let (weights, before) = (trained_of(one.decoder()), trained_of(trainer(&config).decoder()));
        assert!(relative_error(&weights, &before) > 1e-3, "the step moves the weights");
        // In two, in four of which the last has nothing to train on, and in four of which two have no group.
        let cuts: [&[&[usize]]; 3] =
            [&[&[0, 3], &[1, 2, 4]], &[&[4], &[0], &[3], &[1, 2]], &[&[], &[3, 0, 2], &[], &[1, 4]]];
        for cut in cuts {
            let ranks = on_ranks(&config, &parts(cut), 1);
            let replica = trained_of(ranks[0].0.decoder());
            let error = relative_error(&replica, &weights);
            assert!(error < RELATIVE_ERROR_MAX, "{cut:?}: {error}");
            for (trainer, mut reports) in ranks {
                assert!(bits(&trainer) == bits_of(&replica), "{cut:?}: replicas differ");
                assert_whole_step(&reports.remove(0).unwrap().update.unwrap(), &expected);
            }
        }
    }
}

fn bits_of(weights: &[f32]) -> Vec<u32> {
    weights.iter().map(|weight| weight.to_bits()).collect()
}

fn bits(trainer: &Trainer) -> Vec<u32> {
    bits_of(&trained_of(trainer.decoder()))
}

/// What a rank reports of the update is of the whole step.
fn assert_whole_step(found: &crate::report::UpdateReport, expected: &crate::report::UpdateReport) {
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * (1.0 + b.abs());
    assert!(near(found.loss, expected.loss), "{} and {}", found.loss, expected.loss);
    assert!(near(found.grad_norm, expected.grad_norm), "{} and {}", found.grad_norm, expected.grad_norm);
    let counts = |update: &crate::report::UpdateReport| {
        (update.completion_tokens, update.skipped, update.completions_zero_slope, update.learning_rate)
    };
    assert_eq!(counts(found), counts(expected));
    let (found, expected) = (found.tokens.unwrap(), expected.tokens.unwrap());
    for (found, expected) in [
        (found.entropy, expected.entropy),
        (found.mismatch_kl, expected.mismatch_kl),
        (found.ratio.mean, expected.ratio.mean),
        (found.ratio.min, expected.ratio.min),
        (found.ratio.max, expected.ratio.max),
        (found.clip.region, expected.clip.region),
        (found.kl.unwrap_or(0.0), expected.kl.unwrap_or(0.0)),
    ] {
        assert!(near(found, expected), "{found} and {expected}");
    }
    assert_eq!(found.mpt, expected.mpt);
}

/// GRPO-lambda ranks the groups of all ranks: the best solved group is the only efficiency group of the step.
#[test]
fn groups_are_ranked_over_all_ranks() {
    let mut config = learner_config();
    config.advantage =
        AdvantageConfig::GrpoLambda { lambda: 0.2, alpha: 0.2, surrogates: Surrogates::Ignore };
    let ranks = on_ranks(&config, &parts(&[&[0, 3], &[1, 2, 4]]), 2);
    // Replicas stay equal over steps, whatever one rank alone would make of them.
    assert!(bits(&ranks[0].0) == bits(&ranks[1].0));
    let efficient: Vec<usize> = ranks
        .into_iter()
        .map(|(_, mut reports)| reports.remove(0).unwrap().grpo_lambda.unwrap().efficiency_groups)
        .collect();
    assert_eq!(efficient, [0, 1]);
}

#[test]
fn a_step_of_dead_groups_on_all_ranks_leaves_the_weights() {
    let config = LearnerConfig { dynamic_sampling: DynamicSampling::Drop, ..learner_config() };
    let ranks = on_ranks(&config, &parts(&[&[1], &[2]]), 2);
    for (trainer, reports) in ranks {
        assert!(reports.into_iter().all(|report| report.unwrap().update.is_none()));
        assert_eq!((trainer.version(), trained_of(trainer.decoder())), (2, trained_of(&decoder(1))));
    }
}

// Invariant 8, over ranks.
#[test]
fn what_one_rank_finds_wrong_stops_the_step_on_all() {
    let mut reward = parts(&[&[0, 3], &[1, 2, 4]]);
    reward[1][0].completions[1].reward.total = f64::NAN;
    let mut unlabelled = parts(&[&[0, 3], &[1, 2, 4]]);
    unlabelled[1][2].completions[0].reward.correctness = None;
    let mut labels = learner_config();
    labels.mpt = serde_json::from_value(serde_json::json!({"enabled": true})).unwrap();
    for (config, parts, reason) in
        [(learner_config(), reward, "the reward is NaN"), (labels, unlabelled, "has no correctness")]
    {
        let ranks = on_ranks(&config, &parts, 2);
        let messages: Vec<String> =
            ranks.iter().map(|(_, reports)| reports[0].as_ref().unwrap_err().to_string()).collect();
        assert_eq!(messages[0], "step 0: rank 1 could not make the step; its own error says why");
        assert!(messages[1].contains(reason), "{messages:?}");
        for (trainer, _) in ranks {
            assert_eq!((trainer.version(), trained_of(trainer.decoder())), (0, trained_of(&decoder(1))));
        }
    }
}

/// The same for units that others wrote; one rank of three has none.
#[test]
fn written_units_are_summed_over_ranks() {
    let sequences: [(&[u32], &[u32]); 3] = [(&[1, 2, 3], &[4, 5, 6, 7]), (&[9], &[8, 8]), (&[3, 3], &[1])];
    let units: Vec<Unit<'_>> =
        sequences.map(|(prompt, ids)| Unit::of(UnitCompletion::written(prompt, ids))).to_vec();
    let config =
        crate::config::SftConfig { batch_tokens_max: 9, gradients: GradientsConfig::default(), lora: None };
    let new = || Trainer::supervised(cpu(), decoder(3), config.clone(), optimizer_config("sgd"), 10).unwrap();
    let mut one = new();
    let expected = one.step_units(&units, &CrossEntropy).unwrap();
    let parts = [&units[..2], &units[2..], &units[..0]];
    let rank = |rank: Threads, units: &[Unit<'_>]| {
        let mut trainer = new().with_collective(Arc::new(rank));
        (trainer.step_units(units, &CrossEntropy).unwrap(), trained_of(trainer.decoder()))
    };
    let rank = &rank;
    let found: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = Threads::new(3)
            .into_iter()
            .zip(parts)
            .map(|(own, units)| scope.spawn(move || rank(own, units)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (report, weights) in &found {
        assert!(relative_error(weights, &trained_of(one.decoder())) < RELATIVE_ERROR_MAX);
        assert_eq!(weights, &found[0].1);
        assert!(
            (report.loss - expected.loss).abs() < 1e-6 && (report.entropy - expected.entropy).abs() < 1e-6
        );
        assert_eq!((report.target_tokens, report.version), (7, 1));
    }
}
