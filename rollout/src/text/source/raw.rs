//! `raw` blocks. Jinja2 takes the line end behind `endraw` and keeps the one behind `raw`; minijinja does it the other
//! way round. The block becomes its text, printed.

use super::literals::quoted;

/// One block, given by its two tags and what is between them.
pub(super) fn printed(begin: &str, inner: &str, end: &str) -> String {
    let mark = |tag: &str, at: usize| match tag.as_bytes().get(at) {
        Some(sign @ (b'-' | b'+')) => char::from(*sign).to_string(),
        _ => String::new(),
    };
    let (before, behind) = (mark(begin, 2), mark(end, end.len() - 3));
    let inner = if mark(begin, begin.len() - 3) == "-" { inner.trim_start() } else { inner };
    let inner = match mark(end, 2).as_str() {
        "-" => inner.trim_end(),
        "+" => inner,
        _ => without_margin(inner),
    };
    // The lines of the tags stay with them.
    let lines = |tag: &str| "\n".repeat(tag.matches('\n').count());
    let (first, last) = (lines(begin), lines(end));
    format!("{{%{before} with{first} +%}}{{{{ {} }}}}{{%+ endwith{last} {behind}%}}", quoted(inner))
}

/// The text without the white space on the line of the tag behind it.
fn without_margin(inner: &str) -> &str {
    let line = inner.rfind('\n').map_or(inner.len(), |at| at + 1);
    if inner[line..].trim().is_empty() { &inner[..line] } else { inner }
}
