//! The tokens of a GGUF file with their kinds, and what both kinds of tokenizers have in common.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use kernels::Metadata;
use serde_json::{Value, json};

/// Bytes of the longest token that is read. Those of real vocabularies have some hundreds; the search for the parts of a
/// token takes time by the square of it.
const TOKEN_BYTES_MAX: usize = 2048;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The kinds by their numbers, from 1 on.
const KINDS: [Kind; 6] =
    [Kind::Normal, Kind::Unknown, Kind::Control, Kind::UserDefined, Kind::Unused, Kind::Byte];

impl Kind {
    /// Its number in files.
    pub(super) fn number(self) -> i64 {
        KINDS.iter().zip(1..).find(|(kind, _)| **kind == self).map_or(1, |(_, number)| number)
    }
}

/// The keys of tokens that have a name in `tokenizer_config.json`.
const NAMED: [(&str, &str); 4] = [
    ("bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos_token", "tokenizer.ggml.eos_token_id"),
    ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ("pad_token", "tokenizer.ggml.padding_token_id"),
];

/// The vocabulary of a file.
pub(super) struct Vocabulary<'a> {
    pub(super) metadata: &'a Metadata,
    /// The tokens in the order of their ids.
    pub(super) tokens: &'a [String],
    /// What each of them is for.
    pub(super) kinds: Vec<Kind>,
    /// Begin, end, unknown and padding, where the file has them.
    pub(super) named: [(&'static str, Option<u32>); 4],
}

impl<'a> Vocabulary<'a> {
    /// Reads the tokens of a model with so many rows.
    pub(super) fn read(metadata: &'a Metadata, rows: usize) -> Result<Self> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        const KINDS_KEY: &str = "tokenizer.ggml.token_type";
        let tokens = metadata.required(TOKENS, metadata.texts(TOKENS)?)?;
        if tokens.len() > rows {
            let count = tokens.len();
            bail!(
                metadata.wrong(TOKENS, format!("has {count} tokens; the model's embedding has {rows} rows"))
            );
        }
        if let Some(id) = tokens.iter().position(|token| token.len() > TOKEN_BYTES_MAX) {
            let bytes = tokens[id].len();
            bail!(metadata.wrong(
                TOKENS,
                format!("has token {id} of {bytes} bytes; at most {TOKEN_BYTES_MAX} are read")
            ));
        }
        let kinds = match metadata.integers(KINDS_KEY)? {
            None => vec![Kind::Normal; tokens.len()],
            Some(numbers) if numbers.len() != tokens.len() => {
                let (kinds, count) = (numbers.len(), tokens.len());
                bail!(metadata.wrong(KINDS_KEY, format!("has {kinds} entries for {count} tokens")));
            }
            Some(numbers) => {
                numbers.iter().map(|number| kind(metadata, KINDS_KEY, *number)).collect::<Result<_>>()?
            }
        };
        let mut vocabulary = Self { metadata, tokens, kinds, named: NAMED.map(|(name, _)| (name, None)) };
        for (place, (_, key)) in NAMED.iter().enumerate() {
            vocabulary.named[place].1 = vocabulary.id(key)?;
        }
        Ok(vocabulary)
    }

    /// The id under a key, which must be one of a token.
    pub(super) fn id(&self, key: &str) -> Result<Option<u32>> {
        let id = self.metadata.id(key)?;
        match id.filter(|id| *id as usize >= self.tokens.len()) {
            Some(id) => {
                bail!(self.metadata.wrong(key, format!("is {id}; there are {} tokens", self.tokens.len())))
            }
            None => Ok(id),
        }
    }

    /// The id of a control token of this text.
    pub(super) fn control(&self, text: &str) -> Option<u32> {
        let place =
            (0..self.tokens.len()).find(|id| self.kinds[*id] == Kind::Control && self.tokens[*id] == text)?;
        u32::try_from(place).ok()
    }

    /// Whether a token is matched in a text before the text is split: control tokens, those that a user has added, and
    /// those with a name.
    pub(super) fn is_added(&self, id: usize) -> bool {
        matches!(self.kinds[id], Kind::Control | Kind::UserDefined) || self.is_named(id)
    }

    fn is_named(&self, id: usize) -> bool {
        self.named.iter().any(|(_, named)| named.is_some_and(|named| named as usize == id))
    }

    /// The added tokens of a `tokenizer.json` that have these texts in its vocabulary.
    pub(super) fn added(&self, texts: &BTreeMap<usize, &str>) -> Value {
        let one = |id: usize, text: &str| {
            json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": self.kinds[id] == Kind::Control || self.is_named(id),
            })
        };
        texts.iter().map(|(id, text)| one(*id, text)).collect()
    }

    /// What is put around a text: the begin and the end, where the file says so.
    pub(super) fn around(&self, adds_bos_by_default: bool) -> Result<Value> {
        let mut parts = [Vec::new(), Vec::new()];
        let mut special = serde_json::Map::new();
        let wanted = [("bos", adds_bos_by_default), ("eos", false)];
        for (place, (name, by_default)) in wanted.into_iter().enumerate() {
            let key = format!("tokenizer.ggml.add_{name}_token");
            if !self.metadata.flag(&key)?.unwrap_or(by_default && self.named[place].1.is_some()) {
                continue;
            }
            let Some(id) = self.named[place].1 else {
                bail!(self.metadata.wrong(&key, "is true, but there is no such token"));
            };
            let token = &self.tokens[id as usize];
            parts[place].push(token.clone());
            special.insert(token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
        }
        let sequence = |name: &str, of: u32| {
            let token = |token: &String| json!({"SpecialToken": {"id": token, "type_id": of}});
            let [before, behind] = &parts;
            let text = json!({"Sequence": {"id": name, "type_id": of}});
            before.iter().map(token).chain([text]).chain(behind.iter().map(token)).collect::<Vec<_>>()
        };
        let pair: Vec<Value> = sequence("A", 0).into_iter().chain(sequence("B", 1)).collect();
        Ok(json!({
            "type": "TemplateProcessing", "single": sequence("A", 0), "pair": pair, "special_tokens": special,
        }))
    }

    /// Whether the post-processor of a `tokenizer.json` puts a named token around a text.
    pub(super) fn adds(&self, name: &str, tokenizer: &Value) -> bool {
        let id = self.named.iter().find(|(known, _)| *known == name).and_then(|(_, id)| *id);
        let single = tokenizer["post_processor"]["single"].as_array();
        let place = if name == "bos_token" {
            single.and_then(|parts| parts.first())
        } else {
            single.and_then(|parts| parts.last())
        };
        let token = place.and_then(|part| part["SpecialToken"]["id"].as_str());
        token.zip(id).is_some_and(|(token, id)| self.tokens[id as usize] == token)
    }

    /// The text of a token in the vocabulary of a `tokenizer.json`.
    pub(super) fn spelled(&self, tokenizer: &Value, id: u32) -> Result<String> {
        let added = tokenizer["added_tokens"].as_array().into_iter().flatten();
        let token = added.filter(|token| token["id"] == id).find_map(|token| token["content"].as_str());
        Ok(token.unwrap_or(&self.tokens[id as usize]).to_owned())
    }
}

fn kind(metadata: &Metadata, key: &str, number: i64) -> Result<Kind> {
    let place = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
    match place.and_then(|place| KINDS.get(place)) {
        Some(kind) => Ok(*kind),
        // Files of early converters have 0 where nothing is said.
        None if number == 0 => Ok(Kind::Normal),
        None => bail!(metadata.wrong(key, format!("has {number}; kinds are 1 to {}", KINDS.len()))),
    }
}

/// The parts of a `tokenizer.json` around its model.
pub(super) struct Parts {
    pub(super) added: Value,
    pub(super) normalizer: Value,
    pub(super) pre_tokenizer: Value,
    pub(super) post_processor: Value,
    pub(super) decoder: Value,
    pub(super) model: Value,
}

impl Parts {
    /// The whole file.
    pub(super) fn into_json(self) -> Value {
        let Self { added, normalizer, pre_tokenizer, post_processor, decoder, model } = self;
        let mut whole = serde_json::Map::new();
        for (name, part) in [
            ("version", json!("1.0")),
            ("truncation", Value::Null),
            ("padding", Value::Null),
            ("added_tokens", added),
            ("normalizer", normalizer),
            ("pre_tokenizer", pre_tokenizer),
            ("post_processor", post_processor),
            ("decoder", decoder),
            ("model", model),
        ] {
            whole.insert(name.to_owned(), part);
        }
        Value::Object(whole)
    }
}
