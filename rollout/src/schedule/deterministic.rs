//! One actor beside the learner, by a logical clock (`schedule = "deterministic"`): decoding and learning
//! overlap, and yet the same seed gives the same run bit for bit, whatever the threads do.
//!
//! The clock ticks when the learner has taken its batch. From then on the actor decodes a *window*: until as many
//! groups have ended as the next batch needs, counted in decode steps and not in time, all segments under the
//! weights that were the newest at the tick. The learner takes its next batch when both are done. So what is
//! decoded under which version depends on lengths alone. All slots are one batch of one decoder, whatever
//! `rollout.actors` says, and verdicts are put into the queue in the order in which their groups ended.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam::channel::{Receiver, Sender, bounded};
use trajectory::{FinishedGroup, Group};

use super::{deliver, message, with_scorer};
use crate::actor::{Actor, ActorContext};
use crate::error::RolloutError;
use crate::generator::Generator;
use crate::heartbeat::Heartbeat;
use crate::ledger::queue::{Delivery, ReplayQueue};
use crate::ledger::request::StepRequest;
use crate::ledger::state::WindowState;
use crate::modes::ANSWER_PAUSE;
use crate::report::ActorReport;
use crate::resume::RolloutCheckpoint;
use crate::scorer::{Scored, Scorer};
use crate::sync::{Mutex, lock};
use crate::weights::Versioned;

/// The thread's name, in errors too.
const THREAD: &str = "actor-0";

/// An actor on a thread of its own that decodes window after window. No thread outlives this value.
pub struct DeterministicSchedule<G: Generator> {
    context: Arc<ActorContext<G::Weights>>,
    actor: Arc<Mutex<Actor<G>>>,
    windows: Option<Sender<Window<G::Weights>>>,
    done: Receiver<Result<WindowResult<G::Weights>, RolloutError>>,
    thread: Option<JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
    /// Whether a window is on the thread.
    in_flight: bool,
    /// A window that was interrupted, and is to be finished first.
    left: Option<Window<G::Weights>>,
    /// Scored groups that are not in the queue yet.
    overflow: VecDeque<Group>,
    /// What the actor had done at the last tick.
    report: ActorReport,
}

/// An order to decode.
struct Window<W> {
    /// The groups that are to end in it.
    groups: usize,
    /// What its segments begin under.
    weights: Versioned<W>,
}

/// What came of a window.
struct WindowResult<W> {
    scored: Vec<Scored>,
    end: WindowEnd<W>,
}

/// How a window ended.
enum WindowEnd<W> {
    /// All its groups have ended.
    Over,
    /// There was nothing more to decode.
    Idle,
    /// The run began to stop in the middle; this is left.
    Interrupted(Window<W>),
}

/// How many groups are to end in the next window, where so many are wanted for the next batch and so many wait already.
/// A window has one at least, so that decoding goes on while the learner learns.
pub fn window_groups(wanted: usize, waiting: usize) -> usize {
    wanted.saturating_sub(waiting).max(1)
}

impl<G> DeterministicSchedule<G>
where
    G: Generator + Send + 'static,
{
    /// Starts the thread. `overflow` and `window` are what was left before the restart; `weights` finds the
    /// weights of that window.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn new(
        actor: Actor<G>,
        queue: &Arc<ReplayQueue>,
        overflow: Vec<Group>,
        window: Option<(WindowState, Versioned<G::Weights>)>,
    ) -> Result<Self, RolloutError> {
        let context = Arc::clone(actor.context());
        let report = actor.report();
        let actor = Arc::new(Mutex::new(actor));
        // One window at a time is ordered, and its outcome awaited before the next one.
        let (windows, ordered) = bounded::<Window<G::Weights>>(1);
        let (outcomes, done) = bounded(1);
        let stopping = Arc::new(AtomicBool::new(false));
        let (worker, queue, stop) = (Arc::clone(&actor), Arc::clone(queue), Arc::clone(&stopping));
        let body = move || {
            let mut waiting_since = Instant::now();
            let heartbeat = lock(&worker).context().heartbeats.of(THREAD);
            for window in ordered {
                let mut actor = lock(&worker);
                actor.count_waiting(waiting_since.elapsed().as_secs_f64());
                let is_stopping = || stop.load(Ordering::Acquire) || queue.is_closed();
                let decoded = catch_unwind(AssertUnwindSafe(|| decode(&mut actor, window, is_stopping)));
                drop(actor);
                let outcome = decoded.unwrap_or_else(|panic| {
                    let message = message(&*panic);
                    Err(RolloutError::Panicked { thread: THREAD.to_string(), message })
                });
                heartbeat.waits("for the learner's next batch");
                if outcomes.send(outcome).is_err() {
                    return;
                }
                waiting_since = Instant::now();
            }
        };
        let thread = std::thread::Builder::new().name(THREAD.to_string()).spawn(body);
        let refused = |error: std::io::Error| RolloutError::Panicked {
            thread: THREAD.to_string(),
            message: error.to_string(),
        };
        Ok(Self {
            context,
            actor,
            windows: Some(windows),
            done,
            thread: Some(thread.map_err(refused)?),
            stopping,
            in_flight: false,
            left: window.map(|(state, weights)| Window { groups: state.groups, weights }),
            overflow: overflow.into(),
            report,
        })
    }

    /// Waits for the window that is being decoded, hands out the groups of `request` for a learner at
    /// `learner_version`, and orders the next window unless no more will be wanted. Further groups are waited for window
    /// by window.
    ///
    /// # Errors
    /// What stopped the actor, or [`RolloutError::Closed`].
    pub fn take(
        &mut self,
        queue: &ReplayQueue,
        request: &StepRequest<'_>,
        learner_version: u64,
    ) -> Result<Vec<Group>, RolloutError> {
        let groups = request.serve(queue, |count| self.take_some(queue, count, learner_version))?;
        if request.last {
            // No window follows that would end them: their weights would be held to the end of the run.
            lock(&self.actor).end_old_segments(self.context.weights.version());
        } else {
            // The next step will want about as many as this one has taken.
            self.order_next(groups.len().min(queue.groups_max()), queue);
        }
        Ok(groups)
    }

    fn take_some(
        &mut self,
        queue: &ReplayQueue,
        count: usize,
        learner_version: u64,
    ) -> Result<Vec<Group>, RolloutError> {
        let began = Instant::now();
        loop {
            self.wait(queue)?;
            if queue.is_closed() {
                return Err(RolloutError::Closed);
            }
            if let Some(window) = self.left.take() {
                self.order(window);
                continue;
            }
            deliver(&mut self.overflow, queue)?;
            self.report = lock(&self.actor).report();
            if let Some(groups) = queue.try_take(count, learner_version)? {
                queue.count_trainer_waiting(began.elapsed().as_secs_f64());
                return Ok(groups);
            }
            // With groups left over the queue was full, and stale ones among them have just made room.
            if self.overflow.is_empty() {
                self.order_next(count, queue);
                let idle = self.wait(queue)? && self.overflow.is_empty();
                if idle && !queue.is_closed() {
                    let version = self.context.weights.version();
                    return Err(RolloutError::Starved { version, wanted: count, queued: queue.len() });
                }
            }
        }
    }

    /// What the actor had done when the learner took its last batch.
    pub fn report(&self) -> ActorReport {
        with_scorer(self.report.clone(), &self.context.scorer)
    }

    /// What the actor has done by now; waits for the window that is being decoded.
    ///
    /// # Errors
    /// As [`DeterministicSchedule::take`].
    pub fn report_now(&mut self, queue: &ReplayQueue) -> Result<ActorReport, RolloutError> {
        self.wait(queue)?;
        Ok(with_scorer(lock(&self.actor).report(), &self.context.scorer))
    }

    /// Where everything stands after the learner's step `step`, and the weights that open segments need. Waits
    /// for the window that is being decoded.
    ///
    /// # Errors
    /// As [`DeterministicSchedule::take`].
    pub fn state(
        &mut self,
        queue: &ReplayQueue,
        step: u64,
    ) -> Result<RolloutCheckpoint<G::Weights>, RolloutError> {
        self.wait(queue)?;
        let actor = lock(&self.actor);
        let mut state = queue.state(step);
        state.actors = vec![actor.state()];
        state.overflow = self.overflow.len();
        state.window =
            self.left.as_ref().map(|left| WindowState { groups: left.groups, version: left.weights.version });
        let window = self.left.iter().map(|left| &left.weights);
        Ok(RolloutCheckpoint { state, weights: actor.weights().chain(window).cloned().collect() })
    }

    /// A window of as many groups as `count` needs beside those that wait already.
    fn order_next(&mut self, count: usize, queue: &ReplayQueue) {
        let groups = window_groups(count, queue.len() + self.overflow.len());
        self.order(Window { groups, weights: self.context.weights.latest() });
    }

    fn order(&mut self, window: Window<G::Weights>) {
        let sent = self.windows.as_ref().is_some_and(|windows| windows.send(window).is_ok());
        // A thread that has ended left its error in the other channel.
        self.in_flight = sent;
    }

    /// Waits for the window, if there is one; whether there was nothing to decode in it.
    fn wait(&mut self, queue: &ReplayQueue) -> Result<bool, RolloutError> {
        if !std::mem::take(&mut self.in_flight) {
            return Ok(false);
        }
        let gone =
            || RolloutError::Panicked { thread: THREAD.to_string(), message: "it is gone".to_string() };
        let WindowResult { scored, end } = self.done.recv().unwrap_or_else(|_| Err(gone()))?;
        for scored in scored {
            if let Delivery::Group(group) = queue.accept(scored) {
                self.overflow.push_back(group);
            }
        }
        let idle = matches!(end, WindowEnd::Idle);
        if let WindowEnd::Interrupted(left) = end {
            self.left = Some(left);
        }
        Ok(idle)
    }
}

impl<G: Generator> Drop for DeterministicSchedule<G> {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.windows = None;
        if let Some(thread) = self.thread.take() {
            // A panic was caught and sent as the window's outcome.
            let _ = thread.join();
        }
    }
}

/// Decodes a window while other threads score what ends in it.
fn decode<G: Generator>(
    actor: &mut Actor<G>,
    window: Window<G::Weights>,
    is_stopping: impl Fn() -> bool,
) -> Result<WindowResult<G::Weights>, RolloutError> {
    let context = Arc::clone(actor.context());
    let heartbeat = context.heartbeats.of(THREAD);
    let (finished, unscored) = bounded(window.groups);
    std::thread::scope(|scope| {
        let scorers: Vec<_> = (0..context.config.scorers)
            .map(|number| {
                let (heartbeat, unscored) = (context.heartbeats.of(&format!("scorer-{number}")), &unscored);
                let scorer = &context.scorer;
                scope.spawn(move || score(scorer, unscored, &heartbeat))
            })
            .collect();
        let ended = advance(actor, window, &finished, &is_stopping, &heartbeat);
        drop(finished);
        heartbeat.waits("for the verdicts on what it finished");
        let mut scored = Vec::new();
        for scorer in scorers {
            scored.extend(scorer.join().unwrap_or_else(|panic| {
                let message = message(&*panic);
                Err(RolloutError::Panicked { thread: "scorer".to_string(), message })
            })?);
        }
        let end = ended?;
        scored.sort_by_key(|(order, _)| *order);
        Ok(WindowResult { scored: scored.into_iter().map(|(_, scored)| scored).collect(), end })
    })
}

/// Finished groups in the order in which they ended.
type Ended = (usize, FinishedGroup);

fn advance<G: Generator>(
    actor: &mut Actor<G>,
    mut window: Window<G::Weights>,
    finished: &Sender<Ended>,
    is_stopping: &impl Fn() -> bool,
    heartbeat: &Heartbeat,
) -> Result<WindowEnd<G::Weights>, RolloutError> {
    let mut order = 0;
    while window.groups > 0 {
        if is_stopping() {
            return Ok(WindowEnd::Interrupted(window));
        }
        heartbeat.works("decodes");
        let advance = actor.advance_under(|| window.weights.clone())?;
        heartbeat.progressed();
        let idle = !advance.decoded && advance.groups.is_empty();
        if idle && advance.awaits_answers {
            heartbeat.waits("for an environment to answer");
            std::thread::sleep(ANSWER_PAUSE);
            continue;
        }
        for group in advance.groups {
            window.groups = window.groups.saturating_sub(1);
            // Scorers that are gone have failed, which the caller finds.
            heartbeat.waits("for a scorer");
            let _ = finished.send((order, group));
            order += 1;
        }
        if idle {
            return Ok(WindowEnd::Idle);
        }
    }
    Ok(WindowEnd::Over)
}

fn score(
    scorer: &Scorer,
    unscored: &Receiver<Ended>,
    heartbeat: &Heartbeat,
) -> Result<Vec<(usize, Scored)>, RolloutError> {
    let mut scored = Ok(Vec::new());
    // After a failure the rest is taken and thrown away, so that the actor does not wait for room.
    for (order, group) in unscored {
        let Ok(before) = &mut scored else { continue };
        heartbeat.works(&format!("judges group {}", group.id));
        match scorer.score(vec![group]) {
            Ok(verdicts) => before.extend(verdicts.into_iter().map(|verdict| (order, verdict))),
            Err(error) => scored = Err(error),
        }
        heartbeat.progressed();
        heartbeat.waits("for a finished group");
    }
    heartbeat.waits("for a finished group");
    scored
}
