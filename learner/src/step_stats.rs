//! The running sums behind a step's metrics, over the trained tokens of its completions. Plain numbers, no tensors.

use crate::advantage_batch::TrainedCompletion;
use crate::error::LearnerError;
use crate::loss::{Clipped, CompletionStats, Mask, TokenLoss, mismatch};
use crate::report::{ClipReport, MptReport, RATIOS_MAX, Spread, TisReport};

/// What the statistics of one step are measured against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepMeasure {
    /// The version that is trained, for errors.
    pub(crate) step: u64,
    /// One over the denominator of the loss.
    pub(crate) share: f64,
    /// Tokens of the whole step, which bound the list of ratios.
    pub(crate) tokens: usize,
    /// The largest weight of truncated importance sampling, where it is on.
    pub(crate) tis_cap: Option<f64>,
    /// The mask, where it is on.
    pub(crate) mask: Option<Mask>,
}

/// Running sums over the completion tokens of a step that are not skipped.
#[derive(Clone, Debug)]
pub(crate) struct StepStats {
    measure: StepMeasure,
    pub(crate) loss: f64,
    tokens: usize,
    entropy: f64,
    kl: f64,
    mismatch: f64,
    /// Its mean is a sum until it is asked for.
    ratio: Spread,
    /// As `ratio`.
    tis_weight: Spread,
    tis_capped: usize,
    clipped_low: usize,
    clipped_high: usize,
    masked: usize,
    mastered: usize,
    positive_tokens: usize,
    positive_completions: usize,
    open_completions: usize,
    /// Completions without a slope.
    pub(crate) completions_zero_slope: usize,
    ratio_stride: usize,
    pub(crate) ratios: Vec<f64>,
    /// Of the completions of this rank that went through a pass.
    pub(crate) learned: Vec<LearnedTokens>,
}

/// What a step saw of the tokens of a completion.
#[derive(Clone, Debug)]
pub(crate) struct LearnedTokens {
    /// The completion's place among those of the groups that came in.
    pub(crate) completion: usize,
    pub(crate) learner_logprobs: Vec<f32>,
    pub(crate) masked: Vec<usize>,
}

/// A token and what its loss says of it.
struct SeenToken<'a> {
    learner_logprob: f64,
    actor_logprob: f64,
    entropy: f64,
    loss: &'a TokenLoss,
}

/// Adds a value to a spread whose mean is still a sum.
fn add(spread: &mut Spread, value: f64) {
    spread.mean += value;
    spread.min = spread.min.min(value);
    spread.max = spread.max.max(value);
}

impl StepStats {
    /// Adds a completion with the loss of each of its tokens.
    ///
    /// # Errors
    /// [`LearnerError::NotFinite`] for a token whose statistics or loss are not finite.
    pub(crate) fn add_completion(
        &mut self,
        completion: &TrainedCompletion<'_>,
        stats: &CompletionStats<'_>,
        losses: &[TokenLoss],
    ) -> Result<(), LearnerError> {
        let StepMeasure { step, share, mask, .. } = self.measure;
        if completion.positive {
            self.positive_completions += 1;
            self.positive_tokens += stats.tokens();
        }
        self.open_completions += usize::from(mask.is_some_and(|mask| mask.opens(stats)));
        for (place, loss) in losses.iter().enumerate() {
            let token = SeenToken {
                learner_logprob: f64::from(stats.learner_logprobs[place]),
                actor_logprob: f64::from(stats.actor_logprobs[place]),
                entropy: f64::from(stats.entropies[place]),
                loss,
            };
            for (quantity, value) in
                [("a log-probability", token.learner_logprob), ("an entropy", token.entropy)]
            {
                if !value.is_finite() {
                    return Err(completion.not_finite(step, quantity, value));
                }
            }
            self.add_token(&token);
            let slopes = [loss.dloss_dlogprob, loss.dloss_dentropy];
            if !self.loss.is_finite() || !slopes.iter().all(|slope| slope.is_finite()) {
                return Err(completion.not_finite(step, "the loss", self.loss));
            }
            let mastered = mask.is_some_and(|mask| mask.rule.mastered(token.learner_logprob));
            self.mastered += usize::from(completion.positive && mastered);
        }
        self.learned.push(LearnedTokens {
            completion: completion.place,
            learner_logprobs: stats.learner_logprobs.to_vec(),
            masked: (0..losses.len()).filter(|place| losses[*place].masked).collect(),
        });
        let is_zero = |slope: f64| (slope * share) as f32 == 0.0;
        let silent = losses.iter().all(|loss| is_zero(loss.dloss_dlogprob) && is_zero(loss.dloss_dentropy));
        self.completions_zero_slope += usize::from(silent);
        Ok(())
    }

    fn add_token(&mut self, token: &SeenToken<'_>) {
        let ratio = (token.learner_logprob - token.actor_logprob).exp();
        if self.tokens.is_multiple_of(self.ratio_stride) {
            self.ratios.push(ratio);
        }
        self.tokens += 1;
        self.loss += token.loss.loss * self.measure.share;
        self.entropy += token.entropy;
        self.kl += token.loss.kl;
        self.mismatch += mismatch(token.learner_logprob, token.actor_logprob);
        add(&mut self.ratio, ratio);
        add(&mut self.tis_weight, token.loss.importance_weight);
        self.tis_capped += usize::from(self.measure.tis_cap.is_some_and(|cap| ratio > cap));
        self.clipped_low += usize::from(token.loss.clipped == Clipped::Low);
        self.clipped_high += usize::from(token.loss.clipped == Clipped::High);
        self.masked += usize::from(token.loss.masked);
    }

    /// Of no token yet.
    pub(crate) fn new(measure: StepMeasure) -> Self {
        let empty = Spread { mean: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };
        Self {
            measure,
            loss: 0.0,
            tokens: 0,
            entropy: 0.0,
            kl: 0.0,
            mismatch: 0.0,
            ratio: empty,
            tis_weight: empty,
            tis_capped: 0,
            clipped_low: 0,
            clipped_high: 0,
            masked: 0,
            mastered: 0,
            positive_tokens: 0,
            positive_completions: 0,
            open_completions: 0,
            completions_zero_slope: 0,
            ratio_stride: measure.tokens.div_ceil(RATIOS_MAX).max(1),
            ratios: Vec::new(),
            learned: Vec::new(),
        }
    }

    /// All numbers, for the other ranks of the step; ratios stay with the rank that saw them.
    pub(crate) fn numbers(&self) -> Vec<f64> {
        let counts = [
            self.tokens,
            self.tis_capped,
            self.clipped_low,
            self.clipped_high,
            self.masked,
            self.mastered,
            self.positive_tokens,
            self.positive_completions,
            self.open_completions,
            self.completions_zero_slope,
        ];
        let spreads = [self.ratio, self.tis_weight].map(|spread| [spread.mean, spread.min, spread.max]);
        let sums = [self.loss, self.entropy, self.kl, self.mismatch];
        sums.into_iter().chain(spreads.concat()).chain(counts.map(|count| count as f64)).collect()
    }

    /// The statistics of the whole step, from the numbers of its ranks in their order.
    pub(crate) fn of_ranks(self, ranks: &[Vec<f64>]) -> Self {
        if ranks.len() == 1 {
            return self;
        }
        let sum = |place: usize| ranks.iter().map(|numbers| numbers[place]).sum::<f64>();
        let count = |place: usize| sum(place) as usize;
        let spread = |place: usize| Spread {
            mean: sum(place),
            min: ranks.iter().map(|numbers| numbers[place + 1]).fold(f64::INFINITY, f64::min),
            max: ranks.iter().map(|numbers| numbers[place + 2]).fold(f64::NEG_INFINITY, f64::max),
        };
        Self {
            loss: sum(0),
            entropy: sum(1),
            kl: sum(2),
            mismatch: sum(3),
            ratio: spread(4),
            tis_weight: spread(7),
            tokens: count(10),
            tis_capped: count(11),
            clipped_low: count(12),
            clipped_high: count(13),
            masked: count(14),
            mastered: count(15),
            positive_tokens: count(16),
            positive_completions: count(17),
            open_completions: count(18),
            completions_zero_slope: count(19),
            ..self
        }
    }

    fn per_token(&self, sum: f64) -> f64 {
        sum / self.tokens.max(1) as f64
    }

    pub(crate) fn entropy_mean(&self) -> f64 {
        self.per_token(self.entropy)
    }

    pub(crate) fn kl_mean(&self) -> f64 {
        self.per_token(self.kl)
    }

    pub(crate) fn mismatch_mean(&self) -> f64 {
        self.per_token(self.mismatch)
    }

    pub(crate) fn ratio(&self) -> Spread {
        Spread { mean: self.per_token(self.ratio.mean), ..self.ratio }
    }

    pub(crate) fn tis(&self) -> TisReport {
        TisReport {
            weight: Spread { mean: self.per_token(self.tis_weight.mean), ..self.tis_weight },
            capped_fraction: self.per_token(self.tis_capped as f64),
        }
    }

    pub(crate) fn clip(&self) -> ClipReport {
        ClipReport {
            low: self.per_token(self.clipped_low as f64),
            high: self.per_token(self.clipped_high as f64),
            region: self.per_token((self.clipped_low + self.clipped_high) as f64),
        }
    }

    pub(crate) fn mpt(&self) -> MptReport {
        let of = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
        MptReport {
            masked_fraction: of(self.masked, self.tokens),
            masked_positive_fraction: of(self.masked, self.positive_tokens),
            mastered_fraction: of(self.mastered, self.positive_tokens),
            open_fraction: of(self.open_completions, self.positive_completions),
        }
    }
}
