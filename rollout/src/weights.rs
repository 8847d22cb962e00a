//! The way of weights from the learner to the actors: one cell in which the newest wins. Publishing never
//! blocks, and weights that no actor took are replaced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, lock, wait};

/// Weights with the version they are.
#[derive(Debug)]
pub struct Versioned<W> {
    /// The policy version.
    pub version: u64,
    /// The weights.
    pub weights: Arc<W>,
}

// Derived code would ask for `W: Clone`, and the weights themselves are never copied.
impl<W> Clone for Versioned<W> {
    fn clone(&self) -> Self {
        Self { version: self.version, weights: self.weights.clone() }
    }
}

/// The newest weights.
#[derive(Debug)]
pub struct WeightsCell<W> {
    newest: Mutex<Versioned<W>>,
    notify: Notify,
}

impl<W> WeightsCell<W> {
    /// A cell with first weights; `notify` wakes those who wait for newer ones.
    pub fn new(version: u64, weights: Arc<W>, notify: Notify) -> Self {
        Self { newest: Mutex::new(Versioned { version, weights }), notify }
    }

    /// Replaces the weights. Versions strictly rise.
    pub fn publish(&self, version: u64, weights: Arc<W>) {
        let replaced = {
            let mut newest = lock(&self.newest);
            assert!(version > newest.version, "version {version} published after {}", newest.version);
            std::mem::replace(&mut *newest, Versioned { version, weights })
        };
        self.notify.notify_all();
        // The last owner frees device memory, which may take long: never under the lock.
        drop(replaced);
    }

    /// The newest weights.
    pub fn latest(&self) -> Versioned<W> {
        lock(&self.newest).clone()
    }

    /// The version of the newest weights.
    pub fn version(&self) -> u64 {
        lock(&self.newest).version
    }
}

/// Wakes threads that wait for anything to change. It counts its notifications, so that one between looking and
/// waiting is not missed.
#[derive(Debug, Clone, Default)]
pub struct Notify(Arc<(Mutex<u64>, Condvar)>);

impl Notify {
    /// No notification yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes all who wait.
    pub fn notify_all(&self) {
        *lock(&self.0.0) += 1;
        self.0.1.notify_all();
    }

    /// The number of notifications so far.
    pub fn count(&self) -> u64 {
        *lock(&self.0.0)
    }

    /// Waits until there were more than `seen` notifications, at most for `limit`.
    pub fn wait_past(&self, seen: u64, limit: Duration) {
        let began = Instant::now();
        let mut count = lock(&self.0.0);
        while *count <= seen {
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                return;
            }
            count = wait(&self.0.1, count, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::explore;

    #[test]
    fn the_newest_weights_win() {
        let notify = Notify::new();
        let cell = WeightsCell::new(0, Arc::new("a"), notify.clone());
        cell.publish(1, Arc::new("b"));
        cell.publish(4, Arc::new("c"));
        let latest = cell.latest();
        assert_eq!((latest.version, *latest.weights, cell.version()), (4, "c", 4));
        assert_eq!(notify.count(), 2);
    }

    // Invariant 7: versions never fall, nor do they repeat.
    #[test]
    #[should_panic(expected = "version 3 published after 3")]
    fn a_version_is_published_once() {
        let cell = WeightsCell::new(3, Arc::new(()), Notify::new());
        cell.publish(3, Arc::new(()));
    }

    #[test]
    fn a_notification_before_the_wait_is_not_missed() {
        let notify = Notify::new();
        let seen = notify.count();
        notify.notify_all();
        // A missed notification would show as a test that takes an hour.
        notify.wait_past(seen, Duration::from_secs(3600));
    }

    // Invariant 7: versions never fall, and nobody sleeps through the last of them, in any order of the threads.
    #[test]
    fn no_notification_between_look_and_wait_is_missed() {
        const LAST: u64 = 3;
        explore(|| {
            let notify = Notify::new();
            let cell = Arc::new(WeightsCell::new(0, Arc::new(0), notify.clone()));
            let waiters = [0, 1].map(|_| {
                let (cell, notify) = (cell.clone(), notify.clone());
                shuttle::thread::spawn(move || {
                    let mut newest = 0;
                    while newest < LAST {
                        let seen = notify.count();
                        let latest = cell.latest();
                        assert!(latest.version >= newest && *latest.weights == latest.version);
                        newest = latest.version;
                        if newest < LAST {
                            notify.wait_past(seen, Duration::from_secs(1));
                        }
                    }
                })
            });
            (1..=LAST).for_each(|version| cell.publish(version, Arc::new(version)));
            for waiter in waiters {
                waiter.join().expect("the waiter does not panic");
            }
        });
    }

    #[test]
    fn a_publish_wakes_those_who_wait() {
        let notify = Notify::new();
        let cell = WeightsCell::new(0, Arc::new(()), notify.clone());
        let seen = notify.count();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| notify.wait_past(seen, Duration::from_secs(3600)));
            cell.publish(1, Arc::new(()));
            waiter.join().expect("the waiter does not panic");
        });
    }
}
