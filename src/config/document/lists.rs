//! Lists of sections inside of the entries of another list.

use serde::de::DeserializeOwned;
use toml::Value;

use super::{ConfigError, Document};

impl Document {
    /// Takes a list of sections out of each entry of a list in a section, as `rewards` of `[[eval.sets]]`: one list an entry,
    /// empty where the entry has none.
    ///
    /// # Errors
    /// Names the entry and the key that cannot be read.
    pub(in crate::config) fn sections_in_each<T: DeserializeOwned>(
        &mut self,
        section: &str,
        list: &str,
        name: &str,
    ) -> Result<Vec<Vec<T>>, ConfigError> {
        let entries = self.table.get_mut(section).and_then(|section| section.get_mut(list));
        let entries = entries.and_then(Value::as_array_mut).into_iter().flatten();
        let taken: Vec<Option<Value>> =
            entries.map(|entry| entry.as_table_mut().and_then(|entry| entry.remove(name))).collect();
        let read = |(place, value)| self.read_list(&format!("{section}.{list}[{place}].{name}"), value);
        taken.into_iter().enumerate().map(read).collect()
    }
}
