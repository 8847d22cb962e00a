//! Where all actors get their groups from: one counter over the endless order of prompts, held back by the
//! pacing. Which actor gets a group may depend on timing; what the group becomes does not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use crate::scheduler::Pacing;
use crate::weights::{Bell, lock};

/// The groups that may be started, one number at a time.
#[derive(Debug)]
pub struct Intake {
    pacing: Pacing,
    state: Mutex<State>,
    bell: Bell,
}

#[derive(Debug, Default)]
struct State {
    report: IntakeReport,
    /// The version at which each group was started that has not left yet; the pacing bounds their number.
    on_the_way: BTreeMap<u64, u64>,
}

/// How many groups were started and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IntakeReport {
    /// Groups started; the next one has this number.
    pub groups_started: u64,
    /// Groups among them that replace dropped ones.
    pub groups_replaced: u64,
}

impl Intake {
    /// An intake at group 0; `bell` wakes the actors that found nothing to start.
    pub fn new(pacing: Pacing, bell: Bell) -> Self {
        Self { pacing, state: Mutex::default(), bell }
    }

    /// The number of the next group, which is also its prompt's; `None` while the pacing forbids one.
    pub fn admit(&self, version: u64) -> Option<u64> {
        let mut state = lock(&self.state);
        let group = state.report.groups_started;
        if group >= self.pacing.groups_started_max(version, state.report.groups_replaced) {
            return None;
        }
        state.report.groups_started += 1;
        state.on_the_way.insert(group, version);
        Some(group)
    }

    /// Allows `groups` more, because so many were dropped and the learner would wait for them.
    pub fn replace(&self, groups: u64) {
        lock(&self.state).report.groups_replaced += groups;
        self.bell.ring();
    }

    /// The groups that were started at `version` or before and have neither reached the learner nor been
    /// dropped.
    pub fn started_up_to(&self, version: u64) -> BTreeSet<u64> {
        let state = lock(&self.state);
        state.on_the_way.iter().filter(|(_, started)| **started <= version).map(|(group, _)| *group).collect()
    }

    /// These groups have reached the learner or were dropped.
    pub fn leave(&self, groups: impl IntoIterator<Item = u64>) {
        let mut state = lock(&self.state);
        for group in groups {
            state.on_the_way.remove(&group);
        }
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
        assert_eq!(intake.report(), IntakeReport { groups_started: 7, groups_replaced: 1 });
        intake.leave([1, 2, 5]);
        assert_eq!(intake.started_up_to(0), [0, 3].into());
        assert_eq!(intake.started_up_to(1), [0, 3, 4, 6].into());
    }
}
