//! `longhaul eval`: held-out accuracy, pass@k and lengths of a model.

use std::sync::Arc;

use anyhow::{Result, bail};
use kernels::{Engine, Precision};

use crate::cli::EvalArgs;
use crate::config::Config;
use crate::model::ModelFiles;
use crate::model::engine::with_engine;
use crate::model::policy::Policy;
use crate::run::evaluator::Evaluator;
use crate::run::prompts::no_custom_verifiers;
use crate::watch::log::start_log;

/// Prints what a model answers to held-out prompts, judged.
///
/// # Errors
/// What is wrong with the config, the model or the data.
pub fn eval(args: &EvalArgs) -> Result<()> {
    let config = Config::load(&args.config, &args.overrides.set)?;
    let (device, threads) = config.device();
    with_engine!(device, threads, |engine| eval_on(&engine, args, &config))
}

fn eval_on<E: Engine>(engine: &Arc<E>, args: &EvalArgs, config: &Config) -> Result<()> {
    let _log = start_log(None, true)?;
    crate::model::tell(config.notes());
    let Some(evaluation) = config.evaluation() else {
        bail!("{}: eval.data names no held-out file", args.config.display());
    };
    let files = ModelFiles::read(&args.model, args.base.as_deref())?.with_positions(config.positions_max());
    let model = files.load(&engine.device())?;
    model.tell();
    let (text, decoder) = (&model.text, &model.decoder);
    let mut evaluator = Evaluator::new(engine, &evaluation, text, decoder, &no_custom_verifiers)?;
    let policy = Policy::new(&**engine, &model.decoder, Precision::F32)?;
    let report = evaluator.run(Arc::new(policy), 0)?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{}", report.line());
    }
    Ok(())
}
