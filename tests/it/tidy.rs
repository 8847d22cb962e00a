//! The crates know each other only along the edges that ARCHITECTURE.md draws, their files do not use each other in
//! circles, and no file, function or phrase outgrows a reader.

mod imports;
mod sizes;
mod words;

use std::collections::BTreeSet;
use std::fs;

use crate::binary::repository;
use crate::source::{Source, members, source_folders, sources};

/// Who depends on whom, for tests too.
const EDGES: [(&str, &str); 14] = [
    ("learner", "collective"),
    ("learner", "kernels"),
    ("learner", "trajectory"),
    ("rewards", "trajectory"),
    ("rollout", "rewards"),
    ("rollout", "trajectory"),
    (ROOT, "kernels"),
    (ROOT, "learner"),
    (ROOT, "rewards"),
    (ROOT, "rollout"),
    (ROOT, "simulate"),
    (ROOT, "trajectory"),
    ("simulate", "rollout"),
    ("simulate", "trajectory"),
];

/// The folder of the crate that composes the others.
const ROOT: &str = ".";

/// Where devices may be told apart.
const ENGINES: &str = "kernels/src/engine";

/// How code would tell them apart elsewhere.
const PLACE_QUESTIONS: &[&str] = &["is_cpu", "== Device::", "!= Device::"];

#[test]
fn crates_depend_on_each_other_along_the_drawn_edges_only() {
    let members = members();
    let mut found = BTreeSet::new();
    for from in members.iter().map(String::as_str).chain([ROOT]) {
        for name in dependencies(&manifest(from)) {
            assert_ne!(name, "longhaul", "{from} depends on the root");
            let to = members.iter().find(|to| name == format!("longhaul-{to}"));
            found.extend(to.map(|to| (from, to.as_str())));
        }
    }
    assert_eq!(found, BTreeSet::from(EDGES));
}

#[test]
fn the_map_draws_these_edges() {
    let map = fs::read_to_string(repository().join("ARCHITECTURE.md")).unwrap().replace('\n', " ");
    let name = |folder: &'static str| if folder == ROOT { "longhaul" } else { folder };
    let froms: BTreeSet<&str> = EDGES.iter().map(|(from, _)| *from).collect();
    for from in froms {
        let targets: Vec<&str> = EDGES.iter().filter(|(of, _)| *of == from).map(|(_, to)| *to).collect();
        let drawn = format!("`{} -> {}`", name(from), targets.join(", "));
        assert!(map.contains(&drawn), "ARCHITECTURE.md does not draw {drawn}");
    }
}

#[test]
fn burn_is_known_to_kernels_learner_and_the_root_only() {
    for name in members().iter().filter(|name| !["kernels", "learner"].contains(&name.as_str())) {
        let known = dependencies(&manifest(name));
        assert!(!known.iter().any(|key| key.starts_with("burn")), "{name} depends on burn");
    }
}

fn manifest(name: &str) -> toml::Table {
    fs::read_to_string(repository().join(name).join("Cargo.toml")).unwrap().parse().unwrap()
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
fn only_an_engine_asks_where_a_tensor_lies() {
    let mut found = Vec::new();
    let files: Vec<Source> = source_folders().iter().flat_map(|folder| sources(folder)).collect();
    for Source { name, shipped, .. } in files.iter().filter(|file| !file.name.starts_with(ENGINES)) {
        let asked = PLACE_QUESTIONS.iter().filter(|question| shipped.code.contains(**question));
        found.extend(asked.map(|question| format!("{name}: {question}")));
    }
    assert!(files.iter().any(|file| file.name.starts_with(ENGINES)), "there are no engines in {ENGINES}");
    assert!(found.is_empty(), "an engine says which form an operation takes, and what it can do: {found:?}");
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let folders = source_folders().into_iter().chain(["tests", "examples"].map(str::to_owned));
    let files: Vec<Source> = folders.flat_map(|folder| sources(&folder)).collect();
    assert!(files.len() > 50, "only {} files were found", files.len());
    for Source { name, text, shipped } in &files {
        assert!(text.starts_with("//!"), "{name} does not open with what it is for");
        for word in ["todo!(", "unimplemented!("] {
            assert!(!shipped.code.contains(word), "{name} holds a {word}");
        }
    }
}
