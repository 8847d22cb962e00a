//! One transformer block over a batch, forward: keys and values of all rows first, then chunk by chunk what they are
//! for. The backward pass is in `layer/backward.rs`.

use std::mem;
use std::ops::Range;
use std::sync::Arc;

use super::workspace::{Activations, Keep, KeptChunk, KeptLayer, Workspace, sized};
use crate::attention::{self, Span};
use crate::decoder::{Packed, SequenceRows, config::DecoderConfig};
use crate::flex::Rows;
use crate::gemm::{add_multiply, multiply};
use crate::norm::{norm_rows, norm_rows_in_place};
use crate::panel::Left;
use crate::rotary::rotate_rows;
use crate::rows::{Matrix, add_bias, for_each_block, part};
use crate::streambp::chunks;
use crate::swiglu;
use crate::weights::Block;
use weights::ForwardWeights;

mod backward;
mod keys_values;
mod weights;

/// One block over one batch.
pub(super) struct LayerPass<'a> {
    pub(super) config: &'a DecoderConfig,
    pub(super) block: &'a Block<Rows>,
    pub(super) batch: &'a Packed,
    /// Rows of a chunk.
    pub(super) chunk: usize,
    /// Cosines and sines of all rows.
    pub(super) angles: (&'a [f32], &'a [f32]),
    /// Where the batch's sequences lie.
    pub(super) parts: &'a [SequenceRows],
}

/// A chunk's rows, and their input to the block.
#[derive(Clone, Copy)]
struct ChunkInput<'a> {
    x: &'a [f32],
    rows: &'a Range<usize>,
}

impl<'a> LayerPass<'a> {
    fn query_width(&self) -> usize {
        self.config.heads * self.config.head_width
    }

    fn key_width(&self) -> usize {
        self.config.kv_heads * self.config.head_width
    }

    fn tokens(&self) -> usize {
        self.batch.ids.len()
    }

    fn key_rows(&self) -> usize {
        self.parts.last().map_or(0, |part| part.keys.end)
    }

    fn angles(&self, rows: &Range<usize>) -> (&'a [f32], &'a [f32]) {
        let half = self.config.head_width / 2;
        (part(self.angles.0, rows, half), part(self.angles.1, rows, half))
    }

    /// Norm and rotation of projected queries or keys, in place.
    fn norm_rope_heads(&self, x: &mut [f32], gain: Option<&Rows>, rows: &Range<usize>) {
        if let Some(gain) = gain {
            norm_rows_in_place(x, gain.slice(), self.config.rms_eps);
        }
        rotate_rows(x, x.len() / rows.len(), self.angles(rows), false);
    }

    /// Replaces `x` by the block's output, and keeps what is asked for.
    pub(super) fn forward(&self, x: &mut [f32], workspace: &mut Workspace, keep: Keep) -> KeptLayer {
        let mut kept = KeptLayer::default();
        let hidden = self.config.hidden;
        let weights = ForwardWeights::of_forward_pass(self);
        self.keys_values(x, &weights, workspace);
        for rows in chunks(self.tokens(), self.chunk) {
            let x = &mut x[rows.start * hidden..rows.end * hidden];
            let mixed = self.attend(ChunkInput { x, rows: &rows }, &weights, workspace);
            let activations =
                self.after_attention(x, &mixed.result, &weights, workspace, keep == Keep::Activations);
            if keep != Keep::Nothing {
                kept.chunks.push(KeptChunk { mixed, activations });
            }
        }
        if keep == Keep::Activations {
            let Workspace { keys, values, dkeys, dvalues, pool, .. } = workspace;
            let own = if self.batch.has_prefixes() { [dkeys, dvalues] } else { [keys, values] };
            let len = self.tokens() * self.key_width();
            kept.keys_values = Some(own.map(|buffer| mem::replace(buffer, pool.take(len))));
        }
        kept
    }

    /// The norm and the queries of a chunk into the workspace, and what attention makes of them.
    fn attend(
        &self,
        chunk: ChunkInput<'_>,
        weights: &ForwardWeights,
        workspace: &mut Workspace,
    ) -> attention::Mixed {
        self.queries(chunk, weights, workspace);
        let heads = self.heads(chunk.rows.len(), &workspace.query, &workspace.keys, &workspace.values);
        attention::mix(&heads, &self.spans(chunk.rows))
    }

    /// The norm and the queries of a chunk into the workspace.
    fn queries(&self, chunk: ChunkInput<'_>, weights: &ForwardWeights, workspace: &mut Workspace) {
        let (hidden, width, count) = (self.config.hidden, self.query_width(), chunk.rows.len());
        // Only a norm's gradient needs what the norm saw.
        let raw_width = if self.block.query_norm.is_some() { width } else { 1 };
        let buffers = [
            Matrix::new(sized(&mut workspace.normed, count * hidden), hidden),
            Matrix::new(sized(&mut workspace.query, count * width), width),
            Matrix::new(sized(&mut workspace.raw_query, count * raw_width), raw_width),
        ];
        for_each_block(buffers, |rows, [normed, query, raw]| {
            let gain = self.block.input_norm.slice();
            norm_rows(part(chunk.x, &rows, hidden), gain, self.config.rms_eps, normed);
            multiply(rows.len(), Left::Rows(normed, hidden), &weights.query, query);
            add_bias(query, self.block.query_bias.as_ref().map(Rows::slice));
            if self.block.query_norm.is_some() {
                raw.copy_from_slice(query);
            }
            let rows = chunk.rows.start + rows.start..chunk.rows.start + rows.end;
            self.norm_rope_heads(query, self.block.query_norm.as_ref(), &rows);
        });
    }

    /// From a chunk's input and attention's result to the block's output, in the place of the input. Returns what
    /// the backward pass starts from, if it is to be kept.
    fn after_attention(
        &self,
        x: &mut [f32],
        mixed: &[f32],
        weights: &ForwardWeights,
        workspace: &mut Workspace,
        keeps: bool,
    ) -> Option<Activations> {
        let (hidden, intermediate, width) =
            (self.config.hidden, self.config.intermediate, self.query_width());
        let count = x.len() / hidden;
        let keeps_query = keeps && self.block.query_norm.is_none();
        // What is not kept still is a buffer with rows.
        let mut room = |keeps: bool, width: usize| match keeps {
            true => (workspace.pool.take(count * width), width),
            false => (vec![0.0; count], 1),
        };
        let (mut query_copy, query_width) = room(keeps_query, width);
        let (mut residual_copy, residual_width) = room(keeps, hidden);
        let (mut gate_copy, gate_width) = room(keeps, intermediate);
        let mut up_kept = keeps.then(|| workspace.pool.take(count * intermediate));
        let query = &workspace.query;
        let up = up_kept.as_mut().unwrap_or(&mut workspace.up);
        let buffers = [
            Matrix::new(x, hidden),
            Matrix::new(sized(&mut workspace.post_normed, count * hidden), hidden),
            Matrix::new(sized(&mut workspace.gate, count * intermediate), intermediate),
            Matrix::new(sized(up, count * intermediate), intermediate),
            Matrix::new(&mut query_copy, query_width),
            Matrix::new(&mut residual_copy, residual_width),
            Matrix::new(&mut gate_copy, gate_width),
        ];
        for_each_block(buffers, |rows, [x, normed, gate, up, query_copy, residual_copy, gate_copy]| {
            if keeps_query {
                query_copy.copy_from_slice(part(query, &rows, query_width));
            }
            let left = Left::Rows(part(mixed, &rows, width), width);
            add_multiply(rows.len(), left, &weights.output, x);
            add_bias(x, self.block.output_bias.as_ref().map(Rows::slice));
            norm_rows(x, self.block.post_norm.slice(), self.config.rms_eps, normed);
            multiply(rows.len(), Left::Rows(normed, hidden), &weights.gate, gate);
            multiply(rows.len(), Left::Rows(normed, hidden), &weights.up, up);
            if keeps {
                residual_copy.copy_from_slice(x);
                gate_copy.copy_from_slice(gate);
            }
            swiglu::forward_in_place(gate, up);
            add_multiply(rows.len(), Left::Rows(gate, intermediate), weights.down(), x);
        });
        up_kept.map(|up| Activations {
            query: keeps_query.then_some(query_copy),
            residual: residual_copy,
            gate: gate_copy,
            up,
        })
    }

    fn spans(&self, chunk: &Range<usize>) -> Arc<[Span]> {
        self.batch.chunk_spans(chunk.start, chunk.end)
    }

    fn heads<'w>(
        &self,
        rows: usize,
        query: &'w [f32],
        keys: &'w [f32],
        values: &'w [f32],
    ) -> attention::Heads<'w> {
        attention::Heads {
            query: &query[..rows * self.query_width()],
            key: &keys[..self.key_rows() * self.key_width()],
            value: &values[..self.key_rows() * self.key_width()],
            query_shape: [rows, self.config.heads, self.config.head_width],
            key_shape: [self.config.kv_heads, self.key_rows(), self.config.head_width],
        }
    }
}
