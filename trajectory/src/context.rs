//! What a policy sees at one time, from its first token to the one that is drawn next.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::span::{Segment, Source, Span};

/// One sequence of tokens, given and drawn. A trajectory that goes on without what is behind it begins another one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Context {
    /// The spans, in order. The first one is given: the prompt, or what the mode carries over.
    pub spans: Vec<Span>,
}

impl Context {
    /// A context that begins with these tokens.
    pub fn given(by: Source, ids: Vec<u32>) -> Self {
        Self { spans: vec![Span::Given { by, ids }] }
    }

    /// The number of tokens.
    pub fn token_count(&self) -> usize {
        self.spans.iter().map(Span::token_count).sum()
    }

    /// The token ids, in order: what the next token is conditioned on.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        self.spans.iter().flat_map(Span::ids)
    }

    /// What was drawn, in order.
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = &Segment> {
        self.spans.iter().filter_map(Span::segment)
    }

    /// Where the drawn tokens stand among all of the context, in order and joined where segments touch: the places
    /// that a loss may look at.
    pub fn drawn_ranges(&self) -> Vec<Range<usize>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        let mut place = 0;
        for span in &self.spans {
            let end = place + span.token_count();
            if span.segment().is_some() {
                match ranges.last_mut().filter(|range| range.end == place) {
                    Some(range) => range.end = end,
                    None => ranges.push(place..end),
                }
            }
            place = end;
        }
        ranges
    }
}

/// What was drawn in all contexts, in order.
pub(crate) fn segments(contexts: &[Context]) -> impl DoubleEndedIterator<Item = &Segment> {
    contexts.iter().flat_map(|context| &context.spans).filter_map(Span::segment)
}

/// The same, to be changed.
pub(crate) fn segments_mut(contexts: &mut [Context]) -> impl Iterator<Item = &mut Segment> {
    contexts.iter_mut().flat_map(|context| &mut context.spans).filter_map(|span| match span {
        Span::Drawn(segment) => Some(segment),
        Span::Given { .. } => None,
    })
}

/// The number of tokens that were drawn in all contexts.
pub(crate) fn drawn_count(contexts: &[Context]) -> usize {
    segments(contexts).map(|segment| segment.tokens.len()).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;
    use crate::testing::segment;

    // Invariant 2: what was given has no place that a loss looks at, wherever it stands.
    #[test]
    fn drawn_ranges_leave_out_all_that_was_given() {
        let mut context = Context::given(Source::Prompt, vec![9, 9]);
        context.spans.push(Span::Drawn(segment(1, 3)));
        context.spans.push(Span::Drawn(segment(2, 1)));
        context.spans.push(Span::Given { by: Source::Environment, ids: vec![9] });
        context.spans.push(Span::Drawn(segment(2, 2)));
        assert_eq!(context.drawn_ranges(), [2..6, 7..9]);
        assert_eq!(context.ids().collect::<Vec<_>>(), [9, 9, 2, 3, 4, 2, 9, 2, 3]);
    }

    proptest! {
        // Invariant 2: of every token the context knows whether it was drawn, and with which log-prob.
        #[test]
        fn ranges_hold_the_drawn_tokens_and_no_others(spans in proptest::collection::vec((0..2_u8, 1..5_usize), 0..9)) {
            let mut context = Context::given(Source::Prompt, vec![0]);
            let mut drawn = vec![false];
            for (kind, tokens) in spans {
                context.spans.push(match kind {
                    0 => Span::Given { by: Source::Environment, ids: vec![0; tokens] },
                    _ => Span::Drawn(segment(0, tokens)),
                });
                drawn.extend(vec![kind != 0; tokens]);
            }
            let ranges = context.drawn_ranges();
            let found: Vec<bool> =
                (0..context.token_count()).map(|place| ranges.iter().any(|range| range.contains(&place))).collect();
            prop_assert_eq!(found, drawn);
            let ids: Vec<u32> = context.ids().collect();
            let of_ranges: Vec<u32> = ranges.into_iter().flatten().map(|place| ids[place]).collect();
            let of_tokens: Vec<u32> =
                context.segments().flat_map(|segment| segment.tokens.iter().map(|token| token.id)).collect();
            prop_assert_eq!(of_ranges, of_tokens);
        }
    }
}
