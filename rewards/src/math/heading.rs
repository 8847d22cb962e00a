//! `####`, which stands before the answer in GSM8K and before a heading in Markdown.

use std::borrow::Cow;

use crate::latex::parse;
use crate::math::choice::choice;
use crate::math::formula::{last_value, rfind};
use crate::math::normal::trimmed;
use crate::math::phrase::behind_phrase;
use crate::math::statement::value_said;

const MARK: &str = "####";

/// The answer behind the last `####`: its line, or, where that is the heading of an answer, the text below.
pub(super) fn behind_hashes(text: &str) -> Option<Cow<'_, str>> {
    let rest = text[rfind(text, MARK)? + MARK.len()..]
        .trim_start_matches('#')
        .trim_start_matches([' ', '\t', '\r', '\n']);
    let line = rest.lines().next().unwrap_or("");
    let below = rest[line.len()..].trim();
    let line = line.trim();
    if line.is_empty() || below.is_empty() && !is_title_of_answer(line) {
        return Some(said(line));
    }
    match heading(line) {
        Heading::None => Some(said(line)),
        Heading::Other => None,
        Heading::Answer => behind_phrase(below).or_else(|| last_value(below).map(Cow::Borrowed)),
    }
}

/// The line behind the last `####` of a reference.
pub(super) fn reference_line(text: &str) -> Option<&str> {
    let rest = &text[rfind(text, MARK)? + MARK.len()..];
    rest.trim_start_matches('#').trim_start().lines().next().map(str::trim).or(Some(""))
}

/// The value that a line says, or all of it.
fn said(line: &str) -> Cow<'_, str> {
    match value_said(line) {
        Some(Cow::Borrowed(value)) => Cow::Borrowed(trimmed(value)),
        Some(Cow::Owned(value)) => Cow::Owned(trimmed(&value).to_string()),
        None => Cow::Borrowed(line),
    }
}

enum Heading {
    /// It is no heading but an answer.
    None,
    /// It announces the answer.
    Answer,
    Other,
}

/// Words that headings of steps begin with.
const STEPS: [&str; 26] = [
    "step",
    "part",
    "case",
    "method",
    "approach",
    "solution",
    "given",
    "problem",
    "question",
    "explanation",
    "reasoning",
    "analysis",
    "calculation",
    "calculations",
    "verification",
    "check",
    "checking",
    "understanding",
    "understand",
    "calculate",
    "compute",
    "find",
    "determine",
    "analyze",
    "setup",
    "note",
];

fn heading(line: &str) -> Heading {
    let plain = line.trim_matches(['*', '_', ' ', '#']);
    if is_title_of_answer(plain) {
        return Heading::Answer;
    }
    let (title, is_counted) = without_count(plain);
    let is_numbered_step = is_counted && plain.starts_with(|first: char| first.is_ascii_alphabetic());
    let first =
        title.split(|character: char| !character.is_alphabetic()).next().unwrap_or("").to_ascii_lowercase();
    let is_step = STEPS.contains(&first.as_str());
    if is_title_of_answer(title) {
        return Heading::Answer;
    }
    let is_words = first.len() > 1
        && !title.contains(|character: char| character.is_ascii_digit() || "$\\=".contains(character));
    let is_value = || value_said(plain).is_some() || choice(plain).is_some() || is_known_word(plain);
    match is_step
        || is_numbered_step
        || is_counted && first.len() > 1
        || is_words && !is_value() && !is_denied(title)
    {
        true => Heading::Other,
        false => Heading::None,
    }
}

/// Whether a line that names choices or denies something says so of the answer.
fn is_denied(title: &str) -> bool {
    title.split_whitespace().any(|word| matches!(word, "or" | "not"))
        && title
            .split(|character: char| !character.is_alphanumeric())
            .any(|word| matches!(word.as_bytes(), [b'A'..=b'Z']))
}

/// `Yes` is an answer, and so is what reads as mathematics.
fn is_known_word(line: &str) -> bool {
    let is_word = ["yes", "no", "true", "false"]
        .iter()
        .any(|word| line.trim_end_matches('.').eq_ignore_ascii_case(word));
    is_word || !line.contains(' ') && line.len() < 3 && parse(line, true).is_ok()
}

/// `Answer`, `Final Answer:`, `Result`, `Conclusion`: a heading above the answer.
fn is_title_of_answer(line: &str) -> bool {
    let plain = without_count(line.trim_matches(['*', '_', ' ', '#', ':', '.']))
        .0
        .trim_end_matches(['*', ':', '.', ' '])
        .to_ascii_lowercase();
    let plain = plain.trim_start_matches("the ").trim_start_matches("final ").trim_start_matches("correct ");
    matches!(
        plain,
        "answer"
            | "answers"
            | "result"
            | "results"
            | "conclusion"
            | "summary"
            | "final"
            | "final answer"
            | "result and conclusion"
    )
}

/// A title without `2.`, `Step 3:` and the like before it, and whether there was one.
fn without_count(title: &str) -> (&str, bool) {
    let digits = title.bytes().take_while(u8::is_ascii_digit).count();
    let behind = title[digits..]
        .strip_prefix(['.', ')', ':'])
        .filter(|behind| digits > 0 && behind.starts_with([' ', '*']));
    match behind {
        Some(rest) => (rest.trim_start_matches(['*', ' ']), true),
        None => {
            let rest = ["Step ", "step ", "Part ", "STEP "].iter().find_map(|word| title.strip_prefix(word));
            let number = rest.map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
            match rest.filter(|_| number > 0) {
                Some(rest) => (rest[number..].trim_start_matches(['*', ':', '.', ')', '-', '–', ' ']), true),
                None => (title, false),
            }
        }
    }
}
