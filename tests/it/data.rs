//! What becomes of data: columns are rows, a mapping is the config's, a look shows what the model will see, and a filter
//! goes on after a kill. Damaged data is one line of error.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bad_input::{Place, TRAIN};
use crate::binary::repository;

/// The number of rows of the fixtures, which `make_columns_fixtures.py` beside them writes.
const ROWS: usize = 8;

fn copy_fixture(place: &Place, name: &str) {
    fs::copy(repository().join("tests/fixtures/columns").join(name), place.path(name)).unwrap();
}

fn json(place: &Place, arguments: &[&str]) -> Value {
    let output = place.longhaul(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Problems that are solved by nobody in four tokens, and some that anybody solves by chance.
fn problems(place: &Place, count: usize) {
    let rows: Vec<String> = (0..count)
        .map(|row| {
            format!(
                "{{\"question\": \"{row}+1=\", \"answer\": \"so it is\\n#### {}\", \"n\": {row}}}\n",
                row + 1
            )
        })
        .collect();
    place.write("prompts.jsonl", &rows.concat());
    let mapping = "kind = \"file\"\nprompt = \"question\"\nanswer = { field = \"answer\", after = \"####\" }";
    place.change("a.toml", "kind = \"jsonl\"", mapping);
}

#[test]
fn a_look_shows_what_the_model_will_see() {
    let place = Place::new();
    problems(&place, 40);
    place.change("a.toml", "[rollout]", "prompt_tokens_min = 5\nsplit = { fraction = 0.5 }\n[rollout]");
    let look = json(&place, &["data", "a.toml", "--show", "2", "--json"]);
    let left_out: u64 =
        look["left_out"].as_array().unwrap().iter().map(|it| it["rows"].as_u64().unwrap()).sum();
    assert_eq!(look["prompts"].as_u64().unwrap() + left_out, 40);
    assert_eq!((look["rows"].as_u64(), look["answered"].as_f64()), (Some(40), Some(1.0)));
    let shown = look["shown"].as_array().unwrap();
    assert_eq!(shown.len(), 2);
    for prompt in shown {
        let text = prompt["text"].as_str().unwrap();
        let sum: u64 = text.split_once("+1=").unwrap().0.parse::<u64>().unwrap() + 1;
        assert_eq!(prompt["answers"], serde_json::json!([sum.to_string()]));
        assert_eq!(prompt["tokens"].as_array().unwrap().len(), text.len());
        assert!(text.len() >= 5, "{text}");
    }
    let rest = json(&place, &["data", "a.toml", "--split", "held_out", "--json"]);
    let of_split = |look: &Value| {
        let reasons = look["left_out"].as_array().unwrap().iter();
        let mut other = reasons.filter(|it| it["reason"].as_str().unwrap().contains("data.split"));
        other.next().unwrap()["rows"].as_u64().unwrap()
    };
    assert_eq!(of_split(&look) + of_split(&rest), 40);
    let text = place.longhaul(&["data", "a.toml"]);
    let text = String::from_utf8(text.stdout).unwrap();
    for said in
        ["prompts.jsonl (training)", "of 40 rows", "prompt tokens", "with an answer  100.0 %", "answer: \""]
    {
        assert!(text.contains(said), "{said}: {text}");
    }
}

#[test]
fn rows_of_columns_train_as_lines_do() {
    let place = Place::new();
    for name in ["rows.parquet", "rows.arrow", "rows.jsonl"] {
        copy_fixture(&place, name);
    }
    place.change(
        "a.toml",
        "[rollout]",
        "prompt = \"question\"\nanswer = \"reward_model.ground_truth\"\n[rollout]",
    );
    let mut runs = Vec::new();
    for name in ["rows.jsonl", "rows.parquet", "rows.arrow"] {
        let path = format!("data.path={name}");
        let look = json(&place, &["data", "a.toml", "--json", "--show", "100", "--set", &path]);
        assert_eq!(look["prompts"], ROWS, "{name}");
        let run = format!("run-{name}");
        let output = place.longhaul(&["train", "a.toml", "--run", &run, "--set", &path]);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let rollouts = fs::read_to_string(place.path(&run).join("rollouts/step-000001.jsonl")).unwrap();
        let unnamed = rollouts.replace(":row ", ":").replace(name, "rows");
        runs.push((look["prompt_tokens"].clone(), unnamed));
    }
    assert_eq!(runs[0], runs[1]);
    assert_eq!(runs[0], runs[2]);
}

#[test]
fn faults_of_a_mapping_name_file_and_line() {
    let refused = |old: &str, new: &str, named: &[&str]| {
        let place = Place::new();
        place.write(
            "prompts.jsonl",
            "{\"prompt\": \"1+1=\", \"answer\": \"2\"}\n{\"prompt\": \"1+2=\", \"answer\": \"# 3\"}\n",
        );
        place.change("a.toml", old, new);
        for command in [&["check", "a.toml"][..], &["data", "a.toml"], &TRAIN] {
            let output = place.longhaul(command);
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && !said.contains("panicked"), "{command:?}: {said}");
            assert!(named.iter().all(|name| said.contains(name)), "{command:?} {named:?}: {said}");
        }
    };
    let path = "path = \"prompts.jsonl\"";
    let with = |keys: &str| format!("{path}\n{keys}");
    refused(path, &with("answer = { after = \"#\" }"), &["prompts.jsonl:1: `answer` does not have \"#\""]);
    refused(
        path,
        &with("prompt_template = \"{{ question }}\""),
        &["prompts.jsonl:1: data.prompt_template: line 1: the row has no `question`", "prompts.jsonl:2"],
    );
    refused(path, &with("prompt_template = \"{{ question\""), &["a.toml:9: data.prompt_template: line 1"]);
    refused(
        path,
        &with("prompt = \"question\""),
        &["no row has the field `question` that data.prompt names"],
    );
    refused(path, &with("answer = { feild = \"answer\" }"), &["a.toml:9", "unknown key", "`field`"]);
    refused(path, &with("split = { fraction = 2.0 }"), &["a.toml:9: data.split"]);
    refused(
        path,
        &with("few_shot = { path = \"shots.jsonl\", count = 2 }"),
        &["a.toml:9: data.few_shot.path: there is no shots.jsonl"],
    );
    refused(
        path,
        &with("promt = \"question\""),
        &["a.toml:9: unknown key `data.promt`; the nearest known key is `prompt`"],
    );
    refused(path, "format = \"parquet\"", &["a.toml:6: data.path: is missing"]);
    refused(
        path,
        "[[data.sources]]\npath = \"prompts.jsonl\"\nweigth = 1",
        &["a.toml:10", "unknown key", "`weight`"],
    );
}

#[test]
fn a_filter_keeps_what_is_solved_sometimes_and_goes_on_after_a_kill() {
    let place = Place::new();
    problems(&place, 60);
    // Right is what ends by itself: about half of the answers of weights that nobody trained.
    place.change("a.toml", "kind = \"math\"", "kind = \"target_length\"\ntarget = 10\nvalue = \"precise\"");
    let filter = |output: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longhaul"));
        command.args(["filter", "a.toml", "--samples", "4", "--output", output]);
        command.args(["--set", "rollout.output_tokens_max=48", "--set", "rollout.segments_max=1"]);
        command.current_dir(place.path("")).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let whole = filter("whole.jsonl").output().unwrap();
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let summary = String::from_utf8(whole.stdout).unwrap();
    assert!(
        summary.contains("of 60 prompts are kept") && summary.contains("are cut off at rollout"),
        "{summary}"
    );
    let expected = fs::read_to_string(place.path("whole.jsonl")).unwrap();
    for line in expected.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let rate = row["pass_rate"].as_f64().unwrap();
        assert!((0.25..=0.75).contains(&rate) && row["answer"].as_str().unwrap().contains("####"), "{line}");
    }
    // Killed as soon as something is written down, several times if it is quick.
    let progress = place.path("killed.jsonl.progress");
    let lines = || fs::read_to_string(&progress).map_or(0, |text| text.lines().count());
    let mut killed = filter("killed.jsonl").spawn().unwrap();
    let begun = Instant::now();
    while lines() < 2 && killed.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120), "nothing was measured");
        std::thread::yield_now();
    }
    let _ = killed.kill();
    killed.wait().unwrap();
    if lines() > 0 {
        // The line that was being written is torn.
        let torn = fs::read_to_string(&progress).unwrap() + "{\"index\": 5";
        fs::write(&progress, torn).unwrap();
    }
    let before = lines();
    let again = filter("killed.jsonl").output().unwrap();
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.success(), "{said}");
    assert_eq!(fs::read_to_string(place.path("killed.jsonl")).unwrap(), expected);
    assert!(before < 3 || said.contains("were measured before"), "{before}: {said}");
    assert!(!progress.exists(), "it is of no use any more");
}

#[test]
fn a_filter_refuses_what_it_cannot_measure() {
    let place = Place::new();
    let filter = |more: &[&str]| {
        let arguments = [&["filter", "a.toml", "--output", "out.jsonl"], more].concat();
        place.refusal(&arguments)
    };
    for (more, said) in [
        (&["--samples", "0"][..], "--samples 0"),
        (&["--samples", "2", "--min", "2", "--max", "1"], "--min 2 --max 1"),
        (&["--samples", "2", "--max", "3"], "--max 3"),
        (&["--set", "rewards[0].correctness=false"], "correctness = true"),
        (&["--set", "data={kind=\"task\",name=\"arithmetic\"}"], ""),
    ] {
        let error = filter(more);
        assert!(error.contains(said), "{more:?}: {error}");
    }
    assert!(!place.path("out.jsonl").exists() && !place.path("out.jsonl.progress").exists());
    // Numbers of other settings are not mixed.
    place.write("out.jsonl.progress", "{\"samples\": 3, \"data_bytes\": 1, \"config\": {}}\n");
    assert!(filter(&[]).contains("out.jsonl.progress: was measured with other settings"));
}

/// Every tenth of these is cut, every other one has bytes changed.
#[test]
fn damaged_data_is_one_line_of_error() {
    let place = Place::new();
    for name in ["rows.parquet", "rows.arrow"] {
        copy_fixture(&place, name);
    }
    place.change(
        "a.toml",
        "[rollout]",
        "prompt = \"question\"\nanswer = \"reward_model.ground_truth\"\n[rollout]",
    );
    let mut refused = 0;
    for name in ["rows.parquet", "rows.arrow"] {
        let good = fs::read(place.path(name)).unwrap();
        for case in 0..20usize {
            let mut bytes = good.clone();
            let at = case * good.len() / 20;
            match case % 10 {
                0 => bytes.truncate(at),
                _ => bytes[at..].iter_mut().step_by(97).for_each(|byte| *byte ^= 0x55),
            }
            fs::write(place.path(name), bytes).unwrap();
            let path = format!("data.path={name}");
            let output = place.longhaul(&["data", "a.toml", "--set", &path]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                !said.contains("panicked") && output.status.code().is_some_and(|code| code <= 1),
                "{case}: {said}"
            );
            refused += usize::from(!output.status.success() && said.contains(name));
        }
    }
    assert!(refused >= 30, "{refused} of 40");
}
