//! The right factor of a product in panels, at one of three precisions.

use std::ops::Range;
use std::sync::Arc;

use pulp::{Simd, WithSimd, bytemuck};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::panel::Buffer;
use crate::simd;
pub(crate) use packing::{FactorShape, Packing};
use pages::Pages;

mod packing;
mod pages;

/// The bits of `2^23`, in front of which a whole number of 8 bits makes the float `2^23` plus it.
pub(super) const WHOLE_BITS: u32 = 0x4b00_0000;
/// What such a float is larger by than the number that the 8 bits stand for.
pub(super) const WHOLE_OFFSET: f32 = 8_388_608.0 + 128.0;

/// A right factor `[inner, columns]` in panels of columns, each row-major, the last one filled up with zeros.
pub(crate) struct PackedMatrix {
    pub(super) inner: usize,
    pub(super) columns: usize,
    /// Columns of a panel: as many as a register tile has.
    pub(super) width: usize,
    precision: Precision,
    words: Words,
    /// In 8 bits, what the sums of each column are multiplied with, filled up as the last panel is.
    scales: Vec<f32>,
}

/// Numbers that one task copies: less is not worth handing over.
const TASK_NUMBERS_MIN: usize = 32 << 10;

/// The precision in which a packed factor is stored; sums are in f32 in every case.
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

impl Precision {
    /// Numbers of a column that a word of 32 bits holds: in 32 bits the number itself; in 16 two, the upper halves of
    /// f32, the first one low; in 8 four, each plus 128, the first one lowest.
    fn numbers(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
            Self::I8 => 4,
        }
    }

    /// One of the numbers of a word; in 8 bits of a column with this scale.
    #[inline(always)]
    fn number(self, word: u32, number: usize, scale: f32) -> f32 {
        match self {
            Self::F32 => f32::from_bits(word),
            Self::Bf16 => f32::from_bits(word >> (16 * number) << 16),
            Self::I8 => of_whole((word >> (8 * number)) & 0xff, scale),
        }
    }
}

/// The words of all panels.
enum Words {
    /// In memory of their own.
    Own(Buffer<u32>),
    /// A part of what factors have in common that are made and given up together. An allocator gives the memory of a
    /// large piece back to the system, and keeps that of many small ones between others that are still in use.
    Shared(Arc<Pages>, Range<usize>),
}

impl Words {
    #[inline(always)]
    fn slice(&self) -> &[u32] {
        match self {
            Self::Own(words) => words,
            Self::Shared(words, range) => &words[range.clone()],
        }
    }
}

impl PackedMatrix {
    /// Room for a factor of at most so many numbers in panels.
    fn sized(inner: usize, columns: usize) -> Self {
        let width = panel_width();
        Self {
            inner,
            columns,
            width,
            precision: Precision::F32,
            words: Words::Own(Buffer::zeros(columns.div_ceil(width) * width * inner)),
            scales: Vec::new(),
        }
    }

    /// Words of a panel, each of so many numbers.
    pub(super) fn words(&self, numbers: usize) -> usize {
        self.inner.div_ceil(numbers) * self.width
    }

    /// The weights `[columns, inner]` of some columns, as they are rounded. PackedMatrix at the same precision again they
    /// are the same to the bit.
    pub(crate) fn weights(&self, columns: Range<usize>) -> Vec<f32> {
        let mut weights = vec![0.0; columns.len() * self.inner];
        let rows = weights.par_chunks_exact_mut(self.inner.max(1)).zip(columns);
        rows.for_each(|(row, column)| self.copy_column(column, row));
        weights
    }

    /// The weights of one column.
    pub(crate) fn copy_column(&self, column: usize, to: &mut [f32]) {
        assert!(column < self.columns && to.len() == self.inner, "a row of the weights");
        let numbers = self.precision.numbers();
        let (panel, place) = (column / self.width, column % self.width);
        let words = &self.words.slice()[panel * self.words(numbers)..][..self.words(numbers)];
        let scale = self.scales.get(column).copied().unwrap_or_default();
        for (to, word) in to.chunks_mut(numbers).zip(words.chunks_exact(self.width)) {
            for (number, to) in to.iter_mut().enumerate() {
                *to = self.precision.number(word[place], number, scale);
            }
        }
    }

    /// The weights of some columns in f32 as [`PackedMatrix::transposed`] makes them: shared where they are in f32 in whole
    /// panels, and otherwise widened.
    pub(crate) fn widened(&self, columns: Range<usize>) -> Self {
        let (inner, width, numbers) = (self.inner, self.width, self.precision.numbers());
        let ends_whole = columns.end.is_multiple_of(width) || columns.end == self.columns;
        if !columns.start.is_multiple_of(width) || !ends_whole {
            return Self::transposed(&self.weights(columns.clone()), inner, columns.len());
        }
        let (first, len) = (columns.start / width, self.words(numbers));
        if let (Precision::F32, Words::Shared(memory, range)) = (self.precision, &self.words) {
            let begin = range.start + first * len;
            let words = begin..begin + columns.len().div_ceil(width) * len;
            let words = Words::Shared(Arc::clone(memory), words);
            return Self {
                inner,
                columns: columns.len(),
                width,
                precision: Precision::F32,
                words,
                scales: Vec::new(),
            };
        }
        let mut widened = Self::sized(inner, columns.len());
        widened.for_each_panel(|panel, to| {
            let words = self.words.slice()[(first + panel) * len..][..len].chunks_exact(width);
            let scales = self.scales(first + panel);
            for (to, words) in to.chunks_mut(numbers * width).zip(words) {
                for (number, to) in to.chunks_exact_mut(width).enumerate() {
                    for (place, (to, word)) in to.iter_mut().zip(words).enumerate() {
                        let scale = scales.map_or(0.0, |scales| scales[place]);
                        *to = self.precision.number(*word, number, scale);
                    }
                }
            }
        });
        widened
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
        size_of_val(self.words.slice()) + size_of_val(&*self.scales)
    }

    /// All words and how many numbers each holds.
    #[inline(always)]
    pub(super) fn all_words(&self) -> (&[u32], usize) {
        (self.words.slice(), self.precision.numbers())
    }

    /// What the sums of a panel's columns are to be multiplied with.
    #[inline(always)]
    pub(super) fn scales(&self, panel: usize) -> Option<&[f32]> {
        match self.precision {
            Precision::I8 => Some(&self.scales[panel * self.width..(panel + 1) * self.width]),
            Precision::F32 | Precision::Bf16 => None,
        }
    }

    /// The numbers of a factor in f32.
    fn filled(&mut self) -> &mut [f32] {
        match &mut self.words {
            Words::Own(words) => bytemuck::cast_slice_mut(words),
            Words::Shared(..) => unreachable!("factors of weights are not filled again"),
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
            transpose(to, b[panel * width * inner..].chunks_exact(inner).take(width), width, inner);
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
fn transpose<'a>(to: &mut [f32], rows: impl Iterator<Item = &'a [f32]> + Clone, width: usize, inner: usize) {
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

/// What a whole number of 8 bits, plus 128, stands for. The largest one is the number that the scale was made of, so
/// that the same scale comes out again.
fn of_whole(bits: u32, scale: f32) -> f32 {
    let whole = bits as f32 - 128.0;
    if whole.abs() < 127.0 {
        return whole * scale;
    }
    let near = 127.0 * scale;
    let candidates = [near, near.next_up(), near.next_down()];
    candidates.into_iter().find(|largest| largest / 127.0 == scale).unwrap_or(near).copysign(whole)
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
    use super::{FactorShape, PackedMatrix, Packing, Precision};

    #[test]
    fn bf16_rounds_to_the_nearest_and_ties_to_even() {
        for (value, bits) in [(1.0, 0x3f80), (-2.5, 0xc020), (1.003_906_3, 0x3f80), (1.011_718_8, 0x3f82)] {
            assert_eq!(super::bf16(value), bits, "{value}");
        }
        assert!(f32::from_bits(u32::from(super::bf16(f32::NAN)) << 16).is_nan());
    }

    /// Weights of so many columns, of which one is zero and one has a largest number that is negative.
    fn weights(inner: usize, columns: usize) -> Vec<f32> {
        let value = |i: usize| ((i * i) as f32 * 0.37).sin() * (1.0 + (i / inner) as f32) * 1e-3;
        let mut weights: Vec<f32> = (0..inner * columns).map(value).collect();
        weights[3 * inner..4 * inner].fill(0.0);
        weights[5 * inner + 2] = -1.7;
        weights
    }

    /// Of whole panels and of others.
    #[test]
    fn what_is_widened_is_what_its_numbers_pack_to() {
        let (inner, columns) = (37, 300);
        for precision in [Precision::F32, Precision::Bf16, Precision::I8] {
            let shape = FactorShape { columns, inner, precision };
            // Another factor lies before it.
            let mut packing = Packing::new(&[shape, shape]);
            packing.set(1, 0, &weights(inner, columns));
            let packed = packing.done().remove(1);
            for columns in [0..columns, 0..128, 64..columns, 64..192, 5..70, 128..200] {
                let widened = packed.widened(columns.clone());
                let expected =
                    PackedMatrix::transposed(&packed.weights(columns.clone()), inner, columns.len());
                assert_eq!(widened.columns(), columns.len());
                assert_eq!(widened.all_words(), expected.all_words(), "{precision:?}, {columns:?}");
            }
        }
    }

    #[test]
    fn what_is_unpacked_packs_to_the_same_bits() {
        let (inner, columns) = (37, 150);
        let weights = weights(inner, columns);
        for precision in [Precision::F32, Precision::Bf16, Precision::I8] {
            let shape = |columns| FactorShape { columns, inner, precision };
            // The parts of the first factor meet inside of a panel.
            let pack = |weights: &[f32]| {
                let (first, second) = weights.split_at(70 * inner);
                let mut packing = Packing::new(&[shape(columns), shape(columns - 70)]);
                packing.set(0, 70, second);
                packing.set(0, 0, first);
                packing.set(1, 0, second);
                packing.done()
            };
            let packed = pack(&weights);
            let mut at_once = Packing::new(&[shape(columns)]);
            at_once.set(0, 0, &weights);
            let at_once = at_once.done().remove(0);
            assert_eq!(at_once.all_words(), packed[0].all_words(), "{precision:?}");
            assert_eq!(at_once.scales, packed[0].scales, "{precision:?}");
            assert!(at_once.bytes() <= shape(columns).bytes(), "{precision:?}");
            let unpacked = packed[0].weights(0..columns);
            assert_eq!(unpacked[70 * inner..], packed[1].weights(0..columns - 70), "{precision:?}");
            if precision == Precision::F32 {
                assert_eq!(unpacked, weights);
            }
            let largest_error = unpacked.iter().zip(&weights).map(|(found, exact)| (found - exact).abs());
            assert!(largest_error.fold(0.0, f32::max) < 0.01, "{precision:?}");
            for (again, before) in pack(&unpacked).iter().zip(&packed) {
                assert_eq!(again.all_words(), before.all_words(), "{precision:?}");
                assert_eq!(again.scales, before.scales, "{precision:?}");
            }
        }
    }
}
