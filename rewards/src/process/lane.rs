//! A lane: the thread that leads one worker after another through the requests, and decides whose fault it was
//! when a worker fails.
//!
//! With several requests in flight it is not known which of them made a worker hang or die. So a request is found
//! guilty only where no other can be: it failed once before, and failed again alone on a fresh worker, or gave a bad
//! reply under its own id. Every second try is made alone. One that fails alone on a worker that judged others
//! before is tried once more on a fresh one, because what it stumbled over may have been theirs. So a request is
//! blamed at most three times, and a request that shared a worker with a guilty one loses time and nothing else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, at, never, select_biased};

use super::protocol::{self, Said};
use super::worker::{Heard, Worker};
use super::{Counters, ProcessConfig};
use crate::Verdict;

/// The wait before a worker is started again: this, doubled by every further fault without a verdict between them.
const BACK_OFF: Duration = Duration::from_millis(10);
/// The longest such wait. A plugin that always fails at its start must not fill the machine with its starts.
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// Why an answer got no verdict.
pub(super) enum Failure {
    /// The plugin failed on it, which the config has an answer to.
    Unjudged(String),
    /// The plugin cannot be started at all, which no config wants to go on with.
    NotStarted(String),
}

/// One answer on its way to a verdict.
pub(super) struct Job {
    /// The request without its id.
    pub(super) body: String,
    /// Place among the answers that were asked for together.
    pub(super) place: usize,
    /// Where the verdict goes. It has room for all of them.
    pub(super) verdicts: Sender<(usize, Result<Verdict, Failure>)>,
    /// Whether it was sent before.
    is_retry: bool,
    /// Whether a worker failed on it before, perhaps for another's fault.
    is_suspect: bool,
}

impl Job {
    pub(super) fn new(
        body: String,
        place: usize,
        verdicts: Sender<(usize, Result<Verdict, Failure>)>,
    ) -> Self {
        Job { body, place, verdicts, is_retry: false, is_suspect: false }
    }

    fn finish(self, verdict: Result<Verdict, Failure>) {
        // The caller may have dropped its receiver after an error of another answer.
        let _ = self.verdicts.send((self.place, verdict));
    }
}

struct Flight {
    id: u64,
    deadline: Instant,
    job: Job,
}

/// Who may have made a worker fail.
enum Blame {
    /// One of those in flight; which one is not known.
    Anyone,
    /// The one whose id the bad reply had.
    Id(u64),
    /// One that has its verdict.
    Earlier,
}

/// What happens next to a lane.
enum Event {
    Heard(Heard),
    Job(Job),
    TimedOut,
    NoMoreJobs,
}

/// One worker after another, with the requests that are its own.
pub(super) struct Lane {
    name: String,
    config: ProcessConfig,
    counters: Arc<Counters>,
    /// The requests of all lanes.
    jobs: Receiver<Job>,
    worker: Option<Worker>,
    in_flight: Vec<Flight>,
    /// To be sent before any other, in this order.
    waiting: VecDeque<Job>,
    /// Faults since the last verdict.
    faults: u32,
    started: bool,
}

impl Lane {
    pub(super) fn new(
        name: &str,
        config: &ProcessConfig,
        counters: &Arc<Counters>,
        jobs: &Receiver<Job>,
    ) -> Self {
        Lane {
            name: name.to_string(),
            config: config.clone(),
            counters: Arc::clone(counters),
            jobs: jobs.clone(),
            worker: None,
            in_flight: Vec::with_capacity(config.batch),
            waiting: VecDeque::new(),
            faults: 0,
            started: false,
        }
    }

    /// Judges until there will be no more requests.
    pub(super) fn run(mut self) {
        loop {
            self.send_waiting();
            match self.next_event() {
                Event::Heard(Heard::Line(line)) => self.hear(&line),
                Event::Heard(Heard::Overlong) => {
                    Counters::add(&self.counters.bad_replies);
                    self.fault(&Blame::Anyone, "a line longer than a reply may be");
                }
                Event::Heard(Heard::Ended) => {
                    Counters::add(&self.counters.deaths);
                    let end = self.worker.as_mut().map_or_else(String::new, Worker::end_in_words);
                    self.fault(&Blame::Anyone, &end);
                }
                Event::Job(job) => self.waiting.push_back(job),
                Event::TimedOut => {
                    Counters::add(&self.counters.timeouts);
                    self.fault(&Blame::Anyone, "no reply in time");
                }
                Event::NoMoreJobs => break,
            }
        }
        if let Some(worker) = self.worker {
            worker.stop();
        }
    }

    /// What comes first. A reply that is there counts, even at its deadline.
    fn next_event(&self) -> Event {
        let heard = self.worker.as_ref().map_or_else(never, |worker| worker.heard.clone());
        let jobs = if self.has_room() { self.jobs.clone() } else { never() };
        let deadline = self.in_flight.iter().map(|flight| flight.deadline).min().map_or_else(never, at);
        select_biased! {
            recv(heard) -> heard => Event::Heard(heard.unwrap_or(Heard::Ended)),
            recv(deadline) -> _ => Event::TimedOut,
            recv(jobs) -> job => job.map_or(Event::NoMoreJobs, Event::Job),
        }
    }

    /// Whether another request may be sent now. A suspect is alone with its worker.
    fn has_room(&self) -> bool {
        let is_free = self.in_flight.len() < self.config.batch;
        is_free && self.waiting.is_empty() && !self.in_flight.iter().any(|flight| flight.job.is_suspect)
    }

    fn send_waiting(&mut self) {
        while self.in_flight.len() < self.config.batch
            && !self.in_flight.iter().any(|flight| flight.job.is_suspect)
            && self.waiting.front().is_some_and(|job| !job.is_suspect || self.in_flight.is_empty())
        {
            let Some(job) = self.waiting.pop_front() else { return };
            match self.worker() {
                Ok(()) => self.send(job),
                Err(reason) => self.not_started(job, reason),
            }
        }
    }

    /// Sees to it that there is a worker.
    fn worker(&mut self) -> Result<(), String> {
        if self.worker.is_some() {
            return Ok(());
        }
        if self.faults > 0 {
            // No other thread waits for this one: the requests in flight ended with the last worker.
            let doubled = BACK_OFF.saturating_mul(1_u32.checked_shl(self.faults - 1).unwrap_or(u32::MAX));
            thread::sleep(doubled.min(BACK_OFF_MAX));
        }
        let worker = Worker::start(&self.name, &self.config)?;
        if std::mem::replace(&mut self.started, true) {
            Counters::add(&self.counters.restarts);
        }
        self.worker = Some(worker);
        Ok(())
    }

    fn send(&mut self, mut job: Job) {
        let Some(worker) = &mut self.worker else { return self.waiting.push_front(job) };
        let startup = if worker.has_answered { 0 } else { startup_ms(&self.config, &self.counters) };
        let deadline = Instant::now() + Duration::from_millis(self.config.timeout_ms + startup);
        let id = worker.sent;
        let sent = worker.send(protocol::line(id, &job.body));
        let counter = if job.is_retry { &self.counters.retries } else { &self.counters.requests };
        Counters::add(counter);
        job.is_retry = true;
        self.in_flight.push(Flight { id, deadline, job });
        if let Err(reason) = sent {
            Counters::add(&self.counters.deaths);
            self.fault(&Blame::Anyone, reason);
        }
    }

    fn hear(&mut self, line: &[u8]) {
        let said = protocol::read(line);
        let id = match &said {
            Said::Verdict(id, _) | Said::Error(id, _) => Some(*id),
            Said::Nonsense(id, _) => *id,
        };
        let place = self.in_flight.iter().position(|flight| Some(flight.id) == id);
        match (said, place) {
            (Said::Verdict(_, verdict), Some(place)) => {
                self.in_flight.remove(place).job.finish(Ok(verdict));
                self.worker_answered();
            }
            (Said::Error(_, reason), Some(place)) => {
                let mut job = self.in_flight.remove(place).job;
                self.worker_answered();
                Counters::add(&self.counters.errors);
                if std::mem::replace(&mut job.is_suspect, true) {
                    self.fail(job, format!("the plugin says: {reason}"));
                } else {
                    self.waiting.push_front(job);
                }
            }
            (Said::Nonsense(_, reason), place) => {
                Counters::add(&self.counters.bad_replies);
                let blame = place.map_or(Blame::Anyone, |place| Blame::Id(self.in_flight[place].id));
                self.fault(&blame, &format!("a bad reply: {reason}"));
            }
            (Said::Verdict(id, _) | Said::Error(id, _), None) => {
                Counters::add(&self.counters.bad_replies);
                let is_known = self.worker.as_ref().is_some_and(|worker| id < worker.sent);
                match is_known {
                    true => self.fault(&Blame::Earlier, &format!("a second reply to the request {id}")),
                    false => self.fault(&Blame::Anyone, &format!("a reply to {id}, which was never asked")),
                }
            }
        }
    }

    fn worker_answered(&mut self) {
        self.faults = 0;
        if let Some(worker) = &mut self.worker
            && !std::mem::replace(&mut worker.has_answered, true)
        {
            let took = u64::try_from(worker.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.counters.slowest_start_ms.fetch_max(took.max(1), Ordering::Relaxed);
        }
    }

    /// The worker is of no use any more: it is ended, and what it was asked is tried again or given up.
    fn fault(&mut self, blame: &Blame, reason: &str) {
        self.faults = self.faults.saturating_add(1);
        let Some(worker) = self.worker.take() else { return };
        let was_fresh = worker.sent == 1;
        worker.kill();
        let (name, in_flight) = (&self.name, self.in_flight.len());
        tracing::warn!(target: "rewards::process", reward = name, in_flight, "plugin failed: {reason}");
        // From behind, so that they wait in the order in which they were sent.
        while let Some(Flight { id, mut job, .. }) = self.in_flight.pop() {
            let (is_blamed, is_certain) = match blame {
                Blame::Anyone => (true, was_fresh),
                Blame::Id(guilty) => (id == *guilty, true),
                Blame::Earlier => (false, false),
            };
            if is_blamed && is_certain && job.is_suspect {
                self.fail(job, format!("plugin failed twice on the answer: {reason}"));
                continue;
            }
            job.is_suspect |= is_blamed;
            self.waiting.push_front(job);
        }
    }

    fn not_started(&mut self, mut job: Job, reason: String) {
        self.faults = self.faults.saturating_add(1);
        tracing::warn!(target: "rewards::process", reward = self.name, "{reason}");
        if std::mem::replace(&mut job.is_suspect, true) {
            Counters::add(&self.counters.failures);
            job.finish(Err(Failure::NotStarted(reason)));
        } else {
            self.waiting.push_front(job);
        }
    }

    fn fail(&self, job: Job, reason: String) {
        Counters::add(&self.counters.failures);
        job.finish(Err(Failure::Unjudged(reason)));
    }
}

/// How much longer than `timeout_ms` a new process may take to its first reply. An answer that makes the plugin hang
/// is tried on new processes only, so the full allowance would be paid for each; what starts took so far tells how
/// little of it is needed, with room for a machine that has become busier.
fn startup_ms(config: &ProcessConfig, counters: &Counters) -> u64 {
    match counters.slowest_start_ms.load(Ordering::Relaxed) {
        0 => config.startup_ms,
        took => config.startup_ms.min(took.saturating_mul(3).saturating_add(500)),
    }
}

impl Counters {
    fn add(counter: &std::sync::atomic::AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
