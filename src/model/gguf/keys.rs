//! The other way: the tokenizer of a Hugging Face directory as the keys of a GGUF file.
//!
//! A tokenizer that no GGUF file can say is refused by name: a file that cuts texts otherwise than the model was trained
//! with only looks like a bad model.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use kernels::MetaValue;
use serde_json::Value;

use super::pieces::{Merge, SPACE, ordered_merges};
use super::pre_tokenizers::name_of;
use super::vocabulary::Kind;

/// What a directory says, as far as it stands in a GGUF file.
pub struct TokenizerKeys {
    /// Keys and values.
    pub keys: Vec<(String, MetaValue)>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// Reads `tokenizer.json` and the files beside it, for a model whose embedding has so many rows.
///
/// # Errors
/// Names the file and what of it has no place in a GGUF file.
pub fn tokenizer_keys(dir: &Path, rows: usize) -> Result<TokenizerKeys> {
    let path = dir.join("tokenizer.json");
    let tokenizer =
        read_json(&path)?.with_context(|| format!("{}: there is no such file", path.display()))?;
    let config = read_json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
    let generation = read_json(&dir.join("generation_config.json"))?.unwrap_or_default();
    let directory = Directory { tokenizer, config, generation, rows };
    let mut notes = Vec::new();
    let mut keys = directory.keys(&mut notes).with_context(|| path.display().to_string())?;
    let template = dir.join("chat_template.jinja");
    if template.is_file() {
        let text = std::fs::read_to_string(&template).with_context(|| template.display().to_string())?;
        keys.push(("tokenizer.chat_template".to_owned(), MetaValue::Text(text)));
    } else if let Some(text) = directory.config["chat_template"].as_str() {
        keys.push(("tokenizer.chat_template".to_owned(), MetaValue::Text(text.to_owned())));
    }
    Ok(TokenizerKeys { keys, notes })
}

fn read_json(path: &Path) -> Result<Option<Value>> {
    if !path.is_file() {
        return Ok(None);
    }
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(shown)?;
    Ok(Some(serde_json::from_str(&text).with_context(shown)?))
}

/// The files of a tokenizer.
struct Directory {
    tokenizer: Value,
    config: Value,
    generation: Value,
    rows: usize,
}

/// Tokens by their ids, with what they are for; an id without a token has a name that no text has.
struct Tokens {
    texts: Vec<String>,
    kinds: Vec<Kind>,
}

impl Tokens {
    /// The tokens as a file has them: llama.cpp looks for those that a user has added in the text as it is, where spaces
    /// are no marks yet.
    fn raw(&self) -> Vec<String> {
        let written = self.texts.iter().zip(&self.kinds).map(|(text, kind)| match kind {
            Kind::UserDefined => text.replace(SPACE, " "),
            _ => text.clone(),
        });
        written.collect()
    }
}

impl Directory {
    fn keys(&self, notes: &mut Vec<String>) -> Result<Vec<(String, MetaValue)>> {
        let model = &self.tokenizer["model"];
        if model["type"].as_str().is_some_and(|kind| kind != "BPE") || !model["merges"].is_array() {
            bail!("`model.type` is {}; only BPE is written to GGUF", model["type"]);
        }
        let is_byte_level = [&self.tokenizer["pre_tokenizer"], &self.tokenizer["decoder"]]
            .iter()
            .any(|part| part.to_string().contains("\"ByteLevel\""));
        let tokens = self.tokens(is_byte_level)?;
        let merges = self.merges()?;
        let mut keys = vec![
            ("tokens", MetaValue::Texts(if is_byte_level { tokens.texts.clone() } else { tokens.raw() })),
            ("token_type", MetaValue::Integers(tokens.kinds.iter().map(|kind| kind.number()).collect())),
        ];
        keys.extend(match is_byte_level {
            true => self.byte_level(&merges, notes)?,
            false => self.pieces(&tokens, &merges, notes)?,
        });
        keys.extend(self.named(&tokens));
        Ok(keys.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect())
    }

    fn tokens(&self, is_byte_level: bool) -> Result<Tokens> {
        let mut by_id: BTreeMap<usize, (&str, Kind)> = BTreeMap::new();
        let vocabulary =
            self.tokenizer["model"]["vocab"].as_object().context("`model.vocab` is no object")?;
        let unknown = self.tokenizer["model"]["unk_token"].as_str().or(self.config["unk_token"].as_str());
        for (token, id) in vocabulary {
            let kind = match token {
                _ if is_byte_level => Kind::Normal,
                token if is_byte_token(token) => Kind::Byte,
                token if Some(token.as_str()) == unknown => Kind::Unknown,
                _ => Kind::Normal,
            };
            by_id.insert(self.id(id, token)?, (token.as_str(), kind));
        }
        for token in self.tokenizer["added_tokens"].as_array().into_iter().flatten() {
            let text = token["content"].as_str().context("an entry of `added_tokens` has no `content`")?;
            let id = self.id(&token["id"], text)?;
            let is_unknown = by_id.get(&id).is_some_and(|(_, kind)| *kind == Kind::Unknown);
            let kind = match (is_unknown, token["special"] == true) {
                (true, _) => Kind::Unknown,
                (false, true) => Kind::Control,
                (false, false) => Kind::UserDefined,
            };
            by_id.insert(id, (text, kind));
        }
        let mut tokens =
            Tokens { texts: Vec::with_capacity(self.rows), kinds: Vec::with_capacity(self.rows) };
        for id in 0..self.rows {
            let (text, kind) = by_id.get(&id).map_or_else(
                || (format!("[PAD{id}]"), Kind::Unused),
                |(text, kind)| ((*text).to_owned(), *kind),
            );
            tokens.texts.push(text);
            tokens.kinds.push(kind);
        }
        Ok(tokens)
    }

    fn id(&self, id: &Value, token: &str) -> Result<usize> {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|id| *id < self.rows);
        id.with_context(|| format!("token {token:?} has no id below the {} rows of the embedding", self.rows))
    }

    fn merges(&self) -> Result<Vec<[&str; 2]>> {
        let listed = self.tokenizer["model"]["merges"].as_array().into_iter().flatten();
        listed
            .map(|merge| {
                pair_of(merge).with_context(|| format!("{merge} in `model.merges` is no pair of tokens"))
            })
            .collect()
    }

    fn byte_level(
        &self,
        merges: &[[&str; 2]],
        notes: &mut Vec<String>,
    ) -> Result<Vec<(&'static str, MetaValue)>> {
        let pre = &self.tokenizer["pre_tokenizer"];
        let whole_words_first = self.tokenizer["model"]["ignore_merges"] == true;
        let Some(name) = name_of(pre, whole_words_first) else {
            bail!("`pre_tokenizer` cuts texts in a way that GGUF has no name for here: {pre}");
        };
        let normalizer = &self.tokenizer["normalizer"];
        if !normalizer.is_null() {
            notes.push(format!(
                "the normalizer of tokenizer.json has no place in GGUF and is left out: {normalizer}"
            ));
        }
        let joined = merges.iter().map(|[left, right]| format!("{left} {right}")).collect();
        Ok(vec![
            ("model", MetaValue::Text("gpt2".to_owned())),
            ("pre", MetaValue::Text(name.to_owned())),
            ("merges", MetaValue::Texts(joined)),
        ])
    }

    fn pieces(
        &self,
        tokens: &Tokens,
        merges: &[[&str; 2]],
        notes: &mut Vec<String>,
    ) -> Result<Vec<(&'static str, MetaValue)>> {
        if self.tokenizer["model"]["byte_fallback"] != true {
            bail!(
                "`model.byte_fallback` is not true: of BPE over characters only SentencePiece's is written to GGUF"
            );
        }
        let scores = scores(tokens, merges);
        let again = ordered_merges(&tokens.texts, &scores)
            .map_err(|reason| anyhow!("`model.vocab`: its tokens {reason}"))?;
        let is_same = again.len() == merges.len()
            && again.iter().zip(merges).all(|(Merge { left, right, .. }, merge)| [*left, *right] == *merge);
        let parts = [&self.tokenizer["pre_tokenizer"], &self.tokenizer["normalizer"]];
        let text = parts.map(Value::to_string).concat();
        let prefix = text.contains("\"Prepend\"")
            || text.contains("\"Metaspace\"") && !text.contains("\"prepend_scheme\":\"never\"");
        let mut keys = vec![
            ("model", MetaValue::Text("llama".to_owned())),
            ("pre", MetaValue::Text("default".to_owned())),
            ("scores", MetaValue::Floats(scores)),
            ("add_space_prefix", MetaValue::Flag(prefix)),
        ];
        if !is_same {
            notes.push(
                "the order of the tokenizer's merges is none that scores of tokens can say: they are written as well, for \
                 programs that read them; llama.cpp does not and can cut some words otherwise"
                    .to_owned(),
            );
            let joined = merges.iter().map(|[left, right]| format!("{left} {right}")).collect();
            keys.push(("merges", MetaValue::Texts(joined)));
        }
        Ok(keys)
    }

    /// The ids of named tokens, and what is put around a text.
    fn named(&self, tokens: &Tokens) -> Vec<(&'static str, MetaValue)> {
        let ids: HashMap<&str, usize> =
            tokens.texts.iter().enumerate().map(|(id, text)| (text.as_str(), id)).collect();
        let token = |name: &str| {
            let value = &self.config[name];
            let text = value.as_str().or(value["content"].as_str())?;
            ids.get(text).copied()
        };
        let integer = |id: usize| MetaValue::Integer(id as i128);
        let mut keys = Vec::new();
        for (name, key) in [
            ("bos_token", "bos_token_id"),
            ("eos_token", "eos_token_id"),
            ("unk_token", "unknown_token_id"),
            ("pad_token", "padding_token_id"),
        ] {
            keys.extend(token(name).map(|id| (key, integer(id))));
        }
        // A second end of output is the end of a turn.
        let ends = self.generation["eos_token_id"].as_array().into_iter().flatten();
        let mut others = ends.filter_map(Value::as_u64).map(|id| id as usize).filter(|id| *id < self.rows);
        if let Some(id) = others.find(|id| Some(*id) != token("eos_token")) {
            keys.push(("eot_token_id", integer(id)));
        }
        let around = around(&self.tokenizer["post_processor"]);
        for (name, key, place) in
            [("bos_token", "add_bos_token", around.first), ("eos_token", "add_eos_token", around.last)]
        {
            let is_added = place.is_some_and(|text| token(name) == ids.get(text).copied());
            keys.push((key, MetaValue::Flag(is_added)));
        }
        keys
    }
}

/// The tokens that are put before and behind a text.
#[derive(Default)]
struct Around<'a> {
    first: Option<&'a str>,
    last: Option<&'a str>,
}

fn around(post_processor: &Value) -> Around<'_> {
    let inner = post_processor["processors"].as_array().into_iter().flatten();
    let templates = inner.chain([post_processor]).filter(|part| part["type"] == "TemplateProcessing");
    let single = templates.filter_map(|part| part["single"].as_array()).next();
    single.map_or_else(Around::default, |single| Around {
        first: single.first().and_then(|part| part["SpecialToken"]["id"].as_str()),
        last: single.last().and_then(|part| part["SpecialToken"]["id"].as_str()),
    })
}

/// A merge, as files of all versions have it.
fn pair_of(merge: &Value) -> Option<[&str; 2]> {
    match merge {
        Value::String(text) => text.split_once(' ').map(|(left, right)| [left, right]),
        Value::Array(parts) => match parts.as_slice() {
            [left, right] => Some([left.as_str()?, right.as_str()?]),
            _ => None,
        },
        _ => None,
    }
}

/// `<0x0A>`.
fn is_byte_token(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// Scores that say the order of the merges: a token has the place of the first merge that makes it, below 0; one that no
/// merge makes has less than all of them, and one that stands for no text least.
fn scores(tokens: &Tokens, merges: &[[&str; 2]]) -> Vec<f64> {
    let mut places: HashMap<String, usize> = HashMap::new();
    for [left, right] in merges {
        let next = places.len();
        places.entry(format!("{left}{right}")).or_insert(next);
    }
    let count = places.len();
    let score = |id: usize| match tokens.kinds[id] {
        Kind::Normal | Kind::UserDefined => -(places.get(&tokens.texts[id]).copied().unwrap_or(count) as f64),
        _ => -(count as f64) - 1.0,
    };
    (0..tokens.texts.len()).map(score).collect()
}
