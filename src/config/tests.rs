//! Whole configs: what is read, what is refused, what the resolved text says.

use std::fs;

use proptest::prelude::{prop_assert_eq, proptest};

use learner::config::MismatchConfig;
use rewards::{RewardConfig, RewardKind};
use rollout::DataConfig;

use super::*;

mod evaluation;
mod sft;

use sft::{SFT, load_sft};

const TRAIN: &str = r#"
[run]
seed = 7
steps = 10
schedule = "lockstep"

[model]
path = "model"

[data]
kind = "task"
name = "addition"
difficulty_min = 2
difficulty_max = 4

[rollout]
output_tokens_max = 64
segments_max = 4
trajectories_open_max = 16
group_size = 4
temperature = 1

[queue]
groups_max = 8
staleness_versions_max = 2

[[rewards]]
kind = "task"
correctness = true

[[rewards]]
kind = "length"
weight = 0.1
length_max = 64

[learner]
groups_per_step = 4
batch_tokens_max = 1024

[learner.advantage]
kind = "grpo_lambda"
surrogates = "add"

[learner.mpt]
enabled = true

[optimizer]
kind = "adamw"
learning_rate = 1e-4
"#;

/// A folder with a config `a.toml` and the things that it names.
fn folder(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("model")).unwrap();
    fs::write(folder.path().join("prompts.jsonl"), "{\"prompt\": \"1+1=\"}\n").unwrap();
    fs::write(folder.path().join("a.toml"), text).unwrap();
    folder
}

fn load(text: &str, set: &[&str]) -> Result<RunConfig, String> {
    let folder = folder(text);
    let set: Vec<String> = set.iter().map(|assignment| (*assignment).to_owned()).collect();
    RunConfig::load(&folder.path().join("a.toml"), &set).map_err(|error| shortened(&error, &folder))
}

/// The complaint without the name of the temporary folder.
fn shortened(error: &ConfigError, folder: &tempfile::TempDir) -> String {
    error.to_string().replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn the_resolved_config_has_every_default_and_reads_as_the_same() {
    let folder = folder(TRAIN);
    let config = RunConfig::load(&folder.path().join("a.toml"), &[]).unwrap();
    let text = config.resolved();
    for line in [
        "top_p = 1.0",
        "on_update = \"recompute\"",
        "dynamic_sampling = \"off\"",
        "refill_batches_max = 4",
        "problems = 256",
        "keep_last = 2",
        "sigma = 0.2",
        "layer_chunk_tokens = 512",
        "kind = \"pois\"",
        "device = \"cpu\"",
        "console = \"auto\"",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    fs::write(folder.path().join("resolved.toml"), &text).unwrap();
    let again = RunConfig::load(&folder.path().join("resolved.toml"), &[]).unwrap();
    assert_eq!(again, config);
    assert_eq!(again.resolved(), text);
}

#[test]
fn entries_with_tables_are_written_as_toml() {
    let entries = r#"
[[rewards]]
kind = "process"
weight = 0.25
command = ["sh"]
environment = { A = "B" }

[[rewards]]
kind = "judge"
url = "http://127.0.0.1:1"
model = "m"
max_completion_tokens = 900
temperature = "omit"
[rewards.request]
reasoning_effort = "low"
top_p = 0.9
chat_template_kwargs = { enable_thinking = false, budget = 1 }
"#;
    let folder = folder(&format!("{TRAIN}{entries}"));
    let config = RunConfig::load(&folder.path().join("a.toml"), &[]).unwrap();
    let text = config.resolved();
    for line in
        ["weight = 0.25", "top_p = 0.9", "enable_thinking = false", "budget = 1", "temperature = \"omit\""]
    {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains('$'), "{text}");
    fs::write(folder.path().join("resolved.toml"), &text).unwrap();
    assert_eq!(RunConfig::load(&folder.path().join("resolved.toml"), &[]).unwrap(), config);
}

proptest! {
    /// Numbers survive the way through text.
    #[test]
    fn any_numbers_read_as_the_same(seed in 0..=i64::MAX as u64, rate in 0.0..1.0_f64, temperature in 1e-3..9.0_f64) {
        let folder = folder(TRAIN);
        let set = [
            format!("run.seed={seed}"),
            format!("optimizer.learning_rate={rate}"),
            format!("rollout.temperature={temperature:e}"),
        ];
        let config = RunConfig::load(&folder.path().join("a.toml"), &set).unwrap();
        prop_assert_eq!((config.run.seed, config.optimizer.learning_rate), (seed, rate));
        fs::write(folder.path().join("resolved.toml"), config.resolved()).unwrap();
        prop_assert_eq!(RunConfig::load(&folder.path().join("resolved.toml"), &[]).unwrap(), config);
    }
}

#[test]
fn a_folder_for_layer_inputs_is_there_and_used() {
    let set = |section: &str, place: &str, dir: &str| {
        ["kind=streambp".to_owned(), format!("layer_inputs={place}"), format!("layer_inputs_dir={dir}")]
            .map(|assignment| format!("{section}.gradients.{assignment}"))
    };
    let train = |place, dir| {
        let set = set("learner", place, dir);
        load(TRAIN, &set.each_ref().map(String::as_str))
    };
    let gradients = train("file", "model").unwrap().learner.gradients;
    assert!(gradients.streambp().unwrap().layer_inputs_dir.as_ref().unwrap().is_absolute());
    let missing = train("file", "nowhere").unwrap_err();
    assert!(missing.contains("learner.gradients.layer_inputs_dir: there is no nowhere"), "{missing}");
    let unused = train("bf16", "model").unwrap_err();
    assert!(unused.contains("learner.gradients.layer_inputs_dir: is given, but"), "{unused}");
    let set = set("sft", "memory", "model");
    let unused = load_sft(SFT, &set.each_ref().map(String::as_str)).unwrap_err();
    assert!(unused.contains("sft.gradients.layer_inputs_dir: is given, but"), "{unused}");
}

#[test]
fn sections_of_earlier_versions_name_what_they_have_become() {
    let line = TRAIN.lines().count() + 2;
    for (keys, now) in [
        ("enabled = true\nlayer_chunk_tokens = 96", "`enabled = true` is kind = \"streambp\" now"),
        ("enabled = false", "`enabled = false` is kind = \"whole\" now"),
        ("layer_chunk_tokens = 96", "without `enabled` it is kind = \"streambp\""),
        (
            "enabled = true\n[learner.gradients]\nkind = \"whole\"",
            "`enabled = true` is kind = \"streambp\" now",
        ),
    ] {
        let error = load(&format!("{TRAIN}\n[learner.streambp]\n{keys}\n"), &[]).unwrap_err();
        let start =
            format!("a.toml:{line}: learner.streambp: the section is [learner.gradients] now, with kind = ");
        assert!(error.starts_with(&start) && error.contains(now), "{error}");
    }
    let error = load(TRAIN, &["learner.streambp.enabled=false"]).unwrap_err();
    let start =
        "--set learner.streambp.enabled=false: learner.streambp: the section is [learner.gradients] now";
    assert!(error.starts_with(start) && error.contains("kind = \"whole\" now"), "{error}");
    let error = load_sft(SFT, &["sft.streambp.enabled=true"]).unwrap_err();
    assert!(error.contains("sft.streambp: the section is [sft.gradients] now"), "{error}");
}

#[test]
fn typos_name_file_line_and_key() {
    let complaint = |old: &str, new: &str| load(&TRAIN.replacen(old, new, 1), &[]).unwrap_err();
    assert_eq!(
        complaint("segments_max", "segment_max"),
        "a.toml:18: unknown key `rollout.segment_max`; the nearest known key is `segments_max`"
    );
    assert_eq!(
        complaint("groups_per_step", "group_size"),
        "a.toml:37: unknown key `learner.group_size`; the nearest known key is `rollout.group_size`"
    );
    assert_eq!(
        complaint("[queue]", "[que]"),
        "a.toml:23: unknown section `que`; the nearest known one is `queue`"
    );
    assert_eq!(
        complaint("surrogates = \"add\"", "surrogates = \"ad\""),
        "a.toml:42: learner.advantage.surrogates: unknown value `ad`; the nearest known one is `add`"
    );
    assert_eq!(complaint("\"addition\"", "\"adition\"").split_once(": ").unwrap().0, "a.toml:12");
    assert_eq!(
        complaint("schedule = \"lockstep\"", "device = \"gpu\""),
        "a.toml:5: run.device: unknown value `gpu`; the nearest known one is `cpu`"
    );
}

#[test]
fn contradictions_name_their_keys() {
    for (set, expected) in [
        (
            "rollout.segments_max=0",
            "--set rollout.segments_max=0: rollout.segments_max: must be at least 1, got 0",
        ),
        ("rollout.segments_max=5", "rollout.segments_max: 5 segments do not divide output_tokens_max = 64"),
        ("rollout.group_size=1", "rollout.group_size: must be at least 2, got 1"),
        ("rollout.trajectories_open_max=0", "rollout.trajectories_open_max: must be at least 1, got 0"),
        ("rollout.temperature=0", "rollout.temperature: must be finite and above 0, got 0"),
        ("queue.groups_max=3", "queue.groups_max: 3 is less than learner.groups_per_step = 4"),
        ("learner.groups_per_step=9", "queue.groups_max: 8 is less than learner.groups_per_step = 9"),
        ("run.steps=0", "run.steps: must be given and at least 1"),
        ("run.threads=0", "run.threads: must be at least 1"),
        ("learner.kl={enabled = true, coefficient = 1}", "learner.kl.reference: is missing"),
        ("learner.kl={enabled = true, reference = \"model\"}", "learner.kl.coefficient: must be above 0"),
        (
            "rewards[0].weight=2",
            "rewards[0].weight = 2: learner.advantage.surrogates = \"add\" needs weight = 1",
        ),
        (
            "learner.mismatch={kind = \"tis\", cap = 0}",
            "learner.mismatch.cap: 0 is not a finite weight above 0",
        ),
        ("learner.mismatch={kind = \"tis\", cap = inf}", "learner.mismatch.cap: inf is not a finite weight"),
        (
            "learner.mismatch={kind = \"tis\", cup = 2}",
            "unknown key `learner.mismatch.cup`; the nearest known key is `cap`",
        ),
        (
            "learner.mismatch.kind=tos",
            "learner.mismatch.kind: unknown value `tos`; the nearest known one is `tis`",
        ),
        ("rollout.precision=f16", "rollout.precision: unknown value `f16`; the nearest known one is `bf16`"),
        (
            "rollout.on_update=atuo",
            "rollout.on_update: unknown value `atuo`; the nearest known one is `auto`",
        ),
        ("rewards[0].correctness=false", "learner.advantage.kind = \"grpo_lambda\" ranks groups"),
        ("rewards[1].correctness=true", "rewards[1].correctness: `length` does not say what is right"),
        ("rewards[1].name=task", "rewards[1].name: `task` is the name of another reward"),
        ("rewards=[]", "rewards: at least one reward is needed"),
        (
            "data={kind = \"jsonl\", path = \"prompts.jsonl\"}",
            "rewards[0].kind: `task` judges the problems of a task",
        ),
        ("data.difficulty_min=5", "data.difficulty_min: 5 is above difficulty_max = 4"),
        ("eval.pass_k=4", "eval.pass_k = 4: at eval.temperature = 0 all answers to a prompt are the same"),
        ("eval.problems=0", "eval.problems: must be at least 1, got 0"),
        ("eval.data=prompts.jsonl", "eval.data: data.kind = \"task\" makes its own held-out problems"),
        ("checkpoint.keep_last=0", "checkpoint.keep_last: must be at least 1, got 0"),
        ("optimizer.clip_norm=0", "optimizer.clip_norm: 0 is not above 0"),
    ] {
        let message = load(TRAIN, &[set]).unwrap_err();
        assert!(message.contains(expected), "{set}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
    let without_labels = ["rewards[0].correctness=false", "learner.advantage={kind = \"grpo\"}"];
    let message = load(TRAIN, &without_labels).unwrap_err();
    assert!(message.starts_with("a.toml:44: learner.mpt.positive = \"correct\" needs"), "{message}");
    let labels_from_advantage = [&without_labels[..], &["learner.mpt.positive=advantage"]].concat();
    load(TRAIN, &labels_from_advantage).unwrap();
}

/// What is done about the mismatch goes by how the actors decode, and the resolved config shows it.
#[test]
fn rounded_rollouts_are_corrected_unless_the_config_says_otherwise() {
    let mismatch = |set: &[&str]| load(TRAIN, set).unwrap().learner.mismatch.unwrap();
    assert_eq!(mismatch(&[]), MismatchConfig::None {});
    assert_eq!(mismatch(&["rollout.precision=bf16"]), MismatchConfig::Tis { cap: 2.0 });
    assert_eq!(mismatch(&["rollout.kv_cache=bf16"]), MismatchConfig::Tis { cap: 2.0 });
    assert_eq!(mismatch(&["rollout.precision=i8", "learner.mismatch.kind=none"]), MismatchConfig::None {});
    assert_eq!(mismatch(&["rollout.precision=i8", "learner.importance.kind=sais"]), MismatchConfig::None {});
    assert_eq!(mismatch(&["learner.mismatch={kind = \"tis\", cap = 3}"]), MismatchConfig::Tis { cap: 3.0 });
    let twice = load(TRAIN, &["learner.importance.kind=sais", "learner.mismatch.kind=tis"]).unwrap_err();
    assert!(twice.contains("learner.mismatch.kind: \"tis\" would divide by the actor's"), "{twice}");
    let resolved = load(TRAIN, &["rollout.precision=bf16"]).unwrap().resolved();
    for lines in ["precision = \"bf16\"", "[learner.mismatch]\nkind = \"tis\"\ncap = 2.0"] {
        assert!(resolved.contains(lines), "{lines} is not in\n{resolved}");
    }
    let folder = folder(TRAIN);
    let file = folder.path().join("a.toml");
    let replay = ReplayConfig::load(&file, &["rollout.precision=i8".into()]).unwrap();
    assert_eq!(replay.learner.mismatch, Some(MismatchConfig::Tis { cap: 2.0 }));
}

#[test]
fn a_contradiction_in_the_file_has_its_line() {
    let text = TRAIN.replace("segments_max = 4", "segments_max = 0");
    assert_eq!(load(&text, &[]).unwrap_err(), "a.toml:18: rollout.segments_max: must be at least 1, got 0");
    let two = TRAIN
        .replace("kind = \"length\"\nweight = 0.1\nlength_max = 64", "kind = \"math\"\ncorrectness = true");
    let message = load(&two, &[]).unwrap_err();
    assert!(message.starts_with("a.toml:33: rewards[1].correctness: `task` is marked already"), "{message}");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda_says_so() {
    let message = load(TRAIN, &["run.device=cuda"]).unwrap_err();
    assert!(message.contains("run.device: this build has no \"cuda\""), "{message}");
}

#[test]
fn paths_are_found_beside_the_config_and_made_absolute() {
    let folder = folder(TRAIN);
    let config = RunConfig::load(&folder.path().join("a.toml"), &[]).unwrap();
    assert_eq!(config.model.path, folder.path().join("model").canonicalize().unwrap());
    // `src` is there in the directory that tests run in.
    let config = RunConfig::load(&folder.path().join("a.toml"), &["model.path=src".to_owned()]).unwrap();
    assert_eq!(config.model.path, Path::new("src").canonicalize().unwrap());

    let message = load(TRAIN, &["model.path=no/such"]).unwrap_err();
    assert_eq!(
        message,
        "--set model.path=no/such: model.path: there is no no/such (nor no/such); a name on the Hugging Face Hub? \
         Download it first (hf download no/such --local-dir DIR)"
    );
    let message =
        load(TRAIN, &["learner.kl={enabled = true, coefficient = 1, reference = \"other\"}"]).unwrap_err();
    assert!(message.contains("learner.kl.reference: there is no other (nor other)"), "{message}");
}

#[test]
fn jsonl_is_measured_only_on_held_out_data() {
    let jsonl = ["data={kind = \"jsonl\", path = \"prompts.jsonl\"}", "rewards[0].kind=math"];
    let config = load(TRAIN, &jsonl).unwrap();
    assert_eq!(config.evaluations(), []);
    assert!(!config.eval.before && !config.eval.after);

    let asked = [&jsonl[..], &["eval.every_steps=5"]].concat();
    let message = load(TRAIN, &asked).unwrap_err();
    assert!(message.contains("eval.every_steps: there is nothing to measure on"), "{message}");

    let held_out = [&jsonl[..], &["eval.data=prompts.jsonl"]].concat();
    let [evaluation] = &load(TRAIN, &held_out).unwrap().evaluations()[..] else { panic!("one set") };
    let DataConfig::File(data) = &evaluation.data else { panic!("data is JSONL") };
    assert!(data.path.as_ref().is_some_and(|path| path.ends_with("prompts.jsonl")));
}

/// A run that is paid without labels is still measured by them.
#[test]
fn evaluation_has_rewards_of_its_own() {
    let surrogate = TRAIN
        .replace("kind = \"task\"\ncorrectness = true", "kind = \"format\"\nstyle = \"task\"")
        .replace("kind = \"grpo_lambda\"\nsurrogates = \"add\"", "kind = \"grpo\"")
        .replace("enabled = true", "enabled = true\npositive = \"advantage\"");
    let labels = |reward: &str| format!("{surrogate}\n[eval]\nproblems = 9\n[[eval.rewards]]\n{reward}\n");
    let config = load(&labels("kind = \"task\"\ncorrectness = true"), &[]).unwrap();
    let evaluations = config.evaluations();
    assert_eq!(evaluations[0].rewards, [RewardConfig::new(RewardKind::Task {}, 1.0, true)]);
    assert_eq!(load(&config.resolved(), &["model.path=model"]).unwrap().eval, config.eval);
    assert!(config.rewards.iter().all(|reward| !reward.correctness));

    let without = load(&surrogate, &[]).unwrap();
    assert_eq!(without.evaluations()[0].rewards, without.rewards);

    let message = |reward: &str| load(&labels(reward), &[]).unwrap_err();
    let line = surrogate.lines().count() + 6;
    for (reward, expected) in [
        (
            "kind = \"task\"\nwieght = 1",
            "unknown key `eval.rewards[0].wieght`; the nearest known key is `weight`",
        ),
        ("kind = \"task\"\nname = \"a/b\"", "eval.rewards[0].name: \"a/b\" must be a word"),
    ] {
        assert!(message(reward).starts_with(&format!("a.toml:{line}: {expected}")), "{}", message(reward));
    }
    let sft = format!("{SFT}\n[[eval.rewards]]\nkind = \"task\"\n");
    assert!(
        load_sft(&sft, &[])
            .unwrap_err()
            .contains("eval.rewards: an sft config is measured by its [[rewards]]")
    );
}

#[test]
fn a_custom_verifier_is_left_to_the_program() {
    load(TRAIN, &["rewards[1]={kind = \"custom\", name = \"rhyme\"}"]).unwrap();
}

#[test]
fn a_replay_needs_no_section_that_it_does_not_use() {
    let folder = folder(
        "[model]\npath = \"model\"\n[learner]\ngroups_per_step = 2\nbatch_tokens_max = 100\n\
         [learner.advantage]\nkind = \"grpo_lambda\"\n[optimizer]\nkind = \"sgd\"\nlearning_rate = 1.0\n",
    );
    let file = folder.path().join("a.toml");
    let config = ReplayConfig::load(&file, &[]).unwrap();
    assert_eq!((config.run.steps, config.temperature()), (0, 1.0));
    fs::write(folder.path().join("resolved.toml"), config.resolved()).unwrap();
    assert_eq!(ReplayConfig::load(&folder.path().join("resolved.toml"), &[]).unwrap(), config);

    fs::write(&file, TRAIN).unwrap();
    assert_eq!(ReplayConfig::load(&file, &["rollout.temperature=0.5".into()]).unwrap().temperature(), 0.5);
    let error = ReplayConfig::load(&file, &["queue.group_max=5".into()]).unwrap_err().to_string();
    assert!(
        error.contains("unknown key `queue.group_max`; the nearest known key is `groups_max`"),
        "{error}"
    );
}

#[test]
fn tools_take_settings_from_the_command_line() {
    let set = ["run.seed=3".to_owned(), "rollout.temperature=0".to_owned()];
    let config = ToolConfig::for_generate(&set).unwrap();
    assert_eq!((config.run.seed, config.rollout.temperature), (3, 0.0));
    for (set, expected) in [
        ("rollout.temprature=1", "unknown key `rollout.temprature`; the nearest known key is `temperature`"),
        ("rollout.top_p=0", "rollout.top_p: must be above 0 and at most 1, got 0"),
        ("rollout.stop_string=[]", "unknown key `rollout.stop_string`; the nearest known key is `stop"),
        ("rollout.stop=[\"\"]", "rollout.stop: an empty string would end every output"),
        ("rollout.min_tokens=1024", "rollout.min_tokens: 1024 leaves no output an end before"),
        ("eval.problems=1", "unknown section `eval`"),
    ] {
        let message = ToolConfig::for_generate(&[set.to_owned()]).unwrap_err().to_string();
        assert!(message.starts_with(&format!("--set {set}: ")) && message.contains(expected), "{message}");
    }
    assert!(ToolConfig::for_logprobs(&set).is_err());
}

#[test]
fn rewards_with_numbers_read_as_the_same() {
    let reward = "[[rewards]]\nkind = \"target_length\"\ntarget = 300\nvalue = \"mean\"\nweight = 0.125\n\
                  [[rewards]]\nkind = \"think_length\"\nunit = \"share\"\nmin = 0.25\nmax = 0.5\nlimit = 0.875\n[learner]\n";
    let folder = folder(&TRAIN.replacen("[learner]\n", reward, 1));
    let config = RunConfig::load(&folder.path().join("a.toml"), &[]).unwrap();
    let text = config.resolved();
    assert!(text.contains("target = 300\n") && text.contains("limit = 0.875\n"), "{text}");
    fs::write(folder.path().join("resolved.toml"), &text).unwrap();
    assert_eq!(RunConfig::load(&folder.path().join("resolved.toml"), &[]).unwrap(), config);
}

#[test]
fn a_bound_without_an_upper_end_is_said_in_a_few_words() {
    let message = load(TRAIN, &["optimizer.learning_rate=-1"]).unwrap_err();
    assert!(
        message.ends_with("optimizer.learning_rate: -1 is not a finite number of at least 0"),
        "{message}"
    );
}
