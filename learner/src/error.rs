//! What can go wrong between a group and new weights.

use std::path::{Path, PathBuf};

/// An error of the learner. Every one of them is found before the weights change.
#[derive(Debug, thiserror::Error)]
pub enum LearnerError {
    /// An invalid setting.
    #[error("{key}: {reason}")]
    Config {
        /// The key as it stands in the configuration file.
        key: &'static str,
        /// What is wrong with its value.
        reason: String,
    },
    /// A group that cannot be trained on.
    #[error("step {step}, group {group} (prompt {prompt}): {reason}")]
    Group {
        /// The version that the step was to train.
        step: u64,
        /// The group's number.
        group: u64,
        /// The prompt's name.
        prompt: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A reward or a loss that is not a number to learn from.
    #[error("step {step}, group {group} (prompt {prompt}), completion {member}: {quantity} is {value}")]
    NotFinite {
        /// The version that the step was to train.
        step: u64,
        /// The group's number.
        group: u64,
        /// The prompt's name.
        prompt: String,
        /// The completion's place in its group.
        member: usize,
        /// Which number it is: the reward, a log-probability, the loss.
        quantity: &'static str,
        /// Its value.
        value: f64,
    },
    /// A gradient that is not a number to step along.
    #[error("step {step}: the gradient of {tensor} is not finite; prompts of the step: {prompts}")]
    Gradient {
        /// The version that the step was to train.
        step: u64,
        /// The parameter's name in the model's files.
        tensor: String,
        /// The names of the prompts whose groups made the gradient.
        prompts: String,
    },
    /// The layers' inputs cannot be put aside for the backward pass, or got back.
    #[error("step {step}: {key}: {source}")]
    LayerInputs {
        /// The version that the step was to train.
        step: u64,
        /// The key of the folder as it stands in the configuration file.
        key: &'static str,
        /// The folder, and what the operating system says.
        source: kernels::KernelError,
    },
    /// Another rank of a data-parallel step found something wrong.
    #[error("step {step}: rank {rank} could not make the step; its own error says why")]
    OtherRank {
        /// The step that nobody made.
        step: u64,
        /// The first rank with an error.
        rank: usize,
    },
    /// The ranks of a data-parallel step have lost each other.
    #[error("step {step}: {source}")]
    Collective {
        /// The step that nobody made.
        step: u64,
        /// Which rank has ended, or calls something else.
        source: collective::CollectiveError,
    },
    /// A supervised sequence that cannot be trained on.
    #[error("step {step}, sequence {index}: {reason}")]
    Sequence {
        /// The step that was to train on it.
        step: u64,
        /// Its place among the sequences of the step.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of a checkpoint that cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A file of a checkpoint whose content does not fit.
    #[error("{path}: {reason}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What does not fit, naming the key or the tensor.
        reason: String,
    },
    /// The model's own files.
    #[error(transparent)]
    Model(#[from] kernels::KernelError),
}

impl LearnerError {
    pub(crate) fn config(key: &'static str, reason: impl Into<String>) -> Self {
        Self::Config { key, reason: reason.into() }
    }

    pub(crate) fn file(path: &Path, source: std::io::Error) -> Self {
        Self::File { path: path.to_owned(), source }
    }

    pub(crate) fn checkpoint(path: &Path, reason: impl Into<String>) -> Self {
        Self::Checkpoint { path: path.to_owned(), reason: reason.into() }
    }
}
