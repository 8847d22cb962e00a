//! Equations and inequalities: what a chain such as `x = 2 + 3 = 5` says, and when two chains say the same.

use crate::latex::expression::{Constant, Expression, Function, Relation};
use crate::math::scalar::{Rules, infinity, is_angular, is_same_value, is_variable, proportion};

/// Whether an expression only names something, so that `name = value` means the value: letters and functions of
/// anything, their ratios and lengths, tuples of names, words.
pub(super) fn is_name(expression: &Expression) -> bool {
    match expression {
        Expression::Symbol(_) | Expression::Unknown(..) | Expression::Text(_) => true,
        Expression::Constant(Constant::E | Constant::I) => true,
        Expression::Product(parts) => is_named_product(parts),
        Expression::Bracket(_, parts, _)
        | Expression::Proportion(parts)
        | Expression::Union(parts)
        | Expression::Intersection(parts) => parts.iter().all(is_name),
        Expression::Quotient(pair) | Expression::Difference(pair) => pair.iter().all(is_name),
        Expression::Call(
            Function::Absolute | Function::Min | Function::Max | Function::Gcd | Function::Lcm,
            parts,
        ) => parts.iter().all(is_name),
        Expression::Call(_, parts) if is_angular(expression) => parts.iter().all(is_name),
        Expression::Degrees(part) => is_name(part),
        _ => false,
    }
}

/// What an answer's chain comes to where the reference is no chain: `m + n = 3 + 4 = 7` is 7, because its first
/// member only says what is asked for.
pub(super) fn final_value<'a>(expression: &'a Expression, rules: &Rules) -> Option<&'a Expression> {
    let Expression::Chain(members, relations) = expression else { return None };
    let is_constant = |member: &Expression| !member.any(&is_variable);
    let says_what = match members.first()? {
        Expression::Sum(parts) => parts.iter().all(|part| match part {
            Expression::Negative(part) => is_name(part),
            part => is_name(part),
        }),
        _ => false,
    };
    // `250000/16 = 15625` is a calculation.
    let is_right =
        |last: &Expression| says_what || is_constant(&members[0]) && is_same_value(&members[0], last, rules);
    let is_chain = relations.iter().all(|&relation| relation == Relation::Equal);
    members.last().filter(|last| is_chain && is_constant(last) && is_right(last))
}

/// `AB`, `\angle ABC`, `P(3)`: names, and at most the last part is an argument.
fn is_named_product(parts: &[Expression]) -> bool {
    match parts {
        [Expression::Symbol(_), Expression::Number(_)] => true,
        _ => parts.iter().all(|part| matches!(part, Expression::Symbol(_) | Expression::Constant(_))),
    }
}

/// The chain's members and relations without the approximations at its end.
fn without_approximation<'a>(
    members: &'a [Expression],
    relations: &'a [Relation],
) -> (&'a [Expression], &'a [Relation]) {
    match relations.iter().position(|&relation| relation == Relation::Approximate) {
        Some(at) if at > 0 => (&members[..=at], &relations[..at]),
        _ => (members, relations),
    }
}

/// What a chain gives a name to: the last member of `x = 2 + 3 = 5`, the set of `x \in S`.
pub(super) fn named_value(expression: &Expression) -> Option<(&Expression, &Expression)> {
    let Expression::Chain(members, relations) = expression else { return None };
    let (members, relations) = without_approximation(members, relations);
    let (first, last) = (members.first()?, members.last()?);
    let gives_value = match relations {
        [Relation::Element | Relation::Approximate] => true,
        _ => relations.iter().all(|relation| matches!(relation, Relation::Equal | Relation::Congruent)),
    };
    if !gives_value {
        return None;
    }
    match (is_name(first), is_name(last)) {
        (true, _) => Some((first, last)),
        // `3 = x`.
        (false, true) if members.len() == 2 && relations == [Relation::Equal] => Some((last, first)),
        _ => None,
    }
}

/// Whether this says that one statement follows from another.
pub(super) fn is_deduction(expression: &Expression) -> bool {
    matches!(expression, Expression::Chain(_, relations) if relations.iter().any(|relation| relation.is_implication()))
}

/// What an answer comes to that says how it follows: of `2x = 84 \Rightarrow x = 42` the last statement.
pub(super) fn concluded(expression: Expression) -> Expression {
    if let Expression::List(parts) = expression {
        return Expression::List(parts.into_iter().map(concluded).collect());
    }
    let Expression::Chain(members, relations) = &expression else { return expression };
    let Some(at) = relations.iter().rposition(|relation| relation.is_implication()) else {
        return expression;
    };
    match &members[at + 1..] {
        [single] if is_variable(single) || relations[at] == Relation::Other("to") => expression,
        [single] => single.clone(),
        several => Expression::Chain(several.to_vec(), relations[at + 1..].to_vec()),
    }
}

/// The interval that an inequality of one name describes, with that name.
pub(super) fn interval(expression: &Expression) -> Option<(&Expression, Expression)> {
    let Expression::Chain(members, relations) = expression else { return None };
    match (&members[..], &relations[..]) {
        ([value, name], [relation]) if is_variable(name) && !is_variable(value) && relation.is_order() => {
            ray(name, value, relation.flipped())
        }
        ([name, value], [relation]) if is_variable(name) && relation.is_order() => {
            ray(name, value, *relation)
        }
        ([name, value], [Relation::NotEqual]) if is_variable(name) => {
            let below = between(End::minus_infinite(), End::open(value.clone()));
            let above = between(End::open(value.clone()), End::infinite());
            Some((name, Expression::Union(vec![below, above])))
        }
        ([low, name, high], [first, second]) if is_variable(name) => {
            let is_closed =
                |relation: &Relation| matches!(relation, Relation::LessOrEqual | Relation::GreaterOrEqual);
            let rises = |relation: &Relation| matches!(relation, Relation::Less | Relation::LessOrEqual);
            let left = End { value: low.clone(), is_closed: is_closed(first) };
            let right = End { value: high.clone(), is_closed: is_closed(second) };
            match (first.is_order() && second.is_order(), rises(first), rises(second)) {
                (true, true, true) => Some((name, between(left, right))),
                (true, false, false) => Some((name, between(right, left))),
                _ => None,
            }
        }
        _ => None,
    }
}

/// An end of an interval.
struct End {
    value: Expression,
    /// Whether it belongs to the interval.
    is_closed: bool,
}

impl End {
    fn open(value: Expression) -> End {
        End { value, is_closed: false }
    }

    fn infinite() -> End {
        End::open(Expression::Constant(Constant::Infinity))
    }

    fn minus_infinite() -> End {
        End::open(Expression::Negative(Box::new(Expression::Constant(Constant::Infinity))))
    }
}

fn between(low: End, high: End) -> Expression {
    let open = if low.is_closed { '[' } else { '(' };
    let close = if high.is_closed { ']' } else { ')' };
    Expression::Bracket(open, vec![low.value, high.value], close)
}

/// The numbers on one side of a value, with the name that they are about.
fn ray<'a>(
    name: &'a Expression,
    value: &Expression,
    relation: Relation,
) -> Option<(&'a Expression, Expression)> {
    let is_closed = matches!(relation, Relation::LessOrEqual | Relation::GreaterOrEqual);
    let end = End { value: value.clone(), is_closed };
    match relation {
        Relation::Less | Relation::LessOrEqual => Some((name, between(End::minus_infinite(), end))),
        Relation::Greater | Relation::GreaterOrEqual => Some((name, between(end, End::infinite()))),
        _ => None,
    }
}

/// Whether two equations or inequalities of two members say the same: with everything on one side, one is a
/// constant multiple of the other, and the sign of the constant turns an inequality around.
pub(super) fn is_same_chain(left: &Expression, right: &Expression, rules: &Rules) -> bool {
    let (Some((first, relation)), Some((second, other))) = (moved(left), moved(right)) else { return false };
    if infinity(&first).is_some() || relation.is_order() != other.is_order() {
        return false;
    }
    match proportion(&first, &second, &rules.budget) {
        Some(_) if !relation.is_order() => relation == other,
        Some(true) => relation == other,
        Some(false) => relation == other.flipped(),
        None => false,
    }
}

/// Both sides moved to one.
fn moved(chain: &Expression) -> Option<(Expression, Relation)> {
    let Expression::Chain(members, relations) = chain else { return None };
    match (without_approximation(members, relations), members.len()) {
        ((_, [relation]), 2) if !matches!(relation, Relation::Element | Relation::Other(_)) => {
            let right = Expression::Negative(Box::new(members[1].clone()));
            Some((Expression::Sum(vec![members[0].clone(), right]), *relation))
        }
        _ => None,
    }
}
