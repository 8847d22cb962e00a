//! Products of matrices for the layers' own passes: `c = a b` and `c += a b` with the right factor packed.
//!
//! A weight meets many rows, so it is packed once into panels that the register tiles read straight through.
//! A call computes some rows of the result on the thread that calls it: who calls cuts the rows, so that what
//! comes before and after a product happens to the same rows while they are in cache. Sums run in a fixed
//! order that depends on neither threads nor the cut.

mod packed;

use std::ops::Range;

use pulp::{Simd, WithSimd, bytemuck};

use crate::panel::{Buffer, Left};
use crate::prefetch::Ahead;
use crate::simd;
pub use packed::Precision;
pub(crate) use packed::{Packed, bf16};
use packed::{WHOLE_BITS, WHOLE_OFFSET};

/// Length of the sums between two visits of a result: a panel's part of so many rows stays in first-level cache.
const DEPTH: usize = 128;
/// Rows of a register tile: with four vectors of columns they fill 24 of 32 registers, with two 12 of 16.
const ROWS: usize = 6;
/// With at most so many rows the right factor is read straight through from memory, panel by panel; the left
/// one is then small enough to be read again for each.
const ROWS_STREAMED: usize = 48;
/// A factor of so many bytes is not in a core's cache when it is used again: it is asked for ahead of its use.
const AHEAD_BYTES_MIN: usize = 256 << 10;
/// Rows of words between two requests for words ahead.
const AHEAD_ROWS: usize = 8;

/// `c = a b`.
///
/// # Shapes
/// `a` is `[rows, inner]` by its [`Left`], `c` row-major `[rows, columns]`.
pub(crate) fn multiply(rows: usize, a: Left<'_>, b: &Packed, c: &mut [f32]) {
    run::<false>((rows, a), b, 0..b.panels(), c);
}

/// `c += a b`, otherwise as [`multiply`].
pub(crate) fn add_multiply(rows: usize, a: Left<'_>, b: &Packed, c: &mut [f32]) {
    run::<true>((rows, a), b, 0..b.panels(), c);
}

/// The columns of `a b` that lie in some panels: what one of several threads does for few rows.
///
/// # Shapes
/// `c` is row-major `[rows, columns of the panels]`, otherwise as [`multiply`].
pub(crate) fn multiply_panels((rows, a): (usize, Left<'_>), b: &Packed, panels: Range<usize>, c: &mut [f32]) {
    run::<false>((rows, a), b, panels, c);
}

#[inline(never)]
fn run<const ADD: bool>((rows, a): (usize, Left<'_>), b: &Packed, panels: Range<usize>, c: &mut [f32]) {
    let columns = b.columns.min(panels.end * b.width) - panels.start * b.width;
    assert_eq!(c.len(), rows * columns, "a result of the product's form");
    simd::arch().dispatch(Product { add: ADD, rows, a, b, panels, columns, c });
}

struct Product<'a, 'c> {
    add: bool,
    rows: usize,
    a: Left<'a>,
    b: &'a Packed,
    panels: Range<usize>,
    /// Columns of the panels.
    columns: usize,
    c: &'c mut [f32],
}

impl WithSimd for Product<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= 32 { self.all::<S, 4>(simd) } else { self.all::<S, 2>(simd) }
    }
}

impl Product<'_, '_> {
    #[inline(always)]
    fn all<S: Simd, const N: usize>(mut self, simd: S) {
        let mut turned = match self.a {
            Left::Columns(..) => Buffer::zeros(self.rows.next_multiple_of(ROWS) * DEPTH.min(self.b.inner)),
            Left::Rows(..) => Buffer::zeros(0),
        };
        let few = self.rows <= ROWS_STREAMED && matches!(self.a, Left::Rows(..));
        if few {
            let (_, numbers) = self.b.all_words();
            for panel in self.panels.clone() {
                for k in (0..self.b.inner).step_by(DEPTH) {
                    match numbers {
                        1 => self.streamed::<S, 1, N>(simd, (panel, k)),
                        2 => self.streamed::<S, 2, N>(simd, (panel, k)),
                        _ => self.streamed::<S, 4, N>(simd, (panel, k)),
                    }
                }
            }
            return;
        }
        let mut widened = Buffer::zeros(if self.b.all_words().1 > 1 { DEPTH * self.b.width } else { 0 });
        for k in (0..self.b.inner).step_by(DEPTH) {
            if let Left::Columns(values, distance) = self.a {
                let form = (self.rows, DEPTH.min(self.b.inner - k));
                turn(&values[k * distance..], distance, form, &mut turned);
            }
            for panel in self.panels.clone() {
                self.part::<S, N>(simd, (panel, k), (&turned, &mut widened));
            }
        }
    }

    /// What the sums from `k` on, at most [`DEPTH`] long, add to one panel's columns of few rows: numbers are
    /// widened in registers, and memory brings the next words while these are worked on.
    #[inline(always)]
    fn streamed<S: Simd, const K: usize, const N: usize>(&mut self, simd: S, (panel, k): (usize, usize)) {
        let (rows, a, b) = (self.rows, self.a, self.b);
        let Left::Rows(values, distance) = a else { return };
        let depth = DEPTH.min(b.inner - k);
        let (words, _) = b.all_words();
        let at = panel * b.words(K) + k / K * b.width;
        let end = at + depth.div_ceil(K) * b.width;
        let b_rows = S::as_simd_u32s(&words[at..end]).0.as_chunks::<N>().0;
        let far = size_of_val(words) >= AHEAD_BYTES_MIN;
        let next = if far { &words[end..words.len().min(end + DEPTH / K * b.width)] } else { &[] };
        let tiles = rows.div_ceil(ROWS);
        let mut ahead = Ahead::new(next, (AHEAD_ROWS * b.width).div_ceil(tiles));
        let mut to = self.target(simd, (panel, k));
        let mut row = 0;
        while row < rows {
            let a = &values[row * distance + k..];
            let (form, at_a) = (depth, (a, distance));
            // Rows that are left over go together as well: a panel is loaded once for all of them.
            let tile = ROWS.min(rows - row);
            match tile {
                6 => to.put(row, by_words::<S, K, 6, N>(simd, at_a, (b_rows, form), &mut ahead)),
                5 => to.put(row, by_words::<S, K, 5, N>(simd, at_a, (b_rows, form), &mut ahead)),
                4 => to.put(row, by_words::<S, K, 4, N>(simd, at_a, (b_rows, form), &mut ahead)),
                3 => to.put(row, by_words::<S, K, 3, N>(simd, at_a, (b_rows, form), &mut ahead)),
                2 => to.put(row, by_words::<S, K, 2, N>(simd, at_a, (b_rows, form), &mut ahead)),
                _ => to.put(row, by_words::<S, K, 1, N>(simd, at_a, (b_rows, form), &mut ahead)),
            }
            row += tile;
        }
    }

    #[inline(always)]
    fn target<S: Simd>(&mut self, simd: S, (panel, k): (usize, usize)) -> Target<'_, S> {
        let first = (panel - self.panels.start) * self.b.width;
        let (add, columns, scales) = (self.add || k > 0, self.columns, self.b.scales(panel));
        Target { simd, add, c: &mut *self.c, columns, first, scales }
    }

    /// What the sums from `k` on, at most [`DEPTH`] long, add to one panel's columns of all rows.
    #[inline(always)]
    fn part<S: Simd, const N: usize>(
        &mut self,
        simd: S,
        (panel, k): (usize, usize),
        (turned, widened): (&[f32], &mut [f32]),
    ) {
        let (rows, a, b) = (self.rows, self.a, self.b);
        let depth = DEPTH.min(b.inner - k);
        let len = depth * b.width;
        let values = match b.all_words() {
            (words, 1) => &words[(panel * b.inner + k) * b.width..][..len],
            _ => {
                b.widen(panel, k..k + depth, widened);
                bytemuck::cast_slice(&widened[..len])
            }
        };
        let b_rows = S::as_simd_f32s(bytemuck::cast_slice(values)).0.as_chunks::<N>().0;
        let mut to = self.target(simd, (panel, k));
        let mut row = 0;
        while row + ROWS <= rows {
            let sums: [[S::f32s; N]; ROWS] = match a {
                Left::Rows(values, distance) => {
                    by_rows(simd, &values[row * distance + k..], distance, b_rows)
                }
                Left::Columns(..) => by_turned(simd, &turned[row * depth..], b_rows),
            };
            to.put(row, sums);
            row += ROWS;
        }
        while row < rows {
            let sums: [[S::f32s; N]; 1] = match a {
                Left::Rows(values, distance) => {
                    by_rows(simd, &values[row * distance + k..], distance, b_rows)
                }
                Left::Columns(values, distance) => {
                    by_column(simd, &values[k * distance + row..], distance, b_rows)
                }
            };
            to.put(row, sums);
            row += 1;
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

/// Sums over `depth` numbers that lie `K` to a word.
#[inline(always)]
fn by_words<S: Simd, const K: usize, const M: usize, const N: usize>(
    simd: S,
    (a, distance): (&[f32], usize),
    (b, depth): (&[[S::u32s; N]], usize),
    ahead: &mut Ahead<'_>,
) -> [[S::f32s; N]; M] {
    let mut sums = [[simd.splat_f32s(0.0); N]; M];
    let rows: [&[f32]; M] = std::array::from_fn(|m| &a[m * distance..][..depth]);
    let whole = depth / K;
    #[allow(clippy::needless_range_loop, reason = "the place is also one of the word's")]
    for (chunk, b) in b[..whole].chunks(AHEAD_ROWS).enumerate() {
        ahead.ask();
        let first = chunk * AHEAD_ROWS * K;
        let rows: [&[[f32; K]]; M] =
            std::array::from_fn(|m| &rows[m][first..][..b.len() * K].as_chunks::<K>().0[..b.len()]);
        for (word, b) in b.iter().enumerate() {
            for place in 0..K {
                let b = widened::<S, K, N>(simd, *b, place);
                for m in 0..M {
                    let factor = simd.splat_f32s(rows[m][word][place]);
                    for n in 0..N {
                        sums[m][n] = simd.mul_add_f32s(factor, b[n], sums[m][n]);
                    }
                }
            }
        }
    }
    for place in 0..depth % K {
        let b = widened::<S, K, N>(simd, b[whole], place);
        for m in 0..M {
            let factor = simd.splat_f32s(rows[m][whole * K + place]);
            for n in 0..N {
                sums[m][n] = simd.mul_add_f32s(factor, b[n], sums[m][n]);
            }
        }
    }
    sums
}

/// Columns of a left factor as tiles `[depth, ROWS]`, one after the other.
fn turn(a: &[f32], distance: usize, (rows, depth): (usize, usize), to: &mut [f32]) {
    for (tile, to) in to.chunks_exact_mut(ROWS * depth).take(rows / ROWS).enumerate() {
        for (to, from) in to.as_chunks_mut::<ROWS>().0.iter_mut().zip(a.chunks(distance)) {
            to.copy_from_slice(&from[tile * ROWS..(tile + 1) * ROWS]);
        }
    }
}

#[inline(always)]
fn by_rows<S: Simd, const M: usize, const N: usize>(
    simd: S,
    a: &[f32],
    distance: usize,
    b: &[[S::f32s; N]],
) -> [[S::f32s; N]; M] {
    let mut sums = [[simd.splat_f32s(0.0); N]; M];
    let rows: [&[f32]; M] = std::array::from_fn(|m| &a[m * distance..][..b.len()]);
    for (k, b) in b.iter().enumerate() {
        for m in 0..M {
            let factor = simd.splat_f32s(rows[m][k]);
            for n in 0..N {
                sums[m][n] = simd.mul_add_f32s(factor, b[n], sums[m][n]);
            }
        }
    }
    sums
}

#[inline(always)]
fn by_turned<S: Simd, const N: usize>(simd: S, a: &[f32], b: &[[S::f32s; N]]) -> [[S::f32s; N]; ROWS] {
    let mut sums = [[simd.splat_f32s(0.0); N]; ROWS];
    for (a, b) in a.as_chunks::<ROWS>().0.iter().zip(b) {
        for m in 0..ROWS {
            let factor = simd.splat_f32s(a[m]);
            for n in 0..N {
                sums[m][n] = simd.mul_add_f32s(factor, b[n], sums[m][n]);
            }
        }
    }
    sums
}

#[inline(always)]
fn by_column<S: Simd, const N: usize>(
    simd: S,
    a: &[f32],
    distance: usize,
    b: &[[S::f32s; N]],
) -> [[S::f32s; N]; 1] {
    let mut sums = [[simd.splat_f32s(0.0); N]; 1];
    for (k, b) in b.iter().enumerate() {
        let factor = simd.splat_f32s(a[k * distance]);
        for n in 0..N {
            sums[0][n] = simd.mul_add_f32s(factor, b[n], sums[0][n]);
        }
    }
    sums
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
mod tests {
    use proptest::prelude::{prop_assert, proptest};

    use super::{Packed, Precision, add_multiply, multiply};
    use crate::panel::Left;
    use crate::test_tensors::{noise, numbers};

    fn turned(values: &[f32], columns: usize) -> Vec<f32> {
        (0..columns).flat_map(|column| values[column..].iter().step_by(columns).copied()).collect()
    }

    proptest! {
        #[test]
        fn products_of_every_form_equal_plain_sums(
            rows in 1_usize..60,
            inner in 1_usize..300,
            columns in 1_usize..140,
        ) {
            let a = numbers(noise::<2>([rows, inner], 1));
            let b = numbers(noise::<2>([inner, columns], 2));
            let (a_turned, b_turned) = (turned(&a, inner), turned(&b, columns));
            // The weights of two products side by side.
            let parts = b_turned.split_at(columns / 2 * inner);
            let side_by_side = Packed::of_weights(&[parts.0, parts.1], inner, Precision::F32);
            let each = [Packed::rows(&b, inner, columns), Packed::transposed(&b_turned, inner, columns), side_by_side];
            for packed in each {
                for left in [Left::Rows(&a, inner), Left::Columns(&a_turned, rows)] {
                    let mut c = vec![0.5; rows * columns];
                    add_multiply(rows, left, &packed, &mut c);
                    let mut fresh = vec![f32::NAN; rows * columns];
                    multiply(rows, left, &packed, &mut fresh);
                    for (at, (sum, fresh)) in c.iter().zip(&fresh).enumerate() {
                        let (row, column) = (at / columns, at % columns);
                        let plain: f64 = (0..inner)
                            .map(|k| f64::from(a[row * inner + k]) * f64::from(b[k * columns + column]))
                            .sum();
                        prop_assert!((f64::from(*fresh) - plain).abs() < 1e-4, "{fresh} is not {plain}");
                        prop_assert!((f64::from(*sum) - plain - 0.5).abs() < 1e-4);
                    }
                }
            }
        }
    }

    /// Who calls may cut the rows anywhere.
    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let (a, b) = (numbers(noise::<2>([29, 200], 1)), numbers(noise::<2>([200, 70], 2)));
        let packed = Packed::rows(&b, 200, 70);
        let mut whole = vec![0.0; 29 * 70];
        multiply(29, Left::Rows(&a, 200), &packed, &mut whole);
        for cut in [1, 5, 6, 12, 17] {
            let mut parts = vec![0.0; 29 * 70];
            for (c, a) in parts.chunks_mut(cut * 70).zip(a.chunks(cut * 200)) {
                multiply(c.len() / 70, Left::Rows(a, 200), &packed, c);
            }
            assert_eq!(parts, whole, "in blocks of {cut}");
        }
    }

    #[test]
    fn rounded_factors_are_off_by_their_precision_and_no_more() {
        let (rows, inner, columns) = (7, 150, 70);
        let (a, b) = (numbers(noise::<2>([rows, inner], 1)), numbers(noise::<2>([inner, columns], 2)));
        for (precision, bound) in [(Precision::Bf16, 1.0 / 256.0), (Precision::I8, 0.5 / 127.0)] {
            let packed = Packed::of_weights(&[&turned(&b, columns)], inner, precision);
            let mut c = vec![0.0; rows * columns];
            multiply(rows, Left::Rows(&a, inner), &packed, &mut c);
            let mut differs = false;
            for (at, found) in c.iter().enumerate() {
                let (row, column) = (at / columns, at % columns);
                let terms = (0..inner).map(|k| a[row * inner + k] * b[k * columns + column]);
                let exact: f32 = terms.sum();
                // Each number is off by at most the bound times the largest, which is 1.
                let most: f32 = (0..inner).map(|k| a[row * inner + k].abs() * bound).sum();
                assert!((found - exact).abs() <= most + 1e-5, "{precision:?}: {found}, not {exact}");
                differs |= (found - exact).abs() > 1e-5;
            }
            assert!(differs, "{precision:?} rounds nothing");
        }
    }
}
