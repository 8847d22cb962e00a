//! What Jinja2's filters give as generators: true even when nothing is in them, empty once they were gone through, and
//! without a length, items by number or a JSON form.

use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Enumerator, Object, ObjectRepr, Rest, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};

use super::cost;

/// minijinja's own filters are kept under another name, which templates cannot say.
pub(super) const OWN: &str = "minijinja::";

/// The filters whose results are generators.
const GENERATORS: [&str; 9] =
    ["select", "reject", "selectattr", "rejectattr", "unique", "reverse", "batch", "slice", "items"];

pub(super) fn add_to(environment: &mut Environment<'static>) {
    let own = |name: &str| format!("{OWN}{name}");
    environment.add_filter(own("select"), filters::select);
    environment.add_filter(own("reject"), filters::reject);
    environment.add_filter(own("selectattr"), filters::selectattr);
    environment.add_filter(own("rejectattr"), filters::rejectattr);
    environment.add_filter(own("unique"), filters::unique);
    environment.add_filter(own("reverse"), filters::reverse);
    environment.add_filter(own("batch"), filters::batch);
    environment.add_filter(own("slice"), filters::slice);
    environment.add_filter(own("items"), filters::items);
    environment.add_filter(own("map"), filters::map);
    environment.add_filter(own("last"), filters::last);
    for name in GENERATORS {
        environment.add_filter(name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
            let items = state.apply_filter(&format!("{OWN}{name}"), &args.into_values())?;
            generator(state, items)
        });
    }
    environment.add_filter("map", map);
    environment.add_filter("last", last);
}

/// Goes through its items once.
#[derive(Debug)]
struct Generator(Mutex<std::vec::IntoIter<Value>>);

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    /// Python refuses an item by its number, and Jinja2 takes the refusal for an undefined value. Without an answer here
    /// minijinja would go through the items.
    fn get_value(self: &Arc<Self>, _: &Value) -> Option<Value> {
        Some(Value::UNDEFINED)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let this = Arc::clone(self);
        let next = move || this.0.lock().unwrap_or_else(PoisonError::into_inner).next();
        Enumerator::Iter(Box::new(std::iter::from_fn(next)))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

/// Whether it is one.
pub(super) fn is_generator(value: &Value) -> bool {
    value.downcast_object_ref::<Generator>().is_some()
}

/// The items as a generator; a text that was turned around is a text.
fn generator(state: &State<'_, '_>, items: Value) -> Result<Value, Error> {
    if items.as_str().is_some() {
        return Ok(items);
    }
    let items = cost::collected(state, items.try_iter()?)?;
    Ok(Value::from_object(Generator(Mutex::new(items.into_iter()))))
}

/// `map('filter', arguments...)` gives all arguments on, the named ones too; `map(attribute=...)` is minijinja's.
fn map(state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    let (values, filter, more) = match &args[..] {
        [values, filter, more @ ..] if filter.as_str().is_some() => (values, filter, more),
        _ => {
            let items = state.apply_filter(&format!("{OWN}map"), &args)?;
            return generator(state, items);
        }
    };
    let filter = filter.as_str().unwrap_or_default();
    let mut items = Vec::new();
    for value in cost::collected(state, values.try_iter()?)? {
        let call: Vec<Value> = std::iter::once(value).chain(more.iter().cloned()).collect();
        items.push(state.apply_filter(filter, &call)?);
    }
    generator(state, Value::from(items))
}

/// A generator cannot be gone through from its end.
fn last(state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = args.into_values();
    if args.first().is_some_and(is_generator) {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "a generator has no last item; write `|list|last`",
        ));
    }
    state.apply_filter(&format!("{OWN}last"), &args)
}
