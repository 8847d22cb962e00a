//! Verdicts on whole completions: which answer is found in them, and which spellings of one are equal.

mod hostile;

use super::*;

/// The verdict on a completion, by the config without any key.
fn value(completion: &str, reference: Option<&str>) -> Result<f64, RewardError> {
    let fields = serde_json::Map::new();
    let references: Vec<String> = reference.into_iter().map(str::to_string).collect();
    let answer = Answer {
        prompt: "p",
        completion,
        references: &references,
        fields: &fields,
        tokens: 1,
        truncated: false,
    };
    MathVerifier::default().verify(&answer).map(|verdict| verdict.value)
}

/// Whether a completion has the right answer.
pub(super) fn is_right(completion: &str, reference: &str) -> bool {
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
        (r"\boxed{5 \text{ not}}", "5"),
        (r"\boxed{5 \text{ is wrong}}", "5"),
        (r"\boxed{5 \text{ or more}}", "5"),
        (r"\boxed{\text{at least } 5}", "5"),
        (r"\boxed{1 2}", "12"),
        (r"\boxed{1\,2}", "12"),
        (r"\boxed{1$ $2}", "12"),
        (r"\boxed{2 1/2}", "21/2"),
        (r"\boxed{2\ \frac12}", r"2\cdot\frac12"),
        (r"\boxed{0.333}", "1/3"),
        (r"\boxed{-5}", "5"),
        (r"\boxed{5/0}", "5"),
        (r"\boxed{1.2.3}", "1.2"),
        (r"\boxed{x+1}", "x+2"),
        (r"\boxed{5", "6"),
        ("five", "5"),
        ("the word", "word"),
    ];
    for (completion, reference) in cases {
        assert!(!is_right(completion, reference), "{completion} should not be {reference}");
    }
}

#[test]
fn any_of_several_references_is_right() {
    let references = ["#### 7", "1/3", ""].map(str::to_string);
    let fields = serde_json::Map::new();
    let answer = |completion| Answer {
        prompt: "p",
        completion,
        references: &references,
        fields: &fields,
        tokens: 1,
        truncated: false,
    };
    for (completion, value) in
        [(r"\boxed{7}", 1.0), (r"\boxed{\frac13}", 1.0), (r"\boxed{8}", 0.0), ("", 0.0)]
    {
        let verdict = MathVerifier::default().verify(&answer(completion)).unwrap();
        assert_eq!(verdict.value, value, "{completion}");
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

/// Texts that are equal by subject: numbers, functions, collections, relations, units, words.
const EQUAL: [(&str, &[&str]); 30] = [
    (
        "1234567",
        &["1,234,567", "1{,}234{,}567", r"1\,234\,567", "1234567.0", r"1.234567 \times 10^6", "1.234567e6"],
    ),
    (
        r"\frac{5}{2}",
        &["2.5", "5/2", r"2\frac{1}{2}", "2 1/2", r"\dfrac52", r"2.50", r"\frac{10}{4}", r"-\frac{-5}{2}"],
    ),
    (r"0.\overline{3}", &["1/3", r"\frac13", r"0.\overline{33}", "0.33333"]),
    (r"-\frac{1}{6}", &[r"\frac{-1}{6}", r"\frac{1}{-6}", r"-0.1\overline{6}", r"-\tfrac16"]),
    (r"2\sqrt{3}", &[r"\sqrt{12}", r"\sqrt 3 \cdot 2", r"\frac{6}{\sqrt3}", r"12^{1/2}", r"2\sqrt3"]),
    (r"\sqrt[3]{-8}", &["-2", r"-\sqrt[3]{8}"]),
    (r"\frac{\pi}{4}", &[r"\pi/4", "π/4", r"0.25\pi", r"\arctan 1", r"\tan^{-1}(1)", "0.7854"]),
    ("e^2", &[r"\exp(2)", r"e \cdot e", r"\mathrm{e}^{2}"]),
    ("120", &["5!", r"\binom{10}{3}", r"2^3 \cdot 15", r"{10 \choose 3}", r"\frac{6!}{3!}"]),
    ("3-4i", &["-4i+3", r"\frac{25}{3+4i}", "3 + (-4)i"]),
    ("x^2-1", &["(x-1)(x+1)", "(x+1)(x-1)", "-1+x^2", r"\frac{x^3-x}{x}", "x*x-1"]),
    (r"\frac{x+2}{7}", &[r"\frac{x}{7}+\frac{2}{7}", "(2+x)/7", r"\frac17(x+2)"]),
    (r"\sin 2x", &[r"2\sin x\cos x", r"2 \cos(x) \sin(x)", r"\sin(2x)"]),
    (r"\tan^2 y + 1", &[r"\sec^2 y", r"\frac{1}{\cos^2(y)}"]),
    (r"\ln 8", &[r"3\ln 2", r"\ln(2)+\ln(4)"]),
    (
        r"\{1,2,3\}",
        &[
            "1, 2, 3",
            "3, 1, 2",
            r"\{3,2,1\}",
            r"1, 2, \text{ and } 3",
            r"x = 1, 2, 3",
            r"x=3 \text{ or } x=2 \text{ or } x=1",
        ],
    ),
    (
        r"1 \pm \sqrt{2}",
        &[r"1+\sqrt2, 1-\sqrt2", r"\{1-\sqrt{2}, 1+\sqrt{2}\}", r"x = 1 \pm \sqrt{2}", r"1 \mp \sqrt2"],
    ),
    (
        "(1, -2)",
        &[
            r"\left( 1, -2 \right)",
            r"\begin{pmatrix} 1 \\ -2 \end{pmatrix}",
            r"(x, y) = (1, -2)",
            "x=1, y=-2",
            r"\langle 1, -2\rangle",
        ],
    ),
    (
        r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
        &[
            r"\begin{bmatrix}1&2\\3&4\end{bmatrix}",
            r"\left[\begin{array}{cc}1 & 2 \\ 3 & 4\end{array}\right]",
        ],
    ),
    (r"[3, \infty)", &[r"x \ge 3", r"3 \le x", r"\left[3, +\infty\right)", r"x \in [3, \infty)", "x >= 3"]),
    (
        r"(-\infty, 1) \cup (1, \infty)",
        &[
            r"x \ne 1",
            r"\mathbb{R} \setminus \{1\}",
            r"(1,\infty)\cup(-\infty,1)",
            r"x < 1 \text{ or } x > 1",
        ],
    ),
    (r"-2 \le x < 5", &["[-2, 5)", r"5 > x \ge -2", r"\{x \mid -2 \le x < 5\}"]),
    ("x = 3", &["3", "3 = x", "x=2+1=3", r"x = \frac{6}{2}"]),
    ("3x - 2y = 6", &["2y = 3x - 6", r"y = \frac{3}{2}x - 3", "6x-4y-12=0"]),
    ("-x > -1", &["x < 1", "1 > x"]),
    (r"5 \text{ cm}", &["5", "5cm", r"5\,\mathrm{cm}", "5 centimeters", r"0.05 \text{ m}", "50 mm"]),
    (r"\$32{,}348", &["32348", "32,348 dollars", r"\$32,\!348.00"]),
    (r"28\%", &["28", "28 percent", "0.28"]),
    (r"90^\circ", &["90", "90 degrees", "90°", r"\frac{\pi}{2}"]),
    (r"\text{(B)}", &["B", "(B)", r"\textbf{(B)}", "B.", r"\text{(B) } 17"]),
];

#[test]
fn equal_spellings() {
    for (reference, answers) in EQUAL {
        for answer in answers {
            assert!(is_right(&format!("\\boxed{{{answer}}}"), reference), "{answer} should be {reference}");
            assert!(
                is_right(&format!("The answer is ${answer}$."), reference),
                "{answer} should be {reference}"
            );
        }
    }
}

#[test]
fn final_answers_are_found() {
    let config = MathConfig::default();
    let cases = [
        (r"\boxed{1} and \boxed{2}", "1, 2"),
        (r"$x = \boxed{1}$ or $x = \boxed{-1}$", "1, -1"),
        (r"\boxed{7}. So \boxed{7}", "7"),
        (r"\fbox{3}", "3"),
        ("<answer> 12 </answer> and so on 13", "12"),
        ("The final answer is: $\\frac{1}{2}$. I hope it is correct.", r"\frac{1}{2}"),
        ("**Answer:** 42 apples", "42 apples"),
        ("Final Answer: The largest $n$ is 34.", "34"),
        ("The answer is correct. It was 18.", "18"),
        ("so 5\n#### 1,200", "1,200"),
        ("We find $x+y=7$ and thus $x = 3$", "x = 3"),
        ("Then $y = 4$, which is the largest $n$.", "y = 4"),
        ("It is 34 for every $n$", "34"),
        ("It is $n$", "n"),
        ("I paid $5 and got $3", "$3"),
        ("<think>\\boxed{1}</think>\n\\boxed{2}", "2"),
        (r"it is \[ \boxed{\frac{1}{\sqrt{2}}} \]", r"\frac{1}{\sqrt{2}}"),
    ];
    for (completion, expected) in cases {
        assert_eq!(extract_answer(completion, &config.extract).as_deref(), Some(expected), "{completion}");
    }
    let nothing = ["", "no number", "<think>1", "</think>", "<think>1</think><think>2"];
    let broken = ["Answer $ \n 9 \n $", "Answer \\( \n 9 \n \\)", "It is 8, so $\n9\n$."];
    for completion in nothing.iter().chain(&broken) {
        assert_eq!(extract_answer(completion, &config.extract), None, "{completion}");
    }
    let tags_first = [AnswerKind::Tag, AnswerKind::Boxed];
    assert_eq!(extract_answer(r"<answer>1</answer> \boxed{2}", &tags_first).as_deref(), Some("1"));
    assert_eq!(extract_answer("it is 2", &tags_first), None);
}

#[test]
fn a_completion_that_was_cut_off_has_only_what_it_marks_as_the_answer() {
    let config = MathConfig::default();
    let found =
        |completion: &str| extract_answer(completion, &config.extract).map(|found| found.into_owned());
    for (completion, expected) in [
        // Inside a thought: the last box or tag, wherever it stands, and nothing else.
        (r"<think>So \boxed{3}, as 1 + 2 = 3. But", Some("3")),
        (r"<|begin_of_thought|>\boxed{2} no, \[ \boxed{3} \]", Some("3")),
        ("<think>We add. <answer>3</answer>", Some("3")),
        (r"<think>\boxed{2}</think>\boxed{3}<think>Let us check 4", Some("3")),
        ("<think>The answer is 3. Let us check", None),
        ("<think>1 + 2 = 3", None),
        ("<think>Then $x = 3$", None),
        ("<think>\n#### 3", None),
        (r"<think>\boxed{3", None),
        // Inside a solution: what is marked counts before what is only last.
        (r"<|begin_of_thought|>\boxed{3}<|end_of_thought|><|begin_of_solution|>We add 1 to", Some("3")),
        (
            r"<|begin_of_thought|>\boxed{2}<|end_of_thought|><|begin_of_solution|>It is \boxed{3}. For",
            Some("3"),
        ),
        ("<|begin_of_thought|>2<|end_of_thought|><|begin_of_solution|>It is 3", Some("3")),
        (
            r"<|begin_of_thought|>\boxed{2}<|end_of_thought|><|begin_of_solution|>It is 3<|end_of_solution|>",
            Some("3"),
        ),
        // A thought that ended is none of the answer.
        (r"<think>\boxed{2}</think>It is 3", Some("3")),
        (r"<think>\boxed{2}</think>", None),
    ] {
        assert_eq!(found(completion).as_deref(), expected, "{completion}");
    }
    let tags = [AnswerKind::Tag, AnswerKind::Last];
    assert_eq!(extract_answer(r"<think>\boxed{2}", &tags), None);
}

#[test]
fn an_answer_is_worked_out_where_the_reference_is() {
    let config = MathConfig::default();
    for (reference, answer, is_right) in [
        (r"\frac{1}{2}", r"\sin 30^\circ", false),
        (r"\frac{1}{8}", r"\sin^2 18^\circ (\sin 18^\circ + 1)", false),
        (r"\frac{1}{8}", r"\sin^3 18^\circ + \sin^2 18^\circ = \frac{1}{8}", true),
        (r"\cos C = \frac{1}{2}", r"\frac{1}{2}", true),
        (r"\frac{1}{2}", r"\cos C = \frac{1}{2}", true),
        (r"\cos 36^\circ", r"\frac{1+\sqrt5}{4}", true),
        ("1", r"\frac{x+y}{x+y}", false),
        ("3", "x = 3", true),
        ("3", "f(x) = 3", true),
        ("x = 3", r"x = \frac{3y}{y}", true),
        (r"\{1, 2\}", r"\{1, 2\tan 45^\circ\}", false),
    ] {
        assert_eq!(is_equivalent(reference, answer, &config), is_right, "{reference} {answer}");
    }
    let nested = format!("{}5", "A: ".repeat(BOX_BYTES_MAX / 3 - 1));
    assert!(!is_equivalent("5", &nested, &config));
}

#[test]
fn configs_that_cannot_work_are_refused() {
    let message = |config| MathVerifier::new(config).unwrap_err().to_string();
    assert!(message(MathConfig { extract: vec![], ..MathConfig::default() }).contains("extract"));
    let twice = vec![AnswerKind::Boxed, AnswerKind::Last, AnswerKind::Boxed];
    assert!(message(MathConfig { extract: twice, ..MathConfig::default() }).contains("Boxed"));
    assert!(message(MathConfig { decimal_digits: 2, ..MathConfig::default() }).contains("decimal_digits"));
    let never = MathConfig { decimal_digits: 0, ..MathConfig::default() };
    assert!(!is_equivalent("1/3", "0.333333333333", &never));
    let any_form = MathConfig { final_form: false, ..MathConfig::default() };
    assert!(is_equivalent(r"\frac{1}{2}", r"\sin 30^\circ", &any_form));
    let config: MathConfig = serde_json::from_str(r#"{"extract": ["tag", "boxed"]}"#).unwrap();
    assert_eq!(config.extract, [AnswerKind::Tag, AnswerKind::Boxed]);
    assert_eq!(config.decimal_digits, 4);
}
