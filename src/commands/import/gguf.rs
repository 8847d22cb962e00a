//! `longhaul import gguf`: weights, tokenizer, chat template and generation settings of a GGUF file.

use anyhow::Result;
use kernels::{GgufFile, GgufModel, WeightFormat, write_weights};
use rollout::Text;

use super::{config_json, float_type};
use crate::cli::{ImportGgufArgs, ReadingWord};
use crate::model::gguf::{Reading, TextFiles, text_files};
use crate::records::output_folder::OutputFolder;

/// Writes the directory.
///
/// # Errors
/// Names the file, and the key or tensor that is missing, wrong or not read; nothing is written then.
pub fn gguf(args: &ImportGgufArgs) -> Result<()> {
    let mut model = GgufModel::new(GgufFile::open(&args.file)?)?;
    let config = model.config().clone();
    let reading = match args.reading {
        ReadingWord::Transformers => Reading::Transformers,
        ReadingWord::LlamaCpp => Reading::LlamaCpp,
    };
    let TextFiles { files, notes } = text_files(&model.file().header().metadata, config.vocabulary, reading)?;
    let folder = OutputFolder::begin(&args.place.dir, args.place.overwrite, &[&args.file])?;
    for (name, content) in &files {
        folder.write(name, content.as_bytes())?;
    }
    let format = WeightFormat { dtype: float_type(args.dtype), shard_bytes: args.place.shard_size };
    folder.write("config.json", config_json(&config, format.dtype)?.as_bytes())?;
    // What no tokenizer can be made of is said before gigabytes are written.
    Text::load(folder.path())?.for_rows(config.vocabulary)?;
    write_weights(folder.path(), &config, &mut model, format)?;
    folder.finish()?;
    for note in notes {
        eprintln!("note: {note}");
    }
    println!(
        "{}: {} of {:.1} million parameters in {}",
        args.place.dir.display(),
        config.family.model_type,
        config.parameters() as f64 / 1e6,
        format.dtype.word()
    );
    Ok(())
}
