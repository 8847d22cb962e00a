//! The decoder as the rollout's generator: slots with a cache, each under the weights its segment began with.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernels::sampling::{SamplingConfig, draw, uniform};
use kernels::{DecodeSlots, Decoder, Feed};
use rollout::{Drawn, Generator, GeneratorError, OnUpdate, SegmentRequest, Token, Versioned};

/// Batched decoding with `kernels` for `rollout`.
pub struct DecoderGenerator {
    cache: DecodeSlots,
    sampling: SamplingConfig,
    on_update: OnUpdate,
    slots: Vec<Option<Slot>>,
}

/// A slot in use.
struct Slot {
    weights: Versioned<Decoder>,
    random_key: u64,
    /// Place in the output of the token that is drawn next.
    next_index: u64,
    /// The context's last token, whose keys and values are not in the cache yet.
    last_token: u32,
    /// The context before that token, where the cache is to be filled from it.
    refill: Option<Vec<u32>>,
}

impl DecoderGenerator {
    /// `slots` slots for the shape of `decoder`. `positions` is how long contexts are expected to get; the
    /// cache grows where they get longer.
    pub fn new(
        decoder: &Decoder,
        (slots, positions): (usize, usize),
        sampling: SamplingConfig,
        on_update: OnUpdate,
    ) -> Self {
        let cache = DecodeSlots::new(&decoder.config, slots, positions, &decoder.device());
        Self { cache, sampling, on_update, slots: (0..slots).map(|_| None).collect() }
    }

    /// Slots in use by the version that decodes them.
    fn by_version(&self) -> BTreeMap<u64, Vec<usize>> {
        let mut versions: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (slot, state) in self.slots.iter().enumerate() {
            if let Some(state) = state {
                versions.entry(state.weights.version).or_default().push(slot);
            }
        }
        versions
    }

    fn state(&self, slot: usize) -> &Slot {
        self.slots[slot].as_ref().expect("only slots in use are asked for")
    }

    /// Fills the caches that begin from their tokens, all of one version in one pass.
    fn refill(&mut self, slots: &[usize], decoder: &Decoder) {
        let waiting = slots
            .iter()
            .filter_map(|&slot| self.slots[slot].as_mut()?.refill.take().map(|context| (slot, context)));
        let contexts: Vec<(usize, Vec<u32>)> = waiting.collect();
        let feeds: Vec<Feed<'_>> =
            contexts.iter().map(|(slot, context)| Feed { slot: *slot, tokens: context }).collect();
        self.cache.prefill(decoder, &feeds);
    }

    /// One token for each of these slots, all under one version.
    fn draw(&mut self, slots: &[usize], decoder: &Decoder) -> Vec<Drawn> {
        let inputs: Vec<[u32; 1]> = slots.iter().map(|&slot| [self.state(slot).last_token]).collect();
        let feeds: Vec<Feed<'_>> =
            slots.iter().zip(&inputs).map(|(&slot, tokens)| Feed { slot, tokens }).collect();
        let logits = self.cache.step(decoder, &feeds);
        let rows = logits.chunks_exact(decoder.config.vocabulary);
        let mut drawn = Vec::with_capacity(slots.len());
        for (&slot, row) in slots.iter().zip(rows) {
            let state = self.slots[slot].as_mut().expect("only slots in use are drawn for");
            let (id, logprob) = draw(row, &self.sampling, uniform(state.random_key, state.next_index));
            state.next_index += 1;
            state.last_token = id;
            drawn.push(Drawn { slot, token: Token { id, logprob } });
        }
        drawn
    }
}

/// How the generators of a run are made.
#[derive(Clone)]
pub struct Generators {
    /// A model of the shape.
    pub decoder: Decoder,
    /// Slots of each, and positions that a context is expected to need.
    pub room: (usize, usize),
    /// How tokens are drawn.
    pub sampling: SamplingConfig,
    /// What new weights do to the caches.
    pub on_update: OnUpdate,
}

impl Generators {
    /// A generator whose slots are free.
    #[must_use]
    pub fn make(&self) -> DecoderGenerator {
        DecoderGenerator::new(&self.decoder, self.room, self.sampling, self.on_update)
    }
}

impl Generator for DecoderGenerator {
    type Weights = Decoder;

    fn begin(
        &mut self,
        slot: usize,
        request: SegmentRequest<'_>,
        weights: &Versioned<Decoder>,
    ) -> Result<(), GeneratorError> {
        let mut context = request.context();
        let last_token = context.pop().ok_or_else(|| GeneratorError::new("a prompt without tokens"))?;
        let vocabulary = weights.weights.config.vocabulary;
        if let Some(id) = context.iter().chain([&last_token]).find(|&&id| id as usize >= vocabulary) {
            return Err(GeneratorError::new(format!("token {id} is outside the vocabulary of {vocabulary}")));
        }
        self.cache.reserve(context.len() + 1);
        let kept = match (request.version_before(), self.on_update) {
            (None, _) => false,
            (Some(_), OnUpdate::Keep) => true,
            (Some(before), OnUpdate::Recompute) => before == weights.version,
        };
        self.slots[slot] = Some(Slot {
            weights: weights.clone(),
            random_key: request.random_key,
            next_index: request.first_token_index(),
            last_token,
            refill: (!kept).then_some(context),
        });
        Ok(())
    }

    fn step(&mut self) -> Result<Vec<Drawn>, GeneratorError> {
        let longest = (0..self.slots.len()).map(|slot| self.cache.len(slot)).max().unwrap_or(0);
        self.cache.reserve(longest + 1);
        let mut drawn = Vec::new();
        for (_, slots) in self.by_version() {
            let decoder = Arc::clone(&self.state(slots[0]).weights.weights);
            self.refill(&slots, &decoder);
            drawn.extend(self.draw(&slots, &decoder));
        }
        Ok(drawn)
    }

    fn release(&mut self, slot: usize) {
        self.slots[slot] = None;
        self.cache.release(slot);
    }

    fn slots(&self) -> usize {
        self.slots.len()
    }
}
