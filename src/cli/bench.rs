//! `longhaul bench`: what can be measured.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use learner::config::{GradientsConfig, LayerInputsPlace};
use rollout::{DecodePrecision, KvCache};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Overrides;

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// One forward and backward pass: whole, checkpointed, and in chunks
    Streambp(BenchStreambpArgs),
    /// Tokens per second of decoding, by batch and context
    Decode(BenchDecodeArgs),
    /// The real trainer by the number of segments, on one distribution of lengths
    Segments(BenchSegmentsArgs),
}

/// When gradients are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Errors {
    /// Up to 8192 tokens, where memory allows
    Auto,
    /// At every length
    Always,
    /// Not at all
    Never,
}

/// Reads a word as a config has it: `bf16`, `file`.
fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let refused = |error: toml::de::Error| error.message().to_owned();
    toml::Value::String(text.to_owned()).try_into().map_err(refused)
}

/// Reads a kind of `[learner.gradients]`, with the defaults of its keys.
fn gradients(kind: &str) -> Result<GradientsConfig, String> {
    let section = toml::Table::from_iter([("kind".to_owned(), kind.into())]);
    section.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
}

/// `longhaul bench streambp`.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  longhaul bench streambp --shape 256,6,8,8,768,4096 --tokens 1024,4096 --json"
)]
pub struct BenchStreambpArgs {
    /// A Hugging Face directory whose weights are used
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Without a model, random weights of this shape: hidden,layers,heads,kv_heads,intermediate,vocabulary
    #[arg(long, value_name = "NUMBERS", default_value = "256,6,8,8,768,4096")]
    pub shape: String,
    /// Lengths of the sequence
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "1024,2048,4096,8192")]
    pub tokens: Vec<usize>,
    /// What is measured, as learner.gradients.kind has it: whole, checkpointed, streambp
    #[arg(
        long, value_name = "KIND,KIND,...", value_delimiter = ',', default_value = "whole,checkpointed,streambp",
        value_parser = gradients
    )]
    pub paths: Vec<GradientsConfig>,
    /// Measurements of each, whose median counts
    #[arg(long, default_value_t = 3)]
    pub repeats: usize,
    /// Tokens of a chunk in the layers; by default as in a config
    #[arg(long, value_name = "N")]
    pub layer_chunk_tokens: Option<usize>,
    /// Tokens of a chunk in the head; by default as in a config
    #[arg(long, value_name = "N")]
    pub head_chunk_tokens: Option<usize>,
    /// Attention's results that StreamBP keeps for the backward pass, in MiB; by default as in a config
    #[arg(long, value_name = "MIB")]
    pub attention_kept_mib: Option<u64>,
    /// Other activations that StreamBP keeps of the same layers, in MiB; by default as in a config
    #[arg(long, value_name = "MIB")]
    pub activations_kept_mib: Option<u64>,
    /// Where StreamBP keeps the layers' inputs: memory, bf16 (in memory, rounded) or file (in the system's folder for
    /// temporary files)
    #[arg(long, value_name = "PLACE", default_value = "memory", value_parser = word::<LayerInputsPlace>)]
    pub layer_inputs: LayerInputsPlace,
    /// When the gradients are compared with those of the whole computation, which takes its time and memory; the
    /// measured time and peak are without it
    #[arg(long, num_args = 0..=1, default_value = "auto", default_missing_value = "always", require_equals = true)]
    pub errors: Errors,
    /// Prints one JSON object a row
    #[arg(long)]
    pub json: bool,
}

/// `longhaul bench decode`.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  longhaul bench decode --shape 576,30,9,3,1536,49152 --batches 1,16 --contexts 512"
)]
pub struct BenchDecodeArgs {
    /// A Hugging Face directory whose weights are used
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Without a model, random weights of this shape: hidden,layers,heads,kv_heads,intermediate,vocabulary
    #[arg(long, value_name = "NUMBERS", default_value = "576,30,9,3,1536,49152")]
    pub shape: String,
    /// Contexts that are decoded together
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "1,8,16,64")]
    pub batches: Vec<usize>,
    /// Tokens of each context before the first step
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "512,4096,16384")]
    pub contexts: Vec<usize>,
    /// Precision of the matrices: f32, bf16 or i8
    #[arg(long, value_name = "PRECISION", default_value = "f32", value_parser = word::<DecodePrecision>)]
    pub precision: DecodePrecision,
    /// Precision of the KV cache: f32 or bf16
    #[arg(long, value_name = "PRECISION", default_value = "f32", value_parser = word::<KvCache>)]
    pub kv_cache: KvCache,
    /// Measurements of each, whose median counts
    #[arg(long, default_value_t = 5)]
    pub repeats: usize,
    /// Prints one JSON object a row
    #[arg(long)]
    pub json: bool,
}

/// `longhaul bench segments`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  longhaul bench segments --segments 0,2,4 --steps 10 --json\n  \
                  longhaul bench segments configs/quickstart.toml --segments 0,4 --set run.seed=2\n\n\
                  A row of 0 segments is whole outputs in turns with the learner: all outputs of a step at once, and \
                  all waited for. docs/guide/measuring-segments.md says what each column means.")]
pub struct BenchSegmentsArgs {
    /// The config file whose model and data are used; without one, a random model on problems of a task
    pub config: Option<PathBuf>,
    /// A Hugging Face directory whose weights are used
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Without config and model, random weights of this shape: hidden,layers,heads,kv_heads,intermediate,vocabulary
    #[arg(long, value_name = "NUMBERS", default_value = "512,8,8,4,1536,4096")]
    pub shape: String,
    /// Numbers of segments; 0 is whole outputs in turns with the learner
    #[arg(long, value_name = "N,N,...", value_delimiter = ',', default_value = "0,1,2,4,8,16")]
    pub segments: Vec<usize>,
    /// Lengths in place of the model's own: lognormal:MEDIAN,SIGMA, uniform:LOW,HIGH, constant:N, a histogram or a run
    #[arg(long, value_name = "SPEC")]
    pub lengths: Option<String>,
    /// Optimizer steps of each row, of which the first quarter, in which slots fill, is left out
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Decoding slots where there are segments; by default those of the config
    #[arg(long, value_name = "N")]
    pub slots: Option<usize>,
    /// Measurements of each row, with other seeds, whose medians count
    #[arg(long, default_value_t = 1)]
    pub repeats: usize,
    /// Prints one JSON object a row
    #[arg(long)]
    pub json: bool,
    /// Runs the config as it is and prints the row: how a row gets a process of its own
    #[arg(long, hide = true, requires = "config")]
    pub as_row: bool,
    /// Measures the accuracy of the row's last weights
    #[arg(long, hide = true)]
    pub evaluate: bool,
    /// Ends the row by trained tokens instead of steps
    #[arg(long, hide = true)]
    pub trained_tokens: Option<u64>,
    /// Changes to the config.
    #[command(flatten)]
    pub overrides: Overrides,
}
