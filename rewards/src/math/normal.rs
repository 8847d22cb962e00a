//! Answers as text: cleaning before they are parsed, and the comparison of what is no mathematics.

/// Marks that stand around an answer.
const MARKS: [(&str, &str); 9] = [
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("**", "**"),
    ("`", "`"),
    ("\"", "\""),
    ("“", "”"),
    ("'", "'"),
];

/// Marks for the end of a proof or for what was checked.
const ENDS: [&str; 13] =
    [r"\checkmark", r"\blacksquare", r"\square", r"\Box", r"\qed", "✓", "✔", "✅", "☑", "🎉", "□", "■", "∎"];

/// Removes what surrounds an answer without being part of it: dollars, display brackets, full stops, emphasis.
pub(super) fn trimmed(text: &str) -> &str {
    let mut text = text.trim();
    loop {
        let before = text;
        text = without_stops(text).trim();
        for (open, close) in MARKS {
            let inner = text.strip_prefix(open).and_then(|inner| inner.strip_suffix(close));
            if let Some(inner) = inner.filter(|inner| !inner.contains(open) && !inner.contains(close)) {
                text = inner.trim();
            }
        }
        for edge in [r"\\", r"\,", r"\;", r"\!", r"\quad", r"\qquad"] {
            text = text.strip_suffix(edge).unwrap_or(text).trim_end();
        }
        for mark in ENDS {
            // A mark alone is an answer.
            text = text
                .strip_suffix(mark)
                .filter(|body| body.contains(char::is_alphanumeric))
                .unwrap_or(text)
                .trim_end();
        }
        text = text.strip_prefix(r"\displaystyle").unwrap_or(text).trim();
        if text == before {
            return text;
        }
    }
}

/// Without the full stop of a sentence and the like. The dots of a decimal that goes on, `0.333...`, stay.
fn without_stops(text: &str) -> &str {
    let body = text.trim_end_matches(['.', ',', ';', ':', '\u{3002}']);
    let whole = body.trim_end_matches(|last: char| last.is_ascii_digit());
    let goes_on = text[body.len()..].starts_with("...") && whole.len() < body.len() && whole.ends_with('.');
    if goes_on {
        return &text[..body.len() + 3];
    }
    // A list that goes on is not its first part.
    let is_open_list = text.ends_with("...") && text.trim_end_matches('.').trim_end().ends_with(',');
    if is_open_list { text } else { body }
}

/// Commands around text, which only set type.
const TYPE_COMMANDS: [&str; 12] = [
    r"\textbf",
    r"\textit",
    r"\textrm",
    r"\textnormal",
    r"\text",
    r"\mbox",
    r"\mathrm",
    r"\mathbf",
    r"\operatorname",
    r"\mathit",
    r"\hbox",
    r"\bf",
];

/// Commands that only set type or space.
const SILENT: [&str; 16] = [
    r"\displaystyle",
    r"\left",
    r"\right",
    r"\qquad",
    r"\quad",
    r"\bigl",
    r"\bigr",
    r"\Big",
    r"\big",
    r"\,",
    r"\;",
    r"\:",
    r"\!",
    r"\ ",
    r"\(",
    r"\)",
];

/// The text without commands that only set type, in one pass. Braces stay where they group mathematics.
pub(super) fn plain(text: &str, spaceless: bool) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    // For each open brace, whether it belongs to a type command and is dropped.
    let mut braces: Vec<bool> = Vec::new();
    while let Some(first) = rest.chars().next() {
        if first == '\\' {
            let argument = TYPE_COMMANDS.iter().find_map(|command| rest.strip_prefix(command));
            if let Some(inner) = argument.and_then(|after| after.trim_start().strip_prefix('{')) {
                braces.push(true);
                rest = inner;
                continue;
            }
            let silent = SILENT.iter().find_map(|command| rest.strip_prefix(command));
            if let Some(after) = silent.filter(|after| !after.starts_with("arrow")) {
                plain.push(' ');
                rest = after;
                continue;
            }
        }
        rest = &rest[first.len_utf8()..];
        match first {
            '{' => {
                braces.push(false);
                plain.push(first);
            }
            '}' => {
                if !braces.pop().unwrap_or(false) {
                    plain.push(first);
                }
            }
            '$' | '~' => plain.push(' '),
            '−' | '–' => plain.push('-'),
            _ => plain.push(first),
        }
    }
    if spaceless { without_spaces(&plain) } else { plain }
}

/// Without white space, except between digits: `2 1/2` is not `21/2`.
fn without_spaces(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut gap = false;
    for character in text.chars() {
        if character.is_whitespace() {
            gap = true;
            continue;
        }
        if gap && character.is_ascii_digit() && kept.ends_with(|last: char| last.is_ascii_digit()) {
            kept.push(' ');
        }
        gap = false;
        kept.push(character);
    }
    kept
}

/// Whether two answers are the same text but for type, white space and a full stop.
pub(super) fn is_same_text(left: &str, right: &str) -> bool {
    let (left, right) = (text_key(left), text_key(right));
    !left.is_empty() && left == right
}

/// Whether two answers are the same words: like the same text, in any case.
pub(super) fn is_same_words(left: &str, right: &str) -> bool {
    // The case of one or two letters tells variables and points apart.
    let has_words = |text: &str| {
        text.split(|character: char| !character.is_alphabetic()).any(|word| word.chars().nth(2).is_some())
    };
    let (left, right) = (text_key(left), text_key(right));
    has_words(&left) && !left.contains('\\') && left.to_lowercase() == right.to_lowercase()
}

/// The set that a text names in words: `all real numbers` is `\mathbb{R}`.
pub(super) fn set_named(text: &str) -> &str {
    // Most answers have no such word, which one look tells.
    if !["real", "empty", "olution"].iter().any(|word| text.contains(word)) {
        return text;
    }
    match text_key(text).to_ascii_lowercase().as_str() {
        "allrealnumbers" | "allreals" | "therealnumbers" | "realnumbers" | "allrealnumbersx" | "allrealx" => {
            r"\mathbb{R}"
        }
        "emptyset"
        | "theemptyset"
        | "nosolution"
        | "nosolutions"
        | "therearenosolutions"
        | "thereisnosolution" => r"\emptyset",
        _ => text,
    }
}

/// Whether a text is a score or a span of years: whole numbers with a hyphen between them and no spaces, or several
/// such pairs with commas. As a reference it is not a difference, which would have been worked out.
pub(super) fn is_score(text: &str) -> bool {
    let is_group = |group: &str| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit());
    // Most references hold no hyphen behind a digit, which one look tells.
    text.contains('-')
        && text.split(',').all(|part| {
            let mut groups = part.trim().split(['-', '–']);
            groups.clone().count() > 1 && groups.all(is_group)
        })
}

fn text_key(text: &str) -> String {
    let text = plain(text, true);
    without_stops(&text).replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")
}
