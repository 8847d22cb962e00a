//! The feed-forward part: `down(activation(gate(x)) * up(x))`, in tensors, on slices forward and backward, and packed
//! for decoding. The arithmetic of the activation is in [`crate::activation`].

use std::sync::Arc;

use burn::tensor::Tensor;

use super::TensorForm;
use super::linear::linear;
use super::residual::{Join, Joint};
use crate::activation::{Activation, backward_in_place, forward_in_place};
use crate::gemm::PackedMatrix;
use crate::model::linear::{Factors, Linear};
use crate::model::spec::FeedForward;
use crate::model::weights::GatedWeights;

impl GatedWeights<Tensor<2>> {
    /// What the part gives for normed rows.
    ///
    /// # Shapes
    /// `x` and the result `[N, hidden]`.
    pub(crate) fn output(&self, x: Tensor<2>, form: TensorForm<'_>) -> Tensor<2> {
        let FeedForward::Gated(activation) = form.config.spec.block.feed_forward;
        let gate = linear(x.clone(), &self.gate, None);
        let up = linear(x, &self.up, None);
        linear(form.operations.gated(gate, up, activation), &self.down, None)
    }
}

/// The part on slices.
pub(crate) struct Gated {
    pub(crate) gate: Linear,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
    pub(crate) joint: Joint,
    pub(crate) activation: Activation,
}

/// Its weights as right factors of `x w^T`.
pub(crate) struct GatedForward {
    gate: Factors,
    up: Factors,
    /// Only what goes on to the block's output needs it, and a norm of it on the way back.
    down: Option<Factors>,
}

/// Its weights as right factors of `dy w`.
pub(crate) struct GatedBackward {
    gate: Factors,
    up: Factors,
    down: Factors,
}

/// Rows of both projections. The gate becomes the activation on the way forward; both become their gradients on the
/// way back.
pub(crate) struct GateUp<'a> {
    pub(crate) gate: &'a mut [f32],
    pub(crate) up: &'a mut [f32],
}

impl Gated {
    /// What the forward pass needs.
    pub(crate) fn forward_weights(&self) -> GatedForward {
        GatedForward { down: Some(self.down.forward()), ..self.again_weights() }
    }

    /// What the backward pass needs to compute again what was not kept.
    pub(crate) fn again_weights(&self) -> GatedForward {
        let down = self.joint.norm.is_some().then(|| self.down.forward());
        GatedForward { gate: self.gate.forward(), up: self.up.forward(), down }
    }

    pub(crate) fn backward_weights(&self) -> GatedBackward {
        GatedBackward { gate: self.gate.backward(), up: self.up.backward(), down: self.down.backward() }
    }

    fn join<'a>(&'a self, weights: &'a GatedForward) -> Join<'a> {
        let weight = weights.down.as_ref().expect("the down projection is packed where it is computed");
        Join { linear: &self.down, weight, joint: &self.joint }
    }

    /// Both projections of normed rows.
    pub(crate) fn project(&self, weights: &GatedForward, rows: usize, x: &[f32], to: &mut GateUp<'_>) {
        weights.gate.multiply(rows, x, to.gate);
        weights.up.multiply(rows, x, to.up);
    }

    /// From both projections to the block's output: adds to rows of the residual stream.
    pub(crate) fn add_output(&self, weights: &GatedForward, rows: usize, on: &mut GateUp<'_>, x: &mut [f32]) {
        forward_in_place(on.gate, on.up, self.activation);
        self.join(weights).add(rows, on.gate, x);
    }

    /// From both projections to the down projection's result, of a part that has no norm or factor behind it.
    pub(crate) fn output(&self, weights: &GatedForward, on: &mut GateUp<'_>, y: &mut [f32]) {
        forward_in_place(on.gate, on.up, self.activation);
        self.join(weights).weight.multiply(on.gate.len() / self.down.inner(), on.gate, y);
    }

    /// From the gradient of the residual stream to that of the down projection's result, in place. `weights` are asked
    /// for, and `active` is written and read, where a norm is between them.
    pub(crate) fn joint_backward<'w>(
        &self,
        weights: impl Fn() -> &'w GatedForward,
        from: &GateUp<'_>,
        active: &mut [f32],
        dy: &mut [f32],
        dweight: &mut [f32],
    ) {
        self.joint.scale_gradient(dy);
        if self.joint.norm.is_some() {
            active.copy_from_slice(from.gate);
            forward_in_place(active, from.up, self.activation);
            self.join(weights()).backward(active, dy, dweight);
        }
    }

    /// From the gradient `dy` of the down projection's result to that of the normed rows, `dx`. Both projections
    /// become their gradients, and `active` what the down projection has seen; `dactive` is written and read.
    pub(crate) fn backward(
        &self,
        weights: &GatedBackward,
        dy: &[f32],
        on: &mut GateUp<'_>,
        active: &mut [f32],
        dactive: &mut [f32],
        dx: &mut [f32],
    ) {
        let rows = dy.len() / self.down.outputs();
        weights.down.multiply(rows, dy, dactive);
        backward_in_place(on.gate, on.up, dactive, active, self.activation);
        weights.gate.multiply(rows, on.gate, dx);
        weights.up.add_multiply(rows, on.up, dx);
    }
}

/// The part as decoding reads it.
pub(crate) struct PackedGated {
    pub(crate) gate: Arc<PackedMatrix>,
    pub(crate) up: Arc<PackedMatrix>,
    pub(crate) down: Arc<PackedMatrix>,
    pub(crate) joint: Joint,
    pub(crate) activation: Activation,
}
