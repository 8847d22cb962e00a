//! What is wrong with rows of a file: the kinds of problems, each bad row with its line, and how a list of them is said.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Bad rows that an error or a log names one by one. A file with more of them has one problem many times.
pub const BAD_ROWS_NAMED: usize = 20;

/// What is wrong with a row, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowProblem {
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
    /// It has a token that the model's embedding has no row for.
    Vocabulary,
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

impl fmt::Display for RowProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            RowProblem::Encoding => "not text",
            RowProblem::Json => "not JSON objects",
            RowProblem::Prompt => "without a prompt",
            RowProblem::Messages => "with messages that are no prompt",
            RowProblem::Template => "refused by the chat template",
            RowProblem::Vocabulary => "with tokens that the model has no row for",
            RowProblem::Empty => "without tokens",
            RowProblem::Long => "too long",
            RowProblem::Answer => "without a usable answer",
            RowProblem::Field => "with fields that a reward cannot use",
            RowProblem::Completion => "without a usable completion",
        })
    }
}

impl RowProblem {
    pub(crate) fn because(self, reason: impl Into<String>) -> RowRefusal {
        RowRefusal { problem: self, reason: reason.into() }
    }
}

/// Why a row cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct RowRefusal {
    /// The kind of the problem.
    pub problem: RowProblem,
    /// What is wrong, with the key.
    pub reason: String,
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// Why it cannot be used.
    pub refusal: RowRefusal,
}

impl BadRow {
    pub(crate) fn new(path: &Path, line: usize, refusal: RowRefusal) -> Self {
        Self { path: path.to_path_buf(), line, refusal }
    }
}

impl fmt::Display for BadRow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.path.display(), self.line, self.refusal)
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
        let mut counts: BTreeMap<RowProblem, usize> = BTreeMap::new();
        for row in &self.bad {
            *counts.entry(row.refusal.problem).or_default() += 1;
        }
        let counts: Vec<String> =
            counts.iter().map(|(problem, count)| format!("{count} {problem}")).collect();
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
