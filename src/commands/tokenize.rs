//! `longhaul tokenize`: texts and conversations of a file as the token ids that a prompt of them would have, so that
//! anybody can lay them beside those of another tool.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rollout::{Chat, ChatEnding, Text};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::TokenizeArgs;
use crate::config::ToolConfig;
use crate::records::output::{Inputs, Output};

/// One line of the output; `longhaul logprobs` reads it.
#[derive(Serialize)]
struct Tokenized {
    /// The text that was encoded, special tokens of a chat template included.
    text: String,
    tokens: Vec<u32>,
}

/// Encodes every line of a file.
///
/// # Errors
/// Names the file and the line that is wrong.
pub fn tokenize(args: &TokenizeArgs) -> Result<()> {
    let config = ToolConfig::for_tokenize(&args.set)?;
    let text = Text::load(&args.model)?;
    let mut inputs = Inputs::default();
    inputs.note(&args.model);
    let input = BufReader::new(inputs.open(&args.input)?);
    let mut output = Output::create(&args.output, &inputs)?;
    match encode_lines(&text, &config.data.template.0, input, &args.input, &mut output) {
        Ok(()) => output.finish(),
        Err(error) => Err(output.fail(error)),
    }
}

fn encode_lines(
    text: &Text,
    variables: &Map<String, Value>,
    input: impl BufRead,
    path: &Path,
    output: &mut Output,
) -> Result<()> {
    for (number, line) in input.lines().enumerate() {
        let place = || format!("{}:{}", path.display(), number + 1);
        let line = line.with_context(place)?;
        if line.trim().is_empty() {
            continue;
        }
        let fields: Map<String, Value> = serde_json::from_str(&line).with_context(place)?;
        let tokenized = encode(text, variables, &fields).with_context(place)?;
        serde_json::to_writer(&mut *output, &tokenized)?;
        output.write_all(b"\n").with_context(|| "the output cannot be written")?;
    }
    Ok(())
}

fn encode(text: &Text, variables: &Map<String, Value>, fields: &Map<String, Value>) -> Result<Tokenized> {
    let messages = match (fields.get("text"), fields.get("messages")) {
        (Some(Value::String(plain)), None) => {
            return Ok(Tokenized { text: plain.clone(), tokens: text.encode(plain)? });
        }
        (None, Some(Value::Array(messages))) => messages,
        _ => bail!("neither a `text` that is a text nor `messages` that are a list"),
    };
    let mut variables = variables.clone();
    if let Some(Value::Object(own)) = fields.get("chat_template_kwargs") {
        variables.extend(own.clone());
    }
    let says = |name: &str| fields.get(name).and_then(Value::as_bool);
    let ending = match (says("continue_final_message"), says("add_generation_prompt")) {
        (Some(true), _) => ChatEnding::Continued,
        (_, Some(false)) => ChatEnding::Closed,
        _ => ChatEnding::GenerationPrompt,
    };
    let chat = Chat { messages, tools: fields.get("tools"), variables: &variables, ending };
    let rendered = text.render_chat(&chat)?;
    Ok(Tokenized { tokens: text.encode_fragment(&rendered)?, text: rendered })
}
