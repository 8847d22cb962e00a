//! Why an operation of a group of ranks cannot end.

use std::fmt;

/// An operation that did not end on all ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CollectiveError {
    /// A rank has ended, by an error, a panic or because it was done, while another one waits for it.
    RankEnded {
        /// The rank that has ended.
        ended: usize,
        /// The rank that waits.
        waiting: usize,
        /// The operation that it waits in.
        operation: &'static str,
    },
    /// Two ranks called different operations, or the same one with different sizes.
    Mismatch {
        /// Rank 0's call.
        expected: String,
        /// The first rank that differs.
        rank: usize,
        /// Its call.
        found: String,
    },
}

impl fmt::Display for CollectiveError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RankEnded { ended, waiting, operation } => write!(
                formatter,
                "rank {ended} has ended while rank {waiting} waits for it in `{operation}`; the error of rank {ended} \
                 says why"
            ),
            Self::Mismatch { expected, rank, found } => write!(
                formatter,
                "the ranks are not at the same operation: rank 0 calls {expected}, rank {rank} calls {found}"
            ),
        }
    }
}

impl std::error::Error for CollectiveError {}
