//! The loss over whole completions: from the decoder's token statistics to the slope of every completion
//! token, and the running sums behind a step's metrics. Plain numbers, no tensors.

use crate::error::LearnerError;
use crate::loss::{Clipped, LossToken, Objective, mismatch};
use crate::mpt::{MptRule, entropy_mean};
use crate::report::{ClipReport, MptReport, RATIOS_MAX, Spread, TisReport};
use crate::selection::TrainedCompletion;

/// The loss and the mask of one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepLoss {
    pub(crate) step: u64,
    pub(crate) objective: Objective,
    pub(crate) mpt: Option<MptRule>,
    /// Mean token entropy over the step, where the mask goes by it instead of the completion's own.
    pub(crate) entropy_of_step: Option<f64>,
}

/// What the decoders say of one completion, one entry a token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompletionStats<'a> {
    pub(crate) logprobs: &'a [f32],
    pub(crate) entropies: &'a [f32],
    /// Empty where there is no reference.
    pub(crate) reference_logprobs: &'a [f32],
}

/// Running sums over the completion tokens of a step that are not skipped.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
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
}

impl StepLoss {
    /// Adds a completion to the tally and gives the derivative of the loss by each of its tokens'
    /// log-probabilities.
    ///
    /// # Errors
    /// [`LearnerError::NotFinite`] for a token whose statistics or loss are not finite.
    pub(crate) fn completion(
        &self,
        completion: &TrainedCompletion<'_>,
        stats: CompletionStats<'_>,
        tally: &mut Tally,
    ) -> Result<Vec<f64>, LearnerError> {
        let entropy = self.entropy_of_step.unwrap_or_else(|| entropy_mean(stats.entropies));
        let open = self.mpt.filter(|rule| rule.opens(completion.positive, entropy));
        tally.count_completion(completion, open.is_some());
        let mut slopes = Vec::with_capacity(stats.logprobs.len());
        for (place, logprob) in stats.logprobs.iter().enumerate() {
            let learner_logprob = f64::from(*logprob);
            let token = LossToken {
                learner_logprob,
                actor_logprob: f64::from(completion.actor_logprobs[place]),
                reference_logprob: stats.reference_logprobs.get(place).copied().map_or(0.0, f64::from),
                advantage: completion.advantage,
                masked: open.is_some_and(|rule| rule.mastered(learner_logprob)),
            };
            let entropy = f64::from(stats.entropies[place]);
            for (quantity, value) in [("a log-probability", learner_logprob), ("an entropy", entropy)] {
                if !value.is_finite() {
                    return Err(completion.not_finite(self.step, quantity, value));
                }
            }
            let slope = self.token(&token, entropy, tally);
            if !tally.loss.is_finite() || !slope.is_finite() {
                return Err(completion.not_finite(self.step, "the loss", tally.loss));
            }
            if completion.positive && self.mpt.is_some_and(|rule| rule.mastered(learner_logprob)) {
                tally.mastered += 1;
            }
            slopes.push(slope);
        }
        tally.completions_zero_slope += usize::from(slopes.iter().all(|slope| *slope as f32 == 0.0));
        Ok(slopes)
    }

    /// Adds a token to the tally and gives its slope.
    fn token(&self, token: &LossToken, entropy: f64, tally: &mut Tally) -> f64 {
        let result = self.objective.token(token);
        let ratio = (token.learner_logprob - token.actor_logprob).exp();
        if tally.tokens.is_multiple_of(tally.ratio_stride) {
            tally.ratios.push(ratio);
        }
        tally.tokens += 1;
        tally.loss += result.loss;
        tally.entropy += entropy;
        tally.kl += result.kl;
        tally.mismatch += mismatch(token.learner_logprob, token.actor_logprob);
        add(&mut tally.ratio, ratio);
        add(&mut tally.tis_weight, result.tis_weight);
        tally.tis_capped += usize::from(self.objective.tis_cap.is_some_and(|cap| ratio > cap));
        tally.clipped_low += usize::from(result.clipped == Clipped::Low);
        tally.clipped_high += usize::from(result.clipped == Clipped::High);
        tally.masked += usize::from(token.masked);
        result.slope
    }
}

/// Adds a value to a spread whose mean is still a sum.
fn add(spread: &mut Spread, value: f64) {
    spread.mean += value;
    spread.min = spread.min.min(value);
    spread.max = spread.max.max(value);
}

impl Tally {
    /// An empty tally that will see this many tokens.
    pub(crate) fn new(tokens: usize) -> Self {
        let empty = Spread { mean: 0.0, min: f64::INFINITY, max: f64::NEG_INFINITY };
        Self {
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
            ratio_stride: tokens.div_ceil(RATIOS_MAX).max(1),
            ratios: Vec::new(),
        }
    }

    fn count_completion(&mut self, completion: &TrainedCompletion<'_>, open: bool) {
        if completion.positive {
            self.positive_completions += 1;
            self.positive_tokens += completion.ids.len();
        }
        self.open_completions += usize::from(open);
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
