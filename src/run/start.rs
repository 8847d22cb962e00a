//! Where a training run starts: at the config's model, at the weights of another run (fork), or where the run stopped
//! (resume).

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use kernels::{ADAPTER_CONFIG_FILE, Device, ModelPlace};
use learner::manifest;
use rollout::{Journal, RolloutState};

use crate::cause::{Remedy, refused};
use crate::config::{RunConfig, Schedule};
use crate::records::folder::RunFolder;
use crate::records::output::keep_apart;
use crate::records::writer::MetricsWriter;
use crate::run::checkpoints::{self, ResumePoint, check_config};
use crate::run::model_source::ModelSource;
use crate::run::request::{RunRequest, StartFrom};
use crate::watch::log::{LogGuard, start_log};

/// Where a training run starts.
pub struct RunStart {
    /// Where the first weights are.
    pub model: ModelPlace,
    /// The checkpoint that the run is resumed at, if it had made one.
    pub point: Option<ResumePoint>,
    /// A checkpoint whose moments the optimizer takes.
    pub moments: Option<PathBuf>,
    /// The folder of the run that is resumed.
    resumed: Option<OpenRun>,
    /// Whether the run goes on under a config that changes what is learned.
    learns_otherwise: bool,
    /// What a person is told when the run begins.
    pub notes: Vec<String>,
}

/// Makes a checkpoint the model of a config, with its adapters where it holds these.
fn fork_model(config: &mut RunConfig, checkpoint: PathBuf) {
    if checkpoint.join(ADAPTER_CONFIG_FILE).exists()
        && let Some(lora) = &mut config.learner.lora
    {
        lora.adapter = None;
    }
    config.model.path = checkpoint;
}

/// The folder of a run that is resumed, with its log.
struct OpenRun {
    folder: RunFolder,
    log: LogGuard,
}

/// The run's folder with its log and its metrics.
pub struct OpenFolder {
    /// The folder.
    pub folder: RunFolder,
    /// Ends the log when it is dropped.
    pub log: LogGuard,
    /// The metrics of the steps that come.
    pub metrics: MetricsWriter,
}

impl RunStart {
    /// Looks for the start that the request names. `config` takes the model of a fork, so that it says what the run
    /// started with.
    ///
    /// # Errors
    /// If there is no such run or checkpoint, none of its checkpoints is whole, or the config has changed.
    pub fn find(config: &mut RunConfig, request: &RunRequest<'_>, device: &Device) -> Result<Self> {
        let (mut moments, mut notes) = (None, Vec::new());
        match &request.start {
            StartFrom::Config => {}
            StartFrom::Fork { from, with_optimizer } => {
                let fork = ForkedCheckpoint::find(from)?;
                notes = fork.passed_over;
                moments = with_optimizer.then(|| fork.checkpoint.clone());
                fork_model(config, fork.checkpoint);
            }
            StartFrom::Resume { from, allow_config_change } => {
                return Self::resume(config, request, from.as_deref(), *allow_config_change, device);
            }
        }
        keep_apart(request.folder.as_deref(), request.overwrite, &config.files_read())?;
        let model = ModelPlace::find(&config.model.path, config.model.base.as_deref())?;
        Ok(Self { model, point: None, moments, resumed: None, learns_otherwise: false, notes })
    }

    fn resume(
        config: &RunConfig,
        request: &RunRequest<'_>,
        from: Option<&Path>,
        allow_config_change: bool,
        device: &Device,
    ) -> Result<Self> {
        let ResumedRun { path, step } = ResumedRun::find(request, from)?;
        let folder = RunFolder::reopen(&path)?;
        let log = start_log(Some(&folder), request.console)?;
        let mut notes = Vec::new();
        let changes = check_config(&folder, config, allow_config_change)?;
        if !changes.lines.is_empty() {
            notes.push(format!("the config has changed: {}", changes.lines.join("; ")));
        }
        checkpoints::clean_up(&folder)?;
        if let Some(step) = step {
            refuse_later_checkpoints(&folder, step, request.overwrite)?;
        }
        let step_max = step.unwrap_or(u64::MAX);
        let base = config.model.base.as_deref();
        let models = ModelSource { families: request.families, device, base };
        let point = ResumePoint::find(&folder, step_max, &models)?;
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
        let model = match &point {
            Some(point) => models.place(&point.folder)?,
            None => ModelPlace::find(&config.model.path, base)?,
        };
        let resumed = Some(OpenRun { folder, log });
        Ok(Self { model, point, moments: None, resumed, learns_otherwise: changes.are_unsafe, notes })
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

    /// Opens a new run folder, or the folder of the resumed run as it was at the step.
    ///
    /// # Errors
    /// If a file cannot be made, opened or cut.
    pub fn open(&mut self, request: &RunRequest<'_>, config: &RunConfig) -> Result<OpenFolder> {
        let Some(OpenRun { folder, log }) = self.resumed.take() else {
            let (wanted, name) = (request.folder.as_deref(), request.name.as_str());
            let folder = RunFolder::create(wanted, name, request.overwrite, &config.resolved())?;
            let log = start_log(Some(&folder), request.console)?;
            // What is wrong with newer checkpoints is a warning; what a resumed run begins with stands in its header.
            std::mem::take(&mut self.notes).iter().for_each(|note| tracing::warn!("{note}"));
            let metrics = MetricsWriter::create(folder.path())?;
            return Ok(OpenFolder { folder, log, metrics });
        };
        folder.rewind(self.step())?;
        let at = self.point.as_ref().map(|point| point.run.metrics.clone()).unwrap_or_default();
        let metrics = MetricsWriter::resume(folder.path(), &at)?;
        Ok(OpenFolder { folder, log, metrics })
    }

    /// The journal of the segments that end from here on, with those that were drawn after the step before the restart.
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

/// The run that is resumed.
struct ResumedRun {
    path: PathBuf,
    /// The step, where the request names one of its checkpoints.
    step: Option<u64>,
}

impl ResumedRun {
    fn find(request: &RunRequest<'_>, from: Option<&Path>) -> Result<Self> {
        let Some(from) = from else {
            let newest = || RunFolder::newest(&request.name);
            let path = request.folder.clone().map_or_else(newest, Ok)?;
            return Ok(Self { path, step: None });
        };
        if request.folder.is_some() {
            let problem = "a run that is resumed has its own folder, and two are named".to_owned();
            return Err(refused(Remedy::OneFolder, problem));
        }
        let step = from.file_name().and_then(|name| name.to_str()?.strip_prefix("step-")?.parse().ok());
        Ok(match (step, from.parent().and_then(Path::parent)) {
            (Some(step), Some(run)) => Self { path: run.to_owned(), step: Some(step) },
            _ => Self { path: from.to_owned(), step: None },
        })
    }
}

/// Going back to a step removes the checkpoints after it, which has to be asked for.
fn refuse_later_checkpoints(folder: &RunFolder, step: u64, overwrite: bool) -> Result<()> {
    let later = folder.checkpoint_steps()?.into_iter().filter(|other| *other > step).count();
    if later > 0 && !overwrite {
        let place = folder.checkpoint(step);
        let problem = format!("{}: the run has {later} later checkpoints", place.display());
        return Err(refused(Remedy::OverwriteLater, problem));
    }
    Ok(())
}

/// The checkpoint that a run starts from.
struct ForkedCheckpoint {
    checkpoint: PathBuf,
    /// What is wrong with the newer ones of the run.
    passed_over: Vec<String>,
}

impl ForkedCheckpoint {
    /// A checkpoint, or the newest whole one of a run. A directory without a manifest is a model from elsewhere.
    fn find(from: &Path) -> Result<Self> {
        let mut passed_over = Vec::new();
        if !from.join("config.toml").exists() {
            if from.join(manifest::MANIFEST_FILE).exists() {
                manifest::verify(from)?;
            }
            return Ok(Self { checkpoint: from.to_owned(), passed_over });
        }
        let folder = RunFolder::reopen(from)?;
        for checkpoint in folder.checkpoint_steps()?.into_iter().map(|step| folder.checkpoint(step)) {
            match manifest::verify(&checkpoint) {
                Ok(_) => return Ok(Self { checkpoint, passed_over }),
                Err(error) => passed_over.push(format!("{}: not used: {error}", checkpoint.display())),
            }
        }
        passed_over.push(format!("{}: the run has no whole checkpoint", from.display()));
        bail!("{}", passed_over.join("; "))
    }
}
