//! The lines between a reward and its plugin: one JSON object a request and one a reply. What a line means is
//! decided here, what follows from it is not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Answer, Verdict};

/// A request without its id, which is given when it is sent.
#[derive(Serialize)]
struct Request<'a> {
    prompt: &'a str,
    completion: &'a str,
    answer: Option<Reference<'a>>,
    fields: &'a Map<String, Value>,
    tokens: usize,
    truncated: bool,
}

/// One reference answer as a text, several as a list of texts.
#[derive(Serialize)]
#[serde(untagged)]
enum Reference<'a> {
    One(&'a str),
    AnyOf(&'a [String]),
}

/// A reply's keys. An unknown one is refused: it may be a misspelt `parts`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reply {
    id: u64,
    reward: Option<f64>,
    #[serde(default)]
    parts: Option<BTreeMap<String, f64>>,
    #[serde(default)]
    error: Option<String>,
}

/// What a line from a plugin says.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    /// The request of this id is judged.
    Verdict(u64, Verdict),
    /// The plugin cannot judge the request of this id, and says why.
    Error(u64, String),
    /// The line is no reply. The id is there if that much could be read.
    Nonsense(Option<u64>, String),
}

/// A request's JSON without its id.
pub(super) fn body(answer: &Answer<'_>) -> String {
    let request = Request {
        prompt: answer.prompt,
        completion: answer.completion,
        answer: match answer.references {
            [] => None,
            [one] => Some(Reference::One(one)),
            several => Some(Reference::AnyOf(several)),
        },
        fields: answer.fields,
        tokens: answer.tokens,
        truncated: answer.truncated,
    };
    serde_json::to_string(&request).expect("texts and numbers can be written as JSON")
}

/// The line of a request under this id, with its end.
pub(super) fn line(id: u64, body: &str) -> Vec<u8> {
    let rest = body.strip_prefix('{').expect("a body is an object");
    format!("{{\"id\":{id},{rest}\n").into_bytes()
}

/// Reads a line without its end.
pub(super) fn read(line: &[u8]) -> Said {
    let value = match serde_json::from_slice::<Value>(line) {
        Ok(value) if value.is_object() => value,
        // A reply that is nearly one: the parser says where it breaks off.
        Err(error) if line.trim_ascii_start().starts_with(b"{") => {
            return Said::Nonsense(None, format!("not JSON ({error}): {}", shown(line)));
        }
        Ok(_) | Err(_) => {
            let reason = "not a JSON object; standard output is for replies only, print to standard error";
            return Said::Nonsense(None, format!("{reason}: {}", shown(line)));
        }
    };
    let id = value.get("id").and_then(Value::as_u64);
    match serde_json::from_value(value) {
        Err(error) => Said::Nonsense(id, format!("{error} in {}", shown(line))),
        Ok(Reply { id, error: Some(error), .. }) => Said::Error(id, shown(error.as_bytes())),
        Ok(Reply { id, reward: Some(value), parts, .. }) => {
            let parts = parts.unwrap_or_default();
            // JSON has no infinite number, but one that is too large for 64 bits is read as one.
            if parts.values().chain([&value]).any(|number| !number.is_finite()) {
                return Said::Nonsense(Some(id), format!("number out of range in {}", shown(line)));
            }
            Said::Verdict(id, Verdict { value, parts, ..Verdict::default() })
        }
        Ok(Reply { id, .. }) => {
            Said::Nonsense(Some(id), format!("neither `reward` nor `error` in {}", shown(line)))
        }
    }
}

/// The start of a plugin's text for a message.
pub(super) fn shown(text: &[u8]) -> String {
    /// Enough to recognise a line by; a plugin's own log has the rest.
    const CHARACTERS: usize = 200;
    // A character has at most 4 bytes, so this much holds the characters that are shown.
    plain(&text[..text.len().min(4 * CHARACTERS)]).chars().take(CHARACTERS).collect()
}

/// A plugin's text on one line that a terminal shows and does not obey.
pub(super) fn plain(text: &[u8]) -> String {
    let character = |character: char| if character.is_control() { ' ' } else { character };
    String::from_utf8_lossy(text).trim_end().chars().map(character).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};
    use serde_json::json;

    use super::*;

    fn nonsense(line: &str) -> (Option<u64>, String) {
        match read(line.as_bytes()) {
            Said::Nonsense(id, reason) => (id, reason),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_one_line_with_every_field() {
        let fields = serde_json::from_str(r#"{"source": "AIME", "year": 2024}"#).unwrap();
        let answer = Answer {
            prompt: "1+1\n",
            completion: "\0 \u{2028}\r\n\"}",
            references: &["2".to_string()],
            fields: &fields,
            tokens: 7,
            truncated: true,
        };
        let sent = line(12, &body(&answer));
        assert_eq!(sent.iter().filter(|&&byte| byte == b'\n').count(), 1);
        assert!(!sent.contains(&0) && !sent.contains(&b'\r'));
        let expected = json!({
            "id": 12, "prompt": "1+1\n", "completion": "\0 \u{2028}\r\n\"}", "answer": "2",
            "fields": {"source": "AIME", "year": 2024}, "tokens": 7, "truncated": true,
        });
        assert_eq!(serde_json::from_slice::<Value>(&sent).unwrap(), expected);
        let without = line(0, &body(&Answer { references: &[], ..answer }));
        assert_eq!(serde_json::from_slice::<Value>(&without).unwrap()["answer"], Value::Null);
        let several = ["2", "two"].map(str::to_string);
        let several = line(0, &body(&Answer { references: &several, ..answer }));
        assert_eq!(serde_json::from_slice::<Value>(&several).unwrap()["answer"], json!(["2", "two"]));
    }

    #[test]
    fn numbers_of_the_data_keep_their_digits_and_fields_their_order() {
        let written =
            r#"{"z":3.14159265358979323846,"a":12.50,"m":[1e+400,-0.0,123456789012345678901234567890]}"#;
        let fields = serde_json::from_str(written).unwrap();
        let (prompt, completion, references, tokens, truncated) = ("", "", &[], 0, false);
        let sent = body(&Answer { prompt, completion, references, fields: &fields, tokens, truncated });
        assert!(sent.contains(&format!("\"fields\":{written}")), "{sent}");
    }

    #[test]
    fn replies_are_read_and_faults_are_told_apart() {
        let parts = BTreeMap::from([("unit".to_string(), -1.0)]);
        let verdict = Said::Verdict(3, Verdict { value: 0.5, parts, ..Verdict::default() });
        assert_eq!(read(br#"{"id":3,"reward":0.5,"parts":{"unit":-1}}"#), verdict);
        assert_eq!(read(br#"{"id":3,"reward":1,"parts":null}"#), Said::Verdict(3, Verdict::from(1.0)));
        let error = Said::Error(4, "no unit".to_string());
        assert_eq!(read(br#"{"id":4,"reward":null,"error":"no unit"}"#), error);
        // With the id it is known whose reply it is.
        for line in [
            r#"{"id":5}"#,
            r#"{"id":5,"reward":null}"#,
            r#"{"id":5,"reward":"1"}"#,
            r#"{"id":5,"reward":1,"part":{}}"#,
            r#"{"id":5,"reward":1,"parts":{"a":null}}"#,
            r#"{"id":5,"reward":1e999}"#,
            r#"{"id":5,"reward":1,"parts":{"a":-1e999}}"#,
        ] {
            assert_eq!(nonsense(line).0, Some(5), "{line}");
        }
        for line in ["", "hello", r#"{"id":5,"reward":NaN}"#, r#"{"reward":1}"#] {
            assert_eq!(nonsense(line).0, None, "{line}");
        }
        // A print that was left in a plugin.
        for line in ["debug", "42", "[1]", ""] {
            assert!(nonsense(line).1.contains("print to standard error"), "{line}");
        }
        assert!(nonsense("{\"id\":5,").1.starts_with("not JSON (EOF"), "{:?}", nonsense("{\"id\":5,"));
        assert!(matches!(read(b"{\"id\":1,\"reward\":1,\"error\":\"\xff\"}"), Said::Nonsense(None, _)));
        assert!(nonsense(&"[".repeat(1_000_000)).1.chars().count() < 400);
    }

    proptest! {
        #[test]
        fn every_text_comes_back_as_it_was(completion in any::<String>(), id in any::<u64>()) {
            let fields = Map::new();
            let answer = Answer {
                prompt: "p", completion: &completion, references: &[], fields: &fields, tokens: 1, truncated: false,
            };
            let sent = line(id, &body(&answer));
            let value: Value = serde_json::from_slice(&sent).unwrap();
            prop_assert_eq!(value["completion"].as_str(), Some(completion.as_str()));
            prop_assert_eq!(value["id"].as_u64(), Some(id));
        }

        #[test]
        fn no_line_is_read_as_what_it_is_not(line in any::<Vec<u8>>()) {
            prop_assert!(matches!(read(&line), Said::Nonsense(_, _)), "{:?}", line);
        }
    }
}
