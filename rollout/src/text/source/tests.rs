//! Templates before and behind the rewriting.

fn for_minijinja(source: &str) -> String {
    super::for_minijinja(source).expect("a template within the limits")
}

#[test]
fn line_ends_become_those_of_jinja() {
    assert_eq!(for_minijinja("a\r\nb\rc\n"), "a\nb\nc\n");
}

#[test]
fn generation_is_a_scope_and_keeps_its_white_space() {
    let source = "{% generation %}x{%- endgeneration -%}{%-  generation+%}";
    assert_eq!(for_minijinja(source), "{% with %}x{%- endwith -%}{%-  with+%}");
    let untouched = "{# {% generation %} #}{{ 'generation' }}{% if generation %}";
    assert_eq!(for_minijinja(untouched), untouched);
    let raw = "{%- raw %}{% generation %}\\n'\n {% endraw -%}";
    assert_eq!(for_minijinja(raw), "{%- with +%}{{ '{% generation %}\\\\n\\'\n' }}{%+ endwith -%}");
}

#[test]
fn a_literal_with_percent_is_formatted() {
    let cases = [
        ("{{ '%s-%d' % (a, 2) }}", "{{ '%s-%d'|percent_format((a, 2)) }}"),
        (
            "{{ \"%s\" % m.role.strip('%')|upper + 'x' }}",
            "{{ \"%s\"|percent_format(m.role.strip('%')|upper) + 'x' }}",
        ),
        ("{% set x = '%s' % y %}", "{% set x = ('%s'|percent_format(y))|kept %}"),
        ("{%- set x = '%s' % d['a'] -%}", "{%- set x = ('%s'|percent_format(d['a']))|kept -%}"),
        ("{{ loop.index0 % 2 == 0 }}{{ '100 %' }}", "{{ loop.index0 % 2 == 0 }}{{ '100 %' }}"),
        ("{% if x == 'a'%}{% endif %}", "{% if x == 'a'%}{% endif %}"),
        ("{{ '%s' % -1 + x }}", "{{ '%s'|percent_format(-1) + x }}"),
        ("{{ '%d' % 2 ** -y.z * 3 }}", "{{ '%d'|percent_format(2 ** -y.z) * 3 }}"),
        ("{{ ( ('%s') ) % a }}", "{{ ( ('%s') )|percent_format(a) }}"),
        ("{{ f('%s') % 2 }}{{ x[('a')] % 3 }}", "{{ f('%s') % 2 }}{{ x[('a')] % 3 }}"),
        ("{{ '%s' % ('%s' % a) }}", "{{ '%s'|percent_format(('%s'|percent_format(a))) }}"),
    ];
    for (source, expected) in cases {
        assert_eq!(for_minijinja(source), expected);
    }
}

#[test]
fn what_is_not_closed_is_left_as_it_is() {
    for source in ["{{ 'a", "{% if", "{# x", "{", "{{ '%s' % ", "{% raw %}x", "{{ '\\", "é{{ 'é' % é }}{"]
    {
        let _ = for_minijinja(source);
    }
    assert_eq!(for_minijinja("{{ 'a"), "{{ 'a");
}

#[test]
fn more_than_can_be_compiled_is_refused_with_its_line() {
    for source in [
        format!("\n{{{{ {}1 }}}}", "-".repeat(100_000)),
        format!("\n{{{{ {}1 }}}}", "not ".repeat(100_000)),
        format!("\n{{{{ '%s' % {}1 }}}}", "2**".repeat(100_000)),
        format!("\n{{{{ {}1 }}}}", "'%s' % (".repeat(100_000)),
        format!("\n{{{{ x{}", "|a".repeat(100_000)),
        format!("\n{{% if x %}}{}", "{% elif x %}".repeat(1000)),
    ] {
        let error = super::for_minijinja(&source).expect_err("too much");
        assert!(error.starts_with("line 2: "), "{error}");
    }
}
