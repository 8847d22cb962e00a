//! How long a model's sequences may be: as its rotary scaling makes them, or as the config says instead; and that
//! whoever meets the limit is told.

use std::fs;
use std::path::Path;
use std::process::Output;

use kernels::DecoderConfig;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::binary::{longhaul, metrics, repository, text_of};

/// The quickstart's model with 24 positions, stretched by this scaling.
fn model(dir: &Path, scaling: Value) -> String {
    let from = repository().join("models/quickstart");
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.join(path.file_name().unwrap())).unwrap();
    }
    let file = dir.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    config["max_position_embeddings"] = json!(24);
    config["rope_scaling"] = scaling;
    config.as_object_mut().unwrap().remove("rope_parameters");
    fs::write(file, config.to_string()).unwrap();
    dir.to_str().unwrap().to_owned()
}

fn yarn() -> Value {
    json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24})
}

/// An answer that the model does not end before 60 tokens.
fn generate(model: &str, set: &[&str]) -> Output {
    let mut arguments = vec!["generate", "--model", model, "--prompt", "4+3*2-5="];
    for assignment in ["rollout.output_tokens_max=70", "rollout.min_tokens=60"].iter().chain(set) {
        arguments.extend(["--set", assignment]);
    }
    longhaul(&arguments)
}

/// The answer, and what was said beside it.
fn answer(output: &Output) -> (String, String) {
    assert!(output.status.success(), "{}", text_of(output));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\n').to_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn generate_goes_as_far_as_the_model_and_says_where_it_was_cut() {
    let place = tempdir().unwrap();
    let short = model(place.path(), Value::Null);
    let (text, said) = answer(&generate(&short, &[]));
    assert!(text.chars().count() <= 16, "{text}");
    assert!(said.contains("cut off after 16 tokens: the model has 24 positions"), "{said}");
    let (text, said) = answer(&generate(&short, &["model.positions_max=80"]));
    assert!(text.chars().count() >= 60, "{text}");
    assert!(said.contains("model.positions_max = 80: the model was made for 24 positions"), "{said}");
    assert!(said.contains("a checkpoint of it states max_position_embeddings = "), "{said}");
    let long = tempdir().unwrap();
    let long = model(long.path(), yarn());
    let (text, said) = answer(&generate(&long, &[]));
    assert!(text.chars().count() >= 60, "{text}");
    assert!(!said.contains("positions"), "{said}");
    // A lower limit is one too.
    let (_, said) = answer(&generate(&long, &["model.positions_max=30"]));
    assert!(said.contains("cut off after 22 tokens: the model has 30 positions"), "{said}");
    for (set, reason) in
        [("model.positions_max=8", "the prompt has 8 tokens"), ("model.positions_max=1", "must be from 2")]
    {
        let refused = generate(&long, &[set]);
        assert!(!refused.status.success() && text_of(&refused).contains(reason), "{}", text_of(&refused));
    }
}

#[test]
fn an_answer_that_ends_before_its_limit_was_not_cut_off() {
    let likeliest = |limit: &str| {
        let greedy = ["--set", "rollout.temperature=0", "--set", limit];
        let prompt = ["generate", "--model", "models/quickstart", "--prompt", "4+3*2-5="];
        answer(&longhaul(&[&prompt[..], &greedy[..]].concat())).1
    };
    let said = likeliest("rollout.output_tokens_max=4");
    assert!(said.contains("cut off after 4 tokens: rollout.output_tokens_max"), "{said}");
    assert_eq!(likeliest("rollout.output_tokens_max=500"), "");
}

#[test]
fn a_run_decodes_beyond_the_stated_positions_and_its_checkpoint_does_too() {
    let place = tempdir().unwrap();
    let train = |model: &str, run: &Path, set: &[&str]| {
        let path = format!("model.path=\"{model}\"");
        let mut arguments = vec!["train", "configs/quickstart.toml", "--run", run.to_str().unwrap()];
        let small = [
            path.as_str(),
            "run.steps=1",
            "run.schedule=\"lockstep\"",
            "queue.staleness_versions_max=0",
            "rollout.output_tokens_max=64",
            "rollout.min_tokens=50",
            "rollout.group_size=2",
            "learner.groups_per_step=2",
            "learner.dynamic_sampling=off",
            "queue.groups_max=2",
            "eval.before=false",
            "eval.after=false",
        ];
        for assignment in small.iter().chain(set) {
            arguments.extend(["--set", assignment]);
        }
        longhaul(&arguments)
    };
    for (name, scaling, set, positions) in [
        ("yarn", yarn(), &[][..], 96),
        ("linear", json!({"rope_type": "linear", "factor": 5.0}), &[], 120),
        ("asked", Value::Null, &["model.positions_max=90"], 90),
    ] {
        let dir = place.path().join(name);
        fs::create_dir(&dir).unwrap();
        let model = model(&dir, scaling);
        let run = place.path().join(format!("{name}-run"));
        let output = train(&model, &run, set);
        assert!(output.status.success(), "{}", text_of(&output));
        assert!(metrics(&run)[0]["completions/min_length"].as_f64().unwrap() >= 50.0);
        let saved = DecoderConfig::read(&run.join("checkpoints/step-1")).unwrap();
        assert_eq!(saved.max_positions, positions, "{name}");
    }
    let short = place.path().join("short");
    fs::create_dir(&short).unwrap();
    let refused = train(&model(&short, Value::Null), &place.path().join("run"), &[]);
    let said = text_of(&refused);
    assert!(!refused.status.success() && said.contains("the model has 24 positions"), "{said}");
    assert!(said.contains("raise model.positions_max"), "{said}");
}
