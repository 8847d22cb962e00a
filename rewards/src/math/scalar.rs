//! Equality of single values: numbers, constants, functions of variables, and values with units.

use crate::latex::expression::{Constant, Expression, Function, Number};
use crate::latex::ratio::Ratio;
use crate::latex::unit::Unit;
use crate::math::complex::Complex;
use crate::math::evaluate::{Budget, Evaluation, POINTS, exact, in_field};

/// Points that two functions must agree at, beside disagreeing nowhere.
const AGREEMENTS: usize = 3;

/// What comparing needs: the rules for decimals and for final forms, and what is left of the work.
pub(super) struct Rules {
    /// Significant digits that make a decimal an answer to a number that has none; 0 for never.
    pub(super) decimal_digits: usize,
    /// Whether a value with sines and the like may be an answer.
    pub(super) allow_angles: bool,
    /// Whether a value with variables may be an answer.
    pub(super) allow_variables: bool,
    pub(super) budget: Budget,
}

impl Rules {
    /// Whether a value is a final answer, if it is equal. `\sin 30^\circ` is what may have been asked for where the
    /// reference is `1/2`, and `x/x` is no number.
    pub(super) fn is_final(&self, value: &Expression) -> bool {
        !value
            .any(&|part| !self.allow_angles && is_angular(part) || !self.allow_variables && is_variable(part))
    }
}

/// Whether this is a function of an angle.
pub(super) fn is_angular(expression: &Expression) -> bool {
    use Function::{Cos, Cot, Csc, Sec, Sin, Tan};
    matches!(expression, Expression::Call(Sin | Cos | Tan | Cot | Sec | Csc, _))
}

/// Whether this is a variable, or a function that is only known by its name.
pub(super) fn is_variable(expression: &Expression) -> bool {
    matches!(expression, Expression::Symbol(_) | Expression::Unknown(..))
}

/// Whether two single values are equal. The first is the reference: an answer's unit may be dropped.
pub(super) fn is_same_value(reference: &Expression, answer: &Expression, rules: &Rules) -> bool {
    let same = |left: &Expression, right: &Expression| is_same_value(left, right, rules);
    match (reference, answer) {
        (Expression::Measure(left, left_unit), Expression::Measure(right, right_unit)) => {
            let left = Measured { value: left, unit: left_unit };
            is_same_measure(left, Measured { value: right, unit: right_unit }, rules)
        }
        (Expression::Measure(value, unit), other) | (other, Expression::Measure(value, unit)) => {
            // A dozen is a number, not something that is measured.
            match unit.number().filter(|factor| *factor != Ratio::whole(1)) {
                Some(factor) => same(&scaled(value, factor), other),
                None => may_be_dropped(unit, value, rules) && same(value, other),
            }
        }
        (Expression::Modulo(left), Expression::Modulo(right)) => {
            same(&left[1], &right[1])
                && (same(&left[0], &right[0]) || is_same_number(reference, answer, rules))
        }
        (Expression::Modulo(pair), other) => {
            is_residue(pair, rules) && same(&pair[0], other) || is_same_number(reference, other, rules)
        }
        (other, Expression::Modulo(pair)) => {
            is_residue(pair, rules) && same(other, &pair[0]) || is_same_number(other, answer, rules)
        }
        (Expression::Percent(left), Expression::Percent(right)) => same(left, right),
        (Expression::Percent(value), other) => same(value, other) || is_same_number(reference, other, rules),
        (other, Expression::Percent(value)) => {
            // A probability of 1/2 is not half a percent.
            let is_share = exact(other, &rules.budget).is_some_and(|number| {
                number <= Ratio::whole(1) && number >= Ratio::whole(-1) && !number.is_zero()
            });
            (!is_share && same(other, value)) || is_same_number(other, answer, rules)
        }
        (Expression::Based(left, base), Expression::Based(right, other)) => {
            // Digits of two bases that are both written are two spellings of a number.
            let same_digits = left.trim_start_matches('0') == right.trim_start_matches('0');
            base == other && same_digits || base != other && is_same_number(reference, answer, rules)
        }
        (Expression::Based(digits, _), Expression::Number(number))
        | (Expression::Number(number), Expression::Based(digits, _)) => {
            // Without a base the digits are meant in the base that the problem asks for.
            !number.plain.is_empty() && digits.trim_start_matches('0') == number.plain.trim_start_matches('0')
        }
        _ if has_degrees(reference) || has_degrees(answer) => {
            let (left, right) = (without_degrees(reference), without_degrees(answer));
            is_same_number(&left, &right, rules) || is_same_number(reference, answer, rules)
        }
        _ => is_same_number(reference, answer, rules),
    }
}

/// Whether a unit on one side only says nothing: it is a known one or a plural, or there is no more than one of it. Any
/// other word may say that the number is not the answer, and so may each word behind a choice.
fn may_be_dropped(unit: &Unit, value: &Expression, rules: &Rules) -> bool {
    if matches!(value, Expression::Symbol(name) if name.starts_with(char::is_uppercase)) {
        return unit.is_physical();
    }
    let is_single = || exact(value, &rules.budget).is_some_and(|number| number <= Ratio::whole(1));
    !unit.is_said() && (unit.is_counted() || is_single())
}

/// Whether a number may stand for its class: `5 \pmod 7` is 5, and `19 \bmod 7` is not 19.
fn is_residue(pair: &[Expression; 2], rules: &Rules) -> bool {
    let size = |value: Ratio| if value.is_negative() { value.negative() } else { value };
    match (exact(&pair[0], &rules.budget), exact(&pair[1], &rules.budget)) {
        (Some(number), Some(modulus)) => size(number) < size(modulus),
        _ => true,
    }
}

/// A value times a factor.
fn scaled(value: &Expression, factor: Ratio) -> Expression {
    let factor = Expression::Number(Number { value: factor, places: None, digits: 0, plain: String::new() });
    Expression::Product(vec![factor, value.clone()])
}

/// A number with its unit.
struct Measured<'a> {
    value: &'a Expression,
    unit: &'a Unit,
}

fn is_same_measure(left: Measured<'_>, right: Measured<'_>, rules: &Rules) -> bool {
    let is_none = |unit: &Unit| *unit == Unit::none();
    if left.unit == right.unit || is_none(left.unit) || is_none(right.unit) {
        return is_same_value(left.value, right.value, rules);
    }
    match right.unit.factor_to(left.unit) {
        Some(factor) => is_same_number(left.value, &scaled(right.value, factor), rules),
        None => false,
    }
}

/// Whether there are degrees outside of functions, where they are a unit.
fn has_degrees(expression: &Expression) -> bool {
    match expression {
        Expression::Degrees(_) => true,
        Expression::Call(..) | Expression::Unknown(..) => false,
        other => other.parts().into_iter().any(has_degrees),
    }
}

fn without_degrees(expression: &Expression) -> Expression {
    match expression {
        Expression::Degrees(part) => without_degrees(part),
        Expression::Call(..) | Expression::Unknown(..) => expression.clone(),
        other => other.map_parts(&mut without_degrees),
    }
}

/// A decimal as it was written, with its sign.
struct Decimal {
    value: Ratio,
    places: i64,
    digits: usize,
}

fn decimal(expression: &Expression) -> Option<Decimal> {
    match expression {
        Expression::Number(Number { value, places: Some(places), digits, .. }) => {
            Some(Decimal { value: value.clone(), places: *places, digits: *digits })
        }
        Expression::Negative(part) => {
            decimal(part).map(|found| Decimal { value: found.value.negative(), ..found })
        }
        _ => None,
    }
}

/// Whether two expressions without units are the same number or the same function.
fn is_same_number(left: &Expression, right: &Expression, rules: &Rules) -> bool {
    if let (Some(left), Some(right)) = (infinity(left), infinity(right)) {
        return left == right;
    }
    let budget = &rules.budget;
    let (left_exact, right_exact) = (exact(left, budget), exact(right, budget));
    if let (Some(first), Some(second)) = (&left_exact, &right_exact) {
        return first == second || is_rounded(left, right, rules);
    }
    let has_variables = |expression: &Expression| {
        expression.any(&|part| matches!(part, Expression::Symbol(_) | Expression::Unknown(..)))
    };
    if has_variables(left) != has_variables(right) && (left_exact.is_none() && right_exact.is_none()) {
        // `x - x + \sqrt 2` is not worth an evaluation, and `x` is no number.
        return false;
    }
    if !has_variables(left) && !has_variables(right) {
        return is_same_constant(left, right, rules).unwrap_or(left == right)
            || is_rounded(left, right, rules);
    }
    match is_same_in_field(left, right, budget) {
        Some(same) => same,
        None => is_same_function(left, right, budget).unwrap_or(left == right),
    }
}

/// Whether this is infinite, and with which sign.
pub(super) fn infinity(expression: &Expression) -> Option<bool> {
    match expression {
        Expression::Constant(Constant::Infinity) => Some(true),
        Expression::Negative(part) => infinity(part).map(|positive| !positive),
        _ => None,
    }
}

fn is_same_constant(left: &Expression, right: &Expression, rules: &Rules) -> Option<bool> {
    let evaluation = Evaluation::at(0, &rules.budget);
    evaluation.value(left)?.equals(evaluation.value(right)?)
}

/// Whether one side is a decimal of enough digits to which the other, that has no end as a decimal, is rounded or
/// cut off.
fn is_rounded(left: &Expression, right: &Expression, rules: &Rules) -> bool {
    let (written, other) = match (decimal(left), decimal(right)) {
        (Some(written), None) => (written, right),
        (None, Some(written)) => (written, left),
        _ => return false,
    };
    let ends = || exact(other, &rules.budget).is_some_and(|value| value.terminates());
    if rules.decimal_digits == 0 || written.digits < rules.decimal_digits || ends() {
        return false;
    }
    let value = Evaluation::at(0, &rules.budget).value(other);
    let (Some(value), Some(written_value)) = (value, Complex::ratio(&written.value)) else { return false };
    let (Some(distance), Some(size), Some(written_size)) = (
        value.distance(written_value),
        value.distance(Complex::real(0.0)),
        written_value.distance(Complex::real(0.0)),
    ) else {
        return false;
    };
    let last_place = 10f64.powi(-(written.places.clamp(-300, 300) as i32));
    distance <= 0.5 * last_place * (1.0 + 1e-12) || (distance < last_place && written_size <= size)
}

/// Whether two rational functions are equal, by their values in a prime field; `None` if one is something else.
fn is_same_in_field(left: &Expression, right: &Expression, budget: &Budget) -> Option<bool> {
    for point in 0..2 {
        if in_field(left, point, budget)? != in_field(right, point, budget)? {
            return Some(false);
        }
    }
    Some(true)
}

/// Whether two functions agree wherever both are real, or, where they hardly ever are, in the complex numbers.
fn is_same_function(left: &Expression, right: &Expression, budget: &Budget) -> Option<bool> {
    let (mut real, mut complex) = (0usize, 0i32);
    for point in POINTS {
        let (first, second) = (Evaluation::at(point, budget), Evaluation::at(point, budget));
        let (Some(first_value), Some(second_value)) = (first.value(left), second.value(right)) else {
            continue;
        };
        let same = first_value.equals(second_value);
        match (first.is_real() && second.is_real(), same) {
            (true, Some(true)) => real += 1,
            (true, Some(false)) => return Some(false),
            (false, Some(true)) => complex += 1,
            // Branches of roots and logarithms differ there.
            (false, Some(false)) => complex -= 100,
            (_, None) => {}
        }
        if real >= 2 * AGREEMENTS {
            return Some(true);
        }
    }
    match (real, complex) {
        (0, 0) => None,
        (0, _) => Some(complex >= AGREEMENTS as i32),
        _ => Some(real >= AGREEMENTS),
    }
}

/// Whether one function is a constant multiple of the other, and whether by a positive constant.
pub(super) fn proportion(left: &Expression, right: &Expression, budget: &Budget) -> Option<bool> {
    let mut ratios: Vec<Complex> = Vec::new();
    for point in POINTS {
        let evaluation = Evaluation::at(point, budget);
        let (first, second) = (evaluation.value(left), evaluation.value(right));
        let (Some(first), Some(second)) = (first, second) else { continue };
        if !evaluation.is_real() {
            continue;
        }
        // Where both vanish nothing is learned; where one does, they are no multiples.
        let Some(ratio) = first.over(second) else { continue };
        match ratios.first() {
            Some(known) if known.equals(ratio) != Some(true) => return None,
            _ => ratios.push(ratio),
        }
        if ratios.len() > AGREEMENTS {
            break;
        }
    }
    let ratio = ratios.first().filter(|ratio| ratios.len() >= AGREEMENTS && ratio.is_real())?;
    let is_zero = ratio.equals(Complex::real(0.0)) != Some(false);
    (!is_zero).then(|| !ratio.is_negative())
}
