//! Looks at the stages of a run from outside. A run that hangs says which stage waits for which, and ends with an
//! exit code of its own rather than holding a machine for nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rollout::{Heartbeats, ReplayQueue, Stage, StageStatus};

use crate::config::WatchdogSection;
use crate::watch::progress::duration;
use crate::watch::shutdown::Shutdown;

/// The exit code of a run that stood still or could not stop in time: `EX_TEMPFAIL`, so that who started it may try
/// again with `--resume`.
pub const STALLED: u8 = 75;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A run that made no progress and was ended for it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Stalled(pub String);

/// What a look at the stages came to.
#[derive(Clone, Debug, PartialEq)]
pub enum StallAlert {
    /// There is nothing to say.
    None,
    /// No progress for too long.
    Warn(String),
    /// No progress for so long that the run is to end.
    End(String),
}

/// Decides from successive looks whether a run stands still. It does where one stage is at the same piece of work
/// without progress, or where no stage makes any, as when each waits for another.
#[derive(Debug)]
pub struct StallDetector {
    config: WatchdogSection,
    seen: Vec<Seen>,
    next_warning_s: f64,
}

#[derive(Debug)]
struct Seen {
    progress: u64,
    tasks: u64,
    /// When it last made progress.
    progress_at: f64,
    /// When it last made progress or began something new.
    moved_at: f64,
}

impl StallDetector {
    /// Has seen nothing yet.
    #[must_use]
    pub fn new(config: WatchdogSection) -> Self {
        Self { next_warning_s: config.warn_after_s, config, seen: Vec::new() }
    }

    /// The stages as they stand `now`, in seconds on any clock; `queue` says how full the queue is. Warns again
    /// after twice the time, then four times, and so on.
    pub fn look(&mut self, now: f64, stages: &[Stage], queue: &str) -> StallAlert {
        self.see(now, stages);
        let working =
            self.seen.iter().zip(stages).filter(|(_, stage)| matches!(stage.status, StageStatus::Works(_)));
        let stuck = working.map(|(seen, _)| now - seen.moved_at).fold(0.0, f64::max);
        let silent = self.seen.iter().map(|seen| now - seen.progress_at).fold(f64::INFINITY, f64::min);
        let stalled = if stages.is_empty() { 0.0 } else { stuck.max(silent) };
        if self.config.end_after_s > 0.0 && stalled >= self.config.end_after_s {
            return StallAlert::End(self.told(now, stalled, stages, queue));
        }
        if self.config.warn_after_s <= 0.0 || stalled < self.config.warn_after_s {
            self.next_warning_s = self.config.warn_after_s;
            return StallAlert::None;
        }
        if stalled < self.next_warning_s {
            return StallAlert::None;
        }
        self.next_warning_s = 2.0 * self.next_warning_s.max(stalled / 2.0);
        StallAlert::Warn(self.told(now, stalled, stages, queue))
    }

    fn see(&mut self, now: f64, stages: &[Stage]) {
        for (place, stage) in stages.iter().enumerate() {
            let Some(seen) = self.seen.get_mut(place) else {
                let Stage { progress, tasks, .. } = *stage;
                self.seen.push(Seen { progress, tasks, progress_at: now, moved_at: now });
                continue;
            };
            if seen.progress != stage.progress {
                (seen.progress, seen.progress_at, seen.moved_at) = (stage.progress, now, now);
            }
            if seen.tasks != stage.tasks {
                (seen.tasks, seen.moved_at) = (stage.tasks, now);
            }
        }
    }

    fn told(&self, now: f64, stalled: f64, stages: &[Stage], queue: &str) -> String {
        let each = self.seen.iter().zip(stages).map(|(seen, stage)| {
            format!("{} {} (no progress for {})", stage.name, stage.status, duration(now - seen.progress_at))
        });
        let each: Vec<String> = each.collect();
        format!("no progress for {}: {}; {queue}", duration(stalled), each.join("; "))
    }
}

/// What the watchdog looks at, and what it can do.
pub struct Watched {
    /// The stages.
    pub heartbeats: Heartbeats,
    /// How full the queue is, for a person.
    pub queue: Box<dyn Fn() -> String + Send>,
    /// Asks the run to end; must not block.
    pub end: Box<dyn Fn() + Send>,
    /// Whether a signal has asked the run to end.
    pub stop_requested: Arc<AtomicBool>,
    /// Whether a run that does not end in time ends the process.
    pub ends_process: bool,
}

impl Watched {
    /// A run's stages, whose queue is closed to end it.
    #[must_use]
    pub fn of(
        heartbeats: Heartbeats,
        queue: &Arc<ReplayQueue>,
        shutdown: &Shutdown,
        ends_process: bool,
    ) -> Self {
        let (fill, closed) = (Arc::clone(queue), Arc::clone(queue));
        Self {
            heartbeats,
            queue: Box::new(move || {
                let report = fill.report();
                format!("queue: {} of {} groups", report.groups, report.groups_max)
            }),
            end: Box::new(move || closed.close()),
            stop_requested: shutdown.flag(),
            ends_process,
        }
    }
}

/// The thread that looks, until it is dropped.
pub struct Watchdog {
    stalled: Arc<Mutex<Option<String>>>,
    leave: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Begins to look.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(config: &WatchdogSection, watched: Watched) -> Result<Self> {
        let (leave, left) = mpsc::channel();
        let stalled = Arc::new(Mutex::new(None));
        let (config, told) = (config.clone(), Arc::clone(&stalled));
        let body = move || {
            let mut detector = StallDetector::new(config.clone());
            let start = Instant::now();
            let mut stopping: Option<(Instant, &str)> = None;
            while left.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                if stopping.is_none() && watched.stop_requested.load(Ordering::SeqCst) {
                    stopping = Some((Instant::now(), "a signal came"));
                }
                if let Some((since, cause)) = stopping {
                    if config.grace_s > 0.0 && since.elapsed().as_secs_f64() >= config.grace_s {
                        give_up(cause, config.grace_s, &watched);
                        // Nothing is left to be done here.
                        return;
                    }
                    continue;
                }
                let stages = watched.heartbeats.stages();
                match detector.look(start.elapsed().as_secs_f64(), &stages, &(watched.queue)()) {
                    StallAlert::None => {}
                    StallAlert::Warn(message) => {
                        tracing::warn!("{message}");
                    }
                    StallAlert::End(message) => {
                        tracing::error!("{message}; the run ends");
                        *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
                        stopping = Some((Instant::now(), "it stood still"));
                        (watched.end)();
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(body);
        let thread = Some(thread.context("cannot start the thread that watches the others")?);
        Ok(Self { stalled, leave: Some(leave), thread })
    }

    /// Why the run was asked to end, if it was.
    #[must_use]
    pub fn stalled(&self) -> Option<String> {
        self.stalled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Ends the process, where that is the run's: a thread that does not come back cannot be ended otherwise.
fn give_up(cause: &str, grace_s: f64, watched: &Watched) {
    let stages = watched.heartbeats.stages();
    let stages: Vec<String> = stages.iter().map(|stage| format!("{} {}", stage.name, stage.status)).collect();
    let late = format!(
        "the run was to end because {cause}, and has not within watchdog.grace_s = {grace_s} s: {}",
        stages.join("; ")
    );
    if !watched.ends_process {
        tracing::error!("{late}; it ends when they do");
        return;
    }
    let message = format!("{late}; it ends as by kill, and a resume goes on from its last checkpoint");
    tracing::error!("{message}");
    eprintln!("error: {message}");
    std::process::exit(i32::from(STALLED));
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.leave = None;
        if let Some(thread) = self.thread.take() {
            // A watchdog that panicked has said so; the run is none the worse for it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detector() -> StallDetector {
        StallDetector::new(WatchdogSection { warn_after_s: 10.0, end_after_s: 100.0, grace_s: 1.0 })
    }

    fn stage(name: &str, progress: u64, status: StageStatus) -> Stage {
        Stage { name: name.to_owned(), progress, tasks: 1, status }
    }

    fn works(name: &str, progress: u64) -> Stage {
        stage(name, progress, StageStatus::Works("decodes".to_owned()))
    }

    fn waits(name: &str, progress: u64) -> Stage {
        stage(name, progress, StageStatus::Waits("for groups".to_owned()))
    }

    #[test]
    fn a_stage_that_hangs_is_named_even_where_others_go_on() {
        let mut detector = detector();
        for second in 0..10 {
            let stages = [works("actor-0", second), works("actor-1", 7), waits("learner", 0)];
            assert_eq!(detector.look(second as f64, &stages, "queue"), StallAlert::None, "{second}");
        }
        let stages = [works("actor-0", 10), works("actor-1", 7), waits("learner", 0)];
        let StallAlert::Warn(message) = detector.look(10.0, &stages, "queue: 3 of 16") else {
            panic!("no warning")
        };
        assert!(message.contains("actor-1 is at work: decodes (no progress for 10"), "{message}");
        assert!(message.contains("learner waits for groups (no progress for 10"), "{message}");
        assert!(message.ends_with("queue: 3 of 16"), "{message}");
    }

    #[test]
    fn stages_that_all_wait_for_each_other_stand_still() {
        let mut detector = detector();
        let stages = [waits("actor-0", 4), waits("learner", 2)];
        assert_eq!(detector.look(0.0, &stages, ""), StallAlert::None);
        assert!(matches!(detector.look(11.0, &stages, ""), StallAlert::Warn(_)));
        // One that waits while another works is well.
        assert_eq!(detector.look(12.0, &[waits("actor-0", 4), waits("learner", 3)], ""), StallAlert::None);
    }

    #[test]
    fn warnings_back_off_and_the_end_comes_once_it_is_time() {
        let mut detector = detector();
        let stages = [works("actor-0", 1)];
        let mut warned = Vec::new();
        let ended = (0_u32..).find(|second| match detector.look(f64::from(*second), &stages, "") {
            StallAlert::None => false,
            StallAlert::Warn(_) => {
                warned.push(*second);
                false
            }
            StallAlert::End(_) => true,
        });
        assert_eq!((warned, ended), (vec![10, 20, 40, 80], Some(100)));
    }

    #[test]
    fn progress_and_new_work_begin_the_time_anew() {
        let mut detector = detector();
        let at = |tasks| Stage { tasks, ..works("learner", 0) };
        let other = |progress| works("actor-0", progress);
        assert_eq!(detector.look(0.0, &[at(1), other(0)], ""), StallAlert::None);
        assert!(matches!(detector.look(10.0, &[at(1), other(1)], ""), StallAlert::Warn(_)));
        assert_eq!(detector.look(11.0, &[at(2), other(2)], ""), StallAlert::None);
        assert_eq!(detector.look(20.0, &[at(2), other(3)], ""), StallAlert::None);
        assert!(matches!(detector.look(21.0, &[at(2), other(4)], ""), StallAlert::Warn(_)));
    }

    #[test]
    fn zero_is_never() {
        let mut detector =
            StallDetector::new(WatchdogSection { warn_after_s: 0.0, end_after_s: 0.0, grace_s: 0.0 });
        let stages = [works("actor-0", 1)];
        assert!((0..1000).all(|second| detector.look(f64::from(second), &stages, "") == StallAlert::None));
    }
}
