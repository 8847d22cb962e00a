//! What supervised fine-tuning learns from a row: a completion behind a prompt, or the assistant's turns of a
//! conversation, which the chat template renders.

use std::ops::Range;

use serde_json::Value;

use super::config::{JsonlConfig, Learn};
use super::messages::{Renderer, ends_with_assistant, is_assistant, is_system};
use super::row::{Completion, Question, Row};
use crate::bad_rows::{RowProblem, RowRefusal};
use crate::error::RolloutError;
use crate::text::{ChatEnding, Text};

/// A prompt and what is to be written behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demonstration {
    /// Given; not learned.
    pub prompt_tokens: Vec<u32>,
    /// What follows. Its last token ends the output.
    pub target_tokens: Vec<u32>,
    /// The parts of the target that are given too: turns of others between those of the assistant.
    pub given: Vec<Range<usize>>,
}

impl Demonstration {
    /// A text behind a prompt. The end of output is added, unless the text is written with it, as TRL does.
    pub(super) fn of_text(prompt_tokens: Vec<u32>, target: &str, text: &Text) -> Result<Self, RowRefusal> {
        let mut target_tokens = text.encode_fragment(target).map_err(RolloutError::refusing_row)?;
        let end = text.eos_ids().first().copied();
        if target_tokens.last().copied() != end {
            target_tokens.extend(end);
        }
        Self { prompt_tokens, target_tokens, given: Vec::new() }.with_something_to_learn(text)
    }

    /// Refuses a target of nothing but ends of output: a policy would learn to say nothing.
    fn with_something_to_learn(self, text: &Text) -> Result<Self, RowRefusal> {
        let is_given = |place: usize| self.given.iter().any(|range| range.contains(&place));
        let mut learned = self.target_tokens.iter().enumerate().filter(|(place, _)| !is_given(*place));
        match learned.any(|(_, id)| !text.is_eos(*id)) {
            true => Ok(self),
            false => Err(RowProblem::Completion.because("the completion is empty: nothing to learn from")),
        }
    }

    /// The turns of a row's messages; `None` for a row whose completion is a text.
    pub(super) fn of_row(
        config: &JsonlConfig,
        row: &Row,
        question: &Question,
        learn: Learn,
        text: &Text,
    ) -> Result<Option<Self>, RowRefusal> {
        let (messages, learned_from) = match (question, &row.completion) {
            (_, Some(Completion::Text(_))) => return Ok(None),
            (Question::Messages(prompt), Some(Completion::Messages(completion))) => {
                if !ends_with_assistant(completion) {
                    return Err(RowProblem::Completion
                        .because("the completion does not end with the assistant's message"));
                }
                ([&prompt[..], completion].concat(), prompt.len())
            }
            (Question::Text(_), Some(Completion::Messages(_))) => {
                return Err(RowProblem::Completion
                    .because("the completion is a list of messages, but the prompt is a text"));
            }
            (Question::Messages(messages), None) if ends_with_assistant(messages) => {
                // What the config adds stands before the row's own messages, but behind a system message of theirs, and
                // is given.
                let own = match &row.question {
                    Question::Messages(own) => &own[..],
                    Question::Text(_) => &[],
                };
                let added = messages.len() - own.len();
                (messages.clone(), added + usize::from(own.first().is_some_and(is_system)))
            }
            (_, None) => return Err(RowProblem::Completion.because("no completion to learn from")),
        };
        let all = (learned_from..messages.len()).filter(|&place| is_assistant(&messages[place]));
        let turns: Vec<usize> = match learn {
            Learn::All => all.collect(),
            Learn::Last => vec![messages.len() - 1],
        };
        let renderer = Renderer::new(&row.fields, &config.template, text)?;
        Self::of_turns(&messages, &turns, &renderer)?.with_something_to_learn(text).map(Some)
    }

    /// Places are found by rendering the conversation up to each of them.
    fn of_turns(messages: &[Value], turns: &[usize], renderer: &Renderer<'_>) -> Result<Self, RowRefusal> {
        let refused = RolloutError::refusing_row;
        let text = renderer.text();
        let closed = |messages: &[Value]| renderer.render(messages, ChatEnding::Closed).map_err(refused);
        let whole = closed(messages)?;
        let mut demonstration = Self::default();
        let mut end = 0;
        for &turn in turns {
            let before = renderer.render(&messages[..turn], ChatEnding::GenerationPrompt).map_err(refused)?;
            let is_last = turn + 1 == messages.len();
            let behind = match is_last {
                true => whole.clone(),
                false => closed(&messages[..=turn])?,
            };
            if !whole.starts_with(&behind) || !behind.starts_with(&before) || before.len() < end {
                return Err(RowProblem::Template.because(no_beginning(turns.len())));
            }
            let given = text.encode_fragment(&whole[end..before.len()]).map_err(refused)?;
            let learned = text.encode_fragment(&behind[before.len()..]).map_err(refused)?;
            demonstration.add(given, learned, is_last.then_some(text), |id| text.is_eos(id));
            end = behind.len();
        }
        Ok(demonstration)
    }

    /// Adds a turn and what stands before it. What the template writes behind the token that ends the turn is never
    /// drawn, so it is not learned; behind the last turn it is left out.
    fn add(
        &mut self,
        given: Vec<u32>,
        mut learned: Vec<u32>,
        last: Option<&Text>,
        is_eos: impl Fn(u32) -> bool,
    ) {
        if self.target_tokens.is_empty() {
            // Turns before this one may have been rendered to no token.
            self.prompt_tokens.extend(given);
        } else {
            self.give(&given);
        }
        let ended = learned.iter().rposition(|id| is_eos(*id)).map(|place| place + 1);
        let rest = learned.split_off(ended.unwrap_or(learned.len()));
        self.target_tokens.extend(learned);
        match (last, ended) {
            (Some(text), None) => self.target_tokens.extend(text.eos_ids().first()),
            (Some(_), Some(_)) => {}
            (None, _) => self.give(&rest),
        }
    }

    fn give(&mut self, ids: &[u32]) {
        let start = self.target_tokens.len();
        self.target_tokens.extend(ids);
        match self.given.last_mut() {
            Some(last) if last.end == start => last.end += ids.len(),
            _ if ids.is_empty() => {}
            _ => self.given.push(start..start + ids.len()),
        }
    }
}

fn no_beginning(turns: usize) -> String {
    let what = "the chat template does not render the messages before an answer as the beginning of the whole \
                conversation, so the answer cannot be told from the rest";
    let remedy = if turns > 1 { "; set sft.learn = \"last\"" } else { "; give `completion` as a text" };
    format!("{what}{remedy}")
}
