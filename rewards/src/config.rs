//! The `[[rewards]]` of a config: what every entry has, the kinds there are, and how a kind becomes a verifier.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::format::{FormatConfig, FormatStyle, FormatVerifier};
use crate::judge::{JudgeConfig, JudgeVerifier};
use crate::length::{LengthConfig, LengthVerifier};
use crate::math::{MathConfig, MathVerifier};
use crate::overlong::{OverlongConfig, OverlongVerifier};
use crate::process::{ProcessConfig, ProcessVerifier};
use crate::repetition::{RepetitionConfig, RepetitionVerifier};
use crate::target_length::{LengthMatch, TargetLengthConfig, TargetLengthVerifier};
use crate::tasks::{Task, TaskVerifier};
use crate::think_length::{ThinkLengthConfig, ThinkLengthVerifier};
use crate::words::{WordsConfig, WordsVerifier};
use crate::{RewardError, Verifier};

/// One `[[rewards]]` entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "WrittenEntry")]
pub struct RewardConfig {
    /// Name in the metrics, unique in a run.
    /// Default: the word of the kind.
    pub name: String,
    /// Factor in the total.
    /// Default: `1.0`.
    pub weight: f64,
    /// Whether this reward says what is right.
    /// Default: `false`.
    pub correctness: bool,
    /// Name of a reward above this one without which this one is 0: it counts only where that one is 1.
    /// Default: none.
    pub gate: Option<String>,
    /// What judges.
    pub kind: RewardKind,
}

/// What judges, and its own keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RewardKind {
    /// [`MathVerifier`]: 1 if the final answer equals the reference.
    Math(MathConfig),
    /// [`FormatVerifier`]: 1 if the answer can be read.
    Format(FormatConfig),
    /// [`LengthVerifier`]: the length curve, with `format_weight` combined with a format.
    Length(LengthConfig),
    /// [`OverlongVerifier`]: 0 up to a length, then down to -1 (DAPO).
    Overlong(OverlongConfig),
    /// [`WordsVerifier`]: 1 inside a range of words (LongWriter-Zero).
    Words(WordsConfig),
    /// [`TargetLengthVerifier`]: 1 at the length that was asked for (Ruler).
    TargetLength(TargetLengthConfig),
    /// [`ThinkLengthVerifier`]: 1 inside a range for the thinking.
    ThinkLength(ThinkLengthConfig),
    /// [`RepetitionVerifier`]: a penalty for repeated n-grams.
    Repetition(RepetitionConfig),
    /// [`TaskVerifier`]: 1 if the completion ends with a right answer to the run's task.
    Task {},
    /// [`ProcessVerifier`]: what a program in any language says.
    Process(ProcessConfig),
    /// [`JudgeVerifier`]: what a language model behind a service says.
    Judge(JudgeConfig),
    /// A verifier that the program registered under the entry's name.
    Custom {},
}

/// The keys that every kind has.
const COMMON_KEYS: [&str; 4] = ["name", "weight", "correctness", "gate"];

impl TryFrom<Map<String, Value>> for RewardConfig {
    type Error = String;

    fn try_from(mut entry: Map<String, Value>) -> Result<Self, String> {
        fn take<T: serde::de::DeserializeOwned>(
            entry: &mut Map<String, Value>,
            key: &str,
        ) -> Result<Option<T>, String> {
            entry.remove(key).map(serde_json::from_value).transpose().map_err(|error| error.to_string())
        }
        let name: Option<String> = take(&mut entry, "name")?;
        let weight = take(&mut entry, "weight")?.unwrap_or(1.0);
        let correctness = take(&mut entry, "correctness")?.unwrap_or(false);
        let gate = take(&mut entry, "gate")?;
        let mut kind: RewardKind = serde_json::from_value(Value::Object(entry)).map_err(|error| {
            let message = error.to_string();
            // The kind does not know the keys that were taken out before it was asked.
            match message.starts_with("unknown field") {
                true => format!("{message}, expected one of `{}`", COMMON_KEYS.join("`, `")),
                false => message,
            }
        })?;
        if let RewardKind::Judge(config) = &mut kind {
            config.fill_in();
        }
        let name = match (name, &kind) {
            (Some(name), _) => name,
            (None, RewardKind::Custom {}) => return Err("missing field `name`".to_string()),
            (None, kind) => kind.word(),
        };
        Ok(RewardConfig { name, weight, correctness, gate, kind })
    }
}

/// An entry as it is written. It holds no JSON value: with `arbitrary_precision` the numbers of one are objects
/// to every format but JSON.
#[derive(Serialize)]
struct WrittenEntry {
    #[serde(flatten)]
    kind: RewardKind,
    name: String,
    weight: f64,
    correctness: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<String>,
}

impl From<RewardConfig> for WrittenEntry {
    fn from(config: RewardConfig) -> Self {
        let RewardConfig { name, weight, correctness, gate, kind } = config;
        WrittenEntry { kind, name, weight, correctness, gate }
    }
}

impl RewardKind {
    /// Whether the values are degrees, which are not 0 or 1 and cannot be a correctness.
    fn is_graded(&self) -> bool {
        use RewardKind::{Length, Overlong, Repetition, TargetLength, ThinkLength, Words};
        match self {
            Length(_) | Overlong(_) | Repetition(_) | ThinkLength(_) | Words(_) => true,
            TargetLength(config) => config.value == LengthMatch::Mean,
            _ => false,
        }
    }

    /// The kind with its keys as they stand in a config.
    fn entry(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(entry)) => entry,
            other => unreachable!("a tagged enum is written as an object, not {other:?}"),
        }
    }

    /// Whether the value depends on the number of tokens of a completion.
    pub fn counts_tokens(&self) -> bool {
        matches!(self, RewardKind::Length(_) | RewardKind::Overlong(_))
    }

    /// The kind's word in a config.
    fn word(&self) -> String {
        self.entry()["kind"].as_str().expect("the tag is a word").to_string()
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

impl RewardConfig {
    /// An entry without a gate, under the kind's own name.
    pub fn new(kind: RewardKind, weight: f64, correctness: bool) -> Self {
        RewardConfig { name: kind.word(), weight, correctness, gate: None, kind }
    }

    /// Makes the verifier. A custom one is taken out of the context.
    pub(crate) fn verifier(&self, context: &mut RewardContext) -> Result<Box<dyn Verifier>, RewardError> {
        if self.correctness && self.kind.is_graded() {
            let reason = format!("`{}` does not say what is right; mark another reward", self.kind.word());
            return Err(RewardError::config("correctness", reason));
        }
        match &self.kind {
            RewardKind::Math(config) => Ok(Box::new(MathVerifier::new(config.clone())?)),
            RewardKind::Format(config) => {
                Ok(Box::new(format_verifier(config.style, config.think_opened, context, "style")?))
            }
            RewardKind::Task {} => {
                let task = context.task.clone();
                let reason = "`task` judges the problems of a task, and the data is not one";
                Ok(Box::new(TaskVerifier::new(task.ok_or_else(|| RewardError::config("kind", reason))?)))
            }
            RewardKind::Length(config) => {
                let format = match config.format_weight {
                    None => None,
                    Some(_) => {
                        let style = config.format_style;
                        Some(format_verifier(style, config.think_opened, context, "format_style")?)
                    }
                };
                Ok(Box::new(LengthVerifier::new(config.clone(), format)?))
            }
            RewardKind::Overlong(config) => Ok(Box::new(OverlongVerifier::new(config.clone())?)),
            RewardKind::Words(config) => Ok(Box::new(WordsVerifier::new(config.clone())?)),
            RewardKind::TargetLength(config) => Ok(Box::new(TargetLengthVerifier::new(config.clone())?)),
            RewardKind::ThinkLength(config) => Ok(Box::new(ThinkLengthVerifier::new(config.clone())?)),
            RewardKind::Repetition(config) => Ok(Box::new(RepetitionVerifier::new(config.clone())?)),
            RewardKind::Process(config) => Ok(Box::new(ProcessVerifier::new(&self.name, config.clone())?)),
            RewardKind::Judge(config) => Ok(Box::new(JudgeVerifier::new(config.clone())?)),
            RewardKind::Custom {} => context.custom.remove(&self.name).ok_or_else(|| {
                let known: Vec<&str> = context.custom.keys().map(String::as_str).collect();
                let name = &self.name;
                let reason =
                    format!("no verifier is registered as `{name}` (still free: [{}])", known.join(", "));
                RewardError::config("name", reason)
            }),
        }
    }
}

/// The verifier of a style; `key` is the one that names it.
fn format_verifier(
    style: FormatStyle,
    think_opened: bool,
    context: &RewardContext,
    key: &str,
) -> Result<FormatVerifier, RewardError> {
    let thinks = matches!(style, FormatStyle::ThinkAnswer | FormatStyle::ThinkBoxed);
    if think_opened && !thinks {
        let reason = "is for the styles `think_answer` and `think_boxed`";
        return Err(RewardError::config("think_opened", reason));
    }
    match (style, &context.task) {
        (FormatStyle::Boxed, _) => Ok(FormatVerifier::boxed()),
        (FormatStyle::ThinkAnswer, _) => Ok(FormatVerifier::think_answer(think_opened)),
        (FormatStyle::ThinkBoxed, _) => Ok(FormatVerifier::think_boxed(think_opened)),
        (FormatStyle::Task, Some(task)) => Ok(FormatVerifier::of_task(task.clone())),
        (FormatStyle::Task, None) => {
            Err(RewardError::config(key, "`task` is the form of a task's answers, and the data is not one"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_kinds_and_keys_are_refused_by_name() {
        let message = |json| serde_json::from_str::<RewardConfig>(json).unwrap_err().to_string();
        assert!(message(r#"{"kind": "maths"}"#).contains("maths"));
        assert!(message(r#"{"kind": "task", "wieght": 1.0}"#).contains("`wieght`"));
        assert!(message(r#"{"kind": "task", "wieght": 1.0}"#).contains("`weight`"));
        assert!(message(r#"{"kind": "math", "weight": "one"}"#).contains("\"one\""));
        assert!(message(r#"{"kind": "length"}"#).contains("length_max"));
        assert!(message(r#"{"kind": "length", "length_max": 5, "sharp": 1}"#).contains("`sharp`"));
        assert!(message(r#"{"kind": "words", "limit": 5, "words": 1}"#).contains("`words`"));
        assert!(message(r#"{"kind": "target_length", "value": "close"}"#).contains("`close`"));
        assert!(message(r#"{"kind": "overlong", "length_max": 5}"#).contains("`buffer`"));
        assert!(message(r#"{"kind": "custom"}"#).contains("missing field `name`"));
        assert!(message(r#"{"weight": 1.0}"#).contains("missing field `kind`"));
    }

    #[test]
    fn plugins_and_judges_are_checked_and_not_started() {
        let verifier = |json| {
            let config: RewardConfig = serde_json::from_str(json).unwrap();
            config.verifier(&mut RewardContext::default()).map(drop).map_err(|error| error.to_string())
        };
        // No service listens at either address: neither is asked yet.
        verifier(r#"{"kind": "process", "command": ["/nowhere/reward"]}"#).unwrap();
        verifier(r#"{"kind": "judge", "url": "http://127.0.0.1:1", "model": "m"}"#).unwrap();
        let error = verifier(r#"{"kind": "process", "command": []}"#).unwrap_err();
        assert!(error.starts_with("command: "), "{error}");
        let error = verifier(r#"{"kind": "judge", "url": "nowhere", "model": "m"}"#).unwrap_err();
        assert!(error.starts_with("url: "), "{error}");
        let message = |json| serde_json::from_str::<RewardConfig>(json).unwrap_err().to_string();
        assert!(message(r#"{"kind": "process"}"#).contains("`command`"));
        assert!(message(r#"{"kind": "process", "command": ["a"], "on_error": "go"}"#).contains("skip_group"));
        assert!(
            message(r#"{"kind": "judge", "url": "a", "model": "m", "api_key": "s"}"#).contains("`api_key`")
        );
    }

    #[test]
    fn configs_survive_being_written() {
        let json = r#"[
            {"kind": "task", "correctness": true},
            {"kind": "length", "name": "short", "length_max": 9, "weight": 0.25, "gate": "task"},
            {"kind": "format", "style": "think_boxed", "think_opened": true},
            {"kind": "overlong", "length_max": 9, "buffer": 3},
            {"kind": "words", "words_min": 1, "max_field": "most", "limit": 9},
            {"kind": "target_length", "target": ">800", "value": "mean"},
            {"kind": "think_length", "unit": "share", "min": 0.5, "max": 0.75, "limit": 1},
            {"kind": "repetition", "n": 3, "max_penalty": 1},
            {"kind": "process", "command": ["a", "b"], "environment": {"A": "B"}, "on_error": "zero"},
            {"kind": "judge", "url": "http://a", "model": "m", "api_key_env": "KEY"},
            {"kind": "judge", "name": "other", "url": "http://a", "model": "m", "max_completion_tokens": 9,
             "temperature": "omit", "request": {"a": {"b": [true, 1, 0.5, "c"]}}}
        ]"#;
        let configs: Vec<RewardConfig> = serde_json::from_str(json).unwrap();
        assert_eq!(configs[0], RewardConfig::new(RewardKind::Task {}, 1.0, true));
        assert_eq!((configs[1].name.as_str(), configs[1].gate.as_deref()), ("short", Some("task")));
        let written = serde_json::to_string(&configs).unwrap();
        assert_eq!(serde_json::from_str::<Vec<RewardConfig>>(&written).unwrap(), configs);
        assert!(written.contains(r#""name":"task","weight":1.0"#), "{written}");
        // The limit that holds is written down.
        assert_eq!(written.matches(r#""max_tokens":1000"#).count(), 1, "{written}");
    }

    #[test]
    fn every_kind_is_made_or_complains_by_its_key() {
        let made = |json: &str| {
            let config: RewardConfig = serde_json::from_str(json).unwrap();
            config.verifier(&mut RewardContext::default()).map(drop).map_err(|error| error.to_string())
        };
        let kinds = [
            r#""kind": "format", "style": "think_answer", "think_opened": true"#,
            r#""kind": "length", "length_max": 9, "format_weight": 1, "format_style": "think_boxed""#,
            r#""kind": "overlong", "length_max": 9, "buffer": 3"#,
            r#""kind": "words", "words_min": 1, "words_max": 2, "limit": 9"#,
            r#""kind": "target_length", "target": 300, "value": "mean""#,
            r#""kind": "think_length", "unit": "words", "min": 1, "max": 2, "limit": 3"#,
            r#""kind": "repetition", "n": 3, "max_penalty": 1"#,
        ];
        for kind in kinds {
            assert_eq!(made(&format!("{{{kind}}}")), Ok(()), "{kind}");
            let marked = made(&format!(r#"{{{kind}, "correctness": true}}"#));
            // Only a form can be what is right; all others have degrees.
            let expected = kind.contains("\"format\"").then_some(Ok(()));
            let is_refused = marked.as_ref().is_err_and(|message| message.starts_with("correctness: "));
            assert!(expected.map_or(is_refused, |expected| marked == expected), "{kind}: {marked:?}");
        }
        let precise = r#"{"kind": "target_length", "target": 300, "value": "precise", "correctness": true}"#;
        assert_eq!(made(precise), Ok(()));
        let refused = [
            (r#"{"kind": "format", "think_opened": true}"#, "think_opened: "),
            (r#"{"kind": "overlong", "length_max": 9, "buffer": 10}"#, "buffer: "),
            (r#"{"kind": "repetition", "n": 0, "max_penalty": 1}"#, "n: "),
            (r#"{"kind": "words", "limit": 9}"#, "words_min: "),
        ];
        for (json, start) in refused {
            assert!(made(json).unwrap_err().starts_with(start), "{json}");
        }
    }
}
