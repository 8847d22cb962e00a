//! Where a run reads weights from: the families and the device, and the base of adapters in its checkpoints.

use std::path::Path;

use anyhow::Result;
use kernels::{ADAPTER_CONFIG_FILE, Decoder, DecoderConfig, Device, KernelError, Lora, ModelPlace};

use crate::model::Families;

/// The weights of an older version.
#[derive(Debug)]
pub enum OlderWeights {
    /// All of them.
    Whole(Box<Decoder>),
    /// Those of adapters to the run's base.
    Adapters(Box<Lora>),
}

/// How the weights of checkpoints are read.
#[derive(Clone, Copy, Debug)]
pub struct ModelSource<'a> {
    /// Families that models may be of.
    pub families: Families<'a>,
    /// Where parameters lie.
    pub device: &'a Device,
    /// The base of adapters, where it is not the one that they name.
    pub base: Option<&'a Path>,
}

impl ModelSource<'_> {
    /// Where the weights of a checkpoint are. One of all weights needs no base.
    ///
    /// # Errors
    /// If the base of its adapters is not there.
    pub fn place(&self, checkpoint: &Path) -> Result<ModelPlace, KernelError> {
        let base = self.base.filter(|_| checkpoint.join(ADAPTER_CONFIG_FILE).exists());
        ModelPlace::find(checkpoint, base)
    }

    /// Older weights in a folder of a checkpoint.
    ///
    /// # Errors
    /// Names the file that is missing or wrong.
    pub fn older(&self, checkpoint: &Path, folder: &Path) -> Result<OlderWeights> {
        let place = self.place(checkpoint)?;
        if place.adapter.is_none() {
            let decoder = Decoder::load_as(folder, self.families, self.device)?;
            return Ok(OlderWeights::Whole(Box::new(decoder)));
        }
        let config = DecoderConfig::read_as(&place.base, self.families)?;
        let lora = Lora::load(folder, &place.base, &config, self.device)?;
        Ok(OlderWeights::Adapters(Box::new(lora)))
    }
}
