//! What the files of a Hugging Face directory say beside the tokenizer: special tokens, ends of output, chat templates.
//! The order in which they win over each other is that of transformers 5.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use crate::error::RolloutError;

/// The longest file beside `tokenizer.json` that is read. Values take some twenty times their text in memory; a
/// configuration with a quarter of a million added tokens has half of it.
const JSON_BYTES_MAX: u64 = 64 << 20;

/// The tokens that templates and `eos_token` know by a name.
const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What `tokenizer_config.json` and its older companions say.
#[derive(Debug)]
pub(super) struct TokenizerConfig {
    fields: Map<String, Value>,
    /// `added_tokens.json`, the ids by the tokens, of the time before `added_tokens_decoder`.
    older: Map<String, Value>,
}

/// What was added to a tokenizer.
pub(super) struct AddedTokens {
    /// The tokens that the tokenizer had not, by their ids.
    pub(super) new: BTreeMap<u32, String>,
    /// Tokens whose id is not the one that the files give.
    pub(super) notes: Vec<String>,
}

/// A chat template and where it is from.
#[derive(Debug)]
pub(super) struct TemplateSource {
    /// `default`, or what the list or the file calls it.
    pub(super) name: String,
    /// The file that it is in.
    pub(super) path: PathBuf,
    /// The template.
    pub(super) text: String,
}

impl TokenizerConfig {
    /// Reads `tokenizer_config.json`. `special_tokens_map.json` is of the time before `added_tokens_decoder`: where the
    /// config has that key it is not read.
    pub(super) fn read(directory: &Path) -> Result<Self, RolloutError> {
        let read = |name: &str| -> Result<Map<String, Value>, RolloutError> {
            let path = directory.join(name);
            match read_json(&path)? {
                None => Ok(Map::new()),
                Some(Value::Object(fields)) => Ok(fields),
                Some(_) => Err(RolloutError::content(&path, "not a JSON object")),
            }
        };
        let mut fields = read("tokenizer_config.json")?;
        let mut older = Map::new();
        if !fields.contains_key("added_tokens_decoder") {
            fields.extend(read("special_tokens_map.json")?);
            older = read("added_tokens.json")?;
        }
        Ok(Self { fields, older })
    }

    /// A key of the config.
    pub(super) fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    /// The special tokens that the tokenizer's class has where the files say nothing of them, be it `null`.
    pub(super) fn assume(&mut self, tokens: &[(&str, &str)]) {
        for (name, token) in tokens {
            self.fields.entry(*name).or_insert_with(|| Value::from(*token));
        }
    }

    /// Whether texts may not hold special tokens: what looks like one is split.
    pub(super) fn splits_special_tokens(&self) -> bool {
        self.fields.get("split_special_tokens").and_then(Value::as_bool).unwrap_or(false)
    }

    /// A special token is written as a text or as `{"content": text, ..}`.
    pub(super) fn token(&self, name: &str) -> Option<&str> {
        content(self.fields.get(name)?)
    }

    /// The variables that a template knows the special tokens by. A token that the model has not is no variable.
    pub(super) fn variables(&self, padding: Option<&str>) -> Map<String, Value> {
        let mut tokens = Map::new();
        for name in NAMED_TOKENS {
            // What the tokenizer pads with counts where the config has no such key; `null` is one.
            let padding = padding.filter(|_| name == "pad_token" && !self.fields.contains_key(name));
            let token = self.token(name).or(padding);
            if let Some(token) = token {
                tokens.insert(name.to_owned(), Value::from(token));
            }
        }
        let own = self.own_tokens().into_iter();
        tokens.extend(own.filter_map(|(name, token)| Some((name.to_owned(), Value::from(content(token)?)))));
        tokens
    }

    /// The tokens that this model alone has a name for, as `image_token`: keys of the config, and the entries of
    /// `extra_special_tokens` where it is an object. `model_specific_special_tokens` counts where there is none of them.
    fn own_tokens(&self) -> Vec<(&str, &Value)> {
        let is_own = |name: &str| name.ends_with("_token") && !NAMED_TOKENS.contains(&name);
        let keys = self.fields.iter().filter(|(name, token)| is_own(name) && content(token).is_some());
        let entries = |name: &str| self.fields.get(name).and_then(Value::as_object).into_iter().flatten();
        let mut own: Vec<(&str, &Value)> = Vec::new();
        for (name, token) in keys.chain(entries("extra_special_tokens")) {
            match own.iter_mut().find(|(known, _)| known == name) {
                Some(known) => known.1 = token,
                None => own.push((name, token)),
            }
        }
        if own.is_empty() {
            own.extend(entries("model_specific_special_tokens").map(|(name, token)| (name.as_str(), token)));
        }
        own.retain(|(name, _)| !NAMED_TOKENS.contains(name));
        own
    }

    /// Adds the tokens that only the config has: those of `added_tokens_decoder` in the order of their ids, then special
    /// tokens by name and the further ones that are not among the tokenizer's added tokens yet. A token of a list gets the
    /// next id where it is new, whatever the list says: transformers does the same, and notes of it are given.
    pub(super) fn add_tokens(
        &self,
        tokenizer: &mut Tokenizer,
        of_file: BTreeMap<u32, AddedToken>,
        directory: &Path,
    ) -> Result<AddedTokens, RolloutError> {
        let path = directory.join("tokenizer_config.json");
        let (mut new, mut notes) = (BTreeMap::new(), Vec::new());
        let named = |text: &str| NAMED_TOKENS.iter().any(|name| self.token(name) == Some(text));
        for (id, mut token) in self.listed_tokens(of_file, directory)? {
            let known =
                tokenizer.get_added_tokens_decoder().get(&id).is_some_and(|known| same(known, &token));
            if known {
                continue;
            }
            token.special |= named(&token.content);
            let content = token.content.clone();
            let (found, is_new) = add(tokenizer, token, &path)?;
            if found != Some(id) {
                let found = found.map_or_else(|| "none".to_owned(), |found| found.to_string());
                notes.push(format!(
                    "{}: {content:?} is listed with id {id} and gets id {found}, as in transformers: the ids before it are \
                     not all taken, or tokenizer.json has it",
                    directory.display()
                ));
            }
            new.extend(found.filter(|_| is_new).map(|id| (id, content)));
        }
        for token in self.special_tokens() {
            let is_added =
                tokenizer.get_added_tokens_decoder().values().any(|known| known.content == token.content);
            if !is_added {
                let content = token.content.clone();
                let (id, is_new) = add(tokenizer, token, &path)?;
                new.extend(id.filter(|_| is_new).map(|id| (id, content)));
            }
        }
        Ok(AddedTokens { new, notes })
    }

    /// `added_tokens_decoder`, in the order of its ids; without it, `added_tokens.json` and over it those of a file that
    /// is not loaded as it is.
    fn listed_tokens(
        &self,
        of_file: BTreeMap<u32, AddedToken>,
        directory: &Path,
    ) -> Result<BTreeMap<u32, AddedToken>, RolloutError> {
        let path = &directory.join("tokenizer_config.json");
        let Some(Value::Object(decoder)) = self.fields.get("added_tokens_decoder") else {
            let mut listed = self.older_tokens(directory)?;
            listed.extend(of_file);
            return Ok(listed);
        };
        let listed = decoder.iter().map(|(id, token)| {
            let wrong = || RolloutError::content(path, format!("added_tokens_decoder: {id:?} is no token"));
            let number = id.parse().map_err(|_| wrong())?;
            Ok((number, added_token(token, false).ok_or_else(wrong)?))
        });
        listed.collect()
    }

    /// `added_tokens.json`: which of them are special is said by the names of special tokens alone.
    fn older_tokens(&self, directory: &Path) -> Result<BTreeMap<u32, AddedToken>, RolloutError> {
        let special = self.special_tokens();
        let listed = self.older.iter().map(|(text, id)| {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                RolloutError::content(&directory.join("added_tokens.json"), format!("{text:?} has no id"))
            })?;
            let is_special = special.iter().any(|token| token.content == *text);
            Ok((id, AddedToken::from(text.clone(), is_special).normalized(!is_special)))
        });
        listed.collect()
    }

    /// The special tokens of the config in transformers' order: those that all models name, those that this one names
    /// (`image_token`), and the unnamed ones.
    fn special_tokens(&self) -> Vec<AddedToken> {
        let extra = self.fields.get("extra_special_tokens").filter(|extra| !is_empty(extra));
        let extra = extra.or_else(|| self.fields.get("additional_special_tokens"));
        let of_all = NAMED_TOKENS.iter().filter_map(|name| self.fields.get(*name));
        let own = self.own_tokens().into_iter();
        let more = extra.and_then(Value::as_array).into_iter().flatten();
        let tokens = of_all.chain(own.map(|(_, token)| token)).chain(more);
        tokens.filter_map(|token| added_token(token, true)).collect()
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        other => other.is_null(),
    }
}

/// Adds a token; its id, and whether the tokenizer had none for it.
fn add(
    tokenizer: &mut Tokenizer,
    token: AddedToken,
    path: &Path,
) -> Result<(Option<u32>, bool), RolloutError> {
    let content = token.content.clone();
    let is_new = tokenizer.token_to_id(&content).is_none();
    let added =
        if token.special { tokenizer.add_special_tokens([token]) } else { tokenizer.add_tokens([token]) };
    added.map_err(|error| {
        RolloutError::content(path, format!("token {content:?} cannot be added: {error}"))
    })?;
    Ok((tokenizer.token_to_id(&content), is_new))
}

/// `AddedToken` compares by its text alone.
fn same(one: &AddedToken, other: &AddedToken) -> bool {
    one.content == other.content
        && (one.single_word, one.lstrip, one.rstrip, one.normalized, one.special)
            == (other.single_word, other.lstrip, other.rstrip, other.normalized, other.special)
}

fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str())
}

pub(super) fn added_token(token: &Value, special: bool) -> Option<AddedToken> {
    let flag = |name: &str| token[name].as_bool();
    let special = special || flag("special").unwrap_or(false);
    let added = AddedToken::from(content(token)?.to_owned(), special)
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false));
    Some(match flag("normalized") {
        Some(normalized) => added.normalized(normalized),
        None => added,
    })
}

/// The tokenizer's `eos_token` first, then those of `generation_config.json`, or of `config.json` where the
/// former names none: an instruct model ends its turns with other tokens than its texts.
pub(super) fn eos_ids(
    directory: &Path,
    tokenizer: &Tokenizer,
    config: &TokenizerConfig,
    listed: &ListedEnds,
) -> Result<Vec<u32>, RolloutError> {
    // A token that tokenizer.json lacks was added before.
    let mut ids: Vec<u32> =
        config.token("eos_token").and_then(|token| tokenizer.token_to_id(token)).into_iter().collect();
    for &id in &listed.ids {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    if ids.is_empty() {
        return Err(RolloutError::content(
            directory,
            "neither tokenizer_config.json or special_tokens_map.json (eos_token) nor generation_config.json or \
             config.json (eos_token_id) names a token that ends an output",
        ));
    }
    Ok(ids)
}

/// The ends of output that a model's config lists.
#[derive(Default)]
pub(super) struct ListedEnds {
    /// The file that lists them.
    pub(super) path: PathBuf,
    pub(super) ids: Vec<u32>,
    /// Notes on ids below 0, which no token has. transformers takes them, so they cost no more than a word.
    pub(super) notes: Vec<String>,
}

impl ListedEnds {
    /// Those of the first file that lists any.
    pub(super) fn read(directory: &Path) -> Result<Self, RolloutError> {
        let mut listed = Self::default();
        for name in ["generation_config.json", "config.json"] {
            if listed.ids.is_empty() {
                let notes = listed.notes;
                listed = Self::of(directory.join(name))?;
                listed.notes.splice(0..0, notes);
            }
        }
        Ok(listed)
    }

    fn of(path: PathBuf) -> Result<Self, RolloutError> {
        let (mut ids, mut notes) = (Vec::new(), Vec::new());
        let config = read_json(&path)?.unwrap_or_default();
        if let Some(id) = config["bos_token_id"].as_i64().filter(|id| *id < 0) {
            notes.push(format!("{}: bos_token_id {id} is no token's, and begins nothing", path.display()));
        }
        let listed = match &config["eos_token_id"] {
            Value::Null => &[],
            Value::Array(ids) => ids.as_slice(),
            id => std::slice::from_ref(id),
        };
        for id in listed {
            match (id.as_u64().and_then(|id| u32::try_from(id).ok()), id.as_i64()) {
                (Some(id), _) => ids.push(id),
                (None, Some(id)) if id < 0 => {
                    notes.push(format!(
                        "{}: eos_token_id {id} is no token's, and ends nothing",
                        path.display()
                    ));
                }
                _ => {
                    let reason = "eos_token_id is neither a token id nor a list of them";
                    return Err(RolloutError::content(&path, reason));
                }
            }
        }
        Ok(Self { path, ids, notes })
    }
}

/// The templates of a directory: `chat_template.jinja` and the files of `additional_chat_templates/`, or, where there are
/// none, `chat_template` of `tokenizer_config.json`, which is a text or a list of named ones.
pub(super) fn templates(
    directory: &Path,
    config: &TokenizerConfig,
) -> Result<Vec<TemplateSource>, RolloutError> {
    let mut sources = Vec::new();
    let mut files = vec![("default".to_owned(), directory.join("chat_template.jinja"))];
    files.extend(more_templates(&directory.join("additional_chat_templates"))?);
    for (name, path) in files {
        match std::fs::read_to_string(&path) {
            Ok(text) => sources.push(TemplateSource { name, path, text }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(RolloutError::file(&path, error)),
        }
    }
    if !sources.is_empty() {
        return Ok(sources);
    }
    let path = directory.join("tokenizer_config.json");
    let source = |name: &str, text: &str| TemplateSource {
        name: name.to_owned(),
        path: path.clone(),
        text: text.to_owned(),
    };
    match config.fields.get("chat_template") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![source("default", text)]),
        Some(Value::Array(named)) => named
            .iter()
            .enumerate()
            .map(|(place, one)| match (one["name"].as_str(), one["template"].as_str()) {
                (Some(name), Some(text)) => Ok(source(name, text)),
                _ => {
                    let reason = format!("chat_template: item {} has no `name` and `template`", place + 1);
                    Err(RolloutError::content(&path, reason))
                }
            })
            .collect(),
        Some(_) => {
            Err(RolloutError::content(&path, "chat_template is neither a text nor a list of named texts"))
        }
    }
}

/// The names and paths of the templates in a folder, which need not be there.
fn more_templates(folder: &Path) -> Result<Vec<(String, PathBuf)>, RolloutError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let failed = |error| RolloutError::file(folder, error);
    let mut named = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|end| end == "jinja") {
            let name = path.file_stem().and_then(|name| name.to_str()).map(str::to_owned);
            let name = name.ok_or_else(|| {
                RolloutError::content(&path, "the name of a chat template is not UTF-8: rename the file")
            })?;
            named.push((name, path));
        }
    }
    named.sort();
    Ok(named)
}

/// `None` if the file is absent.
pub(super) fn read_json(path: &Path) -> Result<Option<Value>, RolloutError> {
    let failed = |error| RolloutError::file(path, error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(JSON_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > JSON_BYTES_MAX {
        let reason = format!("has more than the {JSON_BYTES_MAX} bytes that are read");
        return Err(RolloutError::content(path, reason));
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| RolloutError::content(path, format!("is not JSON: {error}")))
}
