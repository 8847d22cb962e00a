//! Blocks of rows, and what happens to one between two products.

use std::ops::Range;

use rayon::prelude::*;

use crate::gemm::{PackedMatrix, add_multiply};
use crate::panel::Left;
use crate::simd;

/// The most rows of a block: enough that a panel of a weight is used often while it is in first-level cache, few
/// enough that a block of activations stays in second-level cache and a chunk of some hundred rows feeds many cores.
const ROWS_MAX: usize = 48;
/// The fewest rows that are worth a block of their own: those of a register tile.
const ROWS_MIN: usize = 6;
/// Rows are cut into a multiple of so many blocks, so that two or four threads get equally many.
const BLOCKS_TOGETHER: usize = 4;
/// Rows of a weight whose gradient one task adds to.
const GRADIENT_ROWS: usize = 24;
/// Blocks that are handed to a thread at once. Where half of all are, the other threads have nothing left to take
/// while the last of them is worked on.
pub(crate) const TASK_BLOCKS: usize = 1;

/// A buffer and the length of its rows.
pub(crate) struct Matrix<'a> {
    values: &'a mut [f32],
    width: usize,
}

impl<'a> Matrix<'a> {
    pub(crate) fn new(values: &'a mut [f32], width: usize) -> Self {
        Self { values, width }
    }

    fn rows(&self) -> usize {
        self.values.len() / self.width
    }

    /// Takes the first rows off.
    pub(crate) fn take_rows(&mut self, rows: usize) -> &'a mut [f32] {
        let (first, rest) = std::mem::take(&mut self.values).split_at_mut(rows * self.width);
        self.values = rest;
        first
    }
}

/// Rows of each block but the last, of so many rows. Depends on nothing else, so that results do not either.
pub(crate) fn block_rows(rows: usize) -> usize {
    let blocks = rows.div_ceil(ROWS_MAX).next_multiple_of(BLOCKS_TOGETHER);
    rows.div_ceil(blocks.max(1)).max(ROWS_MIN)
}

/// Cuts buffers of equally many rows into blocks of [`block_rows`], for one task each.
pub(crate) fn blocks<'a, const N: usize>(buffers: [Matrix<'a>; N]) -> Vec<[&'a mut [f32]; N]> {
    let counts = buffers.each_ref().map(Matrix::rows);
    assert!(counts.iter().all(|count| *count == counts[0]), "buffers of {counts:?} rows");
    let each = block_rows(counts[0]);
    let mut parts = buffers.map(|Matrix { values, width }| values.chunks_mut(each * width));
    let cut = |_| parts.each_mut().map(|parts| parts.next().expect("as many blocks in each buffer"));
    (0..counts[0].div_ceil(each)).map(cut).collect()
}

/// Works on all blocks at once; the first argument is the block's rows.
pub(crate) fn for_each_block<const N: usize>(
    buffers: [Matrix<'_>; N],
    work: impl Fn(Range<usize>, [&mut [f32]; N]) + Sync + Send,
) {
    let rows = buffers[0].rows();
    let each = block_rows(rows);
    blocks(buffers).into_par_iter().enumerate().with_max_len(TASK_BLOCKS).for_each(|(block, parts)| {
        work(block * each..((block + 1) * each).min(rows), parts);
    });
}

/// The same rows of a matrix of some width.
pub(crate) fn part<'a>(values: &'a [f32], rows: &Range<usize>, width: usize) -> &'a [f32] {
    &values[rows.start * width..rows.end * width]
}

/// `y += x`.
pub(crate) fn add_columns(y: &mut [f32], x: &[f32]) {
    add_scaled_columns(y, 1.0, x);
}

/// `y += scale x`.
pub(crate) fn add_scaled_columns(y: &mut [f32], scale: f32, x: &[f32]) {
    simd::vectorized(
        #[inline(always)]
        || simd::add_scaled(y, scale, x),
    );
}

/// Adds a bias to every row.
pub(crate) fn add_bias(rows: &mut [f32], bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        rows.chunks_exact_mut(bias.len()).for_each(|row| add_columns(row, bias));
    }
}

/// Adds the sum of all rows: a bias's gradient.
pub(crate) fn add_row_sums(sum: &mut [f32], rows: &[f32]) {
    // One block's sum is complete before it is added: many rows so lose less to rounding.
    for block in rows.chunks(ROWS_MAX * sum.len()) {
        let mut total = vec![0.0; sum.len()];
        block.chunks_exact(sum.len()).for_each(|row| add_columns(&mut total, row));
        add_columns(sum, &total);
    }
}

/// What is added to the gradient of a weight `[out, in]`: `dy^T x`.
pub(crate) struct WeightGradient<'a> {
    /// What it is added to.
    pub(crate) sum: &'a mut [f32],
    /// `[rows, out]`.
    pub(crate) dy: &'a [f32],
    pub(crate) out: usize,
    /// `[rows, in]`.
    pub(crate) x: &'a PackedMatrix,
}

/// Adds to the gradients of some weights at once.
pub(crate) fn add_weight_gradients<'a>(gradients: impl IntoIterator<Item = WeightGradient<'a>>) {
    let tasks = gradients.into_iter().flat_map(|WeightGradient { sum, dy, out, x }| {
        let width = sum.len() / out;
        let parts = sum.chunks_mut(GRADIENT_ROWS * width).enumerate();
        parts.map(move |(part, dw)| (dw, Left::Columns(&dy[part * GRADIENT_ROWS..], out), x, width))
    });
    let tasks: Vec<_> = tasks.collect();
    tasks.into_par_iter().with_max_len(TASK_BLOCKS).for_each(|(dw, left, x, width)| {
        add_multiply(dw.len() / width, left, x, dw);
    });
}
