//! Values inside of values, by the keys that lead to them.

use toml::Value;

/// The way to the first table inside that has this key: serde names no place inside of a tagged table.
pub(super) fn holder(value: &Value, key: &str) -> Option<Vec<String>> {
    let inside = |name: String, inner: &Value| {
        let rest = holder(inner, key)?;
        Some(std::iter::once(name).chain(rest).collect())
    };
    match value {
        Value::Table(table) if table.contains_key(key) => Some(Vec::new()),
        Value::Table(table) => table.iter().find_map(|(name, inner)| match inner {
            Value::Array(items) => {
                items.iter().enumerate().find_map(|(place, item)| inside(format!("{name}[{place}]"), item))
            }
            inner => inside(name.clone(), inner),
        }),
        _ => None,
    }
}

pub(super) fn at<'a>(value: &'a Value, keys: &[String]) -> Option<&'a Value> {
    keys.iter().try_fold(value, |value, key| value.get(key.as_str()))
}

pub(super) fn remove(value: &mut Value, keys: &[&str]) {
    let Some((last, path)) = keys.split_last() else { return };
    let table = path.iter().try_fold(value, |value, key| value.get_mut(*key));
    if let Some(table) = table.and_then(Value::as_table_mut) {
        table.remove(*last);
    }
}
