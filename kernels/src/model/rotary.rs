//! The rotary section of a `config.json`, in the dialects of transformers 4 and 5: read, checked and written.

use serde_json::{Map, Value, json};

use super::keys::Keys;
use crate::KernelError;
use crate::rope::{Rope, RopeScaling, yarn_attention_factor};

/// Rotary frequencies with the precedence of transformers 5: a `rope_scaling` that is not empty beats
/// `rope_parameters`, and `rope_theta` inside either beats the one beside them. `theta` is the class default.
pub(super) fn rope(keys: &Keys<'_>, max_positions: usize, theta: f64) -> Result<Rope, KernelError> {
    let nothing = Map::new();
    let (mut section, mut inner) = ("", &nothing);
    for (key, name) in [("rope_parameters", "rope_parameters."), ("rope_scaling", "rope_scaling.")] {
        if let Some(value) = keys.get(key) {
            let map = value.as_object().ok_or_else(|| keys.wrong(key, "is not an object"))?;
            if !map.is_empty() {
                (section, inner) = (name, map);
            }
        }
    }
    let inner = Keys { path: keys.path, section, map: inner };
    if inner.number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
        return Err(inner.wrong("partial_rotary_factor", "is not 1; only whole heads are rotated"));
    }
    let theta = match inner.number("rope_theta")? {
        Some(theta) => theta,
        None => keys.number("rope_theta")?.unwrap_or(theta),
    };
    // `type` is the older spelling.
    let kind = inner.text("rope_type")?.or(inner.text("type")?).unwrap_or_else(|| "default".to_owned());
    // A length beside the section beats the one inside, as in transformers 5.
    let original = keys.size("original_max_position_embeddings")?;
    let stated_original = original.or(inner.size("original_max_position_embeddings")?);
    let original = stated_original.unwrap_or(max_positions);
    let scaling = match kind.as_str() {
        "default" => default_scaling(&inner)?,
        "linear" => RopeScaling::Linear {
            factor: inner.required_number("factor")?,
            original_max_positions: stated_original,
        },
        "llama3" => RopeScaling::Llama3 {
            factor: inner.required_number("factor")?,
            low_freq_factor: inner.required_number("low_freq_factor")?,
            high_freq_factor: inner.required_number("high_freq_factor")?,
            original_max_positions: original,
        },
        "yarn" => yarn(&inner, max_positions, original)?,
        other => {
            let supported = "default, linear, llama3, yarn";
            return Err(inner.wrong("rope_type", format!("is {other:?}; computed are {supported}")));
        }
    };
    Ok(Rope { theta, scaling })
}

/// No scaling, after a look for parameters that stand one level deeper, one set a layer type.
fn default_scaling(inner: &Keys<'_>) -> Result<RopeScaling, KernelError> {
    match inner.map.iter().find(|(_, value)| value.is_object()) {
        Some((key, _)) => {
            Err(inner.wrong(key, "is an object; one set of frequencies for all layers is computed"))
        }
        None => Ok(RopeScaling::Default),
    }
}

fn yarn(inner: &Keys<'_>, max_positions: usize, original: usize) -> Result<RopeScaling, KernelError> {
    let factor = match inner.number("factor")? {
        Some(factor) => factor,
        None if inner.map.contains_key("factor") => max_positions as f64 / original as f64,
        None => return Err(inner.wrong("factor", "is missing")),
    };
    let attention_factor = match inner.number("attention_factor")? {
        Some(stated) => stated,
        None => yarn_attention_factor(factor, inner.number("mscale")?, inner.number("mscale_all_dim")?),
    };
    // A 0 counts as absent, as in transformers.
    let rotations =
        |key, default| inner.number(key).map(|number| number.filter(|&beta| beta != 0.0).unwrap_or(default));
    Ok(RopeScaling::Yarn {
        factor,
        original_max_positions: original,
        beta_fast: rotations("beta_fast", 32.0)?,
        beta_slow: rotations("beta_slow", 1.0)?,
        attention_factor,
        truncate: inner.flag("truncate")?.unwrap_or(true),
    })
}

pub(super) fn check_rope(rope: &Rope) -> Result<(), String> {
    // theta = 1 makes YaRN's logarithm 0; below it frequencies rise.
    if !(rope.theta.is_finite() && rope.theta > 1.0) {
        return Err(format!("`rope_theta` is {}; it must be above 1", rope.theta));
    }
    let positive = |key: &str, value: f64| {
        let fits = value.is_finite() && value > 0.0;
        if fits {
            Ok(())
        } else {
            Err(format!("`{key}` of the rotary scaling is {value}; it must be above 0"))
        }
    };
    match &rope.scaling {
        RopeScaling::Default | RopeScaling::Absent => Ok(()),
        RopeScaling::Linear { factor, .. } => positive("factor", *factor),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
            positive("factor", *factor)?;
            positive("low_freq_factor", *low_freq_factor)?;
            positive("original_max_position_embeddings", *original_max_positions as f64)?;
            if high_freq_factor > low_freq_factor {
                return Ok(());
            }
            Err(format!(
                "`high_freq_factor` {high_freq_factor} is not above `low_freq_factor` {low_freq_factor}"
            ))
        }
        RopeScaling::Yarn {
            factor, original_max_positions, beta_fast, beta_slow, attention_factor, ..
        } => {
            positive("factor", *factor)?;
            positive("original_max_position_embeddings", *original_max_positions as f64)?;
            positive("beta_fast", *beta_fast)?;
            positive("beta_slow", *beta_slow)?;
            positive("attention_factor", *attention_factor)
        }
    }
}

/// The frequencies as transformers 5 has them in `rope_parameters`.
pub(super) fn parameters_json(rope: &Rope) -> Value {
    let mut parameters = scaling_json(&rope.scaling).unwrap_or_else(|| json!({"rope_type": "default"}));
    parameters["rope_theta"] = json!(rope.theta);
    parameters
}

/// The scaling as transformers 4 has it in `rope_scaling`; nothing where there is none.
pub(super) fn scaling_json(scaling: &RopeScaling) -> Option<Value> {
    match scaling {
        RopeScaling::Default | RopeScaling::Absent => None,
        RopeScaling::Linear { factor, original_max_positions } => {
            let mut scaling = json!({"rope_type": "linear", "factor": factor});
            if let Some(original) = original_max_positions {
                scaling["original_max_position_embeddings"] = json!(original);
            }
            Some(scaling)
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
            Some(json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_positions,
            }))
        }
        RopeScaling::Yarn {
            factor,
            original_max_positions,
            beta_fast,
            beta_slow,
            attention_factor,
            truncate,
        } => Some(json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original_max_positions,
            "beta_fast": beta_fast,
            "beta_slow": beta_slow,
            "attention_factor": attention_factor,
            "truncate": truncate,
        })),
    }
}
