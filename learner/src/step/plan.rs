//! What an optimizer step will do, decided before the first backward pass: which completions have a slope, how they
//! lie in micro-batches, and their loss.
//!
//! A completion that cannot have a slope goes through no pass: it stays in the denominator of the loss and adds zeros
//! to every sum. Those that can are packed without it, so that the update is the same to the bit as one that lets it
//! through in micro-batches of its own.

use std::time::Instant;

use kernels::{shares_prefixes, token_stats};

use crate::batch::{MicroBatch, Sequence, SequenceCost, micro_batches};
use crate::config::MptScope;
use crate::loss::Objective;
use crate::mpt::MptRule;
use crate::report::{SkippedReport, StepSeconds};
use crate::selection::TrainedCompletion;
use crate::step::Learner;
use crate::tally::StepLoss;

/// What one step needs besides the weights.
pub(super) struct Plan<'a> {
    /// Those that can have a slope.
    pub(super) completions: Vec<TrainedCompletion<'a>>,
    /// How they lie.
    pub(super) batches: Vec<MicroBatch>,
    /// Those that cannot.
    pub(super) silent: Vec<TrainedCompletion<'a>>,
    pub(super) loss: StepLoss,
}

impl Plan<'_> {
    pub(super) fn skipped(&self) -> SkippedReport {
        let tokens = self.silent.iter().map(|silent| silent.ids.len()).sum();
        SkippedReport { completions: self.silent.len(), tokens }
    }
}

impl Learner {
    pub(super) fn objective(&self, tokens: usize) -> Objective {
        Objective {
            importance: self.config.importance.kind,
            tis_cap: self.config.mismatch.and_then(|mismatch| mismatch.cap()),
            clip: self.config.clip,
            kl: Objective::kl_of(&self.config.kl),
            tokens,
        }
    }

    /// The plan of a step on these completions, in their order.
    pub(super) fn plan<'a>(
        &self,
        completions: Vec<TrainedCompletion<'a>>,
        seconds: &mut StepSeconds,
    ) -> Plan<'a> {
        let objective = self.objective(completions.iter().map(|trained| trained.ids.len()).sum());
        let (completions, silent): (Vec<_>, Vec<_>) =
            completions.into_iter().partition(|trained| objective.may_have_slope(trained.advantage));
        let batches = self.packed(&completions);
        let mpt = MptRule::from_config(&self.config.mpt);
        let whole_step = mpt.is_some() && self.config.mpt.scope == MptScope::Batch;
        // The mask touches positive completions alone, so without one nobody asks for the entropy.
        let asked = whole_step && completions.iter().any(|trained| trained.positive);
        let entropy_of_step = asked.then(|| {
            // What has no slope is of the step all the same.
            let silent = self.packed(&silent);
            self.entropy_of(batches.iter().chain(&silent), objective.tokens, seconds)
        });
        let loss = StepLoss { step: self.version(), objective, mpt, entropy_of_step };
        Plan { completions, batches, silent, loss }
    }

    pub(super) fn packed(&self, completions: &[TrainedCompletion<'_>]) -> Vec<MicroBatch> {
        let sequences: Vec<Sequence<'_>> = completions
            .iter()
            .map(|trained| Sequence { prompt: &trained.completion.prompt.tokens, completion: &trained.ids })
            .collect();
        let cost = SequenceCost::new(&self.decoder().config);
        let share_prompts = shares_prefixes(self.decoder(), &self.chunk_plan());
        micro_batches(&sequences, (self.config.batch_tokens_max, share_prompts), &cost)
    }

    /// Mean token entropy over the step, in a pass of its own: the mask of the first micro-batch depends
    /// on the last one.
    fn entropy_of<'b>(
        &self,
        batches: impl Iterator<Item = &'b MicroBatch>,
        tokens: usize,
        seconds: &mut StepSeconds,
    ) -> f64 {
        let start = Instant::now();
        let mut sum = 0.0;
        for batch in batches {
            (self.on_micro_batch.0)();
            let stats = token_stats(self.decoder(), &batch.packed, &self.chunk_plan());
            for row in &batch.rows {
                sum += row.entropies(&stats).iter().map(|entropy| f64::from(*entropy)).sum::<f64>();
            }
        }
        seconds.statistics += start.elapsed().as_secs_f64();
        sum / tokens as f64
    }
}
