//! The files of TensorBoard: numbers, histograms and texts of a run, one event after the other.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use protobuf::{Message, RepeatedField};
use tensorboard_proto::event::Event;
use tensorboard_proto::summary::{Summary, Summary_Value, SummaryMetadata, SummaryMetadata_PluginData};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::tensor_shape::{TensorShapeProto, TensorShapeProto_Dim};
use tensorboard_proto::types::DataType;
use tensorboard_rs::record_writer::RecordWriter;
use tensorboard_rs::summary::histogram_raw;

/// TensorBoard draws 30 buckets, so more would be merged before anybody sees them.
const BUCKETS: usize = 30;

/// A text of a million characters makes TensorBoard's page unusable; what is cut off stands in `rollouts/`.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// The event files of a folder with their lengths.
pub(super) fn event_files(directory: &Path) -> Result<BTreeMap<String, u64>> {
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
pub(super) fn cut_events(directory: &Path, kept: &BTreeMap<String, u64>) -> Result<()> {
    for (name, there) in event_files(directory)? {
        let path = directory.join(&name);
        match kept.get(&name) {
            Some(bytes) => File::options().write(true).open(&path)?.set_len(there.min(*bytes))?,
            None => fs::remove_file(&path)?,
        }
    }
    Ok(())
}

/// One event file. TensorBoard reads it while it grows, so every step is flushed.
///
/// The record format and the summaries are tensorboard-rs's. Its `SummaryWriter` is left out: it writes in a
/// thread of its own, and a full disk panics there.
pub(super) struct EventFile {
    pub(super) records: RecordWriter<BufWriter<File>>,
    pub(super) path: PathBuf,
}

impl EventFile {
    pub(super) fn create(directory: &Path) -> Result<Self> {
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

    pub(super) fn write(&mut self, step: u64, summaries: Vec<Summary>) -> Result<()> {
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

pub(super) fn wall_time() -> f64 {
    // A clock before 1970 gives a wrong time on the axis, which is no reason to stop.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Buckets of equal width from the least to the greatest finite value; `None` if there is no finite value.
pub(super) fn histogram(tag: &str, values: &[f64]) -> Option<Summary> {
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
pub(super) fn text(tag: &str, body: &str) -> Summary {
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
pub(super) fn cut(body: &str) -> Cow<'_, str> {
    let kept = &body[..body.floor_char_boundary(TEXT_BYTES_MAX)];
    match body.len() - kept.len() {
        0 => kept.into(),
        missing => format!("{kept}\n\n(cut off here: {missing} bytes more)").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
