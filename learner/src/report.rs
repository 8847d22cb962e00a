//! What a step has to say for itself: plain numbers, named as the field names them, for the root to turn
//! into metrics. Nothing here is computed from tensors.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use trajectory::{CompletionUse, Finish};

/// Mean, smallest and largest of a list.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of a list; `None` where it is empty.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let (mut count, mut sum, mut min, mut max) = (0_usize, 0.0, f64::INFINITY, f64::NEG_INFINITY);
        for value in values {
            count += 1;
            sum += value;
            min = value.min(min);
            max = value.max(max);
        }
        (count > 0).then(|| Self { mean: sum / count as f64, min, max })
    }
}

/// The mean of a list; `None` where it is empty.
pub(crate) fn mean_of(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    Spread::of(values).map(|spread| spread.mean)
}

/// One step of the learner.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Version of the weights after the step.
    pub version: u64,
    /// Groups that came in.
    pub groups: usize,
    /// What the verifiers gave, over all groups that came in.
    pub rewards: RewardReport,
    /// Lengths, over all groups that came in.
    pub lengths: LengthReport,
    /// How far the trajectories are from the weights in training, over all groups that came in.
    pub off_policy: OffPolicyReport,
    /// What GRPO-lambda made of the groups; `None` under other advantages.
    pub grpo_lambda: Option<GrpoLambdaReport>,
    /// Groups whose shaped rewards are all equal.
    pub dead: DeadGroups,
    /// Groups that dynamic sampling left out: all dead ones where it is on, else 0.
    pub dropped_groups: usize,
    /// What dynamic sampling took in the place of dead groups; `None` where it refills nothing.
    pub refill: Option<RefillReport>,
    /// What became of each completion, in the order of groups and members.
    pub completions: Vec<CompletionReport>,
    /// The update; `None` where every group was dropped, so that the weights stay as they were.
    pub update: Option<UpdateReport>,
    /// Where the time went.
    pub seconds: StepSeconds,
    /// Raw values for histograms.
    pub values: StepValues,
}

impl StepReport {
    /// Whether no completion of the step gave a gradient.
    #[must_use]
    pub fn learned_nothing(&self) -> bool {
        self.update.as_ref().is_none_or(|update| update.tokens.is_none() || update.grad_norm == 0.0)
    }
}

/// What a step did with a completion.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionReport {
    /// Whether it was learned from.
    pub used: CompletionUse,
    /// What it was compared with its group by.
    pub advantage: f64,
    /// Log-probabilities of its drawn tokens under the weights before the step; empty where it went through no pass.
    pub learner_logprobs: Vec<f32>,
    /// The places among its drawn tokens that the mask of mastered tokens took out of the loss.
    pub masked: Vec<usize>,
}

impl CompletionReport {
    /// Nothing is known of its tokens.
    pub(crate) fn of(used: CompletionUse, advantage: f64) -> Self {
        Self { used, advantage, learner_logprobs: Vec::new(), masked: Vec::new() }
    }
}

/// What the verifiers gave.
#[derive(Clone, Debug, PartialEq)]
pub struct RewardReport {
    /// Mean reward of a completion.
    pub mean: f64,
    /// Mean over the groups of the standard deviation in a group.
    pub std: f64,
    /// Fraction of groups whose rewards, before any shaping, are all equal.
    pub frac_zero_std: f64,
    /// Mean reward after shaping; the same as `mean` where nothing shapes.
    pub shaped_mean: f64,
    /// Fraction of right answers among those that a reward calls right or wrong.
    pub accuracy: Option<f64>,
    /// Mean and standard deviation of each named part over the completions that have it.
    pub parts: BTreeMap<String, PartReport>,
}

/// A named part of the reward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PartReport {
    /// Mean, unweighted.
    pub mean: f64,
    /// Standard deviation over all completions, n - 1.
    pub std: f64,
}

/// Lengths in completion tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LengthReport {
    /// Of all completions.
    pub all: Spread,
    /// Fraction of completions that the output limit cut off.
    pub clipped_ratio: f64,
    /// What ended the others.
    pub stopped_by: StoppedBy,
    /// Mean of the right answers.
    pub correct: Option<f64>,
    /// Mean of the wrong answers.
    pub incorrect: Option<f64>,
}

/// What ended completions before the output limit, as fractions of all completions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct StoppedBy {
    /// An end of output of the tokenizer.
    pub eos: f64,
    /// A stop string.
    pub stop_string: f64,
    /// A stop token id.
    pub stop_token_id: f64,
}

impl StoppedBy {
    /// The fractions among completions that ended so.
    pub fn of(finishes: impl Iterator<Item = Finish> + Clone) -> Self {
        let count = finishes.clone().count().max(1) as f64;
        let share = |wanted| finishes.clone().filter(|finish| *finish == wanted).count() as f64 / count;
        Self {
            eos: share(Finish::Eos),
            stop_string: share(Finish::StopString),
            stop_token_id: share(Finish::StopToken),
        }
    }
}

/// How far the trajectories are from the weights in training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OffPolicyReport {
    /// Policy versions in a trajectory.
    pub spans: Spread,
    /// Versions between the newest in a trajectory and the one in training.
    pub staleness: Spread,
    /// Versions between the oldest in a trajectory and the one in training: what the queue's bound counts.
    pub staleness_worst: Spread,
    /// Segments in a trajectory.
    pub segments: Spread,
    /// Fraction of trajectories with two or more segments.
    pub multi_segment_fraction: f64,
    /// Fraction of trajectories with two or more policy versions.
    pub multi_version_fraction: f64,
}

/// What GRPO-lambda made of the groups.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GrpoLambdaReport {
    /// Groups that learned to be short.
    pub efficiency_groups: usize,
    /// Groups that learned to be right.
    pub accuracy_groups: usize,
    /// Mean length of the right answers of efficiency groups.
    pub correct_length_efficiency: Option<f64>,
    /// Mean length of the right answers of accuracy groups.
    pub correct_length_accuracy: Option<f64>,
}

/// Groups whose shaped rewards are all equal, so that nothing can be learned from them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeadGroups {
    /// All answers are right.
    pub all_correct: usize,
    /// All answers are wrong.
    pub all_wrong: usize,
    /// The answers are mixed, or nobody says whether they are right.
    pub all_equal: usize,
}

impl DeadGroups {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> usize {
        self.all_correct + self.all_wrong + self.all_equal
    }
}

/// What dynamic sampling took in the place of dead groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefillReport {
    /// Groups beyond `groups_per_step`.
    pub groups: usize,
    /// Groups that teach something and are missing to `groups_per_step`.
    pub missing: usize,
}

/// The update of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateReport {
    /// Token mean over the whole step, penalty included.
    pub loss: f64,
    /// Norm over all gradients together, before clipping.
    pub grad_norm: f64,
    /// Of this step.
    pub learning_rate: f64,
    /// What the model said of the tokens; `None` where every completion was skipped.
    pub tokens: Option<TokenReport>,
    /// Completion tokens: the denominator of the loss.
    pub completion_tokens: usize,
    /// What went through no pass, because it was known to have no slope.
    pub skipped: SkippedReport,
    /// Completions that went forward and turned out to have no slope, because all their tokens are masked or clipped.
    pub completions_zero_slope: usize,
    /// Tokens of all sequences that went through the model, prompts included.
    pub packed_tokens: usize,
    /// Those of them that did not go through the decoder, because their prompt did already for another sequence.
    pub prompt_tokens_shared: usize,
    /// How the step was cut.
    pub cuts: CutReport,
}

impl UpdateReport {
    /// Completion tokens that went through the model.
    #[must_use]
    pub fn trained_tokens(&self) -> usize {
        self.completion_tokens - self.skipped.tokens
    }
}

/// Completions in the denominator of the loss whose slopes are 0 whatever the model says of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SkippedReport {
    /// How many there are.
    pub completions: usize,
    /// Their completion tokens.
    pub tokens: usize,
}

/// What the model said of the completion tokens of a step that were not skipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenReport {
    /// Mean entropy of the distributions that the tokens were drawn from, in nats, under the learner.
    pub entropy: f64,
    /// Mean divergence from the reference, unweighted; `None` where there is none.
    pub kl: Option<f64>,
    /// Fractions of tokens whose ratio ran into a limit; all 0 under POIS, whose ratio is 1.
    pub clip: ClipReport,
    /// `exp(learner - actor)` of the tokens, under POIS too, where the loss does not use it.
    pub ratio: Spread,
    /// Mean divergence of the learner from the actors at their tokens (k3).
    pub mismatch_kl: f64,
    /// The weights of truncated importance sampling; `None` where it is off.
    pub tis: Option<TisReport>,
    /// The mask; `None` where it is off.
    pub mpt: Option<MptReport>,
}

/// Fractions of tokens whose ratio ran into a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClipReport {
    /// Into the lower one.
    pub low: f64,
    /// Into the upper one.
    pub high: f64,
    /// Into either.
    pub region: f64,
}

/// What truncated importance sampling did, over the completion tokens, masked ones too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TisReport {
    /// The weights as they were used.
    pub weight: Spread,
    /// Fraction of tokens whose ratio was above the cap.
    pub capped_fraction: f64,
}

/// What the mask did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MptReport {
    /// Fraction of the completion tokens that is masked.
    pub masked_fraction: f64,
    /// Fraction of the positive completions' tokens that is masked.
    pub masked_positive_fraction: f64,
    /// Fraction of the positive completions' tokens with a probability of at least tau.
    pub mastered_fraction: f64,
    /// Fraction of the positive completions whose entropy is below sigma.
    pub open_fraction: f64,
}

/// How a step was cut into micro-batches and chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CutReport {
    /// Passes through the decoder.
    pub micro_batches: usize,
    /// Tokens of the longest micro-batch.
    pub micro_batch_tokens_max: usize,
    /// Chunks of layers, over all micro-batches and one layer each; equal to `micro_batches` where
    /// StreamBP is off.
    pub layer_chunks: usize,
    /// Chunks of the head, over all micro-batches; equal to `micro_batches` where StreamBP is off.
    pub head_chunks: usize,
}

/// Where the time of a step went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepSeconds {
    /// Passes without gradients: the reference's, and the one for a mask over the whole step.
    pub statistics: f64,
    /// Passes with gradients.
    pub gradients: f64,
    /// Norm and update.
    pub optimizer: f64,
    /// The whole step.
    pub total: f64,
}

/// Raw values of a step, for histograms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepValues {
    /// Completion tokens, of all completions that came in.
    pub lengths: Vec<f64>,
    /// Rewards, of all completions that came in.
    pub rewards: Vec<f64>,
    /// Advantages, of all completions that came in.
    pub advantages: Vec<f64>,
    /// Ratios of every n-th token, at most [`RATIOS_MAX`].
    pub ratios: Vec<f64>,
}

/// A step may have 10^8 tokens, and a histogram of a few ten thousand looks the same.
pub const RATIOS_MAX: usize = 32_768;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_at_least_one_value() {
        assert_eq!(Spread::of([]), None);
        assert_eq!(Spread::of([3.0, -1.0, 4.0]), Some(Spread { mean: 2.0, min: -1.0, max: 4.0 }));
    }
}
