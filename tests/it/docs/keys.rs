//! The page for those who come from other trainers: each key of longhaul that it names is one of the reference.

use std::path::PathBuf;

use crate::documents::Document;

/// Whether the page of the config has a key, and for it the value, if one is given.
fn knows(reference: &str, key: &str, value: Option<&str>) -> bool {
    let of_kind = key.strip_suffix(".kind").is_some_and(|section| {
        let headings = [format!("`[{section}]` with `kind = "), format!("`[[{section}]]` with `kind = ")];
        let whole = |heading: &String| {
            format!("{heading}{}", value.map_or(String::new(), |value| format!("{value}`")))
        };
        headings.iter().any(|heading| reference.contains(&whole(heading)))
    });
    let mut rows = reference.lines().filter(|line| line.starts_with(&format!("| `{key}` |")));
    let word = value.map(|value| format!("`{value}`"));
    of_kind || rows.any(|row| word.as_ref().is_none_or(|word| row.contains(word)))
}

#[test]
fn keys_beside_those_of_other_trainers_are_in_the_reference() {
    let page = Document::read(PathBuf::from("docs/guide/coming-from-trl.md")).text;
    let reference = Document::read(PathBuf::from("docs/reference/config.md")).text;
    let mut seen = 0;
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.contains("| longhaul |")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{row}");
        let names: Vec<&str> = cells[1].split('`').skip(1).step_by(2).collect();
        assert!(names.is_empty() == (cells[1] == "none"), "a row has keys of longhaul or says `none`: {row}");
        for name in names {
            let (key, value) = name.split_once(" = ").map_or((name, None), |(key, value)| (key, Some(value)));
            assert!(knows(&reference, key, value), "there is no {name}: {row}");
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
    assert!(
        !knows(&reference, "rollout.group", None)
            && !knows(&reference, "learner.advantage.kind", Some("\"gae\""))
    );
}
