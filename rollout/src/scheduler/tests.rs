//! Slots, waiting and room, whatever the lengths.

use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::modes::{Next, Reply};
use crate::testing::prompt;

const EOS: u32 = 0;

fn group(id: u64, members: u32) -> Vec<Trajectory> {
    let prompt = prompt(id);
    (0..members).map(|member| Trajectory::new(prompt.clone(), id, member)).collect()
}

fn begin_all(scheduler: &mut Scheduler, version: u64) -> Vec<usize> {
    let slots = scheduler.fill();
    for slot in &slots {
        scheduler.begin(*slot, version);
    }
    slots
}

fn token(id: u32) -> Token {
    Token { id, logprob: -1.0 }
}

#[test]
fn a_freed_slot_goes_to_the_trajectory_that_waited_longest() {
    let mut scheduler = Scheduler::new(2, OutputLimits { segment_tokens_max: 4, output_tokens_max: 4 });
    assert!(scheduler.wants_group());
    scheduler.admit(group(0, 4));
    assert!(!scheduler.wants_group(), "four wait for two slots");
    assert_eq!(begin_all(&mut scheduler, 0), [0, 1]);
    assert_eq!(scheduler.push(0, token(2), None), TokenOutcome::Inside);
    let TokenOutcome::Finished(first, Finish::Eos) = scheduler.push(1, token(EOS), Some(Finish::Eos)) else {
        panic!("an end of output finishes");
    };
    assert_eq!(first.member, 1);
    assert_eq!(begin_all(&mut scheduler, 0), [1]);
    let open: Vec<u32> = scheduler.open().map(|trajectory| trajectory.member).collect();
    assert_eq!(open, [0, 2]);
    assert_eq!(scheduler.waiting().map(|trajectory| trajectory.member).collect::<Vec<_>>(), [3]);
}

/// Asks an environment after every end; the answers come when the test says.
#[derive(Debug, Default)]
struct Asks(std::sync::Mutex<std::collections::BTreeMap<u64, Reply>>);

impl Asks {
    fn answers(&self, member: u64, reply: Reply) {
        self.0.lock().expect("no panic").insert(member, reply);
    }
}

impl RolloutMode for Asks {
    fn next(&self, so_far: &Trajectory, _: Finish) -> Next {
        Next::Wait(Ticket(u64::from(so_far.member)))
    }

    fn answer(&self, ticket: Ticket) -> Option<Reply> {
        self.0.lock().expect("no panic").remove(&ticket.0)
    }
}

fn asking(slots: usize) -> (Scheduler, Arc<Asks>) {
    let mode = Arc::new(Asks::default());
    let limits = OutputLimits { segment_tokens_max: 4, output_tokens_max: 8 };
    (Scheduler::new(slots, limits).with_mode(mode.clone()), mode)
}

fn members_of<'a>(trajectories: impl Iterator<Item = &'a Trajectory>) -> Vec<u32> {
    trajectories.map(|trajectory| trajectory.member).collect()
}

#[test]
fn a_trajectory_that_asks_waits_without_a_slot_until_it_is_answered() {
    let (mut scheduler, mode) = asking(1);
    scheduler.admit(group(0, 3));
    begin_all(&mut scheduler, 0);
    assert_eq!(scheduler.push(0, token(EOS), Some(Finish::Eos)), TokenOutcome::TurnEnded);
    assert!(scheduler.awaits_answers());
    // The next member takes the slot, and no cache was given up for lack of room.
    assert_eq!(begin_all(&mut scheduler, 0), [0]);
    assert_eq!(members_of(scheduler.open()), [1]);
    assert_eq!(scheduler.take_preempted(), Vec::<usize>::new());
    scheduler.push(0, token(EOS), Some(Finish::Eos));
    mode.answers(0, Reply::Append(vec![5, 6]));
    // The one with an answer goes before the one that has not begun.
    assert_eq!(begin_all(&mut scheduler, 1), [0]);
    assert_eq!(members_of(scheduler.open()), [0]);
    let context = scheduler.on(0).context();
    assert_eq!(context.ids().collect::<Vec<_>>(), [2, 3, EOS, 5, 6]);
    assert_eq!(members_of(scheduler.waiting()), [2, 1]);
}

#[test]
fn slots_that_nobody_is_ready_for_want_a_group() {
    let (mut scheduler, mode) = asking(2);
    scheduler.admit(group(0, 2));
    begin_all(&mut scheduler, 0);
    for slot in 0..2 {
        scheduler.push(slot, token(EOS), Some(Finish::Eos));
    }
    assert_eq!(scheduler.fill(), Vec::<usize>::new());
    assert!(scheduler.wants_group() && scheduler.awaits_answers());
    mode.answers(1, Reply::NewContext(vec![4]));
    assert_eq!(begin_all(&mut scheduler, 0), [0]);
    let context = scheduler.on(0).context();
    assert_eq!((scheduler.on(0).member, context.ids().collect::<Vec<_>>()), (1, vec![4]));
}

/// In a bounded cache as well; and at the output limit there is nothing to ask for.
#[test]
fn a_question_takes_no_room_in_a_bounded_cache() {
    let (scheduler, mode) = asking(2);
    let mut scheduler = scheduler.bounded(Room { blocks: 12, block_tokens: 1 }, 2);
    scheduler.admit(group(0, 2));
    assert_eq!(begin_all(&mut scheduler, 0), [0], "a context of ten tokens and one of six have no room");
    assert_eq!(scheduler.push(0, token(EOS), Some(Finish::Eos)), TokenOutcome::TurnEnded);
    begin_all(&mut scheduler, 0);
    assert_eq!(members_of(scheduler.open()), [1]);
    assert_eq!(members_of(scheduler.waiting()), [0]);
    mode.answers(0, Reply::Append(vec![5]));
    for _ in 0..16 {
        begin_all(&mut scheduler, 0);
        let [slot] = scheduler.decoding()[..] else { panic!("{:?}", scheduler.decoding()) };
        if let TokenOutcome::Finished(trajectory, Finish::Length) = scheduler.push(slot, token(2), None) {
            assert_eq!(trajectory.token_count(), 8);
            return;
        }
    }
    panic!("no output met its limit");
}

// Invariant 9: a trajectory whose turn had ended with a question asks it again after a restart.
#[test]
fn a_question_is_asked_again_after_a_restart() {
    let (mut scheduler, mode) = asking(2);
    let limits = OutputLimits { segment_tokens_max: 4, output_tokens_max: 8 };
    let mut members = group(0, 3);
    for trajectory in &mut members {
        trajectory.start_segment(0, limits);
        trajectory.push(token(EOS), Some(Finish::Eos), limits);
    }
    let mut members = members.into_iter();
    let mut next = || members.next().expect("three members");
    scheduler.restore_at_boundary(1, next(), Some(Finish::Eos));
    scheduler.wait_again(next(), 7, Some(Finish::Eos));
    // This one was at the end of a segment inside its turn.
    scheduler.wait_again(next(), 7, None);
    assert_eq!(begin_all(&mut scheduler, 0), [0]);
    assert_eq!(members_of(scheduler.open()), [2]);
    mode.answers(1, Reply::Append(vec![5]));
    assert_eq!(begin_all(&mut scheduler, 0), [1]);
    assert_eq!(members_of(scheduler.open()), [2, 1]);
}

// Invariant 1: a neighbour inside its segment keeps its version when another slot begins under a newer
// one.
#[test]
fn only_slots_at_a_boundary_take_the_new_version() {
    let mut scheduler = Scheduler::new(2, OutputLimits { segment_tokens_max: 2, output_tokens_max: 4 });
    scheduler.admit(group(0, 1));
    begin_all(&mut scheduler, 0);
    scheduler.push(0, token(2), None);
    scheduler.admit(group(1, 1));
    begin_all(&mut scheduler, 1);
    assert_eq!(scheduler.push(0, token(3), None), TokenOutcome::SegmentEnded);
    assert_eq!(scheduler.push(1, token(3), None), TokenOutcome::Inside);
    assert_eq!(begin_all(&mut scheduler, 2), [0], "slot 1 is inside its segment");
    let versions: Vec<Vec<u64>> = scheduler
        .open()
        .map(|trajectory| trajectory.segments().map(|segment| segment.version).collect())
        .collect();
    assert_eq!(versions, [vec![0, 2], vec![1]]);
}

#[test]
fn pacing_follows_the_version_and_gives_dropped_groups_back() {
    let pacing = Pacing { groups_per_step: 3, staleness_versions_max: 2 };
    assert_eq!(pacing.groups_started_max(0, 0), 9);
    assert_eq!(pacing.groups_started_max(4, 0), 21);
    assert_eq!(pacing.groups_started_max(4, 5), 26);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    // Invariants 1, 2 and 7, whatever the lengths and versions: every token that was drawn is in its
    // trajectory once and in order, segments are full except the last, versions never fall, and no slot
    // is free in a decode step while a trajectory waits.
    #[test]
    fn every_drawn_token_is_kept_in_full_segments(
        slots in 1usize..5,
        segment in 1usize..4,
        segments in 1usize..4,
        draws in proptest::collection::vec((0u32..6, any::<bool>()), 1..200),
    ) {
        let limits = OutputLimits { segment_tokens_max: segment, output_tokens_max: segment * segments };
        let mut scheduler = Scheduler::new(slots, limits);
        let (mut version, mut groups) = (0, 0);
        let mut drawn = std::collections::BTreeMap::<(u64, u32), Vec<u32>>::new();
        let mut on_slot = vec![(0, 0); slots];
        let mut draws = draws.into_iter().peekable();
        while draws.peek().is_some() {
            while scheduler.wants_group() {
                scheduler.admit(group(groups, 3));
                groups += 1;
            }
            for slot in scheduler.fill() {
                let trajectory = scheduler.at_boundary(slot);
                on_slot[slot] = (trajectory.group, trajectory.member);
                scheduler.begin(slot, version);
            }
            let decoding = scheduler.decoding();
            prop_assert_eq!(&decoding, &(0..slots).collect::<Vec<_>>(), "no slot is idle");
            for slot in decoding {
                let Some((id, publish)) = draws.next() else { break };
                version += u64::from(publish);
                let expected = drawn.entry(on_slot[slot]).or_default();
                expected.push(id);
                let outcome = scheduler.push(slot, token(id), (id == EOS).then_some(Finish::Eos));
                if let TokenOutcome::Finished(trajectory, finish) = outcome {
                    let count = trajectory.token_count();
                    let segments: Vec<&Segment> = trajectory.segments().collect();
                    let (last, full) = segments.split_last().expect("it has a segment");
                    prop_assert!(full.iter().all(|s| s.tokens.len() == segment));
                    prop_assert!((1..=segment).contains(&last.tokens.len()));
                    prop_assert!(segments.windows(2).all(|w| w[0].version <= w[1].version));
                    let ids = &trajectory.context_ids()[trajectory.prompt.tokens.len()..];
                    prop_assert_eq!(ids, expected.as_slice());
                    let at_limit = count == limits.output_tokens_max;
                    let eos = ids.last() == Some(&EOS);
                    prop_assert_eq!(finish, if eos { Finish::Eos } else { Finish::Length });
                    prop_assert!(eos || at_limit);
                } else {
                    prop_assert!(id != EOS);
                }
            }
        }
    }
}

const LIMITS: OutputLimits = OutputLimits { segment_tokens_max: 4, output_tokens_max: 12 };

/// Draws a token on every slot that decodes; the members that ended.
fn draw(scheduler: &mut Scheduler, length: impl Fn(u64, u32) -> usize) -> Vec<(u64, u32)> {
    let mut ended = Vec::new();
    scheduler.count_step();
    for slot in scheduler.decoding() {
        let trajectory = scheduler.on(slot);
        let (group, member) = (trajectory.group, trajectory.member);
        let is_last = trajectory.token_count() + 1 == length(group, member);
        let outcome =
            scheduler.push(slot, token(if is_last { EOS } else { 2 }), is_last.then_some(Finish::Eos));
        if let TokenOutcome::Finished(..) = outcome {
            ended.push((group, member));
        }
    }
    ended
}

/// By hand: prompts of 2 tokens, blocks of 2, segments of 4: a context takes 3, 5 and 7 blocks.
#[test]
fn the_youngest_gives_its_cache_up_and_comes_back() {
    let room = Room { blocks: 13, block_tokens: 2 };
    let mut scheduler = Scheduler::new(3, LIMITS).bounded(room, 3);
    scheduler.admit(group(0, 3));
    // Beside the first, which will need 5, and the second, which will need 5, the third would need 3.
    assert_eq!(begin_all(&mut scheduler, 0), [0, 1, 2]);
    let never = |_, _| 99;
    (0..4).for_each(|_| assert!(draw(&mut scheduler, never).is_empty()));
    // Seven for the first, then five for the second leave nothing.
    assert_eq!(begin_all(&mut scheduler, 1), [0, 1]);
    assert_eq!(scheduler.take_preempted(), [2]);
    assert_eq!(scheduler.waiting().map(Trajectory::token_count).collect::<Vec<_>>(), [4]);
    assert_eq!(scheduler.blocks_in_use(), BlockUse { used: 3 + 3, planned: 13 });
    (0..4).for_each(|_| assert!(draw(&mut scheduler, never).is_empty()));
    // Seven and seven are too many, so the second waits; the third has the room that is too little for it.
    assert_eq!((scheduler.fill(), scheduler.take_preempted()), (vec![0, 1], vec![1]));
    assert_eq!((scheduler.begin(0, 2), scheduler.begin(1, 2), scheduler.on(1).member), (0, 4, 2));
    (0..3).for_each(|_| assert!(draw(&mut scheduler, never).is_empty()));
    assert_eq!(draw(&mut scheduler, never), [(0, 0)], "at the limit");
    // The second takes the lowest slot, and beside it the third has no room for its last segment.
    assert_eq!((scheduler.fill(), scheduler.take_preempted()), (vec![0], vec![1]));
    assert_eq!(scheduler.begin(0, 3), 4, "steps that it waited");
    let versions = |trajectory: &Trajectory| -> Vec<u64> {
        trajectory.segments().map(|segment| segment.version).collect()
    };
    assert_eq!(versions(scheduler.on(0)), [0, 1, 3]);
    assert_eq!(scheduler.waiting().map(versions).collect::<Vec<_>>(), [[0, 2]]);
}

#[test]
fn a_group_is_admitted_where_what_it_is_expected_to_need_has_room() {
    let room = Room { blocks: 30, block_tokens: 2 };
    let mut scheduler = Scheduler::new(10, LIMITS).bounded(room, 2);
    assert!(scheduler.wants_group(), "nothing is there");
    scheduler.admit(group(0, 2));
    begin_all(&mut scheduler, 0);
    // Before anything has ended the limit is expected, 7 blocks for each: four fit, six do not.
    assert!(scheduler.wants_group());
    scheduler.admit(group(1, 2));
    assert!(!scheduler.wants_group());
    begin_all(&mut scheduler, 0);
    // One of 4 tokens, so contexts of 6 tokens are expected: 3 blocks for each of three and of two more.
    let ended: Vec<_> =
        (0..4).flat_map(|_| draw(&mut scheduler, |_, member| 4 + 95 * member as usize)).collect();
    assert_eq!(ended, [(0, 0), (1, 0)]);
    assert_eq!(scheduler.finished(), FinishedContexts { count: 2, tokens: 12 });
    begin_all(&mut scheduler, 0);
    // The two that go on will have 5 each at the end of their segments: 10 + 2 * 3, then 16 + 2 * 3, then 22.
    for id in 2..5 {
        assert!(scheduler.wants_group(), "group {id}");
        scheduler.admit(group(id, 2));
    }
    // 28 and 6 are too many, although two slots are free.
    assert!(!scheduler.wants_group());
}

#[test]
fn the_last_members_go_before_whole_groups_but_not_before_the_oldest() {
    let mut scheduler = Scheduler::new(1, LIMITS).with_priority(Priority::LastMembers);
    scheduler.admit(group(3, 3).into_iter().chain(group(4, 2)).chain(group(5, 1)));
    let mut order = Vec::new();
    for _ in 0..6 {
        begin_all(&mut scheduler, 0);
        order.extend(draw(&mut scheduler, |_, _| 1));
    }
    assert_eq!(order, [(3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (5, 0)], "the oldest, then the next oldest");
    scheduler.admit(group(6, 2).into_iter().chain(group(7, 3)).chain(group(8, 1)));
    let due = scheduler.members_left();
    let mut waiting: Vec<&Trajectory> = scheduler.waiting().collect();
    waiting.sort_by_key(|trajectory| rank(trajectory, due.as_ref()));
    let order: Vec<u64> = waiting.iter().map(|trajectory| trajectory.group).collect();
    assert_eq!(order, [6, 6, 8, 7, 7, 7]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    // Whatever the lengths, slots and bounds: reservations never exceed the bound, nothing comes to a stand,
    // every trajectory gets exactly its tokens, and no group is the oldest for longer than its members take one
    // after the other, however many come after it.
    #[test]
    fn a_bound_is_kept_and_everybody_comes_through(
        slots in 1usize..7,
        segment in 1usize..4,
        segments in 1usize..5,
        members in 1u32..4,
        block_tokens in 1usize..4,
        spare in 0usize..10,
        last_members in any::<bool>(),
        lengths: u64,
    ) {
        let limits = OutputLimits { segment_tokens_max: segment, output_tokens_max: segment * segments };
        let longest = 2 + limits.output_tokens_max;
        let room = Room { blocks: longest.div_ceil(block_tokens) + spare, block_tokens };
        let priority = if last_members { Priority::LastMembers } else { Priority::Oldest };
        let mut scheduler = Scheduler::new(slots, limits).bounded(room, members as usize).with_priority(priority);
        let length = |group, member| {
            1 + (trajectory::random::trajectory_key(lengths, group, member) % 13) as usize
        };
        let (mut groups, mut ended) = (0, std::collections::BTreeMap::<u64, u32>::new());
        let (mut oldest, mut since) = (0, 0_usize);
        for step in 0..400 {
            while scheduler.wants_group() {
                scheduler.admit(group(groups, members));
                groups += 1;
            }
            for slot in scheduler.fill() {
                scheduler.begin(slot, 0);
            }
            let reserved: usize =
                scheduler.open().map(|open| room.taken_by(scheduler.context_at_end(open, 1))).sum();
            prop_assert!(reserved <= room.blocks, "{} of {}", reserved, room.blocks);
            prop_assert!(!scheduler.decoding().is_empty(), "step {step} draws nothing");
            let known: Vec<usize> = scheduler.waiting().map(Trajectory::token_count).collect();
            prop_assert!(known.iter().all(|tokens| tokens.is_multiple_of(segment)), "{known:?}");
            for slot in scheduler.decoding() {
                let (group, member) = (scheduler.on(slot).group, scheduler.on(slot).member);
                let is_last = scheduler.on(slot).token_count() + 1 == length(group, member);
                if let TokenOutcome::Finished(trajectory, _) = scheduler.push(slot, token(2), is_last.then_some(Finish::Eos)) {
                    let expected = length(group, member).min(limits.output_tokens_max);
                    prop_assert_eq!(trajectory.token_count(), expected);
                    *ended.entry(group).or_default() += 1;
                }
            }
            while ended.get(&oldest) == Some(&members) {
                (oldest, since) = (oldest + 1, step);
            }
            let most = members as usize * (limits.output_tokens_max + segment) + 1;
            prop_assert!(step - since <= most, "group {} waits since {}", oldest, since);
        }
    }
}
