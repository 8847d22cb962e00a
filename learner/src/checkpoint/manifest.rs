//! The list of a checkpoint's files with their lengths and SHA-256 sums, written last: a directory whose
//! manifest fits is whole, and one that was cut off or damaged is known as such.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::base::{FileDigest, hexadecimal};
use crate::error::LearnerError;

/// The manifest's own name.
pub const MANIFEST_FILE: &str = "manifest.json";

/// `manifest.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    /// By path below the directory, with `/` between names.
    files: BTreeMap<String, Entry>,
    /// The sum of `files` as this program writes it, so that damage to the manifest itself is found.
    sha256: String,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    bytes: u64,
    sha256: String,
}

/// Writes the manifest of all files below `dir`, and returns their bytes.
///
/// # Errors
/// [`LearnerError::File`] or [`LearnerError::Checkpoint`] with the file that cannot be read or written.
pub fn write(dir: &Path) -> Result<u64, LearnerError> {
    let mut files = BTreeMap::new();
    for path in files_below(dir)? {
        files.insert(name_below(dir, &path), entry(&path)?);
    }
    let bytes = files.values().map(|entry| entry.bytes).sum();
    let path = dir.join(MANIFEST_FILE);
    let text = text_of(files).map_err(|error| LearnerError::checkpoint(&path, error.to_string()))?;
    fs::write(&path, text).map_err(|error| LearnerError::file(&path, error))?;
    Ok(bytes)
}

/// Checks every file of a checkpoint against its manifest, and returns the bytes of all.
///
/// # Errors
/// [`LearnerError::File`] or [`LearnerError::Checkpoint`] with the file that is missing, unknown or damaged.
pub fn verify(dir: &Path) -> Result<u64, LearnerError> {
    let path = dir.join(MANIFEST_FILE);
    let text = fs::read(&path).map_err(|error| LearnerError::file(&path, error))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| LearnerError::checkpoint(&path, error.to_string()))?;
    let damaged = |path: &Path, reason: &str| Err(LearnerError::checkpoint(path, reason));
    let found = files_below(dir)?;
    for file in &found {
        if !manifest.files.contains_key(&name_below(dir, file)) {
            return damaged(file, "is not in the checkpoint's manifest");
        }
    }
    if let Some(name) =
        manifest.files.keys().find(|name| !found.iter().any(|file| name_below(dir, file) == **name))
    {
        return damaged(&dir.join(name), "is missing");
    }
    for (name, expected) in &manifest.files {
        let file = dir.join(name);
        if entry(&file)? != *expected {
            return damaged(&file, "is damaged: its length or checksum is not the manifest's");
        }
    }
    let bytes = manifest.files.values().map(|entry| entry.bytes).sum();
    // Byte for byte, so that not even a blank can be other than it was written.
    match text_of(manifest.files) {
        Ok(expected) if expected == text => Ok(bytes),
        _ => damaged(&path, "is damaged: it does not fit its own checksum"),
    }
}

fn text_of(files: BTreeMap<String, Entry>) -> serde_json::Result<Vec<u8>> {
    let sha256 = hexadecimal(&Sha256::digest(serde_json::to_vec(&files)?));
    serde_json::to_vec_pretty(&Manifest { files, sha256 })
}

fn entry(path: &Path) -> Result<Entry, LearnerError> {
    let FileDigest { bytes, sha256 } = FileDigest::of(path)?;
    Ok(Entry { bytes, sha256 })
}

/// All files below a directory but its manifest.
pub(crate) fn files_below(dir: &Path) -> Result<Vec<PathBuf>, LearnerError> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let failed = |error| LearnerError::file(&folder, error);
        for found in fs::read_dir(&folder).map_err(failed)? {
            let path = found.map_err(failed)?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path != dir.join(MANIFEST_FILE) {
                files.push(path);
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn name_below(dir: &Path, path: &Path) -> String {
    let names = path.strip_prefix(dir).unwrap_or(path).components();
    names.map(|name| name.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, proptest};

    use super::*;

    fn checkpoint() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("model.safetensors"), [7; 300]).unwrap();
        fs::create_dir(dir.path().join("policy-3")).unwrap();
        fs::write(dir.path().join("policy-3/config.json"), "{}").unwrap();
        write(dir.path()).unwrap();
        dir
    }

    #[test]
    fn a_whole_checkpoint_is_known_as_whole() {
        let dir = checkpoint();
        assert_eq!(verify(dir.path()).unwrap(), 302);
    }

    #[test]
    fn a_file_too_few_or_too_many_is_named() {
        let dir = checkpoint();
        let extra = dir.path().join("policy-3/more");
        fs::write(&extra, "").unwrap();
        assert!(verify(dir.path()).unwrap_err().to_string().contains("policy-3/more: is not in"));
        fs::remove_file(extra).unwrap();
        fs::remove_file(dir.path().join("model.safetensors")).unwrap();
        assert!(verify(dir.path()).unwrap_err().to_string().contains("model.safetensors: is missing"));
        fs::remove_file(dir.path().join(MANIFEST_FILE)).unwrap();
        assert!(verify(dir.path()).unwrap_err().to_string().contains(MANIFEST_FILE));
    }

    proptest! {
        #[test]
        fn no_changed_or_lost_byte_goes_unnoticed(
            file in 0..3_usize,
            place in any::<prop::sample::Index>(),
            flip in 1..=255_u8,
            cut in any::<bool>(),
        ) {
            let dir = checkpoint();
            let path = dir.path().join(["model.safetensors", "policy-3/config.json", MANIFEST_FILE][file]);
            let mut bytes = fs::read(&path).unwrap();
            let place = place.index(bytes.len());
            if cut { bytes.truncate(place) } else { bytes[place] ^= flip }
            fs::write(&path, bytes).unwrap();
            prop_assert!(verify(dir.path()).is_err());
        }
    }
}
