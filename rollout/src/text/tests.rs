//! Texts to ids and back, and ends of output.

use serde_json::{Map, Value, json};

use super::{Chat, ChatEnding};
use crate::testing::{TextFiles, text};

fn chat(messages: &[Value]) -> Chat<'_> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    Chat { messages, tools: None, variables: &NONE, ending: ChatEnding::GenerationPrompt }
}

#[test]
fn plain_text_goes_to_ids_and_back() {
    let text = text();
    let ids = text.encode("abc").expect("known characters");
    assert_eq!(ids, vec![2, 3, 4]);
    assert_eq!(text.decode(&ids).expect("known ids"), "abc");
}

// A run asks a new prompt in every group: what is kept of each adds up.
#[cfg(target_os = "linux")]
#[test]
fn prompts_that_never_come_again_are_not_remembered() {
    let resident_bytes = || {
        let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
        4096 * pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number")
    };
    let text = super::Text::load("../models/quickstart".as_ref()).expect("the quickstart's tokenizer");
    let encode = |number: u32| {
        let prompt = format!("{number:0240}");
        assert_eq!(text.encode(&prompt).expect("digits").len(), 240);
    };
    (0..2000).for_each(encode);
    let before = resident_bytes();
    (2000..12_000).for_each(encode);
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 24 << 20, "{grown} bytes for 10000 prompts that are gone");
}

#[test]
fn the_token_that_ends_an_output_is_not_text() {
    let text = text();
    assert_eq!(text.decode(&[2, 3, 0]).expect("known ids"), "ab");
    assert_eq!(text.decode(&[]).expect("nothing is a text too"), "");
}

#[test]
fn streamed_pieces_join_to_the_decoded_text() {
    let text = text();
    let ids = [2, 4, 4, 3, 0];
    let mut stream = text.stream();
    let joined: String = ids.iter().map(|id| stream.push(*id).expect("known ids")).collect();
    assert_eq!(joined, text.decode(&ids).expect("known ids"));
    assert_eq!(joined, "accb");
}

#[test]
fn ends_of_output_come_from_every_file_that_names_one() {
    let files = TextFiles::new();
    assert_eq!(files.load().expect("a tokenizer").eos_ids(), &[0]);
    files.write("config.json", r#"{"eos_token_id": 5}"#);
    assert_eq!(files.load().expect("a tokenizer").eos_ids(), &[0, 5]);
    files.write("generation_config.json", r#"{"eos_token_id": [3, 0]}"#);
    assert_eq!(files.load().expect("a tokenizer").eos_ids(), &[0, 3]);
    // An id below 0 is nobody's, and the other file is not asked where one lists more.
    files.write("generation_config.json", r#"{"eos_token_id": [-1, 3]}"#);
    let text = files.load().expect("a tokenizer");
    assert_eq!(text.eos_ids(), &[0, 3]);
    let notes = text.notes();
    assert!(notes.len() == 1 && notes[0].contains("generation_config.json: eos_token_id -1"), "{notes:?}");
    files.write("generation_config.json", r#"{"eos_token_id": -1}"#);
    assert_eq!(files.load().expect("a tokenizer").eos_ids(), &[0, 5]);
    files.write("generation_config.json", r#"{"eos_token_id": [3, 700]}"#);
    let error = files.load().expect("a tokenizer").for_rows(500).expect_err("700").to_string();
    assert!(error.contains("generation_config.json: eos_token_id 700"), "{error}");
    files.write("generation_config.json", r#"{"eos_token_id": "x"}"#);
    let error = files.load().expect_err("x is no id").to_string();
    assert!(error.contains("generation_config.json: eos_token_id"), "{error}");
}

#[test]
fn a_model_without_an_end_of_output_is_refused() {
    let files = TextFiles::new();
    files.write("tokenizer_config.json", "{}");
    assert!(files.load().expect_err("no end").to_string().contains("eos_token"));
    // transformers adds a token that tokenizer.json lacks; whether it can be drawn is the model's matter.
    files.write("tokenizer_config.json", r#"{"eos_token": {"content": "<none>"}}"#);
    let text = files.load().expect("it is added");
    assert_eq!(text.eos_ids(), &[7]);
    assert!(text.notes()[0].contains("tokens that tokenizer.json lacks: 1 (\"<none>\" is 7)"));
    let error = text.for_rows(7).expect_err("no row").to_string();
    assert!(
        error.contains("tokenizer_config.json: the end of output token \"<none>\" has id 7")
            && error.contains("embedding has 7 rows"),
        "{error}"
    );
}

#[test]
fn a_tokenizer_must_fit_the_vocabulary() {
    let load = || TextFiles::new().load().expect("a tokenizer");
    assert!(load().for_rows(7).expect("ids 0 to 6").notes().is_empty());
    let error = load().for_rows(6).expect_err("id 6 has no row").to_string();
    assert!(error.contains("tokenizer.json: token \"e\" has id 6"), "{error}");
}

#[test]
fn an_added_token_without_a_row_concerns_texts_that_have_it() {
    let files = TextFiles::new();
    files.write("tokenizer_config.json", r#"{"eos_token": "<eos>", "extra_special_tokens": ["<note>"]}"#);
    let text = files.load().expect("a tokenizer").for_rows(7).expect("no end of output");
    assert_eq!(text.encode("ab").expect("known"), [2, 3]);
    let error = text.encode_fragment("a<note>b").expect_err("id 7 of 7").to_string();
    for part in ["tokenizer_config.json: ", "\"<note>\" has id 7", "has 7 rows", "resize"] {
        assert!(error.contains(part), "{error}");
    }
    let notes = text.notes().join("\n");
    assert!(
        notes.contains("without a row in the model's embedding of 7 rows: 1 (\"<note>\" is 7)"),
        "{notes}"
    );
    let roomy = files.load().expect("a tokenizer").for_rows(8).expect("a row for it");
    assert_eq!(roomy.encode("a<note>b").expect("a row for it"), [2, 7, 3]);
}

#[test]
fn broken_files_are_named() {
    let files = TextFiles::new();
    files.write("tokenizer.json", r#"{"version""#);
    assert!(files.load().expect_err("not JSON").to_string().contains("tokenizer.json: not a tokenizer"));
    files.remove("tokenizer.json");
    assert!(files.load().expect_err("absent").to_string().contains("tokenizer.json: "));
}

#[test]
fn chat_messages_are_rendered_as_transformers_does() {
    let files = TextFiles::new();
    let template = concat!(
        "{%- if messages[0]['role'] not in ['system', 'user'] %}{{ raise_exception('bad role') }}{%- endif %}\n",
        "{%- for message in messages %}\n",
        "    {{- '<|im_start|>' + message.role + '\\n' + message.content.strip() + '<|im_end|>\\n' }}\n",
        "{%- endfor %}\n",
        "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n",
    );
    files.write(
        "tokenizer_config.json",
        &json!({"eos_token": "<eos>", "chat_template": template}).to_string(),
    );
    let text = files.load().expect("a template");
    let messages =
        [json!({"role": "system", "content": "Be brief."}), json!({"role": "user", "content": " 1+1 "})];
    assert_eq!(
        text.render_chat(&chat(&messages)).expect("two good messages"),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1<|im_end|>\n<|im_start|>assistant\n"
    );
    let error = text.render_chat(&chat(&[json!({"role": "x", "content": ""})])).expect_err("x is no role");
    assert!(error.to_string().contains("bad role"), "{error}");
}

#[test]
fn a_template_file_and_named_templates_are_read() {
    let files = TextFiles::new();
    let named =
        json!([{"name": "tools", "template": "T"}, {"name": "default", "template": "{{ eos_token }}D"}]);
    files.write("tokenizer_config.json", &json!({"eos_token": "<eos>", "chat_template": named}).to_string());
    assert_eq!(
        files.load().expect("a list").render_chat(&chat(&[json!({"role": "user"})])).expect("constant"),
        "<eos>D"
    );
    files.write("chat_template.jinja", "{{ strftime_now('%d %b %Y') }}|{{ {'a': [1, 2]} | tojson }}");
    let rendered =
        files.load().expect("a file").render_chat(&chat(&[json!({"role": "user"})])).expect("constant");
    assert_eq!(rendered, "26 Jul 2024|{\"a\": [1, 2]}");
    files.write("chat_template.jinja", "{% if %}");
    // Only prompts that need the template are refused.
    let text = files.load().expect("prompts of text need no template");
    let error = text.render_chat(&chat(&[json!({"role": "user"})])).expect_err("no condition").to_string();
    assert!(error.contains("chat_template.jinja: chat template: line 1: "), "{error}");
}

#[test]
fn messages_need_a_template() {
    let error = text().render_chat(&chat(&[json!({"role": "user"})])).expect_err("none is there").to_string();
    assert!(error.contains("tokenizer_config.json: no `chat_template`"), "{error}");
}

#[test]
fn nothing_to_decode_is_no_text_with_any_decoder() {
    let files = TextFiles::new();
    let path = files.path().join("tokenizer.json");
    let mut tokenizer: Value =
        serde_json::from_slice(&std::fs::read(&path).expect("it is there")).expect("JSON");
    tokenizer["decoder"] = json!({"type": "BPEDecoder", "suffix": "</w>"});
    files.write("tokenizer.json", &tokenizer.to_string());
    let text = files.load().expect("a tokenizer");
    assert_eq!(text.decode(&[]).expect("no tokens"), "");
    assert_eq!(text.decode(&[0, 0]).expect("special tokens"), "");
    assert_eq!(text.stream().push(0).expect("a special token"), "");
    assert_eq!(text.decode(&[2, 3]).expect("two tokens"), "ab");
}
