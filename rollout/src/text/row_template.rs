//! Templates that make a prompt of the fields of a row: Jinja as chat templates have it, but a variable that no field and
//! no `set` gives is an error and not an empty text.

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};
use serde_json::{Map, Value};

use super::template::{described, printed};
use super::{budget, python, source, values};
use crate::guarded::guarded;

/// Fields that an error lists.
const FIELDS_LISTED_MAX: usize = 12;

const NAME: &str = "prompt_template";

/// A template that compiles.
#[derive(Debug)]
pub struct RowTemplate {
    environment: Environment<'static>,
    /// What it looks up, as `question` and `extra.level`.
    variables: Vec<String>,
}

impl RowTemplate {
    /// Compiles a template. Line ends behind blocks and at its end stay as they are written.
    ///
    /// # Errors
    /// The line and the reason, where it does not compile.
    pub fn new(text: &str) -> Result<Self, String> {
        let source = source::for_minijinja(text)?;
        guarded(|| environment(source).map_err(|error| described(&error)))
    }

    /// The prompt of a row.
    ///
    /// # Errors
    /// The line of the template and the reason; where a variable is missing, its name and the fields that there are.
    pub fn render(&self, fields: &Map<String, Value>) -> Result<String, String> {
        let context = fields.iter().map(|(name, field)| (name.clone(), values::value(field)));
        let context = minijinja::Value::from_pairs(context);
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(budget::steps(fields.values())));
        let render = || environment.get_template(NAME).and_then(|template| template.render(context));
        guarded(|| {
            render().map_err(|error| match error.kind() {
                ErrorKind::UndefinedError => self.without_field(&error, fields),
                _ => described(&error),
            })
        })
    }

    fn without_field(&self, error: &minijinja::Error, fields: &Map<String, Value>) -> String {
        let missing = self.variables.iter().filter(|name| !has(fields, name));
        let missing: Vec<String> = missing.map(|name| format!("`{name}`")).collect();
        let listed = fields.keys().take(FIELDS_LISTED_MAX).map(|name| format!("`{name}`"));
        let listed = listed.collect::<Vec<_>>().join(", ");
        let more = if fields.len() > FIELDS_LISTED_MAX { " and others" } else { "" };
        let line = error.line().map_or(String::new(), |line| format!("line {line}: "));
        match missing.is_empty() {
            true => described(error),
            false => format!("{line}the row has no {}; it has {listed}{more}", missing.join(" and no ")),
        }
    }
}

fn environment(source: String) -> Result<RowTemplate, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build()?);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_formatter(printed);
    python::add_to(&mut environment);
    values::add_to(&mut environment);
    environment.add_template_owned(NAME, source)?;
    let known: Vec<String> = environment.globals().map(|(name, _)| name.to_owned()).collect();
    let variables = environment.get_template(NAME)?.undeclared_variables(true);
    let mut variables: Vec<String> =
        variables.into_iter().filter(|name| !known.iter().any(|known| known == name)).collect();
    variables.sort();
    Ok(RowTemplate { environment, variables })
}

/// Whether a path leads to a field. One that goes on behind a text or a list is a method.
fn has(fields: &Map<String, Value>, path: &str) -> bool {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    match (fields.get(first), rest) {
        (None, _) => false,
        (Some(Value::Object(inner)), Some(rest)) => has(inner, rest),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: &str, row: &str) -> Result<String, String> {
        let fields = crate::json::object(row).expect("JSON");
        RowTemplate::new(template)?.render(&fields)
    }

    const ROW: &str =
        r#"{"question": "2+2?\n", "level": 3, "extra": {"unit": "kg"}, "tags": ["a", "b"], "none": null}"#;

    #[test]
    fn all_fields_are_known_and_blanks_stay() {
        for (template, expected) in [
            ("{{ question }}\nThink step by step.\n", "2+2?\n\nThink step by step.\n"),
            ("{{ extra.unit }}{{ extra['unit'] }} {{ level }} {{ tags[1] }}", "kgkg 3 b"),
            ("{% for tag in tags %}{{ tag }}{% if not loop.last %}, {% endif %}{% endfor %}", "a, b"),
            ("{{ question.strip() }} {{ tags | length }} {{ hint | default('no hint') }}", "2+2? 2 no hint"),
            ("{% if hint is defined %}{{ hint }}{% else %}-{% endif %}", "-"),
            ("{% set x = level + 1 %}{{ x }} {{ tags | tojson }} {{ none }}", "4 [\"a\", \"b\"] None"),
            ("<b>{{ question }}", "<b>2+2?\n"),
        ] {
            assert_eq!(rendered(template, ROW).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn a_missing_variable_is_named() {
        for (template, said) in [
            ("a\n{{ qestion }}", "line 2: the row has no `qestion`; it has `question`, `level`, `extra`"),
            ("{{ extra.size }}", "line 1: the row has no `extra.size`; it has"),
            ("{% for x in items_of %}{% endfor %}", "the row has no `items_of`"),
            ("{{ level.foo.bar }}", "line 1: "),
            ("{{ question", "line 1: "),
            ("{% if %}", "line 1: "),
            ("{{ question | nofilter }}", "nofilter is unknown"),
            ("{% include 'a' %}", "line 1"),
            ("{{ 1 // 0 }}", "line 1"),
        ] {
            let error = rendered(template, ROW).expect_err(template);
            assert!(error.contains(said), "{template}: {error}");
        }
    }

    #[test]
    fn a_template_without_end_is_an_error() {
        let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}";
        assert!(rendered(endless, ROW).is_err_and(|error| error.contains("does not end")));
        assert!(RowTemplate::new(&"x".repeat(2 << 20)).is_err());
    }
}
