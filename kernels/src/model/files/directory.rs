//! The parameters of a Hugging Face directory, read one at a time.

use std::collections::HashMap;
use std::path::Path;

use super::source::{TakeNumbers, TensorSource};
use super::{Shard, open_checked};
use crate::KernelError;
use crate::model::config::DecoderConfig;

/// A directory whose files have been looked at.
#[derive(Debug)]
pub struct ModelDirectory {
    config: DecoderConfig,
    /// The files, with their headers.
    shards: Vec<Shard>,
    /// Which of the files has a tensor, by the tensor's name there.
    places: HashMap<String, usize>,
}

impl ModelDirectory {
    /// Looks at `config.json` and the headers of the weights.
    ///
    /// # Errors
    /// As [`crate::Decoder::load`].
    pub fn open(dir: &Path) -> Result<Self, KernelError> {
        let config = DecoderConfig::read(dir)?;
        let shards = open_checked(dir, &config)?;
        let mut places = HashMap::new();
        for (number, shard) in shards.iter().enumerate() {
            places.extend(shard.metadata.offset_keys().into_iter().map(|name| (name, number)));
        }
        Ok(Self { config, shards, places })
    }

    /// What the decoder is like.
    #[must_use]
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }
}

impl TensorSource for ModelDirectory {
    fn read(
        &mut self,
        parameter: &str,
        shape: [usize; 2],
        take: &mut TakeNumbers<'_>,
    ) -> Result<(), KernelError> {
        let name = self.config.family.file_name(parameter);
        let place = self.places.get(&name).expect("the files have been checked to have every parameter");
        take(&self.shards[*place].read(&name, shape)?)
    }
}
