//! Reference answers with thoughts before them.

use super::{JsonlConfig, LastAssistant, Needs, RewardContext, WeightedSum, open_as};
use crate::bad_rows::RowProblem;
use crate::error::RolloutError;

fn rewards() -> WeightedSum {
    let config = serde_json::from_str(r#"[{"kind": "math", "correctness": true}]"#).expect("a reward");
    let configs: Vec<rewards::RewardConfig> = config;
    WeightedSum::from_configs(&configs, RewardContext::default()).expect("one reward")
}

#[test]
fn a_last_turn_is_compared_with_from_behind_its_thoughts() {
    let rewards = rewards();
    let needs = Needs { prompt_tokens_max: Some(20), rewards: Some(&rewards), demonstrations: None };
    let answer = |config: &mut JsonlConfig| config.last_assistant = Some(LastAssistant::Answer);
    let turn = |text: &str| {
        let messages =
            serde_json::json!([{"role": "user", "content": "c"}, {"role": "assistant", "content": text}]);
        serde_json::json!({"messages": messages}).to_string()
    };
    let rows = [turn("<think>\nhm\n</think>\n\n42"), turn("42"), turn("hm[/THINK] 42 ")].join("\n");
    let (source, survey) = open_as(&rows, &needs, answer).expect("three answers");
    assert_eq!((survey.thought_answers, survey.answered), (2, 3));
    for index in 0..3 {
        assert_eq!(source.prompt(index).expect("a prompt").references, ["42"]);
    }
    let refused = open_as(&turn("<think>42</think>"), &needs, answer).expect_err("no answer");
    assert!(refused.to_string().contains("nothing but thoughts"), "{refused}");
}

#[test]
fn an_answer_of_nothing_but_thoughts_is_a_bad_row() {
    let rewards = rewards();
    let needs = Needs { prompt_tokens_max: Some(20), rewards: Some(&rewards), demonstrations: None };
    let row = |answer: &str| serde_json::json!({"prompt": "c", "answer": answer}).to_string();
    let (source, survey) = open_as(&row("<think>1</think> 2"), &needs, |_| ()).expect("an answer");
    assert_eq!(survey.thought_answers, 1);
    // What a verifier of the user's is given is the row as it stands.
    assert_eq!(source.prompt(0).expect("a prompt").references, ["<think>1</think> 2"]);
    match open_as(&row("<think>1"), &needs, |_| ()).expect_err("no answer") {
        RolloutError::Rows(rows) => {
            assert_eq!(rows.bad[0].refusal.problem, RowProblem::Answer);
            assert!(rows.to_string().contains("`answer` holds nothing but thoughts"), "{rows}");
        }
        other => panic!("{other}"),
    }
}
