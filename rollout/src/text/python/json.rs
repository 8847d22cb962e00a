//! `json.dumps`, which the filter `tojson` is in the environment of transformers: nothing is escaped for HTML, and
//! letters of every script stay as they are unless `ensure_ascii` is asked for.

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::characters::spaces;
use super::cost::Growing;
use super::numbers::{float_text, wide};

/// How deep values may lie in each other: Python's own limit is of this order.
const DEPTH_MAX: usize = 200;

struct Writer<'s, 't, 'e> {
    ascii: bool,
    indent: Option<String>,
    between_items: String,
    after_key: String,
    sorted: bool,
    out: Growing<'s, 't, 'e>,
}

/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn to_json(state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    type Args = (Value, Option<Value>, Option<Value>, Option<Value>, Kwargs);
    let (value, ensure_ascii, indent, separators, named) = from_args::<Args>(&args.into_values())?;
    let option = |given: Option<Value>, name: &str| -> Result<Value, Error> {
        let named: Option<Value> = named.get(name)?;
        Ok(given.or(named).unwrap_or(Value::from(())))
    };
    let (ensure_ascii, indent) = (option(ensure_ascii, "ensure_ascii")?, option(indent, "indent")?);
    let (separators, sort_keys) = (option(separators, "separators")?, option(None, "sort_keys")?);
    named.assert_all_used()?;
    let indent = match (indent.as_str(), indent.is_none()) {
        (_, true) => None,
        (Some(text), _) => Some(text.to_owned()),
        (None, _) => Some(spaces(i64::try_from(indent)?)?),
    };
    let (between_items, after_key) = if separators.is_none() {
        (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned())
    } else {
        let texts: Vec<String> =
            separators.try_iter()?.filter_map(|text| text.as_str().map(str::to_owned)).collect();
        <[String; 2]>::try_from(texts).map_err(|_| refused("separators must be two texts"))?.into()
    };
    let (ascii, sorted) = (ensure_ascii.is_true(), sort_keys.is_true());
    let mut writer =
        Writer { ascii, indent, between_items, after_key, sorted, out: Growing::new(Some(&*state)) };
    writer.value(&value, 0)?;
    Ok(Value::from(writer.out.text))
}

fn refused(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::BadSerialization, reason.into())
}

impl Writer<'_, '_, '_> {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(refused(format!("values in each other more than {DEPTH_MAX} deep")));
        }
        self.out.pay()?;
        if let Some(digits) = wide(value) {
            self.out.text.push_str(digits);
            return Ok(());
        }
        match value.kind() {
            ValueKind::None => self.out.text.push_str("null"),
            ValueKind::Bool => self.out.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.text.push_str(&number_text(value)?),
            ValueKind::String => self.text(value.as_str().unwrap_or_default()),
            _ if super::is_list(value) => self.items(value, depth)?,
            ValueKind::Map => self.entries(value, depth)?,
            other => return Err(refused(format!("an object of type {other} is not JSON serializable"))),
        }
        Ok(())
    }

    fn line(&mut self, depth: usize) -> Result<(), Error> {
        if let Some(indent) = &self.indent {
            self.out.pay_for(indent.len().saturating_mul(depth))?;
            self.out.text.push('\n');
            self.out.text.push_str(&indent.repeat(depth));
        }
        Ok(())
    }

    fn items(&mut self, items: &Value, depth: usize) -> Result<(), Error> {
        self.out.text.push('[');
        let mut written = 0;
        for item in items.try_iter()? {
            self.separate(&mut written, depth + 1)?;
            self.value(&item, depth + 1)?;
        }
        self.close(']', written, depth)
    }

    fn entries(&mut self, fields: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = fields.try_iter()?.collect();
        if self.sorted {
            keys.sort();
        }
        self.out.text.push('{');
        let mut written = 0;
        for key in keys {
            self.separate(&mut written, depth + 1)?;
            let text = match (key.kind(), key.as_str()) {
                (_, Some(text)) => text.to_owned(),
                (ValueKind::None, _) => "null".to_owned(),
                (ValueKind::Bool, _) => key.is_true().to_string(),
                (ValueKind::Number, _) => number_text(&key)?,
                (other, _) => return Err(refused(format!("a key of type {other} is not JSON serializable"))),
            };
            self.text(&text);
            self.out.pay_for(self.after_key.len())?;
            self.out.text.push_str(&self.after_key);
            self.value(&fields.get_item(&key)?, depth + 1)?;
        }
        self.close('}', written, depth)
    }

    fn separate(&mut self, written: &mut usize, depth: usize) -> Result<(), Error> {
        if *written > 0 {
            self.out.pay_for(self.between_items.len())?;
            self.out.text.push_str(&self.between_items);
        }
        *written += 1;
        self.line(depth)
    }

    fn close(&mut self, bracket: char, written: usize, depth: usize) -> Result<(), Error> {
        if written > 0 {
            self.line(depth)?;
        }
        self.out.text.push(bracket);
        Ok(())
    }

    fn text(&mut self, text: &str) {
        self.out.text.push('"');
        for character in text.chars() {
            match character {
                '"' => self.out.text.push_str("\\\""),
                '\\' => self.out.text.push_str("\\\\"),
                '\n' => self.out.text.push_str("\\n"),
                '\r' => self.out.text.push_str("\\r"),
                '\t' => self.out.text.push_str("\\t"),
                '\u{8}' => self.out.text.push_str("\\b"),
                '\u{c}' => self.out.text.push_str("\\f"),
                '\0'..='\u{1f}' => self.out.text.push_str(&format!("\\u{:04x}", u32::from(character))),
                '\u{80}'.. if self.ascii => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        self.out.text.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                _ => self.out.text.push(character),
            }
        }
        self.out.text.push('"');
    }
}

fn number_text(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    let float = f64::try_from(value.clone())?;
    Ok(match float {
        _ if float.is_nan() => "NaN".to_owned(),
        _ if float.is_infinite() => if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        _ => float_text(float),
    })
}
