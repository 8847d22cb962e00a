//! Guards invariant 10 and the promise of StreamBP: the chunked step needs at most a third of the memory of
//! the whole one on a long sequence. Measured as the peak of a process of its own for each.

use serde_json::Value;

use crate::binary::{metrics, success};

fn peak_bytes(path: &str) -> f64 {
    let said =
        success(&["bench", "streambp", "--tokens", "2048", "--paths", path, "--repeats", "1", "--json"]);
    let row: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(row["path"], path);
    row["peak_bytes"].as_f64().unwrap()
}

#[test]
fn the_chunked_step_needs_a_third_of_the_memory() {
    let (whole, streamed) = (peak_bytes("unchunked"), peak_bytes("streambp"));
    assert!(streamed * 3.0 <= whole, "{streamed} bytes streamed, {whole} whole");
}

/// `longhaul check`'s plan and the peak of the run that it is for, in MiB. The model is small, so that much of both is
/// the program and of a plan for all prompts at their longest; `scripts/memory_plan.py` measures a larger one.
fn planned_and_peak(set: &[&str]) -> (f64, f64) {
    let home = tempfile::tempdir().unwrap();
    let run = home.path().join("run");
    // Outputs that are nearly as long as they can get, of unequal worth, so that every step is as large as it can be.
    let small = [
        "run.steps=6",
        "learner.groups_per_step=4",
        "learner.dynamic_sampling=off",
        "eval.problems=32",
        "eval.every_steps=2",
        "rollout.min_tokens=120",
        "rollout.truncated_reward=scored",
    ];
    let sets: Vec<&str> = small.iter().chain(set).flat_map(|set| ["--set", *set]).collect();
    let checked = success(&[&["check", "configs/quickstart.toml"][..], &sets].concat());
    let total = checked.lines().find_map(|line| line.strip_prefix("# at most at one time")).unwrap();
    let arguments = ["train", "configs/quickstart.toml", "--run", run.to_str().unwrap()];
    success(&[&arguments[..], &sets].concat());
    let peak = metrics(&run).last().unwrap()["perf/memory_peak_bytes"].as_f64().unwrap();
    (total.trim().parse().unwrap(), peak / f64::from(1 << 20))
}

#[test]
fn a_run_stays_within_its_plan() {
    for set in [
        &[][..],
        &["run.schedule=lockstep", "rollout.precision=bf16", "rollout.kv_cache=bf16"],
        &["run.schedule=deterministic", "rollout.in_flight_updates=true", "learner.batch_tokens_max=1024"],
    ] {
        let (planned, peak) = planned_and_peak(set);
        assert!(
            peak <= 1.05 * planned && planned <= 1.6 * peak,
            "{set:?}: {planned} MiB planned, {peak} held"
        );
    }
}
