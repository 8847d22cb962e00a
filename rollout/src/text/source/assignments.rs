//! Assignments of several names: `set a, b = 'xy'` takes a text apart, and `with a=1, b=a` computes all values before it
//! sets any name.

use super::defaults::{reads_one_of, split_at_commas};
use super::{KEPT_FILTER, UNPACKED_FILTER, bracket_end, literal_end, word_of};

/// The tag in a form that means to minijinja what it means to Jinja2; nothing for any other tag.
pub(super) fn in_order(tag: &str) -> Option<String> {
    match word_of(tag) {
        "set" => set(tag),
        "with" => with(tag),
        _ => None,
    }
}

/// Where the expressions of a tag begin and end.
fn body(tag: &str, word: &str) -> Option<(usize, usize)> {
    let end = tag.len() - 2;
    let end = end - usize::from(tag[..end].ends_with(['-', '+']));
    Some((tag.find(word)? + word.len(), end))
}

fn set(tag: &str) -> Option<String> {
    let (start, end) = body(tag, "set")?;
    let equals = assignment(&tag[..end], start)?;
    let (before, behind) = (&tag[..=equals], &tag[equals + 1..end]);
    let value = behind.trim();
    let takes_apart =
        split_at_commas(&tag[start..equals]).len() > 1 || tag[start..equals].trim_start().starts_with('(');
    if value.is_empty() || !(takes_apart || is_made(value)) {
        return None;
    }
    // The lines of the tag stay.
    let (first, last) = behind.split_once(value)?;
    let unpacked = if takes_apart { format!("|{UNPACKED_FILTER}") } else { String::new() };
    Some(format!("{before}{first}({value}){unpacked}|{KEPT_FILTER}{last}{}", &tag[end..]))
}

/// Whether a value is put together of others: a name or a text alone is not.
fn is_made(value: &str) -> bool {
    value.contains(['[', '{', '(', ',', '+', '|'])
}

fn with(tag: &str) -> Option<String> {
    let (start, end) = body(tag, "with")?;
    let mut pairs = Vec::new();
    for part in split_at_commas(&tag[start..end]) {
        let equals = assignment(part, 0)?;
        pairs.push((part[..equals].trim(), part[equals + 1..].trim()));
    }
    let names: Vec<&str> = pairs.iter().map(|(name, _)| *name).collect();
    let reads_earlier = |place: usize| reads_one_of(pairs[place].1, &names[..place]);
    if !(0..pairs.len()).any(reads_earlier) {
        return None;
    }
    let first =
        pairs.iter().enumerate().map(|(place, (_, value))| format!("value_{place}_of_with=({value})"));
    let then = names.iter().enumerate().map(|(place, name)| format!("{name}=value_{place}_of_with"));
    let all: Vec<String> = first.chain(then).collect();
    Some(format!("{} {} {}", &tag[..start], all.join(", "), &tag[end..]))
}

/// The first `=` outside of brackets and texts that is no comparison.
fn assignment(text: &str, start: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = start;
    while at < bytes.len() {
        at = match bytes[at] {
            quote @ (b'\'' | b'"') => literal_end(text, at, quote)?,
            b'(' | b'[' | b'{' => bracket_end(text, at)?,
            b'=' if bytes.get(at + 1) != Some(&b'=') => return Some(at),
            b'=' | b'!' | b'<' | b'>' => return None,
            _ => at + 1,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::in_order;

    #[test]
    fn several_names_are_set_in_jinjas_order() {
        for (tag, expected) in [
            ("{% set a, b = 'xy' %}", "{% set a, b = ('xy')|unpacked|kept %}"),
            ("{%- set (a, b) = x, y -%}", "{%- set (a, b) = (x, y)|unpacked|kept -%}"),
            ("{% set ns.x = [ns.x]\n-%}", "{% set ns.x = ([ns.x])|kept\n-%}"),
            ("{% set a = b, c %}", "{% set a = (b, c)|kept %}"),
            (
                "{% with a=1, b=a %}",
                "{% with value_0_of_with=(1), value_1_of_with=(a), a=value_0_of_with, b=value_1_of_with %}",
            ),
        ] {
            assert_eq!(in_order(tag).as_deref(), Some(expected));
        }
        for tag in [
            "{% set a = b %}",
            "{% set x %}",
            "{% set x | upper %}",
            "{% with a=1, b=2 %}",
            "{% with %}",
            "{% with a=b, c=x.a %}",
            "{% if a == b, c %}",
            "{% set a = b == c %}",
        ] {
            assert_eq!(in_order(tag), None, "{tag}");
        }
    }
}
