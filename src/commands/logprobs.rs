//! `longhaul logprobs`: log-probability and entropy of every token that follows another.

use std::fs::File;

use anyhow::{Context, Result, bail};
use kernels::model::families;
use kernels::sampling::logprob_and_entropy;
use kernels::{
    CachePrecision, CacheRoom, ChunkPlan, Decoder, DecoderConfig, Engine, EngineWeights, Feed, GradientPath,
    LayerInputs, Lora, ModelPlace, Packed, Precision, TokenStats,
};
use rollout::{RowFile, RowRefusal};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cli::LogprobsArgs;
use crate::config::ToolConfig;
use crate::model::engine::with_engine;
use crate::model::{set_positions, stored_precision};
use crate::records::output::{Inputs, Output};
use crate::watch::log::start_log;

/// A line with `tokens`, or a completion that a run has recorded.
#[derive(Deserialize)]
struct TokenLine {
    tokens: Option<Vec<u32>>,
    prompt_tokens: Option<Vec<u32>>,
    completion_tokens: Option<Vec<u32>>,
    #[serde(default)]
    given: Vec<Value>,
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
    with_engine!(config.run.device, config.run.threads, |engine| logprobs_on(&*engine, args, &config))
}

fn logprobs_on<E: Engine>(engine: &E, args: &LogprobsArgs, config: &ToolConfig) -> Result<()> {
    let mut inputs = Inputs::default();
    inputs.note(&args.model);
    args.base.iter().for_each(|base| inputs.note(base));
    let input = inputs.open(&args.input)?;
    // What cannot be written is said before gigabytes are read.
    let mut output = Output::create(&args.output, &inputs)?;
    let _log = start_log(None, true)?;
    let place = ModelPlace::find(&args.model, args.base.as_deref())?;
    let mut shape = DecoderConfig::read(&place.base)?;
    if let Some(note) = set_positions(&mut shape, config.model.positions_max) {
        tracing::warn!("{note}");
    }
    let precision = stored_precision(engine, &place.base, &shape, config.model.dtype)?;
    let written = if args.cached {
        let base = engine.load(&place.base, &shape, precision)?;
        let lora = place.adapter.as_ref().map(|dir| Lora::load(dir, &place.base, &shape, &engine.device()));
        let weights = match lora.transpose()? {
            Some(lora) => engine.adapt(&base, &lora),
            None => base,
        };
        let stats = |tokens: &[u32]| cached_stats(engine, &weights, tokens);
        write_logprobs(args, &shape, stats, input, &mut output)
    } else {
        let decoder = match precision {
            Precision::F32 => Decoder::load_at(&place, &families::ALL, &engine.device())?,
            rounded => Decoder::load_packed(&place, &families::ALL, rounded)?,
        };
        let stats = |tokens: &[u32]| Ok(forward_stats(engine, &decoder, tokens));
        write_logprobs(args, &shape, stats, input, &mut output)
    };
    match written {
        Ok(()) => output.finish(),
        Err(error) => Err(output.fail(error)),
    }
}

fn write_logprobs(
    args: &LogprobsArgs,
    shape: &DecoderConfig,
    stats: impl Fn(&[u32]) -> Result<TokenStats>,
    input: File,
    output: &mut Output,
) -> Result<()> {
    let positions = shape.max_positions;
    let mut is_beyond = false;
    let mut rows = RowFile::of(&args.input, input)?;
    while let Some(line) = rows.next_row()? {
        let whole = line.place(&args.input);
        let place = || whole.clone();
        let tokens = tokens_of(line.text).with_context(place)?;
        let vocabulary = shape.vocabulary;
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
        let stats = stats(&tokens)?;
        let count = tokens.len() - 1;
        let numbers = TokenNumbers {
            logprobs: stats.logprobs[..count].to_vec(),
            entropies: stats.entropies[..count].to_vec(),
        };
        output.write_line(&serde_json::to_string(&numbers)?)?;
    }
    Ok(())
}

/// The tokens of a row; of a recorded completion, its prompt and what was drawn behind it.
fn tokens_of(text: Result<String, RowRefusal>) -> Result<Vec<u32>> {
    let fields = rollout::json_object(&text?).map_err(anyhow::Error::msg)?;
    let line: TokenLine = serde_json::from_value(Value::Object(fields))?;
    match (line.tokens, line.prompt_tokens, line.completion_tokens) {
        (Some(tokens), _, _) => Ok(tokens),
        (None, Some(_), Some(_)) if !line.given.is_empty() => {
            bail!(
                "a recorded completion with `given` tokens has several parts; give the ids of one as `tokens`"
            )
        }
        (None, Some(prompt), Some(completion)) => Ok([prompt, completion].concat()),
        _ => {
            bail!("`tokens` is missing, or `prompt_tokens` and `completion_tokens` of a recorded completion")
        }
    }
}

fn forward_stats(engine: &impl Engine, decoder: &Decoder, tokens: &[u32]) -> TokenStats {
    let plan = ChunkPlan {
        path: GradientPath::StreamBp,
        layer_chunk_tokens: 1024,
        head_chunk_tokens: 256,
        attention_kept_bytes: 0,
        activations_kept_bytes: 0,
        layer_inputs: LayerInputs::Memory,
        temperature: 1.0,
    };
    engine.statistics(decoder, &Packed::new([tokens]), &plan)
}

fn cached_stats<E: Engine>(engine: &E, weights: &E::Weights, tokens: &[u32]) -> Result<TokenStats> {
    let room = CacheRoom { slots: 1, positions: tokens.len(), precision: CachePrecision::F32 };
    let mut slots = engine.slots(weights.config(), room)?;
    let (logprobs, entropies) = tokens
        .windows(2)
        .map(|pair| {
            let logits = engine.logits(&mut slots, weights, &[Feed { slot: 0, tokens: &pair[..1] }]);
            logprob_and_entropy(logits, 1.0, pair[1])
        })
        .unzip();
    Ok(TokenStats { logprobs, entropies })
}
