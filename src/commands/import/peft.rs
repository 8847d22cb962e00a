//! `longhaul import peft`: a model with a LoRA adapter of PEFT added to its weights.

use anyhow::Result;

use crate::cli::ImportPeftArgs;
use crate::commands::export::{Export, write};

/// Writes the directory.
///
/// # Errors
/// Names the file, and the key or tensor that is missing, wrong or not merged; nothing is written then.
pub fn peft(args: &ImportPeftArgs) -> Result<()> {
    write(&Export {
        model: &args.base,
        adapter: Some(&args.adapter),
        place: &args.place,
        dtype: args.dtype,
        gguf: None,
    })
}
