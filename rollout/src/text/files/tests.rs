//! What the files beside the tokenizer say, each against what transformers makes of the same files.

use serde_json::{Value, json};

use crate::testing::TextFiles;

/// The tokenizer of the tests with more keys.
fn files(changes: &Value) -> TextFiles {
    let files = TextFiles::new();
    let path = files.path().join("tokenizer.json");
    let mut tokenizer: Value =
        serde_json::from_slice(&std::fs::read(path).expect("it is there")).expect("JSON");
    for (key, value) in changes.as_object().expect("an object") {
        tokenizer[key] = value.clone();
    }
    files.write("tokenizer.json", &tokenizer.to_string());
    files
}

#[test]
fn a_length_limit_and_padding_of_a_former_use_are_not_obeyed() {
    let truncation = json!({"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"});
    let padding = json!({"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 1,
        "pad_type_id": 0, "pad_token": "<unk>"});
    let text = files(&json!({"truncation": truncation, "padding": padding})).load().expect("a tokenizer");
    let notes = text.notes().join("\n");
    for note in ["tokenizer.json: `truncation` to 2 tokens is not obeyed", "tokenizer.json: `padding` is not"]
    {
        assert!(notes.contains(note), "{notes}");
    }
    assert_eq!(text.encode("abcde").expect("five characters"), [2, 3, 4, 5, 6]);
    assert_eq!(text.encode_fragment("a").expect("one character"), [2]);
}

#[test]
fn special_tokens_come_from_the_older_file_too() {
    let files = TextFiles::new();
    files.write("tokenizer_config.json", "{}");
    files.write("special_tokens_map.json", r#"{"eos_token": {"content": "<eos>"}, "pad_token": "<unk>"}"#);
    files.write("chat_template.jinja", "{{ eos_token }}{{ pad_token }}{{ bos_token is defined }}");
    let text = files.load().expect("an end of output");
    assert_eq!(text.eos_ids(), &[0]);
    let variables = serde_json::Map::new();
    let messages = [json!({"role": "user", "content": ""})];
    let chat = crate::text::Chat {
        messages: &messages,
        tools: None,
        variables: &variables,
        ending: crate::text::ChatEnding::GenerationPrompt,
    };
    assert_eq!(text.render_chat(&chat).expect("constant"), "<eos><unk>False");
    // Where the config has the newer key, transformers does not read the older file.
    files.write("tokenizer_config.json", r#"{"added_tokens_decoder": {}}"#);
    assert!(
        files.load().expect_err("no end of output").to_string().contains("names a token that ends an output")
    );
}

#[test]
fn tokens_that_only_the_config_has_are_one_token() {
    let files = TextFiles::new();
    let decoder = |id: &str| {
        json!({"eos_token": "<eos>", "additional_special_tokens": ["ab"],
            "added_tokens_decoder": {id: {"content": "<note>", "special": true}}})
    };
    files.write("tokenizer_config.json", &decoder("7").to_string());
    let text = files.load().expect("id 7 is free");
    assert_eq!(text.encode("a<note>b").expect("known"), [2, 7, 3]);
    assert_eq!(text.decode(&[2, 7, 3]).expect("known"), "ab", "a special token is no text");
    files.write("tokenizer_config.json", &decoder("9").to_string());
    let text = files.load().expect("a gap before 9");
    assert_eq!(text.encode("a<note>b").expect("known"), [2, 7, 3]);
    assert!(text.notes()[0].contains("\"<note>\" is listed with id 9 and gets id 7"), "{:?}", text.notes());
}

// The ids are those of transformers 5.24.
#[test]
fn special_tokens_that_only_the_config_has_get_ids() {
    let files = TextFiles::new();
    let config = json!({"eos_token": "<eos>", "image_token": "<image>", "pad_token": "<pad>",
        "extra_special_tokens": ["<x>", "a"], "additional_special_tokens": ["<not read>"]});
    files.write("tokenizer_config.json", &config.to_string());
    let text = files.load().expect("a tokenizer");
    assert_eq!(text.encode("<pad>a<image><x>").expect("known"), [7, 2, 8, 9]);
    assert!(text.notes()[0].contains(": 3 (\"<pad>\" is 7, \"<image>\" is 8, \"<x>\" is 9)"));
    files.write("tokenizer_config.json", r#"{"eos_token": "<eos>", "additional_special_tokens": ["<y>"]}"#);
    assert_eq!(files.load().expect("a tokenizer").encode("<y>").expect("known"), [7]);
}

#[test]
fn a_beginning_below_zero_is_said() {
    let files = TextFiles::new();
    files.write("config.json", r#"{"bos_token_id": -1}"#);
    let notes = files.load().expect("a tokenizer").notes().join("\n");
    assert!(notes.contains("config.json: bos_token_id -1"), "{notes}");
}

#[test]
fn templates_that_cannot_be_read_are_named() {
    let files = TextFiles::new();
    let named =
        json!({"eos_token": "<eos>", "chat_template": [{"name": "default", "template": ""}, {"name": "x"}]});
    files.write("tokenizer_config.json", &named.to_string());
    let error = files.load().expect_err("no template").to_string();
    assert!(
        error.ends_with("tokenizer_config.json: chat_template: item 2 has no `name` and `template`"),
        "{error}"
    );
    files.write("tokenizer_config.json", r#"{"eos_token": "<eos>"}"#);
    let folder = files.path().join("additional_chat_templates");
    std::fs::create_dir(&folder).expect("the directory is ours");
    std::fs::create_dir(folder.join("rag.jinja")).expect("the directory is ours");
    assert!(files.load().expect_err("a folder").to_string().contains("rag.jinja: "));
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        std::fs::remove_dir(folder.join("rag.jinja")).expect("the directory is ours");
        let name = std::ffi::OsStr::from_bytes(b"t\xff.jinja");
        std::fs::write(folder.join(name), "").expect("the directory is ours");
        assert!(files.load().expect_err("0xff").to_string().contains("is not UTF-8: rename the file"));
    }
}

#[test]
fn templates_by_name_are_chosen_as_transformers_does() {
    let files = TextFiles::new();
    files.write("chat_template.jinja", "plain");
    std::fs::create_dir(files.path().join("additional_chat_templates")).expect("the directory is ours");
    files.write("additional_chat_templates/tool_use.jinja", "tools");
    let text = files.load().expect("two templates");
    let (messages, none) = ([json!({"role": "user"})], serde_json::Map::new());
    let tools = json!([]);
    let render = |tools| {
        let ending = crate::text::ChatEnding::GenerationPrompt;
        text.render_chat(&crate::text::Chat { messages: &messages, tools, variables: &none, ending })
    };
    assert_eq!(render(None).expect("default"), "plain");
    assert_eq!(render(Some(&tools)).expect("tool_use"), "tools");
}
