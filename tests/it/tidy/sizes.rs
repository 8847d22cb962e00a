//! No file, function or parameter list outgrows a reader.

use std::collections::BTreeMap;
use std::fs;

use crate::binary::repository;
use crate::source::{Source, functions, mask, source_folders, sources, tuple_parameters, tuples_taken_apart};

/// Lines of a file, with its tests, comments and blank lines. A file that needs more is two files.
const FILE_LINES_MAX: usize = 500;

/// Files that are longer today. A file leaves this list when it is short enough, and no other comes to it.
const LONG_FILES: &[&str] = &[];

/// Lines of each file that a training run is read in: what it is made of, its loop, and what stands around the loop.
const RUN_FILE_LINES_MAX: usize = 250;

/// These files.
const RUN_FILES: [&str; 5] = ["train", "record", "evaluate", "finish", "assemble"];

/// Lines of a function from its signature to its end, with comments and blank lines.
const FUNCTION_LINES_MAX: usize = 70;

/// Functions that are longer today. A function leaves this list when it is short enough, and no other comes to it.
const LONG_FUNCTIONS: &[&str] = &[];

/// Tuples that are taken apart where a parameter or a variable is declared with its type: two names in brackets, a colon,
/// two types. They hide what a caller gives, so their number over the whole repository, tests included, only falls.
const TAKEN_APART: usize = 30;

/// Parameters of functions whose type is a tuple: one name, a colon, two types or more in brackets. Their number only falls
/// too.
const TUPLE_PARAMETERS: usize = 8;

/// Every Rust file of the repository that is written by hand.
fn all_files() -> Vec<Source> {
    let crates = source_folders();
    let crates = crates.iter().map(|folder| folder.trim_end_matches("src").to_owned());
    let within =
        |folder: String| ["src", "tests", "examples", "fuzz"].map(|inner| format!("{folder}{inner}"));
    let files: Vec<Source> = crates.flat_map(within).flat_map(|folder| sources(&folder)).collect();
    assert!(files.len() > 250, "only {} files were found", files.len());
    files
}

/// Fails where something is too long that the list does not have, and where the list has what is short by now.
fn assert_short(long: &BTreeMap<String, usize>, known: &[&str], limit: &str) {
    let new: Vec<_> = long.iter().filter(|(name, _)| !known.contains(&name.as_str())).collect();
    assert!(new.is_empty(), "{limit}; make two of it: {new:?}");
    let gone: Vec<_> = known.iter().filter(|name| !long.contains_key(**name)).collect();
    assert!(gone.is_empty(), "short by now; take them out of the list in tests/it/tidy/sizes.rs: {gone:?}");
}

#[test]
fn files_are_short() {
    let lines = all_files().into_iter().map(|file| (file.name, file.text.lines().count()));
    let long = lines.filter(|(_, lines)| *lines > FILE_LINES_MAX).collect();
    assert_short(&long, LONG_FILES, &format!("a file has at most {FILE_LINES_MAX} lines"));
}

#[test]
fn the_files_of_a_run_are_shorter() {
    for name in RUN_FILES {
        let file = format!("src/run/{name}.rs");
        let lines = fs::read_to_string(repository().join(&file)).unwrap().lines().count();
        assert!(lines <= RUN_FILE_LINES_MAX, "{file} has {lines} lines and may have {RUN_FILE_LINES_MAX}");
    }
}

#[test]
fn functions_are_short() {
    let mut long = BTreeMap::new();
    for file in all_files() {
        for function in functions(&mask(&file.text).code) {
            if function.lines > FUNCTION_LINES_MAX {
                long.insert(format!("{}: {}", file.name, function.name), function.lines);
            }
        }
    }
    assert_short(&long, LONG_FUNCTIONS, &format!("a function has at most {FUNCTION_LINES_MAX} lines"));
}

#[test]
fn parameters_have_names_and_are_not_tuples_taken_apart() {
    let mut places = Vec::new();
    for file in all_files() {
        let lines = tuples_taken_apart(&mask(&file.text).code).into_iter();
        places.extend(lines.map(|line| format!("{}:{line}", file.name)));
    }
    let count = places.len();
    assert!(
        count <= TAKEN_APART,
        "{count} tuples are taken apart where they are declared and there may be {TAKEN_APART}: give the new ones as \
         parameters of their own, as a struct with named fields, or to a closure that stands where it is called: {places:#?}"
    );
    assert!(count == TAKEN_APART, "{count} by now: write that into TAKEN_APART: {places:#?}");
}

#[test]
fn parameters_are_no_tuples() {
    let mut places = Vec::new();
    for file in all_files() {
        let lines = tuple_parameters(&mask(&file.text).code).into_iter();
        places.extend(lines.map(|line| format!("{}:{line}", file.name)));
    }
    let count = places.len();
    assert!(
        count <= TUPLE_PARAMETERS,
        "{count} parameters are tuples and there may be {TUPLE_PARAMETERS}: give their parts as parameters of their own, or as a \
         struct with named fields: {places:#?}"
    );
    assert!(count == TUPLE_PARAMETERS, "{count} by now: write that into TUPLE_PARAMETERS: {places:#?}");
}
