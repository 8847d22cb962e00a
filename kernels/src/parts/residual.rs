//! How a half of a block joins the residual stream on the CPU: its last projection, a norm where the family has one,
//! and the sum.

use super::norm::Norm;
use crate::model::linear::{Factors, Linear};
use crate::rows::add_columns;

/// The end of a half of a block.
#[derive(Clone, Copy)]
pub(crate) struct Join<'a> {
    /// The last projection.
    pub(crate) linear: &'a Linear,
    /// The same as the right factor of `left W^T`.
    pub(crate) weight: &'a Factors,
    /// The norm of its result.
    pub(crate) norm: Option<&'a Norm>,
}

impl Join<'_> {
    /// Adds `norm(left W^T + bias)` to rows of the residual stream.
    pub(crate) fn add(self, rows: usize, left: &[f32], x: &mut [f32]) {
        let Some(norm) = self.norm else {
            self.weight.add_multiply(rows, left, x);
            self.linear.add_bias(x);
            return;
        };
        let mut y = self.projected(rows, left);
        norm.forward_in_place(&mut y);
        add_columns(x, &y);
    }

    /// From the gradient of the residual stream to that of the projection's result, in place: through the norm, if
    /// there is one, to the gradient of whose weight is added.
    pub(crate) fn backward(self, left: &[f32], dy: &mut [f32], dweight: &mut [f32]) {
        if let Some(norm) = self.norm {
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
