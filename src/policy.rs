//! The weights of one policy version as actors take them: the model, and the form that decoding reads.
//!
//! Packing takes as long as some decode steps, so whoever publishes weights packs them before: an actor that begins
//! a segment takes a reference and nothing else. All actors, and an evaluation at the same precision, share what is
//! packed, and it goes with the last of them.

use std::fmt;
use std::sync::{Arc, OnceLock};

use kernels::{DecodeWeights, Decoder, KernelError, Precision};
use rollout::DecodePrecision;

/// The weights of one policy version.
pub struct Policy {
    decoder: Arc<Decoder>,
    precision: Precision,
    packed: OnceLock<DecodeWeights>,
}

impl Policy {
    /// Weights that are packed when they are first decoded with.
    ///
    /// # Errors
    /// If the precision is not f32 and the decoder lies on a device other than the CPU.
    pub fn new(decoder: Arc<Decoder>, precision: Precision) -> Result<Self, KernelError> {
        DecodeWeights::check(&decoder, precision)?;
        Ok(Self { decoder, precision, packed: OnceLock::new() })
    }

    /// Weights that are packed here.
    ///
    /// # Errors
    /// As [`Policy::new`].
    pub fn packed(decoder: Arc<Decoder>, precision: Precision) -> Result<Self, KernelError> {
        let policy = Self::new(decoder, precision)?;
        policy.weights();
        Ok(policy)
    }

    /// The model.
    #[must_use]
    pub fn decoder(&self) -> &Arc<Decoder> {
        &self.decoder
    }

    /// In how many bits the weights are held that decoding reads.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What decoding reads. Whoever comes first packs it, and the others wait for that.
    pub fn weights(&self) -> &DecodeWeights {
        self.packed.get_or_init(|| {
            DecodeWeights::rounded(&self.decoder, self.precision).expect("checked when the policy was made")
        })
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packed = self.packed.get().is_some();
        f.debug_struct("Policy").field("precision", &self.precision).field("packed", &packed).finish()
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

    fn decoder() -> Arc<Decoder> {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 24, "hidden_size": 16,
            "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 8, "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
            "tie_word_embeddings": false, "initializer_range": 0.4, "hidden_act": "silu",
        });
        let config = DecoderConfig::from_json(Path::new("config.json"), &config).unwrap();
        Arc::new(Decoder::random(config, 1, &Device::flex()))
    }

    #[test]
    fn weights_are_packed_once_for_all_that_share_them() {
        let policy = Arc::new(Policy::new(decoder(), Precision::F32).unwrap());
        assert!(policy.packed.get().is_none());
        let places: Vec<usize> = std::thread::scope(|scope| {
            let ask = || std::ptr::from_ref(policy.weights()) as usize;
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(places.iter().all(|place| *place == places[0]));
        assert!(Policy::packed(decoder(), Precision::F32).unwrap().packed.get().is_some());
    }

    #[test]
    fn a_policy_is_packed_at_its_precision() {
        let bytes = |precision| Policy::packed(decoder(), precision).unwrap().weights().bytes();
        let [whole, half, quarter] = [DecodePrecision::F32, DecodePrecision::Bf16, DecodePrecision::I8]
            .map(|name| bytes(precision(name)));
        assert_eq!(half * 2, whole);
        assert!(quarter < half, "{quarter} and {half}");
    }
}
