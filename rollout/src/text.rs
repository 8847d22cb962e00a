//! Text to token ids and back, as the Hugging Face directory of the model says: `tokenizer.json`, the chat
//! template and the tokens that end an output. Knows no prompts of a run and never evaluates model output.

mod budget;
mod source;
mod values;
mod python;
mod files;
mod classes;
mod template;
mod row_template;
mod variables;
#[cfg(test)]
mod fixtures_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::{
    DecodeStream, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer,
};

use crate::error::RolloutError;
use crate::guarded::guarded;
use crate::text::classes::Loaded;
use crate::text::files::{AddedTokens, ListedEnds, TokenizerConfig};
use crate::text::template::ChatTemplates;
use crate::token_bytes::TokenBytes;

pub use row_template::RowTemplate;
pub use template::{Chat, ChatEnding};
pub use variables::TemplateVariables;
pub(crate) use variables::check_tools;

/// Words whose tokens a tokenizer remembers, on each thread that encodes. Words of a language are soon among them;
/// prompts that are made for one use would fill its usual 10,000 with what never comes again, and a run would grow
/// by megabytes, for long ones by hundreds, while they do.
const WORDS_REMEMBERED_MAX: usize = 1024;

/// Letters of a token that an error shows: a damaged file has any number of them.
const TOKEN_SHOWN_MAX: usize = 200;

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
        let mut config = TokenizerConfig::read(directory)?;
        let Loaded { mut tokenizer, added, mut notes } = classes::load(directory, &mut config)?;
        let mut model = tokenizer.get_model().clone();
        model.resize_cache(WORDS_REMEMBERED_MAX);
        tokenizer.with_model(model);
        // A file that was saved after a training with a length limit has both, and they are of that use: obeyed, a prompt
        // would be cut or padded. transformers leaves them out of every call as well.
        let padding = tokenizer.get_padding().map(|padding| padding.pad_token.clone());
        notes.extend(former_use(&path, &tokenizer));
        tokenizer
            .with_truncation(None)
            .map_err(|error| RolloutError::content(&path, format!("truncation: {error}")))?;
        tokenizer.with_padding(None);
        let AddedTokens { new: new_tokens, notes: moved } =
            config.add_tokens(&mut tokenizer, added, directory)?;
        notes.extend(moved);
        tokenizer.set_encode_special_tokens(config.splits_special_tokens());
        if config.splits_special_tokens() {
            let path = directory.join("tokenizer_config.json");
            notes.push(format!(
                "{}: `split_special_tokens` is true: no text has special tokens",
                path.display()
            ));
        }
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
                return Err(RolloutError::Vocabulary { path, token: shown(&token), id, vocabulary: rows });
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
        let token = shown(&self.tokenizer.id_to_token(id).unwrap_or_default());
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
        let encode = || self.tokenizer.encode_fast(text, special_tokens).map_err(|error| error.to_string());
        let encoding = guarded(encode).map_err(|reason| self.refused("encode", reason))?;
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
        self.decoded(written, true)
    }

    /// Where no token writes anything there is no text: some decoders cannot be asked for it.
    fn decoded(&self, ids: &[u32], skip_special: bool) -> Result<String, RolloutError> {
        if !ids.iter().any(|id| self.writes(*id, skip_special)) {
            return Ok(String::new());
        }
        let decode = || self.tokenizer.decode(ids, skip_special).map_err(|error| error.to_string());
        guarded(decode).map_err(|reason| self.refused("decode", reason))
    }

    fn writes(&self, id: u32, skip_special: bool) -> bool {
        let is_special = |token: &String| self.tokenizer.get_added_vocabulary().is_special_token(token);
        self.tokenizer.id_to_token(id).is_some_and(|token| !skip_special || !is_special(&token))
    }

    /// What each token writes, in bytes.
    pub(crate) fn token_bytes(&self) -> Result<TokenBytes, RolloutError> {
        guarded(|| TokenBytes::new(&self.tokenizer))
            .map_err(|reason| self.refused("look for stop strings", reason))
    }

    fn refused(&self, action: &'static str, reason: String) -> RolloutError {
        RolloutError::Tokenizer { path: self.directory.join("tokenizer.json"), action, reason }
    }

    /// Ids as a text with its special tokens, for a person to look at.
    ///
    /// # Errors
    /// If the tokenizer refuses an id.
    pub fn show(&self, ids: &[u32]) -> Result<String, RolloutError> {
        self.decoded(ids, false)
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

/// A token for a message.
fn shown(token: &str) -> String {
    token.chars().take(TOKEN_SHOWN_MAX).collect()
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
        if self.text.is_eos(id) || !self.text.writes(id, true) {
            return Ok(String::new());
        }
        let step = || self.stream.step(id).map_err(|error| error.to_string());
        let piece = guarded(step).map_err(|reason| self.text.refused("decode", reason))?;
        Ok(piece.unwrap_or_default())
    }
}
