//! What a run will hold in memory at most, from its config, the model's shapes and its prompts' lengths.
//!
//! Parts are summed by stages: what is held at one time in each of them. Buffers stay where they were used, so a part
//! that has been there once counts in all later stages; only policies and an evaluation's caches come and go. A
//! checkpoint is written from where things are. Nothing here is measured but the two constants for the program: what
//! is large is returned to the system as soon as it is free ([`crate::allocator`]).

mod evaluation;
mod measured;
mod prompts;

use std::fmt;
use std::path::PathBuf;

use kernels::{
    BLOCK_NUMBERS, Capabilities, DecodeMemory, DecoderConfig, MemoryPlan, PackedWeights, Precision,
};
use learner::optimizer::{MomentPrecision, OptimizerKind};
use rollout::{OnUpdate, Room};

use crate::config::{ModelDtype, RunConfig, Schedule, cache_precision, packed_base, weights_precision};

pub use measured::{MemoryLimit, memory_limit, peak_bytes, resident_bytes};
pub use prompts::{PromptTokens, RunPrompts};

/// Bytes that a drawn token takes in trajectories, queue and completions: id and log-prob in a segment that may
/// have grown to twice its room, id and text in the completion.
const TOKEN_BYTES: u64 = 32;

/// No machine has more, and several of them still add up.
const BYTES_MAX: u64 = 1 << 56;

/// The program, its threads and what the allocator keeps back: a run of the smallest model takes as much.
const PROGRAM: u64 = 48 << 20;

/// Bytes of a tokenizer for each byte of its file: texts and merges in tables, measured with 49,152 entries and as many
/// merges, and with 151,936 entries without.
const TOKENIZER_FACTOR: u64 = 12;

/// Bytes by what holds them, and by the stages of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunMemory {
    parts: Vec<(String, u64)>,
    stages: Vec<(String, u64)>,
    /// What is not in it.
    unplanned: Option<&'static str>,
}

impl RunMemory {
    /// Of a training run.
    #[must_use]
    pub fn new(config: &RunConfig, decoder: &DecoderConfig, prompts: &RunPrompts) -> Self {
        let engine = config.run.device.capabilities();
        let plan = Planned { config, engine, decoder, prompts };
        let (always, step, decoding) = (plan.always(), plan.step(), plan.decoding());
        let evaluation = plan.evaluation();
        let open = plan.versions_open();
        let policy = plan.policies(open + 1) - plan.policies(open);
        let sum = |parts: &[(String, u64)]| parts.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let learning = sum(&always) + sum(&step) + sum(&decoding);
        let beside = if config.run.schedule == Schedule::Lockstep { "" } else { " beside decoding" };
        let evaluated = plan.versions_with_evaluation(open);
        let mut stages = vec![
            ("the model is read".to_owned(), plan.read()),
            (
                "decoding before the first step: 1 policy".to_owned(),
                sum(&always) + sum(&decoding) + plan.policies(1),
            ),
        ];
        if let Some(evaluation) = evaluation.filter(|_| config.eval.before) {
            let name = "evaluation before the first step".to_owned();
            stages.push((name, sum(&always) + plan.policies(1) + evaluation));
        }
        stages.extend([
            (format!("a learner's step{beside}: {}", policies(open)), learning + plan.policies(open)),
            (
                format!("the next policy is packed: {}", policies(open + 1)),
                learning + plan.policies(open + 1),
            ),
        ]);
        let waiting = plan.versions_while_actors_wait(open);
        stages.push((
            format!("a checkpoint is written: {}", policies(waiting)),
            learning + plan.policies(waiting),
        ));
        let (beside, eval) = (plan.evaluates_beside(), &config.eval);
        if let Some(evaluation) = evaluation.filter(|_| eval.after || eval.every_steps > 0 || beside) {
            let what = if beside { "evaluation beside a step" } else { "evaluation" };
            stages.push((
                format!("{what}: {}", policies(evaluated)),
                learning + plan.policies(evaluated) + evaluation,
            ));
        }
        let mut parts = [always, step, decoding].concat();
        parts.push(("a policy in the form that decoding reads".to_owned(), policy));
        parts.extend(
            evaluation
                .map(|bytes| (format!("evaluation, {} answers at a time", plan.answers_at_a_time()), bytes)),
        );
        Self { parts, stages, unplanned: plan.unplanned() }
    }

    /// The most that is held at one time.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.stages.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0)
    }

    /// Says that the plan is larger than what there is. It is planned for outputs as long as they can get, all at the
    /// same time, so a run may still end well: that is why it is no error.
    #[must_use]
    pub fn too_large(&self, limit: Option<MemoryLimit>) -> Option<String> {
        let MemoryLimit { bytes, by } = limit.filter(|limit| self.total() > limit.bytes)?;
        let (largest, held) = self.parts.iter().max_by_key(|(_, bytes)| *bytes)?;
        let mebibytes = |bytes: u64| bytes >> 20;
        Some(format!(
            "the plan holds {} MiB at one time and {by} {} MiB: the run may be killed for lack of memory. The largest \
             part is `{}`, {} MiB; docs/guide/troubleshooting.md#out-of-memory has the key for each. This is no error, \
             because the plan takes all outputs to be as long as they can get",
            mebibytes(self.total()),
            mebibytes(bytes),
            largest.trim(),
            mebibytes(*held)
        ))
    }
}

fn policies(count: u64) -> String {
    if count == 1 { "1 policy".to_owned() } else { format!("{count} policies") }
}

/// What a plan is made of.
struct Planned<'a> {
    config: &'a RunConfig,
    engine: Capabilities,
    decoder: &'a DecoderConfig,
    prompts: &'a RunPrompts,
}

impl Planned<'_> {
    /// What a person is told of the plan.
    fn unplanned(&self) -> Option<&'static str> {
        if !self.engine.memory_is_planned {
            return Some(
                "A step is planned as the CPU makes it: what a device's operations hold comes on top.",
            );
        }
        let of_tapes = "A step without learner.gradients.kind = \"streambp\" is not planned: its activations come on top.";
        self.micro_batch().is_none().then_some(of_tapes)
    }

    /// All weights in f32.
    fn weights(&self) -> u64 {
        4 * self.decoder.parameters() as u64
    }

    /// The precision of weights that are packed for learner and actors together.
    fn packed(&self) -> Option<Precision> {
        let config = self.config;
        packed_base(config.model.dtype, config.learner.lora.is_some(), config.run.device)
    }

    /// Bytes of the weights that passes are computed with.
    fn stored_weights(&self) -> u64 {
        let packed = |precision| PackedWeights::planned_bytes(self.decoder, precision);
        self.packed().map_or_else(|| self.weights(), packed)
    }

    /// Bytes of the optimizer's moments of what is trained.
    fn moments(&self) -> u64 {
        let optimizer = &self.config.optimizer;
        match (optimizer.kind, optimizer.moments) {
            (OptimizerKind::Sgd, _) => 0,
            (OptimizerKind::Adamw, MomentPrecision::F32) => 2 * self.trained(),
            // A code of a byte a number, and a number a block.
            (OptimizerKind::Adamw, MomentPrecision::Int8) => {
                let numbers = self.trained() / 4;
                2 * (numbers + 4 * numbers.div_ceil(BLOCK_NUMBERS as u64))
            }
            (OptimizerKind::Adafactor, _) => {
                let rows_and_columns = |[rows, columns]: &[usize; 2]| 4 * (rows + columns) as u64;
                let shapes = self.decoder.shapes();
                // Of adapters it keeps less than of the matrices that they belong to.
                let whole: u64 = shapes.named().iter().map(|(_, shape)| rows_and_columns(shape)).sum();
                whole.min(self.trained())
            }
        }
    }

    /// Bytes of the adapters, where these are trained.
    fn adapters(&self) -> Option<u64> {
        let form = self.config.learner.lora.as_ref()?.form();
        // Who plans has looked at the section before.
        Some(4 * form.parameters(self.decoder).unwrap_or(0) as u64)
    }

    /// Bytes of what is trained.
    fn trained(&self) -> u64 {
        self.adapters().unwrap_or_else(|| self.weights())
    }

    /// What is there before anything is computed.
    fn read(&self) -> u64 {
        self.stored_weights() + self.adapters().unwrap_or(0) + self.program()
    }

    /// What is there from the beginning to the end.
    fn always(&self) -> Vec<(String, u64)> {
        let learner = &self.config.learner;
        // The base of adapters is its own reference.
        let is_other = |path: &PathBuf| learner.lora.is_none() || *path != self.config.model.path;
        let reference = u64::from(learner.kl.enabled && learner.kl.reference.as_ref().is_some_and(is_other));
        let reference = match self.config.model.dtype {
            Some(ModelDtype::Bf16) => reference * PackedWeights::planned_bytes(self.decoder, Precision::Bf16),
            _ => reference * self.weights(),
        };
        let mut parts = vec![("weights".to_owned(), self.stored_weights() + reference)];
        parts.extend(self.adapters().map(|bytes| ("adapters".to_owned(), bytes)));
        parts.extend([
            ("moments of the optimizer".to_owned(), self.moments()),
            ("the program and the tokenizer".to_owned(), self.program()),
        ]);
        parts
    }

    fn program(&self) -> u64 {
        PROGRAM + TOKENIZER_FACTOR * self.prompts.tokenizer_bytes
    }

    /// What the learner's first step leaves to the later ones.
    fn step(&self) -> Vec<(String, u64)> {
        let tokens = self.micro_batch_rows();
        let Some(memory) = self.micro_batch() else { return Vec::new() };
        vec![
            ("gradients".to_owned(), self.trained()),
            (format!("a micro-batch of {tokens} tokens: inputs of the layers"), memory.layer_inputs),
            ("  results of attention".to_owned(), memory.attention_kept),
            ("  other activations".to_owned(), memory.activations_kept),
            ("  keys and values of a layer".to_owned(), memory.keys_values),
            ("  ids, angles, statistics".to_owned(), memory.tokens),
            (
                "  a chunk in a layer and in the head".to_owned(),
                memory.layer_chunk + memory.head_chunk + self.unpacked(),
            ),
        ]
    }

    /// What of packed weights is in f32 at a time.
    fn unpacked(&self) -> u64 {
        if self.packed().is_some() { MemoryPlan::unpacked(self.decoder) } else { 0 }
    }

    fn micro_batch(&self) -> Option<MemoryPlan> {
        let plan = self.config.learner.gradients.plan(self.config.rollout.temperature);
        MemoryPlan::new(self.decoder, &plan, self.micro_batch_rows())
    }

    /// The most tokens that go through the model together: what a micro-batch may have, or a step if that is less. Where
    /// the engine shares prefixes, a prompt is there once for the members of its group.
    fn micro_batch_rows(&self) -> usize {
        let (rollout, learner) = (&self.config.rollout, &self.config.learner);
        let (groups, members, output) =
            (learner.groups_per_step, rollout.group_size, rollout.output_tokens_max);
        let path = learner.gradients.plan(rollout.temperature).path;
        let shares = self.engine.shared_prefixes.contains(&path);
        let prompts: usize = self.prompts.training.longest(groups).sum();
        let longest = self.prompts.training.longest(1).sum::<usize>() + output;
        let tokens = members * (prompts + groups * output);
        if tokens <= learner.batch_tokens_max {
            let shared = if shares { (members - 1) * (prompts - groups) } else { 0 };
            return tokens - shared;
        }
        // Micro-batches are about equally large.
        let count = tokens.div_ceil(learner.batch_tokens_max);
        let most = learner.batch_tokens_max.min(tokens.div_ceil(count) + longest).max(longest);
        let sequences = most / longest;
        let shared = (sequences - groups.min(sequences)) * (self.prompts.training.shortest().max(1) - 1);
        most - if shares { shared } else { 0 }
    }

    /// What the actors hold.
    fn decoding(&self) -> Vec<(String, u64)> {
        let (rollout, learner) = (&self.config.rollout, &self.config.learner);
        let groups = self.config.queue.groups_max + learner.groups_per_step + learner.step_groups_max();
        let completions = groups * rollout.group_size + rollout.trajectories_open_max;
        let longest = self.prompts.training.longest(1).sum::<usize>() + rollout.output_tokens_max;
        let one = DecodeMemory::new(self.decoder, rollout.slots_per_actor(), longest);
        vec![
            self.keys_values(),
            ("a pass of each actor".to_owned(), rollout.actors as u64 * one.pass),
            (
                format!("{completions} completions, open, queued and learned from"),
                (completions as u64 * TOKEN_BYTES)
                    .saturating_mul(rollout.output_tokens_max as u64)
                    .min(BYTES_MAX),
            ),
        ]
    }

    /// The caches of all actors, as far as their bound lets them grow.
    fn keys_values(&self) -> (String, u64) {
        let rollout = &self.config.rollout;
        let block_tokens = self.engine.cache_block_tokens;
        if !self.engine.caches_grow {
            let longest = self.prompts.training.longest(1).sum::<usize>() + rollout.output_tokens_max;
            let slots = rollout.actors * rollout.slots_per_actor();
            return (
                format!("keys and values of {slots} slots, taken at once"),
                self.at_once(slots, longest),
            );
        }
        let (open, members) = (rollout.trajectories_open_max, rollout.group_size);
        // A prompt's full blocks are there once for each version that members of its group begin under.
        let begun = match (rollout.on_update, self.engine.shares_caches) {
            (OnUpdate::Recompute, true) => members.min(self.versions_open() as usize + 1),
            _ => members,
        };
        let prompts = self.prompts.training.longest(open.div_ceil(members));
        let blocks: usize = prompts
            .map(|prompt| prompt.max(1))
            .enumerate()
            .map(|(group, prompt)| {
                let members = members.min(open - group * members);
                let context = (prompt + rollout.output_tokens_max - 1).div_ceil(block_tokens);
                let full = (prompt - 1) / block_tokens;
                begun.min(members) * full + members * (context - full)
            })
            .sum();
        let block = DecodeMemory::cache_block(self.decoder, cache_precision(rollout.kv_cache));
        let bound = rollout
            .kv_cache_tokens_per_actor()
            .map(|tokens| rollout.actors * Room::of_tokens(tokens, block_tokens).blocks);
        match bound.filter(|bound| *bound < blocks) {
            Some(bound) => {
                let tokens = bound * block_tokens;
                (format!("keys and values of {tokens} tokens, {bound} blocks"), bound as u64 * block)
            }
            None => (format!("keys and values of {open} open trajectories"), blocks as u64 * block),
        }
    }

    /// Keys and values of slots that each have room for the longest context.
    fn at_once(&self, slots: usize, positions: usize) -> u64 {
        let config = self.decoder;
        let token = 2 * config.layers * config.kv_heads * config.head_width;
        4 * (slots * positions * token) as u64
    }

    /// Versions that are held while the learner computes: the newest, and those that open segments began under. A queue
    /// with room for all groups on the way has the learner wait for those that would be too old for its next step.
    fn versions_open(&self) -> u64 {
        let (rollout, queue) = (&self.config.rollout, &self.config.queue);
        let open = if rollout.in_flight_updates { 1 } else { rollout.versions_open_max };
        let staleness = queue.staleness_versions_max;
        let on_the_way = (self.config.learner.step_groups_max() as u64).saturating_mul(1 + staleness);
        if queue.groups_max as u64 >= on_the_way { open.min(staleness.max(1)) } else { open }
    }

    /// Versions that are held between an update and what the actors do next. Under async they go on meanwhile, and end what
    /// is too old.
    fn versions_while_actors_wait(&self, open: u64) -> u64 {
        if self.config.run.schedule == Schedule::Async { open } else { open + 1 }
    }

    /// So many versions as decoding reads them. The newest one's embedding is the learner's own.
    fn policies(&self, versions: u64) -> u64 {
        let bits = weights_precision(self.config.rollout.precision);
        let packed = DecodeMemory::packed_at(self.decoder, bits);
        let rows = 4 * (self.decoder.vocabulary * self.decoder.hidden) as u64;
        let looked_up = if self.decoder.tied && bits == Precision::F32 { 0 } else { rows };
        // Versions of adapters share one base: each has its matrices, and the same as products read them, in whole panels.
        // Those of the newest one are the learner's own.
        if let Some(adapters) = self.adapters() {
            let base = if self.actors_share() { 0 } else { packed + looked_up };
            return base + (3 * versions).saturating_sub(1) * adapters;
        }
        versions * packed + versions.saturating_sub(1) * looked_up
    }

    /// Whether actors decode with the weights that passes of the learner are computed with.
    fn actors_share(&self) -> bool {
        let bits = weights_precision(self.config.rollout.precision);
        self.packed().is_some_and(|own| bits == Precision::F32 || bits == own)
    }
}

/// Comments of the config that is printed before it.
impl fmt::Display for RunMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        writeln!(f, "\n# Memory of the run, MiB, planned for outputs and contexts as long as they can get:")?;
        for (name, bytes) in &self.parts {
            writeln!(f, "# {name:<62}{:>10.1}", mebibytes(*bytes))?;
        }
        writeln!(f, "# Held together in each stage, with all that the stages before have left:")?;
        for (name, bytes) in &self.stages {
            writeln!(f, "# {name:<62}{:>10.1}", mebibytes(*bytes))?;
        }
        writeln!(f, "# {:<62}{:>10.1}", "at most at one time", mebibytes(self.total()))?;
        if let Some(unplanned) = self.unplanned {
            writeln!(f, "# {unplanned}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
