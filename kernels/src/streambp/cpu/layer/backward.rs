//! One transformer block over a batch, backward.
//!
//! Chunks go from the last to the first: the gradients of a chunk's own keys and values are complete once the chunk
//! has been through attention, because only it and later chunks see them.

use std::mem;

use rayon::prelude::*;

use super::weights::BlockWeights;
use super::{ChunkInput, LayerPass};
use crate::attention;
use crate::flex::{Rows, Sum};
use crate::gemm::{PackedMatrix, add_multiply, multiply};
use crate::norm::{norm_rows, norm_rows_backward};
use crate::panel::Left;
use crate::rotary::rotate_rows;
use crate::rows::{
    Matrix, TASK_BLOCKS, WeightGradient, add_bias, add_columns, add_row_sums, add_weight_gradients,
    block_rows, blocks, part,
};
use crate::streambp::chunks;
use crate::streambp::cpu::live::LiveRows;
use crate::streambp::cpu::workspace::{KeptChunk, KeptLayer, Workspace, sized};
use crate::swiglu;
use crate::weights::Block;
use crate::zeros::fill_with_zeros;

/// What of a chunk's forward pass is in the workspace already, because it was kept.
#[derive(Clone, Copy)]
struct Restored {
    /// The residual behind attention and both parts of the feed-forward layer.
    activations: bool,
    queries: bool,
}

/// Rows of a chunk that gradients of weights are products of, as [`LayerPass::feed_forward_backward`] leaves them.
struct FeedForward<'w> {
    /// Attention's result.
    mixed: &'w [f32],
    /// The gradient of the block's output.
    dx: &'w [f32],
    normed: &'w [f32],
    post_normed: &'w [f32],
    active: &'w [f32],
    dgate: &'w [f32],
    dup: &'w [f32],
    dresidual: &'w [f32],
}

/// Gradients of a chunk's queries, keys and values before rotation and norm, `[chunk, width]` each.
struct ProjectionGradients<'w> {
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
        gradients: &mut Block<Sum>,
        live: &LiveRows,
    ) {
        let hidden = self.config.hidden;
        // Where all was kept, nothing goes forward again but what a head's norm saw.
        let has_head_norms = self.block.query_norm.is_some() || self.block.key_norm.is_some();
        let weights = BlockWeights::new(self, kept.keys_values.is_none() || has_head_norms);
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
        gradients: &mut Block<Sum>,
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
        let feed_forward = FeedForward {
            mixed: &mixed.result,
            dx,
            normed: &workspace.normed,
            post_normed: &workspace.post_normed,
            active: &workspace.active,
            dgate: &workspace.gate,
            dup: &workspace.up,
            dresidual: &workspace.dresidual,
        };
        // Neither needs the other.
        let (mut dquery, normed) = rayon::join(
            || attention::mix_backward(&heads, &mixed, dmixed, &spans, sums),
            || self.feed_forward_gradients(&feed_forward, count, gradients),
        );
        self.projections_backward(chunk, &mut dquery, &normed, dx, weights, workspace, gradients);
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
        gradients: &mut Block<Sum>,
    ) {
        let (hidden, intermediate, width) =
            (self.config.hidden, self.config.intermediate, self.query_width());
        let (count, eps) = (chunk.rows.len(), self.config.rms_eps);
        let each = block_rows(count);
        let mut dgains = vec![0.0; count.div_ceil(each) * hidden];
        let buffers = [
            Matrix::new(sized(&mut workspace.normed, count * hidden), hidden),
            Matrix::new(sized(&mut workspace.residual, count * hidden), hidden),
            Matrix::new(sized(&mut workspace.post_normed, count * hidden), hidden),
            Matrix::new(sized(&mut workspace.dresidual, count * hidden), hidden),
            Matrix::new(sized(&mut workspace.dmixed, count * width), width),
            Matrix::new(sized(&mut workspace.gate, count * intermediate), intermediate),
            Matrix::new(sized(&mut workspace.up, count * intermediate), intermediate),
            Matrix::new(sized(&mut workspace.active, count * intermediate), intermediate),
            Matrix::new(sized(&mut workspace.dactive, count * intermediate), intermediate),
        ];
        let blocks = blocks(buffers).into_par_iter().zip(dgains.par_chunks_mut(hidden));
        blocks.enumerate().with_max_len(TASK_BLOCKS).for_each(|(block, (buffers, dgain))| {
            let [normed, residual, post_normed, dresidual, dmixed, gate, up, active, dactive] = buffers;
            let rows = block * each..block * each + residual.len() / hidden;
            let (x, dx) = (part(chunk.x, &rows, hidden), part(dx, &rows, hidden));
            if restored.queries {
                norm_rows(x, self.block.input_norm.slice(), eps, normed);
            }
            if !restored.activations {
                residual.copy_from_slice(x);
                let left = Left::Rows(part(mixed, &rows, width), width);
                add_multiply(rows.len(), left, &weights.forward().output, residual);
                add_bias(residual, self.block.output_bias.as_ref().map(Rows::slice));
            }
            let gain = self.block.post_norm.slice();
            norm_rows(residual, gain, eps, post_normed);
            if !restored.activations {
                multiply(rows.len(), Left::Rows(post_normed, hidden), &weights.forward().gate, gate);
                multiply(rows.len(), Left::Rows(post_normed, hidden), &weights.forward().up, up);
            }
            let backward = &weights.backward;
            multiply(rows.len(), Left::Rows(dx, hidden), &backward.down, dactive);
            swiglu::backward_in_place(gate, up, dactive, active);
            multiply(rows.len(), Left::Rows(gate, intermediate), &backward.gate, dresidual);
            add_multiply(rows.len(), Left::Rows(up, intermediate), &backward.up, dresidual);
            norm_rows_backward(residual, gain, eps, dresidual, dgain);
            add_columns(dresidual, dx);
            multiply(rows.len(), Left::Rows(dresidual, hidden), &backward.output, dmixed);
        });
        let sums = gradients.post_norm.slice_mut();
        dgains.chunks_exact(hidden).for_each(|dgain| add_columns(sums, dgain));
    }

    /// Adds to the gradients of the feed-forward part and of attention's output. Returns the rows that queries, keys
    /// and values are of, packed for theirs.
    fn feed_forward_gradients(
        &self,
        rows: &FeedForward<'_>,
        count: usize,
        gradients: &mut Block<Sum>,
    ) -> PackedMatrix {
        let (hidden, intermediate, width) =
            (self.config.hidden, self.config.intermediate, self.query_width());
        let pack = |values: &[f32], width| PackedMatrix::rows(&values[..count * width], count, width);
        let ((normed, post_normed), (active, mixed)) = rayon::join(
            || rayon::join(|| pack(rows.normed, hidden), || pack(rows.post_normed, hidden)),
            || rayon::join(|| pack(rows.active, intermediate), || pack(rows.mixed, width)),
        );
        let dresidual = &rows.dresidual[..count * hidden];
        let (dgate, dup) = (&rows.dgate[..count * intermediate], &rows.dup[..count * intermediate]);
        add_weight_gradients([
            WeightGradient { sum: gradients.down.slice_mut(), dy: rows.dx, out: hidden, x: &active },
            WeightGradient { sum: gradients.gate.slice_mut(), dy: dgate, out: intermediate, x: &post_normed },
            WeightGradient { sum: gradients.up.slice_mut(), dy: dup, out: intermediate, x: &post_normed },
            WeightGradient { sum: gradients.output.slice_mut(), dy: dresidual, out: hidden, x: &mixed },
        ]);
        if let Some(bias) = &mut gradients.output_bias {
            add_row_sums(bias.slice_mut(), dresidual);
        }
        normed
    }

    /// From the gradients of a chunk's queries, keys and values to that of the block's input, into `dx`.
    fn projections_backward(
        &self,
        chunk: ChunkInput<'_>,
        dquery: &mut [f32],
        normed: &PackedMatrix,
        dx: &mut [f32],
        weights: &BlockWeights,
        workspace: &mut Workspace,
        gradients: &mut Block<Sum>,
    ) {
        let (hidden, width, key_width) = (self.config.hidden, self.query_width(), self.key_width());
        let (count, eps, head) = (chunk.rows.len(), self.config.rms_eps, self.config.head_width);
        let each = block_rows(count);
        let mut dgains = vec![0.0; count.div_ceil(each) * (hidden + 2 * head)];
        let (dkeys, dvalues) = (&workspace.dkeys, &workspace.dvalues);
        let dkey_rows = sized(&mut workspace.dkey, count * key_width);
        let dvalue_rows = sized(&mut workspace.dvalue, count * key_width);
        let (normed_rows, raw_query) = (&workspace.normed[..count * hidden], &workspace.raw_query);
        let buffers = [
            Matrix::new(&mut *dquery, width),
            Matrix::new(&mut *dkey_rows, key_width),
            Matrix::new(&mut *dvalue_rows, key_width),
            Matrix::new(sized(&mut workspace.raw_key, count * key_width), key_width),
            Matrix::new(sized(&mut workspace.dnormed, count * hidden), hidden),
            Matrix::new(&mut *dx, hidden),
        ];
        let blocks = blocks(buffers).into_par_iter().zip(dgains.par_chunks_mut(hidden + 2 * head));
        blocks.enumerate().with_max_len(TASK_BLOCKS).for_each(|(block, (buffers, dgains))| {
            let [dquery, dkey, dvalue, raw_key, dnormed, dx] = buffers;
            let rows = block * each..block * each + dx.len() / hidden;
            let of_batch = chunk.rows.start + rows.start..chunk.rows.start + rows.end;
            let angles = self.angles(&of_batch);
            let (dgain, dhead_gains) = dgains.split_at_mut(hidden);
            let (dquery_gain, dkey_gain) = dhead_gains.split_at_mut(head);
            let normed = part(normed_rows, &rows, hidden);
            self.gather_rows(dkeys, &of_batch, dkey);
            self.gather_rows(dvalues, &of_batch, dvalue);
            rotate_rows(dquery, width, angles, true);
            rotate_rows(dkey, key_width, angles, true);
            if let Some(gain) = &self.block.query_norm {
                norm_rows_backward(part(raw_query, &rows, width), gain.slice(), eps, dquery, dquery_gain);
            }
            if let Some(gain) = &self.block.key_norm {
                multiply(rows.len(), Left::Rows(normed, hidden), &weights.forward().key, raw_key);
                add_bias(raw_key, self.block.key_bias.as_ref().map(Rows::slice));
                norm_rows_backward(raw_key, gain.slice(), eps, dkey, dkey_gain);
            }
            let backward = &weights.backward;
            multiply(rows.len(), Left::Rows(dquery, width), &backward.query, dnormed);
            add_multiply(rows.len(), Left::Rows(dkey, key_width), &backward.key, dnormed);
            add_multiply(rows.len(), Left::Rows(dvalue, key_width), &backward.value, dnormed);
            let gain = self.block.input_norm.slice();
            norm_rows_backward(part(chunk.x, &rows, hidden), gain, eps, dnormed, dgain);
            dx.copy_from_slice(part(&workspace.dresidual, &rows, hidden));
            add_columns(dx, dnormed);
        });
        let rows = ProjectionGradients { query: dquery, key: dkey_rows, value: dvalue_rows };
        self.projection_gradients(&rows, normed, &dgains, gradients);
    }

    /// Adds to the gradients of the projections and the norms around them, of which `dgains` has each block's part.
    fn projection_gradients(
        &self,
        rows: &ProjectionGradients<'_>,
        normed: &PackedMatrix,
        dgains: &[f32],
        gradients: &mut Block<Sum>,
    ) {
        let (hidden, head) = (self.config.hidden, self.config.head_width);
        let (width, key_width) = (self.query_width(), self.key_width());
        add_weight_gradients([
            WeightGradient { sum: gradients.query.slice_mut(), dy: rows.query, out: width, x: normed },
            WeightGradient { sum: gradients.key.slice_mut(), dy: rows.key, out: key_width, x: normed },
            WeightGradient { sum: gradients.value.slice_mut(), dy: rows.value, out: key_width, x: normed },
        ]);
        for (bias, rows) in [
            (&mut gradients.query_bias, rows.query),
            (&mut gradients.key_bias, rows.key),
            (&mut gradients.value_bias, rows.value),
        ] {
            if let Some(bias) = bias {
                add_row_sums(bias.slice_mut(), rows);
            }
        }
        for dgains in dgains.chunks_exact(hidden + 2 * head) {
            add_columns(gradients.input_norm.slice_mut(), &dgains[..hidden]);
            if let Some(sum) = &mut gradients.query_norm {
                add_columns(sum.slice_mut(), &dgains[hidden..hidden + head]);
            }
            if let Some(sum) = &mut gradients.key_norm {
                add_columns(sum.slice_mut(), &dgains[hidden + head..]);
            }
        }
    }
}
