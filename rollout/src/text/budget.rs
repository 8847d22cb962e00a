//! How much work and memory the rendering of one prompt may take: as much as what goes into it justifies.

use serde_json::Value;

/// Steps, and pieces of 64 bytes that are made, of any prompt: 6 MB. Looking at a letter of a text goes through the text and
/// is one step, so that time grows by the square of this.
const LEAST: u64 = 100_000;

/// Steps for each byte of the conversation or row: a template goes through it some times, and some of them look at all
/// messages for each message.
const FOR_A_BYTE: u64 = 64;

/// Steps of the longest prompt, of a million tokens and more: 256 MB.
const MOST: u64 = 4_000_000;

/// Bytes of a value beside its text.
const VALUE_BYTES: u64 = 8;

/// What an error says of a template that took more.
pub(super) const EXHAUSTED: &str = "takes more steps or memory than a prompt of this length may: it does not end, or makes \
                                    a text or list that is too long";

/// The steps for values that a template gets.
pub(super) fn steps<'a>(values: impl Iterator<Item = &'a Value>) -> u64 {
    let bytes: u64 = values.map(bytes_of).fold(0, u64::saturating_add);
    bytes.saturating_mul(FOR_A_BYTE).saturating_add(LEAST).min(MOST)
}

/// About the length of a value as JSON, which is not deep here.
fn bytes_of(value: &Value) -> u64 {
    let inner = match value {
        Value::String(text) => text.len() as u64,
        Value::Array(items) => items.iter().map(bytes_of).sum(),
        Value::Object(fields) => fields.iter().map(|(key, field)| key.len() as u64 + bytes_of(field)).sum(),
        _ => 0,
    };
    inner + VALUE_BYTES
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn steps_grow_with_what_goes_in() {
        assert_eq!(steps([].into_iter()), LEAST);
        assert_eq!(steps([&json!({"ab": ["c", 1, null]})].into_iter()), LEAST + 64 * (8 + 2 + 8 + 9 + 8 + 8));
        assert_eq!(steps([&json!("x".repeat(1 << 20))].into_iter()), MOST);
    }
}
