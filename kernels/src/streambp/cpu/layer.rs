//! One transformer block, forward and backward.

use std::mem;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::live::LiveRows;
use super::workspace::{Activations, Keep, KeptChunk, KeptLayer, Workspace, sized};
use crate::attention::{self, Span};
use crate::decoder::{Packed as Batch, Part, config::DecoderConfig};
use crate::flex::{Rows, Sum};
use crate::gemm::{Packed, add_multiply, multiply};
use crate::panel::Left;
use crate::rows::{
    TASK_BLOCKS, add_bias, add_columns, add_row_sums, add_weight_gradients, block_rows, blocks,
    fill_with_zeros, for_each_block, norm_rows, norm_rows_backward, norm_rows_in_place, part, rotate_rows,
};
use crate::streambp::chunks;
use crate::swiglu;
use crate::weights::Block;

/// Cuts `[KV, N, D]` with these `N` and `D` into blocks of rows, each with its part of every head.
fn head_blocks(values: &mut [f32], (tokens, head): (usize, usize)) -> Vec<Vec<&mut [f32]>> {
    let each = block_rows(tokens);
    let mut blocks: Vec<Vec<&mut [f32]>> = (0..tokens.div_ceil(each)).map(|_| Vec::new()).collect();
    for rows in values.chunks_exact_mut(tokens * head) {
        for (block, part) in blocks.iter_mut().zip(rows.chunks_mut(each * head)) {
            block.push(part);
        }
    }
    blocks
}

/// One block over one batch.
pub(super) struct LayerPass<'a> {
    pub(super) config: &'a DecoderConfig,
    pub(super) block: &'a Block<Rows>,
    pub(super) batch: &'a Batch,
    /// Rows of a chunk.
    pub(super) chunk: usize,
    /// Cosines and sines of all rows.
    pub(super) angles: (&'a [f32], &'a [f32]),
    /// Where the batch's sequences lie.
    pub(super) parts: &'a [Part],
}

/// The weights of a block as right factors of `x w^T`.
struct Forward {
    query: Packed,
    key: Packed,
    value: Packed,
    output: Packed,
    gate: Packed,
    up: Packed,
}

/// Weights that were packed because something goes forward.
fn packed(weights: Option<&Forward>) -> &Forward {
    weights.expect("weights that something goes forward through are packed")
}

/// The weights of a block as right factors of `dy w`.
struct Backward {
    query: Packed,
    key: Packed,
    value: Packed,
    output: Packed,
    gate: Packed,
    up: Packed,
    down: Packed,
}

/// Rows of a chunk that gradients of weights are products of, as [`LayerPass::backward`] leaves them.
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

    /// `w^T` packed, for a weight whose rows have `inner` numbers.
    fn transposed(weight: &Rows, inner: usize) -> Packed {
        Packed::transposed(weight.slice(), inner, weight.slice().len() / inner)
    }

    fn forward_weights(&self) -> Forward {
        let (block, hidden) = (self.block, self.config.hidden);
        Forward {
            query: Self::transposed(&block.query, hidden),
            key: Self::transposed(&block.key, hidden),
            value: Self::transposed(&block.value, hidden),
            output: Self::transposed(&block.output, self.query_width()),
            gate: Self::transposed(&block.gate, hidden),
            up: Self::transposed(&block.up, hidden),
        }
    }

    fn backward_weights(&self) -> Backward {
        let (block, hidden) = (self.block, self.config.hidden);
        let packed =
            |weight: &Rows, columns| Packed::rows(weight.slice(), weight.slice().len() / columns, columns);
        Backward {
            query: packed(&block.query, hidden),
            key: packed(&block.key, hidden),
            value: packed(&block.value, hidden),
            output: packed(&block.output, self.query_width()),
            gate: packed(&block.gate, hidden),
            up: packed(&block.up, hidden),
            down: packed(&block.down, self.config.intermediate),
        }
    }

    /// Norm and rotation of projected queries or keys, in place.
    fn turn_heads(&self, x: &mut [f32], gain: Option<&Rows>, rows: &Range<usize>) {
        if let Some(gain) = gain {
            norm_rows_in_place(x, gain.slice(), self.config.rms_eps);
        }
        rotate_rows(x, x.len() / rows.len(), self.angles(rows), false);
    }

    /// Replaces `x` by the block's output, and keeps what is asked for.
    pub(super) fn forward(&self, x: &mut [f32], workspace: &mut Workspace, keep: Keep) -> KeptLayer {
        let mut kept = KeptLayer::default();
        let (hidden, intermediate) = (self.config.hidden, self.config.intermediate);
        let weights = self.forward_weights();
        let down = Self::transposed(&self.block.down, intermediate);
        self.keys_values(x, &weights, workspace);
        for rows in chunks(self.tokens(), self.chunk) {
            let count = rows.len();
            let mixed = self.attend((part(x, &rows, hidden), None), &rows, &weights, workspace);
            let keeps = keep == Keep::Activations;
            let keeps_query = keeps && self.block.query_norm.is_none();
            // What is not kept still is a buffer with rows.
            let mut room = |keeps: bool, width: usize| match keeps {
                true => (workspace.spares.take(count * width), width),
                false => (vec![0.0; count], 1),
            };
            let (mut query_copy, query_width) = room(keeps_query, self.query_width());
            let (mut residual_copy, residual_width) = room(keeps, hidden);
            let (mut gate_copy, gate_width) = room(keeps, intermediate);
            let mut up_kept = keeps.then(|| workspace.spares.take(count * intermediate));
            let query = &workspace.query;
            let up = up_kept.as_mut().unwrap_or(&mut workspace.up);
            let x = &mut x[rows.start * hidden..rows.end * hidden];
            let buffers = [
                (x, hidden),
                (sized(&mut workspace.post_normed, count * hidden), hidden),
                (sized(&mut workspace.gate, count * intermediate), intermediate),
                (sized(up, count * intermediate), intermediate),
                (&mut query_copy, query_width),
                (&mut residual_copy, residual_width),
                (&mut gate_copy, gate_width),
            ];
            for_each_block(buffers, |rows, [x, normed, gate, up, query_copy, residual_copy, gate_copy]| {
                if keeps_query {
                    query_copy.copy_from_slice(part(query, &rows, query_width));
                }
                let mixed = part(&mixed.result, &rows, self.query_width());
                let left = Left::Rows(mixed, self.query_width());
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
                add_multiply(rows.len(), Left::Rows(gate, intermediate), &down, x);
            });
            if keep != Keep::Nothing {
                let activations = up_kept.map(|up| Activations {
                    query: keeps_query.then_some(query_copy),
                    residual: residual_copy,
                    gate: gate_copy,
                    up,
                });
                kept.chunks.push(KeptChunk { mixed, activations });
            }
        }
        if keep == Keep::Activations {
            let Workspace { keys, values, dkeys, dvalues, spares, .. } = workspace;
            let own = if self.batch.has_prefixes() { [dkeys, dvalues] } else { [keys, values] };
            let len = self.tokens() * self.key_width();
            kept.keys_values = Some(own.map(|buffer| mem::replace(buffer, spares.take(len))));
        }
        kept
    }

    /// Keys and values of all rows into the workspace.
    fn keys_values(&self, x: &[f32], weights: &Forward, workspace: &mut Workspace) {
        let (hidden, width, head) = (self.config.hidden, self.key_width(), self.config.head_width);
        let each = block_rows(self.tokens());
        let count = self.tokens() * width;
        // Where sequences have prefixes, the gradients' buffers, which nobody needs yet, hold what is copied from.
        let (keys, values) = if self.batch.has_prefixes() {
            (&mut workspace.dkeys, &mut workspace.dvalues)
        } else {
            (&mut workspace.keys, &mut workspace.values)
        };
        let (keys, values) = (sized(keys, count), sized(values, count));
        let blocks = head_blocks(keys, (self.tokens(), head)).into_par_iter();
        let blocks = blocks.zip(head_blocks(values, (self.tokens(), head))).enumerate();
        blocks.with_max_len(TASK_BLOCKS).for_each(|(block, (keys, values))| {
            let rows = block * each..((block + 1) * each).min(self.tokens());
            let mut normed = vec![0.0; rows.len() * hidden];
            let gain = self.block.input_norm.slice();
            norm_rows(part(x, &rows, hidden), gain, self.config.rms_eps, &mut normed);
            let mut both = vec![0.0; 2 * rows.len() * width];
            let (key, value) = both.split_at_mut(rows.len() * width);
            multiply(rows.len(), Left::Rows(&normed, hidden), &weights.key, key);
            multiply(rows.len(), Left::Rows(&normed, hidden), &weights.value, value);
            add_bias(key, self.block.key_bias.as_ref().map(Rows::slice));
            add_bias(value, self.block.value_bias.as_ref().map(Rows::slice));
            self.turn_heads(key, self.block.key_norm.as_ref(), &rows);
            for (from, to) in [(&*key, keys), (&*value, values)] {
                for (first, to) in to.into_iter().enumerate() {
                    let from = from.chunks_exact(width).map(|row| &row[first * head..(first + 1) * head]);
                    to.chunks_exact_mut(head).zip(from).for_each(|(to, from)| to.copy_from_slice(from));
                }
            }
        });
        if self.batch.has_prefixes() {
            let own = [&mut workspace.dkeys, &mut workspace.dvalues].map(mem::take);
            self.spread(&own, workspace);
            [workspace.dkeys, workspace.dvalues] = own;
        }
    }

    /// Keys and values from `[KV, N, D]` to the workspace's `[KV, key rows, D]`: each sequence gets its prefix's rows and
    /// its own.
    fn spread(&self, own: &[Vec<f32>; 2], workspace: &mut Workspace) {
        let (head, width) = (self.config.head_width, self.key_width());
        for (from, to) in own.iter().zip([&mut workspace.keys, &mut workspace.values]) {
            let (from, to) = (&from[..self.tokens() * width], sized(to, self.key_rows() * width));
            let heads = to.par_chunks_mut(self.key_rows() * head).zip(from.par_chunks(self.tokens() * head));
            heads.with_max_len(TASK_BLOCKS).for_each(|(to, from)| {
                for Part { rows, keys, prefix } in self.parts {
                    let to = &mut to[keys.start * head..keys.end * head];
                    let (begin, own) = to.split_at_mut(prefix.len() * head);
                    begin.copy_from_slice(part(from, prefix, head));
                    own.copy_from_slice(part(from, rows, head));
                }
            });
        }
    }

    /// The norm and the queries of a chunk into the workspace, and what attention makes of them unless that was kept.
    fn attend(
        &self,
        (x, mixed): (&[f32], Option<attention::Mixed>),
        chunk: &Range<usize>,
        weights: &Forward,
        workspace: &mut Workspace,
    ) -> attention::Mixed {
        let (hidden, width, count) = (self.config.hidden, self.query_width(), chunk.len());
        // Only a norm's gradient needs what the norm saw.
        let raw_width = if self.block.query_norm.is_some() { width } else { 1 };
        let buffers = [
            (sized(&mut workspace.normed, count * hidden), hidden),
            (sized(&mut workspace.query, count * width), width),
            (sized(&mut workspace.raw_query, count * raw_width), raw_width),
        ];
        for_each_block(buffers, |rows, [normed, query, raw]| {
            let gain = self.block.input_norm.slice();
            norm_rows(part(x, &rows, hidden), gain, self.config.rms_eps, normed);
            multiply(rows.len(), Left::Rows(normed, hidden), &weights.query, query);
            add_bias(query, self.block.query_bias.as_ref().map(Rows::slice));
            if self.block.query_norm.is_some() {
                raw.copy_from_slice(query);
            }
            let rows = chunk.start + rows.start..chunk.start + rows.end;
            self.turn_heads(query, self.block.query_norm.as_ref(), &rows);
        });
        mixed.unwrap_or_else(|| {
            let keys_values = (&workspace.keys[..], &workspace.values[..]);
            attention::mix(&self.heads(count, &workspace.query, keys_values), &self.spans(chunk))
        })
    }

    fn spans(&self, chunk: &Range<usize>) -> Arc<[Span]> {
        self.batch.chunk_spans(chunk.start, chunk.end)
    }

    fn heads<'w>(
        &self,
        rows: usize,
        query: &'w [f32],
        (keys, values): (&'w [f32], &'w [f32]),
    ) -> attention::Heads<'w> {
        attention::Heads {
            query: &query[..rows * self.query_width()],
            key: &keys[..self.key_rows() * self.key_width()],
            value: &values[..self.key_rows() * self.key_width()],
            query_shape: [rows, self.config.heads, self.config.head_width],
            key_shape: [self.config.kv_heads, self.key_rows(), self.config.head_width],
        }
    }

    /// Replaces the gradient of the block's output by that of its input `x`, and adds to the parameters'.
    ///
    /// Chunks go from the last to the first: the gradients of a chunk's own keys and values are complete once
    /// the chunk has been through attention, because only it and later chunks see them. `kept` is what the forward
    /// pass kept, or empty. Where no row of a chunk is live, `dx` is 0 and stays so.
    pub(super) fn backward(
        &self,
        (x, mut kept): (&[f32], KeptLayer),
        dx: &mut [f32],
        (workspace, gradients): (&mut Workspace, &mut Block<Sum>),
        live: &LiveRows,
    ) {
        let hidden = self.config.hidden;
        // Where all was kept, nothing goes forward again but what a head's norm saw.
        let has_heads = self.block.query_norm.is_none() && self.block.key_norm.is_none();
        let goes_forward = kept.keys_values.is_none() || !has_heads;
        let (forward, backward) =
            rayon::join(|| goes_forward.then(|| self.forward_weights()), || self.backward_weights());
        match kept.keys_values.take() {
            Some(own) if self.batch.has_prefixes() => {
                self.spread(&own, workspace);
                own.into_iter().for_each(|buffer| workspace.spares.give(buffer));
            }
            Some([keys, values]) => {
                workspace.spares.give(mem::replace(&mut workspace.keys, keys));
                workspace.spares.give(mem::replace(&mut workspace.values, values));
            }
            None => self.keys_values(x, packed(forward.as_ref()), workspace),
        }
        let key_numbers = self.key_rows() * self.key_width();
        fill_with_zeros(sized(&mut workspace.dkeys, key_numbers));
        fill_with_zeros(sized(&mut workspace.dvalues, key_numbers));
        for rows in chunks(self.tokens(), self.chunk).rev() {
            let (x, dx) = (part(x, &rows, hidden), &mut dx[rows.start * hidden..rows.end * hidden]);
            let kept_chunk = kept.chunks.pop();
            if !live.any(&rows) {
                continue;
            }
            let (mixed, activations) = match kept_chunk {
                Some(KeptChunk { mixed, activations }) => (Some(mixed), activations),
                None => (None, None),
            };
            let has = activations.is_some();
            let has_query = activations.is_some_and(|activations| activations.put_into(workspace));
            let weights = (forward.as_ref(), &backward);
            let mixed = match mixed {
                Some(mixed) if has_query => mixed,
                mixed => self.attend((x, mixed), &rows, packed(weights.0), workspace),
            };
            let kept = (has, has_query);
            self.feed_forward_backward((x, &mixed.result, kept), dx, weights, (workspace, gradients));
            let Workspace { dkeys, dvalues, keys, values, query, dmixed, .. } = workspace;
            let inputs = self.heads(rows.len(), query, (keys, values));
            let sums = (&mut dkeys[..key_numbers], &mut dvalues[..key_numbers]);
            let dmixed = &dmixed[..rows.len() * self.query_width()];
            let spans = self.spans(&rows);
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
                || attention::mix_backward(&inputs, (&mixed, dmixed), &spans, sums),
                || self.feed_forward_gradients(&feed_forward, rows.len(), gradients),
            );
            let projected = (&mut dquery[..], &normed);
            self.projections_backward((x, &rows), (projected, dx), weights, (workspace, gradients));
        }
    }

    /// From the output's gradient `dx` to that of attention's result, which goes into the workspace beside the
    /// residual's. The residual and both parts of the feed-forward layer may be in the workspace already; so may
    /// queries, and then the norm before them is gone through here.
    fn feed_forward_backward(
        &self,
        (x, mixed, (has_activations, has_query)): (&[f32], &[f32], (bool, bool)),
        dx: &[f32],
        (forward, backward): (Option<&Forward>, &Backward),
        (workspace, gradients): (&mut Workspace, &mut Block<Sum>),
    ) {
        let (hidden, intermediate, width) =
            (self.config.hidden, self.config.intermediate, self.query_width());
        let count = x.len() / hidden;
        let each = block_rows(count);
        let mut dgains = vec![0.0; count.div_ceil(each) * hidden];
        let buffers = [
            (sized(&mut workspace.normed, count * hidden), hidden),
            (sized(&mut workspace.residual, count * hidden), hidden),
            (sized(&mut workspace.post_normed, count * hidden), hidden),
            (sized(&mut workspace.dresidual, count * hidden), hidden),
            (sized(&mut workspace.dmixed, count * width), width),
            (sized(&mut workspace.gate, count * intermediate), intermediate),
            (sized(&mut workspace.up, count * intermediate), intermediate),
            (sized(&mut workspace.active, count * intermediate), intermediate),
            (sized(&mut workspace.dactive, count * intermediate), intermediate),
        ];
        let blocks = blocks(buffers).into_par_iter().zip(dgains.par_chunks_mut(hidden));
        blocks.enumerate().with_max_len(TASK_BLOCKS).for_each(|(block, (buffers, dgain))| {
            let [normed, residual, post_normed, dresidual, dmixed, gate, up, active, dactive] = buffers;
            let rows = block * each..block * each + residual.len() / hidden;
            let (x, dx) = (part(x, &rows, hidden), part(dx, &rows, hidden));
            if has_query {
                norm_rows(x, self.block.input_norm.slice(), self.config.rms_eps, normed);
            }
            if !has_activations {
                residual.copy_from_slice(x);
                let left = Left::Rows(part(mixed, &rows, width), width);
                add_multiply(rows.len(), left, &packed(forward).output, residual);
                add_bias(residual, self.block.output_bias.as_ref().map(Rows::slice));
            }
            let gain = self.block.post_norm.slice();
            norm_rows(residual, gain, self.config.rms_eps, post_normed);
            if !has_activations {
                multiply(rows.len(), Left::Rows(post_normed, hidden), &packed(forward).gate, gate);
                multiply(rows.len(), Left::Rows(post_normed, hidden), &packed(forward).up, up);
            }
            multiply(rows.len(), Left::Rows(dx, hidden), &backward.down, dactive);
            swiglu::backward_in_place((gate, up), dactive, active);
            multiply(rows.len(), Left::Rows(gate, intermediate), &backward.gate, dresidual);
            add_multiply(rows.len(), Left::Rows(up, intermediate), &backward.up, dresidual);
            norm_rows_backward(residual, gain, self.config.rms_eps, (dresidual, dgain));
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
    ) -> Packed {
        let (hidden, intermediate, width) =
            (self.config.hidden, self.config.intermediate, self.query_width());
        let pack = |values: &[f32], width| Packed::rows(&values[..count * width], count, width);
        let ((normed, post_normed), (active, mixed)) = rayon::join(
            || rayon::join(|| pack(rows.normed, hidden), || pack(rows.post_normed, hidden)),
            || rayon::join(|| pack(rows.active, intermediate), || pack(rows.mixed, width)),
        );
        let dresidual = &rows.dresidual[..count * hidden];
        add_weight_gradients([
            (gradients.down.slice_mut(), (rows.dx, hidden), &active),
            (gradients.gate.slice_mut(), (&rows.dgate[..count * intermediate], intermediate), &post_normed),
            (gradients.up.slice_mut(), (&rows.dup[..count * intermediate], intermediate), &post_normed),
            (gradients.output.slice_mut(), (dresidual, hidden), &mixed),
        ]);
        if let Some(bias) = &mut gradients.output_bias {
            add_row_sums(bias.slice_mut(), dresidual);
        }
        normed
    }

    /// Some rows of `[N, KV D]` of gradients that lie head by head: of a prefix's rows the sums over all sequences that
    /// it begins.
    fn gather_rows(&self, from: &[f32], chunk: &Range<usize>, to: &mut [f32]) {
        let (head, width, key_rows) = (self.config.head_width, self.key_width(), self.key_rows());
        let heads_of =
            |key: usize| (0..self.config.kv_heads).map(move |kv_head| (kv_head * key_rows + key) * head);
        let within = |rows: &Range<usize>| rows.start.max(chunk.start)..rows.end.min(chunk.end);
        for owner in self.parts {
            for row in within(&owner.rows) {
                let to = to[(row - chunk.start) * width..][..width].chunks_exact_mut(head);
                to.zip(heads_of(owner.key_of(row)))
                    .for_each(|(to, at)| to.copy_from_slice(&from[at..at + head]));
            }
        }
        for member in self.parts {
            for row in within(&member.prefix) {
                let to = to[(row - chunk.start) * width..][..width].chunks_exact_mut(head);
                to.zip(heads_of(member.key_of_prefix(row)))
                    .for_each(|(to, at)| add_columns(to, &from[at..at + head]));
            }
        }
    }

    /// From the gradients of a chunk's queries, keys and values to that of the block's input, into `dx`.
    fn projections_backward(
        &self,
        (x, chunk): (&[f32], &Range<usize>),
        ((dquery, normed), dx): ((&mut [f32], &Packed), &mut [f32]),
        (forward, backward): (Option<&Forward>, &Backward),
        (workspace, gradients): (&mut Workspace, &mut Block<Sum>),
    ) {
        let (hidden, width, key_width) = (self.config.hidden, self.query_width(), self.key_width());
        let (count, eps) = (chunk.len(), self.config.rms_eps);
        let each = block_rows(count);
        let head = self.config.head_width;
        let mut dgains = vec![0.0; count.div_ceil(each) * (hidden + 2 * head)];
        let (dkeys, dvalues) = (&workspace.dkeys, &workspace.dvalues);
        let dkey_rows = sized(&mut workspace.dkey, count * key_width);
        let dvalue_rows = sized(&mut workspace.dvalue, count * key_width);
        let (normed_rows, raw_query) = (&workspace.normed[..count * hidden], &workspace.raw_query);
        let buffers = [
            (&mut *dquery, width),
            (&mut *dkey_rows, key_width),
            (&mut *dvalue_rows, key_width),
            (sized(&mut workspace.raw_key, count * key_width), key_width),
            (sized(&mut workspace.dnormed, count * hidden), hidden),
            (&mut *dx, hidden),
        ];
        let blocks = blocks(buffers).into_par_iter().zip(dgains.par_chunks_mut(hidden + 2 * head));
        blocks.enumerate().with_max_len(TASK_BLOCKS).for_each(|(block, (buffers, dgains))| {
            let [dquery, dkey, dvalue, raw_key, dnormed, dx] = buffers;
            let rows = block * each..block * each + dx.len() / hidden;
            let of_batch = chunk.start + rows.start..chunk.start + rows.end;
            let angles = self.angles(&of_batch);
            let (dgain, dhead_gains) = dgains.split_at_mut(hidden);
            let (dquery_gain, dkey_gain) = dhead_gains.split_at_mut(head);
            let normed = part(normed_rows, &rows, hidden);
            self.gather_rows(dkeys, &of_batch, dkey);
            self.gather_rows(dvalues, &of_batch, dvalue);
            rotate_rows(dquery, width, angles, true);
            rotate_rows(dkey, key_width, angles, true);
            if let Some(gain) = &self.block.query_norm {
                let raw = part(raw_query, &rows, width);
                norm_rows_backward(raw, gain.slice(), eps, (dquery, dquery_gain));
            }
            if let Some(gain) = &self.block.key_norm {
                multiply(rows.len(), Left::Rows(normed, hidden), &packed(forward).key, raw_key);
                add_bias(raw_key, self.block.key_bias.as_ref().map(Rows::slice));
                norm_rows_backward(raw_key, gain.slice(), eps, (dkey, dkey_gain));
            }
            multiply(rows.len(), Left::Rows(dquery, width), &backward.query, dnormed);
            add_multiply(rows.len(), Left::Rows(dkey, key_width), &backward.key, dnormed);
            add_multiply(rows.len(), Left::Rows(dvalue, key_width), &backward.value, dnormed);
            let gain = self.block.input_norm.slice();
            norm_rows_backward(part(x, &rows, hidden), gain, eps, (dnormed, dgain));
            dx.copy_from_slice(part(&workspace.dresidual, &rows, hidden));
            add_columns(dx, dnormed);
        });
        add_weight_gradients([
            (gradients.query.slice_mut(), (dquery, width), normed),
            (gradients.key.slice_mut(), (dkey_rows, key_width), normed),
            (gradients.value.slice_mut(), (dvalue_rows, key_width), normed),
        ]);
        for (bias, rows) in [
            (&mut gradients.query_bias, &*dquery),
            (&mut gradients.key_bias, &*dkey_rows),
            (&mut gradients.value_bias, &*dvalue_rows),
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
