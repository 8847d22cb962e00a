//! Where all actors get their groups from, and where every group on its way is written down: one counter over
//! the endless order of prompts, held back by the pacing. Which actor gets a group may depend on timing; what
//! the group becomes does not.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use trajectory::{Finish, Group, Prompt, Segment, Trajectory};

use crate::journal::Journal;
use crate::ledger::{GroupState, MemberState, RolloutState};
use crate::scheduler::Pacing;
use crate::sync::{Mutex, lock};
use crate::weights::Bell;

/// The groups that may be started, one number at a time, and those that were.
#[derive(Debug)]
pub struct Intake {
    pacing: Pacing,
    state: Mutex<State>,
    bell: Bell,
}

#[derive(Debug, Default)]
struct State {
    report: IntakeReport,
    /// The groups that have not left yet; the pacing bounds their number.
    on_the_way: BTreeMap<u64, GroupState>,
    /// The place of the group that is scored next.
    next_place: u64,
    /// Under the same lock as the groups, so that a segment is in a checkpoint or in the journal after it.
    journal: Option<Journal>,
}

/// How many groups were started and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IntakeReport {
    /// Groups started; the next one has this number.
    pub groups_started: u64,
    /// Groups that were allowed beside those of the learner's steps: in the place of dropped ones, and those that steps
    /// took beyond `groups_per_step`.
    pub groups_replaced: u64,
    /// Groups that the step which is being put together may take beyond `groups_per_step`.
    pub groups_refilled: u64,
}

impl Intake {
    /// An intake at group 0; `bell` wakes the actors that found nothing to start.
    pub fn new(pacing: Pacing, bell: Bell) -> Self {
        Self { pacing, state: Mutex::default(), bell }
    }

    /// Goes on where another one stood.
    #[must_use]
    pub fn restored(self, state: &RolloutState) -> Self {
        let groups = state
            .groups
            .iter()
            .map(|group| (group.id, GroupState { taken: false, handed_over: false, ..group.clone() }));
        let places = state.groups.iter().filter_map(|group| group.verdict.as_ref());
        let next_place = places.map(|verdict| verdict.place + 1).max().unwrap_or(0);
        *lock(&self.state) =
            State { report: state.intake, on_the_way: groups.collect(), next_place, journal: None };
        self
    }

    /// Writes every segment that ends into this journal, and recalls what it holds.
    pub fn keep_journal(&self, journal: Journal) {
        lock(&self.state).journal = Some(journal);
    }

    /// The number of the next group, which is also its prompt's; `None` while the pacing forbids one.
    pub fn admit(&self, version: u64) -> Option<u64> {
        let mut state = lock(&self.state);
        let group = state.report.groups_started;
        let IntakeReport { groups_replaced, groups_refilled, .. } = state.report;
        if group >= self.pacing.groups_started_max(version, groups_replaced + groups_refilled) {
            return None;
        }
        state.report.groups_started += 1;
        state.on_the_way.insert(group, GroupState::new(group, version));
        Some(group)
    }

    /// Tells which actor answers a group, and what it is asked. Members that are written down stay.
    pub(crate) fn assign(&self, prompt: &Prompt, group: u64, (actor, members): (usize, usize)) {
        let mut state = lock(&self.state);
        let group = state.on_the_way.get_mut(&group).expect("the group was admitted");
        group.actor = actor;
        group.prompt_tokens.clone_from(&prompt.tokens);
        if group.members.is_empty() {
            group.members = vec![MemberState::default(); members];
        }
    }

    /// Writes down the segment that a trajectory has just ended. `journaled` says that the journal has it.
    pub(crate) fn record(&self, trajectory: &Trajectory, finish: Option<Finish>, journaled: bool) {
        let mut state = lock(&self.state);
        let State { on_the_way, journal, .. } = &mut *state;
        on_the_way.get_mut(&trajectory.group).expect("the group is on the way").record(trajectory, finish);
        if let Some(journal) = journal.as_mut().filter(|_| !journaled) {
            journal.append(trajectory, finish);
        }
    }

    /// The segment that comes next in a trajectory, if it was drawn before the run was interrupted.
    pub(crate) fn recall(&self, trajectory: &Trajectory, newest: u64) -> Option<Segment> {
        lock(&self.state).journal.as_mut()?.recall(trajectory, newest)
    }

    /// The whole of a trajectory's open segment, if it was drawn before the run was interrupted.
    pub(crate) fn recall_open(&self, trajectory: &Trajectory) -> Option<Segment> {
        lock(&self.state).journal.as_mut()?.recall_open(trajectory)
    }

    /// Writes down what the verifiers said of a group.
    pub(crate) fn scored(&self, group: &Group) {
        let mut state = lock(&self.state);
        let place = state.next_place;
        state.next_place += 1;
        if let Some(known) = state.on_the_way.get_mut(&group.id) {
            known.scored(place, group);
        }
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
        self.bell.ring();
    }

    /// Allows the step that is being put together `groups` groups in all beyond `groups_per_step`. A run that was
    /// interrupted in the middle of that has been allowed some already.
    pub(crate) fn refill(&self, groups: u64) {
        let mut state = lock(&self.state);
        state.report.groups_refilled = state.report.groups_refilled.max(groups);
        drop(state);
        self.bell.ring();
    }

    /// The groups that were started at `version` or before and have neither reached the learner nor been
    /// dropped.
    pub fn started_up_to(&self, version: u64) -> BTreeSet<u64> {
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
        self.bell.ring();
    }

    /// All groups on the way, and from here on the journal of the time after `step`.
    pub(crate) fn snapshot(&self, step: u64) -> (IntakeReport, Vec<GroupState>) {
        let mut state = lock(&self.state);
        if let Some(journal) = &mut state.journal {
            journal.begin(step);
        }
        (state.report, state.on_the_way.values().cloned().collect())
    }

    /// A group has ended and leaves its actor.
    pub(crate) fn hand_over(&self, group: u64) {
        if let Some(group) = lock(&self.state).on_the_way.get_mut(&group) {
            group.handed_over = true;
        }
    }

    /// The groups that an actor answers, as far as they are written down.
    pub(crate) fn groups_of(&self, actor: usize) -> Vec<GroupState> {
        let state = lock(&self.state);
        let groups = state.on_the_way.values().filter(|group| group.actor == actor && !group.handed_over);
        groups.filter(|group| !group.members.is_empty()).cloned().collect()
    }

    /// How many groups were started and why.
    pub fn report(&self) -> IntakeReport {
        lock(&self.state).report
    }

    /// The bell that rings when more may be started.
    pub fn bell(&self) -> &Bell {
        &self.bell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_numbered_in_order_and_held_back_by_the_version() {
        let bell = Bell::new();
        let intake = Intake::new(Pacing { groups_per_step: 2, staleness_versions_max: 1 }, bell.clone());
        let admitted: Vec<u64> = std::iter::from_fn(|| intake.admit(0)).collect();
        assert_eq!(admitted, [0, 1, 2, 3]);
        assert_eq!((intake.admit(1), intake.admit(1), intake.admit(1)), (Some(4), Some(5), None));
        intake.replace(1);
        assert_eq!(bell.rings(), 1);
        assert_eq!((intake.admit(1), intake.admit(1)), (Some(6), None));
        let report = IntakeReport { groups_started: 7, groups_replaced: 1, groups_refilled: 0 };
        assert_eq!(intake.report(), report);
        intake.learned([1, 2]);
        assert_eq!(intake.report(), report);
        assert_eq!(intake.started_up_to(0), [0, 3].into());
        assert_eq!(intake.started_up_to(1), [0, 3, 4, 5, 6].into());
    }

    #[test]
    fn a_step_that_takes_more_lets_as_many_more_start() {
        let bell = Bell::new();
        let pacing = Pacing { groups_per_step: 2, staleness_versions_max: 0 };
        let intake = Intake::new(pacing, bell.clone());
        let admitted =
            |intake: &Intake, version| std::iter::from_fn(|| intake.admit(version)).collect::<Vec<u64>>();
        assert_eq!(admitted(&intake, 0), [0, 1]);
        intake.refill(1);
        assert_eq!((admitted(&intake, 0), bell.rings()), (vec![2], 1));
        intake.refill(3);
        assert_eq!(admitted(&intake, 0), [3, 4]);
        // Interrupted here, the step is put together once more.
        let (report, groups) = intake.snapshot(0);
        let state = RolloutState { intake: report, groups, ..RolloutState::default() };
        let intake = Intake::new(pacing, bell).restored(&state);
        intake.refill(1);
        assert_eq!(admitted(&intake, 0), Vec::<u64>::new(), "what was allowed is not allowed twice");
        intake.refill(3);
        intake.learned(0..5);
        assert_eq!(admitted(&intake, 0), Vec::<u64>::new());
        assert_eq!(admitted(&intake, 1), [5, 6]);
    }
}
