//! The pages of `docs/reference/` are those that `longhaul docs` writes, and say of the config what its types say.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use longhaul::config::Config;
use longhaul::{arguments, pages};

use crate::configs::settings_of;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_pages_are_those_of_the_code() {
    for page in pages(root()).unwrap() {
        let path = root().join("docs/reference").join(page.name);
        let there = fs::read_to_string(&path).unwrap_or_default();
        let name = page.name;
        assert!(
            there == page.text,
            "docs/reference/{name} is not of this code: longhaul docs docs/reference"
        );
    }
}

/// Keys and what the page of the config says of their types and defaults.
fn rows() -> BTreeMap<String, Vec<[String; 2]>> {
    let page = pages(root()).unwrap().into_iter().find(|page| page.name == "config.md").unwrap();
    let mut rows: BTreeMap<String, Vec<[String; 2]>> = BTreeMap::new();
    for line in page.text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split(" | ").collect();
        assert!(
            cells.len() >= 4 && cells.iter().all(|cell| !cell.trim_matches(['|', ' ']).is_empty()),
            "an empty cell: {line}"
        );
        let key = cells[0].trim_matches(['|', ' ', '`']).to_owned();
        rows.entry(key).or_default().push([cells[1].to_owned(), cells[2].to_owned()]);
    }
    rows
}

fn keys(path: &str, value: &toml::Value, found: &mut Vec<(String, String)>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                keys(&format!("{path}.{key}"), value, found);
            }
        }
        toml::Value::Array(values) if values.iter().all(toml::Value::is_table) && !values.is_empty() => {
            values.iter().for_each(|value| keys(path, value, found));
        }
        value => found.push((path.trim_start_matches('.').to_owned(), value.to_string())),
    }
}

fn configs(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            configs(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
}

#[test]
fn hidden_flags_are_not_in_the_reference() {
    let page = pages(root()).unwrap().into_iter().find(|page| page.name == "cli.md").unwrap().text;
    let program = arguments();
    let (mut open, mut hidden) = (vec![&program], Vec::new());
    while let Some(command) = open.pop() {
        open.extend(command.get_subcommands());
        hidden.extend(
            command.get_arguments().filter(|flag| flag.is_hide_set()).filter_map(|flag| flag.get_long()),
        );
    }
    assert!(hidden.contains(&"as-row"), "{hidden:?}");
    for flag in hidden {
        assert!(!page.contains(&format!("`--{flag}")), "the reference shows --{flag}");
    }
}

/// The keys of the resolved configs are those of the page, and the least config has the page's defaults.
#[test]
fn the_page_of_the_config_has_every_key_and_its_default() {
    let rows = rows();
    assert!(rows.len() > 120, "{}", rows.len());
    let page = fs::read_to_string(root().join("docs/reference/config.md")).unwrap();
    let mut paths = Vec::new();
    configs(&root().join("configs"), &mut paths);
    let place = tempfile::tempdir().unwrap();
    for path in &paths {
        let config = Config::load(path, &settings_of(path, place.path())).unwrap();
        let mut found = Vec::new();
        keys("", &toml::from_str(&config.resolved()).unwrap(), &mut found);
        for (key, _) in found.iter().filter(|(key, _)| !key.ends_with(".kind")) {
            // The page has the keys of these sections once.
            let once = ["eval.rewards", "sft.gradients", "sft.phases.demonstrations"];
            let twins = once.into_iter().zip(["rewards", "learner.gradients", "sft.demonstrations"]);
            let key = &twins.fold(key.clone(), |key, (section, twin)| key.replacen(section, twin, 1));
            // What is a name or a table has one row, whose sentence says the table's keys.
            let of_a_table = key.rsplit_once('.').is_some_and(|(parent, own)| {
                page.lines().any(|row| {
                    row.starts_with(&format!("| `{parent}` |"))
                        && row.contains("table |")
                        && row.contains(&format!("{own} = "))
                })
            });
            assert!(rows.contains_key(key) || of_a_table, "{}: the reference has no {key}", path.display());
        }
    }
    let least = root().join("tests/fixtures/least.toml");
    let written: toml::Value = toml::from_str(&fs::read_to_string(&least).unwrap()).unwrap();
    let resolved = Config::load(&least, &[]).unwrap().resolved();
    let (mut given, mut all) = (Vec::new(), Vec::new());
    keys("", &written, &mut given);
    keys("", &toml::from_str(&resolved).unwrap(), &mut all);
    let mut compared = 0;
    for (key, value) in all.iter().filter(|(key, _)| !given.iter().any(|(there, _)| there == key)) {
        let Some(said) = rows.get(key) else { continue };
        // Values that are texts of their own, or depend on another key.
        if said.iter().all(|[_, default]| default == "built in" || default == "the word of the kind") {
            continue;
        }
        let is_said = said.iter().any(|[_, default]| {
            let default = default.trim_end_matches(" without the section").trim_matches('`');
            let both = (default.parse::<f64>(), value.parse::<f64>());
            default == value || matches!(both, (Ok(one), Ok(other)) if one == other)
        });
        assert!(is_said, "{key} is {value} where it is not given, and the reference says {said:?}");
        compared += 1;
    }
    assert!(compared > 60, "{compared}");
}
