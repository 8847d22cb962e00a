//! Completions that are texts.

use super::{DemonstrationNeeds, Learn, Needs, ids, open_as};

#[test]
fn a_completion_has_one_end_of_output() {
    let needs = DemonstrationNeeds { learn: Learn::Last, tokens_max: 40 };
    let needs = Needs { demonstrations: Some(needs), ..Needs::default() };
    for completion in ["de", "de<eos>"] {
        let line = serde_json::json!({"prompt": "abc", "completion": completion}).to_string();
        let (source, _) = open_as(&line, &needs, |_| ()).expect("a completion");
        let learned = source.demonstration(0, None, Learn::Last).expect("a completion");
        assert_eq!(learned.target_tokens, ids("de."), "{completion}");
    }
}
