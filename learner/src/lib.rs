//! From groups to new weights: advantages, masks, loss and optimizer of longhaul.
//!
//! Synchronous: one call is one optimizer step. This crate knows no channel, actor, queue, verifier or
//! text; it reads scored groups as plain numbers and leaves all work on tensors but the optimizer's to
//! `kernels`.

mod error;
pub mod config;

pub mod advantage;
pub mod loss;
pub mod unit;
pub mod batch;
pub mod optimizer;

pub mod report;
mod advantage_batch;
mod refill;
mod step_stats;
mod ranks;
mod base;
mod train_state;
mod trainer;
pub mod sft;
pub mod checkpoint;
#[cfg(test)]
mod testing;

pub use base::BaseModel;
pub use checkpoint::manifest;
pub use config::LearnerConfig;
pub use error::LearnerError;
pub use optimizer::OptimizerConfig;
pub use ranks::deal;
pub use refill::further_groups;
pub use report::StepReport;
pub use sft::Supervised;
pub use trainer::{Objective, PolicyGradient, Trainer, UnitReport};
