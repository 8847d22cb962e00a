//! The engine of the CPU: packed decoding, StreamBP on slices, and tapes with fused operations for the other paths.

use std::fmt;
use std::path::Path;

use burn::tensor::Device;

use super::draws::draw_all;
use super::{
    CachePrecision, CacheRoom, Capabilities, Draw, DrawRequest, Engine, EngineSlots, EngineWeights, Feed,
    Prefilled, TrainingEngine,
};
use crate::batch::Packed;
use crate::error::KernelError;
use crate::gemm::Precision;
use crate::model::config::DecoderConfig;
use crate::model::gradients::GradientSink;
use crate::model::lora::Lora;
use crate::model::numbers::Numbers;
use crate::model::{Decoder, files};
use crate::operations::Operations;
use crate::sampling::SamplingConfig;
use crate::streambp::cpu::{LastWorkspace, SlicePass};
use crate::streambp::{ChunkPlan, GradientPath, Slopes, TokenStats, tape_gradients, tensor_statistics};
use decode::CpuSlots;
use decode::cache::BLOCK_POSITIONS;
use decode::packed::PackedDecoder;

pub(super) mod decode;
pub(super) mod memory;

/// The CPU, for models on burn's CPU backend.
///
/// A token's logits do not depend, to the last bit, on the other feeds of a call, on its slot, on how its context was cut
/// into calls, or on the number of threads.
#[derive(Default)]
pub struct Cpu {
    /// The buffers of the last pass.
    last: LastWorkspace,
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cpu")
    }
}

impl Cpu {
    /// What it can do.
    pub const CAPABILITIES: Capabilities = Capabilities {
        weights: &[Precision::F32, Precision::Bf16, Precision::I8],
        caches: &[CachePrecision::F32, CachePrecision::Bf16],
        gradients: &[GradientPath::Unchunked, GradientPath::Checkpointed, GradientPath::StreamBp],
        layer_inputs_elsewhere: &[GradientPath::StreamBp],
        shared_prefixes: &[GradientPath::StreamBp],
        shares_caches: true,
        cache_block_tokens: BLOCK_POSITIONS,
        caches_grow: true,
        memory_is_planned: true,
    };
}

/// The engine reads a model's numbers in memory.
fn check(decoder: &Decoder) {
    assert_eq!(decoder.device(), Device::flex(), "the CPU computes models that lie on it");
}

impl TrainingEngine for Cpu {
    fn device(&self) -> Device {
        Device::flex()
    }

    fn capabilities(&self) -> Capabilities {
        Self::CAPABILITIES
    }

    fn operations(&self) -> Operations {
        Operations::Fused
    }

    fn statistics(&self, decoder: &Decoder, batch: &Packed, plan: &ChunkPlan) -> TokenStats {
        check(decoder);
        plan.check();
        match plan.path {
            GradientPath::StreamBp => {
                in_the_pool(|| SlicePass::new(decoder, batch, plan, &self.last).statistics())
            }
            _ => tensor_statistics(decoder, batch, plan, self.operations()),
        }
    }

    /// No chunk goes backward by StreamBP that has no sequence with a slope.
    fn gradients(
        &self,
        decoder: &Decoder,
        batch: &Packed,
        plan: &ChunkPlan,
        sink: GradientSink<'_>,
        slopes: &mut (dyn FnMut(&TokenStats) -> Slopes + Send),
    ) -> Result<TokenStats, KernelError> {
        check(decoder);
        plan.check();
        match plan.path {
            GradientPath::StreamBp => {
                in_the_pool(|| SlicePass::new(decoder, batch, plan, &self.last).gradients(sink, slopes))
            }
            _ => tape_gradients(decoder, batch, plan, sink, slopes, self.operations()),
        }
    }
}

/// Does work of many short parallel steps on a thread of the pool: from outside each of them would wake a thread and
/// wait for it. A pool of one thread is left to others, who would have to wait for all of it.
fn in_the_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    if rayon::current_num_threads() == 1 { work() } else { rayon::scope(|_| work()) }
}

impl Engine for Cpu {
    type Weights = PackedDecoder;
    type Slots = CpuSlots;

    fn prepare(&self, decoder: &Decoder, precision: Precision) -> Result<PackedDecoder, KernelError> {
        check(decoder);
        Ok(PackedDecoder::new(decoder, precision))
    }

    /// Some rows are read at a time, and packed.
    fn load(
        &self,
        dir: &Path,
        config: &DecoderConfig,
        precision: Precision,
    ) -> Result<PackedDecoder, KernelError> {
        PackedDecoder::load(dir, config, precision)
    }

    fn adapt(&self, weights: &PackedDecoder, lora: &Lora) -> PackedDecoder {
        weights.adapted(lora)
    }

    fn slots(&self, config: &DecoderConfig, room: CacheRoom) -> Result<CpuSlots, KernelError> {
        Ok(CpuSlots::new(config, room.slots, room.positions, room.precision))
    }

    fn prefill(&self, slots: &mut CpuSlots, weights: &PackedDecoder, contexts: &[Feed<'_>]) {
        contexts.iter().for_each(|context| slots.release(context.slot));
        let filled: Vec<Feed<'_>> =
            contexts.iter().filter(|context| !context.tokens.is_empty()).copied().collect();
        slots.prefill(weights, &filled);
    }

    fn decode(
        &self,
        slots: &mut CpuSlots,
        weights: &PackedDecoder,
        requests: &[DrawRequest<'_>],
        sampling: &SamplingConfig,
    ) -> Vec<Draw> {
        let feeds: Vec<Feed<'_>> = requests.iter().map(|request| request.feed).collect();
        draw_all(slots.extend(weights, &feeds, true), requests, sampling)
    }

    fn logits<'s>(&self, slots: &'s mut CpuSlots, weights: &PackedDecoder, feeds: &[Feed<'_>]) -> &'s [f32] {
        slots.extend(weights, feeds, true)
    }
}

impl EngineWeights for PackedDecoder {
    fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// A few rows of a parameter are unpacked at a time.
    fn save(&self, dir: &Path) -> Result<(), KernelError> {
        match self.lora() {
            Some(lora) => lora.save(dir, &self.config),
            None => files::save_parts(dir, &self.config, self.weights(), Numbers::in_parts),
        }
    }

    fn bytes(&self) -> usize {
        self.own_bytes()
    }
}

impl EngineSlots for CpuSlots {
    fn slots(&self) -> usize {
        Self::slots(self)
    }

    fn len(&self, slot: usize) -> usize {
        Self::len(self, slot)
    }

    fn release(&mut self, slot: usize) {
        Self::release(self, slot);
    }

    fn reserve(&mut self, positions: usize) {
        Self::reserve(self, positions);
    }

    fn prefilled(&self) -> Prefilled {
        Self::prefilled(self)
    }
}

#[cfg(test)]
mod tests;
