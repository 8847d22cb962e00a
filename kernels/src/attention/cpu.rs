//! Flash attention on the CPU: tiles that stay in cache, both passes without a score matrix.
//!
//! Here is what both passes share: sizes, and how queries are laid out. A block holds the queries of some
//! positions under one key head; each is a column of the tiles that [`crate::panel`] works on, so a block's
//! queries are transposed once and keys and values are read where they are. Sums run in a fixed order:
//! results do not depend on threads.

use super::AttentionRows;
use crate::panel::LANES;

pub(super) mod backward;
pub(super) mod forward;

/// Queries of a block: four vectors of the widest kind, so that a tile of scores with 64 keys takes 16 KiB
/// of first-level cache.
const BLOCK_QUERIES: usize = 64;

/// The sizes that one call is about.
pub(super) struct Dims {
    pub(super) rows: usize,
    pub(super) heads: usize,
    kv_heads: usize,
    width: usize,
    /// From one row of a key head to the next, and from one key head to the next.
    key_strides: (usize, usize),
    /// What scores are multiplied by.
    scale: f32,
}

impl Dims {
    /// From the shapes of queries `[N, H, D]` and keys `[M, KV, D]`, with scores over `sqrt(D)`.
    pub(super) fn of(query: &[usize; 3], key: &[usize; 3]) -> Self {
        let key_strides = (key[1] * key[2], key[2]);
        let scale = 1.0 / (query[2] as f32).sqrt();
        Self { rows: query[0], heads: query[1], kv_heads: key[1], width: query[2], key_strides, scale }
    }

    /// As [`Dims::of`] with keys and values that lie head by head, `[KV, M, D]`: the rows that a block of queries
    /// reads are then neighbours, and do not evict each other from the cache.
    pub(super) fn with_heads_apart(query: &[usize; 3], key: &[usize; 3], scale: f32) -> Self {
        let key_strides = (key[2], key[1] * key[2]);
        Self { key_strides, scale, ..Self::of(query, &[key[1], key[0], key[2]]) }
    }

    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    fn query_stride(&self) -> usize {
        self.heads * self.width
    }

    /// Where the numbers of one key head begin in a row of keys.
    fn key_at(&self, row: usize, kv_head: usize) -> usize {
        row * self.key_strides.0 + kv_head * self.key_strides.1
    }

    fn scale(&self) -> f32 {
        self.scale
    }

    /// Positions whose queries under one key head make a block.
    fn block_positions(&self) -> usize {
        (BLOCK_QUERIES / self.group()).max(1)
    }

    /// The head width in whole vectors.
    fn padded_width(&self) -> usize {
        self.width.next_multiple_of(LANES)
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
    /// In units of `ln 2`, as the forward pass gives it.
    pub(super) log_sum_exp: &'a [f32],
    pub(super) gradient: &'a [f32],
}

/// The queries of some positions of a span under one key head, position by position.
#[derive(Clone, Copy)]
struct QueryBlock<'a> {
    span: &'a AttentionRows,
    kv_head: usize,
    /// First position, counted from the span's first query.
    first: usize,
    positions: usize,
}

impl QueryBlock<'_> {
    /// How many queries there are.
    fn queries(&self, dims: &Dims) -> usize {
        self.positions * dims.group()
    }

    /// Columns of its tiles: the queries, filled up to whole vectors.
    fn columns(&self, dims: &Dims) -> usize {
        self.queries(dims).next_multiple_of(LANES)
    }

    /// Where query `query` begins in tensors of the form of the queries.
    fn query_at(&self, dims: &Dims, query: usize) -> usize {
        self.entry_at(dims, query) * dims.width
    }

    /// Where query `query` stands among rows of heads.
    fn entry_at(&self, dims: &Dims, query: usize) -> usize {
        let row = self.span.queries.start + self.first + query / dims.group();
        row * dims.heads + self.kv_head * dims.group() + query % dims.group()
    }

    /// Keys that at least one of the queries sees.
    fn keys_seen(&self) -> usize {
        self.span.keys_seen(self.first + self.positions - 1)
    }

    /// Keys that are behind the windows of all queries.
    fn keys_hidden(&self) -> usize {
        self.span.keys_hidden(self.first)
    }

    /// Leaves the keys of a tile of scores out that are behind a query's window.
    fn hide(&self, dims: &Dims, first_key: usize, tile: &mut [f32]) {
        let columns = self.columns(dims);
        if self.span.keys_hidden(self.first + self.positions - 1) <= first_key {
            return;
        }
        for query in 0..self.queries(dims) {
            let hidden = self.span.keys_hidden(self.first + query / dims.group()).saturating_sub(first_key);
            for row in tile.chunks_exact_mut(columns).take(hidden) {
                row[query] = f32::NEG_INFINITY;
            }
        }
    }

    /// How many of the keys from `first_key` on each query sees, into `seen`; `None` if all see `keys`.
    fn seen<'s>(&self, dims: &Dims, first_key: usize, keys: usize, seen: &'s mut [f32]) -> Option<&'s [f32]> {
        if self.span.keys_seen(self.first) >= first_key + keys {
            return None;
        }
        for (query, seen) in seen.iter_mut().enumerate().take(self.queries(dims)) {
            let keys_seen = self.span.keys_seen(self.first + query / dims.group());
            *seen = keys_seen.saturating_sub(first_key).min(keys) as f32;
        }
        Some(seen)
    }

    /// The queries' numbers times a factor as rows, `[queries, padded D]`.
    fn load_rows(&self, dims: &Dims, from: &[f32], factor: f32, to: &mut [f32]) {
        // Rows of a position's heads lie together, so that no row's place is computed by division.
        let mut rows = to.chunks_exact_mut(dims.padded_width());
        for position in 0..self.positions {
            let at = self.query_at(dims, position * dims.group());
            let heads = from[at..at + dims.group() * dims.width].chunks_exact(dims.width);
            for (from, to) in heads.zip(rows.by_ref()) {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = from * factor;
                }
            }
        }
    }

    /// Rows as [`QueryBlock::load_rows`] gives them, times a factor, as columns `[D, columns]`; columns past the
    /// last query are 0. Loading rows first waits for memory once a row and not once a number.
    fn transpose(&self, dims: &Dims, rows: &[f32], factor: f32, to: &mut [f32]) {
        let (columns, queries) = (self.columns(dims), self.queries(dims));
        if queries < columns {
            to.fill(0.0);
        }
        for (d, to) in to.chunks_exact_mut(columns).enumerate() {
            for (query, to) in to[..queries].iter_mut().enumerate() {
                *to = rows[query * dims.padded_width() + d] * factor;
            }
        }
    }
}

/// Copies one key head of as many rows as there is room for, `[rows, D]` without gaps.
fn copy_head(dims: &Dims, from: &[f32], first: usize, kv_head: usize, to: &mut [f32]) {
    for (row, to) in to.chunks_exact_mut(dims.width).enumerate() {
        let at = dims.key_at(first + row, kv_head);
        to.copy_from_slice(&from[at..at + dims.width]);
    }
}
