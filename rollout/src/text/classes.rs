//! The tokenizer as its class builds it. transformers 5 takes vocabulary, merges and post-processor of `tokenizer.json`
//! and, for the classes named here, not its normalizer, pre-tokenizer, decoder and model options: those are the class's
//! own. Files of older versions can say otherwise than the class, so that their ids are other ones.
//!
//! Which class is taken is decided as `AutoTokenizer` does, from `tokenizer_class` and `model_type`. Classes of encoders
//! and translators that are built anew as well are not done likewise: a note names them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::{AddedToken, Tokenizer};

use super::files::{TokenizerConfig, added_token, read_json};
use crate::error::RolloutError;
use crate::guarded::guarded;

/// A class that builds its own tokenizer around the vocabulary of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Llama,
    Gemma,
    Qwen2,
    Qwen35,
    Gpt2,
    GptNeoX,
    Cohere,
}

/// The classes by their names without `Fast`.
const CLASSES: [(&str, Class); 7] = [
    ("LlamaTokenizer", Class::Llama),
    ("GemmaTokenizer", Class::Gemma),
    ("Qwen2Tokenizer", Class::Qwen2),
    ("Qwen3_5Tokenizer", Class::Qwen35),
    ("GPT2Tokenizer", Class::Gpt2),
    ("GPTNeoXTokenizer", Class::GptNeoX),
    ("CohereTokenizer", Class::Cohere),
];

/// Classes that transformers builds anew too, and that are loaded as the file has them here.
const OTHERS: [&str; 18] = [
    "AlbertTokenizer",
    "BertTokenizer",
    "BigBirdTokenizer",
    "CLIPTokenizer",
    "CamembertTokenizer",
    "CodeGenTokenizer",
    "CodeLlamaTokenizer",
    "DebertaTokenizer",
    "DebertaV2Tokenizer",
    "MBartTokenizer",
    "MPNetTokenizer",
    "NllbTokenizer",
    "PegasusTokenizer",
    "RobertaTokenizer",
    "T5Tokenizer",
    "WhisperTokenizer",
    "XLMRobertaTokenizer",
    "XLNetTokenizer",
];

/// The class that transformers has for a `model_type`; the files of the types without a class are loaded as they are,
/// whatever class they name.
const REGISTERED: [(&str, &[&str]); 6] = [
    (
        "GemmaTokenizer",
        &[
            "gemma",
            "gemma2",
            "gemma3",
            "gemma3_text",
            "gemma3n",
            "gemma3n_text",
            "recurrent_gemma",
            "t5gemma",
        ],
    ),
    (
        "Qwen2Tokenizer",
        &["qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_vl"],
    ),
    ("Qwen3_5Tokenizer", &["qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text"]),
    ("GPT2Tokenizer", &["gpt2", "gpt_neo", "gptj", "codegen", "dbrx", "jais2", "opt", "phi", "starcoder2"]),
    (
        "GPTNeoXTokenizer",
        &["gpt_neox", "falcon_mamba", "mamba", "mamba2", "mpt", "olmo", "olmoe", "rwkv", "xlstm"],
    ),
    ("CohereTokenizer", &["cohere", "cohere2", "aya_vision"]),
];

/// The types whose files are loaded as they are.
const AS_IN_FILE: [&str; 40] = [
    "arctic",
    "beam",
    "ernie4_5",
    "ernie4_5_moe",
    "flex_olmo",
    "fuyu",
    "glm",
    "glm4",
    "glm4_moe",
    "glm4_moe_lite",
    "glm4v",
    "gpt_bigcode",
    "granite",
    "granitemoe",
    "granitemoehybrid",
    "granitemoeshared",
    "hyperclovax",
    "internlm2",
    "internlm3",
    "jamba",
    "kimi_k25",
    "kimi_linear",
    "llava",
    "llava_next",
    "mimo_v2_flash",
    "minicpm3",
    "minimax_m2",
    "ministral",
    "ministral3",
    "mistral",
    "mistral3",
    "mixtral",
    "nemotron",
    "olmo2",
    "olmo3",
    "olmo_hybrid",
    "persimmon",
    "phi3",
    "phimoe",
    "stablelm",
];

/// The types whose files are known to name a wrong class.
const NAME_ANOTHER: [&str; 4] = ["qwen2", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text"];

/// What Qwen's classes split a text by.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A tokenizer before tokens are added that only its companions have.
pub(super) struct Loaded {
    pub(super) tokenizer: Tokenizer,
    /// The added tokens of the file.
    pub(super) added: BTreeMap<u32, AddedToken>,
    pub(super) notes: Vec<String>,
}

/// Loads `tokenizer.json`, and gives the config the special tokens that the class takes for granted.
pub(super) fn load(directory: &Path, config: &mut TokenizerConfig) -> Result<Loaded, RolloutError> {
    let path = directory.join("tokenizer.json");
    let bytes = std::fs::read(&path).map_err(|error| RolloutError::file(&path, error))?;
    let no_tokenizer = |error: String| RolloutError::content(&path, format!("not a tokenizer: {error}"));
    let name = class_name(directory, config)?;
    let mut notes = Vec::new();
    if let Some(class) = name.as_deref().and_then(known) {
        let mut file: Value =
            serde_json::from_slice(&bytes).map_err(|error| no_tokenizer(error.to_string()))?;
        if builds(class, &file, directory, config)? {
            if rebuild(class, &mut file, config) {
                notes.push(format!(
                    "{}: `{}` of transformers 5 has a normalizer, pre-tokenizer or model options of its own, other than \
                     those of the file; they are used, as transformers uses them",
                    path.display(),
                    name.unwrap_or_default()
                ));
            }
            config.assume(special_tokens(class));
            let added = take_added(&mut file).ok_or_else(|| no_tokenizer("`added_tokens`".to_owned()))?;
            let written = serde_json::to_vec(&file).map_err(|error| no_tokenizer(error.to_string()))?;
            let tokenizer = of_bytes(&written).map_err(no_tokenizer)?;
            return Ok(Loaded { tokenizer, added, notes });
        }
    } else if let Some(name) = name.filter(|name| OTHERS.contains(&name.as_str())) {
        notes.push(format!(
            "{}: transformers 5 builds a `{name}` by rules of its own; here the file is obeyed, so ids can differ where \
             the file says otherwise",
            path.display()
        ));
    }
    let tokenizer = of_bytes(&bytes).map_err(no_tokenizer)?;
    let added = tokenizer.get_added_tokens_decoder().into_iter().collect();
    Ok(Loaded { tokenizer, added, notes })
}

/// The crate takes some parts of a file for granted.
fn of_bytes(bytes: &[u8]) -> Result<Tokenizer, String> {
    guarded(|| Tokenizer::from_bytes(bytes).map_err(|error| error.to_string()))
}

fn known(name: &str) -> Option<Class> {
    CLASSES.iter().find(|(known, _)| *known == name).map(|(_, class)| *class)
}

fn model_config(directory: &Path) -> Result<Value, RolloutError> {
    Ok(read_json(&directory.join("config.json"))?.unwrap_or_default())
}

/// The class that `AutoTokenizer` takes; `None` for the general one, which loads the file as it is.
fn class_name(directory: &Path, config: &TokenizerConfig) -> Result<Option<String>, RolloutError> {
    let model = model_config(directory)?;
    let named =
        config.field("tokenizer_class").filter(|name| !name.is_null()).unwrap_or(&model["tokenizer_class"]);
    let named = named.as_str().map(|name| name.strip_suffix("Fast").unwrap_or(name));
    let model_type = model["model_type"].as_str().unwrap_or_default();
    let registered =
        REGISTERED.iter().find(|(_, types)| types.contains(&model_type)).map(|(class, _)| *class);
    let class = match (named, registered) {
        (None, registered) => registered,
        (named, _) if has_code(config) => named,
        _ if AS_IN_FILE.contains(&model_type) => None,
        (Some(named), Some(registered)) if named != registered && NAME_ANOTHER.contains(&model_type) => {
            Some(registered)
        }
        (named, _) => named,
    };
    Ok(class.map(str::to_owned))
}

/// Whether the directory brings a tokenizer of its own, as code that is not run here and not by transformers unasked.
fn has_code(config: &TokenizerConfig) -> bool {
    config.field("auto_map").is_some_and(|map| map.is_array() || !map["AutoTokenizer"].is_null())
}

/// Whether the class can be built from the file: a byte-level file that names Llama's class is of Llama 3's kind, which
/// transformers loads as it is.
fn builds(
    class: Class,
    file: &Value,
    directory: &Path,
    config: &TokenizerConfig,
) -> Result<bool, RolloutError> {
    if file["model"]["merges"].is_null() || !file["model"]["vocab"].is_object() {
        return Ok(false);
    }
    let model = model_config(directory)?;
    let is_registered = NAME_ANOTHER.contains(&model["model_type"].as_str().unwrap_or_default());
    let is_byte_level = [&file["pre_tokenizer"], &file["decoder"]].into_iter().any(has_byte_level);
    Ok(class != Class::Llama || !is_byte_level || has_code(config) || is_registered)
}

fn has_byte_level(part: &Value) -> bool {
    let inner = ["pretokenizers", "decoders"].into_iter().filter_map(|name| part[name].as_array());
    part["type"] == "ByteLevel" || inner.flatten().any(has_byte_level)
}

/// Puts the class's parts in the place of the file's; whether they are others.
fn rebuild(class: Class, file: &mut Value, config: &TokenizerConfig) -> bool {
    let parts = parts(class, config);
    let Value::Object(fields) = file else { return false };
    let mut is_other = false;
    for name in ["normalizer", "pre_tokenizer", "decoder"] {
        let part = parts[name].clone();
        // What only turns ids into text is no reason for a note.
        is_other |= name != "decoder" && fields.get(name).is_none_or(|former| completed(former) != part);
        fields.insert(name.to_owned(), part);
    }
    if class == Class::GptNeoX {
        fields.insert("post_processor".to_owned(), Value::Null);
    }
    let Some(Value::Object(model)) = fields.get_mut("model") else { return is_other };
    let mut options: Map<String, Value> = Map::from_iter([("type".to_owned(), json!("BPE"))]);
    for (name, value) in parts["model"].as_object().into_iter().flatten() {
        let former = model.get(name).cloned().unwrap_or_default();
        is_other |= is_set(&former) && former != *value;
        options.insert(name.clone(), value.clone());
    }
    for name in ["vocab", "merges"] {
        options.insert(name.to_owned(), model.remove(name).unwrap_or_default());
    }
    *model = options;
    is_other
}

/// Files of old versions leave out what has since been given a name.
fn completed(part: &Value) -> Value {
    let mut part = part.clone();
    if part["type"] == "ByteLevel" && part["use_regex"].is_null() {
        part["use_regex"] = json!(true);
    }
    part
}

fn is_set(option: &Value) -> bool {
    !matches!(option, Value::Null | Value::Bool(false)) && option != ""
}

fn parts(class: Class, config: &TokenizerConfig) -> Value {
    let flag = |name: &str| config.field(name).and_then(Value::as_bool);
    let prefix = flag("add_prefix_space");
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix.unwrap_or(false), "trim_offsets": true, "use_regex": regex});
    let decoder =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let plain = json!({"unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": false,
        "byte_fallback": false, "ignore_merges": false, "dropout": null});
    let of_bytes = |normalizer: Value, pre_tokenizer: Value| json!({"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "decoder": decoder, "model": plain});
    let nfc = json!({"type": "NFC"});
    let split = |regex: &str| {
        let split =
            json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]})
    };
    let digits = json!({"type": "Digits", "individual_digits": true});
    match class {
        Class::Llama => llama(prefix.unwrap_or(true), flag("legacy").unwrap_or(false)),
        Class::Gemma => gemma(config.token("unk_token").unwrap_or("<unk>")),
        Class::Qwen2 => of_bytes(nfc, split(QWEN2)),
        Class::Qwen35 => of_bytes(nfc, split(QWEN35)),
        Class::Gpt2 => of_bytes(Value::Null, bytes(true)),
        Class::GptNeoX => of_bytes(nfc, bytes(true)),
        Class::Cohere => of_bytes(nfc, json!({"type": "Sequence", "pretokenizers": [digits, bytes(true)]})),
    }
}

/// With `legacy` each text behind a special token gets the mark of a word's beginning, without it only the first text.
fn llama(prefix: bool, legacy: bool) -> Value {
    let scheme = match (prefix, legacy) {
        (false, _) => "never",
        (true, true) => "always",
        (true, false) => "first",
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({
        "normalizer": null,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false},
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "ignore_merges": false, "dropout": null},
    })
}

fn gemma(unknown: &str) -> Value {
    json!({
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"unk_token": unknown, "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "ignore_merges": false, "dropout": null},
    })
}

/// What a class's special tokens are called where the files do not say it.
fn special_tokens(class: Class) -> &'static [(&'static str, &'static str)] {
    const END: &str = "<|endoftext|>";
    match class {
        Class::Llama => &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")],
        Class::Gemma => &[
            ("bos_token", "<bos>"),
            ("eos_token", "<eos>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
        ],
        Class::Qwen2 | Class::Qwen35 => &[("eos_token", END), ("unk_token", END), ("pad_token", END)],
        Class::Gpt2 => &[("bos_token", END), ("eos_token", END), ("unk_token", END)],
        Class::GptNeoX => {
            &[("bos_token", END), ("eos_token", END), ("unk_token", END), ("pad_token", "<|padding|>")]
        }
        Class::Cohere => &[
            ("bos_token", "<BOS_TOKEN>"),
            ("eos_token", "<|END_OF_TURN_TOKEN|>"),
            ("unk_token", "<UNK>"),
            ("sep_token", "<SEP>"),
            ("pad_token", "<PAD>"),
            ("cls_token", "<CLS>"),
            ("mask_token", "<MASK_TOKEN>"),
        ],
    }
}

/// Takes the added tokens out: they are added again, in the order of their ids, with those of the companions.
fn take_added(file: &mut Value) -> Option<BTreeMap<u32, AddedToken>> {
    let listed = std::mem::replace(&mut file["added_tokens"], json!([]));
    let one = |token: &Value| {
        let id = u32::try_from(token["id"].as_u64()?).ok()?;
        Some((id, added_token(token, false)?))
    };
    listed.as_array()?.iter().map(one).collect()
}
