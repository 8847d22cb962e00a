//! Two models on the same prompts: the difference at each prompt, its mean with an interval, and how likely it is by chance.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::records::answers::{AnswerRecord, Answers};
use crate::run::eval_report::number_of;
use crate::statistics::paired::{mcnemar, permutation};
use crate::statistics::{Estimate, estimates, mean};

/// Prompts of a refusal that are named.
const NAMED: usize = 3;

/// Means of the same numbers in another order differ by less than this share of them.
const ROUNDING: f64 = 1e-12;

/// Below this a difference is called significant.
const SIGNIFICANT: f64 = 0.05;

/// Two models on the same sets of prompts.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Comparison {
    /// What came of each set by its name.
    pub sets: BTreeMap<String, SetComparison>,
}

/// Two models on one set of prompts.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct SetComparison {
    /// Prompts that both have answered.
    pub problems: usize,
    /// Answers to each.
    pub completions_per_problem: usize,
    /// Right answers, where something says what is right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<Difference>,
    /// Rewards.
    pub reward: Difference,
    /// Lengths of answers in tokens.
    pub length: Difference,
}

/// The same quantity under two models.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Difference {
    /// Its mean under the first one.
    pub before: f64,
    /// Its mean under the second one.
    pub after: f64,
    /// The second less the first, prompt by prompt, with the interval of the bootstrap over prompts.
    pub difference: Estimate,
    /// Prompts at which the second is larger.
    pub larger: usize,
    /// Prompts at which it is smaller.
    pub smaller: usize,
    /// How likely so large a difference is if the models are equally good.
    pub p_value: f64,
    /// By which test.
    pub test: PairedTest,
}

/// A test on the differences at each prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PairedTest {
    /// McNemar's exact test, for one right or wrong answer to each prompt.
    Mcnemar,
    /// The permutation of the two models at each prompt, for several answers or for numbers.
    Permutation,
}

impl Comparison {
    /// Compares what two models answered to the same prompts.
    ///
    /// # Errors
    /// Names what only one of them has: a set, a prompt, another number of answers, verdicts.
    pub fn of(before: &Answers, after: &Answers, seed: u64) -> Result<Self> {
        for (one, other) in [(before, after), (after, before)] {
            if let Some(set) = one.sets.keys().find(|set| !other.sets.contains_key(*set)) {
                bail!(
                    "{}: there is no set {set}, which {} has; compare answers to the same sets",
                    other.path.display(),
                    one.path.display()
                );
            }
        }
        let mut sets = BTreeMap::new();
        for (set, prompts) in &before.sets {
            let pairs = Pairs::of(before, after, set)?;
            assert_eq!(pairs.0.len(), prompts.len(), "each prompt has its pair");
            sets.insert(set.clone(), pairs.compared(seed));
        }
        Ok(Self { sets })
    }

    /// One line a quantity, for a person.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (set, found) in &self.sets {
            let SetComparison { problems, completions_per_problem: answers, .. } = found;
            let what = match answers {
                1 => String::new(),
                answers => format!(", {answers} answers to each"),
            };
            lines.push(format!("{set}: {}{what}, after against before", number_of(*problems, "prompt")));
            lines.extend(found.accuracy.iter().map(|accuracy| accuracy.line("accuracy", 100.0, " %")));
            lines.push(found.reward.line("reward", 1.0, ""));
            lines.push(found.length.line("length", 1.0, ""));
        }
        lines
    }
}

impl Difference {
    /// Of a quantity at each prompt; `is_one_verdict` where it is 0 or 1 for a single answer.
    fn of(before: &[f64], after: &[f64], is_one_verdict: bool, seed: u64) -> Self {
        let differences: Vec<f64> =
            before.iter().zip(after).map(|(before, after)| difference(*before, *after)).collect();
        let count = |is: fn(&f64) -> bool| differences.iter().filter(|difference| is(difference)).count();
        let (larger, smaller) = (count(|it| *it > 0.0), count(|it| *it < 0.0));
        let (p_value, test) = match is_one_verdict {
            true => (mcnemar(larger, smaller), PairedTest::Mcnemar),
            false => (permutation(&differences, seed), PairedTest::Permutation),
        };
        let (before, after) = (mean(before), mean(after));
        let difference = estimates(&[differences], seed)[0];
        Self { before, after, difference, larger, smaller, p_value, test }
    }

    fn line(&self, name: &str, scale: f64, unit: &str) -> String {
        let digits = if scale == 1.0 && name == "reward" { 3 } else { 1 };
        let number = |value: f64| format!("{:.digits$}", value * scale);
        let signed = |value: f64| format!("{:+.digits$}", value * scale);
        let [low, high] = self.difference.interval;
        let test = match self.test {
            PairedTest::Mcnemar => "McNemar",
            PairedTest::Permutation => "permutation",
        };
        let mut line = format!(
            "  {name:<9} {} -> {}{unit}, difference {}{unit}, 95 % interval {} to {}, {} larger and {} smaller, p {} ({test})",
            number(self.before),
            number(self.after),
            signed(self.difference.value),
            signed(low),
            signed(high),
            self.larger,
            self.smaller,
            p_value(self.p_value),
        );
        if self.p_value >= SIGNIFICANT {
            let _ = write!(line, ": may be chance");
        }
        line
    }
}

/// The second less the first; 0 where they differ by the order of a sum alone.
fn difference(before: f64, after: f64) -> f64 {
    let difference = after - before;
    if difference.abs() <= ROUNDING * (before.abs() + after.abs()) { 0.0 } else { difference }
}

/// A p-value in as many digits as it is known to, behind its sign.
fn p_value(value: f64) -> String {
    if value < 1e-4 { "< 0.0001".to_owned() } else { format!("= {value:.4}") }
}

/// The records of the same prompts, those of the first model before those of the second.
struct Pairs<'a>(Vec<[&'a AnswerRecord; 2]>);

impl<'a> Pairs<'a> {
    fn of(before: &'a Answers, after: &'a Answers, set: &str) -> Result<Self> {
        let (one, other) = (&before.sets[set], &after.sets[set]);
        let paths = [before.path.display(), after.path.display()];
        let missing = |from: &BTreeMap<String, AnswerRecord>, of: &BTreeMap<String, AnswerRecord>| {
            of.keys().filter(|id| !from.contains_key(*id)).cloned().collect::<Vec<_>>()
        };
        for (place, lacks) in [missing(one, other), missing(other, one)].into_iter().enumerate() {
            if !lacks.is_empty() {
                let more = if lacks.len() > NAMED {
                    format!(" and {} more", lacks.len() - NAMED)
                } else {
                    String::new()
                };
                bail!(
                    "{}: the set {set} has no answers to {}{more}, which {} has; compare answers to the same prompts",
                    paths[place],
                    lacks[..lacks.len().min(NAMED)].join(", "),
                    paths[1 - place]
                );
            }
        }
        let answers = one.values().next().map_or(0, |record| record.completions.len());
        let pairs: Vec<_> = one.iter().map(|(id, record)| [record, &other[id]]).collect();
        for [first, second] in &pairs {
            let id = &first.prompt_id;
            if first.prompt != second.prompt {
                bail!(
                    "the prompt {id} of the set {set} has another text in {} than in {}",
                    paths[1],
                    paths[0]
                );
            }
            for (record, path) in [(first, &paths[0]), (second, &paths[1])] {
                let count = record.completions.len();
                if count != answers {
                    bail!(
                        "{path}: the prompt {id} of the set {set} has {}, and others have {answers}; compare equally \
                         many",
                        number_of(count, "answer")
                    );
                }
            }
            if first.right().is_some() != second.right().is_some() {
                let lacking = if first.right().is_none() { &paths[0] } else { &paths[1] };
                bail!(
                    "{lacking}: nothing says whether the answers to {id} of the set {set} are right, as in the other"
                );
            }
        }
        Ok(Self(pairs))
    }

    fn compared(&self, seed: u64) -> SetComparison {
        let answers = self.0[0][0].completions.len();
        let difference = |value: &dyn Fn(&AnswerRecord) -> f64, is_verdict: bool| {
            let of = |place: usize| -> Vec<f64> { self.0.iter().map(|pair| value(pair[place])).collect() };
            Difference::of(&of(0), &of(1), is_verdict && answers == 1, seed)
        };
        let mean_of = |record: &AnswerRecord, total: f64| total / record.completions.len() as f64;
        let right = |record: &AnswerRecord| mean_of(record, record.right().unwrap_or(0) as f64);
        let reward = |record: &AnswerRecord| {
            mean_of(record, record.completions.iter().map(|answer| answer.reward).sum())
        };
        let length = |record: &AnswerRecord| {
            mean_of(record, record.completions.iter().map(|answer| answer.tokens as f64).sum())
        };
        let is_judged = self.0.iter().all(|[first, _]| first.right().is_some());
        SetComparison {
            problems: self.0.len(),
            completions_per_problem: answers,
            accuracy: is_judged.then(|| difference(&right, true)),
            reward: difference(&reward, false),
            length: difference(&length, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::records::answers::tests::record;

    fn answers(path: &str, records: Vec<AnswerRecord>) -> Answers {
        Answers::of(Path::new(path), records)
    }

    /// 12 prompts with one answer each, right at those of these places.
    fn greedy(path: &str, right: &[usize]) -> Answers {
        let one = |place: usize| record("a", &format!("p:{place:02}"), &[right.contains(&place)]);
        answers(path, (0..12).map(one).collect())
    }

    #[test]
    fn one_answer_to_each_prompt_is_tested_by_mcnemar() {
        let (before, after) = (greedy("b", &[0, 1]), greedy("a", &[1, 2, 3, 4, 5, 6, 7, 8, 9]));
        let comparison = Comparison::of(&before, &after, 1).unwrap();
        let found = comparison.sets["a"].accuracy.clone().unwrap();
        assert_eq!((found.larger, found.smaller, found.test), (8, 1, PairedTest::Mcnemar));
        assert!((found.p_value - 0.039_062_5).abs() < 1e-12, "{found:?}");
        assert!((found.difference.value - 7.0 / 12.0).abs() < 1e-12, "{found:?}");
        let [low, high] = found.difference.interval;
        assert!(low > 0.0 && low < 7.0 / 12.0 && high > 7.0 / 12.0, "{found:?}");
        let lines = comparison.lines();
        assert_eq!(lines[0], "a: 12 prompts, after against before");
        let begins = "  accuracy  16.7 -> 75.0 %, difference +58.3 %, 95 % interval +";
        assert!(lines[1].starts_with(begins), "{lines:?}");
        assert!(lines[1].ends_with("8 larger and 1 smaller, p = 0.0391 (McNemar)"), "{lines:?}");
        assert!(lines[3].ends_with("p = 1.0000 (permutation): may be chance"), "{lines:?}");
        let json = serde_json::to_value(&comparison).unwrap();
        assert_eq!(serde_json::from_value::<Comparison>(json).unwrap(), comparison);
    }

    #[test]
    fn several_answers_are_tested_by_permutation_of_the_models() {
        let several = |path: &str, right: [usize; 4]| {
            let records = right.into_iter().enumerate().map(|(place, right)| {
                let answers: Vec<bool> = (0..4).map(|answer| answer < right).collect();
                record("a", &format!("p:{place}"), &answers)
            });
            answers(path, records.collect())
        };
        let comparison = Comparison::of(&several("b", [0, 1, 2, 2]), &several("a", [1, 3, 2, 4]), 1).unwrap();
        let found = comparison.sets["a"].accuracy.clone().unwrap();
        // Differences of 1, 2, 0 and 2 answers: of the 8 sums of signs two are as large as 5.
        assert_eq!((found.p_value, found.larger, found.smaller), (0.25, 3, 0));
        assert_eq!(
            (found.before, found.after, found.difference.value),
            (5.0 / 16.0, 10.0 / 16.0, 5.0 / 16.0)
        );
    }

    #[test]
    fn what_differs_is_refused_by_name() {
        let refused =
            |before: &Answers, after: &Answers| Comparison::of(before, after, 0).unwrap_err().to_string();
        let whole = || vec![record("a", "p:1", &[true]), record("a", "p:2", &[false])];
        let before = answers("before.jsonl", whole());
        let message = refused(&before, &answers("after.jsonl", vec![record("b", "p:1", &[true])]));
        assert!(message.starts_with("after.jsonl: there is no set a, which before.jsonl has"), "{message}");
        let message = refused(&answers("x", vec![record("a", "p:1", &[true])]), &before);
        assert!(
            message.starts_with("x: the set a has no answers to p:2, which before.jsonl has"),
            "{message}"
        );
        let mut other = whole();
        other[1].prompt = "another".to_owned();
        let message = refused(&before, &answers("after.jsonl", other));
        assert_eq!(
            message,
            "the prompt p:2 of the set a has another text in after.jsonl than in before.jsonl"
        );
        let more = vec![record("a", "p:1", &[true, true]), record("a", "p:2", &[false, true])];
        let message = refused(&before, &answers("after.jsonl", more));
        assert!(message.starts_with("after.jsonl: the prompt p:1 of the set a has 2 answers"), "{message}");
        let mut unjudged = whole();
        unjudged[0].completions[0].correctness = None;
        let message = refused(&before, &answers("after.jsonl", unjudged));
        assert!(message.starts_with("after.jsonl: nothing says whether the answers to p:1"), "{message}");
        let many: Vec<_> = (0..6).map(|place| record("a", &format!("p:{place}"), &[true])).collect();
        let message = refused(&answers("x", many[..1].to_vec()), &answers("y", many));
        assert!(message.contains("p:1, p:2, p:3 and 2 more, which y has"), "{message}");
    }
}
