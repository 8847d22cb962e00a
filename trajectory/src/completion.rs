//! One output that has come to its end.

use std::sync::Arc;

use crate::context::{Context, drawn_count, segments, segments_mut};
use crate::finish::{EndedText, Finish, StopReason};
use crate::prompt::Prompt;
use crate::span::Segment;
use crate::token::Token;
use crate::trajectory::Trajectory;

/// A finished output with its text. An end of output or a stop token id is the last of its tokens and not in its text.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// What was answered.
    pub prompt: Arc<Prompt>,
    /// The group it belongs to.
    pub group: u64,
    /// Its place in the group.
    pub member: u32,
    /// What was given and drawn: at least one segment, none empty, versions never falling.
    pub contexts: Vec<Context>,
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
        let Trajectory { prompt, group, member, contexts } = trajectory;
        assert!(
            segments(&contexts).count() > 0 && segments(&contexts).all(|segment| !segment.tokens.is_empty()),
            "member {member} of group {group} finished with an empty segment"
        );
        let EndedText { text, stop_reason } = ended;
        Self { prompt, group, member, contexts, finish, stop_reason, text }
    }

    /// What was drawn, in all contexts.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        segments(&self.contexts)
    }

    /// What was drawn, to be changed.
    pub fn segments_mut(&mut self) -> impl Iterator<Item = &mut Segment> {
        segments_mut(&mut self.contexts)
    }

    /// All tokens that were drawn, in order.
    pub fn tokens(&self) -> impl Iterator<Item = Token> + '_ {
        self.segments().flat_map(|segment| segment.tokens.iter().copied())
    }

    /// The ids of all tokens that were drawn, in order.
    pub fn token_ids(&self) -> Vec<u32> {
        self.tokens().map(|token| token.id).collect()
    }

    /// The number of tokens that were drawn.
    pub fn token_count(&self) -> usize {
        drawn_count(&self.contexts)
    }

    /// The number of segments.
    pub fn segment_count(&self) -> usize {
        self.segments().count()
    }

    /// The version that drew the first token.
    pub fn oldest_version(&self) -> u64 {
        self.segments().next().expect("a completion has a segment").version
    }

    /// The version that drew the last token.
    pub fn newest_version(&self) -> u64 {
        self.segments().next_back().expect("a completion has a segment").version
    }

    /// The number of different versions that drew it.
    pub fn version_count(&self) -> usize {
        let changes = self.segments().zip(self.segments().skip(1));
        1 + changes.filter(|(before, after)| before.version != after.version).count()
    }

    /// Whether it met the output limit.
    pub fn truncated(&self) -> bool {
        self.finish == Finish::Length
    }
}
