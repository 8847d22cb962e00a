//! One plugin process: how it is started, spoken with and ended, and how it is made sure that nothing of it is left.
//!
//! A worker lives in a process group that a watchdog leads: a shell that does nothing but read a pipe whose other
//! end only this program has. When this program ends, in whatever way, the pipe ends with it, and the watchdog kills
//! the group: the plugin, everything the plugin started, and itself. The watchdog is started before the worker, so
//! there is no moment in which a worker has none. The group also keeps a Ctrl-C in the terminal away from the
//! plugin, which is still needed while the run ends in order.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use super::ProcessConfig;
use super::protocol::{plain, shown};

/// Bytes of a reply. A reply is a few numbers; this leaves room for thousands of parts.
const REPLY_BYTES_MAX: usize = 1 << 20;
/// Replies that are read ahead. A plugin that writes faster than it is listened to waits in its own write.
const HEARD_MAX: usize = 16;
/// Bytes of a line on a plugin's standard error that are logged; the rest of the line is passed over.
const STDERR_BYTES_MAX: usize = 2048;
/// How long a worker may take to end after its input has: a plugin that flushes a file needs a moment.
const STOP_GRACE: Duration = Duration::from_millis(500);
/// How long after the end of its output a worker's exit status is waited for, which is for the log only.
const END_GRACE: Duration = Duration::from_millis(50);
/// The watchdog. What a terminal or a plugin sends to its group must not end it before the plugin.
const WATCHDOG: &str = "trap '' HUP INT QUIT TERM TSTP TTIN TTOU USR1 USR2; read -r _; kill -KILL 0";

/// What comes from a worker.
pub(super) enum Heard {
    /// A line, without its end.
    Line(Vec<u8>),
    /// A line longer than a reply may be. Nothing is read behind it.
    Overlong,
    /// The worker closed its output, most likely by ending.
    Ended,
}

/// A running plugin.
pub(super) struct Worker {
    child: Child,
    /// The leader of the group. Its standard input is the pipe that ends with this program.
    watchdog: Child,
    /// To the thread that writes; a plugin that does not read blocks that thread alone.
    lines: Option<Sender<Vec<u8>>>,
    /// What the worker says.
    pub(super) heard: Receiver<Heard>,
    /// The last line on its standard error, when that has ended.
    last_line: Receiver<String>,
    /// Requests sent so far, which is the id of the next one.
    pub(super) sent: u64,
    /// When it was started.
    pub(super) started: Instant,
    /// Whether a request was answered: until then the plugin may still be starting.
    pub(super) has_answered: bool,
}

impl Worker {
    /// Starts the plugin's command.
    ///
    /// # Errors
    /// Says what could not be started and why.
    pub(super) fn start(name: &str, config: &ProcessConfig) -> Result<Worker, String> {
        let mut watchdog = Command::new("/bin/sh");
        watchdog.args(["-c", WATCHDOG]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut watchdog = in_group(&mut watchdog, 0)
            .spawn()
            .map_err(|error| format!("cannot start the watchdog `/bin/sh`: {error}"))?;
        let (program, arguments) = config.command.split_first().expect("a checked command is not empty");
        let mut child = Command::new(program);
        child
            .args(arguments)
            .envs(&config.environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = match in_group(&mut child, watchdog.id()).spawn() {
            Ok(child) => child,
            Err(error) => {
                kill_group(&mut watchdog);
                return Err(format!("cannot start `{program}`: {error}"));
            }
        };
        let (lines, lines_out) = bounded(config.batch);
        let (heard_in, heard) = bounded(HEARD_MAX);
        let (last_line_in, last_line) = bounded(1);
        let lines = Some(lines);
        let mut worker = Worker {
            child,
            watchdog,
            lines,
            heard,
            last_line,
            sent: 0,
            started: Instant::now(),
            has_answered: false,
        };
        match worker.start_threads(name, lines_out, heard_in, last_line_in) {
            Ok(()) => Ok(worker),
            Err(error) => {
                worker.kill();
                Err(format!("cannot start a thread for `{program}`: {error}"))
            }
        }
    }

    /// One thread for each stream, because each may block for as long as the plugin likes. They end with the
    /// streams and are not waited for: a process that left the group may hold a stream open.
    fn start_threads(
        &mut self,
        name: &str,
        lines: Receiver<Vec<u8>>,
        heard: Sender<Heard>,
        last_line: Sender<String>,
    ) -> std::io::Result<()> {
        let stdin = self.child.stdin.take().expect("piped");
        let stdout = self.child.stdout.take().expect("piped");
        let stderr = self.child.stderr.take().expect("piped");
        let (name, pid) = (name.to_string(), self.child.id());
        let named = |stream: &str| thread::Builder::new().name(format!("{name} {stream}"));
        named("stdin").spawn(move || write_lines(stdin, &lines))?;
        named("stdout").spawn(move || hear(BufReader::new(stdout), &heard))?;
        named("stderr").spawn({
            let name = name.clone();
            // The receiver is gone where the worker was killed.
            move || drop(last_line.send(log(BufReader::new(stderr), &name, pid)))
        })?;
        Ok(())
    }

    /// Hands a line to the thread that writes, without waiting.
    ///
    /// # Errors
    /// When the worker does not read: it closed its input, or it answers what it has not read.
    pub(super) fn send(&mut self, line: Vec<u8>) -> Result<(), &'static str> {
        self.sent += 1;
        let lines = self.lines.as_ref().expect("open until the worker is stopped");
        lines.try_send(line).map_err(|error| match error {
            TrySendError::Full(_) => "it answers requests that it has not read",
            TrySendError::Disconnected(_) => "it closed its standard input",
        })
    }

    /// How the worker ended, after its output has, with the last line of its standard error.
    pub(super) fn end_in_words(&mut self) -> String {
        let until = Instant::now() + END_GRACE;
        let end = match self.wait_until(until) {
            Some(status) => format!("it ended ({status})"),
            None => "it closed its output".to_string(),
        };
        match self.last_line.recv_deadline(until) {
            Ok(line) if !line.is_empty() => format!("{end}, the last line of its standard error: {line}"),
            _ => end,
        }
    }

    /// Ends the worker at once, with all that it started.
    pub(super) fn kill(mut self) {
        self.end();
    }

    /// Ends the worker as it expects: its input ends and it has a moment; what is left then is killed.
    pub(super) fn stop(mut self) {
        self.lines = None;
        let until = Instant::now() + STOP_GRACE;
        // What it still writes is not used, but a full pipe must not block it.
        while !matches!(self.heard.recv_deadline(until), Ok(Heard::Ended | Heard::Overlong) | Err(_)) {}
        self.wait_until(until);
        self.end();
    }

    /// Waits for the process alone, which ends a moment after its output.
    fn wait_until(&mut self, until: Instant) -> Option<ExitStatus> {
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(1)),
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
    }

    fn end(&mut self) {
        // A plugin that made a group of its own is not reached through the watchdog's. The worker may have ended
        // already, which is what is wanted.
        let _ = self.child.kill();
        kill_group(&mut self.watchdog);
        let _ = self.child.wait();
    }
}

/// Puts a command into the process group of this leader, or makes it the leader of a new one where that is 0.
#[cfg(unix)]
fn in_group(command: &mut Command, leader: u32) -> &mut Command {
    let leader = i32::try_from(leader).expect("the kernel counts processes in an i32");
    std::os::unix::process::CommandExt::process_group(command, leader)
}

/// Without process groups nothing is started: the config is refused.
#[cfg(not(unix))]
fn in_group(command: &mut Command, _: u32) -> &mut Command {
    command
}

/// Kills the watchdog's group and reaps the watchdog. The group's number cannot be another's: it is taken for as
/// long as the watchdog is not reaped.
fn kill_group(watchdog: &mut Child) {
    // The only error is that the process has ended already.
    #[cfg(unix)]
    let _ = rustix::process::kill_process_group(
        rustix::process::Pid::from_child(watchdog),
        rustix::process::Signal::KILL,
    );
    let _ = watchdog.wait();
}

fn write_lines(mut stdin: ChildStdin, lines: &Receiver<Vec<u8>>) {
    for line in lines {
        // A plugin that closed its input is found out by the lane, from its silence or the next request.
        if stdin.write_all(&line).is_err() {
            return;
        }
    }
}

fn hear(mut stdout: impl BufRead, heard: &Sender<Heard>) {
    loop {
        let mut line = Vec::new();
        let said = match (&mut stdout).take(REPLY_BYTES_MAX as u64).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => Heard::Ended,
            Ok(_) if line.ends_with(b"\n") => {
                line.pop();
                Heard::Line(line)
            }
            Ok(bytes) if bytes == REPLY_BYTES_MAX => Heard::Overlong,
            // It ended in the middle of a line, and the rest of the line is unknown.
            Ok(_) => Heard::Ended,
        };
        let is_last = !matches!(said, Heard::Line(_));
        if heard.send(said).is_err() || is_last {
            return;
        }
    }
}

/// Logs lines until there are no more, and gives the start of the last one that was not empty. That a line was cut off
/// is said once.
fn log(mut stderr: impl BufRead, name: &str, pid: u32) -> String {
    let (mut last, mut was_cut) = (String::new(), false);
    loop {
        let mut line = Vec::new();
        if matches!((&mut stderr).take(STDERR_BYTES_MAX as u64).read_until(b'\n', &mut line), Ok(0) | Err(_))
        {
            return last;
        }
        tracing::debug!(target: "rewards::process", reward = name, pid, "{}", plain(&line));
        if !shown(&line).is_empty() {
            last = shown(&line);
        }
        if line.ends_with(b"\n") {
            continue;
        }
        match stderr.skip_until(b'\n') {
            Ok(skipped) if skipped > 1 && !was_cut => {
                was_cut = true;
                tracing::warn!(
                    target: "rewards::process",
                    reward = name,
                    pid,
                    "stderr has lines over {STDERR_BYTES_MAX} bytes; the log leaves out the rest of each"
                );
            }
            Ok(_) => {}
            Err(_) => return last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(bytes: &[u8]) -> Vec<String> {
        let (heard_in, heard) = bounded(HEARD_MAX);
        hear(bytes, &heard_in);
        let word = |said| match said {
            Heard::Line(line) => format!("{} bytes", line.len()),
            Heard::Overlong => "overlong".to_string(),
            Heard::Ended => "ended".to_string(),
        };
        heard.try_iter().map(word).collect()
    }

    #[test]
    fn of_a_log_the_last_line_is_kept_and_long_ones_are_cut() {
        assert_eq!(log(&b""[..], "plugin", 1), "");
        assert_eq!(log(&b"Traceback\n  File\nKeyError: 'x'\n\n"[..], "plugin", 1), "KeyError: 'x'");
        let long = [vec![b'x'; 1 << 20], b"\nend".to_vec()].concat();
        assert_eq!(log(&long[..], "plugin", 1), "end");
        assert_eq!(log(&long[..1 << 20], "plugin", 1), "x".repeat(200));
    }

    #[test]
    fn lines_are_bounded_and_half_a_line_is_none() {
        assert_eq!(heard(b"ab\n\nc"), ["2 bytes", "0 bytes", "ended"]);
        assert_eq!(heard(b""), ["ended"]);
        let mut fits = vec![b'x'; REPLY_BYTES_MAX - 1];
        fits.push(b'\n');
        assert_eq!(heard(&fits), [format!("{} bytes", REPLY_BYTES_MAX - 1), "ended".to_string()]);
        assert_eq!(heard(&vec![b'x'; REPLY_BYTES_MAX]), ["overlong"]);
        assert_eq!(heard(&vec![b'x'; 3 * REPLY_BYTES_MAX]), ["overlong"]);
    }
}
