//! Which trajectory gets room and slots first.

use std::collections::BTreeMap;

use trajectory::Trajectory;

/// The order in which trajectories get room and slots, smallest first.
pub(super) type Rank = (bool, usize, u64, u32);

/// Older groups first. Where the members that are left count, groups with fewer go first, but the oldest group
/// goes before all others: however many groups pass another one, it is the oldest at last.
pub(super) fn rank(trajectory: &Trajectory, members_left: Option<&BTreeMap<u64, usize>>) -> Rank {
    let Trajectory { group, member, .. } = trajectory;
    let Some(members_left) = members_left else { return (false, 0, *group, *member) };
    let is_oldest = members_left.first_key_value().is_some_and(|(oldest, _)| oldest == group);
    (!is_oldest, members_left.get(group).copied().unwrap_or(0), *group, *member)
}

/// Takes the lowest of the free slots.
pub(super) fn lowest(free: &mut Vec<usize>) -> Option<usize> {
    let place = (0..free.len()).min_by_key(|place| free[*place])?;
    Some(free.swap_remove(place))
}

/// Takes the slot of the last trajectory that still has one.
pub(super) fn last(own: &mut [Option<usize>]) -> Option<usize> {
    own.iter_mut().rev().find_map(Option::take)
}
