//! The slots of one decoder that draws no tokens: the real scheduler, and when the segment of each slot ends.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use rollout::{Admission, Room, Scheduler, TokenOutcome, UnfinishedGroups, members};
use serde_json::Map;
use trajectory::{
    Completion, EndedText, EndedTrajectory, Finish, FinishedGroup, Group, OutputLimits, Prompt, Reward,
    ScoredCompletion, Token, Trajectory,
};

use crate::costs::DecodeWork;
use crate::lengths::LengthDistribution;
use crate::plan::VirtualPlan;

/// All tokens are this one.
const TOKEN: Token = Token { id: 0, logprob: 0.0 };

/// The slots of one decoder that draws no tokens: the scheduler, and when the segment of each slot ends.
pub(crate) struct Slots<'a> {
    scheduler: Scheduler,
    unfinished: UnfinishedGroups,
    lengths: &'a LengthDistribution,
    plan: &'a VirtualPlan,
    prompt: Arc<Prompt>,
    /// Decode steps made.
    step: u64,
    /// The decode steps after which segments end, with their slots; the next one first, of equal ones the lowest
    /// slot.
    ends: BinaryHeap<Reverse<(u64, usize)>>,
    /// What the open segment of each slot is.
    open: Vec<OpenSegment>,
    /// Whether a slot holds the cache of the trajectory on it.
    cached: Vec<bool>,
    /// Whether segments may begin before one has ended.
    looks_again: bool,
    /// Tokens in the contexts of slots that decode.
    context_tokens: u64,
    /// Slots that decode, by the version of their segment.
    versions: BTreeMap<u64, u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct OpenSegment {
    version: u64,
    /// Decode steps made before it.
    begun: u64,
    tokens: usize,
    /// Tokens of the context at its end.
    context_tokens: usize,
    /// Whether the output ends with it by itself.
    stops: bool,
}

/// Tokens of caches that are filled.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Filled {
    pub(crate) prompts: u64,
    pub(crate) recomputed: u64,
}

impl<'a> Slots<'a> {
    pub(crate) fn new(plan: &'a VirtualPlan, lengths: &'a LengthDistribution) -> Self {
        let slots = plan.rollout.trajectories_open_max;
        let prompt = Prompt {
            index: 0,
            id: "virtual".to_string(),
            text: String::new(),
            tokens: vec![TOKEN.id; plan.prompt_tokens],
            references: Vec::new(),
            fields: Map::new(),
        };
        let mut scheduler =
            Scheduler::new(slots, OutputLimits::from(&plan.rollout)).with_priority(plan.rollout.priority);
        if let Some(tokens) = plan.rollout.kv_cache_tokens_max {
            scheduler =
                scheduler.bounded(Room::of_tokens(tokens, plan.cache_block_tokens), plan.rollout.group_size);
        }
        Self {
            scheduler,
            unfinished: UnfinishedGroups::new(plan.rollout.group_size),
            lengths,
            plan,
            prompt: Arc::new(prompt),
            step: 0,
            ends: BinaryHeap::new(),
            open: vec![OpenSegment::default(); slots],
            cached: vec![false; slots],
            looks_again: false,
            context_tokens: 0,
            versions: BTreeMap::new(),
        }
    }

    /// Starts groups while a slot would stay free, and begins the segments that are due.
    pub(crate) fn begin(&mut self, version: u64, admission: &Admission) -> Filled {
        let group_size = self.plan.rollout.group_size;
        while self.scheduler.wants_group() {
            let Some(group) = admission.admit(version) else { break };
            self.scheduler.admit(members(Arc::clone(&self.prompt), group, group_size));
        }
        let mut filled = Filled::default();
        let due = self.scheduler.fill();
        let preempted = self.scheduler.take_preempted();
        // Whoever gave up a slot may have one again at the next decode step.
        self.looks_again = !preempted.is_empty();
        for slot in preempted {
            self.cached[slot] = false;
        }
        let segment_tokens_max = self.plan.rollout.segment_tokens_max();
        for slot in due {
            let trajectory = self.scheduler.at_boundary(slot);
            let drawn = trajectory.token_count();
            let context = (self.plan.prompt_tokens + drawn) as u64;
            let cached = std::mem::replace(&mut self.cached[slot], true);
            match trajectory.last_segment() {
                None => filled.prompts += context,
                Some(before) if cached && before.version == version => {}
                Some(_) if cached && !self.plan.rollout.on_update.rebuilds(context, segment_tokens_max) => {}
                Some(_) => filled.recomputed += context,
            }
            let length = self.lengths.length(self.plan.seed, trajectory.group, trajectory.member);
            let tokens = (length - drawn).min(segment_tokens_max - drawn % segment_tokens_max);
            let stops = drawn + tokens == length;
            let context_tokens = context as usize + tokens;
            self.open[slot] = OpenSegment { version, begun: self.step, tokens, context_tokens, stops };
            self.ends.push(Reverse((self.step + tokens as u64, slot)));
            self.context_tokens += context;
            *self.versions.entry(version).or_default() += 1;
            self.scheduler.begin(slot, version);
        }
        filled
    }

    /// Decode steps up to the next end of a segment; `None` where nothing decodes.
    pub(crate) fn steps_to_next_end(&self) -> Option<u64> {
        let steps = self.ends.peek().map(|Reverse((end, _))| end - self.step)?;
        Some(if self.looks_again { steps.min(1) } else { steps })
    }

    pub(crate) fn work(&self) -> DecodeWork {
        DecodeWork {
            versions: self.versions.len() as u64,
            slots: self.ends.len() as u64,
            context_tokens: self.context_tokens,
        }
    }

    /// Makes decode steps up to the next end of a segment or before it; returns the groups that ended, in the
    /// order of the slots of their last members.
    pub(crate) fn advance(&mut self, steps: u64) -> Vec<Group> {
        self.context_tokens += steps * self.ends.len() as u64;
        self.step += steps;
        let mut groups = Vec::new();
        while let Some(Reverse((end, slot))) = self.ends.peek().copied() {
            assert!(end >= self.step, "a segment has ended {} steps ago", self.step - end);
            if end > self.step {
                break;
            }
            self.ends.pop();
            groups.extend(self.end_segment(slot));
        }
        groups
    }

    /// Whether another group may start on a free slot.
    pub(crate) fn wants_a_group(&self) -> bool {
        self.scheduler.wants_group()
    }

    pub(crate) fn has_versions_before(&self, oldest: u64) -> bool {
        self.versions.keys().any(|version| *version < oldest)
    }

    /// Ends the open segments of versions before `oldest` where they are.
    pub(crate) fn cut_segments(&mut self, oldest: u64) {
        // The segments of all slots are looked at after an update, and not after the end of each of them.
        if !self.has_versions_before(oldest) {
            return;
        }
        for Reverse((end, slot)) in std::mem::take(&mut self.ends) {
            let OpenSegment { version, begun, tokens, context_tokens, .. } = self.open[slot];
            let drawn = (self.step - begun) as usize;
            if version >= oldest || drawn == 0 {
                self.ends.push(Reverse((end, slot)));
                continue;
            }
            self.leave(slot, context_tokens + drawn - tokens);
            self.scheduler.push_inside(slot, TOKEN, drawn);
            self.scheduler.cut(slot);
        }
    }

    /// Takes a slot whose context has so many tokens out of what decodes.
    fn leave(&mut self, slot: usize, context_tokens: usize) {
        self.context_tokens -= context_tokens as u64;
        let version = self.open[slot].version;
        let of_version = self.versions.get_mut(&version).expect("the slot decodes under it");
        *of_version -= 1;
        if *of_version == 0 {
            self.versions.remove(&version);
        }
    }

    fn end_segment(&mut self, slot: usize) -> Option<Group> {
        let OpenSegment { tokens, context_tokens, stops, .. } = self.open[slot];
        self.leave(slot, context_tokens);
        self.scheduler.push_inside(slot, TOKEN, tokens - 1);
        match self.scheduler.push(slot, TOKEN, stops.then_some(Finish::Eos)) {
            TokenOutcome::SegmentEnded => None,
            TokenOutcome::Finished(trajectory, finish) => {
                self.cached[slot] = false;
                let trajectory = without_tokens(trajectory);
                self.unfinished.add(EndedTrajectory { trajectory, finish }).map(unjudged)
            }
            outcome => panic!("slot {slot} is {outcome:?} after the {tokens} tokens of its segment"),
        }
    }

    /// The lengths of a group's completions, as they were decoded.
    pub(crate) fn lengths_of(&self, group: &Group) -> impl Iterator<Item = usize> {
        let limit = self.plan.rollout.output_tokens_max;
        let length = move |member| self.lengths.length(self.plan.seed, group.id, member).min(limit);
        (0..group.completions.len() as u32).map(length)
    }
}

/// One token is left of each segment: what waits for the learner needs its versions only, and the tokens of
/// thousands of long outputs would fill the memory.
fn without_tokens(mut trajectory: Trajectory) -> Trajectory {
    trajectory.segments_mut().for_each(|segment| segment.tokens = vec![TOKEN]);
    trajectory
}

fn unjudged(group: FinishedGroup) -> Group {
    let prompt = Arc::clone(&group.members[0].trajectory.prompt);
    Group::new(
        group.id,
        prompt,
        group
            .members
            .into_iter()
            .map(|ended| ScoredCompletion {
                completion: Completion::new(ended.trajectory, ended.finish, EndedText::default()),
                reward: Reward { total: 0.0, correctness: None, parts: BTreeMap::new() },
            })
            .collect(),
    )
}
