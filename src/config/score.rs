//! The config of `longhaul score`: the rewards of a train config, or a file of nothing else.

use std::path::Path;

use rewards::{RewardConfig, TruncatedReward};
use rollout::{DataConfig, RolloutConfig};

use super::check::rewards;
use super::document::Document;
use super::paths::RewardAt;
use super::train::RUN_SECTIONS;
use super::{ConfigError, Sections, load};

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

impl Sections for ScoreConfig {
    const ALLOWED: &[&str] = &RUN_SECTIONS;

    fn read(document: &mut Document) -> Result<Self, ConfigError> {
        Ok(Self {
            rewards: document.sections("rewards")?,
            data: document.optional("data")?,
            rollout: document.optional("rollout")?,
        })
    }

    fn check(&mut self, document: &Document) -> Result<(), ConfigError> {
        rewards(document, "", self.data.as_ref(), &self.rewards)
    }

    fn rewards(&mut self) -> Vec<RewardAt<'_>> {
        RewardAt::all("rewards", &mut self.rewards)
    }
}

impl ScoreConfig {
    /// Reads and checks the rewards of a config file; `set` are the `KEY=VALUE` of the command line.
    ///
    /// # Errors
    /// If the file cannot be read or its rewards are invalid.
    pub fn load(file: &Path, set: &[String]) -> Result<Self, ConfigError> {
        load(file, set)
    }

    /// What truncated completions are worth.
    #[must_use]
    pub fn truncated_reward(&self) -> TruncatedReward {
        self.rollout.as_ref().map_or(TruncatedReward::default(), |rollout| rollout.truncated_reward)
    }
}
