//! What holds for every group of ranks, on real threads: sums are those of one process that adds in rank order, every
//! rank has the same, and a rank that panics ends the others' waiting by an error that names it.

use std::thread;

use collective::{Alone, Collective, CollectiveError, Threads};
use proptest::prelude::*;

/// Runs a rank's part on a thread for each, and gives the results in the order of the ranks.
fn on_threads<R: Send>(ranks: usize, part: impl Fn(&Threads) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let part = &part;
        let threads: Vec<_> =
            Threads::new(ranks).into_iter().map(|rank| scope.spawn(move || part(&rank))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
    })
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Of any sizes, also fewer numbers than ranks, over several operations in a row.
    #[test]
    fn sums_are_in_rank_order_to_the_bit(
        numbers in prop::collection::vec(prop::collection::vec(-1e6_f32..1e6, 17), 1..6),
        lengths in prop::collection::vec(0_usize..17, 1..4),
    ) {
        let ranks = numbers.len();
        let found = on_threads(ranks, |rank| {
            let sums = lengths.iter().map(|&length| {
                let mut own = numbers[rank.rank()][..length].to_vec();
                let mut wide: Vec<f64> = own.iter().map(|number| f64::from(*number)).collect();
                rank.sum(&mut own).unwrap();
                rank.sum_f64(&mut wide).unwrap();
                (own, wide)
            });
            sums.collect::<Vec<_>>()
        });
        for sums in &found {
            for ((sum, wide), &length) in sums.iter().zip(&lengths) {
                let (mut expected, mut expected_wide) = (numbers[0][..length].to_vec(), vec![0.0; length]);
                for other in &numbers[1..] {
                    expected.iter_mut().zip(other).for_each(|(sum, number)| *sum += number);
                }
                for other in &numbers {
                    expected_wide.iter_mut().zip(other).for_each(|(sum, number)| *sum += f64::from(*number));
                }
                prop_assert_eq!(bits(sum), bits(&expected));
                prop_assert_eq!(wide, &expected_wide);
            }
        }
    }

    #[test]
    fn an_exchange_transposes_and_a_share_is_rank_zeros(
        ranks in 1_usize..6,
        part in 0_usize..5,
        bytes in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let found = on_threads(ranks, |rank| {
            // The number says who sends it to whom, and its place.
            let number = |from: usize, to: usize, place: usize| (100 * from + 10 * to + place) as f32;
            let from_to = |from: usize, to: usize| (0..part).map(move |place| number(from, to, place));
            let send: Vec<f32> = (0..ranks).flat_map(|to| from_to(rank.rank(), to)).collect();
            let mut received = vec![-1.0; send.len()];
            rank.exchange(&send, &mut received).unwrap();
            let expected: Vec<f32> = (0..ranks).flat_map(|from| from_to(from, rank.rank())).collect();
            let mut shared = if rank.rank() == 0 { bytes.clone() } else { vec![9; 50] };
            rank.share(&mut shared).unwrap();
            (received == expected, shared == bytes)
        });
        prop_assert!(found.into_iter().all(|right| right == (true, true)));
    }
}

#[test]
fn a_rank_alone_is_a_group_of_one() {
    let (alone, one) = (Alone, Threads::new(1).remove(0));
    for rank in [&alone as &dyn Collective, &one] {
        assert_eq!((rank.rank(), rank.ranks()), (0, 1));
        let (mut numbers, mut wide, mut bytes, mut received) = ([1.5, -2.0], [3.25], vec![1, 2], [0.0; 2]);
        rank.sum(&mut numbers).unwrap();
        rank.sum_f64(&mut wide).unwrap();
        rank.share(&mut bytes).unwrap();
        rank.exchange(&[4.0, 5.0], &mut received).unwrap();
        rank.barrier().unwrap();
        assert_eq!((numbers, wide, bytes, received), ([1.5, -2.0], [3.25], vec![1, 2], [4.0, 5.0]));
    }
}

#[test]
fn a_rank_that_panics_is_named_to_the_others() {
    let mut ranks = Threads::new(3).into_iter();
    let (first, second, third) = (ranks.next().unwrap(), ranks.next().unwrap(), ranks.next().unwrap());
    thread::scope(|scope| {
        let waiting = [first, third].map(|rank| {
            scope.spawn(move || {
                let number = rank.rank();
                (number, rank.sum_f64(&mut [1.0]).unwrap_err())
            })
        });
        let panicked = scope.spawn(move || panic!("rank {} found something wrong", second.rank()));
        assert!(panicked.join().is_err());
        for thread in waiting {
            let (waiting, error) = thread.join().unwrap();
            assert_eq!(error, CollectiveError::RankEnded { ended: 1, waiting, operation: "sum_f64" });
            assert!(error.to_string().starts_with("rank 1 has ended while rank "), "{error}");
        }
    });
}

#[test]
#[should_panic(expected = "5 numbers are not 2 equal parts")]
fn an_exchange_is_of_equal_parts() {
    let rank = Threads::new(2).remove(0);
    let _ = rank.exchange(&[0.0; 5], &mut [0.0; 5]);
}
