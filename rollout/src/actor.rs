//! An actor: one decoder that turns prompts into finished groups, one decode step at a time. It never waits;
//! who calls it decides who scores its groups and what happens when there is nothing to decode.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use trajectory::{EndedTrajectory, Finish, FinishedGroup, OutputLimits, Prompt, Trajectory};

use crate::config::RolloutConfig;
use crate::decoding::{Begun, CacheUpdate, Decoding, EndedSegment, Step};
use crate::error::RolloutError;
use crate::faults::{self, Point};
use crate::generator::Generator;
use crate::heartbeat::Heartbeats;
use crate::ledger::state::{ActorState, SlotState, WaitingState};
use crate::ledger::{Ledger, Lost, SegmentEnd};
use crate::modes::RolloutMode;
use crate::prompt::PromptSource;
use crate::report::ActorReport;
use crate::scheduler::{FinishedContexts, Room, Scheduler};
use crate::scorer::Scorer;
use crate::sync::{Mutex, lock};
use crate::weights::{Versioned, WeightsCell};

/// What all actors of a run share.
pub struct ActorContext<W> {
    /// The table `[rollout]`.
    pub config: RolloutConfig,
    /// The seed of the run.
    pub seed: u64,
    /// The endless order of prompts.
    pub prompts: PromptSource,
    /// The judge of completions.
    pub scorer: Scorer,
    /// The newest weights.
    pub weights: Arc<WeightsCell<W>>,
    /// Where its groups come from and go to.
    pub ledger: Arc<dyn Ledger>,
    /// What follows the end of a turn.
    pub mode: Arc<dyn RolloutMode>,
    /// What each thread works at or waits for.
    pub heartbeats: Heartbeats,
}

/// One decoder and the trajectories in it.
pub struct Actor<G: Generator> {
    context: Arc<ActorContext<G::Weights>>,
    /// Its place among the actors of the run.
    number: usize,
    decoding: Decoding<G>,
    unfinished: UnfinishedGroups,
    /// Groups that were finished and not scored when the run was interrupted.
    ready: Vec<FinishedGroup>,
    report: Arc<Mutex<ActorReport>>,
}

/// What one call of [`Actor::advance`] did.
#[derive(Debug, Default)]
pub struct Advance {
    /// The groups whose last member ended.
    pub groups: Vec<FinishedGroup>,
    /// Whether a token was drawn. If not, nothing will happen until newer weights come, a group is replaced or an
    /// environment answers.
    pub decoded: bool,
    /// Whether a trajectory waits for an environment's answer.
    pub awaits_answers: bool,
}

impl<G: Generator> Actor<G> {
    /// An actor whose slots are free. It uses the config's share of slots, or fewer if the decoder has fewer.
    pub fn new(context: Arc<ActorContext<G::Weights>>, number: usize, generator: G) -> Self {
        let slots = generator.slots().min(context.config.slots_per_actor());
        let group_size = context.config.group_size;
        let mut scheduler = Scheduler::new(slots, OutputLimits::from(&context.config))
            .with_priority(context.config.priority)
            .with_mode(Arc::clone(&context.mode))
            .of_actor(number as u32);
        if let Some(tokens) = context.config.kv_cache_tokens_per_actor() {
            let room = Room::of_tokens(tokens, generator.cache_block_tokens());
            scheduler = scheduler.bounded(room, group_size);
        }
        let decoding = Decoding::new(generator, scheduler, context.seed)
            .with_updates(context.config.on_update, context.config.segment_tokens_max());
        Self {
            decoding,
            unfinished: UnfinishedGroups::new(group_size),
            ready: Vec::new(),
            report: Arc::default(),
            number,
            context,
        }
    }

    /// The actor that takes the place of one that panicked: it goes on with that one's trajectories from their
    /// last segments that had ended.
    ///
    /// # Errors
    /// If the prompts cannot be read again.
    pub(crate) fn in_place_of(
        number: usize,
        context: &Arc<ActorContext<G::Weights>>,
        report: &Arc<Mutex<ActorReport>>,
        generator: G,
    ) -> Result<Self, RolloutError> {
        let mut actor = Self::new(Arc::clone(context), number, generator);
        actor.report = Arc::clone(report);
        lock(report).restarts += 1;
        let mut restored = Restored::of_groups(&context.ledger.groups_of(number), context)?;
        restored.decode_steps = lock(report).decode_steps;
        actor.restore(restored, |_| None)?;
        Ok(actor)
    }

    /// One decode step: free slots are filled, segments that are due begin under the newest weights, every
    /// busy slot draws a token, and groups whose last member has ended leave.
    ///
    /// # Errors
    /// If a prompt cannot be read or never fits the cache, the decoder fails, or an output has no text.
    pub fn advance(&mut self) -> Result<Advance, RolloutError> {
        let context = Arc::clone(&self.context);
        self.advance_under(|| context.weights.latest())
    }

    /// [`Actor::advance`] where the caller says which weights are the newest.
    pub(crate) fn advance_under(
        &mut self,
        newest: impl Fn() -> Versioned<G::Weights>,
    ) -> Result<Advance, RolloutError> {
        let began = Instant::now();
        faults::pass(Point::Actor).map_err(RolloutError::Fault)?;
        let version = newest().version;
        self.end_old_segments(version);
        self.admit(version)?;
        let ledger = &self.context.ledger;
        let begun = self
            .decoding
            .begin_segments(newest, |trajectory, version| ledger.replay_from_journal(trajectory, version))?;
        // Slots under different versions are decoded each under its own weights.
        let versions: BTreeSet<u64> = self.decoding.weights().map(|weights| weights.version).collect();
        let step = self.decoding.step(self.context.scorer.ends())?;
        for &slot in &step.turns_ended {
            self.check_room(self.decoding.scheduler.on(slot))?;
        }
        let decoded = step.tokens > 0;
        let mut report = lock(&self.report);
        report.count_begun(&begun);
        report.count_step(&step, self.decoding.scheduler.slot_count());
        report.weight_passes += if decoded { versions.len() as u64 } else { 0 };
        drop(report);
        let lost = self.count_ended(&step.ended);
        self.give_up(&lost);
        let mut groups = std::mem::take(&mut self.ready);
        let ended = step.finished().filter(|ended| !lost.contains(&ended.trajectory.group));
        groups.extend(ended.filter_map(|ended| self.unfinished.add(ended)));
        let mut report = lock(&self.report);
        report.groups += groups.len() as u64;
        report.generating_s += began.elapsed().as_secs_f64();
        Ok(Advance { groups, decoded, awaits_answers: self.decoding.scheduler.awaits_answers() })
    }

    /// Ends the open segments that are too old where the newest weights are of `version`, and lets go of theirs.
    pub(crate) fn end_old_segments(&mut self, version: u64) {
        let (cut, by_updates) = self.decoding.cut_segments(self.context.config.oldest_version_open(version));
        lock(&self.report).segments_cut += by_updates;
        let lost = self.count_ended(&cut);
        self.give_up(&lost);
    }

    /// Counts segments that have ended and tells the ledger of them. Returns the groups that another actor has now.
    fn count_ended(&self, segments: &[EndedSegment]) -> BTreeSet<u64> {
        let mut report = lock(&self.report);
        for ended in segments {
            let (trajectory, finish) = self.ended(ended);
            report.segments += 1;
            *report.segments_by_tokens.entry(ended.tokens).or_default() += 1;
            report.context_token_steps += last_contexts(trajectory);
            finish.into_iter().for_each(|finish| report.count_finished(trajectory, finish));
        }
        // The ledger writes to a disk, and who reads the report does not wait for one.
        drop(report);
        let mut lost = BTreeSet::new();
        for ended in segments {
            let (trajectory, finish) = self.ended(ended);
            let segment = SegmentEnd { actor: self.number, trajectory, finish, replayed: ended.replayed };
            if let Err(Lost) = self.context.ledger.record(segment) {
                lost.insert(trajectory.group);
            }
        }
        lost
    }

    /// The trajectory of a segment that has ended, and how it ended if it did.
    fn ended<'a>(&'a self, segment: &'a EndedSegment) -> (&'a Trajectory, Option<Finish>) {
        match &segment.finished {
            Some(EndedTrajectory { trajectory, finish }) => (trajectory, Some(*finish)),
            None => (self.decoding.scheduler.on(segment.slot), None),
        }
    }

    /// Frees the slots of groups that another actor has now.
    fn give_up(&mut self, groups: &BTreeSet<u64>) {
        for &group in groups {
            tracing::warn!("actor {} gives up group {group}: another actor has it now", self.number);
            self.decoding.give_up(group);
            self.unfinished.groups.remove(&group);
            lock(&self.report).groups_lost += 1;
        }
    }

    /// Starts groups while a slot would stay free and the pacing allows it.
    fn admit(&mut self, version: u64) -> Result<(), RolloutError> {
        let group_size = self.context.config.group_size;
        while self.decoding.scheduler.wants_group() {
            let Some(admitted) = self.context.ledger.admit(self.number, version) else { break };
            let group = admitted.id;
            let prompt = Arc::new(self.context.prompts.prompt(group)?);
            self.check_room(&Trajectory::new(Arc::clone(&prompt), group, 0))?;
            self.context.ledger.assign(group, self.number, &prompt, group_size);
            if admitted.members.is_empty() {
                self.decoding.scheduler.admit(members(prompt, group, group_size));
                continue;
            }
            // Another actor had it: it goes on from the segments that had ended there, also where this one had it before
            // and has not heard yet that it is lost.
            self.decoding.give_up(group);
            self.unfinished.groups.remove(&group);
            let begun = Restored::of_groups(&[admitted], &self.context)?;
            self.wait(begun.waiting);
            for ended in begun.ended {
                self.ready.extend(self.unfinished.add(ended));
            }
        }
        Ok(())
    }

    /// Refuses a context that with the rest of the output could never be decoded.
    fn check_room(&self, trajectory: &Trajectory) -> Result<(), RolloutError> {
        let tokens = trajectory.context_tokens();
        let limit = self.context.config.output_tokens_max - trajectory.token_count();
        match self.decoding.scheduler.room() {
            Some(room) if !room.holds(tokens + limit) => Err(RolloutError::Prompt {
                prompt: trajectory.prompt.id.clone(),
                reason: format!(
                    "its {tokens} tokens and an output of {limit} have no room in an actor's part of \
                     rollout.kv_cache_tokens_max, which is {} blocks of {} tokens",
                    room.blocks, room.block_tokens
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Where every trajectory is. The segments that have ended are with the ledger.
    pub(crate) fn state(&self) -> ActorState {
        let scheduler = &self.decoding.scheduler;
        let slots = scheduler.slots().enumerate().map(|(slot, trajectory)| {
            let trajectory = trajectory?;
            let Trajectory { group, member, .. } = *trajectory;
            let open = trajectory.last_segment().filter(|_| scheduler.is_inside(slot)).cloned();
            Some(SlotState { group, member, open })
        });
        let waiting = scheduler.waiting().zip(scheduler.steps_waited()).map(|(trajectory, steps)| {
            WaitingState { group: trajectory.group, member: trajectory.member, steps }
        });
        ActorState {
            slots: slots.collect(),
            waiting: waiting.collect(),
            finished: scheduler.finished(),
            decode_steps: scheduler.steps(),
        }
    }

    /// The weights that open segments are drawn with.
    pub(crate) fn weights(&self) -> impl Iterator<Item = &Versioned<G::Weights>> {
        self.decoding.weights()
    }

    /// Adds what the run did before the restart.
    pub(crate) fn count(&self, before: &ActorReport) {
        let mut report = lock(&self.report);
        *report = report.plus(before);
    }

    /// Adds time in which there was nothing to decode.
    pub(crate) fn count_waiting(&self, seconds: f64) {
        lock(&self.report).generation_waiting_for_trainer_s += seconds;
    }

    /// Puts trajectories back where they were: on their slots, waiting, or ended before the rest of their group.
    pub(crate) fn restore(
        &mut self,
        restored: Restored,
        weights: impl Fn(u64) -> Option<Versioned<G::Weights>>,
    ) -> Result<(), RolloutError> {
        // The part of an actor may be smaller than before the restart.
        for OnSlot { trajectory, .. } in &restored.slots {
            self.check_room(trajectory)?;
        }
        for OnSlot { slot, trajectory, inside } in restored.slots {
            let open = trajectory.last_segment().filter(|_| inside);
            let Some(version) = open.map(|segment| segment.version) else {
                let end = self.context.scorer.ends().end_of_turn(&trajectory);
                self.decoding.scheduler.restore_at_boundary(slot, trajectory, end);
                continue;
            };
            let weights = weights(version).unwrap_or_else(|| self.context.weights.latest());
            let replayed = self.context.ledger.replay_open(&trajectory);
            self.decoding.restore(slot, trajectory, weights, replayed)?;
        }
        self.wait(restored.waiting);
        self.decoding.scheduler.restore_counts(restored.finished, restored.decode_steps);
        for ended in restored.ended {
            self.ready.extend(self.unfinished.add(ended));
        }
        Ok(())
    }

    /// Lets trajectories from before the restart wait for a slot, or for the answers that they waited for.
    fn wait(&mut self, waiting: Vec<(Trajectory, u64)>) {
        for (trajectory, steps) in waiting {
            let end = self.context.scorer.ends().end_of_turn(&trajectory);
            self.decoding.scheduler.wait_again(trajectory, steps, end);
        }
    }

    /// Its place among the actors of the run.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// The actor's counters, readable while it runs elsewhere.
    pub fn report_handle(&self) -> Arc<Mutex<ActorReport>> {
        self.report.clone()
    }

    /// The actor's counters.
    pub fn report(&self) -> ActorReport {
        lock(&self.report).clone()
    }

    /// What the actor shares with the others.
    pub fn context(&self) -> &Arc<ActorContext<G::Weights>> {
        &self.context
    }

    /// The trajectories that are started and not finished.
    pub fn open(&self) -> impl Iterator<Item = &Trajectory> {
        self.decoding.scheduler.open()
    }
}

/// The tokens of the contexts that the tokens of the last segment were drawn after, in sum.
fn last_contexts(trajectory: &Trajectory) -> u64 {
    let tokens = trajectory.last_segment().map_or(0, |segment| segment.tokens.len());
    let before = trajectory.tokens_before_last_segment();
    (tokens * before + tokens * tokens.saturating_sub(1) / 2) as u64
}

/// Trajectories from before the restart.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// Those that were on a slot.
    pub(crate) slots: Vec<OnSlot>,
    /// Those that wait for a slot or for room, in this order, with the decode steps that they have waited.
    pub(crate) waiting: Vec<(Trajectory, u64)>,
    /// How long contexts got that ended before.
    pub(crate) finished: FinishedContexts,
    /// The actor's decode steps until then.
    pub(crate) decode_steps: u64,
    /// Those that have ended.
    pub(crate) ended: Vec<EndedTrajectory>,
}

/// A trajectory that was on a slot before the restart.
#[derive(Debug)]
pub(crate) struct OnSlot {
    pub(crate) slot: usize,
    pub(crate) trajectory: Trajectory,
    /// Whether its last segment goes on.
    pub(crate) inside: bool,
}

/// The trajectories of a new group.
pub fn members(prompt: Arc<Prompt>, group: u64, group_size: usize) -> impl Iterator<Item = Trajectory> {
    let group_size = u32::try_from(group_size).expect("a group is far smaller than 2^32");
    (0..group_size).map(move |member| Trajectory::new(prompt.clone(), group, member))
}

/// Ended members that wait for the rest of their group.
#[derive(Debug)]
pub struct UnfinishedGroups {
    group_size: usize,
    groups: BTreeMap<u64, Vec<EndedTrajectory>>,
}

impl UnfinishedGroups {
    /// Groups of so many members, none of which has ended.
    pub fn new(group_size: usize) -> Self {
        Self { group_size, groups: BTreeMap::new() }
    }

    /// Takes an ended member; returns the group if it was the last one.
    pub fn add(&mut self, ended: EndedTrajectory) -> Option<FinishedGroup> {
        let id = ended.trajectory.group;
        let members = self.groups.entry(id).or_default();
        members.push(ended);
        if members.len() < self.group_size {
            return None;
        }
        let mut members = self.groups.remove(&id)?;
        members.sort_unstable_by_key(|ended| ended.trajectory.member);
        Some(FinishedGroup { id, members })
    }
}

impl ActorReport {
    fn count_begun(&mut self, begun: &Begun) {
        for segment in &begun.segments {
            match segment.update {
                None => {}
                Some(CacheUpdate::Rebuilt) => self.context_tokens_recomputed += segment.context_tokens,
                Some(CacheUpdate::Kept) => self.context_tokens_kept += segment.context_tokens,
            }
            self.steps_waited += segment.steps_waited;
        }
        self.segments_begun += begun.segments.len() as u64;
        self.preempted += begun.preempted;
    }

    fn count_step(&mut self, step: &Step, slots: usize) {
        if step.tokens > 0 {
            self.decode_steps += 1;
            self.slot_steps += slots as u64;
            self.slot_steps_busy += step.tokens;
            self.tokens += step.tokens;
            self.blocks_used += step.blocks.used as u64;
            self.blocks_planned += step.blocks.planned as u64;
            self.prefill_tokens += step.prefilled.computed;
            self.prefill_tokens_shared += step.prefilled.shared;
        }
    }

    fn count_finished(&mut self, trajectory: &Trajectory, finish: Finish) {
        // Versions never fall, so each change is a new one.
        let changes = trajectory.segments().zip(trajectory.segments().skip(1));
        let versions = 1 + changes.filter(|(before, after)| before.version != after.version).count();
        self.completions += 1;
        self.completions_truncated += u64::from(finish == Finish::Length);
        *self.completions_by_segments.entry(trajectory.segment_count()).or_default() += 1;
        *self.completions_by_versions.entry(versions).or_default() += 1;
    }
}

#[cfg(test)]
mod tests;
