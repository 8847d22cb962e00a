//! Runs that are interrupted and go on.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::{ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::config::{Priority, QueueConfig};
use crate::ledger::journal::Journal;
use crate::ledger::request::StepRequest;
use crate::ledger::state::ActorState;
use crate::schedule::deterministic::DeterministicSchedule;
use crate::schedule::lockstep::LockstepSchedule;
use crate::scheduler::Pacing;
use crate::testing::{Script, Start, context_at, records, rollout_config};

const GROUPS_PER_STEP: usize = 2;
const PACING: Pacing = Pacing { groups_per_step: GROUPS_PER_STEP as u64, staleness_versions_max: 2 };
const STEPS: u64 = 12;

enum ActiveSchedule {
    Lockstep(LockstepSchedule<Script>),
    Deterministic(Box<DeterministicSchedule<Script>>),
}

/// One process of a run whose learner only counts.
struct Process {
    script: Script,
    queue: Arc<ReplayQueue>,
    context: Arc<ActorContext<u64>>,
    schedule: ActiveSchedule,
    version: u64,
    shape: Shape,
    /// The group at whose first token the run is asked to stop.
    stops_at: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    deterministic: bool,
    actors: usize,
    seed: u64,
    groups_max: usize,
    /// Blocks of two tokens in each actor's cache.
    blocks: Option<usize>,
    /// Of five groups, those that teach nothing and are refilled.
    dead_of_five: u64,
}

impl Shape {
    /// How many further groups a step wants beside these.
    fn further(self, groups: &[Group]) -> usize {
        let live = groups.iter().filter(|group| (3 * group.id + self.seed) % 5 >= self.dead_of_five);
        GROUPS_PER_STEP.saturating_sub(live.count()).min(3 * GROUPS_PER_STEP - groups.len())
    }
}

/// None, or as few blocks as hold a prompt of 2 and an output of 12 tokens, and up to eight more.
fn bounds() -> impl Strategy<Value = Option<usize>> {
    proptest::option::of(7_usize..16)
}

impl Process {
    /// From the beginning, or from what was written down after step `version`.
    fn new(shape: Shape, from: Option<(u64, &[u8])>, journal: Option<Journal>) -> Self {
        let seed = shape.seed;
        let (stops_at, closes) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(OnceLock::new()));
        let (stop, close) = (Arc::clone(&stops_at), Arc::clone(&closes));
        let mut script = Script::new(3, move |group, member| {
            if group >= stop.load(Ordering::Relaxed) {
                let queue: &Arc<ReplayQueue> = close.get().expect("set before anything is drawn");
                queue.close();
            }
            ((group * 7 + u64::from(member) * 13 + seed) % 11) as usize + 1
        });
        script.cache = (2, shape.blocks.unwrap_or(usize::MAX));
        let (version, state) = match from {
            Some((version, bytes)) => (version, postcard::from_bytes(bytes).expect("our own bytes")),
            None => (0, RolloutState::default()),
        };
        let mut config = rollout_config(3 * shape.actors, 3, 4, 2);
        config.actors = shape.actors;
        config.kv_cache_tokens_max = shape.blocks.map(|blocks| 2 * blocks * shape.actors);
        config.priority = if seed.is_multiple_of(2) { Priority::Oldest } else { Priority::LastMembers };
        config.in_flight_updates = (seed / 2).is_multiple_of(2);
        if seed.is_multiple_of(3) {
            config.stop = ["ba", "cdc"].map(str::to_string).to_vec();
            config.stop_token_ids = vec![5];
            config.min_tokens = 2;
        }
        config.versions_open_max = 2 + seed / 4 % 2;
        let queue = QueueConfig { groups_max: shape.groups_max, staleness_versions_max: 2 };
        let (context, ledger) = context_at(config, seed, PACING, Start { version, queue, state: &state });
        journal.into_iter().for_each(|journal| ledger.keep_journal(journal));
        let queue = Arc::clone(ledger.queue());
        closes.set(Arc::clone(&queue)).expect("set once");
        let mut actors: Vec<Actor<Script>> =
            (0..shape.actors).map(|number| Actor::new(context.clone(), number, script.clone())).collect();
        let weights = |version| Some(Versioned { version, weights: Arc::new(version) });
        let overflow = restore(&state, &mut actors, &queue, weights).expect("the data are the same");
        let window = state.window.map(|window| (window, weights(window.version).expect("any")));
        let schedule = if shape.deterministic {
            let actor = actors.pop().expect("one");
            ActiveSchedule::Deterministic(Box::new(
                DeterministicSchedule::new(actor, &queue, overflow, window).expect("a thread"),
            ))
        } else {
            ActiveSchedule::Lockstep(LockstepSchedule::new(actors, overflow))
        };
        Self { script, queue, context, schedule, version, shape, stops_at }
    }

    fn step(&mut self) -> Vec<String> {
        self.try_step().expect("never starved")
    }

    fn try_step(&mut self) -> Result<Vec<String>, RolloutError> {
        let shape = self.shape;
        let further = move |groups: &[Group]| shape.further(groups);
        let request = StepRequest { further: &further, ..StepRequest::of(GROUPS_PER_STEP) };
        let groups = match &mut self.schedule {
            ActiveSchedule::Lockstep(lockstep) => lockstep.take(&self.queue, &request, self.version),
            ActiveSchedule::Deterministic(deterministic) => {
                deterministic.take(&self.queue, &request, self.version)
            }
        };
        let groups = groups?;
        self.version += 1;
        self.context.weights.publish(self.version, Arc::new(self.version));
        self.queue.learned(&groups);
        Ok(records(&groups))
    }

    /// What is on the slots of each actor, who waits, and for how long.
    fn actors(&mut self) -> Vec<ActorState> {
        postcard::from_bytes::<RolloutState>(&self.written()).expect("our own bytes").actors
    }

    fn written(&mut self) -> Vec<u8> {
        let checkpoint = match &mut self.schedule {
            ActiveSchedule::Lockstep(lockstep) => lockstep.state(&self.queue, self.version),
            ActiveSchedule::Deterministic(deterministic) => {
                deterministic.state(&self.queue, self.version).expect("nobody failed")
            }
        };
        let known: Vec<u64> = checkpoint.weights.iter().map(|weights| weights.version).collect();
        assert!(checkpoint.state.versions_needed().iter().all(|version| known.contains(version)));
        postcard::to_stdvec(&checkpoint.state).expect("plain values")
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    // Invariant 9: a resumed run is the run bit for bit, wherever it was left.
    #[test]
    fn a_restored_run_is_the_run(
        deterministic in any::<bool>(),
        seed in 0..1000_u64,
        groups_max in 2..8_usize,
        blocks in bounds(),
        dead_of_five in 0..=5_u64,
        stops in proptest::collection::btree_set(0..STEPS, 0..4),
    ) {
        let actors = if deterministic { 1 } else { 1 + seed as usize % 2 };
        let shape = Shape { deterministic, actors, seed, groups_max, blocks, dead_of_five };
        let mut unbroken = Process::new(shape, None, None);
        let mut broken = Process::new(shape, None, None);
        for step in 0..STEPS {
            if stops.contains(&step) {
                let written = broken.written();
                broken = Process::new(shape, Some((step, &written)), None);
            }
            prop_assert_eq!(unbroken.step(), broken.step(), "step {}", step);
            prop_assert_eq!(unbroken.actors(), broken.actors(), "step {}", step);
        }
    }

    // Invariant 9: a run that is stopped while it puts a step together is the run, and so are its counters.
    #[test]
    fn a_run_that_is_stopped_within_a_step_is_the_run(
        deterministic in any::<bool>(),
        seed in 0..1000_u64,
        groups_max in 2..8_usize,
        blocks in bounds(),
        dead_of_five in 0..=5_u64,
        stops in proptest::collection::btree_set(1..60_u64, 1..6),
    ) {
        let actors = if deterministic { 1 } else { 1 + seed as usize % 2 };
        let shape = Shape { deterministic, actors, seed, groups_max, blocks, dead_of_five };
        let mut unbroken = Process::new(shape, None, None);
        let mut broken = Process::new(shape, None, None);
        let mut stops = stops.into_iter();
        let mut stop = stops.next();
        for step in 0..STEPS {
            let expected = unbroken.step();
            let found = loop {
                broken.stops_at.store(stop.unwrap_or(u64::MAX), Ordering::Relaxed);
                let found = broken.try_step();
                if !broken.queue.is_closed() {
                    break found.expect("never starved");
                }
                stop = stops.next();
                let written = broken.written();
                let version = broken.version;
                broken = Process::new(shape, Some((version, &written)), None);
                if let Ok(found) = found {
                    break found;
                }
            };
            prop_assert_eq!(expected, found, "step {}", step);
            let state = |process: &mut Process| -> RolloutState {
                postcard::from_bytes(&process.written()).expect("our own bytes")
            };
            let (whole, found) = (state(&mut unbroken), state(&mut broken));
            // With a window that it still has to finish a run is behind the other one.
            if found.window.is_none() {
                prop_assert_eq!((whole.actors, whole.admission), (found.actors, found.admission), "step {}", step);
                prop_assert_eq!((whole.groups_taken, whole.drops), (found.groups_taken, found.drops));
            }
        }
    }

    // Invariant 9: after a kill the journal gives back what was drawn since the checkpoint.
    #[test]
    fn nothing_that_was_drawn_is_drawn_again(
        deterministic in any::<bool>(),
        seed in 0..1000_u64,
        blocks in bounds(),
        saved in 0..6_u64,
        killed_after in 0..6_u64,
    ) {
        let shape = Shape { deterministic, actors: 1, seed, groups_max: 6, blocks, dead_of_five: seed % 4 };
        let mut unbroken = Process::new(shape, None, None);
        let steps: Vec<Vec<String>> = (0..STEPS).map(|_| unbroken.step()).collect();

        let folder = tempfile::tempdir().expect("a folder");
        let journal = |step| Journal::open(folder.path(), step, u64::MAX).expect("a journal");
        let mut first = Process::new(shape, None, Some(journal(0)));
        (0..saved).for_each(|_| drop(first.step()));
        let written = first.written();
        let drawn_when_saved = first.script.tokens_drawn();
        (0..killed_after).for_each(|_| drop(first.step()));
        // Stands still, so that the two processes can be counted.
        first.written();
        let drawn_since = first.script.tokens_drawn() - drawn_when_saved;
        drop(first);

        let mut second = Process::new(shape, Some((saved, &written)), Some(journal(saved)));
        for (offset, step) in steps[saved as usize..].iter().enumerate() {
            prop_assert_eq!(&second.step(), step, "step {}", saved as usize + offset);
        }
        second.written();
        unbroken.written();
        // At most the open segments of three slots, of three tokens each, were lost.
        let drawn = drawn_when_saved + drawn_since + second.script.tokens_drawn();
        let lost = drawn - unbroken.script.tokens_drawn();
        prop_assert!(lost <= 3 * 2, "{lost} tokens were drawn twice");
    }
}

#[test]
fn other_data_are_refused() {
    let shape =
        Shape { deterministic: false, actors: 1, seed: 1, groups_max: 4, blocks: None, dead_of_five: 0 };
    let mut process = Process::new(shape, None, None);
    process.step();
    let mut state: RolloutState = postcard::from_bytes(&process.written()).expect("our own bytes");
    state.groups[0].prompt_tokens = vec![9];
    let queue = QueueConfig { groups_max: 4, staleness_versions_max: 2 };
    let start = Start { version: 1, queue, state: &state };
    let (context, ledger) = context_at(rollout_config(3, 3, 4, 2), 1, PACING, start);
    let mut actors = [Actor::new(context, 0, process.script.clone())];
    let error = restore(&state, &mut actors, ledger.queue(), |_| None).expect_err("another prompt");
    assert!(error.to_string().contains("was started on another prompt"), "{error}");
}

// Between the number of a group and its members a checkpoint may be written.
#[test]
fn a_group_without_members_yet_gets_them() {
    let shape =
        Shape { deterministic: true, actors: 1, seed: 1, groups_max: 4, blocks: None, dead_of_five: 0 };
    let mut process = Process::new(shape, None, None);
    process.step();
    let mut state: RolloutState = postcard::from_bytes(&process.written()).expect("our own bytes");
    let unfinished = state.groups.iter_mut().rev().find(|group| group.verdict.is_none());
    let group = unfinished.expect("a group is on the way");
    let admitted = GroupState::new(group.id, group.started_version);
    *group = admitted;
    // Trajectories then go on from the end of their last segment.
    state.actors.clear();
    let group = group.id;
    let written = postcard::to_stdvec(&state).expect("plain values");
    let mut again = Process::new(shape, Some((1, &written)), None);
    let known = again.context.ledger.groups_of(0);
    let members = known.iter().find(|known| known.id == group).map(|known| known.members.len());
    assert_eq!(members, Some(2));
    // It is answered and learned from once, by all of its members.
    let records: Vec<String> = (1..STEPS).flat_map(|_| again.step()).collect();
    let of_group = |record: &&String| {
        let record: trajectory::CompletionRecord = serde_json::from_str(record).expect("a record");
        record.group == group.to_string()
    };
    assert_eq!(records.iter().filter(of_group).count(), 2);
}

// Trajectories of a run on threads go on from the end of their last segment, each exactly once.
#[test]
fn with_other_slots_every_trajectory_goes_on_once() {
    let shape =
        Shape { deterministic: false, actors: 1, seed: 3, groups_max: 6, blocks: Some(9), dead_of_five: 0 };
    let mut process = Process::new(shape, None, None);
    let mut records: Vec<String> = (0..4).flat_map(|_| process.step()).collect();
    let written = process.written();
    let other = Shape { actors: 2, ..shape };
    let mut process = Process::new(other, Some((4, &written)), None);
    records.extend((4..STEPS).flat_map(|_| process.step()));
    let mut groups: Vec<String> = records
        .iter()
        .map(|record| {
            let record: trajectory::CompletionRecord = serde_json::from_str(record).expect("a record");
            record.group
        })
        .collect();
    groups.dedup();
    let count = groups.len();
    groups.sort_unstable();
    groups.dedup();
    assert_eq!((groups.len(), count), (GROUPS_PER_STEP * STEPS as usize, GROUPS_PER_STEP * STEPS as usize));
}
