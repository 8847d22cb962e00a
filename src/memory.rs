//! What a run will hold in memory at most, from its config and the model's shapes alone.

use std::fmt;

use kernels::{CACHE_BLOCK_TOKENS, DecodeMemory, DecoderConfig, MemoryPlan};
use learner::optimizer::OptimizerKind;
use rollout::{DecodePrecision, RolloutConfig, Room};

use crate::config::{PROMPT_TOKENS, RunConfig};
use crate::generator::precision as cache_precision;
use crate::policy::precision;

/// Bytes that a drawn token takes in trajectories, queue and completions: id and log-prob in a segment that may
/// have grown to twice its room, id and text in the completion.
const TOKEN_BYTES: u64 = 32;

/// The program, its threads and what the allocator keeps back.
const PROGRAM: u64 = 32 << 20;

/// Bytes by what holds them. Everything may be held at the same time under `async` and `deterministic`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunMemory {
    parts: Vec<(String, u64)>,
    planned: bool,
}

impl RunMemory {
    /// Of a training run.
    #[must_use]
    pub fn new(config: &RunConfig, decoder: &DecoderConfig) -> Self {
        let (rollout, learner, eval) = (&config.rollout, &config.learner, &config.eval);
        let weights = 4 * decoder.parameters() as u64;
        let positions = rollout.output_tokens_max + PROMPT_TOKENS;
        let one = DecodeMemory::new(decoder, rollout.slots_per_actor(), positions);
        let count = rollout.actors as u64;
        let packed = DecodeMemory::packed_at(decoder, precision(rollout.precision));
        let groups = config.queue.groups_max + learner.groups_per_step + learner.step_groups_max();
        let completions = groups * rollout.group_size + rollout.trajectories_open_max;
        let moments = if config.optimizer.kind == OptimizerKind::Adamw { 2 } else { 0 };
        let reference = u64::from(learner.kl.enabled && learner.kl.reference.is_some());
        let mut parts = vec![
            ("weights".to_owned(), weights * (1 + reference)),
            ("moments of the optimizer".to_owned(), moments * weights),
        ];
        let tokens = learner.batch_tokens_max;
        let plan = MemoryPlan::new(decoder, &learner.streambp.plan(rollout.temperature), tokens);
        if let Some(memory) = &plan {
            parts.extend([
                ("gradients".to_owned(), memory.gradients),
                (format!("a micro-batch of {tokens} tokens: inputs of the layers"), memory.layer_inputs),
                ("  results of attention".to_owned(), memory.attention_kept),
                ("  other activations".to_owned(), memory.activations_kept),
                ("  keys and values of a layer".to_owned(), memory.keys_values),
                ("  ids, angles, statistics".to_owned(), memory.tokens),
                ("  a chunk in a layer and in the head".to_owned(), memory.layer_chunk + memory.head_chunk),
            ]);
        }
        parts.extend([
            // The one that a learner's update leaves behind, and the one before it, which open segments may need.
            ("older policies".to_owned(), 2 * weights),
            keys_values(rollout, decoder),
            // The one that is published next, the newest, and the one before it, which segments may need that take as
            // long as a step of the learner. All actors share them.
            ("weights packed for decoding, of three policies".to_owned(), 3 * packed),
            ("a pass of each actor".to_owned(), count * one.pass),
            (
                format!("{completions} completions, open, queued and learned from"),
                completions as u64 * rollout.output_tokens_max as u64 * TOKEN_BYTES,
            ),
        ]);
        if config.evaluation().is_some() && (eval.before || eval.after || eval.every_steps > 0) {
            let memory = DecodeMemory::new(decoder, eval.trajectories_open_max, positions);
            // The newest weights in f32 are those of the actors, unless these are rounded.
            let own = if rollout.precision == DecodePrecision::F32 { 0 } else { memory.packed };
            let all = memory.cache + own + memory.pass;
            parts.push((format!("evaluation, {} answers at a time", eval.trajectories_open_max), all));
        }
        parts.push(("the program".to_owned(), PROGRAM));
        Self { parts, planned: plan.is_some() }
    }

    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// The caches of all actors, as far as their bound lets them grow.
fn keys_values(rollout: &RolloutConfig, decoder: &DecoderConfig) -> (String, u64) {
    let open = rollout.trajectories_open_max;
    let blocks = open * (rollout.output_tokens_max + PROMPT_TOKENS).div_ceil(CACHE_BLOCK_TOKENS);
    let bytes =
        |blocks: usize| blocks as u64 * DecodeMemory::cache_block(decoder, cache_precision(rollout.kv_cache));
    let bound = rollout
        .kv_cache_tokens_per_actor()
        .map(|tokens| rollout.actors * Room::of_tokens(tokens, CACHE_BLOCK_TOKENS).blocks);
    match bound.filter(|bound| *bound < blocks) {
        Some(bound) => {
            let tokens = bound * CACHE_BLOCK_TOKENS;
            (format!("keys and values of {tokens} tokens, {bound} blocks"), bytes(bound))
        }
        None => (format!("keys and values of {open} open trajectories"), bytes(blocks)),
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
        writeln!(f, "# {:<62}{:>10.1}", "at most at one time", mebibytes(self.total()))?;
        if !self.planned {
            writeln!(f, "# A step without streambp is not planned: its activations come on top.")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    impl RunMemory {
        fn part(&self, name: &str) -> u64 {
            self.parts.iter().find(|(part, _)| part.starts_with(name)).unwrap().1
        }
    }

    #[test]
    fn longer_outputs_and_more_actors_take_more() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let of = |set: &[&str]| {
            let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
            let config = RunConfig::load(&root.join("configs/quickstart.toml"), &set).unwrap();
            let decoder = DecoderConfig::read(&config.model.path).unwrap();
            RunMemory::new(&config, &decoder)
        };
        let (plain, longer) = (of(&[]), of(&["rollout.output_tokens_max=320"]));
        // 192 tokens more: keys and values of 64 trajectories and 32 answers, tokens of 832 completions, of which a step
        // that refills has 64 groups.
        let caches = 4 * 2 * 4 * 192 * 128 * (64 + 32);
        let tokens = 832 * 192 * TOKEN_BYTES;
        assert_eq!(longer.total() - plain.total(), caches + tokens);
        assert!(of(&["rollout.actors=2"]).total() > plain.total());
        // Three policies of half as many bytes, and the weights that evaluation then has for itself.
        let weights = of(&[]).part("weights packed");
        assert_eq!(of(&["rollout.precision=bf16"]).part("weights packed"), weights / 2);
        let evaluation = of(&["rollout.precision=bf16"]).part("evaluation") - plain.part("evaluation");
        assert_eq!(evaluation, weights / 3);
        assert_eq!(of(&["rollout.actors=2"]).part("weights packed"), weights);
        assert_eq!(plain.total() - of(&["optimizer.kind=sgd"]).total(), 2 * plain.parts[0].1);
        // 64 trajectories of 192 tokens are three blocks each; 4 layers of 128 keys and 128 values, in f32.
        let caches = 64 * 3 * 64 * (4 * 4 * 2 * 128);
        assert_eq!(plain.total() - of(&["rollout.kv_cache=bf16"]).total(), caches / 2);
        let bounded = of(&["rollout.kv_cache_tokens_max=6400"]);
        assert_eq!(plain.total() - bounded.total(), caches * 92 / 192);
        assert!(bounded.to_string().contains("keys and values of 6400 tokens, 100 blocks"), "{bounded}");
        assert_eq!(of(&["rollout.kv_cache_tokens_max=64000"]), plain, "more than the slots can hold");
        assert!(of(&["learner.streambp.enabled=false"]).to_string().contains("is not planned"));
    }
}
