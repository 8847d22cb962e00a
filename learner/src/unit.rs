//! What a loss sees at once, as a step is given it: completions with what is known of them before any pass.

use std::ops::Range;

use trajectory::Span;

/// One completion, or several that are compared. Units are packed and trained on whole.
#[derive(Clone, Debug)]
pub struct Unit<'a> {
    /// In the order in which the loss sees them.
    pub completions: Vec<UnitCompletion<'a>>,
}

/// A completion with what is known of it. It has a sequence for each of its contexts, and is one completion all the same:
/// a loss sees the trained tokens of all of them, in order, under one advantage.
#[derive(Clone, Debug)]
pub struct UnitCompletion<'a> {
    /// In the order in which the policy saw them.
    pub sequences: Vec<UnitSequence<'a>>,
    /// Of the completion; 0 where there are no rewards.
    pub advantage: f64,
    /// Whether the mask of mastered tokens may touch it.
    pub positive: bool,
}

/// What begins a context, and what follows it there. The beginning has at least one token, or the first token after it
/// would have no distribution.
#[derive(Clone, Copy, Debug)]
pub struct UnitSequence<'a> {
    /// Tokens that were given.
    pub prompt: &'a [u32],
    /// Tokens behind them.
    pub tokens: Tokens<'a>,
    /// Places among `tokens` that were given as well: they are read and not trained on.
    pub given: &'a [Range<usize>],
}

/// The tokens of a sequence behind its prompt.
#[derive(Clone, Copy, Debug)]
pub enum Tokens<'a> {
    /// Spans of a context behind its prompt: drawn by actors, which stored their log-probabilities, or given between.
    Drawn(&'a [Span]),
    /// Written by others.
    Ids(&'a [u32]),
}

impl<'a> Tokens<'a> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Drawn(spans) => spans.iter().map(Span::token_count).sum(),
            Self::Ids(ids) => ids.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = u32> + 'a {
        let (spans, written) = match *self {
            Self::Drawn(spans) => (spans, &[][..]),
            Self::Ids(ids) => (&[][..], ids),
        };
        spans.iter().flat_map(Span::ids).chain(written.iter().copied())
    }

    /// Where spans stand that were given.
    fn given_spans(&self) -> Vec<Range<usize>> {
        let Self::Drawn(spans) = self else { return Vec::new() };
        let mut end = 0;
        let places = spans.iter().map(|span| {
            let start = end;
            end += span.token_count();
            (span, start..end)
        });
        places.filter(|(span, _)| span.segment().is_none()).map(|(_, places)| places).collect()
    }
}

impl<'a> Unit<'a> {
    /// A unit of one.
    #[must_use]
    pub fn of(completion: UnitCompletion<'a>) -> Self {
        Self { completions: vec![completion] }
    }

    /// Tokens that are trained on.
    #[must_use]
    pub fn trained_tokens(&self) -> usize {
        self.completions.iter().map(UnitCompletion::trained_tokens).sum()
    }
}

impl<'a> UnitCompletion<'a> {
    /// One sequence that others wrote.
    #[must_use]
    pub fn of(sequence: UnitSequence<'a>) -> Self {
        Self { sequences: vec![sequence], advantage: 0.0, positive: false }
    }

    /// Tokens that others wrote, all of them trained on.
    #[must_use]
    pub fn written(prompt: &'a [u32], ids: &'a [u32]) -> Self {
        Self::of(UnitSequence::written(prompt, ids))
    }

    /// How many tokens are trained on.
    #[must_use]
    pub fn trained_tokens(&self) -> usize {
        self.sequences.iter().map(UnitSequence::trained_tokens).sum()
    }

    /// The log-probabilities that actors stored, of the tokens that are trained on; none where no actor drew them.
    #[must_use]
    pub fn actor_logprobs(&self) -> Vec<f32> {
        self.sequences.iter().flat_map(UnitSequence::actor_logprobs).collect()
    }
}

impl<'a> UnitSequence<'a> {
    /// Tokens that others wrote, all of them trained on.
    #[must_use]
    pub fn written(prompt: &'a [u32], ids: &'a [u32]) -> Self {
        Self { prompt, tokens: Tokens::Ids(ids), given: &[] }
    }

    /// Tokens, prompt included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.prompt.len() + self.tokens.len()
    }

    /// Whether there is no token at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The places among `tokens` that are trained on, as ranges in order.
    #[must_use]
    pub fn trained(&self) -> Vec<Range<usize>> {
        let given = self.all_given();
        if given.is_empty() {
            return std::iter::once(0..self.tokens.len()).collect();
        }
        let mut trained: Vec<Range<usize>> = Vec::new();
        let is_given = |place: &usize| given.iter().any(|given| given.contains(place));
        for place in (0..self.tokens.len()).filter(|place| !is_given(place)) {
            match trained.last_mut() {
                Some(range) if range.end == place => range.end += 1,
                _ => trained.push(place..place + 1),
            }
        }
        trained
    }

    /// How many tokens are trained on.
    #[must_use]
    pub fn trained_tokens(&self) -> usize {
        self.trained().iter().map(Range::len).sum()
    }

    /// The log-probabilities that actors stored, of the tokens that are trained on; none where no actor drew them.
    #[must_use]
    pub fn actor_logprobs(&self) -> Vec<f32> {
        let Tokens::Drawn(spans) = self.tokens else { return Vec::new() };
        let (mut logprobs, mut place) = (Vec::new(), 0);
        for span in spans {
            for (at, token) in span.segment().into_iter().flat_map(|segment| &segment.tokens).enumerate() {
                if !self.given.iter().any(|given| given.contains(&(place + at))) {
                    logprobs.push(token.logprob);
                }
            }
            place += span.token_count();
        }
        logprobs
    }

    fn all_given(&self) -> Vec<Range<usize>> {
        self.given.iter().cloned().chain(self.tokens.given_spans()).collect()
    }
}

#[cfg(test)]
mod tests {
    use trajectory::{Segment, Source, Token};

    use super::*;

    // Invariant 2: what was given is in no list that a loss sees.
    #[test]
    fn given_places_are_not_among_the_trained() {
        let tokens = |from: u32, to: u32| (from..to).map(|id| Token { id, logprob: -(id as f32) }).collect();
        let drawn = |version, tokens| Span::Drawn(Segment { version, tokens, drawn_at: None });
        let spans = [
            drawn(0, tokens(0, 4)),
            Span::Given { by: Source::Environment, ids: vec![8, 8] },
            drawn(2, tokens(4, 7)),
        ];
        let given = [1..3, 8..9];
        let sequence =
            UnitSequence { tokens: Tokens::Drawn(&spans), given: &given, ..UnitSequence::written(&[9], &[]) };
        assert_eq!(sequence.trained(), [0..1, 3..4, 6..8]);
        assert_eq!((sequence.len(), sequence.trained_tokens()), (10, 4));
        assert_eq!(sequence.actor_logprobs(), [0.0, -3.0, -4.0, -5.0]);
        assert_eq!(sequence.tokens.ids().collect::<Vec<_>>(), [0, 1, 2, 3, 8, 8, 4, 5, 6]);
        let whole = UnitSequence { given: &[], ..sequence };
        assert_eq!((whole.trained(), whole.actor_logprobs().len()), (vec![0..4, 6..9], 7));
        let both = UnitCompletion { sequences: vec![sequence, whole], ..UnitCompletion::of(sequence) };
        assert_eq!(both.trained_tokens(), 11);
        assert_eq!(both.actor_logprobs()[3..6], [-5.0, 0.0, -1.0]);
    }
}
