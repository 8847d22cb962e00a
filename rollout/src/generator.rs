//! What the rollout asks of a decoder: slots that draw one token each step. The composition root implements
//! it with the real decoder, tests with a script. One word on exactness: token `i` of a trajectory is drawn
//! with the random number (key, `i`), so slots, threads and neighbours change nothing.

use trajectory::{Prompt, Token, Trajectory};

use crate::error::GeneratorError;
use crate::weights::Versioned;

/// A batch of decoding slots.
pub trait Generator {
    /// The weights of the policy.
    type Weights: Send + Sync + 'static;

    /// Puts a trajectory's next segment on a slot, or the rest of one; every token is drawn with `weights`. A
    /// slot that was not released holds the cache of the same trajectory's segment before, to be kept or
    /// rebuilt as the request says; one that was starts from the trajectory's tokens, of which there may be some already.
    fn begin(
        &mut self,
        slot: usize,
        request: SegmentRequest<'_>,
        weights: &Versioned<Self::Weights>,
    ) -> Result<(), GeneratorError>;

    /// Draws one token for each slot that was begun and not released, in any order. A slot whose segment has
    /// ended is begun again or released before the next step. Slots whose segments began under different
    /// versions are decoded each under its own.
    fn step(&mut self) -> Result<Vec<Drawn>, GeneratorError>;

    /// Ends the segment on a slot, which is begun again or released before the next step. The cache stays; the weights
    /// of the segment are given up, as it may be long until the next one begins.
    fn end_segment(&mut self, slot: usize);

    /// Frees a slot whose trajectory is finished: its cache is dropped.
    fn release(&mut self, slot: usize);

    /// The number of slots.
    fn slots(&self) -> usize;

    /// Tokens of a block of the cache: contexts take whole blocks.
    fn cache_block_tokens(&self) -> usize {
        1
    }

    /// Tokens of contexts that slots were filled with since the last call.
    fn take_prefilled(&mut self) -> PrefilledTokens {
        PrefilledTokens::default()
    }
}

/// Tokens of contexts that a cache was filled with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrefilledTokens {
    /// Tokens that were computed.
    pub computed: u64,
    /// Tokens that were taken over from contexts with the same beginning.
    pub shared: u64,
}

/// A token and the slot that drew it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drawn {
    /// The slot.
    pub slot: usize,
    /// The token.
    pub token: Token,
}

/// The trajectory that a segment continues.
#[derive(Debug, Clone, Copy)]
pub struct SegmentRequest<'a> {
    /// What is answered.
    pub prompt: &'a Prompt,
    /// The trajectory up to here; where the run was interrupted in it, its last segment is not full.
    pub trajectory: &'a Trajectory,
    /// The trajectory's random key, the same for all its segments.
    pub random_key: u64,
    /// Whether the slot holds the cache of the trajectory up to here, by the segment before.
    pub cached: bool,
    /// Whether that cache stays; else it is filled from the context's tokens under the weights of the segment.
    pub kept: bool,
}

impl SegmentRequest<'_> {
    /// All ids that the segment follows: the prompt's, those drawn so far and those given between.
    pub fn context(&self) -> Vec<u32> {
        self.trajectory.context_ids()
    }

    /// The place of the next token in the output: the index of its random number.
    pub fn first_token_index(&self) -> u64 {
        self.trajectory.token_count() as u64
    }

    /// The version of the segment before, whose cache the slot holds; `None` where it holds none.
    pub fn version_before(&self) -> Option<u64> {
        self.trajectory.last_segment().filter(|_| self.cached).map(|segment| segment.version)
    }
}

impl<G: Generator> Generator for &mut G {
    type Weights = G::Weights;

    fn begin(
        &mut self,
        slot: usize,
        request: SegmentRequest<'_>,
        weights: &Versioned<Self::Weights>,
    ) -> Result<(), GeneratorError> {
        (**self).begin(slot, request, weights)
    }

    fn step(&mut self) -> Result<Vec<Drawn>, GeneratorError> {
        (**self).step()
    }

    fn end_segment(&mut self, slot: usize) {
        (**self).end_segment(slot);
    }

    fn release(&mut self, slot: usize) {
        (**self).release(slot);
    }

    fn slots(&self) -> usize {
        (**self).slots()
    }

    fn cache_block_tokens(&self) -> usize {
        (**self).cache_block_tokens()
    }

    fn take_prefilled(&mut self) -> PrefilledTokens {
        (**self).take_prefilled()
    }
}
