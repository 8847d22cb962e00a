//! Complex numbers of about 31 digits that know a bound on their own error.
//!
//! Two of them are taken for equal exactly if their difference is within both errors, so cancellation neither hides
//! a difference nor makes one. What leaves the range of floats is no number at all.

use crate::latex::ratio::Ratio;
use crate::math::wide::{PI, Wide};

/// Relative error of one operation, with a margin of about ten over what the arithmetic of [`Wide`] keeps.
const ROUNDING: f64 = 1e-30;

/// A difference within this share of the values is not seen even where the error bounds are lost; values whose
/// error is larger say nothing.
const ERROR_MAX: f64 = 1e-12;

/// Factorials of larger numbers leave the range of floats.
const STEPS_MAX: f64 = 170.0;

/// Stirling's series: B(2k) / (2k (2k-1)) as fractions.
const STIRLING: [(f64, f64); 13] = [
    (1.0, 12.0),
    (-1.0, 360.0),
    (1.0, 1260.0),
    (-1.0, 1680.0),
    (1.0, 1188.0),
    (-691.0, 360_360.0),
    (1.0, 156.0),
    (-3617.0, 122_400.0),
    (43_867.0, 244_188.0),
    (-174_611.0, 125_400.0),
    (77_683.0, 5796.0),
    (-236_364_091.0, 1_506_960.0),
    (657_931.0, 300.0),
];

/// A complex number and a bound on the distance to the number that it stands for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Complex {
    re: Wide,
    im: Wide,
    error: f64,
}

impl Complex {
    pub(super) const ONE: Complex = Complex { re: Wide::ONE, im: Wide::ZERO, error: 0.0 };
    pub(super) const I: Complex = Complex { re: Wide::ZERO, im: Wide::ONE, error: 0.0 };

    fn new(re: Wide, im: Wide, error: f64) -> Option<Complex> {
        let value = Complex { re, im, error };
        let error = error + ROUNDING * value.size();
        (error.is_finite() && value.size() < 1e250).then_some(Complex { error, ..value })
    }

    pub(super) fn pi() -> Complex {
        Complex { re: PI, im: Wide::ZERO, error: 1e-30 }
    }

    pub(super) fn real(value: f64) -> Complex {
        Complex { re: Wide::from(value), im: Wide::ZERO, error: 0.0 }
    }

    pub(super) fn ratio(value: &Ratio) -> Option<Complex> {
        let [(top, top_low), (bottom, bottom_low)] = value.float_parts()?;
        let quotient = Wide::of_sum(top, top_low).over(Wide::of_sum(bottom, bottom_low));
        Complex::new(quotient, Wide::ZERO, 0.0)
    }

    /// The absolute value, roughly.
    fn size(self) -> f64 {
        self.re.high.abs().max(self.im.high.abs())
    }

    /// Whether this is a real number within its error.
    pub(super) fn is_real(self) -> bool {
        self.im.high.abs() <= self.error
    }

    /// Whether this is a real number below zero, beyond its error.
    pub(super) fn is_negative(self) -> bool {
        self.is_real() && self.re.high < -self.error
    }

    /// Whether both stand for one number, as far as their errors tell; `None` where the errors are too large.
    pub(super) fn equals(self, other: Complex) -> Option<bool> {
        let error = self.error + other.error;
        let size = self.size().max(other.size());
        if error > ERROR_MAX * size.max(1e-6) {
            return None;
        }
        let difference = self.minus(other)?.size();
        // A difference of more than 20 digits is one, whatever the errors say.
        Some(difference <= 4.0 * error && (difference == 0.0 || difference < 1e-20 * size.max(1e-6)))
    }

    /// The distance to another real number, if both are real.
    pub(super) fn distance(self, other: Complex) -> Option<f64> {
        (self.is_real() && other.is_real()).then(|| self.re.minus(other.re).high.abs())
    }

    pub(super) fn negative(self) -> Complex {
        Complex { re: self.re.negative(), im: self.im.negative(), error: self.error }
    }

    pub(super) fn plus(self, other: Complex) -> Option<Complex> {
        // The rounding of a sum is relative to the terms where they cancel.
        let error = self.error + other.error + ROUNDING * 0.01 * (self.size() + other.size());
        Complex::new(self.re.plus(other.re), self.im.plus(other.im), error)
    }

    pub(super) fn minus(self, other: Complex) -> Option<Complex> {
        self.plus(other.negative())
    }

    pub(super) fn times(self, other: Complex) -> Option<Complex> {
        let sizes = 2.0 * (self.size() * other.error + other.size() * self.error) + self.error * other.error;
        let re = self.re.times(other.re).minus(self.im.times(other.im));
        let im = self.re.times(other.im).plus(self.im.times(other.re));
        Complex::new(re, im, sizes + ROUNDING * self.size() * other.size())
    }

    /// `None` where the divisor is zero within its error.
    pub(super) fn over(self, other: Complex) -> Option<Complex> {
        let square = other.re.times(other.re).plus(other.im.times(other.im));
        let size = other.size();
        // Divisors below 1e-120 would leave the range when they are squared.
        if size <= 8.0 * other.error || size < 1e-120 {
            return None;
        }
        let inverse = Complex::new(
            other.re.over(square),
            other.im.negative().over(square),
            4.0 * other.error / size / size + 4.0 * ROUNDING / size,
        )?;
        self.times(inverse)
    }

    /// A real value of a real function whose slope here is at most `slope`.
    fn of_real(value: Wide, slope: f64, error: f64) -> Option<Complex> {
        Complex::new(value, Wide::ZERO, 2.0 * slope * error + 4.0 * ROUNDING * value.high.abs())
    }

    pub(super) fn absolute(self) -> Option<Complex> {
        let length = self.re.times(self.re).plus(self.im.times(self.im)).root();
        let length = if self.im == Wide::ZERO { self.re.absolute() } else { length };
        Complex::new(length, Wide::ZERO, 2.0 * self.error)
    }

    /// The principal square root.
    pub(super) fn root(self) -> Option<Complex> {
        if self.size() <= self.error {
            return Complex::new(Wide::ZERO, Wide::ZERO, self.error.sqrt());
        }
        if self.is_real() {
            let root = self.re.absolute().root();
            let error = 2.0 * self.error / root.high + 4.0 * ROUNDING * root.high;
            return match self.is_negative() {
                true => Complex::new(Wide::ZERO, root, error),
                false => Complex::new(root, Wide::ZERO, error),
            };
        }
        let half = Wide::from(0.5);
        let length = self.absolute()?.re;
        let re = length.plus(self.re).times(half).root();
        let im = length.minus(self.re).times(half).root();
        let im = if self.im.high < 0.0 { im.negative() } else { im };
        // The smaller part loses digits by cancellation, so it is computed from the larger one.
        let (re, im) = match re.high >= im.high.abs() {
            true => (re, self.im.times(half).over(re)),
            false => (self.im.times(half).over(im), im),
        };
        let size = self.size().sqrt();
        Complex::new(re, im, 4.0 * self.error / size + 8.0 * ROUNDING * size)
    }

    pub(super) fn exponential(self) -> Option<Complex> {
        let length = self.re.exponential();
        if length.high == 0.0 {
            return None;
        }
        let (sine, cosine) =
            if self.im == Wide::ZERO { (Wide::ZERO, Wide::ONE) } else { self.im.sine_and_cosine()? };
        let error = length.high * (4.0 * self.error + 8.0 * ROUNDING * (1.0 + self.size()));
        Complex::new(length.times(cosine), length.times(sine), error)
    }

    /// The principal logarithm.
    pub(super) fn logarithm(self) -> Option<Complex> {
        let size = self.size();
        if size <= 8.0 * self.error || size < 1e-250 {
            return None;
        }
        let length = self.absolute()?.re.logarithm();
        let angle = match (self.is_real(), self.is_negative()) {
            (true, true) => PI,
            (true, false) => Wide::ZERO,
            _ => Wide::angle(self.im, self.re),
        };
        Complex::new(length, angle, 4.0 * self.error / size + 8.0 * ROUNDING * (1.0 + length.high.abs()))
    }

    /// A whole power, by squaring.
    pub(super) fn power(self, exponent: i64) -> Option<Complex> {
        let (mut value, mut square, mut count) = (Complex::ONE, self, exponent.unsigned_abs());
        while count > 0 {
            if count % 2 == 1 {
                value = value.times(square)?;
            }
            count /= 2;
            if count > 0 {
                square = square.times(square)?;
            }
        }
        if exponent < 0 { Complex::ONE.over(value) } else { Some(value) }
    }

    /// The gamma function of the number after this real one, which is the factorial of a whole number: by Stirling's
    /// series beyond 40, where 13 terms have 31 digits, and by n! = n (n-1)! below.
    pub(super) fn factorial(self) -> Option<Complex> {
        const START: f64 = 40.0;
        if !self.is_real() || self.re.high < -STEPS_MAX || self.re.high > STEPS_MAX {
            return None;
        }
        let (mut place, mut product) = (self.plus(Complex::ONE)?, Complex::ONE);
        while place.re.high < START {
            product = product.times(place)?;
            place = place.plus(Complex::ONE)?;
        }
        let half = Complex::real(0.5);
        let mut logarithm = place.minus(half)?.times(place.logarithm()?)?.minus(place)?;
        logarithm = logarithm.plus(Complex::pi().times(Complex::real(2.0))?.logarithm()?.times(half)?)?;
        let inverse = Complex::ONE.over(place)?;
        let square = inverse.times(inverse)?;
        let mut power = inverse;
        for (top, bottom) in STIRLING {
            let term = power.times(Complex::real(top))?.over(Complex::real(bottom))?;
            logarithm = logarithm.plus(term)?;
            power = power.times(square)?;
        }
        logarithm.exponential()?.over(product)
    }

    /// Sine and cosine.
    pub(super) fn sine_and_cosine(self) -> Option<(Complex, Complex)> {
        if self.is_real() {
            let (sine, cosine) = self.re.sine_and_cosine()?;
            let error = 2.0 * self.error + 8.0 * ROUNDING * (1.0 + self.size());
            return Some((Complex::new(sine, Wide::ZERO, error)?, Complex::new(cosine, Wide::ZERO, error)?));
        }
        let (turned, back) =
            (self.times(Complex::I)?.exponential()?, self.times(Complex::I)?.negative().exponential()?);
        let half = Complex::real(0.5);
        let sine = turned.minus(back)?.times(half)?.times(Complex::I.negative())?;
        Some((sine, turned.plus(back)?.times(half)?))
    }

    /// The angle in (-pi/2, pi/2) whose tangent is this real number.
    pub(super) fn arc_tangent(self) -> Option<Complex> {
        self.is_real().then(|| Complex::of_real(Wide::angle(self.re, Wide::ONE), 1.0, self.error))?
    }

    /// The angle in [-pi/2, pi/2] whose sine is this real number in [-1, 1].
    pub(super) fn arc_sine(self) -> Option<Complex> {
        let across = Wide::ONE.minus(self.re.times(self.re));
        if !self.is_real() || across.high < -4.0 * self.error {
            return None;
        }
        let across = across.root();
        let slope = 1.0 / across.high.max(self.error.sqrt()).max(1e-16);
        Complex::of_real(Wide::angle(self.re, across), slope, self.error + ROUNDING)
    }

    /// The largest whole number that is not above this real number, where its error leaves no doubt.
    pub(super) fn floor(self) -> Option<Complex> {
        let floor = self.re.high.floor();
        let is_clear = self.re.high - floor > 1e-9 && floor + 1.0 - self.re.high > 1e-9;
        (self.is_real() && is_clear && floor.abs() < 1e15).then(|| Complex::real(floor))
    }
}
