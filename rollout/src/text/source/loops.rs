//! What a loop goes over. minijinja takes `None` for an empty list, while Jinja2 raises, and does not know how many
//! characters a text has, or take one apart where a loop has several names.

use super::{ITERATED_FILTER, is_name, literal_end, word_of};

/// The tag of a loop with [`ITERATED_FILTER`] around what it goes over; nothing for any other tag.
pub(super) fn checked(tag: &str) -> Option<String> {
    if word_of(tag) != "for" {
        return None;
    }
    let end = tag.len() - 2;
    let end = end - usize::from(tag[..end].ends_with(['-', '+']));
    let start = word_at(tag, tag.find("for")? + 3, end, &["in"])? + 2;
    let stop = word_at(tag, start, end, &["if", "recursive"]).unwrap_or(end);
    let iterated = tag[start..stop].trim_end();
    let behind = start + iterated.len();
    let (before, over) = (&tag[..start], iterated.trim_start());
    let space = &iterated[..iterated.len() - over.len()];
    let targets = &tag[tag.find("for")? + 3..start - 2];
    let apart = if targets.contains(',') || targets.trim_start().starts_with('(') { "(true)" } else { "" };
    (!over.is_empty()).then(|| format!("{before}{space}({over})|{ITERATED_FILTER}{apart}{}", &tag[behind..]))
}

/// Where one of the words stands outside of brackets and texts.
fn word_at(tag: &str, start: usize, end: usize, words: &[&str]) -> Option<usize> {
    let bytes = tag.as_bytes();
    let (mut at, mut depth) = (start, 0_usize);
    while at < end {
        let first = at;
        at += 1;
        match bytes[first] {
            quote @ (b'\'' | b'"') => at = literal_end(tag, first, quote)?,
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            byte if byte >= 0x80 || is_name(char::from(byte)) => {
                while at < end && (bytes[at] >= 0x80 || is_name(char::from(bytes[at]))) {
                    at += 1;
                }
                let is_attribute = bytes[first - 1] == b'.';
                let found = words.iter().any(|word| word.as_bytes() == &bytes[first..at]);
                if found && depth == 0 && !is_attribute {
                    return Some(first);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::checked;

    #[test]
    fn what_is_iterated_over_is_checked() {
        let cases = [
            ("{%- for x in a.b -%}", "{%- for x in (a.b)|iterated -%}"),
            (
                "{% for k, v in d.items() if k not in ('if',) %}",
                "{% for k, v in (d.items())|iterated(true) if k not in ('if',) %}",
            ),
            (
                "{% for x in [1 if y else 2] recursive %}",
                "{% for x in ([1 if y else 2])|iterated recursive %}",
            ),
            ("{%for x in 1, 2%}", "{%for x in (1, 2)|iterated%}"),
            (
                "{% for\n x\n in\n a|default([])\n if x +%}",
                "{% for\n x\n in\n (a|default([]))|iterated\n if x +%}",
            ),
            ("{% for é in d.if %}", "{% for é in (d.if)|iterated %}"),
        ];
        for (tag, expected) in cases {
            assert_eq!(checked(tag).as_deref(), Some(expected));
        }
        for tag in ["{% for x %}", "{% for x in %}", "{% if x in y %}", "{% endfor %}"] {
            assert_eq!(checked(tag), None);
        }
    }
}
