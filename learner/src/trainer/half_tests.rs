//! Weights in bf16, and moments that take less than AdamW's in f32: what a step makes of them, and that a checkpoint brings
//! them back.

use std::path::Path;

use burn::tensor::Device;
use kernels::{Decoder, DecoderConfig};
use serde_json::{Value, json};

use super::*;
use crate::checkpoint::{self, Restore};
use crate::optimizer::{OptimizerConfig, Rounding};
use crate::testing::{VOCABULARY, cpu, groups, learner_config};

/// A Llama whose feed-forward matrices have more numbers than moments in f32 are kept for.
fn model(seed: u64) -> Decoder {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY,
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "initializer_range": 0.3, "hidden_act": "silu",
    });
    let config = DecoderConfig::from_json(Path::new("config.json"), &config).unwrap();
    Decoder::random(config, seed, &Device::flex())
}

/// AdamW at a rate that moves some weights and not others by a step of bf16, with changes.
fn optimizer(changes: &Value) -> OptimizerConfig {
    let mut config = json!({
        "kind": "adamw", "learning_rate": 1e-3, "betas": [0.9, 0.95], "weight_decay": 0.01, "clip_norm": 1.0,
    });
    for (key, change) in changes.as_object().unwrap().iter().filter(|(key, _)| *key != "rounding") {
        config[key] = change.clone();
    }
    serde_json::from_value(config).unwrap()
}

fn rounding(changes: &Value) -> Rounding {
    let rounding = changes.get("rounding").map(|rounding| serde_json::from_value(rounding.clone()).unwrap());
    rounding.unwrap_or_default()
}

fn learner(decoder: Decoder, half: bool, changes: &Value) -> Trainer {
    let learner = Trainer::new(cpu(), decoder, learner_config(), optimizer(changes), 1.0, 10, None).unwrap();
    if half { learner.in_half_precision(rounding(changes), 7) } else { learner }
}

fn numbers(decoder: &Decoder) -> Vec<f32> {
    let weights = decoder.effective_weights();
    let tensors = weights.named().into_iter();
    tensors.flat_map(|(_, tensor)| tensor.to_data().iter::<f32>().collect::<Vec<_>>()).collect()
}

/// Matrices alone.
fn matrices(decoder: &Decoder) -> Vec<f32> {
    let weights = decoder.effective_weights();
    let matrices = weights.named().into_iter().filter(|(_, tensor)| tensor.dims()[0] > 1);
    matrices.flat_map(|(_, tensor)| tensor.to_data().iter::<f32>().collect::<Vec<_>>()).collect()
}

/// Upper halves of f32, rounded to the nearest.
fn is_half(number: f32) -> bool {
    number.to_bits() & 0xffff == 0
}

fn forms() -> Vec<(bool, Value)> {
    vec![
        (false, json!({"moments": "int8"})),
        (false, json!({"kind": "adafactor"})),
        (true, json!({})),
        (true, json!({"kind": "sgd", "learning_rate": 0.1})),
        (true, json!({"rounding": "stochastic"})),
        (true, json!({"rounding": "stochastic", "kind": "adafactor"})),
        (true, json!({"rounding": "stochastic", "moments": "int8"})),
    ]
}

// Invariant 9 for every form of weights and moments.
#[test]
fn every_form_is_taken_up_bit_for_bit() {
    for (half, changes) in forms() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("step-1");
        let mut unbroken = learner(model(1), half, &changes);
        let before = numbers(unbroken.decoder());
        unbroken.step(&groups()).unwrap();
        checkpoint::save(&dir, &unbroken, &[]).unwrap();
        assert_ne!(numbers(unbroken.decoder()), before, "{changes}");
        let stored = Decoder::load(&dir, &Device::flex()).unwrap();
        let mut resumed = learner(stored, half, &changes);
        checkpoint::load(&dir, &mut resumed, Restore::Everything).unwrap();
        assert_eq!(numbers(resumed.decoder()), numbers(unbroken.decoder()), "{changes}");
        let (a, b) = (unbroken.step(&groups()).unwrap(), resumed.step(&groups()).unwrap());
        assert_eq!(a.update, b.update, "{changes}");
        assert_eq!(numbers(unbroken.decoder()), numbers(resumed.decoder()), "{changes}");
        assert_eq!(matrices(unbroken.decoder()).into_iter().all(is_half), half, "{changes}");
    }
}

/// Master weights go on where steps are too small for bf16, and passes see them rounded.
#[test]
fn weights_in_half_precision_are_their_masters_rounded() {
    let mut half = learner(model(1), true, &json!({}));
    let rounded = numbers(half.decoder());
    let whole = model(1);
    assert!(
        rounded.iter().zip(numbers(&whole)).all(|(half, whole)| (half - whole).abs() <= whole.abs() / 256.0)
    );
    // The first step's loss and gradient are those of the rounded weights.
    let plain = Decoder { weights: half.decoder().effective_weights().into_owned().into(), ..whole };
    let mut plain = learner(plain, false, &json!({}));
    let (a, b) = (half.step(&groups()).unwrap(), plain.step(&groups()).unwrap());
    let (a, b) = (a.update.unwrap(), b.update.unwrap());
    assert_eq!((a.loss, a.grad_norm), (b.loss, b.grad_norm));
    let master = half.state.kept();
    assert!(!matrices(master).into_iter().all(is_half), "master weights are in f32");
    let again = master.clone().packed(kernels::Precision::Bf16);
    assert_eq!(numbers(half.decoder()), numbers(&again));
}

/// Without masters a step is made in the mean, and it is another one under another seed.
#[test]
fn rounding_at_random_follows_the_seed() {
    let changes = json!({"rounding": "stochastic"});
    let step = |seed| {
        let new =
            Trainer::new(cpu(), model(1), learner_config(), optimizer(&changes), 1.0, 10, None).unwrap();
        let mut learner = new.in_half_precision(Rounding::Stochastic, seed);
        learner.step(&groups()).unwrap();
        numbers(learner.decoder())
    };
    let (first, again, other) = (step(1), step(1), step(2));
    assert_eq!(first, again);
    let differ = first.iter().zip(&other).filter(|(one, other)| one != other).count();
    assert!(differ > first.len() / 100, "{differ} of {}", first.len());
}

#[test]
fn moments_of_another_form_are_refused_by_their_key() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("step-0");
    checkpoint::save(&dir, &learner(model(1), false, &json!({"moments": "int8"})), &[]).unwrap();
    for (changes, key) in [(json!({}), "optimizer.moments"), (json!({"kind": "adafactor"}), "optimizer.kind")]
    {
        let mut other = learner(model(1), false, &changes);
        let message = checkpoint::load(&dir, &mut other, Restore::Everything).unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
    }
}
