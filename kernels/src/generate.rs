//! Batched decoding with a cache: contexts of different lengths in slots, one pass over the weights a step.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use crate::attention::Span;
use crate::decoder::block::linear;
use crate::decoder::config::DecoderConfig;
use crate::decoder::kv_cache::KvCache;
use crate::decoder::{Decoder, embed, id_tensor};
use crate::flex;
use crate::norm::rms_norm;

mod cpu;

/// Tokens that one prefill pass takes through the layers: bounds the activations of long contexts.
const PREFILL_TOKENS_MAX: usize = 4096;

/// New tokens for the end of a slot's context.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// The slot.
    pub slot: usize,
    /// At least one token.
    pub tokens: &'a [u32],
}

/// Slots of cached contexts of one model shape.
///
/// The caller chooses the weights at every call, so a context may go on under newer ones with the keys and
/// values that older ones computed, or be filled again from its tokens.
pub struct DecodeSlots {
    cache: Cache,
    lengths: Vec<usize>,
    positions_max: usize,
}

/// Where the computation takes place.
enum Cache {
    /// In memory, on slices.
    Cpu(cpu::Slots),
    /// On tensors of any other device.
    Tensors(KvCache),
}

/// What the layers make of new tokens, `[tokens, hidden]`, before the last norm.
enum Hidden {
    Cpu(Vec<f32>),
    Tensors(Box<Tensor<2>>),
}

impl DecodeSlots {
    /// Slots for contexts of at most `positions_max` tokens each.
    pub fn new(config: &DecoderConfig, slots: usize, positions_max: usize, device: &Device) -> Self {
        let rows = slots * positions_max;
        let cache = if flex::is_cpu(device) {
            Cache::Cpu(cpu::Slots::new(config, rows))
        } else {
            Cache::Tensors(KvCache::new(config, rows, device))
        };
        Self { cache, lengths: vec![0; slots], positions_max }
    }

    /// Makes room for contexts of this many tokens, at least doubling what there is where it must grow.
    pub fn reserve(&mut self, positions: usize) {
        if positions > self.positions_max {
            let grown = positions.max(2 * self.positions_max);
            match &mut self.cache {
                Cache::Cpu(slots) => slots.grow(&self.lengths, (self.positions_max, grown)),
                Cache::Tensors(cache) => cache.grow(self.lengths.len(), grown),
            }
            self.positions_max = grown;
        }
    }

    /// Tokens in a slot's cache.
    pub fn len(&self, slot: usize) -> usize {
        self.lengths[slot]
    }

    /// Whether no slot holds a context.
    pub fn is_empty(&self) -> bool {
        self.lengths.iter().all(|&length| length == 0)
    }

    /// Forgets a slot's context.
    pub fn release(&mut self, slot: usize) {
        self.lengths[slot] = 0;
    }

    /// Forgets what the slots held and fills them with these contexts, without logits.
    ///
    /// Contexts go through the layers in passes of a bounded number of tokens, longer ones in parts.
    ///
    /// # Panics
    /// If a context is longer than `positions_max`, or a token is outside the vocabulary.
    pub fn prefill(&mut self, decoder: &Decoder, contexts: &[Feed<'_>]) {
        let mut pass: Vec<Feed<'_>> = Vec::new();
        let mut room = PREFILL_TOKENS_MAX;
        for context in contexts {
            self.release(context.slot);
            let mut rest = context.tokens;
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(room));
                pass.push(Feed { slot: context.slot, tokens: now });
                (rest, room) = (later, room - now.len());
                if room == 0 {
                    self.extend(decoder, &pass);
                    pass.clear();
                    room = PREFILL_TOKENS_MAX;
                }
            }
        }
        if !pass.is_empty() {
            self.extend(decoder, &pass);
        }
    }

    /// Adds each feed's tokens to its slot and returns the logits after its last token.
    ///
    /// # Shapes
    /// The result is row-major `[feeds, vocabulary]`, read back from the device.
    ///
    /// # Panics
    /// As [`DecodeSlots::prefill`]; or if a slot is fed twice in one call.
    pub fn step(&mut self, decoder: &Decoder, feeds: &[Feed<'_>]) -> Vec<f32> {
        let hidden = self.extend(decoder, feeds);
        let ends = feeds.iter().scan(0, |end, feed| {
            *end += feed.tokens.len();
            Some(*end - 1)
        });
        match (hidden, &mut self.cache) {
            (Hidden::Cpu(hidden), Cache::Cpu(slots)) => {
                let width = decoder.config.hidden;
                let last: Vec<f32> =
                    ends.flat_map(|row| &hidden[row * width..(row + 1) * width]).copied().collect();
                slots.logits(decoder, &last)
            }
            (Hidden::Tensors(hidden), _) => {
                let last: Vec<u32> = ends.map(|row| row as u32).collect();
                let hidden = hidden.select(0, id_tensor(&last, &decoder.device()));
                let normed = rms_norm(hidden, decoder.weights.final_norm.clone(), decoder.config.rms_eps);
                let logits = linear(normed, decoder.head(), None);
                logits.into_data().try_to_vec().expect("logits are f32")
            }
            (Hidden::Cpu(_), Cache::Tensors(_)) => unreachable!("slots stay where they were made"),
        }
    }

    /// Takes tokens through the layers, appending to the cache.
    fn extend(&mut self, decoder: &Decoder, feeds: &[Feed<'_>]) -> Hidden {
        let places = self.places(feeds);
        let ids: Vec<u32> = feeds.iter().flat_map(|feed| feed.tokens).copied().collect();
        for feed in feeds {
            self.lengths[feed.slot] += feed.tokens.len();
        }
        match &mut self.cache {
            Cache::Cpu(slots) => Hidden::Cpu(slots.extend(decoder, &ids, &places)),
            Cache::Tensors(cache) => Hidden::Tensors(Box::new(extend(decoder, &ids, &places, cache))),
        }
    }

    fn places(&self, feeds: &[Feed<'_>]) -> Places {
        let (mut rows, mut positions, mut spans) = (Vec::new(), Vec::new(), Vec::new());
        let mut fed = vec![false; self.lengths.len()];
        for feed in feeds {
            let before = self.lengths[feed.slot];
            let now = before..before + feed.tokens.len();
            assert!(!std::mem::replace(&mut fed[feed.slot], true), "slot {} is fed twice", feed.slot);
            assert!(
                now.end <= self.positions_max && !now.is_empty(),
                "slot {} has {before} of {} positions and is fed {}",
                feed.slot,
                self.positions_max,
                feed.tokens.len()
            );
            let region = feed.slot * self.positions_max;
            let queries = rows.len()..rows.len() + feed.tokens.len();
            spans.push(Span { queries, keys: region..region + now.end });
            rows.extend(offset(&now, region));
            positions.extend(now.map(|position| position as u32));
        }
        Places { rows: rows.into(), positions, spans: spans.into() }
    }
}

/// [`DecodeSlots::extend`] on tensors.
fn extend(decoder: &Decoder, ids: &[u32], places: &Places, cache: &mut KvCache) -> Tensor<2> {
    let angles = decoder.angles(&places.positions);
    let config = &decoder.config;
    let mut x = embed(&decoder.weights.embedding, ids);
    for (layer, block) in decoder.weights.blocks.iter().enumerate() {
        let normed = block.normed(x.clone(), config);
        let new = block.keys_values(normed.clone(), config, &angles);
        let all = cache.write(layer, new, &places.rows);
        x = block.attend((x, normed), all, config, (&angles, &places.spans));
    }
    x
}

fn offset(range: &Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}

/// Where the new tokens of one pass go and what they see.
struct Places {
    /// Cache row of each token.
    rows: Arc<[usize]>,
    /// Position of each token in its context.
    positions: Vec<u32>,
    spans: Arc<[Span]>,
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::{DecodeSlots, Feed};
    use crate::decoder::config::Family;
    use crate::sampling::logprob_and_entropy;
    use crate::{ChunkPlan, Decoder, DecoderConfig, GradientPath, LayerInputs, Packed, token_stats};

    /// Guards invariant 3: cached decode and the training forward give equal log-probs.
    #[test]
    fn cached_decode_equals_the_training_forward() {
        for family in [Family::Llama, Family::Qwen2, Family::Qwen3] {
            let config = DecoderConfig { initializer_range: 0.3, ..DecoderConfig::small(family) };
            let decoder = Decoder::random(config, 3, &Device::flex());
            let vocabulary = decoder.config.vocabulary;
            let text: Vec<u32> = (0..50).map(|t| (t * 7 + t * t) % vocabulary as u32).collect();
            let plan = ChunkPlan {
                path: GradientPath::StreamBp,
                layer_chunk_tokens: 16,
                head_chunk_tokens: 9,
                attention_kept_bytes: 0,
                layer_inputs: LayerInputs::Memory,
                temperature: 1.0,
            };
            let expected = token_stats(&decoder, &Packed::new([&text[..]]), &plan).logprobs;

            let mut slots = DecodeSlots::new(&decoder.config, 3, 64, &Device::flex());
            slots.prefill(
                &decoder,
                &[Feed { slot: 0, tokens: &text[..4] }, Feed { slot: 2, tokens: &text[..20] }],
            );
            for step in 0..25 {
                let (short, long) = (4 + step, 20 + step);
                let feeds =
                    [(0, short), (2, long)].map(|(slot, at)| Feed { slot, tokens: &text[at..at + 1] });
                let logits = slots.step(&decoder, &feeds);
                for (row, at) in [short, long].into_iter().enumerate() {
                    let logits = &logits[row * vocabulary..(row + 1) * vocabulary];
                    let (logprob, _) = logprob_and_entropy(logits, 1.0, text[at + 1]);
                    assert!((logprob - expected[at]).abs() < 1e-5, "{family:?} at {at}: {logprob}");
                }
            }
            assert_eq!((slots.len(0), slots.len(1), slots.len(2)), (29, 0, 45));
        }
    }

    #[test]
    fn several_tokens_at_once_equal_one_after_the_other() {
        let decoder = Decoder::random(DecoderConfig::small(Family::Llama), 3, &Device::flex());
        let text: Vec<u32> = (0..30).map(|t| t % 11).collect();
        let mut slots = DecodeSlots::new(&decoder.config, 2, 64, &Device::flex());
        let at_once = slots.step(&decoder, &[Feed { slot: 1, tokens: &text }]);
        let mut last = Vec::new();
        for token in &text {
            last = slots.step(&decoder, &[Feed { slot: 0, tokens: &[*token] }]);
        }
        for (a, b) in at_once.iter().zip(&last) {
            assert!((a - b).abs() < 1e-5);
        }
    }

    /// All that a context comes to, fed in some cut on some slot beside some other context: its last logits and
    /// those of one token more.
    fn fed(decoder: &Decoder, text: &[u32], cut: &[usize], slot: usize, threads: usize) -> Vec<f32> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut slots = DecodeSlots::new(&decoder.config, 3, 200, &Device::flex());
            let other = Feed { slot: (slot + 1) % 3, tokens: &text[..3] };
            let (mut at, mut logits) = (0, Vec::new());
            for end in cut.iter().copied().chain([text.len()]) {
                let feed = Feed { slot, tokens: &text[at..end] };
                let feeds = if at == 0 { vec![other, feed] } else { vec![feed] };
                let all = slots.step(decoder, &feeds);
                logits = all[all.len() - decoder.config.vocabulary..].to_vec();
                at = end;
            }
            logits.extend(slots.step(decoder, &[Feed { slot, tokens: &text[..1] }]));
            logits
        })
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

        // What a run that goes on from a checkpoint relies on: caches that are rebuilt are the same to the bit.
        #[test]
        fn no_cut_slot_neighbour_or_thread_changes_a_bit(
            family in 0..3_usize,
            length in 5..180_usize,
            cuts in proptest::collection::btree_set(1..180_usize, 0..12),
            slot in 0..3_usize,
            seed in 0..100_u64,
        ) {
            let family = [Family::Llama, Family::Qwen2, Family::Qwen3][family];
            let config = DecoderConfig { initializer_range: 0.3, ..DecoderConfig::small(family) };
            // Wide enough that products are cut over threads.
            let config = DecoderConfig { intermediate: 264, vocabulary: 700, ..config };
            let decoder = Decoder::random(config, seed, &Device::flex());
            let text: Vec<u32> = (0..length as u32).map(|t| (t * 7 + t * t) % 700).collect();
            let cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < length).collect();
            let whole = fed(&decoder, &text, &[], 0, 1);
            let parts = fed(&decoder, &text, &cuts, slot, 2);
            assert!(whole.iter().zip(&parts).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }
}
