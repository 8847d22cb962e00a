//! The answer that a sentence announces: what follows `the answer is`, `Answer:`, `the correct option is`.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

use crate::latex::qualifier::{qualifies, words};
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
    let Some(Joint { behind, denies, expects, has_verb }) = joint(&text[noun.end..]) else {
        // `Option C is correct`.
        let sentence = sentence_of(text[noun.end..].trim_start_matches([' ', '*']));
        if noun.is_choice
            && let Some(Cow::Borrowed(said)) = value_said(sentence)
            && choice(said).is_some()
            && said.len() < sentence.len()
        {
            return Told::Answer(Cow::Borrowed(trimmed(said)));
        }
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
        true if speaks_of_another(&before, has_verb) => Told::OfAnother,
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

/// Words before `answer` that leave it the answer.
static OWN: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "the this that our my an a final correct right exact numerical numeric required desired simplified only \
         unique actual true real best complete total overall decimal integer short requested",
    )
});

/// Words before `answer` that make it another one.
static OTHERS: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "wrong incorrect false naive bad tempting mistaken not no any every each neither either none old previous \
         first earlier initial original candidate alternative another other second next different your his her \
         their rejected tentative proposed claimed alleged supposed so-called apparent partial intermediate worst \
         least guessed rejecting",
    )
});

/// What is done with the answer before it is named: `ten times the answer`, `one less than the answer`.
static CHANGES: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    words(
        "twice half double triple thrice quadruple not times plus minus than over exceeds below above under",
    )
});

/// Prepositions by which the answer is not what the sentence is about: `the first digit of the answer is 5`.
static PREPOSITIONS: LazyLock<HashSet<&str>> =
    LazyLock::new(|| words("of in to from with without near around between on"));

/// Whether the words before `answer` make it another thing than the answer. With a verb behind it, the answer is what
/// the sentence is about.
fn speaks_of_another(before: &str, has_verb: bool) -> bool {
    let mut rest = before
        .split_whitespace()
        .rev()
        // What stands before a comma is over.
        .take_while(|word| !word.ends_with([',', ';', ':', '.', '!', '?']))
        .map(|word| word.trim_matches(['*', '_', '(', '"']))
        .filter(|word| !word.is_empty())
        .peekable();
    let is_other = |word: &str| {
        let is_possessive = word.ends_with("'s") || word.ends_with("’s");
        OTHERS.contains(word) || is_possessive && !matches!(word, "let's" | "today's" | "that's" | "it's")
    };
    let mut is_only = false;
    while let Some(word) = rest.next_if(|word| OWN.contains(word) || *word == "possible") {
        // `the only possible answer` is the answer.
        let possible = word == "possible";
        if possible && rest.peek() != Some(&"only") {
            return true;
        }
        is_only |= matches!(word, "the" | "this" | "that" | "our" | "my");
    }
    let Some(word) = rest.next() else { return false };
    if is_other(word) || CHANGES.contains(word) {
        return true;
    }
    let owner = rest.next().unwrap_or("");
    let is_value = word == "of" && matches!(owner, "value" | "form" | "because" | "sure" | "certain");
    has_verb && is_only && PREPOSITIONS.contains(word) && !is_value
}

/// The verb or sign behind the noun, and whether it denies what follows.
struct Joint<'a> {
    behind: &'a str,
    denies: bool,
    /// Whether it says what is expected, as `should be` does.
    expects: bool,
    /// Whether it is a verb, and no sign.
    has_verb: bool,
}

/// Verbs that say what the answer is; the longer ones first.
const SAYING: &[&str] = &[
    "turns out to be",
    "comes out to be",
    "comes out to",
    "works out to be",
    "works out to",
    "comes to",
    "amounts to",
    "simplifies to",
    "reduces to",
    "evaluates to",
    "becomes",
    "remains",
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
    "is nothing like",
    "would have been",
    "could have been",
    "might have been",
    "should have been",
    "used to be",
    "seems to be",
    "appears to be",
];

/// `(wrong)` behind the noun.
fn is_bracketed_denial(behind: &str) -> bool {
    let inner = behind.trim_start_matches(['*', '_', ' ']).strip_prefix('(');
    let inner =
        inner.and_then(|inner| inner[..inner.floor_char_boundary(inner.len().min(40))].split_once(')'));
    inner.is_some_and(|(inner, _)| {
        inner.split_whitespace().any(|word| {
            let word = word.to_ascii_lowercase();
            OTHERS.contains(word.as_str()) || qualifies(&word)
        })
    })
}

fn joint(behind: &str) -> Option<Joint<'_>> {
    let behind_noun = behind;
    let contracted = ["'s ", "’s "]
        .iter()
        .find_map(|verb| behind.strip_prefix(verb))
        .filter(|rest| rest.starts_with(|next: char| next.is_ascii_digit() || "$*(\\-".contains(next)));
    if let Some(behind) = contracted {
        return Some(Joint { behind, denies: false, expects: false, has_verb: true });
    }
    let rest = behind.strip_prefix(['s', 'S']).unwrap_or(behind);
    let rest = rest.trim_start_matches(['*', '_', ' ', '}']);
    let rest = without_circumstances(rest);
    // `is not` is no part of `is nothing`.
    let ends = |behind: &&str| !behind.starts_with(|next: char| next.is_ascii_alphabetic());
    let found =
        |verbs: &[&str]| verbs.iter().find_map(|verb| strip_prefix_ignoring_case(rest, verb).filter(ends));
    let denied = found(DENYING).or_else(|| behind_modal(rest, &MODALS));
    let expected = found(EXPECTING).or_else(|| behind_modal(rest, &EXPECTATIONS));
    let behind = denied.or(expected).or_else(|| found(SAYING))?;
    let is_word = behind.starts_with(|next: char| next.is_ascii_alphanumeric());
    let is_sign = rest.starts_with([':', '=', '→']);
    let expects = denied.is_none() && expected.is_some();
    let denies = denied.is_some() || is_bracketed_denial(behind_noun);
    (!is_word || is_sign).then_some(Joint { behind, denies, expects, has_verb: !is_sign })
}

/// Verbs between which and `be` an adverb may stand, as in `cannot possibly be` and `may well be`.
const MODALS: [&str; 10] =
    ["may", "might", "could", "cannot", "can't", "couldn't", "won't", "wouldn't", "shouldn't", "mustn't"];

/// Verbs between which and `be` an adverb may stand, as in `must therefore be`.
const EXPECTATIONS: [&str; 4] = ["must", "should", "will", "would"];

/// The text behind `be`, where one of these verbs leads to it over one or two words.
fn behind_modal<'a>(rest: &'a str, verbs: &[&str]) -> Option<&'a str> {
    let (verb, mut behind) = rest.split_once(' ')?;
    if !verbs.contains(&verb.to_ascii_lowercase().replace('’', "'").as_str()) {
        return None;
    }
    for _ in 0..3 {
        let (word, after) = behind.split_once(' ')?;
        if word == "be" {
            return Some(&behind[word.len()..]);
        }
        if matches!(word, "not" | "never" | "hardly") && verbs == EXPECTATIONS {
            return None;
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
