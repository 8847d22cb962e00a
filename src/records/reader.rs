//! Reads what a run has written: the one reader of `metrics.jsonl`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// The lines of a run's `metrics.jsonl`, in their order.
pub struct MetricsReader {
    path: PathBuf,
    lines: Vec<Value>,
}

/// The numbers of one step.
#[derive(Clone, Copy)]
pub struct MetricsLine<'a> {
    path: &'a Path,
    number: usize,
    line: &'a Value,
}

impl MetricsReader {
    /// Reads the metrics in a run folder.
    ///
    /// # Errors
    /// If the file cannot be read; names the line that is not JSON.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("metrics.jsonl");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let place = |number: usize| format!("{}:{}", path.display(), number + 1);
        let lines = text.lines().enumerate();
        let lines = lines.map(|(number, line)| serde_json::from_str(line).with_context(|| place(number)));
        let lines = lines.collect::<Result<_>>()?;
        Ok(Self { path, lines })
    }

    /// The lines, that of the evaluation before the first step included.
    pub fn lines(&self) -> impl Iterator<Item = MetricsLine<'_>> {
        let line = |(number, line)| MetricsLine { path: &self.path, number: number + 1, line };
        self.lines.iter().enumerate().map(line)
    }
}

impl MetricsLine<'_> {
    /// The step; 0 is the evaluation before the first one.
    #[must_use]
    pub fn step(&self) -> Option<u64> {
        self.line["step"].as_u64()
    }

    /// A number, where the step has it.
    #[must_use]
    pub fn value(&self, tag: &str) -> Option<f64> {
        self.line[tag].as_f64()
    }

    /// A number that every step has.
    ///
    /// # Errors
    /// Names the file, the line and the tag where it is absent.
    pub fn needed(&self, tag: &str) -> Result<f64> {
        let place = || format!("{}:{}: the step has no {tag}", self.path.display(), self.number);
        self.value(tag).with_context(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_their_numbers_and_name_what_they_lack() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        fs::write(&path, "{\"step\":0}\n{\"step\":1,\"loss\":0.5,\"reward\":null}\n").unwrap();
        let reader = MetricsReader::open(folder.path()).unwrap();
        let steps: Vec<_> = reader.lines().map(|line| line.step()).collect();
        assert_eq!(steps, [Some(0), Some(1)]);
        let last = reader.lines().last().unwrap();
        assert_eq!(
            (last.value("loss"), last.value("reward"), last.needed("loss").unwrap()),
            (Some(0.5), None, 0.5)
        );
        let error = last.needed("reward").unwrap_err().to_string();
        assert_eq!(error, format!("{}:2: the step has no reward", path.display()));
        fs::write(&path, "{\"step\":0}\n{\"ste").unwrap();
        let error = format!("{:#}", MetricsReader::open(folder.path()).err().unwrap());
        assert!(error.starts_with(&format!("{}:2: ", path.display())), "{error}");
    }
}
