//! Whole runs that train adapters: their actors decode with what the learner trains, a killed run is the run, checkpoints
//! are adapters of peft's and every command reads them, and a base that is another one is refused.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;
use tempfile::tempdir;

use crate::binary::{longhaul, metrics, repository, small_run, success, text_of};
use crate::parity::tensors_of;

mod killed;

const LORA: [&str; 4] = [
    "learner.lora.rank=4",
    "learner.lora.alpha=8.0",
    "learner.lora.target_modules=\"all-linear\"",
    "optimizer.learning_rate=2e-3",
];

fn adapter_run(folder: &Path, set: &[&str]) -> PathBuf {
    small_run(folder, &[&LORA[..], &["metrics.console=\"plain\""], set].concat())
}

fn path_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn files_of(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The largest magnitude of the matrices of an adapter whose names have this word.
fn largest(checkpoint: &Path, word: &str) -> Vec<f32> {
    let bytes = fs::read(checkpoint.join("adapter_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let of_word = file.iter().filter(|(name, _)| name.contains(word));
    let magnitude = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes).abs();
    of_word.map(|(_, view)| view.data().as_chunks().0.iter().map(magnitude).fold(0.0, f32::max)).collect()
}

// Invariant 3 across a run of adapters: what actors decode with is what the learner trains.
#[test]
fn a_lockstep_run_of_adapters_has_no_mismatch() {
    let place = tempdir().unwrap();
    let set = ["run.schedule=\"lockstep\"", "queue.staleness_versions_max=0"];
    let run = adapter_run(&place.path().join("run"), &set);
    let steps: Vec<Value> =
        metrics(&run).into_iter().filter(|step| step.get("mismatch/kl").is_some()).collect();
    assert_eq!(steps.len(), 4);
    for step in &steps {
        let kl = step["mismatch/kl"].as_f64().unwrap();
        assert!((0.0..1e-9).contains(&kl), "{kl}");
        assert!(step["grad_norm"].as_f64().unwrap() > 0.0, "{step}");
    }
    // Of 4 layers: q, k, v and o are 128 x 128, gate, up and down 128 x 512.
    let trained = 4 * 4 * (4 * (128 + 128) + 3 * (128 + 512));
    assert_eq!(steps[0]["training/parameters/trained"], f64::from(trained));
    let total = steps[0]["training/parameters/total"].as_f64().unwrap();
    assert!(total > 1e6 + f64::from(trained), "{total}");
    assert!(steps[1].get("training/parameters/trained").is_none(), "said once");
    let checkpoint = run.join("checkpoints/step-4");
    assert!(largest(&checkpoint, "lora_B").iter().all(|largest| *largest > 0.0), "an adapter trains nothing");
    assert_eq!(largest(&checkpoint, "lora_B").len(), 28);
}

#[test]
fn rounded_rollouts_of_adapters_have_a_small_mismatch() {
    let place = tempdir().unwrap();
    let set = ["run.schedule=\"lockstep\"", "queue.staleness_versions_max=0", "rollout.precision=\"bf16\""];
    let run = adapter_run(&place.path().join("run"), &set);
    for step in metrics(&run).iter().filter_map(|step| step["mismatch/kl"].as_f64()) {
        assert!(step > 1e-9 && step < 1e-3, "{step}");
    }
}

/// Nothing of the base is in a checkpoint. Returns how many older versions it holds.
fn assert_adapters_alone(checkpoint: &Path) -> usize {
    let files = files_of(checkpoint);
    assert!(!files.iter().any(|name| name == "config.json" || name.starts_with("model")), "{files:?}");
    assert!(files.iter().any(|name| name == "adapter_config.json"), "{files:?}");
    let older: Vec<&String> = files.iter().filter(|name| name.starts_with("policy-")).collect();
    for name in &older {
        let expected = ["adapter_config.json", "adapter_model.safetensors"];
        assert_eq!(files_of(&checkpoint.join(name)), expected);
    }
    older.len()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Log-probabilities of the tokens of a run's first step under a model.
fn logprobs(model: &Path, run: &Path, more: &[&str]) -> Vec<f64> {
    let home = tempdir().unwrap();
    let (input, output) = (run.join("rollouts/step-000001.jsonl"), home.path().join("out.jsonl"));
    let arguments =
        ["logprobs", "--model", path_of(model), "--input", path_of(&input), "--output", path_of(&output)];
    success(&[&arguments[..], more].concat());
    let lines = fs::read_to_string(&output).unwrap();
    let rows = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.flat_map(|row| row["logprobs"].as_array().unwrap().clone())
        .map(|number| number.as_f64().unwrap())
        .collect()
}

fn assert_near(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    let worst = found.iter().zip(expected).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-4, "{worst}");
}

#[test]
fn every_command_reads_a_checkpoint_of_adapters() {
    let place = tempdir().unwrap();
    let run = adapter_run(
        &place.path().join("run"),
        &["run.schedule=\"deterministic\"", "optimizer.learning_rate=1e-2"],
    );
    let adapter = run.join("checkpoints/step-4");
    let base = repository().join("models/quickstart");
    let own = logprobs(&adapter, &run, &[]);
    assert_near(&logprobs(&adapter, &run, &["--cached"]), &own);
    let of_base = logprobs(&base, &run, &[]);
    assert!(
        own.iter().zip(&of_base).any(|(one, other)| (one - other).abs() > 1e-2),
        "the adapter does nothing"
    );

    // The base is found by the flag where the one that is named has moved.
    let (moved, elsewhere) = (place.path().join("adapter"), place.path().join("base"));
    copy(&adapter, &moved);
    copy(&base, &elsewhere);
    let config = fs::read_to_string(moved.join("adapter_config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["base_model_name_or_path"], path_of(&base));
    config["base_model_name_or_path"] = "org/no-such-model".into();
    fs::write(moved.join("adapter_config.json"), config.to_string()).unwrap();
    let input = run.join("rollouts/step-000001.jsonl");
    let output = place.path().join("never.jsonl");
    let refused =
        ["logprobs", "--model", path_of(&moved), "--input", path_of(&input), "--output", path_of(&output)];
    let told = text_of(&longhaul(&refused));
    assert!(told.contains("org/no-such-model") && told.contains("--base DIR"), "{told}");
    assert_eq!(logprobs(&moved, &run, &["--base", path_of(&elsewhere)]), own);
    let told = text_of(&longhaul(&[
        "generate",
        "--model",
        path_of(&base),
        "--base",
        path_of(&elsewhere),
        "--prompt",
        "1+2=",
    ]));
    assert!(told.contains("is no adapter"), "{told}");

    let greedy = ["--prompt", "4+3*2-5=", "--set", "rollout.temperature=0"];
    let said = success(&[&["generate", "--model", path_of(&adapter)][..], &greedy].concat());
    let with_base = ["generate", "--model", path_of(&moved), "--base", path_of(&elsewhere)];
    assert_eq!(success(&[&with_base[..], &greedy].concat()), said);
    let eval = [
        "eval",
        "configs/quickstart.toml",
        "--model",
        path_of(&adapter),
        "--set",
        "eval.problems=8",
        "--json",
    ];
    let report: Value = serde_json::from_str(success(&eval).lines().last().unwrap()).unwrap();
    assert_eq!(report["problems"], 8);
}

/// The learner alone makes the steps of a run.
#[test]
fn a_replay_trains_adapters_as_the_run_did() {
    let place = tempdir().unwrap();
    // A recording has log-probabilities to some digits, which the first steps of AdamW make much of.
    let descent = ["optimizer.kind=\"sgd\"", "optimizer.learning_rate=0.5"];
    let set = [
        "run.schedule=\"lockstep\"",
        "learner.dynamic_sampling=\"off\"",
        "run.steps=2",
        descent[0],
        descent[1],
    ];
    let run = adapter_run(&place.path().join("run"), &set);
    let rollouts = place.path().join("rollouts.jsonl");
    let steps =
        [1, 2].map(|step| fs::read_to_string(run.join(format!("rollouts/step-{step:06}.jsonl"))).unwrap());
    fs::write(&rollouts, steps.concat()).unwrap();
    let again = place.path().join("again");
    let config = run.join("config.toml");
    success(&["replay", path_of(&config), "--rollouts", path_of(&rollouts), "--run", path_of(&again)]);
    let [one, other] = [&run, &again].map(|run| run.join("checkpoints/step-2"));
    let matrices = |checkpoint: &Path| -> Vec<f64> {
        let tensors = tensors_of(&checkpoint.join("adapter_model.safetensors"));
        tensors.into_values().flat_map(|tensor| tensor.values).map(f64::from).collect()
    };
    let (of_run, of_replay) = (matrices(&one), matrices(&other));
    assert_near(&of_replay, &of_run);
    assert!(largest(&one, "lora_B").iter().fold(0.0_f32, |most, own| most.max(*own)) > 1e-3);
    assert_adapters_alone(&other);
    // From the checkpoint the replay goes on with its adapter.
    let on = place.path().join("on");
    let model = format!("model.path={}", path_of(&other));
    let arguments = [
        "replay",
        path_of(&config),
        "--rollouts",
        path_of(&rollouts),
        "--run",
        path_of(&on),
        "--set",
        &model,
    ];
    success(&arguments);
    assert!(largest(&on.join("checkpoints/step-2"), "lora_B") != largest(&other, "lora_B"));
}

#[test]
fn a_run_goes_on_from_an_adapter_or_from_the_sum() {
    let place = tempdir().unwrap();
    let first = adapter_run(&place.path().join("first"), &["run.schedule=\"lockstep\"", "run.steps=1"]);
    let adapter = first.join("checkpoints/step-1");
    let path = format!("model.path={}", path_of(&adapter));
    // A rate of 0: what comes out is what went in.
    let still = ["run.schedule=\"lockstep\"", "run.steps=1", "optimizer.learning_rate=0.0"];
    let tensors = |run: &Path| fs::read(run.join("checkpoints/step-1/adapter_model.safetensors")).unwrap();
    let on = adapter_run(&place.path().join("on"), &[&still[..], &[&path]].concat());
    assert_eq!(tensors(&on), tensors(&first));
    let key = format!("learner.lora.adapter={}", path_of(&adapter));
    let by_key = adapter_run(&place.path().join("key"), &[&still[..], &[&key]].concat());
    assert_eq!(tensors(&by_key), tensors(&first));
    // Without the section all weights of the sum are trained.
    let sum = small_run(&place.path().join("sum"), &[&still[..], &[&path]].concat());
    assert!(sum.join("checkpoints/step-1/model.safetensors").exists());
    let own = logprobs(&adapter, &first, &[]);
    assert_near(&logprobs(&sum.join("checkpoints/step-1"), &first, &[]), &own);
    // Another form than the adapter's is refused.
    let run = place.path().join("other");
    let mut arguments = vec!["train", "configs/quickstart.toml", "--run", path_of(&run), "--set", &path];
    for assignment in LORA.iter().chain(&["learner.lora.rank=2"]) {
        arguments.extend(["--set", assignment]);
    }
    let told = text_of(&longhaul(&arguments));
    assert!(told.contains("learner.lora: rank = 2") && told.contains("has 4"), "{told}");
    let checked: Vec<&str> =
        arguments.iter().copied().filter(|word| ![path_of(&run), "--run"].contains(word)).collect();
    let told = text_of(&longhaul(&[&["check"][..], &checked[1..]].concat()));
    assert!(told.contains("learner.lora: rank = 2"), "{told}");
}

#[test]
fn a_fork_takes_the_adapter_and_its_moments() {
    let place = tempdir().unwrap();
    let first = adapter_run(&place.path().join("first"), &["run.schedule=\"lockstep\"", "run.steps=2"]);
    let forked = place.path().join("forked");
    let config = first.join("config.toml");
    let still = ["--set", "optimizer.learning_rate=0.0", "--set", "run.steps=1"];
    let fork =
        ["train", path_of(&config), "--run", path_of(&forked), "--fork", path_of(&first), "--fork-optimizer"];
    success(&[&fork[..], &still].concat());
    let read = |run: &Path, step: u64| {
        fs::read(run.join(format!("checkpoints/step-{step}/adapter_model.safetensors"))).unwrap()
    };
    assert_eq!(read(&forked, 1), read(&first, 2));
}

#[test]
fn a_resume_beside_another_base_is_refused_by_name() {
    let place = tempdir().unwrap();
    let base = place.path().join("base");
    copy(&repository().join("models/quickstart"), &base);
    let path = format!("model.path={}", path_of(&base));
    let run = adapter_run(&place.path().join("run"), &["run.schedule=\"lockstep\"", "run.steps=2", &path]);
    let config = run.join("config.toml");
    let weights = base.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&weights, &bytes).unwrap();
    let resume = ["train", path_of(&config), "--resume", path_of(&run)];
    let told = text_of(&longhaul(&resume));
    assert!(told.contains("adapters belong to the model of") && told.contains("is another"), "{told}");
    bytes[last] ^= 1;
    fs::write(&weights, &bytes).unwrap();
    success(&resume);
    // The same base at another place is no other base.
    let moved = place.path().join("moved");
    fs::rename(&base, &moved).unwrap();
    let told = text_of(&longhaul(&resume));
    assert!(told.contains(path_of(&base)), "{told}");
    let with_base = format!("model.base={}", path_of(&moved));
    let paths = format!("model.path={}", path_of(&run.join("checkpoints/step-2")));
    let resume = [&resume[..], &["--set", &with_base, "--set", &paths, "--allow-config-change"]].concat();
    let told = success(&resume);
    assert!(told.contains("all 2 steps of the run are made"), "{told}");
}

#[test]
fn what_cannot_be_trained_is_refused_by_its_key() {
    let home = tempdir().unwrap();
    let run = home.path().join("run");
    let told = |set: &[&str], command: &str| {
        let mut arguments = vec![command, "configs/quickstart.toml"];
        if command == "train" {
            arguments.extend(["--run", path_of(&run)]);
        }
        set.iter().for_each(|assignment| arguments.extend(["--set", assignment]));
        let output = longhaul(&arguments);
        assert!(!output.status.success() && !run.exists(), "{}", text_of(&output));
        text_of(&output)
    };
    let modules = "learner.lora.target_modules=[\"q_proj\",\"lm_head\"]";
    for command in ["train", "check"] {
        let message = told(&[LORA[0], LORA[1], modules], command);
        assert!(
            message.contains("learner.lora.target_modules: ") && message.contains("\"lm_head\""),
            "{message}"
        );
        assert!(
            message.contains("q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"),
            "{message}"
        );
        let message = told(&[&LORA[..], &["learner.lora.dropout=0.1"]].concat(), command);
        assert!(message.contains("learner.lora.dropout: 0.1"), "{message}");
        let message = told(&[&LORA[..], &["learner.lora.rank=0"]].concat(), command);
        assert!(message.contains("learner.lora.rank: must be at least 1"), "{message}");
        let message = told(&[&LORA[..], &["learner.lora.alpha=0.0"]].concat(), command);
        assert!(message.contains("learner.lora.alpha: 0 is not a finite number above 0"), "{message}");
        let message = told(&[&LORA[..], &["learner.lora.target_modules=\"q_proj\""]].concat(), command);
        assert!(message.contains("write [\"q_proj\"]"), "{message}");
        let message = told(&[&LORA[..], &["learner.lora.ranks=1"]].concat(), command);
        assert!(message.contains("learner.lora") && message.contains("rank"), "{message}");
    }
}

#[test]
fn check_says_how_much_is_trained_and_plans_for_it() {
    let mut arguments = vec!["check", "configs/quickstart.toml"];
    let whole = success(&arguments);
    LORA.iter().for_each(|assignment| arguments.extend(["--set", assignment]));
    let adapters = success(&arguments);
    let trained = 4 * 4 * (4 * (128 + 128) + 3 * (128 + 512));
    assert!(adapters.contains(&format!("# Trained: {trained} numbers of adapters of rank 4")), "{adapters}");
    assert!(!whole.contains("# Trained"), "{whole}");
    let planned = |said: &str, part: &str| -> f64 {
        let line = said.lines().find(|line| line.starts_with(&format!("# {part}"))).unwrap();
        line.split_whitespace().last().unwrap().parse().unwrap()
    };
    for part in ["moments of the optimizer", "gradients"] {
        assert!(planned(&adapters, part) * 10.0 < planned(&whole, part), "{part}");
    }
    assert!(planned(&adapters, "at most at one time") < planned(&whole, "at most at one time"));
}

const SFT: &str = r#"
[run]
seed = 3
[model]
path = "BASE"
[data]
kind = "task"
name = "machine"
difficulty_min = 3
difficulty_max = 5
[sft]
steps_max = 40
batch_size = 8
batch_tokens_max = 2048
output_tokens_max = 32
[sft.demonstrations]
hasty = 0.0
careful = 0.0
verbose = 1.0
[optimizer]
kind = "adamw"
learning_rate = 3e-3
[eval]
before = false
after = true
problems = 4
"#;

/// A warm start by adapters learns, and writes adapters.
#[test]
fn demonstrations_are_learned_by_adapters() {
    let place = tempdir().unwrap();
    let config = place.path().join("sft.toml");
    let base = repository().join("models/quickstart");
    fs::write(&config, SFT.replace("BASE", path_of(&base))).unwrap();
    let run = place.path().join("run");
    let mut arguments = vec!["sft", path_of(&config), "--run", path_of(&run)];
    let lora = [
        "sft.lora.rank=8",
        "sft.lora.alpha=16.0",
        "sft.lora.target_modules=[\"q_proj\",\"v_proj\",\"down_proj\"]",
    ];
    lora.iter().for_each(|assignment| arguments.extend(["--set", assignment]));
    success(&arguments);
    let losses: Vec<f64> = metrics(&run).iter().filter_map(|step| step["loss"].as_f64()).collect();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..5]), mean(&losses[losses.len() - 5..]));
    assert!(last < 0.7 * first, "from {first} to {last}");
    let checkpoint = run.join("checkpoints/step-40");
    assert_adapters_alone(&checkpoint);
    assert_eq!(largest(&checkpoint, "lora_A").len(), 12);
    success(&[
        "generate",
        "--model",
        path_of(&checkpoint),
        "--prompt",
        "1+2-1=",
        "--set",
        "rollout.temperature=0",
    ]);
    arguments.extend(["--overwrite", "--set", "sft.lora.target_modules=[\"proj\"]"]);
    let told = text_of(&longhaul(&arguments));
    assert!(told.contains("sft.lora.target_modules: "), "{told}");
    assert!(checkpoint.exists(), "a config that is refused costs no run");
}
