//! longhaul fine-tunes language models by reinforcement learning on very long outputs.
//!
//! This crate is the composition root, the only place that knows the four others: `rollout` makes scored groups,
//! `rewards` judges, `learner` turns groups into weights, `kernels` computes. Here they get their config, their
//! threads, their folder and their terminal.

pub mod cause;
pub mod cli;
pub mod output;
pub mod progress;
pub mod config;
pub mod run_folder;
pub mod metrics;
pub mod shutdown;
pub mod model;
pub mod policy;
pub mod generator;
pub mod eval;
pub mod step_metrics;
pub mod alarms;
pub mod checkpoints;
pub mod origin;
pub mod driver;
pub mod watchdog;
pub mod train;
pub mod segments;
pub mod replay;
pub mod warm_start;
mod preflight;
pub mod score;
pub mod memory;
pub mod tokenize;
pub mod tools;
pub mod bench;
pub mod simulate;
