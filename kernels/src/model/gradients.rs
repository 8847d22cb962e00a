//! Where gradients are added: to one number a parameter, or to the adapters of some projections alone.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::linear::{Adapters, Linear, LowRank};
use super::weights::Weights;
use crate::flex::{Sum, take};
use crate::gemm::{PackedMatrix, multiply};
use crate::panel::Left;
use crate::rows::{TASK_BLOCKS, WeightGradient, add_columns, add_row_sums, add_weight_gradients, block_rows};

/// What a backward pass adds to. What is trained need not be what is stored.
pub enum GradientSink<'a> {
    /// Every parameter has a gradient.
    Full(&'a mut Weights<Tensor<2>>),
    /// Only the decoder's adapters have; the sums have their form. On the CPU no gradient of a whole matrix is made.
    LowRank(&'a mut Adapters),
}

impl<'a> From<&'a mut Weights<Tensor<2>>> for GradientSink<'a> {
    fn from(sums: &'a mut Weights<Tensor<2>>) -> Self {
        Self::Full(sums)
    }
}

impl<'a> From<&'a mut Adapters> for GradientSink<'a> {
    fn from(sums: &'a mut Adapters) -> Self {
        Self::LowRank(sums)
    }
}

impl Adapters {
    /// Zeros of the same shapes: where their gradients are summed.
    #[must_use]
    pub fn zeros_like(&self) -> Self {
        self.map(|_, adapter| adapter.as_ref().map(|adapter| adapter.map(Tensor::zeros_like)))
    }

    /// Adds what the gradients of whole matrices say of these adapters' gradients: `dB += s dW A^T`,
    /// `dA += s B^T dW`, with `s` the adapters' scale.
    ///
    /// # Shapes
    /// A `[rank, in]`, B `[out, rank]`, dW `[out, in]`; the sums are as A and B.
    pub(crate) fn add_projected(&mut self, adapters: &Adapters, gradients: &Weights<Tensor<2>>) {
        let (adapters, gradients) = (adapters.named(), gradients.named());
        // Optional parameters are in the same places of all three.
        for ((sum, (_, adapter)), (_, gradient)) in self.values_mut().into_iter().zip(adapters).zip(gradients)
        {
            if let (Some(sum), Some(LowRank { a, b, scale })) = (sum, adapter) {
                let gradient = gradient.clone().mul_scalar(*scale);
                sum.b = take(&mut sum.b) + gradient.clone().matmul(a.clone().transpose());
                sum.a = take(&mut sum.a) + b.clone().transpose().matmul(gradient);
            }
        }
    }
}

/// Where the gradient of one parameter goes on the CPU.
pub(crate) enum GradientSum {
    Full(Sum),
    LowRank(LowRank<Sum>),
    /// Nowhere: it is not trained.
    Frozen,
}

impl GradientSum {
    /// Takes the tensors out of their container, which holds nothing until [`GradientSum::give_back`].
    pub(crate) fn take_all(sink: &mut GradientSink<'_>) -> Weights<Self> {
        match sink {
            GradientSink::Full(sums) => {
                let mut taken = sums.values_mut().into_iter().map(Sum::take).collect::<Vec<_>>().into_iter();
                sums.in_order(|| Self::Full(taken.next().expect("one sum a parameter")))
            }
            GradientSink::LowRank(sums) => {
                let take_one = |adapter: &mut LowRank| {
                    let (a, b) = (Sum::take(&mut adapter.a), Sum::take(&mut adapter.b));
                    Self::LowRank(LowRank { a, b, scale: adapter.scale })
                };
                let taken = sums.values_mut().into_iter().map(|adapter| match adapter {
                    Some(adapter) => take_one(adapter),
                    None => Self::Frozen,
                });
                let mut taken = taken.collect::<Vec<_>>().into_iter();
                sums.in_order(|| taken.next().expect("one sum a parameter"))
            }
        }
    }

    /// Puts the tensors back.
    pub(crate) fn give_back(mut sums: Weights<Self>, sink: &mut GradientSink<'_>) {
        let taken = sums.values_mut().into_iter().map(|sum| std::mem::replace(sum, Self::Frozen));
        match sink {
            GradientSink::Full(places) => {
                for (place, sum) in places.values_mut().into_iter().zip(taken) {
                    if let Self::Full(sum) = sum {
                        *place = sum.into_tensor();
                    }
                }
            }
            GradientSink::LowRank(places) => {
                for (place, sum) in places.values_mut().into_iter().zip(taken) {
                    if let (Some(place), Self::LowRank(LowRank { a, b, .. })) = (place, sum) {
                        (place.a, place.b) = (a.into_tensor(), b.into_tensor());
                    }
                }
            }
        }
    }

    /// The numbers of a parameter that is trained as a whole.
    pub(crate) fn full(&mut self) -> Option<&mut [f32]> {
        match self {
            Self::Full(sum) => Some(sum.slice_mut()),
            Self::LowRank(_) | Self::Frozen => None,
        }
    }

    /// Adds to the gradient of a norm.
    pub(crate) fn add(&mut self, gradient: &[f32]) {
        if let Some(sum) = self.full() {
            add_columns(sum, gradient);
        }
    }

    /// Adds the sum of all rows: the gradient of a bias.
    pub(crate) fn add_rows(&mut self, rows: &[f32]) {
        if let Some(sum) = self.full() {
            add_row_sums(sum, rows);
        }
    }
}

/// What is added to the gradient of a projection: `dy^T x`, or what it means for the projection's adapter.
pub(crate) struct ProjectionGradient<'a> {
    pub(crate) sum: &'a mut GradientSum,
    pub(crate) linear: &'a Linear,
    /// `[rows, out]`.
    pub(crate) dy: &'a [f32],
    /// `[rows, in]`.
    pub(crate) x: &'a [f32],
    /// The same as a right factor.
    pub(crate) packed: &'a PackedMatrix,
}

/// Adds to the gradients of some projections at once.
pub(crate) fn add_projection_gradients<const N: usize>(gradients: [ProjectionGradient<'_>; N]) {
    let between = gradients.each_ref().map(LowRankRows::of);
    let mut products = Vec::with_capacity(2 * N);
    for (ProjectionGradient { sum, linear, dy, packed, .. }, between) in gradients.into_iter().zip(&between) {
        match (sum, between) {
            (GradientSum::Full(sum), _) => {
                products.push(WeightGradient { sum: sum.slice_mut(), dy, out: linear.outputs(), x: packed });
            }
            (GradientSum::LowRank(sum), Some(LowRankRows { rank, xa, dyb })) => {
                // `dB += dy^T (s x A^T)`, `dA += (s dy B)^T x`.
                products.push(WeightGradient { sum: sum.b.slice_mut(), dy, out: linear.outputs(), x: xa });
                products.push(WeightGradient { sum: sum.a.slice_mut(), dy: dyb, out: *rank, x: packed });
            }
            (GradientSum::LowRank(_) | GradientSum::Frozen, _) => {}
        }
    }
    add_weight_gradients(products);
}

/// Rows between the two matrices of an adapter, times its scale.
struct LowRankRows {
    rank: usize,
    /// `scale x A^T`, `[rows, rank]`.
    xa: PackedMatrix,
    /// `scale dy B`, `[rows, rank]`.
    dyb: Vec<f32>,
}

impl LowRankRows {
    /// Of a projection whose adapter is trained.
    fn of(gradient: &ProjectionGradient<'_>) -> Option<Self> {
        let ProjectionGradient { sum: GradientSum::LowRank(_), linear, dy, x, .. } = gradient else {
            return None;
        };
        let LowRank { a, b, scale } = linear.adapter.as_ref()?;
        let (inner, outputs, scale) = (linear.inner(), linear.outputs(), *scale as f32);
        let (rank, rows) = (a.slice().len() / inner, x.len() / inner);
        let xa = scaled_rows(x, &PackedMatrix::transposed(a.slice(), inner, rank), scale);
        let dyb = scaled_rows(dy, &PackedMatrix::rows(b.slice(), outputs, rank), scale);
        Some(Self { rank, xa: PackedMatrix::rows(&xa, rows, rank), dyb })
    }
}

/// `scale left right`, by blocks of rows.
fn scaled_rows(left: &[f32], right: &PackedMatrix, scale: f32) -> Vec<f32> {
    let (inner, columns) = (right.inner(), right.columns());
    let rows = left.len() / inner;
    let each = block_rows(rows);
    let mut product = vec![0.0; rows * columns];
    let blocks = product.par_chunks_mut(each * columns).zip(left.par_chunks(each * inner));
    blocks.with_max_len(TASK_BLOCKS).for_each(|(product, left)| {
        multiply(left.len() / inner, Left::Rows(left, inner), right, product);
        product.iter_mut().for_each(|number| *number *= scale);
    });
    product
}
