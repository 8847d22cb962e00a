//! The one form of a projection on the CPU: stored numbers, a bias where there is one, and a low-rank adapter where
//! one is trained.
//!
//! A product with an adapter is `x W^T + s (x A^T) B^T`: the stored matrix stays as it is, so that its packed form serves
//! every adapter, and `W + s B A` is made nowhere. What the gradients of adapters are is said by [`super::gradients`].

use std::sync::Arc;

use burn::tensor::Tensor;

use super::numbers::{Numbers, PackedRows};
use super::weights::Weights;
use crate::flex::Rows;
use crate::gemm::{PackedMatrix, add_multiply, multiply};
use crate::panel::Left;
use crate::rows::add_bias;

/// What a trained adapter adds to a matrix `[out, in]`: `scale B A` (LoRA, arXiv 2106.09685).
#[derive(Clone, Debug)]
pub struct LowRank<T = Tensor<2>> {
    /// `[rank, in]`.
    pub a: T,
    /// `[out, rank]`.
    pub b: T,
    /// `alpha / rank`, or `alpha / sqrt(rank)` (arXiv 2312.03732).
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
    stored: Numbers,
    pub(crate) bias: Option<Rows>,
    pub(crate) adapter: Option<LowRank<Rows>>,
    /// Length of a row of the matrix.
    inner: usize,
}

impl Linear {
    pub(crate) fn new(
        stored: Numbers,
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
        self.stored.len() / self.inner
    }

    /// The packed factor that it is a part of, beside other projections or alone.
    ///
    /// # Panics
    /// If its matrix is not packed.
    pub(crate) fn factor(&self) -> Arc<PackedMatrix> {
        match &self.stored {
            Numbers::Packed(PackedRows { factor, .. }) => Arc::clone(factor),
            Numbers::Rows(_) => panic!("decoding reads matrices that are packed"),
        }
    }

    /// The right factors of `x W^T`.
    pub(crate) fn forward(&self) -> Factors {
        let (inner, outputs) = (self.inner, self.outputs());
        let thin = self.adapter.as_ref().map(|LowRank { a, b, scale }| {
            let rank = a.slice().len() / inner;
            Thin {
                first: PackedMatrix::transposed(a.slice(), inner, rank),
                second: PackedMatrix::transposed(b.slice(), rank, outputs),
                scale: *scale as f32,
            }
        });
        Factors { stored: self.stored.right_factor(inner), thin }
    }

    /// The right factors of `dy W`.
    pub(crate) fn backward(&self) -> Factors {
        let (inner, outputs) = (self.inner, self.outputs());
        let thin = self.adapter.as_ref().map(|LowRank { a, b, scale }| {
            let rank = a.slice().len() / inner;
            Thin {
                first: PackedMatrix::rows(b.slice(), outputs, rank),
                second: PackedMatrix::rows(a.slice(), rank, inner),
                scale: *scale as f32,
            }
        });
        Factors { stored: PackedMatrix::rows(&self.stored.all(), outputs, inner), thin }
    }

    /// Adds the bias to rows of results, if there is one.
    pub(crate) fn add_bias(&self, y: &mut [f32]) {
        add_bias(y, self.bias.as_ref().map(Rows::slice));
    }
}

/// A projection as the right factor of its products, in one direction.
pub(crate) struct Factors {
    stored: PackedMatrix,
    thin: Option<Thin>,
}

/// The two matrices of an adapter in the order in which rows go through them.
struct Thin {
    first: PackedMatrix,
    second: PackedMatrix,
    /// Of the rows between them.
    scale: f32,
}

impl Factors {
    /// `y = x W^T`, or `dy W`.
    ///
    /// # Shapes
    /// `left` and `y` are row-major, `[rows, in]` and `[rows, out]`, or the other way round.
    pub(crate) fn multiply(&self, rows: usize, left: &[f32], y: &mut [f32]) {
        multiply(rows, Left::Rows(left, self.stored.inner()), &self.stored, y);
        self.add_thin(rows, left, y);
    }

    /// Adds the product to `y`, otherwise as [`Factors::multiply`].
    pub(crate) fn add_multiply(&self, rows: usize, left: &[f32], y: &mut [f32]) {
        add_multiply(rows, Left::Rows(left, self.stored.inner()), &self.stored, y);
        self.add_thin(rows, left, y);
    }

    fn add_thin(&self, rows: usize, left: &[f32], y: &mut [f32]) {
        let Some(Thin { first, second, scale }) = &self.thin else { return };
        let mut between = vec![0.0; rows * first.columns()];
        multiply(rows, Left::Rows(left, first.inner()), first, &mut between);
        between.iter_mut().for_each(|number| *number *= scale);
        add_multiply(rows, Left::Rows(&between, second.inner()), second, y);
    }
}
