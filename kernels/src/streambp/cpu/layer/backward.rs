//! One transformer block over a batch, backward.
//!
//! Chunks go from the last to the first: the gradients of a chunk's own keys and values are complete once the chunk
//! has been through attention, because only it and later chunks see them.

use std::mem;

use rayon::prelude::*;

use super::weights::BlockWeights;
use super::{ChunkInput, LayerPass};
use crate::attention;
use crate::gemm::PackedMatrix;
use crate::model::gradients::{GradientSum, ProjectionGradient, add_projection_gradients};
use crate::model::weights::{Block, FeedForwardWeights, GatedWeights};
use crate::parts::attention::HeadGradients;
use crate::parts::gated::GateUp;
use crate::rows::{Matrix, TASK_BLOCKS, add_columns, block_rows, blocks, part};
use crate::streambp::chunks;
use crate::streambp::cpu::live::LiveRows;
use crate::streambp::cpu::workspace::{KeptChunk, KeptLayer, Workspace, sized};
use crate::zeros::fill_with_zeros;

/// What of a chunk's forward pass is in the workspace already, because it was kept.
#[derive(Clone, Copy)]
struct Restored {
    /// The residual behind attention and both parts of the feed-forward layer.
    activations: bool,
    queries: bool,
}

/// Rows of a chunk that gradients of weights are products of, as [`LayerPass::feed_forward_backward`] leaves them.
struct FeedForwardRows<'w> {
    /// Attention's result.
    mixed: &'w [f32],
    /// The gradient of the down projection's result.
    dfeed_forward: &'w [f32],
    normed: &'w [f32],
    feed_forward_normed: &'w [f32],
    active: &'w [f32],
    dgate: &'w [f32],
    dup: &'w [f32],
    /// The gradient of the output projection's result.
    dattention: &'w [f32],
}

/// Gradients of the results of the query, key and value projections of a chunk, `[chunk, width]` each.
struct ProjectedRows<'w> {
    /// What was projected, and the same as a right factor.
    normed: &'w [f32],
    packed: &'w PackedMatrix,
    query: &'w [f32],
    key: &'w [f32],
    value: &'w [f32],
}

impl LayerPass<'_> {
    /// Replaces the gradient of the block's output by that of its input `x`, and adds to the parameters'.
    ///
    /// `kept` is what the forward pass kept, or empty. Where no row of a chunk is live, `dx` is 0 and stays so.
    pub(in crate::streambp::cpu) fn backward(
        &self,
        x: &[f32],
        mut kept: KeptLayer,
        dx: &mut [f32],
        workspace: &mut Workspace,
        gradients: &mut Block<GradientSum>,
        live: &LiveRows,
    ) {
        let hidden = self.config.hidden;
        let weights = BlockWeights::new(self.block, kept.keys_values.is_none() || self.norms_need_results());
        self.restore_keys_values(x, kept.keys_values.take(), &weights, workspace);
        let key_numbers = self.key_rows() * self.key_width();
        fill_with_zeros(sized(&mut workspace.dkeys, key_numbers));
        fill_with_zeros(sized(&mut workspace.dvalues, key_numbers));
        for rows in chunks(self.tokens(), self.chunk).rev() {
            let kept = kept.chunks.pop();
            if live.any(&rows) {
                let chunk = ChunkInput { x: part(x, &rows, hidden), rows: &rows };
                let dx = &mut dx[rows.start * hidden..rows.end * hidden];
                self.chunk_backward(chunk, kept, dx, &weights, workspace, gradients);
            }
        }
    }

    /// Whether a norm stands behind a projection: its gradient needs the projection's result, which is not kept.
    fn norms_need_results(&self) -> bool {
        let attention = &self.block.attention;
        let of_heads = attention.query_norm.is_some() || attention.key_norm.is_some();
        of_heads || attention.output_norm.is_some() || self.block.feed_forward.output_norm.is_some()
    }

    /// Keys and values of all rows into the workspace: those that were kept, or computed again.
    fn restore_keys_values(
        &self,
        x: &[f32],
        kept: Option<[Vec<f32>; 2]>,
        weights: &BlockWeights,
        workspace: &mut Workspace,
    ) {
        match kept {
            Some(own) if self.batch.has_prefixes() => {
                self.spread(&own, workspace);
                own.into_iter().for_each(|buffer| workspace.pool.give(buffer));
            }
            Some([keys, values]) => {
                workspace.pool.give(mem::replace(&mut workspace.keys, keys));
                workspace.pool.give(mem::replace(&mut workspace.values, values));
            }
            None => self.keys_values(x, weights.forward(), workspace),
        }
    }

    /// [`LayerPass::backward`] of one chunk.
    fn chunk_backward(
        &self,
        chunk: ChunkInput<'_>,
        kept: Option<KeptChunk>,
        dx: &mut [f32],
        weights: &BlockWeights,
        workspace: &mut Workspace,
        gradients: &mut Block<GradientSum>,
    ) {
        let (mixed, activations) = match kept {
            Some(KeptChunk { mixed, activations }) => (Some(mixed), activations),
            None => (None, None),
        };
        let restored = Restored {
            activations: activations.is_some(),
            queries: activations.is_some_and(|activations| activations.put_into(workspace)),
        };
        if !restored.queries {
            self.queries(chunk, weights.forward(), workspace);
        }
        let (count, key_numbers) = (chunk.rows.len(), self.key_rows() * self.key_width());
        let spans = self.spans(chunk.rows);
        let mixed = mixed.unwrap_or_else(|| {
            let heads = self.heads(count, &workspace.query, &workspace.keys, &workspace.values);
            attention::mix(&heads, &spans)
        });
        self.feed_forward_backward(chunk, &mixed.result, restored, dx, weights, workspace, gradients);
        let Workspace { dkeys, dvalues, keys, values, query, dmixed, .. } = workspace;
        let heads = self.heads(count, query, keys, values);
        let sums = (&mut dkeys[..key_numbers], &mut dvalues[..key_numbers]);
        let dmixed = &dmixed[..count * self.query_width()];
        let (attention, feed_forward) = (&self.block.attention, &self.block.feed_forward);
        let rows = FeedForwardRows {
            mixed: &mixed.result,
            dfeed_forward: if feed_forward.output_norm.is_some() { &workspace.dfeed_forward } else { dx },
            normed: &workspace.normed,
            feed_forward_normed: &workspace.feed_forward_normed,
            active: &workspace.active,
            dgate: &workspace.gate,
            dup: &workspace.up,
            dattention: match attention.output_norm {
                Some(_) => &workspace.dattention,
                None => &workspace.dresidual,
            },
        };
        // Neither needs the other.
        let (mut dquery, packed) = rayon::join(
            || attention::mix_backward(&heads, &mixed, dmixed, &spans, sums),
            || self.feed_forward_gradients(&rows, count, gradients),
        );
        self.projections_backward(chunk, &mut dquery, &packed, dx, weights, workspace, gradients);
    }

    /// From the output's gradient `dx` to that of attention's result, which goes into the workspace beside the
    /// residual's. Where queries were restored, the norm before them is gone through here.
    fn feed_forward_backward(
        &self,
        chunk: ChunkInput<'_>,
        mixed: &[f32],
        restored: Restored,
        dx: &[f32],
        weights: &BlockWeights,
        workspace: &mut Workspace,
        gradients: &mut Block<GradientSum>,
    ) {
        let (hidden, intermediate, width) =
            (self.config.hidden, self.config.intermediate, self.query_width());
        let count = chunk.rows.len();
        let each = block_rows(count);
        let mut dnorms = vec![0.0; count.div_ceil(each) * 3 * hidden];
        // Gradients behind a norm have buffers of their own only where there is one.
        let behind = |has_norm: bool| if has_norm { hidden } else { 1 };
        let behind_attention = behind(self.block.attention.output_norm.is_some());
        let behind_feed_forward = behind(self.block.feed_forward.output_norm.is_some());
        let buffers = [
            Matrix::new(sized(&mut workspace.normed, count * hidden), hidden),
            Matrix::new(sized(&mut workspace.residual, count * hidden), hidden),
            Matrix::new(sized(&mut workspace.feed_forward_normed, count * hidden), hidden),
            Matrix::new(sized(&mut workspace.dresidual, count * hidden), hidden),
            Matrix::new(sized(&mut workspace.dmixed, count * width), width),
            Matrix::new(sized(&mut workspace.gate, count * intermediate), intermediate),
            Matrix::new(sized(&mut workspace.up, count * intermediate), intermediate),
            Matrix::new(sized(&mut workspace.active, count * intermediate), intermediate),
            Matrix::new(sized(&mut workspace.dactive, count * intermediate), intermediate),
            Matrix::new(sized(&mut workspace.dattention, count * behind_attention), behind_attention),
            Matrix::new(
                sized(&mut workspace.dfeed_forward, count * behind_feed_forward),
                behind_feed_forward,
            ),
        ];
        let blocks = blocks(buffers).into_par_iter().zip(dnorms.par_chunks_mut(3 * hidden));
        blocks.enumerate().with_max_len(TASK_BLOCKS).for_each(|(block, (buffers, dnorms))| {
            let rows = block * each..block * each + buffers[1].len() / hidden;
            let rows = BlockRows {
                x: part(chunk.x, &rows, hidden),
                dx: part(dx, &rows, hidden),
                mixed: part(mixed, &rows, width),
            };
            self.feed_forward_rows_backward(rows, restored, weights, buffers, dnorms);
        });
        for dnorms in dnorms.chunks_exact(3 * hidden) {
            gradients.feed_forward_norm.add(&dnorms[..hidden]);
            let outputs = [&mut gradients.attention_output_norm, &mut gradients.feed_forward_output_norm];
            for (sum, dnorm) in outputs.into_iter().zip(dnorms[hidden..].chunks_exact(hidden)) {
                sum.iter_mut().for_each(|sum| sum.add(dnorm));
            }
        }
    }

    /// [`LayerPass::feed_forward_backward`] of a block of rows, in its buffers. The gradients of the three norms go
    /// one after the other into `dnorms`.
    fn feed_forward_rows_backward(
        &self,
        rows: BlockRows<'_>,
        restored: Restored,
        weights: &BlockWeights,
        buffers: [&mut [f32]; 11],
        dnorms: &mut [f32],
    ) {
        let [
            normed,
            residual,
            feed_forward_normed,
            dresidual,
            dmixed,
            gate,
            up,
            active,
            dactive,
            dattention,
            dfeed_forward,
        ] = buffers;
        let (hidden, backward) = (self.config.hidden, &weights.backward);
        let (attention, feed_forward) = (&self.block.attention, &self.block.feed_forward);
        let count = rows.x.len() / hidden;
        let (dnorm, doutput_norms) = dnorms.split_at_mut(hidden);
        let (dattention_norm, dfeed_forward_norm) = doutput_norms.split_at_mut(hidden);
        if restored.queries {
            self.block.input_norm.forward(rows.x, normed);
        }
        if !restored.activations {
            residual.copy_from_slice(rows.x);
            attention.add_output(&weights.forward().attention, count, rows.mixed, residual);
        }
        self.block.feed_forward_norm.forward(residual, feed_forward_normed);
        let mut projected = GateUp { gate, up };
        if !restored.activations {
            let weights = &weights.forward().feed_forward;
            feed_forward.project(weights, count, feed_forward_normed, &mut projected);
        }
        let mut dy = rows.dx;
        if feed_forward.output_norm.is_some() {
            dfeed_forward.copy_from_slice(dy);
            let weights = &weights.forward().feed_forward;
            feed_forward.output_norm_backward(weights, &projected, active, dfeed_forward, dfeed_forward_norm);
            dy = dfeed_forward;
        }
        feed_forward.backward(&backward.feed_forward, dy, &mut projected, active, dactive, dresidual);
        self.block.feed_forward_norm.backward(residual, dresidual, dnorm);
        add_columns(dresidual, rows.dx);
        let mut dy = &*dresidual;
        if attention.output_norm.is_some() {
            dattention.copy_from_slice(dy);
            let weights = &weights.forward().attention;
            attention.output_norm_backward(weights, rows.mixed, dattention, dattention_norm);
            dy = dattention;
        }
        attention.output_backward(&backward.attention, dy, dmixed);
    }

    /// Adds to the gradients of the feed-forward part and of attention's output. Returns the rows that queries, keys
    /// and values are of, packed for theirs.
    fn feed_forward_gradients(
        &self,
        rows: &FeedForwardRows<'_>,
        count: usize,
        gradients: &mut Block<GradientSum>,
    ) -> PackedMatrix {
        let (hidden, intermediate, width) =
            (self.config.hidden, self.config.intermediate, self.query_width());
        let (attention, feed_forward) = (&self.block.attention, &self.block.feed_forward);
        let pack = |values: &[f32], width| PackedMatrix::rows(&values[..count * width], count, width);
        let ((normed, inputs), (active_packed, mixed_packed)) = rayon::join(
            || rayon::join(|| pack(rows.normed, hidden), || pack(rows.feed_forward_normed, hidden)),
            || rayon::join(|| pack(rows.active, intermediate), || pack(rows.mixed, width)),
        );
        let (x, active) = (&rows.feed_forward_normed[..count * hidden], &rows.active[..count * intermediate]);
        let (dgate, dup) = (&rows.dgate[..count * intermediate], &rows.dup[..count * intermediate]);
        let (dattention, dy) = (&rows.dattention[..count * hidden], &rows.dfeed_forward[..count * hidden]);
        let Block { feed_forward: sums, output, output_bias, .. } = gradients;
        let FeedForwardWeights::Gated(GatedWeights { gate, up, down }) = sums;
        #[rustfmt::skip] // A table reads better than one field a line.
        add_projection_gradients([
            ProjectionGradient { sum: down, linear: &feed_forward.down, dy, x: active, packed: &active_packed },
            ProjectionGradient { sum: gate, linear: &feed_forward.gate, dy: dgate, x, packed: &inputs },
            ProjectionGradient { sum: up, linear: &feed_forward.up, dy: dup, x, packed: &inputs },
            ProjectionGradient {
                sum: output, linear: &attention.output, dy: dattention, x: &rows.mixed[..count * width],
                packed: &mixed_packed,
            },
        ]);
        output_bias.iter_mut().for_each(|bias| bias.add_rows(dattention));
        normed
    }

    /// From the gradients of a chunk's queries, keys and values to that of the block's input, into `dx`.
    fn projections_backward(
        &self,
        chunk: ChunkInput<'_>,
        dquery: &mut [f32],
        packed: &PackedMatrix,
        dx: &mut [f32],
        weights: &BlockWeights,
        workspace: &mut Workspace,
        gradients: &mut Block<GradientSum>,
    ) {
        let (hidden, width, key_width) = (self.config.hidden, self.query_width(), self.key_width());
        let (count, head) = (chunk.rows.len(), self.config.head_width);
        let each = block_rows(count);
        let mut dnorms = vec![0.0; count.div_ceil(each) * (hidden + 2 * head)];
        let (dkeys, dvalues) = (&workspace.dkeys, &workspace.dvalues);
        let dkey_rows = sized(&mut workspace.dkey, count * key_width);
        let dvalue_rows = sized(&mut workspace.dvalue, count * key_width);
        let (normed_rows, raw_query) = (&workspace.normed[..count * hidden], &workspace.raw_query);
        let raw_width = if self.block.attention.query_norm.is_some() { width } else { 0 };
        let buffers = [
            Matrix::new(&mut *dquery, width),
            Matrix::new(&mut *dkey_rows, key_width),
            Matrix::new(&mut *dvalue_rows, key_width),
            Matrix::new(sized(&mut workspace.raw_key, count * key_width), key_width),
            Matrix::new(sized(&mut workspace.dnormed, count * hidden), hidden),
            Matrix::new(&mut *dx, hidden),
        ];
        let blocks = blocks(buffers).into_par_iter().zip(dnorms.par_chunks_mut(hidden + 2 * head));
        blocks.enumerate().with_max_len(TASK_BLOCKS).for_each(|(block, (buffers, dnorms))| {
            let [dquery, dkey, dvalue, raw_key, dnormed, dx] = buffers;
            let rows = block * each..block * each + dx.len() / hidden;
            let of_batch = chunk.rows.start + rows.start..chunk.rows.start + rows.end;
            let (dinput_norm, dhead_norms) = dnorms.split_at_mut(hidden);
            let (query_norm, key_norm) = dhead_norms.split_at_mut(head);
            self.gather_rows(dkeys, &of_batch, dkey);
            self.gather_rows(dvalues, &of_batch, dvalue);
            self.block.attention.projections_backward(
                || &weights.forward().attention,
                &weights.backward.attention,
                self.angles(&of_batch),
                part(normed_rows, &rows, hidden),
                part(raw_query, &rows, raw_width),
                raw_key,
                HeadGradients { query: dquery, key: dkey, value: dvalue, query_norm, key_norm },
                dnormed,
            );
            self.block.input_norm.backward(part(chunk.x, &rows, hidden), dnormed, dinput_norm);
            dx.copy_from_slice(part(&workspace.dresidual, &rows, hidden));
            add_columns(dx, dnormed);
        });
        let rows =
            ProjectedRows { normed: normed_rows, packed, query: dquery, key: dkey_rows, value: dvalue_rows };
        self.projection_gradients(&rows, &dnorms, gradients);
    }

    /// Adds to the gradients of the projections and the norms around them, of which `dnorms` has each block's part.
    fn projection_gradients(
        &self,
        rows: &ProjectedRows<'_>,
        dnorms: &[f32],
        gradients: &mut Block<GradientSum>,
    ) {
        let (hidden, head, attention) = (self.config.hidden, self.config.head_width, &self.block.attention);
        let ProjectedRows { normed: x, packed, .. } = *rows;
        let Block { query, key, value, .. } = gradients;
        add_projection_gradients([
            ProjectionGradient { sum: query, linear: &attention.query, dy: rows.query, x, packed },
            ProjectionGradient { sum: key, linear: &attention.key, dy: rows.key, x, packed },
            ProjectionGradient { sum: value, linear: &attention.value, dy: rows.value, x, packed },
        ]);
        for (bias, rows) in [
            (&mut gradients.query_bias, rows.query),
            (&mut gradients.key_bias, rows.key),
            (&mut gradients.value_bias, rows.value),
        ] {
            bias.iter_mut().for_each(|bias| bias.add_rows(rows));
        }
        for dnorms in dnorms.chunks_exact(hidden + 2 * head) {
            gradients.input_norm.add(&dnorms[..hidden]);
            let heads = [&mut gradients.query_norm, &mut gradients.key_norm];
            for (sum, dnorm) in heads.into_iter().zip(dnorms[hidden..].chunks_exact(head)) {
                sum.iter_mut().for_each(|sum| sum.add(dnorm));
            }
        }
    }
}

/// Rows of a block that the backward pass through its second half reads.
#[derive(Clone, Copy)]
struct BlockRows<'a> {
    /// The block's input.
    x: &'a [f32],
    /// The gradient of the block's output.
    dx: &'a [f32],
    /// Attention's result.
    mixed: &'a [f32],
}
