//! One transformer block over a batch, forward: keys and values of all rows first, then chunk by chunk what they are
//! for. The parts do the work on rows; here they are ordered, and given their buffers. The backward pass is in
//! `layer/backward.rs`.

use std::mem;
use std::ops::Range;
use std::sync::Arc;

use super::workspace::{Activations, Keep, KeptChunk, KeptLayer, Workspace, sized};
use crate::attention::{self, AttentionRows};
use crate::batch::{Packed, SequenceRows};
use crate::model::config::DecoderConfig;
use crate::parts::attention::{RowAngles, score_scale};
use crate::parts::block::BlockSlices;
use crate::parts::feed_forward::FeedForwardSlices;
use crate::parts::gated::{GateUp, Gated};
use crate::rows::{Matrix, for_each_block, part};
use crate::streambp::chunks;
use weights::ForwardWeights;

mod backward;
mod experts;
mod keys_values;
mod weights;

/// One block over one batch.
pub(super) struct LayerPass<'a> {
    pub(super) config: &'a DecoderConfig,
    pub(super) block: &'a BlockSlices,
    pub(super) batch: &'a Packed,
    /// Rows of a chunk.
    pub(super) chunk: usize,
    /// How many positions a token sees, where there is a limit.
    pub(super) window: Option<usize>,
    /// Cosines and sines of all rows.
    pub(super) angles: RowAngles<'a>,
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

    fn angles(&self, rows: &Range<usize>) -> RowAngles<'a> {
        let half = self.config.head_width / 2;
        (part(self.angles.0, rows, half), part(self.angles.1, rows, half))
    }

    /// Replaces `x` by the block's output, and keeps what is asked for.
    pub(super) fn forward(&self, x: &mut [f32], workspace: &mut Workspace, keep: Keep) -> KeptLayer {
        let mut kept = KeptLayer::default();
        let hidden = self.config.hidden;
        let weights = ForwardWeights::of_forward_pass(self.block);
        self.keys_values(x, &weights, workspace);
        for rows in chunks(self.tokens(), self.chunk) {
            let x = &mut x[rows.start * hidden..rows.end * hidden];
            let mixed = self.attend(ChunkInput { x, rows: &rows }, &weights, workspace);
            let keeps = keep == Keep::Activations;
            let activations = match &self.block.feed_forward {
                FeedForwardSlices::Gated(gated) => {
                    self.after_attention(gated, x, &mixed.result, &weights, workspace, keeps)
                }
                FeedForwardSlices::Experts(experts) => {
                    self.experts_after_attention(experts, x, &mixed.result, &weights, workspace, keeps)
                }
            };
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
        let raw_width = if self.block.attention.query_norm.is_some() { width } else { 1 };
        let buffers = [
            Matrix::new(sized(&mut workspace.normed, count * hidden), hidden),
            Matrix::new(sized(&mut workspace.query, count * width), width),
            Matrix::new(sized(&mut workspace.raw_query, count * raw_width), raw_width),
        ];
        for_each_block(buffers, |rows, [normed, query, raw]| {
            self.block.input_norm.forward(part(chunk.x, &rows, hidden), normed);
            let of_batch = chunk.rows.start + rows.start..chunk.rows.start + rows.end;
            let angles = self.angles(&of_batch);
            self.block.attention.queries(&weights.attention, angles, normed, query, raw);
        });
    }

    /// From a chunk's input and attention's result to the block's output, in the place of the input. Returns what
    /// the backward pass starts from, if it is to be kept.
    fn after_attention(
        &self,
        gated: &Gated,
        x: &mut [f32],
        mixed: &[f32],
        weights: &ForwardWeights,
        workspace: &mut Workspace,
        keeps: bool,
    ) -> Option<Activations> {
        let (hidden, intermediate, width) =
            (self.config.hidden, self.config.intermediate, self.query_width());
        let (count, block) = (x.len() / hidden, self.block);
        let keeps_query = keeps && block.attention.query_norm.is_none();
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
            Matrix::new(sized(&mut workspace.feed_forward_normed, count * hidden), hidden),
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
            block.attention.add_output(&weights.attention, rows.len(), part(mixed, &rows, width), x);
            block.feed_forward_norm.forward(x, normed);
            let mut projected = GateUp { gate, up };
            gated.project(weights.feed_forward.gated(), rows.len(), normed, &mut projected);
            if keeps {
                residual_copy.copy_from_slice(x);
                gate_copy.copy_from_slice(projected.gate);
            }
            gated.add_output(weights.feed_forward.gated(), rows.len(), &mut projected, x);
        });
        up_kept.map(|up| Activations {
            query: keeps_query.then_some(query_copy),
            residual: residual_copy,
            gate: gate_copy,
            up,
        })
    }

    fn spans(&self, chunk: &Range<usize>) -> Arc<[AttentionRows]> {
        self.batch.chunk_spans(chunk.start, chunk.end, self.window)
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
            scale: score_scale(self.config),
        }
    }
}
