//! Files of tokenizers from the keys of a GGUF file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kernels::MetaValue;

use super::*;

fn texts(texts: &[&str]) -> MetaValue {
    MetaValue::Texts(texts.iter().map(|text| (*text).to_owned()).collect())
}

fn text(text: &str) -> MetaValue {
    MetaValue::Text(text.to_owned())
}

/// Keys of a small byte-level tokenizer, with changes; `None` takes a key out.
fn byte_level(changes: &[(&str, Option<MetaValue>)]) -> Metadata {
    let mut entries: BTreeMap<String, MetaValue> = [
        ("general.architecture", text("llama")),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        (
            "tokenizer.ggml.tokens",
            texts(&["<|im_start|>", "<|im_end|>", "a", "b", "ab", "<think>", "\u{120}", " x"]),
        ),
        ("tokenizer.ggml.token_type", MetaValue::Integers(vec![3, 3, 1, 1, 1, 4, 1, 1])),
        ("tokenizer.ggml.merges", texts(&["a b"])),
        ("tokenizer.ggml.bos_token_id", MetaValue::Integer(0)),
        ("tokenizer.ggml.eos_token_id", MetaValue::Integer(1)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    for (key, value) in changes {
        match value {
            Some(value) => entries.insert((*key).to_owned(), value.clone()),
            None => entries.remove(*key),
        };
    }
    Metadata::new(PathBuf::from("a.gguf"), entries)
}

fn made(metadata: &Metadata, reading: Reading) -> BTreeMap<String, Value> {
    let files = text_files(metadata, 100, reading).unwrap().files;
    let json = |text: String| serde_json::from_str(&text).unwrap_or(Value::String(text));
    files.into_iter().map(|(name, text)| (name, json(text))).collect()
}

#[test]
fn added_tokens_are_special_where_they_are_control_tokens() {
    let files = made(&byte_level(&[]), Reading::Transformers);
    let added = files["tokenizer.json"]["added_tokens"].as_array().unwrap();
    let shown: Vec<(&Value, &Value, &Value)> =
        added.iter().map(|token| (&token["id"], &token["content"], &token["special"])).collect();
    assert_eq!(
        shown,
        [
            (&json!(0), &json!("<|im_start|>"), &json!(true)),
            (&json!(1), &json!("<|im_end|>"), &json!(true)),
            (&json!(5), &json!("<think>"), &json!(false)),
        ]
    );
    // A token that is not written in the alphabet of bytes is, once it is read.
    assert_eq!(files["tokenizer.json"]["model"]["vocab"]["\u{120}x"], 7);
    assert_eq!(files["tokenizer_config.json"]["eos_token"], "<|im_end|>");
    assert_eq!(files["generation_config.json"], json!({"bos_token_id": 0, "eos_token_id": 1}));
}

#[test]
fn the_begin_is_added_where_the_file_or_the_program_says_so() {
    let flag = |flag| ("tokenizer.ggml.add_bos_token", Some(MetaValue::Flag(flag)));
    let llama3 = ("tokenizer.ggml.pre", Some(text("llama-bpe")));
    for (changes, reading, expected) in [
        (vec![], Reading::LlamaCpp, false),
        (vec![flag(true)], Reading::Transformers, true),
        (vec![llama3.clone()], Reading::Transformers, false),
        (vec![llama3.clone()], Reading::LlamaCpp, true),
        (vec![llama3, flag(false)], Reading::LlamaCpp, false),
    ] {
        let files = made(&byte_level(&changes), reading);
        assert_eq!(files["tokenizer_config.json"]["add_bos_token"], expected, "{changes:?} {reading:?}");
        let first = &files["tokenizer.json"]["post_processor"]["single"][0];
        assert_eq!(first["SpecialToken"]["id"].is_string(), expected, "{first}");
    }
}

#[test]
fn programs_that_differ_are_told_of() {
    let metadata = byte_level(&[("tokenizer.ggml.pre", Some(text("smollm")))]);
    for (reading, kind) in [(Reading::Transformers, "ByteLevel"), (Reading::LlamaCpp, "Sequence")] {
        let TextFiles { files, notes } = text_files(&metadata, 100, reading).unwrap();
        let tokenizer: Value = serde_json::from_str(&files[0].1).unwrap();
        assert_eq!(tokenizer["pre_tokenizer"]["type"], kind);
        assert!(notes.len() == 1 && notes[0].contains("`tokenizer.ggml.pre` is \"smollm\""), "{notes:?}");
    }
    assert!(text_files(&byte_level(&[]), 100, Reading::Transformers).unwrap().notes.is_empty());
}

#[test]
fn templates_and_ends_of_turns_come_along() {
    let template = "{{ messages[0].content }}<|eot_id|>";
    let metadata = byte_level(&[
        ("tokenizer.chat_template", Some(text(template))),
        ("tokenizer.chat_template.tool_use", Some(text("tools"))),
        (
            "tokenizer.ggml.tokens",
            Some(texts(&["<|bos|>", "<|eos|>", "a", "b", "ab", "<|eot_id|>", "c", "d"])),
        ),
        ("tokenizer.ggml.token_type", Some(MetaValue::Integers(vec![3, 3, 1, 1, 1, 3, 1, 1]))),
        ("tokenizer.ggml.padding_token_id", Some(MetaValue::Integer(1))),
        ("general.sampling.temp", Some(MetaValue::Float(0.6))),
        ("general.sampling.top_k", Some(MetaValue::Integer(20))),
    ]);
    let files = made(&metadata, Reading::Transformers);
    assert_eq!(files["chat_template.jinja"], template);
    assert_eq!(files["additional_chat_templates/tool_use.jinja"], "tools");
    assert_eq!(
        files["generation_config.json"],
        json!({"bos_token_id": 0, "eos_token_id": [1, 5], "pad_token_id": 1, "temperature": 0.6, "top_k": 20,
               "do_sample": true})
    );
}

#[test]
fn what_is_wrong_with_a_vocabulary_is_named() {
    let refused = |key: &'static str, value: Option<MetaValue>| {
        let error = text_files(&byte_level(&[(key, value)]), 8, Reading::Transformers).unwrap_err();
        let error = error.to_string();
        assert!(error.starts_with("a.gguf: ") && error.contains(&format!("`{key}`")), "{error}");
        error
    };
    refused("tokenizer.ggml.tokens", None);
    refused("tokenizer.ggml.tokens", Some(texts(&["a"; 9])));
    refused("tokenizer.ggml.tokens", Some(texts(&[&"a".repeat(5000)])));
    refused("tokenizer.ggml.token_type", Some(MetaValue::Integers(vec![1; 7])));
    refused("tokenizer.ggml.token_type", Some(MetaValue::Integers(vec![9; 8])));
    refused("tokenizer.ggml.merges", None);
    assert!(refused("tokenizer.ggml.merges", Some(texts(&["a b", "ab"]))).contains("entry 1"));
    assert!(refused("tokenizer.ggml.merges", Some(texts(&["b a"]))).contains("not in the vocabulary"));
    refused("tokenizer.ggml.bos_token_id", Some(MetaValue::Integer(8)));
    refused("tokenizer.ggml.eos_token_id", Some(MetaValue::Integer(-1)));
    assert!(refused("tokenizer.ggml.pre", Some(text("chatglm-bpe"))).contains("read are gpt-2, default"));
    assert!(refused("tokenizer.ggml.model", Some(text("rwkv"))).contains("read are gpt2"));
    refused("tokenizer.chat_template", Some(MetaValue::Integer(1)));
    refused("tokenizer.chat_template./../x", Some(text("")));
}

#[test]
fn merges_of_pieces_are_the_best_scored_first_and_of_one_piece_the_longest_left_first() {
    let tokens = ["a", "b", "c", "ab", "bc", "abc"];
    let mut entries = BTreeMap::new();
    for (key, value) in [
        ("general.architecture", text("llama")),
        ("tokenizer.ggml.model", text("llama")),
        ("tokenizer.ggml.tokens", texts(&tokens)),
        ("tokenizer.ggml.scores", MetaValue::Floats(vec![-9.0, -9.0, -9.0, -3.0, -1.0, -2.0])),
    ] {
        entries.insert(key.to_owned(), value);
    }
    let files = made(&Metadata::new(PathBuf::from("a.gguf"), entries.clone()), Reading::Transformers);
    let merges = &files["tokenizer.json"]["model"]["merges"];
    assert_eq!(*merges, json!([["b", "c"], ["ab", "c"], ["a", "bc"], ["a", "b"]]));
    // Gemma's merges come in the order of the tokens, whatever the scores are.
    entries.insert("general.architecture".to_owned(), text("gemma3"));
    let files = made(&Metadata::new(PathBuf::from("a.gguf"), entries), Reading::Transformers);
    let merges = &files["tokenizer.json"]["model"]["merges"];
    assert_eq!(*merges, json!([["a", "b"], ["b", "c"], ["ab", "c"], ["a", "bc"]]));
}

#[test]
fn tokens_that_are_all_made_of_each_other_are_refused() {
    let texts: Vec<String> = (1..500).map(|length| "a".repeat(length)).collect();
    let scores = vec![0.0; texts.len()];
    assert_eq!(super::pieces::ordered_merges(&texts[..5], &scores).unwrap().len(), 1 + 2 + 3 + 4);
    let error = super::pieces::ordered_merges(&texts, &scores).err().unwrap();
    assert!(error.starts_with("are made of each other"), "{error}");
}

/// The tokenizer of a SentencePiece file with a run of spaces that a user has added.
fn pieces() -> BTreeMap<String, MetaValue> {
    let keys = [
        ("general.architecture", text("gemma3")),
        ("tokenizer.ggml.model", text("llama")),
        ("tokenizer.ggml.tokens", texts(&["<unk>", "<bos>", "\u{2581}", "a", "b", "ab", "  "])),
        ("tokenizer.ggml.token_type", MetaValue::Integers(vec![2, 3, 1, 1, 1, 1, 4])),
        ("tokenizer.ggml.scores", MetaValue::Floats(vec![-9.0, -9.0, -4.0, -3.0, -2.0, -1.0, -9.0])),
        ("tokenizer.ggml.bos_token_id", MetaValue::Integer(1)),
        ("tokenizer.ggml.unknown_token_id", MetaValue::Integer(0)),
        ("tokenizer.ggml.add_space_prefix", MetaValue::Flag(false)),
    ];
    keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[test]
fn spaces_are_what_the_followed_program_makes_of_them() {
    let read = |entries: &BTreeMap<String, MetaValue>, reading| {
        made(&Metadata::new(PathBuf::from("a.gguf"), entries.clone()), reading)["tokenizer.json"].clone()
    };
    let mut entries = pieces();
    let gemma = read(&entries, Reading::Transformers);
    assert_eq!(gemma["model"]["vocab"]["\u{2581}\u{2581}"], 6);
    assert_eq!(
        (&gemma["pre_tokenizer"]["type"], gemma["added_tokens"].as_array().unwrap().len()),
        (&json!("Split"), 2)
    );
    // llama.cpp looks for what a user has added in the text itself, and knows no other rule for Gemma.
    let gemma = read(&entries, Reading::LlamaCpp);
    assert_eq!(gemma["added_tokens"][2]["content"], "  ");
    assert_eq!((&gemma["pre_tokenizer"], &gemma["normalizer"]["type"]), (&Value::Null, &json!("Replace")));
    entries.insert("general.architecture".to_owned(), text("llama"));
    entries.insert("tokenizer.ggml.add_space_prefix".to_owned(), MetaValue::Flag(true));
    let llama = read(&entries, Reading::LlamaCpp);
    assert_eq!(llama["normalizer"]["normalizers"][0], json!({"type": "Prepend", "prepend": "\u{2581}"}));
    assert_eq!(read(&entries, Reading::Transformers)["pre_tokenizer"]["prepend_scheme"], "first");
}

#[test]
fn a_run_of_spaces_that_a_user_has_added_is_written_as_spaces() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = made(&Metadata::new(PathBuf::from("a.gguf"), pieces()), Reading::Transformers);
    // As Gemma's own files have it.
    let run = json!({"id": 6, "content": "\u{2581}\u{2581}", "normalized": true, "special": false});
    files.get_mut("tokenizer.json").unwrap()["added_tokens"].as_array_mut().unwrap().push(run);
    for (name, content) in &files {
        std::fs::write(dir.path().join(name), content.to_string()).unwrap();
    }
    let keys::TokenizerKeys { keys, notes } = keys::tokenizer_keys(dir.path(), 7).unwrap();
    let tokens = keys.iter().find(|(key, _)| key == "tokenizer.ggml.tokens").map(|(_, value)| value.clone());
    assert_eq!(tokens, Some(texts(&["<unk>", "<bos>", "\u{2581}", "a", "b", "ab", "  "])));
    assert!(notes.is_empty(), "{notes:?}");
}
