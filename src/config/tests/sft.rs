//! What makes a config for `longhaul sft`, and what is refused there.

use std::fs;

use rewards::{RewardConfig, RewardKind};

use super::{TRAIN, folder, load, shortened};
use crate::config::{Config, SftRunConfig};

pub(super) const SFT: &str = r#"
[model.create]
hidden = 64
layers = 2
heads = 4
kv_heads = 2
intermediate = 128
max_positions = 256

[data]
kind = "task"
name = "addition"
difficulty_min = 2
difficulty_max = 4

[sft]
steps_max = 100
batch_size = 16
batch_tokens_max = 1024
output_tokens_max = 64
stop_accuracy = 0.3
[sft.demonstrations]
hasty = 0.5
careful = 0.25
verbose = 0.25

[optimizer]
kind = "adamw"
learning_rate = 1e-3

[eval]
every_steps = 10
"#;

pub(super) fn load_sft(text: &str, set: &[&str]) -> Result<SftRunConfig, String> {
    let folder = folder(text);
    let set: Vec<String> = set.iter().map(|assignment| (*assignment).to_owned()).collect();
    SftRunConfig::load(&folder.path().join("a.toml"), &set).map_err(|error| shortened(&error, &folder))
}

#[test]
fn the_resolved_sft_config_reads_as_the_same() {
    let folder = folder(SFT);
    let Config::Sft(config) = Config::load(&folder.path().join("a.toml"), &[]).unwrap() else {
        panic!("a file with [sft] is for sft");
    };
    fs::write(folder.path().join("resolved.toml"), config.resolved()).unwrap();
    let again = SftRunConfig::load(&folder.path().join("resolved.toml"), &[]).unwrap();
    assert_eq!(again, *config);
    assert!(matches!(
        &again.rewards[..],
        [RewardConfig { kind: RewardKind::Task {}, correctness: true, .. }]
    ));
}

#[test]
fn contradictions_of_sft_name_their_keys() {
    for (set, expected) in [
        ("model.path=model", "[model] needs either path"),
        ("model.create.heads=3", "model.create.heads: 3 heads of an even width do not divide hidden = 64"),
        ("model.create.kv_heads=3", "model.create.kv_heads: 3 does not divide heads = 4"),
        ("model.create.layers=0", "model.create.layers: must be at least 1, got 0"),
        ("sft.stop_accuracy=30", "sft.stop_accuracy: must be above 0 and at most 1, got 30"),
        ("eval.every_steps=0", "sft.stop_accuracy: nothing is measured on the way"),
        ("sft.demonstrations.hasty=-1", "sft.demonstrations.hasty: must be 0 or more"),
        ("sft.batch_size=0", "sft.batch_size: must be at least 1, got 0"),
        ("data={kind = \"jsonl\", path = \"prompts.jsonl\"}", "model.create: a new model knows the alphabet"),
        ("rollout.group_size=2", "unknown section `rollout`"),
        ("sft.steps_max=\"3\"", "sft.steps_max: expected a whole number, found string \"3\""),
    ] {
        let message = load_sft(SFT, &[set]).unwrap_err();
        assert!(message.contains(expected), "{set}: {message}");
    }
    let message = load(SFT, &[]).unwrap_err();
    assert_eq!(message, "a.toml:16: `[sft]` makes this a config for `longhaul sft`");
    let message = load_sft(TRAIN, &[]).unwrap_err();
    assert!(message.contains("`[learner]` makes this a config for `longhaul train`"), "{message}");
    let message =
        load_sft(&SFT.replace("[sft.demonstrations]\nhasty = 0.5\ncareful = 0.25\nverbose = 0.25", ""), &[]);
    assert!(message.unwrap_err().contains("[sft.demonstrations] is missing"));
}
