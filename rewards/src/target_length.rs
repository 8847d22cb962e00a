//! Does a text have the length that was asked for? The two matches of Ruler (arXiv 2409.18943): PM, the precise one,
//! and FM, the flexible one, each a range of words around the target.

use serde_json::Value;

use crate::fields;
use crate::words::word_count;
use crate::{Answer, RewardError, Verdict, Verifier};

/// Words that match: more than the first, and the second at most.
type Range = (usize, usize);

/// Target, PM and FM of the paper's levels, lengths in words. Level 0 is 10 to 80, level 1 is 150 to 500, level 2 is
/// 700 and `>800`, which is open above.
const LEVELS: [(usize, Range, Range); 8] = [
    (10, (0, 20), (0, 20)),
    (30, (20, 40), (20, 40)),
    (50, (40, 60), (40, 60)),
    (80, (70, 90), (60, 100)),
    (150, (130, 170), (100, 200)),
    (300, (280, 320), (200, 400)),
    (500, (450, 550), (400, 600)),
    (700, (630, 770), (600, 800)),
];

/// The narrowest that a range around another target is, to each side: that of the paper's targets up to 50.
const ROOM_MIN: usize = 10;

/// How many words are asked for: a whole number, or a text `">800"` for more than so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "Value", into = "WrittenTarget")]
pub enum LengthTarget {
    /// About so many words.
    About(usize),
    /// More words than that.
    Above(usize),
}

impl TryFrom<Value> for LengthTarget {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let target = match &value {
            // Ruler's own data has its targets as texts, "300" and ">800".
            Value::String(text) => match text.trim().strip_prefix('>') {
                Some(words) => words.trim().parse().ok().map(LengthTarget::Above),
                None => text.trim().parse().ok().map(LengthTarget::About),
            },
            _ => fields::as_whole(&value).map(LengthTarget::About),
        };
        target.filter(|target| *target != LengthTarget::About(0)).ok_or_else(|| {
            let shown: String = value.to_string().chars().take(40).collect();
            format!("must be a number of words of at least 1, or a text such as \">800\", not {shown}")
        })
    }
}

/// A target as it is written. It is no JSON value, whose numbers are objects to every format but JSON.
#[derive(serde::Serialize)]
#[serde(untagged)]
enum WrittenTarget {
    Words(usize),
    Text(String),
}

impl From<LengthTarget> for WrittenTarget {
    fn from(target: LengthTarget) -> Self {
        match target {
            LengthTarget::About(words) => WrittenTarget::Words(words),
            LengthTarget::Above(words) => WrittenTarget::Text(format!(">{words}")),
        }
    }
}

impl LengthTarget {
    /// Whether a number of words matches the target: precisely (PM) and flexibly (FM).
    ///
    /// The ranges of the paper's targets are its own, and as in its authors' code the lower end of a range is outside
    /// of it. Of another target **we choose** PM as a tenth to each side and FM as a fifth, 10 words at least, which is
    /// what the paper has at 10, 30, 50 and 500.
    pub fn matches(self, words: usize) -> (bool, bool) {
        let target = match self {
            LengthTarget::Above(least) => return (words > least, words > least),
            LengthTarget::About(target) => target,
        };
        let around = |room: usize| -> Range {
            let room = room.max(ROOM_MIN);
            (target.saturating_sub(room), target.saturating_add(room))
        };
        let level = LEVELS.iter().find(|level| level.0 == target);
        let (precise, flexible) = match level {
            Some(&(_, precise, flexible)) => (precise, flexible),
            None => (around(target / 10), around(target / 5)),
        };
        let is_in = |(low, high): Range| low < words && words <= high;
        (is_in(precise), is_in(flexible))
    }
}

/// Which match is the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LengthMatch {
    /// PM: 1 in the narrow range.
    Precise,
    /// FM: 1 in the wide range.
    Flexible,
    /// (PM + FM) / 2: half of it is paid in the wide range.
    Mean,
}

/// The keys of `kind = "target_length"`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetLengthConfig {
    /// What is asked for where the data line does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<LengthTarget>,
    /// Name of the data line's field with the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_field: Option<String>,
    /// Which match is the value.
    pub value: LengthMatch,
}

/// 1 where the number of words matches the target.
///
/// Words are counted by [`word_count`]; the authors count runs of letters and digits, for which `don't` is two. Parts:
/// `words`, and `precise` and `flexible`, each 0 or 1, whose means over prompts are the paper's PM and FM.
#[derive(Clone, Debug)]
pub struct TargetLengthVerifier {
    config: TargetLengthConfig,
}

impl TargetLengthVerifier {
    /// A verifier by this config.
    ///
    /// # Errors
    /// Names the key that is missing.
    pub fn new(config: TargetLengthConfig) -> Result<Self, RewardError> {
        if config.target.is_none() && config.target_field.is_none() {
            return Err(RewardError::config("target", "must be given, or `target_field`, or both"));
        }
        fields::check_name("target_field", &config.target_field)?;
        Ok(TargetLengthVerifier { config })
    }

    fn target(&self, answer: &Answer<'_>) -> Result<LengthTarget, RewardError> {
        let name = self.config.target_field.as_deref().unwrap_or_default();
        match (fields::value(answer, name), self.config.target) {
            (Some(value), _) => LengthTarget::try_from(value.clone())
                .map_err(|reason| RewardError::Field { name: name.to_string(), reason }),
            (None, Some(target)) => Ok(target),
            (None, None) => Err(fields::missing(name)),
        }
    }
}

impl Verifier for TargetLengthVerifier {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        let words = word_count(answer.completion);
        let (precise, flexible) = self.target(answer)?.matches(words);
        let (precise, flexible) = (f64::from(u8::from(precise)), f64::from(u8::from(flexible)));
        let value = match self.config.value {
            LengthMatch::Precise => precise,
            LengthMatch::Flexible => flexible,
            LengthMatch::Mean => (precise + flexible) / 2.0,
        };
        let parts = [("words", words as f64), ("precise", precise), ("flexible", flexible)];
        Ok(Verdict {
            value,
            parts: parts.map(|(name, part)| (name.to_string(), part)).into(),
            ..Verdict::default()
        })
    }

    fn check(&self, question: &Answer<'_>) -> Result<(), RewardError> {
        self.target(question).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;
    use crate::fields::ask;

    fn verifier(json: &str) -> TargetLengthVerifier {
        TargetLengthVerifier::new(serde_json::from_str(json).unwrap()).unwrap()
    }

    #[test]
    fn the_targets_of_the_paper_have_its_ranges() {
        let points = [
            (10, 0, (false, false)),
            (10, 1, (true, true)),
            (10, 20, (true, true)),
            (10, 21, (false, false)),
            (80, 60, (false, false)),
            (80, 61, (false, true)),
            (80, 70, (false, true)),
            (80, 71, (true, true)),
            (80, 90, (true, true)),
            (80, 100, (false, true)),
            (300, 281, (true, true)),
            (300, 321, (false, true)),
            (700, 770, (true, true)),
            (700, 800, (false, true)),
            (700, 801, (false, false)),
        ];
        for (target, words, matches) in points {
            assert_eq!(LengthTarget::About(target).matches(words), matches, "{target} {words}");
        }
        assert_eq!(LengthTarget::Above(800).matches(800), (false, false));
        assert_eq!(LengthTarget::Above(800).matches(801), (true, true));
    }

    #[test]
    fn another_target_has_a_tenth_and_a_fifth_to_each_side() {
        let points = [
            (1000, 900, (false, true)),
            (1000, 901, (true, true)),
            (1000, 1100, (true, true)),
            (1000, 1200, (false, true)),
            (1000, 1201, (false, false)),
            (20, 10, (false, false)),
            (20, 30, (true, true)),
            (3, 1, (true, true)),
            (3, 0, (false, false)),
        ];
        for (target, words, matches) in points {
            assert_eq!(LengthTarget::About(target).matches(words), matches, "{target} {words}");
        }
    }

    #[test]
    fn the_value_is_the_match_that_the_config_names() {
        let values = [("precise", 0.0), ("flexible", 1.0), ("mean", 0.5)];
        for (value, expected) in values {
            let verifier = verifier(&format!(r#"{{"target": 80, "value": "{value}"}}"#));
            let verdict = ask(&verifier, &"w ".repeat(95), "{}").unwrap();
            assert_eq!(verdict.value, expected);
            let parts = [("words", 95.0), ("precise", 0.0), ("flexible", 1.0)];
            assert_eq!(verdict.parts, parts.map(|(name, part)| (name.to_string(), part)).into());
        }
    }

    #[test]
    fn a_prompt_brings_its_own_target() {
        let verifier = verifier(r#"{"target_field": "words", "value": "precise"}"#);
        let value = |fields: &str| ask(&verifier, "one two three", fields).map(|verdict| verdict.value);
        assert_eq!(value(r#"{"words": 10}"#).unwrap(), 1.0);
        assert_eq!(value(r#"{"words": "10"}"#).unwrap(), 1.0);
        assert_eq!(value(r#"{"words": ">3"}"#).unwrap(), 0.0);
        assert_eq!(value(r#"{"words": "> 2"}"#).unwrap(), 1.0);
        let message = |fields: &str| value(fields).unwrap_err().to_string();
        assert_eq!(message("{}"), "the field `words` is missing, and the config has no default for it");
        for bad in ["0", "-5", "1.5", r#""ten""#, r#"">""#, "[10]", "true"] {
            let fields = format!(r#"{{"words": {bad}}}"#);
            let message = message(&fields);
            assert!(message.starts_with("the field `words` must be a number of words"), "{message}");
        }
    }

    #[test]
    fn bad_configs_name_their_key() {
        let none: TargetLengthConfig = serde_json::from_str(r#"{"value": "mean"}"#).unwrap();
        let message = TargetLengthVerifier::new(none).unwrap_err().to_string();
        assert!(message.starts_with("target: must be given, or `target_field`"), "{message}");
        let read = |json| serde_json::from_str::<TargetLengthConfig>(json).map_err(|error| error.to_string());
        assert!(read(r#"{"target": "long", "value": "mean"}"#).unwrap_err().contains("\"long\""));
        assert!(read(r#"{"target": 10}"#).unwrap_err().contains("`value`"));
        let config = read(r#"{"target": ">800", "value": "mean"}"#).unwrap();
        assert_eq!(config.target, Some(LengthTarget::Above(800)));
        assert_eq!(read(&serde_json::to_string(&config).unwrap()), Ok(config));
    }

    proptest! {
        #[test]
        fn who_matches_precisely_matches_flexibly(target in 1usize..100_000, words in 0usize..200_000) {
            for target in [LengthTarget::About(target), LengthTarget::Above(target)] {
                let (precise, flexible) = target.matches(words);
                prop_assert!(flexible || !precise);
            }
            let (precise, _) = LengthTarget::About(target).matches(target);
            prop_assert!(precise, "{target}");
        }

        #[test]
        fn no_text_and_no_field_makes_it_panic(
            text in any::<String>(),
            target in any::<String>(),
            number in any::<f64>(),
        ) {
            let verifier = verifier(r#"{"target_field": "t", "value": "mean"}"#);
            for target in [Value::from(target), Value::from(number)] {
                let fields = serde_json::json!({ "t": target }).to_string();
                if let Ok(verdict) = ask(&verifier, &text, &fields) {
                    prop_assert!([0.0, 0.5, 1.0].contains(&verdict.value));
                }
            }
        }
    }
}
