//! A group: all completions of one prompt, scored.

use std::sync::Arc;

use crate::completion::Completion;
use crate::finish::Finish;
use crate::prompt::Prompt;
use crate::reward::Reward;
use crate::trajectory::Trajectory;

/// A trajectory that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct EndedTrajectory {
    /// All that was drawn and given.
    pub trajectory: Trajectory,
    /// Why it ended.
    pub finish: Finish,
}

/// All trajectories of one prompt, ended and not scored yet.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedGroup {
    /// The place of its prompt in the endless order.
    pub id: u64,
    /// The members in order.
    pub members: Vec<EndedTrajectory>,
}

/// A completion and what it is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredCompletion {
    /// The completion.
    pub completion: Completion,
    /// What the verifiers gave.
    pub reward: Reward,
}

/// All completions of one prompt. A group is whole or it does not exist.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The place of its prompt in the endless order; in a recording, the place of the group in the file.
    pub id: u64,
    /// What was answered.
    pub prompt: Arc<Prompt>,
    /// The members, in order.
    pub completions: Vec<ScoredCompletion>,
}

impl Group {
    /// Checks that the group is whole: members 0, 1, .. of this group and no gap.
    pub fn new(id: u64, prompt: Arc<Prompt>, completions: Vec<ScoredCompletion>) -> Self {
        assert!(!completions.is_empty(), "group {id} has no members");
        for (place, scored) in completions.iter().enumerate() {
            let Completion { group, member, .. } = scored.completion;
            assert_eq!(
                (group, member as usize),
                (id, place),
                "place {place} of group {id} has another member"
            );
        }
        Self { id, prompt, completions }
    }

    /// The version that drew the oldest token: what staleness counts from.
    pub fn oldest_version(&self) -> u64 {
        let versions = self.completions.iter().map(|scored| scored.completion.oldest_version());
        versions.min().expect("a group has members")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::group;

    // Invariant 5: a group is whole or gone.
    #[test]
    #[should_panic(expected = "place 1 of group 0 has another member")]
    fn a_group_with_a_gap_cannot_be_made() {
        let mut whole = group(0, &[(0, 1), (0, 1), (0, 1)]);
        whole.completions.remove(1);
        Group::new(whole.id, whole.prompt, whole.completions);
    }
}
