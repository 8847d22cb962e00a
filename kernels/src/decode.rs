//! Decoding on the CPU by hand: packed weights, a cache in blocks, one pass over each weight a step.
//!
//! What a token's logits, keys and values are does not depend on what else is in the batch, on how a context
//! was cut into calls, or on threads, to the last bit: every number is one sum in one order. A run that is
//! resumed fills its caches again and must then draw what it would have drawn.

mod attention;
pub(crate) mod cache;
pub(crate) mod packed;
mod pass;
mod prefill;
mod team;

use std::sync::RwLock;

use rayon::prelude::*;

use crate::model::config::DecoderConfig;
use crate::rope::Rope;
use cache::{Blocks, CachePrecision, Context};
use packed::PackedDecoder;
use pass::{ContextPart, DecodePass, Lead, PassState, Workspace};
use prefill::{Filling, Round};
use team::Team;

/// Tokens that one pass takes through the layers: enough that products are bound by arithmetic, few enough
/// that the activations of a pass stay in cache.
pub(crate) const PASS_TOKENS_MAX: usize = 384;
/// A model whose packed weights are smaller stays in the cores' caches, so that each thread takes some of the
/// contexts through all layers and waits for no other.
pub(crate) const CACHED_BYTES_MAX: usize = 16 << 20;
/// Multiplications below which handing half of them to another thread takes longer than they do.
const SHARED_WORK_MIN: usize = 1 << 20;

/// Tokens of contexts that were filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefilled {
    /// Tokens that went through the layers.
    pub computed: u64,
    /// Tokens whose keys and values were taken over from a context that had them.
    pub shared: u64,
}

/// New tokens of one context.
pub(crate) struct Input<'a> {
    pub(crate) slot: usize,
    pub(crate) tokens: &'a [u32],
}

/// Contexts of one model shape and what is computed with them.
pub(crate) struct CpuSlots {
    contexts: Vec<Context>,
    blocks: Blocks,
    /// One for each of the model's sets of frequencies.
    angles: Vec<AngleTable>,
    workspaces: Vec<Workspace>,
    positions_max: usize,
    prefilled: Prefilled,
}

impl CpuSlots {
    pub(crate) fn new(
        config: &DecoderConfig,
        slots: usize,
        positions_max: usize,
        precision: CachePrecision,
    ) -> Self {
        let ropes = config.spec.ropes();
        Self {
            contexts: (0..slots).map(|_| Context::default()).collect(),
            blocks: Blocks::new(config, precision),
            angles: ropes.into_iter().map(|rope| AngleTable::new(rope, config.head_width)).collect(),
            workspaces: Vec::new(),
            positions_max,
            prefilled: Prefilled::default(),
        }
    }

    pub(crate) fn prefilled(&self) -> Prefilled {
        self.prefilled
    }

    pub(crate) fn reserve(&mut self, positions: usize) {
        self.positions_max = self.positions_max.max(positions);
    }

    pub(crate) fn len(&self, slot: usize) -> usize {
        self.contexts[slot].len()
    }

    pub(crate) fn slots(&self) -> usize {
        self.contexts.len()
    }

    pub(crate) fn release(&mut self, slot: usize) {
        self.blocks.take_back(&mut self.contexts[slot]);
    }

    /// Forgets what the slots held and fills them with these contexts. What live contexts have of them in full
    /// blocks, and what they have in common, is not computed again.
    ///
    /// # Panics
    /// As [`CpuSlots::extend`].
    pub(crate) fn prefill(&mut self, model: &PackedDecoder, inputs: &[Input<'_>]) {
        let mut named = vec![false; self.contexts.len()];
        for Input { slot, .. } in inputs {
            assert!(!std::mem::replace(&mut named[*slot], true), "slot {slot} is filled twice");
            self.release(*slot);
        }
        let mut left: Vec<Filling<'_>> = Vec::with_capacity(inputs.len());
        for &Input { slot, tokens } in inputs {
            let context = &mut self.contexts[slot];
            self.blocks.take_over_known(context, tokens, model.number());
            left.push(Filling { slot, tokens, has: context.len() });
        }
        let (tokens, mut computed) = (inputs.iter().map(|input| input.tokens.len()).sum::<usize>(), 0);
        left.retain(|context| context.has < context.tokens.len());
        while !left.is_empty() {
            let round = Round::next(&left);
            let spans = round.computed.iter().map(|&(place, until)| (left[place], until));
            let inputs: Vec<Input<'_>> = spans
                .map(|(context, until)| Input {
                    slot: context.slot,
                    tokens: &context.tokens[context.has..until],
                })
                .filter(|input| !input.tokens.is_empty())
                .collect();
            self.extend(model, &inputs, false);
            computed += inputs.iter().map(|input| input.tokens.len()).sum::<usize>();
            for (place, from, until) in round.taken_over {
                let (to, tokens) = (left[place].slot, &left[place].tokens[..until]);
                let mut context = std::mem::take(&mut self.contexts[to]);
                self.blocks.take_over(&mut context, &self.contexts[left[from].slot], tokens);
                self.contexts[to] = context;
            }
            left.iter_mut().for_each(|context| context.has = self.contexts[context.slot].len());
            left.retain(|context| context.has < context.tokens.len());
        }
        self.prefilled.computed += computed as u64;
        self.prefilled.shared += (tokens - computed) as u64;
    }

    /// Adds the inputs' tokens to their contexts; with `wanted`, returns the logits after each one's last token,
    /// `[inputs, vocabulary]`, and nothing without.
    ///
    /// # Panics
    /// If a slot is named twice, an input has no token, a context becomes longer than `positions_max`, or a token
    /// is outside the vocabulary.
    pub(crate) fn extend(&mut self, model: &PackedDecoder, inputs: &[Input<'_>], wanted: bool) -> Vec<f32> {
        self.extend_shared(model, inputs, wanted, Sharing::of(model, inputs))
    }

    fn extend_shared(
        &mut self,
        model: &PackedDecoder,
        inputs: &[Input<'_>],
        wanted: bool,
        sharing: Sharing,
    ) -> Vec<f32> {
        let vocabulary = model.config.vocabulary;
        if inputs.is_empty() {
            return Vec::new();
        }
        let mut logits = vec![0.0; if wanted { inputs.len() * vocabulary } else { 0 }];
        let mut rest = logits.chunks_exact_mut(vocabulary);
        let mut parts: Vec<ContextPart<'_>> = Vec::with_capacity(inputs.len());
        for input in inputs {
            parts.push(self.part(model, input, rest.next()));
        }
        self.run(model, &mut parts, sharing);
        for mut part in parts {
            self.blocks.commit(&mut part.context, part.tokens, model.number());
            self.contexts[part.slot] = part.context;
        }
        logits
    }

    /// Takes a context out of its slot with room for the new tokens.
    fn part<'a>(
        &mut self,
        model: &PackedDecoder,
        input: &Input<'a>,
        logits: Option<&'a mut [f32]>,
    ) -> ContextPart<'a> {
        let (slot, vocabulary) = (input.slot, model.config.vocabulary);
        let mut context = std::mem::replace(&mut self.contexts[slot], Context::taken());
        assert!(!context.is_taken(), "slot {slot} is fed twice");
        let end = context.len() + input.tokens.len();
        assert!(
            end <= self.positions_max && !input.tokens.is_empty(),
            "slot {slot} has {} of {} positions and is fed {}",
            context.len(),
            self.positions_max,
            input.tokens.len()
        );
        for token in input.tokens {
            assert!(
                (*token as usize) < vocabulary,
                "token {token} is outside the vocabulary of {vocabulary}"
            );
        }
        self.blocks.make_room(&mut context, end);
        self.angles.iter_mut().for_each(|table| table.reach(end));
        ContextPart { slot, tokens: input.tokens, context, logits }
    }

    fn run(&mut self, model: &PackedDecoder, parts: &mut [ContextPart<'_>], sharing: Sharing) {
        let threads = if sharing == Sharing::Alone { 1 } else { rayon::current_num_threads() };
        self.workspaces.resize_with(self.workspaces.len().max(threads), Workspace::default);
        let pass = |threads| DecodePass {
            model,
            shape: self.blocks.shape(),
            angles: self.angles.iter().map(|table| (&table.cos[..], &table.sin[..])).collect(),
            threads,
        };
        let alone = |parts: &mut [ContextPart<'_>], workspace: &mut Workspace| {
            let state = RwLock::new(PassState::new(parts, workspace));
            Lead { pass: &pass(1), state: &state, team: None }.run_all(PASS_TOKENS_MAX);
        };
        match sharing {
            Sharing::Alone => alone(parts, &mut self.workspaces[0]),
            // From outside of the pool every product would wake a thread and wait for it; inside it is handed on.
            Sharing::Contexts => rayon::scope(|_| {
                let share = parts.len().div_ceil(threads);
                let shares = parts.par_chunks_mut(share).zip(self.workspaces.par_iter_mut());
                shares.for_each(|(parts, workspace)| alone(parts, workspace));
            }),
            Sharing::Columns => {
                let (pass, team) = (pass(threads), Team::default());
                let state = RwLock::new(PassState::new(parts, &mut self.workspaces[0]));
                rayon::scope(|scope| {
                    let team = (&team, scope);
                    Lead { pass: &pass, state: &state, team: Some(team) }.run_all(PASS_TOKENS_MAX);
                    team.0.end();
                });
            }
        }
    }
}

/// How a call is cut for threads; the results do not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// One thread does everything.
    Alone,
    /// Each thread takes some contexts through all layers.
    Contexts,
    /// Each product is cut by its columns.
    Columns,
}

impl Sharing {
    fn of(model: &PackedDecoder, inputs: &[Input<'_>]) -> Self {
        let tokens: usize = inputs.iter().map(|input| input.tokens.len()).sum();
        let work = tokens * model.numbers();
        if rayon::current_num_threads() == 1 || work < SHARED_WORK_MIN {
            Self::Alone
        } else if inputs.len() > 1 && model.bytes() <= CACHED_BYTES_MAX {
            Self::Contexts
        } else {
            Self::Columns
        }
    }
}

/// Cosines and sines of all positions so far.
struct AngleTable {
    rope: Rope,
    head_width: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl AngleTable {
    fn new(rope: &Rope, head_width: usize) -> Self {
        Self { rope: rope.clone(), head_width, cos: Vec::new(), sin: Vec::new() }
    }

    /// Makes the table reach to `positions`; it at least doubles, so that single steps cost nothing.
    fn reach(&mut self, positions: usize) {
        let before = 2 * self.cos.len() / self.head_width;
        if positions > before {
            let new: Vec<u32> = (before as u32..positions.max(2 * before).max(64) as u32).collect();
            let (cos, sin) = self.rope.table(self.head_width, &new);
            self.cos.extend(cos);
            self.sin.extend(sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

    use super::cache::{Blocks, CachePrecision};
    use super::packed::PackedDecoder;
    use super::{CpuSlots, Input, Sharing};
    use crate::gemm::Precision;
    use crate::generate::Feed;
    use crate::generate::device::DeviceSlots;
    use crate::model::families;
    use crate::test_tensors::gemma_with_a_window;
    use crate::{Decoder, DecoderConfig};

    /// Shapes that fill no vector and no panel, with every part that a family can have.
    fn shapes() -> Vec<DecoderConfig> {
        let wide = |family| DecoderConfig { initializer_range: 0.3, ..DecoderConfig::small(family) };
        vec![
            wide(&families::llama::LLAMA),
            wide(&families::qwen::QWEN2),
            wide(&families::qwen::QWEN3),
            DecoderConfig {
                heads: 6,
                head_width: 18,
                tied: false,
                vocabulary: 131,
                ..wide(&families::llama::MISTRAL)
            },
            DecoderConfig { heads: 3, kv_heads: 1, ..wide(&families::llama::LLAMA).with_biases(true, true) },
            DecoderConfig {
                hidden: 72,
                heads: 2,
                head_width: 64,
                intermediate: 200,
                ..wide(&families::qwen::QWEN3)
            },
            DecoderConfig { layers: 3, head_width: 18, ..wide(&families::gemma::GEMMA3) },
            gemma_with_a_window(70),
        ]
    }

    /// Weights of which none is what a fresh model begins with.
    fn decoder(config: DecoderConfig) -> Decoder {
        let mut decoder = Decoder::random(config, 5, &Device::flex());
        for (number, weight) in decoder.weights.values_mut().into_iter().enumerate() {
            let noise = crate::test_tensors::noise(weight.dims(), number as u64);
            *weight = weight.clone() + noise * 0.1;
        }
        decoder
    }

    fn text(length: usize, vocabulary: usize) -> Vec<u32> {
        (0..length).map(|t| ((t * 7 + t * t) % vocabulary) as u32).collect()
    }

    #[test]
    fn logits_equal_those_of_the_tensor_operations() {
        for config in shapes() {
            let decoder = decoder(config);
            let packed = PackedDecoder::new(&decoder, Precision::F32);
            let text = text(140, decoder.config.vocabulary);
            let mut slots = CpuSlots::new(&decoder.config, 2, 140, CachePrecision::F32);
            let mut plain = DeviceSlots::new(&decoder.config, 2, 140, &Device::flex());
            for (slot, range) in [(0, 0..5), (1, 0..100), (0, 5..6), (1, 100..140), (0, 6..80), (0, 80..81)] {
                let tokens = &text[range];
                let found = slots.extend(&packed, &[Input { slot, tokens }], true);
                let expected = plain.step(&decoder, &[Feed { slot, tokens }]);
                for (found, expected) in found.iter().zip(&expected) {
                    let bound = 1e-4 * expected.abs().max(1.0);
                    assert!(
                        (found - expected).abs() < bound,
                        "{:?}: {found}, not {expected}",
                        decoder.config
                    );
                }
            }
        }
    }

    /// Logits after every token of a text that is fed alone, token by token, on one thread.
    fn alone(packed: &PackedDecoder, cache: CachePrecision, text: &[u32]) -> Vec<Vec<u32>> {
        let mut slots = CpuSlots::new(&packed.config, 1, text.len(), cache);
        let step = |tokens| slots.extend_shared(packed, &[Input { slot: 0, tokens }], true, Sharing::Alone);
        text.chunks(1).map(step).map(|logits| bits(&logits)).collect()
    }

    fn bits(logits: &[f32]) -> Vec<u32> {
        logits.iter().map(|logit| logit.to_bits()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// A resumed run fills its caches by prefill and must draw what it would have drawn.
        #[test]
        fn logits_do_not_depend_on_neighbours_cuts_or_threads(
            shape in 0_usize..8,
            threads in 1_usize..4,
            columns in proptest::bool::ANY,
            precision in proptest::sample::select(&[Precision::F32, Precision::Bf16, Precision::I8][..]),
            cache in proptest::sample::select(&[CachePrecision::F32, CachePrecision::Bf16][..]),
            cuts in proptest::collection::vec((0_usize..3, 1_usize..90), 1..9),
        ) {
            let decoder = decoder(shapes().swap_remove(shape));
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
                let inputs: Vec<Input<'_>> =
                    ends.iter().map(|&(slot, end)| Input { slot, tokens: &texts[slot][fed[slot]..end] }).collect();
                let logits = pool.install(|| slots.extend_shared(&packed, &inputs, true, sharing));
                for (&(slot, end), logits) in ends.iter().zip(logits.chunks(vocabulary)) {
                    prop_assert_eq!(&bits(logits), &expected[slot][end - 1], "slot {} at {}", slot, end);
                    fed[slot] = end;
                }
            }
        }
    }

    #[test]
    fn what_an_earlier_context_left_in_a_block_is_not_seen() {
        let decoder = decoder(DecoderConfig::small(&families::llama::LLAMA));
        let packed = PackedDecoder::new(&decoder, Precision::F32);
        let text = text(70, decoder.config.vocabulary);
        let mut slots = CpuSlots::new(&decoder.config, 1, 70, CachePrecision::F32);
        slots.extend(&packed, &[Input { slot: 0, tokens: &text }], false);
        slots.release(0);
        assert_eq!(slots.len(0), 0);
        let again = slots.extend(&packed, &[Input { slot: 0, tokens: &text[3..9] }], true);
        assert_eq!(bits(&again), alone(&packed, CachePrecision::F32, &text[3..9])[5]);
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
            shape in 0_usize..8,
            threads in 1_usize..4,
            cache in proptest::sample::select(&[CachePrecision::F32, CachePrecision::Bf16][..]),
            prompts in [1_usize..150, 1..150],
            calls in proptest::collection::vec((0_usize..5, 1_usize..16, 0_usize..2, 1_usize..200), 1..12),
        ) {
            let decoder = decoder(shapes().swap_remove(shape));
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
                let inputs: Vec<Input<'_>> = named
                    .iter()
                    .map(|&slot| (slot, &texts[slot][from(&slots, slot)..]))
                    .map(|(slot, rest)| Input { slot, tokens: &rest[..rest.len().min(count + slot)] })
                    .filter(|input| !input.tokens.is_empty())
                    .collect();
                match kind {
                    0 | 1 => pool.install(|| slots.prefill(&weights[version], &inputs)),
                    2 | 3 => {
                        let logits = pool.install(|| slots.extend(&weights[version], &inputs, true));
                        for (input, logits) in inputs.iter().zip(logits.chunks(vocabulary)) {
                            let own = Input { slot: 0, tokens: input.tokens };
                            let expected = plain[input.slot].extend(&weights[version], &[own], true);
                            prop_assert_eq!(bits(logits), bits(&expected), "slot {}", input.slot);
                        }
                    }
                    _ => named.iter().for_each(|&slot| slots.release(slot)),
                }
                for input in inputs.iter().filter(|_| kind < 2) {
                    plain[input.slot].prefill(&weights[version], &[Input { slot: 0, tokens: input.tokens }]);
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
        let decoder = decoder(DecoderConfig::small(&families::llama::LLAMA));
        let [old, new] = [0, 1].map(|_| PackedDecoder::new(&decoder, Precision::F32));
        let texts = members([150, 150], decoder.config.vocabulary);
        let mut slots = CpuSlots::new(&decoder.config, 4, 400, CachePrecision::F32);
        let mut fill = |weights: &PackedDecoder, named: &[(usize, usize)]| {
            let before = slots.prefilled();
            let inputs = named.iter().map(|&(slot, end)| Input { slot, tokens: &texts[slot][..end] });
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
        let decoder = decoder(DecoderConfig::small(&families::llama::LLAMA));
        let [old, new] = [0, 1].map(|_| PackedDecoder::new(&decoder, Precision::F32));
        let text = text(200, decoder.config.vocabulary);
        let mut slots = CpuSlots::new(&decoder.config, 2, 200, CachePrecision::F32);
        slots.extend(&old, &[Input { slot: 0, tokens: &text[..70] }], false);
        slots.extend(&new, &[Input { slot: 0, tokens: &text[70..200] }], false);
        let mut shared = |weights: &PackedDecoder| {
            let before = slots.prefilled().shared;
            slots.prefill(weights, &[Input { slot: 1, tokens: &text }]);
            slots.prefilled().shared - before
        };
        // The first block is the older weights' alone; what was computed on it is nobody's.
        assert_eq!([shared(&new), shared(&old)], [0, 64]);
    }

    /// Roundings of keys and values against the computation in f64: the largest error of a log-probability.
    #[test]
    fn a_cache_in_bf16_changes_logprobs_by_its_roundings() {
        let mut worst = [0.0_f64; 2];
        for config in shapes() {
            let decoder = decoder(config);
            let text = text(140, decoder.config.vocabulary);
            let packed_text = crate::Packed::new([&text[..]]);
            let reference = crate::reference::Reference::new(&decoder, &packed_text, 1.0);
            let expected = reference.statistics(&reference.forward()).0;
            let packed = PackedDecoder::new(&decoder, Precision::F32);
            for (place, cache) in [CachePrecision::F32, CachePrecision::Bf16].into_iter().enumerate() {
                let mut slots = CpuSlots::new(&decoder.config, 1, 140, cache);
                for (at, pair) in text.windows(2).enumerate() {
                    let logits = slots.extend(&packed, &[Input { slot: 0, tokens: &pair[..1] }], true);
                    let (logprob, _) = crate::sampling::logprob_and_entropy(&logits, 1.0, pair[1]);
                    worst[place] = worst[place].max((f64::from(logprob) - expected[at]).abs());
                }
            }
        }
        assert!(worst[0] < 1e-4 && (1e-3..5e-2).contains(&worst[1]), "{worst:?}");
    }
}
