//! The queue, the intake and the bell under many orders of their threads. No time limit passes here: whoever
//! waits for a wake-up that does not come is a deadlock, and the test fails with the schedule that led to it.

use std::collections::BTreeSet;

use super::*;
use crate::scheduler::Pacing;
use crate::sync::explore;
use crate::testing::{group, prompt};
use crate::weights::{Bell, WeightsCell};

const STEPS: u64 = 4;
const GROUPS_PER_STEP: usize = 2;

/// What two producers and a learner share.
struct Run {
    weights: WeightsCell<()>,
    intake: Arc<Intake>,
    queue: ReplayQueue,
}

impl Run {
    fn new(groups_max: usize, staleness_versions_max: u64) -> Arc<Self> {
        let bell = Bell::new();
        let pacing = Pacing { groups_per_step: GROUPS_PER_STEP as u64, staleness_versions_max };
        let intake = Arc::new(Intake::new(pacing, bell.clone()));
        let queue = ReplayQueue::new(QueueConfig { groups_max, staleness_versions_max }, intake.clone());
        Arc::new(Self { weights: WeightsCell::new(0, Arc::new(()), bell), intake, queue })
    }

    /// What an actor and its scorer do: every third group gets no verdict.
    fn produce(&self, actor: usize) {
        let mut newest = 0;
        while !self.queue.is_closed() {
            let rings = self.intake.bell().rings();
            let version = self.weights.version();
            assert!(version >= newest, "version {version} after {newest}");
            newest = version;
            let Some(id) = self.intake.admit(version) else {
                if !self.queue.is_closed() {
                    self.intake.bell().wait_past(rings, WAIT_MAX);
                }
                continue;
            };
            self.intake.assign(&prompt(id), id, (actor, 1));
            self.queue.reserve();
            if id % 3 == 1 {
                self.queue.discard_reserved(id, DropReason::Unscored);
            } else {
                let group = group(id, &[(version, 1)]);
                self.intake.scored(&group);
                // A closed queue has counted it.
                let _ = self.queue.push_reserved(group);
            }
        }
    }

    /// What the learner does; the groups that it learned from, in order.
    fn learn(&self) -> Vec<u64> {
        let mut learned = Vec::new();
        for version in 0..STEPS {
            let groups = self.queue.take(GROUPS_PER_STEP, version).expect("nobody else closes the queue");
            assert_eq!(groups.len(), GROUPS_PER_STEP);
            for group in &groups {
                assert!(version - group.oldest_version() <= self.queue.config.staleness_versions_max);
            }
            self.weights.publish(version + 1, Arc::new(()));
            self.queue.learned(&groups);
            learned.extend(groups.iter().map(|group| group.id));
        }
        learned
    }

    fn stop(&self) {
        self.queue.close();
        self.intake.bell().ring();
    }

    /// At this moment every group that was started is on its way, dropped, or with the learner, once.
    fn check(&self) {
        {
            let state = lock(&self.queue.state);
            let (places, most) = (state.groups.len() + state.reserved, self.queue.config.groups_max);
            // A closed queue keeps nobody waiting, and hands nothing out.
            assert!(places <= most || state.closed, "{places} places of {most} are taken");
        }
        let state = self.queue.state(0);
        let with_learner = state.groups.iter().filter(|group| group.taken).count() as u64;
        let dropped: u64 = state.drops.values().sum();
        let gone = state.groups_taken - with_learner + dropped;
        assert_eq!(state.intake.groups_started, state.groups.len() as u64 + gone, "{state:?}");
        assert_eq!(state.intake.groups_replaced, dropped, "{state:?}");
        let ids: BTreeSet<u64> = state.groups.iter().map(|group| group.id).collect();
        assert_eq!(ids.len(), state.groups.len());
    }
}

fn spawn<T>(run: &Arc<Run>, body: impl FnOnce(&Run) -> T + 'static + Send) -> shuttle::thread::JoinHandle<T>
where
    T: Send + 'static,
{
    let run = run.clone();
    shuttle::thread::spawn(move || body(&run))
}

fn produce_and_learn(groups_max: usize, staleness_versions_max: u64) {
    let run = Run::new(groups_max, staleness_versions_max);
    let producers = [0, 1].map(|actor| spawn(&run, move |run| run.produce(actor)));
    let observer = spawn(&run, |run| (0..3).for_each(|_| run.check()));
    let learned = run.learn();
    run.check();
    run.stop();
    for producer in producers {
        producer.join().expect("a producer does not panic");
    }
    observer.join().expect("the observer does not panic");
    run.check();
    assert_eq!(learned.len(), STEPS as usize * GROUPS_PER_STEP);
    assert!(learned.iter().all(|id| id % 3 != 1), "{learned:?} has a group without a verdict");
    assert_eq!(learned.iter().collect::<BTreeSet<_>>().len(), learned.len(), "{learned:?}");
    let on_the_way: BTreeSet<u64> = run.queue.state(0).groups.iter().map(|group| group.id).collect();
    assert!(learned.iter().all(|id| !on_the_way.contains(id)));
}

// Invariant 5: with room for every group on the way, the learner waits for the oldest ones.
#[test]
fn every_group_is_handed_out_once_in_any_order_of_the_threads() {
    explore(|| produce_and_learn(4, 1));
}

// Invariant 5: with as little room as can be, actors wait for the learner and groups become too old.
#[test]
fn a_short_queue_loses_no_wake_up() {
    explore(|| produce_and_learn(2, 1));
}

#[test]
fn without_staleness_actors_and_learner_take_turns() {
    explore(|| produce_and_learn(2, 0));
}

// Invariant 7: whoever waits when the queue is closed stops waiting.
#[test]
fn closing_ends_all_waiting() {
    explore(|| {
        let full = Run::new(2, 1);
        full.queue.reserve();
        full.queue.reserve();
        let actors = [0, 1].map(|_| {
            spawn(&full, |run| {
                run.queue.reserve();
                matches!(run.queue.push_reserved(group(0, &[(0, 1)])), Err(RolloutError::Closed))
            })
        });
        let learner = spawn(&full, |run| matches!(run.queue.take(1, 0), Err(RolloutError::Closed)));
        let idle = spawn(&full, |run| {
            let rings = run.intake.bell().rings();
            if !run.queue.is_closed() {
                run.intake.bell().wait_past(rings, WAIT_MAX);
            }
            run.queue.is_closed()
        });
        full.stop();
        for closed in [learner, idle].into_iter().chain(actors) {
            assert!(closed.join().expect("nobody panics"));
        }
        assert_eq!(full.queue.report().drops, BTreeMap::from([(DropReason::Closed, 2)]));
    });
}
