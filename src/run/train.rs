//! The whole run on one page: actors fill the queue, the learner empties it, and every step goes through
//! `Run::learn` and `Run::record`. Both schedules share everything but who drives the actors.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use kernels::sampling::SamplingConfig;
use kernels::{Decoder, Device, Precision};
use learner::checkpoint::ExtraFile;
use learner::{Learner, StepReport};
use rollout::faults::{self, Point};
use rollout::{
    Actor, ActorContext, ActorReport, Bell, CompletionRecord, Ends, Group, Intake, LengthDistribution,
    Pacing, Pulse, Pulses, ReplayQueue, RolloutError, Scorer, Standing, StepRequest, Versioned, WeightsCell,
};

use crate::cause::{one_line, with_consequence};
use crate::cli::{RunPlace, Start};
use crate::config::{PROMPT_TOKENS, RunConfig, Schedule};
use crate::model::generator::{DecoderGenerator, Generators, GivenLengths};
use crate::model::memory::peak_bytes;
use crate::model::policy::{Policy, precision};
use crate::model::{Model, ModelFiles, open_device, tell};
use crate::records::folder::RunFolder;
use crate::records::step_metrics::StepMetrics;
use crate::records::writer::MetricsWriter;
use crate::run::checkpoints::{self, RunState};
use crate::run::driver::Driver;
use crate::run::evaluate::{CustomVerifiers, EvalReport, Evaluator, JudgedPrompts, Surveys, reward_weights};
use crate::run::start::Origin;
use crate::watch::alarms::{Alarms, StepFacts};
use crate::watch::progress::{Progress, Summary};
use crate::watch::shutdown::Shutdown;
use crate::watch::watchdog::{Stalled, Watchdog, Watched};

mod show;

use show::facts;

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Optimizer steps that were made.
    pub steps: u64,
    /// Evaluation before the first step, where the config asks for it.
    pub before: Option<EvalReport>,
    /// Evaluation after the last step, where the config asks for it.
    pub after: Option<EvalReport>,
    /// Where the run wrote.
    pub folder: std::path::PathBuf,
    /// The last checkpoint.
    pub model: std::path::PathBuf,
}

/// What a measurement changes in a run. No key of a config and no public function leads here, so that no run that
/// trains comes to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trial {
    /// Outputs end at lengths of this distribution, and not where the model ends them.
    pub(crate) lengths: Option<LengthDistribution>,
    /// The run ends when so many completion tokens are trained on, and not after the config's steps.
    pub(crate) trained_tokens: Option<u64>,
}

/// A run whose tokens are aimed at makes at most so many times the config's steps.
const TRIAL_STEPS_FACTOR: u64 = 2;

/// Trains as the config says, until its steps are made or a signal comes.
///
/// `name` names the run folder where `place` does not. No thread that this starts outlives it.
///
/// # Errors
/// What is wrong with the model, the data, the rewards or the folder; or what stopped the run, after the
/// last good weights were written.
pub fn train(
    config: &RunConfig,
    name: &str,
    place: &RunPlace,
    custom: CustomVerifiers<'_>,
) -> Result<Outcome> {
    train_from(config.clone(), name, (place, &Start::default()), custom)
}

/// [`train`] that may begin elsewhere than at step 0 of the config's model.
///
/// # Errors
/// As [`train`]; or what keeps the run from beginning there.
pub fn train_from(
    config: RunConfig,
    name: &str,
    (place, start): (&RunPlace, &Start),
    custom: CustomVerifiers<'_>,
) -> Result<Outcome> {
    train_with(config, name, (place, start), (custom, &Trial::default()))
}

/// [`train`] in the folder of `place`, as a measurement wants it.
///
/// # Errors
/// As [`train`].
pub(crate) fn try_out(
    config: RunConfig,
    place: &RunPlace,
    (custom, trial): (CustomVerifiers<'_>, &Trial),
) -> Result<Outcome> {
    train_with(config, "trial", (place, &Start::default()), (custom, trial))
}

fn train_with(
    mut config: RunConfig,
    name: &str,
    (place, start): (&RunPlace, &Start),
    (custom, trial): (CustomVerifiers<'_>, &Trial),
) -> Result<Outcome> {
    faults::arm().map_err(anyhow::Error::msg)?;
    let device = open_device((config.run.device, config.run.threads))?;
    let mut origin = Origin::find(&mut config, name, (place, start), &device)?;
    let config = &config;
    let files = ModelFiles::read(&origin.model)?.with_positions(config.model.positions_max);
    let prompts = JudgedPrompts::of_training(config, &files, custom)?;
    let evaluation = config.evaluation();
    let held_out = match &evaluation {
        Some(evaluation) => Some(JudgedPrompts::held_out(evaluation, &files.text, &files.decoder, custom)?),
        None => None,
    };
    let surveys = Surveys::of(&prompts, held_out.as_ref());
    let model = files.load(&device)?;
    let actors = Actors::new(config, &model, &origin, prompts, trial)?;
    let evaluator = match evaluation.zip(held_out) {
        Some((evaluation, held_out)) => {
            Some(Evaluator::of(&evaluation, held_out, &model.text, &model.decoder)?)
        }
        None => None,
    };
    let pulses = actors.actors[0].context().pulses.clone();
    let pulse = pulses.of("learner");
    let evaluator = evaluator.map(|evaluator| evaluator.watched_by(pulse.clone()));
    // The weights are the learner's alone from here on, who changes them in place.
    let Model { decoder, companions, notes, .. } = model;
    let beating = pulse.clone();
    let learner = new_learner(config, decoder, &origin, &device)?.watched_by(move || beating.beat());
    let (folder, _log, metrics) = origin.open((name, place), config)?;
    surveys.tell();
    tell(&notes);
    actors.actors[0].context().intake.keep_journal(origin.journal(&folder, config.run.schedule)?);
    let Actors { actors, generators, queue, weights } = actors;
    let closed = Arc::clone(&queue);
    let shutdown = Shutdown::listen(move || closed.close())?;
    let mut run =
        Run::new(config, (learner, evaluator), companions, (folder, metrics), (queue, weights), pulse);
    run.trained_tokens_max = trial.trained_tokens;
    run.rows_skipped = surveys.rows_skipped();
    let watched = Watched::of(pulses, &run.queue, &shutdown);
    let watchdog = Watchdog::start(&config.watchdog, watched)?;
    run.begin(&origin)?;
    let mut driver =
        Driver::start(config.run.schedule, (actors, generators), &run.queue, origin.point.as_mut())?;
    let learned = run.steps(&mut driver, &shutdown);
    if let Some(stalled) = watchdog.stalled() {
        return Err(run.end_stalled(&mut driver, stalled));
    }
    // What made the actors stop is the cause; that the queue is closed is only what came of it.
    let ended = driver.stop().map_err(anyhow::Error::from).and(learned);
    run.finish(&mut driver, &shutdown, ended)
}

fn new_learner(config: &RunConfig, decoder: Decoder, origin: &Origin, device: &Device) -> Result<Learner> {
    let reference = match (&config.learner.kl.enabled, &config.learner.kl.reference) {
        (true, Some(path)) => Some(Decoder::load(path, device)?),
        _ => None,
    };
    let (learner, optimizer) = (config.learner.clone(), config.optimizer.clone());
    let mut learner =
        Learner::new(decoder, learner, optimizer, config.rollout.temperature, config.run.steps, reference)?;
    if let Some(point) = &origin.point {
        learner::checkpoint::load_optimizer(&point.folder, &mut learner)?;
    } else if let Some(moments) = &origin.moments {
        learner::checkpoint::load_moments(moments, &mut learner)?;
    }
    Ok(learner.with_reward_weights(reward_weights(&config.rewards)))
}

/// Everything on the rollout's side of the queue.
struct Actors {
    actors: Vec<Actor<DecoderGenerator>>,
    generators: Generators,
    queue: Arc<ReplayQueue>,
    weights: Arc<WeightsCell<Policy>>,
}

impl Actors {
    fn new(
        config: &RunConfig,
        model: &Model,
        origin: &Origin,
        prompts: JudgedPrompts,
        trial: &Trial,
    ) -> Result<Self> {
        let mut rollout = config.rollout.clone();
        if config.run.schedule == Schedule::Deterministic {
            // All slots are one batch, so that the number of actors changes nothing.
            rollout.actors = 1;
        }
        let bell = Bell::new();
        let pacing = Pacing {
            groups_per_step: config.learner.groups_per_step as u64,
            staleness_versions_max: config.queue.staleness_versions_max,
        };
        let intake = Arc::new(Intake::new(pacing, bell.clone()).restored(&origin.rollout()));
        let queue = Arc::new(ReplayQueue::new(config.queue.clone(), Arc::clone(&intake)));
        let first = Policy::new(&model.decoder, precision(rollout.precision))?;
        let weights = Arc::new(WeightsCell::new(origin.step(), Arc::new(first), bell));
        let text = Arc::clone(&model.text);
        let given = trial.lengths.clone().map(|lengths| GivenLengths {
            lengths: Arc::new(lengths),
            seed: config.run.seed,
            eos_ids: text.eos_ids().to_vec(),
        });
        let output_tokens_max = rollout.output_tokens_max;
        let ends = Ends::new(Arc::clone(&text), rollout.stops(), model.decoder.config.vocabulary)?;
        let min_tokens = ends.min_tokens();
        let context = Arc::new(ActorContext {
            pulses: Pulses::default(),
            config: rollout.clone(),
            seed: config.run.seed,
            prompts: prompts.source,
            scorer: Scorer::new(text, prompts.rewards).with_ends(ends),
            weights: Arc::clone(&weights),
            intake,
        });
        let generators = Generators {
            shape: model.decoder.config.clone(),
            device: model.decoder.device(),
            // Room for an output and a short prompt; the cache grows where a prompt is longer.
            room: (rollout.slots_per_actor(), output_tokens_max + PROMPT_TOKENS),
            sampling: SamplingConfig {
                temperature: rollout.temperature,
                top_p: rollout.top_p,
                top_k: rollout.top_k,
            },
            kv_cache: rollout.kv_cache,
            min_tokens,
            given,
        };
        let actors = (0..rollout.actors)
            .map(|number| Actor::new(Arc::clone(&context), number, generators.make()))
            .collect();
        Ok(Self { actors, generators, queue, weights })
    }
}

/// Everything on the learner's side of the queue.
struct Run<'a> {
    config: &'a RunConfig,
    learner: Learner,
    evaluator: Option<Evaluator>,
    /// The model's files beside its weights, which a checkpoint takes along.
    companions: Vec<ExtraFile>,
    folder: RunFolder,
    metrics: MetricsWriter,
    queue: Arc<ReplayQueue>,
    weights: Arc<WeightsCell<Policy>>,
    progress: Progress,
    start: Instant,
    /// The step that this life of the run began after.
    first_step: u64,
    step_start: Instant,
    actors_before: ActorReport,
    trainer_waited_before: f64,
    before: Option<EvalReport>,
    after: Option<EvalReport>,
    alarms: Alarms,
    pulse: Pulse,
    /// Times that the step has asked for further groups.
    refill_rounds: Cell<u64>,
    /// Seconds of packing the newest weights.
    packing_s: f64,
    /// Seconds and bytes of the checkpoint after the step before, if there was one.
    saved: (f64, u64),
    /// Completion tokens trained on, and where the run ends by them.
    trained_tokens: u64,
    trained_tokens_max: Option<u64>,
    /// Rows of the data that are left out, where some are.
    rows_skipped: usize,
}

impl<'a> Run<'a> {
    fn new(
        config: &'a RunConfig,
        (learner, evaluator): (Learner, Option<Evaluator>),
        companions: Vec<ExtraFile>,
        (folder, metrics): (RunFolder, MetricsWriter),
        (queue, weights): (Arc<ReplayQueue>, Arc<WeightsCell<Policy>>),
        pulse: Pulse,
    ) -> Self {
        let facts = facts(config, learner.decoder(), folder.path());
        let progress = Progress::start(config.metrics.console, "longhaul train", &facts, config.run.steps);
        Self {
            config,
            first_step: learner.version(),
            learner,
            evaluator,
            companions,
            folder,
            metrics,
            queue,
            weights,
            progress,
            start: Instant::now(),
            step_start: Instant::now(),
            actors_before: ActorReport::default(),
            trainer_waited_before: 0.0,
            before: None,
            after: None,
            alarms: Alarms::default(),
            pulse,
            refill_rounds: Cell::new(0),
            packing_s: 0.0,
            saved: (0.0, 0),
            trained_tokens: 0,
            trained_tokens_max: None,
            rows_skipped: 0,
        }
    }

    /// Says where the run begins, and measures the first weights where they are new.
    fn begin(&mut self, origin: &Origin) -> Result<()> {
        origin.notes.iter().for_each(|note| self.progress.note(note));
        match &origin.point {
            Some(point) => {
                self.before.clone_from(&point.run.before);
                self.alarms.clone_from(&point.run.alarms);
            }
            None => self.evaluate_before()?,
        }
        self.start = Instant::now();
        self.step_start = Instant::now();
        Ok(())
    }

    fn steps(&mut self, driver: &mut Driver, shutdown: &Shutdown) -> Result<()> {
        let (steps, count) = (self.config.run.steps, self.config.learner.groups_per_step);
        while self.goes_on() && !shutdown.requested() {
            let version = self.learner.version();
            self.pulse.waits(&format!("for {count} groups, for step {}", version + 1));
            self.refill_rounds.set(0);
            let further = |groups: &[Group]| self.further_groups(groups);
            let request = StepRequest { groups: count, further: &further, last: version + 1 == steps };
            let groups = driver.take(&self.queue, &request, version)?;
            self.pulse.beat();
            self.pulse.works(&format!("learns, step {}", version + 1));
            let report = self.learn(&groups)?;
            self.pulse.beat();
            self.record(&groups, &report, &driver.report())?;
            self.save_if_due(driver)?;
        }
        Ok(())
    }

    /// How many groups the step still wants in the place of those that teach nothing.
    fn further_groups(&self, groups: &[Group]) -> usize {
        self.pulse.beat();
        let further = self.learner.further_groups(groups);
        if further > 0 {
            self.refill_rounds.update(|rounds| rounds + 1);
            let (step, there) = (self.learner.version() + 1, groups.len());
            self.pulse.waits(&format!("for {further} further groups beside {there}, for step {step}"));
        }
        further
    }

    fn goes_on(&self) -> bool {
        let (version, steps) = (self.learner.version(), self.config.run.steps);
        match self.trained_tokens_max {
            Some(tokens) => self.trained_tokens < tokens && version < TRIAL_STEPS_FACTOR * steps,
            None => version < steps,
        }
    }

    /// One optimizer step, and its weights to the actors.
    fn learn(&mut self, groups: &[Group]) -> Result<StepReport> {
        faults::pass(Point::Learner)?;
        let report = match self.learner.step(groups.to_vec()) {
            Ok(report) => report,
            Err(error) => return Err(self.written_down(groups, error.into())),
        };
        self.trained_tokens += report.update.as_ref().map_or(0, |update| update.trained_tokens() as u64);
        self.queue.learned(groups);
        self.publish()?;
        Ok(report)
    }

    /// The actors decode on under the weights that they have while the newest are packed.
    fn publish(&mut self) -> Result<()> {
        let began = Instant::now();
        let policy = Policy::new(self.learner.decoder(), precision(self.config.rollout.precision))?;
        self.packing_s = began.elapsed().as_secs_f64();
        self.weights.publish(self.learner.version(), Arc::new(policy));
        Ok(())
    }

    /// Writes down the groups that a step failed on, for `longhaul replay`.
    fn written_down(&self, groups: &[Group], error: anyhow::Error) -> anyhow::Error {
        let step = self.learner.version() + 1;
        let scored = groups.iter().flat_map(|group| &group.completions);
        match self.folder.write_failed(step, scored.map(CompletionRecord::of)) {
            Ok(path) => error.context(format!("step {step} failed on the completions in {}", path.display())),
            Err(other) => {
                let lost = format!("step {step} failed, and its completions are lost: {}", one_line(&other));
                with_consequence(error, lost)
            }
        }
    }

    fn record(&mut self, groups: &[Group], report: &StepReport, actors: &ActorReport) -> Result<()> {
        let step = report.version;
        let since = actors.since(&self.actors_before);
        self.actors_before = actors.clone();
        let queue = self.queue.report();
        let waited = queue.trainer_waiting_s - self.trainer_waited_before;
        self.trainer_waited_before = queue.trainer_waiting_s;
        let mut metrics = StepMetrics::default();
        metrics.add_step(report);
        if report.refill.is_some() {
            metrics.add("dynamic_sampling/rounds", self.refill_rounds.get() as f64);
        }
        metrics.add_actors(&since);
        metrics.add_queue(&queue, waited);
        let seconds = self.step_start.elapsed().as_secs_f64();
        self.step_start = Instant::now();
        metrics.add("timing_s/step", seconds);
        metrics.add("timing_s/pack", self.packing_s);
        let half_limit = (self.config.rollout.output_tokens_max / 2) as f64;
        let within = report.values.lengths.iter().filter(|length| **length <= half_limit).count();
        metrics
            .add("completions/half_limit_ratio", within as f64 / report.values.lengths.len().max(1) as f64);
        metrics.add("perf/tokens_per_second", since.tokens as f64 / seconds);
        let (saving_s, saved_bytes) = std::mem::take(&mut self.saved);
        metrics.add("timing_s/checkpoint", saving_s);
        metrics.add("perf/checkpoint_bytes", saved_bytes as f64);
        if let Some(bytes) = peak_bytes() {
            metrics.add("perf/memory_peak_bytes", bytes as f64);
        }
        if self.rows_skipped > 0 {
            metrics.add("data/rows_skipped", self.rows_skipped as f64);
        }
        let facts = StepFacts::of(report, &queue, &self.config.learner);
        let (values, alarms) = self.alarms.look(&self.config.alarms, &facts);
        metrics.extend(values);
        if let Some(found) = self.evaluate_if_due(step)? {
            metrics.extend(found.metrics());
        }
        let values = &report.values;
        let histograms: [(&str, &[f64]); 4] = [
            ("histogram/lengths", &values.lengths),
            ("histogram/rewards", &values.rewards),
            ("histogram/advantages", &values.advantages),
            ("histogram/ratios", &values.ratios),
        ];
        let histograms = if self.config.metrics.histograms { &histograms[..] } else { &[] };
        self.metrics.record(step, &metrics.into_values(), histograms)?;
        self.show(groups, report, (&queue, seconds))?;
        for alarm in alarms {
            tracing::warn!("step {step}: {alarm}");
        }
        Ok(())
    }

    /// A disk that refuses costs this checkpoint and not the run: the one before stays.
    fn save_if_due(&mut self, driver: &mut Driver) -> Result<()> {
        let every = self.config.checkpoint.every_steps;
        let step = self.learner.version();
        if due(every, step) && step < self.config.run.steps {
            self.pulse.waits("for the actors to say where they stand");
            let standing = driver.state(&self.queue, (step, &self.actors_before))?;
            self.pulse.works(&format!("saves step {step}"));
            if let Err(error) = self.save(Some(&standing)) {
                let error = one_line(&error);
                tracing::warn!("step {step} was not written down, and the run goes on: {error}");
            }
        }
        Ok(())
    }

    /// Writes the weights, and with them where the run stands, if it can be taken up there.
    fn save(&mut self, standing: Option<&Standing<Policy>>) -> Result<PathBuf> {
        let began = Instant::now();
        let version = self.learner.version();
        let path = self.folder.checkpoint(version);
        self.pulse.beat();
        if standing.is_none() && checkpoints::is_whole(&path) {
            // These weights are there, and with them where the run stood: a failure must not cost that.
            return Ok(path);
        }
        let mut files = self.companions.clone();
        if let Some(standing) = standing {
            let run = RunState {
                metrics: self.metrics.place()?,
                before: self.before.clone(),
                alarms: self.alarms.clone(),
            };
            files.extend(checkpoints::run_files(standing, version, &run)?);
        }
        faults::pass(Point::Checkpoint).with_context(|| path.display().to_string())?;
        let bytes = learner::checkpoint::save(&path, &self.learner, &files)?;
        // Weights alone take the place of no checkpoint that the run can be taken up at.
        if standing.is_some() {
            checkpoints::prune(&self.folder, &self.config.checkpoint)?;
        }
        self.saved = (began.elapsed().as_secs_f64(), bytes);
        Ok(path)
    }

    fn evaluate_before(&mut self) -> Result<()> {
        if self.config.eval.before {
            self.before = self.evaluate("held-out problems before training")?;
            if let Some(before) = &self.before {
                self.metrics.record(0, &before.metrics(), &[])?;
            }
        }
        Ok(())
    }

    /// On the way, and after the last step, whose line then has what training came to.
    fn evaluate_if_due(&mut self, step: u64) -> Result<Option<EvalReport>> {
        let eval = &self.config.eval;
        if step == self.config.run.steps && eval.after {
            self.after = self.evaluate("held-out problems after training")?;
            return Ok(self.after.clone());
        }
        if due(eval.every_steps, step) && step < self.config.run.steps {
            return self.evaluate("held-out problems");
        }
        Ok(None)
    }

    fn evaluate(&mut self, what: &str) -> Result<Option<EvalReport>> {
        let Some(evaluator) = &mut self.evaluator else { return Ok(None) };
        self.progress.doing(what);
        self.pulse.works(&format!("evaluates {what}"));
        let Versioned { version, weights } = self.weights.latest();
        // What the actors have packed is measured with, unless it is rounded.
        let policy = match weights.precision() {
            Precision::F32 => weights,
            _ => Arc::new(Policy::new(self.learner.decoder(), Precision::F32)?),
        };
        let report = evaluator.run(policy, version)?;
        self.progress.note(&format!("{what} at step {version}: {}", report.line()));
        Ok(Some(report))
    }

    /// Writes where the run stands before anything waits for a thread that may never come back.
    fn end_stalled(mut self, driver: &mut Driver, stalled: String) -> anyhow::Error {
        let at = (self.learner.version(), &self.actors_before);
        let saved = driver.state(&self.queue, at).map_err(anyhow::Error::from);
        let told = match saved.and_then(|standing| self.save(Some(&standing))) {
            Ok(path) => format!("{stalled}; the run is saved in {} and `--resume` goes on", path.display()),
            Err(error) => format!("{stalled}; the run could not be saved: {}", one_line(&error)),
        };
        Stalled(told).into()
    }

    /// Writes the last weights, whatever ended the run, and says what came of it.
    fn finish(mut self, driver: &mut Driver, shutdown: &Shutdown, ended: Result<()>) -> Result<Outcome> {
        let stopped = shutdown.requested();
        let failure = ended
            .err()
            .filter(|error| !(stopped && error.downcast_ref::<RolloutError>().is_some_and(is_closed)));
        // Actors that failed in the middle of a step stand nowhere: the run goes on from the checkpoint before.
        let stands = failure.is_none() || driver.survives_failure();
        let at = (self.learner.version(), &self.actors_before);
        let standing = if stands { Some(driver.state(&self.queue, at)?) } else { None };
        let saved = self.save(standing.as_ref());
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
        let model = saved.context("the last checkpoint")?;
        let step = self.learner.version();
        let accuracy = |report: &Option<EvalReport>| report.as_ref().and_then(|report| report.accuracy);
        let folder = self.folder.path().to_owned();
        self.progress.finish(&Summary {
            steps: step,
            seconds: self.start.elapsed().as_secs_f64(),
            stopped,
            accuracy_before: accuracy(&self.before),
            accuracy_after: accuracy(&self.after),
            problems: self.before.as_ref().or(self.after.as_ref()).map_or(0, |report| report.problems),
            run_folder: folder.clone(),
            model: model.clone(),
        });
        Ok(Outcome { steps: step, before: self.before, after: self.after, folder, model })
    }
}

/// Whether something that is done every so many steps, 0 being never, is done at this step.
fn due(every: u64, step: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

fn is_closed(error: &RolloutError) -> bool {
    matches!(error, RolloutError::Closed)
}
