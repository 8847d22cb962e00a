//! The trainer's part of a checkpoint beside the weights: counters and settings, and the optimizer's moments.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use kernels::{StoredNumbers, Weights};
use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::Settings;
use crate::error::LearnerError;
use crate::optimizer::OptimizerConfig;
use crate::train_state::TrainState;

/// Counters and settings.
pub(super) const STATE_FILE: &str = "trainer_state.json";
/// AdamW's moments by parameter name, under `first.` and `second.`.
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
            settings,
        })
    };
    let text = write().map_err(|error| LearnerError::checkpoint(&path, error.to_string()))?;
    fs::write(&path, text).map_err(|error| LearnerError::file(&path, error))
}

/// A tensor of the file.
struct Stored<'a> {
    numbers: StoredNumbers<'a>,
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
        self.numbers.bytes()
    }

    fn data_len(&self) -> usize {
        self.shape[0] * self.shape[1] * size_of::<f32>()
    }
}

fn save_moments(path: &Path, state: &TrainState) -> Result<(), LearnerError> {
    let Some(moments) = &state.optimizer.moments else {
        return Ok(());
    };
    let mut stored = Vec::new();
    for (part, weights) in [("first", &moments.first), ("second", &moments.second)] {
        for (name, tensor) in weights.named() {
            let numbers = StoredNumbers::of(tensor);
            stored.push((format!("{part}.{name}"), Stored { numbers, shape: tensor.dims() }));
        }
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
    if let Some(moments) = &mut to.optimizer.moments {
        let path = dir.join(MOMENTS_FILE);
        let bytes = fs::read(&path).map_err(|error| LearnerError::file(&path, error))?;
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|error| LearnerError::checkpoint(&path, error.to_string()))?;
        let first = read_moment(&path, &file, "first", &moments.first)?;
        let second = read_moment(&path, &file, "second", &moments.second)?;
        (moments.first, moments.second) = (first, second);
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
