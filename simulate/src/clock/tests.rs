//! Tests of `clock.rs`.

use std::time::Instant;

use proptest::prelude::{ProptestConfig, Strategy, prop_assert, prop_assert_eq, proptest};

use rollout::{OnUpdate, QueueConfig, RolloutConfig};
use serde_json::json;

use super::*;

/// Binary fractions, so that sums are exact.
const COSTS: CostModel = CostModel {
    decode_step_s: 1.0,
    decode_slot_s: 0.25,
    context_token_s: 0.0,
    prefill_token_s: 0.0,
    learn_token_s: 0.5,
    learn_step_s: 2.0,
    contention: Contention::of_both(1.0),
};

fn rollout_config(slots: usize, segment: usize, segments: usize, group_size: usize) -> RolloutConfig {
    let config = json!({
        "output_tokens_max": segment * segments, "segments_max": segments, "trajectories_open_max": slots,
        "group_size": group_size, "temperature": 1.0, "on_update": "recompute", "in_flight_updates": false,
        "versions_open_max": u64::MAX,
    });
    serde_json::from_value(config).expect("a whole section")
}

fn lengths(spec: &str) -> LengthDistribution {
    LengthDistribution::parse(spec).expect("a distribution")
}

/// Groups of two, one a step, in a queue with room for all.
fn plan(schedule: Schedule, [slots, segment, segments]: [usize; 3], staleness: u64) -> VirtualPlan {
    VirtualPlan {
        rollout: rollout_config(slots, segment, segments, 2),
        queue: QueueConfig { groups_max: 1 + staleness as usize, staleness_versions_max: staleness },
        groups_per_step: 1,
        schedule,
        steps: 4,
        seed: 3,
        prompt_tokens: 2,
        cache_block_tokens: 1,
    }
}

fn run(plan: &VirtualPlan, spec: &str, costs: &CostModel) -> Vec<VirtualStep> {
    run_virtually(plan, &lengths(spec), costs, |_| {}).expect("it can go on")
}

fn ends(steps: &[VirtualStep]) -> Vec<f64> {
    steps.iter().map(|step| step.ended_s).collect()
}

#[test]
fn in_turns_a_step_takes_its_decoding_and_its_learning() {
    // 4 decode steps of two slots: 4 * 1.5 = 6; 8 tokens learned: 2 + 4 = 6.
    let steps = run(&plan(Schedule::Lockstep, [2, 4, 1], 0), "constant:4", &COSTS);
    assert_eq!(ends(&steps), [12.0, 24.0, 36.0, 48.0]);
    assert!(steps.iter().all(|step| step.lengths == [4, 4] && step.staleness == [0, 0]));
    assert!(steps.iter().all(|step| (step.decode_steps, step.slot_steps_busy) == (4, 8)));
    // One slot for two: twice the decode steps, of 1.25 each.
    let steps = run(&plan(Schedule::Lockstep, [1, 4, 1], 0), "constant:4", &COSTS);
    assert_eq!(ends(&steps)[0], 16.0);
    // Prompts of 2 tokens and contexts that grow from 2 on: 2 * (2 + 3 + 4 + 5) tokens are looked at.
    let costs = CostModel { prefill_token_s: 0.125, context_token_s: 0.0625, ..COSTS };
    let steps = run(&plan(Schedule::Lockstep, [2, 4, 1], 0), "constant:4", &costs);
    assert_eq!(ends(&steps)[0], 12.0 + 4.0 * 0.125 + 28.0 * 0.0625);
}

#[test]
fn side_by_side_the_slower_side_sets_the_pace_and_contention_slows_both() {
    // Decoding and learning take 6 each, and go on side by side from the second group on.
    let steps = run(&plan(Schedule::Async, [2, 4, 1], 1), "constant:4", &COSTS);
    assert_eq!(ends(&steps), [12.0, 18.0, 24.0, 30.0]);
    assert_eq!(steps.iter().map(|step| step.staleness[0]).collect::<Vec<_>>(), [0, 1, 1, 1]);
    let shared = CostModel { contention: Contention::of_both(2.0), ..COSTS };
    let steps = run(&plan(Schedule::Async, [2, 4, 1], 1), "constant:4", &shared);
    assert_eq!(ends(&steps), [18.0, 30.0, 42.0, 54.0], "as in turns, but for the learner's first step");
    // The first step of the learner takes 7.5, in which decoding gets 2.5 of its 6 done; the others are alone.
    let unequal = CostModel { contention: Contention { decode: 3.0, learn: 1.25 }, ..COSTS };
    let steps = run(&plan(Schedule::Async, [2, 4, 1], 1), "constant:4", &unequal);
    assert_eq!(ends(&steps)[..2], [13.5, 13.5 + 3.5 + 7.5]);
    let windows = run(&plan(Schedule::Deterministic, [2, 4, 1], 1), "constant:4", &COSTS);
    assert_eq!(ends(&windows), [12.0, 18.0, 24.0, 30.0]);
}

#[test]
fn a_cache_is_rebuilt_at_a_boundary_under_newer_weights() {
    // Outputs of 8 in segments of 4. The group that is open when version 1 comes has 2 + 4 tokens of context
    // in each slot at its next boundary.
    let costs = CostModel { prefill_token_s: 0.125, learn_token_s: 0.25, ..COSTS };
    let asynchronous = VirtualPlan { steps: 3, ..plan(Schedule::Async, [2, 4, 2], 1) };
    let steps = run(&asynchronous, "constant:8", &costs);
    let rebuilt: u64 = steps.iter().map(|step| step.context_tokens_recomputed).sum();
    assert!(rebuilt > 0 && rebuilt.is_multiple_of(12), "{steps:?}");
    let mut kept = asynchronous.clone();
    kept.rollout.on_update = OnUpdate::Keep;
    let kept = run(&kept, "constant:8", &costs);
    assert!(kept.iter().all(|step| step.context_tokens_recomputed == 0));
    assert!(kept[2].ended_s < steps[2].ended_s);
    // A context of 6 tokens costs as much as 3 that are decoded, and a segment has 4.
    let mut auto = asynchronous.clone();
    auto.rollout.on_update = OnUpdate::Auto;
    assert_eq!(run(&auto, "constant:8", &costs), steps);
}

#[test]
fn a_bound_on_the_cache_makes_trajectories_wait() {
    let free = VirtualPlan { steps: 3, ..plan(Schedule::Lockstep, [2, 4, 2], 0) };
    let mut bounded = free.clone();
    // A whole output and its prompt take 10 tokens; two do not fit side by side.
    bounded.rollout.kv_cache_tokens_max = Some(12);
    let (free, bounded) = (run(&free, "constant:8", &COSTS), run(&bounded, "constant:8", &COSTS));
    let learned = |steps: &[VirtualStep]| steps.iter().map(|step| step.lengths.clone()).collect::<Vec<_>>();
    assert_eq!(learned(&free), learned(&bounded), "nothing is lost");
    assert!(bounded[0].ended_s > free[0].ended_s, "{bounded:?}");
}

#[test]
fn newer_weights_let_a_group_start_at_the_next_decode_step() {
    // Without staleness one group may be open, so half of the slots wait for the learner.
    let steps = run(&plan(Schedule::Async, [4, 4, 1], 0), "constant:4", &COSTS);
    assert_eq!(ends(&steps), [12.0, 24.0, 36.0, 48.0]);
    // Groups 0 and 1 decode together until 16, and version 1 comes at 26, when group 2 starts. Version 2 comes at
    // 36, in the seventh decode step of group 2, after which group 3 starts, at 36.5. The eighth makes two passes
    // over weights for four slots, until 39.5. Then group 3 has seven steps left, of 1.5 each.
    let steps = run(&plan(Schedule::Async, [4, 8, 1], 1), "constant:8", &COSTS);
    assert_eq!(ends(&steps), [26.0, 36.0, 49.5, 60.0]);
    assert_eq!(steps.iter().map(|step| step.staleness[0]).collect::<Vec<_>>(), [0, 1, 1, 1]);
}

#[test]
fn a_plan_that_cannot_be_is_refused() {
    let mut wrong = plan(Schedule::Async, [2, 4, 1], 0);
    wrong.groups_per_step = 2;
    let error = run_virtually(&wrong, &lengths("constant:4"), &COSTS, |_| {}).expect_err("no room");
    assert!(error.to_string().starts_with("queue.groups_max: 1 is less"), "{error}");
}

#[test]
fn ten_thousand_slots_take_bounded_time() {
    let began = Instant::now();
    let mut big = VirtualPlan {
        rollout: rollout_config(10_000, 512, 8, 8),
        queue: QueueConfig { groups_max: 5 * 512, staleness_versions_max: 4 },
        groups_per_step: 512,
        schedule: Schedule::Async,
        steps: 3,
        seed: 1,
        prompt_tokens: 100,
        cache_block_tokens: 1,
    };
    let costs = CostModel { contention: Contention::of_both(1.0), ..COSTS };
    for in_flight_updates in [false, true] {
        big.rollout.in_flight_updates = in_flight_updates;
        let steps = run(&big, "lognormal:800,1.2", &costs);
        let tokens: usize = steps.iter().flat_map(|step| &step.lengths).sum();
        assert!(tokens > 3_000_000, "{tokens}");
    }
    // A loop over all tokens of all slots would take ten times as long.
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}

fn plans() -> impl Strategy<Value = VirtualPlan> {
    let decoding = (1usize..7, 1usize..4, 1usize..5, 2usize..4);
    let learning = (1usize..4, 0u64..3, 0usize..7, 0u64..1_000_000);
    (decoding, learning, 1u64..5).prop_map(|(decoding, learning, versions_open_max)| {
        let (slots, segment, segments, size) = decoding;
        let (step, staleness, room, seed) = learning;
        let rollout = rollout_config(slots, segment, segments, size);
        VirtualPlan {
            rollout: RolloutConfig { versions_open_max, ..rollout },
            queue: QueueConfig { groups_max: step + room, staleness_versions_max: staleness },
            groups_per_step: step,
            schedule: Schedule::Lockstep,
            steps: 10,
            seed,
            prompt_tokens: 2,
            cache_block_tokens: 1,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn every_group_comes_once_and_every_token_is_drawn_once(plan in plans(), decode in 1.0..3.0f64, learn in 1.0..2.0f64) {
        for schedule in [Schedule::Async, Schedule::Lockstep, Schedule::Deterministic] {
            let plan = VirtualPlan { schedule, ..plan.clone() };
            let spec = lengths("uniform:1,13");
            let costs = CostModel { contention: Contention { decode, learn }, ..COSTS };
            let steps = run_virtually(&plan, &spec, &costs, |_| {}).expect("never starved");
            let mut groups: Vec<u64> = steps.iter().flat_map(|step| step.groups.clone()).collect();
            groups.sort_unstable();
            groups.dedup();
            prop_assert_eq!(groups.len(), plan.groups_per_step * plan.steps as usize);
            let taken: usize = steps.iter().flat_map(|step| &step.lengths).sum();
            let drawn: u64 = steps.iter().map(|step| step.slot_steps_busy).sum();
            prop_assert!(drawn >= taken as u64, "{} tokens learned of {} drawn", taken, drawn);
            let slots = plan.rollout.trajectories_open_max as u64;
            prop_assert!(steps.iter().all(|step| step.slot_steps_busy <= slots * step.decode_steps));
            let bound = plan.queue.staleness_versions_max;
            prop_assert!(steps.iter().all(|step| step.staleness.iter().all(|behind| *behind <= bound)));
            prop_assert!(steps.windows(2).all(|pair| pair[0].ended_s < pair[1].ended_s));
        }
    }

    // In turns the order of events does not hang on time, so what costs more takes longer.
    #[test]
    fn what_costs_more_takes_longer(plan in plans(), more in 0.0..3.0f64) {
        let cheap = run(&plan, "uniform:1,13", &COSTS);
        for costs in [
            CostModel { decode_step_s: COSTS.decode_step_s + more, ..COSTS },
            CostModel { decode_slot_s: COSTS.decode_slot_s + more, ..COSTS },
            CostModel { context_token_s: more, ..COSTS },
            CostModel { prefill_token_s: more, ..COSTS },
            CostModel { learn_token_s: COSTS.learn_token_s + more, ..COSTS },
            CostModel { learn_step_s: COSTS.learn_step_s + more, ..COSTS },
        ] {
            let dear = run(&plan, "uniform:1,13", &costs);
            prop_assert!(cheap.iter().zip(&dear).all(|(one, two)| one.ended_s <= two.ended_s + 1e-9));
        }
    }
}
