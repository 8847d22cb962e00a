//! The one form of a projection on the CPU: stored numbers, a bias where there is one, and a low-rank adapter where
//! one is trained.
//!
//! Whoever packs a projection gets `W + scale B A`, so that no engine knows of adapters; what their gradients are is
//! said by [`super::gradients`].

use std::borrow::Cow;

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::weights::Weights;
use crate::flex::Rows;
use crate::gemm::{PackedMatrix, add_multiply};
use crate::panel::Left;
use crate::rows::add_bias;

/// What a trained adapter adds to a matrix `[out, in]`: `scale B A` (LoRA, arXiv 2106.09685).
#[derive(Clone, Debug)]
pub struct LowRank<T = Tensor<2>> {
    /// `[rank, in]`.
    pub a: T,
    /// `[out, rank]`.
    pub b: T,
    /// `alpha / rank`.
    pub scale: f64,
}

impl<T> LowRank<T> {
    /// The same form with other values.
    pub fn map<U>(&self, mut make: impl FnMut(&T) -> U) -> LowRank<U> {
        LowRank { a: make(&self.a), b: make(&self.b), scale: self.scale }
    }
}

/// An adapter for every projection that has one. Norms, biases, embedding and head have none.
pub type Adapters<T = Tensor<2>> = Weights<Option<LowRank<T>>>;

impl LowRank {
    /// `scale B A`.
    ///
    /// # Shapes
    /// `a` `[rank, in]`, `b` `[out, rank]`; the result is `[out, in]`.
    pub(crate) fn product(&self) -> Tensor<2> {
        self.b.clone().matmul(self.a.clone()).mul_scalar(self.scale)
    }
}

/// A projection `y = x W^T + bias`.
pub(crate) struct Linear {
    stored: Rows,
    pub(crate) bias: Option<Rows>,
    pub(crate) adapter: Option<LowRank<Rows>>,
    /// Length of a row of the matrix.
    inner: usize,
}

impl Linear {
    pub(crate) fn new(
        stored: Rows,
        bias: Option<Rows>,
        adapter: Option<LowRank<Rows>>,
        inner: usize,
    ) -> Self {
        Self { stored, bias, adapter, inner }
    }

    /// Length of a row of the matrix.
    pub(crate) fn inner(&self) -> usize {
        self.inner
    }

    /// Numbers of a row of the result.
    pub(crate) fn outputs(&self) -> usize {
        self.stored.slice().len() / self.inner
    }

    /// The matrix that rows are multiplied with, `[out, in]`.
    pub(crate) fn weight(&self) -> Cow<'_, [f32]> {
        let stored = self.stored.slice();
        let Some(LowRank { a, b, scale }) = &self.adapter else { return Cow::Borrowed(stored) };
        let rank = a.slice().len() / self.inner;
        let scaled: Vec<f32> = a.slice().iter().map(|a| a * *scale as f32).collect();
        let scaled = PackedMatrix::rows(&scaled, rank, self.inner);
        let mut weight = stored.to_vec();
        weight.par_chunks_mut(self.inner).zip(b.slice().par_chunks(rank)).for_each(|(row, b)| {
            add_multiply(1, Left::Rows(b, rank), &scaled, row);
        });
        Cow::Owned(weight)
    }

    /// The right factor of `x W^T`.
    pub(crate) fn forward(&self) -> PackedMatrix {
        PackedMatrix::transposed(&self.weight(), self.inner, self.outputs())
    }

    /// The right factor of `dy W`.
    pub(crate) fn backward(&self) -> PackedMatrix {
        PackedMatrix::rows(&self.weight(), self.outputs(), self.inner)
    }

    /// Adds the bias to rows of results, if there is one.
    pub(crate) fn add_bias(&self, y: &mut [f32]) {
        add_bias(y, self.bias.as_ref().map(Rows::slice));
    }
}
