//! The keys and values of a GGUF file, and typed access to them whose errors name file and key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::KernelError;

/// One value. Numbers of all widths are one kind: files of one key differ in them.
#[derive(Clone, Debug, PartialEq)]
pub enum MetaValue {
    /// A whole number.
    Integer(i128),
    /// A number.
    Float(f64),
    /// True or false.
    Flag(bool),
    /// A text.
    Text(String),
    /// Whole numbers.
    Integers(Vec<i64>),
    /// Numbers.
    Floats(Vec<f64>),
    /// Several of true and false.
    Flags(Vec<bool>),
    /// Texts.
    Texts(Vec<String>),
}

/// All of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Metadata {
    path: PathBuf,
    entries: BTreeMap<String, MetaValue>,
}

impl Metadata {
    /// What a file has.
    #[must_use]
    pub fn new(path: PathBuf, entries: BTreeMap<String, MetaValue>) -> Self {
        Self { path, entries }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keys and values, in the order of the keys.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &MetaValue)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// An error about a key.
    pub fn wrong(&self, key: &str, reason: impl std::fmt::Display) -> KernelError {
        KernelError::content(&self.path, format!("`{key}` {reason}"))
    }

    /// An error about the whole file.
    pub fn broken(&self, reason: impl Into<String>) -> KernelError {
        KernelError::content(&self.path, reason)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        kind: &str,
        read: impl Fn(&'a MetaValue) -> Option<T>,
    ) -> Result<Option<T>, KernelError> {
        let Some(value) = self.entries.get(key) else { return Ok(None) };
        read(value)
            .map(Some)
            .ok_or_else(|| self.wrong(key, format!("is {}; it must be {kind}", shown(value))))
    }

    /// A whole number that is not negative. A list of equal ones, as some files have for each layer, counts as one.
    ///
    /// # Errors
    /// If the key has another value; so do the others.
    pub fn size(&self, key: &str) -> Result<Option<usize>, KernelError> {
        self.typed(key, "a whole number that is not negative, the same for all layers", |value| match value {
            MetaValue::Integer(number) => usize::try_from(*number).ok(),
            MetaValue::Integers(list) if list.iter().all(|number| *number == list[0]) => {
                usize::try_from(*list.first()?).ok()
            }
            _ => None,
        })
    }

    /// A token's id.
    ///
    /// # Errors
    /// As [`Metadata::size`].
    pub fn id(&self, key: &str) -> Result<Option<u32>, KernelError> {
        self.typed(key, "a token's id", |value| match value {
            MetaValue::Integer(number) => u32::try_from(*number).ok(),
            _ => None,
        })
    }

    /// A number that is finite.
    ///
    /// # Errors
    /// As [`Metadata::size`].
    pub fn number(&self, key: &str) -> Result<Option<f64>, KernelError> {
        self.typed(key, "a finite number", |value| match value {
            MetaValue::Integer(number) => Some(*number as f64),
            MetaValue::Float(number) if number.is_finite() => Some(*number),
            _ => None,
        })
    }

    /// True or false.
    ///
    /// # Errors
    /// As [`Metadata::size`].
    pub fn flag(&self, key: &str) -> Result<Option<bool>, KernelError> {
        self.typed(key, "true or false", |value| match value {
            MetaValue::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    /// A text.
    ///
    /// # Errors
    /// As [`Metadata::size`].
    pub fn text(&self, key: &str) -> Result<Option<&str>, KernelError> {
        self.typed(key, "a text", |value| match value {
            MetaValue::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A list of texts.
    ///
    /// # Errors
    /// As [`Metadata::size`].
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>, KernelError> {
        self.typed(key, "a list of texts", |value| match value {
            MetaValue::Texts(texts) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// A list of whole numbers.
    ///
    /// # Errors
    /// As [`Metadata::size`].
    pub fn integers(&self, key: &str) -> Result<Option<&[i64]>, KernelError> {
        self.typed(key, "a list of whole numbers", |value| match value {
            MetaValue::Integers(numbers) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    /// A list of numbers.
    ///
    /// # Errors
    /// As [`Metadata::size`].
    pub fn numbers(&self, key: &str) -> Result<Option<&[f64]>, KernelError> {
        self.typed(key, "a list of numbers", |value| match value {
            MetaValue::Floats(numbers) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    /// The value, or an error that says that the key is missing.
    ///
    /// # Errors
    /// If there is no value.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, KernelError> {
        value.ok_or_else(|| self.wrong(key, "is missing"))
    }
}

/// A value for a message; a list is not written out.
fn shown(value: &MetaValue) -> String {
    let list = |entries: usize| format!("a list of {entries} entries");
    match value {
        MetaValue::Integer(number) => number.to_string(),
        MetaValue::Float(number) => number.to_string(),
        MetaValue::Flag(flag) => flag.to_string(),
        MetaValue::Text(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
        MetaValue::Integers(entries) => list(entries.len()),
        MetaValue::Floats(entries) => list(entries.len()),
        MetaValue::Flags(entries) => list(entries.len()),
        MetaValue::Texts(entries) => list(entries.len()),
    }
}
