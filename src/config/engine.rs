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
