//! Escapes in texts as Python reads them. minijinja lacks some (`\U0001f600`, a backslash before a line end) and takes
//! some otherwise (`\/`).

use super::literal_end;

/// What minijinja refuses in a text: here what Python refuses, and names of characters (`\N{BULLET}`).
const REFUSED: &str = "\\x??";

/// The tag with its texts written in escapes that mean the same to minijinja. Line ends that an escape takes away come
/// behind the text, so that the lines of the template stay.
pub(super) fn in_common_escapes(tag: &str) -> String {
    let bytes = tag.as_bytes();
    let mut out = String::with_capacity(tag.len());
    let (mut at, mut copied) = (0, 0);
    while at < bytes.len() {
        let quote = bytes[at];
        if !matches!(quote, b'\'' | b'"') {
            at += 1;
            continue;
        }
        let Some(end) = literal_end(tag, at, quote).filter(|end| *end <= tag.len()) else { break };
        let inner = &tag[at + 1..end - 1];
        if inner.contains('\\') {
            out.push_str(&tag[copied..=at]);
            let joined = written(inner, char::from(quote), &mut out);
            out.push(char::from(quote));
            out.push_str(&"\n".repeat(joined));
            copied = end;
        }
        at = end;
    }
    out + &tag[copied..]
}

/// A text as a literal in single quotes.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    text.chars().for_each(|character| push(character, '\'', &mut out));
    out.push('\'');
    out
}

fn push(character: char, quote: char, out: &mut String) {
    if character == quote || character == '\\' {
        out.push('\\');
    }
    out.push(character);
}

/// Writes the inside of a literal; how many line ends were left out.
fn written(inner: &str, quote: char, out: &mut String) -> usize {
    let (mut rest, mut joined) = (inner, 0);
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        if character != '\\' {
            push(character, quote, out);
            continue;
        }
        let Some(kind) = rest.chars().next() else { break };
        let behind = &rest[kind.len_utf8()..];
        let (decoded, behind) = match kind {
            '\n' => {
                joined += 1;
                rest = behind;
                continue;
            }
            '\\' | '\'' | '"' => (Some(kind), behind),
            'a' => (Some('\u{7}'), behind),
            'b' => (Some('\u{8}'), behind),
            'f' => (Some('\u{c}'), behind),
            'n' => (Some('\n'), behind),
            'r' => (Some('\r'), behind),
            't' => (Some('\t'), behind),
            'v' => (Some('\u{b}'), behind),
            'x' => coded(behind, 2),
            'u' => surrogates(behind).unwrap_or_else(|| coded(behind, 4)),
            'U' => coded(behind, 8),
            'N' => (None, behind),
            '0'..='7' => octal(rest),
            _ => {
                out.push_str("\\\\");
                continue;
            }
        };
        match decoded {
            // A line end of its own would move the lines behind it.
            Some('\n') => out.push_str("\\n"),
            Some('\r') => out.push_str("\\r"),
            Some(decoded) => push(decoded, quote, out),
            None => out.push_str(REFUSED),
        }
        rest = behind;
    }
    joined
}

/// The character of so many hexadecimal digits, and what stands behind them.
fn coded(text: &str, digits: usize) -> (Option<char>, &str) {
    let code = text.get(..digits).filter(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit()));
    let Some(code) = code else { return (None, text) };
    (u32::from_str_radix(code, 16).ok().and_then(char::from_u32), &text[digits..])
}

/// Two escapes that are halves of one character.
fn surrogates(text: &str) -> Option<(Option<char>, &str)> {
    let unit = |text: &str| u16::from_str_radix(text.get(..4)?, 16).ok();
    let second = text.get(4..)?.strip_prefix("\\u")?;
    let whole = char::decode_utf16([unit(text)?, unit(second)?]).next()?.ok()?;
    (u32::from(whole) > 0xffff).then(|| (Some(whole), &second[4..]))
}

/// Up to three octal digits.
fn octal(text: &str) -> (Option<char>, &str) {
    let digits = text.bytes().take(3).take_while(|digit| matches!(digit, b'0'..=b'7')).count();
    (u32::from_str_radix(&text[..digits], 8).ok().and_then(char::from_u32), &text[digits..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_pythons() {
        for (tag, expected) in [
            (r"{{ '\U0001f600' }}", "{{ '😀' }}"),
            (r#"{{ "\x41\101\u00e9" ~ 'b\'' }}"#, r#"{{ "AAé" ~ 'b\'' }}"#),
            ("{{ 'a\\\nb' ~ 1 }}", "{{ 'ab'\n ~ 1 }}"),
            (r"{{ '\/\d\\n\n' }}", r"{{ '\\/\\d\\n\n' }}"),
            (r"{{ '\ud83d\ude00' }}", "{{ '😀' }}"),
            (r"{{ '\N{BULLET}' }}", "{{ '\\x??{BULLET}' }}"),
            (r"{{ '\u12' }}", "{{ '\\x??12' }}"),
            (r"{{ 'plain' + x }}", "{{ 'plain' + x }}"),
            (r"{{ 'open\' }}", r"{{ 'open\' }}"),
            (r#"{{ '\"' ~ "\'" }}"#, r#"{{ '"' ~ "'" }}"#),
        ] {
            assert_eq!(in_common_escapes(tag), expected, "{tag}");
        }
        assert_eq!(quoted("it's \\ {{ x }}\n"), "'it\\'s \\\\ {{ x }}\n'");
    }
}
