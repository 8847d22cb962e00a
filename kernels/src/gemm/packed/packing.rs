//! Factors of weights, set some rows at a time.

use std::ops::Range;
use std::sync::Arc;

use pulp::bytemuck;
use rayon::prelude::*;

use super::{PackedMatrix, Pages, Precision, TASK_NUMBERS_MIN, Words, bf16, panel_width, transpose};
use crate::panel::{Buffer, LANES};

/// The size of a factor that is made of weights `[columns, inner]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FactorShape {
    /// Rows of the weights; those of several matrices whose products lie side by side.
    pub(crate) columns: usize,
    /// Length of a row.
    pub(crate) inner: usize,
    pub(crate) precision: Precision,
}

/// Factors of weights in one piece of memory, which are set some rows of the weights at a time: of a model that is read
/// from a file no other copy is ever in memory.
pub(crate) struct Packing {
    /// Columns of a panel.
    width: usize,
    memory: Pages,
    factors: Vec<PackingFactor>,
}

struct PackingFactor {
    shape: FactorShape,
    /// Its first word.
    start: usize,
    scales: Vec<f32>,
}

impl FactorShape {
    /// Words of a panel of so many columns.
    fn panel_words(&self, width: usize) -> usize {
        self.inner.div_ceil(self.precision.numbers()) * width
    }

    /// Words that it takes: whole panels, each of which is a multiple of the widest vector, so that all of them begin
    /// at a line of the cache if the first one does.
    fn words(&self, width: usize) -> usize {
        (self.columns.div_ceil(width) * self.panel_words(width)).next_multiple_of(LANES)
    }

    /// Bytes that a factor of this shape takes.
    pub(crate) fn bytes(&self) -> usize {
        let width = panel_width();
        4 * (self.words(width) + self.scales(width))
    }

    /// In 8 bits each column has a scale.
    fn scales(&self, width: usize) -> usize {
        if self.precision == Precision::I8 { self.columns.next_multiple_of(width) } else { 0 }
    }
}

impl Packing {
    /// Room for factors of these shapes.
    pub(crate) fn new(shapes: &[FactorShape]) -> Self {
        let width = panel_width();
        let mut end = 0;
        let factors = shapes.iter().map(|shape| {
            let start = end;
            end += shape.words(width);
            PackingFactor { shape: *shape, start, scales: vec![0.0; shape.scales(width)] }
        });
        let factors = factors.collect();
        Self { width, memory: Pages::zeros(end), factors }
    }

    /// Sets columns of a factor, from the first one on, to rows of weights. Each column is set once.
    ///
    /// # Panics
    /// If these are no whole rows, or more than there are columns.
    pub(crate) fn set(&mut self, factor: usize, first: usize, rows: &[f32]) {
        let PackingFactor { shape, start, scales } = &mut self.factors[factor];
        let (shape, width) = (*shape, self.width);
        assert!(rows.len().is_multiple_of(shape.inner), "weights in whole rows");
        let columns = first..first + rows.len() / shape.inner;
        assert!(columns.end <= shape.columns, "{columns:?} of a factor {shape:?}");
        let panels = first / width..columns.end.div_ceil(width);
        let words = shape.panel_words(width);
        let memory = &mut self.memory[*start + panels.start * words..*start + panels.end * words];
        let each = memory.par_chunks_exact_mut(words).enumerate();
        let each = each.with_min_len(TASK_NUMBERS_MIN.div_ceil((width * shape.inner).max(1)));
        let part = |panel: usize| {
            let begin = (panels.start + panel) * width;
            let own = begin.max(first)..(begin + width).min(columns.end);
            let rows = &rows[(own.start - first) * shape.inner..(own.end - first) * shape.inner];
            // Nobody sets the columns that fill up the last panel.
            let end = if own.end == shape.columns { begin + width } else { own.end };
            PanelRows { rows, shape, width, place: own.start - begin, end: end - begin }
        };
        let rounds = shape.precision != Precision::F32;
        let scratch = || Buffer::zeros(if rounds { width * shape.inner } else { 0 });
        if shape.precision == Precision::I8 {
            let scales = scales[panels.start * width..panels.end * width].par_chunks_exact_mut(width);
            each.zip(scales).for_each_init(scratch, |scratch, ((panel, words), scales)| {
                part(panel).set(words, scales, scratch);
            });
        } else {
            each.for_each_init(scratch, |scratch, (panel, words)| part(panel).set(words, &mut [], scratch));
        }
    }

    /// The factors.
    pub(crate) fn done(self) -> Vec<PackedMatrix> {
        let (memory, width) = (Arc::new(self.memory), self.width);
        let packed = self.factors.into_iter().map(|PackingFactor { shape, start, scales }| {
            let words = Words::Shared(Arc::clone(&memory), start..start + shape.words(width));
            let FactorShape { inner, columns, precision } = shape;
            PackedMatrix { inner, columns, width, precision, words, scales }
        });
        packed.collect()
    }
}

/// Rows of weights that become columns of one panel.
struct PanelRows<'a> {
    rows: &'a [f32],
    shape: FactorShape,
    width: usize,
    /// The first of the panel's columns that they become.
    place: usize,
    /// The end of the columns that are set.
    end: usize,
}

impl PanelRows<'_> {
    fn set(&self, words: &mut [u32], scales: &mut [f32], scratch: &mut [f32]) {
        let (width, inner) = (self.width, self.shape.inner);
        let rows = self.rows.chunks_exact(inner);
        if self.shape.precision == Precision::F32 {
            transpose(&mut bytemuck::cast_slice_mut::<u32, f32>(words)[self.place..], rows, width, inner);
            return;
        }
        if rows.len() < width {
            scratch.fill(0.0);
        }
        transpose(&mut scratch[self.place..], rows, width, inner);
        let columns = self.place..self.end;
        match self.shape.precision {
            Precision::F32 => unreachable!("numbers in f32 need no rounding"),
            Precision::Bf16 => {
                fill_words(words, 2, scratch, width, columns, |_, value| u32::from(bf16(value)));
            }
            Precision::I8 => {
                set_scales(scratch, scales);
                fill_words(words, 4, scratch, width, columns, |column, value| whole(value, scales[column]));
            }
        }
    }
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

/// Puts the numbers of some columns together into words of so many.
fn fill_words(
    words: &mut [u32],
    numbers: usize,
    panel: &[f32],
    width: usize,
    columns: Range<usize>,
    number: impl Fn(usize, f32) -> u32,
) {
    for (words, rows) in words.chunks_exact_mut(width).zip(panel.chunks(numbers * width)) {
        for (place, row) in rows.chunks_exact(width).enumerate() {
            let shift = 32 / numbers * place;
            let words = words[columns.clone()].iter_mut().zip(&row[columns.clone()]);
            for (column, (word, value)) in columns.clone().zip(words) {
                *word |= number(column, *value) << shift;
            }
        }
    }
}
