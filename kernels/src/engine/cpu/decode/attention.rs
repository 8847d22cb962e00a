//! Attention over a context in blocks, for the queries of one or of many positions.
//!
//! ContextBlocks begin at fixed positions of the context and a row's arithmetic does not depend on its neighbours,
//! so that a position's result is the same whether it was computed alone or among many.

use std::array;
use std::cell::RefCell;

use pulp::{Simd, WithSimd, bytemuck};

use super::cache::{BLOCK_POSITIONS, CachePrecision, Context, HeadAt, Shape};
use crate::panel::{
    Buffer, Form, KeysSeen, LANES, Left, RunningRow, add_product, product_of_first, softmax_row, softmax_rows,
};
use crate::prefetch::Lines;
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
    /// The position of the first row.
    pub(super) position: usize,
    /// By how much the next row's position is larger: 0 for heads of one position, 1 for positions of one head.
    pub(super) step: usize,
    /// How many positions a query sees at most, its own among them.
    pub(super) window: Option<usize>,
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
    shape: &Shape,
    context: &Context,
    head: HeadAt,
    queries: &Queries<'_>,
    result: &mut [f32],
    distance: usize,
) {
    assert!(queries.rows <= QUERIES_MAX, "{} queries at once", queries.rows);
    SCRATCH.with_borrow_mut(|scratch| {
        let (rows, width) = (queries.rows, shape.value_width);
        if scratch.mixed.len() < QUERIES_MAX * width {
            scratch.mixed = Buffer::zeros(QUERIES_MAX * width);
        }
        scratch.mixed[..rows * width].fill(0.0);
        scratch.running.clear();
        scratch.running.resize(rows, RunningRow::NEW);
        let blocks = ContextBlocks { shape, context, head, queries };
        if rows <= QUERIES_STREAMED {
            simd::arch().dispatch(Streamed { blocks: &blocks, scratch });
        } else {
            blocks.attend_by_tiles(scratch);
        }
        for (row, mixed) in scratch.mixed.chunks_exact(width).take(rows).enumerate() {
            let inverse = 1.0 / scratch.running[row].total;
            let to = &mut result[row * distance..][..shape.head_width];
            to.iter_mut().zip(mixed).for_each(|(to, from)| *to = from * inverse);
        }
    });
}

/// The blocks of a context under one key head, for the queries that go over them.
struct ContextBlocks<'a> {
    shape: &'a Shape,
    context: &'a Context,
    head: HeadAt,
    queries: &'a Queries<'a>,
}

impl<'a> ContextBlocks<'a> {
    /// Positions that the last query sees.
    fn seen_by_last(&self) -> usize {
        self.queries.position + (self.queries.rows - 1) * self.queries.step + 1
    }

    /// Numbers and first positions of the blocks that a query sees.
    fn each(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let first = self.hidden(0) / BLOCK_POSITIONS;
        (0..self.seen_by_last()).step_by(BLOCK_POSITIONS).enumerate().skip(first)
    }

    /// How many of the first positions are behind the window of query `row`.
    fn hidden(&self, row: usize) -> usize {
        let seen = self.queries.position + row * self.queries.step + 1;
        self.queries.window.map_or(0, |window| seen.saturating_sub(window))
    }

    /// Leaves positions out of a query's scores of the block that begins with `first` that are behind its window.
    #[inline(always)]
    fn hide(&self, row: usize, first: usize, scores: &mut [f32]) {
        let hidden = self.hidden(row).saturating_sub(first).min(scores.len());
        scores[..hidden].fill(f32::NEG_INFINITY);
    }

    /// Positions from `first` on that the queries see.
    fn seen(&self, first: usize) -> KeysSeen {
        let by_first = (self.queries.position + 1) as isize - first as isize;
        KeysSeen { first: by_first, step: self.queries.step as isize }
    }

    /// Positions of the block that begins with `first` that the last query sees, and the same in whole vectors.
    fn positions(&self, first: usize) -> (usize, usize) {
        let left = self.seen_by_last() - first;
        (left.min(BLOCK_POSITIONS), left.next_multiple_of(LANES).min(BLOCK_POSITIONS))
    }

    fn words(&self, block: usize) -> &'a [u32] {
        self.context.head(self.shape, block, self.head)
    }

    /// Many queries: what a block is needed for outweighs that it comes from memory.
    fn attend_by_tiles(&self, scratch: &mut Scratch) {
        let (shape, queries) = (self.shape, self.queries);
        let (rows, width) = (queries.rows, shape.value_width);
        let mixed = &mut scratch.mixed[..rows * width];
        for (block, first) in self.each() {
            let (keys, values) = shape.widened(self.words(block), &mut scratch.widened);
            let scores = &mut scratch.scores[..rows * BLOCK_POSITIONS];
            let form = Form { rows, inner: shape.head_width, columns: BLOCK_POSITIONS };
            let (positions, columns) = self.positions(first);
            let left = Left::Rows(queries.values, queries.distance);
            product_of_first(form, columns, left, keys, scores);
            for (row, scores) in scores.chunks_exact_mut(BLOCK_POSITIONS).enumerate() {
                self.hide(row, first, scores);
            }
            softmax_rows(scores, columns, self.seen(first), &mut scratch.running);
            shrink_rows(mixed, &scratch.running);
            // Behind the last key that is seen may stand what an earlier context left.
            let form = Form { rows, inner: positions, columns: width };
            add_product(form, Left::Rows(scores, BLOCK_POSITIONS), values, mixed);
        }
    }
}

/// Few queries: the work on a block is over sooner than memory brings the next one, and so is asked for meanwhile.
/// All of it is one function of the instruction set, with the arithmetic of [`ContextBlocks::attend_by_tiles`]. What is held
/// in fewer bits is widened in registers.
struct Streamed<'a> {
    blocks: &'a ContextBlocks<'a>,
    scratch: &'a mut Scratch,
}

impl WithSimd for Streamed<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.blocks.shape.precision {
            CachePrecision::F32 => self.attend::<S, Whole>(simd),
            CachePrecision::Bf16 => self.attend::<S, Halves>(simd),
        }
    }
}

impl Streamed<'_> {
    #[inline(always)]
    fn attend<S: Simd, H: Held<S>>(self, simd: S) {
        let Self { blocks, scratch } = self;
        let Scratch { scores, mixed, running, .. } = scratch;
        let (shape, rows) = (blocks.shape, blocks.queries.rows);
        for (block, first) in blocks.each() {
            let (keys, values) = shape.keys_and_values(blocks.words(block));
            let tile =
                Tile::<S, H> { simd, blocks, first, keys: H::vectors(keys), values: H::vectors(values) };
            let mut next = blocks.context.next(shape, block, blocks.seen_by_last(), blocks.head);
            let mut row = 0;
            while row < rows {
                let state = TileState { scores, mixed, running };
                row += match rows - row {
                    1 => tile.attend::<1, 8>(row, next, state),
                    2 => tile.attend::<2, 4>(row, next, state),
                    3 => tile.attend::<3, 4>(row, next, state),
                    _ => tile.attend::<4, 2>(row, next, state),
                };
                // The first queries have asked for all of it.
                next = [Lines::NONE; 2];
            }
        }
    }
}

/// How rows of numbers are held. Vectors of a row are counted in the order in which widening gives them.
trait Held<S: Simd> {
    /// What is loaded at once.
    type Loaded: Copy;
    /// Vectors of numbers that are loaded at once.
    const EACH: usize;

    fn vectors(words: &[u32]) -> &[Self::Loaded];

    /// The numbers of the first `N` vectors of what is left of a row.
    fn numbers<const N: usize>(simd: S, row: &[Self::Loaded]) -> [S::f32s; N];

    /// Where a vector stands in a row of `all`.
    fn place(vector: usize, all: usize) -> usize;

    /// How many vectors are to be gone over for the first `count` places of a row of `all`.
    fn reach(count: usize, all: usize) -> usize;
}

/// In 32 bits.
struct Whole;

impl<S: Simd> Held<S> for Whole {
    type Loaded = S::f32s;
    const EACH: usize = 1;

    #[inline(always)]
    fn vectors(words: &[u32]) -> &[S::f32s] {
        S::as_simd_f32s(bytemuck::cast_slice(words)).0
    }

    #[inline(always)]
    fn numbers<const N: usize>(_: S, row: &[S::f32s]) -> [S::f32s; N] {
        *row.first_chunk().expect("the vectors lie within a row")
    }

    #[inline(always)]
    fn place(vector: usize, _: usize) -> usize {
        vector
    }

    #[inline(always)]
    fn reach(count: usize, _: usize) -> usize {
        count
    }
}

/// In 16 bits, the first half of a row low and the second half high in its words.
struct Halves;

impl<S: Simd> Held<S> for Halves {
    type Loaded = S::u32s;
    const EACH: usize = 2;

    #[inline(always)]
    fn vectors(words: &[u32]) -> &[S::u32s] {
        S::as_simd_u32s(words).0
    }

    #[inline(always)]
    fn numbers<const N: usize>(simd: S, row: &[S::u32s]) -> [S::f32s; N] {
        let row = &row[..N / 2];
        array::from_fn(
            #[inline(always)]
            |n| {
                simd.transmute_f32s_u32s(match n % 2 {
                    0 => simd.wrapping_dyn_shl_u32s(row[n / 2], simd.splat_u32s(16)),
                    _ => simd.and_u32s(row[n / 2], simd.splat_u32s(0xffff_0000)),
                })
            },
        )
    }

    #[inline(always)]
    fn place(vector: usize, all: usize) -> usize {
        vector / 2 + vector % 2 * (all / 2)
    }

    #[inline(always)]
    fn reach(count: usize, all: usize) -> usize {
        all.min(2 * count)
    }
}

/// The right factor of a tile's product: rows of so many vectors.
#[derive(Clone, Copy)]
struct Right<'a, L> {
    rows: &'a [L],
    all: usize,
}

/// What a tile's queries read and change.
struct TileState<'a> {
    scores: &'a mut [f32],
    mixed: &'a mut [f32],
    running: &'a mut [RunningRow],
}

/// One block as few queries go over it.
struct Tile<'a, S: Simd, H: Held<S>> {
    simd: S,
    blocks: &'a ContextBlocks<'a>,
    /// First position of the block.
    first: usize,
    /// `[D, BLOCK_POSITIONS]`.
    keys: &'a [H::Loaded],
    /// `[BLOCK_POSITIONS, value_width]`.
    values: &'a [H::Loaded],
}

impl<S: Simd, H: Held<S>> Tile<'_, S, H> {
    /// `M` queries from `row` on, `N` vectors of columns at a time, while memory brings `next`, keys and values.
    /// Returns `M`.
    #[inline(always)]
    fn attend<const M: usize, const N: usize>(
        &self,
        row: usize,
        next: [Lines<'_>; 2],
        TileState { scores, mixed, running }: TileState<'_>,
    ) -> usize {
        let (simd, blocks) = (self.simd, self.blocks);
        let (head_width, width) = (blocks.shape.head_width, blocks.shape.value_width);
        let (positions, columns) = blocks.positions(self.first);
        let scores = &mut scores[..M * BLOCK_POSITIONS];
        let mixed = S::as_mut_simd_f32s(&mut mixed[row * width..(row + M) * width]).0;
        let running = &mut running[row..row + M];

        let Queries { values, distance, .. } = *blocks.queries;
        let queries: [&[f32]; M] = array::from_fn(|m| &values[(row + m) * distance..][..head_width]);
        let all = BLOCK_POSITIONS / S::F32_LANES;
        let (to, count) = (S::as_mut_simd_f32s(scores).0, columns / S::F32_LANES);
        self.product::<M, N>(&queries, Right { rows: self.keys, all }, count, to, None, next[0]);
        for (m, (scores, running)) in scores.chunks_exact_mut(BLOCK_POSITIONS).zip(&mut *running).enumerate()
        {
            blocks.hide(row + m, self.first, scores);
            let seen = blocks.seen(self.first).of_row(row + m);
            softmax_row(simd, &mut scores[..columns], seen, running);
        }
        // Behind the last key that is seen may stand what an earlier context left.
        let weights: [&[f32]; M] = array::from_fn(|m| &scores[m * BLOCK_POSITIONS..][..positions]);
        let all = width / S::F32_LANES;
        let shrink = array::from_fn(|m| simd.splat_f32s(running[m].shrink));
        self.product::<M, N>(&weights, Right { rows: self.values, all }, all, mixed, Some(shrink), next[1]);
        M
    }

    /// `to = left right`, or `to = to shrink + left right`, for the first `count` of the `all` vectors of each row of
    /// `right` and `to`; vectors behind them may be written as well.
    #[inline(always)]
    fn product<const M: usize, const N: usize>(
        &self,
        left: &[&[f32]; M],
        right: Right<'_, H::Loaded>,
        count: usize,
        to: &mut [S::f32s],
        shrink: Option<[S::f32s; M]>,
        mut next: Lines<'_>,
    ) {
        let (mut vector, end) = (0, H::reach(count, right.all));
        while vector + N <= end {
            let sums = self.sums::<M, N>(left, right, vector, next);
            self.put(sums, &mut *to, right.all, vector, shrink);
            (vector, next) = (vector + N, Lines::NONE);
        }
        while N > 4 && vector + 4 <= end {
            let sums = self.sums::<M, 4>(left, right, vector, next);
            self.put(sums, &mut *to, right.all, vector, shrink);
            (vector, next) = (vector + 4, Lines::NONE);
        }
        while vector + 2 <= end {
            let sums = self.sums::<M, 2>(left, right, vector, next);
            self.put(sums, &mut *to, right.all, vector, shrink);
            (vector, next) = (vector + 2, Lines::NONE);
        }
        while H::EACH == 1 && vector < end {
            let sums = self.sums::<M, 1>(left, right, vector, next);
            self.put(sums, &mut *to, right.all, vector, shrink);
            (vector, next) = (vector + 1, Lines::NONE);
        }
    }

    #[inline(always)]
    fn put<const M: usize, const N: usize>(
        &self,
        sums: [[S::f32s; N]; M],
        to: &mut [S::f32s],
        all: usize,
        vector: usize,
        shrink: Option<[S::f32s; M]>,
    ) {
        for (m, sums) in sums.into_iter().enumerate() {
            let to = &mut to[m * all..][..all];
            for (n, sum) in sums.into_iter().enumerate() {
                let to = &mut to[H::place(vector + n, all)];
                *to = match shrink {
                    Some(shrink) => self.simd.add_f32s(self.simd.mul_f32s(*to, shrink[m]), sum),
                    None => sum,
                };
            }
        }
    }

    #[inline(always)]
    fn sums<const M: usize, const N: usize>(
        &self,
        left: &[&[f32]; M],
        Right { rows: right, all }: Right<'_, H::Loaded>,
        vector: usize,
        next: Lines<'_>,
    ) -> [[S::f32s; N]; M] {
        let simd = self.simd;
        let terms = left[0].len();
        let left = left.map(|row| &row[..terms]);
        let (mut next_rows, each) = (next.rows(), next.count().div_ceil(terms));
        let mut sums = [[simd.splat_f32s(0.0); N]; M];
        for (k, right) in right.chunks_exact(all / H::EACH).take(terms).enumerate() {
            next_rows.by_ref().take(each).for_each(|row| next.ask(row));
            let right: [S::f32s; N] = H::numbers(simd, &right[vector / H::EACH..]);
            for m in 0..M {
                let factor = simd.splat_f32s(left[m][k]);
                for n in 0..N {
                    sums[m][n] = simd.mul_add_f32s(factor, right[n], sums[m][n]);
                }
            }
        }
        sums
    }
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
