//! Whole runs of the program on the quickstart's model: what they write, that lockstep repeats bit for bit
//! (invariant 7), that segments keep one version each (invariant 1) and that nothing half-written is left.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

use crate::binary::{longhaul, metrics, small_run, success, text_of, without_times};

fn records(run: &Path) -> Vec<Value> {
    let mut files: Vec<_> =
        fs::read_dir(run.join("rollouts")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let texts = files.iter().map(|file| fs::read_to_string(file).unwrap());
    texts
        .flat_map(|text| text.lines().map(|l| serde_json::from_str(l).unwrap()).collect::<Vec<Value>>())
        .collect()
}

#[test]
fn two_lockstep_runs_with_one_seed_are_equal_byte_for_byte() {
    let place = tempdir().unwrap();
    let run = |name: &str, seed: &str| {
        let seed = format!("run.seed={seed}");
        small_run(&place.path().join(name), &["run.schedule=\"lockstep\"", &seed])
    };
    let (first, second, other) = (run("first", "5"), run("second", "5"), run("other", "6"));
    let weights = |run: &Path| fs::read(run.join("checkpoints/step-4/model.safetensors")).unwrap();
    assert_eq!(weights(&first), weights(&second));
    assert_eq!(without_times(metrics(&first)), without_times(metrics(&second)));
    assert_eq!(records(&first), records(&second));
    // The comparison can fail: another seed gives another run.
    assert_ne!(weights(&first), weights(&other));
}

/// What the run's files are for: its completions are judged and computed again, and its folder is told from a model.
fn read_again(run: &Path) {
    let path = |name: &str| run.join(name).to_str().unwrap().to_owned();
    let (rollouts, scored, numbers) =
        (path("rollouts/step-000001.jsonl"), path("scored.jsonl"), path("numbers.jsonl"));
    let lines = |file: &str| -> Vec<Value> {
        fs::read_to_string(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let recorded = lines(&rollouts);
    success(&["score", "--rewards", &path("config.toml"), "--input", &rollouts, "--output", &scored]);
    for (before, now) in recorded.iter().zip(lines(&scored)) {
        assert!(before["answer"].is_string(), "{before}");
        for key in ["reward", "correctness", "parts"] {
            assert_eq!(before[key], now[key], "{before}");
        }
    }
    success(&["logprobs", "--model", "models/quickstart", "--input", &rollouts, "--output", &numbers]);
    let first_weights =
        |record: &Value| record["segments"].as_array().unwrap().iter().all(|s| s["version"] == 0);
    let mut compared = 0;
    for (record, now) in recorded.iter().zip(lines(&numbers)).filter(|(record, _)| first_weights(record)) {
        let numbers = |value: &Value| -> Vec<f64> {
            value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
        };
        let prompt = record["prompt_tokens"].as_array().unwrap().len();
        let (actor, all) = (numbers(&record["actor_logprobs"]), numbers(&now["logprobs"]));
        for (one, other) in actor.iter().zip(&all[prompt - 1..]) {
            assert!((one - other).abs() < 1e-3, "{one} and {other}");
            compared += 1;
        }
    }
    assert!(compared > 0);
    let eval = longhaul(&["eval", "configs/quickstart.toml", "--model", run.to_str().unwrap()]);
    let told = text_of(&eval);
    assert!(
        told.contains("this is the folder of a run; the model is in") && told.contains("step-4"),
        "{told}"
    );
    let resume = ["train", &path("config.toml"), "--resume", run.to_str().unwrap()];
    let told = text_of(&longhaul(&resume));
    assert_eq!(told.matches("all 4 steps of the run are made").count(), 1, "{told}");
    assert!(told.contains(" -> ") && told.contains("on 8 held-out problems"), "{told}");
    let log = fs::read_to_string(run.join("log")).unwrap();
    for line in ["longhaul train", "step 1/4: generating", "step 4/4  reward", "finished after 4 steps"] {
        assert!(log.contains(line), "{line}: {log}");
    }
}

#[test]
fn an_async_run_writes_what_a_run_folder_holds() {
    let place = tempdir().unwrap();
    let run = small_run(&place.path().join("run"), &["queue.staleness_versions_max=1"]);
    for name in ["config.toml", "metrics.jsonl", "tensorboard", "rollouts", "checkpoints/step-4", "log"] {
        assert!(run.join(name).exists(), "{name} is missing");
    }
    let checkpoint = run.join("checkpoints/step-4");
    for name in ["config.json", "model.safetensors", "tokenizer.json", "trainer_state.json"] {
        assert!(checkpoint.join(name).is_file(), "{name} is missing");
    }
    let tags: BTreeSet<String> = metrics(&run)
        .iter()
        .flat_map(|step| step.as_object().unwrap().keys().cloned().collect::<Vec<_>>())
        .collect();
    for tag in [
        "reward",
        "reward_std",
        "rewards/task/mean",
        "rewards/format/mean",
        "rewards/length/mean",
        "frac_reward_zero_std",
        "completions/mean_length",
        "completions/clipped_ratio",
        "clip_ratio/region_mean",
        "training/off_policy/trajectory_spans/mean",
        "training/off_policy/trajectory_staleness/max",
        "time/trainer_waiting_for_data",
        "time/generation_waiting_for_trainer",
        "grpo_lambda/efficiency_groups",
        "queue/groups",
        "segment/slot_use",
        "mismatch/kl",
        "mpt/masked_fraction",
        "streambp/layer_chunks",
        "surrogate/length",
        "timing_s/gen",
        "timing_s/update_actor",
        "eval/accuracy",
    ] {
        assert!(tags.contains(tag), "no {tag} in metrics.jsonl");
    }
    read_again(&run);
    let steps: Vec<u64> = metrics(&run).iter().map(|step| step["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 1, 2, 3, 4]);
    // A finished run is not run over.
    let again = ["train", "configs/quickstart.toml", "--run", run.to_str().unwrap()];
    assert!(!crate::binary::longhaul(&again).status.success());
}

/// Guards invariants 1 and 2: every segment but a trajectory's last is full and bears one version, versions
/// never fall along a trajectory, and every token has its log-prob.
#[test]
fn recorded_segments_are_full_and_their_versions_rise() {
    let place = tempdir().unwrap();
    let run = small_run(&place.path().join("run"), &["learner.dynamic_sampling=drop"]);
    let records = records(&run);
    assert_eq!(records.len(), 4 * 3 * 4);
    for record in &records {
        let segments = record["segments"].as_array().unwrap();
        let tokens = record["completion_tokens"].as_array().unwrap().len();
        let lengths: Vec<u64> = segments.iter().map(|segment| segment["tokens"].as_u64().unwrap()).collect();
        assert_eq!(lengths.iter().sum::<u64>() as usize, tokens);
        assert_eq!(record["actor_logprobs"].as_array().unwrap().len(), tokens);
        assert!(segments.len() <= 4);
        let (last, full) = lengths.split_last().unwrap();
        assert!(full.iter().all(|&length| length == 12) && (1..=12).contains(last), "{lengths:?}");
        let versions: Vec<u64> =
            segments.iter().map(|segment| segment["version"].as_u64().unwrap()).collect();
        assert!(versions.is_sorted(), "{versions:?}");
    }
}

#[test]
fn recorded_completions_are_replayed_to_new_weights() {
    let place = tempdir().unwrap();
    let run = small_run(&place.path().join("run"), &["learner.dynamic_sampling=drop"]);
    let (rollouts, replay) = (run.join("rollouts/step-000001.jsonl"), place.path().join("replay"));
    let arguments = ["replay", "configs/quickstart.toml", "--rollouts", rollouts.to_str().unwrap()];
    let place =
        ["--run", replay.to_str().unwrap(), "--set", "learner.groups_per_step=1", "--set", "run.steps=0"];
    let drops = ["--set", "learner.dynamic_sampling=drop"];
    let said = success(&[&arguments[..], &place, &drops].concat());
    assert_eq!(said.lines().filter(|line| line.starts_with("step ")).count(), 3, "{said}");
    assert!(replay.join("checkpoints/step-3/model.safetensors").is_file());
}

/// A replay needs ids and weights alone: here a checkpoint as transformers saves one, without a tokenizer.
#[test]
fn a_replay_needs_no_tokenizer() {
    let place = tempdir().unwrap();
    let fixtures = crate::binary::repository().join("tests/fixtures");
    let config = format!(
        "[model]\npath = {:?}\n[learner]\ngroups_per_step = 2\nbatch_tokens_max = 64\ndynamic_sampling = \"off\"\n\
         [learner.advantage]\nkind = \"grpo\"\n[optimizer]\nkind = \"sgd\"\nlearning_rate = 0.1\n",
        fixtures.join("replay/model")
    );
    assert!(!fixtures.join("replay/model/tokenizer.json").exists());
    let file = place.path().join("replay.toml");
    fs::write(&file, config).unwrap();
    let (rollouts, run) = (fixtures.join("replay/completions.jsonl"), place.path().join("run"));
    let said = success(&[
        "replay",
        file.to_str().unwrap(),
        "--rollouts",
        rollouts.to_str().unwrap(),
        "--run",
        run.to_str().unwrap(),
    ]);
    assert!(said.contains("weights in"), "{said}");
}

#[test]
fn the_tools_answer() {
    let report = success(&[
        "eval",
        "configs/quickstart.toml",
        "--model",
        "models/quickstart",
        "--json",
        "--set",
        "eval.problems=16",
    ]);
    let report: Value = serde_json::from_str(report.trim()).unwrap();
    assert_eq!(report["problems"], 16);
    assert!(report["accuracy"].as_f64().unwrap() <= 1.0);
    let greedy = ["--set", "rollout.temperature=0", "--set", "rollout.output_tokens_max=64"];
    let prompt = ["generate", "--model", "models/quickstart", "--prompt", "4+3*2="];
    let text = success(&[&prompt[..], &greedy].concat());
    assert!(text.contains('#'), "no answer in {text:?}");
}
