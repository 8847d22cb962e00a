//! The fields that a config names, looked for in all rows of a file: a name that no row has is a mistake, and without this
//! the rows would be read by their other fields.

use std::path::Path;

use serde_json::{Map, Value};

use super::config::JsonlConfig;
use super::row;
use super::survey::Needs;
use crate::error::RolloutError;

/// Fields of the rows that an error lists.
const FIELDS_LISTED_MAX: usize = 12;

/// What was found of the named fields.
pub(super) struct FieldCensus {
    wanted: Vec<WantedField>,
    /// Fields that rows have, in the order of the file.
    found: Vec<String>,
    has_rows: bool,
}

/// A field that the config names and the run reads.
struct WantedField {
    /// The key that names it.
    key: &'static str,
    name: String,
    is_there: bool,
}

impl FieldCensus {
    /// The fields to look for: demonstrations have completions, other prompts have answers.
    pub(super) fn new(config: &JsonlConfig, needs: &Needs<'_>) -> Self {
        let JsonlConfig { prompt, answer, completion, .. } = config;
        let prompt = prompt.as_ref();
        let names = match needs.demonstrations {
            Some(_) => [prompt.cloned(), None, completion.clone()],
            None => [prompt.cloned(), answer.as_ref().map(|_| config.answer_field().to_owned()), None],
        };
        let keys = JsonlConfig::FIELDS.iter().zip(names);
        let wanted =
            keys.filter_map(|(&(key, _), name)| Some(WantedField { key, name: name?, is_there: false }));
        let sorted_by = config.curriculum.as_ref().map(|curriculum| WantedField {
            key: "curriculum",
            name: curriculum.field.clone(),
            is_there: false,
        });
        Self { wanted: wanted.chain(sorted_by).collect(), found: Vec::new(), has_rows: false }
    }

    /// Looks at the fields of a row.
    pub(super) fn look_at(&mut self, fields: &Map<String, Value>) {
        self.has_rows = true;
        for field in &mut self.wanted {
            field.is_there |= row::has(fields, &field.name);
        }
        for name in fields.keys() {
            if self.found.len() <= FIELDS_LISTED_MAX && !self.found.contains(name) {
                self.found.push(name.clone());
            }
        }
    }

    /// Refuses a name that no row has. Where no row could be read, nothing is known of its fields.
    pub(super) fn check(&self, path: &Path) -> Result<(), RolloutError> {
        let Some(missing) = self.wanted.iter().find(|field| self.has_rows && !field.is_there) else {
            return Ok(());
        };
        let listed = self.found.iter().take(FIELDS_LISTED_MAX).map(|name| format!("`{name}`"));
        let listed = listed.collect::<Vec<_>>().join(", ");
        let more = if self.found.len() > FIELDS_LISTED_MAX { " and others" } else { "" };
        let reason = format!(
            "no row has the field `{}` that data.{} names; rows have {listed}{more}",
            missing.name, missing.key
        );
        Err(RolloutError::content(path, reason))
    }
}
