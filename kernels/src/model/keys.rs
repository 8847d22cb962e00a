//! Files that are one JSON object, and typed access to the objects of a `config.json`, whose errors name file and key.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use crate::KernelError;

/// The longest `config.json`, and `adapter_config.json`, that is read: that of an adapter of every projection of a thousand
/// layers has a tenth of it. Values take some twenty times their text in memory, so that a file without a limit would too.
pub(crate) const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// Characters of a value that an error shows.
const SHOWN_MAX: usize = 200;

/// Reads a file that is one JSON object.
///
/// # Errors
/// If it cannot be read, has more bytes than are allowed, or is none.
pub(crate) fn read_object(path: &Path, bytes_max: u64) -> Result<Map<String, Value>, KernelError> {
    let failed = |source| KernelError::file(path, source);
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(bytes_max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > bytes_max {
        return Err(KernelError::content(path, format!("has more than the {bytes_max} bytes that are read")));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(KernelError::content(path, "is not a JSON object")),
        Err(error) => Err(KernelError::content(path, format!("is not JSON: {error}"))),
    }
}

/// A value for a message; a long one is cut.
fn shown(value: &Value) -> String {
    let whole = value.to_string();
    match whole.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}...", &whole[..end]),
        None => whole,
    }
}

/// One object of the file. A `null` counts as absent.
pub struct Keys<'a> {
    /// The file, for messages.
    pub path: &'a Path,
    /// `""` for the file itself, `"rope_scaling."` and the like for an object inside it.
    pub section: &'a str,
    /// The object.
    pub map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    /// An error about a key.
    pub fn wrong(&self, key: &str, reason: impl std::fmt::Display) -> KernelError {
        KernelError::content(self.path, format!("`{}{key}` {reason}", self.section))
    }

    /// The value of a key, as it stands there.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        key: &str,
        kind: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, KernelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value)
            .map(Some)
            .ok_or_else(|| self.wrong(key, format!("is {}; it must be {kind}", shown(value))))
    }

    /// A whole number.
    ///
    /// # Errors
    /// If the key has a value of another type; so do the others.
    pub fn size(&self, key: &str) -> Result<Option<usize>, KernelError> {
        let read = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok());
        self.typed(key, "a whole number that is not negative", read)
    }

    /// Any number.
    ///
    /// # Errors
    /// As [`Keys::size`].
    pub fn number(&self, key: &str) -> Result<Option<f64>, KernelError> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// True or false.
    ///
    /// # Errors
    /// As [`Keys::size`].
    pub fn flag(&self, key: &str) -> Result<Option<bool>, KernelError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A string.
    ///
    /// # Errors
    /// As [`Keys::size`].
    pub fn text(&self, key: &str) -> Result<Option<String>, KernelError> {
        self.typed(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// The value, or an error that says that the key is missing.
    ///
    /// # Errors
    /// If there is no value.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, KernelError> {
        value.ok_or_else(|| self.wrong(key, "is missing"))
    }

    /// [`Keys::size`] of a key that must be there.
    ///
    /// # Errors
    /// As [`Keys::size`], or if it is missing.
    pub fn required_size(&self, key: &str) -> Result<usize, KernelError> {
        self.required(key, self.size(key)?)
    }

    /// [`Keys::number`] of a key that must be there.
    ///
    /// # Errors
    /// As [`Keys::size`], or if it is missing.
    pub fn required_number(&self, key: &str) -> Result<f64, KernelError> {
        self.required(key, self.number(key)?)
    }
}
