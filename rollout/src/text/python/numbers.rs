//! How Python reads and prints numbers.

use std::fmt;
use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{Object, ObjectRepr};

use super::characters::is_space;

/// Digits of the longest text that Python takes for a whole number.
const DIGITS_MAX: usize = 4300;

/// A whole number of more than 128 bits: Python's have no largest one. It is printed and not computed with.
#[derive(Debug)]
pub(super) struct WideInteger(pub(super) String);

impl Object for WideInteger {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The digits of a whole number that is too wide to compute with.
pub(super) fn wide(value: &Value) -> Option<&str> {
    value.downcast_object_ref::<WideInteger>().map(|wide| wide.0.as_str())
}

/// A number of the data: `int` for digits alone, and `float` for all else.
pub(in crate::text) fn number(digits: &str) -> Value {
    match digits.contains(['.', 'e', 'E']) {
        true => Value::from(digits.parse::<f64>().unwrap_or(f64::NAN)),
        false => integer(digits),
    }
}

/// The whole number of these decimal digits, behind a sign or not.
fn integer(digits: &str) -> Value {
    let small = digits.parse::<i128>().map(Value::from);
    small
        .or_else(|_| digits.parse::<u128>().map(Value::from))
        .unwrap_or_else(|_| Value::from_object(WideInteger(digits.to_owned())))
}

/// `int(float)`; nothing for what is not finite.
pub(super) fn truncated(float: f64) -> Option<Value> {
    float.is_finite().then(|| integer(&format!("{:.0}", float.trunc())))
}

/// `repr` of a float: the shortest digits that read as it, with an exponent below 1e-4 and from 1e16.
pub(super) fn float_text(float: f64) -> String {
    if float.is_nan() {
        return "nan".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let shortest = format!("{float:e}");
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = float.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

/// `int(text, base)`: white space around it, a sign, and underscores between digits.
pub(super) fn whole(text: &str, base: u32) -> Option<Value> {
    let trimmed = text.trim_matches(is_space);
    let (sign, digits) = match trimmed.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", trimmed.strip_prefix('+').unwrap_or(trimmed)),
    };
    let prefix = match base {
        16 => digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")),
        8 => digits.strip_prefix("0o").or_else(|| digits.strip_prefix("0O")),
        2 => digits.strip_prefix("0b").or_else(|| digits.strip_prefix("0B")),
        _ => None,
    };
    let digits = without_underscores(prefix.unwrap_or(digits))?;
    if digits.len() > DIGITS_MAX {
        return None;
    }
    let decimal = decimal(&digits, base)?;
    let sign = if decimal == "0" { "" } else { sign };
    Some(integer(&format!("{sign}{decimal}")))
}

/// Digits of any base as decimal ones; nothing if one is not of the base.
fn decimal(digits: &str, base: u32) -> Option<String> {
    const LIMB: u64 = 1_000_000_000;
    let mut limbs: Vec<u64> = vec![0];
    for digit in digits.chars() {
        let mut carry = u64::from(digit.to_digit(base)?);
        for limb in &mut limbs {
            let value = *limb * u64::from(base) + carry;
            (*limb, carry) = (value % LIMB, value / LIMB);
        }
        limbs.extend((carry > 0).then_some(carry));
    }
    let (first, rest) = limbs.split_last()?;
    let rest = rest.iter().rev().map(|limb| format!("{limb:09}"));
    Some(std::iter::once(first.to_string()).chain(rest).collect())
}

/// `float(text)`.
pub(super) fn float(text: &str) -> Option<f64> {
    let trimmed = text.trim_matches(is_space);
    let unsigned = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed).to_lowercase();
    if matches!(unsigned.as_str(), "inf" | "infinity" | "nan") {
        return trimmed.parse().ok();
    }
    if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None;
    }
    without_underscores(trimmed)?.parse().ok()
}

/// Underscores may stand between two digits.
fn without_underscores(text: &str) -> Option<String> {
    if text.is_empty() || text.starts_with('_') || text.ends_with('_') || text.contains("__") {
        return None;
    }
    Some(text.replace('_', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_repr_does() {
        let cases = [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e20, "1.5e+20"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (1e-7, "1e-07"),
            (123.456, "123.456"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (1e300, "1e+300"),
        ];
        for (float, text) in cases {
            assert_eq!(float_text(float), text);
        }
        assert_eq!(float_text(f64::NAN), "nan");
    }

    #[test]
    fn numbers_are_read_as_python_reads_them() {
        let read = |text: &str, base| whole(text, base).map(|value| value.to_string());
        for (text, base, number) in [
            (" +1_000\n", 10, "1000"),
            ("-0x1F", 16, "-31"),
            ("-000", 10, "0"),
            ("-00012345678901234567890", 10, "-12345678901234567890"),
            ("zz", 36, "1295"),
            ("0b101", 2, "5"),
            (&"1".repeat(50), 10, &"1".repeat(50)),
            (&"f".repeat(40), 16, "1461501637330902918203684832716283019655932542975"),
            ("-170141183460469231731687303715884105728", 10, "-170141183460469231731687303715884105728"),
        ] {
            assert_eq!(read(text, base).as_deref(), Some(number), "{text}");
        }
        for (text, base) in [("", 10), ("_1", 10), ("1__0", 10), ("+-1", 10), ("1.5", 10), ("12", 2)] {
            assert_eq!(read(text, base), None, "{text}");
        }
        assert_eq!(read(&"1".repeat(DIGITS_MAX + 1), 10), None);
        let truncated = |float| truncated(float).map(|value| value.to_string());
        assert_eq!(truncated(-1.9).as_deref(), Some("-1"));
        assert_eq!(truncated(1e40).as_deref(), Some("10000000000000000303786028427003666890752"));
        assert_eq!(truncated(f64::INFINITY), None);
        assert_eq!(
            (float(" 1_0.5e1 "), float("-.5"), float("1."), float("x")),
            (Some(105.0), Some(-0.5), Some(1.0), None)
        );
        assert_eq!((float("-inf"), float("infin"), float("")), (Some(f64::NEG_INFINITY), None, None));
    }
}
