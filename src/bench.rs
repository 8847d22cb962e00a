//! `longhaul bench`: measurements on this machine, and what they share.

mod decode;
mod streambp;

use anyhow::{Context, Result, bail};
use kernels::DecoderConfig;
use kernels::decoder::config::Family;
use kernels::rope::{Rope, RopeScaling};

pub use decode::decode;
pub use streambp::streambp;

/// `hidden,layers,heads,kv_heads,intermediate,vocabulary`.
fn shape(text: &str) -> Result<DecoderConfig> {
    let numbers: Vec<usize> = text
        .split(',')
        .map(|number| number.trim().parse().with_context(|| format!("--shape {text}: `{number}`")))
        .collect::<Result<_>>()?;
    let [hidden, layers, heads, kv_heads, intermediate, vocabulary] = numbers[..] else {
        bail!("--shape {text}: needs hidden,layers,heads,kv_heads,intermediate,vocabulary");
    };
    if heads == 0
        || kv_heads == 0
        || hidden % heads != 0
        || heads % kv_heads != 0
        || (hidden / heads) % 2 != 0
    {
        bail!("--shape {text}: heads must divide hidden into even widths, and kv_heads must divide heads");
    }
    Ok(DecoderConfig {
        family: Family::Llama,
        hidden,
        layers,
        heads,
        kv_heads,
        head_width: hidden / heads,
        intermediate,
        vocabulary,
        rms_eps: 1e-5,
        tied: true,
        qkv_bias: false,
        output_bias: false,
        qk_norm: false,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::Default },
        max_positions: 1 << 20,
        initializer_range: 0.02,
        eos_ids: Vec::new(),
        bos_id: None,
        padding_id: None,
    })
}

fn median(seconds: &mut [f64]) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Memory that is free, where the machine says it.
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}
