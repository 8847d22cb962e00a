//! The filters of Jinja2 that minijinja lacks or has otherwise.

use std::collections::HashSet;

use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};

use super::characters::{byte_of, capitalize, is_space, length, spaces, split_lines, width_of};
use super::cost;
use super::generators::OWN;
use super::numbers::{float, truncated, whole, wide};
use super::printed as string;
use super::strings::centered;
use crate::text::source::{ITERATED_FILTER, UNPACKED_FILTER};

pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter("int", int);
    environment.add_filter("float", to_float);
    environment.add_filter("string", |state: &mut State<'_, '_>, value: &Value| string(state, value));
    environment.add_filter("capitalize", |state: &mut State<'_, '_>, value: &Value| {
        with_text(state, value, capitalize)
    });
    environment
        .add_filter("title", |state: &mut State<'_, '_>, value: &Value| with_text(state, value, title));
    environment.add_filter("trim", trim);
    environment.add_filter("center", center);
    environment.add_filter("wordcount", |state: &mut State<'_, '_>, value: &Value| {
        with_text(state, value, word_count)
    });
    environment.add_filter("striptags", |state: &mut State<'_, '_>, value: &Value| {
        with_text(state, value, strip_tags)
    });
    environment.add_filter("e", escape);
    environment.add_filter("escape", escape);
    environment.add_filter("forceescape", |state: &mut State<'_, '_>, value: &Value| {
        with_text(state, value, escaped)
    });
    environment.add_filter("xmlattr", xml_attributes);
    environment.add_filter("truncate", truncate);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter(ITERATED_FILTER, iterated);
    environment.add_filter(UNPACKED_FILTER, unpacked);
    environment.add_filter("indent", indent);
    environment.add_filter(format!("{OWN}sort"), minijinja::filters::sort);
    environment.add_filter(format!("{OWN}dictsort"), minijinja::filters::dictsort);
    environment.add_filter("sort", sort);
    environment.add_filter("dictsort", dict_sort);
}

/// What a function makes of a value's text.
fn with_text<T>(state: &State<'_, '_>, value: &Value, made: fn(&str) -> T) -> Result<T, Error> {
    string(state, value).map(|text| made(&text))
}

/// `default(value, default_value='', boolean=False)`: for what is undefined, or with `boolean` for all that is false.
fn default(
    value: &Value,
    other: Option<Value>,
    boolean: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let other = other.or(named.get("default_value")?).unwrap_or_else(|| Value::from(""));
    let boolean = boolean.or(named.get("boolean")?).is_some_and(|boolean| boolean.is_true());
    named.assert_all_used()?;
    let absent = value.is_undefined() || boolean && !value.is_true();
    Ok(if absent { other } else { value.clone() })
}

/// What a loop goes over: minijinja takes `None` for an empty list, Python does not. What has no length of its own is
/// counted, since Jinja2's loops look ahead. For a loop with several names, items that are texts are taken apart.
fn iterated(state: &mut State<'_, '_>, value: Value, takes_apart: Option<bool>) -> Result<Value, Error> {
    if value.is_none() {
        return Err(Error::new(ErrorKind::InvalidOperation, "'None' cannot be iterated over"));
    }
    let is_counted = value.as_str().is_none() && value.kind() != ValueKind::Iterable;
    if is_counted && takes_apart.is_none() || value.is_undefined() {
        return Ok(value);
    }
    let items = cost::collected(state, value.try_iter()?)?;
    if takes_apart != Some(true) {
        return Ok(Value::from(items));
    }
    let apart: Result<Vec<Value>, Error> = items.into_iter().map(|item| unpacked(state, item)).collect();
    apart.map(Value::from)
}

/// A text as the list of its characters; anything else as it is.
fn unpacked(state: &mut State<'_, '_>, value: Value) -> Result<Value, Error> {
    let Some(text) = value.as_str() else { return Ok(value) };
    let characters = text.chars().map(|character| Value::from(character.to_string()));
    cost::collected(state, characters).map(Value::from)
}

/// `sort(value, reverse=False, case_sensitive=False, attribute=None)`, by name or by position.
fn sort(state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    by_name(state, "sort", ["reverse", "case_sensitive", "attribute"], &args.into_values())
}

/// `dictsort(value, case_sensitive=False, by='key', reverse=False)`.
fn dict_sort(state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    by_name(state, "dictsort", ["case_sensitive", "by", "reverse"], &args.into_values())
}

/// Calls minijinja's own filter, which knows these arguments by their names alone.
fn by_name(
    state: &mut State<'_, '_>,
    filter: &str,
    names: [&'static str; 3],
    args: &[Value],
) -> Result<Value, Error> {
    type Args = (Value, Option<Value>, Option<Value>, Option<Value>, Kwargs);
    let (value, first, second, third, named) = from_args::<Args>(args)?;
    let placed = names.into_iter().zip([first, second, third]);
    let mut all: Vec<(String, Value)> =
        placed.filter_map(|(name, given)| Some((name.to_owned(), given?))).collect();
    for name in named.args() {
        all.push((name.to_owned(), named.get(name)?));
    }
    state.apply_filter(&format!("{OWN}{filter}"), &[value, Kwargs::from_iter(all).into()])
}

/// `int(value, default=0, base=10)`: what is no number is the default.
fn int(value: &Value, default: Option<Value>, base: Option<u32>, named: Kwargs) -> Result<Value, Error> {
    let default = default.or(named.get("default")?).unwrap_or(Value::from(0));
    let base = base.or(named.get("base")?).unwrap_or(10);
    named.assert_all_used()?;
    if !(2..=36).contains(&base) {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("{base} is no base from 2 to 36")));
    }
    let found = match (value.kind(), value.as_str()) {
        _ if wide(value).is_some() => return Ok(value.clone()),
        (_, Some(text)) => whole(text, base).or_else(|| float(text).and_then(truncated)),
        (ValueKind::Bool, _) => Some(Value::from(i128::from(value.is_true()))),
        (ValueKind::Number, _) if value.is_integer() => return Ok(value.clone()),
        (ValueKind::Number, _) => f64::try_from(value.clone()).ok().and_then(truncated),
        _ => None,
    };
    Ok(found.unwrap_or(default))
}

/// `float(value, default=0.0)`.
fn to_float(value: &Value, default: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let default = default.or(named.get("default")?).unwrap_or(Value::from(0.0));
    named.assert_all_used()?;
    let found = match (value.kind(), value.as_str().or(wide(value))) {
        (_, Some(text)) => float(text),
        (ValueKind::Bool, _) => Some(f64::from(u8::from(value.is_true()))),
        (ValueKind::Number, _) => f64::try_from(value.clone()).ok(),
        _ => None,
    };
    Ok(found.map_or(default, Value::from))
}

/// Jinja2's own `title`: words begin behind white space, `-` and opening brackets.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    for character in text.chars() {
        if is_space(character) || matches!(character, '-' | '(' | '{' | '[' | '<') {
            out.push_str(&titled(&word));
            word.clear();
            out.push(character);
        } else {
            word.push(character);
        }
    }
    out + &titled(&word)
}

fn titled(word: &str) -> String {
    let Some(first) = word.chars().next() else { return String::new() };
    first.to_uppercase().chain(word[first.len_utf8()..].to_lowercase().chars()).collect()
}

fn trim(
    state: &mut State<'_, '_>,
    value: &Value,
    characters: Option<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let characters = characters.or(named.get("chars")?).filter(|characters| !characters.is_none());
    named.assert_all_used()?;
    let text = string(state, value)?;
    Ok(match characters.as_ref().and_then(Value::as_str) {
        Some(characters) => {
            let taken: HashSet<char> = characters.chars().collect();
            text.trim_matches(|character| taken.contains(&character)).to_owned()
        }
        None => text.trim_matches(is_space).to_owned(),
    })
}

fn center(
    state: &mut State<'_, '_>,
    value: &Value,
    width: Option<i64>,
    named: Kwargs,
) -> Result<String, Error> {
    let width = width.or(named.get("width")?).unwrap_or(80);
    named.assert_all_used()?;
    Ok(centered(&string(state, value)?, width_of(width)?, ' '))
}

/// `truncate(text, length=255, killwords=False, end='...', leeway=5)`: whole words, unless they may be cut.
fn truncate(state: &mut State<'_, '_>, value: &Value, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    type Args = (Option<usize>, Option<bool>, Option<String>, Option<usize>, Kwargs);
    let (most, cut_words, end, leeway, named) = from_args::<Args>(&args.into_values())?;
    let most = most.or(named.get("length")?).unwrap_or(255);
    let cut_words = cut_words.or(named.get("killwords")?).unwrap_or(false);
    let end = end.or(named.get("end")?).unwrap_or_else(|| "...".to_owned());
    let leeway = leeway.or(named.get("leeway")?).unwrap_or(5);
    named.assert_all_used()?;
    let text = string(state, value)?;
    if length(&text) <= most.saturating_add(leeway) {
        return Ok(text);
    }
    let Some(room) = most.checked_sub(length(&end)) else {
        let reason = format!("expected length >= {}, got {most}", length(&end));
        return Err(Error::new(ErrorKind::InvalidOperation, reason));
    };
    let kept = &text[..byte_of(&text, room)];
    let kept = if cut_words { kept } else { kept.rsplit_once(' ').map_or(kept, |(words, _)| words) };
    Ok(kept.to_owned() + &end)
}

/// `indent(text, width=4, first=False, blank=False)`: `width` is a number of spaces or the text itself.
fn indent(state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    type Args = (Value, Option<Value>, Option<bool>, Option<bool>, Kwargs);
    let (value, width, first, blank, named) = from_args::<Args>(&args.into_values())?;
    let width = width.or(named.get("width")?).unwrap_or(Value::from(4));
    let first = first.or(named.get("first")?).unwrap_or(false);
    let blank = blank.or(named.get("blank")?).unwrap_or(false);
    named.assert_all_used()?;
    let margin = match width.as_str() {
        Some(text) => text.to_owned(),
        None => spaces(i64::try_from(width)?)?,
    };
    // The filter adds a line end and takes it off again, so that a last one counts as a line.
    let text = string(state, &value)? + "\n";
    let lines = split_lines(&text, false);
    cost::bytes(state, lines.len().saturating_mul(margin.len()))?;
    let mut out = String::with_capacity(text.len());
    for (at, line) in lines.iter().enumerate() {
        let indented = if at == 0 { first } else { blank || !line.is_empty() };
        out.push_str(if at == 0 { "" } else { "\n" });
        out.push_str(if indented { &margin } else { "" });
        out.push_str(line);
    }
    Ok(out)
}

/// The number of runs of `\w` characters.
fn word_count(text: &str) -> usize {
    text.split(|character: char| !(character.is_alphanumeric() || character == '_'))
        .filter(|word| !word.is_empty())
        .count()
}

/// Comments and tags go, and white space becomes single spaces, as Markup's `striptags` has it.
fn strip_tags(text: &str) -> String {
    let text = without(text, "<!--", "-->");
    let text = without(&text, "<", ">");
    let words = text.split_whitespace().collect::<Vec<&str>>().join(" ");
    [("&lt;", "<"), ("&gt;", ">"), ("&#34;", "\""), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")]
        .iter()
        .fold(words, |text, (name, character)| text.replace(name, character))
}

fn without(text: &str, open: &str, close: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(open) {
        let Some(end) = rest[start..].find(close) else { break };
        out.push_str(&rest[..start]);
        rest = &rest[start + end + close.len()..];
    }
    out + rest
}

/// `escape`: what is escaped already, or safe, stays.
fn escape(state: &mut State<'_, '_>, value: &Value) -> Result<Value, Error> {
    match value.is_safe() {
        true => Ok(value.clone()),
        false => with_text(state, value, escaped).map(Value::from_safe_string),
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(character),
        }
    }
    out
}

/// ` name="value"` for each entry that is there.
fn xml_attributes(
    state: &mut State<'_, '_>,
    fields: &Value,
    space: Option<bool>,
    _rest: Rest<ValueOrKwargs>,
) -> Result<String, Error> {
    let mut written = Vec::new();
    for key in fields.try_iter()? {
        let field = fields.get_item(&key)?;
        if !field.is_none() && !field.is_undefined() {
            let [name, text] = [&key, &field].map(|value| with_text(state, value, escaped));
            written.push(format!("{}=\"{}\"", name?, text?));
        }
    }
    let space = if space.unwrap_or(true) && length(&written.concat()) > 0 { " " } else { "" };
    Ok(format!("{space}{}", written.join(" ")))
}
