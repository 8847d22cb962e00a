//! Draws answers to prompts, one after the other.

use std::sync::Arc;

use anyhow::{Result, bail};
use kernels::sampling::SamplingConfig;
use kernels::{CachePrecision, CacheRoom, DecoderConfig, DrawRequest, Engine, EngineSlots, Feed};
use rollout::{Ends, Finish, MinTokens};

use crate::config::ToolConfig;
use crate::model::ModelFiles;
use crate::model::policy::sampling;

/// A model that is ready to answer.
pub(super) struct Drawing<'a, E: Engine> {
    engine: &'a E,
    model: DecoderConfig,
    weights: Arc<E::Weights>,
    slots: E::Slots,
    ends: Arc<Ends>,
    min_tokens: Option<MinTokens>,
    sampling: SamplingConfig,
    output_tokens_max: usize,
}

/// What was drawn.
pub(super) struct Answer {
    /// The tokens, the one that ends the answer included.
    pub(super) tokens: Vec<u32>,
    /// Their log-probabilities in the full distribution, at temperature 1 where draws are greedy.
    pub(super) logprobs: Vec<f32>,
    /// What ended the answer.
    pub(super) finish: Finish,
}

impl<'a, E: Engine> Drawing<'a, E> {
    /// Reads a model's weights.
    pub(super) fn new(engine: &'a E, files: &ModelFiles, config: &ToolConfig) -> Result<Self> {
        let rollout = &config.rollout;
        let weights = Arc::clone(files.load_policy(engine, config.model.dtype)?.weights());
        let model = files.decoder.clone();
        let room = CacheRoom { slots: 1, positions: 1, precision: CachePrecision::F32 };
        let ends = Arc::new(Ends::new(Arc::clone(&files.text), rollout.stops(), model.vocabulary)?);
        Ok(Self {
            engine,
            weights,
            slots: engine.slots(&model, room)?,
            min_tokens: ends.min_tokens(),
            ends,
            model,
            sampling: sampling(rollout.sampling()),
            output_tokens_max: rollout.output_tokens_max,
        })
    }

    /// What ends answers.
    pub(super) fn ends(&self) -> Arc<Ends> {
        Arc::clone(&self.ends)
    }

    /// Rows of the embedding.
    pub(super) fn vocabulary(&self) -> usize {
        self.model.vocabulary
    }

    /// Draws the answer to a prompt; `text` sees each token that is not the answer's end.
    pub(super) fn answer(
        &mut self,
        prompt: &[u32],
        random_key: u64,
        mut text: impl FnMut(u32) -> Result<()>,
    ) -> Result<Answer> {
        let Some((last, before)) = prompt.split_last() else { bail!("the prompt has no tokens") };
        let tokens_max = self.output_tokens_max.min(self.room_beside(prompt.len())?);
        self.slots.reserve(prompt.len() + tokens_max);
        self.engine.prefill(&mut self.slots, &self.weights, &[Feed { slot: 0, tokens: before }]);
        let (mut last, mut logprobs) = (*last, Vec::new());
        let mut drawn: Vec<u32> = Vec::new();
        for index in 0..tokens_max {
            let excluded = self.min_tokens.as_ref().filter(|min| (index as u64) < min.tokens);
            let request = DrawRequest {
                feed: Feed { slot: 0, tokens: &[last] },
                random_key,
                index: index as u64,
                excluded: excluded.map_or(&[], |min| &min.excluded),
                given_end: None,
            };
            let next = self.engine.decode(&mut self.slots, &self.weights, &[request], &self.sampling)[0];
            let earlier = drawn.iter().rev().chain(prompt.iter().rev()).copied();
            let finish = self.ends.finish(earlier, index, next.id);
            last = next.id;
            drawn.push(next.id);
            logprobs.push(next.logprob);
            match finish {
                Some(finish) => return Ok(Answer { tokens: drawn, logprobs, finish }),
                None => text(last)?,
            }
        }
        Ok(Answer { tokens: drawn, logprobs, finish: Finish::Length })
    }

    /// Tokens that have positions behind a prompt.
    fn room_beside(&self, prompt_tokens: usize) -> Result<usize> {
        match self.model.max_positions.checked_sub(prompt_tokens) {
            Some(room) if room > 0 => Ok(room),
            _ => bail!(
                "the prompt has {prompt_tokens} tokens, and the model has {} positions for prompt and output; shorten \
                 it, or raise model.positions_max if the model can go further",
                self.model.max_positions
            ),
        }
    }

    /// Why an answer that the model did not end has ended.
    pub(super) fn cut_off(&self, tokens: usize) -> String {
        let limit = match tokens < self.output_tokens_max {
            false => "rollout.output_tokens_max".to_owned(),
            true => format!(
                "the model has {} positions; model.positions_max sets others",
                self.model.max_positions
            ),
        };
        format!("the answer was cut off after {tokens} tokens: {limit}")
    }
}
