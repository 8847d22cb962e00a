//! The weights of one policy version as actors take them: in the form that decoding reads, and in no other.
//!
//! Packing takes as long as some decode steps, so whoever publishes weights packs them before: an actor that begins
//! a segment takes a reference and nothing else. Where adapters are trained, all versions share what is packed of their
//! base, and a version is its adapters alone. All actors, and an evaluation at the same precision, share what is
//! packed, and it goes with the last of them. The decoder that it was made of is the learner's alone, who changes it
//! in place.

use std::path::Path;
use std::sync::Arc;

use kernels::sampling::SamplingConfig;
use kernels::{Decoder, DecoderConfig, Engine, KernelError, Lora, Precision};
use rollout::Sampling;

/// The weights of one policy version.
#[derive(Debug)]
pub struct Policy<E: Engine> {
    weights: Arc<E::Weights>,
    precision: Precision,
}

impl<E: Engine> Policy<E> {
    /// Prepares a decoder's weights.
    ///
    /// # Errors
    /// If the engine does not decode with weights of the precision.
    pub fn new(engine: &E, decoder: &Decoder, precision: Precision) -> Result<Self, KernelError> {
        Ok(Self { weights: Arc::new(engine.prepare(decoder, precision)?), precision })
    }

    /// Reads the weights of a Hugging Face directory, for who does not train them.
    ///
    /// # Errors
    /// Names the file that is missing or wrong, or says that the engine has no weights of the precision.
    pub fn load(
        engine: &E,
        dir: &Path,
        config: &DecoderConfig,
        precision: Precision,
    ) -> Result<Self, KernelError> {
        Ok(Self { weights: Arc::new(engine.load(dir, config, precision)?), precision })
    }

    /// The next version of these weights: what a decoder's training has not changed is shared.
    ///
    /// # Errors
    /// As [`Policy::new`].
    pub fn next(&self, engine: &E, decoder: &Decoder) -> Result<Self, KernelError> {
        match &decoder.lora {
            Some(lora) => Ok(self.adapted(engine, lora)),
            None => Self::new(engine, decoder, self.precision),
        }
    }

    /// The same model with other adapters.
    #[must_use]
    pub fn adapted(&self, engine: &E, lora: &Lora) -> Self {
        Self { weights: Arc::new(engine.adapt(&self.weights, lora)), precision: self.precision }
    }

    /// The precision of the weights.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// What decoding reads.
    #[must_use]
    pub fn weights(&self) -> &Arc<E::Weights> {
        &self.weights
    }
}

/// How tokens are drawn as `kernels` knows it.
#[must_use]
pub fn sampling(sampling: Sampling) -> SamplingConfig {
    let Sampling { temperature, top_p, top_k } = sampling;
    SamplingConfig { temperature, top_p, top_k }
}

#[cfg(test)]
mod tests {
    use kernels::{Cpu, Device, EngineWeights};
    use rollout::DecodePrecision;
    use serde_json::json;

    use super::*;
    use crate::config::weights_precision;

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
        let engine = Cpu::default();
        let bytes = |precision| Policy::new(&engine, &decoder(), precision).unwrap().weights().bytes();
        let [whole, half, quarter] = [DecodePrecision::F32, DecodePrecision::Bf16, DecodePrecision::I8]
            .map(|name| bytes(weights_precision(name)));
        assert_eq!(half * 2, whole);
        assert!(quarter < half, "{quarter} and {half}");
    }
}
