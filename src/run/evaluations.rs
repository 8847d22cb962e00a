//! What measures the sets of a run, on a thread that lasts as long as one evaluation.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use kernels::Engine;
use rollout::{Heartbeat, Heartbeats, RolloutError};

use crate::model::policy::Policy;
use crate::run::eval_report::EvaluatedAt;
use crate::run::evaluator::{Evaluated, Evaluator};

/// An evaluation that was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The step whose weights are measured.
    pub(super) step: u64,
    pub(super) at: EvaluatedAt,
}

/// What measures the sets of a run, and what it is at.
pub(super) struct Evaluations<E: Engine> {
    state: State<E>,
    heartbeat: Heartbeat,
    /// Ends an evaluation that is under way.
    stop: Arc<AtomicBool>,
}

enum State<E: Engine> {
    Idle(Vec<Evaluator<E>>),
    UnderWay {
        asked: Asked,
        thread: JoinHandle<Finished<E>>,
    },
    /// It failed, or was stopped with the run, so that it has to be made again.
    Broken(Option<Asked>),
}

/// What the thread of an evaluation leaves.
struct Finished<E: Engine> {
    evaluators: Vec<Evaluator<E>>,
    found: Result<Vec<Evaluated>>,
}

impl<E: Engine> Evaluations<E> {
    /// Those of a run without held-out prompts are never asked for.
    pub(super) fn new(evaluators: Vec<Evaluator<E>>, heartbeats: &Heartbeats) -> Self {
        // A stage that never has anything to do is none for a watchdog to look at.
        let heartbeat =
            if evaluators.is_empty() { Heartbeat::default() } else { heartbeats.of("evaluation") };
        let stop: Arc<AtomicBool> = Arc::default();
        let watched =
            |evaluator: Evaluator<E>| evaluator.watched_by(heartbeat.clone()).stopped_by(Arc::clone(&stop));
        let evaluators = evaluators.into_iter().map(watched).collect();
        heartbeat.waits("for an evaluation to be due");
        Self { state: State::Idle(evaluators), heartbeat, stop }
    }

    /// Ends an evaluation that is under way, once it is set.
    pub(super) fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Whether there is nothing to measure.
    pub(super) fn are_none(&self) -> bool {
        matches!(&self.state, State::Idle(evaluators) if evaluators.is_empty())
    }

    /// The evaluation that is not finished: under way, or to be made again.
    pub(super) fn unfinished(&self) -> Option<Asked> {
        match &self.state {
            State::Idle(_) => None,
            State::UnderWay { asked, .. } => Some(*asked),
            State::Broken(asked) => *asked,
        }
    }

    /// Whether another one may begin.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle(_))
    }

    /// Whether an evaluation is under way and has come to its end.
    pub(super) fn is_done(&self) -> bool {
        matches!(&self.state, State::UnderWay { thread, .. } if thread.is_finished())
    }

    /// Begins an evaluation with these weights.
    pub(super) fn start(&mut self, asked: Asked, policy: Arc<Policy<E>>) -> Result<()> {
        let State::Idle(mut evaluators) = mem::replace(&mut self.state, State::Broken(Some(asked))) else {
            panic!("an evaluation begins while another is not finished");
        };
        let heartbeat = self.heartbeat.clone();
        let body = move || {
            heartbeat.works(&format!("answers {} of step {}", asked.at.what(), asked.step));
            let run = |evaluator: &mut Evaluator<E>| evaluator.run(Arc::clone(&policy), asked.step);
            let found = evaluators.iter_mut().map(run).collect();
            heartbeat.waits("for an evaluation to be due");
            Finished { evaluators, found }
        };
        let thread = std::thread::Builder::new().name("evaluation".to_owned()).spawn(body);
        let thread = thread.context("cannot start the thread of an evaluation")?;
        self.state = State::UnderWay { asked, thread };
        Ok(())
    }

    /// Asks an evaluation that is under way to end.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Gives up an evaluation that is not finished.
    pub(super) fn forget(&mut self) {
        self.state = State::Broken(None);
    }

    /// Waits for the evaluation that is under way. Nothing where there is none, or where it was stopped.
    pub(super) fn finish(&mut self) -> Result<Option<(Asked, Vec<Evaluated>)>> {
        let (asked, thread) = match mem::replace(&mut self.state, State::Broken(None)) {
            State::UnderWay { asked, thread } => (asked, thread),
            other => {
                self.state = other;
                return Ok(None);
            }
        };
        self.state = State::Broken(Some(asked));
        let Finished { evaluators, found } = thread.join().map_err(|panic| {
            let message = panic.downcast_ref::<String>().cloned();
            let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            anyhow!("the thread of the evaluation panicked: {}", message.unwrap_or_default())
        })?;
        match found {
            Ok(found) => {
                self.state = State::Idle(evaluators);
                Ok(Some((asked, found)))
            }
            Err(error) if matches!(error.downcast_ref::<RolloutError>(), Some(RolloutError::Closed)) => {
                Ok(None)
            }
            Err(error) => Err(error.context(format!("the evaluation of step {}", asked.step))),
        }
    }
}

impl<E: Engine> Drop for Evaluations<E> {
    /// No thread outlives a run.
    fn drop(&mut self) {
        self.stop();
        if let State::UnderWay { thread, .. } = mem::replace(&mut self.state, State::Broken(None)) {
            let _ = thread.join();
        }
    }
}
