//! The knobs of `[rollout]` and `[queue]`, with the checks that need no other file. Reading TOML, line
//! numbers and the checks between crates belong to the composition root.

mod stops;

use std::fmt::Display;

use rewards::TruncatedReward;
use serde::{Deserialize, Serialize};
use trajectory::OutputLimits;

use crate::error::RolloutError;
use crate::modes::ModeConfig;
pub use stops::StopConfig;

/// What happens to the cache of an open trajectory when newer weights arrive at its segment boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUpdate {
    /// The cache is rebuilt from the token ids, so every key and value is of the segment's own version.
    #[default]
    Recompute,
    /// The cache stays, so a segment attends to keys and values of older versions.
    Keep,
    /// The cache is rebuilt where that takes little beside the segment that begins, and stays elsewhere: early
    /// boundaries pay for exact caches and late ones do not.
    Auto,
}

/// What a token of a context that is filled again costs, in drawn tokens. Filling takes hundreds of rows through
/// each weight at a time, a decode step as many as there are open trajectories, so the ratio is far below 1 with
/// one of them and nears 1 with many: a half is between. `longhaul bench decode` measures both speeds. It is a
/// constant, so that a run on another machine decides the same.
const FILLED_TOKEN_COST: f64 = 0.5;

/// The most that [`OnUpdate::Auto`] spends on rebuilding, of what drawing the coming segment costs: a segment then
/// takes at most twice as long as with a cache that is kept.
const REBUILDING_SHARE_MAX: f64 = 1.0;

impl OnUpdate {
    /// Whether the cache of a context is rebuilt before a segment of at most `segment_tokens_max` tokens under
    /// newer weights. A function of lengths alone, so that a schedule that repeats decides the same again.
    pub fn rebuilds(self, context_tokens: u64, segment_tokens_max: usize) -> bool {
        match self {
            Self::Recompute => true,
            Self::Keep => false,
            Self::Auto => {
                let rebuilding = context_tokens as f64 * FILLED_TOKEN_COST;
                rebuilding <= segment_tokens_max as f64 * REBUILDING_SHARE_MAX
            }
        }
    }
}

/// The schedule: whether actors and learner work at the same time, and by which clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Actors generate while the learner learns.
    #[default]
    Async,
    /// At the same time, by a logical clock: the same seed gives the same run, bit for bit.
    Deterministic,
    /// One after the other, in one thread: the same seed gives the same run, bit for bit.
    Lockstep,
}

/// Precision of the weights that actors decode with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecodePrecision {
    /// The learner's own weights.
    #[default]
    F32,
    /// 16 bits: rounded to 8 significant bits.
    Bf16,
    /// 8 bits: whole numbers, with a scale for each output of a matrix.
    I8,
}

/// Precision of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvCache {
    /// Keys and values as they are.
    #[default]
    F32,
    /// Rounded, in half of the memory. What is drawn is of a slightly other distribution than the one that
    /// training computes.
    Bf16,
}

/// Scheduling priority where slots or room in the KV cache are scarce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// The oldest group.
    #[default]
    Oldest,
    /// After the oldest group, the one with the fewest unfinished members: so a few long members hold back no group for
    /// long that is otherwise ready.
    LastMembers,
}

/// How long outputs may be and how much generation is in flight; the table `[rollout]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutConfig {
    /// The most tokens of one completion.
    pub output_tokens_max: usize,
    /// The most segments of one completion; 1 is an ordinary rollout.
    pub segments_max: usize,
    /// The most trajectories that are started and not finished, over all actors: the decoding slots.
    pub trajectories_open_max: usize,
    /// Decoders that generate side by side, each on its own thread.
    #[serde(default = "one")]
    pub actors: usize,
    /// Threads that score finished groups beside the actors; more than one helps where verifiers wait for a process
    /// or a service. Without effect in lockstep.
    #[serde(default = "one")]
    pub scorers: usize,
    /// Completions of one prompt.
    pub group_size: usize,
    /// The temperature that tokens are drawn at.
    pub temperature: f64,
    /// The probability mass that tokens are drawn from; 1 is all of it.
    #[serde(default = "whole_mass")]
    pub top_p: f64,
    /// The number of likeliest tokens that are drawn from; 0 is all of them.
    #[serde(default)]
    pub top_k: usize,
    /// An output ends with the token that completes one of these strings; they are found across the borders of
    /// tokens.
    #[serde(default)]
    pub stop: Vec<String>,
    /// An output ends with one of these tokens, as with the ends of output that the model's files name.
    #[serde(default)]
    pub stop_token_ids: Vec<u32>,
    /// Nothing ends an output before it has so many tokens: no end of output and no stop token id is drawn, and stop
    /// strings are not looked for.
    #[serde(default)]
    pub min_tokens: usize,
    /// Whether the text that rewards see has the stop string that ended it, and what its last token writes behind
    /// it. The tokens that are trained on have both in any case.
    #[serde(default = "yes")]
    pub include_stop_str_in_output: bool,
    /// What happens to the KV cache of an open trajectory at a weight update.
    #[serde(default)]
    pub on_update: OnUpdate,
    /// Whether newer weights end the segments that are open, so that all slots decode under the newest ones
    /// (in-flight updates, as in PipelineRL, arXiv 2509.19128): the trajectories go on in another segment each. One
    /// pass over one version's weights then serves all slots, and an output has as many segments more as there were
    /// updates while it was drawn.
    #[serde(default)]
    pub in_flight_updates: bool,
    /// The most policy versions that open segments are of: the newest one and those right before it. Newer weights end a
    /// segment that has fallen further behind, and its trajectory goes on in another one, as in-flight updates do with
    /// every segment, which are the case of 1. Each version is a pass over weights of its own in every decode step,
    /// and a copy of them in memory.
    #[serde(default = "two")]
    pub versions_open_max: u64,
    /// Precision of the weights that actors decode with; on the CPU only. Less is faster and takes less memory, and makes them draw
    /// from another distribution than the learner computes (`learner.mismatch`).
    #[serde(default)]
    pub precision: DecodePrecision,
    /// Precision of the KV cache; `"bf16"` on the CPU only.
    #[serde(default)]
    pub kv_cache: KvCache,
    /// The most tokens whose keys and values are cached at the same time, over all actors, in whole blocks; absent, as
    /// many as fit on the slots. Trajectories without room wait, and their caches are filled again from their tokens.
    /// On the CPU only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache_tokens_max: Option<usize>,
    /// Scheduling priority where slots or room in the KV cache are scarce.
    #[serde(default)]
    pub priority: Priority,
    /// What a truncated completion is worth; the sum of rewards follows it.
    #[serde(default)]
    pub truncated_reward: TruncatedReward,
    /// `[rollout.mode]`: how a trajectory goes on when the policy has come to an end.
    #[serde(default)]
    pub mode: ModeConfig,
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

/// The weights that segments began under before an update, and those after it: outputs in segments that are shorter than
/// a step of the learner need no more.
fn two() -> u64 {
    2
}

fn whole_mass() -> f64 {
    1.0
}

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the likeliest token each time.
    pub temperature: f64,
    /// The probability mass that tokens are drawn from; 1 is all of it.
    pub top_p: f64,
    /// The number of likeliest tokens that are drawn from; 0 is all of them.
    pub top_k: usize,
}

impl From<&RolloutConfig> for OutputLimits {
    fn from(config: &RolloutConfig) -> Self {
        Self { segment_tokens_max: config.segment_tokens_max(), output_tokens_max: config.output_tokens_max }
    }
}

impl RolloutConfig {
    /// Refuses values that contradict themselves or each other.
    ///
    /// # Errors
    /// [`RolloutError::Config`] with the first such key.
    pub fn check(&self) -> Result<(), RolloutError> {
        at_least("rollout.output_tokens_max", self.output_tokens_max, 1)?;
        at_least("rollout.segments_max", self.segments_max, 1)?;
        at_least("rollout.trajectories_open_max", self.trajectories_open_max, 1)?;
        at_most("rollout.trajectories_open_max", self.trajectories_open_max, OPEN_MAX)?;
        at_least("rollout.actors", self.actors, 1)?;
        at_least("rollout.scorers", self.scorers, 1)?;
        at_least("rollout.versions_open_max", self.versions_open_max, 1)?;
        // The advantage of a group of one is always 0: such a run would learn nothing and not say so.
        at_least("rollout.group_size", self.group_size, 2)?;
        at_most("rollout.group_size", self.group_size, GROUP_SIZE_MAX)?;
        if !self.output_tokens_max.is_multiple_of(self.segments_max) {
            return Err(RolloutError::Config {
                key: "rollout.segments_max",
                reason: format!(
                    "{} segments do not divide output_tokens_max = {}",
                    self.segments_max, self.output_tokens_max
                ),
            });
        }
        if !self.trajectories_open_max.is_multiple_of(self.actors) {
            return Err(RolloutError::Config {
                key: "rollout.actors",
                reason: format!(
                    "{} actors do not divide trajectories_open_max = {}",
                    self.actors, self.trajectories_open_max
                ),
            });
        }
        if let Some(tokens) =
            self.kv_cache_tokens_per_actor().filter(|tokens| *tokens <= self.output_tokens_max)
        {
            return Err(RolloutError::Config {
                key: "rollout.kv_cache_tokens_max",
                reason: format!(
                    "the {tokens} tokens of each actor must be more than output_tokens_max = {}, or no output could \
                     get so long",
                    self.output_tokens_max
                ),
            });
        }
        self.stops().check(self.output_tokens_max)?;
        self.check_sampling()
    }

    /// How tokens are drawn.
    pub fn sampling(&self) -> Sampling {
        Sampling { temperature: self.temperature, top_p: self.top_p, top_k: self.top_k }
    }

    /// What ends outputs before their limit.
    pub fn stops(&self) -> StopConfig {
        StopConfig {
            stop: self.stop.clone(),
            stop_token_ids: self.stop_token_ids.clone(),
            min_tokens: self.min_tokens,
            include_stop_str_in_output: self.include_stop_str_in_output,
        }
    }

    fn check_sampling(&self) -> Result<(), RolloutError> {
        // Greedy members of a group are equal, so their advantages are 0; greedy decoding is for evaluation.
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(RolloutError::Config {
                key: "rollout.temperature",
                reason: format!("must be finite and above 0, got {}", self.temperature),
            });
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(RolloutError::Config {
                key: "rollout.top_p",
                reason: format!("must be above 0 and at most 1, got {}", self.top_p),
            });
        }
        Ok(())
    }

    /// The most tokens of one segment. A segment ends where the output has a multiple of so many; every one but a
    /// trajectory's last has exactly this many, unless in-flight updates end some before.
    pub fn segment_tokens_max(&self) -> usize {
        self.output_tokens_max / self.segments_max
    }

    /// The oldest version that a segment may go on under when weights of `newest` are there.
    pub fn oldest_version_open(&self, newest: u64) -> u64 {
        let open = if self.in_flight_updates { 1 } else { self.versions_open_max };
        (newest + 1).saturating_sub(open)
    }

    /// Each actor's part of the bound on the cache.
    pub fn kv_cache_tokens_per_actor(&self) -> Option<usize> {
        self.kv_cache_tokens_max.map(|tokens| tokens / self.actors)
    }

    /// The decoding slots of each actor.
    pub fn slots_per_actor(&self) -> usize {
        self.trajectories_open_max / self.actors
    }
}

/// How much finished work may wait and how old it may be; the table `[queue]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueConfig {
    /// The most groups that wait.
    pub groups_max: usize,
    /// The most versions between a group's oldest token and the learner that takes the group.
    pub staleness_versions_max: u64,
}

impl QueueConfig {
    /// Refuses a queue that can never hold the `groups_per_step` groups that the learner takes at once.
    ///
    /// # Errors
    /// [`RolloutError::Config`] with the key.
    pub fn check(&self, groups_per_step: usize) -> Result<(), RolloutError> {
        at_least("queue.groups_max", self.groups_max, 1)?;
        at_most("queue.groups_max", self.groups_max, GROUPS_MAX)?;
        at_most("queue.staleness_versions_max", self.staleness_versions_max, STALENESS_MAX)?;
        at_least("learner.groups_per_step", groups_per_step, 1)?;
        if self.groups_max < groups_per_step {
            return Err(RolloutError::Config {
                key: "queue.groups_max",
                reason: format!(
                    "{} is less than learner.groups_per_step = {groups_per_step}, so no step could start",
                    self.groups_max
                ),
            });
        }
        Ok(())
    }
}

/// The most groups that a queue may hold, the oldest age that it may be told to keep, the most trajectories that may be
/// open and the largest group: far above what memory has room for, and small enough that no product of them overflows.
const GROUPS_MAX: usize = 1 << 20;
const STALENESS_MAX: u64 = 1 << 32;
const OPEN_MAX: usize = 1 << 20;
const GROUP_SIZE_MAX: usize = 1 << 16;

fn at_most<N: PartialOrd + Display>(key: &'static str, value: N, maximum: N) -> Result<(), RolloutError> {
    if value > maximum {
        return Err(RolloutError::Config { key, reason: format!("must be at most {maximum}, got {value}") });
    }
    Ok(())
}

fn at_least<N: PartialOrd + Display>(key: &'static str, value: N, minimum: N) -> Result<(), RolloutError> {
    if value < minimum {
        return Err(RolloutError::Config { key, reason: format!("must be at least {minimum}, got {value}") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usable() -> RolloutConfig {
        serde_json::from_str(
            r#"{"output_tokens_max": 12, "segments_max": 3, "trajectories_open_max": 8, "group_size": 4,
                "temperature": 0.85}"#,
        )
        .expect("the text has every key without a default")
    }

    fn refusal(change: impl FnOnce(&mut RolloutConfig)) -> String {
        let mut config = usable();
        change(&mut config);
        config.check().expect_err("the change makes the config unusable").to_string()
    }

    #[test]
    fn defaults_do_not_touch_what_changes_learning() {
        let config = usable();
        config.check().expect("the config is usable");
        assert_eq!((config.actors, config.top_k, config.top_p), (1, 0, 1.0));
        assert_eq!(
            (config.kv_cache, config.kv_cache_tokens_max, config.priority),
            (KvCache::F32, None, Priority::Oldest)
        );
        assert_eq!((config.on_update, config.truncated_reward), (OnUpdate::Recompute, TruncatedReward::Zero));
        assert_eq!(config.precision, DecodePrecision::F32);
        assert_eq!((config.segment_tokens_max(), config.slots_per_actor()), (4, 8));
        for key in ["output_tokens_max", "segments_max", "trajectories_open_max", "group_size", "temperature"]
        {
            let mut object = serde_json::to_value(&config).expect("plain numbers");
            object.as_object_mut().expect("a struct").remove(key);
            let error = serde_json::from_value::<RolloutConfig>(object).expect_err("the key has no default");
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    #[test]
    fn caches_are_rebuilt_by_the_config_and_by_lengths() {
        for (context, segment, auto) in
            [(0, 100, true), (140, 100, true), (200, 100, true), (201, 100, false), (10_000, 100, false)]
        {
            assert!(OnUpdate::Recompute.rebuilds(context, segment));
            assert!(!OnUpdate::Keep.rebuilds(context, segment));
            assert_eq!(OnUpdate::Auto.rebuilds(context, segment), auto, "{context} tokens before {segment}");
        }
    }

    #[test]
    fn words_are_read_and_written() {
        for (word, on_update) in
            [("recompute", OnUpdate::Recompute), ("keep", OnUpdate::Keep), ("auto", OnUpdate::Auto)]
        {
            assert_eq!(serde_json::from_value::<OnUpdate>(word.into()).expect("a word"), on_update);
        }
        for (word, precision) in
            [("f32", DecodePrecision::F32), ("bf16", DecodePrecision::Bf16), ("i8", DecodePrecision::I8)]
        {
            assert_eq!(serde_json::to_value(precision).expect("a word"), word);
            assert_eq!(serde_json::from_value::<DecodePrecision>(word.into()).expect("a word"), precision);
        }
    }

    #[test]
    fn refusals_name_the_key_and_the_value() {
        assert_eq!(refusal(|c| c.segments_max = 0), "rollout.segments_max: must be at least 1, got 0");
        assert_eq!(
            refusal(|c| c.segments_max = 5),
            "rollout.segments_max: 5 segments do not divide output_tokens_max = 12"
        );
        let too_many = "rollout.trajectories_open_max: must be at most 1048576, got 1000000000000";
        assert_eq!(refusal(|c| c.trajectories_open_max = 1_000_000_000_000), too_many);
        assert_eq!(refusal(|c| c.top_p = 0.0), "rollout.top_p: must be above 0 and at most 1, got 0");
        assert!(refusal(|c| c.top_p = f64::NAN).starts_with("rollout.top_p"));
        assert!(refusal(|c| c.temperature = 0.0).starts_with("rollout.temperature"));
        assert!(refusal(|c| c.temperature = f64::INFINITY).starts_with("rollout.temperature"));
        assert!(refusal(|c| c.group_size = 1).starts_with("rollout.group_size"));
        assert!(refusal(|c| c.output_tokens_max = 0).starts_with("rollout.output_tokens_max"));
        assert!(refusal(|c| c.trajectories_open_max = 0).starts_with("rollout.trajectories_open_max"));
        assert!(refusal(|c| c.actors = 0).starts_with("rollout.actors"));
        assert!(refusal(|c| c.actors = 3).starts_with("rollout.actors"));
        let bound = |tokens| refusal(move |c| (c.actors, c.kv_cache_tokens_max) = (2, Some(tokens)));
        let message = "rollout.kv_cache_tokens_max: the 12 tokens of each actor must be more than output_tokens_max = 12";
        assert!(bound(25).starts_with(message), "{}", bound(25));
        let enough = RolloutConfig { actors: 2, kv_cache_tokens_max: Some(26), ..usable() };
        enough.check().expect("a prompt of one token and an output fit");
        assert_eq!(enough.kv_cache_tokens_per_actor(), Some(13));
    }

    #[test]
    fn a_queue_must_hold_one_step() {
        let queue = QueueConfig { groups_max: 3, staleness_versions_max: 0 };
        queue.check(3).expect("three groups fit");
        assert!(
            queue.check(4).expect_err("four do not").to_string().starts_with("queue.groups_max: 3 is less")
        );
        let empty = QueueConfig { groups_max: 0, staleness_versions_max: 0 };
        assert!(empty.check(1).expect_err("nothing fits").to_string().starts_with("queue.groups_max"));
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error =
            serde_json::from_str::<QueueConfig>(r#"{"groups_max": 1, "staleness_versions_max": 0, "x": 1}"#)
                .expect_err("x is no key");
        assert!(error.to_string().contains("unknown field `x`"), "{error}");
    }
}
