//! The last norm and the head: logits in tensors, and on slices what a tile of the vocabulary says of tokens and gives
//! back to them. The order of tiles and chunks is that of [`crate::streambp`].
//!
//! On slices logits are transposed, one row a vocabulary entry and one column a token.

use burn::tensor::Tensor;

use super::TensorForm;
use super::linear::linear;
use super::norm::normed;
use crate::model::weights::Weights;
use crate::simd;

/// The matrix of the head, `[vocabulary, hidden]`.
///
/// # Shapes
/// The result is `[vocabulary, hidden]`.
pub(crate) fn head_of(weights: &Weights<Tensor<2>>) -> &Tensor<2> {
    weights.head.as_ref().unwrap_or(&weights.embedding)
}

/// Logits of rows of the last layer's output, before the family's divisor: whoever knows a temperature takes
/// [`crate::model::spec::ModelSpec::head_temperature`] for it.
///
/// # Shapes
/// `x` `[N, hidden]`; the result is `[N, vocabulary]`.
pub(crate) fn undivided_logits(
    x: Tensor<2>,
    weights: &Weights<Tensor<2>>,
    form: TensorForm<'_>,
) -> Tensor<2> {
    let normed = normed(x, &weights.final_norm, form.config.spec.final_norm, form.operations);
    linear(normed, head_of(weights), None)
}

/// Logits of rows of the last layer's output.
///
/// # Shapes
/// As [`undivided_logits`].
pub(crate) fn logits(x: Tensor<2>, weights: &Weights<Tensor<2>>, form: TensorForm<'_>) -> Tensor<2> {
    let logits = undivided_logits(x, weights, form);
    match form.config.spec.logits_divisor {
        Some(divisor) => logits.div_scalar(divisor),
        None => logits,
    }
}

/// What one tile says of the tokens of a chunk.
pub(crate) struct TileStats {
    pub(crate) largest: Vec<f32>,
    pub(crate) total: Vec<f32>,
    /// Sum of `z e^z`, where `z` is the logit less the largest, over the temperature.
    pub(crate) weighted: Vec<f32>,
}

/// Largest logit, and sums around it, of each token.
pub(crate) fn tile_stats(logits: &[f32], tokens: usize, inverse: f32) -> TileStats {
    let mut largest = vec![f32::NEG_INFINITY; tokens];
    let (mut total, mut weighted) = (vec![0.0; tokens], vec![0.0; tokens]);
    simd::vectorized(
        #[inline(always)]
        || {
            for row in logits.chunks_exact(tokens) {
                for (most, logit) in largest.iter_mut().zip(row) {
                    *most = if *logit > *most { *logit } else { *most };
                }
            }
            for row in logits.chunks_exact(tokens) {
                let sums = total.iter_mut().zip(&mut weighted);
                for ((logit, most), (total, weighted)) in row.iter().zip(&largest).zip(sums) {
                    let z = (logit - most) * inverse;
                    let e = simd::exp(z);
                    *total += e;
                    *weighted = z.mul_add(e, *weighted);
                }
            }
        },
    );
    TileStats { largest, total, weighted }
}

/// What the gradients of logits of some tokens depend on, one entry a token in each list.
#[derive(Clone, Copy)]
pub(crate) struct TileTokens<'a> {
    pub(crate) targets: &'a [u32],
    pub(crate) logprob_slopes: &'a [f32],
    /// `None` where the loss does not depend on entropies.
    pub(crate) entropy_slopes: Option<&'a [f32]>,
    pub(crate) entropies: &'a [f32],
    /// Logarithms of the sums of `e^(logit / temperature)`.
    pub(crate) log_totals: &'a [f32],
}

/// Logits of a tile, whose first entry of the vocabulary is `first`, to
/// `slope * (1[target] - probability) / temperature`, and what entropies have slopes of.
pub(crate) fn tile_gradient(logits: &mut [f32], first: usize, tokens: TileTokens<'_>, inverse: f32) {
    let TileTokens { targets, logprob_slopes: slopes, log_totals, .. } = tokens;
    let entries = logits.len() / targets.len();
    if let Some(entropy_slopes) = tokens.entropy_slopes {
        entropy_tile_gradient(logits, tokens, entropy_slopes, inverse);
    } else {
        simd::vectorized(
            #[inline(always)]
            || {
                for row in logits.chunks_exact_mut(targets.len()) {
                    for ((logit, slope), log_total) in row.iter_mut().zip(slopes).zip(log_totals) {
                        let probability = simd::exp(logit.mul_add(inverse, -log_total));
                        *logit = -(slope * inverse) * probability;
                    }
                }
            },
        );
    }
    for (token, &target) in targets.iter().enumerate() {
        if let Some(entry) = (target as usize).checked_sub(first).filter(|&entry| entry < entries) {
            logits[entry * targets.len() + token] += slopes[token] * inverse;
        }
    }
}

/// Logits of a tile to `-p (slope + entropy_slope (log p + entropy)) / temperature`.
fn entropy_tile_gradient(logits: &mut [f32], tokens: TileTokens<'_>, entropy_slopes: &[f32], inverse: f32) {
    let slopes = tokens.logprob_slopes.iter().zip(entropy_slopes);
    let model = tokens.entropies.iter().zip(tokens.log_totals);
    simd::vectorized(
        #[inline(always)]
        || {
            for row in logits.chunks_exact_mut(tokens.targets.len()) {
                let tokens = slopes.clone().zip(model.clone());
                for (logit, ((slope, entropy_slope), (entropy, log_total))) in row.iter_mut().zip(tokens) {
                    let logprob = logit.mul_add(inverse, -log_total);
                    let slope = entropy_slope.mul_add(logprob + entropy, *slope);
                    *logit = -(slope * inverse) * simd::exp(logprob);
                }
            }
        },
    );
}
