//! The locks of this crate: those of the standard library, and under test of this crate's own code those of `shuttle`,
//! which runs the threads of a scenario in as many orders as it is asked for and reports a deadlock.

#[cfg(not(test))]
pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard};

#[cfg(test)]
pub(crate) use shuttle::sync::{Arc, Condvar, Mutex, MutexGuard};

use std::sync::PoisonError;

/// Locks. What the lock guards is whole after every statement, so a panic elsewhere leaves nothing half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a notification; the caller looks again whether what it waits for has happened.
pub(crate) fn wait<'a, T>(changed: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
}
