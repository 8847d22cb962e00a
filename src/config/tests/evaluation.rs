//! Sets of held-out prompts: what each takes from the section around it, and what is refused.

use super::*;

const SETS: &str = r#"
[eval]
problems = 20
temperature = 0.5
output_tokens_max = 32

[[eval.sets]]
name = "held_out"

[[eval.sets]]
name = "math"
pass_k = 4
problems = 10
output_tokens_max = 48

[eval.sets.prompts]
kind = "jsonl"
path = "prompts.jsonl"

[[eval.sets.rewards]]
kind = "math"
correctness = true
"#;

fn with(sets: &str) -> String {
    format!("{TRAIN}{sets}")
}

#[test]
fn a_set_takes_what_it_does_not_say_from_the_section() {
    let place = folder(&with(SETS));
    let read = |name: &str| RunConfig::load(&place.path().join(name), &[]).unwrap();
    let config = read("a.toml");
    let [own, math] = &config.evaluations()[..] else { panic!("two sets") };
    assert_eq!((own.set.as_deref(), math.set.as_deref()), (Some("held_out"), Some("math")));
    assert_eq!((&own.data, &own.rewards), (&config.data, &config.rewards));
    assert_eq!((own.eval.problems, own.eval.pass_k, own.output_tokens_max), (20, 1, 32));
    assert_eq!((math.eval.problems, math.eval.pass_k, math.output_tokens_max), (10, 4, 48));
    assert_eq!((own.eval.temperature, math.eval.temperature), (0.5, 0.5));
    assert_eq!((own.output_tokens_key, math.output_tokens_key), ("eval.output_tokens_max", "eval.sets"));
    let DataConfig::File(file) = &math.data else { panic!("a file") };
    let path = file.path.as_ref().unwrap();
    assert!(path.is_absolute() && path.ends_with("prompts.jsonl"), "{file:?}");
    assert_eq!(math.rewards[0].kind, RewardKind::Math(rewards::MathConfig::default()));
    // The resolved text has the sets.
    fs::write(place.path().join("b.toml"), config.resolved()).unwrap();
    assert_eq!(read("b.toml").eval, config.eval);
    assert_eq!(config.eval.files().len(), 1);
    // One set without a name is as it was.
    let [only] = &load(TRAIN, &[]).unwrap().evaluations()[..] else { panic!("one set") };
    assert_eq!((only.set.as_deref(), only.output_tokens_max), (None, 64));
}

#[test]
fn a_file_of_a_set_is_read_as_the_data_is() {
    let jsonl = [
        "data={kind = \"jsonl\", path = \"prompts.jsonl\", answer_field = \"gold\"}",
        "rewards[0].kind=math",
    ];
    let sets = "[[eval.sets]]\nname = \"a\"\ndata = \"prompts.jsonl\"\n";
    let config = load(&with(sets), &jsonl).unwrap();
    assert!(config.eval.before && config.eval.after);
    let DataConfig::File(file) = &config.evaluations()[0].data else { panic!("a file") };
    assert_eq!(file.answer_field(), "gold");
    let message = load(&with("[[eval.sets]]\nname = \"a\"\n"), &jsonl).unwrap_err();
    assert!(message.contains("eval.sets[0]: names no held-out prompts"), "{message}");
    // What it does not say is as in the section.
    let file = [&jsonl[..], &["eval.data=prompts.jsonl"]].concat();
    let config = load(&with("[[eval.sets]]\nname = \"a\"\n"), &file).unwrap();
    assert!(matches!(&config.evaluations()[0].data, DataConfig::File(file) if file.path.is_some()));
}

#[test]
fn what_is_wrong_with_a_set_is_named_by_its_place() {
    let first_line = TRAIN.lines().count();
    for (from, to, line, expected) in [
        (
            "pass_k = 4",
            "pass_q = 4",
            12,
            "unknown key `eval.sets[1].pass_q`; the nearest known key is `pass_k`",
        ),
        (
            "name = \"math\"",
            "name = \"held_out\"",
            11,
            "eval.sets[1].name: \"held_out\" is the name of another set",
        ),
        ("name = \"math\"", "name = \"a/b\"", 11, "eval.sets[1].name: \"a/b\" must be letters"),
        (
            "name = \"math\"",
            "name = \"rewards\"",
            11,
            "eval.sets[1].name: \"rewards\" is a name among the metrics",
        ),
        ("pass_k = 4", "pass_k = 0", 12, "eval.sets[1].pass_k: must be at least 1, got 0"),
        ("pass_k = 4", "temperature = -1", 12, "eval.sets[1].temperature: must be finite"),
        ("correctness = true", "decimal_digits = 1", 22, "eval.sets[1].rewards[0].decimal_digits: must be 0"),
        ("kind = \"math\"", "kind = \"maths\"", 21, "eval.sets[1].rewards[0].kind: unknown value `maths`"),
        (
            "path = \"prompts.jsonl\"",
            "path = \"no.jsonl\"",
            18,
            "eval.sets[1].prompts.path: there is no no.jsonl",
        ),
        (
            "temperature = 0.5",
            "temperature = 0",
            12,
            "eval.sets[1].pass_k = 4: at eval.sets[1].temperature = 0",
        ),
        (
            "name = \"held_out\"",
            "name = \"held_out\"\ndata = \"prompts.jsonl\"",
            9,
            "eval.sets[0].data: data.kind = \"task\"",
        ),
    ] {
        let message = load(&with(&SETS.replacen(from, to, 1)), &[]).unwrap_err();
        let expected = format!("a.toml:{}: {expected}", first_line + line);
        assert!(message.starts_with(&expected), "{message}, not {expected}");
    }
}
