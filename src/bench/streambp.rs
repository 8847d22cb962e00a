//! `longhaul bench streambp`: time and memory of one forward and backward pass, whole, checkpointed and in
//! chunks. Every row is measured in a process of its own, because freed memory stays with a process.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use kernels::{ChunkPlan, Cpu, Decoder, DecoderConfig, Packed, Slopes, TokenStats, TrainingEngine, Weights};
use learner::config::GradientsConfig;
use serde::{Deserialize, Serialize};

use super::{available_bytes, shape};
use crate::cli::{BenchStreambpArgs, Errors};
use crate::median::median;
use crate::model::memory::{peak_bytes, resident_bytes};

/// One measurement. Seconds are medians over the repeats.
#[derive(Debug, Deserialize, Serialize)]
struct BenchRow {
    /// Length of the one sequence.
    tokens: usize,
    /// How the gradients were computed: a kind of `[learner.gradients]`.
    path: String,
    /// The pass without gradients.
    forward_s: f64,
    /// Forward and backward together, less the pass without gradients.
    backward_s: f64,
    /// Peak of the resident memory above what the weights take.
    peak_bytes: u64,
    /// Largest relative error of a parameter's gradient (2-norm) against the whole computation; absent where they
    /// were not compared.
    grad_error: Option<f64>,
}

/// Prints one row for each length and path.
///
/// # Errors
/// If the shape cannot be, or the model cannot be read, or a measurement fails.
pub fn streambp(args: &BenchStreambpArgs) -> Result<()> {
    if let ([tokens], [path]) = (&args.tokens[..], &args.paths[..]) {
        if !skipped(args, *tokens, path)? {
            print_row(&measure(args, *tokens, path)?, args.json)?;
        }
        return Ok(());
    }
    if !args.json {
        println!(
            "{:>8}  {:<12} {:>10} {:>10} {:>12} {:>10}",
            "tokens", "path", "forward s", "backward s", "peak MiB", "error"
        );
    }
    for tokens in &args.tokens {
        for path in &args.paths {
            if !skipped(args, *tokens, path)? {
                print_row(&in_child(args, *tokens, path)?, args.json)?;
            }
        }
    }
    Ok(())
}

/// Says of a whole tape that memory cannot hold that it is left out.
fn skipped(args: &BenchStreambpArgs, tokens: usize, path: &GradientsConfig) -> Result<bool> {
    let bytes = whole_bytes(&config(args)?, tokens);
    let Some(available) = available_bytes().filter(|available| bytes > *available) else { return Ok(false) };
    let skipped = *path == GradientsConfig::Whole {};
    if skipped {
        eprintln!(
            "skipped: {tokens} tokens take about {} MiB without chunks and {} are free",
            bytes >> 20,
            available >> 20
        );
    }
    Ok(skipped)
}

fn config(args: &BenchStreambpArgs) -> Result<DecoderConfig> {
    Ok(match &args.model {
        Some(model) => DecoderConfig::read(model)?,
        None => shape(&args.shape)?,
    })
}

fn print_row(row: &BenchRow, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(row)?);
        return Ok(());
    }
    let error = row.grad_error.map_or("-".to_owned(), |error| format!("{error:.1e}"));
    let mebibytes = row.peak_bytes as f64 / f64::from(1 << 20);
    println!(
        "{:>8}  {:<12} {:>10.3} {:>10.3} {mebibytes:>12.1} {error:>10}",
        row.tokens, row.path, row.forward_s, row.backward_s
    );
    Ok(())
}

/// A choice as it is written on the command line: a word, or the kind of a section.
fn name(choice: impl Serialize) -> Result<String> {
    let value = serde_json::to_value(choice)?;
    Ok(value.as_str().or(value["kind"].as_str()).unwrap_or_default().to_owned())
}

fn in_child(args: &BenchStreambpArgs, tokens: usize, path: &GradientsConfig) -> Result<BenchRow> {
    let mut child = Command::new(std::env::current_exe()?);
    child.args(["bench", "streambp", "--json", "--tokens", &tokens.to_string()]);
    child.args(["--paths", &name(path)?, "--repeats", &args.repeats.to_string()]);
    let keys = [
        ("--layer-chunk-tokens", args.layer_chunk_tokens.map(|tokens| tokens as u64)),
        ("--head-chunk-tokens", args.head_chunk_tokens.map(|tokens| tokens as u64)),
        ("--attention-kept-mib", args.attention_kept_mib),
        ("--activations-kept-mib", args.activations_kept_mib),
    ];
    for (flag, value) in keys {
        if let Some(value) = value {
            child.args([flag, &value.to_string()]);
        }
    }
    child.args(["--layer-inputs", &name(args.layer_inputs)?]);
    child.arg(format!("--errors={}", name(args.errors)?));
    match &args.model {
        Some(model) => child.arg("--model").arg(model),
        None => child.args(["--shape", &args.shape]),
    };
    let output = child.output()?;
    if !output.status.success() {
        bail!("{tokens} tokens, {}: {}", name(path)?, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn measure(args: &BenchStreambpArgs, tokens: usize, path: &GradientsConfig) -> Result<BenchRow> {
    let engine = Cpu::default();
    let device = engine.device();
    let decoder = match &args.model {
        Some(model) => Decoder::load(model, &device)?,
        None => Decoder::random(shape(&args.shape)?, 1, &device),
    };
    let vocabulary = decoder.config.vocabulary;
    let ids: Vec<u32> = (0..tokens).map(|t| ((t * 7919 + t * t) % vocabulary) as u32).collect();
    let packed = Packed::new([&ids[..]]);
    let whole = plan(&GradientsConfig::Whole {}, tokens);
    let plan = plan(&with_keys(path, args), tokens);
    let before = resident_bytes().context(NOT_MEASURED)?;
    reset_peak()?;
    let (mut forward, mut both) = (Vec::new(), Vec::new());
    let mut most_bytes = 0;
    for _ in 0..args.repeats.max(1) {
        let start = Instant::now();
        // The sums are not copied out here: for a large model a copy is more than what the step holds.
        let mut sums = decoder.weights.tensors().zeros_like(engine.operations());
        engine.gradients(&decoder, &packed, &plan, (&mut sums).into(), &mut mean_loss)?;
        both.push(start.elapsed().as_secs_f64());
        most_bytes = most_bytes.max(peak_bytes().context(NOT_MEASURED)?.saturating_sub(before));
        drop(sums);
        let start = Instant::now();
        engine.statistics(&decoder, &packed, &plan);
        forward.push(start.elapsed().as_secs_f64());
    }
    let grad_error = if compares(args, &decoder.config, tokens) {
        let whole = gradients(&engine, &decoder, &packed, &whole)?;
        Some(largest_error(&gradients(&engine, &decoder, &packed, &plan)?, &whole))
    } else {
        None
    };
    let forward_s = median(forward).expect("a repeat");
    let backward_s = median(both).expect("a repeat") - forward_s;
    Ok(BenchRow { tokens, path: name(path)?, forward_s, backward_s, peak_bytes: most_bytes, grad_error })
}

/// The cuts of the passes; without StreamBP the pass without gradients has none either.
fn plan(gradients: &GradientsConfig, tokens: usize) -> ChunkPlan {
    let plan = gradients.plan(1.0);
    match gradients.streambp() {
        Some(_) => plan,
        None => ChunkPlan { layer_chunk_tokens: tokens, head_chunk_tokens: tokens, ..plan },
    }
}

/// The kind with the keys of the command line in the place of the config's defaults.
fn with_keys(path: &GradientsConfig, args: &BenchStreambpArgs) -> GradientsConfig {
    let mut path = path.clone();
    if let Some(keys) = path.streambp_mut() {
        keys.layer_chunk_tokens = args.layer_chunk_tokens.unwrap_or(keys.layer_chunk_tokens);
        keys.head_chunk_tokens = args.head_chunk_tokens.unwrap_or(keys.head_chunk_tokens);
        keys.attention_kept_mib = args.attention_kept_mib.unwrap_or(keys.attention_kept_mib);
        keys.activations_kept_mib = args.activations_kept_mib.unwrap_or(keys.activations_kept_mib);
        keys.layer_inputs = args.layer_inputs;
    }
    path
}

/// Longer sequences are compared only where that is asked for: it takes as long as everything else together.
const COMPARED_TOKENS_MAX: usize = 8192;

fn compares(args: &BenchStreambpArgs, config: &DecoderConfig, tokens: usize) -> bool {
    match args.errors {
        Errors::Always => true,
        Errors::Never => false,
        Errors::Auto => {
            let fits = available_bytes().is_none_or(|available| whole_bytes(config, tokens) < available);
            tokens <= COMPARED_TOKENS_MAX && fits
        }
    }
}

/// About what the whole computation holds, gradients twice included, on the safe side: activations of the layers were
/// measured at 12 times the width and 3 times the feed-forward width a token.
fn whole_bytes(config: &DecoderConfig, tokens: usize) -> u64 {
    let layer = 12 * config.hidden + 3 * config.feed_forward_width();
    let numbers = tokens * (config.layers * layer + 4 * config.vocabulary) * 5 / 4 + 3 * config.parameters();
    (numbers * size_of::<f32>()) as u64
}

type Gradients = Weights<Vec<f32>>;

/// The gradient of the mean negative log-probability.
fn gradients(engine: &Cpu, decoder: &Decoder, packed: &Packed, plan: &ChunkPlan) -> Result<Gradients> {
    let mut sums = decoder.weights.tensors().zeros_like(engine.operations());
    engine.gradients(decoder, packed, plan, (&mut sums).into(), &mut mean_loss)?;
    Ok(sums.map(|_, sum| sum.clone().into_data().try_to_vec().expect("gradients are f32")))
}

/// The slopes of the mean negative log-probability.
fn mean_loss(stats: &TokenStats) -> Slopes {
    Slopes::of_logprobs(vec![-1.0 / stats.logprobs.len() as f32; stats.logprobs.len()])
}

fn largest_error(found: &Gradients, expected: &Gradients) -> f64 {
    let norm = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>().sqrt();
    let pairs = found.named().into_iter().zip(expected.named());
    pairs.fold(0.0, |most, ((_, found), (_, expected))| {
        let mut differences = found.iter().zip(expected).map(|(x, y)| f64::from(*x) - f64::from(*y));
        let scale = norm(&mut expected.iter().map(|x| f64::from(*x)));
        most.max(norm(&mut differences) / scale.max(1e-12))
    })
}

const NOT_MEASURED: &str = "memory is measured on Linux only";

/// Makes `VmHWM` count from now.
fn reset_peak() -> Result<()> {
    std::fs::write("/proc/self/clear_refs", "5").context("/proc/self/clear_refs")
}
