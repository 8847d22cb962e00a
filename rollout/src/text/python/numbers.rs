//! How Python reads and prints numbers.

use super::characters::is_space;

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
pub(super) fn whole(text: &str, base: u32) -> Option<i128> {
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
    let digits = prefix.unwrap_or(digits);
    if digits.starts_with(['-', '+']) {
        return None;
    }
    i128::from_str_radix(&format!("{sign}{}", without_underscores(digits)?), base).ok()
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
        assert_eq!(
            (whole(" +1_000\n", 10), whole("-0x1F", 16), whole("1.5", 10)),
            (Some(1000), Some(-31), None)
        );
        assert_eq!(
            (whole("", 10), whole("_1", 10), whole("1__0", 10), whole("+-1", 10)),
            (None, None, None, None)
        );
        assert_eq!(
            (float(" 1_0.5e1 "), float("-.5"), float("1."), float("x")),
            (Some(105.0), Some(-0.5), Some(1.0), None)
        );
        assert_eq!((float("-inf"), float("infin"), float("")), (Some(f64::NEG_INFINITY), None, None));
    }
}
