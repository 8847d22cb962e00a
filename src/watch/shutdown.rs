//! Ctrl-C and SIGTERM: the first asks for a clean stop, the second ends the process at once.
//!
//! What a clean stop is, the caller says by a closure (close the queue, let the learner end its step). Nothing
//! here waits for it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use tokio::sync::oneshot;

/// What a shell reports for a process that Ctrl-C ended: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Listens for signals until it is dropped; its thread is joined then. [`Shutdown::never`] listens to none.
///
/// The operating system's default action does not come back with the drop, so this lives as long as the work
/// that is worth stopping cleanly: one listener a process.
pub struct Shutdown {
    requested: Arc<AtomicBool>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Shutdown {
    /// Starts to listen. `on_request` runs once, in the listening thread, at the first signal; it must not block.
    ///
    /// # Errors
    /// If the thread, its runtime or the signal handlers cannot be made.
    pub fn listen(on_request: impl FnOnce() + Send + 'static) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("cannot start the runtime that waits for signals")?;
        // The handlers are registered here and not in the thread: after `listen` no signal is lost.
        let mut signals = {
            let _inside = runtime.enter();
            Signals::register().context("cannot listen for Ctrl-C")?
        };
        let requested = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&requested);
        let (end, mut ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("shutdown".to_owned())
            .spawn(move || {
                if runtime.block_on(next(&mut signals, &mut ended)) == Next::End {
                    return;
                }
                flag.store(true, Ordering::SeqCst);
                tracing::warn!("stopping cleanly; a second Ctrl-C quits at once");
                on_request();
                if runtime.block_on(next(&mut signals, &mut ended)) == Next::Signal {
                    std::process::exit(INTERRUPTED);
                }
            })
            .context("cannot start the thread that waits for signals")?;
        Ok(Self { requested, end: Some(end), thread: Some(thread) })
    }

    /// Listens to no signal: none is ever requested.
    #[must_use]
    pub fn never() -> Self {
        Self { requested: Arc::default(), end: None, thread: None }
    }

    /// Whether a signal came.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// The flag that a signal sets, for a thread that looks at it between two pieces of work.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.requested)
    }
}

impl Drop for Shutdown {
    fn drop(&mut self) {
        // The thread may have ended by itself, when `on_request` panicked; that is no reason to panic again.
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(PartialEq, Eq)]
enum Next {
    Signal,
    End,
}

async fn next(signals: &mut Signals, ended: &mut oneshot::Receiver<()>) -> Next {
    poll_fn(|context| {
        if Pin::new(&mut *ended).poll(context).is_ready() {
            return Poll::Ready(Next::End);
        }
        signals.poll(context).map(|()| Next::Signal)
    })
    .await
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn register() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    fn poll(&mut self, context: &mut TaskContext<'_>) -> Poll<()> {
        match (self.interrupt.poll_recv(context), self.terminate.poll_recv(context)) {
            (Poll::Pending, Poll::Pending) => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }
}

#[cfg(windows)]
struct Signals {
    interrupt: tokio::signal::windows::CtrlC,
}

#[cfg(windows)]
impl Signals {
    fn register() -> std::io::Result<Self> {
        Ok(Self { interrupt: tokio::signal::windows::ctrl_c()? })
    }

    fn poll(&mut self, context: &mut TaskContext<'_>) -> Poll<()> {
        self.interrupt.poll_recv(context).map(|_| ())
    }
}

#[cfg(all(test, unix))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc;

    use super::*;

    fn send(signal: &str) {
        let status = Command::new("kill").args([signal, &std::process::id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    // One test, because a signal reaches every listener of the process.
    #[test]
    fn a_signal_is_told_once_and_the_thread_is_joined() {
        let quiet = Shutdown::listen(|| unreachable!("no signal was sent")).unwrap();
        assert!(!quiet.requested());
        drop(quiet);

        for signal in ["-INT", "-TERM"] {
            let (told, tells) = mpsc::channel();
            let shutdown = Shutdown::listen(move || told.send(()).unwrap()).unwrap();
            let flag = shutdown.flag();
            send(signal);
            tells.recv().unwrap();
            assert!(shutdown.requested() && flag.load(Ordering::SeqCst));
            drop(shutdown);
            // The closure, and with it the sender, is gone with the thread.
            assert!(tells.recv().is_err());
        }
    }
}
