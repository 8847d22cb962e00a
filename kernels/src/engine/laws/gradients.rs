//! Statistics and gradients of all paths and chunks against each other.

use burn::tensor::{Device, Tensor};
use proptest::prelude::{ProptestConfig, prop, proptest};

use super::on_every_engine;
use crate::engine::{Cpu, OnDevice, TrainingEngine};
use crate::model::families::{self, Family};
use crate::test_tensors::{numbers, relative_error};
use crate::{
    ChunkPlan, Decoder, DecoderConfig, GradientPath, KernelError, LayerInputs, Packed, Slopes, TokenStats,
    Weights,
};

on_every_engine!(
    streamed_gradients_equal_whole_ones_in_every_family,
    gradients_agree_with_differences_of_the_loss,
    streamed_gradients_do_not_depend_on_chunks,
    entropy_slopes_give_the_same_gradients_on_every_path_and_cut,
    slopes_of_zero_add_nothing,
    statistics_of_a_sequence_do_not_depend_on_its_neighbours,
    shared_prefixes_are_refused_where_an_engine_has_none,
    layer_inputs_lie_elsewhere_only_where_an_engine_says_so,
);

/// With every form that a part has.
pub(crate) const FAMILIES: [&Family; 7] = [
    &families::llama::LLAMA,
    &families::qwen::QWEN2,
    &families::qwen::QWEN3,
    &families::gemma::GEMMA3,
    &families::smollm3::SMOLLM3,
    &families::granite::GRANITE,
    &families::qwen3_moe::QWEN3_MOE,
];

pub(crate) fn decoder(family: &'static Family, tied: bool) -> Decoder {
    let config = DecoderConfig { layers: 3, tied, initializer_range: 0.3, ..DecoderConfig::small(family) };
    Decoder::random(config, 7, &Device::flex())
}

pub(crate) fn packed(lengths: &[usize]) -> Packed {
    let sequences: Vec<Vec<u32>> = lengths
        .iter()
        .enumerate()
        .map(|(i, &length)| (0..length).map(|t| ((t * t + 3 * t + 5 * i) % 31) as u32).collect())
        .collect();
    Packed::new(sequences.iter().map(Vec::as_slice))
}

pub(crate) fn plan(streambp: bool, layer_chunk_tokens: usize, head_chunk_tokens: usize) -> ChunkPlan {
    let path = if streambp { GradientPath::StreamBp } else { GradientPath::Unchunked };
    ChunkPlan {
        path,
        layer_chunk_tokens,
        head_chunk_tokens,
        attention_kept_bytes: 20_000,
        activations_kept_bytes: 30_000,
        layer_inputs: LayerInputs::Memory,
        temperature: 0.8,
    }
}

pub(crate) fn gradients(
    engine: &dyn TrainingEngine,
    decoder: &Decoder,
    packed: &Packed,
    plan: &ChunkPlan,
) -> (TokenStats, Weights<Tensor<2>>) {
    let mut gradients = decoder.weights.tensors().zeros_like(engine.operations());
    let stats = engine.gradients(decoder, packed, plan, (&mut gradients).into(), &mut |stats| {
        let slope = |(k, p): (usize, &f32)| (k as f32 * 0.9).sin() * (0.5 - p);
        Slopes::of_logprobs(stats.logprobs.iter().enumerate().map(slope).collect())
    });
    (stats.unwrap(), gradients)
}

pub(crate) fn assert_equal_gradients(found: &Weights<Tensor<2>>, expected: &Weights<Tensor<2>>, within: f32) {
    for ((name, found), (_, expected)) in found.named().into_iter().zip(expected.named()) {
        let error = relative_error(&numbers(found.clone()), &numbers(expected.clone()));
        assert!(error <= within, "{name}: relative error {error:e}");
    }
}

pub(crate) fn assert_equal_bits(found: &Weights<Tensor<2>>, expected: &Weights<Tensor<2>>) {
    let bits =
        |tensor: &Tensor<2>| -> Vec<u32> { numbers(tensor.clone()).into_iter().map(f32::to_bits).collect() };
    for ((name, expected), (_, found)) in expected.named().into_iter().zip(found.named()) {
        assert!(bits(expected) == bits(found), "{name} differs");
    }
}

/// Guards invariant 4: chunked gradients equal whole ones for every parameter.
fn streamed_gradients_equal_whole_ones_in_every_family(engine: &dyn TrainingEngine) {
    for family in FAMILIES {
        for tied in [true, false] {
            let decoder = decoder(family, tied);
            let packed = packed(&[17, 1, 30, 5]);
            let (whole_stats, whole) = gradients(engine, &decoder, &packed, &plan(false, 1, 1));
            let checkpointed = ChunkPlan { path: GradientPath::Checkpointed, ..plan(true, 1, 1) };
            let cuts = [(53, 53), (1, 1), (7, 11), (64, 3), (18, 100)];
            let streamed = cuts.into_iter().map(|(layer, head)| plan(true, layer, head));
            for plan in streamed.chain([checkpointed]) {
                let (stats, streamed) = gradients(engine, &decoder, &packed, &plan);
                assert_equal_gradients(&streamed, &whole, 1e-5);
                assert!(relative_error(&stats.logprobs, &whole_stats.logprobs) < 1e-5);
                assert!(relative_error(&stats.entropies, &whole_stats.entropies) < 1e-5);
            }
        }
    }
}

/// Guards invariant 4 from outside: the derivative of the loss along a direction, by differences.
fn gradients_agree_with_differences_of_the_loss(engine: &dyn TrainingEngine) {
    let decoder = decoder(&families::qwen::QWEN3, true);
    let packed = packed(&[9, 6]);
    let plan = plan(true, 4, 5);
    let mut gradients = decoder.weights.tensors().zeros_like(engine.operations());
    let coefficient = |k: usize| (k as f32 * 0.9).sin();
    let mut slopes =
        |stats: &TokenStats| Slopes::of_logprobs((0..stats.logprobs.len()).map(coefficient).collect());
    engine.gradients(&decoder, &packed, &plan, (&mut gradients).into(), &mut slopes).unwrap();
    let loss = |scale: f32| {
        let moved: Vec<Tensor<2>> = decoder
            .weights
            .tensors()
            .named()
            .into_iter()
            .enumerate()
            .map(|(i, (_, w))| {
                let direction = crate::test_tensors::noise::<2>(w.dims(), 50 + i as u64);
                w.clone() + direction * scale
            })
            .collect();
        let mut decoder = decoder.clone();
        for (slot, moved) in decoder.weights.tensors_mut().values_mut().into_iter().zip(moved) {
            *slot = moved;
        }
        let stats = engine.statistics(&decoder, &packed, &plan);
        stats.logprobs.iter().enumerate().map(|(k, p)| f64::from(coefficient(k) * p)).sum::<f64>()
    };
    let step = 2e-3;
    let by_difference = (loss(step) - loss(-step)) / (2.0 * f64::from(step));
    let by_gradient: f64 = gradients
        .named()
        .into_iter()
        .enumerate()
        .map(|(i, (_, g))| {
            let direction = numbers(crate::test_tensors::noise::<2>(g.dims(), 50 + i as u64));
            let products = numbers(g.clone()).into_iter().zip(direction);
            products.map(|(g, d)| f64::from(g) * f64::from(d)).sum::<f64>()
        })
        .sum();
    let error = (by_difference - by_gradient).abs() / by_gradient.abs();
    assert!(error < 2e-3, "{by_difference} by differences, {by_gradient} by gradients");
}

/// Guards invariant 4 on any packing and any chunk sizes.
fn streamed_gradients_do_not_depend_on_chunks(engine: &dyn TrainingEngine) {
    let decoder = decoder(&families::qwen::QWEN3, true);
    proptest!(ProptestConfig::with_cases(16), |(
        lengths in prop::collection::vec(1_usize..40, 1..5),
        layer in 1_usize..60,
        head in 1_usize..60,
    )| {
        let packed = packed(&lengths);
        let (_, whole) = gradients(engine, &decoder, &packed, &plan(false, 1, 1));
        let (_, streamed) = gradients(engine, &decoder, &packed, &plan(true, layer, head));
        assert_equal_gradients(&streamed, &whole, 1e-5);
    });
}

/// Gradients of a loss of entropies, beside log-probabilities or alone.
fn entropy_gradients(
    engine: &dyn TrainingEngine,
    decoder: &Decoder,
    packed: &Packed,
    plan: &ChunkPlan,
    beside: bool,
) -> Weights<Tensor<2>> {
    let mut gradients = decoder.weights.tensors().zeros_like(engine.operations());
    let mut slopes = |stats: &TokenStats| {
        let by_logprob = |k: usize| if beside { (k as f32 * 0.9).sin() } else { 0.0 };
        let by_entropy = |(k, entropy): (usize, &f32)| (k as f32 * 1.3).cos() * (0.5 + entropy);
        Slopes {
            logprob: (0..stats.logprobs.len()).map(by_logprob).collect(),
            entropy: stats.entropies.iter().enumerate().map(by_entropy).collect(),
        }
    };
    engine.gradients(decoder, packed, plan, (&mut gradients).into(), &mut slopes).unwrap();
    gradients
}

/// Guards invariant 4 for entropies; their gradients against PyTorch are in `tests/it/slopes_parity.rs`.
fn entropy_slopes_give_the_same_gradients_on_every_path_and_cut(engine: &dyn TrainingEngine) {
    for (family, beside) in FAMILIES.into_iter().zip([true, false].into_iter().cycle()) {
        let decoder = decoder(family, true);
        let packed = packed(&[17, 1, 30, 5]);
        let whole = entropy_gradients(engine, &decoder, &packed, &plan(false, 1, 1), beside);
        for (path, layer, head) in [
            (GradientPath::Checkpointed, 1, 1),
            (GradientPath::StreamBp, 1, 1),
            (GradientPath::StreamBp, 7, 11),
            (GradientPath::StreamBp, 100, 100),
        ] {
            let plan = ChunkPlan { path, ..plan(true, layer, head) };
            assert_equal_gradients(
                &entropy_gradients(engine, &decoder, &packed, &plan, beside),
                &whole,
                1e-5,
            );
        }
    }
}

/// On every path, and with what is there before.
fn slopes_of_zero_add_nothing(engine: &dyn TrainingEngine) {
    let decoder = decoder(&families::qwen::QWEN3, false);
    let packed = packed(&[17, 1, 30]);
    for path in [GradientPath::Unchunked, GradientPath::Checkpointed, GradientPath::StreamBp] {
        let plan = ChunkPlan { path, ..plan(true, 7, 11) };
        let before = decoder.weights.tensors().map(|_, weight| weight.clone() * 0.01);
        let mut sums = before.clone();
        let mut zeros = |stats: &TokenStats| {
            let zeros = vec![0.0; stats.logprobs.len()];
            Slopes { logprob: zeros.clone(), entropy: zeros }
        };
        let stats = engine.gradients(&decoder, &packed, &plan, (&mut sums).into(), &mut zeros);
        assert_equal_bits(&sums, &before);
        let (expected, _) = gradients(engine, &decoder, &packed, &plan);
        assert_eq!(stats.unwrap(), expected, "{path:?}");
    }
}

/// Guards invariant 6: a packed batch gives the sums of its sequences.
fn statistics_of_a_sequence_do_not_depend_on_its_neighbours(engine: &dyn TrainingEngine) {
    let decoder = decoder(&families::llama::LLAMA, false);
    let together = engine.statistics(&decoder, &packed(&[12, 20]), &plan(true, 8, 8));
    let first = engine.statistics(&decoder, &packed(&[12]), &plan(true, 5, 3));
    assert!(relative_error(&together.logprobs[..12], &first.logprobs) < 1e-5);
}

/// What shares prefixes gives the statistics of whole sequences: `a_shared_prefix_gives_the_gradients_of_whole_sequences`.
fn shared_prefixes_are_refused_where_an_engine_has_none(engine: &dyn TrainingEngine) {
    let decoder = decoder(&families::llama::LLAMA, true);
    let mut shared = Packed::empty();
    let prefix = shared.push(&[3, 1, 4], None);
    shared.push(&[1, 5], Some(prefix));
    shared.push(&[9, 2], Some(prefix));
    for path in [GradientPath::Unchunked, GradientPath::Checkpointed, GradientPath::StreamBp] {
        let plan = ChunkPlan { path, ..plan(true, 7, 11) };
        let pass = || engine.statistics(&decoder, &shared, &plan);
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(pass));
        let can = engine.capabilities().shared_prefixes.contains(&path);
        assert_eq!(done.is_ok(), can, "{path:?}");
        if let Err(panic) = done {
            let message = panic.downcast_ref::<&str>().copied().unwrap_or_default();
            assert!(message.contains("whole sequences"), "{message}");
        }
    }
}

fn layer_inputs_lie_elsewhere_only_where_an_engine_says_so(engine: &dyn TrainingEngine) {
    let decoder = decoder(&families::llama::LLAMA, true);
    // A single tape keeps no layer inputs.
    for path in [GradientPath::Checkpointed, GradientPath::StreamBp] {
        let mut sums = decoder.weights.tensors().zeros_like(engine.operations());
        let plan = ChunkPlan { path, layer_inputs: LayerInputs::Bf16, ..plan(true, 7, 11) };
        let mut slopes = |stats: &TokenStats| Slopes::of_logprobs(vec![0.0; stats.logprobs.len()]);
        let result = engine.gradients(&decoder, &packed(&[9]), &plan, (&mut sums).into(), &mut slopes);
        match engine.capabilities().layer_inputs_elsewhere.contains(&path) {
            true => assert!(result.is_ok(), "{path:?}: {result:?}"),
            false => assert!(matches!(result, Err(KernelError::Input(_))), "{path:?}: {result:?}"),
        }
    }
}

/// The same numbers from two computations that share no operation but products.
#[test]
fn the_cpu_and_a_device_have_the_same_statistics_and_gradients() {
    let (cpu, device) = (Cpu::default(), OnDevice::new(Device::flex()));
    for family in FAMILIES {
        let decoder = decoder(family, true);
        let packed = packed(&[17, 1, 30, 5]);
        for (path, device_path) in [
            (GradientPath::StreamBp, GradientPath::StreamBp),
            (GradientPath::Checkpointed, GradientPath::Unchunked),
            (GradientPath::Unchunked, GradientPath::StreamBp),
        ] {
            let cuts = plan(true, 9, 13);
            let own = ChunkPlan { path, ..cuts.clone() };
            let other = ChunkPlan { path: device_path, ..cuts };
            let (stats, found) = gradients(&cpu, &decoder, &packed, &own);
            let (device_stats, expected) = gradients(&device, &decoder, &packed, &other);
            assert_equal_gradients(&found, &expected, 1e-5);
            assert!(relative_error(&stats.logprobs, &device_stats.logprobs) < 1e-5);
            assert!(relative_error(&stats.entropies, &device_stats.entropies) < 1e-5);
            let alone = device.statistics(&decoder, &packed, &other);
            assert!(relative_error(&alone.logprobs, &stats.logprobs) < 1e-5);
        }
    }
}
