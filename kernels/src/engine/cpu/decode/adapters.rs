//! A model's adapters as the products of decoding read them. They stand beside packed weights that all policies share:
//! `x W^T + s (x A^T) B^T`, always in f32, whatever the weights are rounded to.

use std::ops::Range;

use crate::flex::Rows;
use crate::gemm::{PackedMatrix, add_multiply_panels, multiply};
use crate::model::config::DecoderConfig;
use crate::model::linear::LowRank;
use crate::model::lora::Lora;
use crate::model::weights::{Block, FeedForwardWeights, GatedWeights};
use crate::panel::Left;

/// The adapters of a block, by the products that they add to.
pub(super) struct BlockAdapters {
    pub(super) query_key_value: Option<PackedAdapter>,
    pub(super) output: Option<PackedAdapter>,
    /// Those of the gated part, or of each expert.
    pub(super) gated: Vec<GatedAdapters>,
}

/// The adapters of a gated part.
pub(super) struct GatedAdapters {
    /// Those of gate and up, which are of the same rows.
    pub(super) gate_up: Option<PackedAdapter>,
    pub(super) down: Option<PackedAdapter>,
}

/// Adapters of projections of the same rows, side by side.
pub(super) struct PackedAdapter {
    /// All A, one after the other: the right factor of `x A^T`.
    pub(super) first: PackedMatrix,
    /// What each of its columns is multiplied with.
    pub(super) scales: Vec<f32>,
    /// For each product a right factor of all its columns, which is 0 where a column is another projection's.
    pub(super) seconds: Vec<PackedMatrix>,
}

/// A projection's place in a product.
struct Part<'a> {
    adapter: Option<&'a LowRank<Rows>>,
    outputs: usize,
    /// Which product.
    product: usize,
}

impl BlockAdapters {
    /// Of all blocks.
    pub(super) fn of(lora: &Lora, config: &DecoderConfig) -> Vec<Self> {
        let rows =
            lora.adapters.map(|_, adapter| adapter.as_ref().map(|adapter| adapter.map(Rows::of_tensor)));
        rows.blocks.iter().enumerate().map(|(layer, block)| Self::new(layer, block, config)).collect()
    }

    fn new(layer: usize, block: &Block<Option<LowRank<Rows>>>, config: &DecoderConfig) -> Self {
        let hidden = config.hidden;
        let (mixed, key) = (config.heads * config.head_width, config.kv_heads * config.head_width);
        let of = |adapter, outputs, product| Part { adapter: Option::as_ref(adapter), outputs, product };
        let (gated, intermediate) = match (&block.feed_forward, config.spec.experts_of(layer)) {
            (FeedForwardWeights::Experts(own), Some(spec)) => (&own.experts[..], spec.intermediate),
            (FeedForwardWeights::Gated(own), _) => (std::slice::from_ref(own), config.intermediate),
            (FeedForwardWeights::Experts(_), None) => unreachable!("a layer with experts says how many"),
        };
        let gated = gated.iter().map(|GatedWeights { gate, up, down }| GatedAdapters {
            gate_up: PackedAdapter::new(&[of(gate, intermediate, 0), of(up, intermediate, 1)], hidden),
            down: PackedAdapter::new(&[of(down, hidden, 0)], intermediate),
        });
        Self {
            query_key_value: PackedAdapter::new(
                &[of(&block.query, mixed, 0), of(&block.key, key, 0), of(&block.value, key, 0)],
                hidden,
            ),
            output: PackedAdapter::new(&[of(&block.output, hidden, 0)], mixed),
            gated: gated.collect(),
        }
    }

    /// Memory of the packed adapters.
    pub(super) fn bytes(&self) -> usize {
        let gated = self.gated.iter().flat_map(|own| [&own.gate_up, &own.down]);
        let all = [&self.query_key_value, &self.output].into_iter().chain(gated);
        all.flatten().map(PackedAdapter::bytes).sum()
    }
}

impl PackedAdapter {
    /// Of projections of rows of this length; `None` where none has an adapter.
    fn new(parts: &[Part<'_>], inner: usize) -> Option<Self> {
        let rank = |part: &Part<'_>| part.adapter.map_or(0, |adapter| adapter.a.slice().len() / inner);
        let ranks: usize = parts.iter().map(rank).sum();
        if ranks == 0 {
            return None;
        }
        let (mut first, mut scales) = (Vec::with_capacity(ranks * inner), Vec::with_capacity(ranks));
        let products = 1 + parts.iter().map(|part| part.product).max().unwrap_or(0);
        let mut seconds = vec![Vec::new(); products];
        for part in parts {
            let own = rank(part);
            if let Some(LowRank { a, scale, .. }) = part.adapter {
                first.extend_from_slice(a.slice());
                scales.extend(std::iter::repeat_n(*scale as f32, own));
            }
            let begin = scales.len() - own;
            let second = &mut seconds[part.product];
            for output in 0..part.outputs {
                let row = second.len();
                second.resize(row + ranks, 0.0);
                if let Some(LowRank { b, .. }) = part.adapter {
                    second[row + begin..][..own].copy_from_slice(&b.slice()[output * own..][..own]);
                }
            }
        }
        let seconds = seconds.iter().map(|b| PackedMatrix::transposed(b, ranks, b.len() / ranks)).collect();
        Some(Self { first: PackedMatrix::transposed(&first, inner, ranks), scales, seconds })
    }

    /// Rows between the two matrices of the adapters, times their scales.
    pub(super) fn between(&self, left: &[f32], to: &mut [f32]) {
        let (inner, ranks) = (self.first.inner(), self.scales.len());
        multiply(to.len() / ranks, Left::Rows(left, inner), &self.first, to);
        for row in to.chunks_exact_mut(ranks) {
            row.iter_mut().zip(&self.scales).for_each(|(number, scale)| *number *= scale);
        }
    }

    /// Adds what adapters make of rows to some panels of a product.
    pub(super) fn add(&self, left: &[f32], product: usize, panels: Range<usize>, to: &mut [f32]) {
        let (rows, ranks) = (left.len() / self.first.inner(), self.scales.len());
        let mut between = vec![0.0; rows * ranks];
        self.between(left, &mut between);
        add_multiply_panels(rows, Left::Rows(&between, ranks), &self.seconds[product], panels, to);
    }

    fn bytes(&self) -> usize {
        self.first.bytes() + self.seconds.iter().map(PackedMatrix::bytes).sum::<usize>()
    }
}
