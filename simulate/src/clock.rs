//! A run without a model: the real scheduler, pacing, grouping and queue against a cost model, a distribution of
//! lengths and a virtual clock.
//!
//! Time goes from event to event. An event of decoding is the end of a segment; the decode steps in between, in
//! which the same slots draw tokens, are leapt over. An event of learning is the end of a step. Prompts have one
//! length, verdicts take no time, every group teaches something, and the slots of all actors are one batch.

use std::collections::VecDeque;
use std::sync::Arc;

use rollout::{Admission, Notify, Pacing, ReplayQueue, RolloutError, Schedule, window_groups};
use trajectory::{Group, ScoredCompletion};

use crate::costs::{Contention, CostModel, DecodeWork};
use crate::error::SimulateError;
use crate::lengths::LengthDistribution;
use crate::plan::{VirtualPlan, VirtualStep};
use crate::slots::Slots;

/// Runs the plan, and calls `taken` with the groups of each step, whose segments have one token each.
///
/// # Errors
/// If the plan contradicts itself, or comes to a point from where nothing can go on.
pub fn run_virtually(
    plan: &VirtualPlan,
    lengths: &LengthDistribution,
    costs: &CostModel,
    mut taken: impl FnMut(&[Group]),
) -> Result<Vec<VirtualStep>, SimulateError> {
    plan.rollout.check()?;
    plan.queue.check(plan.groups_per_step)?;
    let mut run = VirtualRun::new(plan, lengths, costs);
    while (run.steps.len() as u64) < plan.steps {
        run.start_all(&mut taken)?;
        run.pass()?;
    }
    Ok(run.steps)
}

/// The state of a run at a moment of its clock.
struct VirtualRun<'a> {
    plan: &'a VirtualPlan,
    costs: &'a CostModel,
    slots: Slots<'a>,
    admission: Arc<Admission>,
    queue: ReplayQueue,
    /// Groups that ended and are not in the queue yet.
    overflow: VecDeque<Group>,
    /// The window of `deterministic` that is being decoded.
    window: Option<Window>,
    version: u64,
    now_s: f64,
    decoding: Option<Leap>,
    learning: Option<Learning>,
    /// What was decoded since the last step.
    since: VirtualStep,
    steps: Vec<VirtualStep>,
}

/// Groups that are to end under one version.
struct Window {
    groups: usize,
    version: u64,
}

/// Decode steps that are under way; `left_s` is work, which takes longer beside other work.
struct Leap {
    steps: u64,
    work: DecodeWork,
    prefill_s: f64,
    left_s: f64,
}

/// A step of the learner that is under way.
struct Learning {
    groups: Vec<Group>,
    left_s: f64,
}

impl<'a> VirtualRun<'a> {
    fn new(plan: &'a VirtualPlan, lengths: &'a LengthDistribution, costs: &'a CostModel) -> Self {
        let pacing = Pacing {
            groups_per_step: plan.groups_per_step as u64,
            staleness_versions_max: plan.queue.staleness_versions_max,
        };
        let admission = Arc::new(Admission::new(pacing, Notify::new()));
        Self {
            plan,
            costs,
            slots: Slots::new(plan, lengths),
            queue: ReplayQueue::new(plan.queue.clone(), Arc::clone(&admission)),
            admission,
            overflow: VecDeque::new(),
            window: None,
            version: 0,
            now_s: 0.0,
            decoding: None,
            learning: None,
            since: VirtualStep::default(),
            steps: Vec::new(),
        }
    }

    /// Starts whatever can start now.
    fn start_all(&mut self, taken: &mut impl FnMut(&[Group])) -> Result<(), RolloutError> {
        loop {
            let delivered = self.deliver()?;
            let learns = self.start_learning(taken)?;
            let decodes = self.start_decoding();
            // A look at the queue may have dropped what was too old and made room.
            let room = self.may_deliver() && self.queue.len() < self.queue.groups_max();
            if !(delivered || learns || decodes || (room && !self.overflow.is_empty())) {
                return Ok(());
            }
        }
    }

    /// Whether groups that ended may go to the queue: an actor on a thread of its own brings them at once, else the
    /// learner fetches them when it wants some.
    fn may_deliver(&self) -> bool {
        match self.plan.schedule {
            Schedule::Async => true,
            Schedule::Deterministic => self.learning.is_none() && self.window.is_none(),
            Schedule::Lockstep => self.learning.is_none(),
        }
    }

    fn deliver(&mut self) -> Result<bool, RolloutError> {
        let before = self.overflow.len();
        while self.may_deliver() {
            let Some(group) = self.overflow.pop_front() else { break };
            if let Some(back) = self.queue.try_push(group)? {
                self.overflow.push_front(back);
                break;
            }
        }
        Ok(self.overflow.len() < before)
    }

    fn start_learning(&mut self, taken: &mut impl FnMut(&[Group])) -> Result<bool, RolloutError> {
        if self.learning.is_some() || self.window.is_some() {
            return Ok(false);
        }
        let count = self.plan.groups_per_step;
        let Some(groups) = self.queue.try_take(count, self.version)? else { return Ok(false) };
        taken(&groups);
        let tokens: usize = groups.iter().flat_map(|group| self.slots.lengths_of(group)).sum();
        self.learning = Some(Learning { groups, left_s: self.costs.learn_s(tokens as u64) });
        let is_last = self.steps.len() as u64 + 1 == self.plan.steps;
        if self.plan.schedule == Schedule::Deterministic && !is_last {
            self.order_window();
        }
        Ok(true)
    }

    /// As many groups as the next batch needs beside those that wait already.
    fn order_window(&mut self) {
        let waiting = self.queue.len() + self.overflow.len();
        let groups = window_groups(self.plan.groups_per_step, waiting);
        self.window = Some(Window { groups, version: self.version });
    }

    /// Begins the segments that are due and leaps to the next end of one; false where nothing is to be decoded.
    fn start_decoding(&mut self) -> bool {
        if self.decoding.is_some() {
            return false;
        }
        let version = match self.plan.schedule {
            // Groups that wait for room keep their actor waiting.
            Schedule::Async if self.overflow.is_empty() => self.version,
            Schedule::Lockstep if self.learning.is_none() && self.overflow.is_empty() => self.version,
            Schedule::Deterministic => {
                if self.window.is_none() && self.learning.is_none() && self.overflow.is_empty() {
                    self.order_window();
                }
                let Some(window) = &self.window else { return false };
                window.version
            }
            _ => return false,
        };
        self.slots.cut_segments(self.plan.rollout.oldest_version_open(version));
        let filled = self.slots.begin(version, &self.admission);
        self.since.context_tokens_recomputed += filled.recomputed;
        let Some(steps) = self.slots.steps_to_next_end() else {
            // A window without work is over.
            self.window = None;
            return false;
        };
        let work = self.slots.work();
        let prefill_s = self.costs.prefill_token_s * (filled.prompts + filled.recomputed) as f64;
        let left_s = prefill_s + self.costs.decode_s(work, steps);
        self.decoding = Some(Leap { steps, work, prefill_s, left_s });
        true
    }

    /// Lets time pass until the next thing ends.
    fn pass(&mut self) -> Result<(), RolloutError> {
        let (decoding, learning) = (self.decoding.as_ref(), self.learning.as_ref());
        let shared = match (decoding, learning) {
            (Some(_), Some(_)) => self.costs.contention,
            (None, None) => {
                let (version, wanted) = (self.version, self.plan.groups_per_step);
                return Err(RolloutError::Starved { version, wanted, queued: self.queue.len() });
            }
            _ => Contention::of_both(1.0),
        };
        let needs_s = [
            decoding.map_or(f64::INFINITY, |leap| leap.left_s * shared.decode),
            learning.map_or(f64::INFINITY, |step| step.left_s * shared.learn),
        ];
        let passed_s = needs_s[0].min(needs_s[1]);
        self.now_s += passed_s;
        // What needs no longer than that has nothing left, to the bit.
        let left_s = |needs_s: f64, factor: f64| (needs_s - passed_s) / factor;
        if let Some(leap) = &mut self.decoding {
            self.since.decoding_s += passed_s;
            leap.left_s = left_s(needs_s[0], shared.decode);
        }
        if let Some(step) = &mut self.learning {
            step.left_s = left_s(needs_s[1], shared.learn);
        }
        if let Some(leap) = self.decoding.take_if(|leap| leap.left_s <= 0.0) {
            self.end_leap(&leap);
        }
        if let Some(step) = self.learning.take_if(|step| step.left_s <= 0.0) {
            self.end_step(&step.groups);
        }
        Ok(())
    }

    fn end_leap(&mut self, leap: &Leap) {
        self.since.decode_steps += leap.steps;
        self.since.slot_steps_busy += leap.steps * leap.work.slots;
        for group in self.slots.advance(leap.steps) {
            self.overflow.push_back(group);
            if let Some(window) = &mut self.window {
                window.groups = window.groups.saturating_sub(1);
            }
        }
        self.window.take_if(|window| window.groups == 0);
    }

    fn end_step(&mut self, groups: &[Group]) {
        let behind = |scored: &ScoredCompletion| self.version - scored.completion.oldest_version();
        let dropped = self.queue.report().drops.values().sum();
        self.steps.push(VirtualStep {
            ended_s: self.now_s,
            groups: groups.iter().map(|group| group.id).collect(),
            lengths: groups.iter().flat_map(|group| self.slots.lengths_of(group)).collect(),
            staleness: groups.iter().flat_map(|group| &group.completions).map(behind).collect(),
            dropped,
            ..std::mem::take(&mut self.since)
        });
        self.queue.learned(groups);
        self.version += 1;
        // Newer weights may end segments, or let a group start on a free slot, at the next decode step.
        let oldest = self.plan.rollout.oldest_version_open(self.version);
        let cuts = self.slots.has_versions_before(oldest) || self.slots.wants_a_group();
        if self.plan.schedule == Schedule::Async && cuts {
            self.cut_leap();
        }
    }

    /// Ends the leap with the decode step that is under way.
    fn cut_leap(&mut self) {
        let Some(leap) = &mut self.decoding else { return };
        let work_s = |steps: u64| leap.prefill_s + self.costs.decode_s(leap.work, steps);
        let done_s = work_s(leap.steps) - leap.left_s;
        let (mut low, mut high) = (1, leap.steps);
        while low < high {
            let middle = low.midpoint(high);
            if work_s(middle) >= done_s { high = middle } else { low = middle + 1 }
        }
        (leap.left_s, leap.steps) = ((work_s(low) - done_s).max(0.0), low);
    }
}

#[cfg(test)]
mod tests;
