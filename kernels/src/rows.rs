//! Blocks of rows, and what happens to one between two products.

use std::ops::Range;

use rayon::prelude::*;

use crate::gemm::{Packed, add_multiply};
use crate::panel::Left;
use crate::{norm, rotary, simd};

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

/// Numbers of a task that writes or copies them.
pub(crate) const TASK_NUMBERS: usize = 64 << 10;

/// New zeros. They are written by all threads before they are read: a page of new memory that is read first is given
/// twice, and the second time every processor has to forget the first one.
pub(crate) fn zeros(len: usize) -> Vec<f32> {
    let mut zeros = vec![0.0; len];
    fill_with_zeros(&mut zeros);
    zeros
}

/// Writes zeros on all threads.
pub(crate) fn fill_with_zeros(values: &mut [f32]) {
    values.par_chunks_mut(TASK_NUMBERS).for_each(|part| part.fill(0.0));
}

/// A buffer and the length of its rows.
pub(crate) type Matrix<'a> = (&'a mut [f32], usize);

/// Rows of each block but the last, of so many rows. Depends on nothing else, so that results do not either.
pub(crate) fn block_rows(rows: usize) -> usize {
    let blocks = rows.div_ceil(ROWS_MAX).next_multiple_of(BLOCKS_TOGETHER);
    rows.div_ceil(blocks.max(1)).max(ROWS_MIN)
}

/// Cuts buffers of equally many rows into blocks of [`block_rows`], for one task each.
pub(crate) fn blocks<'a, const N: usize>(buffers: [Matrix<'a>; N]) -> Vec<[&'a mut [f32]; N]> {
    let counts = buffers.each_ref().map(|(values, width)| values.len() / width);
    assert!(counts.iter().all(|count| *count == counts[0]), "buffers of {counts:?} rows");
    let each = block_rows(counts[0]);
    let mut parts = buffers.map(|(values, width)| values.chunks_mut(each * width));
    let cut = |_| parts.each_mut().map(|parts| parts.next().expect("as many blocks in each buffer"));
    (0..counts[0].div_ceil(each)).map(cut).collect()
}

/// Works on all blocks at once; the first argument is the block's rows.
pub(crate) fn for_each_block<const N: usize>(
    buffers: [Matrix<'_>; N],
    work: impl Fn(Range<usize>, [&mut [f32]; N]) + Sync + Send,
) {
    let rows = buffers[0].0.len() / buffers[0].1;
    let each = block_rows(rows);
    blocks(buffers).into_par_iter().enumerate().with_max_len(TASK_BLOCKS).for_each(|(block, parts)| {
        work(block * each..((block + 1) * each).min(rows), parts);
    });
}

/// The same rows of a matrix of some width.
pub(crate) fn part<'a>(values: &'a [f32], rows: &Range<usize>, width: usize) -> &'a [f32] {
    &values[rows.start * width..rows.end * width]
}

/// `y` is the norm of each row of `x`.
pub(crate) fn norm_rows(x: &[f32], gain: &[f32], eps: f64, y: &mut [f32]) {
    simd::vectorized(
        #[inline(always)]
        || {
            for (x, y) in x.chunks_exact(gain.len()).zip(y.chunks_exact_mut(gain.len())) {
                norm::forward_row(x, gain, eps, y);
            }
        },
    );
}

/// The norm of each row, in place.
pub(crate) fn norm_rows_in_place(x: &mut [f32], gain: &[f32], eps: f64) {
    let mut row = vec![0.0; gain.len()];
    simd::vectorized(
        #[inline(always)]
        || {
            for x in x.chunks_exact_mut(gain.len()) {
                row.copy_from_slice(x);
                norm::forward_row(&row, gain, eps, x);
            }
        },
    );
}

/// Replaces the gradients of norms by those of their inputs `x`, and adds to the gain's.
pub(crate) fn norm_rows_backward(x: &[f32], gain: &[f32], eps: f64, (dy, dgain): (&mut [f32], &mut [f32])) {
    let mut row = vec![0.0; gain.len()];
    simd::vectorized(
        #[inline(always)]
        || {
            for (x, dy) in x.chunks_exact(gain.len()).zip(dy.chunks_exact_mut(gain.len())) {
                norm::backward_row(x, gain, dy, eps, &mut row, dgain);
                dy.copy_from_slice(&row);
            }
        },
    );
}

/// Rotates heads of some width in place by their rows' angles, or back.
pub(crate) fn rotate_rows(x: &mut [f32], row: usize, (cos, sin): (&[f32], &[f32]), back: bool) {
    let half = cos.len() / (x.len() / row);
    let sign = if back { -1.0 } else { 1.0 };
    simd::vectorized(
        #[inline(always)]
        || {
            let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
            for (x, (cos, sin)) in x.chunks_exact_mut(row).zip(angles) {
                for head in x.chunks_exact_mut(2 * half) {
                    rotary::rotate_head(head, cos, sin, sign);
                }
            }
        },
    );
}

/// `y += x`.
pub(crate) fn add_columns(y: &mut [f32], x: &[f32]) {
    simd::vectorized(
        #[inline(always)]
        || simd::add_scaled(y, 1.0, x),
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

/// What is added to the gradient `dw` of a weight `[out, in]`: `dw`, `dy` with its width `out`, and `x` `[rows, in]`
/// packed.
pub(crate) type WeightGradient<'a> = (&'a mut [f32], (&'a [f32], usize), &'a Packed);

/// `dw += dy^T x` for some weights at once.
pub(crate) fn add_weight_gradients<const N: usize>(gradients: [WeightGradient<'_>; N]) {
    let tasks = gradients.into_iter().flat_map(|(dw, (dy, out), x)| {
        let width = dw.len() / out;
        let parts = dw.chunks_mut(GRADIENT_ROWS * width).enumerate();
        parts.map(move |(part, dw)| (dw, Left::Columns(&dy[part * GRADIENT_ROWS..], out), x, width))
    });
    let tasks: Vec<_> = tasks.collect();
    tasks.into_par_iter().with_max_len(TASK_BLOCKS).for_each(|(dw, left, x, width)| {
        add_multiply(dw.len() / width, left, x, dw);
    });
}
