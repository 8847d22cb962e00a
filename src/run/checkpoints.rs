//! What a run's checkpoint holds beside the learner's part, which one a run goes on from, and which stay.
//!
//! ```text
//! checkpoints/step-12/
//!   config.json, model.safetensors, tokenizer.json, ..   a Hugging Face directory, or in the place of the first two
//!   adapter_config.json, adapter_model.safetensors       adapters in peft's format
//!   optimizer.safetensors, trainer_state.json            the learner
//!   rollout.bin                                          queue, groups, trajectories, counters
//!   policy-11/                                           older weights that open segments still need
//!   run_state.json                                       how far the metrics had come
//!   manifest.json                                        lengths and checksums of all of it
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use kernels::{Engine, KernelError};
use learner::checkpoint::ExtraFile;
use rollout::{BadRowsPolicy, DataConfig, Journal, RolloutCheckpoint, RolloutError, RolloutState, Versioned};
use serde::{Deserialize, Serialize};

use crate::cause::{Remedy, refused};
use crate::config::{
    AlarmsSection, Best, CheckpointSection, DeviceKind, EvalSection, MetricsSection, RunConfig,
    WatchdogSection,
};
use crate::model::policy::Policy;
use crate::records::folder::RunFolder;
use crate::records::reader::MetricsReader;
use crate::records::writer::MetricsPlace;
use crate::run::eval_report::{EvalReport, EvaluatedAt, reports};
use crate::run::model_source::{ModelSource, OlderWeights};
use crate::watch::alarms::Alarms;

const ROLLOUT_FILE: &str = "rollout.bin";
const RUN_FILE: &str = "run_state.json";

/// `run_state.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// How far the metrics had come.
    pub metrics: MetricsPlace,
    /// The evaluation before the first step, one report a set.
    #[serde(default, with = "reports")]
    pub before: Vec<EvalReport>,
    /// The evaluation after the last step, once it is made.
    #[serde(default, with = "reports", skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<EvalReport>,
    /// The evaluation of the checkpoint's weights, where it was not finished.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluating: Option<EvaluatedAt>,
    /// What the alarms remember.
    #[serde(default)]
    pub alarms: Alarms,
}

/// The files of a checkpoint that say where the run stands.
pub fn run_files<E: Engine>(
    checkpoint: &RolloutCheckpoint<Policy<E>>,
    version: u64,
    run: &RunState,
) -> Result<Vec<ExtraFile>> {
    let mut files = vec![
        ExtraFile::Write { name: ROLLOUT_FILE.to_owned(), content: checkpoint.state.to_bytes() },
        ExtraFile::Write { name: RUN_FILE.to_owned(), content: serde_json::to_vec_pretty(run)? },
    ];
    for needed in checkpoint.state.versions_needed().into_iter().filter(|needed| *needed != version) {
        let weights = checkpoint.weights.iter().find(|weights| weights.version == needed);
        let weights = weights.with_context(|| format!("the weights of version {needed} are gone"))?;
        let weights = Arc::clone(weights.weights.weights());
        files.push(ExtraFile::Weights { name: policy(needed), weights });
    }
    Ok(files)
}

fn policy(version: u64) -> String {
    format!("policy-{version}")
}

/// Whether a run can be resumed at this checkpoint.
#[must_use]
pub fn is_whole(folder: &Path) -> bool {
    folder.join(RUN_FILE).exists() && learner::manifest::verify(folder).is_ok()
}

/// Clears up what a kill left in the folder of checkpoints: one that had lost its name while it was written anew
/// gets it back, and what is half-written goes.
///
/// # Errors
/// If a folder cannot be listed, renamed or removed.
pub fn clean_up(folder: &RunFolder) -> Result<()> {
    let mut hidden = folder.hidden_checkpoints()?;
    // The new one before the one that it was to replace.
    hidden.sort_by(|(_, one, _), (_, other, _)| other.cmp(one));
    for (step, _, path) in hidden {
        let named = folder.checkpoint(step);
        if !named.exists() && is_whole(&path) {
            tracing::info!("{}: a kill took its name, which it has again", named.display());
            fs::rename(&path, &named).with_context(|| path.display().to_string())?;
        } else {
            fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// A checkpoint that a run goes on from.
#[derive(Debug)]
pub struct ResumePoint {
    /// The step.
    pub step: u64,
    /// Its folder, that of a model.
    pub folder: PathBuf,
    /// The rollout's side.
    pub rollout: RolloutState,
    /// The run's own state.
    pub run: RunState,
    /// Older weights that open segments need.
    pub weights: BTreeMap<u64, OlderWeights>,
}

impl ResumePoint {
    /// The newest whole checkpoint of a run at `step_max` or before. One that is cut off or damaged is told of
    /// and passed over.
    ///
    /// # Errors
    /// If the checkpoints cannot be listed, or there are some and none is whole.
    pub fn find(folder: &RunFolder, step_max: u64, models: &ModelSource<'_>) -> Result<Option<Self>> {
        let steps = folder.checkpoint_steps()?;
        let mut damaged = None;
        for step in steps.into_iter().filter(|step| *step <= step_max) {
            match Self::read(&folder.checkpoint(step), step, models) {
                Ok(Some(point)) => return Ok(Some(point)),
                Ok(None) => {
                    let path = folder.checkpoint(step);
                    tracing::info!(
                        "{}: holds the weights of a run that failed, and not its state",
                        path.display()
                    );
                }
                Err(error) => {
                    let path = folder.checkpoint(step);
                    tracing::warn!("{}: not used: {error:#}", path.display());
                    damaged = damaged.or(Some(error));
                }
            }
        }
        match damaged {
            None => Ok(None),
            Some(error) => Err(error.context(format!(
                "{}: no checkpoint is whole, so there is nothing to resume",
                folder.checkpoints().display()
            ))),
        }
    }

    /// `None` where the checkpoint holds weights alone.
    fn read(folder: &Path, step: u64, models: &ModelSource<'_>) -> Result<Option<Self>> {
        learner::manifest::verify(folder)?;
        let path = folder.join(RUN_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read(&path).with_context(|| path.display().to_string())?;
        let run = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        let rollout = RolloutState::read(&folder.join(ROLLOUT_FILE)).map_err(|error| match error {
            RolloutError::StateForm { .. } => refused(Remedy::Fork, error.to_string()),
            error => error.into(),
        })?;
        let mut weights = BTreeMap::new();
        for version in rollout.versions_needed().into_iter().filter(|version| *version != step) {
            weights.insert(version, models.older(folder, &folder.join(policy(version)))?);
        }
        Ok(Some(Self { step, folder: folder.to_owned(), rollout, run, weights }))
    }

    /// Takes the older weights as the actors have them, packed as the newest are, and leaves none.
    ///
    /// # Errors
    /// If the engine does not decode at the precision.
    pub fn take_policies<E: Engine>(
        &mut self,
        engine: &E,
        newest: &Policy<E>,
    ) -> Result<Vec<Versioned<Policy<E>>>, KernelError> {
        std::mem::take(&mut self.weights)
            .into_iter()
            .map(|(version, weights)| {
                let policy = match weights {
                    OlderWeights::Whole(decoder) => Policy::new(engine, &decoder, newest.precision())?,
                    OlderWeights::Adapters(lora) => newest.adapted(engine, &lora),
                };
                Ok(Versioned { version, weights: Arc::new(policy) })
            })
            .collect()
    }
}

/// Removes the checkpoints that the config does not ask for, and the journals that none of the others needs.
///
/// # Errors
/// If a file cannot be listed or removed.
pub fn prune(folder: &RunFolder, section: &CheckpointSection) -> Result<()> {
    let steps = folder.checkpoint_steps()?;
    let best = match &section.keep_best {
        Some(best) => best_step(folder, &steps, best)?,
        None => None,
    };
    let every = section.keep_every_steps;
    let kept: Vec<u64> = steps
        .iter()
        .enumerate()
        .filter(|(place, step)| {
            *place < section.keep_last || (every > 0 && step.is_multiple_of(every)) || Some(**step) == best
        })
        .map(|(_, step)| *step)
        .collect();
    folder.prune_checkpoints(|step| kept.contains(&step))?;
    // A run goes on from the newest checkpoint, or from the one before where that is damaged.
    if let Some(oldest) = kept.iter().take(section.keep_last).min() {
        Journal::prune(&folder.journal(), *oldest)?;
    }
    Ok(())
}

/// The step among `steps` at which a metric stood best, by `metrics.jsonl`; the newest of equals.
fn best_step(folder: &RunFolder, steps: &[u64], best: &Best) -> Result<Option<u64>> {
    let mut found: Option<(f64, u64)> = None;
    for line in MetricsReader::open(folder.path())?.lines() {
        let (Some(step), Some(value)) = (line.step(), line.value(&best.metric)) else { continue };
        let value = if best.least { -value } else { value };
        if steps.contains(&step) && found.is_none_or(|(other, _)| value >= other) {
            found = Some((value, step));
        }
    }
    Ok(found.map(|(_, step)| step))
}

/// The config without what does not change what is learned, as long as numbers are only rounded otherwise.
fn what_is_learned(config: &RunConfig) -> RunConfig {
    let mut config = config.clone();
    (config.run.device, config.run.threads) = (DeviceKind::default(), None);
    (config.rollout.actors, config.rollout.scorers) = (1, 1);
    config.learner.batch_tokens_max = 1;
    config.learner.gradients = config.learner.gradients.what_changes_numbers();
    config.eval = EvalSection::default();
    config.checkpoint = CheckpointSection::default();
    config.metrics = MetricsSection::default();
    config.watchdog = WatchdogSection::default();
    config.alarms = AlarmsSection::default();
    // That it is the same base as before is seen by its digest.
    config.model.base = None;
    if let DataConfig::File(data) = &mut config.data {
        // Where no row was bad it changes nothing, and groups on their way know their prompts.
        data.bad_rows = BadRowsPolicy::default();
    }
    config
}

/// What differs between the config of a run and the one that it is resumed with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigChanges {
    /// A line a key.
    pub lines: Vec<String>,
    /// Whether one of them changes what is learned.
    pub are_unsafe: bool,
}

/// Compares the config of a run with the one that it is resumed with.
///
/// # Errors
/// If a difference changes what is learned and `allowed` is not set: the whole difference is shown.
pub fn check_config(folder: &RunFolder, config: &RunConfig, allowed: bool) -> Result<ConfigChanges> {
    let path = folder.config();
    // A run of an earlier version lacks the keys that have come since. It is as if they had their defaults.
    let (changes, advice) = match RunConfig::load(&path, &[]) {
        Ok(before) => {
            let all = differing(&before.resolved(), &config.resolved())?;
            let learned =
                differing(&what_is_learned(&before).resolved(), &what_is_learned(config).resolved())?;
            let advice = format!("resume with the run's own {}", path.display());
            (ConfigDifference { all, learned }, advice)
        }
        // Of a config that is invalid by now, nobody knows which keys matter.
        Err(invalid) => {
            let before = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let all = differing(&before, &config.resolved()).with_context(|| path.display().to_string())?;
            let advice = format!("the run's own config is not valid any more: {invalid}");
            (ConfigDifference { learned: all.clone(), all }, advice)
        }
    };
    let lines: Vec<String> = changes.all.into_values().collect();
    let learned: Vec<String> = changes.learned.into_keys().collect();
    if !learned.is_empty() && !allowed {
        let problem = format!(
            "the config is not the run's ({}), and {} would change what is learned; {advice}",
            lines.join("; "),
            learned.join(", ")
        );
        return Err(refused(Remedy::AllowConfigChange, problem));
    }
    Ok(ConfigChanges { lines, are_unsafe: !learned.is_empty() })
}

/// Lines for a person by the keys that differ.
struct ConfigDifference {
    all: BTreeMap<String, String>,
    /// Those that change what is learned.
    learned: BTreeMap<String, String>,
}

/// The keys that two configs, as TOML, differ in.
fn differing(before: &str, now: &str) -> Result<BTreeMap<String, String>> {
    let (before, now) = (flat(before)?, flat(now)?);
    let keys: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let shown = |value: Option<&toml::Value>| value.map_or("absent".to_owned(), toml::Value::to_string);
    let line = |key: &String| {
        let (old, new) = (before.get(key), now.get(key));
        let differs = old != new && !same_file(old, new);
        differs.then(|| (key.clone(), format!("{key}: {} -> {}", shown(old), shown(new))))
    };
    Ok(keys.into_iter().filter_map(line).collect())
}

/// Every value of a TOML text by its whole key.
fn flat(text: &str) -> Result<BTreeMap<String, toml::Value>> {
    fn walk(prefix: &str, value: toml::Value, into: &mut BTreeMap<String, toml::Value>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
                    walk(&key, value, into);
                }
            }
            value => {
                into.insert(prefix.to_owned(), value);
            }
        }
    }
    let mut values = BTreeMap::new();
    walk("", toml::Value::Table(text.parse()?), &mut values);
    // Runs of earlier versions wrote these also where nobody had set them.
    let is_default = |key: &str, value: &toml::Value| {
        let fields = rollout::JsonlConfig::FIELDS;
        let written = key.strip_prefix("data.").map(|name| name.strip_suffix("_field").unwrap_or(name));
        let name = fields.iter().find(|(name, _)| written == Some(name));
        name.is_some_and(|(_, default)| value.as_str() == Some(default))
    };
    values.retain(|key, value| !is_default(key, value));
    Ok(values)
}

/// Two ways of writing the path of one file, as they come from two working directories.
fn same_file(old: Option<&toml::Value>, new: Option<&toml::Value>) -> bool {
    let canonical = |value: Option<&toml::Value>| fs::canonicalize(value?.as_str()?).ok();
    canonical(old).is_some_and(|old| canonical(new) == Some(old))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(home: &Path, config: &str) -> RunFolder {
        RunFolder::create(Some(&home.join("run")), "unused", false, config).unwrap()
    }

    #[test]
    fn the_last_ones_the_round_ones_and_the_best_one_stay() {
        let home = tempfile::tempdir().unwrap();
        let folder = folder(home.path(), "");
        let rows: String = (1..=9)
            .map(|step| format!("{{\"step\":{step},\"loss\":{}}}\n", (step - 3) * (step - 3)))
            .collect();
        fs::write(folder.path().join("metrics.jsonl"), rows).unwrap();
        (1..=9).for_each(|step| fs::create_dir_all(folder.checkpoint(step)).unwrap());
        let best = Some(Best { metric: "loss".to_owned(), least: true });
        let section =
            CheckpointSection { every_steps: 1, keep_last: 2, keep_every_steps: 4, keep_best: best };
        prune(&folder, &section).unwrap();
        assert_eq!(folder.checkpoint_steps().unwrap(), [9, 8, 4, 3]);
    }

    /// A checkpoint's files under any name.
    fn write_whole(folder: &Path, content: &str) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join(RUN_FILE), content).unwrap();
        learner::manifest::write(folder).unwrap();
    }

    #[test]
    fn a_checkpoint_between_two_names_gets_its_own_back() {
        let home = tempfile::tempdir().unwrap();
        let folder = folder(home.path(), "");
        let hidden = |name: &str| folder.checkpoints().join(name);
        // Killed between the two renames; while the new one was written; before the first rename; after the last.
        write_whole(&hidden(".step-1.partial"), "new");
        write_whole(&hidden(".step-1.old"), "old");
        write_whole(&hidden(".step-2.old"), "old");
        fs::create_dir_all(hidden(".step-2.partial")).unwrap();
        write_whole(&folder.checkpoint(3), "old");
        write_whole(&hidden(".step-3.partial"), "new");
        fs::create_dir_all(hidden(".step-4.partial")).unwrap();
        fs::create_dir_all(hidden(".notes")).unwrap();
        clean_up(&folder).unwrap();
        assert_eq!(folder.checkpoint_steps().unwrap(), [3, 2, 1]);
        let content = |step| fs::read_to_string(folder.checkpoint(step).join(RUN_FILE)).unwrap();
        assert_eq!([content(1), content(2), content(3)], ["new", "old", "old"]);
        assert!(folder.hidden_checkpoints().unwrap().is_empty() && hidden(".notes").exists());
    }

    fn quickstart(set: &[&str]) -> RunConfig {
        let set: Vec<String> = set.iter().map(|assignment| (*assignment).to_owned()).collect();
        RunConfig::load(Path::new("configs/quickstart.toml"), &set).unwrap()
    }

    #[test]
    fn a_run_without_keys_that_are_new_has_their_defaults() {
        let home = tempfile::tempdir().unwrap();
        let now = quickstart(&[]).resolved();
        let before: Vec<&str> = now.lines().filter(|line| !line.starts_with("stop = ")).collect();
        let folder = folder(home.path(), &before.join("\n"));
        assert_eq!(check_config(&folder, &quickstart(&[]), false).unwrap(), ConfigChanges::default());
        let other = quickstart(&["rollout.stop=[\";\"]"]);
        let error = check_config(&folder, &other, false).unwrap_err().to_string();
        assert!(error.contains("rollout.stop: [] -> [\";\"]"), "{error}");
    }

    #[test]
    fn a_changed_config_is_shown_and_only_what_is_learned_matters() {
        let home = tempfile::tempdir().unwrap();
        let folder = folder(home.path(), &quickstart(&["run.threads=2"]).resolved());
        assert_eq!(
            check_config(&folder, &quickstart(&["run.threads=2"]), false).unwrap(),
            ConfigChanges::default()
        );
        for (same, line) in [
            ("run.threads=1", "run.threads: 2 -> 1"),
            ("eval.problems=7", "eval.problems: 256 -> 7"),
            ("learner.gradients.kind=whole", "learner.gradients.kind: \"streambp\" -> \"whole\""),
            ("learner.gradients.layer_inputs=file", "learner.gradients.layer_inputs: \"memory\" -> \"file\""),
        ] {
            let changes = check_config(&folder, &quickstart(&["run.threads=2", same]), false).unwrap();
            assert!(!changes.are_unsafe && changes.lines.contains(&line.to_owned()), "{changes:?}");
        }
        for other in ["optimizer.learning_rate=2e-4", "learner.gradients.layer_inputs=bf16", "run.seed=2"] {
            let config = quickstart(&["run.threads=1", other]);
            let key = other.split('=').next().unwrap();
            let error = check_config(&folder, &config, false).unwrap_err().to_string();
            assert!(
                error.contains("run.threads: 2 -> 1") && error.contains(&format!("and {key} would")),
                "{error}"
            );
            let allowed = check_config(&folder, &config, true).unwrap();
            assert!(allowed.lines.len() == 2 && allowed.are_unsafe, "{allowed:?}");
        }
    }

    #[test]
    fn every_difference_of_a_config_that_is_invalid_by_now_matters() {
        let home = tempfile::tempdir().unwrap();
        let before = quickstart(&[]).resolved().replacen("threads", "thread", 1) + "\n[former]\nkey = 1\n";
        let folder = folder(home.path(), &before);
        let error = check_config(&folder, &quickstart(&[]), false).unwrap_err().to_string();
        assert!(
            error.contains("former.key: 1 -> absent") && error.contains("and former.key would"),
            "{error}"
        );
        assert!(error.contains("config.toml:") && error.contains("unknown section `former`"), "{error}");
        let config = folder.config();
        fs::write(&config, quickstart(&[]).resolved() + "\n[learner.streambp]\nenabled = true\n").unwrap();
        let error = check_config(&folder, &quickstart(&[]), false).unwrap_err().to_string();
        assert!(error.contains("learner.streambp: the section is [learner.gradients] now"), "{error}");
    }
}
