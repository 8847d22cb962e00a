//! A model: what its files say, its parameters on a device, and the adapters that are trained in their place.

use std::borrow::Cow;
use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::error::KernelError;
use crate::rotary::Angles;

pub mod config;
pub mod families;
pub(crate) mod files;
pub mod gradients;
pub mod keys;
pub mod linear;
pub mod lora;
mod rotary;
pub mod spec;
pub mod trained;
pub mod weights;

use config::DecoderConfig;
use families::Family;
use lora::{Lora, ModelPlace};
use weights::Weights;

/// A model: what its files say and its parameters on a device. A clone shares the parameters.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// Sizes and what is computed.
    pub config: DecoderConfig,
    /// Parameters, without autodiff.
    pub weights: Weights<Tensor<2>>,
    /// What is added to projections, where adapters are trained and not the parameters.
    pub lora: Option<Lora>,
}

impl Decoder {
    /// Reads a Hugging Face directory, `config.json` and `model.safetensors` or its shards; or a directory of an adapter in
    /// peft's format with the base that it names ([`ModelPlace::find`]).
    ///
    /// # Errors
    /// Names the file and the key or tensor that is missing, misshapen or not supported.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, KernelError> {
        Self::load_as(dir, &families::ALL, device)
    }

    /// [`Decoder::load`] of one of these families.
    ///
    /// # Errors
    /// As there.
    pub fn load_as(dir: &Path, families: &[&'static Family], device: &Device) -> Result<Self, KernelError> {
        Self::load_at(&ModelPlace::find(dir, None)?, families, device)
    }

    /// [`Decoder::load_as`] of a base and an adapter.
    ///
    /// # Errors
    /// As there.
    pub fn load_at(
        place: &ModelPlace,
        families: &[&'static Family],
        device: &Device,
    ) -> Result<Self, KernelError> {
        let config = DecoderConfig::read_as(&place.base, families)?;
        let adapter = place.adapter.as_ref();
        let lora = adapter.map(|dir| Lora::load(dir, &place.base, &config, device)).transpose()?;
        let weights = files::load(&place.base, &config, device)?;
        Ok(Self { config, weights, lora })
    }

    /// The model without its adapters: its own parameters, shared.
    #[must_use]
    pub fn frozen(&self) -> Self {
        Self { config: self.config.clone(), weights: self.weights.clone(), lora: None }
    }

    /// The model with its adapters added to its matrices.
    #[must_use]
    pub fn merged(self) -> Self {
        let weights = self.effective_weights().into_owned();
        Self { config: self.config, weights, lora: None }
    }

    /// Whether a directory holds the weights of this config, by the headers of its files. Numbers are read only of a
    /// head that stands beside tied embeddings.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn check_files(dir: &Path, config: &DecoderConfig) -> Result<(), KernelError> {
        files::check(dir, config)
    }

    /// Writes `config.json` and `model.safetensors` in f32, so that `transformers` loads the directory; adapters are
    /// added to the matrices that they belong to.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), KernelError> {
        files::save(dir, &self.config, &self.effective_weights())
    }

    /// Writes what is trained, so that [`Decoder::load`] finds it again: the adapters in peft's format where there are some,
    /// and otherwise all weights as [`Decoder::save`] does.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn save_trained(&self, dir: &Path) -> Result<(), KernelError> {
        match &self.lora {
            Some(lora) => lora.save(dir, &self.config),
            None => files::save(dir, &self.config, &self.weights),
        }
    }

    /// A model with random parameters, equal for equal seeds on every device.
    pub fn random(config: DecoderConfig, seed: u64, device: &Device) -> Self {
        let weights = files::random(&config, seed, device);
        Self { config, weights, lora: None }
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        self.weights.embedding.device()
    }

    /// The parameters with what adapters add to them.
    pub fn effective_weights(&self) -> Cow<'_, Weights<Tensor<2>>> {
        let Some(lora) = &self.lora else { return Cow::Borrowed(&self.weights) };
        let mut weights = self.weights.clone();
        for (weight, (_, adapter)) in weights.values_mut().into_iter().zip(lora.adapters.named()) {
            if let Some(adapter) = adapter {
                *weight = weight.clone() + adapter.product();
            }
        }
        Cow::Owned(weights)
    }

    /// Angles for rows at these positions: one for each of the model's sets of frequencies.
    pub(crate) fn angles(&self, positions: &[u32]) -> Vec<Angles> {
        let table = |rope: &crate::rope::Rope| {
            let table = rope.table(self.config.head_width, positions);
            Angles::new(table, positions.len(), &self.device())
        };
        self.config.spec.ropes().into_iter().map(table).collect()
    }
}

/// Rows of the embedding as the first layer gets them, `[N, hidden]`.
pub(crate) fn embed(embedding: &Tensor<2>, ids: &[u32], config: &DecoderConfig) -> Tensor<2> {
    let rows = embedding.clone().select(0, id_tensor(ids, &embedding.device()));
    match config.spec.embedding_scale {
        Some(scale) => rows.mul_scalar(scale),
        None => rows,
    }
}

/// Token ids as a tensor.
pub(crate) fn id_tensor(ids: &[u32], device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let shape = [ids.len()];
    Tensor::from_data(TensorData::new(ids, shape), device)
}
