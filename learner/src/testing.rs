//! Small models, groups and settings for the tests of this crate.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use kernels::{Cpu, Decoder, DecoderConfig, Lora, TrainingEngine};
use serde_json::json;
use trajectory::Group;
use trajectory::random::Random;

use crate::config::{LearnerConfig, LoraSection};
use crate::optimizer::OptimizerConfig;

pub(crate) const VOCABULARY: u32 = 24;

/// The engine of the tests.
pub(crate) fn cpu() -> Arc<dyn TrainingEngine> {
    Arc::new(Cpu::default())
}

/// A Llama of two layers whose distributions are far from flat.
pub(crate) fn decoder(seed: u64) -> Decoder {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY,
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": false, "initializer_range": 0.4, "hidden_act": "silu",
    });
    let config = DecoderConfig::from_json(Path::new("config.json"), &config).unwrap();
    Decoder::random(config, seed, &Device::flex())
}

/// The form of adapters for these modules.
pub(crate) fn lora_section(targets: &[&str]) -> LoraSection {
    let section = json!({"rank": 3, "alpha": 6.0, "target_modules": targets});
    serde_json::from_value(section).unwrap()
}

/// The same model with adapters that change what it computes.
pub(crate) fn adapted(mut decoder: Decoder, targets: &[&str]) -> Decoder {
    let (form, device) = (lora_section(targets).form(), Device::flex());
    let mut lora = Lora::new(form, &decoder.config, Path::new("base"), 5, &device).unwrap();
    for (place, adapter) in lora.adapters.values_mut().into_iter().flatten().enumerate() {
        let shape = adapter.b.dims();
        let numbers = (0..shape[0] * shape[1]).map(|at| ((at * 7 + place) % 11) as f32 / 40.0 - 0.125);
        adapter.b = Tensor::from_data(TensorData::new(numbers.collect::<Vec<f32>>(), shape), &device);
    }
    decoder.lora = Some(lora);
    decoder
}

/// All parameters, one after the other.
pub(crate) fn weights_of(decoder: &Decoder) -> Vec<f32> {
    let mut values = Vec::new();
    decoder.weights.tensors().for_each(|_, tensor| values.extend(tensor.to_data().iter::<f32>()));
    values
}

/// What is trained, one after the other.
pub(crate) fn trained_of(decoder: &Decoder) -> Vec<f32> {
    decoder.trained().iter().flat_map(|own| own.value.to_data().iter::<f32>().collect::<Vec<_>>()).collect()
}

/// A completion of a group: whether it is right, its surrogate reward, its tokens.
pub(crate) type Member = (bool, f64, usize);

/// A group with ids and actor log-probabilities that depend on its number alone. Completions of three or
/// more tokens have two segments, of versions 0 and 1. It is made as a recording is read, so that this
/// crate need not know the types of rewards.
pub(crate) fn group(id: u64, prompt_tokens: usize, members: &[Member]) -> Group {
    let mut random = Random::new(id);
    let mut below = move |limit: u32| random.below(limit as usize) as u32;
    let prompt: Vec<u32> = (0..prompt_tokens).map(|_| below(VOCABULARY)).collect();
    let mut lines = String::new();
    for (right, surrogate, length) in members {
        let ids: Vec<u32> = (0..*length).map(|_| below(VOCABULARY)).collect();
        let logprobs: Vec<f32> = (0..*length).map(|_| -0.5 - below(400) as f32 / 100.0).collect();
        let segments = match length {
            0..3 => json!([{"version": 0, "tokens": length}]),
            _ => json!([{"version": 0, "tokens": length / 2}, {"version": 1, "tokens": length - length / 2}]),
        };
        let correctness = u8::from(*right);
        let record = json!({
            "group": format!("prompt-{id}"), "prompt_tokens": prompt, "completion_tokens": ids,
            "actor_logprobs": logprobs, "segments": segments, "reward": f64::from(correctness) + surrogate,
            "correctness": correctness, "parts": {"math": correctness, "length": surrogate},
            "finish": if *length > 8 { "length" } else { "stop" }, "prompt": "", "completion": "",
        });
        lines += &format!("{record}\n");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines).unwrap();
    let mut group = trajectory::read_groups(file.path()).unwrap().remove(0);
    group.id = id;
    group
}

/// Three groups: mixed, all right, all wrong.
pub(crate) fn groups() -> Vec<Group> {
    vec![
        group(0, 3, &[(true, 0.5, 7), (false, 0.0, 2), (false, 0.1, 9)]),
        group(1, 1, &[(true, 0.25, 5), (true, 0.25, 8), (true, 0.25, 3)]),
        group(2, 5, &[(false, 0.0, 6), (false, 0.0, 10), (false, 0.0, 1)]),
    ]
}

/// GRPO with everything else off.
pub(crate) fn learner_config() -> LearnerConfig {
    let config = json!({
        "groups_per_step": 3, "batch_tokens_max": 1000, "advantage": {"kind": "grpo"},
        "importance": {"kind": "pois"},
        "gradients": {"kind": "streambp", "layer_chunk_tokens": 5, "head_chunk_tokens": 4},
    });
    serde_json::from_value(config).unwrap()
}

/// An optimizer of this kind that moves far in a step.
pub(crate) fn optimizer_config(kind: &str) -> OptimizerConfig {
    let learning_rate = if kind == "sgd" { 0.5 } else { 0.01 };
    serde_json::from_value(json!({"kind": kind, "learning_rate": learning_rate})).unwrap()
}

/// Largest difference relative to the largest value.
pub(crate) fn relative_error(actual: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let largest = expected.iter().fold(0.0_f64, |largest, value| largest.max(f64::from(value.abs())));
    let pairs = actual.iter().zip(expected);
    pairs.map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max) / largest.max(f64::MIN_POSITIVE)
}
