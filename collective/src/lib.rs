//! Communication between the ranks of a data-parallel learner.
//!
//! A rank holds one replica of the weights. Ranks call the same operations in the same order, and each call ends on all
//! of them or fails on all of them. Sums add the numbers of the ranks in the order of the ranks, so that a result depends
//! on nobody's speed, and two runs of as many ranks are equal to the bit. This crate knows bytes and numbers; tensors,
//! gradients and steps belong to its callers.

mod error;
mod sync;
mod alone;
mod threads;
#[cfg(test)]
mod interleavings;

use std::fmt::Debug;

pub use alone::Alone;
pub use error::CollectiveError;
pub use threads::Threads;

/// One rank's end of the group. Every rank calls the same operations, in the same order and of the same sizes.
///
/// # Errors
/// Each operation fails with [`CollectiveError`] where a rank has ended or called another operation. The group is then
/// of no further use: every later call fails with the same error.
pub trait Collective: Debug + Send + Sync {
    /// This rank's number, below [`Collective::ranks`].
    fn rank(&self) -> usize;

    /// How many ranks there are; at least 1.
    fn ranks(&self) -> usize;

    /// Replaces the numbers, on every rank, by their sums over the ranks: rank 0's plus rank 1's, and so on.
    fn sum(&self, numbers: &mut [f32]) -> Result<(), CollectiveError>;

    /// As [`Collective::sum`], in double precision: counts, denominators and statistics.
    fn sum_f64(&self, numbers: &mut [f64]) -> Result<(), CollectiveError>;

    /// Replaces the bytes, on every rank, by those of rank 0.
    fn share(&self, bytes: &mut Vec<u8>) -> Result<(), CollectiveError>;

    /// All-to-all: both slices are as many equal parts as there are ranks; part r of `send` becomes part `rank()` of
    /// `receive` on rank r.
    ///
    /// # Panics
    /// If the slices differ in length, or the ranks do not divide it.
    fn exchange(&self, send: &[f32], receive: &mut [f32]) -> Result<(), CollectiveError>;

    /// Returns once every rank has called it.
    fn barrier(&self) -> Result<(), CollectiveError>;
}

/// Length of one rank's part of an exchange.
fn part_len(send: &[f32], receive: &[f32], ranks: usize) -> usize {
    assert_eq!(send.len(), receive.len(), "an exchange sends as much as it receives");
    assert!(send.len().is_multiple_of(ranks), "{} numbers are not {ranks} equal parts", send.len());
    send.len() / ranks
}
