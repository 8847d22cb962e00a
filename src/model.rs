//! What surrounds a model's weights: its engine, its tokenizer, its adapters, and a new one made for the tasks.

pub mod adapters;
pub mod engine;
pub mod policy;
pub mod generator;
pub mod memory;
pub mod gguf;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use kernels::model::families::{self, Family};
use kernels::{Decoder, DecoderConfig, Device, Engine, Lora, ModelPlace, Precision};
use learner::checkpoint::ExtraFile;
use learner::config::KlConfig;
use rollout::Text;
use serde_json::json;

use crate::config::{CreateSection, ModelDtype, check_shape};
use crate::model::policy::Policy;
use crate::records::folder::RunFolder;

/// The files beside the weights that a directory needs to stay whole.
const TOKENIZER_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "tokenizer.model",
];

/// The folder of chat templates beside the default one.
const MORE_TEMPLATES: &str = "additional_chat_templates";

/// Families of models, one of which a model is of.
pub type Families<'a> = &'a [&'static Family];

/// A model with its text, checked against each other.
pub struct Model {
    /// Weights and their shape.
    pub decoder: Decoder,
    /// Tokenizer and chat template.
    pub text: Arc<Text>,
    /// Files that a checkpoint takes along.
    pub tokenizer_files: Vec<ExtraFile>,
    /// What a person should know about the model, said by [`Model::tell`] once there is a log.
    pub notes: Vec<String>,
}

/// A model's small files, checked against each other: what is wrong with them is said before gigabytes are read.
pub struct ModelFiles {
    place: ModelPlace,
    families: Vec<&'static Family>,
    /// What the weights are like.
    pub decoder: DecoderConfig,
    /// Tokenizer and chat template.
    pub text: Arc<Text>,
    /// What a person should know about the model.
    pub notes: Vec<String>,
}

impl ModelFiles {
    /// Reads a Hugging Face directory but for its weights, or that of an adapter with its base: the one that is given, or
    /// else the one that the adapter names.
    ///
    /// # Errors
    /// Names the file that is missing or wrong, or the tokenizer that does not fit the vocabulary.
    pub fn read(dir: &Path, base: Option<&Path>) -> Result<Self> {
        refuse_other_formats(dir)?;
        Self::read_at(ModelPlace::find(dir, base)?, &families::ALL)
    }

    /// [`ModelFiles::read`] of a model of one of these families.
    ///
    /// # Errors
    /// As there.
    pub fn read_at(place: ModelPlace, families: Families<'_>) -> Result<Self> {
        let dir = &place.base;
        refuse_other_formats(dir)?;
        let decoder = DecoderConfig::read_as(dir, families)?;
        let text = Text::load(dir)?.for_rows(decoder.vocabulary)?;
        let mut notes = text.notes().to_vec();
        notes.extend(place.adapter.as_deref().and_then(|adapter| other_text(adapter, dir)));
        let families = families.to_vec();
        Ok(Self { place, families, decoder, text: Arc::new(text), notes })
    }

    /// Where its files are.
    #[must_use]
    pub fn place(&self) -> &ModelPlace {
        &self.place
    }

    /// Bytes of the tokenizer's file.
    #[must_use]
    pub fn tokenizer_bytes(&self) -> u64 {
        std::fs::metadata(self.place.base.join(TOKENIZER_FILES[0])).map_or(0, |file| file.len())
    }

    /// The same model for sequences of so many tokens, where the number is given.
    #[must_use]
    pub fn with_positions(mut self, positions_max: Option<usize>) -> Self {
        self.notes.extend(set_positions(&mut self.decoder, positions_max));
        self
    }

    /// The weights as decoding reads them, and no others, with adapters beside them.
    ///
    /// # Errors
    /// Names the file that is missing or wrong.
    pub fn load_policy<E: Engine>(&self, engine: &E, dtype: Option<ModelDtype>) -> Result<Policy<E>> {
        self.load_policy_at(engine, stored_precision(engine, &self.place.base, &self.decoder, dtype)?)
    }

    /// [`ModelFiles::load_policy`] at a precision.
    ///
    /// # Errors
    /// As there.
    pub fn load_policy_at<E: Engine>(&self, engine: &E, precision: Precision) -> Result<Policy<E>> {
        let (base, config) = (&self.place.base, &self.decoder);
        let policy = Policy::load(engine, base, config, precision)?;
        Ok(match &self.place.adapter {
            Some(dir) => policy.adapted(engine, &Lora::load(dir, base, config, &engine.device())?),
            None => policy,
        })
    }

    /// The model with its weights, packed at a precision on the CPU where they are not trained.
    ///
    /// # Errors
    /// Names the file that is missing or wrong.
    pub fn load(self, device: &Device, packed: Option<Precision>) -> Result<Model> {
        let mut decoder = match packed {
            Some(precision) => Decoder::load_packed(&self.place, &self.families, precision)?,
            None => Decoder::load_at(&self.place, &self.families, device)?,
        };
        decoder.config.max_positions = self.decoder.max_positions;
        Ok(Model {
            decoder,
            text: self.text,
            tokenizer_files: tokenizer_files(&self.place.base)?,
            notes: self.notes,
        })
    }
}

/// The precision of weights that are not trained: the one that is asked for, or that of the model's files where the engine
/// has it, which then changes no number.
///
/// # Errors
/// Names the file that is missing or wrong.
pub fn stored_precision(
    engine: &impl Engine,
    dir: &Path,
    config: &DecoderConfig,
    dtype: Option<ModelDtype>,
) -> Result<Precision> {
    let has = |precision: Precision| engine.capabilities().weights.contains(&precision);
    match dtype.map(ModelDtype::precision) {
        Some(precision) if has(precision) => Ok(precision),
        Some(_) => {
            bail!("model.dtype: the device of this run has no weights of this precision; leave the key out")
        }
        None => {
            Ok(Some(Decoder::files_precision(dir, config)?).filter(|stored| has(*stored)).unwrap_or_default())
        }
    }
}

/// The frozen model that a penalty measures the distance from, where there is one. Where it is the base of adapters that
/// are trained, it is that one without them, shared. Another one is stored as the model is.
///
/// # Errors
/// Names the file that is missing or wrong.
pub fn reference(
    kl: &KlConfig,
    families: Families<'_>,
    decoder: &Decoder,
    dtype: Option<ModelDtype>,
) -> Result<Option<Decoder>> {
    let Some(path) = kl.reference.as_ref().filter(|_| kl.enabled) else { return Ok(None) };
    let is_base = |lora: &Lora| path.canonicalize().ok() == lora.base.canonicalize().ok();
    if decoder.lora.as_ref().is_some_and(is_base) {
        return Ok(Some(decoder.frozen()));
    }
    Ok(Some(match dtype {
        Some(ModelDtype::Bf16) => {
            Decoder::load_packed(&ModelPlace::find(path, None)?, families, Precision::Bf16)?
        }
        Some(ModelDtype::F32) | None => Decoder::load_as(path, families, &decoder.device())?,
    }))
}

/// Says what a directory is that is no model of Hugging Face's.
fn refuse_other_formats(dir: &Path) -> Result<()> {
    if let Some(gguf) = gguf_in(dir) {
        bail!(
            "{}: GGUF is not read where a directory is expected; make one of it first (longhaul import gguf FILE DIR)",
            gguf.display()
        );
    }
    if let Some(newest) = RunFolder::newest_checkpoint(dir).filter(|_| !dir.join("config.json").exists()) {
        bail!("{}: this is the folder of a run; the model is in {}", dir.display(), newest.display());
    }
    Ok(())
}

/// Files of a tokenizer beside an adapter that are not those of its base, which are the ones that are used.
fn other_text(adapter: &Path, base: &Path) -> Option<String> {
    let differs = |name: &&&str| {
        let own = std::fs::read(adapter.join(name)).ok();
        own.is_some_and(|own| std::fs::read(base.join(name)).ok() != Some(own))
    };
    let name = ["tokenizer.json", "chat_template.jinja"].iter().find(differs)?;
    Some(format!(
        "{}: is not that of the base {}, which is used; copy it there if the adapter was trained with it",
        adapter.join(name).display(),
        base.display()
    ))
}

/// A model in llama.cpp's format, where a directory was expected.
fn gguf_in(path: &Path) -> Option<PathBuf> {
    let is_gguf = |path: &Path| path.extension().is_some_and(|extension| extension == "gguf");
    if path.is_file() {
        return is_gguf(path).then(|| path.to_owned());
    }
    if path.join("config.json").exists() {
        return None;
    }
    let files = std::fs::read_dir(path).ok()?;
    files.filter_map(|file| Some(file.ok()?.path())).find(|path| is_gguf(path))
}

impl Model {
    /// Reads a Hugging Face directory, or that of an adapter with the base that it names.
    ///
    /// # Errors
    /// Names the file that is missing or wrong, or the tokenizer that does not fit the vocabulary.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        ModelFiles::read(dir, None)?.load(device, None)
    }

    /// Says in the log what a person should know about the model.
    pub fn tell(&self) {
        tell(&self.notes);
    }

    /// Makes a model of the given size with random weights, whose tokens are the characters of the tasks.
    /// Its tokenizer is written to `dir`.
    ///
    /// # Errors
    /// Names the file that cannot be written, or the size that cannot be.
    pub fn create(create: &CreateSection, seed: u64, dir: &Path, device: &Device) -> Result<Self> {
        let vocabulary = write_tokenizer(dir, rewards::Task::alphabet())?;
        let shape = create.shape(vocabulary);
        check_shape(&shape).context("model.create")?;
        let config = DecoderConfig {
            tied: create.tied,
            eos_ids: vec![EOS_ID],
            padding_id: Some(i64::from(PADDING_ID)),
            ..DecoderConfig::llama(shape)
        };
        let decoder = Decoder::random(config, seed, device);
        let text = Arc::new(Text::load(dir)?);
        Ok(Self { decoder, text, tokenizer_files: tokenizer_files(dir)?, notes: Vec::new() })
    }
}

/// Says in the log what a person should know about a model.
pub fn tell(notes: &[String]) {
    notes.iter().for_each(|note| tracing::warn!("{note}"));
}

/// Sets how long sequences may be, where the number is given, and says so where the model was not made for it.
#[must_use]
pub fn set_positions(config: &mut DecoderConfig, positions_max: Option<usize>) -> Option<String> {
    let own = config.own_positions();
    config.max_positions = positions_max.unwrap_or(own);
    (config.max_positions > own).then(|| {
        let (asked, stated) = (config.max_positions, &config.to_json()["max_position_embeddings"]);
        format!(
            "model.positions_max = {asked}: the model was made for {own} positions, and may be wrong beyond them; a \
             checkpoint of it states max_position_embeddings = {stated}"
        )
    })
}

/// Writes a model of this shape with random weights to `dir`, for measurements: a Hugging Face directory whose tokens
/// are single characters, those of the tasks first.
///
/// # Errors
/// If the vocabulary has no room for the tasks' characters, or a file cannot be written.
pub fn write_random(config: DecoderConfig, seed: u64, dir: &Path) -> Result<()> {
    let alphabet = rewards::Task::alphabet();
    let known = alphabet.chars().count() + [PADDING, EOS].len();
    let Some(more) = config.vocabulary.checked_sub(known) else {
        bail!("a vocabulary of {} tokens: the characters of the tasks take {known}", config.vocabulary);
    };
    let others = ('\u{4e00}'..=char::MAX).filter(|character| !alphabet.contains(*character));
    let alphabet: String = alphabet.chars().chain(others.take(more)).collect();
    write_tokenizer(dir, &alphabet)?;
    let config = DecoderConfig { eos_ids: vec![EOS_ID], padding_id: Some(i64::from(PADDING_ID)), ..config };
    Ok(Decoder::random(config, seed, &Device::flex()).save(dir)?)
}

/// The files of a model's directory that a checkpoint takes along: tokenizer, template, generation settings.
/// They are held in memory, because a run that was resumed may remove the checkpoint that they came from.
///
/// # Errors
/// If one cannot be read.
pub fn tokenizer_files(dir: &Path) -> Result<Vec<ExtraFile>> {
    let mut names: Vec<String> = TOKENIZER_FILES.iter().map(|name| (*name).to_owned()).collect();
    let more = dir.join(MORE_TEMPLATES);
    if more.is_dir() {
        let entries = std::fs::read_dir(&more).with_context(|| more.display().to_string())?;
        let mut templates = Vec::new();
        for entry in entries {
            let name = entry.with_context(|| more.display().to_string())?.file_name();
            let shown = more.join(&name);
            let name = name.into_string().ok();
            templates.push(name.with_context(|| format!("{}: the name is not UTF-8", shown.display()))?);
        }
        templates.sort();
        names.extend(templates.iter().map(|name| format!("{MORE_TEMPLATES}/{name}")));
    }
    let files = names.into_iter().filter(|name| dir.join(name).is_file());
    files
        .map(|name| {
            let path = dir.join(&name);
            let content = std::fs::read(&path).with_context(|| path.display().to_string())?;
            Ok(ExtraFile::Write { name, content })
        })
        .collect()
}

const PADDING_ID: u32 = 0;
const EOS_ID: u32 = 1;
const PADDING: &str = "<pad>";
const EOS: &str = "</s>";

/// Writes `tokenizer.json` and `tokenizer_config.json` of a tokenizer of single characters; returns the
/// number of ids.
fn write_tokenizer(dir: &Path, alphabet: &str) -> Result<usize> {
    let mut vocabulary = serde_json::Map::new();
    for token in [PADDING, EOS].map(str::to_owned).into_iter().chain(alphabet.chars().map(String::from)) {
        let id = vocabulary.len();
        vocabulary.insert(token, id.into());
    }
    let count = vocabulary.len();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(PADDING_ID, PADDING), special(EOS_ID, EOS)],
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "vocab": vocabulary, "merges": []},
    });
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": EOS, "pad_token": PADDING,
        "clean_up_tokenization_spaces": false,
    });
    write_json(&dir.join("tokenizer.json"), &tokenizer)?;
    write_json(&dir.join("tokenizer_config.json"), &config)?;
    Ok(count)
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    std::fs::write(path, text + "\n").with_context(|| path.display().to_string())
}
