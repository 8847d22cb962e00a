//! The endless order of prompts, from a task or from a file: prompt `k` is a pure function of `k`, the seed and the
//! file, so neither threads nor a resume can change it. All rows of a file are looked at when it is opened.

mod order;
mod config;
mod survey;
mod line;
mod columns;
mod file;
mod chat_fields;
mod messages;
mod mapping;
mod row;
mod census;
mod framing;
mod supervised;
mod rows;
mod mix;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rewards::{DemonstrationConfig, Split, Style, Task};
use serde_json::Map;
use trajectory::Prompt;

use crate::bad_rows::RowRefusal;
use crate::error::RolloutError;
use crate::text::Text;

pub use chat_fields::ChatFields;
pub use config::{
    AnswerConfig, AnswerRule, BadRowsPolicy, CurriculumConfig, CurriculumOrder, DataConfig, Example,
    FewShotConfig, FewShotFile, JsonlConfig, LastAssistant, Learn, RowFormat, SourceConfig, SplitConfig,
    SplitName,
};
pub use file::RowFile;
pub use line::Line;
pub use row::references;
pub use supervised::Demonstration;
pub use survey::{DemonstrationNeeds, LeftOut, Needs, PromptLengths, Survey};

use mix::{Mix, RowAt};
use rows::Asked;

/// Problems of an endless task that are looked at: enough for the lengths of its prompts.
const PROBLEMS_SURVEYED: u64 = 256;

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
    Rows(Mix),
}

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
                let name = task.config().name.as_str().to_string();
                let source = Self { origin: Origin::Task(task), split, seed, text };
                let survey = source.survey_task(name, needs)?;
                Ok((source, survey))
            }
            DataConfig::File(config) => {
                let (rows, survey) = Mix::open(config, needs, &text)?;
                Ok((Self { origin: Origin::Rows(rows), split, seed, text }, survey))
            }
        }
    }

    /// The number of prompts of an epoch, after which they come again in another order; `None` for a task,
    /// which has no last problem.
    pub fn epoch_prompts(&self) -> Option<u64> {
        match &self.origin {
            Origin::Task(_) => None,
            Origin::Rows(rows) => Some(rows.count()),
        }
    }

    /// Prompt `index` of the endless order.
    ///
    /// # Errors
    /// If the tokenizer or the chat template refuses it. They take every row that was looked at.
    pub fn prompt(&self, index: u64) -> Result<Prompt, RolloutError> {
        match &self.origin {
            Origin::Task(task) => {
                let problem = task.problem(self.split, self.seed, index);
                Ok(Prompt {
                    index,
                    id: id_of(task, index),
                    tokens: self.text.encode(&problem.prompt)?,
                    text: problem.prompt,
                    references: vec![problem.answer],
                    fields: Map::new(),
                })
            }
            Origin::Rows(rows) => {
                let RowAt { rows, place } = rows.at(index, self.seed);
                let id = rows.id(place);
                let asked = rows.asked(place, &self.text);
                let Asked { text, tokens } = asked.map_err(|refusal| refused(&id, refusal))?;
                let (references, fields) = rows.answer(place);
                Ok(Prompt { index, id, text, tokens, references, fields })
            }
        }
    }

    /// The name of prompt `index`: file and line, or task and number.
    pub fn prompt_id(&self, index: u64) -> String {
        match &self.origin {
            Origin::Task(task) => id_of(task, index),
            Origin::Rows(rows) => {
                let RowAt { rows, place } = rows.at(index, self.seed);
                rows.id(place)
            }
        }
    }

    /// The number of tokens of prompt `index`. That of a file's row is known since the file was opened.
    ///
    /// # Errors
    /// If the tokenizer refuses the problem of a task.
    pub fn prompt_tokens(&self, index: u64) -> Result<usize, RolloutError> {
        match &self.origin {
            Origin::Task(_) => Ok(self.prompt(index)?.tokens.len()),
            Origin::Rows(rows) => {
                let RowAt { rows, place } = rows.at(index, self.seed);
                Ok(rows.prompt_tokens(place))
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
                    .map_err(|refusal| refused(&id_of(task, index), refusal))
            }
            Origin::Rows(rows) => {
                let RowAt { rows, place } = rows.at(index, self.seed);
                rows.demonstration(place, learn, &self.text)
                    .map_err(|refusal| refused(&rows.id(place), refusal))
            }
        }
    }

    fn survey_task(&self, name: String, needs: &Needs<'_>) -> Result<Survey, RolloutError> {
        let mut lengths = Vec::new();
        for index in 0..PROBLEMS_SURVEYED {
            let Prompt { id, tokens, .. } = self.prompt(index)?;
            needs.room_for(tokens.len()).map_err(|refusal| refused(&id, refusal))?;
            lengths.push(tokens.len());
        }
        let prompts = lengths.len();
        Ok(Survey {
            source: name,
            prompts,
            is_whole: false,
            lengths: PromptLengths::of(lengths).expect("some problems were looked at"),
            answered: prompts,
            thought_answers: 0,
            last_assistant: 0,
            notes: Vec::new(),
            skipped: None,
            left_out: LeftOut::default(),
            files: Vec::new(),
        })
    }
}

fn id_of(task: &Task, index: u64) -> String {
    format!("{}:{index}", task.config().name.as_str())
}

fn refused(id: &str, refusal: RowRefusal) -> RolloutError {
    RolloutError::Prompt { prompt: id.to_string(), reason: refusal.reason }
}
