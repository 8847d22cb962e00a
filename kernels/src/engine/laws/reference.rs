//! Statistics and gradients against a computation in f64 that shares nothing, and that computation against itself.

use burn::tensor::{Device, Tensor};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_assume, prop_oneof, proptest};

use super::gradients::FAMILIES;
use super::on_every_engine;
use crate::engine::{Cpu, TrainingEngine};
use crate::model::families::{self, Family};
use crate::reference::{Reference, matrix, zip_matrices};
use crate::streambp::{ChunkPlan, GradientPath, LayerInputs, Slopes, TokenStats};
use crate::test_tensors::{noise, numbers, spec_of};
use crate::{Decoder, DecoderConfig, Packed, Weights};

on_every_engine!(statistics_and_gradients_equal_those_of_the_f64_reference);

/// How near the routers' products of an expert that is chosen and of one that is not may be: f32 may choose the other one
/// where they are nearer, and a model is not continuous there.
const MARGIN: f64 = 1e-4;

/// A random model whose gains and biases are random as well: fresh ones are 1 and 0, which hides errors.
fn decoder(config: DecoderConfig, seed: u64) -> Decoder {
    let mut decoder = Decoder::random(config, seed, &Device::flex());
    for (place, value) in decoder.weights.tensors_mut().values_mut().into_iter().enumerate() {
        if value.dims()[0] == 1 {
            *value = value.clone() + noise::<2>(value.dims(), seed + 100 + place as u64) * 0.5;
        }
    }
    decoder
}

/// Sequences of random tokens.
fn packed(lengths: &[usize], vocabulary: usize, seed: u64) -> Packed {
    let sequence = |(place, &length): (usize, &usize)| {
        let draws = numbers(noise::<2>([1, length], seed + place as u64));
        let token = |x: f32| (((x + 1.0) / 2.0 * vocabulary as f32) as u32).min(vocabulary as u32 - 1);
        draws.into_iter().map(token).collect()
    };
    let sequences: Vec<Vec<u32>> = lengths.iter().enumerate().map(sequence).collect();
    Packed::new(sequences.iter().map(Vec::as_slice))
}

/// Two for every token, last ones of sequences too: those must not count.
fn slopes(packed: &Packed, seed: u64) -> Slopes {
    let of_tokens = |seed| numbers(noise::<2>([1, packed.ids.len()], seed));
    Slopes { logprob: of_tokens(seed + 50), entropy: of_tokens(seed + 90) }
}

/// The 2-norm.
fn norm(numbers: &[f64]) -> f64 {
    numbers.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn distance(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    norm(&found.iter().zip(expected).map(|(x, y)| x - y).collect::<Vec<_>>())
}

/// The reference's backward pass against its own forward pass, number by number of every parameter.
#[test]
fn gradients_of_the_f64_reference_are_slopes_of_its_loss() {
    for family in FAMILIES.into_iter().skip(2) {
        assert_slopes(family, true);
    }
    assert_slopes(&families::qwen3_moe::QWEN3_MOE, false);
}

fn assert_slopes(family: &'static Family, normalised: bool) {
    let mut config = DecoderConfig {
        hidden: 6,
        head_width: 4,
        intermediate: 5,
        vocabulary: 7,
        tied: false,
        initializer_range: 0.5,
        ..DecoderConfig::small(family).with_biases(true, true)
    };
    config.spec.experts.iter_mut().for_each(|experts| experts.normalised = normalised);
    let packed = packed(&[5, 1, 4], config.vocabulary, 3);
    let decoder = decoder(config, 4);
    let slopes = slopes(&packed, 5);
    let mut reference = Reference::new(&decoder, &packed, 0.8);
    let gradients = reference.gradients(&reference.forward(), &slopes);
    let loss = |reference: &Reference| {
        let (logprobs, entropies) = reference.statistics(&reference.forward());
        let weighted = |numbers: &[f64], slopes: &[f32]| -> f64 {
            numbers.iter().zip(slopes).map(|(number, &slope)| f64::from(slope) * number).sum()
        };
        weighted(&logprobs, &slopes.logprob) + weighted(&entropies, &slopes.entropy)
    };
    let step = 1e-5;
    for (place, (name, gradient)) in gradients.named().into_iter().enumerate() {
        let (columns, mut slopes) = (gradient[0].len(), Vec::new());
        for at in 0..gradient.len() * columns {
            let mut loss_at = |offset: f64| {
                reference.weights.values_mut()[place][at / columns][at % columns] += offset;
                loss(&reference)
            };
            let (above, below) = (loss_at(step), loss_at(-2.0 * step));
            loss_at(step);
            slopes.push((above - below) / (2.0 * step));
        }
        if norm(&slopes) < 1e-9 {
            // Nothing depends on it, as on a key's bias where keys are not rotated: differences are roundings alone.
            assert!(norm(&gradient.concat()) < 1e-12, "{family:?}, {name}");
            continue;
        }
        let error = distance(&gradient.concat(), &slopes) / norm(&slopes).max(1e-3);
        assert!(error < 1e-8, "{family:?}, {name}: relative error {error:e}");
    }
}

fn configs() -> impl Strategy<Value = DecoderConfig> {
    let families = prop::sample::select(FAMILIES.to_vec());
    // Widths that are no multiple of 16 leave a rest behind whole vectors.
    let width = || (3_usize..50).prop_map(|width| width + usize::from(width % 16 == 0));
    let head_widths = prop::sample::select(vec![2_usize, 4, 6, 8, 16, 20]);
    let sizes = (1_usize..4, 1_usize..4, 1_usize..5, head_widths, width(), width(), 5_usize..71);
    let (epsilons, thetas) = (vec![1e-6, 1e-2], vec![20.0, 1e4, 1e6]);
    let numbers = (0.3..1.2, prop::sample::select(epsilons), prop::sample::select(thetas));
    let choices = (families, any::<(bool, bool)>(), sizes, numbers);
    choices.prop_map(|(family, (tied, bias), sizes, numbers)| {
        let (layers, kv_heads, group, head_width, hidden, intermediate, vocabulary) = sizes;
        let (size, rms_eps, theta) = numbers;
        let is_qwen2 = family == &families::qwen::QWEN2;
        let mut spec = spec_of(family, hidden, rms_eps, theta);
        spec.experts.iter_mut().for_each(|experts| experts.normalised = tied);
        (spec.block.qkv_bias, spec.block.output_bias) = (bias || is_qwen2, bias && !is_qwen2);
        DecoderConfig {
            hidden,
            layers,
            heads: kv_heads * group,
            kv_heads,
            head_width,
            intermediate,
            vocabulary,
            tied,
            spec,
            // A projection of a normalised row has about this size; far above 1, roundings grow.
            initializer_range: size / (hidden as f64).sqrt(),
            ..DecoderConfig::small(family)
        }
    })
}

/// Every way to the gradients, StreamBP most often.
fn path() -> impl Strategy<Value = GradientPath> {
    prop_oneof![
        1 => Just(GradientPath::Unchunked),
        1 => Just(GradientPath::Checkpointed),
        3 => Just(GradientPath::StreamBp),
    ]
}

/// Lengths of sequences and a way to cut them.
fn cuts() -> impl Strategy<Value = (Vec<usize>, ChunkPlan)> {
    // Single tokens, everything at once, and what may leave a rest.
    let chunk = || prop_oneof![1 => Just(Some(1)), 1 => Just(None), 3 => (2_usize..90).prop_map(Some)];
    let lengths = prop::collection::vec(1_usize..41, 1..6);
    let cuts = (lengths, chunk(), chunk(), path(), (0_u64..100_000, 0_u64..200_000), 0.3..2.0);
    cuts.prop_map(
        |(lengths, layer, head, path, (attention_kept_bytes, activations_kept_bytes), temperature)| {
            let tokens = lengths.iter().sum();
            let (layer_chunk_tokens, head_chunk_tokens) = (layer.unwrap_or(tokens), head.unwrap_or(tokens));
            (
                lengths,
                ChunkPlan {
                    path,
                    layer_chunk_tokens,
                    head_chunk_tokens,
                    attention_kept_bytes,
                    activations_kept_bytes,
                    layer_inputs: LayerInputs::Memory,
                    temperature,
                },
            )
        },
    )
}

fn assert_statistics(found: &TokenStats, (logprobs, entropies): &(Vec<f64>, Vec<f64>)) {
    for (found, expected) in [(&found.logprobs, logprobs), (&found.entropies, entropies)] {
        let error = distance(&wide(found), expected) / norm(expected).max(1e-3);
        assert!(error <= 3e-6, "statistics have the relative error {error:e}");
    }
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().copied().map(f64::from).collect()
}

/// Each gradient may be off by 1e-5 of its norm, and by what it changes when the weights are off by up to
/// 4e-6 of themselves, some sixty roundings: normalising a head that is nearly 0 multiplies roundings by
/// thousands. A norm under 3 % of that of all gradients counts as so much: some are 0 but for roundings.
fn assert_gradients(found: &Weights<Vec<f32>>, mut reference: Reference, slopes: &Slopes) {
    let expected = reference.gradients(&reference.forward(), slopes);
    for (place, weight) in reference.weights.values_mut().into_iter().enumerate() {
        let noise = matrix(&noise::<2>([weight.len(), weight[0].len()], place as u64));
        *weight = zip_matrices(weight, &noise, |weight, noise| weight * (1.0 + 4e-6 * noise));
    }
    let shifted = reference.gradients(&reference.forward(), slopes);
    let expected: Vec<_> = expected.named().into_iter().map(|(name, x)| (name, x.concat())).collect();
    let all = norm(&expected.iter().map(|(_, gradient)| norm(gradient)).collect::<Vec<_>>());
    for ((name, expected), ((_, found), (_, shifted))) in
        expected.iter().zip(found.named().into_iter().zip(shifted.named()))
    {
        let within = 1e-5 * norm(expected).max(0.03 * all) + distance(&shifted.concat(), expected);
        let error = distance(&wide(found), expected);
        assert!(error <= within, "{name}: {error:e} off, over {within:e}");
    }
}

/// Every bit of a result.
fn bits((stats, gradients): &(TokenStats, Weights<Vec<f32>>)) -> Vec<u32> {
    let gradients = gradients.named().into_iter().flat_map(|(_, numbers)| numbers);
    stats.logprobs.iter().chain(&stats.entropies).chain(gradients).map(|x| x.to_bits()).collect()
}

/// A layer's input that is off by up to 2^-9 of itself, in each of the layers, makes all gradients together off
/// by less than 1 %, and the statistics not at all.
#[test]
fn layer_inputs_in_bfloat16_change_gradients_by_their_roundings() {
    for (family, attention_kept_bytes) in [(&families::llama::LLAMA, 0), (&families::qwen::QWEN3, 1 << 20)] {
        let config = DecoderConfig { layers: 6, initializer_range: 0.3, ..DecoderConfig::small(family) };
        let decoder = decoder(config, 3);
        let packed = packed(&[40, 7, 25], decoder.config.vocabulary, 3);
        let slopes = slopes(&packed, 3);
        let plan = ChunkPlan {
            path: GradientPath::StreamBp,
            layer_chunk_tokens: 16,
            head_chunk_tokens: 16,
            attention_kept_bytes,
            activations_kept_bytes: attention_kept_bytes,
            layer_inputs: LayerInputs::Bf16,
            temperature: 1.0,
        };
        let cpu = Cpu::default();
        let mut sums = decoder.weights.tensors().zeros_like(cpu.operations());
        let stats = cpu.gradients(&decoder, &packed, &plan, (&mut sums).into(), &mut |_| slopes.clone());
        let reference = Reference::new(&decoder, &packed, 1.0);
        let forward = reference.forward();
        assert_statistics(&stats.unwrap(), &reference.statistics(&forward));
        let expected = reference.gradients(&forward, &slopes);
        let expected: Vec<f64> = expected.named().into_iter().flat_map(|(_, x)| x.concat()).collect();
        let found: Vec<f64> =
            sums.named().into_iter().flat_map(|(_, sum)| wide(&numbers(sum.clone()))).collect();
        let error = distance(&found, &expected) / norm(&expected);
        assert!((1e-4..1e-2).contains(&error), "{family:?}: the relative error {error:e}");
    }
}

/// Guards invariant 4 with a computation that shares nothing, on any model, packing and chunks.
fn statistics_and_gradients_equal_those_of_the_f64_reference(engine: &dyn TrainingEngine) {
    proptest!(ProptestConfig::with_cases(50), |(
        config in configs(),
        (lengths, plan) in cuts(),
        seed in 0_u64..1 << 32,
    )| {
        let decoder = decoder(config, seed);
        let packed = packed(&lengths, decoder.config.vocabulary, seed);
        let slopes = slopes(&packed, seed);
        let reference = Reference::new(&decoder, &packed, plan.temperature);
        let forward = reference.forward();
        prop_assume!(forward.margin() > MARGIN);
        let run = || {
            let mut sums = decoder.weights.tensors().zeros_like(engine.operations());
            let mut shown = TokenStats::default();
            let mut show = |stats: &TokenStats| {
                shown = stats.clone();
                slopes.clone()
            };
            let stats = engine.gradients(&decoder, &packed, &plan, (&mut sums).into(), &mut show).unwrap();
            assert_eq!(shown, stats);
            (stats, sums.map(|_, sum: &Tensor<2>| numbers(sum.clone())))
        };
        let found = run();
        assert!(bits(&run()) == bits(&found), "two runs differ");
        let expected = reference.statistics(&forward);
        assert_statistics(&found.0, &expected);
        assert_statistics(&engine.statistics(&decoder, &packed, &plan), &expected);
        assert_gradients(&found.1, reference, &slopes);
    });
}
