//! Granite 3: a Llama with four factors, on the embedding, attention's scores, what joins the residual stream, and logits.

use serde_json::{Value, json};

use super::llama::biased;
use super::{Defaults, Family, read_common, require_activation, require_full_attention};
use crate::KernelError;
use crate::activation::Activation;
use crate::model::config::DecoderConfig;
use crate::model::keys::Keys;
use crate::model::spec::ModelSpec;

/// `granite`.
pub static GRANITE: Family = Family {
    model_type: "granite",
    architecture: "GraniteForCausalLM",
    read,
    write,
    supports,
    tensor_names: &[],
    positions_are_stretched: false,
};

const DEFAULTS: Defaults =
    Defaults { kv_heads_are_heads: true, eos: Some(2), bos: Some(1), ..Defaults::MOST };

/// The four factors, with the names of `config.json`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Multipliers {
    pub(crate) embedding: f32,
    pub(crate) attention: f64,
    pub(crate) residual: f32,
    pub(crate) logits_scaling: f32,
}

fn read(keys: &Keys<'_>) -> Result<DecoderConfig, KernelError> {
    require_activation(keys, "hidden_act", Activation::Silu)?;
    require_full_attention(keys)?;
    let mut config = read_common(keys, &GRANITE, &DEFAULTS)?;
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    (config.spec.block.qkv_bias, config.spec.block.output_bias) = (bias, bias);
    let factor = |key: &str| {
        let factor = keys.number(key)?.unwrap_or(1.0);
        // Written as f32 it must still be a number above 0.
        let fits = factor as f32 > 0.0 && (factor as f32).is_finite();
        if fits { Ok(factor) } else { Err(keys.wrong(key, format!("is {factor}; it must be above 0"))) }
    };
    let multipliers = Multipliers {
        embedding: factor("embedding_multiplier")? as f32,
        attention: factor("attention_multiplier")?,
        residual: factor("residual_multiplier")? as f32,
        logits_scaling: factor("logits_scaling")? as f32,
    };
    Ok(DecoderConfig { spec: granite(config.spec, multipliers), ..config })
}

/// Makes a Granite of a Llama.
pub(crate) fn granite(mut spec: ModelSpec, multipliers: Multipliers) -> ModelSpec {
    let unless_one = |factor: f32| (factor != 1.0).then_some(factor);
    spec.embedding_scale = unless_one(multipliers.embedding);
    spec.block.attention_scale = Some(multipliers.attention);
    spec.block.residual_scale = unless_one(multipliers.residual);
    spec.logits_divisor = unless_one(multipliers.logits_scaling);
    spec
}

/// The factors of a spec; `None` where it is none of the family.
fn multipliers(spec: &ModelSpec) -> Option<Multipliers> {
    Some(Multipliers {
        embedding: spec.embedding_scale.unwrap_or(1.0),
        attention: spec.block.attention_scale?,
        residual: spec.block.residual_scale.unwrap_or(1.0),
        logits_scaling: spec.logits_divisor.unwrap_or(1.0),
    })
}

fn supports(spec: &ModelSpec) -> bool {
    let llama = biased(spec, spec.block.qkv_bias);
    multipliers(spec).is_some_and(|multipliers| *spec == granite(llama, multipliers))
}

fn write(config: &DecoderConfig, value: &mut Value) {
    value["attention_bias"] = json!(config.spec.block.qkv_bias);
    value["mlp_bias"] = json!(false);
    let multipliers = multipliers(&config.spec).expect("a config of the family was checked");
    value["attention_multiplier"] = json!(multipliers.attention);
    for (key, factor) in [
        ("embedding_multiplier", multipliers.embedding),
        ("residual_multiplier", multipliers.residual),
        ("logits_scaling", multipliers.logits_scaling),
    ] {
        value[key] = shortest(factor);
    }
}

/// The shortest decimal number that is read back as this one.
fn shortest(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or(Value::Null, |number| json!(number))
}
