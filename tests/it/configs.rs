//! Every file under `configs/` loads, and an ablation differs from the quickstart in what it names, alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use longhaul::config::{Config, RunConfig};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The resolved config as `rollout.segments_max -> 4`.
fn keys(path: &Path) -> BTreeMap<String, String> {
    let config = RunConfig::load(path, &[]).unwrap_or_else(|error| panic!("{error}"));
    let value: toml::Value = toml::from_str(&config.resolved()).unwrap();
    let mut keys = BTreeMap::new();
    flatten("", &value, &mut keys);
    keys
}

fn flatten(path: &str, value: &toml::Value, keys: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, keys);
            }
        }
        toml::Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                flatten(&format!("{path}[{index}]"), value, keys);
            }
        }
        value => {
            keys.insert(path.to_owned(), value.to_string());
        }
    }
}

#[test]
fn every_config_loads() {
    let files = files(&root());
    assert!(files.len() >= 7, "{files:?}");
    for path in files {
        let config = Config::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert!(config.evaluation().is_some(), "{} measures nothing", path.display());
    }
}

#[test]
fn the_config_beside_trl_loads_once_a_model_is_named() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/peers/grpo_longhaul.toml");
    let set = ["model.path=models/quickstart".to_owned()];
    Config::load(&path, &set).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn every_key_says_why() {
    for path in files(&root()) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# "), "{}: the first line says what the file is for", path.display());
        for line in text.lines().filter(|line| line.contains(" = ") && !line.starts_with('#')) {
            assert!(line.contains(" # "), "{}: {line}", path.display());
        }
    }
}

/// The two presets differ from the quickstart, and so from each other, in what is paid for alone.
#[test]
fn with_and_without_labels_only_the_rewards_differ() {
    let quickstart = keys(&root().join("quickstart.toml"));
    for (name, allowed) in [
        (
            "surrogate",
            &[
                "rewards[",
                "eval.rewards[",
                "learner.advantage.",
                "learner.mpt.positive",
                "rollout.truncated_reward",
            ][..],
        ),
        ("correctness", &["rewards[", "learner.advantage."]),
    ] {
        let preset = keys(&root().join(format!("{name}.toml")));
        for key in quickstart.keys().chain(preset.keys()) {
            let is_same = quickstart.get(key) == preset.get(key);
            assert!(
                is_same || allowed.iter().any(|allowed| key.starts_with(allowed)),
                "{name} changes {key}"
            );
        }
        let marks = |prefix: &str| preset.get(&format!("{prefix}[0].correctness")).cloned();
        let with_labels = name == "correctness";
        assert_eq!(marks("rewards"), Some(with_labels.to_string()), "{name} trains on labels");
        assert!(!preset.contains_key("rewards[1].kind"), "{name} has one reward");
        assert_eq!(marks("eval.rewards").is_some(), !with_labels, "{name} is measured by labels");
    }
}

#[test]
fn an_ablation_changes_one_thing() {
    let quickstart = keys(&root().join("quickstart.toml"));
    let ablations = [
        ("no_segments", &["rollout.segments_max"][..]),
        ("no_mpt", &["learner.mpt.enabled"]),
        ("no_streambp", &["learner.gradients."]),
        ("no_grpo_lambda", &["learner.advantage."]),
        ("no_surrogates", &["rewards[1].", "rewards[2].", "learner.advantage.surrogates"]),
    ];
    assert_eq!(files(&root().join("ablations")).len(), ablations.len());
    for (name, allowed) in ablations {
        let ablation = keys(&root().join(format!("ablations/{name}.toml")));
        let all: BTreeSet<&String> = quickstart.keys().chain(ablation.keys()).collect();
        let changed: Vec<&String> =
            all.into_iter().filter(|key| quickstart.get(*key) != ablation.get(*key)).collect();
        assert!(!changed.is_empty(), "{name} is the quickstart");
        for key in changed {
            assert!(allowed.iter().any(|allowed| key.starts_with(allowed)), "{name} changes {key}");
        }
    }
}
