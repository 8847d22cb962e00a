//! `longhaul bench segments`: the real trainer by the number of segments. Each row is a training run in a process of
//! its own, in a folder that is removed afterwards.
//!
//! With lengths from outside the model draws as ever and the answers are worth nothing, so their rewards are made up:
//! every second one is right, so that every group teaches something.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use kernels::{Engine, Precision};
use rewards::{Answer, RewardConfig, RewardError, RewardKind, TruncatedReward, Verdict, Verifier};
use simulate::LengthDistribution;

use super::{Scratch, shape};
use crate::bench::rows::{BUILT_IN, BUILT_IN_LENGTHS, SegmentRow, compare, metrics_steps, row_config};
use crate::cli::BenchSegmentsArgs;
use crate::config::Console;
use crate::config::RunConfig;
use crate::model::engine::with_engine;
use crate::model::policy::Policy;
use crate::model::{Model, write_random};
use crate::run::evaluator::Evaluator;
use crate::run::prompts::no_custom_verifiers;
use crate::run::request::BenchOverrides;
use crate::run::{RunRequest, train};
use crate::watch::shutdown::Shutdown;

/// The name of the made-up reward.
const ALTERNATING: &str = "alternating";

/// Prints one row for each number of segments.
///
/// # Errors
/// If the config, the shape or the lengths cannot be, or a run fails.
pub fn segments(args: &BenchSegmentsArgs) -> Result<()> {
    if args.as_row {
        println!("{}", serde_json::to_string(&row(args)?)?);
        return Ok(());
    }
    let scratch = Scratch::new()?;
    // A signal reaches the row's process as well; with that one ended, the folder is removed here.
    let shutdown = Shutdown::listen(|| {})?;
    let plan = MeasurementPlan::new(args, scratch.path())?;
    if !args.json {
        println!("{}", SegmentRow::head());
    }
    let repeats = args.repeats.max(1);
    let mut measured = vec![Vec::new(); args.segments.len()];
    let mut rows = Vec::new();
    for repeat in 0..repeats {
        let mut trained_tokens = None;
        for (place, config) in plan.rows.iter().enumerate() {
            let segments = args.segments[place];
            let row = plan.in_child(segments, config, repeat, trained_tokens);
            if shutdown.requested() {
                bail!("stopped");
            }
            let row = row?;
            trained_tokens = trained_tokens.or(plan.evaluates.then_some(row.trained_tokens as u64));
            if repeats > 1 {
                let (number, speed) = (repeat + 1, row.trained_tokens_per_s);
                eprintln!("{segments} segments, {number} of {repeats}: {speed:.1} tokens/s");
            }
            measured[place].push(row);
            if repeat + 1 == repeats {
                rows.push(SegmentRow::median(&measured[place]));
                compare(&mut rows);
                print_row(&rows[place], args.json)?;
            }
        }
    }
    Ok(())
}

fn print_row(row: &SegmentRow, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(row)?);
    } else {
        println!("{}", row.line());
    }
    Ok(())
}

/// What all rows have in common, and the config of each.
struct MeasurementPlan<'a> {
    folder: &'a Path,
    rows: Vec<RunConfig>,
    lengths: Option<String>,
    evaluates: bool,
}

impl<'a> MeasurementPlan<'a> {
    fn new(args: &BenchSegmentsArgs, folder: &'a Path) -> Result<Self> {
        let given = args.lengths.as_deref();
        let lengths = given.or(args.config.is_none().then_some(BUILT_IN_LENGTHS)).map(str::to_owned);
        lengths.as_deref().map(LengthDistribution::parse).transpose()?;
        let base = base_config(args, folder)?;
        let eval = &base.eval;
        if lengths.is_some() && args.config.is_some() {
            eprintln!("{}", left_aside(&base));
        }
        let evaluates = lengths.is_none()
            && (eval.before || eval.after || eval.every_steps > 0)
            && !base.evaluations().is_empty();
        let row = |segments: &usize| {
            let mut config = row_config(&base, *segments, args.slots);
            config.metrics.rollouts = false;
            config.metrics.console = Console::Quiet;
            if lengths.is_some() {
                reward_by_place(&mut config);
            }
            // Before the first run, which may take long: a number that does not divide is a mistake of the call.
            config.rollout.check().map(|()| config)
        };
        Ok(Self {
            folder,
            rows: args.segments.iter().map(row).collect::<Result<_, _>>()?,
            lengths,
            evaluates,
        })
    }

    /// Runs a row in a process of its own.
    fn in_child(
        &self,
        segments: usize,
        config: &RunConfig,
        repeat: usize,
        trained_tokens: Option<u64>,
    ) -> Result<SegmentRow> {
        let file = self.folder.join(format!("segments-{segments}.toml"));
        let mut config = config.clone();
        config.run.seed += repeat as u64;
        std::fs::write(&file, config.resolved()).with_context(|| file.display().to_string())?;
        let mut child = Command::new(std::env::current_exe()?);
        child.args(["bench", "segments", "--as-row", "--segments", &segments.to_string()]).arg(&file);
        if let Some(lengths) = &self.lengths {
            child.args(["--lengths", lengths]);
        }
        if self.evaluates {
            child.arg("--evaluate");
        }
        if let Some(tokens) = trained_tokens {
            child.args(["--trained-tokens", &tokens.to_string()]);
        }
        let output = child.output()?;
        let run = run_of(&file);
        if run.exists() {
            std::fs::remove_dir_all(&run).with_context(|| run.display().to_string())?;
        }
        if !output.status.success() {
            bail!("{segments} segments: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let printed = String::from_utf8_lossy(&output.stdout);
        let line = printed.lines().next_back().unwrap_or_default();
        serde_json::from_str(line).with_context(|| format!("{segments} segments printed {line:?}"))
    }
}

/// The config that rows differ from, and with neither config nor model a random model.
fn base_config(args: &BenchSegmentsArgs, folder: &Path) -> Result<RunConfig> {
    let mut set = args.overrides.set.clone();
    if let Some(steps) = args.steps {
        set.push(format!("run.steps={steps}"));
    }
    let quoted = |path: &Path| toml::Value::String(path.to_string_lossy().into_owned());
    if let Some(file) = &args.config {
        set.extend(args.model.as_deref().map(|model| format!("model.path={}", quoted(model))));
        return Ok(RunConfig::load(file, &set)?);
    }
    let model = match &args.model {
        Some(model) => model.clone(),
        None => {
            let made = folder.join("model");
            std::fs::create_dir_all(&made).with_context(|| made.display().to_string())?;
            write_random(shape(&args.shape)?, 1, &made).with_context(|| format!("--shape {}", args.shape))?;
            made
        }
    };
    let file = folder.join("built-in.toml");
    set.insert(0, format!("model.path={}", quoted(&model)));
    std::fs::write(&file, BUILT_IN).with_context(|| file.display().to_string())?;
    Ok(RunConfig::load(&file, &set)?)
}

/// What of a config does not count where lengths are given.
fn left_aside(config: &RunConfig) -> String {
    let rollout = &config.rollout;
    let keys = [
        ("[[rewards]]", true),
        ("[[eval.rewards]]", !config.eval.rewards.is_empty()),
        ("rollout.truncated_reward", rollout.truncated_reward != TruncatedReward::Scored),
        ("rollout.stop", !rollout.stop.is_empty()),
        ("rollout.stop_token_ids", !rollout.stop_token_ids.is_empty()),
        ("rollout.min_tokens", rollout.min_tokens > 0),
    ];
    let keys: Vec<&str> = keys.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect();
    format!(
        "outputs end at the lengths of --lengths and every second one is right; not used: {}",
        keys.join(", ")
    )
}

/// Rewards that do not depend on what was answered, and no stops: outputs end where the given lengths say.
fn reward_by_place(config: &mut RunConfig) {
    config.rewards = vec![RewardConfig {
        name: ALTERNATING.to_owned(),
        weight: 1.0,
        correctness: true,
        gate: None,
        kind: RewardKind::Custom {},
    }];
    config.eval.rewards.clear();
    config.rollout.truncated_reward = TruncatedReward::Scored;
    config.rollout.stop.clear();
    config.rollout.stop_token_ids.clear();
    config.rollout.min_tokens = 0;
}

/// Every second answer of those that are asked about together is right.
struct Alternating;

impl Verifier for Alternating {
    fn verify(&self, _: &Answer<'_>) -> Result<Verdict, RewardError> {
        Ok(Verdict::from(false))
    }

    fn verify_all(&self, answers: &[Answer<'_>]) -> Vec<Result<Verdict, RewardError>> {
        (0..answers.len()).map(|place| Ok(Verdict::from(!place.is_multiple_of(2)))).collect()
    }
}

fn alternating() -> BTreeMap<String, Box<dyn Verifier>> {
    BTreeMap::from([(ALTERNATING.to_owned(), Box::new(Alternating) as Box<dyn Verifier>)])
}

/// The run folder of a row's config.
fn run_of(file: &Path) -> PathBuf {
    file.with_extension("run")
}

/// Trains as the config says, in this process.
fn row(args: &BenchSegmentsArgs) -> Result<SegmentRow> {
    let (Some(file), [segments]) = (&args.config, &args.segments[..]) else {
        bail!("--as-row takes a config and one number of segments");
    };
    let config = RunConfig::load(file, &args.overrides.set)?;
    let lengths = args.lengths.as_deref().map(LengthDistribution::parse).transpose()?;
    let run = run_of(file);
    let mut request = RunRequest::new("bench");
    request.folder = Some(run.clone());
    request.verifiers = &alternating;
    (request.owns_process, request.console) = (true, true);
    request.bench = BenchOverrides { lengths, trained_tokens: args.trained_tokens };
    let outcome = train(config.clone(), &request)?;
    let steps = metrics_steps(&run, config.run.schedule)?;
    let mut row = SegmentRow::of(*segments, config.rollout.trajectories_open_max, &steps)?;
    row.per_step = steps.iter().skip(1).map(|step| step.costs).collect();
    if let Some(wanted) = args.trained_tokens
        && row.trained_tokens < wanted as f64
    {
        bail!("{} of {wanted} tokens were learned from in twice the steps", row.trained_tokens);
    }
    if args.evaluate {
        let (device, threads) = (config.run.device, config.run.threads);
        row.accuracy = with_engine!(device, threads, |engine| accuracy(&engine, &config, &outcome.model))?;
    }
    Ok(row)
}

/// The held-out accuracy of a model.
fn accuracy<E: Engine>(engine: &Arc<E>, config: &RunConfig, model: &Path) -> Result<Option<f64>> {
    let evaluations = config.evaluations();
    let evaluation = evaluations.first().context("the config has no held-out problems")?;
    let model = Model::load(model, &engine.device())?;
    let (text, decoder) = (&model.text, &model.decoder);
    let mut evaluator = Evaluator::new(engine, evaluation, text, &decoder.config, &no_custom_verifiers)?;
    let policy = Policy::new(&**engine, decoder, Precision::F32)?;
    Ok(evaluator.run(Arc::new(policy), 0)?.report.accuracy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_right_and_wrong_answers() {
        let fields = serde_json::Map::new();
        let answer = Answer {
            prompt: "",
            completion: "",
            references: &[],
            fields: &fields,
            tokens: 1,
            truncated: false,
        };
        let verdicts = Alternating.verify_all(&[answer; 4]);
        let values: Vec<f64> = verdicts.into_iter().map(|verdict| verdict.unwrap().value).collect();
        assert_eq!(values, [0.0, 1.0, 0.0, 1.0]);
    }

    #[test]
    fn what_lengths_leave_aside_is_said() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart.toml");
        let set = ["rollout.stop=[\"x\"]", "rollout.min_tokens=2"].map(str::to_owned);
        let said = left_aside(&RunConfig::load(&file, &set).unwrap());
        let keys = "[[rewards]], rollout.truncated_reward, rollout.stop, rollout.min_tokens";
        assert!(said.ends_with(&format!("not used: {keys}")), "{said}");
    }

    #[test]
    fn rows_differ_in_what_they_are_about_alone() {
        let place = tempfile::tempdir().unwrap();
        let mut args = args();
        let plan = MeasurementPlan::new(&args, place.path()).unwrap();
        let [whole, two] = &plan.rows[..] else { panic!("two rows") };
        assert_eq!((whole.rollout.segments_max, two.rollout.segments_max), (1, 2));
        assert_eq!((whole.rollout.trajectories_open_max, two.rollout.trajectories_open_max), (4, 3));
        assert_eq!((whole.queue.staleness_versions_max, two.queue.staleness_versions_max), (0, 24));
        assert_eq!((whole.queue.groups_max, two.queue.groups_max), (1, 2));
        assert_eq!(whole.learner, two.learner);
        assert_eq!(plan.lengths.as_deref(), Some(BUILT_IN_LENGTHS));
        args.segments = vec![3];
        let error = MeasurementPlan::new(&args, place.path()).err().unwrap().to_string();
        assert_eq!(error, "rollout.segments_max: 3 segments do not divide output_tokens_max = 512");
        args.lengths = Some("normal:3".to_owned());
        let error = MeasurementPlan::new(&args, place.path()).err().unwrap().to_string();
        assert!(error.starts_with("lengths: normal:3: neither a file or folder"), "{error}");
    }

    fn args() -> BenchSegmentsArgs {
        BenchSegmentsArgs {
            config: None,
            model: None,
            shape: "16,1,2,1,32,64".to_owned(),
            segments: vec![0, 2],
            lengths: None,
            steps: Some(2),
            slots: Some(3),
            repeats: 1,
            json: true,
            as_row: false,
            evaluate: false,
            trained_tokens: None,
            overrides: Default::default(),
        }
    }
}
