//! What is left out of a step changes no bit of the update: beside each step a learner that skips nothing.

use proptest::prelude::*;
use serde_json::json;
use trajectory::Group;

use super::plan::{PlannedStep, units_of};
use super::*;
use crate::advantage_batch::AdvantageBatch;
use crate::config::{
    AdvantageConfig, Combine, DynamicSampling, GradientsConfig, ImportanceKind, LearnerConfig,
    MismatchConfig, MptScope, StreambpConfig, Surrogates,
};
use crate::optimizer::OptimizerConfig;
use crate::report::{SkippedReport, StepSeconds, StepValues, UpdateReport};
use crate::testing::{
    Member, cpu, decoder, group, groups, learner_config, optimizer_config, relative_error, weights_of,
};

fn learner(config: LearnerConfig, optimizer: &str) -> Trainer {
    let reference = config.kl.enabled.then(|| decoder(2));
    Trainer::new(cpu(), decoder(1), config, optimizer_config(optimizer), 0.85, 10, reference).unwrap()
}

/// A step in which completions without a slope go through as well, behind the others or packed among them.
fn whole_step(learner: &mut Trainer, groups: &[Group], apart: bool) -> UpdateReport {
    let version = learner.version();
    let batch = AdvantageBatch::new(version, groups, &learner.objective.config, &[]).unwrap();
    let positive = learner.objective.config.mpt.enabled.then_some(learner.objective.config.mpt.positive);
    let mut plan = learner.plan(batch.trained(version, positive).unwrap());
    let silent = std::mem::take(&mut plan.silent);
    if apart {
        let offset = plan.completions.len();
        for mut batch in learner.packed(&units_of(&silent)) {
            batch.completions.iter_mut().for_each(|laid| laid.unit += offset);
            plan.batches.push(batch);
        }
    }
    plan.completions.extend(silent);
    if !apart {
        plan.completions.sort_by_key(|trained| (trained.group.id, trained.member));
    }
    plan.units = units_of(&plan.completions);
    if !apart {
        plan.batches = learner.packed(&plan.units);
    }
    let (PlannedStep { plan, .. }, totals) = learner.totals(Ok(PlannedStep { batch, plan })).unwrap();
    let report = learner.train(&plan, &totals, &mut StepSeconds::default()).unwrap().report;
    learner.state.version += 1;
    report
}

/// Bits, so that zeros of either sign are told apart.
fn bits(learner: &Trainer) -> Vec<u32> {
    weights_of(learner.decoder()).into_iter().map(f32::to_bits).collect()
}

fn configs() -> impl Strategy<Value = LearnerConfig> {
    let method = (
        prop::sample::select(vec![
            AdvantageConfig::Grpo { combine: Combine::Reward },
            AdvantageConfig::DrGrpo { combine: Combine::Reward },
            AdvantageConfig::GrpoLambda { lambda: 0.4, alpha: 0.2, surrogates: Surrogates::Ignore },
        ]),
        prop::sample::select(vec![
            (ImportanceKind::Pois, None),
            (ImportanceKind::Pois, Some(MismatchConfig::Tis { cap: 1.25 })),
            (ImportanceKind::Sais, None),
        ]),
        prop::option::of((prop::sample::select(vec![MptScope::Completion, MptScope::Batch]), 0.0_f64..4.0)),
        any::<bool>(),
    );
    let cuts = (any::<bool>(), 1_usize..80, 1_usize..40, 1_usize..40);
    (method, cuts).prop_map(|((advantage, (importance, mismatch), mpt, kl), cuts)| {
        let (is_chunked, batch_tokens_max, layer_chunk_tokens, head_chunk_tokens) = cuts;
        let mut config = LearnerConfig { batch_tokens_max, advantage, mismatch, ..learner_config() };
        config.importance.kind = importance;
        config.gradients = match is_chunked {
            true => GradientsConfig::Streambp(StreambpConfig {
                layer_chunk_tokens,
                head_chunk_tokens,
                ..StreambpConfig::default()
            }),
            false => GradientsConfig::Whole {},
        };
        if let Some((scope, sigma)) = mpt {
            config.mpt = serde_json::from_value(json!({"enabled": true, "tau": 0.1})).unwrap();
            (config.mpt.scope, config.mpt.sigma) = (scope, sigma);
        }
        if kl {
            let section = json!({"enabled": true, "coefficient": 0.01, "reference": "a model"});
            config.kl = serde_json::from_value(section).unwrap();
        }
        config
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// For every method and every cut, with groups of which some teach nothing, and over moments that are not 0.
    #[test]
    fn skipping_changes_no_bit_of_the_update(
        config in configs(),
        members in prop::collection::vec(
            (0_usize..3, prop::collection::vec((any::<bool>(), 1_usize..14), 2..5)),
            1..5,
        ),
    ) {
        // All wrong, all right, or as they come.
        let groups: Vec<Group> = members
            .iter()
            .enumerate()
            .map(|(id, (kind, members))| {
                let right = |right: bool| [false, true, right][*kind];
                let members: Vec<Member> =
                    members.iter().map(|(of, length)| (right(*of), 0.0, *length)).collect();
                group(id as u64, 1 + id, &members)
            })
            .collect();
        let steps = |optimizer: &str, step: &mut dyn FnMut(&mut Trainer, &[Group]) -> UpdateReport| {
            let mut learner = learner(config.clone(), optimizer);
            let first = group(9, 2, &[(true, 0.0, 12), (false, 0.0, 4)]);
            step(&mut learner, &[first]);
            let report = step(&mut learner, &groups);
            (report, learner)
        };
        let mut skip =
            |learner: &mut Trainer, groups: &[Group]| learner.step(groups).unwrap().update.unwrap();
        let skipping = steps("adamw", &mut skip);
        let apart = steps("adamw", &mut |learner, groups| whole_step(learner, groups, true));
        prop_assert!(bits(&skipping.1) == bits(&apart.1));
        // Packed otherwise, sums round otherwise.
        let skipping = steps("sgd", &mut skip);
        let among = steps("sgd", &mut |learner, groups| whole_step(learner, groups, false));
        let error = relative_error(&weights_of(skipping.1.decoder()), &weights_of(among.1.decoder()));
        prop_assert!(error < 1e-5, "{}", error);
        for whole in [steps("sgd", &mut |learner, groups| whole_step(learner, groups, true)).0, among.0] {
            prop_assert_eq!(whole.completion_tokens, skipping.0.completion_tokens);
            prop_assert!((whole.loss - skipping.0.loss).abs() < 1e-6);
            prop_assert!((whole.grad_norm - skipping.0.grad_norm).abs() < 1e-4 * (1.0 + whole.grad_norm));
        }
        if config.kl.enabled {
            prop_assert_eq!(skipping.0.skipped, SkippedReport::default());
        }
    }
}

/// All right, all wrong, all equal.
fn dead_groups() -> Vec<Group> {
    let equal = group(3, 2, &[(false, 0.5, 4), (false, 0.5, 6)]);
    groups().into_iter().skip(1).chain([equal]).collect()
}

#[test]
fn a_step_of_dead_groups_goes_through_no_pass() {
    for optimizer in ["sgd", "adamw"] {
        let mut config = learner_config();
        config.mpt = serde_json::from_value(json!({"enabled": true, "scope": "batch"})).unwrap();
        let (mut skipping, mut whole) = (learner(config.clone(), optimizer), learner(config, optimizer));
        for learner in [&mut skipping, &mut whole] {
            learner.step(&groups()).unwrap();
        }
        let before = bits(&skipping);
        let report = skipping.step(&dead_groups()).unwrap();
        whole_step(&mut whole, &dead_groups(), true);
        assert_eq!(bits(&skipping), bits(&whole), "{optimizer}");
        // A momentum goes on where there is one.
        assert_eq!(bits(&skipping) == before, optimizer == "sgd");
        let update = report.update.unwrap();
        assert_eq!((update.loss, update.grad_norm, update.tokens), (0.0, 0.0, None));
        assert_eq!((update.cuts.micro_batches, update.packed_tokens), (0, 0));
        assert_eq!(update.skipped, SkippedReport { completions: 8, tokens: update.completion_tokens });
        assert_eq!((report.seconds.statistics, report.version), (0.0, 2));
        assert_eq!(report.values.ratios, StepValues::default().ratios);
        assert!(
            report
                .completions
                .iter()
                .all(|completion| completion.used == trajectory::CompletionUse::ZeroAdvantage)
        );
    }
}

/// Before any gradient, after one, and with a decay that never rests.
#[test]
fn an_update_without_a_gradient_is_that_of_a_gradient_of_zeros() {
    for (optimizer, weight_decay) in [("adamw", 0.0), ("adamw", 0.1), ("sgd", 0.0), ("sgd", 0.1)] {
        let optimizer = OptimizerConfig { weight_decay, ..optimizer_config(optimizer) };
        let new =
            || Trainer::new(cpu(), decoder(1), learner_config(), optimizer.clone(), 0.85, 10, None).unwrap();
        let (mut skipping, mut whole) = (new(), new());
        for groups in [dead_groups(), dead_groups(), groups(), dead_groups()] {
            skipping.step(&groups).unwrap();
            whole_step(&mut whole, &groups, true);
            assert_eq!(bits(&skipping), bits(&whole), "{optimizer:?}");
            assert_eq!(skipping.state.optimizer.updates, whole.state.optimizer.updates);
        }
    }
}

#[test]
fn a_completion_that_is_masked_as_a_whole_is_counted() {
    let mut config = learner_config();
    // Every token of a right answer is mastered.
    config.mpt = serde_json::from_value(json!({"enabled": true, "tau": 0.0, "sigma": 100.0})).unwrap();
    let (mut masked, mut whole) = (learner(config.clone(), "sgd"), learner(config, "sgd"));
    let one = group(5, 2, &[(true, 0.0, 12), (false, 0.0, 5), (true, 0.0, 3)]);
    let report = masked.step(std::slice::from_ref(&one)).unwrap();
    let masked_places: Vec<&[usize]> = report.completions.iter().map(|told| &told.masked[..]).collect();
    assert_eq!(masked_places, [&(0..12).collect::<Vec<_>>()[..], &[], &[0, 1, 2]]);
    let update = report.update.unwrap();
    assert_eq!((update.completions_zero_slope, update.skipped.completions), (2, 0));
    assert_eq!(update.tokens.unwrap().mpt.unwrap().masked_fraction, 15.0 / 20.0);
    whole_step(&mut whole, &[one], true);
    assert_eq!(bits(&masked), bits(&whole));
}

#[test]
fn what_became_of_each_completion_is_told() {
    use trajectory::CompletionUse::{Dropped, Trained, ZeroAdvantage};
    let uses = |dynamic_sampling, kl| {
        let mut config = LearnerConfig { dynamic_sampling, ..learner_config() };
        if kl {
            let section = json!({"enabled": true, "coefficient": 0.01, "reference": "a model"});
            config.kl = serde_json::from_value(section).unwrap();
        }
        let report = learner(config, "sgd").step(&groups()).unwrap();
        report.completions.iter().map(|completion| completion.used).collect::<Vec<_>>()
    };
    let of = |trained, dead| [[trained; 3], [dead; 3], [dead; 3]].concat();
    assert_eq!(uses(DynamicSampling::Off, false), of(Trained, ZeroAdvantage));
    assert_eq!(uses(DynamicSampling::Off, true), of(Trained, Trained));
    assert_eq!(uses(DynamicSampling::Drop, true), of(Trained, Dropped));
    assert_eq!(uses(DynamicSampling::Refill, false), of(Trained, Dropped));
}
