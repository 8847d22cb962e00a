//! The keys of the policy's loss: importance ratio, its limits, and the correction of a train-inference mismatch.

use serde::{Deserialize, Serialize};

use crate::config::within;
use crate::error::LearnerError;

/// The section `[learner.importance]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportanceConfig {
    /// What the importance ratio divides by.
    pub kind: ImportanceKind,
}

/// What the importance ratio divides by (UloRL, arXiv 2507.19766).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceKind {
    /// The learner's own log-probability with its gradient stopped: the ratio is 1 and never clipped.
    #[default]
    Pois,
    /// The log-probability that the actor stored when it drew the token.
    Sais,
}

/// The section `[learner.mismatch]`: actors draw from another distribution than the learner computes where their
/// weights are rounded or older.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum MismatchConfig {
    /// It is measured and nothing is done about it (UloRL's POIS).
    None {},
    /// Truncated importance sampling ("Your Efficient RL Framework Secretly Brings You Off-Policy RL Training",
    /// Yao et al. 2025): the policy-gradient term of a token is multiplied by `min(p_learner / p_actor, cap)`,
    /// of the learner's weights before the update, without a gradient of its own.
    Tis {
        /// The largest weight of a token: a token that the learner thinks far likelier than its actor did does
        /// not outweigh all others.
        #[serde(default = "MismatchConfig::default_cap")]
        cap: f64,
    },
}

impl MismatchConfig {
    fn default_cap() -> f64 {
        2.0
    }

    /// The default: nothing is to be corrected where actors decode with the
    /// learner's own weights, and under SAIS the ratio itself is the correction.
    #[must_use]
    pub fn by_default(rounded_rollouts: bool, importance: ImportanceKind) -> Self {
        match (rounded_rollouts, importance) {
            (true, ImportanceKind::Pois) => Self::Tis { cap: Self::default_cap() },
            (false, _) | (_, ImportanceKind::Sais) => Self::None {},
        }
    }

    /// The largest weight, where tokens are weighted.
    #[must_use]
    pub fn cap(&self) -> Option<f64> {
        match self {
            Self::None {} => None,
            Self::Tis { cap } => Some(*cap),
        }
    }

    /// Says which value is invalid beside this importance ratio.
    pub(super) fn check(&self, importance: ImportanceKind) -> Result<(), LearnerError> {
        let Some(cap) = self.cap() else { return Ok(()) };
        if !(cap.is_finite() && cap > 0.0) {
            let reason = format!("{cap} is not a finite weight above 0");
            return Err(LearnerError::config("learner.mismatch.cap", reason));
        }
        if importance == ImportanceKind::Sais {
            let reason = "\"tis\" would divide by the actor's probability twice: under importance.kind = \"sais\" the \
                          ratio divides by it already";
            return Err(LearnerError::config("learner.mismatch.kind", reason));
        }
        Ok(())
    }
}

/// The section `[learner.clip]`: the ratio is held in `[1 - low, 1 + high]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    /// Room below 1.
    pub low: f64,
    /// Room above 1.
    pub high: f64,
}

impl Default for ClipConfig {
    fn default() -> Self {
        Self { low: 0.2, high: 0.2 }
    }
}

impl ClipConfig {
    pub(super) fn check(&self) -> Result<(), LearnerError> {
        within("learner.clip.low", self.low, 0.0, 1.0)?;
        // An infinite upper room is a way to say "no upper clip", so only its sign is checked.
        if self.high >= 0.0 {
            return Ok(());
        }
        Err(LearnerError::config("learner.clip.high", format!("{} is below 0", self.high)))
    }
}
