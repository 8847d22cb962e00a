//! The length of a text in words, and the reward that pays for a number of words (LongWriter-Zero,
//! arXiv 2506.18841).

use crate::fields::{NumberKeys, WholeNumber};
use crate::ramp::{Bound, Ramp};
use crate::{Answer, RewardError, Verdict, Verifier};

/// The keys of `kind = "words"`. The range is the prompt's own where its data line has the fields, else the config's.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WordsConfig {
    /// The fewest words that are paid in full, where the data line does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words_min: Option<usize>,
    /// The most words that are paid in full, where the data line does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words_max: Option<usize>,
    /// Words at which nothing is paid any more; above every prompt's most words.
    pub limit: usize,
    /// Name of the data line's field with the fewest words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_field: Option<String>,
    /// Name of the data line's field with the most words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_field: Option<String>,
}

/// 1 inside the range of words, less outside of it; see [`WordsConfig`].
///
/// Parts: `words` is how many there are and `in_range` is 0 or 1.
#[derive(Clone, Debug)]
pub struct WordsVerifier {
    min: WholeNumber,
    max: WholeNumber,
    limit: usize,
}

impl WordsVerifier {
    /// A verifier by this config.
    ///
    /// # Errors
    /// Names the key that is missing or out of order.
    pub fn new(config: WordsConfig) -> Result<Self, RewardError> {
        let min = WholeNumber::new(NumberKeys {
            key: "words_min",
            default: config.words_min,
            field_key: "min_field",
            field: &config.min_field,
        })?;
        let max = WholeNumber::new(NumberKeys {
            key: "words_max",
            default: config.words_max,
            field_key: "max_field",
            field: &config.max_field,
        })?;
        let limit = config.limit;
        if let (Some(words_min), Some(words_max)) = (config.words_min, config.words_max) {
            ramp(bound("words_min", words_min), bound("words_max", words_max), limit)?;
        }
        Ok(WordsVerifier { min, max, limit })
    }
}

impl WordsVerifier {
    /// The range of this prompt.
    fn ramp(&self, answer: &Answer<'_>) -> Result<Ramp, RewardError> {
        let min = bound(self.min.source(answer, "words_min"), self.min.of(answer)?);
        let max = bound(self.max.source(answer, "words_max"), self.max.of(answer)?);
        ramp(min, max, self.limit).map_err(|error| match error {
            // The numbers of a line are no keys of the config.
            RewardError::Config { key, reason } => RewardError::Field { name: key, reason },
            other => other,
        })
    }
}

impl Verifier for WordsVerifier {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        let ramp = self.ramp(answer)?;
        let words = word_count(answer.completion) as f64;
        let parts = [("words", words), ("in_range", f64::from(u8::from(ramp.contains(words))))];
        let parts = parts.map(|(name, part)| (name.to_string(), part)).into();
        Ok(Verdict { value: ramp.value(words), parts, ..Verdict::default() })
    }

    fn check(&self, question: &Answer<'_>) -> Result<(), RewardError> {
        self.ramp(question).map(drop)
    }
}

fn bound(name: &str, words: usize) -> Bound<'_> {
    Bound { name, value: words as f64 }
}

fn ramp(min: Bound<'_>, max: Bound<'_>, limit: usize) -> Result<Ramp, RewardError> {
    Ramp::new(min, max, bound("limit", limit))
}

/// How many words a text has: each character of Chinese or Japanese writing is one, and so is every other run of
/// characters between white space that holds a letter or a digit.
///
/// Korean is written with spaces and counted by them. A dash or the rule of a table is no word.
pub fn word_count(text: &str) -> usize {
    pieces(text).filter(|piece| piece.chars().any(char::is_alphanumeric)).count()
}

/// The words of a text, and what stands like a word but holds no letter (`=`, `---`).
pub(crate) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let end = match is_cjk(first) {
            true => first.len_utf8(),
            false => rest.find(|next: char| next.is_whitespace() || is_cjk(next)).unwrap_or(rest.len()),
        };
        let (piece, behind) = rest.split_at(end);
        rest = behind;
        Some(piece)
    })
}

/// Characters of writing without spaces between words: Han with its extensions, Hiragana, Katakana, and their
/// punctuation.
fn is_cjk(character: char) -> bool {
    matches!(u32::from(character),
        0x3000..=0x30FF | 0x31F0..=0x31FF | 0x3400..=0x4DBF | 0x4E00..=0x9FFF | 0xF900..=0xFAFF
        | 0xFF01..=0xFF0F | 0xFF1A..=0xFF20 | 0xFF3B..=0xFF40 | 0xFF5B..=0xFF9F | 0x20000..=0x3FFFF)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::fields::ask;
    use crate::stopwatch::seconds;

    fn verifier(json: &str) -> Result<WordsVerifier, RewardError> {
        WordsVerifier::new(serde_json::from_str(json).unwrap())
    }

    const RANGE: &str = r#"{"words_min": 4, "words_max": 6, "limit": 10}"#;
    const FIELDS: &str = r#"{"limit": 100, "min_field": "lo", "max_field": "hi"}"#;

    #[test]
    fn words_are_counted_as_they_are_written() {
        let counts = [
            ("", 0),
            (" \n\t", 0),
            ("one", 1),
            ("  two words ", 2),
            ("don't stop-gap 3.14", 3),
            ("a - b", 2),
            ("---\n| a | b |", 2),
            ("non\u{a0}breaking\u{2003}em", 3),
            ("你好，世界。", 4),
            ("用GPT写", 3),
            ("これはペンです", 7),
            ("한국어 문장", 2),
            ("ＡＢ，ｃ", 2),
            ("naïve café", 2),
            ("𠀀𠀁", 2),
        ];
        for (text, count) in counts {
            assert_eq!(word_count(text), count, "{text}");
        }
    }

    #[test]
    fn the_ramp_is_paid_on_words() {
        let verifier = verifier(RANGE).unwrap();
        for (words, value) in
            [(0, 0.0), (1, 0.25), (3, 0.75), (4, 1.0), (6, 1.0), (7, 0.75), (9, 0.25), (20, 0.0)]
        {
            let verdict = ask(&verifier, &"word ".repeat(words), "{}").unwrap();
            assert_eq!(verdict.value, value, "{words}");
            assert_eq!(verdict.parts["words"], words as f64);
            assert_eq!(verdict.parts["in_range"] == 1.0, (4..=6).contains(&words));
        }
    }

    #[test]
    fn a_prompt_brings_its_own_range() {
        let verifier = verifier(FIELDS).unwrap();
        let value = |fields| ask(&verifier, "one two three four", fields).map(|verdict| verdict.value);
        assert_eq!(value(r#"{"lo": 8, "hi": 9}"#).unwrap(), 0.5);
        assert_eq!(value(r#"{"lo": 2, "hi": 4}"#).unwrap(), 1.0);
        let message = |fields| value(fields).unwrap_err().to_string();
        assert_eq!(
            message(r#"{"lo": 8}"#),
            "the field `hi` is missing, and the config has no default for it"
        );
        assert!(message(r#"{"lo": "8", "hi": 9}"#).starts_with("the field `lo` must be a whole number"));
        assert_eq!(
            message(r#"{"lo": 8, "hi": 7}"#),
            "the field `hi` must be finite and at least `lo` = 8, not 7"
        );
        assert!(message(r#"{"lo": 8, "hi": 100}"#).contains("above `hi` = 100"));
    }

    #[test]
    fn bad_configs_name_their_key() {
        let cases = [
            (r#"{"words_max": 6, "limit": 10}"#, "words_min: must be given, or `min_field`"),
            (r#"{"words_min": 6, "limit": 10}"#, "words_max: must be given, or `max_field`"),
            (r#"{"words_min": 7, "words_max": 6, "limit": 10}"#, "words_max: "),
            (r#"{"words_min": 4, "words_max": 6, "limit": 6}"#, "limit: "),
            (r#"{"min_field": "", "words_max": 6, "limit": 6}"#, "min_field: "),
        ];
        for (json, start) in cases {
            let message = verifier(json).unwrap_err().to_string();
            assert!(message.starts_with(start), "{message}");
        }
    }

    #[test]
    fn megabytes_are_counted_in_linear_time() {
        for piece in ["a", " ", "a ", "你", "，", "你a", "\u{3000}"] {
            let text = piece.repeat(10_000_000 / piece.len());
            let taken = seconds(|| {
                word_count(&text);
            });
            assert!(taken < 1.0, "{piece}: {taken} s");
        }
    }

    proptest! {
        #[test]
        fn without_cjk_pieces_are_what_white_space_separates(text in "[a-z0-9=.\u{e9}\u{2003} \n-]{0,60}") {
            prop_assert_eq!(pieces(&text).collect::<Vec<_>>(), text.split_whitespace().collect::<Vec<_>>());
        }

        #[test]
        fn any_text_is_paid_between_0_and_1(text in any::<String>()) {
            let verdict = ask(&verifier(RANGE).unwrap(), &text, "{}").unwrap();
            prop_assert!((0.0..=1.0).contains(&verdict.value));
        }
    }
}
