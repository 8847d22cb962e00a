//! The decoder as the rollout's generator: slots with a cache, each under the weights its segment began with.

use std::collections::BTreeMap;

use kernels::sampling::{SamplingConfig, draw, uniform};
use kernels::{CachePrecision, DecodeSlots, DecodeWeights, Decoder, Feed, Prefilled};
use rayon::prelude::*;
use rollout::{
    Drawn, Generator, GeneratorError, KvCache, OnUpdate, PrefilledTokens, SegmentRequest, Token, Versioned,
};

/// Logits below which one thread draws all tokens: it takes less time than to wake another.
const DRAWN_TOGETHER_MIN: usize = 64 * 1024;

/// Batched decoding with `kernels` for `rollout`.
pub struct DecoderGenerator {
    cache: DecodeSlots,
    sampling: SamplingConfig,
    on_update: OnUpdate,
    slots: Vec<Option<Slot>>,
    /// The weights of each version that a slot decodes under, packed when the version is first used.
    packed: BTreeMap<u64, DecodeWeights>,
    /// What caches had been filled with when it was last asked for.
    prefilled: Prefilled,
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
        Self {
            cache,
            sampling,
            on_update,
            slots: (0..slots).map(|_| None).collect(),
            packed: BTreeMap::new(),
            prefilled: Prefilled::default(),
        }
    }

    /// The same with keys and values cached in fewer bits, which decoders on the CPU can.
    #[must_use]
    pub fn with_cache(self, decoder: &Decoder, room: (usize, usize), kv_cache: KvCache) -> Self {
        if kv_cache == KvCache::F32 {
            return self;
        }
        let cache = DecodeSlots::rounded(&decoder.config, room, precision(kv_cache), &decoder.device())
            .expect("a config that asks for it on another device is refused");
        Self { cache, ..self }
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
    fn refill(&mut self, slots: &[usize], version: u64) {
        let waiting = slots
            .iter()
            .filter_map(|&slot| self.slots[slot].as_mut()?.refill.take().map(|context| (slot, context)));
        let contexts: Vec<(usize, Vec<u32>)> = waiting.collect();
        let feeds: Vec<Feed<'_>> =
            contexts.iter().map(|(slot, context)| Feed { slot: *slot, tokens: context }).collect();
        self.cache.prefill(&self.packed[&version], &feeds);
    }

    /// One token for each of these slots, all under one version.
    fn draw(&mut self, slots: &[usize], version: u64) -> Vec<Drawn> {
        let inputs: Vec<[u32; 1]> = slots.iter().map(|&slot| [self.state(slot).last_token]).collect();
        let feeds: Vec<Feed<'_>> =
            slots.iter().zip(&inputs).map(|(&slot, tokens)| Feed { slot, tokens }).collect();
        let logits = self.cache.step(&self.packed[&version], &feeds);
        let vocabulary = logits.len() / slots.len();
        let tokens = |(&slot, row): (&usize, &[f32])| {
            let state = self.state(slot);
            draw(row, &self.sampling, uniform(state.random_key, state.next_index))
        };
        // A draw is a function of its row and its number: which thread makes it changes nothing.
        let tokens: Vec<(u32, f32)> = if logits.len() < DRAWN_TOGETHER_MIN {
            slots.iter().zip(logits.chunks_exact(vocabulary)).map(tokens).collect()
        } else {
            slots.par_iter().zip(logits.par_chunks_exact(vocabulary)).map(tokens).collect()
        };
        let mut drawn = Vec::with_capacity(slots.len());
        for (&slot, (id, logprob)) in slots.iter().zip(tokens) {
            let state = self.slots[slot].as_mut().expect("only slots in use are drawn for");
            state.next_index += 1;
            state.last_token = id;
            drawn.push(Drawn { slot, token: Token { id, logprob } });
        }
        drawn
    }

    /// Packs the version's weights where this is its first step.
    fn pack(&mut self, version: u64, slot: usize) {
        if !self.packed.contains_key(&version) {
            let packed = DecodeWeights::new(&self.state(slot).weights.weights);
            self.packed.insert(version, packed);
        }
    }
}

/// A cache's precision by its name in the config.
pub(crate) fn precision(kv_cache: KvCache) -> CachePrecision {
    match kv_cache {
        KvCache::F32 => CachePrecision::F32,
        KvCache::Bf16 => CachePrecision::Bf16,
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
    /// In how many bits keys and values are cached.
    pub kv_cache: KvCache,
}

impl Generators {
    /// A generator whose slots are free.
    #[must_use]
    pub fn make(&self) -> DecoderGenerator {
        DecoderGenerator::new(&self.decoder, self.room, self.sampling, self.on_update).with_cache(
            &self.decoder,
            self.room,
            self.kv_cache,
        )
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
        let versions = self.by_version();
        // What no slot needs makes room before anything is packed.
        self.packed.retain(|version, _| versions.contains_key(version));
        for (version, slots) in versions {
            self.pack(version, slots[0]);
            self.refill(&slots, version);
            drawn.extend(self.draw(&slots, version));
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

    fn cache_block_tokens(&self) -> usize {
        self.cache.block_tokens()
    }

    fn take_prefilled(&mut self) -> PrefilledTokens {
        let before = std::mem::replace(&mut self.prefilled, self.cache.prefilled());
        PrefilledTokens {
            computed: self.prefilled.computed - before.computed,
            shared: self.prefilled.shared - before.shared,
        }
    }
}
