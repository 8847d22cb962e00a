//! What can be wrong with a file, for every crate that reads or writes one: each error names the file, and the line where
//! there is one.

use std::path::{Path, PathBuf};

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A file that cannot be opened, read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file whose content is not what its name promises.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A line that cannot be used.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

impl FileError {
    /// An error about `path` from the operating system.
    #[must_use]
    pub fn file(path: &Path, source: std::io::Error) -> Self {
        Self::File { path: path.to_path_buf(), source }
    }

    /// An error about the content of `path`.
    #[must_use]
    pub fn content(path: &Path, reason: impl ToString) -> Self {
        Self::Content { path: path.to_path_buf(), reason: reason.to_string() }
    }

    /// An error about line `line` (from 1) of `path`.
    #[must_use]
    pub fn line(path: &Path, line: usize, reason: impl ToString) -> Self {
        Self::Line { path: path.to_path_buf(), line, reason: reason.to_string() }
    }
}
