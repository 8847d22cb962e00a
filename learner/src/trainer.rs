//! From units to new weights: the one trainer, whatever is optimised. Packing, passes, gradients, the sums over ranks
//! and the update are here; where the units come from is the business of the objectives: scored groups in
//! `policy_gradient`, written sequences in [`crate::sft`].

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use collective::{Alone, Collective};
use kernels::{ChunkPlan, Decoder, GradientSums, Packed, TokenStats, TrainingEngine};

use crate::base::BaseModel;
use crate::batch::{MicroBatch, PackedCompletion, PackingLimits, SequenceCost, micro_batches};
use crate::config::{GradientsConfig, Settings};
use crate::error::LearnerError;
use crate::loss::{CompletionStats, Denominator, Loss, TokenLoss};
use crate::optimizer::Rounding;
use crate::ranks::{agree, sum_gradients};
use crate::train_state::TrainState;
use crate::unit::{Unit, UnitCompletion};

mod policy_gradient;
mod plan;
#[cfg(test)]
mod context_tests;
#[cfg(test)]
mod half_tests;
#[cfg(test)]
mod lora_tests;
#[cfg(test)]
mod rank_tests;
#[cfg(test)]
mod skip_tests;
#[cfg(test)]
mod tests;

pub use policy_gradient::PolicyGradient;

/// Turns groups, or other units, into new weights: one optimizer step a call.
///
/// With [`Trainer::with_collective`] it is one rank of several: each rank steps on groups of its own, and all make the
/// update of all groups. Reports are then of the rank's own groups, but for the update's loss, norm and tokens.
#[derive(Debug)]
pub struct Trainer<O = PolicyGradient> {
    pub(crate) state: TrainState,
    pub(crate) objective: O,
    pub(crate) passes: Passes,
}

/// What a trainer optimises.
pub trait Objective: fmt::Debug {
    /// What a checkpoint says of it.
    fn settings(&self) -> Settings;
}

/// How the passes of a step are made.
#[derive(Debug)]
pub(crate) struct Passes {
    /// The engine of the model and of the reference.
    pub(crate) engine: Arc<dyn TrainingEngine>,
    pub(crate) batch_tokens_max: usize,
    pub(crate) gradients: GradientsConfig,
    /// The key of the folder of layer inputs, for errors.
    pub(crate) layer_inputs_key: &'static str,
    pub(crate) temperature: f64,
    /// Whether equal prompts of a micro-batch go through once, where the engine can do that.
    pub(crate) share_prompts: bool,
    pub(crate) reference: Option<Decoder>,
    on_micro_batch: Callback,
    pub(crate) collective: Arc<dyn Collective>,
}

/// Called before each micro-batch, so that whoever watches the step sees that it goes on.
struct Callback(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

impl Passes {
    pub(crate) fn new(
        engine: Arc<dyn TrainingEngine>,
        batch_tokens_max: usize,
        gradients: GradientsConfig,
        layer_inputs_key: &'static str,
        temperature: f64,
        share_prompts: bool,
    ) -> Self {
        Self {
            engine,
            batch_tokens_max,
            gradients,
            layer_inputs_key,
            temperature,
            share_prompts,
            reference: None,
            on_micro_batch: Callback(Box::new(|| ())),
            collective: Arc::new(Alone),
        }
    }

    pub(crate) fn chunk_plan(&self) -> ChunkPlan {
        self.gradients.plan(self.temperature)
    }

    /// Statistics of a batch under some weights, without gradients.
    pub(crate) fn statistics(&self, decoder: &Decoder, batch: &Packed) -> TokenStats {
        self.engine.statistics(decoder, batch, &self.chunk_plan())
    }

    /// Whether equal prompts of a micro-batch go through once.
    fn shares_prompts(&self) -> bool {
        let paths = self.engine.capabilities().shared_prefixes;
        self.share_prompts && paths.contains(&self.chunk_plan().path)
    }

    pub(crate) fn begin_micro_batch(&self) {
        (self.on_micro_batch.0)();
    }
}

/// The loss of a step and what it is divided by.
#[derive(Clone, Copy)]
pub(crate) struct StepLoss<'a> {
    pub(crate) loss: &'a dyn Loss,
    /// One over the denominator.
    pub(crate) share: f64,
}

/// Sees every unit with the loss of its tokens, undivided, before the backward pass.
pub(crate) type Observer<'a> =
    dyn FnMut(usize, &[CompletionStats<'_>], &[TokenLoss]) -> Result<(), LearnerError> + Send + 'a;

/// One step on units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnitReport {
    /// Version of the weights after the step.
    pub version: u64,
    /// The mean loss: for cross entropy, nats a target token.
    pub loss: f64,
    /// Mean entropy of the distributions at the trained tokens, in nats.
    pub entropy: f64,
    /// Norm over all gradients together, before clipping.
    pub grad_norm: f64,
    /// Of this step.
    pub learning_rate: f64,
    /// Trained tokens of the whole step.
    pub target_tokens: usize,
    /// Tokens of sequences that this rank took through the decoder, prompts included.
    pub packed_tokens: usize,
    /// Passes of this rank through the decoder.
    pub micro_batches: usize,
    /// The whole step, in seconds.
    pub seconds: f64,
}

impl<O> Trainer<O> {
    /// How many steps the weights have seen.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.state.version
    }

    /// Calls this before every micro-batch; a watchdog takes it as progress.
    #[must_use]
    pub fn watched_by(mut self, on_micro_batch: impl Fn() + Send + Sync + 'static) -> Self {
        self.passes.on_micro_batch = Callback(Box::new(on_micro_batch));
        self
    }

    /// Makes this trainer one rank of several. All ranks begin with the same weights and make the same steps, each on
    /// units of its own, of which it may have none.
    #[must_use]
    pub fn with_collective(mut self, collective: Arc<dyn Collective>) -> Self {
        self.passes.collective = collective;
        self
    }

    /// Has every completion's log-probabilities under this frozen model told to the loss.
    #[must_use]
    pub fn with_reference(mut self, reference: Decoder) -> Self {
        self.passes.reference = Some(reference);
        self
    }

    /// Tells which model the adapters belong to that this trainer trains: checkpoints say it, and others are refused.
    #[must_use]
    pub fn with_base(mut self, base: Option<BaseModel>) -> Self {
        self.state.base = base;
        self
    }

    /// Computes passes with weights in bf16 from here on, which updates are rounded to; at random by this seed. All weights
    /// are trained.
    #[must_use]
    pub fn in_half_precision(mut self, rounding: Rounding, seed: u64) -> Self {
        self.state = self.state.in_half_precision(rounding, seed);
        self
    }

    /// The weights in training.
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.state.decoder
    }

    /// One optimizer step on the mean of any loss over units.
    ///
    /// # Errors
    /// [`LearnerError::Sequence`] for a unit that cannot be trained on, [`LearnerError::Gradient`] for gradients that are
    /// not finite, [`LearnerError::LayerInputs`] where the layers' inputs have no place, and what other ranks found;
    /// weights and version are then as before.
    ///
    /// # Panics
    /// Where no rank has a unit.
    pub fn step_units(&mut self, units: &[Unit<'_>], loss: &dyn Loss) -> Result<UnitReport, LearnerError> {
        let start = Instant::now();
        let (step, collective) = (self.version(), Arc::clone(&self.passes.collective));
        let checked = units.iter().enumerate().try_for_each(|(index, unit)| self.check_unit(index, unit));
        let own_tokens: usize = units.iter().map(Unit::trained_tokens).sum();
        let [target_tokens, all_units] =
            agree(&*collective, step, checked, |()| vec![own_tokens as f64, units.len() as f64])?.sums();
        assert!(all_units > 0.0, "a step needs a unit");
        let share = 1.0
            / match loss.denominator() {
                Denominator::Tokens => target_tokens,
                Denominator::Units => all_units,
            };
        let batches = self.packed(units);
        let mut gradients = self.state.gradients();
        let loss = StepLoss { loss, share };
        let sums = self.unit_gradients(&batches, units, loss, 1.0 / target_tokens, &mut gradients);
        let [loss, entropy] = agree(&*collective, step, sums, |sums| vec![sums.loss, sums.entropy])?.sums();
        sum_gradients(&*collective, step, &mut gradients)?;
        let update = self.state.update(gradients, || format!("{} sequences or pairs", units.len()))?;
        self.state.version += 1;
        Ok(UnitReport {
            version: self.version(),
            loss,
            entropy,
            grad_norm: update.grad_norm,
            learning_rate: update.learning_rate,
            target_tokens: target_tokens as usize,
            packed_tokens: batches.iter().map(|batch| batch.tokens).sum(),
            micro_batches: batches.len(),
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

impl<O> Trainer<O> {
    /// Units as micro-batches.
    pub(crate) fn packed(&self, units: &[Unit<'_>]) -> Vec<MicroBatch> {
        let cost = SequenceCost::new(&self.decoder().config);
        let share_prompts = self.passes.shares_prompts();
        let limits = PackingLimits { tokens_max: self.passes.batch_tokens_max, share_prompts };
        micro_batches(units, limits, &cost)
    }

    /// Gradients of all micro-batches, with the sums that a report of units needs. `token_share` is one over the trained
    /// tokens of the step.
    fn unit_gradients(
        &self,
        batches: &[MicroBatch],
        units: &[Unit<'_>],
        loss: StepLoss<'_>,
        token_share: f64,
        gradients: &mut GradientSums,
    ) -> Result<UnitSums, LearnerError> {
        let mut sums = UnitSums { loss: 0.0, entropy: 0.0 };
        for batch in batches {
            self.passes.begin_micro_batch();
            let reference = self.reference_stats(batch);
            let mut observe = |_: usize, unit: &[CompletionStats<'_>], losses: &[TokenLoss]| {
                sums.loss += losses.iter().map(|token| token.loss).sum::<f64>() * loss.share;
                let entropies = unit.iter().flat_map(|completion| completion.entropies);
                sums.entropy += entropies.map(|entropy| f64::from(*entropy)).sum::<f64>() * token_share;
                Ok(())
            };
            self.add_gradients(batch, units, loss, reference.as_ref(), gradients, &mut observe)?;
        }
        Ok(sums)
    }

    pub(crate) fn reference_stats(&self, batch: &MicroBatch) -> Option<TokenStats> {
        let reference = self.passes.reference.as_ref()?;
        Some(self.passes.statistics(reference, &batch.packed))
    }

    /// Adds the gradients of a micro-batch. Every unit is shown to `observe` once its loss is known; after an error of
    /// its no unit has a slope.
    pub(crate) fn add_gradients(
        &self,
        batch: &MicroBatch,
        units: &[Unit<'_>],
        loss: StepLoss<'_>,
        reference: Option<&TokenStats>,
        gradients: &mut GradientSums,
        observe: &mut Observer<'_>,
    ) -> Result<(), LearnerError> {
        let mut failure = None;
        let mut slopes = |stats: &TokenStats| {
            batch.slopes(loss.share, |laid| {
                let number = laid[0].unit;
                let numbers = UnitNumbers::new(&units[number], laid, stats, reference);
                let unit = numbers.stats(&units[number]);
                let losses = loss.loss.unit(&unit);
                match observe(number, &unit, &losses) {
                    Ok(()) => losses,
                    Err(error) => {
                        failure.get_or_insert(error);
                        vec![TokenLoss::default(); losses.len()]
                    }
                }
            })
        };
        let chunks = self.passes.chunk_plan();
        let (step, key) = (self.version(), self.passes.layer_inputs_key);
        let engine = &self.passes.engine;
        engine
            .gradients(self.decoder(), &batch.packed, &chunks, gradients.sink(), &mut slopes)
            .map_err(|source| LearnerError::LayerInputs { step, key, source })?;
        failure.map_or(Ok(()), Err)
    }

    fn check_unit(&self, index: usize, unit: &Unit<'_>) -> Result<(), LearnerError> {
        let vocabulary = self.decoder().config.vocabulary;
        let fail = |reason: String| Err(LearnerError::Sequence { step: self.version(), index, reason });
        if unit.completions.is_empty() {
            return fail("it has no completion".to_owned());
        }
        for sequence in unit.completions.iter().flat_map(|completion| &completion.sequences) {
            if sequence.prompt.is_empty() || sequence.trained_tokens() == 0 {
                return fail("it needs a prompt token and a target token at least".to_owned());
            }
            let largest = sequence.prompt.iter().copied().chain(sequence.tokens.ids()).max();
            if let Some(largest) = largest.filter(|largest| *largest as usize >= vocabulary) {
                return fail(format!("it has token {largest}, the vocabulary {vocabulary} entries"));
            }
        }
        Ok(())
    }
}

/// Parts of the step's means, summed over the units of a rank.
struct UnitSums {
    loss: f64,
    entropy: f64,
}

/// The numbers of a unit's tokens, one list a completion.
struct UnitNumbers<'a> {
    learner_logprobs: Vec<Cow<'a, [f32]>>,
    entropies: Vec<Cow<'a, [f32]>>,
    actor_logprobs: Vec<Vec<f32>>,
    reference_logprobs: Vec<Cow<'a, [f32]>>,
}

impl<'a> UnitNumbers<'a> {
    fn new(
        unit: &Unit<'_>,
        laid: &[&PackedCompletion],
        stats: &'a TokenStats,
        reference: Option<&'a TokenStats>,
    ) -> Self {
        let of_reference =
            |laid: &&PackedCompletion| reference.map_or(Cow::Borrowed(&[][..]), |stats| laid.logprobs(stats));
        Self {
            learner_logprobs: laid.iter().map(|laid| laid.logprobs(stats)).collect(),
            entropies: laid.iter().map(|laid| laid.entropies(stats)).collect(),
            actor_logprobs: unit.completions.iter().map(UnitCompletion::actor_logprobs).collect(),
            reference_logprobs: laid.iter().map(of_reference).collect(),
        }
    }

    fn stats(&self, unit: &Unit<'_>) -> Vec<CompletionStats<'_>> {
        unit.completions
            .iter()
            .enumerate()
            .map(|(place, completion)| CompletionStats {
                advantage: completion.advantage,
                positive: completion.positive,
                learner_logprobs: &self.learner_logprobs[place],
                entropies: &self.entropies[place],
                actor_logprobs: &self.actor_logprobs[place],
                reference_logprobs: &self.reference_logprobs[place],
            })
            .collect()
    }
}
