//! From a prompt to a scored group: prompts become trajectories, trajectories grow by segments under the
//! newest weights, finished ones are scored, and whole groups wait in the replay queue for the learner.
//!
//! Plain values and threads. What decodes is behind the trait [`Generator`]; tensors, devices and losses
//! are not here.

mod sync;
mod bad_rows;
pub mod faults;
mod error;
mod guarded;
mod json;
pub mod modes;
mod config;
mod heartbeat;
mod token_bytes;
mod stop_strings;
mod text;
mod prompt;
mod ends;
mod scheduler;
mod weights;
mod generator;
mod scorer;
mod report;
mod ledger;
mod decoding;
mod actor;
mod resume;
mod schedule;
mod evaluate;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod simulation;

pub use actor::{Actor, ActorContext, Advance, UnfinishedGroups, members};
pub use bad_rows::{BAD_ROWS_NAMED, BadRow, BadRows, RowProblem, RowRefusal, RowUnit};
pub use config::{
    DecodePrecision, KvCache, OnUpdate, Priority, QueueConfig, RolloutConfig, Sampling, Schedule, StopConfig,
};
pub use ends::{Ends, MinTokens};
pub use error::{GeneratorError, RolloutError};
pub use evaluate::{EvaluationParts, EvaluationPlan, evaluate};
pub use generator::{Drawn, Generator, PrefilledTokens, SegmentRequest};
pub use guarded::panic_is_caught;
pub use heartbeat::{Heartbeat, Heartbeats, Stage, StageStatus};
pub use json::object as json_object;
pub use ledger::admission::Admission;
pub use ledger::journal::Journal;
pub use ledger::local::LocalLedger;
pub use ledger::queue::{QueueReport, ReplayQueue};
pub use ledger::request::StepRequest;
pub use ledger::state::{
    ActorState, AdmissionReport, DropReason, GroupState, GroupVerdict, MemberState, RolloutState, SlotState,
    WaitingState, WindowState,
};
pub use ledger::{Ledger, Lost, SegmentEnd};
pub use modes::{ModeConfig, Next, Reply, RolloutMode, Single, Ticket};
pub use prompt::{
    AnswerConfig, AnswerRule, BadRowsPolicy, ChatFields, CurriculumConfig, CurriculumOrder, DataConfig,
    Demonstration, DemonstrationNeeds, Example, FewShotConfig, FewShotFile, JsonlConfig, LastAssistant,
    Learn, LeftOut, Line, Needs, PromptLengths, PromptSource, RowFile, RowFormat, SourceConfig, SplitConfig,
    SplitName, Survey, references,
};
pub use report::ActorReport;
pub use resume::{RolloutCheckpoint, restore};
pub use schedule::asynchronous::{ACTOR_RESTARTS_MAX, AsyncSchedule};
pub use schedule::deterministic::{DeterministicSchedule, window_groups};
pub use schedule::lockstep::LockstepSchedule;
pub use scheduler::{BlockUse, FinishedContexts, Pacing, Room, Scheduler, TokenOutcome};
pub use scorer::{Scored, Scorer};
pub use text::{Chat, ChatEnding, RowTemplate, TemplateVariables, Text, TextStream};
pub use trajectory::random::trajectory_key;
pub use trajectory::{
    Completion, CompletionRecord, CompletionUse, EndedText, EndedTrajectory, Finish, FinishReason,
    FinishedGroup, Group, OutputLimits, Prompt, ScoredCompletion, Segment, SegmentProgress, SegmentRecord,
    StopReason, Token, Trajectory, read_groups, write_group,
};
pub use weights::{Notify, Versioned, WeightsCell};
