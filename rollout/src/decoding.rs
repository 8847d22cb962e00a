//! A generator and its scheduler in step: segments begin where one is due, one token is drawn for each of
//! them, and ended trajectories leave. Shared by the actors and by evaluation; knows no rewards and no
//! queue.

use trajectory::random::trajectory_key;
use trajectory::{EndedTrajectory, Segment, Trajectory};

use crate::config::OnUpdate;
use crate::ends::Ends;
use crate::error::RolloutError;
use crate::generator::{Drawn, Generator, PrefilledTokens, SegmentRequest};
use crate::scheduler::{BlockUse, Scheduler, TokenOutcome};
use crate::weights::Versioned;

/// A decoder's slots with the trajectories on them.
#[derive(Debug)]
pub(crate) struct Decoding<G: Generator> {
    pub(crate) generator: G,
    pub(crate) scheduler: Scheduler,
    pub(crate) seed: u64,
    slots: Vec<SlotUse<G::Weights>>,
    updates: CacheUpdates,
}

/// What newer weights do to the cache of an open trajectory.
#[derive(Debug, Clone, Copy)]
struct CacheUpdates {
    on_update: OnUpdate,
    /// The most tokens of a segment, by which it may be decided.
    segment_tokens_max: usize,
}

/// What the generator and the journal know of a slot.
#[derive(Debug)]
struct SlotUse<W> {
    /// The weights of the open segment.
    weights: Option<Versioned<W>>,
    /// Whether the generator has the slot, and with it the cache of the trajectory up to here.
    begun: bool,
    /// The open segment, where it was drawn before the restart, and how much of it was given.
    replayed: Option<(Segment, usize)>,
}

impl<W> Default for SlotUse<W> {
    fn default() -> Self {
        Self { weights: None, begun: false, replayed: None }
    }
}

/// A segment that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BegunSegment {
    /// The tokens before it, the prompt's included.
    pub(crate) context_tokens: u64,
    /// What became of the cache, where the segment before was of another version.
    pub(crate) update: Option<CacheUpdate>,
    /// The decode steps that it waited for a slot or for room in the cache.
    pub(crate) steps_waited: u64,
}

/// What newer weights did to a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CacheUpdate {
    /// It was filled again under them.
    Rebuilt,
    /// It stayed as older ones had filled it.
    Kept,
}

/// The segments that have begun before a decode step, and those that could not.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    /// Those that have.
    pub(crate) segments: Vec<BegunSegment>,
    /// The trajectories that gave up their caches.
    pub(crate) preempted: u64,
}

/// What one decode step did.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// The tokens that were drawn, which is the number of busy slots.
    pub(crate) tokens: u64,
    /// The segments that ended, in the order of their slots.
    pub(crate) ended: Vec<EndedSegment>,
    /// The cache in blocks.
    pub(crate) blocks: BlockUse,
    /// Tokens of contexts that caches were filled with.
    pub(crate) prefilled: PrefilledTokens,
    /// The slots whose trajectories go on behind tokens that were given.
    pub(crate) turns_ended: Vec<usize>,
}

/// The end of a segment.
#[derive(Debug)]
pub(crate) struct EndedSegment {
    /// The slot.
    pub(crate) slot: usize,
    /// The trajectory, if it ended with the segment; else it is still on its slot.
    pub(crate) finished: Option<EndedTrajectory>,
    /// Its tokens.
    pub(crate) tokens: usize,
    /// Whether the segment was replayed from the journal.
    pub(crate) replayed: bool,
}

impl Step {
    /// The trajectories that ended.
    pub(crate) fn finished(self) -> impl Iterator<Item = EndedTrajectory> {
        self.ended.into_iter().filter_map(|ended| ended.finished)
    }
}

impl<G: Generator> Decoding<G> {
    /// Free slots.
    pub(crate) fn new(generator: G, scheduler: Scheduler, seed: u64) -> Self {
        let slots = (0..scheduler.slot_count()).map(|_| SlotUse::default()).collect();
        let updates = CacheUpdates { on_update: OnUpdate::Recompute, segment_tokens_max: 1 };
        Self { generator, scheduler, seed, slots, updates }
    }

    /// Says what newer weights do to the cache of an open trajectory, whose segments have at most so many tokens.
    /// Without this all caches are rebuilt.
    pub(crate) fn with_updates(self, on_update: OnUpdate, segment_tokens_max: usize) -> Self {
        Self { updates: CacheUpdates { on_update, segment_tokens_max }, ..self }
    }

    /// Ends the open segments of versions before `oldest`, and those that were ended before the restart where
    /// they are; and how many of them it ended for their version.
    pub(crate) fn cut_segments(&mut self, oldest: u64) -> (Vec<EndedSegment>, u64) {
        let (mut cut, mut by_updates) = (Vec::new(), 0);
        for slot in 0..self.slots.len() {
            if !self.scheduler.is_inside(slot) {
                continue;
            }
            let open = self.scheduler.on(slot).last_segment().expect("it is inside a segment");
            let ends = match &self.slots[slot].replayed {
                Some((segment, given)) => *given == segment.tokens.len(),
                None => open.version < oldest && !open.tokens.is_empty(),
            };
            if ends {
                let tokens = open.tokens.len();
                self.scheduler.cut(slot);
                let replayed = self.close(slot);
                by_updates += u64::from(!replayed);
                cut.push(EndedSegment { slot, finished: None, tokens, replayed });
            }
        }
        (cut, by_updates)
    }

    /// Forgets the open segment of a slot and its weights; says whether it was replayed.
    fn close(&mut self, slot: usize) -> bool {
        self.slots[slot].weights = None;
        if self.slots[slot].begun {
            self.generator.end_segment(slot);
        }
        self.slots[slot].replayed.take().is_some()
    }

    /// Begins a segment on every slot that is due for one and has room, each under the weights that are newest then, or as
    /// it is replayed.
    pub(crate) fn begin_segments(
        &mut self,
        newest: impl Fn() -> Versioned<G::Weights>,
        mut replay_from_journal: impl FnMut(&Trajectory, u64) -> Option<Segment>,
    ) -> Result<Begun, RolloutError> {
        let mut begun = Begun::default();
        let due = self.scheduler.fill();
        // A slot that was left is released before another trajectory begins on it.
        for slot in self.scheduler.take_preempted() {
            self.forget(slot);
            begun.preempted += 1;
        }
        for slot in due {
            let trajectory = self.scheduler.at_boundary(slot);
            let weights = newest();
            let replayed = replay_from_journal(trajectory, weights.version);
            let version = replayed.as_ref().map_or(weights.version, |segment| segment.version);
            let context_tokens = trajectory.context_tokens() as u64;
            // A cache that was given up is filled again in any case.
            let update = self
                .update(trajectory, version, context_tokens)
                .map(|update| if self.slots[slot].begun { update } else { CacheUpdate::Rebuilt });
            match replayed {
                Some(segment) => self.replay(slot, segment, 0),
                None => self.begin(slot, &weights, update)?,
            }
            self.slots[slot].weights = Some(weights);
            let steps_waited = self.scheduler.begin(slot, version);
            begun.segments.push(BegunSegment { context_tokens, update, steps_waited });
        }
        Ok(begun)
    }

    /// What a segment of this version does to the cache of the trajectory.
    fn update(&self, trajectory: &Trajectory, version: u64, context_tokens: u64) -> Option<CacheUpdate> {
        let CacheUpdates { on_update, segment_tokens_max } = self.updates;
        trajectory.last_segment().filter(|before| before.version != version)?;
        let rebuilt = on_update.rebuilds(context_tokens, segment_tokens_max);
        Some(if rebuilt { CacheUpdate::Rebuilt } else { CacheUpdate::Kept })
    }

    /// Puts a trajectory in the middle of a segment back on its slot.
    pub(crate) fn restore(
        &mut self,
        slot: usize,
        trajectory: Trajectory,
        weights: Versioned<G::Weights>,
        replayed: Option<Segment>,
    ) -> Result<(), RolloutError> {
        let given = trajectory.last_segment().map_or(0, |segment| segment.tokens.len());
        self.scheduler.restore(slot, trajectory);
        match replayed {
            Some(segment) => self.replay(slot, segment, given),
            None => self.begin(slot, &weights, None)?,
        }
        self.slots[slot].weights = Some(weights);
        Ok(())
    }

    fn begin(
        &mut self,
        slot: usize,
        weights: &Versioned<G::Weights>,
        update: Option<CacheUpdate>,
    ) -> Result<(), RolloutError> {
        let trajectory = self.scheduler.on(slot);
        let random_key = trajectory_key(self.seed, trajectory.group, trajectory.member);
        let cached = self.slots[slot].begun;
        let kept = cached && update != Some(CacheUpdate::Rebuilt);
        let request = SegmentRequest { prompt: &trajectory.prompt, trajectory, random_key, cached, kept };
        self.generator.begin(slot, request, weights)?;
        self.slots[slot].begun = true;
        Ok(())
    }

    /// Gives the tokens of a segment again, one a step, while the generator leaves the slot alone.
    fn replay(&mut self, slot: usize, segment: Segment, given: usize) {
        self.forget(slot);
        self.slots[slot].replayed = Some((segment, given));
    }

    /// Frees the slots of a group's members, and forgets those that wait.
    pub(crate) fn give_up(&mut self, group: u64) {
        for slot in self.scheduler.give_up(group) {
            self.forget(slot);
            self.slots[slot] = SlotUse::default();
        }
    }

    fn forget(&mut self, slot: usize) {
        if std::mem::take(&mut self.slots[slot].begun) {
            self.generator.release(slot);
        }
    }

    /// Draws one token on every slot that decodes.
    pub(crate) fn step(&mut self, ends: &Ends) -> Result<Step, RolloutError> {
        let decoding = self.scheduler.decoding();
        if decoding.is_empty() {
            return Ok(Step::default());
        }
        self.scheduler.count_step();
        let drawn = self.draw()?;
        let slots: Vec<usize> = drawn.iter().map(|drawn| drawn.slot).collect();
        assert_eq!(slots, decoding, "a generator draws one token for each slot that decodes");
        let (tokens, blocks) = (slots.len() as u64, self.scheduler.blocks_in_use());
        let prefilled = self.generator.take_prefilled();
        let mut step = Step { tokens, blocks, prefilled, ..Step::default() };
        for drawn in drawn {
            let token = drawn.token;
            let end = ends.finish_of(self.scheduler.on(drawn.slot), token.id);
            let outcome = self.scheduler.push(drawn.slot, token, end);
            if outcome == TokenOutcome::Inside {
                continue;
            }
            let slot = drawn.slot;
            let replayed = self.close(slot);
            let finished = match outcome {
                TokenOutcome::Finished(trajectory, finish) => {
                    self.forget(slot);
                    Some(EndedTrajectory { trajectory: checked(trajectory)?, finish })
                }
                TokenOutcome::TurnEnded => {
                    // The next segment fills the cache from what the policy sees then.
                    self.forget(slot);
                    step.turns_ended.push(slot);
                    None
                }
                TokenOutcome::Inside | TokenOutcome::SegmentEnded => None,
            };
            let trajectory =
                finished.as_ref().map_or_else(|| self.scheduler.on(slot), |ended| &ended.trajectory);
            let tokens = trajectory.last_segment().map_or(0, |segment| segment.tokens.len());
            step.ended.push(EndedSegment { slot, tokens, finished, replayed });
        }
        Ok(step)
    }

    /// The next token of every slot that decodes, by slot: the generator's or the replayed one.
    fn draw(&mut self) -> Result<Vec<Drawn>, RolloutError> {
        let mut drawn = Vec::new();
        for (slot, state) in self.slots.iter_mut().enumerate() {
            if let Some((segment, given)) = &mut state.replayed {
                drawn.push(Drawn { slot, token: segment.tokens[*given] });
                *given += 1;
            }
        }
        if self.slots.iter().any(|state| state.begun) {
            drawn.extend(self.generator.step()?);
        }
        drawn.sort_unstable_by_key(|drawn| drawn.slot);
        Ok(drawn)
    }

    /// The weights of the segments that are open.
    pub(crate) fn weights(&self) -> impl Iterator<Item = &Versioned<G::Weights>> {
        self.slots.iter().filter_map(|state| state.weights.as_ref())
    }
}

/// Refuses log-probs that no distribution has, before they can reach a loss.
fn checked(trajectory: Trajectory) -> Result<Trajectory, RolloutError> {
    let mut logprobs = trajectory.segments().flat_map(|segment| &segment.tokens).map(|token| token.logprob);
    let not_finite = logprobs.find(|logprob| !logprob.is_finite());
    drop(logprobs);
    match not_finite {
        None => Ok(trajectory),
        Some(logprob) => Err(RolloutError::NotFinite {
            what: "the log-prob of a drawn token",
            value: f64::from(logprob),
            group: trajectory.group,
            prompt: trajectory.prompt.id.clone(),
        }),
    }
}
