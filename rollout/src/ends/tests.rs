//! The ends of outputs over small tokenizers of two kinds, and beside a search in the whole text.

use std::sync::Arc;

use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};
use serde_json::{Value, json};

use super::*;
use crate::testing::TextFiles;

/// A tokenizer of these tokens, whose ids are their places; the first is the end of output.
fn tokenizer(decoder: Value, vocabulary: &[&str], special: &[&str]) -> Arc<Text> {
    let place = |token: &str| vocabulary.iter().position(|known| *known == token).expect("one of them");
    let added = special.iter().map(|token| {
        json!({"id": place(token), "content": token, "special": true, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false})
    });
    let ids = vocabulary.iter().enumerate().map(|(id, token)| ((*token).to_string(), json!(id)));
    let model = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                       "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "merges": [],
                       "vocab": Value::Object(ids.collect())});
    let whole = json!({"version": "1.0", "truncation": null, "padding": null, "normalizer": null,
                       "pre_tokenizer": null, "post_processor": null, "decoder": decoder, "model": model,
                       "added_tokens": added.collect::<Vec<_>>()});
    let files = TextFiles::new();
    files.write("tokenizer.json", &whole.to_string());
    files.write("tokenizer_config.json", &json!({"eos_token": vocabulary[0]}).to_string());
    Arc::new(files.load().expect("a tokenizer"))
}

const BYTES: [&str; 18] = [
    "<eos>", "a", "b", "c", "d", "e", "f", "Ċ", "ĊĊ", "ST", "O", "P", "opST", "Ã", "©", "Ġa", "<|end|>",
    "OPera",
];
const EOS: u32 = 0;
const A: u32 = 1;
const B: u32 = 2;
const NEWLINE: u32 = 7;
const NEWLINES: u32 = 8;
const ST: u32 = 9;
const O: u32 = 10;
const P: u32 = 11;
const OP_ST: u32 = 12;
const E_ACUTE_1: u32 = 13;
const E_ACUTE_2: u32 = 14;
const SPACE_A: u32 = 15;
const END: u32 = 16;
const OPERA: u32 = 17;

/// The names of its tokens are bytes, as in GPT-2.
fn byte_level() -> Arc<Text> {
    let decoder =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    tokenizer(decoder, &BYTES, &["<eos>", "<|end|>"])
}

fn config(stop: &[&str]) -> StopConfig {
    StopConfig {
        stop: stop.iter().map(|string| (*string).to_string()).collect(),
        include_stop_str_in_output: true,
        ..StopConfig::default()
    }
}

fn ends(config: StopConfig) -> Ends {
    Ends::new(byte_level(), config, BYTES.len()).expect("valid stops")
}

/// What ends an output of these tokens, and after how many of them.
fn end_of(ends: &Ends, prompt: &[u32], tokens: &[u32]) -> Option<(usize, Finish)> {
    (0..tokens.len()).find_map(|drawn| {
        let before = tokens[..drawn].iter().rev().chain(prompt.iter().rev()).copied();
        Some((drawn + 1, ends.finish(before, drawn, tokens[drawn])?))
    })
}

/// The text with the stop string and without it, of an output that ends with its last token.
fn texts(stop: &[&str], prompt: &[u32], tokens: &[u32]) -> [String; 2] {
    [true, false].map(|include_stop_str_in_output| {
        let ends = ends(StopConfig { include_stop_str_in_output, ..config(stop) });
        assert_eq!(end_of(&ends, prompt, tokens), Some((tokens.len(), Finish::StopString)), "{tokens:?}");
        ends.ended_text(prompt, tokens, Finish::StopString).expect("known tokens").text
    })
}

#[test]
fn the_end_of_a_turn_is_found_again_in_its_trajectory() {
    use trajectory::{OutputLimits, Source, Token};
    let limits = OutputLimits { segment_tokens_max: 4, output_tokens_max: 8 };
    let ends = Ends::of(crate::testing::text());
    let mut trajectory = Trajectory::new(crate::testing::prompt(0), 0, 0);
    assert_eq!(ends.end_of_turn(&trajectory), None, "nothing was drawn");
    trajectory.start_segment(0, limits);
    for (id, end) in [(3, None), (0, Some(Finish::Eos))] {
        trajectory.push(Token { id, logprob: -1.0 }, end, limits);
        assert_eq!(ends.end_of_turn(&trajectory), end);
    }
    trajectory.append(Source::Environment, vec![0]);
    assert_eq!(ends.end_of_turn(&trajectory), None, "it goes on behind what was given");
}

#[test]
fn a_stop_string_ends_with_the_token_that_completes_it() {
    let ends = ends(config(&["STOP", "c\n"]));
    let cases: [(&[u32], Option<usize>); 8] = [
        (&[A, ST, O, P, A], Some(4)),
        (&[A, ST, O, A, P], None),
        (&[OP_ST, OPERA], Some(2)),
        (&[ST, OP_ST, O, ST, O, P], Some(6)),
        (&[3, NEWLINES], Some(2)),
        (&[3, A, NEWLINES], None),
        (&[A, B], None),
        (&[ST, O, 99, P], None),
    ];
    for (tokens, end) in cases {
        let found = end_of(&ends, &[A], tokens);
        assert_eq!(found, end.map(|end| (end, Finish::StopString)), "{tokens:?}");
    }
}

#[test]
fn a_stop_string_may_begin_in_the_prompt_and_never_ends_in_it() {
    let ends = ends(config(&["STOP"]));
    assert_eq!(end_of(&ends, &[ST, O], &[P]), Some((1, Finish::StopString)));
    assert_eq!(end_of(&ends, &[ST, O, P], &[A, P, O]), None);
    assert_eq!(texts(&["STOP"], &[ST, O], &[P]), ["P", ""]);
}

#[test]
fn the_text_ends_with_the_stop_string_or_before_it() {
    assert_eq!(texts(&["STOP"], &[B], &[A, ST, O, P]), ["aSTOP", "a"]);
    assert_eq!(texts(&["STOP"], &[B], &[A, OP_ST, OPERA]), ["aopSTOPera", "aop"]);
    assert_eq!(texts(&["\n"], &[B], &[A, NEWLINES]), ["a\n\n", "a"]);
    // The string that begins first counts, whatever the order of the list.
    assert_eq!(texts(&["OP", "STO"], &[B], &[A, OP_ST, OPERA]), ["aopSTOPera", "aop"]);
    let ended = |stop: &[&str], tokens: &[u32]| {
        ends(config(stop)).ended_text(&[], tokens, Finish::StopString).expect("known tokens").stop_reason
    };
    assert_eq!(ended(&["OP", "STO"], &[OP_ST, OPERA]), Some(StopReason::String("STO".to_string())));
    assert_eq!(ended(&["\n", "\n\n"], &[NEWLINES]), Some(StopReason::String("\n".to_string())));
}

#[test]
fn characters_in_several_tokens_are_found_and_left_whole() {
    assert_eq!(texts(&["é"], &[B], &[A, E_ACUTE_1, E_ACUTE_2]), ["aé", "a"]);
    assert_eq!(texts(&["éa"], &[B], &[E_ACUTE_1, E_ACUTE_2, E_ACUTE_1, E_ACUTE_2, A]), ["ééa", "é"]);
    assert_eq!(texts(&["b"], &[B], &[E_ACUTE_1, E_ACUTE_2, B]), ["éb", "é"]);
    // The half of a character is shown as decoders show it.
    assert_eq!(texts(&["b"], &[B], &[A, E_ACUTE_1, B]), ["a\u{fffd}b", "a\u{fffd}"]);
    assert_eq!(end_of(&ends(config(&["é"])), &[B], &[E_ACUTE_1, A, E_ACUTE_2]), None);
}

#[test]
fn special_tokens_are_found_by_their_names_and_are_no_text() {
    assert_eq!(texts(&["<|end|>"], &[B], &[A, END]), ["a", "a"]);
    assert_eq!(texts(&["end"], &[B], &[A, END]), ["a", "a"]);
    assert_eq!(texts(&["a<|"], &[B], &[B, A, END]), ["ba", "b"]);
}

/// Decoders of Llama 2 take the first space off a text and write bytes by their numbers.
#[test]
fn tokens_count_as_what_they_write_inside_a_text() {
    let decoder = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]});
    let vocabulary = ["</s>", "▁a", "▁", "b", "<0x0A>", "<0xC3>", "<0xA9>", "a", "c", "d", "e", "f", "▁ab"];
    let text = tokenizer(decoder, &vocabulary, &["</s>"]);
    let texts = |stop: &str, tokens: &[u32]| {
        [true, false].map(|include_stop_str_in_output| {
            let config = StopConfig { include_stop_str_in_output, ..config(&[stop]) };
            let ends = Ends::new(text.clone(), config, vocabulary.len()).expect("valid stops");
            assert_eq!(end_of(&ends, &[3], tokens), Some((tokens.len(), Finish::StopString)), "{tokens:?}");
            ends.ended_text(&[3], tokens, Finish::StopString).expect("known tokens").text
        })
    };
    assert_eq!(texts(" a", &[1]), ["a", ""], "the space is there, though the text does not show it");
    assert_eq!(texts("\n", &[3, 1, 4]), ["b a\n", "b a"]);
    assert_eq!(texts("é", &[3, 5, 6]), ["bé", "b"]);
    assert_eq!(texts("b", &[12]), ["ab", "a"]);
    assert_eq!(texts("a b", &[1, 2, 3]), ["a b", ""]);
    assert_eq!(texts("a", &[3, 1]), ["b a", "b "]);
}

#[test]
fn stop_token_ids_are_tokens_and_no_text() {
    let ends = ends(StopConfig { stop_token_ids: vec![NEWLINE, NEWLINE, B, EOS], ..config(&["\n", "b"]) });
    assert_eq!(end_of(&ends, &[NEWLINE], &[A, NEWLINE]), Some((2, Finish::StopToken)));
    assert_eq!(end_of(&ends, &[A], &[A, NEWLINES]), Some((2, Finish::StopString)));
    assert_eq!(end_of(&ends, &[A], &[A, EOS]), Some((2, Finish::Eos)), "an end of output stays one");
    let ended = ends.ended_text(&[A], &[A, SPACE_A, B], Finish::StopToken).expect("known tokens");
    assert_eq!(ended, EndedText { text: "a a".to_string(), stop_reason: Some(StopReason::TokenId(B)) });
    let ended = ends.ended_text(&[A], &[A, EOS], Finish::Eos).expect("known tokens");
    assert_eq!(ended, EndedText { text: "a".to_string(), stop_reason: None });
}

#[test]
fn stop_strings_wait_for_min_tokens() {
    let ends = ends(StopConfig { stop_token_ids: vec![P], min_tokens: 3, ..config(&["ab"]) });
    assert_eq!(end_of(&ends, &[A], &[A, B, A, B]), Some((4, Finish::StopString)));
    // The token that completes it counts, not the one that begins it.
    assert_eq!(end_of(&ends, &[A], &[B, B, A, B]), Some((4, Finish::StopString)));
    assert_eq!(end_of(&ends, &[A], &[B, A, B, B, B]), None, "completed by the third token");
    assert_eq!(ends.min_tokens(), Some(MinTokens { tokens: 3, excluded: vec![EOS, P] }));
    assert_eq!(Ends::of(byte_level()).min_tokens(), None);
}

#[test]
fn invalid_stops_name_their_key() {
    let refusal = |config: StopConfig| config.check(8).expect_err("it cannot").to_string();
    assert!(refusal(config(&["a", ""])).starts_with("rollout.stop: an empty string"));
    let long = refusal(config(&[&"é".repeat(200)]));
    assert!(long.starts_with("rollout.stop: \"éé") && long.contains("has 400 bytes"), "{long}");
    let many = StopConfig { stop: vec!["a".to_string(); 65], ..config(&[]) };
    assert_eq!(refusal(many), "rollout.stop: 65 strings are more than 64");
    let many = StopConfig { stop_token_ids: vec![1; 1025], ..config(&[]) };
    assert!(refusal(many).starts_with("rollout.stop_token_ids: 1025 ids"));
    let late = StopConfig { min_tokens: 8, ..config(&[]) };
    assert_eq!(refusal(late), "rollout.min_tokens: 8 leaves no output an end before output_tokens_max = 8");
    StopConfig { min_tokens: 7, ..config(&["a", "a"]) }.check(8).expect("doubles do no harm");

    let refusal = |config| Ends::new(byte_level(), config, 18).expect_err("it cannot").to_string();
    let outside = StopConfig { stop_token_ids: vec![17, 18], ..config(&[]) };
    assert_eq!(refusal(outside), "rollout.stop_token_ids: token 18 is outside the model's vocabulary of 18");
    assert!(
        refusal(config(&["a", "a€"])).starts_with("rollout.stop: no token of the tokenizer can end \"a€\"")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    // Beside a search in the whole text after each token.
    #[test]
    fn stops_are_found_as_in_the_whole_text(
        prompt in proptest::collection::vec(1_u32..18, 1..6),
        tokens in proptest::collection::vec(1_u32..18, 1..24),
        stops in proptest::collection::vec(proptest::collection::vec(1_u32..18, 1..5), 1..4),
    ) {
        let text = byte_level();
        let bytes = text.token_bytes().expect("a table");
        let written = |ids: &[u32]| ids.iter().flat_map(|id| bytes.of(*id).unwrap().to_vec()).collect::<Vec<u8>>();
        let stops: Vec<String> = stops.iter().filter_map(|ids| String::from_utf8(written(ids)).ok()).collect();
        let list: Vec<&str> = stops.iter().map(String::as_str).collect();
        let ends = Ends::new(text.clone(), config(&list), 18).expect("made of tokens");
        let expected = (1..=tokens.len()).find(|count| {
            let whole = [written(&prompt), written(&tokens[..*count])].concat();
            let known = whole.len() - written(&tokens[count - 1..*count]).len();
            stops.iter().any(|stop| {
                let mut places = whole.windows(stop.len()).enumerate();
                places.any(|(place, part)| part == stop.as_bytes() && place + stop.len() > known)
            })
        });
        prop_assert_eq!(end_of(&ends, &prompt, &tokens), expected.map(|count| (count, Finish::StopString)));
    }
}
