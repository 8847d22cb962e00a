//! Keys of `[data]` that say which rows are taken, from which files, and in which order.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::mapping::{AnswerConfig, FewShotConfig};
use super::{JsonlConfig, RowFormat};
use crate::error::RolloutError;
use crate::prompt::order::quotas;

/// The most files of a run.
const SOURCES_MAX: usize = 256;

/// A part of the rows: each row belongs to it by a hash of its content, wherever it stands in the file and whatever is
/// added to the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitConfig {
    /// Which part.
    #[serde(default)]
    pub name: SplitName,
    /// The share of the rows that `train` has, about.
    pub fraction: f64,
    /// Another seed is another split.
    #[serde(default)]
    pub seed: u64,
}

/// A part of the rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitName {
    /// The fraction.
    #[default]
    Train,
    /// The rest; `test`, `validation` and `eval` are the same.
    #[serde(alias = "test", alias = "validation", alias = "eval")]
    HeldOut,
}

impl SplitName {
    /// The part that has the other rows.
    pub fn other(self) -> Self {
        match self {
            Self::Train => Self::HeldOut,
            Self::HeldOut => Self::Train,
        }
    }
}

/// The order of rows by a number that they have: a difficulty, or the `pass_rate` that `longhaul filter` measures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurriculumConfig {
    /// The field with the number.
    pub field: String,
    /// Which rows come first. Rows of one number are shuffled.
    #[serde(default)]
    pub order: CurriculumOrder,
}

/// Which rows come first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CurriculumOrder {
    /// Those of the smallest number.
    #[default]
    Ascending,
    /// Those of the largest number.
    Descending,
}

/// One of several files. Keys that it leaves out are those of `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// The file.
    /// Default: required.
    #[serde(default)]
    pub path: PathBuf,
    /// Its format, in place of the one that its name says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<RowFormat>,
    /// Its share of the prompts, as a ratio to the weights of the others. Without weights every row is as frequent as any
    /// other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// As `data.prompt`.
    #[serde(default, alias = "prompt_field", skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// As `data.prompt_template`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_template: Option<String>,
    /// As `data.answer`.
    #[serde(default, alias = "answer_field", skip_serializing_if = "Option::is_none")]
    pub answer: Option<AnswerConfig>,
    /// As `data.completion`.
    #[serde(default, alias = "completion_field", skip_serializing_if = "Option::is_none")]
    pub completion: Option<String>,
    /// As `data.chat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat: Option<bool>,
    /// As `data.system_prompt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// As `data.few_shot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub few_shot: Option<FewShotConfig>,
}

impl SourceConfig {
    /// The whole config of this file.
    pub(super) fn over(&self, shared: &JsonlConfig) -> JsonlConfig {
        // A field or a template of its own takes the place of either of the shared ones.
        let (prompt, prompt_template) = match (&self.prompt, &self.prompt_template) {
            (None, None) => (shared.prompt.clone(), shared.prompt_template.clone()),
            own => (own.0.clone(), own.1.clone()),
        };
        JsonlConfig {
            path: Some(self.path.clone()),
            format: self.format.or(shared.format),
            prompt,
            prompt_template,
            answer: self.answer.clone().or_else(|| shared.answer.clone()),
            completion: self.completion.clone().or_else(|| shared.completion.clone()),
            chat: self.chat.unwrap_or(shared.chat),
            system_prompt: self.system_prompt.clone().or_else(|| shared.system_prompt.clone()),
            few_shot: self.few_shot.clone().or_else(|| shared.few_shot.clone()),
            sources: Vec::new(),
            ..shared.clone()
        }
    }
}

/// Refuses weights that say no share.
pub(super) fn check_weights(sources: &[SourceConfig]) -> Result<(), RolloutError> {
    let fault = |reason: String| Err(RolloutError::Config { key: "sources", reason });
    if sources.len() > SOURCES_MAX {
        return fault(format!("must be at most {SOURCES_MAX} files, got {}", sources.len()));
    }
    if let Some(place) = sources.iter().position(|source| source.path.as_os_str().is_empty()) {
        return fault(format!("entry {} has no path", place + 1));
    }
    let weights: Vec<f64> = sources.iter().filter_map(|source| source.weight).collect();
    if !weights.is_empty() && weights.len() < sources.len() {
        return fault("some have a weight and some have none; give all of them one, or none".to_owned());
    }
    if let Some(weight) = weights.iter().find(|weight| !(weight.is_finite() && **weight > 0.0)) {
        return fault(format!(
            "a weight must be finite and above 0, got {weight}; leave a file out otherwise"
        ));
    }
    quotas(&weights).map(drop).or_else(fault)
}
