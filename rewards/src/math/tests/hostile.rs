//! Hostile text ends soon, and laws that hold for any formula.

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::{is_right, value};
use crate::boxed::BOX_BYTES_MAX;
use crate::math::{MathConfig, is_equivalent};
use crate::stopwatch::seconds;

/// Pieces that parsers and big numbers choke on.
const HOSTILE: [&str; 38] = [
    "{",
    "}",
    "(",
    "[",
    r"\{",
    r"\left(",
    r"\boxed{",
    r"\frac{1}{",
    r"\frac",
    r"\sqrt{",
    r"\sqrt[",
    "1",
    "1,",
    "-",
    "1/",
    "^",
    "9^",
    "9^{",
    "!",
    "9!",
    r"\text{",
    "\0",
    "é",
    "１",
    r"\,",
    "$",
    "1,111",
    "−",
    "|",
    "|x",
    r"\begin{pmatrix}",
    "&",
    "_{",
    "x=",
    r"\pm 1,",
    "answer is ",
    "A: ",
    "$ \n ",
];

#[test]
fn ten_megabytes_of_hostile_text_take_linear_work() {
    for piece in HOSTILE {
        let text = piece.repeat(10_000_000 / piece.len());
        let boxed = format!("\\boxed{{{}}}", &text[..text.len() / 2 / piece.len() * piece.len()]);
        let longest = format!("\\boxed{{{}}}", piece.repeat(BOX_BYTES_MAX / piece.len()));
        for (name, completion, reference) in [
            ("long", &text, "5"),
            ("boxed", &boxed, "1/3"),
            ("box", &longest, "1/3"),
            ("twice", &longest, &longest),
        ] {
            let taken = seconds(|| {
                let _ = value(completion, Some(reference));
            });
            assert!(taken < 1.0, "{piece} {name}: {taken} s");
        }
    }
}

#[test]
fn towers_factorials_and_long_sums_end_at_once() {
    let deep = |piece: &str, count: usize| piece.repeat(count);
    let texts = [
        "9^{9^{9}}".to_string(),
        "9^9^9^9^9".to_string(),
        "(10^{10^9})!".to_string(),
        "10^{10^9}".to_string(),
        "3000!!!!".to_string(),
        "20!!".to_string(),
        "1e-9223372036854775808".to_string(),
        r"\binom{20!}{3}".to_string(),
        r"\gcd(-9223372036854775808, 0)".to_string(),
        "(-x)^{-9223372036854775808}".to_string(),
        r"2^{\frac{-9223372036854775808}{3}}".to_string(),
        "2^{-10^{18}}".to_string(),
        "1e999999999999".to_string(),
        r"\binom{10^9}{5}".to_string(),
        r"\sqrt[1000000]{7}".to_string(),
        deep("3000!+", 2000) + "1",
        deep("(2^{30000}+1/3)*", 300) + "1",
        deep("1/7^{999}+", 400) + "1",
        deep(r"\sin x +", 800) + "1",
        deep("(", 90) + "x" + &deep(")", 90),
        deep("x+", 2000) + "y",
        deep("1,", 1500) + "2",
        deep(r"\sqrt{2},", 700) + "2",
        deep("-", 3000) + "1",
        format!("{}/{}", deep("7", 30_000), deep("3", 30_000)),
        format!("x^{{{}}}", deep("9", 300)),
    ];
    for text in &texts {
        for other in &texts {
            let taken = seconds(|| {
                is_equivalent(text, other, &MathConfig::default());
            });
            assert!(taken < 1.0, "{:.30} {:.30}: {taken} s", text, other);
        }
    }
}

/// A formula in two spellings of one value: terms in another order, fractions with other signs.
fn formula() -> impl proptest::strategy::Strategy<Value = (String, String)> {
    use proptest::strategy::{Strategy, Union};
    let leaf = proptest::sample::select(vec![
        ("x", "x"),
        ("y", "(y)"),
        ("2", "4/2"),
        ("3", r"\frac{6}{2}"),
        ("0.5", r"\frac12"),
        (r"\frac{2}{3}", "2/3"),
        (r"\sqrt{2}", "2^{1/2}"),
        (r"\pi", "π"),
        ("-7", "(-7)"),
        (r"\sin x", r"\sin(x)"),
        ("x^2", "x*x"),
    ]);
    let leaf = leaf.prop_map(|(left, right)| (left.to_string(), right.to_string()));
    leaf.prop_recursive(3, 12, 2, |inner| {
        let pair = (inner.clone(), inner.clone());
        Union::new([
            pair.clone()
                .prop_map(|((a, b), (c, d))| (format!("({a})+({c})"), format!("({d})+({b})")))
                .boxed(),
            pair.clone()
                .prop_map(|((a, b), (c, d))| (format!("({a})-({c})"), format!("-({d})+({b})")))
                .boxed(),
            pair.prop_map(|((a, b), (c, d))| (format!(r"({a}) \cdot ({c})"), format!("({d})({b})"))).boxed(),
            inner
                .clone()
                .prop_map(|(a, b)| (format!(r"\frac{{{a}}}{{3+x^2}}"), format!("({b})/(x*x+3)")))
                .boxed(),
            inner.prop_map(|(a, b)| (format!("({a})^2"), format!("({b})({b})"))).boxed(),
        ])
    })
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

    #[test]
    fn what_is_written_another_way_stays_equal((left, right) in formula()) {
        let config = MathConfig::default();
        prop_assert!(is_equivalent(&left, &left, &config), "{}", left);
        prop_assert!(is_equivalent(&left, &right, &config), "{} {}", left, right);
        prop_assert!(is_equivalent(&right, &left, &config), "{} {}", left, right);
        for changed in [format!("({right})+1"), format!("({right})-x^7"), format!("({right})+1/1000")] {
            prop_assert!(!is_equivalent(&left, &changed, &config), "{} {}", left, changed);
            prop_assert!(!is_equivalent(&changed, &left, &config), "{} {}", left, changed);
        }
    }

    #[test]
    fn equality_has_no_direction_for_bare_values((left, _) in formula(), (right, _) in formula()) {
        let config = MathConfig::default();
        prop_assert_eq!(is_equivalent(&left, &right, &config), is_equivalent(&right, &left, &config));
    }

    #[test]
    fn soup_of_pieces_never_panics(pieces in proptest::collection::vec(proptest::sample::select(HOSTILE.to_vec()), 0..40)) {
        let text: String = pieces.concat();
        let _ = is_equivalent(&text, "x", &MathConfig::default());
        let _ = is_equivalent(&text, &(text.clone() + "1"), &MathConfig::default());
        let _ = value(&text, Some(&text));
    }
}
