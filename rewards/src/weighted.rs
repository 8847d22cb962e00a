//! The reward of a completion: the weighted sum of what the configured verifiers say, with every name, number and
//! mark checked, so that nothing that is not finite reaches a loss.

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
        let nothing = Reward { total: 0.0, correctness: None, parts: BTreeMap::new() };
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
                    Ok(reward) => verdict.and_then(|verdict| term.add(verdict, answer, reward)),
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
    fn is_asked(&self, term: &Term, answer: &Answer<'_>, reward: &Result<Reward, RewardError>) -> bool {
        let Ok(reward) = reward else { return false };
        let is_open = term.gate.is_none_or(|gate| reward.parts.get(&self.terms[gate].name) == Some(&1.0));
        let is_cut = answer.truncated && (term.correctness || self.truncated == TruncatedReward::Zero);
        is_open && !is_cut
    }
}

/// The reward, if its total is finite.
fn finite(reward: Reward, answer: &Answer<'_>) -> Result<Reward, RewardError> {
    let value = reward.total;
    if value.is_finite() {
        return Ok(reward);
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
    fn add(&self, verdict: Verdict, answer: &Answer<'_>, reward: &mut Reward) -> Result<(), RewardError> {
        let prompt = || start_of(answer.prompt);
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
        Ok(())
    }
}

fn start_of(prompt: &str) -> String {
    prompt.chars().take(PROMPT_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;
    use crate::config::RewardKind;
    use crate::math::{MathConfig, MathVerifier};
    use crate::tasks::{Task, TaskConfig, TaskName};

    fn configs(json: &str) -> Vec<RewardConfig> {
        serde_json::from_str(json).unwrap()
    }

    fn machine() -> Task {
        Task::new(TaskConfig { name: TaskName::Machine, difficulty_min: 1, difficulty_max: 9 }).unwrap()
    }

    fn sum(json: &str, truncated: TruncatedReward) -> Result<WeightedSum, RewardError> {
        WeightedSum::from_configs(
            &configs(json),
            RewardContext { task: Some(machine()), truncated, ..RewardContext::default() },
        )
    }

    fn score(sum: &WeightedSum, completion: &str, truncated: bool) -> Result<Reward, RewardError> {
        let fields = serde_json::Map::new();
        let (prompt, references) = ("4+3*2=", &["4".to_string()][..]);
        sum.score(&Answer { prompt, completion, references, fields: &fields, tokens: 250, truncated })
    }

    const THREE: &str = r#"[
        {"kind": "task", "correctness": true},
        {"kind": "format", "style": "task", "weight": 0.5},
        {"kind": "length", "length_max": 1000, "weight": 0.25, "format_weight": 1.0, "format_style": "task"}
    ]"#;

    #[test]
    fn the_total_is_the_weighted_sum_and_the_parts_are_unweighted() {
        let sum = sum(THREE, TruncatedReward::Zero).unwrap();
        assert_eq!((sum.names(), sum.correctness_name()), (vec!["task", "format", "length"], Some("task")));
        let reward = score(&sum, "4+3=7;7*2=4;#4", false).unwrap();
        assert_eq!(reward.total, 1.0 + 0.5 + 0.25 * 1.75);
        assert_eq!(reward.correctness, Some(1));
        let expected = [
            ("task", 1.0),
            ("format", 1.0),
            ("length", 1.75),
            ("length/length", 0.75),
            ("length/format", 1.0),
        ];
        assert_eq!(reward.parts, expected.map(|(name, value)| (name.to_string(), value)).into());
        let wrong = score(&sum, "#5", false).unwrap();
        assert_eq!((wrong.total, wrong.correctness), (0.5 + 0.25 * 1.75, Some(0)));
    }

    #[test]
    fn truncated_is_wrong_whatever_it_says() {
        let zero = score(&sum(THREE, TruncatedReward::Zero).unwrap(), "#4", true).unwrap();
        assert_eq!((zero.total, zero.correctness), (0.0, Some(0)));
        assert_eq!(zero.parts, ["task", "format", "length"].map(|name| (name.to_string(), 0.0)).into());
        let scored = score(&sum(THREE, TruncatedReward::Scored).unwrap(), "#4", true).unwrap();
        assert_eq!((scored.total, scored.correctness), (0.5 + 0.25 * 1.75, Some(0)));
        assert_eq!(scored.parts["task"], 0.0);
    }

    #[test]
    fn a_gated_reward_counts_where_its_gate_is_1() {
        let sum = sum(
            r#"[
                {"kind": "task", "correctness": true},
                {"kind": "length", "length_max": 1000, "gate": "task"},
                {"kind": "length", "name": "twice", "length_max": 1000, "gate": "length"}
            ]"#,
            TruncatedReward::Zero,
        )
        .unwrap();
        let right = score(&sum, "4+3=7;7*2=4;#4", false).unwrap();
        assert_eq!((right.total, right.parts["length"], right.parts["twice"]), (1.75, 0.75, 0.0));
        let wrong = score(&sum, "#5", false).unwrap();
        assert_eq!((wrong.total, wrong.parts["length"]), (0.0, 0.0));
    }

    #[test]
    fn one_answer_that_fails_leaves_the_others_their_rewards() {
        let sum = sum(r#"[{"kind": "math"}, {"kind": "format"}]"#, TruncatedReward::Zero).unwrap();
        let fields = serde_json::Map::new();
        let (four, five) = (["4".to_string()], ["5".to_string()]);
        let answer = |completion, references| Answer {
            prompt: "p",
            completion,
            references,
            fields: &fields,
            tokens: 1,
            truncated: false,
        };
        let answers =
            [answer(r"\boxed{4}", &four[..]), answer("4", &[]), answer("x 4", &four), answer("4", &five)];
        let rewards = sum.score_all(&answers);
        assert_eq!(rewards[0].as_ref().unwrap().total, 2.0);
        assert!(
            rewards[1]
                .as_ref()
                .unwrap_err()
                .to_string()
                .starts_with("reward `math` failed on the prompt \"p\"")
        );
        assert_eq!(rewards[2].as_ref().unwrap().total, 1.0);
        assert_eq!(rewards[3].as_ref().unwrap().total, 0.0);
    }

    #[test]
    fn a_prompt_is_checked_before_it_is_answered() {
        let json = r#"[{"kind": "format"}, {"kind": "math"},
            {"kind": "words", "min_field": "least", "words_max": 9, "limit": 20},
            {"kind": "target_length", "target_field": "target", "value": "precise"}]"#;
        let sum = sum(json, TruncatedReward::Zero).unwrap();
        let check = |references: &[&str], fields: &str| {
            let references: Vec<String> = references.iter().map(|text| (*text).to_string()).collect();
            let fields = serde_json::from_str(fields).unwrap();
            let (prompt, completion, tokens, truncated) = ("p", "", 0, false);
            let question =
                Answer { prompt, completion, references: &references, fields: &fields, tokens, truncated };
            sum.check(&question).map_err(|error| error.to_string())
        };
        let good = r#"{"least": 3, "target": 300}"#;
        assert_eq!(check(&["4"], good), Ok(()));
        assert_eq!(check(&[" ", "4"], good), Ok(()));
        let cases = [
            (&[][..], good, "reward `math`", "`answer` is missing or empty"),
            (&["####"], good, "reward `math`", "`answer` is missing or empty"),
            (&["4"], r#"{"target": 300}"#, "reward `words`", "the field `least` is missing"),
            (&["4"], r#"{"least": "3", "target": 300}"#, "reward `words`", "must be a whole number"),
            (&["4"], r#"{"least": 1e400, "target": 300}"#, "reward `words`", "at least 0, not 1e+400"),
            (
                &["4"],
                r#"{"least": 10, "target": 300}"#,
                "reward `words`",
                "must be finite and at least `least`",
            ),
            (&["4"], r#"{"least": 3, "target": "many"}"#, "reward `target_length`", "not \"many\""),
            (&["4"], r#"{"least": 3}"#, "reward `target_length`", "the field `target` is missing"),
        ];
        for (references, fields, name, reason) in cases {
            let error = check(references, fields).unwrap_err();
            assert!(error.starts_with(name) && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn without_a_mark_there_is_no_correctness() {
        let sum = sum(r#"[{"kind": "math", "name": "m"}]"#, TruncatedReward::Zero).unwrap();
        assert_eq!(score(&sum, "4", false).unwrap().correctness, None);
        assert_eq!(score(&sum, "4", true).unwrap().correctness, None);
    }

    #[test]
    fn bad_configs_name_entry_and_key() {
        let cases = [
            ("[]", "rewards: "),
            (r#"[{"kind": "math"}, {"kind": "math"}]"#, "rewards[1].name: `math`"),
            (r#"[{"kind": "math", "name": "a/b"}]"#, "rewards[0].name: "),
            (
                r#"[{"kind": "math", "correctness": true}, {"kind": "task", "correctness": true}]"#,
                "rewards[1].correctness: `math`",
            ),
            (r#"[{"kind": "length", "length_max": 9, "correctness": true}]"#, "rewards[0].correctness: "),
            (r#"[{"kind": "length", "length_max": 0}]"#, "rewards[0].length_max: "),
            (r#"[{"kind": "length", "length_max": 9, "p": 2.0}]"#, "rewards[0].p: "),
            (
                r#"[{"kind": "custom", "name": "mine"}]"#,
                "rewards[0].name: no verifier is registered as `mine`",
            ),
            (
                r#"[{"kind": "math", "gate": "task"}, {"kind": "task"}]"#,
                "rewards[0].gate: `task` is no reward above this one",
            ),
            (r#"[{"kind": "math", "gate": "math"}]"#, "rewards[0].gate: `math`"),
        ];
        for (json, start) in cases {
            let message = sum(json, TruncatedReward::Zero).unwrap_err().to_string();
            assert!(message.starts_with(start), "{message}");
        }
        for json in [
            r#"[{"kind": "task"}]"#,
            r#"[{"kind": "format", "style": "task"}]"#,
            r#"[{"kind": "length", "length_max": 9, "format_weight": 1.0, "format_style": "task"}]"#,
        ] {
            assert!(WeightedSum::from_configs(&configs(json), RewardContext::default()).is_err(), "{json}");
        }
        let infinite = WeightedSum::new(TruncatedReward::Zero)
            .with_verifier(
                "math",
                f64::INFINITY,
                false,
                Box::new(MathVerifier::new(MathConfig::default()).unwrap()),
            )
            .unwrap_err();
        assert!(infinite.to_string().starts_with("weight: "));
    }

    /// Says a given verdict.
    struct Fixed(Result<Verdict, String>);

    impl Verifier for Fixed {
        fn verify(&self, _answer: &Answer<'_>) -> Result<Verdict, RewardError> {
            self.0.clone().map_err(RewardError::Custom)
        }
    }

    fn with_fixed(verdict: Result<Verdict, String>, correctness: bool) -> Result<Reward, RewardError> {
        let config = RewardConfig {
            name: "mine".to_string(),
            ..RewardConfig::new(RewardKind::Custom {}, 2.0, correctness)
        };
        let verifier: Box<dyn Verifier> = Box::new(Fixed(verdict));
        let custom = BTreeMap::from([("mine".to_string(), verifier)]);
        let sum = WeightedSum::from_configs(&[config], RewardContext { custom, ..RewardContext::default() });
        score(&sum.unwrap(), "", false)
    }

    /// Invariant: a reward that is not finite stops the run, with the verifier and the prompt named.
    #[test]
    fn what_is_not_finite_is_an_error_that_names_verifier_and_prompt() {
        assert_eq!(with_fixed(Ok(0.25.into()), false).unwrap().total, 0.5);
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let message = with_fixed(Ok(value.into()), false).unwrap_err().to_string();
            assert!(message.contains("`mine`") && message.contains("4+3*2="), "{message}");
        }
        let parts = BTreeMap::from([("odd".to_string(), f64::NAN)]);
        let message = with_fixed(Ok(Verdict { value: 1.0, parts }), false).unwrap_err().to_string();
        assert!(message.contains("`mine/odd`"), "{message}");
        let message = with_fixed(Ok(f64::MAX.into()), false).unwrap_err().to_string();
        assert!(message.contains("`total`"), "{message}");
    }

    #[test]
    fn a_correctness_is_0_or_1() {
        assert_eq!(with_fixed(Ok(1.0.into()), true).unwrap().correctness, Some(1));
        let message = with_fixed(Ok(0.5.into()), true).unwrap_err().to_string();
        assert!(message.contains("`mine`") && message.contains("0.5"), "{message}");
    }

    #[test]
    fn a_failing_verifier_is_named_with_the_prompt() {
        let message = with_fixed(Err("the service is away".to_string()), false).unwrap_err().to_string();
        assert_eq!(message, "reward `mine` failed on the prompt \"4+3*2=\": the service is away");
    }

    proptest! {
        #[test]
        fn any_completion_gets_a_finite_reward(completion in any::<String>(), truncated in any::<bool>()) {
            for rule in [TruncatedReward::Zero, TruncatedReward::Scored] {
                let sum = sum(THREE, rule).unwrap();
                let reward = score(&sum, &completion, truncated).unwrap();
                let weighted = reward.parts["task"] + 0.5 * reward.parts["format"] + 0.25 * reward.parts["length"];
                prop_assert!((reward.total - weighted).abs() < 1e-12);
            }
        }
    }
}
