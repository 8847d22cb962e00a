//! longhaul fine-tunes language models by reinforcement learning on very long outputs.
//!
//! This crate is the composition root, the only place that knows the four others: `rollout` makes scored groups,
//! `rewards` judges, `learner` turns groups into weights, `kernels` computes. Here they get their config, their
//! threads, their folder and their terminal.

pub mod cause;
pub mod cli;
pub mod config;
pub mod records;
pub mod watch;
pub mod model;
pub mod run;
pub mod bench;
pub mod commands;

/// The version with the commit it was built from.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("LONGHAUL_COMMIT"), ")");
