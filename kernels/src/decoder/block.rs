//! One transformer block, in the parts that whole, chunked and cached computation put together.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::config::DecoderConfig;
use crate::attention::{Span, attention};
use crate::norm::rms_norm;
use crate::rotary::{Angles, rotate};
use crate::swiglu::swiglu;
use crate::weights::Block;

/// `x w^T + bias`.
///
/// # Shapes
/// `x` `[N, in]`, `weight` `[out, in]`, `bias` `[1, out]`; the result is `[N, out]`.
pub(crate) fn linear(x: Tensor<2>, weight: &Tensor<2>, bias: Option<&Tensor<2>>) -> Tensor<2> {
    let y = x.matmul(weight.clone().transpose());
    match bias {
        Some(bias) => y + bias.clone(),
        None => y,
    }
}

/// Splits columns into heads, normalises each where the family does, and rotates by position.
fn heads(x: Tensor<2>, norm: Option<&Tensor<2>>, config: &DecoderConfig, angles: &Angles) -> Tensor<3> {
    let (rows, width) = (x.dims()[0], config.head_width);
    let count = x.dims()[1] / width;
    let x = match norm {
        Some(gain) => rms_norm(x.reshape([rows * count, width]), gain.clone(), config.rms_eps),
        None => x.reshape([rows * count, width]),
    };
    rotate(x.reshape([rows, count, width]), angles)
}

impl Block<Tensor<2>> {
    /// The norm before attention.
    pub(crate) fn normed(&self, x: Tensor<2>, config: &DecoderConfig) -> Tensor<2> {
        rms_norm(x, self.input_norm.clone(), config.rms_eps)
    }

    /// Keys and values of some rows, the keys rotated.
    ///
    /// # Shapes
    /// `normed` `[N, hidden]`; both results `[N, KV, D]`.
    pub(crate) fn keys_values(
        &self,
        normed: Tensor<2>,
        config: &DecoderConfig,
        angles: &Angles,
    ) -> (Tensor<3>, Tensor<3>) {
        let rows = normed.dims()[0];
        let key = linear(normed.clone(), &self.key, self.key_bias.as_ref());
        let value = linear(normed, &self.value, self.value_bias.as_ref());
        let key = heads(key, self.key_norm.as_ref(), config, angles);
        (key, value.reshape([rows, config.kv_heads, config.head_width]))
    }

    /// The block's output for rows whose keys and values (with their prefix) are given.
    ///
    /// # Shapes
    /// `x` and its norm `[N, hidden]`, keys and values `[M, KV, D]`; the result is `[N, hidden]`.
    pub(crate) fn attend(
        &self,
        x: Tensor<2>,
        normed: Tensor<2>,
        (keys, values): (Tensor<3>, Tensor<3>),
        config: &DecoderConfig,
        angles: &Angles,
        spans: &Arc<[Span]>,
    ) -> Tensor<2> {
        let mixed = attention(self.queries(normed, config, angles), keys, values, spans);
        self.after_attention(x, mixed, config)
    }

    /// The rotated queries of some rows.
    ///
    /// # Shapes
    /// `normed` `[N, hidden]`; the result is `[N, H, D]`.
    pub(crate) fn queries(&self, normed: Tensor<2>, config: &DecoderConfig, angles: &Angles) -> Tensor<3> {
        let query = linear(normed, &self.query, self.query_bias.as_ref());
        heads(query, self.query_norm.as_ref(), config, angles)
    }

    /// The block's output from its input and what attention gives.
    ///
    /// # Shapes
    /// `x` `[N, hidden]`, `mixed` `[N, H, D]`; the result is `[N, hidden]`.
    pub(crate) fn after_attention(
        &self,
        x: Tensor<2>,
        mixed: Tensor<3>,
        config: &DecoderConfig,
    ) -> Tensor<2> {
        let mixed = mixed.reshape([x.dims()[0], config.heads * config.head_width]);
        self.feed_forward(x + linear(mixed, &self.output, self.output_bias.as_ref()), config)
    }

    /// The second half of the block, with its residual.
    fn feed_forward(&self, x: Tensor<2>, config: &DecoderConfig) -> Tensor<2> {
        let normed = rms_norm(x.clone(), self.post_norm.clone(), config.rms_eps);
        let gate = linear(normed.clone(), &self.gate, None);
        let up = linear(normed, &self.up, None);
        x + linear(swiglu(gate, up), &self.down, None)
    }
}
