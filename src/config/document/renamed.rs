//! Sections of earlier versions, read as what they have become.

use toml::Value;

use super::{ConfigError, Document, is_at_or_below};

impl Document {
    /// Reads a section `streambp` of an earlier version as the section `gradients` that it has become, with a note that
    /// says so.
    ///
    /// # Errors
    /// Where both are given, where the old one is changed by `--set`, or where its `enabled` is anything but true.
    pub(in crate::config) fn read_streambp_as_gradients(&mut self, section: &str) -> Result<(), ConfigError> {
        let (old, new) = (format!("{section}.streambp"), format!("{section}.gradients"));
        let given = |path: &str| {
            self.lines.keys().chain(self.overrides.keys()).find(|key| is_at_or_below(key, path)).cloned()
        };
        let Some(key) = given(&old) else { return Ok(()) };
        let advice = format!(
            "{old}: is now [{new}] with the same keys; in the place of `enabled` it has kind = \"streambp\", \
             \"checkpointed\" or \"whole\""
        );
        let refused = self.error(&key, &advice);
        if given(&new).is_some() || self.overrides.keys().any(|key| is_at_or_below(key, &old)) {
            return Err(refused);
        }
        let table = self.table.get_mut(section).and_then(Value::as_table_mut);
        let Some((table, Value::Table(mut keys))) =
            table.and_then(|table| table.remove("streambp").map(|keys| (table, keys)))
        else {
            return Err(refused);
        };
        // Without StreamBP there are two kinds to choose from, and which of them is wanted only the user knows.
        if !matches!(keys.remove("enabled"), None | Some(Value::Boolean(true))) {
            return Err(refused);
        }
        keys.insert("kind".to_owned(), Value::String("streambp".to_owned()));
        table.insert("gradients".to_owned(), Value::Table(keys));
        let lines = self.lines.iter();
        let moved: Vec<(String, usize)> = lines
            .filter_map(|(path, line)| Some((format!("{new}{}", path.strip_prefix(&old)?), *line)))
            .collect();
        self.lines.extend(moved);
        self.notes.push(format!("{refused}; it is read as kind = \"streambp\""));
        Ok(())
    }
}
