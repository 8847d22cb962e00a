//! The prompts of a run with the rewards that judge the answers to them, all rows read before the first step.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use kernels::DecoderConfig;
use rewards::{RewardContext, Split, Task, TruncatedReward, Verifier, WeightedSum};
use rollout::{DataConfig, Needs, PromptSource, RolloutError, Survey, Text};

use crate::config::{EvalSection, Evaluation, OUTPUT_TOKENS_KEY, RunConfig};
use crate::model::ModelFiles;

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
/// Names the reward whose settings are invalid.
pub fn weighted_sum(
    configs: &[rewards::RewardConfig],
    data: Option<&DataConfig>,
    truncated: TruncatedReward,
    custom: CustomVerifiers<'_>,
) -> Result<WeightedSum> {
    let task = match data {
        Some(DataConfig::Task(config)) => Some(Task::new(config.clone()).context("data")?),
        Some(DataConfig::File(_)) | None => None,
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
        let truncated = config.rollout.truncated_reward;
        let rewards = weighted_sum(&config.rewards, Some(&config.data), truncated, custom)?;
        let tokens_max = config.rollout.output_tokens_max;
        let prompt_tokens_max = Some(prompt_tokens_max(&model.decoder, tokens_max, OUTPUT_TOKENS_KEY)?);
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
        let rewards = weighted_sum(&config.rewards, Some(&config.data), TruncatedReward::Zero, custom)?;
        let (tokens_max, key) = (config.output_tokens_max, config.output_tokens_key);
        let prompt_tokens_max = Some(prompt_tokens_max(decoder, tokens_max, key)?);
        let needs = Needs { prompt_tokens_max, rewards: Some(&rewards), demonstrations: None };
        let (source, survey) =
            PromptSource::open(&config.data, Split::HeldOut, config.eval.seed, Arc::clone(text), &needs)?;
        Ok(Self { source, rewards, survey })
    }
}

/// What was found in the data of a run.
pub(crate) struct Surveys {
    training: Survey,
    held_out: Vec<Survey>,
    same_file: Option<String>,
}

impl Surveys {
    pub(crate) fn of(config: &RunConfig, training: &JudgedPrompts, held_out: &[JudgedPrompts]) -> Self {
        let held_out = held_out.iter().map(|prompts| prompts.survey.clone()).collect();
        let same_file = same_file(&config.data, &config.eval);
        Self { training: training.survey.clone(), held_out, same_file }
    }

    /// Says it, once the run has a log.
    pub(crate) fn tell(&self) {
        self.same_file.iter().for_each(|note| tracing::warn!("{note}"));
        tell(&self.training);
        self.held_out.iter().for_each(tell);
    }

    /// Rows that are left out of training. Those that are left out of the held-out prompts are an evaluation's.
    pub(crate) fn training_rows_skipped(&self) -> usize {
        self.training.rows_skipped()
    }
}

/// Says that held-out prompts are those that are trained on, if they are.
pub(crate) fn same_file(data: &DataConfig, eval: &EvalSection) -> Option<String> {
    let canonical = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (training, held_out) = (data.files(), eval.files());
    let is_trained_on = |file: &&&Path| training.iter().any(|path| canonical(path) == canonical(file));
    let same = held_out.iter().find(is_trained_on)?;
    let key = if eval.sets.is_empty() { "eval.data is" } else { "a set of [[eval.sets]] has" };
    Some(format!(
        "{key} the file of data.path, {}: the evaluation measures the prompts that are trained on; give it a file of \
         other prompts",
        same.display()
    ))
}

/// Says once in the log what of the data is not used as it stands.
pub(crate) fn tell(survey: &Survey) {
    for note in &survey.notes {
        tracing::warn!("{}: {note}", survey.source);
    }
    if survey.last_assistant > 0 {
        let (count, source) = (survey.last_assistant, &survey.source);
        tracing::info!("{source}: {count} prompts had a last turn of the assistant; see data.last_assistant");
    }
    if survey.thought_answers > 0 {
        let (count, source) = (survey.thought_answers, &survey.source);
        tracing::info!(
            "{source}: {count} reference answers have thoughts before them, which are not compared with"
        );
    }
    for (count, reason) in survey.left_out.counts() {
        tracing::info!("{}: {count} rows are left out: {reason}", survey.source);
    }
    for (file, prompts) in &survey.files {
        tracing::info!("{file}: {prompts} prompts");
    }
    let Some(skipped) = &survey.skipped else { return };
    for line in skipped.named() {
        tracing::warn!("left out: {line}");
    }
    // The terminal has the reasons; the log has each row.
    for row in &skipped.bad {
        tracing::debug!("left out: {row}");
    }
    let (count, rows) = (skipped.bad.len(), skipped.rows);
    tracing::warn!("{}: {count} of {rows} rows are left out ({})", survey.source, skipped.counts());
}

/// How long a prompt may be so that the longest output still has positions in the model. `key` is where the length of
/// outputs is set.
///
/// # Errors
/// If the output alone has none.
pub fn prompt_tokens_max(
    decoder: &DecoderConfig,
    output_tokens_max: usize,
    key: &'static str,
) -> Result<usize, RolloutError> {
    let positions = decoder.max_positions;
    if output_tokens_max >= positions {
        let reason = format!(
            "outputs of {output_tokens_max} tokens, but the model has {positions} positions for prompt and output; \
             lower it, or raise model.positions_max if the model can go further"
        );
        return Err(RolloutError::Config { key, reason });
    }
    Ok(positions - output_tokens_max)
}
