//! The answers of an evaluation on disk: one line a prompt, with all answers to it and what they are worth.
//!
//! `longhaul eval --output` writes such a file, a run writes one for each set into `evals/step-N/`, and `longhaul compare`
//! reads two.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rollout::{Finish, FinishReason, Group, ScoredCompletion, StopReason};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use trajectory::Lines;

use super::output::{Inputs, Output};

/// What a line is.
const WHAT: &str = "a prompt with the answers of an evaluation";

/// A prompt of an evaluation with its answers.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct AnswerRecord {
    /// The set of prompts.
    pub set: String,
    /// Where the prompt is from: the task and index, or the file and line.
    pub prompt_id: String,
    /// The prompt's text without a chat template.
    pub prompt: String,
    /// The reference answers; absent where the prompt has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answer: Vec<String>,
    /// The answers in the order of their draws; at least one.
    pub completions: Vec<AnsweredRecord>,
}

/// One answer to a prompt.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct AnsweredRecord {
    /// Its text.
    pub completion: String,
    /// Tokens that were drawn.
    pub tokens: usize,
    /// Why it ended.
    pub finish: FinishReason,
    /// The stop string or the stop token id that ended it; absent for an end of output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// The total reward.
    pub reward: f64,
    /// 1 right, 0 wrong, null where nothing says what is right.
    pub correctness: Option<u8>,
    /// The unweighted value of each reward.
    pub parts: BTreeMap<String, f64>,
    /// The final answer that the verifier of the correctness read; absent where it read none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extracted: Option<String>,
}

impl AnswerRecord {
    /// The record of a scored group; `extracted` reads the final answer of a completion.
    pub fn of(set: &str, group: &Group, extracted: impl Fn(&rollout::Completion) -> Option<String>) -> Self {
        let completions = group.completions.iter().map(|scored| {
            let ScoredCompletion { completion, reward } = scored;
            AnsweredRecord {
                completion: completion.text.clone(),
                tokens: completion.token_count(),
                finish: match completion.finish {
                    Finish::Length => FinishReason::Length,
                    Finish::Eos | Finish::StopString | Finish::StopToken => FinishReason::Stop,
                },
                stop_reason: completion.stop_reason.clone(),
                reward: reward.total,
                correctness: reward.correctness,
                parts: reward.parts.clone(),
                extracted: extracted(completion),
            }
        });
        Self {
            set: set.to_owned(),
            prompt_id: group.prompt.id.clone(),
            prompt: group.prompt.text.clone(),
            answer: group.prompt.references.clone(),
            completions: completions.collect(),
        }
    }

    /// Right answers, where something says what is right.
    #[must_use]
    pub fn right(&self) -> Option<usize> {
        let is_judged = self.completions.iter().any(|answer| answer.correctness.is_some());
        is_judged.then(|| self.completions.iter().filter(|answer| answer.is_right()).count())
    }
}

impl AnsweredRecord {
    /// Whether it is right.
    #[must_use]
    pub fn is_right(&self) -> bool {
        self.correctness == Some(1)
    }

    /// Why it ended, as the learner counts it.
    #[must_use]
    pub fn finish(&self) -> Finish {
        match (self.finish, &self.stop_reason) {
            (FinishReason::Length, _) => Finish::Length,
            (FinishReason::Stop, None) => Finish::Eos,
            (FinishReason::Stop, Some(StopReason::String(_))) => Finish::StopString,
            (FinishReason::Stop, Some(StopReason::TokenId(_))) => Finish::StopToken,
        }
    }
}

/// Writes records, whole or not at all.
///
/// # Errors
/// Names the file that cannot be written.
pub fn write<'a>(mut output: Output, records: impl IntoIterator<Item = &'a AnswerRecord>) -> Result<()> {
    for record in records {
        output.write_line(&serde_json::to_string(record)?)?;
    }
    output.finish()
}

/// Writes the records of one set to a file in a folder that is made where it is not there, and returns the file.
///
/// # Errors
/// Names the file that cannot be written.
pub fn write_in(folder: &Path, set: &str, records: &[AnswerRecord]) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let path = folder.join(format!("{set}.jsonl"));
    write(Output::create(&path, &Inputs::default())?, records)?;
    Ok(path)
}

/// The records of a file, or of all files of a folder, by their sets and prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// Where they are from.
    pub path: PathBuf,
    /// The records of each set by their prompts' ids.
    pub sets: BTreeMap<String, BTreeMap<String, AnswerRecord>>,
}

impl Answers {
    /// Records as they are known under a path.
    #[must_use]
    pub fn of(path: &Path, records: impl IntoIterator<Item = AnswerRecord>) -> Self {
        let mut sets: BTreeMap<String, BTreeMap<_, _>> = BTreeMap::new();
        for record in records {
            sets.entry(record.set.clone()).or_default().insert(record.prompt_id.clone(), record);
        }
        Self { path: path.to_owned(), sets }
    }

    /// Reads a file that an evaluation wrote, or the folder `evals/step-N` of a run.
    ///
    /// # Errors
    /// Names the file and line that is no such record, or whose prompt stands twice; also if there is none.
    pub fn read(path: &Path) -> Result<Self> {
        let mut answers = Self { path: path.to_owned(), sets: BTreeMap::new() };
        if path.is_dir() {
            let mut files = Vec::new();
            for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
                files.push(entry.with_context(|| path.display().to_string())?.path());
            }
            files.retain(|file| file.extension().is_some_and(|ending| ending == "jsonl"));
            files.sort();
            files.iter().try_for_each(|file| answers.add(file))?;
        } else {
            answers.add(path)?;
        }
        if answers.sets.is_empty() {
            bail!("{}: holds no answers of an evaluation", path.display());
        }
        Ok(answers)
    }

    fn add(&mut self, file: &Path) -> Result<()> {
        for line in Lines::open(file)? {
            let line = line?;
            // By way of a value, whose numbers are those that were written: read at once, the last digit may be off.
            let record: Value = line.parse(WHAT)?;
            let record: AnswerRecord = serde_json::from_value(record)
                .map_err(|error| line.refuse(format!("not {WHAT}: {error}")))?;
            if record.completions.is_empty() {
                return Err(line.refuse("`completions` is empty").into());
            }
            if let Some(answer) = record.completions.iter().find(|answer| !answer.reward.is_finite()) {
                return Err(line.refuse(format!("a reward is {}", answer.reward)).into());
            }
            let set = self.sets.entry(record.set.clone()).or_default();
            if set.contains_key(&record.prompt_id) {
                let reason =
                    format!("the prompt {} of the set {} stands twice", record.prompt_id, record.set);
                return Err(line.refuse(reason).into());
            }
            set.insert(record.prompt_id.clone(), record);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A prompt whose answers are right or wrong as told, with lengths 10, 20, and so on.
    pub(crate) fn record(set: &str, prompt_id: &str, right: &[bool]) -> AnswerRecord {
        let completions = right.iter().enumerate().map(|(place, right)| AnsweredRecord {
            completion: format!("answer {place}"),
            tokens: 10 * (place + 1),
            finish: FinishReason::Stop,
            stop_reason: None,
            reward: f64::from(u8::from(*right)),
            correctness: Some(u8::from(*right)),
            parts: BTreeMap::from([("math".to_owned(), f64::from(u8::from(*right)))]),
            extracted: Some(if *right { "4" } else { "5" }.to_owned()),
        });
        AnswerRecord {
            set: set.to_owned(),
            prompt_id: prompt_id.to_owned(),
            prompt: format!("the text of {prompt_id}"),
            answer: vec!["4".to_owned()],
            completions: completions.collect(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let place = tempfile::tempdir().unwrap();
        let mut cut = record("a", "p:2", &[false]);
        cut.completions[0].finish = FinishReason::Length;
        cut.completions[0].extracted = None;
        let mut stopped = record("a", "p:3", &[true]);
        stopped.completions[0].stop_reason = Some(StopReason::String("\n".to_owned()));
        // A number whose last digit a hasty reader misses, and a stop that is a number.
        stopped.completions[0].reward = 0.213_478_140_957_491_62;
        let mut by_token = record("a", "p:4", &[true]);
        by_token.completions[0].stop_reason = Some(StopReason::TokenId(7));
        let one = [record("a", "p:1", &[true, false]), cut, stopped, by_token];
        let file = write_in(&place.path().join("evals/step-3"), "a", &one).unwrap();
        write_in(&place.path().join("evals/step-3"), "b", &[record("b", "q:1", &[true])]).unwrap();
        let read = Answers::read(&file).unwrap();
        assert_eq!(read.sets["a"].values().cloned().collect::<Vec<_>>(), one);
        let finishes: Vec<_> = one.iter().map(|record| record.completions[0].finish()).collect();
        assert_eq!(finishes, [Finish::Eos, Finish::Length, Finish::StopString, Finish::StopToken]);
        let all = Answers::read(&place.path().join("evals/step-3")).unwrap();
        assert_eq!(all.sets.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(all.sets["a"], read.sets["a"]);
        assert_eq!((one[0].right(), one[1].right()), (Some(1), Some(0)));
    }

    #[test]
    fn what_is_no_answer_is_named_by_its_line() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("a.jsonl");
        let line = serde_json::to_string(&record("a", "p:1", &[true])).unwrap();
        let error = |text: &str| {
            std::fs::write(&file, text).unwrap();
            format!("{:#}", Answers::read(&file).unwrap_err())
        };
        let twice = error(&format!("{line}\n\n{line}\n"));
        assert!(twice.contains("a.jsonl:3: ") && twice.contains("p:1 of the set a stands twice"), "{twice}");
        let cut = error(&format!("{line}\n{}", &line[..40]));
        assert!(cut.contains("a.jsonl:2: ") && cut.contains("not a prompt with the answers"), "{cut}");
        let none = error(&line.replace(&line[line.find("[{").unwrap()..], "[]}"));
        assert!(none.contains("a.jsonl:1: ") && none.contains("`completions` is empty"), "{none}");
        let empty = error("");
        assert!(empty.contains("holds no answers"), "{empty}");
        let missing = format!("{:#}", Answers::read(&place.path().join("b.jsonl")).unwrap_err());
        assert!(missing.contains("b.jsonl"), "{missing}");
    }
}
