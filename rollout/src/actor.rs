//! An actor: one decoder that turns prompts into finished groups, one decode step at a time. It never waits;
//! who calls it decides who scores its groups and what happens when there is nothing to decode.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use trajectory::{Finish, FinishedGroup, OutputLimits, Prompt, Trajectory};

use crate::config::RolloutConfig;
use crate::decoding::{Begun, CacheUpdate, Decoding, EndedSegment, Step};
use crate::error::RolloutError;
use crate::faults::{self, Point};
use crate::generator::Generator;
use crate::intake::Intake;
use crate::ledger::{ActorState, SlotState, WaitingState};
use crate::modes::RolloutMode;
use crate::prompt::PromptSource;
use crate::pulse::Pulses;
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
    /// The groups that may be started.
    pub intake: Arc<Intake>,
    /// What follows the end of a turn.
    pub mode: Arc<dyn RolloutMode>,
    /// What each thread is doing.
    pub pulses: Pulses,
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
    /// Whether a token was drawn. If not, nothing will happen until newer weights come or a group is
    /// replaced.
    pub decoded: bool,
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
        let mut taken_up = TakenUp::of_groups(&context.intake.groups_of(number), context)?;
        taken_up.decode_steps = lock(report).decode_steps;
        actor.restore(taken_up, |_| None)?;
        Ok(actor)
    }

    /// One decode step: free slots are filled, segments that are due begin under the newest weights, every
    /// busy slot draws a token, and groups whose last member has ended leave.
    pub fn advance(&mut self) -> Result<Advance, RolloutError> {
        let context = Arc::clone(&self.context);
        self.advance_under(|| context.weights.latest())
    }

    /// [`Actor::advance`] where somebody else says which weights are the newest.
    pub(crate) fn advance_under(
        &mut self,
        newest: impl Fn() -> Versioned<G::Weights>,
    ) -> Result<Advance, RolloutError> {
        let began = Instant::now();
        faults::pass(Point::Actor).map_err(RolloutError::Fault)?;
        let version = newest().version;
        let (cut, by_updates) = self.decoding.cut_segments(self.context.config.oldest_version_open(version));
        lock(&self.report).segments_cut += by_updates;
        self.count_ended(&cut);
        self.admit(version)?;
        let intake = &self.context.intake;
        let begun =
            self.decoding.begin_segments(newest, |trajectory, version| intake.recall(trajectory, version))?;
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
        self.count_ended(&step.ended);
        let mut groups = std::mem::take(&mut self.ready);
        groups.extend(step.finished().filter_map(|ended| self.unfinished.add(ended)));
        let mut report = lock(&self.report);
        report.groups += groups.len() as u64;
        report.generating_s += began.elapsed().as_secs_f64();
        Ok(Advance { groups, decoded })
    }

    /// Counts segments that have ended and writes them down.
    fn count_ended(&self, segments: &[EndedSegment]) {
        let mut report = lock(&self.report);
        for ended in segments {
            let (trajectory, finish) = match &ended.finished {
                Some((trajectory, finish)) => (trajectory, Some(*finish)),
                None => (self.decoding.scheduler.on(ended.slot), None),
            };
            report.segments += 1;
            *report.segments_by_tokens.entry(ended.tokens).or_default() += 1;
            report.context_token_steps += last_contexts(trajectory);
            finish.into_iter().for_each(|finish| report.count_finished(trajectory, finish));
            self.context.intake.record(trajectory, finish, ended.recalled);
        }
    }

    /// Starts groups while a slot would stay free and the pacing allows it.
    fn admit(&mut self, version: u64) -> Result<(), RolloutError> {
        let group_size = self.context.config.group_size;
        while self.decoding.scheduler.is_hungry() {
            let Some(group) = self.context.intake.admit(version) else { break };
            let prompt = Arc::new(self.context.prompts.prompt(group)?);
            self.check_room(&Trajectory::new(Arc::clone(&prompt), group, 0))?;
            self.context.intake.assign(&prompt, group, (self.number, group_size));
            self.decoding.scheduler.admit(members(prompt, group, group_size));
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

    /// Where every trajectory is. The segments that have ended are with the intake.
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

    /// Adds what an earlier life of the run did.
    pub(crate) fn count(&self, before: &ActorReport) {
        let mut report = lock(&self.report);
        *report = report.plus(before);
    }

    /// Adds time in which there was nothing to decode.
    pub(crate) fn count_waiting(&self, seconds: f64) {
        lock(&self.report).generation_waiting_for_trainer_s += seconds;
    }

    /// Takes up trajectories where they were: on their slots, waiting, or ended before the rest of their group.
    pub(crate) fn restore(
        &mut self,
        taken_up: TakenUp,
        weights: impl Fn(u64) -> Option<Versioned<G::Weights>>,
    ) -> Result<(), RolloutError> {
        // The part of an actor may be smaller than in the run's earlier life.
        for OnSlot { trajectory, .. } in &taken_up.slots {
            self.check_room(trajectory)?;
        }
        for OnSlot { slot, trajectory, inside } in taken_up.slots {
            let open = trajectory.last_segment().filter(|_| inside);
            let Some(version) = open.map(|segment| segment.version) else {
                self.decoding.scheduler.restore(slot, trajectory, false);
                continue;
            };
            let weights = weights(version).unwrap_or_else(|| self.context.weights.latest());
            let recalled = self.context.intake.recall_open(&trajectory);
            self.decoding.restore(slot, trajectory, (weights, recalled))?;
        }
        self.decoding.scheduler.wait(taken_up.waiting);
        self.decoding.scheduler.restore_counts(taken_up.finished, taken_up.decode_steps);
        for ended in taken_up.ended {
            self.ready.extend(self.unfinished.add(ended));
        }
        Ok(())
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

/// Trajectories of an earlier life of the run.
#[derive(Debug, Default)]
pub(crate) struct TakenUp {
    /// Those that were on a slot.
    pub(crate) slots: Vec<OnSlot>,
    /// Those that wait for a slot or for room, in this order, with the decode steps that they have waited.
    pub(crate) waiting: Vec<(Trajectory, u64)>,
    /// How long contexts got that ended before.
    pub(crate) finished: FinishedContexts,
    /// The actor's decode steps until then.
    pub(crate) decode_steps: u64,
    /// Those that have ended.
    pub(crate) ended: Vec<(Trajectory, Finish)>,
}

/// A trajectory of an earlier life of the run that was on a slot.
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
    groups: BTreeMap<u64, Vec<(Trajectory, Finish)>>,
}

impl UnfinishedGroups {
    /// Groups of so many members, none of which has ended.
    pub fn new(group_size: usize) -> Self {
        Self { group_size, groups: BTreeMap::new() }
    }

    /// Takes an ended member; returns the group if it was the last one.
    pub fn add(&mut self, ended: (Trajectory, Finish)) -> Option<FinishedGroup> {
        let id = ended.0.group;
        let members = self.groups.entry(id).or_default();
        members.push(ended);
        if members.len() < self.group_size {
            return None;
        }
        let mut members = self.groups.remove(&id)?;
        members.sort_unstable_by_key(|(trajectory, _)| trajectory.member);
        Some(FinishedGroup { id, members })
    }
}

/// What an actor has done so far; counters only rise, so a step's part is a difference.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ActorReport {
    /// Decode steps.
    pub decode_steps: u64,
    /// Slots that drew a token, summed over the decode steps.
    pub slot_steps_busy: u64,
    /// All slots, summed over the decode steps.
    pub slot_steps: u64,
    /// Tokens drawn.
    pub tokens: u64,
    /// Passes over the weights: one a decode step for each version that slots decode under.
    pub weight_passes: u64,
    /// Tokens in the contexts of busy slots, summed over the decode steps; counted when a segment ends.
    pub context_token_steps: u64,
    /// Segments that ended.
    pub segments: u64,
    /// Segments by their number of tokens.
    pub segments_by_tokens: BTreeMap<usize, u64>,
    /// Segments that newer weights ended.
    #[serde(default)]
    pub segments_cut: u64,
    /// Segments that have begun.
    pub segments_begun: u64,
    /// Decode steps that they waited for a slot or for room in the cache after they were due, in sum.
    pub steps_waited: u64,
    /// Times that a trajectory gave up its cache for lack of room.
    pub parked: u64,
    /// Blocks of the cache in use, summed over the decode steps.
    pub blocks_used: u64,
    /// Blocks there are, summed over the decode steps.
    pub blocks_planned: u64,
    /// Context tokens that caches were filled with by computation.
    pub prefill_tokens: u64,
    /// Context tokens that caches were filled with from contexts that had them.
    pub prefill_tokens_shared: u64,
    /// Context tokens whose cache was rebuilt because the weights had changed.
    pub context_tokens_recomputed: u64,
    /// Context tokens whose cache stayed although the weights had changed.
    pub context_tokens_kept: u64,
    /// Trajectories that ended.
    pub completions: u64,
    /// Completions among them that met the output limit.
    pub completions_truncated: u64,
    /// Groups whose last member ended.
    pub groups: u64,
    /// Times that an actor was started again after a panic.
    pub restarts: u64,
    /// Completions by their number of segments.
    pub completions_by_segments: BTreeMap<usize, u64>,
    /// Completions by the number of policy versions that drew them.
    pub completions_by_versions: BTreeMap<usize, u64>,
    /// Seconds of prefill and decode.
    pub generating_s: f64,
    /// Seconds of decoding to text and scoring, on whatever thread.
    pub scoring_s: f64,
    /// The verifiers' own counters since the run began, as `reward/counter`.
    pub verifiers: BTreeMap<String, u64>,
    /// Seconds of waiting for room in the queue or for the pacing to allow a group.
    pub generation_waiting_for_trainer_s: f64,
}

impl ActorReport {
    /// The part since an `earlier` report of the same actors.
    pub fn since(&self, earlier: &Self) -> Self {
        self.combined(earlier, |now, then| now - then, |now, then| now - then)
    }

    /// The work of this actor and another one.
    pub fn plus(&self, other: &Self) -> Self {
        self.combined(other, |one, two| one + two, |one, two| one + two)
    }

    /// The fraction of slots that were busy in decode steps; 1 if there was none.
    pub fn slot_use(&self) -> f64 {
        if self.slot_steps == 0 { 1.0 } else { self.slot_steps_busy as f64 / self.slot_steps as f64 }
    }

    fn combined(&self, other: &Self, count: fn(u64, u64) -> u64, seconds: fn(f64, f64) -> f64) -> Self {
        let by = |one: &BTreeMap<usize, u64>, two: &BTreeMap<usize, u64>| {
            let keys = one.keys().chain(two.keys());
            let at = |map: &BTreeMap<usize, u64>, key: &usize| map.get(key).copied().unwrap_or(0);
            keys.map(|key| (*key, count(at(one, key), at(two, key)))).collect()
        };
        Self {
            decode_steps: count(self.decode_steps, other.decode_steps),
            slot_steps_busy: count(self.slot_steps_busy, other.slot_steps_busy),
            slot_steps: count(self.slot_steps, other.slot_steps),
            tokens: count(self.tokens, other.tokens),
            weight_passes: count(self.weight_passes, other.weight_passes),
            context_token_steps: count(self.context_token_steps, other.context_token_steps),
            segments: count(self.segments, other.segments),
            segments_by_tokens: by(&self.segments_by_tokens, &other.segments_by_tokens),
            segments_cut: count(self.segments_cut, other.segments_cut),
            segments_begun: count(self.segments_begun, other.segments_begun),
            steps_waited: count(self.steps_waited, other.steps_waited),
            parked: count(self.parked, other.parked),
            blocks_used: count(self.blocks_used, other.blocks_used),
            blocks_planned: count(self.blocks_planned, other.blocks_planned),
            prefill_tokens: count(self.prefill_tokens, other.prefill_tokens),
            prefill_tokens_shared: count(self.prefill_tokens_shared, other.prefill_tokens_shared),
            context_tokens_recomputed: count(self.context_tokens_recomputed, other.context_tokens_recomputed),
            context_tokens_kept: count(self.context_tokens_kept, other.context_tokens_kept),
            completions: count(self.completions, other.completions),
            completions_truncated: count(self.completions_truncated, other.completions_truncated),
            groups: count(self.groups, other.groups),
            restarts: count(self.restarts, other.restarts),
            completions_by_segments: by(&self.completions_by_segments, &other.completions_by_segments),
            completions_by_versions: by(&self.completions_by_versions, &other.completions_by_versions),
            generating_s: seconds(self.generating_s, other.generating_s),
            scoring_s: seconds(self.scoring_s, other.scoring_s),
            verifiers: self.verifiers.clone(),
            generation_waiting_for_trainer_s: seconds(
                self.generation_waiting_for_trainer_s,
                other.generation_waiting_for_trainer_s,
            ),
        }
    }

    /// The part of the cache that was in use in decode steps; 0 if there was none.
    pub fn kv_use(&self) -> f64 {
        if self.blocks_planned == 0 { 0.0 } else { self.blocks_used as f64 / self.blocks_planned as f64 }
    }

    /// Decode steps that a segment waited before it began, on average.
    pub fn wait_steps(&self) -> f64 {
        if self.segments_begun == 0 { 0.0 } else { self.steps_waited as f64 / self.segments_begun as f64 }
    }

    /// The mean, the largest and the smallest number of tokens of the segments that ended, if any did.
    pub fn tokens_per_segment(&self) -> Option<(f64, usize, usize)> {
        let mut lengths = self.segments_by_tokens.iter().filter(|(_, count)| **count > 0);
        let (count, tokens) = lengths.clone().fold((0_u64, 0_u64), |(count, sum), (tokens, segments)| {
            (count + *segments, sum + *tokens as u64 * *segments)
        });
        let (smallest, largest) = (lengths.next()?.0, lengths.next_back());
        Some((tokens as f64 / count as f64, *largest.map_or(smallest, |(largest, _)| largest), *smallest))
    }

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
        self.parked += begun.parked;
    }

    fn count_step(&mut self, step: &Step, slots: usize) {
        if step.tokens > 0 {
            self.decode_steps += 1;
            self.slot_steps += slots as u64;
            self.slot_steps_busy += step.tokens;
            self.tokens += step.tokens;
            self.blocks_used += step.blocks.0 as u64;
            self.blocks_planned += step.blocks.1 as u64;
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
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use trajectory::random::trajectory_key;
    use trajectory::{Finish, Token};

    use crate::config::OnUpdate;
    use crate::testing::{Script, context, rollout_config};

    const GROUP_SIZE: usize = 3;

    fn actor(script: &Script, slots: usize, segment: usize, segments: usize) -> Actor<Script> {
        let config = rollout_config(slots, segment, segments, GROUP_SIZE);
        Actor::new(context(config, 11, 2, 1), 0, script.clone())
    }

    #[test]
    fn passes_over_the_weights_and_contexts_are_counted() {
        let script = Script::new(2, |_, member| if member == 0 { 4 } else { 1 });
        let mut actor = actor(&script, 2, 4, 1);
        actor.advance().expect("the script does not fail");
        actor.context.weights.publish(1, Arc::new(1));
        actor.advance().expect("the script does not fail");
        // Member 2 began under version 1 beside member 0 under version 0; two members drew a token after the two of
        // their prompts.
        let report = actor.report();
        assert_eq!((report.decode_steps, report.weight_passes, report.context_token_steps), (2, 3, 4));
        actor.advance().expect("the script does not fail");
        actor.advance().expect("the script does not fail");
        // Member 0 has ended, with contexts of 2, 3, 4 and 5 tokens; a member of the next group goes on beside it.
        let report = actor.report();
        assert_eq!((report.decode_steps, report.weight_passes, report.context_token_steps), (4, 7, 18));
    }

    #[test]
    fn one_advance_is_one_token_for_every_slot() {
        // Member m of a group ends with its token m + 1.
        let script = Script::new(2, |_, member| member as usize + 1);
        let mut actor = actor(&script, 2, 2, 2);
        let first = actor.advance().expect("the script does not fail");
        assert!(first.decoded && first.groups.is_empty());
        let report = actor.report();
        assert_eq!(
            (report.tokens, report.segments, report.completions),
            (2, 1, 1),
            "member 0 stopped at once"
        );
        // Slot 0 was freed in the first advance and draws for member 2 in the second.
        actor.advance().expect("the script does not fail");
        assert_eq!(script.drawn_in_step(1), [(0, 0, 2), (1, 0, 1)]);
        // Members 1 and 2 have met the segment limit or stopped; member 2 goes on, then the group is whole.
        let groups = std::iter::repeat_with(|| actor.advance().expect("no failure").groups)
            .find(|groups| !groups.is_empty())
            .expect("member 2 stops with its third token");
        assert_eq!((groups[0].id, groups[0].members.len()), (0, 3));
        let ends: Vec<(usize, Finish)> =
            groups[0].members.iter().map(|(ended, finish)| (ended.token_count(), *finish)).collect();
        assert_eq!(ends, [(1, Finish::Eos), (2, Finish::Eos), (3, Finish::Eos)]);
        assert_eq!(actor.report().slot_use(), 1.0);
    }

    // Invariant 1: new weights reach a trajectory at its next segment and never inside one.
    #[test]
    fn an_update_reaches_open_trajectories_at_their_next_segment() {
        let script = Script::new(1, |_, _| 99);
        let mut actor = actor(&script, 1, 2, 3);
        let weights = actor.context().weights.clone();
        actor.advance().expect("token 1 of 6");
        weights.publish(1, Arc::new(1));
        actor.advance().expect("token 2");
        weights.publish(2, Arc::new(2));
        weights.publish(3, Arc::new(3));
        for _ in 3..=6 {
            actor.advance().expect("tokens 3 to 6");
        }
        let report = actor.report();
        assert_eq!(report.completions_by_segments, BTreeMap::from([(3, 1)]));
        assert_eq!(report.completions_by_versions, BTreeMap::from([(2, 1)]));
        assert_eq!((report.completions_truncated, report.segments), (1, 3));
        // Two tokens of prompt and two drawn under version 0 were computed again under version 3.
        assert_eq!(report.context_tokens_recomputed, 4);
        assert_eq!(script.versions_drawn(0, 0), [0, 0, 3, 3, 3, 3]);
    }

    // Invariant 1: newer weights end the open segment, whose tokens keep their version, and another one goes on.
    #[test]
    fn updates_in_flight_reach_open_trajectories_at_their_next_token() {
        let script = Script::new(1, |_, _| 99);
        let config = RolloutConfig { in_flight_updates: true, ..rollout_config(1, 4, 2, GROUP_SIZE) };
        let mut actor = Actor::new(context(config, 11, 2, 9), 0, script.clone());
        let weights = actor.context().weights.clone();
        for published in [&[1][..], &[2, 3], &[], &[], &[], &[], &[], &[]] {
            actor.advance().expect("the script does not fail");
            published.iter().for_each(|version| weights.publish(*version, Arc::new(*version)));
        }
        assert_eq!(script.versions_drawn(0, 0), [0, 1, 3, 3, 3, 3, 3, 3]);
        let report = actor.report();
        assert_eq!((report.decode_steps, report.weight_passes), (8, 8));
        assert_eq!(report.segments_by_tokens, BTreeMap::from([(1, 2), (2, 1), (4, 1)]));
        assert_eq!(report.completions_by_segments, BTreeMap::from([(4, 1)]));
        // Contexts of 2 + 1 and 2 + 2 tokens met newer weights; the boundary after four tokens met none.
        assert_eq!((report.context_tokens_recomputed, report.context_tokens_kept), (7, 0));
        assert_eq!(script.rebuilt(), [true, true, false]);
        // Contexts of 2 to 9 tokens were looked at, each once.
        assert_eq!(report.context_token_steps, (2..=9).sum::<u64>());
    }

    /// Weights come after every second token of a segment of eight: with two versions open its third update ends it.
    #[test]
    fn segments_that_fall_too_far_behind_are_ended_and_counted() {
        for (versions_open_max, versions, cut) in
            [(1, [0, 0, 1, 1, 2, 2, 3, 3], 3), (2, [0, 0, 0, 0, 2, 2, 2, 2], 1), (4, [0; 8], 0)]
        {
            let script = Script::new(1, |_, _| 99);
            let config = RolloutConfig { versions_open_max, ..rollout_config(1, 8, 1, GROUP_SIZE) };
            let mut actor = Actor::new(context(config, 11, 2, 9), 0, script.clone());
            let weights = actor.context().weights.clone();
            for token in 1..=8 {
                actor.advance().expect("the script does not fail");
                if token % 2 == 0 {
                    weights.publish(token / 2, Arc::new(token / 2));
                }
            }
            assert_eq!(script.versions_drawn(0, 0), versions, "{versions_open_max}");
            assert_eq!(actor.report().segments_cut, cut, "{versions_open_max}");
        }
    }

    /// Prompt of 2 tokens, 5 segments of 4, and newer weights before each: contexts of 6, 10, 14 and 18 tokens
    /// meet them. At half the cost of a drawn token the first alone is no dearer than the segment.
    #[test]
    fn caches_are_rebuilt_or_kept_as_the_config_says_and_both_are_counted() {
        for (on_update, recomputed, kept, rebuilt) in [
            (OnUpdate::Recompute, 48, 0, [true, true, true, true]),
            (OnUpdate::Keep, 0, 48, [false, false, false, false]),
            (OnUpdate::Auto, 6, 42, [true, false, false, false]),
        ] {
            let script = Script::new(1, |_, _| 99);
            let config = RolloutConfig { on_update, ..rollout_config(1, 4, 5, GROUP_SIZE) };
            let mut actor = Actor::new(context(config, 11, 2, 9), 0, script.clone());
            let weights = actor.context().weights.clone();
            for token in 1..=20 {
                actor.advance().expect("the script does not fail");
                if token % 4 == 0 {
                    weights.publish(token / 4, Arc::new(token / 4));
                }
            }
            let report = actor.report();
            let found = (report.context_tokens_recomputed, report.context_tokens_kept);
            assert_eq!(found, (recomputed, kept), "{on_update:?}");
            assert_eq!(script.rebuilt(), rebuilt, "{on_update:?}");
        }
    }

    // Under the same weights a cache is as good as new, whatever the config says.
    #[test]
    fn without_newer_weights_no_cache_is_rebuilt_and_nothing_counted() {
        let script = Script::new(1, |_, _| 99);
        let mut actor = actor(&script, 1, 2, 3);
        for _ in 0..6 {
            actor.advance().expect("the script does not fail");
        }
        let report = actor.report();
        assert_eq!((report.context_tokens_recomputed, report.context_tokens_kept), (0, 0));
        assert_eq!(script.rebuilt(), [false, false]);
    }

    #[test]
    fn pacing_ends_the_work_until_weights_come() {
        let script = Script::new(6, |_, _| 1);
        let mut actor = actor(&script, 6, 1, 1);
        // 2 groups a step, staleness 1: 4 groups may start at version 0.
        let mut groups = Vec::new();
        loop {
            let advance = actor.advance().expect("no failure");
            groups.extend(advance.groups.iter().map(|group| group.id));
            if !advance.decoded {
                break;
            }
        }
        assert_eq!(groups, [0, 1, 2, 3]);
        actor.context().weights.publish(1, Arc::new(1));
        assert_eq!(actor.advance().expect("no failure").groups.len(), 2);
        assert!(!actor.advance().expect("no failure").decoded);
    }

    #[test]
    fn reports_add_up_and_differ() {
        let script = Script::new(2, |_, _| 2);
        let mut actor = actor(&script, 2, 2, 1);
        actor.advance().expect("no failure");
        let earlier = actor.report();
        actor.advance().expect("no failure");
        let part = actor.report().since(&earlier);
        assert_eq!((earlier.tokens, part.tokens, part.completions), (2, 2, 2));
        assert_eq!(part.completions_by_segments, BTreeMap::from([(1, 2)]));
        assert_eq!(earlier.plus(&part).tokens, actor.report().tokens);
        // In the second step two contexts of 3 of at most 4 tokens; two segments of 2 tokens ended.
        assert_eq!((part.kv_use(), part.tokens_per_segment()), (0.75, Some((2.0, 2, 2))));
        // The third member waited for both steps, and of the next group one began at once.
        actor.advance().expect("no failure");
        assert_eq!((actor.report().segments_begun, actor.report().wait_steps()), (4, 0.5));
    }

    #[test]
    fn a_prompt_whose_output_can_have_no_room_is_named() {
        let script = Script::new(2, |_, _| 9);
        let mut config = rollout_config(2, 2, 2, GROUP_SIZE);
        let mut advance = |tokens| {
            config.kv_cache_tokens_max = Some(tokens);
            let mut actor = Actor::new(context(config.clone(), 11, 2, 1), 0, script.clone());
            actor.advance().map(|advance| advance.decoded).map_err(|error| error.to_string())
        };
        // A prompt of 2 and an output of 4 tokens.
        assert_eq!(advance(6), Ok(true));
        let message = advance(5).expect_err("six tokens do not fit");
        assert!(message.contains("its 2 tokens and an output of 4 have no room"), "{message}");
        assert!(message.contains("rollout.kv_cache_tokens_max, which is 5 blocks of 1 tokens"), "{message}");
    }

    // Invariant 8: a log-prob that is not finite stops the run and names the prompt.
    #[test]
    fn an_impossible_logprob_stops_the_run() {
        let mut script = Script::new(2, |_, _| 1);
        script.logprob = Some(f32::NAN);
        let error = actor(&script, 2, 2, 1).advance().expect_err("NaN").to_string();
        assert!(error.contains("(group 0): the log-prob of a drawn token is NaN"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        // Invariants 1, 2, 5 and 7, whatever the lengths and whenever weights are published: completions hold
        // exactly what the generator drew, groups are whole, and no slot is idle while work is admitted.
        #[test]
        fn groups_hold_exactly_what_was_drawn(
            slots in 1usize..7,
            segment in 1usize..4,
            segments in 1usize..4,
            lengths: u64,
            publish_every in 1usize..9,
        ) {
            let script = Script::new(slots, move |group, member| {
                1 + (trajectory_key(lengths, group, member) % 14) as usize
            });
            let mut actor = actor(&script, slots, segment, segments);
            let weights = actor.context().weights.clone();
            let (mut groups, mut version) = (Vec::new(), 0);
            for step in 1..200 {
                let before = actor.report();
                groups.extend(actor.advance().expect("no failure").groups);
                let waiting = actor.decoding.scheduler.waiting().count();
                prop_assert!(waiting < GROUP_SIZE, "no group is admitted before a slot needs it");
                if actor.report().since(&before).slot_steps_busy < slots as u64 {
                    let started = actor.context().intake.report().groups_started;
                    prop_assert_eq!(started, 2 * (version + 2), "idle only where the pacing says so");
                }
                if step % publish_every == 0 {
                    version += 1;
                    weights.publish(version, Arc::new(version));
                }
            }
            prop_assert!(!groups.is_empty());
            for group in &groups {
                prop_assert_eq!(group.members.len(), GROUP_SIZE);
                for (ended, _) in &group.members {
                    let drawn = script.drawn_for(ended.group, ended.member);
                    let kept = ended.segments().flat_map(|segment| segment.tokens.iter().copied());
                    prop_assert_eq!(kept.collect::<Vec<_>>(), drawn);
                    let versions = script.versions_drawn(ended.group, ended.member);
                    let kept = ended.segments().flat_map(|s| s.tokens.iter().map(|_| s.version));
                    prop_assert_eq!(kept.collect::<Vec<_>>(), versions);
                }
            }
        }
    }

    // A stop string is found wherever the borders of segments lie, and on any number of slots: an output is what it
    // would be without stops, up to the token that completes one.
    #[test]
    fn stop_strings_cut_outputs_alike_over_borders_of_segments() {
        let run = |slots: usize, segment: usize, stop: &[&str]| {
            let script = Script::new(slots, |_, _| 99);
            let mut config = rollout_config(slots, segment, 12 / segment, GROUP_SIZE);
            config.stop = stop.iter().map(|string| (*string).to_string()).collect();
            let mut actor = Actor::new(context(config, 11, 20, 1), 0, script);
            let mut groups: Vec<FinishedGroup> = Vec::new();
            while groups.len() < 20 {
                groups.extend(actor.advance().expect("no failure").groups);
            }
            groups.sort_by_key(|group| group.id);
            let members = groups.into_iter().take(20).flat_map(|group| group.members);
            members.map(|(ended, finish)| (ended.context_ids(), finish)).collect::<Vec<_>>()
        };
        let whole = run(2, 12, &[]);
        // The letters `cab` and `dd`, in ids.
        let stops: [&[u32]; 2] = [&[4, 2, 3], &[5, 5]];
        let expected: Vec<(Vec<u32>, Finish)> = whole
            .iter()
            .map(|(ids, finish)| {
                // Two tokens are the prompt's, where a stop may begin.
                let end = (3..=ids.len()).find(|end| stops.iter().any(|stop| ids[..*end].ends_with(stop)));
                end.map_or((ids.clone(), *finish), |end| (ids[..end].to_vec(), Finish::StopString))
            })
            .collect();
        let lengths: BTreeSet<usize> = expected.iter().map(|(ids, _)| ids.len()).collect();
        assert!(lengths.len() > 6, "stops at many places, two segments in among them: {lengths:?}");
        for (slots, segment) in [(1, 12), (2, 1), (3, 2), (5, 3), (4, 4)] {
            assert_eq!(run(slots, segment, &["cab", "dd"]), expected, "{slots} slots, segments of {segment}");
        }
    }

    // Invariant 7: what a trajectory becomes does not depend on the number of slots.
    #[test]
    fn the_number_of_slots_does_not_change_the_completions() {
        let run = |slots: usize| {
            let script = Script::new(slots, |group, member| (group as usize + member as usize * 3) % 7 + 1);
            let mut actor = actor(&script, slots, 2, 4);
            let mut groups: Vec<FinishedGroup> = Vec::new();
            while groups.len() < 4 {
                groups.extend(actor.advance().expect("no failure").groups);
            }
            groups.sort_by_key(|group| group.id);
            // Where and when it was drawn differs.
            type Drawn = Vec<(u64, Vec<Token>)>;
            let tokens: fn(&Trajectory) -> Drawn =
                |ended| ended.segments().map(|segment| (segment.version, segment.tokens.clone())).collect();
            let drawn = |group: FinishedGroup| {
                group.members.into_iter().map(move |(ended, finish)| (tokens(&ended), finish))
            };
            groups.into_iter().map(|group| (group.id, drawn(group).collect())).collect::<Vec<(u64, Vec<_>)>>()
        };
        assert_eq!(run(1), run(5));
        assert_eq!(run(2), run(12));
    }
}
