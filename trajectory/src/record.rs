//! The form in which groups are recorded, one completion a line of JSON, which is also what a replay reads.

mod answer;

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Number, Value};

use crate::completion::Completion;
use crate::context::Context;
use crate::error::FileError;
use crate::finish::{Finish, StopReason};
use crate::group::{Group, ScoredCompletion};
use crate::lines::Lines;
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
    #[serde(deserialize_with = "exact")]
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
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "exact_or_none")]
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

/// The number that was written: the reader's own conversion of long fractions may be off by the last digit.
fn exact<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let number = Number::deserialize(deserializer)?;
    number.as_f64().ok_or_else(|| serde::de::Error::custom(format!("{number} is too large a number")))
}

fn exact_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    Ok(Option::<Number>::deserialize(deserializer)?.and_then(|number| number.as_f64()))
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
        self.check_learned(tokens)?;
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

    /// What is wrong with what a step wrote of its tokens, if anything.
    fn check_learned(&self, tokens: usize) -> Result<(), String> {
        let logprobs = self.learner_logprobs.len();
        if logprobs > 0 && logprobs != tokens {
            return Err(format!("{logprobs} learner_logprobs for {tokens} completion_tokens"));
        }
        if let Some(place) = self.masked.iter().find(|place| **place >= tokens) {
            return Err(format!("masked names token {place} of {tokens} completion_tokens, counted from 0"));
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
/// [`FileError`] with the path, and the line where one is no completion or does not fit its group; also where there is
/// none.
pub fn read_groups(path: &Path) -> Result<Vec<Group>, FileError> {
    let mut groups: Vec<Group> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for line in Lines::open(path)? {
        let line = line?;
        let record: CompletionRecord = line.parse("a completion")?;
        record.check().map_err(|reason| line.refuse(reason))?;
        let place = *places.entry(record.group.clone()).or_insert(groups.len());
        if place == groups.len() {
            groups.push(empty_group(place as u64, &record));
        }
        add(&mut groups[place], record).map_err(|reason| line.refuse(reason))?;
    }
    if groups.is_empty() {
        return Err(FileError::content(path, "holds no completions"));
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
mod tests;
