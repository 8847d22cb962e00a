//! Qwen2, with biases on query, key and value, and Qwen3, with norms over query and key heads.

use serde_json::{Value, json};

use super::{Defaults, Family, read_common, require_activation, require_full_attention};
use crate::KernelError;
use crate::activation::Activation;
use crate::model::config::DecoderConfig;
use crate::model::keys::Keys;
use crate::model::spec::{ModelSpec, NormSpec};

/// `qwen2`.
pub static QWEN2: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    read: read_qwen2,
    write: |_, value| value["use_sliding_window"] = json!(false),
    supports: |spec| *spec == qwen2(llama(spec)),
    tensor_names: &[],
    positions_are_stretched: false,
};

/// `qwen3`.
pub static QWEN3: Family = Family {
    model_type: "qwen3",
    architecture: "Qwen3ForCausalLM",
    read: read_qwen3,
    write: write_qwen3,
    supports: |spec| *spec == qwen3(llama(spec), spec.block.qkv_bias),
    tensor_names: &[],
    positions_are_stretched: false,
};

fn read_qwen2(keys: &Keys<'_>) -> Result<DecoderConfig, KernelError> {
    require_activation(keys, "hidden_act", Activation::Silu)?;
    require_full_attention(keys)?;
    let config = read_common(keys, &QWEN2, &Defaults::MOST)?;
    // The layout decides, whatever `attention_bias` says.
    Ok(DecoderConfig { spec: qwen2(config.spec), ..config })
}

fn read_qwen3(keys: &Keys<'_>) -> Result<DecoderConfig, KernelError> {
    require_activation(keys, "hidden_act", Activation::Silu)?;
    require_full_attention(keys)?;
    let config = read_common(keys, &QWEN3, &Defaults { head_width: Some(128), ..Defaults::MOST })?;
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    Ok(DecoderConfig { spec: qwen3(config.spec, bias), ..config })
}

fn write_qwen3(config: &DecoderConfig, value: &mut Value) {
    value["attention_bias"] = json!(config.spec.block.qkv_bias);
    value["use_sliding_window"] = json!(false);
}

/// A Llama with the epsilon and the frequencies of a spec.
fn llama(spec: &ModelSpec) -> ModelSpec {
    ModelSpec::llama(spec.final_norm.eps, spec.attention[0].rope.clone())
}

/// Makes a Qwen2 of a Llama.
pub(crate) fn qwen2(mut spec: ModelSpec) -> ModelSpec {
    spec.block.qkv_bias = true;
    spec
}

/// Makes a Qwen3 of a Llama, with biases in attention or not.
pub(crate) fn qwen3(mut spec: ModelSpec, bias: bool) -> ModelSpec {
    spec.block.query_key_norm = Some(NormSpec::rms(spec.final_norm.eps));
    (spec.block.qkv_bias, spec.block.output_bias) = (bias, bias);
    spec
}
