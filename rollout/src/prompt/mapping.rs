//! What the config makes of the fields of a row: the prompt by a template, the answer behind a mark.

use serde_json::{Map, Value};

use super::config::JsonlConfig;
use crate::bad_rows::{RowProblem, RowRefusal};
use crate::error::RolloutError;
use crate::text::RowTemplate;

/// A config's mapping, ready for rows.
#[derive(Debug)]
pub(super) struct Mapping {
    config: JsonlConfig,
    template: Option<RowTemplate>,
}

impl Mapping {
    /// Compiles the template.
    pub(super) fn new(config: &JsonlConfig) -> Result<Self, RolloutError> {
        let template = config.prompt_template.as_deref().map(RowTemplate::new).transpose();
        let template =
            template.map_err(|reason| RolloutError::Config { key: "data.prompt_template", reason })?;
        Ok(Self { config: config.clone(), template })
    }

    pub(super) fn config(&self) -> &JsonlConfig {
        &self.config
    }

    /// The prompt that the template makes of a row; `None` without a template.
    pub(super) fn templated(&self, fields: &Map<String, Value>) -> Result<Option<String>, RowRefusal> {
        let rendered = self.template.as_ref().map(|template| template.render(fields)).transpose();
        rendered.map_err(|reason| RowProblem::Prompt.because(format!("data.prompt_template: {reason}")))
    }

    /// What of a text is the reference answer.
    pub(super) fn reference(&self, text: String) -> Result<String, RowRefusal> {
        let (Some(mark), name) = (self.config.answer_after(), self.config.answer_field()) else {
            return Ok(text);
        };
        match text.rfind(mark) {
            Some(at) => Ok(text[at + mark.len()..].trim().to_owned()),
            None => {
                let reason = format!(
                    "`{name}` does not have {mark:?}, behind which data.answer.after looks for the answer"
                );
                Err(RowProblem::Answer.because(reason))
            }
        }
    }
}
