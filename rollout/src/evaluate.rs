//! A fixed list of prompts, each answered a fixed number of times under one version: evaluation. The same
//! slots and the same segments as in training, but no pacing, no queue and no newer weights.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use trajectory::{Group, OutputLimits, Prompt};

use crate::actor::{UnfinishedGroups, members};
use crate::decoding::Decoding;
use crate::error::RolloutError;
use crate::generator::Generator;
use crate::heartbeat::Heartbeat;
use crate::modes::{ANSWER_PAUSE, RolloutMode};
use crate::scheduler::Scheduler;
use crate::scorer::{Scored, Scorer};
use crate::weights::Versioned;

/// How prompts are answered in an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvaluationPlan {
    /// How long outputs are.
    pub limits: OutputLimits,
    /// Answers to each prompt.
    pub group_size: usize,
    /// The seed of all draws.
    pub seed: u64,
}

/// What an evaluation shares with the rest of a run.
#[derive(Clone, Copy)]
pub struct EvaluationParts<'a> {
    /// Decodes and scores the answers.
    pub scorer: &'a Scorer,
    /// What follows the end of a turn.
    pub mode: &'a Arc<dyn RolloutMode>,
    /// Makes progress with every decode step.
    pub heartbeat: &'a Heartbeat,
    /// Ends the evaluation before its next decode step, once it is set.
    pub stop: &'a AtomicBool,
}

/// Answers and scores the prompts; the groups come in the order of the prompts and are numbered by their
/// indices, which differ from each other. A group that a verifier leaves out is missing, which the log says.
/// All slots of the generator must be free, and are free again afterwards.
///
/// # Errors
/// If decoding fails, an answer has no text, or a verifier fails without leave to leave its group out;
/// [`RolloutError::Closed`] where it was stopped.
pub fn evaluate<G: Generator>(
    generator: &mut G,
    weights: &Versioned<G::Weights>,
    prompts: &[Arc<Prompt>],
    plan: &EvaluationPlan,
    parts: EvaluationParts<'_>,
) -> Result<Vec<Group>, RolloutError> {
    let mode = Arc::clone(parts.mode);
    let mut scheduler = Scheduler::new(generator.slots(), plan.limits).with_mode(mode);
    for prompt in prompts {
        scheduler.admit(members(prompt.clone(), prompt.index, plan.group_size));
    }
    let mut decoding = Decoding::new(generator, scheduler, plan.seed);
    let mut unfinished = UnfinishedGroups::new(plan.group_size);
    let mut finished = Vec::new();
    loop {
        if parts.stop.load(Ordering::Relaxed) {
            return Err(RolloutError::Closed);
        }
        decoding.begin_segments(|| weights.clone(), |_, _| None)?;
        let step = decoding.step(parts.scorer.ends())?;
        if step.tokens == 0 && decoding.scheduler.awaits_answers() {
            std::thread::sleep(ANSWER_PAUSE);
            continue;
        }
        if step.tokens == 0 {
            break;
        }
        parts.heartbeat.progressed();
        finished.extend(step.finished().filter_map(|ended| unfinished.add(ended)));
    }
    finished.sort_by_cached_key(|group| prompts.iter().position(|prompt| prompt.index == group.id));
    assert_eq!(finished.len(), prompts.len(), "every prompt has its own index and got its answers");
    // All at once: a verifier that waits for a process or a service has all requests of the evaluation in flight.
    let scored = parts.scorer.score(finished)?.into_iter();
    Ok(scored
        .filter_map(|scored| match scored {
            Scored::Group(group) => Some(group),
            Scored::Unscored { reason, .. } => {
                tracing::warn!("left out of the evaluation: {reason}");
                None
            }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modes::Single;
    use crate::testing::{Script, letters, prompt, text};

    #[test]
    fn every_prompt_is_answered_in_the_order_asked() {
        let mut script = Script::new(3, |group, member| (group as usize + member as usize) % 5 + 1);
        let prompts: Vec<Arc<Prompt>> = [7, 2, 5, 0].map(prompt).to_vec();
        let weights = Versioned { version: 4, weights: Arc::new(4) };
        let limits = OutputLimits { segment_tokens_max: 2, output_tokens_max: 4 };
        let plan = EvaluationPlan { limits, group_size: 2, seed: 1 };
        let scorer = Scorer::new(text(), letters());
        let mode: Arc<dyn RolloutMode> = Arc::new(Single);
        let (heartbeat, stop) = (Heartbeat::default(), AtomicBool::new(false));
        let parts = EvaluationParts { scorer: &scorer, mode: &mode, heartbeat: &heartbeat, stop: &stop };
        let groups = evaluate(&mut script, &weights, &prompts, &plan, parts).expect("no failure");
        assert_eq!(groups.iter().map(|group| group.id).collect::<Vec<_>>(), [7, 2, 5, 0]);
        for group in &groups {
            assert_eq!(group.oldest_version(), 4);
            for (member, scored) in group.completions.iter().enumerate() {
                let length = (group.id as usize + member) % 5 + 1;
                assert_eq!(scored.completion.token_count(), length.min(4));
                assert_eq!(scored.completion.truncated(), length > 4);
            }
        }
        // The slots are free again: a second evaluation gives the same.
        assert_eq!(evaluate(&mut script, &weights, &prompts, &plan, parts).expect("no failure"), groups);
        stop.store(true, Ordering::Relaxed);
        let stopped = evaluate(&mut script, &weights, &prompts, &plan, parts);
        assert!(matches!(stopped, Err(RolloutError::Closed)), "{stopped:?}");
    }
}
