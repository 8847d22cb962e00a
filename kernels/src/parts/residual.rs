//! How a half of a block joins the residual stream: its last projection, a norm and a factor where the family has them,
//! and the sum.

use burn::tensor::Tensor;

use super::norm::Norm;
use crate::model::linear::{Factors, Linear};
use crate::model::spec::BlockSpec;
use crate::rows::add_scaled_columns;

/// What a half gives, times the factor of the family.
///
/// # Shapes
/// `y` and the result `[N, hidden]`.
pub(crate) fn scaled(y: Tensor<2>, spec: &BlockSpec) -> Tensor<2> {
    match spec.residual_scale {
        Some(scale) => y.mul_scalar(scale),
        None => y,
    }
}

/// What happens to the result of a half before it is added.
pub(crate) struct Joint {
    pub(crate) norm: Option<Norm>,
    /// Behind the norm; 1 in families without a factor.
    pub(crate) scale: f32,
}

impl Joint {
    pub(crate) fn new(norm: Option<Norm>, spec: &BlockSpec) -> Self {
        Self { norm, scale: spec.residual_scale.unwrap_or(1.0) }
    }

    /// Whether the result is added as it is.
    pub(crate) fn is_plain(&self) -> bool {
        self.norm.is_none() && self.scale == 1.0
    }

    /// From the gradient of the residual stream to that of what the factor multiplies, in place.
    pub(crate) fn scale_gradient(&self, dy: &mut [f32]) {
        if self.scale != 1.0 {
            dy.iter_mut().for_each(|number| *number *= self.scale);
        }
    }
}

/// The end of a half of a block on the CPU.
#[derive(Clone, Copy)]
pub(crate) struct Join<'a> {
    /// The last projection.
    pub(crate) linear: &'a Linear,
    /// The same as the right factor of `left W^T`.
    pub(crate) weight: &'a Factors,
    pub(crate) joint: &'a Joint,
}

impl Join<'_> {
    /// Adds `scale norm(left W^T + bias)` to rows of the residual stream.
    pub(crate) fn add(self, rows: usize, left: &[f32], x: &mut [f32]) {
        if self.joint.is_plain() {
            self.weight.add_multiply(rows, left, x);
            self.linear.add_bias(x);
            return;
        }
        let mut y = self.projected(rows, left);
        if let Some(norm) = &self.joint.norm {
            norm.forward_in_place(&mut y);
        }
        add_scaled_columns(x, self.joint.scale, &y);
    }

    /// From the gradient of the norm's result to that of the projection's result, in place; adds to the gradient of the
    /// norm's weight.
    pub(crate) fn backward(self, left: &[f32], dy: &mut [f32], dweight: &mut [f32]) {
        if let Some(norm) = &self.joint.norm {
            let rows = dy.len() / self.linear.outputs();
            norm.backward(&self.projected(rows, left), dy, dweight);
        }
    }

    /// `left W^T + bias`.
    fn projected(self, rows: usize, left: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; rows * self.linear.outputs()];
        self.weight.multiply(rows, left, &mut y);
        self.linear.add_bias(&mut y);
        y
    }
}
