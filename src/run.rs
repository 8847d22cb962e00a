//! A training run: where it begins, who drives the actors, its steps, its evaluations and its checkpoints.

pub mod evaluate;
pub mod checkpoints;
pub mod start;
pub mod driver;
pub mod train;
