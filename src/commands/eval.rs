//! `longhaul eval`: what a model answers to held-out prompts, and what the answers are worth.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use kernels::Engine;
use serde_json::json;

use crate::cli::EvalArgs;
use crate::commands::report_place::ReportPlace;
use crate::config::Config;
use crate::model::engine::with_engine;
use crate::model::{ModelFiles, tell};
use crate::records::answers;
use crate::records::output::{Inputs, Output};
use crate::run::eval_report::EvalReport;
use crate::run::eval_table::eval_table;
use crate::run::evaluator::{Evaluated, Evaluator};
use crate::run::prompts::no_custom_verifiers;
use crate::watch::log::start_log;

/// Prints what a model answers to held-out prompts, judged, and writes the answers where that is asked for.
///
/// # Errors
/// What is wrong with the config, the model or the data, or the file that cannot be written.
pub fn eval(args: &EvalArgs) -> Result<()> {
    let config = Config::load(&args.config, &args.overrides.set)?;
    let (device, threads) = config.device();
    with_engine!(device, threads, |engine| eval_on(&engine, args, &config))
}

fn eval_on<E: Engine>(engine: &Arc<E>, args: &EvalArgs, config: &Config) -> Result<()> {
    let _log = start_log(None, true)?;
    let evaluations = config.evaluations();
    if evaluations.is_empty() {
        bail!("{}: eval.data names no held-out file", args.config.display());
    }
    let inputs = inputs(args, config);
    // A file that cannot be written is said before anything is decoded.
    let output = args.output.as_deref().map(|path| Output::create(path, &inputs)).transpose()?;
    let place =
        ReportPlace::of(args.json.as_deref(), &inputs, output.as_ref().is_some_and(Output::is_stdout))?;
    let files = ModelFiles::read(&args.model, args.base.as_deref())?.with_positions(config.positions_max());
    tell(&files.notes);
    let (text, decoder) = (&files.text, &files.decoder);
    let mut evaluators = Vec::new();
    for evaluation in &evaluations {
        evaluators.push(Evaluator::new(engine, evaluation, text, decoder, &no_custom_verifiers)?);
    }
    let dtype = match config {
        Config::Train(config) => config.model.dtype,
        Config::Sft(config) => config.model.dtype,
    };
    let policy = Arc::new(files.load_policy(&**engine, dtype)?);
    let (mut reports, mut all) = (Vec::new(), Vec::new());
    for evaluator in &mut evaluators {
        let Evaluated { report, answers } = evaluator.run(Arc::clone(&policy), 0)?;
        place.tell(&report.line());
        reports.push(report);
        all.extend(answers);
    }
    if let Some(output) = output {
        answers::write(output, &all)?;
    }
    place.tell(&eval_table(&reports));
    place.write(&as_json(&reports))
}

/// One set without a name as it is, several by their names.
fn as_json(reports: &[EvalReport]) -> serde_json::Value {
    match reports {
        [report] if report.set.is_none() => json!(report),
        reports => {
            let named = reports.iter().map(|report| (report.set.as_deref().unwrap_or_default(), report));
            json!({"sets": named.collect::<BTreeMap<_, _>>()})
        }
    }
}

/// The files that the command reads, none of which it writes.
fn inputs(args: &EvalArgs, config: &Config) -> Inputs {
    let mut inputs = Inputs::default();
    let files = match config {
        Config::Train(config) => config.files_read(),
        Config::Sft(config) => config.files_read(),
    };
    files
        .into_iter()
        .chain([args.config.as_path(), args.model.as_path()])
        .for_each(|path: &Path| inputs.note(path));
    inputs
}
