//! Actors on threads and in turns with the learner.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::asynchronous::{ACTOR_RESTARTS_MAX, AsyncSchedule};
use super::deterministic::DeterministicSchedule;
use super::lockstep::LockstepSchedule;
use super::*;
use crate::actor::Actor;
use crate::config::{QueueConfig, RolloutConfig};
use crate::generator::Generator;
use crate::ledger::Ledger;
use crate::ledger::local::LocalLedger;
use crate::ledger::lossy::LossyLedger;
use crate::ledger::request::StepRequest;
use crate::ledger::state::{DropReason, RolloutState};

use crate::scheduler::Pacing;
use crate::sync::{Mutex, lock};
use crate::testing::{Script, Start, context_at, records, rollout_config};

const GROUPS_PER_STEP: usize = 2;
const STALENESS: u64 = 1;

/// Actors on one context, and the queue behind them.
fn run(actors: usize, groups_max: usize, script: &Script) -> (Vec<Actor<Script>>, Arc<ReplayQueue>) {
    let config = RolloutConfig { actors, ..rollout_config(script.slots() * actors, 2, 12, 3) };
    run_with(config, groups_max, script)
}

fn run_with(
    config: RolloutConfig,
    groups_max: usize,
    script: &Script,
) -> (Vec<Actor<Script>>, Arc<ReplayQueue>) {
    let actors = config.actors;
    let pacing = Pacing { groups_per_step: GROUPS_PER_STEP as u64, staleness_versions_max: STALENESS };
    let queue = QueueConfig { groups_max, staleness_versions_max: STALENESS };
    let start = Start { version: 0, queue, state: &RolloutState::default() };
    let (context, ledger) = context_at(config, 42, pacing, start);
    let queue = Arc::clone(ledger.queue());
    ((0..actors).map(|number| Actor::new(context.clone(), number, script.clone())).collect(), queue)
}

fn spawn(
    actors: Vec<Actor<Script>>,
    queue: &Arc<ReplayQueue>,
    script: &Script,
) -> Result<AsyncSchedule, RolloutError> {
    let script = script.clone();
    AsyncSchedule::spawn(actors, queue.clone(), move || script.clone())
}

fn uneven(slots: usize) -> Script {
    Script::new(slots, |group, member| (group as usize * 5 + member as usize * 3) % 8 + 1)
}

fn lockstep_records(actors: usize) -> Vec<String> {
    let (actors, queue) = run(actors, 4, &uneven(4));
    let weights = actors[0].context().weights.clone();
    let mut lockstep = LockstepSchedule::new(actors, Vec::new());
    let mut groups = Vec::new();
    for version in 0..10 {
        groups.extend(
            lockstep
                .take(&queue, &StepRequest::of(GROUPS_PER_STEP), version)
                .expect("the pacing starts enough"),
        );
        weights.publish(version + 1, Arc::new(version + 1));
    }
    assert_eq!(groups.len(), 20);
    assert!(lockstep.report().completions_by_versions.keys().any(|versions| *versions > 1));
    records(&groups)
}

// Invariant 7: same seed, same run, bit for bit.
#[test]
fn lockstep_gives_the_same_records_in_every_run() {
    assert_eq!(lockstep_records(1), lockstep_records(1));
    assert_eq!(lockstep_records(2), lockstep_records(2));
}

/// What groups are recorded as, by their numbers and without where they were drawn.
fn records_without_places(mut groups: Vec<Group>) -> Vec<String> {
    groups.sort_by_key(|group| group.id);
    for scored in groups.iter_mut().flat_map(|group| &mut group.completions) {
        scored.completion.segments_mut().for_each(|segment| segment.drawn_at = None);
    }
    records(&groups)
}

/// The records of twelve groups from two actors on threads of their own, over the ledger that `over` makes of a local
/// one. All segments are of version 0, so that what is drawn does not depend on when.
fn records_over(over: impl FnOnce(Arc<LocalLedger>) -> Arc<dyn Ledger>) -> Vec<String> {
    const GROUPS: usize = 12;
    let script = uneven(3);
    let config = RolloutConfig { actors: 2, ..rollout_config(6, 2, 12, 3) };
    let pacing = Pacing { groups_per_step: GROUPS as u64, staleness_versions_max: 0 };
    let queue = QueueConfig { groups_max: GROUPS, staleness_versions_max: 0 };
    let start = Start { version: 0, queue, state: &RolloutState::default() };
    let (context, ledger) = context_at(config, 42, pacing, start);
    let queue = Arc::clone(ledger.queue());
    let mut context = Arc::into_inner(context).expect("nobody else has it yet");
    context.ledger = over(ledger);
    let context = Arc::new(context);
    let actors = (0..2).map(|number| Actor::new(context.clone(), number, script.clone())).collect();
    let mut threads = spawn(actors, &queue, &script).expect("threads");
    let groups = queue.take(GROUPS, 0).expect("open");
    threads.stop().expect("no failure");
    records_without_places(groups)
}

// Invariants 2, 5 and 9: what a ledger is, and what becomes of the messages to it, changes no byte of what is recorded.
#[test]
fn records_are_the_same_over_every_ledger() {
    let local = records_over(|ledger| ledger);
    assert_eq!(local.len(), 36);
    let lossy = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&lossy);
    let over_a_bad_network = records_over(move |ledger| {
        let ledger = Arc::new(LossyLedger::new(ledger, 2));
        *lock(&kept) = Some(Arc::clone(&ledger));
        ledger
    });
    let seen = lock(&lossy).take().expect("it was made").seen();
    assert!(seen.dropped > 0 && seen.doubled > 0 && seen.delayed > 0, "{seen:?}");
    assert_eq!(local, over_a_bad_network);
    // Nor does the schedule, where the version is the same.
    let (actors, queue) = run(1, 12, &uneven(3));
    let mut lockstep = LockstepSchedule::new(actors, Vec::new());
    let groups = lockstep.take(&queue, &StepRequest::of(GROUPS_PER_STEP), 0).expect("never starved");
    let first = records_without_places(groups);
    assert!(first.iter().all(|record| local.contains(record)), "{first:#?}");
}

/// The groups that 300 steps take, in order, and how many were dropped, where member 2 of every third
/// group takes the whole output and all others take one token.
fn taken_beside_long_outputs(groups_max: usize) -> (Vec<u64>, u64) {
    let script = Script::new(3, |group, member| if group % 3 == 0 && member == 2 { 99 } else { 1 });
    let (actors, queue) = run(1, groups_max, &script);
    let weights = actors[0].context().weights.clone();
    let mut lockstep = LockstepSchedule::new(actors, Vec::new());
    let mut taken = Vec::new();
    for version in 0..300 {
        let groups =
            lockstep.take(&queue, &StepRequest::of(GROUPS_PER_STEP), version).expect("never starved");
        taken.extend(groups.iter().map(|group| group.id));
        weights.publish(version + 1, Arc::new(version + 1));
    }
    (taken, queue.report().drops.values().sum())
}

// Invariant 5: with room for all groups on the way none is too old for its step, however long it takes.
#[test]
fn the_longest_outputs_are_not_thrown_away() {
    let (mut taken, dropped) = taken_beside_long_outputs(GROUPS_PER_STEP * (1 + STALENESS as usize));
    assert_eq!((taken.len(), dropped), (600, 0));
    assert!(!taken.is_sorted(), "short outputs overtake long ones");
    taken.sort_unstable();
    // All but the last ones were taken: nothing is left behind by more than the staleness allows.
    assert!(taken[..598].iter().copied().eq(0..598), "{taken:?}");
}

// Invariant 5: dropped groups are replaced, so a learner whose queue drops stale ones is not starved.
#[test]
fn stale_groups_do_not_starve_the_learner() {
    let (taken, dropped) = taken_beside_long_outputs(GROUPS_PER_STEP);
    assert_eq!(taken.len(), 600);
    // Without replacements the pacing would end the work at this many drops.
    let ahead = (GROUPS_PER_STEP as u64) * (1 + STALENESS);
    assert!(dropped > ahead, "the test means nothing with {dropped} drops");
}

/// The versions that open segments have while the last of so many steps is made, where two may be open.
fn held_in_last_step(steps: u64) -> Vec<u64> {
    // Segments of twelve tokens beside outputs of one, so that they last longer than their version may be open.
    let script = Script::new(4, |group, _| if group % 3 == 0 { 12 } else { 1 });
    let config = RolloutConfig { versions_open_max: 2, ..rollout_config(4, 12, 1, 2) };
    let (mut actors, queue) = run_with(config, 4, &script);
    let weights = Arc::clone(&actors[0].context().weights);
    let actor = actors.pop().expect("an actor");
    let mut deterministic = DeterministicSchedule::new(actor, &queue, Vec::new(), None).expect("a thread");
    for version in 0..steps {
        weights.publish(version + 1, Arc::new(version + 1));
        let request = StepRequest { last: version + 1 == steps, ..StepRequest::of(GROUPS_PER_STEP) };
        deterministic.take(&queue, &request, version + 1).expect("never starved");
    }
    let checkpoint = deterministic.state(&queue, steps).expect("nothing fails");
    checkpoint.weights.iter().map(|weights| weights.version).collect()
}

// A version is as large as the model: none is held for longer than something is decoded under it.
#[test]
fn old_weights_are_let_go_before_the_last_step() {
    let held: Vec<(u64, u64)> = (3..12)
        .flat_map(|steps| held_in_last_step(steps).into_iter().map(move |held| (steps, held)))
        .collect();
    assert!(held.iter().any(|(steps, held)| held < steps), "the test means nothing with {held:?}");
    assert!(held.iter().all(|(steps, held)| held + 1 >= *steps), "{held:?}");
}

// As above, in a step that finds its groups in the queue, so that nothing is decoded for it.
#[test]
fn old_weights_are_let_go_where_nothing_is_decoded() {
    let script = Script::new(8, |group, _| if group == 0 { 12 } else { 1 });
    let config = RolloutConfig { versions_open_max: 1, ..rollout_config(8, 12, 1, 2) };
    let (actors, queue) = run_with(config, 4, &script);
    let weights = Arc::clone(&actors[0].context().weights);
    let mut lockstep = LockstepSchedule::new(actors, Vec::new());
    let mut steps = Vec::new();
    for version in 0..2 {
        lockstep.take(&queue, &StepRequest::of(1), version).expect("three groups end at once");
        let held = lockstep.state(&queue, version).weights.len();
        steps.push((lockstep.report().decode_steps, held));
        weights.publish(version + 1, Arc::new(version + 1));
    }
    assert_eq!(steps, [(1, 2), (1, 0)], "decode steps, and open segments with weights");
}

#[test]
fn a_learner_that_takes_too_much_is_told_so() {
    let (actors, queue) = run(1, 9, &uneven(4));
    let mut lockstep = LockstepSchedule::new(actors, Vec::new());
    // 2 groups a step and staleness 1 allow 4 groups at version 0.
    let error = lockstep.take(&queue, &StepRequest::of(5), 0).expect_err("5 > 4");
    assert!(matches!(error, RolloutError::Starved { version: 0, wanted: 5, queued: 4 }), "{error}");
}

#[test]
fn a_closed_queue_ends_lockstep() {
    let (actors, queue) = run(1, 4, &uneven(4));
    queue.close();
    let taken = LockstepSchedule::new(actors, Vec::new()).take(&queue, &StepRequest::of(1), 0);
    assert!(matches!(taken, Err(RolloutError::Closed)));
}

// Invariants 5 and 7: threads, pacing and back-pressure end in whole, fresh groups; joining leaves no
// thread.
#[test]
fn threads_feed_the_learner_and_end_with_it() {
    let script = uneven(4);
    let (actors, queue) = run(2, 4, &script);
    let context = actors[0].context().clone();
    let mut threads = spawn(actors, &queue, &script).expect("threads start");
    let mut ids = Vec::new();
    for version in 0..50 {
        for group in queue.take(GROUPS_PER_STEP, version).expect("open") {
            assert!(version - group.oldest_version() <= STALENESS);
            assert_eq!(group.completions.len(), 3);
            ids.push(group.id);
        }
        context.weights.publish(version + 1, Arc::new(version + 1));
    }
    assert!(threads.report().groups >= 100);
    assert_eq!(queue.report().drops.len(), 0, "the queue has room for all groups on the way");
    threads.stop().expect("no actor failed");
    drop(threads);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 100, "no group is handed out twice");
    // The threads owned the actors, and these the script and the context.
    assert_eq!(Arc::strong_count(&context), 1);
}

#[test]
fn an_idle_actor_wakes_for_new_weights_and_for_the_end() {
    let script = uneven(12);
    let (actors, queue) = run(1, 4, &script);
    let context = actors[0].context().clone();
    let mut threads = spawn(actors, &queue, &script).expect("threads start");
    queue.take(4, 0).expect("four groups may start at version 0");
    // Nothing more may start until this.
    context.weights.publish(1, Arc::new(1));
    queue.take(2, 1).expect("two more may start at version 1");
    threads.stop().expect("no actor failed");
    assert!(matches!(queue.take(1, 1), Err(RolloutError::Closed)));
}

// Invariant 5: a group without a verdict is counted and replaced, under either schedule.
#[test]
fn a_group_without_a_verdict_is_left_out_and_another_one_starts() {
    let mut script = Script::new(4, |_, _| 2);
    script.unscored_group = Some(2);
    let (actors, queue) = run(1, 4, &script);
    let mut lockstep = LockstepSchedule::new(actors, Vec::new());
    let ids = |groups: Vec<Group>| groups.iter().map(|group| group.id).collect::<Vec<_>>();
    let taken = lockstep.take(&queue, &StepRequest::of(4), 0).expect("group 4 is started for group 2");
    assert_eq!(ids(taken), [0, 1, 3, 4]);
    assert_eq!(queue.report().drops, BTreeMap::from([(DropReason::Unscored, 1)]));

    let (actors, queue) = run(1, 4, &script);
    let mut threads = spawn(actors, &queue, &script).expect("threads start");
    let mut taken = ids(queue.take(4, 0).expect("group 4 is started for group 2"));
    taken.sort_unstable();
    assert_eq!(taken, [0, 1, 3, 4]);
    assert_eq!(queue.report().drops, BTreeMap::from([(DropReason::Unscored, 1)]));
    threads.stop().expect("nobody failed");
}

// Invariant 8: a verifier that fails ends the run and is named.
#[test]
fn a_failing_verifier_closes_the_queue_and_join_says_why() {
    let mut script = Script::new(4, |_, _| 2);
    script.unjudged_group = Some(1);
    let (actors, queue) = run(2, 4, &script);
    let mut threads = spawn(actors, &queue, &script).expect("threads start");
    while queue.take(1, 0).is_ok() {}
    let error = threads.stop().expect_err("the verifier fails").to_string();
    assert!(error.contains("(group 1): reward `letters` failed"), "{error}");
}

#[test]
fn a_failing_actor_closes_the_queue_and_join_says_why() {
    let mut script = uneven(4);
    script.fails_at_step = Some(3);
    let (actors, queue) = run(2, 4, &script);
    let mut threads = spawn(actors, &queue, &script).expect("threads start");
    while queue.take(1, 0).is_ok() {}
    let error = threads.stop().expect_err("the script fails").to_string();
    assert_eq!(error, "the generator failed: the script ends here");
}

// Nothing that was written down is lost by a panic, and nothing is handed out twice.
#[test]
fn an_actor_that_panics_goes_on_with_its_trajectories() {
    let panics = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = panics.clone();
    let script = Script::new(4, move |group, member| {
        // Group 5 begins while others are in the middle of segments.
        if group == 5 && member == 1 && counted.fetch_add(1, Ordering::SeqCst) < ACTOR_RESTARTS_MAX {
            panic!("no length for group {group}");
        }
        (group as usize * 5 + member as usize * 3) % 8 + 1
    });
    let (actors, queue) = run(1, 4, &script);
    let context = actors[0].context().clone();
    let mut threads = spawn(actors, &queue, &script).expect("threads start");
    let mut ids = Vec::new();
    for version in 0..20 {
        ids.extend(queue.take(GROUPS_PER_STEP, version).expect("the actor comes back").iter().map(|g| g.id));
        context.weights.publish(version + 1, Arc::new(version + 1));
    }
    assert_eq!(threads.report().restarts, u64::from(ACTOR_RESTARTS_MAX));
    threads.stop().expect("the last start held");
    ids.sort_unstable();
    assert_eq!(ids, (0..40).collect::<Vec<u64>>());
}

// Invariant 7: not even a panic leaves a thread or a learner that waits.
#[test]
fn a_panic_in_an_actor_is_an_error_of_the_run() {
    let script = Script::new(4, |group, _| if group < 2 { 1 } else { panic!("no length for group {group}") });
    let (actors, queue) = run(1, 4, &script);
    let mut threads = spawn(actors, &queue, &script).expect("threads start");
    while queue.take(1, 0).is_ok() {}
    let error = threads.stop().expect_err("the script panics").to_string();
    assert!(error.starts_with("the thread actor-0 panicked: no length for group 2"), "{error}");
}
