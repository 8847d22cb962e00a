//! One row of a file as its format has it, before it is looked at.

use std::path::Path;

use crate::bad_rows::{RowRefusal, RowUnit};

/// One row as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The line that it begins on, counted from 1; of a file of columns the number of the row.
    pub number: usize,
    /// What the number counts.
    pub unit: RowUnit,
    /// Its text, or why it has none.
    pub text: Result<String, RowRefusal>,
}

impl Line {
    pub(super) fn of_text(number: usize, text: Result<String, RowRefusal>) -> Self {
        Self { number, unit: RowUnit::Line, text }
    }

    /// Where it stands in a file: `a.jsonl:17`, `a.parquet:row 17`.
    pub fn place(&self, path: &Path) -> String {
        self.unit.place(path, self.number)
    }
}
