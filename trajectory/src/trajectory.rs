//! One output that is being drawn. A [`Trajectory`] is unfinished, a [`crate::Completion`] is finished: a stage
//! that needs the one cannot be given the other.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::completion::Finish;
use crate::prompt::Prompt;
use crate::token::Token;

/// Tokens that one policy version drew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// The version of the weights, all through the segment.
    pub version: u64,
    /// The tokens, in order.
    pub tokens: Vec<Token>,
}

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
pub enum Progress {
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
    /// What is answered.
    pub prompt: Arc<Prompt>,
    /// The group it belongs to.
    pub group: u64,
    /// Its place in the group.
    pub member: u32,
    /// What is drawn so far.
    pub segments: Vec<Segment>,
}

impl Trajectory {
    /// A trajectory that has not started.
    pub fn new(prompt: Arc<Prompt>, group: u64, member: u32) -> Self {
        Self { prompt, group, member, segments: Vec::new() }
    }

    /// The number of tokens drawn so far.
    pub fn token_count(&self) -> usize {
        token_count(&self.segments)
    }

    /// The number of tokens of the prompt and drawn so far.
    pub fn context_tokens(&self) -> usize {
        self.prompt.tokens.len() + self.token_count()
    }

    /// The prompt's ids and those drawn so far: what the next token is conditioned on, never re-tokenised.
    pub fn context(&self) -> Vec<u32> {
        let drawn = self.segments.iter().flat_map(|segment| &segment.tokens).map(|token| token.id);
        self.prompt.tokens.iter().copied().chain(drawn).collect()
    }

    /// The ids drawn so far and those of the prompt before them, from the last one to the first.
    pub fn ids_backwards(&self) -> impl Iterator<Item = u32> + '_ {
        let segments = self.segments.iter().rev();
        let drawn = segments.flat_map(|segment| segment.tokens.iter().rev().map(|token| token.id));
        drawn.chain(self.prompt.tokens.iter().rev().copied())
    }

    /// Opens a segment under `version`. Versions never fall, and no segment is empty.
    pub fn start_segment(&mut self, version: u64, limits: OutputLimits) {
        if let Some(last) = self.segments.last() {
            assert!(version >= last.version, "version {version} after version {}", last.version);
            assert!(!last.tokens.is_empty(), "a segment without tokens has no successor");
        }
        let room = limits.segment_tokens_max - self.token_count() % limits.segment_tokens_max;
        self.segments.push(Segment { version, tokens: Vec::with_capacity(room) });
    }

    /// Adds a drawn token to the open segment. What the token itself ends the output by, if it does, wins over a
    /// limit that it meets.
    pub fn push(&mut self, token: Token, end: Option<Finish>, limits: OutputLimits) -> Progress {
        let segment = self.segments.last_mut().expect("a token is drawn inside a segment that was started");
        assert!(
            segment.tokens.len() < limits.segment_tokens_max,
            "a token beyond the {} of a segment",
            limits.segment_tokens_max
        );
        segment.tokens.push(token);
        let drawn = self.token_count();
        if let Some(finish) = end {
            Progress::Finished(finish)
        } else if drawn == limits.output_tokens_max {
            Progress::Finished(Finish::Length)
        } else if drawn.is_multiple_of(limits.segment_tokens_max) {
            Progress::SegmentFull
        } else {
            Progress::Inside
        }
    }
}

pub(crate) fn token_count(segments: &[Segment]) -> usize {
    segments.iter().map(|segment| segment.tokens.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::completion::{Completion, EndedText};
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
        assert_eq!(trajectory.push(token(2), None, LIMITS), Progress::Inside);
        assert_eq!(trajectory.push(token(3), None, LIMITS), Progress::SegmentFull);
        trajectory.start_segment(5, LIMITS);
        assert_eq!(trajectory.push(token(4), None, LIMITS), Progress::Inside);
        assert_eq!(trajectory.push(token(5), None, LIMITS), Progress::Finished(Finish::Length));
        assert_eq!(trajectory.context(), [&prompt(0).tokens[..], &[2, 3, 4, 5]].concat());
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
        assert_eq!(trajectory.push(token(0), Some(Finish::Eos), LIMITS), Progress::Finished(Finish::Eos));
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
        assert_eq!(trajectory.push(token(2), None, LIMITS), Progress::Inside);
        trajectory.start_segment(4, LIMITS);
        assert_eq!(trajectory.push(token(2), None, LIMITS), Progress::SegmentFull);
        let drawn: Vec<(u64, usize)> =
            trajectory.segments.iter().map(|segment| (segment.version, segment.tokens.len())).collect();
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
}
