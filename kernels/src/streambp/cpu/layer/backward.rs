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
use crate::parts::experts::ExpertBuffers;
use crate::parts::feed_forward::FeedForwardSlices;
use crate::parts::gated::{GateUp, Gated};
use crate::rows::{Matrix, TASK_BLOCKS, add_columns, block_rows, blocks, part};
use crate::streambp::chunks;
use crate::streambp::cpu::live::LiveRows;
use crate::streambp::cpu::workspace::{KeptChunk, KeptLayer, Workspace, sized};
use crate::zeros::fill_with_zeros;

/// What of a chunk's forward pass is in the workspace already, because it was kept.
#[derive(Clone, Copy)]
pub(super) struct Restored {
    /// The residual behind attention and both parts of the feed-forward layer.
    pub(super) activations: bool,
    queries: bool,
}

/// Rows of a chunk that gradients of weights are products of, as [`LayerPass::feed_forward_backward`] leaves them.
pub(super) struct FeedForwardRows<'w> {
    /// Attention's result.
    pub(super) mixed: &'w [f32],
    /// The gradient of the down projection's result.
    dfeed_forward: &'w [f32],
    pub(super) normed: &'w [f32],
    pub(super) feed_forward_normed: &'w [f32],
    pub(super) active: &'w [f32],
    pub(super) dgate: &'w [f32],
    pub(super) dup: &'w [f32],
    /// The gradient of the output projection's result.
    pub(super) dattention: &'w [f32],
    /// Rows by expert, in blocks with experts; so are the three before then.
    pub(super) experts: &'w ExpertBuffers,
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
        of_heads || attention.joint.norm.is_some() || self.block.feed_forward.joint().norm.is_some()
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
        let dnorms = match &self.block.feed_forward {
            FeedForwardSlices::Gated(gated) => {
                self.feed_forward_backward(gated, chunk, &mixed.result, restored, dx, weights, workspace)
            }
            FeedForwardSlices::Experts(experts) => {
                self.experts_backward(experts, chunk, &mixed.result, restored, dx, weights, workspace)
            }
        };
        self.add_norm_gradients(&dnorms, gradients);
        let Workspace { dkeys, dvalues, keys, values, query, dmixed, .. } = workspace;
        let heads = self.heads(count, query, keys, values);
        let sums = (&mut dkeys[..key_numbers], &mut dvalues[..key_numbers]);
        let dmixed = &dmixed[..count * self.query_width()];
        let (attention, feed_forward) = (&self.block.attention, &self.block.feed_forward);
        let rows = FeedForwardRows {
            mixed: &mixed.result,
            dfeed_forward: if feed_forward.joint().is_plain() { dx } else { &workspace.dfeed_forward },
            normed: &workspace.normed,
            feed_forward_normed: &workspace.feed_forward_normed,
            active: &workspace.active,
            dgate: &workspace.gate,
            dup: &workspace.up,
            dattention: match attention.joint.is_plain() {
                true => &workspace.dresidual,
                false => &workspace.dattention,
            },
            experts: &workspace.experts,
        };
        // Neither needs the other.
        let (mut dquery, packed) = rayon::join(
            || attention::mix_backward(&heads, &mixed, dmixed, &spans, sums),
            || match feed_forward {
                FeedForwardSlices::Gated(gated) => {
                    self.feed_forward_gradients(gated, &rows, count, gradients)
                }
                FeedForwardSlices::Experts(experts) => {
                    self.experts_gradients(experts, &rows, count, gradients)
                }
            },
        );
        self.projections_backward(chunk, &mut dquery, &packed, dx, weights, workspace, gradients);
    }

    /// From the output's gradient `dx` to that of attention's result, which goes into the workspace beside the
    /// residual's. Where queries were restored, the norm before them is gone through here. Returns the gradients of three
    /// norms for each block of rows: before the feed-forward part, and behind attention and it.
    fn feed_forward_backward(
        &self,
        gated: &Gated,
        chunk: ChunkInput<'_>,
        mixed: &[f32],
        restored: Restored,
        dx: &[f32],
        weights: &BlockWeights,
        workspace: &mut Workspace,
    ) -> Vec<f32> {
        let (hidden, intermediate, width) =
            (self.config.hidden, self.config.intermediate, self.query_width());
        let count = chunk.rows.len();
        let each = block_rows(count);
        let mut dnorms = vec![0.0; count.div_ceil(each) * 3 * hidden];
        // Gradients behind a norm or a factor have buffers of their own only where there is one.
        let behind = |is_plain: bool| if is_plain { 1 } else { hidden };
        let behind_attention = behind(self.block.attention.joint.is_plain());
        let behind_feed_forward = behind(gated.joint.is_plain());
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
            self.feed_forward_rows_backward(gated, rows, restored, weights, buffers, dnorms);
        });
        dnorms
    }

    /// Adds to the gradients of the norms around the feed-forward part and behind attention.
    fn add_norm_gradients(&self, dnorms: &[f32], gradients: &mut Block<GradientSum>) {
        let hidden = self.config.hidden;
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
        gated: &Gated,
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
        let (hidden, count) = (self.config.hidden, rows.x.len() / self.config.hidden);
        let (dnorms, dfeed_forward_norm) = dnorms.split_at_mut(2 * hidden);
        self.restore_rows(rows, restored, weights, [normed, &mut *residual, &mut *feed_forward_normed]);
        let mut projected = GateUp { gate, up };
        if !restored.activations {
            let weights = weights.forward().feed_forward.gated();
            gated.project(weights, count, feed_forward_normed, &mut projected);
        }
        let mut dy = rows.dx;
        if !gated.joint.is_plain() {
            dfeed_forward.copy_from_slice(dy);
            let weights = || weights.forward().feed_forward.gated();
            gated.joint_backward(weights, &projected, active, dfeed_forward, dfeed_forward_norm);
            dy = dfeed_forward;
        }
        let factors = weights.backward.feed_forward.gated();
        gated.backward(factors, dy, &mut projected, active, dactive, dresidual);
        self.attention_rows_backward(rows, residual, weights, [dresidual, dmixed, dattention], dnorms);
    }

    /// What the backward pass through the second half begins with, of a block of rows: the norm before attention, where
    /// queries were restored and it was not; the residual behind attention, where it was not; and the norm of that.
    pub(super) fn restore_rows(
        &self,
        rows: BlockRows<'_>,
        restored: Restored,
        weights: &BlockWeights,
        buffers: [&mut [f32]; 3],
    ) {
        let [normed, residual, feed_forward_normed] = buffers;
        if restored.queries {
            self.block.input_norm.forward(rows.x, normed);
        }
        if !restored.activations {
            residual.copy_from_slice(rows.x);
            let (attention, count) = (&self.block.attention, rows.x.len() / self.config.hidden);
            attention.add_output(&weights.forward().attention, count, rows.mixed, residual);
        }
        self.block.feed_forward_norm.forward(residual, feed_forward_normed);
    }

    /// From the gradient of the normed rows before the feed-forward part, in the first buffer, to that of attention's
    /// result, in the second one; the first becomes that of the residual, and the third one that behind attention's norm
    /// and factor. The gradients of the first two norms go into `dnorms`.
    pub(super) fn attention_rows_backward(
        &self,
        rows: BlockRows<'_>,
        residual: &[f32],
        weights: &BlockWeights,
        buffers: [&mut [f32]; 3],
        dnorms: &mut [f32],
    ) {
        let [dresidual, dmixed, dattention] = buffers;
        let (hidden, attention) = (self.config.hidden, &self.block.attention);
        let (dnorm, dattention_norm) = dnorms.split_at_mut(hidden);
        self.block.feed_forward_norm.backward(residual, dresidual, dnorm);
        add_columns(dresidual, rows.dx);
        let mut dy = &*dresidual;
        if !attention.joint.is_plain() {
            dattention.copy_from_slice(dy);
            let weights = || &weights.forward().attention;
            attention.joint_backward(weights, rows.mixed, dattention, &mut dattention_norm[..hidden]);
            dy = dattention;
        }
        attention.output_backward(&weights.backward.attention, dy, dmixed);
    }

    /// Adds to the gradients of the feed-forward part and of attention's output. Returns the rows that queries, keys
    /// and values are of, packed for theirs.
    fn feed_forward_gradients(
        &self,
        gated: &Gated,
        rows: &FeedForwardRows<'_>,
        count: usize,
        gradients: &mut Block<GradientSum>,
    ) -> PackedMatrix {
        let (hidden, intermediate, width) =
            (self.config.hidden, self.config.intermediate, self.query_width());
        let attention = &self.block.attention;
        let pack = |values: &[f32], width| PackedMatrix::rows(&values[..count * width], count, width);
        let ((normed, inputs), (active_packed, mixed_packed)) = rayon::join(
            || rayon::join(|| pack(rows.normed, hidden), || pack(rows.feed_forward_normed, hidden)),
            || rayon::join(|| pack(rows.active, intermediate), || pack(rows.mixed, width)),
        );
        let (x, active) = (&rows.feed_forward_normed[..count * hidden], &rows.active[..count * intermediate]);
        let (dgate, dup) = (&rows.dgate[..count * intermediate], &rows.dup[..count * intermediate]);
        let (dattention, dy) = (&rows.dattention[..count * hidden], &rows.dfeed_forward[..count * hidden]);
        let Block { feed_forward: sums, output, output_bias, .. } = gradients;
        let FeedForwardWeights::Gated(GatedWeights { gate, up, down }) = sums else {
            unreachable!("gradients have the form of the weights")
        };
        #[rustfmt::skip] // A table reads better than one field a line.
        add_projection_gradients([
            ProjectionGradient { sum: down, linear: &gated.down, dy, x: active, packed: &active_packed },
            ProjectionGradient { sum: gate, linear: &gated.gate, dy: dgate, x, packed: &inputs },
            ProjectionGradient { sum: up, linear: &gated.up, dy: dup, x, packed: &inputs },
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
pub(super) struct BlockRows<'a> {
    /// The block's input.
    pub(super) x: &'a [f32],
    /// The gradient of the block's output.
    pub(super) dx: &'a [f32],
    /// Attention's result.
    pub(super) mixed: &'a [f32],
}
