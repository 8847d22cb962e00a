//! longhaul fine-tunes language models by reinforcement learning on very long outputs.
//!
//! This crate is the composition root: `trajectory` has the values that a run passes along, `rollout` makes scored groups,
//! `rewards` judges, `learner` turns groups into weights, `collective` connects the ranks of a learner, `kernels` computes,
//! and `simulate` runs the scheduler on a virtual clock. Here they get their config, threads, folder and terminal. A program
//! that embeds a run needs [`RunConfig::load`], [`RunRequest`] and [`train`].

pub mod allocator;
pub mod cause;
mod median;
pub mod statistics;
pub mod config;
pub mod records;
pub mod watch;
pub mod model;
pub mod run;
// The command line program: its flags, and what it does about them. No other module knows of them.
#[expect(unreachable_pub, reason = "the modules of the program are public to each other and to nobody else")]
mod cli;
#[expect(unreachable_pub, reason = "the modules of the program are public to each other and to nobody else")]
mod bench;
#[expect(unreachable_pub, reason = "the modules of the program are public to each other and to nobody else")]
mod commands;
mod program;

// For the binary, and for tests of what the documents say of it.
#[doc(hidden)]
pub use cli::arguments;
#[doc(hidden)]
pub use commands::docs::{Page, pages};
pub use config::{ConfigError, RunConfig};
#[doc(hidden)]
pub use program::command_line;
pub use run::{RunOutcome, RunRequest, StartFrom, train};

/// The version with the commit it was built from.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("LONGHAUL_COMMIT"), ")");
