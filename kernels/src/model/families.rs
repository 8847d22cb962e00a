//! The families of decoders: each maps `config.json` and the names of tensors to a [`ModelSpec`], and back.
//!
//! A family is data, in a file of its own. What many have in common in their config files is read here.

use std::path::Path;

use serde_json::Value;

pub use super::config::Family;
use super::config::{DecoderConfig, LAYERS_MAX, LlamaShape};
use super::keys::Keys;
use super::rotary;
use super::spec::ModelSpec;
use crate::KernelError;
use crate::activation::Activation;
use crate::rope::{Rope, RopeScaling};

#[cfg(test)]
mod tests;
mod windows;
pub mod gemma;
pub mod granite;
pub mod llama;
pub mod qwen;
pub mod qwen3_moe;
pub mod smollm3;

/// All families that are found by `model_type`.
pub static ALL: [&Family; 8] = [
    &llama::LLAMA,
    &llama::MISTRAL,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &gemma::GEMMA3,
    &smollm3::SMOLLM3,
    &granite::GRANITE,
    &qwen3_moe::QWEN3_MOE,
];

impl DecoderConfig {
    /// A decoder of Llama with tied embeddings and no ids of its own, of this shape.
    #[must_use]
    pub fn llama(shape: LlamaShape) -> Self {
        let LlamaShape { hidden, layers, heads, kv_heads, intermediate, vocabulary, .. } = shape;
        let rope = Rope { theta: shape.rope_theta, scaling: RopeScaling::Default };
        Self {
            family: &llama::LLAMA,
            hidden,
            layers,
            heads,
            kv_heads,
            head_width: hidden / heads,
            intermediate,
            vocabulary,
            tied: true,
            spec: ModelSpec::llama(shape.rms_eps, rope),
            max_positions: shape.positions,
            stated_positions: shape.positions,
            initializer_range: 0.02,
            eos_ids: Vec::new(),
            bos_id: None,
            padding_id: None,
        }
    }

    /// Reads `config.json` of a Hugging Face directory.
    ///
    /// # Errors
    /// A file that cannot be read, is not a JSON object, lacks a key, or asks for something that this
    /// crate does not compute; the error names file and key.
    pub fn read(dir: &Path) -> Result<Self, KernelError> {
        Self::read_as(dir, &ALL)
    }

    /// Reads the content of a `config.json`; `path` is named in errors.
    ///
    /// # Errors
    /// Those of [`DecoderConfig::read`] but for reading itself.
    pub fn from_json(path: &Path, value: &Value) -> Result<Self, KernelError> {
        Self::of_family(path, value, &ALL)
    }
}

/// What keys mean where they are absent: the class defaults of transformers, as far as checkpoints rely on them.
pub struct Defaults {
    /// `head_dim`; `None` stands for `hidden_size / num_attention_heads`.
    pub head_width: Option<usize>,
    /// Whether there are as many key heads as query heads; without it `num_key_value_heads` must be there, because
    /// no checkpoint relies on the class default, and a guess would be a wrong model.
    pub kv_heads_are_heads: bool,
    /// `tie_word_embeddings`.
    pub tied: bool,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `rope_theta`.
    pub theta: f64,
    /// Whether the family reads `use_sliding_window`, which is refused in others.
    pub switches_windows: bool,
}

impl Defaults {
    /// Of most families.
    pub const MOST: Self = Self {
        head_width: None,
        kv_heads_are_heads: false,
        tied: false,
        eos: None,
        bos: None,
        theta: 10_000.0,
        switches_windows: false,
    };
}

/// Reads what most config files have: sizes, one kind of frequencies and ids, for blocks of Llama. A family changes
/// the spec of what it gets.
///
/// # Errors
/// If a key is missing, of another type, or asks for something that no family computes.
pub fn read_common(
    keys: &Keys<'_>,
    family: &'static Family,
    defaults: &Defaults,
) -> Result<DecoderConfig, KernelError> {
    refuse_other_computations(keys, defaults)?;
    let heads = keys.required_size("num_attention_heads")?;
    let hidden = keys.required_size("hidden_size")?;
    let stated = keys.required_size("max_position_embeddings")?;
    let rope = rotary::rope(keys, stated, defaults.theta)?;
    let eps = keys.number("rms_norm_eps")?.unwrap_or(1e-6);
    Ok(DecoderConfig {
        family,
        hidden,
        layers: layers(keys)?,
        heads,
        kv_heads: kv_heads(keys, defaults, heads)?,
        head_width: head_width(keys, defaults, hidden, heads)?,
        intermediate: keys.required_size("intermediate_size")?,
        vocabulary: keys.required_size("vocab_size")?,
        tied: keys.flag("tie_word_embeddings")?.unwrap_or(defaults.tied),
        max_positions: rope.positions(stated),
        stated_positions: stated,
        spec: ModelSpec::llama(eps, rope),
        initializer_range: keys.number("initializer_range")?.unwrap_or(0.02),
        eos_ids: eos_ids(keys, defaults)?,
        bos_id: bos_id(keys, defaults)?,
        padding_id: keys.get("pad_token_id").and_then(Value::as_i64),
    })
}

/// Refuses another activation under one of the keys for it.
///
/// # Errors
/// If the key asks for another one.
pub fn require_activation(keys: &Keys<'_>, key: &str, computed: Activation) -> Result<(), KernelError> {
    let word = computed.word();
    match keys.text(key)? {
        Some(other) if other != word => {
            Err(keys.wrong(key, format!("is {other:?}; only {word:?} is computed")))
        }
        _ => Ok(()),
    }
}

/// Refuses attention that differs between layers, in families whose files are read without.
///
/// # Errors
/// If `layer_types` names anything else.
pub fn require_full_attention(keys: &Keys<'_>) -> Result<(), KernelError> {
    if let Some(types) = keys.get("layer_types") {
        let whole = types.as_array().is_some_and(|list| list.iter().all(|each| each == "full_attention"));
        if !whole {
            return Err(keys.wrong(
                "layer_types",
                "has other entries than \"full_attention\", the one that this family computes",
            ));
        }
    }
    Ok(())
}

/// Refuses keys under which transformers would compute something that no family does here.
fn refuse_other_computations(keys: &Keys<'_>, defaults: &Defaults) -> Result<(), KernelError> {
    for key in ["mlp_bias", "use_sliding_window"] {
        let is_read = key == "use_sliding_window" && defaults.switches_windows;
        if !is_read && keys.flag(key)?.unwrap_or(false) {
            return Err(keys.wrong(key, "is true; only false is computed"));
        }
    }
    if keys.number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
        return Err(keys.wrong("partial_rotary_factor", "is not 1; only whole heads are rotated"));
    }
    if keys.get("quantization_config").is_some() {
        return Err(keys.wrong("quantization_config", "is set; only F32, BF16 and F16 weights are read"));
    }
    Ok(())
}

/// How many layers there are: families make a list of them before a config is checked as a whole.
fn layers(keys: &Keys<'_>) -> Result<usize, KernelError> {
    let layers = keys.required_size("num_hidden_layers")?;
    if layers > LAYERS_MAX {
        let reason = format!("is {layers}; at most {LAYERS_MAX} are computed");
        return Err(keys.wrong("num_hidden_layers", reason));
    }
    Ok(layers)
}

fn kv_heads(keys: &Keys<'_>, defaults: &Defaults, heads: usize) -> Result<usize, KernelError> {
    if let Some(kv_heads) = keys.size("num_key_value_heads")? {
        return Ok(kv_heads);
    }
    if defaults.kv_heads_are_heads || keys.map.contains_key("num_key_value_heads") {
        return Ok(heads);
    }
    Err(keys.wrong("num_key_value_heads", "is missing"))
}

fn head_width(
    keys: &Keys<'_>,
    defaults: &Defaults,
    hidden: usize,
    heads: usize,
) -> Result<usize, KernelError> {
    if let Some(width) = keys.size("head_dim")?.or(defaults.head_width) {
        return Ok(width);
    }
    if heads == 0 || !hidden.is_multiple_of(heads) {
        return Err(keys.wrong(
            "hidden_size",
            format!("{hidden} is no multiple of `num_attention_heads` {heads}, and `head_dim` is missing"),
        ));
    }
    Ok(hidden / heads)
}

fn token_id(keys: &Keys<'_>, key: &str, value: &Value) -> Result<u32, KernelError> {
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| keys.wrong(key, format!("has {value}, which is no token id")))
}

fn eos_ids(keys: &Keys<'_>, defaults: &Defaults) -> Result<Vec<u32>, KernelError> {
    const KEY: &str = "eos_token_id";
    match keys.map.get(KEY) {
        None => Ok(defaults.eos.into_iter().collect()),
        Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(list)) => {
            list.iter().filter(|id| !is_nobodys(id)).map(|value| token_id(keys, KEY, value)).collect()
        }
        Some(value) if is_nobodys(value) => Ok(Vec::new()),
        Some(value) => Ok(vec![token_id(keys, KEY, value)?]),
    }
}

/// Whether an id is below 0, as old files write what there is none of.
fn is_nobodys(id: &Value) -> bool {
    id.as_i64().is_some_and(|id| id < 0)
}

fn bos_id(keys: &Keys<'_>, defaults: &Defaults) -> Result<Option<u32>, KernelError> {
    const KEY: &str = "bos_token_id";
    match keys.map.get(KEY) {
        None => Ok(defaults.bos),
        Some(Value::Null) => Ok(None),
        Some(value) if is_nobodys(value) => Ok(None),
        Some(value) => token_id(keys, KEY, value).map(Some),
    }
}
