//! The log: what the crates say, on standard error and in the file `log` of a run's folder.
//!
//! The `tracing` subscriber is the process's and is set once, by the first call of [`start_log`].

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use crate::records::folder::RunFolder;
use crate::watch::progress::above_bars;

/// The log file of the run that is going on. The subscriber is the process's and is set once; the file changes.
static LOG: Mutex<Option<File>> = Mutex::new(None);
/// Whether standard error shows the log of the run that is going on.
static ON_TERMINAL: AtomicBool = AtomicBool::new(true);

/// Ends the log of a run when it is dropped.
#[must_use = "the log ends when this is dropped"]
#[derive(Debug)]
pub struct LogGuard(());

impl Drop for LogGuard {
    fn drop(&mut self) {
        *log_file() = None;
    }
}

/// Sends what the crates say to standard error (from level info on, where it is to show it) and, all of it, to the folder's
/// `log`.
///
/// Without a folder only standard error is written. One run of a process logs at a time: a second call takes
/// the file of the first away.
///
/// # Errors
/// If the log cannot be made.
pub fn start_log(folder: Option<&RunFolder>, on_terminal: bool) -> Result<LogGuard> {
    ON_TERMINAL.store(on_terminal, Ordering::Relaxed);
    let file = match folder {
        Some(folder) => {
            let path = folder.log();
            let file = File::options().create(true).append(true).open(&path);
            Some(file.with_context(|| path.display().to_string())?)
        }
        None => None,
    };
    *log_file() = file;
    let terminal = fmt::layer()
        .without_time()
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(|| TerminalLog)
        .with_filter(LevelFilter::INFO);
    // Everything of our own; of the libraries below only what a person should know.
    let ours = EnvFilter::new("info,longhaul=trace,rollout=trace,rewards=trace,learner=trace,kernels=trace");
    let file = fmt::layer().with_ansi(false).with_writer(FileLog).with_filter(ours);
    // It fails where a subscriber is set already: by an earlier run in this process, or by the program around us.
    let _ = tracing_subscriber::registry().with(terminal).with(file).try_init();
    Ok(LogGuard(()))
}

fn log_file() -> MutexGuard<'static, Option<File>> {
    // The file is whole after a panic elsewhere, so a poisoned lock is no reason to lose the log.
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

struct TerminalLog;

impl Write for TerminalLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !ON_TERMINAL.load(Ordering::Relaxed) {
            return Ok(bytes.len());
        }
        above_bars(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

struct FileLog;

impl Write for &FileLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match log_file().as_mut() {
            Some(file) => file.write(bytes),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        log_file().as_mut().map_or(Ok(()), Write::flush)
    }
}

impl<'a> MakeWriter<'a> for FileLog {
    type Writer = &'a FileLog;

    fn make_writer(&'a self) -> &'a FileLog {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_log_takes_what_the_terminal_does_not() {
        let place = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(Some(place.path()), "unused", false, "[run]\nseed = 1\n").unwrap();
        let guard = start_log(Some(&folder), true).unwrap();
        tracing::debug!(target: "longhaul", "the detail");
        drop(guard);
        tracing::debug!(target: "longhaul", "after the run");
        let log = fs::read_to_string(folder.log()).unwrap();
        assert!(log.contains("the detail") && !log.contains("after the run"), "{log}");
    }
}
