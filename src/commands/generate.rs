//! `longhaul generate`: a model's answer, shown as it is drawn.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Result, bail};
use kernels::sampling::key;
use kernels::{CachePrecision, CacheRoom, DecoderConfig, DrawRequest, Engine, Feed};
use rollout::{Chat, ChatEnding, Ends, TextStream};

use crate::cli::GenerateArgs;
use crate::config::ToolConfig;
use crate::model::engine::with_engine;
use crate::model::policy::sampling;
use crate::model::{ModelFiles, tell};
use crate::watch::log::start_log;

/// Prints a model's answer as it is drawn.
///
/// # Errors
/// What is wrong with the settings, the model or the prompt.
pub fn generate(args: &GenerateArgs) -> Result<()> {
    let config = ToolConfig::for_generate(&args.set)?;
    with_engine!(config.run.device, config.run.threads, |engine| generate_on(&*engine, args, &config))
}

fn generate_on<E: Engine>(engine: &E, args: &GenerateArgs, config: &ToolConfig) -> Result<()> {
    let _log = start_log(None, true)?;
    let files =
        ModelFiles::read(&args.model, args.base.as_deref())?.with_positions(config.model.positions_max);
    tell(&files.notes);
    let mut context = if args.chat {
        let messages = [serde_json::json!({"role": "user", "content": args.prompt})];
        let variables = &config.data.template.0;
        let chat = Chat { messages: &messages, tools: None, variables, ending: ChatEnding::GenerationPrompt };
        files.text.encode_fragment(&files.text.render_chat(&chat)?)?
    } else {
        files.text.encode(&args.prompt)?
    };
    let Some(mut last) = context.pop() else { bail!("--prompt has no tokens") };
    let rollout = &config.rollout;
    let sampling = sampling(rollout.sampling());
    let room = room_beside(context.len() + 1, &files.decoder)?;
    let tokens_max = rollout.output_tokens_max.min(room);
    let positions = context.len() + tokens_max + 1;
    let room = CacheRoom { slots: 1, positions, precision: CachePrecision::F32 };
    let policy = files.load_policy(engine, config.model.dtype)?;
    let (weights, mut slots) = (policy.weights(), engine.slots(&files.decoder, room)?);
    engine.prefill(&mut slots, weights, &[Feed { slot: 0, tokens: &context }]);
    let ends = Ends::new(Arc::clone(&files.text), rollout.stops(), files.decoder.vocabulary)?;
    let min_tokens = ends.min_tokens();
    let mut shown = Shown::new(&ends, std::io::stdout().lock());
    let prompt_tokens = context.len() + 1;
    for index in 0..tokens_max {
        let excluded = min_tokens.as_ref().filter(|min| (index as u64) < min.tokens);
        let request = DrawRequest {
            feed: Feed { slot: 0, tokens: &[last] },
            random_key: key(&[config.run.seed]),
            index: index as u64,
            excluded: excluded.map_or(&[], |min| &min.excluded),
            given_end: None,
        };
        let drawn = engine.decode(&mut slots, weights, &[request], &sampling);
        context.push(last);
        last = drawn[0].id;
        if let Some(finish) = ends.finish(context.iter().rev().copied(), index, last) {
            context.push(last);
            let (prompt, drawn) = context.split_at(prompt_tokens);
            return shown.end(&ends.ended_text(prompt, drawn, finish)?.text);
        }
        shown.push(last)?;
    }
    shown.end_as_it_is()?;
    eprintln!("{}", cut_off(tokens_max, rollout.output_tokens_max, &files.decoder));
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
