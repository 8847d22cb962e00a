//! Exact fractions of integers of any size, with a limit on their bits.
//!
//! Fractions are not kept in lowest terms: a common divisor of numbers with 60 thousand digits takes most of a
//! second, and comparing needs one product each side only.

use num_bigint::{BigInt, BigUint, Sign};
use num_integer::Integer;
use num_traits::{FromPrimitive, One, Pow, Signed, ToPrimitive, Zero};

/// Bits of a numerator or denominator. The longest answer that is read has 65 thousand digits, which are 218
/// thousand bits; twice that leaves room for one product of two such numbers.
const BITS_MAX: u64 = 1 << 19;

/// A power may grow to this many bits; `9^{9^9}` would have a billion.
const POWER_BITS_MAX: u64 = 1 << 15;

/// Below this, dividing by the common divisor takes microseconds and keeps sums of fractions small.
const REDUCED_BITS_MAX: u64 = 1 << 10;

/// A fraction; the denominator is positive.
#[derive(Clone, Debug)]
pub(crate) struct Ratio {
    top: BigInt,
    bottom: BigInt,
}

impl Ratio {
    /// A fraction of two integers, or `None` for a zero denominator or too many bits.
    fn new(top: BigInt, bottom: BigInt) -> Option<Ratio> {
        if bottom.is_zero() || top.bits() > BITS_MAX || bottom.bits() > BITS_MAX {
            return None;
        }
        let (mut top, mut bottom) = if bottom.is_negative() { (-top, -bottom) } else { (top, bottom) };
        if !bottom.is_one() && top.bits().max(bottom.bits()) <= REDUCED_BITS_MAX {
            let divisor = top.gcd(&bottom);
            if !divisor.is_one() {
                (top, bottom) = (top / &divisor, bottom / &divisor);
            }
        }
        Some(Ratio { top, bottom })
    }

    /// An integer.
    pub(crate) fn whole(value: i64) -> Ratio {
        Ratio { top: BigInt::from(value), bottom: BigInt::one() }
    }

    /// Decimal digits with `places` of them behind the point, times ten to the power of `exponent`.
    pub(crate) fn from_digits(digits: &[u8], places: usize, exponent: i64) -> Option<Ratio> {
        let whole = BigUint::parse_bytes(digits, 10)?;
        let top = BigInt::from_biguint(Sign::Plus, whole);
        let shift = exponent.checked_sub(i64::try_from(places).ok()?)?;
        Ratio { top, bottom: BigInt::one() }.times(&Ratio::whole(10).power_of(shift, BITS_MAX)?)
    }

    /// Digits in a base, as in `1011_2`; `None` if a digit does not belong to the base.
    pub(crate) fn in_base(digits: &str, base: u32) -> Option<Ratio> {
        let top = BigInt::parse_bytes(digits.as_bytes(), base)?;
        Some(Ratio { top, bottom: BigInt::one() })
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.top.is_zero()
    }

    pub(crate) fn is_negative(&self) -> bool {
        self.top.is_negative()
    }

    /// The bits of numerator and denominator, which is what arithmetic on it costs.
    pub(crate) fn bits(&self) -> u64 {
        self.top.bits() + self.bottom.bits()
    }

    /// Its value if it is an integer of 64 bits.
    pub(crate) fn to_i64(&self) -> Option<i64> {
        self.to_whole()?.to_i64()
    }

    /// Numerator and denominator without common divisors, if both are small.
    pub(crate) fn small_parts(&self) -> Option<(i64, i64)> {
        if self.bits() > 2 * REDUCED_BITS_MAX {
            return None;
        }
        let divisor = self.top.gcd(&self.bottom);
        Some(((&self.top / &divisor).to_i64()?, (&self.bottom / &divisor).to_i64()?))
    }

    /// Whether its decimal expansion ends: the denominator in lowest terms has no factors but 2 and 5. What is too
    /// long to tell is taken to end.
    pub(crate) fn terminates(&self) -> bool {
        if self.bits() > 4 * REDUCED_BITS_MAX {
            return true;
        }
        let mut bottom = &self.bottom / self.top.gcd(&self.bottom);
        for factor in [2u32, 5] {
            while (&bottom % factor).is_zero() {
                bottom /= factor;
            }
        }
        bottom.is_one()
    }

    pub(crate) fn negative(&self) -> Ratio {
        Ratio { top: -&self.top, bottom: self.bottom.clone() }
    }

    pub(crate) fn plus(&self, other: &Ratio) -> Option<Ratio> {
        if self.bottom == other.bottom {
            return Ratio::new(&self.top + &other.top, self.bottom.clone());
        }
        Ratio::new(&self.top * &other.bottom + &other.top * &self.bottom, &self.bottom * &other.bottom)
    }

    pub(crate) fn times(&self, other: &Ratio) -> Option<Ratio> {
        Ratio::new(&self.top * &other.top, &self.bottom * &other.bottom)
    }

    pub(crate) fn over(&self, other: &Ratio) -> Option<Ratio> {
        Ratio::new(&self.top * &other.bottom, &self.bottom * &other.top)
    }

    /// An integer power, if it has a bounded number of bits.
    pub(crate) fn power(&self, exponent: i64) -> Option<Ratio> {
        self.power_of(exponent, POWER_BITS_MAX)
    }

    fn power_of(&self, exponent: i64, bits_max: u64) -> Option<Ratio> {
        let count = exponent.unsigned_abs();
        // One and zero have powers of any exponent without growing.
        let grown = |value: &BigInt| {
            let bits = value.bits();
            let bounded = bits <= 1 || bits.checked_mul(count).is_some_and(|bits| bits <= bits_max);
            bounded.then(|| Pow::pow(value, if bits <= 1 { 2 - count % 2 } else { count }))
        };
        if count == 0 {
            return if self.is_zero() { None } else { Some(Ratio::whole(1)) };
        }
        let (top, bottom) = (grown(&self.top)?, grown(&self.bottom)?);
        if exponent < 0 { Ratio::new(bottom, top) } else { Ratio::new(top, bottom) }
    }

    /// The exact root, if it is rational.
    pub(crate) fn root(&self, degree: u32) -> Option<Ratio> {
        if degree == 0 || self.bits() > POWER_BITS_MAX || (self.is_negative() && degree.is_multiple_of(2)) {
            return None;
        }
        let divisor = if self.bottom.is_one() { BigInt::one() } else { self.top.gcd(&self.bottom) };
        let exact = |value: &BigInt| {
            let root = value.nth_root(degree);
            (Pow::pow(&root, degree) == *value).then_some(root)
        };
        Ratio::new(exact(&(&self.top / &divisor))?, exact(&(&self.bottom / &divisor))?)
    }

    /// What is left of a whole number after a modulus.
    pub(crate) fn residue(&self, modulus: &Ratio) -> Option<Ratio> {
        let (value, modulus) =
            (self.to_whole()?, modulus.to_whole().filter(|modulus| modulus.is_positive())?);
        Some(Ratio { top: value.mod_floor(&modulus), bottom: BigInt::one() })
    }

    fn to_whole(&self) -> Option<BigInt> {
        let (quotient, rest) = self.top.div_rem(&self.bottom);
        rest.is_zero().then_some(quotient)
    }

    /// The factorial of a small whole number.
    pub(crate) fn factorial(&self) -> Option<Ratio> {
        let count = self.to_i64().filter(|count| (0..=3000).contains(count))?;
        let top = (2..=count).fold(BigInt::one(), |product, factor| product * factor);
        Some(Ratio { top, bottom: BigInt::one() })
    }

    /// `n` choose `k` for small whole numbers.
    pub(crate) fn binomial(&self, other: &Ratio) -> Option<Ratio> {
        let (n, k) = (self.to_i64()?, other.to_i64()?);
        if !(0..=3000).contains(&n) || k < 0 {
            return None;
        }
        if k > n {
            return Some(Ratio::whole(0));
        }
        let mut top = BigInt::one();
        for step in 0..k.min(n - k) {
            top = top * (n - step) / (step + 1);
        }
        Some(Ratio { top, bottom: BigInt::one() })
    }

    /// The value modulo a prime, or `None` if the denominator is a multiple of it.
    pub(crate) fn modulo(&self, prime: u64) -> Option<(u64, u64)> {
        let part = |value: &BigInt| value.mod_floor(&BigInt::from(prime)).to_u64();
        let (top, bottom) = (part(&self.top)?, part(&self.bottom)?);
        (bottom != 0).then_some((top, bottom))
    }

    /// Numerator and denominator as sums of two floats each, or `None` outside their range.
    pub(crate) fn float_parts(&self) -> Option<[(f64, f64); 2]> {
        // Digits far beyond the floats' own are shifted out of both, which the ratio does not see.
        let excess = self.top.bits().max(self.bottom.bits()).saturating_sub(900);
        let split = |value: &BigInt| {
            let is_exact = excess == 0 || value.is_zero();
            let value = value >> excess;
            if !is_exact && value.bits() < 110 {
                return None;
            }
            let high = value.to_f64()?;
            let low = (value - BigInt::from_f64(high)?).to_f64()?;
            Some((high, low))
        };
        Some([split(&self.top)?, split(&self.bottom)?])
    }
}

impl PartialEq for Ratio {
    fn eq(&self, other: &Ratio) -> bool {
        if self.bottom == other.bottom {
            return self.top == other.top;
        }
        self.top.sign() == other.top.sign() && &self.top * &other.bottom == &other.top * &self.bottom
    }
}

impl PartialOrd for Ratio {
    fn partial_cmp(&self, other: &Ratio) -> Option<std::cmp::Ordering> {
        Some((&self.top * &other.bottom).cmp(&(&other.top * &self.bottom)))
    }
}
