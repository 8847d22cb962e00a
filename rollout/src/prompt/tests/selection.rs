//! Which rows are taken, from which files, and in which order.

use std::collections::BTreeSet;

use trajectory::random::shuffled;

use super::*;

/// Files of rows, `n` to a file, with their place as a level.
struct Files(TextFiles);

impl Files {
    fn new(counts: &[(&str, usize)]) -> Self {
        let files = TextFiles::new();
        for (name, count) in counts {
            let row = |row: usize| {
                let prompt = "abcde".repeat(1 + row % 3);
                format!("{{\"prompt\": \"{prompt}\", \"level\": {}, \"row\": {row}}}\n", row * 7 % 5)
            };
            files.write(name, &(0..*count).map(row).collect::<String>());
        }
        Self(files)
    }

    fn open(&self, keys: Value) -> Result<(PromptSource, Survey), RolloutError> {
        let mut config: JsonlConfig = serde_json::from_value(keys).expect("known keys");
        let folder = self.0.path();
        config.path = config.path.map(|path| folder.join(path));
        config.sources.iter_mut().for_each(|source| source.path = folder.join(&source.path));
        let text = Arc::new(self.0.load().expect("a tokenizer"));
        PromptSource::open(&DataConfig::File(config), Split::Train, 5, text, &Needs::default())
    }
}

fn ids(source: &PromptSource, range: std::ops::Range<u64>) -> Vec<String> {
    let name = |index| source.prompt(index).expect("a prompt").id.rsplit('/').next().map(str::to_owned);
    range.map(|index| name(index).expect("a file")).collect()
}

/// The order of a config without any of the keys is part of what a resumed run relies on.
#[test]
fn the_order_of_a_plain_file_is_that_of_earlier_versions() {
    let files = Files::new(&[("rows.jsonl", 17)]);
    let (source, survey) = files.open(json!({"path": "rows.jsonl"})).expect("rows");
    let expected: Vec<String> = (0..60u64)
        .map(|index| format!("rows.jsonl:{}", shuffled(5, index / 17, index % 17, 17) + 1))
        .collect();
    assert_eq!(ids(&source, 0..60), expected);
    assert_eq!((survey.left_out, survey.files.len()), (LeftOut::default(), 0));
    // The same in numbers that no change of the code can move along.
    assert_eq!(ids(&source, 0..4), FIRST);
}

/// The first rows of 17 under the seed 5, written down on 2026-11-30.
const FIRST: [&str; 4] = ["rows.jsonl:16", "rows.jsonl:17", "rows.jsonl:10", "rows.jsonl:8"];

#[test]
fn the_parts_of_a_split_have_every_row_once_wherever_it_stands() {
    let files = Files::new(&[("rows.jsonl", 200)]);
    let part = |name: &str, file: &str| {
        let split = json!({"name": name, "fraction": 0.75, "seed": 3});
        let (source, survey) = files.open(json!({"path": file, "split": split})).expect("rows");
        assert_eq!(survey.prompts + survey.left_out.other_split, 200);
        let fields = (0..survey.prompts as u64).map(|index| source.prompt(index).expect("a prompt").fields);
        fields.map(|fields| fields["row"].as_u64().expect("a number")).collect::<BTreeSet<_>>()
    };
    let (train, test) = (part("train", "rows.jsonl"), part("test", "rows.jsonl"));
    assert!(train.is_disjoint(&test) && train.len() + test.len() == 200);
    assert!((130..170).contains(&train.len()), "{}", train.len());
    // Neither the order of the rows nor the name of the file matters.
    let lines = std::fs::read_to_string(files.0.path().join("rows.jsonl")).expect("lines");
    let turned: Vec<&str> = lines.lines().rev().collect();
    files.0.write("turned.jsonl", &(turned.join("\n") + "\n"));
    assert_eq!(part("train", "turned.jsonl"), train);
}

#[test]
fn what_is_held_out_is_the_rest_of_a_split_or_a_file() {
    let data = |keys: Value| DataConfig::File(serde_json::from_value(keys).expect("known keys"));
    let split = |name: &str| json!({"name": name, "fraction": 0.5});
    let training = data(json!({"path": "p", "chat": true, "split": split("train"),
        "curriculum": {"field": "level"}, "format": "parquet"}));
    let rest = data(json!({"path": "p", "chat": true, "split": split("held_out"), "format": "parquet"}));
    assert_eq!(training.held_out(None), Some(rest));
    let other = data(json!({"path": "q", "chat": true}));
    assert_eq!(training.held_out(Some("q".as_ref())), Some(other));
    assert_eq!(data(json!({"path": "p"})).held_out(None), None);
}

#[test]
fn lengths_leave_rows_out_and_are_counted() {
    let files = Files::new(&[("rows.jsonl", 30)]);
    let open = |min: usize, max: usize| {
        files.open(json!({"path": "rows.jsonl", "prompt_tokens_min": min, "prompt_tokens_max": max}))
    };
    let (source, survey) = open(6, 10).expect("rows of ten tokens");
    let left_out = LeftOut { short: 10, long: 10, ..LeftOut::default() };
    assert_eq!((survey.prompts, survey.left_out), (10, left_out));
    assert!((0..20).all(|index| source.prompt_tokens(index).expect("a row") == 10));
    let error = open(16, 20).map(drop).expect_err("none").to_string();
    assert!(
        error.ends_with("holds no prompts: of its rows 30 are shorter than data.prompt_tokens_min"),
        "{error}"
    );
}

#[test]
fn rows_come_as_they_stand_or_by_a_number() {
    let files = Files::new(&[("rows.jsonl", 20)]);
    let levels = |keys: Value| -> Vec<u64> {
        let (source, _) = files.open(keys).expect("rows");
        let fields = (0..40).map(|index| source.prompt(index).expect("a prompt").fields);
        fields.map(|fields| fields["level"].as_u64().expect("a number")).collect()
    };
    let (source, _) = files.open(json!({"path": "rows.jsonl", "shuffle": false})).expect("rows");
    assert_eq!(ids(&source, 19..22), ["rows.jsonl:20", "rows.jsonl:1", "rows.jsonl:2"]);
    let up = levels(json!({"path": "rows.jsonl", "curriculum": {"field": "level"}}));
    assert!(up[..20].is_sorted() && up[20..].is_sorted() && up[0] < up[19], "{up:?}");
    let down = levels(json!({"path": "rows.jsonl", "curriculum": {"field": "level", "order": "descending"}}));
    assert!(down[..20].iter().rev().is_sorted(), "{down:?}");
    let missing = files.open(json!({"path": "rows.jsonl", "curriculum": {"field": "pass_rate"}}));
    let error = missing.map(drop).expect_err("no such field").to_string();
    assert!(error.contains("no row has the field `pass_rate` that data.curriculum names"), "{error}");
    let words = files.open(json!({"path": "rows.jsonl", "curriculum": {"field": "prompt"}}));
    let Err(RolloutError::Rows(rows)) = words.map(drop) else { panic!("a text is no number") };
    assert!(rows.named()[0].contains("`prompt`, which data.curriculum sorts by, is no number"), "{rows:?}");
}

#[test]
fn several_files_come_by_their_weights_or_row_by_row() {
    let files = Files::new(&[("a.jsonl", 5), ("b.jsonl", 50)]);
    let of_a = |keys: Value, prompts: u64| {
        let (source, survey) = files.open(keys).expect("rows");
        assert_eq!((survey.prompts, source.epoch_prompts()), (55, Some(55)));
        assert_eq!(survey.files.iter().map(|(_, prompts)| *prompts).collect::<Vec<_>>(), [5, 50]);
        ids(&source, 0..prompts).iter().filter(|id| id.starts_with("a.jsonl")).count()
    };
    let plain = json!({"sources": [{"path": "a.jsonl"}, {"path": "b.jsonl"}]});
    assert_eq!(of_a(plain, 55), 5);
    let weighted = json!({"sources": [{"path": "a.jsonl", "weight": 3}, {"path": "b.jsonl", "weight": 1}]});
    assert_eq!(of_a(weighted, 1000), 750);
}

#[test]
fn a_source_has_a_mapping_of_its_own() {
    let files = Files::new(&[("a.jsonl", 2)]);
    files.0.write("b.jsonl", "{\"question\": \"ee\", \"gold\": {\"text\": \"7\"}}\n");
    let keys = json!({"answer": "row", "sources": [
        {"path": "a.jsonl"}, {"path": "b.jsonl", "prompt_template": "{{ question }}d", "answer": "gold.text"},
    ]});
    let (source, survey) = files.open(keys).expect("rows");
    let prompts: Vec<Prompt> = (0..3).map(|index| source.prompt(index).expect("a prompt")).collect();
    let of_b = prompts.iter().find(|prompt| prompt.id.contains("b.jsonl")).expect("a row of b");
    assert_eq!((of_b.text.as_str(), &of_b.references[..]), ("eed", &["7".to_string()][..]));
    assert_eq!(survey.answered, 3);
}
