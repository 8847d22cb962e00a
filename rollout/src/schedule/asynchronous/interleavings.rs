//! The loops of the actor threads and of the scoring threads under many orders, with checkpoints in between.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use super::*;
use trajectory::{Group, Segment};

use crate::config::QueueConfig;
use crate::ledger::journal::{self, Journal};
use crate::ledger::lossy::LossyLedger;
use crate::ledger::state::RolloutState;
use crate::scheduler::Pacing;
use crate::sync::explore;
use crate::testing::{Script, Start, context_at, rollout_config};

const GROUP_SIZE: usize = 2;
const GROUPS_PER_STEP: usize = 2;
const STEPS: u64 = 2;
const PACING: Pacing = Pacing { groups_per_step: GROUPS_PER_STEP as u64, staleness_versions_max: 1 };

/// What the journal after the checkpoint has of a trajectory.
fn journaled(folder: &std::path::Path) -> BTreeMap<(u64, u32), Vec<(usize, Segment)>> {
    let (entries, _) = journal::read(&folder.join("after-step-000001.segments")).expect("our own journal");
    let mut segments = BTreeMap::<(u64, u32), Vec<(usize, Segment)>>::new();
    for entry in entries {
        segments.entry((entry.group, entry.member)).or_default().push((entry.index as usize, entry.segment));
    }
    segments
}

/// Every segment of these groups that ended is in the checkpoint or in the journal after it. One that is in both, because
/// it ended while the checkpoint was made, is the same in both.
fn check_segments(groups: &[Group], state: &RolloutState, folder: &std::path::Path) {
    let mut journaled = journaled(folder);
    for completion in groups.iter().flat_map(|group| &group.completions).map(|scored| &scored.completion) {
        let after = journaled.remove(&(completion.group, completion.member)).unwrap_or_default();
        let known = state.groups.iter().find(|group| group.id == completion.group);
        let left_before = known.is_none() && completion.group < state.admission.groups_started;
        if left_before {
            assert_eq!(after, [], "group {} had left before the checkpoint", completion.group);
            continue;
        }
        let member = known.and_then(|group| group.members.get(completion.member as usize));
        let contexts = member.map(|member| member.contexts.as_slice()).unwrap_or_default();
        let before = contexts.iter().flat_map(|context| context.segments().cloned());
        let mut segments: Vec<Segment> = before.collect();
        for (index, segment) in after {
            match segments.get(index) {
                Some(known) => assert_eq!(*known, segment, "group {}", completion.group),
                None => {
                    assert_eq!(index, segments.len(), "group {} lacks a segment", completion.group);
                    segments.push(segment);
                }
            }
        }
        let whole: Vec<Segment> = completion.segments().cloned().collect();
        assert_eq!(segments, whole, "group {}", completion.group);
    }
}

fn rollout_with_a_checkpoint() {
    let script = Script::new(2, |group, member| (group as usize + member as usize) % 3 + 1);
    let mut config = rollout_config(4, 1, 4, GROUP_SIZE);
    config.actors = 2;
    let folder = tempfile::tempdir().expect("a folder");
    let journal = Journal::open(folder.path(), 0, u64::MAX).expect("a journal");
    let queue = QueueConfig { groups_max: 3, staleness_versions_max: PACING.staleness_versions_max };
    let start = Start { version: 0, queue, state: &RolloutState::default() };
    let (context, ledger) = context_at(config, 3, PACING, start);
    ledger.keep_journal(journal);
    let queue = Arc::clone(ledger.queue());
    let halt = Halt { stopping: Arc::default(), queue: queue.clone(), notify: ledger.notify().clone() };
    let (finished, unscored) = bounded(queue.groups_max());
    let mut threads = Vec::new();
    for number in 0..2 {
        let (halt, finished) = (halt.clone(), finished.clone());
        let actor = Actor::new(context.clone(), number, script.clone());
        threads.push(shuttle::thread::spawn(move || drive(actor, &finished, &halt, &Heartbeat::default())));
    }
    drop(finished);
    for _ in 0..2 {
        let (context, unscored) = (context.clone(), unscored.clone());
        threads.push(shuttle::thread::spawn(move || {
            score(&context.scorer, &*context.ledger, &unscored, &Heartbeat::default())
        }));
    }
    drop(unscored);
    let (mut taken, mut checkpoint) = (Vec::new(), None);
    for version in 0..STEPS {
        let groups = queue.take(GROUPS_PER_STEP, version).expect("open");
        assert!(groups.iter().all(|group| group.completions.len() == GROUP_SIZE));
        context.weights.publish(version + 1, Arc::new(version + 1));
        queue.learned(&groups);
        taken.extend(groups);
        // As in a run, the thread that learns writes the checkpoint, and no group leaves while it does.
        checkpoint.get_or_insert_with(|| queue.state(1));
    }
    let state = checkpoint.expect("there was a step");
    halt.stop();
    for thread in threads {
        thread.join().expect("no thread panics").expect("no thread fails");
    }
    let mut ids: Vec<u64> = taken.iter().map(|group| group.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), STEPS as usize * GROUPS_PER_STEP, "a group is handed out twice");
    check_segments(&taken, &state, folder.path());
}

// Invariants 5, 7 and 9, in any order of actors, scorers, the learner and whoever writes a checkpoint.
#[test]
fn actors_and_scorers_lose_no_group_no_segment_and_no_wake_up() {
    explore(rollout_with_a_checkpoint);
}

/// Accidents of all schedules: (handed to another actor, told that it is lost).
static ACCIDENTS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

fn rollout_over_a_bad_network() {
    let length = |group: u64, member: u32| (group as usize + member as usize) % 3 + 1;
    let script = Script::new(2, length);
    let mut config = rollout_config(4, 1, 4, GROUP_SIZE);
    config.actors = 2;
    let queue = QueueConfig { groups_max: 3, staleness_versions_max: PACING.staleness_versions_max };
    let start = Start { version: 0, queue, state: &RolloutState::default() };
    let (context, ledger) = context_at(config, 3, PACING, start);
    let lossy = Arc::new(LossyLedger::new(ledger.clone(), 2));
    let mut context = Arc::into_inner(context).expect("nobody else has it yet");
    context.ledger = lossy.clone();
    let context = Arc::new(context);
    let queue = Arc::clone(ledger.queue());
    let halt = Halt { stopping: Arc::default(), queue: queue.clone(), notify: ledger.notify().clone() };
    let (finished, unscored) = bounded(queue.groups_max());
    let mut threads = Vec::new();
    for number in 0..2 {
        let (halt, finished) = (halt.clone(), finished.clone());
        let actor = Actor::new(context.clone(), number, script.clone());
        threads.push(shuttle::thread::spawn(move || drive(actor, &finished, &halt, &Heartbeat::default())));
    }
    drop(finished);
    let scoring = context.clone();
    threads.push(shuttle::thread::spawn(move || {
        score(&scoring.scorer, &*scoring.ledger, &unscored, &Heartbeat::default())
    }));
    let mut taken = Vec::new();
    for version in 0..STEPS {
        let groups = queue.take(GROUPS_PER_STEP, version).expect("open");
        context.weights.publish(version + 1, Arc::new(version + 1));
        queue.learned(&groups);
        taken.extend(groups);
    }
    halt.stop();
    for thread in threads {
        thread.join().expect("no thread panics").expect("no thread fails");
    }
    let mut ids: Vec<u64> = taken.iter().map(|group| group.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), STEPS as usize * GROUPS_PER_STEP, "a group is handed out twice");
    for completion in taken.iter().flat_map(|group| &group.completions).map(|scored| &scored.completion) {
        let drawn = length(completion.group, completion.member);
        assert_eq!(completion.token_count(), drawn, "group {}", completion.group);
        let versions: Vec<u64> = completion.segments().map(|segment| segment.version).collect();
        assert!(versions.is_sorted(), "versions {versions:?} of group {}", completion.group);
    }
    let seen = lossy.seen();
    ACCIDENTS[0].fetch_add(seen.handed_to_another, Ordering::Relaxed);
    ACCIDENTS[1].fetch_add(seen.lost, Ordering::Relaxed);
}

// Invariants 5 and 9: what actors tell may be dropped, doubled, late and out of order, and a group may be handed to a
// second actor; the learner gets every group once and whole.
#[test]
fn a_bad_network_costs_no_group_and_doubles_none() {
    explore(rollout_over_a_bad_network);
    let accidents = ACCIDENTS.each_ref().map(|count| count.load(Ordering::Relaxed));
    assert!(accidents.iter().all(|count| *count > 100), "{accidents:?} accidents in all schedules");
}
