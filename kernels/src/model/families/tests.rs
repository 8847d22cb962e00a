//! What the config files of families say beside those of a Llama: windows, layers without rotation, factors, experts.

use std::path::Path;

use serde_json::{Value, json};

use super::{granite, qwen3_moe};
use crate::model::spec::ExpertsSpec;
use crate::model::weights::FeedForwardWeights;
use crate::rope::RopeScaling;
use crate::{DecoderConfig, KernelError};

/// A file of a model of six layers.
fn file(model_type: &str, changes: Value) -> Value {
    let mut value = json!({
        "model_type": model_type, "hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 60, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5, "hidden_act": "silu",
    });
    for (key, change) in changes.as_object().unwrap() {
        value[key] = change.clone();
    }
    value
}

fn read(value: &Value) -> Result<DecoderConfig, KernelError> {
    DecoderConfig::from_json(Path::new("config.json"), value)
}

/// Reads a file, and makes sure that what is written of it is read back.
fn read_and_back(model_type: &str, changes: Value) -> DecoderConfig {
    let config = read(&file(model_type, changes)).unwrap();
    let written = config.to_json();
    assert_eq!(read(&written).unwrap(), config, "{written}");
    let mut five = written.clone();
    for key in ["rope_theta", "rope_scaling"] {
        five.as_object_mut().unwrap().remove(key);
    }
    assert_eq!(read(&five).unwrap(), config, "{written}");
    config
}

/// Each change must be refused with the name of its key.
fn assert_refused(model_type: &str, cases: &[(&str, Value)]) {
    for (key, changes) in cases {
        let message = read(&file(model_type, changes.clone())).unwrap_err().to_string();
        assert!(message.contains(&format!("`{key}`")), "{key}: {message}");
    }
}

fn windows(config: &DecoderConfig) -> Vec<Option<usize>> {
    (0..config.layers).map(|layer| config.spec.attention_of(layer).window).collect()
}

fn rotates(config: &DecoderConfig) -> Vec<bool> {
    let of_layer = |layer| &config.spec.attention_of(layer).rope.scaling;
    (0..config.layers).map(|layer| *of_layer(layer) != RopeScaling::Absent).collect()
}

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

#[test]
fn all_layers_of_a_mistral_have_the_window_or_none() {
    assert_eq!(windows(&read_and_back("mistral", json!({"sliding_window": 16}))), [Some(16); 6]);
    assert_eq!(windows(&read_and_back("mistral", json!({"sliding_window": null}))), [None; 6]);
    // The class default of transformers.
    assert_eq!(windows(&read_and_back("mistral", json!({}))), [Some(4096); 6]);
    let types = json!({"sliding_window": 16, "layer_types": vec![SLIDING; 6]});
    assert_eq!(windows(&read_and_back("mistral", types)), [Some(16); 6]);
    assert_refused(
        "mistral",
        &[
            ("sliding_window", json!({"sliding_window": 0})),
            ("sliding_window", json!({"sliding_window": "16"})),
            ("layer_types", json!({"sliding_window": 16, "layer_types": vec![FULL; 6]})),
            ("layer_types", json!({"sliding_window": null, "layer_types": vec![SLIDING; 6]})),
            ("use_sliding_window", json!({"use_sliding_window": true})),
        ],
    );
}

#[test]
fn the_last_layers_of_a_qwen_have_the_window_where_it_is_on() {
    for family in ["qwen2", "qwen3"] {
        // As published: a window that is off.
        let off = json!({"use_sliding_window": false, "sliding_window": 16, "max_window_layers": 2});
        let config = read_and_back(family, off);
        assert_eq!((windows(&config), config.spec.attention.len()), (vec![None; 6], 1));
        let on = json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 2});
        let config = read_and_back(family, on.clone());
        let slides = Some(16);
        assert_eq!(windows(&config), [None, None, slides, slides, slides, slides]);
        // What transformers 4 read before there were `layer_types` says the same.
        let mut older = config.to_json();
        older.as_object_mut().unwrap().remove("layer_types");
        assert_eq!(read(&older).unwrap(), config);
        // By default the first 28 layers have none, and 4096 is the width.
        assert_eq!(windows(&read_and_back(family, json!({"use_sliding_window": true}))), [None; 6]);
        let first = json!({"use_sliding_window": true, "max_window_layers": 0});
        assert_eq!(windows(&read_and_back(family, first)), [Some(4096); 6]);
        let types = [FULL, SLIDING, FULL, SLIDING, FULL, FULL];
        let mut by_types = on;
        by_types["layer_types"] = json!(types);
        let config = read_and_back(family, by_types);
        assert_eq!(windows(&config), [None, slides, None, slides, None, None]);
        assert_refused(
            family,
            &[
                ("layer_types", json!({"layer_types": types})),
                ("layer_types", json!({"use_sliding_window": true, "layer_types": ["full_attention"]})),
                ("layer_types", json!({"layer_types": vec!["chunked_attention"; 6]})),
                ("sliding_window", json!({"use_sliding_window": true, "sliding_window": 0})),
                ("num_hidden_layers", json!({"num_hidden_layers": 1_u64 << 40})),
            ],
        );
    }
}

#[test]
fn some_layers_of_a_smollm3_do_not_rotate() {
    let config = read_and_back("smollm3", json!({}));
    assert_eq!(rotates(&config), [true, true, true, false, true, true]);
    assert_eq!((windows(&config), config.tied), (vec![None; 6], true));
    assert_eq!(config.spec.rope().theta, 2e6);
    assert_eq!((config.eos_ids.as_slice(), config.bos_id), (&[128_001][..], Some(128_000)));
    let every_second = json!({"no_rope_layer_interval": 2, "rope_theta": 5e6});
    let config = read_and_back("smollm3", every_second);
    assert_eq!(rotates(&config), [true, false, true, false, true, false]);
    assert_eq!(config.spec.rope().theta, 5e6);
    // A list may be longer than the model, and beats the interval.
    let list = json!({"no_rope_layers": [0, 0, 1, 0, 1, 1, 0, 0], "no_rope_layer_interval": 2});
    let config = read_and_back("smollm3", list.clone());
    assert_eq!(rotates(&config), [false, false, true, false, true, true]);
    let none = read_and_back("smollm3", json!({"no_rope_layers": [0, 0, 0, 0, 0, 0]}));
    assert_eq!((rotates(&none), none.spec.attention.len()), (vec![false; 6], 1));
    // With the window on, layers that do not rotate have it, unless `layer_types` says otherwise.
    let mut with_window = list;
    with_window["use_sliding_window"] = json!(true);
    with_window["sliding_window"] = json!(16);
    let slides = Some(16);
    let config = read_and_back("smollm3", with_window.clone());
    assert_eq!(windows(&config), [slides, slides, None, slides, None, None]);
    with_window["layer_types"] = json!([SLIDING, FULL, SLIDING, FULL, FULL, FULL]);
    assert_eq!(windows(&read_and_back("smollm3", with_window)), [slides, None, slides, None, None, None]);
    assert_refused(
        "smollm3",
        &[
            ("no_rope_layers", json!({"no_rope_layers": [1, 0]})),
            ("no_rope_layers", json!({"no_rope_layers": [1, 0, 1, 0, 1, 2]})),
            ("no_rope_layer_interval", json!({"no_rope_layer_interval": 0})),
            ("layer_types", json!({"layer_types": vec![SLIDING; 6]})),
            ("mlp_bias", json!({"mlp_bias": true})),
        ],
    );
}

#[test]
fn a_granite_has_four_factors() {
    let factors = json!({
        "embedding_multiplier": 12.0, "attention_multiplier": 0.015625, "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
    });
    let config = read_and_back("granite", factors);
    let spec = &config.spec;
    assert_eq!((spec.embedding_scale, spec.block.attention_scale), (Some(12.0), Some(0.015625)));
    assert_eq!((spec.block.residual_scale, spec.logits_divisor), (Some(0.22), Some(8.0)));
    assert_eq!((spec.head_temperature(0.5), config.family), (4.0, &granite::GRANITE));
    assert_eq!(config.to_json()["residual_multiplier"], json!(0.22));
    let plain = read_and_back("granite", json!({})).spec;
    assert_eq!((plain.embedding_scale, plain.block.attention_scale), (None, Some(1.0)));
    assert_eq!((plain.block.residual_scale, plain.logits_divisor), (None, None));
    for key in ["embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"] {
        assert_refused("granite", &[0.0, -2.0, 1e-60].map(|wrong| (key, json!({key: wrong}))));
    }
}

fn moe(changes: Value) -> Value {
    let mut value = json!({"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 20});
    for (key, change) in changes.as_object().unwrap() {
        value[key] = change.clone();
    }
    value
}

#[test]
fn a_qwen3_moe_has_experts_in_the_layers_that_its_file_says() {
    let config = read_and_back("qwen3_moe", moe(json!({"norm_topk_prob": true})));
    let layers = vec![true; 6];
    let expected = ExpertsSpec { count: 8, chosen: 2, intermediate: 20, normalised: true, layers };
    assert_eq!((config.family, config.spec.experts.as_ref()), (&qwen3_moe::QWEN3_MOE, Some(&expected)));
    assert_eq!((config.head_width, config.spec.block.query_key_norm.is_some()), (8, true));
    // transformers 5 has another name for the number of experts.
    let renamed = moe(json!({"num_experts": null, "num_local_experts": 8}));
    assert!(!read_and_back("qwen3_moe", renamed).spec.experts.unwrap().normalised);
    let sparse = moe(json!({"decoder_sparse_step": 2, "mlp_only_layers": [3, 17]}));
    let config = read_and_back("qwen3_moe", sparse);
    let with: Vec<bool> = (0..6).map(|layer| config.spec.experts_of(layer).is_some()).collect();
    assert_eq!(with, [false, true, false, false, false, true]);
    let on = moe(json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 5}));
    assert_eq!(windows(&read_and_back("qwen3_moe", on)), [Some(16); 6]);
    assert_refused(
        "qwen3_moe",
        &[
            ("num_experts", moe(json!({"num_experts": null}))),
            ("num_experts", moe(json!({"num_experts": 0}))),
            ("num_experts", moe(json!({"num_experts": 1 << 20}))),
            ("num_local_experts", moe(json!({"num_local_experts": 9}))),
            ("num_experts_per_tok", moe(json!({"num_experts_per_tok": 9}))),
            ("num_experts_per_tok", moe(json!({"num_experts_per_tok": 0}))),
            ("moe_intermediate_size", moe(json!({"moe_intermediate_size": 0}))),
            ("moe_intermediate_size", moe(json!({"moe_intermediate_size": null}))),
            ("decoder_sparse_step", moe(json!({"decoder_sparse_step": 0}))),
            ("mlp_only_layers", moe(json!({"mlp_only_layers": 3}))),
            ("mlp_only_layers", moe(json!({"mlp_only_layers": [-1]}))),
            ("layer_types", moe(json!({"layer_types": vec![SLIDING; 6]}))),
        ],
    );
}

/// By hand: hidden 32, 8 experts of width 20 in the first layer, a gated part of width 48 in the second.
#[test]
fn experts_have_the_names_and_sizes_of_the_files() {
    let changes = moe(json!({"num_hidden_layers": 2, "mlp_only_layers": [1], "tie_word_embeddings": true}));
    let config = read(&file("qwen3_moe", changes)).unwrap();
    let shapes = config.shapes();
    let names = shapes.named();
    let shape_of = |name: &str| names.iter().find(|(own, _)| own == name).map(|(_, shape)| **shape);
    assert_eq!(shape_of("model.layers.0.mlp.gate.weight"), Some([8, 32]));
    assert_eq!(shape_of("model.layers.0.mlp.experts.7.down_proj.weight"), Some([32, 20]));
    assert_eq!(shape_of("model.layers.0.mlp.experts.0.up_proj.weight"), Some([20, 32]));
    assert_eq!(shape_of("model.layers.0.mlp.experts.8.up_proj.weight"), None);
    assert_eq!(shape_of("model.layers.1.mlp.gate_proj.weight"), Some([48, 32]));
    assert!(matches!(shapes.blocks[0].feed_forward, FeedForwardWeights::Experts(_)));
    let attention = 32 * 32 + 2 * (16 * 32) + 32 * 32 + 2 * 8 + 2 * 32;
    let expert = 3 * 20 * 32;
    let layers = [8 * 32 + 8 * expert, 3 * 48 * 32].map(|feed_forward| attention + feed_forward);
    assert_eq!(config.parameters(), 60 * 32 + 32 + layers.iter().sum::<usize>());
    assert_eq!(config.layer_numbers_a_token(), layers.iter().sum::<usize>() - 6 * expert);
    assert_eq!(config.feed_forward_width(), 48);
}
