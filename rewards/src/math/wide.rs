//! Real numbers of about 31 digits: the unevaluated sum of two floats (Dekker 1971; Hida, Li, Bailey 2001).
//!
//! Only `+ - * /` and `sqrt` of floats are used for the digits that count, which IEEE 754 rounds the same way on
//! every machine. The platform's logarithm and arc tangent only begin Newton's iteration.

use std::f64::consts::{FRAC_PI_2, LN_2};

/// The sum of `high` and `low`, where `low` is below half a unit of `high`'s last place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Wide {
    pub(super) high: f64,
    low: f64,
}

/// The circle's constant.
pub(super) const PI: Wide = Wide { high: std::f64::consts::PI, low: 1.224_646_799_147_353_2e-16 };

/// Half of it, for reducing angles.
const HALF_PI: Wide = Wide { high: FRAC_PI_2, low: 6.123_233_995_736_766e-17 };

/// The natural logarithm of two, for reducing exponents.
const LOG_TWO: Wide = Wide { high: LN_2, low: 2.319_046_813_846_299_6e-17 };

/// Angles beyond this lose too many digits in their reduction.
const ANGLE_MAX: f64 = 1e6;

/// The rounded sum and its exact error (Knuth).
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let shadow = sum - a;
    (sum, (a - (sum - shadow)) + (b - shadow))
}

/// The halves of a float's digits (Veltkamp).
fn split(a: f64) -> (f64, f64) {
    let scaled = 134_217_729.0 * a;
    let high = scaled - (scaled - a);
    (high, a - high)
}

/// The rounded product and its exact error (Dekker); a fused instruction would differ between machines.
fn two_product(a: f64, b: f64) -> (f64, f64) {
    let product = a * b;
    let ((a_high, a_low), (b_high, b_low)) = (split(a), split(b));
    let error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low;
    (product, error)
}

impl Wide {
    pub(super) const ZERO: Wide = Wide { high: 0.0, low: 0.0 };
    pub(super) const ONE: Wide = Wide { high: 1.0, low: 0.0 };

    /// The sum of two floats of any size.
    pub(super) fn of_sum(a: f64, b: f64) -> Wide {
        let (high, low) = two_sum(a, b);
        Wide { high, low }
    }

    pub(super) fn plus(self, other: Wide) -> Wide {
        let (high, low) = two_sum(self.high, other.high);
        let (tail, tail_low) = two_sum(self.low, other.low);
        let (high, low) = two_sum(high, low + tail);
        Wide::of_sum(high, low + tail_low)
    }

    pub(super) fn minus(self, other: Wide) -> Wide {
        self.plus(other.negative())
    }

    pub(super) fn negative(self) -> Wide {
        Wide { high: -self.high, low: -self.low }
    }

    pub(super) fn absolute(self) -> Wide {
        if self.high < 0.0 { self.negative() } else { self }
    }

    pub(super) fn times(self, other: Wide) -> Wide {
        let (high, low) = two_product(self.high, other.high);
        Wide::of_sum(high, low + (self.high * other.low + self.low * other.high))
    }

    pub(super) fn over(self, other: Wide) -> Wide {
        let first = self.high / other.high;
        let rest = self.minus(other.times(Wide::from(first)));
        let second = rest.high / other.high;
        let rest = rest.minus(other.times(Wide::from(second)));
        Wide::of_sum(first, second).plus(Wide::from(rest.high / other.high))
    }

    /// The root of a number that is not negative.
    pub(super) fn root(self) -> Wide {
        if self.high <= 0.0 {
            return Wide::ZERO;
        }
        let guess = Wide::from(self.high.sqrt());
        let rest = self.minus(guess.times(guess));
        guess.plus(Wide::from(rest.high / (2.0 * guess.high)))
    }

    /// The exponential; infinite or zero beyond the range of floats.
    pub(super) fn exponential(self) -> Wide {
        if self.high > 709.0 {
            return Wide::from(f64::INFINITY);
        }
        if self.high < -700.0 {
            return Wide::ZERO;
        }
        // e^x = 2^k (e^r)^256 with |r| below 0.0014, where twelve terms are enough.
        let twos = (self.high / LN_2).round();
        let small = self.minus(LOG_TWO.times(Wide::from(twos))).times(Wide::from(1.0 / 256.0));
        let (mut sum, mut term) = (Wide::ZERO, Wide::ONE);
        for step in 1..=12 {
            term = term.times(small).over(Wide::from(f64::from(step)));
            sum = sum.plus(term);
        }
        // Squaring e^r - 1 instead of e^r keeps its small digits.
        for _ in 0..8 {
            sum = sum.plus(sum).plus(sum.times(sum));
        }
        let value = sum.plus(Wide::ONE);
        let scale = 2f64.powi(twos as i32);
        Wide { high: value.high * scale, low: value.low * scale }
    }

    /// The natural logarithm of a positive number.
    pub(super) fn logarithm(self) -> Wide {
        let mut value = Wide::from(self.high.ln());
        for _ in 0..2 {
            value = value.plus(self.times(value.negative().exponential())).minus(Wide::ONE);
        }
        value
    }

    /// Sine and cosine, or `None` for angles too far from zero.
    pub(super) fn sine_and_cosine(self) -> Option<(Wide, Wide)> {
        if self.high.is_nan() || self.high.abs() > ANGLE_MAX {
            return None;
        }
        let quarters = (self.high / FRAC_PI_2).round();
        let small = self.minus(HALF_PI.times(Wide::from(quarters)));
        let square = small.times(small).negative();
        let series = |first: Wide, offset: i32| {
            let (mut sum, mut term) = (first, first);
            for step in 1..=14 {
                let next = 2 * step + offset;
                term = term.times(square).over(Wide::from(f64::from(next * (next - 1))));
                sum = sum.plus(term);
            }
            sum
        };
        let (sine, cosine) = (series(small, 1), series(Wide::ONE, 0));
        Some(match (quarters as i64).rem_euclid(4) {
            0 => (sine, cosine),
            1 => (cosine, sine.negative()),
            2 => (sine.negative(), cosine.negative()),
            _ => (cosine.negative(), sine),
        })
    }

    /// The angle of the point (`across`, `up`) that is not the origin.
    pub(super) fn angle(up: Wide, across: Wide) -> Wide {
        let length = up.times(up).plus(across.times(across)).root();
        let (sine, cosine) = (up.over(length), across.over(length));
        let mut angle = Wide::from(up.high.atan2(across.high));
        for _ in 0..2 {
            if let Some((guessed_sine, guessed_cosine)) = angle.sine_and_cosine() {
                angle = angle.plus(sine.times(guessed_cosine).minus(cosine.times(guessed_sine)));
            }
        }
        angle
    }
}

impl From<f64> for Wide {
    fn from(value: f64) -> Wide {
        Wide { high: value, low: 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert, proptest};

    use super::*;

    /// A decimal text as a sum of floats, digit by digit.
    fn wide(text: &str) -> Wide {
        let (whole, part) = text.split_once('.').unwrap();
        let ten = Wide::from(10.0);
        let digits = |text: &str| {
            text.bytes()
                .fold(Wide::ZERO, |value, byte| value.times(ten).plus(Wide::from(f64::from(byte - b'0'))))
        };
        let scale = (0..part.len()).fold(Wide::ONE, |scale, _| scale.times(ten));
        digits(whole).plus(digits(part).over(scale))
    }

    fn is_near(left: Wide, right: Wide) -> bool {
        left.minus(right).high.abs() <= 1e-29 * (1.0 + right.high.abs())
    }

    #[test]
    fn known_digits() {
        let two = Wide::from(2.0);
        let cases = [
            (PI, "3.14159265358979323846264338327950288"),
            (two.root(), "1.41421356237309504880168872420969808"),
            (Wide::ONE.exponential(), "2.71828182845904523536028747135266250"),
            (two.logarithm(), "0.69314718055994530941723212145817657"),
            (Wide::ONE.sine_and_cosine().unwrap().0, "0.84147098480789650665250232163029900"),
            (Wide::ONE.sine_and_cosine().unwrap().1, "0.54030230586813971740093660744297660"),
            (Wide::angle(Wide::ONE, two), "0.46364760900080611621425623146121440"),
            (Wide::ONE.over(Wide::from(7.0)), "0.14285714285714285714285714285714286"),
        ];
        for (found, digits) in cases {
            assert!(is_near(found, wide(digits)), "{found:?} {digits}");
        }
    }

    proptest! {
        #[test]
        fn laws_of_the_functions(a in -50.0f64..50.0, b in 0.001f64..50.0) {
            let (x, y) = (Wide::from(a).over(Wide::from(3.0)), Wide::from(b).over(Wide::from(7.0)));
            let (sine, cosine) = x.sine_and_cosine().unwrap();
            prop_assert!(is_near(sine.times(sine).plus(cosine.times(cosine)), Wide::ONE));
            prop_assert!(is_near(y.logarithm().exponential(), y));
            prop_assert!(is_near(y.root().times(y.root()), y));
            prop_assert!(is_near(x.over(y).times(y), x));
            let (sine, cosine) = Wide::angle(x, y).sine_and_cosine().unwrap();
            prop_assert!(is_near(sine.times(y), cosine.times(x)));
        }
    }
}
