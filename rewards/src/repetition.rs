//! A penalty for saying the same again: the share of n-grams that stood before (arXiv 2502.03373, appendix C.2).

use std::collections::{HashMap, HashSet};

use crate::words::pieces;
use crate::{Answer, RewardError, Verdict, Verifier};

/// The longest n-gram. The paper uses 40 at most; each word is looked at n times, so the limit keeps the work linear.
const N_MAX: usize = 64;

/// The keys of `kind = "repetition"`.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepetitionConfig {
    /// Words in an n-gram, from 1 to 64.
    pub n: usize,
    /// The penalty that a text of nothing but repetition comes near to; at least 0, and subtracted.
    pub max_penalty: f64,
}

/// `-max_penalty * (1 - unique / total)` over the n-grams of lower-case words; 0 for a text of fewer than n words.
///
/// Words are separated by white space, and characters of Chinese and Japanese writing stand alone. Parts: `repeated`
/// is `1 - unique / total`.
#[derive(Clone, Debug)]
pub struct RepetitionVerifier {
    config: RepetitionConfig,
}

impl RepetitionVerifier {
    /// A verifier by this config.
    ///
    /// # Errors
    /// Names the key that is out of its range.
    pub fn new(config: RepetitionConfig) -> Result<Self, RewardError> {
        if !(1..=N_MAX).contains(&config.n) {
            return Err(RewardError::config("n", format!("must be from 1 to {N_MAX}, not {}", config.n)));
        }
        if !(config.max_penalty.is_finite() && config.max_penalty >= 0.0) {
            let reason = format!("must be finite and at least 0, not {}", config.max_penalty);
            return Err(RewardError::config("max_penalty", reason));
        }
        Ok(RepetitionVerifier { config })
    }
}

impl Verifier for RepetitionVerifier {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        let repeated = repeated(answer.completion, self.config.n);
        // A value of -0.0 would be shown in the metrics.
        let value = if repeated > 0.0 { -self.config.max_penalty * repeated } else { 0.0 };
        Ok(Verdict { value, parts: [("repeated".to_string(), repeated)].into(), ..Verdict::default() })
    }
}

/// The share of n-grams that repeat an earlier one.
fn repeated(text: &str, n: usize) -> f64 {
    let lower = text.to_lowercase();
    let mut numbers = HashMap::new();
    // Words become numbers, so that an n-gram is compared in n steps however long its words are.
    let words: Vec<usize> = pieces(&lower)
        .map(|word| {
            let next = numbers.len();
            *numbers.entry(word).or_insert(next)
        })
        .collect();
    let total = words.windows(n).count();
    if total == 0 {
        return 0.0;
    }
    let unique = words.windows(n).collect::<HashSet<_>>().len();
    1.0 - unique as f64 / total as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;
    use crate::fields::ask;
    use crate::stopwatch::seconds;

    fn verdict(n: usize, max_penalty: f64, completion: &str) -> Verdict {
        ask(&RepetitionVerifier::new(RepetitionConfig { n, max_penalty }).unwrap(), completion, "{}").unwrap()
    }

    #[test]
    fn the_share_of_repeated_n_grams_is_paid_back() {
        let points: [(&str, f64); 8] = [
            ("", 0.0),
            ("a b", 0.0),
            ("a b c", 0.0),
            ("a b c d e", 0.0),
            // aaa aaa aaa aaa: one of four is new.
            ("a a a a a a", -0.75),
            // abc bca cab abc: three of four are new.
            ("a b c A B C", -0.25),
            ("你好吗你好吗", -0.25),
            // The signs of a sum are words here: 1+1 +1+ 1+1 +1+ are two, twice.
            ("1 + 1 + 1 +", -0.5),
        ];
        for (text, value) in points {
            let verdict = verdict(3, 1.0, text);
            assert_eq!((verdict.value, verdict.parts["repeated"]), (value, value.abs()), "{text}");
        }
        assert_eq!(verdict(3, 0.05, "a a a a a a").value, -0.05 * 0.75);
        assert_eq!(verdict(1, 1.0, "a b a b").value, -0.5);
        assert!(verdict(3, 1.0, "a").value.is_sign_positive());
    }

    #[test]
    fn bad_numbers_name_their_key() {
        let message = |n, max_penalty| {
            RepetitionVerifier::new(RepetitionConfig { n, max_penalty }).unwrap_err().to_string()
        };
        assert_eq!(message(0, 1.0), "n: must be from 1 to 64, not 0");
        assert!(message(65, 1.0).starts_with("n: "));
        for bad in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(message(3, bad).starts_with("max_penalty: "), "{bad}");
        }
    }

    #[test]
    fn megabytes_are_judged_in_linear_time() {
        for piece in ["a ", "Σ' ", "a", "你"] {
            let text = piece.repeat(1_000_000 / piece.len());
            let taken = seconds(|| {
                repeated(&text, 3);
            });
            assert!(taken < 1.0, "{piece}: {taken} s");
        }
    }

    proptest! {
        /// The plain version joins the words of every n-gram.
        #[test]
        fn agrees_with_comparing_texts(text in "[abA ]{0,40}", n in 1usize..5) {
            let lower = text.to_lowercase();
            let words: Vec<&str> = lower.split_whitespace().collect();
            let grams: Vec<String> = words.windows(n).map(|gram| gram.join(" ")).collect();
            let unique = grams.iter().collect::<BTreeSet<_>>().len();
            let expected = if grams.is_empty() { 0.0 } else { 1.0 - unique as f64 / grams.len() as f64 };
            prop_assert_eq!(repeated(&text, n), expected);
        }

        #[test]
        fn any_text_is_punished_between_0_and_the_most(text in any::<String>(), n in 1usize..65) {
            prop_assert!((-0.5..=0.0).contains(&verdict(n, 0.5, &text).value));
        }
    }
}
