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
    /// Nineteen of twenty are not longer.
    pub p95: usize,
    /// Of the longest one.
    pub max: usize,
}

impl PromptLengths {
    /// `None` without any.
    pub(super) fn of(mut lengths: Vec<usize>) -> Option<Self> {
        lengths.sort_unstable();
        let (min, max) = (*lengths.first()?, *lengths.last()?);
        let p95 = lengths[(lengths.len() * 19).div_ceil(20) - 1];
        Some(Self { min, median: lengths[lengths.len() / 2], p95, max })
    }
}

/// Rows that can be used and are not, because the config leaves them out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Those of the other part of `data.split`.
    pub other_split: usize,
    /// Those with fewer tokens than `data.prompt_tokens_min`.
    pub short: usize,
    /// Those with more tokens than `data.prompt_tokens_max`.
    pub long: usize,
    /// Those that ask what an example of `data.few_shot` answers.
    pub examples: usize,
}

impl LeftOut {
    /// The counts that are not 0, each with its reason.
    pub fn counts(&self) -> Vec<(usize, &'static str)> {
        let all = [
            (self.other_split, "of the other part of data.split"),
            (self.short, "shorter than data.prompt_tokens_min"),
            (self.long, "longer than data.prompt_tokens_max"),
            (self.examples, "among the examples of data.few_shot"),
        ];
        all.into_iter().filter(|(count, _)| *count > 0).collect()
    }

    fn plus(self, other: Self) -> Self {
        Self {
            other_split: self.other_split + other.other_split,
            short: self.short + other.short,
            long: self.long + other.long,
            examples: self.examples + other.examples,
        }
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
    /// The rows that cannot be used and are left out, if there are any.
    pub skipped: Option<BadRows>,
    /// The rows that can be used and are left out.
    pub left_out: LeftOut,
    /// Each file with its prompts, where there are several.
    pub files: Vec<(String, usize)>,
}

impl Survey {
    /// Of several files together, whose prompts have these lengths.
    pub(super) fn joined(surveys: Vec<Self>, lengths: Vec<usize>) -> Option<Self> {
        let mut whole: Option<Self> = None;
        let files = surveys.iter().map(|survey| (survey.source.clone(), survey.prompts)).collect();
        for next in surveys {
            let Some(so_far) = &mut whole else {
                whole = Some(next);
                continue;
            };
            so_far.source = format!("{}, {}", so_far.source, next.source);
            so_far.prompts += next.prompts;
            so_far.answered += next.answered;
            so_far.thought_answers += next.thought_answers;
            so_far.last_assistant += next.last_assistant;
            so_far.notes.extend(next.notes.into_iter().map(|note| format!("{}: {note}", next.source)));
            so_far.left_out = so_far.left_out.plus(next.left_out);
            let Some(more) = next.skipped else { continue };
            match &mut so_far.skipped {
                Some(skipped) => {
                    skipped.rows += more.rows;
                    skipped.bad.extend(more.bad);
                }
                None => so_far.skipped = Some(more),
            }
        }
        Some(Self { lengths: PromptLengths::of(lengths)?, files, ..whole? })
    }

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
