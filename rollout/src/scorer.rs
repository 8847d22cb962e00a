//! From an ended trajectory to a scored completion: the text is decoded and the verifiers are asked. What a
//! verifier thinks belongs to the crate `rewards`.

use std::sync::Arc;

use rewards::{Answer, WeightedSum};

use crate::error::RolloutError;
use crate::group::ScoredCompletion;
use crate::text::Text;
use crate::trajectory::{Completion, Finish, Trajectory};

/// Decodes and scores.
pub struct Scorer {
    text: Arc<Text>,
    rewards: WeightedSum,
}

impl Scorer {
    /// A scorer by these rewards; how truncated answers count is in them.
    pub fn new(text: Arc<Text>, rewards: WeightedSum) -> Self {
        Self { text, rewards }
    }

    /// The tokenizer that decodes completions.
    pub fn text(&self) -> &Text {
        &self.text
    }

    /// Scores an ended trajectory.
    pub fn score(&self, trajectory: Trajectory, finish: Finish) -> Result<ScoredCompletion, RolloutError> {
        let completion = completion(&self.text, trajectory, finish)?;
        let prompt = &completion.prompt;
        let answer = Answer {
            prompt: &prompt.text,
            completion: &completion.text,
            reference: prompt.reference.as_deref(),
            fields: &prompt.fields,
            tokens: completion.token_count(),
            truncated: completion.truncated(),
        };
        let named =
            |source| RolloutError::Reward { group: completion.group, prompt: prompt.id.clone(), source };
        let reward = self.rewards.score(&answer).map_err(named)?;
        if !reward.total.is_finite() {
            return Err(RolloutError::NotFinite {
                what: "the reward",
                value: reward.total,
                group: completion.group,
                prompt: prompt.id.clone(),
            });
        }
        Ok(ScoredCompletion { completion, reward })
    }
}

/// The ended trajectory with its text.
pub(crate) fn completion(
    text: &Text,
    trajectory: Trajectory,
    finish: Finish,
) -> Result<Completion, RolloutError> {
    let drawn = &trajectory.context()[trajectory.prompt.tokens.len()..];
    let written = text.decode(drawn)?;
    Ok(Completion::new(trajectory, finish, written))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{letters, prompt, text};
    use crate::trajectory::{OutputLimits, Token};

    fn ended(ids: &[u32]) -> Trajectory {
        let limits = OutputLimits { segment_tokens_max: 9, output_tokens_max: 9 };
        let mut trajectory = Trajectory::new(prompt(5), 5, 2);
        trajectory.start_segment(1, limits);
        for id in ids {
            trajectory.push(Token { id: *id, logprob: -0.5 }, *id == 0, limits);
        }
        trajectory
    }

    #[test]
    fn verifiers_see_the_text_without_its_end_and_all_tokens() {
        let scorer = Scorer::new(text(), letters());
        let scored = scorer.score(ended(&[2, 2, 3, 0]), Finish::Stop).expect("the verifier only counts");
        assert_eq!(scored.completion.text, "aab");
        // Two letters `a` in four tokens.
        assert_eq!(scored.reward.parts["letters"], 2.0);
        assert_eq!(scored.reward.parts["letters/tokens"], 4.0);
        assert_eq!(scored.completion.token_ids(), [2, 2, 3, 0]);
    }

    // Invariant 8: what a verifier cannot judge stops the run and names the prompt.
    #[test]
    fn a_failing_verifier_names_group_and_prompt() {
        let scorer = Scorer::new(text(), letters());
        let error = scorer.score(ended(&[6, 0]), Finish::Stop).expect_err("`e` makes the verifier fail");
        assert!(error.to_string().starts_with("prompt test:5 (group 5): "), "{error}");
    }
}
