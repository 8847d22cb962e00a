//! Statistics, and gradients on tapes of the tensor library, for any device: everything on one tape, or by chunks.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Gradients, IndexingUpdateOp, Tensor, TensorData};

use super::{ChunkPlan, Slopes, TokenStats, chunks, zero_last};
use crate::attention::AttentionRows;
use crate::batch::Packed;
use crate::logprob::{entropy_gradient, row_entropies};
use crate::model::config::DecoderConfig;
use crate::model::weights::{Block, Weights};
use crate::model::{Decoder, embed, id_tensor};
use crate::operations::Operations;
use crate::parts::TensorForm;
use crate::parts::head::{head_of, undivided_logits};
use crate::parts::linear::linear;
use crate::parts::norm::normed;
use crate::rotary::Angles;

/// The slopes of a batch on its device, each `[N, 1]`.
struct SlopeColumns {
    logprob: Tensor<2>,
    /// `None` where the loss does not depend on entropies.
    entropy: Option<Tensor<2>>,
}

/// One batch on its way through one model.
pub(crate) struct TapePass<'a> {
    decoder: &'a Decoder,
    packed: &'a Packed,
    plan: &'a ChunkPlan,
    operations: Operations,
    /// The parameters with what adapters add to them.
    weights: Cow<'a, Weights<Tensor<2>>>,
    /// One for each of the model's sets of frequencies.
    angles: Vec<Angles>,
    /// The token after each token.
    targets: Vec<u32>,
}

impl<'a> TapePass<'a> {
    pub(crate) fn new(
        decoder: &'a Decoder,
        packed: &'a Packed,
        plan: &'a ChunkPlan,
        operations: Operations,
    ) -> Self {
        assert!(!packed.has_prefixes(), "tensors and tapes take whole sequences");
        let angles = decoder.angles(&packed.positions());
        let weights = decoder.effective_weights();
        Self { decoder, packed, plan, operations, weights, angles, targets: packed.next_tokens() }
    }

    fn config(&self) -> &DecoderConfig {
        &self.decoder.config
    }

    /// Embeddings of all tokens, `[N, hidden]`.
    pub(crate) fn embedded(&self) -> Tensor<2> {
        embed(&self.weights.embedding, &self.packed.ids, self.config())
    }

    fn form(&self) -> TensorForm<'_> {
        TensorForm { config: self.config(), operations: self.operations }
    }

    fn tokens(&self) -> usize {
        self.packed.ids.len()
    }

    /// What products with the head are divided by.
    fn temperature(&self) -> f64 {
        self.config().spec.head_temperature(self.plan.temperature)
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
    fn spans(&self, layer: usize, rows: &Range<usize>) -> Arc<[AttentionRows]> {
        let window = self.config().spec.attention_of(layer).window;
        self.packed.chunk_spans(rows.start, rows.end, window)
    }

    /// Keys and values of all rows, `[N, KV, D]`, made chunk by chunk.
    fn keys_values(&self, layer: usize, x: &Tensor<2>) -> (Tensor<3>, Tensor<3>) {
        let block = &self.weights.blocks[layer];
        let (keys, values) = self
            .layer_chunks()
            .map(|rows| {
                let normed = block.normed(x.clone().slice([rows.clone()]), self.form());
                block.keys_values(normed, self.form(), &self.angles(layer).rows(rows))
            })
            .unzip();
        (joined(keys), joined(values))
    }

    /// One block's output without gradients, `[N, hidden]`.
    pub(crate) fn layer_forward(&self, layer: usize, x: &Tensor<2>) -> Tensor<2> {
        let block = &self.weights.blocks[layer];
        let (keys, values) = self.keys_values(layer, x);
        let outputs = self.layer_chunks().map(|rows| {
            let spans = self.spans(layer, &rows);
            let part = x.clone().slice([rows.clone()]);
            let normed = block.normed(part.clone(), self.form());
            let keys_values = (keys.clone(), values.clone());
            block.attend(part, normed, keys_values, self.form(), &self.angles(layer).rows(rows), &spans)
        });
        joined(outputs.collect())
    }

    fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        undivided_logits(hidden, &self.weights, self.form())
    }

    fn chunk_targets(&self, rows: &Range<usize>) -> Arc<[u32]> {
        self.targets[rows.clone()].into()
    }

    /// Statistics of all tokens, one chunk of the head at a time.
    ///
    /// # Shapes
    /// `hidden` `[T, hidden]`; the statistics have T numbers each, 0 at the last token of a sequence.
    pub(crate) fn head_statistics(&self, hidden: &Tensor<2>) -> TokenStats {
        let mut stats = TokenStats::default();
        for rows in self.head_chunks() {
            let logits = self.logits(hidden.clone().slice([rows.clone()]));
            let (logprobs, entropies) =
                self.operations.row_statistics(logits, &self.chunk_targets(&rows), self.temperature());
            stats.logprobs.extend(logprobs);
            stats.entropies.extend(entropies);
        }
        zero_last(self.packed, &mut stats.logprobs);
        zero_last(self.packed, &mut stats.entropies);
        stats
    }

    /// The caller's slopes as columns; `None` where all are 0.
    fn slope_columns(
        &self,
        stats: &TokenStats,
        slopes: &mut dyn FnMut(&TokenStats) -> Slopes,
    ) -> Option<SlopeColumns> {
        let slopes = slopes(stats).of_batch(self.packed);
        if !slopes.any(0..self.tokens()) {
            return None;
        }
        let column = |numbers: Vec<f32>| {
            Tensor::from_data(TensorData::new(numbers, [self.tokens(), 1]), &self.decoder.device())
        };
        let entropy = (!slopes.entropy.is_empty()).then(|| column(slopes.entropy));
        Some(SlopeColumns { logprob: column(slopes.logprob), entropy })
    }

    /// Everything on one tape: the plain computation that the streamed one must equal.
    ///
    /// # Shapes
    /// `gradients` as the weights; the statistics have T numbers each.
    pub(crate) fn whole(
        &self,
        gradients: &mut Weights<Tensor<2>>,
        slopes: &mut dyn FnMut(&TokenStats) -> Slopes,
    ) -> TokenStats {
        let weights = self.weights.map(|_, value| leaf(value.clone()));
        let mut x = embed(&weights.embedding, &self.packed.ids, self.config());
        for (layer, block) in weights.blocks.iter().enumerate() {
            let (angles, spans) = (self.angles(layer), self.spans(layer, &(0..self.tokens())));
            let normed = block.normed(x.clone(), self.form());
            let keys_values = block.keys_values(normed.clone(), self.form(), angles);
            x = block.attend(x, normed, keys_values, self.form(), angles, &spans);
        }
        let logits = undivided_logits(x, &weights, self.form());
        let targets = self.chunk_targets(&(0..self.tokens()));
        let (logprobs, entropies) =
            self.operations.row_statistics(logits.clone(), &targets, self.temperature());
        let mut stats = TokenStats { logprobs, entropies };
        zero_last(self.packed, &mut stats.logprobs);
        zero_last(self.packed, &mut stats.entropies);
        let Some(columns) = self.slope_columns(&stats, slopes) else { return stats };
        let temperature = self.temperature();
        let logprobs = self.operations.target_logprobs(logits.clone(), &targets, temperature);
        let mut loss = (logprobs * columns.logprob).sum();
        if let Some(column) = columns.entropy {
            loss = loss + (row_entropies(logits, temperature) * column).sum();
        }
        let mut tape = loss.backward();
        let mut sums = gradients.values_mut();
        for ((_, weight), sum) in weights.named().into_iter().zip(&mut sums) {
            take_gradient(weight, &mut tape, sum);
        }
        stats
    }

    /// The chunked backward pass.
    ///
    /// # Shapes
    /// `gradients` as the weights; the statistics have T numbers each.
    pub(crate) fn streamed(
        &self,
        gradients: &mut Weights<Tensor<2>>,
        slopes: &mut dyn FnMut(&TokenStats) -> Slopes,
    ) -> TokenStats {
        let mut inputs = vec![self.embedded()];
        for layer in 0..self.config().layers {
            inputs.push(self.layer_forward(layer, &inputs[layer]));
        }
        let hidden = inputs.pop().expect("the last layer's output was pushed");
        let stats = self.head_statistics(&hidden);
        let Some(columns) = self.slope_columns(&stats, slopes) else { return stats };
        let mut upstream = self.head_backward(hidden, &columns, gradients);
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
        columns: &SlopeColumns,
        gradients: &mut Weights<Tensor<2>>,
    ) -> Tensor<2> {
        let head = head_of(&self.weights).clone();
        let weight = leaf(self.weights.final_norm.clone());
        let mut upstream = Vec::new();
        for rows in self.head_chunks() {
            let x = leaf(hidden.clone().slice([rows.clone()]));
            let normed = normed(x.clone(), &weight, self.config().spec.final_norm, self.operations);
            let inner = normed.clone().inner();
            let logits = linear(inner.clone(), &head, None);
            let targets = self.chunk_targets(&rows);
            let temperature = self.temperature();
            let own = |column: &Tensor<2>| column.clone().slice([rows.clone()]);
            let slopes = own(&columns.logprob);
            let mut dlogits = self.operations.logits_gradient(logits.clone(), &targets, slopes, temperature);
            if let Some(column) = &columns.entropy {
                dlogits = dlogits + entropy_gradient(logits, own(column), temperature);
            }
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
            let normed = leaves.normed(part.clone(), self.form());
            let query = leaves.queries(normed.clone(), self.form(), &angles);
            let (own_keys, own_values) = leaves.keys_values(normed, self.form(), &angles);
            let spans = self.spans(layer, &rows);
            let attended = self.operations.attended(query.clone().inner(), (&keys, &values), spans);

            let residual = leaf(x.clone().slice([rows.clone()]));
            let mixed = leaf(attended.result.clone());
            let output = leaves.after_attention(residual.clone(), mixed.clone(), self.form());
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
