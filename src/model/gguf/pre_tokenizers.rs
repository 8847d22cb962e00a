//! How texts are cut before byte-level BPE, by the word under `tokenizer.ggml.pre`.

use serde_json::{Value, json};

use super::Reading;

/// A way of cutting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Split {
    /// GPT-2's pattern.
    Gpt2,
    /// Every digit by itself, then GPT-2's pattern.
    DigitsGpt2,
    /// A pattern whose matches, and what lies between them, are the parts.
    Pattern(&'static str),
}

/// What a word stands for.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    /// The words.
    pub(super) names: &'static [&'static str],
    /// As transformers reads it; `None` stands for the same.
    transformers: Option<Split>,
    /// As llama.cpp reads it.
    llama_cpp: Split,
    /// Whether a whole word that is a token is taken as such in llama.cpp.
    pub(super) whole_words_first: bool,
    /// Whether llama.cpp puts the begin before a text where the file does not say it.
    pub(super) adds_bos: bool,
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Rows in which both programs cut in one way, words of a text first or not.
const fn both(names: &'static [&'static str], split: Split) -> PreTokenizer {
    PreTokenizer { names, transformers: None, llama_cpp: split, whole_words_first: false, adds_bos: false }
}

/// The words that are read.
pub(super) static PRE_TOKENIZERS: [PreTokenizer; 7] = [
    both(
        &[
            "gpt-2",
            "default",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "mpt",
            "olmo",
            "jais",
            "modern-bert",
        ],
        Split::Gpt2,
    ),
    PreTokenizer {
        names: &["smollm", "refact", "starcoder", "command-r", "codeshell", "exaone", "minerva-7b"],
        transformers: Some(Split::Gpt2),
        llama_cpp: Split::DigitsGpt2,
        whole_words_first: false,
        adds_bos: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        transformers: None,
        llama_cpp: Split::Pattern(LLAMA3),
        whole_words_first: true,
        adds_bos: true,
    },
    both(&["smaug-bpe", "dbrx"], Split::Pattern(LLAMA3)),
    both(&["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"], Split::Pattern(QWEN2)),
    PreTokenizer {
        names: &["tekken"],
        transformers: None,
        llama_cpp: Split::Pattern(TEKKEN),
        whole_words_first: true,
        adds_bos: true,
    },
    both(&["gpt-4o", "llama4", "kanana2"], Split::Pattern(GPT4O)),
];

impl PreTokenizer {
    /// The row of a word.
    pub(super) fn of(name: &str) -> Option<&'static Self> {
        PRE_TOKENIZERS.iter().find(|row| row.names.contains(&name))
    }

    /// How a program cuts.
    pub(super) fn split(&self, reading: Reading) -> Split {
        match reading {
            Reading::Transformers => self.transformers.unwrap_or(self.llama_cpp),
            Reading::LlamaCpp => self.llama_cpp,
        }
    }

    /// Whether the two programs cut differently.
    pub(super) fn differs(&self) -> bool {
        self.transformers.is_some_and(|split| split != self.llama_cpp)
    }
}

impl Split {
    /// The `pre_tokenizer` of a `tokenizer.json`.
    pub(super) fn to_json(self) -> Value {
        let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let sequence =
            |first: Value, regex: bool| json!({"type": "Sequence", "pretokenizers": [first, bytes(regex)]});
        match self {
            Self::Gpt2 => bytes(true),
            Self::DigitsGpt2 => sequence(json!({"type": "Digits", "individual_digits": true}), true),
            Self::Pattern(pattern) => sequence(
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}),
                false,
            ),
        }
    }
}

/// The word for what a `tokenizer.json` does, if there is one.
pub(super) fn name_of(pre_tokenizer: &Value, whole_words_first: bool) -> Option<&'static str> {
    let split = split_of(pre_tokenizer)?;
    let fits = |row: &&PreTokenizer| row.llama_cpp == split && row.whole_words_first == whole_words_first;
    PRE_TOKENIZERS.iter().find(fits).map(|row| row.names[0])
}

/// What a `pre_tokenizer` does; offsets of tokens do not matter.
fn split_of(pre_tokenizer: &Value) -> Option<Split> {
    let bytes = |part: &Value, regex: bool| {
        let has_regex = part["use_regex"].as_bool().unwrap_or(true);
        part["type"] == "ByteLevel" && part["add_prefix_space"] == false && has_regex == regex
    };
    if bytes(pre_tokenizer, true) {
        return Some(Split::Gpt2);
    }
    let [first, second] = pre_tokenizer["pretokenizers"].as_array()?.as_slice() else { return None };
    if first["type"] == "Digits" && first["individual_digits"] == true && bytes(second, true) {
        return Some(Split::DigitsGpt2);
    }
    let is_isolated = first["type"] == "Split" && first["behavior"] == "Isolated" && first["invert"] != true;
    let pattern = first["pattern"]["Regex"].as_str().filter(|_| is_isolated && bytes(second, false))?;
    let mut known = PRE_TOKENIZERS.iter().map(|row| row.llama_cpp);
    known.find(|split| matches!(split, Split::Pattern(own) if *own == pattern))
}
