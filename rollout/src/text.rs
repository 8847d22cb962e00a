//! Text to token ids and back, as the Hugging Face directory of the model says: `tokenizer.json`, the chat
//! template and the tokens that end an output. Knows no prompts of a run and never evaluates model output.

mod source;
mod values;
mod python;
mod files;
mod template;
mod variables;
#[cfg(test)]
mod fixtures_tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::{
    DecodeStream, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer,
};

use crate::error::RolloutError;
use crate::text::files::{ListedEnds, TokenizerConfig};
use crate::text::template::ChatTemplates;
use crate::token_bytes::TokenBytes;

pub use template::{Chat, ChatEnding};
pub use variables::TemplateVariables;
pub(crate) use variables::check_tools;

/// Words whose tokens a tokenizer remembers, on each thread that encodes. Words of a language are soon among them;
/// prompts that are made for one use would fill its usual 10,000 with what never comes again, and a run would grow
/// by megabytes, for long ones by hundreds, while they do.
const WORDS_REMEMBERED_MAX: usize = 1024;

/// Tokens that a note lists.
const TOKENS_LISTED_MAX: usize = 5;

/// The tokenizer of a model, its chat template and its ends of output.
pub struct Text {
    directory: PathBuf,
    tokenizer: Tokenizer,
    templates: ChatTemplates,
    special_tokens: Map<String, Value>,
    eos_ids: Vec<u32>,
    /// The tokenizer's own one of them, as its config names it.
    eos_token: Option<String>,
    listed: ListedEnds,
    /// Tokens that tokenizer.json lacks, by their ids.
    new_tokens: BTreeMap<u32, String>,
    /// Rows of the model's embedding, where a model goes with it.
    rows: Option<usize>,
    notes: Vec<String>,
}

impl std::fmt::Debug for Text {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Text").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Text {
    /// Reads a Hugging Face directory. Only `tokenizer.json` must exist; without a chat template, prompts of
    /// messages are refused when they come.
    ///
    /// # Errors
    /// Names the file that is missing or that cannot be read.
    pub fn load(directory: &Path) -> Result<Self, RolloutError> {
        let path = directory.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|error| RolloutError::file(&path, error))?;
        let mut tokenizer = Tokenizer::from_bytes(bytes)
            .map_err(|error| RolloutError::content(&path, format!("not a tokenizer: {error}")))?;
        let mut model = tokenizer.get_model().clone();
        model.resize_cache(WORDS_REMEMBERED_MAX);
        tokenizer.with_model(model);
        // A file that was saved after a training with a length limit has both, and they are of that use: obeyed, a prompt
        // would be cut or padded. transformers leaves them out of every call as well.
        let padding = tokenizer.get_padding().map(|padding| padding.pad_token.clone());
        let mut notes = former_use(&path, &tokenizer);
        tokenizer
            .with_truncation(None)
            .map_err(|error| RolloutError::content(&path, format!("truncation: {error}")))?;
        tokenizer.with_padding(None);
        let config = TokenizerConfig::read(directory)?;
        let new_tokens = config.add_tokens(&mut tokenizer, directory)?;
        if !new_tokens.is_empty() {
            let (count, listed) = (new_tokens.len(), listed(new_tokens.iter()));
            let path = directory.join("tokenizer_config.json");
            notes.push(format!("{}: tokens that tokenizer.json lacks: {count} ({listed})", path.display()));
        }
        let listed = ListedEnds::read(directory)?;
        notes.extend(listed.notes.iter().cloned());
        let eos_ids = files::eos_ids(directory, &tokenizer, &config, &listed)?;
        let eos_token = config.token("eos_token").map(str::to_owned);
        let templates = ChatTemplates::new(files::templates(directory, &config)?);
        let special_tokens = config.variables(padding.as_deref());
        let (directory, rows) = (directory.to_path_buf(), None);
        Ok(Self {
            directory,
            tokenizer,
            templates,
            special_tokens,
            eos_ids,
            eos_token,
            listed,
            new_tokens,
            rows,
            notes,
        })
    }

    /// The same for a model whose embedding has so many rows. A text with an added token that has no row is refused when
    /// it is encoded; other texts are not concerned.
    ///
    /// # Errors
    /// If a token of the vocabulary, or an end of output, has no row.
    pub fn for_rows(mut self, rows: usize) -> Result<Self, RolloutError> {
        if let Some(id) = self.listed.ids.iter().find(|id| **id as usize >= rows) {
            let reason = format!(
                "eos_token_id {id} is outside the vocabulary of {rows} tokens, so nothing ends there"
            );
            return Err(RolloutError::content(&self.listed.path, reason));
        }
        let own = self.eos_token.as_ref().and_then(|token| self.tokenizer.token_to_id(token));
        if let Some(id) = own.filter(|id| *id as usize >= rows) {
            return Err(self.without_row(id, rows, "the end of output "));
        }
        match self.tokenizer.get_vocab(false).into_iter().max_by_key(|(_, id)| *id) {
            Some((token, id)) if id as usize >= rows => {
                let path = self.directory.join("tokenizer.json");
                return Err(RolloutError::Vocabulary { path, token, id, vocabulary: rows });
            }
            _ => {}
        }
        let added = self.tokenizer.get_added_tokens_decoder();
        let without: BTreeMap<u32, String> = added
            .into_iter()
            .filter(|(id, _)| *id as usize >= rows)
            .map(|(id, token)| (id, token.content))
            .collect();
        if !without.is_empty() {
            self.notes.push(format!(
                "{}: tokens without a row in the model's embedding of {rows} rows: {} ({}); a text that has one is \
                 refused",
                self.directory.display(),
                without.len(),
                listed(without.iter())
            ));
        }
        self.rows = Some(rows);
        Ok(self)
    }

    fn without_row(&self, id: u32, rows: usize, what: &'static str) -> RolloutError {
        let is_new = self.new_tokens.contains_key(&id);
        let name = if is_new { "tokenizer_config.json" } else { "tokenizer.json" };
        let token = self.tokenizer.id_to_token(id).unwrap_or_default();
        RolloutError::WithoutRow { what, token, id, rows, path: self.directory.join(name) }
    }

    /// What a person should know about the files.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The ids of a plain prompt, with the special tokens that the tokenizer puts around a text (for
    /// example a beginning-of-text token).
    ///
    /// # Errors
    /// If the tokenizer refuses the text, or gives an id that the model has no row for.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, RolloutError> {
        self.encode_with(text, true)
    }

    /// The ids of a text that stands inside a sequence, such as a demonstration: nothing is put around it.
    ///
    /// # Errors
    /// As [`Text::encode`].
    pub fn encode_fragment(&self, text: &str) -> Result<Vec<u32>, RolloutError> {
        self.encode_with(text, false)
    }

    fn encode_with(&self, text: &str, special_tokens: bool) -> Result<Vec<u32>, RolloutError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, special_tokens)
            .map_err(|error| RolloutError::Tokenizer { action: "encode", reason: error.to_string() })?;
        let ids = encoding.get_ids();
        match (self.rows, ids.iter().max()) {
            (Some(rows), Some(id)) if *id as usize >= rows => Err(self.without_row(*id, rows, "")),
            _ => Ok(ids.to_vec()),
        }
    }

    /// A conversation as the text that the model's chat template makes of it.
    /// The text carries its own special tokens, so its ids are [`Text::encode_fragment`] of it.
    ///
    /// # Errors
    /// Names the file of the template and its line, for a template that does not compile, raises, or is not there.
    pub fn render_chat(&self, chat: &Chat<'_>) -> Result<String, RolloutError> {
        self.templates.render(chat, &self.special_tokens, &self.directory)
    }

    /// The text of a completion. The token that ended it, if one did, is not part of the text; neither are
    /// special tokens.
    ///
    /// # Errors
    /// If the tokenizer refuses an id.
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

    /// Ids as a text with its special tokens, for a person to look at.
    ///
    /// # Errors
    /// If the tokenizer refuses an id.
    pub fn show(&self, ids: &[u32]) -> Result<String, RolloutError> {
        self.tokenizer
            .decode(ids, false)
            .map_err(|error| RolloutError::Tokenizer { action: "decode", reason: error.to_string() })
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

/// What tokenizer.json says about the length of texts, which is of a former use.
fn former_use(path: &Path, tokenizer: &Tokenizer) -> Vec<String> {
    let truncation = tokenizer
        .get_truncation()
        .map(|truncation| format!("`truncation` to {} tokens", truncation.max_length));
    let padding = tokenizer.get_padding().map(|_| "`padding`".to_owned());
    let note = |what| format!("{}: {what} is not obeyed, as transformers does not obey it", path.display());
    truncation.into_iter().chain(padding).map(note).collect()
}

/// Some tokens with their ids.
fn listed<'a>(tokens: impl Iterator<Item = (&'a u32, &'a String)>) -> String {
    let named = tokens.map(|(id, token)| format!("{token:?} is {id}"));
    let mut named: Vec<String> = named.take(TOKENS_LISTED_MAX + 1).collect();
    if named.len() > TOKENS_LISTED_MAX {
        named[TOKENS_LISTED_MAX] = "...".to_owned();
    }
    named.join(", ")
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
    ///
    /// # Errors
    /// If the tokenizer refuses the id.
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

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::{Chat, ChatEnding};
    use crate::testing::{TextFiles, text};

    fn chat(messages: &[Value]) -> Chat<'_> {
        static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
        Chat { messages, tools: None, variables: &NONE, ending: ChatEnding::GenerationPrompt }
    }

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
        // An id below 0 is nobody's, and the other file is not asked where one lists more.
        files.write("generation_config.json", r#"{"eos_token_id": [-1, 3]}"#);
        let text = files.load().expect("a tokenizer");
        assert_eq!(text.eos_ids(), &[0, 3]);
        let notes = text.notes();
        assert!(
            notes.len() == 1 && notes[0].contains("generation_config.json: eos_token_id -1"),
            "{notes:?}"
        );
        files.write("generation_config.json", r#"{"eos_token_id": -1}"#);
        assert_eq!(files.load().expect("a tokenizer").eos_ids(), &[0, 5]);
        files.write("generation_config.json", r#"{"eos_token_id": [3, 700]}"#);
        let error = files.load().expect("a tokenizer").for_rows(500).expect_err("700").to_string();
        assert!(error.contains("generation_config.json: eos_token_id 700"), "{error}");
        files.write("generation_config.json", r#"{"eos_token_id": "x"}"#);
        let error = files.load().expect_err("x is no id").to_string();
        assert!(error.contains("generation_config.json: eos_token_id"), "{error}");
    }

    #[test]
    fn a_model_without_an_end_of_output_is_refused() {
        let files = TextFiles::new();
        files.write("tokenizer_config.json", "{}");
        assert!(files.load().expect_err("no end").to_string().contains("eos_token"));
        // transformers adds a token that tokenizer.json lacks; whether it can be drawn is the model's matter.
        files.write("tokenizer_config.json", r#"{"eos_token": {"content": "<none>"}}"#);
        let text = files.load().expect("it is added");
        assert_eq!(text.eos_ids(), &[7]);
        assert!(text.notes()[0].contains("tokens that tokenizer.json lacks: 1 (\"<none>\" is 7)"));
        let error = text.for_rows(7).expect_err("no row").to_string();
        assert!(
            error.contains("tokenizer_config.json: the end of output token \"<none>\" has id 7")
                && error.contains("embedding has 7 rows"),
            "{error}"
        );
    }

    #[test]
    fn a_tokenizer_must_fit_the_vocabulary() {
        let load = || TextFiles::new().load().expect("a tokenizer");
        assert!(load().for_rows(7).expect("ids 0 to 6").notes().is_empty());
        let error = load().for_rows(6).expect_err("id 6 has no row").to_string();
        assert!(error.contains("tokenizer.json: token \"e\" has id 6"), "{error}");
    }

    #[test]
    fn an_added_token_without_a_row_concerns_texts_that_have_it() {
        let files = TextFiles::new();
        files.write("tokenizer_config.json", r#"{"eos_token": "<eos>", "extra_special_tokens": ["<note>"]}"#);
        let text = files.load().expect("a tokenizer").for_rows(7).expect("no end of output");
        assert_eq!(text.encode("ab").expect("known"), [2, 3]);
        let error = text.encode_fragment("a<note>b").expect_err("id 7 of 7").to_string();
        for part in ["tokenizer_config.json: ", "\"<note>\" has id 7", "has 7 rows", "resize"] {
            assert!(error.contains(part), "{error}");
        }
        let notes = text.notes().join("\n");
        assert!(
            notes.contains("without a row in the model's embedding of 7 rows: 1 (\"<note>\" is 7)"),
            "{notes}"
        );
        let roomy = files.load().expect("a tokenizer").for_rows(8).expect("a row for it");
        assert_eq!(roomy.encode("a<note>b").expect("a row for it"), [2, 7, 3]);
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
            text.render_chat(&chat(&messages)).expect("two good messages"),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n"
        );
        let error =
            text.render_chat(&chat(&[json!({"role": "x", "content": ""})])).expect_err("x is no role");
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
        assert_eq!(
            files.load().expect("a list").render_chat(&chat(&[json!({"role": "user"})])).expect("constant"),
            "<eos>D"
        );
        files.write("chat_template.jinja", "{{ strftime_now('%d %b %Y') }}|{{ {'a': [1, 2]} | tojson }}");
        let rendered =
            files.load().expect("a file").render_chat(&chat(&[json!({"role": "user"})])).expect("constant");
        assert_eq!(rendered, "26 Jul 2024|{\"a\": [1, 2]}");
        files.write("chat_template.jinja", "{% if %}");
        // Only prompts that need the template are refused.
        let text = files.load().expect("prompts of text need no template");
        let error =
            text.render_chat(&chat(&[json!({"role": "user"})])).expect_err("no condition").to_string();
        assert!(error.contains("chat_template.jinja: chat template: line 1: "), "{error}");
    }

    #[test]
    fn messages_need_a_template() {
        let error =
            text().render_chat(&chat(&[json!({"role": "user"})])).expect_err("none is there").to_string();
        assert!(error.contains("tokenizer_config.json: no `chat_template`"), "{error}");
    }
}
