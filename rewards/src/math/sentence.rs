//! Where a sentence ends.

use crate::math::formula::formula_at;

/// Where a sentence without an end is cut off.
const SENTENCE_BYTES_MAX: usize = 2048;

/// The text up to the end of its sentence: a full stop, a line, a mark of the chat. Formulas are stepped over whole.
pub(super) fn sentence_of(text: &str) -> &str {
    let text = &text[..text.floor_char_boundary(text.len().min(SENTENCE_BYTES_MAX))];
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        if let Some((_, _, length)) = formula_at(rest) {
            at += length;
            continue;
        }
        let behind = &rest[first.len_utf8()..];
        let ends = match first {
            '\n' => true,
            '.' | '!' | '?' => {
                behind.starts_with([' ', '*', '"', '\'']) && ends_sentence(&text[..at], behind)
            }
            '<' => is_mark(behind),
            _ => false,
        };
        if ends {
            let keeps = usize::from(first == '?');
            return text[..at + keeps].trim();
        }
        at += first.len_utf8();
    }
    text.trim()
}

/// Whether the stop between two texts ends a sentence, and no abbreviation or choice's letter.
fn ends_sentence(before: &str, behind: &str) -> bool {
    let last = before
        .rsplit(|character: char| !character.is_alphanumeric() && character != '.')
        .next()
        .unwrap_or("");
    let next = behind.trim_start_matches(['*', '"', '\'', ' ']);
    let is_short =
        matches!(last, "approx" | "p.m" | "a.m" | "e.g" | "i.e" | "vs" | "No" | "Dr" | "Mr" | "Mrs" | "St");
    let is_letter = matches!(last.as_bytes(), [b'A'..=b'Z']);
    let goes_on =
        next.starts_with(|next: char| next.is_lowercase() || next.is_ascii_digit() || "$\\-".contains(next));
    // `7... wait, 8` is one sentence.
    let is_ellipsis = before.ends_with('.');
    !(is_short || (is_letter || is_ellipsis) && goes_on)
}

/// Whether `</s>`, `<|im_end|>`, `<br>` or the like stands behind a `<`.
fn is_mark(behind: &str) -> bool {
    let window = &behind[..behind.floor_char_boundary(behind.len().min(40))];
    let is_name = |name: &str| {
        !name.is_empty()
            && name.chars().all(|character| character.is_ascii_alphanumeric() || "/|_-".contains(character))
    };
    window.starts_with(['/', '|']) || window.find('>').is_some_and(|end| is_name(&window[..end]) && end > 1)
}
