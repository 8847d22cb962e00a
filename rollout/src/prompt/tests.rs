//! Files of prompts: what a row becomes, what is refused, what the survey counts.

mod completions;
mod mapping;
mod selection;
mod thoughts;

use std::sync::Arc;

use rewards::{RewardContext, WeightedSum};
use serde_json::{Value, json};

use super::*;
use crate::bad_rows::RowProblem;
use crate::testing::{TextFiles, text};

/// A template that marks who speaks, for the tokens of the tests: `a` user, `b` assistant, `e` the end of a turn.
const TEMPLATE: &str = "{% for m in messages %}{{ 'b' if m.role == 'assistant' else 'a' }}\
                        {% if m.content is string %}{{ m.content }}{% else %}\
                        {% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}\
                        {{ '<eos>' if m.role == 'assistant' }}e{% endfor %}\
                        {% if add_generation_prompt %}b{% endif %}";

const ROOM: Needs<'static> = Needs { prompt_tokens_max: Some(9), rewards: None, demonstrations: None };

/// A source of these lines, whose model has a chat template.
fn open_as(
    lines: &str,
    needs: &Needs<'_>,
    change: impl FnOnce(&mut JsonlConfig),
) -> Result<(PromptSource, Survey), RolloutError> {
    let files = TextFiles::new();
    files.write("rows.jsonl", lines);
    files.write("chat_template.jinja", TEMPLATE);
    let mut config = JsonlConfig::new(files.path().join("rows.jsonl"));
    change(&mut config);
    let text = Arc::new(files.load().expect("a template"));
    PromptSource::open(&DataConfig::File(config), Split::Train, 5, text, needs)
}

fn open(lines: &str) -> Result<PromptSource, RolloutError> {
    open_as(lines, &ROOM, |_| ()).map(|(source, _)| source)
}

fn refusal(lines: &str) -> String {
    open(lines).expect_err("a bad line").to_string()
}

/// The ids of `a` to `e`, and 0 for `.`, the end of an output.
fn ids(letters: &str) -> Vec<u32> {
    letters.bytes().map(|letter| if letter == b'.' { 0 } else { u32::from(letter - b'a') + 2 }).collect()
}

#[test]
fn a_line_becomes_a_prompt_and_its_other_fields_reach_verifiers() {
    let line = r#"{"z": 1, "prompt": "abc", "y": {"b": 3, "a": 4}, "answer": 12.50, "completion": "de", "x": 1e400}"#;
    let source = open(line).expect("a good line");
    let prompt = source.prompt(4).expect("epoch 4");
    assert_eq!((prompt.index, prompt.text.as_str(), prompt.tokens), (4, "abc", ids("abc")));
    assert_eq!(prompt.references, ["12.50"]);
    assert!(prompt.id.ends_with("rows.jsonl:1"), "{}", prompt.id);
    let fields = serde_json::to_string(&prompt.fields).expect("JSON");
    assert_eq!(fields, r#"{"z":1,"y":{"b":3,"a":4},"x":1e400}"#);
    let learned = source.demonstration(0, None, Learn::Last).expect("the line has one");
    assert_eq!((learned.prompt_tokens, learned.target_tokens), (ids("abc"), ids("de.")));
}

#[test]
fn answers_keep_their_digits_and_may_be_several() {
    let references = |answer: &str| {
        let source = open(&format!(r#"{{"prompt": "a", "answer": {answer}}}"#))?;
        Ok(source.prompt(0)?.references)
    };
    let one = |answer| references(answer).map_err(|error: RolloutError| error.to_string());
    for number in [
        "123456789012345678901234567890",
        "-18446744073709551617",
        "2.71828182845904523536028",
        "-0.0",
        "1e400",
        "5e-7",
        "1E5",
        "1e+5",
    ] {
        assert_eq!(one(number), Ok(vec![number.to_string()]));
    }
    assert_eq!(one(r#"["7", 7.50]"#), Ok(vec!["7".to_string(), "7.50".to_string()]));
    for none in ["[]", "null"] {
        assert_eq!(one(none), Ok(vec![]));
    }
    assert!(one(r#"["7", " "]"#).expect_err("blank").contains("answer 2 of the list `answer` is empty"));
    for bad in ["true", "{}", "[[1]]"] {
        assert!(one(bad).expect_err(bad).contains("`answer` is neither a text nor a number"), "{bad}");
    }
}

#[test]
fn fields_may_lie_in_objects() {
    let line = r#"{"q": {"text": "ab"}, "reward_model": {"style": "rule", "ground_truth": 3}}"#;
    let nested = |answer: &str| {
        open_as(line, &ROOM, |config| {
            config.prompt = Some("q.text".to_string());
            config.answer = Some(AnswerConfig::Field(answer.to_string()));
        })
    };
    let (source, survey) = nested("reward_model.ground_truth").expect("a path");
    let prompt = source.prompt(0).expect("a prompt");
    assert_eq!((prompt.text.as_str(), prompt.references), ("ab", vec!["3".to_string()]));
    assert_eq!(Value::Object(prompt.fields), json!({"q": {}, "reward_model": {"style": "rule"}}));
    assert_eq!(survey.answered, 1);
    let error = nested("reward_model.truth").expect_err("no such field").to_string();
    assert!(
        error.ends_with(
            "no row has the field `reward_model.truth` that data.answer names; rows have `q`, `reward_model`"
        ),
        "{error}"
    );
}

#[test]
fn a_named_field_must_be_there() {
    let named = |lines: &str, needs: &Needs<'_>, key: &str, name: &str| {
        open_as(lines, needs, |config| {
            let name = Some(name.to_string());
            match key {
                "prompt" => config.prompt = name,
                "answer" => config.answer = name.map(AnswerConfig::Field),
                _ => config.completion = name,
            }
            config.last_assistant = Some(LastAssistant::Answer);
            config.bad_rows = BadRowsPolicy::Skip;
        })
        .map(drop)
        .map_err(|error| error.to_string())
    };
    // The other columns of these rows would be taken instead, and a row that cannot be read knows nothing.
    let rows = "{\n{\"messages\": [{\"role\": \"user\", \"content\": \"c\"}, \
                {\"role\": \"assistant\", \"content\": \"d\"}], \"gold\": null}\n";
    let demonstrations = DemonstrationNeeds { learn: Learn::Last, tokens_max: 40 };
    let learned = Needs { demonstrations: Some(demonstrations), ..Needs::default() };
    for (needs, key, name) in [
        (&ROOM, "prompt", "quesiton"),
        (&learned, "prompt", "prompt"),
        (&ROOM, "answer", "glod"),
        (&ROOM, "answer", "answer"),
        (&learned, "completion", "completion"),
    ] {
        let error = named(rows, needs, key, name).expect_err(name);
        let said = format!(
            "rows.jsonl: no row has the field `{name}` that data.{key} names; rows have `messages`, `gold`"
        );
        assert!(error.ends_with(&said), "{error}");
    }
    // `null` is a field that is there, and what a run does not read need not be.
    let room = Needs { prompt_tokens_max: Some(20), ..ROOM };
    for (needs, key, name) in
        [(&room, "answer", "gold"), (&room, "completion", "done"), (&learned, "answer", "glod")]
    {
        assert_eq!(named(rows, needs, key, name), Ok(()), "{name}");
    }
}

#[test]
fn a_broken_array_is_an_error_of_the_file() {
    let skip = |config: &mut JsonlConfig| config.bad_rows = BadRowsPolicy::Skip;
    let error = |text: &str| open_as(text, &ROOM, skip).expect_err("broken").to_string();
    let broken = error("[{\"prompt\": \"a\"},\n{\"prompt\" \"b\"},\n{\"prompt\": \"c\"}]");
    assert!(broken.contains("rows.jsonl:2: not JSON: "), "{broken}");
    let lines = error("[{\"prompt\": \"a\"}]\n{\"prompt\": \"b\"}\n");
    assert!(lines.contains("rows.jsonl:1: not JSON: text behind the end of the array"), "{lines}");
    let (source, survey) = open_as("[{\"prompt\": \"a\"},\n{\"prompt\": 1}]", &ROOM, skip).expect("an array");
    assert_eq!((source.epoch_prompts(), survey.rows_skipped()), (Some(1), 1));
}

// Invariant 7: the order is a function of the index and the seed; each epoch has every prompt once.
#[test]
fn prompt_k_is_the_same_whenever_it_is_asked_for() {
    let lines: String = "abcde".chars().map(|c| format!("{{\"prompt\": \"{c}\"}}\n\n")).collect();
    let source = open(&lines).expect("five lines with blank ones between");
    assert_eq!(source.epoch_prompts(), Some(5));
    let forward: Vec<Prompt> = (0..15).map(|k| source.prompt(k).expect("endless")).collect();
    let backward: Vec<Prompt> = (0..15).rev().map(|k| source.prompt(k).expect("endless")).collect();
    assert!(forward.iter().eq(backward.iter().rev()));
    for epoch in forward.chunks(5) {
        let mut texts: Vec<&str> = epoch.iter().map(|prompt| prompt.text.as_str()).collect();
        texts.sort_unstable();
        assert_eq!(texts, ["a", "b", "c", "d", "e"]);
    }
}

#[test]
fn bad_lines_are_refused_with_file_and_line() {
    let good = r#"{"prompt": "a"}"#;
    assert!(refusal(&format!("{good}\n\n{{\"prompt\": ")).contains("rows.jsonl:3: not JSON: "));
    assert!(refusal(&format!("{good}\n[1]")).contains("rows.jsonl:2: not a JSON object"));
    let cases = [
        (
            r#"{"answer": "a", "q": 1}"#,
            "neither `prompt` nor `messages`: the row has `answer`, `q`; name the",
        ),
        (r#"{"prompt": null, "messages": null}"#, "neither `prompt` nor `messages`"),
        (r#"{"messages": [{"from": "human", "value": "a"}]}"#, "`from` and `value` (ShareGPT)"),
        (r#"{"prompt": 3}"#, "`prompt` is neither a text nor a list of messages"),
        (r#"{"messages": {"role": "user", "content": "a"}}"#, "`messages` is neither a text nor a list"),
        (r#"{"messages": "a"}"#, "`messages` is not a list of messages"),
        (r#"{"prompt": []}"#, "the list of messages is empty"),
        (r#"{"prompt": "a", "prompt": "b"}"#, "the key `prompt` stands twice"),
        (r#"{"prompt": "a", "x": {"y": [{"z": 1, "z": 2}]}}"#, "the key `x.y[0].z` stands twice"),
        (r#"{"prompt": "a",}"#, "not JSON"),
        (r#"{"prompt": "a"} x"#, "not JSON"),
        ("{\"prompt\": \"a\0b\"}", "not JSON"),
        (r#"{"prompt": "\ud800"}"#, "not JSON"),
        (r#"{"messages": [{"role": "user"}]}"#, "message 1 has no `content`"),
        (r#"{"messages": [{"content": "a"}]}"#, "message 1 has no `role`"),
        (r#"{"messages": [{"role": "user", "content": 1}]}"#, "neither a text nor a list of texts"),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}"#,
            "message 1 has a part of type `image_url`; only `text` is read",
        ),
        (r#"{"prompt": "abcdeabcde"}"#, "has 10 tokens, but at most 9 fit beside the output"),
        (r#"{"prompt": ""}"#, "has no tokens, so there is nothing to continue"),
        (r#"{"prompt": "a", "completion": 3}"#, "`completion` is neither a text nor a list of messages"),
    ];
    for (line, reason) in cases {
        let error = refusal(&format!("{good}\n{line}\n"));
        assert!(error.contains("rows.jsonl:2: ") && error.contains(reason), "{line}: {error}");
    }
    assert!(refusal("\n").ends_with("rows.jsonl: holds no prompts"));
}

#[test]
fn every_bad_row_is_named_or_left_out() {
    let lines = "{\"prompt\": \"a\"}\n{\n{\"prompt\": \"\"}\n{\"prompt\": \"bc\"}\n{\"prompt\": \"\"}\n";
    let Err(RolloutError::Rows(bad)) = open(lines) else { panic!("three rows are bad") };
    let found: Vec<(usize, RowProblem)> = bad.bad.iter().map(|row| (row.line, row.refusal.problem)).collect();
    assert_eq!(found, [(2, RowProblem::Json), (3, RowProblem::Empty), (5, RowProblem::Empty)]);
    assert_eq!((bad.rows, bad.counts().as_str()), (5, "1 not JSON objects, 2 without tokens"));
    assert_eq!(bad.named().len(), 3);
    for (named, row) in bad.named().iter().zip(["2: not JSON", "3: has no tokens", "5: has no tokens"]) {
        assert!(named.contains(&format!("rows.jsonl:{row}")), "{:?}", bad.named());
    }
    assert!(bad.to_string().contains("3 of 5 rows cannot be used"), "{bad}");

    let skip = |config: &mut JsonlConfig| config.bad_rows = BadRowsPolicy::Skip;
    let (source, survey) = open_as(lines, &ROOM, skip).expect("two good rows");
    assert_eq!((source.epoch_prompts(), survey.prompts, survey.rows_skipped()), (Some(2), 2, 3));
    assert_eq!(survey.lengths, PromptLengths { min: 1, median: 2, p95: 2, max: 2 });
    let ids: Vec<String> = (0..2).map(|index| source.prompt(index).expect("good").id).collect();
    assert!(ids.iter().any(|id| id.ends_with(":1")) && ids.iter().any(|id| id.ends_with(":4")), "{ids:?}");
    assert!(open_as("{\n", &ROOM, skip).is_err(), "nothing is left");
}

#[test]
fn rows_have_what_their_rewards_need() {
    let configs: Vec<rewards::RewardConfig> = serde_json::from_str(
        r#"[{"kind": "math"}, {"kind": "words", "min_field": "least", "words_max": 9, "limit": 12}]"#,
    )
    .expect("two rewards");
    let rewards = WeightedSum::from_configs(&configs, RewardContext::default()).expect("sound keys");
    let needs = Needs { rewards: Some(&rewards), ..ROOM };
    let lines = r#"{"prompt": "a", "gold": "1", "least": 2}
{"prompt": "a", "least": 2}
{"prompt": "a", "gold": "1"}
{"prompt": "a", "gold": " ", "least": 2}"#;
    let gold = |config: &mut JsonlConfig| config.answer = Some(AnswerConfig::Field("gold".to_string()));
    let Err(RolloutError::Rows(bad)) = open_as(lines, &needs, gold) else { panic!("three rows are bad") };
    let found: Vec<(usize, RowProblem)> = bad.bad.iter().map(|row| (row.line, row.refusal.problem)).collect();
    assert_eq!(found, [(2, RowProblem::Answer), (3, RowProblem::Field), (4, RowProblem::Answer)]);
    assert!(bad.bad[0].refusal.reason.contains("`gold` is missing or empty, and the reward `math`"), "{bad}");
    assert!(
        bad.bad[1].refusal.reason.contains("`least` is missing")
            && bad.bad[1].refusal.reason.contains("`words`"),
        "{bad}"
    );
}

const CHAT: &str = r#"{"prompt": null, "messages": [{"role": "user", "content": "cd"},
    {"role": "assistant", "content": "dc"}, {"role": "user", "content": [{"type": "text", "text": "c"},
    {"type": "text", "text": "d"}]}, {"role": "assistant", "content": "ddd"}]}"#;

fn chat() -> String {
    CHAT.replace('\n', "")
}

#[test]
fn a_last_turn_of_the_assistant_is_no_prompt() {
    let error = refusal(&chat());
    assert!(error.contains("the last message is the assistant's") && error.contains("\"drop\""), "{error}");
    let asked = |policy| {
        let needs = Needs { prompt_tokens_max: Some(20), ..ROOM };
        let (source, survey) =
            open_as(&chat(), &needs, |config| config.last_assistant = Some(policy)).expect("a policy");
        assert_eq!(survey.last_assistant, 1);
        source.prompt(0).expect("a prompt")
    };
    let (dropped, answered) = (asked(LastAssistant::Drop), asked(LastAssistant::Answer));
    assert_eq!((dropped.tokens.clone(), dropped.text.as_str()), (ids("acdebdc.eacdeb"), "cd"));
    assert_eq!((answered.tokens, answered.references), (dropped.tokens, vec!["ddd".to_string()]));
    assert!(dropped.references.is_empty());
    assert_eq!(asked(LastAssistant::Continue).tokens, ids("acdebdc.eacdebddd"));
    let alone = r#"{"messages": [{"role": "assistant", "content": "c"}]}"#;
    let drop = |config: &mut JsonlConfig| config.last_assistant = Some(LastAssistant::Drop);
    assert!(open_as(alone, &ROOM, drop).expect_err("no question").to_string().contains("no question left"));
}

#[test]
fn demonstrations_are_the_turns_of_the_assistant() {
    let learn = |lines: &str, learn| {
        let needs =
            Needs { demonstrations: Some(DemonstrationNeeds { learn, tokens_max: 40 }), ..Needs::default() };
        let (source, survey) = open_as(lines, &needs, |_| ()).map_err(|error| error.to_string())?;
        assert_eq!(survey.last_assistant, 0, "it is learned");
        source.demonstration(0, None, learn).map_err(|error| error.to_string())
    };
    let last = learn(&chat(), Learn::Last).expect("the last turn");
    assert_eq!((last.prompt_tokens, last.target_tokens), (ids("acdebdc.eacdeb"), ids("ddd.")));
    assert!(last.given.is_empty());
    let all = learn(&chat(), Learn::All).expect("both turns");
    assert_eq!((all.prompt_tokens, all.target_tokens), (ids("acdeb"), ids("dc.eacdebddd.")));
    assert_eq!(all.given.as_slice(), std::slice::from_ref(&(3..9)));

    let listed = r#"{"prompt": [{"role": "user", "content": "c"}],
        "completion": [{"role": "assistant", "content": "dd"}]}"#
        .replace('\n', "");
    let listed = learn(&listed, Learn::All).expect("a list");
    assert_eq!((listed.prompt_tokens, listed.target_tokens), (ids("aceb"), ids("dd.")));
    for (line, reason) in [
        (r#"{"prompt": "a"}"#, "no completion to learn from"),
        (r#"{"prompt": "a", "completion": ""}"#, "the completion is empty"),
        (
            r#"{"prompt": [{"role": "user", "content": "c"}], "completion": [{"role": "assistant", "content": ""}]}"#,
            "the completion is empty",
        ),
        (r#"{"messages": [{"role": "user", "content": "c"}]}"#, "no completion to learn from"),
        (r#"{"prompt": "a", "completion": [{"role": "assistant", "content": "d"}]}"#, "the prompt is a text"),
        (
            r#"{"prompt": [{"role": "user", "content": "c"}], "completion": [{"role": "user", "content": "d"}]}"#,
            "does not end with the assistant's",
        ),
    ] {
        let error = learn(line, Learn::Last).expect_err(reason);
        assert!(error.contains("rows.jsonl:1: ") && error.contains(reason), "{error}");
    }
    let short = Needs {
        demonstrations: Some(DemonstrationNeeds { learn: Learn::Last, tokens_max: 12 }),
        ..Needs::default()
    };
    let error = open_as(&chat(), &short, |_| ()).expect_err("18 tokens").to_string();
    assert!(error.contains("has 18 tokens with its completion, but the model has 12 positions"), "{error}");
}

#[test]
fn a_text_goes_on_with_a_turn_that_is_begun() {
    let line = r#"{"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}],
        "completion": "de"}"#
        .replace('\n', "");
    let needs = DemonstrationNeeds { learn: Learn::Last, tokens_max: 40 };
    let needs = Needs { demonstrations: Some(needs), ..Needs::default() };
    for policy in [None, Some(LastAssistant::Drop), Some(LastAssistant::Answer)] {
        let (source, _) = open_as(&line, &needs, |config| config.last_assistant = policy).expect("a turn");
        let learned = source.demonstration(0, None, Learn::Last).expect("a completion");
        assert_eq!((learned.prompt_tokens, learned.target_tokens), (ids("acebd"), ids("de.")));
    }
}

#[test]
fn turns_that_are_rendered_to_nothing_lose_none_of_the_others() {
    // The template writes no turn of the assistant but the last.
    let files = TextFiles::new();
    files.write("rows.jsonl", &chat());
    files.write(
        "chat_template.jinja",
        "{% for m in messages %}{% if m.role == 'user' %}a{{ m.content if m.content is string else 'cd' }}\
         {% elif m.content == 'ddd' %}bddd<eos>{% endif %}{% endfor %}",
    );
    let config = DataConfig::File(JsonlConfig::new(files.path().join("rows.jsonl")));
    let needs = DemonstrationNeeds { learn: Learn::All, tokens_max: 99 };
    let needs = Needs { demonstrations: Some(needs), ..Needs::default() };
    let text = Arc::new(files.load().expect("a template"));
    let (source, _) = PromptSource::open(&config, Split::Train, 0, text, &needs).expect("two turns");
    let learned = source.demonstration(0, None, Learn::All).expect("the last turn");
    assert_eq!((learned.prompt_tokens, learned.target_tokens), (ids("acdacd"), ids("bddd.")));
    assert!(learned.given.is_empty());
}

#[test]
fn rows_tell_the_template_what_it_takes() {
    let template = "{{ 'd' if tools else 'c' }}{{ 'b' if thinking else 'a' }}";
    let prompt = |more: &str| {
        let files = TextFiles::new();
        let row = format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"c\"}}], {more}}}");
        files.write("rows.jsonl", &row);
        files.write("chat_template.jinja", template);
        let config = DataConfig::File(JsonlConfig::new(files.path().join("rows.jsonl")));
        let text = Arc::new(files.load().expect("a template"));
        let (source, _) =
            PromptSource::open(&config, Split::Train, 0, text, &ROOM).map_err(|error| error.to_string())?;
        Ok(source.prompt(0).expect("it was looked at").tokens)
    };
    for (more, expected) in [
        (r#""tools": [{"name": "x"}]"#, "da"),
        (r#""tools": "[{\"name\": \"x\"}]""#, "da"),
        (r#""tools": null, "chat_template_kwargs": null"#, "ca"),
        (r#""tools": "null", "chat_template_kwargs": {"thinking": true}"#, "cb"),
        (r#""chat_template_kwargs": "{\"thinking\": true, \"tools\": [{}]}""#, "db"),
    ] {
        assert_eq!(prompt(more), Ok(ids(expected)), "{more}");
    }
    for (more, reason) in [
        (r#""tools": """#, "`tools` is a text that is not JSON"),
        (r#""tools": "{}""#, "`tools` is not a list of objects"),
        (r#""tools": [{}, "x"]"#, "`tools`: item 2 is not an object"),
        (r#""chat_template_kwargs": "thinking""#, "`chat_template_kwargs` is a text that is not JSON"),
        (r#""chat_template_kwargs": [1]"#, "`chat_template_kwargs` is not an object"),
        (
            r#""chat_template_kwargs": {"messages": []}"#,
            "`chat_template_kwargs`: `messages` is given by the run",
        ),
        (
            r#""chat_template_kwargs": {"add_generation_prompt": false}"#,
            "`add_generation_prompt` is given by",
        ),
        (r#""chat_template_kwargs": {"tools": "x"}"#, "`tools` is not a list of objects"),
    ] {
        let error: String = prompt(more).expect_err(more);
        assert!(error.contains("rows.jsonl:1: ") && error.contains(reason), "{more}: {error}");
    }
}

#[test]
fn a_template_that_forgets_is_refused_for_all_turns() {
    let files = TextFiles::new();
    files.write("rows.jsonl", &chat());
    // Earlier answers are left out of the prompt, as some templates do with thoughts.
    files.write(
        "chat_template.jinja",
        "{% for m in messages %}{% if loop.last or m.role == 'user' %}a{{ m.content }}{% endif %}{% endfor %}\
         {% if add_generation_prompt %}b{% endif %}",
    );
    let config = DataConfig::File(JsonlConfig::new(files.path().join("rows.jsonl")));
    let needs = Needs {
        demonstrations: Some(DemonstrationNeeds { learn: Learn::All, tokens_max: 99 }),
        ..Needs::default()
    };
    let text = Arc::new(files.load().expect("a template"));
    let error =
        PromptSource::open(&config, Split::Train, 0, text, &needs).expect_err("it forgets").to_string();
    assert!(error.contains("sft.learn = \"last\""), "{error}");
}

#[test]
fn messages_pass_the_template_once() {
    let lines = r#"{"messages": [{"role": "user", "content": "ab"}]}"#;
    let files = TextFiles::new();
    files.write("rows.jsonl", lines);
    let data = DataConfig::File(JsonlConfig::new(files.path().join("rows.jsonl")));
    let error =
        PromptSource::open(&data, Split::Train, 0, text(), &ROOM).expect_err("no template").to_string();
    assert!(error.contains("rows.jsonl:1: ") && error.contains("chat_template"), "{error}");
    let prompt = open(lines).expect("a template").prompt(0).expect("a prompt");
    assert_eq!((prompt.text.as_str(), prompt.tokens), ("ab", ids("aabeb")));
}

#[test]
fn an_absent_file_is_named() {
    let config = DataConfig::File(JsonlConfig::new("absent.jsonl"));
    let error = PromptSource::open(&config, Split::Train, 0, text(), &ROOM).expect_err("absent");
    assert!(error.to_string().contains("absent.jsonl: "), "{error}");
}

#[test]
fn a_task_gives_problems_with_answers_and_demonstrations() {
    let task = json!({"kind": "task", "name": "addition", "difficulty_min": 2, "difficulty_max": 3});
    let data: DataConfig = serde_json::from_value(task).expect("known keys");
    let open =
        |split| PromptSource::open(&data, split, 9, text(), &Needs::default()).expect("known difficulties");
    let ((train, survey), (held_out, _)) = (open(Split::Train), open(Split::HeldOut));
    assert_eq!((train.epoch_prompts(), survey.is_whole, survey.answered), (None, false, 256));
    assert!(survey.lengths.min >= 1 && survey.lengths.max >= survey.lengths.median, "{survey:?}");
    let prompt = train.prompt(3).expect("endless");
    assert_eq!((prompt.index, prompt.id.as_str(), prompt.references.len()), (3, "addition:3", 1));
    assert_ne!(prompt.text, held_out.prompt(3).expect("endless").text);
    let learned = train.demonstration(3, None, Learn::Last).expect("a task demonstrates");
    assert_eq!((learned.prompt_tokens, learned.target_tokens.last()), (prompt.tokens, Some(&0)));
}

#[test]
fn the_config_is_tagged_and_strict() {
    let parse = serde_json::from_str::<DataConfig>;
    let config = parse(r#"{"kind": "jsonl", "path": "p", "answer_field": "gold", "bad_rows": "skip"}"#);
    let DataConfig::File(config) = config.expect("known keys") else { panic!("kind is jsonl") };
    assert_eq!((config.prompt_field(), config.answer_field()), ("prompt", "gold"));
    let written = serde_json::to_string(&config).expect("plain values");
    assert!(written.contains("\"answer\":\"gold\"") && !written.contains("prompt"), "{written}");
    assert_eq!((config.bad_rows, config.last_assistant), (BadRowsPolicy::Skip, None));
    let error = parse(r#"{"kind": "jsonl", "path": "p", "anwser_field": "gold"}"#).expect_err("a typo");
    assert!(error.to_string().contains("anwser_field"), "{error}");
}
