//! The reward of a completion: the weighted sum of what the configured verifiers say, with every name, number and
//! mark checked, so that nothing that is not finite reaches a loss.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::config::{RewardConfig, RewardContext, TruncatedReward};
use crate::{Answer, Reward, RewardError, Verdict, Verifier};

/// Characters of a prompt that an error repeats.
const PROMPT_SHOWN: usize = 80;

/// A verifier with its place in the sum.
struct Term {
    name: String,
    weight: f64,
    correctness: bool,
    /// Place of the term that this one counts with.
    gate: Option<usize>,
    verifier: Box<dyn Verifier>,
}

/// What all verifiers together say about one answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// What the answer is worth.
    pub reward: Reward,
    /// Why a verifier gave no verdict and a 0 stands in for it, with the reward's name.
    pub failures: Vec<String>,
}

/// Scores completions: the total is the sum of weight times value.
pub struct WeightedSum {
    terms: Vec<Term>,
    truncated: TruncatedReward,
}

impl std::fmt::Debug for WeightedSum {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("WeightedSum").field("names", &self.names()).finish_non_exhaustive()
    }
}

impl WeightedSum {
    /// A sum without terms.
    pub fn new(truncated: TruncatedReward) -> Self {
        WeightedSum { terms: Vec::new(), truncated }
    }

    /// The sum of a config's `[[rewards]]`.
    ///
    /// # Errors
    /// Names the entry and key that cannot work, as `rewards[1].weight`; also if there is no entry at all.
    pub fn from_configs(configs: &[RewardConfig], mut context: RewardContext) -> Result<Self, RewardError> {
        if configs.is_empty() {
            return Err(RewardError::config("rewards", "at least one reward is needed"));
        }
        configs.iter().enumerate().try_fold(WeightedSum::new(context.truncated), |sum, (place, config)| {
            config
                .verifier(&mut context)
                .and_then(|verifier| {
                    sum.with_verifier(&config.name, config.weight, config.correctness, verifier)
                })
                .and_then(|sum| match &config.gate {
                    Some(gate) => sum.gated_by(gate),
                    None => Ok(sum),
                })
                .map_err(|error| match error {
                    RewardError::Config { key, reason } => {
                        RewardError::config(format!("rewards[{place}].{key}"), reason)
                    }
                    other => other,
                })
        })
    }

    /// Adds a term.
    ///
    /// # Errors
    /// Names the key: a weight that is not finite, a name that is empty or taken, a second correctness.
    pub fn with_verifier(
        mut self,
        name: &str,
        weight: f64,
        correctness: bool,
        verifier: Box<dyn Verifier>,
    ) -> Result<Self, RewardError> {
        if name.is_empty() || name.contains('/') {
            return Err(RewardError::config("name", format!("{name:?} must be a word without `/`")));
        }
        if self.names().contains(&name) {
            return Err(RewardError::config("name", format!("`{name}` is the name of another reward")));
        }
        if !weight.is_finite() {
            return Err(RewardError::config("weight", format!("must be finite, not {weight}")));
        }
        if let Some(other) = self.correctness_name().filter(|_| correctness) {
            let reason = format!("`{other}` is marked already, and only one reward can say what is right");
            return Err(RewardError::config("correctness", reason));
        }
        self.terms.push(Term { name: name.to_string(), weight, correctness, gate: None, verifier });
        Ok(self)
    }

    /// Makes the last term count only where the term of this name is 1; elsewhere it is 0 and is not asked.
    fn gated_by(mut self, gate: &str) -> Result<Self, RewardError> {
        let above = self.terms.len().saturating_sub(1);
        let Some(place) = self.terms[..above].iter().position(|term| term.name == gate) else {
            let known: Vec<&str> = self.terms[..above].iter().map(|term| term.name.as_str()).collect();
            let reason = format!("`{gate}` is no reward above this one (there are [{}])", known.join(", "));
            return Err(RewardError::config("gate", reason));
        };
        if let Some(term) = self.terms.last_mut() {
            term.gate = Some(place);
        }
        Ok(self)
    }

    /// The rewards' names in the config's order.
    pub fn names(&self) -> Vec<&str> {
        self.terms.iter().map(|term| term.name.as_str()).collect()
    }

    /// The name of the reward that says what is right, if one does.
    pub fn correctness_name(&self) -> Option<&str> {
        self.terms.iter().find(|term| term.correctness).map(|term| term.name.as_str())
    }

    /// The final answer that the reward with the correctness reads in a completion, if it reads one. What the output limit
    /// cut off has none: it is not asked about.
    pub fn final_answer(&self, answer: &Answer<'_>) -> Option<String> {
        let term = self.terms.iter().find(|term| term.correctness).filter(|_| !answer.truncated)?;
        term.verifier.final_answer(answer).filter(|text| !text.trim().is_empty())
    }

    /// Whether two final answers of one prompt are the same one to the reward with the correctness.
    pub fn is_same_answer(&self, one: &str, other: &str) -> bool {
        let term = self.terms.iter().find(|term| term.correctness);
        term.is_some_and(|term| term.verifier.is_same_answer(one, other))
    }

    /// Name and weight of each reward, in the config's order.
    pub fn weights(&self) -> Vec<(String, f64)> {
        self.terms.iter().map(|term| (term.name.clone(), term.weight)).collect()
    }

    /// The verifiers' counters, as `reward/counter`.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let named = |term: &Term| {
            let name = term.name.clone();
            term.verifier
                .counters()
                .into_iter()
                .map(move |(counter, value)| (format!("{name}/{counter}"), value))
        };
        self.terms.iter().flat_map(named).collect()
    }

    /// Whether answers to this prompt could be judged by every reward; see [`Verifier::check`].
    ///
    /// # Errors
    /// Names the first reward that lacks something, and what.
    pub fn check(&self, question: &Answer<'_>) -> Result<(), RewardError> {
        let named = |term: &Term, source| RewardError::Verifier {
            name: term.name.clone(),
            prompt: start_of(question.prompt),
            source: Box::new(source),
        };
        self.terms
            .iter()
            .try_for_each(|term| term.verifier.check(question).map_err(|source| named(term, source)))
    }

    /// Scores one completion; see [`WeightedSum::score_all`].
    ///
    /// # Errors
    /// As there.
    pub fn score(&self, answer: &Answer<'_>) -> Result<Reward, RewardError> {
        self.score_all(std::slice::from_ref(answer)).pop().expect("one answer, one reward")
    }

    /// Scores completions, in their order. A total always is the sum of the weights times the values in `parts`.
    ///
    /// # Errors
    /// For each completion on its own, with reward and prompt named: a verifier that failed, a value that is not
    /// finite, a correctness that is neither 0 nor 1.
    pub fn score_all(&self, answers: &[Answer<'_>]) -> Vec<Result<Reward, RewardError>> {
        self.judge_all(answers).into_iter().map(|judged| Ok(judged?.reward)).collect()
    }

    /// As [`WeightedSum::score_all`], with the failures that count as 0.
    ///
    /// # Errors
    /// As there.
    pub fn judge_all(&self, answers: &[Answer<'_>]) -> Vec<Result<Judged, RewardError>> {
        let reward = Reward { total: 0.0, correctness: None, parts: BTreeMap::new() };
        let nothing = Judged { reward, failures: Vec::new() };
        let mut rewards: Vec<_> = answers.iter().map(|_| Ok(nothing.clone())).collect();
        for term in &self.terms {
            let asked: Vec<usize> =
                (0..answers.len()).filter(|&at| self.is_asked(term, &answers[at], &rewards[at])).collect();
            let questions: Vec<Answer<'_>> = asked.iter().map(|&at| answers[at]).collect();
            let mut verdicts: Vec<_> = answers.iter().map(|_| Ok(Verdict::default())).collect();
            for (at, verdict) in asked.into_iter().zip(term.verify_all(&questions)) {
                verdicts[at] = verdict;
            }
            for ((reward, verdict), answer) in rewards.iter_mut().zip(verdicts).zip(answers) {
                let added = match reward {
                    Ok(judged) => verdict.and_then(|verdict| term.add(verdict, answer, judged)),
                    Err(_) => continue,
                };
                if let Err(error) = added {
                    *reward = Err(error);
                }
            }
        }
        rewards.into_iter().zip(answers).map(|(reward, answer)| finite(reward?, answer)).collect()
    }

    /// Whether the term's verifier judges this answer, or its value is 0 without that.
    fn is_asked(&self, term: &Term, answer: &Answer<'_>, judged: &Result<Judged, RewardError>) -> bool {
        let Ok(Judged { reward, .. }) = judged else { return false };
        let is_open = term.gate.is_none_or(|gate| reward.parts.get(&self.terms[gate].name) == Some(&1.0));
        let is_cut = answer.truncated && (term.correctness || self.truncated == TruncatedReward::Zero);
        is_open && !is_cut
    }
}

/// The reward, if its total is finite.
fn finite(judged: Judged, answer: &Answer<'_>) -> Result<Judged, RewardError> {
    let value = judged.reward.total;
    if value.is_finite() {
        return Ok(judged);
    }
    Err(RewardError::NotFinite { name: "total".to_string(), value, prompt: start_of(answer.prompt) })
}

impl Term {
    /// Asks the verifier and names it where it failed.
    fn verify_all(&self, answers: &[Answer<'_>]) -> Vec<Result<Verdict, RewardError>> {
        let verdicts = self.verifier.verify_all(answers);
        assert_eq!(verdicts.len(), answers.len(), "verdicts of `{}` and answers", self.name);
        let named = |source, answer: &Answer<'_>| RewardError::Verifier {
            name: self.name.clone(),
            prompt: start_of(answer.prompt),
            source: Box::new(source),
        };
        let pairs = verdicts.into_iter().zip(answers);
        pairs.map(|(verdict, answer)| verdict.map_err(|source| named(source, answer))).collect()
    }

    /// Checks a verdict and adds it to the reward.
    fn add(&self, verdict: Verdict, answer: &Answer<'_>, judged: &mut Judged) -> Result<(), RewardError> {
        let prompt = || start_of(answer.prompt);
        let reward = &mut judged.reward;
        let (name, value) = (&self.name, verdict.value);
        if !value.is_finite() {
            return Err(RewardError::NotFinite { name: name.clone(), value, prompt: prompt() });
        }
        if self.correctness && value != 0.0 && value != 1.0 {
            return Err(RewardError::NotZeroOrOne { name: name.clone(), value, prompt: prompt() });
        }
        for (part, value) in verdict.parts {
            let name = format!("{name}/{part}");
            if !value.is_finite() {
                return Err(RewardError::NotFinite { name, value, prompt: prompt() });
            }
            reward.parts.insert(name, value);
        }
        if self.correctness {
            reward.correctness = Some(u8::from(value == 1.0));
        }
        reward.parts.insert(name.clone(), value);
        reward.total += self.weight * value;
        judged.failures.extend(verdict.failure.map(|reason| format!("{name}: {reason}")));
        Ok(())
    }
}

fn start_of(prompt: &str) -> String {
    prompt.chars().take(PROMPT_SHOWN).collect()
}
