//! A token that a policy drew.

use serde::{Deserialize, Serialize};

/// A drawn token with the log-prob it was drawn at, in one value so that they cannot come apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Token {
    /// The token id.
    pub id: u32,
    /// Natural log of its probability under the actor's policy at the sampling temperature.
    pub logprob: f32,
}
