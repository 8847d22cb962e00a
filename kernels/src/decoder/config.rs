//! What a decoder is: the part of Hugging Face's `config.json` that changes what is computed.
//!
//! Read are the dialects of transformers 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`);
//! written is a file that both read with one meaning. What this crate does not compute is refused by
//! name, because a key that is ignored gives a model that runs and is wrong. Weights are not here.

mod rotary;

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::KernelError;
use crate::rope::{POSITIONS_MAX, Rope, RopeScaling};
use crate::weights::{Block, Weights};

/// The name of the file in its directory.
pub(crate) const CONFIG_FILE: &str = "config.json";

/// More layers than any decoder has; a wrong number must not fill the memory with empty blocks.
const LAYERS_MAX: usize = 4096;

/// The family of a decoder, `model_type` of the config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `llama`: Llama 1 to 3, SmolLM and all that share the layout.
    Llama,
    /// `mistral` without a sliding window.
    Mistral,
    /// `qwen2`: biases on query, key and value.
    Qwen2,
    /// `qwen3`: norms over query and key heads.
    Qwen3,
}

impl Family {
    const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// The word for it in `model_type`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }

    /// The class of it in `architectures`.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }
}

/// The shape and the constants of one decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Which layout the checkpoint has.
    pub family: Family,
    /// Width of the residual stream, H.
    pub hidden: usize,
    /// Number of blocks, L.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head, D; even.
    pub head_width: usize,
    /// Width inside the feed-forward part.
    pub intermediate: usize,
    /// Number of token ids, V.
    pub vocabulary: usize,
    /// What every RMS norm adds to the mean square.
    pub rms_eps: f64,
    /// Whether the embedding is the head as well.
    pub tied: bool,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub output_bias: bool,
    /// Whether each query and key head is normalised before it is rotated.
    pub qk_norm: bool,
    /// Rotary frequencies.
    pub rope: Rope,
    /// The longest sequence that is decoded, in tokens: [`DecoderConfig::own_positions`], or what was asked for instead.
    pub max_positions: usize,
    /// `max_position_embeddings` as the file has it, which a rotary scaling may stretch.
    pub stated_positions: usize,
    /// Standard deviation of the matrices of a fresh model.
    pub initializer_range: f64,
    /// Ids that end a text; empty where the config names none.
    pub eos_ids: Vec<u32>,
    /// Id that begins a text.
    pub bos_id: Option<u32>,
    /// Id that fills batches elsewhere. Kept only to be written again; old files say -1.
    pub padding_id: Option<i64>,
}

impl DecoderConfig {
    /// Reads `config.json` of a Hugging Face directory.
    ///
    /// # Errors
    /// A file that cannot be read, is not a JSON object, lacks a key, or asks for something that this
    /// crate does not compute; the error names file and key.
    pub fn read(dir: &Path) -> Result<Self, KernelError> {
        let path = dir.join(CONFIG_FILE);
        let text = std::fs::read_to_string(&path).map_err(|source| KernelError::file(&path, source))?;
        let value = serde_json::from_str(&text)
            .map_err(|error| KernelError::content(&path, format!("is not JSON: {error}")))?;
        Self::from_json(&path, &value)
    }

    /// Reads the content of a `config.json`; `path` is named in errors.
    ///
    /// # Errors
    /// Those of [`DecoderConfig::read`] but for reading itself.
    pub fn from_json(path: &Path, value: &Value) -> Result<Self, KernelError> {
        let map = value.as_object().ok_or_else(|| KernelError::content(path, "is not a JSON object"))?;
        let keys = Keys { path, section: "", map };
        let family = family(&keys)?;
        refuse_other_computations(&keys, family)?;
        let heads = keys.required_size("num_attention_heads")?;
        let hidden = keys.required_size("hidden_size")?;
        let stated = keys.required_size("max_position_embeddings")?;
        let rope = rotary::rope(&keys, stated)?;
        let attention_bias = keys.flag("attention_bias")?.unwrap_or(false);
        let config = Self {
            family,
            hidden,
            layers: keys.required_size("num_hidden_layers")?,
            heads,
            kv_heads: kv_heads(&keys, family, heads)?,
            head_width: head_width(&keys, family, hidden, heads)?,
            intermediate: keys.required_size("intermediate_size")?,
            vocabulary: keys.required_size("vocab_size")?,
            rms_eps: keys.number("rms_norm_eps")?.unwrap_or(1e-6),
            tied: keys.flag("tie_word_embeddings")?.unwrap_or(false),
            qkv_bias: family == Family::Qwen2 || (has_attention_bias_key(family) && attention_bias),
            output_bias: has_attention_bias_key(family) && attention_bias,
            qk_norm: family == Family::Qwen3,
            max_positions: rope.positions(stated),
            stated_positions: stated,
            rope,
            initializer_range: keys.number("initializer_range")?.unwrap_or(0.02),
            eos_ids: eos_ids(&keys, family)?,
            bos_id: bos_id(&keys, family)?,
            padding_id: keys.get("pad_token_id").and_then(Value::as_i64),
        };
        config.check().map_err(|reason| KernelError::content(path, reason))?;
        Ok(config)
    }

    /// Checks what every decoder must obey, however its config was made.
    ///
    /// # Errors
    /// What is wrong, with the names of `config.json`.
    pub fn check(&self) -> Result<(), String> {
        let sizes = [
            ("hidden_size", self.hidden),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_width),
            ("intermediate_size", self.intermediate),
            ("vocab_size", self.vocabulary),
            ("max_position_embeddings", self.stated_positions),
        ];
        let positions = self.max_positions.max(self.own_positions());
        if positions > POSITIONS_MAX {
            return Err(format!(
                "`max_position_embeddings` and the rotary scaling make {positions} positions; at most {POSITIONS_MAX} \
                 are computed"
            ));
        }
        if let Some((key, size)) = sizes.iter().find(|(_, size)| *size == 0 || u32::try_from(*size).is_err())
        {
            return Err(format!("`{key}` is {size}; it must be above 0 and below 2^32"));
        }
        if self.layers > LAYERS_MAX {
            return Err(format!("`num_hidden_layers` is {}; at most {LAYERS_MAX} are computed", self.layers));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, kv_heads) = (self.heads, self.kv_heads);
            return Err(format!(
                "`num_attention_heads` {heads} is no multiple of `num_key_value_heads` {kv_heads}"
            ));
        }
        if !self.head_width.is_multiple_of(2) {
            return Err(format!("`head_dim` is {}; rotary embedding needs an even number", self.head_width));
        }
        if !(self.rms_eps.is_finite() && self.rms_eps >= 0.0) {
            return Err(format!("`rms_norm_eps` is {}; it must be finite and not negative", self.rms_eps));
        }
        if !(self.initializer_range.is_finite() && self.initializer_range >= 0.0) {
            return Err(format!(
                "`initializer_range` is {}; it must not be negative",
                self.initializer_range
            ));
        }
        self.check_family()?;
        rotary::check_rope(&self.rope)
    }

    /// The longest sequence that the model was made for, in tokens.
    #[must_use]
    pub fn own_positions(&self) -> usize {
        self.rope.positions(self.stated_positions)
    }

    /// The `max_position_embeddings` of a saved model: that of the file, unless the model is used beyond it.
    fn positions_to_state(&self) -> usize {
        if self.max_positions <= self.own_positions() {
            return self.stated_positions;
        }
        match self.rope.scaling {
            // What reads the file multiplies.
            RopeScaling::Linear { factor, original_max_positions: None } => {
                (self.max_positions as f64 / factor.max(1.0)).ceil() as usize
            }
            _ => self.max_positions,
        }
    }

    /// Checks that the family has the parts that the config asks for: a saved file could not say otherwise.
    fn check_family(&self) -> Result<(), String> {
        let fits = match self.family {
            Family::Llama => !self.qk_norm && self.qkv_bias == self.output_bias,
            Family::Mistral => !self.qk_norm && !self.qkv_bias && !self.output_bias,
            Family::Qwen2 => !self.qk_norm && self.qkv_bias && !self.output_bias,
            Family::Qwen3 => self.qk_norm && self.qkv_bias == self.output_bias,
        };
        if fits {
            return Ok(());
        }
        let (qkv, output, norm) = (self.qkv_bias, self.output_bias, self.qk_norm);
        let family = self.family.model_type();
        Err(format!("no {family} model has qkv bias {qkv}, output bias {output} and q/k norm {norm}"))
    }

    /// The content of a `config.json` that transformers 4 and 5 read with one meaning: the keys of both
    /// dialects, with equal values.
    pub fn to_json(&self) -> Value {
        let ids = match self.eos_ids.as_slice() {
            [] => Value::Null,
            [id] => json!(id),
            several => json!(several),
        };
        let scaling = rotary::scaling_json(&self.rope.scaling);
        let mut parameters = scaling.clone().unwrap_or_else(|| json!({"rope_type": "default"}));
        parameters["rope_theta"] = json!(self.rope.theta);
        let mut value = json!({
            "architectures": [self.family.architecture()],
            "model_type": self.family.model_type(),
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_width,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocabulary,
            "rms_norm_eps": self.rms_eps,
            "tie_word_embeddings": self.tied,
            "hidden_act": "silu",
            "rope_theta": self.rope.theta,
            "rope_scaling": scaling,
            "rope_parameters": parameters,
            "max_position_embeddings": self.positions_to_state(),
            "initializer_range": self.initializer_range,
            "eos_token_id": ids,
            "bos_token_id": self.bos_id,
            "pad_token_id": self.padding_id,
            "torch_dtype": "float32",
            "dtype": "float32",
            "use_cache": true,
        });
        match self.family {
            Family::Llama => {
                value["attention_bias"] = json!(self.qkv_bias);
                value["mlp_bias"] = json!(false);
            }
            Family::Mistral => value["sliding_window"] = Value::Null,
            Family::Qwen2 => value["use_sliding_window"] = json!(false),
            Family::Qwen3 => {
                value["attention_bias"] = json!(self.qkv_bias);
                value["use_sliding_window"] = json!(false);
            }
        }
        value
    }

    /// How many numbers a model of this shape has.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.shapes().named().iter().map(|(_, [rows, columns])| rows * columns).sum()
    }

    /// The shape of every parameter, and which parameters there are.
    pub fn shapes(&self) -> Weights<[usize; 2]> {
        let (hidden, width) = (self.hidden, self.head_width);
        let (query_width, kv_width) = (self.heads * width, self.kv_heads * width);
        let block = Block {
            input_norm: [1, hidden],
            query: [query_width, hidden],
            key: [kv_width, hidden],
            value: [kv_width, hidden],
            query_bias: self.qkv_bias.then_some([1, query_width]),
            key_bias: self.qkv_bias.then_some([1, kv_width]),
            value_bias: self.qkv_bias.then_some([1, kv_width]),
            query_norm: self.qk_norm.then_some([1, width]),
            key_norm: self.qk_norm.then_some([1, width]),
            output: [hidden, query_width],
            output_bias: self.output_bias.then_some([1, hidden]),
            post_norm: [1, hidden],
            gate: [self.intermediate, hidden],
            up: [self.intermediate, hidden],
            down: [hidden, self.intermediate],
        };
        let matrix = [self.vocabulary, hidden];
        Weights {
            embedding: matrix,
            blocks: vec![block; self.layers],
            final_norm: [1, hidden],
            head: (!self.tied).then_some(matrix),
        }
    }
}

/// One object of the file, with typed access whose errors name the key. A `null` counts as absent.
struct Keys<'a> {
    path: &'a Path,
    /// `""` for the file itself, `"rope_scaling."` and the like for an object inside it.
    section: &'static str,
    map: &'a Map<String, Value>,
}

impl Keys<'_> {
    fn wrong(&self, key: &str, reason: impl std::fmt::Display) -> KernelError {
        KernelError::content(self.path, format!("`{}{key}` {reason}", self.section))
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        key: &str,
        kind: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, KernelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.wrong(key, format!("is {value}; it must be {kind}")))
    }

    fn size(&self, key: &str) -> Result<Option<usize>, KernelError> {
        let read = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok());
        self.typed(key, "a whole number that is not negative", read)
    }

    fn number(&self, key: &str) -> Result<Option<f64>, KernelError> {
        self.typed(key, "a number", Value::as_f64)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, KernelError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    fn text(&self, key: &str) -> Result<Option<String>, KernelError> {
        self.typed(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, KernelError> {
        value.ok_or_else(|| self.wrong(key, "is missing"))
    }

    fn required_size(&self, key: &str) -> Result<usize, KernelError> {
        self.required(key, self.size(key)?)
    }

    fn required_number(&self, key: &str) -> Result<f64, KernelError> {
        self.required(key, self.number(key)?)
    }
}

fn family(keys: &Keys<'_>) -> Result<Family, KernelError> {
    let supported = Family::ALL.map(Family::model_type).join(", ");
    let model_type = keys.required("model_type", keys.text("model_type")?)?;
    let known = Family::ALL.into_iter().find(|family| family.model_type() == model_type);
    let family = known.ok_or_else(|| {
        keys.wrong("model_type", format!("is {model_type:?}; the supported architectures are {supported}"))
    })?;
    // A classifier or an encoder of the same family has other tensors behind the last norm.
    if let Some(architectures) = keys.get("architectures") {
        let fits = architectures.as_array().is_some_and(|list| {
            list.is_empty() || list.iter().any(|name| name.as_str() == Some(family.architecture()))
        });
        if !fits {
            let expected = family.architecture();
            return Err(keys.wrong(
                "architectures",
                format!("is {architectures}; for model_type {model_type} only {expected} is supported"),
            ));
        }
    }
    Ok(family)
}

/// Refuses keys under which transformers would compute something that this crate does not.
fn refuse_other_computations(keys: &Keys<'_>, family: Family) -> Result<(), KernelError> {
    let activation = keys.text("hidden_act")?.unwrap_or_else(|| "silu".to_owned());
    if activation != "silu" {
        return Err(keys.wrong("hidden_act", format!("is {activation:?}; only \"silu\" is computed")));
    }
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
    if let Some(types) = keys.get("layer_types") {
        let whole = types.as_array().is_some_and(|list| list.iter().all(|each| each == "full_attention"));
        if !whole {
            return Err(
                keys.wrong("layer_types", "has other entries than \"full_attention\", the one computed")
            );
        }
    }
    // transformers gives a Mistral without the key a window of 4096, so only a written null is safe.
    if family == Family::Mistral && keys.map.get("sliding_window") != Some(&Value::Null) {
        return Err(keys.wrong("sliding_window", "is not null; attention with a window is not computed"));
    }
    Ok(())
}

/// Whether transformers reads `attention_bias` in this family; in the others the layout decides.
fn has_attention_bias_key(family: Family) -> bool {
    matches!(family, Family::Llama | Family::Qwen3)
}

fn kv_heads(keys: &Keys<'_>, family: Family, heads: usize) -> Result<usize, KernelError> {
    if let Some(kv_heads) = keys.size("num_key_value_heads")? {
        return Ok(kv_heads);
    }
    // transformers has class defaults of 8 and 32 for the other families where the key is absent; no
    // checkpoint relies on them, and a guess would be a wrong model.
    if family == Family::Llama || keys.map.contains_key("num_key_value_heads") {
        return Ok(heads);
    }
    Err(keys.wrong("num_key_value_heads", "is missing"))
}

fn head_width(keys: &Keys<'_>, family: Family, hidden: usize, heads: usize) -> Result<usize, KernelError> {
    if let Some(width) = keys.size("head_dim")? {
        return Ok(width);
    }
    if family == Family::Qwen3 {
        // The class default of transformers.
        return Ok(128);
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

fn eos_ids(keys: &Keys<'_>, family: Family) -> Result<Vec<u32>, KernelError> {
    const KEY: &str = "eos_token_id";
    match keys.map.get(KEY) {
        None if matches!(family, Family::Llama | Family::Mistral) => Ok(vec![2]),
        None | Some(Value::Null) => Ok(Vec::new()),
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

fn bos_id(keys: &Keys<'_>, family: Family) -> Result<Option<u32>, KernelError> {
    const KEY: &str = "bos_token_id";
    match keys.map.get(KEY) {
        None if matches!(family, Family::Llama | Family::Mistral) => Ok(Some(1)),
        None | Some(Value::Null) => Ok(None),
        Some(value) if is_nobodys(value) => Ok(None),
        Some(value) => token_id(keys, KEY, value).map(Some),
    }
}

#[cfg(test)]
mod tests;
