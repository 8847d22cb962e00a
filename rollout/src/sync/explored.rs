//! Locks, condition variables and channels that are real ones or explored ones, and the exploration.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Duration;

use crossbeam::channel::{RecvError, SendError, TryRecvError, TrySendError};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

thread_local! {
    /// All threads of a scenario are one thread of the machine, so this is true for all of them.
    static EXPLORING: Cell<bool> = const { Cell::new(false) };
}

/// As many schedules of either kind in an ordinary test; `LONGHAUL_SCHEDULES` asks for more.
const SCHEDULES: usize = 1_000;

const SEED: u64 = 1;

/// PCT finds what needs up to so many changes of turn at the wrong moment.
const PCT_DEPTH: usize = 3;

/// Runs a scenario under many schedules, the half of them random and the others by PCT (Burckhardt et al. 2010),
/// which finds rare orders that need few changes of turn. The same seed gives the same schedules; shuttle reads
/// another one from `SHUTTLE_RANDOM_SEED`.
pub(crate) fn explore(scenario: impl Fn() + Send + Sync + Clone + 'static) {
    let wanted = std::env::var("LONGHAUL_SCHEDULES");
    let schedules = wanted.map_or(SCHEDULES, |count| count.parse().expect("LONGHAUL_SCHEDULES is a number"));
    explore_with(RandomScheduler::new_from_seed(SEED, schedules), scenario.clone());
    explore_with(PctScheduler::new_from_seed(SEED, PCT_DEPTH, schedules), scenario);
}

fn explore_with(scheduler: impl Scheduler + 'static, scenario: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    // Tokenizers and formatting of what failed need more than the 32 KiB that are usual there.
    config.stack_size = 1 << 18;
    // A scenario takes some hundred turns; one that goes on for ever fails.
    config.max_steps = MaxSteps::FailAfter(100_000);
    EXPLORING.set(true);
    Runner::new(scheduler, config).run(scenario);
    EXPLORING.set(false);
}

/// `std::sync::Mutex` or shuttle's.
pub enum Mutex<T> {
    Real(std::sync::Mutex<T>),
    Explored(shuttle::sync::Mutex<T>),
}

/// Its guard.
pub(crate) enum MutexGuard<'a, T> {
    Real(std::sync::MutexGuard<'a, T>),
    Explored(shuttle::sync::MutexGuard<'a, T>),
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        match EXPLORING.get() {
            true => Self::Explored(shuttle::sync::Mutex::new(value)),
            false => Self::Real(std::sync::Mutex::new(value)),
        }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> std::fmt::Debug for Mutex<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Mutex")
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Real(guard) => guard,
            Self::Explored(guard) => guard,
        }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match self {
            Self::Real(guard) => guard,
            Self::Explored(guard) => guard,
        }
    }
}

/// `std::sync::Condvar` or shuttle's.
#[derive(Debug, Default)]
pub(crate) struct Condvar {
    real: std::sync::Condvar,
    explored: shuttle::sync::Condvar,
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_all(&self) {
        match EXPLORING.get() {
            true => self.explored.notify_all(),
            false => self.real.notify_all(),
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    match mutex {
        Mutex::Real(mutex) => MutexGuard::Real(mutex.lock().unwrap_or_else(PoisonError::into_inner)),
        Mutex::Explored(mutex) => MutexGuard::Explored(mutex.lock().unwrap_or_else(PoisonError::into_inner)),
    }
}

pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>, limit: Duration) -> MutexGuard<'a, T> {
    match guard {
        MutexGuard::Real(guard) => {
            let woken = condvar.real.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner);
            MutexGuard::Real(woken.0)
        }
        MutexGuard::Explored(guard) => {
            MutexGuard::Explored(condvar.explored.wait(guard).unwrap_or_else(PoisonError::into_inner))
        }
    }
}

/// Crossbeam's sender, which gives its turn away where it would wait.
pub(crate) struct Sender<T>(crossbeam::channel::Sender<T>);

/// Crossbeam's receiver, which gives its turn away where it would wait.
pub(crate) struct Receiver<T>(crossbeam::channel::Receiver<T>);

pub(crate) fn bounded<T>(room: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = crossbeam::channel::bounded(room);
    (Sender(sender), Receiver(receiver))
}

// Derived code would ask for `T: Clone`.
impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Sender<T> {
    pub(crate) fn send(&self, mut value: T) -> Result<(), SendError<T>> {
        if !EXPLORING.get() {
            return self.0.send(value);
        }
        loop {
            value = match self.0.try_send(value) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(value)) => return Err(SendError(value)),
                Err(TrySendError::Full(value)) => value,
            };
            shuttle::thread::yield_now();
        }
    }
}

impl<T> Receiver<T> {
    pub(crate) fn recv(&self) -> Result<T, RecvError> {
        if !EXPLORING.get() {
            return self.0.recv();
        }
        loop {
            match self.0.try_recv() {
                Ok(value) => return Ok(value),
                Err(TryRecvError::Disconnected) => return Err(RecvError),
                Err(TryRecvError::Empty) => shuttle::thread::yield_now(),
            }
        }
    }

    pub(crate) fn try_iter(&self) -> impl Iterator<Item = T> {
        self.0.try_iter()
    }
}

/// The values of a receiver until its senders are gone.
pub(crate) struct Values<'a, T>(&'a Receiver<T>);

impl<T> Iterator for Values<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

impl<'a, T> IntoIterator for &'a Receiver<T> {
    type Item = T;
    type IntoIter = Values<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        Values(self)
    }
}
