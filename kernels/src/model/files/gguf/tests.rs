//! Whole files: what is damaged is an error or read as it was, and rows of rotated heads come back in their order.

use std::collections::BTreeMap;

use super::metadata::MetaValue;
use super::write::{GgufFormat, write_gguf};
use super::*;
use crate::model::files::directory::ModelDirectory;
use crate::model::files::write::FloatType;
use crate::model::spec::ModelSpec;
use crate::rope::RopeScaling;
use crate::sampling::{key, uniform};

/// Damages of a file, each at another place.
const DAMAGES: u64 = 200;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/gguf").join(name)
}

/// All parameters of a file.
fn read_all(path: &Path) -> Result<(Header, BTreeMap<String, Vec<f32>>), KernelError> {
    let mut model = GgufModel::new(GgufFile::open(path)?)?;
    let shapes = model.config().shapes();
    let mut all = BTreeMap::new();
    for (name, shape) in shapes.named() {
        let mut numbers = Vec::new();
        model.read(&name, *shape, &mut |part| {
            numbers.extend_from_slice(part);
            Ok(())
        })?;
        all.insert(name, numbers);
    }
    Ok((model.file.header, all))
}

/// What is done to a file, as a function of the seed.
fn damage(good: &[u8], header_bytes: usize, seed: u64) -> Vec<u8> {
    let draw = |number: u64| uniform(key(&[41, seed]), number);
    let place = |below: usize| (draw(1) * below as f64) as usize;
    let mut bytes = good.to_vec();
    match seed % 4 {
        0 => bytes.truncate(place(good.len())),
        1 => bytes[place(header_bytes)] ^= 1 << ((draw(2) * 8.0) as u32),
        2 => {
            let at = place(header_bytes - 8);
            let number = if seed % 8 < 4 { 1_u64 << 63 } else { (draw(2) * 1e6) as u64 };
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        _ => bytes[place(good.len())] = (draw(2) * 256.0) as u8,
    }
    bytes
}

#[test]
fn a_damaged_file_is_an_error_or_is_read_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["llama_bytes.gguf", "gemma3_pieces.gguf"] {
        let good = std::fs::read(fixture(name)).unwrap();
        let (header, numbers) = read_all(&fixture(name)).unwrap();
        let ends = header.tensors.iter().map(|tensor| tensor.start + tensor.bytes);
        let (tensors_end, header_bytes) = (
            ends.max().unwrap() as usize,
            header.tensors.iter().map(|tensor| tensor.start).min().unwrap() as usize,
        );
        let mut errors = 0;
        for seed in 0..DAMAGES {
            let bytes = damage(&good, header_bytes, seed);
            let path = dir.path().join("damaged.gguf");
            std::fs::write(&path, &bytes).unwrap();
            match read_all(&path) {
                Err(error) => {
                    errors += 1;
                    let error = error.to_string();
                    assert!(error.contains("damaged.gguf: ") && error.len() < 2000, "{seed}: {error}");
                }
                Ok((found, read))
                    if found.tensors == header.tensors
                        && found.metadata.entries().eq(header.metadata.entries()) =>
                {
                    assert!(bytes.len() >= tensors_end, "{seed}: a file that was cut short is read");
                    let differs = numbers.iter().filter(|(name, numbers)| read[*name] != **numbers).count();
                    assert!(differs <= usize::from(bytes != good), "{seed}: {differs} tensors differ");
                }
                // Another word or number in the header than before is another model, and nothing says that it is wrong.
                Ok(_) => assert!(bytes[..header_bytes] != good[..header_bytes], "{seed}"),
            }
        }
        assert!(errors > DAMAGES / 3, "{name}: {errors}");
    }
}

#[test]
fn rows_of_a_rotated_pair_come_apart_into_the_halves_of_a_head() {
    // Two heads of four rows with two numbers each; rows of a head are p0, q0, p1, q1.
    let rows: Vec<f32> = [0, 2, 1, 3, 4, 6, 5, 7].iter().flat_map(|row| [*row as f32, 0.5]).collect();
    let expected: Vec<f32> = (0..8).flat_map(|row| [row as f32, 0.5]).collect();
    assert_eq!(halves_of_pairs(&rows, 4, 2), expected);
}

#[test]
fn what_a_file_lacks_or_has_too_much_is_named() {
    let (path, dir) = (fixture("llama_bytes.gguf"), tempfile::tempdir().unwrap());
    let good = std::fs::read(path).unwrap();
    let renamed = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = good.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        let path = dir.path().join("renamed.gguf");
        std::fs::write(&path, bytes).unwrap();
        read_all(&path).unwrap_err().to_string()
    };
    for (from, to, said) in [
        (
            "blk.0.attn_q.weight",
            "blk.0.attn_x.weight",
            "lacks tensor `blk.0.attn_q.weight` of dimensions [64, 64]",
        ),
        ("llama.context_length", "llama.context_lengtg", "`llama.context_length` is missing"),
        (
            "output_norm.weight",
            "output_morm.weight",
            "lacks tensor `output_norm.weight` of dimensions [64, 1]",
        ),
    ] {
        let error = renamed(from, to);
        assert!(error.contains(said), "{error}");
    }
    let mut bytes = good.clone();
    let at = bytes.windows(5).position(|window| window == b"llama").unwrap();
    bytes[at..at + 5].copy_from_slice(b"bloom");
    let path = dir.path().join("other.gguf");
    std::fs::write(&path, bytes).unwrap();
    let error = read_all(&path).unwrap_err().to_string();
    assert!(
        error.contains("`general.architecture` is \"bloom\"; read are llama, qwen2, qwen3, gemma3, qwen3moe"),
        "{error}"
    );
}

/// All parameters of a file after it was written anew in a format.
fn written_anew(name: &str, format: GgufFormat, dir: &Path) -> BTreeMap<String, Vec<f32>> {
    let mut model = GgufModel::new(GgufFile::open(&fixture(name)).unwrap()).unwrap();
    let config = model.config().clone();
    let path = dir.join("anew.gguf");
    write_gguf(&path, &config, &mut model, &[("a.b".to_owned(), MetaValue::Flag(true))], format).unwrap();
    let anew = GgufModel::new(GgufFile::open(&path).unwrap()).unwrap();
    // Ids stand among the keys of the tokenizer, which are not written here.
    let ids = |config: &DecoderConfig| DecoderConfig {
        eos_ids: vec![],
        bos_id: None,
        padding_id: None,
        ..config.clone()
    };
    assert_eq!(ids(anew.config()), ids(&config), "{name}");
    assert_eq!(anew.file().header().metadata.flag("a.b").unwrap(), Some(true));
    read_all(&path).unwrap().1
}

#[test]
fn a_file_that_is_written_anew_holds_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "llama_bytes.gguf",
        "qwen2_bytes.gguf",
        "qwen3_bytes.gguf",
        "gemma3_pieces.gguf",
        "qwen3moe_bytes.gguf",
        "smollm3_bytes.gguf",
        "granite_bytes.gguf",
    ] {
        let good = read_all(&fixture(name)).unwrap().1;
        let float = GgufFormat::Float;
        assert_eq!(written_anew(name, float(FloatType::F32), dir.path()), good, "{name}");
        for (format, error) in
            [(float(FloatType::F16), 1e-3), (float(FloatType::Bf16), 8e-3), (GgufFormat::Q8_0, 8e-3)]
        {
            for (parameter, found) in written_anew(name, format, dir.path()) {
                // A number of a block is off by a part of the block's largest.
                for (found, good) in found.chunks(32).zip(good[&parameter].chunks(32)) {
                    let largest = good.iter().fold(0.0_f32, |largest, number| largest.max(number.abs()));
                    let off = found.iter().zip(good).map(|(one, other)| (one - other).abs());
                    let worst = off.fold(0.0_f32, f32::max);
                    assert!(
                        worst <= error * largest,
                        "{name}, {parameter} in {format:?}: {worst} of {largest}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_scaling_of_llama_3_is_found_by_its_factors() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = GgufModel::new(GgufFile::open(&fixture("llama_bytes.gguf")).unwrap()).unwrap();
    let mut config = model.config().clone();
    for factor in [8.0, 32.0, 5.0] {
        let scaling = RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192,
        };
        config.spec.attention[0].rope.scaling = scaling.clone();
        let path = dir.path().join("scaled.gguf");
        write_gguf(&path, &config, &mut model, &[], GgufFormat::Float(FloatType::F32)).unwrap();
        let read = GgufModel::new(GgufFile::open(&path).unwrap());
        if factor == 5.0 {
            let error = read.unwrap_err().to_string();
            assert!(error.contains("`rope_freqs.weight`"), "{error}");
        } else {
            assert_eq!(read.unwrap().config().spec.attention[0].rope.scaling, scaling);
        }
    }
}

#[test]
fn what_gguf_has_no_key_for_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.gguf");
    let mut model = GgufModel::new(GgufFile::open(&fixture("gemma3_pieces.gguf")).unwrap()).unwrap();
    let good = model.config().clone();
    let mut refused = |config: &DecoderConfig| {
        let error = write_gguf(&path, config, &mut model, &[], GgufFormat::Q8_0).unwrap_err().to_string();
        assert!(error.contains("none.gguf: ") && !path.exists(), "{error}");
        error
    };
    let mut config = good.clone();
    config.spec.block.attention_scale = Some(1.0);
    assert!(refused(&config).contains("`query_pre_attn_scalar`"));
    config = good.clone();
    config.spec.attention.swap(0, 5);
    assert!(refused(&config).contains("no key for windows"));
}

/// A Hugging Face directory of the fixtures.
fn parity(name: &str) -> ModelDirectory {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/parity");
    ModelDirectory::open(&root.join(name)).unwrap()
}

#[test]
fn what_llama_cpp_takes_for_granted_in_a_family_is_not_written_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.gguf");
    for (name, said) in [
        ("smollm3", "`no_rope_layers` other than every fourth layer"),
        ("qwen3_moe_sparse", "`norm_topk_prob` = false"),
        ("qwen3_moe_dialect4", "layers without experts in this architecture (`mlp_only_layers`"),
        ("mistral_window", "`sliding_window`"),
        ("qwen2_window", "`sliding_window`"),
        ("qwen3_bias_yarn", "no bias of `o_proj` in a qwen3 model"),
    ] {
        let mut model = parity(name);
        let config = model.config().clone();
        let written = write_gguf(&path, &config, &mut model, &[], GgufFormat::Float(FloatType::F32));
        let error = written.unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("none.gguf") && !path.exists(), "{name}: {error}");
    }
}

#[test]
fn a_directory_that_is_written_as_gguf_computes_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("written.gguf");
    for (name, architecture) in [
        ("mistral", "llama"),
        ("llama_bias_wide_heads", "llama"),
        ("granite", "granite"),
        ("qwen3_moe_normalised", "qwen3moe"),
    ] {
        let mut model = parity(name);
        let config = model.config().clone();
        write_gguf(&path, &config, &mut model, &[], GgufFormat::Float(FloatType::F32)).unwrap();
        let read = GgufModel::new(GgufFile::open(&path).unwrap()).unwrap();
        let header = read.file().header();
        assert_eq!(header.metadata.text("general.architecture").unwrap(), Some(architecture));
        let (spec, found) = (&config.spec, &read.config().spec);
        // Numbers of files have 32 bits.
        let scale = |spec: &ModelSpec| spec.block.attention_scale.map(|scale| scale as f32);
        assert_eq!(scale(found), scale(spec), "{name}");
        let mut found = found.clone();
        found.block.attention_scale = spec.block.attention_scale;
        assert_eq!(rounded(found), rounded(spec.clone()), "{name}");
        let (_, numbers) = read_all(&path).unwrap();
        for (parameter, shape) in config.shapes().named() {
            let mut own = Vec::new();
            let mut take = |part: &[f32]| {
                own.extend_from_slice(part);
                Ok(())
            };
            model.read(&parameter, *shape, &mut take).unwrap();
            let mut pairs = numbers[&parameter].iter().zip(&own);
            let are_close = pairs.all(|(one, other)| (one - other).abs() <= 1e-6 * other.abs());
            assert!(are_close, "{name}: {parameter}");
        }
    }
}

/// A spec whose epsilons have the 32 bits of a file.
fn rounded(mut spec: ModelSpec) -> ModelSpec {
    let block = &mut spec.block;
    let optional =
        [&mut block.query_key_norm, &mut block.attention_output_norm, &mut block.feed_forward_output_norm];
    let norms = [&mut block.input_norm, &mut block.feed_forward_norm, &mut spec.final_norm];
    for norm in norms.into_iter().chain(optional.into_iter().flatten()) {
        norm.eps = f64::from(norm.eps as f32);
    }
    spec
}

#[test]
fn keys_of_experts_that_ask_for_another_computation_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("experts.gguf");
    let mut model = GgufModel::new(GgufFile::open(&fixture("qwen3moe_bytes.gguf")).unwrap()).unwrap();
    let config = model.config().clone();
    let mut read_with = |key: &str, value: MetaValue| {
        let keys = [(key.to_owned(), value)];
        write_gguf(&path, &config, &mut model, &keys, GgufFormat::Float(FloatType::F32)).unwrap();
        GgufModel::new(GgufFile::open(&path).unwrap()).map_err(|error| error.to_string())
    };
    for (key, value) in [
        ("qwen3moe.expert_gating_func", MetaValue::Integer(2)),
        ("qwen3moe.expert_weights_scale", MetaValue::Float(2.5)),
        ("qwen3moe.expert_shared_count", MetaValue::Integer(1)),
        ("qwen3moe.leading_dense_block_count", MetaValue::Integer(1)),
    ] {
        let error = read_with(key, value).unwrap_err();
        assert!(error.contains("experts.gguf") && error.contains(&format!("`{key}`")), "{error}");
    }
    assert!(read_with("qwen3moe.expert_gating_func", MetaValue::Integer(1)).is_ok());
}
