//! Restoring a run where it stood: the groups of a [`RolloutState`] go back to where they were, those in the
//! queue, those that wait for a verdict, and those whose trajectories go on from the token they were at.

use std::collections::BTreeMap;
use std::sync::Arc;

use trajectory::{EndedTrajectory, Finish, FinishedGroup, Group, Prompt, Trajectory};

use crate::actor::{Actor, ActorContext, OnSlot, Restored};
use crate::error::RolloutError;
use crate::generator::Generator;
use crate::ledger::queue::ReplayQueue;
use crate::ledger::state::{GroupState, RolloutState, SlotState};
use crate::weights::Versioned;

/// Where the rollout stands.
pub struct RolloutCheckpoint<W> {
    /// What can be written down.
    pub state: RolloutState,
    /// The weights of open segments, which may be older than the newest ones.
    pub weights: Vec<Versioned<W>>,
}

/// Gives actors and queue what they had before the restart, and returns the scored groups that were not in
/// the queue. The ledger of the actors must have been restored from the same state.
///
/// `weights` finds the weights of open segments. Where the number of actors or slots has changed, or where the
/// state has none, trajectories go on from the end of their last segment on any slot.
///
/// # Errors
/// If a prompt is not what it was, or the tokenizer refuses a completion.
pub fn restore<G: Generator>(
    state: &RolloutState,
    actors: &mut [Actor<G>],
    queue: &ReplayQueue,
    weights: impl Fn(u64) -> Option<Versioned<G::Weights>>,
) -> Result<Vec<Group>, RolloutError> {
    let context = Arc::clone(actors[0].context());
    let mut parts = RestoredGroups::default();
    for group in &state.groups {
        let prompt = parts.add(group, &context, actors.len())?;
        // A group that was admitted a moment before the state was written has no members there, and one of an actor
        // that is no more needs another. Without it an actor that panics would start again without the group.
        let actor = group.actor % actors.len();
        context.ledger.assign(group.id, actor, &prompt, context.config.group_size);
    }
    parts.scored.sort_by_key(|(place, _)| *place);
    let mut scored: Vec<Group> = parts.scored.drain(..).map(|(_, group)| group).collect();
    let overflow = scored.split_off(scored.len().saturating_sub(state.overflow));
    // What the learner had taken and not learned from waits again.
    let with_learner = state.groups.iter().filter(|group| group.taken).count() as u64;
    queue.restore(scored, state.groups_pushed, state.groups_taken - with_learner, &state.drops);
    let in_place = parts.in_place(state, actors);
    for (number, actor) in actors.iter_mut().enumerate() {
        let restored = match in_place {
            true => parts.placed(number, state),
            false => parts.anywhere(number),
        };
        actor.restore(restored, &weights)?;
    }
    actors[0].count(&state.report);
    Ok(overflow)
}

impl Restored {
    /// What an actor needs to go on with these groups, on whatever slots.
    pub(crate) fn of_groups<W>(
        groups: &[GroupState],
        context: &ActorContext<W>,
    ) -> Result<Self, RolloutError> {
        let mut parts = RestoredGroups::default();
        for group in groups {
            parts.add(&GroupState { actor: 0, ..group.clone() }, context, 1)?;
        }
        Ok(parts.anywhere(0))
    }
}

/// The groups of a state, by what happens to them next.
#[derive(Default)]
struct RestoredGroups {
    scored: Vec<(u64, Group)>,
    ended: Vec<EndedAtActor>,
    /// With the actor.
    unfinished: BTreeMap<(u64, u32), (usize, Trajectory)>,
}

/// A trajectory that has ended before the rest of its group, with the number of its actor.
struct EndedAtActor {
    actor: usize,
    ended: EndedTrajectory,
}

impl RestoredGroups {
    /// Adds a group, and gives its prompt.
    fn add<W>(
        &mut self,
        group: &GroupState,
        context: &ActorContext<W>,
        actors: usize,
    ) -> Result<Arc<Prompt>, RolloutError> {
        let prompt = Arc::new(context.prompts.prompt(group.id)?);
        check(&prompt, group)?;
        let actor = group.actor % actors;
        let trajectories = trajectories(group, &prompt, context.config.group_size);
        if let Some(verdict) = &group.verdict {
            let ended = trajectories.into_iter().map(|(trajectory, finish)| EndedTrajectory {
                trajectory,
                finish: finish.unwrap_or_default(),
            });
            let finished = FinishedGroup { id: group.id, members: ended.collect() };
            self.scored.push((verdict.place, context.scorer.known(finished, &verdict.rewards)?));
            return Ok(prompt);
        }
        for (trajectory, finish) in trajectories {
            match finish {
                Some(finish) => {
                    self.ended.push(EndedAtActor { actor, ended: EndedTrajectory { trajectory, finish } });
                }
                None => {
                    let key = (trajectory.group, trajectory.member);
                    self.unfinished.insert(key, (actor, trajectory));
                }
            }
        }
        Ok(prompt)
    }

    /// Whether every trajectory that goes on has a place in the actors' states, and the actors have it.
    fn in_place<G: Generator>(&self, state: &RolloutState, actors: &[Actor<G>]) -> bool {
        let slots = |actor: &Actor<G>| actor.state().slots.len();
        let placed: usize =
            state.actors.iter().map(|actor| actor.slots.iter().flatten().count() + actor.waiting.len()).sum();
        state.actors.len() == actors.len()
            && state.actors.iter().zip(actors).all(|(state, actor)| state.slots.len() == slots(actor))
            && placed == self.unfinished.len()
    }

    fn placed(&mut self, number: usize, state: &RolloutState) -> Restored {
        let actor = &state.actors[number];
        let mut restored = Restored { ended: self.ended_of(number), ..Restored::default() };
        for (slot, there) in actor.slots.iter().enumerate() {
            let Some(SlotState { group, member, open }) = there else { continue };
            if let Some((_, mut trajectory)) = self.unfinished.remove(&(*group, *member)) {
                open.iter().cloned().for_each(|segment| trajectory.resume_segment(segment));
                restored.slots.push(OnSlot { slot, trajectory, inside: open.is_some() });
            }
        }
        for waiting in &actor.waiting {
            let known = self.unfinished.remove(&(waiting.group, waiting.member));
            restored.waiting.extend(known.map(|(_, trajectory)| (trajectory, waiting.steps)));
        }
        restored.finished = actor.finished;
        restored.decode_steps = actor.decode_steps;
        restored
    }

    /// Trajectories that have begun go first: they are the oldest.
    fn anywhere(&mut self, number: usize) -> Restored {
        let own = self.unfinished.extract_if(.., |_, (actor, _)| *actor == number);
        let mut waiting: Vec<Trajectory> = own.map(|(_, (_, trajectory))| trajectory).collect();
        waiting.sort_by_key(|trajectory| trajectory.last_segment().is_none());
        let waiting = waiting.into_iter().map(|trajectory| (trajectory, 0)).collect();
        Restored { waiting, ended: self.ended_of(number), ..Restored::default() }
    }

    fn ended_of(&mut self, number: usize) -> Vec<EndedTrajectory> {
        self.ended.extract_if(.., |there| there.actor == number).map(|there| there.ended).collect()
    }
}

/// The members of a group as they are written down; one that was admitted a moment ago has none yet.
fn trajectories(
    group: &GroupState,
    prompt: &Arc<Prompt>,
    group_size: usize,
) -> Vec<(Trajectory, Option<Finish>)> {
    let count = if group.members.is_empty() { group_size } else { group.members.len() };
    (0..count)
        .map(|place| {
            let mut trajectory = Trajectory::new(Arc::clone(prompt), group.id, place as u32);
            let member = group.members.get(place);
            if let Some(member) = member {
                trajectory.restore(&member.contexts);
            }
            (trajectory, member.and_then(|member| member.finish))
        })
        .collect()
}

/// Refuses to go on with other data: a group's members would have answered different prompts.
fn check(prompt: &Prompt, group: &GroupState) -> Result<(), RolloutError> {
    if group.members.is_empty() || group.prompt_tokens == prompt.tokens {
        return Ok(());
    }
    Err(RolloutError::Prompt {
        prompt: prompt.id.clone(),
        reason: format!(
            "group {} was started on another prompt: the data, the tokenizer or the chat template have changed \
             since the checkpoint",
            group.id
        ),
    })
}

#[cfg(test)]
mod tests;
