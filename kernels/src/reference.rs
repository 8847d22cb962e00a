//! The whole training computation once more, in f64 and in plain loops: what tests hold the tensors against.
//!
//! Written to be read, not to be fast. Every function that has a backward pass stands above it, and the
//! derivatives are worked out by hand. With the computation in f32 it shares the description of the model and
//! nothing that computes. Rotary frequencies that were stretched to a longer context are not here.

use burn::tensor::Tensor;

use crate::model::spec::NormSpec;
use crate::model::weights::{Block, Weights};
use crate::rope::RopeScaling;
use crate::streambp::Slopes;
use crate::test_tensors::numbers;
use crate::{Decoder, DecoderConfig, Packed};
use feed_forward::Kept;

mod feed_forward;

/// A matrix as the list of its rows.
pub(crate) type Matrix = Vec<Vec<f64>>;

/// A model in f64 and a batch.
pub(crate) struct Reference<'a> {
    config: &'a DecoderConfig,
    pub(crate) weights: Weights<Matrix>,
    packed: &'a Packed,
    /// The row of the first token of each token's sequence.
    starts: Vec<usize>,
    temperature: f64,
}

/// What the backward pass reads of the forward pass.
pub(crate) struct Forward {
    blocks: Vec<BlockForward>,
    /// The output of the last block.
    hidden: Matrix,
    normed: Matrix,
    /// Of every token of the vocabulary, `[N, V]`.
    logprobs: Matrix,
}

/// The part of [`Forward`] that belongs to one block. Heads are rows of their own: row `t H + h` is head h of
/// token t.
struct BlockForward {
    input: Matrix,
    normed: Matrix,
    /// Queries and keys before they are normalised and rotated.
    raw_query: Matrix,
    raw_key: Matrix,
    query: Matrix,
    key: Matrix,
    value: Matrix,
    /// Row `t H + h` holds one number for each token from the sequence's first to t.
    probabilities: Matrix,
    mixed: Matrix,
    /// What the output projection gives.
    attended: Matrix,
    /// Between attention and the feed-forward part.
    middle: Matrix,
    middle_normed: Matrix,
    /// Of the feed-forward part, and what it gives.
    feed_forward: Kept,
    fed: Matrix,
}

impl Forward {
    /// How far the routers' products of chosen experts are above those of others, at least: the choice of rows that are
    /// nearer than roundings is not the model's.
    pub(crate) fn margin(&self) -> f64 {
        let margin = |block: &BlockForward| match &block.feed_forward {
            Kept::Gated(_) => f64::INFINITY,
            Kept::Experts(experts) => experts.margin,
        };
        self.blocks.iter().map(margin).fold(f64::INFINITY, f64::min)
    }
}

impl<'a> Reference<'a> {
    /// The model of a decoder, with its f32 weights taken as exact.
    pub(crate) fn new(decoder: &'a Decoder, packed: &'a Packed, temperature: f64) -> Self {
        let config = &decoder.config;
        for rope in config.spec.ropes() {
            let scaling = &rope.scaling;
            assert!(
                matches!(scaling, RopeScaling::Default | RopeScaling::Absent),
                "{scaling:?} is not computed here"
            );
        }
        let weights = decoder.weights.tensors().map(|_, tensor| matrix(tensor));
        let mut starts = Vec::new();
        for &length in &packed.lengths {
            starts.extend(vec![starts.len(); length]);
        }
        let temperature = config.spec.head_temperature(temperature);
        Self { config, weights, packed, starts, temperature }
    }

    /// The forward pass, from token ids to the log-probability of every token of the vocabulary.
    pub(crate) fn forward(&self) -> Forward {
        let embedded = self.packed.ids.iter().map(|&id| &self.weights.embedding[id as usize]);
        let embedded = embedded.map(|row| row.iter().map(|x| x * self.embedding_scale()).collect());
        let (mut x, mut blocks): (Matrix, _) = (embedded.collect(), Vec::new());
        for (layer, block) in self.weights.blocks.iter().enumerate() {
            let (kept, output) = self.block(layer, block, x);
            blocks.push(kept);
            x = output;
        }
        let normed = norm(&x, &self.weights.final_norm, self.config.spec.final_norm);
        let head = self.weights.head.as_ref().unwrap_or(&self.weights.embedding);
        let logits = linear(&normed, head, None);
        let logprobs = logits.iter().map(|row| log_softmax(row, self.temperature)).collect();
        Forward { blocks, hidden: x, normed, logprobs }
    }

    /// Log-probability of the token that follows each token, and entropy of the distribution that it was
    /// drawn from; both 0 where nothing follows.
    pub(crate) fn statistics(&self, forward: &Forward) -> (Vec<f64>, Vec<f64>) {
        let rows = self.next_tokens().into_iter().zip(&forward.logprobs);
        rows.map(|(next, row)| match next {
            Some(next) => (row[next], -row.iter().map(|logprob| logprob.exp() * logprob).sum::<f64>()),
            None => (0.0, 0.0),
        })
        .unzip()
    }

    /// The gradient of `sum_k c_k logprob_k + e_k entropy_k` by every parameter.
    pub(crate) fn gradients(&self, forward: &Forward, slopes: &Slopes) -> Weights<Matrix> {
        let mut sums = self.weights.map(|_, weight| zeros_like(weight));
        let slopes = slopes.logprob.iter().zip(&slopes.entropy);
        let rows = self.next_tokens().into_iter().zip(&forward.logprobs).zip(slopes);
        let dlogits: Matrix = rows
            .map(|((next, row), (&by_logprob, &by_entropy))| {
                let factor = |slope| next.map_or(0.0, |_| f64::from(slope) / self.temperature);
                let (by_logprob, by_entropy) = (factor(by_logprob), factor(by_entropy));
                let entropy = -row.iter().map(|logprob| logprob.exp() * logprob).sum::<f64>();
                let of = |(token, logprob): (usize, &f64)| {
                    let chosen = if Some(token) == next { 1.0 } else { 0.0 };
                    let through_entropy = -logprob.exp() * (logprob + entropy);
                    by_logprob * (chosen - logprob.exp()) + by_entropy * through_entropy
                };
                row.iter().enumerate().map(of).collect()
            })
            .collect();
        let head = self.weights.head.as_ref().unwrap_or(&self.weights.embedding);
        let head_sum = sums.head.as_mut().unwrap_or(&mut sums.embedding);
        let dnormed = linear_backward(&forward.normed, head, &dlogits, head_sum, None);
        let (weight, spec) = (&self.weights.final_norm, self.config.spec.final_norm);
        let mut dx = norm_backward(&forward.hidden, weight, spec, &dnormed, &mut sums.final_norm);
        for (layer, kept) in forward.blocks.iter().enumerate().rev() {
            dx = self.block_backward(layer, kept, &dx, &mut sums.blocks[layer]);
        }
        for (&id, dx) in self.packed.ids.iter().zip(&dx) {
            add_scaled(&mut sums.embedding[id as usize], self.embedding_scale(), dx);
        }
        sums
    }

    fn embedding_scale(&self) -> f64 {
        self.config.spec.embedding_scale.map_or(1.0, f64::from)
    }

    /// What a half gives, or its gradient, times the factor before it is added.
    fn scaled(&self, half: &Matrix) -> Matrix {
        let scale = self.config.spec.block.residual_scale.map_or(1.0, f64::from);
        half.iter().map(|row| row.iter().map(|x| scale * x).collect()).collect()
    }

    /// The token after each token of its sequence.
    fn next_tokens(&self) -> Vec<Option<usize>> {
        let mut next = Vec::new();
        for &length in &self.packed.lengths {
            let first = next.len();
            next.extend((1..length).map(|place| Some(self.packed.ids[first + place] as usize)));
            next.push(None);
        }
        next
    }

    /// One block; what the backward pass needs, and the output.
    fn block(&self, layer: usize, block: &Block<Matrix>, input: Matrix) -> (BlockForward, Matrix) {
        let spec = &self.config.spec.block;
        let heads = |x: &Matrix| split_heads(x, self.config.head_width);
        let normed = norm(&input, &block.input_norm, spec.input_norm);
        let raw_query = heads(&linear(&normed, &block.query, block.query_bias.as_ref()));
        let raw_key = heads(&linear(&normed, &block.key, block.key_bias.as_ref()));
        let value = heads(&linear(&normed, &block.value, block.value_bias.as_ref()));
        let query = self.position_heads(layer, &raw_query, block.query_norm.as_ref());
        let key = self.position_heads(layer, &raw_key, block.key_norm.as_ref());
        let (probabilities, mixed) = self.attention(layer, &query, &key, &value);
        let mixed = join_heads(&mixed, self.config.heads);
        let attended = linear(&mixed, &block.output, block.output_bias.as_ref());
        let norm_of = block.attention_output_norm.as_ref().zip(spec.attention_output_norm);
        let middle = sum(&input, &self.scaled(&maybe_norm(&attended, norm_of)));
        let middle_normed = norm(&middle, &block.feed_forward_norm, spec.feed_forward_norm);
        let model = &self.config.spec;
        let (feed_forward, fed) = feed_forward::forward(&block.feed_forward, model, &middle_normed);
        let norm_of = block.feed_forward_output_norm.as_ref().zip(spec.feed_forward_output_norm);
        let output = sum(&middle, &self.scaled(&maybe_norm(&fed, norm_of)));
        #[rustfmt::skip] // One field a line would take a third of the function.
        let kept = BlockForward {
            input, normed, raw_query, raw_key, query, key, value, probabilities, mixed, attended, middle,
            middle_normed, feed_forward, fed,
        };
        (kept, output)
    }

    /// From the gradient of a block's output that of its input.
    fn block_backward(
        &self,
        layer: usize,
        kept: &BlockForward,
        doutput: &Matrix,
        sums: &mut Block<Matrix>,
    ) -> Matrix {
        let (block, spec) = (&self.weights.blocks[layer], &self.config.spec.block);
        let norm_of = block.feed_forward_output_norm.as_ref().zip(spec.feed_forward_output_norm);
        let (dy, weight_sum) = (self.scaled(doutput), sums.feed_forward_output_norm.as_mut());
        let dfed = maybe_norm_backward(&kept.fed, norm_of, &dy, weight_sum);
        let (weights, normed, model) = (&block.feed_forward, &kept.middle_normed, &self.config.spec);
        let sum_of = &mut sums.feed_forward;
        let dnormed = feed_forward::backward(weights, model, &kept.feed_forward, normed, &dfed, sum_of);
        let (weight, weight_sum) = (&block.feed_forward_norm, &mut sums.feed_forward_norm);
        let through = norm_backward(&kept.middle, weight, spec.feed_forward_norm, &dnormed, weight_sum);
        let dmiddle = sum(doutput, &through);

        let norm_of = block.attention_output_norm.as_ref().zip(spec.attention_output_norm);
        let weight_sum = sums.attention_output_norm.as_mut();
        let dattended = maybe_norm_backward(&kept.attended, norm_of, &self.scaled(&dmiddle), weight_sum);
        let bias_sum = sums.output_bias.as_mut();
        let dmixed = linear_backward(&kept.mixed, &block.output, &dattended, &mut sums.output, bias_sum);
        let dmixed = split_heads(&dmixed, self.config.head_width);
        let (dquery, dkey, dvalue) = self.attention_backward(layer, kept, &dmixed);
        let (gain, gain_sum) = (block.query_norm.as_ref(), sums.query_norm.as_mut());
        let dquery = self.position_heads_backward(layer, &kept.raw_query, gain, &dquery, gain_sum);
        let (gain, gain_sum) = (block.key_norm.as_ref(), sums.key_norm.as_mut());
        let dkey = self.position_heads_backward(layer, &kept.raw_key, gain, &dkey, gain_sum);

        let (heads, kv_heads) = (self.config.heads, self.config.kv_heads);
        let (normed, bias_sum) = (&kept.normed, sums.query_bias.as_mut());
        let dquery = join_heads(&dquery, heads);
        let mut dnormed = linear_backward(normed, &block.query, &dquery, &mut sums.query, bias_sum);
        for (weight, dy, weight_sum, bias_sum) in [
            (&block.key, &dkey, &mut sums.key, sums.key_bias.as_mut()),
            (&block.value, &dvalue, &mut sums.value, sums.value_bias.as_mut()),
        ] {
            let dy = join_heads(dy, kv_heads);
            dnormed = sum(&dnormed, &linear_backward(normed, weight, &dy, weight_sum, bias_sum));
        }
        let (weight, weight_sum) = (&block.input_norm, &mut sums.input_norm);
        let through = norm_backward(&kept.input, weight, spec.input_norm, &dnormed, weight_sum);
        sum(&dmiddle, &through)
    }

    /// Query or key heads, normalised where the family does and rotated by the positions of their tokens.
    fn position_heads(&self, layer: usize, heads: &Matrix, weight: Option<&Matrix>) -> Matrix {
        let norm_of = weight.zip(self.config.spec.block.query_key_norm);
        self.rotate(layer, &maybe_norm(heads, norm_of), 1.0)
    }

    fn position_heads_backward(
        &self,
        layer: usize,
        heads: &Matrix,
        weight: Option<&Matrix>,
        dy: &Matrix,
        weight_sum: Option<&mut Matrix>,
    ) -> Matrix {
        // A rotation is orthogonal: its transpose is the rotation by the opposite angle.
        let dy = self.rotate(layer, dy, -1.0);
        maybe_norm_backward(heads, weight.zip(self.config.spec.block.query_key_norm), &dy, weight_sum)
    }

    /// Rotates the pair `(x_i, x_{i + D/2})` of every head by `sign position theta^(-2i / D)`.
    fn rotate(&self, layer: usize, heads: &Matrix, sign: f64) -> Matrix {
        let rope = &self.config.spec.attention_of(layer).rope;
        // Without positions nothing is rotated.
        let sign = if rope.scaling == RopeScaling::Absent { 0.0 } else { sign };
        let (heads_per_token, width) = (heads.len() / self.starts.len(), self.config.head_width);
        let mut rotated = heads.clone();
        for (row, y) in rotated.iter_mut().enumerate() {
            let (x, token) = (&heads[row], row / heads_per_token);
            let position = (token - self.starts[token]) as f64;
            for low in 0..width / 2 {
                let high = low + width / 2;
                let frequency = rope.theta.powf(-2.0 * low as f64 / width as f64);
                let (sine, cosine) = (sign * position * frequency).sin_cos();
                y[low] = x[low] * cosine - x[high] * sine;
                y[high] = x[high] * cosine + x[low] * sine;
            }
        }
        rotated
    }

    /// What each query head gives to each token that it sees, and the sum of the values weighted so.
    fn attention(&self, layer: usize, query: &Matrix, key: &Matrix, value: &Matrix) -> (Matrix, Matrix) {
        let (mut probabilities, mut mixed) = (Vec::new(), zeros_like(query));
        for (row, query) in query.iter().enumerate() {
            let keys_seen = self.keys_seen(layer, row);
            let scores = keys_seen.iter().map(|&at| dot(query, &key[at]) * self.score_scale());
            let scores: Vec<f64> = scores.collect();
            let given: Vec<f64> = log_softmax(&scores, 1.0).into_iter().map(f64::exp).collect();
            for (&at, &p) in keys_seen.iter().zip(&given) {
                add_scaled(&mut mixed[row], p, &value[at]);
            }
            probabilities.push(given);
        }
        (probabilities, mixed)
    }

    /// With `dp_s = dmixed . value_s`, the softmax gives `dscore_s = p_s (dp_s - sum_u p_u dp_u)`.
    fn attention_backward(
        &self,
        layer: usize,
        kept: &BlockForward,
        dmixed: &Matrix,
    ) -> (Matrix, Matrix, Matrix) {
        let [mut dquery, mut dkey, mut dvalue] = [&kept.query, &kept.key, &kept.value].map(zeros_like);
        for (row, dmixed) in dmixed.iter().enumerate() {
            let (keys_seen, given) = (self.keys_seen(layer, row), &kept.probabilities[row]);
            let dgiven: Vec<f64> = keys_seen.iter().map(|&at| dot(dmixed, &kept.value[at])).collect();
            let mean = dot(given, &dgiven);
            for ((&at, &p), dp) in keys_seen.iter().zip(given).zip(dgiven) {
                let dproduct = p * (dp - mean) * self.score_scale();
                add_scaled(&mut dquery[row], dproduct, &kept.key[at]);
                add_scaled(&mut dkey[at], dproduct, &kept.query[row]);
                add_scaled(&mut dvalue[at], p, dmixed);
            }
        }
        (dquery, dkey, dvalue)
    }

    fn score_scale(&self) -> f64 {
        let scale = self.config.spec.block.attention_scale;
        scale.unwrap_or_else(|| 1.0 / (self.config.head_width as f64).sqrt())
    }

    /// The rows of the key heads that a row of query heads sees, first token first.
    fn keys_seen(&self, layer: usize, query_row: usize) -> Vec<usize> {
        let (token, head) = (query_row / self.config.heads, query_row % self.config.heads);
        let kv_head = head / (self.config.heads / self.config.kv_heads);
        let window = self.config.spec.attention_of(layer).window;
        let first = window.map_or(0, |window| (token + 1).saturating_sub(window)).max(self.starts[token]);
        (first..=token).map(|key| key * self.config.kv_heads + kv_head).collect()
    }
}

/// The numbers of a tensor.
pub(crate) fn matrix(tensor: &Tensor<2>) -> Matrix {
    let columns = tensor.dims()[1];
    let row = |row: &[f32]| row.iter().copied().map(f64::from).collect();
    numbers(tensor.clone()).chunks_exact(columns).map(row).collect()
}

/// `x / rms(x) * (offset + weight)` with `rms(x) = sqrt(mean(x^2) + eps)`, row by row.
fn norm(x: &Matrix, weight: &Matrix, spec: NormSpec) -> Matrix {
    let scaled = |row: &Vec<f64>| {
        let rms = rms(row, spec);
        let gains = weight[0].iter().map(|weight| f64::from(spec.offset) + weight);
        row.iter().zip(gains).map(|(x, gain)| x / rms * gain).collect()
    };
    x.iter().map(scaled).collect()
}

/// From `d rms / dx_i = x_i / (n rms)`, with the gains `g`:
/// `dx_i = g_i dy_i / rms - x_i / (n rms^3) sum_j g_j dy_j x_j`.
fn norm_backward(
    x: &Matrix,
    weight: &Matrix,
    spec: NormSpec,
    dy: &Matrix,
    weight_sum: &mut Matrix,
) -> Matrix {
    let row_backward = |(x, dy): (&Vec<f64>, &Vec<f64>)| {
        let rms = rms(x, spec);
        let gains = weight[0].iter().map(|weight| f64::from(spec.offset) + weight);
        let dscaled: Vec<f64> = gains.zip(dy).map(|(gain, dy)| gain * dy).collect();
        let common = dot(&dscaled, x) / (x.len() as f64 * rms.powi(3));
        for ((sum, x), dy) in weight_sum[0].iter_mut().zip(x).zip(dy) {
            *sum += dy * x / rms;
        }
        dscaled.iter().zip(x).map(|(dscaled, x)| dscaled / rms - x * common).collect()
    };
    x.iter().zip(dy).map(row_backward).collect()
}

fn rms(row: &[f64], spec: NormSpec) -> f64 {
    (dot(row, row) / row.len() as f64 + spec.eps).sqrt()
}

/// A norm where there is one.
fn maybe_norm(x: &Matrix, norm_of: Option<(&Matrix, NormSpec)>) -> Matrix {
    norm_of.map_or_else(|| x.clone(), |(weight, spec)| norm(x, weight, spec))
}

fn maybe_norm_backward(
    x: &Matrix,
    norm_of: Option<(&Matrix, NormSpec)>,
    dy: &Matrix,
    weight_sum: Option<&mut Matrix>,
) -> Matrix {
    match norm_of.zip(weight_sum) {
        Some(((weight, spec), weight_sum)) => norm_backward(x, weight, spec, dy, weight_sum),
        None => dy.clone(),
    }
}

/// `x w^T + bias`.
fn linear(x: &Matrix, weight: &Matrix, bias: Option<&Matrix>) -> Matrix {
    let bias = |column: usize| bias.map_or(0.0, |bias| bias[0][column]);
    let row = |x: &Vec<f64>| weight.iter().enumerate().map(|(o, weight)| dot(weight, x) + bias(o)).collect();
    x.iter().map(row).collect()
}

/// `dx = dy w`; adds `dy^T x` to the sum of the weight and the columns of `dy` to that of the bias.
fn linear_backward(
    x: &Matrix,
    weight: &Matrix,
    dy: &Matrix,
    weight_sum: &mut Matrix,
    mut bias_sum: Option<&mut Matrix>,
) -> Matrix {
    let mut dx = zeros_like(x);
    for ((x, dy), dx) in x.iter().zip(dy).zip(&mut dx) {
        for (column, &dy) in dy.iter().enumerate() {
            add_scaled(dx, dy, &weight[column]);
            add_scaled(&mut weight_sum[column], dy, x);
        }
        if let Some(bias_sum) = &mut bias_sum {
            add_scaled(&mut bias_sum[0], 1.0, dy);
        }
    }
    dx
}

/// `z - ln sum e^z` with `z = x / temperature`.
fn log_softmax(row: &[f64], temperature: f64) -> Vec<f64> {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shifted: Vec<f64> = row.iter().map(|x| (x - largest) / temperature).collect();
    let log_total = shifted.iter().map(|z| z.exp()).sum::<f64>().ln();
    shifted.iter().map(|z| z - log_total).collect()
}

/// Each head of each row as a row.
fn split_heads(x: &Matrix, width: usize) -> Matrix {
    x.iter().flat_map(|row| row.chunks_exact(width).map(<[f64]>::to_vec)).collect()
}

/// The inverse of [`split_heads`] with so many heads a row.
fn join_heads(heads: &Matrix, count: usize) -> Matrix {
    heads.chunks_exact(count).map(<[Vec<f64>]>::concat).collect()
}

fn sum(a: &Matrix, b: &Matrix) -> Matrix {
    zip_matrices(a, b, |a, b| a + b)
}

pub(crate) fn zip_matrices(a: &Matrix, b: &Matrix, combine: impl Fn(f64, f64) -> f64) -> Matrix {
    let row = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(&a, &b)| combine(a, b)).collect();
    a.iter().zip(b).map(row).collect()
}

fn zeros_like(x: &Matrix) -> Matrix {
    x.iter().map(|row| vec![0.0; row.len()]).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(to: &mut [f64], factor: f64, x: &[f64]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to += factor * x;
    }
}
