//! What each token of a vocabulary writes, in bytes: the form in which stop strings are looked for across the
//! borders of tokens, since a character may lie in several of them. The rules are those of transformers'
//! `StopStringCriteria`, so that outputs end where they end there.

use std::collections::HashMap;

use serde_json::Value;
use tokenizers::{Decoder, Tokenizer};

/// A text that stands before a token while it is decoded alone: decoders treat the first token of a text otherwise.
const TEXT_BEFORE: &str = "abcdef";

/// Ids of a vocabulary; the largest ones have less than a million tokens.
const IDS_MAX: usize = 1 << 24;

/// The bytes of each token, by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenBytes(Vec<Option<Box<[u8]>>>);

/// How the names of tokens stand for bytes that need not be whole characters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ByteNames {
    /// Each character of a name is a byte, as in GPT-2.
    Level,
    /// A token named `<0x0A>` is that byte, as in Llama 2.
    Fallback,
    /// There are none.
    None,
}

impl TokenBytes {
    /// The bytes of all tokens of a tokenizer, special ones included: they write their names.
    ///
    /// # Errors
    /// If the tokenizer refuses one of them, or an id is far beyond those of any vocabulary.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Self, String> {
        let failed = |error: tokenizers::Error| error.to_string();
        let names = byte_names(tokenizer);
        let characters = characters();
        let before = tokenizer.encode_fast(TEXT_BEFORE, false).map_err(failed)?;
        let before: Vec<String> =
            before.get_ids().iter().filter_map(|id| tokenizer.id_to_token(*id)).collect();
        let alone = decoded(tokenizer, before.clone()).map_err(failed)?;
        let vocabulary = tokenizer.get_vocab(true);
        let ids = vocabulary.values().max().map_or(0, |id| *id as usize + 1);
        if ids > IDS_MAX {
            return Err(format!("a token has the id {}, and ids below {IDS_MAX} are read", ids - 1));
        }
        let mut bytes = vec![None; ids];
        for (name, id) in vocabulary {
            let known = match names {
                ByteNames::Level => {
                    name.chars().map(|character| characters.get(&character).copied()).collect()
                }
                ByteNames::Fallback => named_byte(&name).map(|byte| vec![byte]),
                ByteNames::None => None,
            };
            let written = match known {
                Some(written) => written,
                None => {
                    let tokens = before.iter().cloned().chain([name.clone()]).collect();
                    let after = decoded(tokenizer, tokens).map_err(failed)?;
                    // A decoder that changes the text before leaves the name, which is most of what it writes.
                    after.strip_prefix(&alone).unwrap_or(&name).as_bytes().to_vec()
                }
            };
            bytes[id as usize] = Some(written.into_boxed_slice());
        }
        Ok(Self(bytes))
    }

    /// What a token writes; `None` for an id that the tokenizer does not know.
    pub(crate) fn of(&self, id: u32) -> Option<&[u8]> {
        self.0.get(id as usize)?.as_deref()
    }

    /// The bytes of every id, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<&[u8]>> {
        self.0.iter().map(Option::as_deref)
    }
}

/// Without a decoder tokens are words, as `Tokenizer::decode` has it.
fn decoded(tokenizer: &Tokenizer, tokens: Vec<String>) -> Result<String, tokenizers::Error> {
    match tokenizer.get_decoder() {
        Some(decoder) => decoder.decode(tokens),
        None => Ok(tokens.join(" ")),
    }
}

fn byte_names(tokenizer: &Tokenizer) -> ByteNames {
    let decoder = tokenizer.get_decoder().and_then(|decoder| serde_json::to_value(decoder).ok());
    let has = |kind: &str| decoder.as_ref().is_some_and(|decoder| has_type(decoder, kind));
    // A decoder with both has names like `<0x0A>`.
    match (has("ByteFallback"), has("ByteLevel")) {
        (true, _) => ByteNames::Fallback,
        (false, true) => ByteNames::Level,
        (false, false) => ByteNames::None,
    }
}

/// Whether a decoder, or one inside of it, is of this type.
fn has_type(decoder: &Value, kind: &str) -> bool {
    match decoder {
        Value::Object(fields) => {
            fields.get("type").is_some_and(|name| name == kind)
                || fields.values().any(|part| has_type(part, kind))
        }
        Value::Array(parts) => parts.iter().any(|part| has_type(part, kind)),
        _ => false,
    }
}

fn named_byte(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    let hexadecimal = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    hexadecimal.then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The byte that each character of a name in a byte-level vocabulary stands for (`bytes_to_unicode` of GPT-2): a byte
/// that can be printed is itself, and the others are counted from U+0100.
fn characters() -> HashMap<char, u8> {
    let printed = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = '\u{100}'..;
    let character = |byte: u8| match printed(byte) {
        true => char::from(byte),
        false => others.next().expect("there are far more characters"),
    };
    (0..=u8::MAX).map(character).zip(0..=u8::MAX).collect()
}
