//! What an evaluation holds, beside a step or in its turn.

use kernels::{CachePrecision, DecodeMemory};
use rollout::DecodePrecision;

use super::{Planned, PromptTokens};
use crate::config::{EvalSection, Evaluation};

impl Planned<'_> {
    /// Whether held-out problems are answered while steps are made: those after the last step are not.
    pub(super) fn evaluates_beside(&self) -> bool {
        let eval = &self.config.eval;
        self.config.evaluates_beside() && (eval.before || eval.every_steps > 0)
    }

    /// Versions that are held while held-out problems are answered.
    pub(super) fn versions_with_evaluation(&self, open: u64) -> u64 {
        let is_f32 = self.config.rollout.precision == DecodePrecision::F32;
        match self.evaluates_beside() {
            // The next one is packed while the evaluation holds an older one, which is its own where that of the actors
            // is rounded.
            true => open + 1 + u64::from(is_f32),
            false => self.versions_while_actors_wait(open),
        }
    }

    /// The most answers that are decoded side by side, over the sets.
    pub(super) fn answers_at_a_time(&self) -> usize {
        self.config.evaluations().iter().map(|set| answers_of(&set.eval)).max().unwrap_or(0)
    }

    /// What an evaluation holds beside the newest policy, if there is one: the most over its sets, which come in turns.
    pub(super) fn evaluation(&self) -> Option<u64> {
        if !self.config.eval.is_asked() {
            return None;
        }
        let sets = self.config.evaluations();
        sets.iter().zip(&self.prompts.held_out).map(|(set, prompts)| self.set(set, prompts)).max()
    }

    fn set(&self, set: &Evaluation, prompts: &PromptTokens) -> u64 {
        let (answers, output) = (answers_of(&set.eval), set.output_tokens_max);
        let longest = prompts.longest(1).sum::<usize>() + output;
        let memory = DecodeMemory::new(self.decoder, answers, longest);
        // The newest weights in f32 are those of the actors, unless these are rounded, or those of the learner.
        let is_shared = self.config.rollout.precision == DecodePrecision::F32 || self.packed().is_some();
        let own = if is_shared { 0 } else { memory.packed };
        let cache = if self.engine.caches_grow {
            let (prompts, tokens) = (prompts.longest(answers), self.engine.cache_block_tokens);
            let blocks: usize = prompts.map(|prompt| (prompt + output - 1).div_ceil(tokens)).sum();
            blocks as u64 * DecodeMemory::cache_block(self.decoder, CachePrecision::F32)
        } else {
            self.at_once(answers, longest)
        };
        cache + own + memory.pass
    }
}

fn answers_of(eval: &EvalSection) -> usize {
    eval.trajectories_open_max.min(eval.problems.saturating_mul(eval.pass_k))
}
