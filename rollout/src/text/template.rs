//! Chat templates: messages as the text that the model was trained to read, token for token as `apply_chat_template` of
//! transformers makes it.
//!
//! Not here: `include`, `import` and `extends`, since a template stands alone.

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, ErrorKind, Output, State};
use serde_json::{Map, Value};

use super::{python, source, values};
use crate::error::RolloutError;

/// Steps and pieces of 64 bytes that one prompt may take: a template that never ends is an error, not a hang.
const FUEL: u64 = 20_000_000;

/// The names that a message's reasoning goes by; templates read the first.
const REASONING_FIELDS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Marks the end of a message that is to be continued in the rendered text, which is cut off there.
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// How the text of a conversation ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChatEnding {
    /// Opened for the assistant's answer: `add_generation_prompt`.
    #[default]
    GenerationPrompt,
    /// Behind its last message.
    Closed,
    /// Inside its last message, which the answer goes on with: `continue_final_message`.
    Continued,
}

/// A conversation on its way to a prompt.
#[derive(Clone, Debug)]
pub struct Chat<'a> {
    /// Objects with `role` and what the template reads beside it.
    pub messages: &'a [Value],
    /// The tools of this conversation, a list of schemas; before those of `variables`.
    pub tools: Option<&'a Value>,
    /// Variables of the template by name, as `enable_thinking`; `tools` and `documents` are among them.
    pub variables: &'a Map<String, Value>,
    /// Where the text ends.
    pub ending: ChatEnding,
}

/// The templates of a model by name; most models have one, `default`.
#[derive(Debug, Default)]
pub(super) struct ChatTemplates(Vec<ChatTemplate>);

/// One template, and what is wrong with it where it does not compile: only prompts that need it are refused.
#[derive(Debug)]
struct ChatTemplate {
    name: String,
    path: PathBuf,
    source: String,
    compiled: Result<Environment<'static>, String>,
}

impl ChatTemplates {
    /// Compiles the templates of a model: name, file and text of each.
    pub(super) fn new(sources: Vec<super::files::TemplateSource>) -> Self {
        let compiled = |source: super::files::TemplateSource| {
            let compiled = environment(&source.text).map_err(|error| described(&error));
            ChatTemplate { name: source.name, path: source.path, source: source.text, compiled }
        };
        Self(sources.into_iter().map(compiled).collect())
    }

    /// The text of a conversation. `special_tokens` are the names that templates know the model's tokens by.
    pub(super) fn render(
        &self,
        chat: &Chat<'_>,
        special_tokens: &Map<String, Value>,
        directory: &Path,
    ) -> Result<String, RolloutError> {
        let tools = chat.tools.or_else(|| chat.variables.get("tools")).filter(|tools| !tools.is_null());
        let template = self.chosen(tools.is_some(), directory)?;
        let refuse =
            |reason: String| RolloutError::content(&template.path, format!("chat template: {reason}"));
        let environment = template.compiled.as_ref().map_err(|reason| refuse(reason.clone()))?;
        let mut messages = normalized(chat.messages).map_err(refuse)?;
        let continued = match chat.ending {
            ChatEnding::Continued => Some(tagged(&mut messages, &template.source).map_err(refuse)?),
            _ => None,
        };
        let mut context: Map<String, Value> = special_tokens.clone();
        context.extend(chat.variables.clone());
        context.insert("messages".to_owned(), Value::Array(messages));
        context.insert("tools".to_owned(), tools.cloned().unwrap_or_default());
        context.entry("documents").or_insert_with(|| Value::Null);
        let prompt = chat.ending == ChatEnding::GenerationPrompt;
        context.insert("add_generation_prompt".to_owned(), Value::Bool(prompt));
        let context = values::value(&Value::Object(context));
        let rendered = environment
            .get_template(TEMPLATE)
            .and_then(|template| template.render(context))
            .map_err(|error| refuse(described(&error)))?;
        match continued {
            Some(words) => cut_at_tag(&rendered, &words).map_err(refuse),
            None => Ok(rendered),
        }
    }

    /// `tool_use` for a prompt with tools, where there is more than one template, else `default`.
    fn chosen(&self, has_tools: bool, directory: &Path) -> Result<&ChatTemplate, RolloutError> {
        let named = |name: &str| self.0.iter().find(|template| template.name == name);
        if let Some(found) = named("tool_use").filter(|_| has_tools).or_else(|| named("default")) {
            return Ok(found);
        }
        let path = directory.join("tokenizer_config.json");
        Err(RolloutError::content(
            &path,
            match self.0.is_empty() {
                true => "no `chat_template`, but a prompt is a list of messages",
                false => "several chat templates, but none of them is named `default`",
            },
        ))
    }
}

const TEMPLATE: &str = "chat_template";

/// The environment that transformers gives a template, with the template in it.
fn environment(text: &str) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(printed);
    environment.set_fuel(Some(FUEL));
    environment.add_function("raise_exception", raise_exception);
    python::add_to(&mut environment);
    environment.add_template_owned(TEMPLATE, source::for_minijinja(text))?;
    Ok(environment)
}

/// Prints as `str` does.
fn printed(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &minijinja::Value,
) -> Result<(), minijinja::Error> {
    match value.kind() {
        ValueKind::Number | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            out.write_str(&python::printed(value)).map_err(minijinja::Error::from)
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// The reason and the line of the template.
fn described(error: &minijinja::Error) -> String {
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("line {line}: {reason}"),
        None => reason,
    }
}

fn raise_exception(message: String) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// Messages as transformers hands them on: keys whose value is null are dropped, since a template takes a key that is
/// there for one that says something, and reasoning goes by the names that templates read.
fn normalized(messages: &[Value]) -> Result<Vec<Value>, String> {
    if messages.is_empty() {
        return Err("a conversation without messages".to_owned());
    }
    let one = |(at, message): (usize, &Value)| {
        let Value::Object(fields) = message else {
            return Err(format!("message {} is not an object", at + 1));
        };
        let kept = fields.iter().filter(|(_, value)| !value.is_null());
        let mut fields: Map<String, Value> = kept.map(|(key, value)| (key.clone(), value.clone())).collect();
        if let Some(reasoning) = REASONING_FIELDS.iter().find_map(|name| fields.get(*name)).cloned() {
            let thinking = fields.get("thinking").cloned().unwrap_or_else(|| reasoning.clone());
            let mut first = Map::from_iter([("thinking".to_owned(), thinking)]);
            first.extend(fields);
            fields = first;
            fields.insert("reasoning_content".to_owned(), reasoning);
        }
        Ok(Value::Object(fields))
    };
    messages.iter().enumerate().map(one).collect()
}

/// Marks the end of the last message's words and gives the words.
fn tagged(messages: &mut [Value], source: &str) -> Result<String, String> {
    if !source.contains("content") {
        return Err("the template does not read `content`, so no message can be continued".to_owned());
    }
    let last = messages.last_mut().and_then(|message| message.get_mut("content"));
    let text = match last {
        Some(Value::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        other => other,
    };
    let Some(Value::String(text)) = text else {
        return Err("the last message has no text to continue".to_owned());
    };
    let words = text.clone();
    text.push_str(CONTINUE_TAG);
    Ok(words)
}

fn cut_at_tag(rendered: &str, words: &str) -> Result<String, String> {
    let tag = rendered.rfind(CONTINUE_TAG.trim_end()).filter(|_| rendered.contains(words.trim()));
    let at =
        tag.ok_or("the template leaves out parts of the last message, which therefore cannot be continued")?;
    // A template that trims the message has taken the tag's space, and the message's own with it.
    let trimmed = !rendered[at..].starts_with(CONTINUE_TAG);
    Ok(if trimmed { rendered[..at].trim_end() } else { &rendered[..at] }.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::TextFiles;

    /// What a template makes of one message and of variables.
    fn rendered(template: &str, variables: Value) -> Result<String, String> {
        let files = TextFiles::new();
        files.write("chat_template.jinja", template);
        let text = files.load().expect("the tokenizer is there");
        let messages = [json!({"role": "user", "content": "hi"})];
        let variables = variables.as_object().expect("an object").clone();
        let chat = Chat {
            messages: &messages,
            tools: None,
            variables: &variables,
            ending: ChatEnding::GenerationPrompt,
        };
        text.render_chat(&chat).map_err(|error| error.to_string())
    }

    // Each right side is what Jinja2 3.1 prints in the environment of transformers 5.24.
    #[test]
    fn expressions_are_those_of_jinja2_and_python() {
        let variables = json!({
            "s": "Hello wörld foo-bar", "d": {"b": 1, "a": [1, "x"], "items": [1]}, "big": 1e20, "f": 1.5,
            "objs": [{"k": 1, "n": "z"}, {"k": 2, "n": "y"}], "no": null, "t": true,
        });
        let cases = [
            ("none is iterable", "False"),
            ("none is sequence", "False"),
            ("'abc' is sequence", "True"),
            ("{} is sequence", "True"),
            ("5 is iterable", "False"),
            ("missing is iterable", "True"),
            ("t is integer", "False"),
            ("t is number", "True"),
            ("'1' is lower", "False"),
            ("d", "{'b': 1, 'a': [1, 'x'], 'items': [1]}"),
            ("d|tojson", r#"{"b": 1, "a": [1, "x"], "items": [1]}"#),
            ("d.items()|list", "[('b', 1), ('a', [1, 'x']), ('items', [1])]"),
            ("d.get('q')", "None"),
            ("d|tojson(separators=(',', ':'))", r#"{"b":1,"a":[1,"x"],"items":[1]}"#),
            ("{'é': '<'}|tojson(ensure_ascii=true)", "{\"\\u00e9\": \"<\"}"),
            ("[1]|tojson(indent=2)", "[\n  1\n]"),
            ("d|tojson(sort_keys=true)|length", "37"),
            ("big", "1e+20"),
            ("'it\\'s <a/>'|e ~ ('b<'|safe|e)", "it&#39;s &lt;a/&gt;b<"),
            ("d ~ ''", "{'b': 1, 'a': [1, 'x'], 'items': [1]}"),
            ("['\u{200b}\u{a0}é\u{1f600}']", "['\\u200b\\xa0é😀']"),
            ("s|truncate(10, true, '', 0)", "Hello wörl"),
            ("[big, f, none, 'it\\'s']", "[1e+20, 1.5, None, \"it's\"]"),
            ("(1,)", "(1,)"),
            ("big|string ~ t ~ no", "1e+20TrueNone"),
            ("s.rsplit('o', 1)", "['Hello wörld fo', '-bar']"),
            ("s.partition('w')", "('Hello ', 'w', 'örld foo-bar')"),
            ("s.removeprefix('He')", "llo wörld foo-bar"),
            ("s.index('w')", "6"),
            ("s.find('q')", "-1"),
            ("s.zfill(21)", "00Hello wörld foo-bar"),
            ("s.center(22, '*')", "*Hello wörld foo-bar**"),
            ("s.title()", "Hello Wörld Foo-Bar"),
            ("s.startswith(('x', 'He'))", "True"),
            ("'a\\nb\\r\\nc\\n'.splitlines()", "['a', 'b', 'c']"),
            ("'%s-%03d' % (f, 7)", "1.5-007"),
            ("'%(a)s' % {'a': 1}", "1"),
            ("'%d%%' % 7", "7%"),
            ("'x'|int", "0"),
            ("'12.7'|int", "12"),
            ("'0x1f'|int(0, 16)", "31"),
            ("'q'|float", "0.0"),
            ("s|wordcount", "4"),
            ("s|title", "Hello Wörld Foo-Bar"),
            ("s|truncate(10)", "Hello..."),
            ("'a\\nb\\n\\nc'|indent(2)", "a\n  b\n\n  c"),
            ("'<b>x</b> y &amp; z'|striptags", "x y & z"),
            ("objs|map(attribute='n')|join(', ')", "z, y"),
            ("s[::-1]", "rab-oof dlröw olleH"),
            ("no|default('x')", "None"),
            ("missing|default('x')", "x"),
            ("no|default(default_value='x', boolean=true) ~ missing|d(1) ~ 0|default(2)", "x10"),
            ("7 // 2 ~ -7 % 3", "32"),
            ("messages[-1].content ~ eos_token", "hi<eos>"),
            ("bos_token is defined", "False"),
            ("documents is none and tools is none", "True"),
            ("strftime_now('%-d %j')", "26 208"),
        ];
        for (expression, expected) in cases {
            let found = rendered(&format!("{{{{ {expression} }}}}"), variables.clone());
            assert_eq!(found.as_deref(), Ok(expected), "{expression}");
        }
    }

    // As above.
    #[test]
    fn widths_and_whole_numbers_are_not_cut() {
        let cases = [
            ("([1]|tojson(indent=80))|length", "85"),
            ("('1'*50)|int", "11111111111111111111111111111111111111111111111111"),
            ("'1e30'|int", "1000000000000000019884624838656"),
            ("[('-' ~ '9'*40)|int]", "[-9999999999999999999999999999999999999999]"),
            ("('1'*50)|int is integer", "True"),
            ("('1'*50)|int|int is number", "True"),
            ("('1'*50)|int|float", "1.1111111111111111e+49"),
            ("'a\tb'.expandtabs(-1)", "ab"),
            ("('x'|center(3000))|length", "3000"),
        ];
        for (expression, expected) in cases {
            let found = rendered(&format!("{{{{ {expression} }}}}"), json!({}));
            assert_eq!(found.as_deref(), Ok(expected), "{expression}");
        }
        for template in [
            "{{ [1]|tojson(indent=2000) }}",
            "{{ 'x'|center(2000000) }}",
            "{{ 'x'.center(2000000) }}",
            "{{ 'x'|indent(2000) }}",
            "{{ 'x'.expandtabs(2000) }}",
        ] {
            let error = rendered(template, json!({})).expect_err(template);
            assert!(error.contains("is more than"), "{template}: {error}");
        }
    }

    #[test]
    fn numbers_of_the_data_keep_their_digits() {
        let digits = "123456789012345678901234567890123456789012345678901";
        let variables: Value =
            serde_json::from_str(&format!("{{\"n\": {digits}, \"f\": 0.1}}")).expect("JSON");
        assert_eq!(
            rendered("{{ n }} {{ [n]|tojson }} {{ f }}", variables),
            Ok(format!("{digits} [{digits}] 0.1"))
        );
    }

    #[test]
    fn statements_are_those_of_jinja2() {
        let cases = [
            ("{% generation %}x{% endgeneration %}y", "xy"),
            (
                "{% macro m(a, b=a, c=b ~ '!') -%}\n {{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}{{ m(1, 2) }}",
                "111!122!",
            ),
            ("{{ +1 - +2 }}{{ [+3][+0] }}", "-13"),
            (
                "{% set n = namespace(x=[]) %}{% set n.x = n.x + [{'a': 1.0}] %}{{ n.x }}{{ n.x|tojson }}{{ n.x.count(1) }}",
                "[{'a': 1.0}][{\"a\": 1.0}]0",
            ),
            ("a {%- generation -%} x {%- endgeneration %} y", "ax y"),
            ("{% set q = 1 %}{% generation %}{% set q = 2 %}{% endgeneration %}{{ q }}", "1"),
            (
                "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}",
                "abab",
            ),
            ("{% for x in [3, 1, 2] %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "32"),
            ("a\r\n{% if true %}\r\nb\r\n{% endif %}\r\n", "a\nb\n"),
        ];
        for (template, expected) in cases {
            assert_eq!(rendered(template, json!({})).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn a_loop_over_none_raises_and_one_over_nothing_is_empty() {
        let looped = |over: &str| {
            rendered(&format!("{{% for x in {over} %}}{{{{ x }}}}{{% else %}}-{{% endfor %}}"), json!({}))
        };
        assert_eq!(looped("missing").as_deref(), Ok("-"));
        assert_eq!(looped("tools or []").as_deref(), Ok("-"));
        assert_eq!(looped("1, 2").as_deref(), Ok("12"));
        assert!(looped("tools").is_err_and(|error| error.contains("'None' cannot be iterated over")));
    }

    #[test]
    fn what_changes_data_raises_and_what_never_ends_is_ended() {
        for template in ["{{ [1].append(2) }}", "{{ d.update({}) }}", "{{ d.pop('a') }}"] {
            rendered(template, json!({"d": {"a": 1}})).expect_err(template);
        }
        let endless =
            "{% for a in range(100000) %}{% for b in range(100000) %}{{ b }}{% endfor %}{% endfor %}";
        let error = rendered(endless, json!({})).expect_err("too many steps");
        assert!(error.contains("chat_template.jinja: chat template: "), "{error}");
        let error = rendered("a\n{{ raise_exception('not so') }}", json!({})).expect_err("it raises");
        assert!(error.ends_with("chat_template.jinja: chat template: line 2: not so"), "{error}");
    }

    #[test]
    fn nulls_are_dropped_and_reasoning_has_its_names() {
        let message = json!({"role": "assistant", "tool_calls": null, "reasoning": "hm", "content": "x"});
        let expected = json!({"thinking": "hm", "role": "assistant", "reasoning": "hm", "content": "x", "reasoning_content": "hm"});
        let found = normalized(&[message]).expect("an object");
        assert_eq!(Value::from(found).to_string(), json!([expected]).to_string());
        assert!(normalized(&[]).is_err() && normalized(&[json!("x")]).is_err());
    }

    #[test]
    fn a_last_message_is_continued() {
        let files = TextFiles::new();
        let text = |template: &str| {
            files.write("chat_template.jinja", template);
            files.load().expect("the tokenizer is there")
        };
        let variables = Map::new();
        let messages =
            [json!({"role": "user", "content": "q"}), json!({"role": "assistant", "content": "so, "})];
        let chat = |ending| Chat { messages: &messages, tools: None, variables: &variables, ending };
        let plain = text(
            "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %}!{% endif %}",
        );
        let render = |text: &crate::text::Text, ending| {
            text.render_chat(&chat(ending)).map_err(|error| error.to_string())
        };
        assert_eq!(render(&plain, ChatEnding::Continued).as_deref(), Ok("<q><so, "));
        assert_eq!(render(&plain, ChatEnding::Closed).as_deref(), Ok("<q><so, >"));
        assert_eq!(render(&plain, ChatEnding::GenerationPrompt).as_deref(), Ok("<q><so, >!"));
        let trimming = text("{% for m in messages %}<{{ m.content|trim }}>{% endfor %}");
        assert_eq!(render(&trimming, ChatEnding::Continued).as_deref(), Ok("<q><so,"));
        let leaving = text("{{ messages[0].content }}");
        assert!(
            render(&leaving, ChatEnding::Continued).is_err_and(|error| error.contains("cannot be continued"))
        );
    }
}
