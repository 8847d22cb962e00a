//! The trainer's part of a checkpoint beside the weights: counters and settings, and the optimizer's moments.

use std::fs;
use std::path::Path;

use kernels::Trained;
use safetensors::{SafeTensors, View};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::BaseModel;
use crate::config::Settings;
use crate::error::LearnerError;
use crate::optimizer::OptimizerConfig;
use crate::optimizer::moments::StoredMoment;
use crate::train_state::TrainState;

/// Counters and settings.
pub(super) const STATE_FILE: &str = "trainer_state.json";
/// The optimizer's moments by parameter name, under `first.` and `second.`, or the words of another form.
pub(super) const MOMENTS_FILE: &str = "optimizer.safetensors";
/// Rises when what is read of the file changes: counters or the optimizer's settings. The learner's settings are told
/// and nothing is restored from them, so that files of versions with other keys are read as well.
const FORMAT: u32 = 1;

/// What every format of the file has.
#[derive(Deserialize)]
struct Format {
    format: u32,
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
    /// The frozen model that the checkpoint's adapters belong to; absent where a checkpoint holds all weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseModel>,
    /// The learner's settings when the checkpoint was written, by the keys of the version that wrote it.
    pub settings: Value,
}

/// Writes both files.
pub(super) fn write(dir: &Path, state: &TrainState, settings: Settings) -> Result<(), LearnerError> {
    save_moments(&dir.join(MOMENTS_FILE), state)?;
    let path = dir.join(STATE_FILE);
    let write = || {
        let settings = serde_json::to_value(&settings)?;
        let optimizer = &state.optimizer;
        serde_json::to_vec_pretty(&TrainerState {
            format: FORMAT,
            version: state.version,
            updates: optimizer.updates,
            optimizer: optimizer.config.clone(),
            base: state.base.clone(),
            settings,
        })
    };
    let text = write().map_err(|error| LearnerError::checkpoint(&path, error.to_string()))?;
    fs::write(&path, text).map_err(|error| LearnerError::file(&path, error))
}

fn save_moments(path: &Path, state: &TrainState) -> Result<(), LearnerError> {
    let Some(moments) = &state.optimizer.moments else {
        return Ok(());
    };
    let mut stored = Vec::new();
    for (Trained { name, .. }, moment) in state.names.iter().zip(moments) {
        stored.extend(moment.stored().into_iter().map(|(part, tensor)| (format!("{part}.{name}"), tensor)));
    }
    safetensors::serialize_to_file(stored, None, path)
        .map_err(|error| LearnerError::checkpoint(path, error.to_string()))
}

/// Brings optimizer and counters back; on an error the state is as before.
pub(super) fn read(dir: &Path, to: &mut TrainState) -> Result<TrainerState, LearnerError> {
    let path = dir.join(STATE_FILE);
    let stored = read_state(&path)?;
    let kind = to.optimizer.config.kind;
    if stored.optimizer.kind != kind {
        let reason = format!("optimizer.kind was {:?} and is now {kind:?}", stored.optimizer.kind);
        return Err(LearnerError::checkpoint(&path, reason));
    }
    require_base(&path, to.base.as_ref(), stored.base.as_ref())?;
    let precision = to.optimizer.config.moments;
    if stored.optimizer.moments != precision {
        let reason = format!("optimizer.moments was {:?} and is now {precision:?}", stored.optimizer.moments);
        return Err(LearnerError::checkpoint(&path, reason));
    }
    if let Some(moments) = &to.optimizer.moments {
        let path = dir.join(MOMENTS_FILE);
        let bytes = fs::read(&path).map_err(|error| LearnerError::file(&path, error))?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|error| LearnerError::checkpoint(&path, error.to_string()))?;
        let restored = to.names.iter().zip(moments).map(|(Trained { name, .. }, moment)| {
            moment.restored(|part, like| read_moment(&path, &file, &format!("{part}.{name}"), like))
        });
        to.optimizer.moments = Some(restored.collect::<Result<_, _>>()?);
    }
    to.optimizer.updates = stored.updates;
    to.optimizer.has_moved = true;
    to.version = stored.version;
    Ok(stored)
}

fn read_state(path: &Path) -> Result<TrainerState, LearnerError> {
    let text = fs::read(path).map_err(|error| LearnerError::file(path, error))?;
    let wrong = |error: serde_json::Error| LearnerError::checkpoint(path, error.to_string());
    // By way of a value: enums with a tag do not read numbers out of a text whose digits are all kept.
    let stored: Value = serde_json::from_slice(&text).map_err(wrong)?;
    let Format { format } = Format::deserialize(&stored).map_err(wrong)?;
    if format != FORMAT {
        let reason = format!(
            "has format {format}, and this longhaul reads format {FORMAT}: go on with the longhaul that wrote it, or fork \
             its weights alone, without the optimizer"
        );
        return Err(LearnerError::checkpoint(path, reason));
    }
    serde_json::from_value(stored).map_err(wrong)
}

fn read_moment(
    path: &Path,
    file: &SafeTensors<'_>,
    name: &str,
    like: &StoredMoment<'_>,
) -> Result<Vec<u8>, LearnerError> {
    let stored = file.tensor(name).map_err(|error| LearnerError::checkpoint(path, error.to_string()))?;
    if stored.dtype() != like.dtype() || stored.shape() != like.shape() {
        let (dtype, shape) = (like.dtype(), like.shape());
        let reason = format!("{name} is {:?} {:?}, not {dtype:?} {shape:?}", stored.dtype(), stored.shape());
        return Err(LearnerError::checkpoint(path, reason));
    }
    Ok(stored.data().to_vec())
}

/// Adapters and their moments are of one base.
fn require_base(
    path: &Path,
    own: Option<&BaseModel>,
    stored: Option<&BaseModel>,
) -> Result<(), LearnerError> {
    let reason = match (own, stored) {
        (Some(own), Some(stored)) if own.sha256 != stored.sha256 => format!(
            "its adapters belong to the model of {} (sha256 {}), and the one of {} is another (sha256 {})",
            stored.path.display(),
            stored.sha256,
            own.path.display(),
            own.sha256
        ),
        (Some(_), None) => "it is of a run that trained all weights, and this one trains adapters".to_owned(),
        (None, Some(stored)) => format!(
            "it is of a run that trained adapters to the model of {}, and this one trains all weights",
            stored.path.display()
        ),
        (Some(_), Some(_)) | (None, None) => return Ok(()),
    };
    Err(LearnerError::checkpoint(path, reason))
}
