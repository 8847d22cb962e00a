//! Packing: from the sequences of an optimizer step to micro-batches under a budget of tokens. Whole
//! sequences lie one after the other without padding. A micro-batch knows which entries of its token
//! statistics belong to completion tokens and hands out no others, so a prompt token cannot enter the
//! loss.

use std::ops::Range;

use kernels::{Packed, TokenStats};

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
}

impl MicroBatch {
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

/// Packs the sequences of a step into micro-batches of at most `tokens_max` tokens, prompts included. A
/// sequence that is longer is a micro-batch of its own. The same sequences always lie in the same way.
#[must_use]
pub fn micro_batches(sequences: &[Sequence<'_>], tokens_max: usize) -> Vec<MicroBatch> {
    let lengths: Vec<usize> = sequences.iter().map(Sequence::len).collect();
    let lay = |members: Vec<usize>| {
        let mut batch =
            MicroBatch { packed: Packed { ids: Vec::new(), lengths: Vec::new() }, rows: Vec::new() };
        for sequence in members {
            let Sequence { prompt, completion } = sequences[sequence];
            assert!(!prompt.is_empty(), "sequence {sequence} has no prompt token");
            let start = batch.packed.ids.len() + prompt.len() - 1;
            batch.rows.push(Row { sequence, entries: start..start + completion.len() });
            batch.packed.ids.extend_from_slice(prompt);
            batch.packed.ids.extend_from_slice(completion);
            batch.packed.lengths.push(prompt.len() + completion.len());
        }
        batch
    };
    pack(&lengths, tokens_max).into_iter().map(lay).collect()
}

/// First fit, longest first: each item goes to the first bin with room for it.
fn pack(lengths: &[usize], bin_max: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|item| (std::cmp::Reverse(lengths[*item]), *item));
    let mut bins: Vec<(usize, Vec<usize>)> = Vec::new();
    for item in order {
        let length = lengths[item];
        match bins.iter_mut().find(|(filled, _)| filled + length <= bin_max) {
            Some((filled, members)) => {
                *filled += length;
                members.push(item);
            }
            None => bins.push((length, vec![item])),
        }
    }
    bins.into_iter().map(|(_, members)| members).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn longest_first_into_the_first_bin_with_room() {
        assert_eq!(pack(&[2, 5, 3, 9, 4], 8), [vec![3], vec![1, 2], vec![4, 0]]);
    }

    #[test]
    fn entry_before_a_token_is_its_own() {
        let sequences = [
            Sequence { prompt: &[1, 2, 3], completion: &[4, 5] },
            Sequence { prompt: &[6], completion: &[7, 8, 9] },
        ];
        let batches = micro_batches(&sequences, 100);
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
        let batch = &micro_batches(&sequences, 100)[0];
        let coefficients = batch.coefficients(|row| vec![row.sequence as f64 + 1.0; 2]);
        assert_eq!(coefficients, [0.0, 0.0, 1.0, 1.0, 0.0, 2.0, 2.0, 0.0]);
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
            for batch in micro_batches(&sequences, tokens_max) {
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
    }
}
