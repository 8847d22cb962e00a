//! Reading and writing `config.json`.

use super::*;
use crate::model::families;
use crate::model::spec::NormSpec;
use crate::rope::Rope;

const PATH: &str = "models/x/config.json";

fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 48, "vocab_size": 60, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": [2, 5],
    })
}

fn with(mut value: Value, changes: Value) -> Value {
    for (key, change) in changes.as_object().unwrap() {
        value[key] = change.clone();
    }
    value
}

fn without(mut value: Value, key: &str) -> Value {
    value.as_object_mut().unwrap().remove(key);
    value
}

fn read(value: &Value) -> Result<DecoderConfig, KernelError> {
    DecoderConfig::from_json(Path::new(PATH), value)
}

/// The message of the error, which must name the file.
fn refused(value: &Value) -> String {
    let message = read(value).unwrap_err().to_string();
    assert!(message.starts_with(PATH), "{message}");
    message
}

#[test]
fn a_llama_is_read() {
    let config = read(&llama()).unwrap();
    assert_eq!(config.family, &families::llama::LLAMA);
    assert_eq!((config.hidden, config.layers, config.heads, config.kv_heads), (32, 2, 4, 2));
    assert_eq!((config.head_width, config.intermediate, config.vocabulary), (8, 48, 60));
    assert_eq!((config.spec.final_norm.eps, config.tied, config.max_positions), (1e-5, true, 128));
    assert_eq!(config.spec, ModelSpec::llama(1e-5, Rope { theta: 10_000.0, scaling: RopeScaling::Default }));
    assert_eq!((config.eos_ids, config.bos_id, config.padding_id), (vec![2, 5], Some(1), None));
}

#[test]
fn families_differ_in_biases_norms_and_defaults() {
    let qwen = |kind: &str| {
        let changes = json!({
            "model_type": kind, "architectures": null, "head_dim": null, "eos_token_id": null,
        });
        without(with(llama(), changes), "bos_token_id")
    };
    let qwen2 = read(&with(qwen("qwen2"), json!({"attention_bias": false}))).unwrap();
    assert_eq!(
        (
            qwen2.spec.block.qkv_bias,
            qwen2.spec.block.output_bias,
            qwen2.spec.block.query_key_norm.is_some(),
            qwen2.head_width
        ),
        (true, false, false, 8)
    );
    assert_eq!((qwen2.bos_id, qwen2.eos_ids.len()), (None, 0));
    let qwen3 = read(&qwen("qwen3")).unwrap();
    assert_eq!(
        (qwen3.spec.block.qkv_bias, qwen3.spec.block.output_bias, qwen3.spec.block.query_key_norm.is_some()),
        (false, false, true)
    );
    assert_eq!(qwen3.head_width, 128);
    let biased = read(&with(qwen("qwen3"), json!({"attention_bias": true}))).unwrap();
    assert_eq!((biased.spec.block.qkv_bias, biased.spec.block.output_bias), (true, true));
    let llama = read(&with(llama(), json!({"attention_bias": true}))).unwrap();
    assert_eq!((llama.spec.block.qkv_bias, llama.spec.block.output_bias), (true, true));
    let mistral = read(&with(qwen("mistral"), json!({"sliding_window": null}))).unwrap();
    assert_eq!((mistral.family, mistral.bos_id), (&families::llama::MISTRAL, Some(1)));
}

#[test]
fn absent_keys_mean_what_transformers_means() {
    let bare = ["num_key_value_heads", "tie_word_embeddings", "rms_norm_eps", "eos_token_id", "bos_token_id"];
    let config = read(&bare.iter().fold(llama(), |value, key| without(value, key))).unwrap();
    assert_eq!((config.kv_heads, config.tied, config.spec.final_norm.eps), (4, false, 1e-6));
    assert_eq!((config.eos_ids, config.bos_id), (vec![2], Some(1)));
    let nobodys = read(&with(llama(), json!({"eos_token_id": [-1, 3], "bos_token_id": -1}))).unwrap();
    assert_eq!((nobodys.eos_ids, nobodys.bos_id), (vec![3], None));
}

#[test]
fn both_dialects_of_rope_mean_the_same() {
    let four = json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}});
    let five = json!({"rope_parameters": {"rope_theta": 500_000, "rope_type": "linear", "factor": 2.0}});
    let expected =
        Rope { theta: 5e5, scaling: RopeScaling::Linear { factor: 2.0, original_max_positions: None } };
    assert_eq!(read(&with(llama(), four.clone())).unwrap().spec.attention[0].rope, expected);
    assert_eq!(read(&with(llama(), five.clone())).unwrap().spec.attention[0].rope, expected);
    assert_eq!(read(&with(with(llama(), four), five)).unwrap().spec.attention[0].rope, expected);
}

#[test]
fn yarn_keys_are_read() {
    let scaling = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32});
    let plain = read(&with(llama(), json!({"rope_theta": 1e6, "rope_scaling": scaling}))).unwrap();
    let attention_factor = 0.1 * 4.0_f64.ln() + 1.0;
    let expected = RopeScaling::Yarn {
        factor: 4.0,
        original_max_positions: 32,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor,
        truncate: true,
    };
    assert_eq!(plain.spec.attention[0].rope, Rope { theta: 1e6, scaling: expected });
    let scaling = json!({
        "rope_type": "yarn", "factor": null, "beta_fast": 16, "beta_slow": 2, "truncate": false,
        "mscale": 1.0, "mscale_all_dim": 0.5, "rope_theta": 2e4,
    });
    let changes = json!({"rope_parameters": scaling, "original_max_position_embeddings": 64});
    let full = read(&with(llama(), changes)).unwrap();
    let expected = RopeScaling::Yarn {
        factor: 2.0,
        original_max_positions: 64,
        beta_fast: 16.0,
        beta_slow: 2.0,
        attention_factor: (0.1 * 2.0_f64.ln() + 1.0) / (0.05 * 2.0_f64.ln() + 1.0),
        truncate: false,
    };
    assert_eq!(full.spec.attention[0].rope, Rope { theta: 2e4, scaling: expected });
}

#[test]
fn what_is_written_is_read_back() {
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.2});
    let variants = [
        json!({}),
        json!({"attention_bias": true, "tie_word_embeddings": false, "pad_token_id": 0}),
        json!({"head_dim": 6, "rope_scaling": {"type": "linear", "factor": 3.5}, "rope_theta": 777.5}),
        json!({"rope_scaling": llama3, "eos_token_id": 9, "bos_token_id": null}),
        json!({"rope_scaling": yarn, "architectures": [], "model_type": "qwen2", "eos_token_id": null}),
        json!({"model_type": "qwen3", "architectures": null, "attention_bias": true}),
        json!({"model_type": "mistral", "architectures": null, "sliding_window": null}),
    ];
    for variant in variants {
        let config = read(&with(llama(), variant)).unwrap();
        let written = config.to_json();
        assert_eq!(read(&written).unwrap(), config);
        // Either dialect alone carries the whole meaning.
        assert_eq!(read(&without(written.clone(), "rope_parameters")).unwrap(), config);
        assert_eq!(read(&without(without(written, "rope_theta"), "rope_scaling")).unwrap(), config);
    }
}

#[test]
fn scaled_models_are_as_long_as_their_scaling_makes_them() {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128});
    let outside = json!({
        "rope_parameters": {"rope_type": "yarn", "factor": 3, "rope_theta": 1e6},
        "original_max_position_embeddings": 96,
    });
    let cases = [
        (json!({}), 128),
        (json!({"rope_scaling": yarn}), 512),
        (json!({"rope_parameters": with(yarn.clone(), json!({"rope_theta": 1e6}))}), 512),
        (json!({"rope_scaling": yarn, "max_position_embeddings": 512}), 512),
        (outside, 288),
        (json!({"rope_scaling": {"type": "linear", "factor": 2.5}}), 320),
        (json!({"rope_scaling": {"type": "default"}}), 128),
    ];
    for (changes, expected) in cases {
        let config = read(&with(llama(), changes.clone())).unwrap();
        assert_eq!((config.max_positions, config.own_positions()), (expected, expected), "{changes}");
        // A saved model says what its file said, and what it was used beyond it.
        let saved = config.to_json();
        assert_eq!(saved["max_position_embeddings"], json!(config.stated_positions), "{changes}");
        for (used, again) in [(expected - 9, expected), (expected + 90, expected + 90)] {
            let saved = DecoderConfig { max_positions: used, ..config.clone() }.to_json();
            assert_eq!(read(&saved).unwrap().max_positions, again, "{changes}");
        }
    }
    let huge = json!({"rope_scaling": with(yarn, json!({"factor": 1e9}))});
    assert!(refused(&with(llama(), huge)).contains("positions; at most"));
    for kind in ["dynamic", "longrope", "su"] {
        let scaling = json!({"rope_type": kind, "factor": 2.0});
        assert!(refused(&with(llama(), json!({"rope_scaling": scaling}))).contains(kind));
    }
}

#[test]
fn an_unknown_architecture_is_named_with_the_supported_ones() {
    let message = refused(&with(llama(), json!({"model_type": "gpt2"})));
    assert!(message.contains("`model_type` is \"gpt2\""), "{message}");
    assert!(message.contains("llama, mistral, qwen2, qwen3"), "{message}");
    let message = refused(&with(llama(), json!({"architectures": ["LlamaForSequenceClassification"]})));
    assert!(message.contains("LlamaForSequenceClassification") && message.contains("LlamaForCausalLM"));
    assert!(refused(&without(llama(), "model_type")).contains("`model_type` is missing"));
}

#[test]
fn what_is_not_computed_is_refused_by_key() {
    let cases = [
        ("hidden_act", json!("gelu")),
        ("mlp_bias", json!(true)),
        ("use_sliding_window", json!(true)),
        ("partial_rotary_factor", json!(0.5)),
        ("quantization_config", json!({"quant_method": "fp8"})),
        ("layer_types", json!(["full_attention", "sliding_attention"])),
        ("num_key_value_heads", json!(3)),
        ("num_key_value_heads", json!(0)),
        ("hidden_size", json!(0)),
        ("hidden_size", json!(33)),
        ("hidden_size", json!("32")),
        ("vocab_size", json!(-4)),
        ("vocab_size", json!(1_u64 << 40)),
        ("num_hidden_layers", json!(5000)),
        ("num_attention_heads", json!(null)),
        ("head_dim", json!(7)),
        ("rms_norm_eps", json!(-1e-6)),
        ("eos_token_id", json!([2, "x"])),
        ("rope_theta", json!(0)),
        ("rope_scaling", json!([1])),
    ];
    for (key, wrong) in cases {
        let message = refused(&with(llama(), json!({key: wrong})));
        assert!(message.contains(&format!("`{key}`")), "{key}: {message}");
    }
    let scalings = [
        ("rope_type", json!({"rope_type": "dynamic", "factor": 2.0})),
        ("rope_type", json!({"rope_type": "longrope"})),
        ("factor", json!({"rope_type": "linear"})),
        ("factor", json!({"rope_type": "yarn", "factor": -1.0})),
        ("high_freq_factor", json!({"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0})),
        ("partial_rotary_factor", json!({"rope_type": "default", "partial_rotary_factor": 0.25})),
        ("full_attention", json!({"full_attention": {"rope_type": "default"}})),
    ];
    for (key, wrong) in scalings {
        for section in ["rope_scaling", "rope_parameters"] {
            let message = refused(&with(llama(), json!({section: wrong})));
            assert!(message.contains(key), "{key}: {message}");
        }
    }
}

#[test]
fn a_file_that_is_no_config_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, path) = (folder.path(), folder.path().join("config.json"));
    assert!(DecoderConfig::read(dir).unwrap_err().to_string().contains("config.json"));
    std::fs::write(&path, "{\"model_type\": ").unwrap();
    assert!(DecoderConfig::read(dir).unwrap_err().to_string().contains("is not JSON"));
    std::fs::write(&path, "[]").unwrap();
    assert!(DecoderConfig::read(dir).unwrap_err().to_string().contains("is not a JSON object"));
}

#[test]
fn shapes_follow_the_config() {
    let changes = json!({"head_dim": 6, "attention_bias": true, "tie_word_embeddings": false});
    let shapes = read(&with(llama(), changes)).unwrap().shapes();
    assert_eq!(shapes.blocks.len(), 2);
    let block = &shapes.blocks[1];
    assert_eq!((block.query, block.key, block.output), ([24, 32], [12, 32], [32, 24]));
    assert_eq!(
        (block.query_bias, block.value_bias, block.output_bias),
        (Some([1, 24]), Some([1, 12]), Some([1, 32]))
    );
    let gated = GatedWeights { gate: [48, 32], up: [48, 32], down: [32, 48] };
    assert_eq!(block.feed_forward, FeedForwardWeights::Gated(gated));
    assert_eq!(block.query_norm, None);
    assert_eq!((shapes.embedding, shapes.head, shapes.final_norm), ([60, 32], Some([60, 32]), [1, 32]));
}

fn gemma() -> Value {
    json!({
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "hidden_size": 36,
        "num_hidden_layers": 7, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "intermediate_size": 48, "vocab_size": 60, "max_position_embeddings": 128, "sliding_window": 16,
        "query_pre_attn_scalar": 64, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    })
}

#[test]
fn a_gemma_has_norms_around_its_halves_and_windows_in_most_layers() {
    let config = read(&gemma()).unwrap();
    let norm = NormSpec { eps: 1e-6, offset: 1.0 };
    let block = &config.spec.block;
    assert_eq!(block.norms().map(|(_, norm)| norm).collect::<Vec<_>>(), [norm; 5]);
    assert_eq!((config.spec.embedding_scale, block.attention_scale), (Some(6.0), Some(0.125)));
    assert_eq!((config.tied, config.eos_ids.as_slice(), config.bos_id), (true, &[1][..], Some(2)));
    // Every sixth layer sees everything, with the other base and its scaling.
    let windows: Vec<_> = (0..7).map(|layer| config.spec.attention_of(layer).window).collect();
    let slides = Some(16);
    assert_eq!(windows, [slides, slides, slides, slides, slides, None, slides]);
    let local = Rope { theta: 1e4, scaling: RopeScaling::Default };
    let scaling = RopeScaling::Linear { factor: 8.0, original_max_positions: None };
    assert_eq!(config.spec.ropes(), [&local, &Rope { theta: 1e6, scaling }]);
    assert_eq!([0, 5, 6].map(|layer| config.spec.rope_of(layer)), [0, 1, 0]);
    // The stated length is the stretched one.
    assert_eq!((config.max_positions, config.own_positions()), (128, 128));
}

#[test]
fn a_gemma_is_written_in_both_dialects() {
    let config = read(&gemma()).unwrap();
    let written = config.to_json();
    // transformers 5 takes a whole number only as such.
    assert_eq!(written["query_pre_attn_scalar"], json!(64));
    assert_eq!(written.get("hidden_act"), None);
    assert_eq!(read(&written).unwrap(), config);
    let five = ["rope_theta", "rope_local_base_freq", "rope_scaling"];
    assert_eq!(read(&five.iter().fold(written.clone(), |value, key| without(value, key))).unwrap(), config);
    assert_eq!(read(&without(written, "rope_parameters")).unwrap(), config);
}

#[test]
fn what_no_gemma_here_computes_is_refused_by_key() {
    let cases = [
        ("final_logit_softcapping", json!(30.0)),
        ("attn_logit_softcapping", json!(50.0)),
        ("use_bidirectional_attention", json!(true)),
        ("hidden_activation", json!("gelu")),
        ("query_pre_attn_scalar", json!(0)),
        ("sliding_window", json!(0)),
        ("layer_types", json!(["full_attention"])),
        ("layer_types", json!(vec!["chunked_attention"; 7])),
    ];
    for (key, wrong) in cases {
        let message = refused(&with(gemma(), json!({key: wrong})));
        assert!(message.contains(&format!("`{key}`")), "{key}: {message}");
    }
}
