//! What a resume allows to change: every key of a train config is changed, one at a time, and what is allowed is what
//! `docs/guide/resume.md` lists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use longhaul::config::RunConfig;
use longhaul::pages;
use longhaul::records::folder::RunFolder;
use longhaul::run::checkpoints::check_config;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::binary::repository;

/// Keys of a tagged section of which there is one kind today.
const ONE_KIND: [&str; 1] = ["rollout.mode.kind"];

/// A config of the task's problems with the keys that the quickstart leaves out.
const TASK: [&str; 20] = [
    "run.threads=2",
    "model.base=\"models/quickstart\"",
    "learner.lora={rank=2,alpha=4.0,target_modules=[\"q_proj\"],adapter=\"models\"}",
    "model.positions_max=256",
    "model.dtype=\"bf16\"",
    "rollout.kv_cache_tokens_max=1000000",
    "rollout.stop=[\";\"]",
    "rollout.stop_token_ids=[7]",
    "learner.kl.enabled=true",
    "learner.kl.coefficient=0.1",
    "learner.kl.reference=\"models/quickstart\"",
    "learner.gradients.layer_inputs=\"file\"",
    "learner.gradients.layer_inputs_dir=\"models\"",
    "learner.mismatch={kind=\"tis\",cap=2.0}",
    "checkpoint.keep_best={metric=\"loss\",least=true}",
    "optimizer.clip_norm=1.0",
    "eval.rewards=[{kind=\"task\",correctness=true}]",
    "eval.beside=true",
    "eval.output_tokens_max=64",
    "run.seed=3",
];

/// The same keys over a file of prompts, and another kind of advantage.
fn over_a_file(folder: &Path) -> Vec<String> {
    let file = folder.join("prompts.jsonl");
    fs::write(&file, "{\"question\": \"1+1=\", \"solution\": \"2\"}\n").unwrap();
    let path = Value::String(file.to_string_lossy().into_owned());
    let data = format!(
        "data={{kind=\"jsonl\",path={path},prompt_field=\"question\",answer_field=\"solution\",\
         completion_field=\"worked\",chat=true,system_prompt=\"be brief\",prompt_tokens_min=1,prompt_tokens_max=60,\
         shuffle_seed=4,split={{name=\"train\",fraction=0.5,seed=1}},format=\"jsonl\",last_assistant=\"drop\",bad_rows=\"skip\",template={{enable_thinking=true}}}}"
    );
    let more = [
        data,
        format!("eval.data={path}"),
        "rewards=[{kind=\"math\",correctness=true}]".to_owned(),
        "learner.advantage={kind=\"grpo\",combine=\"advantage\"}".to_owned(),
    ];
    let task = TASK.iter().filter(|set| !set.starts_with("eval.rewards")).map(|set| (*set).to_owned());
    task.chain(more).collect()
}

fn section<T: DeserializeOwned>(table: &Table, name: &str) -> Result<T, String> {
    let value = table.get(name).cloned().unwrap_or_else(|| Value::Table(Table::new()));
    value.try_into().map_err(|error: toml::de::Error| error.message().to_owned())
}

/// A config as it stands, whether it makes sense or not.
fn read(table: &Table) -> Result<RunConfig, String> {
    let rewards = table.get("rewards").cloned().unwrap_or_else(|| Value::Array(Vec::new()));
    Ok(RunConfig {
        run: section(table, "run")?,
        model: section(table, "model")?,
        data: section(table, "data")?,
        rollout: section(table, "rollout")?,
        queue: section(table, "queue")?,
        rewards: rewards.try_into().map_err(|error: toml::de::Error| error.message().to_owned())?,
        learner: section(table, "learner")?,
        optimizer: section(table, "optimizer")?,
        eval: section(table, "eval")?,
        checkpoint: section(table, "checkpoint")?,
        metrics: section(table, "metrics")?,
        watchdog: section(table, "watchdog")?,
        alarms: section(table, "alarms")?,
    })
}

/// Every value by its whole key.
fn flat(prefix: &str, value: &Value, into: &mut BTreeMap<String, Value>) {
    match value {
        Value::Table(table) => {
            for (key, value) in table {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flat(&key, value, into);
            }
        }
        value => {
            into.insert(prefix.to_owned(), value.clone());
        }
    }
}

fn replaced(table: &Table, key: &str, value: Value) -> Table {
    let mut table = table.clone();
    let (sections, name) = key.rsplit_once('.').unwrap_or(("", key));
    let sections = sections.split('.').filter(|section| !section.is_empty());
    let place = sections.fold(&mut table, |table, section| table[section].as_table_mut().unwrap());
    place.insert(name.to_owned(), value);
    table
}

/// Other values of the same type; of a word, one that serde does not know, so that it lists those that it knows.
fn others(value: &Value) -> Vec<Value> {
    match value {
        Value::Boolean(is_on) => vec![Value::Boolean(!is_on)],
        Value::Integer(number) => vec![Value::Integer(number + 1)],
        Value::Float(number) => vec![Value::Float(number + 0.25)],
        Value::Array(values) => match values.first() {
            Some(Value::Table(first)) => {
                let mut other = first.clone();
                other.insert("weight".to_owned(), Value::Float(0.75));
                vec![Value::Array([&[Value::Table(other)], &values[1..]].concat())]
            }
            Some(first) => {
                let other = others(first).remove(0);
                vec![Value::Array([&[other], &values[1..]].concat())]
            }
            None => vec![Value::Array(vec![Value::String("x".to_owned())])],
        },
        Value::String(_) => vec![Value::String("no such word".to_owned())],
        other => panic!("no config has {other}"),
    }
}

/// The config with another value at the key.
fn changed(table: &Table, key: &str, value: &Value) -> RunConfig {
    let other = others(value).remove(0);
    let refused = match read(&replaced(table, key, other)) {
        Ok(config) => return config,
        Err(refused) => refused,
    };
    let words = refused.split('`').skip(1).step_by(2).filter(|word| Some(*word) != value.as_str());
    for word in words {
        let word = Value::String(word.to_owned());
        // Another kind has other keys, of which it may need none.
        let kind = key.strip_suffix(".kind").map(|section| {
            let alone = Table::from_iter([("kind".to_owned(), word.clone())]);
            replaced(table, section, Value::Table(alone))
        });
        let config = read(&replaced(table, key, word)).or_else(|error| read(&kind.ok_or(error)?));
        if let Ok(config) = config {
            return config;
        }
    }
    panic!("{key} = {value} has no other value: {refused}");
}

/// The keys of a config, and whether a resume allows another value of each.
fn allowed(config: &RunConfig, home: &Path) -> BTreeMap<String, bool> {
    let folder = RunFolder::create(Some(home), "unused", false, &config.resolved()).unwrap();
    let table: Table = config.resolved().parse().unwrap();
    let mut keys = BTreeMap::new();
    flat("", &Value::Table(table.clone()), &mut keys);
    let keys = keys.into_iter().filter(|(key, _)| !ONE_KIND.contains(&key.as_str()) && key != "data.kind");
    let mut allowed = BTreeMap::new();
    for (key, value) in keys {
        let checked = check_config(&folder, &changed(&table, &key, &value), false);
        let names = |text: &str| text.contains(&format!("{key}: ")) || text.contains(&format!(" {key} "));
        match &checked {
            Ok(changes) => assert!(changes.lines.iter().any(|line| names(line)), "{key}: {changes:?}"),
            Err(error) => assert!(names(&error.to_string()), "{key}: {error}"),
        }
        allowed.insert(key, checked.is_ok());
    }
    allowed
}

/// The keys and sections that the page lists.
fn listed() -> BTreeSet<String> {
    let page = fs::read_to_string(repository().join("docs/guide/resume.md")).unwrap();
    let list = page.split("may differ (").nth(1).and_then(|rest| rest.split(')').next()).unwrap();
    // A value in the list is an exception and no key.
    let keys = list.split('`').skip(1).step_by(2).filter(|key| !key.contains('='));
    keys.map(str::to_owned).collect()
}

/// The keys of the reference that a train config can have, but for those of the kinds of rewards and tasks and of lists of
/// sections.
fn reference() -> BTreeSet<String> {
    let page = pages(repository()).unwrap().into_iter().find(|page| page.name == "config.md").unwrap();
    let train = page.text.split("## Sections of `sft`").next().unwrap();
    let keys = train.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let of_entries = ["rewards.", "data.", "eval.sets."];
    keys.filter(|key| !of_entries.iter().any(|entry| key.starts_with(entry))).map(str::to_owned).collect()
}

#[test]
fn what_a_resume_allows_is_what_the_page_lists() {
    let home = tempfile::tempdir().unwrap();
    let quickstart = repository().join("configs/quickstart.toml");
    let load = |set: &[String]| RunConfig::load(&quickstart, set).unwrap_or_else(|error| panic!("{error}"));
    let task: Vec<String> = TASK.map(str::to_owned).into();
    let mut keys = allowed(&load(&task), &home.path().join("task"));
    keys.extend(allowed(&load(&over_a_file(home.path())), &home.path().join("file")));
    let missing: Vec<String> = reference().into_iter().filter(|key| !keys.contains_key(key)).collect();
    assert!(missing.is_empty(), "not changed here: {missing:?}");
    let listed = listed();
    let is_listed = |key: &str| listed.iter().any(|name| key == name || key.starts_with(&format!("{name}.")));
    let wrong: Vec<_> = keys.iter().filter(|(key, allowed)| is_listed(key) != **allowed).collect();
    assert!(wrong.is_empty(), "docs/guide/resume.md and a resume differ in (key, is allowed): {wrong:?}");
    let unused: Vec<_> =
        listed.iter().filter(|name| !keys.keys().any(|key| key.starts_with(*name))).collect();
    assert!(unused.is_empty(), "there is no such key: {unused:?}");
}
