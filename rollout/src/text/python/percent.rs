//! `text % operands`: printf as Python has it, with widths that count characters.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use super::characters::{length, width_of};
use super::cost::Growing;
use super::numbers::{truncated, wide};
use super::{printed, repr};

/// Digits behind the point that a template may ask for.
const PRECISION_MAX: i64 = 1000;

fn invalid(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}

/// What stands between `%` and the letter.
#[derive(Default)]
struct Spec {
    left: bool,
    zero: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

/// What is formatted, one value after the other or by name.
struct Operands<'a> {
    whole: &'a Value,
    items: Vec<Value>,
    taken: usize,
}

impl Operands<'_> {
    fn next(&mut self) -> Result<Value, Error> {
        self.taken += 1;
        let item = self.items.get(self.taken - 1).cloned();
        item.ok_or_else(|| invalid("not enough arguments for format string"))
    }

    fn named(&self, name: &str) -> Result<Value, Error> {
        if self.whole.kind() != ValueKind::Map {
            return Err(invalid("format requires a mapping"));
        }
        let found = self.whole.get_item(&Value::from(name))?;
        match found.is_undefined() {
            true => Err(invalid(format!("no entry '{name}' for the format string"))),
            false => Ok(found),
        }
    }

    /// A number in the place of `*`.
    fn number(&mut self) -> Result<i64, Error> {
        i64::try_from(self.next()?).map_err(|_| invalid("* wants int"))
    }
}

/// `text % operands`: the items of a tuple, the entries of a mapping by name, or one value.
pub(in crate::text) fn percent_format(
    state: &mut State<'_, '_>,
    text: &str,
    operands: &Value,
) -> Result<String, Error> {
    let state = &*state;
    let items = match operands.is_tuple() {
        true => operands.try_iter()?.collect(),
        false => vec![operands.clone()],
    };
    let mut operands = Operands { whole: operands, items, taken: 0 };
    let mut by_name = false;
    let mut out = Growing::new(Some(state));
    let mut rest = text;
    while let Some((before, directive)) = rest.split_once('%') {
        out.pay()?;
        out.text.push_str(before);
        rest = directive;
        let mut named = None;
        if let Some(inside) = rest.strip_prefix('(') {
            let end = key_end(inside).ok_or_else(|| invalid("incomplete format key"))?;
            named = Some(operands.named(&inside[..end])?);
            by_name = true;
            rest = &inside[end + 1..];
        }
        let spec = spec(&mut rest, &mut operands)?;
        rest = rest.trim_start_matches(['h', 'l', 'L']);
        let kind = rest.chars().next().ok_or_else(|| invalid("incomplete format"))?;
        rest = &rest[kind.len_utf8()..];
        if kind == '%' {
            out.text.push('%');
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => operands.next()?,
        };
        out.pay_for(spec.width)?;
        out.text.push_str(&formatted(state, kind, &spec, &value)?);
    }
    out.text.push_str(rest);
    // A list or a mapping may bring more than is asked for, as in Python.
    let is_one =
        !operands.whole.is_tuple() && matches!(operands.whole.kind(), ValueKind::Map | ValueKind::Seq);
    match operands.taken < operands.items.len() && !is_one && !by_name {
        true => Err(invalid("not all arguments converted during string formatting")),
        false => Ok(out.text),
    }
}

/// The bracket that closes a name; names may have brackets in them.
fn key_end(text: &str) -> Option<usize> {
    let mut depth = 1_usize;
    text.char_indices().find_map(|(at, character)| {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        (depth == 0).then_some(at)
    })
}

fn spec(rest: &mut &str, operands: &mut Operands<'_>) -> Result<Spec, Error> {
    let mut spec = Spec::default();
    while let Some(flag) = rest.chars().next().filter(|flag| "-0+ #".contains(*flag)) {
        match flag {
            '-' => spec.left = true,
            '0' => spec.zero = true,
            '+' => spec.plus = true,
            ' ' => spec.space = true,
            _ => spec.alternate = true,
        }
        *rest = &rest[1..];
    }
    if let Some(width) = number(rest, operands)? {
        spec.left |= width < 0;
        spec.width = width_of(width.saturating_abs())?;
    }
    if let Some(digits) = rest.strip_prefix('.') {
        *rest = digits;
        let digits = number(rest, operands)?.unwrap_or(0).max(0);
        if digits > PRECISION_MAX {
            return Err(invalid(format!("a precision of {digits} is more than {PRECISION_MAX}")));
        }
        spec.precision = usize::try_from(digits).ok();
    }
    Ok(spec)
}

fn number(rest: &mut &str, operands: &mut Operands<'_>) -> Result<Option<i64>, Error> {
    if let Some(behind) = rest.strip_prefix('*') {
        *rest = behind;
        return operands.number().map(Some);
    }
    let behind = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
    let digits = &rest[..rest.len() - behind.len()];
    *rest = behind;
    match digits {
        "" => Ok(None),
        digits => digits.parse().map(Some).map_err(|_| invalid("width too big")),
    }
}

fn formatted(state: &State<'_, '_>, kind: char, spec: &Spec, value: &Value) -> Result<String, Error> {
    let cut = |text: String| match spec.precision {
        Some(most) => text.chars().take(most).collect(),
        None => text,
    };
    match kind {
        's' => Ok(padded(spec, "", cut(printed(state, value)?))),
        'r' => Ok(padded(spec, "", cut(repr(state, value)?))),
        'a' => Ok(padded(spec, "", cut(ascii(&repr(state, value)?)))),
        'c' => character(value).map(|character| padded(spec, "", character)),
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => whole(kind, spec, value),
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => float(kind, spec, value),
        _ => Err(invalid(format!("unsupported format character '{kind}'"))),
    }
}

fn character(value: &Value) -> Result<String, Error> {
    let text = match value.as_str() {
        Some(text) => text.to_owned(),
        None => {
            let code = u32::try_from(value.clone()).ok().and_then(char::from_u32);
            code.map(String::from).unwrap_or_default()
        }
    };
    match length(&text) {
        1 => Ok(text),
        _ => Err(invalid("%c requires int or char")),
    }
}

fn ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match u32::from(character) {
            ..=0x7f => out.push(character),
            code @ ..=0xff => out.push_str(&format!("\\x{code:02x}")),
            code @ ..=0xffff => out.push_str(&format!("\\u{code:04x}")),
            code => out.push_str(&format!("\\U{code:08x}")),
        }
    }
    out
}

fn whole(kind: char, spec: &Spec, value: &Value) -> Result<String, Error> {
    let is_number = matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    let refused = || invalid(format!("%{kind} format: a number is required, not {}", value.kind()));
    let digits = match wide(value) {
        Some(digits) => digits.to_owned(),
        None if value.kind() == ValueKind::Bool => u8::from(value.is_true()).to_string(),
        None if is_number && value.is_integer() => value.to_string(),
        None if is_number && matches!(kind, 'd' | 'i' | 'u') => {
            let float = f64::try_from(value.clone())?;
            truncated(float).ok_or_else(|| invalid("cannot convert it to an integer"))?.to_string()
        }
        None => return Err(refused()),
    };
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(digits) => ("-", digits.to_owned()),
        None => (sign(spec), digits),
    };
    let in_base = |to: fn(u128) -> String| digits.parse::<u128>().map(to).map_err(|_| refused());
    let (prefix, digits) = match kind {
        'x' => ("0x", in_base(|number| format!("{number:x}"))?),
        'X' => ("0X", in_base(|number| format!("{number:X}"))?),
        'o' => ("0o", in_base(|number| format!("{number:o}"))?),
        _ => ("", digits),
    };
    let missing = spec.precision.unwrap_or(0).saturating_sub(digits.len());
    let prefix = if spec.alternate { prefix } else { "" };
    Ok(padded_number(spec, &format!("{sign}{prefix}"), "0".repeat(missing) + &digits))
}

fn sign(spec: &Spec) -> &'static str {
    match (spec.plus, spec.space) {
        (true, _) => "+",
        (false, true) => " ",
        (false, false) => "",
    }
}

fn float(kind: char, spec: &Spec, value: &Value) -> Result<String, Error> {
    if spec.alternate {
        return Err(invalid("`#` is not known for floats"));
    }
    let number = match (value.kind(), wide(value)) {
        (ValueKind::Bool, _) => f64::from(u8::from(value.is_true())),
        (ValueKind::Number, _) => f64::try_from(value.clone())?,
        (_, Some(digits)) => digits.parse().unwrap_or(f64::INFINITY),
        (other, None) => return Err(invalid(format!("must be real number, not {other}"))),
    };
    let sign = if number.is_sign_negative() && !number.is_nan() { "-" } else { sign(spec) };
    let number = number.abs();
    let precision = spec.precision.unwrap_or(6);
    let text = match kind.to_ascii_lowercase() {
        _ if number.is_nan() => "nan".to_owned(),
        _ if number.is_infinite() => "inf".to_owned(),
        'f' => format!("{number:.precision$}"),
        'e' => exponential(number, precision),
        _ => general(number, precision.max(1)),
    };
    let text = if kind.is_ascii_uppercase() { text.to_uppercase() } else { text };
    Ok(padded_number(spec, sign, text))
}

/// `1.50e+00`.
fn exponential(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

/// So many digits, with an exponent where the number is very small or has more of them.
fn general(number: f64, digits: usize) -> String {
    let text = exponential(number, digits - 1);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let place: i64 = exponent.parse().unwrap_or(0);
    let kept = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    match usize::try_from(i64::try_from(digits).unwrap_or(i64::MAX) - 1 - place) {
        Ok(behind) if place >= -4 => kept(&format!("{number:.behind$}")),
        _ => format!("{}e{exponent}", kept(mantissa)),
    }
}

fn padded_number(spec: &Spec, sign: &str, digits: String) -> String {
    let is_finite =
        digits.starts_with(|first: char| first.is_ascii_hexdigit()) && !digits.starts_with(['i', 'n']);
    let zeros = match spec.zero && !spec.left && is_finite {
        true => spec.width.saturating_sub(length(sign) + length(&digits)),
        false => 0,
    };
    padded(spec, sign, "0".repeat(zeros) + &digits)
}

fn padded(spec: &Spec, sign: &str, text: String) -> String {
    let fill = " ".repeat(spec.width.saturating_sub(length(sign) + length(&text)));
    match spec.left {
        true => format!("{sign}{text}{fill}"),
        false => format!("{fill}{sign}{text}"),
    }
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;
    use minijinja::value::Tuple;

    use super::*;

    // Each right side is what Python 3.11 prints.
    #[test]
    fn values_are_formatted_as_python_does() {
        let environment = Environment::new();
        let of = |format: &str, value: Value| {
            percent_format(&mut environment.empty_state(), format, &value).map_err(|error| error.to_string())
        };
        let cases = [
            ("%6s|", Value::from("é😀"), "    é😀|"),
            ("%-6s|", Value::from("é😀"), "é😀    |"),
            ("%.2s", Value::from("日本語"), "日本"),
            ("%r", Value::from("it's"), "\"it's\""),
            ("%a", Value::from("é😀"), "'\\xe9\\U0001f600'"),
            ("%d", Value::from(3.9), "3"),
            ("%d", Value::from(-3.9), "-3"),
            ("%+05d", Value::from(7), "+0007"),
            ("% d", Value::from(7), " 7"),
            ("%.3d", Value::from(-5), "-005"),
            ("%#06x", Value::from(255), "0x00ff"),
            ("%X", Value::from(-255), "-FF"),
            ("%o", Value::from(8), "10"),
            ("%d", Value::from(true), "1"),
            ("%5.1f", Value::from(2.25), "  2.2"),
            ("%f", Value::from(1), "1.000000"),
            ("%e", Value::from(12345.678), "1.234568e+04"),
            ("%.0e", Value::from(1e-7), "1e-07"),
            ("%g", Value::from(0.0001), "0.0001"),
            ("%g", Value::from(1e-5), "1e-05"),
            ("%g", Value::from(1234567.0), "1.23457e+06"),
            ("%g", Value::from(100000.0), "100000"),
            ("%.3G", Value::from(1e20), "1E+20"),
            ("%010.3f", Value::from(-2.5), "-00002.500"),
            ("%05f", Value::from(f64::INFINITY), "  inf"),
            ("%c%%", Value::from(65), "A%"),
            ("%s", Value::from(vec![1, 2]), "[1, 2]"),
            ("no", Value::from(vec![1]), "no"),
        ];
        for (format, value, expected) in cases {
            assert_eq!(of(format, value).as_deref(), Ok(expected), "{format}");
        }
        let pair = || Value::from(Tuple::from([Value::from(6), Value::from("a")]));
        assert_eq!(of("%*s|", pair()).as_deref(), Ok("     a|"));
        for (format, value) in [
            ("%d", Value::from("7")),
            ("%x", Value::from(1.5)),
            ("%s %s", Value::from(1)),
            ("no", Value::from(1)),
            ("%s", pair()),
            ("%(a)s", Value::from(1)),
            ("%", Value::from(1)),
            ("%y", Value::from(1)),
            ("%9999999999s", Value::from(1)),
            ("%.9999f", Value::from(1)),
        ] {
            assert!(of(format, value).is_err(), "{format}");
        }
    }
}
