//! The frozen model that trained adapters belong to, by its place and by what its files hold: adapters to one model are
//! nothing to another one of the same shape.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::LearnerError;

/// A frozen model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseModel {
    /// Its directory when the checkpoint was written.
    pub path: PathBuf,
    /// SHA-256 over its `config.json` and its files of weights.
    pub sha256: String,
}

impl BaseModel {
    /// The model of a Hugging Face directory, whose files are read once.
    ///
    /// # Errors
    /// [`LearnerError::File`] with the file that cannot be read.
    pub fn of(dir: &Path) -> Result<Self, LearnerError> {
        let failed = |error| LearnerError::file(dir, error);
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let shown = name.to_string_lossy();
            if shown == "config.json" || shown.ends_with(".safetensors") {
                names.push(name);
            }
        }
        names.sort();
        let mut all = Sha256::new();
        for name in names {
            let FileDigest { bytes, sha256 } = FileDigest::of(&dir.join(&name))?;
            all.update(format!("{} {bytes} {sha256}\n", name.to_string_lossy()));
        }
        Ok(Self { path: dir.to_owned(), sha256: hexadecimal(&all.finalize()) })
    }
}

/// What a file holds.
pub(crate) struct FileDigest {
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

impl FileDigest {
    pub(crate) fn of(path: &Path) -> Result<Self, LearnerError> {
        let failed = |error| LearnerError::file(path, error);
        let mut file = File::open(path).map_err(failed)?;
        let mut hasher = Sha256::new();
        let bytes = std::io::copy(&mut file, &mut hasher).map_err(failed)?;
        Ok(Self { bytes, sha256: hexadecimal(&hasher.finalize()) })
    }
}

/// A digest in letters.
pub(crate) fn hexadecimal(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_its_config_and_its_weights_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let put = |name: &str, content: &str| fs::write(home.path().join(name), content).unwrap();
        let digest = || BaseModel::of(home.path()).unwrap().sha256;
        put("config.json", "{}");
        put("model.safetensors", "numbers");
        let first = digest();
        put("README.md", "a model");
        assert_eq!(digest(), first);
        put("model.safetensors", "numberz");
        let other = digest();
        assert_ne!(other, first);
        put("model.safetensors", "numbers");
        assert_eq!(digest(), first);
        put("config.json", "{ }");
        assert!(digest() != first && digest() != other);
    }
}
