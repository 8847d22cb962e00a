//! The numbers of a run: one line a step in `metrics.jsonl`, the same tags for TensorBoard.
//!
//! Which numbers there are is decided by the callers; this file writes them. A tag that depends on the clock
//! begins with one of [`TIMED_FAMILIES`], so that two runs of one seed can be compared without them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use protobuf::{Message, RepeatedField};
use rollout::faults::{self, Point};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use tensorboard_proto::event::Event;
use tensorboard_proto::summary::{Summary, Summary_Value, SummaryMetadata, SummaryMetadata_PluginData};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::tensor_shape::{TensorShapeProto, TensorShapeProto_Dim};
use tensorboard_proto::types::DataType;
use tensorboard_rs::record_writer::RecordWriter;
use tensorboard_rs::summary::{histogram_raw, scalar};

use crate::records::catalogue;

/// The families whose values depend on the clock; every other tag repeats exactly in a deterministic run, and
/// in lockstep.
pub const TIMED_FAMILIES: [&str; 3] = ["timing_s/", "time/", "perf/"];

/// TensorBoard draws 30 buckets, so more would be merged before anybody sees them.
const BUCKETS: usize = 30;

/// A text of a million characters makes TensorBoard's page unusable; what is cut off stands in `rollouts/`.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Writes the metrics of one run. It owns the files, and nothing else may write to them.
pub struct MetricsWriter {
    lines: BufWriter<File>,
    lines_path: PathBuf,
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
        let directory = folder.join("tensorboard");
        match cut_events(&directory, &place.events).and_then(|()| EventFile::create(&directory)) {
            Ok(events) => writer.events = Some(events),
            Err(error) => warn_once(&directory, &error),
        }
        Ok(writer)
    }

    fn of(lines: File, lines_path: PathBuf) -> Self {
        Self { lines: BufWriter::new(lines), lines_path, events: None, not_numbers: BTreeSet::new() }
    }

    /// How far the files have grown, for a checkpoint.
    ///
    /// # Errors
    /// If `metrics.jsonl` cannot be asked. TensorBoard files that cannot are left out.
    pub fn place(&self) -> Result<MetricsPlace> {
        let file = self.lines.get_ref().metadata().with_context(|| self.lines_path.display().to_string())?;
        let directory = self.lines_path.with_file_name("tensorboard");
        Ok(MetricsPlace { lines_bytes: file.len(), events: event_files(&directory).unwrap_or_default() })
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
        self.write_line(step, scalars).with_context(|| self.lines_path.display().to_string())?;
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
        self.write_event(step, values);
        Ok(())
    }

    /// Shows a text, as Markdown, under `tag` in TensorBoard.
    pub fn text(&mut self, step: u64, tag: &str, body: &str) {
        self.write_event(step, vec![text(tag, &cut(body))]);
    }

    fn write_line<S: AsRef<str>>(&mut self, step: u64, scalars: &[(S, f64)]) -> Result<()> {
        faults::pass(Point::Metrics)?;
        let mut tags = BTreeSet::from(["step"]);
        let mut line = serde_json::Serializer::new(&mut self.lines);
        let mut object = line.serialize_map(None)?;
        object.serialize_entry("step", &step)?;
        for (tag, value) in scalars {
            assert!(catalogue::knows(tag.as_ref()), "the metric {} is not in the catalogue", tag.as_ref());
            assert!(tags.insert(tag.as_ref()), "the metric {} is recorded twice in a step", tag.as_ref());
            object.serialize_entry(tag.as_ref(), value)?;
        }
        object.end()?;
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

/// How long the files of metrics were at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsPlace {
    /// Bytes of `metrics.jsonl`.
    pub lines_bytes: u64,
    /// Bytes of each event file by name.
    pub events: BTreeMap<String, u64>,
}

/// The event files of a folder with their lengths.
fn event_files(directory: &Path) -> Result<BTreeMap<String, u64>> {
    let mut files = BTreeMap::new();
    if directory.exists() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.contains("tfevents") {
                files.insert(name, entry.metadata()?.len());
            }
        }
    }
    Ok(files)
}

/// Takes from the event files what was written after they had these lengths; records are appended whole, so
/// what is left ends with one.
fn cut_events(directory: &Path, kept: &BTreeMap<String, u64>) -> Result<()> {
    for (name, there) in event_files(directory)? {
        let path = directory.join(&name);
        match kept.get(&name) {
            Some(bytes) => File::options().write(true).open(&path)?.set_len(there.min(*bytes))?,
            None => fs::remove_file(&path)?,
        }
    }
    Ok(())
}

/// Called at most once a run, because the writer gives the events up with it.
fn warn_once(path: &Path, error: &anyhow::Error) {
    tracing::warn!("{}: {error:#}; the run goes on without TensorBoard", path.display());
}

/// One event file. TensorBoard reads it while it grows, so every step is flushed.
///
/// The record format and the summaries are tensorboard-rs's. Its `SummaryWriter` is left out: it writes in a
/// thread of its own, and a full disk panics there.
struct EventFile {
    records: RecordWriter<BufWriter<File>>,
    path: PathBuf,
}

impl EventFile {
    fn create(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        // TensorBoard takes any name with `tfevents` in it and orders the files by name, so a run that is
        // resumed within the second in which it stopped needs the next number.
        let files = event_files(directory)?.len();
        let pid = std::process::id();
        let name = format!("events.out.tfevents.{:010}.{files:04}.{pid}.longhaul", wall_time() as u64);
        let path = directory.join(name);
        let records = RecordWriter::new(BufWriter::new(File::create_new(&path)?));
        let mut file = Self { records, path };
        let mut first = Event::new();
        first.set_wall_time(wall_time());
        first.set_file_version("brain.Event:2".to_owned());
        file.append(&first)?;
        Ok(file)
    }

    fn write(&mut self, step: u64, summaries: Vec<Summary>) -> Result<()> {
        let mut summary = Summary::new();
        for mut one in summaries {
            summary.mut_value().extend(one.take_value());
        }
        let mut event = Event::new();
        event.set_wall_time(wall_time());
        event.set_step(i64::try_from(step)?);
        event.set_summary(summary);
        self.append(&event)
    }

    fn append(&mut self, event: &Event) -> Result<()> {
        self.records.write(&event.write_to_bytes()?)?;
        Ok(self.records.flush()?)
    }
}

fn wall_time() -> f64 {
    // A clock before 1970 gives a wrong time on the axis, which is no reason to stop.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Buckets of equal width from the least to the greatest finite value; `None` if there is no finite value.
fn histogram(tag: &str, values: &[f64]) -> Option<Summary> {
    let finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    let min = finite.iter().copied().reduce(f64::min)?;
    let max = finite.iter().copied().reduce(f64::max)?;
    let (limits, counts) = buckets(&finite, min, max);
    let sum: f64 = finite.iter().sum();
    let sum_squares: f64 = finite.iter().map(|value| value * value).sum();
    Some(histogram_raw(tag, min, max, finite.len() as f64, sum, sum_squares, &limits, &counts))
}

/// The right edge and the count of each bucket; a value on an edge belongs to the bucket on its right.
fn buckets(values: &[f64], min: f64, max: f64) -> (Vec<f64>, Vec<f64>) {
    let width = (max - min) / BUCKETS as f64;
    // Equal values, and a spread that overflows or vanishes in the division, leave no width to divide by.
    if !(width.is_finite() && width > 0.0) {
        return (vec![max], vec![values.len() as f64]);
    }
    let mut limits: Vec<f64> = (1..=BUCKETS).map(|edge| min + width * edge as f64).collect();
    limits[BUCKETS - 1] = max;
    let mut counts = vec![0.0; BUCKETS];
    for value in values {
        counts[(((value - min) / width) as usize).min(BUCKETS - 1)] += 1.0;
    }
    (limits, counts)
}

/// The summary that TensorBoard's text plugin shows, which tensorboard-rs cannot make.
fn text(tag: &str, body: &str) -> Summary {
    let mut plugin = SummaryMetadata_PluginData::new();
    plugin.set_plugin_name("text".to_owned());
    let mut metadata = SummaryMetadata::new();
    metadata.set_plugin_data(plugin);
    let mut length = TensorShapeProto_Dim::new();
    length.set_size(1);
    let mut shape = TensorShapeProto::new();
    shape.set_dim(RepeatedField::from_vec(vec![length]));
    let mut tensor = TensorProto::new();
    tensor.set_dtype(DataType::DT_STRING);
    tensor.set_tensor_shape(shape);
    tensor.set_string_val(RepeatedField::from_vec(vec![body.as_bytes().to_vec()]));
    let mut value = Summary_Value::new();
    value.set_tag(tag.to_owned());
    value.set_metadata(metadata);
    value.set_tensor(tensor);
    let mut summary = Summary::new();
    summary.set_value(RepeatedField::from_vec(vec![value]));
    summary
}

/// A text of a bounded length, with a word about what is missing.
fn cut(body: &str) -> Cow<'_, str> {
    let kept = &body[..body.floor_char_boundary(TEXT_BYTES_MAX)];
    match body.len() - kept.len() {
        0 => kept.into(),
        missing => format!("{kept}\n\n(cut off here: {missing} bytes more)").into(),
    }
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
    use super::*;

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
    fn a_histogram_keeps_count_sum_and_squares() {
        let mut summary =
            histogram("h", &[0.0, 0.1, 3.0, 3.0, f64::NAN, f64::INFINITY]).expect("four finite values");
        let value = summary.take_value().remove(0);
        let histogram = value.get_histo();
        assert_eq!((histogram.get_min(), histogram.get_max(), histogram.get_num()), (0.0, 3.0, 4.0));
        assert_eq!(histogram.get_sum(), 6.1);
        assert!((histogram.get_sum_squares() - 18.01).abs() < 1e-12);
        assert_eq!(histogram.get_bucket().len(), BUCKETS);
        // Width 0.1: zero is alone in the first bucket, 0.1 opens the second, both threes close the last.
        assert_eq!(histogram.get_bucket()[0], 1.0);
        assert_eq!(histogram.get_bucket()[1], 1.0);
        assert_eq!(histogram.get_bucket()[BUCKETS - 1], 2.0);
        assert_eq!(histogram.get_bucket_limit()[BUCKETS - 1], 3.0);
    }

    #[test]
    fn a_histogram_of_equal_values_is_one_bucket_and_of_none_is_none() {
        let (limits, counts) = buckets(&[2.0, 2.0], 2.0, 2.0);
        assert_eq!((limits, counts), (vec![2.0], vec![2.0]));
        let (limits, counts) = buckets(&[-f64::MAX, f64::MAX], -f64::MAX, f64::MAX);
        assert_eq!((limits, counts), (vec![f64::MAX], vec![2.0]));
        assert!(histogram("h", &[f64::NAN]).is_none());
    }

    proptest::proptest! {
        #[test]
        fn every_finite_value_is_in_one_bucket(values in proptest::collection::vec(-1e300_f64..1e300, 1..50)) {
            let min = values.iter().copied().fold(f64::INFINITY, f64::min);
            let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let (limits, counts) = buckets(&values, min, max);
            assert_eq!(counts.iter().sum::<f64>(), values.len() as f64);
            assert!(limits.is_sorted());
        }
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
    fn a_long_text_is_cut_between_characters() {
        let body = "é".repeat(TEXT_BYTES_MAX);
        let kept = cut(&body).split_once("\n\n").unwrap().0.len();
        assert_eq!(kept, TEXT_BYTES_MAX);
        let shown = cut(&format!("a{body}")).into_owned();
        let (kept, note) = shown.split_once("\n\n").unwrap();
        assert_eq!(kept.len(), TEXT_BYTES_MAX - 1);
        assert_eq!(note, format!("(cut off here: {} bytes more)", body.len() + 1 - kept.len()));
        assert_eq!(cut("as it is"), "as it is");
    }

    #[test]
    fn a_completion_is_shown_verbatim() {
        let shown = completion_markdown("1+1=", "```\n2", 1.0, 3);
        assert_eq!(shown, "reward 1.000, 3 tokens\n\n    1+1=\n\n---\n\n    ```\n    2\n");
    }
}
