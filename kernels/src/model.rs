//! A model: what its files say, its parameters on a device, and the adapters that are trained in their place.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::error::KernelError;
use crate::flex::Rows;
use crate::gemm::Precision;
use crate::rotary::Angles;

pub mod config;
pub mod families;
pub(crate) mod files;
pub mod gradients;
pub mod keys;
pub mod linear;
pub mod lora;
pub(crate) mod numbers;
pub mod packed;
mod rotary;
pub mod spec;
pub mod trained;
pub mod weights;

use config::DecoderConfig;
use families::Family;
use linear::Adapters;
use lora::{Lora, ModelPlace};
use numbers::Numbers;
use packed::PackedWeights;
use weights::Weights;

/// A model: what its files say and its parameters on a device. A clone shares the parameters.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// Sizes and what is computed.
    pub config: DecoderConfig,
    /// Parameters, without autodiff.
    pub weights: Stored,
    /// What is added to projections, where adapters are trained and not the parameters.
    pub lora: Option<Lora>,
}

/// The parameters of a model in the form in which they are stored.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there are few of them, and each holds a model")]
pub enum Stored {
    /// One tensor in f32 a parameter, which can be trained.
    Tensors(Weights<Tensor<2>>),
    /// In the form that products on the CPU read, which is shared with all who decode: nothing of the model is in f32
    /// but the layer that is computed. They are not trained; adapters are, beside them.
    Packed(Arc<PackedWeights>),
}

impl From<Weights<Tensor<2>>> for Stored {
    fn from(weights: Weights<Tensor<2>>) -> Self {
        Self::Tensors(weights)
    }
}

impl Stored {
    /// The parameters as tensors that can be trained.
    ///
    /// # Panics
    /// If they are packed.
    #[must_use]
    pub fn tensors(&self) -> &Weights<Tensor<2>> {
        match self {
            Self::Tensors(weights) => weights,
            Self::Packed(_) => panic!("{NOT_TRAINED}"),
        }
    }

    /// The same for change.
    ///
    /// # Panics
    /// If they are packed.
    pub fn tensors_mut(&mut self) -> &mut Weights<Tensor<2>> {
        match self {
            Self::Tensors(weights) => weights,
            Self::Packed(_) => panic!("{NOT_TRAINED}"),
        }
    }

    /// The numbers of parameters on the CPU, shared.
    pub(crate) fn numbers(&self) -> Weights<Numbers> {
        match self {
            Self::Tensors(weights) => weights.map(|_, weight| Numbers::Rows(Rows::of_tensor(weight))),
            Self::Packed(packed) => packed.numbers().map(|_, numbers| numbers.clone()),
        }
    }
}

const NOT_TRAINED: &str = "weights that are packed are not trained";

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
        let lora = load_adapter(place, &config, device)?;
        let weights = files::load(&place.base, &config, device)?.into();
        Ok(Self { config, weights, lora })
    }

    /// The model without its adapters: its own parameters, shared.
    #[must_use]
    pub fn frozen(&self) -> Self {
        Self { config: self.config.clone(), weights: self.weights.clone(), lora: None }
    }

    /// The model with its adapters added to its matrices, in tensors.
    #[must_use]
    pub fn merged(self) -> Self {
        let weights = self.effective_weights().into_owned().into();
        Self { config: self.config, weights, lora: None }
    }

    /// [`Decoder::load_at`] with the parameters packed at a precision on the CPU, some rows at a time: beside what is
    /// packed nothing of the files is ever in memory.
    ///
    /// # Errors
    /// As there.
    pub fn load_packed(
        place: &ModelPlace,
        families: &[&'static Family],
        precision: Precision,
    ) -> Result<Self, KernelError> {
        let config = DecoderConfig::read_as(&place.base, families)?;
        let lora = load_adapter(place, &config, &Device::flex())?;
        let embedding = Some(packed::looked_up_at(precision));
        let weights = files::load_packed(&place.base, &config, precision, embedding)?;
        Ok(Self { config, weights: Stored::Packed(Arc::new(weights)), lora })
    }

    /// The same model on the CPU with its parameters packed at a precision, if they are not already.
    #[must_use]
    pub fn packed(self, precision: Precision) -> Self {
        let weights = match self.weights {
            Stored::Packed(packed) if packed.precision() == precision => packed,
            other => Arc::new(PackedWeights::whole(&self.config, &other.numbers(), precision)),
        };
        Self { weights: Stored::Packed(weights), ..self }
    }

    /// The precision that loses nothing of a directory's matrices: bf16 where all of them have it, or else f32. Only
    /// headers are read.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn files_precision(dir: &Path, config: &DecoderConfig) -> Result<Precision, KernelError> {
        files::precision(dir, config)
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
        match (&self.weights, &self.lora) {
            (Stored::Packed(packed), None) => {
                files::save_parts(dir, &self.config, packed.numbers(), Numbers::in_parts)
            }
            _ => files::save(dir, &self.config, &self.effective_weights()),
        }
    }

    /// Writes what is trained, so that [`Decoder::load`] finds it again: the adapters in peft's format where there are some,
    /// and otherwise all weights as [`Decoder::save`] does.
    ///
    /// # Errors
    /// Names the file that cannot be written.
    pub fn save_trained(&self, dir: &Path) -> Result<(), KernelError> {
        match &self.lora {
            Some(lora) => lora.save(dir, &self.config),
            None => self.save(dir),
        }
    }

    /// A model with random parameters, equal for equal seeds on every device.
    pub fn random(config: DecoderConfig, seed: u64, device: &Device) -> Self {
        let weights = files::random(&config, seed, device).into();
        Self { config, weights, lora: None }
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        match &self.weights {
            Stored::Tensors(weights) => weights.embedding.device(),
            Stored::Packed(_) => Device::flex(),
        }
    }

    /// The parameters as tensors with what adapters add to them. Of parameters that are packed this is a whole copy.
    pub fn effective_weights(&self) -> Cow<'_, Weights<Tensor<2>>> {
        let weights = match (&self.weights, &self.lora) {
            (Stored::Tensors(weights), None) => return Cow::Borrowed(weights),
            (Stored::Tensors(weights), Some(_)) => weights.clone(),
            (Stored::Packed(packed), _) => unpacked(&self.config, packed.numbers()),
        };
        Cow::Owned(match &self.lora {
            Some(lora) => with_products(weights, &lora.adapters),
            None => weights,
        })
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

fn load_adapter(
    place: &ModelPlace,
    config: &DecoderConfig,
    device: &Device,
) -> Result<Option<Lora>, KernelError> {
    place.adapter.as_ref().map(|dir| Lora::load(dir, &place.base, config, device)).transpose()
}

/// Weights with what adapters add to them.
fn with_products(mut weights: Weights<Tensor<2>>, adapters: &Adapters) -> Weights<Tensor<2>> {
    for (weight, (_, adapter)) in weights.values_mut().into_iter().zip(adapters.named()) {
        if let Some(adapter) = adapter {
            *weight = weight.clone() + adapter.product();
        }
    }
    weights
}

/// Parameters on the CPU as tensors.
fn unpacked(config: &DecoderConfig, numbers: &Weights<Numbers>) -> Weights<Tensor<2>> {
    let shapes = config.shapes();
    let mut made =
        numbers.named().into_iter().zip(shapes.named()).map(|((_, numbers), (_, shape))| match numbers {
            Numbers::Rows(rows) => rows.to_tensor(),
            Numbers::Packed(_) => Rows::owning(numbers.all().into_owned(), *shape).to_tensor(),
        });
    shapes.in_order(|| made.next().expect("a tensor a parameter"))
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
