//! What an answer is worth: the trait every verifier implements, the verifiers that come with the crate, tasks
//! that make their own verifiable problems, and the weighted sum that turns all of it into one reward.
//!
//! This crate knows text and numbers. It knows no tensors, no token ids and no policies, and it treats every
//! completion as hostile text: verifiers are linear in its length, never recurse into it and never run it.

#[cfg(test)]
mod stopwatch;
mod tasks;
mod boxed;
mod latex;
mod thoughts;
mod math;
mod tags;
mod format;
mod length;
mod overlong;
mod ramp;
mod fields;
mod words;
mod target_length;
mod think_length;
mod repetition;
mod on_error;
mod process;
mod judge;
mod config;
mod weighted;

pub use config::{RewardConfig, RewardContext, RewardKind, TruncatedReward};
pub use format::{FormatConfig, FormatStyle, FormatVerifier, is_well_formed};
pub use judge::{JudgeConfig, JudgeTemperature, JudgeVerifier, Omitted, RequestValue};
pub use length::{LengthConfig, LengthShape, LengthVerifier};
pub use math::{AnswerKind, MathConfig, MathVerifier, extract_answer, is_equivalent, is_readable};
pub use on_error::OnError;
pub use overlong::{OverlongConfig, OverlongVerifier};
pub use process::{ProcessConfig, ProcessVerifier};
pub use repetition::{RepetitionConfig, RepetitionVerifier};
pub use target_length::{LengthMatch, LengthTarget, TargetLengthConfig, TargetLengthVerifier};
pub use tasks::{DemonstrationConfig, Problem, Split, Style, Task, TaskConfig, TaskName, TaskVerifier};
pub use think_length::{ThinkLengthConfig, ThinkLengthVerifier, ThinkUnit};
pub use thoughts::reference_behind_thoughts;
pub use trajectory::Reward;
pub use weighted::{Judged, WeightedSum};
pub use words::{WordsConfig, WordsVerifier, word_count};

use std::collections::BTreeMap;

/// One finished completion with what a verifier may know about it.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The prompt's text, without a chat template.
    pub prompt: &'a str,
    /// The text that the policy wrote.
    pub completion: &'a str,
    /// The reference answers, any of which is right; empty where the data has none.
    pub references: &'a [String],
    /// All other fields of the data line, untouched.
    pub fields: &'a serde_json::Map<String, serde_json::Value>,
    /// Length of the completion in tokens.
    pub tokens: usize,
    /// Whether the output limit cut the completion off.
    pub truncated: bool,
}

/// What one verifier says about one answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// The unweighted value.
    pub value: f64,
    /// Named quantities behind the value, for the metrics; they do not enter the total.
    pub parts: BTreeMap<String, f64>,
    /// Why there is no verdict, where `on_error = "zero"` lets a 0 stand in for it.
    pub failure: Option<String>,
}

impl From<f64> for Verdict {
    fn from(value: f64) -> Self {
        Verdict { value, ..Verdict::default() }
    }
}

impl From<bool> for Verdict {
    /// Right is 1 and wrong is 0.
    fn from(right: bool) -> Self {
        Verdict::from(f64::from(u8::from(right)))
    }
}

/// Judges answers. It must not panic on any text and must give the same verdict for the same answer.
pub trait Verifier: Send + Sync {
    /// Judges one answer.
    ///
    /// # Errors
    /// When the answer cannot be judged at all (a missing reference, a failed service). A wrong answer is a
    /// verdict, not an error: an error stops the run.
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError>;

    /// Judges several answers, in their order. A verifier that waits for a process or a service
    /// overrides this and waits for all of them at once.
    fn verify_all(&self, answers: &[Answer<'_>]) -> Vec<Result<Verdict, RewardError>> {
        answers.iter().map(|answer| self.verify(answer)).collect()
    }

    /// Whether an answer to this prompt could be judged, asked before anything is answered: the completion is empty and
    /// is not looked at.
    ///
    /// # Errors
    /// What the prompt's data line lacks.
    fn check(&self, question: &Answer<'_>) -> Result<(), RewardError> {
        let _ = question;
        Ok(())
    }

    /// The final answer that a completion gives, for a majority vote among several; `None` where it gives none, and from a
    /// verifier that reads none.
    fn final_answer(&self, answer: &Answer<'_>) -> Option<String> {
        let _ = answer;
        None
    }

    /// Whether two final answers of one prompt are votes for the same one.
    fn is_same_answer(&self, one: &str, other: &str) -> bool {
        one == other
    }

    /// Counters since the verifier was made (timeouts, restarts), for the metrics; they only rise.
    fn counters(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }
}

/// Everything that can go wrong between a config, a completion and its reward.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RewardError {
    /// A config value that cannot work.
    #[error("{key}: {reason}")]
    Config {
        /// The key, with the entry's place where it is one of several (`rewards[1].weight`).
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A verifier could not judge an answer.
    #[error("reward `{name}` failed on the prompt {prompt:?}: {source}")]
    Verifier {
        /// Name of the reward.
        name: String,
        /// Start of the prompt.
        prompt: String,
        /// The verifier's own error.
        source: Box<RewardError>,
    },
    /// A value or part of a verifier is infinite or not a number.
    #[error("reward `{name}` gave {value} on the prompt {prompt:?}; a reward must be finite")]
    NotFinite {
        /// Name of the reward, or `name/part`.
        name: String,
        /// The value.
        value: f64,
        /// Start of the prompt.
        prompt: String,
    },
    /// The reward that is marked as the correctness gave something else than 0 or 1.
    #[error(
        "reward `{name}` is the correctness and gave {value} on the prompt {prompt:?}; it must be 0 or 1"
    )]
    NotZeroOrOne {
        /// Name of the reward.
        name: String,
        /// The value.
        value: f64,
        /// Start of the prompt.
        prompt: String,
    },
    /// The verifier compares with a reference and the data line has none.
    #[error("the field `answer` is missing or empty, and this verifier compares with it")]
    MissingReference,
    /// The verifier compares with a reference, and one of the data line is a thought without an answer behind it.
    #[error(
        "the field `answer` holds nothing but thoughts, and this verifier compares with what stands behind them"
    )]
    ReferenceOfThoughts,
    /// A field of the data line is absent or holds what cannot be used.
    #[error("the field `{name}` {reason}")]
    Field {
        /// Name of the field.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The prompt was not made by the task that is asked about it.
    #[error("the prompt is not a problem of the task `{task}`")]
    ForeignPrompt {
        /// Name of the task.
        task: &'static str,
    },
    /// The answer got no verdict, and the config says to leave its group out of training and go on.
    #[error("{reason}; its group is left out")]
    SkipGroup {
        /// Why there is no verdict.
        reason: String,
    },
    /// For verifiers outside this crate.
    #[error("{0}")]
    Custom(String),
}

impl RewardError {
    /// Whether only the answer's group is lost, and not the run.
    pub fn skips_group(&self) -> bool {
        match self {
            RewardError::SkipGroup { .. } => true,
            RewardError::Verifier { source, .. } => source.skips_group(),
            _ => false,
        }
    }

    fn config(key: impl Into<String>, reason: impl Into<String>) -> Self {
        RewardError::Config { key: key.into(), reason: reason.into() }
    }
}
