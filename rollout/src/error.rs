//! Everything that can go wrong between a prompt and a scored group. Each error names the file, line, key,
//! prompt or group that it is about; mistakes of our own code are assertions and do not appear here.

use std::path::{Path, PathBuf};

use trajectory::FileError;

use crate::bad_rows::{BadRows, RowProblem, RowRefusal};

/// What a decoder reports when it cannot go on; the crate does not know the decoder's own error type.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct GeneratorError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

impl GeneratorError {
    /// Wraps the error (or message) of a decoder.
    pub fn new(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// Characters of a reason. A damaged file has a megabyte where there should be a word, and nobody reads that.
const REASON_MAX: usize = 2000;

/// A reason that a person can read.
fn cut(reason: impl ToString) -> String {
    let mut reason = reason.to_string();
    if let Some((end, _)) = reason.char_indices().nth(REASON_MAX) {
        reason.truncate(end);
        reason.push_str("...");
    }
    reason
}

/// The errors of this crate.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// A config value that contradicts itself or another one.
    #[error("{key}: {reason}")]
    Config {
        /// The full key, for example `rollout.segments_max`.
        key: &'static str,
        /// What is wrong with its value, with the value.
        reason: String,
    },
    /// A file that cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Rows of a file that cannot be used.
    #[error(transparent)]
    Rows(Box<BadRows>),
    /// The state of a rollout that another version of longhaul wrote.
    #[error(
        "{}: has form {form} of a rollout's state, and this longhaul reads form {read}: resume the run with the longhaul \
         that wrote it, or begin another run with the checkpoint's weights",
        path.display()
    )]
    StateForm {
        /// The file.
        path: PathBuf,
        /// Its form.
        form: String,
        /// The form that is read.
        read: u32,
    },
    /// A tokenizer that can produce ids which the model has no embedding for.
    #[error(
        "{}: token {token:?} has id {id}, but the model's vocabulary has {vocabulary} entries; \
         the tokenizer belongs to another model",
        path.display()
    )]
    Vocabulary {
        /// The tokenizer file.
        path: PathBuf,
        /// The token with the largest id.
        token: String,
        /// Its id.
        id: u32,
        /// The number of rows of the model's embedding.
        vocabulary: usize,
    },
    /// A token that the model's embedding has no row for.
    #[error(
        "{}: {what}token {token:?} has id {id}, but the model's embedding has {rows} rows; resize the embedding \
         (transformers' resize_token_embeddings), or take the token out of this file",
        path.display()
    )]
    WithoutRow {
        /// The file that adds the token.
        path: PathBuf,
        /// What the token is for, or nothing.
        what: &'static str,
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// The number of rows.
        rows: usize,
    },
    /// The tokenizer refused a text or an id sequence.
    #[error("{path}: the tokenizer cannot {action}: {reason}")]
    Tokenizer {
        /// `tokenizer.json`.
        path: PathBuf,
        /// `encode` or `decode`.
        action: &'static str,
        /// What the tokenizer said.
        reason: String,
    },
    /// A prompt that cannot be generated from.
    #[error("prompt {prompt}: {reason}")]
    Prompt {
        /// The prompt's id, which holds its file and line or its task and index.
        prompt: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A task that its config does not describe.
    #[error("data.{0}")]
    Task(#[source] rewards::RewardError),
    /// A verifier that failed.
    #[error("prompt {prompt} (group {group}): {source}")]
    Reward {
        /// The group of the completion.
        group: u64,
        /// The prompt's id.
        prompt: String,
        /// What the verifier said.
        source: rewards::RewardError,
    },
    /// A log-prob or a reward that is not a finite number; the run stops before it reaches the weights.
    #[error("prompt {prompt} (group {group}): {what} is {value}, which is not a finite number")]
    NotFinite {
        /// What the value is.
        what: &'static str,
        /// The value.
        value: f64,
        /// The group of the completion.
        group: u64,
        /// The prompt's id.
        prompt: String,
    },
    /// The decoder failed.
    #[error("the generator failed: {0}")]
    Generator(#[from] GeneratorError),
    /// The run is stopping; nothing is wrong.
    #[error("the replay queue is closed")]
    Closed,
    /// Lockstep can never reach the number of groups asked for.
    #[error(
        "no work is admitted at version {version} while {wanted} groups are wanted and {queued} are queued: \
         the learner takes more groups for a version than the pacing starts"
    )]
    Starved {
        /// The newest policy version.
        version: u64,
        /// The groups asked for.
        wanted: usize,
        /// The groups that wait in the queue.
        queued: usize,
    },
    /// A failure on purpose ([`crate::faults`]).
    #[error("{variable}: {0}", variable = crate::faults::VARIABLE)]
    Fault(#[source] std::io::Error),
    /// A thread of the run panicked or could not be started.
    #[error("the thread {thread} panicked: {message}")]
    Panicked {
        /// Name of the thread.
        thread: String,
        /// What it said.
        message: String,
    },
}

impl RolloutError {
    /// An error about `path` from the operating system.
    pub(crate) fn file(path: &Path, source: std::io::Error) -> Self {
        FileError::file(path, source).into()
    }

    /// An error about the content of `path`.
    pub(crate) fn content(path: &Path, reason: impl ToString) -> Self {
        FileError::content(path, cut(reason)).into()
    }

    /// An error about line `line` (from 1) of `path`.
    pub(crate) fn line(path: &Path, line: usize, reason: impl ToString) -> Self {
        FileError::line(path, line, cut(reason)).into()
    }

    /// What a row that the tokenizer or the chat template refuses is refused for.
    pub(crate) fn refusing_row(self) -> RowRefusal {
        let problem = match &self {
            Self::WithoutRow { .. } => RowProblem::Vocabulary,
            _ => RowProblem::Template,
        };
        problem.because(self.to_string())
    }
}
