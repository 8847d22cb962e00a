//! The rows of a file that can be used: all of them looked at as it is opened, and what each asks and demonstrates.

use std::collections::BTreeSet;
use std::path::Path;

use rewards::Answer;
use serde_json::{Map, Value};
use trajectory::random::{fraction, key_of_text};

use super::census::FieldCensus;
use super::config::{BadRowsPolicy, JsonlConfig, LastAssistant, Learn, SplitName};
use super::file::RowFile;
use super::framing::{Framed, Framing};
use super::line::Line;
use super::mapping::Mapping;
use super::messages::{self, Renderer};
use super::row::{Completion, Question, Row, number_at};
use super::supervised::Demonstration;
use super::survey::{DemonstrationNeeds, LeftOut, Needs, PromptLengths, Survey, refusal_of};
use crate::bad_rows::{BadRow, BadRows, RowProblem, RowRefusal, RowUnit};
use crate::error::RolloutError;
use crate::json;
use crate::text::{ChatEnding, Text};

const ENDS_WITH_ANSWER: &str = "the last message is the assistant's: an answer is no prompt. Set data.last_assistant to \
                                \"drop\" (remove it), \"answer\" (compare with it) or \"continue\" (go on with it)";

const ONLY_THOUGHTS: &str = "the assistant's last message holds nothing but thoughts, so data.last_assistant = \"answer\" finds no answer in it";

/// Keeps the numbers of splits apart from those of shuffles under one seed.
const SPLIT_STREAM: u64 = 0x5711;

/// The usable rows of a file.
#[derive(Debug)]
pub(super) struct Rows {
    mapping: Mapping,
    framing: Framing,
    rows: Vec<UsableRow>,
}

/// A row that was looked at and can be used.
#[derive(Debug)]
struct UsableRow {
    row: Row,
    /// The tokens of its prompt.
    prompt_tokens: usize,
    /// What a curriculum sorts by; 0 without one.
    number: f64,
}

/// A row of a file, if it has the form of one.
struct ReadRow {
    line: usize,
    unit: RowUnit,
    row: Result<NumberedRow, RowRefusal>,
}

/// A row with what a curriculum sorts by.
struct NumberedRow {
    row: Row,
    number: f64,
}

/// What became of a row that is not bad.
enum Looked {
    Usable(usize),
    Short,
    Long,
    Example,
}

/// What a row asks, as verifiers and as the policy see it.
pub(super) struct Asked {
    pub(super) text: String,
    pub(super) tokens: Vec<u32>,
}

impl Rows {
    /// Looks at all rows and keeps those that can be used.
    pub(super) fn open(
        config: &JsonlConfig,
        needs: &Needs<'_>,
        text: &Text,
    ) -> Result<(Self, Survey), RolloutError> {
        let mapping = Mapping::new(config)?;
        let framing = Framing::new(&mapping)?;
        let mut rows = Self { mapping, framing, rows: Vec::new() };
        let path = rows.path().to_path_buf();
        let (read, mut left_out) = rows.read(needs)?;
        let (all, mut bad) = (read.len(), Vec::new());
        for ReadRow { line, unit, row } in read {
            let looked_at = row.and_then(|NumberedRow { row, number }| {
                let looked = rows.look_at(&row, needs, text)?;
                Ok((looked, row, number))
            });
            match looked_at {
                Ok((Looked::Usable(prompt_tokens), row, number)) => {
                    rows.rows.push(UsableRow { row, prompt_tokens, number });
                }
                Ok((Looked::Short, ..)) => left_out.short += 1,
                Ok((Looked::Long, ..)) => left_out.long += 1,
                Ok((Looked::Example, ..)) => left_out.examples += 1,
                Err(refusal) => bad.push(BadRow::new(&path, line, unit, refusal)),
            }
        }
        let skipped = (!bad.is_empty()).then_some(BadRows { rows: all, bad });
        let survey = rows.survey(skipped, left_out, needs)?;
        Ok((rows, survey))
    }

    /// What was found, or why nothing of it can be used.
    fn survey(
        &self,
        skipped: Option<BadRows>,
        left_out: LeftOut,
        needs: &Needs<'_>,
    ) -> Result<Survey, RolloutError> {
        let (config, path) = (self.mapping.config(), self.path());
        let lengths = PromptLengths::of(self.prompt_lengths().collect());
        let (lengths, skipped) = match (lengths, skipped) {
            (_, Some(bad)) if config.bad_rows == BadRowsPolicy::Stop || self.rows.is_empty() => {
                return Err(RolloutError::Rows(Box::new(bad)));
            }
            (None, _) => return Err(holds_no_prompts(path, left_out)),
            (Some(lengths), skipped) => (lengths, skipped),
        };
        let rows = || self.rows.iter().map(|usable| &usable.row);
        Ok(Survey {
            source: path.display().to_string(),
            prompts: self.rows.len(),
            is_whole: true,
            lengths,
            answered: rows().filter(|row| row.is_answered()).count(),
            thought_answers: rows().filter(|row| row.has_thoughts).count(),
            last_assistant: match needs.demonstrations {
                // It is what is learned, or what the completion goes on with.
                Some(_) => 0,
                None => rows().filter(|row| row.ends_with_assistant()).count(),
            },
            notes: notes(config, rows()),
            skipped,
            left_out,
            files: Vec::new(),
        })
    }

    /// The file.
    fn path(&self) -> &Path {
        self.mapping.config().path.as_deref().unwrap_or(Path::new(""))
    }

    pub(super) fn prompt_lengths(&self) -> impl Iterator<Item = usize> {
        self.rows.iter().map(|row| row.prompt_tokens)
    }

    /// What a curriculum sorts by.
    pub(super) fn numbers(&self) -> impl Iterator<Item = f64> {
        self.rows.iter().map(|row| row.number)
    }

    pub(super) fn count(&self) -> u64 {
        self.rows.len() as u64
    }

    /// File and line.
    pub(super) fn id(&self, place: usize) -> String {
        let Row { line, unit, .. } = self.rows[place].row;
        unit.place(self.path(), line)
    }

    pub(super) fn prompt_tokens(&self, place: usize) -> usize {
        self.rows[place].prompt_tokens
    }

    pub(super) fn asked(&self, place: usize, text: &Text) -> Result<Asked, RowRefusal> {
        self.asked_of(&self.rows[place].row, self.mapping.config().last_assistant, text)
    }

    /// The reference answers and the other fields.
    pub(super) fn answer(&self, place: usize) -> (Vec<String>, Map<String, Value>) {
        let Row { references, fields, .. } = &self.rows[place].row;
        (references.clone(), fields.clone())
    }

    pub(super) fn demonstration(
        &self,
        place: usize,
        learn: Learn,
        text: &Text,
    ) -> Result<Demonstration, RowRefusal> {
        self.demonstrated(&self.rows[place].row, learn, text)
    }

    /// All rows of the file in their form, good and bad, without those of the other part of a split.
    fn read(&self, needs: &Needs<'_>) -> Result<(Vec<ReadRow>, LeftOut), RolloutError> {
        let (config, path) = (self.mapping.config(), self.path());
        let mut file = RowFile::open_as(path, config.format)?;
        let mut census = FieldCensus::new(config, needs);
        let (mut rows, mut left_out) = (Vec::new(), LeftOut::default());
        while let Some(Line { number: line, unit, text }) = file.next_row()? {
            let fields = text.and_then(|written| {
                json::object(&written).map_err(|reason| RowProblem::Json.because(reason))
            });
            if let Ok(fields) = &fields {
                census.look_at(fields);
                if is_of_other_split(config, fields) {
                    left_out.other_split += 1;
                    continue;
                }
            }
            let row = fields.and_then(|fields| {
                let number = match &config.curriculum {
                    Some(curriculum) => number_at(&fields, &curriculum.field)?,
                    None => 0.0,
                };
                Ok(NumberedRow { row: Row::read(&self.mapping, line, unit, fields)?, number })
            });
            rows.push(ReadRow { line, unit, row });
        }
        if rows.is_empty() {
            return Err(holds_no_prompts(path, left_out));
        }
        census.check(path)?;
        Ok((rows, left_out))
    }

    /// The tokens of a row's prompt, if the row has what it needs and the config does not leave it out.
    fn look_at(&self, row: &Row, needs: &Needs<'_>, text: &Text) -> Result<Looked, RowRefusal> {
        if self.framing.has_example(&row.question) {
            return Ok(Looked::Example);
        }
        if let Some(DemonstrationNeeds { learn, tokens_max }) = needs.demonstrations {
            let demonstration = self.demonstrated(row, learn, text)?;
            let tokens = demonstration.prompt_tokens.len();
            let looked = self.within_limits(tokens);
            if !matches!(looked, Looked::Usable(_)) {
                return Ok(looked);
            }
            needs.room_for(tokens)?;
            let whole = tokens + demonstration.target_tokens.len();
            if whole > tokens_max {
                let reason = format!(
                    "has {whole} tokens with its completion, but the model has {tokens_max} positions"
                );
                return Err(RowProblem::Long.because(reason));
            }
            return Ok(looked);
        }
        let config = self.mapping.config();
        let Asked { text, tokens } = self.asked_of(row, config.last_assistant, text)?;
        let looked = self.within_limits(tokens.len());
        if !matches!(looked, Looked::Usable(_)) {
            return Ok(looked);
        }
        needs.room_for(tokens.len())?;
        if config.last_assistant == Some(LastAssistant::Answer)
            && row.has_thoughts
            && row.references.is_empty()
        {
            return Err(RowProblem::Answer.because(ONLY_THOUGHTS));
        }
        if let Some(rewards) = needs.rewards {
            let question = Answer {
                prompt: &text,
                completion: "",
                references: &row.references,
                fields: &row.fields,
                tokens: 0,
                truncated: false,
            };
            rewards.check(&question).map_err(|error| refusal_of(&error, config.answer_field()))?;
        }
        Ok(looked)
    }

    /// Whether the config leaves a prompt out for its length.
    fn within_limits(&self, tokens: usize) -> Looked {
        let config = self.mapping.config();
        match (config.prompt_tokens_min, config.prompt_tokens_max) {
            (Some(min), _) if tokens < min => Looked::Short,
            (_, Some(max)) if tokens > max => Looked::Long,
            _ => Looked::Usable(tokens),
        }
    }

    fn demonstrated(&self, row: &Row, learn: Learn, text: &Text) -> Result<Demonstration, RowRefusal> {
        let Framed { question, .. } = self.framing.framed(&row.question)?;
        if let Some(demonstration) =
            Demonstration::of_row(self.mapping.config(), row, &question, learn, text)?
        {
            return Ok(demonstration);
        }
        let Some(Completion::Text(target)) = &row.completion else {
            return Err(RowProblem::Completion.because("no completion to learn from"));
        };
        // The completion goes on with a turn that is begun; data.last_assistant is about prompts without one.
        let asked = self.asked_of(row, Some(LastAssistant::Continue), text)?;
        Demonstration::of_text(asked.tokens, target, text)
    }

    /// What a row asks.
    fn asked_of(
        &self,
        row: &Row,
        last_assistant: Option<LastAssistant>,
        text: &Text,
    ) -> Result<Asked, RowRefusal> {
        let refused = RolloutError::refusing_row;
        let Framed { question, own } = self.framing.framed(&row.question)?;
        let messages = match &*question {
            Question::Text(question) => {
                let tokens = text.encode(question).map_err(refused)?;
                return Ok(Asked { text: own.unwrap_or(question).to_owned(), tokens });
            }
            Question::Messages(messages) => &messages[..],
        };
        let (messages, ending) = match (messages::ends_with_assistant(messages), last_assistant) {
            (false, _) => (messages, ChatEnding::GenerationPrompt),
            (true, None) => return Err(RowProblem::Messages.because(ENDS_WITH_ANSWER)),
            (true, Some(LastAssistant::Continue)) => (messages, ChatEnding::Continued),
            (true, Some(LastAssistant::Drop | LastAssistant::Answer)) => {
                let rest = &messages[..messages.len() - 1];
                if rest.is_empty() || messages::ends_with_assistant(rest) {
                    let reason = "without the assistant's last message there is no question left";
                    return Err(RowProblem::Messages.because(reason));
                }
                (rest, ChatEnding::GenerationPrompt)
            }
        };
        let renderer = Renderer::new(&row.fields, &self.mapping.config().template, text)?;
        let templated = renderer.render(messages, ending).map_err(refused)?;
        let tokens = text.encode_fragment(&templated).map_err(refused)?;
        Ok(Asked { text: messages::last_of_user(messages), tokens })
    }
}

/// Whether a row is of the part that the config does not take: by its content alone.
fn is_of_other_split(config: &JsonlConfig, fields: &Map<String, Value>) -> bool {
    let Some(split) = &config.split else { return false };
    let content = serde_json::to_string(fields).expect("a map of JSON values is JSON");
    let is_train = fraction(&[split.seed, SPLIT_STREAM, key_of_text(&content)]) < split.fraction;
    is_train != (split.name == SplitName::Train)
}

/// What a person may not expect of rows that are used.
fn notes<'a>(config: &JsonlConfig, rows: impl Iterator<Item = &'a Row>) -> Vec<String> {
    let (mut roles, mut two_prompts) = (BTreeSet::new(), 0);
    for row in rows {
        roles.extend(row.unusual_roles());
        two_prompts += usize::from(row.has_two_prompts);
    }
    let mut notes = Vec::new();
    if !roles.is_empty() {
        let named: Vec<String> = roles.into_iter().map(|role| format!("{role:?}")).collect();
        notes.push(format!(
            "messages have the role {}, which most chat templates write as it stands; the usual ones are {}",
            named.join(", "),
            messages::USUAL_ROLES.join(", ")
        ));
    }
    if two_prompts > 0 {
        let (prompt, rows) = (config.prompt_field(), if two_prompts == 1 { "row has" } else { "rows have" });
        notes.push(format!(
            "{two_prompts} {rows} `{prompt}` and `messages`: `{prompt}` is the prompt, and `messages` is not read; \
             data.prompt = \"messages\" takes the other"
        ));
    }
    notes
}

fn holds_no_prompts(path: &Path, left_out: LeftOut) -> RolloutError {
    let counts = left_out.counts();
    let counts: Vec<String> = counts.iter().map(|(count, reason)| format!("{count} are {reason}")).collect();
    let because =
        if counts.is_empty() { String::new() } else { format!(": of its rows {}", counts.join(", ")) };
    RolloutError::content(path, format!("holds no prompts{because}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TextFiles;

    fn notes_of(lines: &str) -> Vec<String> {
        let files = TextFiles::new();
        files.write("rows.jsonl", lines);
        files.write("chat_template.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}");
        let config = JsonlConfig::new(files.path().join("rows.jsonl"));
        let text = files.load().expect("a template");
        let (_, survey) = Rows::open(&config, &Needs::default(), &text).expect("usable rows");
        survey.notes
    }

    #[test]
    fn what_is_not_read_and_odd_roles_are_said_once() {
        let human = r#"{"messages": [{"role": "human", "content": "a"}, {"role": "tool", "content": "b"}]}"#;
        let both = r#"{"prompt": "a", "messages": [{"role": "user", "content": "b"}]}"#;
        let notes = notes_of(&format!("{human}\n{both}\n{human}\n{both}\n"));
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].starts_with("messages have the role \"human\", which"), "{notes:?}");
        assert!(
            notes[1].starts_with("2 rows have `prompt` and `messages`: `prompt` is the prompt"),
            "{notes:?}"
        );
        let usual = r#"{"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}"#;
        assert!(notes_of(usual).is_empty());
    }
}
