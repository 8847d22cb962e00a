//! The crates know each other only along the edges that ARCHITECTURE.md draws, and no file outgrows a reader.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::binary::repository;

/// Who may depend on whom, for tests too; the root may on all.
const EDGES: [(&str, &str); 5] = [
    ("learner", "kernels"),
    ("learner", "trajectory"),
    ("rewards", "trajectory"),
    ("rollout", "rewards"),
    ("rollout", "trajectory"),
];
/// A file that needs more lines is two files. Tests at its end do not count.
const LINES_MAX: usize = 620;

fn manifest(folder: &Path) -> toml::Table {
    fs::read_to_string(folder.join("Cargo.toml")).unwrap().parse().unwrap()
}

/// The crates beside the root.
fn members() -> impl Iterator<Item = String> {
    let root = manifest(repository());
    let members = root["workspace"]["members"].as_array().unwrap().clone();
    members.into_iter().map(|member| member.as_str().unwrap().to_string())
}

/// The names in all tables of dependencies: those for tests, for the build and for one target too.
fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let mut names = Vec::new();
    for (key, value) in manifest {
        let Some(table) = value.as_table() else { continue };
        match key.as_str() {
            "dependencies" | "dev-dependencies" | "build-dependencies" => names.extend(table.keys().cloned()),
            "target" => {
                names.extend(table.values().filter_map(toml::Value::as_table).flat_map(dependencies));
            }
            _ => {}
        }
    }
    names
}

#[test]
fn crates_depend_on_each_other_along_the_drawn_edges_only() {
    let mut found = BTreeSet::new();
    for from in members() {
        for name in dependencies(&manifest(&repository().join(&from))) {
            assert_ne!(name, "longhaul", "{from} depends on the root");
            if let Some(to) = name.strip_prefix("longhaul-") {
                found.insert((from.clone(), to.to_string()));
            }
        }
    }
    let drawn = EDGES.map(|(from, to)| (from.to_string(), to.to_string()));
    assert_eq!(found, BTreeSet::from(drawn));
}

#[test]
fn burn_is_known_to_kernels_learner_and_the_root_only() {
    for name in ["trajectory", "rollout", "rewards"] {
        let dependencies = dependencies(&manifest(&repository().join(name)));
        assert!(!dependencies.iter().any(|key| key.starts_with("burn")), "{name} depends on burn");
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
    for folder in ["src", "tests"].map(str::to_string).into_iter().chain(members().map(|name| name + "/src"))
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
