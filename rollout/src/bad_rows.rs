//! What is wrong with rows of a file: the kinds of problems, each bad row with its line, and how a list of them is said.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Reasons that an error or a log names, each with its rows. A file with more of them has one problem many times.
pub const BAD_ROWS_NAMED: usize = 20;

/// Lines, or runs of neighbouring lines, that are named for one reason.
const LINES_NAMED: usize = 10;

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

    /// What is wrong with the first of them: one line for each reason, with all rows that have it, and how many rows
    /// there are besides.
    pub fn named(&self) -> Vec<String> {
        let mut reasons: Vec<(&str, Vec<usize>)> = Vec::new();
        for row in &self.bad {
            let known = reasons.iter().position(|(reason, _)| *reason == row.refusal.reason);
            match known {
                Some(place) => reasons[place].1.push(row.line),
                None if reasons.len() < BAD_ROWS_NAMED => {
                    reasons.push((&row.refusal.reason, vec![row.line]));
                }
                None => {}
            }
        }
        let file = self.bad[0].path.display();
        let mut named: Vec<String> =
            reasons.iter().map(|(reason, lines)| format!("{file}:{}: {reason}", said_lines(lines))).collect();
        let more = self.bad.len() - reasons.iter().map(|(_, lines)| lines.len()).sum::<usize>();
        if more > 0 {
            named.push(format!("{file}: {more} more"));
        }
        named
    }
}

/// `7` for one line, and ` lines 1-20, 23` for several.
fn said_lines(lines: &[usize]) -> String {
    if let [line] = lines {
        return line.to_string();
    }
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
    if rest > 0 { format!(" lines {said} and {rest} more") } else { format!(" lines {said}") }
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
                "{path}: {bad} of {rows} rows cannot be used ({counts}), the first on line {}; correct the rows, or \
                 leave them out with data.bad_rows = \"skip\"",
                first.line
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
            BadRow::new(Path::new("a.jsonl"), line, RowProblem::Completion.because(reason))
        };
        BadRows { rows: 50, bad: reasons.iter().map(|(line, reason)| row(*line, reason)).collect() }
    }

    #[test]
    fn rows_with_one_reason_are_named_together() {
        let bad = rows(&[(1, "empty"), (2, "empty"), (3, "long"), (4, "empty"), (5, "empty"), (7, "empty")]);
        assert_eq!(bad.named(), ["a.jsonl: lines 1-2, 4-5, 7: empty", "a.jsonl:3: long"]);
        let counted = "a.jsonl: 6 of 50 rows cannot be used (6 without a usable completion), the first on line 1; \
                       correct the rows, or leave them out with data.bad_rows = \"skip\"";
        assert_eq!(bad.to_string(), counted);
        let one = "a.jsonl:4: empty; correct the row, or leave it out with data.bad_rows = \"skip\"";
        assert_eq!(rows(&[(4, "empty")]).to_string(), one);
    }

    #[test]
    fn many_reasons_and_many_lines_are_cut() {
        let odd: Vec<(usize, &str)> = (0..15).map(|place| (2 * place + 1, "empty")).collect();
        let named = "a.jsonl: lines 1, 3, 5, 7, 9, 11, 13, 15, 17, 19 and 5 more: empty";
        assert_eq!(rows(&odd).named(), [named]);
        let reasons: Vec<String> = (1..=23).map(|line| format!("reason {line}")).collect();
        let all: Vec<(usize, &str)> = reasons.iter().map(String::as_str).enumerate().collect();
        let named = rows(&all).named();
        assert_eq!((named.len(), named[20].as_str()), (21, "a.jsonl: 3 more"));
    }
}
