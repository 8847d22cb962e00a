//! Whole runs with exact and with rounded rollouts: how far actors are from the learner (invariant 3 across a
//! run), and that rounded ones learn, with truncated importance sampling.

use serde_json::Value;
use tempfile::tempdir;

use crate::binary::{metrics, small_run, success, without_times};

/// Steps in which every token is of the weights in training: nothing is started ahead of them.
const ON_POLICY: [&str; 3] =
    ["run.schedule=\"lockstep\"", "queue.staleness_versions_max=0", "metrics.console=\"plain\""];

fn steps(set: &[&str]) -> Vec<Value> {
    let place = tempdir().unwrap();
    let run = small_run(&place.path().join("run"), &[&ON_POLICY[..], set].concat());
    let steps: Vec<Value> =
        metrics(&run).into_iter().filter(|step| step.get("mismatch/kl").is_some()).collect();
    assert!(!steps.is_empty(), "no step was made");
    steps
}

fn number(step: &Value, tag: &str) -> f64 {
    step[tag].as_f64().unwrap_or_else(|| panic!("no {tag} in {step}"))
}

#[test]
fn a_lockstep_run_in_f32_has_no_mismatch() {
    for step in steps(&[]) {
        assert_eq!(number(&step, "training/off_policy/trajectory_staleness_worst/max"), 0.0);
        let kl = number(&step, "mismatch/kl");
        assert!((0.0..1e-9).contains(&kl), "{kl}");
        assert!(step.get("mismatch/tis_weight/mean").is_none(), "off with f32 rollouts");
        assert!(number(&step, "timing_s/pack") > 0.0);
    }
}

#[test]
fn rounded_rollouts_have_a_small_mismatch_and_bounded_weights() {
    for (precision, kl_max) in [("bf16", 1e-3), ("i8", 1e-2)] {
        let precision = format!("rollout.precision=\"{precision}\"");
        let steps = steps(&[&precision]);
        for step in &steps {
            let kl = number(step, "mismatch/kl");
            assert!(kl > 1e-9 && kl < kl_max, "{precision}: {kl}");
            let weight = |name| number(step, &format!("mismatch/tis_weight/{name}"));
            assert!(weight("min") > 0.0 && weight("max") <= 2.0, "{step}");
            assert!((weight("mean") - 1.0).abs() < 0.1, "{step}");
            assert!(number(step, "mismatch/tis_capped_fraction") < 0.05, "{step}");
        }
        // Rounding is of the weights alone, so that the run repeats.
        assert_eq!(without_times(steps), without_times(self::steps(&[&precision])));
    }
}

#[test]
fn a_run_with_rounded_rollouts_learns() {
    let place = tempdir().unwrap();
    let folder = place.path().join("run");
    let mut arguments = vec!["train", "configs/quickstart.toml", "--run", folder.to_str().unwrap()];
    for assignment in [
        "run.schedule=\"lockstep\"",
        "run.steps=8",
        "rollout.precision=\"bf16\"",
        "rollout.output_tokens_max=64",
        "learner.groups_per_step=8",
        "optimizer.warmup_steps=1",
        "eval.problems=64",
        "eval.every_steps=0",
        "checkpoint.every_steps=0",
        "metrics.console=\"plain\"",
    ] {
        arguments.extend(["--set", assignment]);
    }
    success(&arguments);
    let steps = metrics(&folder);
    let accuracy = |step: &Value| number(step, "eval/accuracy");
    let (before, after) = (accuracy(&steps[0]), accuracy(steps.last().unwrap()));
    assert!(after > before + 0.15, "{before} before and {after} after");
}

/// All caches are rebuilt, none, or those of short contexts, and the two counters add up to the same work.
#[test]
fn what_becomes_of_caches_is_counted() {
    let counted = |on_update: &str| {
        let place = tempdir().unwrap();
        let set = ["run.schedule=\"lockstep\"", &format!("rollout.on_update=\"{on_update}\"")];
        let steps = metrics(&small_run(&place.path().join("run"), &set));
        let sum = |tag: &str| steps.iter().filter_map(|step| step[tag].as_f64()).sum::<f64>();
        (sum("segment/context_tokens_recomputed"), sum("segment/context_tokens_kept"))
    };
    let (recompute, keep, auto) = (counted("recompute"), counted("keep"), counted("auto"));
    assert!(recompute.0 > 0.0 && recompute.1 == 0.0, "{recompute:?}");
    assert!(keep.0 == 0.0 && keep.1 > 0.0, "{keep:?}");
    assert!(auto.0 > 0.0 && auto.1 > 0.0, "{auto:?}");
}
