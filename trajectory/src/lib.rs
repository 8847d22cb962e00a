//! The values that a run passes from stage to stage: prompts, tokens, trajectories, completions, groups and
//! rewards, and the form in which groups are recorded.
//!
//! Plain values that can be written down and read back. This crate depends on no other crate of the
//! workspace; it knows no threads, no tensors, no tokenizer and no verifier.

mod error;
mod lines;
pub mod random;
mod token;
mod span;
mod context;
mod prompt;
mod finish;
mod trajectory;
mod completion;
mod reward;
mod group;
mod record;
#[cfg(test)]
mod testing;

pub use completion::Completion;
pub use context::Context;
pub use error::FileError;
pub use finish::{EndedText, Finish, StopReason};
pub use group::{EndedTrajectory, FinishedGroup, Group, ScoredCompletion};
pub use lines::{Line, Lines, rollout_files};
pub use prompt::Prompt;
pub use record::{
    CompletionRecord, CompletionUse, FinishReason, GivenRecord, SegmentRecord, read_groups, write_group,
};
pub use reward::Reward;
pub use span::{DrawnAt, Segment, Source, Span};
pub use token::Token;
pub use trajectory::{OutputLimits, SegmentProgress, Trajectory};
