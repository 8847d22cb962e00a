//! What segments buy, as rows of a table: how a config is run with a number of segments, and what is read from the
//! run's metrics. Shared by `bench segments`, which measures, and `simulate`, which does not.

use std::path::Path;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use simulate::Observation;

use crate::config::{RunConfig, Schedule};
use crate::median::median;
use crate::records::reader::{MetricsLine, MetricsReader};

/// The setting of `bench segments` and `simulate` without a config. Four of five outputs end within half of the
/// limit, and one in ten meets it: ln(4) / 1.647 is where four fifths of a normal distribution end.
pub const BUILT_IN_LENGTHS: &str = "lognormal:64,1.647";

/// The config of that setting; another model takes the place of its own.
pub const BUILT_IN: &str = include_str!("../../configs/bench_segments.toml");

/// The config as a row runs it: with so many segments, and nothing beside the training. With 0 segments it is whole
/// outputs in turns: the outputs of a step begin together, the learner waits for all of them, and nothing is decoded
/// while it learns.
#[must_use]
pub fn row_config(config: &RunConfig, segments: usize, slots: Option<usize>) -> RunConfig {
    let mut config = config.clone();
    config.rollout.segments_max = segments.max(1);
    if let Some(slots) = slots {
        config.rollout.trajectories_open_max = slots;
    }
    if segments == 0 {
        config.run.schedule = Schedule::Lockstep;
        config.rollout.actors = 1;
        config.rollout.kv_cache_tokens_max = None;
        config.rollout.trajectories_open_max = config.learner.groups_per_step * config.rollout.group_size;
        config.queue.groups_max = config.learner.groups_per_step;
        config.queue.staleness_versions_max = 0;
    }
    (config.eval.before, config.eval.after, config.eval.every_steps) = (false, false, 0);
    config.checkpoint.every_steps = 0;
    config
}

/// One number of segments. Everything but `trained_tokens`, `accuracy` and `per_step` leaves the first quarter
/// of the steps out.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct SegmentRow {
    /// The most segments of an output; 0 is whole outputs in turns with the learner.
    pub segments: usize,
    /// Decoding slots.
    pub slots: usize,
    /// Completion tokens that entered updates, a second.
    pub trained_tokens_per_s: f64,
    /// `trained_tokens_per_s` over that of the row of 0 segments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// Seconds of a step.
    pub step_s: f64,
    /// The share of slots that drew a token in decode steps.
    pub slot_use: f64,
    /// The share of the time in which decode steps were made.
    pub decoding_share: f64,
    /// Versions between the learner and a completion's oldest token.
    pub staleness_mean: f64,
    /// The most of them.
    pub staleness_max: f64,
    /// Tokens of a completion that the learner took.
    pub mean_length: f64,
    /// The most of them.
    pub max_length: f64,
    /// The share of completions within half of the output limit.
    pub half_limit_share: f64,
    /// Completion tokens that entered updates in all steps.
    pub trained_tokens: f64,
    /// Accuracy of the last weights on held-out problems.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// What each step but the first took, for `simulate --costs-of`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub per_step: Vec<Observation>,
}

/// What a row sums up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowStep {
    /// What it took; in a simulation without its costs.
    pub costs: Observation,
    /// Slots, summed over the decode steps.
    pub slot_steps: f64,
    /// Versions behind, of a completion.
    pub staleness_mean: f64,
    /// The most of them.
    pub staleness_max: f64,
    /// Tokens of a completion.
    pub mean_length: f64,
    /// The most of them.
    pub max_length: f64,
    /// The share of completions within half of the output limit.
    pub half_limit_share: f64,
}

/// Of a run of so many steps, those at its beginning in which slots fill and short outputs come first, since long ones
/// take longer to end: a quarter, rounded up. What is decoded in them is learned from later, so that they say little of
/// how fast a run is that goes on.
fn filling_steps(steps: usize) -> usize {
    steps.div_ceil(4)
}

impl SegmentRow {
    /// Sums up the steps of a run after those in which its slots fill.
    ///
    /// # Errors
    /// If no step is left.
    pub fn of(segments: usize, slots: usize, steps: &[RowStep]) -> Result<Self> {
        let rest = &steps[filling_steps(steps.len())..];
        if rest.is_empty() {
            bail!(
                "of {} step(s) the first quarter is left out, and none remains: give the run more",
                steps.len()
            );
        }
        let sum = |part: fn(&RowStep) -> f64| rest.iter().map(part).sum::<f64>();
        let mean = |part: fn(&RowStep) -> f64| sum(part) / rest.len() as f64;
        let most = |part: fn(&RowStep) -> f64| rest.iter().map(part).fold(0.0, f64::max);
        let seconds = sum(|step| step.costs.wall_s);
        Ok(Self {
            segments,
            slots,
            trained_tokens_per_s: sum(|step| step.costs.trained_tokens) / seconds,
            step_s: seconds / rest.len() as f64,
            slot_use: sum(|step| step.costs.tokens) / sum(|step| step.slot_steps).max(1.0),
            decoding_share: sum(|step| step.costs.decode_s) / seconds,
            staleness_mean: mean(|step| step.staleness_mean),
            staleness_max: most(|step| step.staleness_max),
            mean_length: mean(|step| step.mean_length),
            max_length: most(|step| step.max_length),
            half_limit_share: mean(|step| step.half_limit_share),
            trained_tokens: steps.iter().map(|step| step.costs.trained_tokens).sum(),
            ..Self::default()
        })
    }

    /// The medians of rows of the same segments, with the steps of all of them.
    ///
    /// # Panics
    /// If there is no row.
    #[must_use]
    pub fn median(rows: &[Self]) -> Self {
        let median = |part: fn(&Self) -> f64| median(rows.iter().map(part)).expect("there is a row");
        let judged = rows.iter().all(|row| row.accuracy.is_some());
        Self {
            segments: rows[0].segments,
            slots: rows[0].slots,
            trained_tokens_per_s: median(|row| row.trained_tokens_per_s),
            ratio: None,
            step_s: median(|row| row.step_s),
            slot_use: median(|row| row.slot_use),
            decoding_share: median(|row| row.decoding_share),
            staleness_mean: median(|row| row.staleness_mean),
            staleness_max: median(|row| row.staleness_max),
            mean_length: median(|row| row.mean_length),
            max_length: median(|row| row.max_length),
            half_limit_share: median(|row| row.half_limit_share),
            trained_tokens: median(|row| row.trained_tokens),
            accuracy: judged.then(|| median(|row| row.accuracy.unwrap_or(f64::NAN))),
            per_step: rows.iter().flat_map(|row| row.per_step.clone()).collect(),
        }
    }

    /// The columns of [`SegmentRow::line`].
    #[must_use]
    pub fn head() -> &'static str {
        "segments  slots  tokens/s  ratio    step s  slot use  decoding  staleness  length (max)  within half  accuracy"
    }

    /// One line for a person.
    #[must_use]
    pub fn line(&self) -> String {
        let or_dash =
            |value: Option<f64>, digits| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        format!(
            "{:>8} {:>6} {:>9.1} {:>6} {:>9.3} {:>9} {:>9} {:>10} {:>13} {:>12} {:>9}",
            self.segments,
            self.slots,
            self.trained_tokens_per_s,
            or_dash(self.ratio, 2),
            self.step_s,
            percent(self.slot_use),
            percent(self.decoding_share),
            format!("{:.2} ({})", self.staleness_mean, self.staleness_max),
            format!("{:.0} ({})", self.mean_length, self.max_length),
            percent(self.half_limit_share),
            or_dash(self.accuracy, 3),
        )
    }
}

/// Sets each row's ratio to the row of 0 segments, where there is one.
pub fn compare(rows: &mut [SegmentRow]) {
    let whole = rows.iter().find(|row| row.segments == 0).map(|row| row.trained_tokens_per_s);
    for row in rows {
        row.ratio = whole.map(|whole| row.trained_tokens_per_s / whole);
    }
}

/// The steps of a run, from the lines of its `metrics.jsonl`.
///
/// # Errors
/// If the file cannot be read, or is not that of a run of this version.
pub fn metrics_steps(folder: &Path, schedule: Schedule) -> Result<Vec<RowStep>> {
    let metrics = MetricsReader::open(folder)?;
    let mut steps = Vec::new();
    // An evaluation goes on in the time of the step after the one that it is written with.
    let mut evaluated_s = 0.0;
    for line in metrics.lines() {
        let is_step = line.step() != Some(0);
        if is_step {
            steps.push(row_step(&line, schedule, evaluated_s)?);
        }
        evaluated_s = if is_step { line.value("timing_s/eval").unwrap_or(0.0) } else { 0.0 };
    }
    Ok(steps)
}

fn row_step(line: &MetricsLine<'_>, schedule: Schedule, evaluated_s: f64) -> Result<RowStep> {
    let needed = |tag: &str| line.needed(tag);
    let or_zero = |tag: &str| line.value(tag).unwrap_or(0.0);
    let decode_s = needed("timing_s/gen")?;
    // After a resume the step has no evaluation before it.
    let wall_s = (needed("timing_s/step")? - or_zero("timing_s/checkpoint") - evaluated_s).max(0.0);
    let waited_s = match schedule {
        Schedule::Lockstep => decode_s + needed("timing_s/reward")?,
        Schedule::Async | Schedule::Deterministic => needed("time/trainer_waiting_for_data")?,
    };
    // Tokens of answers that teach nothing cost the learner nothing.
    let trained_tokens = or_zero("training/completion_tokens") - or_zero("training/tokens_skipped");
    let prompts = or_zero("training/packed_tokens") - trained_tokens;
    Ok(RowStep {
        costs: Observation {
            wall_s,
            decode_s,
            learn_s: (wall_s - waited_s).max(0.0),
            weight_passes: needed("segment/weight_passes")?,
            tokens: needed("segment/tokens")?,
            context_token_steps: needed("segment/context_token_steps")?,
            prefill_tokens: needed("segment/context_tokens_recomputed")? + prompts,
            trained_tokens,
        },
        slot_steps: needed("segment/slot_steps")?,
        staleness_mean: needed("training/off_policy/trajectory_staleness_worst/mean")?,
        staleness_max: needed("training/off_policy/trajectory_staleness_worst/max")?,
        mean_length: needed("completions/mean_length")?,
        max_length: needed("completions/max_length")?,
        half_limit_share: needed("completions/half_limit_ratio")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn step(wall_s: f64, trained_tokens: f64) -> RowStep {
        let costs = Observation {
            wall_s,
            decode_s: wall_s / 2.0,
            tokens: 30.0,
            trained_tokens,
            ..Observation::default()
        };
        RowStep {
            costs,
            slot_steps: 40.0,
            staleness_max: trained_tokens,
            mean_length: wall_s,
            ..RowStep::default()
        }
    }

    #[test]
    fn a_row_leaves_out_the_steps_in_which_slots_fill() {
        let row = SegmentRow::of(4, 8, &[step(100.0, 7.0), step(2.0, 10.0), step(4.0, 20.0)]).unwrap();
        assert_eq!((row.segments, row.slots), (4, 8));
        assert_eq!((row.trained_tokens_per_s, row.step_s, row.slot_use), (5.0, 3.0, 0.75));
        assert_eq!((row.decoding_share, row.staleness_max, row.mean_length), (0.5, 20.0, 3.0));
        assert_eq!(row.trained_tokens, 37.0);
        let five = [100.0, 50.0, 1.0, 1.0, 1.0].map(|wall_s| step(wall_s, 2.0));
        assert_eq!(SegmentRow::of(4, 8, &five).unwrap().step_s, 1.0);
        for steps in [&five[..0], &five[..1]] {
            let error = SegmentRow::of(4, 8, steps).unwrap_err().to_string();
            assert!(error.contains("the first quarter is left out"), "{error}");
        }
    }

    #[test]
    fn medians_and_ratios_are_those_of_the_rows() {
        let row = |segments, trained_tokens_per_s| SegmentRow {
            segments,
            trained_tokens_per_s,
            ..SegmentRow::default()
        };
        let median = SegmentRow::median(&[row(2, 9.0), row(2, 1.0), row(2, 4.0)]);
        assert_eq!(median.trained_tokens_per_s, 4.0);
        let mut rows = [row(0, 2.0), median];
        compare(&mut rows);
        assert_eq!((rows[0].ratio, rows[1].ratio), (Some(1.0), Some(2.0)));
        let mut alone = [row(4, 2.0)];
        compare(&mut alone);
        assert_eq!(alone[0].ratio, None);
    }

    #[test]
    fn rows_stand_under_their_head() {
        let row = SegmentRow { segments: 16, slots: 10_000, max_length: 131_072.0, ..SegmentRow::default() };
        assert_eq!(row.line().len(), SegmentRow::head().len());
    }

    #[test]
    fn what_the_learner_did_is_what_it_did_not_wait() {
        let line = serde_json::json!({
            "step": 2, "timing_s/step": 10.0, "timing_s/checkpoint": 1.0, "timing_s/gen": 5.0, "timing_s/reward": 0.5,
            "time/trainer_waiting_for_data": 2.0, "segment/weight_passes": 7, "segment/tokens": 30,
            "segment/slot_steps": 40, "segment/context_token_steps": 300, "segment/context_tokens_recomputed": 11,
            "training/completion_tokens": 25, "training/packed_tokens": 31,
            "training/off_policy/trajectory_staleness_worst/mean": 0.5,
            "training/off_policy/trajectory_staleness_worst/max": 2, "completions/mean_length": 6,
            "completions/max_length": 9, "completions/half_limit_ratio": 0.8
        });
        let folder = tempfile::tempdir().unwrap();
        let write = |lines: &[&Value]| {
            let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
            std::fs::write(folder.path().join("metrics.jsonl"), lines).unwrap();
        };
        let before = serde_json::json!({"step": 0, "timing_s/eval": 9.0});
        let mut evaluated = line.clone();
        evaluated["timing_s/eval"] = 0.5.into();
        write(&[&before, &evaluated, &line]);
        let lockstep = metrics_steps(folder.path(), Schedule::Lockstep).unwrap()[1].costs;
        assert_eq!((lockstep.wall_s, lockstep.decode_s, lockstep.learn_s), (8.5, 5.0, 3.0));
        let step = &metrics_steps(folder.path(), Schedule::Async).unwrap()[0];
        assert_eq!((step.costs.wall_s, step.costs.learn_s, step.costs.prefill_tokens), (9.0, 7.0, 17.0));
        let mut other = line;
        other.as_object_mut().unwrap().remove("segment/weight_passes");
        write(&[&before, &other]);
        let error = metrics_steps(folder.path(), Schedule::Async).unwrap_err().to_string();
        assert!(error.ends_with(":2: the step has no segment/weight_passes"), "{error}");
    }
}
