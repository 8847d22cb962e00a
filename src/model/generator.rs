//! The decoder as the rollout's generator: slots with a cache, each under the weights its segment began with.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernels::sampling::SamplingConfig;
use kernels::{
    CacheRoom, DecoderConfig, Draw, DrawRequest, Engine, EngineSlots, EngineWeights, Feed, GivenEnd,
    Prefilled,
};
use rollout::{
    Drawn, Generator, GeneratorError, MinTokens, PrefilledTokens, SegmentRequest, Token, Versioned,
};
use simulate::LengthDistribution;

use crate::model::policy::Policy;

/// Batched decoding with an engine of `kernels` for `rollout`.
pub struct DecoderGenerator<E: Engine> {
    engine: Arc<E>,
    cache: E::Slots,
    sampling: SamplingConfig,
    slots: Vec<Option<Slot<E>>>,
    /// What caches had been filled with when it was last asked for.
    prefilled: Prefilled,
    min_tokens: Option<MinTokens>,
    given: Option<GivenLengths>,
}

/// Lengths that outputs have whatever the model draws, for measurements: an end of output before them becomes another
/// token, and the token there the end of output. What is drawn costs what it always does.
#[derive(Clone, Debug)]
pub(crate) struct GivenLengths {
    /// Where the lengths come from.
    pub(crate) lengths: Arc<LengthDistribution>,
    /// Their seed.
    pub(crate) seed: u64,
    /// The tokens that end an output.
    pub(crate) eos_ids: Vec<u32>,
}

/// A slot in use.
struct Slot<E: Engine> {
    weights: Versioned<Policy<E>>,
    random_key: u64,
    /// Place in the output of the token that is drawn next.
    next_index: u64,
    /// Place of the token that ends the output, where lengths are given.
    ends_at: Option<u64>,
    /// The context's last token, whose keys and values are not in the cache yet.
    last_token: u32,
    /// The context before that token, where the cache is to be filled from it.
    refill: Option<Vec<u32>>,
}

impl<E: Engine> Slot<E> {
    /// What is asked of the engine for the next token.
    fn request<'a>(
        &'a self,
        slot: usize,
        min_tokens: Option<&'a MinTokens>,
        given: Option<&'a GivenLengths>,
    ) -> DrawRequest<'a> {
        let excluded = min_tokens.filter(|min| self.next_index < min.tokens);
        DrawRequest {
            feed: Feed { slot, tokens: std::slice::from_ref(&self.last_token) },
            random_key: self.random_key,
            index: self.next_index,
            excluded: excluded.map_or(&[], |min| &min.excluded),
            given_end: given.map(|given| GivenEnd {
                eos_ids: &given.eos_ids,
                is_here: self.ends_at == Some(self.next_index),
            }),
        }
    }
}

impl<E: Engine> DecoderGenerator<E> {
    /// Slots for a model's shape.
    ///
    /// # Panics
    /// If the engine has no caches of the precision: a config that asks for them is refused.
    pub fn new(engine: Arc<E>, config: &DecoderConfig, room: CacheRoom, sampling: SamplingConfig) -> Self {
        let cache = engine.slots(config, room).expect("a config asks for caches that the engine has");
        let slots = (0..room.slots).map(|_| None).collect();
        let prefilled = Prefilled::default();
        Self { engine, cache, sampling, slots, prefilled, min_tokens: None, given: None }
    }

    /// The same with ends of output that are not drawn at the beginning of an output.
    #[must_use]
    pub fn with_min_tokens(self, min_tokens: Option<MinTokens>) -> Self {
        Self { min_tokens, ..self }
    }

    /// Slots in use by the version that decodes them, with the version's weights.
    fn by_version(&self) -> BTreeMap<u64, (Arc<Policy<E>>, Vec<usize>)> {
        let mut versions = BTreeMap::new();
        for (slot, state) in self.slots.iter().enumerate() {
            let Some(Slot { weights, .. }) = state else { continue };
            let of_version = || (Arc::clone(&weights.weights), Vec::new());
            versions.entry(weights.version).or_insert_with(of_version).1.push(slot);
        }
        versions
    }

    /// Fills the caches that begin from their tokens, all of one version in one pass.
    fn refill(&mut self, slots: &[usize], weights: &E::Weights) {
        let waiting = slots
            .iter()
            .filter_map(|&slot| self.slots[slot].as_mut()?.refill.take().map(|context| (slot, context)));
        let contexts: Vec<(usize, Vec<u32>)> = waiting.collect();
        let feeds: Vec<Feed<'_>> =
            contexts.iter().map(|(slot, context)| Feed { slot: *slot, tokens: context }).collect();
        self.engine.prefill(&mut self.cache, weights, &feeds);
    }

    /// One token for each of these slots, all under one version.
    fn draw(&mut self, slots: &[usize], weights: &E::Weights) -> Vec<Drawn> {
        let (min_tokens, given) = (self.min_tokens.as_ref(), self.given.as_ref());
        let states = slots.iter().map(|&slot| (slot, self.slots[slot].as_ref()));
        let requests: Vec<DrawRequest<'_>> = states
            .map(|(slot, state)| {
                state.expect("only slots in use are drawn for").request(slot, min_tokens, given)
            })
            .collect();
        let draws = self.engine.decode(&mut self.cache, weights, &requests, &self.sampling);
        let mut drawn = Vec::with_capacity(slots.len());
        for (&slot, Draw { id, logprob }) in slots.iter().zip(draws) {
            let state = self.slots[slot].as_mut().expect("only slots in use are drawn for");
            state.next_index += 1;
            state.last_token = id;
            drawn.push(Drawn { slot, token: Token { id, logprob } });
        }
        drawn
    }
}

/// How the generators of a run are made.
pub struct Generators<E> {
    /// The engine that decodes.
    pub engine: Arc<E>,
    /// The model's shape.
    pub shape: DecoderConfig,
    /// The slots of each.
    pub room: CacheRoom,
    /// How tokens are drawn.
    pub sampling: SamplingConfig,
    /// What is not drawn at the beginning of an output.
    pub min_tokens: Option<MinTokens>,
    /// Lengths from outside, which only measurements have.
    pub(crate) given: Option<GivenLengths>,
}

impl<E: Engine> Generators<E> {
    /// A generator whose slots are free.
    #[must_use]
    pub fn make(&self) -> DecoderGenerator<E> {
        let engine = Arc::clone(&self.engine);
        let generator = DecoderGenerator::new(engine, &self.shape, self.room, self.sampling)
            .with_min_tokens(self.min_tokens.clone());
        DecoderGenerator { given: self.given.clone(), ..generator }
    }
}

impl<E: Engine> Generator for DecoderGenerator<E> {
    type Weights = Policy<E>;

    fn begin(
        &mut self,
        slot: usize,
        request: SegmentRequest<'_>,
        weights: &Versioned<Policy<E>>,
    ) -> Result<(), GeneratorError> {
        let mut context = request.context();
        let last_token = context.pop().ok_or_else(|| GeneratorError::new("a prompt without tokens"))?;
        let vocabulary = weights.weights.weights().config().vocabulary;
        if let Some(id) = context.iter().chain([&last_token]).find(|&&id| id as usize >= vocabulary) {
            return Err(GeneratorError::new(format!("token {id} is outside the vocabulary of {vocabulary}")));
        }
        self.cache.reserve(context.len() + 1);
        let ends_at = self.given.as_ref().map(|given| {
            let of = request.trajectory;
            given.lengths.length(given.seed, of.group, of.member) as u64 - 1
        });
        self.slots[slot] = Some(Slot {
            weights: weights.clone(),
            random_key: request.random_key,
            next_index: request.first_token_index(),
            ends_at,
            last_token,
            refill: (!request.kept).then_some(context),
        });
        Ok(())
    }

    fn step(&mut self) -> Result<Vec<Drawn>, GeneratorError> {
        let longest = (0..self.slots.len()).map(|slot| self.cache.len(slot)).max().unwrap_or(0);
        self.cache.reserve(longest + 1);
        let mut drawn = Vec::new();
        for (policy, slots) in self.by_version().into_values() {
            let weights = policy.weights();
            self.refill(&slots, weights);
            drawn.extend(self.draw(&slots, weights));
        }
        Ok(drawn)
    }

    fn end_segment(&mut self, slot: usize) {
        self.slots[slot] = None;
    }

    fn release(&mut self, slot: usize) {
        self.slots[slot] = None;
        self.cache.release(slot);
    }

    fn slots(&self) -> usize {
        self.slots.len()
    }

    fn cache_block_tokens(&self) -> usize {
        self.engine.capabilities().cache_block_tokens
    }

    fn take_prefilled(&mut self) -> PrefilledTokens {
        let before = std::mem::replace(&mut self.prefilled, self.cache.prefilled());
        PrefilledTokens {
            computed: self.prefilled.computed - before.computed,
            shared: self.prefilled.shared - before.shared,
        }
    }
}
