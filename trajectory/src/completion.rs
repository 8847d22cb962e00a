//! One output that has come to its end, and by what.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::prompt::Prompt;
use crate::token::Token;
use crate::trajectory::{Segment, Trajectory, token_count};

/// Why a completion ended. Checkpoints and journals have the place of a variant in this list, so others go behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Finish {
    /// The policy drew an end of output, which the tokenizer's files name.
    #[default]
    Eos,
    /// The output limit was met: the completion is truncated.
    Length,
    /// The last token completed a string of `rollout.stop`.
    StopString,
    /// The last token is one of `rollout.stop_token_ids`.
    StopToken,
}

/// Which of the stops of `[rollout]` ended a completion; as vLLM's `stop_reason`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StopReason {
    /// This stop string.
    String(String),
    /// This stop token id.
    TokenId(u32),
}

/// The text of a completion, and what stopped it where that was no end of output of the tokenizer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndedText {
    /// What the rewards see.
    pub text: String,
    /// The stop string or the stop token id.
    pub stop_reason: Option<StopReason>,
}

/// A finished output with its text. An end of output or a stop token id is the last of its tokens and not in its text.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// What was answered.
    pub prompt: Arc<Prompt>,
    /// The group it belongs to.
    pub group: u64,
    /// Its place in the group.
    pub member: u32,
    /// Its segments: at least one, none empty, versions never falling.
    pub segments: Vec<Segment>,
    /// Why it ended.
    pub finish: Finish,
    /// The stop of `[rollout]` that ended it, if one did.
    pub stop_reason: Option<StopReason>,
    /// The decoded text.
    pub text: String,
}

impl Completion {
    /// A trajectory that has come to its end.
    pub fn new(trajectory: Trajectory, finish: Finish, ended: EndedText) -> Self {
        let Trajectory { prompt, group, member, segments } = trajectory;
        assert!(
            !segments.is_empty() && segments.iter().all(|segment| !segment.tokens.is_empty()),
            "member {member} of group {group} finished with an empty segment"
        );
        let EndedText { text, stop_reason } = ended;
        Self { prompt, group, member, segments, finish, stop_reason, text }
    }

    /// All tokens, in order.
    pub fn tokens(&self) -> impl Iterator<Item = Token> + '_ {
        self.segments.iter().flat_map(|segment| segment.tokens.iter().copied())
    }

    /// The ids of all tokens, in order.
    pub fn token_ids(&self) -> Vec<u32> {
        self.tokens().map(|token| token.id).collect()
    }

    /// The number of tokens.
    pub fn token_count(&self) -> usize {
        token_count(&self.segments)
    }

    /// The version that drew the first token.
    pub fn oldest_version(&self) -> u64 {
        self.segments.first().expect("a completion has a segment").version
    }

    /// The version that drew the last token.
    pub fn newest_version(&self) -> u64 {
        self.segments.last().expect("a completion has a segment").version
    }

    /// The number of different versions that drew it.
    pub fn version_count(&self) -> usize {
        1 + self.segments.windows(2).filter(|pair| pair[0].version != pair[1].version).count()
    }

    /// Whether it met the output limit.
    pub fn truncated(&self) -> bool {
        self.finish == Finish::Length
    }
}
