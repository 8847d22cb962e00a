//! The endless order of prompts, from a task or from a file: prompt `k` is a pure function of `k`, the seed and the
//! file, so neither threads nor a resume can change it. All rows of a file are looked at when it is opened.

mod config;
mod file;
mod messages;
mod row;
mod supervised;
mod survey;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rewards::{Answer, DemonstrationConfig, Split, Style, Task};
use serde_json::{Map, Value};
use trajectory::Prompt;
use trajectory::random::shuffled;

use crate::error::RolloutError;
use crate::text::{ChatEnding, Text};

pub use config::{BadRowsPolicy, DataConfig, JsonlConfig, LastAssistant};
pub use file::{Line, RowFile};
pub use supervised::{Demonstration, Learn};
pub use survey::{BAD_ROWS_NAMED, BadRow, BadRows, Fault, Needs, PromptLengths, Survey};

use messages::Renderer;
use row::{Completion, Question, Row};
use survey::{PROBLEMS_SURVEYED, RowFault, fault_of};

/// The endless order of prompts.
#[derive(Debug)]
pub struct PromptSource {
    origin: Origin,
    split: Split,
    seed: u64,
    text: Arc<Text>,
}

#[derive(Debug)]
enum Origin {
    Task(Task),
    Rows { config: JsonlConfig, rows: Vec<Row> },
}

/// A row, read or not.
type ReadRow = Result<Row, (usize, RowFault)>;

impl PromptSource {
    /// Opens the source and looks at all rows of a file, so that one that cannot be used stops the run before it starts,
    /// or is left out, as the config says. `split` picks a task's problems; a file has no splits, so evaluation needs a
    /// file of its own.
    ///
    /// # Errors
    /// [`RolloutError::Rows`] with every row that cannot be used, or what is wrong with the whole file.
    pub fn open(
        config: &DataConfig,
        split: Split,
        seed: u64,
        text: Arc<Text>,
        needs: &Needs<'_>,
    ) -> Result<(Self, Survey), RolloutError> {
        match config {
            DataConfig::Task(config) => {
                let task = Task::new(config.clone()).map_err(RolloutError::Task)?;
                let source = Self { origin: Origin::Task(task), split, seed, text };
                let survey = source.survey_task(needs)?;
                Ok((source, survey))
            }
            DataConfig::Jsonl(config) => {
                let read = read_rows(config)?;
                let origin = Origin::Rows { config: config.clone(), rows: Vec::new() };
                let mut source = Self { origin, split, seed, text };
                let survey = source.survey_rows(config, read, needs)?;
                Ok((source, survey))
            }
        }
    }

    /// The number of prompts of an epoch, after which they come again in another order; `None` for a task,
    /// which has no last problem.
    pub fn epoch_prompts(&self) -> Option<u64> {
        match &self.origin {
            Origin::Task(_) => None,
            Origin::Rows { rows, .. } => Some(rows.len() as u64),
        }
    }

    /// Prompt `index` of the endless order.
    ///
    /// # Errors
    /// If the tokenizer or the chat template refuses it, which they do not refuse a row that was looked at.
    pub fn prompt(&self, index: u64) -> Result<Prompt, RolloutError> {
        match &self.origin {
            Origin::Task(task) => {
                let problem = task.problem(self.split, self.seed, index);
                Ok(Prompt {
                    index,
                    id: format!("{}:{index}", task.config().name.as_str()),
                    tokens: self.text.encode(&problem.prompt)?,
                    text: problem.prompt,
                    references: vec![problem.answer],
                    fields: Map::new(),
                })
            }
            Origin::Rows { config, rows } => {
                let row = self.row(index, rows);
                let id = format!("{}:{}", config.path.display(), row.line);
                let asked = self.asked(config, row);
                let Asked { text, tokens } = asked
                    .map_err(|fault| RolloutError::Prompt { prompt: id.clone(), reason: fault.reason })?;
                let (references, fields) = (row.references.clone(), row.fields.clone());
                Ok(Prompt { index, id, text, tokens, references, fields })
            }
        }
    }

    /// The demonstration of prompt `index`, for supervised fine-tuning: a row's own, or the task's in the mix of
    /// `styles` (careful where there is none).
    ///
    /// # Errors
    /// If the row has none, or the tokenizer or the chat template refuses it.
    pub fn demonstration(
        &self,
        index: u64,
        styles: Option<&DemonstrationConfig>,
        learn: Learn,
    ) -> Result<Demonstration, RolloutError> {
        match &self.origin {
            Origin::Task(task) => {
                let problem = task.problem(self.split, self.seed, index);
                let target = match styles {
                    Some(styles) => task.demonstration(&problem, styles),
                    None => task.demonstration_in(&problem, Style::Careful),
                };
                Demonstration::of_text(self.text.encode(&problem.prompt)?, &target, &self.text)
            }
            Origin::Rows { config, rows } => {
                let row = self.row(index, rows);
                self.demonstrated(config, row, learn)
                    .map_err(|fault| RolloutError::line(&config.path, row.line, fault.reason))
            }
        }
    }

    fn row<'a>(&self, index: u64, rows: &'a [Row]) -> &'a Row {
        let count = rows.len() as u64;
        let place = shuffled(self.seed, index / count, index % count, count);
        &rows[usize::try_from(place).expect("a place in a list in memory fits its index type")]
    }

    fn demonstrated(&self, config: &JsonlConfig, row: &Row, learn: Learn) -> Result<Demonstration, RowFault> {
        if let Some(demonstration) = Demonstration::of_row(config, row, learn, &self.text)? {
            return Ok(demonstration);
        }
        let Some(Completion::Text(target)) = &row.completion else {
            return Err(Fault::Completion.because("no completion to learn from"));
        };
        let asked = self.asked(config, row)?;
        Demonstration::of_text(asked.tokens, target, &self.text)
            .map_err(|error| Fault::Template.because(error.to_string()))
    }

    /// What a row asks.
    fn asked(&self, config: &JsonlConfig, row: &Row) -> Result<Asked, RowFault> {
        let refused = |error: RolloutError| Fault::Template.because(error.to_string());
        let messages = match &row.question {
            Question::Text(text) => {
                return Ok(Asked { text: text.clone(), tokens: self.text.encode(text).map_err(refused)? });
            }
            Question::Messages(messages) => &messages[..],
        };
        let (messages, is_open) = match (messages::ends_with_assistant(messages), config.last_assistant) {
            (false, _) => (messages, false),
            (true, None) => return Err(Fault::Messages.because(ENDS_WITH_ANSWER)),
            (true, Some(LastAssistant::Continue)) => (messages, true),
            (true, Some(LastAssistant::Drop | LastAssistant::Answer)) => {
                let rest = &messages[..messages.len() - 1];
                if rest.is_empty() || messages::ends_with_assistant(rest) {
                    let reason = "without the assistant's last message there is no question left";
                    return Err(Fault::Messages.because(reason));
                }
                (rest, false)
            }
        };
        let ending = if is_open { ChatEnding::Continued } else { ChatEnding::GenerationPrompt };
        let renderer = Renderer::new(&row.fields, &config.template, &self.text);
        let templated = renderer.render(messages, ending).map_err(refused)?;
        let tokens = self.text.encode_fragment(&templated).map_err(refused)?;
        Ok(Asked { text: messages::last_of_user(messages), tokens })
    }

    fn survey_task(&self, needs: &Needs<'_>) -> Result<Survey, RolloutError> {
        let mut lengths = Vec::new();
        for index in 0..PROBLEMS_SURVEYED {
            let Prompt { id, tokens, .. } = self.prompt(index)?;
            has_room(tokens.len(), needs)
                .map_err(|fault| RolloutError::Prompt { prompt: id.clone(), reason: fault.reason })?;
            lengths.push(tokens.len());
        }
        let Origin::Task(task) = &self.origin else { unreachable!("asked about a task") };
        let (source, prompts) = (task.config().name.as_str().to_string(), lengths.len());
        let lengths = PromptLengths::of(lengths).expect("some problems were looked at");
        let (answered, last_assistant, is_whole, skipped) = (prompts, 0, false, None);
        Ok(Survey { source, prompts, is_whole, lengths, answered, last_assistant, skipped })
    }

    /// Looks at all rows and keeps those that can be used.
    fn survey_rows(
        &mut self,
        config: &JsonlConfig,
        read: Vec<ReadRow>,
        needs: &Needs<'_>,
    ) -> Result<Survey, RolloutError> {
        let (path, all) = (&config.path, read.len());
        let (mut bad, mut lengths, mut good) = (Vec::new(), Vec::new(), Vec::new());
        for row in read {
            let looked_at = row.and_then(|row| match self.look_at(config, &row, needs) {
                Ok(tokens) => Ok((row, tokens)),
                Err(fault) => Err((row.line, fault)),
            });
            match looked_at {
                Ok((row, tokens)) => {
                    good.push(row);
                    lengths.push(tokens);
                }
                Err((line, fault)) => bad.push(BadRow::new(path, line, fault)),
            }
        }
        let skipped = (!bad.is_empty()).then_some(BadRows { rows: all, bad });
        let skipped = match skipped {
            Some(bad) if config.bad_rows == BadRowsPolicy::Stop => {
                return Err(RolloutError::Rows(Box::new(bad)));
            }
            skipped => skipped,
        };
        let Some(lengths) = PromptLengths::of(lengths) else {
            return Err(match skipped {
                Some(bad) => RolloutError::Rows(Box::new(bad)),
                None => RolloutError::content(path, "holds no prompts"),
            });
        };
        let survey = Survey {
            source: path.display().to_string(),
            prompts: good.len(),
            is_whole: true,
            lengths,
            answered: good.iter().filter(|row| row.is_answered()).count(),
            last_assistant: match needs.demonstrations {
                // It is what is learned.
                Some(_) => 0,
                None => good.iter().filter(|row| row.ends_with_assistant()).count(),
            },
            skipped,
        };
        self.origin = Origin::Rows { config: config.clone(), rows: good };
        Ok(survey)
    }

    /// The tokens of a row's prompt, if the row has what it needs.
    fn look_at(&self, config: &JsonlConfig, row: &Row, needs: &Needs<'_>) -> Result<usize, RowFault> {
        if let Some((learn, positions)) = needs.demonstrations {
            let demonstration = self.demonstrated(config, row, learn)?;
            let tokens = demonstration.prompt_tokens.len();
            has_room(tokens, needs)?;
            let whole = tokens + demonstration.target_tokens.len();
            if whole > positions {
                let reason = format!(
                    "has {whole} tokens with its completion, but the model has {positions} positions"
                );
                return Err(Fault::Long.because(reason));
            }
            return Ok(tokens);
        }
        let Asked { text, tokens } = self.asked(config, row)?;
        has_room(tokens.len(), needs)?;
        if let Some(rewards) = needs.rewards {
            let question = Answer {
                prompt: &text,
                completion: "",
                references: &row.references,
                fields: &row.fields,
                tokens: 0,
                truncated: false,
            };
            rewards.check(&question).map_err(|error| fault_of(&error, &config.answer_field))?;
        }
        Ok(tokens.len())
    }
}

/// The answers in a field that is a text, a number as it is written, or a list of such.
///
/// # Errors
/// If it is something else, or one of a list is empty.
pub fn references(name: &str, value: Value) -> Result<Vec<String>, String> {
    row::references(name, value).map_err(|fault| fault.reason)
}

const ENDS_WITH_ANSWER: &str = "the last message is the assistant's: an answer is no prompt. Set data.last_assistant to \
                                \"drop\" (remove it), \"answer\" (compare with it) or \"continue\" (go on with it)";

/// What a row asks, as verifiers and as the policy see it.
struct Asked {
    text: String,
    tokens: Vec<u32>,
}

fn has_room(tokens: usize, needs: &Needs<'_>) -> Result<(), RowFault> {
    match needs.prompt_tokens_max {
        _ if tokens == 0 => Err(Fault::Empty.because("has no tokens, so there is nothing to continue")),
        Some(most) if tokens > most => {
            Err(Fault::Long.because(format!("has {tokens} tokens, but at most {most} fit beside the output")))
        }
        _ => Ok(()),
    }
}

/// All rows of a file in their form, good and bad.
fn read_rows(config: &JsonlConfig) -> Result<Vec<ReadRow>, RolloutError> {
    let path = &config.path;
    let mut file = RowFile::open(path)?;
    let mut rows = Vec::new();
    while let Some(Line { number, text }) = file.next_row()? {
        let row = text.map_err(|reason| match reason.starts_with("not UTF-8") {
            true => Fault::Encoding.because(reason),
            false => Fault::Json.because(reason),
        });
        let row = row.and_then(|written| Row::read(config, number, &written));
        rows.push(row.map_err(|fault| (number, fault)));
    }
    if rows.is_empty() {
        return Err(RolloutError::content(path, "holds no prompts"));
    }
    named_field_is_there(path, &config.answer_field, &rows)?;
    Ok(rows)
}

/// A field that the config names and no row has is a name that is wrong.
fn named_field_is_there(path: &Path, answer_field: &str, rows: &[ReadRow]) -> Result<(), RolloutError> {
    let is_there = |row: &ReadRow| row.as_ref().map_or(true, |row| !row.references.is_empty());
    if answer_field == JsonlConfig::new(PathBuf::new()).answer_field || rows.iter().any(is_there) {
        return Ok(());
    }
    let reason = format!("no row has the field `{answer_field}` that data.answer_field names");
    Err(RolloutError::content(path, reason))
}
