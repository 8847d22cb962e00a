//! Numbers in running text: where one ends. What it is worth is the parser's business.

/// The length in bytes of the number at the very start of a text: sign, currency, then a decimal, `a/b` or
/// `\frac{a}{b}`. The time is linear in what was read.
pub(super) fn number_length(text: &str) -> Option<usize> {
    let unsigned = without_sign(text);
    let behind = [r"\$", "$", "€", "£", "¥", "₹"].iter().find_map(|currency| unsigned.strip_prefix(currency));
    // The sign may also stand behind the currency, but there is only one.
    let amount = match behind {
        Some(amount) if unsigned.len() == text.len() => without_sign(amount),
        Some(amount) => amount,
        None => unsigned,
    };
    let rest = match after_fraction(amount) {
        Some(rest) => rest,
        None => {
            let rest = after_decimal(amount)?;
            after_slash(rest).and_then(after_decimal).unwrap_or(rest)
        }
    };
    Some(text.len() - rest.len())
}

/// The text behind a sign, if one stands at the start.
fn without_sign(text: &str) -> &str {
    ["-", "−", "+"].iter().find_map(|sign| text.strip_prefix(sign)).unwrap_or(text)
}

fn after_slash(text: &str) -> Option<&str> {
    text.strip_prefix('/').or_else(|| text.strip_prefix(" / "))
}

/// The text behind digits with or without separated thousands and a part behind a point; one of the two may be
/// missing.
fn after_decimal(text: &str) -> Option<&str> {
    let mut end = digits_at(text, 0);
    if (1..=3).contains(&end) {
        while text[end..].starts_with(',') && digits_at(text, end + 1) == 3 {
            end += 4;
        }
    }
    let places = if text[end..].starts_with('.') { digits_at(text, end + 1) } else { 0 };
    let rest = if places > 0 { &text[end + 1 + places..] } else { &text[end..] };
    (rest.len() < text.len()).then_some(rest)
}

/// How many digits stand at `start`.
fn digits_at(text: &str, start: usize) -> usize {
    text.as_bytes()[start..].iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// The text behind `\frac{a}{b}`, `\frac12` and the like.
fn after_fraction(text: &str) -> Option<&str> {
    let rest = [r"\frac", r"\dfrac", r"\tfrac", r"\cfrac"].iter().find_map(|name| text.strip_prefix(name))?;
    after_argument(rest).and_then(after_argument)
}

/// The text behind a signed decimal in braces, or behind a single digit.
fn after_argument(text: &str) -> Option<&str> {
    let text = text.strip_prefix(' ').unwrap_or(text);
    if let Some(rest) = text.strip_prefix('{') {
        let rest = after_decimal(without_sign(rest.strip_prefix(' ').unwrap_or(rest)))?;
        return rest.strip_prefix(' ').unwrap_or(rest).strip_prefix('}');
    }
    (digits_at(text, 0) > 0).then(|| &text[1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_much_as_is_a_number() {
        let cases = [
            ("12 rest", " rest"),
            ("12.", "."),
            ("12.5.", "."),
            ("1,234,567,89", ",89"),
            ("1234,567", ",567"),
            ("1,2345", ",2345"),
            ("1/2/3", "/3"),
            ("1/x", "/x"),
            (r"\frac{1}{2}{3}", "{3}"),
            (r"\frac123", "3"),
            ("-$5 each", " each"),
            ("$-5 each", " each"),
            (".5.5", ".5"),
        ];
        for (text, rest) in cases {
            assert_eq!(number_length(text).map(|length| &text[length..]), Some(rest), "{text}");
        }
        for text in ["", "-", "x", ".", "$", r"\frac{x}{2}", r"\frac{1}", "--5", "- 5", "-$-5", "é"] {
            assert!(number_length(text).is_none(), "{text}");
        }
    }
}
