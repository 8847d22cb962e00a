//! Ranks under every order of their threads that `shuttle` tries: no rank waits forever, and no order changes a sum.

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};

use crate::{Collective, CollectiveError, Threads};

/// Schedules of either kind.
const SCHEDULES: usize = 1_000;

/// PCT finds what needs up to so many changes of turn at the wrong moment.
const PCT_DEPTH: usize = 3;

const SEED: u64 = 1;

fn explore(scenario: fn()) {
    run_under(RandomScheduler::new_from_seed(SEED, SCHEDULES), scenario);
    run_under(PctScheduler::new_from_seed(SEED, PCT_DEPTH, SCHEDULES), scenario);
}

fn run_under(scheduler: impl Scheduler + 'static, scenario: fn()) {
    Runner::new(scheduler, Config::new()).run(scenario);
}

/// Runs a rank's part on a thread for each, and gives the results in the order of the ranks.
fn on_threads<R: Send + 'static>(ranks: usize, part: fn(Threads) -> R) -> Vec<R> {
    let threads: Vec<_> =
        Threads::new(ranks).into_iter().map(|rank| shuttle::thread::spawn(move || part(rank))).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn no_order_of_threads_changes_a_result() {
    explore(|| {
        let found = on_threads(3, |rank| {
            // 1e8 + 1 - 1e8 is 0 in this order alone.
            let mut large = [[1e8_f32, 1.0, -1e8][rank.rank()]; 4];
            rank.sum(&mut large).unwrap();
            rank.barrier().unwrap();
            let mut bytes = vec![rank.rank() as u8 + 7];
            rank.share(&mut bytes).unwrap();
            let mut received = [0.0; 3];
            rank.exchange(&[rank.rank() as f32; 3], &mut received).unwrap();
            let mut counts = [rank.rank() as f64];
            rank.sum_f64(&mut counts).unwrap();
            (large, bytes, received, counts)
        });
        assert!(found.iter().all(|found| *found == ([0.0; 4], vec![7], [0.0, 1.0, 2.0], [3.0])), "{found:?}");
    });
}

#[test]
fn a_rank_that_ends_leaves_nobody_waiting() {
    explore(|| {
        let found = on_threads(3, |rank| {
            let mut numbers = [1.0_f32; 2];
            rank.sum(&mut numbers).unwrap();
            if rank.rank() == 1 {
                return None;
            }
            Some((rank.rank(), rank.sum(&mut numbers).unwrap_err(), rank.barrier().unwrap_err()))
        });
        for (rank, sum, barrier) in found.into_iter().flatten() {
            // The first rank that has ended is named, also to those that come after others have given up.
            for (error, operation) in [(sum, "sum"), (barrier, "barrier")] {
                let expected = CollectiveError::RankEnded { ended: 1, waiting: rank, operation };
                assert_eq!(error, expected);
            }
        }
    });
}

#[test]
fn ranks_at_different_operations_are_told_so() {
    explore(|| {
        let errors = on_threads(2, |rank| match rank.rank() {
            0 => rank.sum(&mut [0.0; 3]).unwrap_err(),
            _ => rank.sum(&mut [0.0; 4]).unwrap_err(),
        });
        let expected = "the ranks are not at the same operation: rank 0 calls `sum` of 3 numbers, rank 1 calls `sum` \
                        of 4 numbers";
        assert!(errors.iter().all(|error| error.to_string() == expected), "{errors:?}");
    });
}
