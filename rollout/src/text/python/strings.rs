//! Methods of Python's `str`. What pycompat has in the same way is left to it.

use std::collections::HashSet;

use minijinja::value::{Kwargs, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::characters::{
    byte_of, capitalize, case_fold, is_printable, is_space, is_titled, length, spaces, split_lines,
    swap_case, title, width_of,
};
use super::cost;

/// The method's result, or nothing for one that is not here.
pub(super) fn method(
    state: &State<'_, '_>,
    text: &str,
    name: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "strip" | "lstrip" | "rstrip" => strip(text, name, args)?,
        "split" | "rsplit" => split(state, text, name, args)?,
        "splitlines" => {
            let (keep, named) = from_args::<(Option<bool>, Kwargs)>(args)?;
            let keep = keep.or(named.get("keepends")?).unwrap_or(false);
            named.assert_all_used()?;
            let lines = split_lines(text, keep);
            cost::items(state, lines.len())?;
            lines.into_iter().map(Value::from).collect::<Vec<Value>>().into()
        }
        "partition" | "rpartition" => partition(text, name, args)?,
        "removeprefix" => {
            let (prefix,) = from_args::<(&str,)>(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,) = from_args::<(&str,)>(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "find" | "rfind" | "index" | "rindex" | "count" => search(text, name, args)?,
        "startswith" | "endswith" => begins_or_ends(text, name, args)?,
        "ljust" | "rjust" | "center" | "zfill" => padded(text, name, args)?,
        "join" => join(state, text, args)?,
        "expandtabs" => {
            let (size, named) = from_args::<(Option<i64>, Kwargs)>(args)?;
            let size = size.or(named.get("tabsize")?).unwrap_or(8);
            named.assert_all_used()?;
            let size = spaces(size)?.len();
            cost::bytes(state, text.matches('\t').count().saturating_mul(size))?;
            expand_tabs(text, size).into()
        }
        "title" | "capitalize" | "swapcase" | "casefold" => {
            let () = from_args(args)?;
            match name {
                "title" => title(text),
                "capitalize" => capitalize(text),
                "swapcase" => swap_case(text),
                _ => case_fold(text),
            }
            .into()
        }
        "isspace" | "isdecimal" | "isprintable" | "isidentifier" | "istitle" => {
            let () = from_args(args)?;
            is_of_kind(text, name).into()
        }
        _ => return Ok(None),
    }))
}

fn invalid(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}

fn strip(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (characters,) = from_args::<(Option<&str>,)>(args)?;
    let characters: Option<HashSet<char>> = characters.map(|characters| characters.chars().collect());
    let taken = |character: char| match &characters {
        Some(characters) => characters.contains(&character),
        None => is_space(character),
    };
    let text = if name == "rstrip" { text } else { text.trim_start_matches(taken) };
    Ok(Value::from(if name == "lstrip" { text } else { text.trim_end_matches(taken) }))
}

fn split(state: &State<'_, '_>, text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most, named) = from_args::<(Option<&str>, Option<i64>, Kwargs)>(args)?;
    let separator = separator.or(named.get("sep")?);
    let most = most.or(named.get("maxsplit")?).unwrap_or(-1);
    named.assert_all_used()?;
    let most = usize::try_from(most).unwrap_or(usize::MAX - 1);
    let found = match separator.filter(|separator| !separator.is_empty()) {
        Some(separator) => text.matches(separator).count(),
        None => text.matches(is_space).count(),
    };
    cost::items(state, found.min(most))?;
    let parts: Vec<&str> = match (separator, name) {
        (Some(""), _) => return Err(invalid("empty separator")),
        (Some(separator), "split") => text.splitn(most + 1, separator).collect(),
        (Some(separator), _) => {
            let mut parts: Vec<&str> = text.rsplitn(most + 1, separator).collect();
            parts.reverse();
            parts
        }
        (None, "split") => split_at_space(text, most),
        (None, _) => split_at_space_from_end(text, most),
    };
    Ok(parts.into_iter().map(Value::from).collect::<Vec<Value>>().into())
}

fn split_at_space(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if parts.len() == most {
            parts.push(rest);
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

fn split_at_space_from_end(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        if parts.len() == most {
            parts.push(rest);
            break;
        }
        let start =
            rest.rfind(is_space).map_or(0, |at| at + rest[at..].chars().next().map_or(1, char::len_utf8));
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

fn partition(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator,) = from_args::<(&str,)>(args)?;
    if separator.is_empty() {
        return Err(invalid("empty separator"));
    }
    let at = if name == "partition" { text.find(separator) } else { text.rfind(separator) };
    let parts = match at {
        Some(at) => [&text[..at], separator, &text[at + separator.len()..]],
        None if name == "partition" => [text, "", ""],
        None => ["", "", text],
    };
    Ok(minijinja::value::Tuple::from(parts.map(Value::from)).into())
}

/// A part of a text between two code points, where a negative one counts from the end, and the code point that it
/// begins at. Nothing where it begins behind the text.
fn part(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    let count = i64::try_from(length(text)).unwrap_or(i64::MAX);
    let place = |index: i64| if index < 0 { (index + count).max(0) } else { index };
    let start = place(start.unwrap_or(0));
    let end = place(end.unwrap_or(count)).min(count);
    if start > count || end < start {
        return None;
    }
    let (start, end) = (usize::try_from(start).ok()?, usize::try_from(end).ok()?);
    Some((start, &text[byte_of(text, start)..byte_of(text, end)]))
}

fn search(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (wanted, start, end) = from_args::<(&str, Option<i64>, Option<i64>)>(args)?;
    let found = part(text, start, end);
    if name == "count" {
        return Ok(Value::from(found.map_or(0, |(_, part)| part.matches(wanted).count())));
    }
    let place = found.and_then(|(first, part)| {
        let at = if name.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) };
        at.map(|at| first + length(&part[..at]))
    });
    match place {
        Some(place) => Ok(Value::from(place)),
        None if name.ends_with("find") => Ok(Value::from(-1)),
        None => Err(invalid("substring not found")),
    }
}

fn begins_or_ends(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (wanted, start, end) = from_args::<(&Value, Option<i64>, Option<i64>)>(args)?;
    let Some((_, part)) = part(text, start, end) else { return Ok(Value::from(false)) };
    let matches = |wanted: &Value| -> Result<bool, Error> {
        let wanted =
            wanted.as_str().ok_or_else(|| invalid(format!("{name} takes a text or a tuple of texts")))?;
        Ok(if name == "startswith" { part.starts_with(wanted) } else { part.ends_with(wanted) })
    };
    if !wanted.is_tuple() {
        return Ok(Value::from(matches(wanted)?));
    }
    for wanted in wanted.try_iter()? {
        if matches(&wanted)? {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

fn padded(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill) = from_args::<(i64, Option<&str>)>(args)?;
    let width = width_of(width)?;
    let mut fills = fill.unwrap_or(" ").chars();
    let (Some(fill), None) = (fills.next(), fills.next()) else {
        return Err(invalid("the fill character must be exactly one character long"));
    };
    let missing = width.saturating_sub(length(text));
    Ok(Value::from(match name {
        "ljust" => pad(text, 0, missing, fill),
        "rjust" => pad(text, missing, 0, fill),
        "center" => centered(text, width, fill),
        _ => {
            let sign = text.len() - text.strip_prefix(['+', '-']).unwrap_or(text).len();
            format!("{}{}{}", &text[..sign], "0".repeat(missing), &text[sign..])
        }
    }))
}

/// `str.center`: a text that cannot stand in the middle stands left of it where the width is even.
pub(super) fn centered(text: &str, width: usize, fill: char) -> String {
    let missing = width.saturating_sub(length(text));
    let left = missing / 2 + (missing & width & 1);
    pad(text, left, missing - left, fill)
}

fn pad(text: &str, left: usize, right: usize, fill: char) -> String {
    let fills = |count| std::iter::repeat_n(fill, count).collect::<String>();
    fills(left) + text + &fills(right)
}

fn join(state: &State<'_, '_>, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let (items,) = from_args::<(&Value,)>(args)?;
    let mut texts = Vec::new();
    for (at, item) in cost::collected(state, items.try_iter()?)?.into_iter().enumerate() {
        let text = item.as_str().map(str::to_owned);
        let text = text
            .ok_or_else(|| invalid(format!("sequence item {at}: expected a text, found {}", item.kind())))?;
        cost::bytes(state, text.len())?;
        texts.push(text);
    }
    cost::bytes(state, separator.len().saturating_mul(texts.len()))?;
    Ok(Value::from(texts.join(separator)))
}

fn expand_tabs(text: &str, size: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut column = 0;
    for character in text.chars() {
        match character {
            '\t' if size > 0 => {
                let spaces = size - column % size;
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            '\t' => {}
            _ => {
                out.push(character);
                column = if matches!(character, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    out
}

/// `repr` of a text: in single quotes, unless it has some and no double ones; what cannot be printed is escaped.
pub(super) fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for character in text.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if character == quote => out.extend(['\\', quote]),
            _ if is_printable(character) => out.push(character),
            _ => out.push_str(&match u32::from(character) {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
    out
}

fn is_of_kind(text: &str, name: &str) -> bool {
    let mut characters = text.chars();
    match name {
        "isspace" => !text.is_empty() && characters.all(is_space),
        "isdecimal" => !text.is_empty() && characters.all(|digit| digit.is_ascii_digit() || digit.is_numeric() && !matches!(digit, '²' | '³' | '¹' | '¼'..='¾' | '\u{2070}'..='\u{218b}' | '\u{2460}'..='\u{249b}')),
        "isprintable" => characters.all(is_printable),
        "isidentifier" => {
            characters.next().is_some_and(|first| first == '_' || first.is_alphabetic())
                && characters.all(|next| next == '_' || next.is_alphanumeric())
        }
        _ => is_titled(text),
    }
}
