//! How long the prompts of a run are, for the plan of its memory.

use rollout::{PromptSource, RolloutError};

use crate::config::PROMPT_TOKENS;

/// Problems of a task that are looked at. A task's longest prompts differ by a few tokens.
const TASK_PROMPTS: u64 = 256;

/// Tokens of prompts, the longest first; at least one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptTokens(Vec<usize>);

/// The prompts of a run, and what makes tokens of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunPrompts {
    /// Those that are trained on.
    pub training: PromptTokens,
    /// Those of each set that is measured on; none where the run does not evaluate.
    pub held_out: Vec<PromptTokens>,
    /// Bytes of the tokenizer's file.
    pub tokenizer_bytes: u64,
}

impl RunPrompts {
    /// Of the sources of a run, how many of each set's held-out prompts an evaluation takes, and the bytes of the
    /// tokenizer's file.
    ///
    /// # Errors
    /// Names the prompt that cannot be made.
    pub fn of<'a>(
        training: &PromptSource,
        held_out: impl Iterator<Item = (&'a PromptSource, usize)>,
        tokenizer_bytes: u64,
    ) -> Result<Self, RolloutError> {
        let training = PromptTokens::first_of(training, u64::MAX)?;
        let held_out = held_out.map(|(source, problems)| PromptTokens::first_of(source, problems as u64));
        let held_out = held_out.collect::<Result<_, _>>()?;
        Ok(Self { training, held_out, tokenizer_bytes })
    }
}

impl PromptTokens {
    /// Of these lengths, or one that is assumed where there are none.
    pub(super) fn of(mut tokens: Vec<usize>) -> Self {
        tokens.sort_unstable_by(|one, other| other.cmp(one));
        if tokens.is_empty() {
            tokens.push(PROMPT_TOKENS);
        }
        Self(tokens)
    }

    /// Of all prompts of a file up to this count, and of some problems of a task.
    fn first_of(source: &PromptSource, count_max: u64) -> Result<Self, RolloutError> {
        let epoch = source.epoch_prompts();
        let count = epoch.unwrap_or(TASK_PROMPTS).min(count_max);
        let tokens = (0..count).map(|index| source.prompt_tokens(index)).collect::<Result<Vec<_>, _>>()?;
        Ok(match epoch {
            // Any of a task's prompts may be as long as its longest.
            None => Self::of(tokens.into_iter().max().into_iter().collect()),
            Some(_) => Self::of(tokens),
        })
    }

    /// The lengths of as many prompts as are there at a time, if they are the longest.
    pub(super) fn longest(&self, count: usize) -> impl Iterator<Item = usize> {
        self.0.iter().copied().cycle().take(count)
    }

    pub(super) fn shortest(&self) -> usize {
        *self.0.last().expect("at least one number")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_come_first_and_come_again() {
        let prompts = PromptTokens::of(vec![3, 9, 5]);
        assert_eq!(prompts.longest(5).collect::<Vec<_>>(), [9, 5, 3, 9, 5]);
        assert_eq!(prompts.shortest(), 3);
        assert_eq!(PromptTokens::of(Vec::new()).shortest(), PROMPT_TOKENS);
    }
}
