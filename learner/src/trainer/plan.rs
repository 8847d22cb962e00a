//! What a rank will do in an optimizer step on groups, decided before the first backward pass: which completions have a
//! slope, and how they lie in micro-batches; and the sums over all ranks that its loss is divided by.
//!
//! A completion that cannot have a slope goes through no pass: it stays in the denominator of the loss and adds zeros
//! to every sum. Those that can are packed without it, so that the update is the same to the bit as one that lets it
//! through in micro-batches of its own.

use crate::advantage_batch::{AdvantageBatch, TrainedCompletion};
use crate::batch::MicroBatch;
use crate::loss::Denominator;
use crate::report::SkippedReport;
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
    pub(super) fn numbers(&self) -> Vec<f64> {
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
