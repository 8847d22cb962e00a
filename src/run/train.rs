//! The loop of a training run: actors fill the queue, the learner empties it. When the actors decode is the
//! schedule's matter ([`ActiveSchedule`]); all else is the same for every schedule.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use kernels::Engine;
use learner::checkpoint::ExtraFile;
use learner::{StepReport, Trainer};
use rollout::faults::{self, Point};
use rollout::{ActorReport, Group, Heartbeat, ReplayQueue, StepRequest, WeightsCell};

use crate::config::RunConfig;
use crate::model::policy::Policy;
use crate::records::folder::RunFolder;
use crate::records::writer::MetricsWriter;
use crate::run::eval_report::EvalReport;
use crate::run::evaluations::Evaluations;
use crate::run::schedule::ActiveSchedule;
use crate::run::start::RunStart;
use crate::watch::alarms::Alarms;
use crate::watch::progress::Progress;
use crate::watch::shutdown::Shutdown;

/// A run whose trained tokens are limited makes at most so many times the config's steps.
const BENCH_STEPS_FACTOR: u64 = 2;

/// Everything on the learner's side of the queue.
pub(super) struct Run<'a, E: Engine> {
    pub(super) engine: Arc<E>,
    pub(super) config: &'a RunConfig,
    pub(super) learner: Trainer,
    pub(super) evaluations: Evaluations<E>,
    pub(super) output: RunOutput,
    pub(super) queue: Arc<ReplayQueue>,
    pub(super) weights: Arc<WeightsCell<Policy<E>>>,
    /// Tells the watchdog what the learner does.
    pub(super) heartbeat: Heartbeat,
    /// The run ends at so many trained tokens, where a measurement sets it.
    pub(super) trained_tokens_max: Option<u64>,
    /// Rows of the training data that are left out.
    pub(super) rows_skipped: usize,
    /// Prompts of an epoch, where the data has an end.
    pub(super) epoch_prompts: Option<u64>,
    pub(super) history: History,
}

/// Where a run writes.
pub(super) struct RunOutput {
    pub(super) folder: RunFolder,
    pub(super) metrics: MetricsWriter,
    pub(super) progress: Progress,
    /// The files beside the model's weights, which a checkpoint takes along.
    pub(super) tokenizer_files: Vec<ExtraFile>,
}

/// What the run has done so far in this process.
pub(super) struct History {
    pub(super) started: Instant,
    /// The step that the run started after.
    pub(super) first_step: u64,
    pub(super) last_step: LastStep,
    /// Evaluation before the first step, and after the last one, one report a set.
    pub(super) before: Vec<EvalReport>,
    pub(super) after: Vec<EvalReport>,
    pub(super) alarms: Alarms,
    /// Completion tokens trained on.
    pub(super) trained_tokens: u64,
    /// Times that the step has asked for further groups.
    pub(super) refill_rounds: Cell<u64>,
    /// Seconds of packing the newest weights.
    pub(super) packing_s: f64,
    /// The checkpoint after the step before, if there was one.
    pub(super) saved: SavedCheckpoint,
}

/// Counters as they stood when the step before was recorded.
pub(super) struct LastStep {
    pub(super) recorded: Instant,
    pub(super) actors: ActorReport,
    pub(super) trainer_waiting_s: f64,
}

/// What writing a checkpoint took.
#[derive(Default)]
pub(super) struct SavedCheckpoint {
    pub(super) seconds: f64,
    pub(super) bytes: u64,
}

impl History {
    pub(super) fn new(first_step: u64) -> Self {
        let now = Instant::now();
        Self {
            started: now,
            first_step,
            last_step: LastStep { recorded: now, actors: ActorReport::default(), trainer_waiting_s: 0.0 },
            before: Vec::new(),
            after: Vec::new(),
            alarms: Alarms::default(),
            trained_tokens: 0,
            refill_rounds: Cell::new(0),
            packing_s: 0.0,
            saved: SavedCheckpoint::default(),
        }
    }
}

impl<E: Engine> Run<'_, E> {
    /// Says where the run starts, and measures the first weights where they are new.
    pub(super) fn begin(&mut self, start: &RunStart) -> Result<()> {
        start.notes.iter().for_each(|note| self.output.progress.note(note));
        match &start.point {
            Some(point) => {
                self.history.before.clone_from(&point.run.before);
                if !self.goes_on() {
                    self.history.after.clone_from(&point.run.after);
                }
                self.history.alarms.clone_from(&point.run.alarms);
                self.evaluate_again(point.run.evaluating)?;
            }
            None => self.evaluate_before()?,
        }
        if self.goes_on() {
            let step = self.learner.version() + 1;
            self.output.progress.waiting(&format!("step {step}/{}: generating", self.config.run.steps));
        }
        self.history.started = Instant::now();
        self.history.last_step.recorded = Instant::now();
        Ok(())
    }

    /// The whole run on one screen.
    pub(super) fn steps(&mut self, schedule: &mut ActiveSchedule<E>, shutdown: &Shutdown) -> Result<()> {
        while self.goes_on() && !shutdown.requested() {
            let groups = self.take(schedule)?; // Blocks; an error once the queue is closed.
            let report = self.learn(&groups)?; // Advantages, batch, loss, gradients, update.
            self.publish()?; // An actor takes the weights before its next segment.
            self.record(&groups, &report, &schedule.report())?; // With an evaluation beside what follows.
            self.save_if_due(schedule)?;
        }
        Ok(())
    }

    fn goes_on(&self) -> bool {
        let (version, steps) = (self.learner.version(), self.config.run.steps);
        match self.trained_tokens_max {
            Some(tokens) => self.history.trained_tokens < tokens && version < BENCH_STEPS_FACTOR * steps,
            None => version < steps,
        }
    }

    /// The groups of the next step.
    fn take(&self, schedule: &mut ActiveSchedule<E>) -> Result<Vec<Group>> {
        let (version, count) = (self.learner.version(), self.config.learner.groups_per_step);
        self.heartbeat.waits(&format!("for {count} groups, for step {}", version + 1));
        self.history.refill_rounds.set(0);
        let further = |groups: &[Group]| self.further_groups(groups);
        let last = version + 1 == self.config.run.steps;
        let request = StepRequest { groups: count, further: &further, last };
        let groups = schedule.take(&self.queue, &request, version)?;
        self.heartbeat.progressed();
        Ok(groups)
    }

    /// How many groups the step still wants in the place of those that teach nothing.
    fn further_groups(&self, groups: &[Group]) -> usize {
        self.heartbeat.progressed();
        let further = self.learner.further_groups(groups);
        if further > 0 {
            self.history.refill_rounds.update(|rounds| rounds + 1);
            let (step, there) = (self.learner.version() + 1, groups.len());
            self.heartbeat.waits(&format!("for {further} further groups beside {there}, for step {step}"));
        }
        further
    }

    /// One optimizer step.
    fn learn(&mut self, groups: &[Group]) -> Result<StepReport> {
        self.heartbeat.works(&format!("learns, step {}", self.learner.version() + 1));
        faults::pass(Point::Learner)?;
        let report = match self.learner.step(groups) {
            Ok(report) => report,
            Err(error) => return Err(self.save_failed_batch(groups, error.into())),
        };
        self.history.trained_tokens +=
            report.update.as_ref().map_or(0, |update| update.trained_tokens() as u64);
        self.queue.learned(groups);
        Ok(report)
    }

    /// Gives the weights to the actors, who go on decoding under those that they have while the newest are packed.
    fn publish(&mut self) -> Result<()> {
        let began = Instant::now();
        let policy = self.weights.latest().weights.next(&self.engine, self.learner.decoder())?;
        self.history.packing_s = began.elapsed().as_secs_f64();
        self.weights.publish(self.learner.version(), Arc::new(policy));
        self.heartbeat.progressed();
        Ok(())
    }
}

/// Whether something that is done every so many steps, 0 being never, is done at this step.
pub(super) fn due(every: u64, step: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
