//! Products of matrices for the layers' own passes: `c = a b` and `c += a b` with the right factor packed.
//!
//! A weight meets many rows, so it is packed once into panels that the register tiles read straight through.
//! A call computes some rows of the result on the thread that calls it: who calls cuts the rows, so that what
//! comes before and after a product happens to the same rows while they are in cache. Sums run in a fixed
//! order that depends on neither threads nor the cut.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use crate::panel::{Buffer, Left};

/// Length of the sums between two visits of a result: a panel's part of so many rows stays in first-level cache.
const DEPTH: usize = 128;
/// Rows of a register tile: with four vectors of columns they fill 24 of 32 registers, with two 12 of 16.
const ROWS: usize = 6;

/// A right factor `[inner, columns]` in panels of columns, each row-major, the last one filled up with zeros.
pub(crate) struct Packed {
    inner: usize,
    columns: usize,
    /// Columns of a panel: as many as a register tile has.
    width: usize,
    values: Buffer,
}

impl Packed {
    /// Room for a factor of at most so many numbers in panels.
    fn sized(inner: usize, columns: usize) -> Self {
        let width = panel_width();
        Self { inner, columns, width, values: Buffer::zeros(columns.div_ceil(width) * width * inner) }
    }

    /// From rows, `[inner, columns]`.
    pub(crate) fn rows(b: &[f32], inner: usize, columns: usize) -> Self {
        let mut packed = Self::sized(inner, columns);
        packed.set_rows(b);
        packed
    }

    /// From the transpose, `[columns, inner]`: what `x w^T` needs of `w`.
    pub(crate) fn transposed(b: &[f32], inner: usize, columns: usize) -> Self {
        let mut packed = Self::sized(inner, columns);
        packed.set_transposed(b);
        packed
    }

    /// Columns of the factor.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// The number of panels.
    pub(crate) fn panels(&self) -> usize {
        self.columns.div_ceil(self.width)
    }

    /// The columns that some panels hold.
    pub(crate) fn columns_of(&self, panels: &Range<usize>) -> Range<usize> {
        panels.start * self.width..(panels.end * self.width).min(self.columns)
    }

    fn set_rows(&mut self, b: &[f32]) {
        assert_eq!(b.len(), self.inner * self.columns, "a right factor of the packed form");
        let (width, columns) = (self.width, self.columns);
        for (panel, to) in self.values.chunks_exact_mut(width * self.inner).enumerate() {
            let first = panel * width;
            let own = width.min(columns - first);
            for (to, row) in to.chunks_exact_mut(width).zip(b.chunks_exact(columns)) {
                to[..own].copy_from_slice(&row[first..first + own]);
            }
        }
    }

    fn set_transposed(&mut self, b: &[f32]) {
        assert_eq!(b.len(), self.inner * self.columns, "a right factor of the packed form");
        let (width, inner) = (self.width, self.inner);
        for (panel, to) in self.values.chunks_exact_mut(width * inner).enumerate() {
            let rows = &b[panel * width * inner..];
            // Blocks of sixteen sums read each line of the cache once.
            for first in (0..inner).step_by(16) {
                let depth = 16.min(inner - first);
                for (column, row) in rows.chunks_exact(inner).take(width).enumerate() {
                    for (k, value) in row[first..first + depth].iter().enumerate() {
                        to[(first + k) * width + column] = *value;
                    }
                }
            }
        }
    }
}

/// Columns of a register tile on this machine.
fn panel_width() -> usize {
    struct Width;
    impl WithSimd for Width {
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> usize {
            S::F32_LANES * if S::REGISTER_COUNT >= 32 { 4 } else { 2 }
        }
    }
    Arch::new().dispatch(Width)
}

/// `c = a b`.
///
/// # Shapes
/// `a` is `[rows, inner]` by its [`Left`], `c` row-major `[rows, columns]`.
pub(crate) fn multiply(rows: usize, a: Left<'_>, b: &Packed, c: &mut [f32]) {
    run::<false>(rows, a, b, c);
}

/// `c += a b`, otherwise as [`multiply`].
pub(crate) fn add_multiply(rows: usize, a: Left<'_>, b: &Packed, c: &mut [f32]) {
    run::<true>(rows, a, b, c);
}

/// [`multiply`] by some panels of the factor: the columns of the result that these hold.
pub(crate) fn multiply_panels(rows: usize, a: Left<'_>, (b, panels): (&Packed, Range<usize>), c: &mut [f32]) {
    assert_eq!(c.len(), rows * b.columns_of(&panels).len(), "a result of the product's form");
    Arch::new().dispatch(Product { add: false, rows, a, b, panels, c });
}

#[inline(never)]
fn run<const ADD: bool>(rows: usize, a: Left<'_>, b: &Packed, c: &mut [f32]) {
    assert_eq!(c.len(), rows * b.columns, "a result of the product's form");
    Arch::new().dispatch(Product { add: ADD, rows, a, b, panels: 0..b.panels(), c });
}

struct Product<'a, 'c> {
    add: bool,
    rows: usize,
    a: Left<'a>,
    b: &'a Packed,
    panels: Range<usize>,
    c: &'c mut [f32],
}

impl WithSimd for Product<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= 32 { self.panels::<S, 4>(simd) } else { self.panels::<S, 2>(simd) }
    }
}

impl Product<'_, '_> {
    #[inline(always)]
    fn panels<S: Simd, const N: usize>(self, simd: S) {
        let Self { add, rows, a, b, panels, c } = self;
        let columns = b.columns_of(&panels).len();
        let mut turned = match a {
            Left::Columns(..) => Buffer::zeros(rows.next_multiple_of(ROWS) * DEPTH.min(b.inner)),
            Left::Rows(..) => Buffer::zeros(0),
        };
        for k in (0..b.inner).step_by(DEPTH) {
            let depth = DEPTH.min(b.inner - k);
            if let Left::Columns(values, distance) = a {
                turn(&values[k * distance..], distance, (rows, depth), &mut turned);
            }
            let of_panels = b.values.chunks_exact(b.width * b.inner).take(panels.end).skip(panels.start);
            for (panel, values) in of_panels.enumerate() {
                let values = &values[k * b.width..(k + depth) * b.width];
                let b_rows = S::as_simd_f32s(values).0.as_chunks::<N>().0;
                let first = panel * b.width;
                let mut to = Target { simd, add: add || k > 0, c: &mut *c, columns, first };
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
    }
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
}

impl<S: Simd> Target<'_, S> {
    #[inline(always)]
    fn put<const M: usize, const N: usize>(&mut self, row: usize, sums: [[S::f32s; N]; M]) {
        let simd = self.simd;
        let own = (N * S::F32_LANES).min(self.columns - self.first);
        for (m, sums) in sums.into_iter().enumerate() {
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

    use super::{Packed, add_multiply, multiply};
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
            for packed in [Packed::rows(&b, inner, columns), Packed::transposed(&b_turned, inner, columns)] {
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
}
