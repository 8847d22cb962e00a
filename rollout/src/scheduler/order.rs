//! Which trajectory gets room and slots first.

use std::collections::BTreeMap;

use trajectory::Trajectory;

/// The order in which trajectories get room and slots, smallest first.
pub(super) type Rank = (bool, usize, u64, u32);

/// Older groups first. Where members that are lacking count, groups that lack fewer go first, but the oldest group
/// goes before all others: however many groups pass another one, it is the oldest at last.
pub(super) fn rank(trajectory: &Trajectory, lacking: Option<&BTreeMap<u64, usize>>) -> Rank {
    let Trajectory { group, member, .. } = trajectory;
    let Some(lacking) = lacking else { return (false, 0, *group, *member) };
    let is_oldest = lacking.first_key_value().is_some_and(|(oldest, _)| oldest == group);
    (!is_oldest, lacking.get(group).copied().unwrap_or(0), *group, *member)
}
