//! Templates against what Jinja2 makes of them in the environment of transformers.

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
    let variables: Value = serde_json::from_str(&format!("{{\"n\": {digits}, \"f\": 0.1}}")).expect("JSON");
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
        ("{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}", "abab"),
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
    let endless = "{% for a in range(100000) %}{% for b in range(100000) %}{{ b }}{% endfor %}{% endfor %}";
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
    let messages = [json!({"role": "user", "content": "q"}), json!({"role": "assistant", "content": "so, "})];
    let chat = |ending| Chat { messages: &messages, tools: None, variables: &variables, ending };
    let plain = text(
        "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %}!{% endif %}",
    );
    let render =
        |text: &crate::text::Text, ending| text.render_chat(&chat(ending)).map_err(|error| error.to_string());
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

/// Templates with loops, generators and blocks, and what Jinja2 prints for them in the environment of transformers.
const LOOPS_IN_JINJA2: &[(&str, &str)] = &[
    (
        "{% for c in 'abc' %}{{ c }}{{ ',' if not loop.last }}{{ loop.revindex }}/{{ loop.length }}{% endfor %}",
        "a,3/3b,2/3c1/3",
    ),
    (
        "{% for c in s|reverse %}{{ c }}{{ loop.last }}{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}",
        "rFalseaFalse",
    ),
    ("{% for c in 'héllo'[1:] %}{{ c }}{{ '|' if not loop.last }}{% endfor %}", "é|l|l|o"),
    ("{% for a, b in ['xy', ('p', 'q')] %}{{ a }}-{{ b }};{% endfor %}", "x-y;p-q;"),
    ("{% set a, b = 'xy' %}{{ a }}{{ b }}{% set (p, q) = 1, 2 %}{{ p + q }}", "xy3"),
    ("{% set g = objs|selectattr('k', 'gt', 5) %}{% if g %}true{% endif %}{{ g|list }}", "true[]"),
    (
        "{% set g = objs|map(attribute='n') %}{{ g|join }}{{ g|join }}{{ g is iterable }}{{ g is sequence }}",
        "zyTrueFalse",
    ),
    ("{% set g = [1, 2, 3]|reverse %}{{ g|first }}{{ g|first }}{{ g|list }}{{ 'abc'|reverse }}", "32[1]cba"),
    ("{% set g = [1, 2, 3]|select('odd') %}{{ g[0] is defined }}{{ 1 in g }}{{ g|list }}", "FalseTrue[3]"),
    (
        "{% for r in range(7)|batch(3) %}{{ r }}{% endfor %}{% for r in range(4)|slice(2) %}{{ r }}{% endfor %}",
        "[0, 1, 2][3, 4, 5][6][0, 1][2, 3]",
    ),
    (
        "{% for k, v in e|items %}{{ k }}={{ v }}{{ loop.last }}{% endfor %}{{ [2, 1, 2]|unique|sort }}",
        "x=1True[1, 2]",
    ),
    (
        "{{ ['1', 'x', '3']|map('int', default=7)|list }}{{ ['a', none]|map('default', 'q', true)|list }}",
        "[1, 7, 3]['a', 'q']",
    ),
    ("{% raw %}\n<tools>\n  {% endraw %}\n{{ messages[0].content }}", "\n<tools>\nhi"),
    (
        "a\n  {% raw -%}\n {{ x }} 'q' \\n {%- endraw %}\nb{% raw %} {% if %}\n{%- endraw -%}\n c",
        "a\n{{ x }} 'q' \\nb {% if %}c",
    ),
    ("x {%- raw %} y {% endraw +%}\nz", "x y \nz"),
    (
        "{{ ' a b  c '.split(none, 1) }}{{ ' a b  c '.rsplit(none, 1) }}{{ ' a '.split(none, 0) }}",
        "['a', 'b  c '][' a b', 'c']['a ']",
    ),
    (
        "{{ '%6s|%-6s|' % ('é', '日本') }}{{ '%s' % -1 }}{{ '%d' % 2 ** 3 }}{{ ('%s') % t }}{{ '%r' % 'a' }}{{ '%d' % 3.9 }}",
        "     é|日本    |-18True'a'3",
    ),
    ("{% with a=1 %}{% with a=2, b=a %}{{ a }}{{ b }}{% endwith %}{% endwith %}", "21"),
    (
        "{{ e|attr('x') is defined }}{{ d.items is defined }}{{ d['items'] }}{{ d.items is mapping }}{% if e.keys %}y{% endif %}{{ d.items()|list|length }}",
        "FalseTrue[1]Falsey3",
    ),
    ("{{ '\\U0001f600' ~ 'a\\\nb' ~ '\\/' ~ '\\x41\\101' }}{{ [undefinedvar] }}", "😀ab\\/AA[Undefined]"),
    (
        "{{ 'ẞıᎠꭰﬁ'.casefold() }}{{ dict([('a', 1)], b=2) }}{{ dict({'q': 1}) }}",
        "ssıᎠᎠfi{'a': 1, 'b': 2}{'q': 1}",
    ),
    (
        "{{ [3, 1, 2]|sort(true) }}{{ ['b', 'A']|sort(false, true) }}{{ {'b': 1, 'A': 2}|dictsort(true) }}{{ {'b': 1, 'a': 2}|dictsort(false, 'value') }}",
        "[3, 2, 1]['A', 'b'][('A', 2), ('b', 1)][('b', 1), ('a', 2)]",
    ),
    (
        "{{ [1, 2]|map('string')|join(',') }}{{ objs|map(attribute='k')|sum }}{{ objs|rejectattr('k', 'equalto', 1)|map(attribute='n')|first }}",
        "1,23y",
    ),
    (
        "{% macro m(x) %}{% for i in x %}{{ i }}{% endfor %}{% endmacro %}{{ m([1, 2]|select) }}{{ m('ab') }}",
        "12ab",
    ),
    (
        "{% set ns = namespace(l=[]) %}{% for m in messages|selectattr('role', 'equalto', 'user') %}{% set ns.l = ns.l + [m.content] %}{% endfor %}{{ ns.l }}",
        "['hi']",
    ),
    (
        "{% for x in [[1, [2]]] recursive %}{% if x is iterable %}[{{ loop(x) }}]{% else %}{{ x }}{% endif %}{% endfor %}",
        "[1[2]]",
    ),
    (
        "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ loop.last }}{% endfor %}{% for a in e %}{{ a }}{% endfor %}",
        "1Truex",
    ),
    (
        "{{ 'a%sb' % ('x' if t else 'y') }}{{ '100%' }}{{ 7 % 4 }}{{ '%s' % s[:2] ~ '!' }}{{ '%.2f' % 2.345 * 2 }}",
        "axb100%3He!2.352.35",
    ),
];

#[test]
fn loops_generators_and_blocks_are_those_of_jinja2() {
    let variables = json!({
        "s": "Hello wörld foo-bar", "d": {"b": 1, "a": [1, "x"], "items": [1]}, "e": {"x": 1},
        "objs": [{"k": 1, "n": "z"}, {"k": 2, "n": "y"}], "no": null, "t": true,
    });
    for &(template, expected) in LOOPS_IN_JINJA2 {
        assert_eq!(rendered(template, variables.clone()).as_deref(), Ok(expected), "{template}");
    }
    // What raises there, or prints an address in memory.
    for template in [
        "{{ objs|selectattr('k', 'equalto', 1)|length }}",
        "{{ (objs|map(attribute='k'))|tojson }}",
        "{{ objs|map(attribute='k')|last }}",
        "{{ d.items }}",
        "{{ objs|map(attribute='k') }}",
        "{{ '\\N{BULLET}' }}",
    ] {
        rendered(template, variables.clone()).expect_err(template);
    }
}
