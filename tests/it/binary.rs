//! Runs the built program in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs `longhaul` in the repository.
pub(crate) fn longhaul(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_longhaul")).args(arguments).current_dir(repository()).output().unwrap()
}

/// Runs `longhaul` and returns what it printed; fails with all its output if it fails.
pub(crate) fn success(arguments: &[&str]) -> String {
    let output = longhaul(arguments);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}\n{out}\n{err}");
    out.into_owned()
}

/// The steps in a run folder's `metrics.jsonl`.
pub(crate) fn metrics(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Families of tags that differ between equal runs: times, and what a resumed run fills its caches with once more.
const TIMED: [&str; 4] = ["timing_s/", "time/", "perf/", "segment/prefill_tokens"];

/// The metrics that equal runs have in common.
pub(crate) fn without_times(steps: Vec<Value>) -> Vec<Value> {
    let mut steps = steps;
    for step in &mut steps {
        let step = step.as_object_mut().unwrap();
        step.retain(|tag, _| !TIMED.iter().any(|family| tag.starts_with(family)));
    }
    steps
}

/// All that a program printed.
pub(crate) fn text_of(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}\n{err}")
}

/// A small run of the quickstart's config.
pub(crate) fn small_run(run: &Path, set: &[&str]) -> PathBuf {
    let mut arguments = vec!["train", "configs/quickstart.toml", "--run", run.to_str().unwrap()];
    let small = [
        "run.steps=4",
        "rollout.output_tokens_max=48",
        "rollout.segments_max=4",
        "rollout.trajectories_open_max=12",
        "rollout.group_size=4",
        "learner.groups_per_step=3",
        "queue.groups_max=9",
        "queue.staleness_versions_max=2",
        "eval.problems=8",
        "eval.every_steps=0",
        "checkpoint.every_steps=2",
    ];
    for assignment in small.iter().chain(set) {
        arguments.extend(["--set", assignment]);
    }
    success(&arguments);
    run.to_owned()
}
