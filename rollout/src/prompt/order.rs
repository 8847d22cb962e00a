//! In which order rows come: pure functions of the seed and the position, so that nothing of it is stored. Knows no rows,
//! only how many there are and the numbers that a curriculum goes by.

use trajectory::random::{key_of, shuffled};

/// Prompts after which the shares of weighted sources are exact: weights count in thousandths.
pub(super) const BLOCK: usize = 1000;

/// The endless order of a list of rows.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Order {
    /// Another order in each epoch.
    Shuffled,
    /// That of the file.
    AsTheyStand,
    /// By a number, rows of one number in another order in each epoch.
    Sorted(Sorted),
}

/// Rows by a number.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sorted {
    /// Places in the list, in order.
    places: Vec<usize>,
    /// Where a run of equal numbers begins.
    runs: Vec<usize>,
}

impl Sorted {
    /// By these numbers, which are finite.
    pub(super) fn by(numbers: &[f64], is_descending: bool) -> Self {
        let mut places: Vec<usize> = (0..numbers.len()).collect();
        // Stable, so that the order of the file decides before rows of one number are shuffled.
        places.sort_by(|one, other| {
            let order = numbers[*one].total_cmp(&numbers[*other]);
            if is_descending { order.reverse() } else { order }
        });
        let begins = |at: &usize| *at == 0 || numbers[places[*at]] != numbers[places[*at - 1]];
        let runs = (0..places.len()).filter(begins).collect();
        Self { places, runs }
    }
}

impl Order {
    /// The place in the list of position `index` of the endless order.
    pub(super) fn place(&self, seed: u64, index: u64, count: u64) -> usize {
        let (epoch, position) = (index / count, index % count);
        match self {
            Self::Shuffled => as_index(shuffled(seed, epoch, position, count)),
            Self::AsTheyStand => as_index(position),
            Self::Sorted(Sorted { places, runs }) => {
                let position = as_index(position);
                let run = runs.partition_point(|start| *start <= position) - 1;
                let start = runs[run];
                let end = runs.get(run + 1).copied().unwrap_or(places.len());
                let key = key_of(&[seed, start as u64]);
                let within = shuffled(key, epoch, (position - start) as u64, (end - start) as u64);
                places[start + as_index(within)]
            }
        }
    }
}

fn as_index(place: u64) -> usize {
    usize::try_from(place).expect("a place in a list in memory fits its index type")
}

/// A turn of one of several sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) source: usize,
    /// How many turns the source has had before, over all blocks.
    pub(super) index: u64,
}

/// Whose turn it is among weighted sources: a pattern of [`BLOCK`] turns that repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turns {
    quotas: Vec<usize>,
    /// Source and how many turns it has had within the block.
    block: Vec<Turn>,
}

impl Turns {
    /// By these weights, as far as each source has a turn in a block.
    pub(super) fn by(weights: &[f64]) -> Result<Self, String> {
        let quotas = quotas(weights)?;
        let mut had = vec![0usize; quotas.len()];
        let block = (1..=BLOCK).map(|turn| {
            // The source that is furthest behind its share.
            let behind =
                |source: &usize| turn * quotas[*source] - (had[*source] * BLOCK).min(turn * quotas[*source]);
            let source = (0..quotas.len()).filter(|source| had[*source] < quotas[*source]);
            let source = source.max_by_key(|source| (behind(source), std::cmp::Reverse(*source)));
            let source = source.expect("quotas add up to a block, so one has turns left");
            had[source] += 1;
            Turn { source, index: had[source] as u64 - 1 }
        });
        let block = block.collect();
        Ok(Self { quotas, block })
    }

    /// Whose turn position `index` is.
    pub(super) fn turn(&self, index: u64) -> Turn {
        let Turn { source, index: within } = self.block[as_index(index % BLOCK as u64)];
        Turn { source, index: index / BLOCK as u64 * self.quotas[source] as u64 + within }
    }
}

/// How many of a block's turns each source has: the largest remainders are rounded up.
pub(super) fn quotas(weights: &[f64]) -> Result<Vec<usize>, String> {
    let sum: f64 = weights.iter().sum();
    let shares: Vec<f64> = weights.iter().map(|weight| weight / sum * BLOCK as f64).collect();
    let mut quotas: Vec<usize> = shares.iter().map(|share| share.floor() as usize).collect();
    let mut by_rest: Vec<usize> = (0..weights.len()).collect();
    by_rest.sort_by(|one, other| shares[*other].fract().total_cmp(&shares[*one].fract()));
    let missing = BLOCK.saturating_sub(quotas.iter().sum());
    by_rest
        .iter()
        .cycle()
        .take(if weights.is_empty() { 0 } else { missing })
        .for_each(|source| quotas[*source] += 1);
    match quotas.iter().position(|quota| *quota == 0) {
        None => Ok(quotas),
        Some(source) => Err(format!(
            "the weight {} of file {} is less than a {BLOCK}th of all weights together, so it would never come; raise it",
            weights[source],
            source + 1
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn epoch(order: &Order, seed: u64, number: u64, count: u64) -> Vec<usize> {
        (0..count).map(|position| order.place(seed, number * count + position, count)).collect()
    }

    proptest! {
        #[test]
        fn every_epoch_has_every_row_once(seed: u64, number in 0u64..4, numbers in proptest::collection::vec(0u8..4, 1..60)) {
            let count = numbers.len() as u64;
            let values: Vec<f64> = numbers.iter().map(|number| f64::from(*number)).collect();
            for order in [Order::Shuffled, Order::AsTheyStand, Order::Sorted(Sorted::by(&values, false))] {
                let places: BTreeSet<usize> = epoch(&order, seed, number, count).into_iter().collect();
                prop_assert_eq!(places.len(), numbers.len());
            }
        }

        #[test]
        fn a_curriculum_goes_up_or_down(seed: u64, numbers in proptest::collection::vec(-3i8..3, 1..60)) {
            let count = numbers.len() as u64;
            let values: Vec<f64> = numbers.iter().map(|number| f64::from(*number)).collect();
            let along = |is_descending| -> Vec<f64> {
                let order = Order::Sorted(Sorted::by(&values, is_descending));
                epoch(&order, seed, 1, count).into_iter().map(|place| values[place]).collect()
            };
            prop_assert!(along(false).is_sorted());
            prop_assert!(along(true).iter().rev().is_sorted());
        }

        #[test]
        fn shares_are_those_of_the_weights(weights in proptest::collection::vec(0.1f64..5.0, 1..6)) {
            let turns = Turns::by(&weights).expect("weights of one size");
            let sum: f64 = weights.iter().sum();
            let mut next = vec![0u64; weights.len()];
            for index in 0..2500u64 {
                let Turn { source, index: own } = turns.turn(index);
                // Each source goes through its own order without a gap.
                prop_assert_eq!(own, next[source]);
                next[source] += 1;
            }
            for (weight, had) in weights.iter().zip(next) {
                prop_assert!((had as f64 - weight / sum * 2500.0).abs() < 5.0);
            }
        }
    }

    #[test]
    fn rows_of_one_number_come_in_another_order_in_each_epoch() {
        let order = Order::Sorted(Sorted::by(&[1.0; 50], false));
        assert_ne!(epoch(&order, 0, 0, 50), epoch(&order, 0, 1, 50));
        assert_ne!(epoch(&order, 0, 0, 50), epoch(&order, 1, 0, 50));
        assert_eq!(epoch(&Order::AsTheyStand, 7, 3, 3), [0, 1, 2]);
    }

    #[test]
    fn a_weight_without_a_turn_is_refused() {
        let error = Turns::by(&[1.0, 0.0001]).expect_err("too small");
        assert!(error.contains("the weight 0.0001 of file 2"), "{error}");
        let turns = Turns::by(&[3.0, 1.0]).expect("thirds");
        let first: Vec<usize> = (0..8).map(|index| turns.turn(index).source).collect();
        assert_eq!(first.iter().filter(|source| **source == 0).count(), 6, "{first:?}");
    }
}
