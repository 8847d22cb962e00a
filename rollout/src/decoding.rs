//! A generator and its scheduler in step: segments begin where one is due, one token is drawn for each of
//! them, and ended trajectories leave. Shared by the actors and by evaluation; knows no rewards and no
//! queue.

use crate::error::RolloutError;
use crate::generator::{Generator, SegmentRequest};
use crate::random::trajectory_key;
use crate::scheduler::{Outcome, Scheduler};
use crate::trajectory::{Finish, Trajectory};
use crate::weights::Versioned;

/// A decoder's slots with the trajectories on them.
#[derive(Debug)]
pub(crate) struct Decoding<G> {
    pub(crate) generator: G,
    pub(crate) scheduler: Scheduler,
    pub(crate) seed: u64,
}

/// A segment that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BegunSegment {
    /// The tokens before it, the prompt's included.
    pub(crate) context_tokens: u64,
    /// Whether the segment before was of another version.
    pub(crate) version_changed: bool,
}

/// What one decode step did.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// The tokens that were drawn, which is the number of busy slots.
    pub(crate) tokens: u64,
    /// The segments that ended, those of finished trajectories included.
    pub(crate) segments_ended: u64,
    /// The trajectories that ended, in the order of their slots.
    pub(crate) finished: Vec<(Trajectory, Finish)>,
}

impl<G: Generator> Decoding<G> {
    /// Begins a segment on every slot that is due for one, each under the weights that are newest then.
    pub(crate) fn begin_segments(
        &mut self,
        newest: impl Fn() -> Versioned<G::Weights>,
    ) -> Result<Vec<BegunSegment>, RolloutError> {
        let mut begun = Vec::new();
        for slot in self.scheduler.fill() {
            let trajectory = self.scheduler.at_boundary(slot);
            let random_key = trajectory_key(self.seed, trajectory.group, trajectory.member);
            let request = SegmentRequest { prompt: &trajectory.prompt, trajectory, random_key };
            let weights = newest();
            begun.push(BegunSegment {
                context_tokens: (trajectory.prompt.tokens.len() + trajectory.token_count()) as u64,
                version_changed: request.version_before().is_some_and(|before| before != weights.version),
            });
            self.generator.begin(slot, request, &weights)?;
            self.scheduler.begin(slot, weights.version);
        }
        Ok(begun)
    }

    /// Draws one token on every slot that decodes.
    pub(crate) fn step(&mut self, is_eos: impl Fn(u32) -> bool) -> Result<Step, RolloutError> {
        let decoding = self.scheduler.decoding();
        if decoding.is_empty() {
            return Ok(Step::default());
        }
        let mut drawn = self.generator.step()?;
        drawn.sort_unstable_by_key(|drawn| drawn.slot);
        let slots: Vec<usize> = drawn.iter().map(|drawn| drawn.slot).collect();
        assert_eq!(slots, decoding, "a generator draws one token for each slot that decodes");
        let mut step = Step { tokens: slots.len() as u64, ..Step::default() };
        for drawn in drawn {
            let token = drawn.token;
            match self.scheduler.push(drawn.slot, token, is_eos(token.id)) {
                Outcome::Inside => {}
                Outcome::SegmentEnded => step.segments_ended += 1,
                Outcome::Finished(trajectory, finish) => {
                    step.segments_ended += 1;
                    self.generator.release(drawn.slot);
                    step.finished.push((checked(trajectory)?, finish));
                }
            }
        }
        Ok(step)
    }
}

/// Refuses log-probs that no distribution has, before they can reach a loss.
fn checked(trajectory: Trajectory) -> Result<Trajectory, RolloutError> {
    let tokens = trajectory.segments.iter().flat_map(|segment| &segment.tokens);
    match tokens.map(|token| token.logprob).find(|logprob| !logprob.is_finite()) {
        None => Ok(trajectory),
        Some(logprob) => Err(RolloutError::NotFinite {
            what: "the log-prob of a drawn token",
            value: f64::from(logprob),
            group: trajectory.group,
            prompt: trajectory.prompt.id.clone(),
        }),
    }
}
