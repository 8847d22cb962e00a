//! A TOML file as text, values and lines, so that every complaint can name file, line and key.
//!
//! It knows no key of longhaul: a caller takes one section after the other out of it, as any serde type.

mod lists;
mod nested;
mod numbers;
mod renamed;
mod text;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::ConfigError;
use nested::{at, holder, remove};
use numbers::{WHOLE_NUMBERS, is_whole_number, too_large};

/// Below this likeness two words are not a typo of each other; `lamda` and `lambda` have 0.95.
const LIKENESS_MIN: f64 = 0.75;

/// Letters of a word that may be wrong in a typo of it: one in so many, and one at least.
const LETTERS_A_FAULT: usize = 4;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    File(PathBuf, Option<usize>),
    Override(String),
}

impl Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(file, Some(line)) => write!(f, "{}:{line}", file.display()),
            Self::File(file, None) => write!(f, "{}", file.display()),
            Self::Override(assignment) => write!(f, "--set {assignment}"),
        }
    }
}

/// What is left of a config while its sections are taken out.
#[derive(Debug)]
pub(super) struct Document {
    file: PathBuf,
    table: Table,
    /// Line of each key by its path: `learner.clip.low`, `rewards[1].weight`.
    lines: BTreeMap<String, usize>,
    /// The assignments that set a key, by its path.
    overrides: BTreeMap<String, String>,
    /// Every key that any section has, as `section.key`, to find one that was looked for elsewhere.
    known: Vec<String>,
}

impl Document {
    pub(super) fn read(file: &Path) -> Result<Self, ConfigError> {
        let text = text::read(file)
            .map_err(|reason| ConfigError::new(Place::File(file.to_owned(), None), reason))?;
        // Editors on Windows begin a file with a byte-order mark, which is no part of its text.
        Self::parse(file, text.trim_start_matches('\u{feff}'))
    }

    pub(super) fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let broken = |error: toml::de::Error| {
            let line = error.span().map(|span| line_of(text, span.start));
            // The parser's message may span lines; a complaint is one.
            let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
            let message =
                line.and_then(|line| too_large(text, line)).unwrap_or(format!("not TOML: {message}"));
            ConfigError::new(Place::File(file.to_owned(), line), message)
        };
        let table = toml::from_str(text).map_err(broken)?;
        let mut lines = BTreeMap::new();
        collect_lines(DeTable::parse(text).map_err(broken)?.get_ref(), "", text, &mut lines);
        let (file, overrides) = (file.to_owned(), BTreeMap::new());
        Ok(Self { file, table, lines, overrides, known: Vec::new() })
    }

    /// A document of nothing but overrides, for commands that read no config file.
    pub(super) fn empty() -> Self {
        let (file, table, lines) = (PathBuf::from("--set"), Table::new(), BTreeMap::new());
        Self { file, table, lines, overrides: BTreeMap::new(), known: Vec::new() }
    }

    /// Applies `section.key=value`. The value is TOML; a word that is no TOML is taken as a string.
    pub(super) fn set(&mut self, assignment: &str) -> Result<(), ConfigError> {
        let fail =
            |reason: &str| Err(ConfigError::new(Place::Override(assignment.to_owned()), reason.to_owned()));
        let Some((key, value)) = assignment.split_once('=') else {
            return fail("expected KEY=VALUE, for example optimizer.learning_rate=1e-5");
        };
        let keys: Vec<&str> = key.split(['.', '[']).map(|part| part.trim().trim_end_matches(']')).collect();
        if keys.iter().any(|part| part.is_empty()) {
            return fail("a part of the key is empty");
        }
        let value = value.trim();
        if is_whole_number(value) && parse_value(value).is_none_or(|value| value.is_str()) {
            return fail(WHOLE_NUMBERS);
        }
        let Some(value) = parse_value(value) else { return fail("the value is not TOML") };
        let mut path = String::new();
        let Some(place) = reach(&mut self.table, &keys, &mut path) else {
            return fail("there is no such place in the config");
        };
        *place = value;
        // What stood at the key before, or below it, is gone; so is where it stood.
        self.lines.retain(|line, _| !is_at_or_below(line, &path));
        self.overrides.retain(|other, _| !is_at_or_below(other, &path));
        self.overrides.insert(path, assignment.to_owned());
        Ok(())
    }

    /// Tells the keys of a section, so that a complaint about another section can point to them.
    pub(super) fn know<T: DeserializeOwned>(&mut self, section: &str) {
        // A key that nobody has makes serde list the ones that there are.
        let probe = Table::from_iter([("\0".to_owned(), Value::Boolean(true))]);
        if let Err(error) = Value::Table(probe).try_into::<T>() {
            self.known.extend(quoted(error.message()).skip(1).map(|key| format!("{section}.{key}")));
        }
    }

    pub(super) fn has(&self, section: &str) -> bool {
        self.table.contains_key(section)
    }

    /// Takes a section out. One that is not there is read as an empty one, so that its defaults apply.
    pub(super) fn section<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, ConfigError> {
        let value = self.table.remove(name).unwrap_or_else(|| Value::Table(Table::new()));
        if !value.is_table() {
            return Err(self.error(name, format!("`{name}` is a section: write [{name}] above its keys")));
        }
        self.read_as(name, value)
    }

    /// Takes a section out that need not be there.
    pub(super) fn optional<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ConfigError> {
        if self.has(name) { self.section(name).map(Some) } else { Ok(None) }
    }

    /// Takes an array of sections out, empty if it is not there.
    pub(super) fn sections<T: DeserializeOwned>(&mut self, name: &str) -> Result<Vec<T>, ConfigError> {
        let value = self.table.remove(name);
        self.read_list(name, value)
    }

    /// Takes an array of sections out of a section that is not taken out yet, empty if it is not there.
    pub(super) fn sections_in<T: DeserializeOwned>(
        &mut self,
        section: &str,
        name: &str,
    ) -> Result<Vec<T>, ConfigError> {
        let table = self.table.get_mut(section).and_then(Value::as_table_mut);
        let value = table.and_then(|table| table.remove(name));
        self.read_list(&format!("{section}.{name}"), value)
    }

    fn read_list<T: DeserializeOwned>(
        &mut self,
        name: &str,
        value: Option<Value>,
    ) -> Result<Vec<T>, ConfigError> {
        match value {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) if values.iter().all(Value::is_table) => values
                .into_iter()
                .enumerate()
                .map(|(index, value)| self.read_as(&format!("{name}[{index}]"), value))
                .collect(),
            Some(_) => Err(self.error(name, format!("`{name}` is a list of sections: write [[{name}]]"))),
        }
    }

    /// Complains about the first section that is none of these. Asked before the sections are read, so that a
    /// misspelt section is not reported as a missing one.
    pub(super) fn allow_only(&self, sections: &[&str]) -> Result<(), ConfigError> {
        let Some(name) = self.table.keys().find(|name| !sections.contains(&name.as_str())) else {
            return Ok(());
        };
        let hint = match self.nearest_key(name, sections.iter().copied()) {
            Some(wanted) => format!("; the nearest known one is `{wanted}`"),
            None => format!("; there are {}", sections.join(", ")),
        };
        Err(self.error(name, format!("unknown section `{name}`{hint}")))
    }

    /// Whether the file or the command line gives the key, and not a default.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.lines.contains_key(key) || self.overrides.contains_key(key)
    }

    /// A complaint about the value of a key, wherever it was given. `key` may name a default, too.
    pub(super) fn error(&self, key: &str, message: impl Into<String>) -> ConfigError {
        ConfigError::new(self.place(key), message.into())
    }

    /// The line of the key, or else of the nearest section around it.
    pub(super) fn place(&self, key: &str) -> Place {
        // A key that an override made anew has no line of its own, and those around it are not to blame.
        let made = self.overrides.iter().find(|(path, _)| is_at_or_below(path, key));
        if let (Some((_, assignment)), false) = (made, self.lines.contains_key(key)) {
            return Place::Override(assignment.clone());
        }
        let mut path = key;
        loop {
            if let Some(assignment) = self.overrides.get(path) {
                return Place::Override(assignment.clone());
            }
            if let Some(line) = self.lines.get(path) {
                return Place::File(self.file.clone(), Some(*line));
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => break,
            }
        }
        Place::File(self.file.clone(), None)
    }

    fn read_as<T: DeserializeOwned>(&mut self, path: &str, mut value: Value) -> Result<T, ConfigError> {
        loop {
            match value.clone().try_into::<T>() {
                Ok(read) => return Ok(read),
                Err(error) => {
                    let fault = Fault::new(path, &value, &error, |value| {
                        value.try_into::<T>().map_err(|error| error.message().to_owned()).err()
                    });
                    if !self.is_of_former_kind(&fault) {
                        return Err(self.explain(&fault));
                    }
                    let keys: Vec<&str> = fault.path[path.len()..].split('.').skip(1).collect();
                    remove(&mut value, &keys);
                }
            }
        }
    }

    /// Whether an override of `kind` has made the key one that only the kind in the file has: it is removed.
    fn is_of_former_kind(&self, fault: &Fault) -> bool {
        let Some((table, _)) = fault.path.rsplit_once('.') else { return false };
        matches!(fault.problem, Problem::UnknownKey { .. })
            && self.overrides.contains_key(&format!("{table}.kind"))
            && matches!(self.place(&fault.path), Place::File(..))
    }

    fn explain(&self, fault: &Fault) -> ConfigError {
        let (table, key) = fault.path.rsplit_once('.').unwrap_or(("", &fault.path));
        match &fault.problem {
            Problem::UnknownKey { known } => {
                let hint = match self.nearest_key(key, known.iter().map(String::as_str)) {
                    Some(wanted) => format!("; the nearest known key is `{wanted}`"),
                    None if known.is_empty() => "; there are no keys beside it".to_owned(),
                    None => String::new(),
                };
                self.error(&fault.path, format!("unknown key `{}`{hint}", fault.path))
            }
            // Its place is the section's: a key that is not there has none.
            Problem::MissingKey => self.error(table, format!("missing key `{key}` in {}", header(table))),
            Problem::UnknownWord { word, known } => {
                let hint = match nearest(word, known.iter().map(String::as_str)) {
                    Some((_, wanted)) => format!("the nearest known one is `{wanted}`"),
                    None => format!("known are `{}`", known.join("`, `")),
                };
                self.error(&fault.path, format!("{}: unknown value `{word}`; {hint}", fault.path))
            }
            Problem::Value { reason } => self.error(&fault.path, format!("{}: {reason}", fault.path)),
        }
    }

    /// The likeliest key that fits the place, or one of another section if that is rather what was written; none where
    /// nothing is like it.
    fn nearest_key<'a>(&'a self, word: &str, fitting: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let here = nearest(word, fitting);
        let elsewhere = nearest(word, self.known.iter().map(String::as_str));
        match (here, elsewhere) {
            (Some((here, wanted)), Some((elsewhere, key))) => {
                let is_misplaced = elsewhere == 1.0 || (here < LIKENESS_MIN && elsewhere >= LIKENESS_MIN);
                Some(if is_misplaced && elsewhere > here { key } else { wanted })
            }
            (here, elsewhere) => here.or(elsewhere).map(|(_, key)| key),
        }
    }
}

/// What serde disliked, and where.
struct Fault {
    path: String,
    problem: Problem,
}

enum Problem {
    UnknownKey { known: Vec<String> },
    MissingKey,
    UnknownWord { word: String, known: Vec<String> },
    Value { reason: String },
}

impl Fault {
    /// `complaint` reads another value as the same type.
    fn new(
        path: &str,
        value: &Value,
        error: &toml::de::Error,
        complaint: impl Fn(Value) -> Option<String>,
    ) -> Self {
        let message = error.message();
        let mut keys = keys_of(error);
        let mut words = quoted(message);
        let first = words.next().unwrap_or_default();
        let known: Vec<String> = words.collect();
        let problem = if message.starts_with("unknown field") {
            let is_here = at(value, &keys).is_some_and(|table| table.get(first.as_str()).is_some());
            if let Some(inner) = at(value, &keys).filter(|_| !is_here).and_then(|table| holder(table, &first))
            {
                keys.extend(inner);
            }
            keys.push(first);
            Problem::UnknownKey { known }
        } else if message.starts_with("missing field") {
            keys.push(first);
            Problem::MissingKey
        } else {
            // Serde reads a tagged table whole before it looks inside, so toml names the table and not the key.
            if let Some(table) = at(value, &keys).and_then(Value::as_table) {
                keys.extend(guilty_key(table, &keys, value, message, &complaint));
            }
            match message.strip_prefix("unknown variant") {
                Some(_) => Problem::UnknownWord { word: first, known },
                None => Problem::Value { reason: in_plain_words(message) },
            }
        };
        let path = keys.iter().fold(path.to_owned(), |path, key| format!("{path}.{key}"));
        Self { path, problem }
    }
}

/// The key without which the complaint is another one. The kind is asked last: without it all complaints change.
fn guilty_key(
    table: &Table,
    keys: &[String],
    value: &Value,
    message: &str,
    complaint: &impl Fn(Value) -> Option<String>,
) -> Option<String> {
    let kind_last =
        table.keys().filter(|key| *key != "kind").chain(table.keys().filter(|key| *key == "kind"));
    kind_last
        .into_iter()
        .find(|key| {
            let mut without = value.clone();
            let keys: Vec<&str> = keys.iter().map(String::as_str).chain([key.as_str()]).collect();
            remove(&mut without, &keys);
            complaint(without).as_deref() != Some(message)
        })
        .cloned()
}

/// toml tells the path of an error only in the second line of its text: "in `clip.low`".
fn keys_of(error: &toml::de::Error) -> Vec<String> {
    let text = error.to_string();
    let path = text.strip_prefix(error.message()).and_then(|rest| rest.trim().strip_prefix("in `"));
    let path = path.and_then(|path| path.strip_suffix('`')).unwrap_or_default();
    path.split('.').filter(|key| !key.is_empty()).map(str::to_owned).collect()
}

/// The words between backticks, in order.
fn quoted(message: &str) -> impl Iterator<Item = String> {
    message.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// Serde speaks of Rust's types; a config has sections, numbers and words.
fn in_plain_words(message: &str) -> String {
    let Some((found, wanted)) = message.rsplit_once(", expected ") else { return message.to_owned() };
    let wanted = match wanted {
        "f64" | "f32" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" if found.contains("`-") => {
            "a whole number that is not negative"
        }
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number",
        "i64" => "a whole number",
        "a boolean" => "true or false",
        "a string" | "path string" => "a text",
        "a sequence" => "a list, written as [..]",
        wanted if wanted.starts_with("struct") || wanted.contains("enum") => "a section",
        wanted => wanted,
    };
    let found = found.trim_start_matches("invalid type: ").trim_start_matches("invalid value: ");
    format!("expected {wanted}, found {}", found.replace("floating point", "number"))
}

/// The section as it stands in a file: `[learner.clip]`, or `[[rewards]]` for an entry of a list.
fn header(table: &str) -> String {
    match table.split_once('[') {
        Some((list, _)) => format!("[[{list}]]"),
        None => format!("[{table}]"),
    }
}

/// The likeliest of the words and how like it is, where one is near: a wrong suggestion is worse than none.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<(f64, &'a str)> {
    known.filter_map(|known| Some((likeness(word, known)?, known))).max_by(|(a, _), (b, _)| a.total_cmp(b))
}

/// From 0 to 1; `None` where a word is no typo, no part and no shortening of the other. Only the last part of
/// `section.key` counts.
fn likeness(word: &str, known: &str) -> Option<f64> {
    let name = known.rsplit('.').next().unwrap_or(known);
    let initials: String = name.split('_').filter_map(|part| part.chars().next()).collect();
    let (short, long) = if word.len() < name.len() { (word, name) } else { (name, word) };
    let begins = long.strip_prefix(short).is_some_and(|rest| rest.starts_with('_'));
    let is_part = short.len() >= 3 && (begins || 2 * short.len() >= long.len() && long.contains(short));
    let faults = strsim::osa_distance(word, name);
    let is_typo = faults <= (long.chars().count() / LETTERS_A_FAULT).max(1);
    let shortened: f64 = if word == initials && word.len() > 1 {
        0.95
    } else if is_part {
        0.9
    } else {
        0.0
    };
    (is_typo || shortened > 0.0).then(|| shortened.max(strsim::jaro_winkler(word, name)))
}

fn parse_value(text: &str) -> Option<Value> {
    let parsed = toml::from_str::<Table>(&format!("value = {text}"));
    match parsed {
        Ok(mut table) if table.len() == 1 => table.remove("value"),
        // A path or a word needs no quotes on a command line, where a shell takes them away.
        _ if !text.is_empty() && !text.starts_with(['"', '\'', '[', '{']) && !text.contains('\n') => {
            Some(Value::String(text.to_owned()))
        }
        _ => None,
    }
}

/// The place of a key, which is made if it is a new key of a section; its path is left in `path`.
fn reach<'a>(table: &'a mut Table, keys: &[&str], path: &mut String) -> Option<&'a mut Value> {
    let (first, rest) = keys.split_first()?;
    path.push_str(first);
    let mut place = table.entry(*first).or_insert_with(|| Value::Table(Table::new()));
    for key in rest {
        place = match place {
            Value::Array(values) => {
                path.push_str(&format!("[{key}]"));
                values.get_mut(key.parse::<usize>().ok()?)?
            }
            Value::Table(table) => {
                path.push('.');
                path.push_str(key);
                table.entry(*key).or_insert_with(|| Value::Table(Table::new()))
            }
            _ => return None,
        };
    }
    Some(place)
}

fn is_at_or_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

fn collect_lines(table: &DeTable<'_>, above: &str, text: &str, lines: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let name = key.get_ref();
        let path = if above.is_empty() { name.to_string() } else { format!("{above}.{name}") };
        lines.insert(path.clone(), line_of(text, key.span().start));
        match value.get_ref() {
            DeValue::Table(table) => collect_lines(table, &path, text, lines),
            DeValue::Array(values) => {
                for (index, value) in values.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    lines.insert(path.clone(), line_of(text, value.span().start));
                    if let DeValue::Table(table) = value.get_ref() {
                        collect_lines(table, &path, text, lines);
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
