//! Tensors and comparisons for the tests of this crate.

use burn::tensor::{Device, Tensor, TensorData};

use crate::DecoderConfig;
use crate::decoder::config::Family;
use crate::rope::{Rope, RopeScaling};
use crate::sampling::{key, uniform};

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
    pub(crate) fn small(family: Family) -> Self {
        Self {
            family,
            hidden: 24,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_width: 8,
            intermediate: 40,
            vocabulary: 31,
            rms_eps: 1e-6,
            tied: true,
            qkv_bias: family == Family::Qwen2,
            output_bias: false,
            qk_norm: family == Family::Qwen3,
            rope: Rope { theta: 10_000.0, scaling: RopeScaling::Default },
            max_positions: 512,
            stated_positions: 512,
            initializer_range: 0.02,
            eos_ids: vec![0],
            bos_id: None,
            padding_id: None,
        }
    }
}
