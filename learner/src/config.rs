//! The knobs of the `[learner]` section, and which values of them are invalid.
//!
//! A method that the file does not name is off; a method that it names has the numbers of its paper
//! unless the file gives others. The resolved configuration shows every value, so none is hidden. The
//! sampling temperature belongs to `[rollout]` and is handed to the learner by the root.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::LearnerError;

mod gradients;
mod sampling;

pub use gradients::{GradientsConfig, LayerInputsPlace, StreambpConfig};
pub use sampling::DynamicSampling;

/// The section `[learner]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnerConfig {
    /// Groups in one optimizer step.
    pub groups_per_step: usize,
    /// Tokens, prompts included, in one micro-batch. A longer sequence is a micro-batch of its own.
    pub batch_tokens_max: usize,
    /// What becomes of groups of equal rewards, which teach nothing.
    #[serde(default)]
    pub dynamic_sampling: DynamicSampling,
    /// The most groups that `dynamic_sampling = "refill"` takes for a step, as a multiple of `groups_per_step`; the step
    /// then goes on with those of them that teach something.
    #[serde(default = "LearnerConfig::default_refill_batches_max")]
    pub refill_batches_max: usize,
    /// From rewards to advantages.
    pub advantage: AdvantageConfig,
    /// What the importance ratio divides by.
    #[serde(default)]
    pub importance: ImportanceConfig,
    /// What is done about actors whose log-probabilities are not the learner's. Absent is nothing; the root
    /// fills it in by how the actors decode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mismatch: Option<MismatchConfig>,
    /// Limits of the importance ratio.
    #[serde(default)]
    pub clip: ClipConfig,
    /// Masking of well-mastered positive tokens.
    #[serde(default)]
    pub mpt: MptConfig,
    /// How gradients are computed.
    #[serde(default)]
    pub gradients: GradientsConfig,
    /// Penalty for leaving a reference model.
    #[serde(default)]
    pub kl: KlConfig,
}

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

    /// What is meant where the config says nothing: nothing is to be corrected where actors decode with the
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

/// The section `[learner.kl]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KlConfig {
    /// Adds the penalty to the loss.
    pub enabled: bool,
    /// Weight of the penalty.
    #[serde(default)]
    pub coefficient: f64,
    /// Estimator of the divergence, at each token.
    #[serde(default)]
    pub estimator: KlEstimator,
    /// Directory of the reference model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<PathBuf>,
}

/// Estimators of the divergence from the reference at a drawn token, with
/// `d = logp_reference - logp_learner`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// `-d`.
    K1,
    /// `d^2 / 2`.
    K2,
    /// `exp(d) - d - 1`.
    #[default]
    K3,
}

impl LearnerConfig {
    /// Enough where a quarter of the groups teach something. Where fewer do, other prompts serve better than more of
    /// the same, and an alarm says so.
    fn default_refill_batches_max() -> usize {
        4
    }

    /// The most groups that one step takes.
    #[must_use]
    pub fn step_groups_max(&self) -> usize {
        match self.dynamic_sampling {
            DynamicSampling::Refill => self.groups_per_step.saturating_mul(self.refill_batches_max),
            DynamicSampling::Off | DynamicSampling::Drop => self.groups_per_step,
        }
    }

    /// Says which value is invalid.
    ///
    /// # Errors
    /// [`LearnerError::Config`] with the first key whose value is out of its range, or that contradicts
    /// another one.
    pub fn check(&self) -> Result<(), LearnerError> {
        at_least_one("learner.groups_per_step", self.groups_per_step)?;
        at_least_one("learner.batch_tokens_max", self.batch_tokens_max)?;
        at_least_one("learner.refill_batches_max", self.refill_batches_max)?;
        self.advantage.check()?;
        self.check_mismatch()?;
        self.clip.check()?;
        self.mpt.check()?;
        self.gradients.check()?;
        self.kl.check()
    }

    fn check_mismatch(&self) -> Result<(), LearnerError> {
        let Some(cap) = self.mismatch.and_then(|mismatch| mismatch.cap()) else { return Ok(()) };
        if !(cap.is_finite() && cap > 0.0) {
            let reason = format!("{cap} is not a finite weight above 0");
            return Err(LearnerError::config("learner.mismatch.cap", reason));
        }
        if self.importance.kind == ImportanceKind::Sais {
            let reason = "\"tis\" would divide by the actor's probability twice: under importance.kind = \"sais\" the \
                          ratio divides by it already";
            return Err(LearnerError::config("learner.mismatch.kind", reason));
        }
        Ok(())
    }
}

impl AdvantageConfig {
    fn check(&self) -> Result<(), LearnerError> {
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

impl ClipConfig {
    fn check(&self) -> Result<(), LearnerError> {
        within("learner.clip.low", self.low, 0.0, 1.0)?;
        // An infinite upper room is a way to say "no upper clip", so only its sign is checked.
        if self.high >= 0.0 {
            return Ok(());
        }
        Err(LearnerError::config("learner.clip.high", format!("{} is below 0", self.high)))
    }
}

impl MptConfig {
    fn check(&self) -> Result<(), LearnerError> {
        within("learner.mpt.tau", self.tau, 0.0, 1.0)?;
        if self.sigma >= 0.0 {
            return Ok(());
        }
        Err(LearnerError::config("learner.mpt.sigma", format!("{} is below 0", self.sigma)))
    }
}

impl KlConfig {
    fn check(&self) -> Result<(), LearnerError> {
        if !self.coefficient.is_finite() || self.coefficient < 0.0 {
            let reason = format!("{} is not a weight of at least 0", self.coefficient);
            return Err(LearnerError::config("learner.kl.coefficient", reason));
        }
        if self.enabled && self.reference.is_none() {
            let reason = "is missing: a penalty that is enabled needs the directory of its reference model";
            return Err(LearnerError::config("learner.kl.reference", reason));
        }
        Ok(())
    }

    /// Whether a reference can be compared with the model, token by token.
    ///
    /// # Errors
    /// If their vocabularies, in entries, differ.
    pub fn check_vocabulary(&self, reference: usize, model: usize) -> Result<(), LearnerError> {
        if reference == model {
            return Ok(());
        }
        let reason = format!("the reference has a vocabulary of {reference} entries, the model of {model}");
        Err(LearnerError::config("learner.kl.reference", reason))
    }
}

pub(crate) fn at_least_one(key: &'static str, value: usize) -> Result<(), LearnerError> {
    if value >= 1 { Ok(()) } else { Err(LearnerError::config(key, "must be at least 1")) }
}

pub(crate) fn within(key: &'static str, value: f64, low: f64, high: f64) -> Result<(), LearnerError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    let range = match (low, high) {
        (low, f64::MAX) => format!("is not a finite number of at least {low}"),
        (low, high) => format!("is not in [{low}, {high}]"),
    };
    Err(LearnerError::config(key, format!("{value} {range}")))
}

#[cfg(test)]
mod tests;
