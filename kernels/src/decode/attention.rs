//! Attention over a context in blocks, for the queries of one or of many positions.
//!
//! Blocks begin at fixed positions of the context and a row's arithmetic does not depend on its neighbours,
//! so that a position's result is the same whether it was computed alone or among many.

use std::cell::RefCell;

use super::cache::{BLOCK_POSITIONS, Context, Shape};
use crate::panel::{Buffer, Form, LANES, Left, RunningRow, add_product, product_of_first, soften_rows};
use crate::simd;

/// Queries that go over the keys together: their scores with one block take 16 KiB of first-level cache.
pub(super) const QUERIES_MAX: usize = 64;

/// With at most so many queries keys and values are used up sooner than memory brings them.
const QUERIES_STREAMED: usize = 16;

/// Queries under one key head, times the scores' scale in units of `ln 2`.
pub(super) struct Queries<'a> {
    /// Row `i` begins at `i * distance`.
    pub(super) values: &'a [f32],
    pub(super) distance: usize,
    pub(super) rows: usize,
    /// The position of the first row, and by how much that of the next is larger: 0 for heads of one position,
    /// 1 for positions of one head.
    pub(super) position: (usize, usize),
}

struct Scratch {
    scores: Buffer,
    mixed: Buffer,
    /// Keys and values of a block that are held in fewer bits.
    widened: Buffer,
    running: Vec<RunningRow>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        scores: Buffer::zeros(QUERIES_MAX * BLOCK_POSITIONS),
        mixed: Buffer::zeros(0),
        widened: Buffer::zeros(0),
        running: Vec::new(),
    });
}

/// Mixes the values that the queries see; row `i` of the result begins at `i * distance` of `result`.
pub(super) fn attend(
    (shape, context): (&Shape, &Context),
    (layer, kv_head): (usize, usize),
    queries: &Queries<'_>,
    (result, distance): (&mut [f32], usize),
) {
    assert!(queries.rows <= QUERIES_MAX, "{} queries at once", queries.rows);
    SCRATCH.with_borrow_mut(|scratch| {
        let (rows, width) = (queries.rows, shape.value_width);
        if scratch.mixed.len() < QUERIES_MAX * width {
            scratch.mixed = Buffer::zeros(QUERIES_MAX * width);
        }
        let mixed = &mut scratch.mixed[..rows * width];
        mixed.fill(0.0);
        scratch.running.clear();
        scratch.running.resize(rows, RunningRow::NEW);
        let seen_by_last = queries.position.0 + (rows - 1) * queries.position.1 + 1;
        for (block, first) in (0..seen_by_last).step_by(BLOCK_POSITIONS).enumerate() {
            let head = context.head(shape, block, (layer, kv_head));
            let (keys, values) = shape.widened(head, &mut scratch.widened);
            let next = if rows <= QUERIES_STREAMED {
                context.next(shape, (block, seen_by_last), (layer, kv_head))
            } else {
                &[]
            };
            let (next_keys, next_values) = next.split_at(next.len() / 2);
            let scores = &mut scratch.scores[..rows * BLOCK_POSITIONS];
            let form = Form { rows, inner: shape.head_width, columns: BLOCK_POSITIONS };
            let columns = BLOCK_POSITIONS.min((seen_by_last - first).next_multiple_of(LANES));
            let left = Left::Rows(queries.values, queries.distance);
            product_of_first((form, columns), left, keys, scores, next_keys);
            let seen_by_first = (queries.position.0 + 1) as isize - first as isize;
            let seen = (seen_by_first, queries.position.1 as isize);
            soften_rows((scores, columns), seen, &mut scratch.running);
            shrink_rows(mixed, &scratch.running);
            // Behind the last key that is seen may stand what an earlier context left.
            let form = Form { rows, inner: BLOCK_POSITIONS.min(seen_by_last - first), columns: width };
            add_product(form, Left::Rows(scores, BLOCK_POSITIONS), values, mixed, next_values);
        }
        for (row, mixed) in mixed.chunks_exact(width).enumerate() {
            let inverse = 1.0 / scratch.running[row].total;
            let to = &mut result[row * distance..][..shape.head_width];
            to.iter_mut().zip(mixed).for_each(|(to, from)| *to = from * inverse);
        }
    });
}

fn shrink_rows(mixed: &mut [f32], running: &[RunningRow]) {
    let width = mixed.len() / running.len();
    simd::vectorized(
        #[inline(always)]
        || {
            for (row, running) in mixed.chunks_exact_mut(width).zip(running) {
                row.iter_mut().for_each(|value| *value *= running.shrink);
            }
        },
    );
}
