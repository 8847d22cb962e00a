//! Adapters in peft's files compute what peft computes, forward, backward and in cached decoding.
//!
//! The adapters and the expected numbers under `tests/fixtures/adapters` come from peft and PyTorch by
//! `tests/fixtures/make_adapter_fixtures.py`. That peft in turn loads what is saved here is checked by hand with
//! `scripts/check_adapter.py`.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use kernels::{Cpu, Decoder, Engine, GradientSums, TrainingEngine};

use crate::parity::{
    PATHS, add_gradients, assert_close, cached, engines, on_device, packed, sequences, split, tensors_of,
    whole,
};

/// How far a gradient may lie from PyTorch's, of its 2-norm.
const GRADIENT_TOLERANCE: f64 = 1e-4;

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapters");
    let mut cases: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert_eq!(cases.len(), 9, "a fixture is missing or not counted here");
    cases
}

/// The base is found from the adapter's directory.
fn load(case: &Path) -> Decoder {
    let decoder = Decoder::load(case, &Device::flex()).unwrap();
    assert!(decoder.lora.is_some(), "{}", case.display());
    decoder
}

#[test]
fn the_training_forward_of_an_adapter_is_that_of_peft() {
    for case in cases() {
        let (decoder, sequences) = (load(&case), sequences(&case));
        for engine in engines() {
            let stats = split(&engine.statistics(&decoder, &packed(&sequences), &whole()), &sequences);
            for (sequence, (logprobs, entropies)) in sequences.iter().zip(stats) {
                let what = format!("{engine:?}, {}", case.display());
                assert_close(&logprobs, &sequence.logprobs, &format!("{what}: log-probs"));
                assert_close(&entropies, &sequence.entropies, &format!("{what}: entropies"));
            }
        }
        let base =
            split(&Cpu::default().statistics(&decoder.frozen(), &packed(&sequences), &whole()), &sequences);
        let far = base.iter().zip(&sequences).any(|((logprobs, _), sequence)| {
            logprobs.iter().zip(&sequence.logprobs).any(|(one, other)| (one - other).abs() > 0.05)
        });
        assert!(far, "{}: the adapter must change what the base computes", case.display());
    }
}

#[test]
fn decoding_with_an_adapter_gives_the_logprobs_of_peft() {
    decoding_is_that_of_peft(&Cpu::default());
    decoding_is_that_of_peft(&on_device());
}

fn decoding_is_that_of_peft<E: Engine>(engine: &E) {
    for case in cases() {
        let (decoder, sequences) = (load(&case), sequences(&case));
        for (sequence, found) in sequences.iter().zip(cached(engine, &decoder, &sequences)) {
            let what = format!("{engine:?}, {}, cached", case.display());
            assert_close(&found.0, &sequence.logprobs, &what);
            assert_close(&found.1, &sequence.entropies, &what);
        }
    }
}

/// How far a tensor lies from its numbers in PyTorch, of their 2-norm.
fn error_of(found: &Tensor<2>, expected: &[f32]) -> f64 {
    let found: Vec<f32> = found.to_data().iter::<f32>().collect();
    assert_eq!(found.len(), expected.len());
    let squares = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|x| f64::from(x).powi(2)).sum::<f64>();
    let difference = squares(&mut found.iter().zip(expected).map(|(x, y)| x - y));
    (difference / squares(&mut expected.iter().copied())).sqrt()
}

#[test]
fn gradients_of_every_matrix_are_those_of_peft() {
    for case in cases() {
        let (decoder, sequences) = (load(&case), sequences(&case));
        let mut expected = tensors_of(&case.join("gradients.safetensors"));
        assert_eq!(expected.len(), decoder.trained().len(), "{}", case.display());
        for (path, engine) in PATHS.into_iter().flat_map(|path| engines().map(|engine| (path, engine))) {
            let mut sums = GradientSums::zeros_of(&decoder, engine.operations());
            add_gradients(&*engine, &decoder, &sequences, path, sums.sink());
            for (own, found) in decoder.trained().iter().zip(sums.values()) {
                let expected =
                    expected.get(&own.name).unwrap_or_else(|| panic!("no gradient of {}", own.name));
                assert_eq!(own.value.dims().to_vec(), expected.shape, "{}", own.name);
                let error = error_of(found, &expected.values);
                let what = format!("{engine:?}, {}, {path:?}, {}", case.display(), own.name);
                assert!(error <= GRADIENT_TOLERANCE, "{what}: off by {error:e}");
            }
        }
        decoder.trained().iter().for_each(|own| assert!(expected.remove(&own.name).is_some()));
        assert!(expected.is_empty());
    }
}

#[test]
fn a_saved_adapter_has_the_tensors_and_the_meaning_of_the_loaded_one() {
    for case in cases() {
        let (decoder, sequences) = (load(&case), sequences(&case));
        let folder = tempfile::tempdir().unwrap();
        decoder.save_trained(folder.path()).unwrap();
        let [written, read] =
            [folder.path(), &case].map(|dir| tensors_of(&dir.join("adapter_model.safetensors")));
        assert_eq!(written, read, "{}", case.display());
        // The base's place is absolute in what is written.
        let again = load(folder.path());
        let of = |decoder: &Decoder| Cpu::default().statistics(decoder, &packed(&sequences), &whole());
        assert_eq!(of(&again), of(&decoder), "{}", case.display());
    }
}

/// What is exported for programs that know no adapters.
#[test]
fn a_merged_model_computes_the_same() {
    for case in cases() {
        let (decoder, sequences) = (load(&case), sequences(&case));
        let folder = tempfile::tempdir().unwrap();
        decoder.merged().save(folder.path()).unwrap();
        let merged = Decoder::load(folder.path(), &Device::flex()).unwrap();
        assert!(merged.lora.is_none());
        let stats = split(&Cpu::default().statistics(&merged, &packed(&sequences), &whole()), &sequences);
        for (sequence, (logprobs, _)) in sequences.iter().zip(stats) {
            assert_close(&logprobs, &sequence.logprobs, &format!("{}, merged", case.display()));
        }
    }
}
