//! The second half of a block with experts, over the rows of a chunk. What is for each row by itself is done in blocks of
//! rows, as in other blocks; between them rows go by expert.

use std::ops::Range;

use rayon::prelude::*;

use super::backward::{BlockRows, FeedForwardRows, Restored};
use super::weights::{BlockWeights, ForwardWeights};
use super::{ChunkInput, LayerPass};
use crate::gemm::PackedMatrix;
use crate::model::gradients::{GradientSum, ProjectionGradient, add_projection_gradients};
use crate::model::weights::{Block, FeedForwardWeights};
use crate::parts::experts::{BetweenRows, Experts};
use crate::parts::gated::GateUp;
use crate::rows::{Matrix, TASK_BLOCKS, block_rows, blocks, for_each_block, part};
use crate::streambp::cpu::workspace::{Activations, Workspace, sized};

impl LayerPass<'_> {
    /// `after_attention` of a block with experts. What is kept of both projections lies by expert.
    pub(super) fn experts_after_attention(
        &self,
        experts: &Experts,
        x: &mut [f32],
        mixed: &[f32],
        weights: &ForwardWeights,
        workspace: &mut Workspace,
        keeps: bool,
    ) -> Option<Activations> {
        let (hidden, width, block) = (self.config.hidden, self.query_width(), self.block);
        let count = x.len() / hidden;
        let keeps_query = keeps && block.attention.query_norm.is_none();
        let Workspace { query, feed_forward_normed, gate, up, experts: by_expert, pool, .. } = workspace;
        let query = &*query;
        // What is not kept still is a buffer with rows.
        let mut room = |keeps: bool, width: usize| match keeps {
            true => (pool.take(count * width), width),
            false => (vec![0.0; count], 1),
        };
        let (mut query_copy, query_width) = room(keeps_query, width);
        let (mut residual_copy, residual_width) = room(keeps, hidden);
        let normed = sized(feed_forward_normed, count * hidden);
        let buffers = [
            Matrix::new(&mut *x, hidden),
            Matrix::new(&mut *normed, hidden),
            Matrix::new(&mut query_copy, query_width),
            Matrix::new(&mut residual_copy, residual_width),
        ];
        for_each_block(buffers, |rows, [x, normed, query_copy, residual_copy]| {
            if keeps_query {
                query_copy.copy_from_slice(part(query, &rows, query_width));
            }
            block.attention.add_output(&weights.attention, rows.len(), part(mixed, &rows, width), x);
            block.feed_forward_norm.forward(x, normed);
            if keeps {
                residual_copy.copy_from_slice(x);
            }
        });
        let between = count * experts.spec.chosen * experts.spec.intermediate;
        let factors = weights.feed_forward.experts();
        let mut projected = GateUp { gate: sized(gate, between), up: sized(up, between) };
        experts.project(factors, normed, by_expert, &mut projected);
        let kept = keeps.then(|| [pool.copy(projected.gate), pool.copy(projected.up)]);
        experts.add_output(factors, by_expert, &mut projected, x);
        kept.map(|[gate, up]| Activations {
            query: keeps_query.then_some(query_copy),
            residual: residual_copy,
            gate,
            up,
        })
    }

    /// `feed_forward_backward` of a block with experts. Returns the gradients of norms as that collects them.
    pub(super) fn experts_backward(
        &self,
        experts: &Experts,
        chunk: ChunkInput<'_>,
        mixed: &[f32],
        restored: Restored,
        dx: &[f32],
        weights: &BlockWeights,
        workspace: &mut Workspace,
    ) -> Vec<f32> {
        let (hidden, width, count) = (self.config.hidden, self.query_width(), chunk.rows.len());
        let Workspace { normed, residual, feed_forward_normed, gate, up, active, dactive, .. } = workspace;
        let of_block = |rows: &Range<usize>| BlockRows {
            x: part(chunk.x, rows, hidden),
            dx: part(dx, rows, hidden),
            mixed: part(mixed, rows, width),
        };
        let feed_forward_normed = sized(feed_forward_normed, count * hidden);
        let residual = sized(residual, count * hidden);
        let buffers = [
            Matrix::new(sized(normed, count * hidden), hidden),
            Matrix::new(&mut *residual, hidden),
            Matrix::new(&mut *feed_forward_normed, hidden),
        ];
        for_each_block(buffers, |rows, buffers| {
            self.restore_rows(of_block(&rows), restored, weights, buffers);
        });
        let (factors, by_expert) = (weights.backward.feed_forward.experts(), &mut workspace.experts);
        experts.route_again(factors, feed_forward_normed, by_expert);
        let between = count * experts.spec.chosen * experts.spec.intermediate;
        let (gate, up) = (sized(gate, between), sized(up, between));
        if !restored.activations {
            let forward = weights.forward().feed_forward.experts();
            experts.project_grouped(forward, by_expert, &mut GateUp { gate: &mut *gate, up: &mut *up });
        }
        let between_rows =
            BetweenRows { gate, up, active: sized(active, between), dactive: sized(dactive, between) };
        let dresidual = sized(&mut workspace.dresidual, count * hidden);
        experts.backward(factors, dx, by_expert, between_rows, dresidual);

        let each = block_rows(count);
        let mut dnorms = vec![0.0; count.div_ceil(each) * 3 * hidden];
        let behind_attention = if self.block.attention.joint.is_plain() { 1 } else { hidden };
        let buffers = [
            Matrix::new(dresidual, hidden),
            Matrix::new(sized(&mut workspace.dmixed, count * width), width),
            Matrix::new(sized(&mut workspace.dattention, count * behind_attention), behind_attention),
        ];
        let residual = &*residual;
        let blocks = blocks(buffers).into_par_iter().zip(dnorms.par_chunks_mut(3 * hidden));
        blocks.enumerate().with_max_len(TASK_BLOCKS).for_each(|(block, (buffers, dnorms))| {
            let rows = block * each..block * each + buffers[0].len() / hidden;
            let residual = part(residual, &rows, hidden);
            self.attention_rows_backward(of_block(&rows), residual, weights, buffers, dnorms);
        });
        dnorms
    }

    /// `feed_forward_gradients` of a block with experts.
    pub(super) fn experts_gradients(
        &self,
        experts: &Experts,
        rows: &FeedForwardRows<'_>,
        count: usize,
        gradients: &mut Block<GradientSum>,
    ) -> PackedMatrix {
        let (hidden, width, between) = (self.config.hidden, self.query_width(), experts.spec.intermediate);
        let attention = &self.block.attention;
        let pack = |values: &[f32], width| PackedMatrix::rows(values, values.len() / width, width);
        let of_chunk = |values, width| part(values, &(0..count), width);
        let (x, mixed) = (of_chunk(rows.feed_forward_normed, hidden), of_chunk(rows.mixed, width));
        let ((normed, inputs), mixed_packed) = rayon::join(
            || rayon::join(|| pack(of_chunk(rows.normed, hidden), hidden), || pack(x, hidden)),
            || pack(mixed, width),
        );
        let Block { feed_forward: sums, output, output_bias, .. } = gradients;
        let FeedForwardWeights::Experts(sums) = sums else {
            unreachable!("gradients have the form of the weights")
        };
        let by_expert = rows.experts;
        for expert in by_expert.routing.used() {
            let (own, linears) = (by_expert.routing.rows_of(expert), &experts.experts[expert]);
            let (x, dy) = (part(&by_expert.x, &own, hidden), part(&by_expert.dy, &own, hidden));
            let [active, dgate, dup] =
                [rows.active, rows.dgate, rows.dup].map(|values| part(values, &own, between));
            let (inputs, active_packed) = rayon::join(|| pack(x, hidden), || pack(active, between));
            let sums = &mut sums.experts[expert];
            #[rustfmt::skip] // A table reads better than one field a line.
            add_projection_gradients([
                ProjectionGradient { sum: &mut sums.down, linear: &linears.down, dy, x: active, packed: &active_packed },
                ProjectionGradient { sum: &mut sums.gate, linear: &linears.gate, dy: dgate, x, packed: &inputs },
                ProjectionGradient { sum: &mut sums.up, linear: &linears.up, dy: dup, x, packed: &inputs },
            ]);
        }
        let dlogits = of_chunk(&by_expert.dlogits, experts.spec.count);
        let dattention = of_chunk(rows.dattention, hidden);
        #[rustfmt::skip] // A table reads better than one field a line.
        add_projection_gradients([
            ProjectionGradient { sum: &mut sums.router, linear: &experts.router, dy: dlogits, x, packed: &inputs },
            ProjectionGradient { sum: output, linear: &attention.output, dy: dattention, x: mixed, packed: &mixed_packed },
        ]);
        output_bias.iter_mut().for_each(|bias| bias.add_rows(dattention));
        normed
    }
}
