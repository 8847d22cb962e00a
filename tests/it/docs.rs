//! The documents are true where a program can tell: links and files exist, commands run, configs load, tests that
//! they name exist. `tidy` looks at their language.

mod commands;
mod keys;
mod map;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use longhaul::arguments;
use longhaul::config::Config;

use crate::binary::repository;
use crate::documents::{Document, documents, guide};
use crate::source::{members, source_folders, sources};

#[test]
fn files_in_the_documents_exist() {
    let others = ["src", "tests", "configs", "models", "examples", "scripts"].map(str::to_owned);
    let folders: Vec<String> = members().into_iter().chain(others).map(|name| name + "/").collect();
    let mut seen = 0;
    // The changelog names what there was, and so do the notes.
    let is_of_now = |document: &&Document| {
        document.path != Path::new("CHANGELOG.md") && !document.path.starts_with("docs/design")
    };
    for document in documents().iter().filter(is_of_now) {
        let names = document.quoted();
        // A name without a point in it may be a metric: `rewards/NAME/mean`.
        let paths = names.iter().filter(|name| name.contains('.') && !name.contains(['<', ' ', '*', '{']));
        for path in paths.filter(|name| folders.iter().any(|folder| name.starts_with(folder.as_str()))) {
            assert!(repository().join(path).exists(), "{} names {path}", document.path.display());
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn recipes_change_two_files_at_most() {
    let contributing = Document::read(PathBuf::from("CONTRIBUTING.md"));
    let recipes = contributing.text.split("\n## ").find(|section| section.starts_with("Recipes")).unwrap();
    let recipes: Vec<&str> = recipes.split("\n### ").skip(1).collect();
    for kind in
        ["verifier", "advantage", "loss", "mode", "task", "model family", "engine", "config key", "metric"]
    {
        let has = |recipe: &&str| recipe.lines().next().unwrap().contains(kind);
        assert!(recipes.iter().any(has), "CONTRIBUTING.md has no recipe for a {kind}");
    }
    let mut titles = BTreeSet::new();
    for recipe in recipes {
        let title = recipe.lines().next().unwrap();
        assert!(titles.insert(title), "CONTRIBUTING.md has two recipes `{title}`");
        // The steps are numbered; each begins with the file that it changes.
        let steps = recipe.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
        let files: Vec<&str> = steps.map(|step| step.split('`').nth(1).unwrap()).collect();
        let is_changed = |file: &&&str| !["<name>", "docs/", "tests/"].iter().any(|part| file.contains(part));
        let changed = files.iter().filter(is_changed);
        let changed: Vec<&&str> = changed.collect();
        assert!((1..=2).contains(&changed.len()), "{title}: {changed:?}");
        for file in &files {
            let existing = file.replace("<name>.rs", "");
            assert!(repository().join(existing).exists(), "{title}: there is no {file}");
        }
    }
}

#[test]
fn links_in_the_documents_resolve() {
    let mut seen = 0;
    for document in documents() {
        let folder = document.path.parent().unwrap();
        let prose = document.prose();
        for target in prose.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if target.starts_with("http") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let page = if path.is_empty() { document.path.clone() } else { folder.join(path) };
            let shown = format!("{} links to {target}", document.path.display());
            assert!(repository().join(&page).exists(), "{shown}");
            if !anchor.is_empty() {
                let anchors = Document::read(page).anchors();
                assert!(anchors.contains(anchor), "{shown}; there are {anchors:?}");
            }
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
}

#[test]
fn tests_in_the_tables_exist() {
    let folders = source_folders();
    let files = folders.iter().map(String::as_str).chain(["tests/it"]).flat_map(sources);
    let code: String = files.map(|file| file.text).collect();
    let pages = ["ARCHITECTURE.md", "docs/design/faults.md", "docs/guide/mismatch.md"];
    let names: Vec<String> =
        pages.iter().flat_map(|page| Document::read(PathBuf::from(page)).quoted()).collect();
    // Tests have sentences for names.
    let is_sentence = |name: &&String| {
        name.matches('_').count() >= 4 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let tests: BTreeSet<&String> = names.iter().filter(is_sentence).collect();
    assert!(tests.len() >= 60, "{tests:?}");
    for test in tests {
        assert!(code.contains(&format!("fn {test}(")), "a document names the test {test}");
    }
}

#[test]
fn commands_in_the_prose_of_the_guide_exist() {
    let mut seen = 0;
    for document in guide() {
        for name in document.quoted() {
            let Some(rest) = name.strip_prefix("longhaul ") else { continue };
            let mut command = arguments();
            let shown = format!("{}: `{name}`", document.path.display());
            for word in rest.split(' ') {
                if let Some(flag) = word.strip_prefix("--") {
                    let known = command.get_arguments().any(|argument| argument.get_long() == Some(flag));
                    assert!(known, "{shown}: there is no --{flag}");
                } else if command.has_subcommands() {
                    let inner = command.find_subcommand(word).cloned();
                    command = inner.unwrap_or_else(|| panic!("{shown}: there is no {word}"));
                }
            }
            seen += 1;
        }
    }
    assert!(seen >= 20, "{seen}");
}

/// `fragment` over `base`: a section of another kind takes the place of the former, and so do several files that of one.
fn merge(base: &mut toml::Table, fragment: toml::Table) {
    for (key, value) in fragment {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new))
                if new.get("kind").is_none_or(|kind| old.get("kind") == Some(kind))
                    && !new.contains_key("sources") =>
            {
                merge(old, new);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[test]
fn configs_in_the_guide_load() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["train.jsonl", "train.parquet", "test.jsonl", "demonstrations.jsonl"] {
        fs::write(folder.path().join(file), "").unwrap();
    }
    let model = repository().join("models/quickstart");
    let local = |block: &str| block.replace("models/smollm2", model.to_str().unwrap());
    let whole = Document::read(PathBuf::from("docs/guide/your-own-model.md")).blocks("toml");
    let mut seen = 0;
    for document in guide() {
        for block in document.blocks("toml") {
            let shown = format!("{}:\n{block}", document.path.display());
            let fragment: toml::Table =
                local(&block).parse().unwrap_or_else(|error| panic!("{shown}: {error}"));
            // Further keys of an entry of `[[rewards]]` that stands above.
            if fragment.get("rewards").is_some_and(toml::Value::is_table) {
                continue;
            }
            let is_whole = fragment.contains_key("optimizer");
            let mut config = if is_whole { toml::Table::new() } else { local(&whole[0]).parse().unwrap() };
            merge(&mut config, fragment);
            let file = folder.path().join("config.toml");
            fs::write(&file, config.to_string()).unwrap();
            seen += 1;
            let Err(error) = Config::load(&file, &[]) else { continue };
            // `kind = "task"` is right in a run on a task, which the whole config here is not.
            let error = error.to_string();
            assert!(!is_whole && error.contains("judges the problems of a task"), "{shown}: {error}");
        }
    }
    assert!(seen >= 15, "{seen}");
}

#[test]
fn pages_are_short() {
    for document in documents() {
        let lines = document.text.lines().count();
        let (limit, is_limited) = match document.path.to_str().unwrap() {
            "README.md" => (150, true),
            "ARCHITECTURE.md" => (200, true),
            path if path.starts_with("docs/results") => (100, true),
            path => (200, path.starts_with("docs/guide")),
        };
        assert!(!is_limited || lines <= limit, "{} has {lines} lines", document.path.display());
    }
}
