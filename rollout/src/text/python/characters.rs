//! Python's `str` by characters: white space, line ends and case. What Python decides by Unicode's general categories
//! is decided by the standard library's classes here; they agree on the letters and digits of living scripts.

use minijinja::{Error, ErrorKind};

/// The widest text that padding may make: a template has no use for more.
const WIDTH_MAX: usize = 1 << 20;

/// The widest margin, which stands before each line or for each tab.
const INDENT_MAX: usize = 1 << 10;

/// The width that a text is padded to; one below 0 is none.
pub(super) fn width_of(width: i64) -> Result<usize, Error> {
    at_most(width, WIDTH_MAX)
}

/// A margin of so many spaces; a number below 0 is none.
pub(super) fn spaces(count: i64) -> Result<String, Error> {
    Ok(" ".repeat(at_most(count, INDENT_MAX)?))
}

/// Refuses what is more than a limit: cut, the prompt would be another than that of Jinja2.
fn at_most(count: i64, most: usize) -> Result<usize, Error> {
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    match count <= most {
        true => Ok(count),
        false => {
            Err(Error::new(ErrorKind::InvalidOperation, format!("a width of {count} is more than {most}")))
        }
    }
}

/// `str.isspace` for one character: Unicode's white space and the four information separators.
pub(super) fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

/// `str.isprintable` for one character.
pub(super) fn is_printable(character: char) -> bool {
    match character {
        ' '..='~' => true,
        '\0'..='\u{9f}' => false,
        _ => format!("a{character}").escape_debug().count() == 2,
    }
}

fn is_cased(character: char) -> bool {
    character.is_lowercase() || character.is_uppercase() || is_title(character)
}

fn is_title(character: char) -> bool {
    matches!(character, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ' | '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}' | '\u{1fa8}'..='\u{1faf}' | 'ᾼ' | 'ῌ' | 'ῼ')
}

/// The character that begins a word with a capital: one character for a digraph, several for `ß`.
fn title_case(character: char) -> String {
    match character {
        'Ǆ'..='ǆ' => "ǅ".to_owned(),
        'Ǉ'..='ǉ' => "ǈ".to_owned(),
        'Ǌ'..='ǌ' => "ǋ".to_owned(),
        'Ǳ'..='ǳ' => "ǲ".to_owned(),
        // Ligatures and `ß` have a capital for their first letter only.
        'ß' | 'և' | 'ﬀ'..='ﬆ' => {
            let mut upper = character.to_uppercase();
            upper.next().into_iter().chain(upper.flat_map(char::to_lowercase)).collect()
        }
        _ => character.to_uppercase().collect(),
    }
}

/// `str.capitalize`.
pub(super) fn capitalize(text: &str) -> String {
    let Some(first) = text.chars().next() else { return String::new() };
    // The rest is lowered in its context, because a final sigma looks back.
    let skipped = first.to_lowercase().count();
    title_case(first) + &text.to_lowercase().chars().skip(skipped).collect::<String>()
}

/// `str.title`: letters behind letters are lowered, others begin a word.
pub(super) fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for character in text.chars() {
        if inside {
            out.extend(character.to_lowercase());
        } else {
            out.push_str(&title_case(character));
        }
        inside = is_cased(character);
    }
    out
}

/// `str.istitle`.
pub(super) fn is_titled(text: &str) -> bool {
    let (mut cased, mut before) = (false, false);
    for character in text.chars() {
        let capital = character.is_uppercase() || is_title(character);
        if capital && before || character.is_lowercase() && !before {
            return false;
        }
        before = is_cased(character);
        cased |= before;
    }
    cased
}

/// `str.swapcase`.
pub(super) fn swap_case(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_uppercase() {
            out.extend(character.to_lowercase());
        } else {
            out.extend(character.to_uppercase());
        }
    }
    out
}

/// `str.casefold`: Unicode's full case folding, which is the lower case of the upper case but for a few.
pub(super) fn case_fold(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            'ẞ' => out.push_str("ss"),
            // The Cherokee letters fold to their capitals.
            'ı' | '\u{13a0}'..='\u{13f5}' => out.push(character),
            '\u{13f8}'..='\u{13fd}' | '\u{ab70}'..='\u{abbf}' => out.extend(character.to_uppercase()),
            _ => out.extend(character.to_uppercase().flat_map(char::to_lowercase)),
        }
    }
    out
}

/// `str.splitlines`.
pub(super) fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end = |character: char| {
        matches!(
            character,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some((at, end)) = rest.char_indices().find(|(_, character)| is_end(*character)) {
        let next = if rest[at..].starts_with("\r\n") { at + 2 } else { at + end.len_utf8() };
        lines.push(&rest[..if keep_ends { next } else { at }]);
        rest = &rest[next..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// The number of code points, which is Python's length.
pub(super) fn length(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

/// The byte at which code point `index` begins, or the length of the text.
pub(super) fn byte_of(text: &str, index: usize) -> usize {
    text.char_indices().nth(index).map_or(text.len(), |(byte, _)| byte)
}
