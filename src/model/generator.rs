//! The decoder as the rollout's generator: slots with a cache, each under the weights its segment began with.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernels::sampling::{SamplingConfig, draw, draw_except, logprob_and_entropy, uniform};
use kernels::{CachePrecision, DecodeSlots, DecodeWeights, DecoderConfig, Device, Feed, Prefilled};
use rayon::prelude::*;
use rollout::{
    Drawn, Generator, GeneratorError, KvCache, MinTokens, PrefilledTokens, SegmentRequest, Token, Versioned,
};
use simulate::LengthDistribution;

use crate::model::policy::Policy;

/// Logits below which one thread draws all tokens: it takes less time than to wake another.
const DRAWN_TOGETHER_MIN: usize = 64 * 1024;

/// How many contexts are decoded at once, and how long they get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRoom {
    /// Contexts that are decoded at once.
    pub slots: usize,
    /// Tokens that a context is expected to have at most; the cache grows where one has more.
    pub positions: usize,
}

/// Batched decoding with `kernels` for `rollout`.
pub struct DecoderGenerator {
    cache: DecodeSlots,
    sampling: SamplingConfig,
    slots: Vec<Option<Slot>>,
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

impl GivenLengths {
    /// The token to take for the drawn one, with its log-probability at a temperature above 0.
    fn instead(
        &self,
        drawn: u32,
        logprob: f32,
        is_last: bool,
        logits: &[f32],
        temperature: f64,
    ) -> (u32, f32) {
        let ends = |id: u32| self.eos_ids.contains(&id);
        // A log-prob that is no number has to reach whoever stops the run for it.
        if ends(drawn) == is_last || !logprob.is_finite() {
            return (drawn, logprob);
        }
        let after = || (0..logits.len() as u32).map(|step| (drawn + step) % logits.len() as u32);
        let id = if is_last { self.eos_ids[0] } else { after().find(|id| !ends(*id)).unwrap_or(drawn) };
        (id, logprob_and_entropy(logits, temperature, id).0)
    }
}

/// A slot in use.
struct Slot {
    weights: Versioned<Policy>,
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

impl DecoderGenerator {
    /// Slots for a model's shape.
    pub fn new(config: &DecoderConfig, device: &Device, room: SlotRoom, sampling: SamplingConfig) -> Self {
        let cache = DecodeSlots::new(config, room.slots, room.positions, device);
        let slots = (0..room.slots).map(|_| None).collect();
        Self { cache, sampling, slots, prefilled: Prefilled::default(), min_tokens: None, given: None }
    }

    /// The same with another cache.
    fn with_cache(self, cache: DecodeSlots) -> Self {
        Self { cache, ..self }
    }

    /// The same with ends of output that are not drawn at the beginning of an output.
    #[must_use]
    pub fn with_min_tokens(self, min_tokens: Option<MinTokens>) -> Self {
        Self { min_tokens, ..self }
    }

    /// Slots in use by the version that decodes them, with the version's weights.
    fn by_version(&self) -> BTreeMap<u64, (Arc<Policy>, Vec<usize>)> {
        let mut versions = BTreeMap::new();
        for (slot, state) in self.slots.iter().enumerate() {
            let Some(Slot { weights, .. }) = state else { continue };
            let of_version = || (Arc::clone(&weights.weights), Vec::new());
            versions.entry(weights.version).or_insert_with(of_version).1.push(slot);
        }
        versions
    }

    fn state(&self, slot: usize) -> &Slot {
        self.slots[slot].as_ref().expect("only slots in use are asked for")
    }

    /// Fills the caches that begin from their tokens, all of one version in one pass.
    fn refill(&mut self, slots: &[usize], weights: &DecodeWeights) {
        let waiting = slots
            .iter()
            .filter_map(|&slot| self.slots[slot].as_mut()?.refill.take().map(|context| (slot, context)));
        let contexts: Vec<(usize, Vec<u32>)> = waiting.collect();
        let feeds: Vec<Feed<'_>> =
            contexts.iter().map(|(slot, context)| Feed { slot: *slot, tokens: context }).collect();
        self.cache.prefill(weights, &feeds);
    }

    /// One token for each of these slots, all under one version.
    fn draw(&mut self, slots: &[usize], weights: &DecodeWeights) -> Vec<Drawn> {
        let inputs: Vec<[u32; 1]> = slots.iter().map(|&slot| [self.state(slot).last_token]).collect();
        let feeds: Vec<Feed<'_>> =
            slots.iter().zip(&inputs).map(|(&slot, tokens)| Feed { slot, tokens }).collect();
        let logits = self.cache.step(weights, &feeds);
        let vocabulary = logits.len() / slots.len();
        let tokens = |(&slot, row): (&usize, &[f32])| {
            let state = self.state(slot);
            let number = uniform(state.random_key, state.next_index);
            let (id, logprob) = match &self.min_tokens {
                Some(min) if state.next_index < min.tokens => {
                    draw_except(row, &min.excluded, &self.sampling, number)
                }
                _ => draw(row, &self.sampling, number),
            };
            match &self.given {
                None => (id, logprob),
                Some(given) => {
                    let is_last = state.ends_at == Some(state.next_index);
                    given.instead(id, logprob, is_last, row, self.sampling.temperature)
                }
            }
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
    /// The model's shape.
    pub shape: DecoderConfig,
    /// Where they compute.
    pub device: Device,
    /// The slots of each.
    pub room: SlotRoom,
    /// How tokens are drawn.
    pub sampling: SamplingConfig,
    /// KV-cache precision.
    pub kv_cache: KvCache,
    /// What is not drawn at the beginning of an output.
    pub min_tokens: Option<MinTokens>,
    /// Lengths from outside, which only measurements have.
    pub(crate) given: Option<GivenLengths>,
}

impl Generators {
    /// A generator whose slots are free.
    #[must_use]
    pub fn make(&self) -> DecoderGenerator {
        let generator = DecoderGenerator::new(&self.shape, &self.device, self.room, self.sampling);
        let generator = match self.kv_cache {
            KvCache::F32 => generator,
            rounded => {
                let SlotRoom { slots, positions } = self.room;
                let slots =
                    DecodeSlots::rounded(&self.shape, slots, positions, precision(rounded), &self.device);
                generator.with_cache(slots.expect("a config that asks for it on another device is refused"))
            }
        };
        let generator = generator.with_min_tokens(self.min_tokens.clone());
        DecoderGenerator { given: self.given.clone(), ..generator }
    }
}

impl Generator for DecoderGenerator {
    type Weights = Policy;

    fn begin(
        &mut self,
        slot: usize,
        request: SegmentRequest<'_>,
        weights: &Versioned<Policy>,
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

#[cfg(test)]
mod tests {
    use super::*;

    // An output ends at the given length and nowhere else, and each token has the log-prob that it has.
    #[test]
    fn an_output_ends_where_it_is_told_to() {
        let given = GivenLengths {
            lengths: Arc::new(LengthDistribution::parse("constant:3").unwrap()),
            seed: 1,
            eos_ids: vec![3, 0],
        };
        let logits = [0.0, 1.0, 2.0, 3.0];
        let logprob = |id| logprob_and_entropy(&logits, 1.5, id).0;
        let instead = |id, logprob, is_last| given.instead(id, logprob, is_last, &logits, 1.5);
        assert_eq!(instead(1, -0.5, false), (1, -0.5), "a token that ends nothing stays as it is");
        assert_eq!(instead(0, -0.5, true), (0, -0.5));
        assert_eq!(instead(3, -0.5, false), (1, logprob(1)), "the next one that ends nothing");
        assert_eq!(instead(2, -0.5, true), (3, logprob(3)));
        let (id, impossible) = instead(0, f32::NAN, false);
        assert!(id == 0 && impossible.is_nan());
    }
}
