//! The names in an answer and what they are given: `x = 1, y = 2`, `(x, y) = (1, 2)`, `x_1 = 1, x_2 = 2`.

use crate::latex::expression::{Expression, Relation};
use crate::math::chain::named_value;
use crate::math::scalar::is_variable;

/// Names with their values, of `(x, y) = (1, 2)` as of `x = 1, y = 2`.
pub(super) fn assignments(expression: &Expression) -> Option<Vec<Expression>> {
    match expression {
        Expression::Chain(members, relations) if relations[..] == [Relation::Equal] => {
            let [Expression::Bracket('(', names, ')'), Expression::Bracket('(', values, ')')] = &members[..]
            else {
                return None;
            };
            let is_named = names.len() == values.len() && names.iter().all(is_variable);
            let chain = |name: &Expression, value: &Expression| {
                Expression::Chain(vec![name.clone(), value.clone()], vec![Relation::Equal])
            };
            is_named.then(|| names.iter().zip(values).map(|(name, value)| chain(name, value)).collect())
        }
        Expression::List(parts) | Expression::And(parts) => {
            let is_assignment = names(parts).len() == parts.len() && parts.len() > 1;
            is_assignment.then(|| parts.clone())
        }
        _ => None,
    }
}

/// The parts without their names.
pub(super) fn values(parts: &[Expression]) -> Vec<Expression> {
    parts.iter().map(|part| named_value(part).map_or(part, |(_, value)| value).clone()).collect()
}

/// Whether names are one name with numbers below it.
pub(super) fn are_numbered(names: &[&Expression], name: &Expression) -> bool {
    let Expression::Symbol(base) = name else { return false };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    names.iter().all(|name| match name {
        Expression::Symbol(name) => {
            name.strip_prefix(base.as_str()).and_then(|rest| rest.strip_prefix('_')).is_some_and(is_number)
        }
        _ => false,
    })
}

/// The different names of a list's parts.
pub(super) fn names(parts: &[Expression]) -> Vec<&Expression> {
    let mut names: Vec<&Expression> = Vec::new();
    for (name, _) in parts.iter().filter_map(named_value) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}
