//! One row of a file: its JSON split into what each stage needs. What the rows must have beyond their form is looked at
//! in `survey`.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::config::{JsonlConfig, LastAssistant};
use super::messages;
use super::survey::{Fault, RowFault};

/// One row, checked in its form.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) line: usize,
    pub(super) question: Question,
    pub(super) references: Vec<String>,
    pub(super) completion: Option<Completion>,
    pub(super) fields: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Question {
    Text(String),
    Messages(Vec<Value>),
}

/// What supervised fine-tuning learns from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Completion {
    Text(String),
    Messages(Vec<Value>),
}

impl Row {
    pub(super) fn read(config: &JsonlConfig, line: usize, written: &str) -> Result<Self, RowFault> {
        let mut fields = object(written)?;
        let question = question(config, &mut fields)?;
        let mut references = match take(&mut fields, &config.answer_field) {
            None => Vec::new(),
            Some(value) => references(&config.answer_field, value)?,
        };
        if let (Question::Messages(messages), Some(LastAssistant::Answer)) =
            (&question, config.last_assistant)
            && references.is_empty()
            && messages::ends_with_assistant(messages)
        {
            references.extend(messages.last().map(messages::text_of));
        }
        let completion = match take(&mut fields, &config.completion_field) {
            None => None,
            Some(Value::String(text)) => Some(Completion::Text(text)),
            Some(Value::Array(list)) => {
                let named = |reason| format!("`{}`: {reason}", config.completion_field);
                messages::check(&list).map_err(|reason| Fault::Completion.because(named(reason)))?;
                Some(Completion::Messages(list))
            }
            Some(_) => {
                let reason =
                    format!("`{}` is neither a text nor a list of messages", config.completion_field);
                return Err(Fault::Completion.because(reason));
            }
        };
        Ok(Row { line, question, references, completion, fields })
    }

    /// Whether its prompt's last turn is the assistant's.
    pub(super) fn ends_with_assistant(&self) -> bool {
        matches!(&self.question, Question::Messages(messages) if messages::ends_with_assistant(messages))
    }

    /// Whether there is an answer to compare with.
    pub(super) fn is_answered(&self) -> bool {
        self.references.iter().any(|text| !text.trim().is_empty())
    }
}

fn question(config: &JsonlConfig, fields: &mut Map<String, Value>) -> Result<Question, RowFault> {
    let named = [config.prompt_field.as_str(), "messages"];
    let found = named.into_iter().find_map(|name| take(fields, name).map(|value| (name, value)));
    match found {
        Some(("messages", Value::String(_))) if config.prompt_field != "messages" => {
            Err(Fault::Prompt.because("`messages` is not a list of messages"))
        }
        Some((_, Value::String(text))) => Ok(Question::Text(text)),
        Some((_, Value::Array(list))) => {
            messages::check(&list).map_err(|reason| Fault::Messages.because(reason))?;
            Ok(Question::Messages(list))
        }
        Some((name, _)) => {
            Err(Fault::Prompt.because(format!("`{name}` is neither a text nor a list of messages")))
        }
        None => Err(Fault::Prompt.because(format!("neither `{}` nor `messages`", config.prompt_field))),
    }
}

/// A text or a number, as it is written, or a list of such.
pub(super) fn references(name: &str, value: Value) -> Result<Vec<String>, RowFault> {
    let wrong =
        || Fault::Answer.because(format!("`{name}` is neither a text nor a number, nor a list of such"));
    let one = |value| match value {
        Value::String(text) => Ok(text),
        // The reader of JSON puts a sign before an exponent that has none; the digits are those of the file.
        Value::Number(number) => Ok(number.to_string().replace("e+", "e")),
        _ => Err(wrong()),
    };
    let Value::Array(values) = value else { return Ok(vec![one(value)?]) };
    let texts = values.into_iter().map(one).collect::<Result<Vec<_>, _>>()?;
    match texts.iter().position(|text| text.trim().is_empty()) {
        Some(place) => {
            Err(Fault::Answer.because(format!("answer {} of the list `{name}` is empty", place + 1)))
        }
        None => Ok(texts),
    }
}

/// Takes a field out, by its own name or by a path into objects. `null` is the same as absent.
fn take(fields: &mut Map<String, Value>, name: &str) -> Option<Value> {
    // Removed so that the others keep their order.
    if let Some(value) = fields.shift_remove(name) {
        return Some(value).filter(|value| !value.is_null());
    }
    let (first, rest) = name.split_once('.')?;
    take(fields.get_mut(first)?.as_object_mut()?, rest)
}

/// The fields of a line.
pub(super) fn object(written: &str) -> Result<Map<String, Value>, RowFault> {
    let refuse = |error: serde_json::Error| match error.is_data() {
        true => Fault::Json.because(error.to_string()),
        false => Fault::Json.because(format!("not JSON: {error}")),
    };
    if !written.trim_start().starts_with('{') {
        serde_json::from_str::<serde::de::IgnoredAny>(written).map_err(refuse)?;
        return Err(Fault::Json.because("not a JSON object"));
    }
    serde_json::from_str::<Fields>(written).map(|fields| fields.0).map_err(refuse)
}

/// An object none of whose keys stands twice: which of the two counts would be chance.
struct Fields(Map<String, Value>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Fields;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Fields, A::Error> {
                let mut fields = Map::new();
                while let Some((key, value)) = entries.next_entry::<String, Value>()? {
                    if fields.contains_key(&key) {
                        return Err(serde::de::Error::custom(format!("the key `{key}` stands twice")));
                    }
                    fields.insert(key, value);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}
