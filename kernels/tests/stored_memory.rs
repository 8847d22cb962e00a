//! A checkpoint in bf16 is decoded in the memory of its numbers: the most that is resident while it is read, packed and
//! decoded. Alone in its process, because the system counts for a process as a whole.

#![cfg(target_os = "linux")]
// A test that cannot go on says where; that is what `unwrap` does.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use kernels::{CachePrecision, CacheRoom, Cpu, DecoderConfig, Engine, EngineWeights, Feed, Precision};
use serde_json::{Map, Value, json};

/// What the process may hold for each byte of the files, beside what it held before.
const RATIO_MAX: f64 = 1.15;

/// 80 MB: the parts in which files are read, and what a step computes with, take less than 15 % of it.
fn config() -> DecoderConfig {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 32_000, "hidden_size": 512,
        "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 64, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "initializer_range": 0.02, "hidden_act": "silu",
    });
    DecoderConfig::from_json(Path::new("config.json"), &config).unwrap()
}

/// Writes some tensors in bf16, a few numbers at a time; returns their bytes.
fn write_shard(path: &Path, tensors: &[(String, Vec<usize>)]) -> u64 {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = serde_json::to_vec(&Value::Object(header)).unwrap();
    let mut file = BufWriter::new(File::create(path).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    for number in 0..end as u32 / 2 {
        // Between 0.0078 and 0.031, of both signs.
        let bits = 0x3c00 | ((number.wrapping_mul(2_654_435_761) >> 23) & 0xff) | ((number & 1) << 15);
        file.write_all(&(bits as u16).to_le_bytes()).unwrap();
    }
    file.flush().unwrap();
    end as u64
}

/// Two shards and their index; returns the bytes of the tensors.
fn write_checkpoint(dir: &Path, config: &DecoderConfig) -> u64 {
    let shapes = config.shapes();
    let tensors = shapes.named().into_iter().map(|(name, shape)| {
        let shape = if shape[0] == 1 { vec![shape[1]] } else { shape.to_vec() };
        (config.family.file_name(&name), shape)
    });
    let tensors: Vec<(String, Vec<usize>)> = tensors.collect();
    let mut map = Map::new();
    let mut bytes = 0;
    for (part, name) in tensors.chunks(tensors.len().div_ceil(2)).zip(["a.safetensors", "b.safetensors"]) {
        bytes += write_shard(&dir.join(name), part);
        map.extend(part.iter().map(|(tensor, _)| (tensor.clone(), json!(name))));
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    std::fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
    bytes
}

/// A line of `/proc/self/status`, in bytes.
fn status(line: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let number = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
    1024 * number.unwrap().trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap()
}

#[test]
fn a_checkpoint_in_half_precision_is_decoded_in_the_memory_of_its_numbers() {
    let (config, dir) = (config(), tempfile::tempdir().unwrap());
    let bytes = write_checkpoint(dir.path(), &config);
    let engine = Cpu::default();
    let before = status("VmRSS");
    let weights = engine.load(dir.path(), &config, Precision::Bf16).unwrap();
    let room = CacheRoom { slots: 1, positions: 64, precision: CachePrecision::F32 };
    let mut slots = engine.slots(&config, room).unwrap();
    for token in 0..8 {
        let logits = engine.logits(&mut slots, &weights, &[Feed { slot: 0, tokens: &[1 + 3000 * token] }]);
        assert!(logits.iter().all(|logit| logit.is_finite()));
    }
    let ratio = (status("VmHWM") - before) as f64 / bytes as f64;
    assert!(ratio < RATIO_MAX, "{ratio:.3} times the {bytes} bytes of the files");
    // Padding is all that is packed beside the numbers.
    let packed = weights.bytes() as f64 / bytes as f64;
    assert!((0.99..1.05).contains(&packed), "{packed:.3} times the {bytes} bytes of the files");
}
