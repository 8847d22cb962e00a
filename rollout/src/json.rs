//! JSON of data as it is written: a key that stands twice in an object is an error at every depth, and a number keeps
//! its digits, its `e` or `E` and its sign. serde_json takes the last of two keys and writes `1E5` as `1e+5`.

use serde::de::IgnoredAny;
use serde_json::{Map, Number, Value};

/// How deep values may lie in each other, as in serde_json: deeper ones could overflow the stack of a thread.
const DEPTH_MAX: usize = 127;

/// The value that a text is.
///
/// # Errors
/// Says what is wrong, and where.
pub(crate) fn value(written: &str) -> Result<Value, String> {
    // The walk below relies on a text that is JSON.
    serde_json::from_str::<IgnoredAny>(written).map_err(|error| not_json(written, error))?;
    Walk { written, at: 0, path: String::new() }.value(0)
}

/// The object that a text is, such as a row of a file.
///
/// # Errors
/// Says what is wrong, and where.
pub fn object(written: &str) -> Result<Map<String, Value>, String> {
    match value(written)? {
        Value::Object(fields) => Ok(fields),
        _ => Err("not a JSON object".to_string()),
    }
}

/// What is wrong with a text, in the words of the reader of values, which has more of them and the place in the text.
fn not_json(written: &str, error: serde_json::Error) -> String {
    let error = serde_json::from_str::<Value>(written).err().unwrap_or(error);
    format!("not JSON: {error}")
}

/// A place in a text that is JSON, but for the escapes of its strings.
struct Walk<'a> {
    written: &'a str,
    at: usize,
    /// The keys that lead to the place, for errors.
    path: String,
}

impl Walk<'_> {
    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err(format!(
                "not JSON that is read: values lie in each other more than {DEPTH_MAX} deep"
            ));
        }
        self.pass_space();
        match self.byte() {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string().map(Value::String),
            b't' => Ok(self.word(4, Value::Bool(true))),
            b'f' => Ok(self.word(5, Value::Bool(false))),
            b'n' => Ok(self.word(4, Value::Null)),
            _ => Ok(self.number()),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, String> {
        let mut fields = Map::new();
        let outside = self.path.len();
        self.at += 1;
        while self.has_next(b'}') {
            let key = self.string()?;
            self.pass_space();
            self.at += 1;
            let point = if outside == 0 { "" } else { "." };
            self.path.push_str(&format!("{point}{key}"));
            if fields.contains_key(&key) {
                return Err(format!("the key `{}` stands twice", self.path));
            }
            fields.insert(key, self.value(depth + 1)?);
            self.path.truncate(outside);
        }
        Ok(Value::Object(fields))
    }

    fn array(&mut self, depth: usize) -> Result<Value, String> {
        let mut items = Vec::new();
        let outside = self.path.len();
        self.at += 1;
        while self.has_next(b']') {
            self.path.push_str(&format!("[{}]", items.len()));
            items.push(self.value(depth + 1)?);
            self.path.truncate(outside);
        }
        Ok(Value::Array(items))
    }

    /// Whether another item comes before the bracket; passes what stands between.
    fn has_next(&mut self, close: u8) -> bool {
        self.pass_space();
        if self.byte() == b',' {
            self.at += 1;
            self.pass_space();
        }
        let is_next = self.byte() != close;
        self.at += usize::from(!is_next);
        is_next
    }

    fn string(&mut self) -> Result<String, String> {
        let start = self.at;
        let bytes = self.written.as_bytes();
        let mut is_plain = true;
        self.at += 1;
        while self.byte() != b'"' {
            let is_escape = bytes[self.at] == b'\\';
            is_plain &= !is_escape;
            self.at += 1 + usize::from(is_escape);
        }
        self.at += 1;
        if is_plain {
            return Ok(self.written[start + 1..self.at - 1].to_string());
        }
        // An escape may stand for half a character.
        serde_json::from_str(&self.written[start..self.at]).map_err(|error| not_json(self.written, error))
    }

    fn number(&mut self) -> Value {
        let rest = &self.written[self.at..];
        let is_digit =
            |letter: char| letter.is_ascii_digit() || matches!(letter, '+' | '-' | '.' | 'e' | 'E');
        let digits = &rest[..rest.find(|letter| !is_digit(letter)).unwrap_or(rest.len())];
        self.at += digits.len();
        Value::Number(Number::from_string_unchecked(digits.to_string()))
    }

    fn word(&mut self, bytes: usize, value: Value) -> Value {
        self.at += bytes;
        value
    }

    fn pass_space(&mut self) {
        while matches!(self.byte(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    /// The byte here. Behind the end there is none, which is no byte of JSON.
    fn byte(&self) -> u8 {
        self.written.as_bytes().get(self.at).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_that_stands_twice_is_named_with_its_place() {
        for (written, path) in [
            (r#"{"a": 1, "a": 1}"#, "a"),
            (r#"{"x": {"y": 1, "y": 2}}"#, "x.y"),
            (r#"{"m": [{"role": "user"}, {"role": "user", "z": 0, "role": "user"}]}"#, "m[1].role"),
            (r#"[{"a": 1, "\u0061": 2}]"#, "[0].a"),
            (r#"{"a": {}, "b": {"a": {"a": 1}}, "b": 0}"#, "b"),
        ] {
            let error = value(written).expect_err(written);
            assert_eq!(error, format!("the key `{path}` stands twice"));
        }
    }

    #[test]
    fn numbers_stand_as_they_were_written() {
        for digits in ["1e400", "1E5", "1e+5", "-0.0", "1.50", "0", "123456789012345678901234567890", "5e-7"]
        {
            let fields = object(&format!("{{\"a\":[{digits} , {digits}]}}")).expect("JSON");
            assert_eq!(Value::Object(fields).to_string(), format!("{{\"a\":[{digits},{digits}]}}"));
        }
    }

    #[test]
    fn what_is_no_json_is_said_with_its_place() {
        for (written, said) in [
            ("", "not JSON: EOF"),
            ("{\"a\": 01}", "not JSON: invalid number at line 1 column 8"),
            ("{\"a\":\n \"\\ud800\"}", "not JSON: unexpected end of hex escape at line 2"),
            ("{\"a\": 1,}", "not JSON: trailing comma"),
            ("{} x", "not JSON: trailing characters"),
            ("{\"a\0b\": 1}", "not JSON: control character"),
            ("3", "not a JSON object"),
        ] {
            let error = object(written).expect_err(written);
            assert!(error.starts_with(said), "{written}: {error}");
        }
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(value(&deep(DEPTH_MAX)).is_ok());
        assert!(value(&deep(100_000)).is_err_and(|error| error.contains("deep")));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn all_json_is_read_as_serde_json_reads_it(json in any_json()) {
            let compact = json.to_string();
            for written in [&compact, &serde_json::to_string_pretty(&json).expect("JSON")] {
                prop_assert_eq!(value(written).map(|read| read.to_string()), Ok(compact.clone()));
            }
        }

        #[test]
        fn no_text_makes_it_panic(written in "[\\[\\]{}\",:0-9eE+.\\\\u a-]{0,40}") {
            match (value(&written), serde_json::from_str::<Value>(&written)) {
                (Ok(_), Ok(_)) => {}
                (Err(error), expected) => {
                    prop_assert_eq!(expected.is_ok(), error.contains("stands twice"), "{}", error);
                }
                (Ok(_), Err(error)) => prop_assert!(false, "{}", error),
            }
        }
    }
}
