//! Products of matrices for the layers' own passes: `c = a b` and `c += a b` with the right factor packed.
//!
//! A weight meets many rows, so it is packed once into panels that the register tiles read straight through.
//! A call computes some rows of the result on the thread that calls it: who calls cuts the rows, so that what
//! comes before and after a product happens to the same rows while they are in cache. Sums run in a fixed
//! order that depends on neither threads nor the cut.

mod packed;

use std::cell::RefCell;
use std::ops::Range;

use pulp::{Simd, WithSimd, bytemuck};

use crate::panel::{Buffer, Left};
use crate::prefetch::Ahead;
use crate::simd;
pub use packed::Precision;
pub(crate) use packed::{FactorShape, PackedMatrix, Packing, bf16};
use packed::{WHOLE_BITS, WHOLE_OFFSET};

/// The longest sums between two visits of a result. A panel's part of so many rows is read again from the nearest
/// caches for each tile; longer parts leave them, and shorter ones have the result visited more often.
const DEPTH_MAX: usize = 512;
/// As many where numbers are widened first, into a buffer that has to be in those caches as well.
const DEPTH_WIDENED_MAX: usize = 128;
/// Rows of a register tile: with four vectors of columns they fill 24 of 32 registers, with two 12 of 16.
const ROWS: usize = 6;
/// A left factor of at most so many numbers is read again for each panel from second-level cache, so that the right
/// one is read straight through from memory.
const TILED_NUMBERS_MAX: usize = 64 << 10;
/// With at least so many tiles of rows it takes less to widen the numbers of a panel's part once for all.
const TILES_WIDENED: usize = 2;
/// A factor of so many bytes is not in a core's cache when it is used again: it is asked for ahead of its use.
const AHEAD_BYTES_MIN: usize = 64 << 10;
/// Rows of words between two requests for words ahead.
const AHEAD_ROWS: usize = 8;

/// `c = a b`.
///
/// # Shapes
/// `a` is `[rows, inner]` by its [`Left`], `c` row-major `[rows, columns]`.
pub(crate) fn multiply(rows: usize, a: Left<'_>, b: &PackedMatrix, c: &mut [f32]) {
    run::<false>(rows, a, b, 0..b.panels(), c);
}

/// `c += a b`, otherwise as [`multiply`].
pub(crate) fn add_multiply(rows: usize, a: Left<'_>, b: &PackedMatrix, c: &mut [f32]) {
    run::<true>(rows, a, b, 0..b.panels(), c);
}

/// The columns of `a b` that lie in some panels: what one of several threads does for few rows.
///
/// # Shapes
/// `c` is row-major `[rows, columns of the panels]`, otherwise as [`multiply`].
pub(crate) fn multiply_panels(
    rows: usize,
    a: Left<'_>,
    b: &PackedMatrix,
    panels: Range<usize>,
    c: &mut [f32],
) {
    run::<false>(rows, a, b, panels, c);
}

/// Adds the columns to `c`, otherwise as [`multiply_panels`].
pub(crate) fn add_multiply_panels(
    rows: usize,
    a: Left<'_>,
    b: &PackedMatrix,
    panels: Range<usize>,
    c: &mut [f32],
) {
    run::<true>(rows, a, b, panels, c);
}

#[inline(never)]
fn run<const ADD: bool>(rows: usize, a: Left<'_>, b: &PackedMatrix, panels: Range<usize>, c: &mut [f32]) {
    let columns = b.columns.min(panels.end * b.width) - panels.start * b.width;
    assert_eq!(c.len(), rows * columns, "a result of the product's form");
    SCRATCH.with_borrow_mut(|scratch| {
        let product = Product { add: ADD, rows, a, b, panels, columns, c };
        simd::arch().dispatch(Call { product, scratch });
    });
}

struct Product<'a, 'c> {
    add: bool,
    rows: usize,
    a: Left<'a>,
    b: &'a PackedMatrix,
    panels: Range<usize>,
    /// Columns of the panels.
    columns: usize,
    c: &'c mut [f32],
}

/// A panel and the first of the sums that are read of it.
#[derive(Clone, Copy)]
struct PanelAt {
    panel: usize,
    sum: usize,
}

/// What of a panel goes into some sums of `depth` numbers.
#[derive(Clone, Copy)]
struct PanelPart<'b, S: Simd, const N: usize> {
    b: &'b [[S::u32s; N]],
    depth: usize,
}

struct Call<'a, 'c, 's> {
    product: Product<'a, 'c>,
    scratch: &'s mut Scratch,
}

impl WithSimd for Call<'_, '_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        if S::REGISTER_COUNT >= 32 {
            self.product.all::<S, 4>(simd, self.scratch);
        } else {
            self.product.all::<S, 2>(simd, self.scratch);
        }
    }
}

/// Buffers of a thread that serve every product.
struct Scratch {
    /// The left factor in tiles.
    tiles: Buffer,
    /// A part of a panel in f32.
    widened: Buffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { tiles: Buffer::zeros(0), widened: Buffer::zeros(0) });
}

impl Product<'_, '_> {
    #[inline(always)]
    fn all<S: Simd, const N: usize>(&mut self, simd: S, scratch: &mut Scratch) {
        let (inner, panels) = (self.b.inner, self.panels.clone());
        let numbers = self.b.all_words().1;
        let part = part_depth(inner, if numbers == 1 { DEPTH_MAX } else { DEPTH_WIDENED_MAX });
        let depth = if self.rows * inner <= TILED_NUMBERS_MAX { inner.max(1) } else { part };
        if scratch.tiles.len() < self.rows * depth {
            scratch.tiles = Buffer::zeros(self.rows * depth);
        }
        if numbers > 1 && scratch.widened.len() < part * self.b.width {
            scratch.widened = Buffer::zeros(part * self.b.width);
        }
        let Scratch { tiles, widened } = scratch;
        for first in (0..inner).step_by(depth) {
            let end = inner.min(first + depth);
            for k in (first..end).step_by(part) {
                let own = k..end.min(k + part);
                let len = self.rows * own.len();
                self.tile(own, &mut tiles[(k - first) * self.rows..][..len]);
            }
            for panel in panels.clone() {
                for k in (first..end).step_by(part) {
                    let own = k..end.min(k + part);
                    // What is read after this.
                    let next = if own.end < end {
                        PanelAt { panel, sum: own.end }
                    } else if panel + 1 < panels.end {
                        PanelAt { panel: panel + 1, sum: first }
                    } else {
                        PanelAt { panel: panels.start, sum: end }
                    };
                    let tiles = &tiles[(k - first) * self.rows..][..self.rows * own.len()];
                    match numbers {
                        1 => self.part::<S, 1, N>(simd, panel, own, next, tiles, widened),
                        2 => self.part::<S, 2, N>(simd, panel, own, next, tiles, widened),
                        _ => self.part::<S, 4, N>(simd, panel, own, next, tiles, widened),
                    }
                }
            }
        }
    }

    /// Sums `own` of the left factor as tiles `[sums, rows of the tile]`, one after the other.
    #[inline(always)]
    fn tile(&self, own: Range<usize>, to: &mut [f32]) {
        let depth = own.len();
        for (row, count) in tiles(self.rows) {
            let to = &mut to[row * depth..][..count * depth];
            match count {
                6 => self.fill_tile::<6>(row, own.start, to),
                5 => self.fill_tile::<5>(row, own.start, to),
                4 => self.fill_tile::<4>(row, own.start, to),
                3 => self.fill_tile::<3>(row, own.start, to),
                2 => self.fill_tile::<2>(row, own.start, to),
                _ => self.fill_tile::<1>(row, own.start, to),
            }
        }
    }

    #[inline(always)]
    fn fill_tile<const M: usize>(&self, row: usize, first: usize, to: &mut [f32]) {
        let to = to.as_chunks_mut::<M>().0;
        match self.a {
            Left::Rows(values, distance) => {
                // Blocks of eight sums are turned in registers.
                let (blocks, rest) = to.as_chunks_mut::<8>();
                let rows: [&[f32]; M] = std::array::from_fn(|m| {
                    &values[(row + m) * distance + first..][..8 * blocks.len() + rest.len()]
                });
                for (block, to) in blocks.iter_mut().enumerate() {
                    let from: [&[f32; 8]; M] = std::array::from_fn(|m| &rows[m].as_chunks::<8>().0[block]);
                    for k in 0..8 {
                        for m in 0..M {
                            to[k][m] = from[m][k];
                        }
                    }
                }
                for (k, to) in rest.iter_mut().enumerate() {
                    for m in 0..M {
                        to[m] = rows[m][8 * blocks.len() + k];
                    }
                }
            }
            Left::Columns(values, distance) => {
                for (to, from) in to.iter_mut().zip(values[first * distance..].chunks(distance)) {
                    if let Some(from) = from[row..].first_chunk::<M>() {
                        *to = *from;
                    }
                }
            }
        }
    }

    /// What the sums `own`, a part of [`part_depth`], add to one panel's columns of all rows. Memory brings the words
    /// from `next` on meanwhile.
    #[inline(always)]
    fn part<S: Simd, const K: usize, const N: usize>(
        &mut self,
        simd: S,
        panel: usize,
        own: Range<usize>,
        next: PanelAt,
        left: &[f32],
        scratch: &mut [f32],
    ) {
        let (rows, b, depth) = (self.rows, self.b, own.len());
        let words = b.all_words().0;
        let at = |PanelAt { panel, sum }| panel * b.words(K) + sum / K * b.width;
        let len = depth.div_ceil(K) * b.width;
        let own_words = &words[at(PanelAt { panel, sum: own.start })..][..len];
        let next = at(next).min(words.len());
        let far = size_of_val(words) >= AHEAD_BYTES_MIN;
        let next = if far { &words[next..words.len().min(next + len)] } else { &[] };
        let count = rows.div_ceil(ROWS);
        let mut ahead = Ahead::new(next, (AHEAD_ROWS * b.width).div_ceil(count));
        let add = self.add || own.start > 0;
        let first = (panel - self.panels.start) * b.width;
        let mut to =
            Target { simd, add, c: &mut *self.c, columns: self.columns, first, scales: b.scales(panel) };
        if K > 1 && count >= TILES_WIDENED {
            let widened = &mut scratch[..depth * b.width];
            widen::<S, K, N>(simd, own_words, widened);
            let b = S::as_simd_u32s(bytemuck::cast_slice(widened)).0.as_chunks::<N>().0;
            // The words are fewer than the numbers, so fewer are asked for at once.
            ahead.at_once((AHEAD_ROWS * self.b.width / K).div_ceil(count));
            rows_by_tiles::<S, 1, N>(simd, rows, left, PanelPart { b, depth }, &mut ahead, &mut to);
        } else {
            let b = S::as_simd_u32s(own_words).0.as_chunks::<N>().0;
            rows_by_tiles::<S, K, N>(simd, rows, left, PanelPart { b, depth }, &mut ahead, &mut to);
        }
    }
}

/// The longest part of sums of some length that are cut into parts as equal as can be, of whole steps of
/// [`AHEAD_ROWS`] words of any precision.
fn part_depth(inner: usize, most: usize) -> usize {
    inner.div_ceil(inner.div_ceil(most).max(1)).next_multiple_of(4 * AHEAD_ROWS).clamp(1, most)
}

/// First row and number of rows of each tile: as equal as can be, as a small one takes longer for each of its rows.
#[inline(always)]
fn tiles(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = rows.div_ceil(ROWS);
    let (each, more) = (rows / count.max(1), rows % count.max(1));
    (0..count).map(move |tile| (tile * each + tile.min(more), each + usize::from(tile < more)))
}

#[inline(always)]
fn rows_by_tiles<S: Simd, const K: usize, const N: usize>(
    simd: S,
    rows: usize,
    left: &[f32],
    part: PanelPart<'_, S, N>,
    ahead: &mut Ahead<'_>,
    to: &mut Target<'_, S>,
) {
    for (row, count) in tiles(rows) {
        let a = &left[row * part.depth..][..count * part.depth];
        match count {
            6 => to.put(row, by_tile::<S, K, 6, N>(simd, a, part, ahead)),
            5 => to.put(row, by_tile::<S, K, 5, N>(simd, a, part, ahead)),
            4 => to.put(row, by_tile::<S, K, 4, N>(simd, a, part, ahead)),
            3 => to.put(row, by_tile::<S, K, 3, N>(simd, a, part, ahead)),
            2 => to.put(row, by_tile::<S, K, 2, N>(simd, a, part, ahead)),
            _ => to.put(row, by_tile::<S, K, 1, N>(simd, a, part, ahead)),
        }
    }
}

/// Sums over `depth` numbers that lie `K` to a word.
#[inline(always)]
fn by_tile<S: Simd, const K: usize, const M: usize, const N: usize>(
    simd: S,
    a: &[f32],
    PanelPart { b, depth }: PanelPart<'_, S, N>,
    ahead: &mut Ahead<'_>,
) -> [[S::f32s; N]; M] {
    let mut sums = [[simd.splat_f32s(0.0); N]; M];
    let a = &a.as_chunks::<M>().0[..depth];
    let (words, places) = a.as_chunks::<K>();
    let (a_blocks, a_rest) = words.as_chunks::<AHEAD_ROWS>();
    let (b_blocks, b_rest) = b.as_chunks::<AHEAD_ROWS>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        ahead.ask();
        for (a, b) in a.iter().zip(b) {
            add_word::<S, K, M, N>(simd, a, *b, &mut sums);
        }
    }
    for (a, b) in a_rest.iter().zip(b_rest) {
        add_word::<S, K, M, N>(simd, a, *b, &mut sums);
    }
    // The last word holds fewer numbers than others.
    for (place, a) in places.iter().enumerate() {
        add_number(simd, a, widened::<S, K, N>(simd, b[words.len()], place), &mut sums);
    }
    sums
}

#[inline(always)]
fn add_word<S: Simd, const K: usize, const M: usize, const N: usize>(
    simd: S,
    a: &[[f32; M]; K],
    b: [S::u32s; N],
    sums: &mut [[S::f32s; N]; M],
) {
    for (place, a) in a.iter().enumerate() {
        add_number(simd, a, widened::<S, K, N>(simd, b, place), sums);
    }
}

#[inline(always)]
fn add_number<S: Simd, const M: usize, const N: usize>(
    simd: S,
    a: &[f32; M],
    b: [S::f32s; N],
    sums: &mut [[S::f32s; N]; M],
) {
    for m in 0..M {
        let factor = simd.splat_f32s(a[m]);
        for n in 0..N {
            sums[m][n] = simd.mul_add_f32s(factor, b[n], sums[m][n]);
        }
    }
}

/// Words of a part of a panel as numbers, before scales.
#[inline(always)]
fn widen<S: Simd, const K: usize, const N: usize>(simd: S, words: &[u32], to: &mut [f32]) {
    let words = S::as_simd_u32s(words).0.as_chunks::<N>().0;
    let to = S::as_mut_simd_f32s(to).0.as_chunks_mut::<N>().0;
    for (to, words) in to.chunks_mut(K).zip(words) {
        for (place, to) in to.iter_mut().enumerate() {
            *to = widened::<S, K, N>(simd, *words, place);
        }
    }
}

/// The numbers at a place of some words. A closure here would be compiled without the instruction set.
#[inline(always)]
fn widened<S: Simd, const K: usize, const N: usize>(
    simd: S,
    words: [S::u32s; N],
    place: usize,
) -> [S::f32s; N] {
    let mut numbers = [simd.splat_f32s(0.0); N];
    let low = simd.splat_u32s(0xff);
    for n in 0..N {
        let bits = match (K, place) {
            (1, _) => words[n],
            (2, 0) => simd.wrapping_dyn_shl_u32s(words[n], simd.splat_u32s(16)),
            (2, _) => simd.and_u32s(words[n], simd.splat_u32s(0xffff_0000)),
            (_, 0) => simd.or_u32s(simd.and_u32s(words[n], low), simd.splat_u32s(WHOLE_BITS)),
            (_, place) => {
                let shifted = simd.wrapping_dyn_shr_u32s(words[n], simd.splat_u32s(8 * place as u32));
                simd.or_u32s(simd.and_u32s(shifted, low), simd.splat_u32s(WHOLE_BITS))
            }
        };
        numbers[n] = simd.transmute_f32s_u32s(bits);
        if K == 4 {
            numbers[n] = simd.sub_f32s(numbers[n], simd.splat_f32s(WHOLE_OFFSET));
        }
    }
    numbers
}

/// Where the sums of a panel go.
struct Target<'c, S> {
    simd: S,
    add: bool,
    c: &'c mut [f32],
    columns: usize,
    /// First column of the panel.
    first: usize,
    /// What the sums of the columns are multiplied with.
    scales: Option<&'c [f32]>,
}

impl<S: Simd> Target<'_, S> {
    #[inline(always)]
    fn put<const M: usize, const N: usize>(&mut self, row: usize, sums: [[S::f32s; N]; M]) {
        let simd = self.simd;
        let own = (N * S::F32_LANES).min(self.columns - self.first);
        for (m, mut sums) in sums.into_iter().enumerate() {
            if let Some(scales) = self.scales {
                let scales = S::as_simd_f32s(scales).0;
                for (sum, scale) in sums.iter_mut().zip(scales) {
                    *sum = simd.mul_f32s(*sum, *scale);
                }
            }
            let at = (row + m) * self.columns + self.first;
            let to = &mut self.c[at..at + own];
            if own == N * S::F32_LANES {
                for (to, sum) in S::as_mut_simd_f32s(to).0.iter_mut().zip(sums) {
                    *to = if self.add { simd.add_f32s(*to, sum) } else { sum };
                }
            } else {
                for (to, sum) in to.chunks_mut(S::F32_LANES).zip(sums) {
                    let sum = if self.add { simd.add_f32s(simd.partial_load_f32s(to), sum) } else { sum };
                    simd.partial_store_f32s(to, sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
