//! Actors that follow a script.

use std::collections::BTreeMap;

use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};

use super::*;
use trajectory::random::trajectory_key;
use trajectory::{Finish, Token};

use crate::config::{OnUpdate, QueueConfig};
use crate::ledger::state::RolloutState;
use crate::scheduler::Pacing;
use crate::testing::{Script, Start, context, context_at, rollout_config};

const GROUP_SIZE: usize = 3;

fn actor(script: &Script, slots: usize, segment: usize, segments: usize) -> Actor<Script> {
    let config = rollout_config(slots, segment, segments, GROUP_SIZE);
    Actor::new(context(config, 11, 2, 1), 0, script.clone())
}

#[test]
fn passes_over_the_weights_and_contexts_are_counted() {
    let script = Script::new(2, |_, member| if member == 0 { 4 } else { 1 });
    let mut actor = actor(&script, 2, 4, 1);
    actor.advance().expect("the script does not fail");
    actor.context.weights.publish(1, Arc::new(1));
    actor.advance().expect("the script does not fail");
    // Member 2 began under version 1 beside member 0 under version 0; two members drew a token after the two of
    // their prompts.
    let report = actor.report();
    assert_eq!((report.decode_steps, report.weight_passes, report.context_token_steps), (2, 3, 4));
    actor.advance().expect("the script does not fail");
    actor.advance().expect("the script does not fail");
    // Member 0 has ended, with contexts of 2, 3, 4 and 5 tokens; a member of the next group goes on beside it.
    let report = actor.report();
    assert_eq!((report.decode_steps, report.weight_passes, report.context_token_steps), (4, 7, 18));
}

#[test]
fn one_advance_is_one_token_for_every_slot() {
    // Member m of a group ends with its token m + 1.
    let script = Script::new(2, |_, member| member as usize + 1);
    let mut actor = actor(&script, 2, 2, 2);
    let first = actor.advance().expect("the script does not fail");
    assert!(first.decoded && first.groups.is_empty());
    let report = actor.report();
    assert_eq!((report.tokens, report.segments, report.completions), (2, 1, 1), "member 0 stopped at once");
    // Slot 0 was freed in the first advance and draws for member 2 in the second.
    actor.advance().expect("the script does not fail");
    assert_eq!(script.drawn_in_step(1), [(0, 0, 2), (1, 0, 1)]);
    // Members 1 and 2 have met the segment limit or stopped; member 2 goes on, then the group is whole.
    let groups = std::iter::repeat_with(|| actor.advance().expect("no failure").groups)
        .find(|groups| !groups.is_empty())
        .expect("member 2 stops with its third token");
    assert_eq!((groups[0].id, groups[0].members.len()), (0, 3));
    let ends: Vec<(usize, Finish)> =
        groups[0].members.iter().map(|ended| (ended.trajectory.token_count(), ended.finish)).collect();
    assert_eq!(ends, [(1, Finish::Eos), (2, Finish::Eos), (3, Finish::Eos)]);
    assert_eq!(actor.report().slot_use(), 1.0);
}

// Invariant 1: new weights reach a trajectory at its next segment and never inside one.
#[test]
fn an_update_reaches_open_trajectories_at_their_next_segment() {
    let script = Script::new(1, |_, _| 99);
    let mut actor = actor(&script, 1, 2, 3);
    let weights = actor.context().weights.clone();
    actor.advance().expect("token 1 of 6");
    weights.publish(1, Arc::new(1));
    actor.advance().expect("token 2");
    weights.publish(2, Arc::new(2));
    weights.publish(3, Arc::new(3));
    for _ in 3..=6 {
        actor.advance().expect("tokens 3 to 6");
    }
    let report = actor.report();
    assert_eq!(report.completions_by_segments, BTreeMap::from([(3, 1)]));
    assert_eq!(report.completions_by_versions, BTreeMap::from([(2, 1)]));
    assert_eq!((report.completions_truncated, report.segments), (1, 3));
    // Two tokens of prompt and two drawn under version 0 were computed again under version 3.
    assert_eq!(report.context_tokens_recomputed, 4);
    assert_eq!(script.versions_drawn(0, 0), [0, 0, 3, 3, 3, 3]);
}

// Invariant 1: newer weights end the open segment, whose tokens keep their version, and another one goes on.
#[test]
fn updates_in_flight_reach_open_trajectories_at_their_next_token() {
    let script = Script::new(1, |_, _| 99);
    let config = RolloutConfig { in_flight_updates: true, ..rollout_config(1, 4, 2, GROUP_SIZE) };
    let mut actor = Actor::new(context(config, 11, 2, 9), 0, script.clone());
    let weights = actor.context().weights.clone();
    for published in [&[1][..], &[2, 3], &[], &[], &[], &[], &[], &[]] {
        actor.advance().expect("the script does not fail");
        published.iter().for_each(|version| weights.publish(*version, Arc::new(*version)));
    }
    assert_eq!(script.versions_drawn(0, 0), [0, 1, 3, 3, 3, 3, 3, 3]);
    let report = actor.report();
    assert_eq!((report.decode_steps, report.weight_passes), (8, 8));
    assert_eq!(report.segments_by_tokens, BTreeMap::from([(1, 2), (2, 1), (4, 1)]));
    assert_eq!(report.completions_by_segments, BTreeMap::from([(4, 1)]));
    // Contexts of 2 + 1 and 2 + 2 tokens met newer weights; the boundary after four tokens met none.
    assert_eq!((report.context_tokens_recomputed, report.context_tokens_kept), (7, 0));
    assert_eq!(script.rebuilt(), [true, true, false]);
    // Contexts of 2 to 9 tokens were looked at, each once.
    assert_eq!(report.context_token_steps, (2..=9).sum::<u64>());
}

/// Weights come after every second token of a segment of eight: with two versions open its third update ends it.
#[test]
fn segments_that_fall_too_far_behind_are_ended_and_counted() {
    for (versions_open_max, versions, cut) in
        [(1, [0, 0, 1, 1, 2, 2, 3, 3], 3), (2, [0, 0, 0, 0, 2, 2, 2, 2], 1), (4, [0; 8], 0)]
    {
        let script = Script::new(1, |_, _| 99);
        let config = RolloutConfig { versions_open_max, ..rollout_config(1, 8, 1, GROUP_SIZE) };
        let mut actor = Actor::new(context(config, 11, 2, 9), 0, script.clone());
        let weights = actor.context().weights.clone();
        for token in 1..=8 {
            actor.advance().expect("the script does not fail");
            if token % 2 == 0 {
                weights.publish(token / 2, Arc::new(token / 2));
            }
        }
        assert_eq!(script.versions_drawn(0, 0), versions, "{versions_open_max}");
        assert_eq!(actor.report().segments_cut, cut, "{versions_open_max}");
    }
}

/// Prompt of 2 tokens, 5 segments of 4, and newer weights before each: contexts of 6, 10, 14 and 18 tokens
/// meet them. At half the cost of a drawn token the first alone is no dearer than the segment.
#[test]
fn caches_are_rebuilt_or_kept_as_the_config_says_and_both_are_counted() {
    for (on_update, recomputed, kept, rebuilt) in [
        (OnUpdate::Recompute, 48, 0, [true, true, true, true]),
        (OnUpdate::Keep, 0, 48, [false, false, false, false]),
        (OnUpdate::Auto, 6, 42, [true, false, false, false]),
    ] {
        let script = Script::new(1, |_, _| 99);
        let config = RolloutConfig { on_update, ..rollout_config(1, 4, 5, GROUP_SIZE) };
        let mut actor = Actor::new(context(config, 11, 2, 9), 0, script.clone());
        let weights = actor.context().weights.clone();
        for token in 1..=20 {
            actor.advance().expect("the script does not fail");
            if token % 4 == 0 {
                weights.publish(token / 4, Arc::new(token / 4));
            }
        }
        let report = actor.report();
        let found = (report.context_tokens_recomputed, report.context_tokens_kept);
        assert_eq!(found, (recomputed, kept), "{on_update:?}");
        assert_eq!(script.rebuilt(), rebuilt, "{on_update:?}");
    }
}

// Under the same weights a cache is as good as new, whatever the config says.
#[test]
fn without_newer_weights_no_cache_is_rebuilt_and_nothing_counted() {
    let script = Script::new(1, |_, _| 99);
    let mut actor = actor(&script, 1, 2, 3);
    for _ in 0..6 {
        actor.advance().expect("the script does not fail");
    }
    let report = actor.report();
    assert_eq!((report.context_tokens_recomputed, report.context_tokens_kept), (0, 0));
    assert_eq!(script.rebuilt(), [false, false]);
}

#[test]
fn pacing_ends_the_work_until_weights_come() {
    let script = Script::new(6, |_, _| 1);
    let mut actor = actor(&script, 6, 1, 1);
    // 2 groups a step, staleness 1: 4 groups may start at version 0.
    let mut groups = Vec::new();
    loop {
        let advance = actor.advance().expect("no failure");
        groups.extend(advance.groups.iter().map(|group| group.id));
        if !advance.decoded {
            break;
        }
    }
    assert_eq!(groups, [0, 1, 2, 3]);
    actor.context().weights.publish(1, Arc::new(1));
    assert_eq!(actor.advance().expect("no failure").groups.len(), 2);
    assert!(!actor.advance().expect("no failure").decoded);
}

#[test]
fn reports_add_up_and_differ() {
    let script = Script::new(2, |_, _| 2);
    let mut actor = actor(&script, 2, 2, 1);
    actor.advance().expect("no failure");
    let earlier = actor.report();
    actor.advance().expect("no failure");
    let part = actor.report().since(&earlier);
    assert_eq!((earlier.tokens, part.tokens, part.completions), (2, 2, 2));
    assert_eq!(part.completions_by_segments, BTreeMap::from([(1, 2)]));
    assert_eq!(earlier.plus(&part).tokens, actor.report().tokens);
    // In the second step two contexts of 3 of at most 4 tokens; two segments of 2 tokens ended.
    assert_eq!((part.kv_use(), part.tokens_per_segment()), (0.75, Some((2.0, 2, 2))));
    // The third member waited for both steps, and of the next group one began at once.
    actor.advance().expect("no failure");
    assert_eq!((actor.report().segments_begun, actor.report().wait_steps()), (4, 0.5));
}

#[test]
fn a_prompt_whose_output_can_have_no_room_is_named() {
    let script = Script::new(2, |_, _| 9);
    let mut config = rollout_config(2, 2, 2, GROUP_SIZE);
    let mut advance = |tokens| {
        config.kv_cache_tokens_max = Some(tokens);
        let mut actor = Actor::new(context(config.clone(), 11, 2, 1), 0, script.clone());
        actor.advance().map(|advance| advance.decoded).map_err(|error| error.to_string())
    };
    // A prompt of 2 and an output of 4 tokens.
    assert_eq!(advance(6), Ok(true));
    let message = advance(5).expect_err("six tokens do not fit");
    assert!(message.contains("its 2 tokens and an output of 4 have no room"), "{message}");
    assert!(message.contains("rollout.kv_cache_tokens_max, which is 5 blocks of 1 tokens"), "{message}");
}

// Invariant 8: a log-prob that is not finite stops the run and names the prompt.
#[test]
fn an_impossible_logprob_stops_the_run() {
    let mut script = Script::new(2, |_, _| 1);
    script.logprob = Some(f32::NAN);
    let error = actor(&script, 2, 2, 1).advance().expect_err("NaN").to_string();
    assert!(error.contains("(group 0): the log-prob of a drawn token is NaN"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    // Invariants 1, 2, 5 and 7, whatever the lengths and whenever weights are published: completions hold
    // exactly what the generator drew, groups are whole, and no slot is idle while work is admitted.
    #[test]
    fn groups_hold_exactly_what_was_drawn(
        slots in 1usize..7,
        segment in 1usize..4,
        segments in 1usize..4,
        lengths: u64,
        publish_every in 1usize..9,
    ) {
        let script = Script::new(slots, move |group, member| {
            1 + (trajectory_key(lengths, group, member) % 14) as usize
        });
        let queue = QueueConfig { groups_max: 1000, staleness_versions_max: 1 };
        let start = Start { version: 0, queue, state: &RolloutState::default() };
        let pacing = Pacing { groups_per_step: 2, staleness_versions_max: 1 };
        let config = rollout_config(slots, segment, segments, GROUP_SIZE);
        let (context, ledger) = context_at(config, 11, pacing, start);
        let mut actor = Actor::new(context, 0, script.clone());
        let weights = actor.context().weights.clone();
        let (mut groups, mut version) = (Vec::new(), 0);
        for step in 1..200 {
            let before = actor.report();
            groups.extend(actor.advance().expect("no failure").groups);
            let waiting = actor.decoding.scheduler.waiting().count();
            prop_assert!(waiting < GROUP_SIZE, "no group is admitted before a slot needs it");
            if actor.report().since(&before).slot_steps_busy < slots as u64 {
                let started = ledger.admission().report().groups_started;
                prop_assert_eq!(started, 2 * (version + 2), "idle only where the pacing says so");
            }
            if step % publish_every == 0 {
                version += 1;
                weights.publish(version, Arc::new(version));
            }
        }
        prop_assert!(!groups.is_empty());
        for group in &groups {
            prop_assert_eq!(group.members.len(), GROUP_SIZE);
            for EndedTrajectory { trajectory: ended, .. } in &group.members {
                let drawn = script.drawn_for(ended.group, ended.member);
                let kept = ended.segments().flat_map(|segment| segment.tokens.iter().copied());
                prop_assert_eq!(kept.collect::<Vec<_>>(), drawn);
                let versions = script.versions_drawn(ended.group, ended.member);
                let kept = ended.segments().flat_map(|s| s.tokens.iter().map(|_| s.version));
                prop_assert_eq!(kept.collect::<Vec<_>>(), versions);
            }
        }
    }
}

// A stop string is found wherever the borders of segments lie, and on any number of slots: an output is what it
// would be without stops, up to the token that completes one.
#[test]
fn stop_strings_cut_outputs_alike_over_borders_of_segments() {
    let run = |slots: usize, segment: usize, stop: &[&str]| {
        let script = Script::new(slots, |_, _| 99);
        let mut config = rollout_config(slots, segment, 12 / segment, GROUP_SIZE);
        config.stop = stop.iter().map(|string| (*string).to_string()).collect();
        let mut actor = Actor::new(context(config, 11, 20, 1), 0, script);
        let mut groups: Vec<FinishedGroup> = Vec::new();
        while groups.len() < 20 {
            groups.extend(actor.advance().expect("no failure").groups);
        }
        groups.sort_by_key(|group| group.id);
        let members = groups.into_iter().take(20).flat_map(|group| group.members);
        members.map(|ended| (ended.trajectory.context_ids(), ended.finish)).collect::<Vec<_>>()
    };
    let whole = run(2, 12, &[]);
    // The letters `cab` and `dd`, in ids.
    let stops: [&[u32]; 2] = [&[4, 2, 3], &[5, 5]];
    let expected: Vec<(Vec<u32>, Finish)> = whole
        .iter()
        .map(|(ids, finish)| {
            // Two tokens are the prompt's, where a stop may begin.
            let end = (3..=ids.len()).find(|end| stops.iter().any(|stop| ids[..*end].ends_with(stop)));
            end.map_or((ids.clone(), *finish), |end| (ids[..end].to_vec(), Finish::StopString))
        })
        .collect();
    let lengths: BTreeSet<usize> = expected.iter().map(|(ids, _)| ids.len()).collect();
    assert!(lengths.len() > 6, "stops at many places, two segments in among them: {lengths:?}");
    for (slots, segment) in [(1, 12), (2, 1), (3, 2), (5, 3), (4, 4)] {
        assert_eq!(run(slots, segment, &["cab", "dd"]), expected, "{slots} slots, segments of {segment}");
    }
}

// Invariant 7: what a trajectory becomes does not depend on the number of slots.
#[test]
fn the_number_of_slots_does_not_change_the_completions() {
    let run = |slots: usize| {
        let script = Script::new(slots, |group, member| (group as usize + member as usize * 3) % 7 + 1);
        let mut actor = actor(&script, slots, 2, 4);
        let mut groups: Vec<FinishedGroup> = Vec::new();
        while groups.len() < 4 {
            groups.extend(actor.advance().expect("no failure").groups);
        }
        groups.sort_by_key(|group| group.id);
        // Where and when it was drawn differs.
        type Drawn = Vec<(u64, Vec<Token>)>;
        let tokens: fn(&Trajectory) -> Drawn =
            |ended| ended.segments().map(|segment| (segment.version, segment.tokens.clone())).collect();
        let drawn = |group: FinishedGroup| {
            group.members.into_iter().map(move |ended| (tokens(&ended.trajectory), ended.finish))
        };
        groups.into_iter().map(|group| (group.id, drawn(group).collect())).collect::<Vec<(u64, Vec<_>)>>()
    };
    assert_eq!(run(1), run(5));
    assert_eq!(run(2), run(12));
}
