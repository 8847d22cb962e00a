//! `longhaul tokenize`: texts and conversations of a file as the token ids that a prompt of them would have, so that
//! anybody can lay them beside those of another tool.

use std::path::Path;

use anyhow::{Context, Result, bail};
use kernels::ModelPlace;
use rollout::{Chat, ChatEnding, ChatFields, RowFile, TemplateVariables, Text};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::TokenizeArgs;
use crate::config::ToolConfig;
use crate::records::output::{Inputs, Output};

/// One line of the output; `longhaul logprobs` reads it.
#[derive(Serialize)]
pub(super) struct Tokenized {
    /// The text that was encoded, special tokens of a chat template included.
    text: String,
    pub(super) tokens: Vec<u32>,
}

/// Encodes every line of a file.
///
/// # Errors
/// Names the file and the line that is wrong.
pub fn tokenize(args: &TokenizeArgs) -> Result<()> {
    let config = ToolConfig::for_tokenize(&args.set)?;
    let text = Text::load(&ModelPlace::find(&args.model, None)?.base)?;
    let mut inputs = Inputs::default();
    inputs.note(&args.model);
    let input = inputs.open(&args.input)?;
    let mut output = Output::create(&args.output, &inputs)?;
    let written = RowFile::of(&args.input, input)
        .map_err(anyhow::Error::from)
        .and_then(|mut rows| encode_rows(&text, &config.data.template, &mut rows, &args.input, &mut output));
    match written {
        Ok(()) => output.finish(),
        Err(error) => Err(output.fail(error)),
    }
}

fn encode_rows(
    text: &Text,
    variables: &TemplateVariables,
    rows: &mut RowFile,
    path: &Path,
    output: &mut Output,
) -> Result<()> {
    while let Some(line) = rows.next_row()? {
        let place = line.place(path);
        let tokenized = line
            .text
            .map_err(anyhow::Error::from)
            .and_then(|written| rollout::json_object(&written).map_err(anyhow::Error::msg))
            .and_then(|fields| encode(text, variables, &fields))
            .context(place)?;
        output.write_line(&serde_json::to_string(&tokenized)?)?;
    }
    Ok(())
}

/// Encodes what a row has: its `text` or its `messages`.
pub(super) fn encode(
    text: &Text,
    variables: &TemplateVariables,
    fields: &Map<String, Value>,
) -> Result<Tokenized> {
    let messages = match (fields.get("text"), fields.get("messages")) {
        (Some(Value::String(plain)), None) => {
            return Ok(Tokenized { text: plain.clone(), tokens: text.encode(plain)? });
        }
        (None, Some(Value::Array(messages))) => messages,
        _ => bail!("neither a `text` that is a text nor `messages` that are a list"),
    };
    let ChatFields { tools, variables } = ChatFields::read(fields, variables)?;
    let ending = match (says(fields, "continue_final_message")?, says(fields, "add_generation_prompt")?) {
        (Some(true), Some(true)) => {
            bail!(
                "`continue_final_message` and `add_generation_prompt` are both true: a prompt ends in one way"
            )
        }
        (Some(true), _) => ChatEnding::Continued,
        (_, Some(false)) => ChatEnding::Closed,
        _ => ChatEnding::GenerationPrompt,
    };
    let chat = Chat { messages, tools: tools.as_ref(), variables: &variables, ending };
    let rendered = text.render_chat(&chat)?;
    Ok(Tokenized { tokens: text.encode_fragment(&rendered)?, text: rendered })
}

/// A field that is true or false, if it is there.
fn says(fields: &Map<String, Value>, name: &str) -> Result<Option<bool>> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(other) => bail!("`{name}` must be true or false, not {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_field_that_is_wrong() {
        let text = Text::load("models/quickstart".as_ref()).unwrap();
        let refusal = |row: &str| {
            let fields = rollout::json_object(row).unwrap();
            encode(&text, &TemplateVariables::default(), &fields).err().unwrap().to_string()
        };
        let messages = r#""messages": [{"role": "user", "content": "1"}]"#;
        for (more, said) in [
            (r#""continue_final_message": 1"#, "`continue_final_message` must be true or false, not 1"),
            (r#""add_generation_prompt": "no""#, "`add_generation_prompt` must be true or false"),
            (r#""continue_final_message": true, "add_generation_prompt": true"#, "are both true"),
            (r#""tools": "x""#, "`tools` is a text that is not JSON"),
            (r#""chat_template_kwargs": {"messages": []}"#, "`messages` is given by the run"),
        ] {
            let error = refusal(&format!("{{{messages}, {more}}}"));
            assert!(error.contains(said), "{more}: {error}");
        }
        assert!(refusal("{}").contains("neither a `text`"));
    }
}
