//! What a question asks of the service beside its text: the limit, the temperature, and whatever else a service knows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::JudgeConfig;
use crate::RewardError;

/// Fields of the body that have a key of their own, or that this client could not read the reply of.
const OWN_FIELDS: [&str; 7] =
    ["model", "messages", "max_tokens", "max_completion_tokens", "temperature", "stream", "n"];
/// Tokens that a judge may write where the config does not say.
pub(super) const TOKENS: u32 = 1000;

/// The temperature of a judge.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "temperature must be a number or \"omit\"")]
pub enum JudgeTemperature {
    /// This one is asked for.
    Number(f64),
    /// The field is left out of the request, for services that take none.
    Word(Omitted),
}

/// The word that leaves a field out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Omitted {
    /// It is not sent.
    Omit,
}

impl Default for JudgeTemperature {
    fn default() -> Self {
        JudgeTemperature::Number(0.0)
    }
}

/// A value of `[rewards.request]`, which is written to a config as it was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "request must hold truth values, numbers, texts, lists and tables")]
pub enum RequestValue {
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Whole(i64),
    /// Any other number.
    Number(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<RequestValue>),
    /// A table.
    Table(BTreeMap<String, RequestValue>),
}

impl RequestValue {
    fn is_finite(&self) -> bool {
        match self {
            RequestValue::Number(number) => number.is_finite(),
            RequestValue::List(values) => values.iter().all(RequestValue::is_finite),
            RequestValue::Table(values) => values.values().all(RequestValue::is_finite),
            RequestValue::Flag(_) | RequestValue::Whole(_) | RequestValue::Text(_) => true,
        }
    }
}

impl JudgeConfig {
    /// Writes down the limit that holds where neither key gives one, so that a resolved config has it.
    pub(crate) fn fill_in(&mut self) {
        if self.max_completion_tokens.is_none() {
            self.max_tokens.get_or_insert(TOKENS);
        }
    }

    /// The field with the most tokens that the judge may write.
    pub(super) fn limit(&self) -> Result<(&'static str, u32), RewardError> {
        match (self.max_tokens, self.max_completion_tokens) {
            (Some(_), Some(_)) => {
                let reason = "is another name of `max_tokens`, and both are given: leave one out";
                Err(RewardError::config("max_completion_tokens", reason))
            }
            (None, Some(tokens)) => Ok(("max_completion_tokens", tokens)),
            (tokens, None) => Ok(("max_tokens", tokens.unwrap_or(TOKENS))),
        }
    }

    /// Refuses further fields that are not further ones, and numbers that JSON does not have.
    pub(super) fn check_request(&self) -> Result<(), RewardError> {
        for (field, value) in &self.request {
            let key = format!("request.{field}");
            if OWN_FIELDS.contains(&field.as_str()) {
                let reason = match field.as_str() {
                    "stream" | "n" => "is not for a judge: it is asked for one whole reply",
                    "messages" => "is made of `prompt`",
                    _ => "has a key of its own in the entry",
                };
                return Err(RewardError::config(key, reason));
            }
            if !value.is_finite() {
                return Err(RewardError::config(key, "holds a number that is not finite"));
            }
        }
        Ok(())
    }
}

/// The fields of every request but for the question.
#[derive(Clone, Debug)]
pub(super) struct Body {
    fields: Map<String, Value>,
}

impl Body {
    pub(super) fn new(config: &JudgeConfig) -> Result<Self, RewardError> {
        let (field, tokens) = config.limit()?;
        let mut fields = Map::new();
        fields.insert("model".to_string(), json!(config.model));
        fields.insert("messages".to_string(), Value::Null);
        fields.insert(field.to_string(), json!(tokens));
        if let JudgeTemperature::Number(temperature) = config.temperature {
            fields.insert("temperature".to_string(), json!(temperature));
        }
        for (field, value) in &config.request {
            fields.insert(field.clone(), json!(value));
        }
        Ok(Body { fields })
    }

    /// The body that asks this.
    pub(super) fn with(&self, question: &str) -> String {
        let mut fields = self.fields.clone();
        fields.insert("messages".to_string(), json!([{"role": "user", "content": question}]));
        Value::Object(fields).to_string()
    }
}
