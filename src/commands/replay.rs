//! `longhaul replay`: the learner alone on recorded completions, one step a batch of groups in file order.

use std::sync::Arc;

use anyhow::{Result, bail};
use kernels::model::families;
use kernels::{Decoder, ModelPlace, TrainingEngine};
use learner::checkpoint::ExtraFile;
use learner::{StepReport, Trainer, further_groups};
use rollout::{Group, read_groups};

use crate::cli::ReplayArgs;
use crate::config::{ReplayConfig, packed_base};
use crate::model::adapters::LoraRequest;
use crate::model::engine::with_engine;
use crate::model::{reference, set_positions, tell, tokenizer_files};
use crate::records::folder::RunFolder;
use crate::records::output::keep_apart;
use crate::records::step_metrics::{StepMetrics, nothing_learned};
use crate::records::writer::MetricsWriter;
use crate::run::prompts::reward_weights;
use crate::watch::log::start_log;

/// Makes one optimizer step for every `learner.groups_per_step` groups of the file, with those that it refills; the last
/// may have fewer.
///
/// # Errors
/// Names the file and line of a record that cannot be trained on, or what is wrong with model or config.
pub fn replay(args: &ReplayArgs) -> Result<()> {
    let config = ReplayConfig::load(&args.config, &args.overrides.set)?;
    let mut read = vec![args.config.as_path(), &args.rollouts, &config.model.path];
    read.extend(config.learner.kl.reference.as_deref());
    read.extend(config.model.base.as_deref());
    read.extend(config.learner.lora.as_ref().and_then(|lora| lora.adapter.as_deref()));
    keep_apart(args.place.run.as_deref(), args.place.overwrite, &read)?;
    with_engine!(config.run.device, config.run.threads, |engine| replay_on(engine, args, &config))
}

fn replay_on(engine: Arc<dyn TrainingEngine>, args: &ReplayArgs, config: &ReplayConfig) -> Result<()> {
    let device = engine.device();
    // Ids are given, so the model needs no tokenizer.
    let place = ModelPlace::find(&config.model.path, config.model.base.as_deref())?;
    let (dtype, trains_adapters) = (config.model.dtype, config.learner.lora.is_some());
    let mut decoder = match packed_base(dtype, trains_adapters, config.run.device) {
        Some(precision) => Decoder::load_packed(&place, &families::ALL, precision)?,
        None => Decoder::load_at(&place, &families::ALL, &device)?,
    };
    // The checkpoint says what the model was used for.
    let note = set_positions(&mut decoder.config, config.model.positions_max);
    let groups = read_groups(&args.rollouts)?;
    if groups.is_empty() {
        bail!("{}: no completions", args.rollouts.display());
    }
    let adapters = LoraRequest::of_learner(&config.learner, config.run.seed, false);
    let (decoder, base) = adapters.prepare(decoder, &place)?;
    let reference = reference(&config.learner.kl, &families::ALL, &decoder, dtype)?;
    let batches = batches(groups, config);
    let learner = Trainer::new(
        engine,
        decoder,
        config.learner.clone(),
        config.optimizer.clone(),
        config.temperature(),
        batches.steps.len() as u64,
        reference,
    )?;
    let learner = learner.with_reward_weights(reward_weights(&config.rewards)).with_base(base);
    let to = &args.place;
    let folder = RunFolder::create(to.run.as_deref(), "replay", to.overwrite, &config.resolved())?;
    let _log = start_log(Some(&folder), true)?;
    tell(note.as_slice());
    run(config, learner, batches, &folder, tokenizer_files(&place.base)?)
}

/// The groups of each step, in the order of the file. A step that refills takes the groups that follow in the place of
/// those that teach nothing, as the recorded one did; with the file ends what it can take.
fn batches(groups: Vec<Group>, config: &ReplayConfig) -> Batches {
    let learner = &config.learner;
    let weights = reward_weights(&config.rewards);
    let steps_max = if config.run.steps > 0 { config.run.steps } else { u64::MAX };
    let mut groups = groups.into_iter().peekable();
    let mut batches = Batches { steps: Vec::new(), missing: 0, left: 0 };
    while groups.peek().is_some() && (batches.steps.len() as u64) < steps_max {
        let mut step: Vec<Group> = groups.by_ref().take(learner.groups_per_step).collect();
        loop {
            let further = further_groups(learner, &weights, &step);
            if further == 0 {
                break;
            }
            if groups.peek().is_none() {
                batches.missing = further;
                break;
            }
            step.extend(groups.by_ref().take(further));
        }
        batches.steps.push(step);
    }
    batches.left = groups.count();
    batches
}

/// The groups of a recording by steps.
struct Batches {
    steps: Vec<Vec<Group>>,
    /// Groups that the last step would have taken beyond the end of the recording.
    missing: usize,
    /// Groups of the recording behind the last of `run.steps` steps.
    left: usize,
}

fn run(
    config: &ReplayConfig,
    mut learner: Trainer,
    batches: Batches,
    folder: &RunFolder,
    tokenizer_files: Vec<ExtraFile>,
) -> Result<()> {
    let mut metrics = MetricsWriter::create(folder.path())?;
    if batches.left > 0 {
        tracing::info!(
            "run.steps ends before the recording does: {} of its groups are not replayed",
            batches.left
        );
    }
    let mut learned_steps = 0;
    let steps = batches.steps.len();
    for batch in batches.steps {
        let report = learner.step(&batch)?;
        let mut step = StepMetrics::default();
        step.add_step(&report);
        metrics.record(report.version, &step.into_values(), &[])?;
        learned_steps += u64::from(!report.learned_nothing());
        println!("{}", line(&report));
        if batches.missing > 0 && report.version == steps as u64 {
            tracing::warn!(
                "step {steps}: the recording ends, and {} groups that learner.dynamic_sampling would take are not in it",
                batches.missing
            );
        }
        let (every, step) = (config.checkpoint.every_steps, report.version);
        if every > 0 && step % every == 0 {
            learner::checkpoint::save(&folder.checkpoint(step), &learner, &tokenizer_files)?;
        }
    }
    let last = folder.checkpoint(learner.version());
    learner::checkpoint::save(&last, &learner, &tokenizer_files)?;
    crate::run::checkpoints::prune(folder, &config.checkpoint)?;
    let nothing = if learned_steps == 0 { "; no step had anything to learn from" } else { "" };
    println!("weights in {}{nothing}", last.display());
    Ok(())
}

/// A step for a person.
fn line(report: &StepReport) -> String {
    let start =
        format!("step {}: {} groups, reward {:.4}, ", report.version, report.groups, report.rewards.mean);
    match (nothing_learned(report), &report.update) {
        (None, Some(update)) => {
            format!("{start}loss {:.6}, gradient norm {:.6}", update.loss, update.grad_norm)
        }
        (nothing, _) => start + &nothing.unwrap_or_default(),
    }
}
