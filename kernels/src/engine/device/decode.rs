//! Batched decoding in burn's operations, for every device: one tensor of keys and one of values a layer, with
//! a region of rows for each slot.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use super::kv_cache::KvCache;
use crate::attention::AttentionRows;
use crate::engine::{Feed, Prefilled};
use crate::model::config::DecoderConfig;
use crate::model::{Decoder, embed, id_tensor};
use crate::operations::Operations;
use crate::parts::TensorForm;
use crate::parts::head::logits;

/// Tokens that one prefill pass takes through the layers: bounds the activations of long contexts.
const PREFILL_TOKENS_MAX: usize = 4096;

/// Cached contexts on a device.
pub struct DeviceSlots {
    cache: KvCache,
    lengths: Vec<usize>,
    /// Of the last step.
    logits: Vec<f32>,
    positions_max: usize,
    prefilled: u64,
}

impl DeviceSlots {
    /// Slots for contexts of at most `positions_max` tokens each.
    pub(crate) fn new(config: &DecoderConfig, slots: usize, positions_max: usize, device: &Device) -> Self {
        let cache = KvCache::new(config, slots * positions_max, device);
        Self { cache, lengths: vec![0; slots], logits: Vec::new(), positions_max, prefilled: 0 }
    }

    /// Tokens that slots were filled with; none is shared.
    pub(crate) fn prefilled(&self) -> Prefilled {
        Prefilled { computed: self.prefilled, shared: 0 }
    }

    /// Makes room for contexts of this many tokens, at least doubling what there is where it must grow.
    pub(crate) fn reserve(&mut self, positions: usize) {
        if positions > self.positions_max {
            let grown = positions.max(2 * self.positions_max);
            self.cache.grow(self.lengths.len(), grown);
            self.positions_max = grown;
        }
    }

    /// Tokens in a slot's cache.
    pub(crate) fn len(&self, slot: usize) -> usize {
        self.lengths[slot]
    }

    /// How many slots there are.
    pub(crate) fn slots(&self) -> usize {
        self.lengths.len()
    }

    /// Forgets a slot's context.
    pub(crate) fn release(&mut self, slot: usize) {
        self.lengths[slot] = 0;
    }

    /// Forgets what the slots held and fills them with these contexts, without logits.
    ///
    /// Contexts go through the layers in passes of a bounded number of tokens, longer ones in parts.
    ///
    /// # Panics
    /// If a context is longer than `positions_max`, or a token is outside the vocabulary.
    pub(crate) fn prefill(&mut self, decoder: &Decoder, contexts: &[Feed<'_>]) {
        let mut pass: Vec<Feed<'_>> = Vec::new();
        let mut room = PREFILL_TOKENS_MAX;
        for context in contexts {
            self.release(context.slot);
            self.prefilled += context.tokens.len() as u64;
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
    /// As [`DeviceSlots::prefill`]; or if a slot is fed twice in one call.
    pub(crate) fn step(&mut self, decoder: &Decoder, feeds: &[Feed<'_>]) -> &[f32] {
        let hidden = self.extend(decoder, feeds);
        let mut last = Vec::with_capacity(feeds.len());
        feeds.iter().fold(0, |end, feed| {
            last.push((end + feed.tokens.len() - 1) as u32);
            end + feed.tokens.len()
        });
        let hidden = if last.len() == hidden.dims()[0] {
            hidden
        } else {
            hidden.select(0, id_tensor(&last, &decoder.device()))
        };
        let logits = logits(hidden, decoder.weights.tensors(), form(&decoder.config));
        self.logits = logits.into_data().try_to_vec().expect("logits are f32");
        &self.logits
    }

    /// Takes tokens through the layers, appending to the cache.
    ///
    /// # Shapes
    /// The result is `[tokens, hidden]`, before the last norm.
    fn extend(&mut self, decoder: &Decoder, feeds: &[Feed<'_>]) -> Tensor<2> {
        let places = self.places(feeds);
        let ids: Vec<u32> = feeds.iter().flat_map(|feed| feed.tokens).copied().collect();
        let angles = decoder.angles(&places.positions);
        let config = &decoder.config;
        let weights = decoder.weights.tensors();
        let mut x = embed(&weights.embedding, &ids, config);
        for (layer, block) in weights.blocks.iter().enumerate() {
            let angles = &angles[config.spec.rope_of(layer)];
            let spans = places.spans(config.spec.attention_of(layer).window);
            let normed = block.normed(x.clone(), form(config));
            let new = block.keys_values(normed.clone(), form(config), angles);
            let all = self.cache.write(layer, new, &places.rows);
            x = block.attend(x, normed, all, form(config), angles, &spans);
        }
        for feed in feeds {
            self.lengths[feed.slot] += feed.tokens.len();
        }
        x
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
            spans.push(AttentionRows { queries, keys: region..region + now.end, window: None });
            rows.extend(offset(&now, region));
            positions.extend(now.map(|position| position as u32));
        }
        Places { rows: rows.into(), positions, spans }
    }
}

/// Decoding takes burn's operations on every device, burn's CPU backend too, so that tests compute what a device does.
fn form(config: &DecoderConfig) -> TensorForm<'_> {
    TensorForm { config, operations: Operations::Plain }
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
    /// Without a window.
    spans: Vec<AttentionRows>,
}

impl Places {
    /// What the tokens see in a layer.
    fn spans(&self, window: Option<usize>) -> Arc<[AttentionRows]> {
        self.spans.iter().map(|span| AttentionRows { window, ..span.clone() }).collect()
    }
}
