//! Which trajectory decodes on which slot, and when a new group may start. Pure: no threads, no clock, no
//! decoder; the same calls give the same answers.

mod pacing;
mod room;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use trajectory::{DrawnAt, Finish, OutputLimits, Progress, Segment, Source, Token, Trajectory};

use crate::config::Priority;
use crate::modes::{Next, RolloutMode, Single};
pub use pacing::Pacing;
pub use room::Room;
use room::{Allotment, Reserved, Verdict};

/// The slots of one decoder and the trajectories on them.
///
/// A trajectory keeps its slot from its first token to its last: at a segment boundary it goes on in place,
/// and the slot of a finished one goes to the trajectory that has waited longest. The trajectories that
/// wait hold no cache and count as not open: none has started, but for those of a run that was taken up.
///
/// With a bound on the cache a trajectory begins a segment only where its context at the segment's end has room
/// beside what the others have reserved. Otherwise it leaves its slot and waits, with its tokens and without a cache.
/// Who goes first is a matter of the [`Priority`]; the first one of all always has room.
#[derive(Debug)]
pub struct Scheduler {
    limits: OutputLimits,
    slots: Vec<Slot>,
    waiting: VecDeque<Due>,
    bound: Option<Bound>,
    priority: Priority,
    finished: FinishedContexts,
    /// Slots whose trajectories gave up their caches in the last [`Scheduler::fill`].
    parked: Vec<usize>,
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

/// What a drawn token did to the trajectory of its slot.
#[derive(Debug, PartialEq)]
pub enum Outcome {
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

/// The order in which trajectories get room and slots, smallest first.
type Rank = (bool, usize, u64, u32);

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
            parked: Vec::new(),
            mode: Arc::new(Single),
            actor: 0,
            steps: 0,
        }
    }

    /// The same with what follows the end of a turn.
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

    /// Who goes first where not all can.
    #[must_use]
    pub fn with_priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// Whether a slot would stay free although no trajectory waits for it, and under a bound whether what is there
    /// and one more group are expected to have room: the moment to admit a group.
    pub fn is_hungry(&self) -> bool {
        if self.slots.iter().filter(|slot| matches!(slot, Slot::Free)).count() <= self.waiting.len() {
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
        let due = trajectories.into_iter().map(|(trajectory, steps)| Due { trajectory, steps });
        self.waiting.extend(due);
    }

    /// Gives free slots to waiting trajectories, longest waiting first and lowest slot first, and returns
    /// all slots whose trajectory needs a segment begun. Under a bound it is those that have room, and
    /// [`Scheduler::take_parked`] has the slots that others left.
    pub fn fill(&mut self) -> Vec<usize> {
        match self.bound {
            Some(bound) => self.fill_bounded(bound.room),
            None => self.fill_free(),
        }
        self.slots_where(|slot| matches!(slot, Slot::Boundary(_)))
    }

    /// The slots whose caches were given up in the last [`Scheduler::fill`], for which they are to be released
    /// before segments are begun.
    pub fn take_parked(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.parked)
    }

    fn fill_free(&mut self) {
        if self.priority != Priority::Oldest {
            let lacking = self.lacking();
            let waiting = self.waiting.make_contiguous();
            waiting.sort_by_cached_key(|due| rank(&due.trajectory, lacking.as_ref()));
        }
        for slot in &mut self.slots {
            if matches!(slot, Slot::Free) {
                let Some(due) = self.waiting.pop_front() else { break };
                *slot = Slot::Boundary(due);
            }
        }
    }

    fn fill_bounded(&mut self, room: Room) {
        let lacking = self.lacking();
        let rank = |trajectory: &Trajectory| rank(trajectory, lacking.as_ref());
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
        due.extend(self.waiting.drain(..).map(|due| (rank(&due.trajectory), None, due)));
        due.sort_by_key(|(rank, ..)| *rank);
        decoding.sort_by_key(|(rank, _)| *rank);
        self.allot(room, due, (decoding, free));
    }

    /// Goes through those that are due, with their ranks and slots, in their order; each begins or waits.
    fn allot(
        &mut self,
        room: Room,
        due: Vec<(Rank, Option<usize>, Due)>,
        (decoding, mut free): (Vec<(Rank, Reserved)>, Vec<usize>),
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
            let begins = !lost && allotment.ask(reserved) == Verdict::Begins;
            let to =
                if begins { kept.or_else(|| lowest(&mut free)).or_else(|| last(&mut own)) } else { None };
            if let Some(to) = to {
                allotment.begin(reserved);
                self.slots[to] = Slot::Boundary(due);
            } else {
                self.parked.extend(slot);
                free.extend(kept);
                self.waiting.push_back(due);
            }
        }
    }

    /// The members that each group lacks, where the priority asks for them.
    fn lacking(&self) -> Option<BTreeMap<u64, usize>> {
        (self.priority == Priority::LastMembers).then(|| {
            let mut lacking = BTreeMap::new();
            self.open().chain(self.waiting()).for_each(|trajectory| {
                *lacking.entry(trajectory.group).or_default() += 1;
            });
            lacking
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

    /// Puts a trajectory back on the slot that it had, inside its last segment or before the next one.
    pub(crate) fn restore(&mut self, slot: usize, trajectory: Trajectory, inside: bool) {
        assert!(matches!(self.slots[slot], Slot::Free), "slot {slot} is taken");
        self.slots[slot] = match inside {
            true => Slot::Decoding(trajectory),
            false => Slot::Boundary(Due { trajectory, steps: 0 }),
        };
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
        self.slots[slot] = Slot::Boundary(Due { trajectory, steps: 0 });
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
        let Slot::Boundary(Due { mut trajectory, steps }) =
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
    pub fn push(&mut self, slot: usize, token: Token, end: Option<Finish>) -> Outcome {
        let Slot::Decoding(mut trajectory) = std::mem::replace(&mut self.slots[slot], Slot::Free) else {
            panic!("slot {slot} drew a token and decodes nothing");
        };
        let progress = trajectory.push(token, end, self.limits);
        self.stamp(slot, trajectory.open_segment());
        match progress {
            Progress::Inside => {
                self.slots[slot] = Slot::Decoding(trajectory);
                Outcome::Inside
            }
            Progress::SegmentFull => {
                self.slots[slot] = Slot::Boundary(Due { trajectory, steps: 0 });
                Outcome::SegmentEnded
            }
            Progress::Finished(finish) => {
                if trajectory.token_count() < self.limits.output_tokens_max
                    && self.goes_on(&mut trajectory, finish)
                {
                    self.slots[slot] = Slot::Boundary(Due { trajectory, steps: 0 });
                    return Outcome::TurnEnded;
                }
                self.finished.count += 1;
                self.finished.tokens += trajectory.context_tokens() as u64;
                Outcome::Finished(trajectory, finish)
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

    /// Puts what follows an end behind the trajectory; whether it goes on.
    fn goes_on(&self, trajectory: &mut Trajectory, finish: Finish) -> bool {
        match self.mode.next(trajectory, finish) {
            Next::Done => return false,
            Next::Append(ids) => trajectory.append(Source::Environment, ids),
            Next::NewContext(ids) => trajectory.begin_context(Source::Mode, ids),
        }
        true
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

    /// Blocks that the contexts on the slots take, and those there are: of the bound, or without one of the
    /// longest contexts that the slots could hold, in blocks of a token.
    pub fn blocks_in_use(&self) -> (usize, usize) {
        let room = self.bound.map_or(Room { blocks: 0, block_tokens: 1 }, |bound| bound.room);
        let used = self.open().map(|trajectory| room.taken_by(trajectory.context_tokens())).sum();
        if self.bound.is_some() {
            return (used, room.blocks);
        }
        let prompt = self.open().map(|trajectory| trajectory.prompt.tokens.len()).max().unwrap_or(0);
        (used, self.slots.len() * (prompt + self.limits.output_tokens_max))
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

/// Takes the lowest of the free slots.
fn lowest(free: &mut Vec<usize>) -> Option<usize> {
    let place = (0..free.len()).min_by_key(|place| free[*place])?;
    Some(free.swap_remove(place))
}

/// Takes the slot of the last trajectory that still has one.
fn last(own: &mut [Option<usize>]) -> Option<usize> {
    own.iter_mut().rev().find_map(Option::take)
}

/// Older groups first. Where members that are lacking count, groups that lack fewer go first, but the oldest group
/// goes before all others: however many groups pass another one, it is the oldest at last.
fn rank(trajectory: &Trajectory, lacking: Option<&BTreeMap<u64, usize>>) -> Rank {
    let Trajectory { group, member, .. } = trajectory;
    let Some(lacking) = lacking else { return (false, 0, *group, *member) };
    let is_oldest = lacking.first_key_value().is_some_and(|(oldest, _)| oldest == group);
    (!is_oldest, lacking.get(group).copied().unwrap_or(0), *group, *member)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::testing::prompt;

    const EOS: u32 = 0;

    fn group(id: u64, members: u32) -> Vec<Trajectory> {
        let prompt = prompt(id);
        (0..members).map(|member| Trajectory::new(prompt.clone(), id, member)).collect()
    }

    fn begin_all(scheduler: &mut Scheduler, version: u64) -> Vec<usize> {
        let slots = scheduler.fill();
        for slot in &slots {
            scheduler.begin(*slot, version);
        }
        slots
    }

    fn token(id: u32) -> Token {
        Token { id, logprob: -1.0 }
    }

    #[test]
    fn a_freed_slot_goes_to_the_trajectory_that_waited_longest() {
        let mut scheduler = Scheduler::new(2, OutputLimits { segment_tokens_max: 4, output_tokens_max: 4 });
        assert!(scheduler.is_hungry());
        scheduler.admit(group(0, 4));
        assert!(!scheduler.is_hungry(), "four wait for two slots");
        assert_eq!(begin_all(&mut scheduler, 0), [0, 1]);
        assert_eq!(scheduler.push(0, token(2), None), Outcome::Inside);
        let Outcome::Finished(first, Finish::Eos) = scheduler.push(1, token(EOS), Some(Finish::Eos)) else {
            panic!("an end of output finishes");
        };
        assert_eq!(first.member, 1);
        assert_eq!(begin_all(&mut scheduler, 0), [1]);
        let open: Vec<u32> = scheduler.open().map(|trajectory| trajectory.member).collect();
        assert_eq!(open, [0, 2]);
        assert_eq!(scheduler.waiting().map(|trajectory| trajectory.member).collect::<Vec<_>>(), [3]);
    }

    // Invariant 1: a neighbour inside its segment keeps its version when another slot begins under a newer
    // one.
    #[test]
    fn only_slots_at_a_boundary_take_the_new_version() {
        let mut scheduler = Scheduler::new(2, OutputLimits { segment_tokens_max: 2, output_tokens_max: 4 });
        scheduler.admit(group(0, 1));
        begin_all(&mut scheduler, 0);
        scheduler.push(0, token(2), None);
        scheduler.admit(group(1, 1));
        begin_all(&mut scheduler, 1);
        assert_eq!(scheduler.push(0, token(3), None), Outcome::SegmentEnded);
        assert_eq!(scheduler.push(1, token(3), None), Outcome::Inside);
        assert_eq!(begin_all(&mut scheduler, 2), [0], "slot 1 is inside its segment");
        let versions: Vec<Vec<u64>> = scheduler
            .open()
            .map(|trajectory| trajectory.segments().map(|segment| segment.version).collect())
            .collect();
        assert_eq!(versions, [vec![0, 2], vec![1]]);
    }

    #[test]
    fn pacing_follows_the_version_and_gives_dropped_groups_back() {
        let pacing = Pacing { groups_per_step: 3, staleness_versions_max: 2 };
        assert_eq!(pacing.groups_started_max(0, 0), 9);
        assert_eq!(pacing.groups_started_max(4, 0), 21);
        assert_eq!(pacing.groups_started_max(4, 5), 26);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        // Invariants 1, 2 and 7, whatever the lengths and versions: every token that was drawn is in its
        // trajectory once and in order, segments are full except the last, versions never fall, and no slot
        // is free in a decode step while a trajectory waits.
        #[test]
        fn every_drawn_token_is_kept_in_full_segments(
            slots in 1usize..5,
            segment in 1usize..4,
            segments in 1usize..4,
            draws in proptest::collection::vec((0u32..6, any::<bool>()), 1..200),
        ) {
            let limits = OutputLimits { segment_tokens_max: segment, output_tokens_max: segment * segments };
            let mut scheduler = Scheduler::new(slots, limits);
            let (mut version, mut groups) = (0, 0);
            let mut drawn = std::collections::BTreeMap::<(u64, u32), Vec<u32>>::new();
            let mut on_slot = vec![(0, 0); slots];
            let mut draws = draws.into_iter().peekable();
            while draws.peek().is_some() {
                while scheduler.is_hungry() {
                    scheduler.admit(group(groups, 3));
                    groups += 1;
                }
                for slot in scheduler.fill() {
                    let trajectory = scheduler.at_boundary(slot);
                    on_slot[slot] = (trajectory.group, trajectory.member);
                    scheduler.begin(slot, version);
                }
                let decoding = scheduler.decoding();
                prop_assert_eq!(&decoding, &(0..slots).collect::<Vec<_>>(), "no slot is idle");
                for slot in decoding {
                    let Some((id, publish)) = draws.next() else { break };
                    version += u64::from(publish);
                    let expected = drawn.entry(on_slot[slot]).or_default();
                    expected.push(id);
                    let outcome = scheduler.push(slot, token(id), (id == EOS).then_some(Finish::Eos));
                    if let Outcome::Finished(trajectory, finish) = outcome {
                        let count = trajectory.token_count();
                        let segments: Vec<&Segment> = trajectory.segments().collect();
                        let (last, full) = segments.split_last().expect("it has a segment");
                        prop_assert!(full.iter().all(|s| s.tokens.len() == segment));
                        prop_assert!((1..=segment).contains(&last.tokens.len()));
                        prop_assert!(segments.windows(2).all(|w| w[0].version <= w[1].version));
                        let ids = &trajectory.context_ids()[trajectory.prompt.tokens.len()..];
                        prop_assert_eq!(ids, expected.as_slice());
                        let at_limit = count == limits.output_tokens_max;
                        let eos = ids.last() == Some(&EOS);
                        prop_assert_eq!(finish, if eos { Finish::Eos } else { Finish::Length });
                        prop_assert!(eos || at_limit);
                    } else {
                        prop_assert!(id != EOS);
                    }
                }
            }
        }
    }

    const LIMITS: OutputLimits = OutputLimits { segment_tokens_max: 4, output_tokens_max: 12 };

    /// Draws a token on every slot that decodes; the members that ended.
    fn draw(scheduler: &mut Scheduler, length: impl Fn(u64, u32) -> usize) -> Vec<(u64, u32)> {
        let mut ended = Vec::new();
        scheduler.count_step();
        for slot in scheduler.decoding() {
            let trajectory = scheduler.on(slot);
            let (group, member) = (trajectory.group, trajectory.member);
            let is_last = trajectory.token_count() + 1 == length(group, member);
            let outcome =
                scheduler.push(slot, token(if is_last { EOS } else { 2 }), is_last.then_some(Finish::Eos));
            if let Outcome::Finished(..) = outcome {
                ended.push((group, member));
            }
        }
        ended
    }

    /// By hand: prompts of 2 tokens, blocks of 2, segments of 4: a context takes 3, 5 and 7 blocks.
    #[test]
    fn the_youngest_gives_its_cache_up_and_comes_back() {
        let room = Room { blocks: 13, block_tokens: 2 };
        let mut scheduler = Scheduler::new(3, LIMITS).bounded(room, 3);
        scheduler.admit(group(0, 3));
        // Beside the first, which will need 5, and the second, which will need 5, the third would need 3.
        assert_eq!(begin_all(&mut scheduler, 0), [0, 1, 2]);
        let never = |_, _| 99;
        (0..4).for_each(|_| assert!(draw(&mut scheduler, never).is_empty()));
        // Seven for the first, then five for the second leave nothing.
        assert_eq!(begin_all(&mut scheduler, 1), [0, 1]);
        assert_eq!(scheduler.take_parked(), [2]);
        assert_eq!(scheduler.waiting().map(Trajectory::token_count).collect::<Vec<_>>(), [4]);
        assert_eq!(scheduler.blocks_in_use(), (3 + 3, 13));
        (0..4).for_each(|_| assert!(draw(&mut scheduler, never).is_empty()));
        // Seven and seven are too many, so the second waits; the third has the room that is too little for it.
        assert_eq!((scheduler.fill(), scheduler.take_parked()), (vec![0, 1], vec![1]));
        assert_eq!((scheduler.begin(0, 2), scheduler.begin(1, 2), scheduler.on(1).member), (0, 4, 2));
        (0..3).for_each(|_| assert!(draw(&mut scheduler, never).is_empty()));
        assert_eq!(draw(&mut scheduler, never), [(0, 0)], "at the limit");
        // The second takes the lowest slot, and beside it the third has no room for its last segment.
        assert_eq!((scheduler.fill(), scheduler.take_parked()), (vec![0], vec![1]));
        assert_eq!(scheduler.begin(0, 3), 4, "steps that it waited");
        let versions = |trajectory: &Trajectory| -> Vec<u64> {
            trajectory.segments().map(|segment| segment.version).collect()
        };
        assert_eq!(versions(scheduler.on(0)), [0, 1, 3]);
        assert_eq!(scheduler.waiting().map(versions).collect::<Vec<_>>(), [[0, 2]]);
    }

    #[test]
    fn a_group_is_admitted_where_what_it_is_expected_to_need_has_room() {
        let room = Room { blocks: 30, block_tokens: 2 };
        let mut scheduler = Scheduler::new(10, LIMITS).bounded(room, 2);
        assert!(scheduler.is_hungry(), "nothing is there");
        scheduler.admit(group(0, 2));
        begin_all(&mut scheduler, 0);
        // Before anything has ended the limit is expected, 7 blocks for each: four fit, six do not.
        assert!(scheduler.is_hungry());
        scheduler.admit(group(1, 2));
        assert!(!scheduler.is_hungry());
        begin_all(&mut scheduler, 0);
        // One of 4 tokens, so contexts of 6 tokens are expected: 3 blocks for each of three and of two more.
        let ended: Vec<_> =
            (0..4).flat_map(|_| draw(&mut scheduler, |_, member| 4 + 95 * member as usize)).collect();
        assert_eq!(ended, [(0, 0), (1, 0)]);
        assert_eq!(scheduler.finished(), FinishedContexts { count: 2, tokens: 12 });
        begin_all(&mut scheduler, 0);
        // The two that go on will have 5 each at the end of their segments: 10 + 2 * 3, then 16 + 2 * 3, then 22.
        for id in 2..5 {
            assert!(scheduler.is_hungry(), "group {id}");
            scheduler.admit(group(id, 2));
        }
        // 28 and 6 are too many, although two slots are free.
        assert!(!scheduler.is_hungry());
    }

    #[test]
    fn the_last_members_go_before_whole_groups_but_not_before_the_oldest() {
        let mut scheduler = Scheduler::new(1, LIMITS).with_priority(Priority::LastMembers);
        scheduler.admit(group(3, 3).into_iter().chain(group(4, 2)).chain(group(5, 1)));
        let mut order = Vec::new();
        for _ in 0..6 {
            begin_all(&mut scheduler, 0);
            order.extend(draw(&mut scheduler, |_, _| 1));
        }
        assert_eq!(
            order,
            [(3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (5, 0)],
            "the oldest, then the next oldest"
        );
        scheduler.admit(group(6, 2).into_iter().chain(group(7, 3)).chain(group(8, 1)));
        let due = scheduler.lacking();
        let mut waiting: Vec<&Trajectory> = scheduler.waiting().collect();
        waiting.sort_by_key(|trajectory| rank(trajectory, due.as_ref()));
        let order: Vec<u64> = waiting.iter().map(|trajectory| trajectory.group).collect();
        assert_eq!(order, [6, 6, 8, 7, 7, 7]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        // Whatever the lengths, slots and bounds: reservations never exceed the bound, nothing comes to a stand,
        // every trajectory gets exactly its tokens, and no group is the oldest for longer than its members take one
        // after the other, however many come after it.
        #[test]
        fn a_bound_is_kept_and_everybody_comes_through(
            slots in 1usize..7,
            segment in 1usize..4,
            segments in 1usize..5,
            members in 1u32..4,
            block_tokens in 1usize..4,
            spare in 0usize..10,
            last_members in any::<bool>(),
            lengths: u64,
        ) {
            let limits = OutputLimits { segment_tokens_max: segment, output_tokens_max: segment * segments };
            let longest = 2 + limits.output_tokens_max;
            let room = Room { blocks: longest.div_ceil(block_tokens) + spare, block_tokens };
            let priority = if last_members { Priority::LastMembers } else { Priority::Oldest };
            let mut scheduler = Scheduler::new(slots, limits).bounded(room, members as usize).with_priority(priority);
            let length = |group, member| {
                1 + (trajectory::random::trajectory_key(lengths, group, member) % 13) as usize
            };
            let (mut groups, mut ended) = (0, std::collections::BTreeMap::<u64, u32>::new());
            let (mut oldest, mut since) = (0, 0_usize);
            for step in 0..400 {
                while scheduler.is_hungry() {
                    scheduler.admit(group(groups, members));
                    groups += 1;
                }
                for slot in scheduler.fill() {
                    scheduler.begin(slot, 0);
                }
                let reserved: usize =
                    scheduler.open().map(|open| room.taken_by(scheduler.context_at_end(open, 1))).sum();
                prop_assert!(reserved <= room.blocks, "{} of {}", reserved, room.blocks);
                prop_assert!(!scheduler.decoding().is_empty(), "step {step} draws nothing");
                let known: Vec<usize> = scheduler.waiting().map(Trajectory::token_count).collect();
                prop_assert!(known.iter().all(|tokens| tokens.is_multiple_of(segment)), "{known:?}");
                for slot in scheduler.decoding() {
                    let (group, member) = (scheduler.on(slot).group, scheduler.on(slot).member);
                    let is_last = scheduler.on(slot).token_count() + 1 == length(group, member);
                    if let Outcome::Finished(trajectory, _) = scheduler.push(slot, token(2), is_last.then_some(Finish::Eos)) {
                        let expected = length(group, member).min(limits.output_tokens_max);
                        prop_assert_eq!(trajectory.token_count(), expected);
                        *ended.entry(group).or_default() += 1;
                    }
                }
                while ended.get(&oldest) == Some(&members) {
                    (oldest, since) = (oldest + 1, step);
                }
                let most = members as usize * (limits.output_tokens_max + segment) + 1;
                prop_assert!(step - since <= most, "group {} waits since {}", oldest, since);
            }
        }
    }
}
