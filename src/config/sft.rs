//! The config of `longhaul sft`.

use std::path::Path;

use learner::OptimizerConfig;
use rewards::{MathConfig, RewardConfig, RewardKind};
use rollout::{DataConfig, ModeConfig, StopConfig};
use serde::Serialize;

use super::check::{at_least_one, complain, data, device, dtype, layer_inputs, positions, rewards, writing};
use super::document::Document;
use super::evaluation;
use super::paths::{ConfigPath, RewardAt};
use super::{
    CheckpointSection, ConfigError, CreateSection, EvalSection, Evaluation, MetricsSection, Sections,
    SftModelSection, SftRunSection, SftSection, ShapeFault, check_shape, load, to_toml,
};

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

impl Sections for SftRunConfig {
    const ALLOWED: &[&str] =
        &["run", "model", "data", "sft", "rewards", "optimizer", "eval", "checkpoint", "metrics"];

    fn read(document: &mut Document) -> Result<Self, ConfigError> {
        Ok(Self {
            run: document.section("run")?,
            model: document.section("model")?,
            data: document.section("data")?,
            sft: document.section("sft")?,
            rewards: document.sections("rewards")?,
            optimizer: document.section("optimizer")?,
            eval: EvalSection::read(document)?,
            checkpoint: document.section("checkpoint")?,
            metrics: document.section("metrics")?,
        })
    }

    fn check(&mut self, document: &Document) -> Result<(), ConfigError> {
        device(document, self.run.device, self.run.threads)?;
        positions(document, self.model.positions_max)?;
        at_least_one(document, "sft.steps_max", self.sft.steps_max as usize)?;
        at_least_one(document, "sft.batch_size", self.sft.batch_size)?;
        at_least_one(document, "sft.batch_tokens_max", self.sft.batch_tokens_max)?;
        at_least_one(document, "sft.output_tokens_max", self.sft.output_tokens_max)?;
        // The learner names its own section, whose keys these are too.
        let cuts =
            self.sft.gradients.check().map_err(|error| error.to_string().replacen("learner.", "sft.", 1));
        complain(document, "", cuts)?;
        if let Some(lora) = &self.sft.lora {
            let checked = lora.check().map_err(|error| error.to_string().replacen("learner.", "sft.", 1));
            complain(document, "", checked)?;
        }
        layer_inputs(document, "sft", &self.sft.gradients, self.run.device)?;
        complain(document, "", self.optimizer.check())?;
        data(document, &self.data)?;
        dtype(document, self.model.dtype, &self.optimizer, self.sft.lora.is_some(), self.run.device)?;
        starting_model(document, self)?;
        demonstrations(document, self)?;
        if self.rewards.is_empty() {
            self.rewards.push(default_correctness(&self.data));
        }
        rewards(document, "", Some(&self.data), &self.rewards)?;
        if !self.eval.rewards.is_empty() {
            let message = "eval.rewards: an sft config is measured by its [[rewards]]; write them there";
            return Err(document.error("eval.rewards", message));
        }
        evaluation::check(document, &self.data, &self.rewards, &mut self.eval)?;
        stop_accuracy(document, self)?;
        writing(document, self.checkpoint.keep_last, self.metrics.completions_every_steps)
    }

    fn paths(&mut self) -> Vec<ConfigPath<'_>> {
        let mut paths: Vec<_> = ConfigPath::given("model.path", &mut self.model.path).into_iter().collect();
        paths.extend(ConfigPath::of_data("data", &mut self.data));
        paths.extend(ConfigPath::of_gradients("sft.gradients.layer_inputs_dir", &mut self.sft.gradients));
        paths.extend(ConfigPath::given("model.base", &mut self.model.base));
        paths.extend(ConfigPath::of_adapter("sft.lora.adapter", &mut self.sft.lora));
        paths.extend(self.eval.paths());
        paths
    }

    fn rewards(&mut self) -> Vec<RewardAt<'_>> {
        let mut rewards = RewardAt::all("rewards", &mut self.rewards);
        rewards.extend(self.eval.rewards_at());
        rewards
    }
}

impl SftRunConfig {
    /// Reads and checks an sft config; `set` are the `KEY=VALUE` of the command line.
    ///
    /// Relative paths in it are looked for from the current directory first and then from the file's own folder.
    ///
    /// # Errors
    /// If the file cannot be read or is invalid.
    pub fn load(file: &Path, set: &[String]) -> Result<Self, ConfigError> {
        load(file, set)
    }

    /// The config as TOML with every default filled in; it reads as the same config.
    #[must_use]
    pub fn resolved(&self) -> String {
        to_toml(self)
    }

    /// The files and folders that a run reads.
    #[must_use]
    pub fn files_read(&self) -> Vec<&Path> {
        let adapter = self.sft.lora.as_ref().and_then(|lora| lora.adapter.as_deref());
        let models = self.model.base.as_deref().into_iter().chain(adapter);
        let further = models.chain(self.eval.files()).chain(self.data.files());
        self.model.path.as_deref().into_iter().chain(further).collect()
    }

    /// What is measured on held-out prompts, set by set; nothing where there is no held-out data.
    #[must_use]
    pub fn evaluations(&self) -> Vec<Evaluation> {
        Evaluation::sets(&Evaluation {
            set: None,
            data: self.data.clone(),
            rewards: self.rewards.clone(),
            output_tokens_max: self.sft.output_tokens_max,
            output_tokens_key: "sft.output_tokens_max",
            stops: StopConfig::default(),
            mode: ModeConfig::default(),
            eval: self.eval.clone(),
        })
    }
}

fn starting_model(document: &Document, config: &SftRunConfig) -> Result<(), ConfigError> {
    let create = match (&config.model.path, &config.model.create) {
        (Some(_), None) => return Ok(()),
        (None, Some(_)) if config.sft.lora.is_some() => {
            let message =
                "sft.lora: a new model has nothing to keep; leave it out, and all weights are trained";
            return Err(document.error("sft.lora", message));
        }
        (None, Some(_)) if config.model.positions_max.is_some() => {
            let key = "model.positions_max";
            let message = format!("{key}: a new model has model.create.max_positions; leave it out");
            return Err(document.error(key, message));
        }
        (None, Some(create)) => create,
        _ => {
            let message = "[model] needs either path (a model to go on with) or [model.create] (a new one)";
            return Err(document.error("model", message));
        }
    };
    if !matches!(config.data, DataConfig::Task(_)) {
        let message =
            "model.create: a new model knows the alphabet of the tasks only, so data.kind must be \"task\"";
        return Err(document.error("model.create", message));
    }
    shape(document, create)
}

fn shape(document: &Document, create: &CreateSection) -> Result<(), ConfigError> {
    // How many ids there are is the tokenizer's business.
    let Err(ShapeFault { field, reason }) = check_shape(&create.shape(1)) else { return Ok(()) };
    let key = match field {
        "positions" => "model.create.max_positions".to_owned(),
        "shape" => "model.create".to_owned(),
        field => format!("model.create.{field}"),
    };
    Err(document.error(&key, format!("{key}: {reason}")))
}

fn demonstrations(document: &Document, config: &SftRunConfig) -> Result<(), ConfigError> {
    let phase_steps: u64 = config.sft.phases.iter().map(|phase| phase.steps).sum();
    if phase_steps > config.sft.steps_max {
        let message =
            format!("sft.phases: {phase_steps} steps together, but sft.steps_max = {}", config.sft.steps_max);
        return Err(document.error("sft.phases", &message));
    }
    for styles in config.sft.phases.iter().filter_map(|phase| phase.demonstrations.as_ref()) {
        complain(document, "sft.phases.demonstrations.", styles.check())?;
    }
    match (&config.data, &config.sft.demonstrations) {
        (DataConfig::Task(_), Some(styles)) => complain(document, "sft.demonstrations.", styles.check()),
        (DataConfig::Task(_), None) => {
            let message =
                "[sft.demonstrations] is missing: data.kind = \"task\" needs the weights of the styles";
            Err(document.error("sft", message))
        }
        (DataConfig::File(_), Some(_)) => {
            let message =
                "sft.demonstrations: data.kind = \"file\" has its demonstrations in the file; leave it out";
            Err(document.error("sft.demonstrations", message))
        }
        (DataConfig::File(_), None) => Ok(()),
    }
}

fn stop_accuracy(document: &Document, config: &SftRunConfig) -> Result<(), ConfigError> {
    let Some(accuracy) = config.sft.stop_accuracy else { return Ok(()) };
    if !(accuracy > 0.0 && accuracy <= 1.0) {
        let message = format!("sft.stop_accuracy: must be above 0 and at most 1, got {accuracy}");
        return Err(document.error("sft.stop_accuracy", message));
    }
    if config.eval.every_steps == 0 {
        let message = "sft.stop_accuracy: nothing is measured on the way; set eval.every_steps";
        return Err(document.error("sft.stop_accuracy", message));
    }
    Ok(())
}

/// A task judges its own problems; other data has the reference answers that mathematics is compared with.
fn default_correctness(data: &DataConfig) -> RewardConfig {
    let kind = match data {
        DataConfig::Task(_) => RewardKind::Task {},
        DataConfig::File(_) => RewardKind::Math(MathConfig::default()),
    };
    RewardConfig::new(kind, 1.0, true)
}
