//! The model and the recorded completions of the PyTorch fixtures, and the comparison of a step with PyTorch's gradient.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use kernels::{Cpu, Decoder, TrainingEngine, Weights};
use learner::{LearnerConfig, OptimizerConfig};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use trajectory::Group;

/// Of the norm of a tensor's gradient.
const RELATIVE_ERROR_MAX: f64 = 1e-4;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// The engine of the tests.
pub(crate) fn cpu() -> Arc<dyn TrainingEngine> {
    Arc::new(Cpu::default())
}

/// One of the two models, `model` or `reference`.
pub(crate) fn decoder(name: &str) -> Decoder {
    Decoder::load(&fixtures().join("replay").join(name), &Device::flex()).unwrap()
}

/// Five groups of four completions.
pub(crate) fn groups() -> Vec<Group> {
    trajectory::read_groups(&fixtures().join("replay/completions.jsonl")).unwrap()
}

/// PyTorch's value of a loss, and the constants of all of them.
pub(crate) fn expected_loss(name: &str) -> (f64, Value) {
    let text = std::fs::read(fixtures().join("slopes/losses.json")).unwrap();
    let file: Value = serde_json::from_slice(&text).unwrap();
    (file["losses"][name].as_f64().unwrap(), file["constants"].clone())
}

/// Dr. GRPO on the policy itself, everything else off, cut into micro-batches of so many tokens.
pub(crate) fn learner_config(batch_tokens_max: usize) -> LearnerConfig {
    let config = json!({
        "groups_per_step": 5, "batch_tokens_max": batch_tokens_max, "advantage": {"kind": "dr_grpo"},
        "importance": {"kind": "pois"},
        "gradients": {"kind": "streambp", "layer_chunk_tokens": 7, "head_chunk_tokens": 5},
    });
    serde_json::from_value(config).unwrap()
}

/// Moves the weights by the gradient, so that their change is the gradient.
pub(crate) fn plain_descent() -> OptimizerConfig {
    serde_json::from_value(json!({"kind": "sgd", "learning_rate": 1.0})).unwrap()
}

fn numbers(tensor: &Tensor<2>) -> Vec<f64> {
    tensor.to_data().iter::<f64>().collect()
}

fn norm(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.map(|number| number * number).sum::<f64>().sqrt()
}

/// Fails where the change of a tensor is not PyTorch's gradient of this loss.
pub(crate) fn assert_gradients(name: &str, before: &Weights<Tensor<2>>, after: &Weights<Tensor<2>>) {
    let bytes = std::fs::read(fixtures().join("slopes/gradients.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for ((tensor, before), (_, after)) in before.named().into_iter().zip(after.named()) {
        let stored = file.tensor(&format!("{name}/{tensor}")).unwrap();
        let (values, _) = stored.data().as_chunks::<4>();
        let expected = || values.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
        let found: Vec<f64> = numbers(before).into_iter().zip(numbers(after)).map(|(b, a)| b - a).collect();
        assert_eq!(found.len(), values.len(), "{tensor}");
        let error = norm(found.iter().zip(expected()).map(|(a, b)| a - b)) / norm(expected());
        assert!(error < RELATIVE_ERROR_MAX, "{name}: the gradient of {tensor} is off by {error}");
    }
}
