//! What stands around an answer in a box without being part of it: a relation before it (`= 42`, `\approx 42`,
//! `\therefore 42`), an argument before an arrow (`2x = 84 \Rightarrow x = 42`), the name of what was computed
//! (`P(X = 2) = 42`, `\lim_{x \to 0} f(x) = 42`), and the words of a sentence.

use std::borrow::Cow;

use crate::math::normal::trimmed;
use crate::math::statement::value_said;

/// Relations and arrows that an answer may begin with.
const LEADS: [&str; 22] = [
    "{}",
    "==",
    "=>",
    "=",
    "≈",
    "≃",
    "∴",
    "⇒",
    "→",
    "->",
    r"\approx",
    r"\simeq",
    r"\sim",
    r"\therefore",
    r"\implies",
    r"\Rightarrow",
    r"\Longrightarrow",
    r"\rightarrow",
    r"\longrightarrow",
    r"\quad",
    r"\;",
    r"\,",
];

/// Arrows between an argument and what follows from it.
const ARROWS: [&str; 13] = [
    r"\Longrightarrow",
    r"\Rightarrow",
    r"\implies",
    r"\Leftrightarrow",
    r"\iff",
    r"\rightarrow",
    r"\longrightarrow",
    r"\to",
    r"\therefore",
    "⇒",
    "⟹",
    "→",
    "=>",
];

/// An answer without what only stands around it. With `keeps_arrows` an implication is an answer.
pub(super) fn reduced(answer: &str, keeps_arrows: bool) -> Cow<'_, str> {
    let answer = without_lead(answer);
    let answer = match consequence(answer) {
        Some(right) if !keeps_arrows => without_lead(right),
        _ => answer,
    };
    let answer = without_lead(computed_value(answer).unwrap_or(answer));
    match value_said(answer) {
        Some(Cow::Borrowed(value)) => Cow::Borrowed(inner(value, keeps_arrows)),
        Some(Cow::Owned(value)) => Cow::Owned(inner(&value, keeps_arrows).to_string()),
        None => Cow::Borrowed(answer),
    }
}

/// What was said, without the marks of a formula and what stands around it in there.
fn inner(value: &str, keeps_arrows: bool) -> &str {
    let value = without_lead(trimmed(value));
    let value = consequence(value).filter(|_| !keeps_arrows).unwrap_or(value);
    without_lead(computed_value(value).unwrap_or(value))
}

/// Whether an answer is an implication of its own.
pub(super) fn has_arrow(answer: &str) -> bool {
    // One look at the signs that arrows begin with is faster than a search for each arrow.
    let begins = |sign: char| matches!(sign, '\\' | '=' | '⇒' | '⟹' | '→');
    answer.match_indices(begins).any(|(at, _)| ARROWS.iter().any(|arrow| answer[at..].starts_with(arrow)))
}

fn without_lead(text: &str) -> &str {
    let mut rest = text.trim_start();
    // Most answers begin with a digit or a letter, which one look tells.
    if !rest.starts_with(|first: char| !first.is_ascii_alphanumeric()) {
        return rest;
    }
    while let Some(behind) = LEADS.iter().find_map(|lead| after_mark(rest, lead)) {
        // A relation alone is no answer.
        if behind.trim().is_empty() {
            return text;
        }
        rest = behind.trim_start();
    }
    rest
}

/// The text behind a mark at the start; a command ends where its letters do.
fn after_mark<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    let behind = text.strip_prefix(mark)?;
    let is_command = mark.starts_with('\\') && mark.ends_with(|last: char| last.is_ascii_alphabetic());
    (!is_command || !behind.starts_with(|next: char| next.is_ascii_alphabetic())).then_some(behind)
}

/// What follows from an equation: the text behind the last arrow, if an equation stands before it.
fn consequence(text: &str) -> Option<&str> {
    if !has_arrow(text) {
        return None;
    }
    let (at, length) = marks(text, &ARROWS).last()?;
    let (before, behind) = (&text[..at], text[at + length..].trim());
    (before.contains('=') && behind.contains(|character: char| character.is_alphanumeric())).then_some(behind)
}

/// The right side of an equation whose left side only names a quantity that is computed.
fn computed_value(text: &str) -> Option<&str> {
    if !text.contains('=') {
        return None;
    }
    let signs: Vec<(usize, usize)> = marks(text, &["="]).collect();
    let ((first, _), (last, length)) = (*signs.first()?, *signs.last()?);
    let value = text[last + length..].trim();
    (is_quantity(text[..first].trim()) && !value.is_empty()).then_some(value)
}

/// Operators whose result has a name of its own.
const OPERATORS: [&str; 20] = [
    r"\operatorname{tr}",
    r"\operatorname{rank}",
    r"\mathrm{tr}",
    r"\text{tr}",
    r"\int",
    r"\iint",
    r"\iiint",
    r"\oint",
    r"\lim",
    r"\sum",
    r"\prod",
    r"\max",
    r"\min",
    r"\sup",
    r"\inf",
    r"\det",
    r"\dim",
    r"\deg",
    r"\gcd",
    r"\#",
];

/// Names of largest and smallest values, in words.
const EXTREMES: [&str; 8] = [
    r"\text{max}",
    r"\text{min}",
    r"\text{maximum}",
    r"\text{minimum}",
    r"\text{max value}",
    r"\text{min value}",
    r"\text{maximum value}",
    r"\text{minimum value}",
];

/// Names of functions on events and sets.
const MEASURES: [&str; 14] = [
    r"\Pr",
    r"\mathbb{P}",
    r"\mathbb{E}",
    r"\mathbb P",
    r"\mathbb E",
    r"\mathrm{P}",
    r"\mathrm{E}",
    r"\mathrm{Var}",
    r"\operatorname{Var}",
    r"\text{Var}",
    r"\text{P}",
    "Var",
    "Pr",
    "Cov",
];

/// Whether a text names a quantity: an operator with what it works on, the probability of an event, the size of a
/// set, a polynomial at a number.
fn is_quantity(text: &str) -> bool {
    let is_operator = OPERATORS.iter().any(|operator| after_mark(text, operator).is_some());
    let inner = text
        .strip_prefix('|')
        .or_else(|| text.strip_prefix(r"\left|"))
        .or_else(|| text.strip_prefix(r"\lvert"));
    let is_size = inner.is_some_and(|inner| {
        [r"\cup", r"\cap", "∪", "∩", r"\setminus"].iter().any(|sign| inner.contains(sign))
            && (inner.ends_with('|') || inner.ends_with(r"\rvert"))
    });
    let is_extreme = EXTREMES.iter().any(|name| text.eq_ignore_ascii_case(name));
    is_operator || is_size || is_extreme || is_distance(text) || is_function_value(text)
}

/// `d(A, B)`.
fn is_distance(text: &str) -> bool {
    let points = text.strip_prefix("d(").and_then(|inner| inner.strip_suffix(')'));
    points.is_some_and(|points| {
        points.contains(',')
            && points.split(',').all(|point| matches!(point.trim().as_bytes(), [b'A'..=b'Z']))
    })
}

fn is_function_value(text: &str) -> bool {
    let named = MEASURES.iter().find_map(|name| text.strip_prefix(name)).or_else(|| {
        let first = text.chars().next().filter(|first| first.is_ascii_uppercase() || *first == 'n')?;
        Some(&text[first.len_utf8()..])
    });
    let Some(rest) = named else { return false };
    let rest = rest.trim_start().strip_prefix(r"\left").unwrap_or(rest.trim_start());
    let closes = rest.ends_with([')', ']', '}']);
    let Some(event) = rest.strip_prefix(['(', '[', '{']).filter(|_| closes) else { return false };
    let event = event[..event.len() - 1].trim();
    let is_number = !event.is_empty() && event.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    let is_event =
        ["=", "<", ">", r"\le", r"\ge", r"\mid", "|", r"\cap", r"\cup", r"\text", "∩", "∪", "≤", "≥"]
            .iter()
            .any(|sign| event.contains(sign));
    let is_letter = matches!(event.as_bytes(), [b'A'..=b'Z']);
    if text.starts_with('n') {
        return [r"\cup", r"\cap", "∪", "∩"].iter().any(|sign| event.contains(sign));
    }
    is_number || is_event || is_letter
}

/// Where some marks stand outside of brackets, with their lengths.
fn marks<'a>(text: &'a str, all: &'a [&str]) -> impl Iterator<Item = (usize, usize)> + 'a {
    let (mut at, mut depth) = (0, 0i32);
    std::iter::from_fn(move || {
        while let Some(first) = text[at..].chars().next() {
            let rest = &text[at..];
            if depth == 0
                && let Some(mark) = all.iter().find(|mark| after_mark(rest, mark).is_some())
            {
                let start = at;
                at += mark.len();
                // `<=` and `!=` are no equations.
                let is_part =
                    *mark == "=" && (text[..start].ends_with(['<', '>', '!', ':']) || rest.starts_with("=>"));
                if is_part {
                    continue;
                }
                return Some((start, mark.len()));
            }
            match first {
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' => depth -= 1,
                '\\' if rest.len() > 1 => {
                    at += rest[1..]
                        .chars()
                        .next()
                        .filter(|next| !next.is_alphabetic())
                        .map_or(0, char::len_utf8)
                }
                _ => {}
            }
            at += first.len_utf8();
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_around_an_answer_is_taken_off() {
        for (text, expected) in [
            ("= 17", "17"),
            (r"\approx 3.2", "3.2"),
            (r"{}\approx{}3.2", "3.2"),
            (r"\therefore x = 17", "x = 17"),
            (r"\implies 17", "17"),
            (r"3x = 51 \Rightarrow x = 17", "x = 17"),
            (r"x^2 = 4 \implies x = 2 \implies x + 1 = 3", "x + 1 = 3"),
            (r"P(X \ge 3) = \frac{1}{4}", r"\frac{1}{4}"),
            (r"\Pr(A \mid B) = 0.4", "0.4"),
            (r"\mathbb{E}[X=1] = 9", "9"),
            (r"|A \cap B| = 17", "17"),
            (r"\lim_{n \to \infty} a_n = 17", "17"),
            (r"\int_{0}^{2} g(t)\,dt = 3 + 14 = 17", "17"),
            (r"Q(3) = 17", "17"),
            (r"\text{So we get } 17", "17"),
            (r"\text{The sum is } 17", "17"),
        ] {
            assert_eq!(reduced(text, false), expected, "{text}");
        }
        for text in [
            r"p \Rightarrow q",
            "3x = 51",
            "x(x+1) = 12",
            "x <= 3",
            "=",
            r"\approx",
            r"f : A \to B",
            "|x| = 3",
            r"\inftyx",
        ] {
            assert_eq!(reduced(text, false), text);
        }
        assert_eq!(reduced(r"x = 1 \Rightarrow y = 2", true), r"x = 1 \Rightarrow y = 2");
    }
}
