//! The table `[data]`.

use std::path::PathBuf;

use rewards::TaskConfig;
use serde::{Deserialize, Serialize};

use crate::text::TemplateVariables;

/// Where prompts come from; the table `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum DataConfig {
    /// Endless problems of a task.
    Task(TaskConfig),
    /// The rows of a file, in another order in each epoch.
    Jsonl(JsonlConfig),
}

/// A file of prompts and the names of its fields. A name may lead into an object: `reward_model.ground_truth`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonlConfig {
    /// The file.
    pub path: PathBuf,
    /// The field with the prompt: a text, or a list of chat messages. A line without it may hold `messages`.
    #[serde(default = "JsonlConfig::default_prompt_field")]
    pub prompt_field: String,
    /// The field with the reference answer, or with a list of them; a line may lack it.
    #[serde(default = "JsonlConfig::default_answer_field")]
    pub answer_field: String,
    /// The field with a demonstration for supervised fine-tuning; a line may lack it.
    #[serde(default = "JsonlConfig::default_completion_field")]
    pub completion_field: String,
    /// Variables of the chat template by name, as `enable_thinking` or `tools`. A line's own `tools` and
    /// `chat_template_kwargs` come before them.
    #[serde(default, skip_serializing_if = "TemplateVariables::is_empty")]
    pub template: TemplateVariables,
    /// What becomes of a last turn of the assistant in a prompt; without it such a row is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_assistant: Option<LastAssistant>,
    /// What becomes of the run where rows cannot be used.
    #[serde(default)]
    pub bad_rows: BadRowsPolicy,
}

/// What becomes of a last turn of the assistant: it is an answer, which a prompt does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LastAssistant {
    /// It is removed.
    Drop,
    /// The policy goes on with it: the turn is left open.
    Continue,
    /// It is removed and is the reference answer where the row has none.
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

impl JsonlConfig {
    /// A file with the usual names of the fields.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            prompt_field: Self::default_prompt_field(),
            answer_field: Self::default_answer_field(),
            completion_field: Self::default_completion_field(),
            template: TemplateVariables::default(),
            last_assistant: None,
            bad_rows: BadRowsPolicy::Stop,
        }
    }

    fn default_prompt_field() -> String {
        "prompt".to_string()
    }

    fn default_answer_field() -> String {
        "answer".to_string()
    }

    fn default_completion_field() -> String {
        "completion".to_string()
    }
}
