//! Models with low-rank adapters: they compute what the model with `W + scale B A` in the place of `W` computes, forward,
//! backward and in cached decoding, on every path.

use burn::tensor::Tensor;

use super::gradients::{FAMILIES, packed, plan};
use super::on_every_engine;
use crate::engine::{CachePrecision, CacheRoom, Engine, EngineWeights, Feed, TrainingEngine};
use crate::gemm::Precision;
use crate::sampling::logprob_and_entropy;
use crate::test_tensors::{adapted, numbers, odd_decoder, odd_shapes, relative_error, some_modules, wide};
use crate::{
    Adapters, ChunkPlan, Decoder, GradientPath, GradientSums, LowRank, Packed, Slopes, TargetModules,
    TokenStats,
};

on_every_engine!(
    statistics_are_those_of_the_sum,
    gradients_of_adapters_follow_from_those_of_whole_matrices,
    decoding_with_adapters_equals_the_training_forward,
    new_adapters_change_nothing,
    other_adapters_of_the_same_model_decode_as_if_prepared,
    adapters_alone_are_written,
);

/// Models with adapters of every projection, and of some.
fn models(engine: &dyn TrainingEngine) -> Vec<Decoder> {
    let every = FAMILIES.map(|family| adapted(odd_decoder(wide(family)), TargetModules::AllLinear));
    let some = odd_shapes().into_iter().map(|config| {
        let modules = some_modules(&config);
        adapted(odd_decoder(config), modules)
    });
    let models: Vec<Decoder> = every.into_iter().chain(some).collect();
    assert!(models.iter().all(|model| model.device() == engine.device()));
    models
}

fn slopes(stats: &TokenStats) -> Slopes {
    let slope = |place: usize| (place as f32 * 0.9).sin();
    Slopes::of_logprobs((0..stats.logprobs.len()).map(slope).collect())
}

fn statistics_are_those_of_the_sum(engine: &impl Engine) {
    let batch = packed(&[17, 1, 30]);
    for model in models(engine) {
        let of = |model: &Decoder| engine.statistics(model, &batch, &plan(true, 7, 5));
        let (found, expected, without) = (of(&model), of(&model.clone().merged()), of(&model.frozen()));
        assert!(relative_error(&found.logprobs, &expected.logprobs) < 1e-5);
        assert!(relative_error(&found.entropies, &expected.entropies) < 1e-5);
        assert!(relative_error(&without.logprobs, &expected.logprobs) > 1e-3, "adapters must matter");
    }
}

/// `dB = s dW A^T`, `dA = s B^T dW`, of the gradients at the sum.
fn projected(model: &Decoder, whole: &crate::Weights<Tensor<2>>) -> Vec<Vec<f32>> {
    let lora = model.lora.as_ref().unwrap();
    let mut expected = Vec::new();
    for ((_, adapter), (_, gradient)) in lora.adapters.named().into_iter().zip(whole.named()) {
        let Some(LowRank { a, b, scale }) = adapter else { continue };
        let gradient = gradient.clone() * *scale;
        expected.push(numbers(b.clone().transpose().matmul(gradient.clone())));
        expected.push(numbers(gradient.matmul(a.clone().transpose())));
    }
    expected
}

fn gradients_of_adapters_follow_from_those_of_whole_matrices(engine: &impl Engine) {
    let batch = packed(&[17, 1, 30]);
    for model in models(engine) {
        let mut whole = model.weights.tensors().zeros_like(engine.operations());
        let merged = model.clone().merged();
        engine.gradients(&merged, &batch, &plan(false, 1, 1), (&mut whole).into(), &mut slopes).unwrap();
        let expected = projected(&model, &whole);
        let kept = |bytes| ChunkPlan {
            attention_kept_bytes: bytes,
            activations_kept_bytes: bytes,
            ..plan(true, 7, 11)
        };
        let checkpointed = ChunkPlan { path: GradientPath::Checkpointed, ..plan(true, 1, 1) };
        let plans = [plan(false, 1, 1), checkpointed, plan(true, 1, 1), kept(0), kept(1 << 20)];
        for plan in plans {
            let mut sums = GradientSums::zeros_of(&model, engine.operations());
            assert!(matches!(sums, GradientSums::LowRank(_)));
            engine.gradients(&model, &batch, &plan, sums.sink(), &mut slopes).unwrap();
            let names = model.trained();
            assert_eq!(names.len(), expected.len());
            for ((found, expected), own) in sums.values().into_iter().zip(&expected).zip(&names) {
                let error = relative_error(&numbers(found.clone()), expected);
                assert!(error < 2e-5, "{}, {plan:?}: {error:e}", own.name);
            }
        }
    }
}

fn room(positions: usize) -> CacheRoom {
    CacheRoom { slots: 2, positions, precision: CachePrecision::F32 }
}

fn logprobs<E: Engine>(engine: &E, weights: &E::Weights, text: &[u32]) -> Vec<f32> {
    let mut slots = engine.slots(weights.config(), room(text.len())).unwrap();
    engine.prefill(&mut slots, weights, &[Feed { slot: 1, tokens: &text[..9] }]);
    let drawn = (9..text.len() - 1).map(|at| {
        let logits = engine.logits(&mut slots, weights, &[Feed { slot: 1, tokens: &text[at..at + 1] }]);
        logprob_and_entropy(logits, 1.0, text[at + 1]).0
    });
    drawn.collect()
}

/// Guards invariant 3 for adapters.
fn decoding_with_adapters_equals_the_training_forward(engine: &impl Engine) {
    for model in models(engine) {
        let text: Vec<u32> = (0..40).map(|t| ((t * 7 + t * t) % 31) as u32).collect();
        let stats = engine.statistics(&model, &Packed::new([&text[..]]), &plan(true, 7, 5));
        let weights = engine.prepare(&model, Precision::F32).unwrap();
        // The plan's statistics are at another temperature.
        let exact = ChunkPlan { temperature: 1.0, ..plan(true, 7, 5) };
        let expected = engine.statistics(&model, &Packed::new([&text[..]]), &exact).logprobs;
        assert_ne!(stats.logprobs, expected);
        for (place, found) in logprobs(engine, &weights, &text).into_iter().enumerate() {
            let expected = expected[9 + place];
            assert!((found - expected).abs() < 2e-5 * expected.abs().max(1.0), "{found} and {expected}");
        }
    }
}

fn new_adapters_change_nothing(engine: &impl Engine) {
    for family in FAMILIES {
        let mut model = adapted(odd_decoder(wide(family)), TargetModules::AllLinear);
        for adapter in model.lora.as_mut().unwrap().adapters.values_mut().into_iter().flatten() {
            adapter.b = adapter.b.zeros_like();
        }
        let batch = packed(&[20, 3]);
        let of = |model: &Decoder| engine.statistics(model, &batch, &plan(true, 7, 5));
        assert_eq!(of(&model), of(&model.frozen()));
    }
}

fn other_adapters_of_the_same_model_decode_as_if_prepared(engine: &impl Engine) {
    let first = adapted(odd_decoder(odd_shapes().swap_remove(2)), TargetModules::AllLinear);
    let mut second = first.clone();
    for adapter in second.lora.as_mut().unwrap().adapters.values_mut().into_iter().flatten() {
        adapter.a = adapter.a.clone() * -1.5;
    }
    let text: Vec<u32> = (0..30).map(|t| (t * 5 % 31) as u32).collect();
    let prepared = engine.prepare(&first, Precision::F32).unwrap();
    let next = engine.adapt(&prepared, second.lora.as_ref().unwrap());
    let of = |weights: &_| logprobs(engine, weights, &text);
    assert_eq!(of(&next), of(&engine.prepare(&second, Precision::F32).unwrap()));
    assert_ne!(of(&next), of(&prepared));
}

/// What a checkpoint has of an older version: its adapters, to the bit.
fn adapters_alone_are_written(engine: &impl Engine) {
    let config = odd_shapes().swap_remove(4);
    let modules = some_modules(&config);
    let model = adapted(odd_decoder(config), modules);
    let dir = tempfile::tempdir().unwrap();
    engine.prepare(&model, Precision::F32).unwrap().save(dir.path()).unwrap();
    let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    assert_eq!(names, ["adapter_config.json", "adapter_model.safetensors"]);
    let base = std::path::Path::new("base");
    let read = crate::Lora::load(dir.path(), base, &model.config, &engine.device()).unwrap();
    let bits = |adapters: &Adapters| -> Vec<Vec<f32>> {
        let matrices = adapters.named().into_iter().filter_map(|(_, adapter)| adapter.as_ref());
        matrices.flat_map(|own| [numbers(own.a.clone()), numbers(own.b.clone())]).collect()
    };
    assert_eq!(bits(&read.adapters), bits(&model.lora.as_ref().unwrap().adapters));
    assert_eq!(read.config, model.lora.as_ref().unwrap().config);
}
