//! Sums, gates, truncated completions and errors of several rewards.

use proptest::prelude::{any, prop_assert, proptest};

use super::*;
use crate::config::RewardKind;
use crate::math::{MathConfig, MathVerifier};
use crate::tasks::{Task, TaskConfig, TaskName};

fn configs(json: &str) -> Vec<RewardConfig> {
    serde_json::from_str(json).unwrap()
}

fn machine() -> Task {
    Task::new(TaskConfig::new(TaskName::Machine, 1..=9)).unwrap()
}

fn sum(json: &str, truncated: TruncatedReward) -> Result<WeightedSum, RewardError> {
    WeightedSum::from_configs(
        &configs(json),
        RewardContext { task: Some(machine()), truncated, ..RewardContext::default() },
    )
}

fn score(sum: &WeightedSum, completion: &str, truncated: bool) -> Result<Reward, RewardError> {
    let fields = serde_json::Map::new();
    let (prompt, references) = ("4+3*2=", &["4".to_string()][..]);
    sum.score(&Answer { prompt, completion, references, fields: &fields, tokens: 250, truncated })
}

const THREE: &str = r#"[
    {"kind": "task", "correctness": true},
    {"kind": "format", "style": "task", "weight": 0.5},
    {"kind": "length", "length_max": 1000, "weight": 0.25, "format_weight": 1.0, "format_style": "task"}
]"#;

#[test]
fn the_total_is_the_weighted_sum_and_the_parts_are_unweighted() {
    let sum = sum(THREE, TruncatedReward::Zero).unwrap();
    assert_eq!((sum.names(), sum.correctness_name()), (vec!["task", "format", "length"], Some("task")));
    let reward = score(&sum, "4+3=7;7*2=4;#4", false).unwrap();
    assert_eq!(reward.total, 1.0 + 0.5 + 0.25 * 1.75);
    assert_eq!(reward.correctness, Some(1));
    let expected =
        [("task", 1.0), ("format", 1.0), ("length", 1.75), ("length/length", 0.75), ("length/format", 1.0)];
    assert_eq!(reward.parts, expected.map(|(name, value)| (name.to_string(), value)).into());
    let wrong = score(&sum, "#5", false).unwrap();
    assert_eq!((wrong.total, wrong.correctness), (0.5 + 0.25 * 1.75, Some(0)));
}

#[test]
fn truncated_is_wrong_whatever_it_says() {
    let zero = score(&sum(THREE, TruncatedReward::Zero).unwrap(), "#4", true).unwrap();
    assert_eq!((zero.total, zero.correctness), (0.0, Some(0)));
    assert_eq!(zero.parts, ["task", "format", "length"].map(|name| (name.to_string(), 0.0)).into());
    let scored = score(&sum(THREE, TruncatedReward::Scored).unwrap(), "#4", true).unwrap();
    assert_eq!((scored.total, scored.correctness), (0.5 + 0.25 * 1.75, Some(0)));
    assert_eq!(scored.parts["task"], 0.0);
}

#[test]
fn a_gated_reward_counts_where_its_gate_is_1() {
    let sum = sum(
        r#"[
            {"kind": "task", "correctness": true},
            {"kind": "length", "length_max": 1000, "gate": "task"},
            {"kind": "length", "name": "twice", "length_max": 1000, "gate": "length"}
        ]"#,
        TruncatedReward::Zero,
    )
    .unwrap();
    let right = score(&sum, "4+3=7;7*2=4;#4", false).unwrap();
    assert_eq!((right.total, right.parts["length"], right.parts["twice"]), (1.75, 0.75, 0.0));
    let wrong = score(&sum, "#5", false).unwrap();
    assert_eq!((wrong.total, wrong.parts["length"]), (0.0, 0.0));
}

#[test]
fn one_answer_that_fails_leaves_the_others_their_rewards() {
    let sum = sum(r#"[{"kind": "math"}, {"kind": "format"}]"#, TruncatedReward::Zero).unwrap();
    let fields = serde_json::Map::new();
    let (four, five) = (["4".to_string()], ["5".to_string()]);
    let answer = |completion, references| Answer {
        prompt: "p",
        completion,
        references,
        fields: &fields,
        tokens: 1,
        truncated: false,
    };
    let answers =
        [answer(r"\boxed{4}", &four[..]), answer("4", &[]), answer("x 4", &four), answer("4", &five)];
    let rewards = sum.score_all(&answers);
    assert_eq!(rewards[0].as_ref().unwrap().total, 2.0);
    assert!(
        rewards[1].as_ref().unwrap_err().to_string().starts_with("reward `math` failed on the prompt \"p\"")
    );
    assert_eq!(rewards[2].as_ref().unwrap().total, 1.0);
    assert_eq!(rewards[3].as_ref().unwrap().total, 0.0);
}

#[test]
fn a_prompt_is_checked_before_it_is_answered() {
    let json = r#"[{"kind": "format"}, {"kind": "math"},
        {"kind": "words", "min_field": "least", "words_max": 9, "limit": 20},
        {"kind": "target_length", "target_field": "target", "value": "precise"}]"#;
    let sum = sum(json, TruncatedReward::Zero).unwrap();
    let check = |references: &[&str], fields: &str| {
        let references: Vec<String> = references.iter().map(|text| (*text).to_string()).collect();
        let fields = serde_json::from_str(fields).unwrap();
        let (prompt, completion, tokens, truncated) = ("p", "", 0, false);
        let question =
            Answer { prompt, completion, references: &references, fields: &fields, tokens, truncated };
        sum.check(&question).map_err(|error| error.to_string())
    };
    let good = r#"{"least": 3, "target": 300}"#;
    assert_eq!(check(&["4"], good), Ok(()));
    assert_eq!(check(&[" ", "4"], good), Ok(()));
    let cases = [
        (&[][..], good, "reward `math`", "`answer` is missing or empty"),
        (&["####"], good, "reward `math`", "`answer` is missing or empty"),
        (&["4"], r#"{"target": 300}"#, "reward `words`", "the field `least` is missing"),
        (&["4"], r#"{"least": "3", "target": 300}"#, "reward `words`", "must be a whole number"),
        (&["4"], r#"{"least": 1e400, "target": 300}"#, "reward `words`", "at least 0, not 1e+400"),
        (&["4"], r#"{"least": 10, "target": 300}"#, "reward `words`", "must be finite and at least `least`"),
        (&["4"], r#"{"least": 3, "target": "many"}"#, "reward `target_length`", "not \"many\""),
        (&["4"], r#"{"least": 3}"#, "reward `target_length`", "the field `target` is missing"),
    ];
    for (references, fields, name, reason) in cases {
        let error = check(references, fields).unwrap_err();
        assert!(error.starts_with(name) && error.contains(reason), "{error}");
    }
}

#[test]
fn without_a_mark_there_is_no_correctness() {
    let sum = sum(r#"[{"kind": "math", "name": "m"}]"#, TruncatedReward::Zero).unwrap();
    assert_eq!(score(&sum, "4", false).unwrap().correctness, None);
    assert_eq!(score(&sum, "4", true).unwrap().correctness, None);
}

#[test]
fn bad_configs_name_entry_and_key() {
    let cases = [
        ("[]", "rewards: "),
        (r#"[{"kind": "math"}, {"kind": "math"}]"#, "rewards[1].name: `math`"),
        (r#"[{"kind": "math", "name": "a/b"}]"#, "rewards[0].name: "),
        (
            r#"[{"kind": "math", "correctness": true}, {"kind": "task", "correctness": true}]"#,
            "rewards[1].correctness: `math`",
        ),
        (r#"[{"kind": "length", "length_max": 9, "correctness": true}]"#, "rewards[0].correctness: "),
        (r#"[{"kind": "length", "length_max": 0}]"#, "rewards[0].length_max: "),
        (r#"[{"kind": "length", "length_max": 9, "p": 2.0}]"#, "rewards[0].p: "),
        (r#"[{"kind": "custom", "name": "mine"}]"#, "rewards[0].name: no verifier is registered as `mine`"),
        (
            r#"[{"kind": "math", "gate": "task"}, {"kind": "task"}]"#,
            "rewards[0].gate: `task` is no reward above this one",
        ),
        (r#"[{"kind": "math", "gate": "math"}]"#, "rewards[0].gate: `math`"),
    ];
    for (json, start) in cases {
        let message = sum(json, TruncatedReward::Zero).unwrap_err().to_string();
        assert!(message.starts_with(start), "{message}");
    }
    for json in [
        r#"[{"kind": "task"}]"#,
        r#"[{"kind": "format", "style": "task"}]"#,
        r#"[{"kind": "length", "length_max": 9, "format_weight": 1.0, "format_style": "task"}]"#,
    ] {
        assert!(WeightedSum::from_configs(&configs(json), RewardContext::default()).is_err(), "{json}");
    }
    let infinite = WeightedSum::new(TruncatedReward::Zero)
        .with_verifier(
            "math",
            f64::INFINITY,
            false,
            Box::new(MathVerifier::new(MathConfig::default()).unwrap()),
        )
        .unwrap_err();
    assert!(infinite.to_string().starts_with("weight: "));
}

/// Says a given verdict.
struct Fixed(Result<Verdict, String>);

impl Verifier for Fixed {
    fn verify(&self, _answer: &Answer<'_>) -> Result<Verdict, RewardError> {
        self.0.clone().map_err(RewardError::Custom)
    }
}

fn with_fixed(verdict: Result<Verdict, String>, correctness: bool) -> Result<Reward, RewardError> {
    let config = RewardConfig {
        name: "mine".to_string(),
        ..RewardConfig::new(RewardKind::Custom {}, 2.0, correctness)
    };
    let verifier: Box<dyn Verifier> = Box::new(Fixed(verdict));
    let custom = BTreeMap::from([("mine".to_string(), verifier)]);
    let sum = WeightedSum::from_configs(&[config], RewardContext { custom, ..RewardContext::default() });
    score(&sum.unwrap(), "", false)
}

/// Invariant: a reward that is not finite stops the run, with the verifier and the prompt named.
#[test]
fn what_is_not_finite_is_an_error_that_names_verifier_and_prompt() {
    assert_eq!(with_fixed(Ok(0.25.into()), false).unwrap().total, 0.5);
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let message = with_fixed(Ok(value.into()), false).unwrap_err().to_string();
        assert!(message.contains("`mine`") && message.contains("4+3*2="), "{message}");
    }
    let parts = BTreeMap::from([("odd".to_string(), f64::NAN)]);
    let message =
        with_fixed(Ok(Verdict { value: 1.0, parts, ..Verdict::default() }), false).unwrap_err().to_string();
    assert!(message.contains("`mine/odd`"), "{message}");
    let message = with_fixed(Ok(f64::MAX.into()), false).unwrap_err().to_string();
    assert!(message.contains("`total`"), "{message}");
}

#[test]
fn a_correctness_is_0_or_1() {
    assert_eq!(with_fixed(Ok(1.0.into()), true).unwrap().correctness, Some(1));
    let message = with_fixed(Ok(0.5.into()), true).unwrap_err().to_string();
    assert!(message.contains("`mine`") && message.contains("0.5"), "{message}");
}

#[test]
fn a_failing_verifier_is_named_with_the_prompt() {
    let message = with_fixed(Err("the service is away".to_string()), false).unwrap_err().to_string();
    assert_eq!(message, "reward `mine` failed on the prompt \"4+3*2=\": the service is away");
}

#[test]
fn the_correctness_reads_the_answers_that_are_voted_on() {
    let fields = serde_json::Map::new();
    let answer = |completion, truncated| Answer {
        prompt: "4+3*2=",
        completion,
        references: &[],
        fields: &fields,
        tokens: 9,
        truncated,
    };
    let task = sum(THREE, TruncatedReward::Zero).unwrap();
    assert_eq!(task.final_answer(&answer("7;#4", false)).as_deref(), Some("4"));
    assert_eq!(task.final_answer(&answer("7;#4", true)), None, "what was cut off has no final answer");
    assert_eq!(task.final_answer(&answer("7;4", false)), None);
    let math = sum(r#"[{"kind": "math", "correctness": true}]"#, TruncatedReward::Zero).unwrap();
    let found = |completion| math.final_answer(&answer(completion, false));
    assert_eq!(found(r"so \boxed{\frac12}").as_deref(), Some(r"\frac12"));
    assert_eq!(found(r"\boxed{ }"), None, "an empty box is no vote");
    assert!(math.is_same_answer(r"\frac12", "0.5") && !math.is_same_answer("1", "2"));
    // Without a correctness there is nothing that a majority could be right about.
    let none = sum(r#"[{"kind": "math"}]"#, TruncatedReward::Zero).unwrap();
    assert_eq!((none.final_answer(&answer("4", false)), none.is_same_answer("4", "4")), (None, false));
}

proptest! {
    #[test]
    fn any_completion_gets_a_finite_reward(completion in any::<String>(), truncated in any::<bool>()) {
        for rule in [TruncatedReward::Zero, TruncatedReward::Scored] {
            let sum = sum(THREE, rule).unwrap();
            let reward = score(&sum, &completion, truncated).unwrap();
            let weighted = reward.parts["task"] + 0.5 * reward.parts["format"] + 0.25 * reward.parts["length"];
            prop_assert!((reward.total - weighted).abs() < 1e-12);
        }
    }
}
