//! The text of a chat template on its way to minijinja: what Jinja2 and its extension in transformers read and
//! minijinja does not is written in words that both know. No line is added or taken away, so lines in errors stay.
//!
//! - Line ends become `\n`, as Jinja2's lexer makes them.
//! - `{% generation %}` marks what an assistant wrote, for a mask that is not used here. Like a call block it is a
//!   scope of its own: it becomes `{% with %}`.
//! - `'text' % operand` formats in Python. minijinja has `%` for numbers alone, so an operator behind a literal becomes
//!   the filter [`PERCENT_FILTER`].
//! - A sign `+` in front of a number goes, because minijinja has none.
//! - What a loop goes over passes the filter [`ITERATED_FILTER`], what is set to several names [`UNPACKED_FILTER`], and
//!   what is set [`KEPT_FILTER`].
//! - Escapes in texts are written in those that both have, and `raw` blocks as printed texts.
//! - A macro's default that reads an earlier parameter is set inside the macro, where the parameter is known.

mod limits;
mod defaults;
mod literals;
mod raw;
mod assignments;
mod loops;
mod signs;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use limits::Limits;

/// The filter that formats as Python's `text % operand`.
pub(super) const PERCENT_FILTER: &str = "percent_format";

/// The filter that refuses to go over `None`.
pub(super) const ITERATED_FILTER: &str = "iterated";

/// The filter that takes a text apart into its characters.
pub(super) const UNPACKED_FILTER: &str = "unpacked";

/// The filter that a value passes before it is set.
pub(super) const KEPT_FILTER: &str = "kept";

/// The template as minijinja reads it.
///
/// # Errors
/// The line of a tag that says more than can be compiled.
pub(super) fn for_minijinja(source: &str) -> Result<String, String> {
    let mut limits = Limits::new(source)?;
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut rest = source.as_str();
    let placed = |rest: &str, reason: String| {
        let before = &source[..source.len() - rest.len()];
        format!("line {}: {reason}", before.matches('\n').count() + 1)
    };
    while let Some(start) = rest.find('{') {
        let (before, from) = rest.split_at(start);
        out.push_str(before);
        rest = match from.get(..2) {
            Some("{#") => copied_until(from, "#}", &mut out),
            Some("{%") if word_of(from) == "raw" => raw(from, &mut out),
            Some(open @ ("{{" | "{%")) => {
                let close = if open == "{{" { "}}" } else { "%}" };
                tag(from, close, &mut limits, &mut out).map_err(|reason| placed(from, reason))?
            }
            _ => {
                out.push('{');
                &from[1..]
            }
        };
    }
    out.push_str(rest);
    Ok(out)
}

/// Copies to the end of the mark, or all where it never comes, and gives what is left.
fn copied_until<'a>(text: &'a str, mark: &str, out: &mut String) -> &'a str {
    let end = text.find(mark).map_or(text.len(), |at| at + mark.len());
    out.push_str(&text[..end]);
    &text[end..]
}

/// The name of a statement: `{%- if x %}` has `if`.
fn word_of(tag: &str) -> &str {
    let inside = tag[2..].trim_start_matches(['-', '+']).trim_start();
    let end = inside.find(|character: char| !is_name(character)).unwrap_or(inside.len());
    &inside[..end]
}

fn raw<'a>(from: &'a str, out: &mut String) -> &'a str {
    let begin = from.find("%}").map_or(from.len(), |at| at + 2);
    let mut at = begin;
    while let Some(next) = from[at..].find("{%") {
        at += next;
        if word_of(&from[at..]) == "endraw"
            && let Some(end) = from[at..].find("%}")
        {
            let end = at + end + 2;
            out.push_str(&raw::printed(&from[..begin], &from[begin..at], &from[at..end]));
            return &from[end..];
        }
        at += 2;
    }
    out.push_str(from);
    ""
}

/// One tag, from its opening to behind `close`; an open one is left to minijinja, which says so.
fn tag<'a>(from: &'a str, close: &str, limits: &mut Limits, out: &mut String) -> Result<&'a str, String> {
    let Some(end) = tag_end(from, close) else {
        limits.check(from)?;
        out.push_str(from);
        return Ok("");
    };
    let (tag, rest) = from.split_at(end);
    limits.check(tag)?;
    let renamed = match word_of(tag) {
        "generation" if close == "%}" => Some(("generation", "with")),
        "endgeneration" if close == "%}" => Some(("endgeneration", "endwith")),
        _ => None,
    };
    let mut tag = match renamed {
        Some((word, other)) => Cow::Owned(tag.replacen(word, other, 1)),
        None => Cow::Borrowed(tag),
    };
    if tag.contains('\\') {
        tag = Cow::Owned(literals::in_common_escapes(&tag));
    }
    if tag[2..tag.len() - 2].contains('%') {
        tag = Cow::Owned(with_filters(&tag));
    }
    if tag.contains('+') {
        tag = Cow::Owned(signs::without_plus(&tag));
    }
    if let Some(checked) = loops::checked(&tag).filter(|_| close == "%}") {
        tag = Cow::Owned(checked);
    }
    if let Some(assigned) = assignments::in_order(&tag).filter(|_| close == "%}") {
        tag = Cow::Owned(assigned);
    }
    match defaults::set_inside(&tag).filter(|_| close == "%}") {
        Some(tags) => out.push_str(&tags),
        None => out.push_str(&tag),
    }
    Ok(rest)
}

/// Where a tag ends: at `close` outside of texts and, as Jinja2's lexer has it, outside of brackets.
fn tag_end(from: &str, close: &str) -> Option<usize> {
    let bytes = from.as_bytes();
    let (mut at, mut depth) = (2, 0_usize);
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'\'' | b'"') => {
                at = literal_end(from, at, quote)?;
                continue;
            }
            _ if depth == 0 && from[at..].starts_with(close) => return Some(at + close.len()),
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
        while !from.is_char_boundary(at) {
            at += 1;
        }
    }
    None
}

/// Behind the closing quote of the literal that opens at `start`.
fn literal_end(text: &str, start: usize, quote: u8) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return Some(at + 1),
            _ => at += 1,
        }
    }
    None
}

/// The tag with each `'text' % operand` as `'text'|percent_format(operand)`; the text may stand in brackets.
fn with_filters(tag: &str) -> String {
    let mut out = String::with_capacity(tag.len() + 24);
    let mut at = 0;
    while at < tag.len() {
        let Some(quote) = tag[at..].find(['\'', '"']).map(|found| at + found) else { break };
        let Some(end) = literal_end(tag, quote, tag.as_bytes()[quote]) else { break };
        let end = behind_brackets(tag, quote, end);
        out.push_str(&tag[at..end]);
        at = end;
        let spaces = tag[end..].len() - tag[end..].trim_start().len();
        let operator = end + spaces;
        if tag[operator..].starts_with('%') && !tag[operator..].starts_with("%}") {
            let operand = operator + 1 + (tag[operator + 1..].len() - tag[operator + 1..].trim_start().len());
            if let Some(operand_end) = operand_end(tag, operand) {
                let inner = with_filters(&tag[operand..operand_end]);
                out.push_str(&format!("|{PERCENT_FILTER}({inner})"));
                at = operand_end;
            }
        }
    }
    out.push_str(&tag[at..]);
    out
}

/// The end of a literal with the brackets that hold nothing else.
fn behind_brackets(tag: &str, start: usize, end: usize) -> usize {
    let (mut start, mut end) = (start, end);
    loop {
        let before = tag[..start].trim_end();
        let behind = end + (tag[end..].len() - tag[end..].trim_start().len());
        // The bracket of a call or of an index is no mere one.
        let is_call = before.strip_suffix('(').is_none_or(|callee| {
            callee.trim_end().ends_with(|last: char| is_name(last) || matches!(last, ')' | ']' | '\'' | '"'))
        });
        if is_call || !tag[behind..].starts_with(')') {
            return end;
        }
        (start, end) = (before.len() - 1, behind + 1);
    }
}

/// The end of an operand: signs and a primary expression, and the power that it is raised to.
fn operand_end(tag: &str, start: usize) -> Option<usize> {
    let unsigned =
        tag[start..].trim_start_matches(|sign: char| matches!(sign, '-' | '+') || sign.is_whitespace());
    let end = primary_end(tag, tag.len() - unsigned.len())?;
    let behind = end + (tag[end..].len() - tag[end..].trim_start().len());
    match tag[behind..].strip_prefix("**") {
        Some(power) => operand_end(tag, tag.len() - power.trim_start().len()),
        None => Some(end),
    }
}

/// The end of a primary expression with its attributes, calls, items and filters.
fn primary_end(tag: &str, start: usize) -> Option<usize> {
    let mut at = match tag.as_bytes().get(start)? {
        quote @ (b'\'' | b'"') => literal_end(tag, start, *quote)?,
        b'(' | b'[' | b'{' => bracket_end(tag, start)?,
        _ => name_end(tag, start)?,
    };
    loop {
        let next = at + (tag[at..].len() - tag[at..].trim_start().len());
        at = match tag.as_bytes().get(next) {
            Some(b'(' | b'[') => bracket_end(tag, next)?,
            Some(b'.') => name_end(tag, next + 1)?,
            Some(b'|') => {
                let name = next + 1 + (tag[next + 1..].len() - tag[next + 1..].trim_start().len());
                name_end(tag, name)?
            }
            _ => return Some(at),
        };
    }
}

fn name_end(tag: &str, start: usize) -> Option<usize> {
    let end = tag[start..].find(|character: char| !is_name(character)).map_or(tag.len(), |at| start + at);
    (end > start).then_some(end)
}

fn bracket_end(tag: &str, start: usize) -> Option<usize> {
    let bytes = tag.as_bytes();
    let (mut at, mut depth) = (start, 0_usize);
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'\'' | b'"') => {
                at = literal_end(tag, at, quote)?;
                continue;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

fn is_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}
