//! `strftime_now`: the date is always midnight of Friday, 26 July 2024, which the templates of Llama 3 fall back to.
//! With the date of today, one seed would give another run tomorrow.

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind};

/// The widest field that a format may ask for.
const WIDTH_MAX: usize = 100;

/// A field of the date: its text, and the width and fill that it has where no flag says otherwise.
struct Field {
    text: String,
    width: usize,
    fill: char,
}

/// The fixed date in a format of C's `strftime`, with the flags of glibc (`%-d`, `%_d`, `%^b`).
pub(super) fn strftime_now(format: Option<String>, named: Kwargs) -> Result<String, Error> {
    let format = format.map_or_else(|| named.get("format"), Ok)?;
    named.assert_all_used()?;
    strftime_fixed(&format)
}

fn strftime_fixed(format: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(format.len());
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let directive = &rest[at + 1..];
        let after_flags = directive.trim_start_matches(['-', '_', '0', '^', '#']);
        let flags = &directive[..directive.len() - after_flags.len()];
        let after_width = after_flags.trim_start_matches(|digit: char| digit.is_ascii_digit());
        let width = after_flags[..after_flags.len() - after_width.len()].parse::<usize>().ok();
        if width.is_some_and(|width| width > WIDTH_MAX) {
            let message = format!("a date field is wider than {WIDTH_MAX} characters");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        let body = after_width.trim_start_matches(['E', 'O']);
        let Some(kind) = body.chars().next() else {
            out.push_str(&rest[at..]);
            return Ok(out);
        };
        let end = rest.len() - body.len() + kind.len_utf8();
        match field(kind) {
            Some(field) => out.push_str(&laid_out(field, flags, width, kind)),
            // glibc prints a directive that it does not know.
            None => out.push_str(&rest[at..end]),
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    Ok(out)
}

fn laid_out(field: Field, flags: &str, width: Option<usize>, kind: char) -> String {
    let mut text = field.text;
    if flags.contains('^') || flags.contains('#') && matches!(kind, 'a' | 'A' | 'b' | 'B' | 'h') {
        text = text.to_uppercase();
    } else if flags.contains('#') && matches!(kind, 'p' | 'Z') {
        text = text.to_lowercase();
    }
    let last = flags.chars().rfind(|flag| matches!(flag, '-' | '_' | '0'));
    let fill = match last {
        Some('_' | '-') => ' ',
        Some(_) => '0',
        None => field.fill,
    };
    let width = width.unwrap_or(if last == Some('-') { 0 } else { field.width });
    let missing = width.saturating_sub(text.len());
    std::iter::repeat_n(fill, missing).collect::<String>() + &text
}

fn field(kind: char) -> Option<Field> {
    let text = |text: &str| Some(Field { text: text.to_owned(), width: 0, fill: ' ' });
    let number = |number: i64, width| Some(Field { text: number.to_string(), width, fill: '0' });
    let spaced = |number: i64| Some(Field { text: number.to_string(), width: 2, fill: ' ' });
    match kind {
        'a' => text("Fri"),
        'A' => text("Friday"),
        'b' | 'h' => text("Jul"),
        'B' => text("July"),
        'c' => text("Fri Jul 26 00:00:00 2024"),
        'C' => number(20, 2),
        'd' => number(26, 2),
        'D' | 'x' => text("07/26/24"),
        'e' => spaced(26),
        'f' => number(0, 6),
        'F' => text("2024-07-26"),
        'g' | 'y' => number(24, 2),
        'G' | 'Y' => number(2024, 4),
        'H' | 'M' | 'S' => number(0, 2),
        'I' => number(12, 2),
        'j' => number(208, 3),
        'k' => spaced(0),
        'l' => spaced(12),
        'm' => number(7, 2),
        'n' => text("\n"),
        'p' => text("AM"),
        'P' => text("am"),
        'r' => text("12:00:00 AM"),
        'R' => text("00:00"),
        's' => number(1_721_952_000, 1),
        't' => text("\t"),
        'T' | 'X' => text("00:00:00"),
        'u' | 'w' => number(5, 1),
        'U' => number(29, 2),
        'V' | 'W' => number(30, 2),
        // A date without a zone has none to print.
        'z' | 'Z' => text(""),
        '%' => text("%"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::strftime_fixed;

    #[test]
    fn directives_are_those_of_python() {
        let cases = [
            ("%d %b %Y", "26 Jul 2024"),
            ("%-d.%-m.", "26.7."),
            ("%j %I %p %F", "208 12 AM 2024-07-26"),
            ("%A, %B %e", "Friday, July 26"),
            ("%H:%M:%S", "00:00:00"),
            ("%-I %P%%", "12 am%"),
            ("%U %W %V %u %w %G", "29 30 30 5 5 2024"),
            ("%^a %_m %05d", "FRI  7 00026"),
            ("%Q %", "%Q %"),
            ("é%yé", "é24é"),
            ("%z%Z|%f", "|000000"),
        ];
        for (format, date) in cases {
            assert_eq!(strftime_fixed(format).expect("a format"), date, "{format}");
        }
        assert!(strftime_fixed("%999999999d").is_err());
    }
}
