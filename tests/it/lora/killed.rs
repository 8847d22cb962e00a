//! Runs of adapters that are killed and resumed (invariant 9).

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use super::{LORA, assert_adapters_alone, largest};
use crate::binary::{metrics, repository, text_of, without_times};

/// A run that can be killed, in a folder of its own.
struct Killed {
    home: TempDir,
    schedule: &'static str,
}

impl Killed {
    fn new(schedule: &'static str) -> Self {
        Self { home: tempdir().unwrap(), schedule }
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join("run")
    }

    fn life(&self, more: &[&str], faults: &str) -> Output {
        let schedule = format!("run.schedule=\"{}\"", self.schedule);
        let small = [
            "run.steps=5",
            "rollout.output_tokens_max=48",
            "rollout.trajectories_open_max=12",
            "rollout.group_size=4",
            "learner.groups_per_step=3",
            "queue.groups_max=9",
            "queue.staleness_versions_max=2",
            "eval.before=false",
            "eval.after=false",
            "eval.every_steps=0",
            "checkpoint.every_steps=2",
            "metrics.console=\"plain\"",
            &schedule,
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_longhaul"));
        command.current_dir(repository()).args(["train", "configs/quickstart.toml", "--run"]);
        command.arg(self.folder()).env("LONGHAUL_FAULTS", faults);
        for assignment in small.iter().chain(&LORA) {
            command.args(["--set", assignment]);
        }
        command.args(more).output().unwrap()
    }

    fn succeeds(&self, more: &[&str], faults: &str) -> String {
        let output = self.life(more, faults);
        assert!(output.status.success(), "{}", text_of(&output));
        text_of(&output)
    }

    fn fails(&self, more: &[&str], faults: &str) -> String {
        let output = self.life(more, faults);
        assert!(!output.status.success(), "{}", text_of(&output));
        text_of(&output)
    }

    fn checkpoint(&self, step: u64) -> PathBuf {
        self.folder().join(format!("checkpoints/step-{step}"))
    }

    /// Weights, moments, metrics without times, and completions.
    fn result(&self) -> (Vec<Vec<u8>>, Vec<Value>, Vec<String>) {
        let files = ["adapter_model.safetensors", "optimizer.safetensors"];
        let weights = files.map(|name| fs::read(self.checkpoint(5).join(name)).unwrap()).to_vec();
        let rollouts = (1..=5).map(|step| {
            fs::read_to_string(self.folder().join(format!("rollouts/step-{step:06}.jsonl"))).unwrap()
        });
        (weights, without_times(metrics(&self.folder())), rollouts.collect())
    }
}

// Invariant 9 for adapters: to the bit.
#[test]
fn a_killed_run_of_adapters_comes_out_the_same() {
    let whole = Killed::new("deterministic");
    whole.succeeds(&[], "");
    let expected = whole.result();
    let broken = Killed::new("deterministic");
    let mut older = 0;
    for (life, faults) in
        ["actor:kill@15", "learner:kill@2", "checkpoint:kill@1", "actor:kill@70"].iter().enumerate()
    {
        let more: &[&str] = if life == 0 { &[] } else { &["--resume"] };
        broken.fails(more, faults);
        for step in [2, 4].into_iter().filter(|step| broken.checkpoint(*step).exists()) {
            older += assert_adapters_alone(&broken.checkpoint(step));
        }
    }
    broken.succeeds(&["--resume"], "");
    assert_eq!(broken.result(), expected);
    assert!(older > 0, "no checkpoint holds an older version");
}

#[test]
fn a_killed_async_run_of_adapters_goes_on() {
    let run = Killed::new("async");
    run.fails(&[], "learner:kill@4");
    let out = run.succeeds(&["--resume"], "");
    assert!(out.contains("resumed at step 2"), "{out}");
    let steps: Vec<u64> = metrics(&run.folder()).iter().map(|row| row["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [1, 2, 3, 4, 5]);
    assert!(largest(&run.checkpoint(5), "lora_B").iter().all(|largest| *largest > 0.0));
}
