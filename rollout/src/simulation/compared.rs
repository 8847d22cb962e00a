//! The two schedules that promise to be the same in every run, beside the simulation.

use std::sync::Arc;

use proptest::prelude::{ProptestConfig, Strategy, any, prop_assert_eq, proptest};
use trajectory::Group;

use super::{BLOCK, Segments, Shape, Simulation, Started};
use crate::actor::Actor;
use crate::config::{Priority, QueueConfig};
use crate::ledger::queue::ReplayQueue;
use crate::ledger::request::StepRequest;
use crate::ledger::state::{DropReason, RolloutState};
use crate::schedule::deterministic::DeterministicSchedule;
use crate::schedule::lockstep::LockstepSchedule;
use crate::scheduler::Pacing;
use crate::testing::{Script, Start, context_at, rollout_config};

/// Group and segments of every member, in the order in which they were handed out.
type Handed = Vec<(u64, Vec<Segments>)>;

fn simulated(groups: Vec<Started>) -> Handed {
    let members = |group: Started| group.ended.into_iter().map(|member| member.segments).collect();
    groups.into_iter().map(|group| (group.id, members(group))).collect()
}

fn real(groups: &[Group]) -> Handed {
    let member = |completion: &trajectory::Completion| {
        completion.segments().map(|segment| (segment.version, segment.tokens.len())).collect()
    };
    groups
        .iter()
        .map(|group| (group.id, group.completions.iter().map(|scored| member(&scored.completion)).collect()))
        .collect()
}

/// An actor with its queue.
fn actor(shape: Shape) -> (Actor<Script>, Arc<ReplayQueue>) {
    let Shape { slots, segment_tokens, segments_max, group_size, groups_per_step, staleness, .. } = shape;
    let mut config = rollout_config(slots, segment_tokens, segments_max, group_size);
    config.priority = shape.priority;
    config.versions_open_max = shape.versions_open_max;
    config.in_flight_updates = shape.versions_open_max == 1;
    config.kv_cache_tokens_max = shape.bound().map(|blocks| blocks * BLOCK + 1);
    let pacing = Pacing { groups_per_step: groups_per_step as u64, staleness_versions_max: staleness };
    let queue = QueueConfig { groups_max: shape.groups_max(), staleness_versions_max: staleness };
    let start = Start { version: 0, queue, state: &RolloutState::default() };
    let (context, ledger) = context_at(config, 5, pacing, start);
    let mut script = Script::new(slots, move |group, member| shape.length(group, member));
    script.cache = (BLOCK, shape.bound().unwrap_or(usize::MAX));
    (Actor::new(context, 0, script), Arc::clone(ledger.queue()))
}

fn shapes() -> impl Strategy<Value = Shape> {
    let decoding = (1usize..7, 1usize..4, 1usize..5, 1usize..4);
    let learning = (1usize..4, 0u64..3, 0usize..7, 0u64..1_000_000);
    let scarce = (proptest::option::of(0usize..12), any::<bool>(), 1u64..5, 0u64..=5);
    (decoding, learning, scarce).prop_map(|(decoding, learning, scarce)| {
        let (spare_blocks, last_members, versions_open_max, dead_of_five) = scarce;
        let (slots, segment_tokens, segments_max, group_size) = decoding;
        let (groups_per_step, staleness, room, lengths) = learning;
        let priority = if last_members { Priority::LastMembers } else { Priority::Oldest };
        Shape {
            slots,
            segment_tokens,
            segments_max,
            group_size,
            groups_per_step,
            staleness,
            room,
            lengths,
            spare_blocks,
            priority,
            versions_open_max,
            dead_of_five,
        }
    })
}

const STEPS: u64 = 12;

fn further(shape: Shape) -> impl Fn(&[Group]) -> usize {
    move |groups| shape.further(groups.iter().map(|group| group.id))
}

fn stale(queue: &ReplayQueue) -> u64 {
    queue.report().drops.get(&DropReason::Stale).copied().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    // Invariants 1, 5 and 7: which version has drawn which segment, and which groups the learner gets, follows
    // from lengths alone, whatever the threads do.
    #[test]
    fn windows_beside_the_learner_are_those_of_the_simulation(shape in shapes()) {
        let (actor, queue) = actor(shape);
        let weights = actor.context().weights.clone();
        let mut deterministic = DeterministicSchedule::new(actor, &queue, Vec::new(), None).expect("a thread");
        let mut simulation = Simulation::new(shape);
        let further = further(shape);
        let request = StepRequest { further: &further, ..StepRequest::of(shape.groups_per_step) };
        for version in 0..STEPS {
            let groups = deterministic.take(&queue, &request, version).expect("never starved");
            prop_assert_eq!(real(&groups), simulated(simulation.take_deterministic(version)), "step {}", version);
            weights.publish(version + 1, Arc::new(version + 1));
            queue.learned(&groups);
        }
        prop_assert_eq!(stale(&queue), simulation.dropped);
    }

    // Invariants 1, 5 and 7, as above.
    #[test]
    fn lockstep_is_that_of_the_simulation(shape in shapes()) {
        let (actor, queue) = actor(shape);
        let weights = actor.context().weights.clone();
        let mut lockstep = LockstepSchedule::new(vec![actor], Vec::new());
        let mut simulation = Simulation::new(shape);
        let further = further(shape);
        let request = StepRequest { further: &further, ..StepRequest::of(shape.groups_per_step) };
        for version in 0..STEPS {
            let groups = lockstep.take(&queue, &request, version).expect("never starved");
            prop_assert_eq!(real(&groups), simulated(simulation.take_lockstep(version)), "step {}", version);
            prop_assert_eq!(lockstep.report().preempted, simulation.preempted, "step {}", version);
            weights.publish(version + 1, Arc::new(version + 1));
            queue.learned(&groups);
        }
        prop_assert_eq!(stale(&queue), simulation.dropped);
    }
}
