//! `longhaul import`: models of other programs, as Hugging Face directories.

pub mod gguf;
pub mod peft;

use anyhow::Result;
use kernels::{DecoderConfig, FloatType};

use crate::cli::FloatWord;

/// The type that a word of the command line stands for.
pub(super) fn float_type(word: FloatWord) -> FloatType {
    match word {
        FloatWord::F32 => FloatType::F32,
        FloatWord::Bf16 => FloatType::Bf16,
        FloatWord::F16 => FloatType::F16,
    }
}

/// The `config.json` of a model whose weights are stored in a type.
pub(super) fn config_json(config: &DecoderConfig, dtype: FloatType) -> Result<String> {
    let mut value = config.to_json();
    for key in ["dtype", "torch_dtype"] {
        value[key] = dtype.word().into();
    }
    Ok(serde_json::to_string_pretty(&value)? + "\n")
}
