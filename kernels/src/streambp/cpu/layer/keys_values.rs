//! Keys and values of all rows of a batch, head by head, and the way back of their gradients to rows.

use std::mem;
use std::ops::Range;

use rayon::prelude::*;

use super::LayerPass;
use super::weights::ForwardWeights;
use crate::batch::PrefixRows;
use crate::rows::{TASK_BLOCKS, add_columns, block_rows, part};
use crate::streambp::cpu::workspace::{Workspace, sized};

/// Cuts `[KV, N, D]` with these `N` and `D` into blocks of rows, each with its part of every head.
fn head_blocks(values: &mut [f32], tokens: usize, head: usize) -> Vec<Vec<&mut [f32]>> {
    let each = block_rows(tokens);
    let mut blocks: Vec<Vec<&mut [f32]>> = (0..tokens.div_ceil(each)).map(|_| Vec::new()).collect();
    for rows in values.chunks_exact_mut(tokens * head) {
        for (block, part) in blocks.iter_mut().zip(rows.chunks_mut(each * head)) {
            block.push(part);
        }
    }
    blocks
}

impl LayerPass<'_> {
    /// Keys and values of all rows into the workspace.
    pub(super) fn keys_values(&self, x: &[f32], weights: &ForwardWeights, workspace: &mut Workspace) {
        let (width, head) = (self.key_width(), self.config.head_width);
        let each = block_rows(self.tokens());
        let count = self.tokens() * width;
        // Where sequences have prefixes, the gradients' buffers, which nobody needs yet, hold what is copied from.
        let (keys, values) = if self.batch.has_prefixes() {
            (&mut workspace.dkeys, &mut workspace.dvalues)
        } else {
            (&mut workspace.keys, &mut workspace.values)
        };
        let (keys, values) = (sized(keys, count), sized(values, count));
        let blocks = head_blocks(keys, self.tokens(), head).into_par_iter();
        let blocks = blocks.zip(head_blocks(values, self.tokens(), head)).enumerate();
        blocks.with_max_len(TASK_BLOCKS).for_each(|(block, (keys, values))| {
            let rows = block * each..((block + 1) * each).min(self.tokens());
            let mut both = vec![0.0; 2 * rows.len() * width];
            let (key, value) = both.split_at_mut(rows.len() * width);
            self.block_keys_values(x, &rows, weights, (key, value));
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

    /// Keys and values of one block of rows, `[rows, KV D]` each.
    fn block_keys_values(
        &self,
        x: &[f32],
        rows: &Range<usize>,
        weights: &ForwardWeights,
        keys_values: (&mut [f32], &mut [f32]),
    ) {
        let hidden = self.config.hidden;
        let mut normed = vec![0.0; rows.len() * hidden];
        self.block.input_norm.forward(part(x, rows, hidden), &mut normed);
        self.block.attention.keys_values(&weights.attention, self.angles(rows), &normed, keys_values);
    }

    /// Keys and values from `[KV, N, D]` to the workspace's `[KV, key rows, D]`: each sequence gets its prefix's rows
    /// and its own.
    pub(super) fn spread(&self, own: &[Vec<f32>; 2], workspace: &mut Workspace) {
        let (head, width) = (self.config.head_width, self.key_width());
        for (from, to) in own.iter().zip([&mut workspace.keys, &mut workspace.values]) {
            let (from, to) = (&from[..self.tokens() * width], sized(to, self.key_rows() * width));
            let heads = to.par_chunks_mut(self.key_rows() * head).zip(from.par_chunks(self.tokens() * head));
            heads.with_max_len(TASK_BLOCKS).for_each(|(to, from)| {
                for sequence in self.parts {
                    for PrefixRows { rows, key } in sequence.prefix_keys() {
                        to[key * head..][..rows.len() * head].copy_from_slice(part(from, &rows, head));
                    }
                    let own = &mut to[sequence.key_of(sequence.rows.start) * head..sequence.keys.end * head];
                    own.copy_from_slice(part(from, &sequence.rows, head));
                }
            });
        }
    }

    /// Some rows of `[N, KV D]` of gradients that lie head by head: of a prefix's rows the sums over all sequences that
    /// it begins.
    pub(super) fn gather_rows(&self, from: &[f32], chunk: &Range<usize>, to: &mut [f32]) {
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
        for PrefixRows { rows, key } in self.parts.iter().flat_map(|member| member.prefix_keys()) {
            for row in within(&rows) {
                let to = to[(row - chunk.start) * width..][..width].chunks_exact_mut(head);
                to.zip(heads_of(key + (row - rows.start)))
                    .for_each(|(to, at)| add_columns(to, &from[at..at + head]));
            }
        }
    }
}
