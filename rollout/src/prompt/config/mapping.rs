//! Keys of `[data]` that say what becomes of the fields of a row.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::RolloutError;

/// The most examples before a prompt.
const EXAMPLES_MAX: usize = 256;

/// Where the reference answer stands: the name of a field, or a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AnswerConfig {
    /// The name of the field.
    Field(String),
    /// The field, and what of it is the answer.
    Rule(AnswerRule),
}

/// What of a field is the reference answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerRule {
    /// The field; absent is `answer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The answer is what stands behind the last of these marks, without the blanks around it. A field without the mark
    /// is a bad row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl AnswerConfig {
    pub(super) fn field(&self) -> Option<&str> {
        match self {
            Self::Field(name) => Some(name),
            Self::Rule(rule) => rule.field.as_deref(),
        }
    }

    pub(super) fn after(&self) -> Option<&str> {
        match self {
            Self::Field(_) => None,
            Self::Rule(rule) => rule.after.as_deref(),
        }
    }
}

/// Examples with their answers before each prompt: a list, or some rows of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum FewShotConfig {
    /// The examples themselves.
    Examples(Vec<Example>),
    /// Rows of a file.
    File(FewShotFile),
}

/// An example.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Example {
    /// What is asked. A `prompt_template` is filled in with it, as `question` and as the field that `prompt` names.
    pub question: String,
    /// What is answered, whole.
    pub answer: String,
}

/// Rows of a file that are the examples, with the prompt and the answer where the rows of `[data]` have theirs. The
/// answer is whole, also where `after` takes a part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FewShotFile {
    /// The file.
    pub path: PathBuf,
    /// How many of its rows.
    pub count: usize,
    /// Which of them.
    #[serde(default)]
    pub seed: u64,
}

impl FewShotConfig {
    pub(super) fn path_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::Examples(_) => None,
            Self::File(file) => Some(&mut file.path),
        }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Examples(_) => None,
            Self::File(file) => Some(&file.path),
        }
    }

    pub(super) fn check(&self) -> Result<(), RolloutError> {
        let count = match self {
            Self::Examples(examples) => examples.len(),
            Self::File(file) => file.count,
        };
        match count {
            1..=EXAMPLES_MAX => Ok(()),
            _ => {
                let reason = format!("must be from 1 to {EXAMPLES_MAX} examples, got {count}");
                Err(RolloutError::Config { key: "few_shot", reason })
            }
        }
    }
}

impl<'de> Deserialize<'de> for AnswerConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = AnswerConfig;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("the name of a field, or { field = \"answer\", after = \"####\" }")
            }
            fn visit_str<E>(self, name: &str) -> Result<AnswerConfig, E> {
                Ok(AnswerConfig::Field(name.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AnswerConfig, A::Error> {
                AnswerRule::deserialize(MapAccessDeserializer::new(map)).map(AnswerConfig::Rule)
            }
        }
        deserializer.deserialize_any(Forms)
    }
}

impl<'de> Deserialize<'de> for FewShotConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;
        impl<'de> Visitor<'de> for Forms {
            type Value = FewShotConfig;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of { question = .., answer = .. }, or { path = .., count = .. }")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<FewShotConfig, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(FewShotConfig::Examples)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FewShotConfig, A::Error> {
                FewShotFile::deserialize(MapAccessDeserializer::new(map)).map(FewShotConfig::File)
            }
        }
        deserializer.deserialize_any(Forms)
    }
}
