//! Tensors and comparisons for the tests of this crate.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};

use crate::model::families::{self, Family};
use crate::model::families::{granite, smollm3};
use crate::model::spec::{AttentionVariant, ExpertsSpec, ModelSpec};
use crate::rope::{Rope, RopeScaling};
use crate::sampling::{key, uniform};
use crate::{Decoder, DecoderConfig, LlamaShape, Lora, LoraConfig, TargetModules};

/// Numbers between -1 and 1 that depend on the seed alone.
pub(crate) fn noise<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    let count = shape.iter().product::<usize>() as u64;
    let key = key(&[seed]);
    let values: Vec<f32> = (0..count).map(|i| (uniform(key, i) * 2.0 - 1.0) as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

/// The numbers of a tensor.
pub(crate) fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.inner().into_data().try_to_vec().expect("an f32 tensor")
}

/// 2-norm of the difference over the 2-norm of the second, or over 1e-3 where that is smaller.
pub(crate) fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().all(|x| x.is_finite()), "a number that is not finite");
    let norm = |numbers: &mut dyn Iterator<Item = f32>| {
        numbers.map(|x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
    };
    let difference = norm(&mut found.iter().zip(expected).map(|(x, y)| x - y));
    (difference / norm(&mut expected.iter().copied()).max(1e-3)) as f32
}

/// Asserts that two tensors agree to within a relative error.
pub(crate) fn assert_close<const D: usize>(what: &str, found: Tensor<D>, expected: Tensor<D>, within: f32) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let error = relative_error(&numbers(found), &numbers(expected));
    assert!(error <= within, "{what}: relative error {error:e} over {within:e}");
}

impl DecoderConfig {
    /// A model that a test computes in no time.
    pub(crate) fn small(family: &'static Family) -> Self {
        let shape = LlamaShape {
            hidden: 24,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            intermediate: 40,
            vocabulary: 31,
            positions: 512,
            rms_eps: 1e-6,
            rope_theta: 10_000.0,
        };
        let config = Self { family, head_width: 8, eos_ids: vec![0], ..Self::llama(shape) };
        Self { spec: spec_of(family, 24, 1e-6, 10_000.0), ..config }
    }

    /// With biases in attention or not.
    pub(crate) fn with_biases(mut self, qkv: bool, output: bool) -> Self {
        (self.spec.block.qkv_bias, self.spec.block.output_bias) = (qkv, output);
        self
    }
}

/// A Gemma whose window reaches over blocks of the cache.
pub(crate) fn gemma_with_a_window(window: usize) -> DecoderConfig {
    let mut config = DecoderConfig::small(&families::gemma::GEMMA3);
    config.spec.attention.iter_mut().filter_map(|kind| kind.window.as_mut()).for_each(|own| *own = window);
    DecoderConfig { initializer_range: 0.3, ..config }
}

/// What a family computes in a small model. Gemma's layers have a short window, but for every third; a Qwen3-MoE has
/// experts in two of three layers.
pub(crate) fn spec_of(family: &'static Family, hidden: usize, eps: f64, theta: f64) -> ModelSpec {
    let rope = |theta| Rope { theta, scaling: RopeScaling::Default };
    let llama = ModelSpec::llama(eps, rope(theta));
    match family.model_type {
        "qwen2" => families::qwen::qwen2(llama),
        "qwen3" => families::qwen::qwen3(llama, false),
        "qwen3_moe" => {
            let layers = vec![true, false, true];
            let experts = ExpertsSpec { count: 8, chosen: 2, intermediate: 12, normalised: true, layers };
            ModelSpec { experts: Some(experts), ..families::qwen::qwen3(llama, false) }
        }
        "mistral" => families::llama::mistral(llama, Some(9)),
        "smollm3" => {
            let layers = [(None, true), (Some(7), false), (None, false)];
            let variants = layers.map(|(window, rotates)| smollm3::variant(window, rotates, &rope(theta)));
            ModelSpec { attention: variants.to_vec(), ..llama }
        }
        "granite" => {
            let multipliers =
                granite::Multipliers { embedding: 3.0, attention: 0.3, residual: 0.4, logits_scaling: 2.5 };
            granite::granite(llama, multipliers)
        }
        "gemma3_text" => {
            let sliding = AttentionVariant { window: Some(5), rope: rope(theta / 10.0) };
            let full = AttentionVariant { window: None, rope: rope(theta) };
            let block = families::gemma::block(eps, false, Some(0.3));
            families::gemma::spec(block, hidden, vec![sliding.clone(), full, sliding])
        }
        _ => llama,
    }
}

/// A small model of a family whose numbers are not all near 0.
pub(crate) fn wide(family: &'static Family) -> DecoderConfig {
    DecoderConfig { initializer_range: 0.3, ..DecoderConfig::small(family) }
}

/// Shapes that fill no vector and no panel, with every part that a family can have.
pub(crate) fn odd_shapes() -> Vec<DecoderConfig> {
    vec![
        wide(&families::llama::LLAMA),
        wide(&families::qwen::QWEN2),
        wide(&families::qwen::QWEN3),
        DecoderConfig {
            heads: 6,
            head_width: 18,
            tied: false,
            vocabulary: 131,
            ..wide(&families::llama::MISTRAL)
        },
        DecoderConfig { heads: 3, kv_heads: 1, ..wide(&families::llama::LLAMA).with_biases(true, true) },
        DecoderConfig {
            hidden: 72,
            heads: 2,
            head_width: 64,
            intermediate: 200,
            ..wide(&families::qwen::QWEN3)
        },
        DecoderConfig { layers: 3, head_width: 18, ..wide(&families::gemma::GEMMA3) },
        gemma_with_a_window(70),
        DecoderConfig { layers: 3, kv_heads: 1, ..wide(&families::smollm3::SMOLLM3).with_biases(true, true) },
        DecoderConfig { tied: false, hidden: 40, ..wide(&families::granite::GRANITE) },
    ]
}

/// The decoder with adapters for these modules, of which none is 0.
pub(crate) fn adapted(mut decoder: Decoder, targets: TargetModules) -> Decoder {
    let form = LoraConfig { rank: 3, alpha: 4.5, target_modules: targets, use_rslora: false };
    let device = decoder.device();
    let mut lora = Lora::new(form, &decoder.config, Path::new("base"), 11, &device).unwrap();
    for (number, adapter) in lora.adapters.values_mut().into_iter().flatten().enumerate() {
        adapter.b = noise(adapter.b.dims(), 100 + number as u64) * 0.2;
    }
    decoder.lora = Some(lora);
    decoder
}

/// Some modules of a model, of each kind of product one. Experts have no adapters.
pub(crate) fn some_modules(config: &DecoderConfig) -> TargetModules {
    let dense = ["v_proj", "o_proj", "up_proj"].map(str::to_owned);
    let modules = if config.spec.experts.is_some() { &dense[..2] } else { &dense };
    TargetModules::Named(modules.to_vec())
}

/// Shapes with experts, apart from [`odd_shapes`] because roundings that choose another expert move numbers as far as no
/// other rounding does.
pub(crate) fn expert_shapes() -> Vec<DecoderConfig> {
    let mut few = wide(&families::qwen3_moe::QWEN3_MOE).with_biases(true, true);
    let layers = vec![true];
    few.spec.experts = Some(ExpertsSpec { count: 5, chosen: 3, intermediate: 70, normalised: false, layers });
    vec![
        DecoderConfig { layers: 3, ..wide(&families::qwen3_moe::QWEN3_MOE) },
        DecoderConfig { hidden: 72, tied: false, vocabulary: 131, ..few },
    ]
}

/// [`odd_shapes`] and [`expert_shapes`].
pub(crate) fn all_shapes() -> Vec<DecoderConfig> {
    odd_shapes().into_iter().chain(expert_shapes()).collect()
}

/// Weights of which none is what a fresh model begins with.
pub(crate) fn odd_decoder(config: DecoderConfig) -> Decoder {
    let mut decoder = Decoder::random(config, 5, &Device::flex());
    for (number, weight) in decoder.weights.tensors_mut().values_mut().into_iter().enumerate() {
        let noise = noise(weight.dims(), number as u64);
        *weight = weight.clone() + noise * 0.1;
    }
    decoder
}
