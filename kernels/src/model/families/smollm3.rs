//! SmolLM3: a Llama in which some layers, every fourth one as a rule, do not rotate queries and keys.

use serde_json::{Value, json};

use super::llama::biased;
use super::windows::{one_window, switched_windows, variants, write_switched};
use super::{Defaults, Family, read_common, require_activation};
use crate::KernelError;
use crate::activation::Activation;
use crate::model::config::DecoderConfig;
use crate::model::keys::Keys;
use crate::model::spec::{AttentionVariant, ModelSpec};
use crate::rope::{Rope, RopeScaling};

/// `smollm3`.
pub static SMOLLM3: Family = Family {
    model_type: "smollm3",
    architecture: "SmolLM3ForCausalLM",
    read,
    write,
    supports: |spec| one_window(spec) && *spec == with_attention_of(spec),
    tensor_names: &[],
    positions_are_stretched: false,
};

const DEFAULTS: Defaults = Defaults {
    tied: true,
    eos: Some(128_001),
    bos: Some(128_000),
    theta: 2e6,
    switches_windows: true,
    ..Defaults::MOST
};

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, KernelError> {
    require_activation(keys, "hidden_act", Activation::Silu)?;
    let mut config = read_common(keys, &SMOLLM3, &DEFAULTS)?;
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    (config.spec.block.qkv_bias, config.spec.block.output_bias) = (bias, bias);
    let rotates = rotating_layers(keys, config.layers)?;
    let windows = switched_windows(keys, config.layers, None, |layer| !rotates[layer])?;
    let rope = &config.spec.attention[0].rope;
    let layers = windows.into_iter().zip(rotates);
    config.spec.attention = variants(layers.map(|(window, rotates)| variant(window, rotates, rope)));
    Ok(config)
}

/// Attention of a layer.
pub(crate) fn variant(window: Option<usize>, rotates: bool, rope: &Rope) -> AttentionVariant {
    let absent = || Rope { scaling: RopeScaling::Absent, ..rope.clone() };
    AttentionVariant { window, rope: if rotates { rope.clone() } else { absent() } }
}

/// Whether each layer rotates. In `no_rope_layers` a 1 is a layer that does.
fn rotating_layers(keys: &Keys<'_>, layers: usize) -> Result<Vec<bool>, KernelError> {
    let Some(list) = keys.get("no_rope_layers") else {
        let interval = keys.size("no_rope_layer_interval")?.unwrap_or(4);
        if interval == 0 {
            return Err(keys.wrong("no_rope_layer_interval", "is 0; it must be above 0"));
        }
        return Ok((1..=layers).map(|layer| !layer.is_multiple_of(interval)).collect());
    };
    let list = list.as_array().filter(|list| list.len() >= layers).ok_or_else(|| {
        keys.wrong("no_rope_layers", format!("is no list of `num_hidden_layers` {layers} entries"))
    })?;
    let rotates = |entry: &Value| match entry.as_u64() {
        Some(0) => Ok(false),
        Some(1) => Ok(true),
        _ => Err(keys.wrong("no_rope_layers", format!("has {entry}; its entries are 0 and 1"))),
    };
    list[..layers].iter().map(rotates).collect()
}

fn write(config: &DecoderConfig, value: &mut Value) {
    value["attention_bias"] = json!(config.spec.block.qkv_bias);
    value["mlp_bias"] = json!(false);
    write_switched(config, value);
    let rotates = |layer| config.spec.attention_of(layer).rope.scaling != RopeScaling::Absent;
    let layers: Vec<u8> = (0..config.layers).map(|layer| u8::from(rotates(layer))).collect();
    value["no_rope_layers"] = json!(layers);
}

/// The spec of the family with the same attention.
fn with_attention_of(spec: &ModelSpec) -> ModelSpec {
    ModelSpec { attention: spec.attention.clone(), ..biased(spec, spec.block.qkv_bias) }
}
