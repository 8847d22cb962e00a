//! What a training step will hold in memory, from shapes alone.

use rayon::current_num_threads;

use super::{ChunkPlan, GradientPath, LayerInputs};
use crate::attention::mix_backward_numbers;
use crate::model::config::DecoderConfig;
use crate::model::spec::{ExpertsSpec, NormSpec};
use crate::model::weights::Block;

/// Bytes of the parts of one step by StreamBP on the CPU, in f32. All are held at the same time: a micro-batch leaves
/// its buffers to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The parameters.
    pub weights: u64,
    /// One gradient a parameter.
    pub gradients: u64,
    /// The inputs of the layers as far as they are in memory, and the last layer's output, which becomes its own
    /// gradient.
    pub layer_inputs: u64,
    /// Attention's results that are kept for the backward pass.
    pub attention_kept: u64,
    /// The other activations that are kept.
    pub activations_kept: u64,
    /// Keys and values of one layer with their gradients.
    pub keys_values: u64,
    /// Ids, angles, statistics and coefficients of all tokens.
    pub tokens: u64,
    /// One chunk's activations and gradients in a layer, what attention's backward pass sums up, and the layer's
    /// weights packed for products.
    pub layer_chunk: u64,
    /// One chunk's rows, and the logits of one slab of the vocabulary, in the head.
    pub head_chunk: u64,
}

impl MemoryPlan {
    /// For one micro-batch of this many tokens; `None` for the paths on a tape, which are not planned.
    pub fn new(config: &DecoderConfig, plan: &ChunkPlan, tokens: usize) -> Option<Self> {
        if plan.path != GradientPath::StreamBp {
            return None;
        }
        let bytes = |numbers: usize| 4 * numbers as u64;
        let shapes = config.shapes();
        let parameters = config.parameters();
        let numbers = |block: &Block<[usize; 2]>| {
            let mut count = 0;
            block.for_each(&mut |_, [rows, columns]| count += rows * columns);
            count
        };
        let block = shapes.blocks.iter().map(numbers).max().unwrap_or(0);
        let (hidden, intermediate) = (config.hidden, config.feed_forward_width());
        let (query, key) = (config.heads * config.head_width, config.kv_heads * config.head_width);
        let chunk = plan.layer_chunk_tokens.min(tokens);
        // In the order of the buffers of a layer: rows of the hidden width, queries, keys, the feed-forward part,
        // and the packed inputs of the weights' gradients.
        let spec = &config.spec.block;
        let raw = usize::from(spec.query_key_norm.is_some());
        let norms = [spec.attention_output_norm, spec.feed_forward_output_norm];
        let is_behind = |norm: &Option<NormSpec>| norm.is_some() || spec.residual_scale.is_some();
        let behind_norms = norms.iter().filter(|norm| is_behind(norm)).count();
        let packed = 2 * hidden + query + intermediate;
        // By expert there are normed rows, results and their gradients, and of the router probabilities and gradients.
        let by_expert = |own: &ExpertsSpec| 3 * own.chosen * hidden + 2 * own.count;
        let routed = config.spec.experts.as_ref().map_or(0, by_expert);
        let row =
            (5 + behind_norms) * hidden + (4 + raw) * query + 3 * key + 4 * intermediate + packed + routed;
        let mixing = mix_backward_numbers(
            &[chunk, config.heads, config.head_width],
            &[config.kv_heads, tokens, config.head_width],
        );
        let head_rows = plan.head_chunk_tokens.min(tokens);
        let slab = super::cpu::head::SLAB.min(config.vocabulary);
        Some(Self {
            weights: bytes(parameters),
            gradients: bytes(parameters),
            layer_inputs: layer_inputs(plan, config.layers as u64, (tokens * hidden) as u64),
            attention_kept: bytes(
                plan.layers_kept(config, tokens) * tokens * config.heads * (config.head_width + 1),
            ),
            activations_kept: bytes(
                plan.whole_layers_kept(config, tokens) * tokens * super::activations(config),
            ),
            keys_values: bytes(4 * tokens * key),
            // Positions take as much as two of these numbers.
            tokens: bytes(tokens * (config.spec.ropes().len() * config.head_width + 8)),
            layer_chunk: bytes(chunk * row + 2 * block + mixing),
            head_chunk: bytes(head_rows * (4 * hidden + slab) + slab * hidden),
        })
    }

    /// What of weights that are packed is in f32 at a time beside the above: the largest projection of a layer on its way
    /// into both directions, or an expert's on each thread, and a slab of the head.
    #[must_use]
    pub fn unpacked(config: &DecoderConfig) -> u64 {
        let mut largest = 0;
        for block in &config.shapes().blocks {
            block.for_each(&mut |_, [rows, columns]| largest = largest.max(rows * columns));
        }
        let at_once = if config.spec.experts.is_some() { current_num_threads().max(2) } else { 2 };
        let slab = super::cpu::head::SLAB.min(config.vocabulary);
        4 * (at_once * largest + slab * config.hidden) as u64
    }

    /// The most that a step holds at one time beside the weights and the optimizer's moments.
    pub fn step(&self) -> u64 {
        // The head finds the layers' buffers of the pass before still there.
        let kept = self.layer_inputs + self.attention_kept + self.activations_kept;
        let kept = kept + self.keys_values + self.tokens;
        self.gradients + kept + self.layer_chunk + self.head_chunk
    }
}

/// Bytes of the inputs of so many layers, of so many numbers each, when the most is held: the rows on their way,
/// the inputs kept (the first layer's is looked up again), and where they are not kept as they are the one in use.
fn layer_inputs(plan: &ChunkPlan, layers: u64, numbers: u64) -> u64 {
    let kept = layers.saturating_sub(1);
    match plan.layer_inputs {
        LayerInputs::Memory => 4 * numbers * (1 + kept.max(1)),
        // At the head all wait; in the last layer one of them has been widened.
        LayerInputs::Bf16 => 2 * numbers * (kept + 2).max(kept.saturating_sub(1) + 4),
        LayerInputs::File(_) => 8 * numbers,
    }
}

#[cfg(test)]
mod tests {
    use super::MemoryPlan;
    use crate::model::families;
    use crate::{ChunkPlan, DecoderConfig, GradientPath, LayerInputs};

    /// By hand: hidden 24, 4 query and 2 key heads of width 8, feed-forward 40, vocabulary 31, 2 layers.
    #[test]
    fn the_parts_are_those_of_the_shapes() {
        let config = DecoderConfig::small(&families::llama::LLAMA);
        // One layer's results of attention fit.
        let attention_kept_bytes = 4 * 100 * 4 * 9 + 1000;
        let plan = |path| ChunkPlan {
            path,
            layer_chunk_tokens: 10,
            head_chunk_tokens: 5,
            attention_kept_bytes,
            // Both layers would fit, but only one of them keeps its results of attention.
            activations_kept_bytes: 2 * 4 * 100 * 168,
            layer_inputs: LayerInputs::Memory,
            temperature: 1.0,
        };
        let memory = MemoryPlan::new(&config, &plan(GradientPath::StreamBp), 100).unwrap();
        let block: u64 = 2 * 24 + 32 * 24 + 2 * (16 * 24) + 24 * 32 + 3 * (24 * 40);
        assert_eq!(memory.weights, 4 * (31 * 24 + 24 + 2 * block));
        assert_eq!(memory.gradients, memory.weights);
        assert_eq!(memory.layer_inputs, 4 * 2 * 100 * 24);
        assert_eq!(memory.keys_values, 4 * 4 * 100 * 16);
        // One segment a key head: the sums of 10 queries, and two of keys and two copies, which are padded to 16.
        let mixing = 2 * (10 * 2 * 8 + 2 * 100 * (8 + 16));
        let chunk = 10 * (7 * 24 + 5 * 32 + 3 * 16 + 5 * 40);
        assert_eq!(memory.layer_chunk, 4 * (chunk + 2 * block as usize + mixing) as u64);
        assert_eq!(memory.head_chunk, 4 * (5 * (4 * 24 + 31) + 31 * 24));
        assert_eq!(memory.attention_kept, 4 * 100 * 4 * 9);
        assert_eq!(memory.activations_kept, 4 * 100 * (2 * 16 + 32 + 24 + 2 * 40));
        assert_eq!(memory.tokens, 4 * 100 * 16);
        let kept = memory.attention_kept + memory.activations_kept;
        let parts = memory.layer_inputs + kept + memory.keys_values + memory.tokens;
        assert_eq!(memory.step(), memory.gradients + parts + memory.layer_chunk + memory.head_chunk);
        assert_eq!(MemoryPlan::new(&config, &plan(GradientPath::Unchunked), 100), None);
    }

    /// By hand, for three numbers a layer input: the rows on their way and what waits.
    #[test]
    fn layer_inputs_elsewhere_take_less() {
        let bytes = |place, layers| {
            let plan = ChunkPlan {
                path: GradientPath::StreamBp,
                layer_chunk_tokens: 1,
                head_chunk_tokens: 1,
                attention_kept_bytes: 0,
                activations_kept_bytes: 0,
                layer_inputs: place,
                temperature: 1.0,
            };
            super::layer_inputs(&plan, layers, 3)
        };
        let file = || LayerInputs::File("anywhere".into());
        assert_eq!([1, 2, 30].map(|layers| bytes(LayerInputs::Memory, layers)), [2 * 12, 2 * 12, 30 * 12]);
        // 29 wait at the head beside the rows; 28 and a wide one in the last layer.
        assert_eq!(bytes(LayerInputs::Bf16, 30), 28 * 6 + 2 * 12);
        assert_eq!([1, 30].map(|layers| bytes(file(), layers)), [2 * 12, 2 * 12]);
    }
}
