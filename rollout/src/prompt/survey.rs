//! All prompts of a source looked at before the first of them is answered: what is wrong with which row, and how long the
//! prompts are.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use rewards::{RewardError, WeightedSum};

use super::supervised::Learn;

/// Bad rows that an error or a log names one by one. A file with more of them has one fault many times.
pub const BAD_ROWS_NAMED: usize = 20;

/// Problems of an endless task that are looked at: enough for the lengths of its prompts.
pub(super) const PROBLEMS_SURVEYED: u64 = 256;

/// What prompts must have to be used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Needs<'a> {
    /// The longest prompt that leaves room for an output; absent is any.
    pub prompt_tokens_max: Option<usize>,
    /// The rewards that will judge answers.
    pub rewards: Option<&'a WeightedSum>,
    /// Whether rows are demonstrations, which turns are learned, and how long prompt and target may be together.
    pub demonstrations: Option<(Learn, usize)>,
}

/// What is wrong with a row, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Its bytes are no text.
    Encoding,
    /// It is not a JSON object.
    Json,
    /// It has no prompt.
    Prompt,
    /// Its messages are no conversation, or end with an answer.
    Messages,
    /// The chat template or the tokenizer refuses it.
    Template,
    /// Its prompt has no tokens.
    Empty,
    /// Its prompt leaves no room for an output.
    Long,
    /// It has no answer, and a reward compares with one.
    Answer,
    /// It lacks a field that a reward needs, or has another type in it.
    Field,
    /// There is nothing to learn from.
    Completion,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Fault::Encoding => "not text",
            Fault::Json => "not JSON objects",
            Fault::Prompt => "without a prompt",
            Fault::Messages => "with messages that are no prompt",
            Fault::Template => "refused by the chat template",
            Fault::Empty => "without tokens",
            Fault::Long => "too long",
            Fault::Answer => "without a usable answer",
            Fault::Field => "with fields that a reward cannot use",
            Fault::Completion => "without a usable completion",
        })
    }
}

impl Fault {
    pub(super) fn because(self, reason: impl Into<String>) -> RowFault {
        RowFault { fault: self, reason: reason.into() }
    }
}

/// A fault with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RowFault {
    pub(super) fault: Fault,
    pub(super) reason: String,
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// The kind of the fault.
    pub fault: Fault,
    /// What is wrong with it.
    pub reason: String,
}

impl BadRow {
    pub(super) fn new(path: &Path, line: usize, fault: RowFault) -> Self {
        let RowFault { fault, reason } = fault;
        Self { path: path.to_path_buf(), line, fault, reason }
    }
}

impl fmt::Display for BadRow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path.display(), self.line, self.reason)
    }
}

/// The rows of a file that cannot be used, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRows {
    /// The file's rows, good and bad.
    pub rows: usize,
    /// The bad ones; never empty.
    pub bad: Vec<BadRow>,
}

impl BadRows {
    /// How many there are of each kind.
    pub fn counts(&self) -> String {
        let mut counts: BTreeMap<Fault, usize> = BTreeMap::new();
        for row in &self.bad {
            *counts.entry(row.fault).or_default() += 1;
        }
        let counts: Vec<String> = counts.iter().map(|(fault, count)| format!("{count} {fault}")).collect();
        counts.join(", ")
    }

    /// The first of them, one on a line, and how many there are besides.
    pub fn named(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.bad.iter().take(BAD_ROWS_NAMED).map(BadRow::to_string).collect();
        let more = self.bad.len().saturating_sub(BAD_ROWS_NAMED);
        if more > 0 {
            lines.push(format!("{}: {more} more", self.bad[0].path.display()));
        }
        lines
    }
}

/// One line: the first row and the counts.
impl fmt::Display for BadRows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = &self.bad[0];
        write!(formatter, "{first}")?;
        if self.bad.len() > 1 {
            write!(
                formatter,
                "; {} of {} rows cannot be used ({})",
                self.bad.len(),
                self.rows,
                self.counts()
            )?;
        }
        write!(formatter, "; mend what is wrong, or leave such rows out with data.bad_rows = \"skip\"")
    }
}

impl std::error::Error for BadRows {}

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
    /// Those whose last turn was the assistant's, which `last_assistant` took out or left open.
    pub last_assistant: usize,
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
pub(super) fn fault_of(error: &RewardError, answer_field: &str) -> RowFault {
    match error {
        RewardError::Verifier { name, source, .. } => {
            let (fault, reason) = match &**source {
                RewardError::MissingReference => (
                    Fault::Answer,
                    format!("`{answer_field}` is missing or empty, and the reward `{name}` compares with it"),
                ),
                other => (Fault::Field, format!("{other}, which the reward `{name}` needs")),
            };
            fault.because(reason)
        }
        other => Fault::Field.because(other.to_string()),
    }
}
