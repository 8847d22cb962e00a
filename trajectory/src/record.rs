//! The form in which groups are recorded, one completion a line of JSON, which is also what a replay reads.

mod answer;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::completion::Completion;
use crate::context::Context;
use crate::error::RecordError;
use crate::finish::{Finish, StopReason};
use crate::group::{Group, ScoredCompletion};
use crate::prompt::Prompt;
use crate::reward::Reward;
use crate::span::{DrawnAt, Segment, Source, Span};
use crate::token::Token;

/// One line of a recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompletionRecord {
    /// The group's name; lines of one name form a group.
    pub group: String,
    /// Where the prompt is from; absent where a recording does not say, and the group's name then stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_id: Option<String>,
    /// The ids of the prompt, the same for all lines of a group.
    pub prompt_tokens: Vec<u32>,
    /// The ids that were drawn.
    pub completion_tokens: Vec<u32>,
    /// Natural log-probs at the sampling temperature, one for each drawn id.
    pub actor_logprobs: Vec<f32>,
    /// How the drawn ids are divided into segments; none means one segment of version 0.
    #[serde(default)]
    pub segments: Vec<SegmentRecord>,
    /// What was given behind the prompt, between segments; absent where nothing was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given: Vec<GivenRecord>,
    /// The total reward that the verifiers gave.
    pub reward: f64,
    /// 1 right, 0 wrong, null where nothing says what is right.
    #[serde(default, deserialize_with = "zero_or_one")]
    pub correctness: Option<u8>,
    /// The unweighted value of each reward.
    #[serde(default)]
    pub parts: BTreeMap<String, f64>,
    /// Why the completion ended.
    #[serde(default)]
    pub finish: FinishReason,
    /// The stop string or the stop token id that ended the completion; absent for an end of output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// The prompt's text.
    #[serde(default)]
    pub prompt: String,
    /// The completion's text.
    #[serde(default)]
    pub completion: String,
    /// The reference answers: one as a text, several as a list; absent where the prompt has none.
    #[serde(default, with = "answer", skip_serializing_if = "Vec::is_empty")]
    pub answer: Vec<String>,
    /// The other fields of the prompt's row; absent where it has none.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
    /// What the step did with it; absent where no step has had it.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub used: Option<CompletionUse>,
    /// What the step compared it with its group by; absent where no step has had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advantage: Option<f64>,
    /// Natural log-probs under the weights before the step, one for each drawn id; absent where they were not computed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learner_logprobs: Vec<f32>,
    /// The places among the drawn ids that the step masked; absent where it masked none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masked: Vec<usize>,
}

/// What an optimizer step does with a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompletionUse {
    /// It is learned from.
    Trained,
    /// It has no advantage and adds nothing to the gradient; it counts in the loss's denominator.
    ZeroAdvantage,
    /// Dynamic sampling leaves its group out.
    Dropped,
}

/// Why a recorded completion ended, by the names that inference servers have for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// By its last token. Which stop that was is in `stop_reason`.
    #[default]
    Stop,
    /// By the output limit.
    Length,
}

/// The tokens of a completion that one policy version drew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRecord {
    /// The policy version.
    pub version: u64,
    /// The number of tokens.
    pub tokens: usize,
    /// Where and when they were drawn: `actor`, `slot`, `first_step` and `last_step`.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub drawn_at: Option<DrawnAt>,
}

/// Tokens that nobody drew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenRecord {
    /// The segments before it.
    pub after_segments: usize,
    /// Whether a new context begins with it.
    pub begins_context: bool,
    /// Who gave it.
    pub by: Source,
    /// The ids.
    pub tokens: Vec<u32>,
}

/// Programs write a correctness as 1, 1.0 or true.
fn zero_or_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::Bool(right) => Ok(Some(u8::from(right))),
        value if value.as_f64() == Some(0.0) => Ok(Some(0)),
        value if value.as_f64() == Some(1.0) => Ok(Some(1)),
        value => Err(serde::de::Error::custom(format!("correctness is {value}, neither 0 nor 1"))),
    }
}

impl CompletionRecord {
    /// The record of a scored completion.
    pub fn of(scored: &ScoredCompletion) -> Self {
        let ScoredCompletion { completion, reward } = scored;
        let segments = completion.segments();
        Self {
            group: completion.group.to_string(),
            prompt_id: Some(completion.prompt.id.clone()),
            prompt_tokens: completion.prompt.tokens.clone(),
            completion_tokens: completion.token_ids(),
            actor_logprobs: completion.tokens().map(|token| token.logprob).collect(),
            segments: segments
                .map(|s| SegmentRecord { version: s.version, tokens: s.tokens.len(), drawn_at: s.drawn_at })
                .collect(),
            given: given_after_prompt(&completion.contexts),
            reward: reward.total,
            correctness: reward.correctness,
            parts: reward.parts.clone(),
            finish: match completion.finish {
                Finish::Length => FinishReason::Length,
                Finish::Eos | Finish::StopString | Finish::StopToken => FinishReason::Stop,
            },
            stop_reason: completion.stop_reason.clone(),
            prompt: completion.prompt.text.clone(),
            completion: completion.text.clone(),
            answer: completion.prompt.references.clone(),
            fields: completion.prompt.fields.clone(),
            used: None,
            advantage: None,
            learner_logprobs: Vec::new(),
            masked: Vec::new(),
        }
    }

    /// What makes the record unusable for learning, if anything.
    fn check(&self) -> Result<(), String> {
        let tokens = self.completion_tokens.len();
        if self.prompt_tokens.is_empty() || tokens == 0 {
            return Err("prompt_tokens and completion_tokens must not be empty".to_string());
        }
        if self.actor_logprobs.len() != tokens {
            let logprobs = self.actor_logprobs.len();
            return Err(format!("{logprobs} actor_logprobs for {tokens} completion_tokens"));
        }
        if let Some(bad) = self.actor_logprobs.iter().find(|logprob| !logprob.is_finite()) {
            return Err(format!("actor_logprobs holds {bad}"));
        }
        if !self.segments.is_empty() {
            let in_segments: usize = self.segments.iter().map(|segment| segment.tokens).sum();
            if in_segments != tokens || self.segments.iter().any(|segment| segment.tokens == 0) {
                return Err(format!("segments of {in_segments} tokens for {tokens} completion_tokens"));
            }
            if self.segments.windows(2).any(|pair| pair[0].version > pair[1].version) {
                return Err("the versions of the segments fall".to_string());
            }
        }
        let count = self.segments.len().max(1);
        if self
            .given
            .iter()
            .any(|given| given.tokens.is_empty() || !(1..=count).contains(&given.after_segments))
        {
            return Err(format!("given tokens must not be empty and come after one of the {count} segments"));
        }
        if self.given.windows(2).any(|pair| pair[0].after_segments > pair[1].after_segments) {
            return Err("given tokens are not in the order in which they were seen".to_string());
        }
        Ok(())
    }

    fn finish(&self) -> Finish {
        match (self.finish, &self.stop_reason) {
            (FinishReason::Length, _) => Finish::Length,
            (FinishReason::Stop, None) => Finish::Eos,
            (FinishReason::Stop, Some(StopReason::String(_))) => Finish::StopString,
            (FinishReason::Stop, Some(StopReason::TokenId(_))) => Finish::StopToken,
        }
    }

    fn token_segments(&self) -> Vec<Segment> {
        let ids = self.completion_tokens.iter();
        let mut tokens = ids.zip(&self.actor_logprobs).map(|(&id, &logprob)| Token { id, logprob });
        if self.segments.is_empty() {
            return vec![Segment { version: 0, tokens: tokens.collect(), drawn_at: None }];
        }
        let segments = self.segments.iter();
        segments
            .map(|s| {
                let tokens = tokens.by_ref().take(s.tokens).collect();
                Segment { version: s.version, tokens, drawn_at: s.drawn_at }
            })
            .collect()
    }

    /// The prompt, and behind it what was drawn and given, in the contexts in which the policy saw it.
    fn contexts(&self) -> Vec<Context> {
        let mut contexts = vec![Context::given(Source::Prompt, self.prompt_tokens.clone())];
        let mut given = self.given.iter().peekable();
        for (place, segment) in self.token_segments().into_iter().enumerate() {
            last_of(&mut contexts).spans.push(Span::Drawn(segment));
            while let Some(GivenRecord { begins_context, by, tokens, .. }) =
                given.next_if(|given| given.after_segments == place + 1)
            {
                if *begins_context {
                    contexts.push(Context::default());
                }
                last_of(&mut contexts).spans.push(Span::Given { by: *by, ids: tokens.clone() });
            }
        }
        contexts
    }
}

fn last_of(contexts: &mut [Context]) -> &mut Context {
    contexts.last_mut().expect("there is the prompt's context")
}

fn given_after_prompt(contexts: &[Context]) -> Vec<GivenRecord> {
    let mut given = Vec::new();
    let mut after_segments = 0;
    for context in contexts {
        for (place, span) in context.spans.iter().enumerate() {
            match span {
                Span::Drawn(_) => after_segments += 1,
                Span::Given { by: Source::Prompt, .. } => {}
                Span::Given { by, ids } => given.push(GivenRecord {
                    after_segments,
                    begins_context: place == 0,
                    by: *by,
                    tokens: ids.clone(),
                }),
            }
        }
    }
    given
}

/// Writes each completion of the group as a line.
///
/// # Errors
/// If `out` refuses.
pub fn write_group(out: &mut impl Write, group: &Group) -> std::io::Result<()> {
    for scored in &group.completions {
        serde_json::to_writer(&mut *out, &CompletionRecord::of(scored))?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Reads a recording. Groups come in the order of their first lines and are numbered so; the lines of a group
/// need not be neighbours. Where a line does not say where its prompt is from, the group's name stands for it.
///
/// # Errors
/// [`RecordError`] with the path, and the line where one is no completion or does not fit its group; also where there is
/// none.
pub fn read_groups(path: &Path) -> Result<Vec<Group>, RecordError> {
    let file = std::fs::File::open(path).map_err(|error| RecordError::file(path, error))?;
    let mut groups: Vec<Group> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (index, written) in std::io::BufReader::new(file).lines().enumerate() {
        let written = written.map_err(|error| RecordError::file(path, error))?;
        if written.trim().is_empty() {
            continue;
        }
        let refuse = |reason: String| RecordError::line(path, index + 1, reason);
        let record: CompletionRecord =
            serde_json::from_str(&written).map_err(|error| refuse(format!("not a completion: {error}")))?;
        record.check().map_err(refuse)?;
        let place = *places.entry(record.group.clone()).or_insert(groups.len());
        if place == groups.len() {
            groups.push(empty_group(place as u64, &record));
        }
        add(&mut groups[place], record).map_err(refuse)?;
    }
    if groups.is_empty() {
        return Err(RecordError::content(path, "holds no completions"));
    }
    Ok(groups)
}

fn empty_group(id: u64, record: &CompletionRecord) -> Group {
    let prompt = Prompt {
        index: id,
        id: record.prompt_id.as_ref().unwrap_or(&record.group).clone(),
        text: record.prompt.clone(),
        tokens: record.prompt_tokens.clone(),
        references: record.answer.clone(),
        fields: record.fields.clone(),
    };
    Group { id, prompt: Arc::new(prompt), completions: Vec::new() }
}

fn add(group: &mut Group, record: CompletionRecord) -> Result<(), String> {
    if record.prompt_tokens != group.prompt.tokens {
        return Err(format!("prompt_tokens differ from those of group {:?} above", record.group));
    }
    let completion = Completion {
        prompt: group.prompt.clone(),
        group: group.id,
        member: u32::try_from(group.completions.len()).map_err(|error| error.to_string())?,
        contexts: record.contexts(),
        finish: record.finish(),
        stop_reason: record.stop_reason,
        text: record.completion,
    };
    let reward = Reward { total: record.reward, correctness: record.correctness, parts: record.parts };
    group.completions.push(ScoredCompletion { completion, reward });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{group, segment};

    fn read(lines: &str) -> Result<Vec<Group>, RecordError> {
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
        let ends =
            |scored: &ScoredCompletion| (scored.completion.finish, scored.completion.stop_reason.clone());
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
        let lines =
            [line("z", |_| ()), line("a", |r| r["correctness"] = 1.0.into()), line("z", |_| ())].concat();
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
        let cases: [Case; 10] = [
            (|r| r["actor_logprobs"] = [-0.1].into(), "1 actor_logprobs for 2 completion_tokens"),
            (|r| r["completion_tokens"] = Value::Array(vec![]), "must not be empty"),
            (|r| r["correctness"] = 2.into(), "correctness is 2, neither 0 nor 1"),
            (|r| r["prompt_tokens"] = [9].into(), "prompt_tokens differ from those of group \"a\""),
            (
                |r| r["segments"] = serde_json::json!([{"version": 0, "tokens": 1}]),
                "segments of 1 tokens for 2",
            ),
            (|r| r["finish"] = "end".into(), "unknown variant `end`"),
            (|r| r["reward"] = Value::Null, "not a completion: "),
            (
                |r| {
                    r["segments"] =
                        serde_json::json!([{"version": 1, "tokens": 1}, {"version": 0, "tokens": 1}])
                },
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
        assert!(
            read("{\n").expect_err("not JSON").to_string().contains("rollouts.jsonl:1: not a completion")
        );
        assert!(
            read("\n").expect_err("nothing").to_string().ends_with("rollouts.jsonl: holds no completions")
        );
    }
}
