//! What a run is to do: TOML, then typed sections, then a checked [`RunConfig`].
//!
//! Each crate owns the struct of its section. This file reads the file and the command line (and nothing else:
//! no environment), and has a config for each command that reads one: `train`, `sft`, `replay`, `score` and `tool` say
//! which sections theirs has. `document` knows lines and nearest keys, `check` what contradicts itself between sections.

mod sections;
mod engine;
mod document;
mod check;
mod paths;
mod shape;
mod evaluation;
mod train;
mod sft;
mod replay;
mod score;
mod tool;

use std::path::Path;

use learner::config::{ClipConfig, KlConfig, MptConfig, StreambpConfig};
use learner::{LearnerConfig, OptimizerConfig};
use rollout::{QueueConfig, RolloutConfig, RolloutError};
use serde::Serialize;

use document::{Document, Place};
use paths::{ConfigPath, Finder, RewardAt};

pub(crate) use check::stand_ins;
pub use engine::{DeviceKind, ModelDtype, cache_precision, packed_base, weights_precision};
pub use evaluation::{EvalSection, EvalSet, Evaluation};
pub use replay::ReplayConfig;
pub use rollout::Schedule;
pub use score::ScoreConfig;
pub use sections::{
    AlarmsSection, Best, CheckpointSection, Console, CreateSection, MetricsSection, ModelSection, RunSection,
    SftModelSection, SftPhase, SftRunSection, SftSection, ToolData, ToolModel, ToolSampling, WatchdogSection,
};
pub use sft::SftRunConfig;
pub use shape::{ShapeFault, check_shape};
pub use tool::ToolConfig;
pub use train::RunConfig;

/// The tokens of a prompt that are assumed where the prompts have not been read.
pub(crate) const PROMPT_TOKENS: usize = 64;

/// A config that is invalid. It is one line: the file and line (or the override), the key, the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ConfigError {
    place: Place,
    message: String,
}

impl ConfigError {
    fn new(place: Place, message: String) -> Self {
        Self { place, message }
    }
}

/// The key of a train config for the longest output.
pub(crate) const OUTPUT_TOKENS_KEY: &str = "rollout.output_tokens_max";

/// Adds where a key is set to an error that names the key and was found after the config had been read.
#[must_use]
pub fn placed(error: anyhow::Error, file: Option<&Path>, set: &[String]) -> anyhow::Error {
    let key = error.chain().find_map(|cause| match cause.downcast_ref::<RolloutError>() {
        Some(RolloutError::Config { key, .. }) => Some(*key),
        _ => None,
    });
    match key.and_then(|key| place_of(key, file, set)) {
        Some(place) => error.context(place),
        None => error,
    }
}

/// Where a key is set; nothing where a file cannot be read again, or nobody has set it.
fn place_of(key: &str, file: Option<&Path>, set: &[String]) -> Option<String> {
    let mut document = match file {
        Some(file) => Document::read(file).ok()?,
        None => Document::empty(),
    };
    set.iter().try_for_each(|assignment| document.set(assignment)).ok()?;
    (file.is_some() || document.is_given(key)).then(|| document.place(key).to_string())
}

/// A config file of either command.
#[derive(Clone, Debug, PartialEq)]
pub enum Config {
    /// For `longhaul train`.
    Train(Box<RunConfig>),
    /// For `longhaul sft`: a file with a section `[sft]`.
    Sft(Box<SftRunConfig>),
}

impl Config {
    /// Reads a config of either kind; `set` are the `KEY=VALUE` of the command line.
    ///
    /// # Errors
    /// If the file cannot be read or is invalid.
    pub fn load(file: &Path, set: &[String]) -> Result<Self, ConfigError> {
        let document = open(file, set)?;
        if document.has("sft") {
            return from_document(document, file).map(|config| Self::Sft(Box::new(config)));
        }
        from_document(document, file).map(|config| Self::Train(Box::new(config)))
    }

    /// The config as TOML with every default filled in; it reads as the same config.
    #[must_use]
    pub fn resolved(&self) -> String {
        match self {
            Self::Train(config) => config.resolved(),
            Self::Sft(config) => config.resolved(),
        }
    }

    /// What `longhaul eval` is to measure, set by set; nothing where there is no held-out data.
    #[must_use]
    pub fn evaluations(&self) -> Vec<Evaluation> {
        match self {
            Self::Train(config) => config.evaluations(),
            Self::Sft(config) => config.evaluations(),
        }
    }

    /// Tokens of the longest sequence, where the config says it.
    #[must_use]
    pub fn positions_max(&self) -> Option<usize> {
        match self {
            Self::Train(config) => config.model.positions_max,
            Self::Sft(config) => config.model.positions_max,
        }
    }

    /// The device and the threads that the config asks for.
    #[must_use]
    pub fn device(&self) -> (DeviceKind, Option<usize>) {
        match self {
            Self::Train(config) => (config.run.device, config.run.threads),
            Self::Sft(config) => (config.run.device, config.run.threads),
        }
    }
}

/// What a command reads of a config file.
trait Sections: Sized {
    /// The sections that a file may have.
    const ALLOWED: &[&str];

    /// Takes the sections out of a file.
    fn read(document: &mut Document) -> Result<Self, ConfigError>;

    /// Refuses what contradicts itself, and fills in what depends on other sections.
    fn check(&mut self, document: &Document) -> Result<(), ConfigError>;

    /// The paths of files and folders that the command reads.
    fn paths(&mut self) -> Vec<ConfigPath<'_>> {
        Vec::new()
    }

    /// The rewards whose plugins the command starts.
    fn rewards(&mut self) -> Vec<RewardAt<'_>> {
        Vec::new()
    }
}

/// Reads and checks what a command needs of a file; `set` are the `KEY=VALUE` of the command line.
fn load<C: Sections>(file: &Path, set: &[String]) -> Result<C, ConfigError> {
    from_document(open(file, set)?, file)
}

fn from_document<C: Sections>(mut document: Document, file: &Path) -> Result<C, ConfigError> {
    if document.has("sft") && !C::ALLOWED.contains(&"sft") {
        return Err(document.error("sft", "`[sft]` makes this a config for `longhaul sft`"));
    }
    // Named before its sections are: they are unknown to the other command only.
    if C::ALLOWED.contains(&"sft") && !document.has("sft") && document.has("learner") {
        let message = "`[learner]` makes this a config for `longhaul train`; one for `longhaul sft` has a section `[sft]`";
        return Err(document.error("learner", message));
    }
    document.allow_only(C::ALLOWED)?;
    document.refuse_streambp("learner")?;
    document.refuse_streambp("sft")?;
    let mut config = C::read(&mut document)?;
    config.check(&document)?;
    let finder = Finder { document: &document, file };
    for path in config.paths() {
        finder.replace(path)?;
    }
    finder.commands(config.rewards())?;
    Ok(config)
}

fn open(file: &Path, set: &[String]) -> Result<Document, ConfigError> {
    let mut document = Document::read(file)?;
    apply(&mut document, set)?;
    Ok(document)
}

fn apply(document: &mut Document, set: &[String]) -> Result<(), ConfigError> {
    for assignment in set {
        document.set(assignment)?;
    }
    document.know::<RunSection>("run");
    document.know::<ModelSection>("model");
    document.know::<RolloutConfig>("rollout");
    document.know::<QueueConfig>("queue");
    document.know::<LearnerConfig>("learner");
    document.know::<ClipConfig>("learner.clip");
    document.know::<MptConfig>("learner.mpt");
    document.know::<KlConfig>("learner.kl");
    document.know::<StreambpConfig>("learner.gradients");
    document.know::<OptimizerConfig>("optimizer");
    document.know::<EvalSection>("eval");
    document.know::<CheckpointSection>("checkpoint");
    document.know::<MetricsSection>("metrics");
    Ok(())
}

fn to_toml(config: &impl Serialize) -> String {
    toml::to_string(config).expect("sections are structs of plain values, whose keys are strings")
}

#[cfg(test)]
mod tests;
