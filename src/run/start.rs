//! Where a training run begins: at the config's model, at the weights of another run (`--fork`), or where an
//! earlier life of the run stood (`--resume`).

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use kernels::Device;
use learner::manifest;
use rollout::{Journal, RolloutState};

use crate::cli::{LATEST, RunPlace, Start};
use crate::config::{RunConfig, Schedule};
use crate::records::folder::RunFolder;
use crate::records::output::keep_apart;
use crate::records::writer::MetricsWriter;
use crate::run::checkpoints::{self, ResumePoint, check_config};
use crate::watch::log::{LogGuard, start_log};

/// Where a training run begins.
pub struct Origin {
    /// The Hugging Face directory of the first weights.
    pub model: PathBuf,
    /// Where the run stood, if it did anything before its end.
    pub point: Option<ResumePoint>,
    /// A checkpoint whose moments the optimizer takes.
    pub moments: Option<PathBuf>,
    /// The folder of the run that is resumed.
    resumed: Option<(RunFolder, LogGuard)>,
    /// Whether the run goes on under a config that changes what is learned.
    learns_otherwise: bool,
    /// What a person is told when the run begins.
    pub notes: Vec<String>,
}

impl Origin {
    /// Looks for where the command line says. `config` takes the model of a fork, so that it says what the run
    /// began with.
    ///
    /// # Errors
    /// If there is no such run or checkpoint, none of its checkpoints is whole, or the config has changed.
    pub fn find(
        config: &mut RunConfig,
        name: &str,
        (place, start): (&RunPlace, &Start),
        device: &Device,
    ) -> Result<Self> {
        if let Some(wanted) = &start.resume {
            return Self::resume(config, (wanted, name), (place, start), device);
        }
        let (mut moments, mut notes) = (None, Vec::new());
        if let Some(fork) = &start.fork {
            let (checkpoint, passed_over) = forked(fork)?;
            notes = passed_over;
            moments = start.fork_optimizer.then(|| checkpoint.clone());
            config.model.path = checkpoint;
        }
        keep_apart(place, &config.files_read())?;
        let model = config.model.path.clone();
        Ok(Self { model, point: None, moments, resumed: None, learns_otherwise: false, notes })
    }

    fn resume(
        config: &RunConfig,
        (wanted, name): (&Path, &str),
        (place, start): (&RunPlace, &Start),
        device: &Device,
    ) -> Result<Self> {
        let (path, step) = match (wanted == Path::new(LATEST), &place.run) {
            (true, Some(run)) => (run.clone(), None),
            (true, None) => (RunFolder::newest(name)?, None),
            (false, Some(_)) => bail!("--run names the folder of a new run; --resume has its own"),
            (false, None) => run_and_step(wanted),
        };
        let folder = RunFolder::reopen(&path)?;
        let log = start_log(Some(&folder))?;
        let mut notes = Vec::new();
        let changes = check_config(&folder, &config.resolved(), start.allow_config_change)?;
        if !changes.lines.is_empty() {
            notes.push(format!("the config has changed: {}", changes.lines.join("; ")));
        }
        checkpoints::settle(&folder)?;
        if let Some(step) = step {
            let later = folder.checkpoint_steps()?.into_iter().filter(|other| *other > step).count();
            if later > 0 && !place.overwrite {
                bail!(
                    "{}: the run has {later} later checkpoints; --overwrite goes back to step {step} and removes them",
                    wanted.display()
                );
            }
        }
        let point = ResumePoint::find(&folder, step.unwrap_or(u64::MAX), device)?;
        let at = point.as_ref().map_or(0, |point| point.step);
        if let Some(step) = step.filter(|step| *step != at) {
            bail!("{}: there is no whole checkpoint of step {step}", folder.path().display());
        }
        notes.push(match &point {
            Some(point) if at >= config.run.steps => {
                format!("all {} steps of the run are made: {}", config.run.steps, point.folder.display())
            }
            Some(point) => format!("resumed at step {at}, from {}", point.folder.display()),
            None => format!("resumed before its first checkpoint: {}", folder.path().display()),
        });
        notes.iter().for_each(|note| tracing::info!("{note}"));
        let model = point.as_ref().map_or_else(|| config.model.path.clone(), |point| point.folder.clone());
        let (resumed, learns_otherwise) = (Some((folder, log)), changes.are_unsafe);
        Ok(Self { model, point, moments: None, resumed, learns_otherwise, notes })
    }

    /// The step that the run goes on after.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.point.as_ref().map_or(0, |point| point.step)
    }

    /// What the rollout had on its way.
    #[must_use]
    pub fn rollout(&self) -> RolloutState {
        self.point.as_ref().map(|point| point.rollout.clone()).unwrap_or_default()
    }

    /// The run's folder with its log and its metrics: a new one, or the old one as it was at the step.
    ///
    /// # Errors
    /// If a file cannot be made, opened or cut.
    pub fn open(
        &mut self,
        (name, place): (&str, &RunPlace),
        config: &RunConfig,
    ) -> Result<(RunFolder, LogGuard, MetricsWriter)> {
        let Some((folder, log)) = self.resumed.take() else {
            let folder = RunFolder::create(place.run.as_deref(), name, place.overwrite, &config.resolved())?;
            let log = start_log(Some(&folder))?;
            self.notes.iter().for_each(|note| tracing::warn!("{note}"));
            let metrics = MetricsWriter::create(folder.path())?;
            return Ok((folder, log, metrics));
        };
        folder.rewind(self.step())?;
        let at = self.point.as_ref().map(|point| point.run.metrics.clone()).unwrap_or_default();
        let metrics = MetricsWriter::resume(folder.path(), &at)?;
        Ok((folder, log, metrics))
    }

    /// The journal of the segments that end from here on, with those that an earlier life drew after the step.
    ///
    /// # Errors
    /// If it cannot be opened or read.
    pub fn journal(&self, folder: &RunFolder, schedule: Schedule) -> Result<Journal> {
        if self.learns_otherwise {
            // What was drawn after the checkpoint was drawn by weights, or under limits, that will not come again.
            Journal::prune(&folder.journal(), u64::MAX)?;
        }
        // Under `async` the weights after the step come out otherwise, so only segments that were drawn under
        // weights which still exist are used again.
        let trusted = if schedule == Schedule::Async { self.step() } else { u64::MAX };
        Ok(Journal::open(&folder.journal(), self.step(), trusted)?)
    }
}

/// A run's folder, and the step where one of its checkpoints is meant.
fn run_and_step(wanted: &Path) -> (PathBuf, Option<u64>) {
    let step = wanted.file_name().and_then(|name| name.to_str()?.strip_prefix("step-")?.parse().ok());
    match (step, wanted.parent().and_then(Path::parent)) {
        (Some(step), Some(run)) => (run.to_owned(), Some(step)),
        _ => (wanted.to_owned(), None),
    }
}

/// A checkpoint, or the newest whole one of a run, and the ones passed over for it. A directory without a manifest
/// is a model from elsewhere.
fn forked(fork: &Path) -> Result<(PathBuf, Vec<String>)> {
    let mut notes = Vec::new();
    if !fork.join("config.toml").exists() {
        if fork.join(manifest::MANIFEST_FILE).exists() {
            manifest::verify(fork)?;
        }
        return Ok((fork.to_owned(), notes));
    }
    let folder = RunFolder::reopen(fork)?;
    for checkpoint in folder.checkpoint_steps()?.into_iter().map(|step| folder.checkpoint(step)) {
        match manifest::verify(&checkpoint) {
            Ok(_) => return Ok((checkpoint, notes)),
            Err(error) => notes.push(format!("{}: not used: {error}", checkpoint.display())),
        }
    }
    notes.push(format!("{}: the run has no whole checkpoint", fork.display()));
    bail!("{}", notes.join("; "))
}
