//! The length surrogate (arXiv 2505.19439): a reward without labels that rises to the middle of the allowed length
//! and falls behind it, alone or combined with the format as in equation 5 of the paper.

use crate::format::{FormatStyle, FormatVerifier};
use crate::{Answer, RewardError, Verdict, Verifier};

/// The curve over x = tokens / `length_max`, with its top of 1 at x = p and its end of -1 at x = 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LengthShape {
    /// `1 - (1 - x/p)^2`, then `1 - 2 ((x - p) / (1 - p))^2`.
    #[default]
    Parabola,
    /// `x/p`, then `1 - 2 (x - p) / (1 - p)`: at p = 0.5 the paper's `2x` and `3 - 4x`.
    Polyline,
}

/// The curve's numbers, and the format that it may be combined with.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LengthConfig {
    /// Tokens at which the reward has fallen to -1; longer completions stay there.
    pub length_max: usize,
    /// Where the top is, as a fraction of `length_max`; above 0 and below 1.
    #[serde(default = "half")]
    pub p: f64,
    /// The curve.
    #[serde(default)]
    pub shape: LengthShape,
    /// The paper's w_f (1 in the paper, 0.5 in its authors' code). If given, the value is `w_f + R_l` in the right
    /// format and `min(0, R_l)` in another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format_weight: Option<f64>,
    /// What counts as the right format, where `format_weight` asks for one.
    #[serde(default)]
    pub format_style: FormatStyle,
    /// Whether the chat template ends with `<think>`, for the formats that begin with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub think_opened: bool,
}

fn half() -> f64 {
    0.5
}

impl LengthConfig {
    /// R_l of a completion, from -1 to 1.
    pub fn value(&self, tokens: usize) -> f64 {
        // We choose to stop at x = 1: the paper's completions cannot be longer than its length_max.
        let x = (tokens as f64 / self.length_max as f64).min(1.0);
        let (rise, fall) = (x / self.p, (x - self.p) / (1.0 - self.p));
        match (self.shape, x <= self.p) {
            (LengthShape::Parabola, true) => 1.0 - (1.0 - rise).powi(2),
            (LengthShape::Parabola, false) => 1.0 - 2.0 * fall.powi(2),
            (LengthShape::Polyline, true) => rise,
            (LengthShape::Polyline, false) => 1.0 - 2.0 * fall,
        }
    }
}

/// Gives R_l, or with a format `w_f + R_l` where the format is right and `min(0, R_l)` where it is not.
///
/// Parts: `length` is R_l and `format` is 0 or 1 (only with a format).
#[derive(Clone, Debug)]
pub struct LengthVerifier {
    config: LengthConfig,
    format: Option<(f64, FormatVerifier)>,
}

impl LengthVerifier {
    /// R_l, alone or combined with a format.
    ///
    /// # Errors
    /// Names the key that is out of its range.
    pub fn new(config: LengthConfig, format: Option<FormatVerifier>) -> Result<Self, RewardError> {
        if config.length_max == 0 {
            return Err(RewardError::config("length_max", "must be 1 or more"));
        }
        if !(config.p > 0.0 && config.p < 1.0) {
            return Err(RewardError::config("p", format!("must be above 0 and below 1, not {}", config.p)));
        }
        if let Some(weight) = config.format_weight.filter(|weight| !weight.is_finite()) {
            return Err(RewardError::config("format_weight", format!("must be finite, not {weight}")));
        }
        let format = config.format_weight.zip(format);
        Ok(LengthVerifier { config, format })
    }
}

impl Verifier for LengthVerifier {
    fn verify(&self, answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        let length = self.config.value(answer.tokens);
        let Some((weight, format)) = &self.format else { return Ok(Verdict::from(length)) };
        let right = format.is_right(answer.completion);
        let value = if right { weight + length } else { length.min(0.0) };
        let parts = [("length", length), ("format", f64::from(u8::from(right)))];
        Ok(Verdict {
            value,
            parts: parts.map(|(name, part)| (name.to_string(), part)).into(),
            ..Verdict::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};

    use super::*;

    fn verdict(verifier: &LengthVerifier, completion: &str, tokens: usize) -> Verdict {
        let fields = serde_json::Map::new();
        let answer =
            Answer { prompt: "", completion, references: &[], fields: &fields, tokens, truncated: false };
        verifier.verify(&answer).unwrap()
    }

    fn config(shape: LengthShape) -> LengthConfig {
        LengthConfig {
            length_max: 1000,
            p: 0.5,
            shape,
            format_weight: None,
            format_style: FormatStyle::Boxed,
            think_opened: false,
        }
    }

    fn weighted(format_weight: f64) -> LengthConfig {
        LengthConfig { format_weight: Some(format_weight), ..config(LengthShape::Parabola) }
    }

    /// The values that section 4 of the algorithms states for p = 0.5.
    #[test]
    fn the_parabola_has_the_values_of_the_paper() {
        let expected = [
            (0, 0.0),
            (100, 0.36),
            (250, 0.75),
            (500, 1.0),
            (600, 0.92),
            (750, 0.5),
            (900, -0.28),
            (1000, -1.0),
        ];
        let verifier = LengthVerifier::new(config(LengthShape::Parabola), None).unwrap();
        for (tokens, value) in expected {
            assert!((verdict(&verifier, "", tokens).value - value).abs() < 1e-9, "{tokens}");
        }
        assert_eq!(verdict(&verifier, "", usize::MAX).value, -1.0);
    }

    #[test]
    fn the_polyline_is_2x_then_3_minus_4x() {
        let verifier = LengthVerifier::new(config(LengthShape::Polyline), None).unwrap();
        for (tokens, value) in [(0, 0.0), (250, 0.5), (500, 1.0), (600, 0.6), (750, 0.0), (1000, -1.0)] {
            assert!((verdict(&verifier, "", tokens).value - value).abs() < 1e-9, "{tokens}");
        }
    }

    #[test]
    fn equation_5_adds_the_weight_only_where_the_format_is_right() {
        let verifier = LengthVerifier::new(weighted(0.5), Some(FormatVerifier::boxed())).unwrap();
        let values = [
            (r"\boxed{1}", 250, 1.25),
            (r"\boxed{1}", 1000, -0.5),
            (r"\boxed{}", 250, 0.0),
            ("1", 900, -0.28),
        ];
        for (completion, tokens, value) in values {
            assert!((verdict(&verifier, completion, tokens).value - value).abs() < 1e-9, "{completion}");
        }
        let parts = verdict(&verifier, r"\boxed{1}", 250).parts;
        assert_eq!(parts, [("length".to_string(), 0.75), ("format".to_string(), 1.0)].into());
    }

    #[test]
    fn bad_numbers_name_their_key() {
        let message = |length_max, p| {
            let config = LengthConfig { length_max, p, ..config(LengthShape::Parabola) };
            LengthVerifier::new(config, None).unwrap_err().to_string()
        };
        assert!(message(0, 0.5).starts_with("length_max: "));
        for p in [0.0, 1.0, -1.0, f64::NAN] {
            assert!(message(10, p).starts_with("p: "), "{p}");
        }
        let verifier = LengthVerifier::new(weighted(f64::INFINITY), Some(FormatVerifier::boxed()));
        assert!(verifier.unwrap_err().to_string().starts_with("format_weight: "));
    }

    proptest! {
        #[test]
        fn both_curves_stay_between_minus_1_and_1_and_top_at_p(
            p in 0.01f64..0.99,
            tokens in 0usize..5000,
            length_max in 1usize..3000,
        ) {
            for shape in [LengthShape::Parabola, LengthShape::Polyline] {
                let value = LengthConfig { length_max, p, ..config(shape) }.value(tokens);
                prop_assert!((-1.0 - 1e-9..=1.0).contains(&value), "{value}");
                let long = LengthConfig { length_max: 1_000_000, p, ..config(shape) };
                prop_assert!((long.value((p * 1e6) as usize) - 1.0).abs() < 1e-3);
            }
        }
    }
}
