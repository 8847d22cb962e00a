//! Norms by the root mean square: what a spec says of one meets its weight, in tensors and on slices.
//!
//! A weight to which the spec adds an offset is added up once a pass, so that the loops over rows know gains only.
//! The gradient by a gain is that by its weight. The arithmetic of a row is in [`crate::norm`].

use burn::tensor::Tensor;

use crate::flex::Rows;
use crate::model::spec::NormSpec;
use crate::norm::{forward_row_in_place, norm_rows, norm_rows_backward, norm_rows_in_place};
use crate::operations::Operations;

/// A norm of the rows of a tensor.
///
/// # Shapes
/// `x` `[N, H]`, `weight` `[1, H]`; the result is `[N, H]`.
pub(crate) fn normed(x: Tensor<2>, weight: &Tensor<2>, spec: NormSpec, operations: Operations) -> Tensor<2> {
    let gain = if spec.offset == 0.0 { weight.clone() } else { weight.clone().add_scalar(spec.offset) };
    operations.rms_norm(x, gain, spec.eps)
}

/// A norm of rows on the CPU.
pub(crate) struct Norm {
    /// The parameter.
    weight: Rows,
    /// The parameter and the offset of the spec, where there is one.
    shifted: Option<Vec<f32>>,
    eps: f64,
}

impl Norm {
    pub(crate) fn new(weight: Rows, spec: NormSpec) -> Self {
        let shifted = || weight.slice().iter().map(|weight| weight + spec.offset).collect();
        let shifted = (spec.offset != 0.0).then(shifted);
        Self { weight, shifted, eps: spec.eps }
    }

    /// What normed rows are multiplied by.
    #[inline(always)]
    pub(crate) fn gain(&self) -> &[f32] {
        self.shifted.as_deref().unwrap_or_else(|| self.weight.slice())
    }

    /// `y` is the norm of each row of `x`.
    pub(crate) fn forward(&self, x: &[f32], y: &mut [f32]) {
        norm_rows(x, self.gain(), self.eps, y);
    }

    /// The norm of each row, in place.
    pub(crate) fn forward_in_place(&self, x: &mut [f32]) {
        norm_rows_in_place(x, self.gain(), self.eps);
    }

    /// The norm of one row, in place, for a caller that has chosen the instruction set.
    #[inline(always)]
    pub(crate) fn row_in_place(&self, x: &mut [f32]) {
        forward_row_in_place(x, self.gain(), self.eps);
    }

    /// Replaces the gradients of norms by those of their inputs `x`, and adds to the gradient of the weight.
    pub(crate) fn backward(&self, x: &[f32], dy: &mut [f32], dweight: &mut [f32]) {
        norm_rows_backward(x, self.gain(), self.eps, dy, dweight);
    }
}
