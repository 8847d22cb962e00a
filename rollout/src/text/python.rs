//! Python's side of a chat template: the methods, filters and tests that templates are written against and that
//! minijinja lacks or has otherwise.

mod characters;
pub(super) mod cost;
mod date;
mod filters;
mod generators;
mod json;
mod methods;
mod numbers;
mod percent;
mod strings;
mod tests_of_values;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

pub(super) use methods::dict_method;
pub(super) use numbers::number;

use cost::Growing;
use indexmap::IndexMap;
use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};

/// How deep values may lie in each other where they are printed: Python's own limit is of this order, and data has fewer.
const DEPTH_MAX: usize = 200;

/// Adds all of it to the environment of a template.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    minijinja_contrib::add_to_environment(environment);
    environment.set_unknown_method_callback(method);
    environment.add_function("strftime_now", date::strftime_now);
    environment.add_function("cycler", cycler);
    environment.add_filter("tojson", json::to_json);
    environment.add_function("dict", dict);
    environment.add_filter(super::source::PERCENT_FILTER, percent::percent_format);
    generators::add_to(environment);
    filters::add_to(environment);
    tests_of_values::add_to(environment);
}

/// `str(value)`: floats and what holds them are all that minijinja writes otherwise.
pub(super) fn printed(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Number | ValueKind::Map => repr(state, value),
        _ if is_list(value) => repr(state, value),
        _ => Ok(value.to_string()),
    }
}

/// Whether it is a list or tuple to Python. minijinja's `one + other` of two lists is an iterable with a length.
fn is_list(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Seq => true,
        ValueKind::Iterable => value.len().is_some(),
        _ => false,
    }
}

/// `repr(value)`.
pub(super) fn repr(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut out = Growing::new(Some(state));
    write_repr(&mut out, value, 0)?;
    Ok(out.text)
}

/// `repr` of a value of the data.
pub(super) fn repr_of_data(value: &Value) -> Result<String, Error> {
    let mut out = Growing::new(None);
    write_repr(&mut out, value, 0)?;
    Ok(out.text)
}

fn write_repr(out: &mut Growing<'_, '_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > DEPTH_MAX {
        let reason = format!("values that lie in each other more than {DEPTH_MAX} deep are printed");
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    }
    out.pay()?;
    if let Some(digits) = numbers::wide(value) {
        out.text.push_str(digits);
        return Ok(());
    }
    match value.kind() {
        ValueKind::Number if !value.is_integer() => {
            let float = f64::try_from(value.clone());
            out.text.push_str(&float.map_or_else(|_| value.to_string(), numbers::float_text));
        }
        ValueKind::String => out.text.push_str(&strings::repr(value.as_str().unwrap_or_default())),
        ValueKind::Undefined => out.text.push_str("Undefined"),
        _ if is_list(value) => write_list(out, value, depth)?,
        ValueKind::Map => write_map(out, value, depth)?,
        _ => out.text.push_str(&format!("{value:?}")),
    }
    Ok(())
}

fn write_list(out: &mut Growing<'_, '_, '_>, list: &Value, depth: usize) -> Result<(), Error> {
    let is_tuple = list.is_tuple();
    out.text.push(if is_tuple { '(' } else { '[' });
    let mut written = 0_usize;
    for item in list.try_iter().into_iter().flatten() {
        out.text.push_str(if written > 0 { ", " } else { "" });
        write_repr(out, &item, depth + 1)?;
        written += 1;
    }
    out.text.push_str(match (is_tuple, written) {
        (true, 1) => ",)",
        (true, _) => ")",
        (false, _) => "]",
    });
    Ok(())
}

fn write_map(out: &mut Growing<'_, '_, '_>, map: &Value, depth: usize) -> Result<(), Error> {
    out.text.push('{');
    for (written, key) in map.try_iter().into_iter().flatten().enumerate() {
        out.text.push_str(if written > 0 { ", " } else { "" });
        write_repr(out, &key, depth + 1)?;
        out.text.push_str(": ");
        write_repr(out, &map.get_item(&key).unwrap_or_default(), depth + 1)?;
    }
    out.text.push('}');
    Ok(())
}

/// A method of `str`, `list` or `dict`. Methods that change a value raise, as they do in the sandbox of transformers.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(text)) => {
            cost::bytes(state, text.len())?;
            strings::method(state, text, name, args)?
        }
        _ if is_list(value) => sequence_method(state, value, name, args)?,
        (ValueKind::Map, _) if name == "copy" => {
            let () = from_args(args)?;
            Some(value.clone())
        }
        _ => None,
    };
    match own {
        Some(found) => Ok(found),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// What Python prints with its address in memory, which no prompt holds twice: a generator, or a method without its call.
pub(super) fn has_no_text(value: &Value) -> Option<&'static str> {
    if generators::is_generator(value) {
        return Some("a generator is printed, not its items: write `|list` or `|join`");
    }
    methods::is_method(value)
        .then_some("a method of a dict is printed: write its call, or `['...']` for an entry")
}

/// `dict(pairs, name=value)`: of a mapping or of a list of pairs.
fn dict(state: &mut State<'_, '_>, from: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let mut entries: Vec<(Value, Value)> = Vec::new();
    if let Some(from) = from.filter(|from| !from.is_undefined()) {
        let is_map = from.kind() == ValueKind::Map;
        for item in cost::collected(state, from.try_iter()?)? {
            let pair = match is_map {
                true => vec![item.clone(), from.get_item(&item)?],
                false => item.try_iter()?.take(3).collect(),
            };
            let wrong = |_| Error::new(ErrorKind::InvalidOperation, "dict takes pairs of a key and a value");
            let [key, value]: [Value; 2] = pair.try_into().map_err(wrong)?;
            entries.push((key, value));
        }
    }
    for name in named.args() {
        entries.push((Value::from(name), named.get(name)?));
    }
    Ok(Value::from_object(entries.into_iter().collect::<IndexMap<Value, Value>>()))
}

/// `cycler('a', 'b')`: gives its items one after the other, again and again.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

fn cycler(items: Rest<Value>) -> Result<Value, Error> {
    if items.is_empty() {
        return Err(Error::new(ErrorKind::MissingArgument, "at least one item has to be provided"));
    }
    Ok(Value::from_object(Cycler { items: items.0, at: AtomicUsize::new(0) }))
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.item(self.at.load(Relaxed)))
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        name: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        let () = from_args(args)?;
        match name {
            "next" => Ok(self.item(self.at.fetch_add(1, Relaxed))),
            "reset" => {
                self.at.store(0, Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

impl Cycler {
    fn item(&self, at: usize) -> Value {
        self.items[at % self.items.len()].clone()
    }
}

fn sequence_method(
    state: &State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    Ok(match name {
        "index" => {
            let (wanted,) = from_args::<(&Value,)>(args)?;
            let place = cost::collected(state, value.try_iter()?)?.iter().position(|item| item == wanted);
            let missing = || Error::new(ErrorKind::InvalidOperation, format!("{wanted:?} is not in list"));
            Some(Value::from(place.ok_or_else(missing)?))
        }
        "count" => {
            let (wanted,) = from_args::<(&Value,)>(args)?;
            let items = cost::collected(state, value.try_iter()?)?;
            Some(Value::from(items.iter().filter(|item| *item == wanted).count()))
        }
        "copy" => {
            let () = from_args(args)?;
            Some(value.clone())
        }
        _ => None,
    })
}
