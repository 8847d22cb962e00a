//! What a run shows of itself: its header, and each step for a person.

use std::path::Path;

use anyhow::Result;
use kernels::Decoder;
use learner::StepReport;
use rollout::{CompletionRecord, CompletionUse, Group, QueueReport};

use super::{Run, due};
use crate::config::RunConfig;
use crate::records::step_metrics::nothing_learned;
use crate::records::writer::completion_markdown;
use crate::watch::progress::ProgressLine;

impl Run<'_> {
    /// The step for a person: its line, some of its completions, and all of them as JSON lines.
    pub(super) fn show(
        &mut self,
        groups: &[Group],
        report: &StepReport,
        (queue, seconds): (&QueueReport, f64),
    ) -> Result<()> {
        let step = report.version;
        let tokens = report.update.as_ref().map_or(0, |update| update.completion_tokens);
        let left = self.config.run.steps.saturating_sub(step);
        self.progress.step(&ProgressLine {
            step,
            steps: self.config.run.steps,
            reward: report.rewards.mean,
            accuracy: report.rewards.accuracy,
            mean_length: report.lengths.all.mean,
            entropy: report.update.as_ref().and_then(|update| update.tokens).map(|tokens| tokens.entropy),
            queue_groups: queue.groups,
            queue_groups_max: queue.groups_max,
            tokens_per_second: tokens as f64 / seconds,
            seconds_left: Some(
                self.start.elapsed().as_secs_f64() / (step - self.first_step) as f64 * left as f64,
            ),
            nothing: nothing_learned(report),
        });
        let every = self.config.metrics.completions_every_steps;
        if due(every, step) {
            let completions = groups.iter().filter_map(|group| group.completions.first());
            for (place, scored) in completions.take(self.config.metrics.completions_logged).enumerate() {
                let completion = &scored.completion;
                let (reward, tokens) = (scored.reward.total, completion.token_count());
                let body = completion_markdown(&completion.prompt.text, &completion.text, reward, tokens);
                self.metrics.text(step, &format!("completions/{place}"), &body);
            }
        }
        if self.config.metrics.rollouts {
            let scored = groups.iter().flat_map(|group| &group.completions).zip(&report.uses);
            let record = |(scored, used): (_, &CompletionUse)| CompletionRecord {
                used: Some(*used),
                ..CompletionRecord::of(scored)
            };
            self.folder.write_rollouts(step, scored.map(record))?;
        }
        Ok(())
    }
}

/// What the header of a run says.
pub(super) fn facts(config: &RunConfig, decoder: &Decoder, folder: &Path) -> Vec<(&'static str, String)> {
    let rollout = &config.rollout;
    vec![
        (
            "model",
            format!(
                "{}, {:.2} M parameters",
                config.model.path.display(),
                decoder.weights.count() as f64 / 1e6
            ),
        ),
        (
            "outputs",
            format!("up to {} tokens in {} segments", rollout.output_tokens_max, rollout.segments_max),
        ),
        ("step", format!("{} groups of {} completions", config.learner.groups_per_step, rollout.group_size)),
        ("run", folder.display().to_string()),
    ]
}
