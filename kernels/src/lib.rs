//! Tensors of longhaul: the decoder, its exact gradients in little memory, and batched generation.
//!
//! This crate knows shapes, devices and files of weights. It knows no prompt, reward, policy version,
//! configuration file or thread: a caller hands it tokens and gets log-probabilities, gradients or draws.

mod error;
pub mod weights;
mod simd;
mod flex;
pub mod attention;
pub mod logprob;
pub mod norm;
pub mod rotary;
pub mod swiglu;

pub use error::KernelError;
pub use weights::{Block, Weights};
