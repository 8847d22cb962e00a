//! Which form the tensor operations take: an engine says it, and no operation asks a tensor where it lies.

use std::sync::Arc;

use burn::tensor::Tensor;

use crate::activation::{Activation, gated, gated_plain};
use crate::attention::{Attended, AttentionRows, attention, attention_plain};
use crate::flex;
use crate::logprob::{
    logits_gradient, logits_gradient_plain, row_statistics, row_statistics_plain, target_logprobs,
    target_logprobs_plain,
};
use crate::norm::{rms_norm, rms_norm_plain};
use crate::rotary::{Angles, rotate, rotate_plain};
use crate::update::adafactor::{Adafactor, SecondMoment};
use crate::update::blocks::MomentBlocks;
use crate::update::{AdamW, descend_on_slices, descend_on_tensors, squares_on_slices, squares_on_tensors};

/// The form of the tensor operations. Both compute the same; their roundings differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operations {
    /// Kernels of this crate, one pass over memory each; for tensors of burn's CPU backend, and no others.
    Fused,
    /// Burn's own operations, on any device.
    Plain,
}

/// What an optimizer does to tensors.
impl Operations {
    /// Zeros of the same shape on the same device.
    #[must_use]
    pub fn zeros_like(self, tensor: &Tensor<2>) -> Tensor<2> {
        match self {
            Self::Fused => flex::new_zeros(tensor.shape()),
            Self::Plain => tensor.zeros_like(),
        }
    }

    /// Zeros of the same shape, where possible in the same memory.
    #[must_use]
    pub fn into_zeros(self, tensor: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Fused => flex::into_zeros(tensor),
            Self::Plain => tensor.zeros_like(),
        }
    }

    /// Moves a parameter one update of AdamW along its gradient. Returns a tensor of its shape whose numbers nobody needs:
    /// the next gradient can have its memory.
    ///
    /// # Shapes
    /// All are of the parameter's shape.
    #[must_use]
    pub fn adamw(
        self,
        rule: &AdamW,
        weight: &mut Tensor<2>,
        gradient: Tensor<2>,
        moments: (&mut Tensor<2>, &mut Tensor<2>),
    ) -> Tensor<2> {
        match self {
            Self::Fused => rule.on_slices(weight, gradient, moments),
            Self::Plain => rule.on_tensors(weight, gradient, moments),
        }
    }

    /// [`Operations::adamw`] with moments in 8 bits, which only the fused form has.
    ///
    /// # Shapes
    /// Both are of the parameter's shape, the moments of as many numbers.
    ///
    /// # Panics
    /// In plain form.
    #[must_use]
    pub fn adamw_in_blocks(
        self,
        rule: &AdamW,
        weight: &mut Tensor<2>,
        gradient: Tensor<2>,
        moments: &mut MomentBlocks,
    ) -> Tensor<2> {
        assert_eq!(self, Self::Fused, "moments in 8 bits are slices of the CPU");
        rule.on_blocks(weight, gradient, moments)
    }

    /// Moves a parameter one update of Adafactor along its gradient. Returns what is left over, as [`Operations::adamw`]
    /// does.
    ///
    /// # Shapes
    /// Both are of the parameter's shape.
    #[must_use]
    pub fn adafactor(
        self,
        rule: &Adafactor,
        weight: &mut Tensor<2>,
        gradient: Tensor<2>,
        moment: &mut SecondMoment,
    ) -> Tensor<2> {
        match self {
            Self::Fused => rule.on_slices(weight, gradient, moment),
            Self::Plain => rule.on_tensors(weight, gradient, moment),
        }
    }

    /// Moves a parameter down its gradient: `weight * kept - gradient * factor`. Returns what is left over, as
    /// [`Operations::adamw`] does.
    ///
    /// # Shapes
    /// Both are of the parameter's shape.
    #[must_use]
    pub fn descend(self, weight: &mut Tensor<2>, gradient: Tensor<2>, kept: f64, factor: f64) -> Tensor<2> {
        match self {
            Self::Fused => descend_on_slices(weight, &gradient, kept, factor),
            Self::Plain => descend_on_tensors(weight, &gradient, kept, factor),
        }
        gradient
    }

    /// The sum of the squares of each tensor's numbers, with one read from the device. A sum is not finite where a
    /// number is not, or where its square is too large for `f32`.
    ///
    /// # Panics
    /// If there is no tensor.
    #[must_use]
    pub fn sums_of_squares(self, tensors: &[&Tensor<2>]) -> Vec<f64> {
        match self {
            Self::Fused => squares_on_slices(tensors),
            Self::Plain => squares_on_tensors(tensors),
        }
    }
}

/// What a model is computed with; the shapes are those of the operations named.
impl Operations {
    /// [`rms_norm`].
    pub(crate) fn rms_norm(self, x: Tensor<2>, gain: Tensor<2>, eps: f64) -> Tensor<2> {
        match self {
            Self::Fused => rms_norm(x, gain, eps),
            Self::Plain => rms_norm_plain(x, gain, eps),
        }
    }

    /// [`rotate`].
    pub(crate) fn rotate(self, x: Tensor<3>, angles: &Angles) -> Tensor<3> {
        match self {
            Self::Fused => rotate(x, angles),
            Self::Plain => rotate_plain(x, angles),
        }
    }

    /// [`gated`].
    pub(crate) fn gated(self, gate: Tensor<2>, up: Tensor<2>, activation: Activation) -> Tensor<2> {
        match self {
            Self::Fused => gated(gate, up, activation),
            Self::Plain => gated_plain(gate, up, activation),
        }
    }

    /// [`attention`].
    pub(crate) fn attention(
        self,
        query: Tensor<3>,
        key: Tensor<3>,
        value: Tensor<3>,
        spans: &Arc<[AttentionRows]>,
    ) -> Tensor<3> {
        match self {
            Self::Fused => attention(query, key, value, spans),
            Self::Plain => attention_plain(query, key, value, spans),
        }
    }

    /// [`Attended::forward`].
    pub(crate) fn attended(
        self,
        query: Tensor<3>,
        keys_values: (&Tensor<3>, &Tensor<3>),
        spans: Arc<[AttentionRows]>,
    ) -> Attended {
        match self {
            Self::Fused => Attended::forward(query, keys_values, spans),
            Self::Plain => Attended::plain(query, keys_values, spans),
        }
    }

    /// [`target_logprobs`].
    pub(crate) fn target_logprobs(
        self,
        logits: Tensor<2>,
        targets: &Arc<[u32]>,
        temperature: f64,
    ) -> Tensor<2> {
        match self {
            Self::Fused => target_logprobs(logits, targets, temperature),
            Self::Plain => target_logprobs_plain(logits, targets, temperature),
        }
    }

    /// [`row_statistics`].
    pub(crate) fn row_statistics(
        self,
        logits: Tensor<2>,
        targets: &Arc<[u32]>,
        temperature: f64,
    ) -> (Vec<f32>, Vec<f32>) {
        match self {
            Self::Fused => row_statistics(logits, targets, temperature),
            Self::Plain => row_statistics_plain(logits, targets, temperature),
        }
    }

    /// [`logits_gradient`].
    pub(crate) fn logits_gradient(
        self,
        logits: Tensor<2>,
        targets: &Arc<[u32]>,
        dloss_dlogprob: Tensor<2>,
        temperature: f64,
    ) -> Tensor<2> {
        match self {
            Self::Fused => logits_gradient(logits, targets, dloss_dlogprob, temperature),
            Self::Plain => logits_gradient_plain(logits, targets, dloss_dlogprob, temperature),
        }
    }
}
