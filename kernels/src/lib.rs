//! Tensors of longhaul: the decoder, its exact gradients in little memory, and batched generation.
//!
//! This crate knows shapes, devices and files of weights. It knows no prompt, reward, policy version or
//! configuration file, and no thread of a run: a caller hands it tokens and gets log-probabilities, gradients or draws.
//! Threads inside a call (rayon's, and the team that decodes) are its own.

mod error;
mod simd;
mod zeros;
mod panel;
mod prefetch;
mod gemm;
mod rows;
mod flex;
pub mod attention;
pub mod logprob;
pub mod norm;
pub mod rope;
pub mod rotary;
pub mod activation;
pub mod sampling;
mod update;
mod operations;
mod batch;
pub mod model;
mod parts;
mod streambp;
mod engine;
#[cfg(test)]
mod test_tensors;
#[cfg(test)]
mod reference;

pub use batch::Packed;
pub use burn::tensor::Device;
pub use engine::{
    CachePrecision, CacheRoom, Capabilities, Cpu, CpuSlots, DecodeMemory, DeviceSlots, DeviceWeights, Draw,
    DrawRequest, Engine, EngineSlots, EngineWeights, Feed, GivenEnd, OnDevice, PackedDecoder, Prefilled,
    TrainingEngine,
};
pub use error::KernelError;
pub use flex::StoredNumbers;
pub use gemm::Precision;
pub use model::{
    Decoder, Stored,
    config::{DecoderConfig, LlamaShape},
    files::{
        adapter::PeftAdapter,
        directory::ModelDirectory,
        gguf::{
            GgufFile, GgufModel,
            blocks::StoredType,
            header::{Header as GgufHeader, TensorPlace},
            metadata::{MetaValue, Metadata},
            write::{GgufFormat, write_gguf},
        },
        peft::ADAPTER_CONFIG_FILE,
        source::{TakeNumbers, TensorSource},
        write::{FloatType, WeightFormat, write_weights},
    },
    gradients::GradientSink,
    linear::{Adapters, LowRank},
    lora::{BASE_REMEDY, Lora, LoraConfig, ModelPlace, TargetModules},
    packed::PackedWeights,
    trained::{GradientSums, Trained},
    weights::{Block, ExpertsWeights, FeedForwardWeights, GatedWeights, Weights},
};
pub use operations::Operations;
pub use simd::{SIMD_VARIABLE, SimdLevel};
pub use streambp::{ChunkPlan, GradientPath, LayerInputs, MemoryPlan, Slopes, TokenStats};
pub use update::{
    AdamW,
    adafactor::{Adafactor, SecondMoment},
    blocks::{BLOCK_NUMBERS, Blocks, MomentBlocks},
};
