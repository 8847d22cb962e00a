//! What the threads of a run are doing, told so that a watchdog can look at them from outside. A thread beats when
//! something came of its work, and says what it works at or waits for; nobody here judges that.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// One thread's part: it writes, others read. Clones are the same one; the default is one that nobody reads.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    name: String,
    beats: AtomicU64,
    turns: AtomicU64,
    doing: Mutex<Doing>,
}

/// What a stage is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It computes, or waits for something outside of the run: a verifier, a disk.
    Works(String),
    /// Another stage has to move before it can.
    Waits(String),
}

impl Default for Doing {
    fn default() -> Self {
        Self::Waits("to begin".to_owned())
    }
}

impl fmt::Display for Doing {
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
    pub beats: u64,
    /// Counts the pieces of work that it began.
    pub turns: u64,
    /// What it is at.
    pub doing: Doing,
}

impl Pulse {
    /// Something came of the work: a token, a verdict, a micro-batch.
    pub fn beat(&self) {
        self.0.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Begins a piece of work.
    pub fn works(&self, at: &str) {
        self.0.turns.fetch_add(1, Ordering::Relaxed);
        self.does(Doing::Works(at.to_owned()));
    }

    /// Begins to wait for another stage: `"for room in the queue"`.
    pub fn waits(&self, what: &str) {
        self.does(Doing::Waits(what.to_owned()));
    }

    fn does(&self, doing: Doing) {
        *self.0.doing.lock().unwrap_or_else(PoisonError::into_inner) = doing;
    }

    fn stage(&self) -> Stage {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stage {
            name: self.0.name.clone(),
            beats: read(&self.0.beats),
            turns: read(&self.0.turns),
            doing: self.0.doing.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// The pulses of a run. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Pulses(Arc<Mutex<Vec<Pulse>>>);

impl Pulses {
    /// The pulse of a stage. Who takes a stage's place goes on with its pulse.
    #[must_use]
    pub fn of(&self, name: &str) -> Pulse {
        let mut pulses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = pulses.iter().find(|pulse| pulse.0.name == name) {
            return known.clone();
        }
        let pulse = Pulse(Arc::new(Inner { name: name.to_owned(), ..Inner::default() }));
        pulses.push(pulse.clone());
        pulse
    }

    /// How every stage stands, in the order in which they came.
    #[must_use]
    pub fn stages(&self) -> Vec<Stage> {
        let pulses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pulses.iter().map(Pulse::stage).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_stand_as_their_threads_last_said() {
        let pulses = Pulses::default();
        let actor = pulses.of("actor-0");
        pulses.of("learner").waits("for 2 groups");
        actor.works("decodes");
        actor.beat();
        // A restarted actor goes on with its pulse.
        pulses.of("actor-0").beat();
        let stages = pulses.stages();
        let told: Vec<String> =
            stages.iter().map(|stage| format!("{} {} {}", stage.name, stage.beats, stage.doing)).collect();
        assert_eq!(told, ["actor-0 2 is at work: decodes", "learner 0 waits for 2 groups"]);
        assert_eq!((stages[0].turns, stages[1].turns), (1, 0));
    }
}
