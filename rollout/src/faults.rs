//! Faults on purpose, for tests and for whoever wants to see what a run survives: the environment variable
//! `LONGHAUL_FAULTS` names points of the program and what happens there.
//!
//! ```text
//! LONGHAUL_FAULTS="actor:panic@40, scorer:delay=200%0.1, checkpoint:fail@2, seed=7"
//! ```
//!
//! `@n` is the n-th time that the point is passed, `%p` any time with probability p by the seed, and neither
//! is every time. Without the variable a point costs one look at a flag.

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use trajectory::random::fraction;

/// The environment variable.
pub const VARIABLE: &str = "LONGHAUL_FAULTS";

/// Where a fault can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Before a decode step of an actor.
    Actor,
    /// Before a group is scored.
    Scorer,
    /// Before an optimizer step.
    Learner,
    /// When a segment is written to the journal.
    Journal,
    /// When a checkpoint is written.
    Checkpoint,
    /// When a line of metrics is written.
    Metrics,
}

const POINTS: [(&str, Point); 6] = [
    ("actor", Point::Actor),
    ("scorer", Point::Scorer),
    ("learner", Point::Learner),
    ("journal", Point::Journal),
    ("checkpoint", Point::Checkpoint),
    ("metrics", Point::Metrics),
];

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Action {
    /// The thread panics.
    Panic,
    /// The thread sleeps.
    Delay(Duration),
    /// A write fails as on a full disk.
    Fail,
    /// The process ends as by `kill -9`.
    Kill,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    Always,
    /// Counted from 1.
    Time(u64),
    Probability(f64),
}

#[derive(Debug)]
struct Rule {
    point: Point,
    action: Action,
    when: When,
    passed: AtomicU64,
}

/// The faults of a process.
#[derive(Debug, Default)]
struct Faults {
    rules: Vec<Rule>,
    seed: u64,
}

static FAULTS: OnceLock<Faults> = OnceLock::new();

/// Reads the environment variable; without a call nothing ever fails on purpose.
///
/// # Errors
/// What cannot be read in it.
pub fn arm() -> Result<(), String> {
    let Ok(text) = std::env::var(VARIABLE) else { return Ok(()) };
    let faults = text.parse::<Faults>().map_err(|reason| format!("{VARIABLE}: {reason}"))?;
    // A second call in one process finds the first one's faults.
    let _ = FAULTS.set(faults);
    Ok(())
}

/// Passes a point: sleeps, panics or ends the process where that is its fault now.
///
/// # Errors
/// If a write is to fail here.
pub fn pass(point: Point) -> std::io::Result<()> {
    match FAULTS.get() {
        Some(faults) => faults.pass(point),
        None => Ok(()),
    }
}

impl Faults {
    fn pass(&self, point: Point) -> std::io::Result<()> {
        for (place, rule) in self.rules.iter().enumerate().filter(|(_, rule)| rule.point == point) {
            let time = rule.passed.fetch_add(1, Ordering::Relaxed) + 1;
            let due = match rule.when {
                When::Always => true,
                When::Time(wanted) => time == wanted,
                When::Probability(probability) => fraction(&[self.seed, place as u64, time]) < probability,
            };
            if !due {
                continue;
            }
            match rule.action {
                Action::Delay(time) => std::thread::sleep(time),
                Action::Fail => return Err(std::io::ErrorKind::StorageFull.into()),
                Action::Panic => panic!("{VARIABLE} asks for a panic here"),
                Action::Kill => std::process::abort(),
            }
        }
        Ok(())
    }
}

impl FromStr for Faults {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.strip_prefix("seed=") {
                Some(seed) => faults.seed = number(seed)?,
                None => faults.rules.push(part.parse()?),
            }
        }
        Ok(faults)
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (point, rest) = text.split_once(':').ok_or_else(|| format!("`{text}` is not POINT:ACTION"))?;
        let (_, point) = POINTS
            .into_iter()
            .find(|(name, _)| *name == point)
            .ok_or_else(|| format!("there is no point `{point}`"))?;
        let (action, when) = match rest.split_once(['@', '%']) {
            None => (rest, When::Always),
            Some((action, value)) if rest[action.len()..].starts_with('@') => {
                (action, When::Time(number(value)?))
            }
            Some((action, value)) => (action, When::Probability(number(value)?)),
        };
        let action = match action.split_once('=') {
            Some(("delay", milliseconds)) => Action::Delay(Duration::from_millis(number(milliseconds)?)),
            None if action == "panic" => Action::Panic,
            None if action == "fail" => Action::Fail,
            None if action == "kill" => Action::Kill,
            _ => return Err(format!("there is no action `{action}`")),
        };
        Ok(Self { point, action, when, passed: AtomicU64::new(0) })
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_comes_when_it_is_due() {
        let faults: Faults = "checkpoint:fail@2, journal:delay=0, metrics:fail%0.5, seed=3".parse().unwrap();
        let failed =
            |point, times: usize| -> Vec<bool> { (0..times).map(|_| faults.pass(point).is_err()).collect() };
        assert_eq!(failed(Point::Checkpoint, 3), [false, true, false]);
        assert_eq!(failed(Point::Journal, 2), [false, false]);
        assert_eq!(failed(Point::Learner, 2), [false, false]);
        let share = failed(Point::Metrics, 1000).into_iter().filter(|failed| *failed).count();
        assert!((400..600).contains(&share), "{share} of 1000");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let refusal = |text: &str| text.parse::<Faults>().unwrap_err();
        assert_eq!(refusal("actor"), "`actor` is not POINT:ACTION");
        assert_eq!(refusal("actr:panic"), "there is no point `actr`");
        assert_eq!(refusal("actor:explode"), "there is no action `explode`");
        assert_eq!(refusal("actor:panic@soon"), "`soon` is not a number");
    }

    #[test]
    #[should_panic(expected = "LONGHAUL_FAULTS asks for a panic here")]
    fn a_panic_is_a_panic() {
        let faults: Faults = "scorer:panic".parse().unwrap();
        let _ = faults.pass(Point::Scorer);
    }
}
