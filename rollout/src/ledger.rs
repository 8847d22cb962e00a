//! What actors ask and tell of their groups. An actor knows this trait and no queue: where its groups come from, who
//! keeps what it has drawn, and where scored groups go is the ledger's work.
//!
//! Everything that an actor tells is a whole: a trajectory up to the end of its last segment, or a scored group. So a
//! ledger may be told twice, late, or not at all of a segment whose successor it hears of, and holds the same.

pub(crate) mod state;
pub(crate) mod journal;
pub(crate) mod admission;
pub(crate) mod queue;
pub(crate) mod local;
pub(crate) mod request;
#[cfg(test)]
pub(crate) mod lossy;

use std::time::Duration;

use trajectory::{Finish, Prompt, Segment, Trajectory};

use crate::error::RolloutError;
use crate::ledger::state::GroupState;
use crate::scorer::Scored;
use crate::weights::Notify;

/// Another actor has the group now, or nobody needs it any more: whoever is told so gives it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost;

/// The end of a segment.
#[derive(Debug, Clone, Copy)]
pub struct SegmentEnd<'a> {
    /// The actor that drew it, or gave it again.
    pub actor: usize,
    /// The trajectory, whose last segment it is.
    pub trajectory: &'a Trajectory,
    /// Why the trajectory ended with it, if it did.
    pub finish: Option<Finish>,
    /// Whether it came from [`Ledger::replay_from_journal`].
    pub replayed: bool,
}

/// All that an actor and the scorers of its groups ask and tell.
pub trait Ledger: Send + Sync {
    /// A group for this actor, if there is one under weights of `version`; never waits. One that has members was
    /// begun before, and goes on from the segments in it.
    fn admit(&self, actor: usize, version: u64) -> Option<GroupState>;

    /// Tells which actor answers a group, what it is asked, and how many members it has.
    fn assign(&self, group: u64, actor: usize, prompt: &Prompt, members: usize);

    /// Tells of the end of a segment.
    ///
    /// # Errors
    /// If the group is not the actor's any more.
    fn record(&self, segment: SegmentEnd<'_>) -> Result<(), Lost>;

    /// The segment that comes next in a trajectory, if it was drawn before a restart under weights that are not newer
    /// than `newest`.
    fn replay_from_journal(&self, trajectory: &Trajectory, newest: u64) -> Option<Segment>;

    /// The whole of a trajectory's open segment, if it was drawn before a restart.
    fn replay_open(&self, trajectory: &Trajectory) -> Option<Segment>;

    /// The unfinished groups of an actor, as far as their segments have ended.
    fn groups_of(&self, actor: usize) -> Vec<GroupState>;

    /// Waits for room for a finished group for at most so long; whether there is some, as far as this ledger knows.
    fn wait_for_room(&self, _limit: Duration) -> bool {
        true
    }

    /// Keeps a place for a group whose last member has ended, waiting for room: this is how a slow learner slows the
    /// actors down. What waits for a verdict grows old like what waits for the learner.
    ///
    /// # Errors
    /// If the group is not the actor's any more.
    fn finish(&self, group: u64, actor: usize) -> Result<(), Lost>;

    /// Gives the place of a finished group back, because the run is stopping and nobody will score it. It stays on the
    /// way for a run that goes on from here.
    fn abandon(&self, group: u64);

    /// Hands over what became of a finished group.
    ///
    /// # Errors
    /// What makes it impossible; that the run is stopping is no error.
    fn deliver(&self, scored: Scored) -> Result<(), RolloutError>;

    /// Whether the run is stopping.
    fn is_closed(&self) -> bool;

    /// Notified when there may be a group again where [`Ledger::admit`] had none.
    fn notify(&self) -> &Notify;
}
