//! What a context is made of: spans that a policy drew and spans that somebody gave. Only what was drawn has
//! log-probs, so what was given cannot be mistaken for it.

use serde::{Deserialize, Serialize};

use crate::token::Token;

/// Tokens that one policy version drew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// The version of the weights, all through the segment.
    pub version: u64,
    /// The tokens, in order.
    pub tokens: Vec<Token>,
    /// Where and when they were drawn; `None` in a recording that does not say.
    pub drawn_at: Option<DrawnAt>,
}

/// Where and when a segment was drawn. Nothing is computed from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrawnAt {
    /// The actor, counted from 0.
    pub actor: u32,
    /// The slot of its decoder, counted from 0.
    pub slot: u32,
    /// The actor's decode step that drew the first token, counted from 0.
    pub first_step: u64,
    /// The decode step that drew the last token so far.
    pub last_step: u64,
}

/// Who gave tokens that no policy drew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// What is asked.
    Prompt,
    /// What a tool or an environment answered.
    Environment,
    /// What the rollout's mode carries from one context to the next, such as a summary.
    Mode,
}

/// A stretch of a context with one origin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Span {
    /// A policy drew it: it can be learned from.
    Drawn(Segment),
    /// Somebody gave it: the policy is conditioned on it and never learns to write it.
    Given {
        /// Who gave it.
        by: Source,
        /// The token ids; never empty.
        ids: Vec<u32>,
    },
}

impl Span {
    /// The number of tokens.
    pub fn token_count(&self) -> usize {
        match self {
            Self::Drawn(segment) => segment.tokens.len(),
            Self::Given { ids, .. } => ids.len(),
        }
    }

    /// The segment, if a policy drew it.
    pub fn segment(&self) -> Option<&Segment> {
        match self {
            Self::Drawn(segment) => Some(segment),
            Self::Given { .. } => None,
        }
    }

    fn id(&self, place: usize) -> u32 {
        match self {
            Self::Drawn(segment) => segment.tokens[place].id,
            Self::Given { ids, .. } => ids[place],
        }
    }

    /// The token ids, in order.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        (0..self.token_count()).map(|place| self.id(place))
    }
}
