//! A model's adapters as the products of decoding read them. They stand beside packed weights that all policies share:
//! `x W^T + s (x A^T) B^T`, always in f32, whatever the weights are rounded to.

use crate::flex::Rows;
use crate::gemm::PackedMatrix;
use crate::model::config::DecoderConfig;
use crate::model::linear::LowRank;
use crate::model::lora::Lora;
use crate::model::weights::{Block, FeedForwardWeights, GatedWeights};

/// The adapters of a block, by the products that they add to.
pub(super) struct BlockAdapters {
    pub(super) query_key_value: Option<PackedAdapter>,
    pub(super) output: Option<PackedAdapter>,
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
        rows.blocks.iter().map(|block| Self::new(block, config)).collect()
    }

    fn new(block: &Block<Option<LowRank<Rows>>>, config: &DecoderConfig) -> Self {
        let (hidden, intermediate) = (config.hidden, config.intermediate);
        let (mixed, key) = (config.heads * config.head_width, config.kv_heads * config.head_width);
        let of = |adapter, outputs, product| Part { adapter: Option::as_ref(adapter), outputs, product };
        let FeedForwardWeights::Gated(GatedWeights { gate, up, down }) = &block.feed_forward;
        Self {
            query_key_value: PackedAdapter::new(
                &[of(&block.query, mixed, 0), of(&block.key, key, 0), of(&block.value, key, 0)],
                hidden,
            ),
            output: PackedAdapter::new(&[of(&block.output, hidden, 0)], mixed),
            gate_up: PackedAdapter::new(&[of(gate, intermediate, 0), of(up, intermediate, 1)], hidden),
            down: PackedAdapter::new(&[of(down, hidden, 0)], intermediate),
        }
    }

    /// Memory of the packed adapters.
    pub(super) fn bytes(&self) -> usize {
        let all = [&self.query_key_value, &self.output, &self.gate_up, &self.down];
        all.into_iter().flatten().map(PackedAdapter::bytes).sum()
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

    fn bytes(&self) -> usize {
        self.first.bytes() + self.seconds.iter().map(PackedMatrix::bytes).sum::<usize>()
    }
}
