//! The reward of a completion: the weighted sum of what the configured verifiers say, with every name, number and
//! mark checked, so that nothing that is not finite reaches a loss.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::format::{FormatStyle, FormatVerifier};
use crate::length::{LengthConfig, LengthShape, LengthVerifier};
use crate::math::MathVerifier;
use crate::tasks::{Task, TaskVerifier};
use crate::{Answer, Reward, RewardError, Verifier};

/// Characters of a prompt that an error repeats.
const PROMPT_SHOWN: usize = 80;

/// One `[[rewards]]` entry. Every kind has a `name` (its kind, if not given), a `weight` (1, if not given) and the
/// mark `correctness`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RewardConfig {
    /// [`MathVerifier`]: 1 if the final answer equals the reference.
    Math {
        /// Name in the metrics.
        #[serde(default = "math_name")]
        name: String,
        /// Factor in the total.
        #[serde(default = "one")]
        weight: f64,
        /// Whether this reward says what is right.
        #[serde(default)]
        correctness: bool,
    },
    /// [`FormatVerifier`]: 1 if the answer can be read.
    Format {
        /// Name in the metrics.
        #[serde(default = "format_name")]
        name: String,
        /// Factor in the total.
        #[serde(default = "one")]
        weight: f64,
        /// Whether this reward says what is right.
        #[serde(default)]
        correctness: bool,
        /// What counts as the right format.
        #[serde(default)]
        style: FormatStyle,
    },
    /// [`LengthVerifier`]: the length curve, with `format_weight` combined with a format.
    Length {
        /// Name in the metrics.
        #[serde(default = "length_name")]
        name: String,
        /// Factor in the total.
        #[serde(default = "one")]
        weight: f64,
        /// Refused: a curve does not say what is right.
        #[serde(default)]
        correctness: bool,
        /// Tokens at which the curve has fallen to -1.
        length_max: usize,
        /// Where the curve's top is, as a fraction of `length_max`.
        #[serde(default = "half")]
        p: f64,
        /// The curve.
        #[serde(default)]
        shape: LengthShape,
        /// The paper's w_f. If given, the value is `w_f + R_l` in the right format and `min(0, R_l)` in another.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        format_weight: Option<f64>,
        /// What counts as the right format, where `format_weight` asks for one.
        #[serde(default)]
        format_style: FormatStyle,
    },
    /// [`TaskVerifier`]: 1 if the completion ends with a right answer to the run's task.
    Task {
        /// Name in the metrics.
        #[serde(default = "task_name")]
        name: String,
        /// Factor in the total.
        #[serde(default = "one")]
        weight: f64,
        /// Whether this reward says what is right.
        #[serde(default)]
        correctness: bool,
    },
    /// A verifier that the program registered under this name.
    Custom {
        /// Name in the metrics and in [`RewardContext::custom`].
        name: String,
        /// Factor in the total.
        #[serde(default = "one")]
        weight: f64,
        /// Whether this reward says what is right.
        #[serde(default)]
        correctness: bool,
    },
}

fn math_name() -> String {
    "math".to_string()
}

fn format_name() -> String {
    "format".to_string()
}

fn length_name() -> String {
    "length".to_string()
}

fn task_name() -> String {
    "task".to_string()
}

fn one() -> f64 {
    1.0
}

fn half() -> f64 {
    0.5
}

impl RewardConfig {
    /// Name in the metrics; unique in a run.
    pub fn name(&self) -> &str {
        match self {
            RewardConfig::Math { name, .. }
            | RewardConfig::Format { name, .. }
            | RewardConfig::Length { name, .. }
            | RewardConfig::Task { name, .. }
            | RewardConfig::Custom { name, .. } => name,
        }
    }

    /// Factor in the total.
    pub fn weight(&self) -> f64 {
        match self {
            RewardConfig::Math { weight, .. }
            | RewardConfig::Format { weight, .. }
            | RewardConfig::Length { weight, .. }
            | RewardConfig::Task { weight, .. }
            | RewardConfig::Custom { weight, .. } => *weight,
        }
    }

    /// Whether this reward is the one that says what is right.
    pub fn is_correctness(&self) -> bool {
        match self {
            RewardConfig::Math { correctness, .. }
            | RewardConfig::Format { correctness, .. }
            | RewardConfig::Length { correctness, .. }
            | RewardConfig::Task { correctness, .. }
            | RewardConfig::Custom { correctness, .. } => *correctness,
        }
    }

    /// Makes the verifier. A custom one is taken out of the context.
    fn verifier(&self, context: &mut RewardContext) -> Result<Box<dyn Verifier>, RewardError> {
        match self {
            RewardConfig::Math { .. } => Ok(Box::new(MathVerifier)),
            RewardConfig::Format { style, .. } => Ok(Box::new(format_verifier(*style, context, "style")?)),
            RewardConfig::Task { .. } => {
                let task = context.task.clone();
                let reason = "`task` judges the problems of a task, and the data is not one";
                Ok(Box::new(TaskVerifier::new(task.ok_or_else(|| RewardError::config("kind", reason))?)))
            }
            RewardConfig::Length { correctness: true, .. } => {
                let reason = "a length does not say what is right; mark another reward";
                Err(RewardError::config("correctness", reason))
            }
            RewardConfig::Length { length_max, p, shape, format_weight, format_style, .. } => {
                let curve = LengthConfig { length_max: *length_max, p: *p, shape: *shape };
                let verifier = LengthVerifier::new(curve)?;
                Ok(Box::new(match format_weight {
                    None => verifier,
                    Some(weight) => verifier
                        .with_format(*weight, format_verifier(*format_style, context, "format_style")?)?,
                }))
            }
            RewardConfig::Custom { name, .. } => context.custom.remove(name).ok_or_else(|| {
                let known: Vec<&str> = context.custom.keys().map(String::as_str).collect();
                let reason =
                    format!("no verifier is registered as `{name}` (still free: [{}])", known.join(", "));
                RewardError::config("name", reason)
            }),
        }
    }
}

fn format_verifier(
    style: FormatStyle,
    context: &RewardContext,
    key: &str,
) -> Result<FormatVerifier, RewardError> {
    match (style, &context.task) {
        (FormatStyle::Boxed, _) => Ok(FormatVerifier::boxed()),
        (FormatStyle::Task, Some(task)) => Ok(FormatVerifier::of_task(task.clone())),
        (FormatStyle::Task, None) => {
            Err(RewardError::config(key, "`task` is the form of a task's answers, and the data is not one"))
        }
    }
}

/// What a completion gets that the output limit cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TruncatedReward {
    /// It is wrong: no verifier is asked, every value, the total and the correctness are 0 (UloRL).
    #[default]
    Zero,
    /// It is wrong, but the other verifiers are asked: only the correctness reward is 0.
    Scored,
}

/// What the configs refer to without holding it.
#[derive(Default)]
pub struct RewardContext {
    /// The run's task, if its data is one.
    pub task: Option<Task>,
    /// Verifiers from outside this crate, by the name that a `kind = "custom"` entry gives.
    pub custom: BTreeMap<String, Box<dyn Verifier>>,
    /// What truncated completions get.
    pub truncated: TruncatedReward,
}

/// A verifier with its place in the sum.
struct Term {
    name: String,
    weight: f64,
    correctness: bool,
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
                    sum.with_verifier(config.name(), config.weight(), config.is_correctness(), verifier)
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
        self.terms.push(Term { name: name.to_string(), weight, correctness, verifier });
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

    /// Scores one completion. The total always is the sum of the weights times the values in `parts`.
    ///
    /// # Errors
    /// Names the reward and the prompt: a verifier that failed, a value that is not finite, a correctness that is
    /// neither 0 nor 1.
    pub fn score(&self, answer: &Answer<'_>) -> Result<Reward, RewardError> {
        let mut reward = Reward { total: 0.0, correctness: None, parts: BTreeMap::new() };
        for term in &self.terms {
            let value = match (answer.truncated, self.truncated) {
                (true, TruncatedReward::Zero) => 0.0,
                (true, TruncatedReward::Scored) if term.correctness => 0.0,
                _ => term.score(answer, &mut reward.parts)?,
            };
            if term.correctness {
                reward.correctness = Some(u8::from(value == 1.0));
            }
            reward.parts.insert(term.name.clone(), value);
            reward.total += term.weight * value;
        }
        if !reward.total.is_finite() {
            let (value, prompt) = (reward.total, start_of(answer.prompt));
            return Err(RewardError::NotFinite { name: "total".to_string(), value, prompt });
        }
        Ok(reward)
    }
}

impl Term {
    /// Asks the verifier, checks what it says and notes its parts.
    fn score(&self, answer: &Answer<'_>, parts: &mut BTreeMap<String, f64>) -> Result<f64, RewardError> {
        let prompt = || start_of(answer.prompt);
        let name = &self.name;
        let verdict = self.verifier.verify(answer).map_err(|source| RewardError::Verifier {
            name: name.clone(),
            prompt: prompt(),
            source: Box::new(source),
        })?;
        let value = verdict.value;
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
            parts.insert(name, value);
        }
        Ok(value)
    }
}

fn start_of(prompt: &str) -> String {
    prompt.chars().take(PROMPT_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;
    use crate::Verdict;
    use crate::tasks::{TaskConfig, TaskName};

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
        let (prompt, reference) = ("4+3*2=", Some("4"));
        sum.score(&Answer { prompt, completion, reference, fields: &fields, tokens: 250, truncated })
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
            .with_verifier("math", f64::INFINITY, false, Box::new(MathVerifier))
            .unwrap_err();
        assert!(infinite.to_string().starts_with("weight: "));
    }

    #[test]
    fn unknown_kinds_and_keys_are_refused_by_name() {
        let message = |json| serde_json::from_str::<RewardConfig>(json).unwrap_err().to_string();
        assert!(message(r#"{"kind": "maths"}"#).contains("maths"));
        assert!(message(r#"{"kind": "math", "wieght": 1.0}"#).contains("wieght"));
        assert!(message(r#"{"kind": "length"}"#).contains("length_max"));
        assert!(message(r#"{"kind": "custom"}"#).contains("name"));
    }

    #[test]
    fn configs_survive_being_written() {
        let written = serde_json::to_string(&configs(THREE)).unwrap();
        assert_eq!(configs(&written), configs(THREE));
        assert!(written.contains(r#""name":"task","weight":1.0,"correctness":true"#), "{written}");
    }

    /// Says a given verdict.
    struct Fixed(Result<Verdict, String>);

    impl Verifier for Fixed {
        fn verify(&self, _answer: &Answer<'_>) -> Result<Verdict, RewardError> {
            self.0.clone().map_err(RewardError::Custom)
        }
    }

    fn with_fixed(verdict: Result<Verdict, String>, correctness: bool) -> Result<Reward, RewardError> {
        let config = RewardConfig::Custom { name: "mine".to_string(), weight: 2.0, correctness };
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
