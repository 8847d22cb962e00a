//! The architectures of GGUF files that are read: each is a row that maps the file's keys to a `config.json`, and the
//! names of its tensors to ours. What all have in common is done once.

use serde_json::{Map, Value, json};

use super::header::Header;
use super::keys::Keys;
use super::metadata::{MetaValue, Metadata};
use super::rotary;
use crate::KernelError;
use crate::model::config::DecoderConfig;
use crate::rope::RopeScaling;

/// Values by their names behind that of the architecture.
pub(super) type NamedValues = Vec<(&'static str, MetaValue)>;

/// How a file stores a model of one architecture.
pub(super) struct Architecture {
    /// `general.architecture`.
    pub(super) name: &'static str,
    /// `model_type` of its `config.json`.
    pub(super) model_type: &'static str,
    /// Other families whose models are written as this architecture, as llama.cpp has them; they are read back as
    /// [`Architecture::model_type`], which computes the same.
    also_written: &'static [&'static str],
    /// Whether the rows of queries and keys lie in the order in which neighbours are rotated together, as ggml's `NORM`
    /// rope has it; Hugging Face files have the first half of a head before the second.
    pub(super) rotated_in_pairs: bool,
    /// What the stored weights of norms have been raised by.
    pub(super) norms_raised_by: f32,
    /// Whether llama.cpp reads a bias of attention's output; of queries, keys and values it reads all.
    output_bias: bool,
    /// Adds to a `config.json` what only this architecture has.
    more: fn(&Keys<'_>, &mut Value) -> Result<(), KernelError>,
    /// The keys that only this architecture has, by their names behind its own, or what there is no key for.
    more_keys: fn(&DecoderConfig) -> Result<NamedValues, String>,
}

/// The architectures that are read. A family that stands among [`crate::model::families::ALL`] needs one row here.
pub(super) static ARCHITECTURES: [Architecture; 7] = [
    Architecture {
        name: "llama",
        model_type: "llama",
        also_written: &["mistral"],
        rotated_in_pairs: true,
        norms_raised_by: 0.0,
        output_bias: true,
        more: |keys, config| {
            config["attention_bias"] = json!(keys.has_tensor("blk.0.attn_q.bias"));
            keys.refuse_experts()
        },
        more_keys: no_more_keys,
    },
    Architecture {
        name: "qwen2",
        model_type: "qwen2",
        also_written: &[],
        rotated_in_pairs: false,
        norms_raised_by: 0.0,
        output_bias: false,
        more: |_, _| Ok(()),
        more_keys: no_more_keys,
    },
    Architecture {
        name: "qwen3",
        model_type: "qwen3",
        also_written: &[],
        rotated_in_pairs: false,
        norms_raised_by: 0.0,
        output_bias: false,
        more: |keys, config| {
            config["attention_bias"] = json!(keys.has_tensor("blk.0.attn_q.bias"));
            Ok(())
        },
        more_keys: no_more_keys,
    },
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        also_written: &[],
        rotated_in_pairs: false,
        norms_raised_by: 1.0,
        output_bias: false,
        more: gemma3,
        more_keys: gemma3_keys,
    },
    Architecture {
        name: "qwen3moe",
        model_type: "qwen3_moe",
        also_written: &[],
        rotated_in_pairs: false,
        norms_raised_by: 0.0,
        output_bias: false,
        more: qwen3_moe,
        more_keys: qwen3_moe_keys,
    },
    Architecture {
        name: "smollm3",
        model_type: "smollm3",
        also_written: &[],
        rotated_in_pairs: true,
        norms_raised_by: 0.0,
        output_bias: false,
        more: |keys, config| {
            config["attention_bias"] = json!(keys.has_tensor("blk.0.attn_q.bias"));
            config["no_rope_layer_interval"] = json!(SMOLLM3_INTERVAL);
            keys.refuse_experts()
        },
        more_keys: smollm3_keys,
    },
    Architecture {
        name: "granite",
        model_type: "granite",
        also_written: &[],
        rotated_in_pairs: true,
        norms_raised_by: 0.0,
        output_bias: true,
        more: granite,
        more_keys: granite_keys,
    },
];

/// Names of tensors inside a block: those of [`crate::Block::for_each`], and the file's.
const BLOCK_TENSORS: [(&str, &str); 18] = [
    ("input_layernorm.weight", "attn_norm.weight"),
    ("self_attn.q_proj.weight", "attn_q.weight"),
    ("self_attn.k_proj.weight", "attn_k.weight"),
    ("self_attn.v_proj.weight", "attn_v.weight"),
    ("self_attn.q_proj.bias", "attn_q.bias"),
    ("self_attn.k_proj.bias", "attn_k.bias"),
    ("self_attn.v_proj.bias", "attn_v.bias"),
    ("self_attn.q_norm.weight", "attn_q_norm.weight"),
    ("self_attn.k_norm.weight", "attn_k_norm.weight"),
    ("self_attn.o_proj.weight", "attn_output.weight"),
    ("self_attn.o_proj.bias", "attn_output.bias"),
    ("attention_output_norm.weight", "post_attention_norm.weight"),
    ("post_attention_layernorm.weight", "ffn_norm.weight"),
    ("mlp.gate_proj.weight", "ffn_gate.weight"),
    ("mlp.up_proj.weight", "ffn_up.weight"),
    ("mlp.down_proj.weight", "ffn_down.weight"),
    ("feed_forward_output_norm.weight", "post_ffw_norm.weight"),
    ("mlp.gate.weight", "ffn_gate_inp.weight"),
];

/// The same outside the blocks.
const OUTER_TENSORS: [(&str, &str); 3] = [
    ("model.embed_tokens.weight", "token_embd.weight"),
    ("model.norm.weight", "output_norm.weight"),
    ("lm_head.weight", "output.weight"),
];

/// The same of an expert, of which a file has all in one tensor of three dimensions.
const EXPERT_TENSORS: [(&str, &str); 3] = [
    ("gate_proj.weight", "ffn_gate_exps.weight"),
    ("up_proj.weight", "ffn_up_exps.weight"),
    ("down_proj.weight", "ffn_down_exps.weight"),
];

/// The tensor of the file that holds a parameter.
#[derive(Debug, PartialEq)]
pub(super) struct TensorName {
    /// Its name.
    pub(super) name: String,
    /// Which of its matrices, where it has those of all experts.
    pub(super) expert: Option<usize>,
}

impl TensorName {
    /// Finds it by the parameter's name.
    pub(super) fn of(parameter: &str) -> Option<Self> {
        if let Some((_, name)) = OUTER_TENSORS.iter().find(|(own, _)| *own == parameter) {
            return Some(Self { name: (*name).to_owned(), expert: None });
        }
        let (layer, own) = parameter.strip_prefix("model.layers.")?.split_once('.')?;
        let (expert, name) = match own.strip_prefix("mlp.experts.") {
            Some(rest) => {
                let (number, own) = rest.split_once('.')?;
                (Some(number.parse().ok()?), EXPERT_TENSORS.iter().find(|(known, _)| *known == own)?.1)
            }
            None => (None, BLOCK_TENSORS.iter().find(|(known, _)| *known == own)?.1),
        };
        Some(Self { name: format!("blk.{layer}.{name}"), expert })
    }
}

impl Architecture {
    /// The architecture of a file.
    pub(super) fn of(metadata: &Metadata) -> Result<&'static Self, KernelError> {
        const KEY: &str = "general.architecture";
        let name = metadata.required(KEY, metadata.text(KEY)?)?;
        ARCHITECTURES.iter().find(|architecture| architecture.name == name).ok_or_else(|| {
            let read: Vec<&str> = ARCHITECTURES.iter().map(|architecture| architecture.name).collect();
            metadata.wrong(KEY, format!("is {name:?}; read are {}", read.join(", ")))
        })
    }

    /// The row for a `model_type`.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn of_model_type(model_type: &str) -> Result<&'static Self, String> {
        let writes = |row: &&Self| row.model_type == model_type || row.also_written.contains(&model_type);
        ARCHITECTURES.iter().find(writes).ok_or_else(|| {
            let known = ARCHITECTURES
                .iter()
                .flat_map(|row| [row.model_type].into_iter().chain(row.also_written.iter().copied()));
            let known = known.collect::<Vec<_>>().join(", ");
            format!("a {model_type} model is not written as GGUF; written are {known}")
        })
    }

    /// The keys of a model.
    ///
    /// # Errors
    /// What there is no key for.
    pub(super) fn keys(&self, config: &DecoderConfig) -> Result<Vec<(String, MetaValue)>, String> {
        let size = |number: usize| MetaValue::Integer(number as i128);
        let mut keys = vec![
            ("vocab_size", size(config.vocabulary)),
            ("context_length", size(config.stated_positions)),
            ("embedding_length", size(config.hidden)),
            ("block_count", size(config.layers)),
            ("feed_forward_length", size(config.intermediate)),
            ("attention.head_count", size(config.heads)),
            ("attention.head_count_kv", size(config.kv_heads)),
            ("attention.key_length", size(config.head_width)),
            ("attention.value_length", size(config.head_width)),
            ("attention.layer_norm_rms_epsilon", MetaValue::Float(config.spec.final_norm.eps)),
            ("rope.dimension_count", size(config.head_width)),
        ];
        let more_keys = (self.more_keys)(config)?;
        if config.spec.block.output_bias && !self.output_bias {
            let family = config.family.model_type;
            return Err(format!("llama.cpp reads no bias of `o_proj` in a {family} model"));
        }
        let full = config.spec.attention.iter().find(|kind| kind.window.is_none());
        keys.extend(rotary::keys(&full.unwrap_or(&config.spec.attention[0]).rope)?);
        keys.extend(more_keys);
        Ok(keys.into_iter().map(|(name, value)| (format!("{}.{name}", self.name), value)).collect())
    }

    /// The decoder of a file that has these factors of rotary frequencies.
    pub(super) fn config(
        &self,
        header: &Header,
        factors: Option<&[f32]>,
    ) -> Result<DecoderConfig, KernelError> {
        let keys = Keys { architecture: self.name, header };
        let heads = keys.required_size("attention.head_count")?;
        let hidden = keys.required_size("embedding_length")?;
        let tokens = keys.tensor_rows("token_embd.weight")?;
        let mut config = json!({
            "model_type": self.model_type,
            "hidden_size": hidden,
            "num_hidden_layers": keys.required_size("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": keys.size("attention.head_count_kv")?.unwrap_or(heads),
            "intermediate_size": keys.required_size("feed_forward_length")?,
            "vocab_size": tokens,
            "max_position_embeddings": keys.required_size("context_length")?,
            "rms_norm_eps": keys.required_number("attention.layer_norm_rms_epsilon")?,
            "tie_word_embeddings": !keys.has_tensor("output.weight"),
            "bos_token_id": header.metadata.id("tokenizer.ggml.bos_token_id")?,
            "eos_token_id": header.metadata.id("tokenizer.ggml.eos_token_id")?,
            "pad_token_id": header.metadata.id("tokenizer.ggml.padding_token_id")?,
        });
        config["head_dim"] = json!(keys.head_width(hidden, heads)?);
        rotary::read(&keys, &mut config)?;
        if let Some(factors) = factors {
            rotary::apply_factors(&keys, &mut config, factors)?;
        }
        (self.more)(&keys, &mut config)?;
        DecoderConfig::from_json(header.metadata.path(), &config)
    }
}

/// Layers of Gemma 3 of 27 billion parameters, whose scale of attention is another one and stands in no key.
const GEMMA3_LAYERS_OF_27B: usize = 62;

/// Layers with a window between two with full attention, and that one.
const GEMMA3_PATTERN: usize = 6;

fn gemma3(keys: &Keys<'_>, config: &mut Value) -> Result<(), KernelError> {
    if keys.number("final_logit_softcapping")?.is_some_and(|cap| cap != 0.0) {
        return Err(keys.wrong("final_logit_softcapping", "is set; only none is computed"));
    }
    let layers = keys.required_size("block_count")?;
    let scalar = match layers {
        GEMMA3_LAYERS_OF_27B => {
            keys.required_size("embedding_length")? / keys.required_size("attention.head_count")?.max(1)
        }
        _ => config["head_dim"].as_u64().unwrap_or(256) as usize,
    };
    config["query_pre_attn_scalar"] = json!(scalar);
    config["sliding_window"] = json!(keys.size("attention.sliding_window")?.unwrap_or(4096));
    config["sliding_window_pattern"] =
        json!(keys.size("attention.sliding_window_pattern")?.unwrap_or(GEMMA3_PATTERN));
    config["attention_bias"] = json!(keys.has_tensor("blk.0.attn_q.bias"));
    let sliding = keys.number("rope.freq_base_swa")?.unwrap_or(10_000.0);
    let full = config["rope_parameters"].take();
    let both = Map::from_iter([
        ("full_attention".to_owned(), full),
        ("sliding_attention".to_owned(), json!({"rope_type": "default", "rope_theta": sliding})),
    ]);
    config["rope_parameters"] = Value::Object(both);
    Ok(())
}

fn no_more_keys(config: &DecoderConfig) -> Result<NamedValues, String> {
    if config.spec.attention.iter().any(|kind| kind.window.is_some()) {
        return Err("GGUF has no key for `sliding_window` in this architecture".to_owned());
    }
    Ok(Vec::new())
}

/// Gemma 3 has keys for the window and its frequencies; the scale of attention and which layers have a window follow
/// from the sizes.
fn gemma3_keys(config: &DecoderConfig) -> Result<NamedValues, String> {
    let windows = (0..config.layers).map(|layer| config.spec.attention_of(layer).window);
    let is_sliding: Vec<bool> = windows.clone().map(|window| window.is_some()).collect();
    let pattern = is_sliding.iter().position(|sliding| !sliding).map_or(config.layers + 1, |first| first + 1);
    let by_pattern = (1..=config.layers).map(|layer| !layer.is_multiple_of(pattern));
    if !is_sliding.iter().copied().eq(by_pattern) {
        return Err("GGUF has no key for windows in other layers than all between every n-th".to_owned());
    }
    let width = match config.layers {
        GEMMA3_LAYERS_OF_27B => config.hidden / config.heads,
        _ => config.head_width,
    };
    let scale = config.spec.block.attention_scale.unwrap_or(0.0);
    if (scale * scale * width as f64 - 1.0).abs() > 1e-6 {
        return Err(format!("GGUF has no key for a `query_pre_attn_scalar` other than {width}"));
    }
    let mut keys = vec![("attention.sliding_window_pattern", MetaValue::Integer(pattern as i128))];
    let sliding = config.spec.attention.iter().find(|kind| kind.window.is_some());
    if let Some(kind) = sliding {
        keys.push(("attention.sliding_window", MetaValue::Integer(kind.window.unwrap_or(0) as i128)));
        keys.push(("rope.freq_base_swa", MetaValue::Float(kind.rope.theta)));
    }
    Ok(keys)
}

/// How experts are weighed in files that say it: by a softmax.
const SOFTMAX: f64 = 1.0;

/// Keys of experts that llama.cpp computes in other families, and the numbers at which they change nothing here.
const OTHER_EXPERTS: [(&str, &[f64]); 5] = [
    ("expert_gating_func", &[0.0, SOFTMAX]),
    ("expert_weights_scale", &[0.0, 1.0]),
    ("expert_shared_count", &[0.0]),
    ("expert_group_count", &[0.0, 1.0]),
    ("leading_dense_block_count", &[0.0]),
];

/// Qwen3-MoE in llama.cpp has experts in all layers, and divides the probabilities of the chosen ones by their sum.
fn qwen3_moe(keys: &Keys<'_>, config: &mut Value) -> Result<(), KernelError> {
    for (name, unchanged) in OTHER_EXPERTS {
        if let Some(number) = keys.number(name)?.filter(|number| !unchanged.contains(number)) {
            return Err(keys.wrong(name, format!("is {number}, which is not computed in this architecture")));
        }
    }
    let chosen = keys.required_size("expert_used_count")?;
    let width = match keys.size("expert_feed_forward_length")? {
        Some(width) => width,
        None if chosen > 0 => keys.required_size("feed_forward_length")? / chosen,
        None => 0,
    };
    config["attention_bias"] = json!(keys.has_tensor("blk.0.attn_q.bias"));
    config["num_experts"] = json!(keys.required_size("expert_count")?);
    config["num_experts_per_tok"] = json!(chosen);
    config["moe_intermediate_size"] = json!(width);
    config["norm_topk_prob"] = json!(true);
    Ok(())
}

fn qwen3_moe_keys(config: &DecoderConfig) -> Result<NamedValues, String> {
    let Some(experts) = &config.spec.experts else { return Err("it has no experts".to_owned()) };
    if !experts.normalised {
        return Err("GGUF has no key for `norm_topk_prob` = false in this architecture".to_owned());
    }
    if (0..config.layers).any(|layer| config.spec.experts_of(layer).is_none()) {
        return Err("GGUF has no key for layers without experts in this architecture (`mlp_only_layers`, \
                    `decoder_sparse_step`)"
            .to_owned());
    }
    let mut keys = no_more_keys(config)?;
    keys.extend(
        [
            ("expert_count", experts.count),
            ("expert_used_count", experts.chosen),
            ("expert_feed_forward_length", experts.intermediate),
        ]
        .map(|(name, size)| (name, MetaValue::Integer(size as i128))),
    );
    Ok(keys)
}

/// SmolLM3's every so-many-th layer is not rotated, which llama.cpp takes for granted.
const SMOLLM3_INTERVAL: usize = 4;

fn smollm3_keys(config: &DecoderConfig) -> Result<NamedValues, String> {
    let is_rotated = |layer| config.spec.attention_of(layer).rope.scaling != RopeScaling::Absent;
    if (0..config.layers).any(|layer| is_rotated(layer) == (layer + 1).is_multiple_of(SMOLLM3_INTERVAL)) {
        return Err("GGUF has no key for `no_rope_layers` other than every fourth layer".to_owned());
    }
    no_more_keys(config)
}

/// Factors of Granite by their names in files and in `config.json`; both are 1 where a file has none.
const GRANITE_FACTORS: [(&str, &str); 2] =
    [("embedding_scale", "embedding_multiplier"), ("residual_scale", "residual_multiplier")];

fn granite(keys: &Keys<'_>, config: &mut Value) -> Result<(), KernelError> {
    const ROTATED: &str = "rope.scaling.finetuned";
    if keys.header.metadata.flag(&keys.key(ROTATED))? == Some(false) {
        return Err(keys.wrong(ROTATED, "is false, which stands for layers without rotation; not computed"));
    }
    config["attention_bias"] = json!(keys.has_tensor("blk.0.attn_q.bias"));
    config["logits_scaling"] = json!(keys.required_number("logit_scale")?);
    let heads = config["head_dim"].as_u64().unwrap_or(1) as f64;
    // llama.cpp takes 0 for absent.
    let stated = |name: &str| Ok::<_, KernelError>(keys.number(name)?.filter(|number| *number != 0.0));
    config["attention_multiplier"] = json!(stated("attention.scale")?.unwrap_or(heads.sqrt().recip()));
    for (name, own) in GRANITE_FACTORS {
        config[own] = json!(stated(name)?.unwrap_or(1.0));
    }
    keys.refuse_experts()
}

fn granite_keys(config: &DecoderConfig) -> Result<NamedValues, String> {
    let spec = &config.spec;
    let mut keys = no_more_keys(config)?;
    let one = |factor: Option<f32>| f64::from(factor.unwrap_or(1.0));
    let factors = [
        ("embedding_scale", one(spec.embedding_scale)),
        ("residual_scale", one(spec.block.residual_scale)),
        ("logit_scale", one(spec.logits_divisor)),
        ("attention.scale", spec.block.attention_scale.unwrap_or(0.0)),
    ];
    keys.extend(factors.map(|(name, factor)| (name, MetaValue::Float(factor))));
    Ok(keys)
}
