//! Values for this crate's tests.

use std::sync::Arc;

use serde_json::Map;

use crate::{Completion, Finish, Group, Prompt, Reward, ScoredCompletion, Segment, Token};

/// A prompt of two tokens.
pub(crate) fn prompt(index: u64) -> Arc<Prompt> {
    Arc::new(Prompt {
        index,
        id: format!("test:{index}"),
        text: "ab".to_string(),
        tokens: vec![2, 3],
        references: Vec::new(),
        fields: Map::new(),
    })
}

/// A group whose members have one segment each, of the given (version, tokens).
pub(crate) fn group(id: u64, members: &[(u64, usize)]) -> Group {
    let prompt = prompt(id);
    let member = |(member, &(version, tokens)): (usize, &(u64, usize))| ScoredCompletion {
        completion: Completion {
            prompt: prompt.clone(),
            group: id,
            member: member as u32,
            segments: vec![Segment { version, tokens: (0..tokens).map(token).collect() }],
            finish: Finish::Eos,
            stop_reason: None,
            text: "ab".to_string(),
        },
        reward: Reward { total: 1.0, correctness: Some(1), parts: [("letters".to_string(), 1.0)].into() },
    };
    Group::new(id, prompt.clone(), members.iter().enumerate().map(member).collect())
}

fn token(place: usize) -> Token {
    Token { id: 2 + place as u32 % 5, logprob: -0.5 - 0.25 * place as f32 }
}
