//! The table `[data]`.

mod mapping;
mod selection;

use std::path::{Path, PathBuf};

use rewards::TaskConfig;
use serde::{Deserialize, Serialize};

use crate::error::RolloutError;
use crate::text::{RowTemplate, TemplateVariables};

pub use mapping::{AnswerConfig, AnswerRule, Example, FewShotConfig, FewShotFile};
pub use selection::{CurriculumConfig, CurriculumOrder, SourceConfig, SplitConfig, SplitName};

/// Where prompts come from; the table `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[expect(clippy::large_enum_variant, reason = "a program has a few of them, each once")]
pub enum DataConfig {
    /// Endless problems of a task.
    Task(TaskConfig),
    /// The rows of a file, or of several, in another order in each epoch.
    // Configs of earlier versions have these words.
    #[serde(alias = "jsonl", alias = "json", alias = "parquet", alias = "arrow")]
    File(JsonlConfig),
}

/// Files of prompts and what their fields are. A name may lead into an object: `reward_model.ground_truth`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonlConfig {
    /// The file. Where there are several, each has its own in `[[data.sources]]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The format of the file, in place of the one that its name says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<RowFormat>,
    /// The field with the prompt, a text or a list of chat messages; `prompt` where it is left out. A row without it may
    /// hold `messages`. One that is named must be in the file.
    #[serde(default, alias = "prompt_field", skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// A Jinja template that makes the prompt of all fields of a row, in place of a field with the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_template: Option<String>,
    /// The field with the reference answer or a list of them, which a row may lack, or `{ field = "answer", after = "####" }`
    /// for what stands behind the last `####` in it; `answer` where it is left out. One that is named must be in a file
    /// whose answers are judged.
    #[serde(default, alias = "answer_field", skip_serializing_if = "Option::is_none")]
    pub answer: Option<AnswerConfig>,
    /// The field with a demonstration for fine-tuning, which a row may lack; `completion` where it is left out. One that
    /// is named must be in a file of demonstrations.
    #[serde(default, alias = "completion_field", skip_serializing_if = "Option::is_none")]
    pub completion: Option<String>,
    /// Whether a prompt that is a text becomes a message of the user, which the chat template of the model renders.
    #[serde(default, skip_serializing_if = "is_false")]
    pub chat: bool,
    /// What the system says before the messages of a prompt, unless they have a system message of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// Examples with their answers before each prompt: `[{ question = "..", answer = ".." }]`, or some rows of a file,
    /// `{ path = "examples.jsonl", count = 4, seed = 0 }`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub few_shot: Option<FewShotConfig>,
    /// Variables of the chat template by name, as `enable_thinking` or `tools`. A row's own `tools` and
    /// `chat_template_kwargs` come before them.
    #[serde(default, alias = "chat_template_kwargs", skip_serializing_if = "TemplateVariables::is_empty")]
    pub template: TemplateVariables,
    /// What becomes of a last turn of the assistant in a prompt; without it such a row is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_assistant: Option<LastAssistant>,
    /// What becomes of the run where rows cannot be used.
    #[serde(default)]
    pub bad_rows: BadRowsPolicy,
    /// Takes a part of the rows; the rest is held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitConfig>,
    /// Leaves out prompts of fewer tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_min: Option<usize>,
    /// Leaves out prompts of more tokens. Without it, one that leaves no room for the longest output is a bad row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_max: Option<usize>,
    /// Whether each epoch has its rows in another order; `false` is the order of the file.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub shuffle: bool,
    /// What the order comes from; absent is `run.seed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shuffle_seed: Option<u64>,
    /// Puts the rows of each epoch in the order of a number that they have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curriculum: Option<CurriculumConfig>,
    /// `[[data.sources]]`: several files. Keys that one leaves out are those of `[data]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceConfig>,
}

fn yes() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// The format of a file of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowFormat {
    /// A JSON object a line.
    Jsonl,
    /// One JSON array of objects.
    Json,
    /// Parquet.
    Parquet,
    /// Arrow's file or stream of messages.
    Arrow,
}

/// What becomes of a last turn of the assistant: it is an answer, which a prompt does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LastAssistant {
    /// It is removed.
    Drop,
    /// The policy goes on with it: the turn is left open.
    Continue,
    /// It is removed and is the reference answer where the row has none: what stands behind its thoughts.
    Answer,
}

/// What becomes of the run where rows cannot be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadRowsPolicy {
    /// The run does not begin.
    #[default]
    Stop,
    /// They are left out.
    Skip,
}

impl DataConfig {
    /// Refuses keys that contradict each other.
    ///
    /// # Errors
    /// [`RolloutError::Config`] with the key.
    pub fn check(&self) -> Result<(), RolloutError> {
        match self {
            Self::Task(_) => Ok(()),
            Self::File(config) => config.check(),
        }
    }

    /// What is held out of training: other problems of a task, the rows of the file `path`, or without one the rows that
    /// the split leaves. `None` where nothing is.
    pub fn held_out(&self, path: Option<&Path>) -> Option<Self> {
        let Self::File(training) = self else { return Some(self.clone()) };
        let mut config = training.clone();
        match (path, &mut config.split) {
            (Some(path), _) => {
                config.path = Some(path.to_path_buf());
                (config.format, config.split, config.curriculum) = (None, None, None);
                config.sources.clear();
            }
            (None, Some(split)) => {
                split.name = split.name.other();
                // An evaluation asks its first prompts: they are to be any of the rest, each once.
                config.curriculum = None;
                config.sources.iter_mut().for_each(|source| source.weight = None);
            }
            (None, None) => return None,
        }
        // In the order of the file they would be its first ones alone.
        (config.shuffle, config.shuffle_seed) = (true, None);
        Some(Self::File(config))
    }

    /// The files that are read, with the keys that name them.
    pub fn paths(&mut self) -> Vec<(String, &mut PathBuf)> {
        let Self::File(config) = self else { return Vec::new() };
        let own = config.path.as_mut().map(|path| ("data.path".to_owned(), path));
        let shots = config.few_shot.as_mut().and_then(FewShotConfig::path_mut);
        let mut paths: Vec<_> =
            own.into_iter().chain(shots.map(|path| ("data.few_shot.path".to_owned(), path))).collect();
        for (place, source) in config.sources.iter_mut().enumerate() {
            paths.push((format!("data.sources[{place}].path"), &mut source.path));
            let shots = source.few_shot.as_mut().and_then(FewShotConfig::path_mut);
            paths.extend(shots.map(|path| (format!("data.sources[{place}].few_shot.path"), path)));
        }
        paths
    }

    /// The files that are read.
    pub fn files(&self) -> Vec<&Path> {
        let Self::File(config) = self else { return Vec::new() };
        let shots =
            config.few_shot.iter().chain(config.sources.iter().filter_map(|source| source.few_shot.as_ref()));
        let sources = config.sources.iter().map(|source| source.path.as_path());
        config
            .path
            .as_deref()
            .into_iter()
            .chain(sources)
            .chain(shots.filter_map(FewShotConfig::path))
            .collect()
    }
}

impl JsonlConfig {
    /// A file with the usual names of the fields.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: Some(path.into()),
            format: None,
            prompt: None,
            prompt_template: None,
            answer: None,
            completion: None,
            chat: false,
            system_prompt: None,
            few_shot: None,
            template: TemplateVariables::default(),
            last_assistant: None,
            bad_rows: BadRowsPolicy::Stop,
            split: None,
            prompt_tokens_min: None,
            prompt_tokens_max: None,
            shuffle: true,
            shuffle_seed: None,
            curriculum: None,
            sources: Vec::new(),
        }
    }

    /// The field with the prompt.
    pub fn prompt_field(&self) -> &str {
        self.prompt.as_deref().unwrap_or(Self::FIELDS[0].1)
    }

    /// The field with the reference answer.
    pub fn answer_field(&self) -> &str {
        self.answer.as_ref().and_then(AnswerConfig::field).unwrap_or(Self::FIELDS[1].1)
    }

    /// The mark behind which the reference answer stands in its field.
    pub fn answer_after(&self) -> Option<&str> {
        self.answer.as_ref().and_then(AnswerConfig::after)
    }

    /// The field with a demonstration.
    pub fn completion_field(&self) -> &str {
        self.completion.as_deref().unwrap_or(Self::FIELDS[2].1)
    }

    /// The keys that name fields, and the fields where a key is left out. Earlier versions had `_field` behind the names.
    pub const FIELDS: [(&'static str, &'static str); 3] =
        [("prompt", "prompt"), ("answer", "answer"), ("completion", "completion")];

    /// A config for each file, with what a source leaves out taken from `[data]`.
    pub(super) fn of_files(&self) -> Vec<Self> {
        if self.sources.is_empty() {
            return vec![self.clone()];
        }
        self.sources.iter().map(|source| source.over(self)).collect()
    }

    fn check(&self) -> Result<(), RolloutError> {
        let fault = |key: &'static str, reason: String| Err(RolloutError::Config { key, reason });
        match (&self.path, self.sources.is_empty()) {
            (None, true) => {
                let reason =
                    "is missing: the file with the prompts, or [[data.sources]] for several".to_owned();
                return fault("path", reason);
            }
            (Some(_), false) => {
                let reason =
                    "there are [[data.sources]] too, each with a path of its own; leave one of the two out";
                return fault("path", reason.to_owned());
            }
            _ => {}
        }
        if let (Some(min), Some(max)) = (self.prompt_tokens_min, self.prompt_tokens_max)
            && min > max
        {
            return fault("prompt_tokens_min", format!("{min} is more than prompt_tokens_max = {max}"));
        }
        if self.prompt_tokens_max == Some(0) {
            return fault("prompt_tokens_max", "must be at least 1, got 0".to_owned());
        }
        if !self.shuffle && self.shuffle_seed.is_some() {
            return fault(
                "shuffle_seed",
                "nothing is shuffled with shuffle = false; leave it out".to_owned(),
            );
        }
        if !self.shuffle && self.curriculum.is_some() {
            return fault("curriculum", "it has an order of its own; leave shuffle = false out".to_owned());
        }
        if let Some(split) = &self.split
            && !(split.fraction > 0.0 && split.fraction < 1.0)
        {
            return fault("split", format!("fraction must be above 0 and below 1, got {}", split.fraction));
        }
        selection::check_weights(&self.sources)?;
        self.of_files().iter().try_for_each(Self::check_mapping)
    }

    fn check_mapping(&self) -> Result<(), RolloutError> {
        let fault = |key: &'static str, reason: String| Err(RolloutError::Config { key, reason });
        if let Some(template) = &self.prompt_template {
            if self.prompt.is_some() {
                return fault(
                    "prompt",
                    "prompt_template makes the prompt; leave one of the two out".to_owned(),
                );
            }
            if let Err(reason) = RowTemplate::new(template) {
                return fault("prompt_template", reason);
            }
        }
        if self.answer_after() == Some("") {
            return fault(
                "answer",
                "after must not be empty; leave it out to take the whole text".to_owned(),
            );
        }
        match &self.few_shot {
            Some(shots) => shots.check(),
            None => Ok(()),
        }
    }
}

/// Which turns of the assistant are learned from a conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Learn {
    /// The last one of each conversation.
    #[default]
    Last,
    /// All of them. The chat template must render the first messages of a conversation as the beginning of the whole.
    All,
}
