//! The config of `longhaul train`.

use std::path::Path;

use learner::{LearnerConfig, OptimizerConfig};
use rewards::RewardConfig;
use rollout::{DataConfig, QueueConfig, RolloutConfig, Schedule};
use serde::Serialize;

use super::check::{
    complain, correctness, data, device, dtype, kl, kv_cache, layer_inputs, mismatch, positions, precision,
    rewards, watching, writing,
};
use super::document::Document;
use super::evaluation;
use super::paths::{ConfigPath, RewardAt};
use super::{
    AlarmsSection, CheckpointSection, ConfigError, EvalSection, Evaluation, MetricsSection, ModelSection,
    OUTPUT_TOKENS_KEY, RunSection, Sections, WatchdogSection, load, to_toml,
};

/// The sections of a train config.
pub(super) const RUN_SECTIONS: [&str; 13] = [
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

impl Sections for RunConfig {
    const ALLOWED: &[&str] = &RUN_SECTIONS;

    fn read(document: &mut Document) -> Result<Self, ConfigError> {
        Ok(Self {
            run: document.section("run")?,
            model: document.section("model")?,
            data: document.section("data")?,
            rollout: document.section("rollout")?,
            queue: document.section("queue")?,
            rewards: document.sections("rewards")?,
            learner: document.section("learner")?,
            optimizer: document.section("optimizer")?,
            eval: EvalSection::read(document)?,
            checkpoint: document.section("checkpoint")?,
            metrics: document.section("metrics")?,
            watchdog: document.section("watchdog")?,
            alarms: document.section("alarms")?,
        })
    }

    fn check(&mut self, document: &Document) -> Result<(), ConfigError> {
        device(document, self.run.device, self.run.threads)?;
        positions(document, self.model.positions_max)?;
        if self.run.steps == 0 {
            return Err(document.error("run.steps", "run.steps: must be given and at least 1"));
        }
        complain(document, "", self.rollout.check())?;
        precision(document, self.rollout.precision, self.run.device)?;
        mismatch(&mut self.learner, Some(&self.rollout));
        kv_cache(document, &self.rollout, self.run.device)?;
        complain(document, "", self.learner.check())?;
        complain(document, "", self.queue.check(self.learner.groups_per_step))?;
        complain(document, "", self.optimizer.check())?;
        data(document, &self.data)?;
        let trains_adapters = self.learner.lora.is_some();
        dtype(document, self.model.dtype, &self.optimizer, trains_adapters, self.run.device)?;
        rewards(document, "", Some(&self.data), &self.rewards)?;
        correctness(document, &self.learner, &self.rewards)?;
        layer_inputs(document, "learner", &self.learner.gradients, self.run.device)?;
        kl(document, &self.learner)?;
        evaluation::check(document, &self.data, &self.rewards, &mut self.eval)?;
        watching(document, &self.watchdog, &self.alarms)?;
        writing(document, self.checkpoint.keep_last, self.metrics.completions_every_steps)
    }

    fn paths(&mut self) -> Vec<ConfigPath<'_>> {
        let mut paths = vec![ConfigPath::new("model.path", &mut self.model.path)];
        paths.extend(ConfigPath::of_data("data", &mut self.data));
        paths.extend(self.eval.paths());
        paths.extend(ConfigPath::of_gradients(
            "learner.gradients.layer_inputs_dir",
            &mut self.learner.gradients,
        ));
        paths.extend(ConfigPath::given("learner.kl.reference", &mut self.learner.kl.reference));
        paths.extend(ConfigPath::given("model.base", &mut self.model.base));
        paths.extend(ConfigPath::of_adapter("learner.lora.adapter", &mut self.learner.lora));
        paths
    }

    fn rewards(&mut self) -> Vec<RewardAt<'_>> {
        let mut rewards = RewardAt::all("rewards", &mut self.rewards);
        rewards.extend(self.eval.rewards_at());
        rewards
    }
}

impl RunConfig {
    /// Reads and checks a train config; `set` are the `KEY=VALUE` of the command line.
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
        let reference = self.learner.kl.reference.as_deref();
        let adapter = self.learner.lora.as_ref().and_then(|lora| lora.adapter.as_deref());
        let models = reference.into_iter().chain(adapter).chain(self.model.base.as_deref());
        let further = models.chain(self.eval.files()).chain(self.data.files());
        std::iter::once(self.model.path.as_path()).chain(further).collect()
    }

    /// Whether training goes on while held-out prompts are answered.
    #[must_use]
    pub fn evaluates_beside(&self) -> bool {
        self.eval.beside.unwrap_or(self.run.schedule == Schedule::Async)
    }

    /// What is measured on held-out prompts, set by set; nothing where there is no held-out data.
    #[must_use]
    pub fn evaluations(&self) -> Vec<Evaluation> {
        Evaluation::sets(&Evaluation {
            set: None,
            data: self.data.clone(),
            rewards: self.rewards.clone(),
            output_tokens_max: self.rollout.output_tokens_max,
            output_tokens_key: OUTPUT_TOKENS_KEY,
            stops: self.rollout.stops(),
            mode: self.rollout.mode.clone(),
            eval: self.eval.clone(),
        })
    }
}
