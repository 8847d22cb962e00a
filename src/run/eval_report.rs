//! What an evaluation found: accuracy, pass@k, rewards and lengths of the answers to held-out prompts.

use std::collections::BTreeMap;

use learner::report::StoppedBy;
use rollout::Group;
use serde::{Deserialize, Serialize};

/// What an evaluation found. Lengths are in tokens.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct EvalReport {
    /// Held-out prompts whose answers have verdicts.
    pub problems: usize,
    /// Held-out prompts that are left out because a verifier gave no verdict.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub problems_unscored: usize,
    /// Rows of the held-out data that are left out because they cannot be used.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rows_skipped: usize,
    /// What the verifiers counted (timeouts, failures), as `reward/counter`, where it is not 0.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verifiers: BTreeMap<String, u64>,
    /// Answers to each prompt, the k of pass@k.
    pub completions_per_problem: usize,
    /// Fraction of right answers; absent where no reward says what is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Fraction of prompts with at least one right answer among theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass_at_k: Option<f64>,
    /// Mean reward of an answer.
    pub reward: f64,
    /// Mean length.
    pub mean_length: f64,
    /// Mean length of the right answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correct_length: Option<f64>,
    /// Length of the longest answer.
    pub max_length: usize,
    /// Fraction of answers that the output limit cut off.
    pub clipped_ratio: f64,
    /// What ended the others, as fractions of all answers.
    #[serde(default)]
    pub stopped_by: StoppedBy,
    /// Tokens drawn a second.
    pub tokens_per_second: f64,
    /// The whole evaluation, in seconds.
    pub seconds: f64,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl EvalReport {
    /// Of the groups that have verdicts. Without any, all numbers are 0 and none is a metric.
    pub(crate) fn of(groups: &[Group], seconds: f64) -> Self {
        let completions: Vec<_> = groups.iter().flat_map(|group| &group.completions).collect();
        let count = completions.len().max(1) as f64;
        let lengths: Vec<usize> = completions.iter().map(|scored| scored.completion.token_count()).collect();
        let correct = |scored: &&rollout::ScoredCompletion| scored.reward.correctness == Some(1);
        let judged = completions.iter().any(|scored| scored.reward.correctness.is_some());
        let right: Vec<f64> = completions
            .iter()
            .filter(|scored| correct(scored))
            .map(|scored| scored.completion.token_count() as f64)
            .collect();
        let solved = groups.iter().filter(|group| group.completions.iter().any(|scored| correct(&scored)));
        let tokens: usize = lengths.iter().sum();
        Self {
            problems: groups.len(),
            problems_unscored: 0,
            rows_skipped: 0,
            verifiers: BTreeMap::new(),
            completions_per_problem: completions.len() / groups.len().max(1),
            accuracy: judged.then(|| right.len() as f64 / count),
            pass_at_k: judged.then(|| solved.count() as f64 / groups.len() as f64),
            // A sum of nothing is -0.0.
            reward: completions.iter().map(|scored| scored.reward.total).fold(0.0, |sum, total| sum + total)
                / count,
            mean_length: tokens as f64 / count,
            correct_length: (!right.is_empty()).then(|| right.iter().sum::<f64>() / right.len() as f64),
            max_length: lengths.iter().copied().max().unwrap_or(0),
            clipped_ratio: completions.iter().filter(|scored| scored.completion.truncated()).count() as f64
                / count,
            stopped_by: StoppedBy::of(completions.iter().map(|scored| scored.completion.finish)),
            tokens_per_second: tokens as f64 / seconds,
            seconds,
        }
    }

    /// The report as metrics under `eval/`.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let tag = |name: &str| format!("eval/{name}");
        let mut metrics: Vec<_> =
            [("problems_unscored", self.problems_unscored), ("rows_skipped", self.rows_skipped)]
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| (tag(name), count as f64))
                .collect();
        let counters = self.verifiers.iter();
        metrics.extend(counters.map(|(name, count)| (tag(&format!("rewards/{name}")), *count as f64)));
        metrics.push(("timing_s/eval".to_owned(), self.seconds));
        if self.problems == 0 {
            return metrics;
        }
        metrics.extend([
            (tag("reward"), self.reward),
            (tag("mean_length"), self.mean_length),
            (tag("max_length"), self.max_length as f64),
            (tag("clipped_ratio"), self.clipped_ratio),
            (tag("stopped_by/eos"), self.stopped_by.eos),
            (tag("stopped_by/stop_string"), self.stopped_by.stop_string),
            (tag("stopped_by/stop_token_id"), self.stopped_by.stop_token_id),
            ("perf/eval_tokens_per_second".to_owned(), self.tokens_per_second),
        ]);
        let named = [
            ("accuracy", self.accuracy),
            ("pass_at_k", self.pass_at_k),
            ("correct_length", self.correct_length),
        ];
        metrics.extend(named.into_iter().filter_map(|(name, value)| Some((tag(name), value?))));
        metrics
    }

    /// One line for a person.
    pub fn line(&self) -> String {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let mut parts = vec![number_of(self.problems, "problem")];
        parts.extend(self.accuracy.map(|share| format!("accuracy {}", percent(share))));
        if self.completions_per_problem > 1 {
            let k = self.completions_per_problem;
            parts.extend(self.pass_at_k.map(|share| format!("pass@{k} {}", percent(share))));
        }
        parts.push(format!("reward {:.3}", self.reward));
        parts.push(format!("mean length {:.1}", self.mean_length));
        parts.extend(self.correct_length.map(|length| format!("of right answers {length:.1}")));
        parts.push(format!("cut off {}", percent(self.clipped_ratio)));
        if self.problems_unscored > 0 {
            parts.push(format!("{} without a verdict", number_of(self.problems_unscored, "problem")));
        }
        if self.rows_skipped > 0 {
            parts.push(format!("{} left out", number_of(self.rows_skipped, "row")));
        }
        parts.push(format!("{:.1} s", self.seconds));
        parts.join(", ")
    }
}

/// A number of things, of which there may be one.
pub(crate) fn number_of(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Without a verdict there is no mean, and a metric that is no number would say that a metric is broken.
    #[test]
    fn an_evaluation_without_verdicts_has_counts_and_no_means() {
        let counted = BTreeMap::from([("judge/timeouts".to_owned(), 3)]);
        let report = EvalReport {
            problems_unscored: 4,
            rows_skipped: 2,
            verifiers: counted,
            ..EvalReport::of(&[], 1.5)
        };
        let expected = [
            ("eval/problems_unscored", 4.0),
            ("eval/rows_skipped", 2.0),
            ("eval/rewards/judge/timeouts", 3.0),
            ("timing_s/eval", 1.5),
        ];
        assert_eq!([number_of(1, "row"), number_of(0, "row")], ["1 row", "0 rows"]);
        assert_eq!(report.metrics(), expected.map(|(tag, value)| (tag.to_owned(), value)));
        assert!(report.line().contains("4 problems without a verdict, 2 rows left out"), "{}", report.line());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["problems_unscored"], &json["reward"]), (&4.into(), &0.0.into()));
        assert_eq!(serde_json::from_value::<EvalReport>(json).unwrap(), report);
    }
}
