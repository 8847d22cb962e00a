//! Which trajectory decodes on which slot, and when a new group may start. Pure: no threads, no clock, no
//! decoder; the same calls give the same answers.

use std::collections::VecDeque;

use crate::trajectory::{Finish, OutputLimits, Progress, Token, Trajectory};

/// The slots of one decoder and the trajectories on them.
///
/// A trajectory keeps its slot from its first token to its last: at a segment boundary it goes on in place,
/// and the slot of a finished one goes to the trajectory that has waited longest. The trajectories that
/// wait hold no cache and count as not open: none has started, but for those of a run that was taken up.
#[derive(Debug)]
pub struct Scheduler {
    limits: OutputLimits,
    slots: Vec<Slot>,
    waiting: VecDeque<Trajectory>,
}

#[derive(Debug)]
enum Slot {
    Free,
    /// Before the first token of a segment: the only time at which weights may change.
    Boundary(Trajectory),
    Decoding(Trajectory),
}

/// What a drawn token did to the trajectory of its slot.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// The segment goes on.
    Inside,
    /// The trajectory waits on its slot for its next segment.
    SegmentEnded,
    /// The trajectory has left its slot.
    Finished(Trajectory, Finish),
}

impl Scheduler {
    /// `slots` free slots.
    pub fn new(slots: usize, limits: OutputLimits) -> Self {
        assert!(slots > 0, "a scheduler needs a slot");
        Self { limits, slots: (0..slots).map(|_| Slot::Free).collect(), waiting: VecDeque::new() }
    }

    /// Whether a slot would stay free although no trajectory waits for it: the moment to admit a group.
    pub fn is_hungry(&self) -> bool {
        self.slots.iter().filter(|slot| matches!(slot, Slot::Free)).count() > self.waiting.len()
    }

    /// Adds the trajectories of a group to those that wait for a slot.
    pub fn admit(&mut self, trajectories: impl IntoIterator<Item = Trajectory>) {
        self.waiting.extend(trajectories);
    }

    /// Gives free slots to waiting trajectories, longest waiting first and lowest slot first, and returns
    /// all slots whose trajectory needs a segment begun.
    pub fn fill(&mut self) -> Vec<usize> {
        for slot in &mut self.slots {
            if matches!(slot, Slot::Free) {
                let Some(trajectory) = self.waiting.pop_front() else { break };
                *slot = Slot::Boundary(trajectory);
            }
        }
        self.slots_where(|slot| matches!(slot, Slot::Boundary(_)))
    }

    /// The trajectory at a segment boundary on this slot.
    pub fn at_boundary(&self, slot: usize) -> &Trajectory {
        match &self.slots[slot] {
            Slot::Boundary(trajectory) => trajectory,
            other => panic!("slot {slot} is not at a segment boundary: {other:?}"),
        }
    }

    /// The trajectory on this slot.
    pub(crate) fn on(&self, slot: usize) -> &Trajectory {
        match &self.slots[slot] {
            Slot::Boundary(trajectory) | Slot::Decoding(trajectory) => trajectory,
            Slot::Free => panic!("slot {slot} has no trajectory"),
        }
    }

    /// Puts a trajectory back on the slot that it had, before or inside a segment.
    pub(crate) fn restore(&mut self, slot: usize, trajectory: Trajectory) {
        assert!(matches!(self.slots[slot], Slot::Free), "slot {slot} is taken");
        let inside = trajectory
            .segments
            .last()
            .is_some_and(|segment| segment.tokens.len() < self.limits.segment_tokens_max);
        self.slots[slot] = if inside { Slot::Decoding(trajectory) } else { Slot::Boundary(trajectory) };
    }

    /// The trajectory on each slot.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Option<&Trajectory>> {
        self.slots.iter().map(|slot| match slot {
            Slot::Free => None,
            Slot::Boundary(trajectory) | Slot::Decoding(trajectory) => Some(trajectory),
        })
    }

    /// Starts the next segment of the trajectory on this slot, under `version`.
    pub fn begin(&mut self, slot: usize, version: u64) {
        let Slot::Boundary(mut trajectory) = std::mem::replace(&mut self.slots[slot], Slot::Free) else {
            panic!("slot {slot} is not at a segment boundary");
        };
        trajectory.start_segment(version, self.limits);
        self.slots[slot] = Slot::Decoding(trajectory);
    }

    /// The slots that draw a token in the next decode step, in order.
    pub fn decoding(&self) -> Vec<usize> {
        self.slots_where(|slot| matches!(slot, Slot::Decoding(_)))
    }

    /// Takes a drawn token. The slot of a finished trajectory is free afterwards.
    pub fn push(&mut self, slot: usize, token: Token, is_eos: bool) -> Outcome {
        let Slot::Decoding(mut trajectory) = std::mem::replace(&mut self.slots[slot], Slot::Free) else {
            panic!("slot {slot} drew a token and decodes nothing");
        };
        match trajectory.push(token, is_eos, self.limits) {
            Progress::Inside => {
                self.slots[slot] = Slot::Decoding(trajectory);
                Outcome::Inside
            }
            Progress::SegmentFull => {
                self.slots[slot] = Slot::Boundary(trajectory);
                Outcome::SegmentEnded
            }
            Progress::Finished(finish) => Outcome::Finished(trajectory, finish),
        }
    }

    /// Takes `count` tokens at once that end neither the segment nor the output: a virtual run leaps over the
    /// decode steps in which nothing happens.
    pub(crate) fn push_inside(&mut self, slot: usize, token: Token, count: usize) {
        let Slot::Decoding(trajectory) = &mut self.slots[slot] else {
            panic!("slot {slot} drew tokens and decodes nothing");
        };
        let segment = trajectory.segments.last_mut().expect("a segment that was begun");
        let length = segment.tokens.len() + count;
        let limit = self.limits.segment_tokens_max;
        assert!(length < limit, "{length} tokens inside a segment of {limit}");
        segment.tokens.resize(length, token);
    }

    /// The number of slots.
    pub fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// The trajectories that are started and not finished.
    pub fn open(&self) -> impl Iterator<Item = &Trajectory> {
        self.slots().flatten()
    }

    /// The trajectories that are admitted and not started.
    pub fn waiting(&self) -> impl Iterator<Item = &Trajectory> {
        self.waiting.iter()
    }

    fn slots_where(&self, holds: impl Fn(&Slot) -> bool) -> Vec<usize> {
        self.slots.iter().enumerate().filter(|(_, slot)| holds(slot)).map(|(index, _)| index).collect()
    }
}

/// How far generation may run ahead of the learner: by pacing, little is generated that would have to be
/// thrown away as too old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// The groups that the learner takes for one version.
    pub groups_per_step: u64,
    /// The staleness bound of the queue.
    pub staleness_versions_max: u64,
}

impl Pacing {
    /// The most groups that may be started in the whole run while the newest weights are of `version`.
    /// Groups that were dropped as stale do not count: the learner would wait for them without end.
    pub fn groups_started_max(&self, version: u64, groups_dropped: u64) -> u64 {
        self.groups_per_step * (version + 1 + self.staleness_versions_max) + groups_dropped
    }
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
        assert_eq!(scheduler.push(0, token(2), false), Outcome::Inside);
        let Outcome::Finished(first, Finish::Stop) = scheduler.push(1, token(EOS), true) else {
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
        scheduler.push(0, token(2), false);
        scheduler.admit(group(1, 1));
        begin_all(&mut scheduler, 1);
        assert_eq!(scheduler.push(0, token(3), false), Outcome::SegmentEnded);
        assert_eq!(scheduler.push(1, token(3), false), Outcome::Inside);
        assert_eq!(begin_all(&mut scheduler, 2), [0], "slot 1 is inside its segment");
        let versions: Vec<Vec<u64>> = scheduler
            .open()
            .map(|trajectory| trajectory.segments.iter().map(|segment| segment.version).collect())
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
                    let outcome = scheduler.push(slot, token(id), id == EOS);
                    if let Outcome::Finished(trajectory, finish) = outcome {
                        let count = trajectory.token_count();
                        let (last, full) = trajectory.segments.split_last().expect("it has a segment");
                        prop_assert!(full.iter().all(|s| s.tokens.len() == segment));
                        prop_assert!((1..=segment).contains(&last.tokens.len()));
                        prop_assert!(trajectory.segments.windows(2).all(|w| w[0].version <= w[1].version));
                        let ids = &trajectory.context()[trajectory.prompt.tokens.len()..];
                        prop_assert_eq!(ids, expected.as_slice());
                        let at_limit = count == limits.output_tokens_max;
                        let eos = ids.last() == Some(&EOS);
                        prop_assert_eq!(finish, if eos { Finish::Stop } else { Finish::Length });
                        prop_assert!(eos || at_limit);
                    } else {
                        prop_assert!(id != EOS);
                    }
                }
            }
        }
    }
}
