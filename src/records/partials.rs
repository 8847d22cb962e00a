//! The names of files that are not whole yet. One that is being written is `OUTPUT.partial.PROCESS`; the lines of a command
//! that failed are kept as `OUTPUT.partial`. What a killed process has left is removed by the next one that writes the
//! same file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub(super) const SUFFIX: &str = ".partial";

/// Partial files beside one output; more are a mistake.
pub(super) const MAX: usize = 1000;

/// The names with this ending that a partial file of `target` may have, in the order in which they are tried.
pub(super) fn names(target: &Path, ending: &str) -> impl Iterator<Item = PathBuf> + use<> {
    let (target, mut whole) = (target.to_owned(), target.file_name().unwrap_or_default().to_owned());
    whole.push(ending);
    let name = move |number: usize| {
        let mut name = whole.clone();
        if number > 1 {
            name.push(format!("-{number}"));
        }
        target.with_file_name(name)
    };
    (1..=MAX).map(name)
}

/// Keeps what a command wrote before it failed, under the first name that is free.
pub(super) fn keep(partial: &Path, target: &Path) -> PathBuf {
    for kept in names(target, SUFFIX) {
        // The name is taken before the file gets it, so that no other file is lost.
        if File::options().write(true).create_new(true).open(&kept).is_ok() {
            return if fs::rename(partial, &kept).is_ok() { kept } else { partial.to_owned() };
        }
    }
    partial.to_owned()
}

/// Removes what processes that are gone have left of this file. What is not certainly such is left alone.
pub(super) fn remove_abandoned(target: &Path) {
    let mut prefix = target.file_name().unwrap_or_default().to_owned();
    prefix.push(format!("{SUFFIX}."));
    let folder = target.parent().unwrap_or(Path::new("."));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let rest = name.to_str().zip(prefix.to_str()).and_then(|(name, prefix)| name.strip_prefix(prefix));
        let process = rest.and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if process.is_some_and(|process| !is_alive(process)) && is_unlocked(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether there is such a process; where that cannot be told, there is.
fn is_alive(process: u32) -> bool {
    !Path::new("/proc/self").exists() || Path::new("/proc").join(process.to_string()).exists()
}

/// Whether no process of this or another machine writes it.
fn is_unlocked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn only_what_a_killed_process_has_left_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let file = |name: &str| place.path().join(name);
        // No process has so high a number.
        let gone = u32::MAX - 1;
        let own = format!("out.partial.{}", std::process::id());
        let kept =
            ["out", "out.partial", "out.partial-2", "out.partial.user", "other.partial.4294967294", &own];
        for name in kept {
            fs::write(file(name), "x").unwrap();
        }
        for name in [format!("out.partial.{gone}"), format!("out.partial.{gone}-2")] {
            fs::write(file(&name), "x").unwrap();
        }
        let written = File::create(file("out.partial.4294967290")).unwrap();
        written.try_lock().unwrap();
        remove_abandoned(&file("out"));
        let mut left: Vec<String> = fs::read_dir(place.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut expected: Vec<String> = kept.iter().map(ToString::to_string).collect();
        expected.push("out.partial.4294967290".to_owned());
        expected.sort();
        assert_eq!(left, expected);
    }
}
