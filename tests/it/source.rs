//! Rust source files as text: where comments, strings and tests lie.

use std::fs;
use std::path::{Path, PathBuf};

use crate::binary::repository;

/// The crates of the workspace but the root.
pub(crate) fn members() -> Vec<String> {
    let manifest: toml::Table = fs::read_to_string(repository().join("Cargo.toml")).unwrap().parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    members.iter().map(|member| member.as_str().unwrap().to_owned()).collect()
}

/// The folders of all crates' sources.
pub(crate) fn source_folders() -> Vec<String> {
    members().iter().map(|member| format!("{member}/src")).chain(["src".to_owned()]).collect()
}

/// A source file.
pub(crate) struct Source {
    /// Its path from the repository on, with `/`.
    pub(crate) name: String,
    /// All of it.
    pub(crate) text: String,
    /// What is not a test: all above the first `#[cfg(test)]` at the beginning of a line that opens a module.
    pub(crate) shipped: Masked,
}

/// A text of Rust whose characters are blanked by kind. Lines stay where they are.
pub(crate) struct Masked {
    /// Without comments and the contents of strings.
    pub(crate) code: String,
    /// Nothing but the contents of strings.
    pub(crate) strings: String,
}

impl Source {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let name = path.strip_prefix(repository()).unwrap().to_string_lossy().replace('\\', "/");
        Self::of(&name, &text)
    }

    pub(crate) fn of(name: &str, text: &str) -> Self {
        let shipped = mask(&text[..end_of_shipped(text, name)]);
        Self { name: name.to_owned(), text: text.to_owned(), shipped }
    }
}

/// Where the tests at the end of a file begin. A file of tests has nothing else.
fn end_of_shipped(text: &str, name: &str) -> usize {
    let is_laws = name.ends_with("/laws.rs") || name.contains("/laws/");
    if is_laws || name.ends_with("tests.rs") || name.ends_with("testing.rs") {
        return 0;
    }
    let test_module = "\n#[cfg(test)]\nmod tests {";
    text.find(test_module).map_or(text.len(), |at| at + 1)
}

/// The sources in a folder of the repository, in the order of their names; none where there is no such folder.
pub(crate) fn sources(folder: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    if repository().join(folder).is_dir() {
        collect(&repository().join(folder), "rs", &mut paths);
    }
    paths.sort();
    paths.iter().map(|path| Source::read(path)).collect()
}

/// Finds the files with an ending in a folder and below it.
pub(crate) fn collect(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, ending, found);
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
}

/// What a character belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    String,
}

/// Splits a text by comments and strings.
pub(crate) fn mask(text: &str) -> Masked {
    let mut masked = Masked { code: String::new(), strings: String::new() };
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (kind, length) = token(rest, first);
        let (token, after) = rest.split_at(length);
        for character in token.chars() {
            let shown = |wanted| if kind == wanted || character == '\n' { character } else { ' ' };
            masked.code.push(shown(Kind::Code));
            masked.strings.push(shown(Kind::String));
        }
        rest = after;
    }
    masked
}

/// The kind and the bytes of what a text begins with.
fn token(text: &str, first: char) -> (Kind, usize) {
    if text.starts_with("//") {
        return (Kind::Comment, text.find('\n').unwrap_or(text.len()));
    }
    if let Some(hashes) = raw_string(text) {
        let end = format!("\"{}", "#".repeat(hashes));
        let begin = 1 + end.len();
        return (Kind::String, text[begin..].find(&end).map_or(text.len(), |at| begin + at + end.len()));
    }
    if first == '"' {
        return (Kind::String, quoted(text, '"'));
    }
    // A lifetime has no second quote after one character.
    let is_character = first == '\''
        && (text[1..].starts_with('\\') || text.chars().nth(2) == Some('\'') && !text[1..].starts_with('\''));
    if is_character {
        return (Kind::Comment, quoted(text, '\''));
    }
    (Kind::Code, first.len_utf8())
}

/// The number of `#` of a raw string that the text begins with.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.strip_prefix('r')?;
    let count = hashes.len() - hashes.trim_start_matches('#').len();
    hashes[count..].starts_with('"').then_some(count)
}

/// The bytes of a literal up to its second quote.
fn quoted(text: &str, quote: char) -> usize {
    let mut characters = text.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        if character == '\\' {
            characters.next();
        } else if character == quote {
            return at + 1;
        }
    }
    text.len()
}

/// A function of a source, with all lines from its signature to its end.
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) lines: usize,
}

/// The functions of masked code.
pub(crate) fn functions(code: &str) -> Vec<Function> {
    let starts = code.match_indices("fn ").map(|(at, _)| at);
    let starts = starts.filter(|at| !code[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
    starts.filter_map(|at| function(&code[at + 3..])).collect()
}

fn function(code: &str) -> Option<Function> {
    let name: String = code.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    if name.is_empty() {
        return None;
    }
    let open = code.find('(')?;
    let close = open + closing(&code[open..], '(', ')')?;
    let body = code[close..].find(['{', ';'])?;
    let end = match code[close + body..].starts_with('{') {
        true => close + body + closing(&code[close + body..], '{', '}')?,
        false => close + body,
    };
    let lines = code[..end].lines().count();
    Some(Function { name, lines })
}

/// Where the bracket closes that the text begins with.
fn closing(code: &str, open: char, close: char) -> Option<usize> {
    let mut depth = 0;
    for (at, character) in code.char_indices() {
        if character == open {
            depth += 1;
        } else if character == close {
            depth -= 1;
            if depth == 0 {
                return Some(at);
            }
        }
    }
    None
}

/// The names of the modules that a file declares, in their order, without those of tests.
pub(crate) fn declared_modules(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in code.lines() {
        // `pub(crate)`, `pub(in crate::engine)`
        let item = match line.strip_prefix("pub(").and_then(|rest| rest.split_once(") ")) {
            Some((_, item)) => item,
            None => line.trim_start_matches("pub "),
        };
        let name = item.strip_prefix("mod ").and_then(|name| name.strip_suffix(';'));
        names.extend(name.filter(|_| !is_test).map(str::to_owned));
        is_test = line.starts_with("#[cfg(") && line.contains("test") || is_test && line.starts_with("#[");
    }
    names
}

/// The lines, counted from 1, on which a tuple of names is taken apart and has its type behind a colon.
pub(crate) fn tuples_taken_apart(code: &str) -> Vec<usize> {
    let opens = code.match_indices('(').map(|(at, _)| at);
    let taken_apart = opens.filter(|at| is_taken_apart(&code[..*at], &code[*at..]));
    taken_apart.map(|at| code[..at].lines().count()).collect()
}

/// Whether the bracket behind `before` holds names and has a type behind it: not the arguments of a call, and not the
/// value behind a name.
fn is_taken_apart(before: &str, bracket: &str) -> bool {
    let Some(close) = closing(bracket, '(', ')') else { return false };
    let behind = bracket[close + 1..].trim_start();
    let is_call = before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '!' | '>' | '#' | '$'));
    let has_type = behind.starts_with(':') && !behind.starts_with("::");
    has_type && !is_call && bracket[..close].contains(',')
}

/// The lines, counted from 1, of functions' parameters that have one name and a tuple, or a reference to one, as their
/// type.
pub(crate) fn tuple_parameters(code: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    for (at, _) in code.match_indices("fn ").filter(|(at, _)| !code[..*at].ends_with(is_word)) {
        let Some(open) = parameters(&code[at + 3..]).map(|open| at + 3 + open) else { continue };
        let Some(close) = closing(&code[open..], '(', ')').map(|close| open + close) else { continue };
        let named = code[open..close].match_indices(':').map(|(colon, _)| open + colon);
        let named = named.filter(|at| code[..*at].ends_with(is_word) && is_tuple(&code[at + 1..close]));
        lines.extend(named.map(|at| code[..at].lines().count()));
    }
    lines
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where the parameters of a function open whose name the text begins with; a bound `Fn(A, B)` of a generic type stands
/// between angle brackets.
fn parameters(code: &str) -> Option<usize> {
    let mut depth = 0;
    let mut before = ' ';
    for (at, character) in code.char_indices() {
        match character {
            '<' => depth += 1,
            '>' if before != '-' => depth -= 1,
            '(' if depth == 0 => return Some(at),
            '{' | ';' => return None,
            _ => {}
        }
        before = character;
    }
    None
}

/// Whether the type that the text begins with is a tuple, by reference or not.
fn is_tuple(code: &str) -> bool {
    let mut code = code.trim_start();
    if let Some(behind) = code.strip_prefix('&') {
        let lifetime = behind.starts_with('\'').then(|| behind.find(' ')).flatten();
        code = behind[lifetime.unwrap_or(0)..].trim_start();
        code = code.strip_prefix("mut ").unwrap_or(code).trim_start();
    }
    code.starts_with('(') && closing(code, '(', ')').is_some_and(|close| has_parts(&code[1..close]))
}

/// Whether a comma stands in the text outside of all brackets, with something behind it.
fn has_parts(code: &str) -> bool {
    let mut depth = 0;
    let comma = code.char_indices().find(|(_, character)| {
        depth += i32::from("([{<".contains(*character)) - i32::from(")]}>".contains(*character));
        *character == ',' && depth == 0
    });
    comma.is_some_and(|(at, _)| !code[at + 1..].trim().is_empty())
}

#[test]
fn parameters_that_are_tuples_are_counted() {
    let cases = [
        ("fn f(a: A, b: (B, C)) -> (D, E) {}", 1),
        ("fn f<F: Fn(A, B) -> C>(a: &mut (A, B), b: &'a [(A, B)], c: Vec<(A, B)>) {}", 1),
        ("fn f(&self, a: &'a (A, [B; 2])); let a: (A, B) = b; struct A { b: (C, D) }", 1),
        ("fn f((a, b): (A, B), c: (A), d: fn(A, B), e: A<B, C>) {}", 0),
        ("fn f(a: &mut [(A, B)], b: impl Fn(A, B) -> (C, D)) {}", 0),
    ];
    for (code, expected) in cases {
        assert_eq!(tuple_parameters(code).len(), expected, "{code}");
    }
}

#[test]
fn comments_strings_and_lifetimes_are_told_apart() {
    let text = "fn a<'a>(x: &'a str) { b('\"', \"// c \\\" }\"); } // fn d()\nlet e = r#\"f \" g\"#;";
    let Masked { code, strings } = mask(text);
    assert!(!code.contains("fn d") && code.contains("let e =") && !code.contains("f \" g"), "{code}");
    assert!(strings.contains("// c \\\" }") && strings.contains("f \" g") && !strings.contains("let"));
    assert_eq!(code.lines().count(), text.lines().count());
    let found = functions(&code);
    assert_eq!((found.len(), found[0].name.as_str(), found[0].lines), (1, "a", 1));
}

#[test]
fn tuples_that_are_taken_apart_are_counted() {
    let cases = [
        ("fn f(a: A, b: (B, C)) -> (D, E) {}", 0),
        ("fn f(&self, (mut a, (b, c)): Triple, d: impl Fn(A, B) -> (C, D)) {}", 1),
        ("let f = |(a, b): &Pair| a; let (c, d): Pair = g((1, 2));", 2),
        ("let (a, b) = f::<(A, B)>(c); match e { (a, b) if g(a, b) => A::B { c: (d, e) }, _ => h }", 0),
        ("impl<T> S<T> where (T, T): Clone {}", 1),
    ];
    for (code, expected) in cases {
        assert_eq!(tuples_taken_apart(code).len(), expected, "{code}");
    }
    assert_eq!(tuples_taken_apart("a\nb\n |(c, d): E|"), [3]);
}
