//! Times of day: `3:30 PM` is `15:30` and `3:30 p.m.`, and not `3:30 AM`. Where one side does not say the half of
//! the day, it may be left out as a unit may.

use crate::latex::expression::Expression;
use crate::latex::unit::Unit;

struct Clock {
    /// Hours, minutes, seconds, without zeros at the end.
    parts: Vec<i64>,
    /// Whether it is after noon, if that is said.
    afternoon: Option<bool>,
}

impl Clock {
    fn of(expression: &Expression) -> Option<Clock> {
        let (inner, afternoon) = match expression {
            Expression::Measure(inner, unit) if unit.is_day_half() => {
                (&**inner, Some(*unit == Unit::named("pm")))
            }
            other => (other, None),
        };
        let parts = match inner {
            Expression::Proportion(parts) => &parts[..],
            single => std::slice::from_ref(single),
        };
        let whole = |part: &Expression| match part {
            Expression::Number(number) if !number.plain.is_empty() => number.value.to_i64(),
            _ => None,
        };
        let mut parts: Vec<i64> = parts.iter().map(whole).collect::<Option<_>>()?;
        if !is_of_day(&parts, afternoon.is_some()) {
            return None;
        }
        while parts.len() > 1 && parts.last() == Some(&0) {
            parts.pop();
        }
        Some(Clock { parts, afternoon })
    }

    /// The time of a clock with 24 hours.
    fn of_day(&self) -> Vec<i64> {
        let mut parts = self.parts.clone();
        if let (Some(hour), Some(afternoon)) = (parts.first_mut(), self.afternoon) {
            *hour = *hour % 12 + if afternoon { 12 } else { 0 };
        }
        parts
    }
}

/// Whether a day has this time: `75:30` and `3:75` are none, and `15:30 PM` is said by nobody.
fn is_of_day(parts: &[i64], has_half: bool) -> bool {
    let [hour, rest @ ..] = parts else { return false };
    let hours = if has_half { 1..=12 } else { 0..=24 };
    hours.contains(hour) && rest.len() <= 2 && rest.iter().all(|part| (0..60).contains(part))
}

/// Whether two times are the same; `None` if neither says the half of its day.
pub(super) fn is_same_time(left: &Expression, right: &Expression) -> Option<bool> {
    let says_half = |side: &Expression| matches!(side, Expression::Measure(_, unit) if unit.is_day_half());
    if !says_half(left) && !says_half(right) {
        return None;
    }
    // What is no time has none, whatever its digits are.
    let (Some(left), Some(right)) = (Clock::of(left), Clock::of(right)) else { return Some(false) };
    let is_bare = left.afternoon.is_none() || right.afternoon.is_none();
    Some(left.of_day() == right.of_day() || is_bare && left.parts == right.parts)
}
