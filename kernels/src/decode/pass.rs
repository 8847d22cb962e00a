//! Tokens through the layers.
//!
//! Products are cut by their columns: a thread reads some panels of a weight once for all rows. The result of
//! such a product lies block after block of columns, and the next step collects its rows.

use std::f32::consts::LOG2_E;

use rayon::prelude::*;

use super::attention::{QUERIES_MAX, Queries, attend};
use super::cache::{Context, Shape};
use super::packed::{PackedBlock, PackedDecoder};
use crate::flex::Rows;
use crate::gemm::{Packed, multiply_panels};
use crate::panel::Left;
use crate::{norm, rotary, simd, swiglu};

/// Rows that one task norms or collects: less work than this is not worth handing over.
const ROWS_SHARED: usize = 32;

/// A context, its new tokens and where their last one's logits go.
pub(super) struct Part<'a> {
    pub(super) slot: usize,
    pub(super) tokens: &'a [u32],
    pub(super) context: Context,
    pub(super) logits: Option<&'a mut [f32]>,
}

/// Buffers that serve every pass.
#[derive(Default)]
pub(super) struct Workspace {
    /// The residual stream, `[rows, hidden]`.
    x: Vec<f32>,
    normed: Vec<f32>,
    /// Queries, keys and values side by side.
    projected: Vec<f32>,
    /// `[rows, H D]`.
    mixed: Vec<f32>,
    active: Vec<f32>,
    /// Results of products, by blocks of columns.
    blocked: Vec<f32>,
    blocked_up: Vec<f32>,
}

/// The first `len` numbers of a buffer, which grows where it is too short.
fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// What all passes of a call have in common.
pub(super) struct Pass<'a> {
    pub(super) model: &'a PackedDecoder,
    pub(super) shape: Shape,
    /// Cosines and sines of all positions.
    pub(super) angles: (&'a [f32], &'a [f32]),
    /// How many threads work on a step.
    pub(super) threads: usize,
}

/// Some tokens of a part that go through the layers together.
struct Span {
    part: usize,
    /// First token and end in the part's tokens.
    tokens: std::ops::Range<usize>,
    /// Row of the first token.
    row: usize,
}

impl Pass<'_> {
    /// Takes all parts through the layers, at most `tokens_max` tokens at a time.
    pub(super) fn run_all(&self, parts: &mut [Part<'_>], workspace: &mut Workspace, tokens_max: usize) {
        let (mut spans, mut rows) = (Vec::with_capacity(parts.len()), 0);
        for part in 0..parts.len() {
            let tokens = parts[part].tokens.len();
            let mut first = 0;
            while first < tokens {
                let count = (tokens - first).min(tokens_max - rows);
                spans.push(Span { part, tokens: first..first + count, row: rows });
                (first, rows) = (first + count, rows + count);
                if rows == tokens_max {
                    self.run(parts, &spans, workspace);
                    spans.clear();
                    rows = 0;
                }
            }
        }
        if rows > 0 {
            self.run(parts, &spans, workspace);
        }
    }

    fn run(&self, parts: &mut [Part<'_>], spans: &[Span], workspace: &mut Workspace) {
        let hidden = self.model.config.hidden;
        let rows = spans.last().map_or(0, |span| span.row + span.tokens.len());
        let table = self.model.embedding.slice();
        let mut x = sized(&mut workspace.x, rows * hidden).chunks_exact_mut(hidden);
        for span in spans {
            for (&id, x) in parts[span.part].tokens[span.tokens.clone()].iter().zip(&mut x) {
                x.copy_from_slice(&table[id as usize * hidden..][..hidden]);
            }
        }
        for (layer, block) in self.model.blocks.iter().enumerate() {
            self.project(rows, block, workspace);
            self.place(parts, spans, (layer, block), workspace);
            self.attend(parts, spans, layer, workspace);
            self.after_attention(rows, block, workspace);
        }
        for span in spans {
            parts[span.part].context.advance(span.tokens.len());
        }
        self.head(parts, spans, workspace);
    }

    /// Queries, keys and values of all rows.
    fn project(&self, rows: usize, block: &PackedBlock, workspace: &mut Workspace) {
        let hidden = self.model.config.hidden;
        let normed = sized(&mut workspace.normed, rows * hidden);
        self.norm(&workspace.x[..rows * hidden], &block.input_norm, normed);
        let weight = &block.query_key_value;
        self.product((rows, normed), weight, &mut workspace.blocked);
        let projected = sized(&mut workspace.projected, rows * weight.columns());
        self.collect((rows, &workspace.blocked), weight, projected);
    }

    /// Biases, norms and rotations, and keys and values into the caches.
    fn place(
        &self,
        parts: &mut [Part<'_>],
        spans: &[Span],
        (layer, block): (usize, &PackedBlock),
        workspace: &mut Workspace,
    ) {
        let config = &self.model.config;
        let (query_width, key_width) =
            (config.heads * config.head_width, config.kv_heads * config.head_width);
        let half = config.head_width / 2;
        let scale = LOG2_E / (config.head_width as f32).sqrt();
        let mut rows = workspace.projected.chunks_exact_mut(query_width + 2 * key_width);
        for span in spans {
            let context = &mut parts[span.part].context;
            let before = context.len();
            for (offset, row) in rows.by_ref().take(span.tokens.len()).enumerate() {
                let position = before + offset;
                let angles = [self.angles.0, self.angles.1].map(|table| &table[position * half..][..half]);
                let (query, rest) = row.split_at_mut(query_width);
                let (key, value) = rest.split_at_mut(key_width);
                simd::vectorized(
                    #[inline(always)]
                    || {
                        if let Some(bias) = &block.bias {
                            simd::add_scaled(query, 1.0, &bias[..query_width]);
                            simd::add_scaled(key, 1.0, &bias[query_width..]);
                            simd::add_scaled(value, 1.0, &bias[query_width + key_width..]);
                        }
                        turn_heads(query, (block.query_norm.as_ref(), config.rms_eps), angles);
                        turn_heads(key, (block.key_norm.as_ref(), config.rms_eps), angles);
                        query.iter_mut().for_each(|value| *value *= scale);
                    },
                );
                context.write(&self.shape, (layer, position), key, value);
            }
        }
    }

    /// Attention of all rows into `mixed`.
    fn attend(&self, parts: &[Part<'_>], spans: &[Span], layer: usize, workspace: &mut Workspace) {
        let config = &self.model.config;
        let (head, group) = (config.head_width, config.heads / config.kv_heads);
        let query_width = config.heads * head;
        let distance = query_width + 2 * config.kv_heads * head;
        let projected = &workspace.projected;
        let rows = spans.last().map_or(0, |span| span.row + span.tokens.len());
        let mixed = sized(&mut workspace.mixed, rows * query_width);
        // One position's heads under one key head lie side by side and go together; of many positions each head
        // goes by itself.
        let one = |span: &Span, kv_head: usize, result: &mut [f32]| {
            let context = &parts[span.part].context;
            for (part, result) in result.chunks_mut(QUERIES_MAX * head).enumerate() {
                let first = kv_head * group + part * QUERIES_MAX;
                let values = &projected[span.row * distance + first * head..];
                let (rows, position) = (result.len() / head, (context.len(), 0));
                let queries = Queries { values, distance: head, rows, position };
                attend((&self.shape, context), (layer, kv_head), &queries, (result, head));
            }
        };
        let many = |span: &Span, first: usize, result: &mut [f32]| {
            let context = &parts[span.part].context;
            let rows = result.len() / query_width;
            for number in 0..config.heads {
                let values = &projected[(span.row + first) * distance + number * head..];
                let position = (context.len() + first, 1);
                let queries = Queries { values, distance, rows, position };
                let result = &mut result[number * head..];
                attend((&self.shape, context), (layer, number / group), &queries, (result, query_width));
            }
        };
        if self.threads == 1 {
            for (span, result) in of_spans(spans, mixed, query_width) {
                match span.tokens.len() {
                    1 => result
                        .chunks_exact_mut(group * head)
                        .enumerate()
                        .for_each(|(kv_head, result)| one(span, kv_head, result)),
                    _ => result
                        .chunks_mut(QUERIES_MAX * query_width)
                        .enumerate()
                        .for_each(|(tile, result)| many(span, tile * QUERIES_MAX, result)),
                }
            }
            return;
        }
        let of_spans: Vec<_> = of_spans(spans, mixed, query_width).collect();
        of_spans.into_par_iter().for_each(|(span, result)| match span.tokens.len() {
            1 => result
                .par_chunks_exact_mut(group * head)
                .enumerate()
                .for_each(|(kv_head, result)| one(span, kv_head, result)),
            _ => result
                .par_chunks_mut(QUERIES_MAX * query_width)
                .enumerate()
                .for_each(|(tile, result)| many(span, tile * QUERIES_MAX, result)),
        });
    }

    /// The output projection and the feed-forward part, added to the residual stream.
    fn after_attention(&self, rows: usize, block: &PackedBlock, workspace: &mut Workspace) {
        let config = &self.model.config;
        let (hidden, intermediate) = (config.hidden, config.intermediate);
        let x = &mut workspace.x[..rows * hidden];
        let mixed = &workspace.mixed[..rows * config.heads * config.head_width];
        self.product((rows, mixed), &block.output, &mut workspace.blocked);
        self.add((rows, &workspace.blocked), (&block.output, block.output_bias.as_ref()), x);
        let normed = sized(&mut workspace.normed, rows * hidden);
        self.norm(x, &block.post_norm, normed);
        self.gated((rows, normed), block, (&mut workspace.blocked, &mut workspace.blocked_up));
        let active = sized(&mut workspace.active, rows * intermediate);
        self.collect((rows, &workspace.blocked), &block.gate, active);
        self.product((rows, active), &block.down, &mut workspace.blocked);
        self.add((rows, &workspace.blocked), (&block.down, None), x);
    }

    /// Logits of the last tokens of all parts that end here and want them.
    fn head(&self, parts: &mut [Part<'_>], spans: &[Span], workspace: &mut Workspace) {
        let (hidden, vocabulary) = (self.model.config.hidden, self.model.config.vocabulary);
        let ends =
            |part: &Part<'_>, span: &Span| part.logits.is_some() && span.tokens.end == part.tokens.len();
        let rows = spans.iter().filter(|span| ends(&parts[span.part], span)).count();
        if rows == 0 {
            return;
        }
        let active = sized(&mut workspace.active, rows * hidden);
        let last = spans.iter().filter(|span| ends(&parts[span.part], span));
        for (span, to) in last.zip(active.chunks_exact_mut(hidden)) {
            let row = span.row + span.tokens.len() - 1;
            to.copy_from_slice(&workspace.x[row * hidden..][..hidden]);
        }
        let normed = sized(&mut workspace.normed, rows * hidden);
        self.norm(active, &self.model.final_norm, normed);
        self.product((rows, normed), &self.model.head, &mut workspace.blocked);
        let width = self.columns(&self.model.head);
        let mut row = 0;
        for span in spans {
            let part = &mut parts[span.part];
            if !ends(part, span) {
                continue;
            }
            if let Some(logits) = &mut part.logits {
                collect_row((rows, &workspace.blocked[..rows * vocabulary]), width, row, logits);
                row += 1;
            }
        }
    }

    /// Columns of a block of a product's result.
    fn columns(&self, weight: &Packed) -> usize {
        weight.panels().div_ceil(self.threads) * weight.panel_columns()
    }

    /// Works on parts of a buffer, on all threads.
    fn parts(&self, buffer: &mut [f32], len: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
        if self.threads > 1 && buffer.len() > len {
            buffer.par_chunks_mut(len).enumerate().for_each(|(number, part)| work(number, part));
        } else {
            buffer.chunks_mut(len).enumerate().for_each(|(number, part)| work(number, part));
        }
    }

    /// `rows w^T` by blocks of columns.
    fn product(&self, (rows, left): (usize, &[f32]), weight: &Packed, result: &mut Vec<f32>) {
        let result = sized(result, rows * weight.columns());
        let (width, panels) = (self.columns(weight), weight.panels().div_ceil(self.threads));
        self.parts(result, rows * width, |block, result| {
            let panels = block * panels..((block + 1) * panels).min(weight.panels());
            multiply_panels((rows, Left::Rows(left, left.len() / rows)), weight, panels, result);
        });
    }

    /// The activation of the feed-forward part by blocks of columns.
    fn gated(
        &self,
        (rows, normed): (usize, &[f32]),
        block: &PackedBlock,
        (gate, up): (&mut Vec<f32>, &mut Vec<f32>),
    ) {
        let len = rows * block.gate.columns();
        let (gate, up) = (sized(gate, len), sized(up, len));
        let (width, panels) = (self.columns(&block.gate), block.gate.panels().div_ceil(self.threads));
        let work = |number: usize, gate: &mut [f32], up: &mut [f32]| {
            let panels = number * panels..((number + 1) * panels).min(block.gate.panels());
            let left = (rows, Left::Rows(normed, normed.len() / rows));
            multiply_panels(left, &block.gate, panels.clone(), gate);
            multiply_panels(left, &block.up, panels, up);
            swiglu::forward_in_place(gate, up);
        };
        if self.threads > 1 {
            let blocks = gate.par_chunks_mut(rows * width).zip(up.par_chunks_mut(rows * width));
            blocks.enumerate().for_each(|(number, (gate, up))| work(number, gate, up));
        } else {
            work(0, gate, up);
        }
    }

    fn norm(&self, x: &[f32], gain: &Rows, y: &mut [f32]) {
        let (gain, eps) = (gain.slice(), self.model.config.rms_eps);
        let len = ROWS_SHARED * gain.len();
        self.parts(y, len, |number, y| {
            let x = &x[number * len..][..y.len()];
            simd::vectorized(
                #[inline(always)]
                || {
                    for (x, y) in x.chunks_exact(gain.len()).zip(y.chunks_exact_mut(gain.len())) {
                        norm::forward_row(x, gain, eps, y);
                    }
                },
            );
        });
    }

    /// A product's result row by row.
    fn collect(&self, (rows, blocked): (usize, &[f32]), weight: &Packed, to: &mut [f32]) {
        let (columns, width) = (weight.columns(), self.columns(weight));
        let blocked = (rows, &blocked[..rows * columns]);
        self.parts(to, ROWS_SHARED * columns, |number, to| {
            for (row, to) in to.chunks_exact_mut(columns).enumerate() {
                collect_row(blocked, width, number * ROWS_SHARED + row, to);
            }
        });
    }

    /// Adds a product's result and a bias to the residual stream.
    fn add(&self, (rows, blocked): (usize, &[f32]), (weight, bias): (&Packed, Option<&Rows>), x: &mut [f32]) {
        let (columns, width) = (weight.columns(), self.columns(weight));
        let blocked = &blocked[..rows * columns];
        self.parts(x, ROWS_SHARED * columns, |number, x| {
            for (row, x) in x.chunks_exact_mut(columns).enumerate() {
                let row = number * ROWS_SHARED + row;
                simd::vectorized(
                    #[inline(always)]
                    || {
                        for (from, x) in blocked.chunks(rows * width).zip(x.chunks_mut(width)) {
                            simd::add_scaled(x, 1.0, &from[row * x.len()..]);
                        }
                        if let Some(bias) = bias {
                            simd::add_scaled(x, 1.0, bias.slice());
                        }
                    },
                );
            }
        });
    }
}

/// Norm and rotation of the heads of one row.
#[inline(always)]
fn turn_heads(heads: &mut [f32], (gain, eps): (Option<&Rows>, f64), [cos, sin]: [&[f32]; 2]) {
    for head in heads.chunks_exact_mut(2 * cos.len()) {
        if let Some(gain) = gain {
            norm::forward_row_in_place(head, gain.slice(), eps);
        }
        rotary::rotate_head(head, cos, sin, 1.0);
    }
}

/// One row of a result that lies by blocks of columns.
fn collect_row((rows, blocked): (usize, &[f32]), width: usize, row: usize, to: &mut [f32]) {
    for (from, to) in blocked.chunks(rows * width).zip(to.chunks_mut(width)) {
        to.copy_from_slice(&from[row * to.len()..][..to.len()]);
    }
}

/// The rows of each span.
fn of_spans<'s, 'm>(
    spans: &'s [Span],
    mut mixed: &'m mut [f32],
    width: usize,
) -> impl Iterator<Item = (&'s Span, &'m mut [f32])> {
    spans.iter().map(move |span| {
        let (own, rest) = std::mem::take(&mut mixed).split_at_mut(span.tokens.len() * width);
        mixed = rest;
        (span, own)
    })
}
