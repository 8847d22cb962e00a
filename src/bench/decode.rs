//! `longhaul bench decode`: tokens per second of drawing, by batch and context, and of filling caches.
//!
//! Contexts are filled once and grow by a token each step. Logits are computed and
//! read, tokens are not drawn: what a draw costs depends on its filters.

use std::time::Instant;

use anyhow::{Result, bail};
use kernels::{DecodeSlots, DecodeWeights, Decoder, DecoderConfig, Device, Feed, Precision};
use serde::Serialize;

use super::{available_bytes, median, shape};
use crate::cli::BenchDecodeArgs;

/// Seconds of steps that one repeat takes at least.
const REPEAT_S: f64 = 0.3;
/// Steps of all repeats together, so that contexts stay about as long as they are said to be.
const STEPS_MAX: usize = 256;

/// What is measured.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    /// Tokens of contexts that are filled.
    Prefill,
    /// Tokens that are added one a step to every context.
    Decode,
}

/// One measurement: the median of the repeats.
#[derive(Debug, Serialize)]
struct DecodeRow {
    phase: Phase,
    /// Contexts at once.
    batch: usize,
    /// Tokens of a context: when it is filled, or before the first step that is measured.
    context: usize,
    precision: Precision,
    tokens_per_s: f64,
}

/// Prints one row for each context and batch.
///
/// # Errors
/// If the shape cannot be, or the model cannot be read.
pub fn decode(args: &BenchDecodeArgs) -> Result<()> {
    let device = Device::flex();
    let decoder = match &args.model {
        Some(model) => Decoder::load(model, &device)?,
        None => Decoder::random(shape(&args.shape)?, 1, &device),
    };
    let weights = DecodeWeights::rounded(&decoder, args.precision.into())?;
    let model = (decoder.config.clone(), args.precision.into());
    drop(decoder);
    if args.batches.contains(&0) || args.contexts.contains(&0) {
        bail!("batches and contexts are above 0");
    }
    if !args.json {
        println!("{:<8} {:>6} {:>8} {:>10} {:>12}", "phase", "batch", "context", "precision", "tokens/s");
    }
    for &context in &args.contexts {
        print_row(&prefill(&model, &weights, context, args.repeats), args.json)?;
        for &batch in &args.batches {
            let bytes = cache_bytes(&model.0, batch, context + STEPS_MAX);
            match available_bytes() {
                Some(available) if bytes > available => eprintln!(
                    "skipped: {batch} contexts of {context} tokens take {} MiB of keys and values and {} are free",
                    bytes >> 20,
                    available >> 20
                ),
                _ => print_row(&steps(&model, &weights, (batch, context), args.repeats), args.json)?,
            }
        }
    }
    Ok(())
}

fn print_row(row: &DecodeRow, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(row)?);
        return Ok(());
    }
    let phase = match row.phase {
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
    };
    let DecodeRow { batch, context, tokens_per_s, .. } = row;
    let precision = format!("{:?}", row.precision).to_lowercase();
    println!("{phase:<8} {batch:>6} {context:>8} {precision:>10} {tokens_per_s:>12.1}");
    Ok(())
}

/// A text that differs from those of other slots from its first tokens on, which are the digits of the slot's number:
/// equal contexts would share their caches, which is less to hold and to read.
fn text(config: &DecoderConfig, tokens: usize, slot: usize) -> Vec<u32> {
    let vocabulary = config.vocabulary;
    let digits = (0..).map_while(|place| vocabulary.checked_pow(place)).map(|unit| slot / unit % vocabulary);
    let rest = (0..).map(|t: usize| (slot + t * 7919 + t * t * (slot + 1)) % vocabulary);
    digits.take(4).chain(rest).take(tokens).map(|id| id as u32).collect()
}

fn prefill(
    (config, precision): &(DecoderConfig, Precision),
    weights: &DecodeWeights,
    context: usize,
    repeats: usize,
) -> DecodeRow {
    let text = text(config, context, 0);
    let mut slots = DecodeSlots::new(config, 1, context, &Device::flex());
    let mut rates = Vec::new();
    for _ in 0..repeats.max(1) {
        let start = Instant::now();
        slots.prefill(weights, &[Feed { slot: 0, tokens: &text }]);
        rates.push(context as f64 / start.elapsed().as_secs_f64());
    }
    DecodeRow {
        phase: Phase::Prefill,
        batch: 1,
        context,
        precision: *precision,
        tokens_per_s: median(&mut rates),
    }
}

fn steps(
    (config, precision): &(DecoderConfig, Precision),
    weights: &DecodeWeights,
    (batch, context): (usize, usize),
    repeats: usize,
) -> DecodeRow {
    let texts: Vec<Vec<u32>> = (0..batch).map(|slot| text(config, context, slot)).collect();
    let repeats = repeats.max(1);
    let steps_max = (STEPS_MAX / repeats).max(1);
    let mut slots = DecodeSlots::new(config, batch, context + 1 + repeats * steps_max, &Device::flex());
    let contexts: Vec<Feed<'_>> =
        texts.iter().enumerate().map(|(slot, tokens)| Feed { slot, tokens }).collect();
    slots.prefill(weights, &contexts);
    let feeds: Vec<Feed<'_>> =
        texts.iter().enumerate().map(|(slot, text)| Feed { slot, tokens: &text[..1] }).collect();
    slots.step(weights, &feeds);
    let mut rates = Vec::new();
    for _ in 0..repeats {
        let (start, mut steps) = (Instant::now(), 0);
        while steps < steps_max && (steps == 0 || start.elapsed().as_secs_f64() < REPEAT_S) {
            slots.step(weights, &feeds);
            steps += 1;
        }
        rates.push((steps * batch) as f64 / start.elapsed().as_secs_f64());
    }
    DecodeRow {
        phase: Phase::Decode,
        batch,
        context,
        precision: *precision,
        tokens_per_s: median(&mut rates),
    }
}

/// Memory of the keys and values of some contexts.
fn cache_bytes(config: &DecoderConfig, contexts: usize, tokens: usize) -> u64 {
    let token = 2 * config.layers * config.kv_heads * config.head_width * size_of::<f32>();
    (contexts * tokens * token) as u64
}
