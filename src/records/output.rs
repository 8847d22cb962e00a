//! Where a command writes a file: beside its name until it is whole, and never onto a file that it reads.
//!
//! A command that fails or is killed leaves the file that was there before as it was. What it had written by then is in
//! `OUTPUT.partial`, of one that was killed in `OUTPUT.partial.PROCESS` until the file is written again. A stream
//! (`/dev/stdout`, a FIFO, a device) has no file to lose and is written directly.

use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::partials;
use crate::cause::{Remedy, refused};

/// Links that a path may lead through, as many as Linux follows.
const LINKS_MAX: usize = 40;
/// What `--overwrite` removes from a run's folder.
const REPLACED: [&str; 8] =
    ["config.toml", "metrics.jsonl", "log", "tensorboard", "rollouts", "evals", "checkpoints", "journal"];

/// The files that a command reads.
#[derive(Debug, Default)]
pub struct Inputs {
    files: Vec<(PathBuf, Identity)>,
}

/// Which file something is, by whatever name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Identity {
    /// Device and number of the file there.
    #[cfg(unix)]
    Number(u64, u64),
    /// The whole path, where a file has no number.
    #[cfg(not(unix))]
    Path(PathBuf),
}

impl Inputs {
    /// Opens a file for reading and remembers it.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(&mut self, path: &Path) -> Result<File> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let metadata = file.metadata().with_context(|| path.display().to_string())?;
        self.remember(path, &metadata);
        Ok(file)
    }

    /// Remembers a file that is read elsewhere, or the files of a folder. What is not there is no matter here.
    pub fn note(&mut self, path: &Path) {
        for path in with_entries(path) {
            if let Ok(metadata) = fs::metadata(&path) {
                self.remember(&path, &metadata);
            }
        }
    }

    fn remember(&mut self, path: &Path, metadata: &Metadata) {
        if let Some(identity) = identity(path, metadata) {
            self.files.push((path.to_owned(), identity));
        }
    }
}

/// The identity of a regular file: nothing is lost where a device is both read and written.
fn identity(path: &Path, metadata: &Metadata) -> Option<Identity> {
    if !metadata.is_file() {
        return None;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let _ = path;
        Some(Identity::Number(metadata.dev(), metadata.ino()))
    }
    #[cfg(not(unix))]
    fs::canonicalize(path).ok().map(Identity::Path)
}

/// A path, and what lies directly in it if it is a folder.
fn with_entries(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    std::iter::once(path.to_owned()).chain(entries.map(|entry| entry.path())).collect()
}

/// A file on its way. It has its name once [`Output::finish`] was called.
#[derive(Debug)]
pub struct Output {
    /// As the user wrote it.
    path: PathBuf,
    writer: Option<BufWriter<File>>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Written as it comes.
    Stream { is_stdout: bool },
    /// Written to `partial`, which gets the name of `target` in the end.
    Beside { partial: PathBuf, target: PathBuf },
}

impl Output {
    /// Begins to write. A link keeps pointing where it does: its target is replaced.
    ///
    /// # Errors
    /// If the file is one of those that are read, or cannot be written.
    pub fn create(path: &Path, inputs: &Inputs) -> Result<Self> {
        let shown = path.display();
        let found = match fs::metadata(path) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| shown.to_string()),
        };
        let names_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.file_name().is_none();
        if names_folder || found.as_ref().is_some_and(Metadata::is_dir) {
            bail!("{shown}: is a folder; name a file to write");
        }
        let is_read = |metadata: &Metadata| {
            let of_output = identity(path, metadata)?;
            inputs.files.iter().find(|(_, of_input)| *of_input == of_output)
        };
        if let Some((input, _)) = found.as_ref().and_then(is_read) {
            let input = input.display();
            bail!("{shown}: this is the same file as {input}, which is read; write to another file");
        }
        let (target, is_descriptor) = destination(path)?;
        let is_stream = is_descriptor || found.as_ref().is_some_and(|metadata| !metadata.is_file());
        let (file, place) = if is_stream {
            stream(path, is_descriptor).with_context(|| shown.to_string())?
        } else {
            beside(target, found.as_ref())?
        };
        Ok(Self { path: path.to_owned(), writer: Some(BufWriter::new(file)), place })
    }

    /// Whether this is the standard output, so that nothing else is printed between its lines.
    #[must_use]
    pub fn is_stdout(&self) -> bool {
        matches!(self.place, Place::Stream { is_stdout: true })
    }

    /// Writes a line.
    ///
    /// # Errors
    /// Names the file, if it cannot be written.
    pub fn write_line(&mut self, line: &str) -> Result<()> {
        let written = self.write_all(line.as_bytes()).and_then(|()| self.write_all(b"\n"));
        written.with_context(|| self.path.display().to_string())
    }

    /// Gives the file its name, now that it is whole.
    ///
    /// # Errors
    /// If what is left cannot be written, or the name cannot be given.
    pub fn finish(mut self) -> Result<()> {
        let shown = self.path.display().to_string();
        self.flush().with_context(|| shown.clone())?;
        if let Place::Beside { partial, target } = &self.place {
            let file = self.writer.as_ref().map(BufWriter::get_ref);
            file.map_or(Ok(()), File::sync_all).with_context(|| shown.clone())?;
            fs::rename(partial, target).with_context(|| shown.clone())?;
        }
        // Nothing is partial any more.
        self.place = Place::Stream { is_stdout: false };
        Ok(())
    }

    /// The error that ended the command, with the place of what was written before it.
    #[must_use]
    pub fn fail(mut self, error: anyhow::Error) -> anyhow::Error {
        let _ = self.flush();
        match &self.place {
            Place::Beside { partial, target }
                if fs::metadata(partial).is_ok_and(|partial| partial.len() > 0) =>
            {
                let kept = partials::keep(partial, target);
                error.context(format!(
                    "{}: not written; the lines before this are in {}",
                    self.path.display(),
                    kept.display()
                ))
            }
            _ => error,
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.as_mut().map_or(Ok(0), |writer| writer.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for Output {
    /// A partial file without a line is of no use to anybody.
    fn drop(&mut self) {
        drop(self.writer.take());
        if let Place::Beside { partial, .. } = &self.place
            && fs::metadata(partial).is_ok_and(|partial| partial.len() == 0)
        {
            let _ = fs::remove_file(partial);
        }
    }
}

/// The file that a path leads to through links, which need not be there, and whether it is a descriptor that
/// somebody has opened for this process (`/dev/stdout`, `/dev/fd/3`).
fn destination(path: &Path) -> Result<(PathBuf, bool)> {
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        let folder = match at.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let whole = fs::canonicalize(&folder).with_context(|| format!("{}: its folder", path.display()))?;
        if whole.starts_with("/proc") && whole.ends_with("fd") {
            return Ok((at, true));
        }
        match fs::read_link(&at) {
            Ok(link) => at = folder.join(link),
            Err(_) => return Ok((at, false)),
        }
    }
    bail!("{}: leads through more than {LINKS_MAX} links", path.display())
}

/// Opens what has no file to lose. A descriptor goes on where its opener is: it may be at the end of a file.
fn stream(path: &Path, is_descriptor: bool) -> io::Result<(File, Place)> {
    let is_stdout =
        ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"].iter().any(|name| path == Path::new(name));
    #[cfg(unix)]
    if is_stdout {
        use std::os::fd::AsFd;
        let descriptor = io::stdout().as_fd().try_clone_to_owned()?;
        return Ok((File::from(descriptor), Place::Stream { is_stdout }));
    }
    let file = File::options().write(true).append(is_descriptor).open(path)?;
    Ok((file, Place::Stream { is_stdout }))
}

/// Begins the file beside its name, under the first one that is free, with the permissions of the file that it will
/// replace.
fn beside(target: PathBuf, replaced: Option<&Metadata>) -> Result<(File, Place)> {
    if replaced.is_some_and(|replaced| replaced.permissions().readonly()) {
        bail!("{}: may not be written; its permissions say read-only", target.display());
    }
    partials::remove_abandoned(&target);
    let begun = format!("{}.{}", partials::SUFFIX, std::process::id());
    for partial in partials::names(&target, &begun) {
        match File::options().write(true).create_new(true).open(&partial) {
            Ok(file) => {
                // Where there are no locks, the number of the process says as much.
                let _ = file.try_lock();
                let kept = replaced.map_or(Ok(()), |replaced| file.set_permissions(replaced.permissions()));
                kept.with_context(|| partial.display().to_string())?;
                return Ok((file, Place::Beside { partial, target }));
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| partial.display().to_string()),
        }
    }
    bail!("{}: {} partial files of it are there; remove them", target.display(), partials::MAX)
}

/// Refuses to replace a run whose folder holds what the new run reads: it would be gone before it is read, or with
/// the run.
///
/// # Errors
/// Names what is read and the folder.
pub fn keep_apart(run: Option<&Path>, overwrite: bool, read: &[&Path]) -> Result<()> {
    let (Some(run), true) = (run, overwrite) else { return Ok(()) };
    // Where there is no folder there is nothing to replace.
    let Ok(folder) = fs::canonicalize(run) else { return Ok(()) };
    for path in read {
        let is_replaced = |file: &PathBuf| {
            let whole = fs::canonicalize(file).ok();
            let within = whole.as_ref().and_then(|whole| whole.strip_prefix(&folder).ok());
            match within.and_then(|within| within.components().next()) {
                Some(Component::Normal(name)) => REPLACED.iter().any(|replaced| name == *replaced),
                _ => false,
            }
        };
        if with_entries(path).iter().any(is_replaced) {
            let problem = format!(
                "{}: this run reads it, and it lies in {}, which would be replaced; copy it out of there first, or choose \
                 another folder",
                path.display(),
                run.display()
            );
            return Err(refused(Remedy::OtherFolder, problem));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(path: &Path) -> Inputs {
        let mut inputs = Inputs::default();
        inputs.open(path).unwrap();
        inputs
    }

    /// The names in a folder, in order.
    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_has_its_name_when_it_is_whole() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("out.jsonl");
        fs::write(&path, "old").unwrap();
        let mut output = Output::create(&path, &Inputs::default()).unwrap();
        output.write_all(b"new").unwrap();
        output.flush().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        output.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(names(place.path()), ["out.jsonl"]);
    }

    #[test]
    fn what_failed_is_kept_apart_and_costs_no_other_file() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("out.jsonl");
        fs::write(&path, "old").unwrap();
        fs::write(place.path().join("out.jsonl.partial"), "of the user").unwrap();
        let mut output = Output::create(&path, &Inputs::default()).unwrap();
        output.write_all(b"new").unwrap();
        let error = format!("{:#}", output.fail(anyhow::anyhow!("line 2")));
        assert!(error.contains("out.jsonl.partial-2") && error.ends_with("line 2"), "{error}");
        let content = |name: &str| fs::read_to_string(place.path().join(name)).unwrap();
        let kept = [content("out.jsonl"), content("out.jsonl.partial"), content("out.jsonl.partial-2")];
        assert_eq!(kept, ["old", "of the user", "new"]);
        // Nothing was written, so nothing is kept.
        let error = Output::create(&path, &Inputs::default()).unwrap().fail(anyhow::anyhow!("line 1"));
        assert_eq!(error.to_string(), "line 1");
        assert_eq!(names(place.path()), ["out.jsonl", "out.jsonl.partial", "out.jsonl.partial-2"]);
    }

    #[cfg(unix)]
    #[test]
    fn no_other_name_of_an_input_is_written() {
        use std::os::unix::fs::symlink;
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("in.jsonl"), "precious").unwrap();
        fs::hard_link(at("in.jsonl"), at("hard")).unwrap();
        symlink(at("in.jsonl"), at("soft")).unwrap();
        symlink("soft", at("soft-of-soft")).unwrap();
        let inputs = inputs(&at("in.jsonl"));
        for name in ["in.jsonl", "./in.jsonl", "sub/../in.jsonl", "hard", "soft", "soft-of-soft"] {
            let error = Output::create(&at(name), &inputs).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("same file"), "{error}");
        }
        assert_eq!(fs::read_to_string(at("in.jsonl")).unwrap(), "precious");
        assert_eq!(names(place.path()), ["hard", "in.jsonl", "soft", "soft-of-soft", "sub"]);
        // A folder stands for what is in it.
        let mut folder = Inputs::default();
        folder.note(place.path());
        assert!(Output::create(&at("hard"), &folder).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_and_permissions_too() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir(at("far")).unwrap();
        fs::write(at("far/target"), "old").unwrap();
        fs::set_permissions(at("far/target"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("far/target", at("link")).unwrap();
        symlink("far/new", at("dangling")).unwrap();
        for name in ["link", "dangling"] {
            let mut output = Output::create(&at(name), &Inputs::default()).unwrap();
            output.write_all(b"new").unwrap();
            output.finish().unwrap();
            assert!(at(name).is_symlink());
            assert_eq!(fs::read_to_string(at(name)).unwrap(), "new");
        }
        assert_eq!(fs::metadata(at("far/target")).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(names(&at("far")), ["new", "target"]);
        fs::set_permissions(at("far/target"), fs::Permissions::from_mode(0o440)).unwrap();
        let error = Output::create(&at("link"), &Inputs::default()).unwrap_err().to_string();
        assert!(error.contains("read-only"), "{error}");
    }

    #[test]
    fn a_folder_and_a_name_without_one_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let refused = |path: &Path| format!("{:#}", Output::create(path, &Inputs::default()).unwrap_err());
        assert!(refused(place.path()).contains("is a folder"));
        assert!(refused(&place.path().join("new/")).contains("is a folder"));
        assert!(refused(Path::new("")).contains("is a folder"));
        assert!(refused(&place.path().join("nowhere/out")).contains("its folder"));
        assert!(names(place.path()).is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn streams_are_written_directly() {
        let place = tempfile::tempdir().unwrap();
        let log = place.path().join("log");
        fs::write(&log, "before\n").unwrap();
        let descriptor = File::options().append(true).open(&log).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&descriptor);
        let path = PathBuf::from(format!("/dev/fd/{number}"));
        let mut output = Output::create(&path, &Inputs::default()).unwrap();
        output.write_all(b"after\n").unwrap();
        output.finish().unwrap();
        assert_eq!(fs::read_to_string(&log).unwrap(), "before\nafter\n");
        // The descriptor of an input is the input.
        assert!(Output::create(&path, &inputs(&log)).is_err());
        let mut output = Output::create(Path::new("/dev/null"), &inputs(Path::new("/dev/null"))).unwrap();
        output.write_all(b"x").unwrap();
        output.finish().unwrap();
        assert!(Output::create(Path::new("/dev/stdout"), &Inputs::default()).unwrap().is_stdout());
    }

    #[test]
    fn a_run_is_not_replaced_where_it_holds_what_is_read() {
        let home = tempfile::tempdir().unwrap();
        let run = home.path().join("run");
        fs::create_dir_all(run.join("checkpoints/step-2")).unwrap();
        fs::create_dir_all(run.join("rollouts")).unwrap();
        fs::write(run.join("rollouts/step-000001.jsonl"), "{}").unwrap();
        fs::write(run.join("config.toml"), "").unwrap();
        fs::write(run.join("prompts.jsonl"), "{}").unwrap();
        let refused = [
            run.clone(),
            run.join("config.toml"),
            run.join("checkpoints/step-2"),
            run.join("rollouts/../rollouts/step-000001.jsonl"),
        ];
        for path in refused {
            let error = keep_apart(Some(&run), true, &[&path]).unwrap_err().to_string();
            assert!(error.contains("which would be replaced"), "{error}");
            keep_apart(Some(&run), false, &[&path]).unwrap();
        }
        // What longhaul did not write is not replaced.
        keep_apart(Some(&run), true, &[&run.join("prompts.jsonl"), &home.path().join("nowhere")]).unwrap();
        keep_apart(Some(&home.path().join("other")), true, &[&run]).unwrap();
    }
}
