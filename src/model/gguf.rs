//! The text side of a GGUF file: the tokenizer, the chat templates and the ends of output that stand in its keys, as the
//! files of a Hugging Face directory.
//!
//! Two programs read such files and do not agree in everything: where transformers and llama.cpp differ, the caller says
//! who is followed, and a note says what the difference is.

mod pre_tokenizers;
mod vocabulary;
mod byte_level;
mod pieces;
pub mod keys;
#[cfg(test)]
mod tests;

use anyhow::{Result, bail};
use kernels::Metadata;
use serde_json::{Map, Value, json};

use self::vocabulary::Vocabulary;

/// Whose reading of a file is followed where the two differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// That of transformers' `gguf_file`.
    Transformers,
    /// That of llama.cpp.
    LlamaCpp,
}

/// Files with their content, by their names in the directory.
#[derive(Debug)]
pub struct TextFiles {
    /// `tokenizer.json` and those beside it.
    pub files: Vec<(String, String)>,
    /// What a person should know about the file.
    pub notes: Vec<String>,
}

/// The model of a tokenizer as the file names it.
const MODEL: &str = "tokenizer.ggml.model";

/// Tokens that end a turn, as llama.cpp knows them by their text. One of them is taken as an end where the chat template
/// writes it.
const ENDS_OF_TURN: [&str; 6] =
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|end_of_text|>"];

/// Keys of sampling and their names in `generation_config.json`.
const SAMPLING: [(&str, &str); 5] = [
    ("general.sampling.temp", "temperature"),
    ("general.sampling.top_k", "top_k"),
    ("general.sampling.top_p", "top_p"),
    ("general.sampling.min_p", "min_p"),
    ("general.sampling.penalty_repeat", "repetition_penalty"),
];

/// Makes the files of a model whose embedding has so many rows.
///
/// # Errors
/// Names the file and the key that is missing, wrong or not read.
pub fn text_files(metadata: &Metadata, rows: usize, reading: Reading) -> Result<TextFiles> {
    let vocabulary = Vocabulary::read(metadata, rows)?;
    let mut notes = Vec::new();
    let tokenizer = match metadata.required(MODEL, metadata.text(MODEL)?)? {
        "gpt2" => byte_level::tokenizer(&vocabulary, reading, &mut notes)?,
        "llama" => pieces::tokenizer(&vocabulary, reading, &mut notes)?,
        other => {
            return Err(metadata
                .wrong(
                    MODEL,
                    format!("is {other:?}; read are gpt2 (byte-level BPE) and llama (SentencePiece)"),
                )
                .into());
        }
    };
    let templates = templates(metadata)?;
    let generation = generation_config(&vocabulary, templates.first().map(|(_, text)| text.as_str()))?;
    let mut files = vec![
        ("tokenizer.json".to_owned(), tokenizer.to_string()),
        ("tokenizer_config.json".to_owned(), pretty(&tokenizer_config(&vocabulary, &tokenizer)?)),
        ("generation_config.json".to_owned(), pretty(&generation)),
    ];
    files.extend(templates);
    Ok(TextFiles { files, notes })
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// The default chat template first, where there is one, then those with a name.
fn templates(metadata: &Metadata) -> Result<Vec<(String, String)>> {
    const KEY: &str = "tokenizer.chat_template";
    let mut found = Vec::new();
    if let Some(text) = metadata.text(KEY)? {
        found.push(("chat_template.jinja".to_owned(), text.to_owned()));
    }
    for (key, _) in metadata.entries() {
        let Some(name) = key.strip_prefix(KEY).and_then(|rest| rest.strip_prefix('.')) else { continue };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            bail!(metadata.wrong(key, "has a name that is no name of a file"));
        }
        let text = metadata.required(key, metadata.text(key)?)?;
        found.push((format!("additional_chat_templates/{name}.jinja"), text.to_owned()));
    }
    Ok(found)
}

fn tokenizer_config(vocabulary: &Vocabulary<'_>, tokenizer: &Value) -> Result<Value> {
    // A class with rules of its own would take the place of what the file says.
    let mut config = Map::from_iter([("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"))]);
    for (name, id) in vocabulary.named {
        if let Some(id) = id {
            config.insert(name.to_owned(), json!(vocabulary.spelled(tokenizer, id)?));
        }
    }
    config.insert("add_bos_token".to_owned(), json!(vocabulary.adds("bos_token", tokenizer)));
    config.insert("add_eos_token".to_owned(), json!(vocabulary.adds("eos_token", tokenizer)));
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    Ok(Value::Object(config))
}

fn generation_config(vocabulary: &Vocabulary<'_>, template: Option<&str>) -> Result<Value> {
    let metadata = vocabulary.metadata;
    let mut ends: Vec<u32> = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ends.extend(vocabulary.id(&format!("tokenizer.ggml.{name}_token_id"))?);
    }
    for text in ENDS_OF_TURN.iter().filter(|text| template.is_some_and(|template| template.contains(**text)))
    {
        ends.extend(vocabulary.control(text));
    }
    let mut seen = std::collections::HashSet::new();
    ends.retain(|id| seen.insert(*id));
    let mut config = Map::new();
    for (name, id) in vocabulary.named.iter().filter(|(name, _)| ["bos_token", "pad_token"].contains(name)) {
        config.extend(id.map(|id| (format!("{name}_id"), json!(id))));
    }
    match ends.as_slice() {
        [] => {}
        [one] => drop(config.insert("eos_token_id".to_owned(), json!(one))),
        several => drop(config.insert("eos_token_id".to_owned(), json!(several))),
    }
    for (key, name) in SAMPLING {
        if let Some(value) = metadata.number(key)? {
            let value =
                if value.fract() == 0.0 && name == "top_k" { json!(value as i64) } else { json!(value) };
            config.insert(name.to_owned(), value);
            config.insert("do_sample".to_owned(), json!(true));
        }
    }
    Ok(Value::Object(config))
}
