//! Gemma 3, text only: norms around both halves of a block with gains of 1 plus the weight, a GELU gate, a scaled
//! embedding, and layers with a window that have rotary frequencies of their own.

use serde_json::{Map, Value, json};

use super::windows::{FULL, SLIDING, layer_types};
use super::{Defaults, Family, read_common, require_activation};
use crate::KernelError;
use crate::activation::Activation;
use crate::model::config::DecoderConfig;
use crate::model::keys::Keys;
use crate::model::rotary;
use crate::model::spec::{AttentionVariant, BlockSpec, FeedForward, ModelSpec, NormSpec};
use crate::rope::Rope;

/// `gemma3_text`.
pub static GEMMA3: Family = Family {
    model_type: "gemma3_text",
    architecture: "Gemma3ForCausalLM",
    read,
    write,
    supports,
    tensor_names: &[
        ("attention_output_norm.weight", "post_attention_layernorm.weight"),
        ("post_attention_layernorm.weight", "pre_feedforward_layernorm.weight"),
        ("feed_forward_output_norm.weight", "post_feedforward_layernorm.weight"),
    ],
    positions_are_stretched: true,
};

const DEFAULTS: Defaults =
    Defaults { head_width: Some(256), tied: true, eos: Some(1), bos: Some(2), ..Defaults::MOST };

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, KernelError> {
    require_activation(keys, "hidden_activation", Activation::GeluTanh)?;
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if keys.get(key).is_some() {
            return Err(keys.wrong(key, "is set; only null is computed"));
        }
    }
    if keys.flag("use_bidirectional_attention")?.unwrap_or(false) {
        return Err(keys.wrong("use_bidirectional_attention", "is true; only false is computed"));
    }
    // Frequencies are read below: there are two sets of them.
    let mut map = keys.map.clone();
    map.retain(|key, _| !matches!(key.as_str(), "rope_parameters" | "rope_scaling"));
    let config = read_common(&Keys { map: &map, ..*keys }, &GEMMA3, &DEFAULTS)?;
    let scalar = keys.number("query_pre_attn_scalar")?.unwrap_or(256.0);
    if !(scalar.is_finite() && scalar > 0.0) {
        return Err(keys.wrong("query_pre_attn_scalar", format!("is {scalar}; it must be above 0")));
    }
    let window = keys.size("sliding_window")?.unwrap_or(4096);
    if window == 0 {
        return Err(keys.wrong("sliding_window", "is 0; a token sees itself"));
    }
    let [full, sliding] = ropes(keys, config.stated_positions)?;
    let attention = layer_kinds(keys, config.layers)?.into_iter().map(|slides| match slides {
        true => AttentionVariant { window: Some(window), rope: sliding.clone() },
        false => AttentionVariant { window: None, rope: full.clone() },
    });
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    let block = block(config.spec.final_norm.eps, bias, Some(1.0 / scalar.sqrt()));
    let spec = spec(block, config.hidden, attention.collect());
    Ok(DecoderConfig { spec, max_positions: config.stated_positions, ..config })
}

/// A block with one epsilon for all norms.
pub(crate) fn block(eps: f64, bias: bool, attention_scale: Option<f64>) -> BlockSpec {
    let norm = NormSpec { eps, offset: 1.0 };
    BlockSpec {
        input_norm: norm,
        query_key_norm: Some(norm),
        qkv_bias: bias,
        output_bias: bias,
        attention_scale,
        attention_output_norm: Some(norm),
        feed_forward_norm: norm,
        feed_forward: FeedForward::Gated(Activation::GeluTanh),
        feed_forward_output_norm: Some(norm),
        residual_scale: None,
    }
}

/// A model of these blocks.
pub(crate) fn spec(block: BlockSpec, hidden: usize, attention: Vec<AttentionVariant>) -> ModelSpec {
    let embedding_scale = Some((hidden as f64).sqrt() as f32);
    ModelSpec {
        embedding_scale,
        final_norm: block.input_norm,
        block,
        experts: None,
        attention,
        logits_divisor: None,
    }
}

/// Whether the layers have a window, in their order.
fn layer_kinds(keys: &Keys<'_>, layers: usize) -> Result<Vec<bool>, KernelError> {
    if let Some(types) = layer_types(keys, layers)? {
        return Ok(types);
    }
    let pattern = keys.size("sliding_window_pattern")?.unwrap_or(6).max(1);
    Ok((1..=layers).map(|layer| !layer.is_multiple_of(pattern)).collect())
}

/// The frequencies of full attention and of attention with a window, in the dialects of transformers 4 and 5.
fn ropes(keys: &Keys<'_>, positions: usize) -> Result<[Rope; 2], KernelError> {
    let mut map = keys.map.clone();
    let nested = keys.get("rope_parameters").and_then(Value::as_object);
    let mut of_kind = |kind: &str, theta_key: &str, theta: f64| {
        let inner = nested.and_then(|nested| nested.get(kind)).and_then(Value::as_object).cloned();
        let is_full = kind == FULL;
        let mut inner = inner.unwrap_or_default();
        // Version 4 scales full attention alone, and states both bases beside it.
        if let Some(scaling) = keys.get("rope_scaling").and_then(Value::as_object).filter(|_| is_full) {
            inner.extend(scaling.clone());
        }
        let theta = keys.number(theta_key)?.unwrap_or(theta);
        inner.entry("rope_theta").or_insert_with(|| json!(theta));
        map.insert("rope_parameters".to_owned(), Value::Object(inner));
        map.remove("rope_scaling");
        rotary::rope(&Keys { map: &map, ..*keys }, positions, theta)
    };
    Ok([of_kind(FULL, "rope_theta", 1e6)?, of_kind(SLIDING, "rope_local_base_freq", 1e4)?])
}

fn write(config: &DecoderConfig, value: &mut Value) {
    let kinds = (0..config.layers).map(|layer| config.spec.attention_of(layer));
    let (mut full, mut sliding) = (None, None);
    let mut types = Vec::new();
    for AttentionVariant { window, rope } in kinds {
        types.push(if window.is_some() { SLIDING } else { FULL });
        if let Some(window) = window {
            sliding = Some(rope);
            value["sliding_window"] = json!(window);
        } else {
            full = Some(rope);
        }
    }
    let parameters = |rope: Option<&Rope>| rope.map(rotary::parameters_json);
    value["rope_theta"] = json!(full.map(|rope| rope.theta));
    value["rope_local_base_freq"] = json!(sliding.map(|rope| rope.theta));
    value["rope_scaling"] = json!(full.and_then(|rope| rotary::scaling_json(&rope.scaling)));
    let kinds = [(FULL, parameters(full)), (SLIDING, parameters(sliding))];
    let parameters = kinds.into_iter().filter_map(|(kind, rope)| Some((kind.to_owned(), rope?)));
    value["rope_parameters"] = Value::Object(parameters.collect::<Map<_, _>>());
    value["layer_types"] = json!(types);
    value["attention_bias"] = json!(config.spec.block.qkv_bias);
    value["query_pre_attn_scalar"] = config.spec.block.attention_scale.map_or(Value::Null, scalar_of);
    value["hidden_activation"] = json!(Activation::GeluTanh.word());
    if let Some(map) = value.as_object_mut() {
        map.remove("hidden_act");
    }
}

/// The number whose inverse root is a scale: transformers takes whole ones only as such.
fn scalar_of(scale: f64) -> Value {
    // The square of an inverse root is off by its roundings; no file has more than nine digits behind the point.
    let scalar = (1e9 / (scale * scale)).round() / 1e9;
    if scalar.fract() == 0.0 { json!(scalar as u64) } else { json!(scalar) }
}

fn supports(found: &ModelSpec) -> bool {
    let block = block(found.final_norm.eps, found.block.qkv_bias, found.block.attention_scale);
    let kinds = [true, false].map(|slides| {
        let mut own = found.attention.iter().filter(|variant| variant.window.is_some() == slides);
        let first = own.next();
        own.all(|variant| Some(variant) == first)
    });
    let scaled = found.embedding_scale.is_some() && found.block.attention_scale.is_some();
    scaled && kinds == [true, true] && found.block == block && found.final_norm == block.input_norm
}
