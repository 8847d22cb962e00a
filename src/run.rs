//! A training run: where it starts, what it is made of, its steps, its evaluations, its checkpoints and its ends.

pub mod prompts;
pub mod request;
pub mod eval_report;
pub mod eval_table;
pub mod comparison;
pub mod evaluator;
pub mod model_source;
pub mod checkpoints;
pub mod start;
pub mod schedule;
mod evaluations;
mod actors;
mod train;
mod record;
mod evaluate;
mod finish;
mod assemble;

pub use assemble::train;
pub use finish::RunOutcome;
pub use request::{RunRequest, StartFrom};
