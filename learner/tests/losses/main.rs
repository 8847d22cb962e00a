//! Losses that are not in this crate, added through its public seams: each in one file of its own.

// A test that cannot go on says where; that is what `unwrap` does.
#![allow(clippy::unwrap_used)]

mod dpo;
mod entropy_bonus;
mod fixture;
