//! The commands that train nothing: `eval`, `generate`, `logprobs` and `check`.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use kernels::sampling::{SamplingConfig, draw, draw_except, key, logprob_and_entropy, uniform};
use kernels::{
    ChunkPlan, DecodeSlots, DecodeWeights, Decoder, DecoderConfig, Feed, GradientPath, LayerInputs, Packed,
    Precision, TokenStats, token_stats,
};
use rollout::{Chat, ChatEnding, Ends, TextStream};
use serde::{Deserialize, Serialize};

use crate::cli::{CheckArgs, EvalArgs, GenerateArgs, LogprobsArgs};
use crate::config::{Config, ToolConfig};
use crate::eval::{Evaluator, no_custom_verifiers};
use crate::memory::RunMemory;
use crate::model::{ModelFiles, open_device, set_positions};
use crate::output::{Inputs, Output};
use crate::policy::Policy;
use crate::preflight;
use crate::run_folder::start_log;

/// `longhaul eval`: held-out accuracy, pass@k and lengths of a model.
///
/// # Errors
/// What is wrong with the config, the model or the data.
pub fn eval(args: &EvalArgs) -> Result<()> {
    let config = Config::load(&args.config, &args.overrides.set)?;
    let device = open_device(config.device())?;
    let _log = start_log(None)?;
    let Some(evaluation) = config.evaluation() else {
        bail!("{}: eval.data names no held-out file", args.config.display());
    };
    let _log = start_log(None)?;
    let model = ModelFiles::read(&args.model)?.with_positions(config.positions_max()).load(&device)?;
    model.tell();
    let mut evaluator = Evaluator::new(&evaluation, &model.text, &model.decoder, &no_custom_verifiers)?;
    let policy = Policy::new(&model.decoder, Precision::F32)?;
    let report = evaluator.run(Arc::new(policy), 0)?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{}", report.line());
    }
    Ok(())
}

/// `longhaul generate`: a model's answer, shown as it is drawn.
///
/// # Errors
/// What is wrong with the settings, the model or the prompt.
pub fn generate(args: &GenerateArgs) -> Result<()> {
    let config = ToolConfig::for_generate(&args.set)?;
    let device = open_device((config.run.device, config.run.threads))?;
    let _log = start_log(None)?;
    let model = ModelFiles::read(&args.model)?.with_positions(config.model.positions_max).load(&device)?;
    model.tell();
    let mut context = if args.chat {
        let messages = [serde_json::json!({"role": "user", "content": args.prompt})];
        let variables = &config.data.template.0;
        let chat = Chat { messages: &messages, tools: None, variables, ending: ChatEnding::GenerationPrompt };
        model.text.encode_fragment(&model.text.render_chat(&chat)?)?
    } else {
        model.text.encode(&args.prompt)?
    };
    let Some(mut last) = context.pop() else { bail!("--prompt has no tokens") };
    let rollout = &config.rollout;
    let sampling =
        SamplingConfig { temperature: rollout.temperature, top_p: rollout.top_p, top_k: rollout.top_k };
    let room = room_beside(context.len() + 1, &model.decoder.config)?;
    let tokens_max = rollout.output_tokens_max.min(room);
    let mut slots = DecodeSlots::new(&model.decoder.config, 1, context.len() + tokens_max + 1, &device);
    let weights = DecodeWeights::new(&model.decoder);
    slots.prefill(&weights, &[Feed { slot: 0, tokens: &context }]);
    let ends = Ends::new(Arc::clone(&model.text), rollout.stops(), model.decoder.config.vocabulary)?;
    let min_tokens = ends.min_tokens();
    let mut shown = Shown::new(&ends, std::io::stdout().lock());
    let prompt_tokens = context.len() + 1;
    for index in 0..tokens_max {
        let logits = slots.step(&weights, &[Feed { slot: 0, tokens: &[last] }]);
        context.push(last);
        let number = uniform(key(&[config.run.seed]), index as u64);
        (last, _) = match &min_tokens {
            Some(min) if (index as u64) < min.tokens => {
                draw_except(&logits, &min.excluded, &sampling, number)
            }
            _ => draw(&logits, &sampling, number),
        };
        if let Some(finish) = ends.finish(context.iter().rev().copied(), index, last) {
            context.push(last);
            let (prompt, drawn) = context.split_at(prompt_tokens);
            return shown.end(&ends.ended_text(prompt, drawn, finish)?.text);
        }
        shown.push(last)?;
    }
    shown.end_as_it_is()?;
    eprintln!("{}", cut_off(tokens_max, rollout.output_tokens_max, &model.decoder.config));
    Ok(())
}

/// Tokens that have positions behind a prompt.
fn room_beside(prompt_tokens: usize, model: &DecoderConfig) -> Result<usize> {
    match model.max_positions.checked_sub(prompt_tokens) {
        Some(room) if room > 0 => Ok(room),
        _ => bail!(
            "the prompt has {prompt_tokens} tokens, and the model has {} positions for prompt and output; shorten it, \
             or raise model.positions_max if the model can go further",
            model.max_positions
        ),
    }
}

/// Why an answer that the model did not end has ended.
fn cut_off(tokens: usize, output_tokens_max: usize, model: &DecoderConfig) -> String {
    let limit = match tokens < output_tokens_max {
        false => "rollout.output_tokens_max".to_owned(),
        true => format!("the model has {} positions; model.positions_max sets others", model.max_positions),
    };
    format!("the answer was cut off after {tokens} tokens: {limit}")
}

/// An answer as it appears.
struct Shown<'a, W> {
    out: W,
    stream: TextStream<'a>,
    text: String,
    /// Bytes of the text that are out.
    shown: usize,
    /// Bytes at the end of the text that may be the beginning of a stop string that is not to be shown.
    undecided: usize,
}

impl<'a, W: Write> Shown<'a, W> {
    fn new(ends: &'a Ends, out: W) -> Self {
        let (stream, undecided) = (ends.text().stream(), ends.undecided_bytes());
        Self { out, stream, text: String::new(), shown: 0, undecided }
    }

    /// Shows what the token makes certain.
    fn push(&mut self, id: u32) -> Result<()> {
        self.text.push_str(&self.stream.push(id)?);
        let certain = self.text.floor_char_boundary(self.text.len().saturating_sub(self.undecided));
        self.show(certain)
    }

    fn show(&mut self, to: usize) -> Result<()> {
        if to > self.shown {
            write!(self.out, "{}", &self.text[self.shown..to])?;
            self.out.flush()?;
            self.shown = to;
        }
        Ok(())
    }

    /// The whole text is known.
    fn end(mut self, whole: &str) -> Result<()> {
        write!(self.out, "{}", whole.get(self.shown..).unwrap_or_default())?;
        writeln!(self.out)?;
        Ok(())
    }

    /// The limit was met.
    fn end_as_it_is(mut self) -> Result<()> {
        self.show(self.text.len())?;
        writeln!(self.out)?;
        Ok(())
    }
}

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<u32>,
}

#[derive(Serialize)]
struct TokenNumbers {
    logprobs: Vec<f32>,
    entropies: Vec<f32>,
}

/// `longhaul logprobs`: log-probability and entropy of every token that follows another.
///
/// # Errors
/// Names the file and line that is wrong.
pub fn logprobs(args: &LogprobsArgs) -> Result<()> {
    let config = ToolConfig::for_logprobs(&args.set)?;
    let device = open_device((config.run.device, config.run.threads))?;
    let mut inputs = Inputs::default();
    inputs.note(&args.model);
    let input = inputs.open(&args.input)?;
    // What cannot be written is said before gigabytes are read.
    let mut output = Output::create(&args.output, &inputs)?;
    let _log = start_log(None)?;
    let mut decoder = Decoder::load(&args.model, &device)?;
    if let Some(note) = set_positions(&mut decoder.config, config.model.positions_max) {
        tracing::warn!("{note}");
    }
    let weights = args.cached.then(|| DecodeWeights::new(&decoder));
    let written = write_logprobs(args, &decoder, weights.as_ref(), input, &mut output);
    match written {
        Ok(()) => output.finish(),
        Err(error) => Err(output.fail(error)),
    }
}

fn write_logprobs(
    args: &LogprobsArgs,
    decoder: &Decoder,
    weights: Option<&DecodeWeights>,
    input: File,
    output: &mut Output,
) -> Result<()> {
    let positions = decoder.config.max_positions;
    let mut is_beyond = false;
    for (number, line) in BufReader::new(input).lines().enumerate() {
        let place = || format!("{}:{}", args.input.display(), number + 1);
        let line = line.with_context(place)?;
        if line.trim().is_empty() {
            continue;
        }
        let Tokens { tokens } = serde_json::from_str(&line).with_context(place)?;
        let vocabulary = decoder.config.vocabulary;
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= vocabulary) {
            bail!("{}: token {id} is outside the vocabulary of {vocabulary}", place());
        }
        if tokens.is_empty() {
            bail!("{}: `tokens` is empty", place());
        }
        if tokens.len() > positions && !std::mem::replace(&mut is_beyond, true) {
            let tokens = tokens.len();
            tracing::warn!(
                "{}: {tokens} tokens are more than the {positions} positions of the model",
                place()
            );
        }
        let stats = match weights {
            Some(weights) => cached_stats((decoder, weights), &tokens),
            None => forward_stats(decoder, &tokens),
        };
        let count = tokens.len() - 1;
        let numbers = TokenNumbers {
            logprobs: stats.logprobs[..count].to_vec(),
            entropies: stats.entropies[..count].to_vec(),
        };
        let line = serde_json::to_string(&numbers)?;
        writeln!(output, "{line}").with_context(|| args.output.display().to_string())?;
    }
    Ok(())
}

fn forward_stats(decoder: &Decoder, tokens: &[u32]) -> TokenStats {
    let plan = ChunkPlan {
        path: GradientPath::StreamBp,
        layer_chunk_tokens: 1024,
        head_chunk_tokens: 256,
        attention_kept_bytes: 0,
        activations_kept_bytes: 0,
        layer_inputs: LayerInputs::Memory,
        temperature: 1.0,
    };
    token_stats(decoder, &Packed::new([tokens]), &plan)
}

fn cached_stats((decoder, weights): (&Decoder, &DecodeWeights), tokens: &[u32]) -> TokenStats {
    let mut slots = DecodeSlots::new(&decoder.config, 1, tokens.len(), &decoder.device());
    let (logprobs, entropies) = tokens
        .windows(2)
        .map(|pair| {
            let logits = slots.step(weights, &[Feed { slot: 0, tokens: &pair[..1] }]);
            logprob_and_entropy(&logits, 1.0, pair[1])
        })
        .unzip();
    TokenStats { logprobs, entropies }
}

/// `longhaul check`: the resolved config and what the run would begin with, or what is wrong with either.
///
/// # Errors
/// As the run would end before its first step.
pub fn check(args: &CheckArgs) -> Result<()> {
    let config = Config::load(&args.config, &args.overrides.set)?;
    print!("{}", config.resolved());
    match config {
        Config::Train(config) => {
            let findings = preflight::of_train(&config)?;
            print!("{findings}{}", RunMemory::new(&config, &findings.decoder, &findings.prompts));
        }
        Config::Sft(config) => print!("{}", preflight::of_sft(&config)?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rollout::{StopConfig, Text};

    use super::*;

    // What may be the beginning of a stop string waits until it is decided.
    #[test]
    fn a_stop_string_that_is_not_to_be_shown_never_appears() {
        let text = Arc::new(Text::load("models/quickstart".as_ref()).unwrap());
        let stops = StopConfig { stop: vec!["===".to_owned()], ..StopConfig::default() };
        let ends = Ends::new(Arc::clone(&text), stops, 24).unwrap();
        let shown_after = |written: &str| {
            let mut shown = Shown::new(&ends, Vec::new());
            text.encode_fragment(written).unwrap().into_iter().for_each(|id| shown.push(id).unwrap());
            shown
        };
        for (written, certain) in [("4", ""), ("4==", "4"), ("4==5", "4="), ("4==5+7", "4==5")] {
            assert_eq!(String::from_utf8(shown_after(written).out).unwrap(), certain);
        }
        let mut out = Vec::new();
        let shown = shown_after("4==");
        Shown { out: &mut out, stream: shown.stream, text: shown.text, shown: shown.shown, undecided: 2 }
            .end("4")
            .unwrap();
        assert_eq!(out, b"\n", "the third mark ends it, and `4` is out already");
    }
}
