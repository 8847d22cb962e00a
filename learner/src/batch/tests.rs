//! Tests of `batch.rs`.

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
    let stats =
        TokenStats { logprobs: vec![2.0, 3.0, 4.0, 5.0, 0.0, 7.0, 8.0, 9.0, 0.0], entropies: vec![0.0; 9] };
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

/// Ten tokens that all prompts begin with, then a prompt of its own for two completions, and one for a single completion.
#[test]
fn what_all_prompts_begin_with_lies_before_all_of_them() {
    let text: Vec<u32> = (50..60).collect();
    let with = |own: &[u32]| [&text[..], own].concat();
    let (long, short, bare) = (with(&[1, 2, 3]), with(&[4]), with(&[]));
    let units =
        [one(&long, &[21, 22]), one(&short, &[23]), one(&long, &[24]), one(&bare, &[25]), one(&bare, &[26])];
    let batches = micro_batches(&units, limits(100, true), &COST);
    let [batch] = &batches[..] else { panic!("{} micro-batches", batches.len()) };
    // Without the last token of the shortest prompt, which is a row of each sequence.
    assert_eq!(batch.packed.ids[..9], text[..9]);
    let sequences: Vec<(usize, Option<usize>)> =
        batch.packed.lengths.iter().copied().zip(batch.packed.prefixes.iter().copied()).collect();
    let expected = [
        (9, None),
        // The rest of the long prompt, and what follows its last token.
        (3, Some(0)),
        (3, Some(1)),
        (2, Some(1)),
        (3, Some(0)),
        (2, Some(0)),
        (2, Some(0)),
    ];
    assert_eq!(sequences, expected);
    assert_eq!(batch.tokens, 15 + 14 + 12 + 11 + 11);
    assert_eq!(batch.prompt_tokens_shared(), batch.tokens - 24);
    let id_after = |entry: usize| batch.packed.ids.get(entry + 1).map_or(0.0, |id| *id as f32);
    let stats = TokenStats { logprobs: (0..24).map(id_after).collect(), entropies: vec![0.0; 24] };
    for laid in &batch.completions {
        let tokens: Vec<f32> = match laid.unit {
            0 => vec![21.0, 22.0],
            unit => vec![[0.0, 23.0, 24.0, 25.0, 26.0][unit]],
        };
        assert_eq!(laid.logprobs(&stats).to_vec(), tokens, "{laid:?}");
    }
    // Fewer tokens in common are not worth a sequence, and without sharing there is none.
    let few = [one(&[1, 2, 3, 4], &[5]), one(&[1, 2, 3, 6], &[7])];
    for (units, share) in [(&few[..], true), (&units[..], false)] {
        for batch in micro_batches(units, limits(100, share), &COST) {
            assert!(batch.packed.prefixes.iter().all(Option::is_none), "{batch:?}");
        }
    }
}

/// Given tokens inside a completion are laid and have no entries.
#[test]
fn given_tokens_have_no_entry() {
    let given = [1..2, 2..3];
    let sequence = UnitSequence { given: &given, ..UnitSequence::written(&[1, 2], &[3, 4, 5, 6]) };
    let unit = Unit::of(UnitCompletion::of(sequence));
    let batch = &micro_batches(&[unit], limits(100, false), &COST)[0];
    let stats = TokenStats { logprobs: (0..6).map(|entry| entry as f32).collect(), entropies: vec![0.0; 6] };
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
        let stats = TokenStats { logprobs: (0..entries).map(stats).collect(), entropies: vec![0.0; entries] };
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
