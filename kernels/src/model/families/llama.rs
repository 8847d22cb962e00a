//! Llama 1 to 3, SmolLM 1 and 2 and all that share the layout; and Mistral, with one window for all layers or none.

use serde_json::{Value, json};

use super::windows::{FULL, SLIDING, layer_types, window};
use super::{Defaults, Family, read_common, require_activation, require_full_attention};
use crate::KernelError;
use crate::activation::Activation;
use crate::model::config::DecoderConfig;
use crate::model::keys::Keys;
use crate::model::spec::ModelSpec;

/// `llama`.
pub static LLAMA: Family = Family {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    read,
    write,
    supports: |spec| *spec == biased(spec, spec.block.qkv_bias),
    tensor_names: &[],
    positions_are_stretched: false,
};

/// `mistral`.
pub static MISTRAL: Family = Family {
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    read: read_mistral,
    write: |config, value| value["sliding_window"] = json!(config.spec.attention[0].window),
    supports: |spec| *spec == mistral(biased(spec, false), spec.attention[0].window),
    tensor_names: &[],
    positions_are_stretched: false,
};

const DEFAULTS: Defaults = Defaults { eos: Some(2), bos: Some(1), ..Defaults::MOST };

/// Reads a Llama.
///
/// # Errors
/// As [`read_common`].
pub fn read(keys: &Keys<'_>) -> Result<DecoderConfig, KernelError> {
    require_activation(keys, "hidden_act", Activation::Silu)?;
    require_full_attention(keys)?;
    let mut config = read_common(keys, &LLAMA, &Defaults { kv_heads_are_heads: true, ..DEFAULTS })?;
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    (config.spec.block.qkv_bias, config.spec.block.output_bias) = (bias, bias);
    Ok(config)
}

/// Adds what only a Llama writes.
pub fn write(config: &DecoderConfig, value: &mut Value) {
    value["attention_bias"] = json!(config.spec.block.qkv_bias);
    value["mlp_bias"] = json!(false);
}

fn read_mistral(keys: &Keys<'_>) -> Result<DecoderConfig, KernelError> {
    require_activation(keys, "hidden_act", Activation::Silu)?;
    let config = read_common(keys, &MISTRAL, &DEFAULTS)?;
    let window = window(keys, Some(4096))?;
    // transformers ignores the key in this family.
    if layer_types(keys, config.layers)?.iter().flatten().any(|slides| *slides != window.is_some()) {
        let kind = if window.is_some() { SLIDING } else { FULL };
        let reason = format!("has other entries than {kind:?}, which `sliding_window` makes all layers");
        return Err(keys.wrong("layer_types", reason));
    }
    Ok(DecoderConfig { spec: mistral(config.spec, window), ..config })
}

/// Makes a Mistral of a Llama.
pub(crate) fn mistral(mut spec: ModelSpec, window: Option<usize>) -> ModelSpec {
    spec.attention[0].window = window;
    spec
}

/// A Llama with the epsilon and the frequencies of a spec, and biases in attention or not.
pub(super) fn biased(spec: &ModelSpec, bias: bool) -> ModelSpec {
    let mut llama = ModelSpec::llama(spec.final_norm.eps, spec.attention[0].rope.clone());
    (llama.block.qkv_bias, llama.block.output_bias) = (bias, bias);
    llama
}
