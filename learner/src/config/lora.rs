//! The section `[learner.lora]`: adapters are trained in the place of the weights. The words are those of peft.

use std::path::PathBuf;

use kernels::{Decoder, LoraConfig, TargetModules};
use serde::{Deserialize, Serialize};

use crate::error::LearnerError;

/// The section `[learner.lora]`, and `[sft.lora]`: low-rank adapters (LoRA, arXiv 2106.09685) are trained beside a frozen
/// model. Checkpoints hold them alone, in peft's format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraSection {
    /// Columns of B and rows of A: `r` of peft.
    pub rank: usize,
    /// The product of an adapter is multiplied with `alpha / rank`: `lora_alpha` of peft.
    pub alpha: f64,
    /// Which projections have an adapter: names such as `["q_proj", "v_proj"]`, or `"all-linear"` for all of them.
    pub target_modules: TargetModules,
    /// Divides alpha by the square root of the rank (rsLoRA, arXiv 2312.03732).
    #[serde(default)]
    pub use_rslora: bool,
    /// Only 0 is computed: with dropout the actors would decode with another model than the learner trains.
    #[serde(default)]
    pub dropout: f64,
    /// Directory of an adapter in peft's format that training goes on with; absent begins with one that changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<PathBuf>,
}

impl LoraSection {
    /// The form of the adapters.
    #[must_use]
    pub fn form(&self) -> LoraConfig {
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha,
            target_modules: self.target_modules.clone(),
            use_rslora: self.use_rslora,
        }
    }

    /// Says which value is invalid, by the keys of `[learner]`.
    ///
    /// # Errors
    /// [`LearnerError::Config`] with the first key whose value is out of its range.
    pub fn check(&self) -> Result<(), LearnerError> {
        super::at_least_one("learner.lora.rank", self.rank)?;
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            let reason = format!("{} is not a finite number above 0", self.alpha);
            return Err(LearnerError::config("learner.lora.alpha", reason));
        }
        if self.dropout != 0.0 {
            let reason = format!(
                "{}: dropout of adapters is not computed; set it to 0, or leave the key out",
                self.dropout
            );
            return Err(LearnerError::config("learner.lora.dropout", reason));
        }
        Ok(())
    }
}

/// A model is trained by its adapters where the config says so, and only there: otherwise a run would train nothing of
/// what it was asked for.
pub(crate) fn check_trained(
    key: &'static str,
    lora: Option<&LoraSection>,
    decoder: &Decoder,
) -> Result<(), LearnerError> {
    match (lora, &decoder.lora) {
        (Some(section), Some(lora)) => {
            let differs = |error: kernels::KernelError| LearnerError::config(key, error.to_string());
            lora.check_form(&section.form(), &decoder.config).map_err(differs)
        }
        (Some(_), None) => Err(LearnerError::config(key, "the model has no adapters that could be trained")),
        (None, Some(_)) => {
            let reason =
                "is missing, and the model has adapters: merge them first, or train them by this section";
            Err(LearnerError::config(key, reason))
        }
        (None, None) => Ok(()),
    }
}
