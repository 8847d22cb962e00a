//! The keys of the penalty for leaving a reference model.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::LearnerError;

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
    /// Directory of the reference model. With `[learner.lora]` it may be left out: the reference is then the frozen model
    /// without its adapters, which takes no memory of its own.
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

impl KlConfig {
    /// A model whose adapters are trained has a reference of its own: itself without them.
    pub(super) fn check(&self, has_adapters: bool) -> Result<(), LearnerError> {
        if !self.coefficient.is_finite() || self.coefficient < 0.0 {
            let reason = format!("{} is not a weight of at least 0", self.coefficient);
            return Err(LearnerError::config("learner.kl.coefficient", reason));
        }
        if self.enabled && self.reference.is_none() && !has_adapters {
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
