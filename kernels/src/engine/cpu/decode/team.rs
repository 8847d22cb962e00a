//! Threads that do the pieces of a pass's steps together.
//!
//! A step of decoding takes about as long as waking a thread does. Threads of the pool therefore wait for the next
//! step's pieces in a loop for as long as a pass lasts, and whoever is free takes the next piece. A thread that the
//! pool does not give is not waited for: who leads takes the pieces itself.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a helper spins without work before it leaves, which bounds the delay of the work that it interrupted.
const AWAKE_MAX: Duration = Duration::from_micros(200);
/// How often a helper polls before it gives its core to others.
const LOOKS_MAX: u32 = 1 << 14;

#[derive(Default)]
pub(super) struct Team {
    /// Pieces of the step that nobody has taken.
    left: AtomicUsize,
    /// Pieces of the step that are not done.
    undone: AtomicUsize,
    /// Threads that steal pieces beside the one that leads.
    helpers: AtomicUsize,
    over: AtomicBool,
}

impl Team {
    /// Counts one more helper, which is about to come, if there are fewer than these.
    pub(super) fn wants_helper(&self, helpers_max: usize) -> bool {
        let has = self.helpers.load(Ordering::Relaxed);
        if has < helpers_max {
            self.helpers.fetch_add(1, Ordering::Relaxed);
        }
        has < helpers_max
    }

    /// Does pieces of steps, and other work of the pool between them, until the pass is over or nothing came for a
    /// while.
    pub(super) fn help(&self, work: impl Fn(usize)) {
        let mut worked = Instant::now();
        while !self.over.load(Ordering::Acquire) && worked.elapsed() < AWAKE_MAX {
            if self.take_piece(&work) || rayon::yield_now() == Some(rayon::Yield::Executed) {
                worked = Instant::now();
            } else {
                std::hint::spin_loop();
            }
        }
        self.helpers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Does a step: `work` for each number from its pieces down to 1. Returns when all are done.
    pub(super) fn lead(&self, pieces: usize, work: impl Fn(usize)) {
        self.undone.store(pieces, Ordering::Relaxed);
        self.left.store(pieces, Ordering::Release);
        while self.take_piece(&work) {}
        let mut looks = 0;
        while self.undone.load(Ordering::Acquire) > 0 {
            looks += 1;
            if looks % LOOKS_MAX == 0 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// Lets the helpers go.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    fn take_piece(&self, work: &impl Fn(usize)) -> bool {
        // No step begins before all pieces of the last one are done, so that what is taken is always of this one.
        let taken = self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1));
        let Ok(piece) = taken else { return false };
        let _done = Done(&self.undone);
        work(piece);
        true
    }
}

/// Counts a piece as done, also when it panics: who leads finds what it did poisoned.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rayon::Scope;

    use super::Team;

    const THREADS: usize = 4;

    /// Leads steps of so many pieces with helpers, each piece adding to the count of its number.
    fn lead_steps(steps: &[usize], work: impl Fn(usize) + Sync + Send + Copy) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(THREADS).build().unwrap();
        let team = Team::default();
        pool.scope(|scope: &Scope<'_>| {
            for pieces in steps {
                while team.wants_helper(THREADS - 1) {
                    let team = &team;
                    scope.spawn(move |_| team.help(work));
                }
                team.lead(*pieces, work);
            }
            team.end();
        });
        assert_eq!(team.helpers.load(Ordering::Relaxed), 0, "all helpers have left");
    }

    #[test]
    fn every_piece_of_every_step_is_done_once_and_before_the_next_step() {
        let steps: Vec<usize> = (0..2000).map(|step| step % 13).collect();
        let (done, sum) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let expected: usize = steps.iter().map(|pieces| pieces * (pieces + 1) / 2).sum();
        lead_steps(&steps, |piece| {
            done.fetch_add(1, Ordering::Relaxed);
            sum.fetch_add(piece, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), steps.iter().sum::<usize>());
        assert_eq!(sum.into_inner(), expected);
        // A piece of a step finds everything of the steps before it.
        let count = AtomicUsize::new(0);
        lead_steps(&[1; 500], |_| {
            let before = count.load(Ordering::Relaxed);
            count.store(before + 1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 500);
    }

    #[test]
    fn a_panic_in_a_piece_ends_the_pass_and_no_thread_waits_forever() {
        for bad in [1, 7] {
            let ended = catch_unwind(AssertUnwindSafe(|| {
                lead_steps(&[8, 8, 8], |piece| assert_ne!(piece, bad, "this piece fails"));
            }));
            assert!(ended.is_err(), "the panic is passed on");
        }
    }
}
