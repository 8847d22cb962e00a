//! The keys of `[rollout]` about the ends of outputs, which `longhaul generate` has too.

use crate::error::RolloutError;

/// The most stop strings: a token that can end one is compared with each of them.
const STOP_STRINGS_MAX: usize = 64;

/// The most bytes of a stop string: so many are looked at behind a token that can end it. Stops are words and marks,
/// not paragraphs.
const STOP_STRING_BYTES_MAX: usize = 256;

/// The most stop token ids: each drawn token is looked for among them.
const STOP_TOKEN_IDS_MAX: usize = 1024;

/// The keys of `[rollout]` about the ends of outputs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopConfig {
    /// An output ends with the token that completes one of these strings.
    pub stop: Vec<String>,
    /// An output ends with one of these tokens.
    pub stop_token_ids: Vec<u32>,
    /// Nothing ends an output before it has so many tokens.
    pub min_tokens: usize,
    /// Whether the text of a completion has the stop string, and what its last token writes behind it.
    pub include_stop_str_in_output: bool,
}

impl StopConfig {
    /// Refuses invalid stops, naming the key.
    ///
    /// # Errors
    /// [`RolloutError::Config`].
    pub fn check(&self, output_tokens_max: usize) -> Result<(), RolloutError> {
        let refuse = |key, reason| Err(RolloutError::Config { key, reason });
        let strings = self.stop.len();
        if strings > STOP_STRINGS_MAX {
            let reason = format!("{strings} strings are more than {STOP_STRINGS_MAX}");
            return refuse("rollout.stop", reason);
        }
        if self.stop.iter().any(String::is_empty) {
            let reason = "an empty string would end every output with its first token; leave it out";
            return refuse("rollout.stop", reason.to_string());
        }
        if let Some(long) = self.stop.iter().find(|string| string.len() > STOP_STRING_BYTES_MAX) {
            let (bytes, beginning) = (long.len(), long.chars().take(20).collect::<String>());
            let reason = format!(
                "{beginning:?}.. has {bytes} bytes, more than {STOP_STRING_BYTES_MAX} of a stop string"
            );
            return refuse("rollout.stop", reason);
        }
        let ids = self.stop_token_ids.len();
        if ids > STOP_TOKEN_IDS_MAX {
            let reason = format!("{ids} ids are more than {STOP_TOKEN_IDS_MAX}");
            return refuse("rollout.stop_token_ids", reason);
        }
        if self.min_tokens >= output_tokens_max {
            let reason = format!(
                "{} leaves no output an end before output_tokens_max = {output_tokens_max}",
                self.min_tokens
            );
            return refuse("rollout.min_tokens", reason);
        }
        Ok(())
    }
}
