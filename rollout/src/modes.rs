//! What a rollout does when the policy has ended a turn: it is done, goes on in the same context or in a new one, or
//! waits for an environment's answer.
//!
//! A mode is a pure function of the trajectory, so that one that is restored after a restart goes on as it would
//! have. It is asked after every end that the policy drew; at the output limit a trajectory is done, whatever its
//! mode says.

mod single;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trajectory::{Finish, Trajectory};

pub use single::Single;

/// How rollouts go on when the policy has come to an end; the table `[rollout.mode]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ModeConfig {
    /// One turn: the first end is the end of the trajectory.
    Single {},
}

impl Default for ModeConfig {
    fn default() -> Self {
        Self::Single {}
    }
}

/// The mode that a configuration asks for: where a kind of mode is chosen.
pub fn of_config(config: &ModeConfig) -> Arc<dyn RolloutMode> {
    match config {
        ModeConfig::Single {} => Arc::new(Single),
    }
}

/// How rollouts of a run go on. All actors ask the same one.
pub trait RolloutMode: fmt::Debug + Send + Sync {
    /// What the rollout does after the policy has ended a turn. `so_far` holds all that was drawn, its last token included.
    fn next(&self, so_far: &Trajectory, end: Finish) -> Next;

    /// The answer to what [`RolloutMode::next`] gave this ticket for; `None` while there is none. Asked again and again
    /// until there is one, so it must not block.
    ///
    /// # Panics
    /// In a mode that gives no tickets.
    fn answer(&self, ticket: Ticket) -> Option<Reply> {
        panic!("{self:?} gave no {ticket:?}")
    }
}

/// Names a question to an environment; what it stands for is the mode's business. After a restart the mode is asked for
/// what follows once more, and may give another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// An actor whose trajectories all wait for answers asks again after so long: short beside any tool's work, and long
/// beside asking.
pub(crate) const ANSWER_PAUSE: Duration = Duration::from_millis(2);

/// What a rollout does after a turn of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The trajectory has ended.
    Done,
    /// The policy goes on behind these tokens, which an environment gave. Not empty.
    Append(Vec<u32>),
    /// The policy goes on behind these tokens and sees nothing of what was before. Not empty.
    NewContext(Vec<u32>),
    /// The trajectory leaves its slot and waits without a KV cache until [`RolloutMode::answer`] has a reply.
    Wait(Ticket),
}

/// What an environment answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// As [`Next::Append`].
    Append(Vec<u32>),
    /// As [`Next::NewContext`].
    NewContext(Vec<u32>),
}
