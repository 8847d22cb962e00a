//! Finds the final answer of a completion or a reference. There is one: the first kind of answer that is present
//! decides, and no other is looked at.

use std::borrow::Cow;

use crate::boxed::{BOX_BYTES_MAX, Boxed, last_box};
use crate::latex::parse;
use crate::math::choice::choice;
use crate::math::denial::denies_number;
use crate::math::formula::{WINDOW, last_value, rfind, tail};
use crate::math::heading::{behind_hashes, reference_line};
use crate::math::normal::trimmed;
use crate::math::phrase::behind_phrase;
use crate::math::statement::value_said;
use crate::thoughts::{behind_last_thought, ends_in_solution};

/// A way to write down a final answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerKind {
    /// The last `\boxed{...}` or `\fbox{...}`; several in a row with nothing but commas or `and` between them are a
    /// list.
    Boxed,
    /// The last `<answer>...</answer>`.
    Tag,
    /// What follows the last `answer is`, `Answer:` or `correct option is`.
    Phrase,
    /// The line behind the last `####`, or the text below where that line is the heading of an answer.
    Hashes,
    /// The last formula between dollars or LaTeX's brackets, or the last number if it stands behind it.
    Last,
}

/// The order without a config.
pub(crate) const ORDER: [AnswerKind; 5] =
    [AnswerKind::Boxed, AnswerKind::Tag, AnswerKind::Hashes, AnswerKind::Phrase, AnswerKind::Last];

/// Boxes that are joined to a list; a longer row is no answer.
const JOINED_MAX: usize = 32;

/// A longer completion is more than a bare answer.
const WHOLE_BYTES_MAX: usize = 200;

/// The final answer of a completion, or `None` if it has none. What stands before the end of its last thought does not
/// count.
///
/// A completion that ends inside a thought has no end of a thought to look behind. There only what is marked as an
/// answer counts, the last box or tag of the whole text: a number in the middle of a derivation is right by luck only.
/// The same holds for a solution that was cut off, as long as there is such a mark.
pub fn extract_answer<'a>(completion: &'a str, order: &[AnswerKind]) -> Option<Cow<'a, str>> {
    let text = behind_last_thought(completion);
    let marked = |text| order.iter().filter(|kind| kind.is_marked()).find_map(|kind| kind.answer_in(text));
    match text {
        None => marked(completion),
        Some(text) if ends_in_solution(text) => {
            marked(text).or_else(|| marked(completion)).or_else(|| first_answer(text, order))
        }
        Some(text) => first_answer(text, order),
    }
}

/// The answer of the first kind that the text has.
fn first_answer<'a>(text: &'a str, order: &[AnswerKind]) -> Option<Cow<'a, str>> {
    order.iter().find_map(|kind| kind.answer_in(text))
}

impl AnswerKind {
    /// Whether an answer of this kind stands between marks that nothing else has.
    fn is_marked(self) -> bool {
        matches!(self, AnswerKind::Boxed | AnswerKind::Tag)
    }

    /// The last answer of this kind.
    fn answer_in(self, text: &str) -> Option<Cow<'_, str>> {
        match self {
            AnswerKind::Boxed => boxed(text),
            AnswerKind::Tag => tagged(text),
            AnswerKind::Phrase => behind_phrase(tail(text)),
            AnswerKind::Hashes => behind_hashes(text),
            AnswerKind::Last => whole_answer(text).map(Cow::Borrowed).or_else(|| last_answer(text)),
        }
    }
}

/// The answer in a reference: a box (MATH), what follows `####` (GSM8K), or everything.
pub(super) fn reference_answer(reference: &str) -> Cow<'_, str> {
    let found = match (boxed(reference), reference_line(reference)) {
        (Some(content), _) => content,
        (None, Some(answer)) => Cow::Borrowed(answer),
        (None, None) => reference_text(reference),
    };
    if found.contains(r"\\") && !found.contains(r"\begin") { Cow::Owned(unescaped(&found)) } else { found }
}

/// A reference without a box: all of it, unless it is a solution that tells its answer in a sentence.
fn reference_text(reference: &str) -> Cow<'_, str> {
    if tail(reference).len() == reference.len()
        && reference.len() > WINDOW / 8
        && parse(reference, true).is_err()
    {
        return behind_phrase(reference).unwrap_or(Cow::Borrowed(reference));
    }
    Cow::Borrowed(reference)
}

/// Data that was escaped twice has `\\frac` for `\frac`. Outside of an environment two backslashes before a letter
/// mean nothing else.
fn unescaped(text: &str) -> String {
    let mut single = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(r"\\") {
        let behind = &rest[at + 2..];
        let is_doubled =
            behind.starts_with(|next: char| next.is_ascii_alphabetic() || "{},!;".contains(next));
        single.push_str(&rest[..at]);
        single.push_str(if is_doubled { r"\" } else { r"\\" });
        rest = behind;
    }
    single + rest
}

/// The last box, or the list of the boxes that stand in a row at the end.
fn boxed(text: &str) -> Option<Cow<'_, str>> {
    let last = last_box(text)?;
    let mut contents = vec![last.content];
    let mut start = last.start;
    while let Some(before) = joined_box(text, start) {
        contents.push(before.content);
        start = before.start;
        if contents.len() > JOINED_MAX {
            break;
        }
    }
    contents.reverse();
    // An answer that is boxed twice is one answer.
    contents.dedup_by(|right, left| right.trim() == left.trim());
    if contents.len() == 1 {
        Some(Cow::Borrowed(last.content))
    } else {
        Some(Cow::Owned(contents.join(", ")))
    }
}

/// The box before `start`, if nothing but a separator stands between.
fn joined_box(text: &str, start: usize) -> Option<Boxed<'_>> {
    let window = &text[text.ceil_char_boundary(start.saturating_sub(WINDOW))..start];
    let found = last_box(window)?;
    let offset = start - window.len();
    let between = &window[found.end..];
    // A box inside the later one's argument, or one that opens before and closes behind, is none before it.
    is_separator(between).then(|| Boxed { start: found.start + offset, end: found.end + offset, ..found })
}

/// Whether a text between two boxes only joins them.
fn is_separator(between: &str) -> bool {
    let mut rest = between;
    let mut name = 0;
    while let Some(first) = rest.chars().next() {
        let marks = [
            r"\text", r"\quad", r"\qquad", r"\mbox", r"\(", r"\)", r"\[", r"\]", r"\,", r"\;", r"\ ", "and",
            "or", "$", "{", "}", ",", ";", "&",
        ];
        if let Some(after) = marks.iter().find_map(|mark| rest.strip_prefix(mark)) {
            rest = after;
        } else if first.is_whitespace() {
            rest = &rest[first.len_utf8()..];
        } else if let Some(after) = named_equals(rest) {
            name += 1;
            rest = after;
        } else {
            return false;
        }
    }
    name <= 1 && between.matches("\n\n").count() == 0
}

/// The text behind `y_2 =`.
fn named_equals(text: &str) -> Option<&str> {
    let end = text.bytes().take(16).position(|byte| byte == b'=')?;
    let name = text[..end].trim();
    let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_{}".contains(&byte))
        && name.bytes().skip(1).filter(u8::is_ascii_alphabetic).count() == 0;
    is_name.then(|| &text[end + 1..])
}

/// The content of the last answer tag, or the answer that is announced in it.
fn tagged(text: &str) -> Option<Cow<'_, str>> {
    let close = rfind(text, "</answer>")?;
    let open = rfind(&text[..close], "<answer>")?;
    let content = text[open + "<answer>".len()..close].trim();
    if content.len() > BOX_BYTES_MAX || parse(content, true).is_ok() {
        return Some(Cow::Borrowed(content));
    }
    Some(match value_said(content) {
        Some(Cow::Borrowed(value)) => Cow::Borrowed(trimmed(value)),
        Some(Cow::Owned(value)) => Cow::Owned(trimmed(&value).to_string()),
        None => behind_phrase(content).unwrap_or(Cow::Borrowed(content)),
    })
}

/// The last formula or number. One that is denied is the empty text, which equals nothing.
fn last_answer(text: &str) -> Option<Cow<'_, str>> {
    let found = last_value(text)?;
    let start = found.as_ptr() as usize - text.as_ptr() as usize;
    Some(Cow::Borrowed(if denies_number(&text[..start]) { "" } else { found }))
}

/// Whether letters in a row are a command or a word of mathematics.
fn is_mathematics(word: &str) -> bool {
    word.starts_with('\\')
        || matches!(word, "or" | "and" | "pi" | "sqrt" | "sin" | "cos" | "tan" | "ln" | "log" | "exp")
}

/// A completion that is nothing but an answer: a choice, or one line of mathematics with a number in it.
fn whole_answer(text: &str) -> Option<&str> {
    let text = text.trim();
    if text.len() > WHOLE_BYTES_MAX || text.contains('\n') {
        return None;
    }
    let plain = trimmed(text);
    let plain = ["Option ", "option ", "Choice ", "choice "]
        .iter()
        .find_map(|word| plain.strip_prefix(word))
        .filter(|rest| choice(rest).is_some())
        .unwrap_or(plain);
    let begins = plain.starts_with(['(', '[', '*', '$', '{', '\\'])
        || plain.starts_with(|first: char| first.is_ascii_uppercase());
    if begins && choice(plain).is_some() {
        return Some(plain);
    }
    // `C is the correct answer`.
    if let Some(Cow::Borrowed(said)) = value_said(plain)
        && choice(said).is_some()
        && said.len() < plain.len()
    {
        return Some(said);
    }
    let is_bullet = text.starts_with(['-', '*', '+']) && text[1..].starts_with(' ');
    let is_letter = |character: char| character.is_ascii_alphabetic() || character == '\\';
    let has_word = plain
        .split(|character: char| !is_letter(character))
        .any(|word| word.len() > 1 && !is_mathematics(word));
    let has_digit = plain.contains(|character: char| character.is_ascii_digit());
    (has_digit && !has_word && !is_bullet && parse(plain, true).is_ok()).then_some(plain)
}
