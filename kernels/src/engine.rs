//! Engines: each computes a model in its own way. [`Cpu`] has packed weights and passes on slices in memory, written by hand;
//! [`OnDevice`] has burn's operations, for any device of burn's. A run chooses one, once; nothing else asks where a
//! tensor lies. What an engine can do it says in its [`Capabilities`], before there is a model.
//!
//! Both obey the laws of `engine/laws.rs`.

use std::fmt;
use std::path::Path;

use burn::tensor::Device;

use crate::batch::Packed;
use crate::error::KernelError;
use crate::gemm::Precision;
use crate::model::Decoder;
use crate::model::config::DecoderConfig;
use crate::model::gradients::GradientSink;
use crate::model::lora::Lora;
use crate::operations::Operations;
use crate::sampling::SamplingConfig;
use crate::streambp::{ChunkPlan, GradientPath, Slopes, TokenStats};

mod cpu;
mod device;
mod draws;
#[cfg(test)]
mod laws;

pub use cpu::decode::{CpuSlots, cache::CachePrecision, packed::PackedDecoder};
pub use cpu::{Cpu, memory::DecodeMemory};
pub use device::{DeviceWeights, OnDevice, decode::DeviceSlots};

/// What an engine can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Precisions of the weights that decoding reads.
    pub weights: &'static [Precision],
    /// Precisions of the KV cache.
    pub caches: &'static [CachePrecision],
    /// Gradient paths.
    pub gradients: &'static [GradientPath],
    /// Gradient paths that can keep layer inputs in bfloat16 or in a file, where others keep them in memory as they are.
    pub layer_inputs_elsewhere: &'static [GradientPath],
    /// Gradient paths whose batches may hold a shared prefix once.
    pub shared_prefixes: &'static [GradientPath],
    /// Whether a context takes over cached tokens of another one with the same prefix.
    pub shares_caches: bool,
    /// Tokens of a block of the KV cache: a context takes whole blocks.
    pub cache_block_tokens: usize,
    /// Whether the memory of the KV cache follows the tokens in it; otherwise all of it is taken at once.
    pub caches_grow: bool,
    /// Whether [`crate::MemoryPlan`] and [`crate::DecodeMemory`] describe this engine.
    pub memory_is_planned: bool,
}

/// The half of an engine that a trainer needs: passes through a model with and without gradients. It can be held as a
/// value whose type is not named.
pub trait TrainingEngine: fmt::Debug + Send + Sync {
    /// Where the parameters of its models lie.
    fn device(&self) -> Device;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// The form that tensor operations take on its tensors.
    fn operations(&self) -> Operations;

    /// Log-probabilities and entropies of a batch, without gradients; never more logits than a head chunk's.
    ///
    /// # Panics
    /// If a chunk length is 0, a token is outside the vocabulary, the decoder lies on another device, or the batch holds
    /// shared prefixes and the path is not among [`Capabilities::shared_prefixes`].
    fn statistics(&self, decoder: &Decoder, batch: &Packed, plan: &ChunkPlan) -> TokenStats;

    /// Forward, the slopes of the caller's loss at the statistics of the batch, and the exact backward pass, whose result
    /// is added to the sink. Returns the statistics.
    ///
    /// `slopes` returns one number an entry of the statistics; those of the last entries of sequences are taken as 0.
    /// Where all are 0 nothing goes backward, and sums are the same to the bit, as zeros would be added.
    ///
    /// # Errors
    /// [`KernelError::File`] with the folder, where the layers' inputs cannot be put aside or got back; the sink then
    /// holds a part of the sum. [`KernelError::Input`] where they are to lie elsewhere than in memory and the path is not
    /// among [`Capabilities::layer_inputs_elsewhere`]; a single tape keeps no layer inputs, and has nothing to put
    /// anywhere.
    ///
    /// # Panics
    /// As [`TrainingEngine::statistics`]; or if the slopes are not one an entry.
    fn gradients(
        &self,
        decoder: &Decoder,
        batch: &Packed,
        plan: &ChunkPlan,
        sink: GradientSink<'_>,
        slopes: &mut (dyn FnMut(&TokenStats) -> Slopes + Send),
    ) -> Result<TokenStats, KernelError>;
}

/// An engine. Weights and slots are of its own types, so that those of two engines cannot meet.
pub trait Engine: TrainingEngine + 'static {
    /// A model's weights as decoding reads them.
    type Weights: EngineWeights;
    /// Slots of cached contexts.
    type Slots: EngineSlots;

    /// Makes a model's weights ready for decoding, rounded to a precision. They are made once for a policy version, need
    /// the decoder no more, and are shared by all that decode with them. Less than f32 takes less memory and time a step,
    /// and makes what decoding draws from another distribution than the one that training computes.
    ///
    /// # Errors
    /// [`KernelError::Input`] if the precision is not among [`Capabilities::weights`].
    fn prepare(&self, decoder: &Decoder, precision: Precision) -> Result<Self::Weights, KernelError>;

    /// The same model with other adapters, at the precision of these weights. Whatever is no adapter is shared where the
    /// engine keeps adapters apart.
    fn adapt(&self, weights: &Self::Weights, lora: &Lora) -> Self::Weights;

    /// Reads the weights of a Hugging Face directory for decoding alone, without a decoder that could be trained.
    ///
    /// # Errors
    /// As [`Decoder::load`] and [`Engine::prepare`].
    fn load(
        &self,
        dir: &Path,
        config: &DecoderConfig,
        precision: Precision,
    ) -> Result<Self::Weights, KernelError>;

    /// Slots for contexts of one model shape.
    ///
    /// # Errors
    /// [`KernelError::Input`] if the precision is not among [`Capabilities::caches`].
    fn slots(&self, config: &DecoderConfig, room: CacheRoom) -> Result<Self::Slots, KernelError>;

    /// Forgets what the slots held and fills them with these contexts, without logits.
    ///
    /// Contexts go through the layers in passes of a bounded number of tokens, longer ones in parts. A context without
    /// tokens leaves its slot empty. Where [`Capabilities::shares_caches`], a context takes over what another one has of
    /// its prefix under the same weights: full blocks of any slot, and every token of one that is filled in the same call.
    ///
    /// # Panics
    /// If a context is longer than the slots have positions, or a token is outside the vocabulary.
    fn prefill(&self, slots: &mut Self::Slots, weights: &Self::Weights, contexts: &[Feed<'_>]);

    /// Adds the tokens of each request to its slot and draws the token after them, with its log-probability: one draw a
    /// request, in their order. The draw is a function of the logits and of the request's random number.
    ///
    /// # Panics
    /// As [`Engine::prefill`]; or if a slot is fed twice in one call, or no tokens.
    fn decode(
        &self,
        slots: &mut Self::Slots,
        weights: &Self::Weights,
        requests: &[DrawRequest<'_>],
        sampling: &SamplingConfig,
    ) -> Vec<Draw>;

    /// Adds each feed's tokens to its slot and returns the logits after its last token, for who measures and compares.
    ///
    /// # Shapes
    /// The result is row-major `[feeds, vocabulary]`, read back from the device; it lies in the slots until their next step.
    ///
    /// # Panics
    /// As [`Engine::decode`].
    fn logits<'s>(
        &self,
        slots: &'s mut Self::Slots,
        weights: &Self::Weights,
        feeds: &[Feed<'_>],
    ) -> &'s [f32];
}

/// A model's weights as decoding reads them.
pub trait EngineWeights: fmt::Debug + Send + Sync + 'static {
    /// The model's shape.
    fn config(&self) -> &DecoderConfig;

    /// Writes a Hugging Face directory with the weights in f32, as they are rounded: read and prepared at the same
    /// precision again, they are the same to the bit. Of weights with adapters, writes the adapters alone, as
    /// [`crate::Lora::save`] does.
    ///
    /// # Errors
    /// As [`Decoder::save`].
    fn save(&self, dir: &Path) -> Result<(), KernelError>;

    /// Memory that the weights take beside the decoder's own, in bytes.
    fn bytes(&self) -> usize;
}

/// Slots of cached contexts of one model shape.
///
/// The caller chooses the weights at every call, so a context may go on under newer ones with the keys and values that
/// older ones computed, or be filled again from its tokens.
pub trait EngineSlots: Send + 'static {
    /// How many there are.
    fn slots(&self) -> usize;

    /// Tokens in a slot's cache.
    fn len(&self, slot: usize) -> usize;

    /// Whether no slot holds a context.
    fn is_empty(&self) -> bool {
        (0..self.slots()).all(|slot| self.len(slot) == 0)
    }

    /// Forgets a slot's context.
    fn release(&mut self, slot: usize);

    /// Allows contexts of this many tokens.
    fn reserve(&mut self, positions: usize);

    /// Tokens that [`Engine::prefill`] has filled the slots with so far.
    fn prefilled(&self) -> Prefilled;
}

/// The size of some slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheRoom {
    /// Contexts at once.
    pub slots: usize,
    /// Tokens of a context; [`EngineSlots::reserve`] allows more.
    pub positions: usize,
    /// Precision of keys and values.
    pub precision: CachePrecision,
}

/// New tokens for the end of a slot's context.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// The slot.
    pub slot: usize,
    /// At least one token, but for a context that is filled with none.
    pub tokens: &'a [u32],
}

/// Tokens of contexts that were filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefilled {
    /// Tokens that went through the layers.
    pub computed: u64,
    /// Tokens whose keys and values were taken over from a context that had them.
    pub shared: u64,
}

/// A token to draw.
#[derive(Clone, Copy, Debug)]
pub struct DrawRequest<'a> {
    /// What is added to a slot's context before the draw.
    pub feed: Feed<'a>,
    /// The stream of random numbers that the draw is made with.
    pub random_key: u64,
    /// The number's place in the stream.
    pub index: u64,
    /// Tokens that are not drawn, as if their logits were minus infinity before all filters. The log-probability stays
    /// that of the full distribution.
    pub excluded: &'a [u32],
    /// Where the output ends whatever is drawn, for measurements.
    pub given_end: Option<GivenEnd<'a>>,
}

/// An output's end that is given: an end of output before it becomes another token, and the token there the end of output.
/// What is drawn costs what it always does.
#[derive(Clone, Copy, Debug)]
pub struct GivenEnd<'a> {
    /// The tokens that end an output; at least one.
    pub eos_ids: &'a [u32],
    /// Whether the output ends with this draw.
    pub is_here: bool,
}

/// A token that was drawn. Its log-probability is not a number where the logits are none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// The token.
    pub id: u32,
    /// Its log-probability in the full distribution at the sampling temperature; at temperature 1 where draws are greedy.
    pub logprob: f32,
}
