//! What the config makes of the fields of a row.

use super::*;

fn parsed(json: Value) -> JsonlConfig {
    serde_json::from_value(json).expect("known keys")
}

/// The text of the first prompt with its special tokens, and its references.
fn first(lines: &str, change: impl FnOnce(&mut JsonlConfig)) -> Result<(String, Vec<String>), String> {
    let any = Needs::default();
    let (source, _) = open_as(lines, &any, change).map_err(|error| match error {
        RolloutError::Rows(rows) => rows.named().join("\n"),
        other => other.to_string(),
    })?;
    let prompt = source.prompt(0).expect("it was looked at");
    Ok((source.text.show(&prompt.tokens).expect("known tokens"), prompt.references))
}

fn example(question: &str, answer: &str) -> Example {
    Example { question: question.to_owned(), answer: answer.to_owned() }
}

#[test]
fn gsm8k_is_read_by_config_alone() {
    let keys = json!({"path": "p", "prompt": "question", "answer": {"field": "answer", "after": "####"}});
    let keys = parsed(keys);
    let row = r#"{"question": "abc", "answer": "ab #### 1\nc\n#### 1,234 "}"#;
    let (text, references) = first(row, |config| {
        *config = JsonlConfig { path: config.path.take(), ..keys.clone() };
    })
    .expect("a row");
    assert_eq!((text.as_str(), references), ("abc", vec!["1,234".to_string()]));
    // Twenty-one rows of one reason are told together.
    let without = format!("{row}\n{}", r#"{"question": "abc", "answer": "5"}"#.to_owned() + "\n").repeat(21);
    let error = first(&without, |config| {
        config.prompt.clone_from(&keys.prompt);
        config.answer.clone_from(&keys.answer);
    })
    .map(drop);
    let error = error.expect_err("no mark");
    assert!(error.contains("rows.jsonl: lines 2, 4, 6"), "{error}");
    assert!(
        error.ends_with(
            "`answer` does not have \"####\", behind which data.answer.after looks for the answer"
        ),
        "{error}"
    );
}

#[test]
fn a_template_makes_the_prompt_of_all_fields() {
    let row = r#"{"question": "ab", "choices": ["c", "d"], "extra": {"hint": "e"}, "answer": "a"}"#;
    let with =
        |template: &'static str| first(row, move |config| config.prompt_template = Some(template.to_owned()));
    let (text, references) =
        with("{{ question }}{% for c in choices %}{{ c }}{% endfor %}{{ extra.hint }}").expect("fields");
    assert_eq!((text.as_str(), references), ("abcde", vec!["a".to_string()]));
    let error = with("a\n{{ qestion }}").expect_err("no such field");
    assert!(error.contains("rows.jsonl:1: data.prompt_template: line 2: the row has no `qestion`; it has `question`, `choices`"), "{error}");
    let error = with("{{ question").expect_err("not closed");
    assert!(error.starts_with("data.prompt_template: line 1: "), "{error}");
}

#[test]
fn a_text_becomes_a_conversation() {
    let row = r#"{"prompt": "cd", "answer": "e"}"#;
    let (text, _) = first(row, |config| config.chat = true).expect("a row");
    assert_eq!(text, "acdeb");
    let (text, _) = first(row, |config| {
        config.chat = true;
        config.system_prompt = Some("dd".to_owned());
        config.few_shot = Some(FewShotConfig::Examples(vec![example("c", "d")]));
    })
    .expect("a row");
    assert_eq!(text, "addeacebd<eos>eacdeb");
    let error = first(row, |config| config.system_prompt = Some("dd".to_owned())).expect_err("no chat");
    assert!(
        error.contains("rows.jsonl:1: data.system_prompt is a message") && error.contains("data.chat = true"),
        "{error}"
    );
}

#[test]
fn a_system_message_of_the_rows_own_stays() {
    let row = r#"{"messages": [{"role": "system", "content": "ee"}, {"role": "user", "content": "c"}]}"#;
    let (text, _) = first(row, |config| {
        config.system_prompt = Some("dd".to_owned());
        config.few_shot = Some(FewShotConfig::Examples(vec![example("b", "d")]));
    })
    .expect("a row");
    assert_eq!(text, "aeeeabebd<eos>eaceb");
}

#[test]
fn examples_stand_before_a_text() {
    let files = TextFiles::new();
    files.write(
        "shots.jsonl",
        "{\"prompt\": \"cd\", \"answer\": \"a#b\"}\n{\"prompt\": \"dd\", \"answer\": \"c#d\"}\n",
    );
    let shots = files.path().join("shots.jsonl");
    let rows = "{\"prompt\": \"cc\", \"answer\": \"e#a\"}\n";
    let with = |count: usize, seed: u64| {
        let file = FewShotFile { path: shots.clone(), count, seed };
        first(rows, |config| {
            config.few_shot = Some(FewShotConfig::File(file));
            config.answer = Some(AnswerConfig::Rule(AnswerRule { field: None, after: Some("#".to_owned()) }));
        })
    };
    // The tokenizer has no blanks, line ends and marks.
    let (text, references) = with(2, 0).expect("two examples");
    let unknown = |text: &str| text.replace([' ', '\n', '#'], "<unk>");
    let either = ["cd a#b\n\ndd c#d\n\ncc", "dd c#d\n\ncd a#b\n\ncc"].map(unknown);
    assert!(either.contains(&text), "{text}");
    assert_eq!(references, ["a"]);
    assert_eq!(with(2, 0), with(2, 0));
    let error = with(3, 0).expect_err("two rows");
    assert!(error.contains("shots.jsonl: has 2 rows, but data.few_shot asks for 3"), "{error}");
    // A row that is an example would have its answer before it.
    let (_, survey) = open_as(&format!("{rows}{rows}{{\"prompt\": \"b\"}}\n"), &Needs::default(), |config| {
        config.few_shot = Some(FewShotConfig::Examples(vec![example("cc", "d")]));
    })
    .expect("one row is left");
    assert_eq!((survey.prompts, survey.left_out.examples), (1, 2));
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    for (keys, said) in [
        (json!({}), "path: is missing"),
        (json!({"path": "p", "sources": [{"path": "q"}]}), "path: there are [[data.sources]] too"),
        (
            json!({"path": "p", "prompt": "a", "prompt_template": "b"}),
            "prompt: prompt_template makes the prompt",
        ),
        (json!({"path": "p", "prompt_template": "{% if %}"}), "prompt_template: line 1: "),
        (json!({"path": "p", "answer": {"after": ""}}), "answer: after must not be empty"),
        (json!({"path": "p", "few_shot": []}), "few_shot: must be from 1 to"),
        (json!({"path": "p", "split": {"fraction": 1.0}}), "split: fraction must be above 0 and below 1"),
        (
            json!({"path": "p", "prompt_tokens_min": 3, "prompt_tokens_max": 2}),
            "prompt_tokens_min: 3 is more",
        ),
        (json!({"path": "p", "shuffle": false, "shuffle_seed": 1}), "shuffle_seed: nothing is shuffled"),
        (json!({"sources": [{"path": "p", "weight": 1.0}, {"path": "q"}]}), "sources: some have a weight"),
        (json!({"sources": [{"path": "p", "weight": -1.0}]}), "sources: a weight must be finite and above 0"),
        (
            json!({"sources": [{"path": "p", "weight": 1.0}, {"path": "q", "weight": 1e-9}]}),
            "would never come",
        ),
    ] {
        let error = DataConfig::File(parsed(keys.clone())).check().expect_err(said).to_string();
        assert!(error.contains(said), "{keys}: {error}");
    }
}

#[test]
fn both_forms_of_a_key_are_read_and_written() {
    let rule = json!({"field": "a.b", "after": "####"});
    for (answer, field, after) in [(json!("gold"), "gold", None), (rule, "a.b", Some("####"))] {
        let config = parsed(json!({"path": "p", "answer": answer}));
        assert_eq!((config.answer_field(), config.answer_after()), (field, after));
        assert_eq!(parsed(serde_json::to_value(&config).expect("plain values")), config);
    }
    let shots = [json!([{"question": "q", "answer": "a"}]), json!({"path": "p", "count": 2})];
    for few_shot in shots {
        let config = parsed(json!({"path": "p", "few_shot": few_shot}));
        assert_eq!(parsed(serde_json::to_value(&config).expect("plain values")), config);
    }
    let error =
        serde_json::from_value::<JsonlConfig>(json!({"path": "p", "answer": 3})).expect_err("a number");
    assert!(error.to_string().contains("expected the name of a field, or {"), "{error}");
}
