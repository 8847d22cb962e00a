//! `longhaul generate`: a model's answer, shown as it is drawn, or its answers to the prompts of a file.

mod drawing;
mod shown;

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail};
use kernels::Engine;
use kernels::sampling::key;
use rollout::{
    Chat, ChatEnding, EndedText, Finish, FinishReason, RowFile, RowRefusal, StopReason, TemplateVariables,
    Text,
};
use serde::{Deserialize, Serialize};

use self::drawing::{Answer, Drawing};
use self::shown::Shown;
use super::tokenize::encode;
use crate::cli::GenerateArgs;
use crate::config::ToolConfig;
use crate::model::engine::with_engine;
use crate::model::{ModelFiles, tell};
use crate::records::output::{Inputs, Output};
use crate::watch::log::start_log;

/// Prints a model's answer as it is drawn, or writes the answers to a file's prompts.
///
/// # Errors
/// What is wrong with the settings, the model, or a prompt with its line.
pub fn generate(args: &GenerateArgs) -> Result<()> {
    let config = ToolConfig::for_generate(&args.set)?;
    with_engine!(config.run.device, config.run.threads, |engine| generate_on(&*engine, args, &config))
}

fn generate_on<E: Engine>(engine: &E, args: &GenerateArgs, config: &ToolConfig) -> Result<()> {
    let _log = start_log(None, true)?;
    match (&args.prompt, &args.input, &args.output) {
        (Some(prompt), None, None) => show_answer(engine, args, config, prompt),
        (None, Some(input), Some(output)) => write_answers(engine, args, config, input, output),
        _ => bail!("give either --prompt, or --input and --output"),
    }
}

fn drawing<'a, E: Engine>(engine: &'a E, args: &GenerateArgs, config: &ToolConfig) -> Result<Drawing<'a, E>> {
    let files =
        ModelFiles::read(&args.model, args.base.as_deref())?.with_positions(config.model.positions_max);
    tell(&files.notes);
    Drawing::new(engine, &files, config)
}

fn show_answer<E: Engine>(engine: &E, args: &GenerateArgs, config: &ToolConfig, prompt: &str) -> Result<()> {
    let mut drawing = drawing(engine, args, config)?;
    let ends = drawing.ends();
    let text = ends.text();
    let prompt = if args.chat {
        let messages = [serde_json::json!({"role": "user", "content": prompt})];
        let variables = &config.data.template.0;
        let chat = Chat { messages: &messages, tools: None, variables, ending: ChatEnding::GenerationPrompt };
        text.encode_fragment(&text.render_chat(&chat)?)?
    } else {
        text.encode(prompt)?
    };
    if prompt.is_empty() {
        bail!("--prompt has no tokens");
    }
    let mut shown = Shown::new(&ends, std::io::stdout().lock());
    let answer = drawing.answer(&prompt, key(&[config.run.seed]), |id| shown.push(id))?;
    if answer.finish != Finish::Length {
        return shown.end(&ends.ended_text(&prompt, &answer.tokens, answer.finish)?.text);
    }
    shown.end_as_it_is()?;
    eprintln!("{}", drawing.cut_off(answer.tokens.len()));
    Ok(())
}

/// One line of the output; `longhaul logprobs` reads it.
#[derive(Serialize)]
struct Answered {
    prompt_tokens: Vec<u32>,
    completion_tokens: Vec<u32>,
    logprobs: Vec<f32>,
    completion: String,
    finish: FinishReason,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<StopReason>,
}

fn write_answers<E: Engine>(
    engine: &E,
    args: &GenerateArgs,
    config: &ToolConfig,
    input: &Path,
    output: &Path,
) -> Result<()> {
    let mut inputs = Inputs::default();
    inputs.note(&args.model);
    args.base.iter().for_each(|base| inputs.note(base));
    let file = inputs.open(input)?;
    // What cannot be written is said before gigabytes are read.
    let mut output = Output::create(output, &inputs)?;
    let mut drawing = drawing(engine, args, config)?;
    let written = answer_rows(&mut drawing, config, input, file, &mut output);
    match written {
        Ok(()) => output.finish(),
        Err(error) => Err(output.fail(error)),
    }
}

fn answer_rows<E: Engine>(
    drawing: &mut Drawing<'_, E>,
    config: &ToolConfig,
    path: &Path,
    file: File,
    output: &mut Output,
) -> Result<()> {
    let mut rows = RowFile::of(path, file)?;
    let mut number = 0;
    while let Some(line) = rows.next_row()? {
        let place = line.place(path);
        let answered = answer_row(drawing, config, line.text, number).context(place)?;
        output.write_line(&serde_json::to_string(&answered)?)?;
        number += 1;
    }
    Ok(())
}

/// Every row draws by random numbers of its own.
fn answer_row<E: Engine>(
    drawing: &mut Drawing<'_, E>,
    config: &ToolConfig,
    row: Result<String, RowRefusal>,
    number: u64,
) -> Result<Answered> {
    let ends = drawing.ends();
    let prompt = prompt_of(row, ends.text(), &config.data.template, drawing.vocabulary())?;
    let Answer { tokens, logprobs, finish } =
        drawing.answer(&prompt, key(&[config.run.seed, number]), |_| Ok(()))?;
    let ended = ends.ended_text(&prompt, &tokens, finish)?;
    let finish = match finish {
        Finish::Length => FinishReason::Length,
        Finish::Eos | Finish::StopString | Finish::StopToken => FinishReason::Stop,
    };
    let EndedText { text: completion, stop_reason } = ended;
    Ok(Answered {
        prompt_tokens: prompt,
        completion_tokens: tokens,
        logprobs,
        completion,
        finish,
        stop_reason,
    })
}

/// The tokens of a row: those that it has, or those of its `text` or `messages`.
fn prompt_of(
    row: Result<String, RowRefusal>,
    text: &Text,
    variables: &TemplateVariables,
    vocabulary: usize,
) -> Result<Vec<u32>> {
    let fields = rollout::json_object(&row?).map_err(anyhow::Error::msg)?;
    let tokens: Vec<u32> = match fields.get("tokens") {
        Some(tokens) => Vec::deserialize(tokens).context("`tokens`")?,
        None => encode(text, variables, &fields)?.tokens,
    };
    match tokens.iter().find(|id| **id as usize >= vocabulary) {
        Some(id) => bail!("token {id} is outside the vocabulary of {vocabulary}"),
        None => Ok(tokens),
    }
}
