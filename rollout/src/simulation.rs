//! The whole rollout as lists and loops: no tokens, no text, no threads, only lengths. What decodes under which
//! version, which groups are due, dropped and handed out follows from lengths alone, and here is how. The two
//! schedules that promise to be the same in every run are compared with it, with and without a bound on the cache.

mod compared;

use trajectory::random::trajectory_key;

use crate::config::Priority;

/// What may differ between two runs.
#[derive(Debug, Clone, Copy)]
struct Shape {
    slots: usize,
    segment_tokens: usize,
    segments_max: usize,
    group_size: usize,
    groups_per_step: usize,
    staleness: u64,
    /// Room in the queue beyond one step's groups.
    room: usize,
    lengths: u64,
    /// Blocks of the cache beyond those of one longest context.
    spare_blocks: Option<usize>,
    priority: Priority,
    versions_open_max: u64,
    /// Of five groups, those that teach nothing and are refilled.
    dead_of_five: u64,
}

/// Tokens of a block of the cache.
const BLOCK: usize = 2;

/// Tokens of every prompt of the tests.
const PROMPT: usize = 2;

impl Shape {
    fn length(&self, group: u64, member: u32) -> usize {
        1 + (trajectory_key(self.lengths, group, member) % 13) as usize
    }

    /// How many further groups a step wants beside these.
    fn further(&self, groups: impl Iterator<Item = u64>) -> usize {
        let is_live = |id: &u64| trajectory_key(self.lengths + 1, *id, 0) % 5 >= self.dead_of_five;
        let (mut count, mut live) = (0, 0);
        for id in groups {
            count += 1;
            live += usize::from(is_live(&id));
        }
        self.groups_per_step.saturating_sub(live).min(3 * self.groups_per_step - count)
    }

    fn groups_max(&self) -> usize {
        self.groups_per_step + self.room
    }

    fn limit(&self) -> usize {
        self.segment_tokens * self.segments_max
    }

    /// Blocks of a context with so many whole segments.
    fn blocks(&self, segments: usize) -> usize {
        (PROMPT + (segments * self.segment_tokens).min(self.limit())).div_ceil(BLOCK)
    }

    /// Blocks of the cache.
    fn bound(&self) -> Option<usize> {
        self.spare_blocks.map(|spare| self.blocks(self.segments_max) + spare)
    }
}

/// The order in which members go: not of the oldest group, members that the group lacks, group, member.
type Rank = (bool, usize, u64, u32);

/// The versions and the numbers of tokens of a trajectory's segments.
type Segments = Vec<(u64, usize)>;

#[derive(Debug, Clone)]
struct Member {
    group: u64,
    member: u32,
    segments: Segments,
}

/// A group that was started and not handed out or dropped.
#[derive(Debug, Clone)]
struct Started {
    id: u64,
    version: u64,
    ended: Vec<Member>,
}

#[derive(Debug)]
struct Simulation {
    shape: Shape,
    slots: Vec<Option<Member>>,
    waiting: Vec<Member>,
    started: Vec<Started>,
    groups_started: u64,
    dropped: u64,
    /// Groups that steps have taken beyond `groups_per_step`.
    refilled: u64,
    /// Groups in the queue, and those that have no room in it yet.
    queue: Vec<u64>,
    overflow: Vec<u64>,
    /// Contexts that have ended, and their tokens.
    finished: (usize, usize),
    /// Times that a cache was given up.
    preempted: u64,
}

impl Member {
    fn tokens(&self) -> usize {
        self.segments.iter().map(|(_, tokens)| tokens).sum()
    }

    /// Whether a segment is to begin before the next token under `version`.
    fn is_due(&self, shape: Shape, version: u64) -> bool {
        let behind = |of: u64| of + shape.versions_open_max <= version;
        self.tokens().is_multiple_of(shape.segment_tokens)
            || self.segments.last().is_some_and(|(of, _)| behind(*of))
    }

    /// Whole segments' worth of tokens, or those begun.
    fn segments_begun(&self, shape: Shape) -> usize {
        self.tokens().div_ceil(shape.segment_tokens)
    }
}

impl Simulation {
    fn new(shape: Shape) -> Self {
        let slots = vec![None; shape.slots];
        let (waiting, started, queue, overflow) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (finished, preempted) = ((0, 0), 0);
        Self {
            shape,
            slots,
            waiting,
            started,
            groups_started: 0,
            dropped: 0,
            refilled: 0,
            queue,
            overflow,
            finished,
            preempted,
        }
    }

    /// Whether what is there and one more group are expected to have room.
    fn expects_room(&self) -> bool {
        let Some(bound) = self.shape.bound() else { return true };
        let here: Vec<&Member> = self.slots.iter().flatten().chain(&self.waiting).collect();
        let expected = match self.finished {
            (0, _) => PROMPT + self.shape.limit(),
            (count, tokens) => tokens.div_ceil(count),
        };
        let blocks = |member: &&Member| {
            expected.div_ceil(BLOCK).max(self.shape.blocks(member.segments_begun(self.shape)))
        };
        let needed: usize = here.iter().map(blocks).sum();
        here.is_empty() || needed + self.shape.group_size * expected.div_ceil(BLOCK) <= bound
    }

    /// Smallest first.
    fn rank(&self, member: &Member) -> Rank {
        let place = (member.group, member.member);
        if self.shape.priority == Priority::Oldest {
            return (false, 0, place.0, place.1);
        }
        let lacks = |id: u64| {
            let started = self.started.iter().find(|group| group.id == id).expect("it is on its way");
            self.shape.group_size - started.ended.len()
        };
        let oldest = self.started.iter().filter(|group| lacks(group.id) > 0).map(|group| group.id).min();
        (oldest != Some(place.0), lacks(place.0), place.0, place.1)
    }

    /// Who is due begins or waits, under a bound.
    fn fill_bounded(&mut self, bound: usize, version: u64) {
        let shape = self.shape;
        let ranks: Vec<Option<Rank>> =
            self.slots.iter().map(|slot| slot.as_ref().map(|member| self.rank(member))).collect();
        // Whoever is due, with the slot that it has.
        let mut due: Vec<(Rank, Member, Option<usize>)> = Vec::new();
        let mut inside: Vec<(Rank, usize)> = Vec::new();
        for (slot, rank) in ranks.into_iter().enumerate() {
            let Some(rank) = rank else { continue };
            match self.slots[slot].take_if(|member| member.is_due(shape, version)) {
                Some(member) => due.push((rank, member, Some(slot))),
                None => {
                    let segments = self.slots[slot].as_ref().map_or(0, |member| member.segments_begun(shape));
                    inside.push((rank, segments));
                }
            }
        }
        for member in std::mem::take(&mut self.waiting) {
            due.push((self.rank(&member), member, None));
        }
        due.sort_by_key(|(rank, ..)| *rank);
        let (mut held, mut lost) = (false, Vec::new());
        for place in 0..due.len() {
            let (rank, mut member, slot) = due[place].clone();
            let own = slot.filter(|slot| !lost.contains(slot));
            let count = member.tokens() / shape.segment_tokens + 1;
            let later: usize = inside
                .iter()
                .filter(|(other, _)| *other > rank)
                .map(|(_, segments)| shape.blocks(*segments))
                .sum();
            let earlier: usize = inside
                .iter()
                .filter(|(other, _)| *other < rank)
                .map(|(_, segments)| shape.blocks(segments + 1))
                .sum();
            let mut to = None;
            if !held && slot == own && earlier + later + shape.blocks(count) <= bound {
                let is_own = |slot: &usize| due[place + 1..].iter().any(|(_, _, own)| *own == Some(*slot));
                let is_free =
                    |slot: &usize| self.slots[*slot].is_none() && (!is_own(slot) || lost.contains(slot));
                let yields = due[place + 1..].iter().rev().filter_map(|(_, _, own)| *own);
                to = own
                    .or_else(|| (0..shape.slots).find(is_free))
                    .or_else(|| yields.into_iter().find(|slot| !lost.contains(slot)));
            } else if slot == own && earlier + shape.blocks(count) <= bound {
                held = true;
            }
            match to {
                Some(to) => {
                    lost.push(to);
                    inside.push((rank, count));
                    member.segments.push((version, 0));
                    self.slots[to] = Some(member);
                }
                None => {
                    self.preempted += u64::from(slot.is_some());
                    self.waiting.push(member);
                }
            }
        }
    }

    /// One decode step under `version`: the groups that ended, or `None` if there was nothing to decode.
    fn decode(&mut self, version: u64) -> Option<Vec<u64>> {
        let shape = self.shape;
        let steps = shape.groups_per_step as u64 * (version + 1 + shape.staleness);
        let allowed = steps + self.dropped + self.refilled;
        while self.slots.iter().filter(|slot| slot.is_none()).count() > self.waiting.len()
            && self.groups_started < allowed
            && self.expects_room()
        {
            let id = self.groups_started;
            self.groups_started += 1;
            self.started.push(Started { id, version, ended: Vec::new() });
            for member in 0..shape.group_size as u32 {
                self.waiting.push(Member { group: id, member, segments: Vec::new() });
            }
        }
        let mut finished = Vec::new();
        if let Some(bound) = shape.bound() {
            self.fill_bounded(bound, version);
        } else {
            let mut waiting = std::mem::take(&mut self.waiting);
            waiting.sort_by_cached_key(|member| self.rank(member));
            for slot in self.slots.iter_mut().filter(|slot| slot.is_none()) {
                *slot = (!waiting.is_empty()).then(|| waiting.remove(0));
            }
            self.waiting = waiting;
        }
        if self.slots.iter().all(Option::is_none) {
            return None;
        }
        for slot in &mut self.slots {
            let Some(member) = slot else { continue };
            let begins = member.is_due(shape, version) && shape.bound().is_none();
            match member.segments.last_mut() {
                Some((_, tokens)) if !begins => *tokens += 1,
                _ => member.segments.push((version, 1)),
            }
            let tokens = member.tokens();
            if tokens == shape.length(member.group, member.member).min(shape.limit()) {
                let ended = slot.take().expect("it is there");
                self.finished = (self.finished.0 + 1, self.finished.1 + PROMPT + tokens);
                let group =
                    self.started.iter_mut().find(|group| group.id == ended.group).expect("it is on its way");
                group.ended.push(ended);
                if group.ended.len() == shape.group_size {
                    finished.push(group.id);
                }
            }
        }
        Some(finished)
    }

    /// Decodes until `groups` groups have ended.
    fn window(&mut self, groups: usize, version: u64) {
        let mut ended = 0;
        while ended < groups {
            let Some(finished) = self.decode(version) else { return };
            ended += finished.len();
            self.overflow.extend(finished);
        }
    }

    fn oldest(&self, id: u64) -> u64 {
        let group = self.started.iter().find(|group| group.id == id).expect("it is on its way");
        let versions = group.ended.iter().flat_map(|member| &member.segments).map(|(version, _)| *version);
        versions.min().expect("a group has tokens")
    }

    /// The `count` groups that the queue hands out to a learner at `version`, if it does.
    fn try_take(&mut self, version: u64, count: usize) -> Option<Vec<Started>> {
        let staleness = self.shape.staleness;
        while !self.overflow.is_empty() && self.queue.len() < self.shape.groups_max() {
            self.queue.push(self.overflow.remove(0));
        }
        let stale: Vec<u64> =
            self.queue.iter().copied().filter(|id| self.oldest(*id) + staleness < version).collect();
        self.queue.retain(|id| !stale.contains(id));
        self.started.retain(|group| !stale.contains(&group.id));
        self.dropped += stale.len() as u64;
        // Due is what would be too old one version from here.
        let due: Vec<u64> = self
            .started
            .iter()
            .filter(|group| group.version + staleness < version + 1)
            .map(|group| group.id)
            .collect();
        let late = due.iter().filter(|id| !self.queue.contains(id)).count();
        let spare = count.saturating_sub(due.len() - late);
        let waits = late > 0 && spare > 0 && self.queue.len() < self.shape.groups_max();
        if self.queue.len() < count || waits {
            return None;
        }
        // Due ones first, then by age in the queue; they are handed out in the queue's order.
        let mut places: Vec<usize> = (0..self.queue.len()).collect();
        places.sort_by_key(|place| (!due.contains(&self.queue[*place]), *place));
        places.truncate(count);
        places.sort_unstable();
        let ids: Vec<u64> = places.into_iter().map(|place| self.queue[place]).collect();
        self.queue.retain(|id| !ids.contains(id));
        let taken = ids.iter().map(|id| {
            let place = self.started.iter().position(|group| group.id == *id).expect("it is on its way");
            let mut group = self.started.remove(place);
            group.ended.sort_by_key(|member| member.member);
            group
        });
        Some(taken.collect())
    }

    /// `schedule = "deterministic"`: the window after a batch begins before the learner has made new weights.
    fn take_deterministic(&mut self, version: u64) -> Vec<Started> {
        let groups = self.served(|simulation, count| {
            loop {
                if let Some(groups) = simulation.try_take(version, count) {
                    return groups;
                }
                if simulation.overflow.is_empty() {
                    simulation.window_for(count, version);
                }
            }
        });
        self.window_for(groups.len().min(self.shape.groups_max()), version);
        groups
    }

    /// A window of the groups that are missing to `count`.
    fn window_for(&mut self, count: usize, version: u64) {
        let ready = self.queue.len() + self.overflow.len();
        self.window(count.saturating_sub(ready).max(1), version);
    }

    /// The groups of a step, those in the place of dead ones included.
    fn served(&mut self, mut take: impl FnMut(&mut Self, usize) -> Vec<Started>) -> Vec<Started> {
        let mut groups = take(self, self.shape.groups_per_step);
        loop {
            let further = self.shape.further(groups.iter().map(|group| group.id));
            if further == 0 {
                return groups;
            }
            self.refilled += further as u64;
            groups.extend(take(self, further));
        }
    }

    /// `schedule = "lockstep"`: one decode step at a time, and only while the learner waits.
    fn take_lockstep(&mut self, version: u64) -> Vec<Started> {
        self.served(|simulation, count| {
            loop {
                if let Some(groups) = simulation.try_take(version, count) {
                    return groups;
                }
                if simulation.overflow.is_empty() {
                    simulation.window_of_one_step(version);
                }
            }
        })
    }

    fn window_of_one_step(&mut self, version: u64) {
        let finished = self.decode(version).expect("the pacing starts enough");
        self.overflow.extend(finished);
    }
}
