//! Steps that have nothing to learn from: they cost the learner nothing, say so, and leave no number that is none.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::tempdir;

use crate::binary::{metrics, repository, success};

fn fixture(name: &str) -> PathBuf {
    repository().join("tests/fixtures/replay").join(name)
}

/// The fixture's recording with other rewards: of a group and a member.
fn recording(folder: &Path, reward: impl Fn(&str, usize) -> u8) -> PathBuf {
    let text = fs::read_to_string(fixture("completions.jsonl")).unwrap();
    let mut lines = String::new();
    let (mut group, mut member) = (String::new(), 0);
    for line in text.lines() {
        let mut record: Value = serde_json::from_str(line).unwrap();
        let name = record["group"].as_str().unwrap().to_owned();
        member = if name == group { member + 1 } else { 0 };
        group = name;
        let right = reward(&group, member);
        record["reward"] = right.into();
        record["correctness"] = right.into();
        record["parts"] = serde_json::json!({"math": right});
        lines += &format!("{record}\n");
    }
    let file = folder.join("completions.jsonl");
    fs::write(&file, lines).unwrap();
    file
}

/// Replays a recording of five groups, two a step.
fn replay(folder: &Path, rollouts: &Path, set: &[&str]) -> (String, PathBuf) {
    let config = format!(
        "[model]\npath = {:?}\n[learner]\ngroups_per_step = 2\nbatch_tokens_max = 64\n[learner.advantage]\n\
         kind = \"grpo\"\n[optimizer]\nkind = \"sgd\"\nlearning_rate = 0.1\n",
        fixture("model")
    );
    let (file, run) = (folder.join("replay.toml"), folder.join("run"));
    fs::write(&file, config).unwrap();
    let mut arguments = vec!["replay", file.to_str().unwrap(), "--rollouts", rollouts.to_str().unwrap()];
    arguments.extend(["--overwrite", "--run", run.to_str().unwrap()]);
    set.iter().for_each(|set| arguments.extend(["--set", set]));
    (success(&arguments), run)
}

/// The numbers of a model's tensors by their names, as f32.
fn weights(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let numbers = |view: &TensorView<'_>| {
        assert_eq!(view.dtype(), Dtype::F32);
        view.data().as_chunks().0.iter().map(|each| f32::from_le_bytes(*each)).collect()
    };
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    tensors.iter().map(|(name, view)| (name.clone(), numbers(view))).collect()
}

#[test]
fn a_replay_of_wrong_answers_makes_no_pass_and_says_so() {
    let place = tempdir().unwrap();
    let rollouts = recording(place.path(), |_, _| 0);
    let (said, run) = replay(place.path(), &rollouts, &[]);
    let line = "step 1: 2 groups, reward 0.0000, nothing to learn from: all 2 groups had equal rewards (0 all right, \
                2 all wrong)\n";
    assert!(said.contains(line), "{said}");
    assert!(said.ends_with("checkpoints/step-3; no step had anything to learn from\n"), "{said}");
    assert!(!said.contains("NaN"), "{said}");
    for step in metrics(&run) {
        let step = step.as_object().unwrap();
        assert!(step.values().all(Value::is_number), "{step:?}");
        assert!(!step.contains_key("entropy") && !step.contains_key("mismatch/kl"), "{step:?}");
        assert_eq!(step["grad_norm"], 0.0);
        assert_eq!(
            (&step["streambp/micro_batches"], &step["training/packed_tokens"]),
            (&0.0.into(), &0.0.into())
        );
        assert_eq!(step["training/tokens_skipped"], step["training/completion_tokens"]);
    }
    let given = weights(&fixture("model"));
    assert!(weights(&run.join("checkpoints/step-3")) == given, "a step without gradients moved the weights");
    let (_, learned) =
        replay(place.path(), &recording(place.path(), |_, member| u8::from(member == 0)), &["run.steps=1"]);
    assert!(weights(&learned.join("checkpoints/step-1")) != given, "a step with gradients did not");
}

#[test]
fn what_teaches_nothing_is_in_the_denominator_and_in_no_pass() {
    let place = tempdir().unwrap();
    let rollouts = recording(place.path(), |group, member| u8::from(group == "g1" && member == 0));
    let (said, run) = replay(place.path(), &rollouts, &[]);
    assert!(said.contains("step 1: 2 groups, reward 0.1250, loss "), "{said}");
    assert!(said.contains("step 2: 2 groups, reward 0.0000, nothing to learn from"), "{said}");
    assert!(said.ends_with("checkpoints/step-3\n"), "{said}");
    let first = &metrics(&run)[0];
    let number = |tag: &str| first[tag].as_f64().unwrap();
    assert!(number("entropy") > 0.0 && number("grad_norm") > 0.0);
    assert_eq!(number("training/completions_skipped"), 4.0);
    assert!(number("training/tokens_skipped") < number("training/completion_tokens"));
}
