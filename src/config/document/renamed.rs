//! Sections of earlier versions, which are errors that name what they have become.

use toml::Value;

use super::{ConfigError, Document, is_at_or_below};

impl Document {
    /// Refuses a section `streambp` of an earlier version, and says what it is in the section `gradients` now.
    ///
    /// # Errors
    /// Where the section is given, in the file or by `--set`.
    pub(in crate::config) fn refuse_streambp(&self, section: &str) -> Result<(), ConfigError> {
        let (old, new) = (format!("{section}.streambp"), format!("{section}.gradients"));
        let mut given = self.lines.keys().chain(self.overrides.keys());
        let Some(key) = given.find(|key| is_at_or_below(key, &old)) else { return Ok(()) };
        let enabled = self.table.get(section).and_then(|table| table.get("streambp")?.get("enabled"));
        let now = match enabled {
            Some(Value::Boolean(true)) => {
                "`enabled = true` is kind = \"streambp\" now, with the same other keys"
            }
            Some(Value::Boolean(false)) => "`enabled = false` is kind = \"whole\" now, without other keys",
            _ => "without `enabled` it is kind = \"streambp\", with the same other keys",
        };
        let kinds = "\"streambp\", \"checkpointed\" or \"whole\"";
        Err(self.error(key, format!("{old}: the section is [{new}] now, with kind = {kinds}: {now}")))
    }
}
