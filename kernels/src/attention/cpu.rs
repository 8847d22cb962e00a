//! Flash attention on the CPU: tiles that stay in cache, both passes without a score matrix.
//!
//! Forward works on blocks of query rows, which own contiguous rows of the result. Backward works on one
//! key head of one span at a time and keeps that head's transposed keys and values, so that each of the
//! five products of a tile reads rows. Sums run in a fixed order: results do not depend on threads.

use rayon::prelude::*;

use super::Span;
use crate::simd::{self, Form, Left};

/// Query rows of a block: enough to reuse a tile of keys, few enough that small batches still spread.
const QUERY_ROWS: usize = 32;
/// Keys of a tile: with a head width of 64 a transposed tile takes 16 KiB of first-level cache.
const KEYS: usize = 64;

/// The sizes that one call is about.
pub(super) struct Dims {
    pub(super) rows: usize,
    pub(super) heads: usize,
    key_rows: usize,
    kv_heads: usize,
    width: usize,
}

impl Dims {
    /// From the shapes of queries and keys.
    pub(super) fn of(query: &[usize; 3], key: &[usize; 3]) -> Self {
        Self { rows: query[0], heads: query[1], key_rows: key[0], kv_heads: key[1], width: query[2] }
    }

    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn query_stride(&self) -> usize {
        self.heads * self.width
    }

    fn key_stride(&self) -> usize {
        self.kv_heads * self.width
    }

    fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }
}

/// What both passes read.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) query: &'a [f32],
    pub(super) key: &'a [f32],
    pub(super) value: &'a [f32],
}

/// What only the backward pass reads.
#[derive(Clone, Copy)]
pub(super) struct Saved<'a> {
    pub(super) result: &'a [f32],
    pub(super) log_sum_exp: &'a [f32],
    pub(super) gradient: &'a [f32],
}

/// The result `[N, H, D]` and the log-sum-exp `[N, H]`.
pub(super) fn forward(dims: &Dims, inputs: Inputs<'_>, spans: &[Span]) -> (Vec<f32>, Vec<f32>) {
    let mut result = vec![0.0; dims.rows * dims.query_stride()];
    let mut log_sum_exp = vec![0.0; dims.rows * dims.heads];
    let blocks = query_blocks(dims, spans, &mut result, &mut log_sum_exp);
    blocks.into_par_iter().for_each(|block| {
        simd::vectorized(
            #[inline(always)]
            || forward_block(dims, inputs, block),
        )
    });
    (result, log_sum_exp)
}

/// A block of query rows of one span and the rows of the result that it fills.
struct QueryBlock<'a> {
    span: &'a Span,
    /// First row, counted from the span's first.
    first: usize,
    rows: usize,
    result: &'a mut [f32],
    log_sum_exp: &'a mut [f32],
}

/// Cuts the result into the rows of each block. Spans are disjoint in their queries, which the walk over
/// the result in row order relies on and asserts.
fn query_blocks<'a>(
    dims: &Dims,
    spans: &'a [Span],
    mut result: &'a mut [f32],
    mut log_sum_exp: &'a mut [f32],
) -> Vec<QueryBlock<'a>> {
    let mut order: Vec<&Span> = spans.iter().filter(|span| !span.queries.is_empty()).collect();
    order.sort_by_key(|span| span.queries.start);
    let (mut blocks, mut at) = (Vec::new(), 0);
    for span in order {
        assert!(span.queries.start >= at, "the queries of {span:?} belong to another span already");
        let gap = span.queries.start - at;
        result = result.split_at_mut(gap * dims.query_stride()).1;
        log_sum_exp = log_sum_exp.split_at_mut(gap * dims.heads).1;
        for first in (0..span.queries.len()).step_by(QUERY_ROWS) {
            let rows = QUERY_ROWS.min(span.queries.len() - first);
            let (mine, rest) = result.split_at_mut(rows * dims.query_stride());
            let (mine_lse, rest_lse) = log_sum_exp.split_at_mut(rows * dims.heads);
            blocks.push(QueryBlock { span, first, rows, result: mine, log_sum_exp: mine_lse });
            (result, log_sum_exp) = (rest, rest_lse);
        }
        at = span.queries.end;
    }
    blocks
}

#[inline(always)]
fn forward_block(dims: &Dims, inputs: Inputs<'_>, block: QueryBlock<'_>) {
    let (group, width) = (dims.group(), dims.width);
    let rows = block.rows * group;
    let mut queries = vec![0.0; rows * width];
    let mut scores = vec![0.0; rows * KEYS];
    let mut keys_transposed = vec![0.0; width * KEYS];
    let mut mixed = vec![0.0; rows * width];
    let mut running = vec![(f32::NEG_INFINITY, 0.0_f32); rows];
    let first_row = block.span.queries.start + block.first;
    let keys_seen = block.span.keys_seen(block.first + block.rows - 1);
    for kv_head in 0..dims.kv_heads {
        gather_rows(dims, inputs.query, (first_row, block.rows), (kv_head, dims.scale()), &mut queries);
        mixed.fill(0.0);
        running.fill((f32::NEG_INFINITY, 0.0));
        for first_key in (0..keys_seen).step_by(KEYS) {
            let keys = KEYS.min(keys_seen - first_key);
            let at = (block.span.keys.start + first_key) * dims.key_stride() + kv_head * width;
            let key_rows = &inputs.key[at..];
            if rows < 4 {
                scores_by_rows(&queries, (key_rows, dims.key_stride()), (keys, width), &mut scores);
            } else {
                transpose_tile((key_rows, dims.key_stride()), (keys, width), &mut keys_transposed);
                scores.fill(0.0);
                let form = Form { rows, inner: width, columns: KEYS };
                let left = Left { values: &queries, row: width, column: 1 };
                simd::multiply_add(form, left, (&keys_transposed, KEYS), (&mut scores, KEYS));
            }
            for row in 0..rows {
                let seen =
                    block.span.keys_seen(block.first + row / group).saturating_sub(first_key).min(keys);
                let tile = &mut scores[row * KEYS..(row + 1) * KEYS];
                soften(tile, seen, &mut running[row], &mut mixed[row * width..(row + 1) * width]);
            }
            let form = Form { rows, inner: keys, columns: width };
            let left = Left { values: &scores, row: KEYS, column: 1 };
            let values = (&inputs.value[at..], dims.key_stride());
            simd::multiply_add(form, left, values, (&mut mixed, width));
        }
        for (row, (largest, total)) in running.iter().enumerate() {
            let head = kv_head * group + row % group;
            let to = (row / group) * dims.query_stride() + head * width;
            for (to, from) in block.result[to..to + width].iter_mut().zip(&mixed[row * width..]) {
                *to = from / total;
            }
            block.log_sum_exp[(row / group) * dims.heads + head] = largest + total.ln();
        }
    }
}

/// Copies the heads of one key head's group, `[rows, group, D]`, times a factor.
#[inline(always)]
fn gather_rows(
    dims: &Dims,
    from: &[f32],
    (first, rows): (usize, usize),
    (kv_head, factor): (usize, f32),
    to: &mut [f32],
) {
    let run = dims.group() * dims.width;
    for row in 0..rows {
        let at = (first + row) * dims.query_stride() + kv_head * run;
        for (to, from) in to[row * run..(row + 1) * run].iter_mut().zip(&from[at..at + run]) {
            *to = from * factor;
        }
    }
}

/// `[keys, D]` rows to a `[D, KEYS]` tile; columns past the last key are 0.
#[inline(always)]
fn transpose_tile((from, stride): (&[f32], usize), (keys, width): (usize, usize), to: &mut [f32]) {
    if keys < KEYS {
        to.fill(0.0);
    }
    for key in 0..keys {
        for (d, value) in from[key * stride..key * stride + width].iter().enumerate() {
            to[d * KEYS + key] = *value;
        }
    }
}

/// Scores of a few queries by inner products: cheaper than a transposed tile for cached decode.
#[inline(always)]
fn scores_by_rows(
    queries: &[f32],
    (keys_at, stride): (&[f32], usize),
    (keys, width): (usize, usize),
    scores: &mut [f32],
) {
    for (row, query) in queries.chunks_exact(width).enumerate() {
        for key in 0..keys {
            scores[row * KEYS + key] = simd::dot(query, &keys_at[key * stride..key * stride + width]);
        }
    }
}

/// One step of the online softmax: turns the first `seen` scores of a tile into weights and the rest into
/// 0, and rescales what the row has summed so far to the new maximum.
#[inline(always)]
fn soften(tile: &mut [f32], seen: usize, running: &mut (f32, f32), mixed: &mut [f32]) {
    tile[seen..].fill(0.0);
    if seen == 0 {
        return;
    }
    let (before, total) = *running;
    let largest = simd::max(&tile[..seen]).max(before);
    let shrink = simd::exp(before - largest);
    for score in &mut tile[..seen] {
        *score = simd::exp(*score - largest);
    }
    *running = (largest, total.mul_add(shrink, simd::sum(&tile[..seen])));
    if shrink != 1.0 {
        for value in mixed {
            *value *= shrink;
        }
    }
}

/// The gradients of queries, keys and values.
pub(super) fn backward(
    dims: &Dims,
    inputs: Inputs<'_>,
    saved: Saved<'_>,
    spans: &[Span],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let jobs: Vec<(&Span, usize)> =
        spans.iter().flat_map(|span| (0..dims.kv_heads).map(move |kv_head| (span, kv_head))).collect();
    // Jobs are taken in batches so that their private sums never hold more than a few spans at a time.
    let mut sums = HeadSums {
        query: vec![0.0; dims.rows * dims.query_stride()],
        key: vec![0.0; dims.key_rows * dims.key_stride()],
        value: vec![0.0; dims.key_rows * dims.key_stride()],
    };
    for batch in jobs.chunks(rayon::current_num_threads().max(1) * 8) {
        let done: Vec<HeadSums> = batch
            .par_iter()
            .map(|&(span, kv_head)| {
                simd::vectorized(
                    #[inline(always)]
                    || backward_head(dims, inputs, saved, (span, kv_head)),
                )
            })
            .collect();
        for (&(span, kv_head), head) in batch.iter().zip(&done) {
            sums.add(dims, (span, kv_head), head);
        }
    }
    (sums.query, sums.key, sums.value)
}

/// Gradients: of one key head of one span (rows without gaps), or of everything.
struct HeadSums {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
}

impl HeadSums {
    fn add(&mut self, dims: &Dims, (span, kv_head): (&Span, usize), head: &HeadSums) {
        let run = dims.group() * dims.width;
        let into = |to: &mut [f32], from: &[f32], (start, stride, width): (usize, usize, usize)| {
            for (row, from) in from.chunks_exact(width).enumerate() {
                let at = (start + row) * stride + kv_head * width;
                simd::add_scaled(&mut to[at..at + width], 1.0, from);
            }
        };
        into(&mut self.query, &head.query, (span.queries.start, dims.query_stride(), run));
        into(&mut self.key, &head.key, (span.keys.start, dims.key_stride(), dims.width));
        into(&mut self.value, &head.value, (span.keys.start, dims.key_stride(), dims.width));
    }
}

/// The buffers of one block of queries in the backward pass.
struct BackwardBlock {
    queries: Vec<f32>,
    gradients: Vec<f32>,
    /// Sum of gradient times result of a row, the part of the softmax's derivative common to its row.
    delta: Vec<f32>,
    log_sum_exp: Vec<f32>,
    weights: Vec<f32>,
    scores: Vec<f32>,
}

#[inline(always)]
fn backward_head(
    dims: &Dims,
    inputs: Inputs<'_>,
    saved: Saved<'_>,
    (span, kv_head): (&Span, usize),
) -> HeadSums {
    let (group, width) = (dims.group(), dims.width);
    let tiles = span.keys.len().div_ceil(KEYS);
    let tile_len = width * KEYS;
    let mut keys_transposed = vec![0.0; tiles * tile_len];
    let mut values_transposed = vec![0.0; tiles * tile_len];
    for tile in 0..tiles {
        let keys = KEYS.min(span.keys.len() - tile * KEYS);
        let at = (span.keys.start + tile * KEYS) * dims.key_stride() + kv_head * width;
        let to = tile * tile_len..(tile + 1) * tile_len;
        let stride = dims.key_stride();
        transpose_tile((&inputs.key[at..], stride), (keys, width), &mut keys_transposed[to.clone()]);
        transpose_tile((&inputs.value[at..], stride), (keys, width), &mut values_transposed[to]);
    }
    let mut sums = HeadSums {
        query: vec![0.0; span.queries.len() * group * width],
        key: vec![0.0; span.keys.len() * width],
        value: vec![0.0; span.keys.len() * width],
    };
    let rows_max = QUERY_ROWS * group;
    let mut block = BackwardBlock {
        queries: vec![0.0; rows_max * width],
        gradients: vec![0.0; rows_max * width],
        delta: vec![0.0; rows_max],
        log_sum_exp: vec![0.0; rows_max],
        weights: vec![0.0; rows_max * KEYS],
        scores: vec![0.0; rows_max * KEYS],
    };
    for first in (0..span.queries.len()).step_by(QUERY_ROWS) {
        let rows = QUERY_ROWS.min(span.queries.len() - first);
        block.load(dims, inputs, saved, (span.queries.start + first, rows, kv_head));
        for tile in 0..span.keys_seen(first + rows - 1).div_ceil(KEYS) {
            let at = (span.keys.start + tile * KEYS) * dims.key_stride() + kv_head * width;
            let tile_rows = TileRows {
                first_key: tile * KEYS,
                keys: KEYS.min(span.keys.len() - tile * KEYS),
                keys_transposed: &keys_transposed[tile * tile_len..(tile + 1) * tile_len],
                values_transposed: &values_transposed[tile * tile_len..(tile + 1) * tile_len],
                key_rows: (&inputs.key[at..], dims.key_stride()),
            };
            block.backward_tile(dims, span, (first, rows), &tile_rows, &mut sums);
        }
    }
    for value in &mut sums.query {
        *value *= dims.scale();
    }
    sums
}

/// One tile of keys and values, as the products of the backward pass read them.
struct TileRows<'a> {
    first_key: usize,
    keys: usize,
    keys_transposed: &'a [f32],
    values_transposed: &'a [f32],
    key_rows: (&'a [f32], usize),
}

impl BackwardBlock {
    #[inline(always)]
    fn load(
        &mut self,
        dims: &Dims,
        inputs: Inputs<'_>,
        saved: Saved<'_>,
        (first, rows, kv_head): (usize, usize, usize),
    ) {
        let (group, width) = (dims.group(), dims.width);
        gather_rows(dims, inputs.query, (first, rows), (kv_head, dims.scale()), &mut self.queries);
        gather_rows(dims, saved.gradient, (first, rows), (kv_head, 1.0), &mut self.gradients);
        for row in 0..rows * group {
            let head = kv_head * group + row % group;
            let at = (first + row / group) * dims.query_stride() + head * width;
            self.delta[row] =
                simd::dot(&self.gradients[row * width..(row + 1) * width], &saved.result[at..at + width]);
            self.log_sum_exp[row] = saved.log_sum_exp[(first + row / group) * dims.heads + head];
        }
    }

    #[inline(always)]
    fn backward_tile(
        &mut self,
        dims: &Dims,
        span: &Span,
        (first, rows): (usize, usize),
        tile: &TileRows<'_>,
        sums: &mut HeadSums,
    ) {
        let (group, width) = (dims.group(), dims.width);
        let rows = rows * group;
        let to_keys = Form { rows, inner: width, columns: KEYS };
        let by_row = |values| Left { values, row: width, column: 1 };
        self.weights[..rows * KEYS].fill(0.0);
        self.scores[..rows * KEYS].fill(0.0);
        simd::multiply_add(
            to_keys,
            by_row(&self.queries),
            (tile.keys_transposed, KEYS),
            (&mut self.weights, KEYS),
        );
        simd::multiply_add(
            to_keys,
            by_row(&self.gradients),
            (tile.values_transposed, KEYS),
            (&mut self.scores, KEYS),
        );
        for row in 0..rows {
            let seen = span.keys_seen(first + row / group).saturating_sub(tile.first_key).min(tile.keys);
            let weights = &mut self.weights[row * KEYS..(row + 1) * KEYS];
            let scores = &mut self.scores[row * KEYS..(row + 1) * KEYS];
            let (log_sum_exp, delta) = (self.log_sum_exp[row], self.delta[row]);
            for (weight, score) in weights[..seen].iter_mut().zip(&mut scores[..seen]) {
                *weight = simd::exp(*weight - log_sum_exp);
                *score = *weight * (*score - delta);
            }
            weights[seen..].fill(0.0);
            scores[seen..].fill(0.0);
        }
        let to_rows = Form { rows: tile.keys, inner: rows, columns: width };
        let transposed = |values| Left { values, row: 1, column: KEYS };
        let keys_at = tile.first_key * width;
        simd::multiply_add(
            to_rows,
            transposed(&self.weights),
            (&self.gradients, width),
            (&mut sums.value[keys_at..], width),
        );
        simd::multiply_add(
            to_rows,
            transposed(&self.scores),
            (&self.queries, width),
            (&mut sums.key[keys_at..], width),
        );
        let to_queries = Form { rows, inner: tile.keys, columns: width };
        let scores = Left { values: &self.scores, row: KEYS, column: 1 };
        let queries_at = first * group * width;
        simd::multiply_add(to_queries, scores, tile.key_rows, (&mut sums.query[queries_at..], width));
    }
}
