//! The second half of a block, whichever form it has: one gated part, or a router and experts.

use burn::tensor::Tensor;

use super::TensorForm;
use super::experts::{Experts, ExpertsBackward, ExpertsForward, PackedExperts};
use super::gated::{Gated, GatedBackward, GatedForward, PackedGated};
use super::norm::normed;
use super::residual::{Joint, scaled};
use crate::model::weights::{Block, FeedForwardWeights};

impl Block<Tensor<2>> {
    /// The second half of the block, with its residual.
    ///
    /// # Shapes
    /// `x` and the result `[N, hidden]`.
    pub(crate) fn feed_forward(&self, x: Tensor<2>, form: TensorForm<'_>) -> Tensor<2> {
        let (spec, operations) = (&form.config.spec.block, form.operations);
        let input = normed(x.clone(), &self.feed_forward_norm, spec.feed_forward_norm, operations);
        let output = match &self.feed_forward {
            FeedForwardWeights::Gated(gated) => gated.output(input, form),
            FeedForwardWeights::Experts(experts) => experts.output(input, form),
        };
        let norm = self.feed_forward_output_norm.as_ref().zip(spec.feed_forward_output_norm);
        let output = match norm {
            Some((weight, spec)) => normed(output, weight, spec, operations),
            None => output,
        };
        x + scaled(output, spec)
    }
}

/// The half on slices.
#[allow(clippy::large_enum_variant, reason = "there is one in a layer")]
pub(crate) enum FeedForwardSlices {
    Gated(Gated),
    Experts(Experts),
}

impl FeedForwardSlices {
    /// How the half joins the residual stream.
    pub(crate) fn joint(&self) -> &Joint {
        match self {
            Self::Gated(gated) => &gated.joint,
            Self::Experts(experts) => &experts.joint,
        }
    }

    /// What the forward pass needs.
    pub(crate) fn forward_weights(&self) -> ForwardFactors {
        match self {
            Self::Gated(gated) => ForwardFactors::Gated(gated.forward_weights()),
            Self::Experts(experts) => ForwardFactors::Experts(experts.forward_weights()),
        }
    }

    /// What the backward pass needs to compute again what was not kept.
    pub(crate) fn again_weights(&self) -> ForwardFactors {
        match self {
            Self::Gated(gated) => ForwardFactors::Gated(gated.again_weights()),
            Self::Experts(experts) => ForwardFactors::Experts(experts.again_weights()),
        }
    }

    pub(crate) fn backward_weights(&self) -> BackwardFactors {
        match self {
            Self::Gated(gated) => BackwardFactors::Gated(gated.backward_weights()),
            Self::Experts(experts) => BackwardFactors::Experts(experts.backward_weights()),
        }
    }
}

/// Why factors have the form of their half.
const OF_ONE_HALF: &str = "a half and its factors have one form";

/// The half's weights as right factors of `x w^T`.
#[allow(clippy::large_enum_variant, reason = "there is one in a layer")]
pub(crate) enum ForwardFactors {
    Gated(GatedForward),
    Experts(ExpertsForward),
}

impl ForwardFactors {
    /// Of a gated part.
    pub(crate) fn gated(&self) -> &GatedForward {
        let Self::Gated(gated) = self else { unreachable!("{OF_ONE_HALF}") };
        gated
    }

    /// Of experts.
    pub(crate) fn experts(&self) -> &ExpertsForward {
        let Self::Experts(experts) = self else { unreachable!("{OF_ONE_HALF}") };
        experts
    }
}

/// The half's weights as right factors of `dy w`.
#[allow(clippy::large_enum_variant, reason = "there is one in a layer")]
pub(crate) enum BackwardFactors {
    Gated(GatedBackward),
    Experts(ExpertsBackward),
}

impl BackwardFactors {
    /// Of a gated part.
    pub(crate) fn gated(&self) -> &GatedBackward {
        let Self::Gated(gated) = self else { unreachable!("{OF_ONE_HALF}") };
        gated
    }

    /// Of experts.
    pub(crate) fn experts(&self) -> &ExpertsBackward {
        let Self::Experts(experts) = self else { unreachable!("{OF_ONE_HALF}") };
        experts
    }
}

/// The half as decoding reads it.
#[allow(clippy::large_enum_variant, reason = "there is one in a layer")]
pub(crate) enum PackedFeedForward {
    Gated(PackedGated),
    Experts(PackedExperts),
}
