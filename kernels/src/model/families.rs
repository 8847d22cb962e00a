//! The families of decoders: each maps `config.json` and the names of tensors to a [`ModelSpec`], and back.
//!
//! A family is data, in a file of its own. What many have in common in their config files is read here.

use std::fmt;

use serde_json::Value;

use super::config::DecoderConfig;
use super::keys::Keys;
use super::rotary;
use super::spec::ModelSpec;
use crate::KernelError;
use crate::activation::Activation;

pub mod gemma;
pub mod llama;
pub mod qwen;

/// All families that are found by `model_type`.
pub static ALL: [&Family; 5] = [&llama::LLAMA, &llama::MISTRAL, &qwen::QWEN2, &qwen::QWEN3, &gemma::GEMMA3];

/// A family of decoders that share a layout of files.
pub struct Family {
    /// The word for it in `model_type`.
    pub model_type: &'static str,
    /// The class of it in `architectures`.
    pub architecture: &'static str,
    /// Reads a config whose `model_type` and `architectures` have been looked at; [`read_common`] does most of it.
    pub read: fn(&Keys<'_>) -> Result<DecoderConfig, KernelError>,
    /// Adds to the keys that all families write what this one has beside them, in its place or otherwise.
    pub write: fn(&DecoderConfig, &mut Value),
    /// Whether a config file of the family can say this.
    pub supports: fn(&ModelSpec) -> bool,
    /// Names of tensors inside a block that differ from those of [`crate::Block::for_each`]: ours and the file's.
    pub tensor_names: &'static [(&'static str, &'static str)],
    /// Whether `max_position_embeddings` is what a rotary scaling has stretched already.
    pub positions_are_stretched: bool,
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type)
    }
}

impl PartialEq for Family {
    fn eq(&self, other: &Self) -> bool {
        self.model_type == other.model_type
    }
}

impl Family {
    /// The name in files of a parameter, which [`crate::Weights::for_each`] names.
    #[must_use]
    pub fn file_name(&self, name: &str) -> String {
        for (own, in_files) in self.tensor_names {
            if let Some(block) = name.strip_suffix(own).filter(|block| block.ends_with('.')) {
                return format!("{block}{in_files}");
            }
        }
        name.to_owned()
    }

    /// The family of a config among some, after a look at its class.
    pub(super) fn of(keys: &Keys<'_>, families: &[&'static Family]) -> Result<&'static Family, KernelError> {
        let supported: Vec<&str> = families.iter().map(|family| family.model_type).collect();
        let model_type = keys.required("model_type", keys.text("model_type")?)?;
        let family = families.iter().find(|family| family.model_type == model_type).ok_or_else(|| {
            let supported = supported.join(", ");
            let reason = format!("is {model_type:?}; the supported architectures are {supported}");
            keys.wrong("model_type", reason)
        })?;
        // A classifier or an encoder of the same family has other tensors behind the last norm.
        if let Some(architectures) = keys.get("architectures") {
            let fits = architectures.as_array().is_some_and(|list| {
                list.is_empty() || list.iter().any(|name| name.as_str() == Some(family.architecture))
            });
            if !fits {
                let expected = family.architecture;
                return Err(keys.wrong(
                    "architectures",
                    format!("is {architectures}; for model_type {model_type} only {expected} is supported"),
                ));
            }
        }
        Ok(family)
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
}

impl Defaults {
    /// Of most families.
    pub const MOST: Self =
        Self { head_width: None, kv_heads_are_heads: false, tied: false, eos: None, bos: None };
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
    refuse_other_computations(keys)?;
    let heads = keys.required_size("num_attention_heads")?;
    let hidden = keys.required_size("hidden_size")?;
    let stated = keys.required_size("max_position_embeddings")?;
    let rope = rotary::rope(keys, stated)?;
    let eps = keys.number("rms_norm_eps")?.unwrap_or(1e-6);
    Ok(DecoderConfig {
        family,
        hidden,
        layers: keys.required_size("num_hidden_layers")?,
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
fn refuse_other_computations(keys: &Keys<'_>) -> Result<(), KernelError> {
    for key in ["mlp_bias", "use_sliding_window"] {
        if keys.flag(key)?.unwrap_or(false) {
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
