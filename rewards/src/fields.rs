//! Numbers that a data line brings for its own prompt, such as the length that it asks for.

use serde_json::Value;

use crate::{Answer, RewardError};

/// Up to here every whole number is itself as a JSON number, whichever program wrote it: 2^53.
const WHOLE_MAX: f64 = (1u64 << 53) as f64;

/// Characters of a value that an error repeats.
const VALUE_SHOWN: usize = 40;

/// A whole number from a field of the data line, from the config, or from the config where the line lacks the field.
#[derive(Clone, Debug)]
pub(crate) struct WholeNumber {
    field: Option<String>,
    default: Option<usize>,
}

/// The two keys of a config that a number may come from, with their values.
pub(crate) struct NumberKeys<'a> {
    /// The key of the number itself.
    pub(crate) key: &'a str,
    pub(crate) default: Option<usize>,
    /// The key that names the line's field.
    pub(crate) field_key: &'a str,
    pub(crate) field: &'a Option<String>,
}

impl WholeNumber {
    /// From the two keys of a config, of which one at least is given.
    ///
    /// # Errors
    /// Names the number's key if neither is given, the field's key if its field has no name.
    pub(crate) fn new(keys: NumberKeys<'_>) -> Result<Self, RewardError> {
        let NumberKeys { key, default, field_key, field } = keys;
        if default.is_none() && field.is_none() {
            return Err(RewardError::config(key, format!("must be given, or `{field_key}`, or both")));
        }
        check_name(field_key, field)?;
        Ok(WholeNumber { field: field.clone(), default })
    }

    /// The number for this prompt.
    ///
    /// # Errors
    /// Names the field that is no whole number, or is absent without a default.
    pub(crate) fn of(&self, answer: &Answer<'_>) -> Result<usize, RewardError> {
        let name = self.field.as_deref().unwrap_or_default();
        match (value(answer, name), self.default) {
            (Some(value), _) => {
                as_whole(value).ok_or_else(|| wrong(name, value, "a whole number of at least 0"))
            }
            (None, Some(default)) => Ok(default),
            (None, None) => Err(missing(name)),
        }
    }

    /// Name of what the number came from, for complaints about it.
    pub(crate) fn source<'a>(&'a self, answer: &Answer<'_>, key: &'a str) -> &'a str {
        self.field.as_deref().filter(|name| value(answer, name).is_some()).unwrap_or(key)
    }
}

/// Refuses a field without a name.
pub(crate) fn check_name(key: &str, name: &Option<String>) -> Result<(), RewardError> {
    match name {
        Some(name) if name.is_empty() => Err(RewardError::config(key, "must name a field")),
        _ => Ok(()),
    }
}

/// The field's value; `None` where the line does not have it. `null` is the same as absent.
pub(crate) fn value<'a>(answer: &Answer<'a>, name: &str) -> Option<&'a Value> {
    answer.fields.get(name).filter(|value| !value.is_null())
}

/// A JSON number without a fraction; 300.0 is 300, because many programs write all numbers as floats.
pub(crate) fn as_whole(value: &Value) -> Option<usize> {
    let number = value.as_f64()?;
    (number.fract() == 0.0 && (0.0..=WHOLE_MAX).contains(&number)).then_some(number as usize)
}

/// The complaint about a field that is not there.
pub(crate) fn missing(name: &str) -> RewardError {
    let reason = "is missing, and the config has no default for it".to_string();
    RewardError::Field { name: name.to_string(), reason }
}

/// The complaint about a field that holds something else.
pub(crate) fn wrong(name: &str, value: &Value, wanted: &str) -> RewardError {
    let shown: String = value.to_string().chars().take(VALUE_SHOWN).collect();
    RewardError::Field { name: name.to_string(), reason: format!("must be {wanted}, not {shown}") }
}

/// Asks a verifier about a completion of a data line with these fields.
#[cfg(test)]
pub(crate) fn ask(
    verifier: &dyn crate::Verifier,
    completion: &str,
    fields: &str,
) -> Result<crate::Verdict, RewardError> {
    let fields = serde_json::from_str(fields).unwrap();
    let (prompt, references, tokens, truncated) = ("", &[], 0, false);
    verifier.verify(&Answer { prompt, completion, references, fields: &fields, tokens, truncated })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(default: Option<usize>, field: Option<&str>, fields: &str) -> Result<usize, String> {
        let fields = serde_json::from_str(fields).unwrap();
        let (prompt, completion, references, tokens, truncated) = ("", "", &[], 0, false);
        let answer = Answer { prompt, completion, references, fields: &fields, tokens, truncated };
        let field = field.map(str::to_string);
        WholeNumber::new(NumberKeys { key: "n", default, field_key: "n_field", field: &field })
            .and_then(|number| number.of(&answer))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_line_goes_before_the_config() {
        assert_eq!(number(Some(5), None, r#"{"length": 7}"#), Ok(5));
        assert_eq!(number(Some(5), Some("length"), r#"{"length": 7}"#), Ok(7));
        assert_eq!(number(None, Some("length"), r#"{"length": 7.0}"#), Ok(7));
        assert_eq!(number(Some(5), Some("length"), "{}"), Ok(5));
        assert_eq!(number(Some(5), Some("length"), r#"{"length": null}"#), Ok(5));
    }

    #[test]
    fn what_is_missing_or_of_another_type_names_the_field() {
        let missing = "the field `length` is missing, and the config has no default for it";
        assert_eq!(number(None, Some("length"), "{}"), Err(missing.to_string()));
        for bad in [r#""7""#, "-1", "1.5", "[7]", "true", "1e300"] {
            let message = number(Some(5), Some("length"), &format!(r#"{{"length": {bad}}}"#)).unwrap_err();
            let start = "the field `length` must be a whole number of at least 0, not ";
            assert!(message.starts_with(start), "{message}");
        }
        let long = format!(r#"{{"length": "{}"}}"#, "x".repeat(1_000_000));
        assert!(number(None, Some("length"), &long).unwrap_err().len() < 200);
    }

    #[test]
    fn neither_key_or_an_empty_one_is_refused() {
        assert_eq!(number(None, None, "{}"), Err("n: must be given, or `n_field`, or both".to_string()));
        assert_eq!(number(None, Some(""), "{}"), Err("n_field: must name a field".to_string()));
    }
}
