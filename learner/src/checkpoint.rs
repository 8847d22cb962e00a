//! A learner on disk: a Hugging Face directory with the weights, or a directory of peft's with the adapters where these
//! alone are trained; beside them the optimizer's moments and counters. Written to a temporary name, with a manifest of checksums last, synced and renamed, so a directory
//! of the right name is whole; what a disk did to it later, [`manifest::verify`] finds.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kernels::EngineWeights;

use crate::config::Settings;
use crate::error::LearnerError;
use crate::train_state::TrainState;
use crate::trainer::{Objective, Trainer};

pub mod manifest;
mod state;

pub use state::TrainerState;

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
        weights: Arc<dyn EngineWeights>,
    },
}

/// What comes back from a checkpoint beside the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restore {
    /// The optimizer and all counters: the run goes on.
    Everything,
    /// The optimizer alone: another run begins, at version 0.
    Optimizer,
}

/// Writes a checkpoint to `dir`, replacing one of the same name, and returns its bytes.
///
/// # Errors
/// [`LearnerError::File`], [`LearnerError::Checkpoint`] or [`LearnerError::Model`] with the path; `dir` is
/// then as before.
pub fn save<O: Objective>(
    dir: &Path,
    trainer: &Trainer<O>,
    extra: &[ExtraFile],
) -> Result<u64, LearnerError> {
    write(dir, &trainer.state, trainer.objective.settings(), extra)
}

/// Brings optimizer and counters back into a trainer that was made with the checkpoint's weights
/// (`Decoder::load(dir)`).
///
/// # Errors
/// [`LearnerError::File`] or [`LearnerError::Checkpoint`] for a file that is missing, cut off, or does not
/// fit the trainer's optimizer and model; the trainer is then as before.
pub fn load<O>(dir: &Path, trainer: &mut Trainer<O>, restore: Restore) -> Result<TrainerState, LearnerError> {
    let state = state::read(dir, &mut trainer.state)?;
    if restore == Restore::Optimizer {
        trainer.state.version = 0;
    }
    Ok(state)
}

fn write(
    dir: &Path,
    state: &TrainState,
    settings: Settings,
    extra: &[ExtraFile],
) -> Result<u64, LearnerError> {
    let temporary = sibling(dir, "partial")?;
    remove_if_there(&temporary)?;
    let written = fill(&temporary, state, settings, extra);
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
    state: &TrainState,
    settings: Settings,
    extra: &[ExtraFile],
) -> Result<u64, LearnerError> {
    fs::create_dir_all(temporary).map_err(|error| LearnerError::file(temporary, error))?;
    state.kept().save_trained(temporary)?;
    for file in extra {
        add_extra(temporary, file)?;
    }
    state::write(temporary, state, settings)?;
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

#[cfg(test)]
mod tests {
    use kernels::{Cpu, Decoder, Engine, Precision};
    use safetensors::View;

    use super::*;
    use crate::checkpoint::state::{MOMENTS_FILE, STATE_FILE};
    use crate::config::{AdvantageConfig, MismatchConfig, SftConfig, Surrogates};
    use crate::testing::{cpu, decoder, groups, learner_config, optimizer_config, weights_of};

    fn learner(decoder: Decoder, kind: &str) -> Trainer {
        Trainer::new(cpu(), decoder, learner_config(), optimizer_config(kind), 1.0, 10, None).unwrap()
    }

    fn resumed(dir: &Path) -> Result<Trainer, LearnerError> {
        let decoder = Decoder::load(dir, &burn::tensor::Device::flex()).unwrap();
        let mut learner = learner(decoder, "adamw");
        load(dir, &mut learner, Restore::Everything)?;
        Ok(learner)
    }

    // Invariant 9, for weights, optimizer and counters.
    #[test]
    fn a_resumed_run_is_the_run_bit_for_bit() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("step-2");
        let mut unbroken = learner(decoder(1), "adamw");
        unbroken.step(&groups()).unwrap();
        unbroken.step(&groups()).unwrap();
        save(&dir, &unbroken, &[]).unwrap();
        let mut resumed = resumed(&dir).unwrap();
        assert_eq!((resumed.version(), resumed.state.optimizer.updates), (2, 2));
        let (a, b) = (unbroken.step(&groups()).unwrap(), resumed.step(&groups()).unwrap());
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
                weights: Arc::new(Cpu::default().prepare(learner.decoder(), Precision::F32).unwrap()),
            },
            ExtraFile::Write { name: "queue.jsonl".to_owned(), content: b"[]".to_vec() },
        ];
        save(&dir, &learner, &extra).unwrap();
        learner.step(&groups()).unwrap();
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
        let new = || {
            Trainer::new(cpu(), decoder(1), config.clone(), optimizer_config("sgd"), 1.0, 10, None).unwrap()
        };
        save(&dir, &new(), &[]).unwrap();
        let state = load(&dir, &mut new(), Restore::Everything).unwrap();
        let settings: Settings = serde_json::from_value(state.settings).unwrap();
        assert_eq!(settings, Settings::Learner(config.clone()));
    }

    /// As the version wrote it whose gradients were a section `streambp`, but for the counters.
    const STATE_WITH_STREAMBP: &str = r#"{
      "format": 1, "version": 7, "updates": 5,
      "optimizer": {"kind": "adamw", "learning_rate": 1e-05, "betas": [0.9, 0.95], "eps": 1e-08,
                    "weight_decay": 0.0, "warmup_steps": 5, "schedule": "linear", "clip_norm": 1.0},
      "settings": {"learner": {"groups_per_step": 16, "batch_tokens_max": 8192, "dynamic_sampling": true,
                   "advantage": {"kind": "grpo"}, "importance": {"kind": "pois"},
                   "streambp": {"enabled": true, "layer_chunk_tokens": 1024, "head_chunk_tokens": 1024,
                                "attention_kept_mib": 96, "activations_kept_mib": 256, "layer_inputs": "memory"}}}
    }"#;

    #[test]
    fn settings_of_an_earlier_version_do_not_hinder() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("step-7");
        let mut trained = learner(decoder(1), "adamw");
        trained.step(&groups()).unwrap();
        save(&dir, &trained, &[]).unwrap();
        fs::write(dir.join(STATE_FILE), STATE_WITH_STREAMBP).unwrap();
        let resumed = resumed(&dir).unwrap();
        assert_eq!((resumed.version(), resumed.state.optimizer.updates), (7, 5));
        let mut forked = learner(trained.decoder().clone(), "adamw");
        let state = load(&dir, &mut forked, Restore::Optimizer).unwrap();
        assert_eq!((forked.version(), forked.state.optimizer.updates), (0, 5));
        assert_eq!(state.settings["learner"]["streambp"]["layer_chunk_tokens"], 1024);
        let moments = |trainer: &Trainer| -> Vec<u8> {
            let moments = trainer.state.optimizer.moments.as_ref().unwrap().iter();
            moments.flat_map(|moment| moment.stored().remove(0).1.data().into_owned()).collect()
        };
        assert_eq!(moments(&forked), moments(&trained));
    }

    #[test]
    fn another_format_is_named_before_anything_in_it_is_read() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("step-0");
        save(&dir, &learner(decoder(1), "adamw"), &[]).unwrap();
        fs::write(dir.join(STATE_FILE), r#"{"format": 9, "counters": [1, 2]}"#).unwrap();
        let message = resumed(&dir).unwrap_err().to_string();
        assert!(message.contains(STATE_FILE), "{message}");
        assert!(message.contains("has format 9, and this longhaul reads format 1"), "{message}");
        fs::write(dir.join(STATE_FILE), r#"{"version": 1}"#).unwrap();
        let message = resumed(&dir).unwrap_err().to_string();
        assert!(message.contains("format"), "{message}");
    }

    #[test]
    fn a_failed_save_leaves_the_older_checkpoint() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("step-1");
        let mut learner = learner(decoder(1), "adamw");
        save(&dir, &learner, &[]).unwrap();
        learner.step(&groups()).unwrap();
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
        let message = load(&dir, &mut other_kind, Restore::Everything).unwrap_err().to_string();
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

        let config = SftConfig { batch_tokens_max: 64, gradients: Default::default(), lora: None };
        let sft =
            || Trainer::supervised(cpu(), decoder(1), config.clone(), optimizer_config("adamw"), 5).unwrap();
        let mut trained = sft();
        let sequence = crate::sft::SupervisedSequence {
            prompt_tokens: vec![1, 2],
            target_tokens: vec![3, 4],
            given: vec![],
        };
        trained.step(&[sequence]).unwrap();
        let dir = home.path().join("sft");
        save(&dir, &trained, &[]).unwrap();
        let mut fresh = sft();
        let state = load(&dir, &mut fresh, Restore::Everything).unwrap();
        assert_eq!((fresh.version(), state.updates), (1, 1));
        let settings: Settings = serde_json::from_value(state.settings).unwrap();
        assert_eq!(settings, Settings::Sft(config.clone()));
        let mut begun = sft();
        let state = load(&dir, &mut begun, Restore::Optimizer).unwrap();
        assert_eq!((begun.version(), state.version, begun.state.optimizer.updates), (0, 1, 1));
    }
}
