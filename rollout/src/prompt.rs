//! The endless order of prompts, from a task or from a JSONL file: prompt `k` is a pure function of `k`,
//! the seed and the file, so neither threads nor a resume can change it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rewards::{DemonstrationConfig, Split, Style, Task, TaskConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::RolloutError;
use crate::random::shuffled;
use crate::text::{Chat, ChatEnding, TemplateVariables, Text};

/// Where prompts come from; the table `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum DataConfig {
    /// Problems that a generator of the crate `rewards` makes without end.
    Task(TaskConfig),
    /// The lines of a file, in another order in each epoch.
    Jsonl(JsonlConfig),
}

/// A file of prompts and the names of its fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonlConfig {
    /// The file.
    pub path: PathBuf,
    /// The field with the prompt: a text, or a list of chat messages. A line without it may hold `messages`.
    #[serde(default = "prompt_field")]
    pub prompt_field: String,
    /// The field with the reference answer; a line may lack it.
    #[serde(default = "answer_field")]
    pub answer_field: String,
    /// The field with a demonstration for supervised fine-tuning; a line may lack it.
    #[serde(default = "completion_field")]
    pub completion_field: String,
    /// Variables of the chat template by name, as `enable_thinking` or `tools`. A line's own `tools` and
    /// `chat_template_kwargs` come before them.
    #[serde(default, skip_serializing_if = "TemplateVariables::is_empty")]
    pub template: TemplateVariables,
}

fn prompt_field() -> String {
    "prompt".to_string()
}

fn answer_field() -> String {
    "answer".to_string()
}

fn completion_field() -> String {
    "completion".to_string()
}

/// What a policy is asked. Its tokens are a type of their own, so they cannot enter a loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The place in the endless order.
    pub index: u64,
    /// Where it is from, for errors and logs: the task and index, or the file and line.
    pub id: String,
    /// The text without a chat template, as verifiers see it: for messages, the last one of the user.
    pub text: String,
    /// The token ids that the policy continues, chat template included; never empty.
    pub tokens: Vec<u32>,
    /// The answer that verifiers compare with, if the source has one.
    pub reference: Option<String>,
    /// The other fields of the source, for verifiers.
    pub fields: Map<String, Value>,
}

/// The endless order of prompts.
#[derive(Debug)]
pub struct PromptSource {
    origin: Origin,
    split: Split,
    seed: u64,
    text: Arc<Text>,
    prompt_tokens_max: usize,
}

#[derive(Debug)]
enum Origin {
    Task(Task),
    Jsonl { path: PathBuf, rows: Vec<Row>, template: TemplateVariables },
}

/// One line of a file, checked and split into what each stage needs.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    line: usize,
    question: Question,
    reference: Option<String>,
    demonstration: Option<String>,
    fields: Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq)]
enum Question {
    Text(String),
    Messages(Vec<Value>),
}

impl PromptSource {
    /// Opens the source; a file is read and checked whole, so that a bad line stops the run before it starts.
    /// `split` picks a task's problems; a file has no splits, so evaluation needs a file of its own.
    pub fn open(config: &DataConfig, split: Split, seed: u64, text: Arc<Text>) -> Result<Self, RolloutError> {
        let origin = match config {
            DataConfig::Task(config) => Origin::Task(Task::new(config.clone()).map_err(RolloutError::Task)?),
            DataConfig::Jsonl(config) => {
                let rows = read_rows(config)?;
                Origin::Jsonl { path: config.path.clone(), rows, template: config.template.clone() }
            }
        };
        Ok(Self { origin, split, seed, text, prompt_tokens_max: usize::MAX })
    }

    /// Refuses longer prompts when they come: the room that the decoder's positions leave beside the output.
    pub fn with_prompt_tokens_max(mut self, prompt_tokens_max: usize) -> Self {
        self.prompt_tokens_max = prompt_tokens_max;
        self
    }

    /// The number of prompts of an epoch, after which they come again in another order; `None` for a task,
    /// which has no last problem.
    pub fn epoch_prompts(&self) -> Option<u64> {
        match &self.origin {
            Origin::Task(_) => None,
            Origin::Jsonl { rows, .. } => Some(rows.len() as u64),
        }
    }

    /// Prompt `index` of the endless order.
    pub fn prompt(&self, index: u64) -> Result<Prompt, RolloutError> {
        let prompt = match &self.origin {
            Origin::Task(task) => {
                let problem = task.problem(self.split, self.seed, index);
                Prompt {
                    index,
                    id: format!("{}:{index}", task.config().name.as_str()),
                    tokens: self.text.encode(&problem.prompt)?,
                    text: problem.prompt,
                    reference: Some(problem.answer),
                    fields: Map::new(),
                }
            }
            Origin::Jsonl { path, rows, template } => {
                self.prompt_of_row(index, path, self.row(index, rows), template)?
            }
        };
        self.check(prompt)
    }

    /// The demonstration of prompt `index`, for supervised fine-tuning: a line's own, or the task's in the
    /// mix of `styles` (careful where there is none).
    pub fn demonstration(
        &self,
        index: u64,
        styles: Option<&DemonstrationConfig>,
    ) -> Result<String, RolloutError> {
        match &self.origin {
            Origin::Task(task) => {
                let problem = task.problem(self.split, self.seed, index);
                Ok(match styles {
                    Some(styles) => task.demonstration(&problem, styles),
                    None => task.demonstration_in(&problem, Style::Careful),
                })
            }
            Origin::Jsonl { path, rows, .. } => {
                let row = self.row(index, rows);
                let missing = || RolloutError::line(path, row.line, "no completion to learn from");
                row.demonstration.clone().ok_or_else(missing)
            }
        }
    }

    fn row<'a>(&self, index: u64, rows: &'a [Row]) -> &'a Row {
        let count = rows.len() as u64;
        let place = shuffled(self.seed, index / count, index % count, count);
        &rows[usize::try_from(place).expect("a place in a list in memory fits its index type")]
    }

    fn prompt_of_row(
        &self,
        index: u64,
        path: &Path,
        row: &Row,
        template: &TemplateVariables,
    ) -> Result<Prompt, RolloutError> {
        let id = format!("{}:{}", path.display(), row.line);
        let (text, tokens) = match &row.question {
            Question::Text(text) => (text.clone(), self.text.encode(text)?),
            Question::Messages(messages) => {
                let refuse = |error: RolloutError| RolloutError::Prompt {
                    prompt: id.clone(),
                    reason: error.to_string(),
                };
                let variables = row_variables(row, template);
                let tools = row.fields.get("tools");
                let chat =
                    Chat { messages, tools, variables: &variables, ending: ChatEnding::GenerationPrompt };
                let templated = self.text.render_chat(&chat).map_err(refuse)?;
                (last_of_user(messages), self.text.encode_fragment(&templated)?)
            }
        };
        Ok(Prompt { index, id, text, tokens, reference: row.reference.clone(), fields: row.fields.clone() })
    }

    fn check(&self, prompt: Prompt) -> Result<Prompt, RolloutError> {
        let reason = match prompt.tokens.len() {
            0 => "has no tokens, so there is nothing to continue".to_string(),
            tokens if tokens > self.prompt_tokens_max => {
                format!("has {tokens} tokens, but at most {} fit beside the output", self.prompt_tokens_max)
            }
            _ => return Ok(prompt),
        };
        Err(RolloutError::Prompt { prompt: prompt.id, reason })
    }
}

/// The variables of the config, and over them those that the line names, as in TRL's data sets.
fn row_variables(row: &Row, template: &TemplateVariables) -> Map<String, Value> {
    let mut variables = template.0.clone();
    if let Some(Value::Object(own)) = row.fields.get("chat_template_kwargs") {
        variables.extend(own.clone());
    }
    variables
}

fn read_rows(config: &JsonlConfig) -> Result<Vec<Row>, RolloutError> {
    let path = &config.path;
    let content = std::fs::read_to_string(path).map_err(|error| RolloutError::file(path, error))?;
    let mut rows = Vec::new();
    for (index, written) in content.lines().enumerate() {
        if !written.trim().is_empty() {
            let line = index + 1;
            rows.push(row(config, line, written).map_err(|reason| RolloutError::line(path, line, reason))?);
        }
    }
    if rows.is_empty() {
        return Err(RolloutError::content(path, "holds no prompts"));
    }
    Ok(rows)
}

fn row(config: &JsonlConfig, line: usize, written: &str) -> Result<Row, String> {
    let value: Value = serde_json::from_str(written).map_err(|error| format!("not JSON: {error}"))?;
    let Value::Object(mut fields) = value else {
        return Err("not a JSON object".to_string());
    };
    let question = match fields.remove(&config.prompt_field).or_else(|| fields.remove("messages")) {
        Some(Value::String(text)) => Question::Text(text),
        Some(Value::Array(messages)) => Question::Messages(checked_messages(messages)?),
        Some(_) => return Err(format!("`{}` is neither a text nor a list of messages", config.prompt_field)),
        None => return Err(format!("neither `{}` nor `messages`", config.prompt_field)),
    };
    let reference = match fields.remove(&config.answer_field) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(Value::Number(number)) => Some(number.to_string()),
        Some(_) => return Err(format!("`{}` is neither a text nor a number", config.answer_field)),
    };
    let demonstration = match fields.remove(&config.completion_field) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(_) => return Err(format!("`{}` is not a text", config.completion_field)),
    };
    Ok(Row { line, question, reference, demonstration, fields })
}

/// What the user asked last; the last message where none is the user's.
fn last_of_user(messages: &[Value]) -> String {
    let asked = messages.iter().rfind(|message| message["role"] == "user").or(messages.last());
    asked.and_then(|message| message["content"].as_str()).unwrap_or_default().to_string()
}

fn checked_messages(messages: Vec<Value>) -> Result<Vec<Value>, String> {
    if messages.is_empty() {
        return Err("the list of messages is empty".to_string());
    }
    match messages.iter().position(|message| !(message["role"].is_string() && message["content"].is_string()))
    {
        Some(bad) => Err(format!("message {} has no `role` and `content` that are texts", bad + 1)),
        None => Ok(messages),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TextFiles, text};

    fn config(files: &TextFiles, lines: &str) -> JsonlConfig {
        files.write("prompts.jsonl", lines);
        JsonlConfig {
            path: files.path().join("prompts.jsonl"),
            prompt_field: prompt_field(),
            answer_field: answer_field(),
            completion_field: completion_field(),
            template: TemplateVariables::default(),
        }
    }

    fn open(lines: &str) -> Result<PromptSource, RolloutError> {
        let files = TextFiles::new();
        let data = DataConfig::Jsonl(config(&files, lines));
        Ok(PromptSource::open(&data, Split::Train, 5, text())?.with_prompt_tokens_max(4))
    }

    fn refusal(lines: &str) -> String {
        open(lines).expect_err("a bad line").to_string()
    }

    #[test]
    fn a_line_becomes_a_prompt_and_its_other_fields_reach_verifiers() {
        let line = r#"{"prompt": "abc", "answer": 12.50, "completion": "de", "level": 3}"#;
        let source = open(line).expect("a good line");
        let prompt = source.prompt(4).expect("epoch 4");
        assert_eq!(
            (prompt.index, prompt.text.as_str(), prompt.tokens.as_slice()),
            (4, "abc", &[2, 3, 4][..])
        );
        assert_eq!(prompt.reference.as_deref(), Some("12.5"));
        assert_eq!(Value::Object(prompt.fields), serde_json::json!({"level": 3}));
        assert!(prompt.id.ends_with("prompts.jsonl:1"), "{}", prompt.id);
        assert_eq!(source.demonstration(0, None).expect("the line has one"), "de");
    }

    // Invariant 7: the order is a function of the index and the seed; each epoch has every prompt once.
    #[test]
    fn prompt_k_is_the_same_whenever_it_is_asked_for() {
        let lines: String = "abcde".chars().map(|c| format!("{{\"prompt\": \"{c}\"}}\n\n")).collect();
        let source = open(&lines).expect("five lines with blank ones between");
        assert_eq!(source.epoch_prompts(), Some(5));
        let forward: Vec<Prompt> = (0..15).map(|k| source.prompt(k).expect("endless")).collect();
        let backward: Vec<Prompt> = (0..15).rev().map(|k| source.prompt(k).expect("endless")).collect();
        assert!(forward.iter().eq(backward.iter().rev()));
        for epoch in forward.chunks(5) {
            let mut texts: Vec<&str> = epoch.iter().map(|prompt| prompt.text.as_str()).collect();
            texts.sort_unstable();
            assert_eq!(texts, ["a", "b", "c", "d", "e"]);
        }
    }

    #[test]
    fn bad_lines_are_refused_with_file_and_line() {
        let good = r#"{"prompt": "a"}"#;
        assert!(refusal(&format!("{good}\n\n{{\"prompt\": ")).contains("prompts.jsonl:3: not JSON: "));
        assert!(refusal(&format!("{good}\n[1]")).ends_with("prompts.jsonl:2: not a JSON object"));
        assert!(refusal(r#"{"answer": "a"}"#).ends_with("prompts.jsonl:1: neither `prompt` nor `messages`"));
        let error = refusal(r#"{"prompt": 3}"#);
        assert!(
            error.ends_with("prompts.jsonl:1: `prompt` is neither a text nor a list of messages"),
            "{error}"
        );
        let error = refusal(r#"{"prompt": "a", "answer": [1]}"#);
        assert!(error.ends_with("prompts.jsonl:1: `answer` is neither a text nor a number"), "{error}");
        assert!(refusal(r#"{"prompt": []}"#).contains("is empty"));
        assert!(refusal(r#"{"messages": [{"role": "user"}]}"#).contains("message 1 has no"));
        assert!(refusal("\n").ends_with("prompts.jsonl: holds no prompts"));
    }

    #[test]
    fn prompts_without_room_or_without_tokens_are_refused() {
        let error = open(r#"{"prompt": "abcde"}"#).expect("the line is good").prompt(0).expect_err("5 > 4");
        assert!(error.to_string().contains("prompts.jsonl:1: has 5 tokens, but at most 4 fit"), "{error}");
        let error = open(r#"{"prompt": ""}"#).expect("the line is good").prompt(0).expect_err("nothing");
        assert!(error.to_string().contains("has no tokens"), "{error}");
    }

    #[test]
    fn messages_pass_the_template_once() {
        let lines = r#"{"messages": [{"role": "user", "content": "ab"}]}"#;
        let error = open(lines).expect("the line is good").prompt(0).expect_err("the model has no template");
        assert!(error.to_string().contains("prompts.jsonl:1: "), "{error}");
        assert!(error.to_string().contains("tokenizer_config.json"), "{error}");

        let files = TextFiles::new();
        files.write("chat_template.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}c");
        let text = Arc::new(files.load().expect("a template"));
        let data = DataConfig::Jsonl(config(&files, lines));
        let source = PromptSource::open(&data, Split::Train, 0, text).expect("good");
        let prompt = source.prompt(0).expect("a template");
        assert_eq!((prompt.text.as_str(), prompt.tokens.as_slice()), ("ab", &[2, 3, 4][..]));
    }

    #[test]
    fn an_absent_file_is_named() {
        let files = TextFiles::new();
        let mut config = config(&files, "");
        config.path = files.path().join("absent.jsonl");
        let error =
            PromptSource::open(&DataConfig::Jsonl(config), Split::Train, 0, text()).expect_err("absent");
        assert!(error.to_string().contains("absent.jsonl: "), "{error}");
    }

    #[test]
    fn a_task_gives_problems_with_answers_and_demonstrations() {
        let task = r#"{"kind": "task", "name": "addition", "difficulty_min": 2, "difficulty_max": 3}"#;
        let data: DataConfig = serde_json::from_str(task).expect("known keys");
        let open = |split| PromptSource::open(&data, split, 9, text()).expect("known difficulties");
        let (train, held_out) = (open(Split::Train), open(Split::HeldOut));
        assert_eq!(train.epoch_prompts(), None);
        let prompt = train.prompt(3).expect("endless");
        assert_eq!((prompt.index, prompt.id.as_str()), (3, "addition:3"));
        assert_ne!(prompt.text, held_out.prompt(3).expect("endless").text);
        let answer = prompt.reference.expect("a task knows its answers");
        let demonstration = train.demonstration(3, None).expect("a task demonstrates");
        assert!(demonstration.ends_with(&format!("#{answer}")), "{demonstration}");
    }

    #[test]
    fn the_config_is_tagged_and_strict() {
        let parse = serde_json::from_str::<DataConfig>;
        let config = parse(r#"{"kind": "jsonl", "path": "p", "answer_field": "gold"}"#).expect("known keys");
        let DataConfig::Jsonl(config) = config else { panic!("kind is jsonl, got {config:?}") };
        assert_eq!((config.prompt_field.as_str(), config.answer_field.as_str()), ("prompt", "gold"));
        let error = parse(r#"{"kind": "jsonl", "path": "p", "anwser_field": "gold"}"#).expect_err("a typo");
        assert!(error.to_string().contains("anwser_field"), "{error}");
    }
}
