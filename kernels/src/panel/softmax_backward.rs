//! The softmax of a tile of scores and its derivative, in registers.

use pulp::{Simd, WithSimd};

use super::exp2;
use crate::simd;

/// What the backward pass knows of every column of its tiles.
#[derive(Clone, Copy)]
pub(crate) struct Columns<'a> {
    /// The log-sum-exp of the column's scores, in units of `ln 2`.
    pub(crate) log_sum_exp: &'a [f32],
    /// The common part of the gradients of its scores: the sum of all gradients times weights.
    pub(crate) delta: &'a [f32],
    /// How many keys of the tile it sees; `None` if every column sees all.
    pub(crate) seen: Option<&'a [f32]>,
}

/// The softmax of a tile and its derivative: turns scores, in units of `ln 2`, into weights, and the
/// gradients of the weights into those of the scores, `weight * (gradient - delta)`.
///
/// # Shapes
/// Both tiles `[keys, columns]`.
#[inline(never)]
pub(crate) fn softmax_backward(scores: &mut [f32], gradients: &mut [f32], columns: Columns<'_>) {
    simd::arch().dispatch(SoftmaxBackward { scores, gradients, columns });
}

struct SoftmaxBackward<'a> {
    scores: &'a mut [f32],
    gradients: &'a mut [f32],
    columns: Columns<'a>,
}

impl WithSimd for SoftmaxBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let log_sum_exp = S::as_simd_f32s(self.columns.log_sum_exp).0;
        let delta = S::as_simd_f32s(self.columns.delta).0;
        let vectors = log_sum_exp.len();
        let scores = S::as_mut_simd_f32s(self.scores).0;
        let gradients = S::as_mut_simd_f32s(self.gradients).0;
        let rows = scores.chunks_exact_mut(vectors).zip(gradients.chunks_exact_mut(vectors));
        for (key, (scores, gradients)) in rows.enumerate() {
            for vector in 0..vectors {
                let weight = exp2(simd, simd.sub_f32s(scores[vector], log_sum_exp[vector]));
                let gradient = simd.mul_f32s(weight, simd.sub_f32s(gradients[vector], delta[vector]));
                (scores[vector], gradients[vector]) = (weight, gradient);
            }
            let Some(seen) = self.columns.seen else { continue };
            let (key, zero) = (simd.splat_f32s(key as f32), simd.splat_f32s(0.0));
            for (vector, seen) in S::as_simd_f32s(seen).0.iter().enumerate() {
                let sees = simd.less_than_f32s(key, *seen);
                scores[vector] = simd.select_f32s(sees, scores[vector], zero);
                gradients[vector] = simd.select_f32s(sees, gradients[vector], zero);
            }
        }
    }
}
