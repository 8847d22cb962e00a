//! Letters as units: `9.8 m/s^2` beside `9.8\\text{ m/s}^2`. A letter alone is a variable, so this is only read where the
//! other side has a unit.

use crate::latex::expression::Expression;
use crate::latex::unit::Unit;
use crate::math::scalar::is_variable;

/// Units have small powers.
const POWER_MAX: i64 = 9;

/// Both sides, with letters as units where the other side has a unit that is known.
pub(super) fn units_read(left: Expression, right: Expression) -> (Expression, Expression) {
    let has_unit = |side: &Expression| matches!(side, Expression::Measure(_, unit) if unit.is_physical());
    let names_ohm = |side: &Expression| matches!(side, Expression::Product(parts) if matches!(&parts[..], [_, Expression::Symbol(name)] if name == "Omega"));
    let reads = |side: &Expression, other: &Expression| {
        let is_read =
            has_unit(other) && side.any(&is_variable) || names_ohm(side) && !other.any(&is_variable);
        is_read.then(|| measured(side)).flatten()
    };
    match (reads(&left, &right), reads(&right, &left)) {
        (Some(read), _) => (read, right),
        (_, Some(read)) => (left, read),
        _ => (left, right),
    }
}

/// The value and the unit of an expression all of whose variables are units; `None` if one of them is none.
fn measured(expression: &Expression) -> Option<Expression> {
    let mut factors = Vec::new();
    let unit = split(expression, 1, &mut factors)?;
    let value = match factors.pop() {
        Some(single) if factors.is_empty() => single,
        Some(last) => {
            factors.push(last);
            Expression::Product(factors)
        }
        None => return None,
    };
    Some(Expression::Measure(Box::new(value), unit))
}

/// Takes the units out of a product; what has no variables is appended to the factors.
fn split(expression: &Expression, power: i64, factors: &mut Vec<Expression>) -> Option<Unit> {
    match expression {
        Expression::Product(parts) => product(parts, power, factors),
        Expression::Quotient(pair) => {
            split(&pair[0], power, factors)?.times(&split(&pair[1], -power, factors)?)
        }
        Expression::Power(pair) if is_variable(&pair[0]) => {
            let exponent = match &pair[1] {
                Expression::Number(number) => number.value.to_i64(),
                Expression::Negative(part) => match &**part {
                    Expression::Number(number) => number.value.to_i64().map(|value| -value),
                    _ => None,
                },
                _ => None,
            };
            let exponent = exponent.filter(|exponent| exponent.abs() <= POWER_MAX)?;
            split(&pair[0], power * exponent, factors)
        }
        Expression::Measure(value, unit) => split(value, power, factors)?.times(&unit.power(power)?),
        Expression::Symbol(name) if is_unit(name) => Unit::named(name).power(power),
        constant if !constant.any(&is_variable) => {
            let one = Expression::whole(1);
            factors.push(match power {
                1 => constant.clone(),
                -1 => Expression::Quotient(Box::new([one, constant.clone()])),
                _ => return None,
            });
            Some(Unit::none())
        }
        _ => None,
    }
}

/// Whether a name is a unit as it is written: `N` is one and `n` is not.
fn is_unit(name: &str) -> bool {
    let is_written = match name.as_bytes() {
        [b'm' | b's' | b'g' | b'h' | b'l' | b'L' | b'N' | b'J' | b'W' | b'V'] => true,
        [_] => false,
        _ => true,
    };
    is_written && Unit::is_known(name)
}

/// A product in which letters beside each other may be one unit: `km` is read as k times m.
fn product(parts: &[Expression], power: i64, factors: &mut Vec<Expression>) -> Option<Unit> {
    let mut unit = Unit::none();
    let mut at = 0;
    while at < parts.len() {
        if let [Expression::Symbol(first), Expression::Symbol(second), ..] = &parts[at..] {
            let joined = format!("{first}{second}");
            // `N m` is no nanometre.
            let is_prefixed = first.starts_with(|letter: char| letter.is_lowercase());
            if is_prefixed && Unit::is_known(&joined) {
                unit = unit.times(&Unit::named(&joined).power(power)?)?;
                at += 2;
                continue;
            }
        }
        // The power of a unit of two letters stands at its second one.
        if let [Expression::Symbol(first), Expression::Power(pair), ..] = &parts[at..]
            && let Expression::Symbol(second) = &pair[0]
            && Unit::is_known(&format!("{first}{second}"))
            // `m s^{-2}` are two units.
            && !(is_unit(first) && is_unit(second))
        {
            let joined = Expression::Symbol(format!("{first}{second}"));
            let raised = Expression::Power(Box::new([joined, pair[1].clone()]));
            unit = unit.times(&split(&raised, power, factors)?)?;
            at += 2;
            continue;
        }
        unit = unit.times(&split(&parts[at], power, factors)?)?;
        at += 1;
    }
    Some(unit)
}
