//! Recordings are read as they were written, and what is wrong with one is named.

use super::*;
use crate::testing::{group, segment};

fn read(lines: &str) -> Result<Vec<Group>, FileError> {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("rollouts.jsonl");
    std::fs::write(&path, lines).expect("the directory is ours");
    read_groups(&path)
}

// Invariant 2: ids and log-probs come back bit for bit.
#[test]
fn groups_survive_being_recorded() {
    let mut groups = [group(0, &[(3, 2), (4, 1)]), group(1, &[(0, 5)])];
    let member = &mut groups[0].completions[1].completion;
    let mut second = Context::given(Source::Mode, vec![5, 6]);
    let drawn_at = DrawnAt { actor: 1, slot: 2, first_step: 30, last_step: 31 };
    second.spans.push(Span::Drawn(Segment { drawn_at: Some(drawn_at), ..segment(4, 2) }));
    second.spans.push(Span::Given { by: Source::Environment, ids: vec![9] });
    second.spans.push(Span::Drawn(segment(6, 1)));
    member.contexts.push(second);
    let mut written = Vec::new();
    for group in &groups {
        write_group(&mut written, group).expect("memory has room");
    }
    let written = String::from_utf8(written).expect("JSON is UTF-8");
    let read = read(&written).expect("our own lines");
    for (before, after) in groups.iter().zip(&read) {
        assert_eq!((before.id, before.oldest_version()), (after.id, after.oldest_version()));
        for (before, after) in before.completions.iter().zip(&after.completions) {
            assert_eq!(before.reward, after.reward);
            assert_eq!(before.completion.contexts, after.completion.contexts);
            assert_eq!(before.completion.text, after.completion.text);
            assert_eq!(CompletionRecord::of(before), CompletionRecord::of(after));
        }
    }
}

#[test]
fn a_record_has_the_documented_fields() {
    let scored = &group(7, &[(3, 2)]).completions[0];
    let record = serde_json::to_value(CompletionRecord::of(scored)).expect("plain numbers");
    let expected = serde_json::json!({
        "group": "7", "prompt_id": "test:7", "prompt_tokens": [2, 3], "completion_tokens": [2, 3],
        "actor_logprobs": [-0.5, -0.75], "segments": [{"version": 3, "tokens": 2}],
        "reward": 1.0, "correctness": 1, "parts": {"letters": 1.0}, "finish": "stop", "prompt": "ab", "completion": "ab",
    });
    assert_eq!(record, expected);
}

proptest::proptest! {
    // Invariant 2: every finite number has as many digits as it takes to read the same one back.
    #[test]
    fn numbers_of_a_step_survive_being_recorded(bits: [u64; 2], logprobs: Vec<u32>, masked: Vec<usize>) {
        let finite = |logprob: f32| if logprob.is_finite() { logprob } else { -0.1 };
        let [reward, advantage] = bits.map(f64::from_bits).map(|value| if value.is_finite() { value } else { 0.1 });
        let record = CompletionRecord {
            used: Some(CompletionUse::Trained),
            reward,
            advantage: Some(advantage),
            learner_logprobs: logprobs.into_iter().map(|bits| finite(f32::from_bits(bits))).collect(),
            masked,
            ..CompletionRecord::of(&group(7, &[(3, 2)]).completions[0])
        };
        let written = serde_json::to_string(&record).expect("finite numbers");
        let read: CompletionRecord = serde_json::from_str(&written).expect("our own line");
        proptest::prop_assert_eq!(read, record);
    }
}

#[test]
fn what_ended_a_completion_survives_being_recorded() {
    let mut whole = group(0, &[(3, 2), (3, 2), (3, 2), (3, 2)]);
    let reasons = [
        (Finish::Eos, None),
        (Finish::Length, None),
        (Finish::StopString, Some(StopReason::String("\n".to_string()))),
        (Finish::StopToken, Some(StopReason::TokenId(198))),
    ];
    for (scored, (finish, stop_reason)) in whole.completions.iter_mut().zip(reasons.clone()) {
        (scored.completion.finish, scored.completion.stop_reason) = (finish, stop_reason);
    }
    let mut written = Vec::new();
    write_group(&mut written, &whole).expect("memory has room");
    let written = String::from_utf8(written).expect("JSON is UTF-8");
    let field = |line: usize, name: &str| {
        let line = written.lines().nth(line).expect("four lines");
        serde_json::from_str::<Value>(line).expect("JSON")[name].clone()
    };
    assert_eq!([0, 1, 2, 3].map(|line| field(line, "finish")), ["stop", "length", "stop", "stop"]);
    assert_eq!(
        [0, 1, 2, 3].map(|line| field(line, "stop_reason")),
        [Value::Null, Value::Null, "\n".into(), 198.into()]
    );
    let read = read(&written).expect("our own lines");
    let ends = |scored: &ScoredCompletion| (scored.completion.finish, scored.completion.stop_reason.clone());
    assert_eq!(read[0].completions.iter().map(ends).collect::<Vec<_>>(), reasons);
}

fn line(group: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut record = serde_json::json!({
        "group": group, "prompt_tokens": [2], "completion_tokens": [3, 4],
        "actor_logprobs": [-0.1, -0.2], "reward": 0,
    });
    change(&mut record);
    format!("{record}\n")
}

#[test]
fn groups_come_in_file_order_and_their_lines_may_be_mixed() {
    let lines = [line("z", |_| ()), line("a", |r| r["correctness"] = 1.0.into()), line("z", |_| ())].concat();
    let groups = read(&lines).expect("good lines");
    let names: Vec<(u64, &str, usize)> =
        groups.iter().map(|g| (g.id, g.prompt.id.as_str(), g.completions.len())).collect();
    assert_eq!(names, [(0, "z", 2), (1, "a", 1)]);
    assert_eq!(groups[0].completions[1].completion.member, 1);
    assert_eq!(groups[0].completions[0].reward.correctness, None);
    assert_eq!(groups[1].completions[0].reward.correctness, Some(1));
    assert_eq!(groups[0].completions[0].completion.oldest_version(), 0);
}

#[test]
fn unusable_lines_are_refused_with_file_and_line() {
    let refusal = |change: fn(&mut Value)| {
        let lines = format!("{}\n{}", line("a", |_| ()), line("a", change));
        read(&lines).expect_err("the third line is bad").to_string()
    };
    type Case = (fn(&mut Value), &'static str);
    let cases: [Case; 12] = [
        (|r| r["learner_logprobs"] = serde_json::json!([-0.1]), "1 learner_logprobs for 2 completion_tokens"),
        (|r| r["masked"] = serde_json::json!([1, 2]), "masked names token 2 of 2 completion_tokens"),
        (|r| r["actor_logprobs"] = [-0.1].into(), "1 actor_logprobs for 2 completion_tokens"),
        (|r| r["completion_tokens"] = Value::Array(vec![]), "must not be empty"),
        (|r| r["correctness"] = 2.into(), "correctness is 2, neither 0 nor 1"),
        (|r| r["prompt_tokens"] = [9].into(), "prompt_tokens differ from those of group \"a\""),
        (|r| r["segments"] = serde_json::json!([{"version": 0, "tokens": 1}]), "segments of 1 tokens for 2"),
        (|r| r["finish"] = "end".into(), "unknown variant `end`"),
        (|r| r["reward"] = Value::Null, "not a completion: "),
        (
            |r| r["segments"] = serde_json::json!([{"version": 1, "tokens": 1}, {"version": 0, "tokens": 1}]),
            "versions of the segments fall",
        ),
        (
            |r| r["given"] = serde_json::json!([{"after_segments": 2, "begins_context": true, "by": "mode", "tokens": [1]}]),
            "come after one of the 1 segments",
        ),
        (|r| r["given"] = serde_json::json!([{"after_segments": 1}]), "missing field `begins_context`"),
    ];
    for (change, reason) in cases {
        let error = refusal(change);
        assert!(error.contains("rollouts.jsonl:3: ") && error.contains(reason), "{error}");
    }
    assert!(read("{\n").expect_err("not JSON").to_string().contains("rollouts.jsonl:1: not a completion"));
    assert!(read("\n").expect_err("nothing").to_string().ends_with("rollouts.jsonl: holds no completions"));
}
