//! Packing: from the units of an optimizer step to micro-batches under a budget of tokens, which are as few as first
//! fit makes them and take about the same time. A unit stays whole. Sequences lie one after the other without padding;
//! those of one prompt can have it in common, so that it goes through the model once and not once for each member of a
//! group. A micro-batch knows which entries of its token statistics belong to trained tokens and hands out no others,
//! so a prompt token or another given one cannot enter the loss.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use kernels::{DecoderConfig, Packed, Slopes, TokenStats};

use crate::loss::TokenLoss;
use crate::unit::{Unit, UnitSequence};

/// Where a completion lies in its micro-batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedCompletion {
    /// The number of its unit among those of the step.
    pub unit: usize,
    /// Its place in the unit.
    pub place: usize,
    /// The entries of [`TokenStats`] that belong to its trained tokens, one each and in order, sequence by sequence.
    /// Entry k of a sequence belongs to its token k + 1, so they begin one before the first such token.
    entries: Vec<Range<usize>>,
}

impl PackedCompletion {
    /// The log-probabilities of the trained tokens.
    #[must_use]
    pub fn logprobs<'s>(&self, stats: &'s TokenStats) -> Cow<'s, [f32]> {
        self.own(&stats.logprobs)
    }

    /// The entropies of the distributions that the trained tokens are drawn from.
    #[must_use]
    pub fn entropies<'s>(&self, stats: &'s TokenStats) -> Cow<'s, [f32]> {
        self.own(&stats.entropies)
    }

    fn own<'s>(&self, numbers: &'s [f32]) -> Cow<'s, [f32]> {
        match &self.entries[..] {
            [entries] => Cow::Borrowed(&numbers[entries.clone()]),
            ranges => ranges.iter().flat_map(|entries| &numbers[entries.clone()]).copied().collect(),
        }
    }

    fn places(&self) -> impl Iterator<Item = usize> + '_ {
        self.entries.iter().flat_map(Clone::clone)
    }
}

/// Units that go through the decoder together.
#[derive(Clone, Debug)]
pub struct MicroBatch {
    /// Their tokens.
    pub packed: Packed,
    /// Where each completion lies.
    pub completions: Vec<PackedCompletion>,
    /// Tokens of whole sequences, each with its prompt.
    pub tokens: usize,
}

impl MicroBatch {
    /// Tokens of prompts that are not computed again for a sequence.
    #[must_use]
    pub fn prompt_tokens_shared(&self) -> usize {
        self.tokens - self.packed.ids.len()
    }

    /// Where the completions of each unit lie, in their order; units are in the order in which their first completion
    /// lies.
    #[must_use]
    pub fn units(&self) -> Vec<Vec<&PackedCompletion>> {
        let mut place_of: HashMap<usize, usize> = HashMap::new();
        let mut units: Vec<Vec<&PackedCompletion>> = Vec::new();
        for laid in &self.completions {
            let place = *place_of.entry(laid.unit).or_insert(units.len());
            if place == units.len() {
                units.push(Vec::new());
            }
            units[place].push(laid);
        }
        units.iter_mut().for_each(|unit| unit.sort_by_key(|laid| laid.place));
        units
    }

    /// The derivatives of the step's loss by every entry: those of the tokens that `losses` gives for each unit, times
    /// `share`, and 0 for every other entry.
    pub fn slopes(
        &self,
        share: f64,
        mut losses: impl FnMut(&[&PackedCompletion]) -> Vec<TokenLoss>,
    ) -> Slopes {
        let entries = self.packed.ids.len();
        let mut slopes = Slopes::of_logprobs(vec![0.0; entries]);
        for unit in self.units() {
            let tokens = losses(&unit);
            let places: Vec<usize> = unit.iter().flat_map(|laid| laid.places()).collect();
            assert_eq!(tokens.len(), places.len(), "a loss for each trained token of the unit");
            if tokens.iter().any(|token| token.dloss_dentropy != 0.0) {
                slopes.entropy.resize(entries, 0.0);
            }
            for (place, token) in places.into_iter().zip(tokens) {
                slopes.logprob[place] = (token.dloss_dlogprob * share) as f32;
                if let Some(slope) = slopes.entropy.get_mut(place) {
                    *slope = (token.dloss_dentropy * share) as f32;
                }
            }
        }
        slopes
    }
}

/// What a sequence of some length costs, in multiply-adds of a step: products with the weights grow with its
/// tokens, attention with their square, and packed sequences do not see each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SequenceCost {
    /// Of one token.
    pub token: f64,
    /// Of one token that sees another one.
    pub pair: f64,
}

impl SequenceCost {
    /// For one step of this decoder by StreamBP. A weight is multiplied by each token forward, forward again in
    /// the backward pass, and twice for the gradients. Attention's two products become five in its backward pass.
    #[must_use]
    pub fn new(config: &DecoderConfig) -> Self {
        let weights = config.vocabulary * config.hidden + config.layer_numbers_a_token();
        let query = config.heads * config.head_width;
        Self { token: 4.0 * weights as f64, pair: 7.0 * (config.layers * query) as f64 }
    }

    /// Of a sequence of so many tokens.
    #[must_use]
    pub fn of(&self, tokens: usize) -> f64 {
        let tokens = tokens as f64;
        // A token sees itself and those before it.
        self.token * tokens + self.pair * tokens * (tokens + 1.0) / 2.0
    }
}

/// How a step may be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackingLimits {
    /// Tokens, prompts included, of one micro-batch. A longer unit is a micro-batch of its own.
    pub tokens_max: usize,
    /// Whether the sequences of a micro-batch whose prompts are equal have them in common, but for the last token: what
    /// follows it differs, and so it is a row of each. What all prompts of the micro-batch begin with they have in common too.
    pub share_prompts: bool,
}

/// Tokens that the prompts of a micro-batch begin with, below which they are not laid apart: a chat template's first marks
/// alone save less than a further sequence takes.
const COMMON_TOKENS_MIN: usize = 8;

/// Packs the units of a step into micro-batches. There are as many as first fit makes, longest first, and the costliest
/// costs at most as much as there. The same units always lie in the same way.
#[must_use]
pub fn micro_batches(units: &[Unit<'_>], limits: PackingLimits, cost: &SequenceCost) -> Vec<MicroBatch> {
    let sizes: Vec<Size> = units.iter().map(|unit| Size::of(unit, cost)).collect();
    let bins = pack(&sizes, limits.tokens_max);
    bins.into_iter().map(|members| lay(units, &members, limits.share_prompts)).collect()
}

/// Which sequence of which completion: its unit's number, its place in the unit, and the sequence's place in it.
#[derive(Clone, Copy)]
struct Place {
    unit: usize,
    place: usize,
    sequence: usize,
}

/// A sequence in the micro-batch, with the entries of its trained tokens.
struct LaidSequence {
    at: Place,
    entries: Vec<Range<usize>>,
}

fn places_of(units: &[Unit<'_>], members: &[usize]) -> Vec<Place> {
    let mut places = Vec::new();
    for &unit in members {
        for (place, completion) in units[unit].completions.iter().enumerate() {
            places.extend((0..completion.sequences.len()).map(|sequence| Place { unit, place, sequence }));
        }
    }
    places
}

/// Lays sequences one after the other; those that share a prompt follow it.
fn lay(units: &[Unit<'_>], members: &[usize], share_prompts: bool) -> MicroBatch {
    let mut batch = MicroBatch { packed: Packed::empty(), completions: Vec::new(), tokens: 0 };
    let places = places_of(units, members);
    let sequence = |at: Place| &units[at.unit].completions[at.place].sequences[at.sequence];
    let mut of_prompt: HashMap<&[u32], Vec<Place>> = HashMap::new();
    for &at in &places {
        of_prompt.entry(sequence(at).prompt).or_default().push(at);
    }
    let common: Vec<u32> =
        if share_prompts { common_prefix(of_prompt.keys().copied()).to_vec() } else { Vec::new() };
    let begins = (!common.is_empty()).then(|| batch.packed.push(&common, None));
    let mut laid = Vec::new();
    for &first in &places {
        // All sequences of a prompt are laid when the first of them is met.
        let Some(members) = of_prompt.remove(sequence(first).prompt) else { continue };
        let (last, before) = sequence(first).prompt.split_last().expect("a prompt has at least one token");
        let before = &before[common.len()..];
        let shares = share_prompts && members.len() > 1 && !before.is_empty();
        let prefix = if shares { Some(batch.packed.push(before, begins)) } else { begins };
        for at in members {
            let own_prompt = if shares { &[] } else { before };
            let start = batch.packed.ids.len() + own_prompt.len();
            let ids = own_prompt.iter().chain([last]).copied().chain(sequence(at).tokens.ids());
            batch.packed.push_tokens(ids, prefix);
            let trained = sequence(at).trained().into_iter();
            let entries = trained.map(|range| start + range.start..start + range.end).collect();
            laid.push(LaidSequence { at, entries });
            batch.tokens += sequence(at).len();
        }
    }
    batch.completions = completions_of(laid);
    batch
}

/// What several prompts all begin with, without the last token of any; nothing where there is one prompt, or where it is
/// too little.
fn common_prefix<'p>(prompts: impl Iterator<Item = &'p [u32]>) -> &'p [u32] {
    let mut common: &[u32] = &[];
    let mut count = 0;
    for prompt in prompts {
        let before = &prompt[..prompt.len() - 1];
        let same = common.iter().zip(before).take_while(|(one, other)| one == other).count();
        common = if count == 0 { before } else { &common[..same] };
        count += 1;
    }
    if count > 1 && common.len() >= COMMON_TOKENS_MIN { common } else { &[] }
}

/// The completions that these are the sequences of, in the order in which their first ones lie.
fn completions_of(laid: Vec<LaidSequence>) -> Vec<PackedCompletion> {
    let mut number_of: HashMap<[usize; 2], usize> = HashMap::new();
    let mut completions: Vec<Vec<LaidSequence>> = Vec::new();
    for sequence in laid {
        let number = *number_of.entry([sequence.at.unit, sequence.at.place]).or_insert(completions.len());
        if number == completions.len() {
            completions.push(Vec::new());
        }
        completions[number].push(sequence);
    }
    let joined = |mut sequences: Vec<LaidSequence>| {
        sequences.sort_by_key(|sequence| sequence.at.sequence);
        let Place { unit, place, .. } = sequences[0].at;
        let entries = sequences.into_iter().flat_map(|sequence| sequence.entries).collect();
        PackedCompletion { unit, place, entries }
    };
    completions.into_iter().map(joined).collect()
}

/// What a unit takes of a micro-batch.
#[derive(Clone, Copy, Default)]
struct Size {
    tokens: usize,
    cost: f64,
}

impl Size {
    fn of(unit: &Unit<'_>, cost: &SequenceCost) -> Self {
        let sequences = || unit.completions.iter().flat_map(|completion| &completion.sequences);
        let lengths = || sequences().map(UnitSequence::len);
        Self { tokens: lengths().sum(), cost: lengths().map(|tokens| cost.of(tokens)).sum() }
    }
}

/// A unit's number and its size.
#[derive(Clone, Copy)]
struct Item {
    number: usize,
    size: Size,
}

/// Units that lie together.
#[derive(Default)]
struct Bin {
    size: Size,
    members: Vec<usize>,
}

impl Bin {
    fn has_room(&self, tokens: usize, bin_max: usize) -> bool {
        self.members.is_empty() || self.size.tokens + tokens <= bin_max
    }

    fn add(&mut self, item: Item) {
        self.size.tokens += item.size.tokens;
        self.size.cost += item.size.cost;
        self.members.push(item.number);
    }
}

/// Balanced bins, or those of first fit where balancing leaves an item over or makes the costliest bin costlier.
fn pack(sizes: &[Size], bin_max: usize) -> Vec<Vec<usize>> {
    let mut items: Vec<Item> =
        sizes.iter().enumerate().map(|(number, size)| Item { number, size: *size }).collect();
    items.sort_by_key(|item| (std::cmp::Reverse(item.size.tokens), item.number));
    let fitted = first_fit(&items, bin_max);
    let costliest = |bins: &[Bin]| bins.iter().fold(0.0, |most: f64, bin| most.max(bin.size.cost));
    let balanced = balance(&items, bin_max, fitted.len());
    let bins = balanced.filter(|bins| costliest(bins) <= costliest(&fitted)).unwrap_or(fitted);
    bins.into_iter().map(|bin| bin.members).collect()
}

/// Each item goes to the first bin with room for it.
fn first_fit(items: &[Item], bin_max: usize) -> Vec<Bin> {
    let mut bins: Vec<Bin> = Vec::new();
    for &item in items {
        match bins.iter_mut().find(|bin| bin.has_room(item.size.tokens, bin_max)) {
            Some(bin) => bin.add(item),
            None => {
                let mut bin = Bin::default();
                bin.add(item);
                bins.push(bin);
            }
        }
    }
    bins
}

/// Each item goes to the cheapest of so many bins that has room for it (Graham's rule, 1969, with a limit);
/// `None` where there is no such bin.
fn balance(items: &[Item], bin_max: usize, count: usize) -> Option<Vec<Bin>> {
    let mut bins: Vec<Bin> = (0..count).map(|_| Bin::default()).collect();
    for &item in items {
        let with_room = bins.iter_mut().filter(|bin| bin.has_room(item.size.tokens, bin_max));
        with_room.min_by(|a, b| a.size.cost.total_cmp(&b.size.cost))?.add(item);
    }
    Some(bins)
}

#[cfg(test)]
mod tests;
