//! A macro's default that reads an earlier parameter, as `b=a` in `macro pair(a, b=a)`. minijinja computes defaults
//! before it knows any parameter.

use super::{bracket_end, is_name, literal_end, word_of};

/// A name that no template has: a default that it is the value of counts as none given.
const UNSET: &str = "default_of_a_macro";

/// The tag of such a macro, with tags behind it that set those parameters; nothing for any other tag.
pub(super) fn set_inside(tag: &str) -> Option<String> {
    if word_of(tag) != "macro" {
        return None;
    }
    let open = tag.find('(')?;
    let close = bracket_end(tag, open)?;
    let mut names: Vec<&str> = Vec::new();
    let mut parameters = Vec::new();
    let mut sets = Vec::new();
    for parameter in split_at_commas(&tag[open + 1..close - 1]) {
        let (name, default) = match parameter.split_once('=') {
            Some((name, default)) => (name.trim(), Some(default.trim())),
            None => (parameter.trim(), None),
        };
        match default {
            Some(default) if reads_one_of(default, &names) => {
                parameters.push(format!("{name}={UNSET}"));
                sets.push(format!("set {name} = ({default}) if {name} is undefined else {name}"));
            }
            _ => parameters.push(parameter.to_owned()),
        }
        names.push(name);
    }
    if sets.is_empty() {
        return None;
    }
    // What the tag's end says about white space is said by the last tag.
    let end = tag[close..].trim_start();
    let sets = sets.join(" %}{% ");
    Some(format!("{}({}) %}}{{% {sets} {end}", &tag[..open], parameters.join(",")))
}

pub(super) fn split_at_commas(parameters: &str) -> Vec<&str> {
    let bytes = parameters.as_bytes();
    let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        at = match bytes[at] {
            quote @ (b'\'' | b'"') => literal_end(parameters, at, quote).unwrap_or(bytes.len()),
            b'(' | b'[' | b'{' => bracket_end(parameters, at).unwrap_or(bytes.len()),
            b',' => {
                parts.push(&parameters[start..at]);
                start = at + 1;
                start
            }
            _ => at + 1,
        };
    }
    if !parameters[start..].trim().is_empty() {
        parts.push(&parameters[start..]);
    }
    parts
}

/// Whether a name stands in the expression, not as an attribute and not in a text.
pub(super) fn reads_one_of(expression: &str, names: &[&str]) -> bool {
    let bytes = expression.as_bytes();
    let (mut at, mut before) = (0, b' ');
    while at < bytes.len() {
        let start = at;
        at = match bytes[at] {
            quote @ (b'\'' | b'"') => literal_end(expression, at, quote).unwrap_or(bytes.len()),
            byte if is_name(char::from(byte)) => {
                let rest = &bytes[at..];
                at + rest.iter().position(|byte| !is_name(char::from(*byte))).unwrap_or(rest.len())
            }
            _ => at + 1,
        };
        if before != b'.' && names.iter().any(|name| name.as_bytes() == &bytes[start..at]) {
            return true;
        }
        if !bytes[start].is_ascii_whitespace() {
            before = bytes[start];
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::set_inside;

    #[test]
    fn defaults_that_read_parameters_are_set_inside() {
        let found = set_inside("{%- macro pair(a, b='x', c=[a, b], d = 'a') -%}");
        let expected = "{%- macro pair(a, b='x',c=default_of_a_macro, d = 'a') %}{% \
                        set c = ([a, b]) if c is undefined else c -%}";
        assert_eq!(found.as_deref(), Some(expected));
        for tag in
            ["{% macro f() %}", "{% macro f(a, b=1, c='a', d=x.a, e={'k': (1, 2)}) %}", "{% if f(a, b=a) %}"]
        {
            assert_eq!(set_inside(tag), None, "{tag}");
        }
    }
}
