//! Qwen2, with biases on query, key and value, and Qwen3, with norms over query and key heads; both with a window in the
//! last layers where their files switch it on.

use serde_json::{Value, json};

use super::windows::{one_window_and_rope, switched_windows, with_windows, write_switched};
use super::{Defaults, Family, read_common, require_activation};
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
    write: write_switched,
    supports: |spec| one_window_and_rope(spec) && *spec == qwen2(llama(spec)),
    tensor_names: &[],
    positions_are_stretched: false,
};

/// `qwen3`.
pub static QWEN3: Family = Family {
    model_type: "qwen3",
    architecture: "Qwen3ForCausalLM",
    read: read_qwen3,
    write: write_qwen3,
    supports: |spec| one_window_and_rope(spec) && *spec == qwen3(llama(spec), spec.block.qkv_bias),
    tensor_names: &[],
    positions_are_stretched: false,
};

const DEFAULTS: Defaults = Defaults { switches_windows: true, ..Defaults::MOST };

fn read_qwen2(keys: &Keys<'_>) -> Result<DecoderConfig, KernelError> {
    let config = read_windows(keys, &QWEN2, &DEFAULTS)?;
    // The layout decides, whatever `attention_bias` says.
    Ok(DecoderConfig { spec: qwen2(config.spec), ..config })
}

fn read_qwen3(keys: &Keys<'_>) -> Result<DecoderConfig, KernelError> {
    let config = read_windows(keys, &QWEN3, &Defaults { head_width: Some(128), ..DEFAULTS })?;
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    Ok(DecoderConfig { spec: qwen3(config.spec, bias), ..config })
}

/// A Llama with the windows of these families.
fn read_windows(
    keys: &Keys<'_>,
    family: &'static Family,
    defaults: &Defaults,
) -> Result<DecoderConfig, KernelError> {
    require_activation(keys, "hidden_act", Activation::Silu)?;
    let mut config = read_common(keys, family, defaults)?;
    let first = keys.size("max_window_layers")?.unwrap_or(28);
    let windows = switched_windows(keys, config.layers, Some(4096), |layer| layer >= first)?;
    config.spec.attention = with_windows(&config.spec.attention[0].rope, windows);
    Ok(config)
}

fn write_qwen3(config: &DecoderConfig, value: &mut Value) {
    value["attention_bias"] = json!(config.spec.block.qkv_bias);
    write_switched(config, value);
}

/// A Llama with the epsilon and the attention of a spec.
fn llama(spec: &ModelSpec) -> ModelSpec {
    let llama = ModelSpec::llama(spec.final_norm.eps, spec.rope().clone());
    ModelSpec { attention: spec.attention.clone(), ..llama }
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
