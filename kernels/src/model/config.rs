//! What a decoder is: the part of Hugging Face's `config.json` that changes what is computed.
//!
//! Read are the dialects of transformers 4 (`rope_theta`, `rope_scaling`) and 5 (`rope_parameters`);
//! written is a file that both read with one meaning. What this crate does not compute is refused by
//! name, because a key that is ignored gives a model that runs and is wrong. Which families there are is in
//! [`super::families`]. Weights are not here.

use std::fmt;
use std::path::Path;

use serde_json::{Value, json};

use super::keys::{CONFIG_BYTES_MAX, Keys, read_object};
use super::rotary;
use super::spec::{ExpertsSpec, FeedForward, ModelSpec};
use super::weights::{Block, ExpertsWeights, FeedForwardWeights, GatedWeights, Weights};
use crate::KernelError;
use crate::rope::{POSITIONS_MAX, RopeScaling};

/// The name of the file in its directory.
pub(crate) const CONFIG_FILE: &str = "config.json";

/// The most numbers that a model has: a hundred times those of the largest one, and few enough for every product of sizes.
const NUMBERS_MAX: u128 = 1 << 48;

/// More layers than any decoder has; a wrong number must not fill the memory with empty blocks.
pub(super) const LAYERS_MAX: usize = 4096;

/// More experts than any decoder has in all layers together: as with layers, a wrong number must not fill the memory.
const EXPERTS_MAX: usize = 1 << 16;

/// A family of decoders that share a layout of files.
pub struct Family {
    /// The word for it in `model_type`.
    pub model_type: &'static str,
    /// The class of it in `architectures`.
    pub architecture: &'static str,
    /// Reads a config whose `model_type` and `architectures` have been looked at; `families::read_common` does most of it.
    pub read: fn(&Keys<'_>) -> Result<DecoderConfig, KernelError>,
    /// Adds to the keys that all families write what this one has beside them, in its place or otherwise.
    pub write: fn(&DecoderConfig, &mut Value),
    /// Whether a config file of the family can say this.
    pub supports: fn(&ModelSpec) -> bool,
    /// Names of tensors inside a block that differ from those of [`Block::for_each`]: ours and the file's.
    pub tensor_names: &'static [(&'static str, &'static str)],
    /// Whether `max_position_embeddings` is what a rotary scaling has stretched already.
    pub positions_are_stretched: bool,
}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type)
    }
}

impl PartialEq for Family {
    fn eq(&self, other: &Self) -> bool {
        self.model_type == other.model_type
    }
}

impl Family {
    /// The name in files of a parameter, which [`Weights::for_each`] names.
    #[must_use]
    pub fn file_name(&self, name: &str) -> String {
        for (own, in_files) in self.tensor_names {
            if let Some(block) = name.strip_suffix(own).filter(|block| block.ends_with('.')) {
                return format!("{block}{in_files}");
            }
        }
        name.to_owned()
    }

    /// The family of a config among some, after a look at its class.
    fn of(keys: &Keys<'_>, families: &[&'static Family]) -> Result<&'static Family, KernelError> {
        let supported: Vec<&str> = families.iter().map(|family| family.model_type).collect();
        let model_type = keys.required("model_type", keys.text("model_type")?)?;
        let family = families.iter().find(|family| family.model_type == model_type).ok_or_else(|| {
            let supported = supported.join(", ");
            let reason = format!("is {model_type:?}; the supported architectures are {supported}");
            keys.wrong("model_type", reason)
        })?;
        // A classifier or an encoder of the same family has other tensors behind the last norm.
        if let Some(architectures) = keys.get("architectures") {
            let fits = architectures.as_array().is_some_and(|list| {
                list.is_empty() || list.iter().any(|name| name.as_str() == Some(family.architecture))
            });
            if !fits {
                let expected = family.architecture;
                return Err(keys.wrong(
                    "architectures",
                    format!("is {architectures}; for model_type {model_type} only {expected} is supported"),
                ));
            }
        }
        Ok(family)
    }
}

/// The shape and the constants of one decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Which layout the checkpoint has.
    pub family: &'static Family,
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
    /// Whether the embedding is the head as well.
    pub tied: bool,
    /// What is computed.
    pub spec: ModelSpec,
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
    /// [`DecoderConfig::read`] of one of these families.
    ///
    /// # Errors
    /// As there.
    pub fn read_as(dir: &Path, families: &[&'static Family]) -> Result<Self, KernelError> {
        let path = dir.join(CONFIG_FILE);
        Self::of_family(&path, &Value::Object(read_object(&path, CONFIG_BYTES_MAX)?), families)
    }

    /// The content of a `config.json` of one of these families; `path` is named in errors.
    pub(super) fn of_family(
        path: &Path,
        value: &Value,
        families: &[&'static Family],
    ) -> Result<Self, KernelError> {
        let map = value.as_object().ok_or_else(|| KernelError::content(path, "is not a JSON object"))?;
        let keys = Keys { path, section: "", map };
        let family = Family::of(&keys, families)?;
        let config = Self { family, ..(family.read)(&keys)? };
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
        self.check_spec()?;
        self.check_total()?;
        if !(self.initializer_range.is_finite() && self.initializer_range >= 0.0) {
            return Err(format!(
                "`initializer_range` is {}; it must not be negative",
                self.initializer_range
            ));
        }
        if (self.family.supports)(&self.spec) {
            return Ok(());
        }
        let (family, block) = (self.family.model_type, &self.spec.block);
        Err(format!("no {family} model has blocks of this form: {block:?}"))
    }

    /// Checks that the sizes can be multiplied: each of them may be right, and all of them a model that nobody has.
    fn check_total(&self) -> Result<(), String> {
        // Each size is below 2^32 by now.
        let size = |size: usize| size as u128;
        let hidden = size(self.hidden);
        let attention = 2 * hidden * size(self.head_width) * (size(self.heads) + size(self.kv_heads));
        let experts = self.spec.experts.as_ref();
        let of_experts = experts.map_or(0, |experts| size(experts.count) * size(experts.intermediate));
        let feed_forward = 3 * hidden * size(self.intermediate).max(of_experts);
        let all = size(self.layers) * (attention + feed_forward) + 2 * hidden * size(self.vocabulary);
        if all <= NUMBERS_MAX {
            return Ok(());
        }
        Err(format!(
            "its sizes (`num_hidden_layers` {}, `hidden_size` {hidden}, `num_attention_heads` {}, `head_dim` {}, \
             `intermediate_size` {}, `vocab_size` {}) make {all} numbers; at most {NUMBERS_MAX} are computed",
            self.layers, self.heads, self.head_width, self.intermediate, self.vocabulary
        ))
    }

    /// Checks the numbers of the spec.
    fn check_spec(&self) -> Result<(), String> {
        let spec = &self.spec;
        for (name, norm) in spec.block.norms().chain([("final_norm", spec.final_norm)]) {
            let eps = norm.eps;
            if !(eps.is_finite() && eps >= 0.0) {
                return Err(format!("`rms_norm_eps` is {eps} in {name}; it must be finite and not negative"));
            }
        }
        if spec.attention.is_empty() {
            return Err("`layer_types` is empty; a model has one kind of attention at least".to_owned());
        }
        if let Some(experts) = &spec.experts {
            check_experts(experts, self.layers)?;
        }
        if spec.attention.iter().any(|kind| kind.window == Some(0)) {
            return Err("`sliding_window` is 0; a token sees itself".to_owned());
        }
        let scales = [
            ("attention's scale", spec.block.attention_scale),
            ("the embedding's scale", spec.embedding_scale.map(f64::from)),
            ("the residual scale", spec.block.residual_scale.map(f64::from)),
            ("the divisor of logits", spec.logits_divisor.map(f64::from)),
        ];
        for (name, scale) in scales {
            if let Some(scale) = scale.filter(|scale| !(scale.is_finite() && *scale > 0.0)) {
                return Err(format!("{name} is {scale}; it must be above 0"));
            }
        }
        spec.ropes().into_iter().try_for_each(rotary::check_rope)
    }

    /// The longest sequence that the model was made for, in tokens.
    #[must_use]
    pub fn own_positions(&self) -> usize {
        if self.family.positions_are_stretched {
            return self.stated_positions;
        }
        let stretched = self.spec.ropes().into_iter().map(|rope| rope.positions(self.stated_positions));
        stretched.max().unwrap_or(self.stated_positions)
    }

    /// The `max_position_embeddings` of a saved model: that of the file, unless the model is used beyond it.
    fn positions_to_state(&self) -> usize {
        if self.max_positions <= self.own_positions() {
            return self.stated_positions;
        }
        match self.spec.rope().scaling {
            // What reads the file multiplies.
            RopeScaling::Linear { factor, original_max_positions: None } => {
                (self.max_positions as f64 / factor.max(1.0)).ceil() as usize
            }
            _ => self.max_positions,
        }
    }

    /// The content of a `config.json` that transformers 4 and 5 read with one meaning: the keys of both
    /// dialects, with equal values.
    pub fn to_json(&self) -> Value {
        let ids = match self.eos_ids.as_slice() {
            [] => Value::Null,
            [id] => json!(id),
            several => json!(several),
        };
        let (rope, FeedForward::Gated(activation)) = (self.spec.rope(), self.spec.block.feed_forward);
        let mut value = json!({
            "architectures": [self.family.architecture],
            "model_type": self.family.model_type,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_width,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocabulary,
            "rms_norm_eps": self.spec.final_norm.eps,
            "tie_word_embeddings": self.tied,
            "hidden_act": activation.word(),
            "rope_theta": rope.theta,
            "rope_scaling": rotary::scaling_json(&rope.scaling),
            "rope_parameters": rotary::parameters_json(rope),
            "max_position_embeddings": self.positions_to_state(),
            "initializer_range": self.initializer_range,
            "eos_token_id": ids,
            "bos_token_id": self.bos_id,
            "pad_token_id": self.padding_id,
            "torch_dtype": "float32",
            "dtype": "float32",
            "use_cache": true,
        });
        (self.family.write)(self, &mut value);
        value
    }

    /// How many numbers a model of this shape has.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.shapes().named().iter().map(|(_, [rows, columns])| rows * columns).sum()
    }

    /// How many numbers a token is multiplied with in the layers: of experts only those that it goes through.
    #[must_use]
    pub fn layer_numbers_a_token(&self) -> usize {
        let mut total = 0;
        for (layer, block) in self.shapes().blocks.iter().enumerate() {
            block.for_each(&mut |_, [rows, columns]| total += rows * columns);
            if let Some(experts) = self.spec.experts_of(layer) {
                total -= (experts.count - experts.chosen) * 3 * self.hidden * experts.intermediate;
            }
        }
        total
    }

    /// Numbers of a token between the projections of the widest layer's feed-forward part.
    #[must_use]
    pub fn feed_forward_width(&self) -> usize {
        let of_layer = |layer| match self.spec.experts_of(layer) {
            Some(experts) => experts.chosen * experts.intermediate,
            None => self.intermediate,
        };
        (0..self.layers).map(of_layer).max().unwrap_or(0)
    }

    /// The shape of every parameter, and which parameters there are.
    pub fn shapes(&self) -> Weights<[usize; 2]> {
        let (hidden, width, spec) = (self.hidden, self.head_width, &self.spec.block);
        let (query_width, kv_width) = (self.heads * width, self.kv_heads * width);
        let block = Block {
            input_norm: [1, hidden],
            query: [query_width, hidden],
            key: [kv_width, hidden],
            value: [kv_width, hidden],
            query_bias: spec.qkv_bias.then_some([1, query_width]),
            key_bias: spec.qkv_bias.then_some([1, kv_width]),
            value_bias: spec.qkv_bias.then_some([1, kv_width]),
            query_norm: spec.query_key_norm.map(|_| [1, width]),
            key_norm: spec.query_key_norm.map(|_| [1, width]),
            output: [hidden, query_width],
            output_bias: spec.output_bias.then_some([1, hidden]),
            attention_output_norm: spec.attention_output_norm.map(|_| [1, hidden]),
            feed_forward_norm: [1, hidden],
            feed_forward: FeedForwardWeights::Gated(gated_shapes(hidden, self.intermediate)),
            feed_forward_output_norm: spec.feed_forward_output_norm.map(|_| [1, hidden]),
        };
        let of_layer = |layer| match self.spec.experts_of(layer) {
            None => block.clone(),
            Some(experts) => {
                let router = [experts.count, hidden];
                let experts = vec![gated_shapes(hidden, experts.intermediate); experts.count];
                let feed_forward = FeedForwardWeights::Experts(ExpertsWeights { router, experts });
                Block { feed_forward, ..block.clone() }
            }
        };
        let matrix = [self.vocabulary, hidden];
        Weights {
            embedding: matrix,
            blocks: (0..self.layers).map(of_layer).collect(),
            final_norm: [1, hidden],
            head: (!self.tied).then_some(matrix),
        }
    }
}

/// Checks the numbers of experts.
fn check_experts(experts: &ExpertsSpec, layers: usize) -> Result<(), String> {
    let ExpertsSpec { count, chosen, intermediate, .. } = *experts;
    let all = count.saturating_mul(layers);
    if count == 0 || all > EXPERTS_MAX {
        return Err(format!(
            "`num_experts` is {count} in {layers} layers; a layer has one at least, and all layers {EXPERTS_MAX} at most"
        ));
    }
    if chosen == 0 || chosen > count {
        return Err(format!(
            "`num_experts_per_tok` is {chosen}; it must be above 0 and at most `num_experts` {count}"
        ));
    }
    if intermediate == 0 || u32::try_from(intermediate).is_err() {
        return Err(format!("`moe_intermediate_size` is {intermediate}; it must be above 0 and below 2^32"));
    }
    if experts.layers.is_empty() {
        return Err("no layer is said to have experts or none".to_owned());
    }
    Ok(())
}

/// The shapes of a gated part.
fn gated_shapes(hidden: usize, intermediate: usize) -> GatedWeights<[usize; 2]> {
    GatedWeights { gate: [intermediate, hidden], up: [intermediate, hidden], down: [hidden, intermediate] }
}

/// The sizes of a plain Llama.
#[derive(Clone, Copy, Debug)]
pub struct LlamaShape {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Number of query heads; divides `hidden`.
    pub heads: usize,
    /// Number of key and value heads.
    pub kv_heads: usize,
    /// Width inside the feed-forward part.
    pub intermediate: usize,
    /// Number of token ids.
    pub vocabulary: usize,
    /// The longest sequence.
    pub positions: usize,
    /// What every norm adds to the mean square.
    pub rms_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
}

#[cfg(test)]
mod tests;
