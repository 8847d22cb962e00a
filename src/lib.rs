//! longhaul fine-tunes language models by reinforcement learning on very long outputs.
//!
//! This crate is the composition root, the only place that knows the four others: `rollout` makes scored groups,
//! `rewards` judges, `learner` turns groups into weights, `kernels` computes. Here they get their config, their
//! threads, their folder and their terminal. A program that embeds a run needs [`RunConfig::load`], [`RunRequest`] and
//! [`train`]; the other public modules serve the command line.

pub mod cause;
pub mod config;
pub mod records;
pub mod watch;
pub mod model;
pub mod run;
pub mod cli;
pub mod bench;
pub mod commands;

pub use config::{ConfigError, RunConfig};
pub use run::{Outcome, RunRequest, StartFrom, train};

/// The version with the commit it was built from.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("LONGHAUL_COMMIT"), ")");
