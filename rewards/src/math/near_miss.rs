//! The bar of near misses: references and what is almost the same, made by rule. None of them may count as right,
//! while each reference counts as right for itself.

use crate::math::tests::is_right;
use crate::math::{MathConfig, is_equivalent};

/// References of one value each, none of which is zero or its own negative.
const VALUES: [&str; 40] = [
    "7",
    "42",
    "-3",
    "100",
    "1000000007",
    "123456789012345678901234567890",
    "2.5",
    "0.125",
    "-0.75",
    r"\frac{1}{3}",
    r"\frac{-5}{7}",
    r"\dfrac{22}{7}",
    r"2\frac{1}{2}",
    r"\sqrt{2}",
    r"3\sqrt{5}",
    r"\sqrt[3]{4}",
    r"\frac{\sqrt{3}}{2}",
    r"1+\sqrt{7}",
    r"\pi",
    r"\frac{\pi}{6}",
    r"2\pi-1",
    "e^2",
    r"\ln 3",
    r"\log_2 5",
    r"\sin 20^\circ",
    r"\cos\frac{\pi}{7}",
    "2^{100}",
    "10!",
    r"\binom{10}{3}",
    "3+4i",
    r"\frac{1-i}{2}",
    "x+1",
    "2x^2-3x+5",
    r"\frac{x}{x+1}",
    "(x-1)(x+2)",
    "a^2b",
    r"\sqrt{x^2+1}",
    r"2\sin x",
    "e^{-x}",
    r"\frac{n(n+1)}{2}",
];

#[test]
fn values_that_are_changed_a_little_are_wrong() {
    let mut cases = 0;
    for value in VALUES {
        assert!(is_right(&format!("So \\boxed{{{value}}}."), value), "{value}");
        let changed = [
            format!("-({value})"),
            format!("({value})+1"),
            format!("({value})-1"),
            format!("2({value})"),
            format!("({value})/10"),
            format!("10({value})"),
            format!("({value})^2+({value})^4"),
            format!("\\frac{{1}}{{({value})^3+9}}"),
            format!("({value})+\\frac{{1}}{{1000000}}"),
            format!("{value}, {value}+1"),
            format!("({value}, {value})"),
            format!("({value})y"),
            format!("x={value}, x=0"),
            format!("\\pm({value})"),
            format!("x > {value}"),
            format!("[{value}, \\infty)"),
            format!("\\{{{value}, 0\\}}"),
            format!("{value}:9"),
        ];
        for near in changed {
            assert!(!is_right(&format!("So \\boxed{{{near}}}."), value), "{near} is not {value}");
            assert!(!is_right(&format!("So \\boxed{{{value}}}."), &near), "{value} is not {near}");
            cases += 2;
        }
    }
    assert_eq!(cases, 1440);
}

#[test]
fn the_reference_in_the_reasoning_does_not_count() {
    for value in VALUES {
        let completions = [
            format!("I think of \\boxed{{{value}}}. No, it is \\boxed{{-1/77}}."),
            format!("We get ${value}$ first, but the answer is $-1/77$."),
            format!("Is it ${value}$? The answer is -1/77."),
            format!("<think>So \\boxed{{{value}}}</think> \\boxed{{-1/77}}"),
            format!("<think>So \\boxed{{{value}}}</think> It is not known."),
            format!("<think>So it is {value}. The answer is {value}."),
            format!("<think>So \\boxed{{{value}}}? No, \\boxed{{-1/77}}."),
            format!("<answer>{value}</answer> or rather <answer>-1/77</answer>"),
            format!("\\boxed{{{value}}} and \\boxed{{-1/77}}"),
            format!("\\boxed{{{value} \\text{{ or }} -1/77}}"),
            format!("#### {value}\n#### -1/77"),
            format!("\\boxed{{}} {value}"),
            format!("\\boxed{{{value}"),
        ];
        for completion in &completions[..12] {
            assert!(!is_right(completion, value), "{completion}");
        }
    }
}

#[test]
fn a_box_of_every_choice_is_wrong() {
    for letter in ["A", "(B)", r"\text{C}", r"\textbf{(D)}"] {
        for hedge in [
            "A, B, C, D",
            "A B C D",
            "ABCD",
            r"\text{A or B or C or D}",
            "(A)(B)(C)(D)",
            "(A), (B), (C), (D)",
            r"\{A, B, C, D\}",
            "A/B/C/D",
            "E",
            "(E)",
            "",
        ] {
            assert!(!is_right(&format!("\\boxed{{{hedge}}}"), letter), "{hedge} is not {letter}");
        }
    }
}

#[test]
fn other_units_and_factors_are_wrong() {
    let units = [
        "mm", "cm", "m", "km", "inches", "feet", "miles", "g", "kg", "seconds", "hours", "apples", "dollars",
        "cents",
    ];
    let config = MathConfig::default();
    for (at, unit) in units.iter().enumerate() {
        let reference = format!("5 \\text{{ {unit}}}");
        assert!(is_equivalent(&reference, "5", &config), "{reference}");
        assert!(is_equivalent("5", &reference, &config), "{reference}");
        for (other_at, other) in units.iter().enumerate() {
            let answer = format!("5 \\text{{ {other}}}");
            assert_eq!(is_equivalent(&reference, &answer, &config), at == other_at, "{reference} {answer}");
            let answer = format!("5 \\text{{ {other}}}^2");
            assert!(!is_equivalent(&reference, &answer, &config), "{reference} {answer}");
        }
    }
}

#[test]
fn ends_of_intervals_count() {
    let config = MathConfig::default();
    let mut intervals = Vec::new();
    for (low, high) in [("0", "1"), ("-2", "3"), (r"\frac{1}{2}", r"\pi"), ("1", "0.5x"), ("0", "2")] {
        for (open, close) in [("(", ")"), ("(", "]"), ("[", ")"), ("[", "]")] {
            intervals.push(format!("{open}{low},{high}{close}"));
        }
    }
    intervals.extend(
        ["(-\\infty,1)", "(-\\infty,1]", "[1,\\infty)", "(1,\\infty)", "(-\\infty,\\infty)"]
            .map(str::to_string),
    );
    intervals.extend(
        ["(0,1)\\cup(2,3)", "(0,1)\\cup[2,3)", "(0,1]\\cup(2,3)", "(0,1)\\cup(2,4)"].map(str::to_string),
    );
    for (at, left) in intervals.iter().enumerate() {
        for (other_at, right) in intervals.iter().enumerate() {
            let spaced = right.replace(',', " , ").replace('(', r"\left(");
            assert_eq!(is_equivalent(left, &spaced, &config), at == other_at, "{left} {right}");
        }
    }
}

#[test]
fn tuples_sets_and_lists_with_other_parts_are_wrong() {
    let config = MathConfig::default();
    let parts = ["1", "-2", r"\frac{3}{4}", r"\sqrt{5}"];
    let joined = |parts: &[&str]| parts.join(", ");
    for count in 2..=4 {
        let parts = &parts[..count];
        let mut swapped = parts.to_vec();
        swapped.swap(0, 1);
        let (missing, mut extra, mut other) = (&parts[1..], parts.to_vec(), parts.to_vec());
        extra.push("9");
        other[0] = "2";
        let wrong = [missing.to_vec(), extra, other];
        for (open, close, is_ordered) in [("(", ")", true), (r"\{", r"\}", false), ("", "", false)] {
            let reference = format!("{open}{}{close}", joined(parts));
            assert!(is_equivalent(&reference, &reference, &config));
            let turned = format!("{open}{}{close}", joined(&swapped));
            assert_eq!(is_equivalent(&reference, &turned, &config), !is_ordered, "{reference} {turned}");
            for wrong in &wrong {
                let answer = format!("{open}{}{close}", joined(wrong));
                assert!(!is_equivalent(&reference, &answer, &config), "{reference} {answer}");
                assert!(!is_equivalent(&answer, &reference, &config), "{reference} {answer}");
            }
        }
    }
}

#[test]
fn relations_that_are_changed_are_wrong() {
    let config = MathConfig::default();
    let relations = [
        "x < 3",
        r"x \le 3",
        "x > 3",
        r"x \ge 3",
        r"x \ne 3",
        "x = 3",
        "x < -3",
        "y < 3",
        "x < 4",
        "1 < x < 3",
        r"1 \le x < 3",
        r"1 < x \le 3",
        "2x+y=1",
        "2x-y=1",
        "2x+y=2",
        "y=2x+1",
        "y=2x-3",
        "x^2+y^2=4",
        "x^2+y^2=2",
        "x^2-y^2=4",
        r"f(x)=x^2",
        r"f(x)=2x",
        "x<1 \\text{ or } x>3",
        r"x<1 \text{ or } x\ge3",
    ];
    for (at, left) in relations.iter().enumerate() {
        for (other_at, right) in relations.iter().enumerate() {
            assert_eq!(is_equivalent(left, right, &config), at == other_at, "{left} {right}");
        }
    }
}

#[test]
fn decimals_that_are_not_the_number_are_wrong() {
    let config = MathConfig::default();
    let right = [
        (r"\frac{1}{3}", "0.3333"),
        (r"\frac{2}{3}", "0.6667"),
        (r"\frac{2}{3}", "0.6666"),
        (r"\pi", "3.1416"),
        (r"\pi", "3.1415"),
        (r"\sqrt{2}", "1.41421356"),
        ("-\\sqrt{2}", "-1.414"),
        ("1.4142", r"\sqrt{2}"),
        (r"\frac{1}{8}", "0.125"),
    ];
    for (reference, answer) in right {
        assert!(is_equivalent(reference, answer, &config), "{reference} {answer}");
    }
    let wrong = [
        (r"\frac{1}{3}", "0.33"),
        (r"\frac{1}{3}", "0.333"),
        (r"\frac{1}{3}", "0.3334"),
        (r"\frac{1}{3}", "0.33333334"),
        (r"\frac{2}{3}", "0.6668"),
        (r"\pi", "3.14"),
        (r"\pi", "3.1417"),
        (r"\pi", "3.14159266"),
        (r"\pi", "22/7"),
        (r"\sqrt{2}", "1.4143"),
        (r"\sqrt{2}", "1.4"),
        (r"\frac{1}{8}", "0.13"),
        (r"\frac{1}{8}", "0.1251"),
        (r"\frac{12345}{8}", "1543.13"),
        ("1234.5", "1234.6"),
        ("1.4142", "1.41421"),
        ("3", "2.9999"),
        ("3", "3.0001"),
        ("1000000", "999999.9"),
        ("0.3333", "0.333333"),
    ];
    for (reference, answer) in wrong {
        assert!(!is_equivalent(reference, answer, &config), "{reference} {answer}");
    }
}
