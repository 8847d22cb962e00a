//! One optimizer step from scored groups: advantages, packing, loss, gradients, update. Everything that
//! can be wrong with the groups, the loss or the gradients is found before a weight changes.

use std::fmt;
use std::time::Instant;

use burn::tensor::Tensor;
use kernels::{Decoder, Slopes, TokenStats, Weights, accumulate_gradients, token_stats};
use trajectory::Group;

use crate::batch::{MicroBatch, Row};
use crate::config::LearnerConfig;
use crate::error::LearnerError;
use crate::optimizer::OptimizerConfig;
use crate::refill::further_groups;
use crate::report::{CutReport, StepReport, StepSeconds, TokenReport, UpdateReport};
use crate::selection::{Selection, TrainedCompletion, check_groups};
use crate::snapshot::{Snapshot, Trainee, Update};
use crate::tally::{CompletionStats, Tally};

mod plan;

use plan::Plan;

/// Turns groups into new weights, one optimizer step a call.
#[derive(Debug)]
pub struct Learner {
    pub(crate) trainee: Trainee,
    pub(crate) config: LearnerConfig,
    temperature: f64,
    reference: Option<Decoder>,
    /// The factors of the rewards by name, where the advantages of each are combined.
    reward_weights: Vec<(String, f64)>,
    on_micro_batch: Callback,
}

/// Called before each micro-batch, so that whoever watches the step sees that it goes on.
struct Callback(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callback")
    }
}

impl Learner {
    /// A learner at version 0.
    ///
    /// `temperature` is the one that completions are drawn at; 0, greedy, counts as 1, as it does for the
    /// log-probabilities that actors store. `reference` is the frozen model of the penalty.
    ///
    /// # Errors
    /// [`LearnerError::Config`] for a value that cannot be meant, or a reference that is missing or does
    /// not fit.
    pub fn new(
        decoder: Decoder,
        config: LearnerConfig,
        optimizer: OptimizerConfig,
        temperature: f64,
        steps_total: u64,
        reference: Option<Decoder>,
    ) -> Result<Self, LearnerError> {
        config.check()?;
        if !temperature.is_finite() || temperature < 0.0 {
            let reason = format!("{temperature} is not a temperature of at least 0");
            return Err(LearnerError::config("rollout.temperature", reason));
        }
        let reference = reference.filter(|_| config.kl.enabled);
        if config.kl.enabled {
            let vocabulary = reference.as_ref().map_or(0, |reference| reference.config.vocabulary);
            config.kl.check_vocabulary(vocabulary, decoder.config.vocabulary)?;
        }
        let temperature = if temperature == 0.0 { 1.0 } else { temperature };
        let trainee = Trainee::new(decoder, optimizer, steps_total)?;
        Ok(Self {
            trainee,
            config,
            temperature,
            reference,
            reward_weights: Vec::new(),
            on_micro_batch: Callback(Box::new(|| ())),
        })
    }

    /// Tells the rewards by name and weight, which `combine = "advantage"` needs to know.
    #[must_use]
    pub fn with_reward_weights(mut self, weights: Vec<(String, f64)>) -> Self {
        if self.config.advantage.combines_advantages() {
            self.reward_weights = weights;
        }
        self
    }

    /// How many steps the weights have seen.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.trainee.version
    }

    /// Calls this before every micro-batch; a watchdog takes it as progress.
    #[must_use]
    pub fn watched_by(self, on_micro_batch: impl Fn() + Send + Sync + 'static) -> Self {
        Self { on_micro_batch: Callback(Box::new(on_micro_batch)), ..self }
    }

    /// How many further groups a step wants that has these ([`further_groups`]).
    #[must_use]
    pub fn further_groups(&self, groups: &[Group]) -> usize {
        further_groups(&self.config, &self.reward_weights, groups)
    }

    /// The weights in training.
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.trainee.decoder
    }

    /// The weights as they are, for actors. Shares memory until the next step.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.trainee.snapshot()
    }

    /// One optimizer step. The version rises by one, also where every group was dropped, so that a run
    /// comes to its end.
    ///
    /// # Errors
    /// [`LearnerError`] for groups that cannot be trained on and for a loss or gradient that is not
    /// finite; weights and version are then as before.
    ///
    /// # Panics
    /// Where there is no group.
    pub fn step(&mut self, groups: Vec<Group>) -> Result<StepReport, LearnerError> {
        assert!(!groups.is_empty(), "a step needs a group");
        let combines = self.config.advantage.combines_advantages();
        assert!(
            !combines || !self.reward_weights.is_empty(),
            "rewards are combined whose weights are not known"
        );
        let start = Instant::now();
        let version = self.version();
        let vocabulary = self.decoder().config.vocabulary;
        check_groups(version, &groups, vocabulary)?;
        let selection = Selection::new(version, &groups, &self.config, &self.reward_weights)?;
        let positive = self.config.mpt.enabled.then_some(self.config.mpt.positive);
        let completions = selection.trained(version, positive)?;
        let mut seconds = StepSeconds::default();
        let mut values = selection.values();
        let mut update = None;
        if !completions.is_empty() {
            let plan = self.plan(completions, &mut seconds);
            let (report, ratios) = self.train(&plan, &mut seconds)?;
            values.ratios = ratios;
            update = Some(report);
        }
        self.trainee.version += 1;
        seconds.total = start.elapsed().as_secs_f64();
        Ok(StepReport {
            version: self.version(),
            groups: groups.len(),
            rewards: selection.reward_report(),
            lengths: selection.length_report(),
            off_policy: selection.off_policy_report(version),
            grpo_lambda: selection.grpo_lambda_report(&self.config.advantage),
            dead: selection.dead_groups(),
            dropped_groups: selection.dropped_groups(),
            refill: selection.refill_report(self.config.groups_per_step),
            uses: selection.uses(&self.objective(1)),
            update,
            seconds,
            values,
        })
    }

    fn chunk_plan(&self) -> kernels::ChunkPlan {
        self.config.gradients.plan(self.temperature)
    }

    /// Gradients of the whole step, then the update. Gives the report and the ratios for its histogram.
    fn train(
        &mut self,
        plan: &Plan<'_>,
        seconds: &mut StepSeconds,
    ) -> Result<(UpdateReport, Vec<f64>), LearnerError> {
        let tokens = plan.completions.iter().map(|trained| trained.ids.len()).sum();
        let mut tally = Tally::new(tokens);
        if plan.batches.is_empty() {
            let start = Instant::now();
            // Moments and decay go on as under any gradient of 0.
            let update = self.trainee.update_without_gradient();
            seconds.optimizer = start.elapsed().as_secs_f64();
            return Ok((self.update_report(plan, &tally, update), tally.ratios));
        }
        let mut gradients = self.trainee.gradients();
        for batch in &plan.batches {
            (self.on_micro_batch.0)();
            let start = Instant::now();
            let reference = self.reference_stats(batch);
            seconds.statistics += start.elapsed().as_secs_f64();
            let start = Instant::now();
            self.add_gradients(plan, batch, (&reference, &mut tally), &mut gradients)?;
            seconds.gradients += start.elapsed().as_secs_f64();
        }
        let start = Instant::now();
        let update = self.trainee.update(gradients, || prompt_names(&plan.completions))?;
        seconds.optimizer = start.elapsed().as_secs_f64();
        Ok((self.update_report(plan, &tally, update), tally.ratios))
    }

    fn reference_stats(&self, batch: &MicroBatch) -> Option<TokenStats> {
        let reference = self.reference.as_ref()?;
        Some(token_stats(reference, &batch.packed, &self.chunk_plan()))
    }

    fn add_gradients(
        &self,
        plan: &Plan<'_>,
        batch: &MicroBatch,
        (reference, tally): (&Option<TokenStats>, &mut Tally),
        gradients: &mut Weights<Tensor<2>>,
    ) -> Result<(), LearnerError> {
        let mut failure = None;
        let mut slopes = |row: &Row, stats: &TokenStats| {
            let stats = CompletionStats {
                logprobs: row.logprobs(stats),
                entropies: row.entropies(stats),
                reference_logprobs: reference.as_ref().map_or(&[], |reference| row.logprobs(reference)),
            };
            plan.loss.completion(&plan.completions[row.sequence], stats, tally).unwrap_or_else(|error| {
                failure.get_or_insert(error);
                vec![0.0; stats.logprobs.len()]
            })
        };
        let mut coefficients =
            |stats: &TokenStats| Slopes::of_logprobs(batch.coefficients(|row| slopes(row, stats)));
        let chunks = self.chunk_plan();
        let step = self.version();
        accumulate_gradients(self.decoder(), &batch.packed, &chunks, gradients, &mut coefficients).map_err(
            |source| LearnerError::LayerInputs { step, key: "learner.gradients.layer_inputs_dir", source },
        )?;
        failure.map_or(Ok(()), Err)
    }

    fn update_report(&self, plan: &Plan<'_>, tally: &Tally, update: Update) -> UpdateReport {
        let tokens = || TokenReport {
            entropy: tally.entropy_mean(),
            kl: self.reference.as_ref().map(|_| tally.kl_mean()),
            clip: tally.clip(),
            ratio: tally.ratio(),
            mismatch_kl: tally.mismatch_mean(),
            tis: plan.loss.objective.tis_cap.map(|_| tally.tis()),
            mpt: plan.loss.mpt.map(|_| tally.mpt()),
        };
        UpdateReport {
            loss: tally.loss,
            grad_norm: update.grad_norm,
            learning_rate: update.learning_rate,
            tokens: (!plan.completions.is_empty()).then(tokens),
            completion_tokens: plan.loss.objective.tokens,
            skipped: plan.skipped(),
            completions_zero_slope: tally.completions_zero_slope,
            packed_tokens: plan.batches.iter().map(|batch| batch.tokens).sum(),
            prompt_tokens_shared: plan.batches.iter().map(MicroBatch::prompt_tokens_shared).sum(),
            cuts: self.cuts(&plan.batches),
        }
    }

    fn cuts(&self, batches: &[MicroBatch]) -> CutReport {
        let chunks = self.config.gradients.streambp();
        let count = |tokens: Option<usize>| -> usize {
            let of = |batch: &MicroBatch, tokens| batch.packed.ids.len().div_ceil(tokens);
            tokens.map_or(batches.len(), |tokens| batches.iter().map(|batch| of(batch, tokens)).sum())
        };
        CutReport {
            micro_batches: batches.len(),
            micro_batch_tokens_max: batches.iter().map(|batch| batch.packed.ids.len()).max().unwrap_or(0),
            layer_chunks: count(chunks.map(|chunks| chunks.layer_chunk_tokens)),
            head_chunks: count(chunks.map(|chunks| chunks.head_chunk_tokens)),
        }
    }
}

/// The prompts of a step for an error: the first ones, and how many more there are.
fn prompt_names(completions: &[TrainedCompletion<'_>]) -> String {
    const NAMED_MAX: usize = 8;
    let mut names: Vec<&str> = completions.iter().map(|trained| trained.group.prompt.id.as_str()).collect();
    names.dedup();
    let more = names.len().saturating_sub(NAMED_MAX);
    names.truncate(NAMED_MAX);
    let named = names.join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

#[cfg(test)]
mod skip_tests;
#[cfg(test)]
mod tests;
