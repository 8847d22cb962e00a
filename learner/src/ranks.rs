//! What the ranks of a data-parallel step tell each other: the groups that are ranked, the denominators, and at the end
//! statistics and gradients. Everything else is computed by each rank alone from the same numbers.
//!
//! A rank that finds something wrong says so at the next of these places, so that no rank changes its weights and none
//! waits for another one.

use burn::tensor::{Tensor, TensorData};
use collective::Collective;
use kernels::GradientSums;

use crate::advantage::{GroupOutcome, GroupStanding};
use crate::batch::SequenceCost;
use crate::error::LearnerError;

/// What one rank found, and the numbers of all of them.
pub(crate) struct Agreed<T> {
    pub(crate) own: T,
    /// One list a rank, in their order.
    pub(crate) rows: Vec<Vec<f64>>,
}

impl<T> Agreed<T> {
    /// Sums over the ranks, where each rank's list is so long.
    pub(crate) fn sums<const N: usize>(&self) -> [f64; N] {
        std::array::from_fn(|place| self.rows.iter().map(|row| row[place]).sum())
    }
}

/// Shows the numbers of each rank to all, in the order of the ranks; lists may be of different lengths.
///
/// # Errors
/// The rank's own error, or [`LearnerError::OtherRank`] where only others have one: either all ranks go on or none does.
pub(crate) fn agree<T>(
    collective: &dyn Collective,
    step: u64,
    own: Result<T, LearnerError>,
    numbers: impl FnOnce(&T) -> Vec<f64>,
) -> Result<Agreed<T>, LearnerError> {
    let row = own.as_ref().map_or_else(|_| Vec::new(), numbers);
    let (rank, ranks) = (collective.rank(), collective.ranks());
    if ranks == 1 {
        return Ok(Agreed { own: own?, rows: vec![row] });
    }
    let failed = |source| LearnerError::Collective { step, source };
    // The length of each rank's list, and whether it has failed.
    let mut header = vec![0.0; 2 * ranks];
    (header[rank], header[ranks + rank]) = (row.len() as f64, f64::from(u8::from(own.is_err())));
    collective.sum_f64(&mut header).map_err(failed)?;
    let own = own?;
    if let Some(rank) = header[ranks..].iter().position(|failed| *failed != 0.0) {
        return Err(LearnerError::OtherRank { step, rank });
    }
    let lengths: Vec<usize> = header[..ranks].iter().map(|length| *length as usize).collect();
    // Adding zeros changes no number, so each rank's list arrives as it is.
    let mut table = vec![0.0; lengths.iter().sum()];
    let start: usize = lengths[..rank].iter().sum();
    table[start..start + row.len()].copy_from_slice(&row);
    collective.sum_f64(&mut table).map_err(failed)?;
    let mut rest = &table[..];
    let rows = lengths.into_iter().map(|length| {
        let (row, behind) = rest.split_at(length);
        rest = behind;
        row.to_vec()
    });
    Ok(Agreed { own, rows: rows.collect() })
}

/// Standings of groups as a rank shows them: halves of the group's number, which is exact so, right answers, completions.
pub(crate) fn numbers_of_standings(groups: &[GroupOutcome]) -> Vec<f64> {
    let numbers = |group: &GroupOutcome| {
        let GroupStanding { id, correct, members } = GroupStanding::of(group);
        [(id >> 32) as f64, f64::from(id as u32), correct as f64, members as f64]
    };
    groups.iter().flat_map(numbers).collect()
}

pub(crate) fn standings_of_numbers(numbers: &[f64]) -> Vec<GroupStanding> {
    let (standings, _) = numbers.as_chunks::<4>();
    let standing = |[high, low, correct, members]: &[f64; 4]| GroupStanding {
        id: (*high as u64) << 32 | *low as u64,
        correct: *correct as usize,
        members: *members as usize,
    };
    standings.iter().map(standing).collect()
}

/// Adds the gradients of all ranks, layer by layer from the last to the first, as they become whole in the backward
/// pass; each number once, in the order of the ranks.
///
/// # Shapes
/// `gradients` as what is trained, the same on every rank.
pub(crate) fn sum_gradients(
    collective: &dyn Collective,
    step: u64,
    gradients: &mut GradientSums,
) -> Result<(), LearnerError> {
    if collective.ranks() == 1 {
        return Ok(());
    }
    gradients.parts_mut().into_iter().try_for_each(|part| {
        sum_tensors(collective, part).map_err(|source| LearnerError::Collective { step, source })
    })
}

fn sum_tensors(
    collective: &dyn Collective,
    tensors: Vec<&mut Tensor<2>>,
) -> Result<(), collective::CollectiveError> {
    let mut numbers: Vec<f32> = Vec::new();
    for tensor in &tensors {
        numbers.extend(tensor.to_data().iter::<f32>());
    }
    collective.sum(&mut numbers)?;
    let mut rest = &numbers[..];
    for tensor in tensors {
        let (shape, device) = (tensor.dims(), tensor.device());
        let (own, behind) = rest.split_at(shape[0] * shape[1]);
        *tensor = Tensor::from_data(TensorData::new(own.to_vec(), shape), &device);
        rest = behind;
    }
    Ok(())
}

/// Which groups each rank trains on, for groups of which each is a list of the lengths of its sequences: the costliest
/// group goes first, each to the rank that has the least to do. Every rank that knows the lengths finds the same.
#[must_use]
pub fn deal(groups: &[Vec<usize>], ranks: usize, cost: &SequenceCost) -> Vec<Vec<usize>> {
    assert!(ranks > 0, "groups are dealt to at least one rank");
    let cost_of = |group: usize| groups[group].iter().map(|tokens| cost.of(*tokens)).sum::<f64>();
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by(|a, b| cost_of(*b).total_cmp(&cost_of(*a)).then(a.cmp(b)));
    let (mut dealt, mut costs) = (vec![Vec::new(); ranks], vec![0.0; ranks]);
    for group in order {
        let rank = (0..ranks).min_by(|a, b| f64::total_cmp(&costs[*a], &costs[*b])).unwrap_or(0);
        dealt[rank].push(group);
        costs[rank] += cost_of(group);
    }
    dealt.iter_mut().for_each(|groups| groups.sort_unstable());
    dealt
}

#[cfg(test)]
mod tests {
    use collective::{Alone, Threads};
    use proptest::prelude::*;

    use super::*;

    const COST: SequenceCost = SequenceCost { token: 10.0, pair: 1.0 };

    /// Runs a rank's part on a thread for each, and gives the results in the order of the ranks.
    fn on_ranks<R: Send>(ranks: usize, part: impl Fn(&Threads) -> R + Sync) -> Vec<R> {
        std::thread::scope(|scope| {
            let part = &part;
            let threads: Vec<_> =
                Threads::new(ranks).into_iter().map(|rank| scope.spawn(move || part(&rank))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn every_rank_sees_the_numbers_of_all() {
        let found = on_ranks(3, |rank| {
            let numbers = vec![[f64::INFINITY, 0.1, -3.0][rank.rank()]; rank.rank() + 1];
            agree(rank, 4, Ok(rank.rank()), |_| numbers).unwrap().rows
        });
        let expected = vec![vec![f64::INFINITY], vec![0.1; 2], vec![-3.0; 3]];
        assert!(found.iter().all(|rows| *rows == expected), "{found:?}");
        let alone = agree(&Alone, 4, Ok(()), |()| vec![2.0]).unwrap();
        assert_eq!((alone.rows.clone(), alone.sums()), (vec![vec![2.0]], [2.0]));
    }

    #[test]
    fn an_error_of_one_rank_ends_the_step_on_all() {
        let errors = on_ranks(3, |rank| {
            let own = if rank.rank() == 1 { Err(LearnerError::config("a.key", "is wrong")) } else { Ok(()) };
            agree(rank, 4, own, |()| vec![1.0]).map(|_| ()).unwrap_err().to_string()
        });
        let other = "step 4: rank 1 could not make the step; its own error says why";
        assert_eq!(errors, [other, "a.key: is wrong", other]);
    }

    proptest! {
        #[test]
        fn standings_are_shown_as_they_are(id in any::<u64>(), correctness in prop::collection::vec(any::<bool>(), 1..9)) {
            let outcome = GroupOutcome {
                id,
                rewards: Vec::new(),
                correctness: correctness.iter().map(|correct| Some(*correct)).collect(),
                lengths: Vec::new(),
                terms: Vec::new(),
            };
            let standing = GroupStanding::of(&outcome);
            let shown = standings_of_numbers(&numbers_of_standings(&[outcome.clone(), outcome]));
            prop_assert_eq!(shown, [standing; 2]);
        }

        /// Whole groups, each once, and no rank has more to do than the others and one group besides.
        #[test]
        fn every_group_is_dealt_once_and_the_costs_are_near(
            groups in prop::collection::vec(prop::collection::vec(1_usize..60, 1..5), 0..20),
            ranks in 1_usize..6,
        ) {
            let dealt = deal(&groups, ranks, &COST);
            let mut all = dealt.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..groups.len()).collect::<Vec<_>>());
            let cost_of = |group: &usize| groups[*group].iter().map(|tokens| COST.of(*tokens)).sum::<f64>();
            let costs: Vec<f64> = dealt.iter().map(|groups| groups.iter().map(cost_of).sum()).collect();
            let largest_group = (0..groups.len()).map(|group| cost_of(&group)).fold(0.0, f64::max);
            let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
            prop_assert!(costs.iter().all(|cost| *cost <= least + largest_group + 1e-9), "{:?}", costs);
            prop_assert_eq!(deal(&groups, ranks, &COST), dealt);
        }
    }
}
