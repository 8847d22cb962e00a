//! What actors count. Plain values: who counts what is the actor's work.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What an actor has done so far; counters only rise, so a step's part is a difference.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ActorReport {
    /// Decode steps.
    pub decode_steps: u64,
    /// Slots that drew a token, summed over the decode steps.
    pub slot_steps_busy: u64,
    /// All slots, summed over the decode steps.
    pub slot_steps: u64,
    /// Tokens drawn.
    pub tokens: u64,
    /// Passes over the weights: one a decode step for each version that slots decode under.
    pub weight_passes: u64,
    /// Tokens in the contexts of busy slots, summed over the decode steps; counted when a segment ends.
    pub context_token_steps: u64,
    /// Segments that ended.
    pub segments: u64,
    /// Segments by their number of tokens.
    pub segments_by_tokens: BTreeMap<usize, u64>,
    /// Segments that newer weights ended.
    #[serde(default)]
    pub segments_cut: u64,
    /// Segments that have begun.
    pub segments_begun: u64,
    /// Decode steps that they waited for a slot or for room in the cache after they were due, in sum.
    pub steps_waited: u64,
    /// Times that a trajectory gave up its cache for lack of room.
    pub preempted: u64,
    /// Blocks of the cache in use, summed over the decode steps.
    pub blocks_used: u64,
    /// Blocks there are, summed over the decode steps.
    pub blocks_planned: u64,
    /// Context tokens that caches were filled with by computation.
    pub prefill_tokens: u64,
    /// Context tokens that caches were filled with from contexts that had them.
    pub prefill_tokens_shared: u64,
    /// Context tokens whose cache was rebuilt because the weights had changed.
    pub context_tokens_recomputed: u64,
    /// Context tokens whose cache stayed although the weights had changed.
    pub context_tokens_kept: u64,
    /// Trajectories that ended.
    pub completions: u64,
    /// Completions among them that met the output limit.
    pub completions_truncated: u64,
    /// Groups whose last member ended.
    pub groups: u64,
    /// Times that an actor was started again after a panic.
    pub restarts: u64,
    /// Groups that were given up because another actor had them.
    pub groups_lost: u64,
    /// Completions by their number of segments.
    pub completions_by_segments: BTreeMap<usize, u64>,
    /// Completions by the number of policy versions that drew them.
    pub completions_by_versions: BTreeMap<usize, u64>,
    /// Seconds of prefill and decode.
    pub generating_s: f64,
    /// Seconds of decoding to text and scoring, on whatever thread.
    pub scoring_s: f64,
    /// The verifiers' own counters since the run began, as `reward/counter`.
    pub verifiers: BTreeMap<String, u64>,
    /// Seconds of waiting for room in the queue or for the pacing to allow a group.
    pub generation_waiting_for_trainer_s: f64,
}

impl ActorReport {
    /// The part since an `earlier` report of the same actors.
    pub fn since(&self, earlier: &Self) -> Self {
        self.combined(earlier, |now, then| now - then, |now, then| now - then)
    }

    /// The work of this actor and another one.
    pub fn plus(&self, other: &Self) -> Self {
        self.combined(other, |one, two| one + two, |one, two| one + two)
    }

    /// The fraction of slots that were busy in decode steps; 1 if there was none.
    pub fn slot_use(&self) -> f64 {
        if self.slot_steps == 0 { 1.0 } else { self.slot_steps_busy as f64 / self.slot_steps as f64 }
    }

    fn combined(&self, other: &Self, count: fn(u64, u64) -> u64, seconds: fn(f64, f64) -> f64) -> Self {
        let by = |one: &BTreeMap<usize, u64>, two: &BTreeMap<usize, u64>| {
            let keys = one.keys().chain(two.keys());
            let at = |map: &BTreeMap<usize, u64>, key: &usize| map.get(key).copied().unwrap_or(0);
            keys.map(|key| (*key, count(at(one, key), at(two, key)))).collect()
        };
        Self {
            decode_steps: count(self.decode_steps, other.decode_steps),
            slot_steps_busy: count(self.slot_steps_busy, other.slot_steps_busy),
            slot_steps: count(self.slot_steps, other.slot_steps),
            tokens: count(self.tokens, other.tokens),
            weight_passes: count(self.weight_passes, other.weight_passes),
            context_token_steps: count(self.context_token_steps, other.context_token_steps),
            segments: count(self.segments, other.segments),
            segments_by_tokens: by(&self.segments_by_tokens, &other.segments_by_tokens),
            segments_cut: count(self.segments_cut, other.segments_cut),
            segments_begun: count(self.segments_begun, other.segments_begun),
            steps_waited: count(self.steps_waited, other.steps_waited),
            preempted: count(self.preempted, other.preempted),
            blocks_used: count(self.blocks_used, other.blocks_used),
            blocks_planned: count(self.blocks_planned, other.blocks_planned),
            prefill_tokens: count(self.prefill_tokens, other.prefill_tokens),
            prefill_tokens_shared: count(self.prefill_tokens_shared, other.prefill_tokens_shared),
            context_tokens_recomputed: count(self.context_tokens_recomputed, other.context_tokens_recomputed),
            context_tokens_kept: count(self.context_tokens_kept, other.context_tokens_kept),
            completions: count(self.completions, other.completions),
            completions_truncated: count(self.completions_truncated, other.completions_truncated),
            groups: count(self.groups, other.groups),
            restarts: count(self.restarts, other.restarts),
            groups_lost: count(self.groups_lost, other.groups_lost),
            completions_by_segments: by(&self.completions_by_segments, &other.completions_by_segments),
            completions_by_versions: by(&self.completions_by_versions, &other.completions_by_versions),
            generating_s: seconds(self.generating_s, other.generating_s),
            scoring_s: seconds(self.scoring_s, other.scoring_s),
            verifiers: self.verifiers.clone(),
            generation_waiting_for_trainer_s: seconds(
                self.generation_waiting_for_trainer_s,
                other.generation_waiting_for_trainer_s,
            ),
        }
    }

    /// The part of the cache that was in use in decode steps; 0 if there was none.
    pub fn kv_use(&self) -> f64 {
        if self.blocks_planned == 0 { 0.0 } else { self.blocks_used as f64 / self.blocks_planned as f64 }
    }

    /// Decode steps that a segment waited before it began, on average.
    pub fn wait_steps(&self) -> f64 {
        if self.segments_begun == 0 { 0.0 } else { self.steps_waited as f64 / self.segments_begun as f64 }
    }

    /// The mean, the largest and the smallest number of tokens of the segments that ended, if any did.
    pub fn tokens_per_segment(&self) -> Option<(f64, usize, usize)> {
        let mut lengths = self.segments_by_tokens.iter().filter(|(_, count)| **count > 0);
        let (count, tokens) = lengths.clone().fold((0_u64, 0_u64), |(count, sum), (tokens, segments)| {
            (count + *segments, sum + *tokens as u64 * *segments)
        });
        let (smallest, largest) = (lengths.next()?.0, lengths.next_back());
        Some((tokens as f64 / count as f64, *largest.map_or(smallest, |(largest, _)| largest), *smallest))
    }
}
