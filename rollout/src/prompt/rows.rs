//! The rows of a file that can be used: all of them looked at as it is opened, and what each asks and demonstrates.

use std::collections::BTreeSet;
use std::path::Path;

use rewards::Answer;
use serde_json::{Map, Value};

use super::census::FieldCensus;
use super::config::{BadRowsPolicy, JsonlConfig, LastAssistant, Learn};
use super::file::{Line, RowFile};
use super::messages::{self, Renderer};
use super::row::{Completion, Question, Row};
use super::supervised::Demonstration;
use super::survey::{DemonstrationNeeds, Needs, PromptLengths, Survey, refusal_of};
use crate::bad_rows::{BadRow, BadRows, RowProblem, RowRefusal};
use crate::error::RolloutError;
use crate::json;
use crate::text::{ChatEnding, Text};

const ENDS_WITH_ANSWER: &str = "the last message is the assistant's: an answer is no prompt. Set data.last_assistant to \
                                \"drop\" (remove it), \"answer\" (compare with it) or \"continue\" (go on with it)";

const ONLY_THOUGHTS: &str = "the assistant's last message holds nothing but thoughts, so data.last_assistant = \"answer\" finds no answer in it";

/// The usable rows of a file.
#[derive(Debug)]
pub(super) struct Rows {
    config: JsonlConfig,
    rows: Vec<UsableRow>,
}

/// A row that was looked at and can be used.
#[derive(Debug)]
struct UsableRow {
    row: Row,
    /// The tokens of its prompt.
    prompt_tokens: usize,
}

/// A row of a file, if it has the form of one.
struct ReadRow {
    line: usize,
    row: Result<Row, RowRefusal>,
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
        let path = &config.path;
        let read = read_rows(config, needs)?;
        let (all, mut bad, mut good) = (read.len(), Vec::new(), Vec::new());
        for ReadRow { line, row } in read {
            let looked_at = row.and_then(|row| {
                let prompt_tokens = look_at(config, &row, needs, text)?;
                Ok(UsableRow { row, prompt_tokens })
            });
            match looked_at {
                Ok(row) => good.push(row),
                Err(refusal) => bad.push(BadRow::new(path, line, refusal)),
            }
        }
        let skipped = (!bad.is_empty()).then_some(BadRows { rows: all, bad });
        let lengths = PromptLengths::of(good.iter().map(|row| row.prompt_tokens).collect());
        let (lengths, skipped) = match (lengths, skipped) {
            (_, Some(bad)) if config.bad_rows == BadRowsPolicy::Stop || good.is_empty() => {
                return Err(RolloutError::Rows(Box::new(bad)));
            }
            (None, _) => return Err(holds_no_prompts(path)),
            (Some(lengths), skipped) => (lengths, skipped),
        };
        let rows = || good.iter().map(|usable| &usable.row);
        let survey = Survey {
            source: path.display().to_string(),
            prompts: good.len(),
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
        };
        Ok((Self { config: config.clone(), rows: good }, survey))
    }

    pub(super) fn count(&self) -> u64 {
        self.rows.len() as u64
    }

    /// File and line.
    pub(super) fn id(&self, place: usize) -> String {
        format!("{}:{}", self.config.path.display(), self.rows[place].row.line)
    }

    pub(super) fn prompt_tokens(&self, place: usize) -> usize {
        self.rows[place].prompt_tokens
    }

    pub(super) fn asked(&self, place: usize, text: &Text) -> Result<Asked, RowRefusal> {
        asked(&self.config, &self.rows[place].row, self.config.last_assistant, text)
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
        demonstrated(&self.config, &self.rows[place].row, learn, text)
    }
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
             data.prompt_field = \"messages\" takes the other"
        ));
    }
    notes
}

fn holds_no_prompts(path: &Path) -> RolloutError {
    RolloutError::content(path, "holds no prompts")
}

/// All rows of a file in their form, good and bad.
fn read_rows(config: &JsonlConfig, needs: &Needs<'_>) -> Result<Vec<ReadRow>, RolloutError> {
    let path = &config.path;
    let mut file = RowFile::open(path)?;
    let mut census = FieldCensus::new(config, needs);
    let mut rows = Vec::new();
    while let Some(Line { number: line, text }) = file.next_row()? {
        let fields = text
            .and_then(|written| json::object(&written).map_err(|reason| RowProblem::Json.because(reason)));
        let row = fields.and_then(|fields| {
            census.look_at(&fields);
            Row::read(config, line, fields)
        });
        rows.push(ReadRow { line, row });
    }
    if rows.is_empty() {
        return Err(holds_no_prompts(path));
    }
    census.check(path)?;
    Ok(rows)
}

/// The tokens of a row's prompt, if the row has what it needs.
fn look_at(config: &JsonlConfig, row: &Row, needs: &Needs<'_>, text: &Text) -> Result<usize, RowRefusal> {
    if let Some(DemonstrationNeeds { learn, tokens_max }) = needs.demonstrations {
        let demonstration = demonstrated(config, row, learn, text)?;
        let tokens = demonstration.prompt_tokens.len();
        needs.room_for(tokens)?;
        let whole = tokens + demonstration.target_tokens.len();
        if whole > tokens_max {
            let reason =
                format!("has {whole} tokens with its completion, but the model has {tokens_max} positions");
            return Err(RowProblem::Long.because(reason));
        }
        return Ok(tokens);
    }
    let Asked { text, tokens } = asked(config, row, config.last_assistant, text)?;
    needs.room_for(tokens.len())?;
    if config.last_assistant == Some(LastAssistant::Answer) && row.has_thoughts && row.references.is_empty() {
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
    Ok(tokens.len())
}

fn demonstrated(
    config: &JsonlConfig,
    row: &Row,
    learn: Learn,
    text: &Text,
) -> Result<Demonstration, RowRefusal> {
    if let Some(demonstration) = Demonstration::of_row(config, row, learn, text)? {
        return Ok(demonstration);
    }
    let Some(Completion::Text(target)) = &row.completion else {
        return Err(RowProblem::Completion.because("no completion to learn from"));
    };
    // The completion goes on with a turn that is begun; data.last_assistant is about prompts without one.
    let asked = asked(config, row, Some(LastAssistant::Continue), text)?;
    Demonstration::of_text(asked.tokens, target, text)
}

/// What a row asks.
fn asked(
    config: &JsonlConfig,
    row: &Row,
    last_assistant: Option<LastAssistant>,
    text: &Text,
) -> Result<Asked, RowRefusal> {
    let refused = RolloutError::refusing_row;
    let messages = match &row.question {
        Question::Text(question) => {
            let tokens = text.encode(question).map_err(refused)?;
            return Ok(Asked { text: question.clone(), tokens });
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
    let renderer = Renderer::new(&row.fields, &config.template, text)?;
    let templated = renderer.render(messages, ending).map_err(refused)?;
    let tokens = text.encode_fragment(&templated).map_err(refused)?;
    Ok(Asked { text: messages::last_of_user(messages), tokens })
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
