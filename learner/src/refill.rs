//! How many groups a step still wants: dynamic sampling that refills takes further groups in the place of those that
//! teach nothing, until there are enough or a bound is reached. A function of rewards and lengths alone.

use trajectory::Group;

use crate::advantage_batch::AdvantageBatch;
use crate::config::{DynamicSampling, LearnerConfig};

/// How many further groups a step wants that has `groups`; 0 where they are enough, where the bound is reached, and
/// where nothing is refilled. `weights` are the factors of the rewards by name, where their advantages are combined.
///
/// GRPO-lambda ranks all groups that were taken, also those that teach nothing, so a further group may bring another
/// one back to life.
///
/// What is wrong with the groups is for the step to say, so a step with such groups wants no more.
#[must_use]
pub fn further_groups(config: &LearnerConfig, weights: &[(String, f64)], groups: &[Group]) -> usize {
    if config.dynamic_sampling != DynamicSampling::Refill {
        return 0;
    }
    let Ok(batch) = AdvantageBatch::new(0, groups, config, weights) else { return 0 };
    let missing = config.groups_per_step.saturating_sub(batch.live_groups());
    missing.min(config.step_groups_max().saturating_sub(groups.len()))
}

#[cfg(test)]
mod tests {
    use super::further_groups;
    use crate::config::{AdvantageConfig, DynamicSampling, LearnerConfig, Surrogates};
    use crate::testing::{group, groups, learner_config};

    fn config(groups_per_step: usize, refill_batches_max: usize) -> LearnerConfig {
        let dynamic_sampling = DynamicSampling::Refill;
        LearnerConfig { groups_per_step, refill_batches_max, dynamic_sampling, ..learner_config() }
    }

    #[test]
    fn what_is_missing_is_asked_for_up_to_the_bound() {
        // One of the three teaches something.
        for (groups_per_step, batches, further) in [(1, 4, 0), (2, 4, 1), (3, 4, 2), (3, 1, 0), (2, 2, 1)] {
            let found = further_groups(&config(groups_per_step, batches), &[], &groups());
            assert_eq!(found, further, "{groups_per_step} groups a step, {batches} times");
        }
        let most = [groups(), groups()].concat();
        assert_eq!(further_groups(&config(3, 2), &[], &most), 0, "the bound is reached");
        assert_eq!(further_groups(&config(5, 2), &[], &most), 3);
        for dynamic_sampling in [DynamicSampling::Off, DynamicSampling::Drop] {
            let config = LearnerConfig { dynamic_sampling, ..config(3, 4) };
            assert_eq!((further_groups(&config, &[], &groups()), config.step_groups_max()), (0, 3));
        }
        assert_eq!(config(3, 4).step_groups_max(), 12);
    }

    #[test]
    fn groups_live_and_die_by_the_rewards_as_they_are_shaped() {
        let lambda = |lambda| LearnerConfig {
            advantage: AdvantageConfig::GrpoLambda { lambda, alpha: 0.2, surrogates: Surrogates::Ignore },
            ..config(3, 4)
        };
        // The group that is all right lives as an efficiency group.
        assert_eq!(further_groups(&lambda(0.3), &[], &groups()), 1);
        assert_eq!(further_groups(&lambda(0.0), &[], &groups()), 2);
    }

    #[test]
    fn groups_that_the_step_will_refuse_want_no_more() {
        let config = LearnerConfig {
            advantage: AdvantageConfig::GrpoLambda {
                lambda: 0.3,
                alpha: 0.2,
                surrogates: Surrogates::Ignore,
            },
            ..config(3, 4)
        };
        let mut unknown = group(0, 2, &[(true, 0.0, 3), (false, 0.0, 3)]);
        unknown.completions[1].reward.correctness = None;
        assert_eq!(further_groups(&config, &[], &[unknown]), 0);
    }
}
