//! The weights of one policy version as actors take them: in the form that decoding reads, and in no other.
//!
//! Packing takes as long as some decode steps, so whoever publishes weights packs them before: an actor that begins
//! a segment takes a reference and nothing else. All actors, and an evaluation at the same precision, share what is
//! packed, and it goes with the last of them. The decoder that it was made of is the learner's alone, who changes it
//! in place.

use std::sync::Arc;

use kernels::{DecodeWeights, Decoder, KernelError, Precision};
use rollout::DecodePrecision;

/// The weights of one policy version.
#[derive(Debug)]
pub struct Policy {
    weights: Arc<DecodeWeights>,
    precision: Precision,
}

impl Policy {
    /// Packs a decoder's weights.
    ///
    /// # Errors
    /// If the precision is not f32 and the decoder lies on a device other than the CPU.
    pub fn new(decoder: &Decoder, precision: Precision) -> Result<Self, KernelError> {
        Ok(Self { weights: Arc::new(DecodeWeights::rounded(decoder, precision)?), precision })
    }

    /// The precision of the weights.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What decoding reads.
    #[must_use]
    pub fn weights(&self) -> &Arc<DecodeWeights> {
        &self.weights
    }
}

/// The precision of `[rollout]` as `kernels` knows it.
#[must_use]
pub fn precision(precision: DecodePrecision) -> Precision {
    match precision {
        DecodePrecision::F32 => Precision::F32,
        DecodePrecision::Bf16 => Precision::Bf16,
        DecodePrecision::I8 => Precision::I8,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kernels::{DecoderConfig, Device};
    use serde_json::json;

    use super::*;

    fn decoder() -> Decoder {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 24, "hidden_size": 16,
            "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 8, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
            "tie_word_embeddings": false, "initializer_range": 0.4, "hidden_act": "silu",
        });
        let config = DecoderConfig::from_json(Path::new("config.json"), &config).unwrap();
        Decoder::random(config, 1, &Device::flex())
    }

    #[test]
    fn a_policy_is_packed_at_its_precision() {
        let bytes = |precision| Policy::new(&decoder(), precision).unwrap().weights().bytes();
        let [whole, half, quarter] = [DecodePrecision::F32, DecodePrecision::Bf16, DecodePrecision::I8]
            .map(|name| bytes(precision(name)));
        assert_eq!(half * 2, whole);
        assert!(quarter < half, "{quarter} and {half}");
    }
}
