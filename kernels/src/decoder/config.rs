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
mod tests {
    use super::*;

    const PATH: &str = "models/x/config.json";

    fn llama() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "intermediate_size": 48, "vocab_size": 60, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
            "hidden_act": "silu", "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": [2, 5],
        })
    }

    fn with(mut value: Value, changes: Value) -> Value {
        for (key, change) in changes.as_object().unwrap() {
            value[key] = change.clone();
        }
        value
    }

    fn without(mut value: Value, key: &str) -> Value {
        value.as_object_mut().unwrap().remove(key);
        value
    }

    fn read(value: &Value) -> Result<DecoderConfig, KernelError> {
        DecoderConfig::from_json(Path::new(PATH), value)
    }

    /// The message of the error, which must name the file.
    fn refused(value: &Value) -> String {
        let message = read(value).unwrap_err().to_string();
        assert!(message.starts_with(PATH), "{message}");
        message
    }

    #[test]
    fn a_llama_is_read() {
        let config = read(&llama()).unwrap();
        assert_eq!(config.family, Family::Llama);
        assert_eq!((config.hidden, config.layers, config.heads, config.kv_heads), (32, 2, 4, 2));
        assert_eq!((config.head_width, config.intermediate, config.vocabulary), (8, 48, 60));
        assert_eq!((config.rms_eps, config.tied, config.max_positions), (1e-5, true, 128));
        assert_eq!((config.qkv_bias, config.output_bias, config.qk_norm), (false, false, false));
        assert_eq!(config.rope, Rope { theta: 10_000.0, scaling: RopeScaling::Default });
        assert_eq!((config.eos_ids, config.bos_id, config.padding_id), (vec![2, 5], Some(1), None));
    }

    #[test]
    fn families_differ_in_biases_norms_and_defaults() {
        let qwen = |kind: &str| {
            let changes = json!({
                "model_type": kind, "architectures": null, "head_dim": null, "eos_token_id": null,
            });
            without(with(llama(), changes), "bos_token_id")
        };
        let qwen2 = read(&with(qwen("qwen2"), json!({"attention_bias": false}))).unwrap();
        assert_eq!(
            (qwen2.qkv_bias, qwen2.output_bias, qwen2.qk_norm, qwen2.head_width),
            (true, false, false, 8)
        );
        assert_eq!((qwen2.bos_id, qwen2.eos_ids.len()), (None, 0));
        let qwen3 = read(&qwen("qwen3")).unwrap();
        assert_eq!((qwen3.qkv_bias, qwen3.output_bias, qwen3.qk_norm), (false, false, true));
        assert_eq!(qwen3.head_width, 128);
        let biased = read(&with(qwen("qwen3"), json!({"attention_bias": true}))).unwrap();
        assert_eq!((biased.qkv_bias, biased.output_bias), (true, true));
        let llama = read(&with(llama(), json!({"attention_bias": true}))).unwrap();
        assert_eq!((llama.qkv_bias, llama.output_bias), (true, true));
        let mistral = qwen("mistral");
        assert!(refused(&mistral).contains("`sliding_window`"));
        assert!(
            refused(&with(mistral.clone(), json!({"sliding_window": 4096}))).contains("`sliding_window`")
        );
        let mistral = read(&with(mistral, json!({"sliding_window": null}))).unwrap();
        assert_eq!((mistral.family, mistral.bos_id), (Family::Mistral, Some(1)));
    }

    #[test]
    fn absent_keys_mean_what_transformers_means() {
        let bare =
            ["num_key_value_heads", "tie_word_embeddings", "rms_norm_eps", "eos_token_id", "bos_token_id"];
        let config = read(&bare.iter().fold(llama(), |value, key| without(value, key))).unwrap();
        assert_eq!((config.kv_heads, config.tied, config.rms_eps), (4, false, 1e-6));
        assert_eq!((config.eos_ids, config.bos_id), (vec![2], Some(1)));
        let nobodys = read(&with(llama(), json!({"eos_token_id": [-1, 3], "bos_token_id": -1}))).unwrap();
        assert_eq!((nobodys.eos_ids, nobodys.bos_id), (vec![3], None));
    }

    #[test]
    fn both_dialects_of_rope_mean_the_same() {
        let four = json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}});
        let five = json!({"rope_parameters": {"rope_theta": 500_000, "rope_type": "linear", "factor": 2.0}});
        let expected =
            Rope { theta: 5e5, scaling: RopeScaling::Linear { factor: 2.0, original_max_positions: None } };
        assert_eq!(read(&with(llama(), four.clone())).unwrap().rope, expected);
        assert_eq!(read(&with(llama(), five.clone())).unwrap().rope, expected);
        assert_eq!(read(&with(with(llama(), four), five)).unwrap().rope, expected);
    }

    #[test]
    fn yarn_keys_are_read() {
        let scaling = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32});
        let plain = read(&with(llama(), json!({"rope_theta": 1e6, "rope_scaling": scaling}))).unwrap();
        let attention_factor = 0.1 * 4.0_f64.ln() + 1.0;
        let expected = RopeScaling::Yarn {
            factor: 4.0,
            original_max_positions: 32,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor,
            truncate: true,
        };
        assert_eq!(plain.rope, Rope { theta: 1e6, scaling: expected });
        let scaling = json!({
            "rope_type": "yarn", "factor": null, "beta_fast": 16, "beta_slow": 2, "truncate": false,
            "mscale": 1.0, "mscale_all_dim": 0.5, "rope_theta": 2e4,
        });
        let changes = json!({"rope_parameters": scaling, "original_max_position_embeddings": 64});
        let full = read(&with(llama(), changes)).unwrap();
        let expected = RopeScaling::Yarn {
            factor: 2.0,
            original_max_positions: 64,
            beta_fast: 16.0,
            beta_slow: 2.0,
            attention_factor: (0.1 * 2.0_f64.ln() + 1.0) / (0.05 * 2.0_f64.ln() + 1.0),
            truncate: false,
        };
        assert_eq!(full.rope, Rope { theta: 2e4, scaling: expected });
    }

    #[test]
    fn what_is_written_is_read_back() {
        let llama3 = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        });
        let yarn = json!({"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.2});
        let variants = [
            json!({}),
            json!({"attention_bias": true, "tie_word_embeddings": false, "pad_token_id": 0}),
            json!({"head_dim": 6, "rope_scaling": {"type": "linear", "factor": 3.5}, "rope_theta": 777.5}),
            json!({"rope_scaling": llama3, "eos_token_id": 9, "bos_token_id": null}),
            json!({"rope_scaling": yarn, "architectures": [], "model_type": "qwen2", "eos_token_id": null}),
            json!({"model_type": "qwen3", "architectures": null, "attention_bias": true}),
            json!({"model_type": "mistral", "architectures": null, "sliding_window": null}),
        ];
        for variant in variants {
            let config = read(&with(llama(), variant)).unwrap();
            let written = config.to_json();
            assert_eq!(read(&written).unwrap(), config);
            // Either dialect alone carries the whole meaning.
            assert_eq!(read(&without(written.clone(), "rope_parameters")).unwrap(), config);
            assert_eq!(read(&without(without(written, "rope_theta"), "rope_scaling")).unwrap(), config);
        }
    }

    #[test]
    fn scaled_models_are_as_long_as_their_scaling_makes_them() {
        let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128});
        let outside = json!({
            "rope_parameters": {"rope_type": "yarn", "factor": 3, "rope_theta": 1e6},
            "original_max_position_embeddings": 96,
        });
        let cases = [
            (json!({}), 128),
            (json!({"rope_scaling": yarn}), 512),
            (json!({"rope_parameters": with(yarn.clone(), json!({"rope_theta": 1e6}))}), 512),
            (json!({"rope_scaling": yarn, "max_position_embeddings": 512}), 512),
            (outside, 288),
            (json!({"rope_scaling": {"type": "linear", "factor": 2.5}}), 320),
            (json!({"rope_scaling": {"type": "default"}}), 128),
        ];
        for (changes, expected) in cases {
            let config = read(&with(llama(), changes.clone())).unwrap();
            assert_eq!((config.max_positions, config.own_positions()), (expected, expected), "{changes}");
            // A saved model says what its file said, and what it was used beyond it.
            let saved = config.to_json();
            assert_eq!(saved["max_position_embeddings"], json!(config.stated_positions), "{changes}");
            for (used, again) in [(expected - 9, expected), (expected + 90, expected + 90)] {
                let saved = DecoderConfig { max_positions: used, ..config.clone() }.to_json();
                assert_eq!(read(&saved).unwrap().max_positions, again, "{changes}");
            }
        }
        let huge = json!({"rope_scaling": with(yarn, json!({"factor": 1e9}))});
        assert!(refused(&with(llama(), huge)).contains("positions; at most"));
        for kind in ["dynamic", "longrope", "su"] {
            let scaling = json!({"rope_type": kind, "factor": 2.0});
            assert!(refused(&with(llama(), json!({"rope_scaling": scaling}))).contains(kind));
        }
    }

    #[test]
    fn an_unknown_architecture_is_named_with_the_supported_ones() {
        let message = refused(&with(llama(), json!({"model_type": "gpt2"})));
        assert!(message.contains("`model_type` is \"gpt2\""), "{message}");
        assert!(message.contains("llama, mistral, qwen2, qwen3"), "{message}");
        let message = refused(&with(llama(), json!({"architectures": ["LlamaForSequenceClassification"]})));
        assert!(message.contains("LlamaForSequenceClassification") && message.contains("LlamaForCausalLM"));
        assert!(refused(&without(llama(), "model_type")).contains("`model_type` is missing"));
    }

    #[test]
    fn what_is_not_computed_is_refused_by_key() {
        let cases = [
            ("hidden_act", json!("gelu")),
            ("mlp_bias", json!(true)),
            ("use_sliding_window", json!(true)),
            ("partial_rotary_factor", json!(0.5)),
            ("quantization_config", json!({"quant_method": "fp8"})),
            ("layer_types", json!(["full_attention", "sliding_attention"])),
            ("num_key_value_heads", json!(3)),
            ("num_key_value_heads", json!(0)),
            ("hidden_size", json!(0)),
            ("hidden_size", json!(33)),
            ("hidden_size", json!("32")),
            ("vocab_size", json!(-4)),
            ("vocab_size", json!(1_u64 << 40)),
            ("num_hidden_layers", json!(5000)),
            ("num_attention_heads", json!(null)),
            ("head_dim", json!(7)),
            ("rms_norm_eps", json!(-1e-6)),
            ("eos_token_id", json!([2, "x"])),
            ("rope_theta", json!(0)),
            ("rope_scaling", json!([1])),
        ];
        for (key, wrong) in cases {
            let message = refused(&with(llama(), json!({key: wrong})));
            assert!(message.contains(&format!("`{key}`")), "{key}: {message}");
        }
        let scalings = [
            ("rope_type", json!({"rope_type": "dynamic", "factor": 2.0})),
            ("rope_type", json!({"rope_type": "longrope"})),
            ("factor", json!({"rope_type": "linear"})),
            ("factor", json!({"rope_type": "yarn", "factor": -1.0})),
            ("high_freq_factor", json!({"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0})),
            ("partial_rotary_factor", json!({"rope_type": "default", "partial_rotary_factor": 0.25})),
            ("full_attention", json!({"full_attention": {"rope_type": "default"}})),
        ];
        for (key, wrong) in scalings {
            for section in ["rope_scaling", "rope_parameters"] {
                let message = refused(&with(llama(), json!({section: wrong})));
                assert!(message.contains(key), "{key}: {message}");
            }
        }
    }

    #[test]
    fn a_file_that_is_no_config_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, path) = (folder.path(), folder.path().join("config.json"));
        assert!(DecoderConfig::read(dir).unwrap_err().to_string().contains("config.json"));
        std::fs::write(&path, "{\"model_type\": ").unwrap();
        assert!(DecoderConfig::read(dir).unwrap_err().to_string().contains("is not JSON"));
        std::fs::write(&path, "[]").unwrap();
        assert!(DecoderConfig::read(dir).unwrap_err().to_string().contains("is not a JSON object"));
    }

    #[test]
    fn shapes_follow_the_config() {
        let changes = json!({"head_dim": 6, "attention_bias": true, "tie_word_embeddings": false});
        let shapes = read(&with(llama(), changes)).unwrap().shapes();
        assert_eq!(shapes.blocks.len(), 2);
        let block = &shapes.blocks[1];
        assert_eq!((block.query, block.key, block.output), ([24, 32], [12, 32], [32, 24]));
        assert_eq!(
            (block.query_bias, block.value_bias, block.output_bias),
            (Some([1, 24]), Some([1, 12]), Some([1, 32]))
        );
        assert_eq!((block.gate, block.down, block.query_norm), ([48, 32], [32, 48], None));
        assert_eq!((shapes.embedding, shapes.head, shapes.final_norm), ([60, 32], Some([60, 32]), [1, 32]));
    }
}
