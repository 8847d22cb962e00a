//! Which part of which context is computed when several are filled at once, so that what contexts have in common
//! is computed once. Pure: tokens and counts only.

/// A context that is being filled: its tokens and how many of them it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filling<'a> {
    pub(super) slot: usize,
    pub(super) tokens: &'a [u32],
    pub(super) has: usize,
}

/// A round of filling.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Round {
    /// Places of contexts that are computed further, and up to how many tokens.
    pub(super) computed: Vec<(usize, usize)>,
    /// After that: places of a context that takes over from another one, and how many tokens it has then.
    pub(super) taken_over: Vec<(usize, usize, usize)>,
}

impl Round {
    /// The next round. A context waits where one before it will have more of its tokens than it has itself; that one
    /// is computed as far as somebody waits for it, so that the rest of all goes through the layers together.
    pub(super) fn next(contexts: &[Filling<'_>]) -> Self {
        let mut round = Self::default();
        for (place, context) in contexts.iter().enumerate() {
            let leaders = round.computed.iter().map(|&(leader, _)| leader);
            let shared = leaders.map(|leader| (common(contexts[leader].tokens, context.tokens), leader));
            // The first of those that share the most.
            let best = shared.max_by_key(|&(shared, leader)| (shared, std::cmp::Reverse(leader)));
            match best.filter(|(shared, _)| *shared > context.has) {
                Some((shared, leader)) => round.taken_over.push((place, leader, shared)),
                None => round.computed.push((place, context.tokens.len())),
            }
        }
        for (leader, until) in &mut round.computed {
            let wanted = round.taken_over.iter().filter(|(_, from, _)| from == leader);
            let most = wanted.map(|(_, _, shared)| *shared).max().unwrap_or(0);
            if most > contexts[*leader].has {
                *until = most;
            }
        }
        round
    }
}

/// Tokens that both begin with.
fn common(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

    use super::{Filling, Round, common};

    /// A group of three and a stranger: the group's prompt once, then the rest of all at once.
    #[test]
    fn what_is_common_is_computed_once_and_the_rest_together() {
        let texts: [&[u32]; 4] = [&[1, 2, 3, 4], &[7, 2], &[1, 2, 3, 5, 6], &[1, 2, 3, 4]];
        let mut contexts: Vec<Filling<'_>> =
            texts.iter().map(|tokens| Filling { slot: 0, tokens, has: 0 }).collect();
        let round = Round::next(&contexts);
        assert_eq!(round.computed, [(0, 4), (1, 2)]);
        assert_eq!(round.taken_over, [(2, 0, 3), (3, 0, 4)]);
        contexts[0].has = 4;
        contexts[2].has = 3;
        contexts[3].has = 4;
        contexts.remove(1);
        let round = Round::next(&contexts[1..2]);
        assert_eq!((round.computed, round.taken_over.len()), (vec![(0, 5)], 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Rounds come to an end, and in all of them each distinct prefix is computed once: as many tokens as a tree
        /// of all contexts has.
        #[test]
        fn every_distinct_prefix_is_computed_once(
            texts in proptest::collection::vec(proptest::collection::vec(0_u32..2, 1..7), 1..9),
        ) {
            let mut left: Vec<Filling<'_>> =
                texts.iter().map(|tokens| Filling { slot: 0, tokens, has: 0 }).collect();
            let mut computed = 0;
            for _ in 0..100 {
                let round = Round::next(&left);
                for (place, until) in &round.computed {
                    prop_assert!(*until >= left[*place].has);
                    computed += until - left[*place].has;
                    left[*place].has = *until;
                }
                for (place, from, until) in &round.taken_over {
                    prop_assert!(left[*from].has >= *until && *until > left[*place].has);
                    prop_assert!(common(left[*from].tokens, left[*place].tokens) >= *until);
                    left[*place].has = *until;
                }
                left.retain(|context| context.has < context.tokens.len());
            }
            prop_assert!(left.is_empty(), "{left:?} are not filled");
            let prefixes: std::collections::BTreeSet<&[u32]> =
                texts.iter().flat_map(|text| (1..=text.len()).map(|end| &text[..end])).collect();
            prop_assert_eq!(computed, prefixes.len());
        }
    }
}
