//! The keys of the advantage: from rewards to advantages.

use serde::{Deserialize, Serialize};

use crate::config::within;
use crate::error::LearnerError;

/// The section `[learner.advantage]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AdvantageConfig {
    /// GRPO-lambda (arXiv 2505.18086): the groups that are best solved learn to be short.
    GrpoLambda {
        /// Fraction of a step's groups that are efficiency groups.
        #[serde(default = "AdvantageConfig::default_lambda")]
        lambda: f64,
        /// Weight of length in an efficiency group's reward.
        #[serde(default = "AdvantageConfig::default_alpha")]
        alpha: f64,
        /// What becomes of reward parts other than correctness.
        #[serde(default)]
        surrogates: Surrogates,
    },
    /// `(r - mean) / (std + 1e-6)` within a group.
    Grpo {
        /// Where several rewards come together.
        #[serde(default)]
        combine: Combine,
    },
    /// `r - mean` within a group.
    DrGrpo {
        /// Where several rewards come together.
        #[serde(default)]
        combine: Combine,
    },
}

/// Where the rewards of a completion come together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// The weighted sum of the rewards has one advantage.
    #[default]
    Reward,
    /// Each reward has its own advantage in the group, and their weighted mean counts (LongWriter-Zero,
    /// arXiv 2506.18841): a reward of small spread is not drowned by one of large spread.
    Advantage,
}

impl AdvantageConfig {
    fn default_lambda() -> f64 {
        0.2
    }

    fn default_alpha() -> f64 {
        0.2
    }
}

/// What GRPO-lambda does with the part of a reward that is not correctness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Surrogates {
    /// The shaped reward comes from correctness alone, as in the paper.
    #[default]
    Ignore,
    /// `reward - correctness` is added to the shaped reward.
    Add,
}

impl AdvantageConfig {
    pub(super) fn check(&self) -> Result<(), LearnerError> {
        match self {
            Self::GrpoLambda { lambda, alpha, .. } => {
                within("learner.advantage.lambda", *lambda, 0.0, 1.0)?;
                // Above 1, a long correct answer could be worth less than a wrong one.
                within("learner.advantage.alpha", *alpha, 0.0, 1.0)
            }
            Self::Grpo { .. } | Self::DrGrpo { .. } => Ok(()),
        }
    }

    /// Whether rewards are shaped by correctness, so that one of the rewards must be marked as such.
    #[must_use]
    pub fn needs_correctness(&self) -> bool {
        matches!(self, Self::GrpoLambda { .. })
    }

    /// Whether each reward has an advantage of its own.
    #[must_use]
    pub fn combines_advantages(&self) -> bool {
        matches!(
            self,
            Self::Grpo { combine: Combine::Advantage } | Self::DrGrpo { combine: Combine::Advantage }
        )
    }
}
