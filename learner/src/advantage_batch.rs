//! From the groups of a step to the completions that are trained on: checks, advantages, dynamic
//! sampling, and what is to be reported of the groups. Plain numbers, no tensors.

use std::collections::BTreeMap;

use trajectory::{Completion, CompletionUse, Context, Group, ScoredCompletion, Span};

use crate::advantage::{
    self, GroupAdvantages, GroupOutcome, GroupRole, GroupStanding, GroupVariance, MissingCorrectness,
    RewardTerm, mean_std,
};
use crate::config::{AdvantageConfig, DynamicSampling, LearnerConfig, MptPositive};
use crate::error::LearnerError;
use crate::loss::Loss;
use crate::report::{
    CompletionReport, DeadGroups, GrpoLambdaReport, LengthReport, OffPolicyReport, PartReport, RefillReport,
    RewardReport, Spread, StepValues, StoppedBy, mean_of,
};
use crate::unit::{Tokens, UnitCompletion, UnitSequence};

/// A completion with all that the loss needs to know of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrainedCompletion<'a> {
    pub(crate) group: &'a Group,
    pub(crate) member: usize,
    /// Its place among the completions of the groups that came in.
    pub(crate) place: usize,
    pub(crate) advantage: f64,
    /// Whether the mask may touch it.
    pub(crate) positive: bool,
}

impl<'a> TrainedCompletion<'a> {
    fn completion(&self) -> &'a Completion {
        &self.group.completions[self.member].completion
    }

    pub(crate) fn tokens(&self) -> usize {
        self.completion().token_count()
    }

    /// Its part of a unit.
    pub(crate) fn in_unit(&self) -> UnitCompletion<'a> {
        let sequences = self.completion().contexts.iter().filter_map(sequence_of).collect();
        UnitCompletion { sequences, advantage: self.advantage, positive: self.positive }
    }

    /// An error that names this completion.
    pub(crate) fn not_finite(&self, step: u64, quantity: &'static str, value: f64) -> LearnerError {
        CompletionAt { step, group: self.group, member: self.member }.not_finite(quantity, value)
    }
}

/// The sequence that a context is trained on as, up to its last drawn token; `None` where it has none.
fn sequence_of(context: &Context) -> Option<UnitSequence<'_>> {
    let last_drawn = context.spans.iter().rposition(|span| span.segment().is_some())?;
    let Some(Span::Given { ids, .. }) = context.spans.first() else {
        unreachable!("a context that was checked begins with tokens that were given");
    };
    Some(UnitSequence { prompt: ids, tokens: Tokens::Drawn(&context.spans[1..=last_drawn]), given: &[] })
}

/// The groups of a step with their advantages.
pub(crate) struct AdvantageBatch<'a> {
    pub(crate) groups: &'a [Group],
    outcomes: Vec<GroupOutcome>,
    pub(crate) advantages: Vec<GroupAdvantages>,
    dynamic_sampling: DynamicSampling,
}

/// What the advantages of the groups are made from, in their order. `weights` are the factors of the rewards by name,
/// where each has an advantage of its own.
pub(crate) fn outcomes(
    step: u64,
    groups: &[Group],
    weights: &[(String, f64)],
) -> Result<Vec<GroupOutcome>, LearnerError> {
    groups.iter().map(|group| outcome_of(step, group, weights)).collect()
}

impl<'a> AdvantageBatch<'a> {
    /// Computes the advantages of the groups, which [`check_groups`] has checked, of the step that trains `step`, where
    /// these are all groups of the step.
    pub(crate) fn new(
        step: u64,
        groups: &'a [Group],
        config: &LearnerConfig,
        weights: &[(String, f64)],
    ) -> Result<Self, LearnerError> {
        let outcomes = outcomes(step, groups, weights)?;
        let standings: Vec<GroupStanding> = outcomes.iter().map(GroupStanding::of).collect();
        let roles = advantage::roles(&config.advantage, &standings);
        Self::in_roles(step, groups, outcomes, config, &roles)
    }

    /// Computes the advantages of groups with these outcomes, whose roles among all groups of the step are known.
    pub(crate) fn in_roles(
        step: u64,
        groups: &'a [Group],
        outcomes: Vec<GroupOutcome>,
        config: &LearnerConfig,
        roles: &[GroupRole],
    ) -> Result<Self, LearnerError> {
        let advantages = advantage::advantages_in_roles(&config.advantage, &outcomes, roles);
        let advantages = advantages.map_err(|MissingCorrectness { group, member }| {
            let reason =
                format!("completion {member} has no correctness, which grpo_lambda shapes rewards by");
            group_error(step, &groups[group], reason)
        })?;
        Ok(Self { groups, outcomes, advantages, dynamic_sampling: config.dynamic_sampling })
    }

    /// The completions that are trained on, in the order of their groups.
    pub(crate) fn trained(
        &self,
        step: u64,
        positive: Option<MptPositive>,
    ) -> Result<Vec<TrainedCompletion<'a>>, LearnerError> {
        let mut trained = Vec::new();
        let mut next_place = 0;
        for (group, advantages) in self.groups.iter().zip(&self.advantages) {
            let first = next_place;
            next_place += group.completions.len();
            if self.drops(advantages) {
                continue;
            }
            for (member, scored) in group.completions.iter().enumerate() {
                let advantage = advantages.advantages[member];
                let positive = match positive {
                    None => false,
                    Some(MptPositive::Advantage) => advantage > 0.0,
                    Some(MptPositive::Correct) => correct(scored).ok_or_else(|| {
                        let reason = format!(
                            "completion {member} has no correctness; learner.mpt.positive = \"advantage\" \
                             masks without one"
                        );
                        group_error(step, group, reason)
                    })?,
                };
                let place = first + member;
                trained.push(TrainedCompletion { group, member, place, advantage, positive });
            }
        }
        Ok(trained)
    }

    fn drops(&self, group: &GroupAdvantages) -> bool {
        self.dynamic_sampling != DynamicSampling::Off && group.variance != GroupVariance::Varied
    }

    /// Groups that teach something.
    pub(crate) fn live_groups(&self) -> usize {
        self.advantages.iter().filter(|group| group.variance == GroupVariance::Varied).count()
    }

    /// What refilling came to; `None` where it is off.
    pub(crate) fn refill_report(&self, groups_per_step: usize) -> Option<RefillReport> {
        (self.dynamic_sampling == DynamicSampling::Refill).then(|| RefillReport {
            groups: self.groups.len().saturating_sub(groups_per_step),
            missing: groups_per_step.saturating_sub(self.live_groups()),
        })
    }

    /// What becomes of each completion, in the order of groups and members; of their tokens nothing is known yet.
    pub(crate) fn completion_reports(&self, loss: &dyn Loss) -> Vec<CompletionReport> {
        let of_group = |group: &GroupAdvantages| {
            let drops = self.drops(group);
            let of = |advantage: &f64| match (drops, loss.has_no_slope(*advantage)) {
                (true, _) => CompletionUse::Dropped,
                (false, true) => CompletionUse::ZeroAdvantage,
                (false, false) => CompletionUse::Trained,
            };
            let report = |advantage: &f64| CompletionReport::of(of(advantage), *advantage);
            group.advantages.iter().map(report).collect::<Vec<_>>()
        };
        self.advantages.iter().flat_map(of_group).collect()
    }

    pub(crate) fn dropped_groups(&self) -> usize {
        self.advantages.iter().filter(|group| self.drops(group)).count()
    }

    pub(crate) fn dead_groups(&self) -> DeadGroups {
        let count = |kind| self.advantages.iter().filter(|group| group.variance == kind).count();
        DeadGroups {
            all_correct: count(GroupVariance::AllCorrect),
            all_wrong: count(GroupVariance::AllWrong),
            all_equal: count(GroupVariance::AllEqual),
        }
    }

    fn scored(&self) -> impl Iterator<Item = &'a ScoredCompletion> + Clone {
        self.groups.iter().flat_map(|group| &group.completions)
    }

    pub(crate) fn reward_report(&self) -> RewardReport {
        let rewards = || self.scored().map(|scored| scored.reward.total);
        let group_stds = self.outcomes.iter().map(|group| mean_std(&group.rewards).1);
        let equal = |group: &&GroupOutcome| group.rewards.windows(2).all(|pair| pair[0] == pair[1]);
        let shaped = self.advantages.iter().flat_map(|group| group.shaped.iter().copied());
        let right = self.scored().filter_map(correct).map(|right| f64::from(u8::from(right)));
        RewardReport {
            mean: mean_of(rewards()).unwrap_or(0.0),
            std: mean_of(group_stds).unwrap_or(0.0),
            frac_zero_std: self.outcomes.iter().filter(equal).count() as f64
                / self.groups.len().max(1) as f64,
            shaped_mean: mean_of(shaped).unwrap_or(0.0),
            accuracy: mean_of(right),
            parts: self.part_reports(),
        }
    }

    fn part_reports(&self) -> BTreeMap<String, PartReport> {
        let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, value) in self.scored().flat_map(|scored| &scored.reward.parts) {
            values.entry(name).or_default().push(*value);
        }
        values
            .into_iter()
            .map(|(name, values)| {
                let (mean, std) = mean_std(&values);
                (name.to_owned(), PartReport { mean, std })
            })
            .collect()
    }

    pub(crate) fn length_report(&self) -> LengthReport {
        let truncated = self.scored().filter(|scored| scored.completion.truncated()).count();
        let lengths =
            |wanted: bool| self.scored().filter(move |scored| correct(scored) == Some(wanted)).map(length_of);
        LengthReport {
            all: spread(self.scored().map(length_of)),
            clipped_ratio: truncated as f64 / self.scored().count().max(1) as f64,
            stopped_by: StoppedBy::of(self.scored().map(|scored| scored.completion.finish)),
            correct: mean_of(lengths(true)),
            incorrect: mean_of(lengths(false)),
        }
    }

    /// Distances are signed: recorded completions may be of later versions than the one in training.
    pub(crate) fn off_policy_report(&self, version: u64) -> OffPolicyReport {
        let completions = || self.scored().map(|scored| &scored.completion);
        let behind = |of: u64| version as f64 - of as f64;
        let count = completions().count().max(1) as f64;
        let spans = || completions().map(|completion| completion.version_count() as f64);
        let segments = || completions().map(|completion| completion.segment_count() as f64);
        OffPolicyReport {
            spans: spread(spans()),
            staleness: spread(completions().map(|completion| behind(completion.newest_version()))),
            staleness_worst: spread(completions().map(|completion| behind(completion.oldest_version()))),
            segments: spread(segments()),
            multi_segment_fraction: segments().filter(|segments| *segments > 1.0).count() as f64 / count,
            multi_version_fraction: spans().filter(|versions| *versions > 1.0).count() as f64 / count,
        }
    }

    pub(crate) fn grpo_lambda_report(&self, config: &AdvantageConfig) -> Option<GrpoLambdaReport> {
        let AdvantageConfig::GrpoLambda { .. } = config else {
            return None;
        };
        let correct_length = |role: GroupRole| {
            let groups = self.groups.iter().zip(&self.advantages).filter(move |(_, made)| made.role == role);
            let completions = groups.flat_map(|(group, _)| &group.completions);
            mean_of(completions.filter(|scored| correct(scored) == Some(true)).map(length_of))
        };
        let count = |role| self.advantages.iter().filter(|group| group.role == role).count();
        Some(GrpoLambdaReport {
            efficiency_groups: count(GroupRole::Efficiency),
            accuracy_groups: count(GroupRole::Accuracy),
            correct_length_efficiency: correct_length(GroupRole::Efficiency),
            correct_length_accuracy: correct_length(GroupRole::Accuracy),
        })
    }

    /// All raw values but the ratios.
    pub(crate) fn values(&self) -> StepValues {
        StepValues {
            lengths: self.scored().map(length_of).collect(),
            rewards: self.scored().map(|scored| scored.reward.total).collect(),
            advantages: self.advantages.iter().flat_map(|group| group.advantages.iter().copied()).collect(),
            ratios: Vec::new(),
        }
    }
}

/// A spread over the completions of a step; 0 where this rank of several has none.
fn spread(values: impl IntoIterator<Item = f64>) -> Spread {
    Spread::of(values).unwrap_or(Spread { mean: 0.0, min: 0.0, max: 0.0 })
}

fn correct(scored: &ScoredCompletion) -> Option<bool> {
    scored.reward.correctness.map(|correctness| correctness == 1)
}

fn length_of(scored: &ScoredCompletion) -> f64 {
    scored.completion.token_count() as f64
}

fn outcome_of(step: u64, group: &Group, weights: &[(String, f64)]) -> Result<GroupOutcome, LearnerError> {
    let terms = weights.iter().map(|(name, weight)| {
        let values = group
            .completions
            .iter()
            .enumerate()
            .map(|(member, scored)| {
                scored.reward.parts.get(name).copied().filter(|value| value.is_finite()).ok_or_else(|| {
                    group_error(
                        step,
                        group,
                        format!("completion {member} has no finite value of the reward `{name}`"),
                    )
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(RewardTerm { weight: *weight, values })
    });
    Ok(GroupOutcome {
        id: group.id,
        rewards: group.completions.iter().map(|scored| scored.reward.total).collect(),
        correctness: group.completions.iter().map(correct).collect(),
        lengths: group.completions.iter().map(|scored| scored.completion.token_count()).collect(),
        terms: terms.collect::<Result<_, LearnerError>>()?,
    })
}

fn group_error(step: u64, group: &Group, reason: String) -> LearnerError {
    LearnerError::Group { step, group: group.id, prompt: group.prompt.id.clone(), reason }
}

/// Names a completion in an error.
struct CompletionAt<'a> {
    step: u64,
    group: &'a Group,
    member: usize,
}

impl CompletionAt<'_> {
    fn not_finite(&self, quantity: &'static str, value: f64) -> LearnerError {
        LearnerError::NotFinite {
            step: self.step,
            group: self.group.id,
            prompt: self.group.prompt.id.clone(),
            member: self.member,
            quantity,
            value,
        }
    }
}

/// The largest size of a reward: squares of such numbers, summed over more completions than any step has, are finite.
const REWARD_MAX: f64 = 1e140;

/// Groups may come from a file, so all that the arithmetic takes for granted is checked here.
pub(crate) fn check_groups(step: u64, groups: &[Group], vocabulary: usize) -> Result<(), LearnerError> {
    groups.iter().try_for_each(|group| check_group(step, group, vocabulary))
}

fn check_group(step: u64, group: &Group, vocabulary: usize) -> Result<(), LearnerError> {
    let fail = |reason: String| Err(group_error(step, group, reason));
    if group.completions.is_empty() {
        return fail("it has no completion".to_owned());
    }
    for (member, scored) in group.completions.iter().enumerate() {
        let Completion { prompt, .. } = &scored.completion;
        if prompt.tokens.is_empty() || scored.completion.token_count() == 0 {
            return fail(format!("completion {member} needs a prompt token and a completion token at least"));
        }
        let begins = |context: &Context| matches!(context.spans.first(), Some(Span::Given { ids, .. }) if !ids.is_empty());
        if let Some(place) = scored.completion.contexts.iter().position(|context| !begins(context)) {
            return fail(format!("context {place} of completion {member} does not begin with given tokens"));
        }
        let largest = scored.completion.contexts.iter().flat_map(Context::ids).max().unwrap_or(0);
        if largest as usize >= vocabulary {
            return fail(format!(
                "completion {member} has token {largest}, the vocabulary {vocabulary} entries"
            ));
        }
        if scored.reward.correctness.is_some_and(|correctness| correctness > 1) {
            return fail(format!("completion {member} has a correctness that is neither 0 nor 1"));
        }
        let reward = scored.reward.total;
        if !reward.is_finite() {
            return Err(CompletionAt { step, group, member }.not_finite("the reward", reward));
        }
        let mut values = std::iter::once(reward).chain(scored.reward.parts.values().copied());
        if let Some(large) = values.find(|value| value.is_finite() && value.abs() > REWARD_MAX) {
            return fail(format!(
                "completion {member} has a reward of {large:e}; beyond {REWARD_MAX:e} in size a group has no finite \
                 standard deviation"
            ));
        }
        if let Some(token) = scored.completion.tokens().find(|token| !token.logprob.is_finite()) {
            let value = f64::from(token.logprob);
            return Err(CompletionAt { step, group, member }.not_finite("an actor's log-probability", value));
        }
    }
    Ok(())
}
