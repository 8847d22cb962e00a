//! The mathematics verifier: the final answer of a completion against the reference answer.
//!
//! # Which answer
//! One final answer counts: the first kind of `extract` that the completion has, and it decides even where its text
//! cannot be read. Nothing before the end of the last thought counts. Words may stand around the value where they are
//! known to say no more than that it is the answer: `statement` for sentences, `reduce` for boxes, `phrase` and `heading`
//! for where they stand. What is denied, hedged or changed is not the number in it.
//!
//! # What is equal
//! - Numbers exactly and at any size: `0.5`, `\frac12`, `1/2`, `2 1/2`, `1,234`, `1.2e3`, `3!`, `\sqrt{16}`.
//! - A decimal is equal to a number that no decimal is equal to (`1/3`, `\pi`) if it is that number rounded or cut
//!   off, and has at least `decimal_digits` significant digits. `0.33` is not `1/3`. Two decimals, or a decimal and
//!   a number that has an end as one (`1/8`), must be equal.
//! - Constants with roots, `\pi`, `e` and functions in 31 digits; functions of variables as functions: rational ones
//!   in a prime field, others at several points, wherever both sides are real. Principal branches otherwise; odd roots of
//!   negative numbers are negative.
//! - A unit, percent sign, degree sign or base on one side only is dropped. On both sides units are converted:
//!   `5 m` is `500 cm` and not `5 km`. `50\%` is also `0.5`; a bare number up to one is no percentage without its sign.
//! - Tuples in order. Sets, unions, lists with commas, `and` or `or` in any order, unless names order them.
//!   Intervals with their ends. A list of two is never one value.
//! - `x = 3` is `3`; `x \ge 3` is `[3, \infty)`; equations up to a factor, inequalities with it.
//! - Choices by their letter, `(A)` or `A.`, with nothing but that choice's text behind it; words in any case.
//! - Dates and other digits in three groups or with leading zeros only as they are written.
//!
//! With `final_form` an answer is worked out: where the reference has no variables or functions of angles, it has
//! none. So `\sin 30^\circ`, which may be the question, is not the `1/2` that was to be found.
//!
//! What cannot be read is compared as text. Left out: whether an answer has the asked form otherwise, so that
//! `x^2-1` is also its own factorization; integrals, sums with signs, and systems of equations that are solved differently.
//!
//! Every answer is data: nothing is run, and text, depth, numbers and work are bounded.

mod wide;
mod complex;
mod evaluate;
mod scalar;
mod chain;
mod clock;
mod measured;
mod names;
mod region;
mod normal;
mod choice;
mod statement;
mod reduce;
mod phrase;
mod heading;
mod compare;
mod number;
mod extract;
#[cfg(test)]
mod near_miss;
#[cfg(test)]
mod spoken;
#[cfg(test)]
mod notation;

use std::borrow::Cow;

use crate::boxed::BOX_BYTES_MAX;
use crate::latex;
use crate::{Answer, RewardError, Verdict, Verifier};

pub use extract::{AnswerKind, extract_answer};

use extract::{ORDER, reference_answer};

/// The keys of `kind = "math"`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MathConfig {
    /// Where the final answer is looked for, in this order; the first kind that is there decides.
    pub extract: Vec<AnswerKind>,
    /// A decimal with this many significant digits may stand for a number that has no end as a decimal; 0 for never.
    pub decimal_digits: usize,
    /// Whether an answer must be worked out: where the reference has no variables or functions of angles, an answer
    /// that has some is not right, even if it is equal.
    pub final_form: bool,
}

impl Default for MathConfig {
    fn default() -> Self {
        MathConfig { extract: ORDER.to_vec(), decimal_digits: 4, final_form: true }
    }
}

/// Compares with the data's reference answer.
#[derive(Clone, Debug, Default)]
pub struct MathVerifier {
    config: MathConfig,
}

impl MathVerifier {
    /// A verifier by this config.
    ///
    /// # Errors
    /// Names the key that cannot be meant.
    pub fn new(config: MathConfig) -> Result<Self, RewardError> {
        if config.extract.is_empty() {
            return Err(RewardError::config("extract", "without any kind no answer is ever found"));
        }
        if let Some((at, kind)) =
            config.extract.iter().enumerate().find(|(at, kind)| config.extract[..*at].contains(kind))
        {
            return Err(RewardError::config(
                "extract",
                format!("{kind:?} at place {at} stands there before"),
            ));
        }
        if config.decimal_digits == 1 || config.decimal_digits == 2 {
            let reason = "two digits are equal to every thirtieth guess; 0 is never, 3 and more are digits";
            return Err(RewardError::config("decimal_digits", reason));
        }
        Ok(MathVerifier { config })
    }
}

impl Verifier for MathVerifier {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        let references = references(answer)?;
        let found = extract_answer(answer.completion, &self.config.extract);
        let is_right =
            |found: &str| references.iter().any(|reference| is_equivalent(reference, found, &self.config));
        Ok(Verdict::from(found.is_some_and(|found| is_right(&found))))
    }

    fn check(&self, question: &Answer<'_>) -> Result<(), RewardError> {
        references(question).map(drop)
    }
}

/// The answers that the references end with, any of which is right.
fn references<'a>(answer: &Answer<'a>) -> Result<Vec<Cow<'a, str>>, RewardError> {
    let found = answer.references.iter().map(|text| reference_answer(text));
    let found: Vec<_> = found.filter(|text| !text.trim().is_empty()).collect();
    if found.is_empty() { Err(RewardError::MissingReference) } else { Ok(found) }
}

/// Whether an answer equals the reference by the rules at the head of this module. Both are bare answers.
pub fn is_equivalent(reference: &str, answer: &str, config: &MathConfig) -> bool {
    if reference.len() > BOX_BYTES_MAX || answer.len() > BOX_BYTES_MAX {
        return false;
    }
    compare::is_same_answer(reference, answer, config)
}

/// Whether a text is mathematics that this verifier can read.
pub fn is_readable(text: &str) -> bool {
    text.len() <= BOX_BYTES_MAX && latex::parse(text, true).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::stopwatch::seconds;

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
            &[
                "1,234,567",
                "1{,}234{,}567",
                r"1\,234\,567",
                "1234567.0",
                r"1.234567 \times 10^6",
                "1.234567e6",
            ],
        ),
        (
            r"\frac{5}{2}",
            &[
                "2.5",
                "5/2",
                r"2\frac{1}{2}",
                "2 1/2",
                r"\dfrac52",
                r"2.50",
                r"\frac{10}{4}",
                r"-\frac{-5}{2}",
            ],
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
        (
            r"[3, \infty)",
            &[r"x \ge 3", r"3 \le x", r"\left[3, +\infty\right)", r"x \in [3, \infty)", "x >= 3"],
        ),
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
                assert!(
                    is_right(&format!("\\boxed{{{answer}}}"), reference),
                    "{answer} should be {reference}"
                );
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
            assert_eq!(
                extract_answer(completion, &config.extract).as_deref(),
                Some(expected),
                "{completion}"
            );
        }
        let nothing = ["", "no number", "<think>\\boxed{1}", "</think>", "<think>1</think><think>2"];
        let broken = ["Answer $ \n 9 \n $", "Answer \\( \n 9 \n \\)", "It is 8, so $\n9\n$."];
        for completion in nothing.iter().chain(&broken) {
            assert_eq!(extract_answer(completion, &config.extract), None, "{completion}");
        }
        let tags_first = [AnswerKind::Tag, AnswerKind::Boxed];
        assert_eq!(extract_answer(r"<answer>1</answer> \boxed{2}", &tags_first).as_deref(), Some("1"));
        assert_eq!(extract_answer("it is 2", &tags_first), None);
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
    fn configs_that_cannot_be_meant_are_refused() {
        let message = |config| MathVerifier::new(config).unwrap_err().to_string();
        assert!(message(MathConfig { extract: vec![], ..MathConfig::default() }).contains("extract"));
        let twice = vec![AnswerKind::Boxed, AnswerKind::Last, AnswerKind::Boxed];
        assert!(message(MathConfig { extract: twice, ..MathConfig::default() }).contains("Boxed"));
        assert!(
            message(MathConfig { decimal_digits: 2, ..MathConfig::default() }).contains("decimal_digits")
        );
        let never = MathConfig { decimal_digits: 0, ..MathConfig::default() };
        assert!(!is_equivalent("1/3", "0.333333333333", &never));
        let any_form = MathConfig { final_form: false, ..MathConfig::default() };
        assert!(is_equivalent(r"\frac{1}{2}", r"\sin 30^\circ", &any_form));
        let config: MathConfig = serde_json::from_str(r#"{"extract": ["tag", "boxed"]}"#).unwrap();
        assert_eq!(config.extract, [AnswerKind::Tag, AnswerKind::Boxed]);
        assert_eq!(config.decimal_digits, 4);
    }

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
    fn ten_megabytes_of_hostile_text_take_under_a_second() {
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
                pair.prop_map(|((a, b), (c, d))| (format!(r"({a}) \cdot ({c})"), format!("({d})({b})")))
                    .boxed(),
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
}
