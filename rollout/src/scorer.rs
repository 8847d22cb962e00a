//! From a finished group to a scored one: the texts are decoded and the verifiers are asked about all members
//! at once, so that one that waits for a process or a service waits once. What a verifier thinks belongs to the crate
//! `rewards`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rewards::{Answer, Reward, RewardError, WeightedSum};
use trajectory::{Completion, EndedTrajectory, FinishedGroup, Group, ScoredCompletion};

use crate::ends::Ends;
use crate::error::RolloutError;
use crate::faults::{self, Point};
use crate::text::Text;

/// Decodes and scores. Several threads may score at once.
pub struct Scorer {
    ends: Ends,
    rewards: WeightedSum,
    nanoseconds: AtomicU64,
}

/// What became of a group at the verifiers.
#[derive(Debug, Clone, PartialEq)]
pub enum Scored {
    /// Every member has its reward.
    Group(Group),
    /// A verifier gave no verdict and says to leave the group out.
    Unscored {
        /// The group.
        id: u64,
        /// Which verifier and why, with the prompt.
        reason: String,
    },
}

impl Scorer {
    /// A scorer by these rewards; how truncated answers count is in them.
    pub fn new(text: Arc<Text>, rewards: WeightedSum) -> Self {
        Self { ends: Ends::of(text), rewards, nanoseconds: AtomicU64::new(0) }
    }

    /// The same for outputs that have other ends than the tokenizer's alone.
    #[must_use]
    pub fn with_ends(self, ends: Ends) -> Self {
        Self { ends, ..self }
    }

    /// What ends outputs, and makes their texts.
    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Seconds spent in scoring, summed over threads.
    pub fn seconds(&self) -> f64 {
        self.nanoseconds.load(Ordering::Relaxed) as f64 * 1e-9
    }

    /// The verifiers' own counters (timeouts, restarts), as `reward/counter`.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        self.rewards.counters()
    }

    /// The final answer of a completion that a majority can vote for, if the verifier of the correctness reads one.
    pub fn final_answer(&self, completion: &Completion) -> Option<String> {
        self.rewards.final_answer(&answer(completion))
    }

    /// Whether two final answers of one prompt are the same one.
    pub fn is_same_answer(&self, one: &str, other: &str) -> bool {
        self.rewards.is_same_answer(one, other)
    }

    /// Scores finished groups, in their order.
    ///
    /// # Errors
    /// The first verifier that failed without leave to skip its group, with the group and its prompt named.
    pub fn score(&self, groups: Vec<FinishedGroup>) -> Result<Vec<Scored>, RolloutError> {
        let began = Instant::now();
        faults::pass(Point::Scorer).map_err(RolloutError::Fault)?;
        let mut completions: Vec<Vec<Completion>> = Vec::with_capacity(groups.len());
        for group in groups {
            let members = group.members.into_iter();
            completions.push(members.map(|ended| self.completion(ended)).collect::<Result<_, _>>()?);
        }
        let answers: Vec<Answer<'_>> = completions.iter().flatten().map(answer).collect();
        let mut rewards = self.rewards.score_all(&answers).into_iter();
        let scored = completions.into_iter().map(|members| {
            let rewards: Vec<_> = rewards.by_ref().take(members.len()).collect();
            scored_group(members, rewards)
        });
        let scored = scored.collect();
        let nanoseconds = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        scored
    }

    /// A group whose verdicts are known.
    ///
    /// # Errors
    /// If the tokenizer refuses to decode a completion.
    pub(crate) fn known(&self, group: FinishedGroup, rewards: &[Reward]) -> Result<Group, RolloutError> {
        let prompt = Arc::clone(&group.members[0].trajectory.prompt);
        let scored = group.members.into_iter().zip(rewards).map(|(ended, reward)| {
            let completion = self.completion(ended)?;
            Ok(ScoredCompletion { completion, reward: reward.clone() })
        });
        Ok(Group::new(group.id, prompt, scored.collect::<Result<_, RolloutError>>()?))
    }

    /// The ended trajectory with its text.
    fn completion(&self, ended: EndedTrajectory) -> Result<Completion, RolloutError> {
        let EndedTrajectory { trajectory, finish } = ended;
        let drawn = trajectory.segments().flat_map(|segment| &segment.tokens).map(|token| token.id);
        let drawn: Vec<u32> = drawn.collect();
        let text = self.ends.ended_text(&trajectory.prompt.tokens, &drawn, finish)?;
        Ok(Completion::new(trajectory, finish, text))
    }
}

fn answer(completion: &Completion) -> Answer<'_> {
    let prompt = &completion.prompt;
    Answer {
        prompt: &prompt.text,
        completion: &completion.text,
        references: &prompt.references,
        fields: &prompt.fields,
        tokens: completion.token_count(),
        truncated: completion.truncated(),
    }
}

/// The members with their rewards, or what keeps them from having any.
fn scored_group(
    completions: Vec<Completion>,
    rewards: Vec<Result<Reward, RewardError>>,
) -> Result<Scored, RolloutError> {
    let (id, prompt) = (completions[0].group, completions[0].prompt.clone());
    let named = |source| RolloutError::Reward { group: id, prompt: prompt.id.clone(), source };
    let (mut members, mut skipped) = (Vec::with_capacity(completions.len()), None);
    for (completion, reward) in completions.into_iter().zip(rewards) {
        match reward {
            Ok(reward) => members.push(ScoredCompletion { completion, reward }),
            Err(error) if error.skips_group() => skipped = skipped.or(Some(named(error).to_string())),
            Err(error) => return Err(named(error)),
        }
    }
    Ok(match skipped {
        Some(reason) => Scored::Unscored { id, reason },
        None => Scored::Group(Group::new(id, prompt, members)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use trajectory::{Finish, OutputLimits, Token, Trajectory};

    use crate::testing::{letters, prompt, text};

    fn ended(group: u64, member: u32, ids: &[u32]) -> EndedTrajectory {
        let limits = OutputLimits { segment_tokens_max: 9, output_tokens_max: 9 };
        let mut trajectory = Trajectory::new(prompt(group), group, member);
        trajectory.start_segment(1, limits);
        for id in ids {
            trajectory.push(Token { id: *id, logprob: -0.5 }, (*id == 0).then_some(Finish::Eos), limits);
        }
        EndedTrajectory { trajectory, finish: Finish::Eos }
    }

    fn score(groups: &[&[&[u32]]]) -> Result<Vec<Scored>, RolloutError> {
        Scorer::new(text(), letters()).score(
            groups
                .iter()
                .enumerate()
                .map(|(id, members)| FinishedGroup {
                    id: id as u64,
                    members: (0..)
                        .zip(members.iter())
                        .map(|(member, ids)| ended(id as u64, member, ids))
                        .collect(),
                })
                .collect(),
        )
    }

    #[test]
    fn verifiers_see_the_text_without_its_end_and_all_tokens() {
        let scored = score(&[&[&[2, 2, 3, 0]], &[&[3, 0], &[2, 0]]]).expect("the verifier only counts");
        let [Scored::Group(one), Scored::Group(two)] = &scored[..] else { panic!("{scored:?}") };
        let first = &one.completions[0];
        assert_eq!(first.completion.text, "aab");
        // Two letters `a` in four tokens.
        assert_eq!((first.reward.parts["letters"], first.reward.parts["letters/tokens"]), (2.0, 4.0));
        assert_eq!(first.completion.token_ids(), [2, 2, 3, 0]);
        let totals: Vec<f64> = two.completions.iter().map(|scored| scored.reward.total).collect();
        assert_eq!((two.id, totals), (1, vec![0.0, 1.0]));
    }

    // Invariant 8: what a verifier cannot judge stops the run and names the prompt.
    #[test]
    fn a_failing_verifier_names_group_and_prompt() {
        let error = score(&[&[&[2, 0]], &[&[2, 0], &[6, 0]]]).expect_err("`e` makes the verifier fail");
        assert!(error.to_string().starts_with("prompt test:1 (group 1): "), "{error}");
    }

    #[test]
    fn a_verdict_that_may_be_missing_costs_its_group_alone() {
        let scored = score(&[&[&[1, 0], &[2, 0]], &[&[2, 0]]]).expect("an unknown token skips its group");
        let [Scored::Unscored { id: 0, reason }, Scored::Group(whole)] = &scored[..] else {
            panic!("{scored:?}")
        };
        assert!(reason.starts_with("prompt test:0 (group 0): reward `letters`"), "{reason}");
        assert_eq!(whole.id, 1);
    }
}
