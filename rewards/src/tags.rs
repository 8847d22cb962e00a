//! `<think>...</think>` and `<answer>...</answer>`: finds them where each tag stands once and in order.
//!
//! Tags that are nested or repeated, or stand inside each other, are not sorted out: such a text has no form, and a
//! reward for it would be a reward for confusion. Everything is a few searches from left to right.

/// An opening tag and the one that closes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag {
    open: &'static str,
    close: &'static str,
}

const THINK: Tag = Tag { open: "<think>", close: "</think>" };
pub(crate) const ANSWER: Tag = Tag { open: "<answer>", close: "</answer>" };

impl Tag {
    /// Whether either tag stands in a text.
    pub(crate) fn is_in(self, text: &str) -> bool {
        text.contains(self.open) || text.contains(self.close)
    }
}

/// A text that is one block of thinking and then something else.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Thought<'a> {
    /// What stands between the tags.
    pub(crate) inside: &'a str,
    /// What stands behind the block.
    pub(crate) after: &'a str,
}

/// Splits a completion that begins with its only block of thinking. With `opened` the chat template has written the
/// opening tag already, so the completion begins inside the block.
pub(crate) fn thought(completion: &str, opened: bool) -> Option<Thought<'_>> {
    let (before, inside, after) = match opened {
        true => completion.split_once(THINK.close).map(|(inside, after)| ("", inside, after))?,
        false => around(completion, THINK)?,
    };
    let is_clean = !THINK.is_in(inside) && !THINK.is_in(after);
    (before.trim().is_empty() && is_clean).then_some(Thought { inside, after })
}

/// The content of the text's only answer block, if nothing but white space stands around it.
pub(crate) fn only_answer(text: &str) -> Option<&str> {
    let (before, inside, after) = around(text, ANSWER)?;
    let is_clean = !ANSWER.is_in(inside) && !ANSWER.is_in(after);
    (before.trim().is_empty() && after.trim().is_empty() && is_clean).then_some(inside)
}

/// The text before the first opening tag, between it and the next closing one, and behind that.
fn around(text: &str, tag: Tag) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once(tag.open)?;
    let (inside, after) = rest.split_once(tag.close)?;
    Some((before, inside, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn a_thought_is_the_only_one_and_comes_first() {
        let expect = |text, opened, expected: Option<(&str, &str)>| {
            let found = thought(text, opened).map(|thought| (thought.inside, thought.after));
            assert_eq!(found, expected, "{text} {opened}");
        };
        expect("<think>a</think>b", false, Some(("a", "b")));
        expect(" \n<think></think>", false, Some(("", "")));
        expect("a</think>b", true, Some(("a", "b")));
        for text in [
            "",
            "a",
            "x<think>a</think>b",
            "<think>a",
            "a</think>b",
            "</think><think>",
            "</think><think>a</think>",
            "<think>a</think>b</think>",
            "<think>a</think><think>b</think>",
            "<think><think>a</think></think>",
            "<Think>a</Think>b",
        ] {
            expect(text, false, None);
        }
        expect("<think>a</think>b", true, None);
        expect("a</think>b</think>", true, None);
        expect("a", true, None);
    }

    #[test]
    fn an_answer_is_the_only_one_and_stands_alone() {
        assert_eq!(only_answer(" <answer>4</answer>\n"), Some("4"));
        assert_eq!(only_answer("<answer></answer>"), Some(""));
        for text in [
            "4",
            "so <answer>4</answer>",
            "<answer>4</answer>.",
            "<answer>4",
            "</answer>4<answer>",
            "<answer><answer>4</answer>",
            "<answer>4</answer></answer>",
            "<answer>4</answer><answer>4</answer>",
        ] {
            assert_eq!(only_answer(text), None, "{text}");
        }
    }

    proptest! {
        /// Against counting the tags: one of each and the opening one first.
        #[test]
        fn a_thought_agrees_with_counting_tags(pieces in proptest::collection::vec(
            proptest::sample::select(vec!["<think>", "</think>", "a", " ", "<", "é"]), 0..8,
        )) {
            let text: String = pieces.concat();
            let (open, close) = (text.find("<think>"), text.find("</think>"));
            let once = text.matches("<think>").count() == 1 && text.matches("</think>").count() == 1;
            let expected = once && open < close && text.trim().starts_with("<think>");
            prop_assert_eq!(thought(&text, false).is_some(), expected, "{}", text);
        }
    }
}
