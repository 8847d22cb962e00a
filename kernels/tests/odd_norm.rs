//! A new family through the public seams alone: a Llama whose norm before the feed-forward part stores its gains less
//! one half, with an epsilon of its own. Nothing outside this file knows of it.

// A test that cannot go on says where; that is what `unwrap` does.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use burn::tensor::Tensor;
use kernels::model::families::{Family, llama};
use kernels::model::spec::{ModelSpec, NormSpec};
use kernels::sampling::logprob_and_entropy;
use kernels::{
    CachePrecision, CacheRoom, ChunkPlan, Cpu, Decoder, DecoderConfig, Device, Engine, Feed, GradientPath,
    LayerInputs, OnDevice, Packed, Precision, Slopes, TokenStats, TrainingEngine, Weights,
};
use serde_json::json;

static ODD: Family = Family {
    model_type: "odd_llama",
    architecture: "OddForCausalLM",
    read: |keys| {
        let mut config = llama::read(keys)?;
        config.spec.block.feed_forward_norm = NormSpec { eps: 1e-3, offset: 0.5 };
        Ok(config)
    },
    write: llama::write,
    supports: |spec| {
        let mut expected = ModelSpec::llama(spec.final_norm.eps, spec.attention[0].rope.clone());
        expected.block.feed_forward_norm = NormSpec { eps: 1e-3, offset: 0.5 };
        *spec == expected
    },
    tensor_names: &[("post_attention_layernorm.weight", "odd_norm.weight")],
    positions_are_stretched: false,
};

fn config(model_type: &str, eps: f64) -> serde_json::Value {
    json!({
        "model_type": model_type, "vocab_size": 31, "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 64, "rms_norm_eps": eps, "initializer_range": 0.3,
        "tie_word_embeddings": true,
    })
}

/// An odd model, from a folder that it was saved to.
fn odd() -> Decoder {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config("odd_llama", 1e-3).to_string()).unwrap();
    let config = DecoderConfig::read_as(folder.path(), &[&ODD]).unwrap();
    let made = Decoder::random(config, 5, &Device::flex());
    made.save(folder.path()).unwrap();
    let loaded = Decoder::load_as(folder.path(), &[&ODD], &Device::flex()).unwrap();
    assert_eq!(loaded.config, made.config);
    loaded
}

/// The same model as a plain Llama, whose gains are stored whole.
fn plain(odd: &Decoder) -> Decoder {
    let config = DecoderConfig::from_json(Path::new("config.json"), &config("llama", 1e-3)).unwrap();
    let mut weights = odd.weights.tensors().clone();
    for block in &mut weights.blocks {
        block.feed_forward_norm = block.feed_forward_norm.clone().add_scalar(0.5);
    }
    Decoder { config, weights: weights.into(), lora: None }
}

fn plan(path: GradientPath) -> ChunkPlan {
    ChunkPlan {
        path,
        layer_chunk_tokens: 7,
        head_chunk_tokens: 5,
        attention_kept_bytes: 0,
        activations_kept_bytes: 0,
        layer_inputs: LayerInputs::Memory,
        temperature: 1.0,
    }
}

fn text() -> Vec<u32> {
    (0..40).map(|t| (t * 7 + t * t) % 31).collect()
}

fn gradients(
    engine: &dyn TrainingEngine,
    decoder: &Decoder,
    path: GradientPath,
) -> (TokenStats, Weights<Tensor<2>>) {
    let mut sums = decoder.weights.tensors().zeros_like(engine.operations());
    let text = text();
    let batch = Packed::new([&text[..]]);
    let mut slopes = |stats: &TokenStats| {
        Slopes::of_logprobs((0..stats.logprobs.len()).map(|k| (k as f32 * 0.9).sin()).collect())
    };
    let stats = engine.gradients(decoder, &batch, &plan(path), (&mut sums).into(), &mut slopes);
    (stats.unwrap(), sums)
}

fn numbers(tensor: &Tensor<2>) -> Vec<f32> {
    tensor.to_data().iter::<f32>().collect()
}

fn assert_close(found: &[f32], expected: &[f32], within: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let norm = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| x * x).sum::<f32>().sqrt();
    let error = norm(&mut found.iter().zip(expected).map(|(x, y)| x - y));
    let size = norm(&mut expected.iter().copied());
    assert!(error <= within * size, "{what}: off by {error:e} of {size:e}");
}

#[test]
fn an_odd_norm_trains_as_the_llama_that_it_stands_for() {
    let odd = odd();
    assert!(
        (numbers(&odd.weights.tensors().blocks[0].feed_forward_norm)).iter().all(|weight| *weight == 0.5)
    );
    let (stats, expected) = gradients(&Cpu::default(), &plain(&odd), GradientPath::Unchunked);
    let engines: [&dyn TrainingEngine; 2] = [&Cpu::default(), &OnDevice::new(Device::flex())];
    for engine in engines {
        for path in [GradientPath::Unchunked, GradientPath::Checkpointed, GradientPath::StreamBp] {
            let (found_stats, found) = gradients(engine, &odd, path);
            assert_close(&found_stats.logprobs, &stats.logprobs, 1e-5, "log-probs");
            for ((name, found), (_, expected)) in found.named().into_iter().zip(expected.named()) {
                let what = format!("{engine:?}, {path:?}, {name}");
                assert_close(&numbers(found), &numbers(expected), 1e-5, &what);
            }
        }
    }
}

#[test]
fn an_odd_norm_is_decoded_as_it_is_trained() {
    is_decoded_as_it_is_trained(&Cpu::default());
    is_decoded_as_it_is_trained(&OnDevice::new(Device::flex()));
}

fn is_decoded_as_it_is_trained<E: Engine>(engine: &E) {
    let odd = odd();
    let (stats, _) = gradients(engine, &odd, GradientPath::StreamBp);
    let (text, weights) = (text(), engine.prepare(&odd, Precision::F32).unwrap());
    let room = CacheRoom { slots: 1, positions: text.len(), precision: CachePrecision::F32 };
    let mut slots = engine.slots(&odd.config, room).unwrap();
    let decoded = text.windows(2).map(|pair| {
        let logits = engine.logits(&mut slots, &weights, &[Feed { slot: 0, tokens: &pair[..1] }]);
        logprob_and_entropy(logits, 1.0, pair[1]).0
    });
    assert_close(&decoded.collect::<Vec<_>>(), &stats.logprobs[..text.len() - 1], 1e-5, "log-probs");
}
