//! Reference answers in a record, as data have them: a text or a number, or a list of such.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

pub(super) fn serialize<S: Serializer>(answers: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    match answers {
        [one] => one.serialize(serializer),
        several => several.serialize(serializer),
    }
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let one = |value| match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        value => {
            let reason = format!("answer is {value}, neither a text nor a number, nor a list of such");
            Err(serde::de::Error::custom(reason))
        }
    };
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(Vec::new()),
        Value::Array(values) => values.into_iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::prompt::Prompt;
    use crate::record::CompletionRecord;
    use crate::testing::group;

    // What `longhaul score` needs to judge the completion again.
    #[test]
    fn the_answer_and_the_fields_of_the_row_survive_being_recorded() {
        let recorded = |answers: &[&str]| {
            let mut whole = group(0, &[(0, 1)]);
            let mut prompt = Prompt::clone(&whole.prompt);
            prompt.references = answers.iter().map(|&answer| answer.to_string()).collect();
            prompt.fields.insert("least".to_string(), Value::from(3));
            whole.completions[0].completion.prompt = Arc::new(prompt);
            let record = CompletionRecord::of(&whole.completions[0]);
            let written = serde_json::to_value(&record).expect("plain values");
            let read: CompletionRecord = serde_json::from_value(written.clone()).expect("our own record");
            assert_eq!(read, record);
            assert_eq!(written["fields"], json!({"least": 3}));
            written["answer"].clone()
        };
        assert_eq!(recorded(&["4"]), "4");
        assert_eq!(recorded(&["4", "four"]), json!(["4", "four"]));
        assert_eq!(recorded(&[]), Value::Null);
    }

    #[test]
    fn numbers_are_answers_and_other_values_are_refused() {
        let read = |answer: Value| {
            let mut record = serde_json::to_value(CompletionRecord::of(&group(0, &[(0, 1)]).completions[0]))
                .expect("plain values");
            record["answer"] = answer;
            serde_json::from_value::<CompletionRecord>(record).map(|record| record.answer)
        };
        assert_eq!(read(json!([4, "four"])).expect("a number and a text"), ["4", "four"]);
        let wrong = read(true.into()).expect_err("no answer").to_string();
        assert!(wrong.starts_with("answer is true, neither a text nor a number"), "{wrong}");
    }
}
