//! What is wrong with rows of a file: the kinds of problems, each bad row with its line, and how a list of them is said.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Lines that an error or a log has about the bad rows of a file. Beyond them nobody mends row by row.
pub const BAD_ROWS_NAMED: usize = 1000;

/// Rows of one reason that are named one by one; more have one line together.
const ROWS_ALONE: usize = 20;

/// Rows, or runs of neighbouring rows, that are named for one reason: as many as a line of some thousand characters holds.
const LINES_NAMED: usize = 1000;

/// What is wrong with a row, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowProblem {
    /// Its bytes are no text.
    Encoding,
    /// It is not a JSON object.
    Json,
    /// A value of a column has no form in JSON.
    Value,
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
            RowProblem::Value => "with values that have no form in JSON",
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

/// What the numbers of a file's rows count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowUnit {
    /// Lines of text.
    #[default]
    Line,
    /// Rows of a file of columns.
    Row,
}

impl RowUnit {
    /// Where a row stands: `a.jsonl:17`, `a.parquet:row 17`.
    pub fn place(self, path: &Path, number: usize) -> String {
        match self {
            Self::Line => format!("{}:{number}", path.display()),
            Self::Row => format!("{}:row {number}", path.display()),
        }
    }

    fn several(self) -> &'static str {
        match self {
            Self::Line => "lines",
            Self::Row => "rows",
        }
    }
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// The file.
    pub path: PathBuf,
    /// The line or row, counted from 1.
    pub line: usize,
    /// What is counted.
    pub unit: RowUnit,
    /// Why it cannot be used.
    pub refusal: RowRefusal,
}

impl BadRow {
    pub(crate) fn new(path: &Path, line: usize, unit: RowUnit, refusal: RowRefusal) -> Self {
        Self { path: path.to_path_buf(), line, unit, refusal }
    }
}

impl fmt::Display for BadRow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.unit.place(&self.path, self.line), self.refusal)
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

    /// What is wrong with them, in the order of the file: a line for each row, or one for all rows of a reason that
    /// many have. The last line says how many rows there are besides.
    pub fn named(&self) -> Vec<String> {
        let mut rows_of: BTreeMap<(&Path, &str), Vec<usize>> = BTreeMap::new();
        for row in &self.bad {
            rows_of.entry((&row.path, &row.refusal.reason)).or_default().push(row.line);
        }
        let (mut named, mut rows) = (Vec::new(), 0);
        for row in &self.bad {
            let (file, lines) = (row.path.display(), &rows_of[&(&*row.path, row.refusal.reason.as_str())]);
            let together = lines.len() > ROWS_ALONE;
            if together && lines[0] != row.line {
                continue;
            }
            if named.len() == BAD_ROWS_NAMED {
                named.push(format!("{file}: {} more", self.bad.len() - rows));
                break;
            }
            let (place, count) = match together {
                true => (format!("{file}:{}", said_lines(lines, row.unit)), lines.len()),
                false => (row.unit.place(&row.path, row.line), 1),
            };
            named.push(format!("{place}: {}", row.refusal.reason));
            rows += count;
        }
        named
    }
}

/// ` lines 1-20, 23`.
fn said_lines(lines: &[usize], unit: RowUnit) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &line in lines {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == line => *last = line,
            _ => runs.push((line, line)),
        }
    }
    let said = runs
        .iter()
        .take(LINES_NAMED)
        .map(|&(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") });
    let said = said.collect::<Vec<_>>().join(", ");
    let rest: usize = runs.iter().skip(LINES_NAMED).map(|(first, last)| last - first + 1).sum();
    let lines = unit.several();
    if rest > 0 { format!(" {lines} {said} and {rest} more") } else { format!(" {lines} {said}") }
}

/// One line: the row and its reason, or of several the counts; [`BadRows::named`] has their reasons.
impl fmt::Display for BadRows {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, bad, rows) = (&self.bad[0], self.bad.len(), self.rows);
        if bad == 1 {
            write!(formatter, "{first}; correct the row, or leave it out with data.bad_rows = \"skip\"")
        } else {
            let (path, counts) = (first.path.display(), self.counts());
            write!(
                formatter,
                "{path}: {bad} of {rows} rows cannot be used ({counts}), the first {}; correct the rows, or \
                 leave them out with data.bad_rows = \"skip\"",
                match first.unit {
                    RowUnit::Line => format!("on line {}", first.line),
                    RowUnit::Row => format!("is row {}", first.line),
                }
            )
        }
    }
}

impl std::error::Error for BadRows {}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(reasons: &[(usize, &str)]) -> BadRows {
        let row = |line: usize, reason: &str| {
            BadRow::new(Path::new("a.jsonl"), line, RowUnit::Line, RowProblem::Completion.because(reason))
        };
        BadRows { rows: 50, bad: reasons.iter().map(|(line, reason)| row(*line, reason)).collect() }
    }

    #[test]
    fn every_row_is_named_and_many_with_one_reason_together() {
        let few = [(1, "empty"), (2, "empty"), (3, "long"), (5, "empty")];
        let bad = rows(&few);
        assert_eq!(bad.named(), few.map(|(line, reason)| format!("a.jsonl:{line}: {reason}")));
        let counted = "a.jsonl: 4 of 50 rows cannot be used (4 without a usable completion), the first on line 1; \
                       correct the rows, or leave them out with data.bad_rows = \"skip\"";
        assert_eq!(bad.to_string(), counted);
        let one = "a.jsonl:4: empty; correct the row, or leave it out with data.bad_rows = \"skip\"";
        assert_eq!(rows(&[(4, "empty")]).to_string(), one);
        let mut many: Vec<(usize, &str)> =
            (1..=25).filter(|line| *line != 8).map(|line| (line, "empty")).collect();
        many.push((30, "empty"));
        many.insert(7, (8, "long"));
        assert_eq!(rows(&many).named(), ["a.jsonl: lines 1-7, 9-25, 30: empty", "a.jsonl:8: long"]);
    }

    #[test]
    fn more_lines_than_anybody_reads_are_counted() {
        let reasons: Vec<String> = (1..=1003).map(|line| format!("reason {line}")).collect();
        let all: Vec<(usize, &str)> = reasons.iter().map(String::as_str).enumerate().collect();
        let named = rows(&all).named();
        assert_eq!((named.len(), named[1000].as_str()), (1001, "a.jsonl: 3 more"));
    }
}
