//! Data that cannot be used is told before the first step, by `check` and by `train` alike, with file and line.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::bad_input::{Place, TRAIN};
use crate::binary::repository;

const CHECK: [&str; 2] = ["check", "a.toml"];

/// Ten kinds of bad rows among good ones: the line, and what is said of it.
const BAD: [(usize, &str, &str); 10] = [
    (2, r#"{"prompt": "1+1=", "answer": "2", "least": 1"#, "not JSON"),
    (4, r#"["1+1=", "2"]"#, "not a JSON object"),
    (5, r#"{"question": "1+1=", "answer": "2", "least": 1}"#, "neither `prompt` nor `messages`"),
    (7, r#"{"prompt": "", "answer": "2", "least": 1}"#, "has no tokens"),
    (8, r#"{"prompt": "LONG", "answer": "2", "least": 1}"#, "tokens, but at most"),
    (9, r#"{"prompt": "1+1=", "least": 1}"#, "`answer` is missing or empty, and the reward `math`"),
    (11, r#"{"prompt": "1+1=", "answer": "2"}"#, "the field `least` is missing"),
    (12, r#"{"prompt": "1+1=", "answer": "2", "least": "one"}"#, "`least` must be a whole number"),
    (
        14,
        r#"{"messages": [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}], "answer": "2", "least": 1}"#,
        "the last message is the assistant's",
    ),
    (
        15,
        r#"{"messages": [{"role": "robot", "content": "1+1="}], "answer": "2", "least": 1}"#,
        "no such role: robot",
    ),
];

const GOOD: &str = r#"{"prompt": "2+3=", "answer": 5, "least": 1}"#;

/// A run whose data has all of them.
fn spoiled() -> Place {
    let place = Place::new();
    let mut lines = vec![GOOD.to_owned(); 16];
    for (line, row, _) in BAD {
        lines[line - 1] = row.replace("LONG", &"1+".repeat(4000));
    }
    place.write("prompts.jsonl", &lines.join("\n"));
    place.change(
        "a.toml",
        "[learner]\n",
        "[[rewards]]\nkind = \"words\"\nmin_field = \"least\"\nwords_max = 9\nlimit = 20\n[learner]\n",
    );
    place.write(
        "model/chat_template.jinja",
        "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}\
         {{ raise_exception('no such role: ' + m.role) }}{% endif %}{{ m.content }}{% endfor %}",
    );
    place
}

#[test]
fn ten_kinds_of_bad_rows_are_named_at_once() {
    let place = spoiled();
    for command in [&CHECK[..], &TRAIN] {
        let output = place.longhaul(command);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{command:?}: {said}");
        for (line, _, reason) in BAD {
            let named = said.lines().find(|told| told.contains(&format!("prompts.jsonl:{line}: ")));
            assert!(named.is_some_and(|told| told.contains(reason)), "{command:?}, line {line}: {said}");
        }
        assert!(said.lines().count() == BAD.len() + 1, "{said}");
        let error = said.lines().last().unwrap();
        assert!(error.starts_with("error: ") && error.contains("10 of 16 rows cannot be used"), "{error}");
        assert!(error.contains("2 not JSON objects") && error.contains("1 too long"), "{error}");
        assert!(error.ends_with("data.bad_rows = \"skip\""), "{error}");
    }
    assert!(!place.path("run").exists(), "nothing was begun");
}

#[test]
fn bad_rows_are_left_out_where_that_is_asked_for() {
    let place = spoiled();
    place.change("a.toml", "kind = \"jsonl\"", "kind = \"jsonl\"\nbad_rows = \"skip\"");
    for command in [&CHECK[..], &TRAIN] {
        let output = place.longhaul(command);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {said}");
        let told = format!("{}{said}", String::from_utf8_lossy(&output.stdout));
        assert!(told.contains("10 of 16 rows"), "{command:?}: {told}");
        for (line, _, _) in BAD {
            assert!(told.contains(&format!("prompts.jsonl:{line}: ")), "{command:?}, line {line}: {told}");
        }
    }
    let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    assert!(metrics.contains("\"data/rows_skipped\":10"), "{metrics}");
    // One of the six good ones was taken.
    assert!(metrics.contains("\"data/epoch\":0.1666"), "{metrics}");
    assert!(fs::read_to_string(place.path("run/log")).unwrap().contains("10 of 16 rows are left out"));
}

#[test]
fn held_out_rows_are_looked_at_too() {
    let place = Place::new();
    place.write("held_out.jsonl", &format!("{GOOD}\n{{\"prompt\": \"1+1=\"}}\n"));
    place.change("a.toml", "[optimizer]", "[eval]\ndata = \"held_out.jsonl\"\n[optimizer]");
    for command in [&CHECK[..], &TRAIN] {
        place.assert_refuses(command, &["held_out.jsonl:2", "`answer` is missing"]);
    }
    // Each data counts its own.
    place.change("a.toml", "kind = \"jsonl\"", "kind = \"jsonl\"\nbad_rows = \"skip\"");
    let output = place.longhaul(&TRAIN);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    assert!(metrics.contains("\"eval/rows_skipped\":1"), "{metrics}");
    assert!(!metrics.contains("data/rows_skipped"), "{metrics}");
    let output = place.longhaul(&["eval", "a.toml", "--model", "model", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["rows_skipped"], 1, "{report}");
}

#[test]
fn check_ends_as_train_would() {
    let refused = assert_both_refuse;
    let remove = |name: &'static str| move |place: &Place| fs::remove_file(place.path(name)).unwrap();
    refused(&remove("model/tokenizer.json"), &["model/tokenizer.json"]);
    refused(&remove("model/model.safetensors"), &["model", "model.safetensors"]);
    refused(&remove("model/config.json"), &["model/config.json"]);
    refused(
        &|place| place.write("model/model.safetensors", "torn"),
        &["model/model.safetensors", "truncated"],
    );
    refused(
        &|place| {
            fs::remove_file(place.path("model/config.json")).unwrap();
            place.write("model/tiny.Q4_0.gguf", "GGUF");
        },
        &["tiny.Q4_0.gguf", "GGUF is not read"],
    );
    let longer = "output_tokens_max = 40000";
    refused(
        &|place| place.change("a.toml", "output_tokens_max = 4", longer),
        &["a.toml:10: rollout.output_tokens_max: outputs of 40000 tokens", "positions"],
    );
    refused(
        &|place| {
            place.change(
                "a.toml",
                "path = \"prompts.jsonl\"",
                "path = \"prompts.jsonl\"\nanswer_field = \"gold.text\"",
            )
        },
        &["prompts.jsonl", "no row has the field `gold.text`", "rows have `prompt`, `answer`"],
    );
    refused(&|place| fs::write(place.path("prompts.jsonl"), b"PAR1\x15\x04").unwrap(), &["a Parquet file"]);
    refused(
        &|place| place.change("a.toml", "path = \"model\"", "path = \"acme/tiny-1b\""),
        &["a.toml:5", "hf download acme/tiny-1b"],
    );
}

/// Fails unless `check` and `train` refuse the spoiled place with the same line, which has these words.
fn assert_both_refuse(spoil: &dyn Fn(&Place), named: &[&str]) {
    let place = Place::new();
    spoil(&place);
    let [check, train] = [&CHECK[..], &TRAIN].map(|command| place.refusal(command));
    assert!(named.iter().all(|name| check.contains(name)), "{named:?}: {check}");
    assert_eq!(check, train);
}

const WEIGHTS: &str = "model/model.safetensors";

/// Rewrites the weights with these tensors beside their own, of zeros.
fn add_tensors(place: &Place, file: &str, added: &[(&str, [usize; 2])]) {
    let bytes = fs::read(place.path(WEIGHTS)).unwrap();
    let own = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let zeros: Vec<Vec<u8>> = added.iter().map(|(_, [rows, columns])| vec![0; 4 * rows * columns]).collect();
    let added = added.iter().zip(&zeros).map(|((name, shape), zeros)| {
        ((*name).to_owned(), TensorView::new(Dtype::F32, shape.to_vec(), zeros).unwrap())
    });
    let all = own.into_iter().filter(|(name, _)| name != "model.norm.weight" || file == WEIGHTS).chain(added);
    fs::write(place.path(file), safetensors::serialize(all, None).unwrap()).unwrap();
}

#[test]
fn check_refuses_the_weights_that_train_refuses() {
    assert_both_refuse(
        &|place| add_tensors(place, WEIGHTS, &[("model.layers.9.mlp.up_proj.weight", [2, 2])]),
        &["model.safetensors", "`model.layers.9.mlp.up_proj.weight`", "no place"],
    );
    assert_both_refuse(
        &|place| {
            let config = fs::read_to_string(place.path("model/config.json")).unwrap();
            let config: Value = serde_json::from_str(&config).unwrap();
            let size = |key: &str| config[key].as_u64().unwrap() as usize;
            add_tensors(place, WEIGHTS, &[("lm_head.weight", [size("vocab_size"), size("hidden_size")])]);
        },
        &["model.safetensors", "`lm_head.weight` differs"],
    );
    // The second shard has all tensors of the first one but the last norm.
    assert_both_refuse(
        &|place| {
            add_tensors(place, "model/b.safetensors", &[]);
            fs::rename(place.path(WEIGHTS), place.path("model/a.safetensors")).unwrap();
            let map = r#"{"weight_map": {"model.norm.weight": "a.safetensors", "x": "b.safetensors"}}"#;
            place.write("model/model.safetensors.index.json", map);
        },
        &["b.safetensors", "of another shard again"],
    );
}

#[test]
fn check_compares_the_vocabulary_of_the_reference() {
    let other = repository().join("tests/fixtures/parity/qwen2_tied_yarn");
    let kl = format!("[learner.kl]\nenabled = true\ncoefficient = 0.1\nreference = {other:?}\n[optimizer]\n");
    assert_both_refuse(
        &|place| place.change("a.toml", "[optimizer]\n", &kl),
        &["learner.kl.reference: the reference has a vocabulary of"],
    );
}

#[test]
fn a_program_of_a_plugin_is_looked_for_as_it_will_be_started() {
    let plugin = |command: &str, more: &str| {
        format!("[[rewards]]\nkind = \"process\"\ncommand = [\"{command}\"]\n{more}\n[learner]\n")
    };
    let with = |plugin: String| move |place: &Place| place.change("a.toml", "[learner]\n", &plugin);
    let place_of_key = ["a.toml:23", "rewards[1].command"];
    let refused = |spoil: &dyn Fn(&Place), reason: &[&str]| {
        assert_both_refuse(spoil, &[&place_of_key[..], reason].concat());
    };
    refused(&with(plugin("no-such-program", "")), &["no program no-such-program in PATH; install it"]);
    refused(&with(plugin("./judge.sh", "")), &["no program ./judge.sh; a relative path is looked for"]);
    // The plugin has a PATH of its own, in which the shell's programs are not.
    refused(
        &with(plugin("sh", "environment = { PATH = \"/nowhere\" }")),
        &["in the PATH of its `environment`"],
    );
    let not_executable = |place: &Place| {
        place.write("judge.sh", "#!/bin/sh\n");
        with(plugin("./judge.sh", ""))(place);
    };
    refused(&not_executable, &["judge.sh is not executable", "chmod +x"]);
    refused(
        &|place| {
            place.write("judge.sh", "#!/bin/sh\n");
            with(plugin("judge.sh", ""))(place);
        },
        &["no program judge.sh in PATH; for the file here write ./judge.sh"],
    );
    // Found in its own PATH alone.
    let place = Place::new();
    place.write("only-there", "#!/bin/sh\n");
    fs::set_permissions(place.path("only-there"), fs::Permissions::from_mode(0o755)).unwrap();
    let environment = format!("environment = {{ PATH = {:?} }}", place.path(""));
    with(plugin("only-there", &environment))(&place);
    assert!(place.longhaul(&CHECK).status.success(), "{}", place.refusal(&CHECK));
}

// A program that embeds longhaul brings the verifier, and checks its config with the same command.
#[test]
fn check_says_that_train_refuses_a_custom_reward() {
    let place = Place::new();
    let custom = "[[rewards]]\nkind = \"custom\"\nname = \"mine\"\n[learner]\n";
    place.change("a.toml", "[learner]\n", custom);
    place.assert_refuses(&TRAIN, &["mine"]);
    let output = place.longhaul(&CHECK);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{told}");
    assert!(told.contains("kind = \"custom\": mine. `longhaul train` has no verifiers"), "{told}");
}

#[test]
fn check_shows_what_the_run_begins_with() {
    let place = Place::new();
    place.write(
        "prompts.jsonl",
        "\u{feff}{\"prompt\": \"1+1=\", \"answer\": 2}\r\n{\"prompt\": \"12+3=\"}\r\n",
    );
    place.change("a.toml", "kind = \"math\"\ncorrectness = true", "kind = \"format\"");
    let text = fs::read_to_string(place.path("a.toml")).unwrap();
    place.write("a.toml", &format!("\u{feff}{text}"));
    let output = place.longhaul(&CHECK);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "2 prompts",
        "tokens of a prompt: 4 to 5, median 5",
        "with an answer: 50.0 %",
        "# at most at one time",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(told.contains("#   | 1+1=") || told.contains("#   | 12+3="), "{told}");
    // What is printed is a config still.
    place.write("resolved.toml", &told);
    assert!(place.longhaul(&["check", "resolved.toml"]).status.success());
}

#[test]
fn sft_learns_from_conversations() {
    let place = Place::new();
    place.write("model/chat_template.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}");
    let row = r#"{"messages": [{"role": "user", "content": "1+1="}, {"role": "assistant", "content": "2"}]}"#;
    place.write("prompts.jsonl", &format!("{row}\n"));
    let sft = "[model]\npath = \"model\"\n[data]\nkind = \"jsonl\"\npath = \"prompts.jsonl\"\n[sft]\nsteps_max = 1\n\
               batch_size = 2\nbatch_tokens_max = 64\noutput_tokens_max = 4\n[optimizer]\nkind = \"sgd\"\n\
               learning_rate = 0.01\n";
    place.write("s.toml", sft);
    for command in [&["check", "s.toml"][..], &["sft", "s.toml", "--run", "run"]] {
        let output = place.longhaul(command);
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metrics = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    // The answer and the end of the output, twice.
    assert!(metrics.contains("\"training/target_tokens\":4"), "{metrics}");
    place.write("prompts.jsonl", "{\"prompt\": \"1+1=\", \"answer\": 2}\n");
    for command in [&["check", "s.toml"][..], &["sft", "s.toml", "--run", "other"]] {
        place.assert_refuses(command, &["prompts.jsonl:1", "no completion to learn from"]);
    }
    assert!(!place.path("other").exists());
    // Held-out prompts have no room beside the longest output: the key is that of an sft config.
    place.write("prompts.jsonl", &format!("{row}\n"));
    let eval = "output_tokens_max = 40000\n[eval]\ndata = \"prompts.jsonl\"\n";
    place.change("s.toml", "output_tokens_max = 4\n", eval);
    place.change("s.toml", "[optimizer]", "[[rewards]]\nkind = \"math\"\ncorrectness = true\n[optimizer]");
    for command in [&["check", "s.toml"][..], &["sft", "s.toml", "--run", "other"]] {
        place.assert_refuses(command, &["s.toml:10: sft.output_tokens_max: outputs of 40000 tokens"]);
    }
}

// A tokenizer may have tokens that the model was never given rows for; only what uses them is concerned.
#[test]
fn a_token_without_a_row_costs_the_rows_that_have_it() {
    let place = Place::new();
    let rows = format!("{GOOD}\n{{\"prompt\": \"1+<note>1=\", \"answer\": \"2\"}}\n");
    place.write("prompts.jsonl", &rows);
    place.write("model/tokenizer_config.json", r#"{"extra_special_tokens": ["<note>"]}"#);
    let config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(place.path("model/config.json")).unwrap()).unwrap();
    let rows = config["vocab_size"].as_u64().unwrap();
    let tokenizer = fs::read_to_string(place.path("model/tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    // Every row has a token, so that the next id has none.
    for id in 0..rows {
        if vocabulary.values().all(|known| *known != id) {
            vocabulary.insert(format!("<unused {id}>"), id.into());
        }
    }
    place.write("model/tokenizer.json", &tokenizer.to_string());
    let said = [
        "prompts.jsonl:2: ".to_owned(),
        format!("\"<note>\" has id {rows}, but the model's embedding has {rows} rows"),
        "tokenizer_config.json".to_owned(),
        "resize the embedding".to_owned(),
    ];
    let said: Vec<&str> = said.iter().map(String::as_str).collect();
    for command in [&CHECK[..], &TRAIN] {
        place.assert_refuses(command, &said);
    }
    place.change("a.toml", "kind = \"jsonl\"", "kind = \"jsonl\"\nbad_rows = \"skip\"");
    let output = place.longhaul(&TRAIN);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    let log = fs::read_to_string(place.path("run/log")).unwrap();
    assert!(log.contains("without a row in the model's embedding"), "{log}");
    place.write("texts.jsonl", "{\"text\": \"1<note>\"}\n");
    let tokenize = ["tokenize", "--model", "model", "--input", "texts.jsonl", "--output", "ids.jsonl"];
    assert!(place.longhaul(&tokenize).status.success());
    let ids = fs::read_to_string(place.path("ids.jsonl")).unwrap();
    assert!(ids.contains(&format!(",{rows}]")), "{ids}");
}
