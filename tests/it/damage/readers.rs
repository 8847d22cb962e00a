//! Reads a folder of each kind with all that reads such files, as commands do.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use kernels::model::families;
use kernels::{
    Decoder, Device, GgufFile, GgufModel, KernelError, ModelDirectory, ModelPlace, PeftAdapter, TensorSource,
};
use longhaul::config::Config;
use longhaul::model::ModelFiles;
use longhaul::model::gguf::{Reading, text_files};
use rewards::Split;
use rollout::{Chat, ChatEnding, DataConfig, Needs, PromptSource, RowFile, RowTemplate, Text, json_object};
use serde_json::{Map, Value, json};

use super::cases::{GOOD_NAME, Kind};
use crate::binary::repository;

/// Prompts that are looked at behind the first look at all rows.
const PROMPTS: u64 = 3;

/// Letters of a rendered conversation that are made tokens of.
const ENCODED_MAX: usize = 2000;

impl Kind {
    /// Reads what is there, or says why it cannot be read.
    pub(super) fn read(self, folder: &Path) -> Result<(), String> {
        match self {
            Self::Gguf => gguf(folder).map_err(|error| format!("{error:#}")),
            Self::Weights => weights(folder).map_err(|error| error.to_string()),
            Self::ModelFiles => model_files(folder).map_err(|error| format!("{error:#}")),
            Self::ChatTemplates => chat_template(folder),
            Self::PromptTemplates => prompt_template(folder),
            Self::Lines => rows(&folder.join("rows.jsonl"), json!({})),
            Self::Columns => {
                let name = if folder.join("rows.arrow").exists() { "rows.arrow" } else { "rows.parquet" };
                rows(&folder.join(name), json!({"prompt": "question", "answer": "reward_model.ground_truth"}))
            }
            Self::Adapters => adapter(folder).map_err(|error| error.to_string()),
            Self::RunConfigs => {
                let loaded = Config::load(&folder.join("run.toml"), &[]);
                loaded.map(drop).map_err(|error| error.to_string())
            }
        }
    }
}

/// Goes through all numbers of a model.
fn all_numbers(source: &mut dyn TensorSource, shapes: Vec<(String, [usize; 2])>) -> Result<(), KernelError> {
    shapes.into_iter().try_for_each(|(name, shape)| source.read(&name, shape, &mut |_| Ok(())))
}

fn shapes(config: &kernels::DecoderConfig) -> Vec<(String, [usize; 2])> {
    config.shapes().named().into_iter().map(|(name, shape)| (name, *shape)).collect()
}

fn gguf(folder: &Path) -> anyhow::Result<()> {
    let mut model = GgufModel::new(GgufFile::open(&folder.join("model.gguf"))?)?;
    let config = model.config().clone();
    for reading in [Reading::Transformers, Reading::LlamaCpp] {
        let made = text_files(&model.file().header().metadata, config.vocabulary, reading)?;
        let dir = folder.join(format!("{reading:?}"));
        std::fs::create_dir(&dir)?;
        for (name, text) in &made.files {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().expect("a file in a folder"))?;
            std::fs::write(path, text)?;
        }
        text(&Text::load(&dir)?.for_rows(config.vocabulary)?)?;
    }
    let shapes = shapes(&config);
    Ok(all_numbers(&mut model, shapes)?)
}

fn weights(folder: &Path) -> Result<(), KernelError> {
    Decoder::load(folder, &Device::flex())?;
    let mut directory = ModelDirectory::open(folder)?;
    let shapes = shapes(directory.config());
    all_numbers(&mut directory, shapes)
}

fn model_files(folder: &Path) -> anyhow::Result<()> {
    let files = ModelFiles::read(folder, None)?;
    text(&files.text)?;
    let rendered = render(&files.text)?;
    let start: String = rendered.chars().take(ENCODED_MAX).collect();
    files.text.encode_fragment(&start)?;
    Ok(())
}

/// To tokens and back.
fn text(text: &Text) -> Result<(), rollout::RolloutError> {
    let ids = text.encode("1+2=3; what is\nit?")?;
    text.decode(&ids)?;
    text.show(&ids)?;
    let mut stream = text.stream();
    ids.iter().try_for_each(|id| stream.push(*id).map(drop))
}

/// Renders a question; and conversations of all kinds, which many templates refuse.
fn render(text: &Text) -> Result<String, rollout::RolloutError> {
    let messages = [
        json!({"role": "user", "content": "1+2="}),
        json!({"role": "assistant", "content": "<think>so</think>3", "tool_calls": [
            {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": [2, null]}}}]}),
        json!({"role": "tool", "content": "3"}),
        json!({"role": "user", "content": "é😀"}),
        json!({"role": "system", "content": "Add."}),
    ];
    let tools = json!([{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]);
    let variables = Map::new();
    let chat = |messages, tools| Chat {
        messages,
        tools,
        variables: &variables,
        ending: ChatEnding::GenerationPrompt,
    };
    for (messages, tools) in [(&messages[..4], Some(&tools)), (&messages[..], None)] {
        let _ = text.render_chat(&chat(messages, tools));
    }
    text.render_chat(&chat(&messages[..1], None))
}

/// The quickstart's tokenizer with a chat template.
static QUICKSTART: LazyLock<Arc<Text>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    copy_tokenizer(folder.path());
    let template = "{% for message in messages %}{{ message.content }}{% endfor %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).expect("a file");
    Arc::new(Text::load(folder.path()).expect("a tokenizer"))
});

fn copy_tokenizer(folder: &Path) {
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(repository().join("models/quickstart").join(name), folder.join(name)).expect("a copy");
    }
}

fn chat_template(folder: &Path) -> Result<(), String> {
    copy_tokenizer(folder);
    let text = Text::load(folder).map_err(|error| error.to_string())?;
    render(&text).map(drop).map_err(|error| error.to_string())
}

fn prompt_template(folder: &Path) -> Result<(), String> {
    const ROW: &str = r#"{"question": "1+1?", "level": 3, "none": null, "extra": {"unit": "kg", "items": [1]},
        "messages": [{"role": "user", "content": "a"}], "tools": null, "documents": null, "custom_tools": null,
        "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": true, "enable_thinking": false}"#;
    let template = std::fs::read(folder.join("prompt.jinja")).expect("the case's file");
    let template = String::from_utf8(template).map_err(|error| error.to_string())?;
    RowTemplate::new(&template)?.render(&json_object(ROW)?).map(drop)
}

fn rows(path: &Path, more: Value) -> Result<(), String> {
    let mut file = RowFile::open(path).map_err(|error| error.to_string())?;
    while let Some(line) = file.next_row().map_err(|error| error.to_string())? {
        // What is wrong with a row is said when all are looked at.
        let _ = line.text.map(|text| json_object(&text));
    }
    let mut config = json!({"kind": "jsonl", "path": path});
    config.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
    let config: DataConfig = serde_json::from_value(config).expect("a section `data`");
    let opened = PromptSource::open(&config, Split::Train, 1, Arc::clone(&QUICKSTART), &Needs::default());
    let (source, survey) = opened.map_err(|error| error.to_string())?;
    assert!(survey.prompts > 0);
    (0..PROMPTS).try_for_each(|index| source.prompt(index).map(drop).map_err(|error| error.to_string()))
}

/// An adapter and the base that the good one has.
fn adapter(folder: &Path) -> Result<(), KernelError> {
    let name = std::fs::read_to_string(folder.join(GOOD_NAME)).expect("the good one's name");
    let good = repository().join("tests/fixtures/adapters").join(name);
    let base = ModelPlace::find(&good, None)?.base;
    // An adapter that names none is no reason to stop here.
    let _ = ModelPlace::find(folder, None);
    let place = ModelPlace::find(folder, Some(&base))?;
    let decoder = Decoder::load_at(&place, &families::ALL, &Device::flex())?;
    let adapter = PeftAdapter::read(folder, &decoder.config)?;
    let mut directory = ModelDirectory::open(&base)?;
    let shapes = shapes(&decoder.config);
    all_numbers(&mut adapter.onto(&mut directory), shapes)
}
