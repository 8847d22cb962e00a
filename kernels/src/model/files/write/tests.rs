//! What is written in any type and in any number of files is read again, and what does not fit a type is named.

use std::path::Path;

use super::*;
use crate::model::files::directory::ModelDirectory;
use crate::model::files::source::TakeNumbers;
use crate::sampling::{key, uniform};

/// Numbers by a rule, some of them as large as asked.
struct Ruled(f32);

impl TensorSource for Ruled {
    fn read(
        &mut self,
        parameter: &str,
        shape: [usize; 2],
        take: &mut TakeNumbers<'_>,
    ) -> Result<(), KernelError> {
        let count = shape[0] * shape[1];
        let numbers: Vec<f32> = (0..count).map(|at| (at as f32 + parameter.len() as f32) * self.0).collect();
        numbers.chunks(7).try_for_each(take)
    }
}

fn config() -> DecoderConfig {
    let value = json!({
        "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 12, "vocab_size": 10, "max_position_embeddings": 64,
    });
    DecoderConfig::from_json(Path::new("config.json"), &value).unwrap()
}

/// What a directory holds, by names, once it has a config.
fn read(dir: &Path, config: &DecoderConfig) -> Vec<(String, Vec<f32>)> {
    std::fs::write(dir.join("config.json"), config.to_json().to_string()).unwrap();
    try_read(dir, config).unwrap()
}

fn try_read(dir: &Path, config: &DecoderConfig) -> Result<Vec<(String, Vec<f32>)>, KernelError> {
    let mut source = ModelDirectory::open(dir)?;
    let mut all = Vec::new();
    for (name, shape) in config.shapes().named() {
        let mut numbers = Vec::new();
        source.read(&name, *shape, &mut |part| {
            numbers.extend_from_slice(part);
            Ok(())
        })?;
        all.push((name, numbers));
    }
    Ok(all)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn shards_and_types_are_read_again() {
    let config = config();
    let whole = tempfile::tempdir().unwrap();
    let format = |dtype, shard_bytes| WeightFormat { dtype, shard_bytes };
    write_weights(whole.path(), &config, &mut Ruled(1.0 / 1024.0), format(FloatType::F32, 1 << 20)).unwrap();
    assert_eq!(names(whole.path()), [WEIGHTS_FILE]);
    let expected = read(whole.path(), &config);
    assert_eq!(expected[0].1[3], 28.0 / 1024.0);
    for dtype in [FloatType::F32, FloatType::Bf16, FloatType::F16] {
        let dir = tempfile::tempdir().unwrap();
        write_weights(dir.path(), &config, &mut Ruled(1.0 / 1024.0), format(dtype, 1000)).unwrap();
        let files = names(dir.path());
        assert!(files.len() > 3 && files.contains(&INDEX_FILE.to_owned()), "{files:?}");
        for file in files.iter().filter(|file| *file != INDEX_FILE) {
            let bytes = std::fs::metadata(dir.path().join(file)).unwrap().len();
            assert!(bytes < 2500, "{file} has {bytes} bytes");
        }
        // Eight bits of a number are kept at least, and none of f32.
        let error = if dtype == FloatType::F32 { 0.0 } else { 1.0 / 256.0 };
        for ((name, expected), (_, found)) in expected.iter().zip(read(dir.path(), &config)) {
            let close =
                expected.iter().zip(&found).all(|(one, other)| (one - other).abs() <= error * one.abs());
            assert!(close, "{name} in {dtype:?}");
        }
    }
}

#[test]
fn what_f16_has_no_place_for_is_named_and_no_file_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let format = WeightFormat { dtype: FloatType::F16, shard_bytes: 1 << 20 };
    let error = write_weights(dir.path(), &config(), &mut Ruled(1e4), format).unwrap_err().to_string();
    assert!(
        error.contains("`model.embed_tokens.weight` holds 250000, for which float16 has no place"),
        "{error}"
    );
    assert!(!names(dir.path()).contains(&WEIGHTS_FILE.to_owned()));
    let format = WeightFormat { dtype: FloatType::Bf16, ..format };
    write_weights(dir.path(), &config(), &mut Ruled(1e4), format).unwrap();
}

/// Damages of a file, each at another place.
const DAMAGES: u64 = 200;

#[test]
fn a_damaged_file_is_an_error_or_is_read_as_it_was() {
    let (config, dir) = (config(), tempfile::tempdir().unwrap());
    let format = WeightFormat { dtype: FloatType::F32, shard_bytes: 1 << 20 };
    write_weights(dir.path(), &config, &mut Ruled(0.01), format).unwrap();
    let good_numbers = read(dir.path(), &config);
    let path = dir.path().join(WEIGHTS_FILE);
    let good = std::fs::read(&path).unwrap();
    let header_bytes = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let mut errors = 0;
    for seed in 0..DAMAGES {
        let draw = |number: u64| uniform(key(&[43, seed]), number);
        let place = |below: usize| (draw(1) * below as f64) as usize;
        let mut bytes = good.clone();
        match seed % 4 {
            0 => bytes.truncate(place(good.len())),
            1 => bytes[place(header_bytes)] ^= 1 << ((draw(2) * 8.0) as u32),
            2 => bytes[..8].copy_from_slice(&((draw(2) * 1e19) as u64).to_le_bytes()),
            _ => bytes[header_bytes + place(good.len() - header_bytes)] ^= 255,
        }
        std::fs::write(&path, &bytes).unwrap();
        match try_read(dir.path(), &config) {
            Err(error) => {
                errors += 1;
                let error = error.to_string();
                assert!(error.contains(WEIGHTS_FILE) && error.len() < 2000, "{seed}: {error}");
            }
            Ok(numbers) => {
                assert_eq!(bytes.len(), good.len(), "{seed}: a file that was cut short is read");
                let pairs = numbers.iter().zip(&good_numbers);
                let differs = pairs.filter(|(one, other)| format!("{one:?}") != format!("{other:?}")).count();
                // A byte of the header that still makes sense, as a space, changes nothing or is another type.
                assert!(
                    differs <= 1 || bytes[..header_bytes] != good[..header_bytes],
                    "{seed}: {differs} differ"
                );
            }
        }
    }
    assert!(errors > DAMAGES / 2, "{errors}");
}
