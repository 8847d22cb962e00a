//! Qwen3-MoE: a Qwen3 with experts in the place of the feed-forward part of all layers or some.

use serde_json::{Value, json};

use super::qwen::qwen3;
use super::windows::{FULL, SLIDING, layer_types, window};
use super::{Defaults, Family, read_common, require_activation};
use crate::KernelError;
use crate::activation::Activation;
use crate::model::config::DecoderConfig;
use crate::model::keys::Keys;
use crate::model::spec::{ExpertsSpec, ModelSpec};

/// `qwen3_moe`.
pub static QWEN3_MOE: Family = Family {
    model_type: "qwen3_moe",
    architecture: "Qwen3MoeForCausalLM",
    read,
    write,
    supports: |spec| spec.experts.is_some() && *spec == as_written(spec),
    tensor_names: &[],
    positions_are_stretched: false,
};

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, KernelError> {
    require_activation(keys, "hidden_act", Activation::Silu)?;
    let mut config = read_common(keys, &QWEN3_MOE, &Defaults { switches_windows: true, ..Defaults::MOST })?;
    let is_on = keys.flag("use_sliding_window")?.unwrap_or(false);
    let window = window(keys, Some(4096))?.filter(|_| is_on);
    // transformers gives all layers of this family the window, whatever the key says.
    if layer_types(keys, config.layers)?.iter().flatten().any(|slides| *slides != window.is_some()) {
        let kind = if window.is_some() { SLIDING } else { FULL };
        let reason = format!("has other entries than {kind:?}, which `use_sliding_window` makes all layers");
        return Err(keys.wrong("layer_types", reason));
    }
    config.spec.attention[0].window = window;
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let experts = ExpertsSpec {
        count: count(keys)?,
        chosen: keys.required_size("num_experts_per_tok")?,
        intermediate: keys.required_size("moe_intermediate_size")?,
        normalised: keys.flag("norm_topk_prob")?.unwrap_or(false),
        layers: layers_with_experts(keys, config.layers)?,
    };
    let spec = ModelSpec { experts: Some(experts), ..qwen3(config.spec, bias) };
    Ok(DecoderConfig { spec, ..config })
}

/// How many experts a layer has: transformers 5 writes another key than the published files have.
fn count(keys: &Keys<'_>) -> Result<usize, KernelError> {
    let (own, renamed) = (keys.size("num_experts")?, keys.size("num_local_experts")?);
    match (own, renamed) {
        (Some(own), Some(renamed)) if own != renamed => {
            let reason = format!("is {renamed}, but `num_experts` is {own}");
            Err(keys.wrong("num_local_experts", reason))
        }
        _ => keys.required("num_experts", own.or(renamed)),
    }
}

/// Every `decoder_sparse_step`th layer, but for those in `mlp_only_layers`.
fn layers_with_experts(keys: &Keys<'_>, layers: usize) -> Result<Vec<bool>, KernelError> {
    let step = keys.size("decoder_sparse_step")?.unwrap_or(1);
    if step == 0 {
        return Err(keys.wrong("decoder_sparse_step", "is 0; it must be above 0"));
    }
    let mut with: Vec<bool> = (1..=layers).map(|layer| layer.is_multiple_of(step)).collect();
    if let Some(dense) = keys.get("mlp_only_layers") {
        let wrong = || keys.wrong("mlp_only_layers", format!("is {dense}; it must be a list of layers"));
        for layer in dense.as_array().ok_or_else(wrong)? {
            let layer = layer.as_u64().and_then(|layer| usize::try_from(layer).ok()).ok_or_else(wrong)?;
            // transformers does not look at layers that there are not.
            if let Some(with) = with.get_mut(layer) {
                *with = false;
            }
        }
    }
    Ok(with)
}

fn write(config: &DecoderConfig, value: &mut Value) {
    let spec = &config.spec;
    value["attention_bias"] = json!(spec.block.qkv_bias);
    let window = spec.attention[0].window;
    value["use_sliding_window"] = json!(window.is_some());
    value["sliding_window"] = json!(window);
    let experts = spec.experts.as_ref().expect("a config of the family was checked");
    value["num_experts"] = json!(experts.count);
    value["num_local_experts"] = json!(experts.count);
    value["num_experts_per_tok"] = json!(experts.chosen);
    value["moe_intermediate_size"] = json!(experts.intermediate);
    value["norm_topk_prob"] = json!(experts.normalised);
    value["decoder_sparse_step"] = json!(1);
    let dense = (0..config.layers).filter(|layer| spec.experts_of(*layer).is_none());
    value["mlp_only_layers"] = json!(dense.collect::<Vec<_>>());
}

/// The spec of the family with what a file says of it.
fn as_written(spec: &ModelSpec) -> ModelSpec {
    let llama = ModelSpec::llama(spec.final_norm.eps, spec.attention[0].rope.clone());
    let mut own = ModelSpec { experts: spec.experts.clone(), ..qwen3(llama, spec.block.qkv_bias) };
    own.attention[0].window = spec.attention[0].window;
    own
}
