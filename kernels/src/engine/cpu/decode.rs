//! Decoding on the CPU by hand: packed weights, a cache in blocks, one pass over each weight a step.
//!
//! What a token's logits, keys and values are does not depend on what else is in the batch, on how a context
//! was cut into calls, or on threads, to the last bit: every number is one sum in one order. A run that is
//! resumed fills its caches again and must then draw what it would have drawn.

mod adapters;
mod attention;
pub(crate) mod cache;
pub(crate) mod packed;
mod pass;
mod prefill;
mod team;

use std::sync::RwLock;

use rayon::prelude::*;

use crate::engine::{Feed, Prefilled};
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

/// Contexts of one model shape and what is computed with them.
pub struct CpuSlots {
    contexts: Vec<Context>,
    blocks: Blocks,
    /// One for each of the model's sets of frequencies.
    angles: Vec<AngleTable>,
    workspaces: Vec<Workspace>,
    /// Of the last step, in memory that serves the next: new memory comes page by page while a step waits for it.
    logits: Vec<f32>,
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
            logits: Vec::new(),
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
    pub(crate) fn prefill(&mut self, model: &PackedDecoder, inputs: &[Feed<'_>]) {
        let mut named = vec![false; self.contexts.len()];
        for Feed { slot, .. } in inputs {
            assert!(!std::mem::replace(&mut named[*slot], true), "slot {slot} is filled twice");
            self.release(*slot);
        }
        let mut left: Vec<Filling<'_>> = Vec::with_capacity(inputs.len());
        for &Feed { slot, tokens } in inputs {
            let context = &mut self.contexts[slot];
            self.blocks.take_over_known(context, tokens, model.number());
            left.push(Filling { slot, tokens, has: context.len() });
        }
        let (tokens, mut computed) = (inputs.iter().map(|input| input.tokens.len()).sum::<usize>(), 0);
        left.retain(|context| context.has < context.tokens.len());
        while !left.is_empty() {
            let round = Round::next(&left);
            let spans = round.computed.iter().map(|&(place, until)| (left[place], until));
            let inputs: Vec<Feed<'_>> = spans
                .map(|(context, until)| Feed {
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
    pub(crate) fn extend(&mut self, model: &PackedDecoder, inputs: &[Feed<'_>], wanted: bool) -> &[f32] {
        self.extend_shared(model, inputs, wanted, Sharing::of(model, inputs))
    }

    fn extend_shared(
        &mut self,
        model: &PackedDecoder,
        inputs: &[Feed<'_>],
        wanted: bool,
        sharing: Sharing,
    ) -> &[f32] {
        let vocabulary = model.config.vocabulary;
        if inputs.is_empty() {
            return &[];
        }
        let numbers = if wanted { inputs.len() * vocabulary } else { 0 };
        let mut logits = std::mem::take(&mut self.logits);
        logits.resize(logits.len().max(numbers), 0.0);
        let mut rest = logits[..numbers].chunks_exact_mut(vocabulary);
        let mut parts: Vec<ContextPart<'_>> = Vec::with_capacity(inputs.len());
        for input in inputs {
            parts.push(self.part(model, input, rest.next()));
        }
        self.run(model, &mut parts, sharing);
        for mut part in parts {
            self.blocks.commit(&mut part.context, part.tokens, model.number());
            self.contexts[part.slot] = part.context;
        }
        self.logits = logits;
        &self.logits[..numbers]
    }

    /// Takes a context out of its slot with room for the new tokens.
    fn part<'a>(
        &mut self,
        model: &PackedDecoder,
        input: &Feed<'a>,
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
    fn of(model: &PackedDecoder, inputs: &[Feed<'_>]) -> Self {
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
mod tests;
