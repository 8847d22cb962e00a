//! Variables of a chat template as a config writes them: `[data.template]`.

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// Names of what the run itself gives to a template, or decides about it.
const TAKEN: [&str; 4] = ["messages", "add_generation_prompt", "continue_final_message", "chat_template"];

/// Variables by name, in the order of the file: `enable_thinking = false`, `tools = [...]`, `documents = [...]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TemplateVariables(pub Map<String, Value>);

impl TemplateVariables {
    /// Checks the names and `tools`.
    ///
    /// # Errors
    /// Names the variable that is not to be set, or says what is wrong with `tools`.
    pub fn new(variables: Map<String, Value>) -> Result<Self, String> {
        if let Some(name) = TAKEN.iter().find(|name| variables.contains_key(**name)) {
            return Err(format!("`{name}` is given by the run and is no variable to set"));
        }
        variables.get("tools").map_or(Ok(()), check_tools)?;
        Ok(Self(variables))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for TemplateVariables {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Map::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Refuses what is no list of schemas: a template would write it into the prompt as it is.
///
/// # Errors
/// Says what it is instead.
pub(crate) fn check_tools(tools: &Value) -> Result<(), String> {
    match tools {
        Value::Null => Ok(()),
        Value::Array(tools) => match tools.iter().position(|tool| !tool.is_object()) {
            None => Ok(()),
            Some(place) => Err(format!("`tools`: item {} is not an object", place + 1)),
        },
        _ => Err("`tools` is not a list of objects".to_string()),
    }
}

/// Numbers are written as numbers: serde_json's own form for numbers of any length is known to serde_json alone.
impl Serialize for TemplateVariables {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        object(&self.0, serializer)
    }
}

struct Plain<'a>(&'a Value);

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => serializer.serialize_none(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => serializer.serialize_i64(whole),
                (None, Some(float)) => serializer.serialize_f64(float),
                (None, None) => serializer.serialize_str(&number.to_string()),
            },
            Value::String(text) => serializer.serialize_str(text),
            Value::Array(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(&Plain(item)))?;
                list.end()
            }
            Value::Object(fields) => object(fields, serializer),
        }
    }
}

fn object<S: Serializer>(fields: &Map<String, Value>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(fields.len()))?;
    fields.iter().try_for_each(|(name, value)| map.serialize_entry(name, &Plain(value)))?;
    map.end()
}
