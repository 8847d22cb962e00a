//! No chat template makes the renderer panic, overflow its stack or go on without end. It is read as the file of a model,
//! beside the smallest tokenizer that there is, so that all that is done to a template is done here.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rollout::{Chat, ChatEnding, Text};
use serde_json::{Map, json};

const TOKENIZER: &str = r#"{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;

/// A directory of this process.
static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("longhaul-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    for (name, text) in [("tokenizer.json", TOKENIZER), ("tokenizer_config.json", r#"{"eos_token": "a"}"#)] {
        std::fs::write(directory.join(name), text).expect("a file");
    }
    directory
});

fuzz_target!(|template: &str| {
    std::fs::write(DIRECTORY.join("chat_template.jinja"), template).expect("a file");
    let text = Text::load(&DIRECTORY).expect("the tokenizer is read");
    let messages = [
        json!({"role": "system", "content": "Add."}),
        json!({"role": "user", "content": "1+1="}),
        json!({"role": "assistant", "content": "2", "tool_calls": [{"name": "f", "arguments": {"a": [1, null]}}]}),
    ];
    let (tools, variables) = (json!([{"type": "function", "function": {"name": "f"}}]), Map::new());
    for ending in [ChatEnding::GenerationPrompt, ChatEnding::Continued] {
        let chat = Chat { messages: &messages, tools: Some(&tools), variables: &variables, ending };
        let _ = text.render_chat(&chat);
    }
});
