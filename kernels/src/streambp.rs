//! Exact gradients of a loss of token log-probabilities and entropies, whole or in chunks of the sequence.
//!
//! [`accumulate_gradients`] computes `sum_k c_k d logprob_k / d weights + e_k d entropy_k / d weights`, where the
//! slopes `c_k` and `e_k` are the derivatives of the caller's loss at the statistics that it is shown. With `streambp` on (StreamBP, Luo et
//! al. 2025, arXiv 2506.03077) only the layer inputs are kept, and head and layers go backward in chunks of
//! tokens: the keys and values of a layer are computed once for the whole sequence, each chunk's queries see
//! their prefix of them, and the summed gradients of keys and values pass through their projection once.
//! Logits exist for one head chunk at a time. With it off, one tape holds everything.

use std::ops::Range;
use std::path::PathBuf;

use burn::tensor::Tensor;

use crate::batch::Packed;
use crate::error::KernelError;
use crate::flex;
use crate::model::config::DecoderConfig;
use crate::model::gradients::GradientSink;
use crate::model::weights::Weights;
use crate::model::{Decoder, embed};
use tape::TapePass;

mod cpu;
mod memory;
mod tape;

pub use memory::MemoryPlan;

/// How the backward pass gets what it needs of the forward pass. All paths give the same gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GradientPath {
    /// One tape holds everything.
    Unchunked,
    /// Only the layers' inputs are kept, and each layer and the head are computed again whole, on a tape of
    /// their own: gradient checkpointing as it is common.
    Checkpointed,
    /// Only the layers' inputs are kept, and layers and head go backward by chunks.
    StreamBp,
}

/// Where the inputs of the layers wait for the backward pass. Anything but memory needs StreamBP on the CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LayerInputs {
    /// In memory, as they are.
    #[default]
    Memory,
    /// In memory, rounded to bfloat16: half as much. The statistics are exact, and gradients are those at inputs
    /// that are off by up to 2^-9 of themselves.
    Bf16,
    /// In a file in this folder, to the bit. The file has lost its name before the first number is written, so
    /// that nothing is left of it, however the process ends.
    File(PathBuf),
}

/// How the forward and backward passes are cut.
#[derive(Clone, Debug, PartialEq)]
pub struct ChunkPlan {
    /// How the backward pass gets what it needs of the forward pass.
    pub path: GradientPath,
    /// Tokens of a chunk in the layers.
    pub layer_chunk_tokens: usize,
    /// Tokens of a chunk in the head; also bounds the logits of the forward pass without gradients.
    pub head_chunk_tokens: usize,
    /// Attention's results of as many layers as fit into so many bytes are kept from the forward pass, and not
    /// computed again; by StreamBP on the CPU only.
    pub attention_kept_bytes: u64,
    /// Of those layers, the other activations of as many as fit into so many bytes are kept as well, so that nothing of
    /// them is computed again but norms.
    pub activations_kept_bytes: u64,
    /// Where the layers' inputs wait for the backward pass.
    pub layer_inputs: LayerInputs,
    /// Logits are divided by this.
    pub temperature: f64,
}

impl ChunkPlan {
    /// Layers whose attention results, with their log-sum-exps, are kept for a micro-batch of this many tokens.
    fn layers_kept(&self, config: &DecoderConfig, tokens: usize) -> usize {
        let layer = 4 * tokens * config.heads * (config.head_width + 1);
        (self.attention_kept_bytes / layer as u64).min(config.layers as u64) as usize
    }

    /// Those of them whose other activations are kept.
    fn whole_layers_kept(&self, config: &DecoderConfig, tokens: usize) -> usize {
        let layer = 4 * tokens * activations(config);
        let fit = (self.activations_kept_bytes / layer as u64).min(config.layers as u64) as usize;
        fit.min(self.layers_kept(config, tokens))
    }
}

/// Numbers that a layer keeps for a token beside attention's results: keys and values, the residual behind attention,
/// both parts of the feed-forward layer, and queries unless a norm of theirs has to be gone through again.
fn activations(config: &DecoderConfig) -> usize {
    let query = if config.spec.block.query_key_norm.is_some() { 0 } else { config.heads };
    (2 * config.kv_heads + query) * config.head_width + config.hidden + 2 * config.intermediate
}

/// What the model says of every token that follows another.
///
/// One entry a position of the packed batch: entry k of a sequence belongs to its token k + 1. The last
/// entry of each sequence is 0 and means nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenStats {
    /// Natural log-probabilities.
    pub logprobs: Vec<f32>,
    /// Entropies of the distributions that the tokens were drawn from, in nats.
    pub entropies: Vec<f32>,
}

/// The derivatives of a loss by what the model says of every token: one number an entry of [`TokenStats`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slopes {
    /// By the log-probabilities.
    pub logprob: Vec<f32>,
    /// By the entropies; empty where the loss does not depend on them.
    pub entropy: Vec<f32>,
}

impl Slopes {
    /// Of a loss that depends on the log-probabilities alone.
    #[must_use]
    pub fn of_logprobs(logprob: Vec<f32>) -> Self {
        Self { logprob, entropy: Vec::new() }
    }

    /// The same slopes with 0 where nothing follows, and without entropies where none of them has a slope.
    fn of_batch(mut self, packed: &Packed) -> Self {
        assert_eq!(self.logprob.len(), packed.ids.len(), "one slope an entry of the statistics");
        zero_last(packed, &mut self.logprob);
        if !self.entropy.is_empty() {
            assert_eq!(self.entropy.len(), packed.ids.len(), "one slope an entry of the statistics");
            zero_last(packed, &mut self.entropy);
        }
        if self.entropy.iter().all(|slope| *slope == 0.0) {
            self.entropy.clear();
        }
        self
    }

    /// Whether one of these entries has a slope.
    fn any(&self, entries: Range<usize>) -> bool {
        let live = |slopes: &[f32]| slopes.iter().any(|slope| *slope != 0.0);
        live(&self.logprob[entries.clone()]) || self.entropy.get(entries).is_some_and(live)
    }
}

/// Log-probabilities and entropies of a batch, without gradients; never more logits than a head chunk's.
///
/// # Panics
/// If a chunk length is 0, a token is outside the vocabulary, or there are prefixes where [`shares_prefixes`] says no.
pub fn token_stats(decoder: &Decoder, packed: &Packed, plan: &ChunkPlan) -> TokenStats {
    check(plan);
    if takes_slices(decoder, plan) {
        return in_the_pool(|| cpu::SlicePass::new(decoder, packed, plan).statistics());
    }
    let pass = TapePass::new(decoder, packed, plan);
    let mut x = embed(&decoder.weights.embedding, &packed.ids, &decoder.config);
    for layer in 0..decoder.config.layers {
        x = pass.layer_forward(layer, &x);
    }
    pass.head_statistics(&x)
}

/// Forward, the slopes of the caller's loss at the statistics of the batch, and the exact backward pass, whose
/// result is added to the sink. Returns the statistics.
///
/// `slopes` returns one number an entry of the statistics; those of the last entries of sequences are taken as 0. Where all are 0 nothing goes backward, and by StreamBP on the CPU no chunk does that has no sequence
/// with another one: sums are the same to the bit, as zeros would be added.
///
/// # Errors
/// [`KernelError::File`] with the folder, where the layers' inputs cannot be put aside or got back; the sink
/// then holds a part of the sum. [`KernelError::Input`] where they are to lie elsewhere than in memory and the
/// path is not StreamBP on the CPU; a single tape keeps no layer inputs, and has nothing to put anywhere.
///
/// # Panics
/// As [`token_stats`]; or if the slopes are not one an entry.
pub fn accumulate_gradients<'s>(
    decoder: &Decoder,
    packed: &Packed,
    plan: &ChunkPlan,
    sink: impl Into<GradientSink<'s>>,
    slopes: &mut (dyn FnMut(&TokenStats) -> Slopes + Send),
) -> Result<TokenStats, KernelError> {
    check(plan);
    let sink = sink.into();
    if takes_slices(decoder, plan) {
        return in_the_pool(|| cpu::SlicePass::new(decoder, packed, plan).gradients(sink, slopes));
    }
    if plan.path != GradientPath::Unchunked && plan.layer_inputs != LayerInputs::Memory {
        let reason = "only StreamBP on the CPU keeps layer inputs elsewhere than in memory as they are";
        return Err(KernelError::Input(reason.to_owned()));
    }
    let mut pass = |gradients: &mut Weights<Tensor<2>>| match plan.path {
        GradientPath::Unchunked => TapePass::new(decoder, packed, plan).whole(gradients, slopes),
        GradientPath::StreamBp => TapePass::new(decoder, packed, plan).streamed(gradients, slopes),
        GradientPath::Checkpointed => {
            let tokens = packed.ids.len();
            let whole = ChunkPlan { layer_chunk_tokens: tokens, head_chunk_tokens: tokens, ..plan.clone() };
            TapePass::new(decoder, packed, &whole).streamed(gradients, slopes)
        }
    };
    Ok(match sink {
        GradientSink::Full(sums) => pass(sums),
        GradientSink::LowRank(sums) => {
            // Tapes give the gradients of whole matrices, of which those of the adapters are made.
            let mut gradients = decoder.weights.zeros_like();
            let stats = pass(&mut gradients);
            let adapters = decoder.adapters.as_ref();
            sums.add_projected(adapters.expect("a decoder whose adapters are trained has some"), &gradients);
            stats
        }
    })
}

/// Does work of many short parallel steps on a thread of the pool: from outside each of them would wake a thread and
/// wait for it. A pool of one thread is left to others, who would have to wait for all of it.
fn in_the_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    if rayon::current_num_threads() == 1 { work() } else { rayon::scope(|_| work()) }
}

/// Whether sequences of a batch may have their beginnings in common: where StreamBP runs on the CPU.
pub fn shares_prefixes(decoder: &Decoder, plan: &ChunkPlan) -> bool {
    takes_slices(decoder, plan)
}

/// Whether the passes are those written for slices in memory, and not those of tensors and tapes.
fn takes_slices(decoder: &Decoder, plan: &ChunkPlan) -> bool {
    plan.path == GradientPath::StreamBp && flex::is_cpu(&decoder.device())
}

fn check(plan: &ChunkPlan) {
    assert!(plan.layer_chunk_tokens > 0 && plan.head_chunk_tokens > 0, "chunks hold at least one token");
    assert!(plan.temperature > 0.0, "log-probabilities need a positive temperature");
}

/// Nothing follows a sequence's last token.
fn zero_last(packed: &Packed, entries: &mut [f32]) {
    let mut end = 0;
    for length in &packed.lengths {
        end += length;
        entries[end - 1] = 0.0;
    }
}

/// Chunks of `length` rows that cover `rows`; the last may be shorter.
fn chunks(rows: usize, length: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    (0..rows.div_ceil(length)).map(move |chunk| chunk * length..((chunk + 1) * length).min(rows))
}

#[cfg(test)]
mod tests;
