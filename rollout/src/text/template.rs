//! Chat templates: messages as the text that the model was trained to read, token for token as `apply_chat_template` of
//! transformers makes it.
//!
//! Not here: `include`, `import` and `extends`, since a template stands alone.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, ErrorKind, Output, State};
use serde_json::{Map, Value};

use super::{budget, python, source, values};
use crate::error::RolloutError;
use crate::guarded::guarded;

/// The names that a message's reasoning goes by; templates read the first.
const REASONING_FIELDS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Marks the end of a message that is to be continued in the rendered text, which is cut off there.
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// How the text of a conversation ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChatEnding {
    /// Opened for the assistant's answer: `add_generation_prompt`.
    #[default]
    GenerationPrompt,
    /// Behind its last message.
    Closed,
    /// Inside its last message, which the answer goes on with: `continue_final_message`.
    Continued,
}

/// A conversation on its way to a prompt.
#[derive(Clone, Debug)]
pub struct Chat<'a> {
    /// Objects with `role` and what the template reads beside it.
    pub messages: &'a [Value],
    /// The tools of this conversation, a list of schemas; before those of `variables`.
    pub tools: Option<&'a Value>,
    /// Variables of the template by name, as `enable_thinking`; `tools` and `documents` are among them.
    pub variables: &'a Map<String, Value>,
    /// Where the text ends.
    pub ending: ChatEnding,
}

/// The templates of a model by name; most models have one, `default`.
#[derive(Debug, Default)]
pub(super) struct ChatTemplates(Vec<ChatTemplate>);

/// One template, and what is wrong with it where it does not compile: only prompts that need it are refused.
#[derive(Debug)]
struct ChatTemplate {
    name: String,
    path: PathBuf,
    source: String,
    compiled: Result<Environment<'static>, String>,
}

impl ChatTemplates {
    /// Compiles the templates of a model: name, file and text of each.
    pub(super) fn new(sources: Vec<super::files::TemplateSource>) -> Self {
        let compiled = |source: super::files::TemplateSource| {
            let compiled = environment(&source.text);
            ChatTemplate { name: source.name, path: source.path, source: source.text, compiled }
        };
        Self(sources.into_iter().map(compiled).collect())
    }

    /// The text of a conversation. `special_tokens` are the names that templates know the model's tokens by.
    pub(super) fn render(
        &self,
        chat: &Chat<'_>,
        special_tokens: &Map<String, Value>,
        directory: &Path,
    ) -> Result<String, RolloutError> {
        let tools = chat.tools.or_else(|| chat.variables.get("tools")).filter(|tools| !tools.is_null());
        let template = self.chosen(tools.is_some(), directory)?;
        let refuse =
            |reason: String| RolloutError::content(&template.path, format!("chat template: {reason}"));
        let environment = template.compiled.as_ref().map_err(|reason| refuse(reason.clone()))?;
        let mut messages = normalized(chat.messages).map_err(refuse)?;
        let continued = match chat.ending {
            ChatEnding::Continued => Some(tagged(&mut messages, &template.source).map_err(refuse)?),
            _ => None,
        };
        let mut context: Map<String, Value> = special_tokens.clone();
        context.extend(chat.variables.clone());
        context.insert("messages".to_owned(), Value::Array(messages));
        context.insert("tools".to_owned(), tools.cloned().unwrap_or_default());
        context.entry("documents").or_insert_with(|| Value::Null);
        let prompt = chat.ending == ChatEnding::GenerationPrompt;
        context.insert("add_generation_prompt".to_owned(), Value::Bool(prompt));
        let rendered = rendered(environment, &Value::Object(context)).map_err(refuse)?;
        match continued {
            Some(words) => cut_at_tag(&rendered, &words).map_err(refuse),
            None => Ok(rendered),
        }
    }

    /// `tool_use` for a prompt with tools, where there is more than one template, else `default`.
    fn chosen(&self, has_tools: bool, directory: &Path) -> Result<&ChatTemplate, RolloutError> {
        let named = |name: &str| self.0.iter().find(|template| template.name == name);
        if let Some(found) = named("tool_use").filter(|_| has_tools).or_else(|| named("default")) {
            return Ok(found);
        }
        let path = directory.join("tokenizer_config.json");
        Err(RolloutError::content(
            &path,
            match self.0.is_empty() {
                true => "no `chat_template`, but a prompt is a list of messages",
                false => "several chat templates, but none of them is named `default`",
            },
        ))
    }
}

const TEMPLATE: &str = "chat_template";

/// The environment that transformers gives a template, with the template in it; or why it does not compile.
fn environment(text: &str) -> Result<Environment<'static>, String> {
    let source = source::for_minijinja(text)?;
    let compiled = || -> Result<Environment<'static>, minijinja::Error> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_formatter(printed);
        environment.add_function("raise_exception", raise_exception);
        python::add_to(&mut environment);
        values::add_to(&mut environment);
        environment.add_template_owned(TEMPLATE, source)?;
        Ok(environment)
    };
    guarded(|| compiled().map_err(|error| described(&error)))
}

/// The text of a template with these variables.
fn rendered(environment: &Environment<'static>, variables: &Value) -> Result<String, String> {
    let mut environment = environment.clone();
    environment.set_fuel(Some(budget::steps(std::iter::once(variables))));
    let render = || environment.get_template(TEMPLATE).and_then(|own| own.render(values::value(variables)));
    guarded(|| render().map_err(|error| described(&error)))
}

/// Prints as `str` does.
pub(super) fn printed(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &minijinja::Value,
) -> Result<(), minijinja::Error> {
    if let Some(reason) = python::has_no_text(value) {
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, reason));
    }
    match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            let text = python::printed(state, value)?;
            out.write_str(&text).map_err(minijinja::Error::from)
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// The reason and the line of the template.
pub(super) fn described(error: &minijinja::Error) -> String {
    let reason = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => budget::EXHAUSTED.to_owned(),
        (kind, detail) => detail.map_or_else(|| kind.to_string(), str::to_owned),
    };
    match error.line() {
        Some(line) => format!("line {line}: {reason}"),
        None => reason,
    }
}

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// Messages as transformers hands them on: keys whose value is null are dropped, since a template takes a key that is
/// there for one that says something, and reasoning goes by the names that templates read.
fn normalized(messages: &[Value]) -> Result<Vec<Value>, String> {
    if messages.is_empty() {
        return Err("a conversation without messages".to_owned());
    }
    messages
        .iter()
        .enumerate()
        .map(|(at, message)| {
            let Value::Object(fields) = message else {
                return Err(format!("message {} is not an object", at + 1));
            };
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            let mut fields: Map<String, Value> =
                kept.map(|(key, value)| (key.clone(), value.clone())).collect();
            if let Some(reasoning) = REASONING_FIELDS.iter().find_map(|name| fields.get(*name)).cloned() {
                let thinking = fields.get("thinking").cloned().unwrap_or_else(|| reasoning.clone());
                let mut first = Map::from_iter([("thinking".to_owned(), thinking)]);
                first.extend(fields);
                fields = first;
                fields.insert("reasoning_content".to_owned(), reasoning);
            }
            Ok(Value::Object(fields))
        })
        .collect()
}

/// Marks the end of the last message's words and gives the words.
fn tagged(messages: &mut [Value], source: &str) -> Result<String, String> {
    if !source.contains("content") {
        return Err("the template does not read `content`, so no message can be continued".to_owned());
    }
    let last = messages.last_mut().and_then(|message| message.get_mut("content"));
    let text = match last {
        Some(Value::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        other => other,
    };
    let Some(Value::String(text)) = text else {
        return Err("the last message has no text to continue".to_owned());
    };
    let words = text.clone();
    text.push_str(CONTINUE_TAG);
    Ok(words)
}

fn cut_at_tag(rendered: &str, words: &str) -> Result<String, String> {
    let tag = rendered.rfind(CONTINUE_TAG.trim_end()).filter(|_| rendered.contains(words.trim()));
    let at =
        tag.ok_or("the template leaves out parts of the last message, which therefore cannot be continued")?;
    // A template that trims the message has taken the tag's space, and the message's own with it.
    let trimmed = !rendered[at..].starts_with(CONTINUE_TAG);
    Ok(if trimmed { rendered[..at].trim_end() } else { &rendered[..at] }.to_owned())
}
