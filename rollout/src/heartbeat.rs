//! What the threads of a run do, so that a watchdog can look at them from outside. Each thread counts the results of its
//! work, and says what it works at or waits for; what is too slow is decided elsewhere.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// One thread's part: it writes, others read. Clones are the same one; the default is one that nobody reads.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    name: String,
    progress: AtomicU64,
    tasks: AtomicU64,
    status: Mutex<StageStatus>,
}

/// What a stage is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StageStatus {
    /// It computes, or waits for something outside of the run: a verifier, a disk.
    Works(String),
    /// Another stage has to move before it can.
    Waits(String),
}

impl Default for StageStatus {
    fn default() -> Self {
        Self::Waits("to begin".to_owned())
    }
}

impl fmt::Display for StageStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works(what) => write!(f, "is at work: {what}"),
            Self::Waits(what) => write!(f, "waits {what}"),
        }
    }
}

/// A stage as it stood when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The thread's name.
    pub name: String,
    /// Counts what came of its work; any change is progress.
    pub progress: u64,
    /// Counts the pieces of work that it began.
    pub tasks: u64,
    /// What it is at.
    pub status: StageStatus,
}

impl Heartbeat {
    /// Something came of the work: a token, a verdict, a micro-batch.
    pub fn progressed(&self) {
        self.0.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// Begins a piece of work.
    pub fn works(&self, at: &str) {
        self.0.tasks.fetch_add(1, Ordering::Relaxed);
        self.does(StageStatus::Works(at.to_owned()));
    }

    /// Begins to wait for another stage: `"for room in the queue"`.
    pub fn waits(&self, what: &str) {
        self.does(StageStatus::Waits(what.to_owned()));
    }

    fn does(&self, status: StageStatus) {
        *self.0.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    fn stage(&self) -> Stage {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stage {
            name: self.0.name.clone(),
            progress: read(&self.0.progress),
            tasks: read(&self.0.tasks),
            status: self.0.status.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// The heartbeats of a run. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Heartbeats(Arc<Mutex<Vec<Heartbeat>>>);

impl Heartbeats {
    /// The heartbeat of a stage. Who takes a stage's place goes on with its heartbeat.
    #[must_use]
    pub fn of(&self, name: &str) -> Heartbeat {
        let mut heartbeats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = heartbeats.iter().find(|heartbeat| heartbeat.0.name == name) {
            return known.clone();
        }
        let heartbeat = Heartbeat(Arc::new(Inner { name: name.to_owned(), ..Inner::default() }));
        heartbeats.push(heartbeat.clone());
        heartbeat
    }

    /// How every stage stands, in the order in which they came.
    #[must_use]
    pub fn stages(&self) -> Vec<Stage> {
        let heartbeats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heartbeats.iter().map(Heartbeat::stage).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_stand_as_their_threads_last_said() {
        let heartbeats = Heartbeats::default();
        let actor = heartbeats.of("actor-0");
        heartbeats.of("learner").waits("for 2 groups");
        actor.works("decodes");
        actor.progressed();
        // A restarted actor goes on with its heartbeat.
        heartbeats.of("actor-0").progressed();
        let stages = heartbeats.stages();
        let told: Vec<String> = stages
            .iter()
            .map(|stage| format!("{} {} {}", stage.name, stage.progress, stage.status))
            .collect();
        assert_eq!(told, ["actor-0 2 is at work: decodes", "learner 0 waits for 2 groups"]);
        assert_eq!((stages[0].tasks, stages[1].tasks), (1, 0));
    }
}
