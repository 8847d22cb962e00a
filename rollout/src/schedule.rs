//! The two ways to drive actors: on threads of their own beside the learner, or in turns with it. Both give
//! the queue whole groups; only the second gives the same order in every run.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use trajectory::{FinishedGroup, Group};

use crate::actor::{Actor, ActorReport};
use crate::error::RolloutError;
use crate::generator::Generator;
use crate::intake::Intake;
use crate::pulse::Pulse;
use crate::queue::{DropReason, ReplayQueue};
use crate::request::StepRequest;
use crate::resume::Standing;
use crate::scorer::{Scored, Scorer};
use crate::sync::{Mutex, Receiver, Sender, bounded, lock};
use crate::weights::Bell;

/// An actor with nothing to start looks again after this time even if no bell rang.
const ADMISSION_WAIT_MAX: Duration = Duration::from_secs(1);

/// Actors on threads of their own (`schedule = "async"`), and beside them the threads that score what they
/// finish, so that a slow verifier keeps no decoder waiting. No thread outlives this value.
pub struct ActorThreads {
    halt: Halt,
    threads: Vec<JoinHandle<()>>,
    /// How each thread ended, in the order in which they did: the first failure is the cause.
    exits: Receiver<Result<(), RolloutError>>,
    reports: Vec<Arc<Mutex<ActorReport>>>,
    /// Adds what the scorer counts, which all threads share, to the sum of the actors' reports.
    judged: Box<dyn Fn(ActorReport) -> ActorReport + Send>,
}

/// Stops all threads of a run, from any thread.
#[derive(Clone)]
struct Halt {
    stopping: Arc<AtomicBool>,
    queue: Arc<ReplayQueue>,
    bell: Bell,
}

impl Halt {
    fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.queue.close();
        self.bell.ring();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire) || self.queue.is_closed()
    }
}

impl ActorThreads {
    /// Starts a thread for each actor and `rollout.scorers` threads that score. When one ends, by an error or
    /// a panic, the queue is closed, so that the learner and all others stop too; [`ActorThreads::stop`] says
    /// why.
    ///
    /// An actor that panics is started again with a generator that `again` makes, up to [`ACTOR_RESTARTS_MAX`]
    /// times, and goes on with its trajectories from their last segments that had ended.
    pub fn spawn<G>(
        actors: Vec<Actor<G>>,
        queue: Arc<ReplayQueue>,
        again: impl Fn() -> G + Send + Sync + 'static,
    ) -> Result<Self, RolloutError>
    where
        G: Generator + Send + 'static,
    {
        let context = actors.first().expect("a run has an actor").context().clone();
        let scorers = context.config.scorers;
        // Each group in it has a place in the queue, so it has room for all.
        let (finished, unscored) = bounded(queue.groups_max());
        let halt = Halt { stopping: Arc::default(), queue, bell: context.intake.bell().clone() };
        let reports = actors.iter().map(Actor::report_handle).collect();
        let (exit, exits) = bounded(actors.len() + scorers);
        let scored = context.clone();
        let judged = Box::new(move |sum| with_scorer(sum, &scored.scorer));
        let mut threads = Self { halt, threads: Vec::new(), exits, reports, judged };
        let again = Arc::new(again);
        for (number, actor) in actors.into_iter().enumerate() {
            let (halt, finished, again) = (threads.halt.clone(), finished.clone(), Arc::clone(&again));
            let name = format!("actor-{number}");
            let pulse = context.pulses.of(&name);
            let body = move || drive_on(actor, number, (&finished, &halt, &pulse), &*again);
            threads.start(name, &exit, body)?;
        }
        for number in 0..scorers {
            let (context, unscored, queue) = (context.clone(), unscored.clone(), threads.halt.queue.clone());
            let name = format!("scorer-{number}");
            let pulse = context.pulses.of(&name);
            let body = move || score((&context.scorer, &context.intake), &unscored, (&queue, &pulse));
            threads.start(name, &exit, body)?;
        }
        Ok(threads)
    }

    /// Starts a thread whose end, whatever it is, is the end of the run. On an error `self` is dropped by the
    /// caller, which stops those that already run.
    fn start(
        &mut self,
        name: String,
        exit: &Sender<Result<(), RolloutError>>,
        body: impl FnOnce() -> Result<(), RolloutError> + Send + 'static,
    ) -> Result<(), RolloutError> {
        let (halt, exit, who) = (self.halt.clone(), exit.clone(), name.clone());
        let guarded = move || {
            let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
                Err(RolloutError::Panicked { thread: who, message: message(&*panic) })
            });
            // The channel has room for every thread, and its receiver outlives them all.
            let _ = exit.send(outcome);
            halt.stop();
        };
        let thread = std::thread::Builder::new().name(name.clone()).spawn(guarded);
        let refused =
            |error: std::io::Error| RolloutError::Panicked { thread: name, message: error.to_string() };
        self.threads.push(thread.map_err(refused)?);
        Ok(())
    }

    /// Where everything stands after the learner's step `step`, without stopping anybody: trajectories count up
    /// to the end of their last segment.
    pub fn state<W>(&self, step: u64) -> Standing<W> {
        Standing { state: self.halt.queue.state(step), weights: Vec::new() }
    }

    /// The work of all actors so far.
    pub fn report(&self) -> ActorReport {
        let sum = self.reports.iter().fold(ActorReport::default(), |sum, report| sum.plus(&lock(report)));
        (self.judged)(sum)
    }

    /// Stops the threads, waits for them and returns the first failure among them.
    pub fn stop(&mut self) -> Result<(), RolloutError> {
        self.end();
        self.exits.try_iter().collect()
    }

    fn end(&mut self) {
        self.halt.stop();
        for thread in self.threads.drain(..) {
            // A panic was caught and sent as the thread's outcome.
            let _ = thread.join();
        }
    }
}

impl Drop for ActorThreads {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").to_string()
}

/// An actor that has panicked more often in one run does so for a reason that a new start does not mend.
pub const ACTOR_RESTARTS_MAX: u32 = 3;

/// The life of an actor thread, through panics.
fn drive_on<G: Generator>(
    actor: Actor<G>,
    number: usize,
    (finished, halt, pulse): (&Sender<FinishedGroup>, &Halt, &Pulse),
    again: &(impl Fn() -> G + ?Sized),
) -> Result<(), RolloutError> {
    let (context, report) = (actor.context().clone(), actor.report_handle());
    let mut next = Some(actor);
    for restart in 1.. {
        let actor = match next.take() {
            Some(actor) => actor,
            None => Actor::in_place_of(number, &context, &report, again())?,
        };
        match catch_unwind(AssertUnwindSafe(|| drive(actor, finished, (halt, pulse)))) {
            Ok(ended) => return ended,
            Err(panic) if restart > ACTOR_RESTARTS_MAX => resume_unwind(panic),
            Err(panic) => tracing::warn!(
                "the thread actor-{number} panicked: {}; it starts again (time {restart} of \
                 {ACTOR_RESTARTS_MAX}) with its trajectories",
                message(&*panic)
            ),
        }
    }
    Ok(())
}

/// The loop of an actor thread. A finished group gets its place in the queue before it is scored: what waits for a
/// verdict grows old like what waits for the learner.
fn drive<G: Generator>(
    mut actor: Actor<G>,
    finished: &Sender<FinishedGroup>,
    (halt, pulse): (&Halt, &Pulse),
) -> Result<(), RolloutError> {
    let (context, report) = (actor.context().clone(), actor.report_handle());
    while !halt.is_stopping() {
        // Counted before looking for work: what changes after the look ends the wait at once.
        let rings = halt.bell.rings();
        pulse.works("decodes");
        let advance = actor.advance()?;
        if advance.decoded {
            pulse.beat();
        }
        let waited = Instant::now();
        for group in advance.groups {
            pulse.waits("for room in the queue");
            halt.queue.reserve();
            context.intake.hand_over(group.id);
            if let Err(group) = finished.send(group) {
                // The scorers are gone, because the run is stopping.
                halt.queue.discard_reserved(group.0.id, DropReason::Closed);
            }
        }
        if !advance.decoded && !halt.is_stopping() {
            pulse.waits("for newer weights before it starts more groups");
            halt.bell.wait_past(rings, ADMISSION_WAIT_MAX);
        }
        lock(&report).generation_waiting_for_trainer_s += waited.elapsed().as_secs_f64();
    }
    Ok(())
}

/// The loop of a scoring thread: until all actors are gone.
fn score(
    (scorer, intake): (&Scorer, &Intake),
    unscored: &Receiver<FinishedGroup>,
    (queue, pulse): (&ReplayQueue, &Pulse),
) -> Result<(), RolloutError> {
    pulse.waits("for a finished group");
    for group in unscored {
        if queue.is_closed() {
            queue.discard_reserved(group.id, DropReason::Closed);
            continue;
        }
        pulse.works(&format!("judges group {}", group.id));
        for scored in scorer.score(vec![group])? {
            pulse.beat();
            match scored {
                Scored::Group(group) => {
                    intake.scored(&group);
                    match queue.push_reserved(group) {
                        // A closed queue has counted the group.
                        Ok(()) | Err(RolloutError::Closed) => {}
                        Err(error) => return Err(error),
                    }
                }
                Scored::Unscored { id, reason } => {
                    tracing::warn!("{reason}");
                    queue.discard_reserved(id, DropReason::Unscored);
                }
            }
        }
        pulse.waits("for a finished group");
    }
    Ok(())
}

pub(crate) fn with_scorer(sum: ActorReport, scorer: &Scorer) -> ActorReport {
    ActorReport { scoring_s: scorer.seconds(), verifiers: scorer.counters(), ..sum }
}

/// Puts scored groups into the queue while it has room.
pub(crate) fn deliver(overflow: &mut VecDeque<Group>, queue: &ReplayQueue) -> Result<(), RolloutError> {
    // A closed queue would take them and hand them to nobody.
    while !overflow.is_empty() && !queue.is_closed() {
        let group = overflow.pop_front().expect("there is one");
        if let Some(back) = queue.try_push(group)? {
            overflow.push_front(back);
            break;
        }
    }
    Ok(())
}

/// Actors that run in turns with the learner on one thread (`schedule = "lockstep"`).
pub struct Lockstep<G: Generator> {
    actors: Vec<Actor<G>>,
    /// Groups that ended in the same decode step as the one that filled the queue.
    overflow: VecDeque<Group>,
}

impl<G: Generator> Lockstep<G> {
    /// The actors take turns in this order. `overflow` are groups of an earlier life of the run that are not
    /// in the queue.
    pub fn new(actors: Vec<Actor<G>>, overflow: Vec<Group>) -> Self {
        assert!(!actors.is_empty(), "a run has an actor");
        Self { actors, overflow: overflow.into() }
    }

    /// Where everything stands after the learner's step `step`, and the weights that open segments need.
    pub fn state(&self, queue: &ReplayQueue, step: u64) -> Standing<G::Weights> {
        let mut state = queue.state(step);
        state.actors = self.actors.iter().map(Actor::state).collect();
        state.overflow = self.overflow.len();
        Standing { state, weights: self.actors.iter().flat_map(Actor::weights).cloned().collect() }
    }

    /// Decodes until the queue can hand out the groups of `request` for a learner at `learner_version`, and takes
    /// them.
    pub fn take(
        &mut self,
        queue: &ReplayQueue,
        request: &StepRequest<'_>,
        learner_version: u64,
    ) -> Result<Vec<Group>, RolloutError> {
        request.serve(queue, |count| self.take_some(queue, count, learner_version))
    }

    fn take_some(
        &mut self,
        queue: &ReplayQueue,
        count: usize,
        learner_version: u64,
    ) -> Result<Vec<Group>, RolloutError> {
        loop {
            deliver(&mut self.overflow, queue)?;
            if let Some(groups) = queue.try_take(count, learner_version)? {
                return Ok(groups);
            }
            // With groups left over the queue was full, and stale ones among them have just made room.
            if self.overflow.is_empty() && !self.advance(queue)? {
                let version = self.actors[0].context().weights.version();
                return Err(RolloutError::Starved { version, wanted: count, queued: queue.len() });
            }
        }
    }

    /// The work of all actors so far.
    pub fn report(&self) -> ActorReport {
        let sum = self.actors.iter().fold(ActorReport::default(), |sum, actor| sum.plus(&actor.report()));
        with_scorer(sum, &self.actors[0].context().scorer)
    }

    /// One decode step of every actor, and the verdicts on what it finished; whether any of them had something
    /// to decode.
    fn advance(&mut self, queue: &ReplayQueue) -> Result<bool, RolloutError> {
        let mut decoded = false;
        for actor in &mut self.actors {
            let advance = actor.advance()?;
            decoded |= advance.decoded;
            for scored in actor.context().scorer.score(advance.groups)? {
                match scored {
                    Scored::Group(group) => {
                        actor.context().intake.scored(&group);
                        self.overflow.push_back(group);
                    }
                    Scored::Unscored { id, reason } => {
                        tracing::warn!("{reason}");
                        queue.discard(id, DropReason::Unscored);
                    }
                }
            }
        }
        Ok(decoded)
    }
}

#[cfg(test)]
mod interleavings;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::QueueConfig;
    use crate::testing::{Script, context, records, rollout_config};

    const GROUPS_PER_STEP: usize = 2;
    const STALENESS: u64 = 1;

    /// Actors on one context, and the queue behind them.
    fn run(actors: usize, groups_max: usize, script: &Script) -> (Vec<Actor<Script>>, Arc<ReplayQueue>) {
        let mut config = rollout_config(script.slots() * actors, 2, 12, 3);
        config.actors = actors;
        let context = context(config, 42, GROUPS_PER_STEP as u64, STALENESS);
        let queue = QueueConfig { groups_max, staleness_versions_max: STALENESS };
        let queue = Arc::new(ReplayQueue::new(queue, context.intake.clone()));
        ((0..actors).map(|number| Actor::new(context.clone(), number, script.clone())).collect(), queue)
    }

    fn spawn(
        actors: Vec<Actor<Script>>,
        queue: &Arc<ReplayQueue>,
        script: &Script,
    ) -> Result<ActorThreads, RolloutError> {
        let script = script.clone();
        ActorThreads::spawn(actors, queue.clone(), move || script.clone())
    }

    fn uneven(slots: usize) -> Script {
        Script::new(slots, |group, member| (group as usize * 5 + member as usize * 3) % 8 + 1)
    }

    fn lockstep_records(actors: usize) -> Vec<String> {
        let (actors, queue) = run(actors, 4, &uneven(4));
        let weights = actors[0].context().weights.clone();
        let mut lockstep = Lockstep::new(actors, Vec::new());
        let mut groups = Vec::new();
        for version in 0..10 {
            groups.extend(
                lockstep
                    .take(&queue, &StepRequest::of(GROUPS_PER_STEP), version)
                    .expect("the pacing starts enough"),
            );
            weights.publish(version + 1, Arc::new(version + 1));
        }
        assert_eq!(groups.len(), 20);
        assert!(lockstep.report().completions_by_versions.keys().any(|versions| *versions > 1));
        records(&groups)
    }

    // Invariant 7: same seed, same run, bit for bit.
    #[test]
    fn lockstep_gives_the_same_records_in_every_run() {
        assert_eq!(lockstep_records(1), lockstep_records(1));
        assert_eq!(lockstep_records(2), lockstep_records(2));
    }

    /// The groups that 300 steps take, in order, and how many were dropped, where member 2 of every third
    /// group takes the whole output and all others take one token.
    fn taken_beside_long_outputs(groups_max: usize) -> (Vec<u64>, u64) {
        let script = Script::new(3, |group, member| if group % 3 == 0 && member == 2 { 99 } else { 1 });
        let (actors, queue) = run(1, groups_max, &script);
        let weights = actors[0].context().weights.clone();
        let mut lockstep = Lockstep::new(actors, Vec::new());
        let mut taken = Vec::new();
        for version in 0..300 {
            let groups =
                lockstep.take(&queue, &StepRequest::of(GROUPS_PER_STEP), version).expect("never starved");
            taken.extend(groups.iter().map(|group| group.id));
            weights.publish(version + 1, Arc::new(version + 1));
        }
        (taken, queue.report().drops.values().sum())
    }

    // Invariant 5: with room for all groups on the way none is too old for its step, however long it takes.
    #[test]
    fn the_longest_outputs_are_not_thrown_away() {
        let (mut taken, dropped) = taken_beside_long_outputs(GROUPS_PER_STEP * (1 + STALENESS as usize));
        assert_eq!((taken.len(), dropped), (600, 0));
        assert!(!taken.is_sorted(), "short outputs overtake long ones");
        taken.sort_unstable();
        // All but the last ones were taken: nothing is left behind by more than the staleness allows.
        assert!(taken[..598].iter().copied().eq(0..598), "{taken:?}");
    }

    // Invariant 5: dropped groups are replaced, so a learner whose queue drops stale ones is not starved.
    #[test]
    fn stale_groups_do_not_starve_the_learner() {
        let (taken, dropped) = taken_beside_long_outputs(GROUPS_PER_STEP);
        assert_eq!(taken.len(), 600);
        // Without replacements the pacing would end the work at this many drops.
        let ahead = (GROUPS_PER_STEP as u64) * (1 + STALENESS);
        assert!(dropped > ahead, "the test means nothing with {dropped} drops");
    }

    #[test]
    fn a_learner_that_takes_too_much_is_told_so() {
        let (actors, queue) = run(1, 9, &uneven(4));
        let mut lockstep = Lockstep::new(actors, Vec::new());
        // 2 groups a step and staleness 1 allow 4 groups at version 0.
        let error = lockstep.take(&queue, &StepRequest::of(5), 0).expect_err("5 > 4");
        assert!(matches!(error, RolloutError::Starved { version: 0, wanted: 5, queued: 4 }), "{error}");
    }

    #[test]
    fn a_closed_queue_ends_lockstep() {
        let (actors, queue) = run(1, 4, &uneven(4));
        queue.close();
        let taken = Lockstep::new(actors, Vec::new()).take(&queue, &StepRequest::of(1), 0);
        assert!(matches!(taken, Err(RolloutError::Closed)));
    }

    // Invariants 5 and 7: threads, pacing and back-pressure end in whole, fresh groups; joining leaves no
    // thread.
    #[test]
    fn threads_feed_the_learner_and_end_with_it() {
        let script = uneven(4);
        let (actors, queue) = run(2, 4, &script);
        let context = actors[0].context().clone();
        let mut threads = spawn(actors, &queue, &script).expect("threads start");
        let mut ids = Vec::new();
        for version in 0..50 {
            for group in queue.take(GROUPS_PER_STEP, version).expect("open") {
                assert!(version - group.oldest_version() <= STALENESS);
                assert_eq!(group.completions.len(), 3);
                ids.push(group.id);
            }
            context.weights.publish(version + 1, Arc::new(version + 1));
        }
        assert!(threads.report().groups >= 100);
        assert_eq!(queue.report().drops.len(), 0, "the queue has room for all groups on the way");
        threads.stop().expect("no actor failed");
        drop(threads);
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 100, "no group is handed out twice");
        // The threads owned the actors, and these the script and the context.
        assert_eq!(Arc::strong_count(&context), 1);
    }

    #[test]
    fn an_idle_actor_wakes_for_new_weights_and_for_the_end() {
        let script = uneven(12);
        let (actors, queue) = run(1, 4, &script);
        let context = actors[0].context().clone();
        let mut threads = spawn(actors, &queue, &script).expect("threads start");
        queue.take(4, 0).expect("four groups may start at version 0");
        // Nothing more may start until this.
        context.weights.publish(1, Arc::new(1));
        queue.take(2, 1).expect("two more may start at version 1");
        threads.stop().expect("no actor failed");
        assert!(matches!(queue.take(1, 1), Err(RolloutError::Closed)));
    }

    // Invariant 5: a group without a verdict is counted and replaced, under either schedule.
    #[test]
    fn a_group_without_a_verdict_is_left_out_and_another_one_starts() {
        let mut script = Script::new(4, |_, _| 2);
        script.unscored_group = Some(2);
        let (actors, queue) = run(1, 4, &script);
        let mut lockstep = Lockstep::new(actors, Vec::new());
        let ids = |groups: Vec<Group>| groups.iter().map(|group| group.id).collect::<Vec<_>>();
        let taken = lockstep.take(&queue, &StepRequest::of(4), 0).expect("group 4 is started for group 2");
        assert_eq!(ids(taken), [0, 1, 3, 4]);
        assert_eq!(queue.report().drops, BTreeMap::from([(DropReason::Unscored, 1)]));

        let (actors, queue) = run(1, 4, &script);
        let mut threads = spawn(actors, &queue, &script).expect("threads start");
        let mut taken = ids(queue.take(4, 0).expect("group 4 is started for group 2"));
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 3, 4]);
        assert_eq!(queue.report().drops, BTreeMap::from([(DropReason::Unscored, 1)]));
        threads.stop().expect("nobody failed");
    }

    // Invariant 8: a verifier that fails ends the run and is named.
    #[test]
    fn a_failing_verifier_closes_the_queue_and_join_says_why() {
        let mut script = Script::new(4, |_, _| 2);
        script.unjudged_group = Some(1);
        let (actors, queue) = run(2, 4, &script);
        let mut threads = spawn(actors, &queue, &script).expect("threads start");
        while queue.take(1, 0).is_ok() {}
        let error = threads.stop().expect_err("the verifier fails").to_string();
        assert!(error.contains("(group 1): reward `letters` failed"), "{error}");
    }

    #[test]
    fn a_failing_actor_closes_the_queue_and_join_says_why() {
        let mut script = uneven(4);
        script.fails_at_step = Some(3);
        let (actors, queue) = run(2, 4, &script);
        let mut threads = spawn(actors, &queue, &script).expect("threads start");
        while queue.take(1, 0).is_ok() {}
        let error = threads.stop().expect_err("the script fails").to_string();
        assert_eq!(error, "the generator failed: the script ends here");
    }

    // Nothing that was written down is lost by a panic, and nothing is handed out twice.
    #[test]
    fn an_actor_that_panics_goes_on_with_its_trajectories() {
        let panics = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let counted = panics.clone();
        let script = Script::new(4, move |group, member| {
            // Group 5 begins while others are in the middle of segments.
            if group == 5 && member == 1 && counted.fetch_add(1, Ordering::SeqCst) < ACTOR_RESTARTS_MAX {
                panic!("no length for group {group}");
            }
            (group as usize * 5 + member as usize * 3) % 8 + 1
        });
        let (actors, queue) = run(1, 4, &script);
        let context = actors[0].context().clone();
        let mut threads = spawn(actors, &queue, &script).expect("threads start");
        let mut ids = Vec::new();
        for version in 0..20 {
            ids.extend(
                queue.take(GROUPS_PER_STEP, version).expect("the actor comes back").iter().map(|g| g.id),
            );
            context.weights.publish(version + 1, Arc::new(version + 1));
        }
        assert_eq!(threads.report().restarts, u64::from(ACTOR_RESTARTS_MAX));
        threads.stop().expect("the last start held");
        ids.sort_unstable();
        assert_eq!(ids, (0..40).collect::<Vec<u64>>());
    }

    // Invariant 7: not even a panic leaves a thread or a learner that waits.
    #[test]
    fn a_panic_in_an_actor_is_an_error_of_the_run() {
        let script =
            Script::new(4, |group, _| if group < 2 { 1 } else { panic!("no length for group {group}") });
        let (actors, queue) = run(1, 4, &script);
        let mut threads = spawn(actors, &queue, &script).expect("threads start");
        while queue.take(1, 0).is_ok() {}
        let error = threads.stop().expect_err("the script panics").to_string();
        assert!(error.starts_with("the thread actor-0 panicked: no length for group 2"), "{error}");
    }
}
