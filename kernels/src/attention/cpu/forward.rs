//! The forward pass: blocks of queries go over tiles of keys with an online softmax.

use std::f32::consts::LOG2_E;

use rayon::prelude::*;

use super::{AttentionRows, Dims, Inputs, QueryBlock};
use crate::panel::{Buffer, Form, Left, Running, add_product, product, scale_columns, softmax_columns};
use crate::rows::TASK_BLOCKS;
use crate::simd;

/// Keys of a tile: with 64 queries a tile of scores takes 32 KiB of first-level cache.
const KEYS: usize = 64;
/// Blocks with fewer queries than this, as in cached decoding, leave most of a vector of queries unused and
/// are computed with vectors along the head instead.
const COLUMNS_MIN: usize = 4;

/// The result `[N, H, D]` and, `[N, H]`, the log-sum-exp of each row's scores in units of `ln 2`.
pub(in crate::attention) fn attend(
    dims: &Dims,
    inputs: Inputs<'_>,
    spans: &[AttentionRows],
) -> (Vec<f32>, Vec<f32>) {
    let mut result = vec![0.0; dims.rows * dims.query_stride()];
    let mut log_sum_exp = vec![0.0; dims.rows * dims.heads];
    let jobs = jobs(dims, spans, &mut result, &mut log_sum_exp);
    // The last blocks of a span see the most keys: beginning with them leaves the short ones to fill up.
    jobs.into_par_iter().rev().with_max_len(TASK_BLOCKS).for_each(|mut job| {
        if job.block.queries(dims) < COLUMNS_MIN {
            job.attend_by_rows(dims, inputs);
        } else {
            job.attend_by_columns(dims, inputs);
        }
    });
    (result, log_sum_exp)
}

/// A block and the parts of the result that it fills, one a position: the heads that share its key head.
struct Job<'a> {
    block: QueryBlock<'a>,
    result: Vec<&'a mut [f32]>,
    log_sum_exp: Vec<&'a mut [f32]>,
}

/// Cuts the result into the parts of each block. Spans are disjoint in their queries, which the walk over
/// the result in row order relies on and asserts.
fn jobs<'a>(
    dims: &Dims,
    spans: &'a [AttentionRows],
    result: &'a mut [f32],
    log_sum_exp: &'a mut [f32],
) -> Vec<Job<'a>> {
    let mut order: Vec<&AttentionRows> = spans.iter().filter(|span| !span.queries.is_empty()).collect();
    order.sort_by_key(|span| span.queries.start);
    let parts = result.chunks_exact_mut(dims.group() * dims.width);
    let mut parts = parts.zip(log_sum_exp.chunks_exact_mut(dims.group()));
    let (mut jobs, mut at) = (Vec::new(), 0);
    for span in order {
        assert!(span.queries.start >= at, "the queries of {span:?} belong to another span already");
        for _ in 0..(span.queries.start - at) * dims.kv_heads {
            parts.next();
        }
        for first in (0..span.queries.len()).step_by(dims.block_positions()) {
            let positions = dims.block_positions().min(span.queries.len() - first);
            let mut blocks: Vec<Job<'_>> = (0..dims.kv_heads)
                .map(|kv_head| Job {
                    block: QueryBlock { span, kv_head, first, positions },
                    result: Vec::with_capacity(positions),
                    log_sum_exp: Vec::with_capacity(positions),
                })
                .collect();
            for part in 0..positions * dims.kv_heads {
                let (result, log_sum_exp) = parts.next().expect("spans lie within the rows");
                let job = &mut blocks[part % dims.kv_heads];
                job.result.push(result);
                job.log_sum_exp.push(log_sum_exp);
            }
            jobs.append(&mut blocks);
        }
        at = span.queries.end;
    }
    jobs
}

impl Job<'_> {
    fn attend_by_columns(&mut self, dims: &Dims, inputs: Inputs<'_>) {
        let (block, width, columns) = (self.block, dims.width, self.block.columns(dims));
        let mut rows = Buffer::zeros(block.queries(dims) * dims.padded_width());
        block.load_rows(dims, inputs.query, dims.scale() * LOG2_E, &mut rows);
        let mut queries = Buffer::zeros(width * columns);
        block.transpose(dims, &rows, 1.0, &mut queries);
        let mut scores = Buffer::zeros(KEYS * columns);
        let mut mixed = Buffer::zeros(width * columns);
        let mut seen = Buffer::zeros(columns);
        let mut running = Running::new(columns);
        let keys_seen = block.keys_seen();
        let first_tile = block.keys_hidden() / KEYS * KEYS;
        for first_key in (first_tile..keys_seen).step_by(KEYS) {
            let keys = KEYS.min(keys_seen - first_key);
            let at = dims.key_at(block.span.keys.start + first_key, block.kv_head);
            let key_rows = Left::Rows(&inputs.key[at..], dims.key_strides.0);
            let value_columns = Left::Columns(&inputs.value[at..], dims.key_strides.0);
            let tile = &mut scores[..keys * columns];
            product(Form { rows: keys, inner: width, columns }, key_rows, &queries, tile);
            block.hide(dims, first_key, tile);
            softmax_columns(tile, block.seen(dims, first_key, keys, &mut seen), &mut running);
            scale_columns(&mut mixed, &running.shrink);
            let form = Form { rows: width, inner: keys, columns };
            add_product(form, value_columns, tile, &mut mixed);
        }
        for query in 0..block.queries(dims) {
            let (position, head) = (query / dims.group(), query % dims.group());
            let inverse = 1.0 / running.total[query];
            let to = &mut self.result[position][head * width..(head + 1) * width];
            for (to, from) in to.iter_mut().zip(mixed[query..].iter().step_by(columns)) {
                *to = from * inverse;
            }
            self.log_sum_exp[position][head] = running.largest[query] + running.total[query].log2();
        }
    }

    fn attend_by_rows(&mut self, dims: &Dims, inputs: Inputs<'_>) {
        let (block, width) = (self.block, dims.width);
        for query in 0..block.queries(dims) {
            let (position, head) = (query / dims.group(), query % dims.group());
            let at = block.query_at(dims, query);
            let hidden = block.span.keys_hidden(block.first + position);
            let first = dims.key_at(block.span.keys.start + hidden, block.kv_head);
            let row = RowOfQuery {
                query: &inputs.query[at..at + width],
                keys: &inputs.key[first..],
                values: &inputs.value[first..],
                keys_seen: block.span.keys_seen(block.first + position) - hidden,
                stride: dims.key_strides.0,
                scale: dims.scale(),
            };
            let to = &mut self.result[position][head * width..(head + 1) * width];
            self.log_sum_exp[position][head] = simd::vectorized(
                #[inline(always)]
                || row.attend(to),
            );
        }
    }
}

/// One query, and the keys and values that it sees.
struct RowOfQuery<'a> {
    query: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    /// How many keys it sees.
    keys_seen: usize,
    /// From one key to the next.
    stride: usize,
    /// What scores are multiplied by.
    scale: f32,
}

impl RowOfQuery<'_> {
    /// The result into `mixed`, which begins as zeros; returns the log-sum-exp in units of `ln 2`.
    #[inline(always)]
    fn attend(&self, mixed: &mut [f32]) -> f32 {
        let (keys, stride, width) = (self.keys_seen, self.stride, self.query.len());
        let mut scores = [0.0; KEYS];
        let (mut largest, mut total) = (f32::NEG_INFINITY, 0.0_f32);
        for first in (0..keys).step_by(KEYS) {
            let scores = &mut scores[..KEYS.min(keys - first)];
            for (key, score) in scores.iter_mut().enumerate() {
                let at = (first + key) * stride;
                *score = simd::dot(self.query, &self.keys[at..at + width]) * self.scale;
            }
            let before = largest;
            largest = simd::max(scores).max(before);
            let shrink = simd::exp(before - largest);
            for score in &mut *scores {
                *score = simd::exp(*score - largest);
            }
            total = total.mul_add(shrink, simd::sum(scores));
            for value in &mut *mixed {
                *value *= shrink;
            }
            for (key, weight) in scores.iter().enumerate() {
                let at = (first + key) * stride;
                simd::add_scaled(mixed, *weight, &self.values[at..at + width]);
            }
        }
        for value in mixed {
            *value /= total;
        }
        (largest + total.ln()) * LOG2_E
    }
}
