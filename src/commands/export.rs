//! `longhaul export`: the model of a checkpoint, or of any Hugging Face directory, as files for other programs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kernels::{
    DecoderConfig, FloatType, GgufFormat, MetaValue, ModelDirectory, PeftAdapter, TensorSource, WeightFormat,
    write_gguf, write_weights,
};
use learner::checkpoint::ExtraFile;
use serde_json::Value;

use super::import::float_type;
use crate::cli::{ExportArgs, FloatWord, GgufWord, ModelPlace};
use crate::model::gguf::keys::{TokenizerKeys, tokenizer_keys};
use crate::model::tokenizer_files;
use crate::records::folder::RunFolder;
use crate::records::output_folder::OutputFolder;

const CONFIG_FILE: &str = "config.json";

/// The file of a model in GGUF, in a directory of its own.
const GGUF_FILE: &str = "model.gguf";

/// What is written.
pub(super) struct Export<'a> {
    /// A Hugging Face directory.
    pub(super) model: &'a Path,
    /// An adapter that is added to it.
    pub(super) adapter: Option<&'a Path>,
    /// Where.
    pub(super) place: &'a ModelPlace,
    /// How weights are stored; as the model's config says where it is not given.
    pub(super) dtype: Option<FloatWord>,
    /// One GGUF file of this kind in the place of a Hugging Face directory.
    pub(super) gguf: Option<GgufWord>,
}

/// Writes the model of a checkpoint.
///
/// # Errors
/// Names the file, and the key or tensor that is missing, wrong or cannot be written; nothing is written then.
pub fn export(args: &ExportArgs) -> Result<()> {
    let checkpoint = checkpoint(&args.checkpoint);
    let (mut model, mut adapter) = (checkpoint.clone(), None);
    if PeftAdapter::is_in(&checkpoint) {
        if !args.merge_adapter {
            bail!(
                "{}: holds an adapter and no model: take the folder as it is, or have it added to the model \
                 (--merge-adapter)",
                checkpoint.display()
            );
        }
        model = base_of(&checkpoint)?;
        adapter = Some(checkpoint.as_path());
    } else if args.merge_adapter {
        bail!("{}: holds no adapter (adapter_config.json), so there is none to merge", checkpoint.display());
    }
    write(&Export { model: &model, adapter, place: &args.place, dtype: args.dtype, gguf: args.gguf })
}

/// The newest checkpoint of a run's folder, or the directory itself.
fn checkpoint(named: &Path) -> PathBuf {
    let is_model = named.join(CONFIG_FILE).exists() || PeftAdapter::is_in(named);
    RunFolder::newest_checkpoint(named).filter(|_| !is_model).unwrap_or_else(|| named.to_owned())
}

/// The directory of the model that an adapter was trained on.
fn base_of(adapter: &Path) -> Result<PathBuf> {
    let name = PathBuf::from(PeftAdapter::base_of(adapter)?);
    let beside = adapter.join(&name);
    match [name.clone(), beside].into_iter().find(|path| path.join(CONFIG_FILE).is_file()) {
        Some(found) => Ok(found),
        None => bail!(
            "{}: its model {} is not there; merge it from where it is (longhaul import peft BASE ADAPTER DIR)",
            adapter.display(),
            name.display()
        ),
    }
}

/// Writes a model, with an adapter or without.
pub(super) fn write(export: &Export<'_>) -> Result<()> {
    let mut model = ModelDirectory::open(export.model)?;
    let config = model.config().clone();
    let adapter = export.adapter.map(|dir| PeftAdapter::read(dir, &config)).transpose()?;
    let inputs: Vec<&Path> = [Some(export.model), export.adapter].into_iter().flatten().collect();
    let written = Written { export, config: &config, inputs: &inputs };
    match &adapter {
        Some(adapter) => written.write(&mut adapter.onto(&mut model)),
        None => written.write(&mut model),
    }
}

/// A model on its way.
struct Written<'a> {
    export: &'a Export<'a>,
    config: &'a DecoderConfig,
    inputs: &'a [&'a Path],
}

impl Written<'_> {
    fn write(&self, source: &mut dyn TensorSource) -> Result<()> {
        let said = match self.export.gguf {
            Some(word) => self.write_gguf(source, word)?,
            None => self.write_directory(source)?,
        };
        let millions = self.config.parameters() as f64 / 1e6;
        println!("{said}: {} of {millions:.1} million parameters", self.config.family.model_type);
        Ok(())
    }

    fn write_directory(&self, source: &mut dyn TensorSource) -> Result<String> {
        let Export { model, place, .. } = self.export;
        let mut json = config_of(model)?;
        let dtype = self.export.dtype.map_or_else(|| stated_type(&json), float_type);
        for key in ["dtype", "torch_dtype"] {
            json[key] = dtype.word().into();
        }
        let folder = OutputFolder::begin(&place.dir, place.overwrite, self.inputs)?;
        for file in tokenizer_files(model)? {
            if let ExtraFile::Write { name, content } = file {
                folder.write(&name, &content)?;
            }
        }
        folder.write(CONFIG_FILE, (serde_json::to_string_pretty(&json)? + "\n").as_bytes())?;
        let format = WeightFormat { dtype, shard_bytes: place.shard_size };
        write_weights(folder.path(), self.config, source, format)?;
        folder.finish()?;
        Ok(format!("{}: in {}", place.dir.display(), dtype.word()))
    }

    fn write_gguf(&self, source: &mut dyn TensorSource, word: GgufWord) -> Result<String> {
        let Export { model, place, .. } = self.export;
        let TokenizerKeys { mut keys, notes } = tokenizer_keys(model, self.config.vocabulary)?;
        let name = place.dir.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        keys.push(("general.name".to_owned(), MetaValue::Text(name)));
        let format = match word {
            GgufWord::F32 => GgufFormat::Float(FloatType::F32),
            GgufWord::F16 => GgufFormat::Float(FloatType::F16),
            GgufWord::Bf16 => GgufFormat::Float(FloatType::Bf16),
            GgufWord::Q8_0 => GgufFormat::Q8_0,
        };
        let folder = OutputFolder::begin(&place.dir, place.overwrite, self.inputs)?;
        write_gguf(&folder.path().join(GGUF_FILE), self.config, source, &keys, format)?;
        folder.finish()?;
        for note in notes {
            eprintln!("note: {}: {note}", model.display());
        }
        Ok(place.dir.join(GGUF_FILE).display().to_string())
    }
}

fn config_of(model: &Path) -> Result<Value> {
    let path = model.join(CONFIG_FILE);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// The type that a config states for its weights; f32 where it states none.
fn stated_type(config: &Value) -> FloatType {
    let stated = config["dtype"].as_str().or(config["torch_dtype"].as_str());
    let known = FloatType::ALL.into_iter().find(|dtype| stated == Some(dtype.word()));
    known.unwrap_or(FloatType::F32)
}
