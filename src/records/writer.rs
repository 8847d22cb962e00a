//! The numbers of a run: one line a step in `metrics.jsonl`, the same tags for TensorBoard.
//!
//! Which numbers there are is decided by the callers; this file writes them. A tag that depends on the clock
//! begins with one of [`TIMED_FAMILIES`], so that two runs of one seed can be compared without them.
//!
//! The line of a step may wait for numbers that come later, those of an evaluation; the lines of later steps wait behind
//! it, so that they stand in the order of their steps. TensorBoard takes each as it comes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rollout::faults::{self, Point};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use tensorboard_proto::summary::Summary;
use tensorboard_rs::summary::scalar;

use crate::records::catalogue;
use crate::records::events::{EventFile, cut, cut_events, event_files, histogram, text};

/// The families whose values depend on the clock; every other tag repeats exactly in a deterministic run, and
/// in lockstep.
pub const TIMED_FAMILIES: [&str; 3] = ["timing_s/", "time/", "perf/"];

/// The line of a step that is not in `metrics.jsonl` yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldLine {
    /// The step.
    pub step: u64,
    /// The line as it will be written, but for the numbers that it waits for.
    pub text: String,
}

/// Writes the metrics of one run. It owns the files, and nothing else may write to them.
pub struct MetricsWriter {
    lines: BufWriter<File>,
    lines_path: PathBuf,
    /// Lines that wait: the first one for further numbers of its step, the others for the first.
    held: Vec<HeldLine>,
    events: Option<EventFile>,
    /// Tags whose value was once not a number, which is a fault of their metric and said once.
    not_numbers: BTreeSet<String>,
}

impl MetricsWriter {
    /// Creates `metrics.jsonl` and `tensorboard/` in a folder that has neither.
    ///
    /// # Errors
    /// If `metrics.jsonl` exists or cannot be written. TensorBoard files that cannot be written are a warning.
    pub fn create(folder: &Path) -> Result<Self> {
        let lines_path = folder.join("metrics.jsonl");
        let file = File::create_new(&lines_path).with_context(|| lines_path.display().to_string())?;
        let mut writer = Self::of(file, lines_path);
        let directory = folder.join("tensorboard");
        match EventFile::create(&directory) {
            Ok(events) => writer.events = Some(events),
            Err(error) => warn_once(&directory, &error),
        }
        Ok(writer)
    }

    /// Goes on in the folder of a run that is resumed at `place`: what was written after that is cut
    /// off, so that no step comes twice.
    ///
    /// # Errors
    /// If `metrics.jsonl` cannot be written.
    pub fn resume(folder: &Path, place: &MetricsPlace) -> Result<Self> {
        let lines_path = folder.join("metrics.jsonl");
        let open = || -> Result<File> {
            let file = File::options().create(true).append(true).open(&lines_path)?;
            let there = file.metadata()?.len();
            if there < place.lines_bytes {
                let had = place.lines_bytes;
                let path = lines_path.display();
                tracing::warn!(
                    "{path}: has {there} bytes and had {had} at the checkpoint: steps are missing in it"
                );
            }
            file.set_len(there.min(place.lines_bytes))?;
            Ok(file)
        };
        let file = open().with_context(|| lines_path.display().to_string())?;
        let mut writer = Self::of(file, lines_path);
        writer.held.clone_from(&place.held);
        let directory = folder.join("tensorboard");
        match cut_events(&directory, &place.events).and_then(|()| EventFile::create(&directory)) {
            Ok(events) => writer.events = Some(events),
            Err(error) => warn_once(&directory, &error),
        }
        Ok(writer)
    }

    fn of(lines: File, lines_path: PathBuf) -> Self {
        let (lines, held) = (BufWriter::new(lines), Vec::new());
        Self { lines, lines_path, held, events: None, not_numbers: BTreeSet::new() }
    }

    /// How far the files have grown, for a checkpoint.
    ///
    /// # Errors
    /// If `metrics.jsonl` cannot be asked. TensorBoard files that cannot are left out.
    pub fn place(&self) -> Result<MetricsPlace> {
        let file = self.lines.get_ref().metadata().with_context(|| self.lines_path.display().to_string())?;
        let directory = self.lines_path.with_file_name("tensorboard");
        let (events, held) = (event_files(&directory).unwrap_or_default(), self.held.clone());
        Ok(MetricsPlace { lines_bytes: file.len(), events, held })
    }

    /// Writes the numbers of one step: a line with every scalar, and an event for every scalar and histogram.
    ///
    /// What was not measured is left out by the caller. A value that is not finite becomes `null` in the line and stays
    /// what it is in TensorBoard; one that is not a number is a fault of its metric, which the log says once, as it says
    /// of a histogram that values were left out of.
    ///
    /// # Errors
    /// If the line cannot be written. TensorBoard's failure is one warning and ends the events, not the run.
    ///
    /// # Panics
    /// If a tag is not in the catalogue, or comes twice: the reader of the line would see only one of the two.
    pub fn record<S: AsRef<str>>(
        &mut self,
        step: u64,
        scalars: &[(S, f64)],
        histograms: &[(&str, &[f64])],
    ) -> Result<()> {
        let line = line(step, scalars)?;
        if self.held.is_empty() {
            self.write_line(&line).with_context(|| self.lines_path.display().to_string())?;
        } else {
            self.held.push(HeldLine { step, text: line });
        }
        self.show(step, scalars, histograms);
        Ok(())
    }

    /// As [`MetricsWriter::record`], but the line waits for further numbers: until [`MetricsWriter::complete`] or
    /// [`MetricsWriter::release`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there, and if another line waits already.
    pub fn record_waiting<S: AsRef<str>>(
        &mut self,
        step: u64,
        scalars: &[(S, f64)],
        histograms: &[(&str, &[f64])],
    ) -> Result<()> {
        assert!(self.held.is_empty(), "the line of step {} waits already", self.held[0].step);
        self.held.push(HeldLine { step, text: line(step, scalars)? });
        self.show(step, scalars, histograms);
        Ok(())
    }

    /// Adds the numbers that the line of a step waited for, and writes it with all that waited behind it.
    ///
    /// # Errors
    /// If a line cannot be written.
    ///
    /// # Panics
    /// If the line of no such step waits, or has one of the numbers already.
    pub fn complete<S: AsRef<str>>(&mut self, step: u64, scalars: &[(S, f64)]) -> Result<()> {
        let held = self.held.first_mut().filter(|held| held.step == step);
        let held = held.unwrap_or_else(|| panic!("no line of step {step} waits for its numbers"));
        for (tag, _) in scalars {
            let tag = serde_json::to_string(tag.as_ref())?;
            assert!(!held.text.contains(&format!(",{tag}:")), "the metric {tag} is recorded twice in a step");
        }
        // Both are objects whose first entry is the step.
        let added = line(step, scalars)?;
        let same = format!("{{\"step\":{step}");
        held.text.truncate(held.text.len() - 1);
        held.text.push_str(&added[same.len()..]);
        self.release()?;
        self.show(step, scalars, &[]);
        Ok(())
    }

    /// Writes the lines that wait as they are.
    ///
    /// # Errors
    /// If a line cannot be written.
    pub fn release(&mut self) -> Result<()> {
        for HeldLine { text, .. } in std::mem::take(&mut self.held) {
            self.write_line(&text).with_context(|| self.lines_path.display().to_string())?;
        }
        Ok(())
    }

    /// The step whose line waits for further numbers.
    #[must_use]
    pub fn waiting(&self) -> Option<u64> {
        self.held.first().map(|held| held.step)
    }

    /// Says what is no number, and gives TensorBoard what it draws.
    fn show<S: AsRef<str>>(&mut self, step: u64, scalars: &[(S, f64)], histograms: &[(&str, &[f64])]) {
        for tag in self.new_not_numbers(scalars) {
            tracing::warn!("step {step}: the metric {tag} is not a number, which is written as null");
        }
        for (tag, values) in histograms {
            let left_out = values.iter().filter(|value| !value.is_finite()).count();
            if left_out > 0 && self.not_numbers.insert((*tag).to_owned()) {
                let all = values.len();
                tracing::warn!(
                    "step {step}: {left_out} of {all} values of {tag} are not finite and not in its histogram"
                );
            }
        }
        let mut values: Vec<Summary> =
            scalars.iter().map(|(tag, value)| scalar(tag.as_ref(), *value as f32)).collect();
        values.extend(histograms.iter().filter_map(|(tag, values)| histogram(tag, values)));
        if !values.is_empty() {
            self.write_event(step, values);
        }
    }

    /// Shows a text, as Markdown, under `tag` in TensorBoard.
    pub fn text(&mut self, step: u64, tag: &str, body: &str) {
        self.write_event(step, vec![text(tag, &cut(body))]);
    }

    fn write_line(&mut self, line: &str) -> Result<()> {
        faults::pass(Point::Metrics)?;
        self.lines.write_all(line.as_bytes())?;
        self.lines.write_all(b"\n")?;
        Ok(self.lines.flush()?)
    }

    /// The tags that are not a number for the first time.
    fn new_not_numbers<S: AsRef<str>>(&mut self, scalars: &[(S, f64)]) -> Vec<String> {
        let tags = scalars.iter().filter(|(_, value)| value.is_nan()).map(|(tag, _)| tag.as_ref().to_owned());
        tags.filter(|tag| self.not_numbers.insert(tag.clone())).collect()
    }

    fn write_event(&mut self, step: u64, values: Vec<Summary>) {
        let Some(events) = &mut self.events else { return };
        if let Err(error) = events.write(step, values) {
            warn_once(&events.path, &error);
            self.events = None;
        }
    }
}

impl Drop for MetricsWriter {
    /// Numbers that were measured are in the file, whatever ended the run.
    fn drop(&mut self) {
        if let Err(error) = self.release() {
            tracing::warn!("{error:#}: lines that waited for an evaluation are lost");
        }
    }
}

/// The line of a step, without its end.
fn line<S: AsRef<str>>(step: u64, scalars: &[(S, f64)]) -> Result<String> {
    let mut tags = BTreeSet::from(["step"]);
    let mut text = Vec::new();
    let mut line = serde_json::Serializer::new(&mut text);
    let mut object = line.serialize_map(None)?;
    object.serialize_entry("step", &step)?;
    for (tag, value) in scalars {
        assert!(catalogue::knows(tag.as_ref()), "the metric {} is not in the catalogue", tag.as_ref());
        assert!(tags.insert(tag.as_ref()), "the metric {} is recorded twice in a step", tag.as_ref());
        object.serialize_entry(tag.as_ref(), value)?;
    }
    object.end()?;
    Ok(String::from_utf8(text)?)
}

/// How long the files of metrics were at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsPlace {
    /// Bytes of `metrics.jsonl`.
    pub lines_bytes: u64,
    /// Bytes of each event file by name.
    pub events: BTreeMap<String, u64>,
    /// Lines that were not in `metrics.jsonl`, because an evaluation was under way.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldLine>,
}

/// Called at most once a run, because the writer gives the events up with it.
fn warn_once(path: &Path, error: &anyhow::Error) {
    tracing::warn!("{}: {error:#}; the run goes on without TensorBoard", path.display());
}

/// A prompt and its completion as TensorBoard shows them: verbatim, under a line of what they were worth.
#[must_use]
pub fn completion_markdown(prompt: &str, completion: &str, reward: f64, tokens: usize) -> String {
    // Four spaces make a code block whatever the text holds; a fence could be closed by the text itself.
    let verbatim = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    format!("reward {reward:.3}, {tokens} tokens\n\n{}\n---\n\n{}", verbatim(prompt), verbatim(completion))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use protobuf::Message;
    use tensorboard_proto::event::Event;
    use tensorboard_proto::summary::Summary_Value;
    use tensorboard_rs::record_writer::RecordWriter;

    use super::*;
    use crate::records::events::wall_time;

    fn lines(folder: &Path) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Reads the framing of TFRecord back: length, its checksum, the event, its checksum.
    fn events(folder: &Path) -> Vec<Event> {
        let entry = fs::read_dir(folder.join("tensorboard")).unwrap().next().unwrap().unwrap();
        let bytes = fs::read(entry.path()).unwrap();
        let mut rest = bytes.as_slice();
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            events.push(Event::parse_from_bytes(&rest[12..12 + length]).unwrap());
            rest = &rest[12 + length + 4..];
        }
        events
    }

    #[test]
    fn a_step_is_one_line_and_one_event() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::create(folder.path()).unwrap();
        let before = wall_time();
        writer.record(3, &[("reward", 0.5), ("kl", f64::NAN)], &[("advantages", &[1.0, -1.0])]).unwrap();
        writer.record(4, &[(String::from("rewards/task/mean"), f64::INFINITY)], &[]).unwrap();
        writer.text(4, "completions", "1 + 1 = 2");

        assert_eq!(
            lines(folder.path()),
            [
                serde_json::json!({"step": 3, "reward": 0.5, "kl": null}),
                serde_json::json!({"step": 4, "rewards/task/mean": null})
            ]
        );
        let events = events(folder.path());
        assert_eq!(events[0].get_file_version(), "brain.Event:2");
        assert_eq!(events.iter().map(Event::get_step).collect::<Vec<_>>(), [0, 3, 4, 4]);
        assert!(events[1].get_wall_time() >= before && events[1].get_wall_time() <= wall_time());
        let values = events[1].get_summary().get_value();
        let tags: Vec<_> = values.iter().map(Summary_Value::get_tag).collect();
        assert_eq!(tags, ["reward", "kl", "advantages"]);
        assert!(values[0].get_simple_value() == 0.5 && values[1].get_simple_value().is_nan());
        let body = &events[3].get_summary().get_value()[0].get_tensor().get_string_val()[0];
        assert_eq!(body, b"1 + 1 = 2");
    }

    #[test]
    fn lines_behind_one_that_waits_come_in_the_order_of_their_steps() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::create(folder.path()).unwrap();
        writer.record(1, &[("loss", 1.0)], &[]).unwrap();
        writer.record_waiting(2, &[("loss", 0.5)], &[]).unwrap();
        writer.record(3, &[("loss", 0.25)], &[]).unwrap();
        assert_eq!((lines(folder.path()).len(), writer.waiting()), (1, Some(2)));
        let place = writer.place().unwrap();
        writer.complete(2, &[("eval/accuracy", 0.75)]).unwrap();
        writer.record(4, &[("loss", 0.125)], &[]).unwrap();
        let expected = [
            serde_json::json!({"step": 1, "loss": 1.0}),
            serde_json::json!({"step": 2, "loss": 0.5, "eval/accuracy": 0.75}),
            serde_json::json!({"step": 3, "loss": 0.25}),
            serde_json::json!({"step": 4, "loss": 0.125}),
        ];
        assert_eq!(lines(folder.path()), expected);
        let steps: Vec<_> = events(folder.path()).iter().map(Event::get_step).collect();
        assert_eq!(steps, [0, 1, 2, 3, 2, 4], "TensorBoard has the number at its step");
        drop(writer);
        // A run that goes on from the place has the lines that waited there, which wait again.
        let json = serde_json::to_string(&place).unwrap();
        let place: MetricsPlace = serde_json::from_str(&json).unwrap();
        let mut again = MetricsWriter::resume(folder.path(), &place).unwrap();
        assert_eq!((lines(folder.path()).len(), again.waiting()), (1, Some(2)));
        again.complete(2, &[("eval/accuracy", 0.75)]).unwrap();
        assert_eq!(lines(folder.path()), expected[..3]);
    }

    #[test]
    fn a_line_that_waits_is_written_when_the_writer_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::create(folder.path()).unwrap();
        writer.record_waiting::<&str>(0, &[], &[]).unwrap();
        writer.record(1, &[("loss", 1.0)], &[]).unwrap();
        drop(writer);
        let expected = [serde_json::json!({"step": 0}), serde_json::json!({"step": 1, "loss": 1.0})];
        assert_eq!(lines(folder.path()), expected);
    }

    #[test]
    #[should_panic(expected = "the metric \"loss\" is recorded twice")]
    fn a_tag_comes_once_in_a_line_that_waited() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::create(folder.path()).unwrap();
        writer.record_waiting(1, &[("loss", 1.0)], &[]).unwrap();
        let _ = writer.complete(1, &[("loss", 1.0)]);
    }

    // A fault in a metric must not look like a metric that there is not.
    #[test]
    fn a_metric_that_is_not_a_number_is_said_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::create(folder.path()).unwrap();
        let mut said = |values: [f64; 2]| writer.new_not_numbers(&[("kl", values[0]), ("loss", values[1])]);
        assert_eq!(said([f64::NAN, 1.0]), ["kl"]);
        assert_eq!(said([f64::NAN, f64::INFINITY]), Vec::<String>::new());
        assert_eq!(said([0.0, f64::NAN]), ["loss"]);
    }

    #[test]
    fn without_tensorboard_the_lines_go_on() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tensorboard"), "a file where the folder should be").unwrap();
        let mut writer = MetricsWriter::create(folder.path()).unwrap();
        writer.record(1, &[("loss", 1.0)], &[("ratios", &[1.0])]).unwrap();
        writer.text(1, "completions", "text");
        assert_eq!(lines(folder.path()), [serde_json::json!({"step": 1, "loss": 1.0})]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_ends_the_events_and_not_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::create(folder.path()).unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        writer.events.as_mut().unwrap().records = RecordWriter::new(BufWriter::new(full));
        writer.record(1, &[("loss", 1.0)], &[]).unwrap();
        assert!(writer.events.is_none());
        writer.record(2, &[("loss", 0.5)], &[]).unwrap();
        assert_eq!(lines(folder.path()).len(), 2);
    }

    #[test]
    fn metrics_of_another_run_are_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        MetricsWriter::create(folder.path()).unwrap();
        let error = MetricsWriter::create(folder.path()).err().unwrap();
        assert!(format!("{error:#}").contains("metrics.jsonl"), "{error:#}");
    }

    #[test]
    #[should_panic(expected = "the metric loss is recorded twice")]
    fn a_tag_comes_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = MetricsWriter::create(folder.path()).unwrap();
        let _ = writer.record(1, &[("loss", 1.0), ("loss", 2.0)], &[]);
    }

    #[test]
    fn a_completion_is_shown_verbatim() {
        let shown = completion_markdown("1+1=", "```\n2", 1.0, 3);
        assert_eq!(shown, "reward 1.000, 3 tokens\n\n    1+1=\n\n---\n\n    ```\n    2\n");
    }
}
