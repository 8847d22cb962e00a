//! When two answers are the same: what kind each is, which kinds may stand for each other, and in which of them
//! order matters.

use crate::latex::expression::{Constant, Expression, Relation};
use crate::latex::{folded, parse};
use crate::math::MathConfig;
use crate::math::chain::{concluded, final_value, interval, is_deduction, is_same_chain, named_value};
use crate::math::choice::{Choice, choice, dashed_choice, lone_letter};
use crate::math::clock::is_same_time;
use crate::math::evaluate::Budget;
use crate::math::measured::units_read;
use crate::math::names::{are_numbered, assignments, names, values};
use crate::math::normal::{is_same_text, is_same_words, is_score, set_named, trimmed};
use crate::math::reduce::{has_arrow, reduced};
use crate::math::region::{is_same_region, joins_regions};
use crate::math::rows::{is_run_together, with_rows};
use crate::math::scalar::{Rules, infinity, is_angular, is_same_value, is_variable};

/// Parts of a list that are matched in any order; their number is squared.
const UNORDERED_MAX: usize = 256;

/// Whether an answer equals the reference. Both are bare: no sentence stands around them.
pub(super) fn is_same_answer(reference: &str, answer: &str, config: &MathConfig) -> bool {
    // Markdown strikes out what stands between `~~`.
    if answer != reference && answer.len() > 4 && answer.starts_with("~~") && answer.ends_with("~~") {
        return false;
    }
    let (reference, answer) = (folded(reference), folded(answer));
    let (reference, answer) = (with_rows(trimmed(&reference)), with_rows(trimmed(&answer)));
    let (reference, answer) = (&*reference, &*answer);
    if is_same_text(reference, answer) || is_run_together(reference, answer) {
        return true;
    }
    if is_score(reference) {
        return false;
    }
    let (reference, answer) = (set_named(reference), set_named(answer));
    let arrows = [has_arrow(reference), has_arrow(answer)];
    let (reference, answer) = (reduced(reference, arrows[1]), reduced(answer, arrows[0]));
    let (reference, answer) = (trimmed(&reference), trimmed(&answer));
    match (choice(reference), choice(answer)) {
        (Some(left), Some(right)) => left.letter == right.letter,
        (Some(left), None) => {
            is_letter_of(&left, answer) || is_same_content(text_or(&left, reference), answer, config)
        }
        (None, Some(right)) => {
            is_letter_of(&right, reference) || is_same_content(reference, text_or(&right, answer), config)
        }
        _ => is_same_content(reference, answer, config),
    }
}

/// Whether a text is a choice's letter in another way: small and alone, or with a dash behind it.
fn is_letter_of(choice: &Choice, text: &str) -> bool {
    let letter = lone_letter(text).or_else(|| dashed_choice(text).map(|found| found.letter));
    letter == Some(choice.letter)
}

/// The text of a choice, or all of the answer where it has none.
fn text_or<'a>(choice: &'a Choice, answer: &'a str) -> &'a str {
    if choice.text.is_empty() { answer } else { &choice.text }
}

/// Whether an answer equals the reference, neither of which is a choice's letter.
fn is_same_content(reference: &str, answer: &str, config: &MathConfig) -> bool {
    let (left, right) = (readings(reference), readings(answer));
    if left.is_empty() || right.is_empty() {
        return is_same_text(reference, answer) || is_same_words(reference, answer);
    }
    let deduces = left.iter().any(|reading| reading.any(&is_deduction));
    let right = if deduces { right } else { right.into_iter().map(concluded).collect() };
    let has = |condition: &dyn Fn(&Expression) -> bool| left.iter().any(|reading| reading.any(condition));
    let rules = Rules {
        decimal_digits: config.decimal_digits,
        allow_angles: !config.final_form || has(&is_angular),
        allow_variables: !config.final_form || has(&is_variable),
        budget: Budget::new(),
    };
    left.iter().any(|left| right.iter().any(|right| is_same(left, right, &rules)))
}

/// What a text may mean: `1,234` is a number, and it is a list.
fn readings(text: &str) -> Vec<Expression> {
    let joined = parse(text, true).ok();
    let listed = if text.contains(',') { parse(text, false).ok() } else { None };
    let listed = listed.filter(|listed| joined.as_ref() != Some(listed));
    joined.into_iter().chain(listed).map(|expression| signs_taken(&settled(expression))).collect()
}

/// The answer with `and` and `or` as commas where they say the same: between values, and between equations of one
/// name. Between letters, words, and what holds of several names they do not.
fn settled(expression: Expression) -> Expression {
    match expression {
        Expression::And(parts) if are_solutions(&parts) => Expression::List(parts),
        Expression::Or(parts) if are_solutions(&parts) => Expression::List(parts),
        Expression::Or(parts) => Expression::Or(parts.into_iter().map(settled).collect()),
        other => other,
    }
}

fn are_solutions(parts: &[Expression]) -> bool {
    let is_lone = |part: &Expression| match part {
        Expression::Symbol(_) | Expression::Text(_) | Expression::And(_) | Expression::Or(_) => false,
        Expression::Chain(..) => {
            named_value(part).is_some_and(|(_, value)| !matches!(value, Expression::Text(_)))
        }
        _ => true,
    };
    parts.iter().all(is_lone) && names(parts).len() <= 1
}

/// The answer with `±` replaced by the two values that it stands for.
fn signs_taken(expression: &Expression) -> Expression {
    let has_signs = |part: &Expression| part.any(&|inner| matches!(inner, Expression::PlusMinus(..)));
    match expression {
        Expression::List(parts) => Expression::List(parts.iter().flat_map(taken_apart).collect()),
        Expression::Set(parts) => Expression::Set(parts.iter().flat_map(taken_apart).collect()),
        other if has_signs(other) => Expression::List(vec![signed(other, false), signed(other, true)]),
        other => other.clone(),
    }
}

/// One part of a list with its signs taken; a list inside it stays one part.
fn taken_apart(part: &Expression) -> Vec<Expression> {
    let taken = signs_taken(part);
    if matches!(part, Expression::List(_)) { vec![taken] } else { items(&taken, false) }
}

/// One of the two readings of all signs.
fn signed(expression: &Expression, lower: bool) -> Expression {
    match expression {
        Expression::PlusMinus(part, flipped) => {
            let part = signed(part, lower);
            if lower != *flipped { Expression::Negative(Box::new(part)) } else { part }
        }
        other => other.map_parts(&mut |part| signed(part, lower)),
    }
}

/// The parts of a list, of a union where it is asked for, or the one expression.
fn items(expression: &Expression, unions: bool) -> Vec<Expression> {
    match expression {
        Expression::List(parts) => parts.clone(),
        Expression::Or(parts) | Expression::Union(parts) if unions => parts.clone(),
        other => vec![other.clone()],
    }
}

/// Whether two answers are the same.
fn is_same(reference: &Expression, answer: &Expression, rules: &Rules) -> bool {
    if rules.budget.spend(10).is_none() {
        return false;
    }
    if joins_regions(reference) || joins_regions(answer) {
        match is_same_region(reference, answer, rules) {
            Some(true) => return true,
            // The comma of `x < 2, x > 5` stands for `or`, since nothing is both, and that of `x > 2, x < 5` for `and`.
            Some(false) if has_commas_on_one_side(reference, answer) => return false,
            _ => {}
        }
    }
    if let (Some(left), Some(right)) = (assignments(reference), assignments(answer)) {
        return are_matched(&left, &right, rules);
    }
    if let Some(same) = is_same_collection(reference, answer, rules) {
        return same;
    }
    match (reference, answer) {
        (Expression::Chain(..), Expression::Chain(..)) => are_same_chains(reference, answer, rules),
        (Expression::Chain(..), other) => stands_for(reference, other, rules),
        (other, Expression::Chain(..)) => {
            stands_for(answer, other, rules)
                || final_value(answer, rules).is_some_and(|value| is_same(other, value, rules))
        }
        _ => is_same_plain(reference, answer, rules),
    }
}

/// Whether one side joins its parts with a word and the other one with commas.
fn has_commas_on_one_side(reference: &Expression, answer: &Expression) -> bool {
    let is_joined = |side: &Expression| matches!(side, Expression::And(_) | Expression::Or(_));
    let is_list = |side: &Expression| matches!(side, Expression::List(_));
    is_joined(reference) && is_list(answer) || is_list(reference) && is_joined(answer)
}

/// Lists and sets, which have no order of their own; `None` if neither side is one.
fn is_same_collection(reference: &Expression, answer: &Expression, rules: &Rules) -> Option<bool> {
    Some(match (reference, answer) {
        (Expression::List(left), Expression::List(right))
        | (Expression::And(left), Expression::And(right) | Expression::List(right))
        | (Expression::List(left), Expression::And(right)) => are_same_lists(left, right, rules),
        (Expression::Or(left), Expression::Or(right)) => are_same_lists(left, right, rules),
        // Without values for their ends, inequalities with commas are the parts of a union.
        (Expression::Or(list), Expression::List(other)) | (Expression::List(list), Expression::Or(other)) => {
            list.iter().chain(other).all(|part| interval(part).is_some())
                && are_same_lists(list, other, rules)
        }
        (Expression::Or(_), Expression::Union(_)) | (Expression::Union(_), Expression::Or(_)) => {
            are_matched(&intervals(reference)?, &intervals(answer)?, rules)
        }
        (Expression::Or(_), _) | (_, Expression::Or(_)) => false,
        (Expression::And(_), Expression::Union(_)) | (Expression::Union(_), Expression::And(_)) => false,
        (Expression::And(parts), _) => return Some(is_same(&Expression::List(parts.clone()), answer, rules)),
        (_, Expression::And(parts)) => {
            return Some(is_same(reference, &Expression::List(parts.clone()), rules));
        }
        (Expression::Set(left) | Expression::List(left), Expression::Set(right))
        | (Expression::Set(left), Expression::List(right)) => {
            are_matched(&values(left), &values(right), rules)
        }
        // `x = 1, y = 2` and `1, 2` may stand for a tuple; then order counts.
        (Expression::List(list), Expression::Bracket('(', tuple, ')'))
        | (Expression::Bracket('(', tuple, ')'), Expression::List(list)) => {
            are_equal_in_order(&values(list), tuple, rules)
        }
        (Expression::List(_), Expression::Union(_)) | (Expression::Union(_), Expression::List(_)) => {
            are_matched(&intervals(reference)?, &intervals(answer)?, rules)
        }
        (Expression::List(list), Expression::Chain(..)) => match named_value(answer) {
            // `x \in {1, 2}`, `(x, y) = (1, 2)`.
            Some((_, value)) if !matches!(value, Expression::Chain(..)) => is_same(reference, value, rules),
            _ => are_same_lists(list, std::slice::from_ref(answer), rules),
        },
        (Expression::Chain(..), Expression::List(list)) => match named_value(reference) {
            Some((_, value)) if !matches!(value, Expression::Chain(..)) => is_same(value, answer, rules),
            _ => are_same_lists(std::slice::from_ref(reference), list, rules),
        },
        (Expression::Set(set), other) | (other, Expression::Set(set)) => match (&set[..], other) {
            (_, Expression::Chain(..)) => return None,
            ([only], _) => is_same(only, other, rules),
            _ => false,
        },
        (Expression::List(_), _) | (_, Expression::List(_)) => false,
        _ => return None,
    })
}

/// The parts of a list or union with inequalities as intervals; `None` if one is neither.
fn intervals(expression: &Expression) -> Option<Vec<Expression>> {
    let as_interval = |part: Expression| match &part {
        Expression::Chain(..) => interval(&part).map(|(_, found)| found).or_else(|| {
            named_value(&part).map(|(_, value)| match value {
                Expression::Bracket(..) | Expression::Union(_) | Expression::Set(_) => value.clone(),
                single => Expression::Set(vec![single.clone()]),
            })
        }),
        _ => Some(part),
    };
    let parts: Option<Vec<Expression>> = items(expression, true).into_iter().map(as_interval).collect();
    Some(parts?.iter().flat_map(|part| items(part, true)).collect())
}

/// Lists without brackets: in any order, unless different names on one side say which part is which.
fn are_same_lists(left: &[Expression], right: &[Expression], rules: &Rules) -> bool {
    let (left_names, right_names) = (names(left), names(right));
    match (left_names.len(), right_names.len()) {
        (0 | 1, 0 | 1) => {
            let same_name = left_names.is_empty() || right_names.is_empty() || left_names == right_names;
            same_name && are_matched(&values(left), &values(right), rules)
        }
        (_, 0) | (0, _) => are_equal_in_order(&values(left), &values(right), rules),
        // `x_1 = 1, x_2 = -2` is `x = 1, -2`.
        (_, 1) if are_numbered(&left_names, right_names[0]) => {
            are_matched(&values(left), &values(right), rules)
        }
        (1, _) if are_numbered(&right_names, left_names[0]) => {
            are_matched(&values(left), &values(right), rules)
        }
        _ => are_matched(left, right, rules),
    }
}

fn are_equal_in_order(left: &[Expression], right: &[Expression], rules: &Rules) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(left, right)| is_same(left, right, rules))
}

/// Whether each part has a partner of its own. Equality carries over from one to the next, so taking the first
/// partner is enough.
fn are_matched(left: &[Expression], right: &[Expression], rules: &Rules) -> bool {
    if left.len() > right.len() || right.len() > UNORDERED_MAX {
        return false;
    }
    let mut free: Vec<&Expression> = right.iter().collect();
    if left.len() < right.len() {
        // A solution that is found twice is one solution.
        let is_new = |at: &usize| !right[..*at].iter().any(|before| is_same(before, &right[*at], rules));
        free = (0..right.len()).filter(is_new).map(|at| &right[at]).collect();
    }
    if left.len() != free.len() {
        return false;
    }
    left.iter().all(|part| match free.iter().position(|other| is_same(part, other, rules)) {
        Some(found) => {
            free.swap_remove(found);
            true
        }
        None => false,
    })
}

/// Two equations, inequalities or memberships.
fn are_same_chains(reference: &Expression, answer: &Expression, rules: &Rules) -> bool {
    let (left, right) = (named_value(reference), named_value(answer));
    if let (Some((left_name, left)), Some((right_name, right))) = (left, right)
        && left_name == right_name
        && is_same(left, right, rules)
    {
        return true;
    }
    if let (Some((left_name, left)), Some((right_name, right))) = (interval(reference), interval(answer)) {
        return left_name == right_name && is_same(&left, &right, rules);
    }
    match (interval(reference), right, left, interval(answer)) {
        (Some((_, left)), Some((_, right)), ..) if is_range(right) => is_same(&left, right, rules),
        (_, _, Some((_, left)), Some((_, right))) if is_range(left) => is_same(left, &right, rules),
        _ => is_same_chain(reference, answer, rules) || are_equal_members(reference, answer, rules),
    }
}

fn is_range(expression: &Expression) -> bool {
    matches!(expression, Expression::Bracket(..) | Expression::Union(_))
}

/// Longer chains are equal member by member, read from either end.
fn are_equal_members(reference: &Expression, answer: &Expression, rules: &Rules) -> bool {
    let (Expression::Chain(left, left_relations), Expression::Chain(right, right_relations)) =
        (reference, answer)
    else {
        return false;
    };
    let turned: Vec<Expression> = right.iter().rev().cloned().collect();
    let turned_relations: Vec<Relation> =
        right_relations.iter().rev().map(|relation| relation.flipped()).collect();
    let turns =
        !right_relations.iter().any(|relation| matches!(relation, Relation::Other(_) | Relation::Element));
    (left_relations == right_relations && are_equal_in_order(left, right, rules))
        || (turns && *left_relations == turned_relations && are_equal_in_order(left, &turned, rules))
}

/// Whether a chain says no more than a value, set or interval does without it.
fn stands_for(chain: &Expression, other: &Expression, rules: &Rules) -> bool {
    if let Some((_, value)) = named_value(chain) {
        return is_same(value, other, rules) || is_one_of_equal(chain, other, rules);
    }
    match interval(chain) {
        Some((_, found)) => is_range_like(other) && is_same(&found, other, rules),
        None => false,
    }
}

/// Whether a value stands in a chain of equal ones, such as the first in `x = 42 cm = 0.42 m`.
fn is_one_of_equal(chain: &Expression, other: &Expression, rules: &Rules) -> bool {
    let Expression::Chain(members, relations) = chain else { return false };
    let [_, values @ ..] = &members[..] else { return false };
    values.len() > 1
        && values.iter().all(|value| matches!(value, Expression::Measure(..)))
        && relations.iter().all(|relation| *relation == Relation::Equal)
        && values.windows(2).all(|pair| is_same(&pair[0], &pair[1], rules))
        && values.iter().any(|value| is_same(value, other, rules))
}

/// Whether this may be equal to an interval.
fn is_range_like(expression: &Expression) -> bool {
    is_range(expression) || matches!(expression, Expression::Symbol(_) | Expression::Difference(_))
}

/// Everything that is neither a list nor a chain.
fn is_same_plain(reference: &Expression, answer: &Expression, rules: &Rules) -> bool {
    if let Some(same) = is_same_time(reference, answer) {
        return same;
    }
    let (left, right) = (reals_written_out(reference), reals_written_out(answer));
    let (left, right) = units_read(left, right);
    match (&left, &right) {
        (Expression::Bracket(open, left, close), Expression::Bracket(other_open, right, other_close)) => {
            let same_open = open == other_open || is_infinite_end(left.first(), right.first());
            let same_close = close == other_close || is_infinite_end(left.last(), right.last());
            same_open && same_close && are_equal_in_order(left, right, rules)
        }
        (Expression::Union(left), Expression::Union(right))
        | (Expression::Intersection(left), Expression::Intersection(right)) => {
            are_matched(left, right, rules)
        }
        (Expression::Difference(left), Expression::Difference(right)) => {
            are_equal_in_order(&left[..], &right[..], rules)
        }
        (Expression::Matrix(left), Expression::Matrix(right)) => {
            left.len() == right.len()
                && left.iter().zip(right).all(|(left, right)| are_equal_in_order(left, right, rules))
        }
        // A vector may be written as a tuple.
        (Expression::Matrix(rows), Expression::Bracket('(', parts, ')'))
        | (Expression::Bracket('(', parts, ')'), Expression::Matrix(rows)) => {
            let is_vector = rows.len() == 1 || rows.iter().all(|row| row.len() == 1);
            let cells: Vec<Expression> = rows.iter().flatten().cloned().collect();
            is_vector && are_equal_in_order(&cells, parts, rules)
        }
        (Expression::Proportion(left), Expression::Proportion(right)) => are_proportional(left, right, rules),
        (Expression::Proportion(parts), other) | (other, Expression::Proportion(parts)) => match &parts[..] {
            [first, second] if !is_minutes(second) => {
                let quotient = Expression::Quotient(Box::new([first.clone(), second.clone()]));
                is_same(&quotient, other, rules)
            }
            _ => false,
        },
        (Expression::Text(left), Expression::Text(right)) => left == right,
        (Expression::Pieces(left), Expression::Pieces(right)) => are_same_pieces(left, right, rules),
        (left, right) if is_value(left) && is_value(right) => {
            // Only the answer has what the reference lacks, whichever side it is on here.
            rules.is_final(left) && rules.is_final(right) && is_same_value(left, right, rules)
        }
        _ => false,
    }
}

/// Functions in pieces: each piece has a partner with its value and its condition.
fn are_same_pieces(left: &[[Expression; 2]], right: &[[Expression; 2]], rules: &Rules) -> bool {
    let is_partner = |[value, condition]: &[Expression; 2], [other, other_condition]: &[Expression; 2]| {
        is_same(value, other, rules) && is_same(condition, other_condition, rules)
    };
    left.len() == right.len()
        && left.len() <= UNORDERED_MAX
        && left.iter().all(|piece| right.iter().any(|other| is_partner(piece, other)))
        && right.iter().all(|piece| left.iter().any(|other| is_partner(other, piece)))
}

/// Whether this is one value rather than several.
fn is_value(expression: &Expression) -> bool {
    !expression.any(&|part| {
        matches!(
            part,
            Expression::Bracket(..)
                | Expression::Set(_)
                | Expression::List(_)
                | Expression::And(_)
                | Expression::Or(_)
                | Expression::Union(_)
                | Expression::Intersection(_)
                | Expression::Difference(_)
                | Expression::Matrix(_)
                | Expression::Proportion(_)
                | Expression::Text(_)
                | Expression::Chain(..)
                | Expression::Pieces(_)
        )
    })
}

/// Whether two ends are infinite, where the kind of bracket says nothing.
fn is_infinite_end(left: Option<&Expression>, right: Option<&Expression>) -> bool {
    left.zip(right).is_some_and(|(left, right)| infinity(left).is_some() && infinity(right).is_some())
}

/// The reals as an interval, and the reals but for one number as two.
fn reals_written_out(expression: &Expression) -> Expression {
    let minus_infinity = || Expression::Negative(Box::new(Expression::Constant(Constant::Infinity)));
    let infinity = || Expression::Constant(Constant::Infinity);
    let open = |low, high| Expression::Bracket('(', vec![low, high], ')');
    let is_reals = |part: &Expression| *part == Expression::Symbol("Reals".to_string());
    match expression {
        part if is_reals(part) => open(minus_infinity(), infinity()),
        Expression::Difference(pair) => match &**pair {
            [first, Expression::Set(parts)] if is_reals(first) && parts.len() == 1 => {
                Expression::Union(vec![
                    open(minus_infinity(), parts[0].clone()),
                    open(parts[0].clone(), infinity()),
                ])
            }
            _ => expression.clone(),
        },
        other => other.clone(),
    }
}

/// Two digits behind a colon: minutes of a time.
fn is_minutes(expression: &Expression) -> bool {
    match expression {
        Expression::Number(number) => number.plain.len() == 2,
        Expression::Measure(value, _) => is_minutes(value),
        _ => false,
    }
}

/// Proportions may be multiplied through, times may not.
fn are_proportional(left: &[Expression], right: &[Expression], rules: &Rules) -> bool {
    if are_equal_in_order(left, right, rules) {
        return true;
    }
    let are_times = [left, right].iter().all(|parts| parts.len() == 2 && is_minutes(&parts[1]));
    let over =
        |top: &Expression, bottom: &Expression| Expression::Quotient(Box::new([top.clone(), bottom.clone()]));
    !are_times
        && left.len() == right.len()
        && left.iter().zip(right).skip(1).all(|(left_part, right_part)| {
            is_same(&over(&left[0], left_part), &over(&right[0], right_part), rules)
        })
}
