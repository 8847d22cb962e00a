//! Packing: from the sequences of an optimizer step to micro-batches under a budget of tokens, which are as
//! few as first fit makes them and take about the same time. Sequences
//! lie one after the other without padding; those of one prompt can have it in common, so that it goes through the
//! model once and not once for each member of a group. A micro-batch knows which entries of its token
//! statistics belong to completion tokens and hands out no others, so a prompt token cannot enter the
//! loss.

use std::collections::HashMap;
use std::ops::Range;

use kernels::{DecoderConfig, Packed, TokenStats};

/// A prompt and what follows it. The prompt has at least one token, or the first token after it would
/// have no distribution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence<'a> {
    /// Tokens that were given.
    pub prompt: &'a [u32],
    /// Tokens that are trained on.
    pub completion: &'a [u32],
}

impl Sequence<'_> {
    fn len(&self) -> usize {
        self.prompt.len() + self.completion.len()
    }
}

/// Where a sequence lies in its micro-batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The sequence's place among those of the step.
    pub sequence: usize,
    /// The entries of [`TokenStats`] that belong to its completion tokens, one each and in order. Entry
    /// k of a sequence belongs to its token k + 1, so they begin one before the first such token.
    entries: Range<usize>,
}

impl Row {
    /// The log-probabilities of the completion tokens.
    #[must_use]
    pub fn logprobs<'s>(&self, stats: &'s TokenStats) -> &'s [f32] {
        &stats.logprobs[self.entries.clone()]
    }

    /// The entropies of the distributions that the completion tokens were drawn from.
    #[must_use]
    pub fn entropies<'s>(&self, stats: &'s TokenStats) -> &'s [f32] {
        &stats.entropies[self.entries.clone()]
    }
}

/// Sequences that go through the decoder together.
#[derive(Clone, Debug)]
pub struct MicroBatch {
    /// Their tokens.
    pub packed: Packed,
    /// Where each lies.
    pub rows: Vec<Row>,
    /// Tokens of whole sequences, each with its prompt.
    pub tokens: usize,
}

impl MicroBatch {
    /// Tokens of prompts that are not computed again for a sequence.
    #[must_use]
    pub fn prompt_tokens_shared(&self) -> usize {
        self.tokens - self.packed.ids.len()
    }

    /// The derivative of the loss by every entry's log-probability: what `slopes` gives for the
    /// completion tokens of each row, 0 for every other entry.
    pub fn coefficients(&self, mut slopes: impl FnMut(&Row) -> Vec<f64>) -> Vec<f32> {
        let mut coefficients = vec![0.0_f32; self.packed.ids.len()];
        for row in &self.rows {
            let slopes = slopes(row);
            assert_eq!(slopes.len(), row.entries.len(), "a slope for each completion token");
            for (coefficient, slope) in coefficients[row.entries.clone()].iter_mut().zip(slopes) {
                *coefficient = slope as f32;
            }
        }
        coefficients
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

/// Packs the sequences of a step into micro-batches of at most `tokens_max` tokens, prompts included. A
/// sequence that is longer is a micro-batch of its own. There are as many as first fit makes, longest first,
/// and the costliest costs at most as much as there. The same sequences always lie in the same way.
///
/// With `share_prompts` the sequences of a micro-batch whose prompts are equal have them in common, but for the last
/// token: what follows it differs, and so it is a row of each.
#[must_use]
pub fn micro_batches(
    sequences: &[Sequence<'_>],
    (tokens_max, share_prompts): (usize, bool),
    cost: &SequenceCost,
) -> Vec<MicroBatch> {
    let lengths: Vec<usize> = sequences.iter().map(Sequence::len).collect();
    let bins = pack(&lengths, tokens_max, cost);
    bins.into_iter().map(|members| lay(sequences, &members, share_prompts)).collect()
}

/// Lays sequences one after the other; those that have their prompt in common follow it.
fn lay(sequences: &[Sequence<'_>], members: &[usize], share_prompts: bool) -> MicroBatch {
    let mut batch = MicroBatch { packed: Packed::empty(), rows: Vec::new(), tokens: 0 };
    let mut of_prompt: HashMap<&[u32], Vec<usize>> = HashMap::new();
    for &member in members {
        of_prompt.entry(sequences[member].prompt).or_default().push(member);
    }
    for &first in members {
        // All sequences of a prompt are laid when the first of them is met.
        let Some(members) = of_prompt.remove(sequences[first].prompt) else { continue };
        let (last, before) = sequences[first].prompt.split_last().expect("a prompt has at least one token");
        let shares = share_prompts && members.len() > 1 && !before.is_empty();
        let prefix = shares.then(|| batch.packed.push(before, None));
        for sequence in members {
            let Sequence { completion, .. } = sequences[sequence];
            let own_prompt = if shares { &[] } else { before };
            let start = batch.packed.ids.len() + own_prompt.len();
            batch.packed.push(&[own_prompt, &[*last], completion].concat(), prefix);
            batch.rows.push(Row { sequence, entries: start..start + completion.len() });
            batch.tokens += sequences[sequence].len();
        }
    }
    batch
}

/// Items that lie together.
#[derive(Default)]
struct Bin {
    tokens: usize,
    cost: f64,
    members: Vec<usize>,
}

impl Bin {
    fn has_room(&self, tokens: usize, bin_max: usize) -> bool {
        self.members.is_empty() || self.tokens + tokens <= bin_max
    }

    fn add(&mut self, item: usize, (tokens, cost): (usize, f64)) {
        self.tokens += tokens;
        self.cost += cost;
        self.members.push(item);
    }
}

/// Balanced bins, or those of first fit where balancing leaves an item over or makes the costliest bin costlier.
fn pack(lengths: &[usize], bin_max: usize, cost: &SequenceCost) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|item| (std::cmp::Reverse(lengths[*item]), *item));
    let items: Vec<_> =
        order.into_iter().map(|item| (item, (lengths[item], cost.of(lengths[item])))).collect();
    let fitted = first_fit(&items, bin_max);
    let costliest = |bins: &[Bin]| bins.iter().fold(0.0, |most: f64, bin| most.max(bin.cost));
    let balanced = balance(&items, bin_max, fitted.len());
    let bins = balanced.filter(|bins| costliest(bins) <= costliest(&fitted)).unwrap_or(fitted);
    bins.into_iter().map(|bin| bin.members).collect()
}

/// An item, its tokens and its cost.
type Item = (usize, (usize, f64));

/// Each item goes to the first bin with room for it.
fn first_fit(items: &[Item], bin_max: usize) -> Vec<Bin> {
    let mut bins: Vec<Bin> = Vec::new();
    for &(item, size) in items {
        match bins.iter_mut().find(|bin| bin.has_room(size.0, bin_max)) {
            Some(bin) => bin.add(item, size),
            None => {
                let mut bin = Bin::default();
                bin.add(item, size);
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
    for &(item, size) in items {
        let with_room = bins.iter_mut().filter(|bin| bin.has_room(size.0, bin_max));
        with_room.min_by(|a, b| a.cost.total_cmp(&b.cost))?.add(item, size);
    }
    Some(bins)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::testing::decoder;

    /// As many multiply-adds for a token as for ten pairs.
    const COST: SequenceCost = SequenceCost { token: 10.0, pair: 1.0 };

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
        assert_eq!(pack(&[2, 5, 3, 9, 4], 8, &COST), [vec![3], vec![1, 0], vec![4, 2]]);
    }

    #[test]
    fn where_balancing_leaves_one_over_first_fit_stands() {
        // By cost both bins have 3 and 2, and the last 2 finds no room.
        assert_eq!(pack(&[3, 3, 2, 2, 2], 6, &COST), [vec![0, 1], vec![2, 3, 4]]);
    }

    #[test]
    fn few_short_ones_lie_beside_a_long_one() {
        let lengths: Vec<usize> = std::iter::once(400).chain(vec![50; 24]).collect();
        let bins = pack(&lengths, 1000, &COST);
        // The long one costs 84,200 and a short one 1,775. First fit would put twelve beside it.
        assert_eq!((COST.of(400), COST.of(50)), (84_200.0, 1_775.0));
        assert_eq!(bins.iter().map(Vec::len).collect::<Vec<_>>(), [5, 20]);
    }

    #[test]
    fn entry_before_a_token_is_its_own() {
        let sequences = [
            Sequence { prompt: &[1, 2, 3], completion: &[4, 5] },
            Sequence { prompt: &[6], completion: &[7, 8, 9] },
        ];
        let batches = micro_batches(&sequences, (100, false), &COST);
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].packed.ids, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        // Give each entry the id of the token that it belongs to, as the decoder would.
        let stats = TokenStats {
            logprobs: vec![2.0, 3.0, 4.0, 5.0, 0.0, 7.0, 8.0, 9.0, 0.0],
            entropies: vec![0.0; 9],
        };
        let seen: Vec<_> = batches[0].rows.iter().map(|row| row.logprobs(&stats).to_vec()).collect();
        assert_eq!(seen, [vec![4.0, 5.0], vec![7.0, 8.0, 9.0]]);
    }

    #[test]
    fn prompt_tokens_and_sequence_ends_have_no_slope() {
        let sequences = [
            Sequence { prompt: &[1, 2, 3], completion: &[4, 5] },
            Sequence { prompt: &[6], completion: &[7, 8] },
        ];
        let batch = &micro_batches(&sequences, (100, false), &COST)[0];
        let coefficients = batch.coefficients(|row| vec![row.sequence as f64 + 1.0; 2]);
        assert_eq!(coefficients, [0.0, 0.0, 1.0, 1.0, 0.0, 2.0, 2.0, 0.0]);
    }

    #[test]
    fn a_prompt_in_common_lies_before_all_that_follow_it() {
        let sequences = [
            Sequence { prompt: &[1, 2, 3], completion: &[4, 5] },
            Sequence { prompt: &[6, 7], completion: &[8] },
            Sequence { prompt: &[1, 2, 3], completion: &[9, 10, 11] },
            Sequence { prompt: &[12], completion: &[13] },
            Sequence { prompt: &[12], completion: &[14] },
        ];
        let batches = micro_batches(&sequences, (100, true), &COST);
        let [batch] = &batches[..] else { panic!("{} micro-batches", batches.len()) };
        let places: Vec<usize> = batch.rows.iter().map(|row| row.sequence).collect();
        assert_eq!(places, [2, 0, 1, 3, 4]);
        assert_eq!(batch.packed.ids, [1, 2, 3, 9, 10, 11, 3, 4, 5, 6, 7, 8, 12, 13, 12, 14]);
        assert_eq!(batch.packed.lengths, [2, 4, 3, 3, 2, 2]);
        // Where no token is left that they could have in common, they have none.
        assert_eq!(batch.packed.prefixes, [None, Some(0), Some(0), None, None, None]);
        assert_eq!((batch.tokens, batch.prompt_tokens_shared()), (18, 2));
        let stats =
            TokenStats { logprobs: (0..16).map(|entry| entry as f32).collect(), entropies: vec![0.0; 16] };
        let seen: Vec<_> = batch.rows.iter().map(|row| row.logprobs(&stats).to_vec()).collect();
        // Each entry is that of the token before.
        assert_eq!(seen, [vec![2.0, 3.0, 4.0], vec![6.0, 7.0], vec![10.0], vec![12.0], vec![14.0]]);
    }

    proptest! {
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
            let sequences: Vec<_> =
                owned.iter().map(|(prompt, completion)| Sequence { prompt, completion }).collect();
            let mut seen = vec![false; sequences.len()];
            for batch in micro_batches(&sequences, (tokens_max, false), &COST) {
                prop_assert!(batch.packed.ids.len() <= tokens_max || batch.rows.len() == 1);
                prop_assert_eq!(batch.packed.lengths.iter().sum::<usize>(), batch.packed.ids.len());
                let mut start = 0;
                for (row, length) in batch.rows.iter().zip(&batch.packed.lengths) {
                    let (prompt, completion) = &owned[row.sequence];
                    let whole: Vec<u32> = prompt.iter().chain(completion).copied().collect();
                    prop_assert_eq!(&batch.packed.ids[start..start + length], &whole[..]);
                    prop_assert!(!std::mem::replace(&mut seen[row.sequence], true));
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
            let bins = pack(&lengths, bin_max, &cost);
            prop_assert_eq!(bins.len(), plain.len());
            prop_assert!(costliest(&bins) <= costliest(&plain) * (1.0 + 1e-12));
            let tokens = |bin: &Vec<usize>| bin.iter().map(|item| lengths[*item]).sum::<usize>();
            prop_assert!(bins.iter().all(|bin| bin.len() == 1 || tokens(bin) <= bin_max));
            let mut items: Vec<usize> = bins.concat();
            items.sort_unstable();
            prop_assert_eq!(items, (0..lengths.len()).collect::<Vec<_>>());
            prop_assert_eq!(pack(&lengths, bin_max, &cost), bins);
        }
    }
}
