//! The soft overlong punishment of DAPO (arXiv 2503.14476, equation 13): nothing up to a length, then linearly down
//! to -1.

use crate::{Answer, RewardError, Verdict, Verifier};

/// The keys of `kind = "overlong"`. Lengths are in tokens.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverlongConfig {
    /// L_max: tokens at which the punishment has reached -1; longer completions stay there.
    pub length_max: usize,
    /// L_cache: over so many tokens before `length_max` it falls from 0 to -1.
    pub buffer: usize,
}

/// 0 up to `length_max - buffer` tokens, -1 from `length_max` on, linear between.
///
/// Parts: `punished` is 0 or 1.
#[derive(Clone, Debug)]
pub struct OverlongVerifier {
    config: OverlongConfig,
}

impl OverlongVerifier {
    /// A verifier by this config.
    ///
    /// # Errors
    /// Names the key that is out of its range.
    pub fn new(config: OverlongConfig) -> Result<Self, RewardError> {
        if config.length_max == 0 {
            return Err(RewardError::config("length_max", "must be 1 or more"));
        }
        if config.buffer == 0 || config.buffer > config.length_max {
            let reason =
                format!("must be from 1 to length_max = {}, not {}", config.length_max, config.buffer);
            return Err(RewardError::config("buffer", reason));
        }
        Ok(OverlongVerifier { config })
    }
}

impl Verifier for OverlongVerifier {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        let OverlongConfig { length_max, buffer } = self.config;
        let over = answer.tokens.min(length_max).saturating_sub(length_max - buffer);
        // A value of -0.0 would be shown in the metrics.
        let value = if over == 0 { 0.0 } else { -(over as f64 / buffer as f64) };
        let parts = [("punished".to_string(), f64::from(u8::from(over > 0)))].into();
        Ok(Verdict { value, parts, ..Verdict::default() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;

    fn verdict(length_max: usize, buffer: usize, tokens: usize) -> Verdict {
        let fields = serde_json::Map::new();
        let (prompt, completion, references, truncated) = ("", "", &[], false);
        let answer = Answer { prompt, completion, references, fields: &fields, tokens, truncated };
        OverlongVerifier::new(OverlongConfig { length_max, buffer }).unwrap().verify(&answer).unwrap()
    }

    /// The paper's own numbers: 16 384 tokens are free and 4 096 more are the buffer.
    #[test]
    fn punishes_over_the_buffer() {
        let points = [
            (0, 0.0),
            (16_384, 0.0),
            (17_408, -0.25),
            (18_432, -0.5),
            (20_480, -1.0),
            (20_481, -1.0),
            (usize::MAX, -1.0),
        ];
        for (tokens, value) in points {
            let verdict = verdict(20_480, 4_096, tokens);
            assert_eq!(verdict.value, value, "{tokens}");
            assert_eq!(verdict.parts["punished"], f64::from(u8::from(value < 0.0)));
        }
        assert!(verdict(10, 10, 0).value.is_sign_positive());
        assert_eq!(verdict(10, 10, 5).value, -0.5);
    }

    #[test]
    fn bad_numbers_name_their_key() {
        let message = |length_max, buffer| {
            OverlongVerifier::new(OverlongConfig { length_max, buffer }).unwrap_err().to_string()
        };
        assert!(message(0, 1).starts_with("length_max: "));
        assert_eq!(message(10, 11), "buffer: must be from 1 to length_max = 10, not 11");
        assert!(message(10, 0).starts_with("buffer: "));
    }

    proptest! {
        #[test]
        fn falls_from_0_to_minus_1_and_never_rises(
            length_max in 1usize..10_000,
            share in 0.0f64..1.0,
            tokens in any::<usize>(),
            near in 0usize..20_000,
        ) {
            let buffer = ((length_max as f64 * share) as usize).max(1);
            for tokens in [tokens, near] {
                let value = verdict(length_max, buffer, tokens).value;
                prop_assert!((-1.0..=0.0).contains(&value));
                prop_assert!(verdict(length_max, buffer, tokens.saturating_add(1)).value <= value);
            }
        }
    }
}
