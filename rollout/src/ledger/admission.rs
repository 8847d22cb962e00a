//! Where all actors get their groups from, and where every group on its way is written down: one counter over
//! the endless order of prompts, held back by the pacing. Which actor gets a group may depend on timing; what
//! the group becomes does not.

use std::collections::{BTreeMap, BTreeSet};

use trajectory::{Group, Prompt, Segment, Trajectory};

use super::journal::Journal;
use super::state::{AdmissionReport, GroupState, MemberState, RolloutState};
use super::{Lost, SegmentEnd};
use crate::scheduler::Pacing;
use crate::sync::{Mutex, lock};
use crate::weights::Notify;

/// The groups that may be started, one number at a time, and those that are on their way.
#[derive(Debug)]
pub struct Admission {
    pacing: Pacing,
    state: Mutex<AdmissionState>,
    /// Under a lock of its own, so that reading the groups never waits for a disk. A segment goes into the groups
    /// before the journal, and a checkpoint begins the next journal before it looks at the groups: so a segment is in the
    /// checkpoint, in the journal after it, or in both, where it is the same.
    journal: Mutex<Option<Journal>>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct AdmissionState {
    report: AdmissionReport,
    /// The groups that have not left yet; the pacing bounds their number.
    on_the_way: BTreeMap<u64, GroupState>,
    /// The place of the group that is scored next.
    next_place: u64,
}

impl Admission {
    /// Admission at group 0; `notify` wakes the actors that found nothing to start.
    pub fn new(pacing: Pacing, notify: Notify) -> Self {
        Self { pacing, state: Mutex::default(), journal: Mutex::default(), notify }
    }

    /// Goes on where another one stood.
    #[must_use]
    pub fn restored(self, state: &RolloutState) -> Self {
        let groups = state
            .groups
            .iter()
            .map(|group| (group.id, GroupState { taken: false, finished: false, ..group.clone() }));
        let places = state.groups.iter().filter_map(|group| group.verdict.as_ref());
        let next_place = places.map(|verdict| verdict.place + 1).max().unwrap_or(0);
        *lock(&self.state) =
            AdmissionState { report: state.admission, on_the_way: groups.collect(), next_place };
        self
    }

    /// Writes every segment that ends into this journal, and replays what it holds.
    pub fn keep_journal(&self, journal: Journal) {
        *lock(&self.journal) = Some(journal);
    }

    /// The number of the next group, which is also its prompt's; `None` while the pacing forbids one.
    pub fn admit(&self, version: u64) -> Option<u64> {
        let mut state = lock(&self.state);
        let group = state.report.groups_started;
        let AdmissionReport { groups_replaced, groups_refilled, .. } = state.report;
        if group >= self.pacing.groups_started_max(version, groups_replaced + groups_refilled) {
            return None;
        }
        state.report.groups_started += 1;
        state.on_the_way.insert(group, GroupState::new(group, version));
        Some(group)
    }

    /// Tells which actor answers a group, and what it is asked. Members that are written down stay.
    pub(crate) fn assign(&self, group: u64, actor: usize, prompt: &Prompt, members: usize) {
        let mut state = lock(&self.state);
        // A group that is gone is nobody's; its actor hears so at the end of its next segment.
        let Some(group) = state.on_the_way.get_mut(&group) else { return };
        group.actor = actor;
        group.prompt_tokens.clone_from(&prompt.tokens);
        if group.members.is_empty() {
            group.members = vec![MemberState::default(); members];
        }
    }

    /// Writes down the segment that a trajectory has just ended.
    pub(crate) fn record(&self, segment: SegmentEnd<'_>) -> Result<(), Lost> {
        let SegmentEnd { actor, trajectory, finish, replayed } = segment;
        let mut state = lock(&self.state);
        let group = state.on_the_way.get_mut(&trajectory.group).filter(|group| group.actor == actor);
        group.ok_or(Lost)?.record(trajectory, finish);
        drop(state);
        // A journal that gave the segment has it.
        if let Some(journal) = lock(&self.journal).as_mut().filter(|_| !replayed) {
            journal.append(trajectory, finish);
        }
        Ok(())
    }

    /// The segment that comes next in a trajectory, if it was drawn before the run was interrupted.
    pub(crate) fn replay_from_journal(&self, trajectory: &Trajectory, newest: u64) -> Option<Segment> {
        lock(&self.journal).as_mut()?.replay_from_journal(trajectory, newest)
    }

    /// The whole of a trajectory's open segment, if it was drawn before the run was interrupted.
    pub(crate) fn replay_open(&self, trajectory: &Trajectory) -> Option<Segment> {
        lock(&self.journal).as_mut()?.replay_open(trajectory)
    }

    /// Writes down what the verifiers said of a group; whether that is news.
    pub(crate) fn scored(&self, group: &Group) -> bool {
        let mut state = lock(&self.state);
        let place = state.next_place;
        let waiting = state.on_the_way.get_mut(&group.id).filter(|known| known.verdict.is_none());
        let Some(known) = waiting else { return false };
        known.scored(place, group);
        state.next_place += 1;
        true
    }

    /// Whether a group is on the way and has no verdict.
    pub(crate) fn waits_for_verdict(&self, group: u64) -> bool {
        lock(&self.state).on_the_way.get(&group).is_some_and(|group| group.verdict.is_none())
    }

    /// The learner has these groups.
    pub(crate) fn take(&self, groups: impl IntoIterator<Item = u64>) {
        let mut state = lock(&self.state);
        for group in groups {
            if let Some(group) = state.on_the_way.get_mut(&group) {
                group.taken = true;
            }
        }
    }

    /// Allows `groups` more, because so many were dropped and the learner would wait for them.
    pub fn replace(&self, groups: u64) {
        lock(&self.state).report.groups_replaced += groups;
        self.notify.notify_all();
    }

    /// Allows the step that is being put together `groups` groups in all beyond `groups_per_step`. A run that was
    /// interrupted in the middle of that has been allowed some already.
    pub(crate) fn refill(&self, groups: u64) {
        let mut state = lock(&self.state);
        state.report.groups_refilled = state.report.groups_refilled.max(groups);
        drop(state);
        self.notify.notify_all();
    }

    /// The groups that were started at `version` or before and have neither reached the learner nor been
    /// dropped.
    pub fn pending_up_to(&self, version: u64) -> BTreeSet<u64> {
        let state = lock(&self.state);
        let waiting = state.on_the_way.values().filter(|group| !group.taken);
        waiting.filter(|group| group.started_version <= version).map(|group| group.id).collect()
    }

    /// A step of the learner is over, and these groups were all that it had: nothing of them is kept any more.
    pub fn learned(&self, groups: impl IntoIterator<Item = u64>) {
        let mut state = lock(&self.state);
        let mut count = 0;
        for group in groups {
            state.on_the_way.remove(&group);
            count += 1;
        }
        state.report.groups_refilled = 0;
        state.report.groups_replaced += u64::saturating_sub(count, self.pacing.groups_per_step);
    }

    /// Drops groups and allows as many others for them, in one go.
    pub(crate) fn drop_and_replace(&self, groups: &[u64]) {
        let mut state = lock(&self.state);
        for group in groups {
            state.on_the_way.remove(group);
        }
        state.report.groups_replaced += groups.len() as u64;
        drop(state);
        self.notify.notify_all();
    }

    /// From here on segments go into the journal of the time after `step`: to be called before
    /// [`Admission::snapshot`].
    pub(crate) fn begin_journal(&self, step: u64) {
        if let Some(journal) = lock(&self.journal).as_mut() {
            journal.begin(step);
        }
    }

    /// All groups on the way.
    pub(crate) fn snapshot(&self) -> (AdmissionReport, Vec<GroupState>) {
        let state = lock(&self.state);
        (state.report, state.on_the_way.values().cloned().collect())
    }

    /// A group has ended and leaves its actor.
    pub(crate) fn finish(&self, group: u64, actor: usize) -> Result<(), Lost> {
        let mut state = lock(&self.state);
        let group = state.on_the_way.get_mut(&group);
        let group = group.filter(|group| group.actor == actor && !group.finished).ok_or(Lost)?;
        group.finished = true;
        Ok(())
    }

    /// The groups that an actor answers, as far as they are written down.
    pub(crate) fn groups_of(&self, actor: usize) -> Vec<GroupState> {
        let state = lock(&self.state);
        let groups = state.on_the_way.values().filter(|group| group.actor == actor && !group.finished);
        groups.filter(|group| !group.members.is_empty()).cloned().collect()
    }

    /// How many groups were started and why.
    pub fn report(&self) -> AdmissionReport {
        lock(&self.state).report
    }

    /// Notified when more may be started.
    pub fn notify(&self) -> &Notify {
        &self.notify
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_numbered_in_order_and_held_back_by_the_version() {
        let notify = Notify::new();
        let admission =
            Admission::new(Pacing { groups_per_step: 2, staleness_versions_max: 1 }, notify.clone());
        let admitted: Vec<u64> = std::iter::from_fn(|| admission.admit(0)).collect();
        assert_eq!(admitted, [0, 1, 2, 3]);
        assert_eq!((admission.admit(1), admission.admit(1), admission.admit(1)), (Some(4), Some(5), None));
        admission.replace(1);
        assert_eq!(notify.count(), 1);
        assert_eq!((admission.admit(1), admission.admit(1)), (Some(6), None));
        let report = AdmissionReport { groups_started: 7, groups_replaced: 1, groups_refilled: 0 };
        assert_eq!(admission.report(), report);
        admission.learned([1, 2]);
        assert_eq!(admission.report(), report);
        assert_eq!(admission.pending_up_to(0), [0, 3].into());
        assert_eq!(admission.pending_up_to(1), [0, 3, 4, 5, 6].into());
    }

    #[test]
    fn a_step_that_takes_more_lets_as_many_more_start() {
        let notify = Notify::new();
        let pacing = Pacing { groups_per_step: 2, staleness_versions_max: 0 };
        let admission = Admission::new(pacing, notify.clone());
        let admitted = |admission: &Admission, version| {
            std::iter::from_fn(|| admission.admit(version)).collect::<Vec<u64>>()
        };
        assert_eq!(admitted(&admission, 0), [0, 1]);
        admission.refill(1);
        assert_eq!((admitted(&admission, 0), notify.count()), (vec![2], 1));
        admission.refill(3);
        assert_eq!(admitted(&admission, 0), [3, 4]);
        // Interrupted here, the step is put together once more.
        let (report, groups) = admission.snapshot();
        let state = RolloutState { admission: report, groups, ..RolloutState::default() };
        let admission = Admission::new(pacing, notify).restored(&state);
        admission.refill(1);
        assert_eq!(admitted(&admission, 0), Vec::<u64>::new(), "what was allowed is not allowed twice");
        admission.refill(3);
        admission.learned(0..5);
        assert_eq!(admitted(&admission, 0), Vec::<u64>::new());
        assert_eq!(admitted(&admission, 1), [5, 6]);
    }
}
