//! What a policy is asked. Where prompts come from is the rollout's work.

use serde_json::{Map, Value};

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
    /// The answers that verifiers compare with, any of which is right; empty where the source has none.
    pub references: Vec<String>,
    /// The other fields of the source, for verifiers.
    pub fields: Map<String, Value>,
}
