//! The two ways to drive actors: on threads of their own beside the learner, or in turns with it. Both give
//! the queue whole groups; only the second gives the same order in every run.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use trajectory::{FinishedGroup, Group};

use crate::actor::Actor;
use crate::error::RolloutError;
use crate::generator::Generator;
use crate::ledger::queue::{Delivery, ReplayQueue};
use crate::ledger::request::StepRequest;
use crate::ledger::{Ledger, Lost};
use crate::pulse::Pulse;
use crate::report::ActorReport;
use crate::resume::Standing;
use crate::scorer::Scorer;
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
    ///
    /// # Errors
    /// If a thread cannot be started; those that were are stopped.
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
        let halt = Halt { stopping: Arc::default(), queue, bell: context.ledger.bell().clone() };
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
            let body = move || drive_on(actor, number, &finished, &halt, &pulse, &*again);
            threads.start(name, &exit, body)?;
        }
        for number in 0..scorers {
            let (context, unscored) = (context.clone(), unscored.clone());
            let name = format!("scorer-{number}");
            let pulse = context.pulses.of(&name);
            let body = move || score(&context.scorer, &*context.ledger, &unscored, &pulse);
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

    /// Stops the threads and waits for them.
    ///
    /// # Errors
    /// The first failure among them.
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
    finished: &Sender<FinishedGroup>,
    halt: &Halt,
    pulse: &Pulse,
    again: &(impl Fn() -> G + ?Sized),
) -> Result<(), RolloutError> {
    let (context, report) = (actor.context().clone(), actor.report_handle());
    let mut next = Some(actor);
    for restart in 1.. {
        let actor = match next.take() {
            Some(actor) => actor,
            None => Actor::in_place_of(number, &context, &report, again())?,
        };
        match catch_unwind(AssertUnwindSafe(|| drive(actor, finished, halt, pulse))) {
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
    halt: &Halt,
    pulse: &Pulse,
) -> Result<(), RolloutError> {
    let (context, report, number) = (actor.context().clone(), actor.report_handle(), actor.number());
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
            if let Err(Lost) = context.ledger.finish(group.id, number) {
                tracing::warn!("actor {number} finished group {}, which another actor has now", group.id);
                lock(&report).groups_lost += 1;
                continue;
            }
            if let Err(group) = finished.send(group) {
                // The scorers are gone, because the run is stopping.
                context.ledger.abandon(group.0.id);
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
    scorer: &Scorer,
    ledger: &dyn Ledger,
    unscored: &Receiver<FinishedGroup>,
    pulse: &Pulse,
) -> Result<(), RolloutError> {
    pulse.waits("for a finished group");
    for group in unscored {
        if ledger.is_closed() {
            ledger.abandon(group.id);
            continue;
        }
        pulse.works(&format!("judges group {}", group.id));
        for scored in scorer.score(vec![group])? {
            pulse.beat();
            ledger.deliver(scored)?;
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
    /// The actors take turns in this order. `overflow` are groups from before the restart that are not
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
    ///
    /// # Errors
    /// What an actor or a verifier failed by, [`RolloutError::Starved`] where nothing is left to decode, or
    /// [`RolloutError::Closed`].
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
                if let Delivery::Group(group) = queue.accept(scored) {
                    self.overflow.push_back(group);
                }
            }
        }
        Ok(decoded)
    }
}

#[cfg(test)]
mod interleavings;

#[cfg(test)]
mod tests;
