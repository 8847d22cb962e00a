//! Dynamic sampling that refills, in whole runs of every schedule: a step has as many groups that teach something as it
//! was to have, or has reached its bound, and says of each completion what it did with it (invariants 5 and 7).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

use crate::binary::{metrics, small_run, success, without_times};

/// What the quickstart leaves out, with the default of `refill_batches_max`.
const REFILL: &str = "learner.dynamic_sampling=refill";
/// Of `small_run` and of the quickstart.
const GROUPS_PER_STEP: usize = 3;
const GROUP_SIZE: usize = 4;
const BATCHES_MAX: usize = 4;

/// The completions of each group of a step by what was done with them.
fn groups_of(run: &Path, step: u64) -> BTreeMap<String, Vec<(String, f64)>> {
    let text = fs::read_to_string(run.join(format!("rollouts/step-{step:06}.jsonl"))).unwrap();
    let mut groups: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
    for line in text.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let of = |tag: &str| record[tag].as_str().unwrap().to_owned();
        groups.entry(of("group")).or_default().push((of("use"), record["reward"].as_f64().unwrap()));
    }
    groups
}

/// Each step of a run under plain GRPO; how many groups were refilled in all.
fn check(run: &Path) -> usize {
    let (mut refilled, mut seen) = (0, Vec::new());
    for row in metrics(run).iter().filter(|row| row["step"] != 0) {
        let number = |tag: &str| row[tag].as_f64().unwrap() as usize;
        let groups = groups_of(run, number("step") as u64);
        let dead = |members: &[(String, f64)]| members.iter().all(|(_, reward)| *reward == members[0].1);
        for (id, members) in &groups {
            assert_eq!(members.len(), GROUP_SIZE, "group {id}");
            let used = if dead(members) { "dropped" } else { "trained" };
            assert!(members.iter().all(|(of, _)| of == used), "group {id}: {members:?}");
        }
        let live = groups.values().filter(|members| !dead(members)).count();
        assert!(live == GROUPS_PER_STEP || groups.len() == GROUPS_PER_STEP * BATCHES_MAX, "{row}");
        assert_eq!(number("training/groups"), groups.len());
        assert_eq!(number("training/groups_dropped"), groups.len() - live);
        assert_eq!(number("dynamic_sampling/groups_refilled"), groups.len() - GROUPS_PER_STEP);
        assert_eq!(number("dynamic_sampling/groups_missing"), GROUPS_PER_STEP - live);
        assert_eq!(number("dynamic_sampling/rounds") == 0, groups.len() == GROUPS_PER_STEP);
        assert!(number("training/off_policy/trajectory_staleness_worst/max") <= 2);
        refilled += groups.len() - GROUPS_PER_STEP;
        seen.extend(groups.into_keys());
    }
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), count, "a group came twice");
    refilled
}

/// What the quickstart's model gets right often, so that groups are all right.
const EASY: [&str; 5] = [
    "data.difficulty_min=1",
    "data.difficulty_max=3",
    "learner.advantage.kind=grpo",
    "rewards[1].weight=0",
    "rewards[2].weight=0",
];

#[test]
fn steps_are_refilled_in_every_schedule() {
    let place = tempdir().unwrap();
    for schedule in ["async", "deterministic", "lockstep"] {
        let set = format!("run.schedule={schedule}");
        let run = small_run(&place.path().join(schedule), &[&EASY[..], &[&set, REFILL]].concat());
        assert!(check(&run) > 0, "{schedule}: nothing was refilled");
    }
}

#[test]
fn a_refilled_deterministic_run_is_the_same_again_and_is_replayed_step_by_step() {
    let place = tempdir().unwrap();
    let set = [&EASY[..], &["run.schedule=deterministic", "optimizer.kind=sgd"]].concat();
    let [first, second] = ["first", "second"].map(|name| small_run(&place.path().join(name), &set));
    assert_eq!(without_times(metrics(&first)), without_times(metrics(&second)));
    let weights = |run: &Path, step: u64| {
        fs::read(run.join(format!("checkpoints/step-{step}/model.safetensors"))).unwrap()
    };
    assert_eq!(weights(&first, 4), weights(&second, 4));
    // The recording of the first step is one step again, with the same groups.
    let (rollouts, again) = (first.join("rollouts/step-000001.jsonl"), place.path().join("again"));
    let mut arguments = vec!["replay", "configs/quickstart.toml", "--run", again.to_str().unwrap()];
    arguments.extend(["--rollouts", rollouts.to_str().unwrap(), "--set", "learner.groups_per_step=3"]);
    arguments.extend(EASY.iter().filter(|set| !set.starts_with("data.")).flat_map(|set| ["--set", *set]));
    let said = success(&arguments);
    assert_eq!(said.lines().filter(|line| line.starts_with("step ")).count(), 1, "{said}");
    let tags = ["loss", "grad_norm", "training/groups", "training/completion_tokens"];
    for tag in tags {
        let of = |run: &Path, place: usize| metrics(run)[place][tag].as_f64().unwrap();
        let (found, expected) = (of(&again, 0), of(&first, 1));
        assert!((found - expected).abs() <= 1e-6 * expected.abs(), "{tag}: {found} and {expected}");
    }
}

/// Cut off after two tokens, every answer is wrong.
#[test]
fn a_run_without_a_live_group_ends_at_its_bound() {
    let place = tempdir().unwrap();
    let hopeless = ["rollout.output_tokens_max=2", "rollout.segments_max=1", "run.steps=3"];
    for schedule in ["async", "deterministic", "lockstep"] {
        let set = format!("run.schedule={schedule}");
        let run = small_run(&place.path().join(schedule), &[&hopeless[..], &[&set, REFILL]].concat());
        let log = fs::read_to_string(run.join("log")).unwrap();
        for alarm in ["nothing is learned", "learner.dynamic_sampling look at no more than 12 groups a step"]
        {
            assert!(log.contains(alarm), "{log}");
        }
        for row in metrics(&run).iter().filter(|row| row["step"] != 0) {
            assert_eq!(
                (&row["training/groups"], &row["dynamic_sampling/groups_missing"]),
                (&12.0.into(), &3.0.into())
            );
            assert!(row.as_object().unwrap().values().all(Value::is_number), "{row}");
        }
    }
}
