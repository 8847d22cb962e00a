//! Phrases that a reader has to decode do not stand in documents, help, errors, comments or names.

use std::fs;

use crate::binary::repository;
use crate::source::collect;

/// Phrases that are not used, each with what to write in its place. They are looked for in lower case, over line ends
/// and with `_` read as a space.
const PHRASES: &[(&str, &str)] = &[
    ("be meant", "say that it is invalid"),
    ("reckon", "say what is assumed or counted"),
    ("earlier life", "say `before the restart`"),
    ("last life", "say `before the restart`"),
    ("one life of", "say `one process of`"),
    ("last words", "say `the last line of its standard error`, or that it left an error"),
    ("who works when", "say `schedule`"),
    ("nobody waits for", "say `virtual`, or that it does not block"),
    ("waits for its company", "say that it waits for the other rows of its batch"),
    ("somebody else", "name who: another process, a service, another thread"),
    ("what parts ", "name the difference"),
    ("beginning in common", "say `shared prefix`"),
    ("prefixes in common", "say `shared prefixes`"),
    ("prompt in common", "say `shared prompt`"),
    ("in how many bits", "say `precision`"),
    ("who goes first", "say `scheduling priority`"),
    ("workings of mixed quality", "say `worked solutions`"),
    ("shown workings", "say `pre-trained on worked solutions`"),
    ("likes to check", "say what it does"),
    ("what is not there yet", "say `limitations`"),
    ("is only what came of it", "name the result"),
    ("policy gradient is one", "say under which condition it is unbiased"),
    ("handed on and not woken", "say `work stealing`"),
    ("looks for pieces", "say `steals work`"),
    ("look for pieces", "say `steal work`"),
    ("stay for good", "say `are never deleted`"),
    ("what computes", "say `device`, or what is computed"),
    ("is said to go wrong", "say when an alarm is raised"),
    ("as if nothing had happened", "say from where it continues"),
    ("taken up again", "say `continues` or `is restored`"),
    ("is taken up is", "say `a restored run`"),
    ("handed over", "say `finished`"),
    (" rings when", "say `notified when`"),
    ("run is written down", "say `checkpoints are written`"),
    ("run was written down", "say `the checkpoint was written`"),
    ("talk nonsense", "say `give an invalid reply`"),
    ("talks nonsense", "say `gives an invalid reply`"),
];

/// The words of a text in lower case, joined by one space, without the marks of comments and of line ends; with the
/// line of each byte.
fn words(text: &str) -> (String, Vec<usize>) {
    let (mut joined, mut lines) = (String::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let line = line.to_lowercase().replace('_', " ");
        let line = line.trim().trim_start_matches(['/', '!', '#', '>']).trim_end_matches('\\');
        for word in line.split_whitespace() {
            joined += word;
            joined.push(' ');
        }
        lines.resize(joined.len(), number + 1);
    }
    (joined, lines)
}

/// Where phrases of the list stand in a text.
fn found(name: &str, text: &str) -> Vec<String> {
    let (joined, lines) = words(text);
    let at = |phrase: &str, instead: &str| -> Vec<String> {
        let places = joined.match_indices(phrase);
        places.map(|(at, _)| format!("{name}:{}: `{phrase}`: {instead}", lines[at])).collect()
    };
    PHRASES.iter().flat_map(|(phrase, instead)| at(phrase, instead)).collect()
}

/// All that somebody reads: documents, configs and the whole of every source file, tests too.
fn texts() -> Vec<(String, String)> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(repository()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !["target", "vendor", "results", "models", "runs"].contains(&name.as_str()) {
            for ending in ["md", "rs", "toml", "py"] {
                collect(&path, ending, &mut paths);
            }
        } else if name.ends_with(".md") || name.ends_with(".rs") {
            paths.push(path);
        }
    }
    paths.sort();
    let name = |path: &std::path::Path| path.strip_prefix(repository()).unwrap().display().to_string();
    let texts = paths.iter().filter(|path| !path.ends_with("tidy/words.rs"));
    texts.map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn documents_help_errors_and_comments_use_plain_words() {
    let texts = texts();
    assert!(texts.len() > 300, "only {} files were found", texts.len());
    let found: Vec<String> = texts.iter().flat_map(|(name, text)| found(name, text)).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn phrases_are_found_over_line_ends_and_in_names() {
    let text = "//! A clock that nobody\n//! waits for.\nfn as_if_nothing_had_happened() {}\nlet a = \"be \\\n    meant\";";
    let found = found("a.rs", text);
    let begins = |at: usize, start: &str| assert!(found[at].starts_with(start), "{found:?}");
    assert_eq!(found.len(), 3, "{found:?}");
    begins(0, "a.rs:4: `be meant`");
    begins(1, "a.rs:1: `nobody waits for`");
    begins(2, "a.rs:3: `as if nothing had happened`");
}
