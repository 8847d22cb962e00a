//! Raw numbers are complete: each folder of `results/` has its command, machine and rows, and the tables of the
//! documents are made from them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("results")).unwrap();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() > 40, "{folders:?}");
    folders
}

#[test]
fn every_measurement_has_its_command_machine_and_rows() {
    for folder in folders() {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let (date, rest) = name.split_once('-').unwrap();
        let (subject, commit) = rest.rsplit_once('-').unwrap();
        assert!(date.len() == 8 && date.chars().all(|c| c.is_ascii_digit()), "{name}: no date");
        assert!(commit.len() >= 7 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{name}: no commit");
        assert!(!subject.is_empty(), "{name}");
        let command =
            fs::read_to_string(folder.join("command.sh")).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!command.trim().is_empty(), "{name}: no command");
        let machine =
            fs::read_to_string(folder.join("machine.json")).unwrap_or_else(|error| panic!("{name}: {error}"));
        let machine: Value = serde_json::from_str(&machine).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(machine.is_object(), "{name}: {machine}");
        let rows =
            fs::read_to_string(folder.join("rows.jsonl")).unwrap_or_else(|error| panic!("{name}: {error}"));
        for row in rows.lines() {
            let row: Value = serde_json::from_str(row).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(row.as_object().is_some_and(|row| row.len() >= 2), "{name}: {row}");
        }
        assert!(!rows.is_empty(), "{name}: no rows");
    }
}

#[test]
fn tables_are_those_of_the_rows() {
    let script = root().join("scripts/results_tables.py");
    let output = match Command::new("python3").arg(&script).arg("--check").output() {
        Err(error) if error.kind() == ErrorKind::NotFound && std::env::var_os("CI").is_none() => {
            eprintln!("python3 is not installed: the tables of docs/results/ were not compared");
            return;
        }
        output => output.unwrap(),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
