//! The mathematics verifier: the final `\boxed{...}` of a completion, or its last number where it has no box,
//! against the reference answer.
//!
//! Numbers are compared exactly, without floats, at any size: integers, decimals, fractions, thousands separators.
//! Units, percent signs and currencies are dropped on both sides, so `50\%` is 50. What is not a number is compared
//! as text without white space. Left out: equality of expressions (`x(x+1)` and `x^2+x`), sets, intervals.

mod number;

use crate::boxed::{BOX_BYTES_MAX, last_boxed};
use crate::{Answer, RewardError, Verdict, Verifier};

use number::{Number, scan};

/// The keys of `kind = "math"`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MathConfig {}

/// Compares with the data's reference answer.
#[derive(Clone, Debug, Default)]
pub struct MathVerifier;

impl MathVerifier {
    /// A verifier by this config.
    ///
    /// # Errors
    /// Names the key that cannot be meant.
    pub fn new(_config: MathConfig) -> Result<Self, RewardError> {
        Ok(MathVerifier)
    }
}

impl Verifier for MathVerifier {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        let reference = answer.reference.map(final_part).map(normalised).filter(|text| !text.is_empty());
        let reference = reference.ok_or(RewardError::MissingReference)?;
        let right = match last_boxed(answer.completion) {
            Some(content) => content.len() <= BOX_BYTES_MAX && is_equal(&normalised(content), &reference),
            None => {
                let number = last_number(answer.completion);
                number.is_some_and(|number| whole_number(&reference).is_some_and(|other| number == other))
            }
        };
        Ok(Verdict::from(right))
    }
}

/// The part of a reference that holds its answer: a box (MATH), what follows `####` (GSM8K), or everything.
fn final_part(reference: &str) -> &str {
    match (last_boxed(reference), reference.rsplit_once("####")) {
        (Some(content), _) => content,
        (None, Some((_, answer))) => answer,
        (None, None) => reference,
    }
}

/// Whether two normalised answers are the same number or the same text.
fn is_equal(left: &str, right: &str) -> bool {
    let spaceless = |text: &str| text.chars().filter(|&character| character != ' ').collect::<String>();
    match (whole_number(left), whole_number(right)) {
        (Some(left), Some(right)) => left == right,
        (None, None) => spaceless(left) == spaceless(right),
        _ => false,
    }
}

/// The last number of a running text. Only the text's end is read, because what stands further from it is not a
/// final answer.
fn last_number(text: &str) -> Option<Number> {
    let text = &text[text.ceil_char_boundary(text.len().saturating_sub(BOX_BYTES_MAX))..];
    let bytes = text.as_bytes();
    let (mut at, mut last) = (0, None);
    while at < bytes.len() {
        // A sign behind a letter, digit or closing bracket is an operation: the last number of `7-5` is 5.
        let is_operation = !bytes[at].is_ascii_digit()
            && at.checked_sub(1).is_some_and(|before| {
                bytes[before].is_ascii_alphanumeric() || matches!(bytes[before], b')' | b'}' | b']')
            })
            && text[at..].starts_with(['-', '−', '+']);
        let may_begin = match bytes[at] {
            b'\\' => bytes.get(at + 1).is_some_and(|next| b"fdtc$".contains(next)),
            // The first byte of the Unicode minus is 0xe2.
            byte => byte.is_ascii_digit() || b"-+.$\xe2".contains(&byte),
        };
        match (may_begin && !is_operation).then(|| scan(&text[at..])).flatten() {
            Some((found, length)) => {
                last = Some(found);
                at += length;
            }
            None => at += bytes[at..].iter().skip(1).take_while(|&&byte| is_continuation(byte)).count() + 1,
        }
    }
    last.and_then(Number::from_literal)
}

/// Whether a byte is inside a character of UTF-8.
fn is_continuation(byte: u8) -> bool {
    byte & 0b1100_0000 == 0b1000_0000
}

/// The number that a normalised text is, if it is one and nothing but a unit follows.
fn whole_number(text: &str) -> Option<Number> {
    let (found, length) = scan(text)?;
    is_unit(&text[length..]).then(|| Number::from_literal(found))?
}

/// Units that are taken without a space or with a single letter; a longer word behind a space is always a unit.
const SHORT_UNITS: [&str; 24] = [
    "m", "s", "g", "h", "l", "mm", "cm", "dm", "km", "mg", "kg", "ml", "ms", "min", "hr", "hrs", "ft", "in",
    "yd", "mi", "lb", "oz", "mph", "kWh",
];

/// Whether what stands behind a number is nothing or a unit (`cm`, ` apples`, ` km/h`, ` square feet`, ` m^2`).
/// A lone letter such as the `x` of `5x` is a variable, not a unit.
fn is_unit(rest: &str) -> bool {
    let spaced = rest.starts_with(' ');
    let is_word = |word: &str| {
        let name = word.trim_end_matches(['2', '3']).trim_end_matches('^');
        let is_name =
            !name.is_empty() && name.chars().all(|character| character.is_alphabetic() || character == '.');
        SHORT_UNITS.contains(&name) || (spaced && is_name && name.chars().nth(1).is_some())
    };
    rest.trim().is_empty() || rest.split([' ', '/']).filter(|word| !word.is_empty()).all(is_word)
}

/// What [`normalised`] replaces. Longer spellings stand before their beginnings.
const REPLACED: [(&str, &str); 28] = [
    (r"\displaystyle", ""),
    (r"\dfrac", r"\frac"),
    (r"\tfrac", r"\frac"),
    (r"\cfrac", r"\frac"),
    (r"\left", ""),
    (r"\right", ""),
    (r"^{\circ}", ""),
    (r"^\circ", ""),
    (r"\degree", ""),
    ("°", ""),
    (r"\%", ""),
    ("%", ""),
    (r"\$", ""),
    ("$", ""),
    ("€", ""),
    ("£", ""),
    ("¥", ""),
    ("₹", ""),
    (r"\(", ""),
    (r"\)", ""),
    (r"\[", ""),
    (r"\]", ""),
    (r"\!", ""),
    ("{,}", ","),
    ("−", "-"),
    ("–", "-"),
    (r"\le", r"\leq"),
    (r"\ge", r"\geq"),
];

/// Every character that a replaced spelling begins with.
const REPLACED_STARTS: &str = "\\%${^~°€£¥₹−–\u{a0}\u{2009}\u{202f}";

/// Spaces of LaTeX; between digits they separate thousands.
const THIN_SPACES: [&str; 9] = [r"\,", r"\;", r"\:", r"\ ", "~", r"\quad", "\u{a0}", "\u{2009}", "\u{202f}"];

/// Commands whose argument is plain text.
const TEXT_COMMANDS: [&str; 6] =
    [r"\text{", r"\mathrm{", r"\mbox{", r"\textbf{", r"\mathbf{", r"\operatorname{"];

/// The same answer in plainer spelling: no commands around units, no currency, single spaces but none behind a
/// sign, no `x =` before it and no full stop after it. One pass.
fn normalised(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let next = if REPLACED_STARTS.contains(first) { replaced(rest, &mut plain) } else { None };
        if let Some(next) = next {
            rest = next;
            continue;
        }
        match first.is_whitespace() {
            true if plain.is_empty() || plain.ends_with([' ', '-', '+']) => {}
            true => plain.push(' '),
            false => plain.push(first),
        }
        rest = &rest[first.len_utf8()..];
    }
    let plain = plain.trim().trim_end_matches('.').trim();
    without_name(plain).to_string()
}

/// Writes what the spelling at the start of `rest` stands for and gives the text behind it.
fn replaced<'a>(rest: &'a str, plain: &mut String) -> Option<&'a str> {
    if let Some(after) = TEXT_COMMANDS.iter().find_map(|command| rest.strip_prefix(command)) {
        let end = after.find(['{', '}'])?;
        let behind = after[end..].strip_prefix('}')?;
        // The space makes `5\text{cm}` a number and a unit.
        plain.push(' ');
        plain.push_str(after[..end].trim());
        return Some(behind);
    }
    if let Some(after) = THIN_SPACES.iter().find_map(|space| rest.strip_prefix(space)) {
        let begins_with_thousand = after.bytes().take_while(u8::is_ascii_digit).count() == 3;
        let in_number = plain.ends_with(|last: char| last.is_ascii_digit()) && begins_with_thousand;
        plain.push(if in_number { ',' } else { ' ' });
        return Some(after);
    }
    let (spelling, written) = REPLACED.iter().find(|(spelling, _)| {
        rest.strip_prefix(spelling).is_some_and(|after| {
            // `\left` is a command of its own, but not in `\leftarrow`.
            let is_word = spelling.starts_with('\\') && spelling.ends_with(|last: char| last.is_alphabetic());
            !(is_word && after.starts_with(|next: char| next.is_ascii_alphabetic()))
        })
    })?;
    plain.push_str(written);
    Some(&rest[spelling.len()..])
}

/// Drops the `x =` of `x = 5`.
fn without_name(text: &str) -> &str {
    match text.split_once('=') {
        Some((name, value))
            if name.trim().len() == 1 && name.starts_with(|c: char| c.is_ascii_alphabetic()) =>
        {
            value.trim()
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::stopwatch::seconds;

    fn value(completion: &str, reference: Option<&str>) -> Result<f64, RewardError> {
        let fields = serde_json::Map::new();
        let answer =
            Answer { prompt: "p", completion, reference, fields: &fields, tokens: 1, truncated: false };
        MathVerifier.verify(&answer).map(|verdict| verdict.value)
    }

    fn is_right(completion: &str, reference: &str) -> bool {
        value(completion, Some(reference)).unwrap() == 1.0
    }

    #[test]
    fn right_answers() {
        let cases = [
            (r"so \boxed{42}", "42"),
            (r"\boxed{1} no, \boxed{42}.", "42"),
            ("The answer is 42.", "42"),
            ("First 7, then 42", "#### 42"),
            ("7 - 5 = 2", "2"),
            ("it is 7-5", "5"),
            ("it is 7 - 5", "5"),
            ("it is 7−5", "5"),
            ("\n- 5 apples", "5"),
            (r"\boxed{- 5}", "-5"),
            (r"\boxed{- \frac{1}{2}}", "-0.5"),
            ("x = -5", "-5"),
            ("x = −5", "-5"),
            ("a loss of -$5", "-5"),
            (r"\boxed{1,234,567}", "1234567"),
            (r"\boxed{1\,234\,567}", "1234567"),
            (r"\boxed{1{,}234}", "1234"),
            (r"\boxed{1,\!234}", "1234"),
            ("1,234.50 dollars", "1234.5"),
            (r"\boxed{0.50}", r"\frac{1}{2}"),
            (r"\boxed{\dfrac{2}{4}}", "1/2"),
            (r"\boxed{\frac12}", "0.5"),
            (r"\boxed{-\frac{1}{2}}", "-0.5"),
            (r"\boxed{\frac{-1}{2}}", "-.5"),
            (r"\boxed{\frac{1}{-2}}", "-1/2"),
            ("so 3/6", "0.5"),
            (r"so \frac{3}{6} it is", "0.5"),
            (r"\boxed{50\%}", "50"),
            (r"\boxed{\$5.00}", "5"),
            (r"$\boxed{5\text{ apples}}$", "5"),
            (r"\boxed{5 \mathrm{cm}^2}", "5"),
            (r"\boxed{5cm}", "5 \\text{cm}"),
            (r"\boxed{60 km/h}", "60"),
            (r"\boxed{90^\circ}", "90"),
            (r"\boxed{x = 5}", "5"),
            (r"\boxed{+5}", "5"),
            (r"\boxed{-0}", "0"),
            (r"\boxed{0/7}", "0"),
            (r"\boxed{007}", "7"),
            (r"\boxed{\left( 0, \infty \right)}", r"(0,\infty)"),
            (r"\boxed{\text{Yes}}", "Yes"),
            (r"\boxed{3}", r"We get \boxed{3}."),
            ("12 + 30 = 42", "Natalia sold 48/2 = 24.\n#### 42"),
            ("72,000", "#### 72000"),
        ];
        for (completion, reference) in cases {
            assert!(is_right(completion, reference), "{completion} should be {reference}");
        }
    }

    #[test]
    fn wrong_answers() {
        let cases = [
            ("", "42"),
            (r"\boxed{}", "42"),
            (r"\boxed{} 42", "42"),
            (r"\boxed{42} and \boxed{43}", "42"),
            ("42 or 43", "42"),
            (r"\boxed{5x}", "5"),
            (r"\boxed{5 x}", "5"),
            (r"\boxed{5 or 6}", "5"),
            (r"\boxed{1,2}", "12"),
            (r"\boxed{12,34}", "1234"),
            (r"\boxed{0.3333}", "1/3"),
            (r"\boxed{-5}", "5"),
            (r"\boxed{5/0}", "5"),
            (r"\boxed{1.2.3}", "1.2"),
            (r"\boxed{x+1}", "x+2"),
            (r"\boxed{5", "6"),
            ("five", "5"),
            ("the word", "word"),
            ("1e3", "1000"),
        ];
        for (completion, reference) in cases {
            assert!(!is_right(completion, reference), "{completion} should not be {reference}");
        }
    }

    #[test]
    fn a_missing_reference_is_an_error_and_not_a_wrong_answer() {
        for reference in [None, Some(""), Some(" "), Some("####")] {
            let message = value("5", reference).unwrap_err().to_string();
            assert!(message.contains("`answer`"), "{message}");
        }
    }

    #[test]
    fn numbers_of_a_thousand_digits_are_exact() {
        let digits = "1234567890".repeat(100);
        assert!(is_right(&format!("\\boxed{{{digits}}}"), &digits));
        assert!(!is_right(&format!("\\boxed{{{digits}}}"), &(digits.clone() + "1")));
        assert!(is_right(&format!("\\boxed{{{digits}0/10}}"), &digits));
        assert!(is_right(&format!("\\boxed{{0.{}1}}", "0".repeat(400)), &format!("1/1{}", "0".repeat(401))));
        assert!(!is_right(&format!("\\boxed{{0.{}1}}", "0".repeat(400)), &format!("1/1{}", "0".repeat(400))));
    }

    #[test]
    fn ten_megabytes_of_hostile_text_take_under_a_second() {
        let pieces = [
            "{",
            "}",
            r"\boxed{",
            r"\frac{1}{",
            "1",
            "1,",
            "-",
            "1/",
            r"\text{",
            "\0",
            "é",
            r"\,",
            "$",
            "1,111",
            "−",
        ];
        for piece in pieces {
            let text = piece.repeat(10_000_000 / piece.len());
            let boxed = format!("\\boxed{{{}}}", &text[..text.len() / 2 / piece.len() * piece.len()]);
            let longest = format!("\\boxed{{{}}}", piece.repeat(BOX_BYTES_MAX / piece.len()));
            let taken = seconds(|| {
                for (completion, reference) in [(&text, "5"), (&boxed, "1/3"), (&longest, "1/3")] {
                    value(completion, Some(reference)).unwrap();
                }
            });
            assert!(taken < 1.0, "{piece}: {taken} s");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_verifier_panic(text in any::<String>(), reference in any::<String>()) {
            for completion in [text.clone(), format!("\\boxed{{{text}}}"), format!("{text}\\frac{{1}}{{{text}")] {
                let _ = value(&completion, Some(&reference));
            }
        }

        #[test]
        fn latex_pieces_never_panic(pieces in proptest::collection::vec(proptest::sample::select(vec![
            r"\boxed{", r"\frac", "{", "}", "1", "23", "456", ",", ".", "/", "-", "−", r"\text{", r"\,", "é", " ", "$", "=",
        ]), 0..30)) {
            let text: String = pieces.concat();
            let first = value(&text, Some("1"));
            prop_assert!(first.is_ok());
            let _ = value("1", Some(&text));
        }

        #[test]
        fn fractions_agree_with_cross_multiplication(a in -999i64..1000, b in 1i64..1000, c in -999i64..1000, d in 1i64..1000, k in 1i64..50) {
            let fraction = |top: i64, bottom: i64| format!("\\boxed{{\\frac{{{top}}}{{{bottom}}}}}");
            let reduced = format!("{a}/{b}");
            prop_assert!(is_right(&fraction(a * k, b * k), &reduced));
            prop_assert_eq!(is_right(&fraction(a, b), &format!("{c}/{d}")), a * d == c * b);
        }

        #[test]
        fn decimals_agree_with_their_fractions(top in any::<i32>(), places in 1usize..9) {
            let bottom = 10i64.pow(places as u32);
            let (whole, part) = (i64::from(top).abs() / bottom, i64::from(top).abs() % bottom);
            let sign = if top < 0 { "-" } else { "" };
            let decimal = format!("thus {sign}{whole}.{part:0places$}");
            let reference = format!("{top}/{bottom}");
            prop_assert!(is_right(&decimal, &reference), "{} {}", decimal, reference);
        }
    }
}
