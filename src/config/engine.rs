//! What the config says of the engine: the device, what the engine of each device can do, and the precisions of `[rollout]`
//! as engines know them. `rollout` has its own enums for its section, because it depends on no tensors; they are converted
//! here.

use kernels::{CachePrecision, Capabilities, Cpu, OnDevice, Precision};
use rollout::{DecodePrecision, KvCache};
use serde::{Deserialize, Serialize};

/// The device that computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The processor.
    #[default]
    Cpu,
    /// The first NVIDIA GPU; only in a build with the feature `cuda`.
    Cuda,
}

impl DeviceKind {
    /// What its engine can do, whether or not this build has it.
    #[must_use]
    pub fn capabilities(self) -> Capabilities {
        match self {
            Self::Cpu => Cpu::CAPABILITIES,
            Self::Cuda => OnDevice::CAPABILITIES,
        }
    }

    /// Its word in a config.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

/// How a model's weights are stored; sums are in f32 in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelDtype {
    /// 32 bits.
    F32,
    /// 16 bits: f32 rounded to 8 significant bits.
    Bf16,
}

impl ModelDtype {
    /// The same for an engine.
    #[must_use]
    pub fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
        }
    }
}

/// How the weights of a run are stored, where they are not one tensor in f32 a parameter: the base of adapters is packed
/// once for all who compute with it, on the CPU.
#[must_use]
pub fn packed_base(
    dtype: Option<ModelDtype>,
    trains_adapters: bool,
    device: DeviceKind,
) -> Option<Precision> {
    let packs = trains_adapters && device == DeviceKind::Cpu;
    packs.then(|| dtype.map_or(Precision::F32, ModelDtype::precision))
}

/// `rollout.precision` for an engine.
#[must_use]
pub fn weights_precision(precision: DecodePrecision) -> Precision {
    match precision {
        DecodePrecision::F32 => Precision::F32,
        DecodePrecision::Bf16 => Precision::Bf16,
        DecodePrecision::I8 => Precision::I8,
    }
}

/// `rollout.kv_cache` for an engine.
#[must_use]
pub fn cache_precision(kv_cache: KvCache) -> CachePrecision {
    match kv_cache {
        KvCache::F32 => CachePrecision::F32,
        KvCache::Bf16 => CachePrecision::Bf16,
    }
}
