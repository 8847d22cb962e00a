//! All prompts of a source looked at before the first of them is answered: what is wrong with which row, and how long the
//! prompts are.

use rewards::{RewardError, WeightedSum};

use super::config::Learn;
use crate::bad_rows::{BadRows, RowProblem, RowRefusal};

/// What prompts must have to be used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Needs<'a> {
    /// The longest prompt that leaves room for an output; absent is any.
    pub prompt_tokens_max: Option<usize>,
    /// The rewards that will judge answers.
    pub rewards: Option<&'a WeightedSum>,
    /// What demonstrations must have, where rows are such.
    pub demonstrations: Option<DemonstrationNeeds>,
}

impl Needs<'_> {
    /// Refuses a prompt without tokens, or with more than leave room for an output.
    pub(super) fn room_for(&self, prompt_tokens: usize) -> Result<(), RowRefusal> {
        let problem = match self.prompt_tokens_max {
            _ if prompt_tokens == 0 => {
                RowProblem::Empty.because("has no tokens, so there is nothing to continue")
            }
            Some(most) if prompt_tokens > most => RowProblem::Long
                .because(format!("has {prompt_tokens} tokens, but at most {most} fit beside the output")),
            _ => return Ok(()),
        };
        Err(problem)
    }
}

/// What demonstrations must have to be learned from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DemonstrationNeeds {
    /// The turns that are learned.
    pub learn: Learn,
    /// How long prompt and target may be together.
    pub tokens_max: usize,
}

/// How long prompts are, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptLengths {
    /// Of the shortest one.
    pub min: usize,
    /// Of the one in the middle.
    pub median: usize,
    /// Of the longest one.
    pub max: usize,
}

impl PromptLengths {
    /// `None` without any.
    pub(super) fn of(mut lengths: Vec<usize>) -> Option<Self> {
        lengths.sort_unstable();
        let (min, max) = (*lengths.first()?, *lengths.last()?);
        Some(Self { min, median: lengths[lengths.len() / 2], max })
    }
}

/// What was found when all prompts of a source were looked at; of a task, its first ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The file, or the task's name.
    pub source: String,
    /// The prompts that were looked at and can be used.
    pub prompts: usize,
    /// Whether the source has no others.
    pub is_whole: bool,
    /// Their lengths.
    pub lengths: PromptLengths,
    /// Those among them with a reference answer.
    pub answered: usize,
    /// Those whose reference answer stands behind thoughts, which are not compared with.
    pub thought_answers: usize,
    /// Those whose last turn was the assistant's, which `last_assistant` took out or left open.
    pub last_assistant: usize,
    /// What a person may not expect of the rows that are used: roles that chat templates seldom know, fields that are
    /// not read.
    pub notes: Vec<String>,
    /// The rows that are left out, if there are any.
    pub skipped: Option<BadRows>,
}

impl Survey {
    /// How many rows are left out.
    pub fn rows_skipped(&self) -> usize {
        self.skipped.as_ref().map_or(0, |skipped| skipped.bad.len())
    }
}

/// What a reward says about a row, with the name that the answer's field has.
pub(super) fn refusal_of(error: &RewardError, answer_field: &str) -> RowRefusal {
    match error {
        RewardError::Verifier { name, source, .. } => {
            let (problem, reason) = match &**source {
                RewardError::MissingReference => (
                    RowProblem::Answer,
                    format!("`{answer_field}` is missing or empty, and the reward `{name}` compares with it"),
                ),
                RewardError::ReferenceOfThoughts => (
                    RowProblem::Answer,
                    format!(
                        "`{answer_field}` holds nothing but thoughts, and the reward `{name}` compares with what stands \
                         behind them"
                    ),
                ),
                other => (RowProblem::Field, format!("{other}, which the reward `{name}` needs")),
            };
            problem.because(reason)
        }
        other => RowProblem::Field.because(other.to_string()),
    }
}
