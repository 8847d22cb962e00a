//! `[eval]`: what is measured on held-out prompts, and when; one set of prompts or several.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rewards::RewardConfig;
use rollout::{DataConfig, ModeConfig, Sampling, StopConfig};
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{at_least_one, complain, rewards, sampling};
use super::document::Document;
use super::paths::{ConfigPath, RewardAt};

/// The most problems of an evaluation, answers to each, and answers at a time.
const EVAL_MAX: usize = 1 << 20;

/// The most sets of an evaluation.
const SETS_MAX: usize = 64;

/// Names of metrics under `eval/` that a set would be taken for.
const TAKEN_NAMES: [&str; 3] = ["rewards", "stopped_by", "pass_at"];

/// `[eval]`: what is measured on held-out prompts, and when.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSection {
    /// Measures after every so many steps; 0 is never between the first and the last.
    pub every_steps: u64,
    /// Measures before the first step; false by default where `data.kind = "file"` has no `eval.data`.
    pub before: bool,
    /// Measures after the last step; false by default where `data.kind = "file"` has no `eval.data`.
    pub after: bool,
    /// Measures on a thread of its own while training goes on, with the weights of the step; else training waits. Absent is
    /// true where `run.schedule = "async"`. What is found is the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<bool>,
    /// How many prompts are asked.
    pub problems: usize,
    /// The most tokens of an answer, where it is not that of training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens_max: Option<usize>,
    /// The temperature of the answers; 0 takes the likeliest token each time.
    pub temperature: f64,
    /// The probability mass that tokens are drawn from; 1 is all of it.
    pub top_p: f64,
    /// The number of likeliest tokens that are drawn from; 0 is all of them.
    pub top_k: usize,
    /// Answers to each prompt, for avg@k, pass@k and maj@k.
    pub pass_k: usize,
    /// Answers that are decoded side by side.
    pub trajectories_open_max: usize,
    /// Which held-out problems of a task, and which draws. It is not the run's, so that all runs are measured on
    /// the same problems.
    pub seed: u64,
    /// Held-out prompts, where the training data is a file. A task makes its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// `[[eval.rewards]]`: what answers are judged by, where it is not the rewards of training. So a run without
    /// labels is measured on problems that have them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rewards: Vec<RewardConfig>,
    /// `[[eval.sets]]`: several sets of held-out prompts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<EvalSet>,
}

/// `[[eval.sets]]`: one of several sets of held-out prompts. What it does not say is as in `[eval]`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EvalSet {
    /// Its name in tables, metrics and files.
    pub name: String,
    /// A file of prompts that is read as `[data]` says; without it and `prompts` that of `eval.data`, or the held-out problems
    /// of the run's task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// How many prompts are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problems: Option<usize>,
    /// The most tokens of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens_max: Option<usize>,
    /// The temperature of the answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Answers to each prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass_k: Option<usize>,
    /// `[eval.sets.prompts]`: where the prompts come from, with the keys of `[data]`, in the place of `data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<DataConfig>,
    /// `[[eval.sets.rewards]]`: what its answers are judged by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewards: Vec<RewardConfig>,
}

impl EvalSection {
    /// How tokens are drawn.
    pub fn sampling(&self) -> Sampling {
        Sampling { temperature: self.temperature, top_p: self.top_p, top_k: self.top_k }
    }

    /// The section, its `[[eval.rewards]]` and the rewards of its sets each read on its own, as those of training are.
    pub(super) fn read(document: &mut Document) -> Result<Self, ConfigError> {
        let rewards = document.sections_in("eval", "rewards")?;
        let rewards_of_sets = document.sections_in_each("eval", "sets", "rewards")?;
        let sets: Vec<EvalSet> = document.sections_in("eval", "sets")?;
        let sets =
            sets.into_iter().zip(rewards_of_sets).map(|(set, rewards)| EvalSet { rewards, ..set }).collect();
        Ok(Self { rewards, sets, ..document.section("eval")? })
    }

    /// Whether anything is measured in a run.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.before || self.after || self.every_steps > 0
    }

    /// The files of held-out prompts.
    #[must_use]
    pub fn files(&self) -> Vec<&Path> {
        let of_sets = self.sets.iter().flat_map(|set| {
            set.data.as_deref().into_iter().chain(set.prompts.iter().flat_map(DataConfig::files))
        });
        self.data.as_deref().into_iter().chain(of_sets).collect()
    }

    pub(super) fn paths(&mut self) -> Vec<ConfigPath<'_>> {
        let mut paths: Vec<_> = ConfigPath::given("eval.data", &mut self.data).into_iter().collect();
        for (place, set) in self.sets.iter_mut().enumerate() {
            let key = format!("eval.sets[{place}]");
            paths.extend(ConfigPath::given(format!("{key}.data"), &mut set.data));
            let own = set.prompts.as_mut();
            paths.extend(
                own.into_iter().flat_map(|data| ConfigPath::of_data(&format!("{key}.prompts"), data)),
            );
        }
        paths
    }

    pub(super) fn rewards_at(&mut self) -> Vec<RewardAt<'_>> {
        let mut all = RewardAt::all("eval.rewards", &mut self.rewards);
        for (place, set) in self.sets.iter_mut().enumerate() {
            all.extend(RewardAt::all(&format!("eval.sets[{place}].rewards"), &mut set.rewards));
        }
        all
    }

    /// The section as it holds for a set.
    fn of_set(&self, set: &EvalSet) -> Self {
        Self {
            problems: set.problems.unwrap_or(self.problems),
            output_tokens_max: set.output_tokens_max.or(self.output_tokens_max),
            temperature: set.temperature.unwrap_or(self.temperature),
            pass_k: set.pass_k.unwrap_or(self.pass_k),
            data: set.data.clone().or_else(|| self.data.clone()),
            rewards: if set.rewards.is_empty() { self.rewards.clone() } else { set.rewards.clone() },
            sets: Vec::new(),
            ..self.clone()
        }
    }
}

impl Default for EvalSection {
    fn default() -> Self {
        Self {
            every_steps: 0,
            before: true,
            after: true,
            beside: None,
            problems: 256,
            output_tokens_max: None,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            pass_k: 1,
            trajectories_open_max: 32,
            seed: 0,
            data: None,
            rewards: Vec::new(),
            sets: Vec::new(),
        }
    }
}

/// Everything that an evaluation of one set needs to know, whichever config it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The name of the set among several.
    pub set: Option<String>,
    /// Where the held-out prompts come from: the other split of a task, or a file.
    pub data: DataConfig,
    /// What answers are worth.
    pub rewards: Vec<RewardConfig>,
    /// The most tokens of an answer.
    pub output_tokens_max: usize,
    /// The key that says so.
    pub output_tokens_key: &'static str,
    /// What ends an answer before that: the stops of `[rollout]`.
    pub stops: StopConfig,
    /// How an answer goes on when the policy has come to an end.
    pub mode: ModeConfig,
    /// `[eval]` as it holds for this set.
    pub eval: EvalSection,
}

impl Evaluation {
    /// All sets: this config with the data, the rewards and the output limit of training has what each of them lacks. None
    /// where there is no held-out data.
    pub(super) fn sets(training: &Self) -> Vec<Self> {
        let eval = &training.eval;
        let one = |set: Option<&EvalSet>| {
            let own = set.map_or_else(|| eval.clone(), |set| eval.of_set(set));
            let data = match set.and_then(|set| set.prompts.clone()) {
                Some(data) => data,
                None => training.data.held_out(own.data.as_deref())?,
            };
            let rewards = if own.rewards.is_empty() { &training.rewards } else { &own.rewards };
            let key = match (set.and_then(|set| set.output_tokens_max), eval.output_tokens_max) {
                (Some(_), _) => "eval.sets",
                (None, Some(_)) => "eval.output_tokens_max",
                (None, None) => training.output_tokens_key,
            };
            Some(Self {
                set: set.map(|set| set.name.clone()),
                data,
                rewards: rewards.clone(),
                output_tokens_max: own.output_tokens_max.unwrap_or(training.output_tokens_max),
                output_tokens_key: key,
                eval: own,
                ..training.clone()
            })
        };
        if eval.sets.is_empty() {
            return one(None).into_iter().collect();
        }
        eval.sets.iter().filter_map(|set| one(Some(set))).collect()
    }
}

/// Refuses what cannot be measured. `training` are the rewards that judge where the section names none.
pub(super) fn check(
    document: &Document,
    data: &DataConfig,
    training: &[RewardConfig],
    eval: &mut EvalSection,
) -> Result<(), ConfigError> {
    match (data, &eval.data) {
        (DataConfig::Task(_), Some(_)) => {
            let message = "eval.data: data.kind = \"task\" makes its own held-out problems; leave it out";
            return Err(document.error("eval.data", message));
        }
        (DataConfig::File(file), None) if eval.sets.is_empty() && file.split.is_none() => {
            nothing_held_out(document, eval)?;
        }
        _ => {}
    }
    at_least_one(document, "eval.trajectories_open_max", eval.trajectories_open_max)?;
    at_most(document, "eval.trajectories_open_max", eval.trajectories_open_max)?;
    sampling(document, "eval", eval.temperature, eval.top_p)?;
    numbers(document, "eval", eval)?;
    if !eval.rewards.is_empty() && eval.sets.is_empty() {
        rewards(document, "eval.", Some(data), &eval.rewards)?;
    }
    if eval.sets.len() > SETS_MAX {
        let message = format!("eval.sets: {} sets; there may be {SETS_MAX}", eval.sets.len());
        return Err(document.error("eval.sets", message));
    }
    let mut names = BTreeSet::new();
    for (place, set) in eval.sets.iter().enumerate() {
        let key = format!("eval.sets[{place}]");
        name(document, &key, &set.name, names.insert(set.name.as_str()))?;
        let own = eval.of_set(set);
        let data = set_data(document, &key, data, set, own.data.is_some())?;
        sampling(document, &key, own.temperature, own.top_p)?;
        numbers(document, &key, &own)?;
        let (section, judges) = match (set.rewards.is_empty(), eval.rewards.is_empty()) {
            (false, _) => (format!("{key}."), &set.rewards[..]),
            (true, false) => ("eval.".to_owned(), &eval.rewards[..]),
            (true, true) => (String::new(), training),
        };
        rewards(document, &section, Some(data), judges)?;
    }
    Ok(())
}

/// A set's name is a part of tags and the name of a file.
fn name(document: &Document, key: &str, name: &str, is_first: bool) -> Result<(), ConfigError> {
    let letters = |letter: char| letter.is_ascii_alphanumeric() || ['_', '-', '.'].contains(&letter);
    let key = format!("{key}.name");
    let reason = if name.is_empty() || name.starts_with('.') || !name.chars().all(letters) {
        "must be letters, digits, `_`, `-` and `.`, and not begin with a `.`"
    } else if TAKEN_NAMES.contains(&name) {
        "is a name among the metrics of an evaluation; take another"
    } else if !is_first {
        "is the name of another set"
    } else {
        return Ok(());
    };
    Err(document.error(&key, format!("{key}: {name:?} {reason}")))
}

/// The data that a set is read by; `has_file` where it or the section around it names one.
fn set_data<'a>(
    document: &Document,
    key: &str,
    training: &'a DataConfig,
    set: &'a EvalSet,
    has_file: bool,
) -> Result<&'a DataConfig, ConfigError> {
    let refused = |key: &str, reason: &str| Err(document.error(key, format!("{key}: {reason}")));
    let file = format!("{key}.data");
    match (&set.prompts, training) {
        (Some(_), _) if set.data.is_some() => {
            refused(&file, "the set has `prompts` beside it; leave one of the two out")
        }
        (Some(own), _) => complain(document, &format!("{key}.prompts."), own.check()).map(|()| own),
        (None, DataConfig::Task(_)) if set.data.is_some() => refused(
            &file,
            "data.kind = \"task\" reads no file; write [eval.sets.prompts] with a kind that does",
        ),
        (None, DataConfig::File(training)) if !has_file && training.split.is_none() => {
            refused(key, "names no held-out prompts; give it `data` or [eval.sets.prompts]")
        }
        (None, _) => Ok(training),
    }
}

/// The numbers of the section, or of a set with what it takes from the section.
fn numbers(document: &Document, section: &str, eval: &EvalSection) -> Result<(), ConfigError> {
    let key = |name: &str| format!("{section}.{name}");
    for (name, value) in [
        ("problems", eval.problems),
        ("pass_k", eval.pass_k),
        ("output_tokens_max", eval.output_tokens_max.unwrap_or(1)),
    ] {
        at_least_one(document, &key(name), value)?;
        if name != "output_tokens_max" {
            at_most(document, &key(name), value)?;
        }
    }
    if eval.pass_k > 1 && eval.temperature == 0.0 {
        let message = format!(
            "{section}.pass_k = {}: at {section}.temperature = 0 all answers to a prompt are the same; raise the \
             temperature",
            eval.pass_k
        );
        return Err(document.error(&key("pass_k"), message));
    }
    Ok(())
}

fn at_most(document: &Document, key: &str, value: usize) -> Result<(), ConfigError> {
    match value {
        0..=EVAL_MAX => Ok(()),
        _ => Err(document.error(key, format!("{key}: must be at most {EVAL_MAX}, got {value}"))),
    }
}

/// Without held-out data the measurements that are on by default are off; one that was asked for is refused.
fn nothing_held_out(document: &Document, eval: &mut EvalSection) -> Result<(), ConfigError> {
    let asked = [
        ("eval.before", eval.before),
        ("eval.after", eval.after),
        ("eval.every_steps", eval.every_steps > 0),
    ];
    for (key, is_on) in asked {
        if is_on && document.is_given(key) {
            let message =
                format!("{key}: there is nothing to measure on; name held-out prompts with eval.data");
            return Err(document.error(key, message));
        }
    }
    (eval.before, eval.after) = (false, false);
    Ok(())
}
