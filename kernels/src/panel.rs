//! Products of matrices that stay in cache, and the steps of attention between them, in vector registers.
//!
//! Attention keeps its score tiles transposed: one row a key, one column a query. A query then owns a lane
//! of every vector, so that maxima and sums over its keys need no step across lanes, and keys and values
//! are only ever the left factor of a product, whose elements are broadcast one by one: nothing of the
//! prefix is transposed. Each function here chooses the instruction set itself and is compiled once for
//! each; the order of sums is fixed for a given one.

use std::array;

use pulp::{Simd, WithSimd};

use crate::simd;
pub(crate) use softmax_backward::{Columns, softmax_backward};

mod softmax_backward;

/// Columns of every tile are a multiple of this many: the widest vector there is.
pub(crate) const LANES: usize = 16;

/// Rows of the tiles of many rows.
const TILE_ROWS: usize = 6;

/// What the largest score of a row begins as: below every score, and finite, so that the difference of two
/// such is 0 and not NaN.
pub(crate) const LOWEST: f32 = -1e30;

/// Zeros that begin at a line of the cache: a vector that crosses lines takes two loads.
pub(crate) struct Buffer<T = f32> {
    values: Vec<T>,
    from: usize,
    len: usize,
}

impl<T: Copy + Default> Buffer<T> {
    /// Room for `len` numbers of 32 bits.
    pub(crate) fn zeros(len: usize) -> Self {
        let values = vec![T::default(); len + LANES];
        // The offset is only of use, not needed: where there is none, the buffer begins where it may.
        let from = values.as_ptr().align_offset(64).min(LANES);
        Self { values, from, len }
    }
}

impl<T> std::ops::Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values[self.from..self.from + self.len]
    }
}

impl<T> std::ops::DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.values[self.from..self.from + self.len]
    }
}

/// The left factor of a product, one number at a time.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// Element `(i, k)` is `values[i * distance + k]`.
    Rows(&'a [f32], usize),
    /// Element `(i, k)` is `values[k * distance + i]`.
    Columns(&'a [f32], usize),
}

/// The form of a product: `[rows, inner] x [inner, columns]`.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    /// Rows of the result.
    pub(crate) rows: usize,
    /// Length of the sums.
    pub(crate) inner: usize,
    /// Columns of the result, a multiple of [`LANES`]; also the distance of the rows of `b` and `c`.
    pub(crate) columns: usize,
}

/// `c = a b`, with `b` and `c` row-major without gaps.
///
/// # Panics
/// If a slice is shorter than the form says.
pub(crate) fn product(form: Form, a: Left<'_>, b: &[f32], c: &mut [f32]) {
    multiply::<false>(form, form.columns, a, b, c);
}

/// The first `columns` columns of [`product`]; the others stay as they are.
///
/// # Panics
/// If the columns are no multiple of [`LANES`].
pub(crate) fn product_of_first(form: Form, columns: usize, a: Left<'_>, b: &[f32], c: &mut [f32]) {
    multiply::<false>(form, columns, a, b, c);
}

/// `c += a b`, otherwise as [`product`]. The sums of a product are complete before they are added to `c`:
/// sums over many tiles so lose less to rounding than one long sum.
pub(crate) fn add_product(form: Form, a: Left<'_>, b: &[f32], c: &mut [f32]) {
    multiply::<true>(form, form.columns, a, b, c);
}

#[inline(never)]
fn multiply<const ADD: bool>(form: Form, columns: usize, a: Left<'_>, b: &[f32], c: &mut [f32]) {
    assert!(
        form.columns.is_multiple_of(LANES) && columns.is_multiple_of(LANES),
        "columns come in whole vectors"
    );
    assert!(b.len() >= form.inner * form.columns && c.len() >= form.rows * form.columns);
    simd::arch().dispatch(Product::<ADD> { form, columns: columns.min(form.columns), a, b, c });
}

struct Product<'a, 'c, const ADD: bool> {
    form: Form,
    /// How many columns are computed.
    columns: usize,
    a: Left<'a>,
    b: &'a [f32],
    c: &'c mut [f32],
}

impl<const ADD: bool> WithSimd for Product<'_, '_, ADD> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut panels = Panels::<'_, S, ADD> {
            simd,
            form: self.form,
            a: self.a,
            b: S::as_simd_f32s(self.b).0,
            c: S::as_mut_simd_f32s(self.c).0,
            vectors: self.form.columns / S::F32_LANES,
        };
        let (end, mut vector) = (self.columns / S::F32_LANES, 0);
        // Sums fill most of the registers: a number that is loaded so takes part in as many of them as can be.
        if S::REGISTER_COUNT >= 32 {
            while vector + 4 <= end {
                panels.band::<TILE_ROWS, 4>(vector);
                vector += 4;
            }
        }
        while vector + 2 <= end {
            if S::REGISTER_COUNT >= 32 {
                panels.band::<8, 2>(vector)
            } else {
                panels.band::<TILE_ROWS, 2>(vector)
            }
            vector += 2;
        }
        while vector < end {
            panels.band::<8, 1>(vector);
            vector += 1;
        }
    }
}

struct Panels<'a, S: Simd, const ADD: bool> {
    simd: S,
    form: Form,
    a: Left<'a>,
    b: &'a [S::f32s],
    c: &'a mut [S::f32s],
    vectors: usize,
}

impl<S: Simd, const ADD: bool> Panels<'_, S, ADD> {
    /// `N` vectors of columns from `vector` on, `M` rows at a time.
    #[inline(always)]
    fn band<const M: usize, const N: usize>(&mut self, vector: usize) {
        let mut row = 0;
        while row + M <= self.form.rows {
            self.tile::<M, N>(row, vector);
            row += M;
        }
        // Rows that are left over go together, and so do few rows.
        match self.form.rows - row {
            0 => {}
            1 if M > 1 => self.tile::<1, N>(row, vector),
            2 if M > 2 => self.tile::<2, N>(row, vector),
            3 if M > 3 => self.tile::<3, N>(row, vector),
            4 if M > 4 => self.tile::<4, N>(row, vector),
            5 if M > 5 => self.tile::<5, N>(row, vector),
            6 if M > 6 => self.tile::<6, N>(row, vector),
            _ if M > 7 => self.tile::<7, N>(row, vector),
            _ => unreachable!("fewer rows are left than a tile has"),
        }
    }

    #[inline(always)]
    fn tile<const M: usize, const N: usize>(&mut self, row: usize, vector: usize) {
        let sums: [[S::f32s; N]; M] = match self.a {
            Left::Rows(values, distance) => self.sums_by_rows(&values[row * distance..], distance, vector),
            Left::Columns(values, distance) => self.sums_by_columns(&values[row..], distance, vector),
        };
        for (m, sums) in sums.into_iter().enumerate() {
            let at = (row + m) * self.vectors + vector;
            let to = &mut self.c[at..at + N];
            for (to, sum) in to.iter_mut().zip(sums) {
                *to = if ADD { self.simd.add_f32s(*to, sum) } else { sum };
            }
        }
    }

    #[inline(always)]
    fn sums_by_rows<const M: usize, const N: usize>(
        &self,
        a: &[f32],
        distance: usize,
        vector: usize,
    ) -> [[S::f32s; N]; M] {
        let inner = self.form.inner;
        let rows: [&[f32]; M] = array::from_fn(|m| &a[m * distance..][..inner]);
        let mut sums = [[self.simd.splat_f32s(0.0); N]; M];
        for (k, b) in self.b.chunks_exact(self.vectors).take(inner).enumerate() {
            let b: &[S::f32s; N] = b[vector..].first_chunk().expect("a tile lies within the columns");
            for m in 0..M {
                let factor = self.simd.splat_f32s(rows[m][k]);
                for n in 0..N {
                    sums[m][n] = self.simd.mul_add_f32s(factor, b[n], sums[m][n]);
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn sums_by_columns<const M: usize, const N: usize>(
        &self,
        a: &[f32],
        distance: usize,
        vector: usize,
    ) -> [[S::f32s; N]; M] {
        let mut sums = [[self.simd.splat_f32s(0.0); N]; M];
        // Both are cut to what the tile reads, so that the loop needs fewer checks.
        let inner = self.form.inner;
        let a = &a[..inner.checked_sub(1).map_or(0, |last| last * distance + M)];
        let b = &self.b[..inner * self.vectors];
        for (k, b) in b.chunks_exact(self.vectors).enumerate() {
            let b: &[S::f32s; N] = b[vector..].first_chunk().expect("a tile lies within the columns");
            let a: &[f32; M] = a[k * distance..].first_chunk().expect("a tile lies within the rows");
            for m in 0..M {
                let factor = self.simd.splat_f32s(a[m]);
                for n in 0..N {
                    sums[m][n] = self.simd.mul_add_f32s(factor, b[n], sums[m][n]);
                }
            }
        }
        sums
    }
}

/// `2^x` with a relative error under 2e-7 for `x` up to 127; below -126 it stays at `2^-126`. NaN is kept.
#[inline(always)]
fn exp2<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let splat = |value| simd.splat_f32s(value);
    // The second operand is what a maximum with NaN gives.
    let x = if S::IS_SCALAR {
        // There a maximum ignores NaN.
        simd.select_f32s(simd.less_than_f32s(x, splat(-126.0)), splat(-126.0), x)
    } else {
        simd.max_f32s(splat(-126.0), x)
    };
    // Adding 1.5 * 2^23 rounds to a whole number, which then stands in the low bits.
    let shifted = simd.add_f32s(x, splat(12_582_912.0));
    let r = simd.sub_f32s(x, simd.sub_f32s(shifted, splat(12_582_912.0)));
    // The polynomial of degree 6 with the smallest relative error for |r| <= 1/2, which is 2e-9.
    let mut p = splat(1.534_581_2e-4);
    for coefficient in
        [1.339_993_1e-3, 9.618_489e-3, 5.550_328_8e-2, 0.240_226_47, std::f32::consts::LN_2, 1.0]
    {
        p = simd.mul_add_f32s(p, r, splat(coefficient));
    }
    let power = simd.wrapping_dyn_shl_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(23));
    simd.transmute_f32s_u32s(simd.add_u32s(simd.transmute_u32s_f32s(p), power))
}

/// The state of an online softmax, one number a column of the tiles.
pub(crate) struct Running {
    /// The largest score so far.
    pub(crate) largest: Buffer,
    /// Sum of the weights so far.
    pub(crate) total: Buffer,
    /// By how much the last tile made earlier weights smaller.
    pub(crate) shrink: Buffer,
}

impl Running {
    /// For this many columns.
    pub(crate) fn new(columns: usize) -> Self {
        let zeros = || Buffer::zeros(columns);
        let mut running = Self { largest: zeros(), total: zeros(), shrink: zeros() };
        running.largest.fill(LOWEST);
        running
    }
}

/// Turns a tile of scores, in units of `ln 2`, into weights `2^(score - largest)`; with `seen`, the keys
/// that a column does not see are left out first.
///
/// # Shapes
/// `tile` is `[keys, columns]`, and `seen` and `running` have one entry a column.
#[inline(never)]
pub(crate) fn softmax_columns(tile: &mut [f32], seen: Option<&[f32]>, running: &mut Running) {
    simd::arch().dispatch(SoftmaxColumns { tile, seen, running });
}

struct SoftmaxColumns<'a> {
    tile: &'a mut [f32],
    seen: Option<&'a [f32]>,
    running: &'a mut Running,
}

impl WithSimd for SoftmaxColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let largest = S::as_mut_simd_f32s(&mut self.running.largest).0;
        let total = S::as_mut_simd_f32s(&mut self.running.total).0;
        let shrink = S::as_mut_simd_f32s(&mut self.running.shrink).0;
        let vectors = largest.len();
        let tile = S::as_mut_simd_f32s(self.tile).0;
        for vector in 0..vectors {
            if let Some(seen) = self.seen {
                let seen = S::as_simd_f32s(seen).0[vector];
                let mut key = simd.splat_f32s(0.0);
                for row in tile.chunks_exact_mut(vectors) {
                    let sees = simd.less_than_f32s(key, seen);
                    row[vector] = simd.select_f32s(sees, row[vector], simd.splat_f32s(f32::NEG_INFINITY));
                    key = simd.add_f32s(key, simd.splat_f32s(1.0));
                }
            }
            let mut most = [largest[vector]; 4];
            let mut rows = tile.chunks_exact(4 * vectors);
            for rows in rows.by_ref() {
                for (i, most) in most.iter_mut().enumerate() {
                    *most = simd.max_f32s(*most, rows[i * vectors + vector]);
                }
            }
            for row in rows.remainder().chunks_exact(vectors) {
                most[0] = simd.max_f32s(most[0], row[vector]);
            }
            let most = simd.max_f32s(simd.max_f32s(most[0], most[1]), simd.max_f32s(most[2], most[3]));
            let mut sum = simd.splat_f32s(0.0);
            for row in tile.chunks_exact_mut(vectors) {
                row[vector] = exp2(simd, simd.sub_f32s(row[vector], most));
                sum = simd.add_f32s(sum, row[vector]);
            }
            shrink[vector] = exp2(simd, simd.sub_f32s(largest[vector], most));
            total[vector] = simd.mul_add_f32s(total[vector], shrink[vector], sum);
            largest[vector] = most;
        }
    }
}

/// The state of an online softmax over one row of scores.
#[derive(Clone, Copy)]
pub(crate) struct RunningRow {
    /// The largest score so far.
    pub(crate) largest: f32,
    /// Sum of the weights so far.
    pub(crate) total: f32,
    /// By how much the last tile made earlier weights smaller.
    pub(crate) shrink: f32,
}

impl RunningRow {
    /// Before any score.
    pub(crate) const NEW: Self = Self { largest: LOWEST, total: 0.0, shrink: 0.0 };
}

/// How many of a tile's keys each row of queries sees; below 1 where it sees none.
#[derive(Clone, Copy)]
pub(crate) struct KeysSeen {
    /// By the first row.
    pub(crate) first: isize,
    /// By how many more the next row sees.
    pub(crate) step: isize,
}

impl KeysSeen {
    /// By one of the rows.
    pub(crate) fn of_row(self, row: usize) -> isize {
        self.first + row as isize * self.step
    }
}

/// [`softmax_columns`] for a tile with one row a query; the weights of keys that a row does not see become 0. A row's arithmetic does not depend on the other rows. Keys behind the
/// first `keys`, which no row sees, stay as they are.
///
/// # Shapes
/// `tile` is `[rows, all keys]` with one entry of `running` a row; both numbers of keys are multiples of [`LANES`].
#[inline(never)]
pub(crate) fn softmax_rows(tile: &mut [f32], keys: usize, seen: KeysSeen, running: &mut [RunningRow]) {
    simd::arch().dispatch(SoftmaxRows { tile, keys, seen, running });
}

struct SoftmaxRows<'a> {
    tile: &'a mut [f32],
    keys: usize,
    seen: KeysSeen,
    running: &'a mut [RunningRow],
}

impl WithSimd for SoftmaxRows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let all = self.tile.len() / self.running.len();
        for (row, (tile, running)) in self.tile.chunks_exact_mut(all).zip(self.running).enumerate() {
            softmax_row(simd, &mut tile[..self.keys], self.seen.of_row(row), running);
        }
    }
}

/// One row of [`softmax_rows`]: scores, of which the first `seen` count.
#[inline(always)]
pub(crate) fn softmax_row<S: Simd>(simd: S, scores: &mut [f32], seen: isize, running: &mut RunningRow) {
    let mut numbers = [0.0; LANES];
    for (lane, number) in numbers.iter_mut().enumerate() {
        *number = lane as f32;
    }
    let first = S::as_simd_f32s(&numbers).0[0];
    let scores = S::as_mut_simd_f32s(scores).0;
    let seen = simd.splat_f32s(seen as f32);
    let sees = |vector: usize| {
        let key = simd.add_f32s(first, simd.splat_f32s((vector * S::F32_LANES) as f32));
        simd.less_than_f32s(key, seen)
    };
    let mut most = simd.splat_f32s(running.largest);
    for (vector, scores) in scores.iter().enumerate() {
        most = simd.max_f32s(most, simd.select_f32s(sees(vector), *scores, most));
    }
    let largest = simd.reduce_max_f32s(most);
    let mut sum = simd.splat_f32s(0.0);
    for (vector, scores) in scores.iter_mut().enumerate() {
        let weights = exp2(simd, simd.sub_f32s(*scores, simd.splat_f32s(largest)));
        *scores = simd.select_f32s(sees(vector), weights, simd.splat_f32s(0.0));
        sum = simd.add_f32s(sum, *scores);
    }
    let shrink = exp2(simd, simd.splat_f32s(running.largest - largest));
    running.shrink = simd.reduce_max_f32s(shrink);
    running.total = running.total.mul_add(running.shrink, simd.reduce_sum_f32s(sum));
    running.largest = largest;
}

/// Multiplies every row of a tile by the same row.
#[inline(never)]
pub(crate) fn scale_columns(tile: &mut [f32], factors: &[f32]) {
    simd::arch().dispatch(
        #[inline(always)]
        || {
            for row in tile.chunks_exact_mut(factors.len()) {
                for (value, factor) in row.iter_mut().zip(factors) {
                    *value *= factor;
                }
            }
        },
    );
}

#[cfg(test)]
mod tests;
