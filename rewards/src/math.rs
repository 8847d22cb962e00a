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
mod rows;
mod choice;
mod statement;
mod reduce;
mod sentence;
mod denial;
mod phrase;
mod heading;
mod compare;
mod number;
mod formula;
mod extract;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod near_miss;
#[cfg(test)]
mod spoken;
#[cfg(test)]
mod notation;

use std::borrow::Cow;

use crate::boxed::BOX_BYTES_MAX;
use crate::latex;
use crate::thoughts::reference_behind_thoughts;
use crate::{Answer, RewardError, Verdict, Verifier};

pub use extract::{AnswerKind, extract_answer};

use extract::{ORDER, reference_answer};

/// The keys of `kind = "math"`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MathConfig {
    /// Where the final answer is looked for, in this order; the first kind that is there decides.
    /// Default: `["boxed", "tag", "hashes", "phrase", "last"]`.
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
    /// Names the key that cannot work.
    pub fn new(config: MathConfig) -> Result<Self, RewardError> {
        if config.extract.is_empty() {
            return Err(RewardError::config(
                "extract",
                "must name at least one kind: boxed, tag, hashes, phrase, last",
            ));
        }
        if let Some((at, kind)) =
            config.extract.iter().enumerate().find(|(at, kind)| config.extract[..*at].contains(kind))
        {
            return Err(RewardError::config(
                "extract",
                format!("names {kind:?} twice, the second time at place {at} (from 0): leave one out"),
            ));
        }
        if config.decimal_digits == 1 || config.decimal_digits == 2 {
            let reason = "must be 0, so that no decimal is equal, or at least 3: two digits agree with every thirtieth guess";
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

    fn final_answer(&self, answer: &Answer<'_>) -> Option<String> {
        extract_answer(answer.completion, &self.config.extract).map(Cow::into_owned)
    }

    fn is_same_answer(&self, one: &str, other: &str) -> bool {
        // Neither of the two is a reference that says how far an answer must be worked out.
        let as_values = MathConfig { final_form: false, ..self.config.clone() };
        one == other || is_equivalent(one, other, &as_values)
    }
}

/// The answers that the references end with, any of which is right. Thoughts before them are no answer.
fn references<'a>(answer: &Answer<'a>) -> Result<Vec<Cow<'a, str>>, RewardError> {
    let mut found = Vec::new();
    for reference in answer.references {
        let said = reference_behind_thoughts(reference).ok_or(RewardError::ReferenceOfThoughts)?;
        found.extend(Some(reference_answer(said)).filter(|text| !text.trim().is_empty()));
    }
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
