//! The backward pass: scores are computed again, tile by tile, from the log-sum-exp of each row.
//!
//! The unit of work is a segment of keys under one key head, which every later block of queries goes over.
//! It owns the gradients of its keys and values; what it adds to the queries' gradients is summed up
//! segment by segment in a fixed order. A chunk of a long sequence so costs what its own tiles cost.

use std::f32::consts::LOG2_E;

use rayon::prelude::*;

use super::{AttentionRows, Dims, Inputs, QueryBlock, Saved, copy_head};
use crate::panel::{Buffer, Columns, Form, LANES, Left, add_product, product, softmax_backward};
use crate::rows::TASK_BLOCKS;
use crate::simd;

/// Keys of a tile: both tiles of 64 queries take 32 KiB of first-level cache.
const KEYS: usize = 64;
/// Keys of a segment: enough that loading a block of queries is cheap beside its products, few enough that
/// a sequence of some thousand tokens feeds every core.
const SEGMENT_KEYS: usize = 512;
/// Rows of the queries' gradients that one thread sums.
const SUMMED_ROWS: usize = 64;

/// The gradients of queries; adds those of keys and values, which have the form of the keys.
pub(in crate::attention) fn gradients(
    dims: &Dims,
    inputs: Inputs<'_>,
    saved: Saved<'_>,
    spans: &[AttentionRows],
    (dkey, dvalue): (&mut [f32], &mut [f32]),
) -> Vec<f32> {
    let deltas = deltas(dims, saved);
    let mut dquery = vec![0.0; dims.rows * dims.query_stride()];
    for batch in segments(dims, spans).chunks(batch_segments()) {
        let pass = BackwardPass { dims, inputs, saved, deltas: &deltas };
        let done: Vec<SegmentSums<'_>> =
            batch.par_iter().with_max_len(TASK_BLOCKS).map(|segment| pass.segment(*segment)).collect();
        let add_to_queries = || {
            let rows = dquery.par_chunks_mut(SUMMED_ROWS * dims.query_stride());
            rows.enumerate().for_each(|(part, sums)| {
                for segment in &done {
                    segment.add_to_queries(dims, part * SUMMED_ROWS, sums);
                }
            });
        };
        let add_to_keys = || done.iter().for_each(|segment| segment.add_to_keys(dims, &segment.key, dkey));
        let add_to_values =
            || done.iter().for_each(|segment| segment.add_to_keys(dims, &segment.value, dvalue));
        rayon::join(add_to_queries, || rayon::join(add_to_keys, add_to_values));
    }
    dquery
}

/// Segments of a batch, so that not many sums for the queries are held at a time.
fn batch_segments() -> usize {
    rayon::current_num_threads().max(1) * 8
}

/// Numbers that [`gradients`] holds beside its arguments and its result, for queries that see `keys` keys.
pub(in crate::attention) fn numbers_held(dims: &Dims, keys: usize) -> usize {
    let segments = batch_segments().min(dims.kv_heads * keys.div_ceil(SEGMENT_KEYS));
    let rows = SEGMENT_KEYS.min(keys);
    segments * (dims.rows * dims.group() * dims.width + 2 * rows * (dims.width + dims.padded_width()))
}

/// Keys of a span under one key head.
#[derive(Clone, Copy)]
struct Segment<'a> {
    span: &'a AttentionRows,
    kv_head: usize,
    /// First key, counted from the span's first.
    first: usize,
    keys: usize,
}

impl Segment<'_> {
    /// The first position of the span that sees a key of the segment.
    fn first_position(&self) -> usize {
        self.first.saturating_sub(self.span.keys.len() - self.span.queries.len())
    }

    /// One behind the last position of the span that sees a key of the segment.
    fn end_position(&self) -> usize {
        let all = self.span.queries.len();
        let before = self.span.keys.len() - all;
        let last_key = self.first + self.keys - 1;
        self.span.window.map_or(all, |window| all.min((last_key + window).saturating_sub(before)))
    }
}

/// All segments, those with the most queries first.
fn segments<'a>(dims: &Dims, spans: &'a [AttentionRows]) -> Vec<Segment<'a>> {
    let mut segments = Vec::new();
    for span in spans.iter().filter(|span| !span.queries.is_empty()) {
        for first in (0..span.keys.len()).step_by(SEGMENT_KEYS) {
            let keys = SEGMENT_KEYS.min(span.keys.len() - first);
            segments.extend((0..dims.kv_heads).map(|kv_head| Segment { span, kv_head, first, keys }));
        }
    }
    segments
}

/// The sum of gradient times result of every row and head, `[N, H]`: the part of the softmax's
/// derivative that is common to a row's scores.
fn deltas(dims: &Dims, saved: Saved<'_>) -> Vec<f32> {
    let mut deltas = vec![0.0; dims.rows * dims.heads];
    let parts = deltas.par_chunks_mut(SUMMED_ROWS * dims.heads);
    let gradients = saved.gradient.par_chunks(SUMMED_ROWS * dims.query_stride());
    let results = saved.result.par_chunks(SUMMED_ROWS * dims.query_stride());
    parts.zip(gradients).zip(results).for_each(|((deltas, gradients), results)| {
        let rows = gradients.chunks_exact(dims.width).zip(results.chunks_exact(dims.width));
        simd::vectorized(
            #[inline(always)]
            || {
                for (delta, (gradient, result)) in deltas.iter_mut().zip(rows) {
                    *delta = simd::dot(gradient, result);
                }
            },
        );
    });
    deltas
}

/// What one segment adds to the gradients.
struct SegmentSums<'a> {
    segment: Segment<'a>,
    /// `[positions, group * D]`, from the segment's first position on.
    query: Vec<f32>,
    /// `[keys, padded D]`.
    key: Buffer,
    /// `[keys, padded D]`.
    value: Buffer,
}

impl SegmentSums<'_> {
    /// Adds to rows of the queries' gradients that begin with row `first`.
    fn add_to_queries(&self, dims: &Dims, first: usize, sums: &mut [f32]) {
        let run = dims.group() * dims.width;
        let own = self.segment.span.queries.start + self.segment.first_position();
        let end = (first + sums.len() / dims.query_stride()).min(own + self.query.len() / run);
        simd::vectorized(
            #[inline(always)]
            || {
                for row in first.max(own)..end {
                    let to = (row - first) * dims.query_stride() + self.segment.kv_head * run;
                    let from = &self.query[(row - own) * run..(row - own + 1) * run];
                    simd::add_scaled(&mut sums[to..to + run], dims.scale(), from);
                }
            },
        );
    }

    /// Adds the gradients of the segment's keys or values.
    fn add_to_keys(&self, dims: &Dims, from: &[f32], to: &mut [f32]) {
        let first = self.segment.span.keys.start + self.segment.first;
        for (row, from) in from.chunks_exact(dims.padded_width()).enumerate() {
            let at = dims.key_at(first + row, self.segment.kv_head);
            for (to, from) in to[at..at + dims.width].iter_mut().zip(from) {
                *to += from;
            }
        }
    }
}

/// What every segment reads.
struct BackwardPass<'a> {
    dims: &'a Dims,
    inputs: Inputs<'a>,
    saved: Saved<'a>,
    deltas: &'a [f32],
}

impl BackwardPass<'_> {
    fn segment<'s>(&self, segment: Segment<'s>) -> SegmentSums<'s> {
        let (dims, span) = (self.dims, segment.span);
        let room = || Buffer::zeros(segment.keys * dims.width);
        let mut tiles = KeyRows { keys: room(), values: room() };
        let first = span.keys.start + segment.first;
        copy_head(dims, self.inputs.key, first, segment.kv_head, &mut tiles.keys);
        copy_head(dims, self.inputs.value, first, segment.kv_head, &mut tiles.values);
        let first_position = segment.first_position();
        let end_position = segment.end_position().max(first_position);
        let positions = end_position - first_position;
        let mut sums = SegmentSums {
            segment,
            query: Vec::with_capacity(positions * dims.group() * dims.width),
            key: Buffer::zeros(segment.keys * dims.padded_width()),
            value: Buffer::zeros(segment.keys * dims.padded_width()),
        };
        let mut loaded = LoadedBlock::new(dims, positions.min(dims.block_positions()));
        for first in (first_position..end_position).step_by(dims.block_positions()) {
            let positions = dims.block_positions().min(end_position - first);
            let block = QueryBlock { span, kv_head: segment.kv_head, first, positions };
            loaded.load(self, block);
            let end = (segment.first + segment.keys).min(block.keys_seen());
            for first_key in (segment.first..end).step_by(KEYS) {
                let keys = KEYS.min(end - first_key);
                if first_key + keys <= block.keys_hidden() {
                    continue;
                }
                loaded.add_tile(dims, block, Tile { first_key, keys }, &tiles, &mut sums);
            }
            loaded.unload_queries(dims, block, &mut sums.query);
        }
        sums
    }
}

/// Keys that a block of queries meets together.
#[derive(Clone, Copy)]
struct Tile {
    /// Counted from the span's first key.
    first_key: usize,
    keys: usize,
}

/// The keys and values of a segment, `[keys, D]` without gaps.
struct KeyRows {
    keys: Buffer,
    values: Buffer,
}

/// A block of queries as the products of the backward pass read it.
struct LoadedBlock {
    /// `[D, columns]`, times the scale of the scores in units of `ln 2`.
    query_columns: Buffer,
    /// `[D, columns]`.
    gradient_columns: Buffer,
    /// `[queries, padded D]`, times the scale of the scores.
    query_rows: Buffer,
    /// `[queries, padded D]`.
    gradient_rows: Buffer,
    /// The log-sum-exp of each column, in units of `ln 2`.
    log_sum_exp: Buffer,
    /// The sum of gradient times result of each column.
    delta: Buffer,
    /// Keys of a tile that each column sees.
    seen: Buffer,
    scores: Buffer,
    score_gradients: Buffer,
    /// The queries' gradients, `[D, columns]`.
    sums: Buffer,
}

impl LoadedBlock {
    /// Room for blocks of at most `positions`.
    fn new(dims: &Dims, positions: usize) -> Self {
        let columns = (positions * dims.group()).next_multiple_of(LANES);
        let zeros = |rows| Buffer::zeros(rows * columns);
        Self {
            query_columns: zeros(dims.width),
            gradient_columns: zeros(dims.width),
            query_rows: zeros(dims.padded_width()),
            gradient_rows: zeros(dims.padded_width()),
            log_sum_exp: zeros(1),
            delta: zeros(1),
            seen: zeros(1),
            scores: zeros(KEYS),
            score_gradients: zeros(KEYS),
            sums: zeros(dims.width),
        }
    }

    fn load(&mut self, pass: &BackwardPass<'_>, block: QueryBlock<'_>) {
        let (dims, saved) = (pass.dims, pass.saved);
        let query = pass.inputs.query;
        let columns = dims.width * block.columns(dims);
        block.load_rows(dims, query, dims.scale(), &mut self.query_rows);
        block.transpose(dims, &self.query_rows, LOG2_E, &mut self.query_columns[..columns]);
        block.load_rows(dims, saved.gradient, 1.0, &mut self.gradient_rows);
        block.transpose(dims, &self.gradient_rows, 1.0, &mut self.gradient_columns[..columns]);
        for query in 0..block.queries(dims) {
            let entry = block.entry_at(dims, query);
            self.log_sum_exp[query] = saved.log_sum_exp[entry];
            self.delta[query] = pass.deltas[entry];
        }
        self.sums.fill(0.0);
    }

    /// The five products of one tile.
    fn add_tile(
        &mut self,
        dims: &Dims,
        block: QueryBlock<'_>,
        Tile { first_key, keys }: Tile,
        rows: &KeyRows,
        sums: &mut SegmentSums<'_>,
    ) {
        let (width, columns) = (dims.width, block.columns(dims));
        let in_segment = first_key - sums.segment.first;
        let key_rows = &rows.keys[in_segment * width..];
        let value_rows = &rows.values[in_segment * width..];
        let scores = &mut self.scores[..keys * columns];
        let gradients = &mut self.score_gradients[..keys * columns];
        let form = Form { rows: keys, inner: width, columns };
        product(form, Left::Rows(key_rows, width), &self.query_columns, scores);
        block.hide(dims, first_key, scores);
        product(form, Left::Rows(value_rows, width), &self.gradient_columns, gradients);
        let seen = block.seen(dims, first_key, keys, &mut self.seen[..columns]);
        let of_columns =
            Columns { log_sum_exp: &self.log_sum_exp[..columns], delta: &self.delta[..columns], seen };
        softmax_backward(scores, gradients, of_columns);

        let form = Form { rows: keys, inner: block.queries(dims), columns: dims.padded_width() };
        let at = in_segment * dims.padded_width();
        add_product(form, Left::Rows(scores, columns), &self.gradient_rows, &mut sums.value[at..]);
        add_product(form, Left::Rows(gradients, columns), &self.query_rows, &mut sums.key[at..]);
        let form = Form { rows: width, inner: keys, columns };
        add_product(form, Left::Columns(key_rows, width), gradients, &mut self.sums);
    }

    /// Appends the block's gradients to rows of `[positions, group * D]`.
    fn unload_queries(&self, dims: &Dims, block: QueryBlock<'_>, rows: &mut Vec<f32>) {
        let (columns, queries, first) = (block.columns(dims), block.queries(dims), rows.len());
        rows.resize(first + queries * dims.width, 0.0);
        // Sixteen queries at a time read each line of the cache once.
        for (part, to) in rows[first..].chunks_mut(LANES * dims.width).enumerate() {
            for (d, sums) in self.sums.chunks_exact(columns).take(dims.width).enumerate() {
                let own = sums[part * LANES..].iter();
                for (to, sum) in to[d..].iter_mut().step_by(dims.width).zip(own) {
                    *to = *sum;
                }
            }
        }
    }
}
