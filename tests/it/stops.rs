//! Stop strings, stop token ids and `min_tokens` through the program: in `generate`, in `eval` and in a run, with what
//! is recorded of them. The model's tokens are characters.

use std::fs;

use serde_json::Value;
use tempfile::tempdir;

use crate::binary::{longhaul, metrics, repository, small_run, success, text_of};

const PROMPT: &str = "4+3*2-5=";

/// The likeliest answer to the prompt.
fn answer(set: &[&str]) -> String {
    let mut arguments = vec!["generate", "--model", "models/quickstart", "--prompt", PROMPT];
    for assignment in ["rollout.temperature=0", "rollout.output_tokens_max=64"].iter().chain(set) {
        arguments.extend(["--set", assignment]);
    }
    success(&arguments).strip_suffix('\n').expect("a line").to_owned()
}

#[test]
fn generate_stops_where_it_is_told_to() {
    let whole = answer(&[]);
    // Three tokens from the middle, which are found where they first stand, be it over the end of the prompt.
    let stop = &whole[2..5];
    let place = format!("{PROMPT}{whole}").find(stop).expect("it is there") + stop.len() - PROMPT.len();
    let set = format!("rollout.stop=[\"#####\", \"{stop}\"]");
    assert_eq!(answer(&[&set]), whole[..place]);
    let before = whole[..place].len().saturating_sub(stop.len());
    assert_eq!(answer(&[&set, "rollout.include_stop_str_in_output=false"]), whole[..before]);
    // `#` is token 23.
    let (text, _) = whole.split_once('#').expect("an answer has a mark");
    assert_eq!(answer(&["rollout.stop_token_ids=[23]"]), text);
    assert_eq!(answer(&["rollout.stop=[\"#\"]"]), format!("{text}#"));
    assert!(whole.len() < 40, "{whole:?} is longer than the next line can show");
    assert!(answer(&["rollout.min_tokens=50"]).len() >= 50);
}

#[test]
fn stops_that_can_never_be_met_are_refused() {
    for (set, reason) in [
        (
            "rollout.stop_token_ids=[24]",
            "rollout.stop_token_ids: token 24 is outside the model's vocabulary of 24",
        ),
        ("rollout.stop=[\"END\"]", "rollout.stop: no token of the tokenizer can end \"END\""),
        ("rollout.stop=[\"\"]", "rollout.stop: an empty string"),
    ] {
        let generate = ["generate", "--model", "models/quickstart", "--prompt", PROMPT, "--set", set];
        for arguments in [&generate[..], &["check", "configs/quickstart.toml", "--set", set]] {
            let output = longhaul(arguments);
            let said = text_of(&output);
            let expected = format!("error: --set {set}: {reason}");
            assert!(!output.status.success() && said.contains(&expected), "{said}");
        }
    }
    // In a file, the line of the key.
    let place = tempdir().unwrap();
    let config = fs::read_to_string(repository().join("configs/quickstart.toml")).unwrap();
    let config = config.replace("\"../", &format!("\"{}/", repository().display()));
    let (before, behind) = config.split_once("[rollout]\n").expect("it has the section");
    let file = place.path().join("a.toml");
    fs::write(&file, format!("{before}[rollout]\nstop = [\"END\"]\n{behind}")).unwrap();
    let output = longhaul(&["check", file.to_str().unwrap()]);
    let line = before.lines().count() + 2;
    assert!(
        text_of(&output).contains(&format!("a.toml:{line}: rollout.stop: no token")),
        "{}",
        text_of(&output)
    );
}

#[test]
fn a_run_records_what_stopped_its_completions() {
    let place = tempdir().unwrap();
    let stops =
        ["rollout.stop=[\",\", \"=5\"]", "rollout.stop_token_ids=[20]", "run.steps=2", "eval.before=true"];
    let run = small_run(&place.path().join("run"), &stops);
    let steps = metrics(&run);
    for step in steps.iter().filter(|step| step.get("completions/clipped_ratio").is_some()) {
        let share = |name: &str| step[&format!("completions/{name}")].as_f64().expect("a number");
        let [eos, string, token] =
            ["eos", "stop_string", "stop_token_id"].map(|name| share(&format!("stopped_by/{name}")));
        assert!(string > 0.0, "{step}");
        assert!((eos + string + token + share("clipped_ratio") - 1.0).abs() < 1e-9, "{step}");
    }
    assert!(
        steps[0]["eval/stopped_by/stop_string"].as_f64().expect("evaluation stops as training does") > 0.0
    );
    let file = fs::read_to_string(run.join("rollouts/step-000001.jsonl")).unwrap();
    let records: Vec<Value> = file.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for record in &records {
        let (text, prompt) = (record["completion"].as_str().unwrap(), record["prompt"].as_str().unwrap());
        let inside = &text[..text.len().saturating_sub(1)];
        assert!(!inside.contains([',', ';']), "it stops at the first one: {record}");
        match &record["stop_reason"] {
            Value::String(stop) => assert!(format!("{prompt}{text}").ends_with(stop.as_str()), "{record}"),
            Value::Number(id) => {
                assert_eq!(
                    record["completion_tokens"].as_array().unwrap().last().unwrap().as_u64(),
                    id.as_u64()
                );
            }
            _ => assert!(
                record["finish"] == "length"
                    || record["completion_tokens"].as_array().unwrap().last().unwrap() == 1
            ),
        }
    }
    assert!(records.iter().any(|record| record["stop_reason"] == ","), "{file}");
}

// Invariant 3: what is not drawn at the beginning is in the actor's log-prob as it is in the learner's.
#[test]
fn min_tokens_part_no_actor_from_its_learner() {
    let place = tempdir().unwrap();
    let set = [
        "run.schedule=\"lockstep\"",
        "queue.staleness_versions_max=0",
        "rollout.min_tokens=30",
        "run.steps=2",
    ];
    let steps = metrics(&small_run(&place.path().join("run"), &set));
    let steps: Vec<&Value> = steps.iter().filter(|step| step.get("mismatch/kl").is_some()).collect();
    assert!(!steps.is_empty(), "no step was made");
    for step in steps {
        let number = |tag: &str| step[tag].as_f64().expect("a number");
        assert!(number("completions/min_length") > 30.0, "{step}");
        assert!((0.0..1e-9).contains(&number("mismatch/kl")), "{step}");
    }
}
