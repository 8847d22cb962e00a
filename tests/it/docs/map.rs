//! The map in ARCHITECTURE.md names every module of every crate, and nothing that is not there.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::binary::repository;
use crate::documents::Document;
use crate::source::{declared_modules, source_folders, sources};

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`.
fn expanded(name: &str) -> Vec<String> {
    let Some((before, rest)) = name.split_once('{') else { return vec![name.to_owned()] };
    let (list, behind) = rest.split_once('}').unwrap();
    list.split(',').map(|part| format!("{before}{part}{behind}")).collect()
}

/// The files and folders that the table of a crate names, from its sources on.
fn named(map: &str, folder: &str) -> Vec<String> {
    let head = format!("| in `{folder}/` |");
    let table = map.split(&head).nth(1).unwrap_or_else(|| panic!("ARCHITECTURE.md has no table {head}"));
    let table = table.split("\n\n").next().unwrap();
    // The second cell names commands and tests.
    let cells = table.lines().skip(1).filter_map(|line| line.split('|').nth(1));
    let names =
        cells.flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>());
    names.flat_map(|name| expanded(&name)).collect()
}

/// The files of a crate below a module, as paths from its sources on, without tests and the type of errors.
fn modules(files: &BTreeMap<String, String>, module: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (file, folder) = match module {
        "" => ("lib.rs".to_owned(), String::new()),
        module => (format!("{module}.rs"), format!("{module}/")),
    };
    for child in declared_modules(&files[&file]).iter().filter(|child| *child != "error") {
        found.push(format!("{folder}{child}.rs"));
        found.extend(modules(files, &format!("{folder}{child}")));
    }
    found
}

#[test]
fn every_module_stands_in_the_map() {
    let map = Document::read(PathBuf::from("ARCHITECTURE.md")).text;
    let mut missing = Vec::new();
    for folder in source_folders() {
        let named = named(&map, &folder);
        for name in &named {
            assert!(repository().join(&folder).join(name).exists(), "the map names {folder}/{name}");
        }
        let stands = |file: &String| {
            named.iter().any(|name| name == file || name.ends_with('/') && file.starts_with(name.as_str()))
        };
        let inside = |name: &str| name[folder.len() + 1..].to_owned();
        let files =
            sources(&folder).into_iter().map(|file| (inside(&file.name), file.shipped.code)).collect();
        let files = modules(&files, "");
        missing.extend(files.into_iter().filter(|file| !stands(file)).map(|file| format!("{folder}/{file}")));
    }
    assert!(missing.is_empty(), "ARCHITECTURE.md does not say what these are for: {missing:#?}");
}
