//! JSON as a chat template sees it: Python's dicts, lists, numbers and texts.

use std::fmt;
use std::sync::Arc;

use indexmap::IndexMap;
use minijinja::value::{Enumerator, Object, ObjectExt, ObjectRepr, Tuple, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use serde_json::Value as Json;

use super::python::{self, cost};
use super::source::KEPT_FILTER;

/// A value of the data. Objects keep the order of their keys.
pub(super) fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(digits) => python::number(&digits.to_string()),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(value).collect::<Vec<Value>>()),
        Json::Object(fields) => {
            Value::from_object(Dict(fields.iter().map(|(key, field)| (key.clone(), value(field))).collect()))
        }
    }
}

/// How deep values that a template makes may lie in each other: comparing and giving up what is deeper would take more
/// stack than a thread has.
const DEPTH_MAX: usize = 200;

/// Adds the filter `attr`: attributes alone, of a dict its methods and not its entries. And what values pass that are set.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter(KEPT_FILTER, kept);
    environment.add_filter("attr", |value: &Value, name: &Value| {
        let name_of_dict = name.as_str().filter(|_| value.downcast_object_ref::<Dict>().is_some());
        match name_of_dict {
            Some(name) => Ok(python::dict_method(name).unwrap_or_default()),
            None => minijinja::filters::attr(value, name),
        }
    });
}

/// A value that is set. It is gone through, which is paid for: a few steps can make a value of a billion parts, each of two
/// of the one before, that is compared or printed without an end.
fn kept(state: &mut State<'_, '_>, value: Value) -> Result<Value, Error> {
    let mut left = vec![Held { value: value.clone(), depth: 0 }];
    while let Some(Held { value: holder, depth }) = left.pop() {
        if depth > DEPTH_MAX {
            let reason = format!("values lie in each other more than {DEPTH_MAX} deep");
            return Err(Error::new(ErrorKind::InvalidOperation, reason));
        }
        for value in cost::collected(state, held(&holder))? {
            if holds_others(&value) {
                left.push(Held { value, depth: depth + 1 });
            }
        }
    }
    Ok(value)
}

/// A value inside others.
struct Held {
    value: Value,
    depth: usize,
}

/// Whether a template has made it of other values. An object of the data is as deep as JSON is, and a generator can be
/// gone through once.
fn holds_others(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Seq => true,
        ValueKind::Map => value.downcast_object_ref::<Dict>().is_none(),
        ValueKind::Iterable => value.len().is_some(),
        _ => false,
    }
}

/// The values that one has in it.
fn held(value: &Value) -> Box<dyn Iterator<Item = Value> + '_> {
    if !holds_others(value) {
        return Box::new(std::iter::empty());
    }
    match (value.kind(), value.try_iter()) {
        (ValueKind::Map, Ok(keys)) => Box::new(keys.filter_map(|key| value.get_item(&key).ok())),
        (_, Ok(items)) => Box::new(items),
        (_, Err(_)) => Box::new(std::iter::empty()),
    }
}

/// An object of the data. In Jinja2 `fields.items()` is the method also where a field is called `items`, as it is in the
/// schema of every tool that takes a list.
#[derive(Debug)]
struct Dict(IndexMap<String, Value>);

impl Object for Dict {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_str()?).cloned()
    }

    /// `fields.items` is the method, `fields['items']` the entry.
    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        python::dict_method(key).or_else(|| self.0.get(key).cloned())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        self.mapped_enumerator(|this| Box::new(this.0.keys().map(|key| Value::from(key.as_str()))))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.0.len())
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = python::repr_of_data(&Value::from_dyn_object(Arc::clone(self)));
        f.write_str(&shown.map_err(|_| fmt::Error)?)
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        if method != "get" && matches!(method, "items" | "keys" | "values" | "copy") {
            let () = from_args(args)?;
        }
        Ok(match method {
            "get" => {
                let (key, default) = from_args::<(&Value, Option<Value>)>(args)?;
                self.get_value(key).or(default).unwrap_or_else(|| Value::from(()))
            }
            "items" => {
                let pairs = self.0.iter();
                pairs
                    .map(|(key, field)| Value::from(Tuple::from([Value::from(key.as_str()), field.clone()])))
                    .collect::<Vec<Value>>()
                    .into()
            }
            "keys" => self.0.keys().map(|key| Value::from(key.as_str())).collect::<Vec<Value>>().into(),
            "values" => self.0.values().cloned().collect::<Vec<Value>>().into(),
            "copy" => Value::from_dyn_object(Arc::clone(self)),
            _ => return Err(Error::from(ErrorKind::UnknownMethod)),
        })
    }
}
