//! The parameters of a Hugging Face directory, read one at a time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::source::{TakeNumbers, TensorSource};
use super::{Shard, check, weight_files};
use crate::KernelError;
use crate::model::config::DecoderConfig;

/// A directory whose files have been looked at.
#[derive(Debug)]
pub struct ModelDirectory {
    config: DecoderConfig,
    /// The file of each tensor, by the tensor's name there.
    places: HashMap<String, PathBuf>,
}

impl ModelDirectory {
    /// Looks at `config.json` and the headers of the weights.
    ///
    /// # Errors
    /// As [`crate::Decoder::load`].
    pub fn open(dir: &Path) -> Result<Self, KernelError> {
        let config = DecoderConfig::read(dir)?;
        check(dir, &config)?;
        let mut places = HashMap::new();
        for path in weight_files(dir)?.paths {
            let names = Shard::open(&path)?.metadata.offset_keys();
            places.extend(names.into_iter().map(|name| (name, path.clone())));
        }
        Ok(Self { config, places })
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
        let path = self.places.get(&name).expect("the files have been checked to have every parameter");
        take(&Shard::open(path)?.read(&name, shape)?)
    }
}
