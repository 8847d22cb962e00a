//! Tensors of longhaul: the decoder, its exact gradients in little memory, and batched generation.
//!
//! This crate knows shapes, devices and files of weights. It knows no prompt, reward, policy version,
//! configuration file or thread: a caller hands it tokens and gets log-probabilities, gradients or draws.

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
mod batch;
pub mod model;
mod parts;
mod decode;
pub mod generate;
pub mod streambp;
mod update;
#[cfg(test)]
mod test_tensors;
#[cfg(test)]
mod reference;

pub use batch::Packed;
pub use burn::tensor::Device;
pub use decode::{Prefilled, cache::CachePrecision};
pub use error::KernelError;
pub use gemm::Precision;
pub use generate::{CACHE_BLOCK_TOKENS, DecodeMemory, DecodeSlots, DecodeWeights, Feed};
pub use model::{
    Decoder,
    config::{DecoderConfig, LlamaShape},
    gradients::GradientSink,
    linear::{Adapters, LowRank},
    weights::{Block, Weights},
};
pub use simd::{SIMD_VARIABLE, SimdLevel};
pub use streambp::{
    ChunkPlan, GradientPath, LayerInputs, MemoryPlan, Slopes, TokenStats, accumulate_gradients,
    shares_prefixes, token_stats,
};
pub use update::{AdamW, descend, sums_of_squares};
