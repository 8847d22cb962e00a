//! The answer that a sentence announces: what follows `the answer is`, `Answer:`, `the correct option is`.

use std::borrow::Cow;

use crate::math::choice::choice;
use crate::math::denial::{denies_answer, is_corrected, is_supposed};
use crate::math::formula::formula_at;
use crate::math::normal::trimmed;
use crate::math::sentence::sentence_of;
use crate::math::statement::value_said;

/// What an answer is without being told.
const NO_ANSWERS: &[&str] = &[
    "correct",
    "right",
    "wrong",
    "incorrect",
    "indeed",
    "reasonable",
    "unique",
    "consistent",
    "verified",
    "as follows",
    "clear",
    "below",
    "above",
    "given",
];

/// Words that tell how an answer is found, or that something is said of it later.
const MANNERS: &[&str] = &[
    "found",
    "obtained",
    "calculated",
    "computed",
    "derived",
    "determined",
    "based",
    "shown",
    "boxed",
    "as",
    "obvious",
    "easy",
    "given",
    "clear",
];

/// What stands behind the last phrase that tells an answer. A phrase decides even where its answer cannot be read; one
/// that denies or doubts an answer is the empty text, which equals nothing.
pub(super) fn behind_phrase(text: &str) -> Option<Cow<'_, str>> {
    let last_digit = text.rfind(|character: char| character.is_ascii_digit()).unwrap_or(0);
    let (mut end, mut denied) = (text.len(), false);
    while let Some(found) = last_noun(&text[..end]) {
        match told(text, &found, last_digit) {
            Told::Answer(answer) => return Some(answer),
            Told::Denied => return Some(Cow::Borrowed("")),
            Told::OfAnother => denied = true,
            Told::Nothing => {}
        }
        end = found.start;
    }
    denied.then_some(Cow::Borrowed(""))
}

/// A word that an announcement is made with.
struct Noun {
    start: usize,
    end: usize,
    /// Whether only a choice may be announced with it.
    is_choice: bool,
}

/// The last `answer`, `option` or `choice` in a text.
fn last_noun(text: &str) -> Option<Noun> {
    let bytes = text.as_bytes();
    (0..bytes.len().saturating_sub(5)).rev().find_map(|start| {
        let is = |word: &[u8]| {
            bytes[start..].get(..word.len()).is_some_and(|found| found.eq_ignore_ascii_case(word))
        };
        match bytes[start] {
            b'a' | b'A' if is(b"answer") => Some(Noun { start, end: start + 6, is_choice: false }),
            b'o' | b'O' if is(b"option") => Some(Noun { start, end: start + 6, is_choice: true }),
            b'c' | b'C' if is(b"choice") => Some(Noun { start, end: start + 6, is_choice: true }),
            _ => None,
        }
    })
}

enum Told<'a> {
    Answer(Cow<'a, str>),
    /// The phrase says that the answer is not this, or might be.
    Denied,
    /// It speaks of a wrong answer or a part of the answer.
    OfAnother,
    Nothing,
}

/// What is told with this noun. Behind `last_digit` no number stands that could be the answer instead.
fn told<'a>(text: &'a str, noun: &Noun, last_digit: usize) -> Told<'a> {
    let Some(Joint { behind, denies, expects }) = joint(&text[noun.end..]) else {
        let is_denied = !noun.is_choice && denies_answer(&text[..noun.start], &text[noun.end..], last_digit);
        return if is_denied { Told::OfAnother } else { Told::Nothing };
    };
    let value = behind.trim_start_matches(['*', ':', '_', ' ', '\u{a0}', '\n', '\r', '\t']);
    let sentence = sentence_of(value);
    let sentence = sentence.trim_end_matches(['*', '_', ' ']);
    if sentence.is_empty() {
        return Told::Nothing;
    }
    // What is expected of an answer before it is worked out, as `an integer below 9`, is none.
    if expects && value[sentence.len()..].contains(|character: char| character.is_ascii_digit()) {
        return Told::Nothing;
    }
    let before = lowercase_tail(text[..noun.start].trim_end());
    let is_value = tells_value(sentence);
    let later = &value[sentence.len()..];
    if is_value && is_supposed(&before) {
        let is_last = !later.contains(|character: char| character.is_ascii_digit());
        return if is_last { Told::OfAnother } else { Told::Nothing };
    }
    match is_value {
        _ if noun.is_choice && !begins_with_choice(sentence) => Told::Nothing,
        true if speaks_of_another(&before) => Told::OfAnother,
        true if denies || is_corrected(sentence, later) => Told::Denied,
        false if denies || tells_nothing(sentence) => Told::Nothing,
        _ => Told::Answer(match value_said(sentence) {
            Some(Cow::Borrowed(value)) => Cow::Borrowed(trimmed(value)),
            Some(Cow::Owned(value)) => Cow::Owned(trimmed(&value).to_string()),
            None => Cow::Borrowed(formula_alone(sentence)),
        }),
    }
}

/// The end of a text in small letters.
fn lowercase_tail(text: &str) -> String {
    text[text.ceil_char_boundary(text.len().saturating_sub(40))..].to_ascii_lowercase()
}

/// Whether the words before `answer` make it another thing than the answer.
fn speaks_of_another(before: &str) -> bool {
    let mut words = before.split_whitespace().rev();
    let last = words.next().unwrap_or("").trim_start_matches(['*', '_', '(']);
    let article = matches!(last, "the" | "this" | "that" | "our" | "final" | "correct");
    let part = if article { words.next().unwrap_or("") } else { "" };
    let of = part == "of" && words.next().is_some();
    matches!(last, "wrong" | "incorrect" | "false" | "naive" | "bad" | "tempting" | "mistaken" | "not" | "no")
        || matches!(part, "twice" | "half" | "double" | "triple" | "thrice" | "not")
        || of
            && matches!(
                before.split_whitespace().rev().nth(2),
                Some("half" | "third" | "quarter" | "square" | "double" | "root" | "multiple" | "negative")
            )
}

/// The verb or sign behind the noun, and whether it denies what follows.
struct Joint<'a> {
    behind: &'a str,
    denies: bool,
    /// Whether it says what is expected, as `should be` does.
    expects: bool,
}

/// Verbs that say what the answer is; the longer ones first.
const SAYING: &[&str] = &[
    "turns out to be",
    "comes out to be",
    "comes out to",
    "works out to be",
    "works out to",
    "comes to",
    "is equal to",
    "equals",
    "is:",
    "is",
    "are:",
    "are",
    "was",
    "were",
    ":",
    "=",
    "→",
];

/// Verbs that say what it is expected to be.
const EXPECTING: &[&str] = &["has to be", "must be", "should be", "would be", "will be", "ought to be"];

/// Verbs that say what it is not, or may be.
const DENYING: &[&str] = &[
    "is not",
    "isn't",
    "is n't",
    "are not",
    "aren't",
    "was not",
    "wasn't",
    "cannot be",
    "can not be",
    "can't be",
    "could not be",
    "couldn't be",
    "won't be",
    "wouldn't be",
    "will not be",
    "would not be",
    "should not be",
    "shouldn't be",
    "must not be",
    "mustn't be",
    "may be",
    "may not be",
    "might be",
    "might not be",
    "could be",
    "can be",
    "can only be",
    "is never",
    "is hardly",
];

fn joint(behind: &str) -> Option<Joint<'_>> {
    let rest = behind.strip_prefix(['s', 'S']).unwrap_or(behind);
    let rest = rest.trim_start_matches(['*', '_', ' ', '}']);
    let rest = without_circumstances(rest);
    let found = |verbs: &[&str]| verbs.iter().find_map(|verb| strip_prefix_ignoring_case(rest, verb));
    let (denied, expected) = (found(DENYING).or_else(|| behind_modal(rest)), found(EXPECTING));
    let behind = denied.or(expected).or_else(|| found(SAYING))?;
    let is_word = behind.starts_with(|next: char| next.is_ascii_alphanumeric());
    let is_sign = rest.starts_with([':', '=', '→']);
    let expects = denied.is_none() && expected.is_some();
    (!is_word || is_sign).then_some(Joint { behind, denies: denied.is_some(), expects })
}

/// Verbs between which and `be` an adverb may stand, as in `cannot possibly be` and `may well be`.
const MODALS: [&str; 10] =
    ["may", "might", "could", "cannot", "can't", "couldn't", "won't", "wouldn't", "shouldn't", "mustn't"];

/// The text behind `be`, where a verb of doubt or denial leads to it over one or two words.
fn behind_modal(rest: &str) -> Option<&str> {
    let (verb, mut behind) = rest.split_once(' ')?;
    if !MODALS.contains(&verb.to_ascii_lowercase().replace('’', "'").as_str()) {
        return None;
    }
    for _ in 0..3 {
        let (word, after) = behind.split_once(' ')?;
        if word == "be" {
            return Some(&behind[word.len()..]);
        }
        behind = after;
    }
    None
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let typographic =
        || text.get(..prefix.len() + 2).filter(|start| start.replace('’', "'").eq_ignore_ascii_case(prefix));
    match text.get(..prefix.len()).filter(|start| start.eq_ignore_ascii_case(prefix)) {
        Some(start) => Some(&text[start.len()..]),
        None => typographic().map(|start| &text[start.len()..]),
    }
}

/// The text behind `(in dollars)` and `to the question`, which stand between the noun and its verb.
fn without_circumstances(rest: &str) -> &str {
    if let Some(close) =
        rest.strip_prefix('(').and_then(|inner| inner[..inner.floor_char_boundary(40)].find(')'))
    {
        return rest[close + 2..].trim_start();
    }
    if !["to ", "for ", "of ", "in "].iter().any(|word| rest.starts_with(word)) {
        return rest;
    }
    let mut at = 0;
    for _ in 0..8 {
        // `to question 7` has a number that is no answer.
        let length = rest[at..].bytes().take_while(u8::is_ascii_alphanumeric).count();
        let word = &rest[at..at + length];
        if length == 0 {
            return &rest[at..];
        }
        if at > 0
            && matches!(
                word,
                "is" | "isn"
                    | "was"
                    | "equals"
                    | "must"
                    | "should"
                    | "would"
                    | "will"
                    | "cannot"
                    | "can"
                    | "could"
                    | "may"
                    | "might"
            )
        {
            return &rest[at..];
        }
        at += length;
        if rest[at..].starts_with(' ') {
            at += 1;
        }
    }
    rest
}

/// Whether there is something in the sentence that an answer may be: a digit, a formula, a choice.
fn tells_value(sentence: &str) -> bool {
    sentence.contains(|character: char| character.is_ascii_digit() || character == '\\')
        || sentence.match_indices('$').any(|(at, _)| formula_at(&sentence[at..]).is_some())
        || begins_with_choice(sentence)
        || sentence
            .split(|character: char| !character.is_alphanumeric())
            .any(|word| matches!(word.as_bytes(), [b'B'..=b'H']))
}

/// Whether a sentence begins with a choice's letter.
fn begins_with_choice(sentence: &str) -> bool {
    let rest = sentence.trim_start_matches(['*', '$', '"', ' ', ':']);
    let rest = [r"\text{", r"\textbf{", r"\(", r"\boxed{", r"\mathrm{", r"\mathbf{"]
        .iter()
        .find_map(|command| rest.strip_prefix(command))
        .unwrap_or(rest);
    let rest = ["not ", "option ", "Option ", "choice ", "probably ", "either ", "definitely "]
        .iter()
        .find_map(|word| rest.strip_prefix(word))
        .unwrap_or(rest);
    let rest = rest.trim_start_matches(['*', '(', '[', '$', '"', ' ']);
    let letter = rest.starts_with(|first: char| first.is_ascii_uppercase());
    letter
        && !rest[1..].starts_with(|next: char| next.is_alphanumeric() || next == '\'')
        && (choice(sentence).is_some() || !rest.starts_with("A ") && !rest.starts_with("I "))
        || rest.starts_with("A ")
            && choice("A").is_some()
            && ["A is", "A because", "A since", "A or", "A and"].iter().any(|start| rest.starts_with(start))
}

/// Whether a sentence of words tells no answer, or how it is found.
fn tells_nothing(sentence: &str) -> bool {
    let plain = sentence.trim_end_matches(['.', '!', ':', '*', ' ']);
    let first = plain.split_whitespace().next().unwrap_or("");
    NO_ANSWERS.contains(&plain) || MANNERS.contains(&first) || first == "not"
}

/// The content of a formula, where nothing but a stop stands beside it.
fn formula_alone(sentence: &str) -> &str {
    match formula_at(sentence) {
        Some((content, _, length))
            if sentence[length..].trim_matches(['.', ',', '*', ' ', '!', ';']).is_empty() =>
        {
            content
        }
        // The dots of a list that goes on stay.
        _ if sentence.trim_end_matches(['*', '_']).ends_with("...") => sentence,
        _ => sentence.trim_end_matches(['.', '*', '_', ' ']),
    }
}
