//! The crates know each other only along the edges that ARCHITECTURE.md draws, their modules only those above them,
//! and no file, function or parameter list outgrows a reader.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::binary::repository;
use crate::source::{Source, collect, functions, mask, members, source_folders, sources, tuple_parameters};

/// Who may depend on whom, for tests too; the root may on all others.
const EDGES: [(&str, &str); 8] = [
    ("learner", "collective"),
    ("learner", "kernels"),
    ("learner", "trajectory"),
    ("rewards", "trajectory"),
    ("rollout", "rewards"),
    ("rollout", "trajectory"),
    ("simulate", "rollout"),
    ("simulate", "trajectory"),
];

/// Lines of a file above its tests. A file that needs more is two files.
const FILE_LINES_MAX: usize = 500;

/// Files that are longer today. A file leaves this list when it is short enough, and no other comes to it.
const LONG_FILES: &[&str] = &["rollout/src/simulation.rs"];

/// Lines of a function without blank lines and comments.
const FUNCTION_LINES_MAX: usize = 70;

/// Functions that are longer today. A function leaves this list when it is short enough, and no other comes to it.
const LONG_FUNCTIONS: &[&str] = &[];

/// Parameters of functions that are tuples taken apart, `(a, b): (A, B)`, by the folder of a crate's sources; the
/// others have none. They hide what a caller gives, so the numbers only fall.
const TUPLE_PARAMETERS: &[(&str, usize)] = &[("kernels/src", 12)];

/// Modules that use one that stands below them in their `lib.rs`: crate, module, and what it uses. A row leaves this
/// list when it is no longer true, and no other comes to it.
const UPWARD: &[(&str, &str, &str)] = &[("rollout/src", "error", "faults")];

/// Phrases that are not used in documents, in help texts and in errors, each with what to write in its place.
const PHRASES: &[(&str, &str)] = &[
    ("be meant", "say that it is invalid"),
    ("reckon", "say what is assumed or counted"),
    ("earlier life", "say `before the restart`"),
    ("who works when", "say `schedule`"),
    ("nobody waits for", "say `virtual`"),
    ("waits for its company", "say that it waits for the other rows of its batch"),
    ("what parts ", "name the difference"),
    ("beginning in common", "say `shared prefix`"),
    ("in how many bits", "say `precision`"),
    ("who goes first", "say `scheduling priority`"),
    ("workings of mixed quality", "say `worked solutions`"),
];

#[test]
fn crates_depend_on_each_other_along_the_drawn_edges_only() {
    let members = members();
    let mut found = BTreeSet::new();
    for from in &members {
        for name in dependencies(&manifest(from)) {
            assert_ne!(name, "longhaul", "{from} depends on the root");
            let to = members.iter().find(|to| name == format!("longhaul-{to}"));
            found.extend(to.map(|to| (from.as_str(), to.as_str())));
        }
    }
    assert_eq!(found, BTreeSet::from(EDGES));
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

fn all_sources() -> Vec<Source> {
    source_folders().iter().flat_map(|folder| sources(folder)).collect()
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let files: Vec<Source> = all_sources()
        .into_iter()
        .chain(["tests", "examples"].iter().flat_map(|folder| sources(folder)))
        .collect();
    assert!(files.len() > 50, "only {} files were found", files.len());
    for Source { name, text, shipped } in &files {
        assert!(text.starts_with("//!"), "{name} does not open with what it is for");
        for word in ["todo!(", "unimplemented!("] {
            assert!(!shipped.code.contains(word), "{name} holds a {word}");
        }
    }
}

#[test]
fn files_are_short() {
    let files = all_sources().into_iter().chain(sources("tests"));
    let lines = |file: &Source| file.shipped.code.lines().count();
    let long: BTreeMap<String, usize> = files
        .map(|file| (file.name.clone(), lines(&file)))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .collect();
    let new: Vec<_> = long.iter().filter(|(name, _)| !LONG_FILES.contains(&name.as_str())).collect();
    assert!(
        new.is_empty(),
        "a file has at most {FILE_LINES_MAX} lines above its tests; make two of it: {new:?}"
    );
    let gone: Vec<_> = LONG_FILES.iter().filter(|name| !long.contains_key(**name)).collect();
    assert!(gone.is_empty(), "short by now; take them out of LONG_FILES: {gone:?}");
}

#[test]
fn functions_are_short() {
    let mut long = BTreeMap::new();
    for file in all_sources().into_iter().chain(sources("tests")) {
        for function in functions(&mask(&file.text).code) {
            if function.lines > FUNCTION_LINES_MAX {
                long.insert(format!("{}: {}", file.name, function.name), function.lines);
            }
        }
    }
    let new: Vec<_> = long.iter().filter(|(name, _)| !LONG_FUNCTIONS.contains(&name.as_str())).collect();
    assert!(new.is_empty(), "a function has at most {FUNCTION_LINES_MAX} lines; make two of it: {new:?}");
    let gone: Vec<_> = LONG_FUNCTIONS.iter().filter(|name| !long.contains_key(**name)).collect();
    assert!(gone.is_empty(), "short by now; take them out of LONG_FUNCTIONS: {gone:?}");
}

#[test]
fn parameters_have_names_and_are_not_tuples_taken_apart() {
    for folder in source_folders() {
        let mut places = Vec::new();
        for file in sources(&folder) {
            for function in functions(&file.shipped.code) {
                let count = tuple_parameters(&function.parameters);
                places.extend((0..count).map(|_| format!("{}: {}", file.name, function.name)));
            }
        }
        let allowed = TUPLE_PARAMETERS.iter().find(|(of, _)| *of == folder).map_or(0, |(_, count)| *count);
        assert!(
            places.len() <= allowed,
            "{folder} has {} parameters like `(a, b): (A, B)` and may have {allowed}: give the new ones as parameters of \
             their own or as a struct with named fields: {places:?}",
            places.len()
        );
        assert!(
            places.len() == allowed,
            "{folder} has {} by now: write that into TUPLE_PARAMETERS",
            places.len()
        );
    }
}

/// The modules that a file declares, in their order, without those of tests.
fn modules(code: &str) -> Vec<String> {
    let code = code.replace("#[cfg(test)]\nmod ", "#[cfg(test)] mod ");
    let name = |line: &str| {
        let declared =
            line.trim_start_matches("pub(crate) ").trim_start_matches("pub ").strip_prefix("mod ")?;
        Some(declared.strip_suffix(';')?.to_owned())
    };
    code.lines().filter_map(name).collect()
}

/// The names that code takes from the crate's own root: `crate::name`, `crate::{name::.., ..}`.
fn crate_names(code: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        let rest = &code[at + path.len()..];
        match rest.strip_prefix('{') {
            Some(list) => names.extend(
                list.split(';').next().unwrap_or_default().split([',', '{']).map(|part| word(part.trim())),
            ),
            None => names.extend([word(rest)]),
        }
    }
    names
}

#[test]
fn modules_use_only_those_above_them() {
    let mut found = BTreeSet::new();
    for folder in source_folders() {
        let files = sources(&folder);
        let lib = files.iter().find(|file| file.name == format!("{folder}/lib.rs")).unwrap();
        let order = modules(&lib.shipped.code);
        for (place, module) in order.iter().enumerate() {
            let (file, below) = (format!("{folder}/{module}.rs"), format!("{folder}/{module}/"));
            let own = files.iter().filter(|source| source.name == file || source.name.starts_with(&below));
            let used: BTreeSet<String> = own.flat_map(|source| crate_names(&source.shipped.code)).collect();
            let upward = order[place + 1..].iter().filter(|other| used.contains(*other));
            found.extend(upward.map(|other| (folder.clone(), module.clone(), other.clone())));
        }
    }
    let known: BTreeSet<_> = UPWARD
        .iter()
        .map(|(folder, from, to)| ((*folder).to_owned(), (*from).to_owned(), (*to).to_owned()))
        .collect();
    let new: Vec<_> = found.difference(&known).collect();
    assert!(new.is_empty(), "a module uses only those above it in lib.rs: {new:?}");
    let gone: Vec<_> = known.difference(&found).collect();
    assert!(gone.is_empty(), "true by now; take them out of UPWARD: {gone:?}");
}

#[test]
fn documents_help_and_errors_use_plain_words() {
    let mut texts: Vec<(String, String)> = documents();
    for file in all_sources() {
        // Comments of the command line's and the config's types are their help and their reference.
        let is_help = ["src/cli", "src/config"].iter().any(|place| file.name.starts_with(place));
        let text = if is_help { file.text } else { file.shipped.strings };
        texts.push((file.name, text));
    }
    let mut found = Vec::new();
    for (name, text) in &texts {
        for (number, line) in text.lines().enumerate() {
            let line = line.to_lowercase();
            for (phrase, instead) in PHRASES.iter().filter(|(phrase, _)| line.contains(phrase)) {
                found.push(format!("{name}:{}: `{phrase}`: {instead}", number + 1));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// The documents of the repository that a user or contributor reads.
fn documents() -> Vec<(String, String)> {
    let mut paths = Vec::new();
    collect(&repository().join("docs"), "md", &mut paths);
    for entry in fs::read_dir(repository()).unwrap() {
        let path = entry.unwrap().path();
        paths.extend(Some(path).filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    assert!(paths.len() > 10, "{paths:?}");
    paths.sort();
    paths.iter().map(|path| (path.display().to_string(), fs::read_to_string(path).unwrap())).collect()
}
