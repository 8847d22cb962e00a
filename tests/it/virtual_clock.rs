//! The simulation is the run: on the virtual clock the same groups are taken, with segments of the same versions, as with
//! the real actor and queue.

use std::sync::Arc;

use proptest::prelude::{ProptestConfig, Strategy, prop_assert_eq, proptest};
use rewards::{
    RewardConfig, RewardContext, RewardKind, Split, Task, TaskConfig, TaskName, TruncatedReward, WeightedSum,
};
use rollout::{
    Actor, ActorContext, DataConfig, DeterministicSchedule, Drawn, Ends, Generator, GeneratorError,
    Heartbeats, LocalLedger, LockstepSchedule, Needs, Notify, Pacing, PromptSource, QueueConfig, ReplayQueue,
    Schedule, Scorer, SegmentRequest, Single, StepRequest, Text, Versioned, WeightsCell,
};
use serde_json::json;
use simulate::{CostModel, LengthDistribution, VirtualPlan, run_virtually};
use trajectory::{Group, ScoredCompletion, Token};

use crate::binary::repository;

/// Ids of the groups of each step, with the versions of all segments of each member.
type Taken = Vec<(u64, Vec<Vec<u64>>)>;

fn versions(groups: &[Group]) -> Taken {
    let of = |scored: &ScoredCompletion| scored.completion.segments().map(|s| s.version).collect();
    groups.iter().map(|group| (group.id, group.completions.iter().map(of).collect())).collect()
}

fn lengths() -> LengthDistribution {
    LengthDistribution::parse("uniform:1,13").unwrap()
}

fn simulated(plan: &VirtualPlan) -> Vec<Taken> {
    let mut taken = Vec::new();
    run_virtually(plan, &lengths(), &CostModel::default(), |groups| taken.push(versions(groups))).unwrap();
    taken
}

/// A decoder whose outputs have given lengths, and weights that are their own version.
struct Script {
    slots: Vec<Option<Output>>,
    seed: u64,
    end: u32,
}

/// An output on a slot.
struct Output {
    tokens: usize,
    length: usize,
    version: u64,
}

impl Generator for Script {
    type Weights = u64;

    fn begin(
        &mut self,
        slot: usize,
        request: SegmentRequest<'_>,
        weights: &Versioned<u64>,
    ) -> Result<(), GeneratorError> {
        let tokens = request.first_token_index() as usize;
        let length = lengths().length(self.seed, request.trajectory.group, request.trajectory.member);
        self.slots[slot] = Some(Output { tokens, length, version: weights.version });
        Ok(())
    }

    fn step(&mut self) -> Result<Vec<Drawn>, GeneratorError> {
        let outputs =
            self.slots.iter_mut().enumerate().filter_map(|(slot, output)| Some((slot, output.as_mut()?)));
        let drawn = outputs.map(|(slot, output)| {
            output.tokens += 1;
            let id = if output.tokens == output.length { self.end } else { self.end + 1 };
            Drawn { slot, token: Token { id, logprob: -(output.version as f32) } }
        });
        Ok(drawn.collect())
    }

    fn end_segment(&mut self, slot: usize) {
        self.slots[slot] = None;
    }

    fn release(&mut self, slot: usize) {
        self.slots[slot] = None;
    }

    fn slots(&self) -> usize {
        self.slots.len()
    }
}

fn text() -> Arc<Text> {
    Arc::new(Text::load(&repository().join("models/quickstart")).unwrap())
}

fn context(plan: &VirtualPlan) -> (Arc<ActorContext<u64>>, Arc<ReplayQueue>) {
    let text = text();
    let task = TaskConfig::new(TaskName::Machine, 3..=4);
    let rewards = [RewardConfig::new(RewardKind::Task {}, 1.0, true)];
    let judged = RewardContext {
        task: Some(Task::new(task.clone()).unwrap()),
        truncated: TruncatedReward::Scored,
        ..RewardContext::default()
    };
    let data = DataConfig::Task(task);
    let (prompts, _) =
        PromptSource::open(&data, Split::Train, 5, Arc::clone(&text), &Needs::default()).unwrap();
    let notify = Notify::new();
    let pacing = Pacing {
        groups_per_step: plan.groups_per_step as u64,
        staleness_versions_max: plan.queue.staleness_versions_max,
    };
    let ends = Ends::new(Arc::clone(&text), plan.rollout.stops(), 32).unwrap();
    let ledger = Arc::new(LocalLedger::new(pacing, plan.queue.clone(), notify.clone()));
    let queue = Arc::clone(ledger.queue());
    let context = Arc::new(ActorContext {
        config: plan.rollout.clone(),
        seed: 5,
        prompts,
        scorer: Scorer::new(text, WeightedSum::from_configs(&rewards, judged).unwrap()).with_ends(ends),
        weights: Arc::new(WeightsCell::new(0, Arc::new(0), notify)),
        ledger,
        mode: Arc::new(Single),
        heartbeats: Heartbeats::default(),
    });
    (context, queue)
}

/// The same plan with the real actor.
fn real(plan: &VirtualPlan) -> Vec<Taken> {
    let (context, queue) = context(plan);
    let weights = Arc::clone(&context.weights);
    let slots = (0..plan.rollout.trajectories_open_max).map(|_| None).collect();
    let end = text().eos_ids()[0];
    let actor = Actor::new(context, 0, Script { slots, seed: plan.seed, end });
    let mut taken = Vec::new();
    let mut learn = |version: u64, groups: &[Group]| {
        taken.push(versions(groups));
        queue.learned(groups);
        weights.publish(version + 1, Arc::new(version + 1));
    };
    let request = StepRequest::of(plan.groups_per_step);
    if plan.schedule == Schedule::Lockstep {
        let mut lockstep = LockstepSchedule::new(vec![actor], Vec::new());
        for version in 0..plan.steps {
            learn(version, &lockstep.take(&queue, &request, version).unwrap());
        }
    } else {
        let mut deterministic = DeterministicSchedule::new(actor, &queue, Vec::new(), None).unwrap();
        for version in 0..plan.steps {
            let request = StepRequest { last: version + 1 == plan.steps, ..request };
            learn(version, &deterministic.take(&queue, &request, version).unwrap());
        }
    }
    taken
}

fn plans() -> impl Strategy<Value = VirtualPlan> {
    let decoding = (1usize..7, 1usize..4, 1usize..5, 2usize..4, 1u64..5);
    let learning = (1usize..4, 0u64..3, 0usize..7, 0u64..1_000_000);
    (decoding, learning).prop_map(|(decoding, learning)| {
        let (slots, segment, segments, group_size, versions_open_max) = decoding;
        let (groups_per_step, staleness_versions_max, room, seed) = learning;
        let rollout = json!({
            "output_tokens_max": segment * segments, "segments_max": segments, "trajectories_open_max": slots,
            "group_size": group_size, "temperature": 1.0, "on_update": "recompute", "in_flight_updates": false,
            "versions_open_max": versions_open_max, "truncated_reward": "scored",
        });
        VirtualPlan {
            rollout: serde_json::from_value(rollout).unwrap(),
            queue: QueueConfig { groups_max: groups_per_step + room, staleness_versions_max },
            groups_per_step,
            schedule: Schedule::Lockstep,
            steps: 10,
            seed,
            prompt_tokens: 2,
            cache_block_tokens: 1,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    // Invariants 1, 5 and 7, in both schedules that have an order to compare.
    #[test]
    fn groups_and_versions_are_those_of_the_real_actor(plan in plans()) {
        for schedule in [Schedule::Lockstep, Schedule::Deterministic] {
            let plan = VirtualPlan { schedule, ..plan.clone() };
            prop_assert_eq!(simulated(&plan), real(&plan), "{:?}", schedule);
        }
    }
}
