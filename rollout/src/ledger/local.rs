//! The ledger of one process: admission, journal and queue behind it.

use std::sync::Arc;
use std::time::Duration;

use trajectory::{Prompt, Segment, Trajectory};

use super::admission::Admission;
use super::journal::Journal;
use super::queue::{Delivery, ReplayQueue};
use super::state::{DropReason, GroupState, RolloutState};
use super::{Ledger, Lost, SegmentEnd};
use crate::config::QueueConfig;
use crate::error::RolloutError;
use crate::scheduler::Pacing;
use crate::scorer::Scored;
use crate::weights::Notify;

/// Groups from their admission to the learner, in this process.
#[derive(Debug)]
pub struct LocalLedger {
    admission: Arc<Admission>,
    queue: Arc<ReplayQueue>,
}

impl LocalLedger {
    /// A ledger at group 0; `notify` wakes the actors that found nothing to start.
    pub fn new(pacing: Pacing, queue: QueueConfig, notify: Notify) -> Self {
        Self::of(Admission::new(pacing, notify), queue)
    }

    /// A ledger whose groups on the way are those of `state`. The queue gets its groups when the actors are restored.
    pub fn restored(pacing: Pacing, queue: QueueConfig, notify: Notify, state: &RolloutState) -> Self {
        Self::of(Admission::new(pacing, notify).restored(state), queue)
    }

    fn of(admission: Admission, queue: QueueConfig) -> Self {
        let admission = Arc::new(admission);
        Self { queue: Arc::new(ReplayQueue::new(queue, Arc::clone(&admission))), admission }
    }

    /// Writes every segment that ends into this journal, and replays what it holds.
    pub fn keep_journal(&self, journal: Journal) {
        self.admission.keep_journal(journal);
    }

    /// Where the learner takes its groups from.
    pub fn queue(&self) -> &Arc<ReplayQueue> {
        &self.queue
    }

    /// How many groups were started and why.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }
}

impl Ledger for LocalLedger {
    fn admit(&self, actor: usize, version: u64) -> Option<GroupState> {
        self.admission.admit(version).map(|group| GroupState { actor, ..GroupState::new(group, version) })
    }

    fn assign(&self, group: u64, actor: usize, prompt: &Prompt, members: usize) {
        self.admission.assign(group, actor, prompt, members);
    }

    fn record(&self, segment: SegmentEnd<'_>) -> Result<(), Lost> {
        self.admission.record(segment)
    }

    fn replay_from_journal(&self, trajectory: &Trajectory, newest: u64) -> Option<Segment> {
        self.admission.replay_from_journal(trajectory, newest)
    }

    fn replay_open(&self, trajectory: &Trajectory) -> Option<Segment> {
        self.admission.replay_open(trajectory)
    }

    fn groups_of(&self, actor: usize) -> Vec<GroupState> {
        self.admission.groups_of(actor)
    }

    fn wait_for_room(&self, limit: Duration) -> bool {
        self.queue.wait_for_room(limit)
    }

    fn finish(&self, group: u64, actor: usize) -> Result<(), Lost> {
        self.queue.reserve();
        let finished = self.admission.finish(group, actor);
        if finished.is_err() {
            self.queue.release_reserved();
        }
        finished
    }

    fn abandon(&self, group: u64) {
        self.queue.discard_reserved(group, DropReason::Closed);
    }

    fn deliver(&self, scored: Scored) -> Result<(), RolloutError> {
        match self.queue.accept(scored) {
            Delivery::Group(group) => match self.queue.push_reserved(group) {
                // A closed queue has counted the group.
                Ok(()) | Err(RolloutError::Closed) => Ok(()),
                Err(error) => Err(error),
            },
            Delivery::Counted => {
                self.queue.release_reserved();
                Ok(())
            }
            // It has its place no more.
            Delivery::Repeated => Ok(()),
        }
    }

    fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    fn notify(&self) -> &Notify {
        self.admission.notify()
    }
}
