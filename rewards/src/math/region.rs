//! Sets of real numbers: what inequalities, intervals, unions and intersections come to, with `and` and `or` told
//! apart. `x > 1` and `x < 3` is (1, 3), and `x > 1` or `x < 3` is every number.

use std::cmp::Ordering;

use crate::latex::expression::{Constant, Expression};
use crate::math::chain::{interval, named_value};
use crate::math::complex::Complex;
use crate::math::evaluate::Evaluation;
use crate::math::scalar::{Rules, infinity, is_variable};

/// Intervals of one region. Written answers have a few.
const PARTS_MAX: usize = 64;

/// An end of an interval: a number, or infinite on its side.
#[derive(Clone, Copy)]
struct End {
    value: Option<Complex>,
    is_closed: bool,
}

#[derive(Clone, Copy)]
struct Span {
    low: End,
    high: End,
}

/// Disjoint intervals in rising order, and the name that they are about, if there is one.
struct Region<'a> {
    name: Option<&'a Expression>,
    spans: Vec<Span>,
}

/// Whether two answers are the same numbers; `None` if one of them is no region, or its ends have no values.
pub(super) fn is_same_region(left: &Expression, right: &Expression, rules: &Rules) -> Option<bool> {
    let (left, right) = (region(left, rules)?, region(right, rules)?);
    let same_name = left.name.is_none() || right.name.is_none() || left.name == right.name;
    let is_same = |first: &End, second: &End, side: Ordering| {
        first.is_closed == second.is_closed
            && compared(first.value, second.value, side) == Some(Ordering::Equal)
    };
    Some(
        same_name
            && left.spans.len() == right.spans.len()
            && left.spans.iter().zip(&right.spans).all(|(first, second)| {
                is_same(&first.low, &second.low, Ordering::Less)
                    && is_same(&first.high, &second.high, Ordering::Greater)
            }),
    )
}

/// Whether an answer joins regions, so that it may be the same numbers in another way.
pub(super) fn joins_regions(expression: &Expression) -> bool {
    match expression {
        Expression::Union(_) | Expression::Intersection(_) => true,
        Expression::And(parts) | Expression::Or(parts) | Expression::List(parts) => {
            parts
                .iter()
                .all(|part| interval(part).is_some() || joins_regions(part) || named_value(part).is_some())
                && parts.iter().any(|part| interval(part).is_some() || joins_regions(part))
        }
        _ => false,
    }
}

fn region<'a>(expression: &'a Expression, rules: &Rules) -> Option<Region<'a>> {
    rules.budget.spend(10)?;
    let all =
        |parts: &'a [Expression]| parts.iter().map(|part| region(part, rules)).collect::<Option<Vec<_>>>();
    match expression {
        Expression::Bracket(..) | Expression::Set(_) | Expression::Symbol(_) => {
            Some(Region { name: None, spans: spans(expression, rules)? })
        }
        Expression::Union(parts) | Expression::Or(parts) => folded(all(parts)?, united),
        Expression::Intersection(parts) | Expression::And(parts) => folded(all(parts)?, common),
        // A comma stands for `and` where that leaves something, else for `or`.
        Expression::List(parts) if joins_regions(expression) => {
            let found = folded(all(parts)?, common)?;
            if found.spans.is_empty() { folded(all(parts)?, united) } else { Some(found) }
        }
        Expression::Chain(..) => {
            if let Some((name, found)) = interval(expression) {
                return Some(Region { name: Some(name), spans: spans(&found, rules)? });
            }
            let (name, value) = named_value(expression).filter(|(name, _)| is_variable(name))?;
            let spans = match value {
                Expression::Bracket(..)
                | Expression::Set(_)
                | Expression::Union(_)
                | Expression::Symbol(_) => spans(value, rules)?,
                single => vec![point(single, rules)?],
            };
            Some(Region { name: Some(name), spans })
        }
        _ => None,
    }
}

/// The intervals that an expression without names is.
fn spans(expression: &Expression, rules: &Rules) -> Option<Vec<Span>> {
    match expression {
        Expression::Bracket(open, parts, close) => {
            let [low, high] = &parts[..] else { return None };
            let span = Span {
                low: end(low, *open == '[', false, rules)?,
                high: end(high, *close == ']', true, rules)?,
            };
            // An interval whose ends are exchanged is a pair of numbers.
            (order(&span) != Some(Ordering::Greater))
                .then(|| if is_empty(&span) { Vec::new() } else { vec![span] })
        }
        Expression::Set(parts) => {
            let points = parts.iter().map(|part| Some(vec![point(part, rules)?]));
            points.reduce(|left, right| united(left?, right?)).unwrap_or(Some(Vec::new()))
        }
        Expression::Union(parts) => {
            let parts = parts.iter().map(|part| spans(part, rules));
            parts.reduce(|left, right| united(left?, right?)).unwrap_or(Some(Vec::new()))
        }
        Expression::Symbol(name) if name == "Reals" => {
            let end = End { value: None, is_closed: false };
            Some(vec![Span { low: end, high: end }])
        }
        _ => None,
    }
}

fn point(value: &Expression, rules: &Rules) -> Option<Span> {
    let end = End { value: Some(number(value, rules)?), is_closed: true };
    Some(Span { low: end, high: end })
}

/// The value of an end, which is infinite only on its own side.
fn end(value: &Expression, is_closed: bool, is_high: bool, rules: &Rules) -> Option<End> {
    match infinity(value) {
        Some(positive) if positive == is_high => Some(End { value: None, is_closed: false }),
        Some(_) => None,
        None => Some(End { value: Some(number(value, rules)?), is_closed }),
    }
}

fn number(value: &Expression, rules: &Rules) -> Option<Complex> {
    let has_no_value =
        |part: &Expression| is_variable(part) || matches!(part, Expression::Constant(Constant::I));
    if value.any(&has_no_value) || !rules.is_final(value) {
        return None;
    }
    Evaluation::at(0, &rules.budget).value(value).filter(|value| value.is_real())
}

/// How two ends compare where an infinite one is on the given side.
fn compared(left: Option<Complex>, right: Option<Complex>, infinite: Ordering) -> Option<Ordering> {
    match (left, right) {
        (None, None) => Some(Ordering::Equal),
        (None, Some(_)) => Some(infinite),
        (Some(_), None) => Some(infinite.reverse()),
        (Some(left), Some(right)) => {
            let difference = left.minus(right)?;
            Some(match left.equals(right)? {
                true => Ordering::Equal,
                false if difference.is_negative() => Ordering::Less,
                false => Ordering::Greater,
            })
        }
    }
}

/// How the low end of a span compares with its high one.
fn order(span: &Span) -> Option<Ordering> {
    match (span.low.value, span.high.value) {
        (Some(_), Some(_)) => compared(span.low.value, span.high.value, Ordering::Less),
        _ => Some(Ordering::Less),
    }
}

fn is_empty(span: &Span) -> bool {
    match order(span) {
        Some(Ordering::Less) => false,
        Some(Ordering::Equal) => !(span.low.is_closed && span.high.is_closed),
        _ => true,
    }
}

fn folded<'a>(
    regions: Vec<Region<'a>>,
    join: fn(Vec<Span>, Vec<Span>) -> Option<Vec<Span>>,
) -> Option<Region<'a>> {
    let mut regions = regions.into_iter();
    let first = regions.next()?;
    regions.try_fold(first, |left, right| {
        let name = match (left.name, right.name) {
            (Some(first), Some(second)) if first != second => return None,
            (first, second) => first.or(second),
        };
        let spans = join(left.spans, right.spans)?;
        (spans.len() <= PARTS_MAX).then_some(Region { name, spans })
    })
}

/// What lies in one or the other. Two that overlap or touch are one.
fn united(left: Vec<Span>, right: Vec<Span>) -> Option<Vec<Span>> {
    let mut merged: Vec<Span> = left;
    for mut span in right {
        let mut kept = Vec::with_capacity(merged.len() + 1);
        for other in merged {
            match (is_before(&other, &span)?, is_before(&span, &other)?) {
                (false, false) => {
                    span = Span {
                        low: outer(other.low, span.low, Ordering::Less)?,
                        high: outer(other.high, span.high, Ordering::Greater)?,
                    }
                }
                _ => kept.push(other),
            }
        }
        let mut at = 0;
        while at < kept.len() && is_before(&kept[at], &span)? {
            at += 1;
        }
        kept.insert(at, span);
        merged = kept;
    }
    Some(merged)
}

/// What lies in both.
fn common(left: Vec<Span>, right: Vec<Span>) -> Option<Vec<Span>> {
    let mut found = Vec::new();
    for first in &left {
        for second in &right {
            let span = Span {
                low: inner(first.low, second.low, Ordering::Less)?,
                high: inner(first.high, second.high, Ordering::Greater)?,
            };
            if !is_empty(&span) {
                found.push(span);
            }
        }
    }
    Some(found)
}

/// Whether a span ends before another begins, with a gap of at least one number.
fn is_before(first: &Span, second: &Span) -> Option<bool> {
    let (Some(end), Some(start)) = (first.high.value, second.low.value) else { return Some(false) };
    Some(match compared(Some(end), Some(start), Ordering::Less)? {
        Ordering::Less => true,
        Ordering::Equal => !first.high.is_closed && !second.low.is_closed,
        Ordering::Greater => false,
    })
}

/// The end that is further out, to the given side.
fn outer(left: End, right: End, side: Ordering) -> Option<End> {
    Some(match compared(left.value, right.value, side)? {
        Ordering::Equal => End { is_closed: left.is_closed || right.is_closed, ..left },
        order if order == side => left,
        _ => right,
    })
}

/// The end that is further in, from the given side.
fn inner(left: End, right: End, side: Ordering) -> Option<End> {
    Some(match compared(left.value, right.value, side)? {
        Ordering::Equal => End { is_closed: left.is_closed && right.is_closed, ..left },
        order if order == side => right,
        _ => left,
    })
}
