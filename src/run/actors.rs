//! All that generates in a run: the actors with what they share, a ledger of their groups and the newest weights.

use std::sync::Arc;

use anyhow::Result;
use kernels::{CacheRoom, Engine};
use rollout::{
    Actor, ActorContext, Ends, Heartbeats, LocalLedger, Notify, Pacing, RolloutMode, Scorer, Text,
    WeightsCell,
};

use crate::config::{PROMPT_TOKENS, RunConfig, Schedule, cache_precision, weights_precision};
use crate::model::Model;
use crate::model::generator::{DecoderGenerator, Generators, GivenLengths};
use crate::model::policy::{Policy, sampling};
use crate::run::prompts::JudgedPrompts;
use crate::run::request::BenchOverrides;
use crate::run::start::RunStart;

/// Everything on the rollout's side of the queue.
pub(super) struct Actors<E: Engine> {
    pub(super) actors: Vec<Actor<DecoderGenerator<E>>>,
    pub(super) generators: Generators<E>,
    pub(super) ledger: Arc<LocalLedger>,
    pub(super) weights: Arc<WeightsCell<Policy<E>>>,
}

impl<E: Engine> Actors<E> {
    pub(super) fn new(
        engine: &Arc<E>,
        config: &RunConfig,
        model: &Model,
        start: &RunStart,
        prompts: JudgedPrompts,
        mode: Arc<dyn RolloutMode>,
        bench: &BenchOverrides,
    ) -> Result<Self> {
        let mut rollout = config.rollout.clone();
        if config.run.schedule == Schedule::Deterministic {
            // All slots are one batch, so that the number of actors changes nothing.
            rollout.actors = 1;
        }
        let notify = Notify::new();
        let pacing = Pacing {
            groups_per_step: config.learner.groups_per_step as u64,
            staleness_versions_max: config.queue.staleness_versions_max,
        };
        let queue = config.queue.clone();
        let ledger = Arc::new(LocalLedger::restored(pacing, queue, notify.clone(), &start.rollout()));
        let first = Policy::new(&**engine, &model.decoder, weights_precision(rollout.precision))?;
        let weights = Arc::new(WeightsCell::new(start.step(), Arc::new(first), notify));
        let text = Arc::clone(&model.text);
        let ends = Ends::new(Arc::clone(&text), rollout.stops(), model.decoder.config.vocabulary)?;
        let generators = Generators {
            engine: Arc::clone(engine),
            shape: model.decoder.config.clone(),
            // Room for an output and a short prompt; the cache grows where a prompt is longer.
            room: CacheRoom {
                slots: rollout.slots_per_actor(),
                positions: rollout.output_tokens_max + PROMPT_TOKENS,
                precision: cache_precision(rollout.kv_cache),
            },
            sampling: sampling(rollout.sampling()),
            min_tokens: ends.min_tokens(),
            given: given_lengths(config, bench, &text),
        };
        let context = Arc::new(ActorContext {
            mode,
            heartbeats: Heartbeats::default(),
            config: rollout.clone(),
            seed: config.run.seed,
            prompts: prompts.source,
            scorer: Scorer::new(text, prompts.rewards).with_ends(ends),
            weights: Arc::clone(&weights),
            ledger: Arc::clone(&ledger) as _,
        });
        let actors = (0..rollout.actors)
            .map(|number| Actor::new(Arc::clone(&context), number, generators.make()))
            .collect();
        Ok(Self { actors, generators, ledger, weights })
    }

    pub(super) fn context(&self) -> &ActorContext<Policy<E>> {
        self.actors[0].context()
    }
}

fn given_lengths(config: &RunConfig, bench: &BenchOverrides, text: &Text) -> Option<GivenLengths> {
    let lengths = Arc::new(bench.lengths.clone()?);
    Some(GivenLengths { lengths, seed: config.run.seed, eos_ids: text.eos_ids().to_vec() })
}
