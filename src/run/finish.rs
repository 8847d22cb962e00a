//! The checkpoints of a training run, and its ends: all steps made, a signal, an error, a stage that makes no progress.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use kernels::Engine;
use rollout::faults::{self, Point};
use rollout::{RolloutCheckpoint, RolloutError};

use crate::cause::{one_line, with_consequence};
use crate::model::policy::Policy;
use crate::run::checkpoints::{self, RunState};
use crate::run::eval_report::EvalReport;
use crate::run::schedule::ActiveSchedule;
use crate::run::train::{Run, SavedCheckpoint, due};
use crate::watch::progress::Summary;
use crate::watch::shutdown::Shutdown;
use crate::watch::watchdog::Stalled;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct RunOutcome {
    /// Optimizer steps that were made.
    pub steps: u64,
    /// Evaluation before the first step, where the config asks for it: one report a set.
    pub before: Vec<EvalReport>,
    /// Evaluation after the last step, where the config asks for it.
    pub after: Vec<EvalReport>,
    /// The run folder.
    pub folder: PathBuf,
    /// The last checkpoint.
    pub model: PathBuf,
}

impl<E: Engine> Run<'_, E> {
    /// A disk that refuses costs this checkpoint and not the run: the one before stays.
    pub(super) fn save_if_due(&mut self, schedule: &mut ActiveSchedule<E>) -> Result<()> {
        let every = self.config.checkpoint.every_steps;
        let step = self.learner.version();
        if due(every, step) && step < self.config.run.steps {
            self.settle_evaluation(step)?;
            self.heartbeat.waits("for the actors to say where they stand");
            let checkpoint = schedule.state(&self.queue, step, &self.history.last_step.actors)?;
            self.heartbeat.works(&format!("saves step {step}"));
            if let Err(error) = self.save(Some(&checkpoint)) {
                let error = one_line(&error);
                tracing::warn!("step {step} was not written down, and the run goes on: {error}");
            }
        }
        Ok(())
    }

    /// Writes the weights, and with them where the run stands, if it can be resumed there.
    fn save(&mut self, checkpoint: Option<&RolloutCheckpoint<Policy<E>>>) -> Result<PathBuf> {
        let began = Instant::now();
        let version = self.learner.version();
        let path = self.output.folder.checkpoint(version);
        self.heartbeat.progressed();
        if checkpoint.is_none() && checkpoints::is_whole(&path) {
            // These weights are there, and with them where the run stood: a failure must not cost that.
            return Ok(path);
        }
        let mut files = self.output.tokenizer_files.clone();
        if let Some(checkpoint) = checkpoint {
            let run = RunState {
                metrics: self.output.metrics.place()?,
                before: self.history.before.clone(),
                after: self.history.after.clone(),
                evaluating: self.evaluations.unfinished().filter(|it| it.step == version).map(|it| it.at),
                alarms: self.history.alarms.clone(),
            };
            files.extend(checkpoints::run_files(checkpoint, version, &run)?);
        }
        faults::pass(Point::Checkpoint).with_context(|| path.display().to_string())?;
        let bytes = learner::checkpoint::save(&path, &self.learner, &files)?;
        // Weights alone take the place of no checkpoint that the run can be resumed at.
        if checkpoint.is_some() {
            checkpoints::prune(&self.output.folder, &self.config.checkpoint)?;
        }
        self.history.saved = SavedCheckpoint { seconds: began.elapsed().as_secs_f64(), bytes };
        Ok(path)
    }

    fn checkpoint(&self, schedule: &mut ActiveSchedule<E>) -> Result<RolloutCheckpoint<Policy<E>>> {
        Ok(schedule.state(&self.queue, self.learner.version(), &self.history.last_step.actors)?)
    }

    /// Writes where the run stands before anything waits for a thread that may never come back.
    pub(super) fn end_stalled(mut self, schedule: &mut ActiveSchedule<E>, stalled: String) -> anyhow::Error {
        let checkpoint = self.checkpoint(schedule);
        let told = match checkpoint.and_then(|checkpoint| self.save(Some(&checkpoint))) {
            Ok(path) => format!("{stalled}; the run is saved in {}, and a resume goes on", path.display()),
            Err(error) => format!("{stalled}; the run could not be saved: {}", one_line(&error)),
        };
        Stalled(told).into()
    }

    /// Writes the last weights, whatever ended the run, and says what came of it.
    pub(super) fn finish(
        mut self,
        schedule: &mut ActiveSchedule<E>,
        shutdown: &Shutdown,
        ended: Result<()>,
    ) -> Result<RunOutcome> {
        let stopped = shutdown.requested();
        let ended = match ended {
            Ok(()) if !stopped => self.await_evaluation(),
            ended => {
                self.stop_evaluation();
                ended
            }
        };
        let failure = ended
            .err()
            .filter(|error| !(stopped && error.downcast_ref::<RolloutError>().is_some_and(is_closed)));
        // Actors that failed in the middle of a step stand nowhere: the run goes on from the checkpoint before.
        let stands = failure.is_none() || schedule.survives_failure();
        let checkpoint = if stands { Some(self.checkpoint(schedule)?) } else { None };
        let saved = self.save(checkpoint.as_ref());
        if let Some(error) = failure {
            // What ended the run is the cause, also where the disk that made it fail takes no weights either.
            return Err(match saved {
                Ok(model) => error.context(format!("the last weights are in {}", model.display())),
                Err(other) => {
                    let lost = format!("the last weights could not be written: {}", one_line(&other));
                    with_consequence(error, lost)
                }
            });
        }
        Ok(self.summarize(saved.context("the last checkpoint")?, stopped))
    }

    fn summarize(self, model: PathBuf, stopped: bool) -> RunOutcome {
        let (step, history) = (self.learner.version(), self.history);
        let accuracy = |reports: &[EvalReport]| reports.first().and_then(|report| report.accuracy);
        let measured = history.before.first().or(history.after.first());
        let folder = self.output.folder.path().to_owned();
        self.output.progress.finish(&Summary {
            steps: step,
            seconds: history.started.elapsed().as_secs_f64(),
            stopped,
            accuracy_before: accuracy(&history.before),
            accuracy_after: accuracy(&history.after),
            problems: measured.map_or(0, |report| report.problems),
            run_folder: folder.clone(),
            model: model.clone(),
        });
        RunOutcome { steps: step, before: history.before, after: history.after, folder, model }
    }
}

fn is_closed(error: &RolloutError) -> bool {
    matches!(error, RolloutError::Closed)
}
