//! The commands but `bench`, one a file.

pub mod train;
pub mod sft;
pub mod replay;
pub mod score;
pub mod tokenize;
mod report_place;
pub mod eval;
pub mod compare;
pub mod generate;
pub mod logprobs;
pub mod check;
pub mod data;
pub mod filter;
pub mod simulate;
pub mod import;
pub mod export;
pub mod docs;
