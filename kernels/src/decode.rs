//! Decoding on the CPU by hand: packed weights, a cache in blocks, one pass over each weight a step.
//!
//! What a token's logits, keys and values are does not depend on what else is in the batch, on how a context
//! was cut into calls, or on threads, to the last bit: every number is one sum in one order. A run that is
//! resumed fills its caches again and must then draw what it would have drawn.

mod attention;
pub(crate) mod cache;
pub(crate) mod packed;
mod pass;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::decoder::config::DecoderConfig;
use crate::rope::Rope;
use cache::{Blocks, Context};
use packed::PackedDecoder;
use pass::{Part, Pass, Workspace};

/// Tokens that one pass takes through the layers: enough that products are bound by arithmetic, few enough
/// that the activations of a pass stay in cache.
pub(crate) const PASS_TOKENS_MAX: usize = 384;
/// A model whose packed weights are smaller stays in the cores' caches, so that each thread takes some of the
/// contexts through all layers and waits for no other.
const CACHED_BYTES_MAX: usize = 16 << 20;
/// Multiplications below which handing half of them to another thread takes longer than they do.
const SHARED_WORK_MIN: usize = 1 << 20;

/// How long a thread looks for work before it leaves.
const AWAKE_MAX: Duration = Duration::from_micros(200);

/// New tokens of one context.
pub(crate) struct Input<'a> {
    pub(crate) slot: usize,
    pub(crate) tokens: &'a [u32],
}

/// Contexts of one model shape and what is computed with them.
pub(crate) struct CpuSlots {
    contexts: Vec<Context>,
    blocks: Blocks,
    angles: AngleTable,
    workspaces: Vec<Workspace>,
    positions_max: usize,
}

impl CpuSlots {
    pub(crate) fn new(config: &DecoderConfig, slots: usize, positions_max: usize) -> Self {
        Self {
            contexts: (0..slots).map(|_| Context::default()).collect(),
            blocks: Blocks::new(config),
            angles: AngleTable::new(&config.rope, config.head_width),
            workspaces: Vec::new(),
            positions_max,
        }
    }

    pub(crate) fn reserve(&mut self, positions: usize) {
        self.positions_max = self.positions_max.max(positions);
    }

    pub(crate) fn len(&self, slot: usize) -> usize {
        self.contexts[slot].len()
    }

    pub(crate) fn slots(&self) -> usize {
        self.contexts.len()
    }

    pub(crate) fn release(&mut self, slot: usize) {
        self.blocks.take_back(&mut self.contexts[slot]);
    }

    /// Adds the inputs' tokens to their contexts; with `wanted`, returns the logits after each one's last token,
    /// `[inputs, vocabulary]`, and nothing without.
    ///
    /// # Panics
    /// If a slot is named twice, an input has no token, a context becomes longer than `positions_max`, or a token
    /// is outside the vocabulary.
    pub(crate) fn extend(&mut self, model: &PackedDecoder, inputs: &[Input<'_>], wanted: bool) -> Vec<f32> {
        self.extend_shared(model, inputs, (wanted, Sharing::of(model, inputs)))
    }

    fn extend_shared(
        &mut self,
        model: &PackedDecoder,
        inputs: &[Input<'_>],
        (wanted, sharing): (bool, Sharing),
    ) -> Vec<f32> {
        let vocabulary = model.config.vocabulary;
        let mut logits = vec![0.0; if wanted { inputs.len() * vocabulary } else { 0 }];
        let mut rest = logits.chunks_exact_mut(vocabulary);
        let mut parts: Vec<Part<'_>> = Vec::with_capacity(inputs.len());
        for input in inputs {
            parts.push(self.part(model, input, rest.next()));
        }
        match sharing {
            Sharing::Alone => self.run(model, &mut parts, sharing),
            // From outside of the pool every product would wake a thread and wait for it; inside it is handed on.
            Sharing::Contexts => rayon::scope(|_| self.run(model, &mut parts, sharing)),
            Sharing::Columns => {
                let done = AtomicBool::new(false);
                rayon::scope(|scope| {
                    for _ in 1..rayon::current_num_threads() {
                        scope.spawn(|_| stay_awake(&done));
                    }
                    self.run(model, &mut parts, sharing);
                    done.store(true, Ordering::Release);
                });
            }
        }
        for part in parts {
            self.contexts[part.slot] = part.context;
        }
        logits
    }

    /// Takes a context out of its slot with room for the new tokens.
    fn part<'a>(
        &mut self,
        model: &PackedDecoder,
        input: &Input<'a>,
        logits: Option<&'a mut [f32]>,
    ) -> Part<'a> {
        let (slot, vocabulary) = (input.slot, model.config.vocabulary);
        let mut context = std::mem::replace(&mut self.contexts[slot], Context::taken());
        assert!(!context.is_taken(), "slot {slot} is fed twice");
        let end = context.len() + input.tokens.len();
        assert!(
            end <= self.positions_max && !input.tokens.is_empty(),
            "slot {slot} has {} of {} positions and is fed {}",
            context.len(),
            self.positions_max,
            input.tokens.len()
        );
        for token in input.tokens {
            assert!(
                (*token as usize) < vocabulary,
                "token {token} is outside the vocabulary of {vocabulary}"
            );
        }
        self.blocks.make_room(&mut context, end);
        self.angles.reach(end);
        Part { slot, tokens: input.tokens, context, logits }
    }

    fn run(&mut self, model: &PackedDecoder, parts: &mut [Part<'_>], sharing: Sharing) {
        let threads = if sharing == Sharing::Alone { 1 } else { rayon::current_num_threads() };
        self.workspaces.resize_with(self.workspaces.len().max(threads), Workspace::default);
        let pass = |threads| Pass {
            model,
            shape: self.blocks.shape(),
            angles: (&self.angles.cos, &self.angles.sin),
            threads,
        };
        if sharing == Sharing::Contexts {
            let share = parts.len().div_ceil(threads);
            let shares = parts.par_chunks_mut(share).zip(self.workspaces.par_iter_mut());
            shares.for_each(|(parts, workspace)| pass(1).run_all(parts, workspace, PASS_TOKENS_MAX));
        } else {
            pass(threads).run_all(parts, &mut self.workspaces[0], PASS_TOKENS_MAX);
        }
    }
}

/// Takes over work of the pool until there is nothing left to share. Between two products a thread without work
/// would go to sleep, and waking it takes longer than half of a product. A thread that finds nothing for a while
/// leaves, so that nobody waits for long whose work it interrupted.
fn stay_awake(done: &AtomicBool) {
    let mut worked = Instant::now();
    while !done.load(Ordering::Acquire) && worked.elapsed() < AWAKE_MAX {
        match rayon::yield_now() {
            Some(rayon::Yield::Executed) => worked = Instant::now(),
            _ => std::hint::spin_loop(),
        }
    }
}

/// How a call is cut for threads; the results do not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// One thread does everything.
    Alone,
    /// Each thread takes some contexts through all layers.
    Contexts,
    /// Each product is cut by its columns.
    Columns,
}

impl Sharing {
    fn of(model: &PackedDecoder, inputs: &[Input<'_>]) -> Self {
        let tokens: usize = inputs.iter().map(|input| input.tokens.len()).sum();
        let work = tokens * model.numbers();
        if rayon::current_num_threads() == 1 || work < SHARED_WORK_MIN {
            Self::Alone
        } else if inputs.len() > 1 && model.bytes() <= CACHED_BYTES_MAX {
            Self::Contexts
        } else {
            Self::Columns
        }
    }
}

/// Cosines and sines of all positions so far.
struct AngleTable {
    rope: Rope,
    head_width: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl AngleTable {
    fn new(rope: &Rope, head_width: usize) -> Self {
        Self { rope: rope.clone(), head_width, cos: Vec::new(), sin: Vec::new() }
    }

    /// Makes the table reach to `positions`; it at least doubles, so that single steps cost nothing.
    fn reach(&mut self, positions: usize) {
        let before = 2 * self.cos.len() / self.head_width;
        if positions > before {
            let new: Vec<u32> = (before as u32..positions.max(2 * before).max(64) as u32).collect();
            let (cos, sin) = self.rope.table(self.head_width, &new);
            self.cos.extend(cos);
            self.sin.extend(sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};

    use super::packed::PackedDecoder;
    use super::{CpuSlots, Input, Sharing};
    use crate::decoder::config::Family;
    use crate::gemm::Precision;
    use crate::generate::Feed;
    use crate::generate::device::DeviceSlots;
    use crate::{Decoder, DecoderConfig};

    /// Shapes that fill no vector and no panel, with every part that a family can have.
    fn shapes() -> Vec<DecoderConfig> {
        let wide = |family| DecoderConfig { initializer_range: 0.3, ..DecoderConfig::small(family) };
        vec![
            wide(Family::Llama),
            wide(Family::Qwen2),
            wide(Family::Qwen3),
            DecoderConfig { heads: 6, head_width: 18, tied: false, vocabulary: 131, ..wide(Family::Mistral) },
            DecoderConfig { heads: 3, kv_heads: 1, qkv_bias: true, output_bias: true, ..wide(Family::Llama) },
            DecoderConfig { hidden: 72, heads: 2, head_width: 64, intermediate: 200, ..wide(Family::Qwen3) },
        ]
    }

    /// Weights of which none is what a fresh model begins with.
    fn decoder(config: DecoderConfig) -> Decoder {
        let mut decoder = Decoder::random(config, 5, &Device::flex());
        for (number, weight) in decoder.weights.values_mut().into_iter().enumerate() {
            let noise = crate::test_tensors::noise(weight.dims(), number as u64);
            *weight = weight.clone() + noise * 0.1;
        }
        decoder
    }

    fn text(length: usize, vocabulary: usize) -> Vec<u32> {
        (0..length).map(|t| ((t * 7 + t * t) % vocabulary) as u32).collect()
    }

    #[test]
    fn logits_equal_those_of_the_tensor_operations() {
        for config in shapes() {
            let decoder = decoder(config);
            let packed = PackedDecoder::new(&decoder, Precision::F32);
            let text = text(140, decoder.config.vocabulary);
            let mut slots = CpuSlots::new(&decoder.config, 2, 140);
            let mut plain = DeviceSlots::new(&decoder.config, 2, 140, &Device::flex());
            for (slot, range) in [(0, 0..5), (1, 0..100), (0, 5..6), (1, 100..140), (0, 6..80), (0, 80..81)] {
                let tokens = &text[range];
                let found = slots.extend(&packed, &[Input { slot, tokens }], true);
                let expected = plain.step(&decoder, &[Feed { slot, tokens }]);
                for (found, expected) in found.iter().zip(&expected) {
                    let bound = 1e-4 * expected.abs().max(1.0);
                    assert!(
                        (found - expected).abs() < bound,
                        "{:?}: {found}, not {expected}",
                        decoder.config
                    );
                }
            }
        }
    }

    /// Logits after every token of a text that is fed alone, token by token, on one thread.
    fn alone(packed: &PackedDecoder, text: &[u32]) -> Vec<Vec<u32>> {
        let mut slots = CpuSlots::new(&packed.config, 1, text.len());
        let step = |tokens| slots.extend_shared(packed, &[Input { slot: 0, tokens }], (true, Sharing::Alone));
        text.chunks(1).map(step).map(|logits| bits(&logits)).collect()
    }

    fn bits(logits: &[f32]) -> Vec<u32> {
        logits.iter().map(|logit| logit.to_bits()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// A resumed run fills its caches by prefill and must draw what it would have drawn.
        #[test]
        fn logits_do_not_depend_on_neighbours_cuts_or_threads(
            shape in 0_usize..6,
            threads in 1_usize..4,
            columns in proptest::bool::ANY,
            precision in proptest::sample::select(&[Precision::F32, Precision::Bf16, Precision::I8][..]),
            cuts in proptest::collection::vec((0_usize..3, 1_usize..90), 1..9),
        ) {
            let decoder = decoder(shapes().swap_remove(shape));
            let packed = PackedDecoder::new(&decoder, precision);
            let vocabulary = decoder.config.vocabulary;
            let texts: Vec<Vec<u32>> =
                (0..3).map(|slot| text(200 + slot, vocabulary)[slot..].to_vec()).collect();
            let expected: Vec<_> = texts.iter().map(|text| alone(&packed, text)).collect();
            let sharing = if columns { Sharing::Columns } else { Sharing::Contexts };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut slots = CpuSlots::new(&decoder.config, 3, 200);
            let mut fed = [0; 3];
            // Each cut goes with one token for every other slot.
            for (first, tokens) in cuts {
                let ends: Vec<(usize, usize)> = [first, (first + 1) % 3, (first + 2) % 3]
                    .into_iter()
                    .enumerate()
                    .map(|(place, slot)| (slot, (fed[slot] + if place == 0 { tokens } else { 1 }).min(200)))
                    .filter(|(slot, end)| *end > fed[*slot])
                    .collect();
                let inputs: Vec<Input<'_>> =
                    ends.iter().map(|&(slot, end)| Input { slot, tokens: &texts[slot][fed[slot]..end] }).collect();
                let logits = pool.install(|| slots.extend_shared(&packed, &inputs, (true, sharing)));
                for (&(slot, end), logits) in ends.iter().zip(logits.chunks(vocabulary)) {
                    prop_assert_eq!(&bits(logits), &expected[slot][end - 1], "slot {} at {}", slot, end);
                    fed[slot] = end;
                }
            }
        }
    }

    #[test]
    fn what_an_earlier_context_left_in_a_block_is_not_seen() {
        let decoder = decoder(DecoderConfig::small(Family::Llama));
        let packed = PackedDecoder::new(&decoder, Precision::F32);
        let text = text(70, decoder.config.vocabulary);
        let mut slots = CpuSlots::new(&decoder.config, 1, 70);
        slots.extend(&packed, &[Input { slot: 0, tokens: &text }], false);
        slots.release(0);
        assert_eq!(slots.len(0), 0);
        let again = slots.extend(&packed, &[Input { slot: 0, tokens: &text[3..9] }], true);
        assert_eq!(bits(&again), alone(&packed, &text[3..9])[5]);
    }
}
