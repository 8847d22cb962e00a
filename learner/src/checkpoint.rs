//! A learner on disk: a Hugging Face directory with the weights, beside them the optimizer's moments and
//! counters. Written to a temporary name, with a manifest of checksums last, synced and renamed, so a directory
//! of the right name is whole; what a disk did to it later, [`crate::manifest::verify`] finds.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use kernels::{DecodeWeights, Weights};
use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use crate::config::LearnerConfig;
use crate::error::LearnerError;
use crate::manifest;
use crate::optimizer::OptimizerConfig;
use crate::sft::{SftConfig, SftLearner};
use crate::snapshot::Trainee;
use crate::step::Learner;

/// Counters and settings.
const STATE_FILE: &str = "trainer_state.json";
/// AdamW's moments by parameter name, under `first.` and `second.`.
const MOMENTS_FILE: &str = "optimizer.safetensors";
/// Rises when a reader of old files could misread new ones.
const FORMAT: u32 = 1;

/// A file that goes into a checkpoint beside the learner's own.
#[derive(Clone, Debug)]
pub enum ExtraFile {
    /// Written with this content.
    Write {
        /// Its name, with `/` where it lies in a folder.
        name: String,
        /// What it holds.
        content: Vec<u8>,
    },
    /// Other weights, in a Hugging Face directory of this name.
    Weights {
        /// The directory's name.
        name: String,
        /// The weights.
        weights: Arc<DecodeWeights>,
    },
}

/// `trainer_state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// Of this file.
    pub format: u32,
    /// Steps that the weights have seen.
    pub version: u64,
    /// Updates that the optimizer has made: fewer than steps where all groups of a step were dropped.
    pub updates: u64,
    /// The optimizer's settings when the checkpoint was written.
    pub optimizer: OptimizerConfig,
    /// The learner's settings when the checkpoint was written.
    pub settings: Settings,
}

/// The settings of whoever wrote the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Settings {
    /// Reinforcement learning.
    Learner(LearnerConfig),
    /// Supervised warm start.
    Sft(SftConfig),
}

/// Writes a checkpoint to `dir`, replacing one of the same name, and returns its bytes.
///
/// # Errors
/// [`LearnerError::File`], [`LearnerError::Checkpoint`] or [`LearnerError::Model`] with the path; `dir` is
/// then as before.
pub fn save(dir: &Path, learner: &Learner, extra: &[ExtraFile]) -> Result<u64, LearnerError> {
    write(dir, &learner.trainee, Settings::Learner(learner.config.clone()), extra)
}

/// [`save`] for the supervised warm start.
///
/// # Errors
/// As [`save`].
pub fn save_sft(dir: &Path, learner: &SftLearner, extra: &[ExtraFile]) -> Result<u64, LearnerError> {
    write(dir, &learner.trainee, Settings::Sft(learner.config.clone()), extra)
}

/// Brings version, counters and moments back into a learner that was made with the checkpoint's weights
/// (`Decoder::load(dir)`).
///
/// # Errors
/// [`LearnerError::File`] or [`LearnerError::Checkpoint`] for a file that is missing, cut off, or does not
/// fit the learner's optimizer and model; the learner is then as before.
pub fn load_optimizer(dir: &Path, learner: &mut Learner) -> Result<TrainerState, LearnerError> {
    read(dir, &mut learner.trainee)
}

/// As [`load_optimizer`], for another run that begins at version 0: only the moments are taken.
///
/// # Errors
/// As [`load_optimizer`].
pub fn load_moments(dir: &Path, learner: &mut Learner) -> Result<(), LearnerError> {
    read(dir, &mut learner.trainee)?;
    learner.trainee.version = 0;
    Ok(())
}

/// [`load_optimizer`] for the supervised warm start.
///
/// # Errors
/// As [`load_optimizer`].
pub fn load_sft_optimizer(dir: &Path, learner: &mut SftLearner) -> Result<TrainerState, LearnerError> {
    read(dir, &mut learner.trainee)
}

fn write(
    dir: &Path,
    trainee: &Trainee,
    settings: Settings,
    extra: &[ExtraFile],
) -> Result<u64, LearnerError> {
    let temporary = sibling(dir, "partial")?;
    remove_if_there(&temporary)?;
    let written = fill(&temporary, trainee, settings, extra);
    if written.is_err() {
        // What is half-written holds the room on a full disk that the next checkpoint needs.
        let _ = remove_if_there(&temporary);
    }
    let bytes = written?;
    swap_in(&temporary, dir)?;
    Ok(bytes)
}

/// Writes a whole checkpoint to a directory that is not there, waits until it is on the disk, and returns its bytes.
fn fill(
    temporary: &Path,
    trainee: &Trainee,
    settings: Settings,
    extra: &[ExtraFile],
) -> Result<u64, LearnerError> {
    fs::create_dir_all(temporary).map_err(|error| LearnerError::file(temporary, error))?;
    trainee.decoder.save(temporary)?;
    for file in extra {
        add_extra(temporary, file)?;
    }
    save_moments(&temporary.join(MOMENTS_FILE), trainee)?;
    let state = TrainerState {
        format: FORMAT,
        version: trainee.version,
        updates: trainee.optimizer.updates,
        optimizer: trainee.optimizer.config.clone(),
        settings,
    };
    let path = temporary.join(STATE_FILE);
    let text = serde_json::to_vec_pretty(&state)
        .map_err(|error| LearnerError::checkpoint(&path, error.to_string()))?;
    put(&path, &text)?;
    let bytes = manifest::write(temporary)?;
    sync_all(temporary)?;
    Ok(bytes)
}

/// A hidden name beside `dir`, on the same file system, so that a rename is atomic.
fn sibling(dir: &Path, suffix: &str) -> Result<PathBuf, LearnerError> {
    let name = dir.file_name().ok_or_else(|| LearnerError::checkpoint(dir, "has no name of its own"))?;
    Ok(dir.with_file_name(format!(".{}.{suffix}", name.to_string_lossy())))
}

fn remove_if_there(dir: &Path) -> Result<(), LearnerError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(LearnerError::file(dir, error)),
        _ => Ok(()),
    }
}

fn add_extra(dir: &Path, file: &ExtraFile) -> Result<(), LearnerError> {
    match file {
        ExtraFile::Write { name, content } => {
            let path = dir.join(name);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(|error| LearnerError::file(folder, error))?;
            }
            put(&path, content)
        }
        ExtraFile::Weights { name, weights } => {
            let folder = dir.join(name);
            fs::create_dir(&folder).map_err(|error| LearnerError::file(&folder, error))?;
            Ok(weights.save(&folder)?)
        }
    }
}

fn put(path: &Path, content: &[u8]) -> Result<(), LearnerError> {
    let written = File::create(path).and_then(|mut file| file.write_all(content));
    written.map_err(|error| LearnerError::file(path, error))
}

/// Waits until every file of the directory, and the directory, is on the disk.
fn sync_all(dir: &Path) -> Result<(), LearnerError> {
    let sync = |path: &Path| File::open(path).and_then(|file| file.sync_all());
    for path in manifest::files_below(dir)?.into_iter().chain([dir.join(manifest::MANIFEST_FILE)]) {
        sync(&path).map_err(|error| LearnerError::file(&path, error))?;
        if let Some(folder) = path.parent() {
            sync(folder).map_err(|error| LearnerError::file(folder, error))?;
        }
    }
    sync(dir).map_err(|error| LearnerError::file(dir, error))
}

/// Gives the finished directory its name. An older one of that name steps aside first, as a directory
/// cannot be renamed over another; a kill between the two renames leaves both under hidden names.
fn swap_in(temporary: &Path, dir: &Path) -> Result<(), LearnerError> {
    let old = sibling(dir, "old")?;
    remove_if_there(&old)?;
    if dir.exists() {
        fs::rename(dir, &old).map_err(|error| LearnerError::file(dir, error))?;
    }
    fs::rename(temporary, dir).map_err(|error| LearnerError::file(dir, error))?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        let synced = File::open(parent).and_then(|file| file.sync_all());
        synced.map_err(|error| LearnerError::file(parent, error))?;
    }
    remove_if_there(&old)
}

/// A tensor that is read from the device when its turn to be written comes.
struct Stored<'a> {
    tensor: &'a Tensor<2>,
    shape: [usize; 2],
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let values = self.tensor.clone().into_data().convert::<f32>();
        Cow::Owned(values.iter::<f32>().flat_map(f32::to_le_bytes).collect())
    }

    fn data_len(&self) -> usize {
        self.shape[0] * self.shape[1] * size_of::<f32>()
    }
}

fn save_moments(path: &Path, trainee: &Trainee) -> Result<(), LearnerError> {
    let Some(moments) = &trainee.optimizer.moments else {
        return Ok(());
    };
    let mut stored = Vec::new();
    for (part, weights) in [("first", &moments.first), ("second", &moments.second)] {
        for (name, tensor) in weights.named() {
            stored.push((format!("{part}.{name}"), Stored { tensor, shape: tensor.dims() }));
        }
    }
    safetensors::serialize_to_file(stored, None, path)
        .map_err(|error| LearnerError::checkpoint(path, error.to_string()))
}

fn read(dir: &Path, trainee: &mut Trainee) -> Result<TrainerState, LearnerError> {
    let path = dir.join(STATE_FILE);
    let text = fs::read(&path).map_err(|error| LearnerError::file(&path, error))?;
    // By way of a value: enums with a tag do not read numbers out of a text whose digits are all kept.
    let state: TrainerState = serde_json::from_slice(&text)
        .and_then(serde_json::from_value)
        .map_err(|error| LearnerError::checkpoint(&path, error.to_string()))?;
    if state.format != FORMAT {
        let reason = format!("has format {}, this program reads {FORMAT}", state.format);
        return Err(LearnerError::checkpoint(&path, reason));
    }
    let kind = trainee.optimizer.config.kind;
    if state.optimizer.kind != kind {
        let reason = format!("optimizer.kind was {:?} and is now {kind:?}", state.optimizer.kind);
        return Err(LearnerError::checkpoint(&path, reason));
    }
    if let Some(moments) = &mut trainee.optimizer.moments {
        let path = dir.join(MOMENTS_FILE);
        let bytes = fs::read(&path).map_err(|error| LearnerError::file(&path, error))?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|error| LearnerError::checkpoint(&path, error.to_string()))?;
        let first = read_moment(&path, &file, "first", &moments.first)?;
        let second = read_moment(&path, &file, "second", &moments.second)?;
        (moments.first, moments.second) = (first, second);
    }
    trainee.optimizer.updates = state.updates;
    trainee.optimizer.has_moved = true;
    trainee.version = state.version;
    Ok(state)
}

fn read_moment(
    path: &Path,
    file: &SafeTensors<'_>,
    part: &str,
    like: &Weights<Tensor<2>>,
) -> Result<Weights<Tensor<2>>, LearnerError> {
    like.try_map(|name, tensor| {
        let name = format!("{part}.{name}");
        let stored = file.tensor(&name).map_err(|error| LearnerError::checkpoint(path, error.to_string()))?;
        let shape = tensor.dims();
        if stored.dtype() != Dtype::F32 || stored.shape() != shape {
            let reason = format!("{name} is {:?} {:?}, not F32 {shape:?}", stored.dtype(), stored.shape());
            return Err(LearnerError::checkpoint(path, reason));
        }
        let (numbers, _) = stored.data().as_chunks::<4>();
        let values: Vec<f32> = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        Ok(Tensor::from_data(TensorData::new(values, shape), &tensor.device()))
    })
}

#[cfg(test)]
mod tests {
    use kernels::Decoder;

    use super::*;
    use crate::config::{AdvantageConfig, MismatchConfig, Surrogates};
    use crate::testing::{decoder, groups, learner_config, optimizer_config, weights_of};

    fn learner(decoder: Decoder, kind: &str) -> Learner {
        Learner::new(decoder, learner_config(), optimizer_config(kind), 1.0, 10, None).unwrap()
    }

    fn resumed(dir: &Path) -> Result<Learner, LearnerError> {
        let decoder = Decoder::load(dir, &burn::tensor::Device::flex()).unwrap();
        let mut learner = learner(decoder, "adamw");
        load_optimizer(dir, &mut learner)?;
        Ok(learner)
    }

    // Invariant 9, for weights, optimizer and counters.
    #[test]
    fn a_resumed_run_is_the_run_bit_for_bit() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("step-2");
        let mut unbroken = learner(decoder(1), "adamw");
        unbroken.step(groups()).unwrap();
        unbroken.step(groups()).unwrap();
        save(&dir, &unbroken, &[]).unwrap();
        let mut resumed = resumed(&dir).unwrap();
        assert_eq!((resumed.version(), resumed.trainee.optimizer.updates), (2, 2));
        let (a, b) = (unbroken.step(groups()).unwrap(), resumed.step(groups()).unwrap());
        assert_eq!(a.update, b.update);
        assert_eq!(weights_of(unbroken.decoder()), weights_of(resumed.decoder()));
    }

    #[test]
    fn a_checkpoint_replaces_an_older_one_and_leaves_nothing_beside_it() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("step-1");
        let mut learner = learner(decoder(1), "adamw");
        let extra = [
            ExtraFile::Write { name: "tokenizer.json".to_owned(), content: b"{}".to_vec() },
            ExtraFile::Weights {
                name: "policy-0".to_owned(),
                weights: Arc::new(DecodeWeights::new(learner.decoder())),
            },
            ExtraFile::Write { name: "queue.jsonl".to_owned(), content: b"[]".to_vec() },
        ];
        save(&dir, &learner, &extra).unwrap();
        learner.step(groups()).unwrap();
        save(&dir, &learner, &extra).unwrap();
        assert_eq!(resumed(&dir).unwrap().version(), 1);
        assert_eq!(fs::read(dir.join("tokenizer.json")).unwrap(), b"{}");
        assert_eq!(fs::read(dir.join("queue.jsonl")).unwrap(), b"[]");
        let mut left: Vec<_> =
            fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["step-1"]);
        assert!(dir.join("policy-0/model.safetensors").exists());
        manifest::verify(&dir).unwrap();
    }

    #[test]
    fn settings_come_back_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("step-0");
        let mut config = learner_config();
        config.advantage =
            AdvantageConfig::GrpoLambda { lambda: 0.1 + 0.2, alpha: 1e-7, surrogates: Surrogates::Add };
        config.mismatch = Some(MismatchConfig::Tis { cap: 2.0 });
        let new =
            || Learner::new(decoder(1), config.clone(), optimizer_config("sgd"), 1.0, 10, None).unwrap();
        save(&dir, &new(), &[]).unwrap();
        let state = load_optimizer(&dir, &mut new()).unwrap();
        assert_eq!(state.settings, Settings::Learner(config.clone()));
    }

    #[test]
    fn a_failed_save_leaves_the_older_checkpoint() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("step-1");
        let mut learner = learner(decoder(1), "adamw");
        save(&dir, &learner, &[]).unwrap();
        learner.step(groups()).unwrap();
        // A file cannot lie in a file.
        let refused = [ExtraFile::Write { name: "config.json/file.json".to_owned(), content: Vec::new() }];
        let message = save(&dir, &learner, &refused).unwrap_err().to_string();
        assert!(message.contains("config.json"), "{message}");
        assert_eq!(resumed(&dir).unwrap().version(), 0);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "half of a checkpoint is left");
    }

    #[test]
    fn files_that_do_not_fit_are_named() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("step-1");
        save(&dir, &learner(decoder(1), "adamw"), &[]).unwrap();
        let mut other_kind = learner(decoder(1), "sgd");
        let message = load_optimizer(&dir, &mut other_kind).unwrap_err().to_string();
        assert!(message.contains(STATE_FILE) && message.contains("optimizer.kind"), "{message}");

        let moments = dir.join(MOMENTS_FILE);
        let whole = fs::read(&moments).unwrap();
        fs::write(&moments, &whole[..whole.len() - 5]).unwrap();
        let message = resumed(&dir).unwrap_err().to_string();
        assert!(message.contains(MOMENTS_FILE), "{message}");
        fs::remove_file(dir.join(STATE_FILE)).unwrap();
        assert!(resumed(&dir).unwrap_err().to_string().contains(STATE_FILE));
    }

    #[test]
    fn sgd_has_no_moments_and_the_warm_start_has_its_own_settings() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("step-0");
        save(&dir, &learner(decoder(1), "sgd"), &[]).unwrap();
        assert!(!dir.join(MOMENTS_FILE).exists());

        let config = SftConfig { batch_tokens_max: 64, gradients: Default::default() };
        let sft = || SftLearner::new(decoder(1), config.clone(), optimizer_config("adamw"), 5).unwrap();
        let mut trained = sft();
        let sequence = crate::sft::SupervisedSequence {
            prompt_tokens: vec![1, 2],
            target_tokens: vec![3, 4],
            given: vec![],
        };
        trained.step(&[sequence]).unwrap();
        let dir = home.path().join("sft");
        save_sft(&dir, &trained, &[]).unwrap();
        let mut fresh = sft();
        let state = load_sft_optimizer(&dir, &mut fresh).unwrap();
        assert_eq!((fresh.version(), state.updates), (1, 1));
        assert_eq!(state.settings, Settings::Sft(config));
    }
}
