//! The evaluations of a training run: before its first step, on the way, and after its last.
//!
//! Each runs on a thread of its own, with slots of its own and the weights of the step that it is named for, which it shares
//! with the actors. The learner goes on meanwhile (`eval.beside`), or waits for it; what is found is the same, because an
//! answer depends on the weights, the prompt and the seed alone. The metrics of the step wait for it in the writer.

use std::sync::Arc;

use anyhow::Result;
use kernels::{Engine, Precision};
use rollout::Versioned;

use crate::cause::one_line;
use crate::model::policy::Policy;
use crate::records::answers::{Answers, write_in};
use crate::run::comparison::Comparison;
use crate::run::eval_report::EvaluatedAt;
use crate::run::evaluations::Asked;
use crate::run::evaluator::Evaluated;
use crate::run::train::{Run, due};

impl<E: Engine> Run<'_, E> {
    /// The evaluation of the weights that the run begins with.
    pub(super) fn evaluate_before(&mut self) -> Result<()> {
        if !self.config.eval.before || self.evaluations.are_none() {
            return Ok(());
        }
        self.output.metrics.record_waiting::<&str>(0, &[], &[])?;
        self.evaluate(Asked { step: 0, at: EvaluatedAt::Before })
    }

    /// The evaluation that follows a step, if one does: on the way, or after the last step.
    pub(super) fn evaluation_after(&self, step: u64) -> Option<Asked> {
        let (eval, last) = (&self.config.eval, self.config.run.steps);
        if self.evaluations.are_none() {
            return None;
        }
        if step == last && eval.after {
            return Some(Asked { step, at: EvaluatedAt::After });
        }
        (due(eval.every_steps, step) && step < last).then_some(Asked { step, at: EvaluatedAt::Between })
    }

    /// Begins an evaluation of the newest weights, for whose numbers the line of the step waits. What follows the last step
    /// has nothing beside it.
    pub(super) fn evaluate(&mut self, asked: Asked) -> Result<()> {
        let what = asked.at.what();
        let Versioned { version, weights } = self.weights.latest();
        assert_eq!(version, asked.step, "an evaluation measures the weights of its step");
        // What the actors have packed is measured with, unless it is rounded.
        let policy = match weights.precision() {
            Precision::F32 => weights,
            _ => Arc::new(Policy::new(&*self.engine, self.learner.decoder(), Precision::F32)?),
        };
        self.evaluations.start(asked, policy)?;
        if asked.at == EvaluatedAt::After || !self.config.evaluates_beside() {
            self.output.progress.doing(what);
            self.await_evaluation()?;
        }
        Ok(())
    }

    /// Makes the evaluation again that was not finished when the checkpoint was written, of the same weights.
    pub(super) fn evaluate_again(&mut self, at: Option<EvaluatedAt>) -> Result<()> {
        let step = self.learner.version();
        let waits = self.output.metrics.waiting();
        match at.filter(|_| waits == Some(step) && !self.evaluations.are_none()) {
            Some(at) => self.evaluate(Asked { step, at }),
            None => {
                if let Some(step) = waits {
                    tracing::warn!("the evaluation of step {step} was not finished and is lost");
                }
                self.output.metrics.release()
            }
        }
    }

    /// Takes what an evaluation has found, if it is done.
    pub(super) fn collect_evaluation(&mut self) -> Result<()> {
        if self.evaluations.is_done() { self.await_evaluation() } else { Ok(()) }
    }

    /// Waits for the evaluation that is under way, if one is, and completes the line of its step.
    pub(super) fn await_evaluation(&mut self) -> Result<()> {
        if let Some(asked) = self.evaluations.unfinished() {
            self.heartbeat.waits(&format!("for the evaluation of step {}", asked.step));
        }
        let Some((asked, found)) = self.evaluations.finish()? else { return Ok(()) };
        let Asked { step, at } = asked;
        let metrics: Vec<_> = found.iter().flat_map(|set| set.report.metrics()).collect();
        self.output.metrics.complete(step, &metrics)?;
        for Evaluated { report, .. } in &found {
            self.output.progress.note(&format!("{} at step {step}: {}", at.what(), report.line()));
        }
        self.keep_answers(step, &found);
        let compared = if at == EvaluatedAt::After { self.compared_with_before(&found) } else { None };
        for line in compared.iter().flat_map(Comparison::lines) {
            self.output.progress.note(&line);
        }
        let reports = found.into_iter().map(|set| set.report).collect();
        match at {
            EvaluatedAt::Before => self.history.before = reports,
            EvaluatedAt::Between => {}
            EvaluatedAt::After => self.history.after = reports,
        }
        Ok(())
    }

    /// A disk that refuses costs the answers and not the run.
    fn keep_answers(&self, step: u64, found: &[Evaluated]) {
        if !self.config.metrics.evals {
            return;
        }
        let folder = self.output.folder.evaluation(step);
        for Evaluated { answers, .. } in found {
            // A set whose prompts all lack a verdict has no answers.
            let Some(set) = answers.first().map(|record| &record.set) else { continue };
            if let Err(error) = write_in(&folder, set, answers) {
                tracing::warn!("the answers of step {step} are not kept: {}", one_line(&error));
            }
        }
    }

    /// What training came to, against the answers that the run has kept from before its first step.
    fn compared_with_before(&self, found: &[Evaluated]) -> Option<Comparison> {
        let (before, after) = (self.output.folder.evaluation(0), self.config.run.steps);
        if !before.is_dir() {
            return None;
        }
        let answers = found.iter().flat_map(|set| set.answers.iter().cloned());
        let after = Answers::of(&self.output.folder.evaluation(after), answers);
        match Answers::read(&before).and_then(|before| Comparison::of(&before, &after, self.config.eval.seed))
        {
            Ok(comparison) => Some(comparison),
            Err(error) => {
                tracing::warn!("before and after are not compared: {}", one_line(&error));
                None
            }
        }
    }

    /// Waits for an evaluation of an older step before a checkpoint is written at `version`: only of the step itself are the
    /// weights in the checkpoint, so that it can be made again.
    pub(super) fn settle_evaluation(&mut self, version: u64) -> Result<()> {
        match self.evaluations.unfinished() {
            Some(asked) if asked.step < version => self.await_evaluation(),
            _ => Ok(()),
        }
    }

    /// Ends an evaluation that is under way when the run ends. Of the last weights it is made again by a resume; of others
    /// it is lost.
    pub(super) fn stop_evaluation(&mut self) {
        self.evaluations.stop();
        if let Err(error) = self.await_evaluation() {
            tracing::warn!("{}", one_line(&error));
        }
        let Some(asked) = self.evaluations.unfinished() else { return };
        let step = asked.step;
        if step == self.learner.version() {
            self.output
                .progress
                .note(&format!("the evaluation of step {step} is not finished; a resume makes it again"));
            return;
        }
        tracing::warn!(
            "the evaluation of step {step} was not finished and is lost: the run ends at step {}",
            self.learner.version()
        );
        self.evaluations.forget();
        if let Err(error) = self.output.metrics.release() {
            tracing::warn!("{}", one_line(&error));
        }
    }
}
