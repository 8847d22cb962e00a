//! A model's weights as the products of decoding read them.

use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;

use crate::Decoder;
use crate::decoder::config::DecoderConfig;
use crate::flex::Rows;
use crate::gemm::{Packed, Precision};
use crate::weights::Block;

/// The weights of one policy version, packed once for all its steps.
pub(crate) struct PackedDecoder {
    pub(super) config: DecoderConfig,
    pub(super) embedding: Rows,
    pub(super) blocks: Vec<PackedBlock>,
    pub(super) final_norm: Rows,
    pub(super) head: Packed,
    bytes: usize,
    numbers: usize,
    number: u64,
}

/// Counts the weights that were packed in this process, so that no two have the same number.
static PACKED: AtomicU64 = AtomicU64::new(1);

/// One transformer block.
pub(super) struct PackedBlock {
    pub(super) input_norm: Rows,
    /// Query, key and value projections side by side.
    pub(super) query_key_value: Packed,
    /// The biases of the same columns.
    pub(super) bias: Option<Vec<f32>>,
    pub(super) query_norm: Option<Rows>,
    pub(super) key_norm: Option<Rows>,
    pub(super) output: Packed,
    pub(super) output_bias: Option<Rows>,
    pub(super) post_norm: Rows,
    pub(super) gate: Packed,
    pub(super) up: Packed,
    pub(super) down: Packed,
}

impl PackedDecoder {
    /// Packs the weights of a decoder on the CPU. The precision is that of the matrices; the embedding's rows, norms
    /// and biases stay in f32.
    pub(crate) fn new(decoder: &Decoder, precision: Precision) -> Self {
        let config = decoder.config.clone();
        let weights = decoder.weights.map(|_, weight| Rows::of_tensor(weight));
        let blocks: Vec<PackedBlock> =
            weights.blocks.into_par_iter().map(|block| PackedBlock::new(block, &config, precision)).collect();
        let head = weights.head.as_ref().unwrap_or(&weights.embedding);
        let head = Packed::of_weights(&[head.slice()], config.hidden, precision);
        let packed = blocks.iter().flat_map(PackedBlock::factors).chain([&head]);
        let (bytes, numbers) =
            packed.fold((0, 0), |sums, each| (sums.0 + each.bytes(), sums.1 + each.numbers()));
        Self {
            config,
            embedding: weights.embedding,
            blocks,
            final_norm: weights.final_norm,
            head,
            bytes,
            numbers,
            number: PACKED.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Tells these weights from all others, so that what they computed is not taken for what others would.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Multiplications that a token takes, but for attention.
    pub(crate) fn numbers(&self) -> usize {
        self.numbers
    }

    /// Memory of the packed weights.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl PackedBlock {
    fn new(block: Block<Rows>, config: &DecoderConfig, precision: Precision) -> Self {
        let (hidden, query_width) = (config.hidden, config.heads * config.head_width);
        let bias = match (&block.query_bias, &block.key_bias, &block.value_bias) {
            (Some(query), Some(key), Some(value)) => {
                Some([query.slice(), key.slice(), value.slice()].concat())
            }
            _ => None,
        };
        let projections = [block.query.slice(), block.key.slice(), block.value.slice()];
        let packed = |weight: &Rows, inner| Packed::of_weights(&[weight.slice()], inner, precision);
        Self {
            query_key_value: Packed::of_weights(&projections, hidden, precision),
            bias,
            output: packed(&block.output, query_width),
            gate: packed(&block.gate, hidden),
            up: packed(&block.up, hidden),
            down: packed(&block.down, config.intermediate),
            input_norm: block.input_norm,
            query_norm: block.query_norm,
            key_norm: block.key_norm,
            output_bias: block.output_bias,
            post_norm: block.post_norm,
        }
    }

    fn factors(&self) -> [&Packed; 5] {
        [&self.query_key_value, &self.output, &self.gate, &self.up, &self.down]
    }
}
