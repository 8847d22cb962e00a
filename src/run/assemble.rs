//! Puts a training run together and runs it: everything that can be wrong with model, data and rewards is found before
//! the run folder is made.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use kernels::{Decoder, Engine, TrainingEngine};
use learner::checkpoint::Restore;
use learner::{BaseModel, Trainer};
use rollout::{faults, modes};

use crate::config::{Console, RunConfig, packed_base};
use crate::model::adapters::LoraRequest;
use crate::model::engine::with_engine;
use crate::model::{self, Model, ModelFiles, tell};
use crate::run::actors::Actors;
use crate::run::evaluations::Evaluations;
use crate::run::evaluator::Evaluator;
use crate::run::finish::RunOutcome;
use crate::run::prompts::{JudgedPrompts, Surveys, reward_weights};
use crate::run::record::facts;
use crate::run::request::RunRequest;
use crate::run::schedule::ActiveSchedule;
use crate::run::start::RunStart;
use crate::run::train::{History, Run, RunOutput};
use crate::watch::progress::Progress;
use crate::watch::shutdown::Shutdown;
use crate::watch::watchdog::{Watchdog, Watched};

/// Trains as the config says, until its steps are made or a signal comes. No thread that this starts outlives it.
///
/// # Errors
/// What is wrong with the model, the data, the rewards or the folder; or what stopped the run, after the last good
/// weights were written.
pub fn train(config: RunConfig, request: &RunRequest<'_>) -> Result<RunOutcome> {
    faults::arm().map_err(anyhow::Error::msg)?;
    with_engine!(config.run.device, config.run.threads, |engine| train_on(engine, config, request))
}

/// Trains on an engine.
fn train_on<E: Engine>(
    engine: Arc<E>,
    mut config: RunConfig,
    request: &RunRequest<'_>,
) -> Result<RunOutcome> {
    let mut start = RunStart::find(&mut config, request, &engine.device())?;
    let config = &config;
    let RunParts { learner, evaluators, actors, model, surveys } =
        RunParts::new(&engine, config, request, &start)?;
    let open = start.open(request, config)?;
    surveys.tell();
    tell(&model.notes);
    let context = actors.context();
    actors.ledger.keep_journal(start.journal(&open.folder, config.run.schedule)?);
    let epoch_prompts = context.prompts.epoch_prompts();
    let (heartbeat, heartbeats) = (context.heartbeats.of("learner"), context.heartbeats.clone());
    let Actors { actors, generators, ledger, weights } = actors;
    let queue = Arc::clone(ledger.queue());
    let evaluations = Evaluations::new(evaluators, &heartbeats);
    let (closed, stop) = (Arc::clone(&queue), evaluations.stop_flag());
    let shutdown = match request.owns_process {
        true => Shutdown::listen(move || {
            stop.store(true, Ordering::Relaxed);
            closed.close();
        })?,
        false => Shutdown::never(),
    };
    let facts = facts(config, learner.decoder(), open.folder.path());
    let console = if request.console { config.metrics.console } else { Console::Quiet };
    let progress = Progress::start(console, "longhaul train", &facts, config.run.steps);
    let tokenizer_files = model.tokenizer_files;
    let progress_of = heartbeat.clone();
    let mut run = Run {
        engine,
        config,
        history: History::new(learner.version()),
        learner: learner.watched_by(move || progress_of.progressed()),
        evaluations,
        output: RunOutput { folder: open.folder, metrics: open.metrics, progress, tokenizer_files },
        queue,
        weights,
        heartbeat,
        trained_tokens_max: request.bench.trained_tokens,
        rows_skipped: surveys.training_rows_skipped(),
        epoch_prompts,
    };
    let watched = Watched::of(heartbeats, &run.queue, &shutdown, request.owns_process);
    let watchdog = Watchdog::start(&config.watchdog, watched)?;
    run.begin(&start)?;
    let mut schedule =
        ActiveSchedule::start(config.run.schedule, actors, generators, &run.queue, start.point.as_mut())?;
    let learned = run.steps(&mut schedule, &shutdown);
    if let Some(stalled) = watchdog.stalled() {
        return Err(run.end_stalled(&mut schedule, stalled));
    }
    // What made the actors stop is the cause; that the queue is closed only follows from it.
    let ended = schedule.stop().map_err(anyhow::Error::from).and(learned);
    run.finish(&mut schedule, &shutdown, ended)
}

/// What a run is made of, before it has a folder.
struct RunParts<E: Engine> {
    learner: Trainer,
    evaluators: Vec<Evaluator<E>>,
    actors: Actors<E>,
    model: ModelRest,
    surveys: Surveys,
}

/// What is left of a model whose weights are the learner's, who changes them in place.
struct ModelRest {
    tokenizer_files: Vec<learner::checkpoint::ExtraFile>,
    notes: Vec<String>,
}

impl<E: Engine> RunParts<E> {
    fn new(engine: &Arc<E>, config: &RunConfig, request: &RunRequest<'_>, start: &RunStart) -> Result<Self> {
        let files = ModelFiles::read_at(start.model.clone(), request.families)?;
        let files = files.with_positions(config.model.positions_max);
        let prompts = JudgedPrompts::of_training(config, &files, request.verifiers)?;
        let evaluations = config.evaluations();
        let held_out =
            |evaluation| JudgedPrompts::held_out(evaluation, &files.text, &files.decoder, request.verifiers);
        let held_out = evaluations.iter().map(held_out).collect::<Result<Vec<_>>>()?;
        let surveys = Surveys::of(config, &prompts, &held_out);
        let packed = packed_base(config.model.dtype, config.learner.lora.is_some(), config.run.device);
        let mut model = files.load(&engine.device(), packed)?;
        let adapters = LoraRequest::of_learner(&config.learner, config.run.seed, start.point.is_some());
        let base;
        (model.decoder, base) = adapters.prepare(model.decoder, &start.model)?;
        let mode = request.mode.clone().unwrap_or_else(|| modes::of_config(&config.rollout.mode));
        let of_actors = Arc::clone(&mode);
        let actors = Actors::new(engine, config, &model, start, prompts, of_actors, &request.bench)?;
        let evaluators = evaluations.iter().zip(held_out).map(|(evaluation, held_out)| {
            let evaluator = Evaluator::of(engine, evaluation, held_out, &model.text, &model.decoder.config)?;
            Ok(evaluator.with_mode(Arc::clone(&mode)))
        });
        let evaluators = evaluators.collect::<Result<Vec<_>>>()?;
        let Model { decoder, tokenizer_files, notes, .. } = model;
        let trained = TrainedModel { decoder, base };
        let learner = new_learner(Arc::clone(engine) as _, config, request, trained, start)?;
        Ok(Self { learner, evaluators, actors, model: ModelRest { tokenizer_files, notes }, surveys })
    }
}

/// A model whose weights, or whose adapters to a base, are trained.
struct TrainedModel {
    decoder: Decoder,
    base: Option<BaseModel>,
}

fn new_learner(
    engine: Arc<dyn TrainingEngine>,
    config: &RunConfig,
    request: &RunRequest<'_>,
    TrainedModel { decoder, base }: TrainedModel,
    start: &RunStart,
) -> Result<Trainer> {
    let dtype = config.model.dtype;
    let reference = model::reference(&config.learner.kl, request.families, &decoder, dtype)?;
    let (learner, optimizer) = (config.learner.clone(), config.optimizer.clone());
    let (temperature, steps) = (config.rollout.temperature, config.run.steps);
    let learner = Trainer::new(engine, decoder, learner, optimizer, temperature, steps, reference)?;
    let mut learner = learner.with_base(base);
    if let Some(loss) = &request.loss {
        learner = learner.with_loss(Arc::clone(loss));
    }
    if let Some(point) = &start.point {
        learner::checkpoint::load(&point.folder, &mut learner, Restore::Everything)?;
    } else if let Some(moments) = &start.moments {
        learner::checkpoint::load(moments, &mut learner, Restore::Optimizer)?;
    }
    Ok(learner.with_reward_weights(reward_weights(&config.rewards)))
}
