//! The crates know each other only along the edges that ARCHITECTURE.md draws, and no file outgrows a reader.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::binary::repository;

/// Who may depend on whom; the root may on all.
const EDGES: [(&str, &str); 3] = [("learner", "kernels"), ("learner", "rollout"), ("rollout", "rewards")];
const CRATES: [&str; 5] = ["collective", "kernels", "learner", "rewards", "rollout"];
/// A file that needs more lines is two files. Tests at its end do not count.
const LINES_MAX: usize = 620;

#[test]
fn crates_depend_on_each_other_along_the_drawn_edges_only() {
    let mut found = BTreeSet::new();
    for from in CRATES {
        let manifest = fs::read_to_string(repository().join(from).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
        for name in dependencies.into_iter().flat_map(toml::Table::keys) {
            if let Some(to) = CRATES.iter().find(|to| *name == format!("longhaul-{to}")) {
                found.insert((from, *to));
            }
        }
    }
    assert_eq!(found, BTreeSet::from(EDGES));
}

#[test]
fn burn_is_not_known_to_rollout_and_rewards() {
    for name in ["rollout", "rewards"] {
        let manifest = fs::read_to_string(repository().join(name).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let dependencies = manifest["dependencies"].as_table().unwrap();
        assert!(!dependencies.keys().any(|key| key.starts_with("burn")), "{name} depends on burn");
    }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_source_file_says_what_it_is_for_and_stays_readable() {
    let mut files = Vec::new();
    for folder in
        ["src", "collective/src", "kernels/src", "learner/src", "rewards/src", "rollout/src", "tests"]
    {
        sources(&repository().join(folder), &mut files);
    }
    assert!(files.len() > 50, "only {} files were found", files.len());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//!"), "{} does not open with what it is for", file.display());
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines", file.display());
        for word in ["todo!(", "unimplemented!("] {
            let inside = text.contains(word) && !file.ends_with("tidy.rs");
            assert!(!inside, "{} holds a {word}", file.display());
        }
    }
}
