//! The config of `longhaul replay`: a train config, of which it needs a part.

use std::path::Path;

use learner::{LearnerConfig, OptimizerConfig};
use rewards::RewardConfig;
use rollout::{DataConfig, QueueConfig, RolloutConfig};
use serde::Serialize;

use super::check::{complain, device, dtype, kl, layer_inputs, mismatch, positions, writing};
use super::document::Document;
use super::paths::ConfigPath;
use super::train::RUN_SECTIONS;
use super::{
    AlarmsSection, CheckpointSection, ConfigError, EvalSection, MetricsSection, ModelSection, RunSection,
    Sections, WatchdogSection, load, to_toml,
};

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

impl Sections for ReplayConfig {
    const ALLOWED: &[&str] = &RUN_SECTIONS;

    /// A section that a replay does not need may be absent, but where it is there it is read, so that a typo in it is
    /// found here and not when training.
    fn read(document: &mut Document) -> Result<Self, ConfigError> {
        let _: Option<DataConfig> = document.optional("data")?;
        let _: Option<QueueConfig> = document.optional("queue")?;
        let _: Option<WatchdogSection> = document.optional("watchdog")?;
        let _: Option<AlarmsSection> = document.optional("alarms")?;
        EvalSection::read(document)?;
        Ok(Self {
            run: document.section("run")?,
            model: document.section("model")?,
            rollout: document.optional("rollout")?,
            rewards: document.sections("rewards")?,
            learner: document.section("learner")?,
            optimizer: document.section("optimizer")?,
            checkpoint: document.section("checkpoint")?,
            metrics: document.section("metrics")?,
        })
    }

    /// Where the correctness comes from is a matter of the records.
    fn check(&mut self, document: &Document) -> Result<(), ConfigError> {
        device(document, self.run.device, self.run.threads)?;
        positions(document, self.model.positions_max)?;
        if let Some(rollout) = &self.rollout {
            complain(document, "", rollout.check())?;
        }
        mismatch(&mut self.learner, self.rollout.as_ref());
        complain(document, "", self.learner.check())?;
        complain(document, "", self.optimizer.check())?;
        let trains_adapters = self.learner.lora.is_some();
        dtype(document, self.model.dtype, &self.optimizer, trains_adapters, self.run.device)?;
        layer_inputs(document, "learner", &self.learner.gradients, self.run.device)?;
        kl(document, &self.learner)?;
        if self.learner.advantage.combines_advantages() && self.rewards.is_empty() {
            let key = "learner.advantage.combine";
            return Err(document.error(key, format!("{key}: which rewards? This config has no [[rewards]]")));
        }
        writing(document, self.checkpoint.keep_last, self.metrics.completions_every_steps)
    }

    fn paths(&mut self) -> Vec<ConfigPath<'_>> {
        let mut paths = vec![ConfigPath::new("model.path", &mut self.model.path)];
        paths.extend(ConfigPath::of_gradients(
            "learner.gradients.layer_inputs_dir",
            &mut self.learner.gradients,
        ));
        paths.extend(ConfigPath::given("learner.kl.reference", &mut self.learner.kl.reference));
        paths.extend(ConfigPath::given("model.base", &mut self.model.base));
        paths.extend(ConfigPath::of_adapter("learner.lora.adapter", &mut self.learner.lora));
        paths
    }
}

impl ReplayConfig {
    /// Reads and checks the part of a train config that a replay needs; `set` are the `KEY=VALUE` of the command line.
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

    /// The temperature that the completions were drawn at.
    #[must_use]
    pub fn temperature(&self) -> f64 {
        self.rollout.as_ref().map_or(1.0, |rollout| rollout.temperature)
    }
}
