//! Gradients of all paths and chunks against each other.

use burn::tensor::{Device, Tensor};
use proptest::prelude::{ProptestConfig, prop, proptest};

use super::{ChunkPlan, GradientPath, LayerInputs, Slopes, TokenStats, accumulate_gradients, token_stats};
use crate::model::families::{self, Family};
use crate::test_tensors::{numbers, relative_error};
use crate::{Decoder, DecoderConfig, KernelError, Packed, Weights};

/// With every form that a part has.
const FAMILIES: [&Family; 4] =
    [&families::llama::LLAMA, &families::qwen::QWEN2, &families::qwen::QWEN3, &families::gemma::GEMMA3];

fn decoder(family: &'static Family, tied: bool) -> Decoder {
    let config = DecoderConfig { layers: 3, tied, initializer_range: 0.3, ..DecoderConfig::small(family) };
    Decoder::random(config, 7, &Device::flex())
}

fn packed(lengths: &[usize]) -> Packed {
    let sequences: Vec<Vec<u32>> = lengths
        .iter()
        .enumerate()
        .map(|(i, &length)| (0..length).map(|t| ((t * t + 3 * t + 5 * i) % 31) as u32).collect())
        .collect();
    Packed::new(sequences.iter().map(Vec::as_slice))
}

fn plan(streambp: bool, layer_chunk_tokens: usize, head_chunk_tokens: usize) -> ChunkPlan {
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

fn gradients(decoder: &Decoder, packed: &Packed, plan: &ChunkPlan) -> (TokenStats, Weights<Tensor<2>>) {
    let mut gradients = decoder.weights.zeros_like();
    let stats = accumulate_gradients(decoder, packed, plan, &mut gradients, &mut |stats| {
        let slope = |(k, p): (usize, &f32)| (k as f32 * 0.9).sin() * (0.5 - p);
        Slopes::of_logprobs(stats.logprobs.iter().enumerate().map(slope).collect())
    });
    (stats.unwrap(), gradients)
}

fn assert_equal_gradients(found: &Weights<Tensor<2>>, expected: &Weights<Tensor<2>>, within: f32) {
    for ((name, found), (_, expected)) in found.named().into_iter().zip(expected.named()) {
        let error = relative_error(&numbers(found.clone()), &numbers(expected.clone()));
        assert!(error <= within, "{name}: relative error {error:e}");
    }
}

/// Guards invariant 4: chunked gradients equal whole ones for every parameter.
#[test]
fn streamed_gradients_equal_whole_ones_in_every_family() {
    for family in FAMILIES {
        for tied in [true, false] {
            let decoder = decoder(family, tied);
            let packed = packed(&[17, 1, 30, 5]);
            let (whole_stats, whole) = gradients(&decoder, &packed, &plan(false, 1, 1));
            for (layer, head) in [(53, 53), (1, 1), (7, 11), (64, 3), (18, 100)] {
                let (stats, streamed) = gradients(&decoder, &packed, &plan(true, layer, head));
                assert_equal_gradients(&streamed, &whole, 1e-5);
                assert!(relative_error(&stats.logprobs, &whole_stats.logprobs) < 1e-5);
                assert!(relative_error(&stats.entropies, &whole_stats.entropies) < 1e-5);
            }
        }
    }
}

/// Guards invariant 4 from outside: the derivative of the loss along a direction, by differences.
#[test]
fn gradients_agree_with_differences_of_the_loss() {
    let decoder = decoder(&families::qwen::QWEN3, true);
    let packed = packed(&[9, 6]);
    let plan = plan(true, 4, 5);
    let mut gradients = decoder.weights.zeros_like();
    let coefficient = |k: usize| (k as f32 * 0.9).sin();
    accumulate_gradients(&decoder, &packed, &plan, &mut gradients, &mut |stats| {
        Slopes::of_logprobs((0..stats.logprobs.len()).map(coefficient).collect())
    })
    .unwrap();
    let loss = |scale: f32| {
        let moved: Vec<Tensor<2>> = decoder
            .weights
            .named()
            .into_iter()
            .enumerate()
            .map(|(i, (_, w))| {
                let direction = crate::test_tensors::noise::<2>(w.dims(), 50 + i as u64);
                w.clone() + direction * scale
            })
            .collect();
        let mut decoder = decoder.clone();
        for (slot, moved) in decoder.weights.values_mut().into_iter().zip(moved) {
            *slot = moved;
        }
        let stats = token_stats(&decoder, &packed, &plan);
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// Guards invariant 4 on any packing and any chunk sizes.
    #[test]
    fn streamed_gradients_do_not_depend_on_chunks(
        lengths in prop::collection::vec(1_usize..40, 1..5),
        layer in 1_usize..60,
        head in 1_usize..60,
    ) {
        let decoder = decoder(&families::qwen::QWEN3, true);
        let packed = packed(&lengths);
        let (_, whole) = gradients(&decoder, &packed, &plan(false, 1, 1));
        let (_, streamed) = gradients(&decoder, &packed, &plan(true, layer, head));
        assert_equal_gradients(&streamed, &whole, 1e-5);
    }
}

/// The same sequences with beginnings in common and whole, and for each entry of the first its entry in the other.
fn shared_and_whole(prefixes: &[(usize, Vec<usize>)]) -> (Packed, Packed, Vec<Option<usize>>) {
    let ids = |from: usize, length: usize| -> Vec<u32> {
        (from..from + length).map(|t| ((t * t + 3 * t) % 31) as u32).collect()
    };
    let (mut shared, mut whole, mut entries) = (Packed::empty(), Packed::empty(), Vec::new());
    for (number, (length, members)) in prefixes.iter().enumerate() {
        let begin = ids(100 * number, *length);
        let prefix = shared.push(&begin, None);
        entries.extend(vec![None; *length]);
        for (member, &length) in members.iter().enumerate() {
            let own = ids(100 * number + 7 * member + 50, length);
            shared.push(&own, Some(prefix));
            let first = whole.ids.len() + begin.len();
            entries.extend((first..first + length).map(Some));
            whole.push(&[&begin[..], &own].concat(), None);
        }
    }
    (shared, whole, entries)
}

fn assert_shared_as_whole(
    family: &'static Family,
    (whole_plan, shared_plan): (&ChunkPlan, &ChunkPlan),
    prefixes: &[(usize, Vec<usize>)],
) {
    let decoder = decoder(family, true);
    let (shared, whole, entries) = shared_and_whole(prefixes);
    let slope = |place: usize, p: f32| (place as f32 * 0.9).sin() * (0.5 - p);
    let run = |packed: &Packed, plan: &ChunkPlan, places: &[Option<usize>]| {
        let mut gradients = decoder.weights.zeros_like();
        let stats = accumulate_gradients(&decoder, packed, plan, &mut gradients, &mut |stats| {
            let entries = places.iter().zip(&stats.logprobs);
            let slopes = entries.map(|(place, p)| place.map_or(0.0, |place| slope(place, *p)));
            Slopes::of_logprobs(slopes.collect())
        });
        (stats.unwrap(), gradients)
    };
    // A whole sequence has entries of its beginning, which have no slope among the shared ones either.
    let mut of_whole = vec![None; whole.ids.len()];
    entries.iter().flatten().for_each(|&entry| of_whole[entry] = Some(entry));
    let (whole_stats, expected) = run(&whole, whole_plan, &of_whole);
    let (stats, found) = run(&shared, shared_plan, &entries);
    assert_equal_gradients(&found, &expected, 1e-5);
    for (place, entry) in entries.iter().enumerate().filter_map(|(place, entry)| Some((place, (*entry)?))) {
        let pairs = [(&stats.logprobs, &whole_stats.logprobs), (&stats.entropies, &whole_stats.entropies)];
        for (found, expected) in pairs {
            let (found, expected) = (found[place], expected[entry]);
            assert!(
                (found - expected).abs() <= 1e-5 * (1.0 + expected.abs()),
                "{place}: {found} and {expected}"
            );
        }
    }
}

/// Guards invariant 4: a shared prefix that goes through once has the gradients of all sequences that begin with it.
#[test]
fn a_shared_prefix_gives_the_gradients_of_whole_sequences() {
    let prefixes = [(9, vec![5, 1, 12]), (1, vec![3]), (20, vec![2, 2])];
    for family in FAMILIES {
        for (layer, head) in [(100, 100), (7, 11), (1, 1)] {
            assert_shared_as_whole(family, (&plan(false, 1, 1), &plan(true, layer, head)), &prefixes);
        }
        let nothing = ChunkPlan { attention_kept_bytes: 0, ..plan(true, 10, 10) };
        let all =
            ChunkPlan { attention_kept_bytes: 1 << 20, activations_kept_bytes: 1 << 20, ..nothing.clone() };
        assert_shared_as_whole(family, (&nothing, &all), &prefixes);
        assert_shared_as_whole(family, (&all, &nothing), &prefixes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn beginnings_in_common_do_not_depend_on_chunks(
        prefixes in prop::collection::vec((1_usize..30, prop::collection::vec(1_usize..20, 1..4)), 1..4),
        layer in 1_usize..60,
        head in 1_usize..60,
    ) {
        assert_shared_as_whole(&families::qwen::QWEN3, (&plan(false, 1, 1), &plan(true, layer, head)), &prefixes);
    }
}

#[test]
#[should_panic(expected = "whole sequences")]
fn tapes_take_whole_sequences() {
    let (shared, ..) = shared_and_whole(&[(3, vec![2, 2])]);
    token_stats(&decoder(&families::llama::LLAMA, true), &shared, &plan(false, 1, 1));
}

fn assert_equal_bits(found: &Weights<Tensor<2>>, expected: &Weights<Tensor<2>>) {
    let bits =
        |tensor: &Tensor<2>| -> Vec<u32> { numbers(tensor.clone()).into_iter().map(f32::to_bits).collect() };
    for ((name, expected), (_, found)) in expected.named().into_iter().zip(found.named()) {
        assert!(bits(expected) == bits(found), "{name} differs");
    }
}

#[test]
fn layer_inputs_in_a_file_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    for (family, attention_kept_bytes) in [
        (&families::llama::LLAMA, 0),
        (&families::qwen::QWEN2, 20_000),
        (&families::qwen::QWEN3, 9000),
        (&families::gemma::GEMMA3, 9000),
    ] {
        let decoder = decoder(family, true);
        let packed = packed(&[17, 1, 30, 5]);
        let memory = ChunkPlan { attention_kept_bytes, ..plan(true, 7, 11) };
        let file = ChunkPlan { layer_inputs: LayerInputs::File(folder.path().to_owned()), ..memory.clone() };
        let ((stats, expected), (file_stats, found)) =
            (gradients(&decoder, &packed, &memory), gradients(&decoder, &packed, &file));
        assert_eq!(stats, file_stats);
        assert_equal_bits(&found, &expected);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a file was left");
}

#[test]
fn what_is_kept_changes_no_bit() {
    for family in FAMILIES {
        let decoder = decoder(family, true);
        let packed = packed(&[17, 1, 30, 5]);
        let nothing = ChunkPlan { attention_kept_bytes: 0, activations_kept_bytes: 0, ..plan(true, 7, 11) };
        let (stats, expected) = gradients(&decoder, &packed, &nothing);
        let layer = 4 * 53 * super::activations(&decoder.config) as u64;
        for activations_kept_bytes in [layer - 1, layer, 2 * layer] {
            let kept = ChunkPlan { attention_kept_bytes: 1 << 20, activations_kept_bytes, ..nothing.clone() };
            let whole = kept.whole_layers_kept(&decoder.config, 53);
            assert_eq!(whole as u64, activations_kept_bytes / layer);
            let (found_stats, found) = gradients(&decoder, &packed, &kept);
            assert_eq!(stats, found_stats);
            assert_equal_bits(&found, &expected);
        }
    }
}

/// Gradients of a batch some of whose sequences have no slope, on top of what is there, with all chunks gone
/// through or only those with a slope.
fn sparse_gradients(
    decoder: &Decoder,
    packed: &Packed,
    plan: &ChunkPlan,
    live: &[bool],
    skips: bool,
) -> (TokenStats, Weights<Tensor<2>>) {
    let mut places = Vec::new();
    for (length, live) in packed.lengths.iter().zip(live) {
        places.extend(vec![*live; *length]);
    }
    let mut gradients = decoder.weights.map(|_, weight| weight.clone() * 0.01);
    let mut slopes = |stats: &TokenStats| {
        let entries = stats.logprobs.iter().zip(&places).enumerate();
        let slope = |(k, (p, live)): (usize, (&f32, &bool))| {
            if *live { (k as f32 * 0.9).sin() * (0.5 - p) } else { 0.0 }
        };
        Slopes::of_logprobs(entries.map(slope).collect())
    };
    let mut pass = super::cpu::SlicePass::new(decoder, packed, plan);
    pass.skips = skips;
    let stats = pass.gradients((&mut gradients).into(), &mut slopes).unwrap();
    (stats, gradients)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// What is left out of the backward pass would have added zeros.
    #[test]
    fn chunks_without_slopes_change_no_bit(
        prefixes in prop::collection::vec(
            (1_usize..12, prop::collection::vec((1_usize..24, prop::bool::ANY), 1..4)),
            1..5,
        ),
        family in prop::sample::select(FAMILIES.to_vec()),
        layer in 1_usize..40,
        head in 1_usize..40,
        kept in prop::sample::select(vec![0_u64, 9000, 1 << 20]),
    ) {
        let decoder = decoder(family, true);
        let lengths: Vec<(usize, Vec<usize>)> = prefixes
            .iter()
            .map(|(prefix, members)| (*prefix, members.iter().map(|(length, _)| *length).collect()))
            .collect();
        let (shared, _, _) = shared_and_whole(&lengths);
        // The beginnings have no slope of their own.
        let live: Vec<bool> = prefixes
            .iter()
            .flat_map(|(_, members)| std::iter::once(false).chain(members.iter().map(|(_, live)| *live)))
            .collect();
        let plan =
            ChunkPlan { attention_kept_bytes: kept, activations_kept_bytes: kept, ..plan(true, layer, head) };
        let (stats, whole) = sparse_gradients(&decoder, &shared, &plan, &live, false);
        let (found_stats, found) = sparse_gradients(&decoder, &shared, &plan, &live, true);
        assert_eq!(stats, found_stats);
        assert_equal_bits(&found, &whole);
    }
}

/// Gradients of a loss of entropies, beside log-probabilities or alone.
fn entropy_gradients(
    decoder: &Decoder,
    packed: &Packed,
    plan: &ChunkPlan,
    beside: bool,
) -> Weights<Tensor<2>> {
    let mut gradients = decoder.weights.zeros_like();
    let mut slopes = |stats: &TokenStats| {
        let by_logprob = |k: usize| if beside { (k as f32 * 0.9).sin() } else { 0.0 };
        let by_entropy = |(k, entropy): (usize, &f32)| (k as f32 * 1.3).cos() * (0.5 + entropy);
        Slopes {
            logprob: (0..stats.logprobs.len()).map(by_logprob).collect(),
            entropy: stats.entropies.iter().enumerate().map(by_entropy).collect(),
        }
    };
    accumulate_gradients(decoder, packed, plan, &mut gradients, &mut slopes).unwrap();
    gradients
}

/// Guards invariant 4 for entropies; their gradients against PyTorch are in `tests/it/slopes_parity.rs`.
#[test]
fn entropy_slopes_give_the_same_gradients_on_every_path_and_cut() {
    for (family, beside) in FAMILIES.into_iter().zip([true, false, true, false]) {
        let decoder = decoder(family, true);
        let packed = packed(&[17, 1, 30, 5]);
        let whole = entropy_gradients(&decoder, &packed, &plan(false, 1, 1), beside);
        for (path, layer, head) in [
            (GradientPath::Checkpointed, 1, 1),
            (GradientPath::StreamBp, 1, 1),
            (GradientPath::StreamBp, 7, 11),
            (GradientPath::StreamBp, 100, 100),
        ] {
            let plan = ChunkPlan { path, ..plan(true, layer, head) };
            assert_equal_gradients(&entropy_gradients(&decoder, &packed, &plan, beside), &whole, 1e-5);
        }
    }
}

/// On every path, and with what is there before.
#[test]
fn slopes_of_zero_add_nothing() {
    let decoder = decoder(&families::qwen::QWEN3, false);
    let packed = packed(&[17, 1, 30]);
    for path in [GradientPath::Unchunked, GradientPath::Checkpointed, GradientPath::StreamBp] {
        let plan = ChunkPlan { path, ..plan(true, 7, 11) };
        let before = decoder.weights.map(|_, weight| weight.clone() * 0.01);
        let mut gradients = before.clone();
        let stats = accumulate_gradients(&decoder, &packed, &plan, &mut gradients, &mut |stats| {
            let zeros = vec![0.0; stats.logprobs.len()];
            Slopes { logprob: zeros.clone(), entropy: zeros }
        });
        assert_equal_bits(&gradients, &before);
        let (expected, _) = super::tests::gradients(&decoder, &packed, &plan);
        assert_eq!(stats.unwrap(), expected, "{path:?}");
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap().path().join("gone");
    let plan = ChunkPlan { layer_inputs: LayerInputs::File(folder.clone()), ..plan(true, 7, 11) };
    let decoder = decoder(&families::llama::LLAMA, true);
    let mut gradients = decoder.weights.zeros_like();
    let result = accumulate_gradients(&decoder, &packed(&[9]), &plan, &mut gradients, &mut |_| {
        unreachable!("nothing is asked for before the inputs have their place")
    });
    let Err(KernelError::File { path, source }) = result else { panic!("{result:?}") };
    assert_eq!((path, source.kind()), (folder, std::io::ErrorKind::NotFound));
}

#[test]
fn tapes_keep_layer_inputs_in_memory_only() {
    let decoder = decoder(&families::llama::LLAMA, true);
    let mut gradients = decoder.weights.zeros_like();
    let plan =
        ChunkPlan { path: GradientPath::Checkpointed, layer_inputs: LayerInputs::Bf16, ..plan(true, 7, 11) };
    let result = accumulate_gradients(&decoder, &packed(&[9]), &plan, &mut gradients, &mut |stats| {
        Slopes::of_logprobs(vec![0.0; stats.logprobs.len()])
    });
    assert!(matches!(result, Err(KernelError::Input(_))), "{result:?}");
}

/// Guards invariant 6: a packed batch gives the sums of its sequences.
#[test]
fn statistics_of_a_sequence_do_not_depend_on_its_neighbours() {
    let decoder = decoder(&families::llama::LLAMA, false);
    let together = token_stats(&decoder, &packed(&[12, 20]), &plan(true, 8, 8));
    let first = token_stats(&decoder, &packed(&[12]), &plan(true, 5, 3));
    assert!(relative_error(&together.logprobs[..12], &first.logprobs) < 1e-5);
}
