//! By what an output comes to its end.

use serde::{Deserialize, Serialize};

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
