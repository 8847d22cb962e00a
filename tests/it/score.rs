//! `longhaul score`: rows come back in order with their verdicts, and what cannot be judged is named.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::tempdir;

use crate::binary::{longhaul, repository, success};

const REWARDS: &str = r#"
[[rewards]]
kind = "math"
correctness = true

[[rewards]]
kind = "length"
length_max = 100
weight = 0.5
gate = "math"
"#;

fn written(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn rows_come_back_in_order_with_their_verdicts() {
    let place = tempdir().unwrap();
    let folder = place.path();
    // More rows than are judged together; every third is wrong, and fields that no reward knows stay.
    let line = |row: usize| {
        let said = if row.is_multiple_of(3) { row + 1 } else { row };
        format!(r#"{{"completion": "so \\boxed{{{said}}}", "answer": "{row}", "tokens": 25, "row": {row}}}"#)
            + "\n"
    };
    let input = written(folder, "answers.jsonl", &(0..600).map(line).collect::<String>());
    let rewards = written(folder, "rewards.toml", REWARDS);
    let output = folder.join("scored.jsonl");
    let printed =
        success(&["score", "--rewards", &rewards, "--input", &input, "--output", output.to_str().unwrap()]);
    assert!(printed.starts_with("600 answers, mean reward "), "{printed}");
    assert!(printed.contains("correct 400 of 600 (66.7 %)"), "{printed}");
    let scored = fs::read_to_string(&output).unwrap();
    let rows: Vec<Value> = scored.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 600);
    for (number, row) in rows.iter().enumerate() {
        let right = !number.is_multiple_of(3);
        assert_eq!(row["row"], number);
        assert_eq!(row["correctness"], u8::from(right));
        // A quarter of the allowed length is worth 0.75, half of which counts, where the answer is right.
        assert_eq!(row["reward"], if right { 1.375 } else { 0.0 });
        assert_eq!(row["parts"]["length"], if right { 0.75 } else { 0.0 });
    }
}

#[test]
fn a_row_that_cannot_be_judged_is_named_and_those_before_it_are_kept() {
    let place = tempdir().unwrap();
    let folder = place.path();
    let rewards = written(folder, "rewards.toml", REWARDS);
    let lines =
        "{\"completion\": \"4\", \"answer\": \"4\", \"tokens\": 1}\n{\"completion\": \"4\", \"tokens\": 1}\n";
    let input = written(folder, "answers.jsonl", lines);
    let output = folder.join("scored.jsonl");
    let ran =
        longhaul(&["score", "--rewards", &rewards, "--input", &input, "--output", output.to_str().unwrap()]);
    let error = String::from_utf8_lossy(&ran.stderr);
    assert!(!ran.status.success());
    assert!(error.contains("answers.jsonl:2: ") && error.contains("`answer` is missing"), "{error}");
    // The file itself is for what is whole.
    let partial = folder.join("scored.jsonl.partial");
    assert!(error.contains("scored.jsonl.partial") && !output.exists(), "{error}");
    assert_eq!(fs::read_to_string(&partial).unwrap().lines().count(), 1);
    // Another try, from what is left, takes neither.
    fs::write(&input, "{\"completion\": \"4\", \"answer\": \"4\", \"tokens\": 1}\n").unwrap();
    success(&["score", "--rewards", &rewards, "--input", &input, "--output", output.to_str().unwrap()]);
    assert!(output.exists() && partial.exists());
}

#[cfg(unix)]
#[test]
fn a_file_that_is_read_is_not_written() {
    let place = tempdir().unwrap();
    let folder = place.path();
    let rewards = written(folder, "rewards.toml", REWARDS);
    let line = "{\"completion\": \"4\", \"answer\": \"4\", \"tokens\": 1}\n";
    let input = written(folder, "answers.jsonl", line);
    let link = folder.join("link.jsonl");
    std::os::unix::fs::symlink("answers.jsonl", &link).unwrap();
    let link = link.to_str().unwrap();
    let model = repository().join("tests/fixtures/parity/llama_tied");
    let model = model.to_str().unwrap();
    let weights = format!("{model}/config.json");
    let commands: [&[&str]; 5] = [
        &["score", "--rewards", &rewards, "--input", &input, "--output", &input],
        &["score", "--rewards", &rewards, "--input", link, "--output", &input],
        &["score", "--rewards", &rewards, "--input", &input, "--output", &rewards],
        &["logprobs", "--model", model, "--input", &input, "--output", link],
        &["logprobs", "--model", model, "--input", &input, "--output", &weights],
    ];
    for command in commands {
        let before = fs::read_to_string(&weights).unwrap();
        let ran = longhaul(command);
        let error = String::from_utf8_lossy(&ran.stderr);
        assert!(!ran.status.success() && error.contains("this is the same file as"), "{command:?}: {error}");
        assert_eq!(fs::read_to_string(&input).unwrap(), line, "{command:?}");
        assert_eq!(fs::read_to_string(&rewards).unwrap(), REWARDS, "{command:?}");
        assert_eq!(fs::read_to_string(&weights).unwrap(), before, "{command:?}");
    }
    assert_eq!(fs::read_dir(folder).unwrap().count(), 3);
    // The standard output is no file to lose, and holds nothing but the lines.
    let ran = success(&["score", "--rewards", &rewards, "--input", &input, "--output", "/dev/stdout"]);
    let rows: Vec<Value> = ran.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((rows.len(), &rows[0]["correctness"]), (1, &Value::from(1)));
}

#[test]
fn a_config_with_a_wrong_key_names_file_line_and_key() {
    let place = tempdir().unwrap();
    let rewards = written(place.path(), "rewards.toml", "[[rewards]]\nkind = \"math\"\nwieght = 2.0\n");
    let ran = longhaul(&["score", "--rewards", &rewards, "--input", "x", "--output", "y"]);
    let error = String::from_utf8_lossy(&ran.stderr);
    assert!(error.contains("rewards.toml:3: unknown key `rewards[0].wieght`"), "{error}");
    assert!(error.contains("`weight`"), "{error}");
}

// A data set's numbers are its own: a digit that is lost makes a right answer wrong.
#[test]
fn numbers_come_back_with_their_digits() {
    let place = tempdir().unwrap();
    let rows = [
        (
            r#"{"z": 1e400, "completion": "\\boxed{987654321098765432109876543210}", "answer": 987654321098765432109876543210}"#,
            1,
        ),
        (
            r#"{"completion": "\\boxed{987654321098765400000000000000}", "answer": 987654321098765432109876543210}"#,
            0,
        ),
        (
            r#"{"answer": 2.71828182845904523536028747135, "completion": "\\boxed{2.71828182845904523536028747135}"}"#,
            1,
        ),
        (r#"{"answer": [7.50, "x"], "b": -0.0, "a": 12.50, "completion": "\\boxed{15/2}"}"#, 1),
        (r#"{"answer": ["7", 8], "completion": "\\boxed{9}", "fields": {"n": 18446744073709551617}}"#, 0),
    ];
    let lines: Vec<&str> = rows.iter().map(|(line, _)| *line).collect();
    let input = written(place.path(), "answers.jsonl", &format!("\u{feff}{}\r\n", lines.join("\r\n")));
    let rewards =
        written(place.path(), "rewards.toml", "\u{feff}[[rewards]]\nkind = \"math\"\ncorrectness = true\n");
    let output = place.path().join("scored.jsonl");
    success(&["score", "--rewards", &rewards, "--input", &input, "--output", output.to_str().unwrap()]);
    let scored = fs::read_to_string(&output).unwrap();
    assert_eq!(scored.lines().count(), rows.len());
    for (written, (line, right)) in scored.lines().zip(rows) {
        assert!(written.starts_with(line.strip_suffix('}').unwrap()), "{written}");
        let value: Value = serde_json::from_str(written).unwrap();
        assert_eq!(value["correctness"], right, "{written}");
    }
    // A line that was judged before gets its new verdict in the old one's place.
    let again = place.path().join("again.jsonl");
    success(&[
        "score",
        "--rewards",
        &rewards,
        "--input",
        output.to_str().unwrap(),
        "--output",
        again.to_str().unwrap(),
    ]);
    let again = fs::read_to_string(&again).unwrap();
    assert_eq!(again.matches("\"reward\"").count(), rows.len());
    assert!(again.contains("987654321098765432109876543210") && again.contains("\"a\":12.50"), "{again}");
}
