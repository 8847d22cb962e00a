//! Batched decoding with a cache: contexts of different lengths in slots, one pass over the weights a step.
//!
//! On the CPU the engine of `kernels/src/decode.rs` computes, on other devices burn's operations do.

use std::fmt;
use std::path::Path;

use burn::tensor::Device;

use crate::decode::cache::CachePrecision;
use crate::decode::packed::PackedDecoder;
use crate::decode::{CpuSlots, Input, Prefilled};
use crate::gemm::Precision;
use crate::model::config::DecoderConfig;
use crate::model::{Decoder, files};
use crate::{KernelError, flex};

pub(crate) mod device;
mod kv_cache;
mod memory;

pub use memory::{CACHE_BLOCK_TOKENS, DecodeMemory};

use device::DeviceSlots;

/// New tokens for the end of a slot's context.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// The slot.
    pub slot: usize,
    /// At least one token.
    pub tokens: &'a [u32],
}

/// A decoder's weights as decoding reads them: packed on the CPU, and as they are on other devices. Made once for a
/// policy version and shared by all that decode with it. What is packed needs the decoder no more.
pub struct DecodeWeights(Form);

impl fmt::Debug for DecodeWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecodeWeights").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

enum Form {
    Packed(Box<PackedDecoder>),
    Device(Box<Decoder>),
}

impl DecodeWeights {
    /// Packs the weights as they are.
    pub fn new(decoder: &Decoder) -> Self {
        Self::unchecked(decoder, Precision::F32)
    }

    /// Packs the weights rounded to a precision. Less than f32 takes less memory and time a step, and makes what
    /// decoding draws from another distribution than the one that training computes.
    ///
    /// # Errors
    /// If the decoder lies on a device other than the CPU and the precision is not f32.
    pub fn rounded(decoder: &Decoder, precision: Precision) -> Result<Self, KernelError> {
        Self::check(decoder, precision)?;
        Ok(Self::unchecked(decoder, precision))
    }

    /// Whether [`DecodeWeights::rounded`] can be made of this decoder.
    ///
    /// # Errors
    /// As there.
    pub fn check(decoder: &Decoder, precision: Precision) -> Result<(), KernelError> {
        if precision != Precision::F32 && !flex::is_cpu(&decoder.device()) {
            let message = format!("decoding in {precision:?} is computed on the CPU only");
            return Err(KernelError::Input(message));
        }
        Ok(())
    }

    fn unchecked(decoder: &Decoder, precision: Precision) -> Self {
        if flex::is_cpu(&decoder.device()) {
            Self(Form::Packed(Box::new(PackedDecoder::new(decoder, precision))))
        } else {
            let weights = decoder.effective_weights().into_owned();
            let config = decoder.config.clone();
            Self(Form::Device(Box::new(Decoder { config, weights, adapters: None })))
        }
    }

    /// The model's shape.
    pub fn config(&self) -> &DecoderConfig {
        match &self.0 {
            Form::Packed(packed) => packed.config(),
            Form::Device(decoder) => &decoder.config,
        }
    }

    /// Writes a Hugging Face directory with the weights in f32, as they are rounded: read and made ready at the same
    /// precision again, they are the same to the bit. One parameter at a time is unpacked.
    ///
    /// # Errors
    /// As [`Decoder::save`].
    pub fn save(&self, dir: &Path) -> Result<(), KernelError> {
        match &self.0 {
            Form::Packed(packed) => {
                files::save_numbers(dir, packed.config(), &packed.weights(), |value| value.numbers())
            }
            Form::Device(decoder) => decoder.save(dir),
        }
    }

    /// Memory that the weights take beside the decoder's own, in bytes.
    pub fn bytes(&self) -> usize {
        match &self.0 {
            Form::Packed(packed) => packed.bytes(),
            Form::Device(_) => 0,
        }
    }
}

/// Slots of cached contexts of one model shape.
///
/// The caller chooses the weights at every call, so a context may go on under newer ones with the keys and
/// values that older ones computed, or be filled again from its tokens.
///
/// On the CPU a token's logits do not depend, to the last bit, on the other feeds of a call, on its slot, on
/// how its context was cut into calls, or on the number of threads.
pub struct DecodeSlots(Engine);

enum Engine {
    Cpu(Box<CpuSlots>),
    Device(DeviceSlots),
}

impl DecodeSlots {
    /// Slots for contexts of at most `positions_max` tokens each. On the CPU memory follows the tokens that the
    /// slots hold, on other devices it is taken at once.
    pub fn new(config: &DecoderConfig, slots: usize, positions_max: usize, device: &Device) -> Self {
        if flex::is_cpu(device) {
            let slots = CpuSlots::new(config, slots, positions_max, CachePrecision::F32);
            return Self(Engine::Cpu(Box::new(slots)));
        }
        Self(Engine::Device(DeviceSlots::new(config, slots, positions_max, device)))
    }

    /// [`DecodeSlots::new`] with keys and values rounded to a precision. Bf16 takes half of the memory; logits are off
    /// by the roundings and still do not depend, to the last bit, on what else is decoded.
    ///
    /// # Errors
    /// If the device is not the CPU and the precision is not f32.
    pub fn rounded(
        config: &DecoderConfig,
        slots: usize,
        positions_max: usize,
        precision: CachePrecision,
        device: &Device,
    ) -> Result<Self, KernelError> {
        if flex::is_cpu(device) {
            return Ok(Self(Engine::Cpu(Box::new(CpuSlots::new(config, slots, positions_max, precision)))));
        }
        match precision {
            CachePrecision::F32 => Ok(Self::new(config, slots, positions_max, device)),
            CachePrecision::Bf16 => {
                Err(KernelError::Input("keys and values are rounded on the CPU only".to_owned()))
            }
        }
    }

    /// Tokens of a block of the cache: a context takes whole blocks.
    pub fn block_tokens(&self) -> usize {
        match &self.0 {
            Engine::Cpu(_) => CACHE_BLOCK_TOKENS,
            Engine::Device(_) => 1,
        }
    }

    /// Tokens that [`DecodeSlots::prefill`] has filled slots with so far.
    pub fn prefilled(&self) -> Prefilled {
        match &self.0 {
            Engine::Cpu(slots) => slots.prefilled(),
            Engine::Device(slots) => slots.prefilled(),
        }
    }

    /// Allows contexts of this many tokens.
    pub fn reserve(&mut self, positions: usize) {
        match &mut self.0 {
            Engine::Cpu(slots) => slots.reserve(positions),
            Engine::Device(slots) => slots.reserve(positions),
        }
    }

    /// Tokens in a slot's cache.
    pub fn len(&self, slot: usize) -> usize {
        match &self.0 {
            Engine::Cpu(slots) => slots.len(slot),
            Engine::Device(slots) => slots.len(slot),
        }
    }

    /// Whether no slot holds a context.
    pub fn is_empty(&self) -> bool {
        match &self.0 {
            Engine::Cpu(slots) => (0..slots.slots()).all(|slot| slots.len(slot) == 0),
            Engine::Device(slots) => (0..slots.slots()).all(|slot| slots.len(slot) == 0),
        }
    }

    /// Forgets a slot's context.
    pub fn release(&mut self, slot: usize) {
        match &mut self.0 {
            Engine::Cpu(slots) => slots.release(slot),
            Engine::Device(slots) => slots.release(slot),
        }
    }

    /// Forgets what the slots held and fills them with these contexts, without logits.
    ///
    /// Contexts go through the layers in passes of a bounded number of tokens, longer ones in parts. A context
    /// without tokens leaves its slot empty. On the CPU a context takes over what another one has of its beginning
    /// under the same weights: full blocks of any slot, and every token of one that is filled in the same call.
    ///
    /// # Panics
    /// If a context is longer than `positions_max`, a token is outside the vocabulary, or the weights lie on
    /// another device than the slots.
    pub fn prefill(&mut self, weights: &DecodeWeights, contexts: &[Feed<'_>]) {
        match (&mut self.0, &weights.0) {
            (Engine::Cpu(slots), Form::Packed(packed)) => {
                contexts.iter().for_each(|context| slots.release(context.slot));
                slots.prefill(packed, &inputs(contexts));
            }
            (Engine::Device(slots), Form::Device(decoder)) => slots.prefill(decoder, contexts),
            _ => panic!("weights and slots lie on one device"),
        }
    }

    /// Adds each feed's tokens to its slot and returns the logits after its last token.
    ///
    /// # Shapes
    /// The result is row-major `[feeds, vocabulary]`, read back from the device.
    ///
    /// # Panics
    /// As [`DecodeSlots::prefill`]; or if a slot is fed twice in one call, or no tokens.
    pub fn step(&mut self, weights: &DecodeWeights, feeds: &[Feed<'_>]) -> Vec<f32> {
        match (&mut self.0, &weights.0) {
            (Engine::Cpu(slots), Form::Packed(packed)) => {
                assert!(feeds.iter().all(|feed| !feed.tokens.is_empty()), "a feed has tokens");
                slots.extend(packed, &inputs(feeds), true)
            }
            (Engine::Device(slots), Form::Device(decoder)) => slots.step(decoder, feeds),
            _ => panic!("weights and slots lie on one device"),
        }
    }
}

/// The feeds that have tokens.
fn inputs<'a>(feeds: &[Feed<'a>]) -> Vec<Input<'a>> {
    let fed = feeds.iter().filter(|feed| !feed.tokens.is_empty());
    fed.map(|feed| Input { slot: feed.slot, tokens: feed.tokens }).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::{DecodeSlots, DecodeWeights, Feed};
    use crate::gemm::Precision;
    use crate::model::families;
    use crate::sampling::logprob_and_entropy;
    use crate::test_tensors::gemma_with_a_window;
    use crate::test_tensors::numbers as values;
    use crate::{ChunkPlan, Decoder, DecoderConfig, GradientPath, LayerInputs, Packed, token_stats};

    fn training_logprobs(decoder: &Decoder, text: &[u32]) -> Vec<f32> {
        let plan = ChunkPlan {
            path: GradientPath::StreamBp,
            layer_chunk_tokens: 16,
            head_chunk_tokens: 9,
            attention_kept_bytes: 0,
            activations_kept_bytes: 0,
            layer_inputs: LayerInputs::Memory,
            temperature: 1.0,
        };
        token_stats(decoder, &Packed::new([text]), &plan).logprobs
    }

    /// Mean and largest error of the log-probabilities of cached decode at a precision.
    fn errors(decoder: &Decoder, precision: Precision) -> (f32, f32) {
        let vocabulary = decoder.config.vocabulary;
        let text: Vec<u32> = (0..90).map(|t| (t * 7 + t * t) % vocabulary as u32).collect();
        let expected = training_logprobs(decoder, &text);
        let weights = DecodeWeights::rounded(decoder, precision).unwrap();
        let mut slots = DecodeSlots::new(&decoder.config, 1, text.len(), &Device::flex());
        let (mut sum, mut largest) = (0.0_f32, 0.0_f32);
        for (at, pair) in text.windows(2).enumerate() {
            let logits = slots.step(&weights, &[Feed { slot: 0, tokens: &pair[..1] }]);
            let error = (logprob_and_entropy(&logits, 1.0, pair[1]).0 - expected[at]).abs();
            (sum, largest) = (sum + error, largest.max(error));
        }
        (sum / (text.len() - 1) as f32, largest)
    }

    /// What a run with `rollout.precision` has to expect, for distributions that are far from flat: in f32
    /// the arithmetic alone, in bf16 and i8 the rounding of every matrix.
    #[test]
    fn rounded_weights_move_logprobs_within_stated_bounds() {
        let wide = |family| DecoderConfig { initializer_range: 0.3, ..DecoderConfig::small(family) };
        let shapes = [
            wide(&families::llama::LLAMA),
            wide(&families::qwen::QWEN2),
            wide(&families::qwen::QWEN3),
            DecoderConfig {
                heads: 6,
                head_width: 18,
                tied: false,
                vocabulary: 131,
                ..wide(&families::llama::MISTRAL)
            },
            DecoderConfig {
                hidden: 72,
                heads: 2,
                head_width: 64,
                intermediate: 200,
                ..wide(&families::qwen::QWEN3)
            },
            DecoderConfig { layers: 3, head_width: 18, ..wide(&families::gemma::GEMMA3) },
            gemma_with_a_window(70),
            // The quickstart's form, whose weights are as large as there.
            DecoderConfig {
                hidden: 128,
                layers: 4,
                heads: 4,
                kv_heads: 4,
                head_width: 32,
                intermediate: 512,
                initializer_range: 0.1,
                ..DecoderConfig::small(&families::llama::LLAMA)
            },
        ];
        let bounds = [(Precision::F32, 1e-5, 1e-4), (Precision::Bf16, 0.04, 0.2), (Precision::I8, 0.15, 1.0)];
        for (precision, mean_max, largest_max) in bounds {
            let found = shapes.clone().map(|config| {
                let decoder = Decoder::random(config, 3, &Device::flex());
                errors(&decoder, precision)
            });
            let is_within = |(mean, largest): &(f32, f32)| *mean < mean_max && *largest < largest_max;
            assert!(found.iter().all(is_within), "{precision:?}: {found:?}");
            let rounds = found.iter().all(|(mean, _)| *mean > 1e-5);
            assert_eq!(rounds, precision != Precision::F32, "{precision:?}: {found:?}");
        }
    }

    /// What a resumed run reads: the same numbers as before in f32, the same rounded ones in less.
    #[test]
    fn packed_weights_are_written_as_they_are_rounded() {
        let shapes = [
            DecoderConfig::small(&families::qwen::QWEN2),
            DecoderConfig {
                tied: false,
                heads: 3,
                kv_heads: 1,
                ..DecoderConfig::small(&families::qwen::QWEN3)
            },
            DecoderConfig::small(&families::llama::LLAMA).with_biases(true, true),
        ];
        for (config, precision) in shapes
            .iter()
            .flat_map(|config| [Precision::F32, Precision::Bf16, Precision::I8].map(|to| (config, to)))
        {
            let decoder = Decoder::random(config.clone(), 3, &Device::flex());
            let weights = DecodeWeights::rounded(&decoder, precision).unwrap();
            let dir = tempfile::tempdir().unwrap();
            weights.save(dir.path()).unwrap();
            let read = Decoder::load(dir.path(), &Device::flex()).unwrap();
            let numbers = |decoder: &Decoder| -> Vec<Vec<f32>> {
                decoder.weights.named().into_iter().map(|(_, value)| values(value.clone())).collect()
            };
            assert_eq!(numbers(&read) == numbers(&decoder), precision == Precision::F32, "{precision:?}");
            let again = DecodeWeights::rounded(&read, precision).unwrap();
            let logits = [&weights, &again].map(|weights| {
                let mut slots = DecodeSlots::new(config, 1, 64, &Device::flex());
                slots.step(weights, &[Feed { slot: 0, tokens: &[3, 1, 4, 1, 5] }])
            });
            assert_eq!(logits[0], logits[1], "{precision:?}");
        }
    }

    /// Guards invariant 3: cached decode and the training forward give equal log-probs.
    #[test]
    fn cached_decode_equals_the_training_forward() {
        for family in [
            &families::llama::LLAMA,
            &families::qwen::QWEN2,
            &families::qwen::QWEN3,
            &families::gemma::GEMMA3,
        ] {
            let config = DecoderConfig { initializer_range: 0.3, ..DecoderConfig::small(family) };
            let decoder = Decoder::random(config, 3, &Device::flex());
            let vocabulary = decoder.config.vocabulary;
            let text: Vec<u32> = (0..50).map(|t| (t * 7 + t * t) % vocabulary as u32).collect();
            let expected = training_logprobs(&decoder, &text);

            let weights = DecodeWeights::new(&decoder);
            let mut slots = DecodeSlots::new(&decoder.config, 3, 64, &Device::flex());
            slots.prefill(
                &weights,
                &[Feed { slot: 0, tokens: &text[..4] }, Feed { slot: 2, tokens: &text[..20] }],
            );
            for step in 0..25 {
                let (short, long) = (4 + step, 20 + step);
                let feeds =
                    [(0, short), (2, long)].map(|(slot, at)| Feed { slot, tokens: &text[at..at + 1] });
                let logits = slots.step(&weights, &feeds);
                for (row, at) in [short, long].into_iter().enumerate() {
                    let logits = &logits[row * vocabulary..(row + 1) * vocabulary];
                    let (logprob, _) = logprob_and_entropy(logits, 1.0, text[at + 1]);
                    assert!((logprob - expected[at]).abs() < 1e-5, "{family:?} at {at}: {logprob}");
                }
            }
            assert_eq!((slots.len(0), slots.len(1), slots.len(2)), (29, 0, 45));
        }
    }

    #[test]
    fn several_tokens_at_once_equal_one_after_the_other() {
        let decoder = Decoder::random(DecoderConfig::small(&families::llama::LLAMA), 3, &Device::flex());
        let text: Vec<u32> = (0..30).map(|t| t % 11).collect();
        let weights = DecodeWeights::new(&decoder);
        let mut slots = DecodeSlots::new(&decoder.config, 2, 64, &Device::flex());
        let at_once = slots.step(&weights, &[Feed { slot: 1, tokens: &text }]);
        let mut last = Vec::new();
        for token in &text {
            last = slots.step(&weights, &[Feed { slot: 0, tokens: &[*token] }]);
        }
        for (a, b) in at_once.iter().zip(&last) {
            assert!((a - b).abs() < 1e-5);
        }
    }
}
