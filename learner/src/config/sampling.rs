//! The keys of dynamic sampling: what becomes of groups that teach nothing.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// What becomes of groups whose rewards, as the advantage shapes them, are all equal (DAPO, arXiv 2503.14476).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DynamicSampling {
    /// They stay in the step and count in the loss's denominator.
    #[default]
    Off,
    /// They are left out, and the step is smaller.
    Drop,
    /// They are left out, and the step takes further groups for them.
    Refill,
}

impl DynamicSampling {
    const WORDS: &[&str] = &["off", "drop", "refill"];
}

impl<'de> Deserialize<'de> for DynamicSampling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Word)
    }
}

/// Reads one of the words, or a truth value, which was the key's form before there was a third way: true drops.
struct Word;

impl Visitor<'_> for Word {
    type Value = DynamicSampling;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("\"off\", \"drop\" or \"refill\"")
    }

    fn visit_bool<E: de::Error>(self, drops: bool) -> Result<DynamicSampling, E> {
        Ok(if drops { DynamicSampling::Drop } else { DynamicSampling::Off })
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<DynamicSampling, E> {
        match word {
            "off" => Ok(DynamicSampling::Off),
            "drop" => Ok(DynamicSampling::Drop),
            "refill" => Ok(DynamicSampling::Refill),
            _ => Err(E::unknown_variant(word, DynamicSampling::WORDS)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::DynamicSampling::{self, Drop, Off, Refill};

    fn read(value: Value) -> Result<DynamicSampling, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn words_are_read_and_written_and_truth_values_read() {
        for (word, kind) in [("off", Off), ("drop", Drop), ("refill", Refill)] {
            assert_eq!(read(json!(word)), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), word);
        }
        assert_eq!((read(json!(true)), read(json!(false))), (Ok(Drop), Ok(Off)));
        let message = read(json!("on")).unwrap_err();
        assert!(message.contains("`on`") && message.contains("`refill`"), "{message}");
        assert!(read(json!(1)).unwrap_err().contains("expected \"off\", \"drop\" or \"refill\""));
    }
}
