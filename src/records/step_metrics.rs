//! The reports of a step as metrics, under the names that TRL and verl use and our own families. What
//! depends on time is under `timing_s/`, `time/` and `perf/`, and what depends on the order of threads in
//! `async` only there and in `queue/` and `segment/`.

use learner::StepReport;
use learner::report::{Spread, TokenReport, UpdateReport};
use rollout::{ActorReport, DropReason, QueueReport};

/// Why a step had nothing to learn from, if it had not.
#[must_use]
pub fn nothing_learned(report: &StepReport) -> Option<String> {
    if !report.learned_nothing() {
        return None;
    }
    let (dead, groups) = (&report.dead, report.groups);
    let why = if dead.total() == groups {
        format!(
            "all {groups} groups had equal rewards ({} all right, {} all wrong)",
            dead.all_correct, dead.all_wrong
        )
    } else if report.update.is_some_and(|update| update.tokens.is_some()) {
        "every token is masked or clipped".to_owned()
    } else {
        "no completion has an advantage".to_owned()
    };
    Some(format!("nothing to learn from: {why}"))
}

/// Metrics of one step, as tags and values.
#[derive(Default)]
pub struct StepMetrics(Vec<(String, f64)>);

impl StepMetrics {
    /// All of them, in the order in which they were added.
    pub fn into_values(self) -> Vec<(String, f64)> {
        self.0
    }

    /// Adds metrics made elsewhere.
    pub fn extend(&mut self, metrics: Vec<(String, f64)>) {
        self.0.extend(metrics);
    }

    /// Adds one metric.
    pub fn add(&mut self, tag: &str, value: f64) {
        self.0.push((tag.to_owned(), value));
    }

    fn add_some(&mut self, tag: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.add(tag, value);
        }
    }

    fn add_spread(&mut self, tag: &str, spread: Spread) {
        for (name, value) in [("mean", spread.mean), ("max", spread.max), ("min", spread.min)] {
            self.add(&format!("{tag}/{name}"), value);
        }
    }

    /// What the learner says of its step.
    pub fn add_step(&mut self, report: &StepReport) {
        let rewards = &report.rewards;
        self.add("reward", rewards.mean);
        self.add("reward_std", rewards.std);
        self.add("frac_reward_zero_std", rewards.frac_zero_std);
        self.add("reward_shaped", rewards.shaped_mean);
        self.add_some("accuracy", rewards.accuracy);
        for (name, part) in &rewards.parts {
            self.add(&format!("rewards/{name}/mean"), part.mean);
            self.add(&format!("rewards/{name}/std"), part.std);
            if name == "format" || name == "length" {
                self.add(&format!("surrogate/{name}"), part.mean);
            }
        }
        let lengths = &report.lengths;
        self.add("completions/mean_length", lengths.all.mean);
        self.add("completions/min_length", lengths.all.min);
        self.add("completions/max_length", lengths.all.max);
        self.add("completions/clipped_ratio", lengths.clipped_ratio);
        self.add("completions/stopped_by/eos", lengths.stopped_by.eos);
        self.add("completions/stopped_by/stop_string", lengths.stopped_by.stop_string);
        self.add("completions/stopped_by/stop_token_id", lengths.stopped_by.stop_token_id);
        self.add_some("correct_seq_len", lengths.correct);
        self.add_some("incorrect_seq_len", lengths.incorrect);
        let off_policy = &report.off_policy;
        self.add_spread("training/off_policy/trajectory_spans", off_policy.spans);
        self.add_spread("training/off_policy/trajectory_staleness", off_policy.staleness);
        self.add_spread("training/off_policy/trajectory_staleness_worst", off_policy.staleness_worst);
        self.add_spread("segment/per_trajectory", off_policy.segments);
        self.add("segment/multi_segment_fraction", off_policy.multi_segment_fraction);
        self.add("segment/multi_version_fraction", off_policy.multi_version_fraction);
        if let Some(lambda) = &report.grpo_lambda {
            self.add("grpo_lambda/efficiency_groups", lambda.efficiency_groups as f64);
            self.add("grpo_lambda/accuracy_groups", lambda.accuracy_groups as f64);
            self.add_some("grpo_lambda/correct_length_efficiency", lambda.correct_length_efficiency);
            self.add_some("grpo_lambda/correct_length_accuracy", lambda.correct_length_accuracy);
        }
        self.add("training/groups", report.groups as f64);
        self.add("training/groups_dropped", report.dropped_groups as f64);
        self.add("training/groups_all_correct", report.dead.all_correct as f64);
        self.add("training/groups_all_wrong", report.dead.all_wrong as f64);
        self.add("training/groups_all_equal", report.dead.all_equal as f64);
        if let Some(refill) = &report.refill {
            self.add("dynamic_sampling/groups_refilled", refill.groups as f64);
            self.add("dynamic_sampling/groups_missing", refill.missing as f64);
        }
        self.add("training/updated", f64::from(u8::from(report.update.is_some())));
        if let Some(update) = &report.update {
            self.add_update(update);
        }
        self.add("timing_s/statistics", report.seconds.statistics);
        self.add("timing_s/update_actor", report.seconds.gradients);
        self.add("timing_s/optimizer", report.seconds.optimizer);
        self.add("timing_s/learner_step", report.seconds.total);
        if let Some(update) = &report.update {
            let speed = update.packed_tokens as f64 / report.seconds.total;
            self.add("perf/trained_tokens_per_second", speed);
        }
    }

    fn add_update(&mut self, update: &UpdateReport) {
        self.add("loss", update.loss);
        self.add("grad_norm", update.grad_norm);
        self.add("learning_rate", update.learning_rate);
        if let Some(tokens) = &update.tokens {
            self.add_tokens(tokens);
        }
        self.add("training/completion_tokens", update.completion_tokens as f64);
        self.add("training/completions_skipped", update.skipped.completions as f64);
        self.add("training/tokens_skipped", update.skipped.tokens as f64);
        self.add("training/completions_zero_slope", update.completions_zero_slope as f64);
        self.add("training/packed_tokens", update.packed_tokens as f64);
        self.add("training/prompt_tokens_shared", update.prompt_tokens_shared as f64);
        self.add("streambp/micro_batches", update.cuts.micro_batches as f64);
        self.add("streambp/micro_batch_tokens_max", update.cuts.micro_batch_tokens_max as f64);
        self.add("streambp/layer_chunks", update.cuts.layer_chunks as f64);
        self.add("streambp/head_chunks", update.cuts.head_chunks as f64);
    }

    /// What the model said of the tokens; a step without any has none of these.
    fn add_tokens(&mut self, tokens: &TokenReport) {
        self.add("entropy", tokens.entropy);
        self.add_some("kl", tokens.kl);
        self.add("clip_ratio/low_mean", tokens.clip.low);
        self.add("clip_ratio/high_mean", tokens.clip.high);
        self.add("clip_ratio/region_mean", tokens.clip.region);
        self.add("mismatch/kl", tokens.mismatch_kl);
        self.add_spread("mismatch/ratio", tokens.ratio);
        if let Some(tis) = &tokens.tis {
            self.add_spread("mismatch/tis_weight", tis.weight);
            self.add("mismatch/tis_capped_fraction", tis.capped_fraction);
        }
        if let Some(mpt) = &tokens.mpt {
            self.add("mpt/masked_fraction", mpt.masked_fraction);
            self.add("mpt/masked_positive_fraction", mpt.masked_positive_fraction);
            self.add("mpt/mastered_fraction", mpt.mastered_fraction);
            self.add("mpt/open_fraction", mpt.open_fraction);
        }
    }

    /// What the actors did since the step before.
    pub fn add_actors(&mut self, since: &ActorReport) {
        self.add("segment/segments", since.segments as f64);
        self.add("segment/cut_by_updates", since.segments_cut as f64);
        self.add("segment/tokens", since.tokens as f64);
        self.add("segment/slot_use", since.slot_use());
        self.add("segment/slot_steps", since.slot_steps as f64);
        self.add("segment/weight_passes", since.weight_passes as f64);
        self.add("segment/context_token_steps", since.context_token_steps as f64);
        self.add("segment/kv_use", since.kv_use());
        self.add("segment/wait_steps", since.wait_steps());
        self.add("segment/preempted", since.preempted as f64);
        if let Some((mean, max, min)) = since.tokens_per_segment() {
            let spread = Spread { mean, max: max as f64, min: min as f64 };
            self.add_spread("segment/tokens_per_segment", spread);
        }
        self.add("segment/prefill_tokens", since.prefill_tokens as f64);
        self.add("segment/prefill_tokens_shared", since.prefill_tokens_shared as f64);
        self.add("segment/context_tokens_recomputed", since.context_tokens_recomputed as f64);
        self.add("segment/context_tokens_kept", since.context_tokens_kept as f64);
        self.add("segment/completions", since.completions as f64);
        self.add("segment/actor_restarts", since.restarts as f64);
        self.add("timing_s/gen", since.generating_s);
        self.add("timing_s/reward", since.scoring_s);
        self.add("time/generation_waiting_for_trainer", since.generation_waiting_for_trainer_s);
        for (counter, value) in &since.verifiers {
            self.add(&format!("rewards/{counter}"), *value as f64);
        }
        if since.generating_s > 0.0 {
            self.add("perf/generated_tokens_per_second", since.tokens as f64 / since.generating_s);
        }
    }

    /// The share of completions whose length is at most half of the output limit.
    pub fn add_within_half_limit(&mut self, lengths: &[f64], output_tokens_max: usize) {
        let half_limit = (output_tokens_max / 2) as f64;
        let within = lengths.iter().filter(|length| **length <= half_limit).count();
        self.add("completions/half_limit_ratio", within as f64 / lengths.len().max(1) as f64);
    }

    /// How the queue stands, and how long the learner waited for it in this step.
    pub fn add_queue(&mut self, queue: &QueueReport, trainer_waited_s: f64) {
        self.add("queue/groups", queue.groups as f64);
        self.add("queue/pushed", queue.pushed as f64);
        self.add("queue/taken", queue.taken as f64);
        let dropped = |reason| queue.drops.get(&reason).copied().unwrap_or(0) as f64;
        self.add("queue/dropped_stale", dropped(DropReason::Stale));
        self.add("queue/dropped_unscored", dropped(DropReason::Unscored));
        self.add("time/trainer_waiting_for_data", trainer_waited_s);
    }
}
