//! Prompts and token ids against those of transformers: `tests/fixtures/make_chat_fixtures.py` says how they are made.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crc32fast::hash;
use serde_json::{Map, Value};

use super::{Chat, ChatEnding, Text};

/// The order in which the checksums of a line stand.
const TOKENIZERS: [&str; 5] = ["byte_level", "word_piece", "unigram", "byte_fallback", "word_level"];

/// Between the ids with the special tokens around a line and those without.
const BORDER: u32 = u32::MAX;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/chat")
}

fn rows(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(folder().join(name)).expect("the fixture is there");
    text.split_terminator('\n').map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

fn checksum(ids: &[u32]) -> u32 {
    hash(&ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>())
}

/// The tokenizer of the templates with one of them.
fn with_template(name: &str) -> Text {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let copy = |from: PathBuf, to: &str| {
        std::fs::copy(from, directory.path().join(to)).expect("the fixture is there");
    };
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        copy(folder().join("tokenizers").join(TOKENIZERS[0]).join(file), file);
    }
    copy(folder().join("templates").join(format!("{name}.jinja")), "chat_template.jinja");
    Text::load(directory.path()).expect("the tokenizer is well formed")
}

fn rendered(text: &Text, conversation: &Value) -> Result<String, String> {
    let none = Map::new();
    let chat = Chat {
        messages: conversation["messages"].as_array().expect("a list"),
        tools: conversation.get("tools"),
        variables: conversation["variables"].as_object().unwrap_or(&none),
        ending: match conversation["ending"].as_str() {
            Some("continue") => ChatEnding::Continued,
            Some("closed") => ChatEnding::Closed,
            _ => ChatEnding::GenerationPrompt,
        },
    };
    text.render_chat(&chat).map_err(|error| error.to_string())
}

/// What is wrong with a case, if anything is.
fn difference(text: &Text, conversation: &Value, case: &Value) -> Option<String> {
    let found = match (rendered(text, conversation), case["error"].as_str()) {
        // What a template raises of its own is said; Python's own complaints have other words here.
        (Err(found), Some(error)) => {
            let same = error.strip_prefix("TemplateError: ").is_none_or(|raised| found.ends_with(raised));
            return (!same).then(|| format!("transformers raises {error}, here it is {found:?}"));
        }
        (Ok(found), Some(error)) => {
            return Some(format!("transformers raises {error}, here it is {found:?}"));
        }
        (Err(error), None) => return Some(format!("refused: {error}")),
        (Ok(found), None) => found,
    };
    let same = match case["text"].as_str() {
        Some(text) => found == text,
        None => found.chars().count() == case["length"] && hash(found.as_bytes()) == case["text_crc32"],
    };
    let ids = text.encode_fragment(&found).expect("every text has ids");
    let same_ids = ids.len() == case["tokens"] && checksum(&ids) == case["ids_crc32"];
    (!same || !same_ids).then(|| format!("{found:?} is not {case}"))
}

#[test]
fn chats_are_rendered_and_encoded_as_transformers_does() {
    let file = std::fs::read_to_string(folder().join("conversations.json")).expect("the fixture is there");
    let conversations: Vec<Value> = serde_json::from_str(&file).expect("a list");
    let by_name: HashMap<&str, &Value> =
        conversations.iter().map(|one| (one["name"].as_str().expect("a name"), one)).collect();
    let cases = rows("rendered.jsonl");
    let mut texts: HashMap<&str, Text> = HashMap::new();
    let mut wrong = Vec::new();
    for case in &cases {
        let template = case["template"].as_str().expect("a name");
        let name = case["conversation"].as_str().expect("a name");
        let text = texts.entry(template).or_insert_with(|| with_template(template));
        wrong.extend(difference(text, by_name[name], case).map(|why| format!("{template}, {name}: {why}")));
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(texts.len() >= 60 && cases.len() == texts.len() * conversations.len());
}

#[test]
fn lines_are_encoded_as_transformers_does() {
    let texts = TOKENIZERS.map(|name| {
        Text::load(&folder().join("tokenizers").join(name)).expect("the tokenizer is well formed")
    });
    let lines = rows("lines.jsonl");
    assert_eq!(lines.len(), 1000);
    for line in &lines {
        let written = line["text"].as_str().expect("a text");
        for (at, text) in texts.iter().enumerate() {
            let mut ids = text.encode(written).expect("every text has ids");
            ids.push(BORDER);
            ids.extend(text.encode_fragment(written).expect("every text has ids"));
            assert_eq!(checksum(&ids), line["crc32"][at], "{}: {written:?} is {ids:?}", TOKENIZERS[at]);
        }
    }
}

/// The tokenizer of a case beside the files of the case.
fn with_files(case: &Value) -> Text {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let copy = |from: PathBuf, to: &str| {
        std::fs::copy(from, directory.path().join(to)).expect("the fixture is there");
    };
    let name = case["tokenizer"].as_str().expect("a name");
    copy(folder().join("tokenizers").join(name).join("tokenizer.json"), "tokenizer.json");
    copy(folder().join("names.jinja"), "chat_template.jinja");
    for (file, content) in case["files"].as_object().expect("files") {
        std::fs::write(directory.path().join(file), content.to_string()).expect("the directory is ours");
    }
    Text::load(directory.path()).expect("the files are well formed")
}

#[test]
fn classes_and_companions_of_a_tokenizer_change_what_they_change_in_transformers() {
    let of_classes: Vec<Value> = rows("class_lines.jsonl");
    let lines: Vec<Value> = of_classes.into_iter().chain(rows("lines.jsonl")).collect();
    let message = serde_json::json!({"messages": [{"role": "user", "content": "-"}]});
    let (cases, mut wrong) = (rows("classes.jsonl"), Vec::new());
    for case in &cases {
        let (text, files) = (with_files(case), &case["files"]);
        let named = rendered(&text, &message);
        if named.as_deref() != Ok(case["named"].as_str().expect("a text")) {
            wrong.push(format!("{files}: {named:?} is not {}", case["named"]));
        }
        let sums = case["crc32"].as_array().expect("a list");
        assert!(sums.len() > 60);
        for (line, sum) in lines.iter().zip(sums) {
            let written = line["text"].as_str().expect("a text");
            let mut ids = text.encode(written).expect("every text has ids");
            ids.push(BORDER);
            ids.extend(text.encode_fragment(written).expect("every text has ids"));
            if checksum(&ids) != *sum {
                wrong.push(format!("{files}: {written:?} is {ids:?}"));
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() > 30);
}
