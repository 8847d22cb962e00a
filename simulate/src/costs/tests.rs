//! Tests of `costs.rs`.

use proptest::prelude::{ProptestConfig, prop_assert, proptest};

use super::*;
use trajectory::random::fraction;

const COSTS: CostModel = CostModel {
    decode_step_s: 0.02,
    decode_slot_s: 0.001,
    context_token_s: 2e-6,
    prefill_token_s: 5e-4,
    learn_token_s: 0.002,
    learn_step_s: 0.25,
    contention: Contention { decode: 2.4, learn: 1.6 },
};

fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() <= 1e-6 * expected.abs().max(1e-9)
}

#[test]
fn decode_steps_cost_what_a_loop_over_them_costs() {
    let mut looped = 0.0;
    for step in 0..7 {
        looped += 2.0 * COSTS.decode_step_s + 3.0 * COSTS.decode_slot_s;
        looped += COSTS.context_token_s * f64::from(100 + 3 * step);
    }
    let work = DecodeWork { versions: 2, slots: 3, context_tokens: 100 };
    assert!(close(COSTS.decode_s(work, 7), looped));
    assert!(close(COSTS.learn_s(100), 0.45));
}

/// A step with work of its own; `overlaps` says that both sides go on at the same time.
fn step(seed: u64, number: u64, overlaps: bool) -> Observation {
    let random = |what: u64, low: f64, high: f64| low + (high - low) * fraction(&[seed, number, what]);
    let mut made = Observation {
        weight_passes: random(0, 100.0, 500.0),
        tokens: random(1, 1000.0, 3000.0),
        context_token_steps: random(2, 1e5, 1e6),
        prefill_tokens: if overlaps { random(3, 500.0, 3000.0) } else { 0.0 },
        trained_tokens: random(4, 1000.0, 3000.0),
        ..Observation::default()
    };
    let decode_s = COSTS.decode_step_s * made.weight_passes
        + COSTS.decode_slot_s * made.tokens
        + COSTS.context_token_s * made.context_token_steps
        + COSTS.prefill_token_s * made.prefill_tokens;
    let learn_s = COSTS.learn_step_s + COSTS.learn_token_s * made.trained_tokens;
    // Side by side from the start: until one has ended both are slow.
    let Contention { decode, learn } = COSTS.contention;
    let both_s = if overlaps { (decode_s * decode).min(learn_s * learn) } else { 0.0 };
    made.decode_s = decode_s + both_s * (1.0 - 1.0 / decode);
    made.learn_s = learn_s + both_s * (1.0 - 1.0 / learn);
    made.wall_s = made.decode_s + made.learn_s - both_s;
    made
}

fn run(seed: u64, overlaps: bool) -> Vec<Observation> {
    (0..12).map(|number| step(seed, number, overlaps)).collect()
}

fn assert_found(found: &CostModel, expected: &CostModel) {
    let pairs = [
        (found.decode_step_s, expected.decode_step_s),
        (found.decode_slot_s, expected.decode_slot_s),
        (found.context_token_s, expected.context_token_s),
        (found.prefill_token_s, expected.prefill_token_s),
        (found.learn_token_s, expected.learn_token_s),
        (found.learn_step_s, expected.learn_step_s),
        (found.contention.decode, expected.contention.decode),
        (found.contention.learn, expected.contention.learn),
    ];
    assert!(pairs.iter().all(|(one, two)| close(*one, *two)), "{found:?}");
}

#[test]
fn costs_are_found_again_from_runs_of_both_kinds() {
    let found = fit(&[run(1, false), run(2, true), run(3, true)], None).expect("enough steps");
    assert_found(&found, &COSTS);
}

#[test]
fn turns_alone_say_nothing_of_contention() {
    let contention = Contention::of_both(1.3);
    let found = fit(&[run(1, false)], Some(contention)).expect("enough steps");
    assert_found(&found, &CostModel { contention, prefill_token_s: COSTS.decode_slot_s, ..COSTS });
}

/// Runs that rebuild nothing: what their few prompt tokens cost is no place for what the sides take from each other.
#[test]
fn few_tokens_of_prompts_cost_what_a_slot_does() {
    let prompts = |mut step: Observation, overlaps: bool| {
        let own_s = if overlaps { COSTS.prefill_token_s * step.prefill_tokens } else { 0.0 };
        step.prefill_tokens = 60.0;
        step.decode_s += COSTS.decode_slot_s * 60.0 - own_s;
        step.wall_s += COSTS.decode_slot_s * 60.0 - own_s;
        step
    };
    let runs = [(1, false), (2, true), (3, true)];
    let runs = runs.map(|(seed, overlaps)| {
        run(seed, overlaps).into_iter().map(|step| prompts(step, overlaps)).collect::<Vec<_>>()
    });
    let found = fit(&runs, None).expect("enough steps");
    assert_found(&found, &CostModel { prefill_token_s: COSTS.decode_slot_s, ..COSTS });
}

#[test]
fn a_run_at_the_same_time_is_read_with_the_contention_that_is_given() {
    let found = fit(&[run(5, true)], Some(COSTS.contention)).expect("enough steps");
    // Which steps lost how much is not seen, only the run's sum.
    let whole = |costs: &CostModel| {
        sum(&run(5, true), |step| {
            costs.decode_step_s * step.weight_passes
                + costs.decode_slot_s * step.tokens
                + costs.context_token_s * step.context_token_steps
                + costs.prefill_token_s * step.prefill_tokens
        })
    };
    assert!((whole(&found) / whole(&COSTS) - 1.0).abs() < 0.05, "{found:?}");
}

#[test]
fn steps_that_would_make_decoding_free_give_all_time_to_passes() {
    let step = |passes: f64, contexts: f64| Observation {
        weight_passes: passes,
        tokens: 10.0 * passes,
        context_token_steps: contexts,
        decode_s: 1e-3 * contexts,
        learn_s: 1.0,
        trained_tokens: 10.0,
        wall_s: 1.0 + 1e-3 * contexts,
        ..Observation::default()
    };
    let found =
        fit(&[vec![step(4.0, 700.0), step(3.0, 900.0), step(5.0, 800.0)]], None).expect("enough steps");
    assert!(close(found.decode_step_s, 0.2) && found.context_token_s == 0.0, "{found:?}");
    found.check().expect("they can be");
}

#[test]
fn too_few_steps_and_impossible_costs_are_refused() {
    assert_eq!(
        fit(&[vec![Observation::default(); 2]], None).expect_err("two steps"),
        "2 steps beside the first of each run; costs need 3"
    );
    COSTS.check().expect("they can be");
    let negative = CostModel { learn_token_s: -1.0, ..COSTS };
    assert!(negative.check().expect_err("negative").starts_with("learn_token must"));
    let half = CostModel { contention: Contention::of_both(0.5), ..COSTS };
    assert!(half.check().expect_err("faster together").starts_with("contention must"));
    let free = CostModel { decode_step_s: 0.0, decode_slot_s: 0.0, ..COSTS };
    assert!(free.check().expect_err("no time").contains("would take no time"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_choice_of_factors_without_negative_ones_fits_better(seed: u64) {
        let random = |words: &[u64]| fraction(&[&[seed], words].concat()) * 2.0 - 1.0;
        let rows: Vec<([f64; 3], f64)> = (0..6)
            .map(|row| (std::array::from_fn(|column| random(&[row, column as u64])), random(&[row, 9])))
            .collect();
        let errors = |factors: [f64; 3]| -> f64 {
            let found = |row: &[f64; 3]| row.iter().zip(&factors).map(|(a, b)| a * b).sum::<f64>();
            rows.iter().map(|(row, value)| (found(row) - value).powi(2)).sum()
        };
        let best = non_negative(&rows);
        prop_assert!(best.iter().all(|factor| *factor >= 0.0));
        for other in 0..200 {
            let near = std::array::from_fn(|i| (best[i] + 0.1 * random(&[7, other, i as u64])).max(0.0));
            prop_assert!(errors(best) <= errors(near) + 1e-9);
        }
    }
}
