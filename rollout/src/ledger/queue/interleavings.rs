//! The queue, the admission and their notifications under many orders of their threads. No time limit passes here: whoever
//! waits for a wake-up that does not come is a deadlock, and the test fails with the schedule that led to it.

use std::collections::BTreeSet;

use super::*;
use crate::ledger::request::StepRequest;
use crate::ledger::state::AdmissionReport;
use crate::scheduler::Pacing;
use crate::sync::explore;
use crate::testing::{group, prompt};
use crate::weights::{Notify, WeightsCell};

const STEPS: u64 = 4;
const GROUPS_PER_STEP: usize = 2;

/// What two producers and a learner share.
struct Run {
    weights: WeightsCell<()>,
    admission: Arc<Admission>,
    queue: ReplayQueue,
}

impl Run {
    fn new(groups_max: usize, staleness_versions_max: u64) -> Arc<Self> {
        let notify = Notify::new();
        let pacing = Pacing { groups_per_step: GROUPS_PER_STEP as u64, staleness_versions_max };
        let admission = Arc::new(Admission::new(pacing, notify.clone()));
        let queue = ReplayQueue::new(QueueConfig { groups_max, staleness_versions_max }, admission.clone());
        Arc::new(Self { weights: WeightsCell::new(0, Arc::new(()), notify), admission, queue })
    }

    /// What an actor and its scorer do: every third group gets no verdict.
    fn produce(&self, actor: usize) {
        let mut newest = 0;
        while !self.queue.is_closed() {
            let seen = self.admission.notify().count();
            let version = self.weights.version();
            assert!(version >= newest, "version {version} after {newest}");
            newest = version;
            let Some(id) = self.admission.admit(version) else {
                if !self.queue.is_closed() {
                    self.admission.notify().wait_past(seen, WAIT_MAX);
                }
                continue;
            };
            self.admission.assign(id, actor, &prompt(id), 1);
            self.queue.reserve();
            if id % 3 == 1 {
                self.queue.discard_reserved(id, DropReason::Unscored);
            } else {
                let group = group(id, &[(version, 1)]);
                self.admission.scored(&group);
                // A closed queue has counted it.
                let _ = self.queue.push_reserved(group);
            }
        }
    }

    /// What the learner does; the groups that it learned from, in order. Of its groups those that `teaches` says no to
    /// are refilled, up to twice a step's.
    fn learn(&self, teaches: fn(u64) -> bool) -> Vec<u64> {
        let mut learned = Vec::new();
        let live = |groups: &[Group]| groups.iter().filter(|group| teaches(group.id)).count();
        let further =
            |groups: &[Group]| (GROUPS_PER_STEP - live(groups)).min(2 * GROUPS_PER_STEP - groups.len());
        let request = StepRequest { further: &further, ..StepRequest::of(GROUPS_PER_STEP) };
        for version in 0..STEPS {
            let groups = request.serve(&self.queue, |count| self.queue.take(count, version));
            let groups = groups.expect("nobody else closes the queue");
            assert!(live(&groups) == GROUPS_PER_STEP || groups.len() == 2 * GROUPS_PER_STEP);
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
        self.admission.notify().notify_all();
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
        assert_eq!(state.admission.groups_started, state.groups.len() as u64 + gone, "{state:?}");
        let steps = state.groups_taken - with_learner;
        let started = state.admission.groups_started;
        // Neither with what was dropped nor with what steps took beyond their groups does the pacing lose count.
        let AdmissionReport { groups_replaced, groups_refilled, .. } = state.admission;
        assert!(groups_replaced >= dropped && groups_refilled <= GROUPS_PER_STEP as u64, "{state:?}");
        let ahead = GROUPS_PER_STEP as u64 * (2 + self.queue.config.staleness_versions_max);
        assert!(started <= steps + dropped + ahead + groups_refilled, "{state:?}");
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

fn produce_and_learn(groups_max: usize, staleness_versions_max: u64, teaches: fn(u64) -> bool) {
    let run = Run::new(groups_max, staleness_versions_max);
    let producers = [0, 1].map(|actor| spawn(&run, move |run| run.produce(actor)));
    let observer = spawn(&run, |run| (0..3).for_each(|_| run.check()));
    let learned = run.learn(teaches);
    run.check();
    run.stop();
    for producer in producers {
        producer.join().expect("a producer does not panic");
    }
    observer.join().expect("the observer does not panic");
    run.check();
    let refilled = learned.len() - STEPS as usize * GROUPS_PER_STEP;
    let dropped: u64 =
        run.queue.report().drops.iter().filter(|(why, _)| **why != DropReason::Closed).map(|(_, n)| n).sum();
    let report = run.admission.report();
    assert_eq!((report.groups_replaced, report.groups_refilled), (dropped + refilled as u64, 0));
    assert!(learned.iter().all(|id| id % 3 != 1), "{learned:?} has a group without a verdict");
    assert_eq!(learned.iter().collect::<BTreeSet<_>>().len(), learned.len(), "{learned:?}");
    let on_the_way: BTreeSet<u64> = run.queue.state(0).groups.iter().map(|group| group.id).collect();
    assert!(learned.iter().all(|id| !on_the_way.contains(id)));
}

// Invariant 5: with room for every group on the way, the learner waits for the oldest ones.
#[test]
fn every_group_is_handed_out_once_in_any_order_of_the_threads() {
    explore(|| produce_and_learn(4, 1, |_| true));
}

// Invariant 5: with as little room as can be, actors wait for the learner and groups become too old.
#[test]
fn a_short_queue_loses_no_wake_up() {
    explore(|| produce_and_learn(2, 1, |_| true));
}

#[test]
fn without_staleness_actors_and_learner_take_turns() {
    explore(|| produce_and_learn(2, 0, |_| true));
}

// Invariant 5: groups in the place of those that teach nothing starve nobody, with and without room.
#[test]
fn a_step_that_takes_more_groups_waits_for_none_that_cannot_start() {
    explore(|| produce_and_learn(4, 1, |id| id % 2 == 0));
    explore(|| produce_and_learn(2, 0, |id| id % 2 == 0));
    explore(|| produce_and_learn(2, 1, |_| false));
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
            let seen = run.admission.notify().count();
            if !run.queue.is_closed() {
                run.admission.notify().wait_past(seen, WAIT_MAX);
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
