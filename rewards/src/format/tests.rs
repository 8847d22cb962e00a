//! What counts as a form and as well-formed, and what does not.

use proptest::prelude::{any, prop_assert, proptest};

use super::*;
use crate::stopwatch::seconds;

#[test]
fn well_formed_mathematics() {
    let texts = [
        "1",
        r"\frac{3}{2}",
        "x^2 + 12y = 1",
        r"(0,\infty)",
        "-3",
        "x = -2",
        "2(3+4)",
        r"\frac12",
        r"\sqrt2",
        r"\sqrt[3]{x+1}",
        r"\sin^2 x + \cos^2 x = 1",
        r"\log_2 8",
        "log_2 8",
        r"\left(0, 1\right]",
        "[0,1)",
        r"(-\infty, 0) \cup (0, \infty)",
        r"\{1, 2, 3\}",
        r"\{\}",
        r"\{x | x > 0\}",
        "|x-1| = 2",
        "2|x|",
        "n!",
        r"50\%",
        "50%",
        r"90^\circ",
        r"90^{\circ}",
        r"\text{Yes}",
        r"5\text{ cm}^2",
        "x_1^2",
        "x_{n+1}",
        "f'(x)",
        "1,234",
        r"1\,234",
        "1,\\!234",
        "3.14",
        ".5",
        "1:2",
        "3x",
        r"2\pi r",
        "ab",
        r"\dfrac{-b \pm c}{2a}",
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
        r"\lfloor x \rfloor",
        r"\sum_{i=1}^{n} i",
        r"\mathbb{R}",
        "x <= 2",
        "2^{10}",
        "e^{i\\pi}",
        r"\binom{n}{k}",
        r"1\frac{1}{2}",
        "((1))",
        r"x \in [0, 1]",
        "π/2",
        "x≥2",
        r"\pm 3",
    ];
    for text in texts {
        assert!(is_well_formed(text), "{text}");
    }
}

#[test]
fn answers_as_they_are_written() {
    let texts = [
        r"\text{Evelyn}",
        r"\text{(C)}",
        r"\text{because } x > 0",
        r"\text{about \frac{1}{2} of it}",
        "A",
        "(B)",
        "A, C, D",
        r"45^\circ",
        r"45\degree",
        r"30°",
        r"[1, 2)",
        r"\left(-\infty, -3\right] \cup \left[2, \infty\right)",
        r"x \in [1,2)",
        r"x \in \mathbb{R} \setminus \{0\}",
        r"\left\{ 1, -2, \frac{1}{3} \right\}",
        r"\{(1,2), (3,4)\}",
        r"\{x \mid x \ge 2\}",
        r"\begin{bmatrix} -1 & 0 \\ 0 & \frac{1}{2} \\ \end{bmatrix}",
        r"\begin{pmatrix} 1 \\ 2 \\ 3 \end{pmatrix}",
        r"\begin{array}{cc|c} 1 & 2 & 3 \\ & 5 & \end{array}",
        r"\begin{cases} x + 1, & x > 0 \\ -x, & x \le 0 \end{cases}",
        r"\begin{aligned} x &= 1 \\ y &= 2 \end{aligned}",
        r"\$18",
        r"\$18.90",
        r"18\$",
        "$18$",
        "€5",
        r"1{,}234",
        r"12{,}345{,}678",
        r"10\%",
        r"3\sqrt{2}",
        r"-\frac{35}{9}",
        r"\frac{\sqrt3}2",
        r"1101_2",
        r"1101_{2}",
        r"2A5_{16}",
        "BEEF_{16}",
        "ABCDE",
        r"0.\overline{36}",
        r"0.1\overline{6}",
        r"5 \pmod{7}",
        r"x \equiv 3 \pmod 7",
        "1, 2, ..., n",
        r"1, 2, \ldots, n",
        r"3.5 \times 10^{-5}",
        r"x = 3 \text{ or } x = 5",
        r"12\,\mathrm{cm}^2",
        r"7:30 \text{ a.m.}",
        "5²",
        "½",
        r"\[5\]",
    ];
    for text in texts {
        assert!(is_well_formed(text), "{text}");
    }
}

#[test]
fn text_that_is_not_mathematics() {
    let texts = [
        "",
        " ",
        "x +* 2",
        "(0,1 ",
        "x +",
        "* 2",
        "= 5",
        "1 2",
        "1.2.3",
        "5.",
        "()",
        "{}",
        "(1",
        "1)",
        "{1",
        "1,",
        ",1",
        "1,,2",
        "--1",
        "1 + - - 2",
        r"\frac{1}",
        r"\frac{}{2}",
        r"\frac",
        r"\sqrt",
        "x^",
        "^2",
        "x^2^3",
        r"\sin",
        r"\unknown{1}",
        r"\text{}",
        "the answer is five",
        "hello",
        "x = = 2",
        "|x",
        r"\{1",
        r"\lfloor x \rceil",
        r"\begin{pmatrix} 1 \end{matrix}",
        r"1 \\ 2",
        "1 & 2",
        "#",
        "1\0",
        "5 @ 6",
        r"\(",
        r"\",
        r"x \cdot",
        "?",
        "\"5\"",
        "__import__('os')",
        "[1, 2",
        "(1, 2}",
    ];
    for text in texts {
        assert!(!is_well_formed(text), "{text}");
    }
}

#[test]
fn near_misses_of_answers() {
    let texts = [
        "Evelyn",
        "True",
        "LONGERTHANTHAT",
        r"\text{Evelyn",
        r"\text{ }",
        r"1{,}",
        r"{,}1",
        "..",
        r".\overline{3}",
        r"1\overline",
        r"x \in",
        r"\$",
        r"\%",
        "[1,2",
        r"\begin{pmatrix} 1 & \end{bmatrix}",
        r"\begin{pmatrix} 1 & 2",
        r"\begin{array} 1 & 2 \end{array}",
        r"\begin{aligned} x &* 1 \end{aligned}",
        r"\begin{cases} 1,, & x \end{cases}",
        "&= 1",
        "= 1",
    ];
    for text in texts {
        assert!(!is_well_formed(text), "{text}");
    }
}

/// Mathematics that is well-formed and not worked out.
#[test]
fn what_has_no_value_is_well_formed() {
    for text in [
        r"\cancel{5}",
        r"\frac{\cancel{6}}{\cancel{3}}",
        r"\overset{n}{x}",
        r"\underset{x}{y}",
        r"A \xrightarrow{f} B",
        r"A \xleftarrow[a]{b} B",
        r"\forall x \in \mathbb{R}",
        r"\exists n > 5",
        r"\neg p \lor q",
        r"p \implies q",
        r"p \iff q",
        r"f \colon A \to B",
        r"\oint_C F",
        r"\prod_{k=1}^{n} (2k-1)",
        r"\lim_{n \to \infty} a_n",
        r"\sup S",
        r"\det A",
        r"A \subseteq B",
        r"x \notin A",
        r"a \parallel b",
        r"a \perp b",
        r"a \propto b",
        r"\triangle ABC \cong \triangle DEF",
        r"\underbrace{a+a}_{2}",
        r"\overline{2a+b}",
        r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}",
        r"\begin{align*} x &= 1 \\ &= 2 \end{align*}",
        r"\begin{gathered} x = 1 \\ y = 2 \end{gathered}",
        r"a \oplus b",
        r"a \equiv b",
        r"x^*",
        r"\mathbb{R}^+",
        r"\partial f",
        r"\nabla f",
        r"\Re z",
        r"\|v\|",
        r"\{x : x > 2\}",
        r"\arg z",
        r"\max_{x} f",
        r"\max\{a, b\}",
    ] {
        assert!(is_well_formed(text), "{text}");
    }
    for text in [
        r"\cancel",
        r"\cancel{",
        r"\overset{n}",
        r"\xrightarrow{f}",
        r"\sum_{i=1}^n",
        r"\lim",
        r"a \subset",
        r"\begin{align*} x &= 1 \end{gather*}",
        r"\begin{cases} x = 1",
        r"\textcolor{red}",
        r"\color",
        r"\not 5",
        r"a \oplus",
        r"\hspace{1cm}",
        r"\tag{1}",
        "3 mod",
        r"5 \pmod",
        "x_",
        "x_)",
        "x_{(}",
    ] {
        assert!(!is_well_formed(text), "{text}");
    }
}

#[test]
fn the_last_box_decides() {
    let format = FormatVerifier::boxed();
    assert!(format.is_right(r"thus \boxed{\frac{3}{2}}."));
    assert!(format.is_right(r"\boxed{} or \boxed{2}"));
    assert!(!format.is_right(r"\boxed{2} or \boxed{}"));
    assert!(!format.is_right("2"));
    assert!(!format.is_right(r"\boxed{(0,1 }"));
}

#[test]
fn thinking_and_an_answer_stand_once_and_in_order() {
    let is_right = |text| FormatVerifier::think_answer(false).is_right(text);
    for text in [
        "<think>why</think><answer>4</answer>",
        "\n<think>\nwhy\n</think>\n\n<answer>\n4\n</answer>\n",
        "<think></think><answer>any words</answer>",
    ] {
        assert!(is_right(text), "{text}");
    }
    for text in [
        "",
        "4",
        "<think>why</think>",
        "<answer>4</answer>",
        "<answer>4</answer><think>why</think>",
        "<think>why</think><answer></answer>",
        "<think>why</think><answer> \n</answer>",
        "<think>why</think>so<answer>4</answer>",
        "<think>why</think><answer>4</answer>.",
        "<think>why<answer>3</answer></think><answer>4</answer>",
        "<think>why<answer></think>4</answer>",
        "<think>why</think><answer>4</answer><answer>4</answer>",
        "<think>why</think><think>more</think><answer>4</answer>",
        "<think>why</think><answer>4</think></answer>",
        "why</think><answer>4</answer>",
    ] {
        assert!(!is_right(text), "{text}");
    }
    assert!(FormatVerifier::think_answer(true).is_right("why</think><answer>4</answer>"));
    assert!(!FormatVerifier::think_answer(true).is_right("<think>why</think><answer>4</answer>"));
}

#[test]
fn a_box_counts_behind_the_thinking_only() {
    let is_right = |text| FormatVerifier::think_boxed(false).is_right(text);
    assert!(is_right(r"<think>perhaps \boxed{3}</think> It is \boxed{4}."));
    for text in [
        r"\boxed{4}",
        r"<think>\boxed{4}</think>",
        r"<think>why</think>4",
        r"<think>why</think>\boxed{}",
        r"<think>why</think>\boxed{4 +}",
        r"so <think>why</think>\boxed{4}",
        r"<think>why</think><think>why</think>\boxed{4}",
    ] {
        assert!(!is_right(text), "{text}");
    }
    assert!(FormatVerifier::think_boxed(true).is_right(r"why</think>\boxed{4}"));
}

#[test]
fn nesting_has_a_limit() {
    let nested = |depth: usize| "(".repeat(depth) + "1" + &")".repeat(depth);
    assert!(is_well_formed(&nested(60)));
    assert!(!is_well_formed(&nested(70)));
}

#[test]
fn hostile_text_is_checked_in_linear_time() {
    for piece in [
        "{",
        "1+",
        "x",
        r"\frac",
        r"\text{",
        "(1)",
        "|1|",
        "{1}",
        "\\",
        " ",
        "1,",
        r"\pi ",
        r"\boxed{",
        "1, ",
        r"\text{a}",
        r"\begin{array}{c}",
        "<think>",
        "</think>",
        "<answer>",
    ] {
        let longest = piece.repeat(BOX_BYTES_MAX / piece.len());
        let text = piece.repeat(10_000_000 / piece.len());
        let taken = seconds(|| {
            is_well_formed(&longest);
            FormatVerifier::boxed().is_right(&text);
            FormatVerifier::think_answer(false).is_right(&text);
            FormatVerifier::think_boxed(false).is_right(&text);
        });
        assert!(taken < 1.0, "{piece}: {taken} s");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_check_panic(text in any::<String>()) {
        is_well_formed(&text);
        FormatVerifier::boxed().is_right(&format!("\\boxed{{{text}}}"));
        for opened in [false, true] {
            let answered = format!("<think>{text}</think><answer>{text}</answer>");
            FormatVerifier::think_answer(opened).is_right(&answered);
            FormatVerifier::think_boxed(opened).is_right(&format!("{text}</think>\\boxed{{{text}}}"));
        }
    }

    #[test]
    fn well_formed_text_stays_so_in_parentheses_and_not_with_a_dangling_operation(
        pieces in proptest::collection::vec(proptest::sample::select(vec![
            "1", "x", "+", "-", "(", ")", r"\frac", "{", "}", "^", "_", ",", "|", r"\{", r"\}", r"\sqrt", "[", "]", " ", r"\sin",
        ]), 0..12),
    ) {
        let text: String = pieces.concat();
        if is_well_formed(&text) {
            let in_parentheses = format!("({text})");
            let dangling = format!("{text}*");
            let unbalanced = format!("{text})");
            prop_assert!(is_well_formed(&in_parentheses), "{in_parentheses}");
            prop_assert!(!is_well_formed(&dangling) && !is_well_formed(&unbalanced), "{text}");
        }
    }
}
