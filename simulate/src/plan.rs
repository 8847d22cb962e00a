//! What is run on the virtual clock, and what a step of it came to.

use rollout::{QueueConfig, RolloutConfig, Schedule};

/// What is run.
#[derive(Debug, Clone)]
pub struct VirtualPlan {
    /// The table `[rollout]`.
    pub rollout: RolloutConfig,
    /// The table `[queue]`.
    pub queue: QueueConfig,
    /// The groups of a step.
    pub groups_per_step: usize,
    /// Whether actors and learner work at the same time.
    pub schedule: Schedule,
    /// The learner's steps.
    pub steps: u64,
    /// The seed of the lengths.
    pub seed: u64,
    /// The tokens of every prompt.
    pub prompt_tokens: usize,
    /// The tokens of a block of the cache, where `rollout.kv_cache_tokens_max` bounds it.
    pub cache_block_tokens: usize,
}

/// A step of the learner, with what was decoded since the step before.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VirtualStep {
    /// When it ended, in seconds since the run began.
    pub ended_s: f64,
    /// The groups that it learned from, in their order.
    pub groups: Vec<u64>,
    /// The length of each completion in them.
    pub lengths: Vec<usize>,
    /// Versions between the learner and the oldest token of each completion.
    pub staleness: Vec<u64>,
    /// Decode steps.
    pub decode_steps: u64,
    /// Slots that drew a token, summed over the decode steps.
    pub slot_steps_busy: u64,
    /// Seconds in which slots decoded.
    pub decoding_s: f64,
    /// Context tokens whose cache was rebuilt because the weights had changed.
    pub context_tokens_recomputed: u64,
    /// Groups that had been dropped as too old by then, since the run began.
    pub dropped: u64,
}
