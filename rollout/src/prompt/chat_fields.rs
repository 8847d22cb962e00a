//! What a row says to the chat template beside its messages, as TRL's data sets have it: `tools` and
//! `chat_template_kwargs`, each as JSON or as the text of it.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::bad_rows::{RowProblem, RowRefusal};
use crate::json;
use crate::text::{TemplateVariables, check_tools};

/// What a row says to the chat template.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatFields {
    /// The list of tools, before those of the variables.
    pub tools: Option<Value>,
    /// The variables of the config, and over them those of the row.
    pub variables: Map<String, Value>,
}

impl ChatFields {
    /// Reads the fields of a row. `null` is the same as absent.
    ///
    /// # Errors
    /// Names the field that is of another type, or the variable that is not for a row to set.
    pub fn read(fields: &Map<String, Value>, config: &TemplateVariables) -> Result<Self, RowRefusal> {
        let tools = read(fields, "tools")?;
        if let Some(tools) = &tools {
            check_tools(tools).map_err(|reason| RowProblem::Messages.because(reason))?;
        }
        let mut variables = config.0.clone();
        match read(fields, "chat_template_kwargs")?.map(Cow::into_owned) {
            None => {}
            Some(Value::Object(own)) => {
                let own = TemplateVariables::new(own).map_err(|reason| {
                    RowProblem::Messages.because(format!("`chat_template_kwargs`: {reason}"))
                })?;
                variables.extend(own.0);
            }
            Some(_) => return Err(RowProblem::Messages.because("`chat_template_kwargs` is not an object")),
        }
        Ok(Self { tools: tools.map(Cow::into_owned), variables })
    }
}

/// A field, parsed where it is a text: columns of a table hold one type, so sets with many tools have their JSON as text.
fn read<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<Option<Cow<'a, Value>>, RowRefusal> {
    let value = match fields.get(name) {
        None => return Ok(None),
        Some(Value::String(written)) => Cow::Owned(json::value(written).map_err(|reason| {
            RowProblem::Messages.because(format!("`{name}` is a text that is not JSON: {reason}"))
        })?),
        Some(value) => Cow::Borrowed(value),
    };
    Ok(Some(value).filter(|value| !value.is_null()))
}
