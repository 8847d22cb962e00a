//! Numbers as they are written: found in a text, and compared exactly at any size without floats.

/// More digits than this on both sides of a fraction are not multiplied out, because that takes their product in
/// time; such fractions are equal only if they are written with the same digits.
const MULTIPLIED_DIGITS_MAX: usize = 2048;

/// A decimal as it stands in the text: `1,234.50` has the whole part `1,234` and the part `50`.
#[derive(Clone, Copy, Debug)]
struct Decimal<'a> {
    negative: bool,
    whole: &'a str,
    part: &'a str,
}

/// A number as it stands in the text: a decimal, or a fraction of two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Literal<'a> {
    negative: bool,
    top: Decimal<'a>,
    bottom: Option<Decimal<'a>>,
}

/// Finds a number at the very start of a text: sign, currency, then a decimal, `a/b` or `\frac{a}{b}`. Gives the
/// number and its length in bytes. The time is linear in what was read.
pub(super) fn scan(text: &str) -> Option<(Literal<'_>, usize)> {
    let (negative, after_sign) = take_sign(text);
    let behind =
        [r"\$", "$", "€", "£", "¥", "₹"].iter().find_map(|currency| after_sign.strip_prefix(currency));
    // The sign may also stand behind the currency, but there is only one.
    let (negative, mut rest) = match behind {
        Some(amount) if after_sign.len() == text.len() => take_sign(amount),
        Some(amount) => (negative, amount),
        None => (negative, after_sign),
    };
    let (top, bottom) = match take_fraction(rest) {
        Some((top, bottom, after)) => {
            rest = after;
            (top, Some(bottom))
        }
        None => {
            let (top, after) = take_decimal(rest)?;
            rest = after;
            let bottom = take_slash(rest).and_then(take_decimal);
            rest = bottom.map_or(rest, |(_, after)| after);
            (top, bottom.map(|(bottom, _)| bottom))
        }
    };
    Some((Literal { negative, top, bottom }, text.len() - rest.len()))
}

/// Whether a minus stands at the start, and the text behind the sign.
fn take_sign(text: &str) -> (bool, &str) {
    for (sign, negative) in [("-", true), ("−", true), ("+", false)] {
        if let Some(rest) = text.strip_prefix(sign) {
            return (negative, rest);
        }
    }
    (false, text)
}

fn take_slash(text: &str) -> Option<&str> {
    text.strip_prefix('/').or_else(|| text.strip_prefix(" / "))
}

/// Digits with or without separated thousands, then a part behind a point; one of the two may be missing.
fn take_decimal(text: &str) -> Option<(Decimal<'_>, &str)> {
    let mut end = digits_at(text, 0);
    if (1..=3).contains(&end) {
        while text[end..].starts_with(',') && digits_at(text, end + 1) == 3 {
            end += 4;
        }
    }
    let (whole, rest) = text.split_at(end);
    let part = match rest.strip_prefix('.') {
        Some(after) => &after[..digits_at(after, 0)],
        None => "",
    };
    let rest = if part.is_empty() { rest } else { &rest[1 + part.len()..] };
    let found = !(whole.is_empty() && part.is_empty());
    found.then_some((Decimal { negative: false, whole, part }, rest))
}

/// How many digits stand at `start`.
fn digits_at(text: &str, start: usize) -> usize {
    text.as_bytes()[start..].iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// `\frac{a}{b}`, `\frac12` and the like.
fn take_fraction(text: &str) -> Option<(Decimal<'_>, Decimal<'_>, &str)> {
    let rest = [r"\frac", r"\dfrac", r"\tfrac", r"\cfrac"].iter().find_map(|name| text.strip_prefix(name))?;
    let (top, rest) = take_argument(rest)?;
    let (bottom, rest) = take_argument(rest)?;
    Some((top, bottom, rest))
}

/// A signed decimal in braces, or a single digit.
fn take_argument(text: &str) -> Option<(Decimal<'_>, &str)> {
    let text = text.strip_prefix(' ').unwrap_or(text);
    if let Some(rest) = text.strip_prefix('{') {
        let (negative, rest) = take_sign(rest.strip_prefix(' ').unwrap_or(rest));
        let (decimal, rest) = take_decimal(rest)?;
        let rest = rest.strip_prefix(' ').unwrap_or(rest).strip_prefix('}')?;
        return Some((Decimal { negative, ..decimal }, rest));
    }
    let digit = text.get(..1).filter(|digit| digit.as_bytes()[0].is_ascii_digit())?;
    Some((Decimal { negative: false, whole: digit, part: "" }, &text[1..]))
}

/// The exact number `± top / bottom * 10^exponent`. `top` and `bottom` are decimal digits, the most significant
/// first, without zeros at either end; no digits at all are zero. Equality is equality of value.
#[derive(Clone, Debug)]
pub(super) struct Number {
    negative: bool,
    top: Vec<u8>,
    bottom: Vec<u8>,
    exponent: i64,
}

impl Number {
    /// `None` if the denominator is zero.
    pub(super) fn from_literal(literal: Literal<'_>) -> Option<Number> {
        let (top, top_exponent) = digits_of(&literal.top);
        let (bottom, bottom_exponent) = literal.bottom.as_ref().map_or((vec![1], 0), digits_of);
        let is_zero = top.is_empty();
        let bottom_negative = literal.bottom.is_some_and(|bottom| bottom.negative);
        let negative = !is_zero && (literal.negative ^ literal.top.negative ^ bottom_negative);
        let exponent = if is_zero { 0 } else { top_exponent - bottom_exponent };
        (!bottom.is_empty()).then_some(Number { negative, top, bottom, exponent })
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Number) -> bool {
        if self.negative != other.negative || self.top.is_empty() != other.top.is_empty() {
            return false;
        }
        if self.bottom == other.bottom {
            return self.top == other.top && self.exponent == other.exponent;
        }
        // a/b = c/d exactly if ad = cb; a power of ten in a product moves to the exponent.
        match (product(&self.top, &other.bottom), product(&other.top, &self.bottom)) {
            (Some((left, left_exponent)), Some((right, right_exponent))) => {
                left == right && left_exponent + self.exponent == right_exponent + other.exponent
            }
            _ => false,
        }
    }
}

/// Digit values without zeros at either end, and the exponent that makes up for them.
fn digits_of(decimal: &Decimal<'_>) -> (Vec<u8>, i64) {
    let written = decimal.whole.bytes().filter(u8::is_ascii_digit).chain(decimal.part.bytes());
    let digits: Vec<u8> = written.skip_while(|&byte| byte == b'0').map(|byte| byte - b'0').collect();
    let (digits, exponent) = trimmed(digits);
    (digits, exponent - decimal.part.len() as i64)
}

/// Drops zeros at the end and counts them.
fn trimmed(mut digits: Vec<u8>) -> (Vec<u8>, i64) {
    let length = digits.len();
    let kept = digits.iter().rposition(|&digit| digit != 0).map_or(0, |last| last + 1);
    digits.truncate(kept);
    (digits, (length - kept) as i64)
}

/// The product's digits and the zeros dropped from its end, or `None` if it is too long to be multiplied out.
fn product(left: &[u8], right: &[u8]) -> Option<(Vec<u8>, i64)> {
    if left == [1] {
        return Some((right.to_vec(), 0));
    }
    if right == [1] {
        return Some((left.to_vec(), 0));
    }
    if left.len().saturating_add(right.len()) > MULTIPLIED_DIGITS_MAX {
        return None;
    }
    // A column adds at most MULTIPLIED_DIGITS_MAX products of two digits: 2048 * 81 fits in 32 bits.
    let mut columns = vec![0u32; left.len() + right.len()];
    for (i, &a) in left.iter().rev().enumerate() {
        for (j, &b) in right.iter().rev().enumerate() {
            columns[i + j] += u32::from(a) * u32::from(b);
        }
    }
    let mut carry = 0;
    for column in &mut columns {
        let sum = *column + carry;
        (*column, carry) = (sum % 10, sum / 10);
    }
    let digits: Vec<u8> =
        columns.into_iter().rev().skip_while(|&digit| digit == 0).map(|digit| digit as u8).collect();
    Some(trimmed(digits))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    fn number(text: &str) -> Option<(Number, &str)> {
        let (literal, length) = scan(text)?;
        Some((Number::from_literal(literal)?, &text[length..]))
    }

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
            assert_eq!(number(text).unwrap().1, rest, "{text}");
        }
        for text in ["", "-", "x", ".", "$", r"\frac{x}{2}", r"\frac{1}", "1/0", "--5", "- 5", "-$-5", "é"] {
            assert!(number(text).is_none(), "{text}");
        }
    }

    #[test]
    fn fractions_too_long_to_multiply_are_compared_by_their_digits() {
        let long = "7".repeat(3000);
        let fraction = |top: &str| number(&format!("{top}/3")).unwrap().0;
        assert_eq!(fraction(&long), fraction(&long));
        assert_ne!(fraction(&long), fraction(&(long.clone() + "7")));
    }

    proptest! {
        #[test]
        fn products_agree_with_128_bit_arithmetic(left in any::<u64>(), right in any::<u64>()) {
            let digits = |value: u128| -> Vec<u8> {
                value.to_string().bytes().skip_while(|&byte| byte == b'0').map(|byte| byte - b'0').collect()
            };
            let (left, right) = (u128::from(left), u128::from(right));
            let (found, zeros) = product(&digits(left), &digits(right)).unwrap();
            let (expected, expected_zeros) = trimmed(digits(left * right));
            prop_assert_eq!((found, zeros), (expected, expected_zeros));
        }
    }
}
