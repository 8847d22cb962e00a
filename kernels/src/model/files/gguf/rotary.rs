//! Rotary frequencies of a GGUF file as `rope_parameters` of a `config.json`.
//!
//! The scaling of Llama 3 stands in no key: the file has the factors that it makes, in the tensor `rope_freqs.weight`,
//! and the numbers behind them are found by trying those that there are.

use serde_json::{Value, json};

use super::keys::Keys;
use super::metadata::MetaValue;
use crate::KernelError;
use crate::model::config::DecoderConfig;
use crate::rope::{Rope, RopeScaling, yarn_attention_factor};

/// The tensor of the factors.
pub(super) const FACTORS: &str = "rope_freqs.weight";

/// Base of the frequencies where the file has none, as llama.cpp takes it.
const THETA: f64 = 10_000.0;

/// The scalings of Llama 3.1 and 3.2.
const LLAMA3: [Llama3; 2] = [Llama3::of(8.0), Llama3::of(32.0)];

/// How far a factor of the file may lie from the computed one, relatively; it was rounded to f32.
const FACTOR_TOLERANCE: f64 = 1e-4;

/// Writes `rope_parameters`.
pub(super) fn read(keys: &Keys<'_>, config: &mut Value) -> Result<(), KernelError> {
    let theta = keys.number("rope.freq_base")?.unwrap_or(THETA);
    let kind_key = "rope.scaling.type";
    let kind = keys.header.metadata.text(&keys.key(kind_key))?.unwrap_or("none");
    let factor = keys.number("rope.scaling.factor")?;
    let original = keys.size("rope.scaling.original_context_length")?;
    config["rope_parameters"] = match (kind, factor) {
        ("none", _) => json!({"rope_type": "default", "rope_theta": theta}),
        ("linear", Some(factor)) => json!({"rope_type": "linear", "rope_theta": theta, "factor": factor}),
        ("yarn", Some(factor)) => {
            let mut yarn = json!({"rope_type": "yarn", "rope_theta": theta, "factor": factor});
            if let Some(original) = original {
                yarn["original_max_position_embeddings"] = json!(original);
            }
            for (key, name) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
                if let Some(beta) = keys.number(&format!("rope.scaling.{key}"))? {
                    yarn[name] = json!(beta);
                }
            }
            yarn
        }
        ("linear" | "yarn", None) => return Err(keys.wrong("rope.scaling.factor", "is missing")),
        (other, _) => {
            return Err(keys.wrong(kind_key, format!("is {other:?}; read are none, linear and yarn")));
        }
    };
    Ok(())
}

/// Puts the scaling of Llama 3 into a config whose file has these factors.
pub(super) fn apply_factors(keys: &Keys<'_>, config: &mut Value, factors: &[f32]) -> Result<(), KernelError> {
    let theta = config["rope_parameters"]["rope_theta"].as_f64().unwrap_or(THETA);
    let pairs = factors.len();
    if config["head_dim"].as_u64() != Some(2 * pairs as u64) {
        return Err(keys.header.metadata.broken(format!("has {pairs} numbers in tensor `{FACTORS}`")));
    }
    let fits = |scaling: &&Llama3| {
        factors.iter().enumerate().all(|(pair, found)| {
            let expected = scaling.divisor(theta, pair, pairs);
            (f64::from(*found) - expected).abs() <= FACTOR_TOLERANCE * expected
        })
    };
    let scaling = LLAMA3.iter().find(fits).ok_or_else(|| {
        keys.header.metadata.broken(format!(
            "has factors of rotary frequencies (`{FACTORS}`) that are not those of Llama 3.1 or 3.2"
        ))
    })?;
    config["rope_parameters"] = json!({
        "rope_type": "llama3", "rope_theta": theta, "factor": scaling.factor, "low_freq_factor": scaling.low,
        "high_freq_factor": scaling.high, "original_max_position_embeddings": scaling.positions as u64,
    });
    Ok(())
}

/// A scaling of Llama 3's kind.
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    positions: f64,
}

impl Llama3 {
    const fn of(factor: f64) -> Self {
        Self { factor, low: 1.0, high: 4.0, positions: 8192.0 }
    }

    /// What the frequency of a pair is divided by.
    fn divisor(&self, theta: f64, pair: usize, pairs: usize) -> f64 {
        let wavelength = std::f64::consts::TAU * theta.powf(pair as f64 / pairs as f64);
        if wavelength < self.positions / self.high {
            1.0
        } else if wavelength > self.positions / self.low {
            self.factor
        } else {
            let smooth = (self.positions / wavelength - self.low) / (self.high - self.low);
            1.0 / ((1.0 - smooth) / self.factor + smooth)
        }
    }
}

/// The factors that a file of a model has; none where no key and no factor is needed.
pub(super) fn factors(config: &DecoderConfig) -> Vec<f32> {
    let Rope { theta, scaling } = &config.spec.attention[0].rope;
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } = scaling
    else {
        return Vec::new();
    };
    let positions = *original_max_positions as f64;
    let scaling = Llama3 { factor: *factor, low: *low_freq_factor, high: *high_freq_factor, positions };
    let pairs = config.head_width / 2;
    (0..pairs).map(|pair| scaling.divisor(*theta, pair, pairs) as f32).collect()
}

/// The keys of frequencies, by their names behind the architecture's.
///
/// # Errors
/// If there is no key for what the model computes.
pub(super) fn keys(rope: &Rope) -> Result<Vec<(&'static str, MetaValue)>, String> {
    let mut keys = vec![("rope.freq_base", MetaValue::Float(rope.theta))];
    let scaling = |kind: &str, factor: f64| {
        let kind = ("rope.scaling.type", MetaValue::Text(kind.to_owned()));
        [kind, ("rope.scaling.factor", MetaValue::Float(factor))]
    };
    match &rope.scaling {
        RopeScaling::Default | RopeScaling::Llama3 { .. } => {}
        RopeScaling::Absent => return Err("GGUF has no key for layers that are not rotated".to_owned()),
        RopeScaling::Linear { factor, .. } => keys.extend(scaling("linear", *factor)),
        RopeScaling::Yarn {
            factor,
            original_max_positions,
            beta_fast,
            beta_slow,
            attention_factor,
            truncate,
        } => {
            if *attention_factor != yarn_attention_factor(*factor, None, None) || !truncate {
                return Err("GGUF has no key for YaRN with an `attention_factor` of its own or without \
                            `truncate`"
                    .to_owned());
            }
            keys.extend(scaling("yarn", *factor));
            let original = MetaValue::Integer(*original_max_positions as i128);
            keys.push(("rope.scaling.original_context_length", original));
            keys.push(("rope.scaling.yarn_beta_fast", MetaValue::Float(*beta_fast)));
            keys.push(("rope.scaling.yarn_beta_slow", MetaValue::Float(*beta_slow)));
        }
    }
    Ok(keys)
}
