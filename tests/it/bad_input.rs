//! Bad input to the binary: one line that names the file, line or key, another exit code than 0, and no panic.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::binary::repository;

/// A folder with everything that a short run needs, for a test to spoil.
pub(crate) struct Place(TempDir);

const CONFIG: &str = r#"[run]
steps = 1
schedule = "lockstep"
[model]
path = "model"
[data]
kind = "jsonl"
path = "prompts.jsonl"
[rollout]
output_tokens_max = 4
segments_max = 2
trajectories_open_max = 2
group_size = 2
temperature = 1.0
[queue]
groups_max = 1
staleness_versions_max = 0
[[rewards]]
kind = "math"
correctness = true
[learner]
groups_per_step = 1
batch_tokens_max = 64
[learner.advantage]
kind = "grpo"
[optimizer]
kind = "sgd"
learning_rate = 0.01
"#;

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/llama_tied");
        fs::create_dir(place.path("model")).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::copy(fixture.join(name), place.path("model").join(name)).unwrap();
        }
        place.write("model/tokenizer.json", &tokenizer(3));
        place.write("prompts.jsonl", "{\"prompt\": \"1+1=\", \"answer\": \"2\"}\n");
        place.write("a.toml", CONFIG);
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn change(&self, name: &str, old: &str, new: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(old), "{name} has no {old}");
        self.write(name, &text.replacen(old, new, 1));
    }

    pub(crate) fn longhaul(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longhaul"));
        command.args(arguments).current_dir(self.0.path()).output().unwrap()
    }

    /// Runs what must fail and gives the one line that says why.
    pub(crate) fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.longhaul(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{arguments:?} went well:\n{said}");
        assert!(!said.contains("panicked") && !said.contains("RUST_BACKTRACE"), "{arguments:?}:\n{said}");
        let mut lines = said.lines().filter(|line| line.starts_with("error: "));
        let line = lines.next().unwrap_or_else(|| panic!("{arguments:?} says no error:\n{said}")).to_owned();
        assert_eq!(lines.next(), None, "{arguments:?} says more than one");
        assert_eq!(said.lines().last(), Some(line.as_str()), "{arguments:?} goes on after the error");
        line
    }

    pub(crate) fn assert_refuses(&self, arguments: &[&str], named: &[&str]) {
        let line = self.refusal(arguments);
        for name in named {
            assert!(line.contains(name), "{arguments:?} does not name {name}: {line}");
        }
    }
}

/// A tokenizer of characters; the digits and signs have ids from `first` on.
fn tokenizer(first: usize) -> String {
    let letters = "0123456789+-*/=():;,>#".chars().enumerate();
    let vocabulary: Vec<String> =
        letters.map(|(place, letter)| format!("\"{letter}\": {}", first + place)).collect();
    format!(
        r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": {{"type": "Fuse"}},
            "model": {{"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "merges": [],
            "vocab": {{"<unk>": 0, {}}}}}}}"#,
        vocabulary.join(", ")
    )
}

pub(crate) const TRAIN: [&str; 4] = ["train", "a.toml", "--run", "run"];

/// Without this the refusals below could come from anything.
#[test]
fn the_unspoiled_input_is_taken() {
    let place = Place::new();
    for arguments in [&["check", "a.toml"][..], &TRAIN] {
        let output = place.longhaul(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_wrong_key_names_file_line_and_the_nearest_key() {
    let place = Place::new();
    place.change("a.toml", "segments_max", "segment_max");
    for command in [&["check", "a.toml"][..], &TRAIN] {
        place.assert_refuses(command, &["a.toml:11", "`rollout.segment_max`", "`segments_max`"]);
    }
    place.change("a.toml", "segment_max", "segments_max");
    let set = ["check", "a.toml", "--set", "learner.lr=1e-5"];
    place.assert_refuses(&set, &["--set learner.lr=1e-5", "`learner.lr`", "`optimizer.learning_rate`"]);
}

#[test]
fn no_segments_is_refused_with_line_and_key() {
    let place = Place::new();
    place.change("a.toml", "segments_max = 2", "segments_max = 0");
    place.assert_refuses(&TRAIN, &["a.toml:11", "rollout.segments_max", "at least 1"]);
    place.change("a.toml", "segments_max = 0", "segments_max = 3");
    place.assert_refuses(&["check", "a.toml"], &["a.toml:11", "3 segments", "output_tokens_max = 4"]);
}

#[test]
fn grpo_lambda_without_correctness_is_refused() {
    let place = Place::new();
    place.change("a.toml", "kind = \"grpo\"", "kind = \"grpo_lambda\"");
    place.change("a.toml", "correctness = true", "");
    place.assert_refuses(&["check", "a.toml"], &["a.toml:25", "grpo_lambda", "correctness = true"]);
}

#[test]
fn absent_files_are_named() {
    let place = Place::new();
    place.assert_refuses(&["train", "no.toml"], &["no.toml"]);
    place.assert_refuses(&["train", "a.toml", "--set", "model.path=no"], &["model.path", "no"]);
    place.assert_refuses(&["train", "a.toml", "--set", "data.path=no.jsonl"], &["data.path", "no.jsonl"]);
    place.assert_refuses(&["replay", "a.toml", "--rollouts", "no.jsonl"], &["no.jsonl"]);
    place.assert_refuses(&["eval", "a.toml", "--model", "no"], &["no"]);
    place.assert_refuses(&["generate", "--model", "no", "--prompt", "1"], &["no"]);
    place.write("a", "");
    place
        .assert_refuses(&["logprobs", "--model", "no", "--input", "a", "--output", "b"], &["no/config.json"]);
    fs::remove_file(place.path("model/config.json")).unwrap();
    place.assert_refuses(&TRAIN, &["model/config.json"]);
}

#[test]
fn a_truncated_safetensors_file_is_named() {
    let place = Place::new();
    let weights = fs::read(place.path("model/model.safetensors")).unwrap();
    for length in [0, 4, weights.len() / 2, weights.len() - 1] {
        fs::write(place.path("model/model.safetensors"), &weights[..length]).unwrap();
        let run = ["train", "a.toml", "--run", "run", "--overwrite"];
        place.assert_refuses(&run, &["model/model.safetensors"]);
    }
}

#[test]
fn lines_that_are_not_json_are_named() {
    let place = Place::new();
    place.write("prompts.jsonl", "{\"prompt\": \"1+1=\", \"answer\": \"2\"}\n{\"prompt\": \"1+2=\n");
    place.assert_refuses(&TRAIN, &["prompts.jsonl:2"]);
    place.write("rollouts.jsonl", "not JSON\n");
    place.assert_refuses(&["replay", "a.toml", "--rollouts", "rollouts.jsonl"], &["rollouts.jsonl:1"]);
    place.write("in.jsonl", "{\"tokens\": [1, 2]}\n{\"tokens\": [1, \n");
    let logprobs = ["logprobs", "--model", "model", "--input", "in.jsonl", "--output", "out.jsonl"];
    place.assert_refuses(&logprobs, &["in.jsonl:2"]);
}

#[test]
fn tokens_outside_the_vocabulary_are_refused() {
    let place = Place::new();
    // The model has 64 token ids.
    place.write("model/tokenizer.json", &tokenizer(50));
    place.assert_refuses(&TRAIN, &["model/tokenizer.json", "64"]);
    place.write("in.jsonl", "{\"tokens\": [1, 64]}\n");
    let logprobs = ["logprobs", "--model", "model", "--input", "in.jsonl", "--output", "out.jsonl"];
    place.assert_refuses(&logprobs, &["in.jsonl:1", "64"]);
}

#[test]
fn a_run_folder_is_not_written_over() {
    let place = Place::new();
    fs::create_dir(place.path("run")).unwrap();
    place.write("run/notes.txt", "mine");
    place.assert_refuses(&TRAIN, &["run", "--overwrite"]);
    place.assert_refuses(&["train", "a.toml", "--run", "run", "--overwrite"], &["run", "this is none"]);
    assert_eq!(fs::read_to_string(place.path("run/notes.txt")).unwrap(), "mine");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let mut check = Command::new(env!("CARGO_BIN_EXE_longhaul"));
    check.args(["check", "configs/quickstart.toml"]).current_dir(repository());
    let mut child = check.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.is_empty(), "{told}");
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_an_error_and_no_panic() {
    for arguments in [&["simulate"][..], &["check", "configs/quickstart.toml"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_longhaul"))
            .args(arguments)
            .current_dir(repository())
            .stdout(Stdio::from(full))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("error: the output cannot be written: No space left"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn numbers_beyond_all_measure_are_refused_by_name() {
    let check = |set: &str| {
        let arguments = ["check", "configs/quickstart.toml", "--set", set];
        Command::new(env!("CARGO_BIN_EXE_longhaul"))
            .args(arguments)
            .current_dir(repository())
            .output()
            .unwrap()
    };
    for (key, most) in [
        ("queue.groups_max", 1_u64 << 20),
        ("queue.staleness_versions_max", 1 << 32),
        ("rollout.trajectories_open_max", 1 << 20),
        ("rollout.group_size", 1 << 16),
        ("learner.refill_batches_max", 1 << 10),
        ("eval.problems", 1 << 20),
    ] {
        let output = check(&format!("{key}={}", i64::MAX));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{key}: {said}");
        let expected = format!("{key}: must be at most {most}, got {}", i64::MAX);
        assert!(said.contains(&expected) && said.lines().count() == 1, "{key}: {said}");
    }
}
