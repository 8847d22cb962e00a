//! `longhaul bench`: measurements on this machine, and what they share.

pub mod rows;
mod decode;
mod segments;
mod streambp;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail};
use kernels::{DecoderConfig, LlamaShape};

use crate::config::check_shape;

pub use decode::decode;
pub use segments::segments;
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
    let shape = LlamaShape {
        hidden,
        layers,
        heads,
        kv_heads,
        intermediate,
        vocabulary,
        positions: 1 << 20,
        rms_eps: 1e-5,
        rope_theta: 10_000.0,
    };
    check_shape(&shape).with_context(|| format!("--shape {text}"))?;
    Ok(DecoderConfig::llama(shape))
}

/// Memory that is free, where the machine says it.
fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// A folder of this process among the system's temporary ones, which goes when it is dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn new() -> Result<Self> {
        /// Keeps those of one process apart.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("longhaul-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is the system's to remove.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
