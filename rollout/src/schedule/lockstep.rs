//! Actors that decode while the learner waits, on its thread (`schedule = "lockstep"`).

use std::collections::VecDeque;

use trajectory::Group;

use super::{deliver, with_scorer};
use crate::actor::Actor;
use crate::error::RolloutError;
use crate::generator::Generator;
use crate::ledger::queue::{Delivery, ReplayQueue};
use crate::ledger::request::StepRequest;
use crate::modes::ANSWER_PAUSE;
use crate::report::ActorReport;
use crate::resume::RolloutCheckpoint;

/// Actors that run in turns with the learner on one thread (`schedule = "lockstep"`).
pub struct LockstepSchedule<G: Generator> {
    actors: Vec<Actor<G>>,
    /// Groups that ended in the same decode step as the one that filled the queue.
    overflow: VecDeque<Group>,
}

impl<G: Generator> LockstepSchedule<G> {
    /// The actors take turns in this order. `overflow` are groups from before the restart that are not
    /// in the queue.
    pub fn new(actors: Vec<Actor<G>>, overflow: Vec<Group>) -> Self {
        assert!(!actors.is_empty(), "a run has an actor");
        Self { actors, overflow: overflow.into() }
    }

    /// Where everything stands after the learner's step `step`, and the weights that open segments need.
    pub fn state(&self, queue: &ReplayQueue, step: u64) -> RolloutCheckpoint<G::Weights> {
        let mut state = queue.state(step);
        state.actors = self.actors.iter().map(Actor::state).collect();
        state.overflow = self.overflow.len();
        RolloutCheckpoint { state, weights: self.actors.iter().flat_map(Actor::weights).cloned().collect() }
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
        let groups = request.serve(queue, |count| self.take_some(queue, count, learner_version))?;
        // A step that the queue has the groups of decodes nothing. What is too old is not held through it all the same.
        for actor in &mut self.actors {
            let version = actor.context().weights.version();
            actor.end_old_segments(version);
        }
        Ok(groups)
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
    /// to decode, or waits for an answer.
    fn advance(&mut self, queue: &ReplayQueue) -> Result<bool, RolloutError> {
        let (mut decoded, mut awaits_answers) = (false, false);
        for actor in &mut self.actors {
            let advance = actor.advance()?;
            decoded |= advance.decoded;
            awaits_answers |= advance.awaits_answers;
            for scored in actor.context().scorer.score(advance.groups)? {
                if let Delivery::Group(group) = queue.accept(scored) {
                    self.overflow.push_back(group);
                }
            }
        }
        if awaits_answers && !decoded {
            std::thread::sleep(ANSWER_PAUSE);
        }
        Ok(decoded || awaits_answers)
    }
}
