//! JSON as a chat template sees it: Python's dicts, lists, numbers and texts.

use std::fmt;
use std::sync::Arc;

use indexmap::IndexMap;
use minijinja::value::{Enumerator, Object, ObjectExt, ObjectRepr, Tuple, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use serde_json::Value as Json;

use super::python;

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

/// Adds the filter `attr`: attributes alone, of a dict its methods and not its entries.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter("attr", |value: &Value, name: &Value| {
        let name_of_dict = name.as_str().filter(|_| value.downcast_object_ref::<Dict>().is_some());
        match name_of_dict {
            Some(name) => Ok(python::dict_method(name).unwrap_or_default()),
            None => minijinja::filters::attr(value, name),
        }
    });
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
        f.write_str(&python::repr(&Value::from_dyn_object(Arc::clone(self))))
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
