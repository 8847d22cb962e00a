//! Types of the config as they stand in the sources: names, doc comments, serde's attributes, fields and variants.
//!
//! It reads what rustfmt writes and needs no more of Rust: an item begins with its keyword at the start of a line and
//! ends with a brace there, and a field or a variant has a line of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};

/// A struct or an enum with its doc comment.
#[derive(Clone, Debug, Default)]
pub(super) struct Type {
    /// The doc comment, a line a line.
    pub docs: String,
    /// What stands in `#[serde(..)]`.
    pub serde: String,
    /// Fields or variants.
    pub body: Body,
    /// Where it stands, with what it imports and its functions for defaults.
    pub file: Rc<File>,
}

/// A source.
#[derive(Debug, Default)]
pub(super) struct File {
    /// The crate as others name it; the root is `crate`.
    pub home: String,
    /// The whole text.
    pub text: String,
}

impl File {
    /// Whether it imports `name` from the crate `home`.
    fn imports(&self, home: &str, name: &str) -> bool {
        let statements = self.text.split("\nuse ").skip(1).filter_map(|rest| rest.split(';').next());
        statements.filter(|statement| statement.starts_with(home)).any(|statement| {
            statement.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name)
        })
    }
}

/// What a type is made of.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// A struct's fields.
    Fields(Vec<Field>),
    /// An enum's variants.
    Variants(Vec<Variant>),
}

impl Default for Body {
    fn default() -> Self {
        Self::Fields(Vec::new())
    }
}

/// A field of a struct or of a variant.
#[derive(Clone, Debug, Default)]
pub(super) struct Field {
    pub name: String,
    pub docs: String,
    pub serde: String,
    /// The type as it is written.
    pub kind: String,
}

/// A variant of an enum.
#[derive(Clone, Debug, Default)]
pub(super) struct Variant {
    pub name: String,
    pub docs: String,
    /// Whether it has `#[default]`.
    pub is_default: bool,
    /// The type in its brackets.
    pub holds: Option<String>,
    /// The fields in its braces.
    pub fields: Vec<Field>,
}

/// All types that serde reads, by name. Crates may use a name each.
#[derive(Debug, Default)]
pub(super) struct Types {
    by_name: BTreeMap<String, Vec<Type>>,
}

impl Types {
    /// Reads the sources under the folders.
    pub(super) fn read(folders: &[(String, PathBuf)]) -> Result<Self> {
        let mut types = Self::default();
        for (home, folder) in folders {
            types.read_folder(home, folder)?;
        }
        Ok(types)
    }

    fn read_folder(&mut self, home: &str, folder: &Path) -> Result<()> {
        let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        paths.sort();
        for path in paths {
            if path.is_dir() {
                self.read_folder(home, &path)?;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
                self.read_file(home, &text).with_context(|| path.display().to_string())?;
            }
        }
        Ok(())
    }

    /// Reads the types of one source.
    pub(super) fn read_file(&mut self, home: &str, text: &str) -> Result<()> {
        let file = Rc::new(File { home: home.to_owned(), text: text.to_owned() });
        let mut above = Above::default();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if above.takes(line, &mut lines) {
                continue;
            }
            let item =
                ["pub struct ", "pub enum "].iter().find_map(|word| Some((*word, line.strip_prefix(word)?)));
            let Some((word, name)) = item.filter(|(_, rest)| rest.ends_with(" {")) else {
                above = Above::default();
                continue;
            };
            let Above { docs, serde, derives, .. } = std::mem::take(&mut above);
            // What serde neither reads nor writes is no part of a config.
            if !derives.contains("erialize") {
                continue;
            }
            let body = match word {
                "pub struct " => Body::Fields(fields(&mut lines, "}")?),
                _ => Body::Variants(variants(&mut lines)?),
            };
            let types = self.by_name.entry(name.trim_end_matches(" {").to_owned()).or_default();
            types.push(Type { docs, serde, body, file: file.clone() });
        }
        Ok(())
    }

    /// The type that `name` is in a file: of its own, of its crate, or of a crate that it imports it from.
    pub(super) fn get(&self, name: &str, file: &File) -> Option<&Type> {
        let types = self.by_name.get(name)?;
        let of_file = types.iter().find(|found| found.file.text == file.text);
        let of_crate = || types.iter().find(|found| found.file.home == file.home);
        let imported = || types.iter().find(|found| file.imports(&found.file.home, name));
        of_file.or_else(of_crate).or_else(imported)
    }
}

/// What stands above an item: its doc comment and attributes.
#[derive(Debug, Default)]
struct Above {
    docs: String,
    serde: String,
    derives: String,
    is_default: bool,
}

impl Above {
    /// Takes a line that belongs to what is below it.
    fn takes<'a>(&mut self, line: &str, lines: &mut impl Iterator<Item = &'a str>) -> bool {
        let line = line.trim();
        if let Some(doc) = line.strip_prefix("///") {
            self.docs.push_str(doc.trim());
            self.docs.push('\n');
            return true;
        }
        if !line.starts_with("#[") {
            return false;
        }
        let mut attribute = line.to_owned();
        while !attribute.ends_with(")]") && attribute != "#[default]" && attribute != "#[must_use]" {
            let Some(next) = lines.next() else { break };
            attribute.push_str(next.trim());
        }
        if let Some(inside) = attribute.strip_prefix("#[serde(") {
            self.serde.push_str(inside.trim_end_matches(")]"));
            self.serde.push(',');
        }
        if attribute.starts_with("#[derive(") {
            self.derives.push_str(&attribute);
        }
        self.is_default |= attribute == "#[default]";
        true
    }
}

/// The fields up to the closing brace, which stands as far in as the item.
fn fields<'a>(lines: &mut impl Iterator<Item = &'a str>, end: &str) -> Result<Vec<Field>> {
    let mut found = Vec::new();
    let mut above = Above::default();
    while let Some(line) = lines.next() {
        if line.trim_end_matches(',') == end {
            return Ok(found);
        }
        if above.takes(line, lines) || line.trim().is_empty() || line.trim().starts_with("//") {
            continue;
        }
        let written = line.trim().trim_end_matches(',');
        let written = ["pub(crate) ", "pub(super) ", "pub "]
            .iter()
            .find_map(|word| written.strip_prefix(word))
            .unwrap_or(written);
        let Some((name, kind)) = written.split_once(": ") else { bail!("no field: {line}") };
        let Above { docs, serde, .. } = std::mem::take(&mut above);
        found.push(Field { name: name.to_owned(), docs, serde, kind: kind.to_owned() });
    }
    bail!("no end of the fields")
}

/// The variants up to the closing brace of an enum.
fn variants<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Result<Vec<Variant>> {
    let mut found = Vec::new();
    let mut above = Above::default();
    while let Some(line) = lines.next() {
        if line == "}" {
            return Ok(found);
        }
        if above.takes(line, lines) || line.trim().is_empty() || line.trim().starts_with("//") {
            continue;
        }
        let written = line.trim().trim_end_matches(',');
        let Above { docs, is_default, .. } = std::mem::take(&mut above);
        let mut variant = Variant { docs, is_default, ..Variant::default() };
        if let Some((name, inner)) = written.split_once('(') {
            variant.name = name.to_owned();
            variant.holds = Some(inner.trim_end_matches(')').to_owned());
        } else if let Some(name) = written.strip_suffix(" {") {
            variant.name = name.to_owned();
            variant.fields = fields(lines, "    }")?;
        } else {
            variant.name = written.trim_end_matches(" {}").to_owned();
        }
        found.push(variant);
    }
    bail!("no end of the variants")
}

/// The value of `name = "value"` in an attribute, or an empty text where the name stands alone.
pub(super) fn attribute<'a>(serde: &'a str, name: &str) -> Option<&'a str> {
    serde.split(',').map(str::trim).find_map(|part| {
        let rest = part.strip_prefix(name)?;
        match rest.trim_start().strip_prefix('=') {
            Some(value) => Some(value.trim().trim_matches('"')),
            None => rest.is_empty().then_some(""),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
/// What waits.
/// And how long.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Waiting {
    /// For a length.
    #[default]
    LongWhile {
        /// So many
        /// steps.
        #[serde(default = "Waiting::steps")]
        steps: usize,
    },
    /// For another.
    Other(OtherConfig),
    None {},
}

pub struct NotRead {
    pub seed: u64,
}
"#;

    #[test]
    fn types_are_read_with_their_comments_and_attributes() {
        let mut types = Types::default();
        types.read_file("rollout", SOURCE).unwrap();
        let file = File {
            home: "crate".to_owned(),
            text: "//!\nuse a::{\n    B,\n};\nuse rollout::{Other, Waiting};\n".to_owned(),
        };
        assert!(types.get("NotRead", &file).is_none());
        assert!(types.get("Waiting", &File::default()).is_none(), "it is not imported");
        let waiting = types.get("Waiting", &file).unwrap();
        assert_eq!(waiting.docs, "What waits.\nAnd how long.\n");
        assert_eq!(attribute(&waiting.serde, "tag"), Some("kind"));
        let Body::Variants(variants) = &waiting.body else { panic!("{waiting:?}") };
        let names: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
        assert_eq!(names, ["LongWhile", "Other", "None"]);
        assert!(variants[0].is_default && !variants[1].is_default);
        assert_eq!(variants[1].holds.as_deref(), Some("OtherConfig"));
        let steps = &variants[0].fields[0];
        assert_eq!((steps.name.as_str(), steps.kind.as_str()), ("steps", "usize"));
        assert_eq!(steps.docs, "So many\nsteps.\n");
        assert_eq!(attribute(&steps.serde, "default"), Some("Waiting::steps"));
    }
}
