//! Llama 1 to 3, SmolLM and all that share the layout; and Mistral without a sliding window.

use serde_json::{Value, json};

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

/// `mistral` without a sliding window.
pub static MISTRAL: Family = Family {
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    read: read_mistral,
    write: |_, value| value["sliding_window"] = Value::Null,
    supports: |spec| *spec == biased(spec, false),
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
    require_full_attention(keys)?;
    // transformers gives a Mistral without the key a window of 4096, so only a written null is safe.
    if keys.map.get("sliding_window") != Some(&Value::Null) {
        return Err(keys.wrong("sliding_window", "is not null; this family is computed without a window"));
    }
    read_common(keys, &MISTRAL, &DEFAULTS)
}

/// A Llama with the epsilon and the frequencies of a spec, and biases in attention or not.
fn biased(spec: &ModelSpec, bias: bool) -> ModelSpec {
    let mut llama = ModelSpec::llama(spec.final_norm.eps, spec.attention[0].rope.clone());
    (llama.block.qkv_bias, llama.block.output_bias) = (bias, bias);
    llama
}
