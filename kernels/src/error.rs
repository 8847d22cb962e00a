//! What can go wrong between a directory of weights and a decoder.

use std::path::{Path, PathBuf};

/// Characters of a reason. A damaged file has a megabyte where there should be a name, and nobody reads that.
const REASON_MAX: usize = 2000;

/// An error of reading, checking or writing a model.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A file that cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A file whose content is not what its name promises.
    #[error("{path}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, naming the key or the tensor.
        reason: String,
    },
    /// An instruction set that was asked for and cannot be had.
    #[error("{variable}={wanted}: this machine has {has}")]
    Simd {
        /// The variable of the environment.
        variable: &'static str,
        /// What the variable says.
        wanted: String,
        /// The names of those that the machine has.
        has: String,
    },
    /// Tokens or settings that do not fit the model.
    #[error("{0}")]
    Input(String),
}

impl KernelError {
    pub(crate) fn file(path: &Path, source: std::io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }

    pub(crate) fn content(path: &Path, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        if let Some((end, _)) = reason.char_indices().nth(REASON_MAX) {
            reason.truncate(end);
            reason.push_str("...");
        }
        Self::Content { path: path.to_owned(), reason }
    }
}
