//! `longhaul sft`: a first model from demonstrations, or a warm start of a given one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use kernels::{DecoderConfig, Engine, Precision};
use learner::checkpoint::ExtraFile;
use learner::config::SftConfig;
use learner::sft::SupervisedSequence;
use learner::{Supervised, Trainer};
use rewards::{DemonstrationConfig, Split};
use rollout::{DataConfig, Demonstration, DemonstrationNeeds, Learn, Needs, PromptSource, Survey, Text};

use crate::cli::SftArgs;
use crate::config::{SftRunConfig, SftSection, packed_base};
use crate::model::adapters::{LoraRequest, parameters, parameters_line};
use crate::model::engine::with_engine;
use crate::model::policy::Policy;
use crate::model::{Model, ModelFiles};
use crate::records::answers::write_in;
use crate::records::folder::RunFolder;
use crate::records::output::keep_apart;
use crate::records::writer::MetricsWriter;
use crate::run::checkpoints;
use crate::run::eval_report::EvalReport;
use crate::run::evaluator::{Evaluated, Evaluator};
use crate::run::prompts::{JudgedPrompts, no_custom_verifiers, same_file, tell};
use crate::watch::log::start_log;
use crate::watch::progress::{Progress, Summary};
use crate::watch::shutdown::Shutdown;

/// Steps between two lines on the terminal: one a few seconds for a small model.
const LINE_STEPS: u64 = 25;

/// Runs the supervised steps of a config and writes the model.
///
/// # Errors
/// What is wrong with the config, the model or the data.
pub fn sft(args: &SftArgs) -> Result<()> {
    let config = SftRunConfig::load(&args.config, &args.overrides.set)?;
    let place = &args.place;
    let read: Vec<_> = config.files_read().into_iter().chain([args.config.as_path()]).collect();
    keep_apart(place.run.as_deref(), place.overwrite, &read)?;
    with_engine!(config.run.device, config.run.threads, |engine| sft_on(engine, args, &config))
}

fn sft_on<E: Engine>(engine: Arc<E>, args: &SftArgs, config: &SftRunConfig) -> Result<()> {
    let (place, device) = (&args.place, engine.device());
    let name = args.config.file_stem().map_or("sft".into(), |stem| stem.to_string_lossy());
    // A model that cannot be read must not cost the run that --overwrite replaces.
    let base = config.model.base.as_deref();
    let files = config.model.path.as_ref().map(|path| ModelFiles::read(path, base)).transpose()?;
    let files = files.map(|files| files.with_positions(config.model.positions_max));
    files.as_ref().map(|files| adapters_of(config).looked_at(files)).transpose()?;
    let looked_at = files.as_ref().map(|files| SftPrompts::open(config, &files.text, &files.decoder));
    let looked_at = looked_at.transpose()?;
    let model_place = files.as_ref().map(|files| files.place().clone());
    let packed = packed_base(config.model.dtype, config.sft.lora.is_some(), config.run.device);
    let given = files.map(|files| files.load(&device, packed)).transpose()?;
    let folder = RunFolder::create(place.run.as_deref(), &name, place.overwrite, &config.resolved())?;
    let _log = start_log(Some(&folder), true)?;
    let model = match (given, &config.model.create) {
        (Some(model), _) => model,
        (None, Some(create)) => Model::create(create, config.run.seed, folder.path(), &device)?,
        (None, None) => bail!("model: neither path nor create is given"),
    };
    model.tell();
    let prompts = match looked_at {
        Some(prompts) => prompts,
        None => SftPrompts::open(config, &model.text, &model.decoder.config)?,
    };
    same_file(&config.data, &config.eval).iter().for_each(|note| tracing::warn!("{note}"));
    tell(&prompts.survey);
    let rows_skipped = prompts.survey.rows_skipped();
    let evaluators = config.evaluations().into_iter().zip(prompts.held_out).map(|(evaluation, held_out)| {
        tell(&held_out.survey);
        Evaluator::of(&engine, &evaluation, held_out, &model.text, &model.decoder.config)
    });
    let evaluators = evaluators.collect::<Result<Vec<_>>>()?;
    let SftSection { batch_tokens_max, gradients, lora, steps_max, .. } = config.sft.clone();
    let cuts = SftConfig { batch_tokens_max, gradients, lora };
    let Model { decoder, tokenizer_files, .. } = model;
    let (decoder, base) = match &model_place {
        Some(place) => adapters_of(config).prepare(decoder, place)?,
        // A new model is trained whole, as the config's check has seen to.
        None => (decoder, None),
    };
    let optimizer = config.optimizer.clone();
    let learner = Trainer::supervised(Arc::clone(&engine) as _, decoder, cuts, optimizer, steps_max)?;
    let learner = learner.with_base(base);
    let demonstrations = prompts.demonstrations;
    let metrics = MetricsWriter::create(folder.path())?;
    let shutdown = Shutdown::listen(|| {})?;
    WarmStart {
        engine,
        config,
        learner,
        evaluators,
        tokenizer_files,
        folder,
        metrics,
        demonstrations,
        rows_skipped,
    }
    .run(&shutdown)
}

/// The adapters that an sft run trains.
pub(crate) fn adapters_of(config: &SftRunConfig) -> LoraRequest<'_> {
    let section = config.sft.lora.as_ref();
    LoraRequest { key: "sft.lora", section, seed: config.run.seed, resumes: false }
}

/// What an sft run learns from and is measured on, all looked at.
pub(crate) struct SftPrompts {
    pub(crate) demonstrations: Demonstrations,
    pub(crate) survey: Survey,
    /// One for each set.
    pub(crate) held_out: Vec<JudgedPrompts>,
}

impl SftPrompts {
    pub(crate) fn open(config: &SftRunConfig, text: &Arc<Text>, decoder: &DecoderConfig) -> Result<Self> {
        let (demonstrations, survey) = Demonstrations::new(config, text, decoder.max_positions)?;
        let evaluations = config.evaluations();
        let held_out = evaluations
            .iter()
            .map(|evaluation| JudgedPrompts::held_out(evaluation, text, decoder, &no_custom_verifiers));
        Ok(Self { demonstrations, survey, held_out: held_out.collect::<Result<_>>()? })
    }
}

/// Where the demonstrations of each step come from: the phases in their order, then the section itself.
pub(crate) struct Demonstrations {
    parts: Vec<DemonstrationPart>,
    learn: Learn,
    batch_size: u64,
}

/// Some steps' demonstrations.
struct DemonstrationPart {
    /// The step before which they count.
    end: u64,
    /// Parts of one file share it.
    prompts: Arc<PromptSource>,
    styles: Option<DemonstrationConfig>,
}

impl DemonstrationPart {
    fn demonstration(&self, index: u64, learn: Learn) -> Result<Demonstration> {
        Ok(self.prompts.demonstration(index, self.styles.as_ref(), learn)?)
    }
}

impl Demonstrations {
    /// All demonstrations, looked at; `positions` is how long a sequence may be.
    fn new(config: &SftRunConfig, text: &Arc<Text>, positions: usize) -> Result<(Self, Survey)> {
        let learn = config.sft.learn;
        let demonstrations = DemonstrationNeeds { learn, tokens_max: positions };
        let needs = Needs { demonstrations: Some(demonstrations), ..Needs::default() };
        let open = |data: &DataConfig| {
            PromptSource::open(data, Split::Train, config.run.seed, Arc::clone(text), &needs)
        };
        let (source, survey) = open(&config.data)?;
        let source = Arc::new(source);
        let mut parts = Vec::new();
        let mut end = 0;
        for phase in &config.sft.phases {
            end += phase.steps;
            let mut data = config.data.clone();
            let prompts = match (&mut data, phase.difficulty_max) {
                (DataConfig::Task(task), Some(difficulty_max)) => {
                    task.difficulty_max = difficulty_max;
                    task.difficulty_min = phase.difficulty_min.unwrap_or(task.difficulty_min);
                    Arc::new(open(&data)?.0)
                }
                _ => Arc::clone(&source),
            };
            let styles = phase.demonstrations.clone().or(config.sft.demonstrations.clone());
            parts.push(DemonstrationPart { end, prompts, styles });
        }
        parts.push(DemonstrationPart {
            end: u64::MAX,
            prompts: source,
            styles: config.sft.demonstrations.clone(),
        });
        Ok((Self { parts, learn, batch_size: config.sft.batch_size as u64 }, survey))
    }

    /// The first one, to be shown.
    pub(crate) fn first(&self) -> Result<Demonstration> {
        self.parts[0].demonstration(0, self.learn)
    }

    /// How often the data has been gone through when the steps of this number are made, where it has an end.
    fn epoch(&self, steps: u64) -> Option<f64> {
        let prompts = self.part(steps.saturating_sub(1)).prompts.epoch_prompts()?;
        Some((steps * self.batch_size) as f64 / prompts as f64)
    }

    fn part(&self, step: u64) -> &DemonstrationPart {
        self.parts.iter().find(|part| step < part.end).expect("the last part has no end")
    }

    /// The sequences of one step; no prompt comes twice in a part.
    fn batch(&self, step: u64) -> Result<Vec<SupervisedSequence>> {
        let part = self.part(step);
        let sequence = |index| {
            let Demonstration { prompt_tokens, target_tokens, given } =
                part.demonstration(index, self.learn)?;
            Ok(SupervisedSequence { prompt_tokens, target_tokens, given })
        };
        (step * self.batch_size..(step + 1) * self.batch_size).map(sequence).collect()
    }
}

struct WarmStart<'a, E> {
    engine: Arc<E>,
    config: &'a SftRunConfig,
    learner: Trainer<Supervised>,
    evaluators: Vec<Evaluator<E>>,
    tokenizer_files: Vec<ExtraFile>,
    folder: RunFolder,
    metrics: MetricsWriter,
    demonstrations: Demonstrations,
    /// Rows of the data that are left out.
    rows_skipped: usize,
}

impl<E: Engine> WarmStart<'_, E> {
    fn run(mut self, shutdown: &Shutdown) -> Result<()> {
        let steps = self.config.sft.steps_max;
        let facts = [
            ("model", parameters_line(self.learner.decoder())),
            ("step", format!("{} demonstrations", self.config.sft.batch_size)),
            ("run", self.folder.path().display().to_string()),
        ];
        let progress = Progress::start(self.config.metrics.console, "longhaul sft", &facts, steps);
        let before = if self.config.eval.before { self.evaluate(&progress)? } else { Vec::new() };
        let start = Instant::now();
        let mut last = Vec::new();
        while self.learner.version() < steps && !shutdown.requested() {
            let found = self.step(&progress, start)?;
            let accuracy = accuracy(&found);
            last = if found.is_empty() { last } else { found };
            if let (Some(accuracy), Some(wanted)) = (accuracy, self.config.sft.stop_accuracy)
                && accuracy >= wanted
            {
                break;
            }
        }
        let model = self.save()?;
        progress.finish(&Summary {
            steps: self.learner.version(),
            seconds: start.elapsed().as_secs_f64(),
            stopped: shutdown.requested(),
            accuracy_before: accuracy(&before),
            accuracy_after: accuracy(&last),
            problems: before.first().or(last.first()).map_or(0, |report| report.problems),
            run_folder: self.folder.path().to_owned(),
            model,
        });
        Ok(())
    }

    /// One step; what was found in each set, where the step ended with an evaluation.
    fn step(&mut self, progress: &Progress, start: Instant) -> Result<Vec<EvalReport>> {
        let steps = self.config.sft.steps_max;
        let report = self.learner.step(&self.demonstrations.batch(self.learner.version())?)?;
        let step = report.version;
        let mut metrics = vec![
            ("loss".to_owned(), report.loss),
            ("entropy".to_owned(), report.entropy),
            ("grad_norm".to_owned(), report.grad_norm),
            ("learning_rate".to_owned(), report.learning_rate),
            ("training/target_tokens".to_owned(), report.target_tokens as f64),
            ("timing_s/step".to_owned(), report.seconds),
        ];
        if step == 1 {
            let decoder = self.learner.decoder();
            metrics.push(("training/parameters/trained".to_owned(), decoder.trained_count() as f64));
            metrics.push(("training/parameters/total".to_owned(), parameters(decoder) as f64));
        }
        if self.rows_skipped > 0 {
            metrics.push(("data/rows_skipped".to_owned(), self.rows_skipped as f64));
        }
        metrics.extend(self.demonstrations.epoch(step).map(|epoch| ("data/epoch".to_owned(), epoch)));
        if step % LINE_STEPS == 0 || step == steps {
            let left = start.elapsed().as_secs_f64() / step as f64 * (steps - step) as f64;
            progress.note(&format!(
                "step {step}/{steps}  loss {:.4}  entropy {:.4}  {:.0} tokens/s  {left:.0} s left",
                report.loss,
                report.entropy,
                report.packed_tokens as f64 / report.seconds
            ));
        }
        let eval = &self.config.eval;
        let on_the_way = eval.every_steps > 0 && step.is_multiple_of(eval.every_steps) && step < steps;
        let found =
            if on_the_way || (step == steps && eval.after) { self.evaluate(progress)? } else { Vec::new() };
        metrics.extend(found.iter().flat_map(EvalReport::metrics));
        self.metrics.record(step, &metrics, &[])?;
        if self.config.checkpoint.every_steps > 0 && step % self.config.checkpoint.every_steps == 0 {
            self.save()?;
        }
        Ok(found)
    }

    fn evaluate(&mut self, progress: &Progress) -> Result<Vec<EvalReport>> {
        if self.evaluators.is_empty() {
            return Ok(Vec::new());
        }
        let policy = Arc::new(Policy::new(&*self.engine, self.learner.decoder(), Precision::F32)?);
        let version = self.learner.version();
        let mut reports = Vec::new();
        for evaluator in &mut self.evaluators {
            let Evaluated { report, answers } = evaluator.run(Arc::clone(&policy), version)?;
            progress.note(&format!("held-out problems at step {version}: {}", report.line()));
            if self.config.metrics.evals && !answers.is_empty() {
                write_in(&self.folder.evaluation(version), evaluator.set(), &answers)?;
            }
            reports.push(report);
        }
        Ok(reports)
    }

    fn save(&self) -> Result<PathBuf> {
        let path = self.folder.checkpoint(self.learner.version());
        learner::checkpoint::save(&path, &self.learner, &self.tokenizer_files)?;
        checkpoints::prune(&self.folder, &self.config.checkpoint)?;
        Ok(path)
    }
}

/// The accuracy in the first set, which is the one that a run is told by.
fn accuracy(reports: &[EvalReport]) -> Option<f64> {
    reports.first().and_then(|report| report.accuracy)
}
