//! What a step leaves behind: its metrics, its line on the terminal, its completions as JSON lines; and the
//! completions of a step that failed.

use std::path::Path;

use anyhow::Result;
use kernels::{Decoder, Engine};
use learner::StepReport;
use rollout::{ActorReport, CompletionRecord, Group, QueueReport};

use crate::cause::{one_line, with_consequence};
use crate::config::RunConfig;
use crate::model::adapters::{parameters, parameters_line};
use crate::model::memory::peak_bytes;
use crate::records::step_metrics::{StepMetrics, nothing_learned};
use crate::records::writer::completion_markdown;
use crate::run::train::{LastStep, Run, due};
use crate::watch::alarms::StepFacts;
use crate::watch::progress::ProgressLine;

impl<E: Engine> Run<'_, E> {
    /// Writes and shows the numbers of a step, with those of an evaluation where one is due.
    pub(super) fn record(
        &mut self,
        groups: &[Group],
        report: &StepReport,
        actors: &ActorReport,
    ) -> Result<()> {
        let step = report.version;
        let queue = self.queue.report();
        let now = LastStep {
            recorded: std::time::Instant::now(),
            actors: actors.clone(),
            trainer_waiting_s: queue.trainer_waiting_s,
        };
        let before = std::mem::replace(&mut self.history.last_step, now);
        let now = &self.history.last_step;
        let seconds = now.recorded.duration_since(before.recorded).as_secs_f64();
        let since = now.actors.since(&before.actors);
        let mut metrics = StepMetrics::default();
        metrics.add_step(report);
        if report.refill.is_some() {
            metrics.add("dynamic_sampling/rounds", self.history.refill_rounds.get() as f64);
        }
        metrics.add_actors(&since);
        metrics.add_queue(&queue, now.trainer_waiting_s - before.trainer_waiting_s);
        metrics.add("timing_s/step", seconds);
        metrics.add("timing_s/pack", self.history.packing_s);
        metrics.add_within_half_limit(&report.values.lengths, self.config.rollout.output_tokens_max);
        metrics.add("perf/tokens_per_second", since.tokens as f64 / seconds);
        let saved = std::mem::take(&mut self.history.saved);
        metrics.add("timing_s/checkpoint", saved.seconds);
        metrics.add("perf/checkpoint_bytes", saved.bytes as f64);
        if let Some(bytes) = peak_bytes() {
            metrics.add("perf/memory_peak_bytes", bytes as f64);
        }
        if step == 1 {
            let decoder = self.learner.decoder();
            metrics.add("training/parameters/trained", decoder.trained_count() as f64);
            metrics.add("training/parameters/total", parameters(decoder) as f64);
        }
        if self.rows_skipped > 0 {
            metrics.add("data/rows_skipped", self.rows_skipped as f64);
        }
        if let Some(prompts) = self.epoch_prompts {
            let newest = groups.iter().map(|group| group.prompt.index + 1).max().unwrap_or(0);
            metrics.add("data/epoch", newest as f64 / prompts as f64);
        }
        // The step is shown before an evaluation that follows it.
        let line = self.line(report, &queue, since.tokens as f64 / seconds);
        self.output.progress.step(&line);
        let facts = StepFacts::of(report, &queue, &self.config.learner);
        let (values, alarms) = self.history.alarms.look(&self.config.alarms, &facts);
        metrics.extend(values);
        let asked = self.evaluation_after(step);
        match asked {
            // There is one at a time.
            Some(_) => self.await_evaluation()?,
            None => self.collect_evaluation()?,
        }
        // One that a signal has stopped is followed by no other.
        let asked = asked.filter(|_| self.evaluations.is_idle());
        self.write(report, metrics, asked.is_some())?;
        self.keep_completions(groups, report)?;
        for alarm in alarms {
            tracing::warn!("step {step}: {alarm}");
        }
        asked.map_or(Ok(()), |asked| self.evaluate(asked))
    }

    /// Writes the numbers of a step; those of an evaluation come to them where its line waits.
    fn write(&mut self, report: &StepReport, metrics: StepMetrics, waits: bool) -> Result<()> {
        let values = &report.values;
        let histograms: [(&str, &[f64]); 4] = [
            ("histogram/lengths", &values.lengths),
            ("histogram/rewards", &values.rewards),
            ("histogram/advantages", &values.advantages),
            ("histogram/ratios", &values.ratios),
        ];
        let histograms = if self.config.metrics.histograms { &histograms[..] } else { &[] };
        let (step, values) = (report.version, metrics.into_values());
        match waits {
            true => self.output.metrics.record_waiting(step, &values, histograms),
            false => self.output.metrics.record(step, &values, histograms),
        }
    }

    /// Some of the step's completions for TensorBoard, and all of them as JSON lines.
    fn keep_completions(&mut self, groups: &[Group], report: &StepReport) -> Result<()> {
        let step = report.version;
        let section = &self.config.metrics;
        if due(section.completions_every_steps, step) {
            let completions = groups.iter().filter_map(|group| group.completions.first());
            for (place, scored) in completions.take(section.completions_logged).enumerate() {
                let completion = &scored.completion;
                let (reward, tokens) = (scored.reward.total, completion.token_count());
                let body = completion_markdown(&completion.prompt.text, &completion.text, reward, tokens);
                self.output.metrics.text(step, &format!("completions/{place}"), &body);
            }
        }
        if section.rollouts {
            let scored = groups.iter().flat_map(|group| &group.completions).zip(&report.completions);
            let records = scored.map(|(scored, learned)| CompletionRecord {
                used: Some(learned.used),
                advantage: Some(learned.advantage),
                learner_logprobs: learned.learner_logprobs.clone(),
                masked: learned.masked.clone(),
                ..CompletionRecord::of(scored)
            });
            self.output.folder.write_rollouts(step, records)?;
        }
        Ok(())
    }

    fn line(&self, report: &StepReport, queue: &QueueReport, tokens_per_second: f64) -> ProgressLine {
        let (step, steps) = (report.version, self.config.run.steps);
        let left = steps.saturating_sub(step);
        let made = step - self.history.first_step;
        ProgressLine {
            step,
            steps,
            reward: report.rewards.mean,
            accuracy: report.rewards.accuracy,
            mean_length: report.lengths.all.mean,
            entropy: report.update.as_ref().and_then(|update| update.tokens).map(|tokens| tokens.entropy),
            queue_groups: queue.groups,
            queue_groups_max: queue.groups_max,
            tokens_per_second,
            seconds_left: Some(self.history.started.elapsed().as_secs_f64() / made as f64 * left as f64),
            nothing: nothing_learned(report),
        }
    }

    /// Writes the groups that a step failed on, for `longhaul replay`, and says in the error where they are.
    pub(super) fn save_failed_batch(&self, groups: &[Group], error: anyhow::Error) -> anyhow::Error {
        let step = self.learner.version() + 1;
        let scored = groups.iter().flat_map(|group| &group.completions);
        match self.output.folder.write_failed(step, scored.map(CompletionRecord::of)) {
            Ok(path) => error.context(format!("step {step} failed on the completions in {}", path.display())),
            Err(other) => {
                let lost = format!("step {step} failed, and its completions are lost: {}", one_line(&other));
                with_consequence(error, lost)
            }
        }
    }
}

/// What the header of a run says.
pub(super) fn facts(config: &RunConfig, decoder: &Decoder, folder: &Path) -> Vec<(&'static str, String)> {
    let rollout = &config.rollout;
    let model = format!("{}, {}", config.model.path.display(), parameters_line(decoder));
    let outputs = format!("up to {} tokens in {} segments", rollout.output_tokens_max, rollout.segments_max);
    let step = format!("{} groups of {} completions", config.learner.groups_per_step, rollout.group_size);
    vec![("model", model), ("outputs", outputs), ("step", step), ("run", folder.display().to_string())]
}
