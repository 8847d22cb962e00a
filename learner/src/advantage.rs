//! From the rewards of a step's groups to the advantages of their completions: GRPO, Dr. GRPO and
//! GRPO-lambda (arXiv 2505.18086). Plain arithmetic in `f64`; knows neither tokens nor tensors.

use crate::config::{AdvantageConfig, Combine, Surrogates};

/// Keeps the division by a group's standard deviation finite, as everywhere in the field.
const STD_EPS: f64 = 1e-6;

/// What the advantages of one group are made from: one entry a completion in each list.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupOutcome {
    /// The group's number; equal ranks keep its order.
    pub id: u64,
    /// What the verifiers gave.
    pub rewards: Vec<f64>,
    /// Whether each answer is right, where a reward says so.
    pub correctness: Vec<Option<bool>>,
    /// Completion tokens.
    pub lengths: Vec<usize>,
    /// The single rewards; only [`Combine::Advantage`] looks at them.
    pub terms: Vec<RewardTerm>,
}

/// One of the rewards whose weighted sum is the total.
#[derive(Clone, Debug, PartialEq)]
pub struct RewardTerm {
    /// Its factor in the total.
    pub weight: f64,
    /// Unweighted, one entry a completion.
    pub values: Vec<f64>,
}

/// What a group learns in its step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupRole {
    /// To be right, from the rewards as they are or, under GRPO-lambda, from correctness.
    Accuracy,
    /// To be right and short (GRPO-lambda).
    Efficiency,
}

/// Whether the shaped rewards of a group tell its completions apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupVariance {
    /// At least two shaped rewards differ.
    Varied,
    /// All are equal and all answers are right.
    AllCorrect,
    /// All are equal and all answers are wrong.
    AllWrong,
    /// All are equal, and the answers are mixed or nobody says whether they are right.
    AllEqual,
}

/// Shaped rewards and advantages of one group, one entry a completion.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupAdvantages {
    /// What the group learns.
    pub role: GroupRole,
    /// Rewards after shaping.
    pub shaped: Vec<f64>,
    /// Advantages; exactly 0 where the shaped rewards are all equal.
    pub advantages: Vec<f64>,
    /// Whether the shaped rewards differ, decided by exact equality.
    pub variance: GroupVariance,
}

/// A completion without the correctness that GRPO-lambda shapes rewards by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingCorrectness {
    /// The group's place in the step.
    pub group: usize,
    /// The completion's place in the group.
    pub member: usize,
}

/// What a group is ranked by under GRPO-lambda. The groups of a step are ranked together, also where several ranks train
/// on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupStanding {
    /// The group's number; equal standings keep its order.
    pub id: u64,
    /// Right answers.
    pub correct: usize,
    /// Completions.
    pub members: usize,
}

impl GroupStanding {
    /// Of a group; an answer that nobody calls right counts as wrong.
    #[must_use]
    pub fn of(group: &GroupOutcome) -> Self {
        let correct = group.correctness.iter().filter(|correct| **correct == Some(true)).count();
        Self { id: group.id, correct, members: group.correctness.len() }
    }

    fn fraction(&self) -> f64 {
        self.correct as f64 / self.members.max(1) as f64
    }
}

/// Advantages of all groups of a step, in their order.
///
/// # Errors
/// [`MissingCorrectness`] where the kind needs the correctness of every completion and one has none.
pub fn advantages(
    config: &AdvantageConfig,
    groups: &[GroupOutcome],
) -> Result<Vec<GroupAdvantages>, MissingCorrectness> {
    let standings: Vec<GroupStanding> = groups.iter().map(GroupStanding::of).collect();
    advantages_in_roles(config, groups, &roles(config, &standings))
}

/// What each group of a step learns. Under GRPO-lambda the groups are ranked by their fraction of right answers; the
/// first `round(lambda * B)` are efficiency groups, except those without a right answer. The paper is silent on ties: of
/// the same fraction, the lower group id comes first, and a half rounds to the even count as IEEE 754, Python and
/// PyTorch do.
#[must_use]
pub fn roles(config: &AdvantageConfig, groups: &[GroupStanding]) -> Vec<GroupRole> {
    let mut roles = vec![GroupRole::Accuracy; groups.len()];
    let AdvantageConfig::GrpoLambda { lambda, .. } = config else { return roles };
    let fraction = |group: usize| groups[group].fraction();
    let mut ranked: Vec<usize> = (0..groups.len()).collect();
    ranked.sort_by(|a, b| fraction(*b).total_cmp(&fraction(*a)).then(groups[*a].id.cmp(&groups[*b].id)));
    let count = (lambda * groups.len() as f64).round_ties_even() as usize;
    for group in ranked.into_iter().take(count).filter(|group| fraction(*group) > 0.0) {
        roles[group] = GroupRole::Efficiency;
    }
    roles
}

/// Advantages of groups whose [`roles`] are known, in their order.
///
/// # Errors
/// As [`advantages`].
pub fn advantages_in_roles(
    config: &AdvantageConfig,
    groups: &[GroupOutcome],
    roles: &[GroupRole],
) -> Result<Vec<GroupAdvantages>, MissingCorrectness> {
    assert_eq!(groups.len(), roles.len(), "one role a group");
    let (alpha, surrogates) = match *config {
        AdvantageConfig::Grpo { combine } => {
            return Ok(groups.iter().map(|group| plain(group, combine, true)).collect());
        }
        AdvantageConfig::DrGrpo { combine } => {
            return Ok(groups.iter().map(|group| plain(group, combine, false)).collect());
        }
        AdvantageConfig::GrpoLambda { alpha, surrogates, .. } => (alpha, surrogates),
    };
    let shaped = groups.iter().zip(roles).enumerate().map(|(index, (group, role))| {
        let correct = known_correctness(index, group)?;
        let mut shaped = grpo_lambda_rewards(*role, &correct, &group.lengths, alpha);
        if surrogates == Surrogates::Add {
            for ((shaped, reward), correct) in shaped.iter_mut().zip(&group.rewards).zip(&correct) {
                *shaped += reward - f64::from(u8::from(*correct));
            }
        }
        Ok(finish_group(group, *role, shaped, true))
    });
    shaped.collect()
}

fn known_correctness(index: usize, group: &GroupOutcome) -> Result<Vec<bool>, MissingCorrectness> {
    group
        .correctness
        .iter()
        .enumerate()
        .map(|(member, correct)| correct.ok_or(MissingCorrectness { group: index, member }))
        .collect()
}

/// The paper's rewards: 1 or 0, and in an efficiency group `1 - alpha * sigmoid(z)` for a right answer,
/// where `z` is its length standardised over the right answers of the group.
fn grpo_lambda_rewards(role: GroupRole, correct: &[bool], lengths: &[usize], alpha: f64) -> Vec<f64> {
    let right_lengths: Vec<f64> =
        correct.iter().zip(lengths).filter(|(right, _)| **right).map(|(_, length)| *length as f64).collect();
    let (mean, std) = mean_std(&right_lengths);
    correct
        .iter()
        .zip(lengths)
        .map(|(right, length)| match (right, role) {
            (false, _) => 0.0,
            (true, GroupRole::Accuracy) => 1.0,
            (true, GroupRole::Efficiency) => {
                // The paper is silent on right answers of one length: none is long, so z is 0.
                let z = if std > 0.0 { (*length as f64 - mean) / std } else { 0.0 };
                1.0 - alpha / (1.0 + (-z).exp())
            }
        })
        .collect()
}

/// A group that learns from its rewards as they are.
fn plain(group: &GroupOutcome, combine: Combine, divide: bool) -> GroupAdvantages {
    let whole = finish_group(group, GroupRole::Accuracy, group.rewards.clone(), divide);
    if combine == Combine::Reward {
        return whole;
    }
    let total: f64 = group.terms.iter().map(|term| term.weight.abs()).sum();
    let counted = || group.terms.iter().filter(|term| term.weight != 0.0);
    let mut advantages = vec![0.0; group.rewards.len()];
    for term in counted() {
        for (sum, advantage) in advantages.iter_mut().zip(centred(&term.values, divide)) {
            *sum += term.weight / total * advantage;
        }
    }
    // Terms that cancel in the total still tell completions apart.
    let variance = match counted().any(|term| differ(&term.values)) {
        true => GroupVariance::Varied,
        false => whole.variance,
    };
    GroupAdvantages { advantages, variance, ..whole }
}

fn finish_group(group: &GroupOutcome, role: GroupRole, shaped: Vec<f64>, divide: bool) -> GroupAdvantages {
    let variance = variance_of(&shaped, &group.correctness);
    let advantages = centred(&shaped, divide);
    GroupAdvantages { role, shaped, advantages, variance }
}

/// `r - mean`, divided by the deviation if asked; exactly 0 where all rewards are equal.
fn centred(rewards: &[f64], divide: bool) -> Vec<f64> {
    if !differ(rewards) {
        return vec![0.0; rewards.len()];
    }
    let (mean, std) = mean_std(rewards);
    let scale = if divide { 1.0 / (std + STD_EPS) } else { 1.0 };
    rewards.iter().map(|reward| (reward - mean) * scale).collect()
}

/// Exact equality, never a small standard deviation: rounding in a mean must not revive a dead group.
fn differ(rewards: &[f64]) -> bool {
    rewards.windows(2).any(|pair| pair[0] != pair[1])
}

fn variance_of(shaped: &[f64], correctness: &[Option<bool>]) -> GroupVariance {
    if differ(shaped) {
        return GroupVariance::Varied;
    }
    if correctness.iter().all(|correct| *correct == Some(true)) {
        return GroupVariance::AllCorrect;
    }
    if correctness.iter().all(|correct| *correct == Some(false)) {
        return GroupVariance::AllWrong;
    }
    GroupVariance::AllEqual
}

/// Mean and unbiased (n - 1) standard deviation; the latter is 0 for fewer than two values.
pub(crate) fn mean_std(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    if values.len() < 2 {
        return (mean, 0.0);
    }
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (values.len() - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn group(id: u64, correct: &[u8], lengths: &[usize]) -> GroupOutcome {
        GroupOutcome {
            id,
            rewards: correct.iter().map(|right| f64::from(*right)).collect(),
            correctness: correct.iter().map(|right| Some(*right == 1)).collect(),
            lengths: lengths.to_vec(),
            terms: Vec::new(),
        }
    }

    const GRPO: AdvantageConfig = AdvantageConfig::Grpo { combine: Combine::Reward };
    const DR_GRPO: AdvantageConfig = AdvantageConfig::DrGrpo { combine: Combine::Reward };

    fn lambda(lambda: f64, surrogates: Surrogates) -> AdvantageConfig {
        AdvantageConfig::GrpoLambda { lambda, alpha: 0.2, surrogates }
    }

    fn assert_close(actual: &[f64], expected: &[f64]) {
        assert_eq!(actual.len(), expected.len());
        for (a, b) in actual.iter().zip(expected) {
            assert!((a - b).abs() < 1e-9, "{actual:?} is not {expected:?}");
        }
    }

    #[test]
    fn grpo_divides_by_the_unbiased_std_and_dr_grpo_does_not() {
        let groups = [group(0, &[1, 0, 0, 1], &[1, 1, 1, 1])];
        // Mean 1/2; squares sum to 1; std = sqrt(1/3).
        let a = 0.5 / ((1.0_f64 / 3.0).sqrt() + 1e-6);
        let grpo = advantages(&GRPO, &groups).unwrap();
        assert_close(&grpo[0].advantages, &[a, -a, -a, a]);
        let dr_grpo = advantages(&DR_GRPO, &groups).unwrap();
        assert_close(&dr_grpo[0].advantages, &[0.5, -0.5, -0.5, 0.5]);
    }

    #[test]
    fn combined_advantages_are_the_weighted_mean_of_those_of_each_reward() {
        let mut group = group(0, &[1, 0], &[1, 1]);
        let term = |weight, values: [f64; 2]| RewardTerm { weight, values: values.to_vec() };
        // Advantages 1/2, -1/2; then -50, 50; then none. Of Dr. GRPO, whose numbers are round.
        group.terms = vec![term(1.0, [1.0, 0.0]), term(0.5, [0.0, 100.0]), term(0.5, [7.0, 7.0])];
        let dr_grpo = AdvantageConfig::DrGrpo { combine: Combine::Advantage };
        assert_close(&advantages(&dr_grpo, &[group.clone()]).unwrap()[0].advantages, &[-12.25, 12.25]);
        // Divided by its deviation each reward counts by its weight alone: (1 - 0.5) / 2 of 1/sqrt(2).
        let grpo = AdvantageConfig::Grpo { combine: Combine::Advantage };
        let found = advantages(&grpo, &[group.clone()]).unwrap()[0].advantages.clone();
        for (found, expected) in found.iter().zip([0.25 * 0.5_f64.sqrt(), -0.25 * 0.5_f64.sqrt()]) {
            assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
        }
        // The totals are equal, and yet there is something to learn.
        group.rewards = vec![3.0, 3.0];
        assert_eq!(advantages(&grpo, &[group]).unwrap()[0].variance, GroupVariance::Varied);
    }

    #[test]
    fn a_right_answer_of_mean_length_gets_nine_tenths() {
        let groups = [group(0, &[1, 1, 1, 0], &[10, 20, 30, 500])];
        let result = advantages(&lambda(1.0, Surrogates::Ignore), &groups).unwrap();
        // Over the right answers: mean 20, std 10, so z = -1, 0, 1.
        let sigmoid = 1.0 / (1.0 + (-1.0_f64).exp());
        assert_eq!(result[0].role, GroupRole::Efficiency);
        assert_close(&result[0].shaped, &[1.0 - 0.2 * (1.0 - sigmoid), 0.9, 1.0 - 0.2 * sigmoid, 0.0]);
    }

    #[test]
    fn in_an_all_correct_efficiency_group_alpha_cancels_and_short_wins() {
        let groups = [group(0, &[1, 1, 1], &[10, 20, 30])];
        let by_alpha = |alpha| {
            let config = AdvantageConfig::GrpoLambda { lambda: 1.0, alpha, surrogates: Surrogates::Ignore };
            advantages(&config, &groups).unwrap()[0].advantages.clone()
        };
        // z = -1, 0, 1 gives equal steps of the sigmoid, so A = 1, 0, -1 but for the epsilon.
        for alpha in [0.1, 0.2, 0.9] {
            for (a, b) in by_alpha(alpha).iter().zip([1.0, 0.0, -1.0]) {
                assert!((a - b).abs() < 1e-4, "alpha {alpha}: {a} is not {b}");
            }
        }
    }

    #[test]
    fn the_best_solved_fraction_is_efficient_and_ties_keep_the_order_of_ids() {
        let groups = [
            group(7, &[1, 0], &[1, 2]),
            group(3, &[1, 1], &[1, 2]),
            group(5, &[1, 0], &[1, 2]),
            group(1, &[0, 0], &[1, 2]),
            group(9, &[0, 0], &[1, 2]),
        ];
        let roles = |fraction| -> Vec<bool> {
            let result = advantages(&lambda(fraction, Surrogates::Ignore), &groups).unwrap();
            result.iter().map(|group| group.role == GroupRole::Efficiency).collect()
        };
        assert_eq!(roles(0.2), [false, true, false, false, false]);
        assert_eq!(roles(0.4), [false, true, true, false, false]);
        assert_eq!(roles(1.0), [true, true, true, false, false], "no efficiency without a right answer");
    }

    #[test]
    fn fewer_than_two_right_answers_or_one_length_give_z_of_zero() {
        let groups = [group(0, &[1, 0], &[900, 2]), group(1, &[1, 1], &[33, 33])];
        let result = advantages(&lambda(1.0, Surrogates::Ignore), &groups).unwrap();
        assert_close(&result[0].shaped, &[0.9, 0.0]);
        assert_close(&result[1].shaped, &[0.9, 0.9]);
        assert_eq!(result[1].variance, GroupVariance::AllCorrect);
    }

    #[test]
    fn surrogates_are_left_out_or_added() {
        let mut with_surrogate = group(0, &[1, 0], &[5, 5]);
        with_surrogate.rewards = vec![1.5, 0.25];
        let groups = [with_surrogate, group(1, &[0, 0], &[5, 5])];
        let ignored = advantages(&lambda(0.0, Surrogates::Ignore), &groups).unwrap();
        assert_close(&ignored[0].shaped, &[1.0, 0.0]);
        let added = advantages(&lambda(0.0, Surrogates::Add), &groups).unwrap();
        assert_close(&added[0].shaped, &[1.5, 0.25]);
        let efficient = advantages(&lambda(0.5, Surrogates::Add), &groups).unwrap();
        assert_close(&efficient[0].shaped, &[1.4, 0.25]);
    }

    #[test]
    fn zero_variance_is_exact_and_named_by_kind() {
        let mut unlabelled = group(3, &[1, 1, 1], &[1, 1, 1]);
        unlabelled.rewards = vec![0.1 + 0.2; 3];
        unlabelled.correctness = vec![None; 3];
        let mut nearly = unlabelled.clone();
        nearly.rewards[0] = 0.3;
        let groups = [group(0, &[1, 1], &[1, 9]), group(1, &[0, 0], &[1, 9]), unlabelled, nearly];
        let result = advantages(&GRPO, &groups).unwrap();
        let kinds: Vec<_> = result.iter().map(|group| group.variance).collect();
        use GroupVariance::{AllCorrect, AllEqual, AllWrong, Varied};
        assert_eq!(kinds, [AllCorrect, AllWrong, AllEqual, Varied]);
        assert_eq!(result[2].advantages, [0.0, 0.0, 0.0], "a rounded mean must not leave a residue");
    }

    #[test]
    fn a_missing_correctness_is_an_error_that_names_its_place() {
        let mut groups = [group(0, &[1, 1], &[1, 9]), group(1, &[0, 1], &[1, 9])];
        groups[1].correctness[1] = None;
        let error = advantages(&lambda(0.2, Surrogates::Ignore), &groups).unwrap_err();
        assert_eq!(error, MissingCorrectness { group: 1, member: 1 });
    }

    proptest! {
        #[test]
        fn advantages_of_a_group_sum_to_zero(
            answers in prop::collection::vec((any::<bool>(), 1_usize..4000, -2.0_f64..2.0), 2..24),
            kind in 0..5,
        ) {
            let outcome = GroupOutcome {
                id: 0,
                rewards: answers.iter().map(|answer| f64::from(u8::from(answer.0)) + answer.2).collect(),
                correctness: answers.iter().map(|answer| Some(answer.0)).collect(),
                lengths: answers.iter().map(|answer| answer.1).collect(),
                terms: vec![
                    RewardTerm { weight: 1.0, values: answers.iter().map(|answer| f64::from(u8::from(answer.0))).collect() },
                    RewardTerm { weight: -0.5, values: answers.iter().map(|answer| answer.2).collect() },
                ],
            };
            let config = match kind {
                0 => GRPO,
                1 => DR_GRPO,
                2 => lambda(1.0, Surrogates::Ignore),
                3 => AdvantageConfig::Grpo { combine: Combine::Advantage },
                _ => lambda(1.0, Surrogates::Add),
            };
            let result = advantages(&config, &[outcome]).unwrap();
            let sum: f64 = result[0].advantages.iter().sum();
            prop_assert!(sum.abs() < 1e-9, "the sum is {}", sum);
        }
    }
}
