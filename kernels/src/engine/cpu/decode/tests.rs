//! Logits of contexts in any company, cut and share, to the bit.

use burn::tensor::Device;
use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

use super::cache::{Blocks, CachePrecision};
use super::packed::PackedDecoder;
use super::{CpuSlots, Feed, Sharing};
use crate::gemm::Precision;
use crate::model::families::{self, granite::GRANITE, smollm3::SMOLLM3};
use crate::test_tensors::{adapted, all_shapes, odd_decoder, odd_shapes, some_modules};
use crate::{Decoder, DecoderConfig, TargetModules};

fn text(length: usize, vocabulary: usize) -> Vec<u32> {
    (0..length).map(|t| ((t * 7 + t * t) % vocabulary) as u32).collect()
}

/// Logits after every token of a text that is fed alone, token by token, on one thread.
fn alone(packed: &PackedDecoder, cache: CachePrecision, text: &[u32]) -> Vec<Vec<u32>> {
    let mut slots = CpuSlots::new(&packed.config, 1, text.len(), cache);
    let feed = |tokens| [Feed { slot: 0, tokens }];
    let step = |tokens| bits(slots.extend_shared(packed, &feed(tokens), true, Sharing::Alone));
    text.chunks(1).map(step).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A resumed run fills its caches by prefill and must draw what it would have drawn.
    #[test]
    fn logits_do_not_depend_on_neighbours_cuts_or_threads(
        shape in 0..all_shapes().len(),
        threads in 1_usize..4,
        columns in proptest::bool::ANY,
        adapters in 0_usize..3,
        precision in proptest::sample::select(&[Precision::F32, Precision::Bf16, Precision::I8][..]),
        cache in proptest::sample::select(&[CachePrecision::F32, CachePrecision::Bf16][..]),
        cuts in proptest::collection::vec((0_usize..3, 1_usize..90), 1..9),
    ) {
        let decoder = odd_decoder(all_shapes().swap_remove(shape));
        let some = some_modules(&decoder.config);
        let decoder = match adapters {
            0 => decoder,
            1 => adapted(decoder, some),
            _ => adapted(decoder, TargetModules::AllLinear),
        };
        let packed = PackedDecoder::new(&decoder, precision);
        let vocabulary = decoder.config.vocabulary;
        let texts: Vec<Vec<u32>> =
            (0..3).map(|slot| text(200 + slot, vocabulary)[slot..].to_vec()).collect();
        let expected: Vec<_> = texts.iter().map(|text| alone(&packed, cache, text)).collect();
        let sharing = if columns { Sharing::Columns } else { Sharing::Contexts };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut slots = CpuSlots::new(&decoder.config, 3, 200, cache);
        let mut fed = [0; 3];
        // Each cut goes with one token for every other slot.
        for (first, tokens) in cuts {
            let ends: Vec<(usize, usize)> = [first, (first + 1) % 3, (first + 2) % 3]
                .into_iter()
                .enumerate()
                .map(|(place, slot)| (slot, (fed[slot] + if place == 0 { tokens } else { 1 }).min(200)))
                .filter(|(slot, end)| *end > fed[*slot])
                .collect();
            let inputs: Vec<Feed<'_>> =
                ends.iter().map(|&(slot, end)| Feed { slot, tokens: &texts[slot][fed[slot]..end] }).collect();
            let logits = pool.install(|| slots.extend_shared(&packed, &inputs, true, sharing));
            for (&(slot, end), logits) in ends.iter().zip(logits.chunks(vocabulary)) {
                prop_assert_eq!(&bits(logits), &expected[slot][end - 1], "slot {} at {}", slot, end);
                fed[slot] = end;
            }
        }
    }
}

/// A version that differs by its adapters has no parameters of its own, and decodes as if it had.
#[test]
fn versions_of_adapters_share_what_is_packed() {
    for precision in [Precision::F32, Precision::Bf16, Precision::I8] {
        let first = adapted(odd_decoder(odd_shapes().swap_remove(0)), TargetModules::AllLinear);
        let mut second = first.clone();
        for adapter in second.lora.as_mut().unwrap().adapters.values_mut().into_iter().flatten() {
            adapter.b = adapter.b.clone() * -2.0;
        }
        let packed = PackedDecoder::new(&first, precision);
        let next = packed.adapted(second.lora.as_ref().unwrap());
        assert!(packed.shares(&next) && packed.number() != next.number());
        let text = text(20, first.config.vocabulary);
        let logits = |packed: &PackedDecoder| alone(packed, CachePrecision::F32, &text);
        assert_ne!(logits(&packed), logits(&next));
        assert_eq!(logits(&next), logits(&PackedDecoder::new(&second, precision)));
    }
}

#[test]
fn what_an_earlier_context_left_in_a_block_is_not_seen() {
    let decoder = odd_decoder(DecoderConfig::small(&families::llama::LLAMA));
    let packed = PackedDecoder::new(&decoder, Precision::F32);
    let text = text(70, decoder.config.vocabulary);
    let mut slots = CpuSlots::new(&decoder.config, 1, 70, CachePrecision::F32);
    slots.extend(&packed, &[Feed { slot: 0, tokens: &text }], false);
    slots.release(0);
    assert_eq!(slots.len(0), 0);
    let again = slots.extend(&packed, &[Feed { slot: 0, tokens: &text[3..9] }], true);
    assert_eq!(bits(again), alone(&packed, CachePrecision::F32, &text[3..9])[5]);
}

/// Two groups of two: members of a group share a prompt and go on differently.
fn members(prompts: [usize; 2], vocabulary: usize) -> Vec<Vec<u32>> {
    let text = text(400, vocabulary);
    let member = |slot: usize| {
        let prompt = &text[slot / 2..][..prompts[slot / 2]];
        [prompt, &text[100 + 20 * slot..][..200]].concat()
    };
    (0..4).map(member).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Contexts that share blocks, under weights that change, against slots of their own that share nothing.
    #[test]
    fn sharing_changes_no_logit(
        shape in 0..all_shapes().len(),
        threads in 1_usize..4,
        cache in proptest::sample::select(&[CachePrecision::F32, CachePrecision::Bf16][..]),
        prompts in [1_usize..150, 1..150],
        calls in proptest::collection::vec((0_usize..5, 1_usize..16, 0_usize..2, 1_usize..200), 1..12),
    ) {
        let decoder = odd_decoder(all_shapes().swap_remove(shape));
        let other = Decoder::random(decoder.config.clone(), 6, &Device::flex());
        let weights = [&decoder, &other].map(|decoder| PackedDecoder::new(decoder, Precision::F32));
        let vocabulary = decoder.config.vocabulary;
        let texts = members(prompts, vocabulary);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut slots = CpuSlots::new(&decoder.config, 4, 350, cache);
        let mut plain: Vec<CpuSlots> =
            (0..4).map(|_| CpuSlots::new(&decoder.config, 1, 350, cache)).collect();
        for (kind, named, version, tokens) in calls {
            let named: Vec<usize> = (0..4).filter(|slot| (named >> slot) & 1 == 1).collect();
            let from = |slots: &CpuSlots, slot| if kind < 2 { 0 } else { slots.len(slot) };
            let count = if kind == 3 { 1 } else { tokens };
            let inputs: Vec<Feed<'_>> = named
                .iter()
                .map(|&slot| (slot, &texts[slot][from(&slots, slot)..]))
                .map(|(slot, rest)| Feed { slot, tokens: &rest[..rest.len().min(count + slot)] })
                .filter(|input| !input.tokens.is_empty())
                .collect();
            match kind {
                0 | 1 => pool.install(|| slots.prefill(&weights[version], &inputs)),
                2 | 3 => {
                    let logits = pool.install(|| slots.extend(&weights[version], &inputs, true));
                    for (input, logits) in inputs.iter().zip(logits.chunks(vocabulary)) {
                        let own = Feed { slot: 0, tokens: input.tokens };
                        let expected = plain[input.slot].extend(&weights[version], &[own], true);
                        prop_assert_eq!(bits(logits), bits(expected), "slot {}", input.slot);
                    }
                }
                _ => named.iter().for_each(|&slot| slots.release(slot)),
            }
            for input in inputs.iter().filter(|_| kind < 2) {
                plain[input.slot].prefill(&weights[version], &[Feed { slot: 0, tokens: input.tokens }]);
            }
            if kind == 4 {
                named.iter().for_each(|&slot| plain[slot].release(0));
            }
        }
        (0..4).for_each(|slot| slots.release(slot));
        prop_assert!(slots.blocks.is_forgotten(), "no block is kept or found that nobody has");
    }
}

/// By hand: prompts of 150 tokens are two full blocks and 22 tokens.
#[test]
fn a_prompt_is_filled_once_for_its_group() {
    let decoder = odd_decoder(DecoderConfig::small(&families::llama::LLAMA));
    let [old, new] = [0, 1].map(|_| PackedDecoder::new(&decoder, Precision::F32));
    let texts = members([150, 150], decoder.config.vocabulary);
    let mut slots = CpuSlots::new(&decoder.config, 4, 400, CachePrecision::F32);
    let mut fill = |weights: &PackedDecoder, named: &[(usize, usize)]| {
        let before = slots.prefilled();
        let inputs = named.iter().map(|&(slot, end)| Feed { slot, tokens: &texts[slot][..end] });
        slots.prefill(weights, &inputs.collect::<Vec<_>>());
        let after = slots.prefilled();
        (after.computed - before.computed, after.shared - before.shared, Blocks::in_use(&slots.contexts))
    };
    // In one call, to the last token; a copy of the third block.
    assert_eq!(fill(&old, &[(0, 150), (1, 150)]), (150, 150, 2 + 2));
    // Another group.
    assert_eq!(fill(&old, &[(2, 150)]), (150, 0, 4 + 3));
    // Its second member comes later and has the full blocks, and 30 tokens of its own.
    assert_eq!(fill(&old, &[(3, 180)]), (180 - 128, 128, 7 + 1));
    // Newer weights fill what older ones filled again, once for both members, at different times too.
    assert_eq!(fill(&new, &[(2, 180)]), (180, 0, 8 + 2));
    assert_eq!(fill(&new, &[(3, 180)]), (180 - 128, 128, 8));
    assert_eq!(fill(&old, &[(0, 180), (1, 190)]), (150 + 30 + 40, 150, 8));
}

/// A context that went on under newer weights with what older ones computed.
#[test]
fn blocks_of_several_versions_are_not_found() {
    let decoder = odd_decoder(DecoderConfig::small(&families::llama::LLAMA));
    let [old, new] = [0, 1].map(|_| PackedDecoder::new(&decoder, Precision::F32));
    let text = text(200, decoder.config.vocabulary);
    let mut slots = CpuSlots::new(&decoder.config, 2, 200, CachePrecision::F32);
    slots.extend(&old, &[Feed { slot: 0, tokens: &text[..70] }], false);
    slots.extend(&new, &[Feed { slot: 0, tokens: &text[70..200] }], false);
    let mut shared = |weights: &PackedDecoder| {
        let before = slots.prefilled().shared;
        slots.prefill(weights, &[Feed { slot: 1, tokens: &text }]);
        slots.prefilled().shared - before
    };
    // The first block is the older weights' alone; what was computed on it is nobody's.
    assert_eq!([shared(&new), shared(&old)], [0, 64]);
}

/// Roundings of keys and values against the computation in f64: the largest error of a log-probability.
#[test]
fn a_cache_in_bf16_changes_logprobs_by_its_roundings() {
    let is_later = |config: &DecoderConfig| [&SMOLLM3, &GRANITE].contains(&config.family);
    let worst = roundings_of_caches(|config| !is_later(config));
    assert!(worst[0] < 1e-4 && (1e-3..5e-2).contains(&worst[1]), "{worst:?}");
    // Their keys move more: some are not rotated, or have biases that are large beside them.
    let worst = roundings_of_caches(is_later);
    assert!(worst[0] < 1e-4 && (1e-3..1e-1).contains(&worst[1]), "{worst:?}");
}

/// The largest error of a log-probability of these models with a cache in f32, and with one in bf16.
fn roundings_of_caches(is_asked: impl Fn(&DecoderConfig) -> bool) -> [f64; 2] {
    let mut worst = [0.0_f64; 2];
    for config in odd_shapes().into_iter().filter(is_asked) {
        let decoder = odd_decoder(config);
        let text = text(140, decoder.config.vocabulary);
        let packed_text = crate::Packed::new([&text[..]]);
        let reference = crate::reference::Reference::new(&decoder, &packed_text, 1.0);
        let expected = reference.statistics(&reference.forward()).0;
        let packed = PackedDecoder::new(&decoder, Precision::F32);
        for (place, cache) in [CachePrecision::F32, CachePrecision::Bf16].into_iter().enumerate() {
            let mut slots = CpuSlots::new(&decoder.config, 1, 140, cache);
            for (at, pair) in text.windows(2).enumerate() {
                let logits = slots.extend(&packed, &[Feed { slot: 0, tokens: &pair[..1] }], true);
                let (logprob, _) = crate::sampling::logprob_and_entropy(logits, 1.0, pair[1]);
                worst[place] = worst[place].max((f64::from(logprob) - expected[at]).abs());
            }
        }
    }
    worst
}
