//! What the CPU's gradients have beside the laws of all engines: shared prefixes, layer inputs elsewhere, activations that
//! are kept, and chunks that are left out, all to the bit where they change no number.

use burn::tensor::Tensor;
use proptest::prelude::{ProptestConfig, prop, proptest};

use super::Cpu;
use crate::engine::TrainingEngine;
use crate::engine::laws::gradients::{
    FAMILIES, assert_equal_bits, assert_equal_gradients, decoder, gradients, packed, plan,
};
use crate::gemm::Precision;
use crate::model::families::{self, Family};
use crate::streambp::activations;
use crate::streambp::cpu::{LastWorkspace, SlicePass};
use crate::test_tensors::{adapted, numbers, some_modules};
use crate::{
    ChunkPlan, Decoder, GradientPath, GradientSums, KernelError, LayerInputs, Packed, Slopes, TokenStats,
    Weights,
};

/// The same sequences with shared prefixes and whole, and for each entry of the first its entry in the other.
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
    let (shared, whole, entries) = shared_and_whole(prefixes);
    assert_same(family, [whole_plan, shared_plan], [&whole, &shared], &entries);
}

/// The gradients and statistics of whole sequences are those of ones that share prefixes; `entries` are the entries of the
/// first for each of the second.
fn assert_same(
    family: &'static Family,
    [whole_plan, shared_plan]: [&ChunkPlan; 2],
    [whole, shared]: [&Packed; 2],
    entries: &[Option<usize>],
) {
    let (cpu, decoder) = (Cpu::default(), decoder(family, true));
    let slope = |place: usize, p: f32| (place as f32 * 0.9).sin() * (0.5 - p);
    let run = |packed: &Packed, plan: &ChunkPlan, places: &[Option<usize>]| {
        let mut gradients = decoder.weights.tensors().zeros_like(cpu.operations());
        let mut slopes = |stats: &TokenStats| {
            let entries = places.iter().zip(&stats.logprobs);
            let slopes = entries.map(|(place, p)| place.map_or(0.0, |place| slope(place, *p)));
            Slopes::of_logprobs(slopes.collect())
        };
        let stats = cpu.gradients(&decoder, packed, plan, (&mut gradients).into(), &mut slopes);
        (stats.unwrap(), gradients)
    };
    // A whole sequence has entries of its beginning, which have no slope among the shared ones either.
    let mut of_whole = vec![None; whole.ids.len()];
    entries.iter().flatten().for_each(|&entry| of_whole[entry] = Some(entry));
    let (whole_stats, expected) = run(whole, whole_plan, &of_whole);
    let (stats, found) = run(shared, shared_plan, entries);
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

/// The same where the shared prefixes begin with one that they share.
#[test]
fn a_prefix_of_prefixes_gives_the_gradients_of_whole_sequences() {
    let ids = |from: usize, length: usize| -> Vec<u32> {
        (from..from + length).map(|t| ((t * t + 3 * t) % 31) as u32).collect()
    };
    let text = ids(0, 11);
    let (mut shared, mut whole, mut entries) = (Packed::empty(), Packed::empty(), Vec::new());
    let begins = shared.push(&text, None);
    entries.extend(vec![None; text.len()]);
    // Two prompts with several completions each, and a completion that follows the text at once.
    for (number, (length, members)) in
        [(5, vec![4, 1, 9]), (1, vec![3, 2]), (0, vec![6])].into_iter().enumerate()
    {
        let prompt = ids(100 * (number + 1), length);
        let prefix = if length > 0 { shared.push(&prompt, Some(begins)) } else { begins };
        entries.extend(vec![None; length]);
        for (member, length) in members.into_iter().enumerate() {
            let own = ids(100 * number + 7 * member + 50, length);
            shared.push(&own, Some(prefix));
            let first = whole.ids.len() + text.len() + prompt.len();
            entries.extend((first..first + length).map(Some));
            whole.push(&[&text[..], &prompt, &own].concat(), None);
        }
    }
    for family in FAMILIES {
        for (layer, head) in [(100, 100), (7, 11), (1, 1)] {
            let plans = [&plan(false, 1, 1), &plan(true, layer, head)];
            assert_same(family, plans, [&whole, &shared], &entries);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn shared_prefixes_do_not_depend_on_chunks(
        prefixes in prop::collection::vec((1_usize..30, prop::collection::vec(1_usize..20, 1..4)), 1..4),
        layer in 1_usize..60,
        head in 1_usize..60,
    ) {
        assert_shared_as_whole(&families::qwen::QWEN3, (&plan(false, 1, 1), &plan(true, layer, head)), &prefixes);
    }
}

/// Statistics and the gradients of a decoder's adapters.
fn adapter_gradients(decoder: &Decoder, plan: &ChunkPlan) -> (TokenStats, Vec<Vec<u32>>) {
    let cpu = Cpu::default();
    let mut sums = GradientSums::zeros_of(decoder, cpu.operations());
    let mut slopes = |stats: &TokenStats| {
        let slope = |(k, p): (usize, &f32)| (k as f32 * 0.9).sin() * (0.5 - p);
        Slopes::of_logprobs(stats.logprobs.iter().enumerate().map(slope).collect())
    };
    let stats = cpu.gradients(decoder, &packed(&[17, 1, 30, 5]), plan, sums.sink(), &mut slopes);
    let bits = |tensor: &Tensor<2>| numbers(tensor.clone()).into_iter().map(f32::to_bits).collect();
    (stats.unwrap(), sums.values().into_iter().map(bits).collect())
}

/// A layer of packed weights is unpacked for its passes, and nothing else differs.
#[test]
fn packed_weights_have_the_gradients_of_the_same_numbers_in_tensors() {
    for (family, tied) in FAMILIES.into_iter().flat_map(|family| [(family, true), (family, false)]) {
        for precision in [Precision::F32, Precision::Bf16] {
            let model = decoder(family, tied);
            let modules = some_modules(&model.config);
            let stored = adapted(model, modules).packed(precision);
            let plain = stored.frozen();
            let tensors =
                Decoder { weights: plain.effective_weights().into_owned().into(), ..stored.clone() };
            let checkpointed = ChunkPlan { path: GradientPath::Checkpointed, ..plan(true, 1, 1) };
            for plan in [plan(true, 7, 11), plan(true, 100, 100), checkpointed] {
                let (stats, found) = adapter_gradients(&stored, &plan);
                let (expected_stats, expected) = adapter_gradients(&tensors, &plan);
                assert_eq!(stats, expected_stats, "{family:?}, {precision:?}, {plan:?}");
                assert!(found == expected, "{family:?}, {precision:?}, {plan:?}");
                assert!(found.iter().flatten().any(|bits| *bits != 0));
                let statistics = |decoder| Cpu::default().statistics(decoder, &packed(&[9, 4]), &plan);
                assert_eq!(statistics(&stored), statistics(&tensors));
            }
        }
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
        let ((stats, expected), (file_stats, found)) = (
            gradients(&Cpu::default(), &decoder, &packed, &memory),
            gradients(&Cpu::default(), &decoder, &packed, &file),
        );
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
        let (stats, expected) = gradients(&Cpu::default(), &decoder, &packed, &nothing);
        let layer = 4 * 53 * activations(&decoder.config) as u64;
        for activations_kept_bytes in [layer - 1, layer, 2 * layer] {
            let kept = ChunkPlan { attention_kept_bytes: 1 << 20, activations_kept_bytes, ..nothing.clone() };
            let whole = kept.whole_layers_kept(&decoder.config, 53);
            assert_eq!(whole as u64, activations_kept_bytes / layer);
            let (found_stats, found) = gradients(&Cpu::default(), &decoder, &packed, &kept);
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
    let mut gradients = decoder.weights.tensors().map(|_, weight| weight.clone() * 0.01);
    let mut slopes = |stats: &TokenStats| {
        let entries = stats.logprobs.iter().zip(&places).enumerate();
        let slope = |(k, (p, live)): (usize, (&f32, &bool))| {
            if *live { (k as f32 * 0.9).sin() * (0.5 - p) } else { 0.0 }
        };
        Slopes::of_logprobs(entries.map(slope).collect())
    };
    let last = LastWorkspace::default();
    let mut pass = SlicePass::new(decoder, packed, plan, &last);
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

#[test]
fn a_folder_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap().path().join("gone");
    let plan = ChunkPlan { layer_inputs: LayerInputs::File(folder.clone()), ..plan(true, 7, 11) };
    let decoder = decoder(&families::llama::LLAMA, true);
    let mut gradients = decoder.weights.tensors().zeros_like(Cpu::default().operations());
    let mut slopes = |_: &TokenStats| unreachable!("nothing is asked for before the inputs have their place");
    let result =
        Cpu::default().gradients(&decoder, &packed(&[9]), &plan, (&mut gradients).into(), &mut slopes);
    let Err(KernelError::File { path, source }) = result else { panic!("{result:?}") };
    assert_eq!((path, source.kind()), (folder, std::io::ErrorKind::NotFound));
}
