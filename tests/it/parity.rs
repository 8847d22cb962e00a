//! The decoder computes what transformers computes, in training and in cached decode, and its files are
//! transformers' files.
//!
//! The checkpoints and the expected numbers under `tests/fixtures/parity` come from PyTorch by
//! `tests/fixtures/make_fixtures.py`. That transformers in turn loads what is saved here is checked by
//! hand with `scripts/check_saved.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use kernels::sampling::logprob_and_entropy;
use kernels::{
    Adapters, CachePrecision, CacheRoom, ChunkPlan, Cpu, Decoder, Engine, EngineSlots, Feed, GradientPath,
    GradientSink, LayerInputs, Lora, LoraConfig, LowRank, OnDevice, Packed, Precision, Slopes, TargetModules,
    TokenStats, TrainingEngine,
};
use safetensors::SafeTensors;
use serde_json::Value;

/// How far a log-probability or an entropy may lie from PyTorch's, in nats.
const TOLERANCE: f32 = 1e-4;

/// One sequence with what PyTorch says of it; entry k belongs to token k+1.
pub(crate) struct Sequence {
    pub(crate) tokens: Vec<u32>,
    pub(crate) logprobs: Vec<f32>,
    pub(crate) entropies: Vec<f32>,
}

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert_eq!(cases.len(), 24, "a fixture is missing or not counted here");
    cases
}

pub(crate) fn sequences(case: &Path) -> Vec<Sequence> {
    let text = std::fs::read_to_string(case.join("expected.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let floats =
        |value: &Value| value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
    let rows = json["sequences"].as_array().unwrap().iter().map(|row| Sequence {
        tokens: row["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect(),
        logprobs: floats(&row["logprobs"]),
        entropies: floats(&row["entropies"]),
    });
    rows.collect()
}

fn load(case: &Path) -> Decoder {
    Decoder::load(case, &Device::flex()).unwrap()
}

/// On the CPU, and on a device, which here is burn's CPU backend in burn's own operations.
pub(crate) fn engines() -> [Box<dyn TrainingEngine>; 2] {
    [Box::new(Cpu::default()), Box::new(on_device())]
}

pub(crate) fn on_device() -> OnDevice {
    OnDevice::new(Device::flex())
}

fn room(slots: usize, positions: usize) -> CacheRoom {
    CacheRoom { slots, positions, precision: CachePrecision::F32 }
}

pub(crate) fn whole() -> ChunkPlan {
    ChunkPlan {
        path: GradientPath::Unchunked,
        layer_chunk_tokens: 1 << 20,
        head_chunk_tokens: 1 << 20,
        attention_kept_bytes: 0,
        activations_kept_bytes: 0,
        layer_inputs: LayerInputs::Memory,
        temperature: 1.0,
    }
}

pub(crate) fn packed(sequences: &[Sequence]) -> Packed {
    Packed::new(sequences.iter().map(|sequence| sequence.tokens.as_slice()))
}

/// The part of packed statistics that belongs to each sequence, without its meaningless last entry.
pub(crate) fn split(stats: &TokenStats, sequences: &[Sequence]) -> Vec<(Vec<f32>, Vec<f32>)> {
    let mut start = 0;
    let parts = sequences.iter().map(|sequence| {
        let range = start..start + sequence.tokens.len() - 1;
        start += sequence.tokens.len();
        (stats.logprobs[range.clone()].to_vec(), stats.entropies[range].to_vec())
    });
    parts.collect()
}

pub(crate) fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (position, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (found - expected).abs();
        assert!(difference <= TOLERANCE, "{what}, entry {position}: {found} is not {expected}");
    }
}

#[test]
fn the_training_forward_gives_the_logprobs_of_pytorch() {
    let plans = [
        whole(),
        ChunkPlan {
            path: GradientPath::StreamBp,
            layer_chunk_tokens: 7,
            head_chunk_tokens: 5,
            attention_kept_bytes: 0,
            activations_kept_bytes: 0,
            layer_inputs: LayerInputs::Memory,
            temperature: 1.0,
        },
        ChunkPlan {
            path: GradientPath::StreamBp,
            layer_chunk_tokens: 64,
            head_chunk_tokens: 1,
            attention_kept_bytes: 0,
            activations_kept_bytes: 0,
            layer_inputs: LayerInputs::Memory,
            temperature: 1.0,
        },
    ];
    for case in cases() {
        let (decoder, sequences) = (load(&case), sequences(&case));
        for (plan, engine) in plans.iter().flat_map(|plan| engines().map(|engine| (plan, engine))) {
            let stats = engine.statistics(&decoder, &packed(&sequences), plan);
            for (sequence, (logprobs, entropies)) in sequences.iter().zip(split(&stats, &sequences)) {
                let tokens = sequence.tokens.len();
                let what = format!("{engine:?}, {}, {tokens} tokens, {plan:?}", case.display());
                assert_close(&logprobs, &sequence.logprobs, &format!("{what}: log-probs"));
                assert_close(&entropies, &sequence.entropies, &format!("{what}: entropies"));
            }
        }
    }
}

/// Log-probs and entropies by cached decode: every sequence in its own slot from its first token on, all
/// slots that have tokens left in one step.
pub(crate) fn cached<E: Engine>(
    engine: &E,
    decoder: &Decoder,
    sequences: &[Sequence],
) -> Vec<(Vec<f32>, Vec<f32>)> {
    let longest = sequences.iter().map(|sequence| sequence.tokens.len()).max().unwrap();
    let weights = engine.prepare(decoder, Precision::F32).unwrap();
    let mut slots = engine.slots(&decoder.config, room(sequences.len(), longest)).unwrap();
    let vocabulary = decoder.config.vocabulary;
    let mut found = vec![(Vec::new(), Vec::new()); sequences.len()];
    let mut fed = vec![0; sequences.len()];
    loop {
        let open: Vec<usize> =
            (0..sequences.len()).filter(|&slot| fed[slot] + 1 < sequences[slot].tokens.len()).collect();
        if open.is_empty() {
            return found;
        }
        let feeds: Vec<Feed<'_>> = open
            .iter()
            .map(|&slot| Feed { slot, tokens: &sequences[slot].tokens[fed[slot]..=fed[slot]] })
            .collect();
        let logits = engine.logits(&mut slots, &weights, &feeds);
        for (&slot, row) in open.iter().zip(logits.chunks(vocabulary)) {
            fed[slot] += 1;
            let (logprob, entropy) = logprob_and_entropy(row, 1.0, sequences[slot].tokens[fed[slot]]);
            found[slot].0.push(logprob);
            found[slot].1.push(entropy);
        }
    }
}

#[test]
fn cached_decode_gives_the_logprobs_of_pytorch_and_of_the_training_forward() {
    cached_decode_is_right(&Cpu::default());
    cached_decode_is_right(&on_device());
}

/// Invariant 3: cached decode and training forward give equal log-probs at equal weights.
fn cached_decode_is_right<E: Engine>(engine: &E) {
    for case in cases() {
        let (decoder, sequences) = (load(&case), sequences(&case));
        let training = split(&engine.statistics(&decoder, &packed(&sequences), &whole()), &sequences);
        let found = cached(engine, &decoder, &sequences);
        for ((sequence, found), training) in sequences.iter().zip(found).zip(training) {
            let what = format!("{}, {} tokens, cached", case.display(), sequence.tokens.len());
            assert_close(&found.0, &sequence.logprobs, &format!("{what}: log-probs"));
            assert_close(&found.1, &sequence.entropies, &format!("{what}: entropies"));
            assert_close(&found.0, &training.0, &format!("{what}: against training"));
        }
    }
}

#[test]
fn a_prefilled_context_goes_on_as_one_fed_token_by_token() {
    a_prefilled_context_goes_on(&Cpu::default());
    a_prefilled_context_goes_on(&on_device());
}

fn a_prefilled_context_goes_on<E: Engine>(engine: &E) {
    for case in cases() {
        let (decoder, sequences) = (load(&case), sequences(&case));
        let longest = sequences.last().unwrap();
        let weights = engine.prepare(&decoder, Precision::F32).unwrap();
        let mut slots = engine.slots(&decoder.config, room(3, longest.tokens.len())).unwrap();
        for length in [1, 20, 41, longest.tokens.len() - 2] {
            let (context, rest) = longest.tokens.split_at(length);
            // Another slot with another length stands beside it, and the slot is filled anew each time.
            let other = Feed { slot: 0, tokens: &longest.tokens[..7] };
            engine.prefill(&mut slots, &weights, &[Feed { slot: 2, tokens: context }, other]);
            assert_eq!((slots.len(2), slots.len(0)), (length, 7));
            let logits = engine.logits(&mut slots, &weights, &[Feed { slot: 2, tokens: &rest[..1] }]);
            let (logprob, entropy) = logprob_and_entropy(logits, 1.0, rest[1]);
            let what = format!("{}, context of {length}", case.display());
            assert_close(&[logprob], &longest.logprobs[length..=length], &what);
            assert_close(&[entropy], &longest.entropies[length..=length], &what);
        }
    }
}

/// How far a gradient may lie from PyTorch's, of its 2-norm.
const GRADIENT_TOLERANCE: f64 = 1e-3;

/// Gradients of `sum_k sin(0.9 k) logprob_k` over each sequence of a case.
pub(crate) fn add_gradients(
    engine: &dyn TrainingEngine,
    decoder: &Decoder,
    sequences: &[Sequence],
    path: GradientPath,
    sink: GradientSink<'_>,
) {
    let plan = ChunkPlan { path, layer_chunk_tokens: 7, head_chunk_tokens: 11, ..whole() };
    let coefficients = sequences.iter().flat_map(|sequence| 0..sequence.tokens.len());
    let coefficients: Vec<f32> = coefficients.map(|k| (0.9 * k as f64).sin() as f32).collect();
    let slopes = Slopes::of_logprobs(coefficients);
    let batch = packed(sequences);
    engine.gradients(decoder, &batch, &plan, sink, &mut |_| slopes.clone()).unwrap();
}

fn assert_gradient(found: &Tensor<2>, expected: &[f32], what: &str) {
    let found: Vec<f32> = found.to_data().iter::<f32>().collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    let norm = |numbers: &mut dyn Iterator<Item = f32>| {
        numbers.map(|x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
    };
    let error = norm(&mut found.iter().zip(expected).map(|(x, y)| x - y));
    let size = norm(&mut expected.iter().copied());
    assert!(error <= GRADIENT_TOLERANCE * size, "{what}: off by {error:e} of {size:e}");
}

pub(crate) const PATHS: [GradientPath; 3] =
    [GradientPath::Unchunked, GradientPath::Checkpointed, GradientPath::StreamBp];

/// The cases whose gradients are kept, and what is kept of them.
fn gradient_cases() -> Vec<(PathBuf, BTreeMap<String, Stored>)> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let files = std::fs::read_dir(fixtures.join("gradients")).unwrap().map(|entry| entry.unwrap().path());
    let cases = files.map(|file| {
        let case = fixtures.join("parity").join(file.file_stem().unwrap());
        (case, tensors_of(&file))
    });
    let cases: Vec<_> = cases.collect();
    assert_eq!(cases.len(), 8, "a fixture is missing or not counted here");
    cases
}

#[test]
fn gradients_of_every_parameter_are_those_of_pytorch() {
    for (case, kept) in gradient_cases() {
        let (decoder, sequences) = (load(&case), sequences(&case));
        for (path, engine) in PATHS.into_iter().flat_map(|path| engines().map(|engine| (path, engine))) {
            let mut gradients = decoder.weights.tensors().zeros_like(engine.operations());
            add_gradients(&*engine, &decoder, &sequences, path, (&mut gradients).into());
            for (name, gradient) in gradients.named() {
                let file_name = decoder.config.family.file_name(&name);
                let what = format!("{engine:?}, {}, {path:?}, {name}", case.display());
                assert_gradient(gradient, &kept[&format!("full.{file_name}")].values, &what);
            }
        }
    }
}

#[test]
fn gradients_of_adapters_are_those_of_pytorch_and_decoding_has_them() {
    for (case, kept) in gradient_cases() {
        let (mut decoder, sequences) = (load(&case), sequences(&case));
        let part = |name: &str, part: &str| kept.get(&format!("adapter.{name}.{part}"));
        let tensor = |stored: &Stored| {
            let data = TensorData::new(stored.values.clone(), stored.shape.clone());
            Tensor::<2>::from_data(data, &Device::flex())
        };
        let adapters: Adapters = decoder.weights.tensors().map(|name, _| {
            let (a, b) = part(name, "a").zip(part(name, "b"))?;
            Some(LowRank { a: tensor(a), b: tensor(b), scale: 0.75 })
        });
        let zeros = adapters.zeros_like();
        let targets = TargetModules::Named(vec!["q_proj".to_owned(), "down_proj".to_owned()]);
        let config = LoraConfig { rank: 3, alpha: 2.25, target_modules: targets, use_rslora: false };
        decoder.lora = Some(Lora { config, base: case.clone(), adapters });
        for (path, engine) in PATHS.into_iter().flat_map(|path| engines().map(|engine| (path, engine))) {
            let mut gradients = zeros.clone();
            add_gradients(&*engine, &decoder, &sequences, path, (&mut gradients).into());
            let mut adapted = 0;
            for (name, gradient) in gradients.named() {
                if let Some(LowRank { a, b, .. }) = gradient {
                    for (part, found) in [("a", a), ("b", b)] {
                        let what = format!("{engine:?}, {}, {path:?}, {name}.{part}", case.display());
                        assert_gradient(found, &kept[&format!("low_rank.{name}.{part}")].values, &what);
                    }
                    adapted += 1;
                }
            }
            assert_eq!(adapted, 2, "two projections have adapters");
        }
        adapted_decode_is_right(&Cpu::default(), &decoder, &sequences, &case);
        adapted_decode_is_right(&on_device(), &decoder, &sequences, &case);
    }
}

fn adapted_decode_is_right<E: Engine>(engine: &E, decoder: &Decoder, sequences: &[Sequence], case: &Path) {
    let training = split(&engine.statistics(decoder, &packed(sequences), &whole()), sequences);
    for (found, training) in cached(engine, decoder, sequences).iter().zip(training) {
        assert_close(&found.0, &training.0, &format!("{engine:?}, {}, adapted", case.display()));
    }
}

/// Every tensor of a directory as its files have it: shape, and values widened to f32.
fn tensors(dir: &Path) -> BTreeMap<String, Stored> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|file| file.extension().is_some_and(|extension| extension == "safetensors"));
    files.flat_map(|file| tensors_of(&file)).collect()
}

/// A tensor of a file.
#[derive(Debug, PartialEq)]
pub(crate) struct Stored {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// Every tensor of a file.
pub(crate) fn tensors_of(file: &Path) -> BTreeMap<String, Stored> {
    let mut tensors = BTreeMap::new();
    let bytes = std::fs::read(file).unwrap();
    for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
        let values = match view.dtype() {
            safetensors::Dtype::F32 => {
                view.data().chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect()
            }
            safetensors::Dtype::BF16 => {
                view.data().chunks(2).map(|two| f32::from_le_bytes([0, 0, two[0], two[1]])).collect()
            }
            other => panic!("{other:?} is in no fixture"),
        };
        tensors.insert(name.to_owned(), Stored { shape: view.shape().to_vec(), values });
    }
    tensors
}

#[test]
fn a_saved_checkpoint_has_the_tensors_and_the_config_of_the_loaded_one() {
    for case in cases() {
        let decoder = load(&case);
        let folder = tempfile::tempdir().unwrap();
        decoder.save(folder.path()).unwrap();
        assert_eq!(tensors(folder.path()), tensors(&case), "{}", case.display());
        assert_eq!(load(folder.path()).config, decoder.config, "{}", case.display());
    }
}

/// A copy of a case in a folder of its own, for a test to spoil.
fn copy(case: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(case);
    for file in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    folder
}

fn refused(dir: &Path) -> String {
    let message = Decoder::load(dir, &Device::flex()).unwrap_err().to_string();
    assert!(message.contains(dir.to_str().unwrap()), "no path in: {message}");
    message
}

#[test]
fn spoiled_checkpoints_are_refused_by_file_and_tensor() {
    let folder = copy("llama_tied");
    let weights = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 100]).unwrap();
    assert!(refused(folder.path()).contains("truncated in tensor `model.norm.weight`"));
    std::fs::remove_file(&weights).unwrap();
    assert!(refused(folder.path()).contains("model.safetensors"));

    let folder = copy("llama_sharded");
    let shard = folder.path().join("model-00003-of-00006.safetensors");
    let bytes = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    assert!(refused(folder.path()).contains("model-00003-of-00006.safetensors: is truncated in tensor"));
    std::fs::remove_file(&shard).unwrap();
    assert!(refused(folder.path()).contains("model-00003-of-00006.safetensors"));
}

#[test]
fn configs_that_do_not_fit_the_weights_are_refused_by_tensor_or_key() {
    let spoil = |case: &str, key: &str, value: Value| {
        let folder = copy(case);
        let path = folder.path().join("config.json");
        let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        config[key] = value;
        std::fs::write(&path, config.to_string()).unwrap();
        refused(folder.path())
    };
    let message = spoil("llama_tied", "model_type", "mamba".into());
    assert!(message.contains("`model_type` is \"mamba\"") && message.contains("qwen3"), "{message}");
    let message = spoil("llama_tied", "tie_word_embeddings", false.into());
    assert!(message.contains("lacks tensor `lm_head.weight` of shape [64, 32]"), "{message}");
    let message = spoil("llama_untied_gqa", "tie_word_embeddings", true.into());
    assert!(message.contains("`lm_head.weight` differs from the embedding"), "{message}");
    let message = spoil("llama_tied", "intermediate_size", 40.into());
    assert!(
        message.contains("mlp.") && message.contains("[32, 48]") && message.contains("[32, 40]"),
        "{message}"
    );
    let message = spoil("llama_tied", "num_hidden_layers", 3.into());
    assert!(message.contains("lacks tensor `model.layers.2."), "{message}");
    let message = spoil("llama_tied", "num_hidden_layers", 1.into());
    assert!(message.contains("has tensor `model.layers.1."), "{message}");
    let message = spoil("llama_bias_wide_heads", "attention_bias", false.into());
    assert!(message.contains("_proj.bias`"), "{message}");
    let message = spoil("llama_tied", "hidden_act", "gelu".into());
    assert!(message.contains("`hidden_act`"), "{message}");
}
