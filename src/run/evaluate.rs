//! Held-out prompts answered and judged: during training, after it, and by `longhaul eval`.

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kernels::sampling::SamplingConfig;
use kernels::{Decoder, DecoderConfig, Device};
use learner::report::StoppedBy;
use rewards::{RewardConfig, RewardContext, RewardKind, Split, Task, TruncatedReward, Verifier, WeightedSum};
use rollout::{
    DataConfig, Ends, EvaluationPlan, Group, MinTokens, Needs, OutputLimits, Prompt, PromptSource, Pulse,
    Scorer, Survey, Text, Versioned, evaluate,
};
use serde::{Deserialize, Serialize};

use crate::config::{Evaluation, RunConfig};
use crate::model::ModelFiles;
use crate::model::generator::DecoderGenerator;
use crate::model::policy::Policy;

/// Makes the verifiers that a program adds to those of the crate, by the name under which `[[rewards]]` with
/// `kind = "custom"` asks for them. Called once for training and once for evaluation.
pub type CustomVerifiers<'a> = &'a dyn Fn() -> BTreeMap<String, Box<dyn Verifier>>;

/// No verifiers beside the crate's own.
pub fn no_custom_verifiers() -> BTreeMap<String, Box<dyn Verifier>> {
    BTreeMap::new()
}

/// Name and weight of each reward.
pub fn reward_weights(configs: &[rewards::RewardConfig]) -> Vec<(String, f64)> {
    configs.iter().map(|config| (config.name.clone(), config.weight)).collect()
}

/// The rewards of a config, ready to score.
///
/// # Errors
/// Names the reward whose settings cannot be meant.
pub fn weighted_sum(
    configs: &[rewards::RewardConfig],
    data: Option<&DataConfig>,
    truncated: TruncatedReward,
    custom: CustomVerifiers<'_>,
) -> Result<WeightedSum> {
    let task = match data {
        Some(DataConfig::Task(config)) => Some(Task::new(config.clone()).context("data")?),
        Some(DataConfig::Jsonl(_)) | None => None,
    };
    Ok(WeightedSum::from_configs(configs, RewardContext { task, custom: custom(), truncated })?)
}

/// Prompts and the rewards that judge the answers to them, all looked at.
pub(crate) struct JudgedPrompts {
    pub(crate) source: PromptSource,
    pub(crate) rewards: WeightedSum,
    pub(crate) survey: Survey,
}

impl JudgedPrompts {
    /// Those that a run trains on.
    pub(crate) fn of_training(
        config: &RunConfig,
        model: &ModelFiles,
        custom: CustomVerifiers<'_>,
    ) -> Result<Self> {
        find_programs(&config.rewards)?;
        let truncated = config.rollout.truncated_reward;
        let rewards = weighted_sum(&config.rewards, Some(&config.data), truncated, custom)?;
        let prompt_tokens_max = Some(prompt_tokens_max(&model.decoder, config.rollout.output_tokens_max)?);
        let needs = Needs { prompt_tokens_max, rewards: Some(&rewards), demonstrations: None };
        let text = Arc::clone(&model.text);
        let (source, survey) = PromptSource::open(&config.data, Split::Train, config.run.seed, text, &needs)?;
        Ok(Self { source, rewards, survey })
    }

    /// Those that are held out.
    pub(crate) fn held_out(
        config: &Evaluation,
        text: &Arc<Text>,
        decoder: &DecoderConfig,
        custom: CustomVerifiers<'_>,
    ) -> Result<Self> {
        find_programs(&config.rewards)?;
        let rewards = weighted_sum(&config.rewards, Some(&config.data), TruncatedReward::Zero, custom)?;
        let prompt_tokens_max = Some(prompt_tokens_max(decoder, config.output_tokens_max)?);
        let needs = Needs { prompt_tokens_max, rewards: Some(&rewards), demonstrations: None };
        let (source, survey) =
            PromptSource::open(&config.data, Split::HeldOut, config.eval.seed, Arc::clone(text), &needs)?;
        Ok(Self { source, rewards, survey })
    }
}

/// What was found in the data of a run.
pub(crate) struct Surveys(Vec<Survey>);

impl Surveys {
    pub(crate) fn of(training: &JudgedPrompts, held_out: Option<&JudgedPrompts>) -> Self {
        Self(std::iter::once(training).chain(held_out).map(|prompts| prompts.survey.clone()).collect())
    }

    /// Says it, once the run has a log.
    pub(crate) fn tell(&self) {
        self.0.iter().for_each(tell);
    }

    /// Rows that are left out of training and evaluation.
    pub(crate) fn rows_skipped(&self) -> usize {
        self.0.iter().map(Survey::rows_skipped).sum()
    }
}

/// Says once in the log what of the data is not used as it stands.
pub(crate) fn tell(survey: &Survey) {
    if survey.last_assistant > 0 {
        let (count, source) = (survey.last_assistant, &survey.source);
        tracing::info!("{source}: {count} prompts had a last turn of the assistant; see data.last_assistant");
    }
    let Some(skipped) = &survey.skipped else { return };
    for line in skipped.named() {
        tracing::warn!("left out: {line}");
    }
    // The terminal has seen enough; the log has each of them.
    for row in skipped.bad.iter().skip(rollout::BAD_ROWS_NAMED) {
        tracing::debug!("left out: {row}");
    }
    let (count, rows) = (skipped.bad.len(), skipped.rows);
    tracing::warn!("{}: {count} of {rows} rows are left out ({})", survey.source, skipped.counts());
}

/// Refuses the command of a plugin that is no program.
fn find_programs(rewards: &[RewardConfig]) -> Result<()> {
    for reward in rewards {
        let RewardKind::Process(process) = &reward.kind else { continue };
        let Some(program) = process.command.first() else { continue };
        let is_there = match program.contains('/') {
            true => Path::new(program).is_file(),
            false => env::var_os("PATH")
                .is_some_and(|paths| env::split_paths(&paths).any(|path| path.join(program).is_file())),
        };
        if !is_there {
            bail!("reward `{}`: command: there is no program {program}", reward.name);
        }
    }
    Ok(())
}

/// What an evaluation found. Lengths are in tokens.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct EvalReport {
    /// Held-out prompts.
    pub problems: usize,
    /// Answers to each prompt, the k of pass@k.
    pub completions_per_problem: usize,
    /// Fraction of right answers; absent where no reward says what is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Fraction of prompts with at least one right answer among theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass_at_k: Option<f64>,
    /// Mean reward of an answer.
    pub reward: f64,
    /// Mean length.
    pub mean_length: f64,
    /// Mean length of the right answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correct_length: Option<f64>,
    /// Length of the longest answer.
    pub max_length: usize,
    /// Fraction of answers that the output limit cut off.
    pub clipped_ratio: f64,
    /// What ended the others, as fractions of all answers.
    #[serde(default)]
    pub stopped_by: StoppedBy,
    /// Tokens drawn a second.
    pub tokens_per_second: f64,
    /// The whole evaluation, in seconds.
    pub seconds: f64,
}

impl EvalReport {
    fn of(groups: &[Group], seconds: f64) -> Self {
        let completions: Vec<_> = groups.iter().flat_map(|group| &group.completions).collect();
        let count = completions.len() as f64;
        let lengths: Vec<usize> = completions.iter().map(|scored| scored.completion.token_count()).collect();
        let correct = |scored: &&rollout::ScoredCompletion| scored.reward.correctness == Some(1);
        let judged = completions.iter().any(|scored| scored.reward.correctness.is_some());
        let right: Vec<f64> = completions
            .iter()
            .filter(|scored| correct(scored))
            .map(|scored| scored.completion.token_count() as f64)
            .collect();
        let solved = groups.iter().filter(|group| group.completions.iter().any(|scored| correct(&scored)));
        let tokens: usize = lengths.iter().sum();
        Self {
            problems: groups.len(),
            completions_per_problem: completions.len() / groups.len().max(1),
            accuracy: judged.then(|| right.len() as f64 / count),
            pass_at_k: judged.then(|| solved.count() as f64 / groups.len() as f64),
            reward: completions.iter().map(|scored| scored.reward.total).sum::<f64>() / count,
            mean_length: tokens as f64 / count,
            correct_length: (!right.is_empty()).then(|| right.iter().sum::<f64>() / right.len() as f64),
            max_length: lengths.iter().copied().max().unwrap_or(0),
            clipped_ratio: completions.iter().filter(|scored| scored.completion.truncated()).count() as f64
                / count,
            stopped_by: StoppedBy::of(completions.iter().map(|scored| scored.completion.finish)),
            tokens_per_second: tokens as f64 / seconds,
            seconds,
        }
    }

    /// The report as metrics under `eval/`.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let tag = |name: &str| format!("eval/{name}");
        let mut metrics = vec![
            (tag("reward"), self.reward),
            (tag("mean_length"), self.mean_length),
            (tag("max_length"), self.max_length as f64),
            (tag("clipped_ratio"), self.clipped_ratio),
            (tag("stopped_by/eos"), self.stopped_by.eos),
            (tag("stopped_by/stop_string"), self.stopped_by.stop_string),
            (tag("stopped_by/stop_token_id"), self.stopped_by.stop_token_id),
            ("timing_s/eval".to_owned(), self.seconds),
            ("perf/eval_tokens_per_second".to_owned(), self.tokens_per_second),
        ];
        let named = [
            ("accuracy", self.accuracy),
            ("pass_at_k", self.pass_at_k),
            ("correct_length", self.correct_length),
        ];
        metrics.extend(named.into_iter().filter_map(|(name, value)| Some((tag(name), value?))));
        metrics
    }

    /// One line for a person.
    pub fn line(&self) -> String {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let mut parts = vec![format!("{} problems", self.problems)];
        parts.extend(self.accuracy.map(|share| format!("accuracy {}", percent(share))));
        if self.completions_per_problem > 1 {
            let k = self.completions_per_problem;
            parts.extend(self.pass_at_k.map(|share| format!("pass@{k} {}", percent(share))));
        }
        parts.push(format!("reward {:.3}", self.reward));
        parts.push(format!("mean length {:.1}", self.mean_length));
        parts.extend(self.correct_length.map(|length| format!("of right answers {length:.1}")));
        parts.push(format!("cut off {}", percent(self.clipped_ratio)));
        parts.push(format!("{:.1} s", self.seconds));
        parts.join(", ")
    }
}

/// The held-out prompts of a config and what answers and judges them.
pub struct Evaluator {
    prompts: Vec<Arc<Prompt>>,
    plan: EvaluationPlan,
    scorer: Scorer,
    shape: DecoderConfig,
    device: Device,
    /// Slots, and positions that a context needs at most.
    room: (usize, usize),
    sampling: SamplingConfig,
    min_tokens: Option<MinTokens>,
    pulse: Pulse,
}

impl Evaluator {
    /// Reads the held-out prompts: all of a file if it has fewer than `eval.problems`.
    ///
    /// # Errors
    /// Names the file and line, or the reward, that is wrong.
    pub fn new(
        config: &Evaluation,
        text: &Arc<Text>,
        decoder: &Decoder,
        custom: CustomVerifiers<'_>,
    ) -> Result<Self> {
        let held_out = JudgedPrompts::held_out(config, text, &decoder.config, custom)?;
        tell(&held_out.survey);
        Self::of(config, held_out, text, decoder)
    }

    /// An evaluation on prompts that were looked at before.
    pub(crate) fn of(
        config: &Evaluation,
        held_out: JudgedPrompts,
        text: &Arc<Text>,
        decoder: &Decoder,
    ) -> Result<Self> {
        let (eval, output_tokens_max) = (&config.eval, config.output_tokens_max);
        let JudgedPrompts { source, rewards, .. } = held_out;
        let count =
            source.epoch_prompts().map_or(eval.problems as u64, |rows| rows.min(eval.problems as u64));
        let prompts =
            (0..count).map(|index| Ok(Arc::new(source.prompt(index)?))).collect::<Result<Vec<_>>>()?;
        let sampling = SamplingConfig { temperature: eval.temperature, top_p: eval.top_p, top_k: eval.top_k };
        let ends = Ends::new(Arc::clone(text), config.stops.clone(), decoder.config.vocabulary)?;
        let min_tokens = ends.min_tokens();
        let longest = prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(1);
        let slots = eval.trajectories_open_max;
        let positions = longest + output_tokens_max;
        Ok(Self {
            prompts,
            plan: EvaluationPlan {
                limits: OutputLimits { segment_tokens_max: output_tokens_max, output_tokens_max },
                group_size: eval.pass_k,
                seed: eval.seed,
            },
            scorer: Scorer::new(Arc::clone(text), rewards).with_ends(ends),
            shape: decoder.config.clone(),
            device: decoder.device(),
            room: (slots, positions),
            sampling,
            min_tokens,
            pulse: Pulse::default(),
        })
    }

    /// Tells a watchdog of every decode step.
    #[must_use]
    pub fn watched_by(self, pulse: Pulse) -> Self {
        Self { pulse, ..self }
    }

    /// Answers and judges all prompts with these weights, at the precision that they are packed at.
    ///
    /// # Errors
    /// If decoding or a verifier fails.
    pub fn run(&mut self, policy: Arc<Policy>, version: u64) -> Result<EvalReport> {
        let start = Instant::now();
        let weights = Versioned { version, weights: policy };
        let judged = (&self.scorer, &self.pulse);
        // The caches last as long as this evaluation.
        let mut generator = DecoderGenerator::new(&self.shape, &self.device, self.room, self.sampling)
            .with_min_tokens(self.min_tokens.clone());
        let groups = evaluate(&mut generator, &weights, &self.prompts, &self.plan, judged)?;
        Ok(EvalReport::of(&groups, start.elapsed().as_secs_f64()))
    }
}

/// How long a prompt may be so that the longest output still has positions in the model.
///
/// # Errors
/// If the output alone has none.
pub fn prompt_tokens_max(decoder: &DecoderConfig, output_tokens_max: usize) -> Result<usize> {
    let positions = decoder.max_positions;
    if output_tokens_max >= positions {
        bail!(
            "rollout.output_tokens_max = {output_tokens_max}, but the model has {positions} positions for prompt and \
             output; lower it, or raise model.positions_max if the model can go further"
        );
    }
    Ok(positions - output_tokens_max)
}
