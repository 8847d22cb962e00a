//! Runs that are killed, stopped, starved and damaged: each row of docs/design/faults.md that names a test of this
//! file (invariant 9: nothing lost, and a resumed run is the run).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::binary::{metrics, repository, text_of, without_times};

/// A run of a few seconds in a folder of its own.
struct Run {
    home: TempDir,
    schedule: &'static str,
}

const SMALL: [&str; 11] = [
    "run.steps=5",
    "rollout.output_tokens_max=48",
    "rollout.trajectories_open_max=12",
    "rollout.group_size=4",
    "learner.groups_per_step=3",
    "queue.groups_max=9",
    "queue.staleness_versions_max=2",
    "eval.problems=4",
    "eval.every_steps=0",
    "checkpoint.every_steps=2",
    "metrics.console=\"plain\"",
];

impl Run {
    fn new(schedule: &'static str) -> Self {
        Self { home: tempdir().unwrap(), schedule }
    }

    fn folder(&self) -> PathBuf {
        self.home.path().join("run")
    }

    fn command(&self, more: &[&str], faults: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longhaul"));
        command.current_dir(repository()).args(["train", "configs/quickstart.toml", "--run"]);
        command.arg(self.folder()).env("LONGHAUL_FAULTS", faults);
        command.args(["--set", &format!("run.schedule=\"{}\"", self.schedule)]);
        for assignment in SMALL {
            command.args(["--set", assignment]);
        }
        command.args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, more: &[&str], faults: &str) -> Output {
        self.command(more, faults).output().unwrap()
    }

    fn succeeds(&self, more: &[&str], faults: &str) -> String {
        let output = self.run(more, faults);
        assert!(output.status.success(), "{more:?} {faults}\n{}", text_of(&output));
        text_of(&output)
    }

    fn fails(&self, more: &[&str], faults: &str) -> String {
        let output = self.run(more, faults);
        assert!(!output.status.success(), "{more:?} {faults}\n{}", text_of(&output));
        text_of(&output)
    }

    fn checkpoint(&self, step: u64) -> PathBuf {
        self.folder().join(format!("checkpoints/step-{step}"))
    }

    /// What has to come out equal: the weights, the metrics without times, and the completions.
    fn result(&self) -> (Vec<u8>, Vec<Value>, Vec<String>) {
        let weights = fs::read(self.checkpoint(5).join("model.safetensors")).unwrap();
        let rollouts = (1..=5).map(|step| {
            fs::read_to_string(self.folder().join(format!("rollouts/step-{step:06}.jsonl"))).unwrap()
        });
        (weights, without_times(metrics(&self.folder())), rollouts.collect())
    }

    /// Every group that was learned from, in order.
    fn groups(&self) -> Vec<String> {
        let mut groups = Vec::new();
        for rollouts in self.result().2 {
            let lines = rollouts.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            let mut step: Vec<String> = lines.map(|row| row["group"].as_str().unwrap().to_owned()).collect();
            step.dedup();
            groups.extend(step);
        }
        groups
    }
}

fn unbroken(schedule: &'static str) -> Run {
    let run = Run::new(schedule);
    run.succeeds(&[], "");
    run
}

fn damage(path: &Path, place: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[place] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

/// Older weights that open segments need are rounded again, to the same bits.
#[test]
fn a_killed_run_with_rounded_rollouts_comes_out_the_same() {
    let rounded = ["--set", "rollout.precision=\"bf16\""];
    let whole = Run::new("deterministic");
    whole.succeeds(&rounded, "");
    let broken = Run::new("deterministic");
    broken.fails(&rounded, "actor:kill@70");
    broken.succeeds(&[&["--resume"][..], &rounded].concat(), "");
    assert_eq!(broken.result(), whole.result());
}

#[test]
fn a_killed_deterministic_run_comes_out_the_same() {
    let expected = unbroken("deterministic").result();
    let broken = Run::new("deterministic");
    // Before the first checkpoint, between two, and while one is written.
    for (life, faults) in
        ["actor:kill@15", "learner:kill@2", "checkpoint:kill@1", "actor:kill@70"].iter().enumerate()
    {
        let more: &[&str] = if life == 0 { &[] } else { &["--resume"] };
        broken.fails(more, faults);
    }
    broken.succeeds(&["--resume"], "");
    assert_eq!(broken.result(), expected);
}

/// Trajectories that wait without a cache are restored as well, and what is filled again is what it was.
#[test]
fn a_killed_run_with_a_bounded_cache_comes_out_the_same() {
    let scarce = [
        "rollout.output_tokens_max=144",
        "rollout.segments_max=8",
        "rollout.temperature=4.0",
        "rollout.kv_cache_tokens_max=384",
        "rollout.kv_cache=bf16",
        "rollout.priority=last_members",
    ];
    let set: Vec<&str> = scarce.iter().flat_map(|assignment| ["--set", assignment]).collect();
    let whole = Run::new("deterministic");
    whole.succeeds(&set, "");
    let expected = whole.result();
    let of = |tag: &str| -> Vec<f64> { expected.1.iter().filter_map(|step| step[tag].as_f64()).collect() };
    assert!(of("segment/wait_steps").iter().sum::<f64>() > 0.0, "nobody lacks room");
    assert!(of("segment/kv_use").iter().all(|part| (0.0..=1.0).contains(part)));
    let shared = metrics(&whole.folder())
        .iter()
        .filter_map(|step| step["segment/prefill_tokens_shared"].as_f64())
        .sum::<f64>();
    assert!(shared > 0.0, "prompts are shared");
    let broken = Run::new("deterministic");
    broken.fails(&set, "actor:kill@40");
    let set: Vec<&str> = set.into_iter().chain(["--resume"]).collect();
    broken.fails(&set, "learner:kill@3");
    broken.succeeds(&set, "");
    assert_eq!(broken.result(), expected);
}

#[test]
fn delays_and_threads_change_nothing_in_a_deterministic_run() {
    let expected = unbroken("deterministic").result();
    let delayed = Run::new("deterministic");
    let threads = ["--set", "run.threads=1", "--set", "rollout.actors=2", "--set", "rollout.scorers=3"];
    delayed.succeeds(&threads, "actor:delay=3%0.1, scorer:delay=10%0.3, learner:delay=50%0.5, seed=4");
    assert_eq!(delayed.result(), expected);
}

#[test]
fn a_killed_async_run_answers_every_prompt_once() {
    let run = Run::new("async");
    run.fails(&[], "learner:kill@4");
    let out = run.succeeds(&["--resume"], "");
    assert!(out.contains("resumed at step 2"), "{out}");
    let steps: Vec<u64> = metrics(&run.folder()).iter().map(|row| row["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 1, 2, 3, 4, 5]);
    let mut groups = run.groups();
    groups.sort();
    groups.dedup();
    assert_eq!(groups.len(), 5 * 3, "a prompt was learned from twice");
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let run = unbroken("deterministic");
    let expected = run.result();
    for (file, place) in [("manifest.json", 40), ("rollout.bin", 100), ("optimizer.safetensors", 5000)] {
        damage(&run.checkpoint(5).join(file), place);
        let out = run.succeeds(&["--resume"], "");
        assert!(out.contains("step-5: not used") && out.contains("resumed at step 4"), "{file}: {out}");
        assert_eq!(run.result(), expected);
    }
    for step in [4, 5] {
        damage(&run.checkpoint(step).join("model.safetensors"), 900);
    }
    let out = run.fails(&["--resume"], "");
    assert!(out.contains("no checkpoint is whole") && out.contains("model.safetensors"), "{out}");
}

#[test]
fn a_full_disk_costs_a_checkpoint_and_not_the_run() {
    let expected = unbroken("deterministic").result();
    let run = Run::new("deterministic");
    let out = run.succeeds(&[], "checkpoint:fail@2");
    assert!(out.contains("step 4 was not written down, and the run goes on"), "{out}");
    assert!(run.checkpoint(2).exists() && !run.checkpoint(4).exists());
    assert_eq!(run.result(), expected);
}

#[test]
fn the_last_checkpoint_must_be_written() {
    let run = Run::new("deterministic");
    let out = run.fails(&[], "checkpoint:fail@3");
    assert!(out.contains("the last checkpoint") && out.contains("step-5"), "{out}");
    let expected = unbroken("deterministic").result();
    run.succeeds(&["--resume"], "");
    assert_eq!(run.result(), expected);
}

#[test]
fn a_journal_that_cannot_be_written_is_told_of_once() {
    let run = Run::new("deterministic");
    let out = run.succeeds(&[], "journal:fail");
    assert!(out.contains("segments are not written down until the next checkpoint"), "{out}");
    assert_eq!(run.result(), unbroken("deterministic").result());
}

#[test]
fn metrics_that_cannot_be_written_end_the_run_and_it_can_be_resumed() {
    let expected = unbroken("deterministic").result();
    let run = Run::new("deterministic");
    let out = run.fails(&[], "metrics:fail@5");
    assert!(out.contains("metrics.jsonl"), "{out}");
    run.succeeds(&["--resume"], "");
    assert_eq!(run.result(), expected);
}

#[test]
fn an_actor_that_panics_is_started_again() {
    let run = Run::new("async");
    run.succeeds(&[], "actor:panic@30, actor:panic@90");
    let restarts: f64 =
        metrics(&run.folder()).iter().filter_map(|row| row["segment/actor_restarts"].as_f64()).sum();
    assert_eq!(restarts, 2.0);
    let mut groups = run.groups();
    groups.sort();
    groups.dedup();
    assert_eq!(groups.len(), 5 * 3);
}

#[test]
fn an_actor_that_panics_always_ends_the_run_and_it_can_be_resumed() {
    for schedule in ["async", "deterministic"] {
        let run = Run::new(schedule);
        let faults = if schedule == "async" { "actor:panic%0.2" } else { "actor:panic@80" };
        let out = run.fails(&[], faults);
        assert!(out.contains("the thread actor-0 panicked: LONGHAUL_FAULTS asks"), "{out}");
        run.succeeds(&["--resume"], "");
        if schedule == "deterministic" {
            assert_eq!(run.result(), unbroken("deterministic").result());
        }
    }
}

#[test]
fn a_scorer_that_panics_ends_the_run_and_it_can_be_resumed() {
    for schedule in ["async", "deterministic", "lockstep"] {
        let run = Run::new(schedule);
        let out = run.fails(&[], "scorer:panic@7");
        assert!(out.contains("LONGHAUL_FAULTS asks for a panic here"), "{out}");
        run.succeeds(&["--resume"], "");
    }
}

#[test]
fn a_learner_that_fails_leaves_the_run_resumable() {
    let expected = unbroken("deterministic").result();
    let run = Run::new("deterministic");
    let out = run.fails(&[], "learner:fail@4");
    assert!(out.contains("the last weights are in"), "{out}");
    run.succeeds(&["--resume"], "");
    assert_eq!(run.result(), expected);
}

// What a failed run writes last must not take the place of where it stood.
#[test]
fn a_failure_in_the_first_step_after_a_checkpoint_leaves_it_whole() {
    let expected = unbroken("deterministic").result();
    let run = Run::new("deterministic");
    run.fails(&["--set", "checkpoint.keep_last=1"], "learner:fail@5");
    for _ in 0..2 {
        let out = run.fails(&["--resume", "--set", "checkpoint.keep_last=1"], "learner:fail@1");
        assert!(out.contains("resumed at step 4"), "{out}");
    }
    let out = run.succeeds(&["--resume"], "");
    assert!(out.contains("resumed at step 4"), "{out}");
    assert_eq!(run.result(), expected);
}

#[test]
fn what_ended_a_run_is_said_where_its_weights_cannot_be_written_either() {
    let run = Run::new("deterministic");
    let out = run.fails(&[], "metrics:fail@4, checkpoint:fail@2");
    assert!(out.contains("the last weights could not be written") && out.contains("step-3"), "{out}");
    // A cause that two errors share is said once.
    assert!(out.contains("no storage space") && out.contains("metrics.jsonl"), "{out}");
    let out = run.succeeds(&["--resume"], "");
    assert!(out.contains("resumed at step 2"), "{out}");
}

// Segments after the checkpoint were drawn by weights that a run under another config does not come to.
#[test]
fn under_another_config_nothing_after_the_checkpoint_is_used() {
    let killed = Run::new("deterministic");
    killed.fails(&[], "learner:kill@4");
    let other = Run::new("deterministic");
    let copied = Command::new("cp").args(["-r"]).args([killed.folder(), other.folder()]).status().unwrap();
    assert!(copied.success());
    fs::remove_dir_all(other.folder().join("journal")).unwrap();
    let change = ["--resume", "--allow-config-change", "--set", "optimizer.learning_rate=3e-4"];
    let out = killed.succeeds(&change, "");
    assert!(out.contains("optimizer.learning_rate: 0.0001 -> 0.0003"), "{out}");
    other.succeeds(&change, "");
    assert_eq!(killed.result(), other.result());
}

#[test]
fn steps_that_overflow_are_refused_and_their_completions_kept() {
    let run = Run::new("lockstep");
    let out = run.fails(&["--set", "optimizer.learning_rate=1e38", "--set", "optimizer.warmup_steps=0"], "");
    assert!(out.contains("finite"), "{out}");
}

#[test]
fn a_run_is_one_process_and_other_configs_and_places_are_refused() {
    let run = unbroken("lockstep");
    let out = run.fails(&["--resume", "--set", "optimizer.learning_rate=1.0"], "");
    assert!(
        out.contains("optimizer.learning_rate: 0.0001 -> 1.0") && out.contains("--allow-config-change"),
        "{out}"
    );
    let out = run.succeeds(&["--resume", "--set", "checkpoint.keep_last=1"], "");
    assert!(
        out.contains("checkpoint.keep_last: 2 -> 1") && out.contains("all 5 steps of the run are made"),
        "{out}"
    );

    let holder = fs::File::open(run.folder().join("config.toml")).unwrap();
    holder.lock().unwrap();
    let out = run.fails(&["--resume"], "");
    assert!(out.contains("another process is at work on this run"), "{out}");
    drop(holder);

    fs::write(run.folder().join("config.toml"), "[run]\n").unwrap();
    let out = run.fails(&["--resume"], "");
    assert!(out.contains("not the config of a run"), "{out}");
    let out = Run::new("lockstep").fails(&["--resume"], "");
    assert!(out.contains("config.toml"), "{out}");
}

#[test]
fn a_fault_that_cannot_be_read_is_refused() {
    let out = Run::new("lockstep").fails(&[], "actor:explode");
    assert!(out.contains("LONGHAUL_FAULTS: there is no action `explode`"), "{out}");
}

#[test]
fn a_fork_begins_at_step_0_with_the_weights_of_another_run() {
    let parent = unbroken("lockstep");
    let child = Run::new("lockstep");
    let from = parent.folder();
    let out =
        child.succeeds(&["--fork", from.to_str().unwrap(), "--fork-optimizer", "--set", "run.steps=1"], "");
    assert!(out.contains("step 1/1"), "{out}");
    let config = fs::read_to_string(child.folder().join("config.toml")).unwrap();
    assert!(config.contains("checkpoints/step-5"), "{config}");
}

#[test]
fn a_fork_takes_no_damaged_weights() {
    let parent = unbroken("lockstep");
    damage(&parent.checkpoint(5).join("model.safetensors"), 9000);
    let (from, damaged) = (parent.folder(), parent.checkpoint(5));
    let child = Run::new("lockstep");
    let out = child.succeeds(&["--fork", from.to_str().unwrap(), "--set", "run.steps=1"], "");
    assert!(out.contains("step-5: not used"), "{out}");
    let config = fs::read_to_string(child.folder().join("config.toml")).unwrap();
    assert!(config.contains("checkpoints/step-4"), "{config}");
    let out = Run::new("lockstep").fails(&["--fork", damaged.to_str().unwrap()], "");
    assert!(out.contains("model.safetensors") && out.contains("is damaged"), "{out}");
}

#[cfg(unix)]
#[test]
fn a_signal_saves_where_the_run_stands() {
    let expected = unbroken("deterministic").result();
    let run = Run::new("deterministic");
    // Slow enough that the signal comes in the middle.
    let child = run.command(&[], "learner:delay=300").spawn().unwrap();
    while !run.folder().join("rollouts/step-000002.jsonl").exists() {
        std::thread::yield_now();
    }
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text_of(&output));
    assert!(text_of(&output).contains("stopped after"), "{}", text_of(&output));
    run.succeeds(&["--resume"], "");
    assert_eq!(run.result(), expected);
}

/// A run that is ended after a second without progress, and given another second to end by itself.
const IMPATIENT: [&str; 6] =
    ["--set", "watchdog.warn_after_s=1", "--set", "watchdog.end_after_s=2", "--set", "watchdog.grace_s=2"];

#[test]
fn a_scorer_that_hangs_is_named_and_the_run_saved_and_ended() {
    let run = Run::new("async");
    let output = run.run(&IMPATIENT, "scorer:delay=600000@8");
    let out = text_of(&output);
    assert_eq!(output.status.code(), Some(75), "{out}");
    assert!(out.contains("WARN no progress for 1s: "), "{out}");
    assert!(out.contains("scorer-0 is at work: judges group"), "{out}");
    assert!(out.contains("learner waits for 3 groups, for step "), "{out}");
    assert!(out.contains("queue: ") && out.contains(" of 9 groups"), "{out}");
    // The scorer does not come back, so the process was ended; where the run stood was saved before.
    assert!(out.contains("has not within watchdog.grace_s = 2 s"), "{out}");
    let saved = (1..5).any(|step| run.checkpoint(step).join("run_state.json").exists());
    assert!(saved, "{out}");
    run.succeeds(&["--resume"], "");
    let mut groups = run.groups();
    groups.sort();
    let count = groups.len();
    groups.dedup();
    assert_eq!((groups.len(), count), (15, 15), "every group once");
}

#[test]
fn a_learner_that_hangs_costs_what_came_after_the_last_checkpoint() {
    let expected = unbroken("deterministic").result();
    let run = Run::new("deterministic");
    let output = run.run(&IMPATIENT, "learner:delay=600000@4");
    let out = text_of(&output);
    assert_eq!(output.status.code(), Some(75), "{out}");
    assert!(out.contains("learner is at work: learns, step 4"), "{out}");
    run.succeeds(&["--resume"], "");
    assert_eq!(run.result(), expected);
}

#[test]
fn a_stage_that_comes_back_in_time_ends_the_run_cleanly() {
    let run = Run::new("async");
    let output = run.run(&IMPATIENT, "scorer:delay=3000@4");
    let out = text_of(&output);
    assert_eq!(output.status.code(), Some(75), "{out}");
    assert!(out.contains("the run is saved in") && !out.contains("has not within"), "{out}");
    run.succeeds(&["--resume"], "");
    assert_eq!(run.groups().len(), 15);
}

#[cfg(unix)]
#[test]
fn a_signal_is_obeyed_within_the_grace_time() {
    let run = Run::new("deterministic");
    let child = run.command(&["--set", "watchdog.grace_s=1"], "checkpoint:delay=600000").spawn().unwrap();
    while !run.folder().join("rollouts/step-000001.jsonl").exists() {
        std::thread::yield_now();
    }
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(75), "{}", text_of(&output));
    assert!(text_of(&output).contains("because a signal came"), "{}", text_of(&output));
}

#[test]
fn alarms_stand_in_the_terminal_and_in_the_metrics() {
    let run = Run::new("deterministic");
    // Too few tokens for any answer.
    let all = [
        "--set",
        "rollout.output_tokens_max=2",
        "--set",
        "rollout.segments_max=2",
        "--set",
        "eval.before=false",
        "--set",
        "eval.after=false",
    ];
    let out = run.succeeds(&all, "");
    assert!(out.contains("WARN step 3: 100 % of the completions are cut off"), "{out}");
    let rows = metrics(&run.folder());
    let raised: Vec<f64> = rows.iter().filter_map(|row| row["alarm/truncated"].as_f64()).collect();
    assert_eq!(raised, [1.0, 1.0, 1.0, 1.0, 1.0]);
}
