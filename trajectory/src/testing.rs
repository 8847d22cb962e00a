//! Values for this crate's tests.

use std::sync::Arc;

use serde_json::Map;

use crate::{
    Completion, Context, Finish, Group, Prompt, Reward, ScoredCompletion, Segment, Source, Span, Token,
};

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
    let member = |member: usize, version: u64, tokens: usize| ScoredCompletion {
        completion: Completion {
            prompt: prompt.clone(),
            group: id,
            member: member as u32,
            contexts: vec![answered(&prompt, segment(version, tokens))],
            finish: Finish::Eos,
            stop_reason: None,
            text: "ab".to_string(),
        },
        reward: Reward { total: 1.0, correctness: Some(1), parts: [("letters".to_string(), 1.0)].into() },
    };
    let members = members.iter().enumerate();
    let completions = members.map(|(place, (version, tokens))| member(place, *version, *tokens)).collect();
    Group::new(id, prompt.clone(), completions)
}

/// A segment of so many tokens.
pub(crate) fn segment(version: u64, tokens: usize) -> Segment {
    Segment { version, tokens: (0..tokens).map(token).collect(), drawn_at: None }
}

/// The prompt and what was drawn behind it.
fn answered(prompt: &Prompt, segment: Segment) -> Context {
    let mut context = Context::given(Source::Prompt, prompt.tokens.clone());
    context.spans.push(Span::Drawn(segment));
    context
}

fn token(place: usize) -> Token {
    Token { id: 2 + place as u32 % 5, logprob: -0.5 - 0.25 * place as f32 }
}
