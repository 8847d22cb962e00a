//! The documents name files and tests that exist, so that a rename does not leave them behind.

use std::fs;
use std::path::Path;

use crate::source::{members, source_folders, sources};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What stands between backticks in a document, outside of code blocks.
fn quoted(document: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(document)).unwrap();
    let outside: Vec<&str> = text.split("```").step_by(2).collect();
    outside.iter().flat_map(|part| part.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

#[test]
fn files_in_the_documents_exist() {
    let others = ["src", "tests", "configs", "models", "examples"].map(str::to_owned);
    let folders: Vec<String> = members().into_iter().chain(others).map(|name| name + "/").collect();
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let names = quoted(document);
        assert!(names.len() > 20, "{document}");
        let paths = names.iter().filter(|name| !name.contains(['<', ' ']));
        for path in paths.filter(|name| folders.iter().any(|folder| name.starts_with(folder.as_str()))) {
            assert!(root().join(path).exists(), "{document} names {path}");
        }
    }
}

#[test]
fn tests_in_the_tables_exist() {
    let mut files = Vec::new();
    for folder in source_folders().iter().map(String::as_str).chain(["tests/it"]) {
        files.extend(sources(folder));
    }
    let code: String = files.into_iter().map(|file| file.text).collect();
    let names = [quoted("ARCHITECTURE.md"), quoted("docs/guide/resume.md")].concat();
    // Tests have sentences for names.
    let tests: Vec<&String> =
        names.iter().filter(|name| name.matches('_').count() >= 4 && !name.contains(['.', ' '])).collect();
    assert!(tests.len() >= 20, "{tests:?}");
    for test in tests {
        assert!(code.contains(&format!("fn {test}(")), "a document names the test {test}");
    }
}
