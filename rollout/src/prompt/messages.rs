//! Chat messages: which lists are a conversation, and how those of a row are rendered.

use serde_json::{Map, Value};

use super::chat_fields::ChatFields;
use crate::bad_rows::RowRefusal;
use crate::error::RolloutError;
use crate::text::{Chat, ChatEnding, TemplateVariables, Text};

/// Roles that chat templates know. With others a template may raise an error, or write them as they stand.
pub(super) const USUAL_ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Names of the role of what a tool gives, beside the usual one.
const TOOL_ROLES: [&str; 3] = ["ipython", "function", "observation"];

/// The roles among these messages that chat templates seldom know.
pub(super) fn unusual_roles(messages: &[Value]) -> impl Iterator<Item = &str> {
    let roles = messages.iter().filter_map(|message| message["role"].as_str());
    roles.filter(|role| !USUAL_ROLES.contains(role) && !TOOL_ROLES.contains(role))
}

/// Refuses what is no list of messages as chat templates take them.
pub(super) fn check(messages: &[Value]) -> Result<(), String> {
    if messages.is_empty() {
        return Err("the list of messages is empty".to_string());
    }
    messages.iter().enumerate().try_for_each(|(place, message)| {
        check_one(message).map_err(|reason| format!("message {} {reason}", place + 1))
    })
}

fn check_one(message: &Value) -> Result<(), String> {
    let Some(role) = message["role"].as_str() else {
        if message["from"].is_string() && message["value"].is_string() {
            return Err("has `from` and `value` (ShareGPT) in the place of `role` and `content`: rename them, and the \
                        roles \"human\" and \"gpt\" to \"user\" and \"assistant\""
                .to_string());
        }
        return Err("has no `role` that is a text".to_string());
    };
    match &message["content"] {
        Value::String(_) => Ok(()),
        Value::Array(parts) => parts.iter().try_for_each(check_part),
        Value::Null if message["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty()) => Ok(()),
        Value::Null => Err("has no `content`".to_string()),
        // What a tool gives may be an object, which templates write as JSON.
        Value::Object(_) if matches!(role, "tool" | "ipython") => Ok(()),
        _ => Err("has a `content` that is neither a text nor a list of texts".to_string()),
    }
}

fn check_part(part: &Value) -> Result<(), String> {
    match (part["type"].as_str(), part["text"].is_string()) {
        (Some("text"), true) => Ok(()),
        (Some("text"), false) => Err("has a part of type `text` without `text`".to_string()),
        (Some(other), _) => Err(format!("has a part of type `{other}`; only `text` is read")),
        (None, _) => Err("has a part without `type`".to_string()),
    }
}

/// Whether the last turn is the assistant's.
pub(super) fn ends_with_assistant(messages: &[Value]) -> bool {
    messages.last().is_some_and(is_assistant)
}

/// Whether it is what the system says, under either of its names.
pub(super) fn is_system(message: &Value) -> bool {
    message["role"] == "system" || message["role"] == "developer"
}

pub(super) fn is_assistant(message: &Value) -> bool {
    message["role"] == "assistant"
}

/// The content as a text: that of all its parts.
pub(super) fn text_of(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

/// What the user asked last; the last message where none is the user's.
pub(super) fn last_of_user(messages: &[Value]) -> String {
    let asked = messages.iter().rfind(|message| message["role"] == "user").or(messages.last());
    asked.map(text_of).unwrap_or_default()
}

/// Renders the messages of one row.
pub(super) struct Renderer<'a> {
    text: &'a Text,
    fields: ChatFields,
}

impl<'a> Renderer<'a> {
    /// With the variables of the config, and over them those that the row names, as in TRL's data sets.
    pub(super) fn new(
        fields: &Map<String, Value>,
        config: &TemplateVariables,
        text: &'a Text,
    ) -> Result<Self, RowRefusal> {
        Ok(Self { text, fields: ChatFields::read(fields, config)? })
    }

    pub(super) fn render(&self, messages: &[Value], ending: ChatEnding) -> Result<String, RolloutError> {
        let ChatFields { tools, variables } = &self.fields;
        self.text.render_chat(&Chat { messages, tools: tools.as_ref(), variables, ending })
    }

    pub(super) fn text(&self) -> &'a Text {
        self.text
    }
}
