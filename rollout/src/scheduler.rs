//! Which trajectory decodes on which slot, and when a new group may start. Pure: no threads, no clock, no
//! decoder; the same calls give the same answers.

mod order;
mod pacing;
mod room;
mod turns;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trajectory::{DrawnAt, Finish, OutputLimits, Segment, SegmentProgress, Token, Trajectory};

use crate::config::Priority;
use crate::modes::{RolloutMode, Single, Ticket};
use order::{Rank, last, lowest, rank};
pub use pacing::Pacing;
pub use room::Room;
use room::{Allotment, Reserved, RoomDecision};

/// The slots of one decoder and the trajectories on them.
///
/// A trajectory keeps its slot from its first token to its last: at a segment boundary it goes on in place,
/// and the slot of a finished one goes to the trajectory that has waited longest. The trajectories that
/// wait hold no cache and count as not open: none has started, but for those of a run that was resumed.
///
/// With a bound on the cache a trajectory begins a segment only where its context at the segment's end has room
/// beside what the others have reserved. Otherwise it leaves its slot and waits, with its tokens and without a cache.
/// The [`Priority`] orders those that wait; the first one of all always has room.
#[derive(Debug)]
pub struct Scheduler {
    limits: OutputLimits,
    slots: Vec<Slot>,
    waiting: VecDeque<Due>,
    bound: Option<Bound>,
    priority: Priority,
    finished: FinishedContexts,
    /// Slots whose trajectories gave up their caches in the last [`Scheduler::fill`].
    preempted: Vec<usize>,
    mode: Arc<dyn RolloutMode>,
    /// The actor whose slots these are.
    actor: u32,
    /// Decode steps so far.
    steps: u64,
}

/// A trajectory that needs a segment begun, and the decode steps since then.
#[derive(Debug)]
struct Due {
    trajectory: Trajectory,
    steps: u64,
    /// What it waits for an answer to: until then it takes no slot.
    ticket: Option<Ticket>,
}

#[derive(Debug)]
enum Slot {
    Free,
    /// Before the first token of a segment: the only time at which weights may change.
    Boundary(Due),
    Decoding(Trajectory),
}

/// A bound on the cache, and the size of the groups that are admitted under it.
#[derive(Debug, Clone, Copy)]
struct Bound {
    room: Room,
    group_size: usize,
}

/// The contexts of trajectories that have ended: how long those that start now are expected to get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedContexts {
    /// How many there were.
    pub count: u64,
    /// Their tokens, prompts included.
    pub tokens: u64,
}

/// How much of the KV cache is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockUse {
    /// Blocks that the contexts on the slots take.
    pub used: usize,
    /// Blocks that there are: of the bound, or without one of the longest contexts that the slots could hold, in
    /// blocks of a token.
    pub planned: usize,
}

/// What a drawn token did to the trajectory of its slot.
#[derive(Debug, PartialEq)]
pub enum TokenOutcome {
    /// The segment goes on.
    Inside,
    /// The trajectory waits on its slot for its next segment.
    SegmentEnded,
    /// The trajectory waits on its slot for its next segment, behind tokens that were given: what the slot has
    /// cached is not what the policy sees.
    TurnEnded,
    /// The trajectory has left its slot.
    Finished(Trajectory, Finish),
}

impl Scheduler {
    /// `slots` free slots.
    pub fn new(slots: usize, limits: OutputLimits) -> Self {
        assert!(slots > 0, "a scheduler needs a slot");
        Self {
            limits,
            slots: (0..slots).map(|_| Slot::Free).collect(),
            waiting: VecDeque::new(),
            bound: None,
            priority: Priority::Oldest,
            finished: FinishedContexts::default(),
            preempted: Vec::new(),
            mode: Arc::new(Single),
            actor: 0,
            steps: 0,
        }
    }

    /// The same with the mode that decides what a rollout does after a turn.
    #[must_use]
    pub fn with_mode(self, mode: Arc<dyn RolloutMode>) -> Self {
        Self { mode, ..self }
    }

    /// The same for the slots of this actor, which its segments are to name.
    #[must_use]
    pub fn of_actor(self, actor: u32) -> Self {
        Self { actor, ..self }
    }

    /// Bounds the cache, for groups of so many trajectories.
    #[must_use]
    pub fn bounded(self, room: Room, group_size: usize) -> Self {
        Self { bound: Some(Bound { room, group_size }), ..self }
    }

    /// Sets the scheduling priority, by which trajectories get slots and room where not all can.
    #[must_use]
    pub fn with_priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// Whether a slot would stay free although no trajectory waits for it, and under a bound whether what is there
    /// and one more group are expected to have room: the moment to admit a group.
    pub fn wants_group(&self) -> bool {
        let ready = self.waiting.iter().filter(|due| due.ticket.is_none()).count();
        if self.slots.iter().filter(|slot| matches!(slot, Slot::Free)).count() <= ready {
            return false;
        }
        let Some(Bound { room, group_size }) = self.bound else { return true };
        let all = || self.open().chain(self.waiting());
        let longest_prompt = all().map(|trajectory| trajectory.prompt.tokens.len()).max();
        // With nothing there a group is admitted whatever is expected of it: its members wait for each other.
        let Some(longest_prompt) = longest_prompt else { return true };
        let expected = match self.finished {
            FinishedContexts { count: 0, .. } => longest_prompt + self.limits.output_tokens_max,
            FinishedContexts { count, tokens } => tokens.div_ceil(count) as usize,
        };
        let needed = |trajectory: &Trajectory, segments: usize| {
            let longest = trajectory.prompt.tokens.len() + self.limits.output_tokens_max;
            room.taken_by(expected.min(longest).max(self.context_at_end(trajectory, segments)))
        };
        let on_slots = self.slots.iter().map(|slot| match slot {
            Slot::Free => 0,
            Slot::Boundary(due) => needed(&due.trajectory, 0),
            Slot::Decoding(trajectory) => needed(trajectory, 1),
        });
        let waiting = self.waiting().map(|trajectory| needed(trajectory, 0));
        on_slots.chain(waiting).sum::<usize>() + group_size * room.taken_by(expected) <= room.blocks
    }

    /// Adds the trajectories of a group to those that wait for a slot.
    pub fn admit(&mut self, trajectories: impl IntoIterator<Item = Trajectory>) {
        self.wait(trajectories.into_iter().map(|trajectory| (trajectory, 0)));
    }

    /// Adds trajectories that have waited for so many decode steps already.
    pub(crate) fn wait(&mut self, trajectories: impl IntoIterator<Item = (Trajectory, u64)>) {
        let due = trajectories.into_iter().map(|(trajectory, steps)| Due::now(trajectory, steps));
        self.waiting.extend(due);
    }

    /// Gives free slots to waiting trajectories, longest waiting first and lowest slot first, and returns
    /// all slots whose trajectory needs a segment begun. Under a bound it is those that have room, and
    /// [`Scheduler::take_preempted`] has the slots that others left.
    pub fn fill(&mut self) -> Vec<usize> {
        self.take_answers();
        match self.bound {
            Some(bound) => self.fill_bounded(bound.room),
            None => self.fill_free(),
        }
        self.slots_where(|slot| matches!(slot, Slot::Boundary(_)))
    }

    /// The slots whose caches were given up in the last [`Scheduler::fill`], for which they are to be released
    /// before segments are begun.
    pub fn take_preempted(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.preempted)
    }

    fn fill_free(&mut self) {
        if self.priority != Priority::Oldest {
            let members_left = self.members_left();
            let waiting = self.waiting.make_contiguous();
            waiting.sort_by_cached_key(|due| rank(&due.trajectory, members_left.as_ref()));
        }
        for slot in &mut self.slots {
            if matches!(slot, Slot::Free) {
                let Some(place) = self.waiting.iter().position(|due| due.ticket.is_none()) else { break };
                let due = self.waiting.remove(place).expect("it is there");
                *slot = Slot::Boundary(due);
            }
        }
    }

    fn fill_bounded(&mut self, room: Room) {
        let members_left = self.members_left();
        let rank = |trajectory: &Trajectory| rank(trajectory, members_left.as_ref());
        let (mut due, mut free, mut decoding) = (Vec::new(), Vec::new(), Vec::new());
        for slot in 0..self.slots.len() {
            match std::mem::replace(&mut self.slots[slot], Slot::Free) {
                Slot::Free => free.push(slot),
                Slot::Boundary(at) => due.push((rank(&at.trajectory), Some(slot), at)),
                Slot::Decoding(trajectory) => {
                    decoding.push((rank(&trajectory), self.reserved(room, &trajectory)));
                    self.slots[slot] = Slot::Decoding(trajectory);
                }
            }
        }
        for waiting in std::mem::take(&mut self.waiting) {
            match waiting.ticket {
                Some(_) => self.waiting.push_back(waiting),
                None => due.push((rank(&waiting.trajectory), None, waiting)),
            }
        }
        due.sort_by_key(|(rank, ..)| *rank);
        decoding.sort_by_key(|(rank, _)| *rank);
        self.allot(room, due, decoding, free);
    }

    /// Goes through those that are due, with their ranks and slots, in their order; each begins or waits.
    fn allot(
        &mut self,
        room: Room,
        due: Vec<(Rank, Option<usize>, Due)>,
        decoding: Vec<(Rank, Reserved)>,
        mut free: Vec<usize>,
    ) {
        let mut allotment = Allotment::new(room, decoding.iter().map(|(_, reserved)| *reserved));
        let mut decoding = decoding.into_iter().peekable();
        // A slot at a boundary stays with its trajectory, unless one before it in the order has room and no slot.
        let mut own: Vec<Option<usize>> = due.iter().map(|(_, slot, _)| *slot).collect();
        for (place, (rank, slot, due)) in due.into_iter().enumerate() {
            while let Some((_, reserved)) = decoding.next_if(|(other, _)| *other < rank) {
                allotment.pass(reserved);
            }
            let reserved = self.reserved(room, &due.trajectory);
            let kept = own[place].take();
            let lost = slot.is_some() && kept.is_none();
            let begins = !lost && allotment.ask(reserved) == RoomDecision::Begins;
            let to =
                if begins { kept.or_else(|| lowest(&mut free)).or_else(|| last(&mut own)) } else { None };
            if let Some(to) = to {
                allotment.begin(reserved);
                self.slots[to] = Slot::Boundary(due);
            } else {
                self.preempted.extend(slot);
                free.extend(kept);
                self.waiting.push_back(due);
            }
        }
    }

    /// The members that each group lacks, where the priority asks for them.
    fn members_left(&self) -> Option<BTreeMap<u64, usize>> {
        (self.priority == Priority::LastMembers).then(|| {
            let mut members_left = BTreeMap::new();
            self.open().chain(self.waiting()).for_each(|trajectory| {
                *members_left.entry(trajectory.group).or_default() += 1;
            });
            members_left
        })
    }

    /// What a trajectory takes at the end of the segment that it is in or due for, and of the one after that.
    fn reserved(&self, room: Room, trajectory: &Trajectory) -> Reserved {
        let at_end = |segments| room.taken_by(self.context_at_end(trajectory, segments));
        Reserved { now: at_end(1), next: at_end(2) }
    }

    /// Tokens of the context when so many segments have ended, the one that it is in or due for being the first.
    /// With none it is the context as it is, or the end of a segment that newer weights cut short.
    fn context_at_end(&self, trajectory: &Trajectory, segments: usize) -> usize {
        let (drawn, length) = (trajectory.token_count(), self.limits.segment_tokens_max);
        let full = match segments {
            0 => drawn.next_multiple_of(length),
            _ => (drawn / length + segments) * length,
        };
        trajectory.context_tokens() + full.min(self.limits.output_tokens_max) - drawn
    }

    /// The trajectory at a segment boundary on this slot.
    pub fn at_boundary(&self, slot: usize) -> &Trajectory {
        match &self.slots[slot] {
            Slot::Boundary(due) => &due.trajectory,
            other => panic!("slot {slot} is not at a segment boundary: {other:?}"),
        }
    }

    /// The trajectory on this slot.
    pub(crate) fn on(&self, slot: usize) -> &Trajectory {
        match &self.slots[slot] {
            Slot::Boundary(Due { trajectory, .. }) | Slot::Decoding(trajectory) => trajectory,
            Slot::Free => panic!("slot {slot} has no trajectory"),
        }
    }

    /// Puts a trajectory back on the slot that it had, inside its last segment.
    pub(crate) fn restore(&mut self, slot: usize, trajectory: Trajectory) {
        assert!(matches!(self.slots[slot], Slot::Free), "slot {slot} is taken");
        self.slots[slot] = Slot::Decoding(trajectory);
    }

    /// Lets the members of a group go; the slots that are free now.
    pub(crate) fn give_up(&mut self, group: u64) -> Vec<usize> {
        self.waiting.retain(|due| due.trajectory.group != group);
        let slots = self.slots_where(|slot| match slot {
            Slot::Free => false,
            Slot::Boundary(Due { trajectory, .. }) | Slot::Decoding(trajectory) => trajectory.group == group,
        });
        slots.iter().for_each(|slot| self.slots[*slot] = Slot::Free);
        slots
    }

    /// Whether the trajectory on this slot is inside a segment.
    pub(crate) fn is_inside(&self, slot: usize) -> bool {
        matches!(self.slots[slot], Slot::Decoding(_))
    }

    /// Ends the open segment of the trajectory on this slot where it is.
    pub fn cut(&mut self, slot: usize) {
        let Slot::Decoding(trajectory) = std::mem::replace(&mut self.slots[slot], Slot::Free) else {
            panic!("slot {slot} is not inside a segment");
        };
        self.slots[slot] = Slot::Boundary(Due::now(trajectory, 0));
    }

    /// The trajectory on each slot.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Option<&Trajectory>> {
        self.slots.iter().map(|slot| match slot {
            Slot::Free => None,
            Slot::Boundary(Due { trajectory, .. }) | Slot::Decoding(trajectory) => Some(trajectory),
        })
    }

    /// Starts the next segment of the trajectory on this slot, under `version`; returns the decode steps that it
    /// has waited for a slot or for room.
    pub fn begin(&mut self, slot: usize, version: u64) -> u64 {
        let Slot::Boundary(Due { mut trajectory, steps, ticket: None }) =
            std::mem::replace(&mut self.slots[slot], Slot::Free)
        else {
            panic!("slot {slot} is not at a segment boundary");
        };
        trajectory.start_segment(version, self.limits);
        self.slots[slot] = Slot::Decoding(trajectory);
        steps
    }

    /// The slots that draw a token in the next decode step, in order.
    pub fn decoding(&self) -> Vec<usize> {
        self.slots_where(|slot| matches!(slot, Slot::Decoding(_)))
    }

    /// Takes a drawn token, and what it ends the output by, if it does. The slot of a finished trajectory is free
    /// afterwards.
    pub fn push(&mut self, slot: usize, token: Token, end: Option<Finish>) -> TokenOutcome {
        let Slot::Decoding(mut trajectory) = std::mem::replace(&mut self.slots[slot], Slot::Free) else {
            panic!("slot {slot} drew a token and decodes nothing");
        };
        let progress = trajectory.push(token, end, self.limits);
        self.stamp(slot, trajectory.open_segment());
        match progress {
            SegmentProgress::Inside => {
                self.slots[slot] = Slot::Decoding(trajectory);
                TokenOutcome::Inside
            }
            SegmentProgress::SegmentFull => {
                self.slots[slot] = Slot::Boundary(Due::now(trajectory, 0));
                TokenOutcome::SegmentEnded
            }
            SegmentProgress::Finished(finish) => {
                let ended = match trajectory.token_count() < self.limits.output_tokens_max {
                    true => self.after_turn(trajectory, finish),
                    false => Err(trajectory),
                };
                match ended {
                    Ok(due) => {
                        self.slots[slot] = Slot::Boundary(due);
                        TokenOutcome::TurnEnded
                    }
                    Err(trajectory) => {
                        self.finished.count += 1;
                        self.finished.tokens += trajectory.context_tokens() as u64;
                        TokenOutcome::Finished(trajectory, finish)
                    }
                }
            }
        }
    }

    /// Takes `count` tokens at once that end neither the segment nor the output: a virtual run leaps over the
    /// decode steps in which nothing happens.
    pub fn push_inside(&mut self, slot: usize, token: Token, count: usize) {
        let Slot::Decoding(trajectory) = &mut self.slots[slot] else {
            panic!("slot {slot} drew tokens and decodes nothing");
        };
        let segment = trajectory.open_segment();
        let length = segment.tokens.len() + count;
        let limit = self.limits.segment_tokens_max;
        assert!(length < limit, "{length} tokens inside a segment of {limit}");
        segment.tokens.resize(length, token);
    }

    /// Writes into a segment that its slot has drawn a token of it in the decode step that was counted last.
    fn stamp(&self, slot: usize, segment: &mut Segment) {
        let (actor, slot, step) = (self.actor, slot as u32, self.steps.saturating_sub(1));
        let first_step = segment.drawn_at.map_or(step, |drawn_at| drawn_at.first_step);
        segment.drawn_at = Some(DrawnAt { actor, slot, first_step, last_step: step });
    }

    /// Counts a decode step, for those that wait too.
    pub fn count_step(&mut self) {
        self.steps += 1;
        self.waiting.iter_mut().for_each(|due| due.steps += 1);
    }

    /// How much of the KV cache the contexts on the slots take.
    pub fn blocks_in_use(&self) -> BlockUse {
        let room = self.bound.map_or(Room { blocks: 0, block_tokens: 1 }, |bound| bound.room);
        let used = self.open().map(|trajectory| room.taken_by(trajectory.context_tokens())).sum();
        if self.bound.is_some() {
            return BlockUse { used, planned: room.blocks };
        }
        let prompt = self.open().map(|trajectory| trajectory.prompt.tokens.len()).max().unwrap_or(0);
        BlockUse { used, planned: self.slots.len() * (prompt + self.limits.output_tokens_max) }
    }

    /// The contexts that have ended.
    pub(crate) fn finished(&self) -> FinishedContexts {
        self.finished
    }

    /// Goes on from the contexts that ended before the restart, and the decode steps until then.
    pub(crate) fn restore_counts(&mut self, finished: FinishedContexts, steps: u64) {
        self.finished = finished;
        self.steps = steps;
    }

    /// Decode steps so far.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// The number of slots.
    pub fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// The bound on the cache, if there is one.
    pub fn room(&self) -> Option<Room> {
        self.bound.map(|bound| bound.room)
    }

    /// The trajectories that are started and not finished.
    pub fn open(&self) -> impl Iterator<Item = &Trajectory> {
        self.slots().flatten()
    }

    /// The trajectories that are admitted and on no slot: not started, or without room.
    pub fn waiting(&self) -> impl Iterator<Item = &Trajectory> {
        self.waiting.iter().map(|due| &due.trajectory)
    }

    /// Decode steps that each of [`Scheduler::waiting`] has waited.
    pub(crate) fn steps_waited(&self) -> impl Iterator<Item = u64> {
        self.waiting.iter().map(|due| due.steps)
    }

    fn slots_where(&self, holds: impl Fn(&Slot) -> bool) -> Vec<usize> {
        self.slots.iter().enumerate().filter(|(_, slot)| holds(slot)).map(|(index, _)| index).collect()
    }
}

#[cfg(test)]
mod tests;
