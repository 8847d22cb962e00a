//! The keys of the mask of well-mastered positive tokens.

use serde::{Deserialize, Serialize};

use crate::config::within;
use crate::error::LearnerError;

/// The section `[learner.mpt]` (UloRL, equations 9 and 10).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MptConfig {
    /// Masks well-mastered positive tokens.
    pub enabled: bool,
    /// Probability from which on a token is mastered.
    #[serde(default = "MptConfig::default_tau")]
    pub tau: f64,
    /// Mean token entropy, in nats, below which masking sets in.
    #[serde(default = "MptConfig::default_sigma")]
    pub sigma: f64,
    /// Which completions count as positive.
    #[serde(default)]
    pub positive: MptPositive,
    /// Over what the entropy is averaged.
    #[serde(default)]
    pub scope: MptScope,
}

impl MptConfig {
    fn default_tau() -> f64 {
        0.99
    }

    fn default_sigma() -> f64 {
        0.2
    }
}

impl Default for MptConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            tau: Self::default_tau(),
            sigma: Self::default_sigma(),
            positive: MptPositive::default(),
            scope: MptScope::default(),
        }
    }
}

/// Which completions count as positive for the mask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MptPositive {
    /// Those whose correctness is 1.
    #[default]
    Correct,
    /// Those whose advantage is above 0, for runs without labels.
    Advantage,
}

/// Over what the mask's entropy is averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MptScope {
    /// Over the tokens of the completion itself, as in the paper.
    #[default]
    Completion,
    /// Over all completion tokens of the step; costs one more forward pass.
    Batch,
}

impl MptConfig {
    pub(super) fn check(&self) -> Result<(), LearnerError> {
        within("learner.mpt.tau", self.tau, 0.0, 1.0)?;
        if self.sigma >= 0.0 {
            return Ok(());
        }
        Err(LearnerError::config("learner.mpt.sigma", format!("{} is below 0", self.sigma)))
    }
}
