//! The folder of one run: where each file of it stands.
//!
//! ```text
//! runs/quickstart-1/
//!   config.toml            the resolved config; its first line marks the folder as a run's
//!   metrics.jsonl          one object a step
//!   tensorboard/           the same numbers, histograms and texts
//!   rollouts/              step-000012.jsonl: the completions that step 12 had
//!   evals/step-12/         what the model of step 12 answered to held-out prompts, one file a set
//!   checkpoints/step-12/   a Hugging Face directory, the trainer's state and that of the rollout
//!   journal/               the segments that ended since the last checkpoints
//!   log                    each line of the terminal, and details, with times
//! ```

mod evaluations;

use std::fs::{self, File, TryLockError};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::cause::{Remedy, refused};

/// The first line of a run's `config.toml`. `--overwrite` touches no folder without it.
const MARK: &str = "# A run of longhaul";

/// Nobody has so many runs of one config in one place; a search beyond it is a mistake.
const RUNS_MAX: u32 = 100_000;

/// How long a run waits for another process to leave its folder.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// A folder that belongs to this run alone, while this lives.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// The locked `config.toml`; the operating system lets go of it whatever ends the process.
    _lock: Arc<File>,
}

impl RunFolder {
    /// Makes the folder `wanted`, or else the next `runs/<name>-<n>`, and writes the resolved config into it.
    ///
    /// # Errors
    /// If `wanted` is there and not empty, unless `overwrite` is set and it is the folder of another run: then
    /// what longhaul wrote there is removed, and nothing else.
    pub fn create(wanted: Option<&Path>, name: &str, overwrite: bool, config: &str) -> Result<Self> {
        let path = match wanted {
            Some(path) => {
                make_room(path, overwrite)?;
                path.to_owned()
            }
            None => next_free(Path::new("runs"), name)?,
        };
        let file = path.join("config.toml");
        let text = format!("{MARK} {}\n{config}", crate::VERSION);
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        Ok(Self { _lock: Arc::new(lock(&file)?), path })
    }

    /// The folder of a run that is resumed.
    ///
    /// # Errors
    /// If it is no run's, or if a process is at work on it.
    pub fn reopen(path: &Path) -> Result<Self> {
        let file = path.join("config.toml");
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("there is no run in {}: {} is not there", path.display(), file.display())
            }
            read => read.with_context(|| file.display().to_string())?,
        };
        if !text.starts_with(MARK) {
            bail!("{}: not the config of a run, so there is nothing to resume", file.display());
        }
        Ok(Self { _lock: Arc::new(lock(&file)?), path: path.to_owned() })
    }

    /// The newest checkpoint of the run in this folder; `None` where the folder is no run's, or has none.
    #[must_use]
    pub fn newest_checkpoint(path: &Path) -> Option<PathBuf> {
        let text = fs::read_to_string(path.join("config.toml")).ok()?;
        let checkpoints = path.join("checkpoints");
        let names = names_in(&checkpoints).ok().filter(|_| text.starts_with(MARK))?;
        let newest = names.iter().filter_map(|name| checkpoint_step(name)).max()?;
        Some(checkpoints.join(format!("step-{newest}")))
    }

    /// The newest folder `runs/<name>-<n>`.
    ///
    /// # Errors
    /// If there is none.
    pub fn newest(name: &str) -> Result<PathBuf> {
        let runs = Path::new("runs");
        let last = if runs.exists() { numbers(runs, name)?.into_iter().max() } else { None };
        match last {
            Some(number) => Ok(runs.join(format!("{name}-{number}"))),
            None => {
                let problem = format!("there is no run runs/{name}-<n> to resume");
                Err(refused(Remedy::ResumedFolder, problem))
            }
        }
    }

    /// The folder of journals.
    #[must_use]
    pub fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// The steps of all checkpoints, newest first.
    ///
    /// # Errors
    /// If the folder of checkpoints cannot be listed.
    pub fn checkpoint_steps(&self) -> Result<Vec<u64>> {
        let folder = self.checkpoints();
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let mut steps: Vec<u64> =
            names_in(&folder)?.iter().filter_map(|name| checkpoint_step(name)).collect();
        steps.sort_unstable_by(|a, b| b.cmp(a));
        Ok(steps)
    }

    /// The folders of checkpoints that a kill left under a hidden name: the step, what the name ends with, and where.
    ///
    /// # Errors
    /// If the folder of checkpoints cannot be listed.
    pub fn hidden_checkpoints(&self) -> Result<Vec<(u64, String, PathBuf)>> {
        let folder = self.checkpoints();
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let hidden = |name: &String| {
            let (step, end) = hidden_step(name)?;
            Some((step, end.to_owned(), folder.join(name)))
        };
        Ok(names_in(&folder)?.iter().filter_map(hidden).collect())
    }

    /// Removes what was written of the steps after `step`, which come again.
    ///
    /// # Errors
    /// If a file cannot be listed or removed.
    pub fn rewind(&self, step: u64) -> Result<()> {
        let written =
            |name: &str| -> Option<u64> { name.strip_prefix("step-")?.strip_suffix(".jsonl")?.parse().ok() };
        remove_matching(&self.path.join("rollouts"), |name| written(name).is_some_and(|of| of > step))?;
        evaluations::remove_after(&self.path, step)?;
        remove_matching(&self.checkpoints(), |name| checkpoint_step(name).is_some_and(|of| of > step))
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The resolved config, from which the run can be repeated.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The file with each line of the terminal, and details.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// The recorded completions of one step.
    #[must_use]
    pub fn rollouts(&self, step: u64) -> PathBuf {
        self.path.join("rollouts").join(format!("step-{step:06}.jsonl"))
    }

    /// The folder of all checkpoints.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The checkpoint of one step.
    #[must_use]
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.checkpoints().join(format!("step-{step}"))
    }

    /// Writes the completions that a step learned from, one JSON object a line.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_rollouts<R: Serialize>(
        &self,
        step: u64,
        records: impl IntoIterator<Item = R>,
    ) -> Result<()> {
        self.write_records(&self.rollouts(step), records)
    }

    /// Writes the completions that a step failed on, and returns where.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write_failed<R: Serialize>(
        &self,
        step: u64,
        records: impl IntoIterator<Item = R>,
    ) -> Result<PathBuf> {
        let path = self.path.join("rollouts").join(format!("failed-step-{step:06}.jsonl"));
        self.write_records(&path, records)?;
        Ok(path)
    }

    fn write_records<R: Serialize>(&self, path: &Path, records: impl IntoIterator<Item = R>) -> Result<()> {
        let write = || -> Result<()> {
            fs::create_dir_all(self.path.join("rollouts"))?;
            let mut file = BufWriter::new(File::create(path)?);
            for record in records {
                serde_json::to_writer(&mut file, &record)?;
                file.write_all(b"\n")?;
            }
            Ok(file.flush()?)
        };
        write().with_context(|| path.display().to_string())
    }

    /// Removes all checkpoints but those of these steps.
    ///
    /// # Errors
    /// If a checkpoint cannot be listed or removed.
    pub fn prune_checkpoints(&self, keeps: impl Fn(u64) -> bool) -> Result<()> {
        for step in self.checkpoint_steps()?.into_iter().filter(|step| !keeps(*step)) {
            let path = self.checkpoint(step);
            fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

/// Nobody else writes to the run while the file is open.
fn lock(config: &Path) -> Result<File> {
    let file = File::open(config).with_context(|| config.display().to_string())?;
    let began = Instant::now();
    let mut locked = file.try_lock();
    // A process that was killed a moment ago may still be on its way out.
    while matches!(locked, Err(TryLockError::WouldBlock)) && began.elapsed() < LOCK_WAIT_MAX {
        std::thread::sleep(LOCK_WAIT_MAX / 100);
        locked = file.try_lock();
    }
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("{}: another process is at work on this run", config.display())
        }
        // A file system without locks is no reason not to run.
        Err(TryLockError::Error(error)) => {
            tracing::warn!("{}: {error}; nothing keeps a second process from this run", config.display());
            Ok(file)
        }
    }
}

/// The step of a finished checkpoint's folder; a half-written one bears another name.
fn checkpoint_step(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.parse().ok()
}

/// The step and the end of the name of a checkpoint on its way in or out: `.step-12.partial`, `.step-12.old`.
fn hidden_step(name: &str) -> Option<(u64, &str)> {
    let (step, end) = name.strip_prefix('.')?.rsplit_once('.')?;
    Some((checkpoint_step(step)?, end))
}

/// The folder after the last one of this name, so that the numbers follow time even where some were deleted.
fn next_free(runs: &Path, name: &str) -> Result<PathBuf> {
    fs::create_dir_all(runs).with_context(|| runs.display().to_string())?;
    let last = numbers(runs, name)?.into_iter().max().unwrap_or(0);
    for number in last + 1..=RUNS_MAX {
        let path = runs.join(format!("{name}-{number}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            // Another run began at the same moment.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    let problem = format!("{}: there are {RUNS_MAX} runs of {name}", runs.display());
    Err(refused(Remedy::OtherFolder, problem))
}

fn numbers(runs: &Path, name: &str) -> Result<Vec<u32>> {
    let prefix = format!("{name}-");
    let names = names_in(runs)?;
    Ok(names.iter().filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect())
}

fn make_room(path: &Path, overwrite: bool) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("{}: cannot make the run folder", path.display()))?;
    if names_in(path)?.is_empty() {
        return Ok(());
    }
    let shown = path.display();
    if !overwrite {
        let problem = format!("{shown}: the run folder exists and is not empty");
        return Err(refused(Remedy::OtherFolderOrOverwrite, problem));
    }
    let marked = fs::read_to_string(path.join("config.toml")).is_ok_and(|text| text.starts_with(MARK));
    if !marked {
        bail!(
            "{shown}: the folder of a run can be overwritten, and this is none (no config.toml of a run in it)"
        );
    }
    drop(lock(&path.join("config.toml"))?);
    remove_run(path)
}

/// Removes the files of a run by their names. A file that somebody put beside them stays, with its folder.
fn remove_run(path: &Path) -> Result<()> {
    // The config goes last: what is interrupted here can still be overwritten.
    remove_matching(&path.join("tensorboard"), |name| name.contains("tfevents"))?;
    remove_matching(&path.join("rollouts"), |name| name.contains("step-") && name.ends_with(".jsonl"))?;
    evaluations::remove_all(path)?;
    let is_checkpoint = |name: &str| checkpoint_step(name).is_some() || hidden_step(name).is_some();
    remove_matching(&path.join("checkpoints"), is_checkpoint)?;
    remove_matching(&path.join("journal"), |name| name.ends_with(".segments"))?;
    for name in ["metrics.jsonl", "log", "config.toml"] {
        let file = path.join(name);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| file.display().to_string());
            }
            _ => {}
        }
    }
    Ok(())
}

fn remove_matching(folder: &Path, is_ours: impl Fn(&str) -> bool) -> Result<()> {
    match fs::symlink_metadata(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        // What a link points to may belong to something else.
        Ok(kind) if !kind.is_dir() => {
            bail!("{}: not a folder that longhaul made, so it is not overwritten", folder.display())
        }
        _ => {}
    }
    for name in names_in(folder)?.into_iter().filter(|name| is_ours(name)) {
        let path = folder.join(name);
        let kind = fs::symlink_metadata(&path).with_context(|| path.display().to_string())?;
        if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
            .with_context(|| path.display().to_string())?;
    }
    if names_in(folder)?.is_empty() {
        fs::remove_dir(folder).with_context(|| folder.display().to_string())?;
    }
    Ok(())
}

fn names_in(folder: &Path) -> Result<Vec<String>> {
    let context = || folder.display().to_string();
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(context)? {
        names.push(entry.with_context(context)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(path: &Path, overwrite: bool) -> Result<RunFolder> {
        RunFolder::create(Some(path), "unused", overwrite, "[run]\nseed = 1\n")
    }

    fn fill(folder: &RunFolder) {
        folder.write_rollouts(1, [serde_json::json!({"reward": 1.0})]).unwrap();
        fs::create_dir_all(folder.checkpoint(1)).unwrap();
        fs::write(folder.checkpoint(1).join("model.safetensors"), "w").unwrap();
        fs::create_dir(folder.path().join("tensorboard")).unwrap();
        fs::write(folder.path().join("tensorboard/events.out.tfevents.1"), "e").unwrap();
        fs::write(folder.path().join("metrics.jsonl"), "{}").unwrap();
        fs::write(folder.log(), "l").unwrap();
    }

    #[test]
    fn a_run_folder_is_refused_and_overwritten_on_demand() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a/run");
        fill(&create(&path, false).unwrap());

        let error = create(&path, false).unwrap_err().to_string();
        assert!(error.contains("a/run") && error.contains("or set `overwrite`"), "{error}");

        let folder = create(&path, true).unwrap();
        assert_eq!(names_in(&path).unwrap(), ["config.toml"]);
        let config = fs::read_to_string(folder.config()).unwrap();
        assert!(config.starts_with(MARK) && config.ends_with("\n[run]\nseed = 1\n"), "{config}");
    }

    #[test]
    fn overwrite_keeps_what_longhaul_did_not_make() {
        let place = tempfile::tempdir().unwrap();
        let folder = create(place.path(), false).unwrap();
        fill(&folder);
        let kept = ["notes.txt", "rollouts/mine.txt", "checkpoints/best", "tensorboard/notes"];
        for name in kept {
            fs::write(place.path().join(name), "mine").unwrap();
        }
        let error = create(place.path(), true).unwrap_err().to_string();
        assert!(error.contains("another process is at work"), "{error}");
        let (checkpoint, rollouts) = (folder.checkpoint(1), folder.rollouts(1));
        drop(folder);
        create(place.path(), true).unwrap();
        for name in kept {
            assert!(place.path().join(name).exists(), "{name}");
        }
        assert!(!checkpoint.exists() && !rollouts.exists());
    }

    #[test]
    fn overwrite_refuses_a_folder_that_is_no_run() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("config.toml"), "[package]").unwrap();
        fs::write(place.path().join("log"), "precious").unwrap();
        let error = create(place.path(), true).unwrap_err().to_string();
        assert!(error.contains("this is none"), "{error}");
        assert_eq!(fs::read_to_string(place.path().join("log")).unwrap(), "precious");
    }

    #[cfg(unix)]
    #[test]
    fn overwrite_does_not_follow_a_link() {
        let place = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::create_dir(elsewhere.path().join("step-1")).unwrap();
        create(place.path(), false).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), place.path().join("checkpoints")).unwrap();
        assert!(create(place.path(), true).is_err());
        assert!(elsewhere.path().join("step-1").exists());
    }

    #[test]
    fn a_folder_without_a_run_and_the_newest_checkpoint_are_told() {
        let place = tempfile::tempdir().unwrap();
        let error = RunFolder::reopen(&place.path().join("nope")).unwrap_err().to_string();
        assert!(error.starts_with("there is no run in ") && error.contains("nope: "), "{error}");
        let folder = create(place.path(), false).unwrap();
        assert_eq!(RunFolder::newest_checkpoint(place.path()), None);
        for step in [2, 10, 9] {
            fs::create_dir_all(folder.checkpoint(step)).unwrap();
        }
        assert_eq!(RunFolder::newest_checkpoint(place.path()), Some(folder.checkpoint(10)));
        fs::write(folder.config(), "[package]").unwrap();
        assert_eq!(RunFolder::newest_checkpoint(place.path()), None);
    }

    #[test]
    fn runs_are_numbered_after_the_last() {
        let place = tempfile::tempdir().unwrap();
        for name in ["quick-1", "quick-7", "quick-x", "quick-slow-9"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        assert_eq!(next_free(place.path(), "quick").unwrap(), place.path().join("quick-8"));
        assert_eq!(next_free(place.path(), "quick").unwrap(), place.path().join("quick-9"));
        assert_eq!(next_free(place.path(), "other").unwrap(), place.path().join("other-1"));
    }

    #[test]
    fn checkpoints_that_are_not_kept_go() {
        let place = tempfile::tempdir().unwrap();
        let folder = create(place.path(), false).unwrap();
        folder.prune_checkpoints(|_| false).unwrap();
        for step in [2, 9, 10] {
            fs::create_dir_all(folder.checkpoint(step)).unwrap();
        }
        fs::create_dir(folder.checkpoints().join("best")).unwrap();
        folder.prune_checkpoints(|step| step > 2).unwrap();
        let mut left = names_in(&folder.checkpoints()).unwrap();
        left.sort();
        assert_eq!(left, ["best", "step-10", "step-9"]);
    }

    #[test]
    fn rollouts_are_lines() {
        let place = tempfile::tempdir().unwrap();
        let folder = create(place.path(), false).unwrap();
        folder.write_rollouts(12, [serde_json::json!({"a": 1}), serde_json::json!({"a": 2})]).unwrap();
        let text = fs::read_to_string(place.path().join("rollouts/step-000012.jsonl")).unwrap();
        assert_eq!(text, "{\"a\":1}\n{\"a\":2}\n");
    }
}
