//! One transformer block in tensors, in the parts that whole, chunked and cached computation put together; and what a
//! block and a decoder are on slices.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::TensorForm;
use super::attention::Attention;
use super::experts::Experts;
use super::feed_forward::FeedForwardSlices;
use super::gated::Gated;
use super::norm::{Norm, normed};
use super::residual::Joint;
use crate::attention::AttentionRows;
use crate::flex::Rows;
use crate::model::config::DecoderConfig;
use crate::model::linear::{Adapters, Linear, LowRank};
use crate::model::numbers::Numbers;
use crate::model::spec::FeedForward;
use crate::model::weights::{Block, FeedForwardWeights, GatedWeights, Weights};
use crate::model::{Decoder, Stored};
use crate::rotary::Angles;

impl Block<Tensor<2>> {
    /// The norm before attention.
    ///
    /// # Shapes
    /// `x` and the result `[N, hidden]`.
    pub(crate) fn normed(&self, x: Tensor<2>, form: TensorForm<'_>) -> Tensor<2> {
        normed(x, &self.input_norm, form.config.spec.block.input_norm, form.operations)
    }

    /// The block's output for rows whose keys and values (with their prefix) are given.
    ///
    /// # Shapes
    /// `x` and its norm `[N, hidden]`, keys and values `[M, KV, D]`; the result is `[N, hidden]`.
    pub(crate) fn attend(
        &self,
        x: Tensor<2>,
        normed: Tensor<2>,
        (keys, values): (Tensor<3>, Tensor<3>),
        form: TensorForm<'_>,
        angles: &Angles,
        spans: &Arc<[AttentionRows]>,
    ) -> Tensor<2> {
        let query = self.queries(normed, form, angles);
        let mixed = form.operations.attention(query, keys, values, spans);
        self.after_attention(x, mixed, form)
    }

    /// The block's output from its input and what attention gives.
    ///
    /// # Shapes
    /// `x` `[N, hidden]`, `mixed` `[N, H, D]`; the result is `[N, hidden]`.
    pub(crate) fn after_attention(&self, x: Tensor<2>, mixed: Tensor<3>, form: TensorForm<'_>) -> Tensor<2> {
        self.feed_forward(x + self.attention_output(mixed, form), form)
    }
}

/// A block's parameters on slices, by its parts.
pub(crate) struct BlockSlices {
    pub(crate) input_norm: Norm,
    pub(crate) attention: Attention,
    pub(crate) feed_forward_norm: Norm,
    pub(crate) feed_forward: FeedForwardSlices,
}

impl BlockSlices {
    fn new(
        block: Block<Numbers>,
        adapters: Option<Block<Option<LowRank<Rows>>>>,
        config: &DecoderConfig,
    ) -> Self {
        let spec = &config.spec.block;
        let (hidden, mixed) = (config.hidden, config.heads * config.head_width);
        let norm = |weight: Option<Numbers>, spec| {
            weight.zip(spec).map(|(weight, spec)| Norm::new(weight.into_rows(), spec))
        };
        let bias = |bias: Option<Numbers>| bias.map(Numbers::into_rows);
        let adapters = adapters.unwrap_or_else(|| block.map(&mut |_, _| None));
        let joint = Joint::new(norm(block.feed_forward_output_norm, spec.feed_forward_output_norm), spec);
        Self {
            input_norm: Norm::new(block.input_norm.into_rows(), spec.input_norm),
            attention: Attention {
                query: Linear::new(block.query, bias(block.query_bias), adapters.query, hidden),
                key: Linear::new(block.key, bias(block.key_bias), adapters.key, hidden),
                value: Linear::new(block.value, bias(block.value_bias), adapters.value, hidden),
                query_norm: norm(block.query_norm, spec.query_key_norm),
                key_norm: norm(block.key_norm, spec.query_key_norm),
                output: Linear::new(block.output, bias(block.output_bias), adapters.output, mixed),
                joint: Joint::new(norm(block.attention_output_norm, spec.attention_output_norm), spec),
            },
            feed_forward_norm: Norm::new(block.feed_forward_norm.into_rows(), spec.feed_forward_norm),
            feed_forward: feed_forward(block.feed_forward, adapters.feed_forward, joint, config),
        }
    }
}

/// The second half of a block.
fn feed_forward(
    weights: FeedForwardWeights<Numbers>,
    adapters: FeedForwardWeights<Option<LowRank<Rows>>>,
    joint: Joint,
    config: &DecoderConfig,
) -> FeedForwardSlices {
    match (weights, adapters) {
        (FeedForwardWeights::Gated(weights), FeedForwardWeights::Gated(adapters)) => {
            FeedForwardSlices::Gated(gated(weights, adapters, joint, config.intermediate, config))
        }
        (FeedForwardWeights::Experts(weights), FeedForwardWeights::Experts(adapters)) => {
            let spec = config.spec.experts.clone().expect("a model with experts says how many");
            let experts = weights.experts.into_iter().zip(adapters.experts);
            let experts = experts.map(|(weights, adapters)| {
                gated(weights, adapters, Joint { norm: None, scale: 1.0 }, spec.intermediate, config)
            });
            FeedForwardSlices::Experts(Experts {
                experts: experts.collect(),
                router: Linear::new(weights.router, None, adapters.router, config.hidden),
                joint,
                spec,
            })
        }
        _ => unreachable!("adapters have the form of the weights"),
    }
}

/// A gated part of some width.
fn gated(
    weights: GatedWeights<Numbers>,
    adapters: GatedWeights<Option<LowRank<Rows>>>,
    joint: Joint,
    intermediate: usize,
    config: &DecoderConfig,
) -> Gated {
    let FeedForward::Gated(activation) = config.spec.block.feed_forward;
    Gated {
        gate: Linear::new(weights.gate, None, adapters.gate, config.hidden),
        up: Linear::new(weights.up, None, adapters.up, config.hidden),
        down: Linear::new(weights.down, None, adapters.down, intermediate),
        joint,
        activation,
    }
}

/// A decoder's parameters on slices.
pub(crate) struct DecoderSlices {
    pub(crate) embedding: Numbers,
    pub(crate) blocks: Vec<BlockSlices>,
    pub(crate) final_norm: Norm,
    pub(crate) head: Option<Numbers>,
}

impl DecoderSlices {
    /// Of a decoder on the CPU, whose numbers it shares.
    pub(crate) fn new(decoder: &Decoder) -> Self {
        let adapters = decoder.lora.as_ref().map(|lora| &lora.adapters);
        let slices = Self::of(decoder.weights.numbers(), adapters, &decoder.config);
        match &decoder.weights {
            Stored::Tensors(_) => slices,
            // In 8 bits the rows of a tied embedding are not those of the head.
            Stored::Packed(packed) => Self { head: Some(packed.head().clone()), ..slices },
        }
    }

    /// Of parameters and adapters beside them.
    pub(crate) fn of(weights: Weights<Numbers>, adapters: Option<&Adapters>, config: &DecoderConfig) -> Self {
        let adapters = adapters.map(|adapters| {
            adapters.map(|_, adapter| adapter.as_ref().map(|adapter| adapter.map(Rows::of_tensor)))
        });
        let mut adapters = adapters.map(|adapters| adapters.blocks.into_iter());
        let blocks = weights.blocks.into_iter().map(|block| {
            let adapters = adapters.as_mut().map(|blocks| blocks.next().expect("adapters of every block"));
            BlockSlices::new(block, adapters, config)
        });
        Self {
            embedding: weights.embedding,
            blocks: blocks.collect(),
            final_norm: Norm::new(weights.final_norm.into_rows(), config.spec.final_norm),
            head: weights.head,
        }
    }

    /// The matrix of the head, `[vocabulary, hidden]`.
    pub(crate) fn head(&self) -> &Numbers {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}
