//! The head on the CPU, by chunks of tokens and tiles of the vocabulary: no logits outlive their tile.
//!
//! Logits are computed transposed, one row a vocabulary entry and one column a token: the head's rows are then
//! the left factor of the product as they lie in memory, and a token owns a lane of every vector.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

use super::SlicePass;
use super::live::LiveRows;
use crate::gemm::{PackedMatrix, add_multiply, multiply};
use crate::model::gradients::GradientSum;
use crate::model::weights::Weights;
use crate::panel::Left;
use crate::parts::head::{TileStats, TileTokens, tile_gradient, tile_stats};
use crate::rows::{TASK_BLOCKS, block_rows};
use crate::streambp::{Slopes, TokenStats, chunks, zero_last};

/// The most vocabulary entries of a tile: with a chunk of 256 tokens its logits take 256 KiB.
const TILE_MAX: usize = 256;
/// The fewest: a product of fewer rows takes longer for each.
const TILE_MIN: usize = 16;
/// Tiles that a small vocabulary is cut into, so that it feeds several cores.
const TILES: usize = 8;
/// Vocabulary entries whose logit gradients are held at a time: 8 MiB with a chunk of 512 tokens.
pub(in crate::streambp) const SLAB: usize = 4096;

/// What the loss sends into the logits, one entry a row in each list.
pub(super) struct HeadLoss<'a> {
    pub(super) slopes: &'a Slopes,
    pub(super) entropies: &'a [f32],
    /// Logarithms of the sums of `e^(logit / temperature)`.
    pub(super) log_totals: &'a [f32],
}

impl SlicePass<'_> {
    fn head_chunks(&self) -> impl DoubleEndedIterator<Item = Range<usize>> {
        chunks(self.batch.ids.len(), self.plan.head_chunk_tokens)
    }

    /// The head's rows of some entries of the vocabulary.
    fn head_rows(&self, entries: Range<usize>) -> Cow<'_, [f32]> {
        self.weights.head().rows(entries, self.decoder.config.hidden)
    }

    /// Vocabulary entries of a tile.
    fn tile_entries(&self) -> usize {
        self.decoder.config.vocabulary.div_ceil(TILES).clamp(TILE_MIN, TILE_MAX)
    }

    fn inverse_temperature(&self) -> f32 {
        (1.0 / self.decoder.config.spec.head_temperature(self.plan.temperature)) as f32
    }

    /// The last norm of some rows.
    fn final_normed(&self, hidden: &[f32]) -> Vec<f32> {
        let (norm, width) = (&self.weights.final_norm, self.decoder.config.hidden);
        let mut normed = vec![0.0; hidden.len()];
        let block = block_rows(hidden.len() / width) * width;
        normed.par_chunks_mut(block).zip(hidden.par_chunks(block)).for_each(|(y, x)| {
            norm.forward(x, y);
        });
        normed
    }

    /// Statistics of all rows, and the logarithm of each row's sum of `e^(logit / temperature)`.
    pub(super) fn head_statistics(&self, x: &[f32]) -> (TokenStats, Vec<f32>) {
        let width = self.decoder.config.hidden;
        let mut stats = TokenStats::default();
        let mut log_totals = Vec::new();
        for rows in self.head_chunks() {
            let normed = self.final_normed(&x[rows.start * width..rows.end * width]);
            let columns = PackedMatrix::transposed(&normed, width, rows.len());
            let targets = &self.targets[rows.clone()];
            let vocabulary = self.decoder.config.vocabulary;
            let tiles: Vec<(TileStats, Vec<(usize, f32)>)> = (0..vocabulary.div_ceil(self.tile_entries()))
                .into_par_iter()
                .with_max_len(TASK_BLOCKS)
                .map(|tile| {
                    let first = tile * self.tile_entries();
                    let entries = self.tile_entries().min(vocabulary - first);
                    let weight = self.head_rows(first..first + entries);
                    let mut logits = vec![0.0; entries * rows.len()];
                    multiply(entries, Left::Rows(&weight, width), &columns, &mut logits);
                    let own = targets.iter().enumerate().filter_map(|(token, &target)| {
                        let entry = (target as usize).checked_sub(first).filter(|&entry| entry < entries)?;
                        Some((token, logits[entry * rows.len() + token]))
                    });
                    let own = own.collect();
                    (tile_stats(&logits, rows.len(), self.inverse_temperature()), own)
                })
                .collect();
            self.join_tiles(&tiles, rows.len(), &mut stats, &mut log_totals);
        }
        zero_last(self.batch, &mut stats.logprobs);
        zero_last(self.batch, &mut stats.entropies);
        (stats, log_totals)
    }

    /// Statistics of a chunk's tokens from those of its tiles.
    fn join_tiles(
        &self,
        tiles: &[(TileStats, Vec<(usize, f32)>)],
        tokens: usize,
        stats: &mut TokenStats,
        log_totals: &mut Vec<f32>,
    ) {
        let inverse = self.inverse_temperature();
        let mut chosen = vec![0.0; tokens];
        for (token, logit) in tiles.iter().flat_map(|(_, own)| own) {
            chosen[*token] = *logit;
        }
        for (token, chosen) in chosen.into_iter().enumerate() {
            let largest = tiles.iter().fold(f32::NEG_INFINITY, |most, (tile, _)| {
                if tile.largest[token] > most { tile.largest[token] } else { most }
            });
            let (mut total, mut weighted) = (0.0_f32, 0.0_f32);
            for (tile, _) in tiles {
                // `z` grows by the shift of the largest: `sum (z + s) e^(z + s) = e^s (sum z e^z + s sum e^z)`.
                let shift = (tile.largest[token] - largest) * inverse;
                let scale = shift.exp();
                total += scale * tile.total[token];
                weighted += scale * shift.mul_add(tile.total[token], tile.weighted[token]);
            }
            let log_total = total.ln();
            stats.logprobs.push((chosen - largest).mul_add(inverse, -log_total));
            stats.entropies.push(log_total - weighted / total);
            log_totals.push(largest.mul_add(inverse, log_total));
        }
    }

    /// Replaces the last layer's output by its gradient, and adds to the head's and the last norm's.
    pub(super) fn head_backward(
        &self,
        x: &mut [f32],
        loss: &HeadLoss<'_>,
        live: &LiveRows,
        sums: &mut Weights<GradientSum>,
    ) {
        let width = self.decoder.config.hidden;
        let vocabulary = self.decoder.config.vocabulary;
        for rows in self.head_chunks() {
            let x = &mut x[rows.start * width..rows.end * width];
            if !live.any(&rows) {
                x.fill(0.0);
                continue;
            }
            let normed = self.final_normed(x);
            let columns = PackedMatrix::transposed(&normed, width, rows.len());
            let inputs = PackedMatrix::rows(&normed, rows.len(), width);
            let mut dnormed = vec![0.0; normed.len()];
            let mut dlogits = vec![0.0; SLAB.min(vocabulary) * rows.len()];
            for slab in chunks(vocabulary, SLAB) {
                let weight = &*self.head_rows(slab.clone());
                let dlogits = &mut dlogits[..slab.len() * rows.len()];
                let tiles = dlogits
                    .par_chunks_mut(self.tile_entries() * rows.len())
                    .zip(weight.par_chunks(self.tile_entries() * width))
                    .enumerate();
                let logits_gradient = |tile: usize, dlogits: &mut [f32], weight: &[f32]| {
                    let entries = weight.len() / width;
                    multiply(entries, Left::Rows(weight, width), &columns, dlogits);
                    let first = slab.start + tile * self.tile_entries();
                    self.tile_gradient(dlogits, first, &rows, loss);
                };
                let head_sum = sums.head.as_mut().unwrap_or(&mut sums.embedding).full();
                match head_sum.map(|sum| &mut sum[slab.start * width..slab.end * width]) {
                    Some(sum) => tiles
                        .zip(sum.par_chunks_mut(self.tile_entries() * width))
                        .with_max_len(TASK_BLOCKS)
                        .for_each(|((tile, (dlogits, weight)), sum)| {
                            logits_gradient(tile, dlogits, weight);
                            let left = Left::Rows(dlogits, rows.len());
                            add_multiply(weight.len() / width, left, &inputs, sum);
                        }),
                    None => tiles
                        .with_max_len(TASK_BLOCKS)
                        .for_each(|(tile, (dlogits, weight))| logits_gradient(tile, dlogits, weight)),
                }
                let weight = PackedMatrix::rows(weight, slab.len(), width);
                let each = block_rows(rows.len());
                dnormed.par_chunks_mut(each * width).enumerate().with_max_len(TASK_BLOCKS).for_each(
                    |(block, dnormed)| {
                        let left = Left::Columns(&dlogits[block * each..], rows.len());
                        add_multiply(dnormed.len() / width, left, &weight, dnormed);
                    },
                );
            }
            self.final_norm_backward(x, &mut dnormed, sums);
            x.copy_from_slice(&dnormed);
        }
    }

    /// Logits of a tile, whose first entry of the vocabulary is `first`, to their gradients.
    fn tile_gradient(&self, logits: &mut [f32], first: usize, rows: &Range<usize>, loss: &HeadLoss<'_>) {
        let slopes = loss.slopes;
        let tokens = TileTokens {
            targets: &self.targets[rows.clone()],
            logprob_slopes: &slopes.logprob[rows.clone()],
            entropy_slopes: (!slopes.entropy.is_empty()).then(|| &slopes.entropy[rows.clone()]),
            entropies: &loss.entropies[rows.clone()],
            log_totals: &loss.log_totals[rows.clone()],
        };
        tile_gradient(logits, first, tokens, self.inverse_temperature());
    }

    fn final_norm_backward(&self, x: &[f32], dnormed: &mut [f32], sums: &mut Weights<GradientSum>) {
        let (norm, width) = (&self.weights.final_norm, self.decoder.config.hidden);
        let block = block_rows(x.len() / width) * width;
        let parts = dnormed.par_chunks_mut(block).zip(x.par_chunks(block));
        let dweights: Vec<Vec<f32>> = parts
            .map(|(dy, x)| {
                let mut dweight = vec![0.0; width];
                norm.backward(x, dy, &mut dweight);
                dweight
            })
            .collect();
        dweights.iter().for_each(|dweight| sums.final_norm.add(dweight));
    }
}
