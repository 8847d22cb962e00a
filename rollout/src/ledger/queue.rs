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

use trajectory::Group;

use super::admission::Admission;
use super::state::{DropReason, RolloutState};
use crate::config::QueueConfig;
use crate::error::RolloutError;
use crate::scorer::Scored;
use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait};

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
    admission: Arc<Admission>,
    state: Mutex<QueueState>,
    /// Notified when a group came in or the queue closed.
    filled: Condvar,
    /// Notified when a group left or the queue closed.
    drained: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    groups: VecDeque<Group>,
    /// Places that are kept for groups which are being scored.
    reserved: usize,
    closed: bool,
    report: QueueReport,
}

/// What a verdict on a group came to when it was delivered.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// The verdict is written down, and the group is to be put in.
    Group(Group),
    /// No verifier judged the group: it is counted, and another one may start for it.
    Counted,
    /// The verdict was delivered before.
    Repeated,
}

/// A look for the groups of a step.
struct Look {
    groups: Option<Vec<Group>>,
    /// Groups that were too old. They are told of by [`tell_stale`], without the queue's lock.
    stale: u64,
}

impl ReplayQueue {
    /// An empty queue. It tells the admission how many groups it drops, so that others are started for them.
    pub fn new(config: QueueConfig, admission: Arc<Admission>) -> Self {
        let report = QueueReport { groups_max: config.groups_max, ..QueueReport::default() };
        let state = Mutex::new(QueueState { report, ..QueueState::default() });
        Self { config, admission, state, filled: Condvar::new(), drained: Condvar::new() }
    }

    /// Goes on where another queue stood, with the groups that waited in it.
    pub(crate) fn restore(
        &self,
        groups: Vec<Group>,
        pushed: u64,
        taken: u64,
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
        // Before any lock that actors wait for: it is a file.
        self.admission.begin_journal(step);
        let (report, (admission, groups)) = {
            let state = lock(&self.state);
            (state.report.clone(), self.admission.snapshot())
        };
        let mut drops = report.drops;
        drops.remove(&DropReason::Closed);
        let (groups_pushed, groups_taken) = (report.pushed, report.taken);
        RolloutState { admission, groups, groups_pushed, groups_taken, drops, ..RolloutState::default() }
    }

    /// The learner has learned from these groups.
    pub fn learned(&self, groups: &[Group]) {
        self.admission.learned(groups.iter().map(|group| group.id));
    }

    /// The step that is being put together takes `groups` groups in all beyond `groups_per_step`: as many more may
    /// start.
    pub(crate) fn refill(&self, groups: u64) {
        self.admission.refill(groups);
    }

    /// Puts a group in, waiting for room.
    ///
    /// # Errors
    /// [`RolloutError::Closed`] where the queue is closed; the group is counted as lost to that.
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

    /// Waits for room for at most so long; whether there is some, or the queue is closed. The room may be another's before
    /// it is asked for.
    pub fn wait_for_room(&self, limit: Duration) -> bool {
        let began = Instant::now();
        let mut state = lock(&self.state);
        let has_room = |state: &QueueState| state.groups.len() + state.reserved < self.config.groups_max;
        while !state.closed && !has_room(&state) && began.elapsed() < limit {
            state = wait(&self.drained, state, limit);
        }
        state.report.actors_waiting_s += began.elapsed().as_secs_f64();
        state.closed || has_room(&state)
    }

    /// Puts a group into a place that was kept for it.
    ///
    /// # Errors
    /// As [`ReplayQueue::push`].
    pub fn push_reserved(&self, group: Group) -> Result<(), RolloutError> {
        let mut state = lock(&self.state);
        state.reserved = state.reserved.checked_sub(1).expect("a place was kept for the group");
        self.put(state, group)
    }

    /// Puts a group in if there is room now, else gives it back.
    ///
    /// # Errors
    /// As [`ReplayQueue::push`].
    pub fn try_push(&self, group: Group) -> Result<Option<Group>, RolloutError> {
        let state = lock(&self.state);
        if !state.closed && state.groups.len() + state.reserved >= self.config.groups_max {
            return Ok(Some(group));
        }
        self.put(state, group).map(|()| None)
    }

    fn put(&self, mut state: MutexGuard<'_, QueueState>, group: Group) -> Result<(), RolloutError> {
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
    ///
    /// # Errors
    /// [`RolloutError::Closed`] where the queue is closed, before or while this waits.
    pub fn take(&self, count: usize, learner_version: u64) -> Result<Vec<Group>, RolloutError> {
        let began = Instant::now();
        let mut state = lock(&self.state);
        loop {
            let Look { groups, stale } = self.take_now(&mut state, count, learner_version)?;
            if groups.is_some() {
                state.report.trainer_waiting_s += began.elapsed().as_secs_f64();
            }
            if stale > 0 {
                drop(state);
                tell_stale(stale, learner_version);
                state = lock(&self.state);
            }
            match groups {
                Some(groups) => return Ok(groups),
                // The lock was open: what came in meanwhile has notified already.
                None if stale > 0 => {}
                None => state = wait(&self.filled, state, WAIT_MAX),
            }
        }
    }

    /// Like [`ReplayQueue::take`], but returns `None` instead of waiting.
    ///
    /// # Errors
    /// [`RolloutError::Closed`] where the queue is closed.
    pub fn try_take(&self, count: usize, learner_version: u64) -> Result<Option<Vec<Group>>, RolloutError> {
        let look = self.take_now(&mut lock(&self.state), count, learner_version)?;
        tell_stale(look.stale, learner_version);
        Ok(look.groups)
    }

    fn take_now(
        &self,
        state: &mut QueueState,
        count: usize,
        learner_version: u64,
    ) -> Result<Look, RolloutError> {
        let groups_max = self.config.groups_max;
        assert!(count <= groups_max, "{count} groups are taken from a queue that holds at most {groups_max}");
        if state.closed {
            return Err(RolloutError::Closed);
        }
        let stale = self.drop_stale(state, learner_version);
        let due = self.due(learner_version);
        let due_here = state.groups.iter().filter(|group| due.contains(&group.id)).count();
        let misses_due = due_here < due.len().min(count) && state.groups.len() < groups_max;
        if state.groups.len() < count || misses_due {
            return Ok(Look { groups: None, stale });
        }
        let groups = pick(&mut state.groups, count, &due, due_here);
        self.admission.take(groups.iter().map(|group| group.id));
        state.report.taken += count as u64;
        self.drained.notify_all();
        Ok(Look { groups: Some(groups), stale })
    }

    /// The groups on the way that may be too old for a learner one version further.
    fn due(&self, learner_version: u64) -> BTreeSet<u64> {
        let bound = self.config.staleness_versions_max;
        learner_version
            .checked_sub(bound)
            .map(|started| self.admission.pending_up_to(started))
            .unwrap_or_default()
    }

    /// Drops the groups that are too old, and returns how many they are.
    fn drop_stale(&self, state: &mut QueueState, learner_version: u64) -> u64 {
        let bound = self.config.staleness_versions_max;
        let stale = |group: &Group| learner_version.saturating_sub(group.oldest_version()) > bound;
        let ids: Vec<u64> = state.groups.iter().filter(|group| stale(group)).map(|group| group.id).collect();
        let dropped = ids.len() as u64;
        if dropped > 0 {
            state.groups.retain(|group| !stale(group));
            *state.report.drops.entry(DropReason::Stale).or_default() += dropped;
            self.admission.drop_and_replace(&ids);
            self.drained.notify_all();
        }
        dropped
    }

    /// Counts a group that will not be put in. Another one may be started for it, unless the run is stopping:
    /// then the group stays on the way, for a run that goes on from here.
    pub fn discard(&self, group: u64, reason: DropReason) {
        let mut state = lock(&self.state);
        *state.report.drops.entry(reason).or_default() += 1;
        // Under the queue's lock: between a learner's look at the admission and its wait the group would leave
        // unnoticed, and in a checkpoint it would be dropped and on its way.
        if reason != DropReason::Closed {
            self.admission.drop_and_replace(&[group]);
        }
        drop(state);
        // A learner that waited for this group as a due one need not any more.
        self.filled.notify_all();
    }

    /// As [`ReplayQueue::discard`], for a group that a place was kept for.
    pub fn discard_reserved(&self, group: u64, reason: DropReason) {
        self.release_reserved();
        self.discard(group, reason);
    }

    /// Gives back a place that was kept for a group which will not come.
    pub(crate) fn release_reserved(&self) {
        let mut state = lock(&self.state);
        state.reserved = state.reserved.checked_sub(1).expect("a place was kept for the group");
        drop(state);
        self.drained.notify_all();
    }

    /// Takes what the verifiers said of a group: their verdict is written down, and a group without one is counted. A
    /// place that was kept for the group stays kept.
    pub(crate) fn accept(&self, scored: Scored) -> Delivery {
        match scored {
            Scored::Group(group) if self.admission.scored(&group) => Delivery::Group(group),
            Scored::Unscored { id, reason } if self.admission.waits_for_verdict(id) => {
                tracing::warn!("{reason}");
                self.discard(id, DropReason::Unscored);
                Delivery::Counted
            }
            Scored::Group(_) | Scored::Unscored { .. } => Delivery::Repeated,
        }
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

/// Says how many groups were dropped; nothing where none was. Not to be called under the queue's lock.
fn tell_stale(dropped: u64, learner_version: u64) {
    if dropped > 0 {
        tracing::warn!(dropped, learner_version, "groups were too old for the learner and are dropped");
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

/// A wait that ends within this time even if nobody notifies, so that a lost wake-up is a pause and not a hang.
const WAIT_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod interleavings;

#[cfg(test)]
mod tests;
