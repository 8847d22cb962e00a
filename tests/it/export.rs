//! What is exported is the model that was read, in every form, and an adapter of PEFT is added as PEFT adds it.
//!
//! The adapters under `tests/fixtures/peft` are made by `tests/fixtures/make_peft_fixtures.py`. That transformers and
//! llama.cpp compute the same with what is written is checked by hand with `scripts/compare_import.py`.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kernels::{Decoder, StoredNumbers};
use rollout::Text;
use serde_json::{Value, json};

use crate::binary::{longhaul, repository, success, text_of};
use crate::gguf::{MODELS, expected, import, worst_difference};

/// How far a log-probability may lie from PyTorch's, in nats.
const TOLERANCE: f64 = 1e-4;

fn folder(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn parity(name: &str) -> PathBuf {
    repository().join("tests/fixtures/parity").join(name)
}

/// Every number of a model.
fn numbers(dir: &Path) -> Vec<f32> {
    let weights = Decoder::load(dir, &Device::flex()).unwrap().weights;
    let named = weights.tensors().named();
    named.iter().flat_map(|(_, value)| StoredNumbers::of(value).numbers().into_owned()).collect()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn refusal(arguments: &[&str]) -> String {
    let output = longhaul(arguments);
    assert!(!output.status.success(), "{arguments:?} succeeded");
    text_of(&output)
}

#[test]
fn an_export_keeps_the_type_of_the_input_and_the_files_beside_the_weights() {
    let home = tempfile::tempdir().unwrap();
    let (model, dir) = (home.path().join("model"), home.path().join("exported"));
    import("llama_bytes", &model, &["--dtype", "bf16"]);
    success(&["export", folder(&model), folder(&dir)]);
    assert_eq!(numbers(&dir), numbers(&model));
    assert_eq!(read_json(&dir.join("config.json"))["dtype"], "bfloat16");
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"] {
        assert_eq!(
            std::fs::read(dir.join(name)).unwrap(),
            std::fs::read(model.join(name)).unwrap(),
            "{name}"
        );
    }
    let bytes = |dir: &Path| std::fs::metadata(dir.join("model.safetensors")).unwrap().len();
    assert_eq!(bytes(&dir), bytes(&model));
    success(&[
        "export",
        folder(&model),
        folder(&dir),
        "--dtype",
        "f32",
        "--shard-size",
        "100KB",
        "--overwrite",
    ]);
    assert_eq!(numbers(&dir), numbers(&model));
    assert!(dir.join("model-00001-of-00006.safetensors").exists() && !dir.join("model.safetensors").exists());
    assert!(refusal(&["export", folder(&model), folder(&dir)]).contains("not empty"));
    assert!(refusal(&["export", folder(&dir), folder(&dir), "--overwrite"]).contains("which is read"));
    assert!(
        refusal(&["export", folder(&model), folder(&home.path().join("x")), "--merge-adapter"])
            .contains("no adapter")
    );
}

#[test]
fn a_file_that_is_exported_as_gguf_comes_back_as_the_model_that_it_was() {
    for name in MODELS {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        import(name, &at("model"), &[]);
        success(&["export", folder(&at("model")), folder(&at("gguf")), "--gguf", "f32"]);
        let file = at("gguf").join("model.gguf");
        success(&["import", "gguf", folder(&file), folder(&at("again"))]);
        assert_eq!(numbers(&at("again")), numbers(&at("model")), "{name}");
        let expected = expected(name);
        let (one, other) = (Text::load(&at("model")).unwrap(), Text::load(&at("again")).unwrap());
        for line in expected["lines"].as_array().unwrap() {
            let written = line["text"].as_str().unwrap();
            assert_eq!(one.encode(written).unwrap(), other.encode(written).unwrap(), "{name}: {written:?}");
        }
        for file in ["tokenizer_config.json", "generation_config.json"] {
            assert_eq!(
                read_json(&at("again").join(file)),
                read_json(&at("model").join(file)),
                "{name}: {file}"
            );
        }
        success(&["export", folder(&at("model")), folder(&at("small")), "--gguf", "q8_0"]);
        let file = at("small").join("model.gguf");
        success(&["import", "gguf", folder(&file), folder(&at("close"))]);
        let worst = worst_difference(&at("close"), &expected);
        assert!(worst < 2.0, "{name}: {worst}");
    }
}

#[test]
fn a_merged_adapter_has_the_logprobs_of_peft() {
    for name in ["plain", "patterns"] {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("merged");
        let adapter = repository().join("tests/fixtures/peft").join(name);
        let expected = read_json(&adapter.join("expected.json"));
        let base = parity(expected["base"].as_str().unwrap());
        success(&["import", "peft", folder(&base), folder(&adapter), folder(&dir)]);
        let worst = worst_difference(&dir, &expected);
        assert!(worst <= TOLERANCE, "{name}: {worst}");
        assert!(worst_difference(&base, &expected) > 0.1, "{name}: the adapter changes nothing");
        success(&["export", folder(&adapter), folder(&dir), "--merge-adapter", "--overwrite"]);
        assert!(worst_difference(&dir, &expected) <= TOLERANCE, "{name}");
        let other = home.path().join("other");
        assert!(
            refusal(&["export", folder(&adapter), folder(&other)]).contains("holds an adapter and no model")
        );
    }
}

#[test]
fn an_adapter_with_more_than_a_and_b_is_refused_by_the_key() {
    let home = tempfile::tempdir().unwrap();
    let (adapter, dir) = (home.path().join("adapter"), home.path().join("merged"));
    let good = repository().join("tests/fixtures/peft/plain");
    std::fs::create_dir(&adapter).unwrap();
    std::fs::copy(good.join("adapter_model.safetensors"), adapter.join("adapter_model.safetensors")).unwrap();
    let base = parity("llama_untied_gqa");
    for (key, value) in [
        ("bias", json!("all")),
        ("use_dora", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("peft_type", json!("LOHA")),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("alpha_pattern", json!({"(": 1})),
        ("lora_alpha", json!("much")),
    ] {
        let mut config = read_json(&good.join("adapter_config.json"));
        config[key] = value;
        std::fs::write(adapter.join("adapter_config.json"), config.to_string()).unwrap();
        let text = refusal(&["import", "peft", folder(&base), folder(&adapter), folder(&dir)]);
        assert!(text.contains("adapter_config.json") && text.contains(&format!("`{key}`")), "{text}");
        assert!(!dir.exists());
    }
    // An adapter of another model.
    let other = parity("qwen3_tied");
    let text = refusal(&["import", "peft", folder(&other), folder(&good), folder(&dir)]);
    assert!(text.contains("adapter_model.safetensors") && text.contains("lm_head"), "{text}");
}
