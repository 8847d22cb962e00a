//! What a person should be told about a run that goes on and does not learn: once, then by back-off, in the
//! terminal, the log and the metrics.

use std::collections::{BTreeMap, VecDeque};

use learner::config::DynamicSampling;
use learner::report::DeadGroups;
use learner::{LearnerConfig, StepReport};
use rollout::{DropReason, QueueReport};
use serde::{Deserialize, Serialize};

use crate::config::AlarmsSection;
use crate::median::median;

/// How many steps in a row say how large an entropy is at first.
const FIRST_STEPS: usize = 10;

/// Gradient norms before a spike can be told from them, and how many are kept.
const NORMS_MIN: usize = 8;
const NORMS_MAX: usize = 32;

/// After how many more steps an alarm that still holds is raised again, at first and at most.
const AGAIN_AFTER: u64 = 8;
const AGAIN_AFTER_MAX: u64 = 1024;

/// The memory of the alarms. It is part of a checkpoint, so that a resumed run says what the other would have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alarms {
    held: BTreeMap<String, Held>,
    entropies: Vec<f64>,
    norms: VecDeque<f64>,
    last_reward: Option<f64>,
    dropped_stale: u64,
}

/// What alarms go by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepFacts {
    /// Groups that came in.
    pub groups: usize,
    /// Groups whose rewards are all equal.
    pub dead: DeadGroups,
    /// What becomes of them.
    pub dynamic_sampling: DynamicSampling,
    /// The groups of a step by the config.
    pub groups_per_step: usize,
    /// The fraction of completions cut off at the output limit.
    pub clipped_ratio: f64,
    /// The mean reward.
    pub reward: f64,
    /// The update, where there was one and tokens to learn from in it.
    pub update: Option<UpdateFacts>,
    /// Groups that grew too old, since the run began.
    pub dropped_stale: u64,
}

/// What alarms go by of an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateFacts {
    /// The mean entropy of the trained tokens, in nats.
    pub entropy: f64,
    /// The gradient's norm before clipping.
    pub grad_norm: f64,
}

impl StepFacts {
    /// Of a step.
    #[must_use]
    pub fn of(report: &StepReport, queue: &QueueReport, config: &LearnerConfig) -> Self {
        Self {
            groups: report.groups,
            dead: report.dead,
            dynamic_sampling: config.dynamic_sampling,
            groups_per_step: config.groups_per_step,
            clipped_ratio: report.lengths.clipped_ratio,
            reward: report.rewards.mean,
            update: report.update.and_then(|update| {
                Some(UpdateFacts { entropy: update.tokens?.entropy, grad_norm: update.grad_norm })
            }),
            dropped_stale: queue.drops.get(&DropReason::Stale).copied().unwrap_or(0),
        }
    }
}

/// For how long a condition has held.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Held {
    steps: u64,
    /// The step at which it is said next.
    next: u64,
    /// How much later it is said again.
    wait: u64,
}

impl Alarms {
    /// What holds after this step, and what of it is to be said now. All alarms are in the metrics, 1 in a step in which
    /// they hold and 0 elsewhere; those that the config switches off are not.
    pub fn look(&mut self, config: &AlarmsSection, step: &StepFacts) -> (Vec<(String, f64)>, Vec<String>) {
        let conditions = [
            Some(truncated(config, step)),
            Some(zero_variance(step)),
            Some(dead_groups(step)),
            Some(self.stale(step)),
            Some(self.constant(step)),
            low_entropy(config, step),
            self.high_entropy(config, step),
            self.spike(config, step),
        ];
        let mut values = Vec::new();
        let mut said = Vec::new();
        for Condition { name, steps_min, sentence } in conditions.into_iter().flatten() {
            let held = self.held.entry(name.to_owned()).or_default();
            let Some(sentence) = sentence else {
                *held = Held::default();
                values.push((format!("alarm/{name}"), 0.0));
                continue;
            };
            held.steps += 1;
            let steps_min = steps_min.unwrap_or(config.steps).max(1);
            // A reward that repeats once is no constant one yet; every other condition holds in the step itself.
            let holds = name != REWARD_CONSTANT || held.steps >= steps_min;
            values.push((format!("alarm/{name}"), f64::from(u8::from(holds))));
            // Where no group teaches anything, that is said, and not that most of them do not.
            if name == DEAD_GROUPS && step.dead.total() == step.groups {
                continue;
            }
            if held.steps >= steps_min.max(held.next) {
                held.wait = if held.wait == 0 { AGAIN_AFTER } else { (held.wait * 2).min(AGAIN_AFTER_MAX) };
                held.next = held.steps + held.wait;
                said.push(match held.steps {
                    1 => sentence,
                    steps => format!("{sentence}; for {steps} steps now"),
                });
            }
        }
        (values, said)
    }

    /// Data grows too old to learn from faster than it is learned from.
    fn stale(&mut self, step: &StepFacts) -> Condition {
        let now =
            step.dropped_stale.saturating_sub(std::mem::replace(&mut self.dropped_stale, step.dropped_stale));
        let holds = now >= step.groups as u64 && now > 0;
        condition("stale", None, holds, || {
            format!(
                "{now} groups were older than queue.staleness_versions_max and thrown away, for {} that were learned \
                 from; fewer slots (rollout.trajectories_open_max), shorter segments or a larger bound would keep them",
                step.groups
            )
        })
    }

    fn constant(&mut self, step: &StepFacts) -> Condition {
        let mean = step.reward;
        let holds = self.last_reward.replace(mean).is_some_and(|last| last == mean);
        condition(REWARD_CONSTANT, Some(CONSTANT_STEPS), holds, || {
            format!("the mean reward is {mean} in every step; do the rewards read what the model writes?")
        })
    }

    fn high_entropy(&mut self, config: &AlarmsSection, step: &StepFacts) -> Option<Condition> {
        let entropy = step.update?.entropy;
        if self.entropies.len() < FIRST_STEPS {
            self.entropies.push(entropy);
            return None;
        }
        let first = self.entropies.iter().sum::<f64>() / self.entropies.len() as f64;
        let holds = config.entropy_factor > 0.0 && entropy > config.entropy_factor * first;
        Some(condition("entropy_high", None, holds, || {
            format!(
                "the entropy is {entropy:.3}, and was {first:.3} in the first {FIRST_STEPS} steps; a lower \
                 optimizer.learning_rate would hold the model together"
            )
        }))
    }

    /// A norm far above the ones before. It is said at once: the step has been made.
    fn spike(&mut self, config: &AlarmsSection, step: &StepFacts) -> Option<Condition> {
        let norm = step.update?.grad_norm;
        let known = &self.norms;
        let usual = if known.len() >= NORMS_MIN { median(known.iter().copied()) } else { None };
        self.norms.push_back(norm);
        if self.norms.len() > NORMS_MAX {
            self.norms.pop_front();
        }
        let usual = usual?;
        let holds = config.grad_norm_factor > 0.0 && norm > config.grad_norm_factor * usual;
        Some(condition("grad_norm_spike", Some(1), holds, || {
            format!("the gradient's norm is {norm:.3}, and {usual:.3} is usual")
        }))
    }
}

const REWARD_CONSTANT: &str = "reward_constant";
const DEAD_GROUPS: &str = "dead_groups";

/// Steps in which rewards that mean something can be equal by chance: not so many.
const CONSTANT_STEPS: u64 = 20;

/// Whether one alarm's condition holds in a step.
struct Condition {
    /// The alarm, as the metrics name it.
    name: &'static str,
    /// The steps that it has to hold for, if they are not the config's.
    steps_min: Option<u64>,
    /// What is said, if it holds.
    sentence: Option<String>,
}

fn condition(
    name: &'static str,
    steps_min: Option<u64>,
    holds: bool,
    sentence: impl FnOnce() -> String,
) -> Condition {
    Condition { name, steps_min, sentence: holds.then(sentence) }
}

fn truncated(config: &AlarmsSection, step: &StepFacts) -> Condition {
    let share = step.clipped_ratio;
    condition("truncated", None, share > config.truncated_share, || {
        format!(
            "{:.0} % of the completions are cut off at rollout.output_tokens_max, which counts as wrong; \
             where the model writes on behind its answer, rollout.stop ends it",
            share * 100.0
        )
    })
}

fn zero_variance(step: &StepFacts) -> Condition {
    let dead = &step.dead;
    condition("zero_variance", None, dead.total() == step.groups, || {
        format!(
            "nothing is learned: in every group all rewards are equal ({} groups all right, {} all wrong, {} neither); \
             either the prompts are too easy or too hard, or a reward gives every completion the same value, as \
             `format` does where no completion has the form: read the completions in rollouts/; easier or harder \
             prompts, or a larger rollout.group_size, tell answers apart, and {}",
            dead.all_correct,
            dead.all_wrong,
            dead.all_equal,
            match step.dynamic_sampling {
                DynamicSampling::Refill => format!(
                    "learner.refill_batches_max lets learner.dynamic_sampling look at no more than {} groups a step",
                    step.groups
                ),
                DynamicSampling::Off | DynamicSampling::Drop =>
                    "learner.dynamic_sampling = \"refill\" looks for groups that teach something".to_owned(),
            }
        )
    })
}

/// Most of a step teaches nothing; where nothing does, [`zero_variance`] says it.
fn dead_groups(step: &StepFacts) -> Condition {
    let live = step.groups - step.dead.total();
    let few = match step.dynamic_sampling {
        DynamicSampling::Refill => live < step.groups_per_step,
        DynamicSampling::Off | DynamicSampling::Drop => 2 * live < step.groups,
    };
    condition(DEAD_GROUPS, None, few, || {
        let start = format!(
            "a step learns from {live} of its {} groups: in the others all rewards are equal",
            step.groups
        );
        match step.dynamic_sampling {
            DynamicSampling::Off => format!(
                "{start}, and they count in the loss's denominator; learner.dynamic_sampling = \"refill\" leaves them \
                 out and takes further groups for them"
            ),
            DynamicSampling::Drop => format!(
                "{start}, and nothing takes their place; learner.dynamic_sampling = \"refill\" takes further groups \
                 for them"
            ),
            DynamicSampling::Refill => format!(
                "{start}, and learner.refill_batches_max allows no more to reach learner.groups_per_step = {}; easier \
                 or harder prompts, or a larger rollout.group_size, would tell answers apart",
                step.groups_per_step
            ),
        }
    })
}

fn low_entropy(config: &AlarmsSection, step: &StepFacts) -> Option<Condition> {
    let entropy = step.update?.entropy;
    if config.entropy_min <= 0.0 {
        return None;
    }
    Some(condition("entropy_low", None, entropy < config.entropy_min, || {
        format!(
            "the entropy is {entropy:.4}, under alarms.entropy_min = {}; learner.mpt or a higher temperature would \
             keep it up",
            config.entropy_min
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> StepFacts {
        StepFacts {
            groups: 4,
            dead: DeadGroups::default(),
            dynamic_sampling: DynamicSampling::Off,
            groups_per_step: 4,
            clipped_ratio: 0.1,
            reward: 0.5,
            update: Some(UpdateFacts { entropy: 1.0, grad_norm: 2.0 }),
            dropped_stale: 0,
        }
    }

    /// What is said in steps that each differ from a good one as `bad` says; the reward moves.
    fn said(config: &AlarmsSection, steps: u64, bad: impl Fn(u64, &mut StepFacts)) -> Vec<(u64, String)> {
        let mut alarms = Alarms::default();
        let mut all = Vec::new();
        for number in 1..=steps {
            let mut step = StepFacts { reward: number as f64, ..good() };
            bad(number, &mut step);
            // What a checkpoint keeps is all there is.
            let kept = serde_json::to_string(&alarms).unwrap();
            alarms = serde_json::from_str(&kept).unwrap();
            let (values, sentences) = alarms.look(config, &step);
            assert!(
                values.iter().all(|(tag, value)| tag.starts_with("alarm/") && [0.0, 1.0].contains(value))
            );
            all.extend(sentences.into_iter().map(|sentence| (number, sentence)));
        }
        all
    }

    fn steps_of(said: &[(u64, String)]) -> Vec<u64> {
        said.iter().map(|(step, _)| *step).collect()
    }

    #[test]
    fn a_good_run_raises_none() {
        assert_eq!(said(&AlarmsSection::default(), 100, |_, _| ()), []);
    }

    #[test]
    fn an_alarm_is_raised_after_its_steps_and_then_by_back_off() {
        let config = AlarmsSection::default();
        let raised = said(&config, 70, |_, step| step.clipped_ratio = 0.95);
        assert_eq!(steps_of(&raised), [3, 11, 27, 59]);
        assert!(raised[1].1.contains("95 % of the completions") && raised[1].1.ends_with("for 11 steps now"));
        // One good step in between begins anew.
        let raised =
            said(&config, 9, |number, step| step.clipped_ratio = f64::from(u8::from(number % 3 != 0)));
        assert_eq!(raised, []);
    }

    #[test]
    fn an_alarm_is_in_the_metrics_from_the_first_step_in_which_it_holds() {
        let (config, mut alarms) = (AlarmsSection::default(), Alarms::default());
        let dead = DeadGroups { all_wrong: 4, ..DeadGroups::default() };
        let mut raised = |step: StepFacts| {
            let (values, said) = alarms.look(&config, &step);
            let held = values.into_iter().filter(|(_, value)| *value == 1.0).map(|(tag, _)| tag);
            (held.collect::<Vec<_>>().join(" "), said.len())
        };
        let both = "alarm/zero_variance alarm/dead_groups".to_owned();
        for said in [0, 0, 1] {
            assert_eq!(raised(StepFacts { dead, update: None, ..good() }), (both.clone(), said));
        }
        // Fewer are dead: that is another sentence, which was held back while nothing at all was learned.
        let dead = DeadGroups { all_wrong: 3, ..DeadGroups::default() };
        assert_eq!(raised(StepFacts { dead, ..good() }), ("alarm/dead_groups".to_owned(), 1));
        assert_eq!(raised(good()), (String::new(), 0));
    }

    /// The first sentence where so many of eight groups of a step of four are dead.
    fn said_of_dead(dynamic_sampling: DynamicSampling, all_wrong: usize) -> Option<String> {
        let facts = |_: u64, step: &mut StepFacts| {
            step.dead.all_wrong = all_wrong;
            (step.groups, step.dynamic_sampling) = (8, dynamic_sampling);
        };
        said(&AlarmsSection::default(), 3, facts).into_iter().next().map(|(_, sentence)| sentence)
    }

    #[test]
    fn dead_groups_are_told_by_what_becomes_of_them() {
        use DynamicSampling::{Drop, Off, Refill};
        let refill = "learner.dynamic_sampling = \"refill\"";
        for (kind, dead, words) in [
            (Off, 8, ["read the completions in rollouts/", refill]),
            (Drop, 8, ["nothing is learned", refill]),
            (Refill, 8, ["nothing is learned", "learner.refill_batches_max"]),
            (Off, 5, ["learns from 3 of its 8 groups", "denominator; learner.dynamic_sampling = \"refill\""]),
            (Drop, 5, ["learns from 3 of its 8 groups", "nothing takes their place"]),
            (Refill, 5, ["learns from 3 of its 8 groups", "learner.groups_per_step = 4"]),
        ] {
            let sentence = said_of_dead(kind, dead).expect("it is said");
            assert!(words.iter().all(|word| sentence.contains(word)), "{sentence}");
        }
        for kind in [Off, Drop, Refill] {
            assert_eq!(said_of_dead(kind, 4), None);
        }
    }

    #[test]
    fn each_condition_has_its_alarm() {
        let config = AlarmsSection { entropy_min: 0.2, ..AlarmsSection::default() };
        let first = |bad: &dyn Fn(u64, &mut StepFacts)| {
            let raised = said(&config, 40, bad);
            let (step, sentence) = raised.first().expect("it is raised").clone();
            (step, sentence.split(' ').take(4).collect::<Vec<_>>().join(" "))
        };
        let dead = DeadGroups { all_wrong: 4, ..DeadGroups::default() };
        assert_eq!(
            first(&|_, step| (step.dead, step.update) = (dead, None)),
            (3, "nothing is learned: in".into())
        );
        let dead = DeadGroups { all_wrong: 2, all_correct: 1, ..DeadGroups::default() };
        assert_eq!(first(&|_, step| step.dead = dead), (3, "a step learns from".into()));
        assert_eq!(first(&|_, step| step.reward = 0.25), (21, "the mean reward is".into()));
        assert_eq!(first(&|number, step| step.dropped_stale = 5 * number), (3, "5 groups were older".into()));
        let update = |entropy, grad_norm| Some(UpdateFacts { entropy, grad_norm });
        assert_eq!(first(&|_, step| step.update = update(0.1, 2.0)), (3, "the entropy is 0.1000,".into()));
        let exploding = |number: u64, step: &mut StepFacts| step.update = update(1.0 + number as f64, 2.0);
        // 6.5 is the mean of the first ten; five times that is passed in step 32, and three steps say so.
        assert_eq!(first(&exploding), (34, "the entropy is 35.000,".into()));
        let spike = |number: u64, step: &mut StepFacts| {
            step.update = update(1.0, if number == 20 { 21.0 } else { 2.0 });
        };
        assert_eq!(first(&spike), (20, "the gradient's norm is".into()));
    }
}
