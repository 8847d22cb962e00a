//! Exact gradients of a weighted sum of token log-probabilities, whole or in chunks of the sequence.
//!
//! [`accumulate_gradients`] computes `sum_k c_k d logprob_k / d weights`, where the coefficients `c_k` are the
//! derivative of the caller's loss at the statistics that it is shown. With `streambp` on (StreamBP, Luo et
//! al. 2025, arXiv 2506.03077) only the layer inputs are kept, and head and layers go backward in chunks of
//! tokens: the keys and values of a layer are computed once for the whole sequence, each chunk's queries see
//! their prefix of them, and the summed gradients of keys and values pass through their projection once.
//! Logits exist for one head chunk at a time. With it off, one tape holds everything.

use std::borrow::Cow;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::{Gradients, IndexingUpdateOp, Tensor, TensorData};

use crate::attention::{Attended, Span};
use crate::batch::Packed;
use crate::error::KernelError;
use crate::flex;
use crate::logprob::{logits_gradient, row_statistics, target_logprobs};
use crate::model::config::DecoderConfig;
use crate::model::gradients::GradientSink;
use crate::model::weights::{Block, Weights};
use crate::model::{Decoder, embed, id_tensor};
use crate::parts::block::linear;
use crate::parts::norm::normed;
use crate::rotary::Angles;

mod cpu;
mod memory;

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

/// Forward, the caller's coefficients for the statistics of the batch, and the exact backward pass, whose
/// result is added to the sink. Returns the statistics.
///
/// `coefficients` returns one number an entry of the statistics; those of the last entries of sequences are
/// taken as 0. Where all are 0 nothing goes backward, and by StreamBP on the CPU no chunk does that has no sequence
/// with another one: sums are the same to the bit, as zeros would be added.
///
/// # Errors
/// [`KernelError::File`] with the folder, where the layers' inputs cannot be put aside or got back; the sink
/// then holds a part of the sum. [`KernelError::Input`] where they are to lie elsewhere than in memory and the
/// path is not StreamBP on the CPU; a single tape keeps no layer inputs, and has nothing to put anywhere.
///
/// # Panics
/// As [`token_stats`]; or if the coefficients are not one an entry.
pub fn accumulate_gradients<'s>(
    decoder: &Decoder,
    packed: &Packed,
    plan: &ChunkPlan,
    sink: impl Into<GradientSink<'s>>,
    coefficients: &mut (dyn FnMut(&TokenStats) -> Vec<f32> + Send),
) -> Result<TokenStats, KernelError> {
    check(plan);
    let sink = sink.into();
    if takes_slices(decoder, plan) {
        return in_the_pool(|| cpu::SlicePass::new(decoder, packed, plan).gradients(sink, coefficients));
    }
    if plan.path != GradientPath::Unchunked && plan.layer_inputs != LayerInputs::Memory {
        let reason = "only StreamBP on the CPU keeps layer inputs elsewhere than in memory as they are";
        return Err(KernelError::Input(reason.to_owned()));
    }
    let mut pass = |gradients: &mut Weights<Tensor<2>>| match plan.path {
        GradientPath::Unchunked => TapePass::new(decoder, packed, plan).whole(gradients, coefficients),
        GradientPath::StreamBp => TapePass::new(decoder, packed, plan).streamed(gradients, coefficients),
        GradientPath::Checkpointed => {
            let tokens = packed.ids.len();
            let whole = ChunkPlan { layer_chunk_tokens: tokens, head_chunk_tokens: tokens, ..plan.clone() };
            TapePass::new(decoder, packed, &whole).streamed(gradients, coefficients)
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

/// One batch on its way through one model.
struct TapePass<'a> {
    decoder: &'a Decoder,
    packed: &'a Packed,
    plan: &'a ChunkPlan,
    /// The parameters with what adapters add to them.
    weights: Cow<'a, Weights<Tensor<2>>>,
    /// One for each of the model's sets of frequencies.
    angles: Vec<Angles>,
    /// The token after each token.
    targets: Vec<u32>,
}

impl<'a> TapePass<'a> {
    fn new(decoder: &'a Decoder, packed: &'a Packed, plan: &'a ChunkPlan) -> Self {
        assert!(!packed.has_prefixes(), "tensors and tapes take whole sequences");
        let angles = decoder.angles(&packed.positions());
        let weights = decoder.effective_weights();
        Self { decoder, packed, plan, weights, angles, targets: packed.next_tokens() }
    }

    fn config(&self) -> &DecoderConfig {
        &self.decoder.config
    }

    fn tokens(&self) -> usize {
        self.packed.ids.len()
    }

    fn layer_chunks(&self) -> impl DoubleEndedIterator<Item = Range<usize>> {
        chunks(self.tokens(), self.plan.layer_chunk_tokens)
    }

    fn head_chunks(&self) -> impl DoubleEndedIterator<Item = Range<usize>> {
        chunks(self.tokens(), self.plan.head_chunk_tokens)
    }

    /// The angles of a layer.
    fn angles(&self, layer: usize) -> &Angles {
        &self.angles[self.config().spec.rope_of(layer)]
    }

    /// What the rows of a chunk see in a layer.
    fn spans(&self, layer: usize, rows: &Range<usize>) -> Arc<[Span]> {
        let window = self.config().spec.attention_of(layer).window;
        self.packed.chunk_spans(rows.start, rows.end, window)
    }

    /// Keys and values of all rows, `[N, KV, D]`, made chunk by chunk.
    fn keys_values(&self, layer: usize, x: &Tensor<2>) -> (Tensor<3>, Tensor<3>) {
        let block = &self.weights.blocks[layer];
        let (keys, values) = self
            .layer_chunks()
            .map(|rows| {
                let normed = block.normed(x.clone().slice([rows.clone()]), self.config());
                block.keys_values(normed, self.config(), &self.angles(layer).rows(rows))
            })
            .unzip();
        (joined(keys), joined(values))
    }

    /// One block's output without gradients, `[N, hidden]`.
    fn layer_forward(&self, layer: usize, x: &Tensor<2>) -> Tensor<2> {
        let block = &self.weights.blocks[layer];
        let (keys, values) = self.keys_values(layer, x);
        let outputs = self.layer_chunks().map(|rows| {
            let spans = self.spans(layer, &rows);
            let part = x.clone().slice([rows.clone()]);
            let normed = block.normed(part.clone(), self.config());
            let keys_values = (keys.clone(), values.clone());
            block.attend(part, normed, keys_values, self.config(), &self.angles(layer).rows(rows), &spans)
        });
        joined(outputs.collect())
    }

    /// The matrix of the head, `[vocabulary, hidden]`.
    fn head(&self) -> &Tensor<2> {
        self.weights.head.as_ref().unwrap_or(&self.weights.embedding)
    }

    fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let normed = normed(hidden, &self.weights.final_norm, self.config().spec.final_norm);
        linear(normed, self.head(), None)
    }

    fn chunk_targets(&self, rows: &Range<usize>) -> Arc<[u32]> {
        self.targets[rows.clone()].into()
    }

    fn head_statistics(&self, hidden: &Tensor<2>) -> TokenStats {
        let mut stats = TokenStats::default();
        for rows in self.head_chunks() {
            let logits = self.logits(hidden.clone().slice([rows.clone()]));
            let (logprobs, entropies) =
                row_statistics(logits, &self.chunk_targets(&rows), self.plan.temperature);
            stats.logprobs.extend(logprobs);
            stats.entropies.extend(entropies);
        }
        zero_last(self.packed, &mut stats.logprobs);
        zero_last(self.packed, &mut stats.entropies);
        stats
    }

    /// The caller's coefficients as a column; `None` where all are 0.
    fn coefficient_column(
        &self,
        stats: &TokenStats,
        coefficients: &mut dyn FnMut(&TokenStats) -> Vec<f32>,
    ) -> Option<Tensor<2>> {
        let mut column = coefficients(stats);
        assert_eq!(column.len(), self.tokens(), "one coefficient an entry of the statistics");
        zero_last(self.packed, &mut column);
        let is_live = column.iter().any(|coefficient| *coefficient != 0.0);
        let column = TensorData::new(column, [self.tokens(), 1]);
        is_live.then(|| Tensor::from_data(column, &self.decoder.device()))
    }

    /// Everything on one tape: the plain computation that the streamed one must equal.
    fn whole(
        &self,
        gradients: &mut Weights<Tensor<2>>,
        coefficients: &mut dyn FnMut(&TokenStats) -> Vec<f32>,
    ) -> TokenStats {
        let weights = self.weights.map(|_, value| leaf(value.clone()));
        let mut x = embed(&weights.embedding, &self.packed.ids, self.config());
        for (layer, block) in weights.blocks.iter().enumerate() {
            let (angles, spans) = (self.angles(layer), self.spans(layer, &(0..self.tokens())));
            let normed = block.normed(x.clone(), self.config());
            let keys_values = block.keys_values(normed.clone(), self.config(), angles);
            x = block.attend(x, normed, keys_values, self.config(), angles, &spans);
        }
        let normed = normed(x, &weights.final_norm, self.config().spec.final_norm);
        let logits = linear(normed, weights.head.as_ref().unwrap_or(&weights.embedding), None);
        let targets = self.chunk_targets(&(0..self.tokens()));
        let (logprobs, entropies) = row_statistics(logits.clone(), &targets, self.plan.temperature);
        let mut stats = TokenStats { logprobs, entropies };
        zero_last(self.packed, &mut stats.logprobs);
        zero_last(self.packed, &mut stats.entropies);
        let Some(column) = self.coefficient_column(&stats, coefficients) else { return stats };
        let mut tape = (target_logprobs(logits, &targets, self.plan.temperature) * column).sum().backward();
        let mut sums = gradients.values_mut();
        for ((_, weight), sum) in weights.named().into_iter().zip(&mut sums) {
            take_gradient(weight, &mut tape, sum);
        }
        stats
    }

    /// The chunked backward pass.
    fn streamed(
        &self,
        gradients: &mut Weights<Tensor<2>>,
        coefficients: &mut dyn FnMut(&TokenStats) -> Vec<f32>,
    ) -> TokenStats {
        let mut inputs = vec![embed(&self.weights.embedding, &self.packed.ids, self.config())];
        for layer in 0..self.config().layers {
            inputs.push(self.layer_forward(layer, &inputs[layer]));
        }
        let hidden = inputs.pop().expect("the last layer's output was pushed");
        let stats = self.head_statistics(&hidden);
        let Some(column) = self.coefficient_column(&stats, coefficients) else { return stats };
        let mut upstream = self.head_backward(hidden, column, gradients);
        for layer in (0..self.config().layers).rev() {
            let x = inputs.pop().expect("one input a layer");
            upstream = self.layer_backward(layer, &x, upstream, &mut gradients.blocks[layer]);
        }
        if let Some(scale) = self.config().spec.embedding_scale {
            upstream = upstream.mul_scalar(scale);
        }
        let ids = id_tensor(&self.packed.ids, &self.decoder.device());
        add_in_place(&mut gradients.embedding, |sum| {
            sum.select_assign(0, ids, upstream, IndexingUpdateOp::Add)
        });
        stats
    }

    /// Through the head and the last norm; returns the gradient of the last layer's output.
    fn head_backward(
        &self,
        hidden: Tensor<2>,
        column: Tensor<2>,
        gradients: &mut Weights<Tensor<2>>,
    ) -> Tensor<2> {
        let head = self.head().clone();
        let weight = leaf(self.weights.final_norm.clone());
        let mut upstream = Vec::new();
        for rows in self.head_chunks() {
            let x = leaf(hidden.clone().slice([rows.clone()]));
            let normed = normed(x.clone(), &weight, self.config().spec.final_norm);
            let inner = normed.clone().inner();
            let logits = linear(inner.clone(), &head, None);
            let targets = self.chunk_targets(&rows);
            let coefficients = column.clone().slice([rows.clone()]);
            let dlogits = logits_gradient(logits, &targets, coefficients, self.plan.temperature);
            let head_sum = gradients.head.as_mut().unwrap_or(&mut gradients.embedding);
            add_in_place(head_sum, |sum| sum + dlogits.clone().transpose().matmul(inner));
            let mut tape = (normed * dlogits.matmul(head.clone())).sum().backward();
            upstream.push(x.grad_remove(&mut tape).expect("the chunk reaches the loss"));
            take_gradient(&weight, &mut tape, &mut gradients.final_norm);
        }
        joined(upstream)
    }

    /// Through one block, last chunk first; returns the gradient of its input.
    ///
    /// Going from the end, the gradients of a chunk's own keys and values are complete once the chunk has
    /// been through attention: only it and later chunks see them.
    fn layer_backward(
        &self,
        layer: usize,
        x: &Tensor<2>,
        upstream: Tensor<2>,
        gradients: &mut Block<Tensor<2>>,
    ) -> Tensor<2> {
        let (keys, values) = self.keys_values(layer, x);
        let (mut dkeys, mut dvalues) = (keys.zeros_like(), values.zeros_like());
        let leaves = self.weights.blocks[layer].map(&mut |_, value| leaf(value.clone()));
        let mut dx = Vec::new();
        for rows in self.layer_chunks().rev() {
            let angles = self.angles(layer).rows(rows.clone());
            let part = leaf(x.clone().slice([rows.clone()]));
            let normed = leaves.normed(part.clone(), self.config());
            let query = leaves.queries(normed.clone(), self.config(), &angles);
            let (own_keys, own_values) = leaves.keys_values(normed, self.config(), &angles);
            let spans = self.spans(layer, &rows);
            let attended = Attended::forward(query.clone().inner(), (&keys, &values), spans);

            let residual = leaf(x.clone().slice([rows.clone()]));
            let mixed = leaf(attended.result.clone());
            let output = leaves.after_attention(residual.clone(), mixed.clone(), self.config());
            let mut tape = (output * upstream.clone().slice([rows.clone()])).sum().backward();
            let through_residual = residual.grad_remove(&mut tape).expect("the chunk reaches its output");
            let dmixed = mixed.grad_remove(&mut tape).expect("attention reaches the output");
            take_block_gradients(&leaves, &mut tape, gradients);

            let dquery = attended.backward(dmixed, (&keys, &values), (&mut dkeys, &mut dvalues));
            let through_query = (query * dquery).sum();
            let through_keys = (own_keys * dkeys.clone().slice([rows.clone()])).sum();
            let through_values = (own_values * dvalues.clone().slice([rows])).sum();
            let mut tape = (through_query + through_keys + through_values).backward();
            let through_attention = part.grad_remove(&mut tape).expect("the chunk reaches attention");
            take_block_gradients(&leaves, &mut tape, gradients);
            dx.push(through_residual + through_attention);
        }
        dx.reverse();
        joined(dx)
    }
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

fn joined<const D: usize>(mut parts: Vec<Tensor<D>>) -> Tensor<D> {
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 0) }
}

/// The tensor as a leaf of a new tape.
fn leaf<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    tensor.autodiff().require_grad()
}

/// Adds what a tape holds for a leaf, if it took part.
fn take_gradient(leaf: &Tensor<2>, tape: &mut Gradients, sum: &mut Tensor<2>) {
    if let Some(gradient) = leaf.grad_remove(tape) {
        add_in_place(sum, |sum| sum + gradient);
    }
}

fn take_block_gradients(leaves: &Block<Tensor<2>>, tape: &mut Gradients, gradients: &mut Block<Tensor<2>>) {
    let mut sums = Vec::new();
    gradients.for_each_mut(&mut |_, sum| sums.push(sum));
    let mut sums = sums.into_iter();
    leaves.for_each(&mut |_, leaf| {
        let sum = sums.next().expect("gradients have the form of the weights");
        take_gradient(leaf, tape, sum);
    });
}

/// Changes a tensor while nothing else holds it, so that the backend can work in place.
fn add_in_place<const D: usize>(tensor: &mut Tensor<D>, change: impl FnOnce(Tensor<D>) -> Tensor<D>) {
    let empty = Tensor::empty([0; D], &tensor.device());
    let owned = std::mem::replace(tensor, empty);
    *tensor = change(owned);
}

#[cfg(test)]
mod tests;
