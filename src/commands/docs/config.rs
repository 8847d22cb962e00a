//! The page of the config: every key with its type, its default and the first sentence of its doc comment.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::cells::{code, first_sentence, head, line, row};
use super::defaults::{of_container, of_field, word};
use super::source::{Body, Field, File, Type, Types, Variant, attribute};

const OPENING: &str = "\
# Config keys

<!-- Written by `longhaul docs`; change the doc comments of the config's types and write it again. -->

`longhaul check CONFIG` prints a config with every default filled in. [The guide](../guide/config.md) says what the sections
are for. A default of `none` means that the key may be absent.
";

/// Keys whose default a command of those that read them refuses, with what the page says instead of it.
const REFUSED_DEFAULTS: [(&str, &str); 1] = [("run.steps", "required by `train`; `0` in `replay`")];

/// The page.
///
/// # Errors
/// If a type of the config is not found in the sources.
pub(super) fn page(types: &Types) -> Result<String> {
    let mut page = Writer { types, text: OPENING.to_owned(), written: BTreeMap::new() };
    for (name, heading) in [("RunConfig", "`train`, `replay`"), ("SftRunConfig", "`sft`")] {
        let _ = write!(page.text, "\n## Sections of {heading}\n");
        page.root(name)?;
    }
    Ok(page.text)
}

struct Writer<'a> {
    types: &'a Types,
    text: String,
    /// The headings of the types whose keys stand above.
    written: BTreeMap<*const Type, String>,
}

/// A section that is to be written: its name in the config and its type.
struct Section<'a> {
    name: String,
    is_list: bool,
    /// Whether a config may lack it.
    is_optional: bool,
    kind: &'a Type,
}

impl Section<'_> {
    fn heading(&self) -> String {
        if self.is_list { format!("[[{}]]", self.name) } else { format!("[{}]", self.name) }
    }
}

impl<'a> Writer<'a> {
    /// A type whose fields are the sections of a config.
    fn root(&mut self, name: &str) -> Result<()> {
        let home = File { home: "crate".to_owned(), text: String::new() };
        let root = self.types.get(name, &home).with_context(|| format!("there is no type {name}"))?;
        let Body::Fields(fields) = &root.body else { return Ok(()) };
        // What serde neither reads nor writes is no section.
        for field in fields.iter().filter(|field| attribute(&field.serde, "skip").is_none()) {
            let section = self.section(&field.name, field, root);
            self.write(
                &section.with_context(|| format!("{name}.{}: {} is not found", field.name, field.kind))?,
            )?;
        }
        Ok(())
    }

    /// The section of a field, if its type has keys of its own.
    fn section(&self, name: &str, field: &Field, owner: &Type) -> Option<Section<'a>> {
        let kind_of = self.types.get(bare(&field.kind), &owner.file)?;
        let has_keys = match &kind_of.body {
            Body::Fields(_) => true,
            // Without a tag it is a value that has one of several types.
            Body::Variants(_) => attribute(&kind_of.serde, "tag").is_some(),
        };
        // Without an `Option` around it, an absent section is the type's `Default`.
        let is_bare = bare(&field.kind) == field.kind;
        let is_optional = is_bare && attribute(&field.serde, "default") == Some("");
        let is_list = field.kind.contains("Vec<");
        has_keys.then(|| Section { name: name.to_owned(), is_list, is_optional, kind: kind_of })
    }

    fn write(&mut self, section: &Section<'a>) -> Result<()> {
        let heading = section.heading();
        let docs = about(&section.kind.docs);
        let _ = write!(self.text, "\n### `{heading}`\n\n{docs}");
        let above = self.written.entry(section.kind).or_insert_with(|| heading.clone());
        if *above != heading || self.text.contains(&format!("\n### `{heading}`\n\n{docs}\n")) {
            let _ = writeln!(self.text, " The keys are those of `{above}` above.");
            return Ok(());
        }
        self.text.push('\n');
        match &section.kind.body {
            Body::Fields(fields) => self.keys(section, fields, section.kind),
            Body::Variants(variants) => {
                let tag = attribute(&section.kind.serde, "tag").unwrap_or("kind");
                self.variants(section, variants, tag)
            }
        }
    }

    fn variants(&mut self, section: &Section<'a>, variants: &'a [Variant], tag: &str) -> Result<()> {
        for variant in variants {
            let kind = word(&variant.name, &section.kind.serde);
            let docs = first_sentence(&variant.docs);
            let _ = write!(self.text, "\n#### `{}` with `{tag} = \"{kind}\"`\n\n{docs}\n", section.heading());
            let held = variant.holds.as_deref();
            if let Some(name) = held {
                let inner = self.types.get(bare(name), &section.kind.file);
                let inner = inner.with_context(|| format!("{}: {name} is not found", section.name))?;
                let Body::Fields(fields) = &inner.body else { continue };
                self.keys(section, fields, inner)?;
            } else if !variant.fields.is_empty() {
                self.keys(section, &variant.fields, section.kind)?;
            }
        }
        Ok(())
    }

    /// A table of keys, then the sections inside.
    fn keys(&mut self, section: &Section<'a>, fields: &'a [Field], owner: &'a Type) -> Result<()> {
        let mut inner = Vec::new();
        let mut flat = None;
        let mut table = String::new();
        for field in fields {
            let name = format!("{}.{}", section.name, field.name);
            match self.section(&name, field, owner) {
                // `kind` of `[[rewards]]` holds the keys of the kind beside its own.
                Some(found) if attribute(&found.kind.serde, "tag") == Some(field.name.as_str()) => {
                    flat = Some(found)
                }
                Some(found) => inner.push(found),
                None => {
                    let refused = REFUSED_DEFAULTS.iter().find(|(key, _)| *key == name);
                    let default = match refused {
                        Some((_, instead)) => (*instead).to_owned(),
                        None => self.default(section, owner, field),
                    };
                    table.push_str(&row(&[
                        &code(&name),
                        &self.kind(field, &owner.file),
                        &default,
                        &self.sentence(field, &owner.file),
                    ]));
                }
            }
        }
        if !table.is_empty() {
            let _ = write!(self.text, "\n{}{table}", head(&["key", "type", "default", "what it is"]));
        }
        if let Some(found) = flat {
            let Body::Variants(variants) = &found.kind.body else { return Ok(()) };
            let same = Section { name: section.name.clone(), kind: found.kind, ..*section };
            self.variants(&same, variants, "kind")?;
        }
        inner.iter().try_for_each(|found| self.write(found))
    }

    /// What a key is worth that is absent, or whose whole section is.
    fn default(&self, section: &Section<'a>, owner: &Type, field: &Field) -> String {
        let default = of_field(self.types, owner, field);
        if default != "required" || !section.is_optional {
            return default;
        }
        match of_container(self.types, owner, field) {
            absent if absent.is_empty() => default,
            absent => format!("{absent} without the section"),
        }
    }

    /// The type of a field in words of TOML.
    fn kind(&self, field: &Field, file: &File) -> String {
        let kind = field.kind.trim_start_matches("Option<");
        if let Some(inner) = kind.strip_prefix("Vec<") {
            let inner = Field { kind: inner.trim_end_matches('>').to_owned(), ..Field::default() };
            return format!("list of {}", self.kind(&inner, file));
        }
        match bare(&field.kind) {
            "bool" => "boolean".to_owned(),
            "f64" | "f32" => "number".to_owned(),
            "usize" | "u64" | "u32" | "u8" | "i64" | "i32" => "integer".to_owned(),
            "String" => "string".to_owned(),
            "PathBuf" => "path".to_owned(),
            "[f64; 2]" => "two numbers".to_owned(),
            name if name.starts_with("BTreeMap<") => "table".to_owned(),
            name => match self.types.get(name, file) {
                Some(Type { body: Body::Variants(variants), serde, .. }) => {
                    let forms = variants.iter().map(|variant| match &variant.holds {
                        Some(kind) => self.kind(&Field { kind: kind.clone(), ..Field::default() }, file),
                        None => format!("`\"{}\"`", word(&variant.name, serde)),
                    });
                    let mut forms: Vec<String> = forms.collect();
                    forms.dedup();
                    forms.join(", ")
                }
                _ => "table".to_owned(),
            },
        }
    }

    /// The first sentence of a key, and those of the words that it can have.
    fn sentence(&self, field: &Field, file: &File) -> String {
        let mut sentence = first_sentence(&field.docs);
        if let Some(Type { body: Body::Variants(variants), serde, .. }) =
            self.types.get(bare(&field.kind), file)
        {
            for variant in variants.iter().filter(|variant| variant.holds.is_none()) {
                let _ = write!(
                    sentence,
                    " `\"{}\"`: {}",
                    word(&variant.name, serde),
                    first_sentence(&variant.docs)
                );
            }
        }
        line(&sentence.replace("\\|", "|"))
    }
}

/// The first sentence about a section, without its name: the heading has it.
fn about(docs: &str) -> String {
    let sentence = first_sentence(docs);
    let named = sentence.strip_prefix("`[").and_then(|rest| rest.split_once("`: "));
    let Some((_, rest)) = named else { return sentence };
    let mut letters = rest.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// A type without what holds it.
fn bare(kind: &str) -> &str {
    ["Option<", "Vec<", "Box<"].iter().fold(kind, |kind, holder| {
        kind.strip_prefix(holder).and_then(|inner| inner.strip_suffix('>')).unwrap_or(kind)
    })
}
