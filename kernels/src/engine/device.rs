//! The engine of devices: everything in burn's own operations. On burn's CPU backend it computes what it does on a GPU,
//! which is how its laws are tested without one.

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
use crate::model::{Decoder, files};
use crate::operations::Operations;
use crate::sampling::SamplingConfig;
use crate::streambp::{ChunkPlan, GradientPath, Slopes, TokenStats, tape_gradients, tensor_statistics};
use decode::DeviceSlots;

pub(super) mod decode;
mod kv_cache;

/// A device of burn's.
#[derive(Clone, Debug)]
pub struct OnDevice {
    device: Device,
}

impl OnDevice {
    /// What it can do.
    pub const CAPABILITIES: Capabilities = Capabilities {
        weights: &[Precision::F32],
        caches: &[CachePrecision::F32],
        gradients: &[GradientPath::Unchunked, GradientPath::Checkpointed, GradientPath::StreamBp],
        layer_inputs_elsewhere: &[],
        shared_prefixes: &[],
        shares_caches: false,
        cache_block_tokens: 1,
        caches_grow: false,
        memory_is_planned: false,
    };

    /// The engine of this device.
    #[must_use]
    pub fn new(device: Device) -> Self {
        Self { device }
    }

    fn check(&self, decoder: &Decoder) {
        assert_eq!(decoder.device(), self.device, "an engine computes models that lie on its device");
    }
}

/// A model's parameters, with what adapters add to them.
#[derive(Debug)]
pub struct DeviceWeights {
    decoder: Decoder,
    /// The same without adapters, which decoding reads.
    sum: Decoder,
}

impl DeviceWeights {
    fn new(decoder: Decoder) -> Self {
        Self { sum: decoder.clone().merged(), decoder }
    }
}

impl TrainingEngine for OnDevice {
    fn device(&self) -> Device {
        self.device.clone()
    }

    fn capabilities(&self) -> Capabilities {
        Self::CAPABILITIES
    }

    fn operations(&self) -> Operations {
        Operations::Plain
    }

    fn statistics(&self, decoder: &Decoder, batch: &Packed, plan: &ChunkPlan) -> TokenStats {
        self.check(decoder);
        tensor_statistics(decoder, batch, plan, self.operations())
    }

    fn gradients(
        &self,
        decoder: &Decoder,
        batch: &Packed,
        plan: &ChunkPlan,
        sink: GradientSink<'_>,
        slopes: &mut (dyn FnMut(&TokenStats) -> Slopes + Send),
    ) -> Result<TokenStats, KernelError> {
        self.check(decoder);
        tape_gradients(decoder, batch, plan, sink, slopes, self.operations())
    }
}

/// An error where something that is asked for is not among what the engine has.
fn only_f32(what: &str, precision: impl std::fmt::Debug, is_f32: bool) -> Result<(), KernelError> {
    if is_f32 {
        return Ok(());
    }
    Err(KernelError::Input(format!("{what} in {precision:?}: this device has them in F32 only")))
}

impl Engine for OnDevice {
    type Weights = DeviceWeights;
    type Slots = DeviceSlots;

    /// The parameters are shared with the decoder, but for matrices with an adapter, which is added to them.
    fn prepare(&self, decoder: &Decoder, precision: Precision) -> Result<DeviceWeights, KernelError> {
        self.check(decoder);
        only_f32("weights", precision, precision == Precision::F32)?;
        Ok(DeviceWeights::new(decoder.clone()))
    }

    fn adapt(&self, weights: &DeviceWeights, lora: &Lora) -> DeviceWeights {
        DeviceWeights::new(Decoder { lora: Some(lora.clone()), ..weights.decoder.clone() })
    }

    fn load(
        &self,
        dir: &Path,
        config: &DecoderConfig,
        precision: Precision,
    ) -> Result<DeviceWeights, KernelError> {
        only_f32("weights", precision, precision == Precision::F32)?;
        let weights = files::load(dir, config, &self.device)?.into();
        Ok(DeviceWeights::new(Decoder { config: config.clone(), weights, lora: None }))
    }

    fn slots(&self, config: &DecoderConfig, room: CacheRoom) -> Result<DeviceSlots, KernelError> {
        only_f32("keys and values", room.precision, room.precision == CachePrecision::F32)?;
        Ok(DeviceSlots::new(config, room.slots, room.positions, &self.device))
    }

    fn prefill(&self, slots: &mut DeviceSlots, weights: &DeviceWeights, contexts: &[Feed<'_>]) {
        slots.prefill(&weights.sum, contexts);
    }

    fn decode(
        &self,
        slots: &mut DeviceSlots,
        weights: &DeviceWeights,
        requests: &[DrawRequest<'_>],
        sampling: &SamplingConfig,
    ) -> Vec<Draw> {
        let feeds: Vec<Feed<'_>> = requests.iter().map(|request| request.feed).collect();
        draw_all(self.logits(slots, weights, &feeds), requests, sampling)
    }

    fn logits<'s>(
        &self,
        slots: &'s mut DeviceSlots,
        weights: &DeviceWeights,
        feeds: &[Feed<'_>],
    ) -> &'s [f32] {
        if feeds.is_empty() { &[] } else { slots.step(&weights.sum, feeds) }
    }
}

impl EngineWeights for DeviceWeights {
    fn config(&self) -> &DecoderConfig {
        &self.sum.config
    }

    fn save(&self, dir: &Path) -> Result<(), KernelError> {
        self.decoder.save_trained(dir)
    }

    fn bytes(&self) -> usize {
        0
    }
}

impl EngineSlots for DeviceSlots {
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
