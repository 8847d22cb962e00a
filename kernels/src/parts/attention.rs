//! Attention of a block but for what happens between queries and keys, which is in [`crate::attention`]: projections,
//! norms of heads, rotation and output, in tensors, on slices forward and backward, and packed for decoding.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::TensorForm;
use super::linear::linear;
use super::norm::{Norm, normed};
use super::residual::{Join, Joint, scaled};
use crate::flex::Rows;
use crate::gemm::PackedMatrix;
use crate::model::config::DecoderConfig;
use crate::model::linear::{Factors, Linear};
use crate::model::spec::NormSpec;
use crate::model::weights::Block;
use crate::rotary::{Angles, rotate_head, rotate_rows};
use crate::simd;

/// Splits columns into heads, normalises each where the family does, and rotates by position.
fn heads(
    x: Tensor<2>,
    norm: Option<(&Tensor<2>, NormSpec)>,
    form: TensorForm<'_>,
    angles: &Angles,
) -> Tensor<3> {
    let (rows, width) = (x.dims()[0], form.config.head_width);
    let count = x.dims()[1] / width;
    let x = x.reshape([rows * count, width]);
    let x = match norm {
        Some((weight, spec)) => normed(x, weight, spec, form.operations),
        None => x,
    };
    form.operations.rotate(x.reshape([rows, count, width]), angles)
}

impl Block<Tensor<2>> {
    /// Keys and values of some rows, the keys rotated.
    ///
    /// # Shapes
    /// `normed` `[N, hidden]`; both results `[N, KV, D]`.
    pub(crate) fn keys_values(
        &self,
        normed: Tensor<2>,
        form: TensorForm<'_>,
        angles: &Angles,
    ) -> (Tensor<3>, Tensor<3>) {
        let config = form.config;
        let rows = normed.dims()[0];
        let key = linear(normed.clone(), &self.key, self.key_bias.as_ref());
        let value = linear(normed, &self.value, self.value_bias.as_ref());
        let norm = self.key_norm.as_ref().zip(config.spec.block.query_key_norm);
        let key = heads(key, norm, form, angles);
        (key, value.reshape([rows, config.kv_heads, config.head_width]))
    }

    /// The rotated queries of some rows, times what makes attention's scale of `1 / sqrt(D)` the model's.
    ///
    /// # Shapes
    /// `normed` `[N, hidden]`; the result is `[N, H, D]`.
    pub(crate) fn queries(&self, normed: Tensor<2>, form: TensorForm<'_>, angles: &Angles) -> Tensor<3> {
        let config = form.config;
        let query = linear(normed, &self.query, self.query_bias.as_ref());
        let norm = self.query_norm.as_ref().zip(config.spec.block.query_key_norm);
        let query = heads(query, norm, form, angles);
        match config.spec.block.attention_scale {
            Some(scale) => query.mul_scalar(scale * (config.head_width as f64).sqrt()),
            None => query,
        }
    }

    /// What attention adds to the residual stream.
    ///
    /// # Shapes
    /// `mixed` `[N, H, D]`; the result is `[N, hidden]`.
    pub(crate) fn attention_output(&self, mixed: Tensor<3>, form: TensorForm<'_>) -> Tensor<2> {
        let config = form.config;
        let mixed = mixed.clone().reshape([mixed.dims()[0], config.heads * config.head_width]);
        let output = linear(mixed, &self.output, self.output_bias.as_ref());
        let norm = self.attention_output_norm.as_ref().zip(config.spec.block.attention_output_norm);
        let output = match norm {
            Some((weight, spec)) => normed(output, weight, spec, form.operations),
            None => output,
        };
        scaled(output, &config.spec.block)
    }
}

/// What attention's scores are multiplied by.
pub(crate) fn score_scale(config: &DecoderConfig) -> f32 {
    let scale = config.spec.block.attention_scale;
    scale.map_or_else(|| 1.0 / (config.head_width as f32).sqrt(), |scale| scale as f32)
}

/// The part on slices.
pub(crate) struct Attention {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) query_norm: Option<Norm>,
    pub(crate) key_norm: Option<Norm>,
    pub(crate) output: Linear,
    pub(crate) joint: Joint,
}

/// Its weights as right factors of `x w^T`.
pub(crate) struct AttentionForward {
    query: Factors,
    key: Factors,
    value: Factors,
    output: Factors,
}

/// Its weights as right factors of `dy w`.
pub(crate) struct AttentionBackward {
    query: Factors,
    key: Factors,
    value: Factors,
    output: Factors,
}

/// Cosines and sines of some rows, `[rows, D / 2]` each.
pub(crate) type RowAngles<'a> = (&'a [f32], &'a [f32]);

/// Gradients of some rows of queries, keys and values, rotated; and of their norms' weights, which are added to.
pub(crate) struct HeadGradients<'a> {
    pub(crate) query: &'a mut [f32],
    pub(crate) key: &'a mut [f32],
    pub(crate) value: &'a [f32],
    pub(crate) query_norm: &'a mut [f32],
    pub(crate) key_norm: &'a mut [f32],
}

impl Attention {
    pub(crate) fn forward_weights(&self) -> AttentionForward {
        AttentionForward {
            query: self.query.forward(),
            key: self.key.forward(),
            value: self.value.forward(),
            output: self.output.forward(),
        }
    }

    pub(crate) fn backward_weights(&self) -> AttentionBackward {
        AttentionBackward {
            query: self.query.backward(),
            key: self.key.backward(),
            value: self.value.backward(),
            output: self.output.backward(),
        }
    }

    fn join<'a>(&'a self, weights: &'a AttentionForward) -> Join<'a> {
        Join { linear: &self.output, weight: &weights.output, joint: &self.joint }
    }

    /// Queries of normed rows: as they come from their projection where a norm needs that for its gradient, in `raw`,
    /// and ready for attention.
    pub(crate) fn queries(
        &self,
        weights: &AttentionForward,
        angles: RowAngles<'_>,
        x: &[f32],
        query: &mut [f32],
        raw: &mut [f32],
    ) {
        let rows = x.len() / self.query.inner();
        weights.query.multiply(rows, x, query);
        self.query.add_bias(query);
        if self.query_norm.is_some() {
            raw.copy_from_slice(query);
        }
        norm_rope_heads(query, rows, self.query_norm.as_ref(), angles);
    }

    /// Keys and values of normed rows, `[rows, KV D]` each.
    pub(crate) fn keys_values(
        &self,
        weights: &AttentionForward,
        angles: RowAngles<'_>,
        x: &[f32],
        (key, value): (&mut [f32], &mut [f32]),
    ) {
        let rows = x.len() / self.key.inner();
        weights.key.multiply(rows, x, key);
        weights.value.multiply(rows, x, value);
        self.key.add_bias(key);
        self.value.add_bias(value);
        norm_rope_heads(key, rows, self.key_norm.as_ref(), angles);
    }

    /// Adds what attention gives to rows of the residual stream.
    pub(crate) fn add_output(&self, weights: &AttentionForward, rows: usize, mixed: &[f32], x: &mut [f32]) {
        self.join(weights).add(rows, mixed, x);
    }

    /// From the gradient of the residual stream to that of the output projection's result, in place. `weights` are
    /// asked for where a norm is between them.
    pub(crate) fn joint_backward<'w>(
        &self,
        weights: impl Fn() -> &'w AttentionForward,
        mixed: &[f32],
        dy: &mut [f32],
        dweight: &mut [f32],
    ) {
        self.joint.scale_gradient(dy);
        if self.joint.norm.is_some() {
            self.join(weights()).backward(mixed, dy, dweight);
        }
    }

    /// From the gradient of the output projection's result to that of what attention gives.
    pub(crate) fn output_backward(&self, weights: &AttentionBackward, dy: &[f32], dmixed: &mut [f32]) {
        weights.output.multiply(dy.len() / self.output.outputs(), dy, dmixed);
    }

    /// Keys as they come from their projection, which only a norm's gradient needs.
    fn raw_keys(&self, weights: &AttentionForward, x: &[f32], raw_key: &mut [f32]) {
        weights.key.multiply(x.len() / self.key.inner(), x, raw_key);
        self.key.add_bias(raw_key);
    }

    /// From the gradients of queries, keys and values to that of the normed rows they are of, into `dx`; the
    /// gradients become those of the projections' results. `forward` is asked for where keys have a norm.
    #[expect(clippy::too_many_arguments, reason = "rows, their projections and the gradients of both")]
    pub(crate) fn projections_backward<'w>(
        &self,
        forward: impl Fn() -> &'w AttentionForward,
        backward: &AttentionBackward,
        angles: RowAngles<'_>,
        x: &[f32],
        raw_query: &[f32],
        raw_key: &mut [f32],
        gradients: HeadGradients<'_>,
        dx: &mut [f32],
    ) {
        let rows = x.len() / self.query.inner();
        let (width, key_width) = (self.query.outputs(), self.key.outputs());
        let HeadGradients { query, key, value, query_norm, key_norm } = gradients;
        rotate_rows(query, width, angles, true);
        rotate_rows(key, key_width, angles, true);
        if let Some(norm) = &self.query_norm {
            norm.backward(raw_query, query, query_norm);
        }
        if let Some(norm) = &self.key_norm {
            self.raw_keys(forward(), x, raw_key);
            norm.backward(raw_key, key, key_norm);
        }
        backward.query.multiply(rows, query, dx);
        backward.key.add_multiply(rows, key, dx);
        backward.value.add_multiply(rows, value, dx);
    }
}

/// Norm and rotation of projected queries or keys, in place.
fn norm_rope_heads(x: &mut [f32], rows: usize, norm: Option<&Norm>, angles: RowAngles<'_>) {
    if let Some(norm) = norm {
        norm.forward_in_place(x);
    }
    rotate_rows(x, x.len() / rows, angles, false);
}

/// The part as decoding reads it.
pub(crate) struct PackedAttention {
    /// Query, key and value projections side by side.
    pub(crate) query_key_value: Arc<PackedMatrix>,
    /// The biases of the same columns.
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) query_norm: Option<Norm>,
    pub(crate) key_norm: Option<Norm>,
    pub(crate) output: Arc<PackedMatrix>,
    pub(crate) output_bias: Option<Rows>,
    pub(crate) joint: Joint,
}

/// Query, key and value of one position.
pub(crate) struct ProjectedRow<'a> {
    pub(crate) query: &'a mut [f32],
    pub(crate) key: &'a mut [f32],
    pub(crate) value: &'a mut [f32],
}

impl PackedAttention {
    /// Biases, norms and rotation of one position, whose queries are also multiplied by the scale of scores.
    pub(crate) fn finish_row(&self, row: &mut ProjectedRow<'_>, angles: RowAngles<'_>, scale: f32) {
        let ProjectedRow { query, key, value } = row;
        simd::vectorized(
            #[inline(always)]
            || {
                if let Some(bias) = &self.bias {
                    let (query_bias, rest) = bias.split_at(query.len());
                    let (key_bias, value_bias) = rest.split_at(key.len());
                    simd::add_scaled(query, 1.0, query_bias);
                    simd::add_scaled(key, 1.0, key_bias);
                    simd::add_scaled(value, 1.0, value_bias);
                }
                norm_rope_row(query, self.query_norm.as_ref(), angles);
                norm_rope_row(key, self.key_norm.as_ref(), angles);
                query.iter_mut().for_each(|value| *value *= scale);
            },
        );
    }
}

/// Norm and rotation of the heads of one row.
#[inline(always)]
fn norm_rope_row(heads: &mut [f32], norm: Option<&Norm>, (cos, sin): RowAngles<'_>) {
    for head in heads.chunks_exact_mut(2 * cos.len()) {
        if let Some(norm) = norm {
            norm.row_in_place(head);
        }
        rotate_head(head, cos, sin, 1.0);
    }
}
