//! What follows the end of a turn: tokens that the mode gives at once, or a question whose answer comes later.

use trajectory::{Finish, Source, Trajectory};

use super::{Due, Scheduler, Slot};
use crate::modes::{Next, Reply, RolloutMode, Ticket};

impl Scheduler {
    /// The trajectory with what follows an end of its turn, or as it is where it has ended.
    pub(super) fn after_turn(&self, mut trajectory: Trajectory, end: Finish) -> Result<Due, Trajectory> {
        let mut ticket = None;
        match self.mode.next(&trajectory, end) {
            Next::Done => return Err(trajectory),
            Next::Append(ids) => trajectory.append(Source::Environment, ids),
            Next::NewContext(ids) => trajectory.begin_context(Source::Mode, ids),
            Next::Wait(asked) => ticket = Some(asked),
        }
        Ok(Due { trajectory, steps: 0, ticket })
    }

    /// Asks for the answers that are missing. A trajectory without one leaves its slot; one that gets its answer while it
    /// waits goes before those that have not begun.
    pub(super) fn take_answers(&mut self) {
        for slot in &mut self.slots {
            let Slot::Boundary(due) = slot else { continue };
            due.take_answer(&*self.mode);
            if due.ticket.is_some()
                && let Slot::Boundary(due) = std::mem::replace(slot, Slot::Free)
            {
                self.waiting.push_back(due);
            }
        }
        let mut answered = 0;
        for place in 0..self.waiting.len() {
            if self.waiting[place].ticket.is_none() || !self.waiting[place].take_answer(&*self.mode) {
                continue;
            }
            let due = self.waiting.remove(place).expect("it is there");
            self.waiting.insert(answered, due);
            answered += 1;
        }
    }

    /// Whether a trajectory waits for an answer.
    pub(crate) fn awaits_answers(&self) -> bool {
        let on_slots = self.slots.iter().filter_map(|slot| match slot {
            Slot::Boundary(due) => Some(due),
            Slot::Free | Slot::Decoding(_) => None,
        });
        on_slots.chain(&self.waiting).any(|due| due.ticket.is_some())
    }

    /// Adds a trajectory from before the restart to those that wait, after so many decode steps. Where its last turn had
    /// ended, the mode is asked once more for what follows.
    pub(crate) fn wait_again(&mut self, trajectory: Trajectory, steps: u64, end: Option<Finish>) {
        let ticket = self.ticket_of(&trajectory, end);
        self.waiting.push_back(Due { trajectory, steps, ticket });
    }

    /// Puts a trajectory back on the slot that it had, before its next segment; otherwise as
    /// [`Scheduler::wait_again`].
    pub(crate) fn restore_at_boundary(&mut self, slot: usize, trajectory: Trajectory, end: Option<Finish>) {
        assert!(matches!(self.slots[slot], Slot::Free), "slot {slot} is taken");
        let ticket = self.ticket_of(&trajectory, end);
        self.slots[slot] = Slot::Boundary(Due { trajectory, steps: 0, ticket });
    }

    /// What is given at once was written down with the turn, so only a question is asked again.
    fn ticket_of(&self, trajectory: &Trajectory, end: Option<Finish>) -> Option<Ticket> {
        match self.mode.next(trajectory, end?) {
            Next::Wait(ticket) => Some(ticket),
            Next::Done | Next::Append(_) | Next::NewContext(_) => None,
        }
    }
}

impl Due {
    /// A trajectory that needs nothing but a slot and room.
    pub(super) fn now(trajectory: Trajectory, steps: u64) -> Self {
        Self { trajectory, steps, ticket: None }
    }

    /// Takes the answer that it waits for, if there is one; whether it waits for none now.
    fn take_answer(&mut self, mode: &dyn RolloutMode) -> bool {
        let Some(reply) = self.ticket.and_then(|ticket| mode.answer(ticket)) else {
            return self.ticket.is_none();
        };
        match reply {
            Reply::Append(ids) => self.trajectory.append(Source::Environment, ids),
            Reply::NewContext(ids) => self.trajectory.begin_context(Source::Environment, ids),
        }
        (self.steps, self.ticket) = (0, None);
        true
    }
}
