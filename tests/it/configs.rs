//! Every file under `configs/` loads, and an ablation differs from the quickstart in what it names, alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use longhaul::config::{Config, RunConfig};

use crate::binary::success;

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

/// Presets with the values of papers: each leaves its model and its files to be set.
const PRESETS: [&str; 7] = [
    "smollm2_addition",
    "smollm2_addition_lora",
    "smollm2_gsm8k",
    "qwen3_math_128k",
    "qwen3_grpo_lambda",
    "qwen25_math_surrogate",
    "longwriter_zero",
];

/// What a user has to set in a config before it loads: nothing, or the model and the files of a preset.
pub(crate) fn settings_of(config: &Path, folder: &Path) -> Vec<String> {
    let is_of = |preset: &&str| config.ends_with(format!("{preset}.toml"));
    PRESETS.into_iter().find(is_of).map_or_else(Vec::new, |preset| settings(preset, folder))
}

/// What a user sets in a preset, here to a small model and a file of this folder.
fn settings(preset: &str, folder: &Path) -> Vec<String> {
    let rows =
        r#"{"prompt": "1+1=", "question": "1+1=", "answer": "1+1 #### 2", "words_min": 1, "words_max": 9}"#;
    let held_out = rows.replace("1+1", "1+2");
    fs::write(folder.join("train.jsonl"), format!("{rows}\n")).unwrap();
    fs::write(folder.join("test.jsonl"), format!("{held_out}\n")).unwrap();
    let text = fs::read_to_string(root().join(format!("{preset}.toml"))).unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/quickstart");
    let file = |name: &str| folder.join(name).display().to_string();
    // The small model was made for fewer positions.
    let mut set = vec![format!("model.path={}", model.display()), "model.positions_max=200000".to_owned()];
    if text.contains("kind = \"file\"") {
        set.push(format!("data.path={}", file("train.jsonl")));
        let sets = text.matches("[[eval.sets]]").count();
        set.extend((0..sets).map(|place| format!("eval.sets[{place}].data={}", file("test.jsonl"))));
        if sets == 0 {
            set.push(format!("eval.data={}", file("test.jsonl")));
        }
    }
    if text.contains("\nstop = [") {
        // No token of the small model writes the end of a line.
        set.push("rollout.stop=[\"#\"]".to_owned());
    }
    if text.contains("reference = ") {
        set.push(format!("learner.kl.reference={}", model.display()));
    }
    set
}

#[test]
fn every_config_loads() {
    let is_preset = |path: &PathBuf| PRESETS.iter().any(|name| path.ends_with(format!("{name}.toml")));
    let files: Vec<_> = files(&root()).into_iter().filter(|path| !is_preset(path)).collect();
    assert!(files.len() >= 7, "{files:?}");
    for path in files {
        let config = Config::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert!(!config.evaluations().is_empty(), "{} measures nothing", path.display());
    }
}

/// Each says which paths are to be set, and is what a run would take once they are.
#[test]
fn every_preset_is_checked_once_its_paths_are_set() {
    let place = tempfile::tempdir().unwrap();
    for preset in PRESETS {
        let path = root().join(format!("{preset}.toml"));
        let text = fs::read_to_string(&path).unwrap();
        let named = text.lines().filter(|line| line.contains("# set this"));
        assert!(named.count() >= 1, "{preset}");
        let error = Config::load(&path, &[]).expect_err("its model is not in the repository").to_string();
        assert!(error.contains("model.path: there is no models/"), "{error}");
        let set = settings(preset, place.path());
        let config = RunConfig::load(&path, &set).unwrap_or_else(|error| panic!("{error}"));
        assert!(!config.evaluations().is_empty(), "{preset} measures nothing");
        let mut arguments = vec!["check".to_owned(), path.display().to_string()];
        arguments.extend(set.into_iter().flat_map(|set| ["--set".to_owned(), set]));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let told = success(&arguments);
        assert!(told.contains("# Memory of the run") && told.contains("evaluation"), "{preset}: {told}");
    }
}

/// What the papers state, by preset and key.
const STATED: [(&str, &[(&str, &str)]); 4] = [
    (
        "qwen3_math_128k",
        &[
            ("rollout.output_tokens_max", "131072"),
            ("rollout.segments_max", "8"),
            ("rollout.group_size", "8"),
            ("rollout.temperature", "0.85"),
            ("learner.groups_per_step", "128"),
            ("learner.mpt.tau", "0.99"),
            ("learner.mpt.sigma", "0.2"),
            ("learner.importance.kind", "\"pois\""),
            ("optimizer.learning_rate", "0.000001"),
            ("eval.pass_k", "32"),
            ("eval.top_p", "0.95"),
            ("eval.top_k", "20"),
        ],
    ),
    (
        "qwen3_grpo_lambda",
        &[
            ("learner.advantage.lambda", "0.2"),
            ("learner.advantage.alpha", "0.2"),
            ("learner.groups_per_step", "128"),
            ("rollout.group_size", "16"),
            ("optimizer.learning_rate", "0.000001"),
        ],
    ),
    (
        "qwen25_math_surrogate",
        &[
            ("rewards[0].length_max", "3072"),
            ("rewards[0].p", "0.5"),
            ("rewards[0].format_weight", "1.0"),
            ("rollout.temperature", "0.6"),
            ("learner.kl.coefficient", "0.001"),
            ("learner.kl.estimator", "\"k3\""),
            ("run.steps", "100"),
        ],
    ),
    (
        "longwriter_zero",
        &[
            ("rollout.group_size", "32"),
            ("rollout.temperature", "0.8"),
            ("rollout.output_tokens_max", "14336"),
            ("learner.advantage.combine", "\"advantage\""),
            ("learner.kl.enabled", "false"),
        ],
    ),
];

#[test]
fn presets_have_the_values_of_their_papers() {
    let place = tempfile::tempdir().unwrap();
    let values = |preset: &str| {
        let path = root().join(format!("{preset}.toml"));
        let config = RunConfig::load(&path, &settings(preset, place.path())).unwrap();
        let mut keys = BTreeMap::new();
        flatten("", &toml::from_str(&config.resolved()).unwrap(), &mut keys);
        keys
    };
    for (preset, expected) in STATED {
        let found = values(preset);
        for (key, value) in expected {
            let number = |text: &str| text.parse::<f64>().ok();
            let is_same = match (found.get(*key), number(value)) {
                (Some(found), Some(value)) => number(found) == Some(value),
                (found, _) => found.map(String::as_str) == Some(*value),
            };
            assert!(is_same, "{preset}: {key} is {:?}, not {value}", found.get(*key));
        }
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
