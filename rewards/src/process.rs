//! A verifier in any language: a program that reads requests as lines on its standard input and writes verdicts as
//! lines on its standard output. docs/guide/plugins.md describes it from the plugin's side.
//!
//! The plugin is an external program, and it may hang, crash or give invalid replies. Whatever it does, every answer gets
//! a verdict or what `on_error` says within a known time, and nothing of the plugin is left when the run ends.

mod protocol;
mod worker;
mod lane;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use crossbeam::channel::{Sender, bounded};

use crate::on_error::OnError;
use crate::{Answer, RewardError, Verdict, Verifier};
use lane::{Failure, Job, Lane};

/// Processes of one reward. More than this is a mistake: each has its own interpreter, and most their own model.
const WORKERS: RangeInclusive<usize> = 1..=256;
/// Requests in flight to one process. They and their texts are in memory at the same time.
const BATCH: RangeInclusive<usize> = 1..=1024;
/// Milliseconds of a time limit, up to a day.
const MILLISECONDS: RangeInclusive<u64> = 1..=86_400_000;

/// The plugin and how long it may take.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessConfig {
    /// The program and its arguments. No shell reads it.
    pub command: Vec<String>,
    /// Processes that judge at the same time. One by default, because a plugin may hold a model or a device.
    #[serde(default = "one")]
    pub workers: usize,
    /// Requests in flight to one process. One by default: then the time limit is about one answer and it is known
    /// which answer made the plugin fail. More helps a plugin that judges several together.
    #[serde(default = "one")]
    pub batch: usize,
    /// Milliseconds from when a request is sent to its reply. With a batch, that includes the time of the other
    /// requests in flight.
    #[serde(default = "ten_seconds")]
    pub timeout_ms: u64,
    /// Milliseconds that are added, at most, until a new process has given its first reply: imports and models take
    /// long. Once a process has been seen to start, later ones are given little more than what that took.
    #[serde(default = "five_seconds")]
    pub startup_ms: u64,
    /// What an answer is worth on which the plugin failed twice.
    #[serde(default)]
    pub on_error: OnError,
    /// Environment variables beside those of the run. They are written into the run folder: no place for secrets,
    /// which the plugin inherits from the run's own environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
}

fn one() -> usize {
    1
}

fn ten_seconds() -> u64 {
    10_000
}

fn five_seconds() -> u64 {
    5_000
}

impl ProcessConfig {
    fn check(&self) -> Result<(), RewardError> {
        if cfg!(not(unix)) {
            return Err(RewardError::config("kind", "`process` needs a Unix system"));
        }
        if self.command.first().is_none_or(String::is_empty) {
            return Err(RewardError::config(
                "command",
                "must name a program, as [\"python3\", \"reward.py\"]",
            ));
        }
        if self.command.iter().any(|word| word.contains('\0')) {
            return Err(RewardError::config("command", "must not contain the character NUL"));
        }
        let is_name = |name: &str| !name.is_empty() && !name.contains(['=', '\0']);
        let mut pairs = self.environment.iter();
        if let Some((name, _)) = pairs.find(|(name, value)| !is_name(name) || value.contains('\0')) {
            return Err(RewardError::config("environment", format!("{name:?} cannot be set")));
        }
        in_range("workers", self.workers, &WORKERS)?;
        in_range("batch", self.batch, &BATCH)?;
        in_range("timeout_ms", self.timeout_ms, &MILLISECONDS)?;
        in_range("startup_ms", self.startup_ms, &(0..=*MILLISECONDS.end()))
    }
}

/// What happened since the verifier was made.
#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    timeouts: AtomicU64,
    deaths: AtomicU64,
    bad_replies: AtomicU64,
    errors: AtomicU64,
    restarts: AtomicU64,
    retries: AtomicU64,
    failures: AtomicU64,
    /// Milliseconds from the start of a process to its first reply, in the slowest case so far; 0 before the first.
    slowest_start_ms: AtomicU64,
}

/// The lanes' threads and the way to them.
#[derive(Debug)]
struct Lanes {
    jobs: Sender<Job>,
    threads: Vec<JoinHandle<()>>,
}

/// Asks a plugin. Its processes are started with the first answer and end with the verifier.
#[derive(Debug)]
pub struct ProcessVerifier {
    name: String,
    config: ProcessConfig,
    counters: Arc<Counters>,
    lanes: OnceLock<Result<Lanes, String>>,
}

impl ProcessVerifier {
    /// A verifier of this name (for logs) that has not started anything yet.
    ///
    /// # Errors
    /// Names the key that cannot work.
    pub fn new(name: &str, config: ProcessConfig) -> Result<Self, RewardError> {
        config.check()?;
        let (name, counters) = (name.to_string(), Arc::default());
        Ok(ProcessVerifier { name, config, counters, lanes: OnceLock::new() })
    }

    fn jobs(&self) -> Result<&Sender<Job>, RewardError> {
        let lanes = self.lanes.get_or_init(|| self.start_lanes().map_err(|error| error.to_string()));
        match lanes {
            Ok(lanes) => Ok(&lanes.jobs),
            Err(error) => Err(RewardError::Custom(format!("cannot start a thread: {error}"))),
        }
    }

    fn start_lanes(&self) -> std::io::Result<Lanes> {
        // As many as can be taken up without waiting. A caller with more waits, so that no memory is held for them.
        let (jobs, jobs_out) = bounded(self.config.workers);
        let start = |number: usize| {
            let lane = Lane::new(&self.name, &self.config, &self.counters, &jobs_out);
            thread::Builder::new().name(format!("{} {number}", self.name)).spawn(move || lane.run())
        };
        let threads = (0..self.config.workers).map(start).collect::<Result<_, _>>()?;
        Ok(Lanes { jobs, threads })
    }
}

impl Verifier for ProcessVerifier {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        self.verify_all(std::slice::from_ref(answer)).pop().expect("one answer, one verdict")
    }

    fn verify_all(&self, answers: &[Answer<'_>]) -> Vec<Result<Verdict, RewardError>> {
        let unheard = || Err(RewardError::Custom("the plugin's thread ended".to_string()));
        let mut verdicts: Vec<_> = answers.iter().map(|_| unheard()).collect();
        let jobs = match self.jobs() {
            Ok(jobs) => jobs,
            Err(error) => {
                let reason = error.to_string();
                return answers.iter().map(|_| Err(RewardError::Custom(reason.clone()))).collect();
            }
        };
        let (verdicts_in, verdicts_out) = bounded(answers.len());
        for (place, answer) in answers.iter().enumerate() {
            // It fails only if all lanes are gone, and then the answer keeps the error that it has.
            let _ = jobs.send(Job::new(protocol::body(answer), place, verdicts_in.clone()));
        }
        drop(verdicts_in);
        for (place, verdict) in verdicts_out {
            verdicts[place] = match verdict {
                Ok(verdict) => Ok(verdict),
                Err(Failure::Unjudged(reason)) => self.config.on_error.instead(reason),
                Err(Failure::NotStarted(reason)) => Err(RewardError::Custom(reason)),
            };
        }
        verdicts
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        let counters = &self.counters;
        let read = |name: &str, counter: &AtomicU64| (name.to_string(), counter.load(Ordering::Relaxed));
        BTreeMap::from([
            read("requests", &counters.requests),
            read("timeouts", &counters.timeouts),
            read("deaths", &counters.deaths),
            read("bad_replies", &counters.bad_replies),
            read("errors", &counters.errors),
            read("restarts", &counters.restarts),
            read("retries", &counters.retries),
            read("failures", &counters.failures),
        ])
    }
}

impl Drop for ProcessVerifier {
    /// Ends the processes and waits until nothing of them is left.
    fn drop(&mut self) {
        let Some(Ok(Lanes { jobs, threads })) = self.lanes.take() else { return };
        drop(jobs);
        for thread in threads {
            // A lane that panicked has said so itself, and its worker's watchdog ends with its pipe.
            let _ = thread.join();
        }
    }
}

/// Refuses a number outside its range, with the key.
pub(crate) fn in_range<T: PartialOrd + std::fmt::Display>(
    key: &str,
    value: T,
    range: &RangeInclusive<T>,
) -> Result<(), RewardError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(RewardError::config(key, format!("must be from {} to {}, not {value}", range.start(), range.end())))
}
