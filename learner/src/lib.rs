//! From groups to new weights: advantages, masks, loss and optimizer of longhaul.
//!
//! Synchronous: one call is one optimizer step. This crate knows no channel, actor, queue, verifier or
//! text; it reads scored groups as plain numbers and leaves all work on tensors but the optimizer's to
//! `kernels`.

mod error;
pub mod config;

pub mod advantage;
pub mod mpt;
pub mod loss;
pub mod batch;
pub mod optimizer;

pub mod report;
mod selection;
mod refill;
mod tally;
mod snapshot;
mod step;
pub mod sft;
pub mod manifest;
pub mod checkpoint;
#[cfg(test)]
mod testing;

pub use config::LearnerConfig;
pub use error::LearnerError;
pub use optimizer::OptimizerConfig;
pub use refill::further_groups;
pub use report::StepReport;
pub use sft::SftLearner;
pub use snapshot::Snapshot;
pub use step::Learner;
