//! The kinds of files, the good ones that damaged ones are made of, and how many of each are tried.

use std::path::Path;

use kernels::{GgufFile, GgufModel};
use longhaul::model::gguf::{Reading, text_files};
use trajectory::random::{Random, key_of, key_of_text};

use super::{hostile, mutations};
use crate::binary::repository;

/// The variable that sets how many files are made of each good one: more than the tests try is a long search.
pub(super) const FILES_VARIABLE: &str = "LONGHAUL_DAMAGED_FILES";

/// The file that says what a case was made of.
pub(super) const GOOD_NAME: &str = "made_of";

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gguf,
    Weights,
    ModelFiles,
    ChatTemplates,
    PromptTemplates,
    Lines,
    Columns,
    Adapters,
    RunConfigs,
}

impl Kind {
    pub(super) const ALL: [Self; 9] = [
        Self::Gguf,
        Self::Weights,
        Self::ModelFiles,
        Self::ChatTemplates,
        Self::PromptTemplates,
        Self::Lines,
        Self::Columns,
        Self::Adapters,
        Self::RunConfigs,
    ];

    /// How many files are made of each good one.
    fn files_of_each(self) -> u64 {
        let own = std::env::var(FILES_VARIABLE).ok().and_then(|count| count.parse().ok());
        own.unwrap_or(match self {
            Self::Gguf => 50,
            Self::Weights => 60,
            Self::ModelFiles => 120,
            Self::ChatTemplates | Self::PromptTemplates => 4,
            Self::Lines => 120,
            Self::Columns => 100,
            Self::Adapters => 50,
            Self::RunConfigs => 50,
        })
    }

    /// The damaged files, made one after the other.
    pub(super) fn cases(self) -> impl Iterator<Item = Case> {
        let (goods, count) = (self.goods(), self.files_of_each());
        let spoiled =
            goods.into_iter().flat_map(move |good| (0..count).map(move |number| good.spoiled(number)));
        self.written().into_iter().chain(spoiled)
    }

    /// The good files as they are.
    pub(super) fn undamaged(self) -> impl Iterator<Item = Case> {
        self.goods().into_iter().map(|Good { name, files }| Case { good: name.clone(), name, files })
    }

    /// Those that are written and not made of others.
    fn written(self) -> Vec<Case> {
        let of = |name: &str, number: usize, bytes: Vec<u8>| Case {
            name: format!("{name} {number}"),
            good: String::new(),
            files: vec![CaseFile { name: name.to_owned(), bytes }],
        };
        let templates = |name| {
            hostile::templates().into_iter().enumerate().map(move |(n, text)| of(name, n, text.into_bytes()))
        };
        match self {
            Self::ChatTemplates => templates("chat_template.jinja").collect(),
            Self::PromptTemplates => templates("prompt.jinja").collect(),
            Self::Lines => hostile::LINES
                .iter()
                .enumerate()
                .map(|(n, line)| of("rows.jsonl", n, line.to_vec()))
                .collect(),
            _ => Vec::new(),
        }
    }

    fn goods(self) -> Vec<Good> {
        let fixtures = repository().join("tests/fixtures");
        let folders = |names: &[&str]| {
            names.iter().map(|name| Good::folder(&fixtures.join(name))).collect::<Vec<Good>>()
        };
        let files = |name: &str, paths: Vec<std::path::PathBuf>| {
            paths.iter().map(|path| Good::file(path, name)).collect::<Vec<Good>>()
        };
        match self {
            Self::Gguf => files("model.gguf", in_folder(&fixtures.join("gguf"), "gguf")),
            Self::Weights => folders(&[
                "parity/llama_tied",
                "parity/llama_sharded",
                "parity/llama_bf16",
                "parity/gemma3_windows",
                "parity/qwen3_moe_sparse",
            ]),
            Self::ModelFiles => {
                let mut quickstart = Good::folder(&repository().join("models/quickstart"));
                let template = std::fs::read(fixtures.join("chat/templates/chatml.jinja")).unwrap();
                quickstart.files.push(CaseFile::new("chat_template.jinja", &template));
                vec![quickstart, Good::of_gguf(&fixtures)]
            }
            Self::ChatTemplates => {
                files("chat_template.jinja", in_folder(&fixtures.join("chat/templates"), "jinja"))
            }
            Self::PromptTemplates => {
                files("prompt.jinja", in_folder(&fixtures.join("chat/templates"), "jinja"))
            }
            Self::Lines => vec![
                Good { name: "lines".to_owned(), files: vec![CaseFile::new("rows.jsonl", LINES.as_bytes())] },
                Good { name: "chats".to_owned(), files: vec![CaseFile::new("rows.jsonl", CHATS.as_bytes())] },
            ],
            Self::Columns => ["rows.parquet", "rows.arrow"]
                .map(|name| Good::file(&fixtures.join("columns").join(name), name))
                .into(),
            Self::Adapters => folders(&[
                "adapters/gemma3",
                "adapters/llama",
                "adapters/llama_patterns",
                "adapters/mistral",
                "adapters/qwen2_rslora",
                "adapters/qwen3",
            ]),
            Self::RunConfigs => {
                let mut goods =
                    files("run.toml", RUN_CONFIGS.map(|name| repository().join("configs").join(name)).into());
                // The tests run in the repository, where a case is not.
                for file in goods.iter_mut().flat_map(|good| &mut good.files) {
                    let text = String::from_utf8_lossy(&file.bytes).replace("\"../models", "\"models");
                    file.bytes = text.into_bytes();
                }
                goods
            }
        }
    }
}

/// Configs whose models are in the repository, or made by the run.
const RUN_CONFIGS: [&str; 5] =
    ["bench_segments.toml", "correctness.toml", "quickstart.toml", "quickstart_sft.toml", "surrogate.toml"];

const LINES: &str = r#"{"prompt": "1+1=", "answer": "2", "level": 1}
{"prompt": "2+3=", "answer": ["5", "05"], "extra": {"unit": null, "weights": [0.5, 1e-3]}}
{"prompt": "4*5=", "answer": "20", "tags": ["a", "b"]}
"#;

const CHATS: &str = r#"{"messages": [{"role": "system", "content": "0"}, {"role": "user", "content": "1+1="}], "answer": "2"}
{"prompt": [{"role": "user", "content": "2+3="}], "answer": "5", "tools": [{"type": "function", "function": {"name": "f"}}]}
"#;

/// The files of a folder with an ending, in the order of their names.
fn in_folder(folder: &Path, ending: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|own| own == ending)).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{}", folder.display());
    paths
}

/// A folder with a damaged file in it.
pub(super) struct Case {
    pub(super) name: String,
    /// What it was made of.
    good: String,
    pub(super) files: Vec<CaseFile>,
}

impl Case {
    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes.len() as u64).sum()
    }

    pub(super) fn write(&self, folder: &Path) {
        std::fs::create_dir(folder).unwrap();
        std::fs::write(folder.join(GOOD_NAME), &self.good).unwrap();
        self.files.iter().for_each(|file| std::fs::write(folder.join(&file.name), &file.bytes).unwrap());
    }
}

#[derive(Clone)]
pub(super) struct CaseFile {
    pub(super) name: String,
    pub(super) bytes: Vec<u8>,
}

impl CaseFile {
    pub(super) fn new(name: &str, bytes: &[u8]) -> Self {
        Self { name: name.to_owned(), bytes: bytes.to_vec() }
    }
}

/// Files that are read.
pub(super) struct Good {
    pub(super) name: String,
    pub(super) files: Vec<CaseFile>,
}

/// Files of fixtures that no reader looks at.
const BESIDE: [&str; 2] = ["expected.json", "gradients.safetensors"];

impl Good {
    fn file(path: &Path, name: &str) -> Self {
        let bytes = std::fs::read(path).unwrap();
        // What is done to it does not depend on where the repository lies.
        let own = path.strip_prefix(repository()).unwrap().display().to_string();
        Self { name: own, files: vec![CaseFile { name: name.to_owned(), bytes }] }
    }

    /// A folder but for weights that are large.
    pub(super) fn folder(path: &Path) -> Self {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).unwrap() {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
            let name = name.to_str().unwrap().to_owned();
            let is_small = path.metadata().unwrap().len() < 1 << 20;
            if is_small && !BESIDE.contains(&name.as_str()) {
                files.push(CaseFile { name, bytes: std::fs::read(&path).unwrap() });
            }
        }
        files.sort_by(|one, other| one.name.cmp(&other.name));
        Self { name: path.file_name().unwrap().to_str().unwrap().to_owned(), files }
    }

    /// The small files of a model that come from a GGUF file: all that there are of them.
    fn of_gguf(fixtures: &Path) -> Self {
        let model = GgufModel::new(GgufFile::open(&fixtures.join("gguf/llama_bytes.gguf")).unwrap()).unwrap();
        let metadata = &model.file().header().metadata;
        let made = text_files(metadata, model.config().vocabulary, Reading::Transformers).unwrap();
        let mut files: Vec<CaseFile> =
            made.files.iter().map(|(name, text)| CaseFile::new(name, text.as_bytes())).collect();
        files.push(CaseFile::new("config.json", model.config().to_json().to_string().as_bytes()));
        Self { name: "of_gguf".to_owned(), files }
    }

    /// The same with one file damaged, or now and then gone.
    fn spoiled(&self, number: u64) -> Case {
        let mut random = Random::new(key_of(&[key_of_text(&self.name), number]));
        let mut files = self.files.clone();
        let at = random.below(files.len());
        let file = &mut files[at];
        let name = format!("{} {number}: {}", self.name, file.name);
        let rule = match file.name.rsplit_once('.').map(|(_, ending)| ending) {
            Some("json") => mutations::of_json,
            Some("jsonl") => mutations::of_lines,
            Some("safetensors") => mutations::of_safetensors,
            Some("gguf") => mutations::of_gguf,
            Some("toml") => mutations::of_toml,
            _ => mutations::of_bytes,
        };
        file.bytes = rule(&file.bytes, &mut random);
        if files.len() > 1 && random.below(40) == 0 {
            files.remove(at);
        }
        Case { name, good: self.name.clone(), files }
    }
}
