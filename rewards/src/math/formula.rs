//! Where mathematics stands in a running text: formulas between their marks, and numbers.

use crate::boxed::BOX_BYTES_MAX;
use crate::latex::label::label_length;
use crate::math::number::number_length;

/// Bytes before a box in which the box before it must begin to be joined, and a formula's longest length.
pub(super) const WINDOW: usize = 1024;

/// The last place of a mark, which begins with an ASCII sign that is rare in text.
pub(super) fn rfind(text: &str, mark: &str) -> Option<usize> {
    let first = char::from(*mark.as_bytes().first()?);
    text.rmatch_indices(first).map(|(at, _)| at).find(|&at| text[at..].starts_with(mark))
}

/// The end of a text, of a size that may be searched in several ways.
pub(super) fn tail(text: &str) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(BOX_BYTES_MAX))..]
}

/// The last formula, or the last number if it stands behind it.
pub(super) fn last_value(text: &str) -> Option<&str> {
    let text = tail(text);
    let (mut formula, mut name, mut after) = (None, None, 0);
    let mut at = 0;
    while let Some(found) = text[at..].find(['$', '\\']) {
        at += found;
        match formula_at(&text[at..]) {
            // `which is the value of $x$` speaks of what was found; it is the answer only if nothing else is.
            Some((content, _, length)) if is_variable(content) => {
                name = Some(content);
                at += length;
            }
            Some((content, _, length)) => {
                formula = Some(content);
                at += length;
                after = at;
            }
            None if let Some(length) = broken_formula(&text[at..]) => {
                (formula, name) = (None, None);
                at += length;
                after = at;
            }
            None if text[at..].starts_with('\\') => {
                at += 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8);
            }
            None => at += 1,
        }
    }
    last_number(text, after).or(formula).or(name)
}

/// A lone small letter. A capital one may be a choice or a point, which are answers.
fn is_variable(formula: &str) -> bool {
    matches!(formula.as_bytes(), [b'a'..=b'z'])
}

/// The formula that begins at the very start: its content, and the lengths before and with its closing mark.
pub(super) fn formula_at(text: &str) -> Option<(&str, usize, usize)> {
    const MARKS: [(&str, &str); 4] = [("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")];
    let (open, close) = MARKS.iter().find(|(open, _)| text.starts_with(open))?;
    let window = &text[open.len()..text.floor_char_boundary(text.len().min(open.len() + WINDOW))];
    let end = window.match_indices(close).map(|(at, _)| at).find(|&at| !window[..at].ends_with('\\'))?;
    let content = &window[..end];
    // Amounts in dollars: what stands between two of them begins with a digit and ends with a space.
    let is_amount =
        *open == "$" && content.starts_with(|first: char| first.is_ascii_digit()) && content.ends_with(' ');
    let is_line = !matches!(*open, "$" | r"\(") || !content.contains('\n');
    let is_formula = is_line && !is_amount && !content.trim().is_empty();
    is_formula.then(|| (content.trim(), open.len() + end, open.len() + end + close.len()))
}

/// The length of a formula inside a line that begins at the very start and goes over several lines. It is no
/// formula, and what stands in it is no answer.
fn broken_formula(text: &str) -> Option<usize> {
    let marks = [("$", "$"), (r"\(", r"\)")];
    let (inner, close) = marks.iter().find_map(|(open, close)| Some((text.strip_prefix(open)?, close)))?;
    let window = &inner[..inner.floor_char_boundary(inner.len().min(WINDOW))];
    let end = window.find(close)?;
    let content = &window[..end];
    // White space at both ends tells it from amounts in dollars.
    let has_space = content.starts_with(char::is_whitespace) && content.ends_with(char::is_whitespace);
    (has_space && content.contains('\n')).then(|| text.len() - inner.len() + end + close.len())
}

/// The last number of a running text behind `start`, with a percent sign or word behind it.
fn last_number(text: &str, start: usize) -> Option<&str> {
    let bytes = text.as_bytes();
    let (mut at, mut last) = (start, None);
    while at < bytes.len() {
        let before = if at > start { Some(bytes[at - 1]) } else { None };
        // A sign behind a letter, digit or closing bracket is an operation: the last number of `7-5` is 5.
        let is_operation = !bytes[at].is_ascii_digit()
            && before
                .is_some_and(|before| before.is_ascii_alphanumeric() || matches!(before, b')' | b'}' | b']'))
            && text[at..].starts_with(['-', '−', '+']);
        let may_begin = match bytes[at] {
            b'\\' => bytes.get(at + 1).is_some_and(|next| b"fdtc$".contains(next)),
            // Digits inside a word belong to it. The first byte of the Unicode minus is 0xe2.
            b'0'..=b'9' => !before.is_some_and(|before| before.is_ascii_alphabetic() || before == b'_'),
            byte => b"-+.$\xe2".contains(&byte),
        };
        // A date is not its last group.
        let label = if bytes[at].is_ascii_digit() { label_length(&text[at..]) } else { None };
        match label.or_else(|| (may_begin && !is_operation).then(|| number_length(&text[at..])).flatten()) {
            Some(length) => {
                last = Some((at, at + length));
                at += length;
            }
            None if bytes[at].is_ascii_digit() => {
                at += bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count()
            }
            None => {
                at +=
                    bytes[at..].iter().skip(1).take_while(|&&byte| byte & 0b1100_0000 == 0b1000_0000).count()
                        + 1
            }
        }
    }
    let (start, end) = last?;
    let behind = text[end..].trim_start_matches(' ');
    let percent = [r"\%", "%", "percent"].iter().find(|percent| behind.starts_with(**percent));
    let end = percent.map_or(end, |percent| text.len() - behind.len() + percent.len());
    Some(&text[start..end])
}
