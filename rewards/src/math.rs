//! The mathematics verifier: the final answer of a completion against the reference answer.
//!
//! # Which answer
//! One final answer counts: the first kind of `extract` that the completion has. Nothing before `</think>` counts.
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
//! - Choices by their letter, `(A)` or `A.`; words in any case.
//!
//! What cannot be read is compared as text. Left out: whether an answer has the asked form, so that `x^2-1` is
//! also its own factorization; integrals, sums with signs, and systems of equations that are solved differently.
//!
//! Every answer is data: nothing is run, and text, depth, numbers and work are bounded.

mod ratio;
mod wide;
mod complex;
mod unit;
mod expression;
mod lexer;
mod parse;
mod evaluate;
mod scalar;
mod chain;
mod normal;
mod compare;
mod number;
mod extract;

use crate::boxed::BOX_BYTES_MAX;
use crate::{Answer, RewardError, Verdict, Verifier};

pub use extract::{AnswerKind, extract_answer};

use evaluate::Budget;
use extract::{ORDER, reference_answer};
use scalar::Rules;

/// The keys of `kind = "math"`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MathConfig {
    /// Where the final answer is looked for, in this order; the first kind that is there decides.
    pub extract: Vec<AnswerKind>,
    /// A decimal with this many significant digits may stand for a number that has no end as a decimal; 0 for never.
    pub decimal_digits: usize,
}

impl Default for MathConfig {
    fn default() -> Self {
        MathConfig { extract: ORDER.to_vec(), decimal_digits: 4 }
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
            return Err(RewardError::config("extract", format!("{kind:?} at place {at} stands there before")));
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
        let reference = answer.reference.map(reference_answer).filter(|text| !text.trim().is_empty());
        let reference = reference.ok_or(RewardError::MissingReference)?;
        let found = extract_answer(answer.completion, &self.config.extract);
        Ok(Verdict::from(found.is_some_and(|found| is_equivalent(&reference, &found, &self.config))))
    }
}

/// Whether an answer equals the reference by the rules at the head of this module. Both are bare answers.
pub fn is_equivalent(reference: &str, answer: &str, config: &MathConfig) -> bool {
    if reference.len() > BOX_BYTES_MAX || answer.len() > BOX_BYTES_MAX {
        return false;
    }
    let rules = Rules { decimal_digits: config.decimal_digits, budget: Budget::new() };
    compare::is_same_answer(reference, answer, &rules)
}

/// Whether a text is mathematics that this verifier can read.
pub fn is_readable(text: &str) -> bool {
    text.len() <= BOX_BYTES_MAX && parse::parse(text, true).is_ok()
}
