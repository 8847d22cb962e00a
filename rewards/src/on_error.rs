//! What becomes of an answer that somebody outside this program (a process, a service) gave no verdict for.

use crate::{RewardError, Verdict};

/// What an answer without a verdict means for the run. A verdict that was given is never touched by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The run ends with an error: nothing is learned from what could not be judged.
    #[default]
    Stop,
    /// The value is 0. A faulty judge then teaches that its answers are wrong: watch the counter `failures`.
    Zero,
    /// The answer's whole group is left out of training, and the run goes on.
    SkipGroup,
}

impl OnError {
    /// What stands in for the verdict that did not come.
    pub(crate) fn instead(self, reason: String) -> Result<Verdict, RewardError> {
        match self {
            OnError::Stop => Err(RewardError::Custom(reason)),
            OnError::Zero => Ok(Verdict { failure: Some(reason), ..Verdict::default() }),
            OnError::SkipGroup => Err(RewardError::SkipGroup { reason }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_does_what_its_word_says() {
        let stopped = OnError::Stop.instead("dead".to_string()).unwrap_err();
        assert_eq!((stopped.to_string().as_str(), stopped.skips_group()), ("dead", false));
        let zero = OnError::Zero.instead("dead".to_string()).unwrap();
        assert_eq!((zero.value, zero.failure.as_deref()), (0.0, Some("dead")));
        let skipped = OnError::SkipGroup.instead("dead".to_string()).unwrap_err();
        assert!(skipped.skips_group() && skipped.to_string().starts_with("dead"), "{skipped}");
        assert_eq!(serde_json::to_string(&OnError::SkipGroup).unwrap(), "\"skip_group\"");
        assert_eq!(OnError::default(), OnError::Stop);
    }
}
