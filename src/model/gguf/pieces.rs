//! SentencePiece, the tokenizer model `llama`: BPE over characters, with tokens for bytes where a character has none. Files
//! have scores and no merges; these are the pairs of tokens that make a token, best score first.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::Reading;
use super::vocabulary::{Parts, Vocabulary};

/// Architectures whose tokenizer is Gemma's.
const GEMMA: [&str; 3] = ["gemma", "gemma2", "gemma3"];

/// What stands for a space.
pub(super) const SPACE: &str = "\u{2581}";

/// The `tokenizer.json`.
pub(super) fn tokenizer(
    vocabulary: &Vocabulary<'_>,
    reading: Reading,
    notes: &mut Vec<String>,
) -> Result<Value> {
    let metadata = vocabulary.metadata;
    // llama.cpp has one way for all architectures.
    let is_gemma = reading == Reading::Transformers
        && metadata.text("general.architecture")?.is_some_and(|name| GEMMA.contains(&name));
    let texts: Vec<String> = match is_gemma {
        true => vocabulary.tokens.iter().map(|token| with_marks(token)).collect(),
        false => vocabulary.tokens.to_vec(),
    };
    let scores = scores(vocabulary, is_gemma)?;
    let merges = ordered_merges(&texts, &scores);
    let merges = merges.map_err(|reason| metadata.wrong("tokenizer.ggml.tokens", reason))?;
    let merges: Vec<Value> = merges.into_iter().map(|merge| json!([merge.left, merge.right])).collect();
    let added: BTreeMap<usize, &str> = texts
        .iter()
        .enumerate()
        // Gemma's runs of spaces are tokens like others once they are written with marks.
        .filter(|(id, text)| vocabulary.is_added(*id) && **text == vocabulary.tokens[*id])
        .map(|(id, text)| (id, text.as_str()))
        .collect();
    let unknown = vocabulary.named[2].1.map_or("<unk>", |id| vocabulary.tokens[id as usize].as_str());
    let unknown = is_gemma.then_some(unknown);
    let ids: Map<String, Value> =
        texts.iter().cloned().enumerate().map(|(id, text)| (text, json!(id))).collect();
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
        "vocab": ids, "merges": merges,
    });
    let spaces = Spaces::of(vocabulary, is_gemma, reading, notes)?;
    let parts = Parts {
        added: vocabulary.added(&added),
        normalizer: spaces.normalizer(),
        pre_tokenizer: spaces.pre_tokenizer(),
        post_processor: vocabulary.around(true)?,
        decoder: spaces.decoder(),
        model,
    };
    Ok(parts.into_json())
}

/// A run of spaces, of two or more in Gemma's files, as the tokenizer looks it up.
fn with_marks(token: &str) -> String {
    let is_blank = token.contains(' ') && token.trim().is_empty();
    if is_blank { SPACE.repeat(token.chars().count()) } else { token.to_owned() }
}

/// What each token is worth: its score, or in Gemma's files its place, which is the order of the merges there.
fn scores(vocabulary: &Vocabulary<'_>, is_gemma: bool) -> Result<Vec<f64>> {
    const KEY: &str = "tokenizer.ggml.scores";
    let (metadata, count) = (vocabulary.metadata, vocabulary.tokens.len());
    if is_gemma {
        return Ok((0..count).map(|id| -(id as f64)).collect());
    }
    let scores = metadata.required(KEY, metadata.numbers(KEY)?)?;
    if scores.len() != count {
        bail!(metadata.wrong(KEY, format!("has {} entries for {count} tokens", scores.len())));
    }
    match scores.iter().find(|score| score.is_nan()) {
        Some(score) => bail!(metadata.wrong(KEY, format!("has {score}, which is no score"))),
        None => Ok(scores.to_vec()),
    }
}

/// A pair of tokens that makes a token, with what the order of merges goes by: the score of what it makes, and the lengths
/// in characters.
pub(super) struct Merge<'a> {
    pub(super) left: &'a str,
    pub(super) right: &'a str,
    score: f64,
    lengths: [usize; 2],
}

/// Bytes of all merges for each byte of the tokens. Real vocabularies have three; tokens that are all made of each other
/// have as many as the longest of them has bytes.
const MERGE_BYTES_MAX: usize = 64;

/// The merges in their order: the best score first, of one token the longest left part first.
///
/// # Errors
/// If they would take far more memory than the tokens do.
pub(super) fn ordered_merges<'a>(texts: &'a [String], scores: &[f64]) -> Result<Vec<Merge<'a>>, String> {
    let mut room = MERGE_BYTES_MAX * texts.iter().map(String::len).sum::<usize>();
    // Of a text that stands twice the last id counts, at the place of the first.
    let ids: HashMap<&str, usize> = texts.iter().enumerate().map(|(id, text)| (text.as_str(), id)).collect();
    let mut seen = std::collections::HashSet::new();
    let mut merges = Vec::new();
    for text in texts.iter().map(String::as_str).filter(|text| seen.insert(*text)) {
        let (score, length) = (scores[ids[text]], text.chars().count());
        for (place, (at, _)) in text.char_indices().enumerate().skip(1) {
            let (left, right) = text.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                room = room.checked_sub(text.len()).ok_or_else(|| {
                    format!(
                        "are made of each other in more ways than a vocabulary is: {text:?} is among them"
                    )
                })?;
                merges.push(Merge { left, right, score, lengths: [place, length - place] });
            }
        }
    }
    merges.sort_by(|one, other| {
        other.score.total_cmp(&one.score).then_with(|| other.lengths.cmp(&one.lengths))
    });
    Ok(merges)
}

/// What is done with spaces around the model.
enum Spaces {
    /// They become marks, and each ends a part.
    Gemma,
    /// They become marks, and a mark is put before a text that does not begin with one.
    Llama,
    /// They become marks; where `prefix` says so, a mark is put before every text between special tokens, as SentencePiece
    /// itself does it.
    LlamaCpp { prefix: bool },
}

impl Spaces {
    fn of(
        vocabulary: &Vocabulary<'_>,
        is_gemma: bool,
        reading: Reading,
        notes: &mut Vec<String>,
    ) -> Result<Self> {
        const KEY: &str = "tokenizer.ggml.add_space_prefix";
        if is_gemma {
            notes.push(format!(
                "{}: runs of spaces are merged as by transformers; llama.cpp takes the longest run that is a token, so that \
                 ids can differ in runs of more than 31 spaces, and where a text has the mark {SPACE} itself",
                vocabulary.metadata.path().display()
            ));
            return Ok(Self::Gemma);
        }
        let prefix = vocabulary.metadata.flag(KEY)?.unwrap_or(true);
        if reading == Reading::LlamaCpp {
            return Ok(Self::LlamaCpp { prefix });
        }
        if !prefix {
            notes.push(format!(
                "{}: `{KEY}` is false, which llama.cpp obeys; transformers puts a space before a text all the same, and \
                 so does the tokenizer that is written",
                vocabulary.metadata.path().display()
            ));
        }
        Ok(Self::Llama)
    }

    fn normalizer(&self) -> Value {
        let marks = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
        match self {
            Self::Llama => Value::Null,
            Self::LlamaCpp { prefix: true } => {
                json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, marks]})
            }
            Self::Gemma | Self::LlamaCpp { prefix: false } => marks,
        }
    }

    fn pre_tokenizer(&self) -> Value {
        match self {
            Self::Gemma => {
                json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false})
            }
            Self::Llama => {
                json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": false})
            }
            Self::LlamaCpp { .. } => Value::Null,
        }
    }

    fn decoder(&self) -> Value {
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if let Self::Llama | Self::LlamaCpp { prefix: true } = self {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        json!({"type": "Sequence", "decoders": decoders})
    }
}
