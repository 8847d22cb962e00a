//! What a key is worth that the config does not give: serde's attributes and the functions that they name, or a line
//! `Default: ` of the field's doc comment where a type reads its entries itself or a value is computed.

use super::cells::line;
use super::source::{Body, Field, File, Type, Types, attribute};

/// The default of a field as the page shows it: a value of TOML, `required`, or words.
pub(super) fn of_field(types: &Types, owner: &Type, field: &Field) -> String {
    if let Some(said) = field.docs.lines().find_map(|line| line.strip_prefix("Default: ")) {
        return line(said.trim_end_matches('.'));
    }
    match attribute(&field.serde, "default") {
        Some("") => of_type(types, &field.kind, &owner.file),
        Some(function) => value_of_function(types, owner, function),
        None if attribute(&owner.serde, "default").is_some() => of_container(types, owner, field),
        None => "required".to_owned(),
    }
}

/// The value of `Default` of a type that is written in a file.
fn of_type(types: &Types, kind: &str, file: &File) -> String {
    match kind {
        "bool" => "`false`".to_owned(),
        "f64" | "f32" => "`0.0`".to_owned(),
        "String" => "`\"\"`".to_owned(),
        "usize" | "u64" | "u32" | "u8" | "i64" | "i32" => "`0`".to_owned(),
        _ if kind.starts_with("Option<") => "none".to_owned(),
        _ if kind.starts_with("Vec<") => "`[]`".to_owned(),
        _ if kind.starts_with("BTreeMap<") => "none".to_owned(),
        _ => match types.get(kind, file) {
            Some(Type { body: Body::Variants(variants), serde, .. }) => {
                let variant = variants.iter().find(|variant| variant.is_default);
                variant.map_or(String::new(), |variant| format!("`\"{}\"`", word(&variant.name, serde)))
            }
            // A section has defaults of its own, key by key.
            Some(_) => String::new(),
            None => "none".to_owned(),
        },
    }
}

/// The value that a type's `Default` gives a field.
pub(super) fn of_container(types: &Types, owner: &Type, field: &Field) -> String {
    let text = &owner.file.text;
    // A file may hold several: the one that names all fields of this type is the one of this type.
    let Body::Fields(fields) = &owner.body else { return String::new() };
    let literals = text.split("impl Default for ").skip(1).filter_map(|rest| rest.split("\n}").next());
    let literal =
        literals.filter(|literal| fields.iter().all(|field| value_in(literal, &field.name).is_some()));
    match literal.last().and_then(|literal| value_in(literal, &field.name)) {
        Some(expression) => shown(types, owner, field, expression),
        None => of_type(types, &field.kind, &owner.file),
    }
}

/// The expression of `name: expression` in a struct literal.
fn value_in<'a>(literal: &'a str, name: &str) -> Option<&'a str> {
    let marked = format!("{name}: ");
    let place = literal
        .match_indices(&marked)
        .map(|(place, _)| place)
        .find(|place| literal[..*place].ends_with([' ', '\n']))?;
    let rest = &literal[place + marked.len()..];
    let mut depth = 0;
    let end = rest.find(|c: char| {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            _ => {}
        }
        depth == 0 && matches!(c, ',' | '}' | '\n')
    });
    Some(rest[..end?].trim())
}

/// What `default = "function"` gives.
fn value_of_function(types: &Types, owner: &Type, function: &str) -> String {
    let name = function.rsplit("::").next().unwrap_or(function);
    let text = &owner.file.text;
    let body = text.split(&format!("fn {name}() -> ")).nth(1).and_then(|rest| rest.split_once("{\n"));
    let expression = body.and_then(|(_, body)| body.split('}').next()).map(str::trim);
    expression.map_or("built in".to_owned(), |expression| shown(types, owner, &Field::default(), expression))
}

/// An expression as a value of TOML, or words where it is none.
fn shown(types: &Types, owner: &Type, field: &Field, expression: &str) -> String {
    let literal =
        [".to_string()", ".to_owned()", ".into()"].iter().find_map(|end| expression.strip_suffix(end));
    let expression = literal.unwrap_or(expression);
    if let Some(raw) = expression.strip_prefix("r\"").and_then(|rest| rest.strip_suffix('"')) {
        return format!("`'{}'`", raw.replace('|', "\\|"));
    }
    let is_plain = expression.parse::<f64>().is_ok() || ["true", "false"].contains(&expression);
    if is_plain || expression.starts_with(['"', '[']) {
        return format!("`{expression}`");
    }
    let digits = expression.replace('_', "");
    if digits.parse::<f64>().is_ok() {
        return format!("`{digits}`");
    }
    match expression {
        "None" => return "none".to_owned(),
        "Vec::new()" => return "`[]`".to_owned(),
        _ => {}
    }
    if let Some(function) = expression.strip_suffix("()").filter(|function| !function.ends_with("default")) {
        return value_of_function(types, owner, function);
    }
    let variant = expression.rsplit_once("::").filter(|(_, name)| name.chars().all(char::is_alphanumeric));
    let serde = types.get(&field.kind, &owner.file).map(|kind| kind.serde.as_str());
    match (variant, serde) {
        (Some((_, name)), Some(serde)) => format!("`\"{}\"`", word(name, serde)),
        _ if expression.ends_with("default()") => of_type(types, &field.kind, &owner.file),
        _ => "built in".to_owned(),
    }
}

/// A variant's word in a config.
pub(super) fn word(variant: &str, serde: &str) -> String {
    let between = match attribute(serde, "rename_all") {
        Some("snake_case") => Some('_'),
        Some("kebab-case") => Some('-'),
        _ => None,
    };
    let mut word = String::new();
    for (index, c) in variant.chars().enumerate() {
        if index > 0 && c.is_uppercase() {
            word.extend(between);
        }
        word.extend(c.to_lowercase());
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
#[derive(Deserialize)]
#[serde(default)]
pub struct Alarms {
    pub steps: u64,
    pub share: f64,
    pub console: Console,
    pub data: Option<PathBuf>,
}

impl Default for Alarms {
    fn default() -> Self {
        Self { steps: 3, share: 0.9, console: Console::Auto, data: None }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Console {
    #[default]
    Auto,
    VeryQuiet,
}

#[derive(Deserialize)]
pub struct Limits {
    pub must: usize,
    #[serde(default = "ten_seconds")]
    pub timeout_ms: u64,
    #[serde(default = "Limits::default_name")]
    pub name: String,
    #[serde(default)]
    pub console: Console,
    #[serde(default = "somewhere::standard")]
    pub prompt: String,
    /// What it is called.
    /// Default: the kind's word.
    pub title: String,
}

fn ten_seconds() -> u64 {
    10_000
}

impl Limits {
    fn default_name() -> String {
        "prompt".to_string()
    }
}
"#;

    #[test]
    fn defaults_are_those_that_serde_takes() {
        let mut types = Types::default();
        types.read_file("rollout", SOURCE).unwrap();
        let file = File { home: "rollout".to_owned(), text: String::new() };
        let all = |name: &str| -> Vec<String> {
            let found = types.get(name, &file).unwrap();
            let Body::Fields(fields) = &found.body else { panic!("{found:?}") };
            fields.iter().map(|field| of_field(&types, found, field)).collect()
        };
        assert_eq!(all("Alarms"), ["`3`", "`0.9`", "`\"auto\"`", "none"]);
        assert_eq!(
            all("Limits"),
            ["required", "`10000`", "`\"prompt\"`", "`\"auto\"`", "built in", "the kind's word"]
        );
        assert_eq!(word("VeryQuiet", "rename_all = \"snake_case\","), "very_quiet");
        assert_eq!(word("F32", "rename_all = \"lowercase\","), "f32");
    }
}
