//! What an expression is worth, in three arithmetics: exact fractions for constants, a prime field for rational
//! functions, and complex numbers of 31 digits for everything else.
//!
//! Equality in the field at a few fixed pseudo-random points is equality of the functions, by the Schwartz-Zippel
//! lemma up to a chance of the degree over 2^61 a point. All three count their work against one budget.

use std::cell::Cell;

use trajectory::random::{GOLDEN, mix};

use crate::latex::expression::{Constant, Expression, Function};
use crate::latex::ratio::Ratio;
use crate::math::complex::Complex;

/// The Mersenne prime of the field.
const PRIME: u64 = (1 << 61) - 1;

/// Work that one verdict may cost, in about a hundredth of a microsecond.
const WORK_MAX: u64 = 2_000_000;

/// What is left of the work that a verdict may cost.
pub(super) struct Budget(Cell<u64>);

impl Budget {
    pub(super) fn new() -> Budget {
        Budget(Cell::new(WORK_MAX))
    }

    /// Pays for some work, or tells that nothing is left.
    pub(super) fn spend(&self, work: u64) -> Option<()> {
        let left = self.0.get().checked_sub(work);
        self.0.set(left.unwrap_or(0));
        left.map(|_| ())
    }
}

/// The exact value of a constant expression, if it is rational and small enough.
pub(super) fn exact(expression: &Expression, budget: &Budget) -> Option<Ratio> {
    budget.spend(5)?;
    let value = |part: &Expression| exact(part, budget);
    let found = match expression {
        Expression::Number(number) => number.value.clone(),
        Expression::Based(digits, base) => Ratio::in_base(digits, *base)?,
        Expression::Sum(parts) => {
            parts.iter().try_fold(Ratio::whole(0), |sum, part| paid(sum.plus(&value(part)?)?, budget))?
        }
        Expression::Product(parts) => parts
            .iter()
            .try_fold(Ratio::whole(1), |product, part| paid(product.times(&value(part)?)?, budget))?,
        Expression::Negative(part) => value(part)?.negative(),
        Expression::Quotient(pair) => value(&pair[0])?.over(&value(&pair[1])?)?,
        Expression::Power(pair) => exact_power(&value(&pair[0])?, &value(&pair[1])?)?,
        Expression::Root(pair) => value(&pair[1])?
            .root(u32::try_from(value(&pair[0])?.to_i64()?).ok().filter(|&degree| degree < 1000)?)?,
        Expression::Percent(part) => value(part)?.over(&Ratio::whole(100))?,
        Expression::Modulo(pair) => value(&pair[0])?.residue(&value(&pair[1])?)?,
        Expression::Call(function, parts) => exact_call(*function, parts, budget)?,
        _ => return None,
    };
    paid(found, budget)
}

/// Charges for a result by its size; a product of long numbers is more than linear in it.
fn paid(value: Ratio, budget: &Budget) -> Option<Ratio> {
    let words = value.bits() / 64;
    budget.spend(words.saturating_mul(words) / 64 + words)?;
    Some(value)
}

/// A power with a whole exponent, or with a root that is rational.
fn exact_power(base: &Ratio, exponent: &Ratio) -> Option<Ratio> {
    let (top, bottom) = exponent.small_parts()?;
    let root = if bottom == 1 {
        base.clone()
    } else {
        base.root(u32::try_from(bottom).ok().filter(|&b| b < 1000)?)?
    };
    root.power(top)
}

fn exact_call(function: Function, parts: &[Expression], budget: &Budget) -> Option<Ratio> {
    let values: Vec<Ratio> = parts.iter().map(|part| exact(part, budget)).collect::<Option<_>>()?;
    let first = values.first()?;
    match function {
        Function::Absolute => Some(if first.is_negative() { first.negative() } else { first.clone() }),
        Function::Factorial => {
            budget.spend(first.to_i64().and_then(|count| u64::try_from(count).ok())?.saturating_mul(100))?;
            first.factorial()
        }
        Function::Binomial => {
            budget.spend(first.to_i64().and_then(|count| u64::try_from(count).ok())?.saturating_mul(100))?;
            first.binomial(values.get(1)?)
        }
        Function::Min | Function::Max => values.iter().skip(1).try_fold(first.clone(), |best, value| {
            let is_better = if function == Function::Min { *value < best } else { *value > best };
            Some(if is_better { value.clone() } else { best })
        }),
        Function::Gcd | Function::Lcm => values.iter().skip(1).try_fold(first.clone(), |all, value| {
            // The smallest number has no opposite, which the greatest divisor would need.
            let whole = |value: &Ratio| value.to_i64().filter(|whole| *whole != i64::MIN);
            let (a, b) = (whole(&all)?, whole(value)?);
            let divisor = num_integer::gcd(a, b);
            let multiple = a.checked_mul(b.checked_div(divisor).unwrap_or(0))?;
            Some(Ratio::whole(if function == Function::Gcd { divisor } else { multiple }))
        }),
        Function::Floor | Function::Ceiling => first.to_i64().map(Ratio::whole),
        _ => None,
    }
}

/// The lower number of a binomial if it is small: then it is a polynomial in the upper one.
fn small_count(parts: &[Expression], budget: &Budget) -> Option<u64> {
    let count = exact(parts.get(1)?, budget)?.to_i64()?;
    u64::try_from(count).ok().filter(|&count| count <= 20)
}

/// A pseudo-random number for a name at a point: FNV-1a and the finalizer of splitmix64.
fn drawn(name: &str, point: u64) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(hash ^ point.wrapping_mul(GOLDEN))
}

fn field_times(a: u64, b: u64) -> u64 {
    (u128::from(a) * u128::from(b) % u128::from(PRIME)) as u64
}

fn field_power(base: u64, mut exponent: u64) -> u64 {
    let (mut value, mut square) = (1, base);
    while exponent > 0 {
        if exponent % 2 == 1 {
            value = field_times(value, square);
        }
        square = field_times(square, square);
        exponent /= 2;
    }
    value
}

fn field_over(top: u64, bottom: u64) -> Option<u64> {
    (bottom != 0).then(|| field_times(top, field_power(bottom, PRIME - 2)))
}

/// The value of a rational function in the field at one of its points, or `None` if it is something else.
pub(super) fn in_field(expression: &Expression, point: u64, budget: &Budget) -> Option<u64> {
    budget.spend(5)?;
    let value = |part: &Expression| in_field(part, point, budget);
    match expression {
        Expression::Symbol(name) if is_ordinary(name) => Some(drawn(name, point) % PRIME),
        Expression::Sum(parts) => parts.iter().try_fold(0, |sum, part| Some((sum + value(part)?) % PRIME)),
        Expression::Product(parts) => {
            parts.iter().try_fold(1, |product, part| Some(field_times(product, value(part)?)))
        }
        Expression::Negative(part) => Some((PRIME - value(part)?) % PRIME),
        Expression::Quotient(pair) => {
            let (top, bottom) = (value(&pair[0])?, value(&pair[1])?);
            budget.spend(100)?;
            field_over(top, bottom)
        }
        Expression::Power(pair) => {
            let exponent = exact(&pair[1], budget)?.to_i64()?;
            let power = field_power(value(&pair[0])?, exponent.unsigned_abs());
            budget.spend(100)?;
            if exponent < 0 { field_over(1, power) } else { Some(power) }
        }
        Expression::Call(Function::Binomial, parts) if exact(expression, budget).is_none() => {
            let count = small_count(parts, budget)?;
            budget.spend(100 * count)?;
            let top = value(parts.first()?)?;
            let falling =
                (0..count).fold(1, |product, step| field_times(product, (top + PRIME - step) % PRIME));
            field_over(falling, (1..=count).product())
        }
        Expression::Number(_) | Expression::Percent(_) | Expression::Call(..) => {
            let (top, bottom) = exact(expression, budget)?.modulo(PRIME)?;
            if bottom == 1 { Some(top) } else { field_over(top, bottom) }
        }
        _ => None,
    }
}

/// Names that stand for a number. The reals and dots do not.
fn is_ordinary(name: &str) -> bool {
    name != "Reals" && name != "dots"
}

/// At points below this all variables are positive; at the others signs are mixed.
const POSITIVE_POINTS: u64 = 4;

/// The points that functions are compared at, the telling ones first.
pub(super) const POINTS: [u64; 12] = [0, 4, 5, 1, 6, 7, 2, 8, 9, 10, 11, 3];

/// Evaluates at one of the points and notes whether all roots and logarithms on the way were real.
pub(super) struct Evaluation<'a> {
    point: u64,
    budget: &'a Budget,
    is_real: Cell<bool>,
}

impl<'a> Evaluation<'a> {
    pub(super) fn at(point: u64, budget: &'a Budget) -> Self {
        Evaluation { point, budget, is_real: Cell::new(true) }
    }

    /// Whether no root or logarithm left the real numbers so far.
    pub(super) fn is_real(&self) -> bool {
        self.is_real.get()
    }

    /// A variable's value: at most three in size and not near zero.
    fn variable(&self, name: &str) -> Complex {
        let bits = drawn(name, self.point);
        // Twenty bits make it a short fraction, so that it is exact.
        let size = (bits % (1 << 20)) as f64 / f64::from(1 << 20);
        let scale = [1.0, 3.0, 0.5][(self.point % 3) as usize];
        let value = (0.0625 + size) * scale;
        // Two points in a row have opposite signs, so that every variable is negative somewhere.
        let sign = drawn(name, self.point & !1) >> 63;
        let is_negative = self.point >= POSITIVE_POINTS && sign == self.point & 1;
        Complex::real(if is_negative { -value } else { value })
    }

    pub(super) fn value(&self, expression: &Expression) -> Option<Complex> {
        self.budget.spend(20)?;
        match expression {
            Expression::Number(number) => Complex::ratio(&number.value),
            Expression::Based(..) => Complex::ratio(&exact(expression, self.budget)?),
            Expression::Symbol(name) => is_ordinary(name).then(|| self.variable(name)),
            Expression::Constant(Constant::Pi) => Some(Complex::pi()),
            Expression::Constant(Constant::E) => Complex::ONE.exponential(),
            Expression::Constant(Constant::I) => Some(Complex::I),
            Expression::Sum(parts) => {
                let first = self.value(parts.first()?)?;
                parts[1..].iter().try_fold(first, |sum, part| sum.plus(self.value(part)?))
            }
            Expression::Product(parts) => {
                parts.iter().try_fold(Complex::ONE, |product, part| product.times(self.value(part)?))
            }
            Expression::Negative(part) => Some(self.value(part)?.negative()),
            Expression::Quotient(pair) => self.value(&pair[0])?.over(self.value(&pair[1])?),
            Expression::Power(pair) => self.power(&pair[0], &pair[1]),
            Expression::Root(pair) => self.root(&pair[0], &pair[1]),
            Expression::Percent(part) => self.value(part)?.over(Complex::real(100.0)),
            Expression::Degrees(part) => self.value(part)?.times(Complex::pi())?.over(Complex::real(180.0)),
            Expression::Call(function, parts) => self.call(*function, parts),
            Expression::Unknown(name, parts) => self.unknown(name, parts),
            _ => None,
        }
    }

    fn power(&self, base: &Expression, exponent: &Expression) -> Option<Complex> {
        let exact_exponent = exact(exponent, self.budget).and_then(|exponent| exponent.small_parts());
        if let Some((top, bottom)) = exact_exponent {
            // Larger powers of points near one lose their digits anyway.
            if top.unsigned_abs() > 100_000 || bottom > 1000 {
                return None;
            }
            self.budget.spend(500)?;
            let base = self.value(base)?;
            return if bottom == 1 { base.power(top) } else { self.radical(base, bottom)?.power(top) };
        }
        self.budget.spend(500)?;
        if *base == Expression::Constant(Constant::E) {
            return self.value(exponent)?.exponential();
        }
        let (base, exponent) = (self.value(base)?, self.value(exponent)?);
        if !base.is_real() || base.is_negative() {
            self.is_real.set(false);
        }
        base.logarithm()?.times(exponent)?.exponential()
    }

    fn root(&self, degree: &Expression, radicand: &Expression) -> Option<Complex> {
        self.budget.spend(500)?;
        let value = self.value(radicand)?;
        match exact(degree, self.budget).and_then(|degree| degree.to_i64()) {
            Some(degree) => self.radical(value, degree),
            None => value.logarithm()?.over(self.value(degree)?)?.exponential(),
        }
    }

    /// The root of a whole degree. An odd root of a negative number is the negative one, as schools have it.
    fn radical(&self, value: Complex, degree: i64) -> Option<Complex> {
        if degree < 1 {
            return None;
        }
        if value.is_negative() && degree % 2 == 1 {
            return Some(self.radical(value.negative(), degree)?.negative());
        }
        if !value.is_real() || value.is_negative() {
            self.is_real.set(false);
        }
        match degree {
            1 => Some(value),
            2 => value.root(),
            4 => value.root()?.root(),
            _ => match value.logarithm() {
                Some(logarithm) => logarithm.over(Complex::real(degree as f64))?.exponential(),
                None => Some(Complex::real(0.0)),
            },
        }
    }

    fn call(&self, function: Function, parts: &[Expression]) -> Option<Complex> {
        self.budget.spend(500)?;
        if let Some(value) = self.exact_only(function, parts) {
            return value;
        }
        let first = self.value(parts.first()?)?;
        let one = Complex::ONE;
        match function {
            Function::Sin => Some(first.sine_and_cosine()?.0),
            Function::Cos => Some(first.sine_and_cosine()?.1),
            Function::Tan | Function::Cot | Function::Sec | Function::Csc => {
                let (sine, cosine) = first.sine_and_cosine()?;
                match function {
                    Function::Tan => sine.over(cosine),
                    Function::Cot => cosine.over(sine),
                    Function::Sec => one.over(cosine),
                    _ => one.over(sine),
                }
            }
            Function::Arcsin => first.arc_sine(),
            Function::Arccos => Complex::pi().times(Complex::real(0.5))?.minus(first.arc_sine()?),
            Function::Arctan => first.arc_tangent(),
            Function::Sinh | Function::Cosh | Function::Tanh => {
                let (up, down) = (first.exponential()?, first.negative().exponential()?);
                match function {
                    Function::Sinh => up.minus(down)?.times(Complex::real(0.5)),
                    Function::Cosh => up.plus(down)?.times(Complex::real(0.5)),
                    _ => up.minus(down)?.over(up.plus(down)?),
                }
            }
            Function::Exp => first.exponential(),
            Function::Ln => self.logarithm(first),
            Function::Log => match parts.get(1) {
                Some(argument) => self.logarithm(self.value(argument)?)?.over(self.logarithm(first)?),
                None => self.logarithm(first)?.over(Complex::real(10.0).logarithm()?),
            },
            Function::Absolute => first.absolute(),
            Function::Floor => first.floor(),
            Function::Ceiling => Some(first.negative().floor()?.negative()),
            _ => None,
        }
    }

    /// Functions of whole numbers, which have no value elsewhere.
    fn exact_only(&self, function: Function, parts: &[Expression]) -> Option<Option<Complex>> {
        match function {
            Function::Factorial | Function::Binomial => {
                let arguments = parts.iter().map(|part| exact(part, self.budget)).collect::<Option<Vec<_>>>();
                Some(match arguments {
                    Some(_) => {
                        exact_call(function, parts, self.budget).and_then(|value| Complex::ratio(&value))
                    }
                    None => self.continued(function, parts),
                })
            }
            Function::Min | Function::Max | Function::Gcd | Function::Lcm => {
                Some(exact_call(function, parts, self.budget).and_then(|value| Complex::ratio(&value)))
            }
            _ => None,
        }
    }

    /// The factorial and the binomial of variables, which the gamma function continues: whatever follows from
    /// n! = n (n-1)! holds there too.
    fn continued(&self, function: Function, parts: &[Expression]) -> Option<Complex> {
        self.budget.spend(4000)?;
        let first = self.value(parts.first()?)?;
        if function == Function::Factorial {
            return first.factorial();
        }
        if let Some(count) = small_count(parts, self.budget) {
            return (0..count).try_fold(Complex::ONE, |product, step| {
                let factor =
                    first.minus(Complex::real(step as f64))?.over(Complex::real(step as f64 + 1.0))?;
                product.times(factor)
            });
        }
        let second = self.value(parts.get(1)?)?;
        let rest = first.minus(second)?;
        first.factorial()?.over(second.factorial()?.times(rest.factorial()?)?)
    }

    fn logarithm(&self, value: Complex) -> Option<Complex> {
        if !value.is_real() || value.is_negative() {
            self.is_real.set(false);
        }
        value.logarithm()
    }

    /// A function that is only known by name stands for a fixed wave in its arguments.
    fn unknown(&self, name: &str, parts: &[Expression]) -> Option<Complex> {
        let mut angle = Complex::ONE;
        for (place, part) in parts.iter().enumerate() {
            let slope = 0.5 + (drawn(name, place as u64) % (1 << 20)) as f64 / f64::from(1 << 20);
            angle = angle.plus(self.value(part)?.times(Complex::real(slope))?)?;
        }
        Some(angle.sine_and_cosine()?.0)
    }
}
