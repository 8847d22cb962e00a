//! Answers to the prompts of a file are those that each prompt gets by itself.

use std::fs;

use serde_json::{Value, json};
use tempfile::tempdir;

use crate::binary::{longhaul, success, text_of};

const PROMPT: &str = "4+3*2-5=";

/// What `generate` writes for the prompts of a file, with more arguments.
fn answers(rows: &[Value], more: &[&str]) -> Vec<Value> {
    let home = tempdir().unwrap();
    let [input, output] = ["in.jsonl", "out.jsonl"].map(|name| home.path().join(name));
    fs::write(&input, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let files = ["--input", input.to_str().unwrap(), "--output", output.to_str().unwrap()];
    success(&[&["generate", "--model", "models/quickstart"][..], &files, more].concat());
    fs::read_to_string(&output).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn generate_answers_the_prompts_of_a_file_as_each_by_itself() {
    let greedy = ["--set", "rollout.temperature=0", "--set", "rollout.output_tokens_max=64"];
    let long = json!({"text": format!("{}1=", "1+".repeat(20))});
    let written = answers(&[json!({"text": PROMPT}), long, json!({"text": PROMPT})], &greedy);
    let alone = [&["generate", "--model", "models/quickstart", "--prompt", PROMPT][..], &greedy].concat();
    assert_eq!(format!("{}\n", written[0]["completion"].as_str().unwrap()), success(&alone));
    assert_eq!(written[2], written[0]);
    let count = |row: &Value, key: &str| row[key].as_array().unwrap().len();
    for row in &written {
        assert_eq!(count(row, "completion_tokens"), count(row, "logprobs"));
    }
    assert_eq!(written[0]["finish"], "stop");
    assert_eq!(count(&written[0], "prompt_tokens"), PROMPT.len());
    // The ids that it wrote are a prompt as well.
    let again = answers(&[json!({"tokens": written[0]["prompt_tokens"], "text": "not read"})], &greedy);
    assert_eq!(again, written[..1]);
    let cut = answers(&[json!({"text": PROMPT})], &["--set", "rollout.output_tokens_max=2"]);
    assert_eq!((&cut[0]["finish"], count(&cut[0], "completion_tokens")), (&json!("length"), 2));
    // Rows draw by numbers of their own, and the same ones in every run.
    let rows = vec![json!({"text": PROMPT}); 8];
    let hot = ["--set", "rollout.temperature=2", "--set", "rollout.output_tokens_max=16"];
    let drawn = answers(&rows, &hot);
    assert!(drawn.iter().any(|row| *row != drawn[0]));
    assert_eq!(answers(&rows, &hot), drawn);
}

#[test]
fn generate_names_the_line_of_a_prompt_that_is_wrong() {
    let home = tempdir().unwrap();
    let [input, output] = ["in.jsonl", "out.jsonl"].map(|name| home.path().join(name));
    for (row, said) in [
        (json!({"tokens": [99]}), "token 99 is outside the vocabulary of 24"),
        (json!({"tokens": []}), "has no tokens"),
        (json!({"tokens": ["a"]}), "`tokens`"),
        (json!({"prompt": "1+1="}), "neither a `text`"),
    ] {
        fs::write(&input, format!("{}\n{row}\n", json!({"text": PROMPT}))).unwrap();
        let files = ["--input", input.to_str().unwrap(), "--output", output.to_str().unwrap()];
        let set = ["--set", "rollout.output_tokens_max=4"];
        let refused = longhaul(&[&["generate", "--model", "models/quickstart"][..], &files, &set].concat());
        let text = text_of(&refused);
        assert!(
            !refused.status.success() && text.contains("in.jsonl:2") && text.contains(said),
            "{row}: {text}"
        );
        assert!(!output.exists());
    }
    let both = ["--prompt", PROMPT, "--input", input.to_str().unwrap()];
    let refused = longhaul(&[&["generate", "--model", "models/quickstart"][..], &both].concat());
    assert!(!refused.status.success() && text_of(&refused).contains("cannot be used with"));
}
