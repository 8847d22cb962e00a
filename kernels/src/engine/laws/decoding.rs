//! Cached decoding: it equals the training forward however contexts are cut, and draws follow from logits and keys.

use burn::tensor::Device;
use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

use super::gradients::FAMILIES;
use super::on_every_engine;
use crate::engine::{
    CachePrecision, CacheRoom, Cpu, DrawRequest, Engine, EngineSlots, EngineWeights, Feed, OnDevice,
    TrainingEngine,
};
use crate::gemm::Precision;
use crate::model::families;
use crate::sampling::{SamplingConfig, draw, logprob_and_entropy, uniform};
use crate::test_tensors::{
    adapted, all_shapes, expert_shapes, numbers, odd_decoder, odd_shapes, some_modules, wide,
};
use crate::{ChunkPlan, Decoder, DecoderConfig, GradientPath, LayerInputs, ModelPlace, Packed};

on_every_engine!(
    cached_decode_equals_the_training_forward,
    several_tokens_at_once_equal_one_after_the_other,
    contexts_in_any_cut_and_company_have_the_logits_of_one_alone,
    a_context_filled_again_is_as_if_it_were_new,
    the_same_keys_draw_the_same_tokens_in_any_slot_and_company,
    draws_follow_from_logits_and_keys,
    rounded_weights_move_logprobs_within_stated_bounds,
    prepared_weights_are_written_as_they_are_rounded,
    what_an_engine_cannot_do_is_an_error,
);

fn room(slots: usize, positions: usize) -> CacheRoom {
    CacheRoom { slots, positions, precision: CachePrecision::F32 }
}

fn text(length: usize, vocabulary: usize) -> Vec<u32> {
    (0..length).map(|t| ((t * 7 + t * t) % vocabulary) as u32).collect()
}

fn training_logprobs(engine: &impl TrainingEngine, decoder: &Decoder, text: &[u32]) -> Vec<f32> {
    let plan = ChunkPlan {
        path: GradientPath::StreamBp,
        layer_chunk_tokens: 16,
        head_chunk_tokens: 9,
        attention_kept_bytes: 0,
        activations_kept_bytes: 0,
        layer_inputs: LayerInputs::Memory,
        temperature: 1.0,
    };
    engine.statistics(decoder, &Packed::new([text]), &plan).logprobs
}

fn assert_close(found: &[f32], expected: &[f32], within: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let bound = within * expected.abs().max(1.0);
        assert!((found - expected).abs() <= bound, "{what}: {found}, not {expected}");
    }
}

/// Guards invariant 3: cached decode and the training forward give equal log-probs.
fn cached_decode_equals_the_training_forward(engine: &impl Engine) {
    for family in FAMILIES {
        let decoder = Decoder::random(wide(family), 3, &engine.device());
        let vocabulary = decoder.config.vocabulary;
        let text = text(50, vocabulary);
        let expected = training_logprobs(engine, &decoder, &text);

        let weights = engine.prepare(&decoder, Precision::F32).unwrap();
        let mut slots = engine.slots(&decoder.config, room(3, 64)).unwrap();
        let filled = [Feed { slot: 0, tokens: &text[..4] }, Feed { slot: 2, tokens: &text[..20] }];
        engine.prefill(&mut slots, &weights, &filled);
        for step in 0..25 {
            let (short, long) = (4 + step, 20 + step);
            let feeds = [(0, short), (2, long)].map(|(slot, at)| Feed { slot, tokens: &text[at..at + 1] });
            let logits = engine.logits(&mut slots, &weights, &feeds);
            for (row, at) in [short, long].into_iter().enumerate() {
                let logits = &logits[row * vocabulary..(row + 1) * vocabulary];
                let (logprob, _) = logprob_and_entropy(logits, 1.0, text[at + 1]);
                assert!((logprob - expected[at]).abs() < 1e-5, "{family:?} at {at}: {logprob}");
            }
        }
        assert_eq!((slots.len(0), slots.len(1), slots.len(2)), (29, 0, 45));
    }
}

/// Guards invariant 3 for weights that are packed once, for decoding and for the training of adapters beside them.
#[test]
fn packed_weights_decode_as_they_train() {
    let cpu = Cpu::default();
    let precisions = [Precision::F32, Precision::Bf16, Precision::I8];
    for (config, precision) in
        all_shapes().into_iter().flat_map(|config| precisions.map(|precision| (config.clone(), precision)))
    {
        let modules = some_modules(&config);
        let decoder = adapted(odd_decoder(config), modules).packed(precision);
        let text = text(60, decoder.config.vocabulary);
        let decoded = |precision| -> Vec<f32> {
            let weights = cpu.prepare(&decoder, precision).unwrap();
            let logits = alone(&cpu, &weights, &text);
            let pairs = logits.iter().zip(&text[1..]);
            pairs.map(|(logits, next)| logprob_and_entropy(logits, 1.0, *next).0).collect()
        };
        let found = decoded(precision);
        let expected = training_logprobs(&cpu, &decoder, &text);
        assert_close(&found, &expected[..59], 2e-5, &format!("{precision:?}, {:?}", decoder.config));
        // In f32 decoding takes packed weights as they are.
        assert_eq!(decoded(Precision::F32), found);
    }
}

#[test]
fn packed_weights_are_shared_by_all_that_decode_with_them() {
    let cpu = Cpu::default();
    let decoder = odd_decoder(wide(&families::qwen::QWEN3));
    let bytes =
        |decoder: &Decoder, precision| EngineWeights::bytes(&cpu.prepare(decoder, precision).unwrap());
    assert!(bytes(&decoder, Precision::Bf16) > 0);
    let packed = decoder.packed(Precision::Bf16);
    assert_eq!(bytes(&packed, Precision::Bf16), 0);
    assert_eq!(bytes(&packed, Precision::F32), 0);
    assert!(bytes(&packed, Precision::I8) > 0, "other numbers");
    let dir = tempfile::tempdir().unwrap();
    packed.save(dir.path()).unwrap();
    let read = Decoder::load(dir.path(), &Device::flex()).unwrap();
    let text = text(20, packed.config.vocabulary);
    assert_eq!(training_logprobs(&cpu, &read, &text), training_logprobs(&cpu, &packed, &text));
    let place = ModelPlace::find(dir.path(), None).unwrap();
    let again = Decoder::load_packed(&place, &families::ALL, Precision::Bf16).unwrap();
    assert_eq!(training_logprobs(&cpu, &again, &text), training_logprobs(&cpu, &packed, &text));
}

fn several_tokens_at_once_equal_one_after_the_other(engine: &impl Engine) {
    let decoder = Decoder::random(DecoderConfig::small(&families::llama::LLAMA), 3, &engine.device());
    let text: Vec<u32> = (0..30).map(|t| t % 11).collect();
    let weights = engine.prepare(&decoder, Precision::F32).unwrap();
    let mut slots = engine.slots(&decoder.config, room(2, 64)).unwrap();
    let at_once = engine.logits(&mut slots, &weights, &[Feed { slot: 1, tokens: &text }]).to_vec();
    let mut last = Vec::new();
    for token in &text {
        last = engine.logits(&mut slots, &weights, &[Feed { slot: 0, tokens: &[*token] }]).to_vec();
    }
    for (a, b) in at_once.iter().zip(&last) {
        assert!((a - b).abs() < 1e-5);
    }
}

/// Logits after every token of a text that is fed alone, token by token.
fn alone<E: Engine>(engine: &E, weights: &E::Weights, text: &[u32]) -> Vec<Vec<f32>> {
    let mut slots = engine.slots(weights.config(), room(1, text.len())).unwrap();
    let step = |tokens| engine.logits(&mut slots, weights, &[Feed { slot: 0, tokens }]).to_vec();
    text.chunks(1).map(step).collect()
}

/// On the CPU they are the same to the bit: `logits_do_not_depend_on_neighbours_cuts_or_threads`.
fn contexts_in_any_cut_and_company_have_the_logits_of_one_alone(engine: &impl Engine) {
    let models: Vec<_> = all_shapes()
        .into_iter()
        .map(|config| {
            let decoder = odd_decoder(config);
            let weights = engine.prepare(&decoder, Precision::F32).unwrap();
            let text = text(150, decoder.config.vocabulary);
            let expected = alone(engine, &weights, &text);
            (weights, text, expected)
        })
        .collect();
    proptest!(ProptestConfig::with_cases(24), |(
        shape in 0..all_shapes().len(),
        filled in proptest::collection::vec(0_usize..100, 3),
        cuts in proptest::collection::vec((0_usize..3, 1_usize..60), 1..7),
    )| {
        let (weights, text, expected) = &models[shape];
        let vocabulary = weights.config().vocabulary;
        // The slots grow on the way.
        let mut slots = engine.slots(weights.config(), room(3, 40)).unwrap();
        slots.reserve(text.len());
        let contexts = filled.iter().enumerate().map(|(slot, &end)| Feed { slot, tokens: &text[..end] });
        engine.prefill(&mut slots, weights, &contexts.collect::<Vec<_>>());
        // Each cut goes with one token for every other slot.
        for (first, tokens) in cuts {
            let ends: Vec<(usize, usize)> = [first, (first + 1) % 3, (first + 2) % 3]
                .into_iter()
                .enumerate()
                .map(|(place, slot)| (slot, (slots.len(slot) + if place == 0 { tokens } else { 1 }).min(150)))
                .filter(|(slot, end)| *end > slots.len(*slot))
                .collect();
            let feeds: Vec<Feed<'_>> =
                ends.iter().map(|&(slot, end)| Feed { slot, tokens: &text[slots.len(slot)..end] }).collect();
            let logits = engine.logits(&mut slots, weights, &feeds).to_vec();
            for (&(slot, end), logits) in ends.iter().zip(logits.chunks(vocabulary)) {
                assert_close(logits, &expected[end - 1], 1e-4, &format!("slot {slot} at {end}"));
                prop_assert_eq!(slots.len(slot), end);
            }
        }
        (0..3).for_each(|slot| slots.release(slot));
        prop_assert!(slots.is_empty());
    });
}

fn a_context_filled_again_is_as_if_it_were_new(engine: &impl Engine) {
    let decoder = odd_decoder(wide(&families::qwen::QWEN3));
    let newer = Decoder::random(decoder.config.clone(), 6, &engine.device());
    let [old, new] = [&decoder, &newer].map(|decoder| engine.prepare(decoder, Precision::F32).unwrap());
    let text = text(140, decoder.config.vocabulary);
    let expected = alone(engine, &new, &text);
    let mut slots = engine.slots(&decoder.config, room(2, 140)).unwrap();
    let before = slots.prefilled();
    engine.prefill(&mut slots, &old, &[0, 1].map(|slot| Feed { slot, tokens: &text[..130] }));
    let part = Feed { slot: 0, tokens: &text[..100] };
    engine.prefill(&mut slots, &new, &[part, Feed { slot: 1, tokens: &[] }]);
    assert_eq!((slots.len(0), slots.len(1)), (100, 0));
    let count = slots.prefilled();
    let counted = count.computed + count.shared - before.computed - before.shared;
    assert_eq!(counted, 130 + 130 + 100, "{count:?}");
    assert!(engine.capabilities().shares_caches || count.shared == 0, "{count:?}");
    let found = engine.logits(&mut slots, &new, &[Feed { slot: 0, tokens: &text[100..101] }]);
    assert_close(found, &expected[100], 1e-4, "after the newer weights");
}

fn request(slot: usize, tokens: &[u32], random_key: u64, index: u64) -> DrawRequest<'_> {
    DrawRequest { feed: Feed { slot, tokens }, random_key, index, excluded: &[], given_end: None }
}

/// Randomness is a function of key and index: which slot draws, beside whom, and whether the context was filled or
/// stepped changes no token.
fn the_same_keys_draw_the_same_tokens_in_any_slot_and_company(engine: &impl Engine) {
    let decoder = odd_decoder(wide(&families::llama::LLAMA));
    let weights = engine.prepare(&decoder, Precision::F32).unwrap();
    let prompts: Vec<Vec<u32>> = (0..3).map(|from| text(20 + from, decoder.config.vocabulary)).collect();
    let sampling = SamplingConfig { temperature: 0.9, top_p: 0.95, top_k: 20 };
    let draw_in = |places: [usize; 3], members: &[usize]| {
        let mut slots = engine.slots(&decoder.config, room(3, 64)).unwrap();
        let contexts = members.iter().map(|&member| {
            let prompt = &prompts[member];
            Feed { slot: places[member], tokens: &prompt[..prompt.len() - 1] }
        });
        engine.prefill(&mut slots, &weights, &contexts.collect::<Vec<_>>());
        let mut outputs: Vec<Vec<u32>> =
            prompts.iter().map(|prompt| prompt[prompt.len() - 1..].to_vec()).collect();
        let mut logprobs = vec![Vec::new(); 3];
        for index in 0..30 {
            let requests: Vec<_> = members
                .iter()
                .map(|&member| {
                    let last = &outputs[member][outputs[member].len() - 1..];
                    request(places[member], last, 40 + member as u64, index)
                })
                .collect();
            let draws = engine.decode(&mut slots, &weights, &requests, &sampling);
            for (&member, draw) in members.iter().zip(draws) {
                outputs[member].push(draw.id);
                logprobs[member].push(draw.logprob);
            }
        }
        (outputs, logprobs)
    };
    let (outputs, logprobs) = draw_in([0, 1, 2], &[0, 1, 2]);
    assert!(outputs[0][1..] != outputs[1][1..], "the contexts and keys differ");
    for (places, members) in
        [([2, 0, 1], &[1, 0, 2][..]), ([1, 1, 1], &[0]), ([0, 2, 0], &[1]), ([0, 0, 1], &[2])]
    {
        let (again, again_logprobs) = draw_in(places, members);
        for &member in members {
            assert_eq!(again[member], outputs[member], "member {member} in {places:?}");
            assert_close(&again_logprobs[member], &logprobs[member], 1e-5, "log-probs");
        }
    }
}

fn draws_follow_from_logits_and_keys(engine: &impl Engine) {
    let decoder = odd_decoder(wide(&families::qwen::QWEN2));
    let weights = engine.prepare(&decoder, Precision::F32).unwrap();
    let (text, vocabulary) = (text(40, decoder.config.vocabulary), decoder.config.vocabulary);
    let sampling = SamplingConfig::at_temperature(1.3);
    let [mut slots, mut plain] = [0, 1].map(|_| engine.slots(&decoder.config, room(1, 64)).unwrap());
    for (index, token) in text.chunks(1).enumerate() {
        let logits = engine.logits(&mut plain, &weights, &[Feed { slot: 0, tokens: token }]);
        assert_eq!(logits.len(), vocabulary);
        let (id, logprob) = draw(logits, &sampling, uniform(7, index as u64));
        let found = engine.decode(&mut slots, &weights, &[request(0, token, 7, index as u64)], &sampling);
        assert_eq!((found[0].id, found[0].logprob), (id, logprob), "token {index}");
    }
    // A token that may not be drawn is not, and has its part of the distribution all the same.
    let whole = request(0, &text, 7, 3);
    let mut draw_of = |request| {
        slots.release(0);
        engine.decode(&mut slots, &weights, &[request], &sampling)[0]
    };
    let first = draw_of(whole);
    let other = draw_of(DrawRequest { excluded: &[first.id], ..whole });
    assert_ne!(other.id, first.id);
    plain.release(0);
    let logits = engine.logits(&mut plain, &weights, &[Feed { slot: 0, tokens: &text }]);
    let expected = logprob_and_entropy(logits, 1.3, other.id).0;
    assert!((other.logprob - expected).abs() < 1e-4, "{} is not {expected}", other.logprob);
    assert!(engine.decode(&mut slots, &weights, &[], &sampling).is_empty());
}

/// Mean and largest error of the log-probabilities of cached decode at a precision.
fn errors<E: Engine>(engine: &E, decoder: &Decoder, precision: Precision) -> (f32, f32) {
    let text = text(90, decoder.config.vocabulary);
    let expected = training_logprobs(engine, decoder, &text);
    let weights = engine.prepare(decoder, precision).unwrap();
    let mut slots = engine.slots(&decoder.config, room(1, text.len())).unwrap();
    let (mut sum, mut largest) = (0.0_f32, 0.0_f32);
    for (at, pair) in text.windows(2).enumerate() {
        let logits = engine.logits(&mut slots, &weights, &[Feed { slot: 0, tokens: &pair[..1] }]);
        let error = (logprob_and_entropy(logits, 1.0, pair[1]).0 - expected[at]).abs();
        (sum, largest) = (sum + error, largest.max(error));
    }
    (sum / (text.len() - 1) as f32, largest)
}

/// What a run with `rollout.precision` has to expect, for distributions that are far from flat: in f32 the arithmetic
/// alone, in bf16 and i8 the rounding of every matrix.
fn rounded_weights_move_logprobs_within_stated_bounds(engine: &impl Engine) {
    let mut shapes = odd_shapes();
    // In the place of the form with biases, which are 0 in a random model: the quickstart's, with weights as large as there.
    shapes[4] = DecoderConfig {
        hidden: 128,
        layers: 4,
        heads: 4,
        kv_heads: 4,
        head_width: 32,
        intermediate: 512,
        initializer_range: 0.1,
        ..DecoderConfig::small(&families::llama::LLAMA)
    };
    let bounds = [(Precision::F32, 1e-5, 1e-4), (Precision::Bf16, 0.04, 0.2), (Precision::I8, 0.15, 1.0)];
    for (precision, mean_max, largest_max) in bounds {
        if !engine.capabilities().weights.contains(&precision) {
            continue;
        }
        let found = shapes.clone().into_iter().map(|config| {
            let decoder = Decoder::random(config, 3, &engine.device());
            errors(engine, &decoder, precision)
        });
        let found: Vec<(f32, f32)> = found.collect();
        let is_within = |(mean, largest): &(f32, f32)| *mean < mean_max && *largest < largest_max;
        assert!(found.iter().all(is_within), "{precision:?}: {found:?}");
        let rounds = found.iter().all(|(mean, _)| *mean > 1e-5);
        assert_eq!(rounds, precision != Precision::F32, "{precision:?}: {found:?}");
    }
}

/// What a resumed run reads: the same numbers as before in f32, the same rounded ones in less.
fn prepared_weights_are_written_as_they_are_rounded(engine: &impl Engine) {
    let shapes = [
        DecoderConfig::small(&families::qwen::QWEN2),
        DecoderConfig { tied: false, heads: 3, kv_heads: 1, ..DecoderConfig::small(&families::qwen::QWEN3) },
        DecoderConfig::small(&families::llama::LLAMA).with_biases(true, true),
    ];
    let shapes: Vec<DecoderConfig> = shapes.into_iter().chain(expert_shapes()).collect();
    let precisions = engine.capabilities().weights;
    for (config, &precision) in
        shapes.iter().flat_map(|config| precisions.iter().map(move |precision| (config, precision)))
    {
        let decoder = Decoder::random(config.clone(), 3, &engine.device());
        let weights = engine.prepare(&decoder, precision).unwrap();
        let dir = tempfile::tempdir().unwrap();
        weights.save(dir.path()).unwrap();
        let read = Decoder::load(dir.path(), &engine.device()).unwrap();
        let values = |decoder: &Decoder| -> Vec<Vec<f32>> {
            decoder.weights.tensors().named().into_iter().map(|(_, value)| numbers(value.clone())).collect()
        };
        assert_eq!(values(&read) == values(&decoder), precision == Precision::F32, "{precision:?}");
        let again = engine.prepare(&read, precision).unwrap();
        let loaded = engine.load(dir.path(), config, precision).unwrap();
        let logits = [&weights, &again, &loaded].map(|weights| {
            let mut slots = engine.slots(config, room(1, 64)).unwrap();
            engine.logits(&mut slots, weights, &[Feed { slot: 0, tokens: &[3, 1, 4, 1, 5] }]).to_vec()
        });
        assert_eq!(logits[0], logits[1], "{precision:?}");
        assert_eq!(logits[0], logits[2], "{precision:?}, read for decoding alone");
    }
}

fn what_an_engine_cannot_do_is_an_error(engine: &impl Engine) {
    let decoder = Decoder::random(DecoderConfig::small(&families::llama::LLAMA), 3, &engine.device());
    let can = engine.capabilities();
    for precision in [Precision::F32, Precision::Bf16, Precision::I8] {
        let prepared = engine.prepare(&decoder, precision);
        assert_eq!(prepared.is_ok(), can.weights.contains(&precision), "{precision:?}");
        if let Err(error) = prepared {
            assert!(error.to_string().contains(&format!("weights in {precision:?}")), "{error}");
        }
    }
    for precision in [CachePrecision::F32, CachePrecision::Bf16] {
        let made = engine.slots(&decoder.config, CacheRoom { precision, ..room(1, 8) }).map(drop);
        assert_eq!(made.is_ok(), can.caches.contains(&precision), "{precision:?}");
        if let Err(error) = made {
            assert!(error.to_string().contains(&format!("keys and values in {precision:?}")), "{error}");
        }
    }
}

#[test]
fn the_cpu_decodes_what_a_device_decodes() {
    let (cpu, device) = (Cpu::default(), OnDevice::new(Device::flex()));
    for config in all_shapes() {
        let decoder = odd_decoder(config);
        let packed = cpu.prepare(&decoder, Precision::F32).unwrap();
        let plain = device.prepare(&decoder, Precision::F32).unwrap();
        let text = text(140, decoder.config.vocabulary);
        let mut slots = cpu.slots(&decoder.config, room(2, 140)).unwrap();
        let mut device_slots = device.slots(&decoder.config, room(2, 140)).unwrap();
        for (slot, range) in [(0, 0..5), (1, 0..100), (0, 5..6), (1, 100..140), (0, 6..80), (0, 80..81)] {
            let feed = [Feed { slot, tokens: &text[range] }];
            let found = cpu.logits(&mut slots, &packed, &feed);
            let expected = device.logits(&mut device_slots, &plain, &feed);
            assert_close(found, expected, 1e-4, &format!("{:?}", decoder.config));
        }
    }
}
