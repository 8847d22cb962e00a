//! What the queue hands out, keeps and drops.

use std::sync::mpsc;

use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::testing::{admission, group};

fn queue(groups_max: usize, staleness_versions_max: u64) -> ReplayQueue {
    ReplayQueue::new(QueueConfig { groups_max, staleness_versions_max }, admission(1, staleness_versions_max))
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

// Invariant 5: staleness counts from the oldest token of the whole group; drops are counted; the admission
// starts other groups for them.
#[test]
fn a_group_older_than_the_bound_is_dropped_whole_and_counted() {
    let admission = admission(1, 2);
    let queue = ReplayQueue::new(QueueConfig { groups_max: 4, staleness_versions_max: 2 }, admission.clone());
    queue.push(group(0, &[(7, 1), (4, 3)])).expect("open");
    queue.push(group(1, &[(5, 1), (7, 3)])).expect("open");
    assert_eq!(ids(&queue.take(1, 7).expect("open")), [1], "version 4 is 3 behind, version 5 is 2 behind");
    assert_eq!(queue.report().drops, BTreeMap::from([(DropReason::Stale, 1)]));
    assert_eq!(admission.report().groups_replaced, 1);
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
    let admission = admission(1, 1);
    let queue = ReplayQueue::new(QueueConfig { groups_max: 3, staleness_versions_max: 1 }, admission.clone());
    assert_eq!((admission.admit(0), admission.admit(0), admission.admit(1)), (Some(0), Some(1), Some(2)));
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
    let admission = admission(1, 0);
    let queue = ReplayQueue::new(QueueConfig { groups_max: 1, staleness_versions_max: 0 }, admission.clone());
    assert_eq!((admission.admit(0), admission.admit(1)), (Some(0), Some(1)));
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
