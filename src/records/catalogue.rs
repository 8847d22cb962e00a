//! Every metric of a run: its tag, its unit and what it is. A tag that is not here cannot be written, and
//! `docs/reference/metrics.md` is made from here.

/// A metric, or several whose tags differ in a name.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The tag. `*` stands for a name, `**` for several, and `{mean,max,min}` for each of these words.
    pub tag: &'static str,
    /// What it counts or is measured in.
    pub unit: &'static str,
    /// What it is, in one sentence.
    pub what: &'static str,
}

/// Metrics of one family.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Heading of the family.
    pub name: &'static str,
    /// Its metrics in the order of the page.
    pub metrics: &'static [Metric],
}

const fn metric(tag: &'static str, unit: &'static str, what: &'static str) -> Metric {
    Metric { tag, unit, what }
}

/// All metrics.
pub const FAMILIES: &[Family] = &[
    Family {
        name: "Rewards",
        metrics: &[
            metric("reward", "reward", "Mean total reward of a completion."),
            metric(
                "reward_std",
                "reward",
                "Standard deviation (n - 1) of the total in a group, mean over the groups.",
            ),
            metric("reward_shaped", "reward", "Mean reward after the advantage's shaping."),
            metric("frac_reward_zero_std", "fraction", "Groups whose total rewards are all equal."),
            metric(
                "accuracy",
                "fraction",
                "Right answers among those that the reward with `correctness` judged.",
            ),
            metric(
                "rewards/*/mean",
                "value",
                "Mean unweighted value of a reward, or of a part of its verdict.",
            ),
            metric("rewards/*/std", "value", "Standard deviation (n - 1) of it over all completions."),
            metric("rewards/*/*/mean", "value", "Mean of a part of a verdict."),
            metric("rewards/*/*/std", "value", "Standard deviation (n - 1) of a part of a verdict."),
            metric("rewards/*/requests", "answers", "Answers that a plugin or a judge was asked about."),
            metric("rewards/*/retries", "requests", "Requests that were sent again."),
            metric("rewards/*/timeouts", "requests", "Requests without a reply in time."),
            metric("rewards/*/deaths", "processes", "Plugin processes that ended by themselves."),
            metric("rewards/*/restarts", "processes", "Plugin processes that were started again."),
            metric(
                "rewards/*/bad_replies",
                "replies",
                "Replies of a plugin that are no reply to what was asked.",
            ),
            metric(
                "rewards/*/errors",
                "replies",
                "Replies of a plugin that say that an answer cannot be judged.",
            ),
            metric("rewards/*/cut_off", "replies", "Replies of a judge that are not whole."),
            metric("rewards/*/failures", "answers", "Answers that got no verdict."),
            metric("rewards/**", "", "Counters of a verifier of your own."),
            metric("surrogate/*", "value", "Mean of the format or length reward under its own name."),
        ],
    },
    Family {
        name: "Completions",
        metrics: &[
            metric("completions/{mean,min,max}_length", "tokens", "Length of the step's completions."),
            metric("completions/clipped_ratio", "fraction", "Completions that the output limit cut off."),
            metric(
                "completions/half_limit_ratio",
                "fraction",
                "Completions within half of the output limit.",
            ),
            metric("completions/stopped_by/eos", "fraction", "Completions that an end of output ended."),
            metric("completions/stopped_by/stop_string", "fraction", "Completions that a stop string ended."),
            metric(
                "completions/stopped_by/stop_token_id",
                "fraction",
                "Completions that a stop token id ended.",
            ),
            metric("correct_seq_len", "tokens", "Mean length of right answers."),
            metric("incorrect_seq_len", "tokens", "Mean length of wrong answers."),
        ],
    },
    Family {
        name: "Loss and update",
        metrics: &[
            metric("loss", "", "The loss of the step."),
            metric("grad_norm", "", "Norm of the gradient over all parameters, before clipping."),
            metric("learning_rate", "", "Learning rate of the step."),
            metric("entropy", "nats", "Mean entropy of the tokens that are learned from."),
            metric("kl", "nats", "Mean estimate of the divergence from the reference model."),
            metric(
                "clip_ratio/low_mean",
                "fraction",
                "Tokens whose importance ratio is clipped below; 0 under `pois`.",
            ),
            metric(
                "clip_ratio/high_mean",
                "fraction",
                "Tokens whose importance ratio is clipped above; 0 under `pois`.",
            ),
            metric(
                "clip_ratio/region_mean",
                "fraction",
                "Tokens whose importance ratio is clipped; 0 under `pois`.",
            ),
            metric("mismatch/kl", "nats", "Train-inference mismatch: estimate k3 of KL(actor, learner)."),
            metric(
                "mismatch/ratio/{mean,max,min}",
                "ratio",
                "The learner's probability of a token over the actor's.",
            ),
            metric(
                "mismatch/tis_weight/{mean,max,min}",
                "ratio",
                "Weights of truncated importance sampling.",
            ),
            metric("mismatch/tis_capped_fraction", "fraction", "Tokens whose weight is the cap."),
            metric(
                "mpt/masked_fraction",
                "fraction",
                "Completion tokens that the mask leaves out of the loss.",
            ),
            metric(
                "mpt/masked_positive_fraction",
                "fraction",
                "The same among tokens of positive completions.",
            ),
            metric(
                "mpt/mastered_fraction",
                "fraction",
                "Tokens of positive completions with a probability of at least tau.",
            ),
            metric("mpt/open_fraction", "fraction", "Positive completions whose entropy is below sigma."),
        ],
    },
    Family {
        name: "What a step learned from",
        metrics: &[
            metric("training/groups", "groups", "Groups that the step took."),
            metric("training/groups_dropped", "groups", "Groups of equal rewards that were left out."),
            metric(
                "training/groups_all_correct",
                "groups",
                "Groups of equal rewards with right answers alone.",
            ),
            metric(
                "training/groups_all_wrong",
                "groups",
                "Groups of equal rewards with wrong answers alone.",
            ),
            metric("training/groups_all_equal", "groups", "Other groups of equal rewards."),
            metric(
                "training/parameters/trained",
                "parameters",
                "Numbers that training changes, said at the first step.",
            ),
            metric(
                "training/parameters/total",
                "parameters",
                "Numbers of the model with its adapters, said at the first step.",
            ),
            metric("training/updated", "0 or 1", "Whether the step changed the weights."),
            metric("training/completion_tokens", "tokens", "Tokens of the completions in the loss."),
            metric(
                "training/completions_skipped",
                "completions",
                "Completions in the denominator that went through no pass.",
            ),
            metric("training/tokens_skipped", "tokens", "Their tokens."),
            metric(
                "training/completions_zero_slope",
                "completions",
                "Completions that went through the forward pass only.",
            ),
            metric(
                "training/packed_tokens",
                "tokens",
                "Tokens that went through the model, prompts included.",
            ),
            metric(
                "training/prompt_tokens_shared",
                "tokens",
                "Prompt tokens that were computed once for several completions.",
            ),
            metric("training/target_tokens", "tokens", "Tokens that a supervised step learned from."),
            metric(
                "dynamic_sampling/groups_refilled",
                "groups",
                "Groups beyond `groups_per_step` that the step took.",
            ),
            metric(
                "dynamic_sampling/groups_missing",
                "groups",
                "Groups that are missing to `groups_per_step` at the bound.",
            ),
            metric("dynamic_sampling/rounds", "times", "Times that the step asked for further groups."),
            metric("grpo_lambda/efficiency_groups", "groups", "Groups that learned to be short."),
            metric("grpo_lambda/accuracy_groups", "groups", "Groups that learned to be right."),
            metric(
                "grpo_lambda/correct_length_efficiency",
                "tokens",
                "Mean length of right answers in efficiency groups.",
            ),
            metric(
                "grpo_lambda/correct_length_accuracy",
                "tokens",
                "Mean length of right answers in accuracy groups.",
            ),
            metric("streambp/micro_batches", "micro-batches", "Micro-batches of the step."),
            metric("streambp/micro_batch_tokens_max", "tokens", "Tokens of the largest micro-batch."),
            metric("streambp/layer_chunks", "chunks", "Chunks of the sequence in a layer, over the step."),
            metric("streambp/head_chunks", "chunks", "Chunks of the sequence in the head, over the step."),
        ],
    },
    Family {
        name: "Staleness and the queue",
        metrics: &[
            metric(
                "training/off_policy/trajectory_spans/{mean,max,min}",
                "versions",
                "Policy versions in one completion.",
            ),
            metric(
                "training/off_policy/trajectory_staleness/{mean,max,min}",
                "versions",
                "Versions between a completion's newest token and the learner.",
            ),
            metric(
                "training/off_policy/trajectory_staleness_worst/{mean,max,min}",
                "versions",
                "Versions between a completion's oldest token and the learner, which the queue's bound counts.",
            ),
            metric("queue/groups", "groups", "Scored groups that wait for the learner."),
            metric("queue/pushed", "groups", "Groups that were put into the queue since the run began."),
            metric("queue/taken", "groups", "Groups that the learner took since the run began."),
            metric("queue/dropped_stale", "groups", "Groups that grew too old, since the run began."),
            metric("queue/dropped_unscored", "groups", "Groups without a verdict, since the run began."),
        ],
    },
    Family {
        name: "Generation",
        metrics: &[
            metric("segment/per_trajectory/{mean,max,min}", "segments", "Segments of a completion."),
            metric("segment/multi_segment_fraction", "fraction", "Completions with two or more segments."),
            metric(
                "segment/multi_version_fraction",
                "fraction",
                "Completions with two or more policy versions.",
            ),
            metric("segment/segments", "segments", "Segments that ended."),
            metric("segment/cut_by_updates", "segments", "Segments that newer weights ended."),
            metric("segment/tokens", "tokens", "Tokens that were drawn."),
            metric(
                "segment/tokens_per_segment/{mean,max,min}",
                "tokens",
                "Tokens of the segments that ended.",
            ),
            metric("segment/slot_use", "fraction", "Slots that drew a token, mean over decode steps."),
            metric("segment/slot_steps", "tokens", "Slots that drew a token, summed over decode steps."),
            metric(
                "segment/weight_passes",
                "passes",
                "Passes over the weights: one a decode step for each version.",
            ),
            metric(
                "segment/context_token_steps",
                "tokens",
                "Tokens in the contexts of busy slots, summed over decode steps.",
            ),
            metric(
                "segment/kv_use",
                "fraction",
                "Part of the KV cache's bound that contexts take, mean over decode steps.",
            ),
            metric(
                "segment/wait_steps",
                "decode steps",
                "What a segment waited for a slot or for room, on average.",
            ),
            metric(
                "segment/preempted",
                "times",
                "Times that a trajectory gave up its KV cache for lack of room.",
            ),
            metric(
                "segment/prefill_tokens",
                "tokens",
                "Context tokens that caches were filled with by computation.",
            ),
            metric(
                "segment/prefill_tokens_shared",
                "tokens",
                "Context tokens that prefix sharing filled caches with.",
            ),
            metric(
                "segment/context_tokens_recomputed",
                "tokens",
                "Context tokens whose cache was rebuilt under newer weights.",
            ),
            metric(
                "segment/context_tokens_kept",
                "tokens",
                "Context tokens whose cache was kept under newer weights.",
            ),
            metric("segment/completions", "completions", "Completions that ended."),
            metric("segment/actor_restarts", "times", "Times that an actor was started again after a panic."),
        ],
    },
    Family {
        name: "Evaluation",
        metrics: &[
            metric("eval/reward", "reward", "Mean total reward on held-out prompts."),
            metric(
                "eval/accuracy",
                "fraction",
                "Right answers on held-out prompts: avg@k for `eval.pass_k` answers.",
            ),
            metric(
                "eval/accuracy_{low,high}",
                "fraction",
                "Ends of its 95 % interval, by the bootstrap over prompts.",
            ),
            metric("eval/pass_at_k", "fraction", "Held-out prompts with a right answer among `eval.pass_k`."),
            metric(
                "eval/pass_at/*",
                "fraction",
                "pass@k for 1, 2, 4 and so on below `eval.pass_k`, unbiased.",
            ),
            metric(
                "eval/maj_at_k",
                "fraction",
                "Held-out prompts whose most frequent final answer is right.",
            ),
            metric("eval/{mean,median,max}_length", "tokens", "Length of the answers."),
            metric(
                "eval/problems_unscored",
                "prompts",
                "Held-out prompts without a verdict, which are left out.",
            ),
            metric("eval/rows_skipped", "rows", "Bad rows of the held-out data that were left out."),
            metric("eval/rewards/*/*", "", "Counters of a verifier in the evaluation, as under `rewards/`."),
            metric("eval/correct_length", "tokens", "Mean length of right answers."),
            metric("eval/incorrect_length", "tokens", "Mean length of wrong answers."),
            metric("eval/*/**", "", "The same of one of several `[[eval.sets]]`, under its name."),
            metric("eval/clipped_ratio", "fraction", "Answers that the output limit cut off."),
            metric("eval/stopped_by/eos", "fraction", "Answers that an end of output ended."),
            metric("eval/stopped_by/stop_string", "fraction", "Answers that a stop string ended."),
            metric("eval/stopped_by/stop_token_id", "fraction", "Answers that a stop token id ended."),
        ],
    },
    Family {
        name: "Time, speed and size",
        metrics: &[
            metric("timing_s/step", "seconds", "The whole step."),
            metric("timing_s/learner_step", "seconds", "The learner's part of the step."),
            metric("timing_s/statistics", "seconds", "Passes before the loss, where a method needs them."),
            metric("timing_s/update_actor", "seconds", "Forward and backward passes."),
            metric("timing_s/optimizer", "seconds", "The optimizer's update."),
            metric("timing_s/pack", "seconds", "Packing the new weights for decoding."),
            metric("timing_s/gen", "seconds", "Decoding, over all actors, since the step before."),
            metric("timing_s/reward", "seconds", "Scoring, over all scorers, since the step before."),
            metric("timing_s/eval", "seconds", "An evaluation."),
            metric("timing_s/eval/*", "seconds", "That of one of several sets, by its name."),
            metric(
                "timing_s/checkpoint",
                "seconds",
                "Writing the checkpoint after the step before; 0 without one. That after the last step has no row.",
            ),
            metric("time/trainer_waiting_for_data", "seconds", "What the learner waited for groups."),
            metric(
                "time/generation_waiting_for_trainer",
                "seconds",
                "What actors waited for room in the queue or newer weights.",
            ),
            metric(
                "perf/tokens_per_second",
                "tokens/s",
                "Tokens drawn over the time of the step; `tokens/s` of the step's line.",
            ),
            metric("perf/generated_tokens_per_second", "tokens/s", "Tokens drawn over the time of decoding."),
            metric("perf/trained_tokens_per_second", "tokens/s", "Packed tokens over the learner's time."),
            metric("perf/eval_tokens_per_second", "tokens/s", "Tokens of an evaluation over its time."),
            metric("perf/eval_tokens_per_second/*", "tokens/s", "That of one of several sets, by its name."),
            metric(
                "perf/checkpoint_bytes",
                "bytes",
                "Size of the checkpoint after the step before; 0 without one.",
            ),
            metric("perf/memory_peak_bytes", "bytes", "Peak resident set of the process so far."),
        ],
    },
    Family {
        name: "Data and alarms",
        metrics: &[
            metric("data/epoch", "epochs", "How far the prompts of the step are in the data."),
            metric("data/rows_skipped", "rows", "Bad rows of the data that were left out."),
            metric("alarm/truncated", "0 or 1", "Too many completions are cut off."),
            metric("alarm/zero_variance", "0 or 1", "In every group all rewards are equal."),
            metric("alarm/dead_groups", "0 or 1", "In more than half of the groups all rewards are equal."),
            metric("alarm/stale", "0 or 1", "As many groups grew too old as were learned from."),
            metric("alarm/reward_constant", "0 or 1", "The mean reward has not changed for 20 steps."),
            metric("alarm/entropy_low", "0 or 1", "The entropy is under `alarms.entropy_min`."),
            metric("alarm/entropy_high", "0 or 1", "The entropy is far above that of the first updates."),
            metric("alarm/grad_norm_spike", "0 or 1", "The gradient's norm is far above its median."),
        ],
    },
];

/// Whether there is a metric with this tag.
#[must_use]
pub fn knows(tag: &str) -> bool {
    FAMILIES.iter().flat_map(|family| family.metrics).any(|metric| is_tag(metric.tag, tag))
}

/// Whether a tag is one that the pattern stands for.
fn is_tag(pattern: &str, tag: &str) -> bool {
    if let Some((before, rest)) = pattern.split_once('{') {
        let (words, after) = rest.split_once('}').expect("a brace of the catalogue is closed");
        return words.split(',').any(|word| is_tag(&format!("{before}{word}{after}"), tag));
    }
    let (mut wanted, mut given) = (pattern.split('/'), tag.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some("**"), Some(name)) => return !name.is_empty(),
            (Some("*"), Some(name)) if !name.is_empty() => {}
            (Some(word), Some(name)) if word == name => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn patterns_stand_for_their_tags_alone() {
        for tag in ["loss", "rewards/concise/words/mean", "rewards/judge/cut_off", "mismatch/ratio/min"] {
            assert!(knows(tag), "{tag}");
        }
        for tag in [
            "losses",
            "reward/task",
            "rewards//mean",
            "mismatch/ratio",
            "mismatch/ratio/std",
            "eval/min_length",
        ] {
            assert!(!knows(tag), "{tag}");
        }
    }

    #[test]
    fn every_metric_stands_there_once_and_says_what_it_is() {
        let mut tags = BTreeSet::new();
        for metric in FAMILIES.iter().flat_map(|family| family.metrics) {
            assert!(tags.insert(metric.tag), "{} stands there twice", metric.tag);
            assert!(metric.what.ends_with('.'), "{}", metric.tag);
        }
    }
}
