//! Text to token ids and back, as the Hugging Face directory of the model says: `tokenizer.json`, the chat
//! template and the tokens that end an output. Knows no prompts of a run and never evaluates model output.

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, context};
use serde::Serialize;
use serde_json::Value;
use tokenizers::{
    DecodeStream, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer,
};

use crate::error::RolloutError;
use crate::token_bytes::TokenBytes;

/// Words whose tokens a tokenizer remembers, on each thread that encodes. Words of a language are soon among them;
/// prompts that are made for one use would fill its usual 10,000 with what never comes again, and a run would grow
/// by megabytes, for long ones by hundreds, while they do.
const WORDS_REMEMBERED_MAX: usize = 1024;

/// The tokenizer of a model, its chat template and its ends of output.
pub struct Text {
    directory: PathBuf,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    eos_ids: Vec<u32>,
}

impl std::fmt::Debug for Text {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Text").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Text {
    /// Reads a Hugging Face directory. Only `tokenizer.json` must exist; without a chat template, prompts of
    /// messages are refused when they come.
    pub fn load(directory: &Path) -> Result<Self, RolloutError> {
        let path = directory.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|error| RolloutError::file(&path, error))?;
        let mut tokenizer = Tokenizer::from_bytes(bytes)
            .map_err(|error| RolloutError::content(&path, format!("not a tokenizer: {error}")))?;
        let mut model = tokenizer.get_model().clone();
        model.resize_cache(WORDS_REMEMBERED_MAX);
        tokenizer.with_model(model);
        let config_path = directory.join("tokenizer_config.json");
        let config = read_json(&config_path)?.unwrap_or(Value::Null);
        let eos_ids = eos_ids(directory, &tokenizer, &config)?;
        let template = match template_source(directory, &config)? {
            Some((path, source)) => Some(ChatTemplate::new(&path, source, &config)?),
            None => None,
        };
        Ok(Self { directory: directory.to_path_buf(), tokenizer, template, eos_ids })
    }

    /// Refuses a tokenizer that can produce an id outside an embedding of `vocabulary` rows.
    pub fn check_vocabulary(&self, vocabulary: usize) -> Result<(), RolloutError> {
        let largest = self.tokenizer.get_vocab(true).into_iter().max_by_key(|(_, id)| *id);
        let last_eos = self.eos_ids.iter().max().map(|id| ("<end of output>".to_string(), *id));
        let largest = largest.into_iter().chain(last_eos).max_by_key(|(_, id)| *id);
        match largest {
            Some((token, id)) if id as usize >= vocabulary => Err(RolloutError::Vocabulary {
                path: self.directory.join("tokenizer.json"),
                token,
                id,
                vocabulary,
            }),
            _ => Ok(()),
        }
    }

    /// The ids of a plain prompt, with the special tokens that the tokenizer puts around a text (for
    /// example a beginning-of-text token).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, RolloutError> {
        self.encode_with(text, true)
    }

    /// The ids of a text that stands inside a sequence, such as a demonstration: nothing is put around it.
    pub fn encode_fragment(&self, text: &str) -> Result<Vec<u32>, RolloutError> {
        self.encode_with(text, false)
    }

    fn encode_with(&self, text: &str, special_tokens: bool) -> Result<Vec<u32>, RolloutError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, special_tokens)
            .map_err(|error| RolloutError::Tokenizer { action: "encode", reason: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Chat messages as the prompt text that the template makes of them, opened for the assistant's answer.
    /// The text carries its own special tokens, so its ids are [`Text::encode_fragment`] of it.
    pub fn render_chat(&self, messages: &[Value]) -> Result<String, RolloutError> {
        let path = self.directory.join("tokenizer_config.json");
        let template = self.template.as_ref().ok_or_else(|| {
            RolloutError::content(&path, "no `chat_template`, but a prompt is a list of messages")
        })?;
        template.render(messages).map_err(|error| RolloutError::content(&path, template_error(&error)))
    }

    /// The text of a completion. The token that ended it, if one did, is not part of the text; neither are
    /// special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String, RolloutError> {
        let written = match ids {
            [rest @ .., last] if self.is_eos(*last) => rest,
            whole => whole,
        };
        self.tokenizer
            .decode(written, true)
            .map_err(|error| RolloutError::Tokenizer { action: "decode", reason: error.to_string() })
    }

    /// What each token writes, in bytes.
    pub(crate) fn token_bytes(&self) -> Result<TokenBytes, RolloutError> {
        TokenBytes::new(&self.tokenizer)
    }

    /// Decodes an output while it is generated.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { text: self, stream: self.tokenizer.decode_stream(true) }
    }

    /// Whether this token ends an output.
    pub fn is_eos(&self, id: u32) -> bool {
        self.eos_ids.contains(&id)
    }

    /// The tokens that end an output; the first is the tokenizer's own and ends demonstrations. Never empty.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }
}

/// An output that is decoded token by token; a character of several tokens appears with its last one.
pub struct TextStream<'a> {
    text: &'a Text,
    stream: DecodeStream<
        'a,
        ModelWrapper,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >,
}

impl TextStream<'_> {
    /// The text that this token completes; empty for an end of output and inside a character.
    pub fn push(&mut self, id: u32) -> Result<String, RolloutError> {
        if self.text.is_eos(id) {
            return Ok(String::new());
        }
        let piece = self
            .stream
            .step(id)
            .map_err(|error| RolloutError::Tokenizer { action: "decode", reason: error.to_string() })?;
        Ok(piece.unwrap_or_default())
    }
}

/// `None` if the file is absent.
fn read_json(path: &Path) -> Result<Option<Value>, RolloutError> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| RolloutError::content(path, error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(RolloutError::file(path, error)),
    }
}

/// The tokenizer's `eos_token` first, then those of `generation_config.json`, or of `config.json` where the
/// former names none: an instruct model ends its turns with other tokens than its texts.
fn eos_ids(directory: &Path, tokenizer: &Tokenizer, config: &Value) -> Result<Vec<u32>, RolloutError> {
    let mut ids = Vec::new();
    if let Some(token) = special_token(config, "eos_token") {
        let id = tokenizer.token_to_id(&token).ok_or_else(|| {
            let path = directory.join("tokenizer_config.json");
            RolloutError::content(&path, format!("eos_token {token:?} is not in tokenizer.json"))
        })?;
        ids.push(id);
    }
    let mut listed = Vec::new();
    for name in ["generation_config.json", "config.json"] {
        if listed.is_empty() {
            listed = listed_eos_ids(&directory.join(name))?;
        }
    }
    for id in listed {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    if ids.is_empty() {
        return Err(RolloutError::content(
            directory,
            "neither tokenizer_config.json (eos_token) nor generation_config.json or config.json \
             (eos_token_id) names a token that ends an output",
        ));
    }
    Ok(ids)
}

fn listed_eos_ids(path: &Path) -> Result<Vec<u32>, RolloutError> {
    let Some(config) = read_json(path)? else { return Ok(Vec::new()) };
    let listed = match &config["eos_token_id"] {
        Value::Null => return Ok(Vec::new()),
        Value::Array(ids) => ids.clone(),
        id => vec![id.clone()],
    };
    listed
        .iter()
        .map(|id| {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| {
                RolloutError::content(path, "eos_token_id is neither a token id nor a list of them")
            })
        })
        .collect()
}

/// A special token is written as a text or as `{"content": text, ..}`.
fn special_token(config: &Value, name: &str) -> Option<String> {
    let token = &config[name];
    token.as_str().or_else(|| token["content"].as_str()).map(str::to_string)
}

/// The template and the file it is in: `chat_template.jinja`, or `chat_template` of
/// `tokenizer_config.json`, which is a text or a list of named ones.
fn template_source(directory: &Path, config: &Value) -> Result<Option<(PathBuf, String)>, RolloutError> {
    let path = directory.join("chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Ok(source) => return Ok(Some((path, source))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(RolloutError::file(&path, error)),
    }
    let path = directory.join("tokenizer_config.json");
    let source = match &config["chat_template"] {
        Value::Null => return Ok(None),
        Value::String(source) => Some(source.as_str()),
        Value::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == "default");
            default.and_then(|entry| entry["template"].as_str())
        }
        _ => None,
    };
    let source = source.ok_or_else(|| {
        RolloutError::content(
            &path,
            "chat_template is neither a text nor a list with an entry named `default`",
        )
    })?;
    Ok(Some((path, source.to_string())))
}

/// A chat template in the environment that transformers gives it.
struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl ChatTemplate {
    fn new(path: &Path, source: String, config: &Value) -> Result<Self, RolloutError> {
        let mut environment = Environment::new();
        let refuse = |error: minijinja::Error| RolloutError::content(path, template_error(&error));
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(refuse)?);
        // Templates call methods of Python strings and lists, such as `.strip()` and `.split()`.
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_fixed);
        environment.add_filter("tojson", python_json);
        environment.add_template_owned("chat_template", source).map_err(refuse)?;
        let (bos_token, eos_token) = (special_token(config, "bos_token"), special_token(config, "eos_token"));
        Ok(Self { environment, bos_token, eos_token })
    }

    fn render(&self, messages: &[Value]) -> Result<String, minijinja::Error> {
        let none = minijinja::Value::from(());
        self.environment.get_template("chat_template")?.render(context! {
            messages => minijinja::Value::from(Serde(messages)),
            add_generation_prompt => true,
            bos_token => self.bos_token.as_deref().unwrap_or_default(),
            eos_token => self.eos_token.as_deref().unwrap_or_default(),
            tools => none.clone(),
            documents => none,
        })
    }
}

fn template_error(error: &minijinja::Error) -> String {
    format!("chat_template: {error}")
}

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// The date is always Friday, 26 July 2024, which the templates of Llama 3 fall back to: with today's date
/// one seed would give another run tomorrow.
fn strftime_fixed(format: &str) -> String {
    let fields = [
        ("%d", "26"),
        ("%b", "Jul"),
        ("%B", "July"),
        ("%m", "07"),
        ("%Y", "2024"),
        ("%y", "24"),
        ("%a", "Fri"),
        ("%A", "Friday"),
        ("%H", "00"),
        ("%M", "00"),
        ("%S", "00"),
    ];
    fields.iter().fold(format.to_string(), |date, (field, value)| date.replace(field, value))
}

/// `json.dumps(value, ensure_ascii=False, indent=indent)` of Python: templates are written against its
/// spaces.
fn python_json(value: &minijinja::Value, options: Kwargs) -> Result<minijinja::Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // `ensure_ascii`, `separators` and `sort_keys` are accepted and not followed.
    for name in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<minijinja::Value> = options.get(name)?;
    }
    options.assert_all_used()?;
    let mut written = Vec::new();
    let outcome = match indent {
        Some(width) => {
            let indent = " ".repeat(width);
            let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut written, formatter))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut written, PythonSpaces)),
    };
    outcome
        .map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))
        .map(|()| minijinja::Value::from_safe_string(String::from_utf8_lossy(&written).into_owned()))
}

/// Writes `{"a": 1, "b": 2}` where serde_json's compact form is `{"a":1,"b":2}`.
struct PythonSpaces;

impl serde_json::ser::Formatter for PythonSpaces {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{TextFiles, text};

    #[test]
    fn plain_text_goes_to_ids_and_back() {
        let text = text();
        let ids = text.encode("abc").expect("known characters");
        assert_eq!(ids, vec![2, 3, 4]);
        assert_eq!(text.decode(&ids).expect("known ids"), "abc");
    }

    // A run asks a new prompt in every group: what is kept of each adds up.
    #[cfg(target_os = "linux")]
    #[test]
    fn prompts_that_never_come_again_are_not_remembered() {
        let resident_bytes = || {
            let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
            4096 * pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number")
        };
        let text = super::Text::load("../models/quickstart".as_ref()).expect("the quickstart's tokenizer");
        let encode = |number: u32| {
            let prompt = format!("{number:0240}");
            assert_eq!(text.encode(&prompt).expect("digits").len(), 240);
        };
        (0..2000).for_each(encode);
        let before = resident_bytes();
        (2000..12_000).for_each(encode);
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < 24 << 20, "{grown} bytes for 10000 prompts that are gone");
    }

    #[test]
    fn the_token_that_ends_an_output_is_not_text() {
        let text = text();
        assert_eq!(text.decode(&[2, 3, 0]).expect("known ids"), "ab");
        assert_eq!(text.decode(&[]).expect("nothing is a text too"), "");
    }

    #[test]
    fn streamed_pieces_join_to_the_decoded_text() {
        let text = text();
        let ids = [2, 4, 4, 3, 0];
        let mut stream = text.stream();
        let joined: String = ids.iter().map(|id| stream.push(*id).expect("known ids")).collect();
        assert_eq!(joined, text.decode(&ids).expect("known ids"));
        assert_eq!(joined, "accb");
    }

    #[test]
    fn ends_of_output_come_from_every_file_that_names_one() {
        let files = TextFiles::new();
        assert_eq!(files.load().expect("a tokenizer").eos_ids(), &[0]);
        files.write("config.json", r#"{"eos_token_id": 5}"#);
        assert_eq!(files.load().expect("a tokenizer").eos_ids(), &[0, 5]);
        files.write("generation_config.json", r#"{"eos_token_id": [3, 0]}"#);
        assert_eq!(files.load().expect("a tokenizer").eos_ids(), &[0, 3]);
        files.write("generation_config.json", r#"{"eos_token_id": "x"}"#);
        let error = files.load().expect_err("x is no id").to_string();
        assert!(error.contains("generation_config.json: eos_token_id"), "{error}");
    }

    #[test]
    fn a_model_without_an_end_of_output_is_refused() {
        let files = TextFiles::new();
        files.write("tokenizer_config.json", "{}");
        assert!(files.load().expect_err("no end").to_string().contains("eos_token"));
        files.write("tokenizer_config.json", r#"{"eos_token": {"content": "<none>"}}"#);
        let error = files.load().expect_err("no such token").to_string();
        assert!(error.contains("tokenizer_config.json: eos_token \"<none>\""), "{error}");
    }

    #[test]
    fn a_tokenizer_must_fit_the_vocabulary() {
        let text = text();
        text.check_vocabulary(7).expect("ids 0 to 6");
        let error = text.check_vocabulary(6).expect_err("id 6 has no row").to_string();
        assert!(error.contains("tokenizer.json: token \"e\" has id 6"), "{error}");
    }

    #[test]
    fn broken_files_are_named() {
        let files = TextFiles::new();
        files.write("tokenizer.json", r#"{"version""#);
        assert!(files.load().expect_err("not JSON").to_string().contains("tokenizer.json: not a tokenizer"));
        files.remove("tokenizer.json");
        assert!(files.load().expect_err("absent").to_string().contains("tokenizer.json: "));
    }

    #[test]
    fn chat_messages_are_rendered_as_transformers_does() {
        let files = TextFiles::new();
        let template = concat!(
            "{%- if messages[0]['role'] not in ['system', 'user'] %}{{ raise_exception('bad role') }}{%- endif %}\n",
            "{%- for message in messages %}\n",
            "    {{- '<|im_start|>' + message.role + '\\n' + message.content.strip() + '<|im_end|>\\n' }}\n",
            "{%- endfor %}\n",
            "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n",
        );
        files.write(
            "tokenizer_config.json",
            &json!({"eos_token": "<eos>", "chat_template": template}).to_string(),
        );
        let text = files.load().expect("a template");
        let messages =
            [json!({"role": "system", "content": "Be brief."}), json!({"role": "user", "content": " 1+1 "})];
        assert_eq!(
            text.render_chat(&messages).expect("two good messages"),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n"
        );
        let error = text.render_chat(&[json!({"role": "x", "content": ""})]).expect_err("x is no role");
        assert!(error.to_string().contains("bad role"), "{error}");
    }

    #[test]
    fn a_template_file_and_named_templates_are_read() {
        let files = TextFiles::new();
        let named =
            json!([{"name": "tools", "template": "T"}, {"name": "default", "template": "{{ eos_token }}D"}]);
        files.write(
            "tokenizer_config.json",
            &json!({"eos_token": "<eos>", "chat_template": named}).to_string(),
        );
        assert_eq!(files.load().expect("a list").render_chat(&[]).expect("constant"), "<eos>D");
        files.write("chat_template.jinja", "{{ strftime_now('%d %b %Y') }}|{{ {'a': [1, 2]} | tojson }}");
        let rendered = files.load().expect("a file").render_chat(&[]).expect("constant");
        assert_eq!(rendered, "26 Jul 2024|{\"a\": [1, 2]}");
        files.write("chat_template.jinja", "{% if %}");
        assert!(files.load().expect_err("no condition").to_string().contains("chat_template.jinja: "));
    }

    #[test]
    fn messages_need_a_template() {
        let error = text().render_chat(&[]).expect_err("none is there").to_string();
        assert!(error.contains("tokenizer_config.json: no `chat_template`"), "{error}");
    }
}
