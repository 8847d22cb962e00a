//! One row of a file: its JSON split into what each stage needs. What the rows must have beyond their form is looked at
//! in `survey`.

use rewards::reference_behind_thoughts;
use serde_json::{Map, Value};

use super::config::LastAssistant;
use super::mapping::Mapping;
use super::messages;
use crate::bad_rows::{RowProblem, RowRefusal, RowUnit};

/// One row, checked in its form.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) line: usize,
    pub(super) unit: RowUnit,
    pub(super) question: Question,
    /// Whether it has `messages` beside the field that its prompt is from.
    pub(super) has_two_prompts: bool,
    pub(super) references: Vec<String>,
    /// Whether an answer has thoughts before it, which verifiers do not compare with.
    pub(super) has_thoughts: bool,
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
    pub(super) fn read(
        mapping: &Mapping,
        line: usize,
        unit: RowUnit,
        mut fields: Map<String, Value>,
    ) -> Result<Self, RowRefusal> {
        let config = mapping.config();
        let question = question(mapping, &mut fields)?;
        let has_two_prompts = has_list(&fields, "messages");
        let mut references = match take(&mut fields, config.answer_field()) {
            None => Vec::new(),
            Some(value) => {
                let whole = references(config.answer_field(), value)?;
                whole.into_iter().map(|text| mapping.reference(text)).collect::<Result<_, _>>()?
            }
        };
        let is_cut = |text: &String| reference_behind_thoughts(text).is_none_or(|rest| rest != text);
        let mut has_thoughts = references.iter().any(is_cut);
        if let (Question::Messages(messages), Some(LastAssistant::Answer)) =
            (&question, config.last_assistant)
            && references.is_empty()
            && messages::ends_with_assistant(messages)
        {
            let answer = messages.last().map(messages::text_of).unwrap_or_default();
            // What was thought on the way to the answer is none; without an answer behind it the row has none.
            references.extend(reference_behind_thoughts(&answer).map(str::to_owned));
            has_thoughts = references.first() != Some(&answer);
        }
        let name = config.completion_field();
        let completion = match take(&mut fields, name) {
            None => None,
            Some(Value::String(text)) => Some(Completion::Text(text)),
            Some(Value::Array(list)) => {
                let named = |reason| format!("`{name}`: {reason}");
                messages::check(&list).map_err(|reason| RowProblem::Completion.because(named(reason)))?;
                Some(Completion::Messages(list))
            }
            Some(_) => {
                let reason = format!("`{name}` is neither a text nor a list of messages");
                return Err(RowProblem::Completion.because(reason));
            }
        };
        Ok(Row { line, unit, question, has_two_prompts, references, has_thoughts, completion, fields })
    }

    /// The roles in its messages that chat templates seldom know.
    pub(super) fn unusual_roles(&self) -> impl Iterator<Item = &str> {
        let question = match &self.question {
            Question::Messages(messages) => &messages[..],
            Question::Text(_) => &[],
        };
        let completion = match &self.completion {
            Some(Completion::Messages(messages)) => &messages[..],
            Some(Completion::Text(_)) | None => &[],
        };
        messages::unusual_roles(question).chain(messages::unusual_roles(completion))
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

fn question(mapping: &Mapping, fields: &mut Map<String, Value>) -> Result<Question, RowRefusal> {
    if let Some(text) = mapping.templated(fields)? {
        return Ok(Question::Text(text));
    }
    let prompt_field = mapping.config().prompt_field();
    let named = [prompt_field, "messages"];
    let found = named.into_iter().find_map(|name| take(fields, name).map(|value| (name, value)));
    match found {
        Some(("messages", Value::String(_))) if prompt_field != "messages" => {
            Err(RowProblem::Prompt.because("`messages` is not a list of messages"))
        }
        Some((_, Value::String(text))) => Ok(Question::Text(text)),
        Some((_, Value::Array(list))) => {
            messages::check(&list).map_err(|reason| RowProblem::Messages.because(reason))?;
            Ok(Question::Messages(list))
        }
        Some((name, _)) => {
            Err(RowProblem::Prompt.because(format!("`{name}` is neither a text nor a list of messages")))
        }
        None => Err(RowProblem::Prompt.because(no_prompt(prompt_field, fields))),
    }
}

/// Fields of a row that a refusal lists.
const FIELDS_LISTED_MAX: usize = 8;

/// Why a row has no prompt: what it has, and how one of these becomes the prompt.
fn no_prompt(prompt_field: &str, fields: &Map<String, Value>) -> String {
    let missing = match prompt_field {
        "messages" => "no `messages`".to_string(),
        _ => format!("neither `{prompt_field}` nor `messages`"),
    };
    if fields.is_empty() {
        return format!("{missing}, and no other field");
    }
    let listed = fields.keys().take(FIELDS_LISTED_MAX).map(|name| format!("`{name}`"));
    let listed = listed.collect::<Vec<_>>().join(", ");
    let more = if fields.len() > FIELDS_LISTED_MAX { " and others" } else { "" };
    format!("{missing}: the row has {listed}{more}; name the one with the prompt in data.prompt")
}

fn has_list(fields: &Map<String, Value>, name: &str) -> bool {
    fields.get(name).is_some_and(Value::is_array)
}

/// The answers in a field that is a text, a number as it is written, or a list of such.
///
/// # Errors
/// If it is something else, or one of a list is empty.
pub fn references(name: &str, value: Value) -> Result<Vec<String>, RowRefusal> {
    let wrong =
        || RowProblem::Answer.because(format!("`{name}` is neither a text nor a number, nor a list of such"));
    let one = |value| match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(wrong()),
    };
    let Value::Array(values) = value else { return Ok(vec![one(value)?]) };
    let texts = values.into_iter().map(one).collect::<Result<Vec<_>, _>>()?;
    match texts.iter().position(|text| text.trim().is_empty()) {
        Some(place) => {
            Err(RowProblem::Answer.because(format!("answer {} of the list `{name}` is empty", place + 1)))
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

/// A field by its own name or by a path into objects.
pub(super) fn at<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        at(fields.get(first)?.as_object()?, rest)
    })
}

/// A field that is a text or a number, as a text.
pub(super) fn text_at(fields: &Map<String, Value>, name: &str) -> Option<String> {
    match at(fields, name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A field that is a finite number, or the text of one.
pub(super) fn number_at(fields: &Map<String, Value>, name: &str) -> Result<f64, RowRefusal> {
    let text = text_at(fields, name).ok_or_else(|| {
        RowProblem::Field
            .because(format!("`{name}`, which data.curriculum sorts by, is missing or no number"))
    })?;
    text.trim().parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| {
        RowProblem::Field.because(format!("`{name}`, which data.curriculum sorts by, is no number: {text:?}"))
    })
}

/// Whether there is a field of this name, be it `null`.
pub(super) fn has(fields: &Map<String, Value>, name: &str) -> bool {
    at(fields, name).is_some()
}
