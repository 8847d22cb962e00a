//! `bench segments` and `simulate` print the same rows: the one from real runs, the other from a virtual clock.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::tempdir;

use crate::binary::{longhaul, repository, success, text_of};

/// Small enough for a test: outputs of at most 12 of 16 tokens, two groups of two a step.
const SMALL: [&str; 8] = [
    "rollout.output_tokens_max=16",
    "rollout.segments_max=2",
    "rollout.group_size=2",
    "rollout.trajectories_open_max=3",
    "learner.groups_per_step=2",
    "queue.groups_max=6",
    "queue.staleness_versions_max=2",
    "run.steps=4",
];

fn with_set(arguments: &[&'static str]) -> Vec<&'static str> {
    let set = SMALL.iter().flat_map(|assignment| ["--set", *assignment]);
    arguments.iter().copied().chain(set).collect()
}

fn rows(printed: &str) -> Vec<Value> {
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("{key} in {row}"))
}

/// Runs `bench segments` with a folder of its own for what is temporary.
fn bench(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_longhaul"))
        .args(arguments)
        .current_dir(repository())
        .env("TMPDIR", folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}\n{}", text_of(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn rows_come_from_real_runs_with_lengths_from_outside_and_leave_nothing_behind() {
    let place = tempdir().unwrap();
    let arguments = with_set(&[
        "bench",
        "segments",
        "--shape",
        "16,1,2,1,32,128",
        "--segments",
        "0,2",
        "--lengths",
        "uniform:2,12",
        "--json",
    ]);
    let printed = bench(place.path(), &arguments);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "run folders and model are removed");
    let found = rows(&printed);
    assert_eq!(found.iter().map(|row| row["segments"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(found.iter().map(|row| row["slots"].as_u64().unwrap()).collect::<Vec<_>>(), [4, 3]);
    for row in &found {
        assert!(number(row, "trained_tokens_per_s") > 0.0 && number(row, "step_s") > 0.0);
        assert!((0.0..=1.0).contains(&number(row, "slot_use")));
        assert!((2.0..=12.0).contains(&number(row, "mean_length")) && number(row, "max_length") <= 12.0);
        assert_eq!(row["per_step"].as_array().unwrap().len(), 3, "all steps but the first");
        assert!(row["accuracy"].is_null());
    }
    assert_eq!((number(&found[0], "staleness_max"), number(&found[0], "ratio")), (0.0, 1.0));
    assert!(number(&found[1], "staleness_max") <= 2.0);

    // The costs of these rows make a simulation of the same setting.
    let file = place.path().join("rows.jsonl");
    fs::write(&file, printed).unwrap();
    let mut arguments = with_set(&["simulate", "--segments", "0,1,2", "--lengths", "uniform:2,12", "--json"]);
    arguments.extend(["--costs-of", file.to_str().unwrap()]);
    let simulated = rows(&success(&arguments));
    let [whole, one, two, advice] = &simulated[..] else { panic!("three rows and an advice: {simulated:?}") };
    assert_eq!([whole, one, two].map(|row| row["segments"].as_u64().unwrap()), [0, 1, 2]);
    // Row 0 is the same groups in the same order as in the real run, so its lengths are the same numbers.
    assert_eq!(whole["mean_length"], found[0]["mean_length"]);
    assert_eq!(whole["slot_use"], found[0]["slot_use"]);
    assert!(number(two, "trained_tokens_per_s") > 0.0);
    assert!(advice["recommended"]["segments"].as_u64().is_some_and(|segments| [1, 2].contains(&segments)));
    assert!(advice["costs"]["learn_token_s"].as_f64().is_some());
}

#[test]
fn a_config_with_an_evaluation_gets_an_accuracy_at_its_own_lengths() {
    let place = tempdir().unwrap();
    let mut arguments =
        with_set(&["bench", "segments", "configs/quickstart.toml", "--segments", "0,2", "--json"]);
    arguments.extend(["--set", "eval.problems=4", "--set", "learner.dynamic_sampling=off"]);
    let found = rows(&bench(place.path(), &arguments));
    assert_eq!(found.len(), 2);
    for row in &found {
        assert!((0.0..=1.0).contains(&number(row, "accuracy")));
    }
    // The second row ends with the step that reaches the tokens of the first.
    assert!(number(&found[1], "trained_tokens") >= number(&found[0], "trained_tokens"));
}

#[test]
fn a_simulation_needs_no_model_and_says_what_it_recommends() {
    let arguments = with_set(&["simulate", "configs/quickstart.toml", "--lengths", "lognormal:6,0.8"]);
    let printed = success(&arguments);
    assert!(printed.starts_with("segments  slots  tokens/s  ratio"), "{printed}");
    assert!(printed.contains("\nrecommended: rollout.segments_max = "), "{printed}");
    assert_eq!(printed.lines().filter(|line| line.ends_with(" -")).count(), 6, "{printed}");
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let refused = |arguments: &[&str]| {
        let output = longhaul(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(
        refused(&["simulate", "--segments", "3"]),
        "error: rollout.segments_max: 3 segments do not divide output_tokens_max = 512\n"
    );
    assert_eq!(
        refused(&["simulate", "configs/quickstart.toml"]),
        "error: --lengths is needed: a config does not say how long outputs get\n"
    );
    let error = refused(&["bench", "segments", "--shape", "16,1,2,1,32,8"]);
    assert!(error.starts_with("error: --shape 16,1,2,1,32,8: a vocabulary of 8 tokens"), "{error}");
}
