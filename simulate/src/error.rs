//! What can be wrong with a simulation.

use std::path::{Path, PathBuf};

use rollout::RolloutError;

/// What is wrong with a plan or its lengths.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulateError {
    /// A distribution of lengths that is none.
    #[error("--lengths: {reason}")]
    Lengths {
        /// What is wrong with it.
        reason: String,
    },
    /// A file of lengths that cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file without lengths.
    #[error("{}: {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A line that has no length.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A plan that contradicts itself or cannot go on.
    #[error(transparent)]
    Rollout(#[from] RolloutError),
}

impl SimulateError {
    pub(crate) fn file(path: &Path, source: std::io::Error) -> Self {
        Self::File { path: path.to_path_buf(), source }
    }

    pub(crate) fn content(path: &Path, reason: impl ToString) -> Self {
        Self::Content { path: path.to_path_buf(), reason: reason.to_string() }
    }

    pub(crate) fn line(path: &Path, line: usize, reason: impl ToString) -> Self {
        Self::Line { path: path.to_path_buf(), line, reason: reason.to_string() }
    }
}
