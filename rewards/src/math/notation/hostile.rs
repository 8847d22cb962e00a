//! Hostile notation ends at once, and laws that hold for any notation.

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::STYLES;
use crate::boxed::BOX_BYTES_MAX;
use crate::is_well_formed;
use crate::math::{MathConfig, is_equivalent, is_readable};
use crate::stopwatch::seconds;

/// Pieces of notation that parsers choke on.
const PIECES: &[&str] = &[
    r"\color{red}",
    r"\tag{",
    r"\text{",
    r"\mathrm{m^",
    r"\overset{!}{",
    "1½",
    "2\\frac12",
    "½",
    "²",
    "x²",
    "0.(3)",
    "0.\\dot{1}",
    "0.333...",
    "1-1-",
    "A_",
    "A1",
    "1 million ",
    "\\not",
    "\\sum_{",
    "\\sum ",
    "\\begin{cases}",
    "1 mod ",
    "\\pmod{",
    "n!",
    "\\binom{n}{",
    "\\left\\{",
    "\\cancel{",
    "1:",
    "∛",
    "x\u{305}",
    "\\equiv ",
    "\\Rightarrow ",
    "2*",
    "5 km ",
    "\\frac{\\text{m}}{",
    "&",
    "\\bbox[",
    "ⁿ",
    "１",
    "\\begin{array}{l}",
    "if ",
    "{=}",
];

#[test]
fn hostile_notation_ends_at_once() {
    let config = MathConfig::default();
    for piece in PIECES {
        let text = piece.repeat(BOX_BYTES_MAX / piece.len());
        let short = piece.repeat(900 / piece.len()) + "1";
        for (left, right) in [(&text, &text), (&text, &short), (&short, &text), (&short, &short)] {
            let taken = seconds(|| {
                is_equivalent(left, &format!("{right} "), &config);
                is_equivalent("1/3", right, &config);
                is_well_formed(left);
            });
            assert!(taken < 1.0, "{piece}: {taken} s");
        }
    }
    for text in [
        "100000!",
        "(10^{12})!",
        r"\binom{10^{12}}{5\cdot10^{11}}",
        r"\binom{n^{99}}{20}",
        "((n!)!)!",
        r"(n^{n^{n}})!",
        r"9^{9^{9}} \bmod 7",
        r"7 \pmod{9^{9^{9}}}",
        "0.\\overline{0123456789012345678901234567890123456789012345678901234567890123456789}",
    ] {
        for other in ["5", "n", text] {
            let taken = seconds(|| {
                is_equivalent(text, &format!("{other}+0"), &config);
            });
            assert!(taken < 0.5, "{text}: {taken} s");
        }
    }
}

#[test]
fn a_bracket_before_a_letter_of_another_script_ends_at_once() {
    let config = MathConfig::default();
    for text in ["T)    (\u{5b5}", "J..(\u{374}<", "(B) (14", "(B) (é"] {
        assert!(!is_equivalent("1", text, &config), "{text}");
    }
    assert!(is_equivalent("B", "(B) (14)", &config));
}

#[test]
fn what_is_struck_out_is_only_itself() {
    let config = MathConfig::default();
    assert!(is_equivalent("~~7~~", "~~7~~", &config));
    assert!(!is_equivalent("7", "~~7~~", &config));
    // The mark of an end beside nothing is itself, too.
    assert!(is_equivalent(r"$\square", r"$\square", &config));
}

#[test]
fn dots_alone_are_no_answer() {
    for text in ["...", "....", r"\right....", r"\left....\right."] {
        assert!(!is_readable(text) && !is_well_formed(text), "{text}");
    }
}

proptest! {
    #[test]
    fn what_can_be_read_is_itself_in_any_style(text in "[0-9x+*/^(){}., \\\\a-c½²]{0,24}", style in 0usize..STYLES.len()) {
        let config = MathConfig::default();
        if is_readable(&text) && text.contains(|next: char| next.is_ascii_alphanumeric()) {
            prop_assert!(is_equivalent(&text, &text, &config), "{}", text);
        }
        let styled = STYLES[style].replace('@', &text);
        let _ = (is_readable(&styled), is_well_formed(&styled), is_equivalent(&styled, &text, &config));
    }

    #[test]
    fn what_is_well_formed_can_be_read(text in any::<String>()) {
        prop_assert!(!is_well_formed(&text) || is_readable(&text), "{}", text);
    }

    #[test]
    fn mixed_numbers_are_sums(whole in 1i64..999, top in 1i64..40, bottom in 2i64..40, other in 1i64..999) {
        let config = MathConfig::default();
        let value = format!("{}/{bottom}", whole * bottom + top);
        for (before, after) in [("", ""), ("-", ""), (r"\$", ""), ("", r"\%"), ("", r"^\circ"), ("", r"\text{ km}")] {
            let mixed = format!(r"{before}{whole}\frac{{{top}}}{{{bottom}}}{after}");
            let sum = format!("{before}{value}{after}");
            prop_assert!(is_equivalent(&sum, &mixed, &config), "{} {}", sum, mixed);
            let equal = is_equivalent(&format!("{before}{other}{after}"), &mixed, &config);
            prop_assert_eq!(equal, top % bottom == 0 && whole + top / bottom == other, "{} {}", mixed, other);
        }
    }

    #[test]
    fn repeating_decimals_are_fractions(whole in 0u32..99, digits in "[0-9]{1,6}") {
        let config = MathConfig::default();
        let nines = "9".repeat(digits.len());
        let fraction = format!("{whole}+{}/{nines}", digits.parse::<u64>().unwrap());
        for decimal in [format!("{whole}.({digits})"), format!(r"{whole}.\overline{{{digits}}}")] {
            prop_assert!(is_equivalent(&fraction, &decimal, &config), "{} {}", fraction, decimal);
            prop_assert!(!is_equivalent(&format!("{fraction}+1/7"), &decimal, &config), "{} {}", fraction, decimal);
        }
    }

    #[test]
    fn factorials_shorten(shift in 1i64..6, other in 1i64..6) {
        let config = MathConfig::default();
        let product: String = (1..=shift).map(|step| format!("(n+{step})")).collect();
        let quotient = format!(r"\frac{{(n+{other})!}}{{n!}}");
        prop_assert_eq!(is_equivalent(&product, &quotient, &config), shift == other, "{} {}", product, quotient);
    }
}
