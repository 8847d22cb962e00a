//! What a run and the commands write: the run folder, its metrics, the files of commands.

mod partials;
pub mod output;
pub mod output_folder;
pub mod answers;
pub mod folder;
pub mod catalogue;
mod events;
pub mod writer;
pub mod reader;
pub mod step_metrics;
