//! `longhaul logprobs`: log-probability and entropy of every token that follows another.

use std::fs::File;

use anyhow::{Context, Result, bail};
use kernels::sampling::logprob_and_entropy;
use kernels::{
    ChunkPlan, DecodeSlots, DecodeWeights, Decoder, Feed, GradientPath, LayerInputs, Packed, TokenStats,
    token_stats,
};
use rollout::{Line, RowFile, RowRefusal};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::LogprobsArgs;
use crate::config::ToolConfig;
use crate::model::{open_device, set_positions};
use crate::records::output::{Inputs, Output};
use crate::watch::log::start_log;

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<u32>,
}

#[derive(Serialize)]
struct TokenNumbers {
    logprobs: Vec<f32>,
    entropies: Vec<f32>,
}

/// Writes a line of numbers for each line of tokens.
///
/// # Errors
/// Names the file and line that is wrong.
pub fn logprobs(args: &LogprobsArgs) -> Result<()> {
    let config = ToolConfig::for_logprobs(&args.set)?;
    let device = open_device(config.run.device, config.run.threads)?;
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
    let mut rows = RowFile::of(&args.input, input)?;
    while let Some(Line { number, text }) = rows.next_row()? {
        let place = || format!("{}:{number}", args.input.display());
        let Tokens { tokens } = tokens_of(text).with_context(place)?;
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
            Some(weights) => cached_stats(decoder, weights, &tokens),
            None => forward_stats(decoder, &tokens),
        };
        let count = tokens.len() - 1;
        let numbers = TokenNumbers {
            logprobs: stats.logprobs[..count].to_vec(),
            entropies: stats.entropies[..count].to_vec(),
        };
        output.write_line(&serde_json::to_string(&numbers)?)?;
    }
    Ok(())
}

/// The tokens of a row.
fn tokens_of(text: Result<String, RowRefusal>) -> Result<Tokens> {
    let fields = rollout::json_object(&text?).map_err(anyhow::Error::msg)?;
    Ok(serde_json::from_value(Value::Object(fields))?)
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

fn cached_stats(decoder: &Decoder, weights: &DecodeWeights, tokens: &[u32]) -> TokenStats {
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
