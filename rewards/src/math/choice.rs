//! The letter of a multiple choice: `(A)`, `A.`, `\textbf{(A) } 5`. What stands behind it must be that choice's own
//! text; an answer that names two choices, or says something about one, is none.

use std::collections::HashSet;
use std::sync::LazyLock;

use crate::latex::qualifier::{is_hedging_adverb, words};
use crate::math::normal::plain;

/// The letter of a choice and the text that stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) letter: char,
    pub(super) text: String,
}

/// The choice that a text is. A small letter is one only with a mark.
pub(super) fn choice(text: &str) -> Option<Choice> {
    // Most answers begin with a digit or with a command that is no text, which one look tells.
    let is_formula = [r"\frac", r"\sqrt", r"\dfrac", r"\pi"].iter().any(|command| text.starts_with(command));
    if is_formula || text.starts_with(|first: char| first.is_ascii_digit() || first == '-') {
        return None;
    }
    let plain = plain(text, false);
    let mut rest = plain.trim();
    let open = rest.starts_with(['(', '[']);
    rest = rest.strip_prefix(['(', '[']).unwrap_or(rest).trim_start();
    let letter = rest.chars().next().filter(char::is_ascii_alphabetic)?;
    let after = &rest[1..];
    let closed = after.trim_start().strip_prefix([')', ']']);
    let behind = match (after.chars().next(), closed) {
        (None, _) if !open && letter.is_ascii_uppercase() => "",
        (_, Some(behind)) if open || letter.is_ascii_uppercase() => behind,
        (Some('.' | ':'), _) if !open && letter.is_ascii_uppercase() => &after[1..],
        _ => return None,
    };
    // `(x)(y)` is a product; a small letter in brackets is a choice where nothing or a word stands behind.
    let is_small = letter.is_ascii_lowercase();
    if is_small
        && !(letter <= 'h'
            && (behind.trim().is_empty() || behind.trim_start().starts_with(char::is_alphabetic)))
    {
        return None;
    }
    // A sign without a space makes a formula of the letter.
    let is_formula = behind.starts_with(['+', '-', '^', '_', '/', '*', '=', '!', '(', '[']);
    let behind = behind.trim_start_matches(['.', ':', '~', ' ', '*']).trim_end_matches(['*', '.', ' ']);
    (!is_formula && is_own_text(behind))
        .then(|| Choice { letter: letter.to_ascii_uppercase(), text: behind.to_string() })
}

/// The letter before a dash and a choice's text, `C - 14`. Algebra is written so, too.
pub(super) fn dashed_choice(text: &str) -> Option<Choice> {
    let plain = plain(text, false);
    let rest = plain.trim();
    let letter = rest.chars().next().filter(char::is_ascii_uppercase)?;
    let behind = rest[1..].strip_prefix(" - ").or_else(|| rest[1..].strip_prefix(" — "))?.trim();
    (!behind.is_empty() && is_own_text(behind)).then(|| Choice { letter, text: behind.to_string() })
}

/// A letter alone that may be a choice's, in either case.
pub(super) fn lone_letter(text: &str) -> Option<char> {
    let plain = plain(text, false);
    match plain.trim().as_bytes() {
        [letter @ (b'A'..=b'H' | b'a'..=b'h')] => Some(char::from(letter.to_ascii_uppercase())),
        _ => None,
    }
}

/// Commands that a choice's own text may begin with; others go on with a formula.
const VALUES: [&str; 14] = [
    "frac", "dfrac", "tfrac", "cfrac", "sqrt", "pi", "infty", "left", "begin", "binom", "emptyset", "text",
    "math", "sin",
];

/// Words that speak of a choice, or lead to another one.
static ABOUT: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "or and not is isn't isnt was wasn't are aren't cannot can't but if nor rather maybe perhaps possibly probably \
         likely unless except instead seems looks may might could should would wrong incorrect false then over versus \
         vs either & fails fail failed does doesn't did didn't can couldn't will won't wouldn't shouldn't must mustn't \
         has were works too gets seemed looked appears contradicts contradict violates violate misses exceeds lies \
         sort kind somewhat almost nearly sounds feels appeared hmm nope oh wait against lol invalid bad rejected \
         excluded eliminated discarded dismissed disproved disproven refuted ruled crossed when \
         whenever provided assuming though although however yet still at as for now never hardly barely kinda \
         sorta alternatively otherwise that which who because since so unlike minus plus instead",
    )
});

/// Texts of choices that begin like words about one.
const OWN_TEXTS: [&str; 12] = [
    "at least ",
    "at most ",
    "only one",
    "only two",
    "i and i",
    "i only",
    "cannot be determined",
    "can not be determined",
    "can't be determined",
    "does not exist",
    "doesn't exist",
    "not enough information",
];

/// Whether what stands behind a choice's letter may be its text: no sign that makes a formula of the letter, no word
/// about the choice, and no other choice.
fn is_own_text(behind: &str) -> bool {
    if behind.starts_with([
        ',', ';', '(', '[', '/', '+', '-', '*', '^', '_', '=', '!', '?', '&', '<', '>', '|', '–', '—',
    ]) && !is_number(behind)
    {
        return false;
    }
    let command = behind.strip_prefix('\\').unwrap_or("");
    if command.starts_with(|first: char| first.is_ascii_alphabetic())
        && !VALUES.iter().any(|name| command.starts_with(name))
    {
        return false;
    }
    let words: Vec<&str> = behind.split_whitespace().collect();
    let bare =
        |word: &str| word.trim_matches(|sign: char| !sign.is_alphanumeric() && sign != '\'').to_lowercase();
    let first = words.first().map(|word| bare(word).replace('’', "'")).unwrap_or_default();
    let lower = || behind.to_ascii_lowercase();
    // `incorrectly`, `in theory`, `by mistake`.
    let second = words.get(1).map(|word| bare(word)).unwrap_or_default();
    // A sentence of the choice's own begins with a capital: `It decreases`, and not `I guess` or `you say`.
    let speaks = behind.starts_with(|letter: char| letter.is_lowercase())
        && matches!(first.as_str(), "you" | "they" | "he" | "she" | "we" | "it")
        || first == "i"
            && matches!(second.as_str(), "guess" | "think" | "suppose" | "believe" | "hope" | "mean");
    let is_condition = first == "only" && matches!(second.as_str(), "if" | "when" | "for");
    let is_hedge = speaks
        || is_condition
        || is_hedging_adverb(&first)
        || matches!(first.as_str(), "in" | "by" | "with")
            && matches!(
                second.as_str(),
                "theory"
                    | "principle"
                    | "error"
                    | "jest"
                    | "mistake"
                    | "accident"
                    | "luck"
                    | "chance"
                    | "elimination"
                    | "reservations"
                    | "doubt"
                    | "doubts"
            );
    let is_about = is_hedge
        || ABOUT.contains(first.as_str()) && !OWN_TEXTS.iter().any(|own| lower().starts_with(own))
        || behind.ends_with('?')
        || behind.starts_with(r"\lor")
        || behind.starts_with(r"\land")
        || behind.starts_with(r"\vee")
        || behind.starts_with(r"\wedge");
    let has_other = words.iter().enumerate().any(|(at, word)| is_label(word) || is_joined_letter(&words, at));
    // A letter alone is another choice.
    let is_letter = matches!(behind.as_bytes(), [b'A'..=b'Z']);
    !is_about && !has_other && !is_letter
}

/// Whether a text begins with a sign that belongs to a number.
fn is_number(text: &str) -> bool {
    let unsigned =
        text.strip_prefix(['-', '+', '–']).unwrap_or(text).trim_start_matches(['$', '\\', '(', '[']);
    unsigned.len() < text.len() && unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        || matches!(text.as_bytes(), [b'(' | b'[', ..])
            && (text.contains(',') || is_bracketed_number(text))
            && !text[1..].starts_with(|first: char| first.is_ascii_uppercase())
}

/// `(14)`.
fn is_bracketed_number(text: &str) -> bool {
    let inner = text.strip_prefix(['(', '[']).and_then(|inner| inner.strip_suffix([')', ']']));
    inner.is_some_and(|inner| {
        !inner.is_empty() && inner.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    })
}

/// `(D)`, `D)`, `D.`, `D:`: the mark of another choice.
fn is_label(word: &str) -> bool {
    let (inner, bracketed) = match word.strip_prefix(['(', '[']) {
        Some(inner) => (inner, true),
        None => (word, false),
    };
    let inner = inner.trim_end_matches([',', ';', '.', '?', '!']);
    match inner.as_bytes() {
        [b'A'..=b'Z', b')' | b']'] => true,
        [b'A'..=b'Z', b':'] => true,
        [b'A'..=b'Z'] => !bracketed && word.ends_with('.'),
        _ => false,
    }
}

/// A capital letter behind `or`, `and`, a comma or a slash.
fn is_joined_letter(words: &[&str], at: usize) -> bool {
    let is_letter = matches!(words[at].trim_end_matches([',', '.', ';', '?', '!']).as_bytes(), [b'A'..=b'Z']);
    let is_joint = at > 0
        && (matches!(words[at - 1], "or" | "and" | "nor" | "not" | "/" | "&")
            || words[at - 1].ends_with([',', ';', '/']));
    is_letter && is_joint
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_with_its_own_text_is_a_choice() {
        let found = |text: &str| choice(text).map(|found| format!("{} {}", found.letter, found.text));
        for (text, expected) in [
            ("B", "B "),
            ("(b)", "B "),
            ("[E]", "E "),
            (r"\textbf{(D) } 12", "D 12"),
            ("B.", "B "),
            ("A: 3 apples", "A 3 apples"),
            ("B) -4", "B -4"),
            ("(D) (1, 2)", "D (1, 2)"),
            ("A. Vitamin C", "A Vitamin C"),
            ("(E) none of these", "E none of these"),
            ("**(B)** 9", ""),
        ] {
            assert_eq!(found(text).unwrap_or_default(), expected, "{text}");
        }
    }

    #[test]
    fn several_choices_and_words_about_one_are_none() {
        for text in [
            "b",
            "(B) or (D)",
            "(B) and (D)",
            "(B), (D)",
            "(B)(D)",
            "(B)/(D)",
            "B. or D.",
            "B: or D",
            "B: D",
            "(B) is wrong",
            "(B) isn't right",
            "B. is not it",
            "(B) not (D)",
            "(B)?",
            "B. 12 or D. 13",
            "B) 12, D) 13",
            "(B) maybe",
            "(B) but not (D)",
            "(B) or maybe D",
            "(B) 12 or (D) 13",
            "B. 12; D. 13",
            "(B) cannot be",
            "(B) if x > 0",
            "(B) & (D)",
            "(B) rather than (D)",
            r"(B)\lor(D)",
            "(B) \\text{ or } (D)",
            "(B) = (D)",
            "(B",
            "B+1",
            "(B)+1",
            "B'",
            "",
            "(BD)",
        ] {
            assert_eq!(choice(text), None, "{text}");
        }
        assert_eq!(dashed_choice("B - 12").map(|found| found.letter), Some('B'));
        assert!(dashed_choice("B-12").is_none() && dashed_choice("B - D").is_none());
    }
}
