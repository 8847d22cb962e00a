//! What can be wrong with a simulation.

use rollout::RolloutError;
use trajectory::FileError;

/// What is wrong with a plan or its lengths.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SimulateError {
    /// A distribution of lengths that is none.
    #[error("lengths: {reason}")]
    Lengths {
        /// What is wrong with it.
        reason: String,
    },
    /// A file of lengths that cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A plan that contradicts itself or cannot go on.
    #[error(transparent)]
    Rollout(#[from] RolloutError),
}
