//! What a decoder computes, as data: where norms stand and of which form, what attention sees, which activation gates.
//!
//! The parts (`crate::parts`) read a spec once a layer or once a model and choose their loops by it; the engines order
//! the parts. A family (`super::families`) makes a spec of its `config.json`. Sizes are in [`super::config`].

use crate::activation::Activation;
use crate::rope::{Rope, RopeScaling};

/// A norm by the root mean square of a row: `x / sqrt(mean(x^2) + eps) * (offset + weight)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NormSpec {
    /// What is added to the mean square.
    pub eps: f64,
    /// What is added to a stored weight to give the gain: 0, or 1 in families whose weights begin as zeros (Gemma).
    pub offset: f32,
}

impl NormSpec {
    /// A norm whose stored weights are its gains.
    #[must_use]
    pub const fn rms(eps: f64) -> Self {
        Self { eps, offset: 0.0 }
    }
}

/// The second half of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward {
    /// `down(activation(gate(x)) * up(x))`.
    Gated(Activation),
}

/// Experts in the place of the one feed-forward part of some layers: each is a part of [`BlockSpec::feed_forward`]'s
/// form, and a token goes through the few that the router gives the highest probabilities.
///
/// The router is computed in f32 at every precision of the weights. The auxiliary loss that balances the load of experts
/// in pre-training is not part of a model here, and not added in training.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpertsSpec {
    /// How many a layer has.
    pub count: usize,
    /// How many of them a token goes through.
    pub chosen: usize,
    /// Width inside one of them.
    pub intermediate: usize,
    /// Whether the probabilities of those that a token goes through are divided by their sum.
    pub normalised: bool,
    /// Whether the layers have experts, in their order; a list that is shorter than the model begins again.
    pub layers: Vec<bool>,
}

/// One transformer block; all blocks of a model have this form, but for experts in some.
///
/// Both halves read a norm of the residual stream and are added to it, after a norm of their own where there is one.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSpec {
    /// The norm before attention.
    pub input_norm: NormSpec,
    /// The norm of every query and key head before it is rotated, in families that have one.
    pub query_key_norm: Option<NormSpec>,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub output_bias: bool,
    /// What scores are multiplied by; `None` stands for `1 / sqrt(D)`.
    pub attention_scale: Option<f64>,
    /// The norm of attention's output before it is added, in families that have one.
    pub attention_output_norm: Option<NormSpec>,
    /// The norm before the feed-forward part.
    pub feed_forward_norm: NormSpec,
    /// The feed-forward part.
    pub feed_forward: FeedForward,
    /// The norm of the feed-forward part's output before it is added, in families that have one.
    pub feed_forward_output_norm: Option<NormSpec>,
    /// What both halves are multiplied by before they are added, in families that do (Granite).
    pub residual_scale: Option<f32>,
}

impl BlockSpec {
    /// The block of Llama, with one epsilon for all norms: what most families change a little.
    #[must_use]
    pub const fn llama(eps: f64) -> Self {
        Self {
            input_norm: NormSpec::rms(eps),
            query_key_norm: None,
            qkv_bias: false,
            output_bias: false,
            attention_scale: None,
            attention_output_norm: None,
            feed_forward_norm: NormSpec::rms(eps),
            feed_forward: FeedForward::Gated(Activation::Silu),
            feed_forward_output_norm: None,
            residual_scale: None,
        }
    }

    /// Every norm that the block has, with its name for messages.
    pub fn norms(&self) -> impl Iterator<Item = (&'static str, NormSpec)> {
        [
            ("input_norm", Some(self.input_norm)),
            ("query_key_norm", self.query_key_norm),
            ("attention_output_norm", self.attention_output_norm),
            ("feed_forward_norm", Some(self.feed_forward_norm)),
            ("feed_forward_output_norm", self.feed_forward_output_norm),
        ]
        .into_iter()
        .filter_map(|(name, norm)| Some((name, norm?)))
    }
}

/// What attention is in a layer beside what all layers have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionVariant {
    /// How many positions a token sees, itself included; `None` where it sees all before it.
    pub window: Option<usize>,
    /// Rotary frequencies, which may be [`RopeScaling::Absent`].
    pub rope: Rope,
}

/// A whole decoder but for its sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// What rows of the embedding are multiplied by; the head reads them as they are.
    pub embedding_scale: Option<f32>,
    /// The form of every block.
    pub block: BlockSpec,
    /// Experts, in models that have some.
    pub experts: Option<ExpertsSpec>,
    /// Attention of the layers in their order; a list that is shorter than the model begins again.
    pub attention: Vec<AttentionVariant>,
    /// The norm before the head.
    pub final_norm: NormSpec,
    /// What logits are divided by, in families that do (Granite).
    pub logits_divisor: Option<f32>,
}

impl ModelSpec {
    /// Blocks of Llama with one kind of attention.
    #[must_use]
    pub fn llama(eps: f64, rope: Rope) -> Self {
        Self {
            embedding_scale: None,
            block: BlockSpec::llama(eps),
            experts: None,
            attention: vec![AttentionVariant { window: None, rope }],
            final_norm: NormSpec::rms(eps),
            logits_divisor: None,
        }
    }

    /// Attention of a layer.
    pub fn attention_of(&self, layer: usize) -> &AttentionVariant {
        &self.attention[layer % self.attention.len()]
    }

    /// The experts of a layer.
    pub fn experts_of(&self, layer: usize) -> Option<&ExpertsSpec> {
        self.experts.as_ref().filter(|experts| experts.layers[layer % experts.layers.len()])
    }

    /// The frequencies of the first layer that rotates; of the first one where none does.
    pub fn rope(&self) -> &Rope {
        let rotated = self.attention.iter().find(|variant| variant.rope.scaling != RopeScaling::Absent);
        &rotated.unwrap_or(&self.attention[0]).rope
    }

    /// What the product with the head is divided by at a sampling temperature: the family's own divisor is one more
    /// temperature.
    pub fn head_temperature(&self, temperature: f64) -> f64 {
        self.logits_divisor.map_or(temperature, |divisor| temperature * f64::from(divisor))
    }

    /// The different rotary frequencies of the model: tables of angles are made of these.
    pub fn ropes(&self) -> Vec<&Rope> {
        let mut ropes: Vec<&Rope> = Vec::new();
        for variant in &self.attention {
            if !ropes.contains(&&variant.rope) {
                ropes.push(&variant.rope);
            }
        }
        ropes
    }

    /// Which of [`ModelSpec::ropes`] a layer has.
    pub fn rope_of(&self, layer: usize) -> usize {
        let own = &self.attention_of(layer).rope;
        self.ropes()
            .iter()
            .position(|rope| *rope == own)
            .expect("a layer's frequencies are among the model's")
    }
}
