//! Finds the final `\boxed{...}` or `\fbox{...}` of a text, in one pass and without a stack, however hostile the
//! braces are.

/// A longer box is no answer: every reader of a box calls it wrong without reading it. Numbers of 65 thousand digits
/// fit.
pub(crate) const BOX_BYTES_MAX: usize = 1 << 16;

/// A box in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boxed<'a> {
    /// Where its command begins.
    pub(crate) start: usize,
    /// What stands in its braces.
    pub(crate) content: &'a str,
    /// Where the text behind its closing brace begins.
    pub(crate) end: usize,
}

/// The content of the last box of [`last_box`].
pub(crate) fn last_boxed(text: &str) -> Option<&str> {
    last_box(text).map(|found| found.content)
}

/// The last `\boxed{...}` or `\fbox{...}` (by where it begins) whose braces balance.
///
/// Braces match as brackets do; one that has no partner is passed over, and an escaped one (`\{`) is a character.
/// White space may stand before the brace.
pub(crate) fn last_box(text: &str) -> Option<Boxed<'_>> {
    let bytes = text.as_bytes();
    // From the end: an opening brace has a partner exactly if closing ones are left over behind it.
    let mut unmatched_closings = 0usize;
    for at in (0..bytes.len()).rev() {
        match bytes[at] {
            b'}' if !is_escaped(bytes, at) => unmatched_closings += 1,
            b'{' if unmatched_closings > 0 && !is_escaped(bytes, at) => {
                let before = bytes[..at].trim_ascii_end();
                let command =
                    [&br"\boxed"[..], br"\fbox"].into_iter().find(|command| before.ends_with(command));
                if let Some(command) = command {
                    let end = closing_brace(bytes, at + 1)?;
                    let start = before.len() - command.len();
                    return Some(Boxed { start, content: &text[at + 1..end], end: end + 1 });
                }
                unmatched_closings -= 1;
            }
            _ => {}
        }
    }
    None
}

/// Whether the byte at `at` has an odd number of backslashes before it. Each run of backslashes stands before one
/// byte only, so all calls of one pass together are linear.
fn is_escaped(bytes: &[u8], at: usize) -> bool {
    bytes[..at].iter().rev().take_while(|&&byte| byte == b'\\').count() % 2 == 1
}

/// Where the brace that was opened before `start` is closed.
pub(crate) fn closing_brace(bytes: &[u8], start: usize) -> Option<usize> {
    let mut depth = 1usize;
    for at in start..bytes.len() {
        match bytes[at] {
            b'{' if !is_escaped(bytes, at) => depth += 1,
            b'}' if !is_escaped(bytes, at) => {
                depth -= 1;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;
    use crate::stopwatch::seconds;

    #[test]
    fn takes_the_last_balanced_box() {
        let cases = [
            (r"\boxed{1}", Some("1")),
            (r"\boxed{1} and \boxed{2}.", Some("2")),
            (r"\boxed{\frac{1}{2}}", Some(r"\frac{1}{2}")),
            (r"\boxed{1} then \boxed{2", Some("1")),
            (r"\boxed{a \boxed{b}}", Some("b")),
            (r"\boxed{\boxed{5}", Some("5")),
            (r"}}{{ \boxed{5} }}{{", Some("5")),
            (r"\boxed {5}", Some("5")),
            (r"\boxed{1} or \fbox{2}", Some("2")),
            (r"\boxed{}", Some("")),
            (r"\boxed{\{1, 2\}}", Some(r"\{1, 2\}")),
            (r"\boxed{\left\{ 1}", Some(r"\left\{ 1")),
            (r"\boxed{5\}", None),
            (r"\boxed\{5}", None),
            (r"\boxed 5", None),
            (r"boxed{5}", None),
            ("", None),
            ("\\boxed{\0é}", Some("\0é")),
        ];
        for (text, expected) in cases {
            assert_eq!(last_boxed(text), expected, "{text}");
        }
    }

    #[test]
    fn ten_megabytes_of_braces_take_under_a_second() {
        for piece in ["{", "}", "{}", r"\boxed{", r"\boxed{}}", r"\", r"\{", "} ", "{ "] {
            let text = piece.repeat(10_000_000 / piece.len());
            let taken = seconds(|| {
                last_boxed(&text);
            });
            assert!(taken < 1.0, "{piece}: {taken} s");
        }
        assert_eq!(last_boxed(&r"\boxed{".repeat(1_400_000)), None);
    }

    /// The plain version: try every box from the last to the first.
    fn slow(text: &str) -> Option<&str> {
        let starts: Vec<usize> = text.match_indices(r"\boxed{").map(|(at, found)| at + found.len()).collect();
        starts
            .into_iter()
            .rev()
            .find_map(|start| closing_brace(text.as_bytes(), start).map(|end| &text[start..end]))
    }

    proptest! {
        #[test]
        fn agrees_with_trying_every_box(pieces in proptest::collection::vec(
            proptest::sample::select(vec![r"\boxed{", "{", "}", "1", r"\{", r"\}", "é"]), 0..30,
        )) {
            let text: String = pieces.concat();
            prop_assert_eq!(last_boxed(&text), slow(&text));
        }
    }
}
