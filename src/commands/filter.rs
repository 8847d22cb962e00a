//! `longhaul filter`: keeps the rows whose prompts a model solves some times of n and not always, with the measured rate.
//! What was measured stands in a file beside the output, so that a command that was killed goes on.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kernels::{CachePrecision, CacheRoom, Engine, Precision};
use rollout::{
    DataConfig, Ends, EvaluationParts, EvaluationPlan, Group, Heartbeat, JsonlConfig, OutputLimits, Prompt,
    PromptSource, RowFile, Scorer, Versioned, evaluate, modes,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::FilterArgs;
use crate::config::{RunConfig, weights_precision};
use crate::model::ModelFiles;
use crate::model::engine::with_engine;
use crate::model::generator::DecoderGenerator;
use crate::model::policy::sampling;
use crate::records::output::{Inputs, Output};
use crate::run::prompts::{JudgedPrompts, no_custom_verifiers, tell};
use crate::watch::log::start_log;

/// The field that a row gets.
const PASS_RATE: &str = "pass_rate";
/// Answers to one prompt at most.
const SAMPLES_MAX: usize = 1024;
/// Answers of a batch as a multiple of those that are decoded side by side: slots stand empty at its end, and what a killed
/// command has not written down is one batch.
const BATCH_ROUNDS: usize = 4;
/// Width of the longest bar.
const BAR: usize = 40;

/// Measures the prompts of a config and writes the rows that are kept.
///
/// # Errors
/// What is wrong with the config, the model or the data, or with what an earlier command has measured.
pub fn filter(args: &FilterArgs) -> Result<()> {
    let config = RunConfig::load(&args.config, &args.overrides.set)?;
    with_engine!(config.run.device, config.run.threads, |engine| filter_on(&engine, args, config))
}

fn filter_on<E: Engine>(engine: &Arc<E>, args: &FilterArgs, mut config: RunConfig) -> Result<()> {
    let _log = start_log(None, true)?;
    let keep = check(args, &config)?;
    let file = one_file(args, &mut config)?;
    if let Some(model) = &args.model {
        config.model.path.clone_from(model);
    }
    let files = ModelFiles::read(&config.model.path, config.model.base.as_deref())?
        .with_positions(config.model.positions_max);
    let prompts = JudgedPrompts::of_training(&config, &files, &no_custom_verifiers)?;
    tell(&prompts.survey);
    let rows = prompts.source.epoch_prompts().context("data.kind = \"task\" has no rows to keep")?;
    let count = args.prompts.map_or(rows, |prompts| rows.min(prompts));
    let mut progress = Progress::open(&args.output, &Settings::of(args, &config, &file))?;
    if !progress.measured.is_empty() {
        eprintln!("{} of {count} prompts were measured before", progress.measured.len());
    }
    measure(engine, args, &config, files, prompts, count, &mut progress)?;
    write_rows(args, &file, &keep, &progress)?;
    progress.finish()
}

/// How often a prompt may be solved to be kept.
struct Keep {
    min: usize,
    max: usize,
}

fn check(args: &FilterArgs, config: &RunConfig) -> Result<Keep> {
    let samples = args.samples;
    if !(1..=SAMPLES_MAX).contains(&samples) {
        bail!("--samples {samples}: must be from 1 to {SAMPLES_MAX}");
    }
    let keep = Keep { min: args.min, max: args.max.unwrap_or(samples.saturating_sub(1).max(args.min)) };
    if keep.min > keep.max || keep.max > samples {
        bail!("--min {} --max {}: must be in order and at most --samples {samples}", keep.min, keep.max);
    }
    if !config.rewards.iter().any(|reward| reward.correctness) {
        bail!(
            "{}: nothing says which answers are right: mark one of [[rewards]] with correctness = true",
            args.config.display()
        );
    }
    Ok(keep)
}

/// The one file of the config, whose rows are looked at in its own order.
fn one_file(args: &FilterArgs, config: &mut RunConfig) -> Result<JsonlConfig> {
    let DataConfig::File(data) = &mut config.data else {
        bail!(
            "{}: data.kind = \"task\" makes its problems; there is no file to filter",
            args.config.display()
        );
    };
    if !data.sources.is_empty() {
        bail!(
            "{}: [[data.sources]] are several files, whose rows have other fields; filter one after the other, each \
             with a config of its own",
            args.config.display()
        );
    }
    (data.shuffle, data.shuffle_seed, data.curriculum) = (false, None, None);
    Ok(data.clone())
}

/// Draws and judges the answers that are not there yet.
fn measure<E: Engine>(
    engine: &Arc<E>,
    args: &FilterArgs,
    config: &RunConfig,
    files: ModelFiles,
    prompts: JudgedPrompts,
    count: u64,
    progress: &mut Progress,
) -> Result<()> {
    let open: Vec<u64> = (0..count).filter(|index| !progress.has(*index)).collect();
    if open.is_empty() {
        return Ok(());
    }
    let JudgedPrompts { source, rewards, .. } = prompts;
    crate::model::tell(&files.notes);
    let (rollout, shape) = (&config.rollout, &files.decoder);
    let ends = Ends::new(Arc::clone(&files.text), rollout.stops(), shape.vocabulary)?;
    let min_tokens = ends.min_tokens();
    let scorer = Scorer::new(Arc::clone(&files.text), rewards).with_ends(ends);
    let policy = Arc::new(match weights_precision(rollout.precision) {
        Precision::F32 => files.load_policy(&**engine, config.model.dtype)?,
        rounded => files.load_policy_at(&**engine, rounded)?,
    });
    let mode = modes::of_config(&rollout.mode);
    let tokens_max = rollout.output_tokens_max;
    let plan = EvaluationPlan {
        limits: OutputLimits { segment_tokens_max: tokens_max, output_tokens_max: tokens_max },
        group_size: args.samples,
        seed: config.run.seed,
    };
    let slots = rollout.trajectories_open_max;
    let batch = (BATCH_ROUNDS * slots / args.samples).max(1);
    let (start, mut done) = (Instant::now(), 0);
    for indices in open.chunks(batch) {
        let prompts = prompts_of(&source, indices)?;
        let longest = prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(1);
        let room = CacheRoom { slots, positions: longest + tokens_max, precision: CachePrecision::F32 };
        let mut generator =
            DecoderGenerator::new(Arc::clone(engine), shape, room, sampling(rollout.sampling()))
                .with_min_tokens(min_tokens.clone());
        let weights = Versioned { version: 0, weights: Arc::clone(&policy) };
        let (heartbeat, stop) = (Heartbeat::default(), AtomicBool::new(false));
        let parts = EvaluationParts { scorer: &scorer, mode: &mode, heartbeat: &heartbeat, stop: &stop };
        let groups = evaluate(&mut generator, &weights, &prompts, &plan, parts)?;
        progress.add(&prompts, &groups)?;
        done += indices.len();
        let left = start.elapsed().as_secs_f64() / done as f64 * (open.len() - done) as f64;
        eprintln!("{} of {count} prompts, {left:.0} s left", progress.measured.len());
    }
    Ok(())
}

fn prompts_of(source: &PromptSource, indices: &[u64]) -> Result<Vec<Arc<Prompt>>> {
    indices.iter().map(|index| Ok(Arc::new(source.prompt(*index)?))).collect()
}

/// What the numbers in a progress file depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Settings {
    samples: usize,
    /// The size of the data file: its rows are known by their numbers.
    data_bytes: u64,
    /// The resolved sections that the answers come from.
    config: Value,
}

impl Settings {
    fn of(args: &FilterArgs, config: &RunConfig, data: &JsonlConfig) -> Self {
        let data_bytes =
            data.path.as_ref().and_then(|path| fs::metadata(path).ok()).map_or(0, |file| file.len());
        let (rollout, rewards) = (&config.rollout, &config.rewards);
        let config = serde_json::json!({
            "model": config.model,
            "seed": config.run.seed,
            "data": toml::to_string(&config.data).expect("a section is plain values"),
            "rollout": toml::to_string(rollout).expect("a section is plain values"),
            "rewards": rewards.iter().map(|reward| toml::to_string(reward).expect("plain values")).collect::<Vec<_>>(),
        });
        Self { samples: args.samples, data_bytes, config }
    }
}

/// One prompt that was measured: a line of the progress file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Measured {
    index: u64,
    /// File and line, as prompts are named.
    id: String,
    /// Right answers; none where a verifier gave no verdict.
    right: Option<usize>,
    /// Answers that the output limit cut off, which are wrong.
    cut: usize,
}

/// What was measured so far, in memory and beside the output.
struct Progress {
    path: PathBuf,
    file: File,
    samples: usize,
    measured: Vec<Measured>,
}

impl Progress {
    /// Goes on with the file of an earlier command, or begins one.
    fn open(output: &Path, settings: &Settings) -> Result<Self> {
        let mut name = output.file_name().context("--output has no file name")?.to_owned();
        name.push(".progress");
        let path = output.with_file_name(name);
        let shown = path.display().to_string();
        let samples = settings.samples;
        if !path.exists() {
            let mut file =
                File::options().append(true).create_new(true).open(&path).with_context(|| shown.clone())?;
            writeln!(file, "{}", serde_json::to_string(settings)?).with_context(|| shown.clone())?;
            return Ok(Self { path, file, samples, measured: Vec::new() });
        }
        let text = fs::read_to_string(&path).with_context(|| shown.clone())?;
        // The last line may be torn: the command was killed while it wrote.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let mut lines = whole.lines();
        let before = lines.next().and_then(|line| serde_json::from_str::<Settings>(line).ok());
        if before.is_some_and(|before| before != *settings) {
            bail!(
                "{shown}: was measured with other settings; remove it to begin again, or name another --output"
            );
        }
        let mut measured = Vec::new();
        for (number, line) in lines.enumerate() {
            let line = serde_json::from_str::<Measured>(line)
                .with_context(|| format!("{shown}:{}: remove the file to begin again", number + 2))?;
            measured.push(line);
        }
        let mut file = File::options().append(true).open(&path).with_context(|| shown.clone())?;
        file.set_len(whole.len() as u64).with_context(|| shown.clone())?;
        if whole.is_empty() {
            writeln!(file, "{}", serde_json::to_string(settings)?).with_context(|| shown.clone())?;
        }
        Ok(Self { path, file, samples, measured })
    }

    fn has(&self, index: u64) -> bool {
        // Prompts are measured in their order, so the place is nearly always the index.
        let near = usize::try_from(index).ok().and_then(|place| self.measured.get(place));
        near.is_some_and(|measured| measured.index == index)
            || self.measured.iter().any(|measured| measured.index == index)
    }

    /// Writes down what came of a batch, before anything else is begun.
    fn add(&mut self, prompts: &[Arc<Prompt>], groups: &[Group]) -> Result<()> {
        let mut lines = String::new();
        for prompt in prompts {
            let group = groups.iter().find(|group| group.id == prompt.index);
            let right = group.map(|group| {
                let completions = group.completions.iter();
                completions.filter(|scored| scored.reward.correctness == Some(1)).count()
            });
            let cut = group.map_or(0, |group| {
                group.completions.iter().filter(|scored| scored.completion.truncated()).count()
            });
            let measured = Measured { index: prompt.index, id: prompt.id.clone(), right, cut };
            lines.push_str(&serde_json::to_string(&measured)?);
            lines.push('\n');
            self.measured.push(measured);
        }
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data());
        written.with_context(|| self.path.display().to_string())
    }

    /// Removes the file, now that the output is whole.
    fn finish(self) -> Result<()> {
        fs::remove_file(&self.path).with_context(|| self.path.display().to_string())
    }
}

/// Writes the rows that are kept as they stand, each with its rate, and says what was found.
fn write_rows(args: &FilterArgs, data: &JsonlConfig, keep: &Keep, progress: &Progress) -> Result<()> {
    let path = data.path.as_deref().unwrap_or(Path::new(""));
    let mut inputs = Inputs::default();
    inputs.note(path);
    inputs.note(&args.config);
    let right_of: std::collections::HashMap<&str, Option<usize>> =
        progress.measured.iter().map(|measured| (measured.id.as_str(), measured.right)).collect();
    let mut output = Output::create(&args.output, &inputs)?;
    let mut kept = 0;
    let mut rows = RowFile::open_as(path, data.format)?;
    while let Some(line) = rows.next_row()? {
        let right = right_of.get(line.place(path).as_str()).copied().flatten();
        let Some(right) = right.filter(|right| (keep.min..=keep.max).contains(right)) else { continue };
        let mut fields = rollout::json_object(&line.text?).map_err(anyhow::Error::msg)?;
        fields.insert(PASS_RATE.to_owned(), Value::from(right as f64 / progress.samples as f64));
        output.write_line(&serde_json::to_string(&fields)?)?;
        kept += 1;
    }
    let is_stdout = output.is_stdout();
    output.finish()?;
    let summary = summary(keep, progress, kept);
    // What reads the rows there should find nothing else among them.
    if is_stdout {
        eprint!("{summary}")
    } else {
        print!("{summary}")
    }
    Ok(())
}

/// How many prompts are solved how often.
fn summary(keep: &Keep, progress: &Progress, kept: usize) -> String {
    let samples = progress.samples;
    let mut counts = vec![0usize; samples + 1];
    let mut unscored = 0;
    for measured in &progress.measured {
        match measured.right {
            Some(right) => counts[right.min(samples)] += 1,
            None => unscored += 1,
        }
    }
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let mut text = format!("right of {samples}  prompts\n");
    for (right, count) in counts.iter().enumerate() {
        let bar = "#".repeat((count * BAR).div_ceil(most));
        let mark = if (keep.min..=keep.max).contains(&right) { "kept" } else { "    " };
        text.push_str(&format!("{right:>10}  {count:>7}  {mark}  {bar}\n"));
    }
    let solved: usize = counts.iter().enumerate().map(|(right, count)| right * count).sum();
    let answers = counts.iter().sum::<usize>() * samples;
    let share = 100.0 * solved as f64 / answers.max(1) as f64;
    let measured = progress.measured.len();
    text.push_str(&format!("{kept} of {measured} prompts are kept; {share:.1} % of all answers are right\n"));
    let cut: usize = progress.measured.iter().map(|measured| measured.cut).sum();
    if cut > 0 {
        let share = 100.0 * cut as f64 / answers.max(1) as f64;
        text.push_str(&format!(
            "{share:.1} % of all answers are cut off at rollout.output_tokens_max and count as wrong\n"
        ));
    }
    if unscored > 0 {
        text.push_str(&format!("{unscored} prompts have no verdict and are not kept\n"));
    }
    text
}
