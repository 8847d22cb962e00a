//! Evaluations as a user sees them: answers on disk, sets side by side, beside training or in turns, again after a kill, and
//! compared with each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::binary::{longhaul, metrics, repository, success, text_of, without_times};

const SMALL: [&str; 11] = [
    "run.steps=5",
    "run.schedule=deterministic",
    "rollout.output_tokens_max=48",
    "rollout.trajectories_open_max=12",
    "rollout.group_size=4",
    "learner.groups_per_step=3",
    "queue.groups_max=9",
    "queue.staleness_versions_max=2",
    "eval.problems=6",
    "eval.every_steps=2",
    "checkpoint.every_steps=2",
];

/// Two sets, one with several answers to each prompt and an output limit of its own.
const SETS: &str = "eval.sets=[{name = \"short\", output_tokens_max = 24, problems = 3, pass_k = 2, temperature = 1.0}, \
                    {name = \"whole\"}]";

fn set(assignments: &[&str]) -> Vec<String> {
    assignments.iter().flat_map(|assignment| ["--set".to_owned(), (*assignment).to_owned()]).collect()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn train(folder: &Path, more: &[String], faults: &str) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longhaul"));
    command.current_dir(repository()).args(["train", "configs/quickstart.toml", "--run"]).arg(folder);
    command.args(set(&SMALL)).args(more).env("LONGHAUL_FAULTS", faults).output().unwrap()
}

fn trained(more: &[&str]) -> (TempDir, PathBuf) {
    let home = tempdir().unwrap();
    let run = home.path().join("run");
    let output = train(&run, &set(more), "");
    assert!(output.status.success(), "{}", text_of(&output));
    (home, run)
}

/// All answers of a run by their files.
fn answers(run: &Path) -> BTreeMap<String, Vec<Value>> {
    let mut all = BTreeMap::new();
    for step in fs::read_dir(run.join("evals")).unwrap() {
        let step = step.unwrap().path();
        for file in fs::read_dir(&step).unwrap() {
            let file = file.unwrap().path();
            all.insert(file.strip_prefix(run).unwrap().display().to_string(), lines(&file));
        }
    }
    all
}

fn eval(arguments: &[&str]) -> Vec<String> {
    let common = ["eval", "configs/quickstart.toml", "--model", "models/quickstart"];
    common.iter().chain(arguments).map(|argument| (*argument).to_owned()).collect()
}

/// pass@k, avg@k and maj@k of the report, from the answers on disk by their definitions.
#[test]
fn the_numbers_are_those_of_the_answers_on_disk() {
    let place = tempdir().unwrap();
    let (file, numbers) = (place.path().join("answers.jsonl"), place.path().join("numbers.json"));
    let mut arguments = eval(&["--output", file.to_str().unwrap(), "--json", numbers.to_str().unwrap()]);
    arguments.extend(set(&["eval.problems=12", "eval.pass_k=5", "eval.temperature=1.0"]));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let table = success(&arguments);
    for row in ["prompts", "avg@5", "pass@1", "pass@4", "pass@5", "maj@5", "of wrong answers", "cut off"] {
        assert!(table.contains(row), "{row}: {table}");
    }
    let report: Value = serde_json::from_str(&fs::read_to_string(&numbers).unwrap()).unwrap();
    let prompts = lines(&file);
    assert_eq!((prompts.len(), &report["problems"]), (12, &12.into()));
    let right = |prompt: &Value| -> Vec<bool> {
        let answers = prompt["completions"].as_array().unwrap();
        answers.iter().map(|answer| answer["correctness"] == 1).collect()
    };
    let mean = |value: &dyn Fn(&Value) -> f64| prompts.iter().map(value).sum::<f64>() / 12.0;
    let close = |found: &Value, expected: f64| {
        assert!((found.as_f64().unwrap() - expected).abs() < 1e-9, "{found} and {expected}");
    };
    let average = mean(&|prompt| right(prompt).iter().filter(|right| **right).count() as f64 / 5.0);
    close(&report["accuracy"], average);
    close(&report["avg_at_k"]["value"], average);
    for k in [1usize, 2, 4, 5] {
        // All subsets of k of the 5 answers.
        let passes = |prompt: &Value| {
            let right = right(prompt);
            let subsets = (0u32..32).filter(|subset| subset.count_ones() as usize == k);
            let solved = |subset: &u32| (0..5).any(|place| subset >> place & 1 == 1 && right[place]);
            let (all, solved) = (subsets.clone().count(), subsets.filter(solved).count());
            solved as f64 / all as f64
        };
        close(&report["pass_at"][k.to_string()]["value"], mean(&passes));
    }
    let voted = |prompt: &Value| {
        let answers = prompt["completions"].as_array().unwrap();
        let votes: Vec<Option<&str>> = answers.iter().map(|answer| answer["extracted"].as_str()).collect();
        let count = |answer: &Option<&str>| votes.iter().filter(|vote| *vote == answer).count();
        let cast = (0..5).filter(|place| votes[*place].is_some());
        // The first of those with the most votes.
        let winner = cast.rev().max_by_key(|place| count(&votes[*place]));
        f64::from(u8::from(winner.is_some_and(|place| right(prompt)[place])))
    };
    close(&report["maj_at"]["5"]["value"], mean(&voted));
    for prompt in &prompts {
        for answer in prompt["completions"].as_array().unwrap() {
            let text = answer["completion"].as_str().unwrap();
            assert!(answer["tokens"].as_u64().unwrap() >= 1, "{answer}");
            let said = text.trim_end().rsplit_once('#').map(|(_, last)| last);
            assert!(answer["extracted"].is_null() || answer["extracted"].as_str() == said, "{answer}");
            assert!(["stop", "length"].contains(&answer["finish"].as_str().unwrap()), "{answer}");
        }
    }
    let [low, high] = [0, 1].map(|end| report["avg_at_k"]["interval"][end].as_f64().unwrap());
    assert!(low <= average && average <= high && high - low < 1.0, "{report}");
    // The same seed gives the same answers and the same intervals.
    let again = success(&eval_again(&place).iter().map(String::as_str).collect::<Vec<_>>());
    let mut again: Value = serde_json::from_str(&again).unwrap();
    for timed in ["seconds", "tokens_per_second"] {
        again[timed] = report[timed].clone();
    }
    assert_eq!(again, report);
    assert_eq!(lines(&place.path().join("again.jsonl")), prompts);
}

fn eval_again(place: &TempDir) -> Vec<String> {
    let file = place.path().join("again.jsonl");
    let mut arguments = eval(&["--output", file.to_str().unwrap(), "--json", "-"]);
    arguments.extend(set(&["eval.problems=12", "eval.pass_k=5", "eval.temperature=1.0"]));
    arguments
}

#[test]
fn nothing_is_written_where_an_evaluation_fails() {
    let place = tempdir().unwrap();
    let file = place.path().join("answers.jsonl");
    fs::write(&file, "what was there\n").unwrap();
    let arguments =
        ["eval", "configs/quickstart.toml", "--model", "models/none", "--output", file.to_str().unwrap()];
    let output = longhaul(&arguments);
    assert!(!output.status.success());
    assert_eq!(fs::read_to_string(&file).unwrap(), "what was there\n");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "no partial file is left");
    // A file that is read is not written.
    let config = "configs/quickstart.toml";
    let output = longhaul(&["eval", config, "--model", "models/quickstart", "--output", config]);
    assert!(text_of(&output).contains("is read; write to another file"), "{}", text_of(&output));
}

#[test]
fn beside_training_and_in_turns_the_same_is_found_at_the_same_steps() {
    let sets = [SETS];
    let (_one, in_turn) = trained(&[&sets[..], &["eval.beside=false"]].concat());
    let (_two, beside) = trained(&[&sets[..], &["eval.beside=true"]].concat());
    assert_eq!(without_times(metrics(&beside)), without_times(metrics(&in_turn)));
    let found = answers(&beside);
    assert_eq!(found, answers(&in_turn));
    let steps: Vec<u64> = metrics(&beside).iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 1, 2, 3, 4, 5]);
    let measured =
        |line: &Value| line["eval/whole/accuracy"].is_number() && line["eval/short/pass_at_k"].is_number();
    let at: Vec<bool> = metrics(&beside).iter().map(measured).collect();
    assert_eq!(at, [true, false, true, false, true, true]);
    let files: Vec<&str> = found.keys().map(String::as_str).collect();
    let expected: Vec<String> = [0, 2, 4, 5]
        .iter()
        .flat_map(|step| ["short", "whole"].map(|set| format!("evals/step-{step}/{set}.jsonl")))
        .collect();
    assert_eq!(files, expected);
    let short = &found["evals/step-5/short.jsonl"];
    assert_eq!((short.len(), short[0]["completions"].as_array().unwrap().len()), (3, 2));
    assert!(
        short
            .iter()
            .flat_map(|it| it["completions"].as_array().unwrap())
            .all(|it| it["tokens"].as_u64() <= Some(24))
    );
    // The weights are those of the step: its checkpoint gives the same answers.
    let place = tempdir().unwrap();
    let file = place.path().join("answers.jsonl");
    let model = beside.join("checkpoints/step-4");
    let mut arguments =
        ["eval", "configs/quickstart.toml", "--model", model.to_str().unwrap()].map(str::to_owned).to_vec();
    arguments.extend(["--output".to_owned(), file.display().to_string()]);
    arguments.extend(set(&[&SMALL[..], &sets].concat()));
    let told = success(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(told.contains("short") && told.contains("whole"), "{told}");
    let both = [&found["evals/step-4/short.jsonl"][..], &found["evals/step-4/whole.jsonl"]].concat();
    assert_eq!(lines(&file), both);
}

/// Under `async` the rows wait for the evaluation and come in order, whichever is ready first.
#[test]
fn an_async_run_has_its_evaluations_at_their_rows() {
    let (_home, run) = trained(&["run.schedule=async", "eval.every_steps=1"]);
    let rows = metrics(&run);
    let steps: Vec<u64> = rows.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 1, 2, 3, 4, 5]);
    assert!(rows.iter().all(|line| line["eval/accuracy"].is_number()), "{rows:?}");
    assert_eq!(answers(&run).len(), 6);
}

/// A run that is killed while it evaluates beside a step makes the evaluation of its checkpoint again.
#[test]
fn a_run_that_is_killed_in_the_middle_of_an_evaluation_comes_out_the_same() {
    let beside = ["eval.beside=true", "eval.problems=24"];
    let (_whole, whole) = trained(&beside);
    let home = tempdir().unwrap();
    let run = home.path().join("run");
    // The evaluation of step 2 is under way when its checkpoint is written, and the learner is killed at once behind it.
    let output = train(&run, &set(&beside), "learner:kill@3");
    assert!(!output.status.success());
    let state = fs::read_to_string(run.join("checkpoints/step-2/run_state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    let waits = state["metrics"]["held"].as_array().map_or(0, Vec::len);
    assert_eq!((state["evaluating"].as_str(), waits), (Some("between"), 1), "{state}");
    let output = train(&run, &[set(&beside), vec!["--resume".to_owned()]].concat(), "");
    assert!(output.status.success(), "{}", text_of(&output));
    assert_eq!(without_times(metrics(&run)), without_times(metrics(&whole)));
    assert_eq!(answers(&run), answers(&whole));
}

#[test]
fn a_run_says_what_came_of_it_and_compare_says_the_same() {
    let (_home, run) = trained(&["eval.every_steps=0"]);
    let log = fs::read_to_string(run.join("log")).unwrap();
    let (before, after) = (run.join("evals/step-0"), run.join("evals/step-5"));
    let told = success(&["compare", before.to_str().unwrap(), after.to_str().unwrap()]);
    assert!(
        told.contains("held_out: 6 prompts, after against before") && told.contains("(McNemar)"),
        "{told}"
    );
    for line in told.lines() {
        assert!(log.contains(line), "{line}: {log}");
    }
    let json = success(&["compare", before.to_str().unwrap(), after.to_str().unwrap(), "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let accuracy = &json["sets"]["held_out"]["accuracy"];
    let difference = accuracy["after"].as_f64().unwrap() - accuracy["before"].as_f64().unwrap();
    assert!((accuracy["difference"]["value"].as_f64().unwrap() - difference).abs() < 1e-9, "{json}");
    // A prompt less is refused by its name.
    let file = after.join("held_out.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let place = tempdir().unwrap();
    let fewer = place.path().join("fewer.jsonl");
    fs::write(&fewer, rest).unwrap();
    let output = longhaul(&["compare", before.to_str().unwrap(), fewer.to_str().unwrap()]);
    let first: Value = serde_json::from_str(first).unwrap();
    let told = text_of(&output);
    assert!(
        !output.status.success() && told.contains("fewer.jsonl: the set held_out has no answers to"),
        "{told}"
    );
    assert!(told.contains(first["prompt_id"].as_str().unwrap()), "{told}");
}
