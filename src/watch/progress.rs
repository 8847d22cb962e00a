//! What a person sees while a run goes on: a header, a line a step, a summary.
//!
//! On a terminal the lines are a table above a bar; elsewhere each line stands for itself and can be searched
//! for. Results go to standard output, the bar and the log to standard error. The file `log` of the run has every line too.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::config::Console;

/// After so many rows the table's head is printed again, so that it stands on most screens.
const ROWS_PER_HEAD: u64 = 25;

/// The numbers of one step that a person wants to see.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProgressLine {
    /// The step that just ended, counted from 1.
    pub step: u64,
    /// The steps of the whole run.
    pub steps: u64,
    /// The mean reward of the step's completions.
    pub reward: f64,
    /// The fraction of the step's completions that are correct, where a reward says what correct is.
    pub accuracy: Option<f64>,
    /// The mean length of the step's completions in tokens.
    pub mean_length: f64,
    /// The mean entropy of the step's tokens, in nats; `None` where it learned from none.
    pub entropy: Option<f64>,
    /// The groups that wait in the replay queue.
    pub queue_groups: usize,
    /// The groups that the replay queue holds at most.
    pub queue_groups_max: usize,
    /// Tokens generated in a second, since the step before.
    pub tokens_per_second: f64,
    /// What is left at the speed so far; `None` before there is a speed.
    pub seconds_left: Option<f64>,
    /// Why the step had nothing to learn from, if it had not.
    pub nothing: Option<String>,
}

/// What a run was and what it reached.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// The optimizer steps that were made.
    pub steps: u64,
    /// How long the run took.
    pub seconds: f64,
    /// Whether it was stopped before its last step.
    pub stopped: bool,
    /// The held-out accuracy of the model that the run began with.
    pub accuracy_before: Option<f64>,
    /// The held-out accuracy of the model that it ended with.
    pub accuracy_after: Option<f64>,
    /// The held-out problems behind the two.
    pub problems: usize,
    /// The folder of the run.
    pub run_folder: PathBuf,
    /// The folder of the final model.
    pub model: PathBuf,
}

/// Shows the progress of one run. Dropping it takes the bar away.
pub struct Progress {
    look: Look,
    rows: u64,
}

enum Look {
    Table(ProgressBar),
    Plain,
    Quiet,
}

impl Progress {
    /// Prints the header: what is run, then one line for each of the labelled `facts`.
    #[must_use]
    pub fn start(console: Console, title: &str, facts: &[(&str, String)], steps: u64) -> Self {
        let look = match console {
            Console::Quiet => Look::Quiet,
            Console::Auto if io::stdout().is_terminal() && !bars().is_hidden() => Look::Table(bar(steps)),
            Console::Auto | Console::Plain => Look::Plain,
        };
        let progress = Self { look, rows: 0 };
        let text = header(title, facts);
        progress.print(&text);
        log(&text);
        progress
    }

    /// Shows a finished step.
    pub fn step(&mut self, line: &ProgressLine) {
        log(&sentence(line));
        let text = match &self.look {
            Look::Table(_) if self.rows.is_multiple_of(ROWS_PER_HEAD) => format!("{HEAD}\n{}", row(line)),
            Look::Table(_) => row(line),
            Look::Plain | Look::Quiet => sentence(line),
        };
        self.print(&text);
        self.rows += 1;
        if let Look::Table(bar) = &self.look {
            bar.set_position(line.step);
            bar.set_message(
                line.seconds_left.map_or_else(String::new, |left| format!("{} left", duration(left))),
            );
        }
    }

    /// Shows a line of its own, such as the result of an evaluation.
    pub fn note(&self, text: &str) {
        self.print(text);
        log(text);
    }

    /// Says beside the bar what is being done while no step ends, such as an evaluation.
    pub fn doing(&self, what: &str) {
        if let Look::Table(bar) = &self.look {
            bar.set_message(what.to_owned());
        }
    }

    /// Says what is being done where nothing else is printed for long: beside the bar, or on a line of its own.
    pub fn waiting(&self, what: &str) {
        self.doing(what);
        if let Look::Plain = &self.look {
            self.print(what);
        }
        log(what);
    }

    /// Takes the bar away and prints what came out.
    pub fn finish(self, summary: &Summary) {
        if let Look::Table(bar) = &self.look {
            bar.finish_and_clear();
        }
        let text = closing(summary);
        self.print(&text);
        log(&text);
    }

    fn print(&self, text: &str) {
        if !matches!(self.look, Look::Quiet) {
            // A reader that went away (`| head`) must not end a run of hours.
            above_bars(|| writeln!(io::stdout(), "{text}").and_then(|()| io::stdout().flush()).ok());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Look::Table(bar) = &self.look {
            bar.finish_and_clear();
        }
    }
}

/// Writes lines to the run's file `log`, which takes the level `debug`; the log on standard error does not, so nothing is
/// seen twice there.
fn log(text: &str) {
    for line in text.lines().filter(|line| !line.is_empty()) {
        tracing::debug!("{line}");
    }
}

/// Writes to the terminal without breaking a bar that is drawn on it. The log uses it too.
pub(crate) fn above_bars<T>(write: impl FnOnce() -> T) -> T {
    bars().suspend(write)
}

/// One place for all bars of the process, because the terminal is one too.
fn bars() -> &'static MultiProgress {
    static BARS: OnceLock<MultiProgress> = OnceLock::new();
    BARS.get_or_init(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()))
}

fn bar(steps: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:32.cyan/dim} {pos}/{len}  {elapsed} elapsed  {msg}")
        .expect("the template is a constant with known keys")
        .progress_chars("━╸─");
    let bar = bars().add(ProgressBar::new(steps).with_style(style));
    bar.enable_steady_tick(Duration::from_secs(1));
    bar
}

fn header(title: &str, facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    let mut text = format!("{title}\n");
    for (label, fact) in facts {
        let _ = writeln!(text, "  {label:width$}  {fact}");
    }
    text
}

const HEAD: &str = "     step   reward  accuracy   length  entropy    queue    tok/s      left";

fn row(line: &ProgressLine) -> String {
    let step = format!("{}/{}", line.step, line.steps);
    let queue = format!("{}/{}", line.queue_groups, line.queue_groups_max);
    let numbers = format!(
        "{step:>9} {:>8.3}  {:>8} {:>8.1} {:>8} {queue:>8} {:>8} {:>9}",
        line.reward,
        fraction(line.accuracy),
        line.mean_length,
        fraction(line.entropy),
        rate(line.tokens_per_second),
        line.seconds_left.map_or_else(|| "-".to_owned(), duration),
    );
    match &line.nothing {
        Some(nothing) => format!("{numbers}\n{:>9} {nothing}", ""),
        None => numbers,
    }
}

fn sentence(line: &ProgressLine) -> String {
    format!(
        "step {}/{}  reward {:.3}  accuracy {}  length {:.1}  entropy {}  queue {}/{}  {} tokens/s  left {}{}",
        line.step,
        line.steps,
        line.reward,
        fraction(line.accuracy),
        line.mean_length,
        fraction(line.entropy),
        line.queue_groups,
        line.queue_groups_max,
        rate(line.tokens_per_second),
        line.seconds_left.map_or_else(|| "-".to_owned(), duration),
        line.nothing.as_ref().map_or_else(String::new, |nothing| format!("  {nothing}")),
    )
}

fn closing(summary: &Summary) -> String {
    let steps = if summary.steps == 1 { "step" } else { "steps" };
    let verb = if summary.stopped { "stopped" } else { "finished" };
    let mut text = format!("\n{verb} after {} {steps} in {}\n", summary.steps, duration(summary.seconds));
    let problems = summary.problems;
    let accuracy = match (summary.accuracy_before, summary.accuracy_after) {
        (Some(before), Some(after)) => {
            Some(format!("{before:.3} -> {after:.3} on {problems} held-out problems"))
        }
        (Some(before), None) => {
            Some(format!("{before:.3} before the first step, on {problems} held-out problems"))
        }
        (None, Some(after)) => Some(format!("{after:.3} on {problems} held-out problems")),
        (None, None) => None,
    };
    if let Some(accuracy) = accuracy {
        let _ = writeln!(text, "  accuracy  {accuracy}");
    }
    let _ = writeln!(text, "  model     {}", summary.model.display());
    let folder = quoted(&summary.run_folder.display().to_string());
    let _ = write!(text, "  curves    tensorboard --logdir {folder}");
    text
}

fn fraction(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

fn rate(tokens_per_second: f64) -> String {
    if tokens_per_second < 10_000.0 {
        format!("{tokens_per_second:.0}")
    } else {
        format!("{:.1}k", tokens_per_second / 1000.0)
    }
}

/// Two units are enough: `8m 03s`, `2h 15m`, `3d 04h`.
pub(crate) fn duration(seconds: f64) -> String {
    // A speed of nothing leaves an infinite time, and the cast takes what is not a number to zero.
    if seconds.is_infinite() {
        return "-".to_owned();
    }
    let seconds = seconds.round() as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h {:02}m", minutes % 60),
        _ => format!("{days}d {:02}h", hours % 24),
    }
}

/// A path as a shell takes it for one word.
fn quoted(path: &str) -> String {
    let is_plain = |character: char| character.is_alphanumeric() || "/._-+=:,@%".contains(character);
    if !path.is_empty() && path.chars().all(is_plain) {
        return path.to_owned();
    }
    format!("'{}'", path.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> ProgressLine {
        ProgressLine {
            step: 12,
            steps: 120,
            reward: 0.5341,
            accuracy: Some(0.4125),
            mean_length: 212.34,
            entropy: Some(0.2134),
            queue_groups: 3,
            queue_groups_max: 8,
            tokens_per_second: 1843.2,
            seconds_left: Some(192.4),
            nothing: None,
        }
    }

    #[test]
    fn a_plain_line_names_every_number() {
        assert_eq!(
            sentence(&line()),
            "step 12/120  reward 0.534  accuracy 0.412  length 212.3  entropy 0.213  queue 3/8  1843 tokens/s  left 3m 12s"
        );
        let unknown = ProgressLine { accuracy: None, seconds_left: None, ..line() };
        assert!(sentence(&unknown).contains("accuracy -  length"));
        assert!(sentence(&unknown).ends_with("left -"));
    }

    #[test]
    fn a_step_that_learned_nothing_says_so() {
        let nothing = "nothing to learn from: all 16 groups had equal rewards (0 all right, 16 all wrong)";
        let line = ProgressLine { entropy: None, nothing: Some(nothing.to_owned()), ..line() };
        assert!(sentence(&line).contains("entropy -  queue"));
        assert!(sentence(&line).ends_with(&format!("left 3m 12s  {nothing}")));
        let (numbers, reason) =
            row(&line).split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        assert_eq!(numbers.len(), HEAD.len());
        assert_eq!(reason.trim_start(), nothing);
    }

    #[test]
    fn rows_stand_under_their_head() {
        for end in ["step", "reward", "accuracy", "length", "entropy", "queue", "tok/s", "left"] {
            let column = HEAD.find(end).unwrap() + end.len();
            let row = row(&line());
            assert_ne!(row.as_bytes()[column - 1], b' ', "nothing ends under {end}");
            assert!(row.as_bytes().get(column).is_none_or(|byte| *byte == b' '), "{end} is cut");
        }
        let long = ProgressLine { step: 9999, steps: 9999, seconds_left: Some(359_999.0), ..line() };
        assert_eq!(row(&long).len(), HEAD.len());
    }

    #[test]
    fn durations_have_two_units() {
        let shown: Vec<String> = [0.4, 59.0, 60.0, 483.0, 8100.0, 273_600.0].map(duration).into();
        assert_eq!(shown, ["0s", "59s", "1m 00s", "8m 03s", "2h 15m", "3d 04h"]);
        assert_eq!((duration(f64::INFINITY), duration(f64::NAN)), ("-".into(), "0s".into()));
    }

    #[test]
    fn the_summary_says_what_came_out() {
        let summary = Summary {
            steps: 120,
            seconds: 483.0,
            accuracy_before: Some(0.394),
            accuracy_after: Some(0.842),
            problems: 256,
            run_folder: "runs/quickstart-1".into(),
            model: "runs/quickstart-1/checkpoints/step-120".into(),
            ..Summary::default()
        };
        assert_eq!(
            closing(&summary),
            "\nfinished after 120 steps in 8m 03s\n  accuracy  0.394 -> 0.842 on 256 held-out problems\n  \
             model     runs/quickstart-1/checkpoints/step-120\n  curves    tensorboard --logdir runs/quickstart-1"
        );
        let stopped = Summary { steps: 1, stopped: true, ..Summary::default() };
        assert!(closing(&stopped).starts_with("\nstopped after 1 step in 0s\n  model"));
    }

    #[test]
    fn the_header_aligns_its_labels() {
        let facts = [("model", "llama".to_owned()), ("run", "runs/a-1".to_owned())];
        assert_eq!(header("longhaul train", &facts), "longhaul train\n  model  llama\n  run    runs/a-1\n");
    }

    #[test]
    fn paths_are_one_word_to_a_shell() {
        assert_eq!(quoted("runs/my_config.v1-1"), "runs/my_config.v1-1");
        assert_eq!(quoted("runs/my config-1"), "'runs/my config-1'");
        assert_eq!(quoted("runs/$it's"), r"'runs/$it'\''s'");
    }
}
