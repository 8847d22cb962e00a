//! Actors on threads of their own beside the learner (`schedule = "async"`), and the threads that score what they finish.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use trajectory::FinishedGroup;

use super::{message, with_scorer};
use crate::actor::Actor;
use crate::error::RolloutError;
use crate::generator::Generator;
use crate::heartbeat::Heartbeat;
use crate::ledger::queue::ReplayQueue;
use crate::ledger::{Ledger, Lost};
use crate::modes::ANSWER_PAUSE;
use crate::report::ActorReport;
use crate::resume::RolloutCheckpoint;
use crate::scorer::Scorer;
use crate::sync::{Mutex, Receiver, Sender, bounded, lock};
use crate::weights::Notify;

/// An actor with nothing to start looks again after this time even if nobody notified it.
const ADMISSION_WAIT_MAX: Duration = Duration::from_secs(1);

/// An actor without room for its groups looks so often whether what it holds has grown too old: well within a step.
const ROOM_WAIT: Duration = Duration::from_millis(100);

/// Actors on threads of their own (`schedule = "async"`), and beside them the threads that score what they
/// finish, so that a slow verifier keeps no decoder waiting. No thread outlives this value.
pub struct AsyncSchedule {
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
    notify: Notify,
}

impl Halt {
    fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.queue.close();
        self.notify.notify_all();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire) || self.queue.is_closed()
    }
}

impl AsyncSchedule {
    /// Starts a thread for each actor and `rollout.scorers` threads that score. When one ends, by an error or
    /// a panic, the queue is closed, so that the learner and all others stop too; [`AsyncSchedule::stop`] says
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
        let halt = Halt { stopping: Arc::default(), queue, notify: context.ledger.notify().clone() };
        let reports = actors.iter().map(Actor::report_handle).collect();
        let (exit, exits) = bounded(actors.len() + scorers);
        let scored = context.clone();
        let judged = Box::new(move |sum| with_scorer(sum, &scored.scorer));
        let mut threads = Self { halt, threads: Vec::new(), exits, reports, judged };
        let again = Arc::new(again);
        for (number, actor) in actors.into_iter().enumerate() {
            let (halt, finished, again) = (threads.halt.clone(), finished.clone(), Arc::clone(&again));
            let name = format!("actor-{number}");
            let heartbeat = context.heartbeats.of(&name);
            let body = move || drive_on(actor, number, &finished, &halt, &heartbeat, &*again);
            threads.start(name, &exit, body)?;
        }
        for number in 0..scorers {
            let (context, unscored) = (context.clone(), unscored.clone());
            let name = format!("scorer-{number}");
            let heartbeat = context.heartbeats.of(&name);
            let body = move || score(&context.scorer, &*context.ledger, &unscored, &heartbeat);
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
    pub fn state<W>(&self, step: u64) -> RolloutCheckpoint<W> {
        RolloutCheckpoint { state: self.halt.queue.state(step), weights: Vec::new() }
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

impl Drop for AsyncSchedule {
    fn drop(&mut self) {
        self.end();
    }
}

/// An actor that has panicked more often in one run does so for a reason that a new start does not mend.
pub const ACTOR_RESTARTS_MAX: u32 = 3;

/// The life of an actor thread, through panics.
fn drive_on<G: Generator>(
    actor: Actor<G>,
    number: usize,
    finished: &Sender<FinishedGroup>,
    halt: &Halt,
    heartbeat: &Heartbeat,
    again: &(impl Fn() -> G + ?Sized),
) -> Result<(), RolloutError> {
    let (context, report) = (actor.context().clone(), actor.report_handle());
    let mut next = Some(actor);
    for restart in 1.. {
        let actor = match next.take() {
            Some(actor) => actor,
            None => Actor::in_place_of(number, &context, &report, again())?,
        };
        match catch_unwind(AssertUnwindSafe(|| drive(actor, finished, halt, heartbeat))) {
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
    heartbeat: &Heartbeat,
) -> Result<(), RolloutError> {
    let (context, report, number) = (actor.context().clone(), actor.report_handle(), actor.number());
    while !halt.is_stopping() {
        // Counted before looking for work: what changes after the look ends the wait at once.
        let seen = halt.notify.count();
        heartbeat.works("decodes");
        let advance = actor.advance()?;
        if advance.decoded {
            heartbeat.progressed();
        }
        let waited = Instant::now();
        for group in advance.groups {
            heartbeat.waits("for room in the queue");
            // The learner may make several steps meanwhile: weights that grow too old in them are let go.
            while !context.ledger.wait_for_room(ROOM_WAIT) {
                actor.end_old_segments(context.weights.version());
            }
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
            let limit = match advance.awaits_answers {
                true => ANSWER_PAUSE,
                false => ADMISSION_WAIT_MAX,
            };
            heartbeat.waits(match advance.awaits_answers {
                true => "for an environment to answer",
                false => "for newer weights before it starts more groups",
            });
            halt.notify.wait_past(seen, limit);
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
    heartbeat: &Heartbeat,
) -> Result<(), RolloutError> {
    heartbeat.waits("for a finished group");
    for group in unscored {
        if ledger.is_closed() {
            ledger.abandon(group.id);
            continue;
        }
        heartbeat.works(&format!("judges group {}", group.id));
        for scored in scorer.score(vec![group])? {
            heartbeat.progressed();
            ledger.deliver(scored)?;
        }
        heartbeat.waits("for a finished group");
    }
    Ok(())
}

#[cfg(test)]
mod interleavings;
