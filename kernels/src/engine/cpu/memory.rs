//! What cached decoding will hold in memory, from shapes alone.

use rayon::current_num_threads;

use super::decode::cache::{BLOCK_POSITIONS, CachePrecision, Shape};
use super::decode::{CACHED_BYTES_MAX, PASS_TOKENS_MAX};
use crate::gemm::Precision;
use crate::model::config::DecoderConfig;
use crate::model::spec::ExpertsSpec;
use crate::model::weights::{FeedForwardWeights, GatedWeights};

/// Bytes of slots and prepared weights on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeMemory {
    /// Keys and values of all slots, each as long as it can get. Blocks that no context has reached are not there.
    pub cache: u64,
    /// One version's weights in f32, in the form that products take.
    pub packed: u64,
    /// The activations of a pass, on each thread where the model is small, and the logits of a step.
    pub pass: u64,
}

impl DecodeMemory {
    /// Bytes of a block of the KV cache.
    #[must_use]
    pub fn cache_block(config: &DecoderConfig, precision: CachePrecision) -> u64 {
        4 * Shape::new(config, precision).block_words() as u64
    }

    /// For so many slots of contexts of at most `positions_max` tokens, cached in f32.
    #[must_use]
    pub fn new(config: &DecoderConfig, slots: usize, positions_max: usize) -> Self {
        let bytes = |numbers: usize| 4 * numbers as u64;
        let (hidden, intermediate) = (config.hidden, config.feed_forward_width());
        let (query, key) = (config.heads * config.head_width, config.kv_heads * config.head_width);
        let projected = query + 2 * key;
        // The stream and its norm, queries with keys and values, their mix, and the feed-forward part, whose
        // results also lie there by blocks of columns.
        let row = 2 * hidden + projected + query + 2 * intermediate + intermediate.max(projected).max(hidden);
        // Normed rows by expert, whose results also lie by pieces, and the router's products twice.
        let by_expert = |own: &ExpertsSpec| 2 * own.chosen * hidden + 2 * own.count;
        let row = row + config.spec.experts.as_ref().map_or(0, by_expert);
        let packed = bytes(PackedSizes::of(config).numbers);
        // Where a pass is cut by columns, all threads work on one pass's rows.
        let threads = if packed > CACHED_BYTES_MAX as u64 { 1 } else { current_num_threads() };
        let passes = threads * PASS_TOKENS_MAX.min(slots * positions_max) * row;
        Self {
            cache: (slots * positions_max.div_ceil(BLOCK_POSITIONS)) as u64
                * Self::cache_block(config, CachePrecision::F32),
            packed,
            pass: bytes(passes + 2 * slots * config.vocabulary),
        }
    }

    /// One version's weights at a precision.
    #[must_use]
    pub fn packed_at(config: &DecoderConfig, precision: Precision) -> u64 {
        let PackedSizes { numbers, routers, outputs } = PackedSizes::of(config);
        // Routers stay in f32, and in 8 bits each output of another matrix has a scale.
        let [rounded, routers, scales] =
            [numbers - routers, routers, outputs].map(|numbers| 4 * numbers as u64);
        match precision {
            Precision::F32 => rounded + routers,
            Precision::Bf16 => rounded / 2 + routers,
            Precision::I8 => rounded / 4 + scales + routers,
        }
    }
}

/// What is packed of a decoder.
struct PackedSizes {
    /// Numbers of all matrices.
    numbers: usize,
    /// Of these, those of routers.
    routers: usize,
    /// Outputs of all other matrices.
    outputs: usize,
}

impl PackedSizes {
    fn of(config: &DecoderConfig) -> Self {
        let matrix = |[outputs, inner]: [usize; 2]| Self { numbers: outputs * inner, routers: 0, outputs };
        let head = matrix([config.vocabulary, config.hidden]);
        let shapes = config.shapes();
        let gated = |own: &GatedWeights<[usize; 2]>| [own.gate, own.up, own.down];
        let matrices = shapes.blocks.iter().flat_map(|block| {
            let mut matrices = vec![block.query, block.key, block.value, block.output];
            match &block.feed_forward {
                FeedForwardWeights::Gated(own) => matrices.extend(gated(own)),
                FeedForwardWeights::Experts(own) => matrices.extend(own.experts.iter().flat_map(gated)),
            }
            matrices
        });
        let routers = shapes.blocks.iter().filter_map(|block| match &block.feed_forward {
            FeedForwardWeights::Gated(_) => None,
            FeedForwardWeights::Experts(own) => Some(own.router[0] * own.router[1]),
        });
        let routers = routers.map(|numbers| Self { numbers, routers: numbers, outputs: 0 });
        matrices.map(matrix).chain(routers).fold(head, |sum, own| Self {
            numbers: sum.numbers + own.numbers,
            routers: sum.routers + own.routers,
            outputs: sum.outputs + own.outputs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{CachePrecision, DecodeMemory};
    use crate::DecoderConfig;
    use crate::gemm::Precision;
    use crate::model::families;

    /// By hand: hidden 24, 4 query and 2 key heads of width 8, feed-forward 40, vocabulary 31, 2 layers.
    #[test]
    fn the_parts_are_those_of_the_shapes() {
        let config = DecoderConfig::small(&families::llama::LLAMA);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let of = |slots, positions| pool.install(|| DecodeMemory::new(&config, slots, positions));
        let memory = of(5, 70);
        // Two blocks a slot; values are filled up to the width of a vector of words.
        assert_eq!(memory.cache, 4 * 5 * 2 * (64 * 2 * 2 * (8 + 16)));
        assert_eq!(DecodeMemory::cache_block(&config, CachePrecision::Bf16), 2 * (64 * 2 * 2 * (8 + 32)));
        assert_eq!(memory.packed, 4 * (2 * (32 * 24 + 2 * (16 * 24) + 24 * 32 + 3 * (24 * 40)) + 31 * 24));
        assert_eq!(DecodeMemory::packed_at(&config, Precision::F32), memory.packed);
        assert_eq!(DecodeMemory::packed_at(&config, Precision::Bf16), memory.packed / 2);
        let scales = 4 * (2 * (32 + 2 * 16 + 24 + 2 * 40 + 24) + 31);
        assert_eq!(DecodeMemory::packed_at(&config, Precision::I8), memory.packed / 4 + scales);
        let row = 2 * 24 + 64 + 32 + 2 * 40 + 64;
        assert_eq!(memory.pass, 4 * (3 * 350 * row + 2 * 5 * 31));
        // Longer contexts go through in passes of a bounded size.
        assert_eq!(of(5, 4000).pass, 4 * (3 * 384 * row + 2 * 5 * 31));
    }
}
