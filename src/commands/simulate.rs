//! `longhaul simulate`: what segments and slots would buy, by the real scheduler and queue on a virtual clock. No
//! model is loaded; what work costs is given, found from a run, or a guess.

use std::path::Path;

use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use serde::Serialize;
use simulate::{
    Contention, CostModel, LengthDistribution, Observation, VirtualPlan, VirtualStep, fit_costs,
    run_virtually,
};

use crate::bench::Scratch;
use crate::bench::rows::{
    BUILT_IN, BUILT_IN_LENGTHS, RowStep, SegmentRow, compare, metrics_steps, row_config,
};
use crate::cli::SimulateArgs;
use crate::config::{RunConfig, Schedule};

/// Of settings that are nearly as fast as the fastest one, the one with the fewest segments is recommended.
const NEARLY: f64 = 0.98;
/// Rates that differ by less than this part are one rate.
const EQUAL: f64 = 0.005;
/// The slots that are tried, over those that are set.
const SLOT_FACTORS: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];

/// What is recommended, and why.
#[derive(Debug, Serialize)]
struct Recommendation {
    recommended: Setting,
    /// Trained tokens a second of row 0: whole outputs in turns with the learner.
    whole_outputs_tokens_per_s: f64,
    costs: CostModel,
}

#[derive(Debug, Serialize)]
struct Setting {
    segments: usize,
    slots: usize,
    trained_tokens_per_s: f64,
}

/// Prints one row for each number of segments, and a recommendation.
///
/// # Errors
/// If the config, the lengths or the costs cannot be.
pub fn simulate(args: &SimulateArgs) -> Result<()> {
    let config = config(args)?;
    let lengths = LengthDistribution::parse(&lengths_spec(args)?)?;
    let costs = costs(args)?;
    let simulation = Simulation { config: &config, lengths: &lengths, costs: &costs, args };
    let rows = args.segments.par_iter().map(|segments| simulation.row(*segments, args.slots));
    let mut rows: Vec<SegmentRow> = rows.collect::<Result<_>>()?;
    compare(&mut rows);
    let recommendation = simulation.recommend()?;
    if args.json {
        for row in &rows {
            println!("{}", serde_json::to_string(row)?);
        }
        println!("{}", serde_json::to_string(&recommendation)?);
        return Ok(());
    }
    println!("{}", SegmentRow::head());
    rows.iter().for_each(|row| println!("{}", row.line()));
    println!("\n{}", costs_line(&costs));
    println!("{}", recommendation.line(config.queue.staleness_versions_max));
    recommendation.why_not(&config, &rows).iter().for_each(|note| println!("note: {note}"));
    Ok(())
}

impl Recommendation {
    fn line(&self, staleness_versions_max: u64) -> String {
        let Setting { segments, slots, trained_tokens_per_s } = self.recommended;
        format!(
            "recommended: rollout.segments_max = {segments}, rollout.trajectories_open_max = {slots} \
             ({trained_tokens_per_s:.1} tokens/s): the fewest segments, then slots, within 2 % of the most tokens a \
             second of all rows but 0, at queue.staleness_versions_max = {staleness_versions_max}"
        )
    }

    /// What the recommendation alone would hide: that whole outputs in turns are faster, and that the number of segments
    /// makes no difference.
    fn why_not(&self, config: &RunConfig, rows: &[SegmentRow]) -> Vec<String> {
        let (whole, best) = (self.whole_outputs_tokens_per_s, self.recommended.trained_tokens_per_s);
        let mut notes = Vec::new();
        if whole > best {
            notes.push(format!(
                "whole outputs in turns with the learner (row 0) are faster than that, {whole:.1} tokens/s: in this \
                 setting neither segments nor learning beside decoding gain anything, and run.schedule = \"lockstep\" \
                 with rollout.segments_max = 1 is that row"
            ));
        }
        let mut beside = rows.iter().filter(|row| row.segments > 0);
        let first = beside.next().map(|row| row.trained_tokens_per_s);
        let is_equal = |rate: f64| first.is_some_and(|first| (rate - first).abs() < EQUAL * first);
        if rows.len() > 2 && beside.all(|row| is_equal(row.trained_tokens_per_s)) {
            let why = match config.rollout.in_flight_updates {
                true => ", because with rollout.in_flight_updates every update ends a segment",
                false => "",
            };
            notes.push(format!(
                "the number of segments makes no difference here{why}: what the rows gain over row 0 is learning beside \
                 decoding, and row 1 has it too"
            ));
        }
        notes
    }
}

fn costs_line(costs: &CostModel) -> String {
    format!(
        "costs: decode step {:.3} ms, slot {:.1} us, context token {:.1} ns, prefill token {:.1} us, learned token \
         {:.1} us, learner's step {:.1} ms, contention {:.2} of decoding and {:.2} of learning",
        costs.decode_step_s * 1e3,
        costs.decode_slot_s * 1e6,
        costs.context_token_s * 1e9,
        costs.prefill_token_s * 1e6,
        costs.learn_token_s * 1e6,
        costs.learn_step_s * 1e3,
        costs.contention.decode,
        costs.contention.learn
    )
}

/// No run has more of anything that is counted, and products of two such numbers are still numbers.
const NUMBER_MAX: u64 = 1 << 24;

/// The config with what the command line changes in it.
fn config(args: &SimulateArgs) -> Result<RunConfig> {
    let numbers = [
        ("--staleness", args.staleness),
        ("--group-size", args.group_size.map(|number| number as u64)),
        ("--groups-per-step", args.groups_per_step.map(|number| number as u64)),
        ("--prompt-tokens", Some(args.prompt_tokens as u64)),
    ];
    for (flag, number) in numbers {
        if number.is_some_and(|number| number > NUMBER_MAX) {
            bail!("{flag}: at most {NUMBER_MAX}");
        }
    }
    let scratch = Scratch::new()?;
    let file = match &args.config {
        Some(file) => file.clone(),
        None => {
            let file = scratch.path().join("built-in.toml");
            std::fs::write(&file, BUILT_IN)?;
            file
        }
    };
    let mut set = args.overrides.set.clone();
    if args.config.is_none() {
        // The model is not looked at.
        set.insert(0, "model.path=\".\"".to_owned());
    }
    let mut put = |key: &str, value: Option<u64>| set.extend(value.map(|value| format!("{key}={value}")));
    put("run.steps", args.steps);
    put("rollout.output_tokens_max", args.output_tokens_max.map(|tokens| tokens as u64));
    put("rollout.group_size", args.group_size.map(|size| size as u64));
    put("learner.groups_per_step", args.groups_per_step.map(|groups| groups as u64));
    put("queue.staleness_versions_max", args.staleness);
    // Slots and segments are the rows', and have to be possible before they are.
    put("rollout.segments_max", args.output_tokens_max.map(|_| 1));
    // Read with room for a step, which then becomes room for all that may be on its way.
    put("queue.groups_max", args.groups_per_step.map(|groups| groups as u64));
    let mut config = RunConfig::load(&file, &set)?;
    if args.groups_per_step.is_some() || args.staleness.is_some() {
        config.queue.groups_max =
            config.learner.groups_per_step * (1 + config.queue.staleness_versions_max as usize);
    }
    // The slots of all actors are one batch here.
    config.rollout.actors = 1;
    Ok(config)
}

/// Where lengths come from: the command line, the run whose costs are taken, or the built-in setting.
fn lengths_spec(args: &SimulateArgs) -> Result<String> {
    if let Some(lengths) = &args.lengths {
        return Ok(lengths.clone());
    }
    match &args.costs_of {
        Some(run) if run.join("rollouts").is_dir() => Ok(run.to_string_lossy().into_owned()),
        _ if args.config.is_none() => Ok(BUILT_IN_LENGTHS.to_owned()),
        _ => bail!("--lengths is needed: a config does not say how long outputs get"),
    }
}

/// The costs of the command line, and for the others those that are found or the defaults.
fn costs(args: &SimulateArgs) -> Result<CostModel> {
    let given = &args.costs;
    if let Some(contention) = given.contention.filter(|number| !(number.is_finite() && *number >= 1.0)) {
        bail!("--contention {contention}: at least 1, which is two devices");
    }
    let found = match &args.costs_of {
        Some(path) => fit_costs(&observations(path)?, given.contention.map(Contention::of_both))
            .map_err(|reason| anyhow::anyhow!("--costs-of {}: {reason}", path.display()))?,
        None => CostModel::default(),
    };
    let costs = CostModel {
        decode_step_s: given.decode_step_ms.map_or(found.decode_step_s, |ms| ms * 1e-3),
        decode_slot_s: given.decode_slot_us.map_or(found.decode_slot_s, |us| us * 1e-6),
        context_token_s: given.context_token_ns.map_or(found.context_token_s, |ns| ns * 1e-9),
        prefill_token_s: given.prefill_token_us.map_or(found.prefill_token_s, |us| us * 1e-6),
        learn_token_s: given.learn_token_us.map_or(found.learn_token_s, |us| us * 1e-6),
        learn_step_s: given.learn_step_ms.map_or(found.learn_step_s, |ms| ms * 1e-3),
        contention: given.contention.map_or(found.contention, Contention::of_both),
    };
    costs.check().map_err(anyhow::Error::msg)?;
    Ok(costs)
}

/// The steps of a recorded run, or of each row of `bench segments`, without the first ones.
fn observations(path: &Path) -> Result<Vec<Vec<Observation>>> {
    if path.is_dir() {
        let file = path.join("config.toml");
        let config = RunConfig::load(&file, &[])?;
        if config.rollout.actors > 1 && config.run.schedule == Schedule::Async {
            bail!("--costs-of {}: a run of several actors does not tell their costs apart", path.display());
        }
        let steps = metrics_steps(path, config.run.schedule)?;
        return Ok(vec![steps.iter().skip(1).map(|step| step.costs).collect()]);
    }
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let row: SegmentRow = serde_json::from_str(line)
                .with_context(|| format!("{}:{}: no row of bench segments", path.display(), number + 1))?;
            Ok(row.per_step)
        })
        .collect()
}

struct Simulation<'a> {
    config: &'a RunConfig,
    lengths: &'a LengthDistribution,
    costs: &'a CostModel,
    args: &'a SimulateArgs,
}

impl Simulation<'_> {
    fn row(&self, segments: usize, slots: Option<usize>) -> Result<SegmentRow> {
        let config = row_config(self.config, segments, slots);
        let plan = VirtualPlan {
            rollout: config.rollout.clone(),
            queue: config.queue.clone(),
            groups_per_step: config.learner.groups_per_step,
            schedule: config.run.schedule,
            steps: config.run.steps,
            seed: config.run.seed,
            prompt_tokens: self.args.prompt_tokens,
            cache_block_tokens: config.run.device.capabilities().cache_block_tokens,
        };
        let steps = run_virtually(&plan, self.lengths, self.costs, |_| {})?;
        let slots = config.rollout.trajectories_open_max;
        let steps = row_steps(&steps, slots, config.rollout.output_tokens_max);
        SegmentRow::of(segments, slots, &steps)
    }

    /// Tries every number of segments with fewer and more slots, up to all that may be open at a time.
    fn recommend(&self) -> Result<Recommendation> {
        let config = self.config;
        let set = self.args.slots.unwrap_or(config.rollout.trajectories_open_max);
        let open_max = config.rollout.group_size
            * config.learner.groups_per_step
            * (1 + config.queue.staleness_versions_max as usize);
        let mut slots: Vec<usize> = SLOT_FACTORS
            .map(|factor| ((set as f64 * factor).round() as usize).clamp(1, open_max.max(1)))
            .to_vec();
        slots.dedup();
        let segments = self.args.segments.iter().filter(|segments| **segments > 0);
        let tried: Vec<(usize, usize)> =
            segments.flat_map(|segments| slots.iter().map(|slots| (*segments, *slots))).collect();
        let rows = tried.par_iter().map(|(segments, slots)| self.row(*segments, Some(*slots)));
        let rows: Vec<SegmentRow> = rows.collect::<Result<_>>()?;
        let most = rows.iter().map(|row| row.trained_tokens_per_s).fold(0.0, f64::max);
        let near = rows.iter().filter(|row| row.trained_tokens_per_s >= NEARLY * most);
        let best = near.min_by_key(|row| (row.segments, row.slots));
        let best = best.context("--segments: nothing to recommend but whole outputs")?;
        let (segments, slots) = (best.segments, best.slots);
        let recommended = Setting { segments, slots, trained_tokens_per_s: best.trained_tokens_per_s };
        let whole_outputs_tokens_per_s = self.row(0, None)?.trained_tokens_per_s;
        Ok(Recommendation { recommended, whole_outputs_tokens_per_s, costs: *self.costs })
    }
}

fn row_steps(steps: &[VirtualStep], slots: usize, output_tokens_max: usize) -> Vec<RowStep> {
    let mut before_s = 0.0;
    let row_step = |step: &VirtualStep| {
        let wall_s = step.ended_s - before_s;
        before_s = step.ended_s;
        let count = step.lengths.len() as f64;
        let tokens: usize = step.lengths.iter().sum();
        let within = step.lengths.iter().filter(|length| **length <= output_tokens_max / 2).count();
        RowStep {
            costs: Observation {
                wall_s,
                decode_s: step.decoding_s,
                tokens: step.slot_steps_busy as f64,
                trained_tokens: tokens as f64,
                ..Observation::default()
            },
            slot_steps: (step.decode_steps * slots as u64) as f64,
            staleness_mean: step.staleness.iter().sum::<u64>() as f64 / count,
            staleness_max: step.staleness.iter().max().map_or(0.0, |most| *most as f64),
            mean_length: tokens as f64 / count,
            max_length: step.lengths.iter().max().map_or(0.0, |most| *most as f64),
            half_limit_share: within as f64 / count,
        }
    };
    steps.iter().map(row_step).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parsed(words: &[&str]) -> SimulateArgs {
        let cli = Cli::try_parse_from([&["longhaul", "simulate"], words].concat()).unwrap();
        let Command::Simulate(args) = cli.command else { panic!("another command") };
        args
    }

    #[test]
    fn steps_of_a_virtual_run_are_summed_up_by_hand() {
        let step = |ended_s, lengths: &[usize], staleness: &[u64]| VirtualStep {
            ended_s,
            lengths: lengths.to_vec(),
            staleness: staleness.to_vec(),
            decode_steps: 10,
            slot_steps_busy: 30,
            decoding_s: 2.0,
            ..VirtualStep::default()
        };
        let steps = row_steps(&[step(5.0, &[9, 9], &[0, 0]), step(8.0, &[2, 4, 6], &[0, 3, 0])], 4, 8);
        let row = SegmentRow::of(2, 4, &steps).unwrap();
        assert_eq!((row.trained_tokens_per_s, row.step_s, row.slot_use), (4.0, 3.0, 0.75));
        assert_eq!(
            (row.staleness_mean, row.staleness_max, row.mean_length, row.max_length),
            (1.0, 3.0, 4.0, 6.0)
        );
        assert!((row.half_limit_share - 2.0 / 3.0).abs() < 1e-12);
        assert!((row.decoding_share - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn flags_change_the_setting_and_the_costs() {
        let args = parsed(&["--output-tokens-max", "64", "--groups-per-step", "8", "--staleness", "2"]);
        let found = config(&args).unwrap();
        assert_eq!((found.rollout.output_tokens_max, found.learner.groups_per_step), (64, 8));
        assert_eq!((found.queue.staleness_versions_max, found.queue.groups_max), (2, 24));
        let args = parsed(&["--decode-step-ms", "7", "--decode-slot-us", "3", "--contention", "1.5"]);
        let found = costs(&args).unwrap();
        assert_eq!(
            found,
            CostModel {
                decode_step_s: 0.007,
                decode_slot_s: 3e-6,
                contention: Contention::of_both(1.5),
                ..CostModel::default()
            }
        );
        let error = costs(&parsed(&["--contention", "0.5"])).unwrap_err().to_string();
        assert_eq!(error, "--contention 0.5: at least 1, which is two devices");
        let error = config(&parsed(&["--staleness", "9223372036854775807"])).unwrap_err().to_string();
        assert_eq!(error, "--staleness: at most 16777216");
        let error = lengths_spec(&parsed(&["configs/quickstart.toml"])).unwrap_err().to_string();
        assert!(error.starts_with("--lengths is needed"), "{error}");
    }

    #[test]
    fn the_fewest_segments_of_those_that_are_fast_enough_are_recommended() {
        let args = parsed(&["--segments", "0,1,2,4", "--steps", "8"]);
        let (config, lengths) = (config(&args).unwrap(), LengthDistribution::parse("constant:100").unwrap());
        // Nothing is gained by segments where all outputs have one length, so one is enough.
        let costs = CostModel { contention: Contention::of_both(1.0), ..CostModel::default() };
        let simulation = Simulation { config: &config, lengths: &lengths, costs: &costs, args: &args };
        let found = simulation.recommend().unwrap();
        assert_eq!(found.recommended.segments, 1);
        let fastest = simulation.row(1, Some(found.recommended.slots)).unwrap();
        assert_eq!(found.recommended.trained_tokens_per_s, fastest.trained_tokens_per_s);
        assert_eq!(found.whole_outputs_tokens_per_s, simulation.row(0, None).unwrap().trained_tokens_per_s);
    }

    #[test]
    fn a_faster_row_0_and_equal_rows_are_told() {
        let config = config(&parsed(&[])).unwrap();
        let found = |whole_outputs_tokens_per_s| Recommendation {
            recommended: Setting { segments: 1, slots: 16, trained_tokens_per_s: 100.0 },
            whole_outputs_tokens_per_s,
            costs: CostModel::default(),
        };
        let row = |segments, trained_tokens_per_s| SegmentRow {
            segments,
            trained_tokens_per_s,
            ..SegmentRow::default()
        };
        let rows = [row(0, 120.0), row(1, 100.0), row(2, 100.0)];
        let notes = found(120.0).why_not(&config, &rows);
        assert!(
            notes[0]
                .starts_with("whole outputs in turns with the learner (row 0) are faster than that, 120.0")
        );
        assert!(notes[1].contains("no difference here, because with rollout.in_flight_updates"), "{notes:?}");
        assert!(found(90.0).why_not(&config, &[row(0, 90.0), row(1, 100.0), row(2, 110.0)]).is_empty());
    }

    #[test]
    fn costs_of_measured_rows_are_found() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("rows.jsonl");
        let step = |passes: f64, tokens: f64| Observation {
            wall_s: 0.01 * passes + 0.001 * tokens + 0.5 + 0.002 * tokens,
            decode_s: 0.01 * passes + 0.001 * tokens,
            learn_s: 0.5 + 0.002 * tokens,
            weight_passes: passes,
            tokens,
            trained_tokens: tokens,
            ..Observation::default()
        };
        let row = SegmentRow {
            per_step: vec![step(100.0, 900.0), step(300.0, 1000.0), step(200.0, 300.0), step(50.0, 700.0)],
            ..SegmentRow::default()
        };
        std::fs::write(&file, serde_json::to_string(&row).unwrap() + "\n").unwrap();
        let found = costs(&parsed(&["--costs-of", file.to_str().unwrap()])).unwrap();
        let close = |one: f64, two: f64| (one - two).abs() < 1e-6;
        assert!(close(found.decode_step_s, 0.01) && close(found.decode_slot_s, 0.001), "{found:?}");
        assert!(close(found.learn_step_s, 0.5) && close(found.learn_token_s, 0.002), "{found:?}");
        std::fs::write(&file, "{}\n").unwrap();
        let error = costs(&parsed(&["--costs-of", file.to_str().unwrap()])).unwrap_err().to_string();
        assert!(error.ends_with("rows.jsonl:1: no row of bench segments"), "{error}");
    }
}
