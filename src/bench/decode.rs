//! `longhaul bench decode`: tokens per second of drawing, by batch and context, and of filling caches.
//!
//! Contexts are filled once and grow by a token each step. Logits are computed and
//! read, tokens are not drawn: what a draw costs depends on its filters.

use std::time::Instant;

use anyhow::{Result, bail};
use kernels::{
    CacheRoom, Cpu, CpuSlots, DecodeMemory, Decoder, DecoderConfig, Engine, Feed, PackedDecoder, Precision,
    TrainingEngine,
};
use rollout::KvCache;
use serde::Serialize;

use super::{available_bytes, shape};
use crate::cli::BenchDecodeArgs;
use crate::config::{cache_precision, weights_precision};
use crate::median::median;

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
    kv_cache: KvCache,
    tokens_per_s: f64,
}

/// What all rows have in common.
struct Bench {
    engine: Cpu,
    config: DecoderConfig,
    precision: Precision,
    weights: PackedDecoder,
    kv_cache: KvCache,
    repeats: usize,
}

/// Prints one row for each context and batch.
///
/// # Errors
/// If the shape cannot be, or the model cannot be read.
pub fn decode(args: &BenchDecodeArgs) -> Result<()> {
    let engine = Cpu::default();
    let device = engine.device();
    let decoder = match &args.model {
        Some(model) => Decoder::load(model, &device)?,
        None => Decoder::random(shape(&args.shape)?, 1, &device),
    };
    let precision = weights_precision(args.precision);
    let bench = Bench {
        config: decoder.config.clone(),
        precision,
        weights: engine.prepare(&decoder, precision)?,
        engine,
        kv_cache: args.kv_cache,
        repeats: args.repeats.max(1),
    };
    drop(decoder);
    if args.batches.contains(&0) || args.contexts.contains(&0) {
        bail!("batches and contexts are above 0");
    }
    if !args.json {
        println!(
            "{:<8} {:>6} {:>8} {:>10} {:>9} {:>12}",
            "phase", "batch", "context", "precision", "kv cache", "tokens/s"
        );
    }
    for &context in &args.contexts {
        print_row(&bench.prefill(context)?, args.json)?;
        for &batch in &args.batches {
            let bytes = bench.cache_bytes(batch, context + STEPS_MAX);
            match available_bytes() {
                Some(available) if bytes > available => eprintln!(
                    "skipped: {batch} contexts of {context} tokens take {} MiB of keys and values and {} are free",
                    bytes >> 20,
                    available >> 20
                ),
                _ => print_row(&bench.steps(batch, context)?, args.json)?,
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
    let kv_cache = format!("{:?}", row.kv_cache).to_lowercase();
    println!("{phase:<8} {batch:>6} {context:>8} {precision:>10} {kv_cache:>9} {tokens_per_s:>12.1}");
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

impl Bench {
    /// Slots for so many contexts of at most so many tokens.
    fn slots(&self, contexts: usize, tokens_max: usize) -> Result<CpuSlots> {
        let precision = cache_precision(self.kv_cache);
        let room = CacheRoom { slots: contexts, positions: tokens_max, precision };
        Ok(self.engine.slots(&self.config, room)?)
    }

    fn prefill(&self, context: usize) -> Result<DecodeRow> {
        let text = text(&self.config, context, 0);
        let mut slots = self.slots(1, context)?;
        let mut rates = Vec::new();
        for _ in 0..self.repeats {
            let start = Instant::now();
            self.engine.prefill(&mut slots, &self.weights, &[Feed { slot: 0, tokens: &text }]);
            rates.push(context as f64 / start.elapsed().as_secs_f64());
        }
        Ok(self.row(Phase::Prefill, 1, context, rates))
    }

    fn steps(&self, batch: usize, context: usize) -> Result<DecodeRow> {
        let texts: Vec<Vec<u32>> = (0..batch).map(|slot| text(&self.config, context, slot)).collect();
        let steps_max = (STEPS_MAX / self.repeats).max(1);
        let mut slots = self.slots(batch, context + 1 + self.repeats * steps_max)?;
        let contexts: Vec<Feed<'_>> =
            texts.iter().enumerate().map(|(slot, tokens)| Feed { slot, tokens }).collect();
        self.engine.prefill(&mut slots, &self.weights, &contexts);
        let feeds: Vec<Feed<'_>> =
            texts.iter().enumerate().map(|(slot, text)| Feed { slot, tokens: &text[..1] }).collect();
        self.engine.logits(&mut slots, &self.weights, &feeds);
        let mut rates = Vec::new();
        for _ in 0..self.repeats {
            let (start, mut steps) = (Instant::now(), 0);
            while steps < steps_max && (steps == 0 || start.elapsed().as_secs_f64() < REPEAT_S) {
                self.engine.logits(&mut slots, &self.weights, &feeds);
                steps += 1;
            }
            rates.push((steps * batch) as f64 / start.elapsed().as_secs_f64());
        }
        Ok(self.row(Phase::Decode, batch, context, rates))
    }

    fn row(&self, phase: Phase, batch: usize, context: usize, rates: Vec<f64>) -> DecodeRow {
        let (precision, kv_cache) = (self.precision, self.kv_cache);
        DecodeRow {
            phase,
            batch,
            context,
            precision,
            kv_cache,
            tokens_per_s: median(rates).expect("a repeat"),
        }
    }

    /// Memory of the keys and values of some contexts.
    fn cache_bytes(&self, contexts: usize, tokens: usize) -> u64 {
        let block = DecodeMemory::cache_block(&self.config, cache_precision(self.kv_cache));
        (contexts * tokens.div_ceil(self.engine.capabilities().cache_block_tokens)) as u64 * block
    }
}
