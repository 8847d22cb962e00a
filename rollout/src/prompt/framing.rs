//! What stands before each prompt: a system message, and examples with their answers, as earlier turns or as text.

use std::borrow::Cow;

use serde_json::{Map, Value, json};
use trajectory::random::shuffled;

use super::config::{Example, FewShotConfig, FewShotFile};
use super::file::RowFile;
use super::mapping::Mapping;
use super::messages;
use super::row::{Question, Row, text_at};
use crate::bad_rows::{RowProblem, RowRefusal, RowUnit};
use crate::error::RolloutError;
use crate::json;

/// What stands between examples that are texts, and behind the last of them.
const BETWEEN_EXAMPLES: &str = "\n\n";

/// What stands before each prompt of a file.
#[derive(Debug)]
pub(super) struct Framing {
    chat: bool,
    system_prompt: Option<String>,
    examples: Vec<Shot>,
}

/// An example with its answer.
#[derive(Debug)]
struct Shot {
    question: Question,
    answer: String,
}

/// A row's prompt with what stands before it.
pub(super) struct Framed<'a> {
    pub(super) question: Cow<'a, Question>,
    /// The prompt alone, where it is a text: what verifiers see.
    pub(super) own: Option<&'a str>,
}

impl Framing {
    /// Reads the examples.
    pub(super) fn new(mapping: &Mapping) -> Result<Self, RolloutError> {
        let config = mapping.config();
        let examples = match &config.few_shot {
            None => Vec::new(),
            Some(FewShotConfig::Examples(examples)) => {
                let shots = examples.iter().enumerate().map(|(place, example)| {
                    Shot::of_example(example, mapping).map_err(|refusal| RolloutError::Config {
                        key: "data.few_shot",
                        reason: format!("example {}: {refusal}", place + 1),
                    })
                });
                shots.collect::<Result<_, _>>()?
            }
            Some(FewShotConfig::File(file)) => Shot::of_file(file, mapping)?,
        };
        Ok(Self { chat: config.chat, system_prompt: config.system_prompt.clone(), examples })
    }

    /// Whether an example asks the same, so that its answer would stand before the question.
    pub(super) fn has_example(&self, question: &Question) -> bool {
        self.examples.iter().any(|example| example.question == *question)
    }

    /// A row's prompt with what stands before it.
    pub(super) fn framed<'a>(&self, question: &'a Question) -> Result<Framed<'a>, RowRefusal> {
        let Self { chat, system_prompt, examples } = self;
        let (messages, own) = match question {
            Question::Text(text) if *chat => (vec![user(text)], Some(text.as_str())),
            Question::Text(_) if system_prompt.is_some() => {
                let reason = "data.system_prompt is a message, but the prompt is a text, which has none; set data.chat = \
                              true, or write it into data.prompt_template";
                return Err(RowProblem::Prompt.because(reason));
            }
            Question::Text(text) if examples.is_empty() => {
                return Ok(Framed { question: Cow::Borrowed(question), own: Some(text) });
            }
            Question::Text(text) => {
                let whole = self.text_examples()? + text;
                return Ok(Framed { question: Cow::Owned(Question::Text(whole)), own: Some(text) });
            }
            Question::Messages(_) if system_prompt.is_none() && examples.is_empty() => {
                return Ok(Framed { question: Cow::Borrowed(question), own: None });
            }
            Question::Messages(messages) => (messages.clone(), None),
        };
        // A system message of the row's own comes before everything; the config's is for rows without one.
        let has_own = messages.first().is_some_and(messages::is_system);
        let (system, rest) = messages.split_at(usize::from(has_own));
        let mut whole = system.to_vec();
        if let (Some(words), false) = (system_prompt, has_own) {
            whole.push(json!({"role": "system", "content": words}));
        }
        for Shot { question, answer } in examples {
            match question {
                Question::Text(text) => whole.push(user(text)),
                Question::Messages(turns) => whole.extend(turns.iter().cloned()),
            }
            whole.push(json!({"role": "assistant", "content": answer}));
        }
        whole.extend(rest.iter().cloned());
        Ok(Framed { question: Cow::Owned(Question::Messages(whole)), own })
    }

    fn text_examples(&self) -> Result<String, RowRefusal> {
        let mut whole = String::new();
        for Shot { question, answer } in &self.examples {
            let Question::Text(text) = question else {
                let reason = "the examples of data.few_shot are messages, but the prompt is a text; set data.chat = true";
                return Err(RowProblem::Prompt.because(reason));
            };
            whole.push_str(text);
            // An answer stands apart from its question.
            if !text.ends_with(char::is_whitespace) && !answer.starts_with(char::is_whitespace) {
                whole.push(' ');
            }
            whole.push_str(answer.trim_end());
            whole.push_str(BETWEEN_EXAMPLES);
        }
        Ok(whole)
    }
}

impl Shot {
    fn of_example(example: &Example, mapping: &Mapping) -> Result<Self, RowRefusal> {
        let question = Value::from(example.question.as_str());
        let mut fields = Map::from_iter([("question".to_owned(), question.clone())]);
        fields.insert(mapping.config().prompt_field().to_owned(), question);
        fields.insert("answer".to_owned(), Value::from(example.answer.as_str()));
        let question = mapping.templated(&fields)?.unwrap_or_else(|| example.question.clone());
        Ok(Self { question: Question::Text(question), answer: example.answer.clone() })
    }

    /// Some rows of a file, by the seed.
    fn of_file(file: &FewShotFile, mapping: &Mapping) -> Result<Vec<Self>, RolloutError> {
        let FewShotFile { path, count, seed } = file;
        let mut rows = RowFile::open(path)?;
        let mut lines = Vec::new();
        while let Some(line) = rows.next_row()? {
            lines.push(line);
        }
        if lines.len() < *count {
            let reason = format!("has {} rows, but data.few_shot asks for {count}", lines.len());
            return Err(RolloutError::content(path, reason));
        }
        let all = lines.len() as u64;
        let taken = (0..*count as u64).map(|place| &lines[shuffled(*seed, 0, place, all) as usize]);
        let shots = taken.map(|line| {
            let fields = line
                .text
                .clone()
                .and_then(|text| json::object(&text).map_err(|reason| RowProblem::Json.because(reason)));
            let shot = fields.and_then(|fields| Self::of_row(fields, mapping));
            shot.map_err(|refusal| {
                RolloutError::content(line.place(path).as_ref(), format!("as an example: {refusal}"))
            })
        });
        shots.collect()
    }

    fn of_row(fields: Map<String, Value>, mapping: &Mapping) -> Result<Self, RowRefusal> {
        let name = mapping.config().answer_field();
        let answer = text_at(&fields, name).ok_or_else(|| {
            RowProblem::Answer.because(format!("`{name}` is missing, or neither a text nor a number"))
        })?;
        let row = Row::read(mapping, 0, RowUnit::Row, fields)?;
        Ok(Shot { question: row.question, answer })
    }
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": text})
}
