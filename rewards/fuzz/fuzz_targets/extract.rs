//! Finds the final answer in any text and judges it: nothing may panic or take long, an answer that is not joined
//! from several boxes stands in the text, and a thought that is not closed has only what is marked as an answer.

#![no_main]

use std::borrow::Cow;

use libfuzzer_sys::fuzz_target;
use rewards::{MathConfig, extract_answer, is_equivalent};

fuzz_target!(|text: &str| {
    let config = MathConfig::default();
    let found = extract_answer(text, &config.extract);
    if let Some(Cow::Borrowed(answer)) = &found {
        assert!(text.contains(answer));
    }
    if let Some(answer) = &found {
        is_equivalent("1/3", answer, &config);
        is_equivalent(answer, "42", &config);
    }
    let is_marked = text.contains("</answer>") || text.contains("boxed") || text.contains("fbox");
    let in_thought = format!("{text}\n<think> so it is 5. ");
    let unclosed = extract_answer(&in_thought, &config.extract);
    assert!(unclosed.is_none() || is_marked);
});
