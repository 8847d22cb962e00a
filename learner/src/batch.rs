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
        let mut weights = config.vocabulary * config.hidden;
        for block in &config.shapes().blocks {
            block.for_each(&mut |_, [rows, columns]| weights += rows * columns);
        }
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
    /// follows it differs, and so it is a row of each.
    pub share_prompts: bool,
}

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
    let mut laid = Vec::new();
    for &first in &places {
        // All sequences of a prompt are laid when the first of them is met.
        let Some(members) = of_prompt.remove(sequence(first).prompt) else { continue };
        let (last, before) = sequence(first).prompt.split_last().expect("a prompt has at least one token");
        let shares = share_prompts && members.len() > 1 && !before.is_empty();
        let prefix = shares.then(|| batch.packed.push(before, None));
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::testing::decoder;
    use crate::unit::UnitCompletion;

    /// As many multiply-adds for a token as for ten pairs.
    const COST: SequenceCost = SequenceCost { token: 10.0, pair: 1.0 };

    fn limits(tokens_max: usize, share_prompts: bool) -> PackingLimits {
        PackingLimits { tokens_max, share_prompts }
    }

    /// A unit of one.
    fn one<'a>(prompt: &'a [u32], completion: &'a [u32]) -> Unit<'a> {
        Unit::of(UnitCompletion::written(prompt, completion))
    }

    /// Bins of units of one that are so long.
    fn pack_lengths(lengths: &[usize], bin_max: usize, cost: &SequenceCost) -> Vec<Vec<usize>> {
        let size = |tokens: &usize| Size { tokens: *tokens, cost: cost.of(*tokens) };
        pack(&lengths.iter().map(size).collect::<Vec<_>>(), bin_max)
    }

    #[test]
    fn a_decoder_costs_its_products() {
        let config = DecoderConfig {
            hidden: 8,
            layers: 3,
            heads: 2,
            kv_heads: 1,
            head_width: 4,
            intermediate: 16,
            vocabulary: 10,
            ..decoder(1).config
        };
        let cost = SequenceCost::new(&config);
        // Query and output, key and value, the three of the feed-forward part, and the two norms.
        let block = 2 * 8 * 8 + 2 * 4 * 8 + 3 * 8 * 16 + 2 * 8;
        assert_eq!(cost.token, 4.0 * f64::from(3 * block + 10 * 8));
        assert_eq!(cost.pair, f64::from(7 * 3 * 8));
        // Six pairs among three tokens.
        assert_eq!(COST.of(3), 36.0);
    }

    #[test]
    fn what_is_left_over_goes_to_the_cheapest_bin_with_room() {
        // First fit would put 1 and 2 together, and then 4 and 0.
        let first_fit_costs = (COST.of(5) + COST.of(3), COST.of(4) + COST.of(2));
        assert!(first_fit_costs.0 > COST.of(5) + COST.of(2));
        assert_eq!(pack_lengths(&[2, 5, 3, 9, 4], 8, &COST), [vec![3], vec![1, 0], vec![4, 2]]);
    }

    #[test]
    fn where_balancing_leaves_one_over_first_fit_stands() {
        // By cost both bins have 3 and 2, and the last 2 finds no room.
        assert_eq!(pack_lengths(&[3, 3, 2, 2, 2], 6, &COST), [vec![0, 1], vec![2, 3, 4]]);
    }

    #[test]
    fn few_short_ones_lie_beside_a_long_one() {
        let lengths: Vec<usize> = std::iter::once(400).chain(vec![50; 24]).collect();
        let bins = pack_lengths(&lengths, 1000, &COST);
        // The long one costs 84,200 and a short one 1,775. First fit would put twelve beside it.
        assert_eq!((COST.of(400), COST.of(50)), (84_200.0, 1_775.0));
        assert_eq!(bins.iter().map(Vec::len).collect::<Vec<_>>(), [5, 20]);
    }

    #[test]
    fn entry_before_a_token_is_its_own() {
        let units = [one(&[1, 2, 3], &[4, 5]), one(&[6], &[7, 8, 9])];
        let batches = micro_batches(&units, limits(100, false), &COST);
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].packed.ids, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        // Give each entry the id of the token that it belongs to, as the decoder would.
        let stats = TokenStats {
            logprobs: vec![2.0, 3.0, 4.0, 5.0, 0.0, 7.0, 8.0, 9.0, 0.0],
            entropies: vec![0.0; 9],
        };
        let seen: Vec<_> = batches[0].completions.iter().map(|laid| laid.logprobs(&stats).to_vec()).collect();
        assert_eq!(seen, [vec![4.0, 5.0], vec![7.0, 8.0, 9.0]]);
    }

    #[test]
    fn prompt_tokens_and_sequence_ends_have_no_slope() {
        let units = [one(&[1, 2, 3], &[4, 5]), one(&[6], &[7, 8])];
        let batch = &micro_batches(&units, limits(100, false), &COST)[0];
        let slope = |laid: &PackedCompletion| TokenLoss {
            dloss_dlogprob: laid.unit as f64 + 2.0,
            ..TokenLoss::default()
        };
        let slopes = batch.slopes(0.5, |unit| vec![slope(unit[0]); 2]);
        assert_eq!(slopes.logprob, [0.0, 0.0, 1.0, 1.0, 0.0, 1.5, 1.5, 0.0]);
        assert!(slopes.entropy.is_empty());
        let bonus =
            |laid: &PackedCompletion| TokenLoss { dloss_dentropy: laid.unit as f64, ..TokenLoss::default() };
        let slopes = batch.slopes(0.5, |unit| vec![bonus(unit[0]); 2]);
        assert_eq!(
            (slopes.logprob, slopes.entropy),
            (vec![0.0; 8], vec![0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.0])
        );
    }

    #[test]
    fn a_shared_prompt_lies_before_all_that_follow_it() {
        let units = [
            one(&[1, 2, 3], &[4, 5]),
            one(&[6, 7], &[8]),
            one(&[1, 2, 3], &[9, 10, 11]),
            one(&[12], &[13]),
            one(&[12], &[14]),
        ];
        let batches = micro_batches(&units, limits(100, true), &COST);
        let [batch] = &batches[..] else { panic!("{} micro-batches", batches.len()) };
        let places: Vec<usize> = batch.completions.iter().map(|laid| laid.unit).collect();
        assert_eq!(places, [2, 0, 1, 3, 4]);
        assert_eq!(batch.packed.ids, [1, 2, 3, 9, 10, 11, 3, 4, 5, 6, 7, 8, 12, 13, 12, 14]);
        assert_eq!(batch.packed.lengths, [2, 4, 3, 3, 2, 2]);
        // Where no token is left that they could have in common, they have none.
        assert_eq!(batch.packed.prefixes, [None, Some(0), Some(0), None, None, None]);
        assert_eq!((batch.tokens, batch.prompt_tokens_shared()), (18, 2));
        let stats =
            TokenStats { logprobs: (0..16).map(|entry| entry as f32).collect(), entropies: vec![0.0; 16] };
        let seen: Vec<_> = batch.completions.iter().map(|laid| laid.logprobs(&stats).to_vec()).collect();
        // Each entry is that of the token before.
        assert_eq!(seen, [vec![2.0, 3.0, 4.0], vec![6.0, 7.0], vec![10.0], vec![12.0], vec![14.0]]);
    }

    /// Given tokens inside a completion are laid and have no entries.
    #[test]
    fn given_tokens_have_no_entry() {
        let given = [1..2, 2..3];
        let sequence = UnitSequence { given: &given, ..UnitSequence::written(&[1, 2], &[3, 4, 5, 6]) };
        let unit = Unit::of(UnitCompletion::of(sequence));
        let batch = &micro_batches(&[unit], limits(100, false), &COST)[0];
        let stats =
            TokenStats { logprobs: (0..6).map(|entry| entry as f32).collect(), entropies: vec![0.0; 6] };
        assert_eq!(batch.completions[0].logprobs(&stats).as_ref(), [1.0, 4.0]);
        let loss = TokenLoss { dloss_dlogprob: 1.0, ..TokenLoss::default() };
        assert_eq!(batch.slopes(1.0, |_| vec![loss; 2]).logprob, [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]);
    }

    /// The sequences of a completion lie apart, and it has the entries of all of them in their order, also where a later
    /// one shares the prompt of another completion and lies first.
    #[test]
    fn a_completion_of_several_sequences_has_their_entries_in_order() {
        let two = UnitCompletion {
            sequences: vec![UnitSequence::written(&[1], &[2, 3]), UnitSequence::written(&[4, 5], &[6])],
            ..UnitCompletion::written(&[], &[])
        };
        let units = [one(&[4, 5], &[7, 8]), Unit::of(two)];
        for (share_prompts, ids) in
            [(false, vec![4, 5, 7, 8, 4, 5, 6, 1, 2, 3]), (true, vec![4, 5, 7, 8, 5, 6, 1, 2, 3])]
        {
            let batches = micro_batches(&units, limits(100, share_prompts), &COST);
            let [batch] = &batches[..] else { panic!("{} micro-batches", batches.len()) };
            let stats = |entry: usize| batch.packed.ids.get(entry + 1).map_or(0.0, |id| *id as f32);
            let entries = batch.packed.ids.len();
            let stats =
                TokenStats { logprobs: (0..entries).map(stats).collect(), entropies: vec![0.0; entries] };
            // First fit lays the longer unit first, and its second sequence beside that of the same prompt.
            let found: Vec<_> =
                batch.completions.iter().map(|laid| (laid.unit, laid.logprobs(&stats).to_vec())).collect();
            assert!(
                found.contains(&(0, vec![7.0, 8.0])) && found.contains(&(1, vec![2.0, 3.0, 6.0])),
                "{found:?}"
            );
            assert_eq!((found.len(), batch.packed.ids.len(), batch.tokens), (2, ids.len(), 10));
            let loss = |number: f64| TokenLoss { dloss_dlogprob: number, ..TokenLoss::default() };
            let slopes = batch.slopes(1.0, |unit| match unit[0].unit {
                0 => vec![loss(7.0), loss(8.0)],
                _ => vec![loss(2.0), loss(3.0), loss(6.0)],
            });
            // Each slope is at the entry before its token, and there is none at any other.
            for (entry, slope) in slopes.logprob.iter().enumerate() {
                let id = batch.packed.ids.get(entry + 1).copied().unwrap_or(0);
                let trained = *slope != 0.0;
                assert!(!trained || *slope == id as f32, "{slope} at token {id}");
            }
            assert_eq!(slopes.logprob.iter().filter(|slope| **slope != 0.0).count(), 5);
        }
    }

    proptest! {
        /// Units of one to three completions, some of one prompt.
        #[test]
        fn units_are_laid_whole(
            sizes in prop::collection::vec(prop::collection::vec((0_usize..3, 1_usize..20), 1..4), 1..12),
            tokens_max in 1_usize..90,
            share_prompts in any::<bool>(),
        ) {
            let prompts: [&[u32]; 3] = [&[1], &[2, 3], &[4, 5, 6]];
            let ids: Vec<u32> = (10..30).collect();
            let completion = |prompt: usize, length: usize| UnitCompletion::written(prompts[prompt], &ids[..length]);
            let unit = |sizes: &Vec<(usize, usize)>| Unit {
                completions: sizes.iter().map(|(prompt, length)| completion(*prompt, *length)).collect(),
            };
            let units: Vec<Unit<'_>> = sizes.iter().map(unit).collect();
            let mut seen = vec![0; units.len()];
            for batch in micro_batches(&units, limits(tokens_max, share_prompts), &COST) {
                let found = batch.units();
                prop_assert!(batch.tokens <= tokens_max || found.len() == 1);
                for unit_laid in found {
                    let unit = unit_laid[0].unit;
                    seen[unit] += 1;
                    let places: Vec<usize> = unit_laid.iter().map(|laid| laid.place).collect();
                    prop_assert_eq!(places, (0..units[unit].completions.len()).collect::<Vec<_>>());
                    for (laid, completion) in unit_laid.iter().zip(&units[unit].completions) {
                        prop_assert_eq!(laid.unit, unit);
                        // The entry of a token is the one before it.
                        let own: Vec<u32> = laid.places().map(|entry| batch.packed.ids[entry + 1]).collect();
                        prop_assert_eq!(own, completion.sequences[0].tokens.ids().collect::<Vec<_>>());
                    }
                }
            }
            prop_assert!(seen.into_iter().all(|times| times == 1));
        }

        #[test]
        fn packing_keeps_every_token_once(
            sizes in prop::collection::vec((1_usize..9, 1_usize..20), 1..30),
            tokens_max in 1_usize..64,
        ) {
            // Every token has its own id, so that nothing can be lost, doubled or moved unseen.
            let mut next = 0_u32;
            let mut fresh = |count: usize| -> Vec<u32> {
                (0..count).map(|_| { next += 1; next }).collect()
            };
            let owned: Vec<_> = sizes.iter().map(|(p, c)| (fresh(*p), fresh(*c))).collect();
            let units: Vec<_> = owned.iter().map(|(prompt, completion)| one(prompt, completion)).collect();
            let mut seen = vec![false; units.len()];
            for batch in micro_batches(&units, limits(tokens_max, false), &COST) {
                prop_assert!(batch.packed.ids.len() <= tokens_max || batch.completions.len() == 1);
                prop_assert_eq!(batch.packed.lengths.iter().sum::<usize>(), batch.packed.ids.len());
                let mut start = 0;
                for (laid, length) in batch.completions.iter().zip(&batch.packed.lengths) {
                    let (prompt, completion) = &owned[laid.unit];
                    let whole: Vec<u32> = prompt.iter().chain(completion).copied().collect();
                    prop_assert_eq!(&batch.packed.ids[start..start + length], &whole[..]);
                    prop_assert!(!std::mem::replace(&mut seen[laid.unit], true));
                    start += length;
                }
            }
            prop_assert!(seen.into_iter().all(|seen| seen));
        }

        #[test]
        fn balanced_bins_are_as_few_as_those_of_first_fit_and_no_costlier(
            lengths in prop::collection::vec(1_usize..200, 1..60),
            bin_max in 1_usize..500,
            pair in 0.0..2.0,
        ) {
            let cost = SequenceCost { token: 10.0, pair };
            let costliest = |bins: &[Vec<usize>]| {
                let cost = |bin: &Vec<usize>| bin.iter().map(|item| cost.of(lengths[*item])).sum::<f64>();
                bins.iter().map(cost).fold(0.0, f64::max)
            };
            // First fit once more, without costs.
            let mut order: Vec<usize> = (0..lengths.len()).collect();
            order.sort_by_key(|item| (std::cmp::Reverse(lengths[*item]), *item));
            let mut plain: Vec<Vec<usize>> = Vec::new();
            for item in order {
                let room = |bin: &&mut Vec<usize>| {
                    bin.iter().map(|other| lengths[*other]).sum::<usize>() + lengths[item] <= bin_max
                };
                match plain.iter_mut().find(room) {
                    Some(bin) => bin.push(item),
                    None => plain.push(vec![item]),
                }
            }
            let bins = pack_lengths(&lengths, bin_max, &cost);
            prop_assert_eq!(bins.len(), plain.len());
            prop_assert!(costliest(&bins) <= costliest(&plain) * (1.0 + 1e-12));
            let tokens = |bin: &Vec<usize>| bin.iter().map(|item| lengths[*item]).sum::<usize>();
            prop_assert!(bins.iter().all(|bin| bin.len() == 1 || tokens(bin) <= bin_max));
            let mut items: Vec<usize> = bins.concat();
            items.sort_unstable();
            prop_assert_eq!(items, (0..lengths.len()).collect::<Vec<_>>());
            prop_assert_eq!(pack_lengths(&lengths, bin_max, &cost), bins);
        }
    }
}
