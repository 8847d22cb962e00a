//! The config's schedule at work. The learner's side asks for groups and for checkpoints, and does not know which
//! schedule it talks to.

use std::sync::Arc;

use anyhow::Result;
use kernels::Engine;
use rollout::{
    Actor, ActorReport, AsyncSchedule, DeterministicSchedule, Group, LockstepSchedule, ReplayQueue,
    RolloutCheckpoint, RolloutError, StepRequest,
};

use crate::config::Schedule;
use crate::model::generator::{DecoderGenerator, Generators};
use crate::model::policy::Policy;
use crate::run::checkpoints::ResumePoint;

/// The actors at work.
pub enum ActiveSchedule<E: Engine> {
    /// On threads of their own, as fast as they can.
    Async(AsyncSchedule),
    /// On a thread of their own, by a logical clock.
    Deterministic(Box<DeterministicSchedule<DecoderGenerator<E>>>),
    /// In turns with the learner.
    Lockstep(Box<LockstepSchedule<DecoderGenerator<E>>>),
}

impl<E: Engine> ActiveSchedule<E> {
    /// Puts the actors to work, from where the checkpoint stands if there is a `point`.
    ///
    /// # Errors
    /// If the data are not those of the checkpoint, a thread cannot be started, or the device cannot decode at the
    /// precision of the newest weights.
    pub fn start(
        schedule: Schedule,
        mut actors: Vec<Actor<DecoderGenerator<E>>>,
        generators: Generators<E>,
        queue: &Arc<ReplayQueue>,
        mut point: Option<&mut ResumePoint>,
    ) -> Result<Self> {
        let newest = actors[0].context().weights.latest();
        let older = match point.as_deref_mut() {
            Some(point) => point.take_policies(&*generators.engine, &newest.weights)?,
            None => Vec::new(),
        };
        let point = point.as_deref();
        let weights = |version| match point {
            Some(_) if version != newest.version => older.iter().find(|old| old.version == version).cloned(),
            _ => Some(newest.clone()),
        };
        let mut overflow = Vec::new();
        if let Some(point) = point {
            overflow = rollout::restore(&point.rollout, &mut actors, queue, weights)?;
        }
        Ok(match schedule {
            Schedule::Async => {
                queue.take_back(overflow);
                Self::Async(AsyncSchedule::spawn(actors, Arc::clone(queue), move || generators.make())?)
            }
            Schedule::Lockstep => Self::Lockstep(Box::new(LockstepSchedule::new(actors, overflow))),
            Schedule::Deterministic => {
                let window = point.and_then(|point| point.rollout.window);
                let window = window.and_then(|window| Some((window, weights(window.version)?)));
                let actor = actors.pop().expect("a run has an actor");
                Self::Deterministic(Box::new(DeterministicSchedule::new(actor, queue, overflow, window)?))
            }
        })
    }

    /// The groups of a step for a learner at `version`.
    ///
    /// # Errors
    /// What stopped the actors, or that the queue is closed.
    pub fn take(
        &mut self,
        queue: &ReplayQueue,
        request: &StepRequest<'_>,
        version: u64,
    ) -> Result<Vec<Group>, RolloutError> {
        match self {
            Self::Async(_) => request.serve(queue, |count| queue.take(count, version)),
            Self::Deterministic(deterministic) => deterministic.take(queue, request, version),
            Self::Lockstep(lockstep) => lockstep.take(queue, request, version),
        }
    }

    /// The work of all actors: so far, or up to the last batch where a logical clock counts.
    #[must_use]
    pub fn report(&self) -> ActorReport {
        match self {
            Self::Async(threads) => threads.report(),
            Self::Deterministic(deterministic) => deterministic.report(),
            Self::Lockstep(lockstep) => lockstep.report(),
        }
    }

    /// Where everything stands after the learner's step `step`; `before` is the report of the step's metrics.
    ///
    /// # Errors
    /// What stopped the actors.
    pub fn state(
        &mut self,
        queue: &ReplayQueue,
        step: u64,
        before: &ActorReport,
    ) -> Result<RolloutCheckpoint<Policy<E>>, RolloutError> {
        let (mut checkpoint, report) = match self {
            Self::Async(threads) => (threads.state(step), threads.report()),
            Self::Lockstep(lockstep) => (lockstep.state(queue, step), lockstep.report()),
            Self::Deterministic(deterministic) => {
                (deterministic.state(queue, step)?, deterministic.report_now(queue)?)
            }
        };
        checkpoint.state.report = report.since(before);
        Ok(checkpoint)
    }

    /// Stops what runs on threads of its own.
    ///
    /// # Errors
    /// What made them stop before.
    pub fn stop(&mut self) -> Result<(), RolloutError> {
        match self {
            Self::Async(threads) => threads.stop(),
            Self::Deterministic(_) | Self::Lockstep(_) => Ok(()),
        }
    }

    /// Whether what stands with the actors is whole after they failed: under `async` only segments that have ended count.
    #[must_use]
    pub fn survives_failure(&self) -> bool {
        matches!(self, Self::Async(_))
    }
}
