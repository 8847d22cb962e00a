//! One output that is being drawn. A [`Trajectory`] is unfinished, a [`crate::Completion`] is finished: a stage
//! that needs the one cannot be given the other.

use std::sync::Arc;

use crate::context::{Context, drawn_count, segments, segments_mut};
use crate::finish::Finish;
use crate::prompt::Prompt;
use crate::span::{Segment, Source, Span};
use crate::token::Token;

/// How long outputs and their segments are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputLimits {
    /// A segment ends where the output has a multiple of so many tokens.
    pub segment_tokens_max: usize,
    /// The most tokens of one output; a multiple of the segment.
    pub output_tokens_max: usize,
}

/// What a token did to its trajectory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentProgress {
    /// The segment goes on.
    Inside,
    /// The segment is full; the next token belongs to a new one.
    SegmentFull,
    /// The output is complete.
    Finished(Finish),
}

/// An unfinished output.
#[derive(Debug, Clone, PartialEq)]
pub struct Trajectory {
    /// What is answered. Its tokens are the first span of the first context.
    pub prompt: Arc<Prompt>,
    /// The group it belongs to.
    pub group: u64,
    /// Its place in the group.
    pub member: u32,
    /// What was given and drawn so far; the policy sees the last one. Never empty.
    pub contexts: Vec<Context>,
}

impl Trajectory {
    /// A trajectory that has not started.
    pub fn new(prompt: Arc<Prompt>, group: u64, member: u32) -> Self {
        let contexts = vec![Context::given(Source::Prompt, prompt.tokens.clone())];
        Self { prompt, group, member, contexts }
    }

    /// Goes on behind these contexts, the first of which lacks the prompt.
    pub fn restore(&mut self, contexts: &[Context]) {
        let prompt = self.contexts.remove(0);
        self.contexts.extend_from_slice(contexts);
        match self.contexts.first_mut() {
            Some(first) => first.spans.splice(..0, prompt.spans).for_each(drop),
            None => self.contexts.push(prompt),
        }
    }

    /// What the policy sees.
    pub fn context(&self) -> &Context {
        self.contexts.last().expect("a trajectory begins with a context")
    }

    fn context_mut(&mut self) -> &mut Context {
        self.contexts.last_mut().expect("a trajectory begins with a context")
    }

    /// What was drawn so far, in all contexts.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        segments(&self.contexts)
    }

    /// What was drawn, to be changed.
    pub fn segments_mut(&mut self) -> impl Iterator<Item = &mut Segment> {
        segments_mut(&mut self.contexts)
    }

    /// The segment that was begun last, in whatever context.
    pub fn last_segment(&self) -> Option<&Segment> {
        self.segments().next_back()
    }

    /// The number of segments, in all contexts.
    pub fn segment_count(&self) -> usize {
        self.segments().count()
    }

    /// The number of tokens drawn so far, in all contexts.
    pub fn token_count(&self) -> usize {
        drawn_count(&self.contexts)
    }

    /// The number of tokens that the policy sees.
    pub fn context_tokens(&self) -> usize {
        self.context().token_count()
    }

    /// The ids that the policy sees: what the next token is conditioned on, never re-tokenised.
    pub fn context_ids(&self) -> Vec<u32> {
        self.context().ids().collect()
    }

    /// The number of tokens that the policy saw when it began its last segment.
    pub fn tokens_before_last_segment(&self) -> usize {
        for context in self.contexts.iter().rev() {
            if let Some(place) = context.spans.iter().rposition(|span| span.segment().is_some()) {
                return context.spans[..place].iter().map(Span::token_count).sum();
            }
        }
        self.context_tokens()
    }

    /// Opens a segment under `version`. Versions never fall, and no segment is empty.
    pub fn start_segment(&mut self, version: u64, limits: OutputLimits) {
        if let Some(last) = self.last_segment() {
            assert!(version >= last.version, "version {version} after version {}", last.version);
            assert!(!last.tokens.is_empty(), "a segment without tokens has no successor");
        }
        let room = limits.segment_tokens_max - self.token_count() % limits.segment_tokens_max;
        self.resume_segment(Segment { version, tokens: Vec::with_capacity(room), drawn_at: None });
    }

    /// Puts a segment behind what there is, to be gone on with.
    pub fn resume_segment(&mut self, segment: Segment) {
        self.context_mut().spans.push(Span::Drawn(segment));
    }

    /// The segment that tokens are drawn into.
    ///
    /// # Panics
    /// Where the context does not end with one.
    pub fn open_segment(&mut self) -> &mut Segment {
        match self.context_mut().spans.last_mut() {
            Some(Span::Drawn(segment)) => segment,
            _ => panic!("a token is drawn inside a segment that was started"),
        }
    }

    /// Adds a drawn token to the open segment. What the token itself ends the output by, if it does, wins over a
    /// limit that it meets.
    pub fn push(&mut self, token: Token, end: Option<Finish>, limits: OutputLimits) -> SegmentProgress {
        let segment = self.open_segment();
        assert!(
            segment.tokens.len() < limits.segment_tokens_max,
            "a token beyond the {} of a segment",
            limits.segment_tokens_max
        );
        segment.tokens.push(token);
        let drawn = self.token_count();
        if let Some(finish) = end {
            SegmentProgress::Finished(finish)
        } else if drawn == limits.output_tokens_max {
            SegmentProgress::Finished(Finish::Length)
        } else if drawn.is_multiple_of(limits.segment_tokens_max) {
            SegmentProgress::SegmentFull
        } else {
            SegmentProgress::Inside
        }
    }

    /// Puts tokens that nobody drew behind what the policy sees.
    pub fn append(&mut self, by: Source, ids: Vec<u32>) {
        assert!(!ids.is_empty(), "nothing is appended to a context");
        self.context_mut().spans.push(Span::Given { by, ids });
    }

    /// Lets the policy see these tokens and nothing of what is behind it.
    pub fn begin_context(&mut self, by: Source, ids: Vec<u32>) {
        assert!(!ids.is_empty(), "a context begins with a token");
        self.contexts.push(Context::given(by, ids));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::completion::Completion;
    use crate::finish::EndedText;
    use crate::testing::prompt;

    const LIMITS: OutputLimits = OutputLimits { segment_tokens_max: 2, output_tokens_max: 4 };

    fn token(id: u32) -> Token {
        Token { id, logprob: -0.5 }
    }

    fn started() -> Trajectory {
        let mut trajectory = Trajectory::new(prompt(0), 0, 0);
        trajectory.start_segment(3, LIMITS);
        trajectory
    }

    #[test]
    fn a_trajectory_goes_from_segment_to_segment_to_its_limit() {
        let mut trajectory = started();
        assert_eq!(trajectory.push(token(2), None, LIMITS), SegmentProgress::Inside);
        assert_eq!(trajectory.push(token(3), None, LIMITS), SegmentProgress::SegmentFull);
        trajectory.start_segment(5, LIMITS);
        assert_eq!(trajectory.push(token(4), None, LIMITS), SegmentProgress::Inside);
        assert_eq!(trajectory.push(token(5), None, LIMITS), SegmentProgress::Finished(Finish::Length));
        assert_eq!(trajectory.context_ids(), [&prompt(0).tokens[..], &[2, 3, 4, 5]].concat());
        let completion = Completion::new(
            trajectory,
            Finish::Length,
            EndedText { text: "abcd".to_string(), stop_reason: None },
        );
        assert_eq!(completion.token_ids(), [2, 3, 4, 5]);
        assert_eq!((completion.oldest_version(), completion.newest_version()), (3, 5));
        assert_eq!((completion.version_count(), completion.truncated()), (2, true));
    }

    #[test]
    fn an_end_of_output_wins_over_the_limit() {
        let mut trajectory = started();
        trajectory.push(token(2), None, LIMITS);
        trajectory.push(token(2), None, LIMITS);
        trajectory.start_segment(3, LIMITS);
        trajectory.push(token(2), None, LIMITS);
        assert_eq!(
            trajectory.push(token(0), Some(Finish::Eos), LIMITS),
            SegmentProgress::Finished(Finish::Eos)
        );
    }

    #[test]
    #[should_panic(expected = "a segment without tokens has no successor")]
    fn a_segment_that_drew_nothing_is_not_left() {
        started().start_segment(4, LIMITS);
    }

    // Invariant 1: tokens keep the version that drew them, and a segment cut short moves no boundary.
    #[test]
    fn what_follows_a_segment_cut_short_ends_at_the_same_boundary() {
        let mut trajectory = started();
        assert_eq!(trajectory.push(token(2), None, LIMITS), SegmentProgress::Inside);
        trajectory.start_segment(4, LIMITS);
        assert_eq!(trajectory.push(token(2), None, LIMITS), SegmentProgress::SegmentFull);
        let drawn: Vec<(u64, usize)> =
            trajectory.segments().map(|segment| (segment.version, segment.tokens.len())).collect();
        assert_eq!(drawn, [(3, 1), (4, 1)]);
    }

    // Invariant 7: versions never fall.
    #[test]
    #[should_panic(expected = "version 2 after version 3")]
    fn versions_never_fall_inside_a_trajectory() {
        let mut trajectory = started();
        trajectory.push(token(2), None, LIMITS);
        trajectory.push(token(2), None, LIMITS);
        trajectory.start_segment(2, LIMITS);
    }

    // Invariant 2: what is given between two turns is seen, and is not among what was drawn.
    #[test]
    fn given_tokens_are_seen_and_not_drawn() {
        let mut trajectory = started();
        trajectory.push(token(2), Some(Finish::Eos), LIMITS);
        trajectory.append(Source::Environment, vec![7, 8]);
        assert_eq!((trajectory.token_count(), trajectory.context_tokens()), (1, 5));
        assert_eq!(trajectory.tokens_before_last_segment(), 2);
        trajectory.start_segment(4, LIMITS);
        // The boundary of a segment is counted in drawn tokens.
        assert_eq!(trajectory.push(token(3), None, LIMITS), SegmentProgress::SegmentFull);
        assert_eq!(trajectory.context_ids(), [2, 3, 2, 7, 8, 3]);
        trajectory.begin_context(Source::Mode, vec![9]);
        trajectory.start_segment(4, LIMITS);
        trajectory.push(token(4), Some(Finish::Eos), LIMITS);
        assert_eq!((trajectory.context_ids(), trajectory.segment_count()), (vec![9, 4], 3));
        assert_eq!(trajectory.tokens_before_last_segment(), 1);
        let completion = Completion::new(trajectory, Finish::Eos, EndedText::default());
        assert_eq!(completion.token_ids(), [2, 3, 4]);
    }
}
