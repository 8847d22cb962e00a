//! The section `[learner.gradients]`: how the gradients of a step are computed. All kinds give the same ones.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::at_least_one;
use crate::error::LearnerError;

/// The section `[learner.gradients]`, and `[sft.gradients]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum GradientsConfig {
    /// Layers and head go backward in chunks of the sequence; only the layers' inputs are kept.
    Streambp(StreambpConfig),
    /// Gradient checkpointing: the layers' inputs are kept, and each layer is computed again whole.
    Checkpointed {},
    /// Backpropagation that keeps every activation.
    Whole {},
}

impl Default for GradientsConfig {
    fn default() -> Self {
        Self::Streambp(StreambpConfig::default())
    }
}

impl GradientsConfig {
    /// The keys of StreamBP, where it is the kind.
    #[must_use]
    pub fn streambp(&self) -> Option<&StreambpConfig> {
        match self {
            Self::Streambp(config) => Some(config),
            Self::Checkpointed {} | Self::Whole {} => None,
        }
    }

    /// The keys of StreamBP, where it is the kind.
    pub fn streambp_mut(&mut self) -> Option<&mut StreambpConfig> {
        match self {
            Self::Streambp(config) => Some(config),
            Self::Checkpointed {} | Self::Whole {} => None,
        }
    }

    /// The same gradients to the bit of rounding, by the default keys: what is left is what changes numbers.
    #[must_use]
    pub fn what_changes_numbers(&self) -> Self {
        let layer_inputs = match self.streambp().map(|config| config.layer_inputs) {
            Some(LayerInputsPlace::Bf16) => LayerInputsPlace::Bf16,
            _ => LayerInputsPlace::Memory,
        };
        Self::Streambp(StreambpConfig { layer_inputs, ..StreambpConfig::default() })
    }

    /// The cuts of the passes at this temperature.
    #[must_use]
    pub fn plan(&self, temperature: f64) -> kernels::ChunkPlan {
        let unused = StreambpConfig::default();
        let (path, keys) = match self {
            Self::Streambp(config) => (kernels::GradientPath::StreamBp, config),
            Self::Checkpointed {} => (kernels::GradientPath::Checkpointed, &unused),
            Self::Whole {} => (kernels::GradientPath::Unchunked, &unused),
        };
        kernels::ChunkPlan {
            path,
            layer_chunk_tokens: keys.layer_chunk_tokens,
            head_chunk_tokens: keys.head_chunk_tokens,
            attention_kept_bytes: keys.attention_kept_mib << 20,
            activations_kept_bytes: keys.activations_kept_mib << 20,
            layer_inputs: keys.layer_inputs(),
            temperature,
        }
    }

    /// Says which value is invalid.
    ///
    /// # Errors
    /// [`LearnerError::Config`] for a chunk of no tokens, for more memory than there is anywhere, or for a folder of a
    /// file that is not written.
    pub fn check(&self) -> Result<(), LearnerError> {
        self.streambp().map_or(Ok(()), StreambpConfig::check)
    }
}

/// The keys of `kind = "streambp"` (arXiv 2506.03077). They change memory and time; no number but by roundings of the
/// layers' inputs, where they are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreambpConfig {
    /// Tokens of a chunk inside a layer.
    #[serde(default = "StreambpConfig::default_layer_chunk_tokens")]
    pub layer_chunk_tokens: usize,
    /// Tokens of a chunk of the head and the loss.
    #[serde(default = "StreambpConfig::default_head_chunk_tokens")]
    pub head_chunk_tokens: usize,
    /// Attention's results of as many layers as fit into so many MiB are kept for the backward pass, which is
    /// faster than computing them again; 0 keeps none.
    #[serde(default = "StreambpConfig::default_attention_kept_mib")]
    pub attention_kept_mib: u64,
    /// Of these layers, the other activations of as many as fit into so many MiB are kept as well: a fifth of the
    /// products of a step is then not computed again; 0 keeps none. On the CPU only.
    #[serde(default = "StreambpConfig::default_activations_kept_mib")]
    pub activations_kept_mib: u64,
    /// Where the layers' inputs wait for the backward pass; anything but memory is for the CPU only.
    #[serde(default)]
    pub layer_inputs: LayerInputsPlace,
    /// Folder of the file with `layer_inputs = "file"`; absent is the system's folder for temporary files. That
    /// folder should be on a disk: some systems keep theirs in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_inputs_dir: Option<PathBuf>,
}

/// Where the inputs of the layers wait for the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerInputsPlace {
    /// In memory, as they are.
    #[default]
    Memory,
    /// In memory, rounded to bfloat16: half as much, with gradients of rounded inputs.
    Bf16,
    /// In a file, to the bit. It has no name, so that nothing is left of it.
    File,
}

impl StreambpConfig {
    /// The paper's choice for length.
    fn default_layer_chunk_tokens() -> usize {
        512
    }

    /// The paper suggests 100 to 1024.
    fn default_head_chunk_tokens() -> usize {
        256
    }

    /// All layers of a small model at some ten thousand tokens, and little beside a large model's gradients.
    fn default_attention_kept_mib() -> u64 {
        96
    }

    /// All layers of a small model at some ten thousand tokens.
    fn default_activations_kept_mib() -> u64 {
        256
    }
}

impl StreambpConfig {
    fn layer_inputs(&self) -> kernels::LayerInputs {
        match self.layer_inputs {
            LayerInputsPlace::Memory => kernels::LayerInputs::Memory,
            LayerInputsPlace::Bf16 => kernels::LayerInputs::Bf16,
            LayerInputsPlace::File => {
                kernels::LayerInputs::File(self.layer_inputs_dir.clone().unwrap_or_else(std::env::temp_dir))
            }
        }
    }

    fn check(&self) -> Result<(), LearnerError> {
        for (key, mib) in [
            ("learner.gradients.attention_kept_mib", self.attention_kept_mib),
            ("learner.gradients.activations_kept_mib", self.activations_kept_mib),
        ] {
            if mib > 1 << 40 {
                return Err(LearnerError::config(key, format!("{mib} MiB are more than any machine has")));
            }
        }
        if self.layer_inputs_dir.is_some() && self.layer_inputs != LayerInputsPlace::File {
            let reason = "is given, but layer_inputs is not \"file\"";
            return Err(LearnerError::config("learner.gradients.layer_inputs_dir", reason));
        }
        at_least_one("learner.gradients.layer_chunk_tokens", self.layer_chunk_tokens)?;
        at_least_one("learner.gradients.head_chunk_tokens", self.head_chunk_tokens)
    }
}

impl Default for StreambpConfig {
    fn default() -> Self {
        Self {
            layer_chunk_tokens: Self::default_layer_chunk_tokens(),
            head_chunk_tokens: Self::default_head_chunk_tokens(),
            attention_kept_mib: Self::default_attention_kept_mib(),
            activations_kept_mib: Self::default_activations_kept_mib(),
            layer_inputs: LayerInputsPlace::default(),
            layer_inputs_dir: None,
        }
    }
}
