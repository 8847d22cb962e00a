//! Exact gradients of a loss of token log-probabilities and entropies, whole or in chunks of the sequence.
//!
//! An engine computes `sum_k c_k d logprob_k / d weights + e_k d entropy_k / d weights`, where the slopes `c_k` and `e_k`
//! are the derivatives of the caller's loss at the statistics that it is shown. By StreamBP (Luo et al. 2025, arXiv
//! 2506.03077) only the layer inputs are kept, and head and layers go backward in chunks of tokens: the keys and values
//! of a layer are computed once for the whole sequence, each chunk's queries see their prefix of them, and the summed
//! gradients of keys and values pass through their projection once. Logits exist for one head chunk at a time. The
//! two other paths of [`GradientPath`] have one tape for everything, or checkpoint the layers.
//!
//! [`tape`] has all paths in tensors, for any device, [`cpu`] has StreamBP on slices in memory.

use std::ops::Range;
use std::path::PathBuf;

use burn::tensor::Tensor;

use crate::batch::Packed;
use crate::error::KernelError;
use crate::model::Decoder;
use crate::model::config::DecoderConfig;
use crate::model::gradients::GradientSink;
use crate::model::weights::Weights;
use crate::operations::Operations;
use tape::TapePass;

pub(crate) mod cpu;
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
    /// # Panics
    /// If a chunk length is 0 or the temperature is not above 0.
    pub(crate) fn check(&self) {
        assert!(self.layer_chunk_tokens > 0 && self.head_chunk_tokens > 0, "chunks hold at least one token");
        assert!(self.temperature > 0.0, "log-probabilities need a positive temperature");
    }

    /// Layers whose attention results, with their log-sum-exps, are kept for a micro-batch of this many tokens.
    fn layers_kept(&self, config: &DecoderConfig, tokens: usize) -> usize {
        let layer = 4 * tokens * config.heads * (config.head_width + 1);
        (self.attention_kept_bytes / layer as u64).min(config.layers as u64) as usize
    }

    /// Those of them whose other activations are kept.
    pub(crate) fn whole_layers_kept(&self, config: &DecoderConfig, tokens: usize) -> usize {
        let layer = 4 * tokens * activations(config);
        let fit = (self.activations_kept_bytes / layer as u64).min(config.layers as u64) as usize;
        fit.min(self.layers_kept(config, tokens))
    }
}

/// Numbers that a layer keeps for a token beside attention's results: keys and values, the residual behind attention,
/// both parts of the feed-forward layer, and queries unless a norm of theirs has to be gone through again.
pub(crate) fn activations(config: &DecoderConfig) -> usize {
    let query = if config.spec.block.query_key_norm.is_some() { 0 } else { config.heads };
    (2 * config.kv_heads + query) * config.head_width + config.hidden + 2 * config.feed_forward_width()
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

/// Log-probabilities and entropies of a batch in tensors, without gradients; never more logits than a head chunk's.
pub(crate) fn tensor_statistics(
    decoder: &Decoder,
    packed: &Packed,
    plan: &ChunkPlan,
    operations: Operations,
) -> TokenStats {
    plan.check();
    let pass = TapePass::new(decoder, packed, plan, operations);
    let mut x = pass.embedded();
    for layer in 0..decoder.config.layers {
        x = pass.layer_forward(layer, &x);
    }
    pass.head_statistics(&x)
}

/// Gradients on tapes, by all paths, and the statistics.
///
/// # Errors
/// [`KernelError::Input`] where layer inputs are kept, and are to lie elsewhere than in memory as they are.
pub(crate) fn tape_gradients(
    decoder: &Decoder,
    packed: &Packed,
    plan: &ChunkPlan,
    sink: GradientSink<'_>,
    slopes: &mut dyn FnMut(&TokenStats) -> Slopes,
    operations: Operations,
) -> Result<TokenStats, KernelError> {
    plan.check();
    if plan.path != GradientPath::Unchunked && plan.layer_inputs != LayerInputs::Memory {
        let reason = "only StreamBP on the CPU keeps layer inputs elsewhere than in memory as they are";
        return Err(KernelError::Input(reason.to_owned()));
    }
    let pass_of = |plan| TapePass::new(decoder, packed, plan, operations);
    let mut pass = |gradients: &mut Weights<Tensor<2>>| match plan.path {
        GradientPath::Unchunked => pass_of(plan).whole(gradients, slopes),
        GradientPath::StreamBp => pass_of(plan).streamed(gradients, slopes),
        GradientPath::Checkpointed => {
            let tokens = packed.ids.len();
            let whole = ChunkPlan { layer_chunk_tokens: tokens, head_chunk_tokens: tokens, ..plan.clone() };
            TapePass::new(decoder, packed, &whole, operations).streamed(gradients, slopes)
        }
    };
    Ok(match sink {
        GradientSink::Full(sums) => pass(sums),
        GradientSink::LowRank(sums) => {
            // Tapes give the gradients of whole matrices, of which those of the adapters are made.
            let mut gradients = decoder.effective_weights().zeros_like(operations);
            let stats = pass(&mut gradients);
            let lora = decoder.lora.as_ref().expect("a decoder whose adapters are trained has some");
            sums.add_projected(&lora.adapters, &gradients);
            stats
        }
    })
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
