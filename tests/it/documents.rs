//! Documents as text: prose, code blocks, names between backticks, and headings.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::binary::repository;

/// A document by its path from the root, and its text.
pub(crate) struct Document {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Document {
    pub(crate) fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(repository().join(&path)).unwrap();
        Self { path, text }
    }

    /// The text outside of code blocks.
    pub(crate) fn prose(&self) -> String {
        self.text.split("```").step_by(2).collect()
    }

    /// The code blocks in one language.
    pub(crate) fn blocks(&self, language: &str) -> Vec<String> {
        let fenced = self.text.split("```").skip(1).step_by(2);
        fenced.filter_map(|block| block.strip_prefix(&format!("{language}\n"))).map(str::to_owned).collect()
    }

    /// What stands between backticks in the prose.
    pub(crate) fn quoted(&self) -> Vec<String> {
        self.prose().split('`').skip(1).step_by(2).map(|name| name.replace('\n', " ")).collect()
    }

    /// The anchors of its headings, as GitHub makes them.
    pub(crate) fn anchors(&self) -> BTreeSet<String> {
        let prose = self.prose();
        let headings = prose.lines().filter(|line| line.starts_with('#'));
        let anchor = |heading: &str| -> String {
            let text = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = text.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        };
        headings.map(anchor).collect()
    }
}

fn markdown(folder: &str, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(repository().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let relative = path.strip_prefix(repository()).unwrap().to_owned();
        if path.is_dir() && !folder.is_empty() {
            markdown(relative.to_str().unwrap(), paths);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            paths.push(relative);
        }
    }
}

/// All documents: those at the root, under `docs/` and beside the peers' scripts.
pub(crate) fn documents() -> Vec<Document> {
    let mut paths = Vec::new();
    for folder in ["", "docs", "bench/peers"] {
        markdown(folder, &mut paths);
    }
    paths.sort();
    assert!(paths.len() > 20, "{paths:?}");
    paths.into_iter().map(Document::read).collect()
}

/// The documents that a user follows: what they tell him to type must work.
pub(crate) fn guide() -> Vec<Document> {
    let is_guide = |document: &Document| {
        document.path == Path::new("README.md") || document.path.starts_with("docs/guide")
    };
    documents().into_iter().filter(is_guide).collect()
}
