//! The command line of `longhaul data` and `longhaul filter`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::Overrides;

/// `longhaul data`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  longhaul data configs/quickstart.toml --show 2")]
pub struct DataArgs {
    /// The config file of a run
    pub config: PathBuf,
    /// How many prompts are shown
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    pub show: usize,
    /// Which prompts are looked at
    #[arg(long, value_enum, default_value_t = DataSplit::Train)]
    pub split: DataSplit,
    /// Prints one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// Changes to the config.
    #[command(flatten)]
    pub overrides: Overrides,
}

/// The prompts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DataSplit {
    /// Those that are trained on
    Train,
    /// Those that are measured on
    #[value(name = "held_out", aliases = ["held-out", "test", "eval"])]
    HeldOut,
}

/// `longhaul filter`.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  longhaul filter my.toml --samples 8 --min 1 --max 7 --output filtered.jsonl\n\n\
                  Answers are drawn as [rollout] says and judged by the reward with correctness = true. What was measured \
                  stands in\nOUTPUT.progress until the output is whole: the same command goes on with it."
)]
pub struct FilterArgs {
    /// The config file of a training run, whose section data names the rows
    pub config: PathBuf,
    /// Where the rows that are kept are written, as JSON lines with `pass_rate`
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// The model, in place of model.path: a Hugging Face directory
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Answers that are drawn for each prompt
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub samples: usize,
    /// The fewest right answers of a prompt that is kept
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub min: usize,
    /// The most right answers of a prompt that is kept; by default one less than there are
    #[arg(long, value_name = "M")]
    pub max: Option<usize>,
    /// Measures so many prompts, from the beginning of the file; by default all
    #[arg(long, value_name = "COUNT")]
    pub prompts: Option<u64>,
    /// Changes to the config.
    #[command(flatten)]
    pub overrides: Overrides,
}
