//! Which projections have adapters, what peft's files of them say, and where their base is.

use std::path::Path;

use burn::tensor::Device;
use serde_json::{Value, json};

use super::*;
use crate::model::families;
use crate::test_tensors::{adapted, numbers, odd_decoder, wide};
use crate::{Decoder, DecoderConfig};

fn form(targets: &[&str]) -> LoraConfig {
    let names = targets.iter().map(|name| (*name).to_owned()).collect();
    LoraConfig { rank: 2, alpha: 8.0, target_modules: TargetModules::Named(names), use_rslora: false }
}

fn model() -> DecoderConfig {
    DecoderConfig::small(&families::qwen::QWEN2)
}

fn new(form: LoraConfig, seed: u64) -> Result<Lora, KernelError> {
    Lora::new(form, &model(), Path::new("/base"), seed, &Device::flex())
}

fn adapted_names(lora: &Lora) -> Vec<String> {
    let named = lora.adapters.named().into_iter();
    named.filter(|(_, adapter)| adapter.is_some()).map(|(name, _)| name).collect()
}

#[test]
fn new_adapters_have_uniform_a_and_no_b() {
    let lora = new(LoraConfig { rank: 50, ..form(&["q_proj", "down_proj"]) }, 3).unwrap();
    assert_eq!(lora.count(), 4);
    for adapter in lora.adapters.named().into_iter().filter_map(|(_, adapter)| adapter.as_ref()) {
        let [rank, inner] = adapter.a.dims();
        assert_eq!((rank, adapter.b.dims()[1], adapter.scale), (50, 50, 8.0 / 50.0));
        assert!(numbers(adapter.b.clone()).iter().all(|number| *number == 0.0));
        let (a, bound) = (numbers(adapter.a.clone()), 1.0 / (inner as f32).sqrt());
        let count = a.len() as f32;
        let mean = a.iter().sum::<f32>() / count;
        let deviation = (a.iter().map(|number| number * number).sum::<f32>() / count).sqrt();
        assert!(a.iter().all(|number| number.abs() <= bound) && mean.abs() < 0.1 * bound);
        // Of a uniform distribution the bound over the root of 3.
        assert!((deviation * 3_f32.sqrt() / bound - 1.0).abs() < 0.05, "{deviation} of {bound}");
    }
    let of = |seed| {
        let lora = new(form(&["q_proj", "k_proj"]), seed).unwrap();
        let matrices = lora.adapters.named().into_iter().filter_map(|(_, adapter)| adapter.clone());
        matrices.map(|own| numbers(own.a)).collect::<Vec<_>>()
    };
    assert_eq!(of(3), of(3));
    assert_ne!(of(3), of(4));
    let first = of(3);
    assert!(first[0] != first[1] && first[0] != first[2], "each projection has numbers of its own");
}

#[test]
fn the_scale_is_that_of_peft() {
    let mut form = form(&["q_proj"]);
    assert_eq!(form.scale(), 4.0);
    form.use_rslora = true;
    assert_eq!(form.scale(), 8.0 / 2_f64.sqrt());
}

#[test]
fn modules_are_named_by_the_ends_of_their_paths() {
    let names = |targets: &[&str]| adapted_names(&new(form(targets), 1).unwrap());
    assert_eq!(
        names(&["v_proj"]),
        ["model.layers.0.self_attn.v_proj.weight", "model.layers.1.self_attn.v_proj.weight"]
    );
    assert_eq!(names(&["layers.1.mlp.up_proj"]), ["model.layers.1.mlp.up_proj.weight"]);
    assert_eq!(names(&["model.layers.0.self_attn.q_proj"]), ["model.layers.0.self_attn.q_proj.weight"]);
    let all = new(LoraConfig { target_modules: TargetModules::AllLinear, ..form(&[]) }, 1).unwrap();
    assert_eq!(all.count(), 2 * 7);
    let [rank, hidden, intermediate, query, key] = [2, 24, 40, 32, 16];
    let layer = 2 * (hidden + query) + 2 * (hidden + key) + 3 * (hidden + intermediate);
    assert_eq!(all.config.parameters(&model()).unwrap(), 2 * rank * layer);
    let decoder = Decoder { lora: Some(all), ..Decoder::random(model(), 1, &Device::flex()) };
    assert_eq!(decoder.trained_count(), 2 * rank * layer);
}

#[test]
fn what_is_no_module_is_named_with_those_that_there_are() {
    let has = "it has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, and \"all-linear\" is all of them";
    for name in ["q_prj", "lm_head", "proj", "_proj", "embed_tokens", "", "layers.2.mlp.up_proj"] {
        let message = new(form(&["v_proj", name]), 1).unwrap_err().to_string();
        assert!(message.starts_with("target_modules: ") && message.ends_with(has), "{message}");
        assert!(message.contains(&format!("{name:?}")), "{message}");
    }
    assert!(new(form(&[]), 1).unwrap_err().to_string().starts_with("target_modules is empty"));
    let message = new(LoraConfig { rank: 0, ..form(&["v_proj"]) }, 1).unwrap_err().to_string();
    assert!(message.starts_with("rank = 0"), "{message}");
    for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let message = new(LoraConfig { alpha, ..form(&["v_proj"]) }, 1).unwrap_err().to_string();
        assert!(message.starts_with("alpha = "), "{message}");
    }
}

#[test]
fn words_of_a_config_are_read_as_they_are_written() {
    let read = |value: Value| serde_json::from_value::<TargetModules>(value);
    assert_eq!(read(json!("all-linear")).unwrap(), TargetModules::AllLinear);
    assert_eq!(serde_json::to_value(TargetModules::AllLinear).unwrap(), json!("all-linear"));
    let named = read(json!(["q_proj", "v_proj"])).unwrap();
    assert_eq!(serde_json::to_value(&named).unwrap(), json!(["q_proj", "v_proj"]));
    let message = read(json!("q_proj")).unwrap_err().to_string();
    assert!(message.contains("write [\"q_proj\"], or \"all-linear\" for all"), "{message}");
}

/// A directory with the files of an adapter, whose config is changed.
fn saved(change: impl FnOnce(&mut Value)) -> (tempfile::TempDir, Decoder) {
    let dir = tempfile::tempdir().unwrap();
    let decoder = adapted(odd_decoder(wide(&families::llama::LLAMA)), TargetModules::AllLinear);
    decoder.save_trained(dir.path()).unwrap();
    let path = dir.path().join(ADAPTER_CONFIG_FILE);
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    (dir, decoder)
}

fn load(dir: &Path, decoder: &Decoder) -> Result<Lora, KernelError> {
    Lora::load(dir, Path::new("/base"), &decoder.config, &Device::flex())
}

#[test]
fn saved_adapters_are_loaded_to_the_bit() {
    let (dir, decoder) = saved(|config| {
        let targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        assert_eq!(config["target_modules"], json!(targets));
        assert_eq!((&config["r"], &config["lora_alpha"]), (&json!(3), &json!(4.5)));
        assert_eq!((&config["rank_pattern"], &config["alpha_pattern"]), (&json!({}), &json!({})));
    });
    let own = decoder.lora.as_ref().unwrap();
    let read = load(dir.path(), &decoder).unwrap();
    for ((name, own), (_, read)) in own.adapters.named().into_iter().zip(read.adapters.named()) {
        assert_eq!(own.is_some(), read.is_some(), "{name}");
        let Some((own, read)) = own.as_ref().zip(read.as_ref()) else { continue };
        assert_eq!(own.scale.to_bits(), read.scale.to_bits(), "{name}");
        assert_eq!(numbers(own.a.clone()), numbers(read.a.clone()), "{name}");
        assert_eq!(numbers(own.b.clone()), numbers(read.b.clone()), "{name}");
    }
    read.check_form(&own.config, &decoder.config).unwrap();
}

#[test]
fn ranks_and_alphas_of_their_own_are_written_and_read() {
    let (dir, mut decoder) = saved(|_| ());
    let places = &mut decoder.lora.as_mut().unwrap().adapters.blocks[0];
    let place = places.query.as_mut().unwrap();
    (place.a, place.b) = (place.a.clone().slice([0..2, 0..24]), place.b.clone().slice([0..32, 0..2]));
    place.scale = 1.5;
    decoder.save_trained(dir.path()).unwrap();
    let text = std::fs::read_to_string(dir.path().join(ADAPTER_CONFIG_FILE)).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["rank_pattern"], json!({"model.layers.0.self_attn.q_proj": 2}));
    assert_eq!(config["alpha_pattern"], json!({"model.layers.0.self_attn.q_proj": 3.0}));
    let read = load(dir.path(), &decoder).unwrap();
    let query = read.adapters.blocks[0].query.as_ref().unwrap();
    assert_eq!((query.a.dims()[0], query.scale), (2, 1.5));
    let message = read.check_form(&decoder.lora.unwrap().config, &decoder.config).unwrap_err().to_string();
    assert!(message.starts_with("rank of model.layers.0.self_attn.q_proj = 3"), "{message}");
}

#[test]
fn what_is_not_computed_is_refused_by_its_key() {
    for (key, value) in [
        ("peft_type", json!("LOHA")),
        ("peft_type", Value::Null),
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("modules_to_save", json!(["lm_head"])),
        ("fan_in_fan_out", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("alpha_pattern", json!({"(": 3})),
        ("alpha_pattern", json!({"q_proj": "much"})),
        ("alpha_pattern", json!({"q_proj": 1e300})),
        ("lora_alpha", json!(-1e300)),
        ("r", json!(0)),
        ("r", json!(1_u64 << 40)),
        ("target_parameters", json!(["mlp.experts.gate_up_proj"])),
        ("r", json!("two")),
        ("r", Value::Null),
        ("lora_alpha", Value::Null),
    ] {
        let (dir, decoder) = saved(|config| config[key] = value.clone());
        let message = load(dir.path(), &decoder).unwrap_err().to_string();
        let named = message.contains(ADAPTER_CONFIG_FILE) && message.contains(&format!("`{key}`"));
        assert!(named, "{key} = {value}: {message}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let (dir, decoder) = saved(|_| ());
    let file = dir.path().join("adapter_model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    for length in [0, 7, 100, whole.len() - 1] {
        std::fs::write(&file, &whole[..length]).unwrap();
        let message = load(dir.path(), &decoder).unwrap_err().to_string();
        assert!(message.contains("adapter_model.safetensors: is truncated"), "{message}");
    }
    std::fs::write(&file, &whole).unwrap();
    let refused = |config: &DecoderConfig| {
        let lora = Lora::load(dir.path(), Path::new("/base"), config, &Device::flex());
        lora.unwrap_err().to_string()
    };
    let fewer = DecoderConfig { layers: 1, ..decoder.config.clone() };
    let message = refused(&fewer);
    assert!(message.contains("has tensor `base_model.model.model.layers.1."), "{message}");
    let wider = DecoderConfig { hidden: 48, ..decoder.config.clone() };
    let message = refused(&wider);
    assert!(
        message.contains("lora_") && message.contains("but the config asks for [") && message.contains("48"),
        "{message}"
    );
}

#[test]
fn a_base_is_found_from_its_adapter() {
    let (dir, decoder) = saved(|config| config["base_model_name_or_path"] = json!("base"));
    let message = ModelPlace::find(dir.path(), None).unwrap_err().to_string();
    assert!(
        message.contains("`base_model_name_or_path` is \"base\"") && message.ends_with(BASE_REMEDY),
        "{message}"
    );
    let base = dir.path().join("base");
    decoder.frozen().save(&base).unwrap();
    let place = ModelPlace::find(dir.path(), None).unwrap();
    assert_eq!((&place.base, place.adapter.as_deref()), (&base, Some(dir.path())));
    let loaded = Decoder::load(dir.path(), &Device::flex()).unwrap();
    assert_eq!(loaded.lora.as_ref().unwrap().base, base);
    assert_eq!(loaded.trained_count(), decoder.trained_count());

    let elsewhere = tempfile::tempdir().unwrap();
    decoder.frozen().save(elsewhere.path()).unwrap();
    let place = ModelPlace::find(dir.path(), Some(elsewhere.path())).unwrap();
    assert_eq!(place.base, elsewhere.path());
    // A model of all weights is itself, and has no base.
    let whole = ModelPlace { base: base.clone(), adapter: None };
    assert_eq!(ModelPlace::find(&base, None).unwrap(), whole);
    let message = ModelPlace::find(&base, Some(elsewhere.path())).unwrap_err().to_string();
    assert!(message.contains("is no adapter"), "{message}");
    let message = ModelPlace::find(dir.path(), Some(dir.path())).unwrap_err().to_string();
    assert!(message.contains("is an adapter itself"), "{message}");
}

#[test]
fn other_forms_than_that_of_the_config_are_named() {
    let decoder = adapted(odd_decoder(wide(&families::llama::LLAMA)), TargetModules::AllLinear);
    let (lora, config) = (decoder.lora.as_ref().unwrap(), &decoder.config);
    let own = &lora.config;
    lora.check_form(own, config).unwrap();
    for (wanted, key) in [
        (LoraConfig { rank: 4, ..own.clone() }, "rank = 4"),
        (LoraConfig { alpha: 1.0, ..own.clone() }, "alpha = 1.0"),
        (LoraConfig { use_rslora: true, ..own.clone() }, "use_rslora = true"),
        (LoraConfig { target_modules: form(&["q_proj"]).target_modules, ..own.clone() }, "target_modules: "),
    ] {
        let message = lora.check_form(&wanted, config).unwrap_err().to_string();
        assert!(message.starts_with(key), "{message}");
    }
}
