//! The tests of Jinja2 (`x is sequence`) that minijinja answers otherwise: they ask Python whether a value has a length,
//! items or an iterator.

use minijinja::value::ValueKind;
use minijinja::{Environment, Value};

use super::numbers::wide;

pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_test("callable", is_callable);
    environment.add_test("integer", is_integer);
    environment.add_test("number", |value: &Value| {
        matches!(value.kind(), ValueKind::Number | ValueKind::Bool) || wide(value).is_some()
    });
    environment.add_test("lower", |value: &Value| is_in_case(value, char::is_lowercase, char::is_uppercase));
    environment.add_test("upper", |value: &Value| is_in_case(value, char::is_uppercase, char::is_lowercase));
}

/// Whether Python can iterate over it: `None` and numbers cannot be iterated over, an undefined value is empty.
fn is_iterable(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Undefined
            | ValueKind::String
            | ValueKind::Bytes
            | ValueKind::Seq
            | ValueKind::Map
            | ValueKind::Iterable
    )
}

/// Whether it has a length and items: texts and mappings do.
fn is_sequence(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Undefined | ValueKind::String | ValueKind::Bytes | ValueKind::Seq | ValueKind::Map
    ) || value.kind() == ValueKind::Iterable && value.len().is_some()
}

/// Macros and functions are; data is not.
fn is_callable(value: &Value) -> bool {
    value.kind() == ValueKind::Plain && wide(value).is_none() || value.kind() == ValueKind::Undefined
}

/// `True` and `False` are no integers to Jinja2.
fn is_integer(value: &Value) -> bool {
    value.kind() == ValueKind::Number && value.is_integer() || wide(value).is_some()
}

/// `str(value).islower()` or `isupper()`: a letter in the case, and none in the other.
fn is_in_case(value: &Value, wanted: fn(char) -> bool, other: fn(char) -> bool) -> bool {
    let text = value.to_string();
    text.chars().any(wanted) && !text.chars().any(other)
}
