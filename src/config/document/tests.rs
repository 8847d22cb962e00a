//! One complaint after the other, word for word.

use std::path::PathBuf;

use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Learner {
    groups_per_step: usize,
    #[serde(default)]
    clip: Clip,
    advantage: Advantage,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Clip {
    low: f64,
    #[serde(default)]
    high: f64,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Advantage {
    GrpoLambda { lambda: f64, alpha: f64 },
    Grpo {},
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Reward {
    Task { weight: f64 },
    Length { weight: f64, file: Option<PathBuf> },
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Optimizer {
    learning_rate: f64,
    betas: [f64; 2],
}

const TEXT: &str = "\
[learner]
groups_per_step = 8
[learner.clip]
low = 0.2
[learner.advantage]
kind = \"grpo_lambda\"
lambda = 0.2
alpha = 0.1

[[rewards]]
kind = \"task\"
weight = 1

[[rewards]]
kind = \"length\"
weight = 0.1

[optimizer]
learning_rate = 1e-4
betas = [0.9, 0.95]
";

fn read(text: &str, set: &[&str]) -> Result<(Learner, Vec<Reward>, Optimizer), ConfigError> {
    let mut document = Document::parse(Path::new("a.toml"), text)?;
    for assignment in set {
        document.set(assignment)?;
    }
    document.allow_only(&["learner", "rewards", "optimizer"])?;
    document.know::<Learner>("learner");
    document.know::<Optimizer>("optimizer");
    Ok((document.section("learner")?, document.sections("rewards")?, document.section("optimizer")?))
}

/// The complaint about the text with `old` replaced.
fn complaint(old: &str, new: &str) -> String {
    assert!(TEXT.contains(old), "{old}");
    read(&TEXT.replacen(old, new, 1), &[]).unwrap_err().to_string()
}

fn complaint_about(set: &[&str]) -> String {
    read(TEXT, set).unwrap_err().to_string()
}

#[test]
fn a_whole_file_is_read() {
    let (learner, rewards, optimizer) = read(TEXT, &[]).unwrap();
    assert_eq!(learner.advantage, Advantage::GrpoLambda { lambda: 0.2, alpha: 0.1 });
    assert_eq!(rewards, [Reward::Task { weight: 1.0 }, Reward::Length { weight: 0.1, file: None }]);
    assert_eq!(optimizer.betas, [0.9, 0.95]);
}

#[test]
fn an_unknown_key_names_line_and_nearest_key() {
    for (old, new, expected) in [
        (
            "groups_per_step",
            "group_per_step",
            "a.toml:2: unknown key `learner.group_per_step`; the nearest known key is `groups_per_step`",
        ),
        ("low", "lov", "a.toml:4: unknown key `learner.clip.lov`; the nearest known key is `low`"),
        (
            "lambda = ",
            "lamda = ",
            "a.toml:7: unknown key `learner.advantage.lamda`; the nearest known key is `lambda`",
        ),
        (
            "weight = 0.1",
            "weight = 0.1\nwieght = 1",
            "a.toml:17: unknown key `rewards[1].wieght`; the nearest known key is `weight`",
        ),
        // A key of another section, and a shortened one.
        (
            "low = 0.2",
            "low = 0.2\nlearning_rate = 1",
            "a.toml:5: unknown key `learner.clip.learning_rate`; the nearest known key is `optimizer.learning_rate`",
        ),
        (
            "groups_per_step = 8",
            "groups_per_step = 8\nlr = 1",
            "a.toml:3: unknown key `learner.lr`; the nearest known key is `optimizer.learning_rate`",
        ),
        (
            "kind = \"grpo_lambda\"",
            "kind = \"grpo\"",
            "a.toml:8: unknown key `learner.advantage.alpha`; there are no keys beside it",
        ),
    ] {
        assert_eq!(complaint(old, new), expected);
    }
    assert_eq!(
        complaint("[optimizer]", "[optimiser]"),
        "a.toml:18: unknown section `optimiser`; the nearest known one is `optimizer`"
    );
}

#[test]
fn a_missing_key_names_its_section() {
    for (old, expected) in [
        ("groups_per_step = 8", "a.toml:1: missing key `groups_per_step` in [learner]"),
        ("low = 0.2", "a.toml:3: missing key `low` in [learner.clip]"),
        ("alpha = 0.1", "a.toml:5: missing key `alpha` in [learner.advantage]"),
        ("kind = \"grpo_lambda\"", "a.toml:5: missing key `kind` in [learner.advantage]"),
        ("weight = 0.1", "a.toml:14: missing key `weight` in [[rewards]]"),
    ] {
        assert_eq!(complaint(old, ""), expected);
    }
}

#[test]
fn a_wrong_value_names_its_key() {
    for (old, new, expected) in [
        (
            "groups_per_step = 8",
            "groups_per_step = -1",
            "a.toml:2: learner.groups_per_step: expected a whole number that is not negative, found integer `-1`",
        ),
        (
            "groups_per_step = 8",
            "groups_per_step = 1.5",
            "a.toml:2: learner.groups_per_step: expected a whole number, found number `1.5`",
        ),
        (
            "low = 0.2",
            "low = \"a\\nb\"",
            "a.toml:4: learner.clip.low: expected a number, found string \"a\\nb\"",
        ),
        (
            "alpha = 0.1",
            "alpha = true",
            "a.toml:8: learner.advantage.alpha: expected a number, found boolean `true`",
        ),
        (
            "kind = \"grpo_lambda\"",
            "kind = \"grpo_lamda\"",
            "a.toml:6: learner.advantage.kind: unknown value `grpo_lamda`; the nearest known one is `grpo_lambda`",
        ),
        (
            "weight = 0.1",
            "weight = \"big\"",
            "a.toml:16: rewards[1].weight: expected a number, found string \"big\"",
        ),
        (
            "betas = [0.9, 0.95]",
            "betas = [0.9]",
            "a.toml:20: optimizer.betas: expected an array of length 2, found invalid length 1",
        ),
        (
            "[learner.clip]\nlow = 0.2",
            "clip = 3",
            "a.toml:3: learner.clip: expected a section, found integer `3`",
        ),
    ] {
        assert_eq!(complaint(old, new), expected);
    }
    assert_eq!(
        read("optimizer = 1", &["learner.groups_per_step=1", "learner.advantage.kind=grpo"])
            .unwrap_err()
            .to_string(),
        "a.toml:1: `optimizer` is a section: write [optimizer] above its keys"
    );
    assert_eq!(
        complaint("[[rewards]]\nkind = \"task\"\nweight = 1\n\n[[rewards]]", "[rewards]"),
        "a.toml:10: `rewards` is a list of sections: write [[rewards]]"
    );
}

#[test]
fn what_is_not_toml_names_its_line() {
    let message = complaint("low = 0.2", "low = = 0.2");
    assert!(message.starts_with("a.toml:4: not TOML: "), "{message}");
    let twice = complaint("low = 0.2", "low = 0.2\nlow = 0.3");
    assert!(twice.starts_with("a.toml:5: not TOML: ") && twice.lines().count() == 1, "{twice}");
}

#[test]
fn overrides_change_add_and_replace() {
    let set = [
        "learner.clip.high=0.3",
        "optimizer.learning_rate = 2e-5",
        "rewards[1].file=some/where",
        "rewards.0.weight=2",
        "optimizer.betas=[0.5, 0.6]",
        "learner.advantage={kind = \"grpo\"}",
    ];
    let (learner, rewards, optimizer) = read(TEXT, &set).unwrap();
    assert_eq!(learner.clip, Clip { low: 0.2, high: 0.3 });
    assert_eq!(learner.advantage, Advantage::Grpo {});
    assert_eq!(optimizer, Optimizer { learning_rate: 2e-5, betas: [0.5, 0.6] });
    let file = Some(PathBuf::from("some/where"));
    assert_eq!(rewards, [Reward::Task { weight: 2.0 }, Reward::Length { weight: 0.1, file }]);
}

#[test]
fn another_kind_leaves_the_keys_of_the_former_behind() {
    let (learner, ..) = read(TEXT, &["learner.advantage.kind=grpo"]).unwrap();
    assert_eq!(learner.advantage, Advantage::Grpo {});
    // A key that the command line gives as well is no leftover.
    let message = complaint_about(&["learner.advantage.kind=grpo", "learner.advantage.alpha=1"]);
    assert!(message.starts_with("--set learner.advantage.alpha=1: unknown key"), "{message}");
}

#[test]
fn complaints_about_an_override_name_it() {
    for (set, expected) in [
        (
            "learner.lr=1e-5",
            "--set learner.lr=1e-5: unknown key `learner.lr`; the nearest known key is `optimizer.learning_rate`",
        ),
        (
            "optimizer.learning_rate=fast",
            "--set optimizer.learning_rate=fast: optimizer.learning_rate: expected a number, found string \"fast\"",
        ),
        ("optimizer", "--set optimizer: expected KEY=VALUE, for example optimizer.learning_rate=1e-5"),
        ("optimizer..a=1", "--set optimizer..a=1: a part of the key is empty"),
        ("=1", "--set =1: a part of the key is empty"),
        ("optimizer.betas=[1,", "--set optimizer.betas=[1,: the value is not TOML"),
        ("optimizer.learning_rate=", "--set optimizer.learning_rate=: the value is not TOML"),
        ("rewards[7].weight=1", "--set rewards[7].weight=1: there is no such place in the config"),
        ("optimizer.betas.x=1", "--set optimizer.betas.x=1: there is no such place in the config"),
        (
            "optimiser.x=1",
            "--set optimiser.x=1: unknown section `optimiser`; the nearest known one is `optimizer`",
        ),
    ] {
        assert_eq!(complaint_about(&[set]), expected);
    }
}

#[test]
fn an_absent_file_is_named() {
    let message = Document::read(Path::new("no/such.toml")).unwrap_err().to_string();
    assert!(message.starts_with("no/such.toml: No such file"), "{message}");
}

proptest::proptest! {
    #[test]
    fn no_text_and_no_override_panics(text in "[a-z\\[\\]=.\" \n0-9]{0,60}", set in ".{0,30}") {
        if let Ok(mut document) = Document::parse(Path::new("a"), &text) {
            let _ = document.set(&set);
            let _ = document.section::<Learner>("a");
            let _ = document.sections::<Reward>("b");
            let _ = document.allow_only(&["x"]);
        }
    }
}

#[test]
fn what_is_like_no_key_gets_no_suggestion() {
    for (new, expected) in [
        ("low = 0.2\nwarmth = 1", "a.toml:5: unknown key `learner.clip.warmth`"),
        ("low = 0.2\nmin_p = 1", "a.toml:5: unknown key `learner.clip.min_p`"),
        ("low = 0.2\nhihg = 1", "a.toml:5: unknown key `learner.clip.hihg`; the nearest known key is `high`"),
    ] {
        assert_eq!(complaint("low = 0.2", new), expected);
    }
    assert_eq!(
        complaint("kind = \"grpo_lambda\"", "kind = \"ppo\""),
        "a.toml:6: learner.advantage.kind: unknown value `ppo`; known are `grpo_lambda`, `grpo`"
    );
    assert_eq!(
        complaint("[optimizer]", "[lora]"),
        "a.toml:18: unknown section `lora`; there are learner, rewards, optimizer"
    );
}

#[test]
fn a_section_that_an_override_made_is_its_own_place() {
    let message = complaint_about(&["learner.lora.rank=8"]);
    assert_eq!(message, "--set learner.lora.rank=8: unknown key `learner.lora`");
    let message = complaint_about(&["learner.groups_per_step=18446744073709551615"]);
    assert!(
        message.starts_with("--set learner.groups_per_step=18446744073709551615: a whole number"),
        "{message}"
    );
    assert!(message.ends_with("to 9223372036854775807"), "{message}");
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_config() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("\u{feff}{TEXT}").replace('\n', "\r\n")).unwrap();
    let document = Document::read(file.path()).unwrap();
    assert!(document.has("learner") && document.has("optimizer"));
}

#[test]
fn a_number_that_is_too_large_names_key_and_bounds() {
    for value in ["9223372036854775808", "99_999_999_999_999_999_999", "-9223372036854775809"] {
        let text = format!("[model]\npath = \"a\"\n[run] # of all\nseed = {value} # much\n");
        let message = Document::parse(Path::new("a.toml"), &text).unwrap_err().to_string();
        let number = value.replace('_', "");
        let start = format!("a.toml:4: run.seed: {number} does not fit; a whole number of TOML is from -922");
        assert!(message.starts_with(&start), "{message}");
    }
}
