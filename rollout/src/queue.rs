//! The replay queue: scored groups on their way to the learner. It is bounded, it keeps their order, it
//! hands out nothing that is too old, and whatever it does not hand out it counts by reason.
//!
//! First come, first served alone would always leave the longest outputs behind until they are too old: a
//! bias against just what a run wants to learn. So a group that would be too old for the next step is due:
//! it goes into this one, and the learner waits for it. By the pacing no more groups are due than a step
//! takes, also where some steps take more than others, so with room for all groups on the way (`groups_per_step * (1 + staleness_versions_max)`) nothing
//! is dropped. A queue with less room fills up while it waits; then it hands out what it has, and the late
//! group may be lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use trajectory::Group;

use crate::config::QueueConfig;
use crate::error::RolloutError;
use crate::intake::Intake;
use crate::ledger::RolloutState;
use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait};

/// Why a group never reached the learner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DropReason {
    /// Its oldest token was further behind the learner than the staleness bound.
    Stale,
    /// It was finished after the run had begun to stop.
    Closed,
    /// A verifier gave no verdict on one of its members and said to go on without it.
    Unscored,
}

/// What has happened in the queue so far; counters only rise.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueueReport {
    /// The groups that wait now.
    pub groups: usize,
    /// The most groups that may wait.
    pub groups_max: usize,
    /// Groups put in.
    pub pushed: u64,
    /// Groups handed to the learner.
    pub taken: u64,
    /// Groups that never reached the learner.
    pub drops: BTreeMap<DropReason, u64>,
    /// Seconds that the learner waited for groups.
    pub trainer_waiting_s: f64,
    /// Seconds that finished groups waited for room, summed over the actors.
    pub actors_waiting_s: f64,
}

/// Scored groups between the actors and the learner.
#[derive(Debug)]
pub struct ReplayQueue {
    config: QueueConfig,
    intake: Arc<Intake>,
    state: Mutex<State>,
    /// Rings when a group came in or the queue closed.
    filled: Condvar,
    /// Rings when a group left or the queue closed.
    drained: Condvar,
}

#[derive(Debug, Default)]
struct State {
    groups: VecDeque<Group>,
    /// Places that are kept for groups which are being scored.
    reserved: usize,
    closed: bool,
    report: QueueReport,
}

impl ReplayQueue {
    /// An empty queue. It tells the intake how many groups it drops, so that others are started for them.
    pub fn new(config: QueueConfig, intake: Arc<Intake>) -> Self {
        let report = QueueReport { groups_max: config.groups_max, ..QueueReport::default() };
        let state = Mutex::new(State { report, ..State::default() });
        Self { config, intake, state, filled: Condvar::new(), drained: Condvar::new() }
    }

    /// Goes on where another queue stood, with the groups that waited in it.
    pub(crate) fn restore(
        &self,
        groups: Vec<Group>,
        (pushed, taken): (u64, u64),
        drops: &BTreeMap<DropReason, u64>,
    ) {
        let mut state = lock(&self.state);
        state.groups = groups.into();
        (state.report.pushed, state.report.taken) = (pushed, taken);
        state.report.drops.clone_from(drops);
        drop(state);
        self.filled.notify_all();
    }

    /// All that is on its way, in the queue and before it, after the learner's step `step`. The actors' own
    /// states are not in it.
    pub(crate) fn state(&self, step: u64) -> RolloutState {
        let (report, (intake, groups)) = {
            let state = lock(&self.state);
            (state.report.clone(), self.intake.snapshot(step))
        };
        let mut drops = report.drops;
        drops.remove(&DropReason::Closed);
        let (groups_pushed, groups_taken) = (report.pushed, report.taken);
        RolloutState { intake, groups, groups_pushed, groups_taken, drops, ..RolloutState::default() }
    }

    /// The learner has learned from these groups.
    pub fn learned(&self, groups: &[Group]) {
        self.intake.learned(groups.iter().map(|group| group.id));
    }

    /// The step that is being put together takes `groups` groups in all beyond `groups_per_step`: as many more may
    /// start.
    pub(crate) fn refill(&self, groups: u64) {
        self.intake.refill(groups);
    }

    /// Puts a group in, waiting for room.
    pub fn push(&self, group: Group) -> Result<(), RolloutError> {
        self.reserve();
        self.push_reserved(group)
    }

    /// Keeps a place for a group that is finished and not scored yet, waiting for room: this is how a slow learner
    /// slows the actors down. Every place is used by [`ReplayQueue::push_reserved`] or given back by
    /// [`ReplayQueue::discard_reserved`]. Does not wait where the queue is closed; the push then says so.
    pub fn reserve(&self) {
        let began = Instant::now();
        let mut state = lock(&self.state);
        while !state.closed && state.groups.len() + state.reserved >= self.config.groups_max {
            state = wait(&self.drained, state, WAIT_MAX);
        }
        state.reserved += 1;
        state.report.actors_waiting_s += began.elapsed().as_secs_f64();
    }

    /// Puts a group into a place that was kept for it.
    pub fn push_reserved(&self, group: Group) -> Result<(), RolloutError> {
        let mut state = lock(&self.state);
        state.reserved = state.reserved.checked_sub(1).expect("a place was kept for the group");
        self.put(state, group)
    }

    /// Puts a group in if there is room now, else gives it back.
    pub fn try_push(&self, group: Group) -> Result<Option<Group>, RolloutError> {
        let state = lock(&self.state);
        if !state.closed && state.groups.len() + state.reserved >= self.config.groups_max {
            return Ok(Some(group));
        }
        self.put(state, group).map(|()| None)
    }

    fn put(&self, mut state: MutexGuard<'_, State>, group: Group) -> Result<(), RolloutError> {
        if state.closed {
            *state.report.drops.entry(DropReason::Closed).or_default() += 1;
            return Err(RolloutError::Closed);
        }
        state.groups.push_back(group);
        state.report.pushed += 1;
        drop(state);
        self.filled.notify_all();
        Ok(())
    }

    /// Hands out `count` groups that are fresh enough for a learner at `learner_version`, waiting until
    /// there are so many: those that are due first, then those that have waited longest.
    pub fn take(&self, count: usize, learner_version: u64) -> Result<Vec<Group>, RolloutError> {
        let began = Instant::now();
        let mut state = lock(&self.state);
        loop {
            if let Some(groups) = self.take_now(&mut state, count, learner_version)? {
                state.report.trainer_waiting_s += began.elapsed().as_secs_f64();
                return Ok(groups);
            }
            state = wait(&self.filled, state, WAIT_MAX);
        }
    }

    /// Like [`ReplayQueue::take`], but returns `None` instead of waiting.
    pub fn try_take(&self, count: usize, learner_version: u64) -> Result<Option<Vec<Group>>, RolloutError> {
        self.take_now(&mut lock(&self.state), count, learner_version)
    }

    fn take_now(
        &self,
        state: &mut State,
        count: usize,
        learner_version: u64,
    ) -> Result<Option<Vec<Group>>, RolloutError> {
        let groups_max = self.config.groups_max;
        assert!(count <= groups_max, "{count} groups are taken from a queue that holds at most {groups_max}");
        if state.closed {
            return Err(RolloutError::Closed);
        }
        self.drop_stale(state, learner_version);
        let due = self.due(learner_version);
        let due_here = state.groups.iter().filter(|group| due.contains(&group.id)).count();
        let misses_due = due_here < due.len().min(count) && state.groups.len() < groups_max;
        if state.groups.len() < count || misses_due {
            return Ok(None);
        }
        let groups = pick(&mut state.groups, count, &due, due_here);
        self.intake.take(groups.iter().map(|group| group.id));
        state.report.taken += count as u64;
        self.drained.notify_all();
        Ok(Some(groups))
    }

    /// The groups on the way that may be too old for a learner one version further.
    fn due(&self, learner_version: u64) -> BTreeSet<u64> {
        let bound = self.config.staleness_versions_max;
        learner_version
            .checked_sub(bound)
            .map(|started| self.intake.started_up_to(started))
            .unwrap_or_default()
    }

    fn drop_stale(&self, state: &mut State, learner_version: u64) {
        let bound = self.config.staleness_versions_max;
        let stale = |group: &Group| learner_version.saturating_sub(group.oldest_version()) > bound;
        let ids: Vec<u64> = state.groups.iter().filter(|group| stale(group)).map(|group| group.id).collect();
        let dropped = ids.len() as u64;
        if dropped > 0 {
            state.groups.retain(|group| !stale(group));
            *state.report.drops.entry(DropReason::Stale).or_default() += dropped;
            tracing::warn!(dropped, learner_version, "groups were too old for the learner and are dropped");
            self.intake.drop_and_replace(&ids);
            self.drained.notify_all();
        }
    }

    /// Counts a group that will not be put in. Another one may be started for it, unless the run is stopping:
    /// then the group stays on the way, for a run that goes on from here.
    pub fn discard(&self, group: u64, reason: DropReason) {
        let mut state = lock(&self.state);
        *state.report.drops.entry(reason).or_default() += 1;
        // Under the queue's lock: between a learner's look at the intake and its wait the group would leave
        // unnoticed, and in a checkpoint it would be dropped and on its way.
        if reason != DropReason::Closed {
            self.intake.drop_and_replace(&[group]);
        }
        drop(state);
        // A learner that waited for this group as a due one need not any more.
        self.filled.notify_all();
    }

    /// As [`ReplayQueue::discard`], for a group that a place was kept for.
    pub fn discard_reserved(&self, group: u64, reason: DropReason) {
        let mut state = lock(&self.state);
        state.reserved = state.reserved.checked_sub(1).expect("a place was kept for the group");
        drop(state);
        self.drained.notify_all();
        self.discard(group, reason);
    }

    /// Puts back groups that had no place yet when a run was interrupted, whether there is room or not.
    pub fn take_back(&self, groups: Vec<Group>) {
        lock(&self.state).groups.extend(groups);
        self.filled.notify_all();
    }

    /// Counts time that the learner waited for groups elsewhere.
    pub(crate) fn count_trainer_waiting(&self, seconds: f64) {
        lock(&self.state).report.trainer_waiting_s += seconds;
    }

    /// The most groups that wait.
    pub fn groups_max(&self) -> usize {
        self.config.groups_max
    }

    /// Ends all waiting, on both sides. Groups that still wait are not handed out any more.
    pub fn close(&self) {
        lock(&self.state).closed = true;
        self.filled.notify_all();
        self.drained.notify_all();
    }

    /// Whether the queue was closed.
    pub fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// The number of groups that wait.
    pub fn len(&self) -> usize {
        lock(&self.state).groups.len()
    }

    /// Whether no group waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What has happened so far.
    pub fn report(&self) -> QueueReport {
        let state = lock(&self.state);
        QueueReport { groups: state.groups.len(), ..state.report.clone() }
    }
}

/// Takes `count` groups out of the queue, as many due ones as fit and then the oldest others, in queue order.
fn pick(queue: &mut VecDeque<Group>, count: usize, due: &BTreeSet<u64>, due_here: usize) -> Vec<Group> {
    let mut due_room = due_here.min(count);
    let mut other_room = count - due_room;
    let mut picked = Vec::with_capacity(count);
    for group in std::mem::take(queue) {
        let room = if due.contains(&group.id) { &mut due_room } else { &mut other_room };
        if *room > 0 {
            *room -= 1;
            picked.push(group);
        } else {
            queue.push_back(group);
        }
    }
    picked
}

/// A wait that ends within this time even if nobody rings, so that a lost wake-up is a pause and not a hang.
const WAIT_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod interleavings;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::testing::{group, intake};

    fn queue(groups_max: usize, staleness_versions_max: u64) -> ReplayQueue {
        ReplayQueue::new(
            QueueConfig { groups_max, staleness_versions_max },
            intake(1, staleness_versions_max),
        )
    }

    fn ids(groups: &[Group]) -> Vec<u64> {
        groups.iter().map(|group| group.id).collect()
    }

    #[test]
    fn groups_leave_in_the_order_they_came() {
        let queue = queue(4, 0);
        for id in [5, 3, 9] {
            queue.push(group(id, &[(0, 1)])).expect("open, with room");
        }
        assert_eq!(ids(&queue.take(2, 0).expect("open")), [5, 3]);
        assert!(queue.try_take(2, 0).expect("open").is_none());
        let report = queue.report();
        assert_eq!((report.groups, report.groups_max, report.pushed, report.taken), (1, 4, 3, 2));
    }

    // Invariant 5: staleness counts from the oldest token of the whole group; drops are counted; the intake
    // starts other groups for them.
    #[test]
    fn a_group_older_than_the_bound_is_dropped_whole_and_counted() {
        let intake = intake(1, 2);
        let queue =
            ReplayQueue::new(QueueConfig { groups_max: 4, staleness_versions_max: 2 }, intake.clone());
        queue.push(group(0, &[(7, 1), (4, 3)])).expect("open");
        queue.push(group(1, &[(5, 1), (7, 3)])).expect("open");
        assert_eq!(
            ids(&queue.take(1, 7).expect("open")),
            [1],
            "version 4 is 3 behind, version 5 is 2 behind"
        );
        assert_eq!(queue.report().drops, BTreeMap::from([(DropReason::Stale, 1)]));
        assert_eq!(intake.report().groups_replaced, 1);
    }

    // Invariant 5: the queue never holds more than its limit; a full queue makes the actor wait.
    #[test]
    fn a_full_queue_blocks_until_the_learner_takes() {
        let queue = &queue(2, 0);
        let (tell, told) = mpsc::channel();
        let (mut taken, mut most) = (Vec::new(), 0);
        // Nothing is asserted inside the scope: it would wait for the other thread and not say what is wrong.
        let returned_early = std::thread::scope(|scope| {
            scope.spawn(move || {
                for id in 0..100 {
                    queue.push(group(id, &[(0, 1)])).expect("open");
                    tell.send(id).expect("the test listens");
                }
            });
            let first = (told.recv(), told.recv());
            // The third push cannot have returned: nothing was taken.
            let returned_early = told.try_recv().is_ok() || first != (Ok(0), Ok(1));
            while taken.len() < 100 {
                most = queue.len().max(most);
                taken.extend(ids(&queue.take(1, 0).expect("open")));
            }
            returned_early
        });
        assert!(!returned_early && most <= 2, "up to {most} groups in a queue of 2");
        assert!(taken.into_iter().eq(0..100));
    }

    // Invariant 5: what is being scored counts, so that nothing grows old between the actors and the queue.
    #[test]
    fn a_place_that_is_kept_is_a_place_taken() {
        let queue = queue(2, 0);
        queue.reserve();
        queue.push(group(1, &[(0, 1)])).expect("open");
        let full = |id| queue.try_push(group(id, &[(0, 1)])).expect("open").is_some();
        assert!(full(2));
        queue.push_reserved(group(0, &[(0, 1)])).expect("open");
        assert_eq!(ids(&queue.take(2, 0).expect("open")), [1, 0]);
        queue.reserve();
        queue.reserve();
        assert!(full(5));
        queue.discard_reserved(3, DropReason::Unscored);
        assert!(!full(5));
        assert_eq!(queue.report().drops, BTreeMap::from([(DropReason::Unscored, 1)]));
    }

    // Invariant 5: the longest outputs are waited for and not thrown away.
    #[test]
    fn a_due_group_is_waited_for_and_goes_first() {
        let intake = intake(1, 1);
        let queue =
            ReplayQueue::new(QueueConfig { groups_max: 3, staleness_versions_max: 1 }, intake.clone());
        assert_eq!((intake.admit(0), intake.admit(0), intake.admit(1)), (Some(0), Some(1), Some(2)));
        queue.push(group(1, &[(0, 1)])).expect("open");
        assert_eq!(ids(&queue.take(1, 0).expect("open")), [1], "at version 0 nothing is due");
        queue.push(group(2, &[(1, 1)])).expect("open");
        assert!(queue.try_take(1, 1).expect("open").is_none(), "group 0 would be too old at version 2");
        queue.push(group(0, &[(0, 1)])).expect("open");
        assert_eq!(ids(&queue.take(1, 1).expect("open")), [0]);
        assert_eq!(ids(&queue.take(1, 2).expect("open")), [2]);
        assert_eq!(queue.report().drops, BTreeMap::new());
    }

    // A full queue that waited for a group whose actor waits for room would wait for ever.
    #[test]
    fn a_full_queue_does_not_wait_for_a_due_group() {
        let intake = intake(1, 0);
        let queue =
            ReplayQueue::new(QueueConfig { groups_max: 1, staleness_versions_max: 0 }, intake.clone());
        assert_eq!((intake.admit(0), intake.admit(1)), (Some(0), Some(1)));
        queue.push(group(1, &[(1, 1)])).expect("open");
        assert_eq!(ids(&queue.take(1, 1).expect("open")), [1]);
    }

    #[test]
    fn try_push_gives_the_group_back_when_there_is_no_room() {
        let queue = queue(1, 0);
        assert!(queue.try_push(group(0, &[(0, 1)])).expect("open").is_none());
        let back = queue.try_push(group(1, &[(0, 1)])).expect("open").expect("no room");
        assert_eq!((back.id, queue.len()), (1, 1));
    }

    // Invariant 7: closing frees every thread that waits.
    #[test]
    fn closing_ends_the_waiting_on_both_sides() {
        let (full, empty) = (queue(1, 0), queue(1, 0));
        full.push(group(0, &[(0, 1)])).expect("open");
        std::thread::scope(|scope| {
            let pusher = scope.spawn(|| full.push(group(1, &[(0, 1)])));
            let taker = scope.spawn(|| empty.take(1, 0));
            full.close();
            empty.close();
            assert!(matches!(pusher.join().expect("no panic"), Err(RolloutError::Closed)));
            assert!(matches!(taker.join().expect("no panic"), Err(RolloutError::Closed)));
        });
        assert_eq!(full.report().drops, BTreeMap::from([(DropReason::Closed, 1)]));
        assert!(matches!(full.try_take(1, 0), Err(RolloutError::Closed)));
        assert!(full.is_closed());
    }

    proptest! {
        // Invariant 5, whatever comes and whenever it is taken: nothing stale is handed out, the bound
        // holds, the order is kept, and every group is taken, dropped with a count, or still there.
        #[test]
        fn every_group_is_accounted_for(
            moves in proptest::collection::vec((0u64..6, 0usize..4), 1..60),
            groups_max in 3usize..6,
            staleness in 0u64..4,
        ) {
            let queue = queue(groups_max, staleness);
            let (mut version, mut pushed, mut taken) = (0, 0, Vec::new());
            for (age, count) in moves {
                let next = group(pushed, &[(version, 1), (version.saturating_sub(age), 2)]);
                pushed += u64::from(queue.try_push(next).expect("open").is_none());
                prop_assert!(queue.len() <= groups_max);
                if let Some(groups) = queue.try_take(count, version).expect("open") {
                    prop_assert_eq!(groups.len(), count);
                    prop_assert!(groups.iter().all(|g| version - g.oldest_version() <= staleness));
                    prop_assert!(groups.iter().all(|g| g.completions.len() == 2));
                    taken.extend(ids(&groups));
                    version += 1;
                }
            }
            prop_assert!(taken.windows(2).all(|pair| pair[0] < pair[1]));
            let report = queue.report();
            let dropped = report.drops.get(&DropReason::Stale).copied().unwrap_or(0);
            prop_assert_eq!(pushed, taken.len() as u64 + dropped + queue.len() as u64);
            prop_assert_eq!((report.pushed, report.taken), (pushed, taken.len() as u64));
        }
    }
}
