//! The keys of the `[learner]` section and which values of them are invalid. The keys of a method are in a file of
//! their own.
//!
//! A method that the file does not name is off; a method that it names has the numbers of its paper
//! unless the file gives others. The resolved configuration shows every value, so none is hidden. The
//! sampling temperature belongs to `[rollout]` and is handed to the learner by the root.

use serde::{Deserialize, Serialize};

use crate::error::LearnerError;

mod sampling;
mod advantage;
mod policy;
mod mpt;
mod kl;
mod gradients;
mod lora;
mod sft;

pub use advantage::{AdvantageConfig, Combine, Surrogates};
pub use gradients::{GradientsConfig, LayerInputsPlace, StreambpConfig};
pub use kl::{KlConfig, KlEstimator};
pub use lora::LoraSection;
pub(crate) use lora::check_trained;
pub use mpt::{MptConfig, MptPositive, MptScope};
pub use policy::{ClipConfig, ImportanceConfig, ImportanceKind, MismatchConfig};
pub use sampling::DynamicSampling;
pub use sft::{Settings, SftConfig};

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
    /// Adapters that are trained in the place of the weights; absent trains all weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSection>,
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
        at_most("learner.groups_per_step", self.groups_per_step, GROUPS_MAX)?;
        at_most("learner.refill_batches_max", self.refill_batches_max, REFILL_BATCHES_MAX)?;
        self.advantage.check()?;
        if let Some(mismatch) = &self.mismatch {
            mismatch.check(self.importance.kind)?;
        }
        self.clip.check()?;
        self.mpt.check()?;
        self.gradients.check()?;
        self.lora.as_ref().map_or(Ok(()), LoraSection::check)?;
        self.kl.check(self.lora.is_some())
    }
}

/// The most groups of a step, and of a step's refills as a multiple: far above what a step has time for, and small enough
/// that their product with the tokens of a group does not overflow.
const GROUPS_MAX: usize = 1 << 20;
const REFILL_BATCHES_MAX: usize = 1 << 10;

fn at_most(key: &'static str, value: usize, most: usize) -> Result<(), LearnerError> {
    match value <= most {
        true => Ok(()),
        false => Err(LearnerError::config(key, format!("must be at most {most}, got {value}"))),
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
