//! Sentences that name an answer and do not say that it is one: `the answer, 7, is wrong`, `7 is not the answer`,
//! `suppose the answer is 7`, `the answer is 7. No, it is 8`.

use crate::math::formula::last_value;
use crate::math::sentence::sentence_of;

/// Words that deny what stands in the same clause.
const DENIALS: [&str; 11] = [
    "not",
    "cannot",
    "never",
    "neither",
    "nor",
    "wrong",
    "incorrect",
    "false",
    "untrue",
    "impossible",
    "unknown",
];

/// Words before `the answer is` by which it is only supposed, or doubted.
const SUPPOSITIONS: [&str; 14] = [
    "suppose",
    "supposing",
    "assume",
    "assuming",
    "if",
    "unless",
    "whether",
    "doubt",
    "doubts",
    "doubtful",
    "false",
    "untrue",
    "not",
    "never",
];

/// Verbs that say something of an answer, and not what it is.
const TRAITS: [&str; 22] = [
    "exceeds",
    "differs",
    "has",
    "contains",
    "consists",
    "ends",
    "begins",
    "starts",
    "squared",
    "cubed",
    "plus",
    "minus",
    "times",
    "multiplied",
    "divided",
    "modulo",
    "mod",
    "needs",
    "requires",
    "does",
    "doesn't",
    "lies",
];

/// Words that take back what was said, where a mark stands behind them.
const CORRECTIONS: [&str; 10] =
    ["no", "nope", "wait", "actually", "sorry", "correction", "oops", "hmm", "rather", "scratch that"];

fn is_denial(word: &str) -> bool {
    DENIALS.contains(&word) || word.ends_with("n't")
}

/// The words of a text in small letters, without the marks around them.
fn words(text: &str) -> impl DoubleEndedIterator<Item = String> {
    let bare = |word: &str| word.trim_matches(|mark: char| !mark.is_alphanumeric()).replace('’', "'");
    text.split_whitespace().map(move |word| bare(word).to_ascii_lowercase())
}

fn has_digit(text: &str) -> bool {
    text.contains(|character: char| character.is_ascii_digit())
}

/// Whether the sentence around `answer` names a number and says that it is not the answer, or does not say what the
/// answer is. It is asked only for the sentence with the last digit of the text: any later number is told by itself.
pub(super) fn denies_answer(before: &str, behind: &str, last_digit: usize) -> bool {
    let sentence = sentence_of(behind);
    let end = before.len() + "answer".len() + (behind.len() - behind.trim_start().len()) + sentence.len();
    if last_digit >= end {
        return false;
    }
    let before = &before[before.ceil_char_boundary(before.len().saturating_sub(60))..];
    let start = before.rfind(['\n', '!', '?', ';']).or_else(|| before.rfind(". ")).map_or(0, |at| at + 1);
    let before = &before[start..];
    let has_trait = || words(sentence).next().is_some_and(|word| TRAITS.contains(&word.as_str()));
    let denies = |part: &str| words(part).any(|word| is_denial(&word));
    let is_asked = sentence.ends_with('?') && has_digit(sentence);
    let is_denied_behind = has_digit(sentence) && (has_trait() || denies(sentence));
    is_asked || is_denied_behind || has_digit(before) && denies(before)
}

/// Whether `the answer is` stands behind a word that only supposes it. What stands before a comma is over.
pub(super) fn is_supposed(before: &str) -> bool {
    let clause = before.rsplit([',', ';', ':', '.', '\n', '?', '!']).next().unwrap_or("");
    words(clause).rev().take(5).any(|word| SUPPOSITIONS.contains(&word.as_str()) || word.ends_with("n't"))
}

/// Whether the text behind a sentence takes its number back and ends with another one.
pub(super) fn is_corrected(sentence: &str, later: &str) -> bool {
    let later = later.trim_start_matches(|mark: char| !mark.is_alphanumeric());
    let takes_back = CORRECTIONS.iter().any(|word| {
        later.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
            && later[word.len()..].starts_with([',', '.', '!', ';', ':', '-', '—', '–', '…'])
    });
    takes_back && last_value(later).is_some_and(|other| has_digit(other) && !sentence.contains(other))
}
