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
    /// The field with the prompt, a text or a list of chat messages; `prompt` where it is left out. A line without it may
    /// hold `messages`. One that is named must be in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_field: Option<String>,
    /// The field with the reference answer or a list of them, which a line may lack; `answer` where it is left out. One
    /// that is named must be in a file whose answers are judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_field: Option<String>,
    /// The field with a demonstration for fine-tuning, which a line may lack; `completion` where it is left out. One that
    /// is named must be in a file of demonstrations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_field: Option<String>,
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

impl JsonlConfig {
    /// A file with the usual names of the fields.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            prompt_field: None,
            answer_field: None,
            completion_field: None,
            template: TemplateVariables::default(),
            last_assistant: None,
            bad_rows: BadRowsPolicy::Stop,
        }
    }

    /// The field with the prompt.
    pub fn prompt_field(&self) -> &str {
        self.prompt_field.as_deref().unwrap_or(Self::FIELDS[0].1)
    }

    /// The field with the reference answer.
    pub fn answer_field(&self) -> &str {
        self.answer_field.as_deref().unwrap_or(Self::FIELDS[1].1)
    }

    /// The field with a demonstration.
    pub fn completion_field(&self) -> &str {
        self.completion_field.as_deref().unwrap_or(Self::FIELDS[2].1)
    }

    /// The keys that name fields, and the fields where a key is left out.
    pub const FIELDS: [(&'static str, &'static str); 3] =
        [("prompt_field", "prompt"), ("answer_field", "answer"), ("completion_field", "completion")];
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
