//! `longhaul import` and `longhaul export`: models as files of other programs.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Models of other programs, as Hugging Face directories.
#[derive(Debug, Subcommand)]
pub enum Import {
    /// Makes a Hugging Face directory of a GGUF file, with its tokenizer and chat template
    Gguf(ImportGgufArgs),
    /// Adds a LoRA adapter of PEFT to the model that it was trained on
    Peft(ImportPeftArgs),
}

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FloatWord {
    /// 4 bytes
    F32,
    /// 2 bytes with the range of f32
    Bf16,
    /// 2 bytes with more digits, up to 65504
    F16,
}

/// Whose reading of a file is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReadingWord {
    /// That of transformers
    Transformers,
    /// That of llama.cpp
    #[value(name = "llama.cpp")]
    LlamaCpp,
}

/// A directory that is written.
#[derive(Args, Clone, Debug)]
pub struct ModelPlace {
    /// The directory that is written, whole or not at all
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Files of weights are cut into shards of at most so many bytes: 500MB, 5GB
    #[arg(long, value_name = "BYTES", default_value = "5GB", value_parser = bytes)]
    pub shard_size: u64,
    /// Replaces the model that is in the directory
    #[arg(long)]
    pub overwrite: bool,
}

/// `longhaul import gguf`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  longhaul import gguf SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2")]
pub struct ImportGgufArgs {
    /// The GGUF file
    pub file: PathBuf,
    /// Where the model is written.
    #[command(flatten)]
    pub place: ModelPlace,
    /// How weights are stored
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub dtype: FloatWord,
    /// Whose reading of the tokenizer is followed where the two differ
    #[arg(long, value_name = "PROGRAM", default_value = "transformers")]
    pub reading: ReadingWord,
}

/// `longhaul import peft`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  longhaul import peft models/smollm2 my-adapter models/merged")]
pub struct ImportPeftArgs {
    /// The model that the adapter was trained on: a Hugging Face directory
    pub base: PathBuf,
    /// The adapter: a folder with adapter_config.json and adapter_model.safetensors
    pub adapter: PathBuf,
    /// Where the model is written.
    #[command(flatten)]
    pub place: ModelPlace,
    /// How weights are stored; by default as the model's config.json says
    #[arg(long, value_name = "TYPE")]
    pub dtype: Option<FloatWord>,
}

/// How the matrices of a GGUF file are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GgufWord {
    /// Blocks of 32 numbers of 8 bits with a scale
    #[value(name = "q8_0")]
    Q8_0,
    /// 2 bytes, up to 65504
    F16,
    /// 2 bytes with the range of f32
    Bf16,
    /// 4 bytes
    F32,
}

/// `longhaul export`.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  longhaul export runs/quickstart-1/checkpoints/step-30 exported --dtype bf16\n  longhaul export models/smollm2 smollm2-gguf --gguf f16"
)]
pub struct ExportArgs {
    /// A checkpoint, a run's folder, whose newest one is taken, or any Hugging Face directory
    pub checkpoint: PathBuf,
    /// Where the model is written.
    #[command(flatten)]
    pub place: ModelPlace,
    /// How weights are stored; by default as the model's config.json says
    #[arg(long, value_name = "TYPE", conflicts_with = "gguf")]
    pub dtype: Option<FloatWord>,
    /// Adds the adapter of the checkpoint to the model that it was trained on
    #[arg(long)]
    pub merge_adapter: bool,
    /// Writes DIR/model.gguf, with tokenizer and chat template, in the place of a Hugging Face directory
    #[arg(long, value_name = "TYPE")]
    pub gguf: Option<GgufWord>,
}

/// Units of a number of bytes.
const UNITS: [(&str, u64); 4] = [("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1000), ("B", 1)];

fn bytes(text: &str) -> Result<u64, String> {
    let upper = text.to_uppercase();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(unit, bytes)| Some((upper.strip_suffix(unit)?, *bytes)))
        .unwrap_or((upper.as_str(), 1));
    let number = number.trim().parse::<u64>().ok().filter(|number| *number > 0);
    let bytes = number.and_then(|number| number.checked_mul(unit));
    bytes
        .ok_or_else(|| "write a whole number of bytes above 0, or one with KB, MB or GB behind it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [("5GB", 5_000_000_000), ("500 mb", 500_000_000), ("7", 7), ("7B", 7)] {
            assert_eq!(bytes(text), Ok(expected));
        }
        for text in ["", "0", "1.5GB", "-1", "GB", "99999999999999GB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
