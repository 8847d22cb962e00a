//! The lines of a file of records, with their numbers for errors: the one reader of such files.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::error::FileError;

/// The lines of a file that are not empty, in their order.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    lines: std::iter::Enumerate<std::io::Lines<BufReader<File>>>,
}

/// A line that is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    path: PathBuf,
    /// Its number, counted from 1.
    pub number: usize,
    /// What it holds, without the spaces around it.
    pub text: String,
}

impl Lines {
    /// Opens a file.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let file = File::open(path).map_err(|error| FileError::file(path, error))?;
        Ok(Self { path: path.to_path_buf(), lines: BufReader::new(file).lines().enumerate() })
    }
}

impl Iterator for Lines {
    type Item = Result<Line, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (index, text) = self.lines.next()?;
            let text = match text {
                Ok(text) => text.trim().to_string(),
                Err(error) => return Some(Err(FileError::file(&self.path, error))),
            };
            if !text.is_empty() {
                return Some(Ok(Line { path: self.path.clone(), number: index + 1, text }));
            }
        }
    }
}

impl Line {
    /// The record on the line; `what` it should be is said where it is none.
    ///
    /// # Errors
    /// If the line is no such record.
    pub fn parse<T: DeserializeOwned>(&self, what: &str) -> Result<T, FileError> {
        serde_json::from_str(&self.text).map_err(|error| self.refuse(format!("not {what}: {error}")))
    }

    /// An error about the line.
    #[must_use]
    pub fn refuse(&self, reason: impl ToString) -> FileError {
        FileError::line(&self.path, self.number, reason)
    }
}

/// The files of recorded completions in a run folder, in the order of their steps.
///
/// # Errors
/// If the folder `rollouts` in it cannot be listed.
pub fn rollout_files(run: &Path) -> Result<Vec<PathBuf>, FileError> {
    let folder = run.join("rollouts");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(|error| FileError::file(&folder, error))? {
        let file = entry.map_err(|error| FileError::file(&folder, error))?.path();
        if file.extension().is_some_and(|extension| extension == "jsonl") {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_lines_are_left_out_and_counted() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(folder.path().join("rollouts")).expect("ours");
        for (name, text) in [("step-000002.jsonl", "7"), ("step-000001.jsonl", "\n 1 \n\nx\n"), ("notes", "")]
        {
            std::fs::write(folder.path().join("rollouts").join(name), text).expect("ours");
        }
        let files = rollout_files(folder.path()).expect("two files");
        let names: Vec<_> = files.iter().map(|file| file.file_name().expect("a file")).collect();
        assert_eq!(names, ["step-000001.jsonl", "step-000002.jsonl"]);
        let lines: Vec<Line> =
            Lines::open(&files[0]).expect("a file").map(|line| line.expect("text")).collect();
        let seen: Vec<_> = lines.iter().map(|line| (line.number, line.text.as_str())).collect();
        assert_eq!(seen, [(2, "1"), (4, "x")]);
        assert_eq!(lines[0].parse::<u8>("a number").expect("one"), 1);
        let error = lines[1].parse::<u8>("a number").expect_err("a letter").to_string();
        assert!(error.contains("step-000001.jsonl:4: not a number: "), "{error}");
        let missing = folder.path().join("rollouts/none.jsonl");
        assert!(Lines::open(&missing).expect_err("no file").to_string().contains("none.jsonl: "));
    }
}
