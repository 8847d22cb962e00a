//! What threads of this crate meet at: locks, condition variables and channels. They are those of the standard
//! library and of crossbeam, and this file is the whole of what can be done with them.
//!
//! In tests each is one of two: the same, or one under the scheduler of `shuttle`, which runs all threads of a
//! scenario in turns, in as many orders as it is asked for. Which one it is depends on where it is made:
//! inside [`explore`] or not. There a time limit never passes, so a wake-up that is lost is a deadlock,
//! which `shuttle` reports with the schedule that leads to it.

#[cfg(test)]
mod explored;

#[cfg(not(test))]
pub(crate) use crossbeam::channel::{Receiver, Sender, bounded};
#[cfg(not(test))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

#[cfg(test)]
pub(crate) use explored::{Condvar, Mutex, MutexGuard, Receiver, Sender, bounded, explore, lock, wait};

#[cfg(not(test))]
use std::sync::PoisonError;
#[cfg(not(test))]
use std::time::Duration;

/// Locks; what our locks guard is whole after every statement, so a panic elsewhere leaves nothing half done.
#[cfg(not(test))]
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until somebody notifies or the limit has passed, or for less.
#[cfg(not(test))]
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>, limit: Duration) -> MutexGuard<'a, T> {
    condvar.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner).0
}
