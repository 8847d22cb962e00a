//! What a run would lose if it stopped now: every group that has started and not reached the learner, with
//! all tokens that are drawn for it. Plain values that can be written down and read back to the bit.

use std::collections::BTreeMap;
use std::path::Path;

use rewards::Reward;
use serde::{Deserialize, Serialize};
use trajectory::{Context, Finish, Group, Segment, Trajectory};

use crate::error::RolloutError;
use crate::report::ActorReport;
use crate::scheduler::FinishedContexts;

/// Why a group never reached the learner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DropReason {
    /// Its oldest token was further behind the learner than the staleness bound.
    Stale,
    /// It was finished after the run had begun to stop.
    Closed,
    /// A verifier gave no verdict on one of its members and said to go on without it.
    Unscored,
}

/// How many groups were started and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AdmissionReport {
    /// Groups started; the next one has this number.
    pub groups_started: u64,
    /// Groups that were allowed beside those of the learner's steps: in the place of dropped ones, and those that steps
    /// took beyond `groups_per_step`.
    pub groups_replaced: u64,
    /// Groups that the step which is being put together may take beyond `groups_per_step`.
    pub groups_refilled: u64,
}

/// A group on its way from its prompt to the learner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupState {
    /// The place of its prompt in the endless order.
    pub id: u64,
    /// The newest policy version when it started.
    pub started_version: u64,
    /// The actor that answers it, counted from 0.
    pub actor: usize,
    /// The ids of its prompt, by which a run that goes on knows that its data are still the same.
    pub prompt_tokens: Vec<u32>,
    /// Its members in order.
    pub members: Vec<MemberState>,
    /// Whether it has ended and is with the verifiers, or has been.
    pub finished: bool,
    /// What the verifiers said, once they have.
    pub verdict: Option<GroupVerdict>,
    /// Whether the learner has it and has not learned from it yet.
    pub taken: bool,
}

/// One member of a group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MemberState {
    /// What was drawn in segments that have ended, and what was given behind them. The first context has no prompt,
    /// which is the group's.
    pub contexts: Vec<Context>,
    /// Why it ended, if it has.
    pub finish: Option<Finish>,
}

/// The verdict on a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupVerdict {
    /// Counts the groups in the order in which they were scored. They go back into the queue in this order,
    /// which several scorers at once may have changed by a place.
    pub place: u64,
    /// The reward of each member.
    pub rewards: Vec<Reward>,
}

impl MemberState {
    /// Adds what is new in these contexts, the first of which begins with the prompt.
    fn extend(&mut self, contexts: &[Context], finish: Option<Finish>) {
        for (place, context) in contexts.iter().enumerate() {
            if place == self.contexts.len() {
                self.contexts.push(Context::default());
            }
            let prompt = usize::from(place == 0);
            let known = &mut self.contexts[place].spans;
            known.extend_from_slice(context.spans.get(prompt + known.len()..).unwrap_or_default());
        }
        self.finish = self.finish.or(finish);
    }
}

impl GroupState {
    /// A group whose members have not started.
    pub(crate) fn new(id: u64, started_version: u64) -> Self {
        Self {
            id,
            started_version,
            actor: 0,
            prompt_tokens: Vec::new(),
            members: Vec::new(),
            finished: false,
            verdict: None,
            taken: false,
        }
    }

    /// Puts a segment in the place that it has in its trajectory.
    pub(crate) fn record(&mut self, trajectory: &Trajectory, finish: Option<Finish>) {
        self.members[trajectory.member as usize].extend(&trajectory.contexts, finish);
    }

    /// Writes the verdict down, and what was drawn where some of it was not told.
    pub(crate) fn scored(&mut self, place: u64, group: &Group) {
        for (member, scored) in self.members.iter_mut().zip(&group.completions) {
            member.extend(&scored.completion.contexts, Some(scored.completion.finish));
        }
        let rewards = group.completions.iter().map(|scored| scored.reward.clone()).collect();
        self.verdict = Some(GroupVerdict { place, rewards });
    }
}

/// Where one actor stands: which trajectory is on which slot, and which wait for one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ActorState {
    /// What is on each slot.
    pub slots: Vec<Option<SlotState>>,
    /// Those that wait for a slot or for room in the cache, in their order.
    pub waiting: Vec<WaitingState>,
    /// How long contexts get, by which groups are admitted where the cache has a bound.
    pub finished: FinishedContexts,
    /// Decode steps since the run began.
    pub decode_steps: u64,
}

/// A trajectory that waits, with the segments that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingState {
    /// Its group.
    pub group: u64,
    /// Its place in the group.
    pub member: u32,
    /// The decode steps that it has waited.
    pub steps: u64,
}

/// A trajectory on its slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotState {
    /// Its group.
    pub group: u64,
    /// Its place in the group.
    pub member: u32,
    /// The segment that it is in the middle of.
    pub open: Option<Segment>,
}

/// A stretch of decoding beside the learner that was not over ([`crate::DeterministicSchedule`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowState {
    /// Groups that it still has to finish.
    pub groups: usize,
    /// The policy version that its segments begin under.
    pub version: u64,
}

/// Everything on the rollout's side of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RolloutState {
    /// How many groups were started.
    pub admission: AdmissionReport,
    /// The groups on the way, by number.
    pub groups: Vec<GroupState>,
    /// Groups that were put into the queue since the run began.
    pub groups_pushed: u64,
    /// Groups that the learner took since the run began.
    pub groups_taken: u64,
    /// Groups that never reached the learner.
    pub drops: BTreeMap<DropReason, u64>,
    /// Scored groups, last in order, that were not in the queue yet.
    pub overflow: usize,
    /// The actors, where they stood still; none under `schedule = "async"`, whose trajectories go on from
    /// the end of their last segment on any slot.
    pub actors: Vec<ActorState>,
    /// Decoding that the learner had not waited for.
    pub window: Option<WindowState>,
    /// What the actors did since the last step was recorded.
    pub report: ActorReport,
}

/// Begins a file of a [`RolloutState`], before the number of the form of what follows.
const MAGIC: &str = "longhaul rollout ";
/// The form that is written and read. Until 3 a trajectory had one context and no given tokens; until 4 the report did
/// not count groups that were lost to another actor.
const FORM: u32 = 5;

impl RolloutState {
    /// The state as the content of a file, floats to the bit.
    pub fn to_bytes(&self) -> Vec<u8> {
        let body = postcard::to_stdvec(self).expect("plain values in memory can be written");
        [format!("{MAGIC}{FORM}\n").as_bytes(), &body].concat()
    }

    /// Reads what [`RolloutState::to_bytes`] made.
    ///
    /// # Errors
    /// [`RolloutError::File`] with the path; [`RolloutError::StateForm`] for a state of another version of longhaul.
    pub fn read(path: &Path) -> Result<Self, RolloutError> {
        let bytes = std::fs::read(path).map_err(|error| RolloutError::file(path, error))?;
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let form = std::str::from_utf8(line).ok().and_then(|line| line.strip_prefix(MAGIC));
        let Some(form) = form else {
            return Err(RolloutError::content(path, "is not the state of a rollout"));
        };
        if form != FORM.to_string() {
            return Err(RolloutError::StateForm { path: path.to_owned(), form: form.to_owned(), read: FORM });
        }
        postcard::from_bytes(&bytes[line.len() + 1..]).map_err(|error| RolloutError::content(path, error))
    }

    /// The policy versions, beside the newest one, that open segments need to be finished.
    pub fn versions_needed(&self) -> Vec<u64> {
        let slots = self.actors.iter().flat_map(|actor| actor.slots.iter().flatten());
        let open = slots.filter_map(|slot| slot.open.as_ref()).map(|segment| segment.version);
        let mut versions: Vec<u64> = open.chain(self.window.map(|window| window.version)).collect();
        versions.sort_unstable();
        versions.dedup();
        versions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_another_form_is_refused_with_both_numbers() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rollout");
        let write = |bytes: &[u8]| std::fs::write(&path, bytes).expect("a file");
        let state = RolloutState { groups_taken: 3, ..RolloutState::default() };
        write(&state.to_bytes());
        assert_eq!(RolloutState::read(&path).expect("the form of today"), state);
        write(b"longhaul rollout 4\n\0");
        let error = RolloutState::read(&path).expect_err("an older form");
        assert!(matches!(&error, RolloutError::StateForm { form, read: FORM, .. } if form == "4"), "{error}");
        assert!(
            error.to_string().contains("has form 4") && error.to_string().contains("reads form 5"),
            "{error}"
        );
        write(b"longhaul\n");
        let error = RolloutState::read(&path).expect_err("no state");
        assert!(error.to_string().contains("is not the state of a rollout"), "{error}");
    }
}
