//! What a response of the service holds: the judge's words, if they are all of them.
//!
//! Thoughts are no words of the judge: the fields for them are only looked at to say why there is nothing else, and
//! those in the words themselves are left to `thoughts`.

use serde_json::Value;

/// Reasons for the end of a reply that is whole, in lower case. Others cut it off (`length`, `max_tokens`,
/// `content_filter`, `abort`, `error`) or end it before an answer (`tool_calls`); one that is not known may do either.
const WHOLE: [&str; 8] =
    ["stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed", "finished"];
/// Where services put thoughts.
const THOUGHT_FIELDS: [&str; 4] = ["reasoning_content", "reasoning", "thinking", "reasoning_details"];

/// What came of a question.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    /// All that the judge wrote.
    Whole(String),
    /// The judge had more to write. What it wrote so far gives no verdict, whatever it says: the next sentence may
    /// take it back.
    CutOff(String),
    /// The judge wrote nothing that could hold a verdict.
    Silent(String),
}

impl Reply {
    /// Reads the body of a response.
    ///
    /// # Errors
    /// Why the body is no chat completion, which another try may change.
    pub(super) fn read(body: &[u8]) -> Result<Reply, String> {
        let response: Value = serde_json::from_slice(body).map_err(|error| {
            format!("the judge's response is no JSON ({error}): {}", String::from_utf8_lossy(body))
        })?;
        let choice = &response["choices"][0];
        let message = &choice["message"];
        if !message.is_object() {
            return Err(format!("the judge's response has no `choices[0].message`: {response}"));
        }
        if let Some(refusal) = refusal(message) {
            return Ok(Reply::Silent(format!("the judge refuses to answer: {refusal}")));
        }
        if let Some(reason) = cut_off(&choice["finish_reason"]) {
            let remedy = match reason.trim_matches('"').to_lowercase().as_str() {
                "length" | "max_tokens" => "; raise max_tokens, or have the judge think less",
                _ => "",
            };
            return Ok(Reply::CutOff(format!(
                "the judge's reply is not whole (finish_reason {reason}), so it gives no verdict{remedy}"
            )));
        }
        let is_thinking = THOUGHT_FIELDS.iter().any(|field| is_filled(&message[*field]));
        match content(&message["content"]) {
            Some(words) if !words.trim().is_empty() => Ok(Reply::Whole(words)),
            _ if is_thinking => {
                let reason = "the judge's reply has thoughts and no content, so it gives no verdict";
                Ok(Reply::Silent(reason.to_string()))
            }
            Some(_) => Ok(Reply::Silent("the judge's reply is empty".to_string())),
            None => {
                Err(format!("the judge's response has no `choices[0].message.content` of text: {response}"))
            }
        }
    }
}

/// Why the judge says nothing, in the message's own field or in a part of the content.
fn refusal(message: &Value) -> Option<&str> {
    let parts = message["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    let refusals = std::iter::once(&message["refusal"]).chain(parts.iter().map(|part| &part["refusal"]));
    refusals.filter_map(Value::as_str).find(|refusal| !refusal.trim().is_empty())
}

/// The reason for the end of a reply that is not whole. A service that gives none is believed.
fn cut_off(finish_reason: &Value) -> Option<String> {
    // SGLang has had an object here.
    let reason = finish_reason.get("type").unwrap_or(finish_reason);
    match reason {
        Value::Null => None,
        Value::String(word) if word.is_empty() || WHOLE.contains(&word.to_lowercase().as_str()) => None,
        other => Some(other.to_string()),
    }
}

/// The text of a content: a string, or the parts of it that are text. Parts that are thoughts are left out.
fn content(content: &Value) -> Option<String> {
    match content {
        Value::String(words) => Some(words.clone()),
        Value::Array(parts) => Some(parts.iter().filter_map(part).collect()),
        _ => None,
    }
}

fn part(part: &Value) -> Option<&str> {
    let is_text = matches!(part["type"].as_str(), Some("text" | "output_text"));
    let is_thought = part["thought"].as_bool() == Some(true);
    match part {
        Value::String(words) => Some(words),
        _ if is_text && !is_thought => part["text"].as_str(),
        _ => None,
    }
}

fn is_filled(field: &Value) -> bool {
    match field {
        Value::Null => false,
        Value::String(text) => !text.trim().is_empty(),
        Value::Array(parts) => !parts.is_empty(),
        _ => true,
    }
}
