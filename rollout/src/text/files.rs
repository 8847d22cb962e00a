//! What the files of a Hugging Face directory say beside the tokenizer: special tokens, ends of output, chat templates.
//! The order in which they win over each other is that of transformers 5.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use crate::error::RolloutError;

/// The tokens that templates and `eos_token` know by a name.
const NAMED_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What `tokenizer_config.json` and its older companions say.
#[derive(Debug)]
pub(super) struct TokenizerConfig {
    fields: Map<String, Value>,
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
        if !fields.contains_key("added_tokens_decoder") {
            fields.extend(read("special_tokens_map.json")?);
        }
        Ok(Self { fields })
    }

    /// A special token is written as a text or as `{"content": text, ..}`.
    pub(super) fn token(&self, name: &str) -> Option<&str> {
        content(self.fields.get(name)?)
    }

    /// The variables that a template knows the special tokens by. A token that the model has not is no variable.
    pub(super) fn variables(&self, padding: Option<&str>) -> Map<String, Value> {
        let mut tokens = Map::new();
        for name in NAMED_TOKENS {
            let token = self.token(name).or(padding.filter(|_| name == "pad_token"));
            if let Some(token) = token {
                tokens.insert(name.to_owned(), Value::from(token));
            }
        }
        tokens
    }

    /// Adds the tokens that only the config has: those of `added_tokens_decoder` in the order of their ids, then special
    /// tokens by name and the further ones that are not among the tokenizer's added tokens yet. Gives the ids that are new.
    pub(super) fn add_tokens(
        &self,
        tokenizer: &mut Tokenizer,
        directory: &Path,
    ) -> Result<BTreeMap<u32, String>, RolloutError> {
        let path = directory.join("tokenizer_config.json");
        let mut new = BTreeMap::new();
        let named = |text: &str| NAMED_TOKENS.iter().any(|name| self.token(name) == Some(text));
        for (id, mut token) in self.listed_tokens(&path)? {
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
                return Err(RolloutError::content(
                    &path,
                    format!(
                        "added_tokens_decoder: {content:?} has id {id}, in tokenizer.json it has {found}"
                    ),
                ));
            }
            new.extend(is_new.then_some((id, content)));
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
        Ok(new)
    }

    /// `added_tokens_decoder`, in the order of its ids.
    fn listed_tokens(&self, path: &Path) -> Result<BTreeMap<u32, AddedToken>, RolloutError> {
        let Some(Value::Object(decoder)) = self.fields.get("added_tokens_decoder") else {
            return Ok(BTreeMap::new());
        };
        let listed = decoder.iter().map(|(id, token)| {
            let wrong = || RolloutError::content(path, format!("added_tokens_decoder: {id:?} is no token"));
            let number = id.parse().map_err(|_| wrong())?;
            Ok((number, added_token(token, false).ok_or_else(wrong)?))
        });
        listed.collect()
    }

    /// The special tokens of the config in transformers' order: those that all models name, those that this one names
    /// (`image_token`), and the unnamed ones.
    fn special_tokens(&self) -> Vec<AddedToken> {
        let extra = self.fields.get("extra_special_tokens").filter(|extra| !is_empty(extra));
        let extra = extra.or_else(|| self.fields.get("additional_special_tokens"));
        let of_all = NAMED_TOKENS.iter().filter_map(|name| self.fields.get(*name));
        let is_own = |name: &str| name.ends_with("_token") && !NAMED_TOKENS.contains(&name);
        let own = self.fields.iter().filter(|(name, token)| is_own(name) && token.is_string());
        let more: Vec<&Value> = match extra {
            Some(Value::Array(tokens)) => tokens.iter().collect(),
            Some(Value::Object(tokens)) => tokens.values().collect(),
            _ => Vec::new(),
        };
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

fn added_token(token: &Value, special: bool) -> Option<AddedToken> {
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
        Some(Value::Array(named)) => {
            let one = |(place, one): (usize, &Value)| match (one["name"].as_str(), one["template"].as_str()) {
                (Some(name), Some(text)) => Ok(source(name, text)),
                _ => {
                    let reason = format!("chat_template: item {} has no `name` and `template`", place + 1);
                    Err(RolloutError::content(&path, reason))
                }
            };
            named.iter().enumerate().map(one).collect()
        }
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
fn read_json(path: &Path) -> Result<Option<Value>, RolloutError> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| RolloutError::content(path, error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RolloutError::file(path, error)),
    }
}

#[cfg(test)]
mod tests {
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
        let truncation =
            json!({"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"});
        let padding = json!({"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 1,
            "pad_type_id": 0, "pad_token": "<unk>"});
        let text = files(&json!({"truncation": truncation, "padding": padding})).load().expect("a tokenizer");
        let notes = text.notes().join("\n");
        for note in
            ["tokenizer.json: `truncation` to 2 tokens is not obeyed", "tokenizer.json: `padding` is not"]
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
        files
            .write("special_tokens_map.json", r#"{"eos_token": {"content": "<eos>"}, "pad_token": "<unk>"}"#);
        files.write("chat_template.jinja", "{{ eos_token }}{{ pad_token }}{{ bos_token is defined }}");
        let text = files.load().expect("an end of output");
        assert_eq!(text.eos_ids(), &[0]);
        let variables = serde_json::Map::new();
        let messages = [json!({"role": "user", "content": ""})];
        let chat = super::super::Chat {
            messages: &messages,
            tools: None,
            variables: &variables,
            ending: super::super::ChatEnding::GenerationPrompt,
        };
        assert_eq!(text.render_chat(&chat).expect("constant"), "<eos><unk>False");
        // Where the config has the newer key, transformers does not read the older file.
        files.write("tokenizer_config.json", r#"{"added_tokens_decoder": {}}"#);
        assert!(
            files
                .load()
                .expect_err("no end of output")
                .to_string()
                .contains("names a token that ends an output")
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
        let error = files.load().expect_err("7 comes before 9").to_string();
        assert!(error.contains("\"<note>\" has id 9, in tokenizer.json it has 7"), "{error}");
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
        files.write(
            "tokenizer_config.json",
            r#"{"eos_token": "<eos>", "additional_special_tokens": ["<y>"]}"#,
        );
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
        let named = json!({"eos_token": "<eos>", "chat_template": [{"name": "default", "template": ""}, {"name": "x"}]});
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
            let ending = super::super::ChatEnding::GenerationPrompt;
            text.render_chat(&super::super::Chat { messages: &messages, tools, variables: &none, ending })
        };
        assert_eq!(render(None).expect("default"), "plain");
        assert_eq!(render(Some(&tools)).expect("tool_use"), "tools");
    }
}
