//! Reinforcement learning: one optimizer step from scored groups. Everything that can be wrong with the groups, the loss
//! or the gradients is found before a weight changes.

use std::sync::Arc;
use std::time::Instant;

use kernels::{Decoder, GradientSums, TrainingEngine};
use trajectory::Group;

use super::plan::{PlannedStep, StepPlan, StepTotals, units_of};
use super::{Objective, Passes, StepLoss, Trainer};
use crate::advantage::{self, GroupOutcome, GroupRole, GroupStanding};
use crate::advantage_batch::{AdvantageBatch, TrainedCompletion, check_groups, outcomes};
use crate::batch::MicroBatch;
use crate::config::{LearnerConfig, MptScope, Settings, check_trained};
use crate::error::LearnerError;
use crate::loss::{self, CompletionStats, KlPenalty, Loss, Mask, MptRule, RegularisedLoss, TokenLoss};
use crate::optimizer::OptimizerConfig;
use crate::ranks::{agree, numbers_of_standings, standings_of_numbers, sum_gradients};
use crate::refill::further_groups;
use crate::report::{CutReport, SkippedReport, StepReport, StepSeconds, TokenReport, UpdateReport};
use crate::step_stats::{LearnedTokens, StepMeasure, StepStats};
use crate::train_state::{TrainState, Update};

/// The policy gradient of the configuration's method.
#[derive(Debug)]
pub struct PolicyGradient {
    pub(crate) config: LearnerConfig,
    /// The policy's loss; the mask and the penalty of the configuration are laid over it.
    pub(super) loss: Arc<dyn Loss>,
    /// The factors of the rewards by name, where the advantages of each are combined.
    reward_weights: Vec<(String, f64)>,
}

impl Objective for PolicyGradient {
    fn settings(&self) -> Settings {
        Settings::Learner(self.config.clone())
    }
}

impl Trainer {
    /// A trainer at version 0.
    ///
    /// `temperature` is the one that completions are drawn at; 0, greedy, counts as 1, as it does for the
    /// log-probabilities that actors store. `reference` is the frozen model of the penalty; where it is absent and adapters are
    /// trained, it is the model without them.
    ///
    /// # Errors
    /// [`LearnerError::Config`] for an invalid value, or a reference that is missing or does not fit.
    pub fn new(
        engine: Arc<dyn TrainingEngine>,
        decoder: Decoder,
        config: LearnerConfig,
        optimizer: OptimizerConfig,
        temperature: f64,
        steps_total: u64,
        reference: Option<Decoder>,
    ) -> Result<Self, LearnerError> {
        config.check()?;
        check_trained("learner.lora", config.lora.as_ref(), &decoder)?;
        if !temperature.is_finite() || temperature < 0.0 {
            let reason = format!("{temperature} is not a temperature of at least 0");
            return Err(LearnerError::config("rollout.temperature", reason));
        }
        // A model whose adapters are trained is its own reference without them.
        let reference = reference.or_else(|| decoder.lora.is_some().then(|| decoder.frozen()));
        let reference = reference.filter(|_| config.kl.enabled);
        if config.kl.enabled {
            let vocabulary = reference.as_ref().map_or(0, |reference| reference.config.vocabulary);
            config.kl.check_vocabulary(vocabulary, decoder.config.vocabulary)?;
        }
        let temperature = if temperature == 0.0 { 1.0 } else { temperature };
        let key = "learner.gradients.layer_inputs_dir";
        let operations = engine.operations();
        let gradients = config.gradients.clone();
        let mut passes = Passes::new(engine, config.batch_tokens_max, gradients, key, temperature, true);
        passes.reference = reference;
        let loss = loss::of_config(&config).into();
        Ok(Self {
            state: TrainState::new(decoder, optimizer, steps_total, operations)?,
            objective: PolicyGradient { config, loss, reward_weights: Vec::new() },
            passes,
        })
    }

    /// Tells the rewards by name and weight, which `combine = "advantage"` needs to know.
    #[must_use]
    pub fn with_reward_weights(mut self, weights: Vec<(String, f64)>) -> Self {
        if self.objective.config.advantage.combines_advantages() {
            self.objective.reward_weights = weights;
        }
        self
    }

    /// Trains by another loss of the policy in the place of the configuration's. The mask and the penalty of the
    /// configuration stay.
    #[must_use]
    pub fn with_loss(mut self, loss: Arc<dyn Loss>) -> Self {
        self.objective.loss = loss;
        self
    }

    /// How many further groups a step wants that has these ([`further_groups`]).
    #[must_use]
    pub fn further_groups(&self, groups: &[Group]) -> usize {
        further_groups(&self.objective.config, &self.objective.reward_weights, groups)
    }

    /// One optimizer step. The version rises by one, also where every group was dropped, so that a run
    /// comes to its end.
    ///
    /// # Errors
    /// [`LearnerError`] for groups that cannot be trained on, for a loss or gradient that is not finite, and for what
    /// other ranks found; weights and version are then as before.
    ///
    /// # Panics
    /// Where there is no group and this is the only rank.
    pub fn step(&mut self, groups: &[Group]) -> Result<StepReport, LearnerError> {
        assert!(!groups.is_empty() || self.passes.collective.ranks() > 1, "a step needs a group");
        let start = Instant::now();
        let version = self.version();
        let ranked = self.ranked(groups)?;
        let (PlannedStep { batch, plan }, totals) = self.totals(self.planned(groups, ranked))?;
        let mut seconds = StepSeconds::default();
        let mut values = batch.values();
        let mut completions = batch.completion_reports(&self.objective.regularised(None));
        let mut update = None;
        if totals.completions > 0 {
            let trained = self.train(&plan, &totals, &mut seconds)?;
            values.ratios = trained.ratios;
            for LearnedTokens { completion, learner_logprobs, masked } in trained.learned {
                let report = &mut completions[completion];
                (report.learner_logprobs, report.masked) = (learner_logprobs, masked);
            }
            update = Some(trained.report);
        }
        self.state.version += 1;
        seconds.total = start.elapsed().as_secs_f64();
        let config = &self.objective.config;
        Ok(StepReport {
            version: self.version(),
            groups: groups.len(),
            rewards: batch.reward_report(),
            lengths: batch.length_report(),
            off_policy: batch.off_policy_report(version),
            grpo_lambda: batch.grpo_lambda_report(&config.advantage),
            dead: batch.dead_groups(),
            dropped_groups: batch.dropped_groups(),
            refill: batch.refill_report(config.groups_per_step),
            completions,
            update,
            seconds,
            values,
        })
    }

    /// Checks the groups, and ranks them among the groups of all ranks.
    fn ranked(&self, groups: &[Group]) -> Result<Ranked, LearnerError> {
        let PolicyGradient { config, reward_weights, .. } = &self.objective;
        let combines = config.advantage.combines_advantages();
        assert!(!combines || !reward_weights.is_empty(), "rewards are combined whose weights are not known");
        let (step, vocabulary) = (self.version(), self.decoder().config.vocabulary);
        let outcomes =
            check_groups(step, groups, vocabulary).and_then(|()| outcomes(step, groups, reward_weights));
        let collective = &*self.passes.collective;
        let agreed = agree(collective, step, outcomes, |outcomes| numbers_of_standings(outcomes))?;
        let standings: Vec<Vec<GroupStanding>> =
            agreed.rows.iter().map(|row| standings_of_numbers(row)).collect();
        let first: usize = standings[..collective.rank()].iter().map(Vec::len).sum();
        let roles = advantage::roles(&config.advantage, &standings.concat());
        let roles = roles[first..first + groups.len()].to_vec();
        Ok(Ranked { roles, outcomes: agreed.own })
    }

    /// Advantages of the ranked groups, and what is done with their completions.
    fn planned<'a>(&self, groups: &'a [Group], ranked: Ranked) -> Result<PlannedStep<'a>, LearnerError> {
        let (step, config) = (self.version(), &self.objective.config);
        let batch = AdvantageBatch::in_roles(step, groups, ranked.outcomes, config, &ranked.roles)?;
        let positive = config.mpt.enabled.then_some(config.mpt.positive);
        let plan = self.plan(batch.trained(step, positive)?);
        Ok(PlannedStep { batch, plan })
    }

    /// Gradients of the whole step, then the update.
    pub(super) fn train(
        &mut self,
        plan: &StepPlan<'_>,
        totals: &StepTotals,
        seconds: &mut StepSeconds,
    ) -> Result<Trained, LearnerError> {
        let mask = self.mask(plan, totals, seconds)?;
        let measure = StepMeasure {
            step: self.version(),
            share: totals.share(self.objective.loss.denominator()),
            tokens: totals.tokens,
            tis_cap: self.objective.config.mismatch.and_then(|mismatch| mismatch.cap()),
            mask,
        };
        if totals.batches == 0 {
            let start = Instant::now();
            // Moments and decay go on as under any gradient of 0.
            let update = self.state.update_without_gradient();
            seconds.optimizer = start.elapsed().as_secs_f64();
            return Ok(self.report_of(plan, totals, StepStats::new(measure), update));
        }
        let mut gradients = self.state.gradients();
        let collective = Arc::clone(&self.passes.collective);
        let stats = self.accumulate(plan, measure, &mut gradients, seconds);
        let stats = agree(&*collective, measure.step, stats, StepStats::numbers)?;
        let start = Instant::now();
        sum_gradients(&*collective, measure.step, &mut gradients)?;
        let update = self.state.update(gradients, || prompt_names(&plan.completions))?;
        seconds.optimizer = start.elapsed().as_secs_f64();
        Ok(self.report_of(plan, totals, stats.own.of_ranks(&stats.rows), update))
    }

    /// Adds the gradients of this rank's micro-batches, and gives the statistics of their tokens.
    fn accumulate(
        &self,
        plan: &StepPlan<'_>,
        measure: StepMeasure,
        gradients: &mut GradientSums,
        seconds: &mut StepSeconds,
    ) -> Result<StepStats, LearnerError> {
        let regularised = self.objective.regularised(measure.mask);
        let loss = StepLoss { loss: &regularised, share: measure.share };
        let mut stats = StepStats::new(measure);
        for batch in &plan.batches {
            self.passes.begin_micro_batch();
            let start = Instant::now();
            let reference = self.reference_stats(batch);
            seconds.statistics += start.elapsed().as_secs_f64();
            let start = Instant::now();
            let mut observe = |unit: usize, seen: &[CompletionStats<'_>], losses: &[TokenLoss]| {
                stats.add_completion(&plan.completions[unit], &seen[0], losses)
            };
            self.add_gradients(batch, &plan.units, loss, reference.as_ref(), gradients, &mut observe)?;
            seconds.gradients += start.elapsed().as_secs_f64();
        }
        Ok(stats)
    }

    fn report_of(
        &self,
        plan: &StepPlan<'_>,
        totals: &StepTotals,
        stats: StepStats,
        update: Update,
    ) -> Trained {
        let config = &self.objective.config;
        let tokens = || TokenReport {
            entropy: stats.entropy_mean(),
            kl: self.passes.reference.as_ref().map(|_| stats.kl_mean()),
            clip: stats.clip(),
            ratio: stats.ratio(),
            mismatch_kl: stats.mismatch_mean(),
            tis: config.mismatch.and_then(|mismatch| mismatch.cap()).map(|_| stats.tis()),
            mpt: config.mpt.enabled.then(|| stats.mpt()),
        };
        let report = UpdateReport {
            loss: stats.loss,
            grad_norm: update.grad_norm,
            learning_rate: update.learning_rate,
            tokens: (totals.batches > 0).then(tokens),
            completion_tokens: totals.tokens,
            skipped: totals.skipped,
            completions_zero_slope: stats.completions_zero_slope,
            packed_tokens: plan.batches.iter().map(|batch| batch.tokens).sum(),
            prompt_tokens_shared: plan.batches.iter().map(MicroBatch::prompt_tokens_shared).sum(),
            cuts: self.cuts(&plan.batches),
        };
        Trained { report, ratios: stats.ratios, learned: stats.learned }
    }

    fn cuts(&self, batches: &[MicroBatch]) -> CutReport {
        let chunks = self.passes.gradients.streambp();
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

/// This rank's groups, and their place among those of all ranks.
struct Ranked {
    outcomes: Vec<GroupOutcome>,
    roles: Vec<GroupRole>,
}

/// What an update came to, with the ratios for its histogram and what was seen of each token.
pub(super) struct Trained {
    pub(super) report: UpdateReport,
    ratios: Vec<f64>,
    learned: Vec<LearnedTokens>,
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
