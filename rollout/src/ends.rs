//! What ends an output before its limit: the tokenizer's ends of output, stop strings and stop token ids. And the
//! text of what has ended.

use std::sync::Arc;

use trajectory::{EndedText, Finish, StopReason, Trajectory};

use crate::config::StopConfig;
use crate::error::RolloutError;
use crate::stop_strings::StopStrings;
use crate::text::Text;

/// The ends of outputs for one tokenizer.
#[derive(Debug)]
pub struct Ends {
    text: Arc<Text>,
    config: StopConfig,
    strings: Option<StopStrings>,
}

/// The tokens that are not drawn while an output is shorter than `rollout.min_tokens`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MinTokens {
    /// How many tokens an output has before one of them may be drawn.
    pub tokens: u64,
    /// The tokenizer's ends of output and the stop token ids.
    pub excluded: Vec<u32>,
}

impl Ends {
    /// The tokenizer's own ends of output and nothing else.
    pub fn of(text: Arc<Text>) -> Self {
        Self { text, config: StopConfig::default(), strings: None }
    }

    /// The ends that a config adds, for a model whose embedding has `vocabulary` rows.
    ///
    /// # Errors
    /// [`RolloutError::Config`] for a token id outside the vocabulary and for a string that could never be found.
    pub fn new(text: Arc<Text>, config: StopConfig, vocabulary: usize) -> Result<Self, RolloutError> {
        let refuse = |key, reason| Err(RolloutError::Config { key, reason });
        if let Some(id) = config.stop_token_ids.iter().find(|id| **id as usize >= vocabulary) {
            let reason = format!("token {id} is outside the model's vocabulary of {vocabulary}");
            return refuse("rollout.stop_token_ids", reason);
        }
        if config.stop.is_empty() {
            return Ok(Self { text, config, strings: None });
        }
        let strings = StopStrings::new(config.stop.clone(), text.token_bytes()?);
        if let Some(string) = strings.never_found() {
            let reason = format!("no token of the tokenizer can end {string:?}, so that it would never stop");
            return refuse("rollout.stop", reason);
        }
        Ok(Self { text, config, strings: Some(strings) })
    }

    /// The tokenizer.
    pub fn text(&self) -> &Text {
        &self.text
    }

    /// What is not drawn at the beginning of an output, if anything.
    pub fn min_tokens(&self) -> Option<MinTokens> {
        let ids = self.text.eos_ids().iter().chain(&self.config.stop_token_ids);
        let min_tokens =
            MinTokens { tokens: self.config.min_tokens as u64, excluded: ids.copied().collect() };
        (self.config.min_tokens > 0).then_some(min_tokens)
    }

    /// Whether and how the token `id` ends an output that has `drawn` tokens before it. `before` are these and the
    /// prompt's, the nearest first: a stop string has its end in the drawn token and may begin in the prompt.
    pub fn finish(&self, before: impl IntoIterator<Item = u32>, drawn: usize, id: u32) -> Option<Finish> {
        if self.text.is_eos(id) {
            return Some(Finish::Eos);
        }
        if self.config.stop_token_ids.contains(&id) {
            return Some(Finish::StopToken);
        }
        let strings = self.strings.as_ref().filter(|_| drawn >= self.config.min_tokens)?;
        strings.find(before, id).map(|_| Finish::StopString)
    }

    /// The same for the next token of a trajectory.
    pub(crate) fn finish_of(&self, trajectory: &Trajectory, id: u32) -> Option<Finish> {
        self.finish(trajectory.context().ids().rev(), trajectory.token_count(), id)
    }

    /// By what the last token of a trajectory ended its turn, if it did.
    pub(crate) fn end_of_turn(&self, trajectory: &Trajectory) -> Option<Finish> {
        let id = trajectory.context().spans.last()?.segment()?.tokens.last()?.id;
        self.finish(trajectory.context().ids().rev().skip(1), trajectory.token_count() - 1, id)
    }

    /// The text of an output that has ended. An end of output and a stop token id are not text.
    ///
    /// # Errors
    /// If the tokenizer refuses to decode the tokens.
    pub fn ended_text(
        &self,
        prompt: &[u32],
        drawn: &[u32],
        finish: Finish,
    ) -> Result<EndedText, RolloutError> {
        let (stop_reason, text) = match (finish, drawn) {
            (Finish::StopToken, [written @ .., last]) => {
                (Some(StopReason::TokenId(*last)), self.text.decode(written)?)
            }
            (Finish::StopString, [written @ .., last]) => {
                let before = written.iter().rev().chain(prompt.iter().rev()).copied();
                let found = self.strings.as_ref().and_then(|strings| strings.find(before, *last));
                let text = match &found {
                    Some(found) if !self.config.include_stop_str_in_output => {
                        self.text_before(drawn, found.tail_bytes)?
                    }
                    // Where a run goes on with other stops, the string may be none of them any more.
                    _ => self.text.decode(drawn)?,
                };
                (found.map(|found| StopReason::String(found.string.to_string())), text)
            }
            _ => (None, self.text.decode(drawn)?),
        };
        Ok(EndedText { text, stop_reason })
    }

    /// The text of the tokens without their last `tail_bytes` bytes, which begin with a whole character.
    fn text_before(&self, drawn: &[u32], tail_bytes: usize) -> Result<String, RolloutError> {
        let strings = self.strings.as_ref().expect("a stop string was found");
        let mut left = tail_bytes;
        for (place, id) in drawn.iter().enumerate().rev() {
            let written = strings.written(*id);
            if left > written.len() {
                left -= written.len();
                continue;
            }
            let before = self.text.decode(&drawn[..place])?;
            let (kept, cut) = written.split_at(written.len() - left);
            if kept.is_empty() {
                return Ok(before);
            }
            // Decoding makes of a token what the tokens before it allow, so what is cut off is looked for in the text.
            let text = self.text.decode(&drawn[..=place])?;
            return Ok(match text.strip_suffix(&*String::from_utf8_lossy(cut)) {
                Some(kept) => kept.to_string(),
                // A special token is not in the text at all.
                None => before,
            });
        }
        // The string began in the prompt.
        Ok(String::new())
    }

    /// Bytes at the end of an unfinished text that may turn out to be the beginning of a stop string that the text
    /// is not to have.
    pub fn undecided_bytes(&self) -> usize {
        match &self.strings {
            Some(strings) if !self.config.include_stop_str_in_output => strings.longest() - 1,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests;
