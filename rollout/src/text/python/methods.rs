//! Methods of a dict that are not called: `{% if fields.items %}`.

use std::sync::Arc;

use minijinja::Value;
use minijinja::value::{Object, ObjectRepr};

/// The names of Python's methods of a dict.
const DICT: [&str; 11] =
    ["clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];

/// It is there and true, and has no text.
#[derive(Debug)]
struct Method;

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// The method of this name, if a dict has one.
pub(in crate::text) fn dict_method(name: &str) -> Option<Value> {
    DICT.contains(&name).then(|| Value::from_object(Method))
}

/// Whether it is a method that is not called.
pub(super) fn is_method(value: &Value) -> bool {
    value.downcast_object_ref::<Method>().is_some()
}
