//! Marks of thoughts as models and prompts write them, and texts that only look like them.

use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::stopwatch::seconds;

/// An opening mark with its closing one, as models write them.
const PAIRS: [(&str, &str); 30] = [
    ("<think>", "</think>"),
    ("<THINK>", "</Think >"),
    ("<think effort=\"high\">", "</ think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<analysis>", "</analysis>"),
    ("<reflection>", "</reflection>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<inner_monologue>", "</inner_monologue>"),
    ("<thinking_process>", "</thinking_process>"),
    ("<antThinking>", "</antThinking>"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<｜think▁start｜>", "<｜think▁end｜>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("<reason>", "</reason>"),
    ("<internal>", "</internal>"),
    ("<begin_thinking>", "<end_thinking>"),
    ("[BEGIN THINKING]", "[END THINKING]"),
    ("[Start of Reasoning]", "[End of Reasoning]"),
    ("<rationale>", "</rationale>"),
    ("<思考>", "</思考>"),
];

/// Marks that only the strict reading knows.
const STRICT_PAIRS: [(&str, &str); 6] = [
    ("```thinking\n", "\n```\n"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
    ("&lt;|begin_of_thought|&gt;", "&lt;|end_of_thought|&gt;"),
    ("＜think＞", "＜/think＞"),
    ("【思考】", "【/思考】"),
    ("⟨thinking⟩", "⟨/thinking⟩"),
];

#[test]
fn the_strict_reading_knows_more_marks() {
    for (open, close) in STRICT_PAIRS {
        let said = |text: String| outside_thoughts(&text).map(|said| said.trim().to_owned());
        assert_eq!(said(format!("{open}a{close}b")).as_deref(), Some("b"), "{open}");
        assert_eq!(said(format!("{open}a{close}\n{open}a{close}c")).as_deref(), Some("c"), "{open}");
        assert_eq!(said(format!("{open}a")), None, "{open}");
    }
    for text in
        ["```\na\n```\nb", "a & b &lt; c &gt; d", "```python\n[1]\n```", "it is ```thinking", "&lt;b&gt;"]
    {
        assert_eq!(outside_thoughts(text), Some(text), "{text}");
    }
}

#[test]
fn a_reference_is_what_stands_behind_its_thoughts() {
    for (reference, answer) in [
        ("<think>\nhm\n</think>\n\n42", Some("42")),
        (" 42\n", Some(" 42\n")),
        ("hm</think>42", Some("42")),
        ("[BEGIN THINKING]1[END THINKING] 2 ", Some("2")),
        ("<think>42", None),
        ("<think>42</think>\n", None),
        ("[0, 1)", Some("[0, 1)")),
        ("x < 3 & y", Some("x < 3 & y")),
    ] {
        assert_eq!(reference_behind_thoughts(reference), answer, "{reference}");
    }
}

#[test]
fn what_stands_behind_a_thought_is_said() {
    for (open, close) in PAIRS {
        let expect = |text: String, expected: Option<&str>| {
            assert_eq!(behind_last_thought(&text), expected, "{text}");
            assert_eq!(outside_thoughts(&text), expected, "{text}");
        };
        expect(format!("{open}a{close}b"), Some("b"));
        expect(format!("a{close}b"), Some("b"));
        expect(format!("b{open}a"), None);
        expect(format!("b{open}a{close}"), Some(""));
        expect(format!("{open}a{close}b{open}a{close}c"), Some("c"));
        expect(format!("{open}a{close}b{open}a"), None);
    }
}

#[test]
fn a_thought_inside_another_is_closed_itself() {
    for (open, close) in PAIRS {
        let text = format!("{open}a{open}b{close}c");
        // The channels of harmony are not nested: a final one ends whatever was before it.
        let expected = close.contains("channel").then_some("c");
        assert_eq!(outside_thoughts(&text), expected, "{text}");
        assert_eq!(behind_last_thought(&text), Some("c"), "{text}");
        assert_eq!(outside_thoughts(&format!("{text}{close}d")), Some("d"), "{text}");
    }
}

#[test]
fn a_mark_of_another_name_closes_no_thought() {
    for text in [
        "<think>It ends with </reasoning> Verdict: yes",
        "<think><analysis>a</think>b",
        "[THINK]a</think>b",
        "<think>a<|end_of_thought|>b",
        "<|begin_of_thought|>a</thought>b",
        "<reasoning>a</think>b</think>c",
        "<|channel|>analysis<|message|>a</think>b",
    ] {
        assert_eq!(outside_thoughts(text), None, "{text}");
    }
    assert_eq!(outside_thoughts("<inner_thought>a</thought>b"), Some("b"));
    assert_eq!(outside_thoughts("<think><analysis>a</analysis></think>b"), Some("b"));
    assert_eq!(outside_thoughts("a</reasoning>b</think>c"), Some("c"));
}

#[test]
fn what_is_no_mark_hides_nothing() {
    for text in [
        "",
        "a < think > b",
        "a<think b>c",
        "<thinker>",
        "<no_think>",
        "<nothink>",
        "<|no_think|>",
        "<think/>",
        "<think />",
        "[analysis]",
        "[begin]",
        "[end of the proof]",
        "<unused7>",
        "<internals>",
        "[t]hink]",
        "<|im_start|>",
        "<answer>4</answer>",
        "it wrote `<think>` and \"</think>\"",
        "analysis shows 4",
        "Analysis: 4",
        "<think",
        "<|think",
        "◁think",
    ] {
        assert_eq!(outside_thoughts(text), Some(text), "{text}");
        assert_eq!(behind_last_thought(text), Some(text), "{text}");
    }
}

#[test]
fn a_reply_of_gpt_oss_without_its_special_tokens_is_known() {
    assert_eq!(outside_thoughts("analysisWe check.assistantfinalVerdict: YES"), Some("Verdict: YES"));
    assert_eq!(outside_thoughts("analysisWe check. Verdict: YES"), None);
}

#[test]
fn the_search_is_linear() {
    for piece in [
        "<",
        "[",
        "<|",
        "◁",
        "<think",
        "<think a",
        "[think",
        "<|channel|>",
        "`<think>`",
        "&lt;",
        "```",
        "\n```x",
        "[end ",
    ] {
        let text = piece.repeat(200_000);
        let taken = seconds(|| {
            outside_thoughts(&text);
            behind_last_thought(&text);
            ends_in_solution(&text);
        });
        assert!(taken < 5.0, "{piece}: {taken} s");
    }
}

proptest! {
    /// Against counting, for the one pair of marks.
    #[test]
    fn thoughts_agree_with_counting(pieces in proptest::collection::vec(
        proptest::sample::select(vec!["<think>", "</think>", "a", " ", "<", "é", "`"]), 0..12,
    )) {
        let text: String = pieces.concat().replace("`<", "` <");
        let (mut open, mut said) = (0_i32, String::new());
        for piece in text.split_inclusive('>') {
            said.push_str(piece);
            if piece.ends_with("</think>") {
                open = (open - 1).max(0);
                said.clear();
            } else if piece.ends_with("<think>") {
                open += 1;
                said.clear();
            }
        }
        prop_assert_eq!(outside_thoughts(&text), (open == 0).then_some(said.as_str()), "{}", text);
        let last = (text.rfind("<think>"), text.rfind("</think>"));
        prop_assert!(behind_last_thought(&text).is_some() == (last.0 <= last.1), "{}", text);
    }
}
