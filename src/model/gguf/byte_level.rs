//! Byte-level BPE, the tokenizer model `gpt2`: tokens are written in an alphabet that has a letter for every byte.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::Reading;
use super::pre_tokenizers::{PRE_TOKENIZERS, PreTokenizer};
use super::vocabulary::{Parts, Vocabulary};

/// GPT-2's letter for a byte: itself where it can be seen, else one from 256 on.
pub(super) fn letters() -> [char; 256] {
    let is_visible = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut next = 256;
    std::array::from_fn(|byte| {
        if is_visible(byte as u8) {
            return char::from(byte as u8);
        }
        next += 1;
        char::from_u32(next - 1).expect("the letters lie below the surrogates")
    })
}

/// The `tokenizer.json`.
pub(super) fn tokenizer(
    vocabulary: &Vocabulary<'_>,
    reading: Reading,
    notes: &mut Vec<String>,
) -> Result<Value> {
    let pre = pre_tokenizer(vocabulary, reading, notes)?;
    let (ids, texts) = spelled(vocabulary);
    let merges = merges(vocabulary, &ids)?;
    let added: BTreeMap<usize, &str> = texts
        .iter()
        .enumerate()
        .filter(|(id, _)| vocabulary.is_added(*id))
        .map(|(id, text)| (id, text.as_str()))
        .collect();
    let follows_llama_cpp = reading == Reading::LlamaCpp;
    let parts = Parts {
        added: vocabulary.added(&added),
        normalizer: normalizer(vocabulary)?,
        pre_tokenizer: pre.split(reading).to_json(),
        post_processor: vocabulary.around(follows_llama_cpp && pre.adds_bos)?,
        decoder: json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": follows_llama_cpp && pre.whole_words_first,
            "vocab": ids.into_iter().map(|(text, id)| (text, json!(id))).collect::<Map<_, _>>(), "merges": merges,
        }),
    };
    Ok(parts.into_json())
}

/// Qwen2's class in transformers composes characters, whatever the file of a directory says, and Qwen2 was trained so.
fn normalizer(vocabulary: &Vocabulary<'_>) -> Result<Value> {
    let architecture = vocabulary.metadata.text("general.architecture")?;
    Ok(if architecture == Some("qwen2") { json!({"type": "NFC"}) } else { Value::Null })
}

fn pre_tokenizer(
    vocabulary: &Vocabulary<'_>,
    reading: Reading,
    notes: &mut Vec<String>,
) -> Result<&'static PreTokenizer> {
    const KEY: &str = "tokenizer.ggml.pre";
    let metadata = vocabulary.metadata;
    let name = metadata.text(KEY)?.unwrap_or("default");
    let Some(row) = PreTokenizer::of(name) else {
        let read: Vec<&str> = PRE_TOKENIZERS.iter().flat_map(|row| row.names).copied().collect();
        bail!(metadata.wrong(KEY, format!("is {name:?}; read are {}", read.join(", "))));
    };
    if row.differs() {
        let (followed, other) = match reading {
            Reading::Transformers => ("transformers, which does not cut digits apart", "llama.cpp"),
            Reading::LlamaCpp => ("llama.cpp, which cuts digits apart", "transformers"),
        };
        notes.push(format!(
            "{}: `{KEY}` is {name:?}; texts are cut as by {followed}; {other} does it otherwise, so that ids can \
             differ where spaces stand before a digit",
            metadata.path().display()
        ));
    }
    Ok(row)
}

/// The tokens with their ids and, by id, as they stand in the vocabulary: in the alphabet of bytes, but for those that are
/// matched as they are.
fn spelled(vocabulary: &Vocabulary<'_>) -> (Vec<(String, usize)>, Vec<String>) {
    let letters = letters();
    let known = HashSet::from(letters);
    let spell = |id: usize| {
        let token = &vocabulary.tokens[id];
        if vocabulary.is_added(id) || token.chars().all(|c| known.contains(&c)) {
            token.clone()
        } else {
            token.bytes().map(|byte| letters[usize::from(byte)]).collect()
        }
    };
    let texts: Vec<String> = (0..vocabulary.tokens.len()).map(spell).collect();
    let ids = texts.iter().cloned().enumerate().map(|(id, text)| (text, id)).collect();
    (ids, texts)
}

fn merges(vocabulary: &Vocabulary<'_>, ids: &[(String, usize)]) -> Result<Vec<Value>> {
    const KEY: &str = "tokenizer.ggml.merges";
    let metadata = vocabulary.metadata;
    let written = metadata.required(KEY, metadata.texts(KEY)?)?;
    let known: HashMap<&str, usize> = ids.iter().map(|(text, id)| (text.as_str(), *id)).collect();
    let mut merges = Vec::with_capacity(written.len());
    for (number, merge) in written.iter().enumerate() {
        let wrong = |reason: &str| metadata.wrong(KEY, format!("has entry {number}, {merge:?}, {reason}"));
        let Some((left, right)) = merge.split_once(' ').filter(|(_, right)| !right.contains(' ')) else {
            bail!(wrong("which is no pair of tokens"));
        };
        if ![left, right, format!("{left}{right}").as_str()].iter().all(|part| known.contains_key(part)) {
            bail!(wrong("whose tokens or result are not in the vocabulary"));
        }
        merges.push(json!([left, right]));
    }
    Ok(merges)
}
