//! What a run is to do: TOML, then typed sections, then a checked [`RunConfig`].
//!
//! Each crate owns the struct of its section. This file reads the file and the command line (and nothing else:
//! no environment), joins the sections, and refuses what contradicts itself between them; `document` knows
//! lines and nearest keys, `check` knows the contradictions.

mod sections;
mod document;
mod check;

use std::path::Path;

use learner::config::{ClipConfig, KlConfig, MptConfig, StreambpConfig};
use learner::{LearnerConfig, OptimizerConfig};
use rewards::{RewardConfig, TruncatedReward};
use rollout::{DataConfig, QueueConfig, RolloutConfig, StopConfig};
use serde::Serialize;

use document::{Document, Place};

pub(crate) use check::stand_ins;
pub use sections::{
    AlarmsSection, Best, CheckpointSection, Console, CreateSection, DeviceKind, EvalSection, MetricsSection,
    ModelSection, RunSection, Schedule, SftModelSection, SftPhase, SftRunSection, SftSection, ToolData,
    ToolModel, ToolSampling, WatchdogSection,
};

/// The tokens of a prompt that are reckoned with where nobody has seen the prompts.
pub(crate) const PROMPT_TOKENS: usize = 64;

/// A config that cannot be meant. It is one line: the file and line (or the override), the key, the reason.
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

/// The config of `longhaul train`, checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunConfig {
    /// `[run]`
    pub run: RunSection,
    /// `[model]`
    pub model: ModelSection,
    /// `[data]`
    pub data: DataConfig,
    /// `[rollout]`
    pub rollout: RolloutConfig,
    /// `[queue]`
    pub queue: QueueConfig,
    /// `[[rewards]]`
    pub rewards: Vec<RewardConfig>,
    /// `[learner]`
    pub learner: LearnerConfig,
    /// `[optimizer]`
    pub optimizer: OptimizerConfig,
    /// `[eval]`
    pub eval: EvalSection,
    /// `[checkpoint]`
    pub checkpoint: CheckpointSection,
    /// `[metrics]`
    pub metrics: MetricsSection,
    /// `[watchdog]`
    pub watchdog: WatchdogSection,
    /// `[alarms]`
    pub alarms: AlarmsSection,
}

/// The config of `longhaul sft`, checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SftRunConfig {
    /// `[run]`
    pub run: SftRunSection,
    /// `[model]`
    pub model: SftModelSection,
    /// `[data]`
    pub data: DataConfig,
    /// `[sft]`
    pub sft: SftSection,
    /// `[[rewards]]`: what evaluation judges by; by default the data's own kind of correctness.
    pub rewards: Vec<RewardConfig>,
    /// `[optimizer]`
    pub optimizer: OptimizerConfig,
    /// `[eval]`
    pub eval: EvalSection,
    /// `[checkpoint]`
    pub checkpoint: CheckpointSection,
    /// `[metrics]`
    pub metrics: MetricsSection,
}

/// The part of a train config that `longhaul replay` needs; the other sections may be there or not.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReplayConfig {
    /// `[run]`; of no steps, which is the default, all recorded groups are replayed.
    pub run: RunSection,
    /// `[model]`
    pub model: ModelSection,
    /// `[rollout]`, for the temperature that the completions were drawn at; 1 where it is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutConfig>,
    /// `[[rewards]]`, for the names and weights that `learner.advantage.combine = "advantage"` needs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rewards: Vec<RewardConfig>,
    /// `[learner]`
    pub learner: LearnerConfig,
    /// `[optimizer]`
    pub optimizer: OptimizerConfig,
    /// `[checkpoint]`
    pub checkpoint: CheckpointSection,
    /// `[metrics]`
    pub metrics: MetricsSection,
}

/// The part of a config that `longhaul score` needs: rewards, and what they refer to. Other sections of a run's
/// config may be there and are not read.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreConfig {
    /// `[[rewards]]`
    pub rewards: Vec<RewardConfig>,
    /// `[data]`, for the rewards that judge the problems of a task.
    pub data: Option<DataConfig>,
    /// `[rollout]`, for what truncated completions are worth.
    pub rollout: Option<RolloutConfig>,
}

/// A config file of either command.
#[derive(Clone, Debug, PartialEq)]
pub enum Config {
    /// For `longhaul train`.
    Train(Box<RunConfig>),
    /// For `longhaul sft`: a file with a section `[sft]`.
    Sft(Box<SftRunConfig>),
}

/// The settings of the commands that read no config file, from `--set` alone.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolConfig {
    /// `run.{seed,device,threads}`
    pub run: SftRunSection,
    /// `model.positions_max`
    pub model: ToolModel,
    /// `rollout.{output_tokens_max,temperature,top_p,top_k}` and what ends the answer.
    pub rollout: ToolSampling,
    /// `data.template`
    pub data: ToolData,
}

/// Everything that an evaluation needs to know, whichever config it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Where the held-out prompts come from: the other split of a task, or the file of `eval.data`.
    pub data: DataConfig,
    /// What answers are worth.
    pub rewards: Vec<RewardConfig>,
    /// The most tokens of an answer.
    pub output_tokens_max: usize,
    /// What ends an answer before that: the stops of `[rollout]`.
    pub stops: StopConfig,
    /// `[eval]`
    pub eval: EvalSection,
}

const RUN_SECTIONS: [&str; 13] = [
    "run",
    "model",
    "data",
    "rollout",
    "queue",
    "rewards",
    "learner",
    "optimizer",
    "eval",
    "checkpoint",
    "metrics",
    "watchdog",
    "alarms",
];

const SFT_SECTIONS: [&str; 9] =
    ["run", "model", "data", "sft", "rewards", "optimizer", "eval", "checkpoint", "metrics"];

impl Config {
    /// Reads a config of either kind; `set` are the `KEY=VALUE` of the command line.
    ///
    /// # Errors
    /// If the file cannot be read or cannot be meant.
    pub fn load(file: &Path, set: &[String]) -> Result<Self, ConfigError> {
        let document = open(file, set)?;
        if document.has("sft") {
            return SftRunConfig::from_document(document, file).map(|config| Self::Sft(Box::new(config)));
        }
        RunConfig::from_document(document, file).map(|config| Self::Train(Box::new(config)))
    }

    /// The config as TOML with every default filled in; it reads as the same config.
    #[must_use]
    pub fn resolved(&self) -> String {
        match self {
            Self::Train(config) => config.resolved(),
            Self::Sft(config) => config.resolved(),
        }
    }

    /// What `longhaul eval` is to measure; `None` where there is no held-out data.
    #[must_use]
    pub fn evaluation(&self) -> Option<Evaluation> {
        match self {
            Self::Train(config) => config.evaluation(),
            Self::Sft(config) => config.evaluation(),
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

impl RunConfig {
    /// Reads and checks a train config; `set` are the `KEY=VALUE` of the command line.
    ///
    /// Relative paths in it are looked for from the current directory first and then from the file's own folder.
    ///
    /// # Errors
    /// If the file cannot be read or cannot be meant.
    pub fn load(file: &Path, set: &[String]) -> Result<Self, ConfigError> {
        Self::from_document(open(file, set)?, file)
    }

    fn from_document(mut document: Document, file: &Path) -> Result<Self, ConfigError> {
        if document.has("sft") {
            return Err(document.error("sft", "`[sft]` makes this a config for `longhaul sft`"));
        }
        document.allow_only(&RUN_SECTIONS)?;
        let mut config = Self {
            run: document.section("run")?,
            model: document.section("model")?,
            data: document.section("data")?,
            rollout: document.section("rollout")?,
            queue: document.section("queue")?,
            rewards: document.sections("rewards")?,
            learner: document.section("learner")?,
            optimizer: document.section("optimizer")?,
            eval: eval_section(&mut document)?,
            checkpoint: document.section("checkpoint")?,
            metrics: document.section("metrics")?,
            watchdog: document.section("watchdog")?,
            alarms: document.section("alarms")?,
        };
        check::run(&document, &mut config)?;
        check::find_paths(&document, file, &mut config)?;
        Ok(config)
    }

    /// The config as TOML with every default filled in; it reads as the same config.
    #[must_use]
    pub fn resolved(&self) -> String {
        to_toml(self)
    }

    /// The files and folders that a run reads.
    #[must_use]
    pub fn files_read(&self) -> Vec<&Path> {
        let reference = self.learner.kl.reference.as_deref();
        let further = reference.into_iter().chain(self.eval.data.as_deref()).chain(data_file(&self.data));
        std::iter::once(self.model.path.as_path()).chain(further).collect()
    }

    /// What is measured on held-out prompts; `None` where there is no held-out data.
    #[must_use]
    pub fn evaluation(&self) -> Option<Evaluation> {
        Some(Evaluation {
            data: held_out(&self.data, &self.eval)?,
            rewards: match self.eval.rewards.is_empty() {
                true => self.rewards.clone(),
                false => self.eval.rewards.clone(),
            },
            output_tokens_max: self.rollout.output_tokens_max,
            stops: self.rollout.stops(),
            eval: self.eval.clone(),
        })
    }
}

impl SftRunConfig {
    /// Reads and checks an sft config; `set` are the `KEY=VALUE` of the command line.
    ///
    /// # Errors
    /// If the file cannot be read or cannot be meant.
    pub fn load(file: &Path, set: &[String]) -> Result<Self, ConfigError> {
        Self::from_document(open(file, set)?, file)
    }

    fn from_document(mut document: Document, file: &Path) -> Result<Self, ConfigError> {
        document.allow_only(&SFT_SECTIONS)?;
        let mut config = Self {
            run: document.section("run")?,
            model: document.section("model")?,
            data: document.section("data")?,
            sft: document.section("sft")?,
            rewards: document.sections("rewards")?,
            optimizer: document.section("optimizer")?,
            eval: eval_section(&mut document)?,
            checkpoint: document.section("checkpoint")?,
            metrics: document.section("metrics")?,
        };
        check::sft(&document, &mut config)?;
        check::find_sft_paths(&document, file, &mut config)?;
        Ok(config)
    }

    /// The config as TOML with every default filled in; it reads as the same config.
    #[must_use]
    pub fn resolved(&self) -> String {
        to_toml(self)
    }

    /// The files and folders that a run reads.
    #[must_use]
    pub fn files_read(&self) -> Vec<&Path> {
        let further = self.eval.data.as_deref().into_iter().chain(data_file(&self.data));
        self.model.path.as_deref().into_iter().chain(further).collect()
    }

    /// What is measured on held-out prompts; `None` where there is no held-out data.
    #[must_use]
    pub fn evaluation(&self) -> Option<Evaluation> {
        Some(Evaluation {
            data: held_out(&self.data, &self.eval)?,
            rewards: self.rewards.clone(),
            output_tokens_max: self.sft.output_tokens_max,
            stops: StopConfig::default(),
            eval: self.eval.clone(),
        })
    }
}

impl ReplayConfig {
    /// Reads and checks the part of a train config that a replay needs. A section that it does not need may be
    /// absent, but where it is there it is read, so that a typo in it is no surprise later.
    ///
    /// # Errors
    /// If the file cannot be read or cannot be meant.
    pub fn load(file: &Path, set: &[String]) -> Result<Self, ConfigError> {
        let mut document = open(file, set)?;
        document.allow_only(&RUN_SECTIONS)?;
        let _: Option<DataConfig> = document.optional("data")?;
        let _: Option<QueueConfig> = document.optional("queue")?;
        let _: Option<WatchdogSection> = document.optional("watchdog")?;
        let _: Option<AlarmsSection> = document.optional("alarms")?;
        eval_section(&mut document)?;
        let mut config = Self {
            run: document.section("run")?,
            model: document.section("model")?,
            rollout: document.optional("rollout")?,
            rewards: document.sections("rewards")?,
            learner: document.section("learner")?,
            optimizer: document.section("optimizer")?,
            checkpoint: document.section("checkpoint")?,
            metrics: document.section("metrics")?,
        };
        check::replay(&document, &mut config)?;
        check::find_replay_paths(&document, file, &mut config)?;
        Ok(config)
    }

    /// The config as TOML with every default filled in; it reads as the same config.
    #[must_use]
    pub fn resolved(&self) -> String {
        to_toml(self)
    }

    /// The temperature that the completions were drawn at.
    #[must_use]
    pub fn temperature(&self) -> f64 {
        self.rollout.as_ref().map_or(1.0, |rollout| rollout.temperature)
    }
}

impl ScoreConfig {
    /// Reads and checks the rewards of a config file; `set` are the `KEY=VALUE` of the command line.
    ///
    /// # Errors
    /// If the file cannot be read or its rewards cannot be meant.
    pub fn load(file: &Path, set: &[String]) -> Result<Self, ConfigError> {
        let mut document = open(file, set)?;
        document.allow_only(&RUN_SECTIONS)?;
        let mut config = Self {
            rewards: document.sections("rewards")?,
            data: document.optional("data")?,
            rollout: document.optional("rollout")?,
        };
        check::score(&document, &config)?;
        check::find_commands(&document, file, &mut config.rewards);
        Ok(config)
    }

    /// What truncated completions are worth.
    #[must_use]
    pub fn truncated_reward(&self) -> TruncatedReward {
        self.rollout.as_ref().map_or(TruncatedReward::default(), |rollout| rollout.truncated_reward)
    }
}

impl ToolConfig {
    /// The settings of `longhaul generate`: `run.*`, `rollout.*`, `model.positions_max` and `data.template.*`.
    ///
    /// # Errors
    /// If an assignment has an unknown key or a value that cannot be meant.
    pub fn for_generate(set: &[String]) -> Result<Self, ConfigError> {
        Self::from_sections(set, &["run", "model", "rollout", "data"])
    }

    /// The settings of `longhaul tokenize`: `data.template.*`.
    ///
    /// # Errors
    /// If an assignment has an unknown key or an invalid value.
    pub fn for_tokenize(set: &[String]) -> Result<Self, ConfigError> {
        Self::from_sections(set, &["data"])
    }

    /// The settings of `longhaul logprobs`: `run.*` and `model.positions_max`.
    ///
    /// # Errors
    /// If an assignment has an unknown key or a value that cannot be meant.
    pub fn for_logprobs(set: &[String]) -> Result<Self, ConfigError> {
        Self::from_sections(set, &["run", "model"])
    }

    fn from_sections(set: &[String], sections: &[&str]) -> Result<Self, ConfigError> {
        let mut document = Document::empty();
        apply(&mut document, set)?;
        document.allow_only(sections)?;
        let config = Self {
            run: document.section("run")?,
            model: document.section("model")?,
            rollout: document.section("rollout")?,
            data: document.section("data")?,
        };
        check::tool(&document, &config)?;
        Ok(config)
    }
}

/// `[eval]` with its `[[eval.rewards]]`, each read on its own, as those of training are.
fn eval_section(document: &mut Document) -> Result<EvalSection, ConfigError> {
    let rewards = document.sections_in("eval", "rewards")?;
    Ok(EvalSection { rewards, ..document.section("eval")? })
}

/// The file of the prompts, where they are not made.
fn data_file(data: &DataConfig) -> Option<&Path> {
    match data {
        DataConfig::Task(_) => None,
        DataConfig::Jsonl(file) => Some(&file.path),
    }
}

fn held_out(data: &DataConfig, eval: &EvalSection) -> Option<DataConfig> {
    match data {
        DataConfig::Task(_) => Some(data.clone()),
        DataConfig::Jsonl(training) => {
            let mut file = training.clone();
            file.path.clone_from(eval.data.as_ref()?);
            Some(DataConfig::Jsonl(file))
        }
    }
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
    document.know::<StreambpConfig>("learner.streambp");
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
