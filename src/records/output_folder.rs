//! A folder that a command writes: it has its name once it is whole, and none of it is left where the command fails.
//!
//! One that is there is replaced only if that was asked for and it holds a model, so that a name that was mistyped removes
//! nothing else.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Files of which one says that a folder holds a model.
const MODEL_FILES: [&str; 2] = ["config.json", "model.gguf"];

/// A folder on its way.
#[derive(Debug)]
pub struct OutputFolder {
    partial: PathBuf,
    target: PathBuf,
    is_whole: bool,
}

impl OutputFolder {
    /// Begins to write beside `target`. None of the files and folders of `inputs` may lie in it, or it in them.
    ///
    /// # Errors
    /// If it is there and may not be replaced, or cannot be written.
    pub fn begin(target: &Path, overwrite: bool, inputs: &[&Path]) -> Result<Self> {
        let shown = target.display();
        if target.file_name().is_none() {
            bail!("{shown}: has no name of its own; name a folder to write");
        }
        // A link keeps pointing where it does: its target is replaced.
        let target = target.canonicalize().unwrap_or_else(|_| target.to_owned());
        if target.exists() {
            refuse_to_replace(&target, overwrite).with_context(|| shown.to_string())?;
        }
        let is_inside = |input: &Path| target.canonicalize().is_ok_and(|target| input.starts_with(target));
        for input in inputs {
            if input.canonicalize().is_ok_and(|input| is_inside(&input)) {
                bail!("{shown}: holds {}, which is read; name another folder", input.display());
            }
        }
        if let Some(parent) = target.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        }
        let partial = sibling(&target, "partial");
        remove_if_there(&partial)?;
        fs::create_dir(&partial).with_context(|| partial.display().to_string())?;
        Ok(Self { partial, target, is_whole: false })
    }

    /// Where the files are written.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Writes a file, whose name has a `/` where it lies in a folder.
    ///
    /// # Errors
    /// Names the file.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.partial.join(name);
        let written =
            path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, content));
        written.with_context(|| self.target.join(name).display().to_string())
    }

    /// Gives the folder its name once it is on the disk.
    ///
    /// # Errors
    /// Names the file or folder that cannot be written.
    pub fn finish(mut self) -> Result<()> {
        sync_below(&self.partial)?;
        let old = sibling(&self.target, "old");
        remove_if_there(&old)?;
        let shown = || self.target.display().to_string();
        if self.target.exists() {
            fs::rename(&self.target, &old).with_context(shown)?;
        }
        fs::rename(&self.partial, &self.target).with_context(shown)?;
        self.is_whole = true;
        remove_if_there(&old)
    }
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        if !self.is_whole {
            // What is half-written holds the room that was missing; the error is told elsewhere.
            let _ = remove_if_there(&self.partial);
        }
    }
}

fn refuse_to_replace(target: &Path, overwrite: bool) -> Result<()> {
    if !target.is_dir() {
        bail!("is a file; name a folder to write");
    }
    if fs::read_dir(target)?.next().is_none() {
        return Ok(());
    }
    if !overwrite {
        bail!("the folder is there and not empty; name another, or give the command `overwrite` as well");
    }
    if !MODEL_FILES.iter().any(|name| target.join(name).is_file()) {
        let names = MODEL_FILES.join(" or ");
        bail!("holds no model ({names}) and is not replaced; name another, or remove it yourself");
    }
    Ok(())
}

/// A hidden name beside a folder, on the same file system, so that a rename is atomic.
fn sibling(target: &Path, ending: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.{ending}"))
}

fn remove_if_there(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Waits until every file below a folder, and the folder, is on the disk.
fn sync_below(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry.with_context(|| folder.display().to_string())?.path();
        if path.is_dir() {
            sync_below(&path)?;
        } else {
            let synced = File::open(&path).and_then(|file| file.sync_all());
            synced.with_context(|| path.display().to_string())?;
        }
    }
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| folder.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn begin(target: &Path, overwrite: bool) -> Result<OutputFolder> {
        OutputFolder::begin(target, overwrite, &[])
    }

    #[test]
    fn a_folder_is_written_whole_or_not_at_all() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("deep/model");
        let folder = begin(&target, false).unwrap();
        folder.write("inner/a.json", b"1").unwrap();
        assert!(!target.exists());
        drop(folder);
        assert_eq!(names(&home.path().join("deep")), [""; 0]);

        let folder = begin(&target, false).unwrap();
        folder.write("inner/a.json", b"1").unwrap();
        folder.finish().unwrap();
        assert_eq!(fs::read(target.join("inner/a.json")).unwrap(), b"1");
        assert_eq!(names(&home.path().join("deep")), ["model"]);
    }

    #[test]
    fn a_folder_that_is_there_is_replaced_only_where_it_holds_a_model() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("model");
        fs::create_dir(&target).unwrap();
        begin(&target, false).unwrap().finish().unwrap();
        fs::write(target.join("thesis.txt"), "").unwrap();
        let refusal = |overwrite| format!("{:#}", begin(&target, overwrite).unwrap_err());
        assert!(refusal(false).contains("not empty"), "{}", refusal(false));
        assert!(refusal(true).contains("holds no model"), "{}", refusal(true));
        fs::write(target.join(MODEL_FILES[0]), "").unwrap();
        assert!(refusal(false).contains("not empty"), "{}", refusal(false));
        let folder = begin(&target, true).unwrap();
        folder.write(MODEL_FILES[0], b"{}").unwrap();
        folder.finish().unwrap();
        assert_eq!(
            (names(&target), names(home.path())),
            (vec![MODEL_FILES[0].to_owned()], vec!["model".to_owned()])
        );
    }

    #[test]
    fn a_folder_does_not_replace_what_is_read() {
        let home = tempfile::tempdir().unwrap();
        let input = home.path().join("model.gguf");
        fs::write(&input, "").unwrap();
        fs::write(home.path().join(MODEL_FILES[0]), "").unwrap();
        let error = OutputFolder::begin(home.path(), true, &[&input]).unwrap_err().to_string();
        assert!(error.contains("which is read"), "{error}");
        let error = begin(&input, true).unwrap_err();
        assert!(format!("{error:#}").contains("is a file"), "{error:#}");
    }
}
