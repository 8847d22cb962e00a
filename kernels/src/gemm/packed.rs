//! The right factor of a product in panels, at one of three precisions.

use pulp::{Simd, WithSimd, bytemuck};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::panel::Buffer;
use crate::simd;

/// The bits of `2^23`, in front of which a whole number of 8 bits makes the float `2^23` plus it.
pub(super) const WHOLE_BITS: u32 = 0x4b00_0000;
/// What such a float is larger by than the number that the 8 bits stand for.
pub(super) const WHOLE_OFFSET: f32 = 8_388_608.0 + 128.0;

/// A right factor `[inner, columns]` in panels of columns, each row-major, the last one filled up with zeros.
pub(crate) struct Packed {
    pub(super) inner: usize,
    pub(super) columns: usize,
    /// Columns of a panel: as many as a register tile has.
    pub(super) width: usize,
    values: Values,
}

/// Numbers that one task copies: less is not worth handing over.
const TASK_NUMBERS_MIN: usize = 32 << 10;

/// In how many bits a packed factor holds its numbers; sums are in f32 whatever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits: as they are.
    #[default]
    F32,
    /// 16 bits: f32 rounded to 8 significant bits.
    Bf16,
    /// 8 bits: whole numbers from -127 to 127, times the largest magnitude of their output over 127.
    I8,
}

/// The numbers of all panels.
pub(super) enum Values {
    F32(Buffer),
    /// Words of two numbers of a column, the upper halves of f32, the first one low.
    Bf16(Buffer<u32>),
    /// Words of four numbers of a column, each plus 128, the first one lowest, with one scale a column, filled up
    /// as the last panel is.
    I8(Buffer<u32>, Vec<f32>),
}

impl Packed {
    /// Room for a factor of at most so many numbers in panels.
    fn sized(inner: usize, columns: usize) -> Self {
        let width = panel_width();
        Self {
            inner,
            columns,
            width,
            values: Values::F32(Buffer::zeros(columns.div_ceil(width) * width * inner)),
        }
    }

    /// Words of a panel, each of so many numbers.
    pub(super) fn words(&self, numbers: usize) -> usize {
        self.inner.div_ceil(numbers) * self.width
    }

    /// From weights `[columns, inner]` whose products lie side by side: what `x w^T` needs of them, at a precision.
    ///
    /// Each panel is turned and rounded by itself, several at a time, so that beside the factor there is no other
    /// copy of the weights.
    pub(crate) fn of_weights(weights: &[&[f32]], inner: usize, precision: Precision) -> Self {
        let rows: Vec<&[f32]> = weights.iter().flat_map(|weight| weight.chunks_exact(inner)).collect();
        let numbers: usize = weights.iter().map(|weight| weight.len()).sum();
        assert_eq!(numbers, inner * rows.len(), "weights in whole rows");
        let (width, columns) = (panel_width(), rows.len());
        let (panels, panel) = (columns.div_ceil(width), width * inner);
        let scratch = || Buffer::zeros(panel);
        let of_words = |numbers: usize| inner.div_ceil(numbers) * width;
        let values = match precision {
            Precision::F32 => {
                let mut values = Buffer::zeros(panels * panel);
                let to = values.par_chunks_exact_mut(panel).zip(rows.par_chunks(width));
                to.for_each(|(to, rows)| set_panel(to, rows));
                Values::F32(values)
            }
            Precision::Bf16 => {
                let mut words = Buffer::zeros(panels * of_words(2));
                let to = words.par_chunks_exact_mut(of_words(2)).zip(rows.par_chunks(width));
                to.for_each_init(scratch, |panel, (words, rows)| {
                    set_panel(panel, rows);
                    fill_words((words, 2), panel, width, |_, value| u32::from(bf16(value)));
                });
                Values::Bf16(words)
            }
            Precision::I8 => {
                let mut words = Buffer::zeros(panels * of_words(4));
                let mut scales = vec![0.0_f32; panels * width];
                let to = words.par_chunks_exact_mut(of_words(4)).zip(scales.par_chunks_exact_mut(width));
                to.zip(rows.par_chunks(width)).for_each_init(scratch, |panel, ((words, scales), rows)| {
                    set_panel(panel, rows);
                    set_scales(panel, scales);
                    fill_words((words, 4), panel, width, |column, value| whole(value, scales[column]));
                });
                Values::I8(words, scales)
            }
        };
        Self { inner, columns, width, values }
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

    /// Rows of the factor: the length of its sums.
    pub(crate) fn inner(&self) -> usize {
        self.inner
    }

    /// Columns of the factor.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Columns of a panel; the last one may have fewer.
    pub(crate) fn panel_columns(&self) -> usize {
        self.width
    }

    /// How many panels there are.
    pub(crate) fn panels(&self) -> usize {
        self.columns.div_ceil(self.width)
    }

    /// How many numbers the factor has.
    pub(crate) fn numbers(&self) -> usize {
        self.inner * self.columns
    }

    /// Memory of the numbers.
    pub(crate) fn bytes(&self) -> usize {
        match &self.values {
            Values::F32(values) => size_of_val(&**values),
            Values::Bf16(values) => size_of_val(&**values),
            Values::I8(values, scales) => size_of_val(&**values) + size_of_val(&**scales),
        }
    }

    /// All words and how many numbers each holds.
    #[inline(always)]
    pub(super) fn all_words(&self) -> (&[u32], usize) {
        match &self.values {
            Values::F32(values) => (bytemuck::cast_slice(values), 1),
            Values::Bf16(words) => (words, 2),
            Values::I8(words, _) => (words, 4),
        }
    }

    /// What the sums of a panel's columns are to be multiplied with.
    #[inline(always)]
    pub(super) fn scales(&self, panel: usize) -> Option<&[f32]> {
        match &self.values {
            Values::I8(_, scales) => Some(&scales[panel * self.width..(panel + 1) * self.width]),
            Values::F32(_) | Values::Bf16(_) => None,
        }
    }

    /// The numbers of a factor in f32.
    fn filled(&mut self) -> &mut Buffer {
        match &mut self.values {
            Values::F32(values) => values,
            _ => unreachable!("a rounded factor is made of weights alone"),
        }
    }

    fn set_rows(&mut self, b: &[f32]) {
        assert_eq!(b.len(), self.inner * self.columns, "a right factor of the packed form");
        let (width, columns) = (self.width, self.columns);
        self.for_each_panel(|panel, to| {
            let b = b.chunks_exact(columns).map(|row| &row[panel * width..]);
            // A copy of a length that is not known takes a call.
            match width {
                64 => copy_rows::<64>(to, b),
                16 => copy_rows::<16>(to, b),
                8 => copy_rows::<8>(to, b),
                _ => to.chunks_exact_mut(width).zip(b).for_each(|(to, from)| copy_first(to, from)),
            }
        });
    }

    fn set_transposed(&mut self, b: &[f32]) {
        assert_eq!(b.len(), self.inner * self.columns, "a right factor of the packed form");
        let (width, inner) = (self.width, self.inner);
        self.for_each_panel(|panel, to| {
            turn_rows(to, b[panel * width * inner..].chunks_exact(inner).take(width), (width, inner));
        });
    }

    /// Sets each panel by its number, several at a time where there is much to copy.
    fn for_each_panel(&mut self, set: impl Fn(usize, &mut [f32]) + Sync) {
        let len = self.width * self.inner;
        let panels = self.filled().par_chunks_exact_mut(len).enumerate();
        let at_once = TASK_NUMBERS_MIN.div_ceil(len.max(1));
        panels.with_min_len(at_once).for_each(|(panel, to)| set(panel, to));
    }
}

/// Sets a panel from the weights' rows of its columns, with zeros where there are fewer than columns.
fn set_panel(to: &mut [f32], rows: &[&[f32]]) {
    let inner = rows[0].len();
    let width = to.len() / inner;
    if rows.len() < width {
        to.fill(0.0);
    }
    turn_rows(to, rows.iter().copied(), (width, inner));
}

/// Copies as much of each row as a panel has columns, or as there is.
fn copy_rows<'a, const WIDTH: usize>(to: &mut [f32], rows: impl Iterator<Item = &'a [f32]>) {
    for (to, from) in to.as_chunks_mut::<WIDTH>().0.iter_mut().zip(rows) {
        match from.first_chunk() {
            Some(from) => *to = *from,
            None => copy_first(to, from),
        }
    }
}

fn copy_first(to: &mut [f32], from: &[f32]) {
    let len = to.len().min(from.len());
    to[..len].copy_from_slice(&from[..len]);
}

/// Puts rows of `inner` numbers into the columns of a panel.
fn turn_rows<'a>(
    to: &mut [f32],
    rows: impl Iterator<Item = &'a [f32]> + Clone,
    (width, inner): (usize, usize),
) {
    // Blocks of sixteen sums read each line of the cache once.
    for first in (0..inner).step_by(16) {
        let depth = 16.min(inner - first);
        for (column, row) in rows.clone().enumerate() {
            for (k, value) in row[first..first + depth].iter().enumerate() {
                to[(first + k) * width + column] = *value;
            }
        }
    }
}

/// The upper half of the number, rounded to the nearest, of two equally near ones to the even one.
pub(crate) fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// Sets each column's scale, so that its largest magnitude becomes 127.
fn set_scales(panel: &[f32], scales: &mut [f32]) {
    for row in panel.chunks_exact(scales.len()) {
        scales.iter_mut().zip(row).for_each(|(scale, value)| *scale = scale.max(value.abs() / 127.0));
    }
}

/// The whole number nearest to `value / scale`, plus 128.
fn whole(value: f32, scale: f32) -> u32 {
    // A column of zeros has the scale 0.
    let whole = if scale > 0.0 { (value / scale).round_ties_even() } else { 0.0 };
    (whole + 128.0) as u32
}

/// Puts the numbers of each column together into words of so many.
fn fill_words(
    (words, numbers): (&mut [u32], usize),
    panel: &[f32],
    width: usize,
    number: impl Fn(usize, f32) -> u32,
) {
    for (words, rows) in words.chunks_exact_mut(width).zip(panel.chunks(numbers * width)) {
        for (place, row) in rows.chunks_exact(width).enumerate() {
            let shift = 32 / numbers * place;
            for (column, (word, value)) in words.iter_mut().zip(row).enumerate() {
                *word |= number(column, *value) << shift;
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
    simd::arch().dispatch(Width)
}

#[cfg(test)]
mod tests {
    #[test]
    fn bf16_rounds_to_the_nearest_and_ties_to_even() {
        for (value, bits) in [(1.0, 0x3f80), (-2.5, 0xc020), (1.003_906_3, 0x3f80), (1.011_718_8, 0x3f82)] {
            assert_eq!(super::bf16(value), bits, "{value}");
        }
        assert!(f32::from_bits(u32::from(super::bf16(f32::NAN)) << 16).is_nan());
    }
}
