//! How long the prompts of a run are, for the plan of its memory.

use std::sync::Arc;

use rewards::Split;
use rollout::{DataConfig, Needs, PromptSource, RolloutError, Text};

use crate::config::{PROMPT_TOKENS, RunConfig};

/// Problems of a task that are looked at. A task's longest prompts differ by a few tokens.
const TASK_PROMPTS: u64 = 256;

/// Tokens of prompts, the longest first; at least one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptTokens(Vec<usize>);

/// The prompts of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunPrompts {
    /// Those that are trained on.
    pub training: PromptTokens,
    /// Those that are measured on, where the run evaluates.
    pub held_out: PromptTokens,
    /// Whether they were read, and not assumed.
    pub are_read: bool,
}

impl RunPrompts {
    /// Tokenizes all prompts of a config: all lines of a file, and some problems of a task.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn read(config: &RunConfig, text: &Arc<Text>) -> Result<Self, RolloutError> {
        let training = PromptTokens::read(&config.data, (Split::Train, config.run.seed), u64::MAX, text)?;
        let held_out = match config.evaluation() {
            Some(evaluation) => {
                let eval = &evaluation.eval;
                let split = (Split::HeldOut, eval.seed);
                PromptTokens::read(&evaluation.data, split, eval.problems as u64, text)?
            }
            None => training.clone(),
        };
        Ok(Self { training, held_out, are_read: true })
    }

    /// For a model whose prompts cannot be read.
    #[must_use]
    pub fn assumed() -> Self {
        let assumed = PromptTokens(vec![PROMPT_TOKENS]);
        Self { training: assumed.clone(), held_out: assumed, are_read: false }
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

    fn read(
        data: &DataConfig,
        (split, seed): (Split, u64),
        count_max: u64,
        text: &Arc<Text>,
    ) -> Result<Self, RolloutError> {
        let needs = Needs { prompt_tokens_max: None, rewards: None, demonstrations: None };
        let (source, _) = PromptSource::open(data, split, seed, Arc::clone(text), &needs)?;
        // Prompts that cannot be made are said elsewhere; they take no memory.
        let tokens = |index| source.prompt(index).ok().map(|prompt| prompt.tokens.len());
        let Some(rows) = source.epoch_prompts() else {
            let longest = (0..TASK_PROMPTS.min(count_max)).filter_map(tokens).max();
            return Ok(Self::of(longest.into_iter().collect()));
        };
        Ok(Self::of((0..rows.min(count_max)).filter_map(tokens).collect()))
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
