//! The one integration test binary. Each module says which invariants it guards.

// A test that cannot go on says where; that is what `unwrap` does.
#![allow(clippy::unwrap_used)]

mod adapters;
mod bad_input;
mod bad_rows;
mod binary;
mod configs;
mod damage;
mod data;
mod docs;
mod documents;
mod embedding;
mod end_to_end;
mod evaluations;
mod export;
mod faults;
mod generate;
mod gguf;
mod interface;
mod lora;
mod memory;
mod mismatch;
mod nothing_learned;
mod parity;
mod positions;
mod reference;
mod refill;
mod replay_parity;
mod results;
mod resume_keys;
mod score;
mod segments;
mod slopes_parity;
mod source;
mod stops;
mod stored;
mod tidy;
mod virtual_clock;
