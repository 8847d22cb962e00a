//! A range for the length of the thinking, paid by the ramp of `words`.

use crate::ramp::{Bound, Ramp};
use crate::tags::thought;
use crate::words::word_count;
use crate::{Answer, RewardError, Verdict, Verifier};

/// What the length of the thinking is measured in. Tokens are none of them: this crate has text, and the tokens of a
/// part of it are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThinkUnit {
    /// Words, as [`word_count`] counts them.
    Words,
    /// Unicode characters, white space among them.
    Characters,
    /// The share of the completion's characters that stand between the tags, from 0 to 1.
    Share,
}

/// The keys of `kind = "think_length"`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThinkLengthConfig {
    /// What the other keys are in.
    pub unit: ThinkUnit,
    /// The least that is paid in full.
    pub min: f64,
    /// The most that is paid in full.
    pub max: f64,
    /// Where nothing is paid any more; above `max`.
    pub limit: f64,
    /// Whether the chat template ends with `<think>`, so that a completion begins inside the block.
    #[serde(default)]
    pub think_opened: bool,
}

/// 1 inside the range, less outside of it, and 0 for a completion that does not begin with one block of thinking.
///
/// Parts: `length` is the thinking's in the config's unit, 0 without a block, and `found` is 0 or 1.
#[derive(Clone, Debug)]
pub struct ThinkLengthVerifier {
    unit: ThinkUnit,
    ramp: Ramp,
    think_opened: bool,
}

impl ThinkLengthVerifier {
    /// A verifier by this config.
    ///
    /// # Errors
    /// Names the key that is out of its range.
    pub fn new(config: ThinkLengthConfig) -> Result<Self, RewardError> {
        let ThinkLengthConfig { unit, min, max, limit, think_opened } = config;
        if unit == ThinkUnit::Share && max > 1.0 {
            return Err(RewardError::config("max", format!("a share is at most 1, not {max}")));
        }
        let bound = |name, value| Bound { name, value };
        let ramp = Ramp::new(bound("min", min), bound("max", max), bound("limit", limit))?;
        Ok(ThinkLengthVerifier { unit, ramp, think_opened })
    }

    /// The length between the tags, if there is one block.
    fn length(&self, completion: &str) -> Option<f64> {
        let inside = thought(completion, self.think_opened)?.inside;
        let characters = |text: &str| text.chars().count() as f64;
        Some(match self.unit {
            ThinkUnit::Words => word_count(inside) as f64,
            ThinkUnit::Characters => characters(inside),
            // The block has tags, so the completion is not empty.
            ThinkUnit::Share => characters(inside) / characters(completion),
        })
    }
}

impl Verifier for ThinkLengthVerifier {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        let length = self.length(answer.completion);
        let value = length.map_or(0.0, |length| self.ramp.value(length));
        let parts = [("length", length.unwrap_or(0.0)), ("found", f64::from(u8::from(length.is_some())))];
        Ok(Verdict {
            value,
            parts: parts.map(|(name, part)| (name.to_string(), part)).into(),
            ..Verdict::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;
    use crate::fields::ask;

    fn verifier(
        unit: &str,
        [min, max, limit]: [f64; 3],
        opened: bool,
    ) -> Result<ThinkLengthVerifier, RewardError> {
        let unit: ThinkUnit = serde_json::from_value(unit.into()).unwrap();
        ThinkLengthVerifier::new(ThinkLengthConfig { unit, min, max, limit, think_opened: opened })
    }

    #[test]
    fn words_between_the_tags_are_paid_by_the_ramp() {
        let verifier = verifier("words", [4.0, 6.0, 10.0], false).unwrap();
        for (words, value) in [(0, 0.0), (1, 0.25), (4, 1.0), (6, 1.0), (7, 0.75), (10, 0.0)] {
            let text = format!("<think>{}</think> five more words do not count", "w ".repeat(words));
            let verdict = ask(&verifier, &text, "{}").unwrap();
            assert_eq!(verdict.value, value, "{words}");
            assert_eq!(verdict.parts, [("length".into(), words as f64), ("found".into(), 1.0)].into());
        }
    }

    #[test]
    fn characters_and_shares_are_counted_in_characters() {
        let value = |unit, range, opened, text| {
            ask(&verifier(unit, range, opened).unwrap(), text, "{}").unwrap().value
        };
        assert_eq!(value("characters", [4.0, 4.0, 8.0], false, "<think>äö</think>"), 0.5);
        assert_eq!(value("characters", [4.0, 4.0, 8.0], false, "<think>ä ö.x</think>"), 0.75);
        // 8 tag characters, 8 inside, 4 behind: 0.4 of 20.
        assert_eq!(value("share", [0.8, 0.9, 1.0], true, "ääääääää</think>0123"), 0.5);
    }

    #[test]
    fn without_one_block_in_front_nothing_is_paid() {
        let verifier = verifier("words", [0.0, 6.0, 10.0], false).unwrap();
        for text in
            ["", "four words", "<think>cut off", "so <think>a</think>", "<think>a</think><think>a</think>"]
        {
            let verdict = ask(&verifier, text, "{}").unwrap();
            assert_eq!((verdict.value, verdict.parts["found"]), (0.0, 0.0), "{text}");
        }
    }

    #[test]
    fn bad_configs_name_their_key() {
        let message = |unit, range| verifier(unit, range, false).unwrap_err().to_string();
        assert!(message("words", [-1.0, 2.0, 3.0]).starts_with("min: "));
        assert!(message("words", [3.0, 2.0, 3.0]).starts_with("max: "));
        assert!(message("words", [1.0, 2.0, 2.0]).starts_with("limit: "));
        assert_eq!(message("share", [0.5, 1.5, 2.0]), "max: a share is at most 1, not 1.5");
        let tokens = r#"{"unit": "tokens", "min": 1, "max": 2, "limit": 3}"#;
        assert!(
            serde_json::from_str::<ThinkLengthConfig>(tokens).unwrap_err().to_string().contains("tokens")
        );
    }

    proptest! {
        #[test]
        fn any_text_is_paid_between_0_and_1(text in any::<String>(), opened in any::<bool>()) {
            for (unit, range) in
                [("words", [1.0, 2.0, 3.0]), ("characters", [5.0, 9.0, 20.0]), ("share", [0.1, 0.5, 0.9])]
            {
                let verifier = verifier(unit, range, opened).unwrap();
                for text in [text.clone(), format!("<think>{text}</think>{text}"), format!("{text}</think>")] {
                    let value = ask(&verifier, &text, "{}").unwrap().value;
                    prop_assert!((0.0..=1.0).contains(&value), "{value}");
                }
            }
        }
    }
}
