//! What an evaluation found in one set of prompts: accuracy, pass@k and maj@k with their intervals, rewards and lengths of
//! the answers.

use std::collections::BTreeMap;

use learner::report::StoppedBy;
use serde::{Deserialize, Serialize};

use crate::median::median;
use crate::records::answers::{AnswerRecord, AnsweredRecord};
use crate::statistics::{Estimate, doublings, estimates, majority, pass_at_k};

/// What an evaluation found. Lengths are in tokens.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct EvalReport {
    /// The name of the set among several; absent where there is one without a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// Held-out prompts whose answers have verdicts.
    pub problems: usize,
    /// Held-out prompts that are left out because a verifier gave no verdict.
    #[serde(skip_serializing_if = "is_zero")]
    pub problems_unscored: usize,
    /// Rows of the held-out data that are left out because they cannot be used.
    #[serde(skip_serializing_if = "is_zero")]
    pub rows_skipped: usize,
    /// What the verifiers counted (timeouts, failures), as `reward/counter`, where it is not 0.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub verifiers: BTreeMap<String, u64>,
    /// Answers to each prompt, the k of pass@k.
    pub completions_per_problem: usize,
    /// Fraction of right answers; absent where no reward says what is right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Fraction of prompts with at least one right answer among theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pass_at_k: Option<f64>,
    /// The accuracy with its interval: avg@k of all answers to a prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avg_at_k: Option<Estimate>,
    /// pass@k by k = 1, 2, 4 and so on up to all answers: the unbiased estimate from all answers to a prompt.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pass_at: BTreeMap<usize, Estimate>,
    /// maj@k by k: whether the answer that most of the first k give is right; absent where no verifier reads final answers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub maj_at: BTreeMap<usize, Estimate>,
    /// Mean reward of an answer.
    pub reward: f64,
    /// The same with its interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_estimate: Option<Estimate>,
    /// Mean length.
    pub mean_length: f64,
    /// Median length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median_length: Option<f64>,
    /// Mean length of the right answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correct_length: Option<f64>,
    /// Median length of the right answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correct_median_length: Option<f64>,
    /// Mean length of the wrong answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incorrect_length: Option<f64>,
    /// Median length of the wrong answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incorrect_median_length: Option<f64>,
    /// Length of the longest answer.
    pub max_length: usize,
    /// Fraction of answers that the output limit cut off.
    pub clipped_ratio: f64,
    /// What ended the others, as fractions of all answers.
    pub stopped_by: StoppedBy,
    /// Tokens drawn a second.
    pub tokens_per_second: f64,
    /// The whole evaluation, in seconds.
    pub seconds: f64,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// How an evaluation is summed up.
pub(crate) struct Summing<'a> {
    /// Whether two final answers of a prompt are the same one.
    pub(crate) is_same: &'a dyn Fn(&str, &str) -> bool,
    /// The seed of the intervals' resamples.
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
}

impl EvalReport {
    /// Of the prompts that have verdicts. Without any, all numbers are 0 and none is a metric.
    pub(crate) fn of(records: &[AnswerRecord], summing: &Summing<'_>) -> Self {
        let answers: Vec<_> = records.iter().flat_map(|record| &record.completions).collect();
        let count = answers.len().max(1) as f64;
        let length = |answer: &&AnsweredRecord| answer.tokens as f64;
        let lengths_of = |right: bool| -> Vec<f64> {
            let judged = answers.iter().filter(|answer| answer.correctness == Some(u8::from(right)));
            judged.map(length).collect()
        };
        let (right, wrong) = (lengths_of(true), lengths_of(false));
        let judged = answers.iter().any(|answer| answer.correctness.is_some());
        let solved = records.iter().filter(|record| record.right().is_some_and(|right| right > 0));
        let tokens: usize = answers.iter().map(|answer| answer.tokens).sum();
        let rewards = answers.iter().map(|answer| answer.reward);
        let mean_of = |lengths: &[f64]| {
            (!lengths.is_empty()).then(|| lengths.iter().sum::<f64>() / lengths.len() as f64)
        };
        let report = Self {
            problems: records.len(),
            completions_per_problem: answers.len() / records.len().max(1),
            accuracy: judged.then(|| right.len() as f64 / count),
            pass_at_k: judged.then(|| solved.count() as f64 / records.len() as f64),
            // A sum of nothing is -0.0.
            reward: rewards.fold(0.0, |sum, reward| sum + reward) / count,
            mean_length: tokens as f64 / count,
            median_length: median(answers.iter().map(length)),
            correct_length: mean_of(&right),
            incorrect_length: mean_of(&wrong),
            correct_median_length: median(right),
            incorrect_median_length: median(wrong),
            max_length: answers.iter().map(|answer| answer.tokens).max().unwrap_or(0),
            clipped_ratio: answers.iter().filter(|answer| answer.finish() == rollout::Finish::Length).count()
                as f64
                / count,
            stopped_by: StoppedBy::of(answers.iter().map(|answer| answer.finish())),
            tokens_per_second: tokens as f64 / summing.seconds,
            seconds: summing.seconds,
            ..Self::default()
        };
        report.with_estimates(records, summing)
    }

    /// Adds what has an interval.
    fn with_estimates(self, records: &[AnswerRecord], summing: &Summing<'_>) -> Self {
        if records.is_empty() {
            return self;
        }
        let rewards = |record: &AnswerRecord| {
            let rewards = record.completions.iter().map(|answer| answer.reward);
            rewards.sum::<f64>() / record.completions.len() as f64
        };
        let mut quantities = vec![records.iter().map(rewards).collect()];
        let (judged, ks) = (self.accuracy.is_some(), doublings(self.completions_per_problem));
        let votes = judged
            && records.iter().flat_map(|record| &record.completions).any(|answer| answer.extracted.is_some());
        if judged {
            let right = |record: &AnswerRecord| (record.completions.len(), record.right().unwrap_or(0));
            quantities.push(
                records.iter().map(right).map(|(answers, right)| right as f64 / answers as f64).collect(),
            );
            for k in &ks {
                let passes = records.iter().map(right).map(|(answers, right)| pass_at_k(answers, right, *k));
                quantities.push(passes.collect());
            }
        }
        if votes {
            for k in &ks {
                let voted = records.iter().map(|record| is_majority_right(record, *k, summing.is_same));
                quantities.push(voted.map(|right| f64::from(u8::from(right))).collect());
            }
        }
        let mut found = estimates(&quantities, summing.seed).into_iter();
        let reward_estimate = found.next();
        let avg_at_k = if judged { found.next() } else { None };
        let pass_at = if judged { ks.iter().copied().zip(found.by_ref()).collect() } else { BTreeMap::new() };
        let maj_at = ks.iter().copied().zip(found).collect();
        Self { reward_estimate, avg_at_k, pass_at, maj_at, ..self }
    }

    /// The report as metrics under `eval/`, those of a set among several under `eval/SET/`.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let set = self.set.as_ref().map_or(String::new(), |set| format!("{set}/"));
        let tag = |name: &str| format!("eval/{set}{name}");
        let mut metrics: Vec<_> =
            [("problems_unscored", self.problems_unscored), ("rows_skipped", self.rows_skipped)]
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| (tag(name), count as f64))
                .collect();
        let counters = self.verifiers.iter();
        metrics.extend(counters.map(|(name, count)| (tag(&format!("rewards/{name}")), *count as f64)));
        let of_set = |family: &str, name: &str| match &self.set {
            Some(set) => format!("{family}/{name}/{set}"),
            None => format!("{family}/{name}"),
        };
        metrics.push((of_set("timing_s", "eval"), self.seconds));
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
            (of_set("perf", "eval_tokens_per_second"), self.tokens_per_second),
        ]);
        let interval = self.avg_at_k.map(|estimate| estimate.interval);
        let named = [
            ("accuracy", self.accuracy),
            ("accuracy_low", interval.map(|[low, _]| low)),
            ("accuracy_high", interval.map(|[_, high]| high)),
            ("pass_at_k", self.pass_at_k),
            ("maj_at_k", self.maj_at.get(&self.completions_per_problem).map(|estimate| estimate.value)),
            ("median_length", self.median_length),
            ("correct_length", self.correct_length),
            ("incorrect_length", self.incorrect_length),
        ];
        metrics.extend(named.into_iter().filter_map(|(name, value)| Some((tag(name), value?))));
        // Of one answer, pass@1 is the accuracy and maj@1 says nothing.
        let between = self.pass_at.iter().filter(|(k, _)| **k < self.completions_per_problem);
        metrics.extend(between.map(|(k, estimate)| (tag(&format!("pass_at/{k}")), estimate.value)));
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
        let named = self.set.as_ref().map_or(String::new(), |set| format!("{set}: "));
        named + &parts.join(", ")
    }
}

/// Whether the answer that most of the first `k` give is right. A prompt whose answers cast no vote has none.
fn is_majority_right(record: &AnswerRecord, k: usize, is_same: &dyn Fn(&str, &str) -> bool) -> bool {
    let first = &record.completions[..k.min(record.completions.len())];
    let votes: Vec<Option<&str>> = first.iter().map(|answer| answer.extracted.as_deref()).collect();
    majority(&votes, is_same).is_some_and(|place| first[place].is_right())
}

/// Which of a run's evaluations one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EvaluatedAt {
    /// Before the first step.
    Before,
    /// On the way.
    Between,
    /// After the last step.
    After,
}

impl EvaluatedAt {
    /// What is measured, for a person.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Before => "held-out problems before training",
            Self::Between => "held-out problems",
            Self::After => "held-out problems after training",
        }
    }
}

/// The reports of an evaluation as a checkpoint has them: none, one as it is, or a list.
pub(crate) mod reports {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    use super::EvalReport;

    /// # Errors
    /// Of the serializer.
    pub(crate) fn serialize<S: Serializer>(reports: &[EvalReport], serializer: S) -> Result<S::Ok, S::Error> {
        match reports {
            [] => serializer.serialize_none(),
            [report] => report.serialize(serializer),
            reports => reports.serialize(serializer),
        }
    }

    /// # Errors
    /// If what is there is no report.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<EvalReport>, D::Error> {
        let reports = match Value::deserialize(deserializer)? {
            Value::Null => return Ok(Vec::new()),
            Value::Array(reports) => reports,
            report => vec![report],
        };
        reports.into_iter().map(|report| serde_json::from_value(report).map_err(D::Error::custom)).collect()
    }
}

/// A number of things, of which there may be one.
pub(crate) fn number_of(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::answers::tests::record;

    fn report(records: &[AnswerRecord]) -> EvalReport {
        let summing = Summing { is_same: &|one, other| one == other, seed: 1, seconds: 2.0 };
        EvalReport::of(records, &summing)
    }

    // Without a verdict there is no mean, and a metric that is no number would say that a metric is broken.
    #[test]
    fn an_evaluation_without_verdicts_has_counts_and_no_means() {
        let counted = BTreeMap::from([("judge/timeouts".to_owned(), 3)]);
        let report = EvalReport { problems_unscored: 4, rows_skipped: 2, verifiers: counted, ..report(&[]) };
        let expected = [
            ("eval/problems_unscored", 4.0),
            ("eval/rows_skipped", 2.0),
            ("eval/rewards/judge/timeouts", 3.0),
            ("timing_s/eval", 2.0),
        ];
        assert_eq!([number_of(1, "row"), number_of(0, "row")], ["1 row", "0 rows"]);
        assert_eq!(report.metrics(), expected.map(|(tag, value)| (tag.to_owned(), value)));
        assert!(report.line().contains("4 problems without a verdict, 2 rows left out"), "{}", report.line());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["problems_unscored"], &json["reward"]), (&4.into(), &0.0.into()));
        assert_eq!(serde_json::from_value::<EvalReport>(json).unwrap(), report);
    }

    #[test]
    fn pass_maj_and_lengths_are_those_of_the_answers() {
        let records = [
            record("a", "p:1", &[true, true, false, false]),
            record("a", "p:2", &[false, true, false, false]),
            record("a", "p:3", &[false, false, false, false]),
            record("a", "p:4", &[true, true, true, true]),
        ];
        let report = report(&records);
        let value = |estimates: &BTreeMap<usize, Estimate>, k: usize| estimates[&k].value;
        assert_eq!((report.accuracy, report.pass_at_k), (Some(7.0 / 16.0), Some(0.75)));
        assert_eq!(report.pass_at.keys().copied().collect::<Vec<_>>(), [1, 2, 4]);
        assert!((value(&report.pass_at, 1) - 7.0 / 16.0).abs() < 1e-12);
        // Of 6 pairs 5, 3, 0 and 6 have a right answer.
        assert!((value(&report.pass_at, 2) - 14.0 / 24.0).abs() < 1e-12);
        assert_eq!((value(&report.pass_at, 4), value(&report.maj_at, 1)), (0.75, 0.5));
        // Two to two at the first prompt, where the right answer was given first.
        assert_eq!((value(&report.maj_at, 2), value(&report.maj_at, 4)), (0.5, 0.5));
        // Right: 10, 20, 20, 10, 20, 30, 40; wrong: 30, 40, 10, 30, 40, 10, 20, 30, 40.
        assert_eq!((report.correct_length, report.correct_median_length), (Some(150.0 / 7.0), Some(20.0)));
        assert_eq!(
            (report.incorrect_length, report.incorrect_median_length),
            (Some(250.0 / 9.0), Some(30.0))
        );
        let metrics: BTreeMap<String, f64> = report.metrics().into_iter().collect();
        assert_eq!((metrics["eval/pass_at/1"], metrics["eval/maj_at_k"]), (7.0 / 16.0, 0.5));
        assert!(!metrics.contains_key("eval/pass_at/4"), "it is eval/pass_at_k");
        let [low, high] = report.avg_at_k.unwrap().interval;
        assert!(low < 7.0 / 16.0 && high > 7.0 / 16.0, "{low} {high}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(serde_json::from_value::<EvalReport>(json).unwrap(), report);
    }

    #[test]
    fn a_set_among_several_has_its_name_in_every_metric() {
        let report =
            EvalReport { set: Some("gsm8k".to_owned()), ..report(&[record("gsm8k", "p:1", &[true])]) };
        for (tag, _) in report.metrics() {
            assert!(tag.starts_with("eval/gsm8k/") || tag.ends_with("/gsm8k"), "{tag}");
            assert!(crate::records::catalogue::knows(&tag), "{tag}");
        }
        assert!(report.line().starts_with("gsm8k: 1 problem, accuracy 100.0 %"), "{}", report.line());
    }

    #[test]
    fn a_checkpoint_has_one_report_as_it_is_and_several_as_a_list() {
        #[derive(Debug, PartialEq, Deserialize, Serialize)]
        struct State(#[serde(with = "reports")] Vec<EvalReport>);
        let one = report(&[record("a", "p:1", &[true, false, true])]);
        let written = |reports: &[EvalReport]| serde_json::to_value(State(reports.to_vec())).unwrap();
        assert_eq!(
            (written(&[]), written(std::slice::from_ref(&one))["problems"].clone()),
            (().into(), 1.into())
        );
        for reports in [vec![], vec![one.clone()], vec![one.clone(), one]] {
            let text = serde_json::to_string(&State(reports.clone())).unwrap();
            assert_eq!(serde_json::from_str::<State>(&text).unwrap(), State(reports), "{text}");
        }
    }

    #[test]
    fn without_final_answers_there_is_no_majority() {
        let mut prompt = record("a", "p:1", &[true, false]);
        prompt.completions.iter_mut().for_each(|answer| answer.extracted = None);
        let report = report(&[prompt]);
        assert!(report.maj_at.is_empty() && report.pass_at.len() == 2, "{report:?}");
    }
}
