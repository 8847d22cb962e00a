//! The evaluations of a training run: before its first step, on the way, and after its last.

use std::sync::Arc;

use anyhow::Result;
use kernels::{Engine, Precision};
use rollout::Versioned;

use crate::model::policy::Policy;
use crate::run::eval_report::EvalReport;
use crate::run::train::{Run, due};

impl<E: Engine> Run<'_, E> {
    pub(super) fn evaluate_before(&mut self) -> Result<()> {
        if self.config.eval.before {
            self.history.before = self.evaluate("held-out problems before training")?;
            if let Some(before) = &self.history.before {
                self.output.metrics.record(0, &before.metrics(), &[])?;
            }
        }
        Ok(())
    }

    /// On the way, and after the last step, whose line then has what training came to.
    pub(super) fn evaluate_if_due(&mut self, step: u64) -> Result<Option<EvalReport>> {
        let eval = &self.config.eval;
        if step == self.config.run.steps && eval.after {
            self.history.after = self.evaluate("held-out problems after training")?;
            return Ok(self.history.after.clone());
        }
        if due(eval.every_steps, step) && step < self.config.run.steps {
            return self.evaluate("held-out problems");
        }
        Ok(None)
    }

    fn evaluate(&mut self, what: &str) -> Result<Option<EvalReport>> {
        let Some(evaluator) = &mut self.evaluator else { return Ok(None) };
        self.output.progress.doing(what);
        self.heartbeat.works(&format!("evaluates {what}"));
        let Versioned { version, weights } = self.weights.latest();
        // What the actors have packed is measured with, unless it is rounded.
        let policy = match weights.precision() {
            Precision::F32 => weights,
            _ => Arc::new(Policy::new(&*self.engine, self.learner.decoder(), Precision::F32)?),
        };
        let report = evaluator.run(policy, version)?;
        self.output.progress.note(&format!("{what} at step {version}: {}", report.line()));
        Ok(Some(report))
    }
}
