//! What a rank will do in an optimizer step on groups, decided before the first backward pass: which completions have a
//! slope, how they lie in micro-batches, and their loss. A function of the groups, the settings and what the ranks have
//! agreed on, but for the mask over the whole step, which needs a pass of its own.
//!
//! A completion that cannot have a slope goes through no pass: it stays in the denominator of the loss and adds zeros
//! to every sum. Those that can are packed without it, so that the update is the same to the bit as one that lets it
//! through in micro-batches of its own.

use std::time::Instant;

use super::{PolicyGradient, Trainer};
use crate::advantage_batch::{AdvantageBatch, TrainedCompletion};
use crate::batch::MicroBatch;
use crate::config::MptScope;
use crate::error::LearnerError;
use crate::loss::{Denominator, KlPenalty, Loss, Mask, MptRule, RegularisedLoss};
use crate::ranks::agree;
use crate::report::{SkippedReport, StepSeconds};
use crate::unit::Unit;

/// What one rank does in a step besides updating the weights.
pub(super) struct StepPlan<'a> {
    /// Those that can have a slope.
    pub(super) completions: Vec<TrainedCompletion<'a>>,
    /// The same as units, one each.
    pub(super) units: Vec<Unit<'a>>,
    /// How they lie.
    pub(super) batches: Vec<MicroBatch>,
    /// Those that cannot.
    pub(super) silent: Vec<TrainedCompletion<'a>>,
}

/// A rank's groups with their advantages, and what it does with them.
pub(super) struct PlannedStep<'a> {
    pub(super) batch: AdvantageBatch<'a>,
    pub(super) plan: StepPlan<'a>,
}

/// Sums over all ranks of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StepTotals {
    /// Tokens of all completions that are trained on, those without a slope too.
    pub(super) tokens: usize,
    pub(super) completions: usize,
    pub(super) batches: usize,
    /// Completions that the mask may touch and that have a slope.
    pub(super) positive: usize,
    pub(super) skipped: SkippedReport,
}

impl StepTotals {
    /// One over what the loss is divided by.
    pub(super) fn share(&self, denominator: Denominator) -> f64 {
        1.0 / match denominator {
            Denominator::Tokens => self.tokens as f64,
            Denominator::Units => self.completions as f64,
        }
    }
}

pub(super) fn units_of<'a>(completions: &[TrainedCompletion<'a>]) -> Vec<Unit<'a>> {
    completions.iter().map(|trained| Unit::of(trained.in_unit())).collect()
}

impl StepPlan<'_> {
    /// This rank's part of the [`StepTotals`].
    fn numbers(&self) -> Vec<f64> {
        let tokens_of =
            |some: &[TrainedCompletion<'_>]| some.iter().map(TrainedCompletion::tokens).sum::<usize>();
        let silent_tokens = tokens_of(&self.silent);
        let positive = self.completions.iter().filter(|trained| trained.positive).count();
        let numbers = [
            tokens_of(&self.completions) + silent_tokens,
            self.completions.len() + self.silent.len(),
            self.batches.len(),
            positive,
            self.silent.len(),
            silent_tokens,
        ];
        numbers.map(|number| number as f64).to_vec()
    }
}

impl PolicyGradient {
    /// The loss of a step, with the mask and the penalty of the configuration.
    pub(super) fn regularised(&self, mask: Option<Mask>) -> RegularisedLoss<'_> {
        RegularisedLoss { policy: &*self.loss, mask, penalty: KlPenalty::from_config(&self.config.kl) }
    }
}

impl Trainer {
    /// This rank's plan of a step on these completions, in their order.
    pub(super) fn plan<'a>(&self, completions: Vec<TrainedCompletion<'a>>) -> StepPlan<'a> {
        let loss = self.objective.regularised(None);
        let (silent, completions) =
            completions.into_iter().partition::<Vec<_>, _>(|trained| loss.has_no_slope(trained.advantage));
        let units = units_of(&completions);
        let batches = self.packed(&units);
        StepPlan { completions, units, batches, silent }
    }

    /// Denominators of the step over all ranks.
    pub(super) fn totals<'a>(
        &self,
        planned: Result<PlannedStep<'a>, LearnerError>,
    ) -> Result<(PlannedStep<'a>, StepTotals), LearnerError> {
        let numbers = |planned: &PlannedStep<'_>| planned.plan.numbers();
        let agreed = agree(&*self.passes.collective, self.version(), planned, numbers)?;
        let sums = agreed.sums().map(|sum: f64| sum as usize);
        let [tokens, completions, batches, positive, silent, silent_tokens] = sums;
        let skipped = SkippedReport { completions: silent, tokens: silent_tokens };
        Ok((agreed.own, StepTotals { tokens, completions, batches, positive, skipped }))
    }

    /// The mask of the step, where the configuration asks for one.
    pub(super) fn mask(
        &self,
        plan: &StepPlan<'_>,
        totals: &StepTotals,
        seconds: &mut StepSeconds,
    ) -> Result<Option<Mask>, LearnerError> {
        let config = &self.objective.config.mpt;
        let Some(rule) = MptRule::from_config(config) else { return Ok(None) };
        // The mask touches positive completions alone, so without one nobody asks for the entropy.
        let asked = config.scope == MptScope::Batch && totals.positive > 0;
        let entropy_of_step = match asked {
            true => Some(self.entropy_of_step(plan, totals, seconds)?),
            false => None,
        };
        Ok(Some(Mask { rule, entropy_of_step }))
    }

    /// Mean token entropy over the step, in a pass of its own: the mask of the first micro-batch depends on the last
    /// one. What has no slope is of the step all the same.
    fn entropy_of_step(
        &self,
        plan: &StepPlan<'_>,
        totals: &StepTotals,
        seconds: &mut StepSeconds,
    ) -> Result<f64, LearnerError> {
        let start = Instant::now();
        let mut sum = 0.0;
        for batch in plan.batches.iter().chain(&self.packed(&units_of(&plan.silent))) {
            self.passes.begin_micro_batch();
            let stats = self.passes.statistics(self.decoder(), &batch.packed);
            for laid in &batch.completions {
                sum += laid.entropies(&stats).iter().map(|entropy| f64::from(*entropy)).sum::<f64>();
            }
        }
        let [sum] = agree(&*self.passes.collective, self.version(), Ok(()), |()| vec![sum])?.sums();
        seconds.statistics += start.elapsed().as_secs_f64();
        Ok(sum / totals.tokens as f64)
    }
}
