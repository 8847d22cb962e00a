//! Weights in files: what is read is what was written, and what is wrong is named.

use burn::tensor::f16;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use super::*;

fn config(changes: Value) -> DecoderConfig {
    let mut value = json!({
        "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 12, "vocab_size": 10, "max_position_embeddings": 64,
        "attention_bias": true, "initializer_range": 0.5,
    });
    for (key, change) in changes.as_object().unwrap() {
        value[key] = change.clone();
    }
    DecoderConfig::from_json(Path::new("config.json"), &value).unwrap()
}

/// Random weights whose norms and biases are random as well.
fn weights(config: &DecoderConfig) -> Weights<Tensor<2>> {
    let device = Device::flex();
    config.shapes().map(|name, shape| {
        let values = normals(3, name, shape[0] * shape[1], 1.0);
        Tensor::from_data(TensorData::new(values, *shape), &device)
    })
}

fn lists(weights: &Weights<Tensor<2>>) -> Weights<Vec<f32>> {
    weights.map(|_, tensor| StoredNumbers::of(tensor).numbers().into_owned())
}

fn unpacked(packed: &PackedWeights) -> Weights<Vec<f32>> {
    packed.numbers().map(|_, numbers| numbers.all().into_owned())
}

/// A tensor of a file under test: name, type, shape, bytes.
type Raw = (String, Dtype, Vec<usize>, Vec<u8>);

/// The content of a right file, for a test to spoil.
fn right_file(config: &DecoderConfig) -> Vec<Raw> {
    let weights = weights(config);
    let tensors = weights.named().into_iter().map(|(name, tensor)| {
        let bytes = StoredNumbers::of(tensor).bytes().into_owned();
        (name.clone(), Dtype::F32, file_shape(&name, tensor.dims()), bytes)
    });
    tensors.collect()
}

fn write(path: &Path, tensors: &[Raw]) {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// What loading says of a folder; checking says the same.
fn load_error(dir: &Path, config: &DecoderConfig) -> String {
    let message = load(dir, config, &Device::flex()).unwrap_err().to_string();
    assert_eq!(check(dir, config).unwrap_err().to_string(), message);
    let packed = load_packed(dir, config, Precision::Bf16, None);
    assert_eq!(packed.unwrap_err().to_string(), message);
    message
}

/// What loading says of a file with these tensors; it must name the file.
fn refused(config: &DecoderConfig, tensors: &[Raw]) -> String {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join(WEIGHTS_FILE), tensors);
    let message = load_error(dir.path(), config);
    assert!(message.contains(WEIGHTS_FILE), "{message}");
    message
}

#[test]
fn what_is_saved_is_loaded() {
    for changes in [
        json!({}),
        json!({"tie_word_embeddings": true, "head_dim": 6, "attention_bias": false}),
        json!({"model_type": "qwen2"}),
        json!({"model_type": "qwen3", "head_dim": 4, "attention_bias": false}),
    ] {
        let config = config(changes);
        let weights = weights(&config);
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("inner/model");
        save(&dir, &config, &weights).unwrap();
        assert_eq!(DecoderConfig::read(&dir).unwrap(), config);
        assert_eq!(lists(&load(&dir, &config, &Device::flex()).unwrap()), lists(&weights));
        let mut names: Vec<_> =
            std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, [CONFIG_FILE, WEIGHTS_FILE]);
    }
}

#[test]
fn a_saved_file_is_as_pytorch_has_it() {
    let config = config(json!({"tie_word_embeddings": true}));
    let dir = tempfile::tempdir().unwrap();
    save(dir.path(), &config, &weights(&config)).unwrap();
    let bytes = std::fs::read(dir.path().join(WEIGHTS_FILE)).unwrap();
    let (header_bytes, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header_bytes % 8, 0);
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    assert_eq!(metadata.info("model.layers.1.input_layernorm.weight").unwrap().shape, [8]);
    assert_eq!(metadata.info("model.layers.0.self_attn.k_proj.bias").unwrap().shape, [4]);
    assert_eq!(metadata.info("model.layers.0.self_attn.k_proj.weight").unwrap().shape, [4, 8]);
    assert!(metadata.info(HEAD).is_none());
}

#[test]
fn shards_are_joined() {
    let config = config(json!({}));
    let tensors = right_file(&config);
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = tensors.split_at(9);
    write(&dir.path().join("a.safetensors"), first);
    write(&dir.path().join("b.safetensors"), second);
    let place = |(name, ..): &Raw, file: &str| (name.clone(), json!(file));
    let map: serde_json::Map<String, Value> = first
        .iter()
        .map(|tensor| place(tensor, "a.safetensors"))
        .chain(second.iter().map(|tensor| place(tensor, "b.safetensors")))
        .collect();
    let index = dir.path().join(INDEX_FILE);
    std::fs::write(&index, json!({"metadata": {}, "weight_map": map.clone()}).to_string()).unwrap();
    let loaded = load(dir.path(), &config, &Device::flex()).unwrap();
    assert_eq!(lists(&loaded), lists(&weights(&config)));
    let packed = load_packed(dir.path(), &config, Precision::F32, None).unwrap();
    assert_eq!(unpacked(&packed), lists(&weights(&config)));

    let error = || load_error(dir.path(), &config);
    write(&dir.path().join("b.safetensors"), &second[1..]);
    assert!(error().contains("b.safetensors") && error().contains(&second[0].0), "{}", error());
    write(&dir.path().join("b.safetensors"), &tensors[8..]);
    assert!(error().contains(&tensors[8].0) && error().contains("again"), "{}", error());
    std::fs::remove_file(dir.path().join("b.safetensors")).unwrap();
    assert!(error().contains("b.safetensors"), "{}", error());
    for (content, said) in [
        ("{", "is not JSON"),
        ("{}", "`weight_map`"),
        (r#"{"weight_map": {"x": "../b.safetensors"}}"#, "`weight_map.x`"),
    ] {
        std::fs::write(&index, content).unwrap();
        assert!(error().contains(INDEX_FILE) && error().contains(said), "{}", error());
    }
    std::fs::remove_file(index).unwrap();
    assert!(error().contains("neither model.safetensors nor"), "{}", error());
}

#[test]
fn half_precision_is_widened() {
    let config = config(json!({}));
    let mut tensors = right_file(&config);
    let expected = [1.5_f32, -0.25, 3.0, 0.0, -0.0, 2.0, 65_280.0, 0.000_061_035_156];
    let bf16 = |value: &f32| ((value.to_bits() >> 16) as u16).to_le_bytes();
    let half = |value: &f32| f16::from_f32(*value).to_le_bytes();
    let place = |name: &str| tensors.iter().position(|tensor| tensor.0 == name).unwrap();
    let (first, second) = (place("model.norm.weight"), place("model.layers.0.input_layernorm.weight"));
    (tensors[first].1, tensors[first].3) = (Dtype::BF16, expected.iter().flat_map(bf16).collect());
    (tensors[second].1, tensors[second].3) = (Dtype::F16, expected.iter().flat_map(half).collect());
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join(WEIGHTS_FILE), &tensors);
    let loaded = lists(&load(dir.path(), &config, &Device::flex()).unwrap());
    assert_eq!(loaded.final_norm, expected);
    assert_eq!(loaded.blocks[0].input_norm, expected);
}

/// The upper half of a number, rounded to the nearest.
fn rounded(value: f32) -> f32 {
    f32::from_bits(u32::from(crate::gemm::bf16(value)) << 16)
}

/// In parts, which the embedding has several of, and whose last one fills no panel.
#[test]
fn what_is_packed_while_it_is_read_is_what_was_written() {
    let large = json!({"vocab_size": 9001, "hidden_size": 64});
    for (changes, tied) in [(json!({}), false), (large.clone(), false), (large, true), (experts(), true)] {
        let mut changes = changes;
        changes["tie_word_embeddings"] = json!(tied);
        let config = config(changes);
        let (written, dir) = (weights(&config), tempfile::tempdir().unwrap());
        save(dir.path(), &config, &written).unwrap();
        let exact = lists(&written);
        let half = exact.map(|name, values| {
            let is_kept = is_vector(name) || is_router(name);
            values.iter().map(|value| if is_kept { *value } else { rounded(*value) }).collect::<Vec<_>>()
        });
        for embedding in [None, Some(Precision::F32), Some(Precision::Bf16)] {
            for (precision, expected) in [(Precision::F32, &exact), (Precision::Bf16, &half)] {
                let packed = load_packed(dir.path(), &config, precision, embedding).unwrap();
                let found = unpacked(&packed);
                let looked_up =
                    if embedding == Some(Precision::Bf16) { &half.embedding } else { &exact.embedding };
                assert!(found.embedding == *looked_up, "{precision:?}, {embedding:?}");
                assert!(found.blocks == expected.blocks && found.head == expected.head);
                assert_eq!(found.final_norm, exact.final_norm);
                let head = expected.head.as_ref().unwrap_or(&expected.embedding);
                assert!(*packed.head().all() == **head, "{precision:?}, {embedding:?}");
            }
        }
    }
}

/// What makes a model have experts: matrices of one row are among their projections.
fn experts() -> Value {
    json!({
        "model_type": "qwen3_moe", "head_dim": 4, "num_experts": 3, "num_experts_per_tok": 2,
        "moe_intermediate_size": 1, "mlp_only_layers": [1], "norm_topk_prob": true,
    })
}

/// Cuts the numbers of these tensors off.
fn halve<'a>(tensors: impl Iterator<Item = &'a mut Raw>) {
    for (_, dtype, _, bytes) in tensors {
        let halves = bytes.chunks_exact(4).flat_map(|each| [each[2], each[3]]);
        (*dtype, *bytes) = (Dtype::BF16, halves.collect());
    }
}

/// The router is not rounded, and files that have it in f32 are in half precision all the same.
#[test]
fn experts_in_half_precision_keep_their_routers() {
    let config = config(experts());
    let mut tensors = right_file(&config);
    let dir = tempfile::tempdir().unwrap();
    halve(tensors.iter_mut().filter(|tensor| !is_vector(&tensor.0) && !is_router(&tensor.0)));
    for _ in 0..2 {
        write(&dir.path().join(WEIGHTS_FILE), &tensors);
        assert_eq!(precision(dir.path(), &config).unwrap(), Precision::Bf16);
        let packed = load_packed(dir.path(), &config, Precision::Bf16, None).unwrap();
        let read = lists(&load(dir.path(), &config, &Device::flex()).unwrap());
        assert_eq!(unpacked(&packed), read);
        halve(tensors.iter_mut().filter(|tensor| is_router(&tensor.0)));
    }
    let packed = load_packed(dir.path(), &config, Precision::Bf16, Some(Precision::Bf16)).unwrap();
    assert_eq!(PackedWeights::planned_bytes(&config, Precision::Bf16), packed.bytes() as u64);
}

/// Files whose matrices have bf16 are decoded in bf16 without a change, and their embedding is there once.
#[test]
fn files_in_half_precision_are_known_by_their_matrices() {
    let config = config(json!({"tie_word_embeddings": true, "vocab_size": 6400}));
    let mut tensors = right_file(&config);
    let dir = tempfile::tempdir().unwrap();
    let precision_of = |tensors: &[Raw]| {
        write(&dir.path().join(WEIGHTS_FILE), tensors);
        precision(dir.path(), &config).unwrap()
    };
    assert_eq!(precision_of(&tensors), Precision::F32);
    halve(tensors.iter_mut().filter(|tensor| !is_vector(&tensor.0)));
    assert_eq!(precision_of(&tensors), Precision::Bf16);
    let read = lists(&load(dir.path(), &config, &Device::flex()).unwrap());
    let embedding = Some(Precision::Bf16);
    let packed = load_packed(dir.path(), &config, Precision::Bf16, embedding).unwrap();
    assert_eq!(unpacked(&packed), read);
    assert_eq!(PackedWeights::planned_bytes(&config, Precision::Bf16), packed.bytes() as u64);
    let matrices = 6400 * 8 + 2 * (2 * 8 * 8 + 2 * 4 * 8 + 3 * 12 * 8);
    let vectors = 8 + 2 * (2 * 8 + 8 + 2 * 4 + 8);
    // Panels of the small matrices are filled up.
    let bytes = packed.bytes();
    assert!(bytes >= 2 * matrices + 4 * vectors && bytes < 4 * 6400 * 8, "{bytes}");
    assert!(load_packed(dir.path(), &config, Precision::Bf16, None).unwrap().bytes() > 4 * 6400 * 8);
}

#[test]
fn a_missing_tensor_is_named() {
    let config = config(json!({}));
    for name in ["lm_head.weight", "model.layers.1.self_attn.v_proj.bias", "model.norm.weight"] {
        let mut tensors = right_file(&config);
        tensors.retain(|tensor| tensor.0 != name);
        let message = refused(&config, &tensors);
        assert!(message.contains(&format!("lacks tensor `{name}`")), "{message}");
    }
}

#[test]
fn a_misshapen_tensor_is_named_with_both_shapes() {
    let config = config(json!({}));
    let mut tensors = right_file(&config);
    let place = tensors.iter().position(|tensor| tensor.0.ends_with("0.mlp.up_proj.weight")).unwrap();
    tensors[place].2 = vec![8, 12];
    let message = refused(&config, &tensors);
    assert!(message.contains("`model.layers.0.mlp.up_proj.weight`"), "{message}");
    assert!(message.contains("[8, 12]") && message.contains("[12, 8]"), "{message}");
}

#[test]
fn a_tensor_of_another_type_is_named() {
    let config = config(json!({}));
    let mut tensors = right_file(&config);
    tensors[2].1 = Dtype::I32;
    let message = refused(&config, &tensors);
    assert!(message.contains(&tensors[2].0) && message.contains("I32"), "{message}");
}

#[test]
fn an_unexpected_tensor_is_named() {
    let config = config(json!({"attention_bias": false}));
    let mut tensors = right_file(&config);
    let bias = "model.layers.0.self_attn.q_proj.bias";
    tensors.push((bias.to_owned(), Dtype::F32, vec![8], vec![0; 32]));
    assert!(refused(&config, &tensors).contains(bias));
    tensors.last_mut().unwrap().0 = "model.layers.2.input_layernorm.weight".to_owned();
    assert!(refused(&config, &tensors).contains("model.layers.2.input_layernorm.weight"));
    tensors.last_mut().unwrap().0 = "model.layers.0.self_attn.rotary_emb.inv_freq".to_owned();
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join(WEIGHTS_FILE), &tensors);
    assert!(load(dir.path(), &config, &Device::flex()).is_ok());
    check(dir.path(), &config).unwrap();
}

#[test]
fn a_head_beside_tied_embeddings_must_equal_them() {
    let config = config(json!({"tie_word_embeddings": true}));
    let mut tensors = right_file(&config);
    let embedding = tensors.iter().find(|tensor| tensor.0 == "model.embed_tokens.weight").unwrap().clone();
    tensors.push((HEAD.to_owned(), embedding.1, embedding.2, embedding.3));
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join(WEIGHTS_FILE), &tensors);
    assert!(load(dir.path(), &config, &Device::flex()).unwrap().head.is_none());
    check(dir.path(), &config).unwrap();
    tensors.last_mut().unwrap().3[5] ^= 1;
    assert!(refused(&config, &tensors).contains("`lm_head.weight` differs"));
}

#[test]
fn a_broken_file_is_named_with_the_place() {
    let config = config(json!({}));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(WEIGHTS_FILE);
    save(dir.path(), &config, &weights(&config)).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let error = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let message = load_error(dir.path(), &config);
        assert!(message.contains(path.to_str().unwrap()), "{message}");
        message
    };
    let message = error(&whole[..whole.len() - 1]);
    assert!(message.contains("is truncated in tensor `lm_head.weight`"), "{message}");
    let header_bytes = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let message = error(&whole[..8 + header_bytes + 3]);
    assert!(message.contains("is truncated in tensor `model.embed_tokens.weight`"), "{message}");
    // Every other length is an error as well, and none panics.
    for length in (0..whole.len()).step_by(37) {
        error(&whole[..length]);
    }
    assert!(error(&[&whole[..], &[0]].concat()).contains("explains"));
    assert!(error(&[0xff; 64]).contains("is no safetensors file"));
    assert!(error(b"\x10\0\0\0\0\0\0\0{\"a\": nonsense}}").contains("header"));
}

#[test]
fn random_weights_have_the_stated_moments() {
    let device = Device::flex();
    let config = config(json!({"vocab_size": 4000, "initializer_range": 0.02}));
    let weights = lists(&random(&config, 9, &device));
    assert_eq!(weights.blocks[1].input_norm, [1.0; 8]);
    assert_eq!(weights.blocks[0].key_bias, Some(vec![0.0; 4]));
    let count = weights.embedding.len() as f32;
    let mean = weights.embedding.iter().sum::<f32>() / count;
    let deviation = (weights.embedding.iter().map(|value| value * value).sum::<f32>() / count).sqrt();
    // The standard errors are 1.1e-4 and 8e-5.
    assert!(mean.abs() < 5e-4 && (deviation - 0.02).abs() < 4e-4, "{mean} {deviation}");
    let correlation: f32 = weights.embedding.windows(2).map(|pair| pair[0] * pair[1]).sum::<f32>() / count;
    assert!(correlation.abs() < 1e-5, "{correlation}");
    assert_eq!(lists(&random(&config, 9, &device)), weights);
    assert_ne!(lists(&random(&config, 10, &device)), weights);
    let named = weights.named();
    let of = |name: &str| named.iter().find(|(own, _)| own == name).expect("a parameter of this name").1;
    let gate = of("model.layers.0.mlp.gate_proj.weight");
    assert_ne!(gate, of("model.layers.0.mlp.up_proj.weight"));
    assert_ne!(gate, of("model.layers.1.mlp.gate_proj.weight"));
}
